//! `export`: writes an ONNX file from weights.

use super::{about, write};
use crate::variant::{Kind, Variant};
use crate::weights::Weights;
use crate::{Result, onnx};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
/// Arguments.
pub struct Export {
    /// The weights; random ones of the network without it.
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

/// Writes the file.
///
/// # Errors
/// When weights cannot be read or the file cannot be written.
pub fn run(args: &Export) -> Result<()> {
    let weights = match &args.checkpoint {
        Some(path) => Weights::load(path)?,
        None => Weights::random(Kind::Network(Variant::FULL), args.seed)?,
    };
    let bytes = onnx::bytes(&weights, &about(&args.model_version, &args.trained_on))?;
    write(&args.out, &bytes)?;
    say!("{}: {} bytes, {} trained numbers", args.out.display(), bytes.len(), weights.count());
    Ok(())
}
