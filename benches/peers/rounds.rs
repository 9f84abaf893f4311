//! What is timed: throughput, processor time, latency.
//!
//! A round measures every proxy once, one after the other, each started anew; so what the machine does otherwise falls
//! on all of them alike, and the proxies take turns in coming first. What stands in the results is the median over the
//! rounds, with the least and the most beside it. Within a round, a proxy in a case gets
//! 1. as much as it can take over 64 connections: throughput and processor time a request;
//! 2. one connection at a low constant rate: the median latency, less that of the same load straight to the upstreams;
//! 3. 64 connections at half of what it could take: the 99th percentile;
//! 4. 64 connections at one rate for all proxies, half of what the slowest could take in the first round.
//!
//! The last three are open loops. Over HTTP/1.1 bodies of other sizes follow, as fast as they go.
//!
//! All samples are kept in a file of the working folder, so that a run that was broken off goes on where it was.

use crate::Fallible;
use crate::bench::{Amount, Bench, CONNECTIONS, Case, Load, Measured, Proxy, SMALL_BODY, Target};
use crate::load::Report;
use crate::process::{Running, busy_since_but, busy_ticks, cpu_ns};
use crate::results::Results;
use crate::upstream::BODIES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The low rate at one connection, in requests a second.
const LOW_RATE: f64 = 2000.0;
/// Warm-up of each load, in seconds.
const WARM_UP: f64 = 0.3;
/// What starting and ending a proxy takes, about, in seconds.
const START: f64 = 1.2;

/// Samples by proxy, case and figure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Samples {
    /// By `proxy/case/figure`; the case of a body is its name.
    values: BTreeMap<String, Vec<f64>>,
    /// The rate for all, by case.
    same_rate: BTreeMap<String, f64>,
    /// Share of all cores that was taken by others, in each round.
    pub busy_with_others: Vec<f64>,
    /// How long each load is measured.
    seconds: f64,
}

impl Samples {
    pub fn new(seconds: f64) -> Self {
        Self { seconds, ..Self::default() }
    }

    /// How many rounds are done.
    pub fn rounds(&self) -> usize {
        self.busy_with_others.len()
    }

    /// Forgets the rounds in which others took more than this share of the machine, so that they are measured again.
    pub fn forget_busier_than(&mut self, most: f64) {
        let rounds = self.rounds();
        for values in self.values.values_mut().filter(|values| values.len() == rounds) {
            let mut busy = self.busy_with_others.iter();
            values.retain(|_| busy.next().is_none_or(|busy| *busy <= most));
        }
        self.busy_with_others.retain(|busy| *busy <= most);
    }

    /// How long a round takes, about, in seconds.
    pub fn expected(&self, proxies: &[Proxy], cases: &[Case], turn: usize) -> f64 {
        let load = self.seconds + WARM_UP + 0.1;
        let spoken = proxies.iter().map(|p| cases.iter().filter(|c| p.speaks(**c)).count()).sum::<usize>() as f64;
        let with_bodies =
            proxies.iter().filter(|p| p.measured() == Measured::All && cases.contains(&Case::Http1)).count();
        let bodies = ((BODIES.len() - 1) * with_bodies) as f64;
        let probes = if turn == 0 { spoken * (START + WARM_UP + 1.0) } else { 0.0 };
        probes + (spoken + cases.len() as f64) * (START + 4.0 * load) + bodies * load
    }

    fn add(&mut self, target: Target, case: &str, figure: &str, value: f64) {
        self.values.entry(format!("{}/{case}/{figure}", target.name())).or_default().push(value);
    }

    fn last(&self, target: Target, case: &str, figure: &str) -> Option<f64> {
        self.values.get(&format!("{}/{case}/{figure}", target.name()))?.last().copied()
    }

    /// One round.
    pub fn round(&mut self, bench: &Bench, proxies: &[Proxy], cases: &[Case], results: &mut Results) {
        let (before, own) = (busy_ticks(), bench.own_ticks());
        let turn = self.rounds();
        let mut order: Vec<Proxy> = proxies.to_vec();
        order.rotate_left(turn % proxies.len().max(1));
        for case in cases.iter().copied() {
            let speaking = || order.iter().copied().filter(|proxy| proxy.speaks(case));
            if !self.same_rate.contains_key(case.name()) {
                for proxy in speaking() {
                    let probed = self.probe(bench, proxy, case);
                    results.take((proxy.name, case.name(), "first throughput"), probed);
                }
            }
            let direct = self.direct(bench, case, results);
            results.take(("direct", case.name(), "timed"), direct);
            for proxy in speaking() {
                let done = bench.proxy(proxy, &[]).and_then(|running| {
                    self.saturated(bench, proxy, &running, case, results)?;
                    self.latencies(bench, Target::Proxy(proxy), case, results)?;
                    if case == Case::Http1 && proxy.measured() == Measured::All {
                        self.bodies(bench, proxy, &running, results)?;
                    }
                    bench.steering(proxy)
                });
                results.take((proxy.name, case.name(), "timed"), done);
            }
        }
        self.busy_with_others.push(busy_since_but(before, bench.own_ticks().saturating_sub(own)));
    }

    /// Finds the rate for all before anybody is measured at it.
    fn probe(&mut self, bench: &Bench, proxy: Proxy, case: Case) -> Fallible<()> {
        let _running = bench.proxy(proxy, &[])?;
        let load = Load::new(case, CONNECTIONS, Amount::Seconds(WARM_UP, 1.0));
        let half = (bench.load(Target::Proxy(proxy), &load)?.per_second / 2.0).round();
        if half > 0.0 {
            let rate = self.same_rate.entry(case.name().to_owned()).or_insert(half);
            *rate = rate.min(half);
        }
        Ok(())
    }

    /// The same loads without a proxy.
    fn direct(&mut self, bench: &Bench, case: Case, results: &mut Results) -> Fallible<()> {
        let target = Target::Direct;
        let report = bench.load(target, &Load::new(case, CONNECTIONS, Amount::Seconds(WARM_UP, self.seconds)))?;
        complain(results, target, case, "rps", &report);
        self.add(target, case.name(), "rps", report.per_second);
        self.latencies(bench, target, case, results)
    }

    fn saturated(
        &mut self,
        bench: &Bench,
        proxy: Proxy,
        running: &Running,
        case: Case,
        results: &mut Results,
    ) -> Fallible<()> {
        let target = Target::Proxy(proxy);
        bench.load(target, &Load::new(case, CONNECTIONS, Amount::Seconds(0.0, 2.0 * WARM_UP)))?;
        let family = running.family();
        let before = cpu_ns(&family);
        // No warm-up here: the processor time is that of all requests that the report counts.
        let report = bench.load(target, &Load::new(case, CONNECTIONS, Amount::Seconds(0.0, self.seconds)))?;
        let spent = cpu_ns(&family).saturating_sub(before);
        complain(results, target, case, "rps", &report);
        if report.answered == 0 {
            return Err("no request was answered".into());
        }
        self.add(target, case.name(), "rps", report.per_second);
        self.add(target, case.name(), "cpu_us", spent as f64 / 1e3 / report.answered as f64);
        Ok(())
    }

    fn latencies(&mut self, bench: &Bench, target: Target, case: Case, results: &mut Results) -> Fallible<()> {
        let amount = Amount::Seconds(WARM_UP, self.seconds);
        let one = bench.load(target, &Load::new(case, 1, amount).rate(LOW_RATE))?;
        complain(results, target, case, "p50 at one connection", &one);
        self.add(target, case.name(), "p50_us", one.p50_us);
        let own = self.last(target, case.name(), "rps").map(|rps| rps / 2.0);
        for (figure, rate) in [("p99_us", own), ("p99_same_rate_us", self.same_rate.get(case.name()).copied())] {
            let Some(rate) = rate else { continue };
            let report = bench.load(target, &Load::new(case, CONNECTIONS, amount).rate(rate))?;
            complain(results, target, case, figure, &report);
            self.add(target, case.name(), figure, report.p99_us);
        }
        if target != Target::Direct
            && let Some(direct) = self.last(Target::Direct, case.name(), "p50_us")
        {
            self.add(target, case.name(), "added_p50_us", one.p50_us - direct);
        }
        Ok(())
    }

    fn bodies(&mut self, bench: &Bench, proxy: Proxy, running: &Running, results: &mut Results) -> Fallible<()> {
        let (target, family) = (Target::Proxy(proxy), running.family());
        for body in BODIES.into_iter().filter(|body| *body != SMALL_BODY) {
            // Of large bodies, few at a time: else none is done when the time is over.
            let connections = if body.1 > 1_000_000 { 8 } else { CONNECTIONS };
            let load = Load::new(Case::Http1, connections, Amount::Seconds(0.0, 2.0 * WARM_UP)).body(body);
            bench.load(target, &load)?;
            let before = cpu_ns(&family);
            let report = bench.load(target, &Load { amount: Amount::Seconds(0.0, self.seconds), ..load })?;
            let spent = cpu_ns(&family).saturating_sub(before);
            let figure = format!("rps, body {}", body.0);
            complain(results, target, Case::Http1, &figure, &report);
            if report.answered < 10 {
                let few = Err::<(), _>(format!("only {} answers in time", report.answered).into());
                results.take((proxy.name, "h1", &figure), few);
                continue;
            }
            self.add(target, body.0, "rps", report.per_second);
            self.add(target, body.0, "cpu_us", spent as f64 / 1e3 / report.answered as f64);
        }
        Ok(())
    }

    /// Puts medians and spreads into the results.
    pub fn fill(&self, results: &mut Results) {
        for (name, values) in &self.values {
            let mut parts = name.splitn(3, '/');
            let (Some(proxy), Some(case), Some(figure)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some((least, middle, most)) = median(values) else { continue };
            if let Some(body) = BODIES.iter().find(|(name, _)| *name == case) {
                if let Some(row) = results.body(proxy, *body) {
                    row.spread.insert(figure.into(), [least, most]);
                    *(if figure == "rps" { &mut row.rps } else { &mut row.cpu_us }) = Some(middle);
                }
                continue;
            }
            let Some(row) = results.row(proxy, case) else { continue };
            row.spread.insert(figure.into(), [least, most]);
            row.same_rate = self.same_rate.get(case).copied();
            let place = match figure {
                "rps" => &mut row.rps,
                "cpu_us" => &mut row.cpu_us,
                "p50_us" => &mut row.p50_us,
                "added_p50_us" => &mut row.added_p50_us,
                "p99_us" => &mut row.p99_us,
                _ => &mut row.p99_same_rate_us,
            };
            *place = Some(middle);
        }
    }
}

/// Enters requests that were not answered among the failures.
fn complain(results: &mut Results, target: Target, case: Case, figure: &str, report: &Report) {
    if !report.failures.is_empty() {
        let all = report.answered + report.failures.values().sum::<u64>();
        let failed = Err::<(), _>(format!("of {all} requests: {:?}", report.failures).into());
        results.take((target.name(), case.name(), figure), failed);
    }
}

/// Least, middle, most.
fn median(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((*sorted.first()?, f64::midpoint(lower, upper), *sorted.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[5.0, 1.0, 3.0]), Some((1.0, 3.0, 5.0)));
        assert_eq!(median(&[4.0, 1.0, 3.0, 9.0]), Some((1.0, 3.5, 9.0)));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn of_a_busy_round_nothing_is_kept_and_of_the_others_everything() {
        let mut samples = Samples::new(1.0);
        for (round, busy) in [0.3, 0.0, 0.04].into_iter().enumerate() {
            samples.add(Target::Direct, "h1", "rps", round as f64);
            samples.busy_with_others.push(busy);
        }
        samples.forget_busier_than(0.05);
        assert_eq!((samples.rounds(), &samples.values["direct/h1/rps"]), (2, &vec![1.0, 2.0]));
    }
}
