//! SIGTERM: what is in flight finishes, and then the process leaves, at once when there is nothing.

use crate::{catalog, sidecar};
use http_body_util::BodyExt;
use pathloom_integration::body;
use pathloom_integration::client::raw::{Raw, find};
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

/// Far longer than a test would wait.
const LONG: &str = "process: { drain: 5m }\n";

/// The process ends by itself, and as it should.
async fn leaves_in_peace(sidecar: &mut Sidecar) {
    let status = sidecar.process.end(wait::LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sidecar_leaves_at_once() {
    let fleet = Fleet::start(1).await;
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + LONG).start().await;
    let mut clients = Vec::new();
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        assert_eq!(client.get("/").await.unwrap().status(), 200);
        clients.push(client);
    }
    // Connections that are open and idle hold nobody up.
    sidecar.sigterm();
    leaves_in_peace(&mut sidecar).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_finish_and_readiness_falls_meanwhile() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        // Generations are swapped all the time: invariant 14, a swap in the middle of a drain is harmless.
        let swapping = "model: { tick: 10ms, deadline: 10ms }\n";
        let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + LONG + swapping).start().await;
        let address = sidecar.address("in");
        let mut waiting = Vec::new();
        // Fifty answers of which half a body is there, and as many that have not begun.
        for n in 0..100 {
            let mut client = version.connect(address).await.unwrap();
            let path = if n % 2 == 0 { "/hold" } else { "/gate/40000" };
            waiting.push(tokio::spawn(async move {
                let request = http::Request::get(path).body(body::empty()).unwrap();
                let answer = client.send(request).await?;
                let status = answer.status().as_u16();
                Ok::<_, pathloom_integration::BoxError>((status, answer.into_body().collect().await?.to_bytes().len()))
            }));
        }
        wait::until("all to be in flight", || fleet.holding() == 100).await;
        sidecar.sigterm();
        wait::eventually("readiness to fall", || async {
            match pathloom_integration::sidecar::get(sidecar.address("admin"), "/ready").await {
                Ok((200, body)) => Err(body),
                _ => Ok(()),
            }
        })
        .await;
        wait::eventually("the listener to be closed", || async {
            match tokio::net::TcpStream::connect(address).await {
                Err(_) => Ok(()),
                Ok(_) => Err("it accepts"),
            }
        })
        .await;
        let generation = || async { sidecar.routing().await["generation"]["id"].as_u64().unwrap_or(0) };
        let before = generation().await;
        wait::eventually("twenty more generations", || async {
            let now = generation().await;
            if now >= before + 20 { Ok(()) } else { Err(now - before) }
        })
        .await;
        assert!(sidecar.process.ended().is_none(), "it left with a hundred requests in flight");
        fleet.open_gates();
        for (n, answer) in waiting.into_iter().enumerate() {
            let (status, length) = wait::soon("a held request", answer).await.unwrap().expect("an answer");
            assert_eq!(status, 200);
            assert!(if n % 2 == 0 { length > 0 } else { length == 80_000 }, "{version:?}: {length} bytes");
        }
        leaves_in_peace(&mut sidecar).await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_that_it_leaves() {
    let fleet = Fleet::start(1).await;
    // One thread: each learns by itself that the process leaves, so what one tells says nothing of another.
    let one_thread = "process: { drain: 5m, threads: 1 }\n";
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + one_thread).start().await;
    let address = sidecar.address("in");
    let mut http1 = Raw::connect(address).await.unwrap();
    http1.send("GET /hold HTTP/1.1\r\nhost: catalog.shop\r\n\r\n").await.unwrap();
    let mut http2 = Raw::connect(address).await.unwrap();
    // The preface, settings, and a GET of /hold: fields by their places in the static table.
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x17\x01\x05\0\0\0\x01\x82\x86\x04\x05/hold\x01\x0ccatalog.shop";
    http2.send(opening).await.unwrap();
    wait::until("both to be in flight", || fleet.holding() == 2).await;
    sidecar.sigterm();
    let (mut said, goaway) = (Vec::new(), b"\0\0\x08\x07\0\0\0\0\0");
    let heard = async {
        while find(&said, goaway).is_none() {
            assert!(http2.stream.read_buf(&mut said).await.unwrap() > 0, "it closed without a GOAWAY");
        }
    };
    wait::soon("the GOAWAY, with a request still in flight", heard).await;
    // It asks with a ping whether that has arrived.
    let ping = b"\0\0\x08\x06\0\0\0\0\0";
    while find(&said, ping).is_none_or(|at| said.len() < at + 17) {
        assert!(wait::soon("the ping", http2.stream.read_buf(&mut said)).await.unwrap() > 0);
    }
    let at = find(&said, ping).unwrap() + 9;
    http2.send([b"\0\0\x08\x06\x01\0\0\0\0", &said[at..at + 8]].concat()).await.unwrap();
    assert!(sidecar.process.ended().is_none());
    fleet.open_gates();
    let answer = wait::soon("an answer", http1.answer()).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    wait::soon("the rest", http2.stream.read_to_end(&mut said)).await.unwrap();
    assert!(find(&said, b"endpoint 0").is_some(), "{}", said.escape_ascii());
    leaves_in_peace(&mut sidecar).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_request_that_was_taken_is_answered() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        fleet.endpoints.iter().for_each(|e| e.state.slow(Duration::from_millis(20)));
        let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + LONG).start().await;
        let load = Load::start(version, sidecar.address("in"), 16, "/").await;
        load.further(200).await;
        sidecar.sigterm();
        leaves_in_peace(&mut sidecar).await;
        let report = load.stop().await;
        let seen = fleet.journal.all();
        for (id, outcome) in &report.outcomes {
            let by = seen.get(id).cloned().unwrap_or_default();
            match outcome {
                Outcome::Right(endpoint) => assert_eq!(by, [*endpoint], "request {id}"),
                Outcome::Wrong(what) => panic!("request {id}: {what}"),
                // A client may lose the race with the farewell; then nobody may have seen the request.
                Outcome::Failed(why) => assert!(by.is_empty(), "request {id} reached {by:?} and was lost: {why}"),
            }
        }
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_holds_it_up_longer_than_the_drain() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + "process: { drain: 1s }\n").start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let stuck = tokio::spawn(async move { client.get("/never").await.map(|a| a.status()) });
        wait::until("the request to be in flight", || fleet.requests() == 1).await;
        let begun = Instant::now();
        sidecar.sigterm();
        leaves_in_peace(&mut sidecar).await;
        assert!(begun.elapsed() >= Duration::from_millis(900), "it left before its drain was over");
        let answer = wait::soon("the stuck request", stuck).await.unwrap();
        assert!(answer.is_err() || answer.is_ok_and(|status| status.is_server_error()));
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_it_at_once() {
    let fleet = Fleet::start(1).await;
    let log = "telemetry: { access_log: { to: stdout } }\n";
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + LONG + log).start().await;
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let stuck = tokio::spawn(async move { client.get("/never").await.map(|_| ()) });
    wait::until("the request to be in flight", || fleet.requests() == 1).await;
    sidecar.sigterm();
    wait::eventually("readiness to fall", || async {
        match pathloom_integration::sidecar::get(sidecar.address("admin"), "/ready").await {
            Ok((200, body)) => Err(body),
            _ => Ok(()),
        }
    })
    .await;
    sidecar.sigterm();
    sidecar.process.end(wait::LIMIT).await;
    assert!(wait::soon("the stuck request", stuck).await.unwrap().is_err());
    let said = sidecar.stderr();
    assert!(said.contains("leaving: nothing new is accepted") && said.contains("told to leave at once"), "{said}");
    assert!(!said.contains("the drain's time is over"), "{said}");
    let lines = sidecar.process.stdout.text();
    assert!(lines.contains("\"reason\":\"shutdown\""), "{lines}");
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_during_the_farewell_are_served_or_refused_and_never_half() {
    let fleet = Fleet::start(2).await;
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + LONG).start().await;
    let address = sidecar.address("in");
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let next = next.clone();
        let version = VERSIONS[caller % 2];
        callers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                // A connection for each request, until nobody listens any more.
                let id = next.fetch_add(1, SeqCst);
                let mut client = match version.connect(address).await {
                    Ok(client) => client,
                    Err(error) if error.to_string().contains("refused") => return outcomes,
                    Err(_) => {
                        outcomes.push((id, None));
                        continue;
                    }
                };
                let request = http::Request::get("/").header("x-test-id", id).body(body::empty()).unwrap();
                outcomes.push((id, client.exchange(request).await.ok().map(|answer| answer.status().as_u16())));
            }
        });
    }
    wait::until("some requests", || fleet.requests() > 300).await;
    sidecar.sigterm();
    leaves_in_peace(&mut sidecar).await;
    let (mut answered, mut lost) = (0, 0);
    while let Some(outcomes) = wait::soon("the callers", callers.join_next()).await {
        for (id, outcome) in outcomes.unwrap() {
            let seen = fleet.journal.of(id).len();
            match outcome {
                Some(200) => assert_eq!(seen, 1, "request {id}"),
                Some(status) => panic!("request {id}: {status}"),
                None => assert_eq!(seen, 0, "request {id} reached an endpoint, and its answer was lost"),
            }
            answered += u32::from(outcome.is_some());
            lost += u32::from(outcome.is_none());
        }
    }
    eprintln!("{answered} answered, {lost} turned away after they had connected");
    sidecar.assert_no_panic();
}
