//! The access log and the traces of the configuration in force, behind one sink that lives as long as the process.
//!
//! A reload replaces what it changes, and only where the new one could be opened: otherwise the old one goes on, and the
//! reload says why. What the replaced ones counted stays in the counters.

use super::metrics::{Family, Kind, Measure};
use super::{AccessLog, AccessRecord, AccessSink, OpenError, Traces, TracesError};
use crate::config::{self, Telemetry};
use arc_swap::ArcSwap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Something cannot be reported where it should.
#[derive(Debug, thiserror::Error)]
pub enum ReportingError {
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
    /// The traces.
    #[error(transparent)]
    Traces(#[from] TracesError),
}

#[derive(Debug, Clone)]
struct Current {
    config: Telemetry,
    access_log: Arc<AccessLog>,
    traces: Arc<Traces>,
}

impl Current {
    fn wants_records(&self) -> bool {
        self.access_log.enabled() || self.traces.enabled()
    }
}

/// What the sinks that were replaced had counted.
#[derive(Debug, Default)]
struct Before {
    written: AtomicU64,
    lines_dropped: AtomicU64,
    exported: AtomicU64,
    spans_dropped: AtomicU64,
}

/// Where each request is reported.
#[derive(Debug)]
pub struct Reporting {
    current: ArcSwap<Current>,
    /// Somebody wants records. Beside the rest, because every request asks: a load from an `ArcSwap` is two locked
    /// instructions.
    wanted: AtomicBool,
    /// Somebody wants spans.
    traced: AtomicBool,
    before: Before,
    replacing: Mutex<()>,
    node: String,
    cores: usize,
}

impl Reporting {
    /// Opens what a configuration asks for, for so many serving threads.
    ///
    /// # Errors
    /// When the access log cannot be opened or the collector's address is none.
    pub fn start(config: &Telemetry, node: &str, cores: usize) -> Result<Self, ReportingError> {
        let current = Current {
            config: config.clone(),
            access_log: Arc::new(AccessLog::open(&config.access_log, cores)?),
            traces: Arc::new(Traces::start(&config.traces, node)?),
        };
        let wanted = AtomicBool::new(current.wants_records());
        let traced = AtomicBool::new(current.traces.enabled());
        let current = ArcSwap::from_pointee(current);
        Ok(Self {
            current,
            wanted,
            traced,
            before: Before::default(),
            replacing: Mutex::new(()),
            node: node.to_owned(),
            cores,
        })
    }

    /// Replaces what another configuration changes. Blocks for up to a few seconds while the replaced ones write their
    /// last: call it on a thread that may.
    ///
    /// # Errors
    /// As for [`Reporting::start`]; then nothing is replaced.
    pub fn reload(&self, config: &Telemetry) -> Result<(), ReportingError> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        let mut new = Current { config: config.clone(), ..Current::clone(&old) };
        if config.access_log != old.config.access_log {
            new.access_log = Arc::new(AccessLog::open(&config.access_log, self.cores)?);
        }
        let to = |telemetry: &Telemetry| {
            let config::Traces { otlp, protocol, tls, headers, propagators: _, sample: _ } = telemetry.traces.clone();
            (otlp, protocol, tls, headers)
        };
        if to(config) != to(&old.config) {
            new.traces = Arc::new(Traces::start(&config.traces, &self.node)?);
        }
        let new = Arc::new(new);
        self.current.store(new.clone());
        self.wanted.store(new.wants_records(), Relaxed);
        self.traced.store(new.traces.enabled(), Relaxed);
        const LAST_WORDS: Duration = Duration::from_secs(1);
        if !Arc::ptr_eq(&old.access_log, &new.access_log) {
            old.access_log.close(LAST_WORDS);
            self.before.written.fetch_add(old.access_log.written(), Relaxed);
            self.before.lines_dropped.fetch_add(old.access_log.dropped(), Relaxed);
        }
        if !Arc::ptr_eq(&old.traces, &new.traces) {
            old.traces.close(LAST_WORDS);
            self.before.exported.fetch_add(old.traces.exported(), Relaxed);
            self.before.spans_dropped.fetch_add(old.traces.dropped(), Relaxed);
        }
        Ok(())
    }

    /// Opens the access log's file anew, after a rotation (SIGHUP).
    pub fn reopen(&self) {
        self.current.load().access_log.reopen();
    }

    /// The access log's last lines, as it wrote them; none where it is off. A log that was replaced takes its own with it.
    #[must_use]
    pub fn recent(&self) -> Vec<u8> {
        self.current.load().access_log.recent()
    }

    /// Writes and sends what is there, within the limit; whether all of it went out.
    pub fn close(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let current = self.current.load_full();
        let written = current.access_log.close(limit);
        current.traces.close(until.saturating_duration_since(Instant::now())) && written
    }

    /// What was written, sent and lost, for `/metrics`.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let counter = |name: &'static str, help: &'static str, before: &AtomicU64, now: u64| {
            Family::new(name, Kind::Counter, Measure::Number, help).count(before.load(Relaxed) + now)
        };
        let (current, before) = (self.current.load(), &self.before);
        let (log, traces) = (&current.access_log, &current.traces);
        vec![
            counter("access_log_lines_written", "Access log lines that were written.", &before.written, log.written()),
            counter(
                "access_log_lines_dropped",
                "Access log lines that were lost to a slow or failing output.",
                &before.lines_dropped,
                log.dropped(),
            ),
            counter("spans_exported", "Spans that the trace collector took.", &before.exported, traces.exported()),
            counter(
                "spans_dropped",
                "Spans that were lost to a slow or failing collector.",
                &before.spans_dropped,
                traces.dropped(),
            ),
        ]
    }
}

impl AccessSink for Reporting {
    fn log(&self, core: usize, record: &AccessRecord<'_>) {
        let current = self.current.load();
        current.access_log.log(core, record);
        current.traces.log(core, record);
    }

    fn enabled(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    fn takes_spans(&self) -> bool {
        self.traced.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_line::tests::record;
    use super::super::metrics::Value;
    use super::*;

    fn telemetry(to: &str) -> Telemetry {
        let mut telemetry = Telemetry::default();
        telemetry.access_log.to = to.into();
        telemetry
    }

    fn counted(reporting: &Reporting) -> Vec<u64> {
        let count = |f: &Family| if let Value::Count(n) = f.samples[0].1 { n } else { 0 };
        reporting.families().iter().map(count).collect()
    }

    #[test]
    fn a_reload_moves_the_log_and_keeps_the_counts_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let reporting = Reporting::start(&telemetry(&path("a")), "n", 1).unwrap();
        assert!(reporting.enabled());
        reporting.log(0, &record());
        reporting.reload(&telemetry(&path("b"))).unwrap();
        reporting.log(0, &record());
        let error = reporting.reload(&telemetry("/nowhere/c")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/c"), "{error}");
        reporting.log(0, &record());
        assert!(reporting.close(Duration::from_secs(5)));
        let lines = |name: &str| std::fs::read_to_string(path(name)).unwrap().lines().count();
        assert_eq!((lines("a"), lines("b"), counted(&reporting)), (1, 2, vec![3, 0, 0, 0]));
    }

    #[test]
    fn with_everything_off_no_record_is_wanted() {
        let reporting = Reporting::start(&telemetry("off"), "n", 1).unwrap();
        assert!(!reporting.enabled());
        reporting.reload(&telemetry("stderr")).unwrap();
        assert!(reporting.enabled());
    }
}
