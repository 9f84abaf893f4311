//! How good a predictor is on samples that it never saw, beside its rivals and the noise.
//!
//! - `figures` counts: errors, decisions, regret, rank correlation, by run and by slice, and the noise floor.
//! - `stats` makes intervals: over seeds, and of the difference of two predictors on the same runs.
//! - `summary` puts seeds together and says it as JSON, `text` for a terminal.
//!
//! `evaluate` and `replay` use the same code, with another truth of decisions (`figures::Truth`):
//! ```text
//! let report = figures::measure(&mut predictors, &samples, &Options::new(Truth::Observed))?;   // the model first
//! let summary = Summary::of(&[(seed, report)], seed);                                          // one report a seed
//! ```

pub mod figures;
pub mod play;
pub mod slices;
pub mod stats;
pub mod summary;
pub mod tally;
pub mod targets;
mod text;

#[cfg(test)]
mod tests;

pub use figures::{Measured, Options, Report, Truth, measure};
pub use slices::Slice;
pub use stats::{Difference, Interval};
pub use summary::{Line, Summary};
pub use tally::{Figure, Tally};

use crate::Result;
use crate::data::{Batch, Sample};
use crate::net::forward;
use crate::predict::{Prediction, Predictions, Predictor};
use crate::tensors::Candle;
use crate::weights::Weights;

/// Weights as a predictor, on candle.
#[derive(Debug)]
pub struct Network<'a> {
    /// The weights.
    pub weights: &'a Weights,
}

/// How many samples one batch holds.
const SAMPLES: usize = 32;

impl Predictor for Network<'_> {
    fn name(&self) -> &str {
        "model"
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        let mut all = Vec::with_capacity(samples.len());
        for chunk in samples.chunks(SAMPLES) {
            let batch = Batch::new(chunk)?;
            let out = forward(&Candle { weights: self.weights }, &batch.inputs)?;
            let flat = |t: &candle_core::Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
            let mut cost = flat(&out.score)?.into_iter().map(|s| (-s).exp());
            let (mut mean, mut p99) = (flat(&out.latency_mean_s)?.into_iter(), flat(&out.latency_p99_s)?.into_iter());
            let (mut jitter, mut load) = (flat(&out.jitter_s)?.into_iter(), flat(&out.node_load)?.into_iter());
            for sample in chunk {
                let mut next = || Prediction {
                    cost: cost.next().unwrap_or(f32::NAN),
                    mean_s: mean.next().unwrap_or(f32::NAN),
                    p99_s: p99.next().unwrap_or(f32::NAN),
                    jitter_s: jitter.next().unwrap_or(f32::NAN),
                };
                all.push(Predictions {
                    candidates: sample.candidates.iter().map(|_| next()).collect(),
                    node_load: load.by_ref().take(sample.node_load.len()).collect(),
                });
            }
        }
        Ok(all)
    }
}

/// A look at the validation figures during training.
#[derive(Debug, Clone)]
pub struct Validation(Tally);

impl Validation {
    /// What training makes small: the error in the logarithm and the regret of its choices.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let Self(tally) = self;
        tally.value(Figure::IntrinsicLogError) + 0.5 * tally.value(Figure::RegretPercent) / 100.0
    }

    /// The most important figures in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let of = |f: Figure| format!("{} {}", f.title(), f.text(self.0.value(f)));
        Figure::MAIN.map(of).join(", ")
    }
}

/// Weights' figures on samples.
///
/// # Errors
/// When a tensor operation fails.
pub fn figures(weights: &Weights, samples: &[Sample]) -> Result<Validation> {
    let mut predictors: [Box<dyn Predictor + '_>; 1] = [Box::new(Network { weights })];
    let report = measure(&mut predictors, samples, &Options::new(Truth::Intrinsic))?;
    Ok(Validation(report.predictors.first().map(Measured::pooled).unwrap_or_default()))
}
