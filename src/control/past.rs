//! A table as it was: what is kept of it once its generation is over (`archive`).

use super::GraphView;
use crate::balance::{Candidate, Cluster, Endpoint, Health, OwnZone, Predicted, Table, TableOptions, Why};
use crate::config::{Policy, Protocol};
use crate::graph::Link;
use crate::links::{LinkStats, NodeKey};
use std::collections::HashMap;
use std::mem::size_of;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a candidate takes in a generation that changed it, in bytes.
pub const ROW_BYTES: usize = size_of::<Row>();

/// An endpoint as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Its name in the graph.
    pub key: NodeKey,
    /// Where it listened.
    pub address: SocketAddr,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// Its configured weight.
    pub configured: u32,
}

/// The endpoints of a table, in its order.
#[derive(Debug)]
pub(super) struct Places {
    all: Box<[Place]>,
    _charge: Charge,
}

/// A candidate as it was. NaN is unknown: an `Option` takes twice the room.
#[derive(Debug, Clone, Copy)]
struct Row {
    weight: f32,
    score: f32,
    intrinsic_s: f32,
    mean_s: f32,
    p99_s: f32,
    jitter_s: f32,
    success: f32,
    seen_mean_s: f32,
    seen_p99_s: f32,
    seen_jitter_s: f32,
    calls: f32,
    attention: f32,
    /// Its place among the table's reasons.
    why: u16,
    health: Health,
}

impl Row {
    fn same(&self, other: &Self) -> bool {
        // By bits, so that what is unknown in both is the same.
        let bits = |r: &Self| {
            let said = [r.weight, r.score, r.intrinsic_s, r.mean_s, r.p99_s, r.jitter_s, r.success];
            let seen = [r.seen_mean_s, r.seen_p99_s, r.seen_jitter_s, r.calls, r.attention];
            (said.map(f32::to_bits), seen.map(f32::to_bits), r.why, r.health)
        };
        bits(self) == bits(other)
    }
}

/// What had been seen on a candidate's link when its table was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeenThen {
    /// The mean latency in seconds.
    pub mean_s: Option<f32>,
    /// The 99th percentile in seconds.
    pub p99_s: Option<f32>,
    /// The jitter in seconds.
    pub jitter_s: Option<f32>,
    /// Calls a second.
    pub calls_per_second: Option<f32>,
}

/// A candidate as it was, unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct PastCandidate {
    /// Where it led.
    pub place: Place,
    /// Whether it could get requests.
    pub eligible: bool,
    /// Its guarded weight.
    pub weight: f32,
    /// The model's score.
    pub score: Option<f32>,
    /// What the model predicted.
    pub predicted: Option<Predicted>,
    /// The share of requests that was expected to succeed.
    pub success: f32,
    /// What had been seen of it.
    pub seen: SeenThen,
    /// The share of its caller's attention that its link got.
    pub attention: Option<f32>,
    /// Whether it might get requests.
    pub health: Health,
    /// Why its weight was what it was.
    pub reason: Why,
}

/// The table of one workload and cluster as it was.
#[derive(Debug)]
pub struct PastTable {
    /// Who called.
    pub workload: Arc<str>,
    /// What was called.
    pub cluster: Arc<str>,
    /// The service that its endpoints offered.
    pub service: Arc<str>,
    /// The caller's name in the graph; none where there was no endpoint.
    pub source: Option<NodeKey>,
    /// What was spoken with the endpoints.
    pub protocol: Protocol,
    /// How it chose.
    pub options: TableOptions,
    /// Fewer than the panic threshold were healthy, so all got requests.
    pub panic: bool,
    /// What stayed in the own zone.
    pub own_zone: Option<OwnZone>,
    /// The share of the requests that the model steered and the policy that steered the rest, where it was on trial.
    pub trial: Option<(f64, Policy)>,
    eligible: usize,
    pub(super) places: Arc<Places>,
    rows: Box<[Row]>,
    /// All different reasons, without the latency that a row has anyway.
    reasons: Box<[Why]>,
    _charge: Charge,
}

impl PastTable {
    /// Writes down a table; `last` is what was written of the same pair before.
    pub(super) fn of(
        (cluster, workload): (&Cluster, &Arc<str>),
        table: &Table,
        seen: Option<&Seen<'_>>,
        last: Option<&Arc<Self>>,
        bytes: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let last = last.filter(|t| t.workload == *workload && t.cluster == cluster.name);
        let source = table.candidates().first().map(|c| &c.link.key.source);
        let from = seen.zip(source).map(|(seen, source)| seen.from(source));
        let mut reasons = Reasons::default();
        let row =
            |c: &Candidate| Row::of(c, from.as_ref().and_then(|from| from.to(&c.link.key.destination)), &mut reasons);
        let rows: Box<[Row]> = table.candidates().iter().map(row).collect();
        let reasons: Box<[Why]> = reasons.0.into();
        let own = size_of::<Self>() + size_of_val(&*rows) + size_of_val(&*reasons);
        let new = Self {
            workload: workload.clone(),
            cluster: cluster.name.clone(),
            service: cluster.service.clone(),
            source: source.cloned(),
            protocol: cluster.protocol,
            options: table.options,
            panic: table.panic,
            own_zone: table.own_zone().cloned(),
            trial: table.trial().map(|trial| (trial.share, trial.against)),
            eligible: table.eligible().len(),
            places: places(table, last.map(|t| &t.places), bytes),
            rows,
            reasons,
            _charge: Charge::new(bytes, own),
        };
        match last {
            Some(last) if new.same(last) => last.clone(),
            _ => Arc::new(new),
        }
    }

    fn same(&self, other: &Self) -> bool {
        let facts = |t: &Self| (t.options, t.panic, t.trial, t.protocol, t.eligible);
        facts(self) == facts(other)
            && Arc::ptr_eq(&self.places, &other.places)
            && (&self.service, &self.source, &self.own_zone) == (&other.service, &other.source, &other.own_zone)
            && self.reasons == other.reasons
            && self.rows.iter().zip(&other.rows).all(|(a, b)| a.same(b))
    }

    /// Its candidates, those that could get requests first.
    pub fn candidates(&self) -> impl Iterator<Item = PastCandidate> {
        let known = |value: f32| Some(value).filter(|v| !v.is_nan());
        self.places.all.iter().zip(&self.rows).enumerate().map(move |(i, (place, row))| {
            let predicted = Predicted {
                intrinsic_s: row.intrinsic_s,
                mean_s: row.mean_s,
                p99_s: row.p99_s,
                jitter_s: row.jitter_s,
            };
            let reason = self.reasons.get(usize::from(row.why)).copied().unwrap_or_default();
            PastCandidate {
                place: place.clone(),
                eligible: i < self.eligible,
                weight: row.weight,
                score: known(row.score),
                predicted: known(row.intrinsic_s).map(|_| predicted),
                success: row.success,
                seen: SeenThen {
                    mean_s: known(row.seen_mean_s),
                    p99_s: known(row.seen_p99_s),
                    jitter_s: known(row.seen_jitter_s),
                    calls_per_second: known(row.calls),
                },
                attention: known(row.attention),
                health: row.health,
                reason: with_latency(reason, row.intrinsic_s),
            }
        })
    }
}

impl Row {
    fn of(c: &Candidate, seen: Option<(&LinkStats, Option<f32>)>, reasons: &mut Reasons) -> Self {
        let of = |value: Option<f32>| value.unwrap_or(f32::NAN);
        let predicted = |part: fn(&Predicted) -> f32| of(c.predicted.as_ref().map(part));
        let stats = |part: fn(&LinkStats) -> Option<f32>| of(seen.and_then(|(stats, _)| part(stats)));
        Self {
            weight: c.weight,
            score: of(c.score),
            intrinsic_s: predicted(|p| p.intrinsic_s),
            mean_s: predicted(|p| p.mean_s),
            p99_s: predicted(|p| p.p99_s),
            jitter_s: predicted(|p| p.jitter_s),
            success: c.success,
            seen_mean_s: stats(|s| s.latency_mean_s),
            seen_p99_s: stats(|s| s.latency_p99_s),
            seen_jitter_s: stats(|s| s.jitter_s),
            calls: stats(|s| s.calls_per_second),
            attention: of(seen.and_then(|(_, attention)| attention)),
            why: reasons.place(with_latency(c.reason, 0.0)),
            health: c.health,
        }
    }
}

/// The reason with another intrinsic latency, where it has one.
fn with_latency(why: Why, latency_s: f32) -> Why {
    match why {
        Why::Predicted { guard, .. } => Why::Predicted { intrinsic_s: latency_s, guard },
        Why::Shadow { .. } => Why::Shadow { intrinsic_s: latency_s },
        other => other,
    }
}

/// A table's different reasons.
#[derive(Default)]
struct Reasons(Vec<Why>);

impl Reasons {
    /// The place of a reason among them. One that is beyond all places is not kept.
    fn place(&mut self, why: Why) -> u16 {
        // Neighbours mostly have the same one.
        let known = self.0.iter().rposition(|known| *known == why);
        let place = known.unwrap_or(self.0.len());
        match u16::try_from(place) {
            Ok(place) if place < u16::MAX => {
                if known.is_none() {
                    self.0.push(why);
                }
                place
            }
            _ => u16::MAX,
        }
    }
}

/// The endpoints of a table; the last ones where they are the same.
fn places(table: &Table, last: Option<&Arc<Places>>, bytes: &Arc<AtomicUsize>) -> Arc<Places> {
    let is = |(place, c): (&Place, &Candidate)| {
        let Endpoint { key, address, zone, weight, .. } = &*c.endpoint;
        (&place.key, &place.address, &place.zone, &place.configured) == (key, address, zone, weight)
    };
    let candidates = table.candidates();
    let same = |last: &&Arc<Places>| last.all.len() == candidates.len() && last.all.iter().zip(candidates).all(is);
    if let Some(last) = last.filter(same) {
        return last.clone();
    }
    let all: Box<[Place]> = candidates
        .iter()
        .map(|c| &*c.endpoint)
        .map(|e| Place { key: e.key.clone(), address: e.address, zone: e.zone.clone(), configured: e.weight })
        .collect();
    // Names are shared with the configuration while that is in force, and are ours alone once it is not.
    let names: usize = all.iter().map(|p| p.key.0.len() + p.zone.len() + 4 * size_of::<usize>()).sum();
    let charge = Charge::new(bytes, size_of::<Places>() + size_of_val(&*all) + names);
    Arc::new(Places { all, _charge: charge })
}

/// What the last tick saw, by the names of a link's ends.
pub(super) struct Seen<'a> {
    view: &'a GraphView,
    nodes: HashMap<&'a NodeKey, u32>,
}

/// The links of one caller.
struct From<'a> {
    seen: &'a Seen<'a>,
    /// The place of the first of them.
    first: usize,
    links: &'a [Link],
}

impl<'a> Seen<'a> {
    pub(super) fn new(view: &'a GraphView) -> Self {
        Self { view, nodes: view.graph.nodes.iter().map(|n| &n.key).zip(0u32..).collect() }
    }

    fn from(&'a self, source: &NodeKey) -> From<'a> {
        let links = &self.view.graph.links;
        let end = |up_to: &dyn Fn(u32) -> bool| links.partition_point(|l| up_to(l.source));
        let (first, last) = match self.nodes.get(source) {
            Some(source) => (end(&|s| s < *source), end(&|s| s <= *source)),
            None => (0, 0),
        };
        From { seen: self, first, links: links.get(first..last).unwrap_or_default() }
    }
}

impl<'a> From<'a> {
    /// What was seen on the link to a node, and the attention that it got.
    fn to(&self, destination: &NodeKey) -> Option<(&'a LinkStats, Option<f32>)> {
        let node = self.seen.nodes.get(destination)?;
        let place = self.links.binary_search_by_key(node, |l| l.destination).ok()?;
        let attention = self.seen.view.attention.get(self.first + place).copied();
        Some((&self.links.get(place)?.stats, attention))
    }
}

/// What somebody holds of the archive's bytes.
#[derive(Debug)]
pub(super) struct Charge {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(of: &Arc<AtomicUsize>, bytes: usize) -> Self {
        of.fetch_add(bytes, Relaxed);
        Self { of: of.clone(), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}
