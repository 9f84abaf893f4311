//! `make overload`: a service at 190% of its capacity behind the sidecar, with and without an adaptive limit, as figures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool: a surprise must end it where it happens"
)]

use clap::Parser;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::overload::{Came, Plan, open_loop, percentile_ms};
use pathloom_integration::process::machine;
use pathloom_integration::sidecar::Setup;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Measures what is served in an overload, with `concurrency: off` and with `auto`.
#[derive(Debug, Parser)]
struct Args {
    /// The sidecar's binary.
    #[arg(long)]
    pathloom: PathBuf,
    /// How many endpoints there are.
    #[arg(long, default_value_t = 2)]
    endpoints: usize,
    /// How many requests each works on at a time.
    #[arg(long, default_value_t = 20)]
    workers: usize,
    /// How long it works on each, in milliseconds.
    #[arg(long, default_value_t = 40)]
    work_ms: u64,
    /// The load, as a share of the capacity in percent.
    #[arg(long, default_value_t = 190.0)]
    load: f64,
    /// After how many milliseconds a caller has gone.
    #[arg(long, default_value_t = 250)]
    deadline_ms: u64,
    /// For how many seconds requests count, after five that do not.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let capacity = args.endpoints as f64 * args.workers as f64 / args.work_ms as f64 * 1e3;
    println!("machine: {}", machine());
    println!(
        "service: {} endpoints, {} requests at a time for {} ms each: {capacity:.0} a second; load {:.0}% of it, deadline {} ms, {} s",
        args.endpoints, args.workers, args.work_ms, args.load, args.deadline_ms, args.seconds
    );
    for concurrency in ["'off'", "auto"] {
        measure(&args, concurrency, capacity).await;
    }
}

async fn measure(args: &Args, concurrency: &str, capacity: f64) {
    let fleet = Fleet::start(args.endpoints).await;
    fleet.endpoints.iter().for_each(|e| e.state.workers(args.workers));
    let yaml = format!(
        "workloads: {{ frontend: {{ listen: '@in@', trusted: true }} }}\nroutes: [{{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ endpoints: {}, admission: {{ concurrency: {concurrency} }} }} }}\n",
        fleet.yaml()
    );
    let sidecar = Setup::new(&args.pathloom, yaml).start().await;
    let plan = Plan {
        per_second: capacity * args.load / 100.0,
        classes: vec![("critical", 0.3), ("normal", 0.4), ("background", 0.3)],
        deadline: Duration::from_millis(args.deadline_ms),
        warm_up: Duration::from_secs(5),
        lasts: Duration::from_secs(args.seconds),
        path: format!("/work/{}", args.work_ms),
    };
    // It has known quieter times.
    let quiet =
        Plan { per_second: capacity * 0.4, warm_up: Duration::ZERO, lasts: Duration::from_secs(3), ..plan.clone() };
    open_loop(sidecar.address("in"), &quiet).await;
    let came = open_loop(sidecar.address("in"), &plan).await;
    report(concurrency.trim_matches('\''), &came, capacity * args.seconds as f64);
    if concurrency == "auto" {
        println!("  at its end: {}", sidecar.routing().await["admission"]);
    }
    let failures = sidecar.metrics().await.all_failures();
    println!("  reasons: {failures:?}");
}

fn report(concurrency: &str, came: &BTreeMap<&'static str, Came>, most: f64) {
    let right: usize = came.values().map(|c| c.right.len()).sum();
    println!("\nconcurrency: {concurrency}: answered in time {:.1}% of the capacity", right as f64 / most * 100.0);
    println!("  | class | asked | in time | refused | too late | failed | p50 ms | p99 ms | a refusal's p99 ms |");
    println!("  | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (class, c) in came {
        let share = |n: u64| n as f64 / c.asked.max(1) as f64 * 100.0;
        println!(
            "  | {class} | {} | {:.2}% | {:.2}% | {:.2}% | {:.2}% | {:.1} | {:.1} | {:.1} |",
            c.asked,
            c.share() * 100.0,
            share(c.refused),
            share(c.late),
            share(c.failed),
            c.percentile_ms(50.0),
            c.percentile_ms(99.0),
            percentile_ms(&c.refused_after, 99.0),
        );
    }
}
