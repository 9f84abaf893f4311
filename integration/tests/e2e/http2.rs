//! HTTP/2's own ways of going wrong, by endpoints and by clients.

use crate::{QUICK, catalog, sidecar};
use bytes::Bytes;
use pathloom_integration::client::raw::{frame, opening};
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint};
use pathloom_integration::load::flood;
use pathloom_integration::wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HTTP2: &str = "protocol: http2";

fn answer(mut respond: h2::server::SendResponse<Bytes>) {
    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
        let _ = body.send_data(Bytes::from_static(b"ok"), true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_says_goaway_again_and_again_loses_no_request() {
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = answered.clone();
    let endpoint = RawEndpoint::start(move |stream| {
        let counter = counter.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let mut served = 0;
            while let Some(Ok((_, respond))) = connection.accept().await {
                counter.fetch_add(1, SeqCst);
                served += 1;
                answer(respond);
                if served == 50 {
                    connection.graceful_shutdown();
                }
            }
        }
    })
    .await;
    let sidecar = sidecar(catalog(&list([endpoint.address]), HTTP2) + QUICK).start().await;
    for version in VERSIONS {
        answered.store(0, SeqCst);
        let right = wait::soon("the requests", flood(version, sidecar.address("in"), 4, 2_000)).await;
        assert_eq!(right, 2_000, "{version:?}: {:?}", sidecar.metrics().await.all_failures());
        assert_eq!(answered.load(SeqCst), 2_000, "{version:?}: none was sent twice");
    }
    assert!(endpoint.connections.load(SeqCst) > 20);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_allows_few_streams_gets_no_more_once_it_has_said_so() {
    let most = Arc::new(AtomicUsize::new(0));
    let counter = most.clone();
    let endpoint = RawEndpoint::start(move |stream| {
        let most = counter.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.max_concurrent_streams(3).handshake(stream).await else { return };
            let here = Arc::new(AtomicUsize::new(0));
            while let Some(Ok((_, respond))) = connection.accept().await {
                most.fetch_max(here.fetch_add(1, SeqCst) + 1, SeqCst);
                let here = here.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    here.fetch_sub(1, SeqCst);
                    answer(respond);
                });
            }
        }
    })
    .await;
    let sidecar = sidecar(catalog(&list([endpoint.address]), HTTP2)).start().await;
    let right = wait::soon("the requests", flood(Version::Http2, sidecar.address("in"), 4, 1_000)).await;
    // What is sent on a new connection before its endpoint has named the limit may be refused, and is said to be.
    let failures = sidecar.metrics().await.all_failures();
    let refused = failures.get("upstream_reset").copied().unwrap_or(0.0) as usize;
    assert_eq!(right + refused, 1_000, "{failures:?}");
    assert!(refused <= 100, "{refused} of 1,000 were refused");
    assert!(most.load(SeqCst) <= 3, "{} streams on one connection", most.load(SeqCst));
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_the_endpoint_resets_is_a_502_and_the_connection_goes_on() {
    for reason in [h2::Reason::INTERNAL_ERROR, h2::Reason::CANCEL, h2::Reason::ENHANCE_YOUR_CALM] {
        let endpoint = RawEndpoint::start(move |stream| async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                match request.uri().path() {
                    "/reset" => respond.send_reset(reason),
                    _ => answer(respond),
                }
            }
        })
        .await;
        let yaml = catalog(&list([endpoint.address]), &format!("{HTTP2}, ejection: {{ consecutive_failures: 0 }}"));
        let sidecar = sidecar(yaml).start().await;
        for version in VERSIONS {
            let mut client = version.connect(sidecar.address("in")).await.unwrap();
            for _ in 0..5 {
                let answer = wait::soon("an answer", client.get("/reset")).await.unwrap();
                assert_eq!(answer.status(), 502, "{reason:?}: {answer:?}");
                assert!(text(&answer, "proxy-status").contains("upstream_reset"), "{reason:?}: {answer:?}");
                assert_eq!(wait::soon("an answer", client.get("/")).await.unwrap().status(), 200);
            }
        }
        assert!(endpoint.connections.load(SeqCst) <= 4, "a stream's end is no connection's end");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_streams_as_fast_as_it_can_is_cut_off_and_others_are_served() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), HTTP2)).start().await;
    let address = sidecar.address("in");
    let before = sidecar.process.resident();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) =
        h2::client::Builder::new().max_concurrent_reset_streams(100_000).handshake::<_, Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut cut_off = false;
    for _ in 0..20_000 {
        let Ok(ready) = wait::soon("room for a stream", send.clone().ready()).await else {
            cut_off = true;
            break;
        };
        send = ready;
        let request = http::Request::get("http://catalog.shop/hold").body(()).unwrap();
        match send.send_request(request, true) {
            Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
            Err(_) => {
                cut_off = true;
                break;
            }
        }
    }
    let mut client = Version::Http2.connect(address).await.unwrap();
    for _ in 0..50 {
        assert_eq!(wait::soon("a request beside it", client.get("/")).await.unwrap().status(), 200);
    }
    drop(send);
    connection.abort();
    wait::until("the endpoint to have none of them left", || fleet.holding() == 0).await;
    wait::eventually("nothing in flight", || async {
        let in_flight = sidecar.metrics().await.sum("pathloom_endpoint_in_flight", &[]);
        if in_flight == 0.0 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    let grown = sidecar.process.peak_resident().saturating_sub(before);
    eprintln!("cut off: {cut_off}; memory grew by {} KiB", grown >> 10);
    assert!(grown < 64 << 20, "resets cost {} MiB", grown >> 20);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_are_cut_off_in_bounded_memory() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let address = sidecar.address("in");
    let before = sidecar.process.resident();
    let opening = opening();
    // A header block that never ends: literal fields without indexing, `a: b...`.
    let field = [&[0u8, 1, b'a', 0x7f, 0x81, 0x7e][..], &[b'b'; 16_384 - 8][..]].concat();
    let floods = [
        ("continuations", frame(1, 0, 1, &field), frame(9, 0, 1, &field[..16_000])),
        ("empty continuations", frame(1, 0, 1, &[0x82]), frame(9, 0, 1, &[])),
        ("settings", frame(4, 0, 0, &[]), frame(4, 0, 0, &[])),
        ("pings", frame(6, 0, 0, &[0; 8]), frame(6, 0, 0, &[0; 8])),
        ("empty data", frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x41, 1, b'a']), frame(0, 0, 1, &[])),
    ];
    for (what, first, more) in floods {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&opening).await.unwrap();
        stream.write_all(&first).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let burst = more.repeat((1 << 20) / more.len());
        // Nothing is read meanwhile: answers to the frames must not pile up in the sidecar either.
        let writes = async {
            for _ in 0..32 {
                if writing.write_all(&burst).await.is_err() {
                    return "cut off";
                }
            }
            "taken in"
        };
        let end = tokio::time::timeout(std::time::Duration::from_secs(3), writes).await.unwrap_or("held up");
        let grown = sidecar.process.peak_resident().saturating_sub(before);
        eprintln!("{what}: {end}; memory grew by {} KiB", grown >> 10);
        assert!(grown < 64 << 20, "{what}: {} MiB", grown >> 20);
        let mut client = Version::Http1.connect(address).await.unwrap();
        assert_eq!(wait::soon("a request beside it", client.get("/")).await.unwrap().status(), 200);
        let mut sink = vec![0; 1 << 16];
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), reading.read(&mut sink)).await;
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_like_http2_is_closed() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + "listeners: { idle: 500ms }\n").start().await;
    for opening in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HT",
    ] {
        let mut stream = TcpStream::connect(sidecar.address("in")).await.unwrap();
        stream.write_all(opening).await.unwrap();
        let mut rest = Vec::new();
        let _ = wait::soon("the end", stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(fleet.requests(), 0);
    sidecar.assert_no_panic();
}
