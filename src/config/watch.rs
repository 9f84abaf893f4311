//! Live reload's source: says when the configuration file is another one.
//!
//! A thread of its own waits for the operating system's word that something happened in the file's directory, lets it
//! settle for [`SETTLE`], and reads the file. Directories are watched and not the file, because editors and Kubernetes
//! replace a file instead of writing it: a rename over it, a swap of the `..data` link that leads to it, a deletion and
//! a new file. Where the path is a link, the directories of its targets are watched too. Once in [`POLL`] the file's
//! identity is looked at in any case, which is what is left on file systems that report nothing.
//!
//! Same bytes, no event; [`Watcher::trigger`] gives an event in any case. A file that is gone or empty may be about to
//! be written: it is given [`GRACE`] before it counts as an error. An event that nobody takes holds up this thread and
//! nothing else; what happens meanwhile becomes one event. The thread ends when the watcher or the receiver is dropped.

use super::diagnostic::Errors;
use super::load::{Loaded, digest, load_bytes, read_file, unreadable};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

/// How long a file must have been left alone before it is read.
pub const SETTLE: Duration = Duration::from_millis(100);
/// How long changes may go on before the file is read all the same.
pub const MAX_SETTLE: Duration = Duration::from_secs(1);
/// How long a file may be gone or empty before that is an error.
pub const GRACE: Duration = Duration::from_secs(1);
/// How often the file's identity is looked at when nothing is reported.
pub const POLL: Duration = Duration::from_secs(2);
/// How many events may wait to be taken.
const WAITING: usize = 4;
/// How many links a path may lead through: what Linux follows.
const MAX_LINKS: usize = 40;

/// The file as it is now: a configuration that may take effect, or why it may not.
pub type Reload = Result<Loaded, Errors>;

/// Watches one file. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    signals: Sender<Signal>,
}

#[derive(Debug, PartialEq, Eq)]
enum Signal {
    /// Something happened in a directory; whether a name that leads to the file was part of it.
    Touched { ours: bool },
    /// Somebody asks for an event.
    Asked,
    /// The watcher was dropped.
    Stop,
}

impl Watcher {
    /// Begins to watch `path`. `known_digest` is [`Loaded::text_digest`] of the configuration in use: a file that
    /// changed since it was loaded gives an event at once.
    ///
    /// # Errors
    /// That no thread could be started.
    pub fn start(
        path: impl Into<PathBuf>,
        known_digest: &str,
    ) -> io::Result<(Self, tokio::sync::mpsc::Receiver<Reload>)> {
        let (signals, received) = channel();
        let (events, receiver) = tokio::sync::mpsc::channel(WAITING);
        let watch = Watch {
            path: path.into(),
            seen: known_digest.to_owned(),
            identity: None,
            directories: Directories::new(signals.clone()),
            signals: received,
            stopped: false,
            events,
        };
        std::thread::Builder::new().name("config-watch".to_owned()).spawn(move || watch.run())?;
        Ok((Self { signals }, receiver))
    }

    /// Reads the file now, and gives an event whether it changed or not.
    pub fn trigger(&self) {
        let _ = self.signals.send(Signal::Asked);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Stop);
    }
}

/// What can be told of a file without reading it.
type Identity = Option<(u64, Option<SystemTime>, u64)>;

struct Watch {
    path: PathBuf,
    /// The digest of what was last read, or why it could not be read.
    seen: String,
    identity: Identity,
    directories: Directories,
    signals: Receiver<Signal>,
    /// Set when the watcher was dropped while a reading waited.
    stopped: bool,
    events: tokio::sync::mpsc::Sender<Reload>,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// The file is to be read if its identity is another one.
    Perhaps,
    /// The file is to be read.
    Touched,
    /// The file is to be read, and an event to be given.
    Asked,
    Stop,
}

impl Watch {
    fn run(mut self) {
        let mut woken = Woken::Touched;
        while woken != Woken::Stop && !self.stopped && !self.events.is_closed() {
            self.directories.follow(&self.path);
            let identity = identity(&self.path);
            if woken != Woken::Perhaps || identity != self.identity {
                self.identity = identity;
                let asked = woken == Woken::Asked;
                if let Some(event) = self.read(asked)
                    && self.events.blocking_send(event).is_err()
                {
                    return;
                }
            }
            woken = self.wait();
        }
    }

    /// Waits until there is a reason to look at the file, and until it has settled.
    fn wait(&self) -> Woken {
        let mut woken = match self.signals.recv_timeout(POLL) {
            Ok(Signal::Touched { ours: true }) => Woken::Touched,
            Ok(Signal::Touched { ours: false }) | Err(RecvTimeoutError::Timeout) => Woken::Perhaps,
            Ok(Signal::Asked) => return Woken::Asked,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Woken::Stop,
        };
        let since = Instant::now();
        while since.elapsed() < MAX_SETTLE {
            match self.signals.recv_timeout(SETTLE) {
                Ok(Signal::Touched { ours: true }) => woken = Woken::Touched,
                // Others' files in the same directory do not hold up ours.
                Ok(Signal::Touched { ours: false }) if woken == Woken::Perhaps => return woken,
                Ok(Signal::Touched { ours: false }) => {}
                Ok(Signal::Asked) => return Woken::Asked,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Woken::Stop,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        woken
    }

    /// Reads the file; nothing when it is the same and nobody asked.
    fn read(&mut self, mut asked: bool) -> Option<Reload> {
        let since = Instant::now();
        let outcome = loop {
            let outcome = read_file(&self.path);
            let unfinished = match &outcome {
                Ok(bytes) => bytes.is_empty(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            // Half of a replacement; nothing has to be waited for when the file was like this before.
            if !unfinished || asked || self.seen == mark(&outcome) || since.elapsed() >= GRACE {
                break outcome;
            }
            match self.signals.recv_timeout(SETTLE) {
                Ok(Signal::Asked) => asked = true,
                Ok(Signal::Touched { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopped = true;
                    return None;
                }
            }
        };
        let now = mark(&outcome);
        if now == self.seen && !asked {
            return None;
        }
        self.seen = now;
        let name = self.path.display().to_string();
        Some(match outcome {
            Ok(bytes) => load_bytes(&bytes, &name),
            Err(error) => Err(unreadable(&name, &error)),
        })
    }
}

/// What tells one reading of the file from another.
fn mark(outcome: &io::Result<Vec<u8>>) -> String {
    match outcome {
        Ok(bytes) => digest(bytes),
        Err(error) => error.kind().to_string(),
    }
}

fn identity(path: &Path) -> Identity {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let node = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let node = 0;
    Some((metadata.len(), metadata.modified().ok(), node))
}

/// The directories in which something can happen to the file, and the names in them that lead to it.
struct Directories {
    watcher: Option<RecommendedWatcher>,
    signals: Sender<Signal>,
    /// Each with its inode: a directory that was replaced is another one.
    watched: HashSet<(PathBuf, u64)>,
    names: HashSet<OsString>,
}

impl Directories {
    fn new(signals: Sender<Signal>) -> Self {
        Self { watcher: None, signals, watched: HashSet::new(), names: HashSet::new() }
    }

    /// Watches what `path` now leads through. Watches are renewed when that changes, or was lost with its directory.
    fn follow(&mut self, path: &Path) {
        let steps = chain(path);
        let parents = steps.iter().filter_map(|step| step.parent()).map(directory);
        let directories: HashSet<(PathBuf, u64)> =
            parents.filter_map(|parent| Some((parent.clone(), identity(&parent)?.2))).collect();
        let names: HashSet<OsString> = steps.iter().filter_map(|step| step.file_name()).map(OsString::from).collect();
        if directories == self.watched && names == self.names && self.watcher.is_some() {
            return;
        }
        let (signals, ours) = (self.signals.clone(), names.clone());
        let report = move |event: notify::Result<notify::Event>| {
            if let Some(signal) = signal(event, &ours) {
                let _ = signals.send(signal);
            }
        };
        let watcher = notify::recommended_watcher(report).and_then(|mut watcher| {
            for (directory, _) in &directories {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = directories;
                self.names = names;
                // What happened between the reading and the watching.
                let _ = self.signals.send(Signal::Touched { ours: true });
            }
            Err(error) => {
                if self.watcher.take().is_some() || self.watched.is_empty() {
                    let every = POLL.as_secs();
                    tracing::warn!(%error, "the configuration's directory cannot be watched; the file is looked at every {every} s");
                }
                self.watched = directories;
                self.names = names;
            }
        }
    }
}

/// What an event means for the file; nothing, where it only says that somebody read something.
fn signal(event: notify::Result<notify::Event>, ours: &HashSet<OsString>) -> Option<Signal> {
    let Ok(event) = event else {
        return Some(Signal::Touched { ours: true });
    };
    if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
        return None;
    }
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| ours.contains(name));
    Some(Signal::Touched { ours: event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(named) })
}

/// A parent that can be opened: that of a bare file name is the current directory.
fn directory(parent: &Path) -> PathBuf {
    if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
}

/// The path, and every link's target that it leads through: `proxy.yaml`, `..data`, `..2026_01/proxy.yaml`.
fn chain(path: &Path) -> Vec<PathBuf> {
    let mut steps = vec![path.to_owned()];
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        // A link may stand anywhere in the path, as `..data` does.
        let link = at.ancestors().find_map(|prefix| Some((prefix, std::fs::read_link(prefix).ok()?)));
        let Some((prefix, target)) = link else {
            break;
        };
        let mut target = directory(prefix.parent().unwrap_or(Path::new(""))).join(target);
        if let Some(rest) = at.strip_prefix(prefix).ok().filter(|rest| !rest.as_os_str().is_empty()) {
            target.push(rest);
        }
        steps.push(prefix.to_owned());
        steps.push(target.clone());
        at = target;
    }
    steps
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
