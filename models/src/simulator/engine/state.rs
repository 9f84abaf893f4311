//! What the engine remembers of visits, servers and routes.

use crate::simulator::balancer::Probe;
use pathloom::links::Outcome;
use pathloom::links::orca::Report;
use std::collections::VecDeque;

/// No index.
pub const NONE: u32 = u32::MAX;

/// Where a visit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nowhere: the slot is free.
    Free,
    /// On its way to its instance.
    Travelling,
    /// Waiting for a worker.
    Queued,
    /// Being worked on.
    Working,
    /// Waiting for its calls.
    Calling,
    /// On its way back.
    Answering,
}

/// How a visit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Well.
    Good,
    /// Never looked at: refused, no connection, or no room in the queue. Safe to try elsewhere.
    Refused,
    /// Failed.
    Failed,
}

impl End {
    /// As the caller's proxy sees it.
    pub fn outcome(self) -> Outcome {
        if self == End::Good { Outcome::Success } else { Outcome::Failure }
    }
}

/// A request at one instance: a call, or what entered there.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Which use of the slot this is.
    pub generation: u32,
    /// The visit that called, and its generation; `NONE` for what entered.
    pub parent: u32,
    pub parent_generation: u32,
    /// The pair of a call, the entry of what entered.
    pub pair_or_entry: u32,
    pub instance: u32,
    pub handler: u32,
    pub dependency: u32,
    pub position: u32,
    /// How many more times the same call is made after this one.
    pub repeats: u32,
    pub phase: Phase,
    pub end: End,
    /// Whether the instance knows of it.
    pub inside: bool,
    pub has_worker: bool,
    /// Whether it is a second try.
    pub retried: bool,
    /// Whether a call of it has failed it.
    pub bad: bool,
    /// The next stage.
    pub stage: u32,
    /// Calls of the present stage that are under way.
    pub open: u32,
    /// Requests at the instance when it came.
    pub met: u32,
    /// Processor time of its work, as the instance counts it.
    pub busy_s: f32,
    pub began: u64,
    pub arrived: u64,
}

/// What an instance did since somebody last asked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Counters {
    /// Requests that arrived.
    pub arrived: u32,
    /// Requests that failed here.
    pub failed: u32,
    /// Work done, in seconds of a core.
    pub busy_s: f64,
    /// Seconds that workers were occupied, also while they waited for calls.
    pub occupied_s: f64,
    /// Requests here now.
    pub in_flight: u32,
    /// Those of them that wait for a worker, now.
    pub queued: u32,
}

/// Totals that only rise; a difference is what happened between.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    pub arrived: u32,
    pub failed: u32,
    pub busy_s: f64,
    pub occupied_s: f64,
}

/// Groups of in-flight counts with a latency each: 0, 1, 2, 3, 4-5, 6-7, 8-11, ...
const GROUPS: usize = 24;
/// The part that a new latency has in its group.
const NEWEST: f32 = 0.25;

/// An instance's state.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub busy: usize,
    pub in_flight: u32,
    pub queue: VecDeque<u32>,
    pub sums: Sums,
    /// What `sums` was when the driver, and when the report last looked.
    pub taken: Sums,
    pub reported: Sums,
    /// When `occupied_s` was right.
    pub occupied_at: u64,
    pub paused: bool,
    /// Whether a pause or its end is planned.
    pub pausing: bool,
    /// Work that a pause holds up: visit and seconds.
    pub held: Vec<(u32, f64)>,
    pub memory: f64,
    /// Whether what a fault makes longer is processor time, as with a slower clock; else it is time that no processor
    /// counts, as with a slow disk. So nobody learns to find gray instances by their processors alone.
    pub burns: bool,
    pub report: Option<Report>,
    pub latencies: Option<Box<[f32; GROUPS]>>,
}

impl Server {
    /// Counts workers' time up to now; before each change of `busy`.
    pub fn occupy(&mut self, now: u64) {
        self.sums.occupied_s += (now - self.occupied_at) as f64 * 1e-9 * self.busy as f64;
        self.occupied_at = now;
    }

    /// Remembers a latency, if anybody probes.
    pub fn learn(&mut self, met: u32, latency_s: f32) {
        if let Some(known) = &mut self.latencies {
            let slot = &mut known[group(met)];
            *slot = if slot.is_nan() { latency_s } else { *slot + NEWEST * (latency_s - *slot) };
        }
    }

    /// Answers a probe: the latency is that of the nearest count with one, 0 when there is none.
    pub fn probe(&mut self) -> Probe {
        let known = self.latencies.get_or_insert_with(|| Box::new([f32::NAN; GROUPS]));
        let middle = group(self.in_flight);
        let near = (0..GROUPS).flat_map(|d| [middle.checked_sub(d), Some(middle + d)]).flatten();
        let latency_s = near.filter_map(|g| known.get(g)).copied().find(|l| !l.is_nan()).unwrap_or(0.0);
        Probe { in_flight: self.in_flight, latency_s }
    }
}

fn group(in_flight: u32) -> usize {
    let group = match in_flight {
        0..=3 => in_flight,
        n => {
            let power = n.ilog2();
            2 * power + ((n >> (power - 1)) & 1)
        }
    };
    (group as usize).min(GROUPS - 1)
}

/// What a proxy remembers of a route besides its balancer.
#[derive(Debug, Clone, Default)]
pub struct RouteState {
    /// What is left for retries.
    pub tokens: f32,
    /// The usable candidates' positions; all without.
    pub usable: Option<Vec<usize>>,
}

/// A probe under way.
#[derive(Debug, Clone, Copy)]
pub struct Probing {
    pub pair: u32,
    pub dependency: u32,
    pub position: u32,
    pub found: Option<Probe>,
}

/// What happened in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events played.
    pub events: u64,
    /// Requests that entered.
    pub entered: u64,
    /// Calls, second tries included.
    pub calls: u64,
    /// Second tries.
    pub retries: u64,
    /// Connections opened.
    pub connections: u64,
    /// Probes sent.
    pub probes: u64,
    /// Requests lost because their instance crashed under them.
    pub lost: u64,
}
