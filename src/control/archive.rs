//! The tables of generations that are over, for whoever asks why a request went where it went (`/routing?generation=N`).
//!
//! A generation's own tables cannot be kept: they hold the cells that requests write to, and what a pick needs. What is kept
//! of a candidate is a row of [`ROW_BYTES`] bytes: weight, score, prediction, what had been seen of it, the caller's attention,
//! health and the reason, with the guard that acted. Names and addresses are shared from generation to generation, and so is
//! a whole table in which nothing has changed.
//!
//! **Off the request path, and off the tick.** A tick hands over the pointer to what it has published; the [`Keeper`], a task
//! beside it, writes the rows. While there is none, nothing is handed over.
//!
//! **Only tables that chose.** Once the next generation is there, tables by which no request was chosen are let go: no link of
//! theirs was used. So an idle pair costs nothing, and an idle proxy keeps nothing.
//!
//! **Bounded** by count, as generations are remembered (`history`), and by bytes: [`MAX_BYTES`] in all, the oldest
//! generation going first, and `MAX_GENERATION_BYTES` for one. Endpoints that nobody uses cost nothing; 1,000 of one cluster, all
//! in one table, are 52 kB a generation, and 80 generations fit.

use super::GraphView;
use super::status::Status;
use crate::balance::{Candidate, Cluster, Endpoint, Generation, Health, OwnZone, Predicted, Table, TableOptions, Why};
use crate::config::{Policy, Protocol};
use crate::graph::Link;
use crate::links::{LinkStats, NodeKey, Time};
use std::collections::{HashMap, VecDeque};
use std::mem::size_of;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What all tables that are kept may take, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// What a candidate takes in a generation that changed it, in bytes.
pub const ROW_BYTES: usize = size_of::<Row>();
/// What the tables of one generation may take, in bytes: those beyond are not kept.
const MAX_GENERATION_BYTES: usize = 1 << 20;
/// How many generations may wait for the keeper.
const MAX_HANDED: usize = 4;
/// A table of a pair that was used within this time is written down at once, when what the tick saw is still at hand; one
/// of another pair only if it is used.
const RECENTLY: Duration = Duration::from_secs(60);
/// A request reads the clock before it takes its generation: it may have begun so long before that was made.
const SLACK: Duration = Duration::from_millis(100);

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
struct Places {
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
    places: Arc<Places>,
    rows: Box<[Row]>,
    /// All different reasons, without the latency that a row has anyway.
    reasons: Box<[Why]>,
    _charge: Charge,
}

impl PastTable {
    /// Writes down a table; `last` is what was written of the same pair before.
    fn of(
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
struct Seen<'a> {
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
    fn new(view: &'a GraphView) -> Self {
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
struct Charge {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    fn new(of: &Arc<AtomicUsize>, bytes: usize) -> Self {
        of.fetch_add(bytes, Relaxed);
        Self { of: of.clone(), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// The tables of one generation that are kept.
#[derive(Debug)]
struct Past {
    generation: u64,
    tables: Box<[Arc<PastTable>]>,
    _charge: Charge,
}

impl Past {
    fn new(generation: u64, tables: impl Iterator<Item = Arc<PastTable>>, bytes: &Arc<AtomicUsize>) -> Arc<Self> {
        let tables: Box<[Arc<PastTable>]> = tables.collect();
        let charge = Charge::new(bytes, size_of::<Self>() + size_of_val(&*tables));
        Arc::new(Self { generation, tables, _charge: charge })
    }
}

/// What is kept, and what waits to be.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// None while nobody keeps anything.
    handed: Mutex<Option<VecDeque<Arc<Generation>>>>,
    /// By generation.
    kept: Mutex<VecDeque<Arc<Past>>>,
    bytes: Arc<AtomicUsize>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever held it only ever moves whole entries.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Archive {
    /// Hands over what was published. The oldest goes where the keeper does not keep up.
    pub fn hand(&self, generation: &Arc<Generation>) {
        if let Some(handed) = &mut *locked(&self.handed) {
            if handed.len() >= MAX_HANDED {
                handed.pop_front();
            }
            handed.push_back(generation.clone());
        }
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The tables of a generation that are kept; none when there are none.
    pub fn tables(&self, generation: u64) -> Option<Vec<Arc<PastTable>>> {
        let kept = locked(&self.kept);
        let place = kept.binary_search_by_key(&generation, |past| past.generation).ok()?;
        kept.get(place).map(|past| past.tables.to_vec())
    }

    /// Keeps these tables of a generation, in place of those that it may have had.
    fn put(&self, past: Arc<Past>) {
        let mut kept = locked(&self.kept);
        let place = kept.partition_point(|p| p.generation < past.generation);
        let gone = match kept.get_mut(place).filter(|p| p.generation == past.generation) {
            Some(there) => Some(std::mem::replace(there, past)),
            None => {
                kept.insert(place, past);
                None
            }
        };
        drop(kept);
        drop(gone);
    }

    /// Lets go of generations that are not remembered, and of the oldest until the rest fits.
    fn trim(&self, remembered: impl Fn(u64) -> bool) {
        let mut kept = locked(&self.kept);
        kept.retain(|past| !past.tables.is_empty() && remembered(past.generation));
        while self.bytes() > MAX_BYTES {
            // What is shared with a younger one stays in memory, and is let go with that.
            if kept.pop_front().is_none() {
                break;
            }
        }
    }
}

/// Writes down the tables of each generation that is published: the task beside the slow loop.
#[derive(Debug)]
pub struct Keeper {
    status: Arc<Status>,
    /// The generation in force, and what is written of each of its tables, by cluster, then by workload.
    open: Option<(Arc<Generation>, Vec<Option<Arc<PastTable>>>)>,
}

impl Keeper {
    /// A keeper of what is published from now on. One is enough.
    #[must_use]
    pub fn new(status: Arc<Status>) -> Self {
        locked(&status.history.archive.handed).get_or_insert_default();
        Self { status, open: None }
    }

    /// Keeps until it is dropped.
    pub async fn run(mut self) {
        let mut latest = self.status.history.latest();
        self.keep();
        // The sender is in `self`, so waiting cannot fail.
        while latest.changed().await.is_ok() {
            self.keep();
        }
    }

    /// Writes down what was handed over. Public for `benches/` and tests, which wait for nothing.
    #[doc(hidden)]
    pub fn keep(&mut self) {
        let status = self.status.clone();
        let archive = &status.history.archive;
        let handed = locked(&archive.handed).as_mut().map(std::mem::take).unwrap_or_default();
        if handed.is_empty() {
            return;
        }
        let view = status.view();
        let seen = view.as_deref().map(Seen::new);
        for generation in handed {
            let last = self.close(archive);
            self.open(generation, seen.as_ref(), &last, archive);
        }
        let remembered = status.history.remembered();
        archive.trim(|generation| remembered.contains(&generation));
    }

    /// A generation is in force: what was seen so far is at hand now, and which of its tables choose is not known yet.
    fn open(
        &mut self,
        generation: Arc<Generation>,
        seen: Option<&Seen<'_>>,
        last: &[Option<Arc<PastTable>>],
        archive: &Archive,
    ) {
        let since = Time(generation.made_at.0.saturating_sub(RECENTLY.as_nanos() as u64));
        let before = archive.bytes();
        let write = |(i, (cluster, workload, table)): (usize, (&Cluster, &Arc<str>, &Table))| {
            let fits = archive.bytes().saturating_sub(before) < MAX_GENERATION_BYTES;
            let last = last.get(i).and_then(Option::as_ref);
            (fits && used(table, since)).then(|| PastTable::of((cluster, workload), table, seen, last, &archive.bytes))
        };
        let written: Vec<_> = tables(&generation).enumerate().map(write).collect();
        archive.put(Past::new(generation.id, written.iter().flatten().cloned(), &archive.bytes));
        self.open = Some((generation, written));
    }

    /// The generation in force is over: what did not choose is let go. Gives what was written of it.
    fn close(&mut self, archive: &Archive) -> Vec<Option<Arc<PastTable>>> {
        let Some((generation, written)) = self.open.take() else { return Vec::new() };
        let since = Time(generation.made_at.0.saturating_sub(SLACK.as_nanos() as u64));
        let before = archive.bytes();
        let chose = tables(&generation).zip(&written).filter(|((_, _, table), _)| used(table, since));
        let chose = chose.filter_map(|((cluster, workload, table), written)| {
            let fits = archive.bytes().saturating_sub(before) < MAX_GENERATION_BYTES;
            let now = || PastTable::of((cluster, workload), table, None, None, &archive.bytes);
            written.clone().or_else(|| fits.then(now))
        });
        archive.put(Past::new(generation.id, chose, &archive.bytes));
        written
    }
}

/// All tables of a generation, by cluster, then by workload.
fn tables(generation: &Generation) -> impl Iterator<Item = (&Cluster, &Arc<str>, &Table)> {
    let workloads = generation.routes.workloads();
    generation.clusters.iter().flat_map(|cluster| {
        workloads.iter().zip(&cluster.tables).map(|(workload, table)| (&**cluster, &workload.name, &**table))
    })
}

/// Whether a request was chosen by a table since then, as far as its links tell; one that can choose nobody leaves no trace
/// on any link, and counts as used.
fn used(table: &Table, since: Time) -> bool {
    let candidates = table.candidates();
    (table.eligible().is_empty() && !candidates.is_empty()) || candidates.iter().any(|c| c.link.last_used() >= since)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
