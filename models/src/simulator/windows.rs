//! Latencies by second and pair: what predictors remember of past windows, and what the next one brought.

use super::engine::Observer;
use super::faults::Extra;
use super::mesh::{Mesh, Pair};
use super::network;
use crate::WINDOW_S;
use crate::data::{PAST_WINDOWS, Past};
use pathloom::links::{Outcome, Time};

/// Fewer answers give no mean.
pub const LEAST_FOR_MEAN: usize = 3;
/// Fewer answers give no percentile and no jitter.
pub const LEAST_FOR_SPREAD: usize = 20;

/// Answers in the order in which they came, second by second. An `Observer`.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The second that `seconds` begins with.
    pub first: u64,
    seconds: Vec<Vec<(u32, f32)>>,
    now: Vec<(u32, f32)>,
}

impl Answers {
    /// Nothing yet, from this second on.
    #[must_use]
    pub fn from_second(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// A second has passed.
    pub fn second(&mut self) {
        // As many as last time are likely to come again.
        let again = Vec::with_capacity(self.now.len() + self.now.len() / 8);
        self.seconds.push(std::mem::replace(&mut self.now, again));
    }

    /// Answers from one second until before another, oldest first.
    fn between(&self, from: u64, until: u64) -> impl Iterator<Item = (u32, f32)> + '_ {
        let index = |second: u64| (second.saturating_sub(self.first) as usize).min(self.seconds.len());
        self.seconds[index(from)..index(until).max(index(from))].iter().flatten().copied()
    }

    /// For each of these pairs, the latencies from one second until before another.
    #[must_use]
    pub fn of(&self, pairs: &[usize], from: u64, until: u64) -> Vec<Vec<f32>> {
        let mut place = vec![usize::MAX; pairs.iter().max().map_or(0, |p| p + 1)];
        pairs.iter().enumerate().for_each(|(i, p)| place[*p] = i);
        let mut latencies = vec![Vec::new(); pairs.len()];
        for (pair, latency_s) in self.between(from, until) {
            if let Some(latencies) = place.get(pair as usize).and_then(|at| latencies.get_mut(*at)) {
                latencies.push(latency_s);
            }
        }
        latencies
    }

    /// What predictors remember of these pairs at a second, by one who began to watch at `since`.
    #[must_use]
    pub fn past(&self, mesh: &Mesh, pairs: &[usize], now: u64, since: u64) -> Vec<Past> {
        let window = u64::from(WINDOW_S);
        let mut past: Vec<Past> = pairs
            .iter()
            .map(|pair| Past { communication_s: communication_s(mesh, mesh.pairs[*pair]), ..Past::default() })
            .collect();
        for back in 0..PAST_WINDOWS {
            let Some(from) = now.checked_sub(window * (back as u64 + 1)) else { break };
            let seen = self.of(pairs, from.max(since), from + window);
            for (past, latencies) in past.iter_mut().zip(&seen) {
                past.mean_s[back] = mean(latencies);
                if back == 0 {
                    (past.p99_s, past.jitter_s) = (p99(latencies), jitter(latencies));
                }
            }
        }
        past
    }
}

impl Observer for Answers {
    fn end(&mut self, pair: usize, _now: Time, latency_s: f32, outcome: Outcome) {
        if outcome == Outcome::Success {
            self.now.push((pair as u32, latency_s));
        }
    }
}

/// What communication on a pair costs without load and faults, in seconds: round trip, bytes over bandwidth, proxies.
#[must_use]
pub fn communication_s(mesh: &Mesh, pair: Pair) -> f32 {
    let handlers = &mesh.services[mesh.instances[pair.destination].service].handlers;
    let bytes = handlers.iter().map(|h| h.bytes).sum::<f64>() / handlers.len().max(1) as f64;
    let (way_s, _) = network::way_moments(&mesh.network, network::base_s(mesh, pair), &Extra::default(), bytes);
    (2.0 * way_s) as f32
}

/// What was observed of one pair in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// How many answers.
    pub answers: u32,
    /// Their mean latency in seconds; NaN for too few.
    pub mean_s: f32,
    /// Their 99th percentile in seconds; NaN for too few.
    pub p99_s: f32,
    /// The mean difference of successive latencies in seconds, which RFC 3550's jitter tends to; NaN for too few.
    pub jitter_s: f32,
}

/// Sums up a window of latencies in the order in which they came.
#[must_use]
pub fn window(latencies_s: &[f32]) -> Window {
    let n = latencies_s.len();
    let known = |enough: usize, value: f32| if n >= enough { value } else { f32::NAN };
    Window {
        answers: n as u32,
        mean_s: known(LEAST_FOR_MEAN, mean(latencies_s)),
        p99_s: known(LEAST_FOR_SPREAD, p99(latencies_s)),
        jitter_s: known(LEAST_FOR_SPREAD, jitter(latencies_s)),
    }
}

/// The mean; NaN of nothing.
#[must_use]
pub fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64) as f32
}

/// The value that 99 of 100 stay within; NaN of nothing.
fn p99(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    let rank = (values.len() as f64 * 0.99).ceil() as usize;
    match rank.checked_sub(1) {
        Some(at) if at < sorted.len() => *sorted.select_nth_unstable_by(at, f32::total_cmp).1,
        _ => f32::NAN,
    }
}

/// The mean absolute difference of successive values; NaN of fewer than two.
#[must_use]
pub fn jitter(values: &[f32]) -> f32 {
    let steps: f64 = values.windows(2).map(|w| f64::from((w[1] - w[0]).abs())).sum();
    if values.len() < 2 { f32::NAN } else { (steps / (values.len() - 1) as f64) as f32 }
}
