//! How many tries a cluster's requests may cost on top: a budget that a storm cannot exceed.
//!
//! Each request earns a part of a try (20% unless said otherwise), each second a few (`MIN_PER_SECOND`), and each try of
//! a request that may have reached an endpoint before costs one. What is earned and not spent is kept for about a second,
//! so that what dies with an endpoint can be tried again at once, and an hour without failures buys no storm.
//!
//! Hedging has one of its own beside: a smaller share, of the requests that could be hedged, and nothing for a second
//! that passes.
//!
//! ```text
//! earned = share x requests + a few x time        (all since the beginning, in thousandths of a try)
//! spent  = max(spent, earned - kept)               (what is too old is as good as spent)
//! granted, when earned - spent >= 1;  spent += 1
//! ```
//! Requests are counted a core apart, each by its one writer, and added up only where a try is asked for; what is spent
//! is one number for all cores, moved by compare-and-swap. So no core can spend what another has spent, and none is
//! refused what others have earned.

use crate::config::Share;
use crate::links::{Time, bump};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tries a second that are allowed however few requests there are.
pub const MIN_PER_SECOND: u64 = 3;
/// A try, in the budget's unit.
const TRY: u64 = 1_000;

/// A core's requests. Aligned so that two cores never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Requests(AtomicU64);

/// A cluster's budget for tries on top.
#[derive(Debug)]
pub struct Budget {
    requests: Box<[Requests]>,
    /// In thousandths of a try.
    spent: AtomicU64,
    /// What a request earns, in thousandths of a try.
    share: AtomicU64,
    /// Tries a second that are earned without a request.
    a_second: u64,
    /// What share changes have earned already, so that another share holds from its moment on, in thousandths.
    before: AtomicU64,
    /// How many requests `before` stands for.
    until: AtomicU64,
    /// What is kept unspent, in thousandths.
    kept: AtomicU64,
    /// Requests at the last look, and when that was.
    seen: AtomicU64,
    seen_at: AtomicU64,
    born: Time,
    granted: AtomicU64,
    refused: AtomicU64,
}

impl Budget {
    /// A budget for a proxy with so many serving threads: this share of the requests, and so many tries `a_second`.
    #[must_use]
    pub fn new(cores: usize, share: Share, a_second: u64, now: Time) -> Self {
        Self {
            requests: (0..cores.max(1)).map(|_| Requests::default()).collect(),
            spent: AtomicU64::new(0),
            share: AtomicU64::new(thousandths(share)),
            a_second,
            before: AtomicU64::new(0),
            until: AtomicU64::new(0),
            kept: AtomicU64::new(least_kept(a_second)),
            seen: AtomicU64::new(0),
            seen_at: AtomicU64::new(now.0),
            born: now,
            granted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts a request.
    #[inline]
    pub fn earn(&self, core: usize) {
        if let Some(requests) = self.requests.get(core) {
            bump(&requests.0, 1);
        }
    }

    fn requests(&self) -> u64 {
        self.requests.iter().fold(0, |sum, r| sum.wrapping_add(r.0.load(Relaxed)))
    }

    /// In thousandths of a try. The first second is earned in advance.
    fn earned(&self, now: Time) -> u64 {
        let by_requests = self.requests().saturating_sub(self.until.load(Relaxed)) * self.share.load(Relaxed);
        let by_time = (now.since(self.born).as_millis() as u64 + 1_000) * self.a_second * TRY / 1_000;
        self.before.load(Relaxed) + by_requests + by_time
    }

    /// Takes one try, if there is one.
    pub fn take(&self, now: Time) -> bool {
        let earned = self.earned(now);
        let floor = earned.saturating_sub(self.kept.load(Relaxed));
        let spend = |spent: u64| {
            let from = spent.max(floor);
            (earned >= from + TRY).then_some(from + TRY)
        };
        let granted = self.spent.fetch_update(Relaxed, Relaxed, spend).is_ok();
        let counter = if granted { &self.granted } else { &self.refused };
        counter.fetch_add(1, Relaxed);
        granted
    }

    /// Looks at how many requests came, for how much may be kept, and at the configuration. The slow loop does, once a
    /// tick.
    pub fn renew(&self, share: Share, now: Time) {
        let share = thousandths(share);
        let requests = self.requests();
        if share != self.share.load(Relaxed) {
            let earned = requests.saturating_sub(self.until.load(Relaxed)) * self.share.load(Relaxed);
            self.before.fetch_add(earned, Relaxed);
            self.until.store(requests, Relaxed);
            self.share.store(share, Relaxed);
        }
        let passed_s = now.since(Time(self.seen_at.load(Relaxed))).as_secs_f64();
        if passed_s >= 0.5 {
            let a_second = requests.saturating_sub(self.seen.load(Relaxed)) as f64 / passed_s;
            let earned = (a_second * share as f64) as u64 + self.a_second * TRY;
            self.kept.store(earned.max(least_kept(self.a_second)), Relaxed);
            self.seen.store(requests, Relaxed);
            self.seen_at.store(now.0, Relaxed);
        }
    }

    /// How many tries were granted, and how many were refused, since the beginning.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.granted.load(Relaxed), self.refused.load(Relaxed))
    }
}

fn thousandths(share: Share) -> u64 {
    (share.0.clamp(0.0, 1.0) * TRY as f64).round() as u64
}

/// What is kept at the least: a second's, and a whole try, or who earns one slowly would never have it.
fn least_kept(a_second: u64) -> u64 {
    (a_second * TRY).max(TRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Retries;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn budget(cores: usize) -> Budget {
        Budget::new(cores, Retries::default().budget, MIN_PER_SECOND, at(0))
    }

    fn granted(budget: &Budget, asked: usize, now: Time) -> usize {
        (0..asked).filter(|_| budget.take(now)).count()
    }

    #[test]
    fn a_storm_costs_a_fifth_of_the_requests_and_three_a_second() {
        let budget = budget(4);
        let mut tries = 0;
        for ms in 0..10_000u64 {
            // 2,000 a second, on all cores; each is tried twice more.
            (0..2).for_each(|i| budget.earn((ms as usize + i) % 4));
            tries += granted(&budget, 4, at(ms));
            if ms % 1_000 == 0 {
                budget.renew(Retries::default().budget, at(ms));
            }
        }
        // The first second's three are there from the beginning.
        assert!((4_025..=4_033).contains(&tries), "{tries}");
    }

    #[test]
    fn three_a_second_are_allowed_without_many_requests_and_idle_hours_buy_no_storm() {
        let budget = budget(1);
        assert_eq!(granted(&budget, 100, at(0)), 3);
        assert_eq!(granted(&budget, 100, at(1_000)), 3);
        budget.renew(Retries::default().budget, at(3_600_000));
        assert_eq!(granted(&budget, 100, at(3_600_000)), 3);
    }

    #[test]
    fn what_dies_with_an_endpoint_is_tried_again_from_what_a_second_earned() {
        let budget = budget(1);
        for second in 1..=10 {
            (0..1_000).for_each(|_| budget.earn(0));
            budget.renew(Retries::default().budget, at(second * 1_000));
        }
        assert_eq!(granted(&budget, 1_000, at(10_000)), 203);
    }

    #[test]
    fn another_share_holds_from_its_moment_on() {
        let budget = budget(1);
        (0..10_000).for_each(|_| budget.earn(0));
        budget.renew(Share(0.0), at(1_000));
        assert_eq!(granted(&budget, 10_000, at(1_000)), 3, "what is kept is what a second earns now");
        budget.renew(Share(1.0), at(2_000));
        let _ = granted(&budget, 10_000, at(2_000));
        (0..10).for_each(|_| budget.earn(0));
        budget.renew(Share(1.0), at(3_000));
        assert_eq!(granted(&budget, 100, at(3_000)), 13, "not the ten thousand of before");
    }

    #[test]
    fn a_share_alone_grants_nothing_for_time_and_a_try_however_slowly_it_is_earned() {
        let budget = Budget::new(1, Share(0.05), 0, at(0));
        let mut tries = 0;
        for second in 0..200u64 {
            budget.renew(Share(0.05), at(second * 1_000));
            tries += granted(&budget, 3, at(second * 1_000));
            budget.earn(0);
        }
        assert_eq!(tries, 9, "5% of the 199 before the last look");
        budget.renew(Share(0.05), at(3_600_000));
        assert_eq!(
            granted(&budget, 3, at(3_600_000)),
            1,
            "an hour has earned nothing, and the last request a whole try"
        );
    }

    #[test]
    fn threads_together_spend_no_more_than_there_is() {
        let budget = budget(8);
        std::thread::scope(|s| {
            for core in 0..8 {
                let budget = &budget;
                s.spawn(move || (0..1_000).for_each(|_| budget.earn(core)));
            }
        });
        budget.renew(Retries::default().budget, at(1_000));
        let all: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(|| granted(&budget, 2_000, at(1_000)))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(all, 1_603);
    }
}
