//! The wiring: builds every room from a configuration and hands each what it needs. No logic of its own.
//!
//! Threads of a running sidecar:
//! - the main thread is Pingora's server: signals, the hand-over of sockets, the end;
//! - one thread for each serving core (`proxy`), which does nothing but requests;
//! - one thread named `control` with the slow loop, reloads and the admin port;
//! - one thread named `scorer` that owns the model; writers of the access log and of traces; the file watcher.

mod cli;
mod reload;
mod run;

use clap::Parser;
use std::process::ExitCode;

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    cli::Cli::parse().run()
}

/// Exit code of a configuration that is wrong (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;
/// Exit code of a program that could not start: an address in use, a thread that the system refused.
const EXIT_START: u8 = 69;
