//! One record for each request, and who takes it.
//!
//! The data path fills a record from what it holds anyway and lends it to the sink; a sink copies what it wants to
//! keep and must never block, because it runs on the thread that serves requests.

use super::{Hedged, Reason};
use crate::config::{Policy, Protocol};
use http::{Method, StatusCode, Version};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is known of a request when it is over.
#[derive(Debug, Clone)]
pub struct AccessRecord<'a> {
    /// When it began, by the wall clock.
    pub time: SystemTime,
    /// Its `x-request-id`.
    pub request_id: &'a str,
    /// The trace's id: 32 hexadecimal digits.
    pub trace_id: &'a str,
    /// This proxy's span in the trace: 16 hexadecimal digits.
    pub span_id: &'a str,
    /// The caller's span, where it named one.
    pub parent_span_id: Option<&'a str>,
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// Whether its caller said that the trace's id is random.
    pub random: bool,
    /// The caller's `tracestate`, where the trace is recorded and somebody takes spans; else empty.
    pub trace_state: &'a str,
    /// Where it came from.
    pub client: IpAddr,
    /// The id that its client has proven; empty where it has not.
    pub peer: &'a str,
    /// The listener that it came in on, as configured.
    pub listener: SocketAddr,
    /// Who sent it; none when unknown.
    pub workload: Option<&'a Arc<str>>,
    /// The label of the rule that it matched.
    pub route: Option<&'a Arc<str>>,
    /// The cluster that it went to.
    pub cluster: Option<&'a Arc<str>>,
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<SocketAddr>,
    /// The method.
    pub method: &'a Method,
    /// The host as asked for.
    pub host: &'a str,
    /// The path with its query, in which a line hides the values of secret parameters.
    pub path: &'a str,
    /// Which HTTP the client spoke; none where it was a TCP connection.
    pub protocol: Option<Version>,
    /// Whether its client's connection was secured.
    pub secure: bool,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// What its cluster's endpoints speak, and whether over TLS.
    pub upstream: Option<(Protocol, bool)>,
    /// Its tries, where its trace is recorded and somebody takes spans; else none.
    pub tries: &'a [AttemptRecord<'a>],
    /// The status that the client got; none where it got none.
    pub status: Option<StatusCode>,
    /// The gRPC status in the answer's head or trailers.
    pub grpc_status: Option<u16>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What its route did to it on purpose: `delay`, `abort`, or both.
    pub injected: Option<&'static str>,
    /// Whether a second endpoint was asked before the first one failed, and who won.
    pub hedge: Option<Hedged>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From its head to the answer's last byte.
    pub duration: Duration,
    /// From the last attempt's start to the answer's head.
    pub upstream_latency: Option<Duration>,
    /// What that was expected to take, in seconds; NaN where the policy looks at no latency.
    pub expected_s: Option<f32>,
    /// The generation that steered it.
    pub generation: u64,
    /// The policy that was in force for it.
    pub policy: Option<Policy>,
    /// Its header, cookie or source address chose the endpoint, and not the policy.
    pub affine: bool,
    /// Its class, where overload is seen to.
    pub class: Option<&'a str>,
}

/// What is known of one try at an endpoint when its request is over.
#[derive(Debug, Clone)]
pub struct AttemptRecord<'a> {
    /// Its span, of which the endpoint was told: 16 hexadecimal digits.
    pub span_id: [u8; 16],
    /// When it began, by the wall clock.
    pub started: SystemTime,
    /// How long it took; of the one that was answered, to the answer's last byte.
    pub duration: Duration,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The candidate's name.
    pub candidate: &'a str,
    /// The status that the endpoint answered with.
    pub status: Option<StatusCode>,
    /// The gRPC status in the answer's head or trailers.
    pub grpc_status: Option<u16>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// Whether it was asked as well, before another one had failed.
    pub hedge: bool,
    /// The candidate's share of the requests, 0 to 1.
    pub share: f32,
    /// The model's score.
    pub score: Option<f32>,
    /// The mean latency that the model predicted, in seconds.
    pub predicted_s: Option<f32>,
    /// The latency that the pick expected, in seconds; NaN where the policy looks at none.
    pub expected_s: f32,
    /// Why the candidate's share is what it is.
    pub why: String,
}

/// Takes finished requests.
pub trait AccessSink: Send + Sync {
    /// Takes a record from a serving thread. It must not block.
    fn log(&self, core: usize, record: &AccessRecord<'_>);

    /// Whether anybody wants records: where not, none are made.
    fn enabled(&self) -> bool;

    /// Whether anybody wants the tries of requests whose traces are recorded.
    fn takes_spans(&self) -> bool {
        false
    }
}
