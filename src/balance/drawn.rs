//! The cheapest of three drawn by weight, for tables of which not all candidates can be compared.
//!
//! What a draw reads lies side by side: whether the slot that was hit stays (the alias method, see `Alias`), and all of the
//! candidate that its cost needs but for the estimate and what is in flight. The three draws are made before the first
//! candidate is looked at, so that the processor waits for their memory once and not three times; and which of the costs
//! is the least is computed without a branch, which nobody could foresee. So a pick takes the same among a hundred
//! candidates and among thousands, as far as they fit into its caches.

use super::shortlist::Row;
use super::{Alias, Candidate, Choice};
use crate::links::{Fading, Time};

/// How many are drawn where the configuration does not say how many.
pub const DRAWN: u16 = 3;
/// As many as `DRAWN`.
const AT_ONCE: usize = DRAWN as usize;

/// What a draw may hit. Two of them to a cache line, and none in two lines.
#[derive(Debug)]
#[repr(align(32))]
struct Slot {
    row: Row,
    /// Of 2^32 draws that hit the slot, so many stay; the others go on to `other`.
    stay: u32,
    other: u32,
}

/// Candidates with what a draw by weight needs.
#[derive(Debug)]
pub struct Drawn {
    slots: Box<[Slot]>,
}

impl Drawn {
    /// Of these candidates by these weights, as many of one as of the other.
    pub fn new<'c>(candidates: impl Iterator<Item = &'c Candidate>, alias: &Alias) -> Self {
        // A probability of one is rounded down by the least there is, and the slot's other choice is then itself.
        let stay = |share: f32| (f64::from(share) * 2f64.powi(32)) as u32;
        let slot = |(c, (share, other))| Slot { row: Row::of_drawn(c), stay: stay(share), other };
        Self { slots: candidates.zip(alias.slots()).map(slot).collect() }
    }

    /// The places that these random bits draw; none from an empty table.
    #[inline]
    pub fn draw(&self, random: [u64; AT_ONCE]) -> Option<[usize; AT_ONCE]> {
        let mut drawn = [0; AT_ONCE];
        for (place, random) in drawn.iter_mut().zip(random) {
            // The whole part chooses the slot, the fraction whether to stay.
            let scaled = u128::from(random) * self.slots.len() as u128;
            let (slot, coin) = ((scaled >> 64) as usize, (scaled as u64 >> 32) as u32);
            let Slot { stay, other, .. } = self.slots.get(slot)?;
            *place = if coin < *stay { slot } else { *other as usize };
        }
        Some(drawn)
    }

    /// The cheapest of three that differ.
    #[inline]
    pub fn cheapest(&self, now: Time, tau_s: f32, drawn: [usize; AT_ONCE]) -> Option<Choice> {
        let fading = Fading::new(now, tau_s);
        let mut estimates_s = [f32::NAN; AT_ONCE];
        let mut least = u64::MAX;
        for (which, (place, estimate_s)) in drawn.iter().zip(&mut estimates_s).enumerate() {
            let cost;
            (cost, *estimate_s) = self.slots.get(*place)?.row.cost(&fading);
            // A cost is not negative, so its bits are ordered as costs are; what is no number comes last. Behind them
            // stands whose cost it is, and the least of such numbers is found without a branch.
            least = least.min(u64::from(cost.to_bits()) << 32 | which as u64);
        }
        let which = least as u32 as usize;
        Some(Choice { index: *drawn.get(which)?, estimate_s: *estimates_s.get(which)? })
    }
}
