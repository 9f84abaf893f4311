//! Samples of a recording: what a sidecar would have known at the end of a window, and what the next one brought.
//!
//! Statistics are made of windows as the sidecar's `links` makes them of calls: memory fades with `MEMORY_S`, what is
//! usual with `BASELINE_S`, and calls within a window count as if they had been spread evenly over it. The graph and its
//! features are the sidecar's own. What a window does not hold is unknown: no 10th percentile, no hosts; requests in flight on
//! a link are rate times mean latency (Little's law). A percentile over several callers of a node is their mean by calls,
//! since percentiles do not merge.
//!
//! **Candidates** are the nodes of one service that a source, or another node of its service, calls in the window. A node
//! whose service is unknown is nobody's alternative. **Labels** are the next window's observed figures. Nothing of a
//! window that is yet to come is in the features.

use super::read::{LinkWindow, NodeWindow, Recording, Window};
use crate::data::{Candidate, PAST_WINDOWS, Past, Sample};
use crate::{Error, Result};
use pathloom::graph::{Features, GraphBuilder, Instance};
use pathloom::links::{
    BASELINE_S, LinkKey, LinkObservation, LinkStats, MEMORY_S, NodeKey, NodeObservation, NodeStats, Observation,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A link that was not used for this long is forgotten, in seconds, as the sidecar does.
const IDLE_S: f64 = 600.0;
/// A node's report that is older than this, in seconds, is no knowledge any more.
const MAX_REPORT_AGE_S: f64 = 6.0 * MEMORY_S as f64;
/// The time constant of the sidecar's latency EWMA, in seconds.
const EWMA_S: f64 = 3.0;
/// Less than this of a sample says nothing any more.
const LEAST_OF_A_SAMPLE: f64 = 1e-3;
/// Beyond so many candidates in a window a source's only candidates are those that it calls itself.
const MAX_CANDIDATES: usize = 200_000;

/// Which links are scored.
pub type Scored<'a> = Box<dyn Fn(&str, &str) -> bool + 'a>;

/// How samples are made.
pub struct Options<'a> {
    /// The samples' `run`.
    pub run: u64,
    /// A candidate whose link had fewer calls in the present window has no labels. 0 scores links that nobody used, too.
    pub least_calls_now: f32,
    /// Whether the link from a node to another is a candidate; all without it.
    pub scored: Option<Scored<'a>>,
}

/// What is remembered of a link.
#[derive(Debug, Clone)]
struct Memory {
    born_ms: i64,
    at_ms: i64,
    /// The end of the last window with calls.
    used_ms: i64,
    sum_s: f64,
    samples: f64,
    slow_sum_s: f64,
    slow_samples: f64,
    calls: f64,
    errors: f64,
    /// Windows with latencies: the start, and the mean in seconds.
    means: [(i64, f32); PAST_WINDOWS],
    last: Option<(i64, LinkWindow)>,
    least_s: f32,
}

impl Memory {
    fn new(now_ms: i64) -> Self {
        Self {
            born_ms: now_ms,
            at_ms: now_ms,
            used_ms: now_ms,
            sum_s: 0.0,
            samples: 0.0,
            slow_sum_s: 0.0,
            slow_samples: 0.0,
            calls: 0.0,
            errors: 0.0,
            means: [(i64::MIN, f32::NAN); PAST_WINDOWS],
            last: None,
            least_s: f32::NAN,
        }
    }

    fn fade(&mut self, to_ms: i64) {
        let elapsed = (to_ms - self.at_ms).max(0) as f64 * 1e-3;
        let (keep, slow) = ((-elapsed / f64::from(MEMORY_S)).exp(), (-elapsed / f64::from(BASELINE_S)).exp());
        for v in [&mut self.sum_s, &mut self.samples, &mut self.calls, &mut self.errors] {
            *v *= keep;
        }
        for v in [&mut self.slow_sum_s, &mut self.slow_samples] {
            *v *= slow;
        }
        self.at_ms = to_ms;
    }

    /// Takes in a window that ends at `end_ms`.
    fn add(&mut self, row: &LinkWindow, start_ms: i64, end_ms: i64) {
        self.fade(end_ms);
        let length = (end_ms - start_ms) as f64 * 1e-3;
        let part = |memory_s: f32| within(length, f64::from(memory_s));
        let (quick, slow) = (part(MEMORY_S), part(BASELINE_S));
        let known = |v: f32| if v.is_nan() { 0.0 } else { f64::from(v) };
        self.calls += known(row.calls) * quick;
        self.errors += known(row.errors) * quick;
        if row.calls > 0.0 {
            self.used_ms = end_ms;
        }
        let answers = if row.calls.is_nan() && !row.mean_s.is_nan() { 1.0 } else { f64::from(row.answers()) };
        if answers <= 0.0 {
            return;
        }
        self.used_ms = end_ms;
        let mean = f64::from(row.mean_s);
        self.sum_s += mean * answers * quick;
        self.samples += answers * quick;
        self.slow_sum_s += mean * answers * slow;
        self.slow_samples += answers * slow;
        self.means.rotate_right(1);
        if let Some(first) = self.means.first_mut() {
            *first = (start_ms, row.mean_s);
        }
        self.last = Some((end_ms, *row));
        self.least_s = self.least_s.min(row.mean_s).min(row.p50_s);
    }

    fn stats(&self, now_ms: i64, window_s: f64) -> LinkStats {
        let knows = self.samples > LEAST_OF_A_SAMPLE;
        let last = self.last.filter(|_| knows);
        let of = |field: fn(&LinkWindow) -> f32| last.map(|(_, row)| field(&row)).filter(|v| !v.is_nan());
        let ewma = last.and_then(|_| {
            let recent = self.means.iter().rev().filter(|(_, mean)| !mean.is_nan());
            let mut ewma: Option<(i64, f64)> = None;
            for (start, mean) in recent {
                let mean = f64::from(*mean);
                let next = ewma.map_or(mean, |(before, ewma)| {
                    mean + (ewma - mean) * (-((start - before) as f64 * 1e-3) / EWMA_S).exp()
                });
                ewma = Some((*start, next));
            }
            ewma.map(|(_, ewma)| ewma as f32)
        });
        let age = last.map(|(end_ms, row)| {
            let since = (now_ms - end_ms) as f64 * 1e-3;
            (since + window_s / (f64::from(row.answers().max(1.0)) + 1.0)) as f32
        });
        // The length of the faded memory so far, as in the sidecar: a young link's rate is not underestimated.
        let lived = (now_ms - self.born_ms) as f64 * 1e-3;
        let memory_s = f64::from(MEMORY_S) * (1.0 - (-lived / f64::from(MEMORY_S)).exp());
        let rate = (memory_s > 0.0).then(|| self.calls / memory_s);
        let mean = knows.then(|| self.sum_s / self.samples);
        LinkStats {
            latency_mean_s: mean.map(|m| m as f32),
            latency_p10_s: None,
            latency_p50_s: of(|r| r.p50_s),
            latency_p90_s: of(|r| r.p90_s),
            latency_p99_s: of(|r| r.p99_s),
            latency_ewma_s: ewma,
            latency_baseline_s: (self.slow_samples > 0.01).then(|| (self.slow_sum_s / self.slow_samples) as f32),
            jitter_s: of(|r| r.jitter_s),
            calls_per_second: rate.map(|r| r as f32),
            error_rate: (self.calls > 0.01).then(|| (self.errors / self.calls).min(1.0) as f32),
            in_flight: rate.zip(mean).map_or(0.0, |(rate, mean)| (rate * mean) as f32),
            samples: if knows { self.samples as f32 } else { 0.0 },
            age_s: age,
        }
    }

    fn past(&self, now_start_ms: i64, step_ms: i64) -> Past {
        let mut past = Past { communication_s: self.least_s, ..Past::default() };
        for (i, slot) in past.mean_s.iter_mut().enumerate() {
            let start = now_start_ms - i as i64 * step_ms;
            *slot = self.means.iter().find(|(s, _)| *s == start).map_or(f32::NAN, |(_, mean)| *mean);
        }
        if let Some((_, row)) = self.last.filter(|(end, _)| *end == now_start_ms + step_ms) {
            (past.p99_s, past.jitter_s) = (row.p99_s, row.jitter_s);
        }
        past
    }
}

/// What is left at a window's end of a memory of its calls, evenly spread: the mean of `exp(-age / memory)`.
fn within(length_s: f64, memory_s: f64) -> f64 {
    memory_s / length_s * (1.0 - (-length_s / memory_s).exp())
}

/// The samples of a recording, one after another: only one is in memory at a time.
pub struct Stream<'a> {
    recording: &'a Recording,
    options: Options<'a>,
    at: usize,
    keys: Vec<NodeKey>,
    services: Vec<Arc<str>>,
    zones: Vec<Arc<str>>,
    links: BTreeMap<(u32, u32), Memory>,
    reports: BTreeMap<u32, (i64, NodeWindow)>,
    /// Samples come from windows in this range; those before are only remembered.
    scored: std::ops::Range<usize>,
}

impl<'a> Stream<'a> {
    /// Samples of the windows in `scored` (indices of `Recording::windows`) that a following one is known for.
    #[must_use]
    pub fn new(recording: &'a Recording, scored: std::ops::Range<usize>, options: Options<'a>) -> Self {
        let mut interned: HashMap<&str, Arc<str>> = HashMap::new();
        let mut intern = |text: &'a str| interned.entry(text).or_insert_with(|| text.into()).clone();
        Self {
            recording,
            options,
            at: 0,
            keys: recording.nodes.iter().map(|n| NodeKey::new(&n.name)).collect(),
            services: recording.nodes.iter().map(|n| intern(&n.service)).collect(),
            zones: recording.nodes.iter().map(|n| intern(&n.zone)).collect(),
            links: BTreeMap::new(),
            reports: BTreeMap::new(),
            scored,
        }
    }

    fn remember(&mut self, window: &Window, end_ms: i64) {
        for row in &window.links {
            let memory =
                self.links.entry((row.source, row.destination)).or_insert_with(|| Memory::new(window.start_ms));
            memory.add(row, window.start_ms, end_ms);
        }
        let idle_ms = (IDLE_S * 1e3) as i64;
        self.links.retain(|_, memory| end_ms - memory.used_ms <= idle_ms);
        for row in &window.nodes {
            // A row that says nothing does not make the last report forgotten.
            let report = [row.cpu_utilization, row.memory_utilization, row.requests_per_second, row.in_flight];
            if report.iter().any(|v| !v.is_nan()) {
                self.reports.insert(row.node, (end_ms, *row));
            } else {
                self.reports.entry(row.node).or_insert((end_ms, *row));
            }
        }
        self.reports.retain(|_, (at, _)| end_ms - *at <= idle_ms);
        for memory in self.links.values_mut() {
            memory.fade(end_ms);
        }
    }

    fn key(&self, node: u32) -> NodeKey {
        self.keys.get(node as usize).cloned().unwrap_or_else(|| NodeKey::new(""))
    }

    fn service(&self, node: u32) -> Arc<str> {
        self.services.get(node as usize).cloned().unwrap_or_default()
    }

    /// For each source and called service the nodes that are its alternatives, in a fixed order.
    fn groups(&self, window: &Window) -> Vec<(u32, Vec<u32>)> {
        let mut called: BTreeMap<(u32, Arc<str>), BTreeSet<u32>> = BTreeMap::new();
        let mut by_service: BTreeMap<(Arc<str>, Arc<str>), BTreeSet<u32>> = BTreeMap::new();
        let mut alone = Vec::new();
        for row in &window.links {
            let (from, to) = (self.service(row.source), self.service(row.destination));
            if to.is_empty() {
                alone.push((row.source, vec![row.destination]));
                continue;
            }
            if !from.is_empty() {
                by_service.entry((from, to.clone())).or_default().insert(row.destination);
            }
            called.entry((row.source, to)).or_default().insert(row.destination);
        }
        let all = |source: u32, to: &Arc<str>| by_service.get(&(self.service(source), to.clone()));
        let count: usize = called.iter().map(|((s, to), own)| all(*s, to).map_or(own.len(), BTreeSet::len)).sum();
        let groups = called.iter().map(|((source, to), own)| {
            let nodes = all(*source, to).filter(|_| count <= MAX_CANDIDATES).unwrap_or(own);
            (*source, nodes.iter().copied().filter(|n| n != source).collect())
        });
        groups.chain(alone).collect()
    }

    fn observation(&self, end_ms: i64) -> Observation {
        let window_s = self.recording.window_s;
        let mut links = Vec::with_capacity(self.links.len());
        let mut incoming: BTreeMap<u32, Incoming> = BTreeMap::new();
        for ((source, destination), memory) in &self.links {
            let stats = memory.stats(end_ms, window_s);
            incoming.entry(*destination).or_default().add(&stats, memory);
            links.push(LinkObservation { key: LinkKey::new(&self.key(*source), &self.key(*destination)), stats });
        }
        let nodes: BTreeSet<u32> = incoming.keys().chain(self.reports.keys()).copied().collect();
        let nodes = nodes
            .into_iter()
            .map(|node| {
                let report = self.reports.get(&node).filter(|(at, _)| (end_ms - *at) as f64 * 1e-3 <= MAX_REPORT_AGE_S);
                let stats =
                    node_stats(report.map(|(at, row)| ((end_ms - *at) as f32 * 1e-3, row)), incoming.get(&node));
                NodeObservation { key: self.key(node), stats }
            })
            .collect();
        Observation { links, nodes }
    }

    fn sample(&self, at: usize, window: &Window, next: &Window) -> Result<Option<Sample>> {
        let step_ms = self.recording.window_ms();
        let end_ms = window.start_ms + step_ms;
        let mut builder = GraphBuilder::default();
        let mut known: BTreeSet<u32> = self.reports.keys().copied().collect();
        known.extend(self.links.keys().flat_map(|(a, b)| [*a, *b]));
        for node in &known {
            let (service, zone) = (self.service(*node), self.zones.get(*node as usize).cloned().unwrap_or_default());
            builder.instance(Instance { key: self.key(*node), service, zone, host: "".into() });
        }
        let label = |source: u32, destination: u32| -> Option<&LinkWindow> {
            let place = next.links.binary_search_by_key(&(source, destination), |l| (l.source, l.destination));
            next.links.get(place.ok()?)
        };
        let now = |source: u32, destination: u32| -> f32 {
            let place = window.links.binary_search_by_key(&(source, destination), |l| (l.source, l.destination));
            place.ok().and_then(|p| window.links.get(p)).map_or(0.0, |l| l.calls)
        };
        let name = |node: u32| self.recording.nodes.get(node as usize).map_or("", |n| n.name.as_str());
        let mut candidates = Vec::new();
        for (group, (source, destinations)) in (0u32..).zip(self.groups(window)) {
            for destination in destinations {
                if !self.options.scored.as_ref().is_none_or(|scored| scored(name(source), name(destination))) {
                    continue;
                }
                builder.candidate(vec![LinkKey::new(&self.key(source), &self.key(destination))]);
                let mut candidate = Candidate::unknown(group);
                if let Some(memory) = self.links.get(&(source, destination)) {
                    candidate.past = memory.past(window.start_ms, step_ms);
                }
                let enough =
                    self.options.least_calls_now <= 0.0 || now(source, destination) >= self.options.least_calls_now;
                if let Some(row) = label(source, destination).filter(|_| enough) {
                    candidate.answers = row.answers() as u32;
                    (candidate.mean_s, candidate.p99_s, candidate.jitter_s) = (row.mean_s, row.p99_s, row.jitter_s);
                }
                candidates.push(candidate);
            }
        }
        if candidates.iter().all(|c| c.mean_s.is_nan()) {
            return Ok(None);
        }
        let graph = builder.build(&self.observation(end_ms))?;
        let mut calls: HashMap<&str, f32> = HashMap::new();
        for row in next.links.iter().filter(|l| !l.calls.is_nan()) {
            *calls.entry(name(row.destination)).or_default() += row.calls;
        }
        let window_s = self.recording.window_s as f32;
        let node_load =
            graph.nodes.iter().map(|n| calls.get(&*n.key.0).map_or(f32::NAN, |calls| calls / window_s)).collect();
        let mut features = Features::default();
        features.fill(&graph);
        if features.candidate_count() != candidates.len() {
            return Err(Error::Check("a graph with another number of candidates than was asked for".into()));
        }
        Ok(Some(Sample { run: self.options.run, tick: at as u64, features, candidates, node_load }))
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Self::Item> {
        let recording = self.recording;
        while let Some(window) = recording.windows.get(self.at) {
            let (at, end_ms) = (self.at, window.start_ms + recording.window_ms());
            self.at += 1;
            if at >= self.scored.end {
                return None;
            }
            self.remember(window, end_ms);
            let next = recording.windows.get(self.at).filter(|next| next.start_ms == end_ms);
            let Some(next) = next.filter(|_| self.scored.contains(&at)) else { continue };
            if let Some(result) = self.sample(at, window, next).transpose() {
                return Some(result);
            }
        }
        None
    }
}

/// The links into one node, together.
#[derive(Debug, Clone, Copy, Default)]
struct Incoming {
    calls_per_second: Option<f32>,
    errors_per_second: f32,
    in_flight: f32,
    sum_s: f64,
    samples: f64,
    slow_sum_s: f64,
    slow_samples: f64,
    p99_sum_s: f64,
    p99_samples: f64,
}

impl Incoming {
    fn add(&mut self, stats: &LinkStats, memory: &Memory) {
        if let Some(calls) = stats.calls_per_second {
            *self.calls_per_second.get_or_insert(0.0) += calls;
            self.errors_per_second += calls * stats.error_rate.unwrap_or(0.0);
        }
        self.in_flight += stats.in_flight;
        self.sum_s += memory.sum_s;
        self.samples += memory.samples;
        self.slow_sum_s += memory.slow_sum_s;
        self.slow_samples += memory.slow_samples;
        if let Some(p99) = stats.latency_p99_s {
            self.p99_sum_s += f64::from(p99) * memory.samples;
            self.p99_samples += memory.samples;
        }
    }
}

fn node_stats(report: Option<(f32, &NodeWindow)>, incoming: Option<&Incoming>) -> NodeStats {
    let of = |field: fn(&NodeWindow) -> f32| report.map(|(_, row)| field(row)).filter(|v| !v.is_nan());
    let mean = |sum: f64, samples: f64, least: f64| (samples > least).then(|| (sum / samples) as f32);
    let reports = [of(|r| r.cpu_utilization), of(|r| r.memory_utilization), of(|r| r.requests_per_second)];
    let [cpu_utilization, memory_utilization, reported_requests_per_second] = reports;
    let calls = incoming.and_then(|i| i.calls_per_second);
    NodeStats {
        cpu_utilization,
        memory_utilization,
        application_utilization: None,
        reported_requests_per_second,
        reported_errors_per_second: None,
        report_age_s: report.filter(|_| reports.iter().any(Option::is_some)).map(|(age, _)| age),
        in_flight: of(|r| r.in_flight).unwrap_or_else(|| incoming.map_or(0.0, |i| i.in_flight)),
        calls_per_second: calls,
        response_mean_s: incoming.and_then(|i| mean(i.sum_s, i.samples, LEAST_OF_A_SAMPLE)),
        response_baseline_s: incoming.and_then(|i| mean(i.slow_sum_s, i.slow_samples, 0.01)),
        response_p99_s: incoming.and_then(|i| mean(i.p99_sum_s, i.p99_samples, LEAST_OF_A_SAMPLE)),
        error_rate: incoming.zip(calls).filter(|(_, c)| *c > 0.0).map(|(i, c)| i.errors_per_second / c),
    }
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
