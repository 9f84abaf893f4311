//! Anything trained, as a predictor.

use crate::data::{Batch, Sample};
use crate::predict::{Prediction, Predictions, Predictor};
use crate::tensors::Candle;
use crate::weights::Weights;
use crate::{Error, Result, check, onnx};
use std::path::Path;

/// How many edges are predicted at once, about.
const EDGES_AT_ONCE: usize = 4_000;

/// Trained weights that predict, with candle.
#[derive(Debug)]
pub struct Network {
    name: String,
    weights: Weights,
}

impl Network {
    /// These weights under this name.
    #[must_use]
    pub fn new(name: &str, weights: Weights) -> Self {
        Self { name: name.into(), weights }
    }

    /// The weights of an ONNX file that this program wrote, named `model`.
    ///
    /// # Errors
    /// When the file cannot be read, keeps another contract, or holds other weights.
    pub fn from_onnx(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::at(path))?;
        check::contract(&bytes)?;
        Ok(Self::new("model", onnx::weights(&bytes)?))
    }

    /// The weights of a file that `train` wrote, named after their kind, such as `gcn` or `no-edges`.
    ///
    /// # Errors
    /// When the file cannot be read or holds other weights.
    pub fn from_safetensors(path: &Path) -> Result<Self> {
        let weights = Weights::load(path)?;
        Ok(Self::new(&weights.kind().to_string(), weights))
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

impl Predictor for Network {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        predict(&self.weights, samples)
    }
}

/// What weights say of samples, in order.
///
/// # Errors
/// When a tensor operation fails.
pub fn predict(weights: &Weights, samples: &[Sample]) -> Result<Vec<Predictions>> {
    let mut found = Vec::with_capacity(samples.len());
    let mut rest = samples;
    while !rest.is_empty() {
        let mut edges = 0;
        let enough = |s: &&Sample| {
            let more = edges == 0 || edges + s.features.edge_count() <= EDGES_AT_ONCE;
            edges += s.features.edge_count().max(1);
            more
        };
        let count = rest.iter().take_while(enough).count().max(1);
        let (now, later) = rest.split_at(count.min(rest.len()));
        rest = later;
        found.extend(predict_at_once(weights, now)?);
    }
    Ok(found)
}

fn predict_at_once(weights: &Weights, samples: &[Sample]) -> Result<Vec<Predictions>> {
    let kind = weights.kind();
    let batch = Batch::new(samples, kind)?;
    let out = kind.forward(&Candle::new(weights), &batch.inputs)?;
    let flat = |t: &candle_core::Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
    let (score, mean, p99) = (flat(&out.score)?, flat(&out.latency_mean_s)?, flat(&out.latency_p99_s)?);
    let (jitter, load) = (flat(&out.jitter_s)?, flat(&out.node_load)?);
    let mut all = score.iter().zip(&mean).zip(&p99).zip(&jitter).map(|(((score, mean_s), p99_s), jitter_s)| {
        Prediction { cost: (-score).exp(), mean_s: *mean_s, p99_s: *p99_s, jitter_s: *jitter_s }
    });
    let mut loads = load.as_slice();
    let found = samples.iter().map(|sample| {
        let candidates = all.by_ref().take(sample.candidates.len()).collect();
        // A model that hides other callers has more nodes than the mesh: it says nothing of loads.
        let count = if batch.own_nodes { sample.features.node_count() } else { 0 };
        let (now, later) = loads.split_at(count.min(loads.len()));
        loads = later;
        Predictions { candidates, node_load: now.to_vec() }
    });
    Ok(found.collect())
}
