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
use crate::data::Sample;
use crate::predict::{Predictions, Predictor};
use crate::weights::Weights;

/// Weights as a predictor, on candle.
#[derive(Debug)]
pub struct Network<'a> {
    /// The weights.
    pub weights: &'a Weights,
}

impl Predictor for Network<'_> {
    fn name(&self) -> &str {
        "model"
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        crate::learned::predict(self.weights, samples)
    }
}
