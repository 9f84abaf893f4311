//! Walker's alias method (Vose's construction): a draw by weight in constant time.

/// A discrete distribution over `0..n`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Alias {
    /// For each slot: the probability of staying, and where to go otherwise.
    slots: Box<[(f32, u32)]>,
}

impl Alias {
    /// A distribution in proportion to `weights`. Weights that are not finite or not positive count as zero; when none
    /// is left, all are equal.
    #[must_use]
    pub fn new(weights: &[f32]) -> Self {
        let stay = |i| (1.0, i);
        // Configured weights mostly are all alike.
        if weights.first().is_some_and(|first| weights.iter().all(|w| w == first)) {
            return Self::equal(weights.len());
        }
        let clean = |w: &f32| if w.is_finite() && *w > 0.0 { f64::from(*w) } else { 0.0 };
        let sum: f64 = weights.iter().map(clean).sum();
        let count = weights.len() as f64;
        let scale = |w: &f32| if sum > 0.0 { clean(w) / sum * count } else { 1.0 };
        let mut scaled: Vec<f64> = weights.iter().map(scale).collect();
        let mut slots: Vec<(f32, u32)> = (0..weights.len() as u32).map(stay).collect();
        let (mut small, mut large) = (Vec::with_capacity(weights.len()), Vec::with_capacity(weights.len()));
        for (index, share) in scaled.iter().enumerate() {
            if *share < 1.0 { small.push(index) } else { large.push(index) }
        }
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            let Some(kept) = scaled.get(less).copied() else { break };
            if let Some(slot) = slots.get_mut(less) {
                *slot = (kept as f32, more as u32);
            }
            if let Some(rest) = scaled.get_mut(more) {
                *rest -= 1.0 - kept;
                if *rest < 1.0 {
                    large.pop();
                    small.push(more);
                }
            }
        }
        // What rounding left in `small` without a partner: a slot of no weight must still never be drawn.
        let weightless = |i: &usize| weights.get(*i).map(clean) == Some(0.0);
        if sum > 0.0 && small.iter().any(weightless) {
            let heavier = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
            let heaviest = weights.iter().map(clean).enumerate().max_by(heavier).map_or(0, |(i, _)| i);
            for less in small.into_iter().filter(weightless) {
                if let Some(slot) = slots.get_mut(less) {
                    *slot = (0.0, heaviest as u32);
                }
            }
        }
        Self { slots: slots.into() }
    }

    /// All of so many outcomes alike.
    #[must_use]
    pub fn equal(count: usize) -> Self {
        Self { slots: (0..count as u32).map(|i| (1.0, i)).collect() }
    }

    /// For each slot: the probability of staying, and where to go otherwise.
    pub(super) fn slots(&self) -> impl Iterator<Item = (f32, u32)> + '_ {
        self.slots.iter().copied()
    }

    /// How many outcomes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no outcome.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// One draw from 64 random bits: the upper half chooses the slot, the lower half whether to stay.
    #[inline]
    #[must_use]
    pub fn draw(&self, random: u64) -> Option<usize> {
        let slot = ((random >> 32) * self.slots.len() as u64) >> 32;
        let (stay, other) = self.slots.get(slot as usize)?;
        let coin = (random as u32 >> 8) as f32 / (1u32 << 24) as f32;
        Some(if coin < *stay { slot as usize } else { *other as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    fn shares(weights: &[f32], draws: usize) -> Vec<f64> {
        let (alias, mut rng) = (Alias::new(weights), SmallRng::seed_from_u64(7));
        let mut counts = vec![0usize; weights.len()];
        for _ in 0..draws {
            counts[alias.draw(rng.next_u64()).unwrap()] += 1;
        }
        counts.iter().map(|c| *c as f64 / draws as f64).collect()
    }

    #[test]
    fn draws_follow_the_weights() {
        for (share, expected) in shares(&[1.0, 2.0, 0.0, 5.0], 200_000).iter().zip([0.125, 0.25, 0.0, 0.625]) {
            assert!((share - expected).abs() < 0.005, "{share} for {expected}");
        }
    }

    #[test]
    fn nothing_to_draw_is_none_and_all_zero_is_equal() {
        assert_eq!(Alias::new(&[]).draw(42), None);
        for share in shares(&[0.0, f32::NAN, f32::INFINITY, -1.0], 100_000) {
            assert!((share - 0.25).abs() < 0.01);
        }
    }

    proptest! {
        #[test]
        fn zero_weight_means_zero_draws(weights in prop::collection::vec(prop_oneof![Just(0.0f32), 1e-6f32..1e6], 1..40), seed: u64) {
            let (alias, mut rng) = (Alias::new(&weights), SmallRng::seed_from_u64(seed));
            let some = weights.iter().any(|w| *w > 0.0);
            for _ in 0..2000 {
                let drawn = alias.draw(rng.next_u64()).unwrap();
                prop_assert!(!some || weights[drawn] > 0.0, "drew {drawn} of {weights:?}");
            }
        }
    }
}
