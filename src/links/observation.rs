//! What is known of links and nodes at one moment, as it is shown and scored.

use super::{LinkKey, NodeKey};

/// What is known of a link, over about the last ten seconds. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LinkStats {
    /// Mean latency, from the request's start to the answer's head, in seconds.
    pub latency_mean_s: Option<f32>,
    /// The latency in seconds that 1 of 10 requests stays within: near what a call takes when nothing waits.
    pub latency_p10_s: Option<f32>,
    /// Median latency in seconds.
    pub latency_p50_s: Option<f32>,
    /// The latency in seconds that 9 of 10 requests stay within.
    pub latency_p90_s: Option<f32>,
    /// The latency in seconds that 99 of 100 requests stay within.
    pub latency_p99_s: Option<f32>,
    /// The mean latency with the last three seconds foremost, in seconds.
    pub latency_ewma_s: Option<f32>,
    /// The mean latency over about the last hundred seconds: what is usual here.
    pub latency_baseline_s: Option<f32>,
    /// Jitter by RFC 3550, in seconds.
    pub jitter_s: Option<f32>,
    /// Calls a second.
    pub calls_per_second: Option<f32>,
    /// Failed calls as a share of all.
    pub error_rate: Option<f32>,
    /// Requests under way.
    pub in_flight: f32,
    /// How many latencies stand behind this, faded ones in part.
    pub samples: f32,
    /// The age of the last latency, in seconds.
    pub age_s: Option<f32>,
}

/// What is known of an instance. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct NodeStats {
    /// CPU in use as it reports it, 1 being all it has.
    pub cpu_utilization: Option<f32>,
    /// Memory in use as it reports it, 0 to 1.
    pub memory_utilization: Option<f32>,
    /// Its own measure of utilisation as it reports it.
    pub application_utilization: Option<f32>,
    /// Requests a second from all callers as it reports it.
    pub reported_requests_per_second: Option<f32>,
    /// Errors a second as it reports it.
    pub reported_errors_per_second: Option<f32>,
    /// The age of its last report, in seconds.
    pub report_age_s: Option<f32>,
    /// Requests under way to it from here, and from whoever tells of it.
    pub in_flight: f32,
    /// Requests a second to it that were seen from here, and by whoever tells of it.
    pub calls_per_second: Option<f32>,
    /// Mean latency over all links to it, in seconds.
    pub response_mean_s: Option<f32>,
    /// Mean latency over all links to it, over about the last hundred seconds.
    pub response_baseline_s: Option<f32>,
    /// 99th percentile of latency over all links to it, in seconds.
    pub response_p99_s: Option<f32>,
    /// Failed calls to it as a share of all.
    pub error_rate: Option<f32>,
}

/// A link and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkObservation {
    /// Who calls whom.
    pub key: LinkKey,
    /// What was seen.
    pub stats: LinkStats,
}

/// A node and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeObservation {
    /// The instance.
    pub key: NodeKey,
    /// What was seen.
    pub stats: NodeStats,
}

/// Everything known at one moment, sorted by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// All links with statistics.
    pub links: Vec<LinkObservation>,
    /// All nodes with statistics.
    pub nodes: Vec<NodeObservation>,
}
