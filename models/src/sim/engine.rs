//! The queueing simulation: requests, servers with workers and a first-in first-out queue, and the events that move them.
//!
//! A request enters at a gateway (Poisson), makes its service's calls one after another, each of which travels half a
//! round trip, waits for a worker, is worked on, makes calls of its own, and travels back. Time is in nanoseconds and
//! events of the same instant keep the order in which they were made, so a seed gives one history, to the byte.
//! A server refuses what its queue cannot hold and drops what waited too long: callers see a failure then.

use super::draw::Draw;
use super::faults::Active;
use super::mesh::{Mesh, Policy, Route};
use super::telemetry::Telemetry;
use pathloom::links::{LocalEstimate, Outcome, Time};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// What waits longer than this is dropped.
const LONGEST_WAIT: u64 = 3 * SECOND;
/// The longest queue of a server.
const LONGEST_QUEUE: usize = 200;
/// Half of the callers notice a crashed instance at once (refused), the others after this long.
const CRASH_TIMEOUT: u64 = SECOND;
/// How likely a failed call fails the request that made it.
const FAILURE_SPREADS: f64 = 0.7;
/// What the least-cost policy's estimates decay to, and with which time constant, in seconds.
const PRIOR_S: f32 = 0.02;
const TAU_S: f32 = 3.0;
/// How fast a server says no.
const REFUSAL: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request enters at a gateway.
    Enter(usize),
    /// A call reaches its server.
    Arrive(usize),
    /// A server has worked on a call.
    Worked(usize),
    /// A call's answer reaches its caller.
    Answer(usize),
}

/// A request at one instance.
#[derive(Debug, Clone, Copy, Default)]
struct Visit {
    /// The visit that called; none for a request that entered here.
    parent: Option<usize>,
    pair: usize,
    position: usize,
    route: usize,
    instance: usize,
    began: u64,
    arrived: u64,
    next_call: usize,
    failed: bool,
    has_worker: bool,
}

/// A server's state and what it counts for its own report.
#[derive(Debug, Clone, Default)]
pub struct Server {
    busy: usize,
    queue: VecDeque<usize>,
    /// Requests that arrived in this tick.
    pub arrived: u32,
    /// Requests that failed here in this tick.
    pub failed: u32,
    /// Nanoseconds of work that began in this tick.
    pub worked: u64,
}

/// What a caller remembers of one route.
#[derive(Debug, Default)]
struct RouteState {
    turn: usize,
    in_flight: Vec<u32>,
    estimates: Vec<LocalEstimate>,
}

/// The running simulation.
#[derive(Debug)]
pub struct Engine<'a> {
    mesh: &'a Mesh,
    /// What goes wrong now.
    pub active: Active,
    /// Times the entry rates.
    pub load: f64,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    visits: Vec<Visit>,
    free: Vec<usize>,
    /// For each instance.
    pub servers: Vec<Server>,
    routes: Vec<Vec<RouteState>>,
    /// For each pair, how often it was picked of late (faded once a tick).
    pub picks: Vec<f64>,
    /// Answers of this tick in order: pair and latency in seconds.
    pub answered: Vec<(u32, f32)>,
    draw: Draw,
}

impl<'a> Engine<'a> {
    /// A simulation at time zero.
    #[must_use]
    pub fn new(mesh: &'a Mesh, draw: Draw) -> Self {
        let route = |r: &Route| RouteState {
            turn: 0,
            in_flight: vec![0; r.subset.len()],
            estimates: r.subset.iter().map(|_| LocalEstimate::default()).collect(),
        };
        let mut engine = Self {
            mesh,
            active: Active::at(mesh, &[], 0),
            load: 1.0,
            now: 0,
            events: BinaryHeap::new(),
            made: 0,
            visits: Vec::new(),
            free: Vec::new(),
            servers: vec![Server::default(); mesh.instances.len()],
            routes: mesh.routes.iter().map(|routes| routes.iter().map(route).collect()).collect(),
            picks: vec![0.0; mesh.pairs.len()],
            answered: Vec::new(),
            draw,
        };
        for gateway in 0..mesh.entry_rates.len() {
            engine.next_entry(gateway);
        }
        engine
    }

    /// Runs until a moment.
    pub fn run(&mut self, until: u64, telemetry: &mut Telemetry) {
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = at;
            match event {
                Event::Enter(gateway) => {
                    self.next_entry(gateway);
                    let instance = self.mesh.services[0].replicas[gateway];
                    let visit = self.visit(Visit { instance, began: at, ..Visit::default() });
                    self.arrive(visit);
                }
                Event::Arrive(visit) => self.arrive(visit),
                Event::Worked(visit) => {
                    let instance = self.visits[visit].instance;
                    if !self.mesh.services[self.mesh.instances[instance].service].holds_worker {
                        self.release(visit);
                    }
                    self.proceed(visit, telemetry);
                }
                Event::Answer(visit) => self.answer(visit, telemetry),
            }
        }
        self.now = until;
    }

    fn at(&mut self, time: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((time, self.made, event)));
    }

    fn next_entry(&mut self, gateway: usize) {
        let rate = self.mesh.entry_rates[gateway] * self.load;
        let wait = self.draw.exponential() / rate.max(1e-3);
        self.at(self.now + nanos(wait), Event::Enter(gateway));
    }

    fn visit(&mut self, visit: Visit) -> usize {
        if let Some(slot) = self.free.pop() {
            self.visits[slot] = visit;
            slot
        } else {
            self.visits.push(visit);
            self.visits.len() - 1
        }
    }

    fn one_way(&mut self, pair: usize) -> u64 {
        let base = self.mesh.rtt_s(self.mesh.pairs[pair]) / 2.0;
        let extra = self.active.extra_s[pair] / 2.0;
        let extra = if extra > 0.0 { extra * (0.5 + 0.5 * self.draw.exponential()) } else { 0.0 };
        nanos(base * self.draw.spread(self.mesh.rtt_sigma) + extra)
    }

    /// A call reached its server: work, wait, or be refused.
    fn arrive(&mut self, visit: usize) {
        let instance = self.visits[visit].instance;
        self.visits[visit].arrived = self.now;
        if self.active.crashed[instance] {
            let after = if self.draw.chance(0.5) { 0 } else { CRASH_TIMEOUT };
            return self.fail(visit, after);
        }
        self.servers[instance].arrived += 1;
        if self.active.fails[instance] > 0.0 && self.draw.chance(self.active.fails[instance]) {
            return self.fail(visit, REFUSAL);
        }
        let workers = self.mesh.services[self.mesh.instances[instance].service].workers;
        if self.servers[instance].busy < workers {
            self.work(visit);
        } else if self.servers[instance].queue.len() < LONGEST_QUEUE {
            self.servers[instance].queue.push_back(visit);
        } else {
            self.fail(visit, REFUSAL);
        }
    }

    fn work(&mut self, visit: usize) {
        let instance = self.visits[visit].instance;
        let of = &self.mesh.instances[instance];
        let service = &self.mesh.services[of.service];
        let slowness = of.slowness * self.active.slow[instance];
        let time = nanos(service.work.draw(&mut self.draw) * slowness);
        self.servers[instance].busy += 1;
        self.servers[instance].worked += time;
        self.visits[visit].has_worker = true;
        self.at(self.now + time, Event::Worked(visit));
    }

    /// A worker is free: the next in the queue that did not wait too long.
    fn release(&mut self, visit: usize) {
        if !std::mem::take(&mut self.visits[visit].has_worker) {
            return;
        }
        let instance = self.visits[visit].instance;
        self.servers[instance].busy -= 1;
        while let Some(next) = self.servers[instance].queue.pop_front() {
            if self.now - self.visits[next].arrived > LONGEST_WAIT {
                self.fail(next, 0);
            } else {
                self.work(next);
                break;
            }
        }
    }

    /// A visit ends in failure, after a while.
    fn fail(&mut self, visit: usize, after: u64) {
        self.visits[visit].failed = true;
        self.servers[self.visits[visit].instance].failed += 1;
        let back = if self.visits[visit].parent.is_some() { self.one_way(self.visits[visit].pair) } else { 0 };
        self.at(self.now + after + back, Event::Answer(visit));
    }

    /// Makes the visit's next call, or answers.
    fn proceed(&mut self, visit: usize, telemetry: &mut Telemetry) {
        let Visit { instance, parent, .. } = self.visits[visit];
        let calls = &self.mesh.services[self.mesh.instances[instance].service].calls;
        while let Some(call) = calls.get(self.visits[visit].next_call) {
            let route = self.visits[visit].next_call;
            self.visits[visit].next_call += 1;
            if call.probability >= 1.0 || self.draw.chance(call.probability) {
                return self.call(visit, route, telemetry);
            }
        }
        self.release(visit);
        let back = if parent.is_some() { self.one_way(self.visits[visit].pair) } else { 0 };
        self.at(self.now + back, Event::Answer(visit));
    }

    fn call(&mut self, parent: usize, route: usize, telemetry: &mut Telemetry) {
        let source = self.visits[parent].instance;
        let position = self.pick(source, route);
        let of = &self.mesh.routes[source][route];
        let pair = of.first_pair + of.subset[position];
        self.routes[source][route].in_flight[position] += 1;
        self.picks[pair] += 1.0;
        telemetry.begin(pair, self.now);
        let instance = self.mesh.pairs[pair].destination;
        let visit =
            Visit { parent: Some(parent), pair, position, route, instance, began: self.now, ..Visit::default() };
        let visit = self.visit(visit);
        let way = self.one_way(pair);
        self.at(self.now + way, Event::Arrive(visit));
    }

    fn pick(&mut self, source: usize, route: usize) -> usize {
        let of = &self.mesh.routes[source][route];
        let state = &mut self.routes[source][route];
        let last = of.subset.len() - 1;
        match &of.policy {
            Policy::RoundRobin => {
                state.turn = if state.turn >= last { 0 } else { state.turn + 1 };
                state.turn
            }
            Policy::Random => self.draw.whole(0, last),
            Policy::LeastRequest => {
                let (a, b) = (self.draw.whole(0, last), self.draw.whole(0, last));
                if state.in_flight[a] <= state.in_flight[b] { a } else { b }
            }
            Policy::Weighted(weights) => {
                let mut left = self.draw.uniform(0.0, weights.iter().sum());
                let found = weights.iter().position(|w| {
                    left -= w;
                    left <= 0.0
                });
                found.unwrap_or(last)
            }
            Policy::LeastCost => {
                let first = self.draw.whole(0, last);
                let cost = |p: usize| {
                    let estimate = state.estimates[p].at(Time(self.now), PRIOR_S, TAU_S);
                    estimate * (state.in_flight[p] as f32 + 1.0)
                };
                // Equals go to the first from a random start.
                let turned = (0..=last).map(|p| (p + first) % (last + 1));
                turned.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(first)
            }
            Policy::SameZone => {
                let zone = self.mesh.instances[source].zone;
                let near = |p: &usize| {
                    let pair = of.first_pair + of.subset[*p];
                    self.mesh.instances[self.mesh.pairs[pair].destination].zone == zone
                };
                let nearby: Vec<usize> = (0..=last).filter(near).collect();
                match self.draw.one(&nearby) {
                    Some(found) if self.draw.chance(0.9) => found,
                    _ => self.draw.whole(0, last),
                }
            }
        }
    }

    /// An answer is back at its caller.
    fn answer(&mut self, visit: usize, telemetry: &mut Telemetry) {
        let done = self.visits[visit];
        self.free.push(visit);
        let Some(parent) = done.parent else { return };
        let source = self.mesh.pairs[done.pair].source;
        self.routes[source][done.route].in_flight[done.position] -= 1;
        let latency_s = (self.now - done.began) as f64 * 1e-9;
        let outcome = if done.failed { Outcome::Failure } else { Outcome::Success };
        telemetry.end(done.pair, self.now, latency_s as f32, outcome);
        if !done.failed {
            if let Some(estimate) = self.routes[source][done.route].estimates.get(done.position) {
                estimate.record(Time(self.now), latency_s as f32, PRIOR_S, TAU_S);
            }
            self.answered.push((done.pair as u32, latency_s as f32));
        } else if self.draw.chance(FAILURE_SPREADS) {
            self.release(parent);
            return self.fail(parent, 0);
        }
        self.proceed(parent, telemetry);
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
