//! What is looked at during training, on runs that it does not train on: the judged figures and one number made of them.

use crate::Result;
use crate::data::{Candidate, Sample};
use crate::learned::predict;
use crate::predict::{Prediction, Predictions};
use crate::weights::Weights;
use serde::{Deserialize, Serialize};

/// A window with fewer answers is mostly chance: it is not judged, as in `evaluate`. Zero answers is no word of them.
const LEAST_ANSWERS: u32 = 20;
/// A choice within this share of the best counts as right.
const GOOD_ENOUGH: f32 = 1.02;

/// The judged figures; 0 where nothing could be judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Mean relative error of the intrinsic latency.
    pub intrinsic: f64,
    /// Mean relative error of the next window's mean latency.
    pub mean: f64,
    /// Mean relative error of its 99th percentile.
    pub p99: f64,
    /// Mean absolute error of its jitter in milliseconds.
    pub jitter_ms: f64,
    /// The share of choices that were the best, or within 2% of it.
    pub accuracy: f64,
    /// Mean regret as a share of the best.
    pub regret: f64,
}

impl Figures {
    /// The criterion: the best weights are those with the least.
    #[must_use]
    pub fn criterion(&self) -> f64 {
        self.intrinsic + self.mean + (1.0 - self.accuracy) + self.regret
    }

    /// In a line.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "intrinsic {:.4}, mean {:.4}, p99 {:.4} (relative errors), jitter {:.2} ms, right {:.2}%, regret {:.2}%",
            self.intrinsic,
            self.mean,
            self.p99,
            self.jitter_ms,
            self.accuracy * 100.0,
            self.regret * 100.0
        )
    }
}

/// A mean that grows.
#[derive(Debug, Clone, Copy, Default)]
struct Mean(f64, u64);

impl Mean {
    fn add(&mut self, value: f32) {
        if value.is_finite() {
            *self = Mean(self.0 + f64::from(value), self.1 + 1);
        }
    }
    fn value(self) -> f64 {
        self.0 / self.1.max(1) as f64
    }
}

/// Measures weights.
///
/// # Errors
/// When a tensor operation fails.
pub fn figures(weights: &Weights, samples: &[Sample]) -> Result<Figures> {
    Ok(judge(samples, &predict(weights, samples)?))
}

/// Judges predictions, sample by sample.
#[must_use]
pub fn judge(samples: &[Sample], predictions: &[Predictions]) -> Figures {
    let [mut intrinsic, mut mean, mut p99, mut jitter, mut right, mut regret] = [Mean::default(); 6];
    for (sample, found) in samples.iter().zip(predictions) {
        let rows: Vec<(&Candidate, &Prediction)> = sample.candidates.iter().zip(&found.candidates).collect();
        for (c, p) in &rows {
            intrinsic.add((p.cost - c.intrinsic_s).abs() / c.intrinsic_s);
            if (1..LEAST_ANSWERS).contains(&c.answers) {
                continue;
            }
            mean.add((p.mean_s - c.mean_s).abs() / c.mean_s);
            p99.add((p.p99_s - c.p99_s).abs() / c.p99_s);
            jitter.add((p.jitter_s - c.jitter_s).abs() * 1e3);
        }
        for group in rows.chunk_by(|a, b| a.0.group == b.0.group) {
            // In a recording nobody knows what is intrinsic.
            let simulated = group.iter().any(|(c, _)| c.intrinsic_s.is_finite());
            let pair = |(c, p): &(&Candidate, &Prediction)| {
                if simulated { (c.intrinsic_s, p.cost) } else { (c.mean_s, p.mean_s) }
            };
            let known: Vec<(f32, f32)> = group.iter().map(pair).filter(|(truth, _)| truth.is_finite()).collect();
            if known.len() > 1 {
                let best = known.iter().map(|k| k.0).fold(f32::INFINITY, f32::min);
                let chosen = known.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(f32::NAN, |k| k.0);
                right.add(f32::from(u8::from(chosen <= best * GOOD_ENOUGH)));
                regret.add(chosen / best - 1.0);
            }
        }
    }
    Figures {
        intrinsic: intrinsic.value(),
        mean: mean.value(),
        p99: p99.value(),
        jitter_ms: jitter.value(),
        accuracy: right.value(),
        regret: regret.value(),
    }
}
