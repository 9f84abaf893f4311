//! The budget of bytes that a node may send in a second.
//!
//! Whichever second is looked at, no more than the budget is sent in it: what was sent counts for a second, to the moment.
//! (A bucket that fills by the budget each second would let twice as much through after a pause.) Who is there comes first, for
//! without it nobody is told anything, but it gets no more than half: the other half is for reports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The share of the budget that gossip may take.
const GOSSIP_SHARE: f64 = 0.5;
/// How long what was sent counts.
const SECOND: Duration = Duration::from_secs(1);
/// What is sent within this time of each other counts as sent at its end: so there are few moments to remember.
const MOMENT: Duration = Duration::from_millis(10);

/// What may be sent.
#[derive(Debug)]
pub struct Meter {
    all: Window,
    gossip: Window,
}

/// What was sent within the last second.
#[derive(Debug)]
struct Window {
    budget: usize,
    sent: usize,
    moments: VecDeque<Moment>,
}

#[derive(Debug)]
struct Moment {
    from: Instant,
    to: Instant,
    bytes: usize,
}

impl Window {
    fn new(budget: f64) -> Self {
        Self { budget: budget as usize, sent: 0, moments: VecDeque::new() }
    }

    fn left(&mut self, now: Instant) -> usize {
        while let Some(past) = self.moments.pop_front_if(|moment| now.saturating_duration_since(moment.to) >= SECOND) {
            self.sent -= past.bytes;
        }
        self.budget.saturating_sub(self.sent)
    }

    fn add(&mut self, bytes: usize, now: Instant) {
        self.sent += bytes;
        match self.moments.back_mut() {
            Some(last) if now.saturating_duration_since(last.from) < MOMENT => {
                (last.to, last.bytes) = (last.to.max(now), last.bytes + bytes);
            }
            _ => self.moments.push_back(Moment { from: now, to: now, bytes }),
        }
    }
}

impl Meter {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let budget = bytes_per_second as f64;
        Self { all: Window::new(budget), gossip: Window::new(budget * GOSSIP_SHARE) }
    }

    /// How many bytes of reports should be sent now at most: half of a second's, since they are made twice a second and
    /// what changes next must not wait for what changed last.
    pub fn left(&mut self, now: Instant) -> usize {
        self.all.left(now).min(self.all.budget.div_ceil(2))
    }

    /// Takes so many bytes of reports; false where there is no room for them, and then none are taken.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let fits = bytes <= self.all.left(now);
        if fits {
            self.all.add(bytes, now);
        }
        fits
    }

    /// Likewise of gossip.
    pub fn take_for_gossip(&mut self, bytes: usize, now: Instant) -> bool {
        let fits = bytes <= self.gossip.left(now) && self.take(bytes, now);
        if fits {
            self.gossip.add(bytes, now);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_no_second_more_is_sent_than_the_budget_nor_more_gossip_than_half_of_it(
            budget in 1u64..100_000,
            asked in prop::collection::vec((0u64..700_000, 0usize..40_000, any::<bool>()), 1..200),
        ) {
            let (mut meter, start) = (Meter::new(budget), Instant::now());
            let (mut now, mut sent) = (start, Vec::new());
            for (pause_us, bytes, gossip) in asked {
                now += Duration::from_micros(pause_us);
                let left = meter.left(now);
                prop_assert!(left as u64 <= budget.div_ceil(2));
                let fits = if gossip { meter.take_for_gossip(bytes, now) } else { meter.take(bytes, now) };
                prop_assert!(fits || gossip || bytes > left, "{bytes} are refused and {left} left");
                if fits {
                    sent.push((now, bytes, gossip));
                }
            }
            for (from, ..) in &sent {
                let within = |at: &Instant| at >= from && at.duration_since(*from) < SECOND;
                let sum = |only_gossip: bool| -> usize {
                    sent.iter().filter(|(at, _, gossip)| within(at) && (*gossip || !only_gossip)).map(|s| s.1).sum()
                };
                prop_assert!(sum(false) as u64 <= budget && sum(true) as u64 <= budget / 2);
            }
        }
    }

    #[test]
    fn the_whole_budget_can_be_had_each_second_and_nothing_is_saved_up() {
        let start = Instant::now();
        let mut meter = Meter::new(1_000);
        assert!(meter.take_for_gossip(500, start) && !meter.take_for_gossip(1, start));
        assert!(meter.take(500, start) && !meter.take(1, start));
        assert_eq!(meter.left(start + Duration::from_millis(999)), 0);
        let mut sent = 0;
        for tick in 0..100u32 {
            let now = start + SECOND + Duration::from_millis(100) * tick;
            while meter.take(20, now) {
                sent += 20;
            }
        }
        assert_eq!(sent, 10_000, "in ten seconds");
        assert_eq!(meter.left(start + Duration::from_secs(3_600)), 500);
        assert!(meter.left(start) <= 1_000, "a clock that jumps back fills nothing");
    }
}
