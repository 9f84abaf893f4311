//! Fits a model's weights to samples: the network, its ablations and the learned rivals alike.
//!
//! Each step merges a few samples, parts of which are made unknown (`mask`), into two shards, sums the gradients of
//! their losses (`loss`) and moves the weights (`adam`); the shards are fixed, so one thread or two give the same. The
//! rate warms up and falls by a cosine to zero. Now and then the averaged weights are judged on runs apart (other seeds,
//! so other meshes; `figures`), those that did best by `Figures::criterion` are kept, and training ends early
//! when none were better for a while. A checkpoint lets a killed training go on as if nothing had happened.

pub mod adam;
pub mod checkpoint;
pub mod figures;
mod fine_tune;
pub mod loss;
pub mod mask;

pub use checkpoint::Look;
pub use figures::{Figures, figures};
pub use fine_tune::{FineTune, fine_tune};

use crate::data::{Batch, Sample};
use crate::net::{EDGE_EPS, NODE_EPS};
use crate::simulator::draw::Draw;
use crate::tensors::Candle;
use crate::variant::Kind;
use crate::weights::Weights;
use crate::{Error, Result};
use adam::AdamW;
use candle_core::Var;
use checkpoint::{Checkpoint, State};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;

/// How to train.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// How many steps.
    pub steps: usize,
    /// How many edges a step sees, about.
    pub edges: usize,
    /// The largest learning rate.
    pub rate: f64,
    /// How many steps between two looks at the validation figures.
    pub every: usize,
    /// Stop after this many looks without a better one.
    pub patience: usize,
    /// The seed of the start, the order and the masks.
    pub seed: u64,
    /// The digest of the samples.
    pub data: String,
    /// How many threads, 1 or 2; the result is the same.
    #[serde(skip)]
    pub threads: usize,
}

/// Where training keeps itself.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// The checkpoint; none is written without it.
    pub checkpoint: Option<PathBuf>,
    /// Whether to go on from it.
    pub resume: bool,
    /// Stop after this step, leaving a checkpoint to go on from.
    pub pause_at: Option<usize>,
}

/// What came of it.
#[derive(Debug)]
pub struct Trained {
    /// The best weights.
    pub weights: Weights,
    /// All looks at the validation figures.
    pub history: Vec<Look>,
}

/// Steps until the full rate.
const WARM_UP: f64 = 200.0;
/// What AdamW takes off the weights, a step, times the rate.
const DECAY: f32 = 0.01;
/// How many parts a step's samples are cut into.
const SHARDS: usize = 2;

/// Trains a model from a random start.
///
/// # Errors
/// When there are no samples, a tensor operation fails, or a checkpoint cannot be read or written.
pub fn train(samples: &[Sample], validation: &[Sample], kind: Kind, plan: &Plan, keep: &Keep) -> Result<Trained> {
    let weights = Weights::random(kind, plan.seed)?;
    normalise(&weights, samples)?;
    go_on(samples, validation, weights, plan, keep)
}

/// Trains a model further from these weights.
///
/// # Errors
/// As `train`.
pub fn go_on(samples: &[Sample], validation: &[Sample], weights: Weights, plan: &Plan, keep: &Keep) -> Result<Trained> {
    if samples.is_empty() || validation.is_empty() {
        return Err(Error::Format("no samples to train with".into()));
    }
    Fit { samples, validation, plan, masks: true }.run(weights, keep)
}

/// A training.
#[derive(Debug)]
struct Fit<'a> {
    samples: &'a [Sample],
    validation: &'a [Sample],
    plan: &'a Plan,
    /// Whether more is made unknown than is.
    masks: bool,
}

impl Fit<'_> {
    fn run(&self, mut weights: Weights, keep: &Keep) -> Result<Trained> {
        let plan = self.plan;
        let said = serde_json::to_string(plan).map_err(|e| Error::Format(e.to_string()))?;
        let said = format!("{} {said}", weights.kind());
        let mut optimiser = AdamW::new(&weights, DECAY)?;
        let mut best: Option<Weights> = None;
        let mut state = State { plan: said, step: 0, pass: 0, used: 0, loss: f64::NAN, worse: 0, history: Vec::new() };
        if let Some(path) = keep.checkpoint.as_deref().filter(|p| keep.resume && p.exists()) {
            let found = Checkpoint::read(path, &state.plan)?;
            (weights, optimiser, best) = found.restore(path, &weights)?;
            state = found.state;
        }
        let bar = bar(plan.steps, state.step);
        let mut order = self.order(state.pass);
        while state.step < plan.steps && state.worse < plan.patience {
            if keep.pause_at.is_some_and(|at| state.step >= at) {
                break;
            }
            let batch = self.next(&mut state, &mut order);
            let (value, gradients) = self.gradients(&weights, &batch, state.step)?;
            if !value.is_finite() {
                return Err(Error::Check(format!("the loss is {value} at step {}", state.step)));
            }
            state.loss = if state.loss.is_finite() { state.loss * 0.98 + value * 0.02 } else { value };
            let rate = rate(plan, state.step);
            optimiser.step(&gradients, rate as f32)?;
            state.step += 1;
            bar.inc(1);
            bar.set_message(format!("loss {:.4}", state.loss));
            if state.step.is_multiple_of(plan.every) || state.step == plan.steps {
                let averaged = optimiser.averaged(&weights)?;
                let validation = figures(&averaged, self.validation)?;
                let least = state.history.iter().map(|l| l.validation.criterion()).fold(f64::INFINITY, f64::min);
                let better = validation.criterion() < least;
                let sign = if better { " (best)" } else { "" };
                bar.suspend(|| eprintln!("step {}: loss {:.4}; {}{sign}", state.step, state.loss, validation.line()));
                state.history.push(Look { step: state.step, loss: state.loss, rate, validation, best: better });
                state.worse = if better { 0 } else { state.worse + 1 };
                if better {
                    best = Some(averaged);
                }
                if let Some(path) = &keep.checkpoint {
                    checkpoint::write(path, &state, &weights, best.as_ref(), &optimiser)?;
                }
            }
        }
        bar.finish_and_clear();
        if let Some(path) = keep.checkpoint.as_ref().filter(|_| keep.pause_at.is_some()) {
            checkpoint::write(path, &state, &weights, best.as_ref(), &optimiser)?;
        }
        let weights = match best {
            Some(best) => best,
            None => optimiser.averaged(&weights)?,
        };
        Ok(Trained { weights, history: state.history })
    }

    /// The samples' order in a pass.
    fn order(&self, pass: u64) -> Vec<usize> {
        let all: Vec<usize> = (0..self.samples.len()).collect();
        Draw::new(self.plan.seed ^ pass.wrapping_mul(0x9e37_79b9_7f4a_7c15)).some(&all, all.len())
    }

    /// The next samples, as this step sees them, in shards.
    fn next(&self, state: &mut State, order: &mut Vec<usize>) -> Vec<Vec<Sample>> {
        let mut draw = Draw::new(self.plan.seed.wrapping_add((state.step as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)));
        let mut shards: Vec<(usize, Vec<Sample>)> = vec![(0, Vec::new()); SHARDS];
        let mut edges = 0;
        while edges < self.plan.edges {
            let Some(next) = order.get(state.used).and_then(|i| self.samples.get(*i)) else {
                state.pass += 1;
                state.used = 0;
                *order = self.order(state.pass);
                continue;
            };
            state.used += 1;
            let size = next.features.edge_count().max(1);
            edges += size;
            let sample = if self.masks { mask::masked(next, &mut draw) } else { next.clone() };
            if let Some(least) = shards.iter_mut().min_by_key(|s| s.0) {
                least.0 += size;
                least.1.push(sample);
            }
        }
        shards.into_iter().map(|s| s.1).filter(|s| !s.is_empty()).collect()
    }

    /// The loss and its gradients, in the order of the trained weights: means over the shards.
    fn gradients(&self, weights: &Weights, shards: &[Vec<Sample>], step: usize) -> Result<(f64, Vec<Vec<f32>>)> {
        let seed = |shard: usize| self.plan.seed ^ ((step * SHARDS + shard) as u64).wrapping_mul(0xa076_1d64_78bd_642f);
        let parts: Vec<Result<(f64, Vec<Vec<f32>>)>> = if self.plan.threads > 1 {
            std::thread::scope(|scope| {
                let spawn = |(i, shard)| {
                    let seed = seed(i);
                    scope.spawn(move || gradients_of(weights, shard, seed))
                };
                let handles: Vec<_> = shards.iter().map(Vec::as_slice).enumerate().map(spawn).collect();
                let died = || Err(Error::Check("a training thread died".into()));
                handles.into_iter().map(|h| h.join().unwrap_or_else(|_| died())).collect()
            })
        } else {
            shards.iter().enumerate().map(|(i, shard)| gradients_of(weights, shard, seed(i))).collect()
        };
        let scale = 1.0 / parts.len().max(1) as f32;
        let mut parts = parts.into_iter();
        let (mut value, mut sum) = parts.next().ok_or_else(|| Error::Format("an empty step".into()))??;
        for part in parts {
            let (more, gradients) = part?;
            value += more;
            sum.iter_mut().zip(&gradients).for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
        }
        sum.iter_mut().flatten().for_each(|g| *g *= scale);
        Ok((value * f64::from(scale), sum))
    }
}

/// The loss of one shard and its gradients.
fn gradients_of(weights: &Weights, shard: &[Sample], seed: u64) -> Result<(f64, Vec<Vec<f32>>)> {
    let kind = weights.kind();
    let batch = Batch::new(shard, kind)?;
    let out = kind.forward(&Candle::training(weights, Draw::new(seed)), &batch.inputs)?;
    let loss = loss::loss(&out, &batch, kind.listwise())?;
    let value = f64::from(loss.to_scalar::<f32>()?);
    let found = loss.backward()?;
    let of = |var: &Var| match found.get(var.as_tensor()) {
        Some(gradient) => Ok(gradient.flatten_all()?.to_vec1::<f32>()?),
        // A weight that this shard had no use for.
        None => Ok(vec![0.0; var.elem_count()]),
    };
    Ok((value, weights.trained().iter().map(|(_, var)| of(var)).collect::<Result<_>>()?))
}

fn rate(plan: &Plan, step: usize) -> f64 {
    let warm = ((step + 1) as f64 / WARM_UP).min(1.0);
    plan.rate * warm * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / plan.steps as f64).cos())
}

fn bar(steps: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} eta {eta} {msg}") {
        bar.set_style(style);
    }
    bar.set_position(done as u64);
    bar
}

/// Sets the means and deviations of features, from what is known in the samples.
fn normalise(weights: &Weights, samples: &[Sample]) -> Result<()> {
    for (name, eps) in [("node", NODE_EPS.as_slice()), ("edge", EDGE_EPS.as_slice())] {
        let mut sums = vec![(0.0f64, 0.0f64, 0.0f64); eps.len()];
        for sample in samples {
            let values = if name == "node" { &sample.features.nodes } else { &sample.features.edge_features };
            for row in values.chunks_exact(eps.len()) {
                for ((sum, value), eps) in sums.iter_mut().zip(row).zip(eps).filter(|((_, v), _)| !v.is_nan()) {
                    let log = f64::from((value.clamp(0.0, 1e9) + eps).ln());
                    *sum = (sum.0 + 1.0, sum.1 + log, sum.2 + log * log);
                }
            }
        }
        let mean = |s: &(f64, f64, f64)| s.1 / s.0.max(1.0);
        let deviation = |s: &(f64, f64, f64)| (s.2 / s.0.max(1.0) - mean(s).powi(2)).max(0.0).sqrt();
        weights.set_row(&format!("{name}.centre"), &sums.iter().map(|s| mean(s) as f32).collect::<Vec<_>>())?;
        let scales: Vec<f32> = sums.iter().map(|s| (1.0 / deviation(s).max(0.05)) as f32).collect();
        weights.set_row(&format!("{name}.scale"), &scales)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
