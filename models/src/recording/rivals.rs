//! The simple predictors that a replay is measured beside: what was seen last, means of it, the least busy processor, chance.

use crate::Result;
use crate::data::{Candidate, Sample};
use crate::net::{FE, FN};
use crate::predict::{Prediction, Predictions, Predictor};

/// Columns of the features, by the contract.
const LINK_MEAN: usize = 0;
const LINK_EWMA: usize = 4;
const LINK_P99: usize = 3;
const LINK_JITTER: usize = 5;
const NODE_CPU: usize = 0;
const NODE_MEAN: usize = 8;
/// What is said of a group that nothing is known of, in seconds.
const NOTHING_KNOWN_S: f32 = 0.020;

/// A simple predictor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simple {
    /// The last window's figures come again.
    Persistence,
    /// The mean of the last five windows' means.
    MeanOfFive,
    /// The sidecar's latency EWMA.
    Ewma,
    /// The node that reports the least CPU in use is chosen; latencies as persistence.
    LowestCpu,
    /// Each candidate is chosen as often; latencies are the group's mean.
    Random,
}

impl Simple {
    /// All of them.
    pub const ALL: [Simple; 5] =
        [Simple::Persistence, Simple::MeanOfFive, Simple::Ewma, Simple::LowestCpu, Simple::Random];
}

impl Predictor for Simple {
    fn name(&self) -> &str {
        match self {
            Simple::Persistence => "persistence",
            Simple::MeanOfFive => "mean of five windows",
            Simple::Ewma => "ewma",
            Simple::LowestCpu => "lowest cpu",
            Simple::Random => "random",
        }
    }

    fn cost_is_latency(&self) -> bool {
        !matches!(self, Simple::LowestCpu | Simple::Random)
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        let of = |s: &Sample| Predictions { candidates: self.candidates(s), node_load: Vec::new() };
        Ok(samples.iter().map(of).collect())
    }
}

/// What is known of one candidate.
#[derive(Debug, Clone, Copy)]
struct Seen {
    own_s: f32,
    node_s: f32,
    p99_s: f32,
    jitter_s: f32,
    cpu: f32,
}

impl Simple {
    fn own_s(self, candidate: &Candidate, edge: &[f32]) -> f32 {
        let at = |column: usize| edge.get(column).copied().unwrap_or(f32::NAN);
        let [last, ..] = candidate.past.mean_s;
        let known: Vec<f32> = candidate.past.mean_s.iter().copied().filter(|m| !m.is_nan()).collect();
        match self {
            Simple::MeanOfFive if !known.is_empty() => known.iter().sum::<f32>() / known.len() as f32,
            Simple::Ewma => first([at(LINK_EWMA), at(LINK_MEAN)]),
            _ => first([last, at(LINK_EWMA), at(LINK_MEAN)]),
        }
    }

    fn candidates(self, sample: &Sample) -> Vec<Prediction> {
        let f = &sample.features;
        let seen: Vec<Seen> = (sample.candidates.iter().zip(&f.path_links))
            .map(|(candidate, link)| {
                let link = usize::try_from(*link).unwrap_or(usize::MAX);
                let edge = f.edge_features.chunks_exact(FE).nth(link).unwrap_or_default();
                let called = f.edges.get(link).and_then(|n| usize::try_from(*n).ok()).unwrap_or(usize::MAX);
                let node = f.nodes.chunks_exact(FN).nth(called).unwrap_or_default();
                let at = |row: &[f32], column: usize| row.get(column).copied().unwrap_or(f32::NAN);
                Seen {
                    own_s: self.own_s(candidate, edge),
                    node_s: at(node, NODE_MEAN),
                    p99_s: first([candidate.past.p99_s, at(edge, LINK_P99)]),
                    jitter_s: first([candidate.past.jitter_s, at(edge, LINK_JITTER)]),
                    cpu: at(node, NODE_CPU),
                }
            })
            .collect();
        let all: Vec<(u32, Seen)> = sample.candidates.iter().map(|c| c.group).zip(seen).collect();
        let mut predictions = Vec::with_capacity(all.len());
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            let known: Vec<f32> = group.iter().map(|(_, s)| s.own_s).filter(|s| !s.is_nan()).collect();
            let mean = if known.is_empty() { NOTHING_KNOWN_S } else { known.iter().sum::<f32>() / known.len() as f32 };
            for (_, seen) in group {
                let own = first([seen.own_s, seen.node_s, mean]);
                let mean_s = if self == Simple::Random { mean } else { own };
                let cost = match self {
                    Simple::LowestCpu => seen.cpu,
                    Simple::Random => 0.0,
                    _ => mean_s,
                };
                let (p99_s, jitter_s) = (first([seen.p99_s, 3.0 * mean_s]), first([seen.jitter_s, mean_s]));
                predictions.push(Prediction { cost, mean_s, p99_s, jitter_s });
            }
        }
        predictions
    }
}

fn first<const N: usize>(values: [f32; N]) -> f32 {
    values.into_iter().find(|v| !v.is_nan()).unwrap_or(f32::NAN)
}
