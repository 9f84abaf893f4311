//! More than can be served: who is served then, who is refused, and how they are told.

use crate::{BINARY, catalog, protocol, shown, sidecar};
use http::Request;
use pathloom_integration::client::{TEST_ID, VERSIONS, Version, text};
use pathloom_integration::fleet::raw::RawEndpoint;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::flood;
use pathloom_integration::overload::{Plan, open_loop};
use pathloom_integration::sidecar::{Setup, Sidecar};
use pathloom_integration::{body, wait};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A workload that is believed what class its requests are of, and one cluster; `more` stands among the cluster's keys.
fn trusting(fleet: &Fleet, more: &str) -> String {
    catalog(&fleet.yaml(), more).replace("listen: '@in@'", "listen: '@in@', trusted: true")
}

/// Waits until so many requests wait for a place.
async fn waiting(sidecar: &Sidecar, count: f64) {
    sidecar.counted(|m| m.sum("pathloom_admission_pending", &[]), count).await;
}

async fn gets(sidecar: &Sidecar, version: Version, class: &str, path: &str) -> http::Response<bytes::Bytes> {
    let mut client = version.connect(sidecar.address("in")).await.unwrap();
    let request = Request::get(path).header("x-pathloom-class", class).body(body::empty()).unwrap();
    wait::soon(path, client.exchange(request)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_190_percent_the_capacity_is_used_and_the_important_are_served_in_time() {
    let fleet = Fleet::start(2).await;
    fleet.endpoints.iter().for_each(|e| e.state.workers(5));
    // Two endpoints, five at a time, 50 ms each.
    let capacity = 200.0;
    let yaml = trusting(&fleet, "admission: { concurrency: auto }");
    let sidecar = sidecar(yaml).start().await;
    let plan = Plan {
        per_second: capacity * 1.9,
        classes: vec![("critical", 0.3), ("normal", 0.4), ("background", 0.3)],
        deadline: Duration::from_millis(500),
        warm_up: Duration::from_secs(3),
        lasts: Duration::from_secs(10),
        path: "/work/50".into(),
    };
    // It has known quieter times.
    let quiet =
        Plan { per_second: capacity * 0.4, warm_up: Duration::ZERO, lasts: Duration::from_secs(3), ..plan.clone() };
    open_loop(sidecar.address("in"), &quiet).await;
    // Others may use this machine: what they took from one run they do not take from five. Without priorities half of
    // each class is served, however often one looks.
    let mut seen = Vec::new();
    let routing = loop {
        let came = open_loop(sidecar.address("in"), &plan).await;
        let routing = sidecar.routing().await["admission"].clone();
        let right: usize = came.values().map(|c| c.right.len()).sum();
        let [critical, background] = ["critical", "background"].map(|c| &came[c]);
        let (of_capacity, refused) =
            (right as f64 / (capacity * 10.0), background.refused as f64 / background.asked as f64);
        seen.push(format!(
            "{of_capacity} of the capacity, {} of the important, {refused} of the others refused",
            critical.share()
        ));
        if of_capacity > 0.75 && critical.share() > 0.9 && refused > 0.6 {
            break routing;
        }
        assert!(seen.len() < 5, "{seen:#?}; {routing}");
    };
    let metrics = sidecar.metrics().await;
    let refused = |class| metrics.sum("pathloom_admission_refused_total", &[("cluster", "catalog"), ("class", class)]);
    assert!(refused("background") > refused("critical") * 2.0);
    assert!(metrics.failures("shed") > 0.0 && metrics.get("pathloom_admission_limit", &[]).unwrap() >= 4.0);
    assert!(routing[0]["limit"].as_u64().unwrap() < 100, "{routing}");
    // It is over, and so is all of it.
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    wait::eventually("the threshold to go", || async {
        let now = sidecar.routing().await["admission"][0].clone();
        if now["threshold"] == 0.0 && now["in_flight"] == 0 { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_place_waits_for_a_moment_and_is_told_why_not() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let more = format!("{}, admission: {{ concurrency: 2, pending: 1, wait: 3s }}", protocol(version));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more)).start().await;
        let state = &fleet.endpoints[0].state;
        let ask = |path: &'static str| {
            let address = sidecar.address("in");
            tokio::spawn(async move { version.connect(address).await.unwrap().get(path).await.unwrap() })
        };
        let held = [ask("/hold"), ask("/hold")];
        wait::until("two to be held", || state.holding.load(SeqCst) == 2).await;
        let waits = ask("/");
        waiting(&sidecar, 1.0).await;
        let refused = ask("/").await.unwrap();
        assert_eq!((refused.status().as_u16(), text(&refused, "retry-after")), (503, "1"));
        assert!(text(&refused, "proxy-status").contains("overloaded"), "{:?}", refused.headers());
        let waited = waits.await.unwrap();
        assert_eq!((waited.status().as_u16(), text(&waited, "retry-after")), (503, "1"));
        assert!(text(&waited, "proxy-status").contains("queue_timeout"), "{:?}", waited.headers());
        // Whoever waits gets the place of one that leaves.
        let patient = ask("/");
        waiting(&sidecar, 1.0).await;
        state.open_gate();
        assert_eq!(patient.await.unwrap().status(), 200);
        for answer in held {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        let metrics = sidecar.metrics().await;
        let of = |reason| metrics.sum("pathloom_admission_refused_total", &[("reason", reason), ("class", "normal")]);
        assert_eq!((of("overloaded"), of("queue_timeout"), of("shed")), (1.0, 1.0, 0.0));
        assert_eq!((metrics.failures("overloaded"), metrics.failures("queue_timeout")), (1.0, 1.0));
        waiting(&sidecar, 0.0).await;
        sidecar.counted(|m| m.sum("pathloom_admission_in_flight", &[]), 0.0).await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_wait_the_most_important_goes_first() {
    let fleet = Fleet::start(1).await;
    let more = "admission: { concurrency: 1, pending: 5, wait: 10s }";
    // One thread: those who wait on it know of each other.
    let sidecar = sidecar(trusting(&fleet, more) + "process: { threads: 1 }\n").start().await;
    let state = &fleet.endpoints[0].state;
    let ask = |class: &'static str, path: &'static str, id: u64| {
        let address = sidecar.address("in");
        tokio::spawn(async move {
            let mut client = Version::Http1.connect(address).await.unwrap();
            let request = Request::get(path).header("x-pathloom-class", class).header(TEST_ID, id);
            client.exchange(request.body(body::empty()).unwrap()).await.unwrap().status()
        })
    };
    let first = ask("normal", "/hold", 0);
    wait::until("the first to be held", || state.holding.load(SeqCst) == 1).await;
    // One after the other, the least important first: where nothing ends for long, none of its class may wait later on.
    let mut later = Vec::new();
    for (class, id) in [("background", 1), ("normal", 2), ("critical", 3)] {
        later.push(ask(class, "/", id));
        waiting(&sidecar, id as f64).await;
    }
    state.open_gate();
    for asked in [first].into_iter().chain(later) {
        assert_eq!(asked.await.unwrap(), 200);
    }
    // One at a time reaches the endpoint, which knows in what order.
    assert_eq!(fleet.journal.in_order(), [0, 3, 2, 1], "the first, critical, normal, background");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_no_place_taken() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let more = format!("{}, admission: {{ concurrency: 2, pending: 2, wait: 10s }}", protocol(version));
        let sidecar = sidecar(catalog(&fleet.yaml(), &more)).start().await;
        let ask = || {
            let address = sidecar.address("in");
            tokio::spawn(async move { version.connect(address).await.unwrap().get("/hold").await.map(drop) })
        };
        let asked: Vec<_> = (0..4).map(|_| ask()).collect();
        let settled = |in_flight, pending| {
            let sidecar = &sidecar;
            wait::eventually("places and waits", move || async move {
                let now = sidecar.routing().await["admission"][0].clone();
                let right = now["in_flight"] == in_flight && now["pending"] == pending;
                if right { Ok(()) } else { Err(now.to_string()) }
            })
        };
        settled(2, 2).await;
        // One that is to wait, and is then found to go round in circles.
        asked[..2].iter().for_each(tokio::task::JoinHandle::abort);
        settled(2, 0).await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let request = Request::get("/").header("via", ["1.1 pathloom"; 16].join(", ")).body(body::empty()).unwrap();
        assert_eq!(client.exchange(request).await.unwrap().status(), 508);
        settled(2, 0).await;
        asked[2..].iter().for_each(tokio::task::JoinHandle::abort);
        settled(0, 0).await;
        fleet.endpoints[0].state.open_gate();
        assert_eq!(version.connect(sidecar.address("in")).await.unwrap().get("/hold").await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_lets_its_burst_through_and_says_when_to_come_back() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let yaml = |route: &str| {
            format!(
                "workloads: {{ frontend: {{ listen: '@in@', rate: {{ requests: 20/h }} }}, batch: {{ listen: '@batch@' }} }}\n\
                 routes: [{{ match: {{ path_prefix: /limited }}, cluster: catalog, class: background, rate: {{ requests: {route} }} }}, {{ cluster: catalog }}]\n\
                 clusters: {{ catalog: {{ endpoints: {}, {} }} }}\n",
                fleet.yaml(),
                protocol(version)
            )
        };
        // So slow that nothing is added while the test runs.
        let mut sidecar = sidecar(yaml("12/h, burst: 3")).start().await;
        let mut batch = version.connect(sidecar.address("batch")).await.unwrap();
        for n in 0..5 {
            let answer = batch.get("/limited/x").await.unwrap();
            assert_eq!(answer.status(), if n < 3 { 200 } else { 429 }, "{version:?} {n}");
            if n >= 3 {
                let after: u64 = text(&answer, "retry-after").parse().unwrap();
                assert!((200..=300).contains(&after), "one each five minutes: {after}");
                assert!(text(&answer, "proxy-status").contains("rate_limited"));
            }
        }
        assert_eq!(batch.get("/").await.unwrap().status(), 200, "another route");
        // A reload that changes nothing of it fills no bucket; one that does makes a new one.
        sidecar.reload_and_wait(&(yaml("12/h, burst: 3") + "node: { zone: eu-1a }\n")).await;
        assert_eq!(batch.get("/limited/x").await.unwrap().status(), 429);
        sidecar.reload_and_wait(&yaml("12/h, burst: 4")).await;
        assert_eq!(batch.get("/limited/x").await.unwrap().status(), 200);
        // The workload's own: a burst is what comes in a second, and at least one.
        let mut frontend = version.connect(sidecar.address("in")).await.unwrap();
        assert_eq!(frontend.get("/").await.unwrap().status(), 200);
        assert_eq!(frontend.get("/").await.unwrap().status(), 429);
        let metrics = sidecar.metrics().await;
        let of = |labels: &[(&str, &str)]| metrics.sum("pathloom_rate_limited_total", labels);
        assert_eq!(of(&[("scope", "workload"), ("name", "frontend"), ("class", "normal")]), 1.0);
        assert_eq!(metrics.failures("rate_limited"), 4.0);
        assert!(sidecar.routing().await["rate_limits"].as_array().unwrap().len() >= 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_callers_get_their_own_statuses() {
    let fleet = Fleet::start(1).await;
    let yaml = format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\n\
         routes: [{{ match: {{ path: /a.B/Limited }}, cluster: catalog, rate: {{ requests: 1/h }} }}, {{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ endpoints: {}, admission: {{ concurrency: 1, pending: 0 }} }} }}\n",
        fleet.yaml()
    );
    let sidecar = sidecar(yaml).start().await;
    let ask = |path: &'static str| {
        let address = sidecar.address("in");
        async move {
            let mut client = Version::Http2.connect(address).await.unwrap();
            let request = Request::post(path).header("content-type", "application/grpc").body(body::empty()).unwrap();
            let answer = client.exchange(request).await.unwrap();
            (answer.status().as_u16(), text(&answer, "grpc-status").to_owned(), text(&answer, "retry-after").to_owned())
        }
    };
    ask("/a.B/Limited").await;
    let (status, grpc, after) = ask("/a.B/Limited").await;
    assert_eq!((status, grpc.as_str(), after.as_str()), (200, "8", "3600"), "RESOURCE_EXHAUSTED");
    let address = sidecar.address("in");
    let held = tokio::spawn(async move { Version::Http1.connect(address).await.unwrap().get("/hold").await.unwrap() });
    wait::until("one to be held", || fleet.endpoints[0].state.holding.load(SeqCst) == 1).await;
    let (status, grpc, after) = ask("/a.B/Other").await;
    assert_eq!((status, grpc.as_str(), after.as_str()), (200, "14", "1"), "UNAVAILABLE");
    fleet.endpoints[0].state.open_gate();
    assert_eq!(held.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_is_believed_of_trusted_workloads_only_and_passed_on_with_the_depth() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let yaml = format!(
            "workloads: {{ inside: {{ listen: '@in@', trusted: true }}, outside: {{ listen: '@outside@' }} }}\n\
             routes: [{{ match: {{ headers: {{ x-kind: report }} }}, cluster: catalog, class: background }}, {{ cluster: catalog }}]\n\
             clusters: {{ catalog: {{ endpoints: {}, {} }} }}\n",
            fleet.yaml(),
            protocol(version)
        );
        let sidecar = sidecar(yaml).start().await;
        let said = |listener: &'static str, headers: &'static [(&'static str, &'static str)]| {
            let address = sidecar.address(listener);
            async move {
                let mut client = version.connect(address).await.unwrap();
                let request = headers.iter().fold(Request::get("/headers"), |r, (n, v)| r.header(*n, *v));
                let answer = client.exchange(request.body(body::empty()).unwrap()).await.unwrap();
                let body = String::from_utf8(answer.body().to_vec()).unwrap();
                let of = |name: &str| {
                    let lines = body.lines().filter_map(|l| l.strip_prefix(&format!("{name}: ")));
                    lines.map(str::to_owned).collect::<Vec<_>>().join(",")
                };
                (of("x-pathloom-class"), of("x-pathloom-depth"))
            }
        };
        let is = |class: &str, depth: &str| (class.to_owned(), depth.to_owned());
        let both = &[("x-pathloom-class", "critical"), ("x-pathloom-depth", "2")];
        assert_eq!(said("in", both).await, is("critical", "3"));
        assert_eq!(said("outside", both).await, is("", "1"), "nobody vouches for it: it is the first of a chain");
        assert_eq!(said("outside", &[("x-kind", "report"), ("x-pathloom-depth", "7")]).await, is("background", "1"));
        assert_eq!(said("in", &[("x-kind", "report"), ("x-pathloom-class", "critical")]).await, is("critical", "1"));
        assert_eq!(
            said("in", &[("x-pathloom-class", "unheard-of")]).await,
            is("unheard-of", "1"),
            "nothing is known of it"
        );
        assert_eq!(said("in", &[("x-pathloom-depth", "4")]).await, is("", "5"));
        assert_eq!(said("in", &[]).await, is("", "1"), "a chain begins here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_has_no_more_connections_than_it_may() {
    let fleet = Fleet::start(1).await;
    // One thread: another might open one of its own.
    let yaml = catalog(&fleet.yaml(), "admission: { connections: 2 }") + "process: { threads: 1 }\n";
    let sidecar = sidecar(yaml).start().await;
    let state = &fleet.endpoints[0].state;
    let ask = || {
        let address = sidecar.address("in");
        tokio::spawn(async move { Version::Http1.connect(address).await.unwrap().get("/hold").await.unwrap() })
    };
    let held = [ask(), ask()];
    wait::until("two to be held", || state.holding.load(SeqCst) == 2).await;
    let refused = gets(&sidecar, Version::Http1, "normal", "/").await;
    assert_eq!(refused.status(), 503);
    assert!(text(&refused, "proxy-status").contains("endpoint_connections"), "{:?}", refused.headers());
    state.open_gate();
    for answer in held {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    for _ in 0..10 {
        assert_eq!(gets(&sidecar, Version::Http1, "normal", "/").await.status(), 200);
    }
    assert!(state.open.load(SeqCst) <= 2);
    assert_eq!(sidecar.metrics().await.failures("endpoint_connections"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_one_connection_that_there_may_be_requests_wait_for_their_stream() {
    let endpoint = RawEndpoint::start(|stream| async move {
        let mut builder = h2::server::Builder::new();
        let Ok(mut connection) = builder.max_concurrent_streams(3).handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                    let _ = body.send_data(bytes::Bytes::from_static(b"ok"), true);
                }
            });
        }
    })
    .await;
    let yaml = catalog(&list([endpoint.address]), "protocol: http2, admission: { connections: 1 }");
    let sidecar = sidecar(yaml + "process: { threads: 1 }\n").start().await;
    // The endpoint says how many streams it takes.
    assert_eq!(gets(&sidecar, Version::Http1, "normal", "/").await.status(), 200);
    let right = wait::soon("the requests", flood(Version::Http2, sidecar.address("in"), 2, 300)).await;
    assert_eq!(right, 300, "{:?}", sidecar.metrics().await.all_failures());
    assert_eq!(endpoint.connections.load(SeqCst), 1);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_comes_and_goes_with_a_reload_while_requests_are_under_way() {
    let fleet = Fleet::start(1).await;
    let off = catalog(&fleet.yaml(), "");
    let limited = catalog(&fleet.yaml(), "admission: { concurrency: 1, pending: 0 }");
    let mut sidecar = Setup::new(BINARY, limited.clone()).start().await;
    let state = &fleet.endpoints[0].state;
    let address = sidecar.address("in");
    let held = tokio::spawn(async move { Version::Http1.connect(address).await.unwrap().get("/hold").await.unwrap() });
    wait::until("one to be held", || state.holding.load(SeqCst) == 1).await;
    assert_eq!(gets(&sidecar, Version::Http1, "normal", "/").await.status(), 503);
    let comes_to = async |sidecar: &Sidecar, wanted: u16| {
        wait::eventually("the new limit", || async {
            let status = gets(sidecar, Version::Http1, "normal", "/").await.status().as_u16();
            if status == wanted { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    };
    sidecar.reload_and_wait(&off).await;
    comes_to(&sidecar, 200).await;
    sidecar.reload_and_wait(&limited).await;
    wait::eventually("the limit to be back", || async {
        let there = sidecar.routing().await["admission"].as_array().is_some_and(|a| a.len() == 1);
        if there { Ok(()) } else { Err("no limit".to_owned()) }
    })
    .await;
    // The one that was let in by a gate that is gone does not count here, and leaves by its own.
    state.open_gate();
    assert_eq!(held.await.unwrap().status(), 200);
    comes_to(&sidecar, 200).await;
    assert_eq!(sidecar.routing().await["admission"][0]["in_flight"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_the_readme_does_what_it_says() {
    let fleet = Fleet::start(1).await;
    let places = [
        ("127.0.0.1:15001", "@in@".to_owned()),
        ("127.0.0.1:15002", "@batch@".to_owned()),
        ("10.1.2.3:8080", fleet.endpoints[0].address.to_string()),
    ];
    let sidecar = sidecar(shown("Overload", places)).start().await;
    assert_eq!(gets(&sidecar, Version::Http1, "critical", "/").await.status(), 200);
    let mut batch = Version::Http1.connect(sidecar.address("batch")).await.unwrap();
    for _ in 0..50 {
        assert_eq!(batch.get("/reports/x").await.unwrap().status(), 200);
    }
    // A slow machine may need a few goes to ask faster than a hundred times a second.
    wait::eventually("more than the rate", || async {
        let let_through = flood(Version::Http1, sidecar.address("batch"), 4, 400).await;
        if let_through < 400 { Ok(()) } else { Err("all were let through") }
    })
    .await;
    assert!(sidecar.metrics().await.failures("rate_limited") > 0.0);
    let admission = sidecar.routing().await["admission"].clone();
    assert_eq!((&admission[0]["concurrency"], &admission[0]["cluster"]), (&"auto".into(), &"catalog".into()));
    assert_eq!(admission[0]["classes"]["critical"]["admitted"], 1);
    assert!(admission[0]["classes"]["background"]["admitted"].as_u64().unwrap() >= 50);
}
