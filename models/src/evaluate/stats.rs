//! Intervals: over seeds by Student's t, between two predictors by a paired bootstrap over runs.

use super::tally::{Figure, Tally};
use crate::simulator::draw::Draw;
use serde::Serialize;
use std::collections::BTreeMap;

/// How often a bootstrap draws.
pub const RESAMPLES: usize = 2_000;

/// A mean over seeds and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The mean over seeds.
    pub mean: f64,
    /// The interval's lower end; not a number with fewer than two seeds.
    pub low: f64,
    /// The interval's upper end, likewise.
    pub high: f64,
    /// How many seeds.
    pub seeds: usize,
}

/// The two-sided 95% quantiles of Student's t for 1 to 10 degrees of freedom.
const T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
/// The same for many.
const NORMAL: f64 = 1.960;

impl Interval {
    /// Of one value a seed; values that are not numbers do not count.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let known: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let n = known.len() as f64;
        let mean = if known.is_empty() { f64::NAN } else { known.iter().sum::<f64>() / n };
        if known.len() < 2 {
            return Self { mean, low: f64::NAN, high: f64::NAN, seeds: known.len() };
        }
        let variance = known.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let degrees = known.len() - 1;
        // Beyond the table an expansion of the quantile that is right to a thousandth.
        let beyond = NORMAL + 2.372 / degrees as f64 + 2.8 / (degrees as f64).powi(2);
        let half = T.get(degrees - 1).copied().unwrap_or(beyond) * (variance / n).sqrt();
        Self { mean, low: mean - half, high: mean + half, seeds: known.len() }
    }
}

/// How much one predictor differs from another on the same runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The first one's figure less the other's.
    pub difference: f64,
    /// The lower end of its 95% interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Whether the first is better and the interval excludes zero.
    pub better: bool,
    /// Whether the first is worse and the interval excludes zero.
    pub worse: bool,
}

/// The paired bootstrap over runs (percentile method): draws as many runs as there are, with replacement, the same ones for
/// both, and compares the pooled figures. A run is drawn whole, since what happens within one belongs together. None where
/// either has no figure, or there are fewer than two runs.
#[must_use]
pub fn paired(
    ours: &BTreeMap<(u64, u64), Tally>,
    theirs: &BTreeMap<(u64, u64), Tally>,
    figure: Figure,
    seed: u64,
) -> Option<Difference> {
    // Sums and counts, once: drawing runs is then four additions each.
    let of = |t: &Tally| (t.mean(figure).sum, t.mean(figure).count as f64);
    let pairs: Vec<[(f64, f64); 2]> =
        ours.iter().filter_map(|(run, a)| theirs.get(run).map(|b| [of(a), of(b)])).collect();
    let pooled = |drawn: &mut dyn Iterator<Item = &[(f64, f64); 2]>| -> f64 {
        let mut all = [(0.0, 0.0); 2];
        for pair in drawn {
            for (sum, more) in all.iter_mut().zip(pair) {
                *sum = (sum.0 + more.0, sum.1 + more.1);
            }
        }
        let [a, b] = all;
        a.0 / a.1 - b.0 / b.1
    };
    let difference = pooled(&mut pairs.iter());
    if pairs.len() < 2 || !difference.is_finite() {
        return None;
    }
    let mut draw = Draw::new(seed);
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| pooled(&mut (0..pairs.len()).filter_map(|_| pairs.get(draw.whole(0, pairs.len() - 1)))))
        .filter(|d| d.is_finite())
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found.get(((found.len() as f64 - 1.0) * share).round() as usize).copied();
    let (low, high) = (at(0.025)?, at(0.975)?);
    let (more, less) = (low > 0.0, high < 0.0);
    let (better, worse) = if figure.more_is_better() { (more, less) } else { (less, more) };
    Some(Difference { difference, low, high, better, worse })
}
