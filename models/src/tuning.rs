//! The plots of `proxy-config/TUNING.md`: what a key of the configuration does to where requests go.
//!
//! Two kinds. `of_the_code` asks the sidecar's own code (`control::weights`, `links`, `health`, `balance`) what it makes of
//! made-up inputs, for several values of a key; nothing is simulated, and nothing is drawn that the code does not say.
//! `of_runs` plays the sidecar's pick in the simulator with a key varied, over several seeds.

use crate::closed_loop::arms::{arms, vary};
use crate::closed_loop::compare::{Compared, play, summarise};
use crate::closed_loop::scenarios::scenario;
use crate::engines::Rten;
use crate::plot::{self, Axis, Bar, Bars, Series};
use crate::{Error, Result};
use pathloom::balance::{Budget, Capacity, Endpoint, EndpointId, Health, MIN_PER_SECOND, Maglev};
use pathloom::config::{Ejection, Share, Timespan};
use pathloom::control::weights::{LEAST_GROWN, Limits, Wanted, guarded};
use pathloom::health::{Ejector, Span, outliers};
use pathloom::links::{Links, LocalEstimate, NodeKey, Time, Totals};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The configuration's own defaults of the guards, a tick a second.
const DEFAULT: Limits = Limits { temperature: 1.0, floor: 0.02, max_step: 0.2, dead_band: 0.02 };

/// A key that is varied in the simulator: its name in the configuration, what `vary` calls it with the values, and the
/// scenarios in which it matters.
#[derive(Debug, Clone, Copy)]
pub struct Varied {
    /// The plot's name.
    pub name: &'static str,
    /// The configuration's key.
    pub key: &'static str,
    /// What is varied, for `vary`.
    pub values: &'static str,
    /// Where.
    pub scenarios: &'static [&'static str],
    /// The figure that is drawn, and what it is called.
    pub figure: (&'static str, &'static str),
}

const P99: (&str, &str) = ("p99_ms", "p99 of the end-to-end latency, ms");

/// All that are varied.
pub const VARIED: [Varied; 7] = [
    Varied {
        name: "temperature-p99",
        key: "model.temperature",
        values: "temperature=0.25,0.5,1,2,4",
        scenarios: &["gray", "mixed", "rare-mixed"],
        figure: P99,
    },
    Varied {
        name: "compare-p99",
        key: "model.compare",
        values: "compare=1,2,3,5,all",
        scenarios: &["gray", "mixed", "healthy"],
        figure: P99,
    },
    Varied {
        name: "decay-p99",
        key: "model.decay, s",
        values: "tau=1,3,10,20,60",
        scenarios: &["gray", "mixed", "rare-gray"],
        figure: P99,
    },
    Varied {
        name: "floor-p99",
        key: "model.guards.floor",
        values: "floor=0,0.02,0.1,0.5",
        scenarios: &["gray", "mixed", "rare-gray"],
        figure: P99,
    },
    Varied {
        name: "max-step-p99",
        key: "model.guards.max_step",
        values: "max-step=0.02,0.05,0.2,1",
        scenarios: &["gray", "rare-gray", "stale-3s"],
        figure: P99,
    },
    Varied {
        name: "dead-band-churn",
        key: "model.guards.dead_band",
        values: "dead-band=0,0.02,0.1,0.5",
        scenarios: &["healthy", "mixed", "gray"],
        figure: ("churn", "change of weights a second, sum over candidates"),
    },
    Varied {
        name: "slow-start-p99",
        key: "model.guards.slow_start, s",
        values: "slow-start=0,10,30",
        scenarios: &["crash", "scale-out", "rolling-restart"],
        figure: P99,
    },
];

/// Plays one key's values in its scenarios, `jobs` runs at a time. The arms are named after the value alone.
///
/// # Errors
/// When a run fails.
pub fn runs(
    varied: &Varied,
    model: Option<&Arc<Rten>>,
    seeds: &[u64],
    jobs: usize,
) -> Result<BTreeMap<&'static str, Compared>> {
    let ours = arms().into_iter().filter(|arm| arm.name == "pathloom").collect();
    let mut arms = vary(ours, varied.values)?;
    for arm in &mut arms {
        arm.name = arm.name.rsplit('=').next().unwrap_or_default().to_owned();
    }
    let mut all = BTreeMap::new();
    for name in varied.scenarios {
        let played = play(name, &arms, model, seeds, jobs, |_, _| ())?;
        let first = scenario(name, seeds.first().copied().unwrap_or_default())?;
        all.insert(first.name, summarise(&first, &arms, &played));
    }
    Ok(all)
}

/// Draws what `runs` found.
///
/// # Errors
/// When the file cannot be written.
pub fn of_runs(varied: &Varied, found: &BTreeMap<&'static str, Compared>, folder: &Path) -> Result<()> {
    let values: Vec<&str> = varied.values.split_once('=').map_or(vec![], |(_, list)| list.split(',').collect());
    let (figure, axis) = varied.figure;
    let bar = |compared: &Compared, value: &str| {
        let interval = compared.policies.get(value).and_then(|s| s.intervals.get(figure));
        Bar { value: interval.map_or(f64::NAN, |i| i.mean), interval: interval.map(|i| (i.low, i.high)) }
    };
    let series: Vec<Bars> = varied
        .scenarios
        .iter()
        .filter_map(|name| found.get_key_value(name))
        .map(|(name, compared)| Bars {
            name: (*name).to_owned(),
            bars: values.iter().map(|value| bar(compared, value)).collect(),
        })
        .collect();
    let categories: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
    let title = format!("{}: mean over seeds, 95% interval", varied.key);
    let drawn = || series.iter().flat_map(|s| &s.bars).map(|b| b.value);
    let (least, most) = (drawn().fold(f64::MAX, f64::min), drawn().fold(0.0, f64::max));
    let axis = if least > 0.0 && most > 10.0 * least { Axis::logarithmic(axis) } else { Axis::linear(axis) };
    plot::bars(&folder.join(format!("{}.svg", varied.name)), &title, axis, &categories, &series)
}

/// Draws what the sidecar's code makes of made-up inputs.
///
/// # Errors
/// When a file cannot be written.
pub fn of_the_code(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
    let lines = |name: &str, title: &str, x, y, series: Vec<Series>| {
        plot::lines(&folder.join(format!("{name}.svg")), title, x, y, &series)
    };
    let (seconds, weight) = (Axis::linear("time, s"), Axis::linear("weight"));
    lines(
        "temperature",
        "model.temperature: four endpoints and their weights",
        Axis::logarithmic("temperature"),
        weight,
        by_temperature(),
    )?;
    lines(
        "floor",
        "model.guards.floor: the weight of one of four endpoints that is slower",
        Axis::logarithmic("times as slow as the others"),
        Axis::logarithmic("weight"),
        by_floor(),
    )?;
    lines(
        "max-step",
        "model.guards.max_step: one of four is 8 times slower from 5 s to 20 s",
        seconds,
        weight,
        by_step(),
    )?;
    lines(
        "dead-band",
        "model.guards.dead_band: one of four equal endpoints, predictions 5% off",
        seconds,
        weight,
        by_dead_band(),
    )?;
    lines("slow-start", "model.guards.slow_start: a fourth endpoint is new at 0 s", seconds, weight, by_slow_start())?;
    lines(
        "decay",
        "model.decay: the estimate after one answer of 200 ms, predicted 20 ms",
        seconds,
        Axis::linear("estimate, ms"),
        by_decay(),
    )?;
    lines(
        "ejection",
        "ejection.first and longest: an endpoint that fails each probe",
        seconds,
        Axis::linear("probes that failed"),
        by_ejection(),
    )?;
    lines(
        "success-rate",
        "ejection.success_rate: how many failures eject one, where the others fail 1%",
        Axis::logarithmic("requests that it had in the interval"),
        Axis::linear("requests that fail, %"),
        by_success_rate(),
    )?;
    lines(
        "affinity",
        "affinity: who moves when one endpoint is added",
        Axis::linear("endpoints before"),
        Axis::linear("values that move, %"),
        by_affinity(),
    )?;
    lines(
        "retries",
        "retries.budget: 1,000 requests a second, so many of which fail once",
        Axis::linear("requests that fail, %"),
        Axis::linear("tries on top a second"),
        by_budget(),
    )?;
    lines(
        "locality",
        "locality.own_zone_first: requests that stay, of two zones of equal size",
        Axis::linear("part of the own zone that is well, %"),
        Axis::linear("share that stays, %"),
        by_zone(),
    )
}

/// Draws the p99 of the policies that a cluster can name, from what `closed-loop` left.
///
/// # Errors
/// When the results cannot be read, or the file cannot be written.
pub fn of_policies(results: &Path, folder: &Path) -> Result<()> {
    const POLICIES: [(&str, &str); 5] = [
        ("pathloom", "model"),
        ("peak-ewma", "peak_ewma"),
        ("least-request", "least_request"),
        ("round-robin", "round_robin"),
        ("random", "random"),
    ];
    let text = std::fs::read_to_string(results).map_err(Error::at(results))?;
    let found: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::Format(e.to_string()))?;
    let bar = |scenario: &str, policy: &str| {
        let p99 = found.pointer(&format!("/scenarios/{scenario}/policies/{policy}/intervals/p99_ms"));
        let of = |name: &str| p99.and_then(|p| p.get(name)).and_then(serde_json::Value::as_f64);
        Bar { value: of("mean").unwrap_or(f64::NAN), interval: of("low").zip(of("high")) }
    };
    let series: Vec<Bars> = ["healthy", "gray", "mixed", "rare-gray"]
        .map(|name| Bars { name: name.to_owned(), bars: POLICIES.map(|(arm, _)| bar(name, arm)).into() })
        .into();
    let categories = POLICIES.map(|(_, key)| key.to_owned());
    let title = "policy: mean over seeds, 95% interval";
    plot::bars(&folder.join("policy-p99.svg"), title, Axis::logarithmic(P99.1), &categories, &series)
}

/// A candidate that is predicted to take so long.
fn wanted(latency_s: f64, last: Option<f32>) -> Wanted {
    Wanted { score: Some(-(latency_s.ln()) as f32), takes_requests: true, configured: 1, grown: 1.0, last }
}

fn weights(latencies_s: &[f64], limits: &Limits) -> Vec<f64> {
    let candidates: Vec<Wanted> = latencies_s.iter().map(|l| wanted(*l, None)).collect();
    guarded(&candidates, limits).iter().map(|g| f64::from(g.weight)).collect()
}

/// Values from `low` to `high`, equally far apart on a logarithmic axis.
fn logarithmic(low: f64, high: f64) -> impl Iterator<Item = f64> {
    const POINTS: u32 = 120;
    (0..=POINTS).map(move |i| low * (high / low).powf(f64::from(i) / f64::from(POINTS)))
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

fn seconds(s: f64) -> Time {
    Time((s * 1e9) as u64)
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

fn by_ejection() -> Vec<Series> {
    let of = |(first_s, longest_s): (u64, u64)| {
        let span = |s| Timespan(Duration::from_secs(s));
        let rules = Ejection { first: span(first_s), longest: span(longest_s), ..Ejection::default() };
        let node = Links::new(1).node(&NodeKey::new("10.0.0.1:80"), Time(0));
        (0..rules.consecutive_failures).for_each(|_| _ = node.failed());
        let mut ejector = Ejector::default();
        let (mut probes, mut points) = (0u32, Vec::new());
        for tenth in 0..=6_000u32 {
            let now = seconds(10.0 + f64::from(tenth) * 0.1);
            let state = ejector.check(&node, &rules, None, now).health;
            // Whoever gets the one probe sees it fail.
            if state == Health::Probation && node.take_probe(true) {
                node.failed();
                probes += 1;
            }
            points.push((f64::from(tenth) * 0.1, f64::from(probes)));
        }
        Series::new(format!("first {first_s} s, longest {longest_s} s"), points)
    };
    [(5, 60), (1, 60), (5, 300), (30, 30)].map(of).into()
}

fn by_success_rate() -> Vec<Series> {
    let span = |requests: u64, errors: u64| {
        let totals = Totals { ended: requests, errors, ..Totals::default() };
        Span::between(&Totals::default(), &totals, 1)
    };
    let of = |success_rate: f64| {
        let rules = Ejection { success_rate, ..Ejection::default() };
        let least = |requests: f64| {
            let requests = requests as u64;
            let ejects = |errors: &u64| {
                let others = (0..3).map(|_| span(10_000, 100));
                let all: Vec<Option<Span>> = others.chain([span(requests, *errors)]).collect();
                outliers(&all, &rules).iter().any(|(place, _)| *place == 3)
            };
            let errors = (0..=requests).find(ejects);
            (requests as f64, errors.map_or(f64::NAN, |e| e as f64 / requests as f64 * 100.0))
        };
        Series::new(format!("{success_rate} deviations"), logarithmic(10.0, 2_000.0).map(least).collect())
    };
    [1.0, 1.9, 3.0, 6.0].map(of).into()
}

fn by_affinity() -> Vec<Series> {
    const VALUES: u64 = 20_000;
    let endpoint = |i: u16| {
        let key = NodeKey::new(&format!("10.0.0.1:{i}"));
        let address = ([10, 0, 0, 1], i).into();
        let (zone, host, metadata) = ("".into(), "".into(), BTreeMap::new());
        Arc::new(Endpoint { id: EndpointId(i.into()), key, address, zone, host, weight: 1, metadata, tls: None })
    };
    // Far apart, as hashes are.
    let number = |value: u64| value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let moved = |n: u16| {
        let of = |count: u16| {
            let all: Vec<_> = (1..=count).map(endpoint).collect();
            let table = Maglev::of(&all, None);
            let members: Vec<_> = table.members().collect();
            (0..VALUES).map(|value| table.at(number(value)).and_then(|at| members.get(at).copied())).collect::<Vec<_>>()
        };
        let count = of(n).iter().zip(of(n + 1)).filter(|(before, after)| *before != after).count();
        (f64::from(n), count as f64 / VALUES as f64 * 100.0)
    };
    let modulo = |n: u16| {
        let (before, after) = (u64::from(n), u64::from(n + 1));
        let moved = (0..VALUES).filter(|v| (number(*v) >> 20) % before != (number(*v) >> 20) % after).count();
        (f64::from(n), moved as f64 / VALUES as f64 * 100.0)
    };
    let least = |n: u16| (f64::from(n), 100.0 / (f64::from(n) + 1.0));
    let sizes = || (2..=30u16).step_by(2);
    vec![
        Series::new("affinity (Maglev)", sizes().map(moved).collect()),
        Series::new("hash modulo count", sizes().map(modulo).collect()),
        Series::new("the least possible", sizes().map(least).collect()),
    ]
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

fn by_zone() -> Vec<Series> {
    let of = |(name, unloaded): (&str, f32)| {
        let at = |percent: u8| {
            let well = f32::from(percent) / 100.0;
            let capacity = Capacity { own_well: well * 10.0, own: 10.0, others_well: 10.0 };
            let share = capacity.share(unloaded, DEFAULT.floor).unwrap_or(f32::NAN);
            (f64::from(percent), f64::from(share) * 100.0)
        };
        Series::new(name, (1..=100).map(at).collect())
    };
    let mut all: Vec<Series> =
        [("not busy", 1.0), ("busy: load leaves it 80%", 0.8), ("busy: load leaves it 60%", 0.6)].map(of).into();
    let fair = |percent: u32| (f64::from(percent), f64::from(percent) / (f64::from(percent) + 100.0) * 100.0);
    all.push(Series::new("without preference", (1..=100).map(fair).collect()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(series: &Series, x: f64) -> f64 {
        series.points.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs())).unwrap().1
    }

    #[test]
    fn what_the_guide_says_of_each_plot_is_in_it() {
        let temperature = by_temperature();
        assert!(at(&temperature[0], 0.1) > 0.95 && at(&temperature[0], 10.0) < 0.3, "cold concentrates, hot evens out");
        let floor = by_floor();
        assert!((at(&floor[1], 1_000.0) - 0.005).abs() < 1e-4, "2% of an equal share of a quarter");
        assert!(at(&floor[0], 1_000.0) < 0.001);
        let step = by_step();
        assert!(at(&step[3], 5.0) < 0.05 && at(&step[0], 5.0) > 0.2, "all at once, or two hundredths");
        let band = by_dead_band();
        let moved = |s: &Series| s.points.windows(2).filter(|w| w[0].1 != w[1].1).count();
        assert!(moved(&band[0]) > 30 && moved(&band[2]) < 5, "{} {}", moved(&band[0]), moved(&band[2]));
        let start = by_slow_start();
        assert!(at(&start[0], 0.0) > 0.19 && at(&start[2], 0.0) < 0.05 && at(&start[2], 60.0) > 0.2);
        let decay = by_decay();
        assert!(at(&decay[0], 20.0) < 21.0 && at(&decay[3], 20.0) > 140.0);
        let ejection = by_ejection();
        assert!(at(&ejection[0], 600.0) < at(&ejection[3], 600.0), "doubling probes less often than half a minute");
        let budget = by_budget();
        assert!((at(&budget[2], 100.0) - 200.0).abs() < 20.0 && at(&budget[0], 100.0) < 5.0);
        let rate = by_success_rate();
        assert!((at(&rate[1], 100.0) - 6.0).abs() < 2.0 && at(&rate[3], 100.0) > at(&rate[0], 100.0));
        let affine = by_affinity();
        assert!(at(&affine[0], 10.0) < 15.0 && at(&affine[1], 10.0) > 80.0);
        let zone = by_zone();
        assert!(at(&zone[0], 80.0) > 98.0 && at(&zone[0], 40.0) < 60.0 && at(&zone[3], 40.0) < at(&zone[0], 40.0));
    }

    #[test]
    fn every_plot_becomes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        of_the_code(folder.path()).unwrap();
        let drawn = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(drawn, 11);
        for varied in VARIED {
            vary(arms(), varied.values).unwrap();
            varied.scenarios.iter().for_each(|name| _ = scenario(name, 1).unwrap());
        }
    }
}
