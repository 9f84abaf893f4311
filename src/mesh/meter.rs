//! The budget of bytes that a node may send in a second.
//!
//! A bucket that fills by the budget each second and holds one second's worth. Who is there comes first, for without it
//! nobody is told anything, but it gets no more than half: the other half is for reports.

use std::time::Instant;

/// The share of the budget that gossip may take.
const GOSSIP_SHARE: f64 = 0.5;

/// What may be sent.
#[derive(Debug)]
pub struct Meter {
    bytes_per_second: f64,
    left: f64,
    left_for_gossip: f64,
    at: Instant,
}

impl Meter {
    /// A full bucket.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        let bytes_per_second = bytes_per_second as f64;
        Self { bytes_per_second, left: bytes_per_second, left_for_gossip: bytes_per_second * GOSSIP_SHARE, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now.max(self.at);
        let filled = |left: f64, rate: f64| (left + elapsed_s * rate).min(rate);
        self.left = filled(self.left, self.bytes_per_second);
        self.left_for_gossip = filled(self.left_for_gossip, self.bytes_per_second * GOSSIP_SHARE);
    }

    /// How many bytes of reports may be sent now.
    pub fn left(&mut self, now: Instant) -> usize {
        self.fill(now);
        self.left.max(0.0) as usize
    }

    /// Takes so many bytes of reports; false where there is no room for them, and then none are taken.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        self.fill(now);
        let fits = bytes as f64 <= self.left;
        if fits {
            self.left -= bytes as f64;
        }
        fits
    }

    /// Likewise of gossip.
    pub fn take_for_gossip(&mut self, bytes: usize, now: Instant) -> bool {
        self.fill(now);
        let fits = bytes as f64 <= self.left_for_gossip && bytes as f64 <= self.left;
        if fits {
            self.left -= bytes as f64;
            self.left_for_gossip -= bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_second_sees_more_than_the_budget_and_gossip_leaves_room_for_reports() {
        let start = Instant::now();
        let mut meter = Meter::new(1_000, start);
        assert!(meter.take_for_gossip(500, start) && !meter.take_for_gossip(1, start));
        assert!(meter.take(500, start) && !meter.take(1, start));
        let half = start + Duration::from_millis(500);
        assert_eq!(meter.left(half), 500);
        assert!(meter.take(500, half) && !meter.take_for_gossip(100, half), "the whole budget is one");
        let mut sent = 0;
        for tick in 0..100u32 {
            let now = half + Duration::from_millis(100) * tick;
            while meter.take(37, now) {
                sent += 37;
            }
        }
        assert!((9_000..=10_000).contains(&sent), "{sent} in ten seconds");
        assert_eq!(meter.left(half + Duration::from_secs(3_600)), 1_000, "nothing is saved up");
        assert!(meter.left(start) <= 1_000, "a clock that jumps back fills nothing");
    }
}
