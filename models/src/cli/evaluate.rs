//! `evaluate`: the figures of a model and of its rivals on simulated runs that training never saw.

use crate::data::Sample;
use crate::evaluate::{Network, Options, Report, Summary, Truth, measure};
use crate::predict::Predictor;
use crate::simulator::family::{Family, trained_faults};
use crate::simulator::sample::{Scenario, play};
use crate::{Error, Result, check, onnx};
use clap::Args;
use std::path::PathBuf;

/// Seeds from here on are for tests only.
const TEST_SEED: u64 = 2_000_000;
/// From one evaluation seed's runs to the next one's.
const BETWEEN_SEEDS: u64 = 100_000;

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pathloom-models evaluate --model models/pathloom.onnx")]
pub struct Evaluate {
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// How many runs a seed.
    #[arg(long, default_value_t = 24)]
    runs: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The first run's seed; training uses others.
    #[arg(long, default_value_t = TEST_SEED)]
    seed: u64,
    /// How many answers a label of the next window must stand on.
    #[arg(long, default_value_t = crate::evaluate::figures::LEAST_ANSWERS)]
    least_answers: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(args: &Evaluate) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let weights = onnx::weights(&bytes)?;
    let options = Options { truth: Truth::Intrinsic, least_answers: args.least_answers };
    let mut reports = Vec::new();
    for seed in 0..args.seeds {
        let first = args.seed + seed * BETWEEN_SEEDS;
        let mut report = Report::default();
        for run in 0..args.runs {
            let samples: Vec<Sample> = play(&Scenario::random(first + run, Family::SocialNetwork, &trained_faults())?)?;
            let mut predictors: Vec<Box<dyn Predictor + '_>> = vec![Box::new(Network { weights: &weights })];
            report.merge(measure(&mut predictors, &samples, &options)?);
        }
        reports.push((first, report));
    }
    let summary = Summary::of(&reports, args.seed).ok_or_else(|| Error::Check("nothing was evaluated".to_string()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary.json()).map_err(|e| Error::Format(e.to_string()))?);
    } else {
        print!("{}", summary.text());
    }
    Ok(())
}
