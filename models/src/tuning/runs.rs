//! Plots from simulated runs: a key's values played in the closed loop, and what `closed-loop` left of its arms.

use crate::closed_loop::arms::{arms, vary};
use crate::closed_loop::compare::{Compared, play, summarise};
use crate::closed_loop::scenarios::scenario;
use crate::engines::Rten;
use crate::plot::{self, Axis, Bar, Bars};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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

/// Draws what other commands have measured: of the closed loop the p99 of the policies that a cluster can name, and of the
/// model with and without what others tell; of `make bench-sharing` what the two ways of telling bring.
///
/// # Errors
/// When the results cannot be read, or a file cannot be written.
pub fn of_results(closed_loop: &Path, sharing: &Path, folder: &Path) -> Result<()> {
    const POLICIES: [(&str, &str); 5] = [
        ("pathloom", "model"),
        ("peak-ewma", "peak_ewma"),
        ("least-request", "least_request"),
        ("round-robin", "round_robin"),
        ("random", "random"),
    ];
    const MESH: [(&str, &str); 3] = [
        ("pathloom", "the model, told by all"),
        ("pathloom-nothing", "its pick, no scores"),
        ("peak-ewma", "peak_ewma"),
    ];
    let found = read(closed_loop)?;
    let p99 = |name: &str, title: &str, arms: &[(&str, &str)], scenarios: &[&str]| {
        let bar = |scenario: &str, policy: &str| {
            let p99 = found.pointer(&format!("/scenarios/{scenario}/policies/{policy}/intervals/p99_ms"));
            let of = |name: &str| p99.and_then(|p| p.get(name)).and_then(serde_json::Value::as_f64);
            Bar { value: of("mean").unwrap_or(f64::NAN), interval: of("low").zip(of("high")) }
        };
        let of = |scenario: &&str| {
            let bars = arms.iter().map(|(arm, _)| bar(scenario, arm)).collect();
            Bars { name: (*scenario).to_owned(), bars }
        };
        let series: Vec<Bars> = scenarios.iter().map(of).collect();
        let categories: Vec<String> = arms.iter().map(|(_, words)| (*words).to_owned()).collect();
        plot::bars(&folder.join(format!("{name}.svg")), title, Axis::logarithmic(P99.1), &categories, &series)
    };
    let title = "policy: mean over seeds, 95% interval";
    p99("policy-p99", title, &POLICIES, &["healthy", "gray", "mixed", "rare-gray"])?;
    let title = "mesh.listen: mean over seeds, 95% interval";
    p99("mesh-p99", title, &MESH, &["gray", "two-hops-rare", "rare-gray", "rare-mixed-64x50"])?;
    of_ways(&read(sharing)?, folder)
}

fn read(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
    serde_json::from_str(&text).map_err(|e| Error::Format(format!("{}: {e}", path.display())))
}

/// What a node is told in time, by how many there are and the way of telling.
fn of_ways(found: &serde_json::Value, folder: &Path) -> Result<()> {
    const WAYS: [(&str, &str); 2] = [("gossip", "gossip"), ("nats", "NATS")];
    const NODES: [u64; 4] = [10, 100, 1_000, 10_000];
    let rows = found.pointer("/reports").and_then(serde_json::Value::as_array);
    let rows = rows.ok_or_else(|| Error::Format("the results of sharing have no reports".into()))?;
    let bar = |way: &str, nodes: u64| {
        let of = |row: &&serde_json::Value| {
            // A way with a bound of its own is an object.
            let its = row.get("way").is_some_and(|w| w.as_str() == Some(way) || w.get(way).is_some());
            its && row.get("nodes").and_then(serde_json::Value::as_u64) == Some(nodes)
        };
        let told = rows.iter().find(of).and_then(|row| row.get("told_within_7_s"));
        let part = |name: &str| told.and_then(|t| t.get(name)).and_then(serde_json::Value::as_f64).map(|v| v * 100.0);
        Bar { value: part("median").unwrap_or(f64::NAN), interval: part("least").zip(part("most")) }
    };
    let of =
        |(way, name): (&str, &str)| Bars { name: name.to_owned(), bars: NODES.map(|nodes| bar(way, nodes)).into() };
    let categories = NODES.map(|nodes| format!("{nodes} nodes"));
    plot::bars(
        &folder.join("mesh-ways.svg"),
        "mesh.nats.servers: what others were told within 7 s, of a budget of 64 KiB",
        Axis::linear("links told in time, %: median, least and most"),
        &categories,
        &WAYS.map(of),
    )
}
