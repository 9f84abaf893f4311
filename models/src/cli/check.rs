//! `check`: whether a model keeps its contract, whether the engines agree on it, and how fast it is.

use crate::check::{self, TOLERANCE};
use crate::engines::{OnnxRuntime, Rten};
use crate::onnx::OUTPUTS;
use crate::weights::Weights;
use crate::{Error, Result, onnx};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
/// Arguments.
pub struct Check {
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

/// What `check` found.
#[derive(Debug, serde::Serialize)]
struct Report {
    model: PathBuf,
    bytes: usize,
    onnxruntime: Option<PathBuf>,
    agreements: Vec<check::Agreement>,
    times_ms: Vec<(String, usize, usize, f64)>,
}

/// Checks it and prints what was found.
///
/// # Errors
/// When a file cannot be read, the contract is another, or engines disagree.
pub fn run(args: &Check) -> Result<()> {
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
        let value = serde_json::to_value(&report).map_err(|e| Error::Format(e.to_string()))?;
        let text = serde_json::to_string_pretty(&crate::results::stamped(value));
        say!("{}", text.map_err(|e| Error::Format(e.to_string()))?);
    } else {
        print(&report);
    }
    match report.agreements.iter().find(|a| a.largest.iter().any(|off| off.is_nan() || *off > TOLERANCE)) {
        Some(apart) => Err(Error::Check(format!("{} differ by more than {TOLERANCE}", apart.engines))),
        None => Ok(()),
    }
}

fn print(report: &Report) {
    say!("{}: {} bytes, keeps the contract", report.model.display(), report.bytes);
    match &report.onnxruntime {
        Some(path) => say!("ONNX Runtime: {}", path.display()),
        None => say!("ONNX Runtime: NOT FOUND, so not compared (give --onnxruntime or ORT_DYLIB_PATH)"),
    }
    for agreement in &report.agreements {
        say!("largest difference of {} (relative above 1):", agreement.engines);
        for ((name, ..), off) in OUTPUTS.iter().zip(agreement.largest) {
            say!("  {name:15} {off:.1e}");
        }
    }
    for (engine, n, e, ms) in &report.times_ms {
        say!("{engine}, one thread, {n} nodes and about {e} edges: {ms:.3} ms (median)");
    }
}
