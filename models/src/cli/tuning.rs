//! `tuning`: draws what the configuration's keys do, for `proxy-config/TUNING.md`.

use crate::check;
use crate::closed_loop::compare::Compared;
use crate::closed_loop::stats::Interval;
use crate::engines::Rten;
use crate::tuning::{VARIED, of_results, of_runs, of_the_code, runs};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the command takes.
#[derive(Debug, Args)]
pub struct Tuning {
    /// Where to draw.
    #[arg(long, default_value = "proxy-config/tuning")]
    out: PathBuf,
    /// The plots from simulated runs to draw; all without.
    #[arg(long, num_args = 1..)]
    plot: Vec<String>,
    /// Draw what needs no simulation alone.
    #[arg(long)]
    quick: bool,
    /// How many seeds the simulated runs have.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 2_000_000)]
    seed: u64,
    /// How many runs are played at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// What `make bench-sharing` left, for the plot of the ways of telling.
    #[arg(long, default_value = "benches/sharing/results.json")]
    sharing: PathBuf,
    /// What `closed-loop` left, for the plots of the policies.
    #[arg(long, default_value = "models/results/closed-loop.json")]
    results: PathBuf,
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
}

/// What stands behind the plots from simulated runs: by plot, scenario and value the figure that is drawn.
#[derive(Debug, Serialize)]
struct Behind {
    commit: String,
    machine: String,
    model: String,
    seeds: Vec<u64>,
    key: &'static str,
    figure: &'static str,
    scenarios: BTreeMap<&'static str, BTreeMap<String, Interval>>,
}

/// Runs the command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(args: &Tuning) -> Result<()> {
    of_the_code(&args.out)?;
    of_results(&args.results, &args.sharing, &args.out)?;
    if args.quick {
        return Ok(());
    }
    if let Some(unknown) = args.plot.iter().find(|name| VARIED.iter().all(|v| v.name != **name)) {
        let known: Vec<&str> = VARIED.iter().map(|v| v.name).collect();
        return Err(Error::Format(format!("there is no plot {unknown}; there are {}", known.join(", "))));
    }
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let digest = crate::data::hexadecimal_digest(&bytes);
    let model = Arc::new(Rten::new(bytes)?);
    let seeds: Vec<u64> = (0..args.seeds).map(|i| args.seed + i).collect();
    for varied in VARIED.iter().filter(|v| args.plot.is_empty() || args.plot.iter().any(|name| name == v.name)) {
        let found = runs(varied, Some(&model), &seeds, args.jobs)?;
        of_runs(varied, &found, &args.out)?;
        let figure = |compared: &Compared| -> BTreeMap<String, Interval> {
            let of = |(value, summary): (&String, &crate::closed_loop::compare::Summary)| {
                Some((value.clone(), *summary.intervals.get(varied.figure.0)?))
            };
            compared.policies.iter().filter_map(of).collect()
        };
        let behind = Behind {
            commit: super::about("", "").commit,
            machine: crate::results::machine(),
            model: digest.clone(),
            seeds: seeds.clone(),
            key: varied.key,
            figure: varied.figure.0,
            scenarios: found.iter().map(|(name, compared)| (*name, figure(compared))).collect(),
        };
        let text = serde_json::to_string_pretty(&behind).map_err(|e| Error::Format(e.to_string()))?;
        super::write(&args.out.join(format!("{}.json", varied.name)), (text + "\n").as_bytes())?;
        say!("{}", args.out.join(format!("{}.svg", varied.name)).display());
    }
    Ok(())
}
