//! Writes a recording.
//!
//! A window is compressed in memory and written with one call for each table, as a gzip member of its own: what is on
//! disk can be read at any moment, but for the last window of a process that was killed while it wrote. An existing part
//! is never appended to, since its end may be such a window: a recording that goes on does so in a new part.

use super::parts::{self, Part};
use super::rows::{LINK_COLUMNS, LinkRow, META_FILE, Meta, NODE_COLUMNS, NodeRow};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How large a recording may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// A part that is as large as this, in bytes, is followed by another.
    pub rotate: u64,
    /// The oldest parts go when all together are larger than this, in bytes.
    pub keep: u64,
}

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is one in the folder already.
    #[error("{}: a recording is there already; give another folder, or remove this one", .0.display())]
    Taken(PathBuf),
    /// The folder's recording has windows of another length.
    #[error(
        "{}: the recording there has windows of {there} s, not of {asked} s; give another folder, or remove this one",
        path.display()
    )]
    OtherWindow {
        /// The `meta.json`.
        path: PathBuf,
        /// Its length of a window, in seconds.
        there: f64,
        /// The length that was asked for, in seconds.
        asked: f64,
    },
    /// A `meta.json` that says nothing.
    #[error("{}: {message}; remove the file, or give another folder", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> WriterError + '_ {
    move |source| WriterError::Io { path: path.to_owned(), source }
}

/// One table's open part.
#[derive(Debug)]
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    open: Option<(PathBuf, File)>,
    bytes: u64,
}

impl Table {
    fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self { name, columns, open: None, bytes: 0 }
    }

    /// Appends one window's rows, to a new part with a header where none is open.
    fn append(&mut self, folder: &Path, number: u32, rows: Vec<u8>) -> Result<(), WriterError> {
        let (path, mut file) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = folder.join(parts::file_name(self.name, number));
                let mut file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(at(&path))?;
                self.bytes = 0;
                let header = self.columns.join(",") + "\n";
                self.bytes += write_member(&mut file, header.as_bytes()).map_err(at(&path))?;
                (path, file)
            }
        };
        // A part that failed is not written on: its end may be half a member.
        self.bytes += write_member(&mut file, &rows).map_err(at(&path))?;
        self.open = Some((path, file));
        Ok(())
    }
}

fn write_member(file: &mut File, text: &[u8]) -> io::Result<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::default());
    encoder.write_all(text)?;
    let member = encoder.finish()?;
    file.write_all(&member)?;
    Ok(member.len() as u64)
}

/// Writes a recording, window by window.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    bounds: Option<Bounds>,
    number: u32,
    nodes: Table,
    links: Table,
}

impl Writer {
    /// Begins a recording in a folder, which is made where it is missing: one `nodes.csv.gz`, one `links.csv.gz`,
    /// however large they become.
    ///
    /// # Errors
    /// When a recording is there already, or nothing can be written.
    pub fn create(folder: &Path, meta: &Meta) -> Result<Self, WriterError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join(META_FILE);
        if path.exists() || !parts::all(folder).map_err(at(folder))?.is_empty() {
            return Err(WriterError::Taken(folder.to_owned()));
        }
        write_meta(&path, meta)?;
        Ok(Self::new(folder, None, 0))
    }

    /// Begins a recording in a folder, or goes on with the one that is there, in parts that stay within bounds.
    ///
    /// # Errors
    /// When what is there has windows of another length, or nothing can be written.
    pub fn append(folder: &Path, meta: &Meta, bounds: Bounds) -> Result<Self, WriterError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join(META_FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let there: Meta = serde_json::from_slice(&bytes)
                    .map_err(|e| WriterError::Meta { path: path.clone(), message: e.to_string() })?;
                if there.window_seconds != meta.window_seconds {
                    let (there, asked) = (there.window_seconds, meta.window_seconds);
                    return Err(WriterError::OtherWindow { path, there, asked });
                }
                // Whether parts could be written shows only now: `meta.json` was not touched.
                let trial = folder.join(".trial");
                File::create(&trial).and_then(|_| fs::remove_file(&trial)).map_err(at(folder))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => write_meta(&path, meta)?,
            Err(e) => return Err(at(&path)(e)),
        }
        let last = parts::all(folder).map_err(at(folder))?.last().map_or(0, |p| p.number);
        Ok(Self::new(folder, Some(bounds), last + 1))
    }

    fn new(folder: &Path, bounds: Option<Bounds>, number: u32) -> Self {
        Self {
            folder: folder.to_owned(),
            bounds,
            number,
            nodes: Table::new("nodes", &NODE_COLUMNS),
            links: Table::new("links", &LINK_COLUMNS),
        }
    }

    /// Writes one window that began at `start_s` (seconds since 1970, or since the recording's beginning).
    ///
    /// # Errors
    /// When a file cannot be written. The window is lost then, in whole or in part; a recording with bounds goes on in
    /// a new part with the next one.
    pub fn window(&mut self, start_s: f64, nodes: &[NodeRow<'_>], links: &[LinkRow<'_>]) -> Result<(), WriterError> {
        let mut node_text = Vec::new();
        let mut link_text = Vec::new();
        let in_memory = Path::new("a window in memory");
        node_rows(&mut node_text, start_s, nodes).map_err(at(in_memory))?;
        link_rows(&mut link_text, start_s, links).map_err(at(in_memory))?;
        let written = self.nodes.append(&self.folder, self.number, node_text);
        let written = written.and_then(|()| self.links.append(&self.folder, self.number, link_text));
        let Some(bounds) = self.bounds else { return written };
        if written.is_err() || self.nodes.bytes.max(self.links.bytes) >= bounds.rotate {
            (self.nodes.open, self.links.open) = (None, None);
            self.number += 1;
        }
        // Also after a failure: a full disk may be full of this.
        self.trim(bounds.keep)?;
        written
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// When the system reports only now that something could not be written.
    pub fn finish(self) -> Result<(), WriterError> {
        for (path, file) in [self.nodes.open, self.links.open].into_iter().flatten() {
            file.sync_all().map_err(at(&path))?;
        }
        Ok(())
    }

    /// Deletes the oldest parts until the rest is within `keep`; never those that are being written.
    fn trim(&self, keep: u64) -> Result<(), WriterError> {
        let there = parts::all(&self.folder).map_err(at(&self.folder))?;
        let mut bytes: u64 = there.iter().map(|p| p.bytes).sum();
        let mut closed = there.into_iter().filter(|p| p.number < self.number).peekable();
        while bytes > keep
            && let Some(oldest) = closed.next()
        {
            // A part's nodes and links are of the same windows: they go together.
            let with = closed.next_if(|p| p.number == oldest.number);
            for Part { path, bytes: size, .. } in [Some(oldest), with].into_iter().flatten() {
                fs::remove_file(&path).map_err(at(&path))?;
                bytes = bytes.saturating_sub(size);
            }
        }
        Ok(())
    }
}

fn write_meta(path: &Path, meta: &Meta) -> Result<(), WriterError> {
    let text = serde_json::to_string_pretty(meta)
        .map_err(|e| WriterError::Meta { path: path.to_owned(), message: e.to_string() })?;
    fs::write(path, text + "\n").map_err(at(path))
}

fn node_rows(to: &mut Vec<u8>, start_s: f64, rows: &[NodeRow<'_>]) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(to);
    let start = number(Some(start_s));
    for r in rows {
        let numbers = [r.cpu_utilization, r.memory_utilization, r.requests_per_second, r.in_flight].map(number);
        let [cpu, memory, rate, in_flight] = &numbers;
        csv.write_record([&start, r.node, r.service, r.zone, cpu, memory, rate, in_flight])?;
    }
    csv.flush()
}

fn link_rows(to: &mut Vec<u8>, start_s: f64, rows: &[LinkRow<'_>]) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(to);
    let start = number(Some(start_s));
    for r in rows {
        let (calls, errors) = (r.calls.to_string(), r.errors.min(r.calls).to_string());
        let [mean, p50, p90, p99, jitter] =
            &[r.latency_mean_ms, r.latency_p50_ms, r.latency_p90_ms, r.latency_p99_ms, r.jitter_ms].map(number);
        csv.write_record([&start, r.source, r.destination, &calls, &errors, mean, p50, p90, p99, jitter])?;
    }
    csv.flush()
}

/// A number as a field: to four decimals, which is a tenth of a microsecond; empty when it is unknown.
fn number(value: Option<f64>) -> String {
    // Adding zero makes of -0 what it is.
    value.filter(|v| v.is_finite()).map(|v| ((v * 1e4).round() / 1e4 + 0.0).to_string()).unwrap_or_default()
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
