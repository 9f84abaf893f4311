//! From features to scores: the model contract, the engines, and the one thread that owns the session.
//!
//! - `contract` judges a model file before any engine sees it.
//! - `engine` chooses ONNX Runtime (CUDA, CPU) or the embedded engine and proves it; `onnx_runtime` and `embedded` are those.
//! - `worker` owns the engine on a thread of its own, with a deadline, and recovers from crashes and hangs; `priority`
//!   makes that thread give way to requests.
//!
//! Whatever the model does, `score` answers within its deadline, and no failure here costs a request: the worst outcome is
//! a tick without scores, which `control` bridges. Values are not judged here (a NaN passes), shapes are.
//!
//! This room starts no task and needs no timer of its own; `score`, `reload` and `ready` need a tokio runtime with time.

mod bound;
mod contract;
mod embedded;
mod engine;
mod library;
mod onnx;
mod onnx_runtime;
mod priority;
mod status;
mod worker;

#[cfg(test)]
mod tests;

pub use contract::{BUILTIN, MAX_MODEL_BYTES, Model, ModelError, ModelInfo, verify};
pub use engine::{Engine, EngineInfo, Interrupt, Options, ScoreError, Scores, check_features};
pub use status::{Fault, ScorerStatus, State};
pub use worker::Limits;

use crate::graph::Features;
use crate::graph::features::CONTRACT_VERSION;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use worker::{Done, Job, Loaded, Shared};

/// A handle on the scoring thread. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Scorer {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What a request for scores gives.
#[derive(Debug)]
pub struct Scored {
    /// The features, for their memory to be used again; empty when they stayed with a late inference.
    pub features: Features,
    /// The scores, in shapes that fit the features, or why there are none.
    pub result: Result<Scores, ScoreError>,
    /// The model that ran; `None` when none did.
    pub model: Option<Arc<ModelInfo>>,
    /// How long the inference itself took; zero when none ended.
    pub took: Duration,
}

impl Scorer {
    /// Starts the thread, which loads the model. Returns at once; `ready` waits for it.
    ///
    /// A model that cannot be loaded is no failure here: it shows in the status, and is tried again.
    #[must_use]
    pub fn start(options: Options) -> Self {
        Self::start_with(options, Limits::default())
    }

    /// The same, with limits other than the default ones.
    #[must_use]
    pub fn start_with(options: Options, limits: Limits) -> Self {
        let file = options.file.clone();
        Self::with_loader(file, limits, move |file| {
            let model = Model::read(file)?;
            let (engine, info) = engine::select(&options, &model)?;
            Ok(Loaded { engine, info, model: model.info })
        })
    }

    /// A scorer with an engine of the caller's: for tests of what happens when an engine misbehaves.
    ///
    /// The factory is asked on the first start, on every restart and on every reload, whatever its file.
    #[must_use]
    pub fn with_engine<F>(factory: F) -> Self
    where
        F: Fn() -> Result<Box<dyn Engine>, ModelError> + Send + Sync + 'static,
    {
        Self::with_engine_and_limits(factory, Limits::default())
    }

    /// The same, with limits other than the default ones.
    #[must_use]
    pub fn with_engine_and_limits<F>(factory: F, limits: Limits) -> Self
    where
        F: Fn() -> Result<Box<dyn Engine>, ModelError> + Send + Sync + 'static,
    {
        Self::with_loader("injected".into(), limits, move |file| {
            Ok(Loaded { engine: factory()?, info: injected_engine(), model: injected_model(file) })
        })
    }

    fn with_loader<F>(file: String, limits: Limits, loader: F) -> Self
    where
        F: Fn(&str) -> Result<Loaded, ModelError> + Send + Sync + 'static,
    {
        Self { handle: Arc::new(Handle(Shared::start(file, limits, Box::new(loader)))) }
    }

    /// Scores the candidates of `features`. Answers within `deadline`, and at once when no thread is free.
    ///
    /// Dropping the future is safe: a running inference goes on, and its result is discarded.
    pub async fn score(&self, features: Features, deadline: Duration) -> Scored {
        let scored = self.try_score(features, deadline).await;
        if let Err(error) = &scored.result {
            self.shared().count(error);
        }
        scored
    }

    async fn try_score(&self, features: Features, deadline: Duration) -> Scored {
        let none = |features, error| Scored { features, result: Err(error), model: None, took: Duration::ZERO };
        if let Err(error) = check_features(&features) {
            return none(features, error);
        }
        let (reply, answer) = oneshot::channel();
        if let Some((features, error)) = self.shared().submit(Job { features, reply }, deadline) {
            return none(features, error);
        }
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(Done { features, result, model, took })) => Scored { features, result, model: Some(model), took },
            Ok(Err(_)) => none(Features::default(), ScoreError::Crashed { reason: "the scoring thread ended".into() }),
            Err(_) => none(Features::default(), ScoreError::TooSlow { deadline }),
        }
    }

    /// Replaces the running model with that of `file` (or `builtin`), once it is loaded and proven.
    ///
    /// On any error the running model stays, and the reason is in the status. Of several at once the last one wins.
    pub async fn reload(&self, file: &str) -> Result<ModelInfo, ModelError> {
        let shared = self.shared();
        let limit = shared.limits().load;
        let (id, answer) = shared.reload(file);
        let error = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => return result,
            Ok(Err(_)) => ModelError::Crashed { reason: "the loading thread ended or could not start".into() },
            Err(_) => ModelError::TooSlow { limit },
        };
        shared.refuse_reload(id, &error);
        Err(error)
    }

    /// Waits until the first attempt to load ended: the running model, or why there is none.
    pub async fn ready(&self) -> Result<ModelInfo, ModelError> {
        let mut settled = self.shared().settled();
        let outcome = settled.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or(Err(ModelError::Stopped))
    }

    /// Ends the thread and waits for that, at most for `within`. Whether it ended.
    ///
    /// For the end of a process: a library that is torn down while a thread runs in it takes the process with it.
    #[must_use]
    pub fn close(&self, within: Duration) -> bool {
        self.shared().close();
        self.shared().wait(within)
    }

    /// Engine, model, counts, and the last thing that went wrong.
    #[must_use]
    pub fn status(&self) -> ScorerStatus {
        self.shared().status()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }
}

fn injected_engine() -> EngineInfo {
    EngineInfo {
        engine: "injected",
        version: String::new(),
        device: "cpu",
        reason: "given by the caller".into(),
        remedy: None,
        degraded: false,
    }
}

fn injected_model(file: &str) -> ModelInfo {
    ModelInfo {
        name: "injected".into(),
        version: String::new(),
        contract: CONTRACT_VERSION,
        trained_on: String::new(),
        created_by: String::new(),
        digest: file.into(),
        bytes_len: 0,
    }
}
