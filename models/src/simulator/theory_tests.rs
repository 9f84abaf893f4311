//! The engine against queueing theory, and against what it promises.

use super::balancer::{Balancer, Probe};
use super::engine::{Engine, Observer, PICKS_KEEP, SECOND};
use super::faults::{Extra, Fault, Kind, Pause, Span};
use super::load::Load;
use super::mesh::{Call, Entry, Handler, Host, Instance, Mesh, Network, Pair, Route, Service, Shape, Work, WorkPart};
use super::simple::{Policy, everywhere};
use super::truth::{Truth, intrinsic};
use crate::sim::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{NodeKey, Outcome, Time};
use std::cell::RefCell;
use std::rc::Rc;

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
    for _ in 0..count {
        replica(&mut mesh, 1, cores);
    }
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

#[test]
fn four_exponential_workers_respond_as_m_m_c_says() {
    // At 80% load the wait is C(4, 3.2) / (4 mu - lambda) with Erlang's C = 0.5964.
    let mesh = servers(Work::one(0.010, Shape::Exponential), 4, 4.0, 1, 320.0);
    agrees("M/M/4", &play(&mesh, &[], 1_000, 2), 0.010 + 0.5964 / 80.0);
}

#[test]
fn first_in_first_out_waits_as_pollaczek_and_khinchine_say() {
    // The wait is lambda E[S^2] / 2 (1 - rho).
    let mixed = Work {
        parts: vec![
            WorkPart { share: 0.9, mean_s: 0.004, shape: Shape::LogNormal(0.5) },
            WorkPart { share: 0.1, mean_s: 0.030, shape: Shape::LogNormal(0.3) },
        ],
    };
    let works = [
        ("log-normal", Work::log_normal(0.006, 0.8)),
        ("constant", Work::one(0.006, Shape::Constant)),
        ("mixed", mixed),
    ];
    for (name, work) in works {
        let (mean, square) = (work.mean_s(), work.square_s2());
        let mesh = servers(work, 1, 1.0, 1, 100.0);
        agrees(name, &play(&mesh, &[], 1_200, 3), mean + 100.0 * square / (2.0 * (1.0 - 100.0 * mean)));
    }
}

#[test]
fn shared_processors_respond_alike_whatever_the_distribution() {
    // M/G/1 processor sharing: E[S] / (1 - rho), insensitive to the rest.
    for (shape, seed) in [(Shape::Constant, 4), (Shape::Exponential, 5), (Shape::LogNormal(1.3), 6)] {
        let mesh = servers(Work::one(0.010, shape), usize::MAX, 1.0, 1, 60.0);
        agrees("M/G/1-PS", &play(&mesh, &[], 2_000, seed), 0.010 / 0.4);
    }
}

#[test]
fn several_shared_cores_respond_as_m_m_c_says_whatever_the_distribution() {
    // As many in the system as in M/M/3 at 80%: C(3, 2.4) = 0.6472.
    let mesh = servers(Work::log_normal(0.010, 1.0), usize::MAX, 3.0, 1, 240.0);
    agrees("M/G/3-PS", &play(&mesh, &[], 1_500, 7), 0.010 + 0.6472 / 60.0);
}

#[test]
fn as_many_are_inside_as_little_says() {
    let mesh = servers(Work::log_normal(0.010, 0.7), usize::MAX, 2.0, 1, 150.0);
    let mut seen = Seen::default();
    let mut engine = random_engine(&mesh, &[], 1.0, 8);
    engine.run(Time(600 * SECOND), &mut seen);
    let counters = engine.take_counters(1);
    let (inside, rate) = (counters.occupied_s / 600.0, f64::from(counters.arrived) / 600.0);
    let response = seen.ended.iter().map(|e| f64::from(e.2)).sum::<f64>() / seen.ended.len() as f64;
    assert!((inside / (rate * response) - 1.0).abs() < 1e-3, "{inside} inside, {rate}/s x {response} s");
    assert!((counters.busy_s / 600.0 / 1.5 - 1.0).abs() < 0.02, "work done: {}", counters.busy_s / 600.0);
}

/// Two tiers behind a gateway: side by side, several times, sometimes, over a real network.
fn tiers(rate: f64) -> Mesh {
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
    (mesh.services, mesh.instances, mesh.hosts) = (vec![gateway, left, right, deep], Vec::new(), Vec::new());
    for (service, count) in [(0, 1), (1, 3), (2, 2), (3, 3)] {
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
        bandwidth: 1e8,
        overhead_s: 0.0002,
        ..no_network()
    };
    mesh
}

#[test]
fn the_intrinsic_latency_is_what_an_idle_mesh_takes() {
    // A few requests a second: nobody waits, so what is observed is the intrinsic latency, also when links and a replica are in trouble.
    let mesh = tiers(4.0);
    let pause = Pause { period_s: 1.0, length_s: 0.1 };
    let always = |kind| Fault { kind, from_s: 0.0, until_s: f64::INFINITY };
    let troubled = [
        always(Kind::Gray { instance: 6, factor: 6.0 }),
        always(Kind::Link {
            span: Span::Zones { from: 0, to: 1 },
            extra: Extra { delay_s: 0.004, jitter_s: 0.004, loss: 0.01 },
        }),
        always(Kind::Pauses { instance: 4, pause }),
    ];
    for faults in [&troubled[..0], &troubled[..]] {
        let mut seen = Seen::default();
        let mut engine = random_engine(&mesh, faults, 1.0, 9);
        engine.run(Time(6_000 * SECOND), &mut seen);
        let picks = vec![1.0; mesh.pairs.len()];
        let expected = intrinsic(&mesh, engine.active(), &picks);
        for (pair, expected) in expected.iter().enumerate() {
            let of: Vec<f64> = seen.ended.iter().filter(|e| e.0 == pair).map(|e| f64::from(e.2)).collect();
            let ratio = of.iter().sum::<f64>() / of.len() as f64 / expected;
            assert!(of.len() > 2_000 && (0.95..1.05).contains(&ratio), "pair {pair}: {ratio} of {expected}");
        }
        let lengths: f64 = seen.finished.iter().map(|(b, e, _)| (e - b) as f64 * 1e-9).sum();
        let whole = lengths / seen.finished.len() as f64;
        assert!(whole > expected[0], "a request takes longer than its parts: {whole}");
    }
}

#[test]
fn a_seed_gives_the_same_history_to_the_byte() {
    let mesh = tiers(300.0);
    let kinds = super::faults::FaultKind::ALL;
    let history = |seed: u64| {
        let mut draw = Draw::new(seed);
        let faults = super::faults::random(&mesh, 60.0, &kinds, &mut draw);
        let balancers = super::simple::random(&mesh, &mut draw);
        let mut seen = Seen::default();
        let mut engine = Engine::new(&mesh, &faults, &Load::random(&mut draw), balancers, draw);
        engine.run(Time(60 * SECOND), &mut seen);
        (seen, engine.totals())
    };
    assert!(history(1) == history(1), "the same seed, another history");
    assert!(history(1) != history(2), "another seed, the same history");
}

#[test]
fn forks_share_the_past_and_not_the_future() {
    let mesh = tiers(300.0);
    let balancers = super::simple::random(&mesh, &mut Draw::new(3));
    let mut engine = Engine::new(&mesh, &[], &Load::Constant(1.0), balancers, Draw::new(4));
    engine.run(Time(20 * SECOND), &mut ());
    let future = |mut engine: Engine| {
        let mut seen = Seen::default();
        engine.run(Time(40 * SECOND), &mut seen);
        seen
    };
    let (one, other) = (engine.fork(1), engine.fork(2));
    assert_eq!((one.totals(), one.under_way(), one.picks()), (engine.totals(), engine.under_way(), engine.picks()));
    assert!(future(one) == future(engine.fork(1)), "the same seed, another future");
    assert!(future(other) != future(engine.fork(1)), "another seed, the same future");
    let far = |seed| mean(&future(engine.fork(seed))).0;
    assert!((far(1) / far(2) - 1.0).abs() < 0.2, "{} and {}", far(1), far(2));
}

fn fault(kind: Kind, from_s: f64, until_s: f64) -> Fault {
    Fault { kind, from_s, until_s }
}

#[test]
fn retries_never_exceed_their_budget() {
    let mesh = servers(Work::log_normal(0.010, 0.5), 4, 4.0, 2, 100.0);
    let crashes = [1, 2].map(|instance| fault(Kind::Crash { instance }, 0.0, 1e6));
    let mut engine = random_engine(&mesh, &crashes, 1.0, 10);
    engine.run(Time(100 * SECOND), &mut ());
    let totals = engine.totals();
    let first = totals.calls - totals.retries;
    assert!(totals.retries as f64 <= 1.0 + 0.2 * first as f64, "{totals:?}");
    assert!(totals.retries as f64 > 0.19 * first as f64, "all were refused, so the budget is used: {totals:?}");
}

#[test]
fn a_refused_call_goes_to_another_replica() {
    let mesh = servers(Work::log_normal(0.010, 0.5), 4, 4.0, 8, 100.0);
    let seen = play(&mesh, &[fault(Kind::Crash { instance: 1 }, 0.0, 1e6)], 100, 11);
    let failed = seen.finished.iter().filter(|(_, _, ok)| !ok).count();
    let refused = seen.ended.iter().filter(|(_, _, _, ok)| !ok).count();
    assert!(refused > 1_000 && failed == 0, "{refused} refused, {failed} failed");
}

#[test]
fn a_crash_loses_exactly_what_was_in_flight() {
    let mesh = servers(Work::log_normal(0.100, 0.5), 4, 4.0, 1, 50.0);
    let mut engine = random_engine(&mesh, &[fault(Kind::Crash { instance: 1 }, 10.0, 20.0)], 1.0, 12);
    let (mut before, mut after) = (Seen::default(), Seen::default());
    engine.run(Time(10 * SECOND - 1), &mut before);
    let inside = engine.in_flight(1);
    engine.run(Time(10 * SECOND), &mut after);
    let failed = after.ended.iter().filter(|e| !e.3).count() as u64;
    assert!(inside > 3, "{inside}");
    assert_eq!((engine.totals().lost, failed, engine.in_flight(1)), (u64::from(inside), u64::from(inside), 0));
    assert!(before.ended.iter().all(|e| e.3), "nothing failed before");
    let mut later = Seen::default();
    engine.run(Time(40 * SECOND), &mut later);
    let good = |from: u64, until: u64| {
        later.ended.iter().filter(|e| e.3 && (from * SECOND..until * SECOND).contains(&e.1)).count()
    };
    assert!(good(10, 20) == 0 && good(21, 40) > 100, "{} and {}", good(10, 20), good(21, 40));
    assert!(good(20, 25) < good(30, 35), "it returns cold");
}

#[test]
fn pauses_delay_what_they_meet() {
    let mesh = servers(Work::one(0.010, Shape::Constant), 64, 64.0, 1, 20.0);
    let pause = Pause { period_s: 1.0, length_s: 0.2 };
    let seen = play(&mesh, &[fault(Kind::Pauses { instance: 1, pause }, 0.0, 1e9)], 2_000, 13);
    let delayed = seen.ended.iter().filter(|e| e.2 > 0.011).count() as f64 / seen.ended.len() as f64;
    // Who comes in a pause (a fifth of the time), or in the hundredth of a second before one.
    assert!((0.19..0.23).contains(&delayed), "{delayed}");
    let longest = seen.ended.iter().map(|e| e.2).fold(0.0, f32::max);
    assert!((0.3..0.9).contains(&longest), "{longest}");
}

#[test]
fn gray_work_takes_as_many_times_as_long_while_it_lasts() {
    let mesh = servers(Work::log_normal(0.010, 0.5), 64, 64.0, 1, 50.0);
    let seen = play(&mesh, &[fault(Kind::Gray { instance: 1, factor: 5.0 }, 100.0, 200.0)], 300, 14);
    let within = |from: u64, until: u64| {
        let of: Vec<f64> = seen
            .ended
            .iter()
            .filter(|e| (from * SECOND..until * SECOND).contains(&e.1))
            .map(|e| f64::from(e.2))
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    for (from, until, expected) in [(0, 100, 0.010), (101, 200, 0.050), (201, 300, 0.010)] {
        let seen = within(from, until);
        assert!((seen / expected - 1.0).abs() < 0.05, "{from}: {seen}");
    }
}

#[test]
fn a_noisy_neighbour_slows_work_by_the_cores_it_takes() {
    let mesh = servers(Work::log_normal(0.010, 0.5), 64, 2.0, 1, 5.0);
    let noisy = fault(Kind::NoisyNeighbour { host: 1, share: 0.9 }, 0.0, 1e9);
    let mut engine = random_engine(&mesh, &[noisy], 1.0, 15);
    let mut seen = Seen::default();
    engine.run(Time(2_000 * SECOND), &mut seen);
    // A fifth of a core: processor sharing at a quarter of its capacity takes 0.050 / 0.75.
    agrees("noisy", &seen, 0.050 / 0.75);
    // Five calls a second, as they count over ten.
    let picks = [5.0 * PICKS_KEEP / (1.0 - PICKS_KEEP)];
    let expected = intrinsic(&mesh, engine.active(), &picks)[0];
    assert!((expected / (0.050 / 0.75) - 1.0).abs() < 0.01, "the truth: {expected}");
    let sound = intrinsic(&mesh, &super::faults::Active::at(&mesh, &[], 0.0), engine.picks())[0];
    assert!((sound - 0.010).abs() < 1e-9, "{sound}");
}

#[test]
fn what_enters_follows_the_load() {
    let mesh = servers(Work::none(), 1, 1.0, 1, 200.0);
    let load = Load::Bursts { base: 0.2, times: 8.0, every_s: 10.0, length_s: 2.0, first_s: 4.0 };
    let mut engine = Engine::new(&mesh, &[], &load, everywhere(&mesh, &Policy::Random), Draw::new(16));
    let mut seen = Seen::default();
    engine.run(Time(1_000 * SECOND), &mut seen);
    let at = |from: u64, until: u64| {
        let of =
            seen.finished.iter().filter(|(b, _, _)| (from * SECOND..until * SECOND).contains(&(b % (10 * SECOND))));
        of.count() as f64 / (100 * (until - from)) as f64
    };
    assert!((at(0, 4) / 40.0 - 1.0).abs() < 0.03 && (at(4, 6) / 320.0 - 1.0).abs() < 0.03, "{} {}", at(0, 4), at(4, 6));
}

#[test]
fn an_overloaded_replica_refuses_beyond_its_queue_and_drops_what_waits_too_long() {
    let mut mesh = servers(Work::one(0.1, Shape::Constant), 1, 1.0, 1, 30.0);
    mesh.services[1].queue = 10;
    let seen = play(&mesh, &[], 200, 17);
    let slowest = seen.ended.iter().filter(|e| e.3).map(|e| e.2).fold(0.0, f32::max);
    assert!(slowest < 1.11, "ten before it, then itself: {slowest}");
    let good = seen.ended.iter().filter(|e| e.3).count() as f64 / 200.0;
    assert!((9.5..10.1).contains(&good), "it goes on at its capacity: {good}");
    mesh.services[1].queue = 1_000;
    let seen = play(&mesh, &[], 200, 18);
    let slowest = seen.ended.iter().filter(|e| e.3).map(|e| e.2).fold(0.0, f32::max);
    assert!((2.9..3.2).contains(&slowest), "{slowest}");
}

#[test]
fn all_that_enters_is_answered_in_the_end() {
    let mesh = tiers(200.0);
    let crash = fault(Kind::Crash { instance: 2 }, 10.0, 20.0);
    let load = Load::Steps(vec![(0.0, 1.0), (30.0, 0.0)]);
    let mut engine =
        Engine::new(&mesh, &[crash], &load, super::simple::random(&mesh, &mut Draw::new(1)), Draw::new(19));
    let mut seen = Seen::default();
    engine.run(Time(60 * SECOND), &mut seen);
    assert_eq!((seen.entered, engine.under_way()), (seen.finished.len(), 0));
    assert_eq!((seen.ended.len() as u64, (0..9).map(|i| engine.in_flight(i)).sum::<u32>()), (engine.totals().calls, 0));
}

/// What a `Curious` was told.
#[derive(Debug, Default)]
struct Notes {
    probed: Vec<(usize, Probe)>,
    reports: Vec<Report>,
    usable: Vec<usize>,
}

/// Asks two probes a pick, and notes what it is told.
#[derive(Debug, Clone, Default)]
struct Curious(Rc<RefCell<Notes>>);

impl Balancer for Curious {
    fn pick(&mut self, _now: Time, draw: &mut Draw, usable: &[usize], _tried: &[usize]) -> usize {
        self.0.borrow_mut().usable = usable.to_vec();
        usable[draw.whole(0, usable.len() - 1)]
    }

    fn ended(&mut self, _position: usize, _now: Time, _latency_s: f32, _outcome: Outcome, report: Option<&Report>) {
        self.0.borrow_mut().reports.extend(report);
    }

    fn probes(&mut self, _draw: &mut Draw, into: &mut Vec<usize>) {
        into.extend([0, 1]);
    }

    fn probed(&mut self, position: usize, _now: Time, probe: Probe) {
        self.0.borrow_mut().probed.push((position, probe));
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

#[test]
fn probes_and_reports_say_how_replicas_fare() {
    let mut mesh = servers(Work::log_normal(0.010, 0.3), 4, 4.0, 2, 100.0);
    mesh.instances[2].slowness = 5.0;
    let curious = Curious::default();
    let balancers: Vec<Vec<Box<dyn Balancer>>> = vec![vec![curious.fork()], vec![], vec![]];
    let mut engine = Engine::new(&mesh, &[], &Load::Constant(1.0), balancers, Draw::new(20));
    engine.run(Time(60 * SECOND), &mut ());
    engine.set_usable(2, false);
    engine.run(Time(61 * SECOND), &mut ());
    assert_eq!(engine.totals().probes, 2 * engine.totals().calls);
    let notes = curious.0.borrow();
    assert_eq!(notes.usable, [0], "the second is not usable any more");
    let probed = |position: usize| {
        let known = notes.probed.iter().filter(|(p, probe)| *p == position && probe.latency_s > 0.0);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, count), (_, probe)| (sum + probe.latency_s, count + 1.0));
        sum / count
    };
    let (fast, slow) = (probed(0), probed(1));
    assert!((0.008..0.013).contains(&fast) && (0.04..0.08).contains(&slow), "{fast} {slow}");
    let rates: Vec<f64> = notes.reports.iter().filter_map(|r| r.requests_per_second).collect();
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    assert!(rates.len() > 5_000 && (45.0..58.0).contains(&rate), "{} reports of {rate}/s", rates.len());
}

#[test]
fn who_joins_is_not_picked_before_it_is_said_to_be_there_and_starts_cold() {
    let mut mesh = servers(Work::log_normal(0.010, 0.3), 4, 4.0, 2, 100.0);
    mesh.instances[2].alive_s = Some((10.0, 50.0));
    let mut engine = random_engine(&mesh, &[], 1.0, 21);
    let mut seen = Seen::default();
    engine.run(Time(12 * SECOND), &mut seen);
    assert!(seen.ended.iter().all(|e| e.0 == 0), "only the first");
    engine.set_usable(2, true);
    assert!(engine.active().slow[2] > 2.0, "{}", engine.active().slow[2]);
    engine.run(Time(50 * SECOND), &mut seen);
    let later = seen.ended.len();
    assert!(seen.ended.iter().filter(|e| e.0 == 1).all(|e| e.3) && engine.active().slow[2] == 1.0);
    engine.run(Time(60 * SECOND), &mut seen);
    let refused = seen.ended.iter().skip(later).filter(|e| e.0 == 1 && !e.3).count();
    assert!(refused > 300, "it is picked until somebody says that it has left: {refused}");
}

#[test]
fn trouble_is_told_by_where_it_is() {
    use crate::sim::truth::Trouble;
    let mesh = tiers(4.0);
    let picks = vec![1.0; mesh.pairs.len()];
    let truth = Truth::new(&mesh);
    let told = |kind: Kind| {
        let active = super::faults::Active::at(&mesh, &[fault(kind, 0.0, 1.0)], 0.5);
        truth.trouble(&active, &picks)
    };
    // Pairs 0 to 2 go to left (instances 1 to 3), 3 and 4 to right; left calls deep (6 to 8).
    let gray = told(Kind::Gray { instance: 2, factor: 4.0 });
    assert_eq!((gray[0], gray[1], gray[2]), (Trouble::None, Trouble::Gray, Trouble::None));
    let deep = told(Kind::SlowDependency { service: 3, factor: 8.0 });
    assert_eq!((deep[0], deep[1], deep[3]), (Trouble::Downstream, Trouble::Downstream, Trouble::None));
    let link = told(Kind::Link { span: Span::Pair(4), extra: Extra { delay_s: 0.05, ..Extra::default() } });
    assert_eq!((link[3], link[4]), (Trouble::None, Trouble::Link));
    let gone = super::faults::Active::at(&mesh, &[fault(Kind::Crash { instance: 1 }, 0.0, 1.0)], 0.5);
    assert!(truth.intrinsic(&gone, &picks)[0].is_nan());
}
