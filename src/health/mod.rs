//! Which endpoints are left alone because they failed, and for how long.
//!
//! ```text
//! healthy --failures in a row reach the limit--> ejected --its time is over--> probation --a success--> healthy
//!                                                   ^                              |
//!                                                   +------- a failure ------------+   (twice as long, up to a limit)
//! ```
//! On probation an endpoint gets one request at a time (`NodeCell::take_probe`), and nothing else. A probe whose
//! caller went away is asked for again after `PROBE_AGAIN`, once nothing is in flight. A row of failures is broken by any success, so the breaker
//! does not depend on the request rate. After `FORGIVEN_AFTER` without an ejection the next one is a first one again.
//! Time is an argument; nothing here waits. Panic (too few healthy endpoints) is the table's business, not this one's.

use crate::balance::Health;
use crate::config::Ejection;
use crate::links::{NodeCell, NodeKey, Time};
use std::collections::HashMap;
use std::time::Duration;

/// When a probe without a result is asked for again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// After so long without an ejection an endpoint's record is clean.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Ejected { until: Time },
    Probation { since: Time, failures: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Record {
    state: State,
    ejections: u32,
    last_ejection: Time,
}

/// The states of all endpoints, by instance: an instance in two clusters fails in both.
#[derive(Debug, Clone, Default)]
pub struct Ejector {
    records: HashMap<NodeKey, Record>,
}

/// What an endpoint's state is, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Its state.
    pub health: Health,
    /// How many failures in a row it has.
    pub failures: u32,
    /// How long its ejection still lasts.
    pub remaining: Duration,
    /// Whether this changed just now.
    pub changed: bool,
}

impl Ejector {
    /// Looks at an endpoint and moves its state on.
    pub fn check(&mut self, node: &NodeCell, rules: &Ejection, now: Time) -> Verdict {
        let failures = node.failures_in_a_row();
        let verdict = |health, remaining, changed| Verdict { health, failures, remaining, changed };
        if rules.consecutive_failures == 0 {
            self.records.remove(&node.key);
            return verdict(Health::Healthy, Duration::ZERO, false);
        }
        // Who never failed often enough has no record: mostly nobody does, and a tick asks for all.
        if failures < rules.consecutive_failures && !self.records.contains_key(&node.key) {
            return verdict(Health::Healthy, Duration::ZERO, false);
        }
        let fresh = Record { state: State::Healthy, ejections: 0, last_ejection: now };
        let record = self.records.entry(node.key.clone()).or_insert(fresh);
        let before = record.state;
        match record.state {
            State::Healthy if failures >= rules.consecutive_failures => record.eject(rules, now),
            State::Ejected { until } if now >= until => {
                record.state = State::Probation { since: now, failures };
                node.offer_probe();
            }
            State::Probation { .. } if failures == 0 => record.state = State::Healthy,
            State::Probation { failures: then, .. } if failures > then => record.eject(rules, now),
            State::Probation { since, failures: then } if now.since(since) >= PROBE_AGAIN && node.in_flight() == 0 => {
                record.state = State::Probation { since: now, failures: then };
                node.offer_probe();
            }
            State::Healthy | State::Ejected { .. } | State::Probation { .. } => {}
        }
        let changed = std::mem::discriminant(&before) != std::mem::discriminant(&record.state);
        match record.state {
            State::Healthy => verdict(Health::Healthy, Duration::ZERO, changed),
            State::Ejected { until } => verdict(Health::Ejected, until.since(now), changed),
            State::Probation { .. } => verdict(Health::Probation, Duration::ZERO, changed),
        }
    }

    /// When the next ejection ends: a tick is due then.
    #[must_use]
    pub fn next_change(&self) -> Option<Time> {
        let until = |r: &Record| match r.state {
            State::Ejected { until } => Some(until),
            State::Probation { since, .. } => Some(since + PROBE_AGAIN),
            State::Healthy => None,
        };
        self.records.values().filter_map(until).min()
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, keep: impl Fn(&NodeKey) -> bool) {
        self.records.retain(|key, _| keep(key));
    }
}

impl Record {
    fn eject(&mut self, rules: &Ejection, now: Time) {
        if now.since(self.last_ejection) >= FORGIVEN_AFTER {
            self.ejections = 0;
        }
        let doubled = rules.first.0.saturating_mul(2u32.saturating_pow(self.ejections.min(16)));
        self.state = State::Ejected { until: now + doubled.min(rules.longest.0) };
        self.ejections = self.ejections.saturating_add(1);
        self.last_ejection = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Links;
    use std::sync::Arc;

    const SECOND: u64 = 1_000_000_000;

    fn node() -> Arc<NodeCell> {
        Links::new(1).node(&NodeKey::new("10.0.0.1:80"), Time(0))
    }

    fn fail(node: &NodeCell, times: u32) {
        (0..times).for_each(|_| {
            node.failed();
        });
    }

    fn health(ejector: &mut Ejector, node: &NodeCell, second: u64) -> Health {
        ejector.check(node, &Ejection::default(), Time(second * SECOND)).health
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_breaks_the_row() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 2);
        assert_eq!(health(&mut ejector, &node, 1), Health::Healthy);
        node.succeeded();
        fail(&node, 2);
        assert_eq!(health(&mut ejector, &node, 2), Health::Healthy);
        fail(&node, 1);
        assert_eq!(health(&mut ejector, &node, 3), Health::Ejected);
    }

    #[test]
    fn probation_admits_a_single_probe() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 3);
        assert!(!node.take_probe(), "not while healthy");
        assert_eq!(health(&mut ejector, &node, 0), Health::Ejected);
        assert_eq!(health(&mut ejector, &node, 4), Health::Ejected);
        assert!(!node.take_probe());
        assert_eq!(health(&mut ejector, &node, 5), Health::Probation);
        assert!(node.take_probe() && !node.take_probe(), "one and no more");
        assert_eq!(health(&mut ejector, &node, 6), Health::Probation);
        node.succeeded();
        assert_eq!(health(&mut ejector, &node, 7), Health::Healthy);
    }

    #[test]
    fn a_failed_probe_ejects_for_twice_as_long_up_to_a_limit() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 3);
        let (mut now, mut lengths) = (0, Vec::new());
        for _ in 0..6 {
            let verdict = ejector.check(&node, &Ejection::default(), Time(now * SECOND));
            assert_eq!(verdict.health, Health::Ejected);
            lengths.push(verdict.remaining.as_secs());
            now += verdict.remaining.as_secs();
            assert_eq!(health(&mut ejector, &node, now), Health::Probation);
            fail(&node, 1);
        }
        assert_eq!(lengths, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn a_probe_that_nobody_finished_is_offered_again() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 3);
        let _ = (health(&mut ejector, &node, 0), health(&mut ejector, &node, 5));
        assert!(node.take_probe());
        assert_eq!(ejector.next_change(), Some(Time(10 * SECOND)));
        assert_eq!(health(&mut ejector, &node, 10), Health::Probation);
        assert!(node.take_probe());
    }

    #[test]
    fn a_long_idle_gap_wedges_nothing_and_zero_never_ejects() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 3);
        let _ = health(&mut ejector, &node, 0);
        assert_eq!(health(&mut ejector, &node, 1_000_000), Health::Probation);
        node.succeeded();
        assert_eq!(health(&mut ejector, &node, 1_000_001), Health::Healthy);
        fail(&node, 100);
        let never = Ejection { consecutive_failures: 0, ..Ejection::default() };
        assert_eq!(ejector.check(&node, &never, Time(0)).health, Health::Healthy);
    }
}
