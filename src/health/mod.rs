//! Which endpoints get no requests, and for how long.
//!
//! Two say so: what requests see of an endpoint (this file, and `outliers`), and its health check (`checks`), where there is
//! one. An endpoint has one state, and one reason: an unwell check, else an ejection, else probation.
//!
//! ```text
//! healthy --a row of failures, or an outlier--> ejected --its time is over--> probation --a success--> healthy
//!                                                  ^                              |
//!                                                  +------- a failure ------------+   (twice as long, up to a limit)
//! ```
//! On probation an endpoint gets one request at a time (`NodeCell::take_probe`), and nothing else: one that may safely be
//! repeated elsewhere, should it fail; where none such comes in `SAFE_ALONE`, whichever is next. A probe whose caller went
//! away is asked for again after `PROBE_AGAIN`, once nothing is in flight. Where the endpoint has a health check, no request
//! is risked: a good answer to that, asked for after the ejection's time, ends the probation, and the next failure of a
//! request ejects it again until one succeeds. A row of failures is broken by any success, so the breaker does not depend
//! on the request rate. After `FORGIVEN_AFTER` without an ejection the next one is a first one again.
//! Time is an argument; nothing here waits.
//!
//! **How many.** Comparing endpoints with each other leaves at most `ejection.most` of a cluster out, or one. Rows of
//! failures are evidence of their own and know no such cap: held in by one, a dead endpoint would go on failing requests.
//! There the table's panic threshold is the cap: below it, all endpoints get requests.

mod checks;
mod outliers;
mod probe;

pub use checks::{Checked, Checks, run as check};
pub use outliers::{Span, outliers};

use crate::balance::{Fault, Health, Unwell, Why};
use crate::config::Ejection;
use crate::links::{NodeCell, NodeKey, Time};
use std::collections::HashMap;
use std::time::Duration;

/// When a probe without a result is asked for again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// How long a probe is for requests alone that may safely be repeated.
const SAFE_ALONE: Duration = Duration::from_secs(1);
/// After so long without an ejection an endpoint's record is clean.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Ejected { until: Time },
    Probation { since: Time, failures: u32, by: Probe },
}

/// Who finds out whether an endpoint on probation is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// A request that may safely be repeated.
    Safe,
    /// Any request.
    Any,
    /// Its health check, of which so many answers were good before.
    Check(u64),
}

#[derive(Debug, Clone, Copy)]
struct Record {
    state: State,
    fault: Fault,
    ejections: u32,
    last_ejection: Time,
}

/// The states of all endpoints, by instance: an instance in two clusters fails in both.
#[derive(Debug, Clone, Default)]
pub struct Ejector {
    records: HashMap<NodeKey, Record>,
    /// Ejections since the beginning, by the kind of fault.
    counts: [u64; Fault::KINDS.len()],
}

/// What an endpoint's state is, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Its state.
    pub health: Health,
    /// Why it was ejected, where it is ejected or on probation.
    pub fault: Fault,
    /// Why it is not well, where its health check says so.
    pub unwell: Option<Unwell>,
    /// How long its ejection still lasts.
    pub remaining: Duration,
    /// It is on probation until its health check is answered well, and no request is risked.
    pub asked: bool,
}

impl Verdict {
    /// Why it is in its state.
    #[must_use]
    pub fn why(&self) -> Why {
        match self.health {
            Health::Healthy => Why::Said("it is well"),
            Health::Drained => Why::Said("its configured weight is 0"),
            Health::Ejected => Why::Ejected { left_s: self.remaining.as_secs_f32(), fault: self.fault },
            Health::Probation => Why::Probation { fault: self.fault, asked: self.asked },
            Health::Unhealthy => Why::Unhealthy(self.unwell.unwrap_or(Unwell::Unchecked)),
        }
    }
}

impl Ejector {
    /// Looks at an endpoint, which has a health check where something is `checked`, and moves its state on.
    pub fn check(&mut self, node: &NodeCell, rules: &Ejection, checked: Option<Checked>, now: Time) -> Verdict {
        let failures = node.failures_in_a_row();
        let unwell = checked.and_then(|c| c.unwell);
        let verdict = |health, fault, remaining| {
            let health = if unwell.is_some() { Health::Unhealthy } else { health };
            Verdict { health, fault, unwell, remaining, asked: checked.is_some() }
        };
        let rowed = rules.consecutive_failures > 0 && failures >= rules.consecutive_failures;
        // Who never failed often enough has no record: mostly nobody does, and a tick asks for all.
        let Some(record) = self.records.get_mut(&node.key) else {
            let fault = Fault::InARow(failures);
            if rowed {
                self.eject(node, fault, rules, now);
                let remaining = rules.first.0.min(rules.longest.0);
                return verdict(Health::Ejected, fault, remaining);
            }
            return verdict(Health::Healthy, fault, Duration::ZERO);
        };
        let mut again = None;
        match record.state {
            State::Healthy if rowed => again = Some(Fault::InARow(failures)),
            // Somebody answered meanwhile (all were ejected, say): its row is over, and with it the reason.
            State::Ejected { until } if now >= until && failures == 0 && matches!(record.fault, Fault::InARow(_)) => {
                record.state = State::Healthy;
            }
            State::Ejected { until } if now >= until => {
                // Only a success can end the row, so there must be one.
                let failures = if failures == 0 { node.failed() } else { failures };
                record.state = State::Probation { since: now, failures, by: Probe::offered(node, checked) };
            }
            State::Probation { .. } if failures == 0 => record.state = State::Healthy,
            State::Probation { failures: then, .. } if failures > then => {
                again = Some(match record.fault {
                    Fault::InARow(_) => Fault::InARow(failures),
                    fault => fault,
                });
            }
            State::Probation { by: Probe::Check(good), .. }
                if checked.is_some_and(|c| c.unwell.is_none() && c.counts.0 > good) =>
            {
                node.forgive(rules.consecutive_failures.saturating_sub(1));
                record.state = State::Healthy;
            }
            State::Probation { since, failures: then, by } => {
                let unasked = matches!(by, Probe::Check(_)) && checked.is_none();
                if unasked || now.since(since) >= PROBE_AGAIN && node.in_flight() == 0 {
                    let by = match by {
                        Probe::Check(_) if !unasked => by,
                        _ => Probe::offered(node, checked),
                    };
                    record.state = State::Probation { since: now, failures: then, by };
                } else if by == Probe::Safe && now.since(since) >= SAFE_ALONE {
                    node.widen_probe();
                    record.state = State::Probation { since, failures: then, by: Probe::Any };
                }
            }
            State::Healthy | State::Ejected { .. } => {}
        }
        if let Some(fault) = again {
            record.eject(fault, rules, now);
            count(&mut self.counts, fault);
        }
        match record.state {
            State::Healthy => verdict(Health::Healthy, record.fault, Duration::ZERO),
            State::Ejected { until } => verdict(Health::Ejected, record.fault, until.since(now)),
            State::Probation { .. } => verdict(Health::Probation, record.fault, Duration::ZERO),
        }
    }

    /// Leaves an endpoint alone that gets requests now.
    pub fn eject(&mut self, node: &NodeCell, fault: Fault, rules: &Ejection, now: Time) {
        let fresh = Record { state: State::Healthy, fault, ejections: 0, last_ejection: now };
        let record = self.records.entry(node.key.clone()).or_insert(fresh);
        if record.state == State::Healthy {
            record.eject(fault, rules, now);
            count(&mut self.counts, fault);
        }
    }

    /// When the next ejection ends: a tick is due then.
    #[must_use]
    pub fn next_change(&self) -> Option<Time> {
        let until = |r: &Record| match r.state {
            State::Ejected { until } => Some(until),
            State::Probation { since, by: Probe::Safe, .. } => Some(since + SAFE_ALONE),
            State::Probation { since, .. } => Some(since + PROBE_AGAIN),
            State::Healthy => None,
        };
        self.records.values().filter_map(until).min()
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, keep: impl Fn(&NodeKey) -> bool) {
        self.records.retain(|key, _| keep(key));
    }

    /// Ejections since the beginning, by `Fault::KINDS`.
    #[must_use]
    pub fn counts(&self) -> [u64; Fault::KINDS.len()] {
        self.counts
    }
}

fn count(counts: &mut [u64; Fault::KINDS.len()], fault: Fault) {
    counts.get_mut(fault.index()).into_iter().for_each(|n| *n += 1);
}

impl Probe {
    /// The endpoint's health check where it has one, or a request, which is offered.
    fn offered(node: &NodeCell, checked: Option<Checked>) -> Self {
        match checked {
            Some(checked) => Self::Check(checked.counts.0),
            None => {
                node.offer_probe();
                Self::Safe
            }
        }
    }
}

impl Record {
    fn eject(&mut self, fault: Fault, rules: &Ejection, now: Time) {
        if now.since(self.last_ejection) >= FORGIVEN_AFTER {
            self.ejections = 0;
        }
        let doubled = rules.first.0.saturating_mul(2u32.saturating_pow(self.ejections.min(16)));
        self.state = State::Ejected { until: now + doubled.min(rules.longest.0) };
        self.fault = fault;
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

    /// What a health check says.
    #[derive(Default)]
    struct Answers(Checks);

    impl Answers {
        fn say(&mut self, answer: Result<(), Unwell>) -> Option<Checked> {
            let key = NodeKey::new("10.0.0.1:80");
            self.0.told(&key, answer, &crate::config::HealthCheck::default());
            Some(self.0.of(&key))
        }
    }

    fn fail(node: &NodeCell, times: u32) {
        (0..times).for_each(|_| {
            node.failed();
        });
    }

    fn health(ejector: &mut Ejector, node: &NodeCell, second: u64) -> Health {
        ejector.check(node, &Ejection::default(), None, Time(second * SECOND)).health
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
        assert!(!node.take_probe(true), "not while healthy");
        assert_eq!(health(&mut ejector, &node, 0), Health::Ejected);
        assert_eq!(health(&mut ejector, &node, 4), Health::Ejected);
        assert!(!node.take_probe(true));
        assert_eq!(health(&mut ejector, &node, 5), Health::Probation);
        assert!(node.take_probe(true) && !node.take_probe(true), "one and no more");
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
            let verdict = ejector.check(&node, &Ejection::default(), None, Time(now * SECOND));
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
        assert!(node.take_probe(true));
        assert_eq!(health(&mut ejector, &node, 6), Health::Probation);
        assert!(!node.take_probe(true) && !node.take_probe(false), "it was taken");
        assert_eq!(ejector.next_change(), Some(Time(10 * SECOND)));
        assert_eq!(health(&mut ejector, &node, 10), Health::Probation);
        assert!(node.take_probe(true));
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
        assert_eq!(ejector.check(&node, &never, None, Time(0)).health, Health::Healthy);
    }

    #[test]
    fn an_outlier_is_left_alone_and_returns_by_a_single_probe_too() {
        let (mut ejector, node) = (Ejector::default(), node());
        let fault = Fault::SuccessRate(0.5, 1.0);
        ejector.eject(&node, fault, &Ejection::default(), Time(0));
        ejector.eject(&node, fault, &Ejection::default(), Time(0));
        let verdict = ejector.check(&node, &Ejection::default(), None, Time(0));
        assert_eq!((verdict.health, verdict.fault, verdict.remaining.as_secs()), (Health::Ejected, fault, 5));
        // What was under way still succeeds, which is no reason to return early.
        node.succeeded();
        assert_eq!(health(&mut ejector, &node, 5), Health::Probation);
        assert_eq!(health(&mut ejector, &node, 6), Health::Probation, "nobody has asked it yet");
        assert!(node.take_probe(true));
        node.failed();
        let verdict = ejector.check(&node, &Ejection::default(), None, Time(7 * SECOND));
        assert_eq!((verdict.health, verdict.fault, verdict.remaining.as_secs()), (Health::Ejected, fault, 10));
        assert_eq!(health(&mut ejector, &node, 17), Health::Probation);
        node.succeeded();
        assert_eq!((health(&mut ejector, &node, 18), ejector.counts()), (Health::Healthy, [0, 2, 0]));
    }

    #[test]
    fn whoever_says_no_prevails_and_there_is_one_reason() {
        let (mut ejector, node, mut answers) = (Ejector::default(), node(), Answers::default());
        let rules = Ejection::default();
        let unwell = answers.say(Err(Unwell::NotServing));
        let verdict = ejector.check(&node, &rules, unwell, Time(0));
        assert_eq!((verdict.health, verdict.unwell), (Health::Unhealthy, Some(Unwell::NotServing)));
        fail(&node, 3);
        assert_eq!(ejector.check(&node, &rules, unwell, Time(0)).health, Health::Unhealthy);
        let _ = answers.say(Ok(()));
        let well = answers.say(Ok(()));
        assert_eq!(ejector.check(&node, &rules, well, Time(SECOND)).health, Health::Ejected, "its time runs on");
        assert_eq!(ejector.check(&node, &rules, well, Time(6 * SECOND)).health, Health::Probation);
    }

    #[test]
    fn a_probe_is_any_request_where_none_came_that_is_safe_to_repeat() {
        let (mut ejector, node) = (Ejector::default(), node());
        fail(&node, 3);
        let _ = (health(&mut ejector, &node, 0), health(&mut ejector, &node, 5));
        assert!(!node.take_probe(false), "it is kept for one that is safe to repeat");
        assert_eq!(ejector.next_change(), Some(Time(6 * SECOND)));
        assert_eq!(health(&mut ejector, &node, 6), Health::Probation);
        assert_eq!(ejector.next_change(), Some(Time(10 * SECOND)));
        assert!(node.take_probe(false) && !node.take_probe(true), "one and no more");
        // Nothing came of it: the next one is first kept for one that is safe again.
        assert_eq!(health(&mut ejector, &node, 10), Health::Probation);
        assert!(!node.take_probe(false) && node.take_probe(true));
    }

    #[test]
    fn a_health_check_ends_a_probation_and_no_request_is_risked() {
        let (mut ejector, node, mut answers) = (Ejector::default(), node(), Answers::default());
        let rules = Ejection::default();
        let mut health = |checked, second: u64| {
            let verdict = ejector.check(&node, &rules, checked, Time(second * SECOND));
            (verdict.health, verdict.remaining.as_secs())
        };
        let before = answers.say(Ok(()));
        fail(&node, 3);
        assert_eq!(health(before, 0), (Health::Ejected, 5));
        let meanwhile = answers.say(Ok(()));
        assert_eq!(
            health(meanwhile, 5),
            (Health::Probation, 0),
            "what it said before its time was over is no word on now"
        );
        assert_eq!(health(meanwhile, 30), (Health::Probation, 0));
        assert!(!node.take_probe(true) && !node.take_probe(false));
        let after = answers.say(Ok(()));
        assert_eq!(health(after, 31), (Health::Healthy, 0));
        // The first failure of a request ejects it again, for longer.
        fail(&node, 1);
        assert_eq!(health(after, 32), (Health::Ejected, 10));
        assert_eq!(health(after, 42), (Health::Probation, 0));
        assert_eq!(health(answers.say(Ok(())), 43), (Health::Healthy, 0));
        node.succeeded();
        fail(&node, 2);
        assert_eq!(health(answers.say(Ok(())), 44), (Health::Healthy, 0), "a request succeeded meanwhile");
        // A check that is taken away leaves the question to requests.
        fail(&node, 1);
        assert_eq!(health(after, 45), (Health::Ejected, 20));
        assert_eq!(health(after, 65), (Health::Probation, 0));
        assert_eq!(health(None, 66), (Health::Probation, 0));
        assert!(node.take_probe(true));
    }
}
