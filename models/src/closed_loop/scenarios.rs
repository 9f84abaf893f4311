//! The scenarios: small meshes with one clear trouble each, and two whole ones.
//!
//! The small ones are `proxies x replicas`: instances of `gateway`, which do nothing but call, and replicas of the
//! services behind them, with log-normal work and 4 workers each. `load` is a share of what the replicas can do when
//! nothing is wrong. Trouble begins at `TROUBLE.0` and ends at `TROUBLE.1`, figures count from `WARM_UP_S`: peak EWMA has
//! its estimates then, gRPC's weights are past their blackout, and weights that started equal have arrived.
//!
//! Which instance is hit depends on the seed; nothing else of a mesh does.

use super::blueprint::Blueprint;
use crate::simulator::draw::Draw;
use crate::simulator::faults::{Extra, Fault, Kind, Pause, Span};
use crate::simulator::load::Load;
use crate::simulator::mesh::Mesh;
use crate::simulator::topology::Topology;
use crate::simulator::topology::deploy::{Plan, deploy};
use crate::{Error, Result};

/// Requests that enter before this second are not counted.
pub const WARM_UP_S: f64 = 15.0;
/// When a run ends.
pub const DURATION_S: f64 = 60.0;
/// When trouble begins and ends.
pub const TROUBLE: (f64, f64) = (20.0, 50.0);

/// What a scenario asks of the pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// Nothing can be won: no worse than least request.
    Null,
    /// The trouble is out of a single proxy's sight: much better than the best classical rival.
    OutOfSight,
    /// Every proxy sees it: no worse than the best classical rival.
    InSight,
}

/// What happens to what the proxies share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shared {
    /// Nothing.
    Sound,
    /// From this second on a quarter of the callers share absurd statistics.
    Poisoned(f64),
    /// From this second on a quarter of the callers share what could be true and is not: latencies ten times too high
    /// for every other replica, ten times too low for the rest.
    Misled(f64),
    /// From this second on no scores come.
    ModelGone(f64),
}

/// A scenario, for one seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What it asks.
    pub asks: Asks,
    /// The mesh.
    pub mesh: Mesh,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How much enters.
    pub load: Load,
    /// An answer later than this, in seconds, is no good.
    pub deadline_s: f64,
    /// How old shared statistics are, in whole seconds.
    pub stale_s: usize,
    /// What happens to them.
    pub shared: Shared,
    /// The instances in trouble, whose share of their service's calls is watched.
    pub watched: Vec<usize>,
}

/// How a scenario is made.
#[derive(Clone, Copy)]
enum Make {
    /// By hand.
    Small(fn(&mut Draw) -> Parts),
    /// Of a topology.
    Whole(fn() -> Result<Topology>, f64),
}

use Make::{Small, Whole};

struct Parts {
    mesh: Mesh,
    faults: Vec<Fault>,
    load: Load,
    watched: Vec<usize>,
    deadline_s: f64,
    stale_s: usize,
    shared: Shared,
}

impl Parts {
    fn new(mesh: Mesh, load: f64) -> Self {
        Self {
            mesh,
            faults: Vec::new(),
            load: Load::Constant(load),
            watched: Vec::new(),
            deadline_s: 0.25,
            stale_s: 1,
            shared: Shared::Sound,
        }
    }

    fn fault(mut self, kind: Kind) -> Self {
        self.faults.push(Fault { kind, from_s: TROUBLE.0, until_s: TROUBLE.1 });
        self
    }

    fn watch(mut self, instance: usize) -> Self {
        self.watched.push(instance);
        self
    }

    fn gray(self, instance: usize) -> Self {
        self.fault(Kind::Gray { instance, factor: 8.0 }).watch(instance)
    }
}

/// All scenarios: name, what it asks, what it is, and how it is made.
const ALL: &[(&str, Asks, &str, Make)] = &[
    ("healthy", Asks::Null, "16x8, homogeneous, load 0.7", Small(|_| fleet(16, 8, &[1.0], 0.7))),
    ("healthy-1x4", Asks::Null, "1x4, homogeneous, load 0.7", Small(|_| fleet(1, 4, &[1.0], 0.7))),
    ("healthy-64x16", Asks::Null, "64x16, homogeneous, load 0.7: herding", Small(|_| fleet(64, 16, &[1.0], 0.7))),
    ("gray", Asks::InSight, "16x8, one replica 8 times slower, load 0.7", Small(|d| hit(fleet(16, 8, &[1.0], 0.7), d))),
    (
        "gray-1x4",
        Asks::InSight,
        "1x4, one replica 8 times slower, load 0.6",
        Small(|d| hit(fleet(1, 4, &[1.0], 0.6), d)),
    ),
    (
        "gray-64x16",
        Asks::InSight,
        "64x16, one replica 8 times slower, load 0.7: herding",
        Small(|d| hit(fleet(64, 16, &[1.0], 0.7), d)),
    ),
    ("mixed", Asks::InSight, "16x8, speeds of 1 to 1/4, load 0.7", Small(|_| fleet(16, 8, MIXED, 0.7))),
    (
        "mixed-64x50",
        Asks::InSight,
        "64x50, speeds of 1 to 1/4, load 0.7: herding",
        Small(|_| fleet(64, 50, MIXED, 0.7)),
    ),
    (
        "rare-gray",
        Asks::OutOfSight,
        "64x16, load 0.05, one replica 8 times slower: each link is used once in 13 s",
        Small(|d| hit(fleet(64, 16, &[1.0], 0.05), d)),
    ),
    ("rare-mixed", Asks::OutOfSight, "64x16, load 0.05, speeds of 1 to 1/4", Small(|_| fleet(64, 16, MIXED, 0.05))),
    (
        "rare-mixed-64x50",
        Asks::OutOfSight,
        "64x50, load 0.05, speeds of 1 to 1/4",
        Small(|_| fleet(64, 50, MIXED, 0.05)),
    ),
    (
        "two-hops",
        Asks::OutOfSight,
        "32x9 replicas whose store in one zone is 8 times slower, called by 1 of 4 requests",
        Small(|d| two_hops(32, 0.12, d)),
    ),
    (
        "two-hops-rare",
        Asks::OutOfSight,
        "64x9 replicas, the same at load 0.02: each link is used once in 8 s",
        Small(|d| two_hops(64, 0.02, d)),
    ),
    (
        "shared-nodes",
        Asks::OutOfSight,
        "32 proxies, 3 services on 6 hosts, one of which loses 95% of its processors",
        Small(shared_nodes),
    ),
    (
        "link-latency",
        Asks::InSight,
        "18x9 in 3 zones, 60 ms more from one zone to another",
        Small(|_| zone_link(Extra { delay_s: 0.06, ..Extra::default() })),
    ),
    (
        "link-jitter",
        Asks::InSight,
        "18x9 in 3 zones, 40 ms of jitter from one zone to another",
        Small(|_| zone_link(Extra { jitter_s: 0.04, ..Extra::default() })),
    ),
    (
        "link-loss",
        Asks::InSight,
        "18x9 in 3 zones, 5% loss from one zone to another",
        Small(|_| zone_link(Extra { loss: 0.05, ..Extra::default() })),
    ),
    (
        "fast-failure",
        Asks::InSight,
        "16x8, one replica fails half of its requests at once, load 0.7",
        Small(|d| one(fleet(16, 8, &[1.0], 0.7), d, |instance| Kind::FailsFast { instance, share: 0.5 })),
    ),
    (
        "crash",
        Asks::InSight,
        "16x8, one replica is gone for 30 s and returns cold, load 0.7",
        Small(|d| one(fleet(16, 8, &[1.0], 0.7), d, |instance| Kind::Crash { instance })),
    ),
    (
        "pauses",
        Asks::InSight,
        "16x8, one replica stands still for 400 ms every 4 s, load 0.7",
        Small(|d| {
            let pause = Pause { period_s: 4.0, length_s: 0.4 };
            one(fleet(16, 8, &[1.0], 0.7), d, |instance| Kind::Pauses { instance, pause })
        }),
    ),
    (
        "rolling-restart",
        Asks::InSight,
        "16x8, each replica restarts in turn and is cold, load 0.6",
        Small(|_| restart()),
    ),
    ("scale-out", Asks::InSight, "16x8, two cold replicas join, load 0.7", Small(|_| scale_out())),
    (
        "burst",
        Asks::InSight,
        "16x8 of mixed speeds, bursts of 5 times the load, 0.2 to 1.0",
        Small(|_| {
            let load = Load::Bursts { base: 0.2, times: 5.0, every_s: 10.0, length_s: 3.0, first_s: 17.0 };
            Parts { load, ..fleet(16, 8, MIXED, 0.2) }
        }),
    ),
    ("load-0.3", Asks::InSight, "16x8 of mixed speeds, load 0.3", Small(|_| fleet(16, 8, MIXED, 0.3))),
    ("load-0.9", Asks::InSight, "16x8 of mixed speeds, load 0.9", Small(|_| fleet(16, 8, MIXED, 0.9))),
    ("load-1.3", Asks::InSight, "16x8 of mixed speeds, load 1.3 for 30 s, 0.5 else", Small(|_| overload(1.3))),
    ("load-1.9", Asks::InSight, "16x8 of mixed speeds, load 1.9 for 30 s, 0.5 else", Small(|_| overload(1.9))),
    (
        "stale-3s",
        Asks::InSight,
        "as gray, with shared statistics 3 s old",
        Small(|d| Parts { stale_s: 3, ..hit(fleet(16, 8, &[1.0], 0.7), d) }),
    ),
    (
        "partition",
        Asks::InSight,
        "as gray, half of the callers' statistics are not heard",
        Small(|d| {
            let mut parts = hit(fleet(16, 8, &[1.0], 0.7), d);
            for host in 0..8 {
                parts = parts.fault(Kind::Silent { host });
            }
            parts
        }),
    ),
    (
        "poisoned",
        Asks::InSight,
        "as gray, a quarter of the callers share absurd statistics",
        Small(|d| Parts { shared: Shared::Poisoned(TROUBLE.0), ..hit(fleet(16, 8, &[1.0], 0.7), d) }),
    ),
    (
        "misled",
        Asks::InSight,
        "as gray, a quarter of the callers share latencies ten times too high or too low",
        Small(|d| Parts { shared: Shared::Misled(TROUBLE.0), ..hit(fleet(16, 8, &[1.0], 0.7), d) }),
    ),
    (
        "model-gone",
        Asks::InSight,
        "as gray, no scores any more from the same second on",
        Small(|d| Parts { shared: Shared::ModelGone(TROUBLE.0), ..hit(fleet(16, 8, &[1.0], 0.7), d) }),
    ),
    (
        "social-network",
        Asks::InSight,
        "the Social Network in 3 zones, one replica 8 times slower, load 1",
        Whole(Topology::social_network, 400.0),
    ),
    (
        "e-commerce",
        Asks::InSight,
        "the e-commerce application in 3 zones, one replica 8 times slower, load 1",
        Whole(Topology::e_commerce, 400.0),
    ),
];

/// How many times as long the replicas of a mixed fleet take, over and over.
const MIXED: &[f64] = &[1.0, 1.0, 1.5, 2.0, 4.0];

/// All names, in order.
#[must_use]
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, ..)| *name).collect()
}

/// What a scenario is and asks.
#[must_use]
pub fn about(name: &str) -> Option<(&'static str, Asks)> {
    ALL.iter().find(|(of, ..)| *of == name).map(|(_, asks, about, _)| (*about, *asks))
}

/// A scenario for a seed.
///
/// # Errors
/// When there is none of this name.
pub fn scenario(name: &str, seed: u64) -> Result<Scenario> {
    let found = ALL.iter().find(|(of, ..)| *of == name);
    let (name, asks, about, make) = found.ok_or_else(|| Error::Format(format!("there is no scenario {name}")))?;
    let Parts { mesh, faults, load, watched, deadline_s, stale_s, shared } = match make {
        Small(make) => make(&mut Draw::new(seed)),
        Whole(topology, rate) => whole(&topology()?, *rate, &mut Draw::new(seed)),
    };
    Ok(Scenario { name, about, asks: *asks, mesh, faults, load, deadline_s, stale_s, shared, watched })
}

/// Gateways before one service.
fn fleet(proxies: usize, replicas: usize, slowness: &[f64], load: f64) -> Parts {
    // Longer work where there are more replicas, so that a run costs about the same.
    let work_s = if replicas > 16 {
        0.08
    } else if replicas > 8 {
        0.04
    } else {
        0.02
    };
    let mut plan = Blueprint::new();
    let gateway = plan.gateway(proxies);
    let backend = plan.service("backend", work_s);
    for i in 0..replicas {
        let host = plan.host(0, 4.0);
        plan.replica(backend, host, slowness[i % slowness.len()]);
    }
    plan.calls(gateway, backend, 1.0);
    let capacity = plan.capacity(backend);
    Parts { deadline_s: 12.0 * work_s, ..Parts::new(plan.mesh(capacity), load) }
}

/// The instances of the service that gateways call.
fn backends(mesh: &Mesh) -> Vec<usize> {
    mesh.services[1].replicas.clone()
}

fn one(parts: Parts, draw: &mut Draw, kind: impl Fn(usize) -> Kind) -> Parts {
    let instance = draw.one(&backends(&parts.mesh)).unwrap_or_default();
    parts.fault(kind(instance)).watch(instance)
}

/// One replica becomes gray.
fn hit(parts: Parts, draw: &mut Draw) -> Parts {
    let instance = draw.one(&backends(&parts.mesh)).unwrap_or_default();
    parts.gray(instance)
}

/// Gateways, an api in three zones, and a store in each zone that only the api's replicas there call.
fn two_hops(proxies: usize, load: f64, draw: &mut Draw) -> Parts {
    let mut plan = Blueprint::new();
    let gateway = plan.gateway(proxies);
    plan.spread_over_zones(gateway, 3);
    let (api, store) = (plan.service("api", 0.010), plan.service("store", 0.020));
    for zone in 0..3 {
        for _ in 0..3 {
            let host = plan.host(zone, 4.0);
            plan.replica(api, host, 1.0);
        }
        let host = plan.host(zone, 8.0);
        plan.replica(store, host, 1.0);
    }
    plan.calls(gateway, api, 1.0);
    plan.calls(api, store, 0.25);
    plan.pin_to_zone(api, store);
    let rate = plan.capacity(api);
    let parts = Parts::new(plan.mesh(rate), load);
    let slow = draw.one(&parts.mesh.services[store].replicas).unwrap_or_default();
    let zone = |i: usize| parts.mesh.hosts[parts.mesh.instances[i].host].zone;
    let behind: Vec<usize> =
        parts.mesh.services[api].replicas.iter().copied().filter(|i| zone(*i) == zone(slow)).collect();
    let mut parts = parts.fault(Kind::Gray { instance: slow, factor: 8.0 });
    parts.watched = behind;
    parts
}

/// Three services on the same six hosts.
fn shared_nodes(draw: &mut Draw) -> Parts {
    let mut plan = Blueprint::new();
    let gateway = plan.gateway(32);
    let services: Vec<usize> = ["search", "cart", "quote"].iter().map(|name| plan.service(name, 0.020)).collect();
    for _ in 0..6 {
        let host = plan.host(0, 4.0);
        services.iter().for_each(|s| plan.replica(*s, host, 1.0));
    }
    for service in &services {
        plan.calls(gateway, *service, 1.0);
    }
    let rate = plan.capacity(services[0]);
    let parts = Parts::new(plan.mesh(rate), 0.06);
    let instance = draw.one(&backends(&parts.mesh)).unwrap_or_default();
    let host = parts.mesh.instances[instance].host;
    let on_it: Vec<usize> = (0..parts.mesh.instances.len()).filter(|i| parts.mesh.instances[*i].host == host).collect();
    let mut parts = parts.fault(Kind::NoisyNeighbour { host, share: 0.95 });
    parts.watched = on_it;
    parts
}

/// Gateways and replicas in three zones; the way from the first to the second is bad.
fn zone_link(extra: Extra) -> Parts {
    let mut plan = Blueprint::new();
    let gateway = plan.gateway(18);
    plan.spread_over_zones(gateway, 3);
    let backend = plan.service("backend", 0.020);
    for i in 0..9 {
        let host = plan.host(i % 3, 4.0);
        plan.replica(backend, host, 1.0);
    }
    plan.calls(gateway, backend, 1.0);
    let rate = plan.capacity(backend);
    Parts::new(plan.mesh(rate), 0.5).fault(Kind::Link { span: Span::Zones { from: 0, to: 1 }, extra })
}

/// Each replica restarts, one every four seconds.
fn restart() -> Parts {
    let mut parts = fleet(16, 8, &[1.0], 0.6);
    for (i, instance) in backends(&parts.mesh).into_iter().enumerate() {
        let from_s = TROUBLE.0 + 4.0 * i as f64;
        let down = Fault { kind: Kind::Crash { instance }, from_s, until_s: from_s + 1.0 };
        parts.faults.push(down);
    }
    parts
}

/// Two of eight join later.
fn scale_out() -> Parts {
    let mut parts = fleet(16, 8, &[1.0], 0.7 * 6.0 / 8.0);
    for instance in backends(&parts.mesh).into_iter().skip(6) {
        parts.mesh.instances[instance].alive_s = Some((TROUBLE.0, 1e9));
        parts.watched.push(instance);
    }
    parts
}

/// A whole application, two to three replicas of everything, of which one becomes gray.
fn whole(topology: &Topology, rate: f64, draw: &mut Draw) -> Parts {
    let plan = Plan { stores: (2, 2), zones: 3, utilisation: (0.25, 0.5), ..Plan::plain(rate) };
    let mesh = deploy(topology, &plan, draw);
    let mut callers = vec![0usize; mesh.instances.len()];
    mesh.pairs.iter().for_each(|p| callers[p.destination] += 1);
    let choice = |i: &usize| callers[*i] > 0 && mesh.services[mesh.instances[*i].service].replicas.len() > 2;
    let candidates: Vec<usize> = (0..mesh.instances.len()).filter(choice).collect();
    let instance = draw.one(&candidates).unwrap_or_default();
    Parts { deadline_s: 0.5, ..Parts::new(mesh, 1.0).gray(instance) }
}

/// More than can be done, for a while.
fn overload(load: f64) -> Parts {
    Parts { load: Load::Steps(vec![(0.0, 0.5), (TROUBLE.0, load), (TROUBLE.1, 0.5)]), ..fleet(16, 8, MIXED, 0.5) }
}
