//! The slow side of a link: what the ticks so far have drained, faded with age.
//!
//! A tick takes the difference of each cumulative counter since the last tick and adds it to aggregates that fade with
//! time constant `MEMORY`: the statistics speak of about the last ten seconds, without windows whose edges would show.

use super::cell::{LinkCell, Shard};
use super::sketch::{BUCKETS, Sketch, Span};
use super::told::{Account, Brief};
use super::{LinkStats, Time};
use std::sync::atomic::Ordering::Relaxed;

/// The time constant with which what was seen on links fades, in seconds.
pub const MEMORY_S: f32 = 10.0;
/// The time constant with which what is usual fades, in seconds.
pub const BASELINE_S: f32 = 100.0;
/// From this age on, in seconds, what a link's memory lacks to its full length is less than a float tells apart.
const GROWN_UP_S: f32 = 20.0 * MEMORY_S;
/// The time constant of the latency EWMA, in seconds.
const EWMA_S: f32 = 3.0;

/// What was drained of one shard so far.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    started: u64,
    errors: u64,
    ended: u64,
    samples: u64,
    latency_sum_ns: u64,
    step_sum_ns: u64,
    /// Made with the first latency.
    buckets: Option<Box<[u32; BUCKETS]>>,
}

/// What one shard saw since the last tick. Counts become floats by way of signed numbers, which takes a processor one
/// instruction instead of ten.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Drained {
    calls: u64,
    pub errors: u64,
    pub ended: u64,
    pub samples: u64,
    pub latency_s: f64,
    /// The differences of successive latencies.
    pub steps_s: f64,
    /// How many of them: the first latency ever has none.
    pub steps: u64,
}

impl Cursor {
    /// Takes what is new in a shard, latencies into `sketch`.
    pub fn drain(&mut self, shard: &Shard, sketch: &mut Sketch) -> Drained {
        let first = self.samples == 0;
        let take = |seen: &mut u64, counter: u64| {
            let new = counter.wrapping_sub(*seen);
            *seen = counter;
            new
        };
        let mut drained = Drained {
            calls: take(&mut self.started, shard.started.load(Relaxed)),
            errors: take(&mut self.errors, shard.errors.load(Relaxed)),
            ended: take(&mut self.ended, shard.ended.load(Relaxed)),
            samples: take(&mut self.samples, shard.samples.load(Relaxed)),
            latency_s: take(&mut self.latency_sum_ns, shard.latency_sum_ns.load(Relaxed)) as i64 as f64 * 1e-9,
            steps_s: take(&mut self.step_sum_ns, shard.step_sum_ns.load(Relaxed)) as i64 as f64 * 1e-9,
            steps: 0,
        };
        drained.steps = drained.samples.saturating_sub(u64::from(first));
        if drained.samples > 0
            && let Some(buckets) = shard.buckets.get()
        {
            let seen = self.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]));
            let range = Span::unpacked(shard.span.load(Relaxed)).range();
            let low = range.start;
            let counters = buckets.get(range.clone()).unwrap_or_default();
            let seen = seen.get_mut(range).unwrap_or_default();
            sketch.add_new(low, counters, seen);
            sketch.add_sum(drained.latency_s);
        }
        drained
    }
}

/// The sum and the count of latencies, fading slowly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Baseline {
    sum_s: f64,
    samples: f64,
}

/// Less than this of a sample says nothing any more.
const LEAST_OF_A_SAMPLE: f64 = 0.01;

impl Baseline {
    /// Adds latencies by their sum in seconds and how many they are.
    pub fn add(&mut self, sum_s: f64, samples: f64) {
        self.sum_s += sum_s;
        self.samples += samples;
    }

    /// Adds what another one holds.
    pub fn merge(&mut self, other: Self) {
        self.add(other.sum_s, other.samples);
    }

    /// How many latencies there are, faded ones in part.
    #[must_use]
    pub fn samples(self) -> f32 {
        self.samples as f32
    }

    /// Fades all by a factor from 0 to 1.
    pub fn fade(&mut self, keep: f32) {
        self.sum_s *= f64::from(keep);
        self.samples *= f64::from(keep);
    }

    /// The mean in seconds; unknown when too little is left.
    #[must_use]
    pub fn mean_s(self) -> Option<f32> {
        (self.samples > LEAST_OF_A_SAMPLE).then(|| (self.sum_s / self.samples) as f32)
    }
}

/// How far all fades in a time: alike for all links that were last looked at at one moment, so it is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fades {
    elapsed_s: f32,
    memory: f32,
    baseline: f32,
    ewma: f32,
    /// A link's age and the length of its memory by then, both in seconds.
    grown: (f32, f32),
}

impl Default for Fades {
    fn default() -> Self {
        Self { elapsed_s: 0.0, memory: 1.0, baseline: 1.0, ewma: 1.0, grown: (0.0, 0.0) }
    }
}

impl Fades {
    fn after(&mut self, elapsed_s: f32) -> Self {
        if elapsed_s != self.elapsed_s {
            let keep = |time_constant_s: f32| (-elapsed_s / time_constant_s).exp();
            let (memory, baseline, ewma) = (keep(MEMORY_S), keep(BASELINE_S), keep(EWMA_S));
            *self = Self { elapsed_s, memory, baseline, ewma, grown: self.grown };
        }
        *self
    }

    /// The length of a link's faded memory at some age, in seconds: a young link's rate would else be underestimated.
    fn memory_s(&mut self, age_s: f32) -> f32 {
        if age_s >= GROWN_UP_S {
            return MEMORY_S;
        }
        if age_s != self.grown.0 {
            self.grown = (age_s, MEMORY_S * (1.0 - (-age_s / MEMORY_S).exp()));
        }
        self.grown.1
    }
}

/// One link's aggregates.
#[derive(Debug)]
pub struct History {
    cursors: Box<[Cursor]>,
    pub sketch: Sketch,
    pub baseline: Baseline,
    born: Time,
    last_tick: Time,
    last_sample: Option<Time>,
    ewma_s: Option<f32>,
    jitter_s: Option<f32>,
    calls: f32,
    errors: f32,
    ended: f32,
}

impl History {
    /// Of a link that nothing was drained of yet.
    pub(super) fn of(cell: &LinkCell) -> Self {
        let now = cell.born;
        Self {
            cursors: cell.shards.iter().map(|_| Cursor::default()).collect(),
            sketch: Sketch::default(),
            baseline: Baseline::default(),
            born: now,
            last_tick: now,
            last_sample: None,
            ewma_s: None,
            jitter_s: None,
            calls: 0.0,
            errors: 0.0,
            ended: 0.0,
        }
    }

    /// Drains the cell and says what is now known of the link.
    pub(super) fn tick(&mut self, cell: &LinkCell, now: Time, kept: &mut Fades) -> LinkStats {
        let fades = kept.after(now.seconds_since(self.last_tick));
        self.last_tick = self.last_tick.max(now);
        let keep = fades.memory;
        self.sketch.scale(keep);
        self.baseline.fade(fades.baseline);
        self.calls *= keep;
        self.errors *= keep;
        self.ended *= keep;

        let (mut all, mut jitter_sum, mut jitter_samples) = (Drained::default(), 0.0, 0.0);
        for (cursor, shard) in self.cursors.iter_mut().zip(cell.shards.iter()) {
            let drained = cursor.drain(shard, &mut self.sketch);
            all.calls += drained.calls;
            all.errors += drained.errors;
            all.ended += drained.ended;
            all.samples += drained.samples;
            all.latency_s += drained.latency_s;
            // Jitter is a difference of successive calls: the first ever has none.
            if drained.samples > 0 && cursor.samples > 1 {
                jitter_sum += f32::from_bits(shard.jitter_s.load(Relaxed)) * drained.samples as i64 as f32;
                jitter_samples += drained.samples as i64 as f32;
            }
        }
        self.baseline.add(all.latency_s, all.samples as i64 as f64);
        self.calls += all.calls as i64 as f32;
        self.errors += all.errors as i64 as f32;
        self.ended += all.ended as i64 as f32;
        if jitter_samples > 0.0 {
            self.jitter_s = Some(jitter_sum / jitter_samples);
        }
        if all.samples > 0 {
            let mean = (all.latency_s / all.samples as i64 as f64) as f32;
            // By the time since the last sample, not since the last tick: a link that is seldom used forgets as fast.
            let gap = self.last_sample.map_or(0.0, |at| now.seconds_since(at));
            let keep = if gap == fades.elapsed_s { fades.ewma } else { (-gap / EWMA_S).exp() };
            self.ewma_s = Some(self.ewma_s.map_or(mean, |last| mean + (last - mean) * keep));
            self.last_sample = Some(now);
        } else if self.sketch.count() == 0.0 {
            // All samples have faded: what is left of them is no knowledge any more.
            (self.ewma_s, self.jitter_s) = (None, None);
        }
        self.stats(cell, now, kept)
    }

    /// What a reader needs to know of the link to tell whether others should hear of it.
    pub(super) fn brief(&self, cell: &LinkCell) -> Brief {
        Brief {
            ended: cell.totals().ended,
            in_flight: cell.in_flight() as i64 as f32,
            ewma_s: self.ewma_s,
            calls_per_second: self.calls / MEMORY_S,
            error_rate: self.error_rate(),
        }
    }

    /// What can be told to others of the link, as of its last tick.
    pub(super) fn account(&self, cell: &LinkCell, now: Time, fades: &mut Fades) -> Account {
        let memory_s = fades.memory_s(self.last_tick.seconds_since(self.born));
        Account {
            latency: self.sketch.counts(),
            mean_s: self.sketch.mean().map(|m| m as f32),
            ewma_s: self.ewma_s,
            baseline_s: self.baseline.mean_s(),
            baseline_samples: self.baseline.samples(),
            jitter_s: self.jitter_s,
            calls_per_second: if memory_s > 0.0 { self.calls / memory_s } else { 0.0 },
            error_rate: self.error_rate(),
            in_flight: cell.in_flight() as i64 as f32,
            age_s: self.last_sample.map(|at| now.seconds_since(at)),
        }
    }

    fn error_rate(&self) -> Option<f32> {
        (self.ended > 0.01).then(|| (self.errors / self.ended).min(1.0))
    }

    fn stats(&self, cell: &LinkCell, now: Time, fades: &mut Fades) -> LinkStats {
        let quantiles = self.sketch.quantiles([0.1, 0.5, 0.9, 0.99]);
        let quantile = |i: usize| quantiles.and_then(|q| q.get(i).map(|v| *v as f32));
        let memory_s = fades.memory_s(now.seconds_since(self.born));
        LinkStats {
            latency_mean_s: self.sketch.mean().map(|m| m as f32),
            latency_p10_s: quantile(0),
            latency_p50_s: quantile(1),
            latency_p90_s: quantile(2),
            latency_p99_s: quantile(3),
            latency_ewma_s: self.ewma_s,
            latency_baseline_s: self.baseline.mean_s(),
            jitter_s: self.jitter_s,
            calls_per_second: (memory_s > 0.0).then(|| self.calls / memory_s),
            error_rate: self.error_rate(),
            in_flight: cell.in_flight() as i64 as f32,
            samples: self.sketch.count() as f32,
            age_s: self.last_sample.map(|at| now.seconds_since(at)),
        }
    }
}
