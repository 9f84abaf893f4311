//! All arms in all scenarios over all seeds, and what it comes to.

use super::arms::Arm;
use super::run::{Figures, run};
use super::scenarios::{Asks, Scenario, scenario};
use super::scores::Scorer;
use super::stats::{Interval, difference, interval};
use crate::engines::Rten;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// One arm's runs of one scenario, in the order of the seeds.
#[derive(Debug, Clone)]
pub struct Runs {
    /// For each seed.
    pub figures: Vec<Figures>,
}

impl Runs {
    fn of(&self, figure: impl Fn(&Figures) -> f64) -> Vec<f64> {
        self.figures.iter().map(figure).collect()
    }
}

/// What an arm came to in a scenario: means over seeds with 95% intervals. None is a figure that it does not have.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Median end-to-end latency in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The 99.9th percentile.
    pub p999_ms: Option<f64>,
    /// The share of requests that failed.
    pub errors: Option<f64>,
    /// Requests a second answered within the deadline.
    pub goodput: Option<f64>,
    /// Everything with its interval.
    pub intervals: BTreeMap<&'static str, Interval>,
    /// The p99 against the best classical rival's, as a share: below zero is better. None for that rival itself.
    pub p99_vs_best_classical: Option<Interval>,
    /// The p99 against that of the best classical rival whom replicas tell nothing.
    pub p99_vs_best_blind: Option<Interval>,
    /// The p99 against least request's.
    pub p99_vs_least_request: Option<Interval>,
    /// The mean share of calls that those in trouble got, second by second; 1 is their equal part.
    pub shares: Vec<f64>,
}

/// A scenario's results.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// What it is.
    pub about: &'static str,
    /// What it asks.
    pub asks: Asks,
    /// The deadline in seconds.
    pub deadline_s: f64,
    /// The classical rival with the least mean p99.
    pub best_classical: Option<String>,
    /// The same among those whom replicas tell nothing of themselves: in whose sight is only what they have called. Where
    /// the trouble is out of a single proxy's sight, it is these that it is out of the sight of.
    pub best_blind: Option<String>,
    /// By arm.
    pub policies: BTreeMap<String, Summary>,
}

/// Plays arms of a scenario over seeds, `jobs` runs at a time. `each` is called after each run.
///
/// # Errors
/// When a run fails.
pub fn play(
    name: &str,
    arms: &[Arm],
    model: Option<&Arc<Rten>>,
    seeds: &[u64],
    jobs: usize,
    each: impl Fn(&Arm, &Figures) + Sync,
) -> Result<Vec<Runs>> {
    // Seed by seed, so that arms are interleaved.
    let tasks: Vec<(u64, &Arm)> = seeds.iter().flat_map(|seed| arms.iter().map(|arm| (*seed, arm))).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Figures)>> {
        let mut done = Vec::new();
        loop {
            let task = next.fetch_add(1, Relaxed);
            let Some((seed, arm)) = tasks.get(task) else { return Ok(done) };
            let figures = one(&scenario(name, *seed)?, arm, model, *seed)?;
            each(arm, &figures);
            done.push((task, figures));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut done = work()?;
        for worker in workers {
            done.extend(worker.join().map_err(|_| Error::Format("a run broke off".into()))??);
        }
        Ok::<_, Error>(done)
    })?;
    done.sort_unstable_by_key(|(task, _)| *task);
    let mut all: Vec<Runs> = arms.iter().map(|_| Runs { figures: Vec::new() }).collect();
    for (task, figures) in done {
        all[task % arms.len()].figures.push(figures);
    }
    Ok(all)
}

/// One run of an arm.
///
/// # Errors
/// When its scorer fails.
pub fn one(scenario: &Scenario, arm: &Arm, model: Option<&Arc<Rten>>, seed: u64) -> Result<Figures> {
    let scorer = arm.source.map(|source| Scorer::new(source, model.cloned()));
    run(scenario, &arm.policy, scorer.as_ref(), seed)
}

/// A figure and its name.
type Named = (&'static str, fn(&Figures) -> f64);

/// Sums up a scenario's runs.
#[must_use]
pub fn summarise(scenario: &Scenario, arms: &[Arm], runs: &[Runs]) -> Compared {
    let p99 = |r: &Runs| r.of(|f| f.p99_ms);
    let mean = |values: &[f64]| interval(values).map_or(f64::INFINITY, |i| i.mean);
    let best_of = |counts: fn(&Arm) -> bool| {
        let rivals = arms.iter().zip(runs).filter(|(arm, _)| counts(arm));
        rivals.min_by(|a, b| mean(&p99(a.1)).total_cmp(&mean(&p99(b.1))))
    };
    let best = best_of(|arm| arm.classical);
    let blind = best_of(|arm| arm.classical && !arm.told);
    let least = arms.iter().zip(runs).find(|(arm, _)| arm.name == "least-request");
    let policies = arms.iter().zip(runs).map(|(arm, runs)| {
        let against = |rival: Option<(&Arm, &Runs)>| {
            rival.filter(|(r, _)| r.name != arm.name).and_then(|(_, theirs)| difference(&p99(runs), &p99(theirs)))
        };
        let figures: [Named; 13] = [
            ("p50_ms", |f| f.p50_ms),
            ("p99_ms", |f| f.p99_ms),
            ("p999_ms", |f| f.p999_ms),
            ("mean_ms", |f| f.mean_ms),
            ("errors", |f| f.errors),
            ("goodput", |f| f.goodput),
            ("in_time", |f| f.in_time),
            ("divert_s", |f| f.divert_s),
            ("recover_s", |f| f.recover_s),
            ("share", |f| f.share),
            ("churn", |f| f.churn),
            ("swing", |f| f.swing),
            ("diverted_runs", |f| f64::from(u8::from(f.divert_s.is_finite()))),
        ];
        let intervals: BTreeMap<&'static str, Interval> =
            figures.into_iter().filter_map(|(name, of)| Some((name, interval(&runs.of(of))?))).collect();
        let of = |name: &str| intervals.get(name).map(|i| i.mean);
        let summary = Summary {
            p50_ms: of("p50_ms"),
            p99_ms: of("p99_ms"),
            p999_ms: of("p999_ms"),
            errors: of("errors"),
            goodput: of("goodput"),
            p99_vs_best_classical: against(best),
            p99_vs_best_blind: against(blind),
            p99_vs_least_request: against(least),
            shares: mean_shares(runs),
            intervals,
        };
        (arm.name.clone(), summary)
    });
    Compared {
        about: scenario.about,
        asks: scenario.asks,
        deadline_s: scenario.deadline_s,
        best_classical: best.map(|(arm, _)| arm.name.clone()),
        best_blind: blind.map(|(arm, _)| arm.name.clone()),
        policies: policies.collect(),
    }
}

fn mean_shares(runs: &Runs) -> Vec<f64> {
    let seconds = runs.figures.first().map_or(0, |f| f.shares.len());
    let at = |second: usize| {
        let known: Vec<f64> = runs.figures.iter().map(|f| f.shares[second]).filter(|s| s.is_finite()).collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    };
    (0..seconds).map(at).collect()
}
