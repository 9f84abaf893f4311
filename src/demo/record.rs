//! What became of every request of one arm, and the figures that are made of it.
//!
//! A story is a few thousand requests, so all of them are kept and percentiles are exact (the nearest rank), without a
//! sketch's error. Latency counts from the moment at which a request was due, not from when it was sent: a stall of the
//! sender counts against whoever caused it (no coordinated omission). A request belongs to the moment at which it was
//! due. Failures are counted, and not timed.

use std::sync::{Mutex, PoisonError};

/// How many catalog replicas there are.
pub const CATALOGS: usize = 4;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it was due, in seconds since the story's start.
    pub due_s: f64,
    /// How long after that it was sent: this program's own lateness, a part of the latency.
    pub late_ms: f64,
    /// How long after it was due its answer was there, or its failure.
    pub latency_ms: f64,
    /// Which catalog replica answered, counted from zero; none when it failed.
    pub replica: Option<usize>,
}

impl Sample {
    /// Whether it was answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.replica.is_some()
    }

    /// When its answer or failure was there, in seconds since the story's start.
    #[must_use]
    pub fn done_s(&self) -> f64 {
        self.due_s + self.latency_ms / 1e3
    }
}

/// Figures of a stretch of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// Requests that were due in it.
    pub requests: usize,
    /// Of those, the ones that failed.
    pub failed: usize,
    /// The median latency of the answered, in ms.
    pub p50_ms: Option<f64>,
    /// Their 99th percentile, in ms.
    pub p99_ms: Option<f64>,
    /// The 99th percentile of how late this program itself sent them, in ms.
    pub late_p99_ms: Option<f64>,
    /// Each catalog replica's share of the answered; empty when there was none.
    pub shares: Vec<f64>,
}

impl Figures {
    /// The figures of these requests.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        let mut latencies: Vec<f64> = samples.iter().filter(|s| s.answered()).map(|s| s.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let mut late: Vec<f64> = samples.iter().map(|s| s.late_ms).collect();
        late.sort_by(f64::total_cmp);
        let answered = latencies.len();
        let count = |replica| samples.iter().filter(|s| s.replica == Some(replica)).count();
        let shares = (0..CATALOGS).map(|r| count(r) as f64 / answered as f64).collect();
        Self {
            requests: samples.len(),
            failed: samples.len() - answered,
            p50_ms: percentile(&latencies, 50),
            p99_ms: percentile(&latencies, 99),
            late_p99_ms: percentile(&late, 99),
            shares: if answered == 0 { Vec::new() } else { shares },
        }
    }

    /// The share that these replicas had together; none when nothing was answered.
    #[must_use]
    pub fn share_of(&self, replicas: &[usize]) -> Option<f64> {
        let of = |r: &usize| self.shares.get(*r).copied();
        (!self.shares.is_empty()).then(|| replicas.iter().filter_map(of).sum())
    }
}

/// The value that `percent` percent of the values do not exceed, by the nearest rank. `sorted` rises.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Where the load writes and everybody reads.
#[derive(Debug, Default)]
pub struct Record(Mutex<Vec<Sample>>);

impl Record {
    /// Adds a request.
    pub fn add(&self, sample: Sample) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    /// The requests that were due from one moment to another, in seconds since the story's start.
    #[must_use]
    pub fn between(&self, from_s: f64, to_s: f64) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|s| from_s <= s.due_s && s.due_s < to_s).copied().collect()
    }

    /// All requests.
    #[must_use]
    pub fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due_s: f64, latency_ms: f64, replica: Option<usize>) -> Sample {
        Sample { due_s, late_ms: 0.0, latency_ms, replica }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99)), (Some(50.0), Some(99.0)));
        assert_eq!((percentile(&[7.0], 99), percentile(&[], 99)), (Some(7.0), None));
        assert_eq!(percentile(&[1.0, 2.0], 0), Some(1.0));
    }

    #[test]
    fn failures_are_counted_and_neither_timed_nor_shared() {
        let samples = [sample(0.0, 10.0, Some(1)), sample(0.1, 30.0, Some(3)), sample(0.2, 9_000.0, None)];
        let figures = Figures::of(&samples);
        assert_eq!((figures.requests, figures.failed, figures.p99_ms), (3, 1, Some(30.0)));
        assert_eq!(figures.shares, [0.0, 0.5, 0.0, 0.5]);
        assert_eq!((figures.share_of(&[1]), figures.share_of(&[2, 3])), (Some(0.5), Some(0.5)));
    }

    #[test]
    fn of_nothing_there_is_no_share_and_no_percentile() {
        let figures = Figures::of(&[]);
        assert_eq!((figures.p50_ms, figures.share_of(&[0]), figures.shares.len()), (None, None, 0));
    }

    #[test]
    fn a_request_belongs_to_the_moment_at_which_it_was_due() {
        let record = Record::default();
        record.add(sample(1.9, 500.0, Some(0)));
        record.add(sample(2.0, 1.0, Some(0)));
        assert_eq!((record.between(1.0, 2.0).len(), record.between(2.0, 3.0).len(), record.all().len()), (1, 1, 2));
    }
}
