//! What the operators' port may look at, handed in by `app`.

use crate::balance::Published;
use crate::config::{Config, Diagnostic, Errors, Mode};
use crate::control::Status;
use crate::discovery::{GatewayView, SourceView};
use crate::links::Links;
use crate::observe::TrafficRegistry;
use crate::observe::metrics::Family;
use arc_swap::ArcSwap;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

pub use crate::control::Clock;
/// Asked at each look; must not block.
pub type Asked<T> = Box<dyn Fn() -> T + Send + Sync>;

/// What the scorer shows of itself.
#[derive(Debug, Clone, Default)]
pub struct ScorerStatus {
    /// Its state, for `/routing`: the engine, the model, why it is not what was asked for.
    pub json: Value,
    /// Its metrics. Names without `pathloom_`, and none that `/metrics` has already.
    pub metrics: Vec<Family>,
}

/// Everything that the operators' port reads. It changes nothing of it.
pub struct AdminState {
    /// The generation in force.
    pub published: Published,
    /// The statistics' store; only its size is looked at.
    pub links: Arc<Links>,
    /// The requests' counters.
    pub traffic: Arc<TrafficRegistry>,
    /// The slow loop.
    pub control: Arc<Status>,
    /// The clock by which generations are made.
    pub clock: Clock,
    /// The configuration in force and the result of the last reload.
    pub config: ArcSwap<ConfigState>,
    /// Why requests cannot be served yet, in words; empty when they can. That a generation is published is not its
    /// business: the port looks for itself.
    pub not_ready: Asked<Vec<String>>,
    /// The scorer.
    pub scorer: Asked<ScorerStatus>,
    /// The access log's last lines.
    pub recent: Asked<Vec<u8>>,
    /// This node's identity, for `/routing`; null where there is none to be had.
    pub identity: Asked<Value>,
    /// Where endpoints come from.
    pub discovery: Asked<Vec<SourceView>>,
    /// Routes from Kubernetes' Gateway API, where they are followed.
    pub gateway: Asked<Option<GatewayView>>,
    /// Further metrics: connections, what the access log and the traces dropped.
    pub gauges: Asked<Vec<Family>>,
    /// This node's name: besides addresses and `localhost` the only `Host` that is answered.
    pub node: String,
    /// This program's version.
    pub version: &'static str,
    /// When the process started.
    pub started_at: SystemTime,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("node", &self.node).field("version", &self.version).finish_non_exhaustive()
    }
}

/// The configuration in force, and how the last attempt to change it went.
#[derive(Debug, Clone, Default)]
pub struct ConfigState {
    /// The effective configuration as YAML: every key, defaults included.
    pub yaml: String,
    /// The same as JSON.
    pub json: Value,
    /// Whether scores steer requests.
    pub mode: Mode,
    /// When it took effect; unknown before the first.
    pub loaded_at: Option<SystemTime>,
    /// The last attempt to load another one, where that failed.
    pub last_error: Option<LoadError>,
    /// How many loads took effect, the first included.
    pub reloads_ok: u64,
    /// How many loads were refused.
    pub reloads_failed: u64,
    /// What the configuration in force may not do as it was meant.
    pub warnings: Vec<Diagnostic>,
}

/// Why a configuration did not take effect.
#[derive(Debug, Clone)]
pub struct LoadError {
    /// When it was refused.
    pub at: SystemTime,
    /// Every reason.
    pub errors: Errors,
}

impl ConfigState {
    /// The state after this configuration took effect.
    #[must_use]
    pub fn loaded(&self, config: &Config, warnings: Vec<Diagnostic>, at: SystemTime) -> Self {
        let shown = config.shown();
        Self {
            yaml: serde_saphyr::to_string(&shown)
                .unwrap_or_else(|e| format!("# the configuration cannot be printed: {e}\n")),
            json: serde_json::to_value(&shown).unwrap_or(Value::Null),
            mode: config.model.mode,
            loaded_at: Some(at),
            last_error: None,
            reloads_ok: self.reloads_ok + 1,
            reloads_failed: self.reloads_failed,
            warnings,
        }
    }

    /// The state after a configuration was refused: the one in force stays.
    #[must_use]
    pub fn refused(&self, errors: Errors, at: SystemTime) -> Self {
        let mut next = self.clone();
        next.last_error = Some(LoadError { at, errors });
        next.reloads_failed += 1;
        next
    }
}
