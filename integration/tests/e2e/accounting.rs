//! Invariant 15: whatever changes, no request is lost and none is sent twice.

use crate::{catalog, protocol, sidecar};
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;

/// The shortest tick that a configuration may have.
const RESTLESS: &str =
    "model: { engine: embedded, tick: 10ms, triggers: { min_interval: 10ms }, guards: { dead_band: 0% } }\n";

async fn swaps(version: Version) {
    let fleet = Fleet::start(4).await;
    // All the way on one protocol; tests of bodies mix them.
    let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version)) + RESTLESS).start().await;
    let load = Load::start(version, sidecar.address("in"), 16, "/").await;
    load.further(500).await;
    let memory = sidecar.process.resident();
    let first = sidecar.generation().await;
    wait::within(std::time::Duration::from_secs(90), "a thousand generations", || async {
        let made = sidecar.generation().await - first;
        if made >= 1_000 { Ok(()) } else { Err(made) }
    })
    .await;
    load.further(100).await;
    let report = load.stop().await;
    let grown = sidecar.process.resident().saturating_sub(memory) >> 10;
    eprintln!("{version:?}: {} requests over 1,000 generations; memory grew by {grown} KiB", report.outcomes.len());
    assert!(grown < 32 * 1024, "a thousand generations left {grown} KiB behind");
    report.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_generations_under_http1_load_lose_no_request_and_double_none() {
    swaps(Version::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_generations_under_http2_load_lose_no_request_and_double_none() {
    swaps(Version::Http2).await;
}

/// Waits until a cluster has exactly these endpoints in the generation in force.
async fn in_force(sidecar: &Sidecar, wanted: &[std::net::SocketAddr]) {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    wait::eventually("the endpoints in force", || async {
        let now: Vec<_> = sidecar.candidates("catalog").await.into_keys().collect();
        if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

async fn churn(version: Version) {
    let fleet = Fleet::start(4).await;
    let all: Vec<_> = fleet.endpoints.iter().map(|e| e.address).collect();
    let model = "model: { engine: embedded, tick: 50ms, guards: { slow_start: 0s } }\n";
    let of = |endpoints: &[std::net::SocketAddr]| catalog(&list(endpoints.iter().copied()), protocol(version)) + model;
    let mut sidecar = sidecar(of(&all)).start().await;
    let load = Load::start(version, sidecar.address("in"), 16, "/").await;
    let mut refused = 0;
    for round in 0..20 {
        let out = round % 4;
        let without: Vec<_> = all.iter().copied().filter(|a| *a != all[out]).collect();
        // Every third time somebody saves a file that is wrong first: it changes nothing.
        if round % 3 == 2 {
            let (ok, _) = sidecar.reloads().await;
            sidecar.reload(&of(&without).replace("cluster: catalog", "cluster: catalogue"));
            refused += 1;
            wait::eventually("the refusal", || async {
                let seen = sidecar.reloads().await;
                if seen == (ok, refused) { Ok(()) } else { Err(format!("{seen:?}")) }
            })
            .await;
        }
        let (ok, _) = sidecar.reloads().await;
        sidecar.reload(&of(&without));
        if round % 2 == 0 {
            sidecar.sighup();
        }
        sidecar.reloaded(ok + 1, refused).await;
        in_force(&sidecar, &without).await;
        // What began before the change may still arrive. What begins after it may not.
        load.pass().await;
        let removed = &fleet.endpoints[out].state;
        let before = removed.requests();
        load.further(100).await;
        assert_eq!(removed.requests(), before, "a removed endpoint got a new request");
        sidecar.reload(&of(&all));
        in_force(&sidecar, &all).await;
        wait::until("the endpoint that came back to get requests", || removed.requests() > before).await;
    }
    let report = load.stop().await;
    eprintln!("{version:?}: {} requests over 40 changes", report.outcomes.len());
    report.assert_each_right_and_once(&fleet.journal);
    assert!(sidecar.reloads().await.0 >= 41);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_good_and_bad_and_endpoint_churn_under_http1_load_lose_no_request() {
    churn(Version::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_good_and_bad_and_endpoint_churn_under_http2_load_lose_no_request() {
    churn(Version::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_follow_the_configuration_while_requests_are_under_way() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let of = |listeners: &[&str]| {
            let workloads: Vec<_> = listeners.iter().map(|l| format!("w-{l}: {{ listen: '@{l}@' }}")).collect();
            let endpoints = fleet.yaml();
            format!(
                "workloads: {{ {} }}\nroutes: [{{ cluster: catalog }}]\nclusters: {{ catalog: {{ endpoints: {endpoints} }} }}\n",
                workloads.join(", ")
            )
        };
        let mut sidecar = sidecar(of(&["a", "b"])).start().await;
        let stays = Load::start(version, sidecar.address("a"), 4, "/").await;
        let mut leaves = version.connect(sidecar.address("b")).await.unwrap();
        assert_eq!(leaves.get("/").await.unwrap().status(), 200);
        let held = tokio::spawn(async move { leaves.get("/hold").await });
        wait::until("the held request to arrive", || fleet.holding() == 1).await;

        sidecar.reload_and_wait(&of(&["a", "c"])).await;
        wait::eventually("the new listener", || async {
            version
                .connect(sidecar.address("c"))
                .await
                .map_err(|e| e.to_string())?
                .get("/")
                .await
                .map_err(|e| e.to_string())
        })
        .await;
        wait::eventually("the old listener to be closed", || async {
            match tokio::net::TcpStream::connect(sidecar.address("b")).await {
                Err(_) => Ok(()),
                Ok(_) => Err("it accepts"),
            }
        })
        .await;
        fleet.open_gates();
        let answer = wait::soon("the held request", held).await.unwrap().expect("an answer on the old connection");
        assert_eq!(answer.status(), 200);
        stays.further(50).await;
        stays.stop().await.assert_each_right_and_once(&fleet.journal);
        sidecar.assert_no_panic();
    }
}
