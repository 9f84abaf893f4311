//! Random numbers that are the same each time.

/// A small generator (xorshift64*), so that each run asks the same.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers that follow from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Seeds are small numbers, of which the generator would make small ones at first; 0 it could not leave.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to 1, which it never is.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `count`; 0 of none.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.share() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// How long until the next of what comes at random, so many a second, in seconds: gaps are exponential.
    pub fn gap_s(&mut self, per_second: f64) -> f64 {
        -self.share().max(1e-12).ln() / per_second
    }

    /// Puts them in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_another_one_others() {
        let order = |seed| {
            let mut items: Vec<_> = (0..50).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(1), order(1));
        assert!(order(1) != order(2) && order(0) != order(1));
        let mut random = Random::new(7);
        let mean = (0..10_000).map(|_| random.gap_s(100.0)).sum::<f64>() / 10_000.0;
        assert!((0.009..0.011).contains(&mean), "{mean}");
        assert!((0..1_000).all(|_| random.below(3) < 3) && random.below(0) == 0);
    }
}
