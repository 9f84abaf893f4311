//! When a cluster's requests are hedged (`clusters.*.hedging`), and the budget that this has of its own.
//!
//! With `after: auto` a second endpoint is asked after as long as 95 of 100 tries took of late, by the sketches of the
//! cluster's links. A first try that was outrun by its hedge has no latency: it was cancelled, and all that is known is that
//! it took longer than that. Without it the slowest tries would be missing among those that were measured, 95 of 100
//! would seem to take less, more requests would be hedged, and so on. So each counts as longer than all that was
//! measured (the product-limit estimate of Kaplan and Meier, 1958, where all that is censored is censored at the end):
//!
//! ```text
//! after = the latency that 0.95 x (measured + outrun) tries stay within
//! ```
//! It is looked at once a tick, faded as the links' statistics are, and requests read the one number in their generation.

use super::desired::DesiredCluster;
use super::roster::Group;
use crate::balance::{Budget, Hedging};
use crate::config::HedgeAfter;
use crate::links::{Links, MEMORY_S, Sketch, Time};
use crate::observe::Hedged;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// So many tries of 100 end before a hedge is due.
const QUANTILE: f64 = 0.95;
/// Fewer tries than this say nothing of the slowest of them.
const MIN_TRIES: f64 = 50.0;
/// Sooner than this nobody is asked as well: what is so fast is not slow, whatever the others are.
const LEAST: Duration = Duration::from_millis(1);

/// What is known of the clusters whose requests are hedged.
#[derive(Debug, Default)]
pub struct Hedges {
    cores: usize,
    all: HashMap<Arc<str>, Known>,
    /// Kept for its memory.
    sketch: Sketch,
}

#[derive(Debug)]
struct Known {
    budget: Arc<Budget>,
    after: Option<Duration>,
    outrun: Outrun,
}

/// Tries that were outrun by their hedge, faded.
#[derive(Debug, Default)]
struct Outrun {
    faded: f64,
    /// How many there were at the last look, and when that was.
    counted: u64,
    looked_at: Time,
}

impl Outrun {
    /// Takes in that there were so many since the beginning; how many of late.
    fn look(&mut self, all: u64, now: Time) -> f64 {
        let keep = (-now.seconds_since(self.looked_at) / MEMORY_S).exp();
        self.faded = self.faded * f64::from(keep) + all.saturating_sub(self.counted) as f64;
        (self.counted, self.looked_at) = (all, now);
        self.faded
    }
}

impl Hedges {
    /// Nothing is known yet, of a proxy with so many serving threads.
    pub fn new(cores: usize) -> Self {
        Self { cores, ..Self::default() }
    }

    /// How a cluster's requests are hedged, by its configuration of now; none where they are not.
    pub fn of(&mut self, cluster: &DesiredCluster, now: Time) -> Option<Hedging> {
        let config = &cluster.config.hedging;
        let known = self.known(cluster, now)?;
        known.budget.renew(config.share, now);
        let after = match config.after {
            HedgeAfter::Off => return None,
            HedgeAfter::Auto => known.after,
            HedgeAfter::Set(after) => Some(after.0),
        };
        Some(Hedging { after, share: config.share, budget: known.budget.clone() })
    }

    fn known(&mut self, cluster: &DesiredCluster, now: Time) -> Option<&mut Known> {
        let config = &cluster.config.hedging;
        if config.after == HedgeAfter::Off {
            return None;
        }
        let made = || Known {
            budget: Arc::new(Budget::new(self.cores, config.share, 0, now)),
            after: None,
            outrun: Outrun { looked_at: now, ..Outrun::default() },
        };
        Some(self.all.entry(cluster.name.clone()).or_insert_with(made))
    }

    /// Looks at how long a cluster's tries took of late, where that matters: `groups` are its candidates by workload.
    pub fn look(&mut self, cluster: &DesiredCluster, groups: &[Group], links: &Links, now: Time) {
        if cluster.config.hedging.after != HedgeAfter::Auto {
            return;
        }
        let mut sketch = std::mem::take(&mut self.sketch);
        let keys = groups.iter().flat_map(|group| &group.slots).map(|slot| &slot.link.key);
        links.latencies(keys, &mut sketch);
        let won = |group: &Group| group.traffic.hedges().get(Hedged::Won as usize).copied().unwrap_or_default();
        let won: u64 = groups.iter().map(won).sum();
        if let Some(known) = self.known(cluster, now) {
            let outrun = known.outrun.look(won, now);
            known.after = after(&sketch, outrun);
        }
        self.sketch = sketch;
    }

    /// Forgets clusters that are gone.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.all.retain(|name, _| keep(name));
    }
}

/// What `QUANTILE` of the tries stay within, of which so many were outrun and the others are in the sketch; none where
/// they are too few to tell.
fn after(sketch: &Sketch, outrun: f64) -> Option<Duration> {
    let (measured, all) = (sketch.count(), sketch.count() + outrun);
    if measured < 1.0 || all < MIN_TRIES {
        return None;
    }
    let seconds = sketch.quantile(QUANTILE * all / measured)?;
    Duration::try_from_secs_f64(seconds).ok().map(|after| after.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(latencies: impl IntoIterator<Item = (usize, f64)>) -> Sketch {
        let mut sketch = Sketch::default();
        for (count, seconds) in latencies {
            (0..count).for_each(|_| sketch.record(seconds));
        }
        sketch
    }

    fn near(after: Option<Duration>, expected_ms: f64) -> bool {
        after.is_some_and(|after| (after.as_secs_f64() * 1e3 / expected_ms - 1.0).abs() < 0.04)
    }

    #[test]
    fn a_hedge_is_due_after_what_most_tries_take_once_there_were_enough() {
        assert_eq!(after(&sketch([(49, 0.010)]), 0.0), None);
        assert_eq!(after(&Sketch::default(), 1_000.0), None);
        assert!(near(after(&sketch([(90, 0.010), (5, 0.020), (5, 0.900)]), 0.0), 20.0));
        assert_eq!(after(&sketch([(100, 0.000_1)]), 0.0), Some(LEAST));
    }

    #[test]
    fn tries_that_were_outrun_count_as_slower_than_all_that_were_measured() {
        let fast: Vec<(usize, f64)> = (1..=95).map(|i| (1, f64::from(i) * 0.001)).collect();
        // All five slow ones were measured, or outrun: the same.
        let slow = fast.iter().copied().chain([(5, 2.0)]);
        assert!(near(after(&sketch(slow), 0.0), 95.0));
        assert!(near(after(&sketch(fast.clone()), 5.0), 95.0));
        assert!(near(after(&sketch(fast.clone()), 50.0), 95.0), "never more than was measured");
        assert!(near(after(&sketch(fast), 0.0), 91.0), "as it would be without them");
    }

    #[test]
    fn the_moment_does_not_wander_while_the_slowest_are_outrun() {
        // Each turn, of 1,000 tries that are as ever those beyond the moment are outrun by hedges that are as ever, too.
        let (mut moment, mut outrun) = (0.095, Outrun::default());
        let all: Vec<f64> = (1..=1_000).map(|i| f64::from(i) * 0.000_1).collect();
        for turn in 1..50u64 {
            let measured: Vec<f64> = all.iter().copied().filter(|s| *s <= moment).collect();
            let won = all.len() - measured.len();
            let hedges = all.iter().copied().step_by(all.len() / won.max(1)).take(won);
            let sketch = sketch(measured.iter().copied().chain(hedges).map(|s| (1, s)));
            let Outrun { counted, .. } = outrun;
            // Long enough ago that nothing of the turns before is left, as of the sketch.
            let outrun = outrun.look(counted + won as u64, Time(turn * 1_000_000_000_000));
            moment = after(&sketch, outrun).unwrap().as_secs_f64();
            assert!((0.080..0.108).contains(&moment), "turn {turn}: {moment}");
        }
    }

    #[test]
    fn tries_that_were_outrun_fade_as_links_do() {
        let mut outrun = Outrun::default();
        assert_eq!(outrun.look(10, Time(0)), 10.0);
        let faded = outrun.look(10, Time((f64::from(MEMORY_S) * 1e9) as u64));
        assert!((faded - 10.0 * (-1.0f64).exp()).abs() < 1e-3, "{faded}");
        assert_eq!(outrun.look(3, Time(u64::MAX)), 0.0, "counters that began anew");
    }
}
