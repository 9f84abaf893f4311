//! Says when something happened to files, whatever replaces them.
//!
//! Directories are watched and not the files, because editors and Kubernetes replace a file instead of writing it: a
//! rename over it, a swap of the `..data` link that leads to it, a deletion and a new file. Where a path is a link,
//! the directories of its targets are watched too. What happened is told once it has settled for [`SETTLE`]; and once
//! in [`POLL`] whoever waits is woken in any case, which is what is left on file systems that report nothing.

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

/// How long a file must have been left alone before it is read.
pub const SETTLE: Duration = Duration::from_millis(100);
/// How long changes may go on before the file is read all the same.
pub const MAX_SETTLE: Duration = Duration::from_secs(1);
/// How often the file's identity is looked at when nothing is reported.
pub const POLL: Duration = Duration::from_secs(2);
/// How many links a path may lead through: what Linux follows.
const MAX_LINKS: usize = 40;

#[derive(Debug, PartialEq, Eq)]
enum Signal {
    /// Something happened in a directory; whether a name that leads to a file was part of it.
    Touched { ours: bool },
    /// Somebody asks for the files to be read.
    Asked,
    /// Nobody wants to know any more.
    Stop,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The files are to be read if their identity is another one.
    Perhaps,
    /// The files are to be read.
    Touched,
    /// The files are to be read, and what is found to be told even if it is nothing new.
    Asked,
    /// Nobody wants to know any more.
    Stop,
}

/// Wakes who waits. Dropping it ends the wait.
#[derive(Debug)]
pub struct Poke(Sender<Signal>);

impl Poke {
    /// Asks for the files to be read now.
    pub fn ask(&self) {
        let _ = self.0.send(Signal::Asked);
    }
}

impl Drop for Poke {
    fn drop(&mut self) {
        let _ = self.0.send(Signal::Stop);
    }
}

/// Waits until something happens to files.
pub struct Touch {
    signals: Receiver<Signal>,
    directories: Directories,
}

impl Touch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> (Poke, Self) {
        let (sender, signals) = channel();
        (Poke(sender.clone()), Self { signals, directories: Directories::new(sender) })
    }

    /// Watches what the paths now lead through. Watches are renewed when that changes, or was lost with its directory.
    pub fn follow<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        self.directories.follow(paths);
    }

    /// Waits until there is a reason to look at the files, and until they have settled.
    #[must_use]
    pub fn wait(&self) -> Woken {
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

    /// Waits a little for a file that is about to be written.
    #[must_use]
    pub fn pause(&self) -> Woken {
        match self.signals.recv_timeout(SETTLE) {
            Ok(Signal::Asked) => Woken::Asked,
            Ok(Signal::Touched { .. }) | Err(RecvTimeoutError::Timeout) => Woken::Touched,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => Woken::Stop,
        }
    }
}

/// What can be told of a file without reading it.
pub type FileMark = Option<(u64, Option<SystemTime>, u64)>;

/// What can be told of the file at a path without reading it.
#[must_use]
pub fn mark_of(path: &Path) -> FileMark {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let node = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let node = 0;
    Some((metadata.len(), metadata.modified().ok(), node))
}

/// The directories in which something can happen to the files, and the names in them that lead to those.
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

    fn follow<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let steps: Vec<PathBuf> = paths.into_iter().flat_map(chain).collect();
        let parents = steps.iter().filter_map(|step| step.parent()).map(directory);
        let directories: HashSet<(PathBuf, u64)> =
            parents.filter_map(|parent| Some((parent.clone(), mark_of(&parent)?.2))).collect();
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
                    tracing::warn!(%error, "a directory of files in use cannot be watched; they are looked at every {every} s");
                }
                self.watched = directories;
                self.names = names;
            }
        }
    }
}

/// What an event means for the files; nothing, where it only says that somebody read something.
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
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_endless_link_does_not_hold_up_the_watch() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(chain(&directory.path().join("a")).len() <= 2 * MAX_LINKS + 1);
    }
}
