//! Each limit in time, and the reason that it leaves.

use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{Config, Timespan};
use crate::observe::Reason;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A limit, and far longer than whoever stays within it should take, on a busy machine too.
const SHORT: Duration = Duration::from_millis(400);
/// Deadlines may be late on a busy machine, but not so late.
const LATE: Duration = Duration::from_secs(10);

/// Waits as long as its path says, then answers.
async fn slow(protocol: Protocol) -> Server {
    Server::http(protocol, |request| async move {
        let wait = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Response::new(full("late"))
    })
    .await
}

fn with(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    config
}

fn span(d: Duration) -> Timespan {
    Timespan(d)
}

async fn expect_failure(proxy: &TestProxy, client: Protocol, path: &str, reason: Reason) {
    let started = Instant::now();
    let answer = proxy.get(client, path).await;
    let took = started.elapsed();
    assert_eq!((answer.status, text(&answer).starts_with(reason.code())), (reason.status(), true), "{answer:?}");
    assert!(took >= SHORT && took < SHORT + LATE, "{took:?}");
    assert_eq!(proxy.logged(1).await[0].reason, Some(reason));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_a_response_timeout() {
    for (client, endpoint) in [(Http1, Http1), (Http2, Http2)] {
        let server = slow(endpoint).await;
        let config = with(config(endpoint, &[server.address]), |c| cluster(c).timeouts.response_headers = span(SHORT));
        let proxy = TestProxy::start(&config);
        expect_failure(&proxy, client, "/20000", Reason::ResponseTimeout).await;
        proxy.under_way(0).await;
        let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
        assert_eq!((node.failures_in_a_row(), node.in_flight()), (1, 0));
    }
}

#[tokio::test]
async fn the_whole_request_has_a_limit_and_the_routes_overrides_the_clusters() {
    let server = slow(Http1).await;
    let by_cluster = with(config(Http1, &[server.address]), |c| cluster(c).timeouts.request = span(SHORT));
    expect_failure(&TestProxy::start(&by_cluster), Http1, "/20000", Reason::RequestTimeout).await;
    let by_route = with(by_cluster.clone(), |c| {
        cluster(c).timeouts.request = span(Duration::from_secs(60));
        c.routes[0].timeout = Some(span(SHORT));
    });
    expect_failure(&TestProxy::start(&by_route), Http2, "/20000", Reason::RequestTimeout).await;
    let longer = with(by_cluster, |c| c.routes[0].timeout = Some(span(Duration::from_secs(60))));
    assert_eq!(TestProxy::start(&longer).connect1().await.get("/600").await.status, StatusCode::OK);
}

/// A listener whose queue is full, which leaves further connections unanswered, and what fills it.
async fn unanswered() -> (std::net::SocketAddr, impl Sized) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    for _ in 0..4 {
        let stream = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await;
        fill.push(stream);
    }
    (address, (socket, fill))
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_is_a_connect_timeout() {
    let (address, _filled) = unanswered().await;
    let config = with(config(Http1, &[address]), |c| {
        cluster(c).timeouts.connect = span(SHORT);
        cluster(c).ejection.consecutive_failures = 1;
    });
    let proxy = TestProxy::start(&config);
    expect_failure(&proxy, Http1, "/", Reason::ConnectTimeout).await;
    assert_eq!(proxy.alarms.0.lock().unwrap()[0].2, Reason::ConnectTimeout);
}

#[tokio::test]
async fn a_body_on_which_nothing_moves_is_an_idle_timeout() {
    for (client, endpoint) in [(Http1, Http1), (Http2, Http2)] {
        let server = Server::http(endpoint, |_| async move {
            let (sender, body) = super::bodies::stream(1);
            tokio::spawn(async move {
                for _ in 0..4 {
                    tokio::time::sleep(SHORT / 2).await;
                    let _ = sender.send(Ok(http_body::Frame::data("x".into()))).await;
                }
                tokio::time::sleep(Duration::from_secs(20)).await;
            });
            Response::new(body)
        })
        .await;
        let config = with(config(endpoint, &[server.address]), |c| cluster(c).timeouts.idle = span(SHORT));
        let proxy = TestProxy::start(&config);
        let request = Request::get("http://shop/").header("host", "shop").body(empty()).unwrap();
        let response = proxy.send(client, request).await;
        let started = Instant::now();
        assert!(response.into_body().collect().await.is_err(), "{client:?}");
        let took = started.elapsed();
        assert!(took >= SHORT * 2 && took < SHORT * 3 + LATE, "{took:?}: what moves is not idle");
        let log = proxy.logged(1).await;
        assert_eq!((log[0].reason, log[0].bytes.1), (Some(Reason::IdleTimeout), 4), "{client:?}");
    }
}

#[tokio::test]
async fn an_upload_on_which_nothing_moves_is_an_idle_timeout() {
    let server = Server::echo(Http1).await;
    let config = with(config(Http1, &[server.address]), |c| {
        cluster(c).timeouts.idle = span(SHORT);
        cluster(c).timeouts.response_headers = span(SHORT);
    });
    let proxy = TestProxy::start(&config);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(SHORT / 2).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    let started = Instant::now();
    stream.read_to_string(&mut answer).await.unwrap();
    let took = started.elapsed();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("idle_timeout"), "{answer}");
    assert!(took > SHORT / 2 && took < LATE, "{took:?}: the head's limit runs from the body's end");
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::IdleTimeout));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_an_idle_timeout() {
    for client in [Http1, Http2] {
        let server = Server::http(Http1, |_| async move {
            let (sender, body) = super::bodies::stream(1);
            tokio::spawn(async move {
                let chunk = bytes::Bytes::from(vec![0u8; 100_000]);
                while sender.send(Ok(http_body::Frame::data(chunk.clone()))).await.is_ok() {}
            });
            Response::new(body)
        })
        .await;
        let config = with(config(Http1, &[server.address]), |c| cluster(c).timeouts.idle = span(SHORT));
        let proxy = TestProxy::start(&config);
        match client {
            Http1 => {
                let mut stream = TcpStream::connect(proxy.address).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let log = proxy.logged(1).await;
                assert_eq!((log[0].status, log[0].reason), (Some(200), Some(Reason::IdleTimeout)));
            }
            _ => {
                let mut sender = proxy.connect2().await;
                let _held = sender.send(Request::get("http://shop/").body(empty()).unwrap()).await.unwrap();
                let log = proxy.logged(1).await;
                assert_eq!((log[0].status, log[0].reason), (Some(200), Some(Reason::IdleTimeout)));
                let answer = sender.send(Request::get("http://shop/").body(empty()).unwrap()).await;
                assert!(answer.is_ok(), "the connection lives on");
            }
        }
    }
}

/// How long the proxy leaves a connection open that gets these bytes.
async fn closed_after(proxy: &TestProxy, bytes: &[u8]) -> (Duration, String) {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let started = Instant::now();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    (started.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let server = Server::echo(Http1).await;
    let head = with(config(Http1, &[server.address]), |c| c.listeners.request_headers = span(SHORT));
    let idle = with(config(Http1, &[server.address]), |c| c.listeners.idle = span(SHORT));
    let (by_head, by_idle) = (TestProxy::start(&head), TestProxy::start(&idle));
    for (proxy, bytes, answered) in [
        (&by_head, &b"GET / HTTP/1.1\r\nhos"[..], false),
        (&by_head, b"PRI * HT", false),
        (&by_idle, b"", false),
        (&by_idle, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        (&by_idle, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", false),
    ] {
        let case = String::from_utf8_lossy(bytes).into_owned();
        let (took, answer) =
            tokio::time::timeout(Duration::from_secs(20), closed_after(proxy, bytes)).await.expect(&case);
        assert!(took >= SHORT / 2, "{case} {took:?}");
        assert_eq!(answer.starts_with("HTTP/1.1 200"), answered, "{case} {answer}");
        // Who began to say something is told; who said nothing, or was answered, is not.
        let told = answer.starts_with("HTTP/1.1 408 ") && answer.contains("details=\"headers_timeout\"");
        assert_eq!(told, std::ptr::eq(proxy, &by_head), "{case} {answer}");
    }
    assert_eq!(by_head.unrouted().failures[Reason::HeadersTimeout.index()], 2);
    assert_eq!(by_idle.unrouted().failures, [0; Reason::ALL.len()]);
    // Bytes that drip in do not push the limit back.
    let mut stream = TcpStream::connect(by_head.address).await.unwrap();
    let started = Instant::now();
    while stream.write_all(b"G").await.is_ok() && started.elapsed() < LATE {
        tokio::time::sleep(SHORT / 4).await;
    }
    assert!(started.elapsed() < LATE);
}

/// What an HTTP/2 client begins with.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// GET http://shop/20000, whole, on stream 1.
const WAITING: &[u8] = b"\x00\x00\x10\x01\x05\x00\x00\x00\x01\x82\x86\x41\x04shop\x04\x06/20000";
/// The beginning of a block of headers on stream 3: `:method: GET`.
const BEGUN: &[u8] = b"\x00\x00\x01\x01\x01\x00\x00\x00\x03\x82";
/// It goes on by one field, and not to its end.
const MORE: &[u8] = b"\x00\x00\x05\x09\x00\x00\x00\x00\x03\x40\x01a\x01b";

#[tokio::test]
async fn what_an_http2_client_must_say_in_one_go_is_held_to_the_time_of_headers_whatever_else_is_under_way() {
    let server = slow(Http1).await;
    let config = with(config(Http1, &[server.address]), |c| c.listeners.request_headers = span(SHORT));
    let idle = [&OPENING[..24], &b"\x00\x00"[..]].concat();
    for (what, first, drip, requests) in [
        ("no settings", &OPENING[..24], &b""[..], 0),
        ("half the settings", &idle, b"", 0),
        ("a block that is not continued", &[OPENING, BEGUN].concat(), b"", 0),
        ("one that is, for ever", &[OPENING, BEGUN].concat(), MORE, 0),
        ("one that is, beside a request", &[OPENING, WAITING, BEGUN].concat(), MORE, 1),
        ("half a frame beside a request", &[OPENING, WAITING, &BEGUN[..9]].concat(), b"", 1),
    ] {
        let proxy = TestProxy::start(&config);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(first).await.unwrap();
        proxy.under_way(requests).await;
        let (mut reading, mut writing) = stream.split();
        let mut said = Vec::new();
        let dripping = async {
            while !drip.is_empty() && writing.write_all(drip).await.is_ok() {
                tokio::time::sleep(SHORT / 5).await;
            }
            std::future::pending::<()>().await;
        };
        let reading = tokio::time::timeout(LATE * 2, reading.read_to_end(&mut said));
        tokio::select! {
            // A client that goes on sending may be reset in the end.
            over = reading => drop(over.expect(what)),
            () = dripping => {}
        }
        let goaway = said.windows(16).any(|at| at == b"headers_timeout:");
        assert!(goaway, "{what}: {}", String::from_utf8_lossy(&said));
        assert_eq!(proxy.unrouted().failures[Reason::HeadersTimeout.index()], 1, "{what}");
        proxy.under_way(0).await;
    }
}

#[tokio::test]
async fn an_http2_client_may_pause_between_its_requests_and_in_their_bodies() {
    let server = Server::echo(Http1).await;
    let config = with(config(Http1, &[server.address]), |c| c.listeners.request_headers = span(SHORT));
    let proxy = TestProxy::start(&config);
    let mut client = proxy.connect2().await;
    let (frames, body) = super::bodies::stream(1);
    let mut sender = Client2(client.0.clone());
    let posting = tokio::spawn(async move {
        read(sender.send(Request::post("http://shop/").body(body).unwrap()).await.unwrap()).await
    });
    for _ in 0..3 {
        frames.send(Ok(http_body::Frame::data("part".into()))).await.unwrap();
        tokio::time::sleep(SHORT * 2).await;
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    drop(frames);
    assert_eq!(posting.await.unwrap().status, StatusCode::OK);
    assert_eq!(proxy.unrouted().failures[Reason::HeadersTimeout.index()], 0);
}

#[tokio::test]
async fn a_body_that_is_never_out_of_frames_is_not_idle() {
    const SIZE: usize = 3_000_000;
    let server = Server::tcp(|stream| async move {
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
            let mut body = request.into_body();
            let (mut got, mut paused) = (0, 0);
            while let Some(Ok(frame)) = body.frame().await {
                got += frame.data_ref().map_or(0, bytes::Bytes::len);
                if got - paused > 16_000 {
                    paused = got;
                    tokio::time::sleep(Duration::from_millis(9)).await;
                }
            }
            Ok::<_, std::convert::Infallible>(Response::new(full(got.to_string())))
        });
        let mut builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        builder.initial_stream_window_size(65_535);
        let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
    })
    .await;
    let config = with(config(Http2, &[server.address]), |c| cluster(c).timeouts.idle = span(SHORT));
    let proxy = TestProxy::start(&config);
    let started = Instant::now();
    let request = Request::post("http://shop/").body(full(vec![0u8; SIZE])).unwrap();
    let answer = read(proxy.connect2().await.send(request).await.unwrap()).await;
    assert_eq!((answer.status, text(&answer)), (StatusCode::OK, SIZE.to_string().as_str()));
    assert!(started.elapsed() > SHORT * 3, "{:?}: long enough to matter", started.elapsed());
}

#[tokio::test]
async fn a_request_is_sent_with_the_last_byte_that_it_announced() {
    let server = slow(Http1).await;
    let config = with(config(Http1, &[server.address]), |c| cluster(c).timeouts.response_headers = span(SHORT));
    let proxy = TestProxy::start(&config);
    let (frames, body) = super::bodies::stream(1);
    frames.send(Ok(http_body::Frame::data("up".into()))).await.unwrap();
    let request = Request::post("http://shop/20000").header("content-length", "2").body(body).unwrap();
    let sent = proxy.connect2().await.send(request).await.unwrap();
    assert_eq!(sent.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::ResponseTimeout));
    drop(frames);
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_fail_with_it() {
    let (address, _filled) = unanswered().await;
    let config = with(config(Http2, &[address]), |c| cluster(c).timeouts.connect = span(SHORT * 2));
    let proxy = TestProxy::start(&config);
    let client = proxy.connect2().await;
    let started = Instant::now();
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client2(client.0.clone());
            tokio::spawn(async move { client.get("/").await.status })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), Reason::ConnectTimeout.status());
    }
    let took = started.elapsed();
    // One after the other they would take eight times as long as one.
    assert!(took < SHORT * 2 * 7, "{took:?}");
}
