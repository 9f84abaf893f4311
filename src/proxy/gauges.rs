//! What the data path holds at the moment, a core apart (each has one writer), and added up when somebody looks.

use crate::balance::{EndpointId, Generation};
use crate::links::bump;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// One core's part. Aligned so that two cores never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct CoreGauges {
    /// Client connections open, upgraded ones included.
    pub downstream: Gauge,
    /// Client connections accepted since the start.
    pub accepted: Gauge,
    /// Connections to endpoints open.
    pub upstream: Gauge,
    /// Those of them that wait for a request.
    pub pooled: Gauge,
    /// Connections to endpoints opened since the start.
    pub connected: Gauge,
    /// Requests under way.
    pub requests: Gauge,
    /// Connections switched to another protocol, such as WebSocket.
    pub upgraded: Gauge,
}

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn add(&self, by: u64) {
        bump(&self.0, by);
    }

    pub(super) fn sub(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(by), Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The gauges of all cores.
#[derive(Debug)]
pub struct ProxyGauges {
    cores: Box<[CoreGauges]>,
    /// Connections of all cores by endpoint, written whenever one is opened or closed.
    endpoints: Mutex<HashMap<EndpointId, Connections>>,
}

/// An endpoint's connections.
#[derive(Debug, Default)]
struct Connections {
    open: u32,
    most: Option<u32>,
}

/// What the gauges show, over all cores or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct GaugesSnapshot {
    /// Client connections open, upgraded ones included.
    pub downstream_connections: u64,
    /// Client connections accepted since the start.
    pub accepted_total: u64,
    /// Connections to endpoints open.
    pub upstream_connections: u64,
    /// Those of them that wait for a request.
    pub pooled_connections: u64,
    /// Connections to endpoints opened since the start.
    pub connected_total: u64,
    /// Requests under way.
    pub requests: u64,
    /// Connections switched to another protocol, such as WebSocket.
    pub upgraded_connections: u64,
}

impl ProxyGauges {
    pub(super) fn new(cores: usize) -> Self {
        Self { cores: (0..cores.max(1)).map(|_| CoreGauges::default()).collect(), endpoints: Mutex::default() }
    }

    pub(super) fn core(&self, core: usize) -> Option<&CoreGauges> {
        self.cores.get(core)
    }

    fn endpoints(&self) -> std::sync::MutexGuard<'_, HashMap<EndpointId, Connections>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over how many connections each endpoint may have; of several clusters' limits the least.
    pub(super) fn limit_connections(&self, generation: &Generation) {
        let mut endpoints = self.endpoints();
        endpoints.values_mut().for_each(|c| c.most = None);
        let limited = generation.clusters.iter().zip(0..).filter_map(|(cluster, id)| {
            let most = generation.admission.connections(crate::route::ClusterId(id))?;
            Some((cluster.tables.first()?, most))
        });
        for (table, most) in limited {
            for candidate in table.candidates() {
                let known = endpoints.entry(candidate.endpoint.id).or_default();
                known.most = Some(known.most.map_or(most, |other| other.min(most)));
            }
        }
        endpoints.retain(|_, c| c.open > 0 || c.most.is_some());
    }

    /// Counts one more connection to an endpoint, unless it has as many as it may.
    pub(super) fn claim_connection(&self, endpoint: EndpointId) -> bool {
        let mut endpoints = self.endpoints();
        let known = endpoints.entry(endpoint).or_default();
        let free = known.most.is_none_or(|most| known.open < most);
        known.open += u32::from(free);
        free
    }

    /// A connection to an endpoint is gone.
    pub(super) fn release_connection(&self, endpoint: EndpointId) {
        let mut endpoints = self.endpoints();
        if let Some(known) = endpoints.get_mut(&endpoint) {
            known.open = known.open.saturating_sub(1);
            if known.open == 0 && known.most.is_none() {
                endpoints.remove(&endpoint);
            }
        }
    }

    /// What each core holds.
    #[must_use]
    pub fn by_core(&self) -> Vec<GaugesSnapshot> {
        self.cores.iter().map(CoreGauges::snapshot).collect()
    }

    /// What all cores hold together.
    #[must_use]
    pub fn snapshot(&self) -> GaugesSnapshot {
        self.cores.iter().map(CoreGauges::snapshot).fold(GaugesSnapshot::default(), |a, b| GaugesSnapshot {
            downstream_connections: a.downstream_connections + b.downstream_connections,
            accepted_total: a.accepted_total + b.accepted_total,
            upstream_connections: a.upstream_connections + b.upstream_connections,
            pooled_connections: a.pooled_connections + b.pooled_connections,
            connected_total: a.connected_total + b.connected_total,
            requests: a.requests + b.requests,
            upgraded_connections: a.upgraded_connections + b.upgraded_connections,
        })
    }
}

impl CoreGauges {
    fn snapshot(&self) -> GaugesSnapshot {
        GaugesSnapshot {
            downstream_connections: self.downstream.get(),
            accepted_total: self.accepted.get(),
            upstream_connections: self.upstream.get(),
            pooled_connections: self.pooled.get(),
            connected_total: self.connected.get(),
            requests: self.requests.get(),
            upgraded_connections: self.upgraded.get(),
        }
    }
}
