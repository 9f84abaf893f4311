//! From scores to guarded weights. Leaf maths: no clock, no socket, no model.
//!
//! ```text
//! softmax(score / T) x configured weight x slow start -> floor -> step limit and dead band -> weights, priors
//! ```
//! Every step keeps the weights on the simplex: they are finite, not negative, sum to 1, and each healthy candidate
//! has at least the floor. The step limit moves along the straight line from the last weights to the wanted ones, so
//! what holds for both ends holds on the way. Slow start acts before the floor: a new endpoint begins there.
//!
//! The laboratory's closed loop plays this very code, which is why it is public.

use crate::links::{LinkStats, MEMORY_S};

/// The prior of a candidate of which nothing is known, in seconds (peak EWMA's, `balance`).
pub const UNKNOWN_PRIOR_S: f32 = 0.030;
/// The least of a new endpoint's slow start: a start from nothing would never be measured.
pub const LEAST_GROWN: f32 = 0.05;
/// Of the floor, so much is the share of requests that measure again what nobody measured lately: under scores that hold
/// this is all that the slow ones get, and at low load it is all that the 99th percentile sees of them.
pub const EXPLORED: f32 = 0.25;

/// One candidate, as the guards see it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wanted {
    /// The model's score; none when there is none for this candidate.
    pub score: Option<f32>,
    /// Whether it may get requests; who may not gets a weight of 0.
    pub takes_requests: bool,
    /// The configured weight.
    pub configured: u32,
    /// How far its slow start has come, 0 to 1.
    pub grown: f32,
    /// Its weight in the last generation; none when it was not there.
    pub last: Option<f32>,
}

/// The guards' limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The softmax's temperature.
    pub temperature: f32,
    /// The least weight, as a share of an equal one.
    pub floor: f32,
    /// The largest change of a weight.
    pub max_step: f32,
    /// Weights stay while none would change by more than this share of itself.
    pub dead_band: f32,
}

/// What the guards made of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Guarded {
    /// Its weight.
    pub weight: f32,
    /// The guard that changed it most visibly; none when the model's own word stands.
    pub by: Option<Guard>,
}

/// A guard that changed a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The score was not finite; the median of the others stands in for it.
    NotFinite,
    /// Raised to the floor.
    Floor,
    /// Moved by the largest step, not all the way.
    Step,
    /// Left as it was.
    DeadBand,
    /// Held back while its endpoint is new.
    SlowStart,
}

impl Guard {
    /// What it did, in words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Guard::NotFinite => "the model's score is not a number; the median of the others stands in",
            Guard::Floor => "raised to the floor, so that it stays measured",
            Guard::Step => "on its way: moved by the largest step",
            Guard::DeadBand => "left as it was: the change is within the dead band",
            Guard::SlowStart => "held back: the endpoint is new",
        }
    }
}

const TEMPERATURES: std::ops::RangeInclusive<f32> = 1e-6..=1e6;

/// The guarded weights of one table's candidates. They sum to 1, or are all 0 when no candidate may get requests.
#[must_use]
pub fn guarded(candidates: &[Wanted], limits: &Limits) -> Vec<Guarded> {
    let mut guards = Guards::default();
    guards.guard(candidates, limits);
    guards.guarded
}

/// The guards at work, with the memory that they need: kept from table to table.
#[derive(Debug, Default)]
pub struct Guards {
    taking: Vec<usize>,
    chosen: Vec<Wanted>,
    wanted: Vec<f32>,
    by: Vec<Option<Guard>>,
    last: Vec<f32>,
    low: Vec<bool>,
    /// What they made of the candidates of the last table.
    pub guarded: Vec<Guarded>,
}

impl Guards {
    /// Guards the weights of one table's candidates, into `guarded`.
    pub fn guard(&mut self, candidates: &[Wanted], limits: &Limits) {
        let Self { taking, chosen, wanted, by, last, low, guarded } = self;
        guarded.clear();
        guarded.resize(candidates.len(), Guarded::default());
        taking.clear();
        chosen.clear();
        for (index, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.takes_requests && c.configured > 0) {
            taking.push(index);
            chosen.push(*candidate);
        }
        if chosen.is_empty() {
            return;
        }
        let least = limits.floor.clamp(0.0, 1.0) / chosen.len() as f32;
        softmax(chosen, limits.temperature, wanted, by);
        for ((weight, candidate), by) in wanted.iter_mut().zip(chosen.iter()).zip(by.iter_mut()) {
            if candidate.grown < 1.0 {
                *weight *= candidate.grown.max(0.0);
                *by = by.or(Some(Guard::SlowStart));
            }
        }
        normalise(wanted);
        raise_to(wanted, least, low, |i| mark(by, i, Guard::Floor));
        if chosen.iter().any(|c| c.last.is_some()) {
            // Who was not there last time starts from what slow start wants for it; the others share the rest as they did.
            last.clear();
            last.extend(chosen.iter().zip(wanted.iter()).map(|(c, w)| c.last.unwrap_or(*w)));
            normalise(last);
            raise_to(last, least, low, |_| ());
            step(wanted, last, limits, by);
        }
        for ((index, weight), by) in taking.iter().zip(wanted.iter()).zip(by.iter()) {
            if let Some(slot) = guarded.get_mut(*index) {
                *slot = Guarded { weight: *weight, by: *by };
            }
        }
    }
}

fn mark(by: &mut [Option<Guard>], index: usize, guard: Guard) {
    if let Some(slot) = by.get_mut(index) {
        *slot = slot.or(Some(guard));
    }
}

/// Softmax of the scores, times the configured weights; not yet normalised to a sum of exactly 1.
fn softmax(candidates: &[Wanted], temperature: f32, weights: &mut Vec<f32>, by: &mut Vec<Option<Guard>>) {
    let finite = |c: &Wanted| c.score.filter(|s| s.is_finite());
    let highest = candidates.iter().filter_map(finite).max_by(f32::total_cmp).unwrap_or(0.0);
    // Only who has no score of its own needs that of the middle.
    let median = if candidates.iter().all(|c| finite(c).is_some()) {
        highest
    } else {
        let mut known: Vec<f32> = candidates.iter().filter_map(finite).collect();
        known.sort_unstable_by(f32::total_cmp);
        known.get(known.len() / 2).copied().unwrap_or(0.0)
    };
    let temperature =
        if temperature.is_nan() { 1.0 } else { temperature.clamp(*TEMPERATURES.start(), *TEMPERATURES.end()) };
    let weight = |c: &Wanted| {
        let score = f64::from(finite(c).unwrap_or(median)) - f64::from(highest);
        ((score / f64::from(temperature)).exp() * f64::from(c.configured)) as f32
    };
    weights.clear();
    weights.extend(candidates.iter().map(weight));
    by.clear();
    by.extend(candidates.iter().map(|c| (c.score.is_some() && finite(c).is_none()).then_some(Guard::NotFinite)));
}

/// Scales to a sum of 1; weights that are all zero, or not finite, become equal.
fn normalise(weights: &mut [f32]) {
    let largest = weights.iter().copied().fold(0.0f32, f32::max);
    if largest > 0.0 && weights.iter().all(|w| w.is_finite()) {
        // By the largest first: a sum of huge weights would overflow, one of tiny weights would lose them.
        let sum: f64 = weights.iter().map(|w| f64::from(*w) / f64::from(largest)).sum();
        weights.iter_mut().for_each(|w| *w = (f64::from(*w) / f64::from(largest) / sum) as f32);
    } else {
        let equal = 1.0 / weights.len().max(1) as f32;
        weights.fill(equal);
    }
}

/// Raises weights below `least` to it, and takes that from the others in proportion.
fn raise_to(weights: &mut [f32], least: f32, low: &mut Vec<bool>, mut raised: impl FnMut(usize)) {
    if !weights.iter().any(|weight| *weight < least) {
        return;
    }
    low.clear();
    low.resize(weights.len(), false);
    // Each round raises at least one more, so there are at most as many rounds as weights.
    for _ in 0..weights.len() {
        let mut changed = false;
        for (index, (weight, low)) in weights.iter_mut().zip(low.iter_mut()).enumerate() {
            if !*low && *weight < least {
                (*weight, *low, changed) = (least, true, true);
                raised(index);
            }
        }
        if !changed {
            return;
        }
        let count = low.iter().filter(|l| **l).count() as f64;
        let rest: f64 = weights.iter().zip(low.iter()).filter(|(_, l)| !**l).map(|(w, _)| f64::from(*w)).sum();
        if rest > 0.0 {
            let factor = (1.0 - count * f64::from(least)) / rest;
            weights
                .iter_mut()
                .zip(low.iter())
                .filter(|(_, l)| !**l)
                .for_each(|(w, _)| *w = (f64::from(*w) * factor) as f32);
        }
    }
}

/// Moves from the last weights towards the wanted ones, by the largest step at most, or not at all.
fn step(wanted: &mut [f32], last: &[f32], limits: &Limits, by: &mut [Option<Guard>]) {
    let change = |w: &f32, l: &f32| (w - l).abs();
    let largest = wanted.iter().zip(last).map(|(w, l)| change(w, l)).fold(0.0, f32::max);
    let relative = wanted.iter().zip(last).map(|(w, l)| change(w, l) / l.max(f32::MIN_POSITIVE)).fold(0.0, f32::max);
    if relative <= limits.dead_band {
        if largest > 0.0 {
            (0..by.len()).for_each(|i| mark(by, i, Guard::DeadBand));
        }
        wanted.copy_from_slice(last);
    } else if largest > limits.max_step {
        let part = limits.max_step / largest;
        for ((index, w), l) in wanted.iter_mut().enumerate().zip(last) {
            if change(w, l) * (1.0 - part) > 1e-3 {
                mark(by, index, Guard::Step);
            }
            *w = l + (*w - l) * part;
        }
    }
}

/// The share of calls that is expected to succeed: what was seen lately, beside so many calls that are taken to have
/// succeeded. So a lone failure weighs little, and old failures fade although nobody calls any more.
#[must_use]
pub fn expected_success(stats: &LinkStats) -> f32 {
    const ASSUMED_CALLS: f32 = 5.0;
    let calls = stats.calls_per_second.unwrap_or(0.0) * MEMORY_S;
    1.0 - stats.error_rate.unwrap_or(0.0) * calls / (calls + ASSUMED_CALLS)
}

/// No prior is longer than this, in seconds: beyond it an estimate would take too long to come back.
const MAX_PRIOR_S: f32 = 1e3;

/// What operators and slow start want of each candidate beside its speed: configured weight times growth, relative to the
/// mean of those that take requests. The pick divides costs by it, so it must not be in the priors too.
#[must_use]
pub fn biases(candidates: &[Wanted]) -> Vec<f32> {
    let mut biases = Vec::with_capacity(candidates.len());
    biases_into(candidates, &mut biases);
    biases
}

/// The same, into memory that is kept from table to table.
pub fn biases_into(candidates: &[Wanted], biases: &mut Vec<f32>) {
    biases.clear();
    // Mostly all want the same.
    let alike = |c: &Wanted| c.takes_requests && (c.configured, c.grown) == (1, 1.0);
    if candidates.iter().all(alike) {
        biases.resize(candidates.len(), 1.0);
        return;
    }
    let want = |c: &Wanted| c.configured as f32 * c.grown.clamp(0.0, 1.0);
    let taking = || candidates.iter().filter(|c| c.takes_requests && c.configured > 0);
    let mean = taking().map(want).sum::<f32>() / taking().count().max(1) as f32;
    let relative = |c: &Wanted| if mean > 0.0 { (want(c) / mean).max(MIN_BIAS) } else { 1.0 };
    biases.extend(candidates.iter().map(relative));
}

/// The least bias that a cost is divided by.
const MIN_BIAS: f32 = 1e-4;

/// What each weight, its bias apart, is the reciprocal of, scaled to seconds: the prior of the local estimates
/// (`pick.md`).
///
/// The scale is such that the mean of the logarithms, by weight, is that of the predicted latencies; at temperature 1
/// without guards each prior is exactly its prediction. Without predictions the priors are the weights' reciprocals
/// around `fallback_s`.
#[must_use]
pub fn priors(weights: &[f32], biases: &[f32], intrinsic_s: &[Option<f32>], fallback_s: f32) -> Vec<f32> {
    let mut priors = Vec::with_capacity(weights.len());
    priors_into(weights, biases, intrinsic_s, fallback_s, &mut priors);
    priors
}

/// The same, into memory that is kept from table to table.
pub fn priors_into(
    weights: &[f32],
    biases: &[f32],
    intrinsic_s: &[Option<f32>],
    fallback_s: f32,
    priors: &mut Vec<f32>,
) {
    let sane = |latency: &Option<f32>| latency.filter(|l| l.is_finite() && *l > 0.0).map(|l| l.clamp(1e-6, 1e3));
    let (mut sum, mut mass) = (0.0f64, 0.0f64);
    let fair = |weight: f32, bias: f32| f64::from(weight) / f64::from(bias.max(MIN_BIAS));
    for ((weight, bias), latency) in weights.iter().zip(biases).zip(intrinsic_s).filter(|((w, _), _)| **w > 0.0) {
        if let Some(latency) = sane(latency) {
            // One logarithm for both: their product is far from the ends of what a double holds.
            sum += f64::from(*weight) * (f64::from(latency) * fair(*weight, *bias)).ln();
            mass += f64::from(*weight);
        }
    }
    let taking = weights.iter().filter(|w| **w > 0.0).count().max(1);
    let scale = if mass > 0.0 { (sum / mass).exp() } else { f64::from(fallback_s) / taking as f64 };
    // Who may not get requests has no weight to take a prior from, but a probe of it will be measured against one.
    let prior = |((weight, bias), latency): ((&f32, &f32), &Option<f32>)| match sane(latency) {
        _ if *weight > 0.0 => (scale / fair(*weight, *bias)) as f32,
        Some(latency) => latency,
        None => fallback_s,
    };
    priors.clear();
    priors.extend(weights.iter().zip(biases).zip(intrinsic_s).map(prior).map(|p| p.clamp(1e-6, MAX_PRIOR_S)));
}

/// Estimates are taken to lean towards peaks by no more than this factor.
const MAX_LEANING: f32 = 4.0;

/// How far the local estimates lean towards peaks at present: the median of estimate over mean of the same latencies, for
/// those that were measured lately (`None`: not). The priors are to be multiplied by it.
///
/// A prior is a mean, while an estimate takes over every peak. Without this a candidate that nobody measures looks better
/// than all that are measured, and draws requests for that alone: at low load a fleet's slow ones. Queueing is in both the
/// estimate and the mean, so what it says of the fast ones stays: they are avoided as far as they are busy.
#[must_use]
pub fn leaning(measured: impl Iterator<Item = Option<(f32, f32)>>) -> f32 {
    leaning_with(measured, &mut Vec::new())
}

/// The same, in memory that is kept from table to table.
pub fn leaning_with(measured: impl Iterator<Item = Option<(f32, f32)>>, ratios: &mut Vec<f32>) -> f32 {
    let ratio = |(estimate, mean): (f32, f32)| estimate / mean;
    ratios.clear();
    ratios.extend(measured.flatten().map(ratio).filter(|r| r.is_finite() && *r > 0.0));
    let middle = ratios.len() / 2;
    if ratios.is_empty() {
        return 1.0;
    }
    let (_, median, _) = ratios.select_nth_unstable_by(middle, f32::total_cmp);
    median.clamp(1.0, MAX_LEANING)
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
