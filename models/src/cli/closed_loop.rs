//! `closed-loop`: policies against each other in the simulator.

use crate::check;
use crate::closed_loop::arms::{Arm, arms, tuned, vary};
use crate::closed_loop::compare::{Compared, Summary, play, summarise};
use crate::closed_loop::scenarios::{DURATION_S, TROUBLE, WARM_UP_S, about, names, scenario};
use crate::closed_loop::scores::Source;
use crate::closed_loop::stats::Interval;
use crate::engines::Rten;
use crate::{Error, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The seeds on which parameters are tuned begin here; those of the figures at `--seed`.
const TUNING_SEED: u64 = 1_000_000;

/// What the command takes.
#[derive(Debug, Args)]
pub struct ClosedLoop {
    /// The scenarios; all without.
    #[arg(long, num_args = 1..)]
    scenario: Vec<String>,
    /// The policies; all without.
    #[arg(long, num_args = 1..)]
    policy: Vec<String>,
    /// How many seeds.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 2_000_000)]
    seed: u64,
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// How many runs are played at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Values of the product's pick to try, such as `tau=1,3,10`: also temperature, floor, compare, max-step, dead-band.
    #[arg(long)]
    vary: Vec<String>,
    /// Try the rivals' parameters on seeds of their own instead of comparing, and say which won.
    #[arg(long)]
    tune: bool,
    /// List scenarios and policies.
    #[arg(long)]
    list: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write the JSON to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to draw plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// What a run of the command found.
#[derive(Debug, Serialize)]
struct Report {
    command: String,
    commit: String,
    date: String,
    machine: String,
    model: Option<String>,
    seeds: Vec<u64>,
    seconds: SecondsOf,
    scenarios: BTreeMap<&'static str, Compared>,
}

/// The times of every scenario, in seconds.
#[derive(Debug, Serialize)]
struct SecondsOf {
    warm_up: f64,
    trouble: (f64, f64),
    duration: f64,
}

/// Runs the command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(args: &ClosedLoop) -> Result<()> {
    if args.list {
        list();
        return Ok(());
    }
    let scenarios = chosen(&args.scenario, &names(), "scenario")?;
    let all = arms();
    let arm_names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
    let wanted = chosen(&args.policy, &arm_names, "policy")?;
    let mut arms: Vec<Arm> = all.iter().filter(|a| wanted.contains(&a.name.as_str())).cloned().collect();
    for values in &args.vary {
        arms = vary(arms, values)?;
    }
    if args.tune {
        arms = tuned();
    }
    let first = if args.tune { TUNING_SEED } else { args.seed };
    let seeds: Vec<u64> = (0..args.seeds).map(|i| first + i).collect();
    let needs_model = arms.iter().any(|a| a.source == Some(Source::Model));
    let (model, digest) = if needs_model { load(&args.model)? } else { (None, None) };

    let bar = ProgressBar::new((scenarios.len() * arms.len() * seeds.len()) as u64);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left: {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut report = Report {
        command: std::env::args().skip(1).fold("pathloom-models".to_string(), |line, arg| line + " " + &arg),
        commit: super::about("", "").commit,
        date: now(),
        machine: crate::results::machine(),
        model: digest,
        seeds: seeds.clone(),
        seconds: SecondsOf { warm_up: WARM_UP_S, trouble: TROUBLE, duration: DURATION_S },
        scenarios: BTreeMap::new(),
    };
    for name in &scenarios {
        bar.set_message(name.to_string());
        let start = Instant::now();
        let runs = play(name, &arms, model.as_ref(), &seeds, args.jobs, |_, _| bar.inc(1))?;
        let first = scenario(name, first)?;
        let compared = summarise(&first, &arms, &runs);
        if !args.json {
            let events: u64 = runs.iter().flat_map(|r| &r.figures).map(|f| f.events).sum();
            bar.suspend(|| print(name, &compared, &arms, events, start.elapsed().as_secs_f64()));
        }
        report.scenarios.insert(first.name, compared);
    }
    bar.finish_and_clear();
    if !args.json {
        overall(&report, &arms);
    }
    let text = serde_json::to_string_pretty(&report).map_err(|e| Error::Format(e.to_string()))?;
    if args.json {
        say!("{text}");
    }
    if let Some(path) = &args.out {
        super::write(path, (text + "\n").as_bytes())?;
    }
    if let Some(folder) = &args.plots {
        crate::closed_loop::plots::draw(&report.scenarios, folder)?;
    }
    Ok(())
}

fn list() {
    say!("scenarios:");
    for name in names() {
        say!("  {name:20} {}", about(name).map_or("", |(about, _)| about));
    }
    say!("policies:");
    for arm in arms() {
        say!("  {:20} {}", arm.name, arm.about);
    }
}

/// Those of `all` that were asked for, in their own order; all when none was.
fn chosen<'a>(asked: &[String], all: &[&'a str], what: &str) -> Result<Vec<&'a str>> {
    for name in asked {
        if !all.contains(&name.as_str()) {
            let nearest = pathloom::config::nearest(name, all.iter().copied());
            let hint = nearest.map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(Error::Format(format!("there is no {what} {name}{hint} (--list shows all)")));
        }
    }
    Ok(all.iter().copied().filter(|n| asked.is_empty() || asked.iter().any(|a| a == n)).collect())
}

fn load(path: &Path) -> Result<(Option<Arc<Rten>>, Option<String>)> {
    let bytes = std::fs::read(path).map_err(Error::at(path))?;
    check::contract(&bytes)?;
    let digest = crate::data::hexadecimal_digest(&bytes);
    Ok((Some(Arc::new(Rten::new(bytes)?)), Some(format!("{} (sha256 {digest})", path.display()))))
}

fn now() -> String {
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    date.map_or_else(|_| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string())
}

fn percent(interval: Option<&Interval>) -> String {
    interval.map_or(String::new(), |i| {
        format!("{:+6.1}% ({:+.1} to {:+.1})", i.mean * 100.0, i.low * 100.0, i.high * 100.0)
    })
}

fn print(name: &str, compared: &Compared, arms: &[Arm], events: u64, took_s: f64) {
    say!("\n{name}: {} ({events} events in {took_s:.1} s)", compared.about);
    say!(
        "  {:34} {:>8} {:>8} {:>8} {:>7} {:>8} {:>6} {:>7} {:>7} {:>6} {:>6}  p99 against {}",
        "policy",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "errors",
        "goodput",
        "share",
        "divert",
        "recover",
        "churn",
        "swing",
        compared.best_classical.as_deref().unwrap_or("nobody")
    );
    for arm in arms {
        let Some(s) = compared.policies.get(&arm.name) else { continue };
        let of = |s: &Summary, name: &str| s.intervals.get(name).map_or(f64::NAN, |i| i.mean);
        say!(
            "  {:34} {:8.2} {:8.1} {:8.1} {:6.2}% {:8.1} {:6.2} {:7.1} {:7.1} {:6.3} {:6.3}  {}",
            arm.name,
            of(s, "p50_ms"),
            of(s, "p99_ms"),
            of(s, "p999_ms"),
            of(s, "errors") * 100.0,
            of(s, "goodput"),
            of(s, "share"),
            of(s, "divert_s"),
            of(s, "recover_s"),
            of(s, "churn"),
            of(s, "swing"),
            percent(s.p99_vs_best_classical.as_ref()),
        );
    }
}

/// For each arm the geometric mean of its p99 over all scenarios: what tuning goes by.
fn overall(report: &Report, arms: &[Arm]) {
    say!("\ngeometric mean of p99 over {} scenarios, in ms:", report.scenarios.len());
    for arm in arms {
        let logs: Vec<f64> = report
            .scenarios
            .values()
            .filter_map(|c| c.policies.get(&arm.name)?.p99_ms)
            .map(f64::ln)
            .filter(|l| l.is_finite())
            .collect();
        say!("  {:34} {:8.2}", arm.name, (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp());
    }
}
