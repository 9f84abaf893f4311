//! Quantiles of a run, and means and differences over runs with bootstrap intervals.
//!
//! A run is one draw: its requests share arrivals, faults and queues, so intervals resample runs, never requests.
//! Differences are paired: two policies under the same seed met the same arrivals and the same faults.

use crate::simulator::draw::Draw;
use serde::Serialize;

/// How often the bootstrap resamples.
const RESAMPLES: usize = 2_000;
/// The seed of the resampling: the same figures give the same intervals.
const SEED: u64 = 17;

/// A mean over runs and where it lies with 95%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The 2.5th percentile of the resampled means.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

/// The value below which a share `q` of sorted values lies; NaN for none.
#[must_use]
pub fn quantile(sorted: &[f32], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(f64::NAN, |v| f64::from(*v))
}

/// The mean of those that are numbers, with its bootstrap interval; none without any.
#[must_use]
pub fn interval(runs: &[f64]) -> Option<Interval> {
    let runs: Vec<f64> = runs.iter().copied().filter(|v| v.is_finite()).collect();
    if runs.is_empty() {
        return None;
    }
    let count = runs.len();
    let mut draw = Draw::new(SEED);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| runs[draw.whole(0, count - 1)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some(Interval { mean: runs.iter().sum::<f64>() / count as f64, low: at(0.025), high: at(0.975) })
}

/// How much larger `ours` is than `theirs`, pair by pair, as a share: the geometric mean of the ratios less 1.
#[must_use]
pub fn difference(ours: &[f64], theirs: &[f64]) -> Option<Interval> {
    let logs: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| (a / b).ln()).collect();
    let Interval { mean, low, high } = interval(&logs)?;
    Some(Interval { mean: mean.exp_m1(), low: low.exp_m1(), high: high.exp_m1() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_values_themselves() {
        let values: Vec<f32> = (1u8..=100).map(f32::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 0.999)), (50.0, 99.0, 100.0));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn an_interval_holds_its_mean_and_narrows_with_agreement() {
        let wide = interval(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(wide.low < wide.mean && wide.mean < wide.high && wide.mean == 2.5);
        assert_eq!(interval(&[2.0, 2.0, f64::NAN]), Some(Interval { mean: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(interval(&[f64::NAN]), None);
    }

    #[test]
    fn paired_differences_see_what_separate_intervals_do_not() {
        let theirs = [10.0, 20.0, 40.0, 80.0];
        let ours = theirs.map(|t| t * 0.9);
        let off = difference(&ours, &theirs).unwrap();
        assert!((off.mean + 0.1).abs() < 1e-9 && (off.high + 0.1).abs() < 1e-9, "{off:?}");
    }
}
