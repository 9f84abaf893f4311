//! The instance's side: a request is refused, waits, is worked on, makes its calls and leaves.

use super::state::{End, NONE, Phase, Visit};
use super::{Engine, Event, Observer, SECOND, nanos};
use pathloom::links::Time;

/// What waits longer than this for a worker is dropped.
pub const LONGEST_WAIT: u64 = 3 * SECOND;
/// Half of the callers notice a crashed instance at once, the others after this long.
pub const CRASH_TIMEOUT: u64 = SECOND;
/// How fast an instance says no.
const REFUSAL: u64 = 300_000;

impl Engine<'_> {
    /// A request enters from outside.
    pub(super) fn enter(&mut self, source: u32, observer: &mut impl Observer) {
        self.next_entry(source);
        let of = self.plan.sources[source as usize];
        let Some(instance) = self.entrance(of.entry, of.instance) else { return };
        self.totals.entered += 1;
        observer.entered(of.entry, self.time());
        let visit = self.slot(Visit {
            pair_or_entry: of.entry as u32,
            instance: instance as u32,
            handler: self.mesh.entries[of.entry].handler as u32,
            ..self.blank()
        });
        self.arrive(visit, observer);
    }

    /// Where a request for this replica enters: whoever sends from outside knows who has joined and left, and sends what
    /// was for others to one that is there.
    fn entrance(&mut self, entry: usize, instance: usize) -> Option<usize> {
        if self.active.alive[instance] {
            return Some(instance);
        }
        let replicas = self.mesh.services[self.mesh.entries[entry].service].replicas.iter();
        let alive: Vec<usize> = replicas.filter(|i| self.active.alive[**i]).copied().collect();
        self.draw.one(&alive)
    }

    /// A visit that begins now and is nobody's call.
    pub(super) fn blank(&self) -> Visit {
        Visit {
            generation: 0,
            parent: NONE,
            parent_generation: 0,
            pair_or_entry: 0,
            instance: 0,
            handler: 0,
            dependency: 0,
            position: 0,
            repeats: 0,
            phase: Phase::Travelling,
            end: End::Good,
            inside: false,
            has_worker: false,
            retried: false,
            bad: false,
            stage: 0,
            open: 0,
            met: 0,
            busy_s: 0.0,
            began: self.now,
            arrived: self.now,
        }
    }

    /// A request has reached its instance.
    pub(super) fn arrive(&mut self, visit: u32, observer: &mut impl Observer) {
        let at = &mut self.visits[visit as usize];
        let instance = at.instance as usize;
        at.arrived = self.now;
        if self.active.crashed[instance] || !self.active.alive[instance] {
            // A machine that is gone answers nobody; one whose process is gone refuses.
            let silent = self.active.crashed[instance] && self.draw.chance(0.5);
            return self.leave(visit, End::Refused, if silent { CRASH_TIMEOUT } else { 0 }, observer);
        }
        let server = &mut self.servers[instance];
        at.inside = true;
        at.met = server.in_flight;
        server.in_flight += 1;
        server.sums.arrived += 1;
        let fails = self.active.fails[instance];
        if fails > 0.0 && self.draw.chance(fails) {
            return self.leave(visit, End::Failed, REFUSAL, observer);
        }
        let service = &self.mesh.services[self.mesh.instances[instance].service];
        if server.busy < service.workers {
            self.start(visit, observer);
        } else if server.queue.len() < service.queue {
            at.phase = Phase::Queued;
            server.queue.push_back(visit);
        } else {
            self.leave(visit, End::Refused, REFUSAL, observer);
        }
    }

    /// A worker takes a request.
    fn start(&mut self, visit: u32, observer: &mut impl Observer) {
        let at = &mut self.visits[visit as usize];
        let instance = at.instance as usize;
        let of = &self.mesh.instances[instance];
        let handler = &self.mesh.services[of.service].handlers[at.handler as usize];
        let work_s = handler.work.draw(&mut self.draw) * self.active.slow[instance];
        at.phase = Phase::Working;
        at.has_worker = true;
        let server = &mut self.servers[instance];
        let hidden = if server.burns { 1.0 } else { self.active.fault_slow[instance] };
        at.busy_s = (work_s / hidden) as f32;
        server.occupy(self.now);
        server.busy += 1;
        if server.paused {
            server.held.push((visit, work_s));
        } else if work_s > 0.0 {
            self.hosts[of.host].add(self.now, visit, work_s);
            self.plan_work(of.host);
        } else {
            self.worked(visit, observer);
        }
    }

    /// Plans a host's next event, if it has to be planned.
    pub(super) fn plan_work(&mut self, host: usize) {
        if let Some(at) = self.hosts[host].plan() {
            self.queue.plan(at, Event::Work(host as u32));
        }
    }

    /// A host may have done some work.
    pub(super) fn work(&mut self, host: u32, observer: &mut impl Observer) {
        let host = host as usize;
        if !self.hosts[host].begins(self.now) {
            return;
        }
        while let Some(visit) = self.hosts[host].done() {
            self.worked(visit, observer);
        }
        self.hosts[host].ends();
        self.plan_work(host);
    }

    /// A request's own work is done: its calls are next.
    fn worked(&mut self, visit: u32, observer: &mut impl Observer) {
        let at = self.visits[visit as usize];
        let instance = at.instance as usize;
        self.servers[instance].sums.busy_s += f64::from(at.busy_s);
        if !self.mesh.services[self.mesh.instances[instance].service].holds_worker {
            self.release(visit, observer);
        }
        self.proceed(visit, observer);
    }

    /// A worker is free again: it takes the next in the queue that has not waited too long.
    fn release(&mut self, visit: u32, observer: &mut impl Observer) {
        let at = &mut self.visits[visit as usize];
        if !std::mem::take(&mut at.has_worker) {
            return;
        }
        let instance = at.instance as usize;
        self.servers[instance].occupy(self.now);
        self.servers[instance].busy -= 1;
        while let Some(next) = self.servers[instance].queue.pop_front() {
            if self.now - self.visits[next as usize].arrived <= LONGEST_WAIT {
                return self.start(next, observer);
            }
            self.leave(next, End::Failed, 0, observer);
        }
    }

    /// Makes the calls of the next stage that has any, or answers.
    pub(super) fn proceed(&mut self, visit: u32, observer: &mut impl Observer) {
        let mesh = self.mesh;
        let Visit { instance, handler, .. } = self.visits[visit as usize];
        let service = &mesh.services[mesh.instances[instance as usize].service];
        let stages = &service.handlers[handler as usize].stages;
        self.visits[visit as usize].phase = Phase::Calling;
        loop {
            let at = &mut self.visits[visit as usize];
            if at.bad {
                return self.leave(visit, End::Failed, 0, observer);
            }
            let Some(stage) = stages.get(at.stage as usize) else {
                return self.leave(visit, End::Good, 0, observer);
            };
            at.stage += 1;
            for call in stage {
                let surely = call.times as u32;
                let rest = call.times - f64::from(surely);
                let times = surely + u32::from(rest > 0.0 && self.draw.chance(rest));
                if times > 0 {
                    self.first_try(visit, call.dependency, call.handler, times - 1, observer);
                }
            }
            if self.visits[visit as usize].open > 0 {
                return;
            }
        }
    }

    /// A request ends at its instance, well or not; its answer sets out after a while.
    pub(super) fn leave(&mut self, visit: u32, end: End, after: u64, observer: &mut impl Observer) {
        let at = &mut self.visits[visit as usize];
        at.end = end;
        at.phase = Phase::Answering;
        let (instance, arrived, inside, met) = (at.instance as usize, at.arrived, at.inside, at.met);
        at.inside = false;
        if inside {
            let server = &mut self.servers[instance];
            server.in_flight -= 1;
            if end == End::Good {
                server.learn(met, (self.now - arrived) as f32 * 1e-9);
            } else {
                server.sums.failed += 1;
            }
        }
        self.release(visit, observer);
        let at = self.visits[visit as usize];
        if at.parent == NONE {
            let now = Time(self.now + after);
            observer.finished(at.pair_or_entry as usize, Time(at.began), now, end == End::Good);
            return self.release_slot(visit);
        }
        let way = self.way(at.pair_or_entry as usize, at.handler as usize);
        self.queue.plan(self.now + after + way, Event::Answer(visit));
    }

    /// One way on a pair in nanoseconds, for a call of this handler.
    pub(super) fn way(&mut self, pair: usize, handler: usize) -> u64 {
        let mesh = self.mesh;
        let service = mesh.instances[mesh.pairs[pair].destination].service;
        let bytes = mesh.services[service].handlers[handler].bytes;
        let (base, extra) = (self.plan.base_s[pair], &self.active.extra[pair]);
        nanos(crate::simulator::network::way_s(&mesh.network, base, extra, bytes, &mut self.draw))
    }
}
