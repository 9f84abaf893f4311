//! Live reload's source: says when the configuration file is another one.
//!
//! A thread of its own waits until something happened to the file ([`Touch`]), and reads it. Every
//! two seconds the file's identity is looked at in any case.
//!
//! Same bytes, no event; [`Watcher::trigger`] gives an event in any case. A file that is gone or empty may be about to
//! be written: it is given [`GRACE`] before it counts as an error. An event that nobody takes holds up this thread and
//! nothing else; what happens meanwhile becomes one event. The thread ends when the watcher or the receiver is dropped.

use super::diagnostic::Errors;
use super::load::{Loaded, digest, load_bytes, read_file, unreadable};
use super::touch::{FileMark, Poke, Touch, Woken, mark_of};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a file may be gone or empty before that is an error.
pub const GRACE: Duration = Duration::from_secs(1);
/// How many events may wait to be taken.
const WAITING: usize = 4;

/// What a file holds now, or everything that is wrong with it.
pub type Reading<T> = Result<T, Errors>;
/// The file as it is now: a configuration that may take effect, or why it may not.
pub type Reload = Reading<Loaded>;
/// How what a file holds is made of its bytes and its name.
type Read<T> = fn(&[u8], &str) -> Reading<T>;

/// Watches one file. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    poke: Poke,
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
        Self::follow(path, known_digest, load_bytes)
    }

    /// Begins to watch `path` for anything that `read` makes of its bytes. A digest that is empty is nobody's, and gives an
    /// event at once.
    ///
    /// # Errors
    /// That no thread could be started.
    pub fn follow<T: Send + 'static>(
        path: impl Into<PathBuf>,
        known_digest: &str,
        read: Read<T>,
    ) -> io::Result<(Self, tokio::sync::mpsc::Receiver<Reading<T>>)> {
        let (poke, touch) = Touch::new();
        let (events, receiver) = tokio::sync::mpsc::channel(WAITING);
        let watch = Watch {
            path: path.into(),
            seen: known_digest.to_owned(),
            identity: None,
            touch,
            stopped: false,
            events,
            read,
        };
        std::thread::Builder::new().name("config-watch".to_owned()).spawn(move || watch.run())?;
        Ok((Self { poke }, receiver))
    }

    /// Reads the file now, and gives an event whether it changed or not.
    pub fn trigger(&self) {
        self.poke.ask();
    }
}

struct Watch<T> {
    path: PathBuf,
    /// The digest of what was last read, or why it could not be read.
    seen: String,
    identity: FileMark,
    touch: Touch,
    /// Set when the watcher was dropped while a reading waited.
    stopped: bool,
    events: tokio::sync::mpsc::Sender<Reading<T>>,
    read: Read<T>,
}

impl<T> Watch<T> {
    fn run(mut self) {
        let mut woken = Woken::Touched;
        while woken != Woken::Stop && !self.stopped && !self.events.is_closed() {
            self.touch.follow([self.path.as_path()]);
            let identity = mark_of(&self.path);
            if woken != Woken::Perhaps || identity != self.identity {
                self.identity = identity;
                let asked = woken == Woken::Asked;
                if let Some(event) = self.read(asked)
                    && self.events.blocking_send(event).is_err()
                {
                    return;
                }
            }
            woken = self.touch.wait();
        }
    }

    /// Reads the file; nothing when it is the same and nobody asked.
    fn read(&mut self, mut asked: bool) -> Option<Reading<T>> {
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
            match self.touch.pause() {
                Woken::Asked => asked = true,
                Woken::Touched | Woken::Perhaps => {}
                Woken::Stop => {
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
            Ok(bytes) => (self.read)(&bytes, &name),
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

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
