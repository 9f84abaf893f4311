//! Whether a model file keeps its contract, and whether the engines agree on it.
//!
//! Agreement is tried on random graphs that hold what production can: unknown columns, links and nodes that are all
//! unknown, nodes without links, hubs, paths of several links, values far out of range.

use crate::engines::{Answers, OnnxRuntime, Rten, candle};
use crate::net::{FE, FN};
use crate::onnx::OUTPUTS;
use crate::onnx::proto::ModelProto;
use crate::weights::Weights;
use crate::{Error, Result};
use pathloom::graph::Features;
use pathloom::graph::features::{CONTRACT_VERSION, EDGE_FEATURES, NODE_FEATURES};
use prost::Message;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::time::Instant;

/// Engines may differ by this much, relative to values above 1.
/// Graphs out of every range are among those compared: there the p99 of long paths adds squares of large numbers.
pub const TOLERANCE: f32 = 2e-4;

/// Reads a file's metadata.
///
/// # Errors
/// When the bytes are not an ONNX file.
pub fn metadata(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let model = ModelProto::decode(bytes).map_err(|e| Error::Format(format!("not an ONNX file: {e}")))?;
    Ok(model.metadata_props.into_iter().map(|p| (p.key.unwrap_or_default(), p.value.unwrap_or_default())).collect())
}

/// Whether the file says that it keeps the contract of this build.
///
/// # Errors
/// When the bytes are not an ONNX file, or its contract is another.
pub fn contract(bytes: &[u8]) -> Result<()> {
    let found = metadata(bytes)?;
    for (key, wanted) in [
        ("pathloom.contract", CONTRACT_VERSION.to_string()),
        ("pathloom.node_features", NODE_FEATURES.join(",")),
        ("pathloom.edge_features", EDGE_FEATURES.join(",")),
    ] {
        let value = found.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if value != Some(wanted.as_str()) {
            return Err(Error::Check(format!("{key} is {value:?}, this build wants {wanted:?}")));
        }
    }
    Ok(())
}

/// Random features of a graph with `n` nodes and about `e` edges.
#[must_use]
pub fn random_features(seed: u64, n: usize, e: usize) -> Features {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let n = n.max(2);
    let mut pairs = BTreeSet::new();
    // The first node calls many; the last fifth of the nodes has no links at all.
    let linked = (n - n / 5).max(2);
    for i in 0..e.max(1) {
        let caller = if i % 7 == 0 { 0 } else { rng.random_range(0..linked) };
        let called = rng.random_range(0..linked);
        if caller != called {
            pairs.insert((caller as i64, called as i64));
        }
    }
    pairs.insert((0, 1));
    let unknown_share = rng.random_range(0.0..0.5);
    let mut row = |columns: usize| -> Vec<f32> {
        let all_unknown = rng.random_bool(0.15);
        (0..columns)
            .map(|_| match rng.random::<f32>() {
                _ if all_unknown => f32::NAN,
                r if r < unknown_share => f32::NAN,
                r if r > 0.995 => *[f32::INFINITY, -1.0, 0.0, 1e20].get(rng.random_range(0..4usize)).unwrap_or(&0.0),
                _ => 10f32.powf(rng.random_range(-5.0..3.0)),
            })
            .collect()
    };
    let nodes = (0..n).flat_map(|_| row(FN)).collect();
    let edge_features = pairs.iter().flat_map(|_| row(FE)).collect();
    let edges = pairs.iter().map(|p| p.1).chain(pairs.iter().map(|p| p.0)).collect();
    let (mut path_offsets, mut path_links) = (vec![0i64], Vec::new());
    for link in 0..pairs.len() as i64 {
        path_links.push(link);
        for _ in 0..(if link % 5 == 0 { rng.random_range(0..3) } else { 0 }) {
            path_links.push(rng.random_range(0..pairs.len() as i64));
        }
        path_offsets.push(path_links.len() as i64);
    }
    Features { nodes, edges, edge_features, path_offsets, path_links, shape: 0 }
}

/// The largest difference of two engines' answers, relative to values above 1; infinite when lengths differ or one
/// answer is not finite.
#[must_use]
pub fn difference(a: &Answers, b: &Answers) -> [f32; OUTPUTS.len()] {
    std::array::from_fn(|i| match (a.get(i), b.get(i)) {
        (Some(a), Some(b)) if a.len() == b.len() => a.iter().zip(b).fold(0.0f32, |most, (a, b)| {
            let off = (a - b).abs() / a.abs().max(1.0);
            if off.is_finite() { most.max(off) } else { f32::INFINITY }
        }),
        _ => f32::INFINITY,
    })
}

/// How far two engines were apart over all graphs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Agreement {
    /// Which two.
    pub engines: String,
    /// The largest difference of each output, in the order of `onnx::OUTPUTS`.
    pub largest: [f32; OUTPUTS.len()],
}

/// Compares the engines on random graphs. Without weights only rten and ONNX Runtime are compared.
///
/// # Errors
/// When an engine fails.
pub fn agreement(
    bytes: &[u8],
    weights: Option<&Weights>,
    mut onnx_runtime: Option<&mut OnnxRuntime>,
    graphs: u64,
    seed: u64,
) -> Result<Vec<Agreement>> {
    let rten = Rten::new(bytes.to_vec())?;
    let mut found: Vec<Agreement> = Vec::new();
    let mut note = |engines: &str, a: &Answers, b: &Answers| {
        let off = difference(a, b);
        match found.iter_mut().find(|f| f.engines == engines) {
            Some(known) => known.largest.iter_mut().zip(off).for_each(|(k, o)| *k = k.max(o)),
            None => found.push(Agreement { engines: engines.into(), largest: off }),
        }
    };
    for graph in 0..graphs {
        let sizes = [(2, 1), (5, 8), (12, 30), (50, 200), (120, 600)];
        let (n, e) = sizes.get((graph % 5) as usize).copied().unwrap_or((5, 8));
        let features = random_features(seed.wrapping_add(graph), n, e);
        let by_rten = rten.run(&features)?;
        let by_candle = weights.map(|w| candle(w, &features)).transpose()?;
        if let Some(by_candle) = &by_candle {
            note("candle and rten", by_candle, &by_rten);
        }
        if let Some(runtime) = onnx_runtime.as_deref_mut() {
            let by_runtime = runtime.run(&features)?;
            note("onnxruntime and rten", &by_runtime, &by_rten);
            if let Some(by_candle) = &by_candle {
                note("candle and onnxruntime", by_candle, &by_runtime);
            }
        }
    }
    Ok(found)
}

/// The median time of one inference, in milliseconds, for a graph of this size.
///
/// # Errors
/// When the engine fails.
pub fn time_ms(mut run: impl FnMut(&Features) -> Result<Answers>, n: usize, e: usize, runs: usize) -> Result<f64> {
    let features = random_features(7, n, e);
    run(&features)?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        run(&features)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
