//! Who scores the paths of the product's pick: the model, or what could stand in its place.
//!
//! - **Model**: the ONNX file in the embedded engine, one inference over the whole mesh.
//! - **Shared averages**: what anybody saw of a link lately, else of its replica, else of the replica's service. No
//!   network, only the mesh's telemetry.
//! - **Shrunk averages**: the same, each level drawn towards the one above by its samples (empirical Bayes): link towards
//!   replica, replica towards service, with `n / (n + k)` where k is the ratio of the variance within to that between,
//!   both of logarithms and both estimated from the mesh itself.
//! - **Oracle**: the intrinsic latency that the simulator knows, now. The bound.
//! - **Nothing**: no candidate has a score; priors are all alike.

use super::eye;
use crate::Result;
use crate::engines::Rten;
use crate::simulator::engine::Engine;
use crate::simulator::mesh::Mesh;
use crate::simulator::truth;
use pathloom::graph::{Graph, Link};
use pathloom::links::Observation;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The model.
    Model,
    /// Shared averages.
    Averages,
    /// Shared averages with shrinkage.
    Shrunk,
    /// The truth.
    Oracle,
    /// Nobody.
    Nothing,
}

/// Scores paths.
#[derive(Clone)]
pub struct Scorer {
    source: Source,
    model: Option<Arc<Rten>>,
}

impl Scorer {
    /// A scorer; `model` is needed for `Source::Model` alone.
    #[must_use]
    pub fn new(source: Source, model: Option<Arc<Rten>>) -> Self {
        Self { source, model }
    }

    /// Whether it reads telemetry.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.source != Source::Nothing
    }

    /// A score for each pair of the mesh: minus the logarithm of its intrinsic latency in seconds. None for all when
    /// there is nothing to go by yet.
    ///
    /// # Errors
    /// When the graph cannot be made or the engine refuses it.
    pub fn score(&self, engine: &Engine<'_>, seen: Option<&Observation>) -> Result<Option<Vec<Option<f32>>>> {
        let mesh = engine.mesh();
        match self.source {
            Source::Nothing => Ok(Some(vec![None; mesh.pairs.len()])),
            Source::Oracle => {
                let truth = truth::intrinsic(mesh, engine.active(), engine.picks());
                Ok(Some(truth.iter().map(|l| Some(-(*l as f32).ln()).filter(|s| s.is_finite())).collect()))
            }
            Source::Model => {
                let (Some(seen), Some(model)) = (seen, &self.model) else { return Ok(None) };
                let (_, features) = eye::features(mesh, seen)?;
                let [score, ..] = model.run(&features)?;
                Ok(Some(score.into_iter().map(|s| Some(s).filter(|s| s.is_finite())).collect()))
            }
            Source::Averages | Source::Shrunk => {
                let Some(seen) = seen else { return Ok(None) };
                let (graph, _) = eye::features(mesh, seen)?;
                let latencies = if self.source == Source::Averages { averages(&graph) } else { shrunk(&graph) };
                Ok(Some(by_pair(mesh, &graph, &latencies)))
            }
        }
    }
}

/// From links of the graph to pairs of the mesh: each pair is one candidate path of one link.
fn by_pair(mesh: &Mesh, graph: &Graph, latencies_s: &[Option<f32>]) -> Vec<Option<f32>> {
    let of = |pair: usize| {
        let latency_s = latencies_s[*graph.path_links.get(pair)? as usize]?;
        Some(-latency_s.ln()).filter(|s| s.is_finite())
    };
    (0..mesh.pairs.len()).map(of).collect()
}

fn averages(graph: &Graph) -> Vec<Option<f32>> {
    let mut services: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for node in &graph.nodes {
        if let Some(mean) = node.stats.response_mean_s {
            let (sum, count) = services.entry(&*node.service).or_default();
            *sum += f64::from(mean);
            *count += 1.0;
        }
    }
    let of = |link: &Link| {
        let node = graph.nodes.get(link.destination as usize)?;
        let service = services.get(&*node.service).map(|(sum, count)| (sum / count) as f32);
        link.stats.latency_mean_s.or(node.stats.response_mean_s).or(service)
    };
    graph.links.iter().map(of).collect()
}

/// The least variance of a logarithm that a ratio is taken of.
const LEAST_VARIANCE: f64 = 1e-4;

/// A group's level: the mean of logarithms, the samples behind it, and what it counts against a level below.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    mean: f64,
    samples: f64,
}

fn shrunk(graph: &Graph) -> Vec<Option<f32>> {
    let known = |link: &Link| {
        let stats = &link.stats;
        let mean = f64::from(stats.latency_mean_s?).ln();
        Some(Level { mean, samples: f64::from(stats.samples) })
    };
    // The variance of one call's logarithm, from how far apart median and ninetieth percentile are.
    let spreads: Vec<f64> = graph
        .links
        .iter()
        .filter(|l| l.stats.samples > 5.0)
        .filter_map(|l| Some(f64::from((l.stats.latency_p90_s? / l.stats.latency_p50_s?).ln()) / 1.2816))
        .collect();
    let within = (spreads.iter().map(|s| s * s).sum::<f64>() / spreads.len().max(1) as f64).max(0.05);

    let mut replicas: BTreeMap<u32, Vec<Level>> = BTreeMap::new();
    for link in &graph.links {
        if let Some(level) = known(link) {
            replicas.entry(link.destination).or_default().push(level);
        }
    }
    let replica_levels: BTreeMap<u32, Level> = replicas.iter().map(|(r, links)| (*r, pooled(links))).collect();
    let mut services: BTreeMap<&str, Vec<Level>> = BTreeMap::new();
    for (replica, level) in &replica_levels {
        services.entry(&*graph.nodes[*replica as usize].service).or_default().push(*level);
    }
    let between_links = between(replicas.values(), within);
    let of = |link: &Link| {
        let service = services.get(&*graph.nodes[link.destination as usize].service)?;
        let mean = service.iter().map(|l| l.mean).sum::<f64>() / service.len() as f64;
        let towards = |level: Option<Level>, above: f64, variance: f64| match level {
            None => above,
            Some(level) => {
                let trust = level.samples / (level.samples + within / variance);
                above + trust * (level.mean - above)
            }
        };
        let replica = replica_levels.get(&link.destination).copied();
        let replica = towards(replica, mean, between([service].into_iter(), within));
        Some(towards(known(link), replica, between_links).exp() as f32)
    };
    graph.links.iter().map(of).collect()
}

fn pooled(levels: &[Level]) -> Level {
    let samples: f64 = levels.iter().map(|l| l.samples).sum();
    let mean = levels.iter().map(|l| l.mean * l.samples).sum::<f64>() / samples.max(f64::MIN_POSITIVE);
    Level { mean, samples }
}

/// The variance between the levels of each group beyond what their samples explain.
fn between<'a>(groups: impl Iterator<Item = &'a Vec<Level>>, within: f64) -> f64 {
    let (mut sum, mut weight) = (0.0, 0.0);
    for group in groups.filter(|g| g.len() > 1) {
        let mean = pooled(group).mean;
        for level in group {
            sum += level.samples * ((level.mean - mean).powi(2) - within / level.samples.max(1e-3));
            weight += level.samples;
        }
    }
    if weight > 0.0 { (sum / weight).max(LEAST_VARIANCE) } else { LEAST_VARIANCE }
}
