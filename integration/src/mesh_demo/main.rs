//! `make demo-mesh`: three nodes, each with a sidecar and services, and what they gain by telling each other what they see.
//!
//! ```text
//!  node-a                     node-b                              node-c
//!  frontend -- sidecar ---+-> catalog-b -- sidecar -> storage-b
//!           \  (alone) ---+-> catalog-c ------------------------- sidecar -> storage-c
//!                         +---------------------------------------------- -- batch
//! ```
//! `batch` is somebody else who calls both catalogs, in turn.
//! With `--nats` they share by a NATS server on `node-c`, by gossip otherwise.
//! Each node is a network namespace (`pathloom_integration::hosts`). Beside the sidecar of `node-a` stands another one that
//! shares nothing, for comparison. Whatever is said is read off the sidecars' admin ports or counted in answers; where a
//! promise is not kept, the program says so and ends with 1.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `service` | a service's process |
//! | `nodes` | nodes, services, sidecars |
//! | `story` | what happens, and what is promised |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool: a surprise must end it where it happens"
)]

mod nodes;
mod service;
mod story;

use clap::{Args, Parser, Subcommand};
use nodes::Nodes;
use pathloom_integration::hosts::{self, Hosts};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use story::Story;

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Shows on three nodes what sidecars gain by telling each other what they see.
#[derive(Debug, Args)]
struct Run {
    /// The sidecar's binary.
    #[arg(long, default_value = "target/release/pathloom")]
    pathloom: PathBuf,
    /// Lets them share by NATS in place of gossip: Debian's `nats-server` runs on node-c.
    #[arg(long)]
    nats: bool,
    /// Lets all take three times as long as is promised: this machine may be busy.
    #[arg(long)]
    patient: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// A service, which the command starts itself.
    #[command(hide = true)]
    Service {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
        #[arg(long)]
        calls: Option<SocketAddr>,
    },
}

/// The exit code where there are no namespaces.
const NOT_HERE: u8 = 77;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Part::Service { listen, name, calls }) = cli.part {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(service::serve(listen, &name, calls));
        // The thread that reads standard input may still wait for a line.
        std::process::exit(0);
    }
    let nats = if cli.run.nats { pathloom_integration::nats::program() } else { None };
    if cli.run.nats && nats.is_none() {
        return ExitCode::from(NOT_HERE);
    }
    if let Some(why) = hosts::enter() {
        eprintln!("mesh-demo: no network namespaces here: {why}");
        return ExitCode::from(NOT_HERE);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let kept = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
        let told = async {
            let nodes = Nodes::start(Hosts::build(&nodes::HOSTS, None), &cli.run.pathloom, nats).await;
            Story::new(nodes, cli.run.patient).tell().await
        };
        tokio::select! {
            kept = told => kept,
            _ = tokio::signal::ctrl_c() => false,
            _ = terminate.recv() => false,
        }
    });
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
