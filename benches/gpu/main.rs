//! Inference on a GPU beside the CPU, transfers included (`make bench-gpu`).
//!
//! ```text
//! make bench-gpu ARGS='--onnxruntime /path/to/libonnxruntime.so'    a CUDA build of the library, with its providers beside it
//! make bench-gpu ARGS=--cpu-only                                    the CPU's half, where there is no GPU
//! ```
//! Meshes from 1,000 nodes and 5,000 links to 100,000 and 1,000,000, each link a candidate, scored again and again by
//! the scorer that the sidecar has: what was seen changes from tick to tick, the mesh stays. A time is the engine's:
//! features to the device, the network, answers back. The first inference of a mesh is told apart, since it takes
//! edges and paths to the device, too. The CPU is asked up to the mesh that takes it `MAX_CPU`.
//!
//! Where nothing runs on CUDA this says why and what would help, and ends well: there is nothing to measure.

#![allow(missing_docs, reason = "a benchmark")]

mod mesh;
mod report;

use clap::Parser;
use mesh::mesh;
use pathloom::config::{Device, Engine};
use pathloom::scorer::{Options, Scorer};
use report::{Results, Row};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Nodes and links.
const MESHES: [(usize, usize); 4] = [(1_000, 5_000), (10_000, 50_000), (30_000, 300_000), (100_000, 1_000_000)];
/// Inferences of each mesh beside the first: as many as fit into `TIME`, at least and at most so many.
const LEAST: usize = 5;
const MOST: usize = 50;
const TIME: Duration = Duration::from_secs(5);
/// A mesh that would take the CPU longer than this is left out.
const MAX_CPU: Duration = Duration::from_secs(10);
/// Nothing is cut off.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures inference on a GPU and on the CPU.
#[derive(Debug, Parser)]
struct Cli {
    /// A CUDA build of ONNX Runtime's library, or its folder; without it `ORT_DYLIB_PATH`, as in the sidecar.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
    /// Measures the CPU alone, and writes that.
    #[arg(long)]
    cpu_only: bool,
    /// The file of the model.
    #[arg(long, default_value = "builtin")]
    model: String,
    /// Where `results.json` and `RESULTS.md` go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/gpu"))]
    out: PathBuf,
}

// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    let mut engines = Vec::new();
    for device in [Device::Cuda, Device::Cpu] {
        if cli.cpu_only && device == Device::Cuda {
            continue;
        }
        let onnxruntime = cli.onnxruntime.clone();
        let scorer =
            Scorer::start(Options { file: cli.model.clone(), engine: Engine::OnnxRuntime, device, onnxruntime });
        runtime.block_on(scorer.ready())?;
        let Some(engine) = scorer.status().engine else { return Err("no engine runs".into()) };
        let wanted = if device == Device::Cuda { "cuda" } else { "cpu" };
        if engine.engine != "onnxruntime" || engine.device != wanted {
            let remedy = engine.remedy.unwrap_or_else(|| "name a library with --onnxruntime".into());
            println!(
                "gpu: nothing was measured: {}; remedy: {remedy} (--onnxruntime PATH names it; --cpu-only measures the CPU)",
                engine.reason
            );
            return Ok(());
        }
        println!("gpu: on {}: {} {}: {}", engine.device, engine.engine, engine.version, engine.reason);
        rows.extend(measure(&runtime, &scorer, engine.device, device)?);
        engines.push(format!("{} {} on {}", engine.engine, engine.version, engine.device));
    }
    Results::new(engines, rows).write(&cli.out)?;
    println!("gpu: {} was written", cli.out.join("RESULTS.md").display());
    Ok(())
}

fn measure(runtime: &tokio::runtime::Runtime, scorer: &Scorer, name: &str, device: Device) -> Result<Vec<Row>, Error> {
    let (mut rows, mut last): (Vec<Row>, Option<(usize, f64)>) = (Vec::new(), None);
    for (number, (nodes, links)) in MESHES.into_iter().enumerate() {
        let expected_s = last.map_or(0.0, |(before, ms)| ms * 1e-3 * links as f64 / before as f64);
        if device == Device::Cpu && expected_s > MAX_CPU.as_secs_f64() {
            println!("gpu: {nodes} nodes on {name}: left out, it would take about {expected_s:.0} s an inference");
            continue;
        }
        let mut features = mesh(nodes, links, number as u64 + 1);
        let (mut times_ms, started) = (Vec::new(), Instant::now());
        while times_ms.len() <= LEAST || (times_ms.len() <= MOST && started.elapsed() < TIME) {
            // Another second, other numbers.
            let tick = times_ms.len() as f32;
            features.edge_features.iter_mut().step_by(7).for_each(|value| *value *= 1.0 + 0.001 * tick);
            let scored = runtime.block_on(scorer.score(std::mem::take(&mut features), PATIENCE));
            scored.result?;
            features = scored.features;
            times_ms.push(scored.took.as_secs_f64() * 1e3);
        }
        let row = Row::new(name, (nodes, links), times_ms);
        println!("gpu: {row}");
        last = Some((links, row.median_ms));
        rows.push(row);
    }
    Ok(rows)
}
