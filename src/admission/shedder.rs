//! The threshold on P: which requests are refused outright while a cluster is overloaded.
//!
//! Ten times a second, as in DAGOR and Cinnamon, the requests that arrived are looked at by level, from the top down, until
//! as many are found as may be admitted: as many as came to an end, in proportion more where places were free (by Little's
//! law the number under way grows with them), and a little more. The level that this ends in is cut at the digits that
//! leave as many, since traces' ids are random.
//!
//! A little more, because the limit itself is to decide about the last few: the threshold alone, which is a tenth of a
//! second old, would leave capacity unused, and where nobody finds the limit reached it could not grow. There is no
//! threshold until a request finds no place, and it is gone once all that arrive may be admitted.

use super::priority::{COHORTS, LEVELS, Rank};

/// How much of each sum is the last step's at most, and at least;
const FRESH: std::ops::RangeInclusive<f64> = 0.03..=0.3;
/// between them so much that about as many requests stand behind a sum: of a few, chance would be most of it.
const BEHIND: f64 = 150.0;
/// How much more than comes to an end is admitted.
const MORE: f64 = 1.05;
/// The part of the free places that is filled in one step, whatever came to an end.
const FILL: f64 = 0.3;
/// The least and the most that the free places change what is admitted, in proportion to what comes to an end.
const ROOM: std::ops::RangeInclusive<f64> = -0.1..=1.0;
/// For how long the marginal level does not fall, as a multiple of the time that sums look back.
const HELD: f64 = 3.0;
/// A class with less than this share of the requests is not what the others are measured against.
const SOME: f64 = 0.02;

/// The controller of a threshold.
#[derive(Debug, Clone)]
pub struct Shedder {
    /// How many arrived by level in a step, smoothed.
    arrived: Box<[f64]>,
    finished: f64,
    under_way: f64,
    threshold: Rank,
    marginal: u32,
    /// For so many steps the marginal level does not fall.
    held: u32,
}

impl Default for Shedder {
    fn default() -> Self {
        Self {
            arrived: vec![0.0; LEVELS].into(),
            finished: 0.0,
            under_way: 0.0,
            threshold: Rank(0),
            marginal: u32::MAX,
            held: 0,
        }
    }
}

impl Shedder {
    /// Requests of a lower rank are refused.
    #[must_use]
    pub fn threshold(&self) -> Rank {
        self.threshold
    }

    /// Requests of a higher level may go beyond the limit a little: the threshold's own level of late, or without one the
    /// lowest that there is. No level is higher where nothing arrived.
    #[must_use]
    pub fn marginal(&self) -> u32 {
        self.marginal
    }

    /// Takes in a step: how many arrived by level, came to their end, and found no place.
    pub fn adjust(&mut self, arrived: &[u32], finished: u64, full: u64, under_way: u32, limit: u32) {
        let fresh = self.fresh(arrived);
        let smooth = |old: f64, new: f64| old + (new - old) * fresh;
        for (known, new) in self.arrived.iter_mut().zip(arrived) {
            *known = smooth(*known, f64::from(*new));
        }
        self.finished = smooth(self.finished, finished as f64);
        let total: f64 = self.arrived.iter().sum();
        self.under_way = smooth(self.under_way, f64::from(under_way));
        let free = f64::from(limit) - self.under_way;
        let room = (free / f64::from(limit.max(1))).clamp(*ROOM.start(), *ROOM.end());
        let admissible = (self.finished * (MORE + room)).max(free * FILL).max(1.0);
        let pressed = self.threshold > Rank(0) || full > 0;
        self.threshold = if pressed && total > admissible { self.cut(admissible) } else { Rank(0) };
        self.hold(if self.threshold > Rank(0) { self.threshold.level() } else { self.lowest(total * SOME) }, fresh);
    }

    /// How much of the sums is to be this step's.
    fn fresh(&self, arrived: &[u32]) -> f64 {
        let known: f64 = self.arrived.iter().sum();
        let new: u32 = arrived.iter().sum();
        (known.max(f64::from(new)) / BEHIND).clamp(*FRESH.start(), *FRESH.end())
    }

    /// A class that is cut now and then is not one for whom places are kept.
    fn hold(&mut self, level: u32, fresh: f64) {
        if level >= self.marginal || self.held == 0 || self.marginal == u32::MAX {
            (self.marginal, self.held) = (level, (HELD / fresh) as u32);
        } else {
            self.held -= 1;
        }
    }

    /// The lowest rank such that it and all above are not more than may be admitted.
    fn cut(&self, admissible: f64) -> Rank {
        let mut left = admissible;
        for (level, count) in self.arrived.iter().enumerate().rev() {
            if *count > left {
                // Rounded up: rounded down, a small share would never grow.
                let kept = (left / count * COHORTS as f64).ceil().clamp(1.0, COHORTS as f64) as usize;
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
