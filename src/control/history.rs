//! What changed from generation to generation, and why: a short memory for people who look (`/routing?history=N`, `/events`).
//!
//! A tick notes what moved while it makes its tables, so that nothing is compared a second time, and of each kind only the
//! most: `MAX_NOTED`. The last generations are kept whatever they are, and beside them the last ones in which something
//! happened, so that an hour of quiet ticks does not push the one that matters out. Of a generation that is remembered the
//! tables that chose for requests are kept, too (`archive`). Nothing here is on a request's way.

use super::archive::Archive;
use super::past::PastTable;
use crate::balance::{Cause, Generation, Health, ModelIdentity, Rung, Why};
use crate::links::{LinkKey, NodeKey};
use crate::observe::rfc3339;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How much of each kind is kept of a generation.
pub const MAX_NOTED: usize = 8;
/// How many generations are remembered whatever happened in them.
const MAX_RECENT: usize = 128;
/// How many are remembered in which something happened.
const MAX_NOTABLE: usize = 128;
/// A weight that moved by less is not worth a word: the dead band lets half of it through by chance.
const MIN_MOVE: f32 = 0.005;
/// A weight that moved by so much makes a generation notable.
const NOTABLE_MOVE: f32 = 0.02;
/// How far the moments of a request and of its generation may be apart: clocks are read one after the other, and set.
const CLOCKS: Duration = Duration::from_secs(2);
/// What a move counts for on a link that hardly anybody uses.
const UNUSED: f32 = 0.1;

/// A weight that moved.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// Who calls.
    pub workload: Arc<str>,
    /// What is called.
    pub cluster: Arc<str>,
    /// The endpoint whose weight it is.
    pub endpoint: NodeKey,
    /// Its weight in the generation before.
    pub from: f32,
    /// Its weight in this one.
    pub to: f32,
    /// Why it is that.
    pub why: Why,
}

/// An endpoint that may now get requests, or may no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Turned {
    /// The first cluster that has it.
    pub cluster: Arc<str>,
    /// The endpoint.
    pub endpoint: NodeKey,
    /// Its state before.
    pub from: Health,
    /// Its state now.
    pub to: Health,
}

/// A link beyond its threshold, which made a tick happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// Who calls whom.
    pub link: LinkKey,
    /// What is wrong with it.
    pub what: Trouble,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// This share of its calls fails.
    Errors(f64),
    /// Its calls take longer than was predicted.
    Latency {
        /// Their mean, in seconds.
        mean_s: f64,
        /// What was predicted, in seconds.
        predicted_s: f64,
    },
}

/// An endpoint of a cluster.
pub type Listed = (Arc<str>, NodeKey);

/// What is noted between two generations beside weights.
#[derive(Debug, Default)]
pub struct Noted {
    /// Links beyond their thresholds.
    pub broken: Vec<Broken>,
    /// Endpoints whose state changed.
    pub turned: Vec<Turned>,
    /// Endpoints that appeared.
    pub appeared: Vec<Listed>,
    /// Endpoints that disappeared.
    pub disappeared: Vec<Listed>,
}

impl Noted {
    /// Notes that an endpoint's state changed.
    pub fn turn(&mut self, turned: Turned) {
        // It goes to and fro within one turn: what it was at the beginning counts.
        if let Some(before) = self.turned.iter_mut().find(|t| t.endpoint == turned.endpoint) {
            before.to = turned.to;
        } else if self.turned.len() < MAX_NOTED {
            self.turned.push(turned);
        }
    }

    /// Notes which endpoints are others than before.
    pub fn list(&mut self, before: &[Listed], now: &[Listed]) {
        let less = |all: &[Listed], those: &[Listed]| -> Vec<Listed> {
            let those: std::collections::HashSet<&Listed> = those.iter().collect();
            all.iter().filter(|e| !those.contains(e)).take(MAX_NOTED).cloned().collect()
        };
        (self.appeared, self.disappeared) = (less(now, before), less(before, now));
    }

    /// Takes out what belongs to the generation that is made. What made a tick happen belongs to the whole turn.
    pub(super) fn take(&mut self, whole: bool) -> Self {
        let broken = if whole { Vec::new() } else { std::mem::take(&mut self.broken) };
        std::mem::replace(self, Self { broken, ..Self::default() })
    }
}

/// The weights that move most while tables are made.
#[derive(Debug)]
pub(super) struct Moves {
    most: Vec<(f32, Moved)>,
    /// What a move must be larger than.
    bar: f32,
}

impl Default for Moves {
    fn default() -> Self {
        Self { most: Vec::new(), bar: MIN_MOVE }
    }
}

impl Moves {
    /// Looks at a weight: a comparison for almost all of them.
    #[inline]
    pub fn see(&mut self, from: Option<f32>, to: f32, used: bool, who: impl FnOnce() -> Option<Moved>) {
        let Some(from) = from else { return };
        let by = (to - from).abs() * if used { 1.0 } else { UNUSED };
        if by > self.bar {
            self.keep(by, who());
        }
    }

    fn keep(&mut self, by: f32, moved: Option<Moved>) {
        let Some(moved) = moved else { return };
        let place = self.most.partition_point(|(other, _)| *other >= by);
        self.most.insert(place, (by, moved));
        self.most.truncate(MAX_NOTED);
        if let (MAX_NOTED, Some((least, _))) = (self.most.len(), self.most.last()) {
            self.bar = *least;
        }
    }

    /// Takes them out, the largest first.
    pub fn take(&mut self) -> Vec<Moved> {
        std::mem::take(self).most.into_iter().map(|(_, moved)| moved).collect()
    }
}

/// A generation, and what it changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which generation.
    pub generation: u64,
    /// When it was made.
    pub at: SystemTime,
    /// What made it happen.
    pub cause: Cause,
    /// Whether it was published before anything was scored, because of who may get requests.
    pub early: bool,
    /// Which step of the ladder made its weights.
    pub rung: Rung,
    /// Why it is that step.
    pub rung_reason: String,
    /// The model whose scores it holds.
    pub model: Option<Arc<ModelIdentity>>,
    /// How long it took to make.
    pub took: Duration,
    /// The links that made it happen.
    pub broken: Vec<Broken>,
    /// Endpoints that appeared.
    pub appeared: Vec<Listed>,
    /// Endpoints that disappeared.
    pub disappeared: Vec<Listed>,
    /// Endpoints whose state changed.
    pub turned: Vec<Turned>,
    /// The weights that moved most, the largest move first.
    pub moved: Vec<Moved>,
}

impl Change {
    /// Whether something happened in it, after the one before.
    fn notable(&self, before: Option<&Change>) -> bool {
        let digest = |c: &Change| c.model.as_ref().map(|m| m.digest.clone());
        self.cause != Cause::Interval
            || before.is_none_or(|b| b.rung != self.rung || digest(b) != digest(self))
            || !self.turned.is_empty()
            || self.moved.iter().any(|m| (m.to - m.from).abs() >= NOTABLE_MOVE)
    }
}

/// What is remembered. Written by the tick, read by the admin port.
#[derive(Debug, Default)]
pub struct History {
    kept: Mutex<Kept>,
    latest: watch::Sender<u64>,
    /// The tables of generations that are over.
    pub(super) archive: Archive,
}

#[derive(Debug, Default)]
struct Kept {
    recent: VecDeque<Arc<Change>>,
    notable: VecDeque<Arc<Change>>,
}

impl History {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever held it only ever moves whole entries.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, change: Change) {
        let (generation, change) = (change.generation, Arc::new(change));
        {
            let kept = &mut *self.kept();
            if change.notable(kept.recent.back().map(|c| &**c)) {
                keep(&mut kept.notable, change.clone(), MAX_NOTABLE);
            }
            keep(&mut kept.recent, change, MAX_RECENT);
        }
        self.latest.send_replace(generation);
    }

    /// Hands a generation to whoever keeps tables: a pointer, and nothing where nobody does.
    pub(crate) fn hand(&self, generation: &Arc<Generation>) {
        self.archive.hand(generation);
    }

    /// The tables of a generation by which requests were chosen, each workload and cluster once; none when they are not
    /// kept, or no longer.
    #[must_use]
    pub fn tables(&self, generation: u64) -> Option<Vec<Arc<PastTable>>> {
        self.archive.tables(generation)
    }

    /// How many bytes the tables of generations that are over take.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.archive.bytes()
    }

    /// The generations that are remembered.
    pub(super) fn remembered(&self) -> HashSet<u64> {
        let kept = self.kept();
        kept.notable.iter().chain(&kept.recent).map(|c| c.generation).collect()
    }

    /// What is remembered of a generation, if a request that began at this moment (RFC 3339, as the access log has it) can
    /// have been steered by it: it was in force then, by the wall clock, give or take [`CLOCKS`]. One of another process, whose
    /// generations have the same numbers, was not.
    #[must_use]
    pub fn steered(&self, generation: u64, began: Option<&str>) -> Option<Arc<Change>> {
        let kept = self.kept();
        let of = |id: u64| kept.notable.iter().chain(&kept.recent).find(|c| c.generation == id);
        let change = of(generation)?;
        // All moments are written with the same digits, so their order is that of their texts.
        let fits = began.is_none_or(|began| {
            let earliest = change.at.checked_sub(CLOCKS).map(rfc3339);
            let latest = of(generation + 1).and_then(|next| next.at.checked_add(CLOCKS)).map(rfc3339);
            earliest.is_none_or(|at| *at <= *began) && latest.is_none_or(|at| *began <= *at)
        });
        fits.then(|| change.clone())
    }

    /// The last so many that are remembered, the oldest first. Between those of long ago others are missing.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Arc<Change>> {
        let kept = self.kept();
        let first_recent = kept.recent.front().map_or(u64::MAX, |c| c.generation);
        let older = kept.notable.iter().filter(|c| c.generation < first_recent);
        let all: Vec<Arc<Change>> = older.chain(&kept.recent).cloned().collect();
        all.into_iter().rev().take(count).rev().collect()
    }

    /// Those after a generation, the oldest first; the newest alone for whoever saw none, or one that was never made.
    #[must_use]
    pub fn after(&self, generation: Option<u64>) -> Vec<Arc<Change>> {
        let kept = self.kept();
        let newest = kept.recent.back();
        match generation.filter(|g| newest.is_some_and(|n| *g <= n.generation)) {
            Some(generation) => kept.recent.iter().filter(|c| c.generation > generation).cloned().collect(),
            None => newest.cloned().into_iter().collect(),
        }
    }

    /// Changes with each generation.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

fn keep(those: &mut VecDeque<Arc<Change>>, change: Arc<Change>, at_most: usize) {
    those.push_back(change);
    if those.len() > at_most {
        those.pop_front();
    }
}

#[cfg(test)]
impl Change {
    /// One in which nothing happened, at the beginning of time.
    pub(super) fn quiet(generation: u64, cause: Cause) -> Self {
        Self {
            generation,
            at: SystemTime::UNIX_EPOCH,
            cause,
            early: false,
            rung: Rung::Model,
            rung_reason: String::new(),
            model: None,
            took: Duration::ZERO,
            broken: Vec::new(),
            appeared: Vec::new(),
            disappeared: Vec::new(),
            turned: Vec::new(),
            moved: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(changes: &[Arc<Change>]) -> Vec<u64> {
        changes.iter().map(|c| c.generation).collect()
    }

    fn moved(from: f32, to: f32) -> Moved {
        let endpoint = NodeKey::new(&format!("{from}->{to}"));
        Moved { workload: "w".into(), cluster: "c".into(), endpoint, from, to, why: Why::default() }
    }

    #[test]
    fn quiet_generations_never_push_out_the_one_in_which_something_happened() {
        let history = History::default();
        history.add(Change::quiet(1, Cause::Start));
        history.add(Change::quiet(2, Cause::Health));
        (3..=1_000).for_each(|g| history.add(Change::quiet(g, Cause::Interval)));
        let all = ids(&history.last(usize::MAX));
        assert_eq!((&all[..3], all.len()), (&[1, 2, 1_000 - MAX_RECENT as u64 + 1][..], MAX_RECENT + 2));
        assert_eq!(ids(&history.last(2)), [999, 1_000]);
        (1_001..=3_000).for_each(|g| history.add(Change::quiet(g, Cause::Errors)));
        assert_eq!(history.last(usize::MAX).len(), MAX_NOTABLE, "bounded, and none of them twice");
    }

    #[test]
    fn a_step_a_large_move_and_a_state_are_notable_and_a_tick_is_not() {
        let before = Change::quiet(1, Cause::Interval);
        let with = |edit: fn(&mut Change)| {
            let mut after = Change::quiet(2, Cause::Interval);
            edit(&mut after);
            after.notable(Some(&before))
        };
        assert!(!with(|_| {}));
        assert!(!with(|c| c.moved = vec![moved(0.50, 0.51)]));
        assert!(with(|c| c.moved = vec![moved(0.50, 0.40)]));
        assert!(with(|c| c.rung = Rung::PeakEwma));
        assert!(with(|c| c.cause = Cause::Latency));
        let model = |digest: &str| ModelIdentity { name: "m".into(), digest: digest.into(), engine: String::new() };
        let (mut one, mut other) = (Change::quiet(1, Cause::Interval), Change::quiet(2, Cause::Interval));
        (one.model, other.model) = (Some(Arc::new(model("a"))), Some(Arc::new(model("b"))));
        assert!(other.notable(Some(&one)) && !one.notable(Some(&one)));
    }

    #[test]
    fn who_was_away_gets_what_was_missed_and_who_comes_anew_the_newest() {
        let history = History::default();
        assert!(history.after(None).is_empty());
        (1..=500).for_each(|g| history.add(Change::quiet(g, Cause::Interval)));
        assert_eq!(ids(&history.after(Some(498))), [499, 500]);
        assert_eq!(ids(&history.after(Some(500))), [0u64; 0]);
        assert_eq!(ids(&history.after(None)), [500]);
        assert_eq!(history.after(Some(3)).len(), MAX_RECENT, "no more than is kept");
        assert_eq!(ids(&history.after(Some(7_000))), [500], "of a process that is gone");
    }

    #[test]
    fn only_the_largest_moves_are_kept_and_those_that_nobody_uses_count_less() {
        let mut moves = Moves::default();
        for i in 0..1_000u16 {
            let to = 0.2 + f32::from(i) * 1e-4;
            moves.see(Some(0.2), to, true, || Some(moved(0.2, to)));
        }
        moves.see(None, 1.0, true, || Some(moved(0.0, 1.0)));
        moves.see(Some(0.1), 0.6, false, || Some(moved(0.1, 0.6)));
        let kept = moves.take();
        assert_eq!(kept.len(), MAX_NOTED);
        assert!((kept[0].to - 0.2999).abs() < 1e-6, "{:?}", kept[0]);
        assert!(kept.iter().all(|m| m.from == 0.2), "{kept:?}");
        moves.see(Some(0.5), 0.504, true, || Some(moved(0.5, 0.504)));
        assert!(moves.take().is_empty(), "too small for a word, whatever came before");
    }

    #[test]
    fn an_endpoint_that_comes_and_goes_in_one_turn_is_told_once() {
        let mut noted = Noted::default();
        let turn = |from, to| Turned { cluster: "c".into(), endpoint: NodeKey::new("e"), from, to };
        noted.turn(turn(Health::Healthy, Health::Ejected));
        noted.turn(turn(Health::Ejected, Health::Probation));
        let listed = |ports: &[u16]| -> Vec<Listed> {
            ports.iter().map(|p| ("c".into(), NodeKey::new(&format!("10.0.0.1:{p}")))).collect()
        };
        noted.list(&listed(&[1, 2]), &listed(&[2, 3]));
        let taken = noted.take(true);
        assert_eq!(taken.turned, [turn(Health::Healthy, Health::Probation)]);
        assert_eq!((taken.appeared, taken.disappeared), (listed(&[3]), listed(&[1])));
        assert!(noted.turned.is_empty() && noted.appeared.is_empty());
    }
}
