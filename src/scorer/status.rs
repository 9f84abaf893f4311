//! What the scorer tells of itself: engine, model, counts, and the last thing that went wrong.
//!
//! Every count lives for the life of the process and only grows, whatever restarts and reloads happen.

use super::contract::{ModelError, ModelInfo};
use super::engine::{EngineInfo, ScoreError};
use crate::observe::metrics::{Family, Kind, Measure, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the scorer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The first model is being loaded.
    Loading,
    /// A model is loaded and idle.
    Ready,
    /// An inference is running.
    Busy,
    /// The thread was lost or the model could not be loaded; another attempt is scheduled or running.
    Restarting,
    /// Too many inferences hang; no further thread is started until one of them returns or a reload succeeds.
    Stalled,
    /// The scorer was dropped.
    Stopped,
}

/// Something that went wrong, with a stable code.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    /// The code of a `ScoreError` or a `ModelError`.
    pub code: &'static str,
    /// The whole message, with what to do about it where there is something.
    pub message: String,
    /// How long ago, in seconds.
    pub age_s: f64,
}

/// A snapshot for the admin server and the metrics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScorerStatus {
    /// What it is doing.
    pub state: State,
    /// `builtin`, or the file of the running model, or of the one it tries to load.
    pub file: String,
    /// The engine that runs, or ran last.
    pub engine: Option<EngineInfo>,
    /// The model that runs, or ran last.
    pub model: Option<ModelInfo>,
    /// Why no model serves now; `None` while one does.
    pub not_ready: Option<String>,
    /// The last failed inference.
    pub last_error: Option<Fault>,
    /// The last model that was not taken, on start or on reload; `None` once a later one was.
    pub model_error: Option<Fault>,
    /// Inferences that gave scores, late ones included.
    pub inferences: u64,
    /// Results that came after their deadline and were discarded.
    pub late: u64,
    /// Failed requests for scores, by code; every code is present.
    pub errors: BTreeMap<&'static str, u64>,
    /// How often the thread was given up and another one scheduled.
    pub restarts: u64,
    /// How many reloads replaced the model.
    pub reloads: u64,
    /// How many reloads were refused.
    pub reloads_refused: u64,
    /// Threads that were given up and have not returned yet.
    pub hung_threads: usize,
    /// The last inference's duration in seconds.
    pub last_duration_s: Option<f64>,
    /// The mean duration of all inferences in seconds.
    pub mean_duration_s: Option<f64>,
    /// The longest inference in seconds.
    pub max_duration_s: Option<f64>,
}

impl ScorerStatus {
    /// The metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let counter = |name, help, count| Family::new(name, Kind::Counter, Measure::Number, help).count(count);
        let help = "Requests for scores that failed, by reason.";
        let failures = Family::new("inference_failures", Kind::Counter, Measure::Number, help);
        let by_code = |family: Family, (code, count): (&&'static str, &u64)| {
            family.with(vec![("reason", (*code).to_owned())], Value::Count(*count))
        };
        vec![
            counter("inferences", "Inferences that gave scores.", self.inferences),
            self.errors.iter().fold(failures, by_code),
            counter("scorer_restarts", "Times that the scoring thread was given up and started anew.", self.restarts),
            counter("model_reloads", "Models that replaced another while running.", self.reloads),
            counter("model_reloads_refused", "Models that were refused on reload.", self.reloads_refused),
            Family::new("last_inference", Kind::Gauge, Measure::Seconds, "How long the last inference took.")
                .number(self.last_duration_s),
        ]
    }
}

/// The counts behind a `ScorerStatus`.
#[derive(Debug)]
pub(super) struct Tally {
    pub inferences: u64,
    pub late: u64,
    pub restarts: u64,
    pub reloads: u64,
    pub reloads_refused: u64,
    errors: BTreeMap<&'static str, u64>,
    runs: u64,
    total: Duration,
    last: Option<Duration>,
    max: Option<Duration>,
    last_error: Option<(&'static str, String, Instant)>,
    model_error: Option<(&'static str, String, Instant)>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            inferences: 0,
            late: 0,
            restarts: 0,
            reloads: 0,
            reloads_refused: 0,
            errors: ScoreError::CODES.into_iter().map(|code| (code, 0)).collect(),
            runs: 0,
            total: Duration::ZERO,
            last: None,
            max: None,
            last_error: None,
            model_error: None,
        }
    }

    /// Counts a request for scores that failed.
    pub(super) fn failed(&mut self, error: &ScoreError, now: Instant) {
        *self.errors.entry(error.code()).or_default() += 1;
        self.last_error = Some((error.code(), error.to_string(), now));
    }

    /// Notes how long an inference took, whatever came of it.
    pub(super) fn took(&mut self, duration: Duration) {
        self.runs += 1;
        self.total += duration;
        self.last = Some(duration);
        self.max = self.max.max(Some(duration));
    }

    /// Notes a model that was not taken, or that one was.
    pub(super) fn model(&mut self, error: Option<&ModelError>, now: Instant) {
        self.model_error = error.map(|e| (e.code(), e.to_string(), now));
    }

    /// Whether this error is another than the last one.
    pub(super) fn model_is_news(&self, error: &ModelError) -> bool {
        self.model_error.as_ref().is_none_or(|(_, message, _)| *message != error.to_string())
    }

    /// Fills the counts of a status whose other fields are given.
    #[allow(clippy::too_many_arguments, reason = "one caller, which names each")]
    pub(super) fn status(
        &self,
        state: State,
        file: String,
        engine: Option<EngineInfo>,
        model: Option<ModelInfo>,
        not_ready: Option<String>,
        hung_threads: usize,
        now: Instant,
    ) -> ScorerStatus {
        let fault = |fault: &Option<(&'static str, String, Instant)>| {
            fault.as_ref().map(|(code, message, at)| Fault {
                code,
                message: message.clone(),
                age_s: now.saturating_duration_since(*at).as_secs_f64(),
            })
        };
        ScorerStatus {
            state,
            file,
            engine,
            model,
            not_ready,
            last_error: fault(&self.last_error),
            model_error: fault(&self.model_error),
            inferences: self.inferences,
            late: self.late,
            errors: self.errors.clone(),
            restarts: self.restarts,
            reloads: self.reloads,
            reloads_refused: self.reloads_refused,
            hung_threads,
            last_duration_s: self.last.map(|d| d.as_secs_f64()),
            mean_duration_s: (self.runs > 0).then(|| self.total.as_secs_f64() / self.runs as f64),
            max_duration_s: self.max.map(|d| d.as_secs_f64()),
        }
    }
}
