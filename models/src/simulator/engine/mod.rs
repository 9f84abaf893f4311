//! The discrete-event engine: requests, instances with workers and queues on shared hosts, and the events that move them.
//!
//! A request enters (Poisson) at a replica of an entry's service, waits for a worker, is worked on, makes its handler's
//! calls stage by stage, and answers. A call goes through a proxy: its balancer picks, its pool has a connection or opens
//! one, the network takes it there and back, and what was refused is tried once more elsewhere within a budget. Files:
//! `serve` is the instance's side, `calls` the proxy's, `changes` what time itself brings (load, faults, reports), `state`
//! what is remembered, `queue` what comes next.
//!
//! Time is in nanoseconds; events of one instant keep the order of their making; all draws come from two generators, one
//! for what no policy touches (arrivals, pauses). So a seed gives one history, to the byte. `fork` copies everything but the generators: another future of the same past.
//!
//! Left out: request deadlines and hedging (only waits in a queue are bounded), health checks of the proxies' own (the
//! driver says what is usable), TCP's and HTTP/2's flow control, caches, retries of the application, memory that runs out.

mod calls;
mod changes;
mod queue;
mod serve;
mod state;

pub use state::{Counters, Totals};

use super::balancer::Balancer;
use super::faults::{Active, Fault};
use super::host::Processors;
use super::load::Load;
use super::mesh::Mesh;
use super::network::{self, Pool};
use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};
use queue::{Event, Queue};
use state::{Phase, Probing, RouteState, Server, Visit};
use std::sync::Arc;

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// What is left of a pair's recent picks after a second: they are a count over about the last ten seconds.
pub const PICKS_KEEP: f32 = 0.9;

/// Apart from a fork's seed: its other generator's.
const FATE: u64 = 0x9e37_79b9_7f4a_7c15;

/// What watches a run. Each call is told when it begins and ends, as the calling proxy sees it; a second try is a call of its own.
pub trait Observer {
    /// A call on a pair begins.
    fn begin(&mut self, _pair: usize, _now: Time) {}
    /// It ends. `Cancelled` where its caller was gone before.
    fn end(&mut self, _pair: usize, _now: Time, _latency_s: f32, _outcome: Outcome) {}
    /// An answer said this of its instance's load.
    fn reported(&mut self, _pair: usize, _now: Time, _report: &Report) {}
    /// A request enters.
    fn entered(&mut self, _entry: usize, _now: Time) {}
    /// A request that entered is answered, or has failed.
    fn finished(&mut self, _entry: usize, _began: Time, _now: Time, _ok: bool) {}
}

impl Observer for () {}

/// Where requests enter: one replica of an entry's service.
#[derive(Debug, Clone, Copy)]
struct Source {
    entry: usize,
    instance: usize,
    rate: f64,
}

/// What never changes in a run; forks share it.
#[derive(Debug)]
struct Plan {
    faults: Vec<Fault>,
    load: Load,
    sources: Vec<Source>,
    /// For each pair, its mean round trip in seconds without faults.
    base_s: Vec<f64>,
    /// For each instance, its pairs by who calls it: source and dependency, and position there.
    callers: Vec<Vec<(u32, u32)>>,
    /// 0, 1, 2, ...: the positions of a route whose candidates are all usable.
    all: Vec<usize>,
}

/// A running simulation.
#[derive(Debug)]
pub struct Engine<'m> {
    mesh: &'m Mesh,
    plan: Arc<Plan>,
    active: Active,
    now: u64,
    beats: u64,
    queue: Queue,
    visits: Vec<Visit>,
    free: Vec<u32>,
    servers: Vec<Server>,
    hosts: Vec<Processors>,
    routes: Vec<Vec<RouteState>>,
    pools: Vec<Pool>,
    picks: Vec<f32>,
    probing: Vec<Probing>,
    probing_free: Vec<u32>,
    wanted: Vec<usize>,
    rest: Vec<usize>,
    usable: Vec<bool>,
    balancers: Vec<Vec<Box<dyn Balancer>>>,
    draw: Draw,
    /// What no policy may touch: arrivals, pauses, the reports' noise. Under one seed all policies meet the same.
    fate: Draw,
    totals: Totals,
}

impl<'m> Engine<'m> {
    /// A simulation at time zero. `balancers` has one for each instance and each service that its service calls.
    #[must_use]
    pub fn new(
        mesh: &'m Mesh,
        faults: &[Fault],
        load: &Load,
        balancers: Vec<Vec<Box<dyn Balancer>>>,
        mut draw: Draw,
    ) -> Self {
        let sources = mesh.entries.iter().enumerate().flat_map(|(entry, e)| {
            let replicas = &mesh.services[e.service].replicas;
            replicas.iter().map(move |i| Source { entry, instance: *i, rate: e.rate / replicas.len() as f64 })
        });
        let mut callers: Vec<Vec<(u32, u32)>> = vec![Vec::new(); mesh.instances.len()];
        for (source, routes) in mesh.routes.iter().enumerate() {
            for (dependency, route) in routes.iter().enumerate() {
                for pair in &route.pairs {
                    callers[mesh.pairs[*pair].destination].push((source as u32, dependency as u32));
                }
            }
        }
        let most = mesh.routes.iter().flatten().map(|r| r.pairs.len()).max().unwrap_or(0);
        let plan = Plan {
            faults: faults.to_vec(),
            load: load.clone(),
            sources: sources.collect(),
            base_s: mesh.pairs.iter().map(|p| network::base_s(mesh, *p)).collect(),
            callers,
            all: (0..most).collect(),
        };
        let active = Active::at(mesh, faults, 0.0);
        let server =
            |draw: &mut Draw| Server { memory: draw.uniform(0.2, 0.6), burns: draw.chance(0.5), ..Server::default() };
        let route = || RouteState { tokens: calls::FIRST_TOKENS, usable: None };
        let mut engine = Self {
            mesh,
            now: 0,
            beats: 0,
            queue: Queue::default(),
            visits: Vec::new(),
            free: Vec::new(),
            servers: mesh.instances.iter().map(|_| server(&mut draw)).collect(),
            hosts: mesh.hosts.iter().zip(&active.cores).map(|(h, share)| Processors::new(h.cores * share)).collect(),
            routes: mesh.routes.iter().map(|routes| routes.iter().map(|_| route()).collect()).collect(),
            pools: vec![Pool::default(); mesh.pairs.len()],
            picks: vec![0.0; mesh.pairs.len()],
            probing: Vec::new(),
            probing_free: Vec::new(),
            wanted: Vec::new(),
            rest: Vec::new(),
            usable: vec![true; mesh.instances.len()],
            balancers,
            fate: Draw::new(draw.whole(0, usize::MAX) as u64),
            draw,
            totals: Totals::default(),
            plan: Arc::new(plan),
            active,
        };
        engine.begin();
        engine
    }

    /// Runs until a moment, that moment included.
    pub fn run(&mut self, until: Time, observer: &mut impl Observer) {
        while let Some((at, event)) = self.queue.next(until.0) {
            self.now = at;
            self.totals.events += 1;
            match event {
                Event::Enter(source) => self.enter(source, observer),
                Event::Look(source) => self.next_entry(source),
                Event::Arrive(visit) => self.arrive(visit, observer),
                Event::Work(host) => self.work(host, observer),
                Event::Answer(visit) => self.answer(visit, observer),
                Event::Pause(instance) => self.pause(instance),
                Event::Resume(instance) => self.resume(instance),
                Event::Probe(probe) => self.probe(probe),
                Event::Probed(probe) => self.probed(probe),
                Event::Change => self.change(observer),
                Event::Beat => self.beat(),
            }
        }
        self.now = self.now.max(until.0);
    }

    /// The moment that it has reached.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(self.now)
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &'m Mesh {
        self.mesh
    }

    /// What holds now.
    #[must_use]
    pub fn active(&self) -> &Active {
        &self.active
    }

    /// Picks of each pair, faded: a count over about the last ten seconds.
    #[must_use]
    pub fn picks(&self) -> &[f32] {
        &self.picks
    }

    /// What happened so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Calls on their way to an instance or back, and requests at instances.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.visits.len() - self.free.len()
    }

    /// Requests at an instance now.
    #[must_use]
    pub fn in_flight(&self, instance: usize) -> u32 {
        self.servers[instance].in_flight
    }

    /// The policies, `[instance][dependency]`: for their ticks.
    pub fn balancers_mut(&mut self) -> &mut Vec<Vec<Box<dyn Balancer>>> {
        &mut self.balancers
    }

    /// The policies, `[instance][dependency]`.
    #[must_use]
    pub fn balancers(&self) -> &[Vec<Box<dyn Balancer>>] {
        &self.balancers
    }

    /// What an instance did since this was last asked.
    pub fn take_counters(&mut self, instance: usize) -> Counters {
        let now = self.now;
        let server = &mut self.servers[instance];
        server.occupy(now);
        let (sums, before) = (server.sums, std::mem::replace(&mut server.taken, server.sums));
        Counters {
            arrived: sums.arrived - before.arrived,
            failed: sums.failed - before.failed,
            busy_s: sums.busy_s - before.busy_s,
            occupied_s: sums.occupied_s - before.occupied_s,
            in_flight: server.in_flight,
            queued: server.queue.len() as u32,
        }
    }

    /// Says whether proxies may pick an instance, as discovery and health checks would. All may be picked at first, but
    /// those that have not joined. Where none of a route is usable, all are.
    pub fn set_usable(&mut self, instance: usize, usable: bool) {
        if self.usable[instance] == usable {
            return;
        }
        self.usable[instance] = usable;
        let plan = self.plan.clone();
        for (source, dependency) in &plan.callers[instance] {
            let (source, dependency) = (*source as usize, *dependency as usize);
            let pairs = &self.mesh.routes[source][dependency].pairs;
            let can = |p: &usize| self.usable[self.mesh.pairs[pairs[*p]].destination];
            let positions: Vec<usize> = (0..pairs.len()).filter(can).collect();
            let all = positions.is_empty() || positions.len() == pairs.len();
            self.routes[source][dependency].usable = (!all).then_some(positions);
        }
    }

    /// A copy of everything but chance: another future of the same past. The same seed gives the same future.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        Self {
            mesh: self.mesh,
            plan: self.plan.clone(),
            active: self.active.clone(),
            now: self.now,
            beats: self.beats,
            queue: self.queue.clone(),
            visits: self.visits.clone(),
            free: self.free.clone(),
            servers: self.servers.clone(),
            hosts: self.hosts.clone(),
            routes: self.routes.clone(),
            pools: self.pools.clone(),
            picks: self.picks.clone(),
            probing: self.probing.clone(),
            probing_free: self.probing_free.clone(),
            wanted: Vec::new(),
            rest: Vec::new(),
            usable: self.usable.clone(),
            balancers: self.balancers.iter().map(|b| b.iter().map(|b| b.fork()).collect()).collect(),
            draw: Draw::new(seed),
            fate: Draw::new(seed.wrapping_add(FATE)),
            totals: self.totals,
        }
    }

    fn time(&self) -> Time {
        Time(self.now)
    }

    /// A slot for a visit.
    fn slot(&mut self, mut visit: Visit) -> u32 {
        if let Some(slot) = self.free.pop() {
            let old = &mut self.visits[slot as usize];
            visit.generation = old.generation + 1;
            *old = visit;
            return slot;
        }
        self.visits.push(visit);
        (self.visits.len() - 1) as u32
    }

    fn release_slot(&mut self, visit: u32) {
        self.visits[visit as usize].phase = Phase::Free;
        self.free.push(visit);
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
