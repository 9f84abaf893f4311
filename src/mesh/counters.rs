//! What sharing shows of itself (`pathloom_mesh_*`).

use super::refusals::Refusals;
use super::refused::Refused;
use super::seal::Kind;
use crate::observe::metrics::{Family, Kind as Of, Measure, Value};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What a datagram holds, as labels say it.
const HOLDS: [&str; 2] = ["gossip", "report"];

/// Counters and gauges; written by the mesh's thread, read when somebody scrapes.
#[derive(Debug, Default)]
pub struct Counters {
    on: AtomicBool,
    /// Whether a server carries reports, and whether it is connected.
    by_server: AtomicBool,
    connected: AtomicBool,
    hops: AtomicU64,
    peers: AtomicU64,
    links: AtomicU64,
    sent_bytes: [AtomicU64; 2],
    received_bytes: [AtomicU64; 2],
    reports: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    refusals: Refusals,
    unheard: AtomicU64,
    unsent: AtomicU64,
    own_links: AtomicU64,
    links_left_out: AtomicU64,
}

fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Relaxed);
}

impl Counters {
    /// Whether links are shared at all: until then there is nothing to show.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Relaxed);
        if !on {
            self.set(0, 0);
        }
    }

    /// Whether links are shared by a server, whose connection is then shown; none is there yet.
    pub fn set_by_server(&self, by_server: bool) {
        self.by_server.store(by_server, Relaxed);
        self.set_connected(false);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    pub(super) fn set_hops(&self, hops: usize) {
        self.hops.store(hops as u64, Relaxed);
    }

    pub(super) fn set(&self, peers: usize, links: usize) {
        self.peers.store(peers as u64, Relaxed);
        self.links.store(links as u64, Relaxed);
    }

    pub(super) fn sent(&self, kind: Kind, bytes: usize) {
        if let Some(counter) = self.sent_bytes.get(kind as usize) {
            add(counter, bytes);
        }
    }

    pub(super) fn received(&self, kind: Kind, bytes: usize) {
        if let Some(counter) = self.received_bytes.get(kind as usize) {
            add(counter, bytes);
        }
    }

    /// Something was refused; `from` says whose it was, for the log.
    pub(super) fn refused(&self, refused: Refused, from: impl FnOnce() -> String) {
        if let Some(counter) = self.refused.get(refused as usize) {
            add(counter, 1);
        }
        self.refusals.tell(refused, from);
    }

    pub(super) fn taken(&self, taken: super::ledger::Taken) {
        add(&self.reports, 1);
        add(&self.own_links, taken.own);
        add(&self.links_left_out, taken.left_out);
    }

    /// Bytes sent so far that held this, headers included.
    #[must_use]
    pub fn sent_bytes(&self, kind: Kind) -> u64 {
        self.sent_bytes.get(kind as usize).map_or(0, |counter| counter.load(Relaxed))
    }

    /// A datagram came faster than it could be taken in.
    pub(super) fn unheard(&self) {
        add(&self.unheard, 1);
    }

    /// A datagram was not sent: there was no room in the budget, or the network took none.
    pub(super) fn unsent(&self) {
        add(&self.unsent, 1);
    }

    /// How many messages were refused, for whatever reason, and how many were not listened to.
    #[cfg(test)]
    pub(super) fn refusals(&self) -> u64 {
        self.refused.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    #[cfg(test)]
    pub(super) fn unheards(&self) -> u64 {
        self.unheard.load(Relaxed)
    }

    /// Everything, for `/metrics`; nothing while links are not shared.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        if !self.on.load(Relaxed) {
            return Vec::new();
        }
        let of = |counter: &AtomicU64| Value::Count(counter.load(Relaxed));
        let counter = |name, help, value: &AtomicU64| {
            Family::new(name, Of::Counter, Measure::Number, help).count(value.load(Relaxed))
        };
        let gauge = |name, help, value: &AtomicU64| {
            Family::new(name, Of::Gauge, Measure::Number, help).count(value.load(Relaxed))
        };
        let bytes = |name, help, counters: &[AtomicU64; 2]| {
            let family = Family::new(name, Of::Counter, Measure::Bytes, help);
            let holds = |holds: &str| vec![("holds", holds.to_owned())];
            HOLDS.iter().zip(counters).fold(family, |family, (name, counter)| family.with(holds(name), of(counter)))
        };
        let help = "Datagrams, messages and reports of other nodes that were refused, by reason.";
        let refused = Refused::ALL
            .iter()
            .zip(&self.refused)
            .fold(Family::new("mesh_refused", Of::Counter, Measure::Number, help), |family, (reason, counter)| {
                family.with(vec![("reason", reason.code().to_owned())], of(counter))
            });
        let mut families = vec![
            gauge("mesh_peers", "Other nodes that are alive, by gossip or by what they say over NATS.", &self.peers),
            gauge("mesh_links", "Links that other nodes tell of at present.", &self.links),
            bytes("mesh_sent", "Bytes sent to other nodes, by what they hold.", &self.sent_bytes),
            bytes(
                "mesh_received",
                "Bytes of members of the mesh that came in, by what they hold.",
                &self.received_bytes,
            ),
            counter("mesh_reports", "Reports of other nodes that were taken in.", &self.reports),
            refused,
            counter(
                "mesh_unheard",
                "Datagrams and messages of other nodes that came faster than they could be taken in.",
                &self.unheard,
            ),
            counter(
                "mesh_unsent",
                "Datagrams and messages that the byte budget, the network or the server had no room for.",
                &self.unsent,
            ),
            counter(
                "mesh_own_links",
                "Statistics of this node's own links that others told, which are not believed.",
                &self.own_links,
            ),
            counter(
                "mesh_links_left_out",
                "Statistics of links that others told and for which there was no room.",
                &self.links_left_out,
            ),
        ];
        if self.by_server.load(Relaxed) {
            let help = "Whether a NATS server is connected, 1 or 0; only where links are shared by NATS.";
            let connected = Family::new("mesh_connected", Of::Gauge, Measure::Number, help);
            families.push(connected.count(self.connected.load(Relaxed).into()));
            let help = "How many calls away this node hears of links over NATS: fewer than `mesh.hops` where more came in than `mesh.nats.hear`.";
            families.push(gauge("mesh_hops", help, &self.hops));
        }
        families
    }
}
