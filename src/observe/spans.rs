//! A finished request as spans: one for the request (SERVER) and one for each try at an endpoint (CLIENT) below it.
//!
//! They are made on the thread that served the request, of sampled requests alone, and hold copies of what is told of
//! them; `semconv` puts that into OpenTelemetry's words, on the exporter's thread.

use super::access_line::policy;
use super::{AccessRecord, AttemptRecord, Reason};
use crate::config::Protocol;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A span, as it waits in the queue. Ids of zero are none.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// The trace.
    pub trace_id: u128,
    /// This span.
    pub span_id: u64,
    /// The caller's span, or of a try the request's.
    pub parent_id: u64,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The request.
    pub request: Arc<RequestFacts>,
    /// The try, where it is the span of one.
    pub attempt: Option<Box<AttemptFacts>>,
}

/// What is told of a request. `None` and empty are not told.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestFacts {
    /// Whether the trace's id is random, as its caller says.
    pub random: bool,
    /// The caller's `tracestate`.
    pub trace_state: Box<str>,
    /// The method.
    pub method: http::Method,
    /// The host as asked for.
    pub host: Box<str>,
    /// The path, without its query.
    pub path: Box<str>,
    /// What the client spoke.
    pub protocol: Option<http::Version>,
    /// The client's connection was secured.
    pub secure: bool,
    /// It is a gRPC call.
    pub grpc: bool,
    /// The status that the client got.
    pub status: Option<u16>,
    /// The gRPC status.
    pub grpc_status: Option<u16>,
    /// Why it failed: the reason's code.
    pub reason: Option<&'static str>,
    /// Where it came from.
    pub client: IpAddr,
    /// Who sent it.
    pub workload: Option<Arc<str>>,
    /// The label of the rule that it matched.
    pub route: Option<Arc<str>>,
    /// The cluster that it went to.
    pub cluster: Option<Arc<str>>,
    /// What that cluster's endpoints speak, and whether over TLS.
    pub upstream: Option<(Protocol, bool)>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// The generation that steered it.
    pub generation: u64,
    /// The policy that was in force for it.
    pub policy: Option<&'static str>,
}

/// What is told of a try at an endpoint, and of the decision that led there.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptFacts {
    /// How many tries there were before it.
    pub resend: u32,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The candidate's name.
    pub candidate: Box<str>,
    /// The status that it answered with.
    pub status: Option<u16>,
    /// The gRPC status.
    pub grpc_status: Option<u16>,
    /// Why it failed: the reason's code.
    pub reason: Option<&'static str>,
    /// It was asked as well, before another one had failed.
    pub hedge: bool,
    /// The candidate's share of the requests, 0 to 1.
    pub share: f32,
    /// The model's score: minus the logarithm of the intrinsic latency in seconds.
    pub score: Option<f32>,
    /// The mean latency that the model predicted, in seconds.
    pub predicted_s: Option<f32>,
    /// The latency that the pick expected, in seconds.
    pub expected_s: Option<f32>,
    /// Why the candidate's share is what it is.
    pub why: Box<str>,
}

impl FinishedSpan {
    /// The spans of a request, its own first; none where its trace is not recorded, or its ids are none.
    #[must_use]
    pub fn all_of(r: &AccessRecord<'_>) -> Vec<Self> {
        let id = |text: &str| u64::from_str_radix(text, 16).ok().filter(|id| *id != 0);
        let trace_id = u128::from_str_radix(r.trace_id, 16).ok().filter(|id| *id != 0 && r.sampled);
        let (Some(trace_id), Some(span_id)) = (trace_id, id(r.span_id)) else { return Vec::new() };
        let parent_id = r.parent_span_id.and_then(id).unwrap_or(0);
        let request = Arc::new(RequestFacts::of(r));
        let mut all = Vec::with_capacity(1 + r.tries.len());
        let (started, duration) = (r.time, r.duration);
        all.push(Self { trace_id, span_id, parent_id, started, duration, request: request.clone(), attempt: None });
        for (resend, attempt) in (0..).zip(r.tries) {
            let Some(id) = std::str::from_utf8(&attempt.span_id).ok().and_then(id) else { continue };
            all.push(Self {
                trace_id,
                span_id: id,
                parent_id: span_id,
                started: attempt.started,
                duration: attempt.duration,
                request: request.clone(),
                attempt: Some(Box::new(AttemptFacts::of(attempt, resend))),
            });
        }
        all
    }
}

impl RequestFacts {
    fn of(r: &AccessRecord<'_>) -> Self {
        let path = r.path.split_once('?').map_or(r.path, |(path, _)| path);
        Self {
            random: r.random,
            trace_state: r.trace_state.into(),
            method: r.method.clone(),
            host: r.host.into(),
            path: path.into(),
            protocol: r.protocol,
            secure: r.secure,
            grpc: r.grpc,
            status: r.status.map(|s| s.as_u16()),
            grpc_status: r.grpc_status,
            reason: r.reason.map(Reason::code),
            client: r.client,
            workload: r.workload.cloned(),
            route: r.route.cloned(),
            cluster: r.cluster.cloned(),
            upstream: r.upstream,
            attempts: r.attempts,
            request_bytes: r.request_bytes,
            response_bytes: r.response_bytes,
            generation: r.generation,
            policy: r.policy.map(policy),
        }
    }
}

impl AttemptFacts {
    fn of(a: &AttemptRecord<'_>, resend: u32) -> Self {
        Self {
            resend,
            endpoint: a.endpoint,
            candidate: a.candidate.into(),
            status: a.status.map(|s| s.as_u16()),
            grpc_status: a.grpc_status,
            reason: a.reason.map(Reason::code),
            hedge: a.hedge,
            share: a.share,
            score: a.score,
            predicted_s: a.predicted_s,
            expected_s: Some(a.expected_s).filter(|s| s.is_finite()),
            why: a.why.as_str().into(),
        }
    }
}
