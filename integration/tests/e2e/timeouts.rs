//! Each limit of time has its own reason, and ends on both sides what it ends.

use crate::{catalog, protocol, sidecar};
use http::Request;
use pathloom_integration::body::{self, drain};
use pathloom_integration::client::raw::Raw;
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn counted(sidecar: &Sidecar, reason: &str) {
    wait::eventually(reason, || async {
        let metrics = sidecar.metrics().await;
        if metrics.failures(reason) > 0.0 { Ok(()) } else { Err(format!("{:?}", metrics.all_failures())) }
    })
    .await;
}

/// A listener whose queue is full, so that the kernel leaves further connections without an answer.
async fn deaf() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ports::own_ip(3), 0).into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    let limit = std::time::Duration::from_millis(300);
    while let Ok(Ok(stream)) = tokio::time::timeout(limit, TcpStream::connect(address)).await {
        queue.push(stream);
    }
    (socket, queue, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_does_not_accept_in_time_is_a_504_and_another_is_tried() {
    let (_socket, _queue, address) = deaf().await;
    for version in VERSIONS {
        let quick = format!("{}, timeouts: {{ connect: 200ms }}", protocol(version));
        let alone = sidecar(catalog(&list([address]), &quick)).start().await;
        let mut client = version.connect(alone.address("in")).await.unwrap();
        let answer = wait::soon("an answer", client.get("/")).await.unwrap();
        assert_eq!(answer.status(), 504, "{answer:?}");
        assert!(text(&answer, "proxy-status").contains("connect_timeout"), "{answer:?}");
        counted(&alone, "connect_timeout").await;

        let fleet = Fleet::start(1).await;
        let both = format!("{quick}, policy: round_robin, ejection: {{ consecutive_failures: 0 }}");
        let beside = sidecar(catalog(&list([address, fleet.endpoints[0].address]), &both)).start().await;
        let mut client = version.connect(beside.address("in")).await.unwrap();
        for _ in 0..4 {
            assert_eq!(wait::soon("an answer", client.get("/")).await.unwrap().status(), 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_request_that_takes_too_long_is_a_504_and_the_endpoint_is_told() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let yaml = catalog(&fleet.yaml(), protocol(version))
            .replace("cluster: catalog }", "cluster: catalog, timeout: 300ms }");
        let sidecar = sidecar(yaml).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let answer = wait::soon("an answer", client.get("/hold")).await.unwrap();
        assert_eq!(answer.status(), 504, "{answer:?}");
        assert!(text(&answer, "proxy-status").contains("request_timeout"), "{answer:?}");
        counted(&sidecar, "request_timeout").await;
        wait::until("the endpoint to be told", || fleet.holding() == 0).await;
        // The limit holds for the answer's body, too: then all that is left is to break it off.
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let answer = client.send(Request::get("/gate/1000").body(body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let (_, _, error) = wait::soon("the body", drain(answer.into_body())).await;
        assert!(error.is_some(), "{version:?}: half a body came to a proper end");
        wait::until("the endpoint to be told", || fleet.holding() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_on_which_nothing_moves_is_broken_off() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let yaml = catalog(&fleet.yaml(), &format!("{}, timeouts: {{ idle: 1s }}", protocol(version)));
        let sidecar = sidecar(yaml).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let answer = client.send(Request::get("/gate/1000").body(body::empty()).unwrap()).await.unwrap();
        let (checked, _, error) = wait::soon("the body", drain(answer.into_body())).await;
        assert!(checked.length == 1000 && error.is_some(), "{version:?}: {} bytes, {error:?}", checked.length);
        counted(&sidecar, "idle_timeout").await;
        wait::until("the endpoint to be told", || fleet.holding() == 0).await;
        // One that moves, however slowly, is left alone.
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let slowly = futures_util::stream::unfold(0, |n| async move {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            (n < 10).then(|| (Ok(http_body::Frame::data(body::piece(n * 10, 10))), n + 1))
        });
        let request = Request::post("/sink").body(body::streamed(slowly)).unwrap();
        let answer = wait::soon("the upload", client.exchange(request)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(answer.body()), "100 ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_on_both_sides() {
    let fleet = Fleet::start(1).await;
    let yaml = catalog(&fleet.yaml(), "timeouts: { pooled: 1s }") + "listeners: { idle: 1s }\n";
    let sidecar = sidecar(yaml).start().await;
    let mut unused = Raw::connect(sidecar.address("in")).await.unwrap();
    let mut used = Raw::connect(sidecar.address("in")).await.unwrap();
    assert_eq!(used.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n").await.unwrap().status, 200);
    assert!(wait::soon("the used connection's end", used.closed()).await);
    assert!(wait::soon("the unused connection's end", unused.closed()).await);
    let open = &fleet.endpoints[0].state.open;
    wait::until("the pooled connection's end", || open.load(SeqCst) == 0).await;
    assert_eq!(sidecar.metrics().await.all_failures().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_announces_the_end_of_its_connections_loses_no_request() {
    let closes = RawEndpoint::start(|mut stream| async move {
        let _ = pathloom_integration::fleet::raw::read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        let _ = stream.shutdown().await;
    })
    .await;
    let sidecar = sidecar(catalog(&list([closes.address]), "")).start().await;
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..200 {
            let answer = wait::soon("an answer", client.get("/")).await.unwrap();
            assert_eq!(answer.status(), 200, "{answer:?}");
            assert!(version == Version::Http2 || answer.headers().get("connection").is_none_or(|v| v != "close"));
        }
    }
}
