//! `pathloom capture`: installs, follows (`follow`), removes and shows the kernel's rules that bring connections here; and whether this process
//! has the rights that capturing takes, asked before a configuration takes effect that wants it. Without them every
//! connection to an endpoint would fail.

use super::EXIT_CONFIG;
#[cfg(feature = "kubernetes")]
use super::follow;
use crate::config::{CaptureMode, Config};
use crate::{capture, config};
use clap::{Args, Subcommand};
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
    /// Installs the rules, and captures the pods of this Kubernetes node that want it (`capture.pods: annotated`) until it is ended.
    #[command(after_help = "Example:
  pathloom capture follow --config pathloom.yaml --node node-7

A pod wants it by the annotation `pathloom.dev/capture: enabled`, or by its namespace's label or annotation of that name where the pod
does not say `disabled`. While the proxy beside it does not answer no pod is captured.")]
    Follow(FollowArgs),
    /// Removes all that was installed.
    Remove,
    /// Shows what is installed.
    Show,
}

/// What `follow` needs.
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code, reason = "it is said that this build cannot"))]
pub struct FollowArgs {
    /// The YAML file; read again when it changes.
    #[arg(long, value_name = "FILE", env = "PATHLOOM_CONFIG")]
    pub config: PathBuf,
    /// This node, as Kubernetes calls it; the configuration's `node.name` when it is not said.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// What a process cannot do that a configuration wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAllowed {
    /// What, and why not.
    pub message: String,
    /// What helps at a start.
    pub at_start: &'static str,
    /// What helps at a reload.
    pub at_reload: &'static str,
}

/// Whether this process may do all that the configuration's listeners need which capture connections.
///
/// # Errors
/// What it may not, and what helps.
pub(super) fn allowed(config: &Config) -> Result<(), NotAllowed> {
    let who = |wanted: &dyn Fn(CaptureMode) -> bool| {
        let workload = config.workloads.iter().find(|(_, workload)| wanted(workload.capture));
        workload.map_or("", |(name, _)| name.as_str())
    };
    if let Some(mark) = config.own_mark() {
        capture::may_mark(mark).map_err(|error| NotAllowed {
            message: format!(
                "`workloads.{}.capture`: connections cannot be marked as the proxy's own ({error}), so they would be \
                 captured again",
                who(&|capture| capture != CaptureMode::Off)
            ),
            at_start: "run it with CAP_NET_ADMIN, or write the user that it runs under as `capture.user`",
            at_reload: "start Pathloom anew with CAP_NET_ADMIN, which a process gives up that captures nothing when it \
                        starts (with `process.handover` no connection is refused meanwhile), or write the user that it \
                        runs under as `capture.user`",
        })?;
    }
    if config.workloads.values().any(|workload| workload.capture == CaptureMode::Tproxy) {
        capture::may_be_transparent().map_err(|error| NotAllowed {
            message: format!(
                "`workloads.{}.capture`: `tproxy` takes connections that were meant for others, which this process may \
                 not ({error})",
                who(&|capture| capture == CaptureMode::Tproxy)
            ),
            at_start: "run it with CAP_NET_ADMIN, or capture by `inbound`",
            at_reload: "start Pathloom anew with CAP_NET_ADMIN, which a process gives up that captures nothing when it \
                        starts (with `process.handover` no connection is refused meanwhile), or capture by `inbound`",
        })?;
    }
    Ok(())
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
            if rules.by_pod {
                eprintln!("note: no pod is captured unless `pathloom capture follow` runs on this node");
            }
            if dry_run {
                print!("{}", rules.nft);
                rules.ip.iter().for_each(|command| println!("ip {command}"));
                return ExitCode::SUCCESS;
            }
            capture::install(&rules).map(|()| eprintln!("installed; `pathloom capture remove` removes it"))
        }
        #[cfg(feature = "kubernetes")]
        CaptureCommand::Follow(args) => return follow::run(&args),
        #[cfg(not(feature = "kubernetes"))]
        CaptureCommand::Follow(_) => {
            eprintln!(
                "pathloom: this build cannot ask Kubernetes which pods want to be captured: build it with `--features \
                 kubernetes`, or write `capture.pods: all` and use `pathloom capture install`"
            );
            return ExitCode::from(EXIT_CONFIG);
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
