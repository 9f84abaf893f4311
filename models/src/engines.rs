//! The engines that answer a model's questions: candle (the weights), rten and ONNX Runtime (the file).
//!
//! These runners exist to compare and to time; the sidecar's own are in `pathloom::scorer`.

use crate::net::{FE, FN};
use crate::onnx::OUTPUTS;
use crate::tensors::{Candle, inputs};
use crate::weights::Weights;
use crate::{Error, Result};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use pathloom::graph::Features;
use rten::{Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// What a model said, in the order of `onnx::OUTPUTS`.
pub type Answers = [Vec<f32>; OUTPUTS.len()];

/// The weights' own answers.
///
/// # Errors
/// When the features do not fit the network.
pub fn candle(weights: &Weights, features: &Features) -> Result<Answers> {
    let out = weights.kind().forward(&Candle::new(weights), &inputs(features)?)?;
    let values = [out.score, out.latency_mean_s, out.latency_p99_s, out.jitter_s, out.node_load, out.attention];
    let mut answers = Answers::default();
    for (answer, value) in answers.iter_mut().zip(values) {
        *answer = value.flatten_all()?.to_vec1()?;
    }
    Ok(answers)
}

/// The file in rten, on one thread.
pub struct Rten {
    model: Model,
    options: RunOptions,
}

const RTEN: &str = "rten";

impl Rten {
    /// Loads a model from a file's bytes.
    ///
    /// # Errors
    /// When rten refuses it.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let model = Model::load(bytes).map_err(|e| refused(RTEN, &e))?;
        let mut options = RunOptions::default();
        options.thread_pool = Some(Arc::new(ThreadPool::with_num_threads(1)));
        Ok(Self { model, options })
    }

    /// Runs it.
    ///
    /// # Errors
    /// When rten refuses the inputs.
    pub fn run(&self, features: &Features) -> Result<Answers> {
        let id = |name: &str| self.model.node_id(name).map_err(|e| refused(RTEN, &e));
        let floats = |columns: usize, data: &[f32]| {
            Value::from_shape([data.len() / columns, columns], data.to_vec()).map_err(|e| refused(RTEN, &e))
        };
        let integers = |shape: &[usize], data: &[i64]| {
            let narrow = data.iter().map(|v| *v as i32).collect();
            Value::from_shape(shape, narrow).map_err(|e| refused(RTEN, &e))
        };
        let given: Vec<(NodeId, ValueOrView<'_>)> = vec![
            (id("node_features")?, floats(FN, &features.nodes)?.into()),
            (id("edges")?, integers(&[2, features.edge_count()], &features.edges)?.into()),
            (id("edge_features")?, floats(FE, &features.edge_features)?.into()),
            (id("path_offsets")?, integers(&[features.path_offsets.len()], &features.path_offsets)?.into()),
            (id("path_links")?, integers(&[features.path_links.len()], &features.path_links)?.into()),
        ];
        let wanted = OUTPUTS.iter().map(|(name, ..)| id(name)).collect::<Result<Vec<_>>>()?;
        let found = self.model.run(given, &wanted, Some(self.options.clone())).map_err(|e| refused(RTEN, &e))?;
        let mut answers = Answers::default();
        for (answer, value) in answers.iter_mut().zip(found) {
            *answer = value.into_shape_vec::<f32, 1>().map_err(|e| refused(RTEN, &e))?.1;
        }
        Ok(answers)
    }
}

/// The file in ONNX Runtime's CPU provider, on one thread (see `onnx` for why one).
pub struct OnnxRuntime(Session);

const ORT: &str = "onnxruntime";

impl OnnxRuntime {
    /// Loads the library, once a process, and the model.
    ///
    /// # Errors
    /// When the library cannot be loaded, or refuses the model.
    pub fn new(library: &Path, bytes: &[u8]) -> Result<Self> {
        // A process has one environment, and it must outlive its sessions.
        static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
        let environment = match ENVIRONMENT.get() {
            Some(environment) => environment,
            None => {
                let builder = ort::init_from(library).map_err(|e| refused(ORT, &e))?;
                let made = builder.build().map_err(|e| refused(ORT, &e))?;
                ENVIRONMENT.get_or_init(|| made)
            }
        };
        let session = Session::builder(environment)
            .map_err(|e| refused(ORT, &e))?
            .with_intra_threads(1)
            .map_err(|e| refused(ORT, &e))?
            .commit_from_memory(bytes)
            .map_err(|e| refused(ORT, &e))?;
        Ok(Self(session))
    }

    /// Runs it.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the inputs.
    pub fn run(&mut self, features: &Features) -> Result<Answers> {
        let given = Self::inputs(features).map_err(|e| refused(ORT, &e))?;
        let found = self.0.run(given).map_err(|e| refused(ORT, &e))?;
        let mut answers = Answers::default();
        for (answer, (name, ..)) in answers.iter_mut().zip(OUTPUTS) {
            let value = found.get(name).ok_or_else(|| refused(ORT, &format!("no output {name}")))?;
            *answer = value.try_extract_tensor::<f32>().map_err(|e| refused(ORT, &e))?.1.to_vec();
        }
        Ok(answers)
    }

    fn inputs(f: &Features) -> ort::Result<Vec<(std::borrow::Cow<'_, str>, ort::session::SessionInputValue<'_>)>> {
        Ok(ort::inputs![
            "node_features" => TensorRef::from_array_view(([f.node_count(), FN], f.nodes.as_slice()))?,
            "edges" => TensorRef::from_array_view(([2, f.edge_count()], f.edges.as_slice()))?,
            "edge_features" => TensorRef::from_array_view(([f.edge_count(), FE], f.edge_features.as_slice()))?,
            "path_offsets" => TensorRef::from_array_view(([f.path_offsets.len()], f.path_offsets.as_slice()))?,
            "path_links" => TensorRef::from_array_view(([f.path_links.len()], f.path_links.as_slice()))?,
        ])
    }

    /// Where the library is: what was asked for, else `ORT_DYLIB_PATH`, else `target/onnxruntime` of a directory above.
    #[must_use]
    pub fn find(asked: Option<&Path>) -> Option<PathBuf> {
        let given = asked.map(Path::to_path_buf).or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
        if let Some(path) = given {
            return path.exists().then_some(path);
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let entries = std::fs::read_dir(target.join("onnxruntime/onnxruntime/capi")).ok()?;
        entries.flatten().map(|e| e.path()).find(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with("libonnxruntime.so") || name == "libonnxruntime.dylib"
        })
    }
}

fn refused(engine: &'static str, reason: &dyn std::fmt::Display) -> Error {
    Error::Engine { engine, reason: reason.to_string() }
}
