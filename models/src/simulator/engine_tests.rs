//! What the engine promises besides: one history a seed, futures of one past, faults that do what they say.

use super::balancer::{Balancer, Probe};
use super::bench::{Seen, fault, mean, play, random_engine, servers, tiers};
use super::engine::{Engine, SECOND};
use super::faults::{Fault, FaultKind, Kind, Pause};
use super::load::Load;
use super::mesh::{Shape, Work};
use super::simple::{Policy, everywhere};
use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};
use std::cell::RefCell;
use std::rc::Rc;

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
    assert_eq!(
        (seen.ended.len() as u64, (0..10).map(|i| engine.in_flight(i)).sum::<u32>()),
        (engine.totals().calls, 0)
    );
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
fn contention_looks_as_it_does_in_nezha() {
    // There (see `faults`) the median of an operation of 2.4 ms grows 0.9 to 1.3 times and the mean 9 to 70 times.
    let mesh = servers(Work::log_normal(0.0024, 0.33), 64, 64.0, 1, 50.0);
    let calls = |faults: &[Fault]| {
        let mut latencies: Vec<f64> = play(&mesh, faults, 120, 22).ended.iter().map(|e| f64::from(e.2)).collect();
        latencies.sort_by(f64::total_cmp);
        (latencies[latencies.len() / 2], latencies.iter().sum::<f64>() / latencies.len() as f64)
    };
    let (median, mean) = calls(&[]);
    let mut draw = Draw::new(23);
    let mut grown = Vec::new();
    while grown.len() < 20 {
        for mut contention in super::faults::random(&mesh, 60.0, &[FaultKind::CpuContention], &mut draw) {
            (contention.from_s, contention.until_s) = (0.0, 1e6);
            let (p50, whole) = calls(&[contention]);
            assert!(p50 / median < 1.5, "{contention:?}: the median grew {} times", p50 / median);
            grown.push(whole / mean);
        }
    }
    grown.sort_by(f64::total_cmp);
    assert!((5.0..20.0).contains(&grown[grown.len() / 2]) && grown[0] > 1.5, "means grew {grown:?} times");
}

#[test]
fn entries_go_to_those_replicas_that_are_there() {
    let mut mesh = tiers(50.0);
    let joins = super::bench::replica(&mut mesh, 4, 8.0);
    mesh.instances[joins].alive_s = Some((50.0, f64::INFINITY));
    mesh.pairs.clear();
    super::bench::connect(&mut mesh);
    let mut engine = random_engine(&mesh, &[], 1.0, 24);
    let mut entered = |until: u64| {
        engine.run(Time(until * SECOND), &mut ());
        [9, joins].map(|i| engine.take_counters(i).arrived)
    };
    let (before, after) = (entered(50), entered(100));
    assert!(before[1] == 0 && (2_200..2_800).contains(&before[0]), "{before:?}");
    assert!(after.iter().all(|n| (1_050..1_450).contains(n)), "{after:?}");
}
