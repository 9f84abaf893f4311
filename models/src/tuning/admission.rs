//! Overload: what a limit does to answers in time, who waits, and who is refused first.
//!
//! The service serves 20 at a time for 25 ms on average each (800 a second), and queues what comes beyond; before it
//! stands the sidecar's own gate, which is looked after ten times a second as in the sidecar.

use super::{Plot, spread};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::admission::{ClassId, Classes, Entry, Gate, Rank, Refusal, Served};
use pathloom::config::{Admission, Concurrency, Priority, PriorityWeights, Timespan};
use pathloom::links::Time;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many the service serves at a time, and for how long on average.
const PLACES: usize = 20;
const TIME_MS: f64 = 25.0;
/// A later answer is worth nothing.
const DEADLINE_MS: f64 = 100.0;
/// A step of the simulation, and how often the gate is looked after, in microseconds.
const STEP_US: u64 = 500;
const ADJUST_US: u64 = 100_000;

/// The room's plots.
pub(super) fn plots() -> Vec<Plot> {
    let load = || Axis::linear("load, % of what the service can serve");
    let [in_time, latency] = by_concurrency();
    vec![
        Plot::lines(
            "admission",
            "admission.concurrency: answers within 100 ms, of a service of 20 places and 25 ms",
            load(),
            Axis::linear("answers in time, % of what it can serve"),
            in_time,
        ),
        Plot::lines(
            "admission-latency",
            "admission.concurrency: how long those take that are let in",
            load(),
            Axis::logarithmic("mean latency, ms"),
            latency,
        ),
        Plot::lines(
            "admission-wait",
            "admission.pending and wait: 40 more at once each second, concurrency 20, load 60%",
            Axis::logarithmic("admission.wait, ms"),
            Axis::linear("requests that are refused, %"),
            by_wait(),
        ),
        Plot::lines(
            "priority",
            "priority.classes: three classes, a third of the requests each, concurrency 20",
            load(),
            Axis::linear("requests that are answered, %"),
            by_class(),
        ),
        Plot::lines(
            "priority-depth",
            "priority.weights: P by how deep in a chain of calls a request is",
            Axis::linear("calls before it (x-pathloom-depth)"),
            Axis::linear("P"),
            by_depth(),
        ),
    ]
}

/// A request with its place.
#[derive(Debug, Clone, Copy)]
struct Inside {
    class: usize,
    came_us: u64,
    one_of: u32,
}

/// A request that waits for one.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    class: usize,
    rank: Rank,
    came_us: u64,
}

/// What came of a class's requests.
#[derive(Debug, Clone, Copy, Default)]
struct Came {
    asked: u32,
    answered: u32,
    in_time: u32,
    refused: u32,
    latency_ms: f64,
}

struct Service {
    gate: Option<Arc<Gate>>,
    /// The classes' levels of P.
    levels: Vec<u8>,
    draw: Draw,
    now_us: u64,
    queue: VecDeque<Inside>,
    served: Vec<(u64, Inside)>,
    waiting: Vec<Waiter>,
}

impl Service {
    fn new(settings: &Admission, priority: &Priority) -> Self {
        let classes = Classes::compile(priority);
        let id = |i: usize| ClassId(i as u8);
        Self {
            gate: Gate::of(&"c".into(), settings, &classes, (1, 4), None),
            levels: (0..classes.names().len()).map(|i| classes.level(id(i), None)).collect(),
            draw: Draw::new(7),
            now_us: 0,
            queue: VecDeque::new(),
            served: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// So many requests a second for so many seconds, and `burst` more at the beginning of each; what came of each class
    /// in the last half.
    fn run(&mut self, per_second: f64, seconds: u64, burst: u32) -> Vec<Came> {
        let begun = self.now_us;
        let steps = seconds * 1_000_000 / STEP_US;
        let mut out = vec![Came::default(); self.levels.len()];
        let mut due_s = 0.0;
        for step in 0..steps {
            let counts = step >= steps / 2;
            self.now_us = begun + step * STEP_US;
            due_s -= STEP_US as f64 * 1e-6;
            let mut arrivals = if step % (1_000_000 / STEP_US) == 0 { burst } else { 0 };
            while due_s <= 0.0 {
                due_s += self.draw.exponential() / per_second;
                arrivals += 1;
            }
            (0..arrivals).for_each(|_| self.arrive(counts, &mut out));
            self.end(counts, &mut out);
            self.look_again(counts, &mut out);
            while self.served.len() < PLACES
                && let Some(next) = self.queue.pop_front()
            {
                let takes_us = TIME_MS * 1e3 * self.draw.uniform(0.5, 1.5);
                self.served.push((self.now_us + takes_us as u64, next));
            }
            if let Some(gate) = self.gate.as_ref().filter(|_| self.now_us.is_multiple_of(ADJUST_US)) {
                gate.adjust(Time(self.now_us * 1_000));
            }
        }
        self.now_us += STEP_US;
        out
    }

    fn arrive(&mut self, counts: bool, out: &mut [Came]) {
        let class = self.draw.whole(0, self.levels.len() - 1);
        let trace_id: [u8; 2] = std::array::from_fn(|_| b"0123456789abcdef"[self.draw.whole(0, 15)]);
        let rank = Rank::new(self.levels[class], &trace_id);
        let came_us = self.now_us;
        out[class].asked += u32::from(counts);
        let entry = self.gate.as_ref().map_or(Entry::Inside(0), |gate| gate.arrive(0, rank, ClassId(class as u8)));
        match entry {
            Entry::Inside(one_of) => self.queue.push_back(Inside { class, came_us, one_of }),
            Entry::Wait => self.waiting.push(Waiter { class, rank, came_us }),
            Entry::Refused(_) => out[class].refused += u32::from(counts),
        }
    }

    /// Those that are served leave, and hand their places on.
    fn end(&mut self, counts: bool, out: &mut [Came]) {
        let now = self.now_us;
        let over: Vec<(u64, Inside)> = self.served.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, Inside { class, came_us, one_of }) in over {
            let latency_ms = (now - came_us) as f64 * 1e-3;
            let came = &mut out[class];
            came.answered += u32::from(counts);
            came.in_time += u32::from(counts && latency_ms <= DEADLINE_MS);
            came.latency_ms += if counts { latency_ms } else { 0.0 };
            let Some(gate) = &self.gate else { continue };
            let served = Served::Within(Duration::from_micros(now - came_us));
            // As the sidecar hands places over: to the highest rank, of equals to the first.
            let first = self.waiting.iter().enumerate().rev().max_by_key(|(_, w)| w.rank).map(|(i, w)| (i, w.rank));
            match first.filter(|(_, rank)| gate.may_take_over(*rank)) {
                Some((at, _)) => {
                    let waiter = self.waiting.remove(at);
                    gate.hand_on(0, one_of, served);
                    gate.stop_waiting();
                    let one_of = gate.took_over(0, ClassId(waiter.class as u8));
                    self.queue.push_back(Inside { class: waiter.class, came_us: waiter.came_us, one_of });
                }
                None => gate.leave(0, one_of, served),
            }
        }
    }

    /// Those that wait ask again, or have waited for too long.
    fn look_again(&mut self, counts: bool, out: &mut [Came]) {
        let Some(gate) = self.gate.clone() else { return };
        let (now, longest_us) = (self.now_us, gate.wait().as_micros() as u64);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|waiter| {
            let id = ClassId(waiter.class as u8);
            if let Some(one_of) = gate.ask_again(0, waiter.rank, id) {
                gate.stop_waiting();
                self.queue.push_back(Inside { class: waiter.class, came_us: waiter.came_us, one_of });
                return false;
            }
            let late = now - waiter.came_us >= longest_us;
            if late {
                gate.stop_waiting();
                gate.refuse(0, id, Refusal::Waited);
                out[waiter.class].refused += u32::from(counts);
            }
            !late
        });
        self.waiting = waiting;
    }
}

fn capacity() -> f64 {
    PLACES as f64 / TIME_MS * 1e3
}

fn settings(concurrency: Concurrency) -> Admission {
    Admission { concurrency, ..Admission::default() }
}

/// Answers in time, and latencies, by load.
fn by_concurrency() -> [Vec<Series>; 2] {
    const SECONDS: u64 = 12;
    let limits = [
        ("off", Concurrency::Off),
        ("20: its places", Concurrency::Limit(PLACES as u32)),
        ("80: too many", Concurrency::Limit(4 * PLACES as u32)),
        ("auto", Concurrency::Auto),
    ];
    let [mut in_time, mut latency] = [Vec::new(), Vec::new()];
    for (name, concurrency) in limits {
        let (mut timely, mut taken) = (Vec::new(), Vec::new());
        for percent in [25.0, 50.0, 75.0, 90.0, 100.0, 110.0, 125.0, 150.0, 190.0, 250.0] {
            let mut service = Service::new(&settings(concurrency), &Priority::default());
            service.run(capacity() * 0.5, 3, 0);
            let came = service.run(capacity() * percent / 100.0, SECONDS, 0);
            let sum = |of: &dyn Fn(&Came) -> f64| came.iter().map(of).sum::<f64>();
            let counted_s = SECONDS as f64 / 2.0;
            timely.push((percent, sum(&|c| f64::from(c.in_time)) / capacity() / counted_s * 100.0));
            taken.push((percent, sum(&|c| c.latency_ms) / sum(&|c| f64::from(c.answered))));
        }
        in_time.push(Series::new(name, timely));
        latency.push(Series::new(name, taken));
    }
    [in_time, latency]
}

/// Who is refused of a burst.
fn by_wait() -> Vec<Series> {
    let of = |pending: u32| {
        let refused = |ms: f64| {
            let wait = Timespan(Duration::from_micros((ms * 1e3) as u64));
            let settings = Admission { pending, wait, ..settings(Concurrency::Limit(PLACES as u32)) };
            let came = Service::new(&settings, &Priority::default()).run(capacity() * 0.6, 16, 40);
            let sum = |of: &dyn Fn(&Came) -> u32| f64::from(came.iter().map(of).sum::<u32>());
            (ms, sum(&|c| c.refused) / sum(&|c| c.asked) * 100.0)
        };
        Series::new(format!("pending {pending}"), spread(2.0, 200.0, 8).map(refused).collect())
    };
    [0, 10, 30, 100].map(of).into()
}

/// The classes of requests as they are built in, from the least important on.
fn by_class() -> Vec<Series> {
    let priority = Priority::default();
    let names: Vec<String> = priority.classes.keys().cloned().collect();
    let mut all: Vec<Series> = names.iter().map(|name| Series::new(name.as_str(), Vec::new())).collect();
    for percent in [50.0, 75.0, 100.0, 120.0, 140.0, 160.0, 200.0, 250.0, 300.0] {
        let mut service = Service::new(&settings(Concurrency::Limit(PLACES as u32)), &priority);
        service.run(capacity() * 0.5, 3, 0);
        let came = service.run(capacity() * percent / 100.0, 16, 0);
        for (series, came) in all.iter_mut().zip(came) {
            series.points.push((percent, (1.0 - f64::from(came.refused) / f64::from(came.asked)) * 100.0));
        }
    }
    // The most important first in the legend.
    let order = |name: &str| ["critical", "normal", "background"].iter().position(|n| *n == name);
    all.sort_by_key(|series| order(&series.name));
    all
}

/// P by depth, for the built-in classes.
fn by_depth() -> Vec<Series> {
    let highest = f64::from(Rank::new(u8::MAX, b"").level());
    let of = |words: &str, weights: PriorityWeights| -> Vec<Series> {
        let classes = Classes::compile(&Priority { weights, ..Priority::default() });
        let p = |name: &str| {
            let id = classes.named(name.as_bytes()).unwrap_or_default();
            let at = |depth: u8| (f64::from(depth), f64::from(classes.level(id, Some(depth))) / highest);
            Series::new(format!("{name}{words}"), (0..=10).map(at).collect())
        };
        ["critical", "normal", "background"].map(p).into()
    };
    let deep = PriorityWeights { depth: 0.8, ..PriorityWeights::default() };
    of("", PriorityWeights::default()).into_iter().chain(of(", depth 0.8", deep)).collect()
}
