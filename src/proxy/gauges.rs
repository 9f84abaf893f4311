//! What the data path holds at the moment, a core apart (each has one writer), and added up when somebody looks.

use super::own::OwnConnections;
use super::room::Room;
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
    /// Client connections closed because descriptors ran out.
    pub evicted: Gauge,
    /// Requests under way.
    pub requests: Gauge,
    /// Connections switched to another protocol, such as WebSocket.
    pub upgraded: Gauge,
    /// Connections passed on as TCP.
    pub tcp: Gauge,
    /// Captured connections passed on to where they were going, since the start.
    pub passed: Gauge,
    /// Headers of traces that could not be read, since the start.
    pub malformed_traces: Gauge,
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
    /// Connections of ours that may come back.
    pub(super) own: OwnConnections,
    /// Whether descriptors are scarce.
    pub(super) room: Room,
    /// Listeners that could not be opened yet.
    pub(super) unserved: AtomicU64,
}

/// An endpoint's connections.
#[derive(Debug, Default)]
struct Connections {
    /// How many are open, by core.
    open: Vec<u32>,
    most: Option<u32>,
    /// Somebody got none: those that are idle are to be closed.
    wanted: bool,
}

impl Connections {
    fn all_open(&self) -> u32 {
        self.open.iter().sum()
    }
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
    /// Client connections without a request that were closed because descriptors ran out, since the start.
    pub evicted_total: u64,
    /// Requests under way.
    pub requests: u64,
    /// Connections switched to another protocol, such as WebSocket.
    pub upgraded_connections: u64,
    /// Connections passed on as TCP.
    pub tcp_connections: u64,
    /// Captured connections passed on to where they were going, since the start.
    pub passed_total: u64,
    /// Headers of traces that could not be read, since the start.
    pub malformed_traces_total: u64,
    /// Listeners of the configuration in force that could not be opened yet.
    pub unserved_listeners: u64,
}

impl ProxyGauges {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            cores: (0..cores.max(1)).map(|_| CoreGauges::default()).collect(),
            endpoints: Mutex::default(),
            own: OwnConnections::default(),
            room: Room::new(),
            unserved: AtomicU64::new(0),
        }
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
        endpoints.retain(|_, c| c.all_open() > 0 || c.most.is_some());
    }

    /// Counts one more connection of a core to an endpoint, unless it has as many as it may. A core that has none may always
    /// open one: idle connections of others are of no use to it.
    pub(super) fn claim_connection(&self, core: usize, endpoint: EndpointId) -> bool {
        let mut endpoints = self.endpoints();
        let known = endpoints.entry(endpoint).or_default();
        known.open.resize(self.cores.len(), 0);
        let all_open = known.all_open();
        let Some(own) = known.open.get_mut(core) else { return false };
        let free = *own == 0 || known.most.is_none_or(|most| all_open < most);
        *own += u32::from(free);
        known.wanted |= !free;
        free
    }

    /// A connection of a core to an endpoint is gone.
    pub(super) fn release_connection(&self, core: usize, endpoint: EndpointId) {
        let mut endpoints = self.endpoints();
        let Some(known) = endpoints.get_mut(&endpoint) else { return };
        known.wanted = false;
        if let Some(own) = known.open.get_mut(core) {
            *own = own.saturating_sub(1);
        }
        if known.all_open() == 0 && known.most.is_none() {
            endpoints.remove(&endpoint);
        }
    }

    /// Whether somebody got no connection to an endpoint and none was closed since.
    pub(super) fn wants_connection(&self, endpoint: EndpointId) -> bool {
        self.endpoints().get(&endpoint).is_some_and(|c| c.wanted)
    }

    /// What each core holds.
    #[must_use]
    pub fn by_core(&self) -> Vec<GaugesSnapshot> {
        self.cores.iter().map(CoreGauges::snapshot).collect()
    }

    /// What all cores hold together.
    #[must_use]
    pub fn snapshot(&self) -> GaugesSnapshot {
        let none = GaugesSnapshot { unserved_listeners: self.unserved.load(Relaxed), ..GaugesSnapshot::default() };
        self.cores.iter().map(CoreGauges::snapshot).fold(none, |a, b| GaugesSnapshot {
            downstream_connections: a.downstream_connections + b.downstream_connections,
            accepted_total: a.accepted_total + b.accepted_total,
            upstream_connections: a.upstream_connections + b.upstream_connections,
            pooled_connections: a.pooled_connections + b.pooled_connections,
            connected_total: a.connected_total + b.connected_total,
            evicted_total: a.evicted_total + b.evicted_total,
            requests: a.requests + b.requests,
            upgraded_connections: a.upgraded_connections + b.upgraded_connections,
            tcp_connections: a.tcp_connections + b.tcp_connections,
            passed_total: a.passed_total + b.passed_total,
            malformed_traces_total: a.malformed_traces_total + b.malformed_traces_total,
            unserved_listeners: a.unserved_listeners + b.unserved_listeners,
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
            evicted_total: self.evicted.get(),
            requests: self.requests.get(),
            upgraded_connections: self.upgraded.get(),
            tcp_connections: self.tcp.get(),
            passed_total: self.passed.get(),
            malformed_traces_total: self.malformed_traces.get(),
            unserved_listeners: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_no_more_connections_than_it_may_and_no_core_goes_without() {
        let gauges = ProxyGauges::new(2);
        let id = EndpointId(1);
        gauges.endpoints().entry(id).or_default().most = Some(3);
        let claims: Vec<bool> = (0..4).map(|_| gauges.claim_connection(0, id)).collect();
        assert_eq!(claims, [true, true, true, false]);
        assert!(gauges.wants_connection(id), "somebody got none");
        assert!(gauges.claim_connection(1, id), "the first of its core");
        assert!(!gauges.claim_connection(1, id));
        gauges.release_connection(0, id);
        assert!(!gauges.wants_connection(id) && !gauges.claim_connection(1, id), "three are open still");
        gauges.release_connection(0, id);
        assert!(gauges.claim_connection(1, id));
        (0..10).for_each(|_| _ = gauges.claim_connection(1, EndpointId(2)));
        assert_eq!(gauges.endpoints()[&EndpointId(2)].all_open(), 10, "without a limit");
        (0..10).for_each(|_| gauges.release_connection(1, EndpointId(2)));
        assert!(!gauges.endpoints().contains_key(&EndpointId(2)), "nothing is left behind");
    }
}
