//! ONNX Runtime: found, loaded once a process, and asked to run on CUDA or the CPU.
//!
//! The library is looked for in this order, and the first place that names one decides: `model.onnxruntime`, the variable
//! `ORT_DYLIB_PATH`, the folder of the binary, `onnxruntime/` beside it. A place that was named and does not work is an
//! error to be told, not a reason to take another library that nobody named.
//!
//! `ort` holds the library and one environment for the life of the process, so they are kept here behind a lock. A later
//! call that names another library gets the one that is loaded, and says so. `library` looks into a library before `ort`
//! is told of it, since `ort` panics where something is missing; a panic in spite of that is caught, and counts as a
//! library that does not work.
//!
//! Sessions run with **one** intra-op thread. With more, `ScatterND` with `add` loses sums on the CPU provider (upstream
//! issues 18048 and 23396), and requests would lose cores. Spinning is off for the same reason. The memory pattern is off
//! because shapes change from tick to tick. Tensors live in ONNX Runtime's arena, or each inference would ask the system
//! anew for pages that it gave back after the last one: 600 page faults at 1,000 nodes and 5,000 links, a tenth of the
//! time. An arena keeps what the largest mesh so far needed, so it is emptied once a mesh is `SHRUNK` times smaller.

use super::bound::{Bound, Staging};
use super::contract::Model;
use super::engine::{Engine, EngineInfo, Interrupt, Options, ScoreError, Scores, StepDown, warm_up};
use super::library;
use crate::config::Device;
use crate::graph::Features;
use crate::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::{RunOptions, Session, SessionOutputs};
use ort::value::TensorRef;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const VARIABLE: &str = "ORT_DYLIB_PATH";
const LIBRARY: &str = "libonnxruntime.so";
const GET_LIBRARY: &str = "name libonnxruntime.so (1.22 or later) in `model.onnxruntime` or ORT_DYLIB_PATH, or put it beside the binary; \
     the wheel `onnxruntime` on PyPI holds it in onnxruntime/capi/";
const GET_CUDA: &str = "use the library of the wheel `onnxruntime-gpu` with its providers beside it, and have the NVIDIA driver, \
     the CUDA runtime and cuDNN that it names on the library path";

/// The library and the environment, loaded once.
#[derive(Clone)]
struct Runtime {
    path: PathBuf,
    version: String,
    environment: Environment,
}

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The arena is emptied after an inference of a mesh so many times smaller than the largest since the last time.
const SHRUNK: usize = 4;

struct OnnxRuntime {
    session: Session,
    options: Arc<RunOptions>,
    /// The same, and the arena is emptied afterwards.
    emptying: Arc<RunOptions>,
    /// The nodes and links of the largest mesh since the arena was last emptied.
    largest: usize,
    /// Where features go on their way to a device; none on the CPU, which reads them where they are.
    staging: Option<Staging>,
    /// What lies on the device, of the last mesh.
    bound: Option<Bound>,
}

/// Opens a model and proves it, on the best device that works; otherwise says why the embedded engine should run.
pub(super) fn open(options: &Options, model: &Model) -> Result<(Box<dyn Engine>, EngineInfo), StepDown> {
    let found = find(options)?;
    catch_unwind(AssertUnwindSafe(|| open_with(&found, options, model))).unwrap_or_else(|panic| {
        let reason = super::worker::panic_message(panic.as_ref());
        Err(StepDown::new(format!("ONNX Runtime's library {} crashed: {reason}", found.display()), GET_LIBRARY))
    })
}

fn open_with(found: &Path, options: &Options, model: &Model) -> Result<(Box<dyn Engine>, EngineInfo), StepDown> {
    let runtime = load(found)?;
    let mut reason = format!("ONNX Runtime {} at {}", runtime.version, runtime.path.display());
    if runtime.path != found {
        reason += &format!(" was loaded before {}, which takes effect after a restart", found.display());
    }
    let info = |device, reason, remedy: Option<&str>| EngineInfo {
        engine: "onnxruntime",
        version: runtime.version.clone(),
        device,
        reason,
        remedy: remedy.map(Into::into),
        degraded: remedy.is_some() && options.device == Device::Cuda,
    };
    let mut remedy = None;
    match options.device {
        Device::Cpu => reason += "; the CPU was chosen by `model.device: cpu`",
        Device::Auto | Device::Cuda => match proven(&runtime, model, true) {
            Ok(engine) => return Ok((engine, info("cuda", reason, None))),
            Err(why) => {
                reason += &format!("; not on CUDA: {why}");
                remedy = Some(GET_CUDA);
            }
        },
    }
    let engine = proven(&runtime, model, false).map_err(|why| {
        let reason = format!("ONNX Runtime {} does not run the model: {why}", runtime.version);
        StepDown::new(reason, "use a newer library, or export the model with the operators that `models/` uses")
    })?;
    Ok((engine, info("cpu", reason, remedy)))
}

/// Where the library is.
fn find(options: &Options) -> Result<PathBuf, StepDown> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = match (&options.onnxruntime, variable) {
        (Some(path), _) => Some((path.clone(), "`model.onnxruntime`")),
        (None, Some(path)) => Some((path, VARIABLE)),
        (None, None) => None,
    };
    if let Some((path, by)) = named {
        return resolve(&path).ok_or_else(|| {
            StepDown::new(format!("{by} names {}, where no {LIBRARY} is", path.display()), GET_LIBRARY)
        });
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    beside
        .and_then(|folder| in_folder(&folder).or_else(|| in_folder(&folder.join("onnxruntime"))))
        .ok_or_else(|| StepDown::new("ONNX Runtime's library was not found", GET_LIBRARY))
}

/// A file, the best library in a folder, or a bare name for the system's own search.
pub(super) fn resolve(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return in_folder(path);
    }
    if path.is_file() {
        return Some(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    }
    // A name without a folder is left to the loader, which knows the system's library path.
    (path.components().count() == 1).then(|| path.to_path_buf())
}

/// `libonnxruntime.so` of a folder, else the one with the highest version in its name.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let candidates = entries.filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let suffix = name.strip_prefix(LIBRARY)?;
        let version: Vec<u32> = suffix.split('.').filter_map(|part| part.parse().ok()).collect();
        // The plain name is what its owner points at the version of choice.
        (path.is_file() && (suffix.is_empty() || suffix.starts_with('.'))).then_some((suffix.is_empty(), version, path))
    });
    let (_, _, best) = candidates.max()?;
    Some(best.canonicalize().unwrap_or(best))
}

/// Loads the library and makes the environment, or gives what an earlier call made.
fn load(path: &Path) -> Result<Runtime, StepDown> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let refused = |why: String| StepDown::new(format!("{} is not used: {why}", path.display()), GET_LIBRARY);
    if let Some(loaded) = runtime.as_ref().filter(|loaded| loaded.path == path) {
        return Ok(loaded.clone());
    }
    let version = library::version(path).map_err(|why| refused(why.to_string()))?;
    if let Some(loaded) = runtime.as_ref() {
        return Ok(loaded.clone());
    }
    let builder = ort::init_from(path).map_err(|error| refused(error.to_string()))?;
    let builder = builder.with_name("pathloom").with_telemetry(false).with_logger(Arc::new(log));
    let environment = builder.build().map_err(|error| refused(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    let loaded = Runtime { path: path.to_path_buf(), version, environment };
    *runtime = Some(loaded.clone());
    Ok(loaded)
}

/// ONNX Runtime reports a provider that it cannot load as an error, and we step down from that by ourselves.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal | LogLevel::Error => tracing::warn!(target: "onnxruntime", location, "{message}"),
        LogLevel::Warning => tracing::debug!(target: "onnxruntime", location, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", location, "{message}"),
    }
}

/// A session on a device, warmed up; the error says what failed.
fn proven(runtime: &Runtime, model: &Model, cuda: bool) -> Result<Box<dyn Engine>, String> {
    if cuda && !ep::CUDA::is_available().unwrap_or(false) {
        return Err("this build of the library has no CUDA provider".into());
    }
    let mut engine = session(runtime, model, cuda).map_err(|e| e.to_string())?;
    warm_up(&mut engine)?;
    Ok(Box::new(engine))
}

fn session(runtime: &Runtime, model: &Model, cuda: bool) -> ort::Result<OnnxRuntime> {
    let mut builder = Session::builder(&runtime.environment)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(false)?
        .with_log_level(LogLevel::Warning)?;
    if cuda {
        let provider = ep::CUDA::default().with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
        builder = builder.with_execution_providers([provider.build().error_on_failure()])?;
    }
    builder = builder.with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?;
    let mut emptying = RunOptions::new()?;
    emptying.set("memory.enable_memory_arena_shrinkage", if cuda { "cpu:0;gpu:0" } else { "cpu:0" })?;
    Ok(OnnxRuntime {
        session: builder.commit_from_memory(&model.bytes)?,
        options: Arc::new(RunOptions::new()?),
        emptying: Arc::new(emptying),
        largest: 0,
        staging: cuda.then_some(Staging::Pinned),
        bound: None,
    })
}

impl OnnxRuntime {
    /// Runs with what lies on the device already, as far as it is the same.
    fn run_bound(&mut self, features: &Features, scores: &mut Scores, staging: Staging) -> Result<(), ScoreError> {
        let bound = match self.bound.take().filter(|bound| bound.fits(features)) {
            Some(bound) => bound,
            None => Bound::new(&self.session, features, staging).map_err(failed)?,
        };
        let bound = self.bound.insert(bound);
        let outputs = bound.run(&mut self.session, &self.options, features).map_err(failed)?;
        read(&outputs, features, scores)
    }
}

impl Engine for OnnxRuntime {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
        if let Some(staging) = self.staging.filter(|_| Bound::can_take(features)) {
            return self.run_bound(features, scores, staging);
        }
        let (n, e) = (features.node_count(), features.edge_count());
        let nodes = TensorRef::from_array_view(([n, NODE_FEATURES.len()], features.nodes.as_slice()));
        let edges = TensorRef::from_array_view(([2, e], features.edges.as_slice()));
        let links = TensorRef::from_array_view(([e, EDGE_FEATURES.len()], features.edge_features.as_slice()));
        let offsets = TensorRef::from_array_view(([features.path_offsets.len()], features.path_offsets.as_slice()));
        let path_links = TensorRef::from_array_view(([features.path_links.len()], features.path_links.as_slice()));
        let inputs = ort::inputs! {
            "node_features" => nodes.map_err(failed)?,
            "edges" => edges.map_err(failed)?,
            "edge_features" => links.map_err(failed)?,
            "path_offsets" => offsets.map_err(failed)?,
            "path_links" => path_links.map_err(failed)?,
        };
        let size = n + e;
        let options = if size * SHRUNK < self.largest {
            self.largest = size;
            &self.emptying
        } else {
            self.largest = self.largest.max(size);
            &self.options
        };
        let outputs = self.session.run_with_options(inputs, &**options).map_err(failed)?;
        read(&outputs, features, scores)
    }

    fn interrupt(&self) -> Option<Interrupt> {
        let all = [Arc::clone(&self.options), Arc::clone(&self.emptying)];
        Some(Arc::new(move || {
            for options in &all {
                // Nothing is left to do where even this fails: the thread is given up either way.
                let _ = options.terminate();
            }
        }))
    }
}

/// Takes in the outputs.
fn read(outputs: &SessionOutputs<'_>, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
    for ((name, slot), expected) in scores.outputs_mut().into_iter().zip(Scores::lengths(features)) {
        let wrong = |found| ScoreError::Shape { output: name, expected, found };
        let value = outputs.get(name).ok_or_else(|| wrong("it is missing".into()))?;
        let (shape, values) = value.try_extract_tensor::<f32>().map_err(|e| wrong(e.to_string()))?;
        if shape.len() != 1 {
            return Err(wrong(format!("it has {} dimensions", shape.len())));
        }
        slot.clear();
        slot.extend_from_slice(values);
    }
    Ok(())
}

fn failed(error: ort::Error) -> ScoreError {
    ScoreError::Engine { reason: error.to_string() }
}

#[cfg(test)]
pub(super) mod for_tests {
    use super::*;

    /// An engine on the CPU that binds its inputs as on a device.
    pub fn bound(library: &Path, model: &Model) -> Box<dyn Engine> {
        let mut engine = session(&load(library).unwrap(), model, false).unwrap();
        engine.staging = Some(Staging::Ordinary);
        Box::new(engine)
    }
}
