//! The immutable routing table that a tick publishes, and the one pointer through which requests see it.

use super::{Budget, Table};
use crate::admission;
use crate::config::{Ejection, Protocol, Retries, RetryOn, Share, Timeouts, UNRESOLVED};
use crate::links::Time;
use crate::observe::Reason;
use crate::route::{ClusterId, RouteTable, WorkloadId};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Which step of the ladder made the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// The model's scores of this tick.
    Model,
    /// The last good scores: this tick had none.
    LastGood,
    /// On trial: the policy that the model is compared with steers all requests, because the model has lost, or has no scores.
    Against,
    /// No scores, or scores that do not steer: peak EWMA.
    PeakEwma,
    /// No scores and no fresh latencies either: least request.
    LeastRequest,
}

impl Rung {
    /// All rungs, best first.
    pub const ALL: [Rung; 5] = [Rung::Model, Rung::LastGood, Rung::Against, Rung::PeakEwma, Rung::LeastRequest];

    /// Its name in logs, metrics and `/routing`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Model => "model",
            Rung::LastGood => "last_good",
            Rung::Against => "against",
            Rung::PeakEwma => "peak_ewma",
            Rung::LeastRequest => "least_request",
        }
    }
}

/// What made a tick happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The process started.
    Start,
    /// Its time had come.
    Interval,
    /// The configuration changed.
    Reload,
    /// Endpoints appeared or disappeared.
    Endpoints,
    /// An endpoint was ejected, or came back.
    Health,
    /// A link's latency went beyond its threshold.
    Latency,
    /// A link's error rate went beyond its threshold.
    Errors,
}

/// The model whose scores a generation holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelIdentity {
    /// The name in its metadata.
    pub name: String,
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// The engine that ran it.
    pub engine: String,
}

/// When a request that failed is tried at another endpoint: `Retries`, as requests look at them.
#[derive(Debug, Clone)]
pub struct Retrying {
    /// How many further endpoints it may be tried at.
    pub attempts: usize,
    /// How long an endpoint may take to begin its answer while another could be tried instead.
    pub per_try: Option<Duration>,
    /// After no connection, or an endpoint's word that it did nothing.
    pub connect: bool,
    /// After a connection that broke before the answer.
    pub reset: bool,
    /// After 502, 503 and 504.
    pub gateway: bool,
    /// After gRPC's UNAVAILABLE alone.
    pub unavailable: bool,
    /// How many bytes of its body are kept.
    pub body: usize,
    /// What tries may cost.
    pub budget: Arc<Budget>,
}

impl Retrying {
    /// As the configuration says.
    #[must_use]
    pub fn new(retries: &Retries, budget: Arc<Budget>) -> Self {
        let on = |cause| retries.attempts > 0 && retries.on.contains(&cause);
        Self {
            attempts: retries.attempts as usize,
            per_try: Some(retries.per_try.0).filter(|t| !t.is_zero() && retries.attempts > 0),
            connect: on(RetryOn::Connect),
            reset: on(RetryOn::Reset),
            gateway: on(RetryOn::Gateway),
            unavailable: on(RetryOn::Unavailable),
            body: usize::try_from(retries.body.0).unwrap_or(usize::MAX),
            budget,
        }
    }

    /// Whether a request may be sent again once an endpoint had it.
    #[must_use]
    pub fn after_sending(&self) -> bool {
        self.reset || self.gateway || self.unavailable || self.per_try.is_some()
    }
}

/// When a second endpoint is asked because the first one has not answered yet: `config::Hedging`, as requests look at it.
#[derive(Debug, Clone)]
pub struct Hedging {
    /// After so long without an answer; none while it is not known how long answers take.
    pub after: Option<Duration>,
    /// The share of the requests that may be asked of a second endpoint.
    pub share: Share,
    /// What is left of it.
    pub budget: Arc<Budget>,
}

/// One cluster in a generation.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// The service that its endpoints offer.
    pub service: Arc<str>,
    /// The port of that service: the one that its endpoints have in common, else the scheme's (80, 443).
    pub port: u16,
    /// What is spoken with the endpoints.
    pub protocol: Protocol,
    /// Whether that goes over TLS.
    pub secure: bool,
    /// Whether connections to the endpoints begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When a request that failed is tried at another endpoint.
    pub retrying: Retrying,
    /// When a second endpoint is asked; none where that is off.
    pub hedging: Option<Hedging>,
    /// When an endpoint that fails is left alone.
    pub ejection: Ejection,
    /// A table for each workload, by its id.
    pub tables: Box<[Arc<Table>]>,
}

impl Cluster {
    /// One of this name that offers a service of the same, with nothing configured.
    #[cfg(test)]
    pub(crate) fn of(name: &str, tables: Box<[Arc<Table>]>) -> Self {
        Self {
            name: name.into(),
            service: name.into(),
            port: 80,
            protocol: Protocol::Http1,
            secure: false,
            proxy_protocol: false,
            timeouts: Timeouts::default(),
            retrying: Retrying::new(&Retries::default(), Arc::new(Budget::new(1, Share(0.2), 3, Time(0)))),
            hedging: None,
            ejection: Ejection::default(),
            tables,
        }
    }

    /// Why none of its candidates can be chosen.
    #[must_use]
    pub fn nobody(&self) -> Reason {
        if &*self.name == UNRESOLVED { Reason::UnresolvedBackend } else { Reason::NoEndpoints }
    }
}

/// One immutable routing table.
#[derive(Debug)]
pub struct Generation {
    /// Rises by one with each generation of this process.
    pub id: u64,
    /// When it was made.
    pub made_at: Time,
    /// When it was made, by the wall clock.
    pub made_at_wall: SystemTime,
    /// From when on its weights no longer steer.
    pub expires_at: Time,
    /// What made the tick happen.
    pub cause: Cause,
    /// Which step of the ladder made its weights.
    pub rung: Rung,
    /// Why it is that step.
    pub rung_reason: String,
    /// The model whose scores it holds.
    pub model: Option<Arc<ModelIdentity>>,
    /// Where requests go, and who calls.
    pub routes: Arc<RouteTable>,
    /// Who is served when not everybody can be.
    pub admission: Arc<admission::Table>,
    /// By `ClusterId`.
    pub clusters: Box<[Arc<Cluster>]>,
}

impl Generation {
    /// A generation that knows nothing: what is published before the first.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            id: 0,
            made_at: Time(0),
            made_at_wall: SystemTime::UNIX_EPOCH,
            expires_at: Time(u64::MAX),
            cause: Cause::Start,
            rung: Rung::LeastRequest,
            rung_reason: "nothing has been computed yet".into(),
            model: None,
            routes: Arc::new(RouteTable::default()),
            admission: Arc::default(),
            clusters: Box::default(),
        }
    }

    /// A cluster by its id.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.0 as usize)
    }

    /// The table that a workload's requests to a cluster choose from.
    #[must_use]
    pub fn table(&self, cluster: ClusterId, workload: WorkloadId) -> Option<&Arc<Table>> {
        self.cluster(cluster)?.tables.get(workload.0 as usize)
    }

    /// Whether its weights no longer steer.
    #[must_use]
    pub fn expired(&self, now: Time) -> bool {
        now > self.expires_at
    }
}

/// The pointer through which the two loops meet.
#[derive(Debug, Clone)]
pub struct Published(Arc<ArcSwap<Generation>>);

impl Default for Published {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Generation::empty())))
    }
}

impl Published {
    /// The current generation, to be held for a request's life.
    #[must_use]
    pub fn load(&self) -> Arc<Generation> {
        self.0.load_full()
    }

    /// A reader that keeps the current generation at hand: one for each serving thread.
    #[must_use]
    pub fn reader(&self) -> arc_swap::Cache<Arc<ArcSwap<Generation>>, Arc<Generation>> {
        arc_swap::Cache::new(self.0.clone())
    }

    /// Makes a generation the current one.
    pub fn publish(&self, generation: Generation) {
        self.publish_shared(Arc::new(generation));
    }

    /// Makes a generation that others hold too the current one.
    pub fn publish_shared(&self, generation: Arc<Generation>) {
        self.0.store(generation);
    }
}
