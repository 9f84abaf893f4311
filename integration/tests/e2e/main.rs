//! The end-to-end tests: a real sidecar process between real clients and the fleet.
//!
//! One binary for all of them, because each further one would be linked anew. A module stands for a promise of the
//! product; `fleet_itself` holds the same bodies against the fleet alone, so that a failure can be told from a test
//! that asks for the wrong thing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: a surprise must fail where it happens, in the bodies that tests share as well"
)]

mod accounting;
mod answers;
mod attacks;
mod bad_input;
mod bodies;
#[cfg(feature = "kubernetes")]
mod captured_pods;
mod chaos;
mod cli;
mod connections;
mod dead_upstream;
mod demo;
mod discovery;
mod failures;
mod fleet_itself;
mod foreign_clients;
#[cfg(feature = "kubernetes")]
mod gateway;
mod grpc;
mod handover;
mod health;
mod hedging;
mod http2;
mod identity;
mod invariants;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod leaving;
mod mesh;
mod mesh_demo;
mod model_trouble;
mod nats;
mod network;
mod operators;
mod overload;
mod privileges;
mod prometheus;
mod protocols;
mod recording;
mod routing_loop;
mod secrets;
mod shares;
mod steering;
mod stricter;
mod tcp;
mod telemetry;
mod timeouts;
mod tracing;
mod traffic;
mod upgrades;
mod workload_api;
mod workloads;

use pathloom_integration::client::Version;
use pathloom_integration::sidecar::{Setup, Sidecar};
use pathloom_integration::{process, wait};
use std::process::Command;

/// The product's binary.
const BINARY: &str = env!("CARGO_BIN_EXE_pathloom-under-test");

/// What people read first. Tests run its examples.
const README: &str = include_str!("../../../README.md");

/// Runs the product's binary with these arguments: its exit code, its output, its errors.
async fn pathloom(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("PATHLOOM_CONFIG");
    tokio::task::spawn_blocking(move || process::run(command)).await.unwrap()
}

/// The example that this section of the README shows, with other addresses in the place of these.
fn shown<Shown: AsRef<str>>(section: &str, places: impl IntoIterator<Item = (Shown, String)>) -> String {
    let (_, rest) = README.split_once(&format!("### {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let (_, example) = rest.split_once("```yaml\n").expect("its example");
    let (example, _) = example.split_once("```").expect("its end");
    places.into_iter().fold(example.to_owned(), |yaml, (shown, real)| {
        assert!(yaml.contains(shown.as_ref()), "{} is not in the example", shown.as_ref());
        yaml.replace(shown.as_ref(), &format!("'{real}'"))
    })
}

/// A sidecar to be started with this configuration.
fn sidecar(yaml: impl Into<String>) -> Setup {
    Setup::new(BINARY, yaml)
}

/// One workload, `frontend` on `@in@`, and one cluster, `catalog`, with these endpoints; `more` stands among the
/// cluster's keys.
fn catalog(endpoints: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\n\
         routes: [{{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ endpoints: {endpoints}{more} }} }}\n"
    )
}

/// The embedded engine and a quick tick: what most tests want of the slow loop.
const QUICK: &str = "model: { engine: embedded, tick: 100ms, triggers: { min_interval: 100ms } }\n";

/// Waits until the model steers. That a tick did not hear it in time, on a busy machine, is no more than that.
async fn model_steers(sidecar: &Sidecar) {
    wait::eventually("the model to steer", || async {
        let generation = sidecar.routing().await["generation"].clone();
        if generation["rung"] == "model" { Ok(()) } else { Err(format!("{generation:#}")) }
    })
    .await;
}

/// The cluster's key that makes endpoints speak this.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::Http1 => "protocol: http1",
        Version::Http2 => "protocol: http2",
    }
}
