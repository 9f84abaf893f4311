//! Traffic management: matching, rewrites, redirects, changes of headers, faults, mirrors, affinity.

use crate::{QUICK, catalog, shown, sidecar};
use http::Request;
use pathloom_integration::client::{ENDPOINT, VERSIONS, Version, text};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{body, wait};
use std::collections::{BTreeMap, BTreeSet};

/// One request to a host, with these headers: status, answer and body.
async fn ask(sidecar: &Sidecar, version: Version, url: &str, headers: &[(&str, &str)]) -> http::Response<bytes::Bytes> {
    let mut request = Request::get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut client = version.connect(sidecar.address("in")).await.unwrap();
    wait::soon("an answer", client.exchange(request.body(body::empty()).unwrap())).await.unwrap()
}

fn body_of(answer: &http::Response<bytes::Bytes>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_example_does_what_it_says() {
    let (now, next) = (Fleet::start(2).await, Fleet::start(1).await);
    let places = [("127.0.0.1:15001", "@in@".to_owned())].into_iter().chain(
        ["10.1.2.3:8080", "10.1.2.4:8080", "10.1.2.9:8080"]
            .into_iter()
            .zip(now.endpoints.iter().chain(&next.endpoints).map(|e| e.address.to_string())),
    );
    let sidecar = sidecar(shown("Shape the traffic", places) + QUICK).start().await;
    for version in VERSIONS {
        // A cookie and a parameter lead to the next version, whose paths begin otherwise.
        let beta = [("cookie", "a=b; beta=1"), ("x-debug", "1")];
        let answer = ask(&sidecar, version, "http://catalog.shop/v1/headers?v=2", &beta).await;
        assert_eq!((answer.status().as_u16(), text(&answer, "x-served-by")), (200, ""), "{version:?} {answer:?}");
        let before = (now.requests(), next.requests());
        ask(&sidecar, version, "http://catalog.shop/v1/items?v=2", &beta).await;
        assert!(now.requests() == before.0 && next.requests() > before.1, "{version:?}: the next version got it");
        // Another host is sent on.
        let answer = ask(&sidecar, version, "http://www.shop/a?b=c", &[]).await;
        assert_eq!((answer.status().as_u16(), text(&answer, "location")), (308, "https://catalog.shop/a?b=c"));
        // The rest goes to the one at hand, with its headers changed, and stays with one endpoint.
        let mut homes = BTreeSet::new();
        for _ in 0..20 {
            let sent = [("x-user", "ann"), ("x-debug", "1")];
            let answer = ask(&sidecar, version, "http://catalog.shop/headers", &sent).await;
            if answer.status() == 503 {
                assert!(text(&answer, "proxy-status").contains("fault_abort"), "{answer:?}");
                continue;
            }
            homes.insert(text(&answer, ENDPOINT).to_owned());
            let seen = body_of(&answer);
            assert!(seen.contains("x-tier: gold\n") && !seen.contains("x-debug"), "{version:?} {seen}");
            assert_eq!(text(&answer, "x-served-by"), "pathloom", "{version:?} {answer:?}");
        }
        assert_eq!(homes.len(), 1, "{version:?}");
    }
    let routing = sidecar.routing().await;
    let tables = routing["tables"].as_array().unwrap();
    let table = tables.iter().find(|t| t["cluster"] == "catalog").unwrap();
    assert_eq!(table["affinity"], serde_json::json!({ "header": "x-user" }), "{table:#}");
    let shares: f64 = table["candidates"].as_array().unwrap().iter().filter_map(|c| c["affinity_share"].as_f64()).sum();
    assert!((shares - 1.0).abs() < 1e-3, "{table:#}");
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_changed_by_a_reload() {
    let fleet = Fleet::start(1).await;
    let yaml = |more: &str| {
        catalog(&fleet.yaml(), "").replace("{ cluster: catalog }", &format!("{{ cluster: catalog{more} }}")) + QUICK
    };
    let mut sidecar = sidecar(yaml("")).start().await;
    let answer = ask(&sidecar, Version::Http1, "http://catalog.shop/", &[]).await;
    assert_eq!((answer.status().as_u16(), text(&answer, "x-new")), (200, ""));
    sidecar.reload_and_wait(&yaml(", fault: { abort: { status: 418, share: 100% } }")).await;
    for version in VERSIONS {
        assert_eq!(ask(&sidecar, version, "http://catalog.shop/", &[]).await.status(), 418);
    }
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("pathloom_faults_injected_total", &[("kind", "abort")]), 2.0);
    assert_eq!(metrics.failures("fault_abort"), 2.0);
    sidecar.reload_and_wait(&yaml(", headers: { response: { set: { x-new: yes } } }")).await;
    for version in VERSIONS {
        let answer = ask(&sidecar, version, "http://catalog.shop/", &[]).await;
        assert_eq!((answer.status().as_u16(), text(&answer, "x-new")), (200, "yes"));
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_every_request_and_its_links_stay_unknown() {
    let (real, mut mirror) = (Fleet::start(1).await, Fleet::start(1).await);
    let yaml = format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: catalog, mirror: {{ cluster: next }} }}]\n\
         clusters: {{ catalog: {{ endpoints: {} }}, next: {{ endpoints: {} }} }}\n{QUICK}",
        real.yaml(),
        mirror.yaml()
    );
    let sidecar = sidecar(yaml).start().await;
    let outcome = async |outcome: &str| {
        let labels = [("cluster", "next"), ("outcome", outcome)];
        sidecar.metrics().await.sum("pathloom_mirrored_requests_total", &labels)
    };
    for version in VERSIONS {
        for _ in 0..20 {
            let upload = Request::post("/sink").body(body::patterned(5000)).unwrap();
            let mut client = version.connect(sidecar.address("in")).await.unwrap();
            let answer = wait::soon("an answer", client.exchange(upload)).await.unwrap();
            assert_eq!(body_of(&answer).trim(), "5000 ok");
        }
    }
    wait::eventually("all copies to be answered", async || {
        let answered = outcome("answered").await;
        if answered == 40.0 { Ok(()) } else { Err(answered) }
    })
    .await;
    assert_eq!((real.requests(), mirror.requests()), (40, 40));
    let taken = mirror.endpoints[0].state.taken.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(taken, 40 * 5000, "the copies are whole");
    // The mirror dies: nobody notices.
    mirror.endpoints[0].stop().await;
    for version in VERSIONS {
        for _ in 0..20 {
            assert_eq!(ask(&sidecar, version, "http://catalog.shop/", &[]).await.status(), 200);
        }
    }
    wait::eventually("all copies to fail", async || {
        let failed = outcome("failed").await;
        if failed == 40.0 { Ok(()) } else { Err(failed) }
    })
    .await;
    let next = &sidecar.candidates("next").await[&mirror.endpoints[0].address];
    assert_eq!(next["observed"]["latency_mean_ms"], serde_json::Value::Null, "{next:#}");
    assert_eq!((&next["health"], &next["failures_in_a_row"]), (&"healthy".into(), &0.into()), "{next:#}");
    assert_eq!(sidecar.metrics().await.all_failures(), BTreeMap::new());
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_with_an_endpoint_moves_only_while_that_is_away() {
    let mut fleet = Fleet::start(4).await;
    let more = "affinity: { cookie: session }, ejection: { consecutive_failures: 1, first: 1s, longest: 1s }";
    let sidecar = sidecar(catalog(&fleet.yaml(), more) + QUICK).start().await;
    let users: Vec<String> = (0..60).map(|i| format!("session=user-{i}")).collect();
    let homes = async || {
        let mut homes = BTreeMap::new();
        for (user, version) in users.iter().zip(VERSIONS.into_iter().cycle()) {
            let answer = ask(&sidecar, version, "http://catalog.shop/", &[("cookie", user)]).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
            homes.insert(user.clone(), text(&answer, ENDPOINT).to_owned());
        }
        homes
    };
    let before = homes().await;
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 4, "{before:?}");
    assert_eq!(before, homes().await);
    fleet.endpoints[1].stop().await;
    for _ in 0..3 {
        for (user, home) in homes().await {
            assert!(home != "1" && (home == before[&user] || before[&user] == "1"), "{user}: {home}, {before:?}");
        }
    }
    fleet.endpoints[1].start_again().await;
    wait::eventually("all to be back", async || {
        let now = homes().await;
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    sidecar.assert_no_panic();
}
