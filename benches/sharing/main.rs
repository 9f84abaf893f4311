//! What sharing links costs a node, in bytes and in processor time, by how many nodes there are (`make bench-sharing`).
//!
//! - `fleet`: the meshes; `reports`: one node of them at work, over the sidecar's own code; `members`: who is there;
//! - `results`: the files and plots, `benches/sharing/RESULTS.md` and beside it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its progress")]

mod fleet;
mod members;
mod reports;
mod results;

use clap::Parser;
use fleet::Fleet;
use results::{Members, Results, Row};
use std::path::PathBuf;

/// How far a node wants to hear unless the configuration says otherwise, and everything.
const HOPS: [usize; 2] = [5, 0];

/// Measures what sharing links costs a node.
#[derive(Debug, Parser)]
struct Cli {
    /// How large the meshes are.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    nodes: Vec<usize>,
    /// How large those are whose members meet by gossip.
    #[arg(long, value_delimiter = ',', default_value = "10,30,100,200")]
    members: Vec<usize>,
    /// So many nodes of each mesh are looked at.
    #[arg(long, default_value_t = 20)]
    looked_at: usize,
    /// What each node may send, in KiB a second.
    #[arg(long, default_value_t = 64)]
    budget: u64,
    /// Where the files go.
    #[arg(long, default_value = "benches/sharing")]
    out: PathBuf,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cli = Cli::parse();
    let budget = cli.budget * 1024;
    let mut rows = Vec::new();
    for hops in HOPS {
        for nodes in &cli.nodes {
            let (fleet, count) = (Fleet::new(*nodes, hops), cli.looked_at.min(*nodes).max(1));
            let costs: Vec<_> =
                (0..count).map(|i| reports::cost(&fleet, i * nodes / count, budget, i as u64)).collect();
            eprintln!("{nodes} nodes, {hops} hops: {:?}", costs.first());
            rows.push(Row::new(*nodes, hops, &costs));
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
