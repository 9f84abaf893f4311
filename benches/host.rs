//! Where and of what something was measured.

use serde::{Deserialize, Serialize};
use std::process::Command;

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its processor's name.
    pub processor: String,
    /// How many cores this program may use.
    pub cores: usize,
    /// Its memory in billions of bytes.
    pub memory_gb: f64,
    /// Its kernel's release.
    pub kernel: String,
}

/// The first line that a command prints, or nothing.
#[must_use]
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// This machine.
#[must_use]
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gb: (kib * 1024.0 / 1e9).round(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// What is measured: the commit, with `+` when the sources differ from it. Pages and results may: this writes them.
#[must_use]
pub fn commit() -> String {
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]);
    let sources = [":/", ":(exclude,top)*.md", ":(exclude,top)benches/*results.json"];
    let changed =
        first_line("git", &[&["status", "--porcelain", "--untracked-files=no", "--"], sources.as_slice()].concat());
    if changed.is_empty() { commit } else { format!("{commit}+") }
}
