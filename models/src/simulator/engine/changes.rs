//! What time itself brings: the next request, faults that begin and end, pauses, cold instances that warm up, reports.

use super::state::{End, Phase};
use super::{Active, Engine, Event, Observer, PICKS_KEEP, SECOND, nanos};
use crate::simulator::load::SLOT_S;
use pathloom::links::orca::Report;

/// A beat is this long; each fourth ends a second.
const BEAT: u64 = SECOND / 4;
/// How many slots of the load a source looks ahead for its next request.
const LOOK_AHEAD: usize = 600;
/// How much pauses differ in length: the deviation of the logarithm.
const PAUSE_SIGMA: f64 = 0.3;

impl Engine<'_> {
    /// Plans what a simulation begins with.
    pub(super) fn begin(&mut self) {
        let ends = self.plan.faults.iter().flat_map(|f| [f.from_s, f.until_s]);
        let lives = self.mesh.instances.iter().filter_map(|i| i.alive_s).flat_map(|(from, until)| [from, until]);
        let mut changes: Vec<u64> = ends.chain(lives).filter(|s| *s > 0.0 && *s < 1e9).map(nanos_up).collect();
        changes.sort_unstable();
        changes.dedup();
        changes.into_iter().for_each(|at| self.queue.plan(at, Event::Change));
        self.queue.plan(BEAT, Event::Beat);
        for instance in 0..self.mesh.instances.len() {
            if !self.active.alive[instance] {
                self.set_usable(instance, false);
            }
            self.plan_pause(instance);
        }
        (0..self.plan.sources.len()).for_each(|source| self.next_entry(source as u32));
    }

    /// Plans a source's next request: an exponential draw of work for a rate that is constant in each slot.
    pub(super) fn next_entry(&mut self, source: u32) {
        let plan = self.plan.clone();
        let rate = plan.sources[source as usize].rate;
        let mut left = self.fate.exponential();
        let mut time = self.now as f64 * 1e-9;
        for _ in 0..LOOK_AHEAD {
            // The middle of the slot says what holds in it; a moment at its very end belongs to the next.
            let slot = (time / SLOT_S + 1e-9).floor();
            let end = (slot + 1.0) * SLOT_S;
            let rate = rate * plan.load.factor((slot + 0.5) * SLOT_S);
            let needed = (end - time) * rate;
            if left < needed {
                return self.queue.plan(nanos_up(time + left / rate).max(self.now), Event::Enter(source));
            }
            left -= needed;
            time = end;
        }
        self.queue.plan(nanos_up(time).max(self.now), Event::Look(source));
    }

    /// Faults begin or end, instances join or leave.
    pub(super) fn change(&mut self, observer: &mut impl Observer) {
        let now = self.active_now();
        let before = std::mem::replace(&mut self.active, now);
        for host in 0..self.mesh.hosts.len() {
            if before.cores[host] != self.active.cores[host] {
                self.hosts[host].set_cores(self.now, self.mesh.hosts[host].cores * self.active.cores[host]);
                self.plan_work(host);
            }
        }
        for instance in 0..self.mesh.instances.len() {
            if self.active.crashed[instance] && !before.crashed[instance] {
                self.crash(instance, observer);
            }
            self.plan_pause(instance);
        }
    }

    /// What holds now; a nanosecond later, so that what begins now holds whatever rounding did.
    fn active_now(&self) -> Active {
        Active::at(self.mesh, &self.plan.faults, (self.now + 1) as f64 * 1e-9)
    }

    /// An instance is gone, with all that was in it.
    fn crash(&mut self, instance: usize, observer: &mut impl Observer) {
        let host = self.mesh.instances[instance].host;
        let visits = &self.visits;
        let _ = self.hosts[host].remove(self.now, |visit| visits[visit as usize].instance as usize == instance);
        self.plan_work(host);
        let server = &mut self.servers[instance];
        server.occupy(self.now);
        server.busy = 0;
        server.queue.clear();
        server.held.clear();
        server.report = None;
        for visit in 0..self.visits.len() {
            let at = &mut self.visits[visit];
            if at.instance as usize == instance && at.inside && at.phase != Phase::Free {
                at.has_worker = false;
                self.totals.lost += 1;
                self.leave(visit as u32, End::Failed, 0, observer);
            }
        }
    }

    /// Plans an instance's next pause if it has pauses now and none is planned.
    fn plan_pause(&mut self, instance: usize) {
        let Some(pause) = self.active.pause[instance] else { return };
        if std::mem::replace(&mut self.servers[instance].pausing, true) {
            return;
        }
        let wait = pause.period_s * self.fate.uniform(0.0, 1.0);
        self.queue.plan(self.now + nanos(wait), Event::Pause(instance as u32));
    }

    /// An instance stands still: what it works on is put aside with what is left of it.
    pub(super) fn pause(&mut self, instance: u32) {
        let index = instance as usize;
        let Some(pause) = self.active.pause[index] else {
            self.servers[index].pausing = false;
            return;
        };
        let host = self.mesh.instances[index].host;
        let visits = &self.visits;
        let held = self.hosts[host].remove(self.now, |visit| visits[visit as usize].instance == instance);
        self.plan_work(host);
        self.servers[index].paused = true;
        self.servers[index].held.extend(held);
        let length = pause.length_s * self.fate.spread(PAUSE_SIGMA);
        self.queue.plan(self.now + nanos(length), Event::Resume(instance));
    }

    /// It goes on.
    pub(super) fn resume(&mut self, instance: u32) {
        let index = instance as usize;
        let host = self.mesh.instances[index].host;
        let server = &mut self.servers[index];
        server.paused = false;
        for (visit, left_s) in server.held.drain(..) {
            self.hosts[host].add(self.now, visit, left_s);
        }
        self.plan_work(host);
        match self.active.pause[index] {
            None => self.servers[index].pausing = false,
            Some(pause) => {
                let between = (pause.period_s - pause.length_s).max(0.01 * pause.period_s);
                let wait = between * (0.5 + 0.5 * self.fate.exponential());
                self.queue.plan(self.now + nanos(wait), Event::Pause(instance));
            }
        }
    }

    /// A quarter of a second has passed: what is cold warms up; each second instances report and picks fade.
    pub(super) fn beat(&mut self) {
        self.queue.plan(self.now + BEAT, Event::Beat);
        self.beats += 1;
        if self.active.cold {
            // Only how warm they are: what begins and ends has its own event.
            let Active { slow, fault_slow, cold, .. } = self.active_now();
            (self.active.slow, self.active.fault_slow, self.active.cold) = (slow, fault_slow, cold);
        }
        if self.beats.is_multiple_of(SECOND / BEAT) {
            self.picks.iter_mut().for_each(|p| *p *= PICKS_KEEP);
            (0..self.mesh.instances.len()).for_each(|i| self.report(i));
        }
    }

    /// An instance looks at itself over the last second.
    fn report(&mut self, instance: usize) {
        let of = &self.mesh.instances[instance];
        let service = &self.mesh.services[of.service];
        let server = &mut self.servers[instance];
        if !service.reports || !self.active.alive[instance] || self.active.crashed[instance] {
            return;
        }
        server.occupy(self.now);
        let before = std::mem::replace(&mut server.reported, server.sums);
        let cores = self.mesh.hosts[of.host].cores.min(service.workers as f64).max(1e-3);
        let noise = self.fate.spread(0.05);
        server.report = Some(Report {
            cpu_utilization: Some(((server.sums.busy_s - before.busy_s) / cores * noise).clamp(0.0, 1.0)),
            mem_utilization: Some((server.memory * self.fate.spread(0.02)).clamp(0.0, 1.0)),
            application_utilization: Some((server.sums.occupied_s - before.occupied_s) / service.workers as f64),
            requests_per_second: Some(f64::from(server.sums.arrived - before.arrived)),
            errors_per_second: Some(f64::from(server.sums.failed - before.failed)),
        });
    }
}

/// Nanoseconds, rounded up.
fn nanos_up(seconds: f64) -> u64 {
    (seconds * 1e9).ceil() as u64
}
