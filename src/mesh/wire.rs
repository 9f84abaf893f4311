//! A report as it travels: protobuf, whatever carries it.
//!
//! One report speaks of some of a node's links and instances; what it says of each is all that is to be said, so reports may
//! be lost, doubled or mixed up. Names stand once in each and are referred to by their place. Numbers are whole ones of a
//! small unit (microseconds, thousandths), so that most take two or three bytes. Latencies travel as the counts of their
//! sketch, in 4,096ths of all: a percentile is off by the sketch's own 3% and hardly more.
//!
//! **Versions.** Fields that a reader does not know are passed over, so a later version may add some. One that gives old
//! fields another meaning has another `version`, which is refused by those that do not know it.
//!
//! **Whoever reads bounds everything**: bytes before anything is decoded, then names, links, counts, ages and values. One
//! value that cannot be refuses the whole report, because half a report of a confused sender is no better than none.

use super::refused::Refused;
use crate::links::orca;
use crate::links::{Account, Counts, Described, LinkKey, MOST_COUNTS, NodeAccount, NodeKey};
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What old fields mean; a reader refuses others.
pub const VERSION: u32 = 1;
/// The largest report that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;
/// The most names in a report, and the longest of them in bytes.
const MAX_NAMES: usize = 2_048;
const MAX_NAME_BYTES: usize = 256;
/// The most links, and the most instances, in a report.
const MAX_LINKS: usize = 512;
/// The longest latency and age that are believed, in seconds.
const MAX_LATENCY_S: f32 = 3_600.0;
const MAX_AGE_S: f32 = 86_400.0;
/// The most calls a second, requests under way and latencies that one link can have.
const MAX_COUNT: f32 = 1e7;
const MAX_SAMPLES: f32 = 1e9;
/// Of so many parts are all latencies of a link.
const PARTS: f32 = 4_096.0;

#[derive(Clone, PartialEq, Message)]
struct WireReport {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    node: String,
    /// When the node's process started, in milliseconds since 1970: a later one follows an earlier one.
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    /// The later of two reports of a process has the higher number.
    #[prost(uint64, tag = "4")]
    sequence: u64,
    /// In milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    made_ms: u64,
    #[prost(string, tag = "6")]
    zone: String,
    #[prost(string, repeated, tag = "7")]
    names: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    links: Vec<WireLink>,
    #[prost(message, repeated, tag = "9")]
    nodes: Vec<WireNode>,
}

#[derive(Clone, PartialEq, Message)]
struct WireLink {
    /// Places among the names.
    #[prost(uint32, tag = "1")]
    source: u32,
    #[prost(uint32, tag = "2")]
    destination: u32,
    #[prost(uint32, optional, tag = "3")]
    age_ms: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    mean_us: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    ewma_us: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    baseline_us: Option<u32>,
    #[prost(uint64, tag = "7")]
    baseline_samples_milli: u64,
    #[prost(uint32, optional, tag = "8")]
    jitter_us: Option<u32>,
    #[prost(uint64, tag = "9")]
    calls_milli: u64,
    #[prost(uint32, optional, tag = "10")]
    errors_ppm: Option<u32>,
    #[prost(uint32, tag = "11")]
    in_flight: u32,
    #[prost(uint64, tag = "12")]
    samples_milli: u64,
    /// The first bucket of the sketch, and what is in it and in those that follow, in parts of all.
    #[prost(uint32, tag = "13")]
    low: u32,
    #[prost(uint32, repeated, tag = "14")]
    counts: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct WireNode {
    /// Places among the names, from 1; 0 is unknown.
    #[prost(uint32, tag = "1")]
    name: u32,
    #[prost(uint32, tag = "2")]
    service: u32,
    #[prost(uint32, tag = "3")]
    zone: u32,
    #[prost(uint32, tag = "4")]
    host: u32,
    /// What it reports of itself: CPU, memory, application, requests and errors a second.
    #[prost(float, optional, tag = "5")]
    cpu: Option<f32>,
    #[prost(float, optional, tag = "6")]
    memory: Option<f32>,
    #[prost(float, optional, tag = "7")]
    application: Option<f32>,
    #[prost(float, optional, tag = "8")]
    requests_per_second: Option<f32>,
    #[prost(float, optional, tag = "9")]
    errors_per_second: Option<f32>,
    #[prost(uint32, optional, tag = "10")]
    age_ms: Option<u32>,
}

/// Who reports, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The node's name.
    pub node: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// When its process started, in milliseconds since 1970.
    pub incarnation: u64,
    /// The number of the report.
    pub sequence: u64,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
}

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Who reports, and when.
    pub head: Head,
    /// The node's links.
    pub links: Vec<(LinkKey, Account)>,
    /// The instances that it knows.
    pub nodes: Vec<(NodeKey, NodeAccount)>,
}

/// Writes a report until it is full.
#[derive(Debug)]
pub struct Writer {
    wire: WireReport,
    places: HashMap<Arc<str>, u32>,
    described: HashSet<NodeKey>,
    bytes: usize,
    limit: usize,
}

/// What stands around the bytes of a field of the report: its tag and its length, which has at most two bytes.
const AROUND: usize = 3;

impl Writer {
    /// A report with nothing in it, that may become as large as `limit` bytes.
    #[must_use]
    pub fn new(head: &Head, limit: usize) -> Self {
        let wire = WireReport {
            version: VERSION,
            node: head.node.as_ref().to_owned(),
            incarnation: head.incarnation,
            sequence: head.sequence,
            made_ms: head.made_ms,
            zone: head.zone.as_ref().to_owned(),
            ..WireReport::default()
        };
        let bytes = wire.encoded_len();
        Self { wire, places: HashMap::new(), described: HashSet::new(), bytes, limit: limit.min(MAX_BYTES) }
    }

    /// Adds a link and what is known of its ends; false where there is no room for it, and then nothing is added.
    pub fn link(
        &mut self,
        key: &LinkKey,
        account: &Account,
        known: &mut dyn FnMut(&NodeKey) -> Option<NodeAccount>,
    ) -> bool {
        let before = (self.wire.names.len(), self.wire.nodes.len(), self.bytes);
        let mut fits = self.wire.links.len() < MAX_LINKS;
        for end in [&key.source, &key.destination] {
            if fits && !self.described.contains(end) {
                fits = known(end).is_none_or(|account| self.node(end, &account));
            }
        }
        let (source, destination) = (self.place(&key.source.0), self.place(&key.destination.0));
        let link = wire_link(source, destination, account);
        self.bytes += link.encoded_len() + AROUND;
        if fits && self.bytes <= self.limit && self.wire.names.len() <= MAX_NAMES {
            self.wire.links.push(link);
            return true;
        }
        let (names, nodes, bytes) = before;
        self.wire.names.truncate(names);
        self.wire.nodes.truncate(nodes);
        self.bytes = bytes;
        // A name may then stand twice, which is no harm; mostly a report that is full is sent.
        self.places.clear();
        self.described.clear();
        false
    }

    fn node(&mut self, key: &NodeKey, account: &NodeAccount) -> bool {
        let Described { service, zone, host } = &account.described;
        let name = self.place(&key.0) + 1;
        let mut place = |text: &Arc<str>| if text.is_empty() { 0 } else { self.place(text) + 1 };
        let mut node =
            WireNode { name, service: place(service), zone: place(zone), host: place(host), ..WireNode::default() };
        if let Some((report, age_s)) = &account.report {
            let [cpu, memory, application, requests, errors] = report.values().map(|v| v.map(|v| v as f32));
            (node.cpu, node.memory, node.application) = (cpu, memory, application);
            (node.requests_per_second, node.errors_per_second) = (requests, errors);
            node.age_ms = Some((age_s * 1e3) as u32);
        }
        self.bytes += node.encoded_len() + AROUND;
        self.wire.nodes.push(node);
        self.described.insert(key.clone());
        self.bytes <= self.limit
    }

    /// The place of a name, made where it is new.
    fn place(&mut self, name: &Arc<str>) -> u32 {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.wire.names.len() as u32;
        self.wire.names.push(name.as_ref().to_owned());
        self.places.insert(name.clone(), place);
        self.bytes += name.len() + AROUND;
        place
    }

    /// How many bytes it has at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bounds it anew; gives the bound that now holds.
    pub fn bound(&mut self, limit: usize) -> usize {
        self.limit = limit.min(MAX_BYTES);
        self.limit
    }

    /// Whether it speaks of nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wire.links.is_empty()
    }

    /// Its bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.wire.encode_to_vec()
    }
}

/// Seconds as whole microseconds. What is shorter than one is one: zero would be a latency that nobody measures.
fn micros(seconds: Option<f32>) -> Option<u32> {
    seconds.map(|s| (s * 1e6).clamp(1.0, MAX_LATENCY_S * 1e6) as u32)
}

fn milli(value: f32) -> u64 {
    (value * 1e3) as u64
}

fn wire_link(source: u32, destination: u32, account: &Account) -> WireLink {
    // Less than a thousandth of a latency is none.
    let samples = Some(account.latency.total()).filter(|total| milli(*total) > 0).unwrap_or(0.0);
    let part = |count: &f32| if samples > 0.0 { (count / samples * PARTS).round() as u32 } else { 0 };
    let counts: Vec<u32> = account.latency.counts.iter().map(part).collect();
    // Buckets of hardly anything at the ends say nothing.
    let first = counts.iter().position(|c| *c > 0).unwrap_or(counts.len());
    let last = counts.iter().rposition(|c| *c > 0).map_or(first, |last| last + 1);
    WireLink {
        source,
        destination,
        age_ms: account.age_s.map(|s| (s.clamp(0.0, MAX_AGE_S) * 1e3) as u32),
        mean_us: micros(account.mean_s),
        ewma_us: micros(account.ewma_s),
        baseline_us: micros(account.baseline_s),
        baseline_samples_milli: milli(account.baseline_samples),
        jitter_us: account.jitter_s.map(|s| (s * 1e6).clamp(0.0, MAX_LATENCY_S * 1e6) as u32),
        calls_milli: milli(account.calls_per_second),
        errors_ppm: account.error_rate.map(|e| (e * 1e6) as u32),
        in_flight: account.in_flight as u32,
        samples_milli: milli(samples),
        low: u32::from(account.latency.low) + first as u32,
        counts: counts.get(first..last).unwrap_or_default().to_vec(),
    }
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// When it is too large, not of this version, not protobuf, or says what cannot be.
    pub fn read(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MAX_BYTES {
            return Err(Refused::TooLarge);
        }
        let wire = WireReport::decode(bytes).map_err(|_| Refused::Malformed)?;
        if wire.version != VERSION {
            return Err(Refused::Version);
        }
        let bounded = wire.names.len() <= MAX_NAMES && wire.links.len() <= MAX_LINKS && wire.nodes.len() <= MAX_NAMES;
        if !bounded
            || !wire.names.iter().all(|name| named(name))
            || !named(&wire.node)
            || wire.zone.len() > MAX_NAME_BYTES
        {
            return Err(Refused::Absurd);
        }
        let names: Vec<Arc<str>> = wire.names.into_iter().map(Into::into).collect();
        let links = wire.links.iter().map(|link| read_link(link, &names)).collect::<Option<_>>();
        let nodes = wire.nodes.iter().map(|node| read_node(node, &names)).collect::<Option<_>>();
        Ok(Self {
            head: Head {
                node: wire.node.into(),
                zone: wire.zone.into(),
                incarnation: wire.incarnation,
                sequence: wire.sequence,
                made_ms: wire.made_ms,
            },
            links: links.ok_or(Refused::Absurd)?,
            nodes: nodes.ok_or(Refused::Absurd)?,
        })
    }
}

/// Whose report it is, whatever else is wrong with it; none where that cannot be read, or would do harm in a log.
#[must_use]
pub fn node_of(report: &[u8]) -> Option<String> {
    WireReport::decode(report.get(..MAX_BYTES).unwrap_or(report)).ok().map(|wire| wire.node).filter(|node| named(node))
}

/// Whether it can be a name.
pub fn named(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control)
}

fn within(value: f32, most: f32) -> Option<f32> {
    (0.0..=most).contains(&value).then_some(value)
}

/// Microseconds as seconds; the outer none is a value that cannot be.
fn latency(micros: Option<u32>) -> Option<Option<f32>> {
    match micros {
        None => Some(None),
        Some(0) => None,
        Some(micros) => within(micros as f32 * 1e-6, MAX_LATENCY_S).map(Some),
    }
}

fn read_link(link: &WireLink, names: &[Arc<str>]) -> Option<(LinkKey, Account)> {
    let name = |place: u32| names.get(place as usize).map(|name| NodeKey(name.clone()));
    let samples = within(link.samples_milli as f32 * 1e-3, MAX_SAMPLES)?;
    let (low, parts) = (link.low as usize, link.counts.iter().map(|c| f64::from(*c)).sum::<f64>() as f32);
    if low + link.counts.len() > MOST_COUNTS || (parts > 0.0) != (samples > 0.0) {
        return None;
    }
    let counts = link.counts.iter().map(|count| *count as f32 / parts * samples).collect();
    let jitter_s = link.jitter_us.map(|us| us as f32 * 1e-6);
    let age_s = link.age_ms.map(|ms| ms as f32 / 1e3);
    let error_rate = link.errors_ppm.map(|ppm| ppm as f32 * 1e-6);
    let bounded = |value: Option<f32>, most| value.is_none_or(|v| within(v, most).is_some());
    if !(bounded(jitter_s, MAX_LATENCY_S) && bounded(age_s, MAX_AGE_S) && bounded(error_rate, 1.0)) {
        return None;
    }
    let account = Account {
        latency: Counts { low: low as u16, counts },
        mean_s: latency(link.mean_us)?,
        ewma_s: latency(link.ewma_us)?,
        baseline_s: latency(link.baseline_us)?,
        baseline_samples: within(link.baseline_samples_milli as f32 * 1e-3, MAX_SAMPLES)?,
        jitter_s,
        calls_per_second: within(link.calls_milli as f32 * 1e-3, MAX_COUNT)?,
        error_rate,
        in_flight: within(link.in_flight as f32, MAX_COUNT)?,
        age_s,
    };
    Some((LinkKey { source: name(link.source)?, destination: name(link.destination)? }, account))
}

fn read_node(node: &WireNode, names: &[Arc<str>]) -> Option<(NodeKey, NodeAccount)> {
    let name = |place: u32| match place.checked_sub(1) {
        None => Some(Arc::from("")),
        Some(place) => names.get(place as usize).cloned(),
    };
    let key = NodeKey(name(node.name).filter(|name| !name.is_empty())?);
    let described = Described { service: name(node.service)?, zone: name(node.zone)?, host: name(node.host)? };
    let values = [node.cpu, node.memory, node.application, node.requests_per_second, node.errors_per_second];
    let report = orca::Report::checked(values.map(|v| v.map(f64::from))).ok()?;
    let report = match node.age_ms {
        Some(age_ms) => Some((report, within(age_ms as f32 / 1e3, MAX_AGE_S)?)),
        None => None,
    };
    Some((key, NodeAccount { described, report }))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
