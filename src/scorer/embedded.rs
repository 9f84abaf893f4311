//! The embedded engine: rten, pure Rust, part of every binary.
//!
//! It needs no library and gives the same numbers as ONNX Runtime within 1e-4, at 2 to 4 times the time on large graphs.
//! It runs on a pool of one thread: the cores belong to requests, and a tick may take longer.
//! rten has 32-bit integers only, so indices are narrowed here; `check_features` holds their bounds. It also turns parts of the
//! network into a batch normalisation that divides by the number of rows, so a graph without links gets a node of
//! which nothing is known, with a link to itself; what is said of them is cut off again.

use super::contract::{Model, OUTPUTS};
use super::engine::{Engine, ScoreError, Scores};
use crate::graph::Features;
use crate::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use rten::{NodeId, RunOptions, ThreadPool, ValueOrView, ValueView};
use std::sync::Arc;

/// The version of rten in `Cargo.toml`.
pub(super) const VERSION: &str = "rten 0.27";

struct Embedded {
    model: rten::Model,
    inputs: [NodeId; 5],
    outputs: [NodeId; OUTPUTS.len()],
    options: RunOptions,
    edges: Vec<i32>,
    path_offsets: Vec<i32>,
    path_links: Vec<i32>,
}

/// Loads a model; the error says why rten refuses it.
pub(super) fn open(model: &Model) -> Result<Box<dyn Engine>, String> {
    let loaded = rten::Model::load(model.bytes.to_vec()).map_err(|e| e.to_string())?;
    let node = |name: &str| loaded.node_id(name).map_err(|e| e.to_string());
    let inputs =
        [node("node_features")?, node("edges")?, node("edge_features")?, node("path_offsets")?, node("path_links")?];
    let [score, mean, p99, jitter, load, attention] = OUTPUTS;
    let outputs = [node(score)?, node(mean)?, node(p99)?, node(jitter)?, node(load)?, node(attention)?];
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    Ok(Box::new(Embedded {
        model: loaded,
        inputs,
        outputs,
        options: RunOptions::default().with_thread_pool(Some(pool)),
        edges: Vec::new(),
        path_offsets: Vec::new(),
        path_links: Vec::new(),
    }))
}

impl Engine for Embedded {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
        if features.edge_count() == 0 {
            let mut linked = features.clone();
            linked.nodes.extend([f32::NAN; NODE_FEATURES.len()]);
            linked.edges = vec![features.node_count() as i64; 2];
            linked.edge_features = vec![f32::NAN; EDGE_FEATURES.len()];
            self.run(&linked, scores)?;
            scores.node_load.pop();
            scores.attention.clear();
            return Ok(());
        }
        narrow(&features.edges, &mut self.edges);
        narrow(&features.path_offsets, &mut self.path_offsets);
        narrow(&features.path_links, &mut self.path_links);
        let (n, e) = (features.node_count(), features.edge_count());
        let values = [
            floats([n, NODE_FEATURES.len()], &features.nodes)?,
            indices([2, e], &self.edges)?,
            floats([e, EDGE_FEATURES.len()], &features.edge_features)?,
            indices([self.path_offsets.len()], &self.path_offsets)?,
            indices([self.path_links.len()], &self.path_links)?,
        ];
        let inputs = self.inputs.into_iter().zip(values).collect();
        let outputs = self.model.run(inputs, &self.outputs, Some(self.options.clone())).map_err(failed)?;
        for (((name, slot), value), expected) in
            scores.outputs_mut().into_iter().zip(outputs).zip(Scores::lengths(features))
        {
            let vector = value.into_shape_vec::<f32, 1>();
            let (_, values) = vector.map_err(|e| ScoreError::Shape { output: name, expected, found: e.to_string() })?;
            *slot = values;
        }
        Ok(())
    }
}

fn floats<const D: usize>(shape: [usize; D], data: &[f32]) -> Result<ValueOrView<'_>, ScoreError> {
    ValueView::from_shape(shape, data).map(ValueOrView::View).map_err(failed)
}

fn indices<const D: usize>(shape: [usize; D], data: &[i32]) -> Result<ValueOrView<'_>, ScoreError> {
    ValueView::from_shape(shape, data).map(ValueOrView::View).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ScoreError {
    ScoreError::Engine { reason: error.to_string() }
}

fn narrow(from: &[i64], to: &mut Vec<i32>) {
    to.clear();
    to.extend(from.iter().map(|index| i32::try_from(*index).unwrap_or(i32::MAX)));
}
