//! The wiring: builds every room from a configuration and hands each what it needs. No logic of its own.
//!
//! Threads of a running sidecar:
//! - the main thread is Pingora's server: signals, the end; with `process.handover`, one waits for the next process;
//! - one thread for each serving core (`proxy`), which does nothing but requests;
//! - one thread named `control` with the slow loop, reloads and the admin port;
//! - one thread named `scorer` that owns the model; writers of the access log and of traces; the file watcher.

mod ca;
mod capture;
mod cli;
mod files;
#[cfg(feature = "kubernetes")]
mod follow;
#[cfg(test)]
mod guides_tests;
mod privileges;
#[cfg(test)]
mod readme_tests;
mod reload;
mod run;
mod succession;

use clap::Parser;
use std::process::ExitCode;

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    small_pages();
    cli::Cli::parse().run()
}

/// Keeps memory in pages of 4 KB. Where the kernel backs memory with huge pages, each touch of a 2 MB stretch makes all
/// of it resident: 24 MB instead of 3 for a sidecar that was just started, and there is one of them on every node.
fn small_pages() {
    // The allocator does not ask for huge pages (`no_thp` in Cargo.toml); this is for systems that give them unasked, and
    // for what ONNX Runtime allocates. A kernel that does not know the question has none to give.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Exit code of a configuration that is wrong (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;
/// Exit code of a program that could not start: an address in use, a thread that the system refused.
const EXIT_START: u8 = 69;
