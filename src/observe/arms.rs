//! Counters of the two arms of a trial (`mode: canary`): what became of the requests that the model steered, and of those
//! that another policy did. Kept a core apart like all of a request's counters, and added up by the tick.
//!
//! Only what an arm can be held to counts: a latency is that of a request that was answered well, so that a fast failure
//! never looks fast; a request whose caller left before the answer counts with as long as it had waited, or an arm that
//! hangs would look no worse for it.

use crate::links::{BUCKETS, bucket_of, bump, bump32};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Who steers a request, while the model is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The model.
    Model,
    /// The policy that it is compared with.
    Against,
}

impl Arm {
    /// Both of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Model, Self::Against];

    /// Its name in `/routing` and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Against => "against",
        }
    }
}

/// What became of a request, as its arm is held to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Came {
    /// Its answer began after so many seconds.
    Within(f64),
    /// Its caller left after so many seconds without an answer.
    NotWithin(f64),
    /// It failed.
    Failed,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    requests: AtomicU64,
    failures: AtomicU64,
    latencies: AtomicU64,
    latency_sum_ns: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latencies: AtomicU64::new(0),
            latency_sum_ns: AtomicU64::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

/// What one arm's requests came to, over all cores and since the process began.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ArmSeen {
    /// Requests that it steered and that are over.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those with a latency.
    pub latencies: u64,
    /// All latencies together, in seconds.
    pub latency_sum_s: f64,
    /// Latencies by the sketch's buckets.
    pub buckets: Vec<u32>,
}

/// The counters of both arms for one (workload, cluster).
#[derive(Debug)]
pub struct Arms {
    shards: Box<[[Shard; 2]]>,
}

impl Arms {
    /// Counters for a proxy with so many serving threads.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { shards: (0..cores.max(1)).map(|_| Default::default()).collect() }
    }

    /// Counts a request that is over.
    pub fn came(&self, core: usize, arm: Arm, came: Came) {
        let Some(shard) = self.shards.get(core).and_then(|arms| arms.get(arm as usize)) else { return };
        bump(&shard.requests, 1);
        match came {
            Came::Failed => bump(&shard.failures, 1),
            Came::Within(seconds) | Came::NotWithin(seconds) => {
                bump(&shard.latencies, 1);
                bump(&shard.latency_sum_ns, (seconds.max(0.0) * 1e9) as u64);
                if let Some(bucket) = shard.buckets.get(bucket_of(seconds)) {
                    bump32(bucket);
                }
            }
        }
    }

    /// What one arm's requests came to so far.
    #[must_use]
    pub fn seen(&self, arm: Arm) -> ArmSeen {
        let mut all = ArmSeen { buckets: vec![0; BUCKETS], ..ArmSeen::default() };
        for shard in self.shards.iter().filter_map(|arms| arms.get(arm as usize)) {
            all.requests += shard.requests.load(Relaxed);
            all.failures += shard.failures.load(Relaxed);
            all.latencies += shard.latencies.load(Relaxed);
            all.latency_sum_s += shard.latency_sum_ns.load(Relaxed) as f64 * 1e-9;
            let buckets = all.buckets.iter_mut().zip(&shard.buckets);
            buckets.for_each(|(sum, bucket)| *sum = sum.wrapping_add(bucket.load(Relaxed)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_no_latency_and_who_left_has_the_time_that_it_waited() {
        let arms = Arms::new(2);
        arms.came(0, Arm::Model, Came::Within(0.010));
        arms.came(1, Arm::Model, Came::NotWithin(0.030));
        arms.came(1, Arm::Model, Came::Failed);
        arms.came(1, Arm::Against, Came::Within(1.0));
        arms.came(7, Arm::Against, Came::Within(1.0));
        let seen = arms.seen(Arm::Model);
        assert_eq!((seen.requests, seen.failures, seen.latencies), (3, 1, 2));
        assert!((seen.latency_sum_s - 0.040).abs() < 1e-9);
        assert_eq!(seen.buckets.iter().sum::<u32>(), 2);
        assert_eq!(arms.seen(Arm::Against).requests, 1);
    }
}
