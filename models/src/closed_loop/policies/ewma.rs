//! Peak EWMA as Linkerd has it (tower's `load::PeakEwma`): the cost of a replica is its latency estimate times the
//! requests in flight plus one, the least of two drawn wins.
//!
//! The estimate is the sidecar's own `LocalEstimate` with a prior of zero, which is the same formula: a peak is taken
//! over at once, anything else decays with a time constant of 10 s, towards zero while nothing comes. It begins at
//! 30 ms. What differs from Linkerd, in this rival's favour: a failure holds the estimate, where Linkerd would take a
//! fast failure for a fast answer.

use super::open;
use super::simple::lowest_of_drawn;
use crate::simulator::balancer::Balancer;
use crate::simulator::draw::Draw;
use pathloom::balance::PEAK_EWMA_DEFAULT_S;
use pathloom::links::orca::Report;
use pathloom::links::{LocalEstimate, Outcome, Time};

/// Peak EWMA.
#[derive(Debug)]
pub struct PeakEwma {
    choices: usize,
    decay_s: f32,
    estimates: Vec<LocalEstimate>,
    in_flight: Vec<u32>,
    /// The time of the last event, for forks.
    last: Time,
    kept: Vec<usize>,
}

impl PeakEwma {
    /// Among `count` positions, by so many choices, with this time constant in seconds.
    #[must_use]
    pub fn new(count: usize, choices: usize, decay_s: f32) -> Self {
        let estimates: Vec<LocalEstimate> = (0..count).map(|_| LocalEstimate::default()).collect();
        estimates.iter().for_each(|e| e.record(Time(0), PEAK_EWMA_DEFAULT_S, 0.0, decay_s));
        Self { choices, decay_s, estimates, in_flight: vec![0; count], last: Time(0), kept: Vec::new() }
    }
}

impl Balancer for PeakEwma {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        let open = open(usable, tried, &mut self.kept);
        let cost = |p: usize| self.estimates[p].at(now, 0.0, self.decay_s) * (self.in_flight[p] + 1) as f32;
        lowest_of_drawn(open, self.choices, draw, cost).unwrap_or(open[0])
    }

    fn began(&mut self, position: usize, now: Time) {
        self.last = now;
        self.in_flight[position] += 1;
    }

    fn ended(&mut self, position: usize, now: Time, latency_s: f32, outcome: Outcome, _report: Option<&Report>) {
        self.last = now;
        self.in_flight[position] = self.in_flight[position].saturating_sub(1);
        let estimate = &self.estimates[position];
        let at_least = match outcome {
            Outcome::Success => 0.0,
            Outcome::Failure | Outcome::Cancelled => estimate.at(now, 0.0, self.decay_s),
        };
        estimate.record(now, latency_s.max(at_least), 0.0, self.decay_s);
    }

    fn fork(&self) -> Box<dyn Balancer> {
        let estimates = self.estimates.iter().map(|e| copied(e, self.last)).collect();
        Box::new(Self { estimates, in_flight: self.in_flight.clone(), kept: Vec::new(), ..*self })
    }
}

/// The same estimate, on its own.
fn copied(of: &LocalEstimate, now: Time) -> LocalEstimate {
    let copy = LocalEstimate::default();
    restore(of, &copy, now);
    copy
}

/// Puts the last value of one estimate into another that is empty, as old as it is.
pub(super) fn restore(from: &LocalEstimate, to: &LocalEstimate, now: Time) {
    if let Some(last) = from.last(now) {
        let age_ns = (f64::from(last.age_s) * 1e9) as u64;
        to.record(Time(now.0.saturating_sub(age_ns)), last.latency_s, 0.0, 1.0);
    }
}
