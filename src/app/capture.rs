//! `pathloom capture`: installs, removes and shows the kernel's rules that bring connections here.

use super::EXIT_CONFIG;
use crate::{capture, config};
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum CaptureCommand {
    /// Installs the rules that a configuration asks for, in the place of those installed before.
    Install {
        /// The YAML file.
        #[arg(long, value_name = "FILE", env = "PATHLOOM_CONFIG")]
        config: PathBuf,
        /// Prints what would be done, and does nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Removes all that was installed.
    Remove,
    /// Shows what is installed.
    Show,
}

pub fn run(command: CaptureCommand) -> ExitCode {
    let done = match command {
        CaptureCommand::Install { config, dry_run } => {
            let rules = match rules(&config) {
                Ok(rules) => rules,
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::from(EXIT_CONFIG);
                }
            };
            rules.notes.iter().for_each(|note| eprintln!("note: {note}"));
            if dry_run {
                print!("{}", rules.nft);
                rules.ip.iter().for_each(|command| println!("ip {command}"));
                return ExitCode::SUCCESS;
            }
            capture::install(&rules).map(|()| eprintln!("installed; `pathloom capture remove` removes it"))
        }
        CaptureCommand::Remove => capture::remove().map(|()| eprintln!("removed")),
        CaptureCommand::Show => capture::show().map(|rules| match rules {
            Some(rules) => print!("{rules}"),
            None => eprintln!("nothing is installed"),
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pathloom: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rules(file: &std::path::Path) -> Result<capture::Rules, Box<dyn std::error::Error>> {
    let loaded = config::load_file(file)?;
    Ok(capture::Rules::of(&loaded.config)?)
}
