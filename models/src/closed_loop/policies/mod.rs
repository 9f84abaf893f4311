//! The policies that stand against each other, each at one (calling instance, called service).
//!
//! A rival is written from its own sources (named in its module), with the parameters that its makers ship, and with
//! those that `tuned` tries. They differ in the choice alone: discovery hands all of them the same replicas, and
//! failures in a row eject a replica for all of them alike (`ejection`).
//!
//! Left out: C3, whose cubic queue term needs a replica's queue length in every answer, and L3, which sets shares for
//! whole clusters; neither is what a user of a sidecar would pick instead.

mod ewma;
mod pathloom;
mod prequal;
mod simple;
mod wrr;

pub use ewma::PeakEwma;
pub use pathloom::{Pathloom, Rules as PathloomRules};
pub use prequal::{Prequal, Rules as PrequalRules};
pub use simple::{LeastRequest, Random, RoundRobin, ShortestPath};
pub use wrr::{Rules as WeightedRoundRobinRules, WeightedRoundRobin};

use crate::simulator::balancer::Balancer;
use crate::simulator::mesh::Mesh;
use ::pathloom::links::NodeKey;

/// Where a policy stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Who calls.
    pub source: NodeKey,
    /// Who may be called, by position.
    pub destinations: Vec<NodeKey>,
    /// What communication with each costs, in seconds, as an operator would configure it: round trip, bytes over
    /// bandwidth, and the proxies' overhead.
    pub costs_s: Vec<f32>,
}

impl Place {
    /// The place of an instance's route to its `dependency`-th called service.
    #[must_use]
    pub fn of(mesh: &Mesh, instance: usize, dependency: usize) -> Self {
        let route = &mesh.routes[instance][dependency];
        let network = &mesh.network;
        let called = &mesh.services[mesh.services[mesh.instances[instance].service].called[dependency]];
        let bytes = called.handlers.first().map_or(0.0, |h| h.bytes);
        let host = |i: usize| mesh.instances[i].host;
        let cost = |pair: &usize| {
            let (from, to) = (host(mesh.pairs[*pair].source), host(mesh.pairs[*pair].destination));
            let rtt_s =
                if from == to { network.local_s } else { network.rtt_s[mesh.hosts[from].zone][mesh.hosts[to].zone] };
            (rtt_s + bytes / network.bandwidth.max(1.0) + network.overhead_s) as f32
        };
        Self {
            source: mesh.instances[instance].key.clone(),
            destinations: route.pairs.iter().map(|p| mesh.instances[mesh.pairs[*p].destination].key.clone()).collect(),
            costs_s: route.pairs.iter().map(cost).collect(),
        }
    }

    /// How many positions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Whether there is nobody to call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }
}

/// A policy and its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// In turn.
    RoundRobin,
    /// Anywhere.
    Random,
    /// The fewest requests in flight of so many drawn; of all for `usize::MAX`.
    LeastRequest(usize),
    /// Linkerd's, of so many drawn.
    PeakEwma {
        /// How many are compared; all for `usize::MAX`.
        choices: usize,
        /// The time constant of its decay in seconds.
        decay_s: f32,
    },
    /// Google's.
    Prequal(PrequalRules),
    /// gRPC's.
    WeightedRoundRobin(WeightedRoundRobinRules),
    /// The least communication cost, as OSPF routes.
    ShortestPath,
    /// The product's own pick.
    Pathloom(PathloomRules),
}

impl Policy {
    /// The policy at a place.
    #[must_use]
    pub fn at(&self, place: &Place) -> Box<dyn Balancer> {
        match *self {
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random::default()),
            Self::LeastRequest(choices) => Box::new(LeastRequest::new(place.len(), choices)),
            Self::PeakEwma { choices, decay_s } => Box::new(PeakEwma::new(place.len(), choices, decay_s)),
            Self::Prequal(rules) => Box::new(Prequal::new(place.len(), rules)),
            Self::WeightedRoundRobin(rules) => Box::new(WeightedRoundRobin::new(place.len(), rules)),
            Self::ShortestPath => Box::new(ShortestPath::new(place.costs_s.clone())),
            Self::Pathloom(rules) => Box::new(Pathloom::new(place, rules)),
        }
    }
}

/// Those of `usable` that were not tried; all of them when all were.
fn open<'a>(usable: &'a [usize], tried: &[usize], kept: &'a mut Vec<usize>) -> &'a [usize] {
    if tried.is_empty() {
        return usable;
    }
    kept.clear();
    kept.extend(usable.iter().filter(|p| !tried.contains(p)));
    if kept.is_empty() { usable } else { kept }
}

#[cfg(test)]
mod tests;
