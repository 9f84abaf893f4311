//! Plain policies: for variety in what models are trained on. A fleet that runs only one leaves out what others would show.
//!
//! Rivals that are measured against the sidecar's own pick, tuned and with all their parts, are not here.

use super::balancer::Balancer;
use super::mesh::Mesh;
use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{LocalEstimate, Outcome, Time};

/// What estimates decay to without samples, and their time constant, in seconds.
const PRIOR_S: f32 = 0.02;
const TAU_S: f32 = 3.0;
/// Peak EWMA as Linkerd has it: 10 s, 30 ms.
const EWMA_TAU_S: f32 = 10.0;
const EWMA_START_S: f32 = 0.030;
/// How often `SameZone` stays in its zone.
const STAYS: f64 = 0.9;

/// A plain policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// The one with fewer of this caller's requests in flight, of two drawn.
    LeastRequest,
    /// By weights of the positions, which may leave links all but unused.
    Weighted(Vec<f64>),
    /// Nine of ten among these positions, the near ones.
    Near(Vec<usize>),
    /// The lower peak EWMA x (in flight + 1), of two drawn.
    PeakEwma,
    /// The least estimate x (in flight + 1) of all, the estimate being the sidecar's own.
    LeastCost,
}

impl Policy {
    /// A random policy for a caller and a called service.
    pub fn random(mesh: &Mesh, source: usize, dependency: usize, draw: &mut Draw) -> Self {
        Self::of_number(draw.whole(0, 7), mesh, source, dependency, draw)
    }

    /// One of each number from 0 to 7; 6 and 7 are weighted ones.
    fn of_number(number: usize, mesh: &Mesh, source: usize, dependency: usize, draw: &mut Draw) -> Self {
        let pairs = &mesh.routes[source][dependency].pairs;
        match number {
            0 => Policy::RoundRobin,
            1 => Policy::Random,
            2 => Policy::LeastRequest,
            3 => Policy::near(mesh, source, dependency),
            4 => Policy::PeakEwma,
            5 => Policy::LeastCost,
            // Skewed: some links carry a hundredth of the traffic of others.
            _ => Policy::Weighted(pairs.iter().map(|_| draw.log_uniform(0.005, 1.0)).collect()),
        }
    }

    /// Mostly in the caller's zone.
    #[must_use]
    pub fn near(mesh: &Mesh, source: usize, dependency: usize) -> Self {
        let zone = |i: usize| mesh.hosts[mesh.instances[i].host].zone;
        let pairs = &mesh.routes[source][dependency].pairs;
        let same = |p: &usize| zone(mesh.pairs[pairs[*p]].destination) == zone(source);
        Policy::Near((0..pairs.len()).filter(same).collect())
    }

    /// A balancer of this policy for so many candidates.
    #[must_use]
    pub fn balancer(self, candidates: usize) -> Box<dyn Balancer> {
        let estimates = match self {
            Policy::PeakEwma | Policy::LeastCost => vec![LocalEstimate::default(); candidates],
            _ => Vec::new(),
        };
        Box::new(Simple { policy: self, turn: 0, in_flight: vec![0; candidates], estimates })
    }
}

/// The same policy everywhere.
#[must_use]
pub fn everywhere(mesh: &Mesh, policy: &Policy) -> Vec<Vec<Box<dyn Balancer>>> {
    let of = |routes: &Vec<super::mesh::Route>| {
        routes.iter().map(|r| policy.clone().balancer(r.pairs.len())).collect::<Vec<_>>()
    };
    mesh.routes.iter().map(of).collect()
}

/// For each called service, seen from each calling service, one random policy, as an operator would set it.
pub fn random(mesh: &Mesh, draw: &mut Draw) -> Vec<Vec<Box<dyn Balancer>>> {
    let kinds: Vec<Vec<usize>> =
        mesh.services.iter().map(|s| s.called.iter().map(|_| draw.whole(0, 7)).collect()).collect();
    let mut all = Vec::with_capacity(mesh.instances.len());
    for (source, instance) in mesh.instances.iter().enumerate() {
        let of = |(dependency, route): (usize, &super::mesh::Route)| {
            let kind = kinds[instance.service].get(dependency).copied().unwrap_or(1);
            Policy::of_number(kind, mesh, source, dependency, draw).balancer(route.pairs.len())
        };
        all.push(mesh.routes[source].iter().enumerate().map(of).collect());
    }
    all
}

#[derive(Debug, Clone)]
struct Simple {
    policy: Policy,
    turn: usize,
    in_flight: Vec<u32>,
    estimates: Vec<LocalEstimate>,
}

impl Simple {
    fn cost(&self, position: usize, now: Time) -> f32 {
        let (prior, tau) = self.constants();
        self.estimates[position].at(now, prior, tau) * (self.in_flight[position] as f32 + 1.0)
    }

    fn constants(&self) -> (f32, f32) {
        if self.policy == Policy::PeakEwma { (EWMA_START_S, EWMA_TAU_S) } else { (PRIOR_S, TAU_S) }
    }
}

/// Two different ones of these; the same twice where there is one.
fn two(draw: &mut Draw, of: &[usize]) -> (usize, usize) {
    let last = of.len() - 1;
    let first = draw.whole(0, last);
    let second = if last == 0 { 0 } else { (first + draw.whole(1, last)) % of.len() };
    (of[first], of[second])
}

impl Balancer for Simple {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], _tried: &[usize]) -> usize {
        let last = usable.len() - 1;
        match &self.policy {
            Policy::RoundRobin => {
                self.turn = if self.turn >= last { 0 } else { self.turn + 1 };
                usable[self.turn]
            }
            Policy::Random => usable[draw.whole(0, last)],
            Policy::LeastRequest => {
                let (a, b) = two(draw, usable);
                if self.in_flight[a] <= self.in_flight[b] { a } else { b }
            }
            Policy::Weighted(weights) => {
                let mut left = draw.uniform(0.0, usable.iter().map(|p| weights[*p]).sum());
                let found = usable.iter().find(|p| {
                    left -= weights[**p];
                    left <= 0.0
                });
                found.copied().unwrap_or(usable[last])
            }
            Policy::Near(near) => {
                let start = draw.whole(0, near.len().max(1) - 1);
                let turned = near.iter().cycle().skip(start).take(near.len());
                match turned.copied().find(|p| usable.binary_search(p).is_ok()) {
                    Some(found) if draw.chance(STAYS) => found,
                    _ => usable[draw.whole(0, last)],
                }
            }
            Policy::PeakEwma => {
                let (a, b) = two(draw, usable);
                if self.cost(a, now) <= self.cost(b, now) { a } else { b }
            }
            Policy::LeastCost => {
                // Equals go to the first from a random start.
                let first = draw.whole(0, last);
                let turned = (0..=last).map(|i| usable[(i + first) % (last + 1)]);
                turned.min_by(|a, b| self.cost(*a, now).total_cmp(&self.cost(*b, now))).unwrap_or(usable[first])
            }
        }
    }

    fn began(&mut self, position: usize, _now: Time) {
        self.in_flight[position] += 1;
    }

    fn ended(&mut self, position: usize, now: Time, latency_s: f32, outcome: Outcome, _report: Option<&Report>) {
        self.in_flight[position] -= 1;
        let (prior, tau) = self.constants();
        if let Some(estimate) = self.estimates.get(position).filter(|_| outcome == Outcome::Success) {
            estimate.record(now, latency_s, prior, tau);
        }
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}
