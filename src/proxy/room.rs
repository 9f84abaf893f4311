//! Room for those who ask, when file descriptors run out.
//!
//! Every connection takes a descriptor, a client's as an endpoint's, and clients that hold connections and ask for nothing
//! must not take the last ones: neither new clients nor requests on their way to an endpoint would get any. The kernel gives
//! out the lowest number that is free, so the number of a connection just accepted says how many are taken. Where it lies
//! above the mark, or a descriptor was refused,
//!
//! - accepting rests for a moment after each connection (`core`), so that what is left is for endpoints,
//! - client connections without a request that were idle for [`SPARED`] or longer are closed, as in a drain (`conn`),
//! - a connection to an endpoint that got no descriptor is tried once more without the pool's idle ones (`upstream`).
//!
//! That lasts until it was not seen for [`LASTS`]. All threads share the process's descriptors, so they share the word.

use super::clock::Clock;
use crate::links::Time;
use rustix::process::{Resource, getrlimit};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A client's connection that was idle for less is left alone.
pub(super) const SPARED: Duration = Duration::from_secs(1);
/// For how long connections give way after descriptors were last seen to be scarce.
const LASTS: Duration = Duration::from_secs(2);
/// How many descriptors are kept for endpoints: this share of all, within these bounds.
const KEPT: u64 = 8;
const KEPT_BOUNDS: (u64, u64) = (16, 1024);

/// Whether descriptors are scarce, for all threads.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Until when, as nanoseconds of the process's clock; 0 when they are not.
    until: AtomicU64,
    /// From which number on.
    mark: u64,
}

impl Room {
    /// By the process's limit.
    pub(super) fn new() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Self {
        let kept = (limit / KEPT).clamp(KEPT_BOUNDS.0, KEPT_BOUNDS.1);
        Self { until: AtomicU64::new(0), mark: limit.saturating_sub(kept) }
    }

    /// Whether a descriptor of this number is one of the last.
    pub(super) fn is_last(&self, descriptor: RawFd) -> bool {
        u64::try_from(descriptor).is_ok_and(|number| number >= self.mark)
    }

    /// Descriptors are scarce now; says whether that is news.
    pub(super) fn scarce(&self, now: Time) -> bool {
        self.until.swap((now + LASTS).0, Relaxed) <= now.0
    }

    /// Whether they are. Asked by every connection between two requests, hence cheap while they are not.
    #[inline]
    pub(super) fn is_scarce(&self, clock: Clock) -> bool {
        self.until.load(Relaxed) != 0 && self.lasts(clock.now())
    }

    #[cold]
    fn lasts(&self, now: Time) -> bool {
        let until = self.until.load(Relaxed);
        if now.0 < until {
            return true;
        }
        // Who sets it anew meanwhile wins.
        let _ = self.until.compare_exchange(until, 0, Relaxed, Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_eighth_is_kept_within_bounds() {
        for (limit, mark) in [(400, 350), (64, 48), (20_000, 18_976), (1 << 20, (1 << 20) - 1024), (8, 0)] {
            let room = Room::of(limit);
            assert!(room.is_last(mark) && (mark == 0 || !room.is_last(mark - 1)), "{limit}");
        }
        assert!(!Room::of(u64::MAX).is_last(RawFd::MAX));
    }

    #[test]
    fn it_is_news_once_and_over_after_a_while() {
        let (room, clock) = (Room::of(400), Clock::start());
        assert!(!room.is_scarce(clock));
        let now = clock.now();
        assert!(room.scarce(now) && !room.scarce(now + Duration::from_millis(1)));
        assert!(room.is_scarce(clock));
        assert!(!room.lasts(now + LASTS * 2) && !room.is_scarce(clock));
        assert!(room.scarce(now + LASTS * 2));
    }
}
