//! The tables of generations that are over, for whoever asks why a request went where it went (`/routing?generation=N`).
//!
//! A generation's own tables cannot be kept: they hold the cells that requests write to, and what a pick needs. What is kept
//! of a candidate is a row of 52 bytes (`past`): weight, score, prediction, what had been seen of it, the caller's attention,
//! health and the reason, with the guard that acted. Names and addresses are shared from generation to generation, and so is
//! a whole table in which nothing has changed.
//!
//! **Off the request path, and off the tick.** A tick hands over the pointer to what it has published; the [`Keeper`], a task
//! beside it, writes the rows. While there is none, nothing is handed over.
//!
//! **Only tables that chose.** Once the next generation is there, tables by which no request was chosen are let go: no link of
//! theirs was used. So an idle pair costs nothing, and an idle proxy keeps nothing.
//!
//! **Bounded** by count, as generations are remembered (`history`), and by bytes: [`MAX_BYTES`] in all, the oldest
//! generation going first, and `MAX_GENERATION_BYTES` for one. Endpoints that nobody uses cost nothing; 1,000 of one cluster, all
//! in one table, are 52 kB a generation, and 80 generations fit.

use super::past::{Charge, PastTable, Seen};
use super::status::Status;
use crate::balance::{Cluster, Generation, Table};
use crate::links::Time;
use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What all tables that are kept may take, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// What the tables of one generation may take, in bytes: those beyond are not kept.
const MAX_GENERATION_BYTES: usize = 1 << 20;
/// How many generations may wait for the keeper.
const MAX_HANDED: usize = 4;
/// A table of a pair that was used within this time is written down at once, when what the tick saw is still at hand; one
/// of another pair only if it is used.
const RECENTLY: Duration = Duration::from_secs(60);
/// A request reads the clock before it takes its generation: it may have begun so long before that was made.
const SLACK: Duration = Duration::from_millis(100);

/// The tables of one generation that are kept.
#[derive(Debug)]
struct Past {
    generation: u64,
    tables: Box<[Arc<PastTable>]>,
    _charge: Charge,
}

impl Past {
    fn new(generation: u64, tables: impl Iterator<Item = Arc<PastTable>>, bytes: &Arc<AtomicUsize>) -> Arc<Self> {
        let tables: Box<[Arc<PastTable>]> = tables.collect();
        let charge = Charge::new(bytes, size_of::<Self>() + size_of_val(&*tables));
        Arc::new(Self { generation, tables, _charge: charge })
    }
}

/// What is kept, and what waits to be.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// None while nobody keeps anything.
    handed: Mutex<Option<VecDeque<Arc<Generation>>>>,
    /// By generation.
    kept: Mutex<VecDeque<Arc<Past>>>,
    bytes: Arc<AtomicUsize>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever held it only ever moves whole entries.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Archive {
    /// Hands over what was published. The oldest goes where the keeper does not keep up.
    pub fn hand(&self, generation: &Arc<Generation>) {
        if let Some(handed) = &mut *locked(&self.handed) {
            if handed.len() >= MAX_HANDED {
                handed.pop_front();
            }
            handed.push_back(generation.clone());
        }
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The tables of a generation that are kept; none when there are none.
    pub fn tables(&self, generation: u64) -> Option<Vec<Arc<PastTable>>> {
        let kept = locked(&self.kept);
        let place = kept.binary_search_by_key(&generation, |past| past.generation).ok()?;
        kept.get(place).map(|past| past.tables.to_vec())
    }

    /// Keeps these tables of a generation, in place of those that it may have had.
    fn put(&self, past: Arc<Past>) {
        let mut kept = locked(&self.kept);
        let place = kept.partition_point(|p| p.generation < past.generation);
        let gone = match kept.get_mut(place).filter(|p| p.generation == past.generation) {
            Some(there) => Some(std::mem::replace(there, past)),
            None => {
                kept.insert(place, past);
                None
            }
        };
        drop(kept);
        drop(gone);
    }

    /// Lets go of generations that are not remembered, and of the oldest until the rest fits.
    fn trim(&self, remembered: impl Fn(u64) -> bool) {
        let mut kept = locked(&self.kept);
        kept.retain(|past| !past.tables.is_empty() && remembered(past.generation));
        while self.bytes() > MAX_BYTES {
            // What is shared with a younger one stays in memory, and is let go with that.
            if kept.pop_front().is_none() {
                break;
            }
        }
    }
}

/// What is written of each table of a generation, by cluster, then by workload; none of one that is not kept.
type Written = Vec<Option<Arc<PastTable>>>;

/// Writes down the tables of each generation that is published: the task beside the slow loop.
#[derive(Debug)]
pub struct Keeper {
    status: Arc<Status>,
    /// The generation in force, and what is written of its tables.
    open: Option<(Arc<Generation>, Written)>,
}

impl Keeper {
    /// A keeper of what is published from now on. One is enough.
    #[must_use]
    pub fn new(status: Arc<Status>) -> Self {
        locked(&status.history.archive.handed).get_or_insert_default();
        Self { status, open: None }
    }

    /// Keeps until it is dropped.
    pub async fn run(mut self) {
        let mut latest = self.status.history.latest();
        self.keep();
        // The sender is in `self`, so waiting cannot fail.
        while latest.changed().await.is_ok() {
            self.keep();
        }
    }

    /// Writes down what was handed over. Public for `benches/` and tests, which wait for nothing.
    #[doc(hidden)]
    pub fn keep(&mut self) {
        let status = self.status.clone();
        let archive = &status.history.archive;
        let handed = locked(&archive.handed).as_mut().map(std::mem::take).unwrap_or_default();
        if handed.is_empty() {
            return;
        }
        let view = status.view();
        let seen = view.as_deref().map(Seen::new);
        for generation in handed {
            let last = self.close(archive);
            self.open(generation, seen.as_ref(), &last, archive);
        }
        let remembered = status.history.remembered();
        archive.trim(|generation| remembered.contains(&generation));
    }

    /// A generation is in force: what was seen so far is at hand now, and which of its tables choose is not known yet.
    fn open(
        &mut self,
        generation: Arc<Generation>,
        seen: Option<&Seen<'_>>,
        last: &[Option<Arc<PastTable>>],
        archive: &Archive,
    ) {
        let since = Time(generation.made_at.0.saturating_sub(RECENTLY.as_nanos() as u64));
        let before = archive.bytes();
        let write = |(i, (cluster, workload, table)): (usize, (&Cluster, &Arc<str>, &Table))| {
            let fits = archive.bytes().saturating_sub(before) < MAX_GENERATION_BYTES;
            let last = last.get(i).and_then(Option::as_ref);
            (fits && used(table, since)).then(|| PastTable::of((cluster, workload), table, seen, last, &archive.bytes))
        };
        let written: Written = tables(&generation).enumerate().map(write).collect();
        archive.put(Past::new(generation.id, written.iter().flatten().cloned(), &archive.bytes));
        self.open = Some((generation, written));
    }

    /// The generation in force is over: what did not choose is let go. Gives what was written of it.
    fn close(&mut self, archive: &Archive) -> Written {
        let Some((generation, written)) = self.open.take() else { return Vec::new() };
        let since = Time(generation.made_at.0.saturating_sub(SLACK.as_nanos() as u64));
        let before = archive.bytes();
        let chose = tables(&generation).zip(&written).filter(|((_, _, table), _)| used(table, since));
        let chose = chose.filter_map(|((cluster, workload, table), written)| {
            let fits = archive.bytes().saturating_sub(before) < MAX_GENERATION_BYTES;
            let now = || PastTable::of((cluster, workload), table, None, None, &archive.bytes);
            written.clone().or_else(|| fits.then(now))
        });
        archive.put(Past::new(generation.id, chose, &archive.bytes));
        written
    }
}

/// All tables of a generation, by cluster, then by workload.
fn tables(generation: &Generation) -> impl Iterator<Item = (&Cluster, &Arc<str>, &Table)> {
    let workloads = generation.routes.workloads();
    generation.clusters.iter().flat_map(|cluster| {
        workloads.iter().zip(&cluster.tables).map(|(workload, table)| (&**cluster, &workload.name, &**table))
    })
}

/// Whether a request was chosen by a table since then, as far as its links tell; one that can choose nobody leaves no trace
/// on any link, and counts as used.
fn used(table: &Table, since: Time) -> bool {
    let candidates = table.candidates();
    (table.eligible().is_empty() && !candidates.is_empty()) || candidates.iter().any(|c| c.link.last_used() >= since)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
