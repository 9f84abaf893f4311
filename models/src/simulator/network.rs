//! The network: how long a way takes, its moments for the truth, and the proxies' pools of connections.
//!
//! A way (half a round trip) of `bytes / 2` takes
//! ```text
//! base / 2 x log-normal(sigma) x (1, or tail.1 x exponential with probability tail.0)
//!   + delay / 2 + jitter / 2 x exponential        (faults)
//!   + bytes / 2 / bandwidth + overhead
//!   + retransmissions: timeout x (1 + 2 + 4 + ...) for each loss in a row, at most `MOST_LOSSES`
//! ```
//! Ways are independent of each other: no congestion of a shared cable, no loss in bursts.

use super::faults::Extra;
use super::mesh::{Mesh, Network, Pair};
use crate::simulator::draw::Draw;

/// So many losses in a row at most.
const MOST_LOSSES: u32 = 6;
/// A proxy opens so many connections to one instance; beyond, requests share them.
const MOST_CONNECTIONS: u32 = 64;
/// An idle connection is forgotten after this many nanoseconds.
const IDLE: u64 = 60_000_000_000;

/// The mean round trip of a pair by where its ends are, in seconds, without faults.
#[must_use]
pub fn base_s(mesh: &Mesh, pair: Pair) -> f64 {
    let host = |instance: usize| mesh.instances[instance].host;
    let (from, to) = (host(pair.source), host(pair.destination));
    if from == to {
        return mesh.network.local_s;
    }
    mesh.network.rtt_s[mesh.hosts[from].zone][mesh.hosts[to].zone]
}

/// A draw of one way in seconds.
pub fn way_s(network: &Network, base_s: f64, extra: &Extra, bytes: f64, draw: &mut Draw) -> f64 {
    let mut way = 0.5 * base_s * draw.spread(network.sigma);
    if network.tail.0 > 0.0 && draw.chance(network.tail.0) {
        way *= network.tail.1 * draw.exponential();
    }
    way += 0.5 * extra.delay_s + 0.5 * bytes / network.bandwidth + network.overhead_s;
    if extra.jitter_s > 0.0 {
        way += 0.5 * extra.jitter_s * draw.exponential();
    }
    let loss = network.loss + extra.loss;
    if loss > 0.0 {
        let (mut timeout, mut losses) = (network.retransmit_s, 0);
        while losses < MOST_LOSSES && draw.chance(loss) {
            way += timeout;
            timeout *= 2.0;
            losses += 1;
        }
    }
    way
}

/// The mean and the variance of one way.
#[must_use]
pub fn way_moments(network: &Network, base_s: f64, extra: &Extra, bytes: f64) -> (f64, f64) {
    let (often, times) = network.tail;
    let half = 0.5 * base_s;
    let mean = half * (1.0 - often + often * times);
    let square = half * half * network.sigma.powi(2).exp() * (1.0 - often + often * 2.0 * times * times);
    let jitter = 0.5 * extra.jitter_s;
    let (lost_mean, lost_square) = losses(network.loss + extra.loss, network.retransmit_s);
    let constant = 0.5 * extra.delay_s + 0.5 * bytes / network.bandwidth + network.overhead_s;
    let variance = (square - mean * mean) + jitter * jitter + (lost_square - lost_mean * lost_mean);
    (mean + jitter + lost_mean + constant, variance.max(0.0))
}

/// The first two moments of what losses in a row cost.
fn losses(loss: f64, timeout_s: f64) -> (f64, f64) {
    if loss <= 0.0 {
        return (0.0, 0.0);
    }
    let (mut mean, mut square, mut total, mut reach) = (0.0, 0.0, 0.0, 1.0);
    for lost in 0..=MOST_LOSSES {
        let ends = if lost == MOST_LOSSES { reach } else { reach * (1.0 - loss) };
        mean += ends * total;
        square += ends * total * total;
        total += timeout_s * f64::from(1u32 << lost);
        reach *= loss;
    }
    (mean, square)
}

/// One proxy's connections to one instance.
///
/// The one used last is used first, so those at the bottom stay idle: every minute as many are forgotten as were never
/// needed in it, which is between one and two minutes after each was used last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pool {
    busy: u32,
    idle: u32,
    least_idle: u32,
    since: u64,
    used: u64,
}

impl Pool {
    /// Takes a connection for a request; whether it has to be opened.
    pub fn take(&mut self, now: u64) -> bool {
        if now - self.used > IDLE {
            self.idle = 0;
        }
        if now - self.since > IDLE {
            self.idle -= self.least_idle.min(self.idle);
            (self.least_idle, self.since) = (self.idle, now);
        }
        self.used = now;
        self.busy += 1;
        if self.idle > 0 {
            self.idle -= 1;
            self.least_idle = self.least_idle.min(self.idle);
            return false;
        }
        self.least_idle = 0;
        self.busy <= MOST_CONNECTIONS
    }

    /// A request is done with its connection, which is of further use or broken.
    pub fn give_back(&mut self, now: u64, broken: bool) {
        let open = (self.busy + self.idle).min(MOST_CONNECTIONS);
        self.busy -= self.busy.min(1);
        self.used = now;
        if broken {
            self.idle = 0;
        } else {
            self.idle = open.saturating_sub(self.busy);
        }
    }

    /// Connections open, in use or not.
    #[must_use]
    pub fn open(&self) -> u32 {
        (self.busy + self.idle).min(MOST_CONNECTIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_are_those_of_the_draws() {
        let network = Network {
            rtt_s: vec![vec![0.001]],
            local_s: 0.0001,
            sigma: 0.4,
            tail: (0.05, 8.0),
            loss: 0.02,
            retransmit_s: 0.01,
            bandwidth: 1e8,
            overhead_s: 0.0002,
        };
        let extra = Extra { delay_s: 0.002, jitter_s: 0.003, loss: 0.05 };
        let mut draw = Draw::new(3);
        let ways: Vec<f64> = (0..400_000).map(|_| way_s(&network, 0.001, &extra, 1e4, &mut draw)).collect();
        let mean = ways.iter().sum::<f64>() / ways.len() as f64;
        let variance = ways.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / ways.len() as f64;
        let (expected, spread) = way_moments(&network, 0.001, &extra, 1e4);
        assert!((mean / expected - 1.0).abs() < 0.01, "{mean} instead of {expected}");
        assert!((variance / spread - 1.0).abs() < 0.08, "{variance} instead of {spread}");
    }

    #[test]
    fn a_pool_opens_on_demand_reuses_and_forgets() {
        let second = 1_000_000_000;
        let mut pool = Pool::default();
        assert!(pool.take(0) && pool.take(0), "two at once are two connections");
        pool.give_back(second, false);
        pool.give_back(second, false);
        assert!(!pool.take(2 * second), "one of them again");
        pool.give_back(2 * second, false);
        assert!(pool.take(70 * second), "nobody used it for a minute");
        pool.give_back(70 * second, true);
        assert!(pool.take(71 * second), "it broke");
        for _ in 0..MOST_CONNECTIONS {
            let _ = pool.take(72 * second);
        }
        assert!(!pool.take(72 * second), "beyond the bound they are shared");
        assert_eq!(pool.open(), MOST_CONNECTIONS);
    }
}
