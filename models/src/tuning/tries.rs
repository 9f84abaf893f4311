//! Requests whose tries take as long as chance has it, with the sidecar's own budgets: what giving up on an endpoint, and
//! asking a second one as well, does to latencies and to load.
//!
//! ```text
//! arrival --> first try --(answered)--------------------------------------------------------> latency
//!                 |--(`per_try` is over, attempts and budget left)--> another try ...
//!                 |--(`hedging.after` is over, both budgets left)--> a second try beside; the first answer counts
//! ```
//! 49 of 50 tries take 20 ms, log-normal; one takes a second, whoever serves it. A try that is given up, or that loses,
//! costs its endpoint its work all the same. What a slower service makes of more tries is not in it: the budgets bound
//! that.

use super::quantile;
use super::{bench::Bench, seconds};
use crate::Result;
use crate::simulator::draw::Draw;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Requests a second, and for how many seconds.
const PER_SECOND: u32 = 1_000;
const SECONDS: u32 = 12;
/// The share of tries that are slow, and how long they take in seconds.
const SLOW: (f64, f64) = (0.02, 1.0);
/// The median of the others in seconds, and how far their logarithms scatter.
const USUAL: (f64, f64) = (0.02, 0.4);

/// How long a try takes, in seconds.
pub(super) fn takes(draw: &mut Draw) -> f64 {
    let (share, slow_s) = SLOW;
    let (median_s, sigma) = USUAL;
    if draw.chance(share) { slow_s } else { median_s * (sigma * draw.normal()).exp() }
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Tries on top, as a share of the requests.
    pub on_top: f64,
}

/// Something that happens to a request at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at_s: f64,
    request: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Arrives,
    /// Its try may be given up.
    Impatient,
    /// A second endpoint may be asked.
    Due,
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        // The earliest first; of those at one moment the first request.
        other.at_s.total_cmp(&self.at_s).then(other.request.cmp(&self.request))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Request {
    arrived_s: f64,
    answered_s: f64,
    tries: usize,
}

/// Plays requests under the first cluster's rules of now. A hedge is due after `after`, where that is not what they say.
pub(super) fn play(bench: &Bench, after: Option<Duration>, seed: u64) -> Result<Came> {
    let generation = bench.generation();
    let cluster = generation.clusters.first().cloned();
    let cluster = cluster.ok_or_else(|| crate::Error::Format("a made-up configuration has no cluster".into()))?;
    let (retrying, hedging) = (&cluster.retrying, cluster.hedging.as_ref());
    let after = hedging.and_then(|h| after.or(h.after)).map(|after| after.as_secs_f64());
    let per_try = retrying.per_try.map(|t| t.as_secs_f64());
    let mut draw = Draw::new(seed);
    let mut events = BinaryHeap::new();
    let mut requests: Vec<Request> = Vec::new();
    let mut at_s = 1.0;
    for request in 0..(PER_SECOND * SECONDS) as usize {
        at_s += draw.exponential() / f64::from(PER_SECOND);
        requests.push(Request { arrived_s: at_s, answered_s: f64::NAN, tries: 0 });
        events.push(Event { at_s, request, what: What::Arrives });
    }
    let (mut on_top, mut looked_s) = (0u32, 1.0);
    while let Some(Event { at_s, request: number, what }) = events.pop() {
        let (now, request) = (seconds(at_s), &mut requests[number]);
        if at_s - looked_s >= 1.0 {
            // As each tick does.
            looked_s = at_s;
            retrying.budget.renew(bench_share(bench), now);
            hedging.iter().for_each(|h| h.budget.renew(h.share, now));
        }
        if what != What::Arrives && request.answered_s <= at_s {
            continue;
        }
        let mut begin = |request: &mut Request| {
            request.tries += 1;
            at_s + takes(&mut draw)
        };
        match what {
            What::Arrives => {
                retrying.budget.earn(0);
                request.answered_s = begin(request);
                if let (Some(hedging), Some(after)) = (hedging, after) {
                    hedging.budget.earn(0);
                    events.push(Event { at_s: at_s + after, request: number, what: What::Due });
                }
            }
            What::Impatient if retrying.budget.take(now) => {
                on_top += 1;
                request.answered_s = begin(request);
            }
            // Whom the budget refuses asks it again after as long.
            What::Impatient => {}
            What::Due => {
                if hedging.is_some_and(|h| h.budget.take(now)) && retrying.budget.take(now) {
                    on_top += 1;
                    request.answered_s = request.answered_s.min(begin(request));
                }
            }
        }
        let leaves = request.tries <= retrying.attempts;
        if let (true, Some(per_try)) = (what != What::Due && leaves, per_try) {
            events.push(Event { at_s: at_s + per_try, request: number, what: What::Impatient });
        }
    }
    let mut latencies: Vec<f64> = requests.iter().map(|r| (r.answered_s - r.arrived_s) * 1e3).collect();
    Ok(Came {
        p50_ms: quantile(&mut latencies, 0.5),
        p99_ms: quantile(&mut latencies, 0.99),
        on_top: f64::from(on_top) / f64::from(PER_SECOND * SECONDS),
    })
}

fn bench_share(bench: &Bench) -> pathloom::config::Share {
    bench.config().clusters.values().next().map_or_else(Default::default, |c| c.retries.budget)
}
