//! What a model should have said: the labels that only a simulator knows.
//!
//! The **intrinsic** latency of a link is the mean that a call on it would take now at its fair share of load, if nobody
//! waited for anything that the mesh itself keeps busy:
//! ```text
//! intrinsic(s -> d) = round trip(s, d) + inside(d, handler)
//! inside(d, h)      = work(h) x slow(d) x contention(host) + pauses(d) + sum over stages of E[max over the stage's calls]
//! call              = times x sum over replicas r of share(d, r) x intrinsic(d -> r)
//! ```
//! - Round trip: two ways with their heavy tail, faults, and losses with retransmission (`network::way_moments`). New connections are left out.
//! - `slow`: the replica's own slowness, gray faults and cold start (`Active::slow`).
//! - Contention: **only what a noisy neighbour adds.** With the mesh's present demand on the host, divided among each
//!   service's replicas by capacity, processor sharing on c cores stretches work by `1 + W(c)`, W the wait of M/M/c in
//!   service times (exact for processor sharing, by insensitivity; Sakasegawa's approximation of W). The factor is that
//!   stretch with the cores that are left over the stretch with all: what the mesh's own neighbours do to each other at
//!   full cores is queueing of its own making and is not in it. Utilisation counts up to `FULLEST`, so it stays finite.
//! - Pauses of length L every P seconds: `L x L / 2P` for coming in one and `work x L / (P - L)` for those that begin meanwhile.
//! - A stage's calls run side by side: the mean of their maximum by Clark (1961) from means and variances as if normal
//!   and independent, two at a time. Calls that are made with a probability count with mean and variance of the mixture.
//! - `share`: how d divides its calls at present (recent picks), among those that are there.

use super::engine::PICKS_KEEP;
use super::faults::{Active, Pause};
use super::mesh::Mesh;
use super::network;

/// One pick of each replica in use beyond those seen, so that what is idle has a share too.
const UNSEEN: f64 = 0.1;
/// The greatest utilisation that contention counts with.
const FULLEST: f64 = 0.9;
/// A path is in trouble when faults make it take more than this many times as long.
const NOTABLE: f64 = 1.2;

/// What makes a path slower than it was, if anything does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The link itself.
    Link,
    /// The called instance.
    Gray,
    /// Something that the called instance depends on.
    Downstream,
}

impl Trouble {
    /// All kinds, by their number.
    pub const ALL: [Trouble; 4] = [Trouble::None, Trouble::Link, Trouble::Gray, Trouble::Downstream];
}

/// A mean and a variance.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Moments {
    mean: f64,
    variance: f64,
}

impl Moments {
    fn plus(self, other: Self) -> Self {
        Self { mean: self.mean + other.mean, variance: self.variance + other.variance }
    }

    fn square(self) -> f64 {
        self.mean * self.mean + self.variance
    }

    /// The maximum of two, by Clark.
    fn max(self, other: Self) -> Self {
        let spread = (self.variance + other.variance).sqrt();
        if spread <= 1e-12 {
            return if self.mean >= other.mean { self } else { other };
        }
        let alpha = (self.mean - other.mean) / spread;
        let (up, density) = (normal_cdf(alpha), (-0.5 * alpha * alpha).exp() / std::f64::consts::TAU.sqrt());
        let mean = self.mean * up + other.mean * (1.0 - up) + spread * density;
        let square = self.square() * up + other.square() * (1.0 - up) + (self.mean + other.mean) * spread * density;
        Self { mean, variance: (square - mean * mean).max(0.0) }
    }

    /// This many of it, one after another; the part of a whole one with that probability.
    fn times(self, times: f64) -> Self {
        let rest = times.fract();
        let variance = times * self.variance + rest * (1.0 - rest) * self.mean * self.mean;
        Self { mean: times * self.mean, variance }
    }
}

/// Abramowitz and Stegun 7.1.26: within 1e-7.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let erfc = series.iter().fold(0.0, |sum, c| sum * t + c) * t * (-z * z).exp();
    if x >= 0.0 { 1.0 - 0.5 * erfc } else { 0.5 * erfc }
}

/// What of a mesh the truth needs again and again: who calls whom how often, in an order in which all that calls comes first.
#[derive(Debug, Clone)]
pub struct Truth<'m> {
    mesh: &'m Mesh,
    /// Service and handler, callers before called.
    order: Vec<(usize, usize)>,
    /// For each service and dependency, how its calls divide among the called service's handlers.
    mix: Vec<Vec<Vec<(usize, f64)>>>,
    /// For each service, seconds of work a second at load 1 and speed 1.
    demand: Vec<f64>,
    /// Calls a second at load 1.
    calls: f64,
    /// For each pair, its mean round trip in seconds without faults.
    base_s: Vec<f64>,
    /// Where each instance's handlers begin.
    first: Vec<usize>,
}

/// A pair's intrinsic latency and where it comes from, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// The round trip.
    pub link_s: f64,
    /// The called instance's own work.
    pub own_s: f64,
    /// All, what it calls included. NaN where the called instance is gone.
    pub total_s: f64,
}

impl<'m> Truth<'m> {
    /// Looks at a mesh.
    #[must_use]
    pub fn new(mesh: &'m Mesh) -> Self {
        let offsets: Vec<usize> = mesh
            .services
            .iter()
            .scan(0, |next, s| {
                *next += s.handlers.len();
                Some(*next - s.handlers.len())
            })
            .collect();
        let count = mesh.services.iter().map(|s| s.handlers.len()).sum();
        let node = |service: usize, handler: usize| offsets[service] + handler;
        let mut callers = vec![0usize; count];
        for (service, of) in mesh.services.iter().enumerate() {
            for call in of.handlers.iter().flat_map(|h| h.stages.iter().flatten()) {
                callers[node(mesh.services[service].called[call.dependency], call.handler)] += 1;
            }
        }
        let all = mesh.services.iter().enumerate().flat_map(|(s, of)| (0..of.handlers.len()).map(move |h| (s, h)));
        let mut order: Vec<(usize, usize)> = all.filter(|(s, h)| callers[node(*s, *h)] == 0).collect();
        let mut rate = vec![0.0; count];
        mesh.entries.iter().for_each(|e| rate[node(e.service, e.handler)] += e.rate);
        let mut mix: Vec<Vec<Vec<(usize, f64)>>> =
            mesh.services.iter().map(|s| vec![Vec::new(); s.called.len()]).collect();
        let (mut next, mut calls) = (0, 0.0);
        while let Some((service, handler)) = order.get(next).copied() {
            next += 1;
            let of = &mesh.services[service];
            let own = rate[node(service, handler)];
            for call in of.handlers[handler].stages.iter().flatten() {
                let called = of.called[call.dependency];
                let target = node(called, call.handler);
                rate[target] += own * call.times;
                calls += own * call.times;
                // What nobody sends is weighed a little, so that unused handlers have a truth too.
                let weight = (own + 1e-9) * call.times;
                let mix = &mut mix[service][call.dependency];
                match mix.iter_mut().find(|(h, _)| *h == call.handler) {
                    Some((_, share)) => *share += weight,
                    None => mix.push((call.handler, weight)),
                }
                callers[target] -= 1;
                if callers[target] == 0 {
                    order.push((called, call.handler));
                }
            }
        }
        for shares in mix.iter_mut().flatten() {
            let total: f64 = shares.iter().map(|(_, w)| w).sum();
            shares.iter_mut().for_each(|(_, w)| *w /= total.max(1e-300));
        }
        let work = |(s, of): (usize, &super::mesh::Service)| {
            of.handlers.iter().enumerate().map(|(h, of)| rate[node(s, h)] * of.work.mean_s()).sum()
        };
        let handlers = |i: &super::mesh::Instance| mesh.services[i.service].handlers.len();
        let first = mesh.instances.iter().scan(0, |next, i| {
            *next += handlers(i);
            Some(*next - handlers(i))
        });
        Self {
            order,
            mix,
            demand: mesh.services.iter().enumerate().map(work).collect(),
            calls,
            base_s: mesh.pairs.iter().map(|p| network::base_s(mesh, *p)).collect(),
            first: first.collect(),
            mesh,
        }
    }

    /// For each host, how much slower work is there because a neighbour outside the mesh has taken cores; 1 without one.
    #[must_use]
    pub fn contention(&self, active: &Active, picks: &[f32]) -> Vec<f64> {
        let mesh = self.mesh;
        if active.cores.iter().all(|share| *share >= 1.0) {
            return vec![1.0; mesh.hosts.len()];
        }
        let seen: f64 = picks.iter().map(|p| f64::from(*p)).sum::<f64>() * f64::from((1.0 - PICKS_KEEP) / PICKS_KEEP);
        let load = (seen / self.calls.max(1e-9)).clamp(0.1, 2.0);
        let here = |i: &usize| active.alive[*i] && !active.crashed[*i];
        let mut demand = vec![0.0; mesh.hosts.len()];
        for (service, seconds) in mesh.services.iter().zip(&self.demand) {
            // By capacity: each replica has as much to do as its speed allows, so all are equally busy.
            let speeds: f64 = service.replicas.iter().filter(|i| here(i)).map(|i| 1.0 / active.slow[*i]).sum();
            for i in service.replicas.iter().filter(|i| here(i)) {
                demand[mesh.instances[*i].host] += seconds * load / speeds.max(1e-9);
            }
        }
        let factor = |(h, share): (usize, &f64)| {
            let cores = mesh.hosts[h].cores;
            if *share >= 1.0 { 1.0 } else { stretch(demand[h], cores * share) / stretch(demand[h], cores) }
        };
        active.cores.iter().enumerate().map(factor).collect()
    }

    /// The intrinsic latency of each pair now, and its parts. `picks` are recent picks of each pair (`Engine::picks`).
    #[must_use]
    pub fn parts(&self, active: &Active, picks: &[f32]) -> Vec<Parts> {
        let mesh = self.mesh;
        let contention = self.contention(active, picks);
        let shares = self.shares(active, picks);
        let count = self.first.last().zip(mesh.instances.last());
        let count = count.map_or(0, |(first, i)| first + mesh.services[i.service].handlers.len());
        let (mut inside, mut own) = (vec![Moments::default(); count], vec![0.0; count]);
        for (service, handler) in self.order.iter().rev() {
            let of = &mesh.services[*service].handlers[*handler];
            let (mean, square) = (of.work.mean_s(), of.work.square_s2());
            for instance in &mesh.services[*service].replicas {
                let slow = active.slow[*instance] * contention[mesh.instances[*instance].host];
                let work = Moments { mean: mean * slow, variance: (square - mean * mean).max(0.0) * slow * slow };
                let mut sum = active.pause[*instance].map_or(work, |pause| paused(work, pause));
                let at = self.first[*instance] + handler;
                own[at] = sum.mean;
                for stage in &of.stages {
                    let calls = stage.iter().map(|call| {
                        let pairs = &mesh.routes[*instance][call.dependency].pairs;
                        self.one(active, pairs, call.handler, &shares, &inside).times(call.times)
                    });
                    sum = sum.plus(calls.reduce(Moments::max).unwrap_or_default());
                }
                inside[at] = sum;
            }
        }
        let mut parts = vec![Parts { link_s: f64::NAN, own_s: f64::NAN, total_s: f64::NAN }; mesh.pairs.len()];
        for (source, routes) in mesh.routes.iter().enumerate() {
            let mixes = &self.mix[mesh.instances[source].service];
            for (route, mix) in routes.iter().zip(mixes) {
                for pair in &route.pairs {
                    let destination = mesh.pairs[*pair].destination;
                    let (mut link_s, mut own_s, mut total_s) = (0.0, 0.0, 0.0);
                    for (handler, share) in mix {
                        let way = self.round_trip(active, *pair, *handler).mean;
                        link_s += share * way;
                        own_s += share * own[self.first[destination] + handler];
                        total_s += share * (way + inside[self.first[destination] + handler].mean);
                    }
                    let gone = active.crashed[destination] || !active.alive[destination] || mix.is_empty();
                    parts[*pair] = Parts { link_s, own_s, total_s: if gone { f64::NAN } else { total_s } };
                }
            }
        }
        parts
    }

    /// The intrinsic latency of each pair now, in seconds; NaN where the called instance is gone.
    #[must_use]
    pub fn intrinsic(&self, active: &Active, picks: &[f32]) -> Vec<f64> {
        self.parts(active, picks).into_iter().map(|p| p.total_s).collect()
    }

    /// What kind of trouble each pair is in, by the part that faults have made longer by most.
    #[must_use]
    pub fn trouble(&self, active: &Active, picks: &[f32]) -> Vec<Trouble> {
        let sound = Active { alive: active.alive.clone(), ..Active::at(self.mesh, &[], 0.0) };
        let (before, now) = (self.parts(&sound, picks), self.parts(active, picks));
        let of = |(before, now): (&Parts, &Parts)| {
            let more = now.total_s - before.total_s;
            if more.is_nan() || more <= (NOTABLE - 1.0) * before.total_s {
                return Trouble::None;
            }
            let (link, own) = (now.link_s - before.link_s, now.own_s - before.own_s);
            let downstream = more - link - own;
            if link >= own && link >= downstream {
                Trouble::Link
            } else if own >= downstream {
                Trouble::Gray
            } else {
                Trouble::Downstream
            }
        };
        before.iter().zip(&now).map(of).collect()
    }

    /// For each pair, its part of its route's calls.
    fn shares(&self, active: &Active, picks: &[f32]) -> Vec<f64> {
        let mut shares = vec![0.0; self.mesh.pairs.len()];
        for route in self.mesh.routes.iter().flatten() {
            let here = |p: usize| {
                let i = self.mesh.pairs[p].destination;
                active.alive[i] && !active.crashed[i]
            };
            let none = !route.pairs.iter().any(|p| here(*p));
            let weight = |p: usize| if none || here(p) { f64::from(picks[p]) + UNSEEN } else { 0.0 };
            let total: f64 = route.pairs.iter().map(|p| weight(*p)).sum();
            route.pairs.iter().for_each(|p| shares[*p] = weight(*p) / total);
        }
        shares
    }

    fn round_trip(&self, active: &Active, pair: usize, handler: usize) -> Moments {
        let mesh = self.mesh;
        let service = mesh.instances[mesh.pairs[pair].destination].service;
        let bytes = mesh.services[service].handlers[handler].bytes;
        let (mean, variance) = network::way_moments(&mesh.network, self.base_s[pair], &active.extra[pair], bytes);
        Moments { mean: 2.0 * mean, variance: 2.0 * variance }
    }

    /// One call over a route's present shares.
    fn one(&self, active: &Active, pairs: &[usize], handler: usize, shares: &[f64], inside: &[Moments]) -> Moments {
        let (mut mean, mut square) = (0.0, 0.0);
        for pair in pairs.iter().filter(|p| shares[**p] > 0.0) {
            let destination = self.mesh.pairs[*pair].destination;
            let whole = self.round_trip(active, *pair, handler).plus(inside[self.first[destination] + handler]);
            mean += shares[*pair] * whole.mean;
            square += shares[*pair] * whole.square();
        }
        Moments { mean, variance: (square - mean * mean).max(0.0) }
    }
}

/// How many times as long work takes on so many cores under processor sharing, `demand` of which are in use on average.
fn stretch(demand: f64, cores: f64) -> f64 {
    let cores = cores.max(1e-3);
    let full = (demand / cores).min(FULLEST);
    if cores < 1.0 {
        return 1.0 / cores / (1.0 - full);
    }
    1.0 + full.powf((2.0 * (cores + 1.0)).sqrt() - 1.0) / (cores * (1.0 - full))
}

/// Work on an instance that stands still now and then.
fn paused(work: Moments, pause: Pause) -> Moments {
    let Pause { period_s, length_s } = pause;
    let (inside, between) = (length_s / period_s, (period_s - length_s).max(0.01 * period_s));
    let begin =
        Moments { mean: inside * length_s / 2.0, variance: inside * length_s * length_s * (1.0 / 3.0 - inside / 4.0) };
    let meanwhile = work.mean / between;
    work.plus(begin).plus(Moments { mean: meanwhile * length_s, variance: meanwhile * length_s * length_s })
}

/// The intrinsic latency of each pair now, in seconds; see `Truth`, which is faster when asked again.
#[must_use]
pub fn intrinsic(mesh: &Mesh, active: &Active, picks: &[f32]) -> Vec<f64> {
    Truth::new(mesh).intrinsic(active, picks)
}

/// What kind of trouble each pair is in; see `Truth`.
#[must_use]
pub fn trouble(mesh: &Mesh, active: &Active, picks: &[f32]) -> Vec<Trouble> {
    Truth::new(mesh).trouble(active, picks)
}
