//! gRPC's client-side weighted round robin (gRFC A58): a replica's weight is what it gets done for its utilisation,
//!
//! ```text
//! weight = qps / (utilisation + eps / qps x penalty)
//! ```
//! from the load that it reports in its answers (ORCA): application utilisation, else CPU. A weight counts once reports
//! have come for the blackout period, and no longer than the expiration period after the last one; who has none gets
//! the mean of the others; with fewer than two weights all are equal. Weights are taken over once an update period, by
//! the static stride scheduler: time goes in rounds, and in round g the i-th replica is passed over unless
//! `(w x g + i x 2^15) mod (2^16 - 1) >= 2^16 - 1 - w`, where the heaviest has w = 2^16 - 1. Its defaults: penalty 1,
//! blackout 10 s, expiration 180 s, update 1 s. Weights beyond ten times the mean are cut to that.

use super::open;
use crate::simulator::balancer::Balancer;
use crate::simulator::draw::Draw;
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};

/// Its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How much the share of errors adds to the utilisation.
    pub penalty: f64,
    /// Reports count only after they have come for so many seconds.
    pub blackout_s: f32,
    /// A weight is forgotten so many seconds after the last report.
    pub expiration_s: f32,
    /// How often weights are taken over, in seconds.
    pub update_s: f32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { penalty: 1.0, blackout_s: 10.0, expiration_s: 180.0, update_s: 1.0 }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    weight: f64,
    /// When an unbroken row of reports began, and the last of them.
    since: Option<(Time, Time)>,
}

/// Weighted round robin.
#[derive(Debug, Clone)]
pub struct WeightedRoundRobin {
    rules: Rules,
    reported: Vec<Reported>,
    updated: Option<Time>,
    stride: Stride,
    turn: Option<u64>,
    kept: Vec<usize>,
}

impl WeightedRoundRobin {
    /// Among `count` positions.
    #[must_use]
    pub fn new(count: usize, rules: Rules) -> Self {
        let reported = vec![Reported::default(); count];
        Self { rules, reported, updated: None, stride: Stride::default(), turn: None, kept: Vec::new() }
    }

    /// What counts of each position's reports now; zero where nothing does.
    fn current(&mut self, now: Time, position: usize) -> f64 {
        let Some((first, last)) = self.reported[position].since else { return 0.0 };
        if now.seconds_since(last) >= self.rules.expiration_s {
            self.reported[position].since = None;
            return 0.0;
        }
        if now.seconds_since(first) < self.rules.blackout_s { 0.0 } else { self.reported[position].weight }
    }

    fn update(&mut self, now: Time, usable: &[usize]) {
        let fresh = self.updated.is_some_and(|at| now.seconds_since(at) < self.rules.update_s);
        if fresh && self.stride.positions == usable {
            return;
        }
        self.updated = Some(now);
        let weights: Vec<f64> = usable.iter().map(|p| self.current(now, *p)).collect();
        self.stride = Stride::new(usable, &weights);
    }
}

/// What a report is worth; none where it says too little.
fn worth(report: &Report, penalty: f64) -> Option<f64> {
    let utilization = report.application_utilization.filter(|u| *u > 0.0).or(report.cpu_utilization)?;
    let qps = report.requests_per_second.filter(|q| *q > 0.0)?;
    let weight = qps / (utilization + report.errors_per_second.unwrap_or(0.0) / qps * penalty);
    (utilization > 0.0 && weight.is_finite()).then_some(weight)
}

impl Balancer for WeightedRoundRobin {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        self.update(now, usable);
        let turn = self.turn.get_or_insert_with(|| draw.whole(0, 1 << 20) as u64);
        for _ in 0..=tried.len() * 2 {
            let position = self.stride.next(turn);
            if let Some(position) = position.filter(|p| !tried.contains(p)) {
                return position;
            }
        }
        open(usable, tried, &mut self.kept)[0]
    }

    fn ended(&mut self, position: usize, now: Time, _latency_s: f32, _outcome: Outcome, report: Option<&Report>) {
        if let Some(weight) = report.and_then(|r| worth(r, self.rules.penalty)) {
            let reported = &mut self.reported[position];
            reported.weight = weight;
            let since = reported.since.map_or(now, |(first, _)| first);
            reported.since = Some((since, now));
        }
    }

    fn weights(&self) -> Option<Vec<f32>> {
        let sum: f32 = self.stride.weights.iter().map(|w| *w as f32).sum();
        let mut all = vec![0.0; self.reported.len()];
        for (position, weight) in self.stride.positions.iter().zip(&self.stride.weights) {
            all[*position] = *weight as f32 / sum.max(1.0);
        }
        Some(all)
    }

    fn fork(&self) -> Box<dyn Balancer> {
        Box::new(self.clone())
    }
}

/// The heaviest weight.
const MOST: u64 = u16::MAX as u64;
/// A weight counts as no more than so many means.
const LARGEST_RATIO: f64 = 10.0;

/// The static stride scheduler.
#[derive(Debug, Clone, Default)]
struct Stride {
    positions: Vec<usize>,
    /// Scaled so that the heaviest is `MOST`.
    weights: Vec<u64>,
}

impl Stride {
    fn new(positions: &[usize], weights: &[f64]) -> Self {
        let known: Vec<f64> = weights.iter().copied().filter(|w| *w > 0.0).collect();
        let scaled = if known.len() < 2 {
            vec![MOST; positions.len()]
        } else {
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let filled: Vec<f64> =
                weights.iter().map(|w| if *w > 0.0 { w.min(mean * LARGEST_RATIO) } else { mean }).collect();
            let largest = filled.iter().copied().fold(0.0, f64::max);
            filled.iter().map(|w| ((w / largest * MOST as f64).round() as u64).clamp(1, MOST)).collect()
        };
        Self { positions: positions.to_vec(), weights: scaled }
    }

    fn next(&self, turn: &mut u64) -> Option<usize> {
        let count = self.positions.len() as u64;
        // The heaviest is never passed over, so a round suffices.
        for _ in 0..=count {
            let (index, round) = ((*turn % count.max(1)) as usize, *turn / count.max(1));
            *turn += 1;
            let weight = *self.weights.get(index)?;
            let offset = index as u64 * (MOST / 2);
            if (weight * round + offset) % MOST >= MOST - weight {
                return self.positions.get(index).copied();
            }
        }
        self.positions.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(qps: f64, utilization: f64, eps: f64) -> Report {
        Report {
            application_utilization: Some(utilization),
            requests_per_second: Some(qps),
            errors_per_second: Some(eps),
            ..Report::default()
        }
    }

    #[test]
    fn a_weight_is_work_done_for_utilisation_and_errors_count_against_it() {
        assert_eq!(worth(&report(100.0, 0.5, 0.0), 1.0), Some(200.0));
        assert_eq!(worth(&report(100.0, 0.5, 50.0), 1.0), Some(100.0));
        assert_eq!(worth(&report(0.0, 0.5, 0.0), 1.0), None);
        let cpu_only = Report { application_utilization: None, cpu_utilization: Some(0.25), ..report(50.0, 0.0, 0.0) };
        assert_eq!(worth(&cpu_only, 1.0), Some(200.0));
    }

    #[test]
    fn the_static_stride_gives_each_its_share() {
        let stride = Stride::new(&[3, 5, 8], &[100.0, 50.0, 25.0]);
        let (mut turn, mut counts) = (17, [0usize; 9]);
        for _ in 0..7_000 {
            counts[stride.next(&mut turn).unwrap()] += 1;
        }
        assert!(counts[3].abs_diff(4_000) < 10 && counts[5].abs_diff(2_000) < 10 && counts[8].abs_diff(1_000) < 10);
    }

    #[test]
    fn reports_count_after_the_blackout_and_until_they_expire() {
        let mut wrr = WeightedRoundRobin::new(2, Rules::default());
        let second = |s: u64| Time(s * 1_000_000_000);
        for s in 0..=10 {
            for (position, qps) in [(0, 100.0), (1, 300.0)] {
                wrr.ended(position, second(s), 0.01, Outcome::Success, Some(&report(qps, 0.5, 0.0)));
            }
            wrr.update(second(s), &[0, 1]);
            let equal = wrr.stride.weights[0] == wrr.stride.weights[1];
            assert_eq!(equal, s < 10, "second {s}");
        }
        wrr.update(second(189), &[0, 1]);
        assert_eq!(wrr.stride.weights, [MOST / 3, MOST]);
        wrr.update(second(190), &[0, 1]);
        assert_eq!(wrr.stride.weights, [MOST, MOST]);
    }

    #[test]
    fn who_does_not_report_gets_the_mean() {
        assert_eq!(Stride::new(&[0, 1, 2], &[1.0, 3.0, 0.0]).weights, [21_845, MOST, 43_690]);
        assert_eq!(Stride::new(&[0, 1], &[5.0, 0.0]).weights, [MOST, MOST]);
    }
}
