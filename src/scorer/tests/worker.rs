//! Engines that are late, hang, panic, fail and lie, and models that are replaced (`reload`): who learns what, and what
//! happens next.
#![allow(clippy::disallowed_methods, reason = "these engines sleep on a thread of their own")]

mod reload;

use super::*;
use crate::config::{Device, Engine as Choice};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// What an engine does next.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Good,
    Nan,
    Short,
    Fail,
    Panic,
    Sleep(u64),
    /// Blocks until the stage is opened.
    Hang,
}

/// Where scripted engines play: a script they share, and what they did.
#[derive(Default)]
struct Stage {
    script: Mutex<VecDeque<Act>>,
    open: Mutex<bool>,
    opened: Condvar,
    running: AtomicUsize,
    most_running: AtomicUsize,
    runs: AtomicUsize,
    made: AtomicUsize,
    dropped: AtomicUsize,
    interrupted: AtomicUsize,
    panic_on_drop: AtomicBool,
    threads: Mutex<Vec<String>>,
}

impl Stage {
    fn new(script: &[Act]) -> Arc<Self> {
        let stage = Self::default();
        *stage.script.lock().unwrap() = script.iter().copied().collect();
        Arc::new(stage)
    }

    fn scorer(self: &Arc<Self>, limits: Limits) -> Scorer {
        let stage = Arc::clone(self);
        Scorer::with_engine_and_limits(move || Ok(stage.engine()), limits)
    }

    fn engine(self: &Arc<Self>) -> Box<dyn Engine> {
        self.made.fetch_add(1, SeqCst);
        Box::new(Actor(Arc::clone(self)))
    }

    fn release(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

struct Actor(Arc<Stage>);

impl Engine for Actor {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
        let stage = &self.0;
        stage.runs.fetch_add(1, SeqCst);
        stage.most_running.fetch_max(stage.running.fetch_add(1, SeqCst) + 1, SeqCst);
        stage.threads.lock().unwrap().push(std::thread::current().name().unwrap_or_default().to_string());
        let act = stage.script.lock().unwrap().pop_front().unwrap_or(Act::Good);
        if act == Act::Hang {
            let mut open = stage.open.lock().unwrap();
            while !*open {
                open = stage.opened.wait(open).unwrap();
            }
        }
        if let Act::Sleep(ms) = act {
            std::thread::sleep(Duration::from_millis(ms));
        }
        stage.running.fetch_sub(1, SeqCst);
        match act {
            Act::Fail => return Err(ScoreError::Engine { reason: "the device is lost".into() }),
            Act::Panic => panic!("as the script says"),
            _ => {}
        }
        let value = if act == Act::Nan { f32::NAN } else { 0.5 };
        for ((_, slot), length) in scores.outputs_mut().into_iter().zip(Scores::lengths(features)) {
            *slot = vec![value; length];
        }
        if act == Act::Short {
            scores.latency_p99_s.pop();
        }
        Ok(())
    }

    fn interrupt(&self) -> Option<Interrupt> {
        let stage = Arc::clone(&self.0);
        Some(Arc::new(move || {
            stage.interrupted.fetch_add(1, SeqCst);
        }))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
        assert!(!self.0.panic_on_drop.load(SeqCst) || std::thread::panicking(), "as the script says, once more");
    }
}

const SOON: Duration = Duration::from_secs(20);

/// Short enough for tests, long enough for a busy machine.
fn quick() -> Limits {
    Limits {
        hang_factor: 2,
        hang_min: Duration::from_millis(500),
        load: SOON,
        backoff_first: Duration::from_millis(10),
        backoff_max: Duration::from_millis(80),
        hung_max: 2,
        failures_before_restart: 3,
    }
}

fn features() -> Features {
    mesh(5, 2, 0.1)
}

async fn code(scorer: &Scorer, deadline_ms: u64) -> &'static str {
    match scorer.score(features(), Duration::from_millis(deadline_ms)).await.result {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

/// Asks until the answer is `wanted`; the answers before it.
async fn until(scorer: &Scorer, wanted: &str) -> Vec<&'static str> {
    let begun = Instant::now();
    let mut before = Vec::new();
    loop {
        match code(scorer, 5_000).await {
            found if found == wanted => return before,
            other => before.push(other),
        }
        assert!(begun.elapsed() < SOON, "never {wanted}: {:?}", scorer.status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn scores_come_from_the_named_thread_and_the_features_come_back() {
    let stage = Stage::new(&[]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    let scored = scorer.score(features(), SOON).await;
    let same = features();
    assert_eq!((scored.features.edges, scored.features.path_links), (same.edges, same.path_links));
    let scores = scored.result.unwrap();
    assert_eq!((scores.score.len(), scores.node_load.len()), (8, 5));
    assert_eq!(scored.model.unwrap().name, "injected");
    assert_eq!(*stage.threads.lock().unwrap(), ["scorer"]);
    let status = scorer.status();
    assert_eq!((status.state, status.inferences, status.restarts), (State::Ready, 1, 0));
    assert!(status.last_duration_s.is_some() && status.mean_duration_s.is_some() && status.not_ready.is_none());
}

#[tokio::test]
async fn a_busy_mark_is_gone_before_the_answer_arrives() {
    let scorer = Stage::new(&[]).scorer(quick());
    scorer.ready().await.unwrap();
    for _ in 0..5_000 {
        assert_eq!(code(&scorer, 20_000).await, "ok");
    }
    assert_eq!(scorer.status().inferences, 5_000);
}

#[tokio::test]
async fn values_are_not_judged_here_and_shapes_are() {
    let scorer = Stage::new(&[Act::Nan, Act::Short]).scorer(quick());
    scorer.ready().await.unwrap();
    let scores = scorer.score(features(), SOON).await.result.unwrap();
    assert!(scores.score.iter().all(|s| s.is_nan()));
    let error = scorer.score(features(), SOON).await.result.unwrap_err();
    assert!(matches!(error, ScoreError::Shape { output: "latency_p99_s", expected: 8, .. }), "{error}");
    assert_eq!(code(&scorer, 20_000).await, "ok");
    assert_eq!(scorer.status().restarts, 0);
}

#[tokio::test]
async fn inconsistent_features_come_back_without_an_inference() {
    let stage = Stage::new(&[]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    let scored = scorer.score(Features { edges: vec![0; 4], ..features() }, SOON).await;
    assert_eq!(scored.result.unwrap_err().code(), "features");
    assert!(!scored.features.nodes.is_empty());
    assert_eq!(stage.runs.load(SeqCst), 0);
}

#[tokio::test]
async fn a_failing_engine_is_opened_anew_after_three_failures_in_a_row() {
    let stage = Stage::new(&[Act::Fail, Act::Fail, Act::Good, Act::Fail, Act::Short, Act::Fail]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    for expected in ["engine", "engine", "ok", "engine", "shape"] {
        assert_eq!(code(&scorer, 20_000).await, expected);
        assert_eq!(stage.made.load(SeqCst), 1);
    }
    assert_eq!(code(&scorer, 20_000).await, "engine");
    until(&scorer, "ok").await;
    assert_eq!((stage.made.load(SeqCst), scorer.status().restarts), (2, 1));
    assert_eq!((scorer.status().errors["engine"], scorer.status().errors["shape"]), (4, 1));
    assert!(scorer.status().last_error.is_some());
}

#[tokio::test]
async fn a_panic_is_told_and_the_thread_is_replaced() {
    let stage = Stage::new(&[Act::Panic]);
    stage.panic_on_drop.store(true, SeqCst);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    let scored = scorer.score(features(), SOON).await;
    assert_eq!(scored.result.unwrap_err(), ScoreError::Crashed { reason: "as the script says".into() });
    assert!(!scored.features.nodes.is_empty(), "the features survive a crash");
    stage.panic_on_drop.store(false, SeqCst);
    let before = until(&scorer, "ok").await;
    assert!(before.iter().all(|code| *code == "not_ready"), "{before:?}");
    let status = scorer.status();
    assert_eq!((status.restarts, status.errors["crashed"], status.hung_threads), (1, 1, 0));
}

#[tokio::test]
async fn a_late_result_is_discarded_and_meanwhile_others_are_turned_away_at_once() {
    let stage = Stage::new(&[Act::Sleep(3_000)]);
    let scorer = stage.scorer(Limits { hang_min: SOON, ..quick() });
    scorer.ready().await.unwrap();
    let scored = scorer.score(features(), Duration::from_millis(50)).await;
    assert_eq!(scored.result.unwrap_err().code(), "too_slow");
    assert!(scored.features.nodes.is_empty() && scored.model.is_none());
    let begun = Instant::now();
    assert_eq!(code(&scorer, 20_000).await, "busy");
    assert!(begun.elapsed() < Duration::from_millis(2_500));
    assert_eq!(scorer.status().state, State::Busy);
    let before = until(&scorer, "ok").await;
    assert!(before.iter().all(|code| *code == "busy"), "{before:?}");
    let status = scorer.status();
    assert_eq!((status.late, status.restarts, status.inferences), (1, 0, 2));
    assert!(status.max_duration_s.unwrap() >= 3.0);
}

#[tokio::test]
async fn there_is_no_queue_and_never_more_than_one_inference() {
    let stage = Stage::new(&[Act::Sleep(200)]);
    let scorer = stage.scorer(Limits { hang_min: SOON, ..quick() });
    scorer.ready().await.unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let scorer = scorer.clone();
            tokio::spawn(async move { code(&scorer, 10_000).await })
        })
        .collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|code| **code == "ok").count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == "busy").count(), 99);
    assert_eq!((stage.runs.load(SeqCst), stage.most_running.load(SeqCst)), (1, 1));
    assert_eq!(scorer.status().errors["busy"], 99);
}

#[tokio::test]
async fn a_dropped_request_leaves_the_thread_usable() {
    let stage = Stage::new(&[Act::Sleep(50)]);
    let scorer = stage.scorer(Limits { hang_min: SOON, ..quick() });
    scorer.ready().await.unwrap();
    let request = scorer.score(features(), SOON);
    assert!(tokio::time::timeout(Duration::from_millis(5), request).await.is_err());
    until(&scorer, "ok").await;
    assert_eq!(scorer.status().restarts, 0);
}

#[tokio::test]
async fn a_hung_inference_is_given_up_interrupted_and_replaced() {
    let stage = Stage::new(&[Act::Hang]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    assert_eq!(code(&scorer, 20).await, "too_slow");
    assert_eq!(code(&scorer, 20).await, "busy");
    let before = until(&scorer, "ok").await;
    assert!(before.contains(&"busy") && before.contains(&"not_ready"), "{before:?}");
    let status = scorer.status();
    assert_eq!((status.restarts, status.hung_threads, stage.interrupted.load(SeqCst)), (1, 1, 1));
    stage.release();
    eventually("the hung thread ends", || scorer.status().hung_threads == 0).await;
    eventually("its engine is dropped", || stage.dropped.load(SeqCst) == 1).await;
    assert_eq!((code(&scorer, 20_000).await, scorer.status().restarts), ("ok", 1));
    assert_eq!(scorer.status().late, 1);
}

#[tokio::test]
async fn at_the_end_of_a_process_no_thread_is_left_unless_it_hangs() {
    let stage = Stage::new(&[]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    assert_eq!(code(&scorer, 20_000).await, "ok");
    assert!(scorer.close(SOON));
    assert_eq!(stage.dropped.load(SeqCst), 1, "its engine went with it");
    assert_eq!((code(&scorer, 20_000).await, scorer.status().state), ("stopped", State::Stopped));

    let stage = Stage::new(&[Act::Hang]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    assert_eq!(code(&scorer, 20).await, "too_slow");
    assert!(!scorer.close(Duration::from_millis(20)));
    assert_eq!(stage.interrupted.load(SeqCst), 1, "it was asked to stop");
    stage.release();
    assert!(scorer.close(SOON));
}

#[tokio::test]
async fn hung_threads_are_limited_and_the_scorer_says_that_it_stalls() {
    let stage = Stage::new(&[Act::Hang, Act::Hang]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    let begun = Instant::now();
    while scorer.status().state != State::Stalled {
        code(&scorer, 10).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begun.elapsed() < SOON, "{:?}", scorer.status());
    }
    let status = scorer.status();
    assert_eq!((status.hung_threads, stage.made.load(SeqCst)), (2, 2));
    assert!(status.not_ready.unwrap().contains("reload"), "the remedy is named");
    assert_eq!(code(&scorer, 10).await, "not_ready");
    // A reload is a way out,
    scorer.reload("another").await.unwrap();
    assert_eq!(code(&scorer, 20_000).await, "ok");
    assert_eq!((scorer.status().state, scorer.status().hung_threads), (State::Ready, 2));
    stage.release();
    eventually("they return", || scorer.status().hung_threads == 0).await;
}

#[tokio::test]
async fn a_stalled_scorer_goes_on_when_a_hung_inference_returns() {
    let stage = Stage::new(&[Act::Hang]);
    let scorer = stage.scorer(Limits { hung_max: 1, ..quick() });
    scorer.ready().await.unwrap();
    assert_eq!(code(&scorer, 20).await, "too_slow");
    eventually("it stalls", || scorer.status().state == State::Stalled).await;
    stage.release();
    until(&scorer, "ok").await;
}

#[tokio::test]
async fn attempts_back_off_and_a_good_inference_resets_that() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let stage = Stage::new(&[Act::Good, Act::Panic]);
    let (noted, factory) = (Arc::clone(&times), Arc::clone(&stage));
    let limits = Limits { backoff_max: SOON, ..quick() };
    let scorer = Scorer::with_engine_and_limits(
        move || {
            let mut times = noted.lock().unwrap();
            times.push(Instant::now());
            if times.len() <= 7 { Err(ModelError::WarmUp { reason: "nonsense".into() }) } else { Ok(factory.engine()) }
        },
        limits,
    );
    assert_eq!(scorer.ready().await.unwrap_err().code(), "warm_up");
    assert_eq!(scorer.status().state, State::Restarting);
    assert_eq!(scorer.status().model_error.unwrap().code, "warm_up");
    assert_eq!(until(&scorer, "ok").await.first(), Some(&"not_ready"));
    let gaps: Vec<u128> = times.lock().unwrap().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(gaps.len(), 7);
    for (gap, least) in gaps.iter().zip([10, 20, 40, 80, 160, 320, 640]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    assert!(scorer.status().model_error.is_none(), "a model was taken since");
    let asked = Instant::now();
    assert_eq!(code(&scorer, 20_000).await, "crashed");
    // Writing down where it crashed may take a while on a busy machine.
    let crashed = Instant::now();
    until(&scorer, "ok").await;
    let last = *times.lock().unwrap().last().unwrap();
    let waited = (last.duration_since(asked).as_millis(), last.duration_since(crashed).as_millis());
    assert!(waited.0 >= 10 && waited.1 < 1_200, "the backoff begins anew: {waited:?}");
}

#[test]
fn the_backoff_doubles_from_its_first_to_its_largest() {
    let limits = Limits::default();
    let waits: Vec<u128> = (0..11).map(|attempts| limits.backoff(attempts).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
    assert_eq!(limits.backoff(u32::MAX), Duration::from_secs(30));
}

#[tokio::test]
async fn while_the_model_loads_requests_are_turned_away_and_a_load_that_hangs_is_given_up() {
    let (stage, first) = (Stage::new(&[]), AtomicBool::new(true));
    let factory = Arc::clone(&stage);
    let scorer = Scorer::with_engine_and_limits(
        move || {
            if first.swap(false, SeqCst) {
                let mut open = factory.open.lock().unwrap();
                while !*open {
                    open = factory.opened.wait(open).unwrap();
                }
            }
            Ok(factory.engine())
        },
        Limits { load: Duration::from_millis(3_000), ..quick() },
    );
    let begun = Instant::now();
    assert_eq!(code(&scorer, 20_000).await, "not_ready");
    assert!(begun.elapsed() < Duration::from_millis(2_500));
    assert_eq!(scorer.status().state, State::Loading);
    until(&scorer, "ok").await;
    assert_eq!((scorer.status().hung_threads, scorer.status().restarts), (1, 1));
    stage.release();
    eventually("the late load is dropped", || stage.dropped.load(SeqCst) == 1).await;
    assert_eq!((code(&scorer, 20_000).await, scorer.status().hung_threads), ("ok", 0));
}

#[tokio::test]
async fn a_panic_while_loading_is_an_error_of_the_model() {
    let scorer = Scorer::with_engine_and_limits(|| panic!("corrupt"), quick());
    assert_eq!(scorer.ready().await.unwrap_err(), ModelError::Crashed { reason: "corrupt".into() });
    assert_eq!(code(&scorer, 20_000).await, "not_ready");
}

#[tokio::test]
async fn the_thread_and_its_engine_go_with_the_last_handle() {
    let stage = Stage::new(&[]);
    let scorer = stage.scorer(quick());
    scorer.ready().await.unwrap();
    let other = scorer.clone();
    drop(scorer);
    assert_eq!(code(&other, 20_000).await, "ok");
    drop(other);
    eventually("the engine is dropped", || stage.dropped.load(SeqCst) == 1).await;
}
