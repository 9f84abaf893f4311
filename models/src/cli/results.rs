//! `results`: writes the page of results from what the other commands left.

use crate::{Result, results};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `results`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example (`make results` runs all the commands before it):\n  pathloom-models results --out models/RESULTS.md"
)]
pub struct Results {
    /// Where the page goes.
    #[arg(long, default_value = "models/RESULTS.md")]
    out: PathBuf,
    /// The folder of the commands' files; plots go there too.
    #[arg(long, default_value = "models/results")]
    from: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When there are no results, or a file cannot be read or written.
pub fn run(args: &Results) -> Result<()> {
    let count = results::write(&args.from, &args.out)?;
    if args.json {
        say!("{}", json!({ "out": args.out, "files": count }));
    } else {
        say!("{}: from {count} files of {}", args.out.display(), args.from.display());
    }
    Ok(())
}
