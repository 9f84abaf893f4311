//! What other nodes tell of their links, and what can be told of the own ones.
//!
//! An [`Account`] is a state and not a difference: of two that speak of the same link at different times the later one
//! holds, and one that is lost is made good by the next. Accounts of different callers merge as their latencies would
//! have, so percentiles stay true. Between two accounts, and for as long as none comes, what was told fades here as it
//! does where it was seen; what nobody repeats for [`TOLD_FOR`] is not known any more, whatever else happens: no route
//! outlives what it was chosen by.
//!
//! [`Told`] is the whole of it at one moment. Whoever collects it publishes it as one pointer (`Links::tell`); a tick reads
//! it and never waits.

use super::history::{BASELINE_S, Baseline, MEMORY_S};
use super::orca::Report;
use super::sketch::{BUCKETS, Counts};
use super::{LinkKey, LinkStats, NodeKey, Sketch, Time};
use std::sync::Arc;
use std::time::Duration;

/// What nobody repeats for this long is not known any more: so long that one loss does no harm, and so short that two or
/// three ticks later, when weights have come back, not ten seconds have passed since whoever told it died.
pub const TOLD_FOR: Duration = Duration::from_secs(7);

/// What can be told of a link, over about the last ten seconds. `None` is unknown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// The latencies.
    pub latency: Counts,
    /// Their mean in seconds.
    pub mean_s: Option<f32>,
    /// Their mean with the last three seconds foremost, in seconds.
    pub ewma_s: Option<f32>,
    /// The mean latency over about the last hundred seconds.
    pub baseline_s: Option<f32>,
    /// How many latencies stand behind that.
    pub baseline_samples: f32,
    /// Jitter by RFC 3550, in seconds.
    pub jitter_s: Option<f32>,
    /// Calls a second.
    pub calls_per_second: f32,
    /// Failed calls as a share of all.
    pub error_rate: Option<f32>,
    /// Requests under way.
    pub in_flight: f32,
    /// The age of the last latency, in seconds.
    pub age_s: Option<f32>,
}

/// The little that says whether an account is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Brief {
    /// Calls that ended since the link was made.
    pub ended: u64,
    /// Requests under way.
    pub in_flight: f32,
    /// The mean latency with the last three seconds foremost, in seconds.
    pub ewma_s: Option<f32>,
    /// Calls a second.
    pub calls_per_second: f32,
    /// Failed calls as a share of all.
    pub error_rate: Option<f32>,
}

/// Where an instance is and what it is. Empty is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// The service that it is an instance of.
    pub service: Arc<str>,
    /// Its zone.
    pub zone: Arc<str>,
    /// The machine that it runs on.
    pub host: Arc<str>,
}

/// What can be told of an instance.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeAccount {
    /// What it is.
    pub described: Described,
    /// What it last reported of itself, and the age of that in seconds.
    pub report: Option<(Report, f32)>,
}

impl Account {
    /// Joins what another caller saw: as if both had been one.
    pub fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (self.latency.total(), other.latency.total());
        let (calls, their_calls) = (self.calls_per_second, other.calls_per_second);
        self.mean_s = weighed([(self.mean_s, mine), (other.mean_s, theirs)]);
        self.ewma_s = weighed([(self.ewma_s, mine), (other.ewma_s, theirs)]);
        self.jitter_s = weighed([(self.jitter_s, mine), (other.jitter_s, theirs)]);
        self.baseline_s =
            weighed([(self.baseline_s, self.baseline_samples), (other.baseline_s, other.baseline_samples)]);
        self.error_rate = weighed([(self.error_rate, calls), (other.error_rate, their_calls)]);
        self.baseline_samples += other.baseline_samples;
        self.calls_per_second += their_calls;
        self.in_flight += other.in_flight;
        self.age_s = match (self.age_s, other.age_s) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        let mut both = self.latency.sketch();
        both.add_counts(&other.latency, 1.0);
        self.latency = both.counts();
    }

    /// What a tick shows of it.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let sketch = self.latency.sketch();
        let quantiles = sketch.quantiles([0.1, 0.5, 0.9, 0.99]);
        let quantile = |i: usize| quantiles.and_then(|q| q.get(i).map(|v| *v as f32));
        LinkStats {
            latency_mean_s: self.mean_s,
            latency_p10_s: quantile(0),
            latency_p50_s: quantile(1),
            latency_p90_s: quantile(2),
            latency_p99_s: quantile(3),
            latency_ewma_s: self.ewma_s,
            latency_baseline_s: self.baseline_s,
            jitter_s: self.jitter_s,
            calls_per_second: Some(self.calls_per_second),
            error_rate: self.error_rate,
            in_flight: self.in_flight,
            samples: sketch.count() as f32,
            age_s: self.age_s,
        }
    }
}

/// The mean of what is known, by weight; plain where nothing has any.
fn weighed(parts: [(Option<f32>, f32); 2]) -> Option<f32> {
    match parts {
        [(Some(a), wa), (Some(b), wb)] if wa + wb > 0.0 => Some((a * wa + b * wb) / (wa + wb)),
        [(Some(a), _), (Some(b), _)] => Some((a + b) / 2.0),
        [(a, _), (b, _)] => a.or(b),
    }
}

/// A link that others told of.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldLink {
    /// Who calls whom.
    pub key: LinkKey,
    /// Who told it: nodes' names, those of several with a comma between.
    pub by: Arc<str>,
    /// When it was told.
    pub at: Time,
    account: Account,
    stats: LinkStats,
}

impl ToldLink {
    /// What was told at a moment, and by whom.
    #[must_use]
    pub fn new(key: LinkKey, by: Arc<str>, at: Time, account: Account) -> Self {
        Self { stats: account.stats(), key, by, at, account }
    }

    /// What was told.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What is known of it now, if anything still is.
    #[must_use]
    pub fn stats(&self, now: Time) -> Option<LinkStats> {
        let since = now.since(self.at);
        if since > TOLD_FOR {
            return None;
        }
        let (since_s, mut stats) = (since.as_secs_f32(), self.stats);
        let keep = (-since_s / MEMORY_S).exp();
        stats.samples *= keep;
        stats.calls_per_second = stats.calls_per_second.map(|calls| calls * keep);
        stats.age_s = stats.age_s.map(|age_s| age_s + since_s);
        Some(stats)
    }

    /// Adds its latencies to those that came in at a node, with so much of them as is left by now.
    pub(super) fn join(&self, now: Time, sketch: &mut Sketch, baseline: &mut Baseline) {
        let since_s = now.seconds_since(self.at);
        let (keep, usual) = ((-since_s / MEMORY_S).exp(), (-since_s / BASELINE_S).exp());
        sketch.add_counts(&self.account.latency, keep);
        sketch.add_sum(f64::from(self.stats.latency_mean_s.unwrap_or(0.0) * self.stats.samples * keep));
        let samples = f64::from(self.account.baseline_samples * usual);
        if let Some(mean_s) = self.account.baseline_s {
            baseline.add(f64::from(mean_s) * samples, samples);
        }
    }
}

/// An instance that others told of.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldNode {
    /// The instance.
    pub key: NodeKey,
    /// What it is.
    pub described: Described,
    /// What it last reported of itself, and when.
    pub report: Option<(Report, Time)>,
}

/// Everything that others told, at one moment; sorted by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Told {
    /// While this stays the same, so do the keys and the descriptions; nothing was ever told at 0.
    pub shape: u64,
    /// The links, none twice.
    pub links: Vec<Arc<ToldLink>>,
    /// The instances, none twice.
    pub nodes: Vec<Arc<ToldNode>>,
}

impl Told {
    /// What was told of a link.
    #[must_use]
    pub fn link(&self, key: &LinkKey) -> Option<&Arc<ToldLink>> {
        self.links.binary_search_by(|link| link.key.cmp(key)).ok().and_then(|at| self.links.get(at))
    }

    /// What was told of an instance.
    #[must_use]
    pub fn node(&self, key: &NodeKey) -> Option<&Arc<ToldNode>> {
        self.nodes.binary_search_by(|node| node.key.cmp(key)).ok().and_then(|at| self.nodes.get(at))
    }
}

/// How many buckets the latencies of an account may have.
pub(crate) const MOST_COUNTS: usize = BUCKETS;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(latencies_s: &[f64], calls_per_second: f32) -> Account {
        let mut sketch = Sketch::default();
        latencies_s.iter().for_each(|s| sketch.record(*s));
        Account {
            latency: sketch.counts(),
            mean_s: sketch.mean().map(|m| m as f32),
            calls_per_second,
            error_rate: Some(if calls_per_second > 50.0 { 0.5 } else { 0.0 }),
            age_s: Some(calls_per_second),
            ..Account::default()
        }
    }

    fn link(account: Account) -> ToldLink {
        let key = LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b"));
        ToldLink::new(key, "n".into(), Time(1_000_000_000), account)
    }

    #[test]
    fn what_was_told_ages_fades_and_is_gone_in_the_end() {
        let told = link(account(&[0.02; 100], 10.0));
        let at = |s: f32| told.stats(told.at + Duration::from_secs_f32(s));
        assert_eq!(at(0.0), Some(told.stats));
        let later = at(5.0).unwrap();
        assert!((later.samples - 60.65).abs() < 0.1 && (later.calls_per_second.unwrap() - 6.065).abs() < 0.01);
        assert_eq!((later.latency_p99_s, later.age_s), (told.stats.latency_p99_s, Some(15.0)));
        assert_eq!(at(7.1), None);
        assert_eq!(told.stats(Time(0)), Some(told.stats), "a clock that jumps back ages nothing");
    }

    #[test]
    fn errors_weigh_by_calls_and_the_younger_age_holds() {
        let mut all = account(&[0.01], 30.0);
        all.merge(&account(&[0.03], 90.0));
        assert_eq!((all.error_rate, all.calls_per_second, all.age_s), (Some(0.375), 120.0, Some(30.0)));
        assert!((all.mean_s.unwrap() - 0.02).abs() < 1e-6);
        let mut nothing = Account::default();
        nothing.merge(&Account::default());
        assert_eq!(nothing, Account::default());
    }

    proptest! {
        #[test]
        fn accounts_of_several_callers_merge_into_the_percentiles_of_all(
            a in prop::collection::vec(1e-5f64..10.0, 1..60),
            b in prop::collection::vec(1e-5f64..10.0, 1..60),
        ) {
            let mut merged = account(&a, 1.0);
            merged.merge(&account(&b, 2.0));
            let all: Vec<f64> = a.iter().chain(&b).copied().collect();
            let (merged, all) = (merged.stats(), account(&all, 3.0).stats());
            prop_assert_eq!(merged.latency_p50_s, all.latency_p50_s);
            prop_assert_eq!(merged.latency_p99_s, all.latency_p99_s);
            prop_assert!((merged.latency_mean_s.unwrap() - all.latency_mean_s.unwrap()).abs() < 1e-4);
        }
    }
}
