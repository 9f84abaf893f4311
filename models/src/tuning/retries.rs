//! Trying again: at how many endpoints, how soon, and within which budget.

use super::bench::{Bench, cluster};
use super::{Plot, seconds, spread, tries};
use crate::Result;
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::balance::{Budget, MIN_PER_SECOND};
use pathloom::config::Share;
use pathloom::links::Time;

/// The room's plots.
pub(super) fn plots() -> Result<Vec<Plot>> {
    let [latency, on_top] = by_per_try()?;
    let after = || Axis::logarithmic("retries.per_try, ms");
    Ok(vec![
        Plot::lines(
            "retries-attempts",
            "retries.attempts: requests whose every try fails, with the budget of 20%",
            Axis::logarithmic("tries that fail, %"),
            Axis::logarithmic("requests that fail in the end, %"),
            by_attempts()?,
        ),
        Plot::lines(
            "retries",
            "retries.budget: 1,000 requests a second, so many of which fail once",
            Axis::linear("requests that fail, %"),
            Axis::linear("tries on top a second"),
            by_budget(),
        ),
        Plot::lines(
            "per-try",
            "retries.per_try: 49 of 50 tries take some 20 ms, one takes a second",
            after(),
            Axis::logarithmic("latency, ms"),
            latency,
        ),
        Plot::lines(
            "per-try-cost",
            "retries.per_try: what it costs the endpoints",
            after(),
            Axis::linear("tries on top, % of the requests"),
            on_top,
        ),
    ])
}

/// Requests of which each try fails by chance, whoever serves it: how many fail in the end.
fn by_attempts() -> Result<Vec<Series>> {
    const REQUESTS: u32 = 6_000;
    const PER_SECOND: u32 = 500;
    let mut all = Vec::new();
    for attempts in [0, 1, 2, 5] {
        let keys = format!(", retries: {{ attempts: {attempts} }}, ejection: {{ consecutive_failures: 0 }}");
        let yaml = cluster(8, &keys);
        let mut points = Vec::new();
        for percent in spread(1.0, 100.0, 24) {
            let bench = Bench::new(&yaml)?;
            let (generation, table, mut draw) = (bench.generation(), bench.table()?, Draw::new(23));
            let Some(retrying) = generation.clusters.first().map(|c| &c.retrying) else { continue };
            let mut failed = 0u32;
            for i in 0..REQUESTS {
                let now = seconds(1.0 + f64::from(i) / f64::from(PER_SECOND));
                if i % PER_SECOND == 0 {
                    retrying.budget.renew(Share(0.2), now);
                }
                retrying.budget.earn(0);
                let mut tried = Vec::with_capacity(6);
                let came = loop {
                    let Some(choice) = table.pick(now, false, draw.rng(), &tried) else { break false };
                    tried.push(choice.index);
                    if !draw.chance(percent / 100.0) {
                        break true;
                    }
                    let leaves = tried.len() <= retrying.attempts && table.has_beside(&tried);
                    if !leaves || !retrying.budget.take(now) {
                        break false;
                    }
                };
                failed += u32::from(!came);
            }
            points.push((percent, f64::from(failed) / f64::from(REQUESTS) * 100.0));
        }
        let name = if attempts == 1 { "1 attempt".into() } else { format!("{attempts} attempts") };
        all.push(Series::new(name, points));
    }
    Ok(all)
}

/// Latencies, and tries on top, by how long an endpoint may take.
fn by_per_try() -> Result<[Vec<Series>; 2]> {
    let came = |budget: u32, ms: f64| {
        let keys = format!(", retries: {{ per_try: {}us, budget: {budget}% }}", (ms * 1e3) as u64);
        tries::play(&Bench::new(&cluster(8, &keys))?, None, 31)
    };
    let [mut latency, mut on_top] = [Vec::new(), Vec::new()];
    for budget in [1, 5, 20] {
        let (mut p99, mut top) = (Vec::new(), Vec::new());
        for ms in spread(10.0, 2_000.0, 20) {
            let came = came(budget, ms)?;
            p99.push((ms, came.p99_ms));
            top.push((ms, came.on_top * 100.0));
        }
        latency.push(Series::new(format!("p99, budget {budget}%"), p99));
        on_top.push(Series::new(format!("budget {budget}%"), top));
    }
    let p50: Result<Vec<(f64, f64)>> = spread(10.0, 2_000.0, 20).map(|ms| Ok((ms, came(20, ms)?.p50_ms))).collect();
    latency.push(Series::new("median, budget 20%", p50?));
    Ok([latency, on_top])
}

fn by_budget() -> Vec<Series> {
    const REQUESTS: u32 = 1_000;
    const SECONDS: u32 = 20;
    let of = |budget: f64| {
        let tries = |percent: u32| {
            let pot = Budget::new(1, Share(budget), MIN_PER_SECOND, Time(0));
            let mut granted = 0u32;
            for i in 0..REQUESTS * SECONDS {
                let now = seconds(f64::from(i) / f64::from(REQUESTS));
                if i % REQUESTS == 0 {
                    pot.renew(Share(budget), now);
                }
                pot.earn(0);
                if i * 37 % 100 < percent && pot.take(now) {
                    granted += 1;
                }
            }
            (f64::from(percent), f64::from(granted) / f64::from(SECONDS))
        };
        Series::new(format!("budget {:.0}%", budget * 100.0), (0..=100).step_by(4).map(tries).collect())
    };
    let none = format!("budget 0%: {MIN_PER_SECOND} a second");
    let mut all: Vec<Series> = [0.0, 0.1, 0.2, 0.5].map(of).into();
    if let Some(first) = all.first_mut() {
        first.name = none;
    }
    all
}
