//! Listeners that take less than they did: what becomes of the connections that are open.

use super::support::*;
use crate::config::Protocol::Http1;
use crate::config::{Allow, Config, ListenerProtocol, Protocol, Timespan};
use crate::identity::TlsMode;
use crate::observe::Reason;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// The same, in another mode.
fn in_mode(config: &Config, tls: TlsMode) -> Config {
    let mut config = config.clone();
    config.workloads.get_mut("w").unwrap().tls = tls;
    config
}

/// Publishes a configuration in which plain text is refused, and waits until new connections are.
async fn become_strict(proxy: &TestProxy, config: &Config) {
    proxy.publish(2, &in_mode(config, TlsMode::Strict));
    eventually("plain text to be refused", async || {
        proxy.raw("GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 403 ")
    })
    .await;
}

/// Answers `/hold` with a permit of the gate's, and everything else at once.
async fn gated() -> (Server, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let ours = gate.clone();
    let server = Server::http(Http1, move |request| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == "/hold" {
                gate.acquire().await.unwrap().forget();
            }
            Response::new(full("served"))
        }
    })
    .await;
    (server, ours)
}

/// A connection on which a request was served, and nothing is under way.
async fn idle(proxy: &TestProxy) -> TcpStream {
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
    let mut heard = String::new();
    while !heard.ends_with("served") {
        let mut more = [0; 1024];
        let read = idle.read(&mut more).await.unwrap();
        assert!(read > 0, "{heard}");
        heard += std::str::from_utf8(&more[..read]).unwrap();
    }
    idle
}

/// Waits until it is closed, without another word: then all connections of the only core know of the change.
async fn closed(mut idle: TcpStream) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), idle.read_to_end(&mut rest)).await;
    assert_eq!(ended.expect("it is closed").unwrap(), 0);
}

#[tokio::test]
async fn an_http1_connection_in_plain_text_is_served_to_the_end_of_its_request_and_no_further() {
    let (server, gate) = gated().await;
    for before in [TlsMode::Disabled, TlsMode::Permissive] {
        let config = in_mode(&config(Http1, &[server.address]), before);
        let proxy = TestProxy::start(&config);
        let idle = idle(&proxy).await;
        let mut busy = TcpStream::connect(proxy.address).await.unwrap();
        let pipelined = b"GET /hold HTTP/1.1\r\nhost: shop\r\n\r\nGET / HTTP/1.1\r\nhost: shop\r\n\r\n";
        busy.write_all(pipelined).await.unwrap();
        proxy.under_way(1).await;
        become_strict(&proxy, &config).await;
        closed(idle).await;
        gate.add_permits(1);
        let mut answers = Vec::new();
        let _ = busy.read_to_end(&mut answers).await;
        let text = String::from_utf8_lossy(&answers).to_lowercase();
        assert!(text.starts_with("http/1.1 200 ") && text.contains("connection: close"), "{text}");
        assert_eq!(text.matches("http/1.1 ").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_request_that_comes_on_a_connection_from_before_is_refused() {
    let (server, gate) = gated().await;
    let config = in_mode(&config(Http1, &[server.address]), TlsMode::Permissive);
    let proxy = TestProxy::start(&config);
    let idle = idle(&proxy).await;
    let http2 = proxy.connect2().await;
    let (mut first, mut second) = (Client2(http2.0.clone()), Client2(http2.0));
    let waiting = tokio::spawn(async move { first.get("/hold").await });
    // A client that asks on whatever it was told: HEADERS on stream 3 after GOAWAY, of which it says not that it knows.
    let mut stubborn = TcpStream::connect(proxy.address).await.unwrap();
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let hold = b"\x00\x00\x0f\x01\x05\x00\x00\x00\x01\x82\x86\x41\x04shop\x04\x05/hold";
    stubborn.write_all(&[&opening[..], hold].concat()).await.unwrap();
    proxy.under_way(2).await;
    become_strict(&proxy, &config).await;
    closed(idle).await;
    stubborn.write_all(b"\x00\x00\x09\x01\x05\x00\x00\x00\x03\x82\x86\x41\x04shop\x84").await.unwrap();
    let late = second.send(Request::get("http://shop/late").body(empty()).unwrap()).await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status() == StatusCode::FORBIDDEN));
    let refused = || proxy.log.0.lock().unwrap().iter().filter(|l| l.reason == Some(Reason::TlsRequired)).count();
    // That of `become_strict`, and the stubborn one's.
    eventually("it to be refused", async || refused() >= 2).await;
    gate.add_permits(2);
    // What was under way ends well, and then the connections do.
    assert_eq!(waiting.await.unwrap().status, StatusCode::OK);
    drop((second, stubborn));
    eventually("both to be closed", async || proxy.gauges.snapshot().downstream_connections == 0).await;
    let log = proxy.log.0.lock().unwrap().clone();
    let known = log.iter().position(|l| l.reason == Some(Reason::TlsRequired)).unwrap();
    assert!(log[known..].iter().all(|l| l.status != Some(200) || l.path == "/hold"), "{log:?}");
}

#[tokio::test]
async fn what_carries_no_requests_may_go_on_for_as_long_as_a_drain_takes() {
    let echo = || {
        Server::tcp(|mut stream| async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        })
    };
    let server = echo().await;
    let mut tcp = in_mode(&config(Protocol::Tcp, &[server.address]), TlsMode::Permissive);
    tcp.workloads.get_mut("w").unwrap().protocol = ListenerProtocol::Tcp;
    tcp.listeners.detect = Timespan(Duration::from_millis(10));
    let refused = |config: &Config| in_mode(config, TlsMode::Strict);
    let unnamed = |config: &Config| {
        let mut config = config.clone();
        config.workloads.get_mut("w").unwrap().allow =
            vec![Allow { from: vec!["spiffe://mesh.local/near".parse().unwrap()], ..Allow::default() }];
        config
    };
    type Change<'a> = &'a dyn Fn(&Config) -> Config;
    let changes: [(Change<'_>, Reason); 2] = [(&refused, Reason::TlsRequired), (&unnamed, Reason::NotAllowed)];
    for (change, reason) in changes {
        for taken_back in [false, true] {
            let patience = if taken_back { Duration::from_secs(60) } else { Duration::from_millis(500) };
            let proxy = TestProxy::start_with(&tcp, 1, |options| options.drain = patience);
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            let mut heard = [0; 5];
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            proxy.publish(2, &change(&tcp));
            // A new one is refused at once.
            eventually("new ones to be refused", async || {
                let mut stream = TcpStream::connect(proxy.address).await.unwrap();
                let _ = stream.write_all(b"hello").await;
                matches!(stream.read(&mut [0; 5]).await, Ok(0) | Err(_))
            })
            .await;
            if taken_back {
                proxy.publish(3, &tcp);
                stream.write_all(b"again").await.unwrap();
                stream.read_exact(&mut heard).await.unwrap();
                continue;
            }
            let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut heard)).await;
            assert!(matches!(ended.expect("it is cut"), Ok(0) | Err(_)));
            eventually("both to be logged", async || {
                proxy.log.0.lock().unwrap().iter().any(|l| l.reason == Some(reason) && l.bytes == (5, 5))
            })
            .await;
        }
    }
}

#[tokio::test]
async fn an_upgraded_connection_in_plain_text_is_cut_in_the_end() {
    let server = Server::http(Http1, |mut request: Request<hyper::body::Incoming>| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut byte = [0];
            while io.read(&mut byte).await.is_ok_and(|n| n > 0) && io.write_all(&byte).await.is_ok() {}
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        response
    })
    .await;
    let config = in_mode(&config(Http1, &[server.address]), TlsMode::Permissive);
    let proxy = TestProxy::start_with(&config, 1, |options| options.drain = Duration::from_millis(500));
    let request =
        Request::get("/").header("connection", "Upgrade").header("upgrade", "websocket").header("host", "shop");
    let response = proxy.connect1().await.send(request.body(empty()).unwrap()).await.unwrap();
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"x").await.unwrap();
    let mut byte = [0];
    io.read_exact(&mut byte).await.unwrap();
    become_strict(&proxy, &config).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), io.read(&mut byte)).await;
    assert!(matches!(ended.expect("it is cut"), Ok(0) | Err(_)));
    eventually("it to be logged", async || {
        // The refused ones, of which none reached an endpoint, have the same reason.
        proxy.log.0.lock().unwrap().iter().any(|l| l.reason == Some(Reason::TlsRequired) && l.attempts == 1)
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_stays_as_strict_as_it_was_disturbs_nobody() {
    let server = Server::echo(Http1).await;
    let mut config = in_mode(&config(Http1, &[server.address]), TlsMode::Permissive);
    let proxy = TestProxy::start(&config);
    let (mut http1, mut http2) = (proxy.connect1().await, proxy.connect2().await);
    for id in 2..6 {
        // Another table of routes, in which the same are taken.
        config.routes[0].timeout = Some(Timespan(Duration::from_secs(id)));
        proxy.publish(id, &config);
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(http1.get("/").await.status, StatusCode::OK);
        assert_eq!(http2.get("/").await.status, StatusCode::OK);
    }
    // More is taken than before: that, too, is no reason to leave.
    proxy.publish(7, &in_mode(&config, TlsMode::Disabled));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!((http1.get("/").await.status, http2.get("/").await.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(proxy.gauges.snapshot().accepted_total, 2);
}
