//! Shapes of answers that endpoints give, proper and otherwise.

use crate::{catalog, protocol, sidecar};
use http::Request;
use pathloom_integration::client::raw::Raw;
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint, raw::read_head};
use pathloom_integration::{body, wait};
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GET: &str = "GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_old_and_terse_servers_pass() {
    let cases: [(&'static [u8], u16, &[u8]); 7] = [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n", 304, b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 299 Odd\r\ntransfer-encoding: chunked\r\n\r\n2;ext=1\r\nok\r\n0\r\nx: y\r\n\r\n", 299, b"ok"),
    ];
    for (bytes, status, body) in cases {
        let endpoint = RawEndpoint::saying(bytes).await;
        let sidecar = sidecar(catalog(&list([endpoint.address]), "")).start().await;
        for version in VERSIONS {
            let shown = String::from_utf8_lossy(bytes);
            for _ in 0..3 {
                let mut client = version.connect(sidecar.address("in")).await.unwrap();
                let answer = wait::soon("an answer", client.get("/")).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
                assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (status, body), "{version:?} {shown}");
                // These servers close without a word, and a request that meets that on its way is lost.
                wait::eventually("the connection to the endpoint to be gone", || async {
                    let open = sidecar.metrics().await.sum("pathloom_upstream_connections", &[]);
                    if open == 0.0 { Ok(()) } else { Err(open) }
                })
                .await;
            }
        }
        assert_eq!(sidecar.metrics().await.all_failures().len(), 0);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_an_answer_unasked_is_nobodys_answer() {
    // A server that sends a second answer ahead of its request could have it taken for the next caller's.
    let endpoint = RawEndpoint::start(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        let two = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
        let _ = stream.write_all(two).await;
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let sidecar = sidecar(catalog(&list([endpoint.address]), "ejection: { consecutive_failures: 0 }")).start().await;
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..50 {
            let answer = wait::soon("an answer", client.get("/")).await.unwrap();
            assert!(answer.body().as_ref() != b"poison", "{version:?}: the next caller got it");
        }
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_lie_about_themselves_break_off() {
    let cases: [&'static [u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello-and-more\r\n0\r\n\r\n",
    ];
    for bytes in cases {
        let endpoint = RawEndpoint::saying(bytes).await;
        let sidecar = sidecar(catalog(&list([endpoint.address]), "")).start().await;
        for version in VERSIONS {
            let mut client = version.connect(sidecar.address("in")).await.unwrap();
            let answer = wait::soon("an answer", client.get("/")).await;
            let proper = answer.as_ref().is_ok_and(|a| a.status() == 200);
            assert!(!proper, "{version:?} {}: {answer:?}", String::from_utf8_lossy(bytes));
        }
        let failures = sidecar.metrics().await.all_failures();
        let known = ["response_incomplete", "upstream_protocol", "upstream_reset"];
        assert!(failures.keys().any(|reason| known.contains(&reason.as_str())), "{failures:?}");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_body_is_whole_reaches_the_client() {
    // On HTTP/1.1 a server that closes with bytes unread may destroy its own answer, so this one takes them in.
    let lingering = RawEndpoint::start(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        let refusal = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\nx-endpoint: 0\r\ncontent-length: 2\r\n\r\nno";
        let _ = stream.write_all(refusal).await;
        let _ = stream.shutdown().await;
        let mut rest = vec![0; 1 << 16];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let fleet = Fleet::start(1).await;
    for (version, endpoints) in [(Version::Http1, list([lingering.address])), (Version::Http2, fleet.yaml())] {
        let sidecar = sidecar(catalog(&endpoints, protocol(version))).start().await;
        for inside in VERSIONS {
            // What a client on HTTP/1.1 sends beyond what the sidecar discards before it closes (256 KiB), it loses.
            let length = if inside == Version::Http1 { 128 << 10 } else { 20 << 20 };
            for _ in 0..20 {
                let mut client = inside.connect(sidecar.address("in")).await.unwrap();
                let upload = Request::post("/refuse").body(body::patterned(length)).unwrap();
                let answer = wait::soon("the refusal", client.send(upload)).await;
                let answer = answer.unwrap_or_else(|e| panic!("{inside:?} to {version:?}: the refusal was lost: {e}"));
                let seen = (answer.status().as_u16(), text(&answer, "x-endpoint"));
                assert_eq!(seen, (413, "0"), "{inside:?} to {version:?}: {answer:?}");
            }
        }
        sidecar.assert_no_panic();
    }
    wait::until("nothing to be left", || fleet.endpoints[0].state.active.load(SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_clients_are_answered_in_their_way() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let address = sidecar.address("in");
    // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    let mut raw = Raw::connect(address).await.unwrap();
    let answer = raw.ask("GET /bytes/70000 HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!((answer.status, answer.body.len(), answer.header("transfer-encoding")), (200, 70_000, ""));
    let mut raw = Raw::connect(address).await.unwrap();
    let answer = raw.ask("GET /bytes/7?length HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 7));
    let mut raw = Raw::connect(address).await.unwrap();
    assert_eq!(raw.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\nconnection: close\r\n\r\n").await.unwrap().status, 200);
    assert!(wait::soon("the end", raw.closed()).await, "the client asked for the end of the connection");
    // Lower case, empty lines ahead, and the target in absolute form are all proper.
    let mut raw = Raw::connect(address).await.unwrap();
    assert_eq!(raw.ask(format!("\r\n\r\n{GET}")).await.unwrap().status, 200);
    let absolute = "GET http://catalog.shop/ HTTP/1.1\r\nHOST: other.shop\r\n\r\n";
    assert_eq!(raw.ask(absolute).await.unwrap().status, 200);
    assert_eq!(raw.ask("OPTIONS * HTTP/1.1\r\nhost: catalog.shop\r\n\r\n").await.unwrap().status, 200);
    let answer = raw.ask("CONNECT catalog.shop:443 HTTP/1.1\r\nhost: catalog.shop\r\n\r\n").await.unwrap();
    assert!((400..=501).contains(&answer.status), "{answer:?}");
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_routes_to_itself_through_another_is_cut_off() {
    // Two sidecars that take each other for the service: a request would go round for ever.
    let ip = pathloom_integration::ports::own_ip(2);
    let (a, b) = (pathloom_integration::ports::free(ip), pathloom_integration::ports::free(ip));
    let first = sidecar(catalog(&list([b]), "")).address("in", a).start().await;
    let second = sidecar(catalog(&list([a]), "")).address("in", b).start().await;
    for version in VERSIONS {
        let mut client = version.connect(a).await.unwrap();
        let answer = wait::soon("an answer", client.get("/")).await.unwrap();
        assert_eq!(answer.status(), 508, "{answer:?}");
    }
    let loops = first.metrics().await.failures("loop") + second.metrics().await.failures("loop");
    assert_eq!(loops, 2.0, "the loop is cut once a request");
    first.assert_no_panic();
    second.assert_no_panic();
}
