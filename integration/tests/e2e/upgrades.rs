//! WebSocket and other protocols that a connection may switch to.

use crate::{catalog, sidecar};
use futures_util::{SinkExt, StreamExt};
use pathloom_integration::client::raw::Raw;
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint};
use pathloom_integration::{body, wait};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

/// Messages of every kind and several sizes, and a proper end.
pub async fn websocket(address: SocketAddr) {
    let stream = TcpStream::connect(address).await.unwrap();
    let opening = client_async("ws://catalog.shop/websocket", stream);
    let (mut socket, response) = wait::soon("the handshake", opening).await.unwrap();
    assert_eq!(response.status(), 101);
    let messages = [
        Message::text("hello"),
        Message::text(""),
        Message::binary(body::piece(0, 100)),
        Message::binary(body::piece(0, 1 << 20)),
    ];
    for message in messages {
        socket.send(message.clone()).await.unwrap();
        let back = wait::soon("the echo", socket.next()).await.unwrap().unwrap();
        assert!(back == message, "{} bytes came back for {}", back.len(), message.len());
    }
    for n in 0..200 {
        socket.send(Message::text(n.to_string())).await.unwrap();
    }
    for n in 0..200 {
        let back = wait::soon("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(back, Message::text(n.to_string()));
    }
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    let pong = wait::soon("the pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("are you there".into()));
    socket.close(None).await.unwrap();
    let end = wait::soon("the end", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    assert_eq!(end, ());
}

/// Another protocol: bytes both ways, and a half-closed end.
pub async fn another_protocol(address: SocketAddr) {
    let mut raw = Raw::connect(address).await.unwrap();
    let request =
        "GET /upgrade/tunnel HTTP/1.1\r\nhost: catalog.shop\r\nconnection: upgrade\r\nupgrade: tunnel\r\n\r\n";
    let answer = raw.ask(request).await.unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, "tunnel"), "{answer:?}");
    let mut stream = raw.stream;
    let (mut reading, mut writing) = stream.split();
    let length = 3_000_000;
    let send = async {
        let mut at = 0;
        while at < length {
            let piece = body::piece(at, length - at);
            writing.write_all(&piece).await.unwrap();
            at += piece.len() as u64;
        }
        // Half closed: what comes back must still arrive.
        writing.shutdown().await.unwrap();
    };
    let receive = async {
        let mut checked = body::Checked::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reading.read(&mut buffer).await.unwrap() {
                0 => return checked,
                n => checked.take(&buffer[..n]),
            }
        }
    };
    let ((), checked) = wait::soon("the tunnel", async { tokio::join!(send, receive) }).await;
    assert_eq!((checked.length, checked.wrong_at), (length, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_messages_pass_both_ways() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    for _ in 0..3 {
        websocket(sidecar.address("in")).await;
    }
    wait::eventually("the counts to return to nothing", || async {
        let metrics = sidecar.metrics().await;
        let in_flight = metrics.sum("pathloom_endpoint_in_flight", &[]);
        let open = metrics.sum("pathloom_downstream_connections", &[]);
        if in_flight == 0.0 && open == 0.0 { Ok(()) } else { Err(format!("{in_flight} in flight, {open} open")) }
    })
    .await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_protocol_passes_too() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    another_protocol(sidecar.address("in")).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_the_endpoint_declines_is_an_ordinary_answer() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
    let declined = "GET /status/403 HTTP/1.1\r\nhost: catalog.shop\r\nconnection: upgrade\r\nupgrade: tunnel\r\n\r\n";
    assert_eq!(raw.ask(declined).await.unwrap().status, 403);
    assert_eq!(raw.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_switches_unasked_is_a_502() {
    let switches =
        RawEndpoint::saying(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: surprise\r\n\r\nboo")
            .await;
    let sidecar = sidecar(catalog(&list([switches.address]), "")).start().await;
    let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
    let answer = wait::soon("an answer", raw.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n")).await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_websocket_does_not_hold_up_the_end_beyond_the_drain() {
    let fleet = Fleet::start(1).await;
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + "process: { drain: 1s }\n").start().await;
    let stream = TcpStream::connect(sidecar.address("in")).await.unwrap();
    let (mut socket, _) =
        wait::soon("the handshake", client_async("ws://catalog.shop/websocket", stream)).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    wait::soon("the echo", socket.next()).await.unwrap().unwrap();
    sidecar.sigterm();
    let status = sidecar.process.end(wait::LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", sidecar.stderr());
}
