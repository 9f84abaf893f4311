//! Adapts trained weights to somebody's own mesh, without forgetting what they knew.

use super::{Fit, Keep, Look, Plan, figures};
use crate::Result;
use crate::data::Sample;
use crate::weights::Weights;

/// How to fine-tune.
#[derive(Debug, Clone)]
pub struct FineTune {
    /// How many steps at most.
    pub steps: usize,
    /// How many edges a step sees, about.
    pub edges: usize,
    /// The largest learning rate: low, because the weights are good already.
    pub rate: f64,
    /// How many steps between two looks at the held-back part.
    pub every: usize,
    /// Stop after this many looks without a better one.
    pub patience: usize,
    /// The seed of the order.
    pub seed: u64,
}

impl Default for FineTune {
    fn default() -> Self {
        Self { steps: 600, edges: 1_500, rate: 3e-4, every: 50, patience: 4, seed: 1 }
    }
}

/// Trains on from `weights`, and returns what did best on `validation`, which it never trained on: `weights` themselves
/// when nothing was better. Labels may be unknown in part; without intrinsic latencies the observed means rule decisions.
///
/// # Errors
/// When a tensor operation fails.
pub fn fine_tune(
    weights: &Weights,
    samples: &[Sample],
    validation: &[Sample],
    plan: &FineTune,
) -> Result<(Weights, Vec<Look>)> {
    if samples.is_empty() || validation.is_empty() {
        return Ok((weights.copy()?, Vec::new()));
    }
    let before = figures(weights, validation)?;
    let FineTune { steps, edges, rate, every, patience, seed } = *plan;
    let plan = Plan { steps, edges, rate, every, patience, seed, data: String::new(), threads: 1 };
    let fit = Fit { samples, validation, plan: &plan, masks: false };
    let found = fit.run(weights.copy()?, &Keep::default())?;
    let after = figures(&found.weights, validation)?;
    let better = after.criterion() < before.criterion();
    Ok((if better { found.weights } else { weights.copy()? }, found.history))
}
