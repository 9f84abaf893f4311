//! What the sidecars see of the simulated mesh, kept in the sidecar's own `links` and turned into the sidecar's own `graph`.
//!
//! One store plays the mesh: the links of all callers that share what they see. A second store holds the same calls as
//! one link a called instance, and the statistics of nodes come from there: they are the same (a merged sketch equals
//! one that recorded all), but their sums do not depend on the order in which a hash map yields links, so a seed gives
//! the same bytes each time.

use super::draw::Draw;
use super::engine::{SECOND, Server};
use super::mesh::Mesh;
use crate::Result;
use pathloom::graph::{Features, GraphBuilder, Instance};
use pathloom::links::orca::Report;
use pathloom::links::{LinkCell, LinkKey, Links, NodeCell, NodeKey, Observation, Outcome, Time};
use std::sync::Arc;

/// The time constant of the local estimate; what it says is no feature.
const TAU_S: f32 = 3.0;

/// Who sees what in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The callers whose links are candidates: one sidecar's workloads.
    pub own: Vec<usize>,
    /// The callers whose links are seen, the own ones included.
    pub seen: Vec<usize>,
    /// Whether all possible links of those are watched from the start, or only those that were used.
    pub watches_unused: bool,
    /// Whether discovery knows all instances, or only those of services that the own callers call.
    pub knows_all: bool,
    /// Whether discovery knows zones.
    pub knows_zones: bool,
}

impl View {
    /// A random view of a mesh.
    pub fn random(mesh: &Mesh, draw: &mut Draw) -> Self {
        let callers: Vec<usize> = (0..mesh.instances.len()).filter(|i| !mesh.routes[*i].is_empty()).collect();
        let own = if draw.chance(0.45) {
            callers.clone()
        } else {
            let count = draw.whole(1, 4);
            draw.some(&callers, count)
        };
        let seen = match draw.uniform(0.0, 1.0) {
            u if u < 0.6 => callers,
            u if u < 0.8 => {
                let mut some = draw.some(&callers, callers.len().div_ceil(2));
                some.extend(own.iter().filter(|i| !some.contains(i)).copied().collect::<Vec<_>>());
                some
            }
            _ => own.clone(),
        };
        let mut view = Self {
            own,
            seen,
            watches_unused: draw.chance(0.7),
            knows_all: draw.chance(0.85),
            knows_zones: draw.chance(0.8),
        };
        view.own.sort_unstable();
        view.seen.sort_unstable();
        view
    }
}

#[derive(Debug)]
struct Cells {
    link: Arc<LinkCell>,
    pooled: Arc<LinkCell>,
    node: Arc<NodeCell>,
}

/// The stores.
#[derive(Debug)]
pub struct Telemetry {
    links: Links,
    nodes: Links,
    keys: Vec<LinkKey>,
    destinations: Vec<usize>,
    seen: Vec<bool>,
    cells: Vec<Option<Cells>>,
    /// For each instance, whether it answered somebody seen since its last report.
    answered: Vec<bool>,
}

impl Telemetry {
    /// Empty stores.
    #[must_use]
    pub fn new(mesh: &Mesh, view: &View) -> Self {
        let key = |i: usize| &mesh.instances[i].key;
        let keys = mesh.pairs.iter().map(|p| LinkKey::new(key(p.source), key(p.destination))).collect();
        let seen: Vec<bool> = mesh.pairs.iter().map(|p| view.seen.binary_search(&p.source).is_ok()).collect();
        let cells = mesh.pairs.iter().map(|_| None).collect();
        let mut telemetry = Self {
            links: Links::new(1),
            nodes: Links::new(1),
            keys,
            destinations: mesh.pairs.iter().map(|p| p.destination).collect(),
            seen,
            cells,
            answered: vec![false; mesh.instances.len()],
        };
        if view.watches_unused {
            for pair in 0..mesh.pairs.len() {
                let _ = telemetry.cells(pair, 0);
            }
        }
        telemetry
    }

    fn cells(&mut self, pair: usize, now: u64) -> Option<&Cells> {
        if !self.seen[pair] {
            return None;
        }
        let (key, now) = (&self.keys[pair], Time(now));
        let cells = self.cells[pair].get_or_insert_with(|| Cells {
            link: self.links.link(key, now),
            pooled: self.nodes.link(&LinkKey::new(&NodeKey::new("all"), &key.destination), now),
            node: self.nodes.node(&key.destination, now),
        });
        Some(cells)
    }

    /// A call begins.
    pub fn begin(&mut self, pair: usize, now: u64) {
        if let Some(cells) = self.cells(pair, now) {
            cells.link.begin(0, Time(now));
            cells.pooled.begin(0, Time(now));
            cells.node.begin();
        }
    }

    /// A call's answer came.
    pub fn end(&mut self, pair: usize, now: u64, latency_s: f32, outcome: Outcome) {
        if let Some(cells) = self.cells(pair, now) {
            for link in [&cells.link, &cells.pooled] {
                link.record(0, Time(now), latency_s, outcome, latency_s, TAU_S);
                link.end(0, Time(now));
            }
            cells.node.end();
            self.answered[self.destinations[pair]] |= outcome == Outcome::Success;
        }
    }

    /// The instances report what they did in the second that ended.
    pub fn report(&mut self, mesh: &Mesh, servers: &[Server], now: u64, draw: &mut Draw) {
        for ((instance, server), answered) in mesh.instances.iter().zip(servers).zip(&mut self.answered) {
            let service = &mesh.services[instance.service];
            // A report travels in an answer: only who answered somebody seen is heard.
            if !std::mem::take(answered) || !service.reports {
                continue;
            }
            let busy = server.worked as f64 / SECOND as f64 / service.workers.min(1_000) as f64;
            let report = Report {
                cpu_utilization: Some((busy * draw.spread(0.1)).min(1.0)),
                mem_utilization: Some(draw.uniform(0.2, 0.6)),
                application_utilization: Some(busy),
                requests_per_second: Some(f64::from(server.arrived)),
                errors_per_second: Some(f64::from(server.failed)),
            };
            self.nodes.node(&instance.key, Time(now)).report(Time(now), &report);
        }
    }

    /// What is known now.
    #[must_use]
    pub fn observe(&self, now: u64) -> Observation {
        Observation { links: self.links.observe(Time(now)).links, nodes: self.nodes.observe(Time(now)).nodes }
    }

    /// The graph of what is known, with all candidates of the own callers. Also says which pair each candidate is.
    ///
    /// # Errors
    /// When the graph would be too large.
    pub fn features(
        &self,
        mesh: &Mesh,
        view: &View,
        observation: &Observation,
    ) -> Result<(Features, Vec<usize>, Vec<usize>)> {
        let mut builder = GraphBuilder::default();
        let mut candidates = Vec::new();
        for own in &view.own {
            for (route, call) in mesh.routes[*own].iter().zip(&mesh.services[mesh.instances[*own].service].calls) {
                for position in 0..mesh.services[call.service].replicas.len() {
                    builder.candidate(vec![self.keys[route.first_pair + position].clone()]);
                    candidates.push(route.first_pair + position);
                }
            }
        }
        let needed =
            |i: usize| view.own.binary_search(&i).is_ok() || candidates.iter().any(|p| mesh.pairs[*p].destination == i);
        for (i, instance) in mesh.instances.iter().enumerate() {
            if view.knows_all || needed(i) {
                builder.instance(Instance {
                    key: instance.key.clone(),
                    service: format!("s{}", instance.service).into(),
                    zone: if view.knows_zones { format!("z{}", instance.zone).into() } else { "".into() },
                    host: "".into(),
                });
            }
        }
        let graph = builder.build(observation)?;
        let mut features = Features::default();
        features.fill(&graph);
        let instance_of = |key: &NodeKey| mesh.instances.iter().position(|i| i.key == *key).unwrap_or(usize::MAX);
        let nodes = graph.nodes.iter().map(|n| instance_of(&n.key)).collect();
        Ok((features, candidates, nodes))
    }
}
