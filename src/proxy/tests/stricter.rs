//! Listeners that take less than they did: what becomes of the connections that are open.

use super::support::*;
use crate::config::Protocol::Http1;
use crate::config::{Allow, Config, ListenerProtocol, Protocol, Timespan};
use crate::identity::TlsMode;
use crate::observe::Reason;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// Answers `/N` after N ms, and everything else at once.
async fn server() -> Server {
    Server::http(Http1, |request| async move {
        let wait = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Response::new(full("served"))
    })
    .await
}

#[tokio::test]
async fn an_http1_connection_in_plain_text_is_served_to_the_end_of_its_request_and_no_further() {
    let server = server().await;
    for before in [TlsMode::Disabled, TlsMode::Permissive] {
        let config = in_mode(&config(Http1, &[server.address]), before);
        let proxy = TestProxy::start(&config);
        // One is idle, one is at a request, one begins a request on the way.
        let mut idle = TcpStream::connect(proxy.address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
        let mut first = [0; 1024];
        assert!(idle.read(&mut first).await.unwrap() > 0);
        let mut busy = TcpStream::connect(proxy.address).await.unwrap();
        let pipelined = b"GET /3000 HTTP/1.1\r\nhost: shop\r\n\r\nGET / HTTP/1.1\r\nhost: shop\r\n\r\n";
        busy.write_all(pipelined).await.unwrap();
        proxy.under_way(1).await;
        become_strict(&proxy, &config).await;
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("HTTP/1.1"), "an idle connection is closed: {text}");
        let mut answers = Vec::new();
        let _ = busy.read_to_end(&mut answers).await;
        let text = String::from_utf8_lossy(&answers).to_lowercase();
        assert!(text.starts_with("http/1.1 200 ") && text.contains("connection: close"), "{text}");
        assert_eq!(text.matches("http/1.1 ").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_request_that_comes_on_a_connection_from_before_is_refused() {
    let server = server().await;
    let config = in_mode(&config(Http1, &[server.address]), TlsMode::Permissive);
    let proxy = TestProxy::start(&config);
    let mut busy = TcpStream::connect(proxy.address).await.unwrap();
    // Its head is not whole when the mode changes, so that it is not idle.
    let (head, rest) = ("GET / HTTP/1.1\r\nhost: sh", "op\r\n\r\n");
    let mut http2 = proxy.connect2().await;
    let mut another = Client2(http2.0.clone());
    let waiting = tokio::spawn(async move { another.get("/3000").await });
    proxy.under_way(1).await;
    busy.write_all(head.as_bytes()).await.unwrap();
    become_strict(&proxy, &config).await;
    let _ = busy.write_all(rest.as_bytes()).await;
    let mut answer = String::new();
    // Where a busy machine was slow, the connection is gone by now.
    let _ = busy.read_to_string(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 403 "), "{answer}");
    // HTTP/2: who was told to leave opens no stream; what is under way ends well.
    let late = http2.send(Request::get("http://shop/").body(empty()).unwrap()).await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status() == StatusCode::FORBIDDEN));
    assert_eq!(waiting.await.unwrap().status, StatusCode::OK);
    eventually("it to be closed", async || proxy.gauges.snapshot().downstream_connections == 0).await;
    assert!(proxy.log.0.lock().unwrap().iter().all(|l| l.status != Some(200) || l.path == "/3000"));
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
    let request = Request::get("/").header("connection", "Upgrade").header("upgrade", "websocket").header("host", "shop");
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
