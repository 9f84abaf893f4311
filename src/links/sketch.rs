//! A mergeable latency sketch with a bounded relative error, in the manner of DDSketch (Masson et al., VLDB 2019).
//!
//! Buckets are logarithmic with ratio `GAMMA`, so a quantile is off by at most 3% of itself ((GAMMA - 1) / (GAMMA + 1)); two
//! sketches merge by adding buckets, which keeps the percentiles true. The range is fixed (1 us to about 1,000 s) and
//! so is the size; what lies outside counts in the first or last bucket. Counts are floats, so that a sketch can be
//! faded with age (`scale`).

/// How many buckets a sketch has.
pub const BUCKETS: usize = 346;
/// The ratio of one bucket's bounds.
const GAMMA: f64 = 1.0618;
/// 1 / ln(GAMMA).
const INVERSE_LN_GAMMA: f64 = 16.676_232_9;
/// The smallest latency told apart, in seconds.
const LEAST_S: f64 = 1e-6;

/// The bucket that a latency in seconds belongs to. Not a number and negative count as the first.
#[must_use]
pub fn bucket_of(seconds: f64) -> usize {
    if seconds.is_nan() || seconds <= LEAST_S {
        return 0;
    }
    let index = ((seconds / LEAST_S).ln() * INVERSE_LN_GAMMA).ceil();
    if index >= (BUCKETS - 1) as f64 { BUCKETS - 1 } else { index as usize }
}

/// The latency in seconds that stands for a bucket: the point of least relative error.
#[must_use]
pub fn value_of(bucket: usize) -> f64 {
    LEAST_S * 2.0 * GAMMA.powi(bucket as i32) / (1.0 + GAMMA)
}

/// A distribution of latencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    counts: Box<[f32; BUCKETS]>,
    total: f64,
    sum_s: f64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: Box::new([0.0; BUCKETS]), total: 0.0, sum_s: 0.0 }
    }
}

impl Sketch {
    /// Adds one latency in seconds.
    pub fn record(&mut self, seconds: f64) {
        let seconds = if seconds.is_finite() { seconds.clamp(0.0, 1_000.0) } else { 0.0 };
        self.add(bucket_of(seconds), 1.0);
        self.sum_s += seconds;
    }

    /// Adds `count` to a bucket, without its sum.
    pub(crate) fn add(&mut self, bucket: usize, count: f32) {
        if let Some(slot) = self.counts.get_mut(bucket) {
            *slot += count;
            self.total += f64::from(count);
        }
    }

    /// Adds to the sum of all latencies, in seconds.
    pub(crate) fn add_sum(&mut self, seconds: f64) {
        self.sum_s += seconds;
    }

    /// Adds another sketch's counts to this one's.
    pub fn merge(&mut self, other: &Sketch) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_s += other.sum_s;
    }

    /// Fades all counts by a factor from 0 to 1. What falls below a thousandth of a sample is gone.
    pub fn scale(&mut self, factor: f32) {
        if self.total == 0.0 {
            return;
        }
        let factor = factor.clamp(0.0, 1.0);
        self.counts.iter_mut().for_each(|c| *c *= factor);
        self.total *= f64::from(factor);
        self.sum_s *= f64::from(factor);
        if self.total < 1e-3 {
            *self = Sketch::default();
        }
    }

    /// How many latencies it holds, faded ones in part.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.total
    }

    /// The mean in seconds, exact; unknown when empty.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.total > 0.0).then(|| self.sum_s / self.total)
    }

    /// The quantile `q` (0 to 1) in seconds, off by at most 3%; unknown when empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.quantiles([q]).map(|[value]| value)
    }

    /// Several quantiles in one pass; `qs` must rise.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, qs: [f64; N]) -> Option<[f64; N]> {
        if self.total <= 0.0 {
            return None;
        }
        let mut values = [0.0; N];
        let mut wanted = qs.iter().zip(values.iter_mut()).peekable();
        let (mut seen, mut last) = (0.0, 0);
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, c)| **c > 0.0) {
            seen += f64::from(*count);
            last = bucket;
            while let Some((_, value)) = wanted.next_if(|(q, _)| seen >= q.clamp(0.0, 1.0) * self.total) {
                *value = value_of(bucket);
            }
        }
        // Float rounding may leave the highest quantile just out of reach: it is the last bucket's.
        wanted.for_each(|(_, value)| *value = value_of(last));
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RELATIVE_ERROR: f64 = 0.030;

    #[test]
    fn constants_agree() {
        assert!((INVERSE_LN_GAMMA - 1.0 / GAMMA.ln()).abs() < 1e-4, "{}", 1.0 / GAMMA.ln());
        assert!(value_of(BUCKETS - 1) > 900.0, "{}", value_of(BUCKETS - 1));
    }

    #[test]
    fn an_empty_sketch_knows_nothing() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(Sketch::default().mean(), None);
    }

    #[test]
    fn hostile_latencies_stay_bounded() {
        let mut sketch = Sketch::default();
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e308] {
            sketch.record(bad);
        }
        assert_eq!(sketch.count(), 4.0);
        assert!(sketch.mean().is_some_and(|m| m <= 1_000.0));
    }

    #[test]
    fn fading_forgets_in_the_end() {
        let mut sketch = Sketch::default();
        sketch.record(0.1);
        for _ in 0..20 {
            sketch.scale(0.5);
        }
        assert_eq!(sketch.quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(mut values in prop::collection::vec(2e-6f64..500.0, 1..300), q in 0.0f64..1.0) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|v| sketch.record(*v));
            values.sort_by(f64::total_cmp);
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let (exact, found) = (values[rank - 1], sketch.quantile(q).unwrap());
            prop_assert!((found - exact).abs() <= exact * (RELATIVE_ERROR + 1e-3), "{found} for {exact}");
        }

        #[test]
        fn merging_equals_recording_all(a in prop::collection::vec(1e-6f64..100.0, 0..50), b in prop::collection::vec(1e-6f64..100.0, 0..50)) {
            let (mut one, mut two, mut all) = (Sketch::default(), Sketch::default(), Sketch::default());
            a.iter().for_each(|v| { one.record(*v); all.record(*v) });
            b.iter().for_each(|v| { two.record(*v); all.record(*v) });
            one.merge(&two);
            prop_assert_eq!(one.quantile(0.9), all.quantile(0.9));
            prop_assert_eq!(one.count(), all.count());
        }
    }
}
