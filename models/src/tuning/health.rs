//! Health checks: how soon they find an endpoint that is dead, beside what requests see, and what they take for dead.

use super::bench::node;
use super::{Plot, seconds, spread};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::balance::{Health, Unwell};
use pathloom::config::{Check, Ejection, HealthCheck, Timespan};
use pathloom::health::{Checks, Ejector};
use pathloom::links::NodeKey;
use std::time::Duration;

/// The room's plots.
pub(super) fn plots() -> Vec<Plot> {
    vec![
        Plot::lines(
            "health-requests",
            "health.check: how soon an endpoint that refuses connections gets nothing",
            Axis::logarithmic("requests a second to it"),
            Axis::logarithmic("seconds until it gets none, mean"),
            by_requests(),
        ),
        Plot::lines(
            "health-every",
            "health.every, timeout and fall: how soon checks alone find a dead endpoint",
            Axis::linear("health.every, s"),
            Axis::linear("seconds until it gets none, mean"),
            by_every(),
        ),
        Plot::lines(
            "health-lost",
            "health.fall and rise: an endpoint that is well, and checks that get lost",
            Axis::linear("checks that get lost, %"),
            Axis::linear("time for which it gets none, %"),
            by_lost(),
        ),
    ]
}

const RUNS: u32 = 200;

fn rules(every_s: f64, rise: u32, fall: u32) -> HealthCheck {
    let every = Timespan(Duration::from_secs_f64(every_s));
    HealthCheck { check: Check::Tcp, every, rise, fall, ..HealthCheck::default() }
}

/// Seconds from an endpoint's death until checks say so, the first of which comes at any moment of the interval. Each takes
/// `takes_s` to fail; the next one follows after `every`, give or take a tenth, as `health::checks` has it.
fn until_unwell(rules: &HealthCheck, takes_s: f64, draw: &mut Draw) -> f64 {
    let (checks, key) = (Checks::default(), NodeKey::new("10.0.0.1:80"));
    checks.told(&key, Ok(()), rules);
    let every_s = rules.every.0.as_secs_f64();
    let mut at_s = draw.uniform(0.0, 1.0) * every_s;
    loop {
        at_s += takes_s;
        if checks.told(&key, Err(Unwell::NoConnection), rules) {
            return at_s;
        }
        at_s += every_s * draw.uniform(0.9, 1.1);
    }
}

fn mean(mut of: impl FnMut() -> f64) -> f64 {
    (0..RUNS).map(|_| of()).sum::<f64>() / f64::from(RUNS)
}

fn by_every() -> Vec<Series> {
    let mut draw = Draw::new(51);
    let mut of = |name: &str, fall: u32, takes_s: f64| {
        let points = (1..=15).map(|every_s| {
            let rules = rules(f64::from(every_s), 2, fall);
            (f64::from(every_s), mean(|| until_unwell(&rules, takes_s, &mut draw)))
        });
        Series::new(name, points.collect())
    };
    vec![of("fall 1", 1, 0.0), of("fall 3", 3, 0.0), of("fall 5", 5, 0.0), of("fall 3, timeout of 1 s", 3, 1.0)]
}

/// Requests that come at random, each refused, and checks: whichever says so first.
fn by_requests() -> Vec<Series> {
    let mut draw = Draw::new(52);
    let mut until = |a_second: f64, row: u32, check: Option<&HealthCheck>| {
        let ejection = Ejection { consecutive_failures: row, ..Ejection::default() };
        let (node, mut ejector) = (node(), Ejector::default());
        let checked_s = check.map_or(f64::INFINITY, |rules| until_unwell(rules, 0.0, &mut draw));
        let mut at_s = 0.0;
        loop {
            at_s += draw.exponential() / a_second;
            if at_s >= checked_s {
                return checked_s;
            }
            node.failed();
            if ejector.check(&node, &ejection, None, seconds(1.0 + at_s)).health == Health::Ejected {
                return at_s;
            }
        }
    };
    let default = rules(5.0, 2, 3);
    let mut of = |name: &str, row: u32, check: Option<&HealthCheck>| {
        Series::new(name, spread(0.01, 100.0, 24).map(|rate| (rate, mean(|| until(rate, row, check)))).collect())
    };
    vec![
        of("3 failures in a row", 3, None),
        of("with checks, 5 s x 3", 3, Some(&default)),
        of("with checks, 1 s x 2", 3, Some(&rules(1.0, 2, 2))),
    ]
}

/// An endpoint is well, and a share of its checks gets lost: how long it is taken for dead.
fn by_lost() -> Vec<Series> {
    const CHECKS: u32 = 20_000;
    let key = NodeKey::new("10.0.0.1:80");
    let of = |(rise, fall): (u32, u32)| {
        let rules = rules(5.0, rise, fall);
        let out = |percent: u32| {
            let (checks, mut draw) = (Checks::default(), Draw::new(53));
            checks.told(&key, Ok(()), &rules);
            let unwell = (0..CHECKS).filter(|_| {
                let lost = draw.chance(f64::from(percent) / 100.0);
                checks.told(&key, if lost { Err(Unwell::NoConnection) } else { Ok(()) }, &rules);
                checks.of(&key).unwell.is_some()
            });
            (f64::from(percent), unwell.count() as f64 / f64::from(CHECKS) * 100.0)
        };
        Series::new(format!("fall {fall}, rise {rise}"), (0..=30).step_by(3).map(out).collect())
    };
    [(1, 1), (2, 1), (2, 3), (2, 5)].map(of).into()
}
