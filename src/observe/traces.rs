//! Traces: the spans of sampled requests, sent to an OpenTelemetry collector (OTLP over HTTP in protobuf, or over gRPC).
//!
//! A request that is over leaves plain [`FinishedSpan`]s in a bounded queue: no lock, no wait, no SDK object. A thread
//! takes up to [`BATCH`] spans a second, or as soon as so many are there, dresses them as the SDK's span data
//! (`semconv`) and exports them (`collector`). The SDK's own batch processor is left out: it is a second queue behind this one, and it
//! tells only its log how many spans it lost. When the collector is slow, hung or away, the thread is held up (at most
//! [`GIVE_UP`], a retry within it), the queue fills, further spans are dropped and counted; a batch that could not be sent
//! is counted as dropped as well.
//!
//! The request's own span is a SERVER's, each try's below it a CLIENT's (`spans`).

use super::collector::Collector;
use super::semconv::dress;
use super::{AccessRecord, AccessSink, FinishedSpan};
use crate::config;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How many spans wait at most; beyond, they are dropped.
pub const MAX_QUEUED: usize = 8_192;
/// How many spans are sent at once, at most.
const BATCH: usize = 512;
/// How long a span waits at most, where the collector keeps up.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// When a batch is given up that the exporter itself does not: a retry that began in time may take as long again.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How long [`Traces`] waits for its last spans when it is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// Not to this collector.
    #[error("cannot send traces to `{endpoint}` (`telemetry.traces.otlp`): {reason}")]
    Endpoint {
        /// Where they should go.
        endpoint: String,
        /// Why they cannot.
        reason: String,
    },
    /// One of TLS's files is of no use.
    #[error("cannot send traces by TLS: telemetry.traces.tls.{key}: {path} {reason}", path = path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Whatever else TLS lacks.
    #[error("cannot send traces by TLS: {0}")]
    Tls(String),
}

#[derive(Debug, Default)]
struct Shared {
    queued: AtomicUsize,
    exported: AtomicU64,
    dropped: AtomicU64,
    stop: AtomicBool,
    /// A batch is there, or the end.
    wake: Notify,
    over: Mutex<bool>,
    is_over: Condvar,
}

/// The export of one configuration.
#[derive(Debug)]
pub struct Traces {
    shared: Arc<Shared>,
    exporter: Option<SyncSender<FinishedSpan>>,
}

impl Traces {
    /// Starts the export that a configuration asks for; without a collector there is no thread, and spans are ignored.
    ///
    /// # Errors
    /// When the collector's address is none, one of TLS's files is of no use, or there is no thread to be had. A collector
    /// that is away is no error.
    pub fn start(config: &config::Traces, node: &str) -> Result<Self, TracesError> {
        let shared = Arc::<Shared>::default();
        let endpoint = config.otlp.trim().to_owned();
        if endpoint.is_empty() {
            return Ok(Self { shared, exporter: None });
        }
        let failed = |reason: String| TracesError::Endpoint { endpoint: endpoint.clone(), reason };
        let (spans, queue) = sync_channel(MAX_QUEUED);
        let (made, answer) = sync_channel(1);
        let (exports, config, resource) = (shared.clone(), config.clone(), resource(node));
        let to = endpoint.clone();
        let run = move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    runtime.block_on(async {
                        match Collector::new(config, resource) {
                            Ok(mut collector) => {
                                let _ = made.send(Ok(()));
                                export_all(&exports, &queue, &mut collector).await;
                            }
                            Err(error) => drop(made.send(Err(error))),
                        }
                    });
                    // Nobody waits for the collector's name to be found.
                    runtime.shutdown_background();
                }
                Err(error) => {
                    let reason = error.to_string();
                    drop(made.send(Err(TracesError::Endpoint { endpoint: to, reason })));
                }
            }
            *exports.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
            exports.is_over.notify_all();
        };
        std::thread::Builder::new().name("traces".into()).spawn(run).map_err(|e| failed(e.to_string()))?;
        match answer.recv() {
            Ok(Ok(())) => Ok(Self { shared, exporter: Some(spans) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(failed("the exporter could not be made".into())),
        }
    }

    /// Takes a span. Never blocks: where the queue is full it is dropped and counted.
    pub fn record(&self, span: FinishedSpan) {
        let Some(spans) = &self.exporter else { return };
        // Counted before it is there, so that the count never falls below zero.
        let queued = self.shared.queued.fetch_add(1, Relaxed) + 1;
        if self.shared.stop.load(Relaxed) || spans.try_send(span).is_err() {
            self.shared.queued.fetch_sub(1, Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
        } else if queued == BATCH {
            self.shared.wake.notify_one();
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
        if self.exporter.is_none() {
            return true;
        }
        self.shared.stop.store(true, Relaxed);
        self.shared.wake.notify_one();
        let over = self.shared.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.is_over.wait_timeout_while(over, limit, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl AccessSink for Traces {
    fn log(&self, _core: usize, record: &AccessRecord<'_>) {
        if self.enabled() && record.sampled {
            FinishedSpan::all_of(record).into_iter().for_each(|span| self.record(span));
        }
    }

    fn enabled(&self) -> bool {
        self.exporter.is_some()
    }

    fn takes_spans(&self) -> bool {
        self.enabled()
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
async fn export_all(shared: &Shared, queue: &Receiver<FinishedSpan>, collector: &mut Collector) {
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
            collector.refresh();
            let sent = tokio::time::timeout(GIVE_UP, collector.send(batch)).await;
            match sent.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                Ok(()) => {
                    shared.exported.fetch_add(count as u64, Relaxed);
                    failing = false;
                }
                Err(error) => {
                    shared.dropped.fetch_add(count as u64, Relaxed);
                    if !failing {
                        tracing::warn!(error, "the trace collector does not take spans; they are lost until it does");
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
        let _ = tokio::time::timeout(SEND_EVERY, shared.wake.notified()).await;
    }
}

#[cfg(test)]
#[path = "traces_tests.rs"]
mod tests;
