//! What nodes tell each other: how much of it a budget has room for, how far a node hears, and what that is in bytes.
//!
//! The sidecar's own teller, encoder and ledger, without a network: what one writes the other reads.

use super::{Plot, seconds, spread};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::config::Config;
use pathloom::links::{Described, LinkKey, Links, NodeKey, Outcome, Time};
use pathloom::mesh::{
    Audience, DATAGRAM_OVERHEAD, Hearers, Identity, Ledger, MESSAGE_REPORT_BYTES, Meter, Node, Parts, REPORT_BYTES,
    Room, To, message_overhead, wire::Report,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const KIB: f64 = 1_024.0;

/// The room's plots.
pub(super) fn plots() -> Vec<Plot> {
    let [links, bytes] = by_hops();
    let hops = || Axis::linear("mesh.hops");
    vec![
        Plot::lines(
            "mesh-budget",
            "mesh.budget: a node with 54 links in use, and those that want to hear of all of them",
            Axis::logarithmic("mesh.budget, KiB a second"),
            Axis::linear("told within 7 s, %"),
            by_budget(),
        ),
        Plot::lines(
            "mesh-hops",
            "mesh.hops: services of 6 instances that call three of the ten that follow",
            hops(),
            Axis::linear("links that a node knows, % of the mesh"),
            links,
        ),
        Plot::lines(
            "mesh-hear",
            "mesh.nats.hear: what a node hears by NATS in the same meshes",
            hops(),
            Axis::logarithmic("KiB a second"),
            bytes,
        ),
    ]
}

/// A node whose links are in use, under a clock of the plot's.
struct Telling {
    node: Node,
    links: Arc<Links>,
    own: Vec<LinkKey>,
    now: Arc<AtomicU64>,
    draw: Draw,
}

impl Telling {
    fn new(name: &str, own: Vec<LinkKey>, seed: u64) -> Self {
        let (links, now) = (Arc::new(Links::new(1)), Arc::new(AtomicU64::new(1)));
        let clock = now.clone();
        let clock = Arc::new(move || Time(clock.load(SeqCst)));
        let parts = Arc::new(Parts { links: links.clone(), clock, described: Arc::new(described) });
        let identity = Identity { name: name.into(), zone: "eu-1a".into(), incarnation: 1, hops: 0 };
        let node = Node::new(parts, Arc::default(), identity);
        Self { node, links, own, now, draw: Draw::new(seed) }
    }

    /// Half a second of calls, and the reports that there is room for.
    fn half(&mut self, half: u32, room: &Room) -> Vec<(To, Vec<u8>)> {
        let time = Time(seconds(f64::from(half) * 0.5).0 + 1);
        self.now.store(time.0, SeqCst);
        for key in &self.own {
            let (link, latency_s) = (self.links.link(key, time), 0.01 * self.draw.uniform(0.5, 2.0));
            for _ in 0..self.draw.whole(0, 4) {
                link.begin(0, time);
                let took_s = (latency_s * self.draw.uniform(0.7, 1.5)) as f32;
                link.record(0, time, took_s, Outcome::Success, 0.01, 3.0);
                link.end(0, time);
            }
        }
        // What a tick does, once a second.
        if half.is_multiple_of(2) {
            _ = self.links.observe(time);
        }
        self.node.reports(room)
    }
}

/// The share of all links and hearers that were told in the last 7 s.
fn by_budget() -> Vec<Series> {
    const LINKS: usize = 54;
    const HALVES: u32 = 24;
    const TOLD: u32 = 14;
    let of = |hearers: usize| {
        let told = |kib: f64| {
            let own = (0..LINKS).map(|i| LinkKey::new(&instance(0, 0), &instance(1 + i / 6, i % 6))).collect();
            let mut telling = Telling::new("node", own, 91);
            let (mut meter, begun) = (Meter::new((kib * KIB) as u64), Instant::now());
            let hearers = Hearers::Members(vec![Audience::default(); hearers]);
            let mut room = Room { budget: 0, limit: REPORT_BYTES, overhead: DATAGRAM_OVERHEAD, hearers };
            let mut told = BTreeSet::new();
            for half in 0..HALVES {
                let at = begun + Duration::from_millis(500) * half;
                room.budget = meter.left(at);
                for (to, report) in telling.half(half, &room) {
                    meter.take(report.len() + DATAGRAM_OVERHEAD, at);
                    let (true, To::Member(place)) = (half >= HALVES - TOLD, to) else { continue };
                    let links = Report::read(&report).map(|report| report.links).unwrap_or_default();
                    told.extend(links.into_iter().map(|(key, _)| (place, key)));
                }
            }
            let all = match &room.hearers {
                Hearers::Members(members) => members.len() * LINKS,
                Hearers::Services => LINKS,
            };
            (kib, told.len() as f64 / all as f64 * 100.0)
        };
        Series::new(format!("{hearers} other nodes"), spread(4.0, 512.0, 14).map(told).collect())
    };
    [9, 29, 99].map(of).into()
}

/// Replicas of a service, and how many services it calls of how many that follow.
const REPLICAS: usize = 6;
const CALLS: usize = 3;
const REACH: usize = 10;

/// A node an instance, and its links.
fn fleet(services: usize) -> Vec<Vec<LinkKey>> {
    let mut draw = Draw::new(92);
    let calls: Vec<BTreeSet<usize>> = (0..services)
        .map(|s| {
            let last = (s + REACH).min(services - 1);
            if s == last { BTreeSet::new() } else { (0..CALLS).map(|_| draw.whole(s + 1, last)).collect() }
        })
        .collect();
    let links = |s: usize, replica: usize| {
        let to = calls[s].iter().flat_map(|called| (0..REPLICAS).map(|place| instance(*called, place)));
        to.map(|to| LinkKey::new(&instance(s, replica), &to)).collect()
    };
    (0..services).flat_map(|s| (0..REPLICAS).map(move |replica| (s, replica))).map(|(s, r)| links(s, r)).collect()
}

fn instance(service: usize, replica: usize) -> NodeKey {
    NodeKey::new(&format!("10.{}.{}.{replica}:80", service / 256, service % 256))
}

/// What an address is an instance of.
fn described(key: &NodeKey) -> Option<Described> {
    let (service, _) = key.0.rsplit_once('.')?;
    Some(Described { service: service.into(), zone: "eu-1a".into(), host: "".into() })
}

/// What an instance of the first service knows and hears, by how far it wants to hear.
fn by_hops() -> [Vec<Series>; 2] {
    const HALVES: u32 = 12;
    const COUNTED: u32 = 8;
    let [mut known, mut heard] = [Vec::new(), Vec::new()];
    for services in [10, 30, 60] {
        let fleet = fleet(services);
        let room = Room {
            budget: 1 << 20,
            limit: MESSAGE_REPORT_BYTES,
            overhead: message_overhead("pathloom", "eu-1a"),
            hearers: Hearers::Services,
        };
        let mut reports = Vec::new();
        for (node, own) in fleet.iter().enumerate().skip(1) {
            // Of a service's instances one is played, the others tell as much; their own links are their own.
            let mut telling = Telling::new(&format!("node-{node}"), own.clone(), node as u64);
            for half in 0..HALVES {
                let told = telling.half(half, &room);
                if half >= HALVES - COUNTED {
                    reports.extend(told);
                }
            }
        }
        let all: BTreeSet<&LinkKey> = fleet.iter().flatten().collect();
        let mut ledger = Ledger::new("hearer".into());
        for (_, report) in &reports {
            let Ok(report) = Report::read(report) else { continue };
            let now_ms = report.head.made_ms;
            _ = ledger.take(report, seconds(10.0), now_ms, |_| false);
        }
        let own = &fleet[0];
        let service = |key: &NodeKey| described(key).map(|d| d.service);
        let [mut knows, mut hears] = [Vec::new(), Vec::new()];
        for hops in 1..=8usize {
            let told = ledger.interest(own, hops, &service);
            let bytes: usize = reports
                .iter()
                .map(|(to, report)| {
                    let To::Services { caller, called } = to else { return 0 };
                    // What is wanted for both of its ends comes twice.
                    let times = [caller, called].into_iter().filter(|end| told.holds(**end)).count();
                    times * (report.len() + room.overhead)
                })
                .sum();
            hears.push((hops as f64, bytes as f64 / (f64::from(COUNTED) * 0.5) / KIB));
            // What has no news is not looked at again.
            if let Some(Ok(last)) = reports.last().map(|(_, report)| Report::read(report)) {
                let now_ms = last.head.made_ms;
                _ = ledger.take(last, seconds(10.0), now_ms, |_| false);
            }
            let links = ledger.told(own, hops).map_or(0, |told| told.links.len());
            knows.push((hops as f64, (links + own.len()) as f64 / all.len() as f64 * 100.0));
        }
        let name = format!("{} nodes", services * REPLICAS);
        known.push(Series::new(name.as_str(), knows));
        heard.push(Series::new(name, hears));
    }
    let bound = Config::default().mesh.nats.hear.0 as f64 / KIB;
    heard.push(Series::new("the default bound", vec![(1.0, bound), (8.0, bound)]));
    [known, heard]
}
