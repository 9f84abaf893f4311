//! The engine against queueing theory, and against what it promises.

use super::balancer::Balancer;
use super::engine::{Engine, Observer, SECOND};
use super::faults::{Extra, Fault, Kind, Pause, Span};
use super::load::Load;
use super::mesh::{Call, Entry, Handler, Host, Instance, Mesh, Network, Pair, Route, Service, Shape, Work};
use super::simple::{Policy, everywhere};
use super::truth;
use crate::simulator::draw::Draw;
use pathloom::links::{NodeKey, Outcome, Time};

/// A network that takes no time.
fn no_network() -> Network {
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

fn service(name: &str, work: Work, workers: usize) -> Service {
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
fn replica(mesh: &mut Mesh, service: usize, cores: f64) -> usize {
    let index = mesh.instances.len();
    mesh.services[service].replicas.push(index);
    let key = NodeKey::new(&format!("{}-{index}", mesh.services[service].name));
    mesh.instances.push(Instance { key, service, host: mesh.hosts.len(), slowness: 1.0, alive_s: None });
    mesh.hosts.push(Host { name: format!("host-{index}").into(), zone: 0, cores });
    index
}

/// Pairs and routes of all that call each other.
fn connect(mesh: &mut Mesh) {
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
fn servers(work: Work, workers: usize, cores: f64, count: usize, rate: f64) -> Mesh {
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
    (0..count).for_each(|_| drop(replica(&mut mesh, 1, cores)));
    connect(&mut mesh);
    mesh
}

/// All that was seen, in order.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    ended: Vec<(usize, u64, f32, bool)>,
    entered: usize,
    finished: Vec<(u64, u64, bool)>,
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

fn random_engine<'m>(mesh: &'m Mesh, faults: &[Fault], load: f64, seed: u64) -> Engine<'m> {
    Engine::new(mesh, faults, &Load::Constant(load), everywhere(mesh, &Policy::Random), Draw::new(seed))
}

fn play(mesh: &Mesh, faults: &[Fault], seconds: u64, seed: u64) -> Seen {
    let mut seen = Seen::default();
    random_engine(mesh, faults, 1.0, seed).run(Time(seconds * SECOND), &mut seen);
    seen
}

/// The mean of the good answers after a tenth of the time, and the half width of its 99% interval by 20 batch means.
fn mean(seen: &Seen) -> (f64, f64) {
    let good: Vec<f64> = seen.ended.iter().filter(|e| e.3).map(|e| f64::from(e.2)).collect();
    let good = &good[good.len() / 10..];
    let batches: Vec<f64> =
        good.chunks_exact(good.len() / 20).map(|b| b.iter().sum::<f64>() / b.len() as f64).collect();
    let mean = batches.iter().sum::<f64>() / 20.0;
    let variance = batches.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / 19.0;
    // Student's t with 19 degrees of freedom, 99%.
    (mean, 2.861 * (variance / 20.0).sqrt())
}

fn agrees(name: &str, seen: &Seen, expected: f64) {
    let (mean, width) = mean(seen);
    assert!(width < 0.1 * expected, "{name}: the interval {mean} +- {width} says little");
    assert!((mean - expected).abs() < width, "{name}: {mean} +- {width}, theory says {expected}");
}

#[test]
fn one_exponential_worker_responds_as_m_m_1_says() {
    // 1 / (mu - lambda).
    let mesh = servers(Work::one(0.010, Shape::Exponential), 1, 1.0, 1, 70.0);
    agrees("M/M/1", &play(&mesh, &[], 1_500, 1), 1.0 / 30.0);
}
