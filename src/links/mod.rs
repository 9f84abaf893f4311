//! What happened on each link and node: latency as a mergeable sketch and as an EWMA, jitter by RFC 3550, call
//! frequency, errors, requests in flight, and what the instances report of themselves (ORCA).
//!
//! Requests write and the tick reads. A request holds an `Arc<LinkCell>` and an `Arc<NodeCell>`, resolved when a
//! generation was built, so it never hashes a key; it writes to its own core's shard with plain relaxed stores (each
//! shard has one writer), and only the in-flight count and the local estimate are shared between cores. A tick
//! (`Links::observe`) drains the shards by comparing cumulative counters with what it saw last, so nothing is ever
//! reset under a writer.
//!
//! Unknown is a value of its own: a statistic that nothing was measured for is `None`, never zero. Time is an
//! argument everywhere, so the simulator runs this very code under a simulated clock. What nobody used for a while is
//! evicted. This room knows neither sockets nor models.
//!
//! What other nodes saw on their links (`told`) is handed in from outside, ready to be shown, and stands in what a tick
//! observes beside the own links, which it never overwrites.

mod cell;
mod estimate;
mod history;
mod observation;
pub mod orca;
mod sketch;
mod store;
mod told;
mod windows;

pub use cell::{LinkCell, NodeCell, Outcome, Totals};
pub(crate) use cell::{bump, bump32};
pub use estimate::{Estimate, Fading, LocalEstimate};
pub use history::{BASELINE_S, MEMORY_S};
pub use observation::{LinkObservation, LinkStats, NodeObservation, NodeStats, Observation};
pub(crate) use sketch::{BUCKETS, bucket_of};
pub use sketch::{Counts, Sketch};
pub use store::Links;
pub(crate) use told::MOST_COUNTS;
pub use told::{Account, Brief, Described, NodeAccount, TOLD_FOR, Told, ToldLink, ToldNode};
pub use windows::{WindowLink, Windows};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A moment: nanoseconds since a start that the caller chose (the process's, or the simulation's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time from `earlier` to this moment; zero when the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The seconds from `earlier` to this moment; zero when the clock went backwards.
    #[must_use]
    pub fn seconds_since(self, earlier: Time) -> f32 {
        // Signed numbers become floats in one instruction; what is lost is beyond 292 years.
        self.0.saturating_sub(earlier.0).min(i64::MAX as u64) as i64 as f32 * 1e-9
    }

    /// This moment in whole milliseconds, wrapping after 49 days: the coarse stamp of `LocalEstimate`.
    #[inline]
    pub(crate) fn coarse_ms(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The name of a service instance: its address where it serves, else its workload's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeKey(pub Arc<str>);

impl NodeKey {
    /// A key of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a link: who calls, and who is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkKey {
    /// The calling instance.
    pub source: NodeKey,
    /// The called instance.
    pub destination: NodeKey,
}

impl LinkKey {
    /// The link from `source` to `destination`.
    #[must_use]
    pub fn new(source: &NodeKey, destination: &NodeKey) -> Self {
        Self { source: source.clone(), destination: destination.clone() }
    }
}
