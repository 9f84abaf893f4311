//! The model: what runs it, when its scores steer requests, and what stands between scores and weights.

use super::{Canary, millis, secs};
use crate::config::units::{Share, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How paths are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// `builtin`, or the path of an `.onnx` file with the same contract.
    pub file: String,
    /// What runs the model.
    pub engine: Engine,
    /// Where it runs; `cuda` and `auto` fall back to the CPU with a reason.
    pub device: Device,
    /// The ONNX Runtime library; without it `ORT_DYLIB_PATH`, then beside the binary.
    pub onnxruntime: Option<PathBuf>,
    /// Whether scores steer requests.
    pub mode: Mode,
    /// The model's trial in `mode: canary`.
    pub canary: Canary,
    /// How often weights are computed anew.
    pub tick: Timespan,
    /// How long an inference may take before the tick goes on without it.
    pub deadline: Timespan,
    /// The softmax's temperature: 1 gives each candidate its fair share by speed, less concentrates on the fastest.
    pub temperature: f64,
    /// How many candidates a request compares: `auto` (all up to 64, else 3 drawn by weight), `all`, or a number.
    pub compare: Compare,
    /// How fast a local estimate returns to the model's prediction.
    pub decay: Timespan,
    /// What stands between scores and weights.
    pub guards: Guards,
    /// What starts a tick before its time.
    pub triggers: Triggers,
}

/// What runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// ONNX Runtime where its library is found, else the embedded engine.
    #[default]
    Auto,
    /// ONNX Runtime; without its library the embedded engine runs, and an error is logged.
    OnnxRuntime,
    /// The embedded engine, pure Rust.
    Embedded,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// CUDA where there is one, else the CPU.
    #[default]
    Auto,
    /// CUDA; without one the CPU, and an error is logged.
    Cuda,
    /// The CPU.
    Cpu,
}

/// Whether scores steer requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Scores steer requests.
    #[default]
    Active,
    /// Scores are computed and reported, and requests are steered by peak EWMA.
    Shadow,
    /// Scores steer a share of the requests, and another policy the rest; both are compared (`canary`).
    Canary,
}

/// How many candidates a request compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compare {
    /// All up to 64, else 3 drawn by weight.
    #[default]
    Auto,
    /// All of them.
    All,
    /// So many, drawn by weight; 1 is softmax sampling alone.
    Draw(u16),
}

/// What stands between scores and weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// The least weight of a healthy candidate, as a share of an equal one, so that each stays measured.
    pub floor: Share,
    /// The most a weight may change in a tick, as a share of all requests.
    pub max_step: Share,
    /// Weights stay as they are while none would change by more than this share of itself.
    pub dead_band: Share,
    /// How long a new endpoint takes to grow to its full weight.
    pub slow_start: Timespan,
    /// A generation older than this no longer steers.
    pub expire_after: Timespan,
    /// How wrong predictions may be on average before the model no longer steers: 1 is off by a factor of 2.
    pub max_error: f64,
}

/// What starts a tick before its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Triggers {
    /// A link's latency this many times what its generation predicted.
    pub latency_factor: f64,
    /// A link's error rate above this share.
    pub error_rate: Share,
    /// The least time between two ticks.
    pub min_interval: Timespan,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            file: "builtin".into(),
            engine: Engine::Auto,
            device: Device::Auto,
            onnxruntime: None,
            mode: Mode::Active,
            canary: Canary::default(),
            tick: secs(1),
            deadline: millis(500),
            temperature: 1.0,
            compare: Compare::Auto,
            decay: secs(20),
            guards: Guards::default(),
            triggers: Triggers::default(),
        }
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            floor: Share(0.02),
            max_step: Share(0.2),
            dead_band: Share(0.02),
            slow_start: secs(10),
            expire_after: secs(30),
            max_error: 1.0,
        }
    }
}

impl Default for Triggers {
    fn default() -> Self {
        Self { latency_factor: 4.0, error_rate: Share(0.2), min_interval: millis(100) }
    }
}
