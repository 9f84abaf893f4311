//! A service that serves so many at a time, in simulated time, behind a real gate: what the limiter makes of it.

use super::*;
use crate::admission::gate::Refusal;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};

/// A step of the simulation.
const STEP_US: u64 = 500;

struct Service {
    gate: Arc<Gate>,
    rng: SmallRng,
    /// How many it serves at a time,
    places: usize,
    /// and for how long each, in milliseconds on average.
    time_ms: f64,
    now_us: u64,
    /// Until when those that are served are, with when they came.
    served: Vec<(u64, (u64, u32))>,
    queue: VecDeque<(u64, u32)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Outcome {
    asked: u64,
    refused: u64,
    /// Answered.
    done: u64,
    /// The sum of their latencies.
    latency_ms: f64,
}

impl Outcome {
    fn mean_ms(&self) -> f64 {
        self.latency_ms / self.done as f64
    }
}

impl Service {
    fn new(places: usize, time_ms: f64) -> Self {
        Self {
            gate: gate(Concurrency::Auto, 0),
            rng: SmallRng::seed_from_u64(7),
            places,
            time_ms,
            now_us: 0,
            served: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    fn capacity(&self) -> f64 {
        self.places as f64 / self.time_ms * 1e3
    }

    /// So many requests a second for so many seconds, each class a third; what came of the last half.
    fn run(&mut self, per_second: f64, seconds: f64) -> BTreeMap<u8, Outcome> {
        let (begun, steps) = (self.now_us, (seconds * 1e6) as u64 / STEP_US);
        let mut out: BTreeMap<u8, Outcome> = BTreeMap::new();
        let mut due = 0.0;
        for step in 0..steps {
            let counts = step >= steps / 2;
            self.now_us = begun + step * STEP_US;
            // Arrivals at random: their gaps are exponential.
            due -= STEP_US as f64 * 1e-6;
            while due <= 0.0 {
                due += -(1.0 - self.rng.random::<f64>()).ln() / per_second;
                let class = self.rng.random_range(0..3u8);
                let trace_id: [u8; 2] = std::array::from_fn(|_| b"0123456789abcdef"[self.rng.random_range(0..16)]);
                let entry = self.gate.arrive(0, Rank::new(20 + 40 * class, &trace_id), ClassId(class));
                let o = out.entry(class).or_default();
                o.asked += u64::from(counts);
                match entry {
                    Entry::Inside(one_of) => self.queue.push_back((self.now_us, one_of)),
                    Entry::Wait => unreachable!("nobody waits here"),
                    Entry::Refused(Refusal::Shed | Refusal::Full | Refusal::Waited) => o.refused += u64::from(counts),
                }
            }
            let now = self.now_us;
            let over: Vec<_> = self.served.extract_if(.., |(until, _)| *until <= now).collect();
            for (_, (came, one_of)) in over {
                let latency_us = now - came;
                self.gate.leave(0, one_of, Served::Within(Duration::from_micros(latency_us)));
                if counts {
                    let o = out.entry(9).or_default();
                    o.done += 1;
                    o.latency_ms += latency_us as f64 * 1e-3;
                }
            }
            while self.served.len() < self.places
                && let Some(came) = self.queue.pop_front()
            {
                let spread = self.rng.random_range(0.5..1.5);
                self.served.push((now + (self.time_ms * 1e3 * spread) as u64, came));
            }
            if step % (100_000 / STEP_US) == 0 {
                self.gate.adjust(Time(now * 1_000));
            }
        }
        self.now_us += STEP_US;
        out
    }

    fn limit(&self) -> f64 {
        f64::from(self.gate.view().limit)
    }
}

#[track_caller]
fn nobody_refused(out: &BTreeMap<u8, Outcome>) {
    assert!(out.values().all(|o| o.refused == 0), "{out:?}");
}

#[test]
fn at_190_percent_the_capacity_is_used_and_the_important_are_served() {
    for (places, time_ms) in [(20, 25.0), (8, 50.0), (200, 20.0)] {
        let mut service = Service::new(places, time_ms);
        let capacity = service.capacity();
        service.run(capacity * 0.5, 3.0);
        let out = service.run(capacity * 1.9, 30.0);
        let all = out[&9];
        let share = all.done as f64 / (capacity * 15.0);
        assert!(share > 0.93, "{places} x {time_ms} ms: {share} of the capacity, limit {}", service.limit());
        assert!(all.mean_ms() < time_ms * 3.0, "{places} x {time_ms} ms: {} ms", all.mean_ms());
        let important = out[&2];
        let refused = important.refused as f64 / important.asked as f64;
        assert!(refused < 0.01, "{places} x {time_ms} ms: {refused} of the important: {important:?}");
        assert!(out[&0].refused as f64 > out[&0].asked as f64 * 0.8, "{out:?}");
    }
}

#[test]
fn a_service_within_its_capacity_refuses_nobody() {
    for places in [10, 100, 1_000] {
        let mut service = Service::new(places, 20.0);
        let capacity = service.capacity();
        for load in [0.1, 0.3, 0.6, 0.75] {
            // It grows with the load: a second for each doubling is enough.
            service.run(capacity * load, 2.0);
            nobody_refused(&service.run(capacity * load, 3.0));
        }
    }
}

#[test]
fn a_large_service_that_is_met_cold_is_served_whole_soon() {
    let mut service = Service::new(500, 10.0);
    // It begins with room for a twentieth, and a threshold made for that.
    service.run(35_000.0, 6.0);
    nobody_refused(&service.run(35_000.0, 2.0));
}

#[test]
fn a_service_that_becomes_slower_is_not_taken_for_a_full_one() {
    let mut service = Service::new(400, 20.0);
    service.run(4_000.0, 5.0);
    // Latency is four times what it was, and so is what is under way; it still has room for all.
    service.time_ms = 80.0;
    service.run(4_000.0, 20.0);
    nobody_refused(&service.run(4_000.0, 10.0));
}

#[test]
fn a_minimum_that_was_learnt_under_load_is_found_out() {
    let mut service = Service::new(8, 50.0);
    let capacity = service.capacity();
    // The proxy is started in the middle of an overload.
    let out = service.run(capacity * 1.9, 90.0);
    assert!(out[&9].mean_ms() < 50.0 * 3.0, "{} ms, limit {}", out[&9].mean_ms(), service.limit());
    assert!(service.gate.view().minimum_s.unwrap() < 0.075, "{:?}", service.gate.view());
}

#[test]
fn the_limit_does_not_drift_up_under_lasting_overload() {
    let mut service = Service::new(20, 25.0);
    let capacity = service.capacity();
    service.run(capacity * 0.5, 3.0);
    service.run(capacity * 1.9, 30.0);
    let before = service.limit();
    service.run(capacity * 1.9, 200.0);
    assert!(service.limit() < before * 1.5 + 10.0, "{before} {}", service.limit());
    assert!(service.gate.view().minimum_s.unwrap() < 0.040, "{:?}", service.gate.view());
}

#[test]
fn after_a_pause_nothing_is_wedged() {
    let mut service = Service::new(100, 20.0);
    let capacity = service.capacity();
    service.run(capacity * 1.9, 20.0);
    service.run(0.001, 60.0);
    assert!(service.limit() >= 20.0);
    service.run(capacity * 0.3, 2.0);
    nobody_refused(&service.run(capacity * 0.6, 4.0));
}

#[test]
fn a_service_that_lost_half_its_places_keeps_the_other_half_busy() {
    let mut service = Service::new(40, 25.0);
    service.run(1_200.0, 5.0);
    service.places = 20;
    let out = service.run(1_200.0, 30.0);
    let share = out[&9].done as f64 / (800.0 * 15.0);
    assert!(share > 0.93 && out[&9].mean_ms() < 80.0, "{share} {}", out[&9].mean_ms());
}
