//! A cluster's gate: how many are inside, who may come in, and what was seen of them.
//!
//! The number inside is one atomic, on a cache line of its own: one locked instruction in and one out, as every endpoint's
//! node has them already. It is exact, which shares of a quota would not be where limits are small, and cheap enough: in
//! and out take 30 ns on one core, and 90 ns where two cores do nothing else (a shared Intel Xeon). Everything else that
//! requests write is their core's own, and everything that they read besides is written ten times a second (`adjust`).

use super::limiter::{Limiter, Seen};
use super::priority::{ClassId, Classes, LEVELS, Rank, shown};
use super::shedder::Shedder;
use crate::config::{Admission, Concurrency};
use crate::links::{Time, bump, bump32};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Sums of logarithms are kept in units of this part of a doubling.
const LOG2_UNIT: f32 = 65_536.0;

/// What the gate says to who arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Come in, as one of so many; `leave` at the end.
    Inside(u32),
    /// No place at the moment: wait for one, then `stop_waiting`.
    Wait,
    /// No.
    Refused(Refusal),
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// More important requests came first.
    Shed,
    /// No place, and none to wait in.
    Full,
    /// No place for as long as it may wait.
    Waited,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 3] = [Refusal::Shed, Refusal::Full, Refusal::Waited];
}

/// What a request that is over says about how fast its cluster is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Served {
    /// It was answered after this.
    Within(Duration),
    /// It was given up after this.
    NotWithin(Duration),
    /// Nothing: it failed, which may be quick.
    Unknown,
}

/// One core's counters.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// By level of P.
    arrived: Box<[AtomicU32]>,
    under_way_sum: AtomicU64,
    finished: AtomicU64,
    samples: AtomicU64,
    log2_sum: AtomicU64,
    full: AtomicU64,
    /// By class, then by refusal.
    refused: Box<[AtomicU64]>,
    /// By class.
    let_in: Box<[AtomicU64]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// What requests read and `adjust` writes.
#[derive(Debug)]
struct Dials {
    limit: AtomicU32,
    /// How far beyond the limit those above the marginal level may go.
    extra: AtomicU32,
    threshold: AtomicU32,
    marginal: AtomicU32,
    /// The latency of late in nanoseconds; what was given up sooner says nothing.
    recent_ns: AtomicU64,
}

/// What `adjust` knows.
#[derive(Debug)]
struct Slow {
    limiter: Option<Limiter>,
    shedder: Shedder,
    seen: Sums,
    arrived_before: Vec<u32>,
    arrived: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    under_way_sum: u64,
    finished: u64,
    samples: u64,
    log2_sum: u64,
    full: u64,
}

/// A cluster's gate.
#[derive(Debug)]
pub struct Gate {
    /// The cluster's name.
    pub cluster: Arc<str>,
    settings: Admission,
    classes: Vec<Arc<str>>,
    under_way: Padded<AtomicU32>,
    waiting: Padded<AtomicU32>,
    dials: Padded<Dials>,
    shards: Box<[Shard]>,
    slow: Mutex<Slow>,
}

/// What a gate shows.
#[derive(Debug, Clone, PartialEq)]
pub struct GateView {
    /// Whether the limit is learnt.
    pub auto: bool,
    /// How many may be under way.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait.
    pub pending: u32,
    /// The P below which requests are refused, 0 to 1; none are at 0.
    pub threshold: f64,
    /// The latency without a queue, where it is known.
    pub minimum_s: Option<f64>,
    /// The latency of late, where it is known.
    pub recent_s: Option<f64>,
    /// By class: how many were let in, and how many refused by `Refusal::ALL`.
    pub classes: BTreeMap<Arc<str>, (u64, [u64; 3])>,
}

impl Shard {
    fn count_in(&self, class: ClassId) {
        if let Some(counter) = self.let_in.get(usize::from(class.0)) {
            bump(counter, 1);
        }
    }
}

impl Gate {
    /// A gate as configured, for so many serving threads and endpoints; none where concurrency is off. `before` is the one
    /// that it takes the place of.
    #[must_use]
    pub fn of(
        cluster: &Arc<str>,
        settings: &Admission,
        classes: &Classes,
        (cores, endpoints): (usize, usize),
        before: Option<&Arc<Gate>>,
    ) -> Option<Arc<Gate>> {
        let fixed = match settings.concurrency {
            Concurrency::Off => return None,
            Concurrency::Auto => None,
            Concurrency::Limit(limit) => Some(limit),
        };
        let names: Vec<Arc<str>> = classes.names().cloned().collect();
        let same = |b: &&Arc<Gate>| b.settings == *settings && b.classes == names && b.shards.len() == cores.max(1);
        if let Some(kept) = before.filter(same) {
            if let Some(limiter) = &mut kept.slow().limiter {
                limiter.resize(endpoints);
            }
            return Some(kept.clone());
        }
        let learnt = before.and_then(|b| b.slow().limiter.clone());
        let limiter = fixed.is_none().then(|| {
            let mut limiter = learnt.unwrap_or_else(|| Limiter::new(Time(0), endpoints));
            limiter.resize(endpoints);
            limiter
        });
        let limit = fixed.or(limiter.as_ref().map(Limiter::limit)).unwrap_or(u32::MAX);
        let shard = |_| Shard {
            arrived: (0..LEVELS).map(|_| AtomicU32::new(0)).collect(),
            under_way_sum: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            log2_sum: AtomicU64::new(0),
            full: AtomicU64::new(0),
            refused: (0..names.len() * Refusal::ALL.len()).map(|_| AtomicU64::new(0)).collect(),
            let_in: names.iter().map(|_| AtomicU64::new(0)).collect(),
        };
        let gate = Gate {
            cluster: cluster.clone(),
            settings: settings.clone(),
            under_way: Padded::default(),
            waiting: Padded::default(),
            dials: Padded(Dials {
                limit: AtomicU32::new(limit),
                extra: AtomicU32::new(extra(limit)),
                threshold: AtomicU32::new(0),
                marginal: AtomicU32::new(u32::MAX),
                recent_ns: AtomicU64::new(0),
            }),
            shards: (0..cores.max(1)).map(shard).collect(),
            slow: Mutex::new(Slow {
                limiter,
                shedder: Shedder::default(),
                seen: Sums::default(),
                arrived_before: vec![0; LEVELS],
                arrived: vec![0; LEVELS],
            }),
            classes: names,
        };
        Some(Arc::new(gate))
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a request may wait for a place.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.settings.wait.0
    }

    /// A request arrives. What it is told is counted.
    pub fn arrive(&self, core: usize, rank: Rank, class: ClassId) -> Entry {
        let Some(shard) = self.shards.get(core) else { return Entry::Refused(Refusal::Full) };
        if let Some(counter) = shard.arrived.get(rank.level() as usize) {
            bump32(counter);
        }
        let threshold = self.dials.0.threshold.load(Relaxed);
        if u32::from(rank.0) < threshold {
            self.refuse(core, class, Refusal::Shed);
            return Entry::Refused(Refusal::Shed);
        }
        if let Some(now) = self.enter(shard, rank, class) {
            return Entry::Inside(now);
        }
        bump(&shard.full, 1);
        let important = threshold == 0 || rank.level() > self.dials.0.marginal.load(Relaxed);
        if important && up(&self.waiting.0, self.settings.pending) {
            return Entry::Wait;
        }
        self.refuse(core, class, Refusal::Full);
        Entry::Refused(Refusal::Full)
    }

    /// A request that waits asks again; if it is inside now, as one of how many.
    pub fn ask_again(&self, core: usize, rank: Rank, class: ClassId) -> Option<u32> {
        self.enter(self.shards.get(core)?, rank, class)
    }

    /// A request that is inside takes a second place for a while, where nobody else wants it: none is refused, none waits,
    /// and the limit leaves it. `leave_beside` at the end.
    #[must_use]
    pub fn enter_beside(&self) -> bool {
        let Padded(dials) = &self.dials;
        dials.threshold.load(Relaxed) == 0
            && self.waiting.0.load(Relaxed) == 0
            && up(&self.under_way.0, dials.limit.load(Relaxed))
    }

    /// A second place is free again, of which nothing is learnt.
    pub fn leave_beside(&self) {
        self.under_way.0.fetch_sub(1, Relaxed);
    }

    /// A request waits no more, whether it came in or not.
    pub fn stop_waiting(&self) {
        self.waiting.0.fetch_sub(1, Relaxed);
    }

    /// Counts a refusal.
    pub fn refuse(&self, core: usize, class: ClassId, refusal: Refusal) {
        let at = usize::from(class.0) * Refusal::ALL.len() + refusal as usize;
        if let Some(counter) = self.shards.get(core).and_then(|s| s.refused.get(at)) {
            bump(counter, 1);
        }
    }

    fn enter(&self, shard: &Shard, rank: Rank, class: ClassId) -> Option<u32> {
        let now = up_to(&self.under_way.0, self.most(rank))?;
        shard.count_in(class);
        Some(now)
    }

    /// How many may be under way where one of this rank comes in.
    fn most(&self, rank: Rank) -> u32 {
        let Padded(dials) = &self.dials;
        let limit = dials.limit.load(Relaxed);
        let beyond = rank.level() > dials.marginal.load(Relaxed);
        if beyond { limit.saturating_add(dials.extra.load(Relaxed)) } else { limit }
    }

    /// Whether the place of one that leaves may go to one of this rank.
    #[must_use]
    pub fn may_take_over(&self, rank: Rank) -> bool {
        self.under_way.0.load(Relaxed) <= self.most(rank)
    }

    /// Counts one that took over a place; it is one of so many.
    pub fn took_over(&self, core: usize, class: ClassId) -> u32 {
        if let Some(shard) = self.shards.get(core) {
            shard.count_in(class);
        }
        self.in_flight()
    }

    /// A request is over that came in as one of so many, and its place is free.
    pub fn leave(&self, core: usize, one_of: u32, served: Served) {
        self.under_way.0.fetch_sub(1, Relaxed);
        self.hand_on(core, one_of, served);
    }

    /// A request is over that came in as one of so many, and somebody has its place already.
    pub fn hand_on(&self, core: usize, one_of: u32, served: Served) {
        let Some(shard) = self.shards.get(core) else { return };
        bump(&shard.finished, 1);
        let latency = match served {
            Served::Within(latency) => Some(latency),
            Served::NotWithin(latency) => {
                let recent = Duration::from_nanos(self.dials.0.recent_ns.load(Relaxed));
                Some(latency).filter(|l| !recent.is_zero() && *l >= recent)
            }
            Served::Unknown => None,
        };
        if let Some(latency) = latency {
            let log2 = (latency.as_nanos().max(1) as f32).log2();
            bump(&shard.samples, 1);
            bump(&shard.under_way_sum, u64::from(one_of));
            bump(&shard.log2_sum, (log2 * LOG2_UNIT) as u64);
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.under_way.0.load(Relaxed)
    }

    /// Sets limit and threshold by what was seen since the last call. For one caller, about every tenth of a second.
    pub fn adjust(&self, now: Time) {
        let mut slow = self.slow();
        let Slow { limiter, shedder, seen, arrived_before, arrived } = &mut *slow;
        let mut sums = Sums::default();
        arrived.fill(0);
        for shard in &self.shards {
            sums.under_way_sum += shard.under_way_sum.load(Relaxed);
            sums.finished += shard.finished.load(Relaxed);
            sums.samples += shard.samples.load(Relaxed);
            sums.log2_sum += shard.log2_sum.load(Relaxed);
            sums.full += shard.full.load(Relaxed);
            for (sum, counter) in arrived.iter_mut().zip(&shard.arrived) {
                *sum = sum.wrapping_add(counter.load(Relaxed));
            }
        }
        for (new, before) in arrived.iter_mut().zip(arrived_before.iter_mut()) {
            let all = *new;
            *new = all.wrapping_sub(*before);
            *before = all;
        }
        let last = std::mem::replace(seen, sums);
        let full = sums.full.saturating_sub(last.full);
        let Padded(dials) = &self.dials;
        if let Some(limiter) = limiter {
            limiter.observe(
                now,
                Seen {
                    samples: sums.samples.saturating_sub(last.samples),
                    log2_sum: sums.log2_sum.saturating_sub(last.log2_sum) as f64 / f64::from(LOG2_UNIT),
                    under_way_sum: sums.under_way_sum.saturating_sub(last.under_way_sum),
                    full,
                },
            );
            dials.limit.store(limiter.limit(), Relaxed);
            dials.recent_ns.store(limiter.recent_s().map_or(0, |s| (s * 1e9) as u64), Relaxed);
        }
        let now_limit = dials.limit.load(Relaxed);
        let limit = limiter.as_ref().map_or(now_limit, |l| l.limit_of_others());
        dials.extra.store(extra(limit) + limit.saturating_sub(now_limit), Relaxed);
        let finished = sums.finished.saturating_sub(last.finished);
        shedder.adjust(arrived, finished, full, self.in_flight(), limit);
        dials.threshold.store(u32::from(shedder.threshold().0), Relaxed);
        dials.marginal.store(shedder.marginal(), Relaxed);
    }

    /// What it shows.
    #[must_use]
    pub fn view(&self) -> GateView {
        let slow = self.slow();
        let sum = |count: &dyn Fn(&Shard) -> Option<u64>| self.shards.iter().filter_map(count).sum::<u64>();
        let of = |list: &[AtomicU64], at: usize| list.get(at).map(|c| c.load(Relaxed));
        let classes = self.classes.iter().enumerate().map(|(i, name)| {
            let refused = Refusal::ALL.map(|r| sum(&|s| of(&s.refused, i * Refusal::ALL.len() + r as usize)));
            (name.clone(), (sum(&|s| of(&s.let_in, i)), refused))
        });
        GateView {
            auto: slow.limiter.is_some(),
            limit: self.dials.0.limit.load(Relaxed),
            in_flight: self.in_flight(),
            pending: self.waiting.0.load(Relaxed),
            threshold: shown(Rank(self.dials.0.threshold.load(Relaxed) as u16).level()),
            minimum_s: slow.limiter.as_ref().and_then(Limiter::minimum_s),
            recent_s: slow.limiter.as_ref().and_then(Limiter::recent_s),
            classes: classes.collect(),
        }
    }
}

/// How far beyond a limit important requests may go: four standard deviations of what arrives by chance, and not beyond
/// twice the limit. They come to less than the capacity, or they would not all be above the threshold's level.
fn extra(limit: u32) -> u32 {
    ((f64::from(limit).sqrt() * 4.0).ceil() as u32).min(limit)
}

/// Counts one more, if that is not more than `most`; the new count.
fn up_to(counter: &AtomicU32, most: u32) -> Option<u32> {
    let mut now = counter.load(Relaxed);
    loop {
        if now >= most {
            return None;
        }
        match counter.compare_exchange_weak(now, now + 1, Relaxed, Relaxed) {
            Ok(_) => return Some(now + 1),
            Err(seen) => now = seen,
        }
    }
}

fn up(counter: &AtomicU32, most: u32) -> bool {
    up_to(counter, most).is_some()
}
