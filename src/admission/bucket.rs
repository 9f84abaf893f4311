//! A token bucket that all cores share: so many requests a second, and a burst.
//!
//! It is kept as one moment, the *theoretical arrival time* of the generic cell rate algorithm (ITU-T I.371, annex A): when
//! the bucket would be full again. A request moves it on by one interval, if it is then no more than a burst away.
//!
//! At high rates a core takes several tokens at once, at most what a millisecond brings and a quarter of the burst over
//! all cores, so that cores seldom meet at the shared word. The burst is smaller by what cores may hold, so the bound
//! stays strict: over any time never more than `rate x time + burst`. The error is on the other side: up to a quarter of a
//! burst may be refused early, and intervals are rounded up to whole nanoseconds.
//!
//! When the clock goes back the bucket is empty at the new moment, and fills from there: it neither refuses for as long
//! as the clock went back nor grants a second burst.

use crate::links::Time;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

const SECOND_NS: f64 = 1e9;

/// Tokens that a core has taken and not spent. Aligned so that no two cores write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Held(AtomicU32);

/// A token bucket.
#[derive(Debug)]
pub struct Bucket {
    /// What one token takes to come.
    interval_ns: u64,
    /// The size, in the time that it takes to fill.
    burst_ns: u64,
    /// How many tokens a core takes at once.
    batch: u32,
    full_at: AtomicU64,
    held: Box<[Held]>,
    refused: Box<[AtomicU64]>,
}

impl Bucket {
    /// A full bucket of `burst` tokens that gets `per_second` more, shared by `cores`, which counts whom it refuses by
    /// `classes`. A burst below 1 is 1.
    #[must_use]
    pub fn new(per_second: f64, burst: u32, cores: usize, classes: usize) -> Self {
        let cores = cores.max(1);
        let interval_ns = (SECOND_NS / per_second.max(1e-6)).ceil().clamp(1.0, 1e18) as u64;
        let burst = u64::from(burst.max(1));
        let batch = (per_second / 1e3).min((burst / (4 * cores as u64)) as f64).max(1.0) as u32;
        let whole = burst - cores as u64 * u64::from(batch - 1);
        Self {
            interval_ns,
            burst_ns: interval_ns.saturating_mul(whole),
            batch,
            full_at: AtomicU64::new(0),
            held: (0..cores).map(|_| Held::default()).collect(),
            refused: (0..classes.max(1)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes a token. In its place, the nanoseconds until there will be one.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, core: usize, now: Time) -> Result<(), u64> {
        let Some(Held(held)) = self.held.get(core) else { return self.draw(1, now) };
        // Only this core writes here.
        let have = held.load(Relaxed);
        if have > 0 {
            held.store(have - 1, Relaxed);
            return Ok(());
        }
        if self.batch > 1 && self.draw(self.batch, now).is_ok() {
            held.store(self.batch - 1, Relaxed);
            return Ok(());
        }
        self.draw(1, now)
    }

    fn draw(&self, tokens: u32, now: Time) -> Result<(), u64> {
        let cost = self.interval_ns.saturating_mul(u64::from(tokens));
        let latest = now.0.saturating_add(self.burst_ns);
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            // Further away than a burst: the clock went back. Empty as of now.
            let from = full_at.min(latest).max(now.0);
            let next = from.saturating_add(cost);
            if next > latest {
                if full_at > latest {
                    let _ = self.full_at.compare_exchange(full_at, latest, Relaxed, Relaxed);
                }
                return Err(next - latest);
            }
            match self.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => full_at = seen,
            }
        }
    }

    /// Counts a request of a class that got no token.
    pub fn refuse(&self, class: usize) {
        if let Some(counter) = self.refused.get(class) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How many of each class got none.
    #[must_use]
    pub fn refused(&self) -> Vec<u64> {
        self.refused.iter().map(|c| c.load(Relaxed)).collect()
    }
}
