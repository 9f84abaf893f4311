//! What sharing links costs a node, in bytes and in processor time, by how many nodes there are (`make bench-sharing`).
//!
//! - `fleet`: the meshes; `reports`: one node of them at work, over the sidecar's own code; `members`: who is there;
//! - `results`: the files and plots, `benches/sharing/RESULTS.md` and beside it.
//!
//! Gossip's own cost needs real members, who all send to each other in one process: beyond a hundred of them that measures
//! this machine. What its digest of all members takes grows with their number, so a few sizes tell it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its progress")]

mod fleet;
mod members;
mod reports;
mod results;

use clap::Parser;
use fleet::Fleet;
use reports::Way;
use results::{Members, Results, Row};
use std::path::PathBuf;

/// How far a node wants to hear unless the configuration says otherwise, and everything.
const NEAR: usize = 5;
const EVERYTHING: usize = 0;

/// Measures what sharing links costs a node.
#[derive(Debug, Parser)]
struct Cli {
    /// How large the meshes are.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    nodes: Vec<usize>,
    /// How large those are whose members meet by gossip.
    #[arg(long, value_delimiter = ',', default_value = "10,30,100")]
    members: Vec<usize>,
    /// So many nodes of each mesh are looked at.
    #[arg(long, default_value_t = 20)]
    looked_at: usize,
    /// What each node may send, in KiB a second.
    #[arg(long, default_value_t = 64)]
    budget: u64,
    /// What each node may hear by NATS, in KiB a second.
    #[arg(long, default_value_t = 1024)]
    hear: u64,
    /// Where the files go.
    #[arg(long, default_value = "benches/sharing")]
    out: PathBuf,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cli = Cli::parse();
    let budget = cli.budget * 1024;
    let mut rows = Vec::new();
    let nats = Way::Nats { hear: cli.hear * 1024 };
    for (way, hops) in [(Way::Gossip, NEAR), (Way::Gossip, EVERYTHING), (nats, NEAR)] {
        for nodes in &cli.nodes {
            let (fleet, count) = (Fleet::new(*nodes, hops), cli.looked_at.min(*nodes).max(1));
            let costs: Vec<_> =
                (0..count).map(|i| reports::cost(&fleet, i * nodes / count, (way, hops), budget, i as u64)).collect();
            eprintln!("{nodes} nodes, {hops} hops, {way:?}: {:?}", costs.first());
            rows.push(Row::new(*nodes, way, hops, &costs));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut members = Vec::new();
    for nodes in &cli.members {
        let found = runtime.block_on(members::membership(*nodes, budget))?;
        eprintln!("{nodes} members: {found:?}");
        members.push(Members::new(*nodes, found));
    }
    Results::new(budget, rows, members).write(&cli.out)?;
    println!("{}", cli.out.join("RESULTS.md").display());
    Ok(())
}
