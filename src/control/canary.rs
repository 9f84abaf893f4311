//! The model's trial (`mode: canary`): whether it steers worse than the policy that it is compared with, and the retreat.
//!
//! ```text
//! counters of both arms --tick--> batch (20 requests an arm, at least) --> difference of the arms' means
//!     --last 240 batches--> confidence sequence (`sequence`) --certainly worse--> retreat --again--> a new trial
//! ```
//! **What is compared**, a cluster at a time over all workloads: the mean latency (a fast failure has none, a caller that
//! left has as long as it waited), and the share of failures. Requests are dealt to the arms by chance, so whatever else
//! differs between them differs by chance too.
//!
//! **When the model has lost:** in any cluster, its latency is longer by more than `canary.tolerance`, or its failures are
//! more by a thousandth of all requests, and not by chance: the whole interval lies beyond. The level is 99%, divided among
//! the clusters and the two measures, so that more clusters do not mean more false alarms.
//!
//! **The retreat** is of the model everywhere, a step on the ladder (`Rung::Against`): a model that does harm somewhere
//! is not trusted elsewhere. It ends after `canary.again`, with another model, or when the `model` section changes.
//!
//! It deliberately does not end a trial that is won: that is for people to decide, and to write down (`mode: active`).

use super::sequence::{Interval, interval};
use crate::config::{Canary, Model};
use crate::links::{Sketch, Time};
use crate::observe::{ArmSeen, Traffic};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How many requests each arm has in a batch, at least: the mean of fewer says little.
const MIN_BATCH: u64 = 20;
/// How many batches are looked at: at one a second, four minutes.
const BATCHES: usize = 240;
/// How often all of the intervals together may exclude the truth.
const ALPHA: f64 = 0.01;
/// So many more failures are none, as a share of all requests.
const MORE_FAILURES: f64 = 0.001;

/// Why the model has lost a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// Its requests took longer.
    CanaryLatency,
    /// More of its requests failed.
    CanaryFailures,
}

impl Lost {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::CanaryLatency, Self::CanaryFailures];

    /// Its stable code, in `/routing`, in the log and in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::CanaryLatency => "canary_latency",
            Self::CanaryFailures => "canary_failures",
        }
    }
}

/// A trial that the model has lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Retreat {
    /// Why.
    pub lost: Lost,
    /// In which cluster.
    pub cluster: Arc<str>,
    /// By what, in words.
    pub words: String,
    /// When.
    pub at: Time,
    /// When it gets another trial; never by itself without.
    pub until: Option<Time>,
}

/// What one arm's requests came to, since the trial began.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ArmView {
    /// Requests that it steered.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Latencies.
    pub latencies: Sketch,
}

/// The arms compared in one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The cluster.
    pub cluster: Arc<str>,
    /// How many batches this is from.
    pub batches: usize,
    /// By how much longer the model's requests took, in seconds.
    pub latency_s: Option<Interval>,
    /// What the others took on average over the same batches, in seconds.
    pub against_s: f64,
    /// How many more of the model's requests failed, as a share of all.
    pub failures: Option<Interval>,
}

impl Comparison {
    /// By how much longer the model's requests took, as a share of what the others took.
    #[must_use]
    pub fn latency(&self) -> Option<Interval> {
        let by = |seconds: f64| seconds / self.against_s;
        let Interval { mean, low, high } = self.latency_s.filter(|_| self.against_s > 0.0)?;
        Some(Interval { mean: by(mean), low: by(low), high: by(high) })
    }

    /// Why the model has lost, where it has.
    fn lost(&self, tolerance: f64) -> Option<(Lost, String)> {
        let name = &self.cluster;
        if let Some(more) = self.failures.filter(|more| more.low > MORE_FAILURES) {
            let [mean, low, high] = [more.mean, more.low, more.high].map(|v| v * 100.0);
            let words = format!("{mean:.1}% more of its requests to `{name}` failed ({low:.1}% to {high:.1}%)");
            return Some((Lost::CanaryFailures, words));
        }
        let longer = self.latency().filter(|longer| longer.low > tolerance)?;
        let [mean, low, high] = [longer.mean, longer.low, longer.high].map(|v| v * 100.0);
        let words = format!("its requests to `{name}` took {mean:.0}% longer ({low:.0}% to {high:.0}%)");
        Some((Lost::CanaryLatency, words))
    }
}

/// A trial as the admin port shows it.
#[derive(Debug, Clone, Default)]
pub struct CanaryView {
    /// As it is configured.
    pub terms: Canary,
    /// The arms by (workload, cluster), by `Arm`.
    pub arms: BTreeMap<(Arc<str>, Arc<str>), [ArmView; 2]>,
    /// The arms compared, by cluster.
    pub comparisons: Vec<Comparison>,
    /// The trial that was lost, while the model stays away.
    pub retreat: Option<Retreat>,
}

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    requests: u64,
    failures: u64,
    latencies: u64,
    latency_sum_s: f64,
}

impl Sums {
    fn add(&mut self, now: &ArmSeen, before: &ArmSeen) {
        self.requests += now.requests.saturating_sub(before.requests);
        self.failures += now.failures.saturating_sub(before.failures);
        self.latencies += now.latencies.saturating_sub(before.latencies);
        self.latency_sum_s += now.latency_sum_s - before.latency_sum_s;
    }

    fn mean_s(&self) -> Option<f64> {
        (self.latencies > 0).then(|| self.latency_sum_s / self.latencies as f64)
    }

    fn failed(&self) -> f64 {
        self.failures as f64 / self.requests.max(1) as f64
    }
}

/// What a batch says.
#[derive(Debug, Clone, Copy)]
struct Batch {
    /// By how much longer the model's requests took, and how long the others; none where one arm had failures alone.
    latency_s: Option<(f64, f64)>,
    failures: f64,
}

#[derive(Debug, Default)]
struct ClusterTrial {
    open: [Sums; 2],
    batches: VecDeque<Batch>,
}

impl ClusterTrial {
    /// Ends the batch under way where it is large enough.
    fn close(&mut self) {
        let [model, against] = &self.open;
        if model.requests.min(against.requests) < MIN_BATCH {
            return;
        }
        let means = model.mean_s().zip(against.mean_s());
        let latency_s = means.map(|(model, against)| (model - against, against));
        let batch = Batch { latency_s, failures: model.failed() - against.failed() };
        self.open = Default::default();
        self.batches.truncate(BATCHES - 1);
        self.batches.push_front(batch);
    }

    fn comparison(&self, cluster: &Arc<str>, alpha: f64) -> Comparison {
        let pairs: Vec<(f64, f64)> = self.batches.iter().filter_map(|b| b.latency_s).collect();
        Comparison {
            cluster: cluster.clone(),
            batches: self.batches.len(),
            latency_s: interval(pairs.iter().map(|(longer, _)| *longer), alpha),
            against_s: pairs.iter().map(|(_, against)| against).sum::<f64>() / pairs.len().max(1) as f64,
            failures: interval(self.batches.iter().map(|b| b.failures), alpha),
        }
    }
}

/// The counters of one (workload, cluster) as they were.
#[derive(Debug)]
struct Pair {
    last: [ArmSeen; 2],
    views: [ArmView; 2],
}

/// The trial under way, or lost.
#[derive(Debug, Default)]
pub struct Trial {
    /// The section that it runs under; none while there is no trial.
    model: Option<Model>,
    /// The model on trial.
    digest: Option<String>,
    clusters: BTreeMap<Arc<str>, ClusterTrial>,
    pairs: BTreeMap<(Arc<str>, Arc<str>), Pair>,
    /// The arms as of the last tick, by cluster.
    compared: Vec<Comparison>,
    retreat: Option<Retreat>,
}

/// One (workload, cluster) whose arms are compared.
#[derive(Debug)]
pub struct Counted<'a> {
    /// Who calls.
    pub workload: &'a Arc<str>,
    /// Whom.
    pub cluster: &'a Arc<str>,
    /// Where its requests are counted.
    pub traffic: &'a Traffic,
}

impl Trial {
    /// Whether the model has lost, and stays away.
    pub fn retreat(&self) -> Option<&Retreat> {
        self.retreat.as_ref()
    }

    /// There is no trial.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// A tick under this section and with this model. Begins a new trial where either is another, or the last one's
    /// retreat is over.
    pub fn tick<'a>(
        &mut self,
        model: &Model,
        digest: Option<&str>,
        now: Time,
        counted: impl Iterator<Item = Counted<'a>>,
    ) -> Option<Lost> {
        let over = self.retreat.as_ref().and_then(|r| r.until).is_some_and(|until| now >= until);
        let other = digest.is_some() && self.digest.is_some() && digest != self.digest.as_deref();
        if over || other || self.model.as_ref() != Some(model) {
            *self = Self { model: Some(model.clone()), ..Self::default() };
        }
        if let Some(digest) = digest {
            self.digest = Some(digest.to_owned());
        }
        self.look(counted);
        let lost_before = self.retreat.is_some();
        if !lost_before {
            self.clusters.values_mut().for_each(ClusterTrial::close);
        }
        self.compared = self.comparisons();
        if lost_before {
            return None;
        }
        let lost = self.compared.iter().find_map(|c| Some((c.cluster.clone(), c.lost(model.canary.tolerance.0)?)));
        let (cluster, (lost, words)) = lost?;
        let again = model.canary.again.0;
        let until = (again > Duration::ZERO).then(|| now + again);
        self.retreat = Some(Retreat { lost, cluster, words, at: now, until });
        Some(lost)
    }

    /// Takes in what was counted since the last look.
    fn look<'a>(&mut self, counted: impl Iterator<Item = Counted<'a>>) {
        let mut known = std::mem::take(&mut self.pairs);
        for Counted { workload, cluster, traffic } in counted {
            traffic.count_arms();
            let Some(seen) = traffic.arms() else { continue };
            let key = (workload.clone(), cluster.clone());
            let Some(mut pair) = known.remove(&key) else {
                // What was counted before this trial is not its own.
                self.pairs.insert(key, Pair { last: seen, views: Default::default() });
                continue;
            };
            let open = &mut self.clusters.entry(cluster.clone()).or_default().open;
            let rows = seen.iter().zip(&pair.last).zip(open.iter_mut().zip(&mut pair.views));
            for ((now, before), (sums, view)) in rows.filter(|((now, before), _)| now.requests != before.requests) {
                sums.add(now, before);
                view.requests += now.requests.saturating_sub(before.requests);
                view.failures += now.failures.saturating_sub(before.failures);
                view.latencies.add_sum(now.latency_sum_s - before.latency_sum_s);
                for (bucket, (now, before)) in now.buckets.iter().zip(&before.buckets).enumerate() {
                    let new = now.wrapping_sub(*before);
                    if new > 0 {
                        view.latencies.add(bucket, new as f32);
                    }
                }
            }
            pair.last = seen;
            self.pairs.insert(key, pair);
        }
        let there: HashSet<&Arc<str>> = self.pairs.keys().map(|(_, cluster)| cluster).collect();
        self.clusters.retain(|name, _| there.contains(name));
    }

    fn comparisons(&self) -> Vec<Comparison> {
        let alpha = ALPHA / (self.clusters.len().max(1) * Lost::ALL.len()) as f64;
        self.clusters.iter().map(|(name, cluster)| cluster.comparison(name, alpha)).collect()
    }

    /// The trial as it stands; none where there is none.
    pub fn view(&self) -> Option<CanaryView> {
        let model = self.model.as_ref()?;
        Some(CanaryView {
            terms: model.canary.clone(),
            arms: self.pairs.iter().map(|(key, pair)| (key.clone(), pair.views.clone())).collect(),
            comparisons: self.compared.clone(),
            retreat: self.retreat.clone(),
        })
    }
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
