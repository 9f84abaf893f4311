//! What a run shows: to the slow loop through the sidecar's own `links` and `graph`, and to us as figures.
//!
//! One store of links plays what all proxies share. It is looked at once a second; scores come from the look of
//! `stale_s` seconds before, so that what a proxy is told is one to two seconds old by default. What a proxy has seen itself
//! is in its balancer. Hosts that telemetry does not reach (`silent`) are left out of the looks, poisoned callers tell
//! absurdities in them.
//!
//! Left out: each proxy's own fresher view as the model's input. All proxies get the scores of one inference over the
//! shared view, where a real one runs its own.

use super::scenarios::{DURATION_S, Scenario, Shared, WARM_UP_S};
use crate::simulator::engine::Observer;
use crate::simulator::mesh::Mesh;
use pathloom::graph::{Features, Graph, GraphBuilder, GraphError, Instance};
use pathloom::links::orca::Report;
use pathloom::links::{LinkCell, LinkKey, LinkStats, Links, NodeCell, NodeKey, Observation, Outcome, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A quarter of the callers is poisoned, or misleads.
const POISONED: usize = 4;

/// Watches a run.
#[derive(Debug)]
pub struct Eye {
    /// Latencies in seconds of requests that entered after the warm-up and were answered.
    pub latencies_s: Vec<f32>,
    /// How many requests entered after the warm-up, how many of them failed, and how many were answered in time.
    pub counted: Counted,
    /// Calls of each pair in each second.
    pub picks: Vec<Vec<u32>>,
    /// Entries by number and moment, as long as a test wants them.
    pub entered: Vec<(usize, Time)>,
    /// For each instance, when anybody that is heard last measured it, as of the look that is shown.
    pub measured: Vec<Option<Time>>,
    deadline_s: f32,
    store: Option<Store>,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    /// Entered.
    pub entered: u64,
    /// Failed.
    pub failed: u64,
    /// Answered within the deadline.
    pub in_time: u64,
}

#[derive(Debug)]
struct Store {
    links: Links,
    pairs: Vec<(Arc<LinkCell>, Arc<NodeCell>)>,
    looks: VecDeque<(Observation, Vec<Option<Time>>)>,
}

impl Eye {
    /// An eye for a scenario; telemetry is kept only where somebody wants scores of it.
    #[must_use]
    pub fn new(scenario: &Scenario, telemetry: bool) -> Self {
        let mesh = &scenario.mesh;
        let store = telemetry.then(|| {
            let links = Links::new(1);
            let key = |i: usize| &mesh.instances[i].key;
            let cells = mesh.pairs.iter().map(|p| {
                let link = links.link(&LinkKey::new(key(p.source), key(p.destination)), Time(0));
                (link, links.node(key(p.destination), Time(0)))
            });
            Store { pairs: cells.collect(), links, looks: VecDeque::new() }
        });
        Self {
            latencies_s: Vec::new(),
            counted: Counted::default(),
            picks: vec![vec![0; mesh.pairs.len()]; DURATION_S as usize + 1],
            entered: Vec::new(),
            measured: vec![None; mesh.instances.len()],
            deadline_s: scenario.deadline_s as f32,
            store,
        }
    }

    /// Looks at the shared statistics; what a slow loop gets to see now, if there is any look as old as it has to be.
    pub fn look(&mut self, scenario: &Scenario, silent: &[bool], now: Time) -> Option<&Observation> {
        let store = self.store.as_mut()?;
        let mut observation = store.links.observe(now);
        let mesh = &scenario.mesh;
        let by_key: BTreeMap<&NodeKey, usize> = mesh.instances.iter().enumerate().map(|(i, of)| (&of.key, i)).collect();
        let source = |key: &LinkKey| by_key.get(&key.source).copied();
        if silent.iter().any(|s| *s) {
            observation.links.retain(|l| source(&l.key).is_none_or(|i| !silent[mesh.instances[i].host]));
        }
        let lies = |from_s: f64| now.0 as f64 * 1e-9 >= from_s;
        for link in observation.links.iter_mut().filter(|l| source(&l.key).is_some_and(|i| i % POISONED == 0)) {
            match scenario.shared {
                Shared::Poisoned(from_s) if lies(from_s) => poison(&mut link.stats),
                Shared::Misled(from_s) if lies(from_s) => {
                    let odd = by_key.get(&link.key.destination).is_some_and(|i| i % 2 == 1);
                    scale(&mut link.stats, if odd { 10.0 } else { 0.1 });
                }
                _ => {}
            }
        }
        let last = measured(mesh, &observation, now);
        store.looks.push_back((observation, last));
        while store.looks.len() > scenario.stale_s + 1 {
            store.looks.pop_front();
        }
        if store.looks.len() <= scenario.stale_s {
            return None;
        }
        let (seen, last) = store.looks.front()?;
        self.measured.clone_from(last);
        Some(seen)
    }
}

/// When each instance was last measured by anybody in an observation.
fn measured(mesh: &Mesh, observation: &Observation, now: Time) -> Vec<Option<Time>> {
    let by_key: BTreeMap<&NodeKey, usize> = mesh.instances.iter().enumerate().map(|(i, of)| (&of.key, i)).collect();
    let mut last = vec![None; mesh.instances.len()];
    for link in &observation.links {
        if let (Some(instance), Some(age_s)) = (by_key.get(&link.key.destination), link.stats.age_s) {
            let at = Time(now.0.saturating_sub((f64::from(age_s) * 1e9) as u64));
            last[*instance] = last[*instance].max(Some(at));
        }
    }
    last
}

/// What somebody who lies with care would share.
fn scale(stats: &mut LinkStats, factor: f32) {
    let latencies = [
        &mut stats.latency_mean_s,
        &mut stats.latency_p10_s,
        &mut stats.latency_p50_s,
        &mut stats.latency_p90_s,
        &mut stats.latency_p99_s,
        &mut stats.latency_ewma_s,
        &mut stats.latency_baseline_s,
        &mut stats.jitter_s,
    ];
    latencies.into_iter().flatten().for_each(|latency| *latency *= factor);
}

/// What somebody who lies, or whose clock is broken, would share.
fn poison(stats: &mut LinkStats) {
    let absurd = Some(1e6);
    stats.latency_mean_s = absurd;
    stats.latency_p10_s = absurd;
    stats.latency_p50_s = absurd;
    stats.latency_p90_s = absurd;
    stats.latency_p99_s = absurd;
    stats.latency_ewma_s = Some(1e-9);
    stats.latency_baseline_s = Some(1e-9);
    stats.jitter_s = absurd;
    stats.calls_per_second = Some(1e9);
    stats.in_flight = 1e9;
    stats.samples = 1e9;
    stats.error_rate = Some(1.0);
}

/// The graph of what is known, each pair of the mesh being a candidate path, and the model's inputs.
///
/// # Errors
/// When the mesh is too large.
pub fn features(mesh: &Mesh, observation: &Observation) -> Result<(Graph, Features), GraphError> {
    let mut builder = GraphBuilder::default();
    for instance in &mesh.instances {
        let host = &mesh.hosts[instance.host];
        builder.instance(Instance {
            key: instance.key.clone(),
            service: mesh.services[instance.service].name.clone(),
            zone: format!("zone-{}", host.zone).into(),
            host: host.name.clone(),
        });
    }
    for pair in &mesh.pairs {
        let key = |i: usize| &mesh.instances[i].key;
        builder.candidate(vec![LinkKey::new(key(pair.source), key(pair.destination))]);
    }
    let graph = builder.build(observation)?;
    let mut features = Features::default();
    features.fill(&graph);
    Ok((graph, features))
}

fn seconds(at: Time) -> f64 {
    at.0 as f64 * 1e-9
}

impl Observer for Eye {
    fn begin(&mut self, pair: usize, now: Time) {
        if let Some(second) = self.picks.get_mut(seconds(now) as usize) {
            second[pair] += 1;
        }
        if let Some(store) = &self.store {
            let (link, node) = &store.pairs[pair];
            link.begin(0, now);
            node.begin();
        }
    }

    fn end(&mut self, pair: usize, now: Time, latency_s: f32, outcome: Outcome) {
        if let Some(store) = &self.store {
            let (link, node) = &store.pairs[pair];
            link.record(0, now, latency_s, outcome, latency_s, 1.0);
            link.end(0, now);
            node.end();
        }
    }

    fn reported(&mut self, pair: usize, now: Time, report: &Report) {
        if let Some(store) = &self.store {
            store.pairs[pair].1.report(now, report);
        }
    }

    fn entered(&mut self, entry: usize, now: Time) {
        if cfg!(test) {
            self.entered.push((entry, now));
        }
        if seconds(now) >= WARM_UP_S {
            self.counted.entered += 1;
        }
    }

    fn finished(&mut self, _entry: usize, began: Time, now: Time, ok: bool) {
        if seconds(began) < WARM_UP_S {
            return;
        }
        if !ok {
            self.counted.failed += 1;
            return;
        }
        let latency_s = now.seconds_since(began);
        self.latencies_s.push(latency_s);
        self.counted.in_time += u64::from(latency_s <= self.deadline_s);
    }
}
