//! What sharing links costs a node, in bytes and in processor time, by how many nodes there are (`make bench-sharing`).
//!
//! All nodes of a fleet exist as far as they matter: what each wants to hear of, and what a few of them have to tell, with the
//! sidecar's own encoder under its own budget. Each node runs three instances; each service has six and calls three others
//! that come soon after it, so what is near to a node grows no longer once the fleet is larger than that. What gossip
//! itself costs (who is there) is not in it.

#![allow(clippy::print_stdout, reason = "its results")]

use pathloom::links::{Described, LinkKey, Links, NodeKey, Outcome, Time};
use pathloom::mesh::wire::Report;
use pathloom::mesh::{Audience, Identity, Interest, Node, Parts, Room};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const REPLICAS: usize = 6;
const INSTANCES_A_NODE: usize = 3;
const CALLS: usize = 3;
/// A service calls some of so many that follow it.
const REACH: usize = 30;
/// So many nodes of each fleet are measured.
const MEASURED: usize = 20;
const SECONDS: u64 = 30;
/// The first seconds, in which everything is new, are not counted.
const WARM_UP: u64 = 10;
const BUDGET: usize = 64 << 10;
const OVERHEAD: usize = 100;

/// Which service calls which.
struct Fleet {
    nodes: usize,
    calls: Vec<Vec<usize>>,
}

impl Fleet {
    fn new(nodes: usize) -> Self {
        let services = (nodes * INSTANCES_A_NODE / REPLICAS).max(2);
        let mut rng = SmallRng::seed_from_u64(7);
        let calls = |s: usize| {
            let last = (s + REACH).min(services - 1);
            if s == last { BTreeSet::new() } else { (0..CALLS).map(|_| rng.random_range(s + 1..=last)).collect() }
        };
        let calls = (0..services).map(calls).map(|called| called.into_iter().collect()).collect();
        Self { nodes, calls }
    }

    /// The services of a node's instances.
    fn services(&self, node: usize) -> impl Iterator<Item = usize> {
        let places = (0..INSTANCES_A_NODE).map(move |i| node + i * self.nodes);
        places.map(|place| (place / REPLICAS) % self.calls.len())
    }

    /// What a node wants to hear of: services less than so many calls away; 0 is everything.
    fn interest(&self, node: usize, hops: usize) -> Interest {
        if hops == 0 {
            return Interest::default();
        }
        let mut found: HashSet<usize> = self.services(node).collect();
        let mut edge: Vec<usize> = found.iter().copied().collect();
        for _ in 1..hops {
            let called = edge.iter().filter_map(|s| self.calls.get(*s)).flatten().copied();
            edge = called.filter(|s| found.insert(*s)).collect();
        }
        let names: Vec<String> = found.into_iter().map(|s| format!("service-{s}")).collect();
        Interest::in_services(names.iter().map(String::as_str))
    }

    fn key(service: usize, replica: usize) -> NodeKey {
        let [_, b, c, d] = ((service * REPLICAS + replica) as u32).to_be_bytes();
        NodeKey::new(&format!("10.{b}.{c}.{d}:8080"))
    }

    /// The links that start at a node.
    fn links(&self, node: usize) -> Vec<LinkKey> {
        let from = |s: usize| {
            let to = self.calls.get(s).into_iter().flatten();
            let to = to.flat_map(|called| (0..REPLICAS).map(|replica| Self::key(*called, replica)));
            to.map(move |destination| LinkKey::new(&Self::key(s, node % REPLICAS), &destination))
        };
        self.services(node).flat_map(from).collect()
    }
}

/// What an address is an instance of.
fn described(key: &NodeKey) -> Option<Described> {
    let mut parts = key.0.split(['.', ':']).skip(1).map_while(|part| part.parse::<usize>().ok());
    let number = parts.next()? << 16 | parts.next()? << 8 | parts.next()?;
    let service = format!("service-{}", number / REPLICAS).into();
    Some(Described { service, zone: "eu-1a".into(), host: "".into() })
}

#[derive(Default)]
struct Measured {
    links: usize,
    audiences: usize,
    bytes: usize,
    sending: Duration,
    hearing: Duration,
    wanted: usize,
    told: usize,
    largest_second: usize,
}

fn measure(fleet: &Fleet, node: usize, audiences: &[Audience], sum: &mut Measured) {
    let (links, now) = (Arc::new(Links::new(1)), Arc::new(AtomicU64::new(0)));
    let clock = now.clone();
    let parts = |links: &Arc<Links>| {
        let clock = clock.clone();
        let clock = Arc::new(move || Time(clock.load(SeqCst)));
        Arc::new(Parts { links: links.clone(), clock, described: Arc::new(described) })
    };
    let identity = |name: String, incarnation| Identity { name: name.into(), zone: "".into(), incarnation, hops: 0 };
    let mut sender = Node::new(parts(&links), Arc::default(), identity(format!("node-{node}"), 1));
    let mut hearer = Node::new(parts(&Arc::new(Links::new(1))), Arc::default(), identity("hearer".into(), 1));
    let keys = fleet.links(node);
    let mine: Vec<Interest> = keys
        .iter()
        .flat_map(|key| [described(&key.source), described(&key.destination)])
        .flatten()
        .map(|d| Interest::in_services([&*d.service]))
        .collect();
    // An interest that meets one of mine wants something of me.
    let others: Vec<Audience> =
        audiences.iter().enumerate().filter(|(n, _)| *n != node).map(|(_, a)| a.clone()).collect();
    let wants = |audience: &Audience| mine.iter().any(|service| service.meets(&audience.interest));
    sum.audiences += others.iter().filter(|audience| wants(audience)).count();
    sum.links += keys.len();
    let mut rng = SmallRng::seed_from_u64(node as u64);
    let mut left = BUDGET;
    let mut told: HashSet<(usize, LinkKey)> = HashSet::new();
    for second in 0..SECONDS {
        let mut in_second = 0;
        for half in 0..2 {
            now.store((second * 2 + half) * 500_000_000 + 1, SeqCst);
            let time = Time(now.load(SeqCst));
            for key in &keys {
                let (link, latency_s) = (links.link(key, time), 0.010 * rng.random_range(0.5..2.0f32));
                for _ in 0..rng.random_range(0..5) {
                    link.begin(0, time);
                    link.record(0, time, latency_s * rng.random_range(0.7..1.5f32), Outcome::Success, latency_s, 3.0);
                    link.end(0, time);
                }
            }
            if half == 0 {
                let _ = links.observe(time);
            }
            left = (left + BUDGET / 2).min(BUDGET);
            let room = Room { budget: left, limit: 1_200, overhead: OVERHEAD, audiences: others.clone() };
            let began = Instant::now();
            let reports = sender.reports(&room);
            let took = began.elapsed();
            let bytes: usize = reports.iter().map(|(_, report)| report.len() + OVERHEAD).sum();
            left -= bytes.min(left);
            in_second += bytes;
            let began = Instant::now();
            reports.iter().for_each(|(_, report)| hearer.hear(report));
            let heard = began.elapsed();
            if second >= WARM_UP {
                sum.bytes += bytes;
                sum.sending += took;
                sum.hearing += heard;
            }
            if second >= SECONDS - 10 {
                for (to, report) in reports {
                    let links = Report::read(&report).map(|report| report.links).unwrap_or_default();
                    told.extend(links.into_iter().map(|(key, _)| (to, key)));
                }
            }
        }
        sum.largest_second = sum.largest_second.max(in_second);
    }
    let pairs = keys.iter().map(|key| {
        let ends = [&key.source, &key.destination].into_iter().filter_map(described);
        let ends: Vec<Interest> = ends.map(|d| Interest::in_services([&*d.service])).collect();
        others.iter().filter(|a| ends.iter().any(|end| end.meets(&a.interest))).count()
    });
    sum.wanted += pairs.sum::<usize>();
    sum.told += told.len();
}

fn main() {
    println!(
        "| nodes | hops | links a node | others that want them | KiB/s sent | most in a second | CPU ms/s, sending + hearing | told within 10 s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (nodes, hops) in [(10, 0), (100, 0), (10, 5), (100, 5), (1_000, 5), (10_000, 5), (1_000, 3), (10_000, 3)] {
        let fleet = Fleet::new(nodes);
        let audiences: Vec<Audience> =
            (0..nodes).map(|node| Audience { interest: fleet.interest(node, hops) }).collect();
        let mut sum = Measured::default();
        let count = MEASURED.min(nodes);
        for i in 0..count {
            measure(&fleet, i * nodes / count, &audiences, &mut sum);
        }
        let seconds = (SECONDS - WARM_UP) as f64 * count as f64;
        println!(
            "| {nodes} | {hops} | {} | {} | {:.1} | {:.1} KiB | {:.2} + {:.2} | {:.0}% |",
            sum.links / count,
            sum.audiences / count,
            sum.bytes as f64 / seconds / 1024.0,
            sum.largest_second as f64 / 1024.0,
            sum.sending.as_secs_f64() * 1e3 / seconds,
            sum.hearing.as_secs_f64() * 1e3 / seconds,
            sum.told as f64 / sum.wanted.max(1) as f64 * 100.0,
        );
    }
}
