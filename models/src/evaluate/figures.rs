//! The figures of predictors on samples: what is counted, and how.
//!
//! - **Errors** of the next window's mean, p99 and jitter count where the label stands on at least
//!   `Options::least_answers` answers; below that the label is mostly the sampling's.
//! - **Decisions** count in groups (one caller, one called service) where the truth of two candidates or more is known.
//!   The lowest cost is chosen; among equal costs each is chosen as often, so a predictor with one cost for all is
//!   exactly the random choice. No word (NaN) is chosen last. A candidate without truth (crashed, or not called in a
//!   recording's next window) can neither be chosen nor be the best.
//! - **Rank correlation** is Spearman's with mean ranks for ties, in the same groups; a predictor that ranks nothing
//!   has 0 there, and groups whose candidates are all equally good count nowhere.
//! - **The noise floor** is an oracle that knows each window's expected mean and jitter (from other fates of the same
//!   window): the error that is left is the sampling's. It is the floor of predictors of the mean; since the relative error
//!   weighs small outcomes more, a predictor that aims lower on purpose could do slightly better. The expectation is
//!   itself the mean over few fates, which makes the floor slightly too high.
//! - **Slices** count the same for a part of the candidates. A decision belongs to all slices that one of the group's
//!   candidates belongs to.

use super::slices::{Slice, slices};
use super::tally::{Figure, Tally};
use crate::data::{Candidate, Sample};
use crate::predict::{Prediction, Predictions, Predictor};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// A choice within this factor of the best counts as right.
pub const GOOD_ENOUGH: f64 = 1.02;
/// Labels of the next window that stand on fewer answers do not count, unless another number is asked for.
pub const LEAST_ANSWERS: u32 = 20;
/// Of each sample at most this many points are kept for the plot of predicted against observed.
const POINTS_A_SAMPLE: usize = 20;

/// Which truth decisions are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// The intrinsic latency, which only a simulator knows.
    Intrinsic,
    /// The mean that the next window showed: all that a recording has. Holds the sampling's noise.
    Observed,
}

/// What to count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The truth of decisions.
    pub truth: Truth,
    /// The answers that a label of the next window must stand on.
    pub least_answers: u32,
}

impl Options {
    /// The usual threshold with this truth.
    #[must_use]
    pub fn new(truth: Truth) -> Self {
        Self { truth, least_answers: LEAST_ANSWERS }
    }
}

/// How one predictor did.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// For each run (of its seed).
    pub runs: BTreeMap<u64, Tally>,
    /// For each slice.
    pub slices: BTreeMap<Slice, Tally>,
    /// How the relative errors of the next window's mean are distributed.
    pub errors: Errors,
    /// Observed and predicted means of some candidates, in seconds.
    pub points: Vec<(f32, f32)>,
}

impl Measured {
    /// Over all runs.
    #[must_use]
    pub fn pooled(&self) -> Tally {
        Tally::of(self.runs.values())
    }

    fn merge(&mut self, other: Self) {
        for (run, tally) in &other.runs {
            self.runs.entry(*run).or_default().merge(tally);
        }
        for (slice, tally) in &other.slices {
            self.slices.entry(*slice).or_default().merge(tally);
        }
        self.errors.merge(&other.errors);
        self.points.extend(other.points);
    }
}

/// Counts of relative errors in bins of equal width in the logarithm.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors(Vec<u64>);

impl Default for Errors {
    fn default() -> Self {
        Self(vec![0; Self::BINS])
    }
}

impl Errors {
    const BINS: usize = 200;
    const LOWEST: f64 = 1e-3;
    const HIGHEST: f64 = 10.0;

    fn add(&mut self, error: f64) {
        if error.is_finite() {
            let place = (error.max(Self::LOWEST) / Self::LOWEST).ln() / (Self::HIGHEST / Self::LOWEST).ln();
            let bin = ((place * Self::BINS as f64) as usize).min(Self::BINS - 1);
            if let Some(count) = self.0.get_mut(bin) {
                *count += 1;
            }
        }
    }

    /// Counts all that another counted.
    pub fn merge(&mut self, other: &Errors) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }

    /// The cumulated distribution: an error, and the share of candidates whose error is at most that.
    #[must_use]
    pub fn cumulated(&self) -> Vec<(f64, f64)> {
        let all = self.0.iter().sum::<u64>().max(1) as f64;
        let edge = |i: usize| Self::LOWEST * (Self::HIGHEST / Self::LOWEST).powf((i + 1) as f64 / Self::BINS as f64);
        let mut sum = 0;
        let counts = self.0.iter().enumerate();
        counts
            .map(|(i, count)| {
                sum += count;
                (edge(i), sum as f64 / all)
            })
            .collect()
    }

    /// The median error, to about 5%; NaN of nothing.
    #[must_use]
    pub fn median(&self) -> f64 {
        if self.0.iter().all(|c| *c == 0) {
            return f64::NAN;
        }
        self.cumulated().into_iter().find(|(_, share)| *share >= 0.5).map_or(f64::NAN, |(error, _)| error)
    }
}

/// All predictors' figures on one set of samples: those of one seed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order in which they were given: the model first, by convention.
    pub predictors: Vec<Measured>,
    /// The oracle.
    pub floor: Measured,
    /// How many samples.
    pub samples: usize,
}

impl Report {
    /// One predictor by its name.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&Measured> {
        self.predictors.iter().find(|m| m.name == name)
    }

    /// Adds what the same predictors did on other samples.
    pub fn merge(&mut self, other: Report) {
        if self.predictors.is_empty() {
            *self = other;
            return;
        }
        for (mine, more) in self.predictors.iter_mut().zip(other.predictors) {
            mine.merge(more);
        }
        self.floor.merge(other.floor);
        self.samples += other.samples;
    }
}

/// Measures predictors on samples.
///
/// # Errors
/// When a predictor fails, or does not say one word a candidate.
pub fn measure(predictors: &mut [Box<dyn Predictor + '_>], samples: &[Sample], options: &Options) -> Result<Report> {
    let mut report = Report { samples: samples.len(), ..Report::default() };
    let put = |name: &str, kind: Kind, said: &[Predictions]| -> Result<Measured> {
        let mut measured = Measured { name: name.into(), ..Measured::default() };
        if said.len() != samples.len() {
            return Err(Error::Check(format!("{name} predicts {} of {} samples", said.len(), samples.len())));
        }
        for (sample, said) in samples.iter().zip(said) {
            if said.candidates.len() != sample.candidates.len() {
                let (n, of) = (said.candidates.len(), sample.candidates.len());
                return Err(Error::Check(format!("{name} predicts {n} of {of} candidates")));
            }
            count(&mut measured, kind, sample, said, options);
        }
        Ok(measured)
    };
    for predictor in predictors.iter_mut() {
        let said = predictor.predict(samples)?;
        let kind = if predictor.cost_is_latency() { Kind::Latency } else { Kind::Other };
        let measured = put(predictor.name(), kind, &said)?;
        report.predictors.push(measured);
    }
    let oracle: Vec<Predictions> = samples.iter().map(|s| expectation(s, options)).collect();
    report.floor = put("noise floor", Kind::Oracle, &oracle)?;
    Ok(report)
}

/// What a predictor's cost is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A latency.
    Latency,
    /// Something else.
    Other,
    /// The oracle's: where it does not know a cost, it has no decision.
    Oracle,
}

/// What the oracle says: the expected figures, and the truth itself where decisions are judged by what has no noise.
fn expectation(sample: &Sample, options: &Options) -> Predictions {
    let of = |c: &Candidate| Prediction {
        cost: if options.truth == Truth::Intrinsic { c.intrinsic_s } else { c.expected_mean_s },
        mean_s: c.expected_mean_s,
        p99_s: f32::NAN,
        jitter_s: c.expected_jitter_s,
    };
    Predictions { candidates: sample.candidates.iter().map(of).collect(), node_load: Vec::new() }
}

fn count(to: &mut Measured, kind: Kind, sample: &Sample, said: &Predictions, options: &Options) {
    let of = slices(sample);
    let mut run = Tally::default();
    let stride = sample.candidates.len().div_ceil(POINTS_A_SAMPLE).max(1);
    for (i, ((c, p), of)) in sample.candidates.iter().zip(&said.candidates).zip(&of).enumerate() {
        let mut tally = Tally::default();
        if c.answers >= options.least_answers {
            let error = relative(p.mean_s, c.mean_s);
            tally.add(Figure::MeanRelativeError, error);
            tally.add(Figure::P99RelativeError, relative(p.p99_s, c.p99_s));
            tally.add(Figure::JitterErrorMs, (f64::from(p.jitter_s) - f64::from(c.jitter_s)).abs() * 1e3);
            to.errors.add(error);
            if error.is_finite() && i % stride == 0 {
                to.points.push((c.mean_s, p.mean_s));
            }
        }
        if kind == Kind::Latency {
            tally.add(Figure::IntrinsicRelativeError, relative(p.cost, c.intrinsic_s));
            let ratio = f64::from(p.cost) / f64::from(c.intrinsic_s);
            tally.add(Figure::IntrinsicLogError, if ratio > 0.0 { ratio.ln().abs() } else { f64::NAN });
        }
        run.merge(&tally);
        of.iter().for_each(|slice| to.slices.entry(*slice).or_default().merge(&tally));
    }
    for (truth, predicted) in sample.node_load.iter().zip(&said.node_load) {
        run.add(Figure::LoadError, (f64::from(*predicted) - f64::from(*truth)).abs() / (f64::from(*truth) + 1.0));
    }
    let mut group: Vec<(f64, f64)> = Vec::new();
    let mut of_group: Vec<Slice> = Vec::new();
    let ends = sample.candidates.iter().map(|c| c.group).skip(1).map(Some).chain([None]);
    for (((c, p), of), next) in sample.candidates.iter().zip(&said.candidates).zip(&of).zip(ends) {
        let truth = match options.truth {
            Truth::Intrinsic => f64::from(c.intrinsic_s),
            Truth::Observed if c.answers >= options.least_answers => f64::from(c.mean_s),
            Truth::Observed => f64::NAN,
        };
        if truth.is_finite() {
            group.push((truth, f64::from(p.cost)));
            of_group.extend(of.iter().filter(|s| !s.is_of_label()));
        }
        if next == Some(c.group) {
            continue;
        }
        let decides = kind != Kind::Oracle || group.iter().all(|(_, cost)| cost.is_finite());
        if let Some(tally) = decide(&group).filter(|_| decides) {
            run.merge(&tally);
            of_group.sort_unstable();
            of_group.dedup();
            of_group.iter().for_each(|slice| to.slices.entry(*slice).or_default().merge(&tally));
        }
        group.clear();
        of_group.clear();
    }
    to.runs.entry(sample.run).or_default().merge(&run);
}

fn relative(predicted: f32, truth: f32) -> f64 {
    let (predicted, truth) = (f64::from(predicted), f64::from(truth));
    if truth > 0.0 { (predicted - truth).abs() / truth } else { f64::NAN }
}

/// One decision among (truth, cost); none where there is no choice.
pub(super) fn decide(group: &[(f64, f64)]) -> Option<Tally> {
    if group.len() < 2 {
        return None;
    }
    // No word is the last to be chosen.
    let cost = |c: f64| if c.is_nan() { f64::INFINITY } else { c };
    let lowest = group.iter().map(|(_, c)| cost(*c)).fold(f64::INFINITY, f64::min);
    let best = group.iter().map(|(t, _)| *t).fold(f64::INFINITY, f64::min);
    let chosen: Vec<f64> = group.iter().filter(|(_, c)| cost(*c) <= lowest).map(|(t, _)| *t).collect();
    let n = chosen.len().max(1) as f64;
    let right = chosen.iter().filter(|t| **t <= best * GOOD_ENOUGH).count() as f64 / n;
    let regret = chosen.iter().map(|t| t - best).sum::<f64>() / n;
    let mut tally = Tally::default();
    tally.add(Figure::DecisionAccuracy, right);
    tally.add(Figure::RegretMs, regret * 1e3);
    tally.add(Figure::RegretPercent, regret / best * 100.0);
    let costs: Vec<f64> = group.iter().map(|(_, c)| cost(*c)).collect();
    let truths: Vec<f64> = group.iter().map(|(t, _)| *t).collect();
    tally.add(Figure::RankCorrelation, spearman(&costs, &truths));
    Some(tally)
}

/// Spearman's rank correlation; 0 where the first ranks nothing, NaN where the second does not.
pub(super) fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum::<f64>();
    let (of_a, of_b) = (product(&a, &a), product(&b, &b));
    match () {
        () if of_b <= 0.0 => f64::NAN,
        () if of_a <= 0.0 => 0.0,
        () => product(&a, &b) / (of_a * of_b).sqrt(),
    }
}

/// For each value its rank from 0; equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equal in order.chunk_by(|a, b| a.1 == b.1) {
        let rank = below as f64 + (equal.len() as f64 - 1.0) / 2.0;
        for (i, _) in equal {
            if let Some(slot) = ranks.get_mut(*i) {
                *slot = rank;
            }
        }
        below += equal.len();
    }
    ranks
}
