//! Fits the network's weights to simulated samples.
//!
//! Loss, over a batch of graphs merged into one:
//! - the score: Huber on the logarithm of the intrinsic latency, and the cross-entropy between the shares that the
//!   true and the predicted latencies would give a group's candidates (softmax at temperature 1/2: sharper than the
//!   pick's own 1, so that the order among near equals counts);
//! - the next window's mean, p99 and jitter: Huber on logarithms, where something was observed;
//! - each node's load: Huber on ln(1 + requests a second).
//!
//! In part of the samples a share of links is made unknown, as if nobody had used them, so that the network learns what
//! the rest of the graph says about a link that nobody knows. AdamW with a warm-up and a cosine to zero; the weights
//! that did best on runs apart (other seeds, so other meshes) are kept.

use crate::data::{Batch, Candidate, Sample};
use crate::evaluate::figures;
use crate::net::{EDGE_EPS, FE, FN, NODE_EPS, Outputs, forward};
use crate::simulator::draw::Draw;
use crate::simulator::truth::Trouble;
use crate::tensors::{Candle, Rows};
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// How to train.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many batches.
    pub steps: usize,
    /// How many edges a batch has, about.
    pub edges: usize,
    /// The largest learning rate.
    pub rate: f64,
    /// How many batches between two looks at the validation figures.
    pub every: usize,
    /// Stop after this many looks without a better one.
    pub patience: usize,
    /// The seed of the start, the order and the masks.
    pub seed: u64,
}

/// From here on an error counts by itself instead of by its square.
const HUBER: f64 = 0.2;
/// Candidates in trouble are few and matter most.
const TROUBLE_WEIGHT: f32 = 2.0;
/// The temperature of the shares in the loss.
const TEMPERATURE: f64 = 0.5;

/// Trains, keeping the best weights at `checkpoint`; returns them.
///
/// # Errors
/// When there are no samples, a tensor operation fails or the checkpoint cannot be written.
pub fn train(samples: &[Sample], validation: &[Sample], plan: &Plan, checkpoint: &Path) -> Result<Weights> {
    if samples.is_empty() || validation.is_empty() {
        return Err(Error::Format("no samples to train with".into()));
    }
    if let Some(parent) = checkpoint.parent() {
        std::fs::create_dir_all(parent).map_err(Error::at(parent))?;
    }
    let weights = Weights::random(plan.seed)?;
    normalise(&weights, samples)?;
    let mut draw = Draw::new(plan.seed);
    let mut optimiser =
        AdamW::new(weights.trained(), ParamsAdamW { lr: plan.rate, weight_decay: 0.01, ..ParamsAdamW::default() })?;
    let bar = ProgressBar::new(plan.steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} eta {eta} {msg}") {
        bar.set_style(style);
    }
    let mut order: Vec<usize> = Vec::new();
    let (mut best, mut worse, mut running) = (f64::INFINITY, 0, f64::NAN);
    let all: Vec<usize> = (0..samples.len()).collect();
    for step in 0..plan.steps {
        let mut batch = Vec::new();
        let mut edges = 0;
        while edges < plan.edges {
            let next = match order.pop() {
                Some(next) => next,
                None => {
                    order = draw.some(&all, all.len());
                    continue;
                }
            };
            let Some(sample) = samples.get(next) else { continue };
            edges += sample.features.edge_count().max(1);
            batch.push(masked(sample, &mut draw));
        }
        let batch = Batch::new(&batch)?;
        let loss = loss(&forward(&Candle { weights: &weights }, &batch.inputs)?, &batch)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(Error::Check(format!("the loss is {value} at step {step}")));
        }
        running = if running.is_nan() { value } else { running * 0.98 + value * 0.02 };
        let warm = ((step + 1) as f64 / 200.0).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / plan.steps as f64).cos());
        optimiser.set_learning_rate(plan.rate * warm * cosine);
        optimiser.backward_step(&loss)?;
        weights.keep_ones()?;
        bar.inc(1);
        bar.set_message(format!("loss {running:.4}"));
        if (step + 1) % plan.every == 0 || step + 1 == plan.steps {
            let found = figures(&weights, validation)?;
            let better = found.loss() < best;
            let line = format!("step {}: loss {running:.4}; validation {}", step + 1, found.line());
            bar.suspend(|| eprintln!("{line}{}", if better { " (best)" } else { "" }));
            if better {
                (best, worse) = (found.loss(), 0);
                weights.save(checkpoint)?;
            } else {
                worse += 1;
                if worse >= plan.patience {
                    break;
                }
            }
        }
    }
    bar.finish_and_clear();
    Weights::load(checkpoint)
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

/// A copy in which more is unknown: links as if unused, nodes as if unseen, or a column that this mesh does not have.
fn masked(sample: &Sample, draw: &mut Draw) -> Sample {
    let mut sample = sample.clone();
    let f = &mut sample.features;
    if draw.chance(0.3) {
        let share = draw.uniform(0.1, 0.7);
        let watched = draw.chance(0.7);
        for row in f.edge_features.chunks_exact_mut(FE) {
            if draw.chance(share) {
                unused(row, watched);
            }
        }
    }
    if draw.chance(0.12) {
        let share = draw.uniform(0.1, 1.0);
        for row in f.nodes.chunks_exact_mut(FN) {
            if draw.chance(share) {
                // All but what the node itself reports and how many replicas there are.
                row.iter_mut().skip(7).take(4).for_each(|v| *v = f32::NAN);
            }
        }
    }
    if draw.chance(0.1) {
        let column = draw.whole(0, FE - 1);
        f.edge_features.chunks_exact_mut(FE).filter_map(|row| row.get_mut(column)).for_each(|v| *v = f32::NAN);
    }
    if draw.chance(0.1) {
        let column = draw.whole(0, FN - 1);
        f.nodes.chunks_exact_mut(FN).filter_map(|row| row.get_mut(column)).for_each(|v| *v = f32::NAN);
    }
    sample
}

/// The column of `same_zone`.
const SAME_ZONE: usize = 11;

/// Makes an edge's features those of a link that nobody used; `watched` if it is known that nobody did.
pub(crate) fn unused(row: &mut [f32], watched: bool) {
    let same_zone = row.get(SAME_ZONE).copied().unwrap_or(f32::NAN);
    row.fill(f32::NAN);
    for (column, value) in [(6, if watched { 0.0 } else { f32::NAN }), (8, 0.0), (9, 0.0), (SAME_ZONE, same_zone)] {
        if let Some(slot) = row.get_mut(column) {
            *slot = value;
        }
    }
}

/// Mean Huber loss of `x - ln(label)` where a label is known.
fn huber(x: &Tensor, labels: &[f32], log: impl Fn(f32) -> f32) -> Result<Tensor> {
    weighted_huber(x, labels, labels.iter().map(|_| 1.0), log)
}

/// The same with a weight for each label.
fn weighted_huber(
    x: &Tensor,
    labels: &[f32],
    weights: impl Iterator<Item = f32>,
    log: impl Fn(f32) -> f32,
) -> Result<Tensor> {
    let known: Vec<f32> = labels.iter().zip(weights).map(|(l, w)| if l.is_finite() { w } else { 0.0 }).collect();
    let target: Vec<f32> = labels.iter().map(|l| if l.is_finite() { log(*l) } else { 0.0 }).collect();
    let count = f64::from(known.iter().sum::<f32>().max(1.0));
    let (known, target) = (column(known)?, column(target)?);
    let off = (x - target)?.abs()?;
    let small = off.clamp(0.0, HUBER)?;
    let loss = (((small.sqr()? * (0.5 / HUBER))? + (off - small)?)? * known)?;
    Ok((loss.sum_all()? / count)?)
}

fn column(values: Vec<f32>) -> Result<Tensor> {
    let count = values.len();
    Ok(Tensor::from_vec(values, (count, 1), &Device::Cpu)?)
}

fn loss(out: &Outputs<Tensor>, batch: &Batch<'_>) -> Result<Tensor> {
    let of = |label: fn(&Candidate) -> f32| batch.candidates.iter().map(label).collect::<Vec<f32>>();
    let intrinsic = of(|c| c.intrinsic_s);
    let weight = |c: &Candidate| if c.trouble == Trouble::None { 1.0 } else { TROUBLE_WEIGHT };
    let score = weighted_huber(&out.score.neg()?, &intrinsic, batch.candidates.iter().map(weight), f32::ln)?;
    let mean = huber(&out.latency_mean_s.log()?, &of(|c| c.mean_s), f32::ln)?;
    let p99 = huber(&out.latency_p99_s.log()?, &of(|c| c.p99_s), f32::ln)?;
    let jitter = huber(&out.jitter_s.log()?, &of(|c| c.jitter_s), |j| j.max(1e-6).ln())?;
    let load = huber(&(&out.node_load + 1.0)?.log()?, &batch.node_load, f32::ln_1p)?;
    let list = shares(&out.score, &intrinsic, batch)?;
    let spread = ((mean * 0.3)? + ((p99 + jitter)? * 0.2)?)?;
    Ok(((score + (list * 0.5)?)? + (spread + (load * 0.2)?)?)?)
}

/// The cross-entropy of true and predicted shares in each group, less the true shares' own entropy.
fn shares(score: &Tensor, intrinsic_s: &[f32], batch: &Batch<'_>) -> Result<Tensor> {
    let weight = |l: &f32| if l.is_finite() { f64::from(*l).powf(-1.0 / TEMPERATURE) } else { 0.0 };
    let mut totals = vec![(0.0f64, 0u32); batch.group_count];
    for (label, group) in intrinsic_s.iter().zip(&batch.groups) {
        if let Some(total) = totals.get_mut(*group as usize) {
            *total = (total.0 + weight(label), total.1 + u32::from(label.is_finite()));
        }
    }
    let choices = totals.iter().filter(|t| t.1 > 1).count().max(1) as f64;
    let mut entropy = 0.0;
    let mut shares = Vec::with_capacity(intrinsic_s.len());
    let mut counts = Vec::with_capacity(intrinsic_s.len());
    for (label, group) in intrinsic_s.iter().zip(&batch.groups) {
        let (total, count) = totals.get(*group as usize).copied().unwrap_or_default();
        let share = if count > 1 { weight(label) / total } else { 0.0 };
        entropy -= if share > 0.0 { share * share.ln() } else { 0.0 };
        shares.push(share as f32);
        counts.push(f32::from(u8::from(label.is_finite())));
    }
    let logits = (score / TEMPERATURE)?;
    let rows = Rows::new(batch.groups.clone(), batch.group_count)?;
    let sums = rows.sum(&(logits.exp()? * column(counts)?)?)?;
    let normal = rows.gather(&(sums + 1e-12)?.log()?)?;
    let cross = ((logits - normal)? * column(shares)?)?.sum_all()?.neg()?;
    Ok(((cross - entropy)? / choices)?)
}
