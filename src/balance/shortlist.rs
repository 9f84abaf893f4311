//! The cheapest candidate, without working out for every request what each of them costs.
//!
//! A cost is `estimate x (in-flight + 1) / (expected success x bias)`. What estimates go by is whole milliseconds, so all
//! of a cost but the requests in flight is worked out once in a millisecond, for all candidates (a *look*), and the `KEPT`
//! cheapest are kept. The requests that follow multiply those few by what is in flight at that very moment. The next look
//! is due when
//! - another millisecond has begun;
//! - the cheapest of the kept costs more than the cheapest of the others did at the look, so that a burst spreads over all
//!   of them as if each request had compared all;
//! - `PICKS_A_LOOK` requests went by.
//!
//! So a choice differs from the cheapest of all only by what was measured, or finished, within the millisecond. Up to a
//! thousand requests a second each of them looks; beyond, a pick costs the same for 8 candidates and for 64.
//!
//! Each thread keeps a list of its own, so that cores do not pass a cache line around. Where two threads share one, they
//! may mix their lists up: each entry is a candidate with a cost of its own all the same, and the next look mends it.

use super::{Candidate, Choice};
use crate::links::{Fading, LinkCell, NodeCell, Time};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// How many candidates are kept.
const KEPT: usize = 8;
/// After so many requests the next one looks: in a millisecond that brings more, much may have changed.
const PICKS_A_LOOK: u32 = 64;
const JUST_ABOVE: f32 = 1.0 + 1e-6;
/// The least expected success that a cost is divided by: a candidate that always fails costs 500 times its
/// latency, and is chosen only where the others have hundreds of requests in flight each.
pub const MIN_SUCCESS: f32 = 0.002;

/// What a pick reads of a candidate, side by side with the others': a candidate itself fills several cache lines.
#[derive(Debug)]
pub struct Row {
    link: Arc<LinkCell>,
    node: Arc<NodeCell>,
    prior_s: f32,
    /// What a cost is multiplied by: one over expected success times bias.
    factor: f32,
}

impl Row {
    fn new(c: &Candidate) -> Self {
        let (link, node) = (c.link.clone(), c.node.clone());
        Self { link, node, prior_s: c.prior_s, factor: 1.0 / (c.success.max(MIN_SUCCESS) * c.bias) }
    }

    /// Of a candidate that is drawn by weight: the weight holds the bias already.
    pub fn of_drawn(c: &Candidate) -> Self {
        Self { factor: 1.0 / c.success.max(MIN_SUCCESS), ..Self::new(c) }
    }

    /// What it costs now, and its estimate in seconds.
    #[inline]
    pub fn cost(&self, fading: &Fading) -> (f32, f32) {
        let estimate_s = self.link.estimate.faded(fading, self.prior_s);
        (estimate_s * self.factor * self.waiting(), estimate_s)
    }

    #[inline]
    fn waiting(&self) -> f32 {
        // As a signed number: converting an unsigned one takes several instructions more.
        self.node.in_flight().wrapping_add(1) as i32 as f32
    }
}

/// The candidates that a table compares, and for each thread the cheapest ones.
#[derive(Debug)]
pub struct Shortlist {
    rows: Box<[Row]>,
    /// A power of two of them.
    lists: Box<[List]>,
}

/// What one thread keeps. Aligned so that two threads never write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct List {
    /// The millisecond of the last look, and how many requests may still go by it.
    looked: AtomicU64,
    /// What the cheapest of the others cost at the look, as bits.
    next_cost: AtomicU32,
    entries: [Entry; KEPT],
}

/// A candidate that is kept: its place and its cost without what is in flight, together, and its estimate, as bits.
#[derive(Debug, Default)]
struct Entry {
    place_and_base: AtomicU64,
    estimate_s: AtomicU32,
}

/// What a look finds of a candidate.
#[derive(Debug, Clone, Copy)]
struct Found {
    cost: f32,
    place: usize,
    base: f32,
    estimate_s: f32,
}

impl Found {
    const NONE: Self = Self { cost: f32::INFINITY, place: usize::MAX, base: f32::INFINITY, estimate_s: f32::NAN };

    fn choice(self) -> Option<Choice> {
        (self.place != usize::MAX).then_some(Choice { index: self.place, estimate_s: self.estimate_s })
    }
}

/// A number for each thread that picks, from 0 on.
#[inline]
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) } }
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    let number = NEXT.fetch_add(1, Relaxed);
    NUMBER.set(number);
    number
}

/// A number below `count` from 32 random bits, without a division.
#[inline]
pub fn below(random: u32, count: usize) -> usize {
    ((u64::from(random) * count as u64) >> 32) as usize
}

impl Shortlist {
    /// Of these candidates, for a proxy with so many serving threads.
    pub fn new<'c>(candidates: impl Iterator<Item = &'c Candidate>, threads: usize) -> Self {
        let lists = (0..threads.next_power_of_two()).map(|_| List::default()).collect();
        Self { rows: candidates.map(Row::new).collect(), lists }
    }

    /// The cheapest candidate that is not in `tried`; of equal ones the first from a random one on.
    #[inline]
    pub fn cheapest(&self, now: Time, tau_s: f32, random: u32, tried: &[usize]) -> Option<Choice> {
        let list = self.lists.get(thread() & self.lists.len().wrapping_sub(1));
        match list.filter(|_| tried.is_empty()) {
            Some(list) => self
                .cheapest_of_kept(list, now.coarse_ms(), random)
                .or_else(|| self.look(list, &Fading::new(now, tau_s), random)),
            None => self.find(&Fading::new(now, tau_s), random, |found| !tried.contains(&found.place)).choice(),
        }
    }

    /// The cheapest of those that are kept; none when a look is due.
    #[inline]
    fn cheapest_of_kept(&self, list: &List, now_ms: u32, random: u32) -> Option<Choice> {
        let looked = list.looked.load(Relaxed);
        if (looked >> 32) as u32 != now_ms || looked as u32 == 0 {
            return None;
        }
        // What costs as much as the others is as good: in an idle fleet all may cost the same.
        let (mut least, mut cheapest) = (f32::from_bits(list.next_cost.load(Relaxed)) * JUST_ABOVE, None);
        let (before, after) = list.entries.split_at(below(random, KEPT.min(self.rows.len())));
        for entries in [after, before] {
            for entry in entries {
                let entry_bits = entry.place_and_base.load(Relaxed);
                // Beyond the last entry of a short list, and for it alone, there is no such row.
                let Some(row) = self.rows.get((entry_bits >> 32) as usize) else { break };
                let cost = f32::from_bits(entry_bits as u32) * row.waiting();
                if cost < least {
                    (least, cheapest) = (cost, Some((entry, entry_bits)));
                }
            }
        }
        let (entry, entry_bits) = cheapest?;
        list.looked.store(looked - 1, Relaxed);
        let estimate_s = f32::from_bits(entry.estimate_s.load(Relaxed));
        Some(Choice { index: (entry_bits >> 32) as usize, estimate_s })
    }

    /// Compares all and keeps the cheapest.
    #[inline(never)]
    fn look(&self, list: &List, fading: &Fading, random: u32) -> Option<Choice> {
        let mut best = [Found::NONE; KEPT];
        let mut next_cost = f32::INFINITY;
        let cheapest = self.find(fading, random, |found| {
            let [.., dearest] = best;
            if found.cost >= dearest.cost {
                // Most candidates go by here.
                next_cost = if found.cost < next_cost { found.cost } else { next_cost };
                return true;
            }
            next_cost = dearest.cost;
            let at = best.partition_point(|known| known.cost <= found.cost);
            if let Some(part) = best.get_mut(at..) {
                part.rotate_right(1);
                part.first_mut().into_iter().for_each(|slot| *slot = *found);
            }
            true
        });
        for (found, entry) in best.iter().zip(&list.entries) {
            let place = u32::try_from(found.place).unwrap_or(u32::MAX);
            entry.place_and_base.store(u64::from(place) << 32 | u64::from(found.base.to_bits()), Relaxed);
            entry.estimate_s.store(found.estimate_s.to_bits(), Relaxed);
        }
        list.next_cost.store(next_cost.to_bits(), Relaxed);
        list.looked.store(u64::from(fading.now_ms()) << 32 | u64::from(PICKS_A_LOOK), Relaxed);
        cheapest.choice()
    }

    /// The cheapest of all that `wanted` takes, which is asked of each.
    #[inline]
    fn find(&self, fading: &Fading, random: u32, mut wanted: impl FnMut(&Found) -> bool) -> Found {
        let start = below(random, self.rows.len());
        let (before, after) = self.rows.split_at(start.min(self.rows.len()));
        let mut cheapest = Found::NONE;
        for (first, rows) in [(start, after), (0, before)] {
            for (row, place) in rows.iter().zip(first..) {
                let estimate_s = row.link.estimate.faded(fading, row.prior_s);
                let base = estimate_s * row.factor;
                let found = Found { cost: base * row.waiting(), place, base, estimate_s };
                if wanted(&found) && found.cost < cheapest.cost {
                    cheapest = found;
                }
            }
        }
        cheapest
    }
}
