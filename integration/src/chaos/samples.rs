//! What the sidecars' processes need, once a second: memory, descriptors, threads.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a process has at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, from the load's beginning.
    pub at: Duration,
    /// Resident memory that is its own, in bytes; pages of files left out, which others share.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// A process's life.
#[derive(Debug, Clone)]
pub struct Life {
    /// Whose.
    pub name: &'static str,
    /// Its process.
    pub process: u32,
    /// Whether it has ended.
    pub ended: bool,
    /// What it had.
    pub samples: Vec<Sample>,
}

/// All processes' lives.
#[derive(Debug)]
pub struct Samples {
    begun: Instant,
    lives: Mutex<Vec<Life>>,
}

impl Samples {
    /// None yet; moments count from `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Self {
        Self { begun, lives: Mutex::default() }
    }

    /// A process begins.
    pub fn begins(&self, name: &'static str, process: u32) {
        self.lives.lock().unwrap().push(Life { name, process, ended: false, samples: Vec::new() });
    }

    /// It has ended.
    pub fn ends(&self, process: u32) {
        self.lives.lock().unwrap().iter_mut().filter(|l| l.process == process).for_each(|l| l.ended = true);
    }

    /// Looks at all that live.
    pub fn take(&self) {
        let at = self.begun.elapsed();
        for life in self.lives.lock().unwrap().iter_mut().filter(|l| !l.ended) {
            life.samples.extend(sample(at, life.process));
        }
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> Vec<Life> {
        self.lives.lock().unwrap().clone()
    }
}

fn sample(at: Duration, process: u32) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let number = |key: &str| -> Option<u64> {
        status.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
    };
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
    Some(Sample { at, memory: number("RssAnon:")? * 1024, descriptors, threads: number("Threads:")? })
}
