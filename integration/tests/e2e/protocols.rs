//! Shapes of HTTP/1.1 on the wire, and what a proxy owes to both sides.

use crate::{catalog, sidecar};
use http::Request;
use pathloom_integration::client::raw::{Raw, find};
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint, raw::read_head};
use pathloom_integration::{body, wait};
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_gets_it_from_the_endpoint() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
    let head = |path| {
        format!("POST {path} HTTP/1.1\r\nhost: catalog.shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    };
    assert_eq!(raw.ask(head("/sink")).await.unwrap().status, 100);
    let answer = raw.ask(body::piece(0, 5)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"5 ok"[..]));
    // An endpoint that refuses without asking for the body is heard, and no body is sent.
    let answer = raw.ask(head("/refuse")).await.unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_knows_no_100_continue_gets_the_body_all_the_same() {
    // It neither says 100 nor answers before it has the body, as HTTP/1.0 servers do.
    let endpoint = RawEndpoint::start(|mut stream| async move {
        let mut seen = read_head(&mut stream).await;
        let mut buffer = [0; 1024];
        while find(&seen, b"hello").is_none() {
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
                _ => return,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let sidecar = sidecar(catalog(&list([endpoint.address]), "")).start().await;
    let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
    // The client waits a little for a 100 and then sends its body unasked (RFC 9110, section 10.1.1).
    raw.send("POST / HTTP/1.1\r\nhost: catalog.shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    raw.send("hello").await.unwrap();
    let mut answer = raw.answer().await.unwrap();
    if answer.status == 100 {
        answer = raw.answer().await.unwrap();
    }
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let fleet = Fleet::start(3).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
    let request = |n: u64| format!("GET /bytes/{n}?length HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: {n}\r\n\r\n");
    raw.send((1..=50).map(request).collect::<String>()).await.unwrap();
    for n in 1..=50 {
        let answer = raw.answer().await.unwrap();
        assert_eq!((answer.status, answer.body.len(), answer.header("x-test-id")), (200, n, n.to_string().as_str()));
    }
    assert_eq!(fleet.requests(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_two_servers_could_read_differently_reach_no_endpoint_as_two() {
    // Each hides `GET /smuggled` behind a request whose end is a matter of opinion.
    let hidden = "GET /smuggled HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 666\r\n\r\n";
    let post = "POST /echo HTTP/1.1\r\nhost: catalog.shop\r\n";
    let length = hidden.len();
    let shapes = [
        format!("{post}content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        format!("{post}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: xchunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding:\x0bchunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}content-length: +{length}\r\n\r\n{hidden}"),
        format!("{post}content-length: 0x2\r\n\r\n{hidden}"),
        format!("{post}content-length: 3, 3\r\n\r\nabc{hidden}"),
        format!("{post}content-length : 3\r\n\r\nabc{hidden}"),
        format!("{post}x: a\n content-length: 3\r\n\r\nabc{hidden}"),
        format!("{post}transfer-encoding: chunked\r\n\r\n-1\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n{hidden}"),
        format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n\r\n{hidden}"),
        format!("{post}x: a\rcontent-length: 3\r\n\r\n{hidden}"),
        format!("{post}connection: content-length\r\ncontent-length: {length}\r\n\r\n{hidden}"),
    ];
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    for shape in shapes {
        let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
        let before = fleet.requests();
        // The last request is marked, so that it is known when the answers before it are complete.
        raw.send(format!("{shape}GET / HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 999\r\n\r\n")).await.unwrap();
        let mut answers = Vec::new();
        while let Ok(answer) = raw.answer().await {
            answers.push(answer.status);
            if answer.header("x-test-id") == "999" || answer.status >= 400 {
                break;
            }
        }
        // Either it is refused, or both sides agree where each request ends: as many answers as the endpoint saw.
        let seen = (fleet.requests() - before) as usize;
        let refused = usize::from(answers.last().is_some_and(|s| *s >= 400));
        assert!(!answers.is_empty() && seen <= answers.len(), "{shape:?}: {answers:?}, the endpoint saw {seen}");
        assert!(seen + refused >= answers.len(), "{shape:?}: {answers:?}, the endpoint saw {seen}");
    }
    // Whatever got through did not leave a connection to the endpoint out of step.
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for n in 1000..1050 {
        let request = Request::get("/").header("x-test-id", n).body(body::empty()).unwrap();
        let answer = client.exchange(request).await.unwrap();
        assert_eq!(text(&answer, "x-test-id"), n.to_string());
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_one_hop_stay_there_and_the_way_is_recorded() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let mut request = Request::get("/headers").header("x-mine", "kept").header("x-request-id", "id-17");
        if version == Version::Http1 {
            request = request
                .header("connection", "x-secret, keep-alive")
                .header("x-secret", "hop")
                .header("keep-alive", "5");
        }
        let answer = client.exchange(request.body(body::empty()).unwrap()).await.unwrap();
        let seen = String::from_utf8_lossy(answer.body()).into_owned();
        for line in [
            "x-mine: kept",
            "x-request-id: id-17",
            "host: catalog.shop",
            "via: ",
            "x-forwarded-for: 127.",
            "traceparent: 00-",
        ] {
            assert!(seen.contains(line), "{version:?}: {line} is not in\n{seen}");
        }
        for line in ["x-secret", "keep-alive"] {
            assert!(!seen.contains(line), "{version:?}: {line} is in\n{seen}");
        }
        assert!(text(&answer, "via").contains("pathloom"), "{:?}", answer.headers());
        assert_eq!(text(&answer, "x-request-id"), "id-17");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_side_is_gone_and_takes_its_request_along() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    for asked in ["GET /hold HTTP/1.1\r\nhost: catalog.shop\r\n\r\n", "GET / HTTP/1.1\r\nhost: cat", ""] {
        let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
        raw.send(asked).await.unwrap();
        if asked.contains("/hold") {
            wait::until("the request to be in flight", || fleet.holding() == 1).await;
        }
        raw.stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        wait::soon("the end", raw.stream.read_to_end(&mut said)).await.unwrap();
        assert!(said.is_empty(), "{asked:?}: {}", String::from_utf8_lossy(&said));
    }
    let cancelled = || fleet.endpoints[0].state.cancelled.load(SeqCst);
    wait::until("the endpoint to be told", || cancelled() == 1).await;
    wait::eventually("the connections to be gone", || async {
        let open = sidecar.metrics().await.sum("pathloom_downstream_connections", &[]);
        if open == 0.0 { Ok(()) } else { Err(open) }
    })
    .await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_closed() {
    let fleet = Fleet::start(1).await;
    let sidecar =
        sidecar(catalog(&fleet.yaml(), "") + "listeners: { request_headers: 500ms, max_header_bytes: 8KiB }\n");
    let sidecar = sidecar.start().await;
    let long = format!("GET / HTTP/1.1\r\nhost: catalog.shop\r\nx: {}\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nhost: catalog.shop\r\n{}\r\n", "x: y\r\n".repeat(200));
    let cases = ["\x16\x03\x01\x02\x00\x01\r\n\r\n", "hello\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", &long, &many];
    for case in cases {
        let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
        let answer = raw.ask(case).await;
        if let Ok(answer) = &answer {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    // A head that never ends does not hold its connection for ever.
    let mut slow = Raw::connect(sidecar.address("in")).await.unwrap();
    slow.send("GET / HTTP/1.1\r\nhost: cat").await.unwrap();
    let end = wait::soon("the slow head's end", slow.answer()).await;
    assert!(end.is_err() || end.is_ok_and(|a| a.status == 408), "a half head was answered");
    assert_eq!(fleet.requests(), 0);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_match_host_path_header_and_method_and_split() {
    let fleet = Fleet::start(4).await;
    let of = |n: usize| format!("{{ endpoints: [{{ address: '{}' }}] }}", fleet.endpoints[n].address);
    let yaml = format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\n\
         routes:\n\
         \x20 - {{ match: {{ host: catalog.shop, path_prefix: /v2, headers: {{ x-beta: '1' }} }}, cluster: b }}\n\
         \x20 - {{ match: {{ host: '*.shop', method: POST }}, cluster: c }}\n\
         \x20 - {{ match: {{ host: split.shop }}, split: {{ a: 25%, d: 75% }} }}\n\
         \x20 - {{ match: {{ host: catalog.shop }}, cluster: a }}\n\
         clusters: {{ a: {}, b: {}, c: {}, d: {} }}\n",
        of(0),
        of(1),
        of(2),
        of(3)
    );
    let sidecar = sidecar(yaml).start().await;
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let cases = [
            ("GET", "catalog.shop", "/", "", Some(0)),
            ("GET", "catalog.shop", "/v2/x", "1", Some(1)),
            ("GET", "catalog.shop", "/v20", "1", Some(0)),
            ("GET", "catalog.shop", "/v2", "2", Some(0)),
            ("POST", "orders.shop", "/", "", Some(2)),
            ("GET", "orders.shop", "/", "", None),
        ];
        for (method, host, path, beta, endpoint) in cases {
            let request = Request::builder().method(method).uri(format!("http://{host}{path}")).header("x-beta", beta);
            let answer = wait::soon("an answer", client.exchange(request.body(body::empty()).unwrap())).await.unwrap();
            match endpoint {
                Some(n) => assert_eq!(text(&answer, "x-endpoint"), n.to_string(), "{version:?} {method} {host}{path}"),
                None => {
                    assert_eq!(answer.status(), 404);
                    assert!(text(&answer, "proxy-status").contains("no_route"));
                }
            }
        }
        let before = fleet.endpoints[3].state.requests.load(SeqCst);
        for _ in 0..400 {
            let request = Request::get("http://split.shop/").body(body::empty()).unwrap();
            assert_eq!(client.exchange(request).await.unwrap().status(), 200);
        }
        let share = (fleet.endpoints[3].state.requests() - before) as f64 / 400.0;
        assert!((share - 0.75).abs() < 0.15, "three quarters came to {share}");
    }
}
