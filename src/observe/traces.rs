//! Traces: one span a sampled request, sent to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! A request that is over leaves a plain [`FinishedSpan`] in a bounded queue: no lock, no wait, no SDK object. A thread
//! takes up to [`BATCH`] spans a second, or as soon as so many are there, dresses them as the SDK's span data and
//! exports them. The SDK's own batch processor is left out: it is a second queue behind this one, and it tells only its
//! log how many spans it lost. When the collector is slow, hung or away, the thread is held up (at most [`TIMEOUT`] and
//! a retry within it), the queue fills, further spans are dropped and counted; a batch that could not be sent is
//! counted as dropped as well.
//!
//! The span is a CLIENT's, as Envoy and Linkerd have it for the outgoing side: what the collector's graph joins to the
//! called service's SERVER span. Attributes follow the semantic conventions for HTTP (1.27, stable); those of our own
//! begin with `pathloom.`. A query may hold secrets and is left out of `url.full`.

use super::access_line::{policy, protocol};
use super::{AccessRecord, AccessSink};
use crate::config;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, SystemTime};

/// How many spans wait at most; beyond, they are dropped.
pub const MAX_QUEUED: usize = 4_096;
/// How many spans are sent at once, at most.
const BATCH: usize = 512;
/// How long a span waits at most, where the collector keeps up.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take over a batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long [`Traces`] waits for its last spans when it is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot send traces to `{endpoint}` (`telemetry.traces.otlp`): {reason}")]
pub struct TracesError {
    /// Where they should go.
    pub endpoint: String,
    /// Why they cannot.
    pub reason: String,
}

/// A request's span, as it waits in the queue. Ids of zero are none.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// The trace.
    pub trace_id: u128,
    /// This span.
    pub span_id: u64,
    /// The caller's span.
    pub parent_id: u64,
    /// When the request began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What it was.
    pub attributes: SpanAttributes,
}

/// What is told of a span. `None` and empty are not told.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanAttributes {
    /// The method.
    pub method: http::Method,
    /// The host as asked for.
    pub host: Box<str>,
    /// The path, without its query.
    pub path: Box<str>,
    /// What the client spoke.
    pub protocol: Option<http::Version>,
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
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the last attempt's start to the answer's head.
    pub upstream_latency: Option<Duration>,
    /// What that was expected to take, in seconds.
    pub expected_s: Option<f32>,
    /// The generation that steered it.
    pub generation: u64,
    /// The policy that was in force for it.
    pub policy: Option<&'static str>,
}

impl FinishedSpan {
    /// The span of a request; `None` where its trace is not recorded, or its ids are none.
    #[must_use]
    pub fn of(r: &AccessRecord<'_>) -> Option<Self> {
        let trace_id = u128::from_str_radix(r.trace_id, 16).ok().filter(|id| *id != 0 && r.sampled)?;
        let span_id = u64::from_str_radix(r.span_id, 16).ok().filter(|id| *id != 0)?;
        let parent_id = r.parent_span_id.and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0);
        let path = r.path.split_once('?').map_or(r.path, |(path, _)| path);
        let attributes = SpanAttributes {
            method: r.method.clone(),
            host: r.host.into(),
            path: path.into(),
            protocol: r.protocol,
            status: r.status.map(|s| s.as_u16()),
            grpc_status: r.grpc_status,
            reason: r.reason.map(super::Reason::code),
            client: r.client,
            workload: r.workload.cloned(),
            route: r.route.cloned(),
            cluster: r.cluster.cloned(),
            endpoint: r.endpoint,
            attempts: r.attempts,
            request_bytes: r.request_bytes,
            response_bytes: r.response_bytes,
            upstream_latency: r.upstream_latency,
            expected_s: r.expected_s.filter(|s| s.is_finite()),
            generation: r.generation,
            policy: r.policy.map(policy),
        };
        Some(Self { trace_id, span_id, parent_id, started: r.time, duration: r.duration, attributes })
    }
}

#[derive(Debug, Default)]
struct Shared {
    queued: AtomicUsize,
    exported: AtomicU64,
    dropped: AtomicU64,
    stop: AtomicBool,
    over: Mutex<bool>,
    is_over: Condvar,
}

/// The export of one configuration.
#[derive(Debug)]
pub struct Traces {
    shared: Arc<Shared>,
    exporter: Option<(SyncSender<FinishedSpan>, JoinHandle<()>)>,
}

impl Traces {
    /// Starts the export that a configuration asks for; without a collector there is no thread, and spans are ignored.
    ///
    /// # Errors
    /// When the collector's address is none, or there is no thread to be had. A collector that is away is no error.
    pub fn start(config: &config::Traces, node: &str) -> Result<Self, TracesError> {
        let shared = Arc::<Shared>::default();
        let endpoint = config.otlp.trim().to_owned();
        if endpoint.is_empty() {
            return Ok(Self { shared, exporter: None });
        }
        let failed = |reason: String| TracesError { endpoint: endpoint.clone(), reason };
        if !endpoint.starts_with("http://") {
            return Err(failed("only `http://` is supported; send to a collector on this node or in this mesh".into()));
        }
        let (spans, queue) = sync_channel(MAX_QUEUED);
        let (made, answer) = sync_channel(1);
        let (exports, to, resource) = (shared.clone(), endpoint.clone(), resource(node));
        let run = move || {
            // Made and dropped here: the blocking client must be on no thread of an asynchronous runtime.
            let exporter = SpanExporter::builder().with_http().with_endpoint(to).with_timeout(TIMEOUT).build();
            match exporter {
                Ok(mut exporter) => {
                    exporter.set_resource(&resource);
                    let _ = made.send(Ok(()));
                    export_all(&exports, &queue, &exporter);
                }
                Err(error) => drop(made.send(Err(error.to_string()))),
            }
            *exports.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
            exports.is_over.notify_all();
        };
        let thread = std::thread::Builder::new().name("traces".into()).spawn(run).map_err(|e| failed(e.to_string()))?;
        match answer.recv() {
            Ok(Ok(())) => Ok(Self { shared, exporter: Some((spans, thread)) }),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("the exporter could not be made".into())),
        }
    }

    /// Takes a span. Never blocks: where the queue is full it is dropped and counted.
    pub fn record(&self, span: FinishedSpan) {
        let Some((spans, thread)) = &self.exporter else { return };
        // Counted before it is there, so that the count never falls below zero.
        let queued = self.shared.queued.fetch_add(1, Relaxed) + 1;
        if self.shared.stop.load(Relaxed) || spans.try_send(span).is_err() {
            self.shared.queued.fetch_sub(1, Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
        } else if queued == BATCH {
            thread.thread().unpark();
        }
    }

    /// How many spans the collector took.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.shared.exported.load(Relaxed)
    }

    /// How many spans were lost: to a full queue, or to a collector that did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Sends what is there and ends the export; true when it managed within the limit. Later spans are dropped.
    pub fn close(&self, limit: Duration) -> bool {
        let Some((_, thread)) = &self.exporter else { return true };
        self.shared.stop.store(true, Relaxed);
        thread.thread().unpark();
        let over = self.shared.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.is_over.wait_timeout_while(over, limit, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl AccessSink for Traces {
    fn log(&self, _core: usize, record: &AccessRecord<'_>) {
        if self.enabled()
            && let Some(span) = FinishedSpan::of(record)
        {
            self.record(span);
        }
    }

    fn enabled(&self) -> bool {
        self.exporter.is_some()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if !self.close(LAST_WORDS) {
            tracing::warn!("the trace collector does not take the last spans");
        }
    }
}

fn resource(node: &str) -> Resource {
    Resource::builder()
        .with_service_name("pathloom")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .build()
}

/// The exporter's life.
fn export_all(shared: &Shared, queue: &Receiver<FinishedSpan>, exporter: &SpanExporter) {
    let scope = InstrumentationScope::builder("pathloom").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut failing = false;
    loop {
        // Read before the queue, so that what came before the order to stop is still sent.
        let last = shared.stop.load(Relaxed);
        loop {
            let batch: Vec<SpanData> = queue.try_iter().take(BATCH).map(|span| dress(span, &scope)).collect();
            let count = batch.len();
            if count == 0 {
                break;
            }
            shared.queued.fetch_sub(count, Relaxed);
            match block_on(exporter.export(batch)) {
                Ok(()) => {
                    shared.exported.fetch_add(count as u64, Relaxed);
                    failing = false;
                }
                Err(error) => {
                    shared.dropped.fetch_add(count as u64, Relaxed);
                    if !failing {
                        tracing::warn!(%error, "the trace collector does not answer; spans are lost until it does");
                    }
                    failing = true;
                }
            }
            if failing && shared.stop.load(Relaxed) {
                // The process is leaving, and a batch more would cost another timeout.
                shared.dropped.fetch_add(queue.try_iter().count() as u64, Relaxed);
                return;
            }
        }
        if last {
            return;
        }
        std::thread::park_timeout(SEND_EVERY);
    }
}

/// The span as the SDK has it.
fn dress(span: FinishedSpan, scope: &InstrumentationScope) -> SpanData {
    let context = SpanContext::new(
        TraceId::from_bytes(span.trace_id.to_be_bytes()),
        SpanId::from_bytes(span.span_id.to_be_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let a = &span.attributes;
    let method = known_method(&a.method);
    let target = a.route.as_deref().map(|route| format!(" {route}")).unwrap_or_default();
    let failed = a.reason.is_some() || a.status.is_none_or(|s| s >= 400);
    SpanData {
        span_context: context,
        parent_span_id: SpanId::from_bytes(span.parent_id.to_be_bytes()),
        parent_span_is_remote: true,
        span_kind: SpanKind::Client,
        name: format!("{}{target}", method.unwrap_or("HTTP")).into(),
        start_time: span.started,
        end_time: span.started.checked_add(span.duration).unwrap_or(span.started),
        attributes: attributes(a, method),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error(a.reason.unwrap_or("")) } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

/// The method where it is one that the conventions know; others are `_OTHER`, lest a client make up names.
fn known_method(method: &http::Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

fn attributes(a: &SpanAttributes, method: Option<&'static str>) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(24);
    let mut tell = |key: &'static str, value: Option<opentelemetry::Value>| {
        out.extend(value.map(|value| KeyValue::new(key, value)));
    };
    let text = |text: Option<&Arc<str>>| text.map(|t| t.to_string().into());
    let count = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX).into());
    let seconds = |s: Option<f64>| s.map(Into::into);
    let (host, port) = match a.host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()),
        None => (&*a.host, None),
    };
    tell("http.request.method", Some(method.unwrap_or("_OTHER").into()));
    tell("http.request.method_original", method.is_none().then(|| a.method.to_string().into()));
    tell("server.address", Some(host.to_owned().into()));
    tell("server.port", port.map(|p| i64::from(p).into()));
    tell("url.full", Some(format!("http://{}{}", a.host, a.path).into()));
    tell("http.response.status_code", a.status.map(|s| i64::from(s).into()));
    tell("rpc.grpc.status_code", a.grpc_status.map(|s| i64::from(s).into()));
    let by_status = a.status.filter(|s| *s >= 400).map(|s| s.to_string());
    tell("error.type", a.reason.map(Into::into).or(by_status.map(Into::into)));
    tell("network.peer.address", a.endpoint.map(|e| e.ip().to_string().into()));
    tell("network.peer.port", a.endpoint.map(|e| i64::from(e.port()).into()));
    tell("network.protocol.version", protocol(a.protocol).strip_prefix("HTTP/").map(Into::into));
    tell("client.address", Some(a.client.to_string().into()));
    tell("http.request.resend_count", Some(a.attempts).filter(|n| *n > 1).map(|n| i64::from(n - 1).into()));
    tell("http.request.body.size", count(a.request_bytes));
    tell("http.response.body.size", count(a.response_bytes));
    tell("pathloom.workload", text(a.workload.as_ref()));
    tell("pathloom.route", text(a.route.as_ref()));
    tell("pathloom.cluster", text(a.cluster.as_ref()));
    tell("pathloom.generation", count(a.generation));
    tell("pathloom.policy", a.policy.map(Into::into));
    tell("pathloom.upstream_latency_s", seconds(a.upstream_latency.map(|d| d.as_secs_f64())));
    tell("pathloom.expected_latency_s", seconds(a.expected_s.map(f64::from)));
    out
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread. The blocking exporter is ready at the first poll; a waker is there all the same.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
#[path = "traces_tests.rs"]
mod tests;
