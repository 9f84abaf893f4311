//! Hedging: a slow endpoint's tail is cut, at a bounded cost, and nobody pays for it who should not.

use crate::{QUICK, catalog, protocol, sidecar};
use http::{Method, Request};
use pathloom_integration::body::{self, Body};
use pathloom_integration::client::{TEST_ID, VERSIONS, Version};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::sync::atomic::Ordering::SeqCst;

/// Each endpoint is met soon.
const IN_TURN: &str = "policy: round_robin, retries: { budget: 100% }";

fn hedged(hedging: &str) -> String {
    format!("{IN_TURN}, hedging: {{ {hedging} }}")
}

fn request(method: Method, path: &str, id: u64, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).header(TEST_ID, id).body(body).unwrap()
}

async fn outcome(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar.metrics().await.sum("pathloom_hedges_total", &[("cluster", "catalog"), ("outcome", outcome)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_endpoint_hangs_every_request_is_answered_by_the_other_and_nobody_is_ejected() {
    for (client, endpoint) in VERSIONS.into_iter().flat_map(|c| VERSIONS.map(|e| (c, e))) {
        let fleet = Fleet::start(2).await;
        let (hangs, answers) = (&fleet.endpoints[0].state, &fleet.endpoints[1].state);
        answers.open_gate();
        let more = format!("{}, {}", protocol(endpoint), hedged("after: 20ms, share: 100%"));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more) + QUICK).start().await;
        let mut client = client.connect(sidecar.address("in")).await.unwrap();
        for id in 0..12 {
            // On HTTP/1.1 this fleet does not see that a connection is closed on which a body waits.
            let long = id >= 6 && endpoint == Version::Http2;
            let (method, body) =
                if long { (Method::PUT, body::patterned(20_000)) } else { (Method::GET, body::empty()) };
            let asked = client.exchange(request(method, "/hold", id, body));
            let answer = wait::soon("an answer", asked).await.unwrap();
            assert!(answer.status() == 200 && answer.headers()["x-endpoint"] == "1", "{id}: {answer:?}");
        }
        let met = hangs.requests();
        assert!(met >= 1 && answers.requests() == 12, "{met} began where nobody answers");
        wait::until("each of these to be cancelled", || hangs.cancelled.load(SeqCst) == met).await;
        assert_eq!(answers.cancelled.load(SeqCst), 0);
        for (id, by) in fleet.journal.all() {
            assert!(by == [1] || by == [0, 1], "request {id}: {by:?}");
        }
        let metrics = sidecar.metrics().await;
        assert_eq!(outcome(&sidecar, "won").await, met as f64);
        assert_eq!(metrics.sum("pathloom_retries_total", &[]), 0.0, "nothing has failed");
        assert_eq!(metrics.sum("pathloom_ejections_total", &[]), 0.0);
        for (address, candidate) in sidecar.candidates("catalog").await {
            assert_eq!(candidate["health"], "healthy", "{address}: {candidate}");
            assert_eq!((&candidate["failures_in_a_row"], &candidate["in_flight"]), (&0.into(), &0.into()));
        }
        if endpoint == Version::Http2 {
            assert_eq!(hangs.open.load(SeqCst), 1, "its stream was reset, and its connection kept");
        } else {
            wait::until("the connections to be closed", || hangs.open.load(SeqCst) == 0).await;
        }
        let routing = sidecar.routing().await;
        let hedging = &routing["tables"][0]["hedging"];
        assert_eq!((&hedging["after_ms"], &hedging["outcomes"]["won"]), (&20.0.into(), &met.into()), "{hedging}");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_never_hedged() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let more = format!("{}, {}", protocol(version), hedged("after: 5ms, share: 100%"));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more) + QUICK).start().await;
        let mut asking = tokio::task::JoinSet::new();
        let mut ask = |method: Method, id: u64| {
            let address = sidecar.address("in");
            asking.spawn(async move {
                let mut client = version.connect(address).await.unwrap();
                let body = if method == Method::GET { body::empty() } else { body::patterned(10) };
                client.exchange(request(method, "/hold", id, body)).await.unwrap().status()
            });
        };
        (0..4).for_each(|id| ask(Method::POST, id));
        wait::until("the uploads to hang", || fleet.holding() == 4).await;
        // Whoever comes after them has been asked of both endpoints by the time that they would have been.
        for id in 4..8 {
            ask(Method::GET, id);
            wait::until("it to hang twice", || fleet.holding() as u64 == 4 + 2 * (id - 3)).await;
        }
        fleet.open_gates();
        while let Some(status) = wait::soon("an answer", asking.join_next()).await {
            assert_eq!(status.unwrap(), 200);
        }
        for (id, by) in fleet.journal.all() {
            assert_eq!(by.len(), if id < 4 { 1 } else { 2 }, "request {id}: {by:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_slow_as_a_whole_gets_no_more_than_its_share_on_top() {
    const REQUESTS: u64 = 400;
    for version in VERSIONS {
        let fleet = Fleet::start(3).await;
        let more = format!("{}, {}", protocol(version), hedged("after: 1ms, share: 5%"));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more) + QUICK).start().await;
        let mut asking = tokio::task::JoinSet::new();
        for caller in 0..8 {
            let address = sidecar.address("in");
            asking.spawn(async move {
                let mut client = version.connect(address).await.unwrap();
                for id in 0..REQUESTS / 8 {
                    let asked = request(Method::GET, "/delay/30", caller * REQUESTS + id, body::empty());
                    assert_eq!(client.exchange(asked).await.unwrap().status(), 200);
                }
            });
        }
        while let Some(done) = wait::soon("all answers", asking.join_next()).await {
            done.unwrap();
        }
        let (won, lost) = (outcome(&sidecar, "won").await, outcome(&sidecar, "lost").await);
        let reached = fleet.requests() as f64;
        assert!(reached <= REQUESTS as f64 + won + lost, "{reached}: what is counted is all that was sent");
        // One may be kept from the beginning.
        assert!(won + lost >= 5.0 && won + lost <= REQUESTS as f64 * 0.05 + 1.0, "{won} {lost}");
        assert!(outcome(&sidecar, "share").await >= REQUESTS as f64 * 0.8);
        assert_eq!(sidecar.metrics().await.sum("pathloom_ejections_total", &[]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_may_fail_and_the_deadline_holds() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let more =
            format!("{}, {}, timeouts: {{ request: 1s }}", protocol(version), hedged("after: 20ms, share: 100%"));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more) + QUICK).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let asked = request(Method::GET, "/never", 1, body::empty());
        let answer = wait::soon("the deadline", client.exchange(asked)).await.unwrap();
        assert_eq!(answer.status(), 504);
        let why = answer.headers()["proxy-status"].to_str().unwrap().to_owned();
        assert!(why.contains("request_timeout"), "{why}");
        let mut by = fleet.journal.of(1);
        by.sort_unstable();
        assert_eq!(by, [0, 1], "both were asked");
        let cancelled = || fleet.endpoints.iter().map(|e| e.state.cancelled.load(SeqCst)).sum::<u64>();
        wait::until("both to be cancelled", || cancelled() == 2).await;
        // Both answer with a failure, after the hedge is due.
        fleet.endpoints.iter().for_each(|e| {
            e.state.slow(std::time::Duration::from_millis(60));
            e.state.status.store(503, SeqCst);
        });
        let asked = request(Method::GET, "/", 2, body::empty());
        let answer = wait::soon("a failure", client.exchange(asked)).await.unwrap();
        assert!([503, 504].contains(&answer.status().as_u16()), "{}", answer.status());
        assert_eq!(fleet.journal.of(2).len(), 2, "there was no third to be asked");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_example_learns_when_an_answer_is_late() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("### Ask another one when one is slow").expect("the section");
    let (_, example) = section.split_once("```yaml\n").expect("its example");
    let (example, _) = example.split_once("```").expect("its end");
    let fleet = Fleet::start(2).await;
    let (one, two) = (fleet.endpoints[0].address.to_string(), fleet.endpoints[1].address.to_string());
    let example = example.replace("10.1.2.3:8080", &one).replace("10.1.2.4:8080", &two);
    assert!(example.contains(&one) && example.contains(&two), "{example}");
    // On a busy machine 5% may be spent on what it is slow at itself.
    let example = example.replace("after: auto", "after: auto, share: 100%");
    let listen = "workloads: { frontend: { listen: '@in@' } }\nroutes: [{ cluster: shop }]\n";
    let yaml = format!("{listen}{example}{QUICK}");
    let sidecar = sidecar(yaml).start().await;
    let table = || async { sidecar.routing().await["tables"][0].clone() };
    assert!(table().await["hedging"]["after_ms"].is_null(), "nobody knows yet");
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for _ in 0..200 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    let after =
        wait::eventually("a moment", || async { table().await["hedging"]["after_ms"].as_f64().ok_or("none") }).await;
    assert!(after >= 1.0, "{after}");
    // Whichever is met first hangs, and the other one answers.
    let hold = request(Method::GET, "/hold", 1, body::empty());
    let first = tokio::spawn(async move { client.exchange(hold).await.unwrap().status() });
    wait::until("both to be asked", || fleet.journal.of(1).len() == 2).await;
    fleet.endpoints[fleet.journal.of(1)[1]].state.open_gate();
    assert_eq!(wait::soon("an answer", first).await.unwrap(), 200);
    let hung = fleet.journal.of(1)[0];
    wait::until("the first to be cancelled", || fleet.endpoints[hung].state.cancelled.load(SeqCst) == 1).await;
    assert!(sidecar.warnings().is_empty(), "{:?}", sidecar.warnings());
}
