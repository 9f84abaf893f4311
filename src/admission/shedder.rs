//! The threshold on P: which requests are refused outright while a cluster is overloaded.
//!
//! Ten times a second, as in DAGOR and Cinnamon, the requests that arrived are looked at by level, from the top down, until
//! as many are found as may be admitted: those that came to an end, a little more, and a part of what the number under way
//! is below its limit. The level that this ends in is cut at the digit that leaves as many: traces' ids are random.
//!
//! A little more, because the limit itself is to decide about the last few: the threshold alone, which is a tenth of a
//! second old, would leave capacity unused. There is no threshold until a request finds no place, and it is gone once all
//! that arrive may be admitted.

use super::priority::{COHORTS, LEVELS, Rank};

/// How much of each sum is the last tenth of a second's.
const FRESH: f64 = 0.3;
/// How much more than comes to an end is admitted.
const MORE: f64 = 1.05;
/// The part of the free places that is filled in one step.
const FILL: f64 = 0.3;
/// A class with less than this share of the requests is not what the others are measured against.
const SOME: f64 = 0.02;

/// The controller of a threshold.
#[derive(Debug, Clone)]
pub struct Shedder {
    /// How many arrived by level in a step, smoothed.
    arrived: Box<[f64]>,
    finished: f64,
    threshold: Rank,
    marginal: u32,
}

impl Default for Shedder {
    fn default() -> Self {
        Self { arrived: vec![0.0; LEVELS].into(), finished: 0.0, threshold: Rank(0), marginal: u32::MAX }
    }
}

impl Shedder {
    /// Requests of a lower rank are refused.
    #[must_use]
    pub fn threshold(&self) -> Rank {
        self.threshold
    }

    /// Requests of a higher level may go beyond the limit a little: the threshold's own level, or without one the lowest
    /// that there is. All levels are lower where nothing arrived.
    #[must_use]
    pub fn marginal(&self) -> u32 {
        self.marginal
    }

    /// Takes in a step: how many arrived by level, came to their end, and found no place.
    pub fn adjust(&mut self, arrived: &[u32], finished: u64, full: u64, under_way: u32, limit: u32) {
        let smooth = |old: f64, new: f64| old + (new - old) * FRESH;
        for (known, new) in self.arrived.iter_mut().zip(arrived) {
            *known = smooth(*known, f64::from(*new));
        }
        self.finished = smooth(self.finished, finished as f64);
        let total: f64 = self.arrived.iter().sum();
        let free = f64::from(limit) - f64::from(under_way);
        let admissible = (self.finished * MORE + free * FILL).max(1.0);
        let pressed = self.threshold > Rank(0) || full > 0;
        self.threshold = if pressed && total > admissible { self.cut(admissible) } else { Rank(0) };
        self.marginal = match self.threshold {
            Rank(0) => self.lowest(total * SOME),
            Rank(rank) => Rank(rank - 1).level(),
        };
    }

    /// The lowest rank such that it and all above are not more than may be admitted.
    fn cut(&self, admissible: f64) -> Rank {
        let mut left = admissible;
        for (level, count) in self.arrived.iter().enumerate().rev() {
            if *count > left {
                let kept = (left / count * COHORTS as f64) as usize;
                // Of the topmost level one in sixteen is let in whatever comes.
                let kept = if level + 1 == LEVELS { kept.max(1) } else { kept };
                return Rank((level * COHORTS + COHORTS - kept) as u16);
            }
            left -= count;
        }
        Rank(0)
    }

    /// The level below which there are so few requests.
    fn lowest(&self, few: f64) -> u32 {
        let mut sum = 0.0;
        for (level, count) in (0..).zip(&self.arrived) {
            sum += count;
            if sum > few {
                return level;
            }
        }
        u32::MAX
    }
}
