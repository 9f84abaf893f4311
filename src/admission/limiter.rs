//! How many requests a cluster can have under way, learnt from their latency.
//!
//! A gradient limiter, as in Netflix's concurrency-limits (`Gradient2Limit`) and Envoy's adaptive concurrency: with the
//! minimum latency M and the present one S, both geometric means, which few odd requests do not move,
//!
//! ```text
//! gradient = min(1, TOLERANCE x M / S)      limit <- limit x gradient + sqrt(limit)
//! ```
//!
//! What makes such limiters dangerous is M. Learnt too low, it takes a service that became slower for one that is
//! overloaded, and refuses what could be served; learnt under load, it takes overload for normal, and drifts up. Hence:
//!
//! - **The limit falls only while it is reached.** It rose to where it is because so many were served without slowing
//!   down, so fewer than that are never refused, whatever their latency.
//! - **Less concurrency must mean less latency,** or it was not the concurrency. When halving the number under way leaves
//!   latency where it was, the service is slower, not fuller: that latency is the new minimum, and the limit goes back.
//! - **While it refuses, it looks.** Every `PROBE_EVERY` the limit is a third for as long as it takes to see what latency
//!   is then. A minimum that was learnt under load falls, again and again, until it is one; one that is too low rises by the
//!   rule above. It costs the least important requests a few hundredths of their throughput (`Limiter::limit_of_others`
//!   stays), and nothing while nobody is refused.
//! - **A lightly used service** (below a quarter of the limit, nobody refused) is at its minimum, whatever that is by now:
//!   M follows slowly; and very slowly while more are under way and nobody is refused.
//! - **After `FORGET_AFTER` without a request** nothing is known: M is learnt anew and the limit is at least what it began
//!   with.
//!
//! It begins at `INITIAL`, or more where there are many endpoints, and doubles while it is reached and latency stays: a
//! thousand in about a second. It is never less than one for each endpoint.

use crate::links::Time;
use std::time::Duration;

/// The limit at the start, at least;
const INITIAL: f64 = 20.0;
/// and for each endpoint.
const INITIAL_EACH: f64 = 10.0;
/// The least limit: fewer would not show whether concurrency matters.
pub const MIN_LIMIT: f64 = 4.0;
/// The largest limit.
pub const MAX_LIMIT: f64 = 1_000_000.0;
/// How much slower than the minimum latency may be without a limit shrinking. Netflix's default is 1.5; where the time that
/// requests take varies as much as its mean, that leaves a tenth of the capacity unused.
const TOLERANCE: f64 = 2.0;
/// The most that one window takes of the limit.
const MIN_GRADIENT: f64 = 0.5;
/// A change is made by this part.
const STEP: f64 = 0.5;
/// A window has so many samples,
const ENOUGH: u64 = 50;
/// and is no shorter than this,
const SHORTEST: Duration = Duration::from_millis(100);
/// or than this many times the latency, so that what a changed limit did shows in it,
const LATENCIES: f64 = 1.5;
/// but is over after this, or after twice that many times the latency where that is more.
const LONGEST: Duration = Duration::from_secs(1);
/// No latency makes a window longer than this.
const LONGEST_OF_ALL: Duration = Duration::from_secs(10);
/// How often a limit that is reached is made smaller to look,
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// or how soon again when that brought something,
const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// but not before so many times the latency, in both cases: until it shows, places are empty.
const PROBE_LATENCIES: [f64; 2] = [30.0, 10.0];
/// What part of the limit is left then. A limit settles where latency is `TOLERANCE` times the minimum: to find a smaller
/// one, it takes a smaller part than that.
const PROBE_PART: f64 = 0.67 / TOLERANCE;
/// A look takes so many windows, in the first of which are requests that came before it,
const PROBE_DRAINED: u32 = 2;
/// and at most so many where fewer did not come in.
const PROBE_WINDOWS: u32 = 5;
/// By how many doublings the number under way must have fallen before latencies are compared.
const COMPARED_AT: f64 = 0.7;
/// What is compared is no older than this.
const REFERENCE_FOR: Duration = Duration::from_secs(5);
/// Doublings of latency for each doubling of concurrency below which concurrency is not the cause. A queue gives 1.
const FLAT: f64 = 0.3;
/// How fast the minimum follows while the service is lightly used,
const FOLLOW: Duration = Duration::from_secs(5);
/// and how fast while it is not, but nobody is refused.
const FOLLOW_BUSY: Duration = Duration::from_secs(60);
/// Silence after which nothing is known any more.
const FORGET_AFTER: Duration = Duration::from_secs(15);

/// What was seen since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// Requests whose latency was measured.
    pub samples: u64,
    /// The sum of the binary logarithms of their latencies in nanoseconds.
    pub log2_sum: f64,
    /// The sum over them of how many were under way when they came, themselves included. (Not how many are now: latency
    /// tells of the queue that a request found.)
    pub under_way_sum: u64,
    /// Requests that found no place.
    pub full: u64,
}

impl Seen {
    fn add(&mut self, more: Seen) {
        self.samples += more.samples;
        self.log2_sum += more.log2_sum;
        self.under_way_sum += more.under_way_sum;
        self.full += more.full;
    }
}

/// Where latency stood at a number of requests under way; both as binary logarithms.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: Time,
    under_way: f64,
    latency: f64,
    limit: f64,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    before: Point,
    windows: u32,
}

/// A limit that is learnt. Latencies are kept as binary logarithms of nanoseconds.
#[derive(Debug, Clone)]
pub struct Limiter {
    limit: f64,
    /// How many endpoints it is for.
    endpoints: f64,
    minimum: Option<f64>,
    recent: Option<f64>,
    /// Nothing slowed down yet.
    growing: bool,
    window: Seen,
    begun: Time,
    /// When a request was last measured.
    last: Time,
    reference: Option<Point>,
    probe: Option<Probe>,
    probe_at: Time,
}

impl Limiter {
    /// A limiter that knows nothing, for so many endpoints.
    #[must_use]
    pub fn new(now: Time, endpoints: usize) -> Self {
        let endpoints = endpoints as f64;
        Self {
            limit: initial(endpoints),
            endpoints,
            minimum: None,
            recent: None,
            growing: true,
            window: Seen::default(),
            begun: now,
            last: now,
            reference: None,
            probe: None,
            probe_at: now + PROBE_AGAIN,
        }
    }

    /// From now on there are so many endpoints.
    pub fn resize(&mut self, endpoints: usize) {
        self.endpoints = endpoints as f64;
        self.set(self.limit);
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.round() as u32
    }

    /// The limit of requests that no look should cost a place.
    #[must_use]
    pub fn limit_of_others(&self) -> u32 {
        self.probe.map_or(self.limit, |probe| probe.before.limit).round() as u32
    }

    /// The latency without a queue, in seconds.
    #[must_use]
    pub fn minimum_s(&self) -> Option<f64> {
        self.minimum.map(seconds)
    }

    /// The last window's latency, in seconds.
    #[must_use]
    pub fn recent_s(&self) -> Option<f64> {
        self.recent.map(seconds)
    }

    /// Takes in what was seen since the last call.
    pub fn observe(&mut self, now: Time, seen: Seen) {
        if now < self.begun || now < self.last {
            // The clock went back: windows are counted from here.
            self.stop_looking();
            (self.begun, self.last, self.window) = (now, now, Seen::default());
            (self.reference, self.probe_at) = (None, now + PROBE_EVERY);
        }
        if self.window.samples == 0 && now.since(self.begun) > LONGEST {
            // Nothing came for a while: the window begins with what comes now.
            self.begun = now;
        }
        if seen.samples > 0 && seen.log2_sum.is_finite() {
            if now.since(self.last) > FORGET_AFTER {
                self.forget(now);
            }
            self.last = now;
            self.window.add(seen);
        } else {
            self.window.full += seen.full;
        }
        let elapsed = now.since(self.begun);
        let latencies = self.recent.map_or(0.0, |recent| LATENCIES * seconds(recent));
        let latencies = Duration::from_secs_f64(latencies.min(LONGEST_OF_ALL.as_secs_f64() / 2.0));
        let enough = self.window.samples >= ENOUGH && elapsed >= latencies.max(SHORTEST);
        if !enough && elapsed < LONGEST.max(latencies * 2) {
            return;
        }
        let window = std::mem::take(&mut self.window);
        self.begun = now;
        if window.samples > 0 {
            self.step(now, elapsed, window);
        }
    }

    fn forget(&mut self, now: Time) {
        self.stop_looking();
        (self.minimum, self.recent, self.growing) = (None, None, true);
        self.limit = self.limit.max(initial(self.endpoints));
        (self.window, self.begun, self.reference) = (Seen::default(), now, None);
    }

    /// A look that comes to nothing leaves the limit as it was.
    fn stop_looking(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.set(probe.before.limit);
        }
    }

    fn step(&mut self, now: Time, elapsed: Duration, window: Seen) {
        let latency = (window.log2_sum / window.samples as f64).clamp(0.0, 64.0);
        let mean = window.under_way_sum as f64 / window.samples as f64;
        let under_way = mean.max(1.0).log2();
        self.recent = Some(latency);
        let minimum = self.learn(latency, mean, elapsed, window.full == 0);
        let here = Point { at: now, under_way, latency, limit: self.limit };
        if let Some(probe) = self.probe.take() {
            return self.look(probe, here, minimum);
        }
        let gradient = (minimum + TOLERANCE.log2() - latency).exp2().clamp(MIN_GRADIENT, 1.0);
        let reached = window.full > 0;
        if gradient >= 1.0 {
            self.reference = None;
            if reached || mean > self.limit / 2.0 {
                let more = if self.growing { self.limit } else { self.limit.sqrt() };
                self.set(self.limit + more);
            }
        } else {
            self.growing = false;
            if reached {
                self.fall(here, gradient);
            }
        }
        if reached && now >= self.probe_at {
            self.probe = Some(Probe { before: Point { limit: self.limit, ..here }, windows: 0 });
            self.set(self.limit * PROBE_PART);
        }
    }

    /// The minimum after this latency was seen.
    fn learn(&mut self, latency: f64, mean: f64, elapsed: Duration, nobody_refused: bool) -> f64 {
        let minimum = match self.minimum {
            None => latency,
            // One window's luck is not the minimum yet.
            Some(known) if latency < known => known + (latency - known) * 0.5,
            Some(known) if nobody_refused => {
                let follow = if mean < self.limit / 4.0 { FOLLOW } else { FOLLOW_BUSY };
                known + (latency - known) * (elapsed.as_secs_f64() / follow.as_secs_f64()).min(1.0)
            }
            Some(known) => known,
        };
        self.minimum = Some(minimum);
        minimum
    }

    /// Makes the limit smaller, unless that turns out to be of no use.
    fn fall(&mut self, here: Point, gradient: f64) {
        let reference = match self.reference {
            Some(point) if here.at.since(point.at) <= REFERENCE_FOR => point,
            _ => *self.reference.insert(here),
        };
        if reference.under_way - here.under_way >= COMPARED_AT {
            if flat(reference, here) {
                self.minimum = Some(here.latency);
                self.reference = None;
                return self.set(reference.limit);
            }
            self.reference = Some(here);
        }
        let wanted = self.limit * gradient + self.limit.sqrt();
        self.set(self.limit + (wanted - self.limit) * STEP);
    }

    /// Compares what a smaller limit did.
    fn look(&mut self, probe: Probe, here: Point, minimum: f64) {
        let before = probe.before;
        let fallen = before.under_way - here.under_way >= COMPARED_AT;
        if probe.windows < if fallen { PROBE_DRAINED } else { PROBE_WINDOWS } {
            self.probe = Some(Probe { windows: probe.windows + 1, ..probe });
            return;
        }
        if fallen && flat(before, here) {
            // Slower, not fuller.
            self.minimum = Some(minimum.max(here.latency));
        } else if fallen && here.latency < minimum {
            self.minimum = Some(here.latency);
        }
        let learnt = self.minimum.is_some_and(|now| (now - minimum).abs() > 0.1);
        let [usually, again] = PROBE_LATENCIES;
        let (after, latencies) = if learnt { (PROBE_AGAIN, again) } else { (PROBE_EVERY, usually) };
        let latencies = Duration::from_secs_f64((latencies * seconds(here.latency)).min(3_600.0));
        self.probe_at = here.at + after.max(latencies);
        self.reference = None;
        self.set(before.limit);
    }

    fn set(&mut self, limit: f64) {
        let least = MIN_LIMIT.max(self.endpoints).min(MAX_LIMIT);
        self.limit = if limit.is_finite() { limit.clamp(least, MAX_LIMIT) } else { initial(self.endpoints) };
    }
}

/// What a limit for so many endpoints begins with.
fn initial(endpoints: f64) -> f64 {
    INITIAL.max(INITIAL_EACH * endpoints)
}

/// Whether latency stayed although fewer requests were under way.
fn flat(more: Point, fewer: Point) -> bool {
    more.latency - fewer.latency < FLAT * (more.under_way - fewer.under_way)
}

fn seconds(log2_ns: f64) -> f64 {
    log2_ns.exp2() * 1e-9
}
