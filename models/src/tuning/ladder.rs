//! When weights are made, what makes a tick come early, and when the model stops steering.

use super::bench::{Bench, call, cluster, key, number};
use super::{Plot, spread};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use crate::{Error, Result};
use pathloom::balance::{Cause, Rung};
use pathloom::config::{Share, Triggers};
use pathloom::control::Watch;
use pathloom::links::{LinkCell, LinkKey, NodeKey, Outcome};
use std::sync::Arc;

/// The room's plots.
pub(super) fn plots() -> Result<Vec<Plot>> {
    let a_minute = || Axis::logarithmic("extra ticks a minute, a link");
    Ok(vec![
        Plot::lines(
            "tick",
            "model.tick: one of four is predicted to be 8 times slower from 7 s on",
            Axis::linear("time, s"),
            Axis::linear("its weight"),
            by_tick()?,
        ),
        Plot::lines(
            "triggers",
            "model.triggers: a link becomes 10 times slower",
            Axis::logarithmic("calls a second on the link"),
            Axis::logarithmic("seconds until a tick sees it, mean"),
            by_rate()?,
        ),
        Plot::lines(
            "triggers-latency",
            "model.triggers.latency_factor: 100 calls a second, whose latencies scatter by",
            Axis::linear("latency_factor"),
            a_minute(),
            by_factor()?,
        ),
        Plot::lines(
            "triggers-errors",
            "model.triggers.error_rate: a link of which some calls fail, 100 a second",
            Axis::linear("error_rate, %"),
            a_minute(),
            by_error_rate()?,
        ),
        Plot::lines(
            "expire-after",
            "model.guards.expire_after: the model prefers one of four and says nothing from 10 s on",
            Axis::linear("time, s"),
            Axis::linear("the weight of the one that it prefers"),
            by_expiry()?,
        ),
        Plot::lines(
            "max-error",
            "model.guards.max_error: a model that was right is off from now on",
            Axis::linear("predictions are so many times what is seen"),
            Axis::linear("seconds until it no longer steers"),
            by_error()?,
        ),
    ])
}

/// The weight of an endpoint of the first table.
fn weight(bench: &Bench, of: usize) -> Result<f64> {
    let table = bench.table()?;
    let place = (0..table.candidates().len()).find(|i| number(&table, *i) == of);
    Ok(place.map_or(f64::NAN, |i| f64::from(table.candidates()[i].weight)))
}

fn by_tick() -> Result<Vec<Series>> {
    // In tenths of a second.
    const TROUBLE: u32 = 70;
    let of = |tick: u32| -> Result<Series> {
        let tick_s = f64::from(tick) / 10.0;
        let mut bench = Bench::new(&format!("model: {{ tick: {}ms }}\n{}", tick * 100, cluster(4, "")))?;
        bench.predict(&[0.01; 4]);
        bench.tick(Cause::Interval);
        let mut points = Vec::new();
        for tenth in 0..=450u32 {
            if tenth > 0 && tenth % tick == 0 {
                if tenth >= TROUBLE {
                    bench.predict(&[0.01, 0.01, 0.01, 0.08]);
                }
                bench.tick(Cause::Interval);
            }
            points.push((f64::from(tenth) * 0.1, weight(&bench, 4)?));
            bench.pass(0.1);
        }
        Ok(Series::new(format!("tick {tick_s} s"), points))
    };
    [5, 10, 50, 150].into_iter().map(of).collect()
}

/// A link to the only endpoint of a cluster, whose answers are predicted to take 20 ms.
fn one_link() -> Result<(Bench, Arc<LinkCell>)> {
    let mut bench = Bench::new(&cluster(1, ""))?;
    bench.predict(&[0.02]);
    bench.tick(Cause::Interval);
    let table = bench.table()?;
    let link = table.candidates().first().map(|c| c.link.clone());
    Ok((bench, link.ok_or_else(|| Error::Format("a made-up cluster is empty".into()))?))
}

/// How long it takes until a tick comes that was asked for, or that is due.
fn by_rate() -> Result<Vec<Series>> {
    const RUNS: u32 = 80;
    let (bench, link) = one_link()?;
    let (generation, rules) = (bench.generation(), Triggers::default());
    let look_s = rules.min_interval.0.as_secs_f64();
    let of = |name: &str, tick_s: f64, triggers: bool| {
        let mut draw = Draw::new(61);
        let mut until = |a_second: f64| {
            let due_s = draw.uniform(0.0, tick_s);
            let mut watch = Watch::default();
            _ = watch.look(&generation, &rules);
            let (mut next_call_s, mut next_look_s) = (draw.exponential() / a_second, draw.uniform(0.0, look_s));
            while triggers && next_look_s < due_s {
                while next_call_s <= next_look_s {
                    let latency_s = 0.2 * draw.spread(0.5);
                    call(&link, bench.now(), latency_s as f32, Outcome::Success, (0.02, 20.0));
                    next_call_s += draw.exponential() / a_second;
                }
                if watch.look(&generation, &rules).is_some() {
                    return next_look_s;
                }
                next_look_s += look_s;
            }
            due_s
        };
        let mut mean = |rate: f64| (rate, (0..RUNS).map(|_| until(rate)).sum::<f64>() / f64::from(RUNS));
        Series::new(name, spread(1.0, 1_000.0, 12).map(&mut mean).collect())
    };
    Ok(vec![
        of("tick 1 s", 1.0, true),
        of("tick 1 s, no triggers", 1.0, false),
        of("tick 10 s", 10.0, true),
        of("tick 10 s, no triggers", 10.0, false),
    ])
}

/// Extra ticks a minute for which a link asks that is as it always is.
fn extra(rules: &Triggers, failing: f64, sigma: f64) -> Result<f64> {
    const SECONDS: u32 = 300;
    let (bench, link) = one_link()?;
    let (generation, mut watch, mut draw) = (bench.generation(), Watch::default(), Draw::new(62));
    let mut asked = 0u32;
    // Ten calls between two looks.
    for _ in 0..SECONDS * 10 {
        for _ in 0..10 {
            let outcome = if draw.chance(failing) { Outcome::Failure } else { Outcome::Success };
            call(&link, bench.now(), (0.02 * draw.spread(sigma)) as f32, outcome, (0.02, 20.0));
        }
        asked += u32::from(watch.look(&generation, rules).is_some());
    }
    // None is none on a logarithmic axis.
    Ok(if asked == 0 { f64::NAN } else { f64::from(asked) / f64::from(SECONDS) * 60.0 })
}

fn by_factor() -> Result<Vec<Series>> {
    let of = |(name, sigma): (&str, f64)| -> Result<Series> {
        let at = |tenths: u32| {
            let latency_factor = f64::from(tenths) / 10.0;
            let rules = Triggers { latency_factor, ..Triggers::default() };
            Ok((latency_factor, extra(&rules, 0.0, sigma)?))
        };
        let points: Result<Vec<(f64, f64)>> = (12..=80).step_by(2).map(at).collect();
        Ok(Series::new(name, points?))
    };
    let scatter =
        [("half of their mean", 0.47), ("their mean", 0.83), ("twice their mean", 1.27), ("5 times their mean", 1.8)];
    scatter.into_iter().map(of).collect()
}

fn by_error_rate() -> Result<Vec<Series>> {
    let of = |failing: u32| -> Result<Series> {
        let at = |percent: u32| {
            let rules = Triggers { error_rate: Share(f64::from(percent) / 100.0), ..Triggers::default() };
            Ok((f64::from(percent), extra(&rules, f64::from(failing) / 100.0, 0.47)?))
        };
        let points: Result<Vec<(f64, f64)>> = (2..=40).step_by(2).map(at).collect();
        Ok(Series::new(format!("{failing}% fail"), points?))
    };
    [1, 5, 10, 20].into_iter().map(of).collect()
}

fn by_expiry() -> Result<Vec<Series>> {
    let of = |expire_s: u32| -> Result<Series> {
        let yaml = format!("model: {{ guards: {{ expire_after: {expire_s}s }} }}\n{}", cluster(4, ""));
        let mut bench = Bench::new(&yaml)?;
        bench.predict(&[0.005, 0.02, 0.02, 0.02]);
        for _ in 0..3 {
            bench.pass(1.0);
            bench.tick(Cause::Interval);
        }
        let mut points = Vec::new();
        for second in 0..=90u32 {
            points.push((f64::from(second), weight(&bench, 1)?));
            bench.pass(1.0);
            if second + 1 >= 10 {
                bench.predict(&[f32::NAN]);
            }
            bench.tick(Cause::Interval);
        }
        Ok(Series::new(format!("expire_after {expire_s} s"), points))
    };
    [10, 30, 60].into_iter().map(of).collect()
}

fn by_error() -> Result<Vec<Series>> {
    const SEEN_S: f32 = 0.02;
    let of = |max_error: f64| -> Result<Series> {
        let yaml = format!("model: {{ guards: {{ max_error: {max_error} }} }}\n{}", cluster(2, ""));
        let mut points = Vec::new();
        for factor in (12..=60).step_by(3).map(|tenths| f64::from(tenths) / 10.0) {
            let mut bench = Bench::new(&yaml)?;
            let mut until = f64::NAN;
            for second in 0..90u32 {
                let off = if second < 30 { 1.0 } else { factor as f32 };
                bench.predict(&[SEEN_S * off]);
                bench.tick(Cause::Interval);
                bench.pass(1.0);
                for i in 0..40usize {
                    let link = LinkKey::new(&NodeKey::new("w@local"), &key(1 + i % 2));
                    let link = bench.links().link(&link, bench.now());
                    call(&link, bench.now(), SEEN_S, Outcome::Success, (SEEN_S, 20.0));
                }
                if second >= 30 && bench.generation().rung != Rung::Model {
                    until = f64::from(second - 30);
                    break;
                }
            }
            points.push((factor, until));
        }
        Ok(Series::new(format!("max_error {max_error}"), points))
    };
    [0.5, 1.0, 2.0].into_iter().map(of).collect()
}
