//! The proxy's side: picking a candidate, its connection, what comes back, second tries, probes.

use super::state::{End, Phase, Probing, Visit};
use super::{Engine, Event, Observer};
use pathloom::links::Outcome;

/// What a second try costs is 1; each first try earns this much: at most a fifth of requests are tried twice.
const EARNED: f32 = 0.2;
/// What a route has at first, and the most that it can save up.
pub const FIRST_TOKENS: f32 = 1.0;
/// See `FIRST_TOKENS`.
const MOST_TOKENS: f32 = 20.0;
/// How likely a failed call fails the request that made it: what else it calls for may do without.
const FAILURE_SPREADS: f64 = 0.7;

impl Engine<'_> {
    /// A visit makes a call, and `repeats` more of the same after it.
    pub(super) fn first_try(
        &mut self,
        parent: u32,
        dependency: usize,
        handler: usize,
        repeats: u32,
        observer: &mut impl Observer,
    ) {
        let source = self.visits[parent as usize].instance as usize;
        let route = &mut self.routes[source][dependency];
        route.tokens = (route.tokens + EARNED).min(MOST_TOKENS);
        self.call(parent, dependency, handler, repeats, None, observer);
    }

    /// Sends a call, for the second time if a position was `tried`.
    fn call(
        &mut self,
        parent: u32,
        dependency: usize,
        handler: usize,
        repeats: u32,
        tried: Option<usize>,
        observer: &mut impl Observer,
    ) {
        let mesh = self.mesh;
        let Visit { instance, generation, .. } = self.visits[parent as usize];
        let source = instance as usize;
        let pairs = &mesh.routes[source][dependency].pairs;
        if pairs.is_empty() {
            self.visits[parent as usize].bad |= self.draw.chance(FAILURE_SPREADS);
            return;
        }
        let position = self.choose(source, dependency, tried).min(pairs.len() - 1);
        let (pair, now) = (pairs[position], self.time());
        self.picks[pair] += 1.0;
        self.totals.calls += 1;
        self.balancers[source][dependency].began(position, now);
        observer.begin(pair, now);
        let mut way = self.way(pair, handler);
        if self.pools[pair].take(self.now) {
            self.totals.connections += 1;
            way += self.way(pair, handler) + self.way(pair, handler);
        }
        let visit = self.slot(Visit {
            parent,
            parent_generation: generation,
            pair_or_entry: pair as u32,
            instance: mesh.pairs[pair].destination as u32,
            handler: handler as u32,
            dependency: dependency as u32,
            position: position as u32,
            repeats,
            retried: tried.is_some(),
            ..self.blank()
        });
        self.visits[parent as usize].open += 1;
        self.queue.plan(self.now + way, Event::Arrive(visit));
        self.send_probes(source, dependency);
    }

    fn choose(&mut self, source: usize, dependency: usize, tried: Option<usize>) -> usize {
        let now = self.time();
        let count = self.mesh.routes[source][dependency].pairs.len();
        let usable = self.routes[source][dependency].usable.as_deref().unwrap_or(&self.plan.all[..count]);
        let balancer = &mut self.balancers[source][dependency];
        match tried {
            Some(tried) if usable.len() > 1 => {
                self.rest.clear();
                self.rest.extend(usable.iter().filter(|p| **p != tried));
                balancer.pick(now, &mut self.draw, &self.rest, &[tried])
            }
            Some(tried) => balancer.pick(now, &mut self.draw, usable, &[tried]),
            None => balancer.pick(now, &mut self.draw, usable, &[]),
        }
    }

    /// An answer is back at its caller's proxy.
    pub(super) fn answer(&mut self, visit: u32, observer: &mut impl Observer) {
        let done = self.visits[visit as usize];
        self.release_slot(visit);
        let (pair, now) = (done.pair_or_entry as usize, self.time());
        let source = self.mesh.pairs[pair].source;
        let (dependency, position) = (done.dependency as usize, done.position as usize);
        let destination = done.instance as usize;
        let gone = self.active.crashed[destination] || !self.active.alive[destination];
        self.pools[pair].give_back(self.now, gone);
        let parent = &self.visits[done.parent as usize];
        let awaited = parent.generation == done.parent_generation && parent.phase == Phase::Calling;
        let outcome = if awaited { done.end.outcome() } else { Outcome::Cancelled };
        let latency_s = (self.now - done.began) as f32 * 1e-9;
        let report = self.servers[destination].report.as_ref().filter(|_| done.end == End::Good);
        self.balancers[source][dependency].ended(position, now, latency_s, outcome, report);
        observer.end(pair, now, latency_s, outcome);
        if let Some(report) = report {
            observer.reported(pair, now, report);
        }
        if !awaited {
            return;
        }
        self.visits[done.parent as usize].open -= 1;
        self.go_on(&done, observer);
    }

    /// What the caller does after an answer: tries again, makes the same call once more, or goes on when all are back.
    fn go_on(&mut self, done: &Visit, observer: &mut impl Observer) {
        let Visit { parent, repeats, .. } = *done;
        let (dependency, handler) = (done.dependency as usize, done.handler as usize);
        if done.end != End::Good {
            let source = self.visits[parent as usize].instance as usize;
            let route = &mut self.routes[source][dependency];
            if done.end == End::Refused && !done.retried && route.tokens >= 1.0 {
                route.tokens -= 1.0;
                self.totals.retries += 1;
                return self.call(parent, dependency, handler, repeats, Some(done.position as usize), observer);
            }
            self.visits[parent as usize].bad |= self.draw.chance(FAILURE_SPREADS);
        }
        if repeats > 0 && !self.visits[parent as usize].bad {
            self.first_try(parent, dependency, handler, repeats - 1, observer);
        }
        if self.visits[parent as usize].open == 0 {
            self.proceed(parent, observer);
        }
    }

    /// Sends the probes that a balancer wants.
    fn send_probes(&mut self, source: usize, dependency: usize) {
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.clear();
        self.balancers[source][dependency].probes(&mut self.draw, &mut wanted);
        for position in &wanted {
            let Some(pair) = self.mesh.routes[source][dependency].pairs.get(*position).copied() else { continue };
            let probing =
                Probing { pair: pair as u32, dependency: dependency as u32, position: *position as u32, found: None };
            let slot = if let Some(slot) = self.probing_free.pop() {
                self.probing[slot as usize] = probing;
                slot
            } else {
                self.probing.push(probing);
                (self.probing.len() - 1) as u32
            };
            self.totals.probes += 1;
            let way = self.way(pair, 0);
            self.queue.plan(self.now + way, Event::Probe(slot));
        }
        self.wanted = wanted;
    }

    /// A probe has reached its instance. One that is gone never answers.
    pub(super) fn probe(&mut self, probe: u32) {
        let pair = self.probing[probe as usize].pair as usize;
        let instance = self.mesh.pairs[pair].destination;
        if self.active.crashed[instance] || !self.active.alive[instance] {
            return self.probing_free.push(probe);
        }
        self.probing[probe as usize].found = Some(self.servers[instance].probe());
        let way = self.way(pair, 0);
        self.queue.plan(self.now + way, Event::Probed(probe));
    }

    /// A probe's answer is back.
    pub(super) fn probed(&mut self, probe: u32) {
        let Probing { pair, dependency, position, found } = self.probing[probe as usize];
        self.probing_free.push(probe);
        let (source, now) = (self.mesh.pairs[pair as usize].source, self.time());
        if let Some(found) = found {
            self.balancers[source][dependency as usize].probed(position as usize, now, found);
        }
    }
}
