//! All links and nodes that this proxy knows, by key: found when a generation is built, never by a request.
//!
//! A tick goes over all of them in the order of their keys. That order is kept from tick to tick (`Order`) and made anew
//! only when a link or a node came or went, which `changes` counts; whoever keeps cells at hand asks it, too. What the
//! ticks remember of each link lies in that order, side by side: a tick takes no lock and follows few pointers.
//!
//! What others told (`told`) has its places in the same order. A link that is an own one is never shown as others tell
//! of it, whoever says so.

use super::history::{Baseline, Fades, History, MEMORY_S};
use super::told::{Account, Brief, Told, ToldLink, ToldNode};
use super::{
    LinkCell, LinkKey, LinkObservation, LinkStats, NodeCell, NodeKey, NodeObservation, NodeStats, Observation,
};
use super::{Sketch, Time, orca::Report};
use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// All links and nodes.
#[derive(Debug)]
pub struct Links {
    links: DashMap<LinkKey, Arc<LinkCell>>,
    nodes: DashMap<NodeKey, Arc<NodeCell>>,
    /// Rises whenever a link or a node has come or gone.
    changes: AtomicU64,
    order: Mutex<Order>,
    /// What others told.
    told: ArcSwapOption<Told>,
    /// Nothing was last used or asked for before this moment, in `Time`, as of the last look; 0 where nobody looked.
    idlest: AtomicU64,
    cores: usize,
}

/// Everything sorted by key, as of some number of changes.
#[derive(Debug, Default)]
struct Order {
    changes: Option<u64>,
    /// The shape of what was told that has its places here.
    told: u64,
    /// Rises whenever any place has changed.
    version: u64,
    links: Vec<Watched>,
    /// Links that only others know, by their places among what was told.
    foreign: Vec<Foreign>,
    /// Whose each place of an observation's links is.
    rows: Vec<Row>,
    nodes: Vec<NodeRow>,
    /// What came in at each node, by its place; kept for its memory.
    incoming: Vec<Incoming>,
    fades: Fades,
}

/// A link's place among the own ones, or among those that were told.
#[derive(Debug, Clone, Copy)]
enum Row {
    Own(usize),
    Foreign(usize),
}

/// A link that only others know.
#[derive(Debug)]
struct Foreign {
    /// Its place among the links that were told.
    index: usize,
    /// Its place in an observation.
    row: usize,
    /// The place of its destination among the nodes.
    place: usize,
}

/// A node that is asked for here, or that others told of, or both.
#[derive(Debug)]
struct NodeRow {
    key: NodeKey,
    cell: Option<Arc<NodeCell>>,
    /// Its place among the nodes that were told.
    told: Option<usize>,
}

/// A link and what the ticks so far have made of it.
#[derive(Debug)]
struct Watched {
    cell: Arc<LinkCell>,
    history: History,
    /// Its place in an observation.
    row: usize,
    /// The place of its destination among the nodes; `NOWHERE` when it is none of them.
    place: usize,
}

const NOWHERE: usize = usize::MAX;

impl Order {
    /// Sorts anew what has changed.
    fn renew(&mut self, links: &Links, told: Option<&Told>) {
        // Read before the maps are: what comes meanwhile makes the next look sort again.
        let changes = links.changes.load(Ordering::Acquire);
        let shape = told.map_or(0, |told| told.shape);
        if self.changes == Some(changes) && self.told == shape {
            return;
        }
        let nothing = Told::default();
        let told = told.unwrap_or(&nothing);
        let own = links.link_cells();
        // Own links come first, and what others say of them is left out.
        let foreign: Vec<(usize, &LinkKey)> = told.links.iter().map(|l| &l.key).enumerate().collect();
        let is_own = |key: &LinkKey| own.binary_search_by(|cell| cell.key.cmp(key)).is_ok();
        let foreign: Vec<(usize, &LinkKey)> = foreign.into_iter().filter(|(_, key)| !is_own(key)).collect();

        self.nodes = node_rows(links.node_cells(), &foreign, told);
        let places: HashMap<&NodeKey, usize> = self.nodes.iter().enumerate().map(|(i, row)| (&row.key, i)).collect();
        let place_of = |key: &LinkKey| places.get(&key.destination).copied().unwrap_or(NOWHERE);

        let mut rows: Vec<(&LinkKey, Row)> = own.iter().enumerate().map(|(i, c)| (&c.key, Row::Own(i))).collect();
        rows.extend(foreign.iter().enumerate().map(|(i, (_, key))| (*key, Row::Foreign(i))));
        rows.sort_unstable_by_key(|(key, _)| *key);
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();

        // Both are sorted by key. A link that was evicted and came back has another cell, and no history.
        let mut before = std::mem::take(&mut self.links).into_iter().peekable();
        let watched = |cell: Arc<LinkCell>| {
            while before.next_if(|w| w.cell.key < cell.key).is_some() {}
            let known = before.next_if(|w| Arc::ptr_eq(&w.cell, &cell));
            let history = known.map_or_else(|| History::of(&cell), |w| w.history);
            let place = place_of(&cell.key);
            Watched { cell, history, row: NOWHERE, place }
        };
        let placed = |(index, key): &(usize, &LinkKey)| Foreign { index: *index, row: NOWHERE, place: place_of(key) };
        self.foreign = foreign.iter().map(placed).collect();
        self.links = own.into_iter().map(watched).collect();
        for (place, row) in rows.iter().enumerate() {
            let slot = match row {
                Row::Own(i) => self.links.get_mut(*i).map(|w| &mut w.row),
                Row::Foreign(i) => self.foreign.get_mut(*i).map(|f| &mut f.row),
            };
            if let Some(slot) = slot {
                *slot = place;
            }
        }
        self.rows = rows;
        self.incoming.resize_with(self.nodes.len(), Incoming::default);
        (self.changes, self.told) = (Some(changes), shape);
        self.version += 1;
    }

    /// An observation of all that has a place, with nothing seen yet.
    fn blank(&self, told: &[Arc<ToldLink>]) -> Observation {
        let key = |row: &Row| match row {
            Row::Own(i) => self.links.get(*i).map(|w| w.cell.key.clone()),
            Row::Foreign(i) => self.foreign.get(*i).and_then(|f| told.get(f.index)).map(|l| l.key.clone()),
        };
        let link = |key| LinkObservation { key, stats: LinkStats::default() };
        let node = |row: &NodeRow| NodeObservation { key: row.key.clone(), stats: NodeStats::default() };
        Observation {
            links: self.rows.iter().filter_map(key).map(link).collect(),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }
}

/// The nodes that are asked for here, those that links of others lead to, and those that others told of.
fn node_rows(cells: Vec<Arc<NodeCell>>, foreign: &[(usize, &LinkKey)], told: &Told) -> Vec<NodeRow> {
    if foreign.is_empty() && told.nodes.is_empty() {
        let row = |cell: Arc<NodeCell>| NodeRow { key: cell.key.clone(), cell: Some(cell), told: None };
        return cells.into_iter().map(row).collect();
    }
    let mut keys: BTreeSet<&NodeKey> = foreign.iter().map(|(_, key)| &key.destination).collect();
    keys.extend(told.nodes.iter().map(|node| &node.key));
    keys.extend(cells.iter().map(|cell| &cell.key));
    let row = |key: &NodeKey| NodeRow {
        key: key.clone(),
        cell: cells.binary_search_by(|cell| cell.key.cmp(key)).ok().and_then(|i| cells.get(i).cloned()),
        told: told.nodes.binary_search_by(|node| node.key.cmp(key)).ok(),
    };
    keys.into_iter().map(row).collect()
}

impl Links {
    /// An empty store for a proxy with `cores` serving threads.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            links: DashMap::new(),
            nodes: DashMap::new(),
            changes: AtomicU64::new(0),
            order: Mutex::default(),
            told: ArcSwapOption::empty(),
            idlest: AtomicU64::new(0),
            cores: cores.max(1),
        }
    }

    /// How often links or nodes came or went so far. While it stays the same, so do the cells of all keys.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The cell of a link, made when it is new.
    #[must_use]
    pub fn link(&self, key: &LinkKey, now: Time) -> Arc<LinkCell> {
        if let Some(cell) = self.links.get(key) {
            return cell.value().clone();
        }
        let made = || Arc::new(LinkCell::new(key.clone(), self.cores, now));
        let cell = self.links.entry(key.clone()).or_insert_with(made).clone();
        self.idlest.fetch_min(now.0, Ordering::AcqRel);
        self.changed();
        cell
    }

    /// The cell of a node, made when it is new.
    #[must_use]
    pub fn node(&self, key: &NodeKey, now: Time) -> Arc<NodeCell> {
        let known = self.nodes.get(key).map(|cell| cell.value().clone());
        let cell = known.unwrap_or_else(|| {
            let made = || Arc::new(NodeCell::new(key.clone()));
            let cell = self.nodes.entry(key.clone()).or_insert_with(made).clone();
            self.idlest.fetch_min(now.0, Ordering::AcqRel);
            self.changed();
            cell
        });
        cell.want(now);
        cell
    }

    /// How many links and nodes are kept.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.links.len(), self.nodes.len())
    }

    /// The cells of all links, by key.
    pub(super) fn link_cells(&self) -> Vec<Arc<LinkCell>> {
        let mut cells: Vec<Arc<LinkCell>> = self.links.iter().map(|cell| cell.value().clone()).collect();
        cells.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        cells
    }

    /// The cells of all nodes, by key.
    #[must_use]
    pub fn node_cells(&self) -> Vec<Arc<NodeCell>> {
        let mut cells: Vec<Arc<NodeCell>> = self.nodes.iter().map(|cell| cell.value().clone()).collect();
        cells.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        cells
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.nodes.is_empty()
    }

    /// Forgets links and nodes that no request touched, and no generation asked for, in `idle`. A link with a request
    /// in flight stays, however long that takes.
    pub fn evict(&self, now: Time, idle: Duration) {
        // What is used later only makes this moment later, too: there is nothing to look for.
        if now.since(Time(self.idlest.load(Ordering::Acquire))) < idle {
            return;
        }
        let before = self.len();
        self.links.retain(|_, cell| now.since(cell.last_used()) < idle || cell.in_flight() > 0);
        self.nodes.retain(|_, cell| now.since(cell.last_wanted()) < idle || cell.in_flight() > 0);
        if self.len() != before {
            self.changed();
        }
    }

    /// Drains all cells and says what is now known. One caller at a time: the tick.
    #[must_use]
    pub fn observe(&self, now: Time) -> Observation {
        let mut observation = Observation::default();
        self.observe_into(now, &mut observation, &mut None);
        observation
    }

    /// Adds up what was measured on these links, as of the last observation, in the place of what `into` held.
    pub fn latencies<'a>(&self, keys: impl Iterator<Item = &'a LinkKey>, into: &mut Sketch) {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        into.clear();
        for key in keys {
            let found = order.links.binary_search_by(|watched| watched.cell.key.cmp(key));
            if let Some(watched) = found.ok().and_then(|place| order.links.get(place)) {
                into.merge(&watched.history.sketch);
            }
        }
    }

    /// The same into an observation that the caller keeps from tick to tick, together with the number of the order that
    /// it is in. While that stays the same only what was seen is written, no key; says whether it did.
    pub fn observe_into(&self, now: Time, observation: &mut Observation, as_of: &mut Option<u64>) -> bool {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let told = self.told.load_full();
        order.renew(self, told.as_deref());
        let nothing = Told::default();
        let told = told.as_deref().unwrap_or(&nothing);
        let same = *as_of == Some(order.version)
            && (observation.links.len(), observation.nodes.len()) == (order.rows.len(), order.nodes.len());
        if !same {
            *observation = order.blank(&told.links);
            *as_of = Some(order.version);
        }
        let Order { links, foreign, nodes, incoming, fades, .. } = &mut *order;
        let mut idlest = u64::MAX;
        incoming.iter_mut().for_each(Incoming::clear);
        // In the order of their keys, so that sums of floats come out the same whatever the map's order is.
        for Watched { cell, history, row, place } in links {
            let stats = history.tick(cell, now, fades);
            idlest = idlest.min(cell.last_used().0);
            if let Some(incoming) = incoming.get_mut(*place) {
                incoming.add(&stats, history);
            }
            if let Some(seen) = observation.links.get_mut(*row) {
                seen.stats = stats;
            }
        }
        for Foreign { index, row, place } in foreign {
            let known = told.links.get(*index).and_then(|link| Some((link, link.stats(now)?)));
            if let (Some((link, stats)), Some(incoming)) = (known, incoming.get_mut(*place)) {
                incoming.join(link, &stats, now);
            }
            if let Some(seen) = observation.links.get_mut(*row) {
                seen.stats = known.map_or_else(LinkStats::default, |(_, stats)| stats);
            }
        }
        for ((row, incoming), seen) in nodes.iter().zip(incoming.iter()).zip(&mut observation.nodes) {
            let by_others = row.told.and_then(|i| told.nodes.get(i)).map(|node| &**node);
            seen.stats = node_stats(row.cell.as_deref(), by_others, Some(incoming).filter(|i| i.links > 0), now);
            idlest = row.cell.as_ref().map_or(idlest, |cell| idlest.min(cell.last_wanted().0));
        }
        self.idlest.store(idlest, Ordering::Release);
        same
    }

    /// Takes in what others told, in the place of all that they had told before.
    pub fn tell(&self, told: Option<Arc<Told>>) {
        self.told.store(told);
    }

    /// What others told.
    #[must_use]
    pub fn told(&self) -> Option<Arc<Told>> {
        self.told.load_full()
    }

    /// What an instance last reported of itself to this proxy, and the age of that in seconds.
    #[must_use]
    pub fn report(&self, key: &NodeKey, now: Time) -> Option<(Report, f32)> {
        self.nodes.get(key)?.last_report(now)
    }

    /// The keys of all own links, by key.
    #[must_use]
    pub fn keys(&self) -> Vec<LinkKey> {
        self.link_cells().iter().map(|cell| cell.key.clone()).collect()
    }

    /// Whether a link is an own one, on which requests of this proxy go.
    #[must_use]
    pub fn owns(&self, key: &LinkKey) -> bool {
        self.links.contains_key(key)
    }

    /// What can be told of those own links that `wanted` asks for, as of the last tick.
    pub fn accounts(&self, now: Time, mut wanted: impl FnMut(&LinkKey, &Brief) -> bool) -> Vec<(LinkKey, Account)> {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let Order { links, fades, .. } = &mut *order;
        let asked = links.iter().filter(|w| wanted(&w.cell.key, &w.history.brief(&w.cell)));
        asked.map(|w| (w.cell.key.clone(), w.history.account(&w.cell, now, fades))).collect()
    }
}

/// The links into one node, together.
#[derive(Debug, Default)]
struct Incoming {
    links: u32,
    sketch: Sketch,
    baseline: Baseline,
    calls_per_second: Option<f32>,
    errors_per_second: f32,
    /// Requests under way from others.
    in_flight: f32,
}

impl Incoming {
    fn clear(&mut self) {
        let Self { links, sketch, baseline, calls_per_second, errors_per_second, in_flight } = self;
        sketch.clear();
        (*links, *baseline, *calls_per_second) = (0, Baseline::default(), None);
        (*errors_per_second, *in_flight) = (0.0, 0.0);
    }

    fn add(&mut self, stats: &LinkStats, history: &History) {
        self.sketch.merge(&history.sketch);
        self.baseline.merge(history.baseline);
        self.count(stats);
    }

    /// Adds a link that others told of.
    fn join(&mut self, link: &ToldLink, stats: &LinkStats, now: Time) {
        link.join(now, &mut self.sketch, &mut self.baseline);
        self.in_flight += stats.in_flight;
        self.count(stats);
    }

    fn count(&mut self, stats: &LinkStats) {
        self.links += 1;
        if let Some(calls) = stats.calls_per_second {
            *self.calls_per_second.get_or_insert(0.0) += calls;
            self.errors_per_second += calls * stats.error_rate.unwrap_or(0.0);
        }
    }
}

/// A report older than this many memories of the links is no knowledge any more.
const MAX_REPORT_AGE_S: f32 = 6.0 * MEMORY_S;

fn node_stats(cell: Option<&NodeCell>, told: Option<&ToldNode>, incoming: Option<&Incoming>, now: Time) -> NodeStats {
    // What it reports of itself is the same whoever hears it: the younger word holds.
    let heard = cell.and_then(|cell| cell.last_report(now));
    let by_others = told.and_then(|told| told.report).map(|(report, at)| (report, now.seconds_since(at)));
    let report = match (heard, by_others) {
        (Some(heard), Some(other)) => Some(if other.1 < heard.1 { other } else { heard }),
        (heard, other) => heard.or(other),
    };
    let report = report.filter(|(_, age)| *age <= MAX_REPORT_AGE_S);
    let reported = |field: fn(&Report) -> Option<f64>| report.and_then(|(r, _)| field(&r)).map(|v| v as f32);
    let calls = incoming.and_then(|i| i.calls_per_second);
    NodeStats {
        cpu_utilization: reported(|r| r.cpu_utilization),
        memory_utilization: reported(|r| r.mem_utilization),
        application_utilization: reported(|r| r.application_utilization),
        reported_requests_per_second: reported(|r| r.requests_per_second),
        reported_errors_per_second: reported(|r| r.errors_per_second),
        report_age_s: report.map(|(_, age)| age),
        in_flight: cell.map_or(0.0, |cell| cell.in_flight() as f32) + incoming.map_or(0.0, |i| i.in_flight),
        calls_per_second: calls,
        response_mean_s: incoming.and_then(|i| i.sketch.mean()).map(|v| v as f32),
        response_baseline_s: incoming.and_then(|i| i.baseline.mean_s()),
        response_p99_s: incoming.and_then(|i| i.sketch.quantile(0.99)).map(|v| v as f32),
        error_rate: incoming.zip(calls).filter(|(_, c)| *c > 0.0).map(|(i, c)| i.errors_per_second / c),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
