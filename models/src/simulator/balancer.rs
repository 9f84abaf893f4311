//! How a simulated proxy chooses among a route's candidates: what the engine asks, whoever answers.
//!
//! There is one balancer for each (calling instance, called service), as a sidecar has one table for each (workload,
//! cluster). Candidates are positions in `Route::pairs`. The engine never tells a balancer what a real proxy could not know.

use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};

/// What a probe found (Prequal).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Requests in flight at the replica, from all callers.
    pub in_flight: u32,
    /// The replica's estimate of its latency at that many, in seconds.
    pub latency_s: f32,
}

/// What the slow loop says of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Minus the logarithm of the intrinsic latency in seconds.
    pub score: f32,
    /// The share of requests expected to succeed.
    pub success: f32,
    /// When anybody whose telemetry is shared last measured the candidate; none when nobody did.
    pub measured_at: Option<Time>,
}

/// A policy at one (calling instance, called service).
pub trait Balancer: std::fmt::Debug {
    /// Chooses a position among those of `usable` (never empty), preferably one not in `tried`.
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize;

    /// A call to a position begins.
    fn began(&mut self, _position: usize, _now: Time) {}

    /// A call ended; `report` is what the replica said of its load in the answer.
    fn ended(&mut self, _position: usize, _now: Time, _latency_s: f32, _outcome: Outcome, _report: Option<&Report>) {}

    /// Positions to probe now, asked after each pick; at most a few.
    fn probes(&mut self, _draw: &mut Draw, _into: &mut Vec<usize>) {}

    /// A probe's answer.
    fn probed(&mut self, _position: usize, _now: Time, _probe: Probe) {}

    /// The slow loop's turn: for each position a score, or none where there is none; `None` when no scores came.
    fn tick(&mut self, _now: Time, _scored: Option<&[Option<Scored>]>) {}

    /// A copy with all that it remembers: for another future of the same past.
    fn fork(&self) -> Box<dyn Balancer>;

    /// Its present weights, where it has any: for herding and churn.
    fn weights(&self) -> Option<Vec<f32>> {
        None
    }
}
