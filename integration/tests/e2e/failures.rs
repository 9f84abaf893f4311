//! Failures upstream: further tries and what they may cost, health checks, outliers.

use crate::{QUICK, catalog, protocol, shown, sidecar};
use http::Request;
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::raw::{RawEndpoint, read_head};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{body, wait};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Requests of an open loop: so many a second over so many connections, whatever becomes of them.
async fn paced(version: Version, address: SocketAddr, connections: u32, a_second: u32, requests: u32) -> u64 {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..connections {
        callers.spawn(async move {
            let mut client = version.connect(address).await.expect("the sidecar listens");
            let mut beat = tokio::time::interval(Duration::from_secs(1) * connections / a_second);
            let mut right = 0;
            for _ in 0..requests / connections + u32::from(caller < requests % connections) {
                beat.tick().await;
                right += u64::from(client.get("/").await.expect("an answer").status() == 200);
            }
            right
        });
    }
    let mut right = 0;
    while let Some(ended) = callers.join_next().await {
        right += ended.expect("a caller does not panic");
    }
    right
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_storm_cannot_be_provoked() {
    const REQUESTS: u32 = 1_000;
    for version in VERSIONS {
        let fleet = Fleet::start(3).await;
        fleet.endpoints.iter().for_each(|e| e.state.status.store(503, SeqCst));
        let begun = Instant::now();
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version)) + QUICK).start().await;
        assert_eq!(paced(version, sidecar.address("in"), 8, 200, REQUESTS).await, 0);
        // The first second's three are there from the beginning.
        let seconds = begun.elapsed().as_secs_f64() + 1.0;
        let (reached, load) = (fleet.requests() as f64, f64::from(REQUESTS));
        assert!(reached <= 1.2 * load + 3.0 * seconds, "{reached} requests reached endpoints in {seconds} s");
        assert!(reached > 1.1 * load, "{reached}: the budget is there to be used");
        let metrics = sidecar.metrics().await;
        let budget = |result| metrics.sum("pathloom_retry_budget_total", &[("cluster", "catalog"), ("result", result)]);
        assert_eq!(budget("granted"), reached - load);
        assert!(budget("refused") > 0.0 && metrics.sum("pathloom_retries_total", &[]) == budget("granted"));
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_die_hang_reset_refuse_and_talk_noise_are_nothing_that_clients_of_idempotent_requests_notice() {
    for version in VERSIONS {
        // So many that the budget, a try on top for each request, is enough for those that meet two in trouble.
        let mut fleet = Fleet::start(9).await;
        let resets = RawEndpoint::start(|mut stream| async move {
            read_head(&mut stream).await;
            pathloom_integration::fleet::raw::reset(stream);
        })
        .await;
        let hangs = RawEndpoint::silent().await;
        let noise = RawEndpoint::saying(b"220 ready, tell me who you are and what you want\r\n").await;
        let ill = [resets.address, hangs.address, noise.address];
        let all = list(fleet.endpoints.iter().map(|e| e.address).chain(ill));
        let more = "retries: { attempts: 5, per_try: 1s, budget: 100% }, ejection: { first: 1s }";
        let sidecar = sidecar(catalog(&all, more) + QUICK).start().await;
        // The budget is a share of the requests, so the first few have none: a third of the endpoints is ill from the start.
        let mut first = version.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..100 {
            let _ = wait::soon("an answer", first.get("/")).await;
        }
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        load.further(400).await;
        fleet.endpoints[0].state.status.store(503, SeqCst);
        load.further(400).await;
        fleet.endpoints[1].stop().await;
        load.further(400).await;
        fleet.endpoints[0].state.status.store(0, SeqCst);
        fleet.endpoints[1].start_again().await;
        load.further(400).await;
        let report = load.stop().await;
        let bad: Vec<_> = report.outcomes.iter().filter(|(_, o)| !matches!(o, Outcome::Right(_))).collect();
        let metrics = sidecar.metrics().await;
        // Only whom the budget refused another try may have seen any of it: at most a few, when all at once are ill.
        let refused = metrics.sum("pathloom_retry_budget_total", &[("result", "refused")]);
        let few = bad.len() as f64 <= refused && bad.len() * 200 <= report.outcomes.len();
        assert!(few, "of {} requests: {bad:#?} {:?}, {refused}", report.outcomes.len(), metrics.all_failures());
        for (id, seen) in fleet.journal.all() {
            assert!(seen.len() <= 6, "request {id} was tried more than five times on top: {seen:?}");
        }
        assert!(metrics.sum("pathloom_retries_total", &[]) > 0.0);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_heads_come_at_once_and_whose_bodies_trickle_does_not_look_fast() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        // The others take longer to answer than it takes to begin.
        fleet.endpoints.iter().for_each(|e| e.state.slow(Duration::from_millis(20)));
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = asked.clone();
        let trickles = RawEndpoint::start(move |mut stream| {
            let counter = counter.clone();
            async move {
                use tokio::io::AsyncWriteExt;
                read_head(&mut stream).await;
                counter.fetch_add(1, SeqCst);
                let mut rest: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                while stream.write_all(rest).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    rest = b"drop";
                }
            }
        })
        .await;
        let all = list(fleet.endpoints.iter().map(|e| e.address).chain([trickles.address]));
        let sidecar = sidecar(catalog(&all, "timeouts: { request: 1s }, policy: peak_ewma")).start().await;
        let mut failed = 0;
        for _ in 0..30 {
            let mut client = version.connect(sidecar.address("in")).await.unwrap();
            let answer = wait::soon("an answer, or its end", client.get("/")).await;
            failed += u64::from(answer.is_err());
        }
        assert_eq!(failed, asked.load(SeqCst), "who was asked elsewhere was answered");
        assert!((1..=5).contains(&failed), "{failed} of 30 requests went to it");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_idempotent_is_sent_once_whatever_happens_and_a_route_may_say_otherwise() {
    for (route, again) in [("", false), (", idempotent: true", true)] {
        let fleet = Fleet::start(2).await;
        fleet.endpoints[0].state.status.store(503, SeqCst);
        let yaml = catalog(&fleet.yaml(), "policy: round_robin, retries: { budget: 100% }") + QUICK;
        let yaml = yaml.replace("{ cluster: catalog }", &format!("{{ cluster: catalog{route} }}"));
        let sidecar = sidecar(yaml).start().await;
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        let mut failed = 0;
        for _ in 0..6 {
            let request = Request::post("/sink").body(body::patterned(20_000)).unwrap();
            let answer = wait::soon("the upload", client.exchange(request)).await.unwrap();
            failed += u32::from(answer.status() == 503);
        }
        assert_eq!(failed == 0, again, "{route:?}");
        assert_eq!(fleet.requests() > 6, again, "{route:?}");
    }
}

async fn health_of(sidecar: &Sidecar, endpoint: SocketAddr, wanted: &str) -> String {
    health_in(sidecar, "catalog", endpoint, wanted).await
}

/// Waits until an endpoint of a cluster is in this state, and gives the reason.
pub async fn health_in(sidecar: &Sidecar, cluster: &str, endpoint: SocketAddr, wanted: &str) -> String {
    wait::eventually(wanted, || async {
        let candidates = sidecar.candidates(cluster).await;
        let candidate = candidates[&endpoint].clone();
        let reason = candidate["reason"].as_str().unwrap_or_default().to_owned();
        if candidate["health"] == wanted { Ok(reason) } else { Err(candidate["health"].to_string() + &reason) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_health_check_fails_gets_nothing_until_it_is_well() {
    for (version, check) in [
        (Version::Http1, "check: http, path: /"),
        (Version::Http2, "check: http, path: /"),
        (Version::Http1, "check: tcp"),
        (Version::Http2, "check: grpc"),
    ] {
        let mut fleet = Fleet::start(3).await;
        let more = format!(
            "{}, retries: {{ attempts: 0 }}, ejection: {{ consecutive_failures: 0, success_rate: 0 }}, \
             health: {{ {check}, every: 100ms, timeout: 5s, rise: 2, fall: 2 }}",
            protocol(version)
        );
        let sidecar = sidecar(catalog(&fleet.yaml(), &more) + QUICK).start().await;
        let sick = fleet.endpoints[0].address;
        for endpoint in &fleet.endpoints {
            health_of(&sidecar, endpoint.address, "healthy").await;
        }
        let because = if check.contains("tcp") {
            fleet.endpoints[0].stop().await;
            "could not connect"
        } else if check.contains("grpc") {
            fleet.endpoints[0].state.serving.store(false, SeqCst);
            "does not serve"
        } else {
            fleet.endpoints[0].state.status.store(500, SeqCst);
            "answered with 500"
        };
        let reason = health_of(&sidecar, sick, "unhealthy").await;
        assert!(reason.contains(because), "{check}: {reason}");
        let load = Load::start(version, sidecar.address("in"), 4, "/").await;
        load.further(100).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        assert!(fleet.journal.all().values().all(|by| by != &[0]), "{check}: nothing for the sick one");
        let metrics = sidecar.metrics().await;
        let state = [("endpoint", sick.to_string()), ("state", "unhealthy".to_owned())];
        let state: Vec<_> = state.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(metrics.sum("pathloom_endpoint_health", &state), 1.0, "{check}");
        assert!(metrics.sum("pathloom_health_checks_total", &[("result", "unwell")]) >= 2.0, "{check}");
        match check {
            "check: tcp" => fleet.endpoints[0].start_again().await,
            _ => {
                fleet.endpoints[0].state.status.store(0, SeqCst);
                fleet.endpoints[0].state.serving.store(true, SeqCst);
            }
        }
        health_of(&sidecar, sick, "healthy").await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_after_an_ejection_is_a_request_that_may_be_repeated() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let more = "policy: round_robin, ejection: { consecutive_failures: 1, first: 200ms, longest: 200ms }";
        let sidecar = sidecar(catalog(&fleet.yaml(), &format!("{}, {more}", protocol(version))) + QUICK).start().await;
        let sick = &fleet.endpoints[0];
        sick.state.status.store(503, SeqCst);
        let load = Load::start(version, sidecar.address("in"), 2, "/").await;
        health_of(&sidecar, sick.address, "ejected").await;
        let (mut client, before) = (version.connect(sidecar.address("in")).await.unwrap(), sick.state.requests());
        let mut uploads = 0;
        wait::eventually("five probes", async || {
            let request = Request::post("/sink").body(body::patterned(100)).unwrap();
            let answer = wait::soon("the upload", client.exchange(request)).await.unwrap();
            assert_eq!(answer.status(), 200, "what may not be repeated is risked on nobody");
            uploads += 1;
            let probes = sick.state.requests() - before;
            if probes >= 5 { Ok(()) } else { Err(probes) }
        })
        .await;
        assert!(uploads > 5);
        load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_a_health_check_returns_from_its_ejection_without_a_request() {
    let fleet = Fleet::start(2).await;
    let more = "retries: { attempts: 0 }, ejection: { consecutive_failures: 1, first: 300ms }, \
                health: { check: tcp, every: 100ms }, policy: round_robin";
    let sidecar = sidecar(catalog(&fleet.yaml(), more) + QUICK).start().await;
    let sick = &fleet.endpoints[0];
    health_of(&sidecar, sick.address, "healthy").await;
    sick.state.status.store(503, SeqCst);
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    while client.get("/").await.unwrap().status() != 503 {}
    health_of(&sidecar, sick.address, "ejected").await;
    let seen = sick.state.requests();
    // Nobody asks for anything.
    health_of(&sidecar, sick.address, "healthy").await;
    assert_eq!(sick.state.requests(), seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_endpoint_gets_nothing_before_its_first_check_and_all_get_requests_when_none_is_well() {
    let fleet = Fleet::start(2).await;
    let silent = RawEndpoint::silent().await;
    let of = |addresses: &[SocketAddr]| {
        let health = "health: { check: http, path: /, every: 100ms, timeout: 2s, rise: 1, fall: 1 }";
        catalog(&list(addresses.iter().copied()), &format!("retries: {{ attempts: 0 }}, {health}")) + QUICK
    };
    let (one, two) = (fleet.endpoints[0].address, fleet.endpoints[1].address);
    let mut sidecar = sidecar(of(&[one, two])).start().await;
    health_of(&sidecar, two, "healthy").await;
    sidecar.reload_and_wait(&of(&[one, two, silent.address])).await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    load.further(100).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    let reason = health_of(&sidecar, silent.address, "unhealthy").await;
    assert!(reason.contains("health check"), "{reason}");
    // The check asks for a page that is not there: nobody is well, and everybody is asked all the same.
    sidecar.reload_and_wait(&of(&[one, two]).replace("path: /", "path: /status/500")).await;
    for endpoint in [one, two] {
        health_of(&sidecar, endpoint, "unhealthy").await;
    }
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    load.further(100).await;
    for outcome in load.stop().await.outcomes.into_values() {
        assert!(matches!(outcome, Outcome::Right(_)), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_now_and_then_and_never_in_a_row_is_found_by_comparing() {
    let fleet = Fleet::start(3).await;
    let lossy = RawEndpoint::start({
        let turn = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        move |mut stream| {
            let turn = turn.clone();
            async move {
                use tokio::io::AsyncWriteExt;
                read_head(&mut stream).await;
                let status = if turn.fetch_add(1, SeqCst).is_multiple_of(2) { "500 Oh" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    let all = list(fleet.endpoints.iter().map(|e| e.address).chain([lossy.address]));
    let more = "policy: round_robin, ejection: { interval: 2s, volume: 20, first: 30s }";
    let sidecar = sidecar(catalog(&all, more) + QUICK).start().await;
    let address = sidecar.address("in");
    let load = tokio::spawn(paced(Version::Http1, address, 4, 400, 4_000));
    let reason = health_of(&sidecar, lossy.address, "ejected").await;
    assert!(reason.contains("of its requests succeeded"), "{reason}");
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("pathloom_ejections_total", &[("fault", "success_rate")]), 1.0);
    assert_eq!(metrics.sum("pathloom_ejections_total", &[]), 1.0, "nobody else");
    load.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_example_is_a_configuration_that_works() {
    let fleet = Fleet::start(2).await;
    let places =
        ["10.1.2.3:8080", "10.1.2.4:8080"].into_iter().zip(fleet.endpoints.iter().map(|e| e.address.to_string()));
    let example = shown("When endpoints fail", places);
    let yaml = format!("workloads: {{ frontend: {{ listen: '@in@' }} }}\n{example}{QUICK}");
    let sidecar = sidecar(yaml).start().await;
    for endpoint in &fleet.endpoints {
        health_in(&sidecar, "shop", endpoint.address, "healthy").await;
    }
    fleet.endpoints[0].state.status.store(503, SeqCst);
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for _ in 0..4 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    assert!(sidecar.warnings().is_empty(), "{:?}", sidecar.warnings());
}
