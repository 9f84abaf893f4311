//! Endpoints of the node's own zone first (`locality`): two smaller tables, of which each pick takes one by chance.
//!
//! ```text
//! share of the own zone = min(1.4 x its healthy part, what load leaves it, 1 - floor of the others)
//!                         at least its part of all healthy endpoints
//! ```
//! **Health** is Envoy's rule for localities: with 1.4 times the endpoints that it needs, a zone stays self-sufficient
//! until fewer than 71% of it are well, and what is missing beyond that goes to the others. **Load** is judged by the
//! tick (`control::spill`). **The floor** of the model's guards holds here, too: endpoints of other zones get as much as
//! keeps them measured. And the own zone never gets less than its endpoints would without any preference: to prefer a
//! zone is not to avoid it.
//!
//! By chance and not by cost, because the share is a promise: whatever the policy, so many requests stay. Within a zone
//! the policy chooses as ever. A try that fails goes on in the other zone where its own has nobody left.

use super::table::Choice;
use super::{Candidate, Table};
use crate::config::MAX_RETRIES;
use crate::links::Time;
use crate::observe::Arm;
use rand::Rng;
use std::sync::Arc;

/// How many times the endpoints that it needs a zone is taken to have (Envoy's overprovisioning factor).
pub const OVERPROVISIONED: f32 = 1.4;
/// At how many endpoints a request may be tried: the first one, and the further ones.
pub const MAX_TRIES: usize = MAX_RETRIES as usize + 1;

/// What share of requests stays in the own zone, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnZone {
    /// Its name.
    pub name: Arc<str>,
    /// The share of requests that stay in it.
    pub share: f32,
    /// What part of its endpoints is well, by weight.
    pub well: f32,
    /// How busy they are, 1 being as busy as they may; unknown before anything was seen.
    pub load: Option<f32>,
}

/// Both sides' weights: of endpoints that may get requests, and of all that might.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Capacity {
    /// Of the own zone's that may get requests.
    pub own_well: f32,
    /// Of all of the own zone's that are not drained.
    pub own: f32,
    /// Of the other zones' that may get requests.
    pub others_well: f32,
}

impl Capacity {
    /// The part of all that are well that the own zone has.
    #[must_use]
    pub fn fair(&self) -> f32 {
        let all = self.own_well + self.others_well;
        if all > 0.0 { self.own_well / all } else { 0.0 }
    }

    /// The part of the own zone that is well.
    #[must_use]
    pub fn well(&self) -> f32 {
        if self.own > 0.0 { self.own_well / self.own } else { 0.0 }
    }

    /// The share of requests that stays in the own zone: `unloaded` is what load leaves it, `floor` the guards' (both 0 to
    /// 1). None where there is nothing to share out: one side has nobody.
    #[must_use]
    pub fn share(&self, unloaded: f32, floor: f32) -> Option<f32> {
        let fair = self.fair();
        if !(fair > 0.0 && fair < 1.0) {
            return None;
        }
        let most = 1.0 - floor.clamp(0.0, 1.0) * (1.0 - fair);
        Some((OVERPROVISIONED * self.well()).min(unloaded).min(most).clamp(fair, 1.0))
    }
}

/// A table's candidates, apart by zone.
#[derive(Debug)]
pub struct Zones {
    /// What is shared out.
    pub own: OwnZone,
    /// The own share as part of 2^32.
    below: u64,
    sides: [Side; 2],
    /// Of each eligible candidate of the whole table: its side, and its place there.
    places: Box<[(u8, u32)]>,
}

#[derive(Debug)]
struct Side {
    table: Table,
    /// The candidates' places in the whole table.
    whole: Box<[u32]>,
}

impl Zones {
    /// Apart by `is_own`; `make` makes a table of one side's candidates. None where one side has nobody.
    pub(super) fn new(
        own: OwnZone,
        eligible: &[Candidate],
        is_own: impl Fn(&Candidate) -> bool,
        make: impl Fn(Vec<Candidate>) -> Table,
    ) -> Option<Self> {
        let mut places = Vec::with_capacity(eligible.len());
        let mut sides: [(Vec<Candidate>, Vec<u32>); 2] = Default::default();
        for (candidate, whole) in eligible.iter().zip(0u32..) {
            let side = u8::from(!is_own(candidate));
            let Some((candidates, wholes)) = sides.get_mut(usize::from(side)) else { continue };
            places.push((side, wholes.len() as u32));
            candidates.push(candidate.clone());
            wholes.push(whole);
        }
        if sides.iter().any(|(candidates, _)| candidates.is_empty()) {
            return None;
        }
        let below = (f64::from(own.share.clamp(0.0, 1.0)) * 2f64.powi(32)) as u64;
        let sides = sides.map(|(candidates, whole)| Side { table: make(candidates), whole: whole.into() });
        Some(Self { own, below, sides, places: places.into() })
    }

    /// Chooses a zone, and a candidate of it that is not in `tried`; of the other zone where it has none.
    pub(super) fn pick(
        &self,
        who: (Option<Arm>, bool),
        when: (Time, bool),
        rng: &mut impl Rng,
        tried: &[usize],
    ) -> Option<Choice> {
        let first = u8::from(u64::from(rng.next_u32()) >= self.below);
        [first, 1 - first].into_iter().find_map(|number| {
            let side = self.sides.get(usize::from(number))?;
            let mut there = [usize::MAX; MAX_TRIES];
            let of_side = tried.iter().filter_map(|whole| self.places.get(*whole)).filter(|(s, _)| *s == number);
            let mut count = 0;
            for (slot, (_, place)) in there.iter_mut().zip(of_side) {
                *slot = *place as usize;
                count += 1;
            }
            let choice = side.table.pick_by(who, when, rng, there.get(..count).unwrap_or_default())?;
            let index = *side.whole.get(choice.index)? as usize;
            Some(Choice { index, ..choice })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capacity(own_well: f32, own: f32, others_well: f32) -> Capacity {
        Capacity { own_well, own, others_well }
    }

    #[test]
    fn a_zone_keeps_all_until_too_few_of_it_are_well_and_never_less_than_without_preference() {
        let near = |capacity: Capacity, unloaded, floor, expected: f32| {
            let share = capacity.share(unloaded, floor).unwrap();
            assert!((share - expected).abs() < 1e-5, "{capacity:?}: {share}, not {expected}");
        };
        near(capacity(4.0, 4.0, 8.0), 1.0, 0.0, 1.0);
        near(capacity(3.0, 4.0, 8.0), 1.0, 0.0, 1.0);
        near(capacity(2.0, 4.0, 8.0), 1.0, 0.0, 0.7);
        near(capacity(1.0, 4.0, 8.0), 1.0, 0.0, 0.35);
        // The floor keeps the others measured: 2% of their part of all.
        near(capacity(4.0, 4.0, 12.0), 1.0, 0.02, 1.0 - 0.02 * 0.75);
        // Busy, it gives away, down to what it would get anyway.
        near(capacity(4.0, 4.0, 4.0), 0.8, 0.02, 0.8);
        near(capacity(4.0, 4.0, 4.0), 0.1, 0.02, 0.5);
        // The others are ill: there is little to give away to.
        near(capacity(2.0, 4.0, 0.5), 1.0, 0.0, 0.8);
        assert_eq!(capacity(0.0, 4.0, 8.0).share(1.0, 0.0), None, "the others have it all");
        assert_eq!(capacity(4.0, 4.0, 0.0).share(1.0, 0.0), None, "there are no others");
    }

    proptest! {
        #[test]
        fn a_share_is_one_whatever_the_numbers(own in 0.0f32..1e6, well in 0.0f32..1.0, others in 0.0f32..1e6, unloaded in -1.0f32..2.0, floor in -1.0f32..2.0) {
            if let Some(share) = capacity(own * well, own, others).share(unloaded, floor) {
                prop_assert!(share > 0.0 && share <= 1.0, "{share}");
            }
        }
    }
}
