//! Small meshes, an observer that keeps all, and statistics: what the simulator's tests share.

use super::engine::{Engine, Observer, SECOND};
use super::faults::{Fault, Kind};
use super::load::Load;
use super::mesh::{Call, Entry, Handler, Host, Instance, Mesh, Network, Pair, Route, Service, Work};
use super::simple::{Policy, everywhere};
use crate::simulator::draw::Draw;
use pathloom::links::{NodeKey, Outcome, Time};

/// A network that takes no time.
pub fn no_network() -> Network {
    Network {
        rtt_s: vec![vec![0.0]],
        local_s: 0.0,
        sigma: 0.0,
        tail: (0.0, 1.0),
        loss: 0.0,
        retransmit_s: 0.2,
        bandwidth: f64::INFINITY,
        overhead_s: 0.0,
    }
}

pub fn service(name: &str, work: Work, workers: usize) -> Service {
    Service {
        name: name.into(),
        replicas: Vec::new(),
        called: Vec::new(),
        handlers: vec![Handler { work, stages: Vec::new(), bytes: 0.0 }],
        workers,
        queue: 1_000_000,
        holds_worker: false,
        reports: true,
    }
}

/// Adds a replica on a host of its own.
pub fn replica(mesh: &mut Mesh, service: usize, cores: f64) -> usize {
    let index = mesh.instances.len();
    mesh.services[service].replicas.push(index);
    let key = NodeKey::new(&format!("{}-{index}", mesh.services[service].name));
    mesh.instances.push(Instance { key, service, host: mesh.hosts.len(), slowness: 1.0, alive_s: None });
    mesh.hosts.push(Host { name: format!("host-{index}").into(), zone: 0, cores });
    index
}

/// Pairs and routes of all that call each other.
pub fn connect(mesh: &mut Mesh) {
    mesh.routes = vec![Vec::new(); mesh.instances.len()];
    for source in 0..mesh.instances.len() {
        for called in mesh.services[mesh.instances[source].service].called.clone() {
            let first = mesh.pairs.len();
            mesh.pairs.extend(mesh.services[called].replicas.iter().map(|d| Pair { source, destination: *d }));
            mesh.routes[source].push(Route { pairs: (first..mesh.pairs.len()).collect() });
        }
    }
}

/// A gateway without work before so many servers.
pub fn servers(work: Work, workers: usize, cores: f64, count: usize, rate: f64) -> Mesh {
    let mut gateway = service("gateway", Work::none(), usize::MAX);
    gateway.called = vec![1];
    gateway.handlers[0].stages = vec![vec![Call { dependency: 0, handler: 0, times: 1.0 }]];
    let mut mesh = Mesh {
        name: "servers".into(),
        services: vec![gateway, service("server", work, workers)],
        instances: Vec::new(),
        hosts: Vec::new(),
        pairs: Vec::new(),
        routes: Vec::new(),
        entries: vec![Entry { name: "in".into(), service: 0, handler: 0, rate }],
        network: no_network(),
    };
    replica(&mut mesh, 0, 1.0);
    for _ in 0..count {
        replica(&mut mesh, 1, cores);
    }
    connect(&mut mesh);
    mesh
}

/// All that was seen, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    pub ended: Vec<(usize, u64, f32, bool)>,
    pub entered: usize,
    pub finished: Vec<(u64, u64, bool)>,
}

impl Observer for Seen {
    fn end(&mut self, pair: usize, now: Time, latency_s: f32, outcome: Outcome) {
        self.ended.push((pair, now.0, latency_s, outcome == Outcome::Success));
    }

    fn entered(&mut self, _entry: usize, _now: Time) {
        self.entered += 1;
    }

    fn finished(&mut self, _entry: usize, began: Time, now: Time, ok: bool) {
        self.finished.push((began.0, now.0, ok));
    }
}

pub fn random_engine<'m>(mesh: &'m Mesh, faults: &[Fault], load: f64, seed: u64) -> Engine<'m> {
    Engine::new(mesh, faults, &Load::Constant(load), everywhere(mesh, &Policy::Random), Draw::new(seed))
}

pub fn play(mesh: &Mesh, faults: &[Fault], seconds: u64, seed: u64) -> Seen {
    let mut seen = Seen::default();
    random_engine(mesh, faults, 1.0, seed).run(Time(seconds * SECOND), &mut seen);
    seen
}

/// The mean of the good answers after a tenth of the time, and the half width of its 99% interval by 20 batch means.
pub fn mean(seen: &Seen) -> (f64, f64) {
    let good: Vec<f64> = seen.ended.iter().filter(|e| e.3).map(|e| f64::from(e.2)).collect();
    let good = &good[good.len() / 10..];
    let batches: Vec<f64> =
        good.chunks_exact(good.len() / 20).map(|b| b.iter().sum::<f64>() / b.len() as f64).collect();
    let mean = batches.iter().sum::<f64>() / 20.0;
    let variance = batches.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / 19.0;
    // Student's t with 19 degrees of freedom, 99%.
    (mean, 2.861 * (variance / 20.0).sqrt())
}

pub fn agrees(name: &str, seen: &Seen, expected: f64) {
    let (mean, width) = mean(seen);
    assert!(width < 0.1 * expected, "{name}: the interval {mean} +- {width} says little");
    assert!((mean - expected).abs() < width, "{name}: {mean} +- {width}, theory says {expected}");
}

/// A front end before a gateway before two tiers: side by side, several times, sometimes, over a real network.
///
/// Instances: the gateway 0, left 1 to 3, right 4 and 5, deep 6 to 8, the front end 9. Pairs: gateway to left 0 to 2, to right
/// 3 and 4; the last is the front end's.
pub fn tiers(rate: f64) -> Mesh {
    let call = |dependency, times| Call { dependency, handler: 0, times };
    let mut gateway = service("gateway", Work::log_normal(0.001, 0.3), 64);
    gateway.called = vec![1, 2];
    gateway.handlers[0].stages = vec![vec![call(0, 1.0), call(1, 1.5)], vec![call(1, 0.3)]];
    let mut left = service("left", Work::log_normal(0.008, 0.5), 64);
    left.called = vec![3];
    left.handlers[0].stages = vec![vec![call(0, 2.0)]];
    let right = service("right", Work::log_normal(0.006, 0.8), 64);
    let deep = service("deep", Work::log_normal(0.003, 0.6), 64);
    let mut mesh = servers(Work::none(), 1, 1.0, 0, rate);
    let mut front = service("front", Work::none(), usize::MAX);
    front.called = vec![0];
    front.handlers[0].stages = vec![vec![call(0, 1.0)]];
    mesh.entries[0].service = 4;
    (mesh.services, mesh.instances, mesh.hosts) = (vec![gateway, left, right, deep, front], Vec::new(), Vec::new());
    for (service, count) in [(0, 1), (1, 3), (2, 2), (3, 3), (4, 1)] {
        for i in 0..count {
            let index = replica(&mut mesh, service, 8.0);
            mesh.hosts[index].zone = i % 2;
            mesh.instances[index].slowness = 1.0 + 0.5 * i as f64;
        }
    }
    for service in &mut mesh.services {
        service.handlers[0].bytes = 20_000.0;
    }
    mesh.pairs.clear();
    connect(&mut mesh);
    mesh.network = Network {
        rtt_s: vec![vec![0.0002, 0.0015], vec![0.0015, 0.0002]],
        sigma: 0.3,
        tail: (0.01, 10.0),
        loss: 0.001,
        retransmit_s: 0.02,
        bandwidth: 1e8,
        overhead_s: 0.0002,
        ..no_network()
    };
    mesh
}

pub fn fault(kind: Kind, from_s: f64, until_s: f64) -> Fault {
    Fault { kind, from_s, until_s }
}
