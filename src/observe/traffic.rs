//! Counters of the requests that a workload sent to a cluster, kept a core apart like the links' (each shard has one
//! writer), and added up when somebody looks.

use super::durations::{self, DurationKind, Durations, DurationsSeen};
use super::routes::{ByRoute, RouteLabel, RoutesSeen};
use super::{Arm, ArmSeen, Arms, Came, Reason};
use crate::links::bump;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The upper bounds of the latency histogram's buckets in seconds (OpenTelemetry's advice for HTTP), infinity after them.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const REASONS: usize = Reason::ALL.len();
const COPIES: usize = Copied::ALL.len();
const HEDGES: usize = Hedged::ALL.len();

/// What became of the moment at which a request may be asked of a second endpoint, because the first has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hedged {
    /// It was, and the second one's answer was passed on.
    Won,
    /// It was, and the first one's answer was passed on, or none.
    Lost,
    /// There was no other endpoint that was well.
    NoEndpoint,
    /// The cluster had as many of them as `hedging.share` allows.
    Share,
    /// Nothing was left of the cluster's budget for tries.
    Budget,
    /// The cluster had as many requests under way as it may, or was refusing some.
    Overload,
    /// The request's body was not all there, or was too long to be kept.
    Body,
}

impl Hedged {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Won, Self::Lost, Self::NoEndpoint, Self::Share, Self::Budget, Self::Overload, Self::Body];

    /// Its name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::NoEndpoint => "no_endpoint",
            Self::Share => "share",
            Self::Budget => "budget",
            Self::Overload => "overload",
            Self::Body => "body",
        }
    }
}

/// What became of a copy of a request, for a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It was answered.
    Answered,
    /// It was sent, and not answered in time; or it could not be sent.
    Failed,
    /// The request's body was too long.
    TooLarge,
    /// Too many copies were under way.
    Busy,
}

impl Copied {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::TooLarge, Self::Busy];

    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
        }
    }
}

/// gRPC calls as such, beside the requests that they are.
#[derive(Debug, Default)]
struct Calls {
    server: ByRoute,
    client: Durations,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// Requests.
    server: ByRoute,
    /// Tries at endpoints.
    client: Durations,
    /// gRPC calls, where there are any.
    calls: OnceLock<Box<Calls>>,
    failures: [AtomicU64; REASONS],
    retries: AtomicU64,
    hedges: [AtomicU64; HEDGES],
    delays: AtomicU64,
    copies: [AtomicU64; COPIES],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// What was counted, over all cores.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficSnapshot {
    /// Answers by the first digit of their status; at 0 requests without an answer.
    pub statuses: [u64; 6],
    /// Failures by `Reason::index`.
    pub failures: [u64; REASONS],
    /// Requests by latency bucket, not cumulative.
    pub latency_buckets: [u64; LATENCY_BUCKETS_S.len() + 1],
    /// All latencies together, in seconds.
    pub latency_sum_s: f64,
    /// How long requests took, by route and by what they were.
    pub server: RoutesSeen,
    /// How long tries at endpoints took, by what they were.
    pub client: DurationsSeen,
    /// How long gRPC calls took, by route and by how they ended.
    pub server_calls: RoutesSeen,
    /// How long gRPC calls to endpoints took, by how they ended.
    pub client_calls: DurationsSeen,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Requests for which a second endpoint was due, by `Hedged`.
    pub hedges: [u64; HEDGES],
    /// Requests that waited on purpose.
    pub delays: u64,
    /// Copies of requests to other clusters that came here, by `Copied`.
    pub copies: [u64; COPIES],
    /// Bytes of bodies that clients sent.
    pub request_bytes: u64,
    /// Bytes of bodies that clients got.
    pub response_bytes: u64,
}

impl Default for TrafficSnapshot {
    fn default() -> Self {
        Self {
            statuses: [0; 6],
            failures: [0; REASONS],
            latency_buckets: [0; LATENCY_BUCKETS_S.len() + 1],
            latency_sum_s: 0.0,
            server: RoutesSeen::new(),
            client: DurationsSeen::new(),
            server_calls: RoutesSeen::new(),
            client_calls: DurationsSeen::new(),
            retries: 0,
            hedges: [0; HEDGES],
            delays: 0,
            copies: [0; COPIES],
            request_bytes: 0,
            response_bytes: 0,
        }
    }
}

/// The counters of one (workload, cluster).
#[derive(Debug)]
pub struct Traffic {
    shards: Box<[Shard]>,
    /// Where the model is or was on trial.
    arms: OnceLock<Arms>,
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

impl Traffic {
    /// Counters for a proxy with so many serving threads.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        let shard = |_| Shard {
            server: ByRoute::default(),
            client: Durations::default(),
            calls: OnceLock::new(),
            failures: zeros(),
            retries: AtomicU64::new(0),
            hedges: zeros(),
            delays: AtomicU64::new(0),
            copies: zeros(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        };
        Self { shards: (0..cores.max(1)).map(shard).collect(), arms: OnceLock::new() }
    }

    /// For how many serving threads it counts.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shards.len()
    }

    /// Counts a request that is over: its route, what it was, why it failed, and how long it took up to the answer's end.
    /// Where its trace is recorded, `exemplar` names the trace and its span.
    pub fn finished(
        &self,
        core: usize,
        route: Option<&RouteLabel>,
        (kind, reason): (DurationKind, Option<Reason>),
        latency_ns: u64,
        (request_bytes, response_bytes): (u64, u64),
        exemplar: Option<impl FnOnce() -> ([u8; 32], [u8; 16])>,
    ) {
        let Some(shard) = self.shards.get(core) else { return };
        if let Some(counter) = reason.and_then(|r| shard.failures.get(r.index())) {
            bump(counter, 1);
        }
        shard.server.of(route).record(kind, latency_ns, exemplar);
        bump(&shard.request_bytes, request_bytes);
        bump(&shard.response_bytes, response_bytes);
    }

    /// Counts a try at an endpoint that is over, and how long it took.
    pub fn tried(
        &self,
        core: usize,
        kind: DurationKind,
        latency_ns: u64,
        exemplar: Option<impl FnOnce() -> ([u8; 32], [u8; 16])>,
    ) {
        if let Some(shard) = self.shards.get(core) {
            shard.client.record(kind, latency_ns, exemplar);
        }
    }

    /// Counts a request that is over as the gRPC call that it is, too.
    pub fn called(
        &self,
        core: usize,
        route: Option<&RouteLabel>,
        kind: DurationKind,
        latency_ns: u64,
        exemplar: Option<impl FnOnce() -> ([u8; 32], [u8; 16])>,
    ) {
        if let Some(shard) = self.shards.get(core) {
            shard.calls.get_or_init(Box::default).server.of(route).record(kind, latency_ns, exemplar);
        }
    }

    /// Counts a try at an endpoint that is over as the gRPC call that it is, too.
    pub fn tried_call(
        &self,
        core: usize,
        kind: DurationKind,
        latency_ns: u64,
        exemplar: Option<impl FnOnce() -> ([u8; 32], [u8; 16])>,
    ) {
        if let Some(shard) = self.shards.get(core) {
            shard.calls.get_or_init(Box::default).client.record(kind, latency_ns, exemplar);
        }
    }

    /// Counts an attempt beyond the first.
    pub fn retried(&self, core: usize) {
        if let Some(shard) = self.shards.get(core) {
            bump(&shard.retries, 1);
        }
    }

    /// Counts a request for which a second endpoint was due.
    pub fn hedged(&self, core: usize, what: Hedged) {
        if let Some(counter) = self.shards.get(core).and_then(|shard| shard.hedges.get(what as usize)) {
            bump(counter, 1);
        }
    }

    /// For how many requests a second endpoint was due so far, by `Hedged`.
    #[must_use]
    pub fn hedges(&self) -> [u64; HEDGES] {
        let mut all = [0; HEDGES];
        for shard in &self.shards {
            all.iter_mut().zip(&shard.hedges).for_each(|(sum, counter)| *sum += counter.load(Relaxed));
        }
        all
    }

    /// Counts a request that waited on purpose.
    pub fn delayed(&self, core: usize) {
        if let Some(shard) = self.shards.get(core) {
            bump(&shard.delays, 1);
        }
    }

    /// Counts a copy of a request.
    pub fn copied(&self, core: usize, what: Copied) {
        if let Some(counter) = self.shards.get(core).and_then(|shard| shard.copies.get(what as usize)) {
            bump(counter, 1);
        }
    }

    /// Counts a request that one arm of a trial steered.
    pub fn steered(&self, core: usize, arm: Arm, came: Came) {
        if let Some(arms) = self.arms.get() {
            arms.came(core, arm, came);
        }
    }

    /// From here on the arms of a trial are counted.
    pub fn count_arms(&self) {
        self.arms.get_or_init(|| Arms::new(self.cores()));
    }

    /// What the arms of a trial came to so far, by `Arm`; none where there was no trial yet.
    #[must_use]
    pub fn arms(&self) -> Option<[ArmSeen; 2]> {
        self.arms.get().map(|arms| Arm::ALL.map(|arm| arms.seen(arm)))
    }

    /// What was counted so far.
    #[must_use]
    pub fn snapshot(&self) -> TrafficSnapshot {
        fn add<const N: usize>(sums: &mut [u64; N], counters: &[AtomicU64; N]) {
            sums.iter_mut().zip(counters).for_each(|(sum, c)| *sum += c.load(Relaxed));
        }
        let mut all = TrafficSnapshot::default();
        for shard in &self.shards {
            shard.server.add_to(&mut all.server);
            durations::add(&mut all.client, &shard.client);
            if let Some(calls) = shard.calls.get() {
                calls.server.add_to(&mut all.server_calls);
                durations::add(&mut all.client_calls, &calls.client);
            }
            add(&mut all.failures, &shard.failures);
            all.retries += shard.retries.load(Relaxed);
            add(&mut all.hedges, &shard.hedges);
            all.delays += shard.delays.load(Relaxed);
            add(&mut all.copies, &shard.copies);
            all.request_bytes += shard.request_bytes.load(Relaxed);
            all.response_bytes += shard.response_bytes.load(Relaxed);
        }
        for (kind, seen) in all.server.values().flatten() {
            if let Some(count) = all.statuses.get_mut(kind.class()) {
                *count += seen.buckets.iter().sum::<u64>();
            }
            all.latency_buckets.iter_mut().zip(seen.buckets).for_each(|(sum, count)| *sum += count);
            all.latency_sum_s += seen.sum_s;
        }
        all
    }
}

/// Who sent requests, and where to: a workload and a cluster.
pub type Pair = (Arc<str>, Arc<str>);

/// All counters by (workload, cluster): found when a generation is built, never by a request.
#[derive(Debug)]
pub struct TrafficRegistry {
    cores: usize,
    all: Mutex<BTreeMap<Pair, Arc<Traffic>>>,
    /// Requests that no cluster answered, by reason: no route, no workload, not HTTP.
    unrouted: Arc<Traffic>,
}

impl TrafficRegistry {
    /// An empty registry for a proxy with so many serving threads.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores, all: Mutex::default(), unrouted: Arc::new(Traffic::new(cores)) }
    }

    /// For how many serving threads it counts.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The counters of a workload's requests to a cluster, made when they are new.
    #[must_use]
    pub fn of(&self, workload: &Arc<str>, cluster: &Arc<str>) -> Arc<Traffic> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((workload.clone(), cluster.clone())).or_insert_with(|| Arc::new(Traffic::new(self.cores))).clone()
    }

    /// The counters of requests that reached no cluster.
    #[must_use]
    pub fn unrouted(&self) -> &Arc<Traffic> {
        &self.unrouted
    }

    /// Keeps the counters of these (workload, cluster) pairs only, so that labels stay bounded by the configuration.
    pub fn retain(&self, keep: impl Fn(&str, &str) -> bool) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|(w, c), _| keep(w, c));
    }

    /// Everything counted, by (workload, cluster).
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Pair, TrafficSnapshot)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(key, traffic)| (key.clone(), traffic.snapshot())).collect()
    }

    /// What the arms of a trial came to, by (workload, cluster).
    #[must_use]
    pub fn arms(&self) -> Vec<(Pair, [ArmSeen; 2])> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(key, traffic)| Some((key.clone(), traffic.arms()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_cores() {
        let registry = TrafficRegistry::new(2);
        let traffic = registry.of(&"w".into(), &"c".into());
        let finish = |core, status, reason, ns, bytes| {
            let kind = DurationKind::new(&http::Method::GET, status, reason);
            traffic.finished(core, None, (kind, reason), ns, bytes, None::<fn() -> _>);
        };
        finish(0, 200, None, 7_000_000, (1, 2));
        finish(1, 502, Some(Reason::UpstreamReset), 20_000_000_000, (1, 2));
        finish(9, 200, None, 1, (0, 0));
        let all = registry.of(&"w".into(), &"c".into()).snapshot();
        assert_eq!((all.statuses[2], all.statuses[5], all.failures[Reason::UpstreamReset.index()]), (1, 1, 1));
        assert_eq!((all.latency_buckets[1], all.latency_buckets[14], all.response_bytes), (1, 1, 4));
        assert!((all.latency_sum_s - 20.007).abs() < 1e-9);
        registry.retain(|_, c| c != "c");
        assert!(registry.snapshot().is_empty());
    }
}
