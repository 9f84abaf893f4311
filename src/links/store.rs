//! All links and nodes that this proxy knows, by key: found when a generation is built, never by a request.
//!
//! A tick goes over all of them in the order of their keys. That order is kept from tick to tick (`Order`) and made anew
//! only when a link or a node came or went, which `changes` counts; whoever keeps cells at hand asks it, too. What the
//! ticks remember of each link lies in that order, side by side: a tick takes no lock and follows few pointers.

use super::history::{Baseline, Fades, History, MEMORY_S};
use super::{LinkCell, LinkKey, NodeCell, NodeKey, Sketch, Time, orca::Report};
use dashmap::DashMap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is known of a link, over about the last ten seconds. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LinkStats {
    /// Mean latency, from the request's start to the answer's head, in seconds.
    pub latency_mean_s: Option<f32>,
    /// The latency in seconds that 1 of 10 requests stays within: near what a call takes when nothing waits.
    pub latency_p10_s: Option<f32>,
    /// Median latency in seconds.
    pub latency_p50_s: Option<f32>,
    /// The latency in seconds that 9 of 10 requests stay within.
    pub latency_p90_s: Option<f32>,
    /// The latency in seconds that 99 of 100 requests stay within.
    pub latency_p99_s: Option<f32>,
    /// The mean latency with the last three seconds foremost, in seconds.
    pub latency_ewma_s: Option<f32>,
    /// The mean latency over about the last hundred seconds: what is usual here.
    pub latency_baseline_s: Option<f32>,
    /// Jitter by RFC 3550, in seconds.
    pub jitter_s: Option<f32>,
    /// Calls a second.
    pub calls_per_second: Option<f32>,
    /// Failed calls as a share of all.
    pub error_rate: Option<f32>,
    /// Requests under way.
    pub in_flight: f32,
    /// How many latencies stand behind this, faded ones in part.
    pub samples: f32,
    /// The age of the last latency, in seconds.
    pub age_s: Option<f32>,
}

/// What is known of an instance. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct NodeStats {
    /// CPU in use as it reports it, 1 being all it has.
    pub cpu_utilization: Option<f32>,
    /// Memory in use as it reports it, 0 to 1.
    pub memory_utilization: Option<f32>,
    /// Its own measure of utilisation as it reports it.
    pub application_utilization: Option<f32>,
    /// Requests a second from all callers as it reports it.
    pub reported_requests_per_second: Option<f32>,
    /// Errors a second as it reports it.
    pub reported_errors_per_second: Option<f32>,
    /// The age of its last report, in seconds.
    pub report_age_s: Option<f32>,
    /// Requests under way to it from here.
    pub in_flight: f32,
    /// Requests a second to it that were seen from here.
    pub calls_per_second: Option<f32>,
    /// Mean latency over all links to it, in seconds.
    pub response_mean_s: Option<f32>,
    /// Mean latency over all links to it, over about the last hundred seconds.
    pub response_baseline_s: Option<f32>,
    /// 99th percentile of latency over all links to it, in seconds.
    pub response_p99_s: Option<f32>,
    /// Failed calls to it as a share of all.
    pub error_rate: Option<f32>,
}

/// A link and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkObservation {
    /// Who calls whom.
    pub key: LinkKey,
    /// What was seen.
    pub stats: LinkStats,
}

/// A node and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeObservation {
    /// The instance.
    pub key: NodeKey,
    /// What was seen.
    pub stats: NodeStats,
}

/// Everything known at one moment, sorted by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// All links with statistics.
    pub links: Vec<LinkObservation>,
    /// All nodes with statistics.
    pub nodes: Vec<NodeObservation>,
}

/// All links and nodes.
#[derive(Debug)]
pub struct Links {
    links: DashMap<LinkKey, Arc<LinkCell>>,
    nodes: DashMap<NodeKey, Arc<NodeCell>>,
    /// Rises whenever a link or a node has come or gone.
    changes: AtomicU64,
    order: Mutex<Order>,
    /// Nothing was last used or asked for before this moment, in `Time`, as of the last look; 0 where nobody looked.
    idlest: AtomicU64,
    cores: usize,
}

/// Everything sorted by key, as of some number of changes.
#[derive(Debug, Default)]
struct Order {
    changes: Option<u64>,
    links: Vec<Watched>,
    nodes: Vec<Arc<NodeCell>>,
    /// What came in at each node, by its place; kept for its memory.
    incoming: Vec<Incoming>,
    fades: Fades,
}

/// A link and what the ticks so far have made of it.
#[derive(Debug)]
struct Watched {
    cell: Arc<LinkCell>,
    history: History,
    /// The place of its destination among the nodes; `NOWHERE` when it is none of them.
    place: usize,
}

const NOWHERE: usize = usize::MAX;

impl Order {
    /// Sorts anew what has changed.
    fn renew(&mut self, links: &Links) {
        // Read before the maps are: what comes meanwhile makes the next look sort again.
        let changes = links.changes.load(Ordering::Acquire);
        if self.changes == Some(changes) {
            return;
        }
        self.nodes = links.node_cells();
        let places: HashMap<&NodeKey, usize> = self.nodes.iter().enumerate().map(|(i, cell)| (&cell.key, i)).collect();
        // Both are sorted by key. A link that was evicted and came back has another cell, and no history.
        let mut before = std::mem::take(&mut self.links).into_iter().peekable();
        let watched = |cell: Arc<LinkCell>| {
            while before.next_if(|w| w.cell.key < cell.key).is_some() {}
            let known = before.next_if(|w| Arc::ptr_eq(&w.cell, &cell));
            let history = known.map_or_else(|| History::of(&cell), |w| w.history);
            let place = places.get(&cell.key.destination).copied().unwrap_or(NOWHERE);
            Watched { cell, history, place }
        };
        self.links = links.link_cells().into_iter().map(watched).collect();
        self.incoming.resize_with(self.nodes.len(), Incoming::default);
        self.changes = Some(changes);
    }
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

    /// What `observe` says, into an observation that the caller keeps from tick to tick, together with the number of `changes` that
    /// it is of. While that stays the same only what was seen is written, no key; says whether it did.
    pub fn observe_into(&self, now: Time, observation: &mut Observation, as_of: &mut Option<u64>) -> bool {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.renew(self);
        let Order { changes, links, nodes, incoming, fades } = &mut *order;
        let same = as_of.is_some()
            && *as_of == *changes
            && (observation.links.len(), observation.nodes.len()) == (links.len(), nodes.len());
        if !same {
            let link = |w: &Watched| LinkObservation { key: w.cell.key.clone(), stats: LinkStats::default() };
            let node = |cell: &Arc<NodeCell>| NodeObservation { key: cell.key.clone(), stats: NodeStats::default() };
            observation.links = links.iter().map(link).collect();
            observation.nodes = nodes.iter().map(node).collect();
            *as_of = *changes;
        }
        let mut idlest = u64::MAX;
        incoming.iter_mut().for_each(Incoming::clear);
        // In the order of their keys, so that sums of floats come out the same whatever the map's order is.
        for (watched, seen) in links.iter_mut().zip(&mut observation.links) {
            let Watched { cell, history, place } = watched;
            seen.stats = history.tick(cell, now, fades);
            idlest = idlest.min(cell.last_used().0);
            if let Some(incoming) = incoming.get_mut(*place) {
                incoming.add(&seen.stats, history);
            }
        }
        for ((cell, incoming), seen) in nodes.iter().zip(incoming.iter()).zip(&mut observation.nodes) {
            seen.stats = node_stats(cell, Some(incoming).filter(|i| i.links > 0), now);
            idlest = idlest.min(cell.last_wanted().0);
        }
        self.idlest.store(idlest, Ordering::Release);
        same
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
}

impl Incoming {
    fn clear(&mut self) {
        let Self { links, sketch, baseline, calls_per_second, errors_per_second } = self;
        sketch.clear();
        (*links, *baseline, *calls_per_second, *errors_per_second) = (0, Baseline::default(), None, 0.0);
    }

    fn add(&mut self, stats: &LinkStats, history: &History) {
        self.links += 1;
        self.sketch.merge(&history.sketch);
        self.baseline.merge(history.baseline);
        if let Some(calls) = stats.calls_per_second {
            *self.calls_per_second.get_or_insert(0.0) += calls;
            self.errors_per_second += calls * stats.error_rate.unwrap_or(0.0);
        }
    }
}

/// A report older than this many memories of the links is no knowledge any more.
const MAX_REPORT_AGE_S: f32 = 6.0 * MEMORY_S;

fn node_stats(cell: &NodeCell, incoming: Option<&Incoming>, now: Time) -> NodeStats {
    let report = cell.last_report(now).filter(|(_, age)| *age <= MAX_REPORT_AGE_S);
    let reported = |field: fn(&Report) -> Option<f64>| report.and_then(|(r, _)| field(&r)).map(|v| v as f32);
    let calls = incoming.and_then(|i| i.calls_per_second);
    NodeStats {
        cpu_utilization: reported(|r| r.cpu_utilization),
        memory_utilization: reported(|r| r.mem_utilization),
        application_utilization: reported(|r| r.application_utilization),
        reported_requests_per_second: reported(|r| r.requests_per_second),
        reported_errors_per_second: reported(|r| r.errors_per_second),
        report_age_s: report.map(|(_, age)| age),
        in_flight: cell.in_flight() as f32,
        calls_per_second: calls,
        response_mean_s: incoming.and_then(|i| i.sketch.mean()).map(|v| v as f32),
        response_baseline_s: incoming.and_then(|i| i.baseline.mean_s()),
        response_p99_s: incoming.and_then(|i| i.sketch.quantile(0.99)).map(|v| v as f32),
        error_rate: incoming.zip(calls).filter(|(_, c)| *c > 0.0).map(|(i, c)| i.errors_per_second / c),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(source: &str, destination: &str) -> LinkKey {
        LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
    }

    fn call(links: &Links, key: &LinkKey, at: Time, latency_s: f32, outcome: Outcome) {
        let cell = links.link(key, at);
        cell.begin(0, at);
        cell.record(0, at, latency_s, outcome, 0.0, 3.0);
        cell.end(0, at);
    }

    #[test]
    fn what_was_never_measured_is_unknown_not_zero() {
        let links = Links::new(2);
        let _ = links.link(&key("a", "b"), Time(0));
        let observation = links.observe(Time(SECOND));
        let stats = observation.links[0].stats;
        assert_eq!((stats.latency_mean_s, stats.jitter_s, stats.error_rate, stats.age_s), (None, None, None, None));
        assert_eq!(stats.calls_per_second, Some(0.0), "no calls in a second that was watched is a fact");
    }

    #[test]
    fn statistics_follow_the_calls() {
        let (links, key) = (Links::new(1), key("a", "b"));
        let _ = (links.link(&key, Time(0)), links.node(&key.destination, Time(0)));
        for i in 0..100u64 {
            let outcome = if i % 10 == 0 { Outcome::Failure } else { Outcome::Success };
            call(&links, &key, Time(i * SECOND / 100), 0.020, outcome);
        }
        let observation = links.observe(Time(SECOND));
        let stats = observation.links[0].stats;
        assert!((stats.latency_mean_s.unwrap() - 0.020).abs() < 1e-6);
        assert!((stats.latency_p99_s.unwrap() - 0.020).abs() < 0.001);
        assert!((stats.error_rate.unwrap() - 0.1).abs() < 1e-6);
        assert!((stats.calls_per_second.unwrap() - 100.0).abs() < 6.0, "{:?}", stats.calls_per_second);
        assert_eq!(observation.nodes[0].stats.response_mean_s, stats.latency_mean_s);
    }

    #[test]
    fn latencies_of_several_links_are_added_up_and_of_others_are_not() {
        let (links, keys) = (Links::new(1), [key("a", "b"), key("a", "c"), key("z", "b")]);
        for (key, (calls, latency_s)) in keys.iter().zip([(95, 0.010), (5, 0.500), (100, 3.0)]) {
            (0..calls).for_each(|_| call(&links, key, Time(1), latency_s, Outcome::Success));
        }
        let mut sketch = Sketch::default();
        links.latencies(keys.iter(), &mut sketch);
        assert_eq!(sketch.count(), 0.0, "nobody has looked yet");
        let _ = links.observe(Time(1));
        for _ in 0..2 {
            links.latencies([&keys[0], &keys[1], &key("not", "there")].into_iter(), &mut sketch);
            let near = |q, expected: f64| (sketch.quantile(q).unwrap() / expected - 1.0).abs() < 0.04;
            assert!((sketch.count() - 100.0).abs() < 0.1 && near(0.94, 0.010) && near(0.97, 0.500), "{sketch:?}");
        }
    }

    #[test]
    fn old_samples_fade_into_the_unknown() {
        let (links, key) = (Links::new(1), key("a", "b"));
        call(&links, &key, Time(0), 0.020, Outcome::Success);
        let mut known = 0;
        for tick in 1..200u64 {
            known += usize::from(links.observe(Time(tick * SECOND)).links[0].stats.latency_ewma_s.is_some());
        }
        assert!((50..90).contains(&known), "{known}");
    }

    #[test]
    fn idle_links_are_evicted_and_busy_ones_are_not() {
        let (links, busy, idle) = (Links::new(1), key("a", "busy"), key("a", "idle"));
        links.link(&busy, Time(0)).begin(0, Time(0));
        call(&links, &idle, Time(0), 0.1, Outcome::Success);
        let _ = links.node(&idle.destination, Time(0));
        links.evict(Time(700 * SECOND), Duration::from_secs(600));
        let left: Vec<_> = links.observe(Time(700 * SECOND)).links.into_iter().map(|l| l.key).collect();
        assert_eq!((left, links.len()), (vec![busy], (1, 0)));
    }

    #[test]
    fn an_observation_that_is_kept_says_what_one_that_is_made_anew_says() {
        let (fresh, kept, keys) = (Links::new(1), Links::new(1), [key("a", "b"), key("c", "b"), key("a", "d")]);
        let (mut observation, mut as_of) = (Observation::default(), None);
        let mut same = Vec::new();
        for tick in 1..60u64 {
            let now = Time(tick * SECOND);
            for links in [&fresh, &kept] {
                // The third link comes late, the second goes after a while and comes back.
                for (key, _) in keys.iter().zip([true, !(10..40).contains(&tick), tick > 5]).filter(|(_, there)| *there)
                {
                    let _ = links.node(&key.destination, now);
                    call(links, key, now, 0.010 * (1 + tick % 7) as f32, Outcome::Success);
                }
            }
            same.push(kept.observe_into(now, &mut observation, &mut as_of));
            assert_eq!(fresh.observe(now), observation, "tick {tick}");
            [&fresh, &kept].into_iter().for_each(|links| links.evict(now, Duration::from_secs(20)));
        }
        let changed: Vec<usize> = (1..60).filter(|tick| !same[tick - 1]).collect();
        assert_eq!(changed, [1, 6, 30, 40], "made, one more, one evicted at 29, back");
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_wedges_nothing() {
        let (links, key) = (Links::new(1), key("a", "b"));
        for at in [5 * SECOND, 5 * SECOND, SECOND, 0, 100 * SECOND, u64::MAX, 3 * SECOND] {
            call(&links, &key, Time(at), 0.010, Outcome::Success);
            let stats = links.observe(Time(at)).links[0].stats;
            for value in [stats.latency_mean_s, stats.latency_ewma_s, stats.calls_per_second, stats.age_s] {
                assert!(value.is_none_or(|v| v.is_finite() && v >= 0.0), "{at}: {stats:?}");
            }
        }
        links.evict(Time(0), Duration::ZERO);
    }
}
