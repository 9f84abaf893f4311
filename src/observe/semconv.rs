//! Spans in OpenTelemetry's words: the semantic conventions for HTTP and for RPC (1.45, both stable), and attributes of
//! our own, which begin with `pathloom.`.
//!
//! - A span's name is `METHOD route`, of a gRPC call `package.Service/Method`.
//! - **SERVER**: an error where the client got 500 or more, no answer, or one of gRPC's statuses that are the server's fault.
//! - **CLIENT**: an error where the endpoint's answer was 400 or more, where there was none, or with any gRPC status but OK.
//!   A hedge that lost is none: it was cancelled (`pathloom.outcome`).
//! - `server.address` and `server.port` are whom the request asks for (its `Host`; without a port the scheme's, without a
//!   name the endpoint), as the conventions have it for a logical server; the endpoint itself is `network.peer.*`.
//! - `error.type` is the reason's code, which the access log and the metrics share, else the status.
//!
//! A query may hold secrets, and is told nowhere.

use super::access_line::protocol;
use super::durations::scheme;
use super::spans::{AttemptFacts, FinishedSpan, RequestFacts};
use crate::config::Protocol;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::borrow::Cow;
use std::sync::Arc;

/// The methods that the conventions know; others are `_OTHER`, lest a client make up names.
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

/// gRPC's statuses by their numbers.
pub(super) const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Those of them that are a server's fault.
pub(super) const GRPC_FAULTS: [u16; 6] = [2, 4, 12, 13, 14, 15];

/// The flag of Trace Context, level 2, by which a trace's id is random.
const RANDOM: u8 = 0x02;

/// The span as the SDK has it.
pub(super) fn dress(span: FinishedSpan, scope: &InstrumentationScope) -> SpanData {
    let r = &*span.request;
    let context = SpanContext::new(
        TraceId::from_bytes(span.trace_id.to_be_bytes()),
        SpanId::from_bytes(span.span_id.to_be_bytes()),
        if r.random { TraceFlags::new(TraceFlags::SAMPLED.to_u8() | RANDOM) } else { TraceFlags::SAMPLED },
        false,
        // One that is none of Trace Context's is passed on to the endpoint as it came, and told nowhere.
        r.trace_state.parse::<TraceState>().unwrap_or_default(),
    );
    let method = METHODS.into_iter().find(|known| *known == r.method.as_str());
    let (attributes, failed, reason) = match span.attempt.as_deref() {
        Some(attempt) => client(r, attempt, method),
        None => server(r, method),
    };
    SpanData {
        span_context: context,
        parent_span_id: SpanId::from_bytes(span.parent_id.to_be_bytes()),
        parent_span_is_remote: span.attempt.is_none(),
        span_kind: if span.attempt.is_some() { SpanKind::Client } else { SpanKind::Server },
        name: name(r, method),
        start_time: span.started,
        end_time: span.started.checked_add(span.duration).unwrap_or(span.started),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error(reason.unwrap_or("")) } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

fn name(r: &RequestFacts, method: Option<&'static str>) -> Cow<'static, str> {
    if r.grpc {
        return r.path.trim_start_matches('/').to_owned().into();
    }
    let method = method.unwrap_or("HTTP");
    match &r.route {
        Some(route) => format!("{method} {route}").into(),
        None => method.into(),
    }
}

/// Attributes in a row; what is unknown is not told.
struct Told(Vec<KeyValue>);

impl Told {
    fn tell(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value)));
    }

    fn text(&mut self, key: &'static str, value: Option<&Arc<str>>) {
        self.tell(key, value.map(|v| v.to_string()));
    }

    fn count(&mut self, key: &'static str, n: u64) {
        self.tell(key, Some(i64::try_from(n).unwrap_or(i64::MAX)));
    }

    /// A latency or a score, as many digits as it has.
    fn number(&mut self, key: &'static str, value: Option<f32>) {
        self.tell(key, value.filter(|v| v.is_finite()).map(|v| v.to_string().parse::<f64>().unwrap_or(f64::from(v))));
    }

    /// What both spans of a request tell.
    fn request(r: &RequestFacts, method: Option<&'static str>, server: Option<(&str, u16)>) -> Self {
        let mut told = Self(Vec::with_capacity(28));
        told.tell("http.request.method", Some(method.unwrap_or("_OTHER")));
        told.tell("http.request.method_original", method.is_none().then(|| r.method.to_string()));
        told.tell("server.address", server.map(|(address, _)| address.to_owned()));
        told.tell("server.port", server.map(|(_, port)| i64::from(port)));
        if r.grpc {
            told.tell("rpc.system.name", Some("grpc"));
            told.tell("rpc.method", Some(r.path.trim_start_matches('/').to_owned()));
        }
        told.text("pathloom.cluster", r.cluster.as_ref());
        told.count("pathloom.generation", r.generation);
        told.tell("pathloom.policy", r.policy);
        told
    }

    /// How it was answered. Whether that is an error.
    fn outcome(
        &mut self,
        (status, least): (Option<u16>, u16),
        (grpc_status, fault): (Option<u16>, bool),
        reason: Option<&'static str>,
    ) -> bool {
        self.tell("http.response.status_code", status.map(i64::from));
        let word = grpc_status.map(|n| match GRPC.get(usize::from(n)) {
            Some(word) => (*word).to_owned(),
            None => n.to_string(),
        });
        self.tell("rpc.response.status_code", word.clone());
        let by_status = status.filter(|s| *s >= least).map(|s| s.to_string());
        let failed = status.is_none() || by_status.is_some() || fault;
        let kind = reason.map(str::to_owned).or(by_status).or(word.filter(|_| fault));
        self.tell("error.type", kind.or(failed.then(|| "_OTHER".to_owned())));
        failed
    }
}

/// Whom a request asks for: its host without brackets, and its port, which is the scheme's where it names none. None
/// where it names nobody, as HTTP/1.0 may.
fn asked(r: &RequestFacts, secure: bool) -> Option<(&str, u16)> {
    let (host, port) = match r.host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse::<u16>().ok()),
        _ => (&*r.host, None),
    };
    let host = host.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then(|| (host, port.unwrap_or(if secure { 443 } else { 80 })))
}

type Dressed = (Vec<KeyValue>, bool, Option<&'static str>);

fn server(r: &RequestFacts, method: Option<&'static str>) -> Dressed {
    let mut told = Told::request(r, method, asked(r, r.secure));
    told.tell("url.scheme", Some(scheme(r.secure)));
    told.tell("url.path", Some(r.path.to_string()));
    told.text("http.route", r.route.as_ref());
    let fault = r.grpc_status.is_some_and(|s| GRPC_FAULTS.contains(&s));
    let failed = told.outcome((r.status, 500), (r.grpc_status, fault), r.reason);
    told.tell("client.address", Some(r.client.to_string()));
    told.tell("network.protocol.version", protocol(r.protocol).strip_prefix("HTTP/"));
    told.count("http.request.body.size", r.request_bytes);
    told.count("http.response.body.size", r.response_bytes);
    told.text("pathloom.workload", r.workload.as_ref());
    told.count("pathloom.attempts", u64::from(r.attempts));
    (told.0, failed, r.reason)
}

fn client(r: &RequestFacts, a: &AttemptFacts, method: Option<&'static str>) -> Dressed {
    let (spoken, secure) = r.upstream.unwrap_or((Protocol::Http1, false));
    let peer = a.endpoint.ip().to_string();
    let mut told = Told::request(r, method, asked(r, secure).or(Some((&peer, a.endpoint.port()))));
    told.tell("url.full", Some(format!("{}://{}{}", scheme(secure), r.host, r.path)));
    // Whom nobody waited for any more.
    let cancelled = a.status.is_none() && a.reason.is_none();
    let fault = a.grpc_status.is_some_and(|s| s != 0);
    let failed = if cancelled {
        false
    } else {
        let answered = told.outcome((a.status, 400), (a.grpc_status, fault), a.reason);
        answered || a.reason.is_some()
    };
    told.tell("network.peer.address", Some(peer));
    told.tell("network.peer.port", Some(i64::from(a.endpoint.port())));
    told.tell("network.protocol.version", Some(if spoken == Protocol::Http2 { "2" } else { "1.1" }));
    told.tell("http.request.resend_count", Some(a.resend).filter(|n| *n > 0).map(i64::from));
    let outcome = if cancelled {
        "cancelled"
    } else if failed {
        "failed"
    } else {
        "answered"
    };
    told.tell("pathloom.outcome", Some(outcome));
    told.tell("pathloom.hedge", a.hedge.then_some(true));
    told.tell("pathloom.candidate", Some(a.candidate.to_string()));
    told.number("pathloom.share", Some(a.share));
    told.number("pathloom.score", a.score);
    told.number("pathloom.predicted_latency_s", a.predicted_s);
    told.number("pathloom.expected_latency_s", a.expected_s);
    told.tell("pathloom.reason", Some(a.why.to_string()).filter(|why| !why.is_empty()));
    (told.0, failed, a.reason)
}

#[cfg(test)]
#[path = "semconv_tests.rs"]
mod tests;
