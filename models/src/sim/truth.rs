//! What a model should have said: the labels.
//!
//! The **intrinsic** latency of a link is what a call on it would take if nobody waited for a worker anywhere:
//! ```text
//! intrinsic(s -> d) = round trip(s, d) + inside(d)
//! inside(d)         = work(d) x slowness(d) + sum over d's calls of probability x sum over replicas r of share(d, r) x intrinsic(d -> r)
//! ```
//! where share(d, r) is how d divides its calls at present. The window's labels are what was then observed.

use super::faults::Active;
use super::mesh::{Mesh, Pair};

/// The intrinsic latency of each pair now, in seconds. `picks` are recent picks of each pair.
#[must_use]
pub fn intrinsic(mesh: &Mesh, active: &Active, picks: &[f64]) -> Vec<f64> {
    let mut inside: Vec<Option<f64>> = vec![None; mesh.instances.len()];
    let link = |inside: &[Option<f64>], pair: usize| {
        let Pair { source, destination } = mesh.pairs[pair];
        mesh.rtt_s(Pair { source, destination }) + active.extra_s[pair] + inside[destination].unwrap_or_default()
    };
    // Services call services of later tiers only, and tiers are in order: from the last to the first, all that an
    // instance needs is there.
    for instance in (0..mesh.instances.len()).rev() {
        let of = &mesh.instances[instance];
        let service = &mesh.services[of.service];
        let own = service.work.mean_s() * of.slowness * active.slow[instance];
        let calls: f64 = mesh.routes[instance]
            .iter()
            .zip(&service.calls)
            .map(|(route, call)| {
                // One pick of each replica in use beyond those seen, so that what is idle has a share too.
                let weight = |p: &usize| picks[route.first_pair + p] + 0.1;
                let total: f64 = route.subset.iter().map(weight).sum();
                let mean = |p: &usize| weight(p) / total * link(&inside, route.first_pair + p);
                call.probability * route.subset.iter().map(mean).sum::<f64>()
            })
            .sum();
        inside[instance] = Some(own + calls);
    }
    (0..mesh.pairs.len()).map(|pair| link(&inside, pair)).collect()
}

/// A path is in trouble when faults make it take more than this many times as long.
const NOTABLE: f64 = 1.2;

/// What kind of trouble each pair is in, for reports and for weights in training. `now_s` are the intrinsic latencies.
#[must_use]
pub fn trouble(mesh: &Mesh, active: &Active, picks: &[f64], now_s: &[f64]) -> Vec<Trouble> {
    let healthy = Active::at(mesh, &[], 0);
    let before = intrinsic(mesh, &healthy, picks);
    (0..mesh.pairs.len())
        .map(|pair| {
            let destination = mesh.pairs[pair].destination;
            let more = now_s[pair] / before[pair].max(1e-9);
            if more <= NOTABLE {
                Trouble::None
            } else if active.extra_s[pair] > 0.0 {
                Trouble::Link
            } else if active.slow[destination] > 1.0 {
                Trouble::Gray
            } else {
                Trouble::Downstream
            }
        })
        .collect()
}

/// What makes a path slower than it was, if anything does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The link itself.
    Link,
    /// The called instance.
    Gray,
    /// Something that the called instance depends on.
    Downstream,
}

impl Trouble {
    /// All kinds, by their number.
    pub const ALL: [Trouble; 4] = [Trouble::None, Trouble::Link, Trouble::Gray, Trouble::Downstream];
}

/// What was observed of one pair in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// How many answers.
    pub answers: u32,
    /// Their mean latency in seconds; NaN for too few.
    pub mean_s: f32,
    /// Their 99th percentile in seconds; NaN for too few.
    pub p99_s: f32,
    /// The mean difference of successive latencies in seconds, which RFC 3550's jitter tends to; NaN for too few.
    pub jitter_s: f32,
}

/// Fewer answers give no mean.
const LEAST_FOR_MEAN: usize = 3;
/// Fewer answers give no percentile and no jitter.
const LEAST_FOR_SPREAD: usize = 20;

/// Sums up a window of latencies in the order in which they came.
#[must_use]
pub fn window(latencies_s: &[f32]) -> Window {
    let n = latencies_s.len();
    let mean = |sum: f64, n: usize| (sum / n.max(1) as f64) as f32;
    let known = |enough: usize, value: f32| if n >= enough { value } else { f32::NAN };
    let mut sorted = latencies_s.to_vec();
    sorted.sort_by(f32::total_cmp);
    let p99 = sorted.get((n as f64 * 0.99).ceil() as usize - usize::from(n > 0)).copied().unwrap_or(f32::NAN);
    let steps: f64 = latencies_s.windows(2).map(|w| f64::from((w[1] - w[0]).abs())).sum();
    Window {
        answers: n as u32,
        mean_s: known(LEAST_FOR_MEAN, mean(latencies_s.iter().map(|l| f64::from(*l)).sum(), n)),
        p99_s: known(LEAST_FOR_SPREAD, p99),
        jitter_s: known(LEAST_FOR_SPREAD, mean(steps, n.saturating_sub(1))),
    }
}
