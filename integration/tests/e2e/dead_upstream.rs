//! Endpoints that are not there.

use crate::{QUICK, catalog, sidecar};
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::{ports, wait};

const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_tried_elsewhere_and_no_client_notices() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let dead = ports::free(ports::own_ip(2));
        let all = list(fleet.endpoints.iter().map(|e| e.address).chain([dead]));
        // Never ejected, so that it is chosen again and again.
        let yaml = catalog(&all, "policy: round_robin, ejection: { consecutive_failures: 0 }") + QUICK;
        let sidecar = sidecar(yaml).start().await;
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        load.further(600).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        let metrics = sidecar.metrics().await;
        assert!(metrics.sum("pathloom_retries_total", &[]) > 0.0, "nothing was tried again");
        assert_eq!(metrics.all_failures().len(), 0, "{:?}", metrics.all_failures());
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_body_survives_a_refused_connection_too() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let dead = [ports::free(ports::own_ip(2)), ports::free(ports::own_ip(3))];
        let all = list(fleet.endpoints.iter().map(|e| e.address).chain(dead));
        let yaml = catalog(&all, "policy: round_robin, ejection: { consecutive_failures: 0 }") + QUICK;
        let sidecar = sidecar(yaml).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..30 {
            let request = http::Request::post("/sink").body(pathloom_integration::body::patterned(100_000)).unwrap();
            let answer = wait::soon("the upload", client.exchange(request)).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, &b"100000 ok"[..]));
        }
        assert_eq!(fleet.requests(), 30);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_dead_the_answer_says_why_and_the_first_to_come_back_is_used() {
    for version in VERSIONS {
        let mut fleet = Fleet::start(2).await;
        let yaml = catalog(&fleet.yaml(), "ejection: { first: 200ms, longest: 400ms }") + QUICK;
        let sidecar = sidecar(yaml).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..10 {
            assert_eq!(client.get("/").await.unwrap().status(), 200);
        }
        for endpoint in &mut fleet.endpoints {
            endpoint.stop().await;
        }
        for _ in 0..30 {
            let answer = wait::soon("an answer", client.get("/")).await.unwrap();
            assert!([502, 503].contains(&answer.status().as_u16()), "{answer:?}");
            let status = text(&answer, "proxy-status").to_owned();
            assert!(status.starts_with("pathloom; error="), "{status}");
            let known = ["connect_refused", "no_endpoints", "upstream_reset"];
            assert!(known.iter().any(|reason| status.contains(reason)), "{status}");
            assert!(!text(&answer, "x-request-id").is_empty());
        }
        let failures = sidecar.metrics().await.all_failures();
        assert!(failures.contains_key("connect_refused") || failures.contains_key("no_endpoints"), "{failures:?}");
        assert_eq!(sidecar.get("/ready").await.0, 200, "a cluster that is down is not the sidecar's to leave for");

        fleet.endpoints[1].start_again().await;
        wait::eventually("an answer by the endpoint that came back", || async {
            let mut client = version.connect(sidecar.address("in")).await.map_err(|e| e.to_string())?;
            let answer = client.get("/").await.map_err(|e| e.to_string())?;
            if answer.status() == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        fleet.endpoints[0].start_again().await;
        let back = fleet.endpoints[0].state.clone();
        let before = back.requests();
        let load = Load::start(version, sidecar.address("in"), 4, "/").await;
        wait::until("the other one to be used again", || back.requests() > before).await;
        load.stop().await;
        wait::eventually("everybody to be healthy", || async {
            let candidates = sidecar.candidates("catalog").await;
            let healthy = candidates.values().all(|c| c["health"] == "healthy");
            if healthy { Ok(()) } else { Err(format!("{candidates:#?}")) }
        })
        .await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_dies_under_load_costs_only_what_it_had_been_given_where_nothing_is_repeated() {
    for version in VERSIONS {
        let mut fleet = Fleet::start(3).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), "retries: { on: [connect] }, ejection: { first: 10s }") + QUICK)
            .start()
            .await;
        let load = Load::start(version, sidecar.address("in"), CALLERS, "/").await;
        load.further(200).await;
        fleet.endpoints[0].stop().await;
        wait::eventually("the ejection", || async {
            let candidates = sidecar.candidates("catalog").await;
            let health = candidates[&fleet.endpoints[0].address]["health"].clone();
            if health == "ejected" { Ok(()) } else { Err(health) }
        })
        .await;
        load.further(200).await;
        let report = load.stop().await;
        let seen = fleet.journal.all();
        let mut lost = 0;
        for (id, outcome) in &report.outcomes {
            let by = seen.get(id).cloned().unwrap_or_default();
            assert!(by.len() <= 1, "request {id} was sent twice: {by:?}");
            // Only what the dead one had been given may have failed: it may have acted on it.
            match outcome {
                Outcome::Right(endpoint) => assert_eq!(by, [*endpoint], "request {id}"),
                Outcome::Wrong(what) if what.contains("upstream_reset") && by != [1] && by != [2] => lost += 1,
                other => panic!("request {id}: {other:?}, seen by {by:?}"),
            }
        }
        assert!(lost <= 2 * CALLERS, "{lost} of {} requests were lost", report.outcomes.len());
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_fast_does_not_look_fast() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    fleet.endpoints[1].state.slow(std::time::Duration::from_millis(3));
    fleet.endpoints[0].state.status.store(503, std::sync::atomic::Ordering::SeqCst);
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    let good = fleet.endpoints[1].state.clone();
    load.further(400).await;
    let (bad, before) = (fleet.endpoints[0].state.requests(), good.requests());
    load.further(400).await;
    let (bad, good) = (fleet.endpoints[0].state.requests() - bad, good.requests() - before);
    load.stop().await;
    assert!(good > 4 * bad, "the failing endpoint got {bad} requests, the good one {good}");
}
