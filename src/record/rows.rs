//! A recording's rows and its `meta.json`.

use serde::{Deserialize, Serialize};

/// The file that says what a recording is.
pub const META_FILE: &str = "meta.json";

/// The columns of `nodes.csv`.
pub const NODE_COLUMNS: [&str; 8] = [
    "window_start_s",
    "node",
    "service",
    "zone",
    "cpu_utilization",
    "memory_utilization",
    "requests_per_second",
    "in_flight",
];

/// The columns of `links.csv`.
pub const LINK_COLUMNS: [&str; 10] = [
    "window_start_s",
    "source",
    "destination",
    "calls",
    "errors",
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "jitter_ms",
];

/// What a recording is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Its name, for people.
    pub name: String,
    /// How long each window is, in seconds.
    pub window_seconds: f64,
}

/// A node in one window. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NodeRow<'a> {
    /// Its name.
    pub node: &'a str,
    /// The service that it is an instance of; empty when unknown.
    pub service: &'a str,
    /// Its zone; empty when unknown.
    pub zone: &'a str,
    /// CPU in use, 0 to 1.
    pub cpu_utilization: Option<f64>,
    /// Memory in use, 0 to 1.
    pub memory_utilization: Option<f64>,
    /// Requests a second from all callers, as the node reports it.
    pub requests_per_second: Option<f64>,
    /// Requests under way to it at the window's end, as far as the recorder sees.
    pub in_flight: Option<f64>,
}

/// A link in one window: the calls that ended in it. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkRow<'a> {
    /// The node that calls.
    pub source: &'a str,
    /// The node that is called.
    pub destination: &'a str,
    /// Calls that ended with an answer or a failure; zero for a link that is known and was not used.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Mean latency of the answers, in milliseconds.
    pub latency_mean_ms: Option<f64>,
    /// Median latency, in milliseconds.
    pub latency_p50_ms: Option<f64>,
    /// The latency that 9 of 10 answers stayed within, in milliseconds.
    pub latency_p90_ms: Option<f64>,
    /// The latency that 99 of 100 answers stayed within, in milliseconds.
    pub latency_p99_ms: Option<f64>,
    /// The mean difference of successive latencies, in milliseconds: what RFC 3550's jitter tends to.
    pub jitter_ms: Option<f64>,
}
