//! The meshes that are measured: which services there are, on which nodes, who calls whom.
//!
//! Each node runs three instances; each service has six, spread over the nodes, and calls three others that come soon after
//! it. So what is near to a node grows no longer once the mesh is larger than that, as in a company whose teams call their
//! neighbours; each instance calls all instances of what it calls.

use pathloom::links::{Described, LinkKey, NodeKey};
use pathloom::mesh::{Audience, Interest, hash};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::collections::{BTreeSet, HashSet};

const REPLICAS: usize = 6;
const INSTANCES_A_NODE: usize = 3;
const CALLS: usize = 3;
/// A service calls some of so many that follow it.
const REACH: usize = 30;

/// A mesh.
pub struct Fleet {
    nodes: usize,
    calls: Vec<Vec<usize>>,
    /// What each node wants to hear of.
    pub audiences: Vec<Audience>,
}

impl Fleet {
    /// A mesh of so many nodes, of which each wants to hear of what is less than so many calls away; of everything where
    /// `hops` is 0.
    pub fn new(nodes: usize, hops: usize) -> Self {
        let services = (nodes * INSTANCES_A_NODE / REPLICAS).max(2);
        let mut rng = SmallRng::seed_from_u64(7);
        let calls = |s: usize| {
            let last = (s + REACH).min(services - 1);
            if s == last { BTreeSet::new() } else { (0..CALLS).map(|_| rng.random_range(s + 1..=last)).collect() }
        };
        let calls = (0..services).map(calls).map(|called| called.into_iter().collect()).collect();
        let mut fleet = Self { nodes, calls, audiences: Vec::new() };
        fleet.audiences = (0..nodes).map(|node| Audience { interest: fleet.interest(node, hops) }).collect();
        fleet
    }

    /// The services of a node's instances.
    fn services(&self, node: usize) -> impl Iterator<Item = usize> {
        let places = (0..INSTANCES_A_NODE).map(move |i| node + i * self.nodes);
        places.map(|place| (place / REPLICAS) % self.calls.len())
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The pairs of services between which a node's links are, by the hashes of their names: the calling one first.
    pub fn pairs(&self, node: usize) -> BTreeSet<(u32, u32)> {
        let name = |s: usize| hash(&format!("service-{s}"));
        let from = |s: usize| self.calls.get(s).into_iter().flatten().map(move |called| (name(s), name(*called)));
        self.services(node).flat_map(from).collect()
    }

    /// What a node wants to hear of that hears so far.
    pub fn interest(&self, node: usize, hops: usize) -> Interest {
        if hops == 0 {
            return Interest::default();
        }
        let mut found: HashSet<usize> = self.services(node).collect();
        let mut edge: Vec<usize> = found.iter().copied().collect();
        for _ in 1..hops {
            let called = edge.iter().filter_map(|s| self.calls.get(*s)).flatten().copied();
            edge = called.filter(|s| found.insert(*s)).collect();
        }
        let names: Vec<String> = found.into_iter().map(|s| format!("service-{s}")).collect();
        Interest::in_services(names.iter().map(String::as_str))
    }

    /// The links that start at a node.
    pub fn links(&self, node: usize) -> Vec<LinkKey> {
        let from = |s: usize| {
            let to = self.calls.get(s).into_iter().flatten();
            let to = to.flat_map(|called| (0..REPLICAS).map(|replica| instance(*called, replica)));
            to.map(move |destination| LinkKey::new(&instance(s, node % REPLICAS), &destination))
        };
        let all: BTreeSet<LinkKey> = self.services(node).flat_map(from).collect();
        all.into_iter().collect()
    }
}

fn instance(service: usize, replica: usize) -> NodeKey {
    let [_, b, c, d] = ((service * REPLICAS + replica) as u32).to_be_bytes();
    NodeKey::new(&format!("10.{b}.{c}.{d}:8080"))
}

/// What an address is an instance of.
pub fn described(key: &NodeKey) -> Option<Described> {
    let mut parts = key.0.split(['.', ':']).skip(1).map_while(|part| part.parse::<usize>().ok());
    let number = parts.next()? << 16 | parts.next()? << 8 | parts.next()?;
    let service = format!("service-{}", number / REPLICAS).into();
    Some(Described { service, zone: "eu-1a".into(), host: "".into() })
}
