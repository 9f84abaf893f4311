//! A confidence interval that may be looked at at any time. Leaf maths: no clock, no requests.
//!
//! An ordinary interval holds for one look, planned beforehand; a tick looks every second, and by the hundredth look an
//! ordinary 99% interval has excluded the truth more often than not. A confidence *sequence* holds at all looks together:
//! with probability 1 - alpha none of its intervals ever excludes the truth. This is the asymptotic one of
//! Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
//! sequences" (Annals of Statistics, 2024), theorem 2.2:
//!
//! ```text
//! mean +- s x sqrt( 2 (n r^2 + 1) / (n^2 r^2) x ln( sqrt(n r^2 + 1) / alpha ) )
//! ```
//! `r` says at which `n` it is narrowest (their equation for rho): `TUNED_TO`. It is about 1.4 times as wide as an ordinary
//! interval there.
//!
//! **The samples** are batches: in each, the difference of the two arms' means over the same moments. So what befalls both
//! arms (a slow hour, a deploy) cancels out, and requests of one batch may depend on each other as much as they like.

/// How many samples the sequence is narrowest at: with a batch a second, a minute.
const TUNED_TO: f64 = 60.0;
/// With fewer samples than this their spread is not known well enough: of means of 20 exponential latencies, the intervals
/// of 1.6% of sequences that begin at 10 samples exclude the truth somewhere, and of 0.85% of those that begin at 20.
pub const MIN_SAMPLES: usize = 20;

/// A mean, and between what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean of the samples.
    pub mean: f64,
    /// It is not lower.
    pub low: f64,
    /// It is not higher.
    pub high: f64,
}

/// The interval of the mean of what these are samples of, at a level of `1 - alpha`. None with fewer than `MIN_SAMPLES`.
#[must_use]
pub fn interval(samples: impl ExactSizeIterator<Item = f64> + Clone, alpha: f64) -> Option<Interval> {
    let n = samples.len();
    if n < MIN_SAMPLES {
        return None;
    }
    let count = n as f64;
    let mean = samples.clone().sum::<f64>() / count;
    let variance = samples.map(|s| (s - mean) * (s - mean)).sum::<f64>() / (count - 1.0);
    let half = variance.sqrt() * width(count, alpha);
    [mean, half].iter().all(|v| v.is_finite()).then_some(Interval { mean, low: mean - half, high: mean + half })
}

/// Half of the width, in standard deviations of a sample.
fn width(n: f64, alpha: f64) -> f64 {
    let log = -2.0 * alpha.ln();
    let r2 = (log + log.ln() + 1.0) / TUNED_TO;
    let grown = n * r2 + 1.0;
    (2.0 * grown / (n * n * r2) * (grown.sqrt() / alpha).ln()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    #[test]
    fn it_is_centred_and_narrows() {
        let of = |n: usize| interval((0..n).map(|i| if i % 2 == 0 { 1.0 } else { 3.0 }), 0.01).unwrap();
        let (few, many) = (of(20), of(200));
        assert!((few.mean - 2.0).abs() < 1e-9 && (few.high - 2.0 - (2.0 - few.low)).abs() < 1e-9);
        assert!(many.high - many.low < 0.4 * (few.high - few.low), "{few:?} {many:?}");
        assert_eq!(interval((0..MIN_SAMPLES - 1).map(|i| i as f64), 0.01), None);
        assert_eq!(interval([f64::NAN; MIN_SAMPLES].into_iter(), 0.01), None);
        let same = interval([5.0; MIN_SAMPLES].into_iter(), 0.01).unwrap();
        assert_eq!((same.low, same.high), (5.0, 5.0));
    }

    #[test]
    fn it_is_wider_than_an_ordinary_interval_and_not_by_much() {
        // 99% of a normal distribution lie within 2.576 standard deviations.
        let ordinary = 2.576 / 60f64.sqrt();
        assert!((1.2..1.6).contains(&(width(60.0, 0.01) / ordinary)), "{}", width(60.0, 0.01) / ordinary);
    }

    /// Of many runs of 240 looks each, the share in which any look excludes the truth.
    fn excluded(mut sample: impl FnMut(&mut SmallRng) -> f64, truth: f64) -> f64 {
        let mut rng = SmallRng::seed_from_u64(7);
        let runs = 500;
        let mut wrong = 0;
        for _ in 0..runs {
            let samples: Vec<f64> = (0..240).map(|_| sample(&mut rng)).collect();
            let excludes = |n: usize| {
                let i = interval(samples[..n].iter().copied(), 0.01).unwrap();
                i.low > truth || i.high < truth
            };
            wrong += usize::from((MIN_SAMPLES..=240).any(excludes));
        }
        wrong as f64 / f64::from(runs)
    }

    #[test]
    fn looking_at_every_sample_excludes_the_truth_hardly_ever() {
        // The difference of the means of 20 exponential latencies and 180 others: what batches are like.
        let mean = |rng: &mut SmallRng, n: u32| {
            (0..n).map(|_| -rng.random_range(f64::MIN_POSITIVE..1.0).ln()).sum::<f64>() / f64::from(n)
        };
        let share = excluded(|rng| mean(rng, 20) - mean(rng, 180), 0.0);
        assert!(share <= 0.02, "{share}");
    }
}
