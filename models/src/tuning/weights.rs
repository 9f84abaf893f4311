//! Between scores and weights: temperature, guards, and the local estimate's decay.

use super::{DEFAULT, Plot, logarithmic, seconds};
use crate::plot::{Axis, Series};
use pathloom::control::weights::{LEAST_GROWN, Limits, Wanted, guarded};
use pathloom::links::LocalEstimate;

/// The room's plots.
pub(super) fn plots() -> Vec<Plot> {
    let (time, weight) = (Axis::linear("time, s"), Axis::linear("weight"));
    vec![
        Plot::lines(
            "temperature",
            "model.temperature: four endpoints and their weights",
            Axis::logarithmic("temperature"),
            weight,
            by_temperature(),
        ),
        Plot::lines(
            "floor",
            "model.guards.floor: the weight of one of four endpoints that is slower",
            Axis::logarithmic("times as slow as the others"),
            Axis::logarithmic("weight"),
            by_floor(),
        ),
        Plot::lines(
            "max-step",
            "model.guards.max_step: one of four is 8 times slower from 5 s to 20 s",
            time,
            weight,
            by_step(),
        ),
        Plot::lines(
            "dead-band",
            "model.guards.dead_band: one of four equal endpoints, predictions 5% off",
            time,
            weight,
            by_dead_band(),
        ),
        Plot::lines(
            "slow-start",
            "model.guards.slow_start: a fourth endpoint is new at 0 s",
            time,
            weight,
            by_slow_start(),
        ),
        Plot::lines(
            "decay",
            "model.decay: the estimate after one answer of 200 ms, predicted 20 ms",
            time,
            Axis::linear("estimate, ms"),
            by_decay(),
        ),
    ]
}

/// A candidate that is predicted to take so long.
fn wanted(latency_s: f64, last: Option<f32>) -> Wanted {
    Wanted { score: Some(-(latency_s.ln()) as f32), takes_requests: true, configured: 1, grown: 1.0, last }
}

fn weights(latencies_s: &[f64], limits: &Limits) -> Vec<f64> {
    let candidates: Vec<Wanted> = latencies_s.iter().map(|l| wanted(*l, None)).collect();
    guarded(&candidates, limits).iter().map(|g| f64::from(g.weight)).collect()
}

fn by_temperature() -> Vec<Series> {
    const MS: [f64; 4] = [10.0, 15.0, 20.0, 40.0];
    let latencies: Vec<f64> = MS.iter().map(|ms| ms * 1e-3).collect();
    let at = |i: usize| {
        let weight = |t: f64| {
            let all = weights(&latencies, &Limits { temperature: t as f32, ..DEFAULT });
            (t, all.get(i).copied().unwrap_or(f64::NAN))
        };
        logarithmic(0.1, 10.0).map(weight).collect()
    };
    MS.iter().enumerate().map(|(i, ms)| Series::new(format!("predicted {ms} ms"), at(i))).collect()
}

fn by_floor() -> Vec<Series> {
    let of = |floor: f32| {
        let weight = |times: f64| {
            let all = weights(&[0.01, 0.01, 0.01, 0.01 * times], &Limits { floor, ..DEFAULT });
            (times, all.last().copied().unwrap_or(f64::NAN))
        };
        logarithmic(1.0, 1_000.0).map(weight).collect()
    };
    [0.0, 0.02, 0.1, 0.5].map(|floor| Series::new(format!("floor {:.0}%", floor * 100.0), of(floor))).into()
}

/// A weight of each second of ticks: `latencies` says what is predicted then, of whom the last one is drawn.
fn ticks(limits: &Limits, seconds: u32, latencies: impl Fn(u32) -> Vec<f64>) -> Vec<(f64, f64)> {
    let mut last: Vec<Option<f32>> = Vec::new();
    let mut points = Vec::new();
    for second in 0..=seconds {
        let predicted = latencies(second);
        let before = |i: usize| last.get(i).copied().flatten();
        let candidates: Vec<Wanted> = predicted.iter().enumerate().map(|(i, l)| wanted(*l, before(i))).collect();
        let now = guarded(&candidates, limits);
        points.push((f64::from(second), now.last().map_or(f64::NAN, |g| f64::from(g.weight))));
        last = now.iter().map(|g| Some(g.weight)).collect();
    }
    points
}

fn by_step() -> Vec<Series> {
    let latencies = |second| vec![0.01, 0.01, 0.01, if (5..20).contains(&second) { 0.08 } else { 0.01 }];
    let of = |max_step: f32| {
        Series::new(format!("{:.0}% a tick", max_step * 100.0), ticks(&Limits { max_step, ..DEFAULT }, 40, latencies))
    };
    [0.02, 0.05, 0.2, 1.0].map(of).into()
}

fn by_dead_band() -> Vec<Series> {
    // What is predicted is off by up to 5%, differently each second and for each endpoint; the same in each drawing.
    let off = |second: u32, i: u32| {
        let scattered = u64::from(second * 4 + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        (f64::from((scattered % 1_000) as u32) / 500.0 - 1.0) * 0.05
    };
    let latencies = move |second| (0..4).map(|i| 0.01 * (1.0 + off(second, i))).collect();
    let of = |dead_band: f32| {
        Series::new(
            format!("dead band {:.0}%", dead_band * 100.0),
            ticks(&Limits { dead_band, ..DEFAULT }, 40, latencies),
        )
    };
    [0.0, 0.02, 0.1].map(of).into()
}

fn by_slow_start() -> Vec<Series> {
    let of = |slow_start_s: f32| {
        let mut last = [Some(1.0 / 3.0), Some(1.0 / 3.0), Some(1.0 / 3.0), None];
        let mut points = Vec::new();
        for second in 0..=70u8 {
            let age_s = f32::from(second);
            // As `control::publish` has it.
            let grown = if age_s < slow_start_s { (age_s / slow_start_s).max(LEAST_GROWN) } else { 1.0 };
            let mut candidates = last.map(|last| wanted(0.01, last));
            if let Some(new) = candidates.last_mut() {
                new.grown = grown;
            }
            let now = guarded(&candidates, &DEFAULT);
            points.push((f64::from(second), now.last().map_or(f64::NAN, |g| f64::from(g.weight))));
            for (slot, guarded) in last.iter_mut().zip(&now) {
                *slot = Some(guarded.weight);
            }
        }
        Series::new(format!("slow start {slow_start_s} s"), points)
    };
    [0.0, 10.0, 30.0, 60.0].map(of).into()
}

fn by_decay() -> Vec<Series> {
    let of = |tau_s: f32| {
        let estimate = LocalEstimate::default();
        estimate.record(seconds(1.0), 0.2, 0.02, tau_s);
        let at = |tenth: u32| {
            let after_s = f64::from(tenth) * 0.1;
            (after_s, f64::from(estimate.at(seconds(1.0 + after_s), 0.02, tau_s)) * 1e3)
        };
        Series::new(format!("decay {tau_s} s"), (0..=900).map(at).collect())
    };
    [3.0, 10.0, 20.0, 60.0].map(of).into()
}
