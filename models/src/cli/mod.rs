//! The commands: what they read, what they write, what they print.

/// Prints a line to standard output, or with `raw` just the text. Whoever reads may close the pipe (`| head`): then the
/// command ends, and that is no failure.
macro_rules! say {
    (raw $($text:tt)*) => { $crate::cli::to_stdout(format_args!($($text)*)) };
    ($($text:tt)*) => { $crate::cli::to_stdout(format_args!("{}\n", format_args!($($text)*))) };
}

mod check;
mod closed_loop;
pub mod evaluate;
mod export;
mod fine_tune;
pub mod replay;
pub mod results;
mod samples;
mod simulate;
mod train;
mod tuning;

use crate::data::Sample;
use crate::onnx::About;
use crate::simulator::sample::{Scenario, play_all};
use crate::{Error, Result};
use clap::{Parser, Subcommand};
use indicatif::ProgressBar;
use std::path::Path;

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
    /// Play an application and write a recording of it.
    #[command(
        after_help = "Examples:\n  pathloom-models simulate --out target/lab/social-network\n  pathloom-models simulate --topology generated --services 200 --faults gray,crash --load bursts --json\n  pathloom-models simulate --check-nezha --data ../shared/data"
    )]
    Simulate(simulate::Simulate),
    /// Play training or evaluation runs and say what their samples are like.
    #[command(after_help = "Example:\n  pathloom-models samples --family social-network --runs 20 --forks 4")]
    Samples(samples::Samples),
    /// Simulate, train, and write the model and its checkpoint.
    #[command(
        after_help = "Examples (one thread leaves the other cores to others):\n  RAYON_NUM_THREADS=1 pathloom-models train --out models/pathloom.onnx\n  pathloom-models train --resume --out models/pathloom.onnx\n  pathloom-models train --variant no-graph --steps 2000 --out target/lab/no-graph.safetensors\n  pathloom-models train --rival gcn --steps 2000 --out target/lab/gcn.safetensors"
    )]
    Train(Box<train::Train>),
    /// Measure a model on runs that training never saw, beside its rivals and the noise.
    Evaluate(evaluate::Evaluate),
    /// Write `models/RESULTS.md` from the files that the other commands left.
    Results(results::Results),
    /// Measure a model on a recording of a mesh, or on public data, beside simple rivals.
    Replay(replay::ReplayArgs),
    /// Adapt a model to a recorded mesh, and measure it before and after on windows that were held back.
    FineTune(fine_tune::FineTuneArgs),
    /// Turn Nezha's windows into recordings.
    ImportNezha(replay::ImportNezha),
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
    /// Play policies against each other in the simulator.
    #[command(
        after_help = "Examples:\n  pathloom-models closed-loop --list\n  pathloom-models closed-loop --scenario rare-gray two-hops --policy peak-ewma pathloom --seeds 3\n  pathloom-models closed-loop --json --out models/results/closed-loop.json --plots target/lab/plots"
    )]
    ClosedLoop(closed_loop::ClosedLoop),
    /// Draw what the configuration's keys do, for `proxy-config/TUNING.md`.
    #[command(
        after_help = "Examples:\n  pathloom-models tuning --quick\n  pathloom-models tuning --plot decay-p99 --seeds 3"
    )]
    Tuning(tuning::Tuning),
}

/// Runs a command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Simulate(args) => simulate::run(&args),
        Command::Samples(args) => samples::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Results(args) => results::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::FineTune(args) => fine_tune::run(&args),
        Command::ImportNezha(args) => replay::import_nezha(&args),
        Command::Export(args) => export::run(&args),
        Command::Check(args) => check::run(&args),
        Command::ClosedLoop(args) => closed_loop::run(&args),
        Command::Tuning(args) => tuning::run(&args),
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

/// What `say!` does.
fn to_stdout(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    if let Err(error) = std::io::stdout().write_fmt(text) {
        let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        if !closed {
            eprintln!("error: standard output: {error}");
        }
        std::process::exit(i32::from(!closed));
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
    let samples = play_all(seed..seed.saturating_add(count), Scenario::training, || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(samples)
}
