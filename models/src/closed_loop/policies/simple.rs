//! Policies that know next to nothing: round robin, random, least request, shortest path.

use super::open;
use crate::simulator::balancer::Balancer;
use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};

/// The lowest cost of `choices` drawn without replacement (of all where there are no more), the first drawn of equals.
pub(super) fn lowest_of_drawn(
    open: &[usize],
    choices: usize,
    draw: &mut Draw,
    cost: impl Fn(usize) -> f32,
) -> Option<usize> {
    let mut best: Option<(f32, usize)> = None;
    let mut take = |position: usize| {
        let cost = cost(position);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, position));
        }
    };
    match choices {
        1 => draw.one(open).into_iter().for_each(&mut take),
        2 if open.len() > 2 => {
            let first = draw.whole(0, open.len() - 1);
            let second = (first + draw.whole(1, open.len() - 1)) % open.len();
            take(open[first]);
            take(open[second]);
        }
        n if n < open.len() => draw.some(open, n).into_iter().for_each(&mut take),
        _ => {
            // Begin anywhere, so that equals share.
            let start = draw.whole(0, open.len().max(1) - 1);
            (0..open.len()).for_each(|i| take(open[(start + i) % open.len()]));
        }
    }
    best.map(|(_, position)| position)
}

/// In turn, from a random start.
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    turn: Option<usize>,
    kept: Vec<usize>,
}

impl Balancer for RoundRobin {
    fn pick(&mut self, _now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        // By the turn among all that are usable: who was tried costs a turn, as in Envoy.
        let turn = self.turn.get_or_insert_with(|| draw.whole(0, 1 << 20));
        *turn += 1;
        let open = open(usable, tried, &mut self.kept);
        open[*turn % open.len()]
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

/// Anywhere.
#[derive(Debug, Clone, Default)]
pub struct Random {
    kept: Vec<usize>,
}

impl Balancer for Random {
    fn pick(&mut self, _now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        let open = open(usable, tried, &mut self.kept);
        open[draw.whole(0, open.len() - 1)]
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

/// The fewest requests of this caller's own in flight.
#[derive(Debug, Clone)]
pub struct LeastRequest {
    choices: usize,
    in_flight: Vec<u32>,
    kept: Vec<usize>,
}

impl LeastRequest {
    /// Among `count` positions, by so many choices.
    #[must_use]
    pub fn new(count: usize, choices: usize) -> Self {
        Self { choices, in_flight: vec![0; count], kept: Vec::new() }
    }
}

impl Balancer for LeastRequest {
    fn pick(&mut self, _now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        let Self { choices, in_flight, kept } = self;
        let open = open(usable, tried, kept);
        lowest_of_drawn(open, *choices, draw, |p| in_flight[p] as f32).unwrap_or(open[0])
    }

    fn began(&mut self, position: usize, _now: Time) {
        self.in_flight[position] += 1;
    }

    fn ended(&mut self, position: usize, _now: Time, _latency_s: f32, _outcome: Outcome, _report: Option<&Report>) {
        self.in_flight[position] = self.in_flight[position].saturating_sub(1);
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

/// The least communication cost, as a link-state router would go; equal costs share at random.
#[derive(Debug, Clone)]
pub struct ShortestPath {
    costs_s: Vec<f32>,
    equal: Vec<usize>,
    kept: Vec<usize>,
}

/// Costs within this share of the least are equal (equal-cost multi-path).
const EQUAL: f32 = 1.01;

impl ShortestPath {
    /// By these costs.
    #[must_use]
    pub fn new(costs_s: Vec<f32>) -> Self {
        Self { costs_s, equal: Vec::new(), kept: Vec::new() }
    }
}

impl Balancer for ShortestPath {
    fn pick(&mut self, _now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        let open = open(usable, tried, &mut self.kept);
        let least = open.iter().map(|p| self.costs_s[*p]).fold(f32::INFINITY, f32::min);
        self.equal.clear();
        self.equal.extend(open.iter().filter(|p| self.costs_s[**p] <= least * EQUAL));
        draw.one(&self.equal).unwrap_or(open[0])
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}
