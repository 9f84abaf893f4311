//! The process's clock: nanoseconds since a base that everything shares, so that a `Time` means the same everywhere.

use crate::links::Time;
use std::time::{Duration, Instant};

/// Reads `Time`. Copies of one clock agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// A clock that starts at zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// The moment.
    #[must_use]
    pub fn now(&self) -> Time {
        // 584 years fit.
        Time(self.base.elapsed().as_nanos() as u64)
    }

    /// The runtime's name for a moment.
    pub(super) fn instant(&self, at: Time) -> tokio::time::Instant {
        // A moment too far away to be named is as good as a year from now.
        let far = Duration::from_secs(31_536_000);
        let base = tokio::time::Instant::from_std(self.base);
        base.checked_add(Duration::from_nanos(at.0)).unwrap_or_else(|| tokio::time::Instant::now() + far)
    }
}
