//! Each rule at its bound, just below it and just above it.

mod admission;
mod connections;
mod discover;
mod gateway;
mod identity;
mod mesh;
mod nats;
mod resilience;
mod settings;
mod sharing;
mod steering;
mod telemetry;
mod traffic;

use super::*;
use crate::config::load::load_with;
use crate::config::units::Timespan;
use std::time::Duration;

/// A mesh about which nothing can be said.
fn sound() -> Config {
    load_with(
        b"workloads: { shop: { listen: 127.0.0.1:15001 } }\nroutes: [{ cluster: catalog }]\nclusters: { catalog: { endpoints: [{ address: 10.0.0.1:80 }] } }",
        "sound.yaml",
        &|_| None,
    )
    .unwrap_or_else(|e| panic!("{e}"))
    .config
}

/// What is found after a change, as `path: message`; a key that is meant itself has a `!` after it.
fn after(change: impl FnOnce(&mut Config)) -> Vec<(Severity, String)> {
    let mut config = sound();
    change(&mut config);
    let line = |f: Finding| {
        (f.severity, format!("{}{}: {} / {}", f.path, if f.path.on_key { "!" } else { "" }, f.message, f.remedy))
    };
    validate(&config).into_iter().map(line).collect()
}

#[track_caller]
fn fine(change: impl FnOnce(&mut Config)) {
    assert_eq!(after(change), []);
}

#[track_caller]
fn error(expected: &str, change: impl FnOnce(&mut Config)) {
    found(Severity::Error, expected, change);
}

#[track_caller]
fn warning(expected: &str, change: impl FnOnce(&mut Config)) {
    found(Severity::Warning, expected, change);
}

#[track_caller]
fn found(severity: Severity, expected: &str, change: impl FnOnce(&mut Config)) {
    let found = after(change);
    assert!(
        found.len() == 1 && found[0].0 == severity && found[0].1.contains(expected),
        "expected {expected}\nfound {found:#?}"
    );
}

/// The same as YAML, for what is shorter that way.
#[track_caller]
fn yaml(text: &str) -> Vec<String> {
    match load_with(text.as_bytes(), "x", &|_| None) {
        Ok(loaded) => loaded.warnings.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect(),
        Err(errors) => errors
            .0
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .map(|d| format!("{}:{} {}", d.line, d.column, d.message))
            .collect(),
    }
}

fn ms(ms: u64) -> Timespan {
    Timespan(Duration::from_millis(ms))
}

fn ns(ns: u64) -> Timespan {
    Timespan(Duration::from_nanos(ns))
}
