//! The cells that requests write to: one a link, one a node.
//!
//! A link's counters are kept a core apart. **Each shard has one writer**, the runtime thread of that core, so a
//! counter is a relaxed load and store, not a locked instruction. Counters only ever rise; the tick takes differences.

use super::orca::Report;
use super::sketch::{BUCKETS, Span, bucket_of};
use super::{LinkKey, LocalEstimate, NodeKey, Time};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// How a request on a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, and it was not the server's failure.
    Success,
    /// A refused or broken connection, no answer in time, or the server's own failure (5xx, a gRPC status of that kind).
    Failure,
    /// The caller went away first: its latency so far is only a lower bound.
    Cancelled,
}

/// A row of failures makes an estimate no longer than this, in seconds.
const LONGEST_ROW_S: f32 = 1.0;

/// What requests saw on one link.
pub struct LinkCell {
    /// Who calls whom.
    pub key: LinkKey,
    /// This proxy's own estimate, for the pick.
    pub estimate: LocalEstimate,
    /// How many requests failed since one succeeded.
    row: AtomicU32,
    /// When it was made.
    pub(super) born: Time,
    pub(super) shards: Box<[Shard]>,
}

/// A link's counters since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Calls that ended with an answer or a failure.
    pub ended: u64,
    /// Calls failed.
    pub errors: u64,
    /// Latencies measured.
    pub samples: u64,
    /// All of them together, in seconds.
    pub latency_sum_s: f64,
}

/// One core's part of a link. Aligned so that two cores never write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shard {
    pub started: AtomicU64,
    pub finished: AtomicU64,
    pub errors: AtomicU64,
    /// Calls that ended with an answer or a failure, as the errors are counted: cancelled ones say nothing.
    pub ended: AtomicU64,
    pub samples: AtomicU64,
    pub latency_sum_ns: AtomicU64,
    /// The differences of successive latencies, all together.
    pub step_sum_ns: AtomicU64,
    pub last_used: AtomicU64,
    /// RFC 3550's J in seconds, as bits.
    pub jitter_s: AtomicU32,
    /// The last latency in seconds, as bits; NaN before the first.
    last_latency_s: AtomicU32,
    /// The span of the buckets that ever counted, packed.
    pub span: AtomicU32,
    /// Made with the first latency: a link that nobody uses costs next to nothing.
    pub buckets: OnceLock<Box<[AtomicU32; BUCKETS]>>,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            latency_sum_ns: AtomicU64::new(0),
            step_sum_ns: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
            jitter_s: AtomicU32::new(0),
            last_latency_s: AtomicU32::new(f32::NAN.to_bits()),
            span: AtomicU32::new(Span::EMPTY.packed()),
            buckets: OnceLock::new(),
        }
    }
}

impl fmt::Debug for LinkCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkCell").field("key", &self.key).field("totals", &self.totals()).finish_non_exhaustive()
    }
}

/// Adds to a counter that only this thread writes: a load and a store, not a locked instruction.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Adds one, as [`bump`] does.
pub(crate) fn bump32(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl LinkCell {
    pub(super) fn new(key: LinkKey, cores: usize, now: Time) -> Self {
        let shards: Box<[Shard]> = (0..cores.max(1)).map(|_| Shard::default()).collect();
        shards.iter().for_each(|s| s.last_used.store(now.0, Relaxed));
        Self { key, estimate: LocalEstimate::default(), row: AtomicU32::new(0), born: now, shards }
    }

    fn shard(&self, core: usize) -> Option<&Shard> {
        self.shards.get(core).or_else(|| self.shards.first())
    }

    /// A request starts on this link.
    pub fn begin(&self, core: usize, now: Time) {
        if let Some(shard) = self.shard(core) {
            bump(&shard.started, 1);
            shard.last_used.store(now.0, Relaxed);
        }
    }

    /// The request's answer began (or its failure was seen) after `latency_s` seconds.
    ///
    /// A failure counts as an error and not as a latency, and holds the estimate where it is, so that an endpoint that
    /// fails fast never looks fast. A cancelled request counts as a latency only where it raises the estimate.
    ///
    /// The rate of errors reaches the pick with the next tick; until then whoever was chosen before would be chosen again,
    /// and fail a second's requests. So from the second failure in a row on, each doubles the estimate, up to
    /// [`LONGEST_ROW_S`]; a success ends the row and stands for itself. A lone failure changes nothing: where some of all
    /// requests fail, as chance has it, estimates would wander.
    pub fn record(&self, core: usize, now: Time, latency_s: f32, outcome: Outcome, prior_s: f32, tau_s: f32) {
        let Some(shard) = self.shard(core) else { return };
        shard.last_used.store(now.0, Relaxed);
        match outcome {
            Outcome::Failure => {
                bump(&shard.errors, 1);
                bump(&shard.ended, 1);
                // While it fails its estimate does not decay: a prior of zero would make it the cheapest of all.
                let held = self.estimate.at(now, prior_s, tau_s).max(latency_s);
                let again = self.row.fetch_add(1, Relaxed) > 0;
                let doubled = if again { (held * 2.0).min(LONGEST_ROW_S) } else { held };
                self.estimate.record(now, doubled.max(held), prior_s, tau_s);
            }
            Outcome::Cancelled => {
                if latency_s > self.estimate.at(now, prior_s, tau_s) {
                    self.estimate.record(now, latency_s, prior_s, tau_s);
                }
            }
            Outcome::Success => {
                if self.row.load(Relaxed) > 0 && self.row.swap(0, Relaxed) > 1 {
                    self.estimate.reset();
                }
                self.estimate.record(now, latency_s, prior_s, tau_s);
                bump(&shard.ended, 1);
                shard.record_latency(latency_s);
            }
        }
    }

    /// A failure found after the answer had begun: a body that broke off, a gRPC status in the trailers.
    pub fn record_late_failure(&self, core: usize) {
        if let Some(shard) = self.shard(core) {
            bump(&shard.errors, 1);
        }
    }

    /// The request is over, its body included.
    pub fn end(&self, core: usize, now: Time) {
        if let Some(shard) = self.shard(core) {
            bump(&shard.finished, 1);
            shard.last_used.store(now.0, Relaxed);
        }
    }

    /// Ended calls, errors, latencies and their sum in seconds, all since the beginning: what a trigger compares.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shards.iter().fold(Totals::default(), |all, shard| Totals {
            ended: all.ended.wrapping_add(shard.ended.load(Relaxed)),
            errors: all.errors.wrapping_add(shard.errors.load(Relaxed)),
            samples: all.samples.wrapping_add(shard.samples.load(Relaxed)),
            latency_sum_s: all.latency_sum_s + shard.latency_sum_ns.load(Relaxed) as f64 * 1e-9,
        })
    }

    /// How many requests are under way on this link.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let (started, finished) = self
            .shards
            .iter()
            .fold((0u64, 0u64), |(s, f), shard| (s + shard.started.load(Relaxed), f + shard.finished.load(Relaxed)));
        started.saturating_sub(finished)
    }

    /// When a request last touched this link.
    #[must_use]
    pub fn last_used(&self) -> Time {
        Time(self.shards.iter().map(|s| s.last_used.load(Relaxed)).max().unwrap_or(0))
    }
}

impl Shard {
    fn record_latency(&self, latency_s: f32) {
        let latency_s = if latency_s.is_finite() { latency_s.clamp(0.0, 1_000.0) } else { return };
        bump(&self.samples, 1);
        bump(&self.latency_sum_ns, (f64::from(latency_s) * 1e9) as u64);
        let buckets = self.buckets.get_or_init(|| Box::new([const { AtomicU32::new(0) }; BUCKETS]));
        let index = bucket_of(f64::from(latency_s));
        let span = Span::unpacked(self.span.load(Relaxed));
        if !span.holds(index) {
            self.span.store(span.with(index).packed(), Relaxed);
        }
        if let Some(bucket) = buckets.get(index) {
            bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        }
        // RFC 3550, section 6.4.1: J += (|D| - J) / 16, where D is the difference of successive transit times.
        let last = f32::from_bits(self.last_latency_s.load(Relaxed));
        self.last_latency_s.store(latency_s.to_bits(), Relaxed);
        if !last.is_nan() {
            let step = (latency_s - last).abs();
            bump(&self.step_sum_ns, (f64::from(step) * 1e9) as u64);
            let jitter = f32::from_bits(self.jitter_s.load(Relaxed));
            self.jitter_s.store((jitter + (step - jitter) / 16.0).to_bits(), Relaxed);
        }
    }
}

/// What is known of one instance: this proxy's requests in flight to it, and its own last report.
#[derive(Debug)]
pub struct NodeCell {
    /// The instance.
    pub key: NodeKey,
    in_flight: AtomicU32,
    failures_in_a_row: AtomicU32,
    /// When it was last asked for, in `Time`.
    last_wanted: AtomicU64,
    /// Which request may be sent although the node is on probation: one of the `*_PROBE`s.
    probe: AtomicU8,
    report: ReportCell,
}

/// No request.
const NO_PROBE: u8 = 0;
/// One that may safely be repeated.
const SAFE_PROBE: u8 = 1;
/// Whichever comes first.
const ANY_PROBE: u8 = 2;

/// The last ORCA report, each value as bits (NaN: unknown), and when it came.
#[derive(Debug)]
struct ReportCell {
    values: [AtomicU64; Report::FIELDS],
    at: AtomicU64,
}

impl NodeCell {
    pub(super) fn new(key: NodeKey) -> Self {
        Self {
            key,
            in_flight: AtomicU32::new(0),
            failures_in_a_row: AtomicU32::new(0),
            last_wanted: AtomicU64::new(0),
            probe: AtomicU8::new(NO_PROBE),
            report: ReportCell { values: [const { AtomicU64::new(0) }; Report::FIELDS], at: AtomicU64::new(0) },
        }
    }

    /// Somebody still has a use for it: until nobody has for long, it is not evicted.
    pub fn want(&self, now: Time) {
        self.last_wanted.store(now.0, Relaxed);
    }

    pub(super) fn last_wanted(&self) -> Time {
        Time(self.last_wanted.load(Relaxed))
    }

    /// A request to this instance starts.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request to this instance is over.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// This proxy's requests in flight to the instance.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a failure; returns how many there were in a row, this one included.
    pub fn failed(&self) -> u32 {
        self.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// An answer came: the row of failures ends.
    pub fn succeeded(&self) {
        // A load is shared between cores, a store is not: store only what changes.
        if self.failures_in_a_row.load(Relaxed) != 0 {
            self.failures_in_a_row.store(0, Relaxed);
        }
    }

    /// Forgets all failures of the row but so many: somebody who should know says that it is well again.
    pub fn forgive(&self, all_but: u32) {
        self.failures_in_a_row.fetch_min(all_but, Relaxed);
    }

    /// How many failures there were in a row.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row.load(Relaxed)
    }

    /// Allows one request although the node is on probation: one that may safely be repeated elsewhere, should it fail.
    pub fn offer_probe(&self) {
        self.probe.store(SAFE_PROBE, Relaxed);
    }

    /// Allows any request in its place, where no such came.
    pub fn widen_probe(&self) {
        let _ = self.probe.compare_exchange(SAFE_PROBE, ANY_PROBE, Relaxed, Relaxed);
    }

    /// Takes the one request that a node on probation may get, for one that is `safe` to repeat or is not; false when it
    /// is taken, or none was offered to such a one.
    #[must_use]
    pub fn take_probe(&self, safe: bool) -> bool {
        let offered = self.probe.load(Relaxed);
        (offered == ANY_PROBE || safe && offered == SAFE_PROBE) && self.probe.swap(NO_PROBE, Relaxed) != NO_PROBE
    }

    /// Takes in what the instance reports of itself.
    pub fn report(&self, now: Time, report: &Report) {
        for (cell, value) in self.report.values.iter().zip(report.values()) {
            cell.store(value.unwrap_or(f64::NAN).to_bits(), Relaxed);
        }
        // Zero is 'never', so a report at the very start counts as one nanosecond later.
        self.report.at.store(now.0.max(1), Relaxed);
    }

    /// The instance's last report and its age in seconds; unknown when there was none.
    #[must_use]
    pub fn last_report(&self, now: Time) -> Option<(Report, f32)> {
        let at = self.report.at.load(Relaxed);
        if at == 0 {
            return None;
        }
        let values = std::array::from_fn(|i| {
            let bits = self.report.values.get(i).map_or(f64::NAN.to_bits(), |c| c.load(Relaxed));
            Some(f64::from_bits(bits)).filter(|v| !v.is_nan())
        });
        Some((Report::from_values(values), now.seconds_since(Time(at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> LinkCell {
        LinkCell::new(LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")), 2, Time(0))
    }

    #[test]
    fn in_flight_counts_over_all_cores() {
        let link = link();
        link.begin(0, Time(1));
        link.begin(1, Time(2));
        assert_eq!(link.in_flight(), 2);
        link.end(1, Time(3));
        assert_eq!((link.in_flight(), link.last_used()), (1, Time(3)));
    }

    #[test]
    fn a_fast_failure_never_looks_fast() {
        let link = link();
        link.record(0, Time(1), 0.100, Outcome::Success, 0.1, 3.0);
        link.record(0, Time(2), 0.001, Outcome::Failure, 0.1, 3.0);
        assert_eq!(link.estimate.at(Time(2), 0.1, 3.0), 0.1);
        assert_eq!(link.shards[0].errors.load(Relaxed), 1);
    }

    #[test]
    fn a_row_of_failures_doubles_the_estimate_with_each_and_a_success_ends_it() {
        let (link, now) = (link(), Time(1));
        let estimate = || link.estimate.at(now, 0.01, 3.0);
        let record = |outcome| link.record(0, now, 0.01, outcome, 0.01, 3.0);
        record(Outcome::Success);
        let rows: Vec<f32> = (0..12)
            .map(|_| {
                record(Outcome::Failure);
                estimate()
            })
            .collect();
        assert_eq!(rows[..4], [0.01, 0.02, 0.04, 0.08], "a lone one changes nothing");
        assert_eq!(rows[11], LONGEST_ROW_S);
        record(Outcome::Success);
        assert_eq!(estimate(), 0.01);
        for _ in 0..50 {
            record(Outcome::Failure);
            record(Outcome::Success);
        }
        assert!((estimate() - 0.01).abs() < 1e-6, "one of two: {}", estimate());
        // One that is slower already stays as slow.
        link.record(0, now, 5.0, Outcome::Success, 0.01, 3.0);
        record(Outcome::Failure);
        record(Outcome::Failure);
        assert_eq!(estimate(), 5.0);
    }

    #[test]
    fn a_cancelled_request_only_raises_the_estimate() {
        let link = link();
        link.record(0, Time(1), 0.100, Outcome::Success, 0.1, 3.0);
        link.record(0, Time(2), 0.001, Outcome::Cancelled, 0.1, 3.0);
        assert_eq!(link.estimate.at(Time(2), 0.1, 3.0), 0.1);
        link.record(0, Time(3), 2.0, Outcome::Cancelled, 0.1, 3.0);
        assert_eq!(link.estimate.at(Time(3), 0.1, 3.0), 2.0);
    }

    #[test]
    fn jitter_follows_rfc_3550() {
        let link = link();
        for latency in [0.010, 0.026, 0.010] {
            link.record(0, Time(1), latency, Outcome::Success, 0.0, 3.0);
        }
        // J1 = 0.016 / 16 = 0.001; J2 = 0.001 + (0.016 - 0.001) / 16.
        let jitter = f32::from_bits(link.shards[0].jitter_s.load(Relaxed));
        assert!((jitter - 0.001_937_5).abs() < 1e-6, "{jitter}");
    }

    #[test]
    fn a_probe_is_for_what_is_safe_to_repeat_until_it_is_for_any_and_for_one_alone() {
        let node = NodeCell::new(NodeKey::new("b"));
        node.widen_probe();
        assert!(!node.take_probe(true) && !node.take_probe(false), "none was offered");
        node.offer_probe();
        assert!(!node.take_probe(false));
        assert!(node.take_probe(true) && !node.take_probe(true));
        node.offer_probe();
        node.widen_probe();
        assert!(node.take_probe(false) && !node.take_probe(true) && !node.take_probe(false));
        (0..5).for_each(|_| _ = node.failed());
        node.forgive(2);
        assert_eq!(node.failures_in_a_row(), 2);
        node.forgive(3);
        assert_eq!(node.failures_in_a_row(), 2, "there were fewer");
    }

    #[test]
    fn a_report_keeps_what_is_unknown_unknown() {
        let node = NodeCell::new(NodeKey::new("b"));
        assert_eq!(node.last_report(Time(5)), None);
        node.report(Time(1_000_000_000), &Report { cpu_utilization: Some(0.5), ..Report::default() });
        let (report, age) = node.last_report(Time(3_000_000_000)).unwrap();
        assert_eq!((report.cpu_utilization, report.mem_utilization, age), (Some(0.5), None, 2.0));
    }
}
