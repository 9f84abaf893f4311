//! `export`: writes an ONNX file from weights, or from those of another file, as this build writes them.

use super::{about, write};
use crate::onnx::About;
use crate::variant::{Kind, Variant};
use crate::weights::Weights;
use crate::{Error, Result, check, onnx};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
/// Arguments.
pub struct Export {
    /// The weights; random ones of the network without it.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// A model whose weights are to be written anew, with what it says of itself: the same model in this build's form.
    #[arg(long, conflicts_with_all = ["checkpoint", "seed", "model_version", "trained_on"])]
    model: Option<PathBuf>,
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
    let about = about(&args.model_version, &args.trained_on);
    let (weights, about) = match (&args.checkpoint, &args.model) {
        (_, Some(path)) => {
            let bytes = std::fs::read(path).map_err(Error::at(path))?;
            check::contract(&bytes)?;
            (onnx::weights(&bytes)?, About::of(&bytes)?)
        }
        (Some(path), None) => (Weights::load(path)?, about),
        (None, None) => (Weights::random(Kind::Network(Variant::FULL), args.seed)?, about),
    };
    let bytes = onnx::bytes(&weights, &about)?;
    write(&args.out, &bytes)?;
    say!("{}: {} bytes, {} trained numbers", args.out.display(), bytes.len(), weights.count());
    Ok(())
}
