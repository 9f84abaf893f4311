//! What starts a tick before its time: a link whose latency or error rate went beyond its threshold.
//!
//! Every `min_interval` the counters of the current generation's links are compared with those of the time before; no
//! sketch is touched, so looking is cheap. A trigger fires once when its threshold is broken and again only after the
//! link was seen within it: a link that stays slow does not tick the loop to death.

use super::history::{Broken, MAX_NOTED, Trouble};
use crate::balance::{Cause, Generation};
use crate::config::Triggers;
use crate::links::{LinkCell, LinkKey, Totals};
use std::collections::HashMap;

/// Fewer new calls than this say nothing about a rate.
const MIN_CALLS: u64 = 20;
/// Fewer latencies than this say nothing about their mean.
const MIN_SAMPLES: u64 = 5;
/// A link is well again once it is this far within its thresholds: at the threshold itself chance would fire again and again.
const WELL_BELOW: f64 = 0.5;

#[derive(Debug, Default)]
struct Watched {
    /// The counters when they last had enough new calls.
    last: Totals,
    broken: bool,
}

/// What was last seen of each link.
#[derive(Debug, Default)]
pub struct Watch {
    links: HashMap<LinkKey, Watched>,
    /// The links that made the last look a cause.
    broken: Vec<Broken>,
}

impl Watch {
    /// Looks at all links of a generation; the cause of a tick, when one is due.
    pub fn look(&mut self, generation: &Generation, rules: &Triggers) -> Option<Cause> {
        let mut cause = None;
        let mut seen = 0;
        self.broken.clear();
        for candidate in generation.clusters.iter().flat_map(|c| &c.tables).flat_map(|t| t.candidates()) {
            seen += 1;
            let predicted = candidate.predicted.map(|p| f64::from(p.mean_s));
            cause = self.look_at(&candidate.link, predicted, rules).or(cause);
        }
        // Links come and go with the generations: keep about as many as there are.
        if self.links.len() > 2 * seen + 64 {
            self.links.clear();
        }
        cause
    }

    /// Takes out the links for which the last look gave a cause.
    pub fn take_broken(&mut self) -> Vec<Broken> {
        std::mem::take(&mut self.broken)
    }

    fn look_at(&mut self, link: &LinkCell, predicted_s: Option<f64>, rules: &Triggers) -> Option<Cause> {
        let now = link.totals();
        let Some(watched) = self.links.get_mut(&link.key) else {
            self.links.insert(link.key.clone(), Watched { last: now, broken: false });
            return None;
        };
        // A link that was evicted and made anew starts from zero.
        let calls = now.ended.saturating_sub(watched.last.ended);
        let errors = now.errors.saturating_sub(watched.last.errors);
        let samples = now.samples.saturating_sub(watched.last.samples);
        if now.ended >= watched.last.ended && calls < MIN_CALLS {
            return None;
        }
        let mean_s = (now.latency_sum_s - watched.last.latency_sum_s) / samples.max(1) as f64;
        watched.last = now;
        let margin = if watched.broken { WELL_BELOW } else { 1.0 };
        let failing = errors as f64 > margin * rules.error_rate.0 * calls as f64;
        let factor = 1.0 + (rules.latency_factor - 1.0) * margin;
        let slow = samples >= MIN_SAMPLES && predicted_s.is_some_and(|p| mean_s > factor * p);
        let was_broken = std::mem::replace(&mut watched.broken, failing || slow);
        let (cause, what) = match (was_broken, failing, slow) {
            (false, true, _) => (Cause::Errors, Trouble::Errors(errors as f64 / calls.max(1) as f64)),
            (false, false, true) => {
                (Cause::Latency, Trouble::Latency { mean_s, predicted_s: predicted_s.unwrap_or(f64::NAN) })
            }
            _ => return None,
        };
        if self.broken.len() < MAX_NOTED {
            self.broken.push(Broken { link: link.key.clone(), what });
        }
        Some(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Links, NodeKey, Outcome, Time};

    fn call(link: &LinkCell, times: usize, latency_s: f32, outcome: Outcome) {
        for _ in 0..times {
            link.begin(0, Time(0));
            link.record(0, Time(0), latency_s, outcome, 0.0, 3.0);
            link.end(0, Time(0));
        }
    }

    #[test]
    fn a_threshold_fires_once_until_the_link_was_well_again() {
        let (links, rules) = (Links::new(1), Triggers::default());
        let link = links.link(&LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")), Time(0));
        let mut watch = Watch::default();
        let mut look = |link: &LinkCell| watch.look_at(link, Some(0.010), &rules);
        assert_eq!(look(&link), None);
        call(&link, 19, 1.0, Outcome::Success);
        assert_eq!(look(&link), None, "too few to say");
        call(&link, 4, 1.0, Outcome::Success);
        assert_eq!(look(&link), Some(Cause::Latency));
        call(&link, 20, 1.0, Outcome::Success);
        assert_eq!(look(&link), None, "still slow: told already");
        call(&link, 20, 0.010, Outcome::Success);
        assert_eq!(look(&link), None);
        call(&link, 20, 0.010, Outcome::Failure);
        assert_eq!(look(&link), Some(Cause::Errors));
        let [slow, failing] = &watch.take_broken()[..] else { panic!("two links broke their thresholds") };
        assert_eq!((&slow.link, failing.what), (&link.key, Trouble::Errors(1.0)));
        assert!(matches!(slow.what, Trouble::Latency { mean_s, predicted_s: 0.010 } if mean_s > 0.9), "{slow:?}");
    }
}
