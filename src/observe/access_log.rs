//! The access log: each serving thread writes its lines into a buffer of its own, and one thread writes the buffers out.
//!
//! A line costs its formatting and a lock that nobody holds: no allocation, no system call, no cache line shared with
//! another core. Ten times a second, or when a buffer is half full, the writer swaps each buffer for an empty one and
//! writes it with one call. Each core has two buffers and takes the other one in the instant of a swap, so that a request
//! never waits for the writer, not even for one that the kernel has put to sleep with the lock in its hand; a core's
//! lines may then change places within a swap. Lines of different cores are in no order: they carry their time.
//!
//! When the output is slow or stuck, buffers fill up to [`MAX_BUFFERED`]; further lines are dropped and counted. When
//! it fails (a full disk, a closed pipe), the lines at hand are lost and counted, the failure is logged once, and the
//! next are tried again. What was written, or lost to its output, stays in memory for a while (`recent`). After a rotation of its file, [`AccessLog::reopen`] makes the writer open the path anew.

use super::access_line::{json, text};
use super::recent::Recent;
use super::{AccessRecord, AccessSink};
use crate::config::{self, LogFormat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many bytes a buffer holds before lines are dropped: some 2,500 lines, 50 ms of 50,000 requests a second.
pub const MAX_BUFFERED: usize = 1024 * 1024;
/// The writer is woken early when a buffer holds so much.
const WAKE_AT: usize = MAX_BUFFERED / 2;
/// How long a line waits at most, where the output keeps up.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// How long [`AccessLog`] waits for its last lines when it is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The access log cannot write where it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the access log to {} (`telemetry.access_log.to`): {source}", path.display())]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

/// One core's buffers. Aligned so that two cores never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Core {
    buffers: [Mutex<Buffer>; 2],
}

#[derive(Debug)]
struct Shared {
    format: LogFormat,
    cores: Box<[Core]>,
    stop: AtomicBool,
    reopen: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
    recent: Recent,
    /// Rises by one with each round of the writer; `u64::MAX` once it is gone.
    rounds: Mutex<u64>,
    round_over: Condvar,
}

/// The access log of one configuration.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

enum Output {
    Stream(Box<dyn Write + Send>),
    File(PathBuf, File),
}

impl AccessLog {
    /// Opens the log that a configuration asks for, for so many serving threads. With `to: off` there is no thread,
    /// and every record is ignored.
    ///
    /// # Errors
    /// When its file cannot be opened, or there is no thread to be had.
    pub fn open(config: &config::AccessLog, cores: usize) -> Result<Self, OpenError> {
        let output = match config.to.as_str() {
            "off" => return Ok(Self { shared: Arc::new(Shared::new(config.format, 0)), writer: None }),
            "stdout" => Output::Stream(Box::new(io::stdout())),
            "stderr" => Output::Stream(Box::new(io::stderr())),
            path => {
                let path = PathBuf::from(path);
                let file = open(&path).map_err(|source| OpenError { path: path.clone(), source })?;
                Output::File(path, file)
            }
        };
        Self::start(output, config.format, cores).map_err(|source| OpenError { path: config.to.clone().into(), source })
    }

    fn start(output: Output, format: LogFormat, cores: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(format, cores.max(1)));
        let writes = shared.clone();
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&writes, output))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// How many lines were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Relaxed)
    }

    /// How many lines were lost: to full buffers, or to an output that failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// The last lines, the oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<u8> {
        self.shared.recent.lines()
    }

    /// Opens the file's path anew before the next line is written (on SIGHUP, after a rotation). Where that fails, the
    /// old file goes on being written.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.wake();
    }

    /// Waits until every line logged before this call is written, or the limit is over. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        // The round under way may have passed a buffer before its last line came.
        self.wait_rounds(2, limit)
    }

    /// Writes what is there and ends the writer; true when it managed within the limit. Later records are ignored.
    pub fn close(&self, limit: Duration) -> bool {
        self.shared.stop.store(true, Relaxed);
        self.wait_rounds(u64::MAX, limit)
    }

    fn wait_rounds(&self, count: u64, limit: Duration) -> bool {
        if self.writer.is_none() {
            return true;
        }
        let rounds = self.shared.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let goal = rounds.saturating_add(count);
        let pending = |now: &mut u64| {
            self.wake();
            *now < goal
        };
        let waited = self.shared.round_over.wait_timeout_while(rounds, limit, pending);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= goal
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if !self.close(LAST_WORDS) {
            tracing::warn!("the access log's output does not take its last lines");
        }
    }
}

impl AccessSink for AccessLog {
    fn log(&self, core: usize, record: &AccessRecord<'_>) {
        let shared = &*self.shared;
        let Some(core) = shared.cores.get(core).or_else(|| shared.cores.first()) else { return };
        let Some(mut buffer) = core.buffers.iter().find_map(try_lock) else {
            shared.dropped.fetch_add(1, Relaxed);
            return;
        };
        let before = buffer.bytes.len();
        if before >= MAX_BUFFERED || shared.stop.load(Relaxed) {
            drop(buffer);
            shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        match shared.format {
            LogFormat::Json => json(&mut buffer.bytes, record),
            LogFormat::Text => text(&mut buffer.bytes, record),
        }
        buffer.lines += 1;
        let wake = before < WAKE_AT && buffer.bytes.len() >= WAKE_AT;
        drop(buffer);
        if wake {
            self.wake();
        }
    }

    fn enabled(&self) -> bool {
        self.writer.is_some()
    }
}

fn try_lock(buffer: &Mutex<Buffer>) -> Option<MutexGuard<'_, Buffer>> {
    match buffer.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Shared {
    fn new(format: LogFormat, cores: usize) -> Self {
        Self {
            format,
            cores: (0..cores).map(|_| Core::default()).collect(),
            stop: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            recent: Recent::default(),
            rounds: Mutex::new(0),
            round_over: Condvar::new(),
        }
    }

    fn round_over(&self, gone: bool) {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        *rounds = if gone { u64::MAX } else { *rounds + 1 };
        self.round_over.notify_all();
    }
}

/// The writer's life.
fn write_all(shared: &Shared, mut output: Output) {
    let mut batch = Buffer::default();
    let mut failing = false;
    loop {
        // Read before the buffers, so that what was logged before the order to stop is still written.
        let last = shared.stop.load(Relaxed);
        if shared.reopen.swap(false, Relaxed) {
            output.reopen();
        }
        for buffer in shared.cores.iter().flat_map(|c| &c.buffers) {
            std::mem::swap(&mut batch, &mut buffer.lock().unwrap_or_else(PoisonError::into_inner));
            if batch.lines == 0 {
                continue;
            }
            shared.recent.keep(&batch.bytes);
            match output.write(&batch.bytes) {
                Ok(()) => {
                    shared.written.fetch_add(batch.lines, Relaxed);
                    failing = false;
                }
                Err(error) => {
                    shared.dropped.fetch_add(batch.lines, Relaxed);
                    if !failing {
                        tracing::warn!(%error, "the access log's output fails; its lines are lost until it recovers");
                    }
                    failing = true;
                }
            }
            batch.bytes.clear();
            batch.lines = 0;
        }
        shared.round_over(last);
        if last {
            return;
        }
        std::thread::park_timeout(WRITE_EVERY);
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::File(_, file) => file.write_all(bytes),
        }
    }

    fn reopen(&mut self) {
        let Self::File(path, file) = self else { return };
        match open(path) {
            Ok(new) => *file = new,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the access log cannot be opened anew; the old file is written on");
            }
        }
    }
}

/// Appends: two processes during a hand-over then never overwrite each other's lines.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
