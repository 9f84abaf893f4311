//! A process takes the place of another under load, and no connection is refused between.

use crate::{catalog, sidecar};
use http::Request;
use pathloom_integration::body;
use pathloom_integration::client::{Connection, TEST_ID, VERSIONS, Version};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::sidecar::{Setup, get};
use pathloom_integration::wait;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::JoinSet;

fn successor(fleet: &Fleet, path: &Path, more: &str) -> Setup {
    let process = format!("process: {{ drain: 5m, handover: {}{more} }}\n", path.display());
    sidecar(catalog(&fleet.yaml(), "") + &process)
}

/// Callers that behave: a connection is used as long as the proxy keeps it, or for one request.
struct Callers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    set: JoinSet<Vec<String>>,
}

impl Callers {
    fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, done, next) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut set = JoinSet::new();
        for caller in 0..count {
            let (stop, done, next) = (stop.clone(), done.clone(), next.clone());
            let requests = if caller % 2 == 0 { usize::MAX } else { 1 };
            set.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(SeqCst) {
                    let mut connection = match Version::Http1.connect(address).await {
                        Ok(connection) => connection,
                        Err(error) => {
                            failures.push(format!("not connected: {error}"));
                            continue;
                        }
                    };
                    for _ in 0..requests {
                        let id = next.fetch_add(1, SeqCst);
                        let request = Request::get("/").header(TEST_ID, id).body(body::empty()).unwrap();
                        let kept = match connection.exchange(request).await {
                            Ok(answer) if answer.status() == 200 => !answer.headers().contains_key("connection"),
                            Ok(answer) => {
                                failures.push(format!("{answer:?}"));
                                false
                            }
                            Err(error) => {
                                failures.push(format!("request {id}: {error}"));
                                false
                            }
                        };
                        done.fetch_add(1, SeqCst);
                        if !kept || stop.load(SeqCst) {
                            break;
                        }
                    }
                }
                failures
            });
        }
        Self { stop, done, set }
    }

    async fn further(&self, requests: u64) {
        let wanted = self.done.load(SeqCst) + requests;
        wait::until("further requests", || self.done.load(SeqCst) >= wanted).await;
    }

    async fn failures(mut self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        let mut all = Vec::new();
        while let Some(ended) = self.set.join_next().await {
            all.extend(ended.unwrap());
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_in_a_row_take_over_and_no_request_notices() {
    let fleet = Fleet::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let mut serving = successor(&fleet, &path, "").start().await;
    let (address, admin) = (serving.address("in"), serving.address("admin"));
    let callers = Callers::start(address, 8);
    callers.further(200).await;
    // One of them has fewer cores and one has more: no connection waits at a socket that nobody serves.
    for threads in [1, 3, 2] {
        let next = successor(&fleet, &path, &format!(", threads: {threads}"));
        let next = next.address("in", address).address("admin", admin).start().await;
        let status = serving.process.end(wait::LIMIT).await;
        assert_eq!(status.code(), Some(0), "{}", serving.stderr());
        serving.assert_no_panic();
        serving = next;
        callers.further(200).await;
        assert_eq!(get(admin, "/ready").await.unwrap().0, 200);
    }
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_finished_by_the_process_that_has_it() {
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let mut before = successor(&fleet, &path, "").start().await;
    let (address, admin) = (before.address("in"), before.address("admin"));
    let mut waiting = JoinSet::new();
    for version in [Version::Http1, Version::Http2] {
        for _ in 0..10 {
            let mut client = version.connect(address).await.unwrap();
            waiting.spawn(async move { client.get("/hold").await.map(|answer| answer.status().as_u16()) });
        }
    }
    wait::until("all to be in flight", || fleet.holding() == 20).await;
    let mut next = successor(&fleet, &path, "").address("in", address).address("admin", admin).start().await;
    let mut client = Version::Http1.connect(address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    assert!(before.process.ended().is_none(), "it left with twenty requests in flight");
    fleet.open_gates();
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), 200);
    }
    assert_eq!(before.process.end(wait::LIMIT).await.code(), Some(0), "{}", before.stderr());
    assert!(next.process.ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_after_another_process_took_over_ends_no_request() {
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let mut before = successor(&fleet, &path, "").start().await;
    let (address, admin) = (before.address("in"), before.address("admin"));
    let mut client = Version::Http1.connect(address).await.unwrap();
    let held = tokio::spawn(async move { client.get("/hold").await.map(|answer| answer.status().as_u16()) });
    wait::until("it to be in flight", || fleet.holding() == 1).await;
    let _next = successor(&fleet, &path, "").address("in", address).address("admin", admin).start().await;
    wait::until("it to be told", || before.stderr().contains("another process serves now")).await;
    // As from Kubernetes, once the next pod is ready.
    before.sigterm();
    let mut client = Version::Http1.connect(address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    assert!(before.process.ended().is_none(), "it left with a request in flight");
    fleet.open_gates();
    assert_eq!(wait::soon("the held request", held).await.unwrap().unwrap(), 200);
    assert_eq!(before.process.end(wait::LIMIT).await.code(), Some(0), "{}", before.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lingers_stays_with_nothing_to_do_until_a_signal() {
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let mut before = successor(&fleet, &path, "").argument("--linger").start().await;
    let (address, admin) = (before.address("in"), before.address("admin"));
    let mut next = successor(&fleet, &path, "").address("in", address).address("admin", admin).start().await;
    wait::until("it to be told", || before.stderr().contains("another process serves now")).await;
    let mut client = Version::Http1.connect(address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    // One that does not linger is gone by then.
    let third = successor(&fleet, &path, "").address("in", address).address("admin", admin).start().await;
    assert_eq!(next.process.end(wait::LIMIT).await.code(), Some(0), "{}", next.stderr());
    assert!(before.process.ended().is_none(), "{}", before.stderr());
    before.sigterm();
    assert_eq!(before.process.end(wait::LIMIT).await.code(), Some(0), "{}", before.stderr());
    let mut client = Version::Http1.connect(address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    third.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_process_that_cannot_start_changes_nothing() {
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let mut serving = successor(&fleet, &path, "").start().await;
    let (address, admin) = (serving.address("in"), serving.address("admin"));
    let callers = Callers::start(address, 4);
    callers.further(50).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("workloads: {{ other: {{ listen: '{}' }}, ", taken.local_addr().unwrap());
    let process = format!("process: {{ handover: {} }}\n", path.display());
    let yaml = catalog(&fleet.yaml(), "").replace("workloads: { ", &more) + &process;
    let mut failing = sidecar(yaml).address("in", address).address("admin", admin).spawn();
    assert_eq!(failing.process.end(wait::LIMIT).await.code(), Some(69), "{}", failing.stderr());
    assert!(failing.stderr().contains("cannot listen on"), "{}", failing.stderr());
    callers.further(50).await;
    wait::until("the log to say so", || serving.stderr().contains("a next process did not come up")).await;
    assert!(serving.process.ended().is_none());
    let mut next = successor(&fleet, &path, "").address("in", address).address("admin", admin).start().await;
    assert_eq!(serving.process.end(wait::LIMIT).await.code(), Some(0), "it can still be replaced");
    callers.further(50).await;
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(next.process.ended().is_none());
}

/// How many requests a second, due whether or not those before were answered.
const RATE: u64 = 1_000;

/// Callers who share a timetable: each takes the next request that is due, as long as there is one.
struct Timetable {
    stop: Arc<AtomicBool>,
    due: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    set: JoinSet<Vec<String>>,
}

impl Timetable {
    fn start(fleet: &Fleet, address: SocketAddr) -> Self {
        let (stop, done, due) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let begun = tokio::time::Instant::now();
        let mut set = JoinSet::new();
        for caller in 0..32 {
            let (stop, done, due, journal) = (stop.clone(), done.clone(), due.clone(), fleet.journal.clone());
            let version = VERSIONS[caller % 2];
            set.spawn(async move {
                let (mut failures, mut connection) = (Vec::new(), None);
                while !stop.load(SeqCst) {
                    let id = due.fetch_add(1, SeqCst);
                    tokio::time::sleep_until(begun + Duration::from_micros(id * 1_000_000 / RATE)).await;
                    loop {
                        let reused = connection.is_some();
                        let outcome = one(&mut connection, version, address, id).await;
                        let Err(why) = outcome else { break };
                        connection = None;
                        // On a connection that was closed while it had nothing to do, nobody has seen the request; then every
                        // client sends it on another one. On a fresh one it has to succeed.
                        if !reused || !journal.of(id).is_empty() {
                            failures.push(format!("request {id}, {version:?}: {why}"));
                            break;
                        }
                    }
                    done.fetch_add(1, SeqCst);
                }
                failures
            });
        }
        Self { stop, due, done, set }
    }

    async fn further(&self, requests: u64) {
        let wanted = self.done.load(SeqCst) + requests;
        wait::until("further requests", || self.done.load(SeqCst) >= wanted).await;
    }

    /// Stops; fails unless each request was answered, and seen by one endpoint once.
    async fn assert_none_failed(mut self, fleet: &Fleet) -> u64 {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        while let Some(ended) = self.set.join_next().await {
            failures.extend(ended.unwrap());
        }
        assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
        let (sent, seen) = (self.done.load(SeqCst), fleet.journal.all());
        assert_eq!(sent, self.due.load(SeqCst), "each request that was due was sent and answered");
        let wrong: Vec<_> = (0..sent).filter(|id| seen.get(id).is_none_or(|by| by.len() != 1)).take(5).collect();
        assert!(wrong.is_empty(), "not seen exactly once: {wrong:?}");
        sent
    }
}

async fn one(
    kept: &mut Option<Connection>,
    version: Version,
    address: SocketAddr,
    id: u64,
) -> Result<(), pathloom_integration::BoxError> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => version.connect(address).await?,
    };
    let request = Request::get("/").header(TEST_ID, id).body(body::empty())?;
    let answer = connection.exchange(request).await?;
    if answer.status() != 200 {
        return Err(format!("{answer:?}").into());
    }
    *kept = (!answer.headers().contains_key("connection")).then_some(connection);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upgrades_and_twenty_reloads_under_requests_by_a_timetable_cost_none_of_them() {
    let fleet = Fleet::start(3).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let process = format!("process: {{ drain: 5m, handover: {} }}\n", path.display());
    // Each reload changes endpoints, limits and the model's pace; a generation comes every 50 ms.
    let yaml = |round: usize| {
        let endpoints = list(fleet.endpoints.iter().map(|e| e.address).skip(round % 2));
        let more =
            format!("timeouts: {{ response_headers: {}s }}, policy: {}", 20 + round, ["model", "random"][round % 2]);
        catalog(&endpoints, &more) + &process + "model: { engine: embedded, tick: 50ms }\n"
    };
    let mut serving = sidecar(yaml(0)).start().await;
    let (address, admin) = (serving.address("in"), serving.address("admin"));
    let begun = std::time::Instant::now();
    let callers = Timetable::start(&fleet, address);
    let mut asked = 400;
    callers.further(200).await;
    for round in 1..=20 {
        serving.reload_and_wait(&yaml(round)).await;
        asked += 100;
        callers.further(100).await;
        if round % 7 == 0 {
            let next = sidecar(yaml(round)).address("in", address).address("admin", admin).start().await;
            let status = serving.process.end(wait::LIMIT).await;
            assert_eq!(status.code(), Some(0), "{}", serving.stderr());
            serving.assert_no_panic();
            serving = next;
        }
    }
    callers.further(200).await;
    let sent = callers.assert_none_failed(&fleet).await;
    // At a thousand a second, unless the machine has no time for that.
    eprintln!("{sent} requests, {:.0} a second", sent as f64 / begun.elapsed().as_secs_f64());
    assert!(sent >= asked, "{sent} requests, and {asked} were asked for");
    serving.assert_no_panic();
}
