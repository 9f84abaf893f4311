//! What the data path holds at the moment, a core apart (each has one writer), and added up when somebody looks.

use crate::links::bump;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
        Self { cores: (0..cores.max(1)).map(|_| CoreGauges::default()).collect() }
    }

    pub(super) fn core(&self, core: usize) -> Option<&CoreGauges> {
        self.cores.get(core)
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
