//! What training makes small, over a batch of graphs merged into one.
//!
//! - **Prediction.** Of the intrinsic latency, and of the next window's mean, p99 and jitter: Huber on logarithms, and
//!   for the intrinsic latency and the mean also the relative error `|predicted - true| / true` itself, which is how they
//!   are judged. Its best answer lies below the mean: an answer that is too high by a factor costs more than one that is
//!   too low by it. For the jitter also the absolute error, by the batch's mean jitter.
//! - **Decision.** In each group the cross-entropy between the shares that the true and the predicted latencies would
//!   give (softmax at temperature 1/8: sharper than the pick's own 1, so that the order among near equals counts),
//!   and the regret to expect of a pick by sharp predicted shares. Where no intrinsic latency is known (recordings), the
//!   next window's mean stands in its place, in labels and predictions.
//! - **Load.** Huber on ln(1 + requests a second).

use crate::data::{Batch, Candidate};
use crate::net::Outputs;
use crate::simulator::truth::Trouble;
use crate::tensors::Rows;
use crate::{Error, Result};
use candle_core::{Device, Tensor};

/// From here on an error counts by itself instead of by its square.
const HUBER: f64 = 0.2;
/// Candidates in trouble are few and matter most.
const TROUBLE_WEIGHT: f32 = 2.0;
/// A window with fewer answers is mostly chance and is not judged; it still says something.
const LEAST_ANSWERS: u32 = 20;
const UNSURE_WEIGHT: f32 = 0.3;
/// The temperature of the shares in the loss.
const TEMPERATURE: f64 = 0.12;
/// The temperature of the shares by which regret is expected: near to taking the best.
const SHARP: f64 = 0.1;
/// A regret beyond this share of the best counts no more: one hopeless group should not rule a batch.
const LARGEST_REGRET: f32 = 3.0;
/// The relative error pulls no more beyond this logarithm: there Huber does.
const LARGEST_LOG: f64 = 4.0;

/// How much each part counts.
const INTRINSIC: f64 = 0.6;
const INTRINSIC_RELATIVE: f64 = 0.6;
const MEAN: f64 = 0.1;
const MEAN_RELATIVE: f64 = 0.9;
const P99: f64 = 0.15;
const JITTER: f64 = 0.2;
const JITTER_ABSOLUTE: f64 = 0.5;
const LOAD: f64 = 0.1;
const SHARES: f64 = 0.4;
const REGRET: f64 = 0.4;

/// The loss of a batch, `[]`.
///
/// # Errors
/// When a tensor operation fails.
pub fn loss(out: &Outputs<Tensor>, batch: &Batch<'_>, listwise: bool) -> Result<Tensor> {
    let of = |label: fn(&Candidate) -> f32| batch.candidates.iter().map(label).collect::<Vec<f32>>();
    let ones = vec![1.0; batch.candidates.len()];
    let weight = |c: &Candidate| if c.trouble == Trouble::None { 1.0 } else { TROUBLE_WEIGHT };
    let sure = |c: &Candidate| if (1..LEAST_ANSWERS).contains(&c.answers) { UNSURE_WEIGHT } else { 1.0 };
    let answered: Vec<f32> = batch.candidates.iter().map(sure).collect();
    let troubled: Vec<f32> = batch.candidates.iter().map(weight).collect();
    let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
    let mut add = |part: Tensor, weight: f64| -> Result<()> {
        total = (&total + (part * weight)?)?;
        Ok(())
    };

    let intrinsic = of(|c| c.intrinsic_s);
    let known = intrinsic.iter().any(|l| l.is_finite());
    let mean = of(|c| c.mean_s);
    let log_mean = out.latency_mean_s.log()?;
    if known {
        let off = Off::new(&out.score.neg()?, &intrinsic, &troubled, f32::ln)?;
        add(off.huber()?, INTRINSIC)?;
        add(off.relative()?, INTRINSIC_RELATIVE)?;
    }
    let off = Off::new(&log_mean, &mean, &answered, f32::ln)?;
    add(off.huber()?, MEAN)?;
    add(off.relative()?, MEAN_RELATIVE)?;
    add(Off::new(&out.latency_p99_s.log()?, &of(|c| c.p99_s), &ones, f32::ln)?.huber()?, P99)?;
    let jitter = of(|c| c.jitter_s);
    add(Off::new(&out.jitter_s.log()?, &jitter, &ones, |j| j.max(1e-6).ln())?.huber()?, JITTER)?;
    let off = Off::new(&out.jitter_s, &jitter, &ones, |j| j)?;
    let usual = jitter.iter().filter(|j| j.is_finite()).sum::<f32>() / off.count.max(1.0) as f32;
    add((off.absolute()? / f64::from(usual.max(1e-5)))?, JITTER_ABSOLUTE)?;
    let ones = vec![1.0; batch.node_load.len()];
    add(Off::new(&(&out.node_load + 1.0)?.log()?, &batch.node_load, &ones, f32::ln_1p)?.huber()?, LOAD)?;
    if listwise {
        let (score, labels) = if known { (out.score.clone(), &intrinsic) } else { (log_mean.neg()?, &mean) };
        let list = List::new(batch, labels)?;
        add(list.shares(&score)?, SHARES)?;
        add(list.regret(&score)?, REGRET)?;
    }
    Ok(total)
}

/// How far predictions are off, where a label is known.
struct Off {
    /// `[rows, 1]`, predicted less true.
    off: Tensor,
    /// `[rows, 1]`, 0 where nothing is known.
    weight: Tensor,
    /// The sum of weights, at least 1.
    count: f64,
}

impl Off {
    fn new(x: &Tensor, labels: &[f32], weights: &[f32], scale: impl Fn(f32) -> f32) -> Result<Self> {
        let weight: Vec<f32> =
            labels.iter().zip(weights).map(|(l, w)| if scale(*l).is_finite() { *w } else { 0.0 }).collect();
        let target = labels.iter().map(|l| Some(scale(*l)).filter(|l| l.is_finite()).unwrap_or(0.0)).collect();
        let count = f64::from(weight.iter().sum::<f32>().max(1.0));
        Ok(Self { off: (x - column(target)?)?, weight: column(weight)?, count })
    }

    fn mean(&self, of: &Tensor) -> Result<Tensor> {
        Ok(((of * &self.weight)?.sum_all()? / self.count)?)
    }

    fn huber(&self) -> Result<Tensor> {
        let off = self.off.abs()?;
        let small = off.clamp(0.0, HUBER)?;
        self.mean(&((small.sqr()? * (0.5 / HUBER))? + (off - small)?)?)
    }

    /// Of logarithms: `|predicted / true - 1|`.
    fn relative(&self) -> Result<Tensor> {
        self.mean(&(self.off.clamp(-8.0, LARGEST_LOG)?.exp()? - 1.0)?.abs()?)
    }

    fn absolute(&self) -> Result<Tensor> {
        self.mean(&self.off.abs()?)
    }
}

/// The groups of a batch and what is true of them.
struct List<'a> {
    groups: Rows,
    labels: &'a [f32],
    of: &'a [u32],
    /// For each group the least latency and how many candidates have one.
    best: Vec<(f32, u32)>,
    /// How many groups have a choice, at least 1.
    choices: f64,
}

impl<'a> List<'a> {
    fn new(batch: &'a Batch<'_>, labels: &'a [f32]) -> Result<Self> {
        let mut best = vec![(f32::INFINITY, 0u32); batch.group_count];
        for (label, group) in labels.iter().zip(&batch.groups).filter(|(l, _)| l.is_finite()) {
            if let Some(best) = best.get_mut(*group as usize) {
                *best = (best.0.min(*label), best.1 + 1);
            }
        }
        let choices = best.iter().filter(|b| b.1 > 1).count().max(1) as f64;
        let groups = Rows::new(batch.groups.clone(), batch.group_count)?;
        Ok(Self { groups, labels, of: &batch.groups, best, choices })
    }

    /// Something of each candidate of a group with a choice that has a label, from its label and the group's best.
    fn each(&self, value: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let best = |group: &u32| self.best.get(*group as usize).copied().unwrap_or_default();
        let each = self.labels.iter().zip(self.of).map(|(label, group)| match best(group) {
            (least, count) if count > 1 && label.is_finite() => value(*label, least),
            _ => 0.0,
        });
        each.collect()
    }

    /// The logarithms of the predicted shares of candidates with labels.
    fn log_shares(&self, score: &Tensor, temperature: f64) -> Result<Tensor> {
        let logits = (score / temperature)?;
        // Differences within a group matter alone; the group's mean keeps exp from leaving f32 at sharp temperatures.
        let known = column(self.each(|_, _| 1.0))?;
        let count = (self.groups.sum(&known)? + 1e-6)?;
        let centre = (self.groups.sum(&(&logits * &known)?)? / count)?;
        let logits = (logits - self.groups.gather(&centre)?)?.clamp(-40.0, 40.0)?;
        let sums = self.groups.sum(&(logits.exp()? * known)?)?;
        Ok((logits - self.groups.gather(&(sums + 1e-12)?.log()?)?)?)
    }

    /// The cross-entropy of true and predicted shares in each group, less the true shares' own entropy.
    fn shares(&self, score: &Tensor) -> Result<Tensor> {
        let power = (-1.0 / TEMPERATURE) as f32;
        let weights = self.each(|label, best| (label / best).powf(power));
        let mut totals = vec![0.0f32; self.best.len()];
        for (weight, group) in weights.iter().zip(self.of) {
            if let Some(total) = totals.get_mut(*group as usize) {
                *total += weight;
            }
        }
        let total = |group: &u32| totals.get(*group as usize).copied().unwrap_or(1.0).max(1e-12);
        let shares: Vec<f32> = weights.iter().zip(self.of).map(|(w, group)| w / total(group)).collect();
        let entropy: f64 = shares.iter().filter(|s| **s > 0.0).map(|s| f64::from(-s * s.ln())).sum();
        let cross = (self.log_shares(score, TEMPERATURE)? * column(shares)?)?.sum_all()?.neg()?;
        Ok(((cross - entropy)? / self.choices)?)
    }

    /// The regret to expect, as a share of the best.
    fn regret(&self, score: &Tensor) -> Result<Tensor> {
        let regret = column(self.each(|label, best| (label / best.max(1e-9) - 1.0).min(LARGEST_REGRET)))?;
        Ok(((self.log_shares(score, SHARP)?.exp()? * regret)?.sum_all()? / self.choices)?)
    }
}

fn column(values: Vec<f32>) -> Result<Tensor> {
    let count = values.len();
    Tensor::from_vec(values, (count, 1), &Device::Cpu).map_err(Error::from)
}
