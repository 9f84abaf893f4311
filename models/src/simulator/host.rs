//! A machine's processors, shared equally by all that is worked on: egalitarian processor sharing.
//!
//! With n jobs and c cores each job advances at `min(1, c / n)`. All advance alike, so one clock of virtual work does
//! for all: a job that needs w ends when the clock shows `clock at its begin + w`, and a heap of these ends says which is
//! next (Parekh and Gallager's virtual time with equal weights). Each change costs a logarithm of n, and the times are exact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// No event is planned.
const NEVER: u64 = u64::MAX;
/// The least speed, so that a host without any cores ends its work some day.
const LEAST_CORES: f64 = 1e-3;
/// Half a nanosecond: ends are rounded up to whole ones.
const ROUNDING_S: f64 = 0.5e-9;

#[derive(Debug, Clone, Copy)]
struct Job {
    end: f64,
    order: u64,
    visit: u32,
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    /// The earliest end is the greatest: the heap yields it first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.end.total_cmp(&self.end).then(other.order.cmp(&self.order))
    }
}

/// A host's processors and what they work on.
#[derive(Debug, Clone)]
pub struct Processors {
    cores: f64,
    /// Virtual work in seconds.
    clock: f64,
    /// When the clock was right, in nanoseconds.
    at: u64,
    jobs: BinaryHeap<Job>,
    made: u64,
    /// The planned event's time.
    planned: u64,
}

impl Processors {
    /// Idle processors.
    #[must_use]
    pub fn new(cores: f64) -> Self {
        Self { cores: cores.max(LEAST_CORES), clock: 0.0, at: 0, jobs: BinaryHeap::new(), made: 0, planned: NEVER }
    }

    /// How many jobs are being worked on.
    #[must_use]
    pub fn running(&self) -> usize {
        self.jobs.len()
    }

    fn speed(&self) -> f64 {
        (self.cores / self.jobs.len().max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: u64) {
        if self.jobs.is_empty() {
            self.clock = 0.0;
        } else {
            self.clock += (now - self.at) as f64 * 1e-9 * self.speed();
        }
        self.at = now;
    }

    /// Sets how many cores there are from now on.
    pub fn set_cores(&mut self, now: u64, cores: f64) {
        self.advance(now);
        self.cores = cores.max(LEAST_CORES);
    }

    /// Begins a job of this much work in seconds.
    pub fn add(&mut self, now: u64, visit: u32, work_s: f64) {
        self.advance(now);
        self.made += 1;
        self.jobs.push(Job { end: self.clock + work_s, order: self.made, visit });
    }

    /// Takes away the jobs that `leaves` names, with the work that each has left in seconds, in the order of their ends.
    pub fn remove(&mut self, now: u64, leaves: impl Fn(u32) -> bool) -> Vec<(u32, f64)> {
        self.advance(now);
        let mut removed: Vec<Job> = self.jobs.iter().filter(|j| leaves(j.visit)).copied().collect();
        self.jobs.retain(|j| !leaves(j.visit));
        removed.sort_by(|a, b| b.cmp(a));
        removed.into_iter().map(|j| (j.visit, (j.end - self.clock).max(0.0))).collect()
    }

    /// When an event has to be planned that is not planned yet: the next end, if it is earlier than what is planned.
    /// What is planned too early finds nothing done, and plans again.
    #[must_use]
    pub fn plan(&mut self) -> Option<u64> {
        let next = self.jobs.peek()?;
        let wait = ((next.end - self.clock).max(0.0) / self.speed() * 1e9).ceil();
        let at = self.at.saturating_add(wait as u64);
        (at < self.planned).then(|| {
            self.planned = at;
            at
        })
    }

    /// Whether the event of this moment is the planned one; if so, nothing is planned until `ends`.
    pub fn begins(&mut self, now: u64) -> bool {
        if self.planned != now {
            return false;
        }
        self.planned = 0;
        self.advance(now);
        true
    }

    /// The next job that is done, after `begins`.
    pub fn done(&mut self) -> Option<u32> {
        let next = self.jobs.peek()?;
        if next.end > self.clock + ROUNDING_S {
            return None;
        }
        self.jobs.pop().map(|j| j.visit)
    }

    /// All that was done is taken: what comes next may be planned.
    pub fn ends(&mut self) {
        self.planned = NEVER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Plays to the end: what is done, and when in milliseconds.
    fn ends(host: &mut Processors, planned: Option<u64>) -> Vec<(u32, u64)> {
        let mut ends = Vec::new();
        let mut next = planned.or_else(|| host.plan());
        while let Some(at) = next {
            assert!(host.begins(at));
            while let Some(job) = host.done() {
                ends.push((job, at / 1_000_000));
            }
            host.ends();
            next = host.plan();
        }
        ends
    }

    #[test]
    fn two_jobs_on_one_core_share_it_equally() {
        let mut host = Processors::new(1.0);
        host.add(0, 1, 1.0);
        host.add(0, 2, 2.0);
        assert_eq!(ends(&mut host, None), [(1, 2_000), (2, 3_000)]);
    }

    #[test]
    fn as_many_jobs_as_cores_run_at_full_speed() {
        let mut host = Processors::new(2.0);
        host.add(0, 1, 1.0);
        host.add(0, 2, 2.0);
        assert_eq!(ends(&mut host, None), [(1, 1_000), (2, 2_000)]);
    }

    #[test]
    fn who_comes_later_slows_who_is_there() {
        let mut host = Processors::new(1.0);
        host.add(0, 1, 1.0);
        let planned = host.plan();
        host.add(SECOND / 2, 2, 0.25);
        assert_eq!((planned, host.plan()), (Some(SECOND), None), "nothing earlier than what is planned");
        // Half a second of the first is left: both share until the second has its quarter, at 1.0 s; then a quarter is left.
        assert_eq!(ends(&mut host, planned), [(2, 1_000), (1, 1_250)]);
    }

    #[test]
    fn what_is_taken_away_keeps_what_is_left_of_it() {
        let mut host = Processors::new(1.0);
        host.add(0, 1, 1.0);
        host.add(0, 2, 2.0);
        let left = host.remove(SECOND, |visit| visit == 2);
        assert!(left.len() == 1 && (left[0].1 - 1.5).abs() < 1e-9, "{left:?}");
        assert_eq!((host.running(), ends(&mut host, None)), (1, vec![(1, 1_500)]));
    }

    #[test]
    fn fewer_cores_stretch_what_is_left() {
        let mut host = Processors::new(1.0);
        host.add(0, 1, 1.0);
        host.set_cores(SECOND / 2, 0.1);
        assert_eq!(ends(&mut host, None), [(1, 5_500)]);
    }
}
