//! Training for the compiler: what a build that counts its own branches is to see, so that the next one is laid out for it.
//!
//! The build runs as in the comparison, routes, statistics, metrics and a ticking model on, and gets each case's load over one
//! connection and over 64, with and without streams beside each other, and the bodies over HTTP/1.1. It writes its counts when it ends
//! (`make profile` says where, and merges them). Loads are counted in requests and not in seconds, so that a fast machine teaches the same.

use crate::Fallible;
use crate::bench::{Amount, Bench, CONNECTIONS, Case, Load, Programs, Proxy};
use std::path::PathBuf;

/// Requests of each load over 64 connections; over one it is a tenth of it.
const REQUESTS: u64 = 100_000;
/// Requests of each body other than the small one.
const BODIES: [(&str, usize, u64); 3] = [("0", 0, 20_000), ("100k", 100 * 1024, 2_000), ("10m", 10 * 1024 * 1024, 20)];

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Pathloom as built with `-Cprofile-generate`.
    #[arg(long)]
    pathloom: PathBuf,
    #[arg(long, env = "ORT_DYLIB_PATH", default_value = "target/onnxruntime/libonnxruntime.so")]
    onnxruntime: PathBuf,
    /// Where configurations and logs go.
    #[arg(long, default_value = "target/profile")]
    work: PathBuf,
}

/// Runs the loads, and ends the proxy.
///
/// # Errors
/// When it cannot be started, or a request fails.
pub fn run(options: &Options) -> Fallible<()> {
    let (pathloom, onnxruntime) = (std::path::absolute(&options.pathloom)?, std::path::absolute(&options.onnxruntime)?);
    let nobody = PathBuf::new;
    let programs = Programs { pathloom, onnxruntime, envoy: nobody(), nginx: nobody(), haproxy: nobody() };
    let bench = Bench::start(programs, &options.work)?;
    let ours =
        Proxy::all().iter().copied().find(|proxy| proxy.name == "pathloom").ok_or("no Pathloom among the proxies")?;
    let running = bench.proxy(ours, &[])?;
    for case in Case::ALL {
        bench.exactly(ours, &Load::new(case, 1, Amount::Requests(REQUESTS / 10)))?;
        bench.exactly(ours, &Load::new(case, CONNECTIONS, Amount::Requests(REQUESTS)))?;
        if case != Case::Http1 {
            bench.exactly(ours, &Load { streams: 8, ..Load::new(case, 8, Amount::Requests(REQUESTS)) })?;
        }
    }
    for (name, length, count) in BODIES {
        bench.exactly(ours, &Load::new(Case::Http1, 8, Amount::Requests(count)).body((name, length)))?;
    }
    drop(running);
    Ok(())
}
