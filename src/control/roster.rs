//! What the slow loop has at hand of each endpoint and each candidate, in the configuration's order: their cells, what
//! they did in the last observation, and what is remembered of them. So a tick looks nothing up by its name.
//!
//! Cells are found by key when the roster is made, and again when a link or a node came or went (`Links::changes`): a
//! link that was evicted and made anew has another cell, and requests write to that one.

use super::desired::Desired;
use crate::balance::{Health, Predicted, Table};
use crate::health::Verdict;
use crate::links::{LinkCell, LinkKey, LinkStats, Links, NodeCell, NodeKey, Observation, Time};
use crate::observe::{Traffic, TrafficRegistry};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Candidates that no tick knew of for this long are forgotten.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// A candidate's name for as long as it is remembered: workload, cluster, endpoint.
type CandidateKey = (Arc<str>, Arc<str>, NodeKey);

/// What is remembered of a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    pub first_seen: Time,
    /// Whether it was ejected or on probation: then its return is a start.
    pub was_out: bool,
    /// Its weight in the last generation; none when it had none.
    pub weight: Option<f32>,
    pub score: Option<f32>,
    pub predicted: Option<Predicted>,
    /// Whether latencies stood behind the prediction: only then it can be held against the model.
    pub informed: bool,
    /// The last tick that knew of it.
    pub seen: Time,
}

impl Remembered {
    /// Of a candidate that was just seen. Those of the first generation are not new, the proxy is.
    pub fn fresh(first_generation: bool, now: Time) -> Self {
        let first_seen = if first_generation { Time(0) } else { now };
        Self { first_seen, was_out: false, weight: None, score: None, predicted: None, informed: false, seen: now }
    }
}

/// An endpoint, once for all clusters that have it.
#[derive(Debug)]
pub struct Known {
    pub node: Arc<NodeCell>,
    /// The first cluster that has it: its rules hold.
    pub cluster: usize,
    pub verdict: Option<Verdict>,
    /// When it was last measured by anybody whose telemetry is known.
    pub measured: Option<Time>,
    /// The age of its last measurement in seconds, as of the last observation; infinite when there was none.
    youngest_s: f32,
}

/// A candidate.
#[derive(Debug)]
pub struct Slot {
    pub link: Arc<LinkCell>,
    /// The endpoint's place among the known ones.
    pub endpoint: usize,
    /// None until a tick or a generation saw it.
    pub remembered: Option<Remembered>,
    /// Its endpoint's state in the last table.
    pub shown: Option<Health>,
    /// The place of its link in the last observation; none when it is not there.
    seen: Option<usize>,
}

impl Slot {
    /// What the last observation says of its link.
    pub fn stats<'o>(&self, observation: &'o Observation) -> Option<&'o LinkStats> {
        observation.links.get(self.seen?).map(|l| &l.stats)
    }
}

/// The candidates of one (cluster, workload), in the order of the cluster's endpoints.
#[derive(Debug)]
pub struct Group {
    pub cluster: usize,
    pub slots: Vec<Slot>,
    /// Where its requests are counted.
    pub traffic: Arc<Traffic>,
    /// The last table that was made of it, with the cells that are still those of the store.
    pub table: Option<Arc<Table>>,
}

impl Group {
    /// Its last table, where it says of all endpoints that they are well, and they are. (Of one that is not it says for how
    /// long, from its own making on.)
    pub fn unchanged(&self, endpoints: &[Known]) -> Option<Arc<Table>> {
        let well = |slot: &Slot| match slot.shown? {
            Health::Drained => Some(true),
            Health::Healthy => Some(endpoints.get(slot.endpoint)?.verdict.is_none_or(|v| v.health == Health::Healthy)),
            Health::Ejected | Health::Probation | Health::Unhealthy => Some(false),
        };
        self.table.clone().filter(|_| self.slots.iter().all(|slot| well(slot) == Some(true)))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Roster {
    pub endpoints: Vec<Known>,
    /// By cluster, then by workload.
    pub groups: Vec<Group>,
    /// What is remembered of candidates that a changed configuration no longer has.
    gone: HashMap<CandidateKey, Remembered>,
    /// As of so many changes the cells are those of the store.
    changes: Option<u64>,
    /// For each link of the last observation, the endpoint that it leads to.
    leads_to: Vec<Option<u32>>,
}

impl Roster {
    /// The roster of what is desired, with what the last one remembers.
    pub fn new(
        desired: &Desired,
        mut last: Self,
        last_desired: Option<&Desired>,
        links: &Links,
        traffic: &TrafficRegistry,
        now: Time,
    ) -> Self {
        let mut gone = std::mem::take(&mut last.gone);
        for (group, before) in last.groups.iter().zip(last_desired.into_iter().flat_map(names)) {
            for (slot, endpoint) in group.slots.iter().zip(before.endpoints) {
                if let Some(remembered) = slot.remembered {
                    gone.insert((before.workload.clone(), before.cluster.clone(), endpoint.clone()), remembered);
                }
            }
        }
        let (mut endpoints, mut places) = (Vec::new(), HashMap::<&NodeKey, usize>::new());
        for (cluster, endpoint) in
            desired.clusters.iter().enumerate().flat_map(|(i, c)| c.endpoints.iter().map(move |e| (i, e)))
        {
            places.entry(&endpoint.key).or_insert_with(|| {
                let node = links.node(&endpoint.key, now);
                endpoints.push(Known { node, cluster, verdict: None, measured: None, youngest_s: f32::INFINITY });
                endpoints.len() - 1
            });
        }
        let group = |(place, names): (usize, Names<'_>)| {
            let slot = |key: &NodeKey| Slot {
                link: links.link(&LinkKey::new(names.source, key), now),
                endpoint: places.get(key).copied().unwrap_or_default(),
                remembered: gone.remove(&(names.workload.clone(), names.cluster.clone(), key.clone())),
                shown: None,
                seen: None,
            };
            Group {
                cluster: place / desired.sources.len().max(1),
                slots: names.endpoints.map(slot).collect(),
                traffic: traffic.of(names.workload, names.cluster),
                table: None,
            }
        };
        let groups = names(desired).enumerate().map(group).collect();
        Self { endpoints, groups, gone, changes: Some(links.changes()), leads_to: Vec::new() }
    }

    /// Finds the cells anew where links or nodes came or went.
    pub fn renew(&mut self, links: &Links, now: Time) {
        // What is made here is a change, too: the second time round there is nothing left to make.
        while self.changes != Some(links.changes()) {
            self.changes = Some(links.changes());
            for known in &mut self.endpoints {
                known.node = links.node(&known.node.key, now);
            }
            for group in &mut self.groups {
                group.table = None;
                for slot in &mut group.slots {
                    slot.link = links.link(&slot.link.key, now);
                }
            }
        }
    }

    /// Finds each candidate's link, and where each link leads, in an observation.
    pub fn place(&mut self, observation: &Observation) {
        let places: HashMap<&LinkKey, usize> = observation.links.iter().enumerate().map(|(i, l)| (&l.key, i)).collect();
        for slot in self.groups.iter_mut().flat_map(|g| &mut g.slots) {
            slot.seen = places.get(&slot.link.key).copied();
        }
        let endpoints: HashMap<&NodeKey, u32> =
            self.endpoints.iter().zip(0..).map(|(known, i)| (&known.node.key, i)).collect();
        self.leads_to = observation.links.iter().map(|l| endpoints.get(&l.key.destination).copied()).collect();
    }

    /// Takes in when each endpoint was last measured, from an observation that was made at `now` and is placed.
    pub fn measure(&mut self, observation: &Observation, now: Time) {
        self.endpoints.iter_mut().for_each(|known| known.youngest_s = f32::INFINITY);
        for (link, endpoint) in observation.links.iter().zip(&self.leads_to) {
            let Some(known) = endpoint.and_then(|e| self.endpoints.get_mut(e as usize)) else { continue };
            if let Some(age_s) = link.stats.age_s.filter(|age_s| *age_s >= 0.0 && *age_s < known.youngest_s) {
                known.youngest_s = age_s;
            }
        }
        for known in &mut self.endpoints {
            let at = |age_s: f32| Time(now.0.saturating_sub((f64::from(age_s) * 1e9) as u64));
            known.measured = known.youngest_s.is_finite().then(|| at(known.youngest_s));
        }
    }

    /// What is known of a candidate's endpoint.
    pub fn known(&self, slot: &Slot) -> Option<&Known> {
        self.endpoints.get(slot.endpoint)
    }

    /// The candidates' memories.
    pub fn remembered_mut(&mut self) -> impl Iterator<Item = &mut Remembered> {
        self.groups.iter_mut().flat_map(|g| &mut g.slots).filter_map(|s| s.remembered.as_mut())
    }

    /// Forgets candidates that are gone for long.
    pub fn forget(&mut self, now: Time) {
        self.gone.retain(|_, m| now.since(m.seen) < REMEMBERED_FOR);
    }
}

/// The names of a group.
struct Names<'d> {
    workload: &'d Arc<str>,
    source: &'d NodeKey,
    cluster: &'d Arc<str>,
    endpoints: Box<dyn Iterator<Item = &'d NodeKey> + 'd>,
}

/// All groups' names, in the roster's order.
fn names(desired: &Desired) -> impl Iterator<Item = Names<'_>> {
    desired.clusters.iter().flat_map(|cluster| {
        desired.routes.workloads().iter().zip(&desired.sources).map(|(workload, source)| Names {
            workload: &workload.name,
            source,
            cluster: &cluster.name,
            endpoints: Box::new(cluster.endpoints.iter().map(|e| &e.key)),
        })
    })
}
