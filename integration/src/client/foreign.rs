//! Programs that others wrote: curl and h2load.

use crate::process::{run, tool};
use std::path::PathBuf;
use std::process::Command;

/// curl, if there is one (see [`tool`] for what happens when there is none).
#[must_use]
pub fn curl() -> Option<Program> {
    tool("curl", "curl").map(Program)
}

/// h2load, if there is one.
#[must_use]
pub fn h2load() -> Option<Program> {
    tool("h2load", "nghttp2-client").map(Program)
}

/// A program on this machine.
#[derive(Debug, Clone)]
pub struct Program(PathBuf);

impl Program {
    /// Runs it to its end: exit code, standard output, standard error. It must not be found hanging by nobody, so it
    /// gets a minute.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&self.0).args(arguments).env("NO_PROXY", "*").env_remove("http_proxy");
        tokio::task::spawn_blocking(move || run(command)).await.expect("it ran")
    }
}
