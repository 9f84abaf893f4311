//! The commands: what they read, what they write, what they print.

mod check;
mod export;
mod train;

use crate::data::{self, Sample};
use crate::evaluate::figures;
use crate::onnx::About;
use crate::sim::simulate;
use crate::{Error, Result, onnx};
use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};

/// Seeds from here on are for validation, and from the other on for tests: no run is in two sets.
const VALIDATION_SEED: u64 = 1_000_000;
const TEST_SEED: u64 = 2_000_000;

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
    /// Simulate, train, and write the model and its checkpoint.
    #[command(
        after_help = "Examples (one thread leaves the other cores to others):\n  RAYON_NUM_THREADS=1 pathloom-models train --out models/pathloom.onnx\n  pathloom-models train --runs 50 --steps 200 --out target/lab/try.onnx"
    )]
    Train(train::Train),
    /// Measure a model on runs that training never saw, beside persistence.
    #[command(after_help = "Example:\n  pathloom-models evaluate --model models/pathloom.onnx --runs 150")]
    Evaluate(Evaluate),
    /// Write an ONNX file from a checkpoint, or from random weights.
    #[command(
        after_help = "Example:\n  pathloom-models export --checkpoint target/lab/best.safetensors --out models/pathloom.onnx"
    )]
    Export(export::Export),
    /// Check that a model keeps its contract, that the engines agree on it, and time it.
    #[command(
        after_help = "Examples:\n  pathloom-models check\n  pathloom-models check --model models/pathloom.onnx --checkpoint target/lab/best.safetensors \\\n      --onnxruntime target/onnxruntime/onnxruntime/capi/libonnxruntime.so.1.31.1"
    )]
    Check(check::Check),
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
struct Evaluate {
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// How many runs.
    #[arg(long, default_value_t = 150)]
    runs: u64,
    /// The first run's seed; training uses others.
    #[arg(long, default_value_t = TEST_SEED)]
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
        Command::Train(args) => train::run(&args),
        Command::Evaluate(args) => evaluate(&args),
        Command::Export(args) => export::run(&args),
        Command::Check(args) => check::run(&args),
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

fn evaluate(args: &Evaluate) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    crate::check::contract(&bytes)?;
    let found = figures(&onnx::weights(&bytes)?, &runs(args.runs, args.seed)?)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(|e| Error::Format(e.to_string()))?);
        return Ok(());
    }
    println!("{} samples of {} runs from seed {}", found.samples.0, found.samples.1, args.seed);
    println!("intrinsic latency        relative error (median)   right choice   regret");
    for (name, s) in &found.intrinsic {
        let (error, right, regret) = (s.relative_error, s.accuracy * 100.0, s.regret * 100.0);
        let median = s.median_relative_error;
        println!("  {name:22} {error:14.3} ({median:6.3}) {right:13.1}% {regret:7.1}% ({:.2} ms)", s.regret_ms);
    }
    println!("relative error by what is known of the link, and by trouble");
    for (slice, (count, by)) in &found.slices {
        let of = |name: &str| by.get(name).copied().unwrap_or_default();
        println!(
            "  {slice:26} {count:8} model {:.3} persistence {:.3} median {:.3}",
            of("model"),
            of("persistence"),
            of("median")
        );
    }
    println!("next {} s", crate::WINDOW_S);
    for (name, w) in &found.window {
        println!(
            "  {name:12} mean {:.3} p99 {:.3} (relative errors), jitter {:.2} ms, load {:.3}",
            w.mean_relative, w.p99_relative, w.jitter_ms, w.load_relative
        );
    }
    Ok(())
}
