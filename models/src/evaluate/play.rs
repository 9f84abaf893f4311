//! Plays and measures many runs on all processors; the figures do not depend on how many there are.

use super::figures::{Options, Report, measure};
use crate::data::Sample;
use crate::predict::Predictor;
use crate::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From one evaluation seed's first run to the next one's.
pub const BETWEEN_SEEDS: u64 = 100_000;
/// More threads than this bring nothing on the machines that this is made for.
const MOST_THREADS: usize = 8;

/// Predictors, made anew for each thread.
pub type Predictors<'a> = Vec<Box<dyn Predictor + 'a>>;

/// The reports of `seeds` sets of `runs` runs, each with the set's first seed: set s has the runs
/// `first + s x BETWEEN_SEEDS ..`. `samples` plays a run, `predictors` makes who predicts, `played` is called after each run.
///
/// # Errors
/// The first run's that could not be played or measured.
pub fn reports<'a>(
    first: u64,
    seeds: u64,
    runs: u64,
    options: &Options,
    samples: impl Fn(u64) -> Result<Vec<Sample>> + Sync,
    predictors: impl Fn() -> Result<Predictors<'a>> + Sync,
    played: impl Fn() + Sync,
) -> Result<Vec<(u64, Report)>> {
    let tasks: Vec<u64> = (0..seeds).flat_map(|s| (0..runs).map(move |run| first + s * BETWEEN_SEEDS + run)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(tasks.len());
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<Report>>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let work = || -> Result<()> {
        let mut predictors = predictors()?;
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            let Some(run) = tasks.get(task) else { return Ok(()) };
            let report = samples(*run).and_then(|s| measure(&mut predictors, &s, options));
            let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(slot) = done.get_mut(task) {
                *slot = Some(report);
            }
            drop(done);
            played();
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| Error::Check("a run broke off".into()))??;
        }
        Ok(())
    })?;
    let mut found = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter();
    let mut all = Vec::new();
    for seed in 0..seeds {
        let mut report = Report::default();
        for run in found.by_ref().take(runs as usize) {
            report.merge(run.unwrap_or_else(|| Err(Error::Check("a run was not played".into())))?);
        }
        all.push((first + seed * BETWEEN_SEEDS, report));
    }
    Ok(all)
}
