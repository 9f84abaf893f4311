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
//! The last three are open loops.

use crate::Fallible;
use crate::bench::{Amount, Bench, CONNECTIONS, Case, Load, Proxy, Target};
use crate::load::Report;
use crate::process::{Running, busy_since, busy_ticks, cpu_ns};
use crate::results::Results;
use crate::upstream::BODIES;
use std::collections::BTreeMap;

/// The low rate at one connection, in requests a second.
const LOW_RATE: f64 = 2000.0;
/// Warm-up of each load, in seconds.
const WARM_UP: f64 = 0.5;

/// Samples by proxy, case and figure.
pub struct Samples {
    values: BTreeMap<(String, String, &'static str), Vec<f64>>,
    /// The rate for all, by case.
    same_rate: BTreeMap<Case, f64>,
    /// How busy both cores were in each round: a quiet machine shows what the proxies and the load take.
    pub busy: Vec<f64>,
    seconds: f64,
}

impl Samples {
    pub fn new(seconds: f64) -> Self {
        Self { values: BTreeMap::new(), same_rate: BTreeMap::new(), busy: Vec::new(), seconds }
    }

    fn add(&mut self, target: Target, case: &str, figure: &'static str, value: f64) {
        self.values.entry((target.name().to_owned(), case.to_owned(), figure)).or_default().push(value);
    }

    fn last(&self, target: Target, case: &str, figure: &'static str) -> Option<f64> {
        self.values.get(&(target.name().to_owned(), case.to_owned(), figure))?.last().copied()
    }

    /// One round.
    pub fn round(&mut self, bench: &Bench, proxies: &[Proxy], cases: &[Case], turn: usize, results: &mut Results) {
        let before = busy_ticks();
        let mut order: Vec<Proxy> = proxies.to_vec();
        order.rotate_left(turn % proxies.len().max(1));
        for case in cases.iter().copied() {
            if turn == 0 {
                for proxy in order.iter().copied().filter(|proxy| proxy.speaks(case)) {
                    let probed = self.probe(bench, proxy, case);
                    results.take((proxy.name, case.name(), "first throughput"), probed);
                }
            }
            let direct = self.direct(bench, case, results);
            results.take(("direct", case.name(), "timed"), direct);
            for proxy in order.iter().copied().filter(|proxy| proxy.speaks(case)) {
                let done = bench.proxy(proxy, &[]).and_then(|running| {
                    self.saturated(bench, proxy, &running, case, results)?;
                    self.latencies(bench, Target::Proxy(proxy), case, results)?;
                    bench.steering(proxy)
                });
                results.take((proxy.name, case.name(), "timed"), done);
            }
        }
        if cases.contains(&Case::Http1) {
            for proxy in &order {
                let done = self.bodies(bench, *proxy, results);
                results.take((proxy.name, "h1", "timed bodies"), done);
            }
        }
        self.busy.push(busy_since(before));
    }

    /// Finds the rate for all before anybody is measured at it.
    fn probe(&mut self, bench: &Bench, proxy: Proxy, case: Case) -> Fallible<()> {
        let _running = bench.proxy(proxy, &[])?;
        let load = Load::new(case, CONNECTIONS, Amount::Seconds(WARM_UP, 1.0));
        let half = (bench.load(Target::Proxy(proxy), &load)?.per_second / 2.0).round();
        if half > 0.0 {
            let rate = self.same_rate.entry(case).or_insert(half);
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
        for (figure, rate) in [("p99_us", own), ("p99_same_rate_us", self.same_rate.get(&case).copied())] {
            let Some(rate) = rate else { continue };
            let report = bench.load(target, &Load::new(case, CONNECTIONS, amount).rate(rate))?;
            complain(results, target, case, figure, &report);
            self.add(target, case.name(), figure, report.p99_us);
            if target != Target::Direct && figure == "p99_us" {
                let direct = bench.load(Target::Direct, &Load::new(case, CONNECTIONS, amount).rate(rate))?;
                self.add(target, case.name(), "added_p99_us", report.p99_us - direct.p99_us);
            }
        }
        if target != Target::Direct
            && let Some(direct) = self.last(Target::Direct, case.name(), "p50_us")
        {
            self.add(target, case.name(), "added_p50_us", one.p50_us - direct);
        }
        Ok(())
    }

    fn bodies(&mut self, bench: &Bench, proxy: Proxy, results: &mut Results) -> Fallible<()> {
        let (target, running) = (Target::Proxy(proxy), bench.proxy(proxy, &[])?);
        let family = running.family();
        for body in BODIES {
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
        for ((proxy, case, figure), values) in &self.values {
            let Some((least, middle, most)) = median(values) else { continue };
            if let Some(body) = BODIES.iter().find(|(name, _)| name == case) {
                if let Some(row) = results.body(proxy, *body) {
                    row.spread.insert((*figure).into(), [least, most]);
                    *(if *figure == "rps" { &mut row.rps } else { &mut row.cpu_us }) = Some(middle);
                }
                continue;
            }
            let same_rate = self.same_rate.iter().find(|(c, _)| c.name() == case).map(|(_, rate)| *rate);
            let Some(row) = results.row(proxy, case) else { continue };
            row.spread.insert((*figure).into(), [least, most]);
            row.same_rate = same_rate;
            let place = match *figure {
                "rps" => &mut row.rps,
                "cpu_us" => &mut row.cpu_us,
                "p50_us" => &mut row.p50_us,
                "added_p50_us" => &mut row.added_p50_us,
                "p99_us" => &mut row.p99_us,
                "added_p99_us" => &mut row.added_p99_us,
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
}
