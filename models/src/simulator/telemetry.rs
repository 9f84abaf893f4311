//! What a sidecar sees of the simulated mesh: kept in the sidecar's own `links`, turned into the sidecar's own `graph`.
//!
//! A `View` is one sidecar with its workloads (the own callers), or all of them at once. What it sees itself is there at
//! once; what other callers share comes `d` seconds late, with the times at which it happened, and from some it never comes.
//! While a host is silent (a partition of telemetry), what its callers see is lost to all but themselves. Reports of load
//! (ORCA) travel in answers, so only instances that answered somebody who is heard are known by them.
//!
//! Other than in a real mesh, late statistics come with their latencies, not summed up: the sidecar's sketches are mergeable,
//! so that makes no difference but for the age, which is set right here.

use super::engine::Observer;
use super::faults::Active;
use super::mesh::Mesh;
use crate::Result;
use crate::simulator::draw::Draw;
use pathloom::graph::{Features, GraphBuilder, Instance};
use pathloom::links::orca::Report;
use pathloom::links::{LinkCell, LinkKey, Links, NodeCell, NodeKey, Observation, Outcome, Time};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The time constant of the local estimate; what it says is no feature.
const TAU_S: f32 = 3.0;
/// The latest that a shared statistic comes, in seconds.
pub const LATEST_S: usize = 3;

/// Who sees what in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The callers whose links are candidates, sorted: one sidecar's workloads.
    pub own: Vec<usize>,
    /// For each other caller that shares what it sees, how many seconds late that comes, at most `LATEST_S`.
    pub shared: BTreeMap<usize, usize>,
    /// Whether discovery knows all instances, or only the own ones and those that they call.
    pub knows_all: bool,
    /// Whether discovery knows zones.
    pub knows_zones: bool,
    /// Whether discovery knows hosts.
    pub knows_hosts: bool,
    /// From which second on the sidecar runs.
    pub since_s: u64,
}

impl View {
    /// All callers as one, who see everything at once: nothing is late or hidden.
    #[must_use]
    pub fn whole(mesh: &Mesh) -> Self {
        let shared = BTreeMap::new();
        Self { own: callers(mesh), shared, knows_all: true, knows_zones: true, knows_hosts: true, since_s: 0 }
    }

    /// One sidecar's: these callers' own links, and all others' `late_s` seconds late.
    #[must_use]
    pub fn of(mesh: &Mesh, own: Vec<usize>, late_s: usize) -> Self {
        let others = callers(mesh).into_iter().filter(|i| !own.contains(i));
        let shared = others.map(|i| (i, late_s.min(LATEST_S))).collect();
        Self { own, shared, ..Self::whole(mesh) }
    }

    /// A random view of a mesh. `most` bounds the own callers' links, so that a large mesh is no one's alone.
    pub fn random(mesh: &Mesh, most: usize, draw: &mut Draw) -> Self {
        let callers = callers(mesh);
        let mut own = if draw.chance(0.4) {
            draw.some(&callers, callers.len())
        } else {
            // One node's sidecar: a few workloads.
            let count = draw.whole(1, 5);
            draw.some(&callers, count)
        };
        let mut links = 0;
        own.retain(|i| {
            let first = links == 0;
            links += mesh.routes[*i].iter().map(|r| r.pairs.len()).sum::<usize>();
            first || links <= most
        });
        own.sort_unstable();
        // All share, about half do, or nobody does.
        let share = match draw.uniform(0.0, 1.0) {
            u if u < 0.65 => 1.0,
            u if u < 0.85 => 0.5,
            _ => 0.0,
        };
        let late_s = draw.whole(0, LATEST_S);
        let others = callers.into_iter().filter(|i| own.binary_search(i).is_err());
        let mut shared = BTreeMap::new();
        for caller in others {
            if draw.chance(share) {
                shared.insert(caller, (late_s + draw.whole(0, 1)).min(LATEST_S));
            }
        }
        Self {
            own,
            shared,
            knows_all: draw.chance(0.85),
            knows_zones: draw.chance(0.8),
            knows_hosts: draw.chance(0.6),
            since_s: if draw.chance(0.1) { draw.whole(5, 30) as u64 } else { 0 },
        }
    }

    /// Whether this is one of the own callers.
    #[must_use]
    pub fn owns(&self, instance: usize) -> bool {
        self.own.binary_search(&instance).is_ok()
    }
}

fn callers(mesh: &Mesh) -> Vec<usize> {
    (0..mesh.instances.len()).filter(|i| !mesh.routes[*i].is_empty()).collect()
}

/// How a pair's calls are heard.
#[derive(Debug, Clone)]
struct Heard {
    late_s: usize,
    own: bool,
    cells: Option<(Arc<LinkCell>, Arc<NodeCell>)>,
    /// Calls whose begin was heard and whose end was not yet.
    open: u32,
}

/// Something that happened on a pair: its begin, or its end with a latency.
#[derive(Debug, Clone, Copy)]
struct Happened {
    pair: u32,
    at: Time,
    end: Option<(f32, Outcome)>,
}

/// What one second brought, from callers equally late.
#[derive(Debug, Clone, Default)]
struct Second {
    happened: Vec<Happened>,
    /// By instance, the last report and when it came.
    reports: BTreeMap<usize, (Time, Report)>,
}

/// A sidecar's telemetry.
#[derive(Debug)]
pub struct Telemetry<'m> {
    mesh: &'m Mesh,
    view: View,
    links: Links,
    /// For each pair; none for what is never heard.
    heard: Vec<Option<Heard>>,
    /// By how late they are: this second and those that wait.
    seconds: Vec<(Second, VecDeque<Second>)>,
    /// For each host, whether it is silent.
    silent: Vec<bool>,
    by_key: HashMap<NodeKey, usize>,
    /// For each instance, the number of its first route.
    first_route: Vec<u32>,
}

/// Features, and what of the simulation they speak of.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The network's inputs.
    pub features: Features,
    /// For each candidate, its pair.
    pub pairs: Vec<usize>,
    /// For each candidate, the number of its route: those that a pick chooses among have the same.
    pub groups: Vec<u32>,
    /// For each node of the graph, its instance.
    pub instances: Vec<usize>,
}

impl<'m> Telemetry<'m> {
    /// Telemetry that has seen nothing yet.
    #[must_use]
    pub fn new(mesh: &'m Mesh, view: View) -> Self {
        let heard = |pair: &super::mesh::Pair| {
            let own = view.owns(pair.source);
            let late_s = if own { Some(0) } else { view.shared.get(&pair.source).copied() };
            late_s.map(|late_s| Heard { late_s: late_s.min(LATEST_S), own, cells: None, open: 0 })
        };
        let first_route = mesh.routes.iter().scan(0, |next, routes| {
            let first = *next;
            *next += routes.len() as u32;
            Some(first)
        });
        let mut telemetry = Self {
            links: Links::new(1),
            heard: mesh.pairs.iter().map(heard).collect(),
            seconds: (0..=LATEST_S).map(|_| (Second::default(), VecDeque::new())).collect(),
            silent: vec![false; mesh.hosts.len()],
            by_key: mesh.instances.iter().enumerate().map(|(i, of)| (of.key.clone(), i)).collect(),
            first_route: first_route.collect(),
            view,
            mesh,
        };
        // As a generation holds its links' cells from the start, used or not.
        let start = Time(telemetry.view.since_s * super::engine::SECOND);
        for pair in 0..mesh.pairs.len() {
            if telemetry.heard[pair].as_ref().is_some_and(|h| h.own) {
                let _ = telemetry.cells(pair, start);
            }
        }
        telemetry
    }

    /// Who sees what.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    fn cells(&mut self, pair: usize, now: Time) -> Option<&mut Heard> {
        let of = self.mesh.pairs[pair];
        let heard = self.heard[pair].as_mut()?;
        if heard.cells.is_none() {
            let key = |i: usize| &self.mesh.instances[i].key;
            let link = LinkKey::new(key(of.source), key(of.destination));
            heard.cells = Some((self.links.link(&link, now), self.links.node(&link.destination, now)));
        }
        Some(heard)
    }

    /// Whether a pair's calls are lost on their way here at present.
    fn lost(&self, pair: usize, heard: &Heard) -> bool {
        !heard.own && self.silent[self.mesh.instances[self.mesh.pairs[pair].source].host]
    }

    fn hear(&mut self, happened: Happened) {
        let pair = happened.pair as usize;
        let Some(heard) = &self.heard[pair] else { return };
        if happened.at.0 < self.view.since_s * super::engine::SECOND {
            return;
        }
        match heard.late_s {
            0 => self.take(happened),
            late_s => self.seconds[late_s].0.happened.push(happened),
        }
    }

    /// Writes what is heard to the cells.
    fn take(&mut self, Happened { pair, at, end }: Happened) {
        let pair = pair as usize;
        let lost = self.heard[pair].as_ref().is_none_or(|h| self.lost(pair, h));
        let Some(heard) = self.cells(pair, at) else { return };
        let Some((link, node)) = &heard.cells else { return };
        match end {
            None if !lost => {
                heard.open += 1;
                link.begin(0, at);
                node.begin();
            }
            None => {}
            Some((latency_s, outcome)) => {
                if !lost {
                    link.record(0, at, latency_s, outcome, latency_s, TAU_S);
                }
                // What ends without a begin that was heard is under way no more and never was.
                if heard.open > 0 {
                    heard.open -= 1;
                    link.end(0, at);
                    node.end();
                }
            }
        }
    }

    /// A second has passed: what was late enough arrives. `active` says which hosts are silent.
    pub fn second(&mut self, active: &Active) {
        self.silent.clone_from(&active.silent);
        for late_s in 0..=LATEST_S {
            let (now, waiting) = &mut self.seconds[late_s];
            waiting.push_back(std::mem::take(now));
            let arrived = if waiting.len() > late_s { waiting.pop_front() } else { None };
            let Some(second) = arrived else { continue };
            second.happened.into_iter().for_each(|h| self.take(h));
            for (instance, (at, report)) in second.reports {
                self.links.node(&self.mesh.instances[instance].key, at).report(at, &report);
            }
        }
    }

    /// What is known now.
    #[must_use]
    pub fn observe(&self, now: Time) -> Observation {
        let mut observation = self.links.observe(now);
        for link in &mut observation.links {
            let late_s = self.by_key.get(&link.key.source).and_then(|i| self.view.shared.get(i));
            if let (Some(age_s), Some(late_s)) = (&mut link.stats.age_s, late_s) {
                *age_s += *late_s as f32;
            }
        }
        observation
    }

    /// The features that the sidecar's tick would make of it, with all candidates of the own callers among instances
    /// that have joined.
    ///
    /// # Errors
    /// When the graph would be too large.
    pub fn features(&self, observation: &Observation, active: &Active) -> Result<Seen> {
        let mesh = self.mesh;
        let mut builder = GraphBuilder::default();
        let (mut pairs, mut groups) = (Vec::new(), Vec::new());
        let mut needed = vec![self.view.knows_all; mesh.instances.len()];
        for own in self.view.own.iter().copied().filter(|i| active.alive[*i]) {
            needed[own] = true;
            for (route, number) in mesh.routes[own].iter().zip(self.first_route[own]..) {
                for pair in &route.pairs {
                    let destination = mesh.pairs[*pair].destination;
                    if !active.alive[destination] {
                        continue;
                    }
                    needed[destination] = true;
                    let key = |i: usize| &mesh.instances[i].key;
                    builder.candidate(vec![LinkKey::new(key(own), key(destination))]);
                    pairs.push(*pair);
                    groups.push(number);
                }
            }
        }
        let unknown: Arc<str> = "".into();
        let zones: Vec<Arc<str>> = (0..mesh.network.rtt_s.len()).map(|z| format!("zone-{z}").into()).collect();
        for (i, instance) in mesh.instances.iter().enumerate() {
            if !needed[i] || !active.alive[i] {
                continue;
            }
            let host = &mesh.hosts[instance.host];
            builder.instance(Instance {
                key: instance.key.clone(),
                service: mesh.services[instance.service].name.clone(),
                zone: if self.view.knows_zones { zones[host.zone].clone() } else { unknown.clone() },
                host: if self.view.knows_hosts { host.name.clone() } else { unknown.clone() },
            });
        }
        let graph = builder.build(observation)?;
        let mut features = Features::default();
        features.fill(&graph);
        let instances = graph.nodes.iter().map(|n| self.by_key.get(&n.key).copied().unwrap_or(usize::MAX)).collect();
        Ok(Seen { features, pairs, groups, instances })
    }
}

impl Observer for Telemetry<'_> {
    fn begin(&mut self, pair: usize, now: Time) {
        self.hear(Happened { pair: pair as u32, at: now, end: None });
    }

    fn end(&mut self, pair: usize, now: Time, latency_s: f32, outcome: Outcome) {
        self.hear(Happened { pair: pair as u32, at: now, end: Some((latency_s, outcome)) });
    }

    fn reported(&mut self, pair: usize, now: Time, report: &Report) {
        let Some(heard) = &self.heard[pair] else { return };
        if self.lost(pair, heard) || now.0 < self.view.since_s * super::engine::SECOND {
            return;
        }
        let late_s = heard.late_s;
        self.seconds[late_s].0.reports.insert(self.mesh.pairs[pair].destination, (now, *report));
    }
}
