//! Prequal (Wydrowski et al., NSDI 2024): probes beside the traffic, and a choice by load first, latency second.
//!
//! Each query sends three probes to replicas drawn at random; their answers (requests in flight from all callers, and
//! the replica's estimate of its latency at that many) go into a pool of 16, the oldest making room. A query takes
//! from the pool by the **hot/cold lexicographic rule**: a probe is hot when its in-flight is above the 0.84 quantile of
//! those seen lately; among the cold ones the least latency wins, and where all are hot the least in-flight. What was
//! chosen counts one more in flight in the pool. A probe is removed once it has been used
//! `max(1, (1 + delta) / ((1 - m / n) x probes - removals))` times (m the pool's size, n the replicas; without limit
//! where that is not positive), after a second, and one with each query, by turns the oldest and the worst. With fewer
//! than two probes in the pool the choice is random.
//!
//! A new answer takes the place of an older one of the same replica: where replicas are few, as here and unlike in the
//! paper's fleets, the older ones would draw queries to a replica whose queue they do not know.
//!
//! As in the paper probes are asynchronous: a query uses what earlier ones asked for. There are no probes while nothing
//! is asked.

use super::open;
use crate::simulator::balancer::{Balancer, Probe};
use crate::simulator::draw::Draw;
use pathloom::links::Time;
use std::collections::VecDeque;

/// Its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Probes for each query.
    pub probes: usize,
    /// How many answers are kept.
    pub pool: usize,
    /// The quantile of in-flight above which a replica is hot.
    pub hot: f64,
    /// How old an answer may be, in seconds.
    pub oldest_s: f32,
    /// Removals for each query beside those by age, use and lack of room.
    pub removals: f64,
    /// The net rate at which probes accumulate.
    pub delta: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { probes: 3, pool: 16, hot: 0.84, oldest_s: 1.0, removals: 1.0, delta: 1.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Kept {
    position: usize,
    at: Time,
    in_flight: u32,
    latency_s: f32,
    uses: u32,
}

/// How many in-flight counts the hot threshold stands on.
const SEEN: usize = 128;
/// Fewer probes than this are no choice.
const LEAST_POOL: usize = 2;

/// Prequal.
#[derive(Debug, Clone)]
pub struct Prequal {
    rules: Rules,
    count: usize,
    pool: VecDeque<Kept>,
    seen: VecDeque<u32>,
    /// Whether the next removal is of the oldest.
    oldest_next: bool,
    /// Usable positions at the last pick: where probes go.
    usable: Vec<usize>,
    kept: Vec<usize>,
    sorted: Vec<u32>,
}

impl Prequal {
    /// Among `count` positions.
    #[must_use]
    pub fn new(count: usize, rules: Rules) -> Self {
        Self {
            rules,
            count,
            pool: VecDeque::new(),
            seen: VecDeque::new(),
            oldest_next: true,
            usable: Vec::new(),
            kept: Vec::new(),
            sorted: Vec::new(),
        }
    }

    /// How often a probe may be used.
    fn most_uses(&self) -> f64 {
        let Rules { probes, pool, removals, delta, .. } = self.rules;
        let net = (1.0 - pool as f64 / self.count.max(1) as f64) * probes as f64 - removals;
        if net > 0.0 { ((1.0 + delta) / net).max(1.0) } else { f64::INFINITY }
    }

    /// The largest in-flight of a cold replica.
    fn threshold(&mut self) -> u32 {
        self.sorted.clear();
        self.sorted.extend(&self.seen);
        self.sorted.sort_unstable();
        let rank = (self.rules.hot * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.clamp(1, self.sorted.len().max(1)) - 1).copied().unwrap_or(u32::MAX)
    }

    /// The index in the pool of the best of those that may be chosen, or of the worst of all.
    fn find(&self, threshold: u32, worst: bool, may: impl Fn(usize) -> bool) -> Option<usize> {
        // Hot after cold; among the cold by latency, among the hot by in-flight.
        let rank = |k: &Kept| {
            let hot = k.in_flight > threshold;
            (hot, if hot { k.in_flight as f32 } else { k.latency_s })
        };
        let among = self.pool.iter().enumerate().filter(|(_, k)| may(k.position));
        let order = |a: &Kept, b: &Kept| rank(a).0.cmp(&rank(b).0).then(rank(a).1.total_cmp(&rank(b).1));
        let found = if worst { among.max_by(|a, b| order(a.1, b.1)) } else { among.min_by(|a, b| order(a.1, b.1)) };
        found.map(|(index, _)| index)
    }

    fn remove_one(&mut self, threshold: u32) {
        let oldest = self.oldest_next;
        self.oldest_next = !oldest;
        if oldest {
            self.pool.pop_front();
        } else if let Some(worst) = self.find(threshold, true, |_| true) {
            self.pool.remove(worst);
        }
    }
}

impl Balancer for Prequal {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        if self.usable != usable {
            self.usable = usable.to_vec();
        }
        let oldest_s = self.rules.oldest_s;
        self.pool.retain(|k| now.seconds_since(k.at) <= oldest_s);
        let threshold = self.threshold();
        let chosen = if self.pool.len() < LEAST_POOL {
            None
        } else {
            self.find(threshold, false, |p| usable.contains(&p) && !tried.contains(&p))
        };
        let position = match chosen {
            Some(index) => {
                let most = self.most_uses();
                let kept = &mut self.pool[index];
                let position = kept.position;
                kept.in_flight += 1;
                kept.uses += 1;
                if f64::from(kept.uses) >= most {
                    self.pool.remove(index);
                }
                position
            }
            None => {
                let open = open(usable, tried, &mut self.kept);
                open[draw.whole(0, open.len() - 1)]
            }
        };
        let whole = self.rules.removals.floor();
        let more = usize::from(draw.chance(self.rules.removals - whole));
        for _ in 0..whole as usize + more {
            // Never below what a choice needs, or a small pool would be gone before its answers come.
            if self.pool.len() > LEAST_POOL {
                self.remove_one(threshold);
            }
        }
        position
    }

    fn probes(&mut self, draw: &mut Draw, into: &mut Vec<usize>) {
        into.extend(draw.some(&self.usable, self.rules.probes));
    }

    fn probed(&mut self, position: usize, now: Time, probe: Probe) {
        self.pool.retain(|k| k.position != position);
        if self.pool.len() >= self.rules.pool {
            self.pool.pop_front();
        }
        let Probe { in_flight, latency_s } = probe;
        self.pool.push_back(Kept { position, at: now, in_flight, latency_s, uses: 0 });
        if self.seen.len() >= SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(in_flight);
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(rules: Rules, probes: &[(usize, u32, f32)]) -> Prequal {
        let mut prequal = Prequal::new(100, rules);
        for (position, in_flight, latency_s) in probes {
            prequal.probed(*position, Time(0), Probe { in_flight: *in_flight, latency_s: *latency_s });
        }
        prequal
    }

    fn pick(prequal: &mut Prequal, at_s: f32) -> usize {
        let all: Vec<usize> = (0..100).collect();
        prequal.pick(Time((at_s * 1e9) as u64), &mut Draw::new(1), &all, &[])
    }

    const KEEP: Rules = Rules { probes: 3, pool: 16, hot: 0.84, oldest_s: 1.0, removals: 0.0, delta: 1e9 };

    #[test]
    fn the_cold_one_with_the_least_latency_wins_and_a_hot_one_only_when_all_are() {
        // Of ten counts the 0.84 quantile is the ninth: 5. Position 9 is hot, however fast.
        let mut mixed: Vec<(usize, u32, f32)> = (0..9).map(|p| (p, 5, 0.1 - p as f32 * 0.01)).collect();
        mixed.push((9, 50, 0.001));
        assert_eq!(pick(&mut pool(KEEP, &mixed), 0.1), 8);
        let mut all_hot = pool(KEEP, &[(1, 9, 0.001), (2, 8, 0.5)]);
        all_hot.seen = (0..100).map(|_| 1).collect();
        assert_eq!(pick(&mut all_hot, 0.1), 2, "the least in flight, whatever its latency");
    }

    #[test]
    fn a_chosen_probe_counts_one_more_in_flight_and_turns_hot() {
        let mut prequal = pool(KEEP, &[(1, 4, 0.01), (2, 4, 0.02)]);
        assert_eq!((pick(&mut prequal, 0.1), pick(&mut prequal, 0.1)), (1, 2));
    }

    #[test]
    fn old_probes_and_used_up_ones_are_gone() {
        let mut prequal = pool(KEEP, &[(1, 4, 0.01), (2, 4, 0.02), (3, 4, 0.03)]);
        let _ = pick(&mut prequal, 1.5);
        assert!(prequal.pool.is_empty());
        // 100 replicas, pool 16, 3 probes, 1 removal, delta 1: 2 / 1.52, once and no more.
        let once = pool(Rules::default(), &[(1, 4, 0.01), (2, 4, 0.02), (3, 4, 0.03)]);
        assert!((once.most_uses() - 2.0 / 1.52).abs() < 1e-9);
        let small = Prequal::new(8, Rules::default());
        assert_eq!(small.most_uses(), f64::INFINITY);
    }

    #[test]
    fn removals_take_the_oldest_and_the_worst_by_turns() {
        let mut prequal = pool(KEEP, &[(1, 4, 0.01), (2, 4, 0.09), (3, 4, 0.03), (4, 4, 0.02)]);
        prequal.remove_one(10);
        assert_eq!(prequal.pool.iter().map(|k| k.position).collect::<Vec<_>>(), [2, 3, 4]);
        prequal.remove_one(10);
        assert_eq!(prequal.pool.iter().map(|k| k.position).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_pool_that_is_full_forgets_the_oldest() {
        let probes: Vec<(usize, u32, f32)> = (0..17).map(|p| (p, 1, 0.01)).collect();
        let prequal = pool(KEEP, &probes);
        assert_eq!((prequal.pool.len(), prequal.pool.front().map(|k| k.position)), (16, Some(1)));
    }
}
