//! The thread itself: it waits, loads, takes one job after another, and tells of its end however that comes.

use super::{Done, Job, Loaded, Role, Shared};
use crate::scorer::contract::{ModelError, ModelInfo};
use crate::scorer::engine::{EngineInfo, ScoreError, Scores};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A thread's hold on what it serves; dropping it tells that the thread ended.
struct Thread {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.ended(self.id);
        self.shared.lives(|living| *living -= 1);
    }
}

/// Starts a thread of this number, which loads the file after the delay and then takes jobs.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    id: u64,
    role: Role,
    file: String,
    delay: Duration,
    jobs: Receiver<Job>,
) -> std::io::Result<()> {
    shared.lives(|living| *living += 1);
    let theirs = Arc::clone(shared);
    // The guard is made in the thread: here, where the lock is held, a closure that comes back must not take it.
    let body = move || serve(&Thread { shared: theirs, id }, role, &file, delay, &jobs);
    let spawned = std::thread::Builder::new().name("scorer".into()).spawn(body);
    spawned.map(|_| ()).inspect_err(|_| shared.lives(|living| *living -= 1))
}

fn serve(thread: &Thread, role: Role, file: &str, delay: Duration, jobs: &Receiver<Job>) {
    // Nobody sends before the model is installed: this waits for the time to pass or the sender to go.
    if !delay.is_zero() && !matches!(jobs.recv_timeout(delay), Err(RecvTimeoutError::Timeout)) {
        return;
    }
    // Before the engine is opened: threads that it starts inherit it.
    crate::scorer::priority::give_way();
    let shared = &thread.shared;
    let loaded = catch_unwind(AssertUnwindSafe(|| (shared.loader)(file)))
        .unwrap_or_else(|panic| Err(ModelError::Crashed { reason: panic_message(panic.as_ref()) }));
    let Some((mut engine, model)) = shared.install(thread.id, role, file, loaded) else { return };
    while let Ok(Job { features, reply }) = jobs.recv() {
        let begun = Instant::now();
        let mut scores = Scores::default();
        let run = AssertUnwindSafe(|| engine.run(&features, &mut scores).and_then(|()| scores.check(&features)));
        let result = catch_unwind(run)
            .unwrap_or_else(|panic| Err(ScoreError::Crashed { reason: panic_message(panic.as_ref()) }))
            .map(|()| scores);
        let took = begun.elapsed();
        let goes_on = shared.finished(thread.id, &result, took);
        if reply.send(Done { features, result, model: Arc::clone(&model), took }).is_err() {
            shared.count_late();
        }
        if !goes_on {
            break;
        }
    }
    // An engine that panicked may panic again when it is dropped; the thread ends in any case.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
}

/// Tells once which engine runs, why, and how to get the other; and again only when that changed.
pub(super) fn announce(before: Option<&EngineInfo>, loaded: &Loaded) {
    let EngineInfo { engine, version, device, reason, remedy, degraded } = &loaded.info;
    let ModelInfo { name, version: model_version, digest, .. } = &loaded.model;
    if before != Some(&loaded.info) {
        let remedy = remedy.as_deref().filter(|text| !text.is_empty()).map(|text| format!("; for the other: {text}"));
        let text = format!("scores come from {engine} ({version}) on {device}: {reason}{}", remedy.unwrap_or_default());
        if *degraded {
            tracing::error!(engine, device, "{text}");
        } else {
            tracing::info!(engine, device, "{text}");
        }
    }
    tracing::info!(name, version = model_version, digest, "the model is loaded");
}

/// A panic's message.
pub(in crate::scorer) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
