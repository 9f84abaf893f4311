//! `telemetry.record`: writes what this proxy's links saw, window by window, on a thread of its own.
//!
//! Windows begin at whole multiples of their length since 1970, so that the recordings of several proxies have the same
//! windows. The first window is the first whole one. One that was not a window's length by the clock that never jumps (the
//! machine slept, the time was set) is left out and counted as lost, and so is one that the disk did not take.

use super::rows::{LinkRow, Meta, NodeRow};
use super::writer::{Bounds, Writer, WriterError};
use crate::config;
use crate::links::orca::Report;
use crate::links::{Links, NodeKey, Time, Windows};
use crate::observe::metrics::{Family, Kind, Measure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A window may be this share of itself longer or shorter than it should be.
const MOST_OFF: f64 = 0.1;
/// It may always be off by so many seconds: the thread wakes up when the kernel lets it.
const HICCUP_S: f64 = 0.25;
/// What a node reported longer ago than this many windows is not its state in this one.
const MOST_WINDOWS_AGO: f64 = 6.0;

/// The recording cannot be written where it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot record to {} (`telemetry.record.to`): {source}", folder.display())]
pub struct RecordError {
    folder: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What is known of a node beside its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// The service that it is an instance of; empty when unknown.
    pub service: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
}

/// Says what is known of all nodes.
pub type Whereabouts = Box<dyn Fn() -> BTreeMap<NodeKey, Described> + Send>;

/// What a recorder reads.
pub struct Parts {
    /// The links.
    pub links: Arc<Links>,
    /// The time by the links' clock.
    pub clock: Box<dyn Fn() -> Time + Send>,
    /// The nodes.
    pub whereabouts: Whereabouts,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    written: AtomicU64,
    lost: AtomicU64,
    gone: Mutex<bool>,
    left: Condvar,
}

/// The recorder of one process; without a folder it does nothing.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts recording as the configuration says; `name` is the recording's.
    ///
    /// # Errors
    /// When the folder cannot be written to, or holds a recording with other windows.
    pub fn start(config: &config::Record, name: &str, parts: Parts) -> Result<Self, RecordError> {
        let shared = Arc::new(Shared::default());
        if config.to == "off" {
            return Ok(Self { shared, thread: None });
        }
        let folder = Path::new(&config.to);
        let refused = |source| RecordError { folder: folder.to_owned(), source };
        let window = Duration::from(config.window);
        let meta = Meta { name: name.to_owned(), window_seconds: window.as_secs_f64() };
        let bounds = Bounds { rotate: config.rotate.0, keep: config.keep.0 };
        let writer = Writer::append(folder, &meta, bounds).map_err(|e| refused(Box::new(e)))?;
        let shares = shared.clone();
        let work = move || Work { shared: shares, writer, window, parts, windows: Windows::default() }.run();
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(work);
        Ok(Self { shared, thread: Some(thread.map_err(|e| refused(Box::new(e)))?) })
    }

    /// How many windows were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Relaxed)
    }

    /// How many windows were lost: to a disk that took nothing, or to a clock that jumped.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// The metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let counter = |name, help, count| Family::new(name, Kind::Counter, Measure::Number, help).count(count);
        vec![
            counter("recording_windows_written", "Windows of the links that were recorded.", self.written()),
            counter(
                "recording_windows_lost",
                "Windows of the links that were not recorded: the disk took nothing, or the clock jumped.",
                self.lost(),
            ),
        ]
    }

    /// Ends the recording; true when it was over within the limit. The window under way is not written.
    pub fn close(&self, limit: Duration) -> bool {
        let Some(thread) = &self.thread else { return true };
        self.shared.stop.store(true, Relaxed);
        thread.thread().unpark();
        let gone = self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.left.wait_timeout_while(gone, limit, |gone| !*gone);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

struct Work {
    shared: Arc<Shared>,
    writer: Writer,
    window: Duration,
    parts: Parts,
    windows: Windows,
}

impl Work {
    fn run(mut self) {
        let mut failing = false;
        let mut began: Option<Instant> = None;
        while let Some(start) = self.wait() {
            let now = Instant::now();
            // Also for a window that is not written: the next begins here.
            let taken = self.windows.take(&self.parts.links);
            let whole = began.is_some_and(|b| {
                let should = self.window.as_secs_f64();
                (now.duration_since(b).as_secs_f64() - should).abs() <= (should * MOST_OFF).max(HICCUP_S)
            });
            if began.replace(now).is_none() {
                continue;
            }
            if !whole {
                self.shared.lost.fetch_add(1, Relaxed);
                tracing::debug!(start, "a window of another length than it should be is not recorded");
                continue;
            }
            match self.write(start, &taken) {
                Ok(()) => {
                    self.shared.written.fetch_add(1, Relaxed);
                    failing = false;
                }
                Err(error) => {
                    self.shared.lost.fetch_add(1, Relaxed);
                    if !failing {
                        tracing::warn!(%error, "the recording cannot be written; its windows are lost until it can");
                    }
                    failing = true;
                }
            }
        }
        if let Err(error) = self.writer.finish() {
            tracing::warn!(%error, "the recording's last part may be incomplete");
        }
        *self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.left.notify_all();
    }

    /// Waits for a window's end. Returns its start in seconds since 1970; none when the recording is to end.
    fn wait(&self) -> Option<f64> {
        let window = self.window.as_nanos().max(1);
        let since = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let end = (since() / window + 1) * window;
        loop {
            if self.shared.stop.load(Relaxed) {
                return None;
            }
            let left = end.saturating_sub(since());
            if left == 0 || left > window {
                return Some((end - window) as f64 * 1e-9);
            }
            std::thread::park_timeout(Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)));
        }
    }

    fn write(&mut self, start_s: f64, taken: &[crate::links::WindowLink]) -> Result<(), WriterError> {
        let now = (self.parts.clock)();
        let whereabouts = (self.parts.whereabouts)();
        let unknown = Described::default();
        let cells: BTreeMap<NodeKey, _> =
            self.parts.links.node_cells().into_iter().map(|cell| (cell.key.clone(), cell)).collect();
        let named = taken.iter().flat_map(|l| [&l.key.source, &l.key.destination]);
        let keys: BTreeSet<&NodeKey> = cells.keys().chain(named).collect();
        let oldest = self.window.as_secs_f64() * MOST_WINDOWS_AGO;
        let nodes: Vec<NodeRow<'_>> = keys
            .into_iter()
            .map(|key| {
                let cell = cells.get(key);
                let report = cell.and_then(|c| c.last_report(now)).filter(|(_, age)| f64::from(*age) <= oldest);
                let of = |field: fn(&Report) -> Option<f64>| report.and_then(|(r, _)| field(&r));
                let known = whereabouts.get(key).unwrap_or(&unknown);
                NodeRow {
                    node: &key.0,
                    service: &known.service,
                    zone: &known.zone,
                    // What an instance says of itself may be anything.
                    cpu_utilization: of(|r| r.cpu_utilization).map(|u| u.clamp(0.0, 1.0)),
                    memory_utilization: of(|r| r.mem_utilization).map(|u| u.clamp(0.0, 1.0)),
                    requests_per_second: of(|r| r.requests_per_second).filter(|r| *r >= 0.0),
                    in_flight: cell.map(|c| f64::from(c.in_flight())),
                }
            })
            .collect();
        let links: Vec<LinkRow<'_>> = taken
            .iter()
            .map(|l| {
                let quantiles = l.latency.quantiles([0.5, 0.9, 0.99]);
                let [p50, p90, p99] = quantiles.map_or([None; 3], |q| q.map(|s| Some(s * 1e3)));
                LinkRow {
                    source: &l.key.source.0,
                    destination: &l.key.destination.0,
                    calls: l.calls,
                    errors: l.errors,
                    latency_mean_ms: l.latency.mean().map(|s| s * 1e3),
                    latency_p50_ms: p50,
                    latency_p90_ms: p90,
                    latency_p99_ms: p99,
                    jitter_ms: l.jitter_s.map(|s| s * 1e3),
                }
            })
            .collect();
        if nodes.is_empty() && links.is_empty() {
            return Ok(());
        }
        self.writer.window(start_s, &nodes, &links)
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
