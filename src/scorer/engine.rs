//! What runs a model: the trait, the results, and how an engine is chosen and proven before it serves.
//!
//! Selection: the configured engine, else ONNX Runtime where its library is found, else the embedded engine; CUDA where
//! it works, else the CPU. Every step down is remembered as a reason and a remedy, so that the log and the status tell
//! which engine runs, why, and how to get the other. A chosen engine first runs two tiny graphs (`warm_up`): one as
//! seen by a proxy that has just started, with nearly everything unknown, and one with everything known. So a device
//! that fails at its first launch, an operator that is not supported and damaged weights show while loading.
//!
//! Whether numbers are finite is asked of the warm-up only. In service a NaN is no engine error: the guards in `control`
//! judge values; wrong shapes never leave this room.

use super::contract::{Model, ModelError, OUTPUTS};
use super::{embedded, onnx_runtime};
use crate::config::{Device, Engine as Choice};
use crate::graph::Features;
use crate::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Runs one model. Owned by one thread at a time.
pub trait Engine: Send {
    /// Scores the candidates of `features` into `scores`, whose vectors it fills anew.
    ///
    /// `features` were checked with [`check_features`]; the caller checks the shapes of `scores`.
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError>;

    /// A handle that makes a running `run` return early, for one that was given up; `None` where there is no way.
    fn interrupt(&self) -> Option<Interrupt> {
        None
    }
}

/// Makes a running inference return early, from another thread.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// The outputs of one inference. The values may be anything; the shapes fit the features.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// `[C]`: minus the logarithm of the intrinsic latency, the pick's number.
    pub score: Vec<f32>,
    /// `[C]`: the next window's mean latency, as it will be seen, in seconds.
    pub latency_mean_s: Vec<f32>,
    /// `[C]`: its 99th percentile, in seconds.
    pub latency_p99_s: Vec<f32>,
    /// `[C]`: its jitter, in seconds.
    pub jitter_s: Vec<f32>,
    /// `[N]`: the predicted load of each node.
    pub node_load: Vec<f32>,
    /// `[E]`: how much each link mattered to its caller.
    pub attention: Vec<f32>,
}

impl Scores {
    /// The outputs in the contract's order.
    fn outputs(&self) -> [&Vec<f32>; OUTPUTS.len()] {
        [&self.score, &self.latency_mean_s, &self.latency_p99_s, &self.jitter_s, &self.node_load, &self.attention]
    }

    /// The same, to be filled, each with its name.
    pub(super) fn outputs_mut(&mut self) -> [(&'static str, &mut Vec<f32>); OUTPUTS.len()] {
        let slots = [
            &mut self.score,
            &mut self.latency_mean_s,
            &mut self.latency_p99_s,
            &mut self.jitter_s,
            &mut self.node_load,
            &mut self.attention,
        ];
        let mut names = OUTPUTS.into_iter();
        slots.map(|slot| (names.next().unwrap_or_default(), slot))
    }

    /// The length of each output, in the contract's order.
    pub(super) fn lengths(features: &Features) -> [usize; OUTPUTS.len()] {
        let (c, n, e) = (features.candidate_count(), features.node_count(), features.edge_count());
        [c, c, c, c, n, e]
    }

    /// Whether each output has the length that the features give it.
    pub fn check(&self, features: &Features) -> Result<(), ScoreError> {
        for ((name, values), expected) in OUTPUTS.into_iter().zip(self.outputs()).zip(Self::lengths(features)) {
            if values.len() != expected {
                return Err(ScoreError::Shape { output: name, expected, found: format!("it has {}", values.len()) });
            }
        }
        Ok(())
    }

    fn not_finite(&self) -> Option<&'static str> {
        let outputs = OUTPUTS.into_iter().zip(self.outputs());
        outputs.into_iter().find(|(_, values)| values.iter().any(|v| !v.is_finite())).map(|(name, _)| name)
    }
}

/// Why there are no scores this time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The thread is still at an earlier inference.
    #[error("the scoring thread is still busy with an earlier inference")]
    Busy,
    /// The deadline passed; the late result is discarded.
    #[error("the inference took longer than its deadline of {} ms", deadline.as_millis())]
    TooSlow {
        /// The deadline.
        deadline: Duration,
    },
    /// No model serves: it is loading, restarting, or could not be loaded.
    #[error("no model is ready: {reason}")]
    NotReady {
        /// What it waits for.
        reason: String,
    },
    /// The engine refused or failed.
    #[error("the engine failed: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// An output has a shape that the features do not give.
    #[error("output `{output}` should have {expected} values: {found}")]
    Shape {
        /// The output.
        output: &'static str,
        /// The length that it should have.
        expected: usize,
        /// What it has instead.
        found: String,
    },
    /// The inputs contradict each other.
    #[error("the features are inconsistent: {reason}")]
    Features {
        /// What is wrong.
        reason: String,
    },
    /// The inference panicked.
    #[error("the inference crashed: {reason}")]
    Crashed {
        /// The panic's message.
        reason: String,
    },
    /// The scorer was stopped.
    #[error("the scorer is stopped")]
    Stopped,
}

impl ScoreError {
    /// Every code, so that counters exist from the start.
    pub const CODES: [&'static str; 8] =
        ["busy", "too_slow", "not_ready", "engine", "shape", "features", "crashed", "stopped"];

    /// A stable short code, for metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::TooSlow { .. } => "too_slow",
            Self::NotReady { .. } => "not_ready",
            Self::Engine { .. } => "engine",
            Self::Shape { .. } => "shape",
            Self::Features { .. } => "features",
            Self::Crashed { .. } => "crashed",
            Self::Stopped => "stopped",
        }
    }
}

/// Which engine runs, why, and how to get the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineInfo {
    /// `onnxruntime` or `embedded`; an injected engine has a name of its own.
    pub engine: &'static str,
    /// Its version.
    pub version: String,
    /// `cuda` or `cpu`.
    pub device: &'static str,
    /// Why this one.
    pub reason: String,
    /// How to get the one that was asked for or would be faster.
    pub remedy: Option<String>,
    /// Whether the configuration asked for another, by name.
    pub degraded: bool,
}

/// What the configuration says of engines and models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `builtin` or the path of an `.onnx` file.
    pub file: String,
    /// What runs it.
    pub engine: Choice,
    /// Where it runs.
    pub device: Device,
    /// The ONNX Runtime library, or the folder that holds it.
    pub onnxruntime: Option<PathBuf>,
}

impl From<&crate::config::Model> for Options {
    fn from(model: &crate::config::Model) -> Self {
        Self {
            file: model.file.clone(),
            engine: model.engine,
            device: model.device,
            onnxruntime: model.onnxruntime.clone(),
        }
    }
}

/// A step down the ladder of engines.
#[derive(Debug, Clone)]
pub(super) struct StepDown {
    /// What did not work.
    pub reason: String,
    /// How to make it work.
    pub remedy: String,
}

impl StepDown {
    pub(super) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// Chooses an engine for a model and proves it on the warm-up graphs.
pub(super) fn select(options: &Options, model: &Model) -> Result<(Box<dyn Engine>, EngineInfo), ModelError> {
    let step = match options.engine {
        Choice::Embedded => StepDown::new("chosen by `model.engine: embedded`", ""),
        Choice::Auto | Choice::OnnxRuntime => match onnx_runtime::open(options, model) {
            Ok((engine, info)) => return Ok((engine, info)),
            Err(step) => step,
        },
    };
    let refused = options.engine != Choice::Embedded;
    let failed = |reason: String| {
        let reason = if refused { format!("{}; embedded: {reason}", step.reason) } else { reason };
        ModelError::Engine { reason }
    };
    let mut engine = embedded::open(model).map_err(failed)?;
    warm_up(engine.as_mut()).map_err(|reason| ModelError::WarmUp { reason })?;
    let info = EngineInfo {
        engine: "embedded",
        version: embedded::VERSION.into(),
        device: "cpu",
        reason: step.reason,
        remedy: refused.then_some(step.remedy),
        degraded: options.engine == Choice::OnnxRuntime || options.device == Device::Cuda,
    };
    Ok((engine, info))
}

/// Runs the tiny graphs; the error says what was wrong.
pub(super) fn warm_up(engine: &mut dyn Engine) -> Result<(), String> {
    for features in [warm_up_graph(f32::NAN), warm_up_graph(0.01)] {
        let mut scores = Scores::default();
        engine.run(&features, &mut scores).and_then(|()| scores.check(&features)).map_err(|e| e.to_string())?;
        if let Some(output) = scores.not_finite() {
            return Err(format!("`{output}` is not finite"));
        }
    }
    Ok(())
}

/// A caller, two instances and a dependency of one; direct paths to both, and one through the first to the last.
/// What may be unknown is `value`, what never is (`NaN` in no row of `graph`) is small and positive.
fn warm_up_graph(value: f32) -> Features {
    let fill = |width: usize, rows: usize, known: &[usize]| -> Vec<f32> {
        (0..width * rows).map(|i| if known.contains(&(i % width)) { 1.0 } else { value }).collect()
    };
    let place = |names: &[&str], known: [&str; 2]| -> Vec<usize> {
        names.iter().enumerate().filter(|(_, name)| known.contains(name)).map(|(at, _)| at).collect()
    };
    Features {
        nodes: fill(NODE_FEATURES.len(), 4, &place(&NODE_FEATURES, ["in_flight", "replicas"])),
        edges: vec![1, 2, 3, 0, 0, 1],
        edge_features: fill(EDGE_FEATURES.len(), 3, &place(&EDGE_FEATURES, ["in_flight", "samples"])),
        path_offsets: vec![0, 1, 2, 4],
        path_links: vec![0, 1, 0, 2],
        shape: 0,
    }
}

/// Whether the features agree with each other: widths, offsets, and every index within its bounds.
///
/// An engine would find most of these too, each in its own words or with a panic; asking first costs a pass over the
/// indices and gives one answer.
pub fn check_features(features: &Features) -> Result<(), ScoreError> {
    let wrong = |reason: &str| Err(ScoreError::Features { reason: reason.into() });
    let (n, e, c) = (features.node_count(), features.edge_count(), features.candidate_count());
    let within = |indices: &[i64], bound: usize| {
        // The embedded engine counts in 32 bits.
        let bound = i64::try_from(bound).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
        indices.iter().all(|index| (0..bound).contains(index))
    };
    if n == 0 || c == 0 {
        return wrong("there are no nodes or no candidates");
    }
    if features.nodes.len() != n * NODE_FEATURES.len() {
        return wrong("`node_features` ends in the middle of a row");
    }
    if features.edges.len() != e * 2 || features.edge_features.len() != e * EDGE_FEATURES.len() {
        return wrong("`edges` and `edge_features` have different numbers of links");
    }
    let links = i64::try_from(features.path_links.len()).unwrap_or(i64::MAX);
    let rising = features.path_offsets.is_sorted();
    if !rising || features.path_offsets.first() != Some(&0) || features.path_offsets.last() != Some(&links) {
        return wrong("`path_offsets` does not rise from 0 to the number of `path_links`");
    }
    if !within(&features.edges, n) {
        return wrong("`edges` names a node that is not there");
    }
    if !within(&features.path_links, e) {
        return wrong("`path_links` names a link that is not there");
    }
    Ok(())
}
