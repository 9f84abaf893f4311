//! Endpoints, and the candidates that a table holds: plain facts, made by a tick and never changed.

use super::{Fault, Unwell};
use crate::identity::Dial;
use crate::links::{LinkCell, NodeCell, NodeKey, Time};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An endpoint's identity for the life of the process: connection pools are kept by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// An endpoint of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity: a new one whenever its address, its protocol or what it must prove change.
    pub id: EndpointId,
    /// Its name in the graph.
    pub key: NodeKey,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// The machine that it runs on; empty when unknown.
    pub host: Arc<str>,
    /// Its configured weight.
    pub weight: u32,
    /// Free-form facts.
    pub metadata: BTreeMap<String, String>,
    /// How connections to it are secured; plain text without.
    pub tls: Option<Arc<Dial>>,
}

/// Whether an endpoint may get requests, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It may.
    Healthy,
    /// It failed too often and is left alone.
    Ejected,
    /// Its ejection is over: one request at a time, until one succeeds.
    Probation,
    /// Its health check says that it is not well, or has not said anything yet.
    Unhealthy,
    /// Its configured weight is zero.
    Drained,
}

impl Health {
    /// Whether an endpoint in this state gets a share of the requests. On probation it gets single probes instead.
    #[must_use]
    pub fn takes_requests(self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// What the model predicts for a path, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Predicted {
    /// What it takes at its fair share of load.
    pub intrinsic_s: f32,
    /// The next window's mean, as it will be seen.
    pub mean_s: f32,
    /// The next window's 99th percentile, as it will be seen.
    pub p99_s: f32,
    /// The next window's jitter.
    pub jitter_s: f32,
}

/// One path that a request may take.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it leads.
    pub endpoint: Arc<Endpoint>,
    /// What was seen on its first link: requests write to it.
    pub link: Arc<LinkCell>,
    /// What is known of the endpoint: requests write to it.
    pub node: Arc<NodeCell>,
    /// Its guarded weight: its share of the requests were nothing known since the tick. All weights of a table sum to 1.
    pub weight: f32,
    /// What the local estimate decays towards, in seconds.
    pub prior_s: f32,
    /// When anybody whose telemetry is known here last measured the endpoint; none when nobody did.
    pub measured_at: Option<Time>,
    /// The share of requests expected to succeed.
    pub success: f32,
    /// What the operator and slow start want of it beside its speed, relative to the others' mean: a cost is divided by
    /// it, so that a configured weight holds whatever is measured.
    pub bias: f32,
    /// Whether it may get requests.
    pub health: Health,
    /// The model's score: minus the logarithm of the intrinsic latency in seconds.
    pub score: Option<f32>,
    /// What the model predicts.
    pub predicted: Option<Predicted>,
    /// Why its weight is what it is.
    pub reason: Why,
}

/// Why a candidate's weight is what it is. Put into words (`Display`) where somebody looks, not at every tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// As it says.
    Said(&'static str),
    /// It failed, and is left alone.
    Ejected {
        /// For so many seconds from the generation's making.
        left_s: f32,
        /// Because of this.
        fault: Fault,
    },
    /// It failed, and gets one request at a time.
    Probation {
        /// Because of this.
        fault: Fault,
        /// It gets none until its health check is answered well.
        asked: bool,
    },
    /// Its health check says so.
    Unhealthy(Unwell),
    /// The model predicts so much.
    Predicted {
        /// The intrinsic latency in seconds.
        intrinsic_s: f32,
        /// What a guard did to the weight that follows from it.
        guard: Option<&'static str>,
    },
    /// The model predicts so much, and does not steer.
    Shadow {
        /// The intrinsic latency in seconds.
        intrinsic_s: f32,
    },
}

impl Default for Why {
    fn default() -> Self {
        Self::Said("")
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(words) => f.write_str(words),
            Self::Ejected { left_s, fault } => write!(f, "left alone for {left_s:.1} s after {fault}"),
            Self::Probation { fault, asked } => {
                let until = if *asked { "until its health check is answered well" } else { "one request at a time" };
                write!(f, "on probation after {fault}: {until}")
            }
            Self::Unhealthy(unwell) => write!(f, "{unwell}"),
            Self::Predicted { intrinsic_s, guard } => {
                write!(f, "predicted {:.1} ms at its fair share", intrinsic_s * 1e3)?;
                guard.map_or(Ok(()), |guard| write!(f, "; {guard}"))
            }
            Self::Shadow { intrinsic_s } => {
                write!(f, "shadow: predicted {:.1} ms at its fair share", intrinsic_s * 1e3)
            }
        }
    }
}
