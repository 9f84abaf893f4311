//! The commands: what they read, what they write, what they print.

pub mod evaluate;
pub mod replay;
pub mod results;
mod samples;
mod closed_loop;

use crate::check::{self, TOLERANCE};
use crate::data::{self, Sample};
use crate::engines::{OnnxRuntime, Rten};
use crate::onnx::{About, OUTPUTS};
use crate::sim::simulate;
use crate::train::{self, Plan};
use crate::weights::Weights;
use crate::{Error, Result, onnx};
use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Seeds from here on are for validation, and from 2,000,000 on for tests: no run is in two sets.
const VALIDATION_SEED: u64 = 1_000_000;

/// Simulates, trains, exports, checks and evaluates Pathloom's models.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play simulated runs and write their samples to a file.
    #[command(after_help = "Example:\n  pathloom-models simulate --runs 200 --seed 1 --out target/lab/samples.bin")]
    Simulate(Simulate),
    /// Play training or evaluation runs and say what their samples are like.
    #[command(after_help = "Example:\n  pathloom-models samples --family social-network --runs 20 --forks 4")]
    Samples(samples::Samples),
    /// Simulate, train, and write the model and its checkpoint.
    #[command(
        after_help = "Examples (one thread leaves the other cores to others):\n  RAYON_NUM_THREADS=1 pathloom-models train --out models/pathloom.onnx\n  pathloom-models train --runs 50 --steps 200 --out target/lab/try.onnx"
    )]
    Train(Train),
    /// Measure a model on runs that training never saw, beside its rivals and the noise.
    Evaluate(evaluate::Evaluate),
    /// Write `models/RESULTS.md` from the files that the other commands left.
    Results(results::Results),
    /// Measure a model on a recording of a mesh, or on public data, beside simple rivals.
    Replay(replay::ReplayArgs),
    /// Turn Nezha's windows into recordings.
    ImportNezha(replay::ImportNezha),
    /// Write an ONNX file from a checkpoint, or from random weights.
    #[command(
        after_help = "Example:\n  pathloom-models export --checkpoint target/lab/best.safetensors --out models/pathloom.onnx"
    )]
    Export(Export),
    /// Check that a model keeps its contract, that the engines agree on it, and time it.
    #[command(
        after_help = "Examples:\n  pathloom-models check\n  pathloom-models check --model models/pathloom.onnx --checkpoint target/lab/best.safetensors \\\n      --onnxruntime target/onnxruntime/onnxruntime/capi/libonnxruntime.so.1.31.1"
    )]
    Check(Check),
    /// Play policies against each other in the simulator.
    #[command(
        after_help = "Examples:\n  pathloom-models closed-loop --list\n  pathloom-models closed-loop --scenario rare-gray two-hops --policy peak-ewma pathloom --seeds 3\n  pathloom-models closed-loop --json --out models/results/closed-loop.json --plots target/lab/plots"
    )]
    ClosedLoop(closed_loop::ClosedLoop),
}

#[derive(Debug, Args)]
struct Simulate {
    /// How many runs, each of another mesh.
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// The first run's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the samples.
    #[arg(long, default_value = "target/lab/samples.bin")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Train {
    /// How many simulated runs to train on.
    #[arg(long, default_value_t = 3_000)]
    runs: u64,
    /// A file of samples from `simulate`, instead of simulating.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many runs to validate with.
    #[arg(long, default_value_t = 60)]
    validation_runs: u64,
    /// How many batches.
    #[arg(long, default_value_t = 10_000)]
    steps: usize,
    /// How many edges a batch has, about.
    #[arg(long, default_value_t = 2_500)]
    edges: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// How many batches between two looks at the validation figures.
    #[arg(long, default_value_t = 500)]
    every: usize,
    /// Stop after this many looks without a better one.
    #[arg(long, default_value_t = 8)]
    patience: usize,
    /// The seed of everything: runs, start, order, masks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to keep the best weights.
    #[arg(long, default_value = "target/lab/best.safetensors")]
    checkpoint: PathBuf,
    /// Where to write the model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    out: PathBuf,
    /// The model's version.
    #[arg(long, default_value = "0.1.0")]
    model_version: String,
}

#[derive(Debug, Args)]
struct Export {
    /// The weights; random ones without it.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// The seed of random weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    out: PathBuf,
    /// The model's version.
    #[arg(long, default_value = "0.1.0")]
    model_version: String,
    /// The digest of the training data, where the weights were trained.
    #[arg(long, default_value = "nothing: random weights")]
    trained_on: String,
}

#[derive(Debug, Args)]
struct Check {
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// The weights that the file was made of, to compare with candle too; without it they are read from the file.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// ONNX Runtime's library; else ORT_DYLIB_PATH, else target/onnxruntime.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
    /// How many random graphs.
    #[arg(long, default_value_t = 100)]
    graphs: u64,
    /// The seed of the random graphs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Simulate(args) => {
            let digest = data::save(&runs(args.runs, args.seed)?, &args.out)?;
            println!("{}: sha256 {digest}", args.out.display());
            Ok(())
        }
        Command::Samples(args) => samples::run(&args),
        Command::Train(args) => train(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Results(args) => results::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::ImportNezha(args) => replay::import_nezha(&args),
        Command::Export(args) => export(&args),
        Command::Check(args) => check(&args),
        Command::ClosedLoop(args) => closed_loop::run(&args),
    }
}

/// What a new model says of itself.
pub(crate) fn about(version: &str, trained_on: &str) -> About {
    let commit = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let commit =
        commit.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    let command = std::env::args().skip(1).fold("pathloom-models".to_string(), |line, arg| line + " " + &arg);
    About {
        name: "pathloom".into(),
        version: version.into(),
        trained_on: trained_on.into(),
        created_by: command,
        commit: commit.unwrap_or_else(|| "unknown".into()),
        window_s: crate::WINDOW_S,
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(Error::at(parent))?;
    }
    std::fs::write(path, bytes).map_err(Error::at(path))
}

/// The samples of many runs.
fn runs(count: u64, seed: u64) -> Result<Vec<Sample>> {
    let bar = ProgressBar::new(count);
    bar.set_message("simulating");
    let mut samples = Vec::new();
    for run in 0..count {
        samples.extend(simulate(seed.wrapping_add(run))?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(samples)
}

fn train(args: &Train) -> Result<()> {
    let start = Instant::now();
    // What the file says of its making is what held when it began.
    let mut about = about(&args.model_version, "");
    let samples = match &args.data {
        Some(path) => data::load(path)?,
        None => runs(args.runs, args.seed)?,
    };
    let validation = runs(args.validation_runs, VALIDATION_SEED.wrapping_add(args.seed))?;
    let digest = data::digest(&samples)?;
    let (edges, candidates) =
        samples.iter().fold((0, 0), |(e, c), s| (e + s.features.edge_count(), c + s.candidates.len()));
    println!(
        "{} samples of {} edges and {} candidates, sha256 {digest}, after {:.0} s",
        samples.len(),
        edges,
        candidates,
        start.elapsed().as_secs_f64()
    );
    let plan = Plan {
        steps: args.steps,
        edges: args.edges,
        rate: args.rate,
        every: args.every,
        patience: args.patience,
        seed: args.seed,
    };
    let weights = train::train(&samples, &validation, &plan, &args.checkpoint)?;
    about.trained_on = digest;
    let bytes = onnx::bytes(&weights, &about)?;
    write(&args.out, &bytes)?;
    println!("{}: {} bytes, after {:.0} s", args.out.display(), bytes.len(), start.elapsed().as_secs_f64());
    Ok(())
}

fn export(args: &Export) -> Result<()> {
    let weights = match &args.checkpoint {
        Some(path) => Weights::load(path)?,
        None => Weights::random(args.seed)?,
    };
    let bytes = onnx::bytes(&weights, &about(&args.model_version, &args.trained_on))?;
    write(&args.out, &bytes)?;
    println!("{}: {} bytes, {} trained numbers", args.out.display(), bytes.len(), weights.count());
    Ok(())
}

/// What `check` found.
#[derive(Debug, serde::Serialize)]
struct Report {
    model: PathBuf,
    bytes: usize,
    onnxruntime: Option<PathBuf>,
    agreements: Vec<check::Agreement>,
    times_ms: Vec<(String, usize, usize, f64)>,
}

fn check(args: &Check) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let weights = match &args.checkpoint {
        Some(path) => Weights::load(path)?,
        None => onnx::weights(&bytes)?,
    };
    let library = OnnxRuntime::find(args.onnxruntime.as_deref());
    let mut runtime = library.as_deref().map(|path| OnnxRuntime::new(path, &bytes)).transpose()?;
    let agreements = check::agreement(&bytes, Some(&weights), runtime.as_mut(), args.graphs, args.seed)?;
    let mut times_ms = Vec::new();
    let rten = Rten::new(bytes.clone())?;
    for (n, e, runs) in [(50, 200, 200), (1_000, 5_000, 20)] {
        if let Some(runtime) = runtime.as_mut() {
            times_ms.push(("onnxruntime".to_string(), n, e, check::time_ms(|f| runtime.run(f), n, e, runs)?));
        }
        times_ms.push(("rten".to_string(), n, e, check::time_ms(|f| rten.run(f), n, e, runs)?));
    }
    let report = Report { model: args.model.clone(), bytes: bytes.len(), onnxruntime: library, agreements, times_ms };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| Error::Format(e.to_string()))?);
    } else {
        print(&report);
    }
    match report.agreements.iter().find(|a| a.largest.iter().any(|off| off.is_nan() || *off > TOLERANCE)) {
        Some(apart) => Err(Error::Check(format!("{} differ by more than {TOLERANCE}", apart.engines))),
        None => Ok(()),
    }
}

fn print(report: &Report) {
    println!("{}: {} bytes, keeps the contract", report.model.display(), report.bytes);
    match &report.onnxruntime {
        Some(path) => println!("ONNX Runtime: {}", path.display()),
        None => println!("ONNX Runtime: NOT FOUND, so not compared (give --onnxruntime or ORT_DYLIB_PATH)"),
    }
    for agreement in &report.agreements {
        println!("largest difference of {} (relative above 1):", agreement.engines);
        for ((name, ..), off) in OUTPUTS.iter().zip(agreement.largest) {
            println!("  {name:15} {off:.1e}");
        }
    }
    for (engine, n, e, ms) in &report.times_ms {
        println!("{engine}, one thread, {n} nodes and about {e} edges: {ms:.3} ms (median)");
    }
}
