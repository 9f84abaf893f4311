//! `train`: simulates, fits the weights of the network, an ablation or a rival, and writes what it became.

use super::{VALIDATION_SEED, about, runs};
use crate::data::{self, Sample};
use crate::plot::{Axis, Series, lines};
use crate::train::{Figures, Keep, Look, Plan, figures, go_on, train};
use crate::variant::Kind;
use crate::weights::Weights;
use crate::weights::write_whole;
use crate::{Error, Result, onnx};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug, Args)]
/// Arguments.
pub struct Train {
    /// How many simulated runs to train on.
    #[arg(long, default_value_t = 5_000)]
    runs: u64,
    /// A file of samples from `samples`, instead of simulating.
    #[arg(long)]
    data: Option<PathBuf>,
    /// A file of samples to validate with, of other seeds, instead of simulating.
    #[arg(long)]
    validation: Option<PathBuf>,
    /// How many runs to validate with.
    #[arg(long, default_value_t = 60)]
    validation_runs: u64,
    /// How many steps.
    #[arg(long, default_value_t = 24_000)]
    steps: usize,
    /// How many edges a step sees, about.
    #[arg(long, default_value_t = 2_000)]
    edges: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 3e-3)]
    rate: f64,
    /// How many steps between two looks at the validation figures.
    #[arg(long, default_value_t = 1_000)]
    every: usize,
    /// Stop after this many looks without a better one.
    #[arg(long, default_value_t = 12)]
    patience: usize,
    /// The seed of everything: runs, start, order, masks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many threads, 1 or 2; the result is the same.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The network with a part left out: full, layers-1 to layers-6, no-edges, no-graph, no-memory, no-sharing, no-alike,
    /// no-gate, no-listwise.
    #[arg(long, default_value = "full", conflicts_with = "rival")]
    variant: String,
    /// A rival in the network's place: gcn, gat or mlp.
    #[arg(long, value_parser = ["gcn", "gat", "mlp"])]
    rival: Option<String>,
    /// Begin with these weights (.safetensors) instead of random ones: such as a former training's best, on other runs.
    #[arg(long, conflicts_with_all = ["rival", "variant"])]
    from: Option<PathBuf>,
    /// The checkpoint, written at each look at the validation figures.
    #[arg(long, default_value = "target/lab/training.safetensors")]
    checkpoint: PathBuf,
    /// Go on from the checkpoint, where there is one: the result is that of a training that was never stopped.
    #[arg(long)]
    resume: bool,
    /// Stop after this step, leaving a checkpoint.
    #[arg(long)]
    pause_at: Option<usize>,
    /// Where to keep the best weights.
    #[arg(long, default_value = "target/lab/best.safetensors")]
    weights: PathBuf,
    /// A file of samples to judge the result by, beside those of the validation.
    #[arg(long)]
    judge: Option<PathBuf>,
    /// Where to write the learning curves: history.jsonl and SVG.
    #[arg(long, default_value = "target/lab")]
    curves: PathBuf,
    /// Where to write the model: .onnx, or .safetensors for what is only to be compared.
    #[arg(long, default_value = "models/pathloom.onnx")]
    out: PathBuf,
    /// The model's version.
    #[arg(long, default_value = "0.1.0")]
    model_version: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    kind: String,
    numbers: usize,
    samples: usize,
    edges: usize,
    candidates: usize,
    trained_on: String,
    seconds_simulating: f64,
    seconds_fitting: f64,
    seconds_per_step: f64,
    best: Option<Look>,
    judged: Option<Figures>,
    history: Vec<Look>,
    out: PathBuf,
    bytes: usize,
}

/// Trains.
///
/// # Errors
/// When samples, a checkpoint or weights cannot be read or written, or a tensor operation fails.
pub fn run(args: &Train) -> Result<()> {
    let start = Instant::now();
    let kind: Kind = args.rival.as_deref().unwrap_or(&args.variant).parse()?;
    // What the file says of its making is what held when it began.
    let mut about = about(&args.model_version, "");
    let samples = match &args.data {
        Some(path) => data::load(path)?,
        None => runs(args.runs, args.seed)?,
    };
    let validation = match &args.validation {
        Some(path) => data::load(path)?,
        None => runs(args.validation_runs, VALIDATION_SEED.wrapping_add(args.seed))?,
    };
    let digest = data::digest(&samples)?;
    let count = |of: fn(&Sample) -> usize| samples.iter().map(of).sum::<usize>();
    let (edges, candidates) = (count(|s| s.features.edge_count()), count(|s| s.candidates.len()));
    let seconds_simulating = start.elapsed().as_secs_f64();
    eprintln!(
        "{} samples of {edges} edges and {candidates} candidates, sha256 {digest}, after {seconds_simulating:.0} s",
        samples.len()
    );
    let plan = Plan {
        steps: args.steps,
        edges: args.edges,
        rate: args.rate,
        every: args.every.max(1),
        patience: args.patience,
        seed: args.seed,
        data: digest.clone(),
        threads: args.threads,
    };
    let keep = Keep { checkpoint: Some(args.checkpoint.clone()), resume: args.resume, pause_at: args.pause_at };
    let fitting = Instant::now();
    let trained = match &args.from {
        Some(path) => go_on(&samples, &validation, Weights::load(path)?, &plan, &keep)?,
        None => train(&samples, &validation, kind, &plan, &keep)?,
    };
    let seconds_fitting = fitting.elapsed().as_secs_f64();
    trained.weights.save(&args.weights)?;
    curves(&trained.history, &args.curves)?;
    about.trained_on.clone_from(&digest);
    let bytes = if args.out.extension().is_some_and(|e| e == "safetensors") {
        trained.weights.save(&args.out)?;
        std::fs::metadata(&args.out).map_err(Error::at(&args.out))?.len() as usize
    } else {
        let bytes = onnx::bytes(&trained.weights, &about)?;
        write_whole(&args.out, &bytes)?;
        bytes.len()
    };
    let best = trained.history.iter().rev().find(|l| l.best).cloned();
    let judged = match &args.judge {
        Some(path) => Some(figures(&trained.weights, &data::load(path)?)?),
        None => None,
    };
    let steps = trained.history.last().map_or(1, |l| l.step);
    let report = Report {
        kind: kind.to_string(),
        numbers: trained.weights.count(),
        samples: samples.len(),
        edges,
        candidates,
        trained_on: digest,
        seconds_simulating,
        seconds_fitting,
        seconds_per_step: seconds_fitting / steps.max(1) as f64,
        best,
        judged,
        history: trained.history,
        out: args.out.clone(),
        bytes,
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report).map_err(|e| Error::Format(e.to_string()))?);
    } else {
        let best =
            report.best.as_ref().map_or_else(String::new, |b| format!("step {}: {}", b.step, b.validation.line()));
        say!("{} ({} numbers), best at {best}", report.kind, report.numbers);
        if let Some(judged) = &report.judged {
            say!("judged: {}", judged.line());
        }
        say!(
            "{}: {bytes} bytes, after {seconds_simulating:.0} s of simulation and {seconds_fitting:.0} s of fitting",
            args.out.display()
        );
    }
    Ok(())
}

/// Writes the learning curves.
fn curves(history: &[Look], folder: &Path) -> Result<()> {
    let mut text = String::new();
    for look in history {
        text += &serde_json::to_string(look).map_err(|e| Error::Format(e.to_string()))?;
        text.push('\n');
    }
    super::write(&folder.join("history.jsonl"), text.as_bytes())?;
    let series =
        |name: &str, of: fn(&Look) -> f64| Series::new(name, history.iter().map(|l| (l.step as f64, of(l))).collect());
    let (steps, error) = (Axis::linear("step"), Axis::linear("share"));
    let charts: [(&str, &str, Axis<'_>, Vec<Series>); 2] = [
        ("loss.svg", "Training loss", Axis::logarithmic("loss"), vec![series("loss", |l| l.loss)]),
        (
            "validation.svg",
            "Validation figures",
            error,
            vec![
                series("error of the intrinsic latency", |l| l.validation.intrinsic),
                series("error of the window's mean", |l| l.validation.mean),
                series("wrong choices", |l| 1.0 - l.validation.accuracy),
                series("regret", |l| l.validation.regret),
            ],
        ),
    ];
    for (file, title, y, series) in &charts {
        lines(&folder.join(file), title, steps, *y, series)?;
    }
    Ok(())
}
