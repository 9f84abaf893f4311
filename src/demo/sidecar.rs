//! A real sidecar: this same program, run as `pathloom run`, a process of its own with its own configuration.
//!
//! It lives as long as the value that stands for it: it is killed when that is dropped, and its configuration removed. Should
//! this process be killed, which drops nothing, the kernel kills its sidecars (`--parent`).
//! Its last words are kept, so that one that does not start, or dies, can say why.

use super::client::Client;
use super::fleet::{Fleet, policy_key};
use super::watch;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long a sidecar may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(15);
/// How long its model may take until it steers.
const MODEL_WITHIN: Duration = Duration::from_secs(5);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How many of its last lines are kept.
const LAST_LINES: usize = 12;
/// The longest line that is kept, in bytes.
const MAX_LINE: usize = 400;
/// How long to wait for the last words of one that has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why there is no sidecar.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// It could not even be started.
    #[error("the sidecar of the {arm} arm could not be started: {source}")]
    Start {
        /// Which arm's.
        arm: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("the sidecar of the {arm} arm ended by itself ({status}); its last words:\n{words}")]
    Ended {
        /// Which arm's.
        arm: &'static str,
        /// How.
        status: ExitStatus,
        /// The last lines it wrote.
        words: String,
    },
    /// It runs, and does not become ready.
    #[error("the sidecar of the {arm} arm was not ready within {} seconds ({state}); its last words:\n{words}", READY_WITHIN.as_secs())]
    NotReady {
        /// Which arm's.
        arm: &'static str,
        /// What its admin port said last.
        state: String,
        /// The last lines it wrote.
        words: String,
    },
}

impl SidecarError {
    /// Whether another process had taken one of its ports, so that others are worth a try.
    #[must_use]
    pub fn port_was_taken(&self) -> bool {
        matches!(self, Self::Ended { words, .. } if words.to_lowercase().contains("in use"))
    }
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    arm: &'static str,
    /// Its admin port.
    pub admin: SocketAddr,
    child: Child,
    words: LastWords,
}

impl Sidecar {
    /// Starts an arm's sidecar. `program` is what to run, `directory` is where its configuration goes.
    ///
    /// # Errors
    /// When the configuration cannot be written or the program not be run.
    pub fn start(fleet: &Fleet, program: &Path, directory: &Path) -> Result<Self, SidecarError> {
        let arm = policy_key(fleet.policy);
        let failed = |source| SidecarError::Start { arm, source };
        let file = directory.join(format!("{arm}.yaml"));
        std::fs::write(&file, fleet.sidecar_config()).map_err(failed)?;
        let mut child = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(&file)
            // Even a demo that is killed leaves no sidecar behind.
            .arg("--parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let words = LastWords::default();
        words.follow(child.stdout.take());
        words.follow(child.stderr.take());
        Ok(Self { arm, admin: fleet.sidecar.admin, child, words })
    }

    /// Waits until it is ready to serve.
    ///
    /// # Errors
    /// When it ends before, or is not ready in time.
    pub async fn ready(&mut self) -> Result<(), SidecarError> {
        let (begun, admin) = (Instant::now(), Client::new(self.admin));
        let mut state = String::from("its admin port did not answer");
        while begun.elapsed() < READY_WITHIN {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.ended(status).await);
            }
            if let Ok(Ok(answer)) = tokio::time::timeout(READY_WITHIN, admin.get("localhost", "/ready")).await {
                if answer.status.is_success() {
                    return Ok(());
                }
                state = String::from_utf8_lossy(&answer.body).trim().replace('\n', "; ");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Err(SidecarError::NotReady { arm: self.arm, state, words: self.words.text() })
    }

    /// Waits until the model's scores steer: it is loaded beside the first requests, and the story is not about that.
    /// One without a model tells the story all the same, after a while.
    pub async fn steers(&self) {
        let (begun, admin) = (Instant::now(), Client::new(self.admin));
        while begun.elapsed() < MODEL_WITHIN && watch::ask(&admin).await.is_none_or(|view| view.rung != "model") {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits for its end, which is never wanted.
    pub async fn watch(&mut self) -> SidecarError {
        match self.child.wait().await {
            Ok(status) => self.ended(status).await,
            Err(source) => SidecarError::Start { arm: self.arm, source },
        }
    }

    /// Ends it. There is nothing to drain: the load has ended before.
    pub async fn stop(mut self) {
        // Where that fails it has ended already.
        drop(self.child.kill().await);
    }

    async fn ended(&self, status: ExitStatus) -> SidecarError {
        tokio::time::sleep(LAST_WORDS).await;
        SidecarError::Ended { arm: self.arm, status, words: self.words.text() }
    }
}

/// The last lines that a process wrote.
#[derive(Debug, Clone, Default)]
struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    /// Reads on until the other side closes.
    fn follow(&self, from: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let (Some(from), words) = (from, self.clone()) else { return };
        tokio::spawn(async move {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
                words.add(&line);
                line.clear();
            }
        });
    }

    fn add(&self, line: &[u8]) {
        let line = line.get(..MAX_LINE).unwrap_or(line);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        if lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "  (none)".into();
        }
        lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// A directory of our own that goes when this goes.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one among the temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let name = format!("pathloom-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Whatever stays, stays among the temporary files.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use std::os::unix::fs::PermissionsExt;

    /// A program that is no sidecar.
    fn program(directory: &Directory, script: &str) -> PathBuf {
        let path = directory.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn one_that_ends_before_it_is_ready_says_why() {
        let (directory, fleet) = (Directory::new().unwrap(), Fleet::start(Policy::Model, 1).unwrap());
        let program = program(&directory, "echo \"bad $1 $2\" >&2; echo 'Address already in use' >&2; exit 3");
        let mut sidecar = Sidecar::start(&fleet, &program, directory.path()).unwrap();
        let error = sidecar.ready().await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("model arm") && text.contains("exit status: 3") && text.contains("bad run --config"),
            "{text}"
        );
        assert!(error.port_was_taken());
    }

    #[tokio::test]
    async fn the_configuration_goes_with_the_directory_and_the_process_with_its_value() {
        let (directory, fleet) = (Directory::new().unwrap(), Fleet::start(Policy::RoundRobin, 1).unwrap());
        let program = program(&directory, "exec sleep 60");
        let sidecar = Sidecar::start(&fleet, &program, directory.path()).unwrap();
        let pid = sidecar.child.id().unwrap();
        let path = directory.path().to_owned();
        assert!(path.join("round_robin.yaml").exists());
        sidecar.stop().await;
        drop(directory);
        assert!(!path.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let words = LastWords::default();
        (0..100).for_each(|i| words.add(format!("line {i}\n").as_bytes()));
        assert!(words.text().ends_with("  line 99") && words.text().lines().count() == LAST_LINES);
    }
}
