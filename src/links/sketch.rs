//! A mergeable latency sketch with a bounded relative error, in the manner of DDSketch (Masson et al., VLDB 2019).
//!
//! Buckets are logarithmic with ratio `GAMMA`, so a quantile is off by at most 3% of itself ((GAMMA - 1) / (GAMMA + 1)); two
//! sketches merge by adding buckets, which keeps the percentiles true. The range is fixed (1 us to about 1,000 s) and
//! so is the size; what lies outside counts in the first or last bucket. Counts are floats, so that a sketch can be
//! faded with age (`scale`).
//!
//! A link's latencies lie within a few dozen of the buckets, so a sketch knows its `Span` and never looks beyond it: a
//! tick goes over every link's sketch four times.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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
    values().get(bucket).copied().unwrap_or(f64::NAN)
}

fn values() -> &'static [f64; BUCKETS] {
    static VALUES: LazyLock<[f64; BUCKETS]> =
        LazyLock::new(|| std::array::from_fn(|i| LEAST_S * 2.0 * GAMMA.powi(i as i32) / (1.0 + GAMMA)));
    &VALUES
}

/// The buckets that may hold something: those from `low` to before `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    low: u16,
    high: u16,
}

impl Span {
    /// Of no bucket.
    pub const EMPTY: Self = Self { low: BUCKETS as u16, high: 0 };

    /// Whether a bucket is in it.
    #[must_use]
    pub fn holds(self, bucket: usize) -> bool {
        usize::from(self.low) <= bucket && bucket < usize::from(self.high)
    }

    /// The least span that holds this one and a bucket.
    #[must_use]
    pub fn with(self, bucket: usize) -> Self {
        let bucket = bucket.min(BUCKETS - 1) as u16;
        Self { low: self.low.min(bucket), high: self.high.max(bucket + 1) }
    }

    fn union(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// As indices.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        usize::from(self.low.min(self.high))..usize::from(self.high)
    }

    /// As one number, for an atomic.
    #[must_use]
    pub fn packed(self) -> u32 {
        u32::from(self.low) << 16 | u32::from(self.high)
    }

    /// Of what `packed` gave.
    #[must_use]
    pub fn unpacked(packed: u32) -> Self {
        Self { low: (packed >> 16) as u16, high: (packed as u16).min(BUCKETS as u16) }
    }
}

/// A sketch's counts as they travel: whole and parts of samples, those of the buckets from `low` on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// The first bucket that is counted.
    pub low: u16,
    /// How many samples lie in it and in those that follow.
    pub counts: Box<[f32]>,
}

impl Counts {
    /// How many samples there are.
    #[must_use]
    pub fn total(&self) -> f32 {
        self.counts.iter().sum()
    }

    /// The sketch that has these counts, without its sum.
    #[must_use]
    pub fn sketch(&self) -> Sketch {
        let mut sketch = Sketch::default();
        sketch.add_counts(self, 1.0);
        sketch
    }
}

/// Less of a sample than this is none. Without it counts would fade into denormal numbers, which processors are slow at.
const LEAST_COUNT: f32 = 1e-6;
/// Once a sketch has faded by this much its counts are written anew.
const LEAST_UNIT: f32 = 1e-3;

/// A distribution of latencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    /// In units: fading makes the unit smaller, and new samples count for more of them.
    counts: Box<[f32; BUCKETS]>,
    /// So much of a sample is 1 of `counts`.
    unit: f32,
    span: Span,
    total: f64,
    sum_s: f64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: Box::new([0.0; BUCKETS]), unit: 1.0, span: Span::EMPTY, total: 0.0, sum_s: 0.0 }
    }
}

impl Sketch {
    /// Adds one latency in seconds.
    pub fn record(&mut self, seconds: f64) {
        let seconds = if seconds.is_finite() { seconds.clamp(0.0, 1_000.0) } else { 0.0 };
        self.add(bucket_of(seconds), 1.0);
        self.sum_s += seconds;
    }

    /// Adds what was counted in a row of buckets from `low` on since the counts in `seen`, without its sum.
    pub(crate) fn add_new(&mut self, low: usize, counters: &[AtomicU32], seen: &mut [u32]) {
        let Some(counts) = self.counts.get_mut(low..low + counters.len()) else { return };
        let (mut first, mut last, mut total, weight) = (usize::MAX, 0, self.total, 1.0 / self.unit);
        for (offset, ((counter, seen), slot)) in counters.iter().zip(seen).zip(counts).enumerate() {
            let count = counter.load(Relaxed);
            if count != *seen {
                let new = count.wrapping_sub(*seen) as f32;
                *seen = count;
                *slot += new * weight;
                total += f64::from(new);
                (first, last) = (first.min(offset), offset);
            }
        }
        if first != usize::MAX {
            self.span = self.span.with(low + first).with(low + last);
            self.total = total;
        }
    }

    /// Adds `count` to a bucket, without its sum.
    pub(crate) fn add(&mut self, bucket: usize, count: f32) {
        if let Some(slot) = self.counts.get_mut(bucket) {
            *slot += count / self.unit;
            self.span = self.span.with(bucket);
            self.total += f64::from(count);
        }
    }

    /// The counts within the span.
    fn spanned(&self) -> &[f32] {
        self.counts.get(self.span.range()).unwrap_or_default()
    }

    fn spanned_mut(&mut self) -> &mut [f32] {
        self.counts.get_mut(self.span.range()).unwrap_or_default()
    }

    /// Takes buckets that have faded to nothing from the span's ends, or a single odd latency would widen it for good.
    fn trim(&mut self) {
        let at = |bucket: u16| self.counts.get(usize::from(bucket)).copied();
        let Span { mut low, mut high } = self.span;
        while low < high && at(low) == Some(0.0) {
            low += 1;
        }
        while low < high && at(high - 1) == Some(0.0) {
            high -= 1;
        }
        self.span = if low < high { Span { low, high } } else { Span::EMPTY };
    }

    /// Forgets all, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.spanned_mut().fill(0.0);
        (self.unit, self.span, self.total, self.sum_s) = (1.0, Span::EMPTY, 0.0, 0.0);
    }

    /// Adds to the sum of all latencies, in seconds.
    pub(crate) fn add_sum(&mut self, seconds: f64) {
        self.sum_s += seconds;
    }

    /// Adds another sketch's counts to this one's.
    pub fn merge(&mut self, other: &Sketch) {
        if let Some(mine) = self.counts.get_mut(other.span.range()) {
            let weight = other.unit / self.unit;
            mine.iter_mut().zip(other.spanned()).for_each(|(mine, theirs)| *mine += theirs * weight);
        }
        self.span = self.span.union(other.span);
        self.total += other.total;
        self.sum_s += other.sum_s;
    }

    /// Its counts, without the sum.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counts = self.spanned().iter().map(|count| count * self.unit).collect();
        Counts { low: self.span.range().start as u16, counts }
    }

    /// Adds counts, faded by a factor from 0 to 1, without their sum. What lies beyond the last bucket is none.
    pub fn add_counts(&mut self, counts: &Counts, factor: f32) {
        for (bucket, count) in (usize::from(counts.low)..).zip(&counts.counts).filter(|(_, count)| **count > 0.0) {
            self.add(bucket, count * factor);
        }
    }

    /// Fades all counts by a factor from 0 to 1. What falls below a thousandth of a sample is gone.
    pub fn scale(&mut self, factor: f32) {
        if self.total == 0.0 {
            return;
        }
        let factor = factor.clamp(0.0, 1.0);
        self.unit *= factor;
        self.total *= f64::from(factor);
        self.sum_s *= f64::from(factor);
        if self.total < 1e-3 {
            self.clear();
        } else if self.unit < LEAST_UNIT {
            self.rewrite();
        }
    }

    /// Writes the counts in whole samples, without those that have faded to nothing.
    fn rewrite(&mut self) {
        let unit = std::mem::replace(&mut self.unit, 1.0);
        for count in self.spanned_mut() {
            let faded = *count * unit;
            *count = if faded < LEAST_COUNT { 0.0 } else { faded };
        }
        self.trim();
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
        let (spanned, values_s) = (self.spanned(), values().get(self.span.range()).unwrap_or_default());
        let mut values = [f64::NAN; N];
        let (mut seen, mut next, mut last) = (0.0, 0, value_of(0));
        let (mut targets, units) = ([f64::INFINITY; N], self.total / f64::from(self.unit));
        for (target, q) in targets.iter_mut().zip(qs) {
            *target = q.clamp(0.0, 1.0) * units;
        }
        for (count, value) in spanned.iter().zip(values_s).filter(|(count, _)| **count > 0.0) {
            seen += f64::from(*count);
            last = *value;
            while let Some(slot) = values.get_mut(next)
                && targets.get(next).is_some_and(|target| seen >= *target)
            {
                *slot = last;
                next += 1;
            }
            if next == N {
                break;
            }
        }
        // Float rounding may leave the highest quantile just out of reach: it is the last bucket's.
        values.iter_mut().skip(next).for_each(|value| *value = last);
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
    fn a_count_that_fades_never_becomes_denormal() {
        let mut sketch = Sketch::default();
        sketch.record(0.1);
        for _ in 0..2_000 {
            sketch.record(0.001);
            sketch.scale(0.9);
        }
        assert!(sketch.counts.iter().all(|c| *c == 0.0 || *c > LEAST_COUNT / 2.0));
        assert!(sketch.quantile(1.0).is_some_and(|q| q < 0.002), "the first is forgotten");
    }

    #[test]
    fn a_span_survives_its_packing() {
        assert_eq!(Span::unpacked(Span::EMPTY.packed()), Span::EMPTY);
        let span = Span::EMPTY.with(7).with(345).with(3);
        assert_eq!((Span::unpacked(span.packed()), span.range()), (span, 3..346));
        assert!(span.holds(3) && span.holds(345) && !span.holds(2) && !Span::EMPTY.holds(0));
    }

    #[test]
    fn an_odd_latency_widens_the_span_only_for_as_long_as_it_counts() {
        let mut sketch = Sketch::default();
        sketch.record(10.0);
        for _ in 0..500 {
            sketch.scale(0.9);
            sketch.record(0.001);
        }
        assert_eq!(sketch.span.range().len(), 1);
        sketch.merge(&Sketch::default());
        assert_eq!(sketch.quantiles([0.0, 0.5, 1.0]), Some([value_of(bucket_of(0.001)); 3]));
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

    #[test]
    fn counts_that_travelled_make_the_same_sketch() {
        let mut sketch = Sketch::default();
        [0.001, 0.020, 0.020, 0.5].into_iter().for_each(|s| sketch.record(s));
        sketch.scale(0.5);
        let again = sketch.counts().sketch();
        assert_eq!(again.quantiles([0.1, 0.5, 0.99]), sketch.quantiles([0.1, 0.5, 0.99]));
        assert!((again.count() - 2.0).abs() < 1e-6 && (sketch.counts().total() - 2.0).abs() < 1e-6);
        let mut beyond = Sketch::default();
        beyond.add_counts(&Counts { low: BUCKETS as u16 - 1, counts: [1.0, 5.0].into() }, 1.0);
        assert_eq!(beyond.count(), 1.0, "beyond the last bucket there is none");
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
