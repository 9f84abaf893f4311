//! Reads a recording, strictly: whatever could make its figures wrong is an error with file, line and remedy.
//!
//! Rows may come in any order, so a recording is held in memory, in 48 bytes a row at most: [`MAX_ROWS`] of them are
//! 5 GB at worst, a gigabyte of CSV is about 700 MB. All parts `nodes*.csv(.gz)` and `links*.csv(.gz)` are read.

use super::findings::Findings;
use super::table::{self, Row};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use pathloom::record::{LINK_COLUMNS, META_FILE, Meta, NODE_COLUMNS};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// More rows than this are refused.
pub const MAX_ROWS: u64 = 100_000_000;
/// Start times are told apart to the millisecond.
const STEPS_PER_S: f64 = 1e3;
/// The longest window, in seconds.
const MAX_WINDOW_S: f64 = 86_400.0;

/// What does not change about a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its service; empty when unknown.
    pub service: String,
    /// Its zone; empty when unknown.
    pub zone: String,
}

/// Where a row stands: the file's number, and the line.
type Place = (u16, u32);

/// A node in a window; NaN is unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeWindow {
    /// Its index in `Recording::nodes`.
    pub node: u32,
    /// CPU in use, 0 to 1.
    pub cpu_utilization: f32,
    /// Memory in use, 0 to 1.
    pub memory_utilization: f32,
    /// Requests a second.
    pub requests_per_second: f32,
    /// Requests under way.
    pub in_flight: f32,
    place: Place,
}

/// A link in a window; NaN is unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkWindow {
    /// The calling node's index in `Recording::nodes`.
    pub source: u32,
    /// The called node's.
    pub destination: u32,
    /// Calls that ended.
    pub calls: f32,
    /// Those that failed.
    pub errors: f32,
    /// Mean latency in seconds.
    pub mean_s: f32,
    /// Median latency in seconds.
    pub p50_s: f32,
    /// 90th percentile in seconds.
    pub p90_s: f32,
    /// 99th percentile in seconds.
    pub p99_s: f32,
    /// Jitter in seconds.
    pub jitter_s: f32,
    place: Place,
}

impl LinkWindow {
    /// How many latencies its figures stand on; 0 when that is unknown.
    #[must_use]
    pub fn answers(&self) -> f32 {
        if self.mean_s.is_nan() {
            return 0.0;
        }
        let errors = if self.errors.is_nan() { 0.0 } else { self.errors };
        (self.calls - errors).max(0.0)
    }
}

/// One window, its rows sorted by their nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Window {
    /// When it began, in milliseconds of the recording's clock.
    pub start_ms: i64,
    /// Its nodes.
    pub nodes: Vec<NodeWindow>,
    /// Its links.
    pub links: Vec<LinkWindow>,
}

/// A recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// What it is called.
    pub name: String,
    /// How long a window is, in seconds.
    pub window_s: f64,
    /// All nodes, sorted by name.
    pub nodes: Vec<NodeInfo>,
    /// All windows with rows, in the order of time.
    pub windows: Vec<Window>,
    /// What was read past.
    pub findings: Findings,
    /// The digest of all files (SHA-256, hexadecimal), in the order of their names.
    pub digest: String,
}

impl Recording {
    /// A window's length in milliseconds.
    #[must_use]
    pub fn window_ms(&self) -> i64 {
        (self.window_s * STEPS_PER_S).round() as i64
    }
}

/// Reads the recording in a folder.
///
/// # Errors
/// With all that is wrong with it, each with its file, line and remedy, at most 20.
pub fn read(folder: &Path) -> Result<Recording> {
    let mut reader = Reader::default();
    let meta = reader.meta(folder);
    let (nodes, links) = reader.parts(folder);
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |m| m.len());
    let bar = ProgressBar::new(nodes.iter().chain(&links).map(size).sum());
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message("reading");
    let progress = |bytes| bar.inc(bytes);
    for path in &nodes {
        reader.nodes(path, &progress);
    }
    for path in &links {
        reader.links(path, &progress);
    }
    bar.finish_and_clear();
    if reader.rows > MAX_ROWS {
        let message = format!("has {} rows; at most {MAX_ROWS} can be read, so split it by time", reader.rows);
        reader.findings.error(folder, 0, message);
    }
    if let Some(meta) = &meta {
        reader.judge(folder, meta);
    }
    match meta {
        Some(meta) if reader.findings.errors.is_empty() => {
            let digest = digest(folder, &nodes, &links)?;
            let windows = reader.windows.into_values().collect();
            let (nodes, windows) = sorted(reader.infos, windows);
            let (name, window_s) = (meta.name, meta.window_seconds);
            Ok(Recording { name, window_s, nodes, windows, findings: reader.findings, digest })
        }
        _ => Err(Error::Format(reader.findings.error_text())),
    }
}

#[derive(Default)]
struct Reader {
    findings: Findings,
    files: Vec<PathBuf>,
    rows: u64,
    by_name: HashMap<String, u32>,
    infos: Vec<NodeInfo>,
    /// For each node: whether `nodes.csv` has it, whether a link names it.
    seen: Vec<(Option<Place>, Option<Place>)>,
    windows: BTreeMap<i64, Window>,
}

impl Reader {
    fn meta(&mut self, folder: &Path) -> Option<Meta> {
        let path = folder.join(META_FILE);
        let write = "write {\"name\": \"my mesh\", \"window_seconds\": 10}";
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.findings.error(&path, 0, format!("cannot be read ({e}); {write}"));
                return None;
            }
        };
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        match serde_json::from_slice::<Meta>(text) {
            Err(e) => {
                self.findings.error(&path, e.line() as u64, format!("{e}; {write}"));
                None
            }
            Ok(meta) if !(meta.window_seconds >= 1.0 / STEPS_PER_S && meta.window_seconds <= MAX_WINDOW_S) => {
                let message = format!(
                    "`window_seconds` is {}; write a number above 0, up to {MAX_WINDOW_S}",
                    meta.window_seconds
                );
                self.findings.error(&path, 0, message);
                None
            }
            Ok(meta) => Some(meta),
        }
    }

    fn parts(&mut self, folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) => {
                self.findings.error(folder, 0, format!("cannot be read: {e}"));
                return (Vec::new(), Vec::new());
            }
        };
        let mut all: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
        all.sort();
        let mut of = |table: &str| {
            let is = |name: &str| name.starts_with(table) && (name.ends_with(".csv") || name.ends_with(".csv.gz"));
            let found: Vec<PathBuf> =
                all.iter().filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(is)).cloned().collect();
            if found.is_empty() {
                let message =
                    format!("there is no `{table}.csv` and no `{table}.csv.gz`; is this a recording's folder?");
                self.findings.error(folder, 0, message);
            }
            found
        };
        (of("nodes"), of("links"))
    }

    fn file_number(&mut self, path: &Path) -> u16 {
        self.files.push(path.to_owned());
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    fn nodes(&mut self, path: &Path, progress: &dyn Fn(u64)) {
        let file = self.file_number(path);
        let mut findings = std::mem::take(&mut self.findings);
        table::read(path, &NODE_COLUMNS, &mut findings, progress, |row| {
            let place = (file, row.line as u32);
            let start = row.needed(0);
            let name = row.word(1);
            let (service, zone) = (row.text(2).to_owned(), row.text(3).to_owned());
            let (cpu, memory) = (row.share(4), row.share(5));
            let (rate, in_flight) = (row.number(6), row.number(7));
            if row.failed || !self.counts() {
                return;
            }
            let node = self.index(&name);
            self.describe(node, service, zone, row);
            if let Some((listed, _)) = self.seen.get_mut(node as usize) {
                listed.get_or_insert(place);
            }
            self.window(start).nodes.push(NodeWindow {
                node,
                cpu_utilization: cpu as f32,
                memory_utilization: memory as f32,
                requests_per_second: rate as f32,
                in_flight: in_flight as f32,
                place,
            });
        });
        self.findings = findings;
    }

    fn links(&mut self, path: &Path, progress: &dyn Fn(u64)) {
        let file = self.file_number(path);
        let mut findings = std::mem::take(&mut self.findings);
        table::read(path, &LINK_COLUMNS, &mut findings, progress, |row| {
            let place = (file, row.line as u32);
            let start = row.needed(0);
            let (source, destination) = (row.word(1), row.word(2));
            let (calls, errors) = (row.number(3), row.number(4));
            let [mean_s, p50_s, p90_s, p99_s, jitter_s] =
                [5, 6, 7, 8, 9].map(|column| (row.number(column) * 1e-3) as f32);
            if errors > calls {
                row.error(format!("`errors` is {errors}, more than `calls`, {calls}; errors are calls, too"));
            }
            if row.failed || !self.counts() {
                return;
            }
            if p50_s > p90_s || p90_s > p99_s || p50_s > p99_s {
                row.warning("the percentiles do not rise; are columns mixed up?".into());
            }
            let (source, destination) = (self.index(&source), self.index(&destination));
            for node in [source, destination] {
                if let Some((_, named)) = self.seen.get_mut(node as usize) {
                    named.get_or_insert(place);
                }
            }
            let (calls, errors) = (calls as f32, errors as f32);
            self.window(start).links.push(LinkWindow {
                source,
                destination,
                calls,
                errors,
                mean_s,
                p50_s,
                p90_s,
                p99_s,
                jitter_s,
                place,
            });
        });
        self.findings = findings;
    }

    /// Counts a row; false when there are too many to keep.
    fn counts(&mut self) -> bool {
        self.rows += 1;
        self.rows <= MAX_ROWS
    }

    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = self.infos.len() as u32;
        self.by_name.insert(name.to_owned(), index);
        self.infos.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
        self.seen.push((None, None));
        index
    }

    fn describe(&mut self, node: u32, service: String, zone: String, row: &mut Row<'_>) {
        let Some(info) = self.infos.get_mut(node as usize) else { return };
        for (known, new, what) in [(&mut info.service, service, "service"), (&mut info.zone, zone, "zone")] {
            if known.is_empty() {
                *known = new;
            } else if !new.is_empty() && *known != new {
                row.warning(format!("`{}` has the {what} `{new}` here and `{known}` before, which stands", info.name));
            }
        }
    }

    fn window(&mut self, start_s: f64) -> &mut Window {
        let start_ms = (start_s * STEPS_PER_S).round() as i64;
        let window = self.windows.entry(start_ms).or_default();
        window.start_ms = start_ms;
        window
    }

    fn path(&self, place: Place) -> PathBuf {
        self.files.get(usize::from(place.0)).cloned().unwrap_or_default()
    }

    /// What can be judged only when all is read.
    fn judge(&mut self, folder: &Path, meta: &Meta) {
        let mut findings = std::mem::take(&mut self.findings);
        let mut twice = |a: Place, b: Place, what: String| {
            let (a, b) = (a.min(b), a.max(b));
            let first = self.path(a);
            let message = format!("{what} again, as on line {} of {}; keep one of the two", a.1, first.display());
            findings.error(&self.path(b), u64::from(b.1), message);
        };
        let name = |i: u32| self.infos.get(i as usize).map_or("", |n| n.name.as_str());
        let mut empty = Vec::new();
        for window in self.windows.values() {
            let mut nodes = window.nodes.clone();
            nodes.sort_by_key(|n| (n.node, n.place));
            for pair in nodes.windows(2) {
                if let [a, b] = pair
                    && a.node == b.node
                {
                    twice(
                        a.place,
                        b.place,
                        format!("node `{}` in the window from {} s", name(a.node), seconds(window)),
                    );
                }
            }
            let mut links = window.links.clone();
            links.sort_by_key(|l| (l.source, l.destination, l.place));
            for pair in links.windows(2) {
                if let [a, b] = pair
                    && (a.source, a.destination) == (b.source, b.destination)
                {
                    let (from, to) = (name(a.source), name(a.destination));
                    twice(
                        a.place,
                        b.place,
                        format!("link `{from}` to `{to}` in the window from {} s", seconds(window)),
                    );
                }
            }
            if window.links.iter().all(|l| l.calls == 0.0) {
                empty.push((
                    seconds(window),
                    window.nodes.first().map(|n| n.place),
                    window.links.first().map(|l| l.place),
                ));
            }
        }
        for (start, node, link) in empty {
            let place = link.or(node).unwrap_or_default();
            let message = format!("the window from {start} s is empty: no link has a call in it");
            findings.warning(&self.path(place), u64::from(place.1), message);
        }
        let unlisted: Vec<(&str, Place)> = (self.infos.iter().zip(&self.seen))
            .filter_map(|(info, (listed, named))| listed.is_none().then_some((info.name.as_str(), (*named)?)))
            .collect();
        if let Some((first, place)) = unlisted.first() {
            let message = format!(
                "`{first}`{} in links and not in nodes: service, zone and load are unknown, so it is nobody's alternative",
                match unlisted.len() {
                    1 => " is".into(),
                    n => format!(" and {} other nodes are", n - 1),
                }
            );
            findings.warning(&self.path(*place), u64::from(place.1), message);
        }
        for (info, (listed, named)) in self.infos.iter().zip(&self.seen) {
            if let (Some(place), None) = (listed, named) {
                let message = format!("no link names the node `{}`; is its name the same in links?", info.name);
                findings.warning(&self.path(*place), u64::from(place.1), message);
            }
        }
        let step = (meta.window_seconds * STEPS_PER_S).round() as i64;
        let first = self.windows.keys().next().copied().unwrap_or_default();
        let odd = self.windows.keys().find(|start| (*start - first) % step.max(1) != 0);
        if let Some(window) = odd.and_then(|start| self.windows.get(start)) {
            let place =
                window.links.first().map(|l| l.place).or(window.nodes.first().map(|n| n.place)).unwrap_or_default();
            let message = format!(
                "the window from {} s does not follow the first by whole windows of {} s; is `window_seconds` right?",
                seconds(window),
                meta.window_seconds
            );
            findings.warning(&self.path(place), u64::from(place.1), message);
        }
        if self.windows.is_empty() && findings.errors.is_empty() {
            findings.error(folder, 0, "holds no window; was anything recorded?");
        }
        self.findings = findings;
    }
}

fn seconds(window: &Window) -> f64 {
    window.start_ms as f64 / STEPS_PER_S
}

/// Puts nodes in the order of their names, and each window's rows in the order of their nodes: whatever order the files
/// had, what is made of them is the same.
fn sorted(infos: Vec<NodeInfo>, mut windows: Vec<Window>) -> (Vec<NodeInfo>, Vec<Window>) {
    let mut order: Vec<(u32, NodeInfo)> = (0u32..).zip(infos).collect();
    order.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    let mut new = vec![0u32; order.len()];
    for (index, (old, _)) in (0u32..).zip(&order) {
        if let Some(slot) = new.get_mut(*old as usize) {
            *slot = index;
        }
    }
    let of = |old: u32| new.get(old as usize).copied().unwrap_or_default();
    for window in &mut windows {
        window.nodes.iter_mut().for_each(|n| n.node = of(n.node));
        window.nodes.sort_by_key(|n| n.node);
        window.links.iter_mut().for_each(|l| (l.source, l.destination) = (of(l.source), of(l.destination)));
        window.links.sort_by_key(|l| (l.source, l.destination));
    }
    (order.into_iter().map(|(_, info)| info).collect(), windows)
}

fn digest(folder: &Path, nodes: &[PathBuf], links: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in [folder.join(META_FILE)].iter().chain(nodes).chain(links) {
        let mut file = fs::File::open(path).map_err(Error::at(path))?;
        std::io::copy(&mut file, &mut hash).map_err(Error::at(path))?;
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
