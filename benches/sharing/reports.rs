//! What it costs a node to tell what it saw, and to hear as much from others.
//!
//! The sidecar's own code makes, seals, opens and reads each report, under its own meter; time is made up, and what is sent
//! goes nowhere but to one hearer. By gossip a fleet hears as much as it sends, so what a node takes to hear is what it takes
//! to hear all that one node sends. By NATS a report is sent once and heard by all who want to hear of its services: what a node
//! hears is that of all pairs of services near to it, each as large and as costly as those that were made and read
//! here. (What it was told is then put together for the ticks, at most a twentieth of the time whatever its size:
//! `mesh::node` sees to that.)

use crate::fleet::{Fleet, described};
use pathloom::links::{LinkKey, Links, Outcome, Time};
use pathloom::mesh::wire::Report;
use pathloom::mesh::{
    Audience, DATAGRAM_OVERHEAD, Hearers, Identity, Interest, Keys, Kind, MESSAGE_REPORT_BYTES, Meter, Node, Opener,
    Parts, REPORT_BYTES, Room, Sealer, To, message_overhead,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long each node is looked at, in seconds.
pub const SECONDS: u64 = 30;
/// The first seconds, in which everything is new, are not counted.
pub const WARM_UP: u64 = 10;
/// How soon all that somebody wants should have been told, in seconds: then it is forgotten.
const TOLD_WITHIN: u64 = 7;

/// By what nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Each report to each who wants it.
    Gossip,
    /// Each report once, to a server; a node hears so many bytes a second at most, and of what is nearer where there is more.
    Nats {
        /// `mesh.nats.hear`.
        hear: u64,
    },
}

/// What one node was found to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Its own links.
    pub links: usize,
    /// Other nodes that want to hear of some of them.
    pub hearers: usize,
    /// How many calls away it hears; 0 is of everything.
    pub hops: usize,
    /// Bytes a second that it sends, all headers included.
    pub bytes_per_second: f64,
    /// Bytes a second that it hears.
    pub heard_per_second: f64,
    /// The most bytes in any second, the first ones included.
    pub most_bytes: usize,
    /// Processor time to tell, in milliseconds a second.
    pub telling_ms: f64,
    /// Processor time to hear.
    pub hearing_ms: f64,
    /// The share of all that others want which they were told within [`TOLD_WITHIN`].
    pub told: f64,
}

/// The processor time that this thread has taken.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// All that was sent, by moment, and whether any second saw more than it should.
#[derive(Default)]
struct Sent {
    last: VecDeque<(Instant, usize)>,
    in_last: usize,
    most: usize,
}

impl Sent {
    fn note(&mut self, bytes: usize, now: Instant) {
        self.last.push_back((now, bytes));
        self.in_last += bytes;
        while let Some((_, gone)) = self.last.pop_front_if(|(at, _)| now.duration_since(*at) >= Duration::from_secs(1))
        {
            self.in_last -= gone;
        }
        self.most = self.most.max(self.in_last);
    }
}

/// A node at work for half a minute, which hears of what is so many calls away.
pub fn cost(fleet: &Fleet, node: usize, (way, hops): (Way, usize), budget: u64, seed: u64) -> Cost {
    let (links, now) = (Arc::new(Links::new(1)), Arc::new(AtomicU64::new(0)));
    let parts = |links: &Arc<Links>| {
        let clock = now.clone();
        let clock = Arc::new(move || Time(clock.load(SeqCst)));
        Arc::new(Parts { links: links.clone(), clock, described: Arc::new(described) })
    };
    let identity = |name: String| Identity { name: name.into(), zone: "eu-1a".into(), incarnation: 1, hops: 0 };
    let mut teller = Node::new(parts(&links), Arc::default(), identity(format!("node-{node}")));
    let mut hearer = Node::new(parts(&Arc::new(Links::new(1))), Arc::default(), identity("hearer".into()));
    let keys = Keys::read("the key that a benchmark has").unwrap_or_else(|_| unreachable!("it is long enough"));
    let Some(mut sealer) = Sealer::new(&keys) else { unreachable!("the system gives random numbers") };
    let mut opener = Opener::new(keys);

    let own = fleet.links(node);
    let ends = |key: &LinkKey| {
        let names = [&key.source, &key.destination].map(|end| described(end).map(|d| d.service));
        Interest::in_services(names.iter().flatten().map(|name| &**name))
    };
    let ends: Vec<Interest> = own.iter().map(ends).collect();
    let others: Vec<Audience> =
        fleet.audiences.iter().enumerate().filter(|(n, _)| *n != node).map(|(_, a)| a.clone()).collect();
    let wants = |audience: &&Audience| ends.iter().any(|end| end.meets(&audience.interest));
    let wanted: usize = ends.iter().map(|end| others.iter().filter(|a| end.meets(&a.interest)).count()).sum();
    let mut cost = Cost { links: own.len(), hearers: others.iter().filter(wants).count(), hops, ..Cost::default() };

    let mut room = match way {
        Way::Gossip => {
            let hearers = Hearers::Members(others);
            Room { budget: 0, limit: REPORT_BYTES, overhead: DATAGRAM_OVERHEAD, hearers }
        }
        Way::Nats { .. } => {
            let (limit, overhead) = (MESSAGE_REPORT_BYTES, message_overhead("pathloom", "eu-1a"));
            Room { budget: 0, limit, overhead, hearers: Hearers::Services }
        }
    };
    let overhead = room.overhead;
    let (mut meter, begun, mut sent) = (Meter::new(budget), Instant::now(), Sent::default());
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut told: HashSet<(To, LinkKey)> = HashSet::new();
    let (mut bytes, mut telling, mut hearing) = (0, Duration::ZERO, Duration::ZERO);
    for half in 0..2 * SECONDS {
        let (counted, at) = (half >= 2 * WARM_UP, begun + Duration::from_millis(500 * half));
        now.store(half * 500_000_000 + 1, SeqCst);
        let time = Time(now.load(SeqCst));
        for key in &own {
            let (link, latency_s) = (links.link(key, time), 0.010 * rng.random_range(0.5..2.0f32));
            for _ in 0..rng.random_range(0..5) {
                link.begin(0, time);
                link.record(0, time, latency_s * rng.random_range(0.7..1.5f32), Outcome::Success, latency_s, 3.0);
                link.end(0, time);
            }
        }
        // What a tick does, once a second.
        if half % 2 == 0 {
            let _ = links.observe(time);
        }
        room.budget = meter.left(at);
        let before = cpu();
        let reports = teller.reports(&room);
        let mut datagrams: Vec<Vec<u8>> =
            reports.iter().filter_map(|(_, report)| sealer.seal(Kind::Report, report, wall_ms())).collect();
        telling += (cpu() - before) * u32::from(counted);
        for (datagram, (_, report)) in datagrams.iter().zip(&reports) {
            // The sealed part's own overhead and the headers below it.
            let size = report.len() + overhead;
            assert!(datagram.len() < size && meter.take(size, at), "{size} bytes are more than there is room for");
            sent.note(size, at);
            bytes += size * usize::from(counted);
        }
        let before = cpu();
        for datagram in &mut datagrams {
            if let Ok((_, report)) = opener.open(datagram, wall_ms()) {
                hearer.hear(report);
            }
        }
        hearing += (cpu() - before) * u32::from(counted);
        if half >= 2 * (SECONDS - TOLD_WITHIN) {
            for (to, report) in reports {
                let links = Report::read(&report).map(|report| report.links).unwrap_or_default();
                told.extend(links.into_iter().map(|(key, _)| (to, key)));
            }
        }
    }
    let seconds = (SECONDS - WARM_UP) as f64;
    cost.bytes_per_second = bytes as f64 / seconds;
    cost.most_bytes = sent.most;
    cost.telling_ms = telling.as_secs_f64() * 1e3 / seconds;
    cost.hearing_ms = hearing.as_secs_f64() * 1e3 / seconds;
    let all = if way == Way::Gossip { wanted } else { own.len() };
    cost.told = if all == 0 { 1.0 } else { told.len() as f64 / all as f64 };
    cost.heard_per_second = cost.bytes_per_second;
    if let Way::Nats { hear } = way {
        hears(fleet, node, hear, &mut cost);
    }
    assert!(cost.most_bytes as u64 <= budget, "{} bytes in a second of {budget}", cost.most_bytes);
    cost
}

/// What a node hears by NATS, within the bound that it has: of the pairs of services that are near enough, each as large and as
/// costly as its own.
fn hears(fleet: &Fleet, node: usize, hear: u64, cost: &mut Cost) {
    let own = fleet.pairs(node).len().max(1) as f64;
    let (bytes, ms) = (cost.bytes_per_second / own, cost.hearing_ms / own);
    loop {
        let interest = fleet.interest(node, cost.hops);
        let (mut once, mut all) = (0.0, 0.0);
        for other in (0..fleet.nodes()).filter(|other| *other != node) {
            for (caller, called) in fleet.pairs(other) {
                let ends = [caller, called].map(|end| f64::from(u8::from(interest.holds(end))));
                once += ends[0].max(ends[1]);
                // What is wanted for both of its ends comes twice, and is opened once; where all is wanted, once.
                all += if cost.hops == 0 { 1.0 } else { ends[0] + ends[1] };
            }
        }
        (cost.heard_per_second, cost.hearing_ms) = (bytes * all, ms * once);
        if cost.heard_per_second <= hear as f64 || cost.hops <= 1 {
            return;
        }
        cost.hops -= 1;
    }
}
