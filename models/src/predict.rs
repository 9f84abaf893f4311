//! Whoever predicts: the network, and everybody that it is measured against.

use crate::Result;
use crate::data::Sample;

/// What a predictor says of one candidate. NaN is 'no word'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// What the choice is made by: the lowest cost wins. For the network its intrinsic latency in seconds.
    pub cost: f32,
    /// The next window's mean latency in seconds.
    pub mean_s: f32,
    /// The next window's 99th percentile in seconds.
    pub p99_s: f32,
    /// The next window's jitter in seconds.
    pub jitter_s: f32,
}

/// All that a predictor says of a sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Predictions {
    /// For each candidate, in the sample's order.
    pub candidates: Vec<Prediction>,
    /// For each node, the next window's requests a second; empty when it predicts none.
    pub node_load: Vec<f32>,
}

/// A predictor.
pub trait Predictor {
    /// Its name in tables and JSON.
    fn name(&self) -> &str;

    /// Whether its cost is a latency in seconds, so that it can be measured against the intrinsic one.
    fn cost_is_latency(&self) -> bool {
        true
    }

    /// What it says of samples, in order.
    ///
    /// # Errors
    /// When an engine or a tensor operation fails.
    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>>;
}
