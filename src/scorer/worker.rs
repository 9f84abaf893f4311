//! The thread that owns the engine, and what happens when it fails.
//!
//! One thread named `scorer` loads the model, then takes one job at a time; there is no queue. It is nicer than the
//! serving threads (`priority`). What can go wrong:
//!
//! | what | the caller gets | then |
//! | --- | --- | --- |
//! | an inference is late | `TooSlow` at its deadline | the result is discarded; until it ends others get `Busy` |
//! | it never returns | `TooSlow`, then `Busy` | after `hang_factor` deadlines the thread is given up, another one starts |
//! | it panics | `Crashed` | the engine is dropped, another thread starts |
//! | it fails `failures_before_restart` times in a row | `Engine` or `Shape` | the same: the device may be lost |
//! | the model cannot be loaded | `NotReady` | another attempt |
//!
//! Every new attempt waits for a backoff, 100 ms doubling to 30 s; one good inference resets it. A thread cannot be killed,
//! so one that hangs is asked to stop (`Engine::interrupt`) and left behind; it leaves its engine when it returns. Because
//! each one may hold a model's memory, no more than `hung_max` are left behind: then the scorer stalls, and says so, until
//! one returns or a reload succeeds.
//!
//! A reload is a candidate thread that loads and proves its model while the old one serves; only then it takes over, in one
//! step under the lock. The old thread finishes what it is at and ends. A refused candidate changes nothing but the status.
//!
//! Threads know their number; whoever is neither `current` nor `starting` nor `candidate` any more finds that out at its
//! next step and ends. The lock is never held across an inference, a load or an await.

mod thread;

pub(super) use thread::panic_message;

use super::contract::{ModelError, ModelInfo};
use super::engine::{Engine, EngineInfo, Interrupt, ScoreError, Scores};
use super::status::{ScorerStatus, State as Doing, Tally};
use crate::graph::Features;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thread::{announce, spawn};
use tokio::sync::{oneshot, watch};

/// When patience ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// An inference hangs when it runs for this many of its deadlines,
    pub hang_factor: u32,
    /// and at least this long.
    pub hang_min: Duration,
    /// How long loading and proving a model may take; CUDA's first start takes seconds.
    pub load: Duration,
    /// The first wait before another attempt; each further one doubles it.
    pub backoff_first: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// How many hung threads may be left behind.
    pub hung_max: usize,
    /// After how many failures in a row the engine is opened anew.
    pub failures_before_restart: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hang_factor: 10,
            hang_min: Duration::from_secs(1),
            load: Duration::from_secs(60),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            hung_max: 4,
            failures_before_restart: 3,
        }
    }
}

impl Limits {
    /// The wait before the next attempt, after so many that failed.
    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        // Twenty doublings pass any sensible limit.
        self.backoff_first.saturating_mul(1 << attempts.min(20)).min(self.backoff_max)
    }
}

/// A model in its engine, proven.
pub(super) struct Loaded {
    pub engine: Box<dyn Engine>,
    pub info: EngineInfo,
    pub model: ModelInfo,
}

/// Loads and proves the model of a file.
pub(super) type Loader = dyn Fn(&str) -> Result<Loaded, ModelError> + Send + Sync;

/// One inference to do.
pub(super) struct Job {
    pub features: Features,
    pub reply: oneshot::Sender<Done>,
}

/// One inference done.
pub(super) struct Done {
    pub features: Features,
    pub result: Result<Scores, ScoreError>,
    pub model: Arc<ModelInfo>,
    pub took: Duration,
}

pub(super) struct Shared {
    loader: Box<Loader>,
    limits: Limits,
    state: Mutex<State>,
    /// How many threads there are, whatever they do.
    living: Mutex<usize>,
    one_ended: Condvar,
    /// The outcome of the last attempt to load; `None` before the first.
    settled: watch::Sender<Option<Result<ModelInfo, ModelError>>>,
}

struct State {
    closed: bool,
    last_id: u64,
    file: String,
    current: Option<Worker>,
    starting: Option<Starting>,
    candidate: Option<u64>,
    hung: Vec<u64>,
    /// Attempts that failed since the last good inference: the exponent of the backoff.
    attempts: u32,
    errors_in_a_row: u32,
    why_down: String,
    engine: Option<EngineInfo>,
    model: Option<ModelInfo>,
    tally: Tally,
}

/// The thread that serves.
struct Worker {
    id: u64,
    jobs: Sender<Job>,
    interrupt: Option<Interrupt>,
    /// When the running inference is given up.
    busy_until: Option<Instant>,
}

/// A thread that waits for its backoff or loads.
struct Starting {
    id: u64,
    jobs: Sender<Job>,
    until: Instant,
}

/// What a thread loads for.
enum Role {
    /// To serve the configured file.
    Serve,
    /// To replace the running model.
    Reload { jobs: Sender<Job>, reply: oneshot::Sender<Result<ModelInfo, ModelError>> },
}

impl Shared {
    pub(super) fn start(file: String, limits: Limits, loader: Box<Loader>) -> Arc<Self> {
        let state = State {
            closed: false,
            last_id: 0,
            file,
            current: None,
            starting: None,
            candidate: None,
            hung: Vec::new(),
            attempts: 0,
            errors_in_a_row: 0,
            why_down: "the model is loading".into(),
            engine: None,
            model: None,
            tally: Tally::new(),
        };
        let shared = Arc::new(Self {
            loader,
            limits,
            state: Mutex::new(state),
            living: Mutex::new(0),
            one_ended: Condvar::new(),
            settled: watch::Sender::new(None),
        });
        shared.schedule(&mut shared.lock(), Duration::ZERO);
        shared
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn settled(&self) -> watch::Receiver<Option<Result<ModelInfo, ModelError>>> {
        self.settled.subscribe()
    }

    /// Hands a job to the thread. When it cannot, gives the features back with the reason; `None` is the good case.
    pub(super) fn submit(self: &Arc<Self>, job: Job, deadline: Duration) -> Option<(Features, ScoreError)> {
        self.watch();
        let mut state = self.lock();
        let reason = state.why_down.clone();
        let Some(worker) = state.current.as_mut() else {
            let error = if state.closed { ScoreError::Stopped } else { ScoreError::NotReady { reason } };
            return Some((job.features, error));
        };
        if worker.busy_until.is_some() {
            return Some((job.features, ScoreError::Busy));
        }
        let patience = deadline.saturating_mul(self.limits.hang_factor).max(self.limits.hang_min);
        worker.busy_until = Instant::now().checked_add(patience);
        // Where this fails, the thread ended by itself, and its end, which schedules another, is about to take the lock.
        let refused = worker.jobs.send(job).err()?;
        Some((refused.0.features, ScoreError::NotReady { reason: "the scoring thread has just ended".into() }))
    }

    /// Starts a candidate for the running model's place.
    pub(super) fn reload(self: &Arc<Self>, file: &str) -> (u64, oneshot::Receiver<Result<ModelInfo, ModelError>>) {
        self.watch();
        let (reply, answer) = oneshot::channel();
        let (jobs, receiver) = channel();
        let mut state = self.lock();
        let id = state.next_id();
        state.candidate = Some(id);
        // Where no thread can be had, the reply is dropped with the closure, which the caller sees.
        let _ = spawn(self, id, Role::Reload { jobs, reply }, file.to_string(), Duration::ZERO, receiver);
        (id, answer)
    }

    /// Forgets a candidate that takes too long, and notes why it was not taken.
    pub(super) fn refuse_reload(&self, id: u64, error: &ModelError) {
        let mut state = self.lock();
        if state.candidate == Some(id) {
            state.candidate = None;
        }
        state.tally.reloads_refused += 1;
        state.tally.model(Some(error), Instant::now());
    }

    pub(super) fn count(&self, error: &ScoreError) {
        self.lock().tally.failed(error, Instant::now());
    }

    pub(super) fn count_late(&self) {
        self.lock().tally.late += 1;
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(interrupt) = state.current.take().and_then(|worker| worker.interrupt) {
            interrupt();
        }
        state.starting = None;
        state.candidate = None;
    }

    /// Waits until no thread is left. Whether that was in time.
    pub(super) fn wait(&self, within: Duration) -> bool {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.one_ended.wait_timeout_while(living, within, |living| *living > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lives(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.living.lock().unwrap_or_else(PoisonError::into_inner));
        self.one_ended.notify_all();
    }

    pub(super) fn status(self: &Arc<Self>) -> ScorerStatus {
        self.watch();
        let state = self.lock();
        let doing = match (&state.current, &state.starting) {
            _ if state.closed => Doing::Stopped,
            (Some(worker), _) if worker.busy_until.is_some() => Doing::Busy,
            (Some(_), _) => Doing::Ready,
            (None, Some(_)) if state.attempts == 0 => Doing::Loading,
            (None, Some(_)) => Doing::Restarting,
            (None, None) => Doing::Stalled,
        };
        let not_ready = state.current.is_none().then(|| state.why_down.clone());
        let (engine, model) = (state.engine.clone(), state.model.clone());
        state.tally.status(doing, state.file.clone(), engine, model, not_ready, state.hung.len(), Instant::now())
    }

    /// Gives up what hangs, and starts a thread where there should be one.
    ///
    /// Called by every request for scores, so nothing needs a timer: what hangs is noticed when it is in the way.
    fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        let now = Instant::now();
        let passed = |until: Option<Instant>| until.is_some_and(|until| now >= until);
        let mut interrupt = None;
        if let Some(hung) = state.current.take_if(|worker| passed(worker.busy_until)) {
            state.hung.push(hung.id);
            interrupt = hung.interrupt;
            self.restart(&mut state, "an inference did not return".into());
        } else if let Some(hung) = state.starting.take_if(|starting| passed(Some(starting.until))) {
            state.hung.push(hung.id);
            self.restart(&mut state, "loading the model did not return".into());
        } else if state.current.is_none() && state.starting.is_none() && !state.closed {
            self.schedule(&mut state, Duration::ZERO);
        }
        drop(state);
        if let Some(interrupt) = interrupt {
            interrupt();
        }
    }

    /// Schedules another thread after a backoff.
    fn restart(self: &Arc<Self>, state: &mut State, why: String) {
        let delay = self.limits.backoff(state.attempts);
        state.current = None;
        state.starting = None;
        state.attempts = state.attempts.saturating_add(1);
        state.errors_in_a_row = 0;
        state.tally.restarts += 1;
        if state.why_down == why {
            tracing::debug!(delay_ms = delay.as_millis(), "scoring restarts again: {why}");
        } else {
            tracing::warn!(delay_ms = delay.as_millis(), "scoring restarts: {why}");
        }
        state.why_down = why;
        self.schedule(state, delay);
    }

    fn schedule(self: &Arc<Self>, state: &mut State, delay: Duration) {
        if state.closed {
            return;
        }
        if state.hung.len() >= self.limits.hung_max {
            state.why_down = format!(
                "{} inferences hang and are left behind: reload a model that works, or restart the process",
                state.hung.len()
            );
            return;
        }
        let (jobs, receiver) = channel();
        let id = state.next_id();
        let until = Instant::now().checked_add(delay.saturating_add(self.limits.load));
        match (spawn(self, id, Role::Serve, state.file.clone(), delay, receiver), until) {
            (Ok(()), Some(until)) => state.starting = Some(Starting { id, jobs, until }),
            (Err(error), _) => state.why_down = format!("the system gives no thread ({error}): raise its limit"),
            // A limit beyond the end of time: dropping the sender ends the thread, the next request tries again.
            (Ok(()), None) => state.why_down = "the load limit is too large".into(),
        }
    }

    /// Puts a loaded model to work, or notes why there is none. `None` ends the thread.
    fn install(
        self: &Arc<Self>,
        id: u64,
        role: Role,
        file: &str,
        loaded: Result<Loaded, ModelError>,
    ) -> Option<(Box<dyn Engine>, Arc<ModelInfo>)> {
        let mut state = self.lock();
        let now = Instant::now();
        let (jobs, reply) = match role {
            Role::Serve => (state.starting.take_if(|starting| starting.id == id)?.jobs, None),
            Role::Reload { jobs, reply } => {
                if state.candidate != Some(id) || state.closed {
                    let error = if state.closed { ModelError::Stopped } else { ModelError::Superseded };
                    let _ = reply.send(Err(error));
                    return None;
                }
                state.candidate = None;
                (jobs, Some(reply))
            }
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let news = state.tally.model_is_news(&error);
                state.tally.model(Some(&error), now);
                match reply {
                    Some(reply) => {
                        state.tally.reloads_refused += 1;
                        tracing::error!(file, code = error.code(), "the running model stays: {error}");
                        let _ = reply.send(Err(error));
                    }
                    None => {
                        if news {
                            tracing::error!(file, code = error.code(), "no model: {error}");
                        }
                        self.settled.send_replace(Some(Err(error.clone())));
                        self.restart(&mut state, error.to_string());
                    }
                }
                return None;
            }
        };
        announce(state.engine.as_ref(), &loaded);
        if let Some(old) = state.current.take().filter(|old| old.busy_until.is_some()) {
            // It may hang or be about to finish; until it ends it counts as left behind.
            state.hung.push(old.id);
        }
        state.starting = None;
        state.errors_in_a_row = 0;
        state.file = file.to_string();
        state.engine = Some(loaded.info);
        state.model = Some(loaded.model.clone());
        state.tally.model(None, now);
        let interrupt = loaded.engine.interrupt();
        state.current = Some(Worker { id, jobs, interrupt, busy_until: None });
        self.settled.send_replace(Some(Ok(loaded.model.clone())));
        if let Some(reply) = reply {
            state.attempts = 0;
            state.tally.reloads += 1;
            let _ = reply.send(Ok(loaded.model.clone()));
        }
        Some((loaded.engine, Arc::new(loaded.model)))
    }

    /// Notes an inference's end, before its caller learns of it. Whether the thread goes on.
    fn finished(self: &Arc<Self>, id: u64, result: &Result<Scores, ScoreError>, took: Duration) -> bool {
        let mut state = self.lock();
        state.tally.took(took);
        state.tally.inferences += u64::from(result.is_ok());
        let Some(worker) = state.current.as_mut().filter(|worker| worker.id == id) else { return false };
        worker.busy_until = None;
        match result {
            Ok(_) => {
                state.attempts = 0;
                state.errors_in_a_row = 0;
                true
            }
            Err(error @ ScoreError::Crashed { .. }) => {
                self.restart(&mut state, error.to_string());
                false
            }
            Err(error) => {
                state.errors_in_a_row += 1;
                let lost = state.errors_in_a_row >= self.limits.failures_before_restart;
                if lost {
                    let why = format!("{} failures in a row, the last: {error}", state.errors_in_a_row);
                    self.restart(&mut state, why);
                }
                !lost
            }
        }
    }

    /// Notes a thread's end, however it came.
    fn ended(self: &Arc<Self>, id: u64) {
        let mut state = self.lock();
        state.hung.retain(|hung| *hung != id);
        let serving = state.current.as_ref().is_some_and(|worker| worker.id == id);
        let starting = state.starting.as_ref().is_some_and(|starting| starting.id == id);
        if serving || starting {
            self.restart(&mut state, "the scoring thread ended".into());
        }
    }

    /// No code panics while it holds the lock; and if one did, every field would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
