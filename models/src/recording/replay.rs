//! A recording, replayed: the figures of predictors on it, without training on it.
//!
//! Figures are `evaluate`'s, with the next window's observed mean as the truth. What is measured here is what a sidecar at
//! that place could have known: features, past and noise floor use nothing of windows yet to come.
//!
//! **The noise floor** is an estimate. A window's mean over n answers is off by about `cv / sqrt(n)` of itself, where cv is that of
//! the log-normal with the window's own mean and p99; the error that an oracle of the true mean would still make is `sqrt(2 / pi)`
//! times that. Answers of one window resemble each other, so the true floor is higher. Jitter has none: a recording does
//! not hold what it would take.

use super::read::Recording;
use super::sample::{Options as Making, Scored, Stream};
use crate::Result;
use crate::data::Sample;
use crate::evaluate::{Figure, Options, Report, Summary, Truth, measure};
use crate::predict::Predictor;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::ops::Range;

/// How many candidates are predicted at once, about: bounds what is in memory.
const CANDIDATES_AT_ONCE: usize = 50_000;
/// So many windows in a row count as one when intervals are made: neighbours are alike.
pub const WINDOWS_A_RUN: u64 = 6;

/// What is scored of a recording.
pub struct Plan<'a> {
    /// The windows, as indices; those before are only remembered.
    pub windows: Range<usize>,
    /// A window's figures of a link count when they stand on so many answers.
    pub least_answers: u32,
    /// Whether the window before must have had as many calls.
    pub in_both: bool,
    /// Which links count; all without it.
    pub scored: Option<Scored<'a>>,
}

/// What a replay found.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// The figures, by blocks of windows.
    pub report: Report,
    /// The sum of the expected noise of each window that was scored, and how many there were.
    floor: (f64, u64),
}

impl Replay {
    /// Adds another recording's, whose samples have other runs.
    pub fn merge(&mut self, other: Replay) {
        self.report.merge(other.report);
        self.floor = (self.floor.0 + other.floor.0, self.floor.1 + other.floor.1);
    }

    /// The least relative error that sampling leaves, on average; unknown without percentiles.
    #[must_use]
    pub fn floor(&self) -> f64 {
        if self.floor.1 == 0 { f64::NAN } else { self.floor.0 / self.floor.1 as f64 }
    }

    /// The figures with their intervals.
    #[must_use]
    pub fn summary(&self, seed: u64) -> Option<Summary> {
        Summary::of(&[(seed, self.report.clone())], seed)
    }

    /// As JSON: `evaluate`'s, with this floor.
    #[must_use]
    pub fn json(&self, seed: u64) -> Value {
        let mut value = self.summary(seed).map_or(Value::Null, |s| s.json());
        if let Value::Object(all) = &mut value {
            let mut floor: serde_json::Map<String, Value> =
                Figure::MAIN.iter().map(|f| (f.key().to_string(), Value::Null)).collect();
            floor.insert(Figure::MeanRelativeError.key().into(), json!(self.floor()));
            floor.insert("candidates".into(), json!(self.floor.1));
            floor.insert(
                "estimated".into(),
                json!("sqrt(2/pi) cv / sqrt(n), cv of a log-normal with the window's mean and p99"),
            );
            all.insert("noise_floor".into(), Value::Object(floor));
        }
        value
    }
}

/// Replays a recording. `first_run` numbers its blocks of windows, so that several can be merged.
///
/// # Errors
/// When a predictor fails or a graph is too large.
pub fn replay(
    recording: &Recording,
    predictors: &mut [Box<dyn Predictor + '_>],
    plan: Plan<'_>,
    first_run: u64,
) -> Result<Replay> {
    let options = Options { truth: Truth::Observed, least_answers: plan.least_answers };
    let least_calls_now = if plan.in_both { plan.least_answers as f32 } else { 0.0 };
    let making = Making { run: first_run, least_calls_now, scored: plan.scored };
    let mut found = Replay::default();
    let mut batch: Vec<Sample> = Vec::new();
    let bar = ProgressBar::new(plan.windows.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} windows {eta}") {
        bar.set_style(style);
    }
    bar.set_message("replaying");
    for sample in Stream::new(recording, plan.windows.clone(), making) {
        let mut sample = sample?;
        sample.run = first_run + sample.tick / WINDOWS_A_RUN;
        bar.set_position(sample.tick.saturating_sub(plan.windows.start as u64));
        batch.push(sample);
        if batch.iter().map(|s| s.candidates.len()).sum::<usize>() >= CANDIDATES_AT_ONCE {
            found.add(predictors, &batch, &options)?;
            batch.clear();
        }
    }
    // Also when nothing was scored, so that all predictors have their line.
    if !batch.is_empty() || found.report.predictors.is_empty() {
        found.add(predictors, &batch, &options)?;
    }
    bar.finish_and_clear();
    Ok(found)
}

impl Replay {
    fn add(&mut self, predictors: &mut [Box<dyn Predictor + '_>], batch: &[Sample], options: &Options) -> Result<()> {
        self.report.merge(measure(predictors, batch, options)?);
        for c in batch.iter().flat_map(|s| &s.candidates).filter(|c| c.answers >= options.least_answers.max(1)) {
            if let Some(noise) = noise(f64::from(c.mean_s), f64::from(c.p99_s), f64::from(c.answers)) {
                self.floor = (self.floor.0 + noise, self.floor.1 + 1);
            }
        }
        Ok(())
    }
}

/// How far the mean of `n` answers is off the true one, on average, as a share of it.
fn noise(mean: f64, p99: f64, n: f64) -> Option<f64> {
    /// The normal distribution's 99% quantile.
    const Z: f64 = 2.326_35;
    if !(mean > 0.0 && p99 > 0.0 && n > 0.0) {
        return None;
    }
    // mean = e^(m + s^2 / 2), p99 = e^(m + Z s): ln(p99 / mean) = Z s - s^2 / 2, of which the smaller root is meant.
    let spread = (p99 / mean).ln().max(0.0);
    let sigma = Z - (Z * Z - 2.0 * spread).max(0.0).sqrt();
    let cv = ((sigma * sigma).exp() - 1.0).sqrt();
    Some((2.0 / std::f64::consts::PI).sqrt() * cv / n.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_of_a_mean_falls_with_the_root_of_its_count() {
        // A log-normal with sigma 0.5: p99 / mean = e^(0.5 z - 0.125), cv = sqrt(e^0.25 - 1).
        let p99 = (0.5 * 2.326_35f64 - 0.125).exp();
        let expected = 0.797_88 * (0.25f64.exp() - 1.0).sqrt() / 10.0;
        assert!((noise(1.0, p99, 100.0).unwrap() - expected).abs() < 1e-4);
        assert_eq!(noise(1.0, 1.0, 9.0), Some(0.0), "no spread, no noise");
        assert_eq!(noise(f64::NAN, 1.0, 9.0), None);
    }
}
