//! Simple rivals: what one would use before thinking of a network. All see the same samples as the network.
//!
//! | name | the next window's mean | chooses by |
//! | --- | --- | --- |
//! | `persistence` | the last window's mean | the same |
//! | `mean of five` | the mean of the last five windows' means, where seen | the same |
//! | `ewma of windows` | their EWMA, each window counting half of what is left | the same |
//! | `ewma` | the link's EWMA (a feature) | the same |
//! | `median` | the link's median (a feature): what the network corrects | the same |
//! | `baseline` | as `ewma` | the link's mean over its long memory (a feature), which holds less of today's load |
//! | `ospf` | communication cost + what the group's links take beyond theirs | the communication cost, a constant |
//! | `shared averages` | the called node's mean over all callers, moved by the link's communication cost | the same |
//! | `shrunk averages` | empirical Bayes over link, replica and service (`shrinkage`) | the same |
//! | `lowest cpu` | says nothing | the called node's CPU utilisation |
//! | `random` | says nothing | nothing: all candidates cost the same |
//!
//! **What is unknown** falls back: a link's own figure, else the called node's over all callers, else the mean of the
//! group's known ones, else the mean of all known ones, else 20 ms. The 99th percentile and the jitter fall back
//! likewise, at last to three times and to half of the mean. Unless said otherwise they are the link's features.
//! A node's load is what it reports, else what its callers saw, else 0.
//!
//! A path's first link stands for it: in the simulation and in recordings paths have one link.

pub mod shrinkage;

use crate::Result;
use crate::data::{Past, Sample};
use crate::net::{FE, FN};
use crate::predict::{Prediction, Predictions, Predictor};

/// What is said of a mesh that nothing is known of, in seconds.
const NOTHING_KNOWN_S: f32 = 0.020;
/// How much of the EWMA each newer window is.
const WINDOW_SHARE: f32 = 0.5;
/// The least share of a called node's mean that is left when the communication cost is taken off.
const LEAST_LEFT: f32 = 0.1;

/// Columns of the features, by the contract.
pub(crate) mod column {
    pub const CPU: usize = 0;
    pub const APPLICATION: usize = 2;
    pub const REPORTED_RPS: usize = 3;
    pub const NODE_CALLS: usize = 7;
    pub const NODE_MEAN: usize = 8;
    pub const NODE_P99: usize = 9;
    pub const NODE_BASELINE: usize = 12;
    pub const MEAN: usize = 0;
    pub const P50: usize = 1;
    pub const P99: usize = 3;
    pub const EWMA: usize = 4;
    pub const JITTER: usize = 5;
    pub const SAMPLES: usize = 9;
    pub const SAME_ZONE: usize = 11;
    pub const BASELINE: usize = 13;
}

/// A simple rival.
#[derive(Debug, Clone, Copy)]
pub struct Simple {
    name: &'static str,
    rule: fn(&View<'_>) -> Vec<Prediction>,
    cost_is_latency: bool,
}

/// All simple rivals, in the order of the table above.
pub const SIMPLE: [Simple; 11] = [
    simple("persistence", |v| v.latencies(|c| c.past.mean_s.first().copied().unwrap_or(f32::NAN), View::last_window)),
    simple("mean of five", |v| v.latencies(|c| mean(c.past.mean_s.iter().copied()), View::last_window)),
    simple("ewma of windows", |v| v.latencies(|c| ewma(&c.past.mean_s), View::last_window)),
    simple("ewma", |v| v.latencies(|c| c.edge(column::EWMA), View::features)),
    simple("median", |v| v.latencies(|c| c.edge(column::P50), View::features)),
    simple("baseline", baseline),
    Simple { name: "ospf", rule: ospf, cost_is_latency: false },
    simple("shared averages", shared),
    simple("shrunk averages", shrunk),
    Simple { name: "lowest cpu", rule: lowest_cpu, cost_is_latency: false },
    Simple { name: "random", rule: |v| v.all.iter().map(|_| silent(0.0)).collect(), cost_is_latency: false },
];

const fn simple(name: &'static str, rule: fn(&View<'_>) -> Vec<Prediction>) -> Simple {
    Simple { name, rule, cost_is_latency: true }
}

/// All simple rivals, ready to be measured.
#[must_use]
pub fn all() -> Vec<Box<dyn Predictor>> {
    SIMPLE.into_iter().map(|s| Box::new(s) as Box<dyn Predictor>).collect()
}

impl Predictor for Simple {
    fn name(&self) -> &str {
        self.name
    }

    fn cost_is_latency(&self) -> bool {
        self.cost_is_latency
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        let says_load = !matches!(self.name, "lowest cpu" | "random");
        let of = |sample: &Sample| Predictions {
            candidates: (self.rule)(&View::of(sample)),
            node_load: if says_load { known_load(sample) } else { Vec::new() },
        };
        Ok(samples.iter().map(of).collect())
    }
}

/// A predictor whose choice is made by its predicted mean instead of its own cost: for recordings, where decisions
/// are judged by what was observed.
#[derive(Debug)]
pub struct ByMean<P>(pub P);

impl<P: Predictor> Predictor for ByMean<P> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        let mut said = self.0.predict(samples)?;
        said.iter_mut().flat_map(|s| &mut s.candidates).for_each(|p| p.cost = p.mean_s);
        Ok(said)
    }
}

/// A candidate with the rows of its link and of the called node.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    group: u32,
    past: Past,
    edge: &'a [f32],
    node: &'a [f32],
    called: Option<usize>,
}

impl Seen<'_> {
    fn edge(&self, column: usize) -> f32 {
        self.edge.get(column).copied().unwrap_or(f32::NAN)
    }
    fn node(&self, column: usize) -> f32 {
        self.node.get(column).copied().unwrap_or(f32::NAN)
    }
}

/// A sample's candidates.
struct View<'a> {
    sample: &'a Sample,
    all: Vec<Seen<'a>>,
}

impl<'a> View<'a> {
    fn of(sample: &'a Sample) -> Self {
        let f = &sample.features;
        let links = f.path_offsets.iter().map(|o| f.path_links.get(*o as usize).map(|l| *l as usize));
        let all = sample.candidates.iter().zip(links).map(|(c, link)| {
            let called = link.and_then(|l| f.edges.get(l)).map(|n| *n as usize);
            let row = |of: &'a [f32], i: Option<usize>, n: usize| {
                i.and_then(|i| of.get(i * n..(i + 1) * n)).unwrap_or_default()
            };
            let (edge, node) = (row(&f.edge_features, link, FE), row(&f.nodes, called, FN));
            Seen { group: c.group, past: c.past, edge, node, called }
        });
        Self { sample, all: all.collect() }
    }

    /// The known ones, and for each of the others the mean of the group's known ones, else of all.
    fn filled(&self, mut values: Vec<f32>) -> Vec<f32> {
        let everywhere = mean(values.iter().copied());
        let mut from = 0;
        for group in self.all.chunk_by(|a, b| a.group == b.group) {
            if let Some(of_group) = values.get_mut(from..from + group.len()) {
                let known = or(mean(of_group.iter().copied()), everywhere);
                of_group.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = known);
            }
            from += group.len();
        }
        values
    }

    fn each(&self, of: impl Fn(&Seen<'a>) -> f32) -> Vec<f32> {
        self.filled(self.all.iter().map(of).collect())
    }

    /// Predictions whose cost is the mean.
    fn latencies(&self, own: impl Fn(&Seen<'a>) -> f32, spread: fn(&View<'a>) -> [Vec<f32>; 2]) -> Vec<Prediction> {
        self.with(self.each(|c| or(own(c), c.node(column::NODE_MEAN))), spread(self))
    }

    fn with(&self, mean: Vec<f32>, spread: [Vec<f32>; 2]) -> Vec<Prediction> {
        let [p99, jitter] = spread;
        let rows = mean.into_iter().zip(p99).zip(jitter);
        rows.map(|((mean, p99), jitter)| {
            let mean_s = or(mean, NOTHING_KNOWN_S);
            Prediction { cost: mean_s, mean_s, p99_s: or(p99, 3.0 * mean_s), jitter_s: or(jitter, 0.5 * mean_s) }
        })
        .collect()
    }

    /// The 99th percentile and the jitter as the features have them.
    fn features(&self) -> [Vec<f32>; 2] {
        [
            self.each(|c| or(c.edge(column::P99), c.node(column::NODE_P99))),
            self.each(|c| or(c.edge(column::JITTER), c.past.jitter_s)),
        ]
    }

    /// The same as the last window showed them.
    fn last_window(&self) -> [Vec<f32>; 2] {
        [
            self.each(|c| or(c.past.p99_s, or(c.edge(column::P99), c.node(column::NODE_P99)))),
            self.each(|c| or(c.past.jitter_s, c.edge(column::JITTER))),
        ]
    }
}

fn baseline(v: &View<'_>) -> Vec<Prediction> {
    let cost = v.each(|c| {
        let slow = or(c.edge(column::BASELINE), c.node(column::NODE_BASELINE));
        or(slow, or(c.edge(column::MEAN), c.node(column::NODE_MEAN)))
    });
    let mut all = v.latencies(|c| c.edge(column::EWMA), View::features);
    all.iter_mut().zip(cost).for_each(|(p, cost)| p.cost = or(cost, p.mean_s));
    all
}

fn ospf(v: &View<'_>) -> Vec<Prediction> {
    let cost = v.each(|c| c.past.communication_s);
    let beyond = |own: fn(&Seen<'_>) -> f32| {
        let rest = v.all.iter().zip(&cost).map(|(c, cost)| own(c) - cost).collect();
        // The same for all of a group: the mean of its known ones.
        let mut rest: Vec<f32> = v.filled(rest);
        let mut from = 0;
        for group in v.all.chunk_by(|a, b| a.group == b.group) {
            if let Some(of_group) = rest.get_mut(from..from + group.len()) {
                let known = mean(of_group.iter().copied());
                of_group.fill(known);
            }
            from += group.len();
        }
        rest.iter().zip(&cost).map(|(rest, cost)| rest + cost).collect::<Vec<f32>>()
    };
    let means = beyond(|c| or(c.past.mean_s.first().copied().unwrap_or(f32::NAN), c.node(column::NODE_MEAN)));
    let p99 = beyond(|c| or(c.past.p99_s, or(c.edge(column::P99), c.node(column::NODE_P99))));
    let jitter = beyond(|c| or(c.past.jitter_s, c.edge(column::JITTER)));
    let jitter = jitter.iter().zip(&cost).map(|(jitter, cost)| jitter - cost).collect();
    let mut all = v.with(means, [p99, jitter]);
    all.iter_mut().zip(&cost).for_each(|(p, cost)| p.cost = or(*cost, 0.0));
    all
}

fn shared(v: &View<'_>) -> Vec<Prediction> {
    // How much farther this caller is from the called node than the callers that are known, on average.
    let farther: Vec<f32> = {
        let mut of_node: Vec<(f32, f32)> = vec![(0.0, 0.0); v.sample.features.node_count()];
        for c in v.all.iter().filter(|c| c.past.communication_s.is_finite()) {
            if let Some(sum) = c.called.and_then(|n| of_node.get_mut(n)) {
                *sum = (sum.0 + c.past.communication_s, sum.1 + 1.0);
            }
        }
        let mean = |c: &Seen<'_>| c.called.and_then(|n| of_node.get(n)).map_or(f32::NAN, |s| s.0 / s.1);
        v.all.iter().map(|c| or(c.past.communication_s - mean(c), 0.0)).collect()
    };
    let moved = |own: usize| {
        let of = v.all.iter().zip(&farther).map(|(c, farther)| {
            let mean = c.node(own);
            (mean + farther).max(mean * LEAST_LEFT)
        });
        v.filled(of.collect())
    };
    let jitter = shrinkage::of_called(&v.sample.features, column::JITTER);
    let jitter = v.each(|c| c.called.and_then(|n| jitter.get(n)).copied().unwrap_or(f32::NAN));
    v.with(moved(column::NODE_MEAN), [moved(column::NODE_P99), jitter])
}

fn shrunk(v: &View<'_>) -> Vec<Prediction> {
    let groups: Vec<u32> = v.all.iter().map(|c| c.group).collect();
    v.with(v.filled(shrinkage::shrunk(&v.sample.features, &groups)), v.features())
}

fn lowest_cpu(v: &View<'_>) -> Vec<Prediction> {
    v.all.iter().map(|c| silent(or(c.node(column::CPU), c.node(column::APPLICATION)))).collect()
}

/// A cost and nothing more.
fn silent(cost: f32) -> Prediction {
    Prediction { cost, mean_s: f32::NAN, p99_s: f32::NAN, jitter_s: f32::NAN }
}

fn known_load(sample: &Sample) -> Vec<f32> {
    let of = |row: &[f32]| {
        let at = |column: usize| row.get(column).copied().unwrap_or(f32::NAN);
        or(at(column::REPORTED_RPS), or(at(column::NODE_CALLS), 0.0))
    };
    sample.features.nodes.chunks_exact(FN).map(of).collect()
}

/// The EWMA of windows, the newest first; unknown ones count nowhere.
fn ewma(windows: &[f32]) -> f32 {
    windows
        .iter()
        .rev()
        .filter(|w| !w.is_nan())
        .fold(f32::NAN, |all, window| if all.is_nan() { *window } else { all + WINDOW_SHARE * (window - all) })
}

/// The mean of those that are known; NaN of nothing.
fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.filter(|v| v.is_finite()).fold((0.0f64, 0.0f64), |(s, n), v| (s + f64::from(v), n + 1.0));
    (sum / count) as f32
}

/// The first, or else the second.
fn or(first: f32, second: f32) -> f32 {
    if first.is_nan() { second } else { first }
}

#[cfg(test)]
mod tests;
