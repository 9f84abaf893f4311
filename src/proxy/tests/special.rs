//! gRPC, 100-continue, upgrades, load reports, and what is refused.

use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::config::Timespan;
use crate::links::{NodeKey, Time};
use crate::observe::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn grpc(status_in_trailers: Option<&'static str>, status_in_head: Option<&'static str>) -> Server {
    Server::http(Http2, move |_| async move {
        let (frames, body) = super::bodies::stream(4);
        let mut response = Response::new(if status_in_head.is_some() { empty() } else { body });
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        if let Some(status) = status_in_head {
            response.headers_mut().insert("grpc-status", status.parse().unwrap());
        }
        if let Some(status) = status_in_trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("endpoint-load-metrics-bin", "CQAAAAAAAOA/".parse().unwrap());
            let _ = frames.send(Ok(Frame::data("msg".into()))).await;
            let _ = frames.send(Ok(Frame::trailers(trailers))).await;
        }
        response
    })
    .await
}

fn grpc_request() -> Request<Body> {
    let request = Request::post("http://shop/svc/Method")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    request.body(full("\0\0\0\0\0")).unwrap()
}

#[tokio::test]
async fn grpc_statuses_are_seen_wherever_they_stand() {
    for (trailers, head, failures) in
        [(Some("0"), None, 0), (Some("5"), None, 0), (Some("14"), None, 1), (None, Some("14"), 1), (None, Some("3"), 0)]
    {
        let server = grpc(trailers, head).await;
        let proxy = TestProxy::start(&config(Http2, &[server.address]));
        let answer = read(proxy.connect2().await.send(grpc_request()).await.unwrap()).await;
        let status = answer.trailers.as_ref().unwrap_or(&answer.headers)["grpc-status"].to_str().unwrap().to_owned();
        assert_eq!(Some(status.as_str()), trailers.or(head));
        assert_eq!(proxy.logged(1).await[0].grpc_status, status.parse().ok());
        let node = proxy.links.node(&NodeKey::new(&server.address.to_string()), Time(0));
        assert_eq!(node.failures_in_a_row(), failures, "{trailers:?} {head:?}");
        let report = node.last_report(Time(u64::MAX)).and_then(|(r, _)| r.cpu_utilization);
        assert_eq!(report, trailers.map(|_| 0.5), "the load report in the trailers");
        let failed = u64::from(["14"].contains(&status.as_str()));
        let errors = proxy
            .links
            .observe(Time(1_000_000_000))
            .links
            .iter()
            .filter_map(|l| l.stats.error_rate)
            .fold(0.0f32, f32::max);
        assert_eq!(errors > 0.0, failed > 0);
    }
}

#[tokio::test]
async fn grpc_clients_get_our_failures_as_grpc() {
    let proxy = TestProxy::start(&config(Http2, &[refused()]));
    let answer = read(proxy.connect2().await.send(grpc_request()).await.unwrap()).await;
    assert_eq!((answer.status, answer.headers["grpc-status"].to_str().unwrap()), (StatusCode::OK, "14"));
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(answer.headers["proxy-status"].to_str().unwrap().contains("connect_refused"));
}

#[tokio::test]
async fn load_reports_in_headers_reach_the_node_and_the_client() {
    let server = Server::http(Http1, |_| async move {
        let mut response = Response::new(full("x"));
        response.headers_mut().insert("endpoint-load-metrics", "TEXT cpu_utilization=0.25".parse().unwrap());
        response
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let answer = proxy.connect1().await.get("/").await;
    assert_eq!(answer.headers["endpoint-load-metrics"], "TEXT cpu_utilization=0.25");
    let node = proxy.links.node(&NodeKey::new(&server.address.to_string()), Time(0));
    assert_eq!(node.last_report(Time(u64::MAX)).unwrap().0.cpu_utilization, Some(0.25));
}

/// Sends a head that expects 100-continue, and tells what came first and when.
async fn expecting(proxy: &TestProxy) -> (TcpStream, String, Duration) {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let started = Instant::now();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n").await.unwrap();
    let mut first = vec![0; 4096];
    let n = stream.read(&mut first).await.unwrap();
    first.truncate(n);
    (stream, String::from_utf8(first).unwrap(), started.elapsed())
}

#[tokio::test]
async fn the_client_is_told_to_continue_when_the_endpoint_says_so() {
    // hyper's server says 100 when the body is first asked for.
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    // By patience it would always take a second; a busy machine may make it take one now and then.
    let mut goes = Vec::new();
    let mut stream = loop {
        let (stream, first, took) = expecting(&proxy).await;
        assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
        goes.push(took);
        if took < Duration::from_millis(800) {
            break stream;
        }
        assert!(goes.len() < 5, "{goes:?}: not by patience");
    };
    stream.write_all(b"body").await.unwrap();
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("body") && answer.contains("expect: 100-continue"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_final_answer_comes_instead_of_100() {
    let server = Server::http(Http1, |_| async move {
        let mut response = Response::new(full("no"));
        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
        response
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let (mut stream, first, _) = expecting(&proxy).await;
    assert!(first.starts_with("HTTP/1.1 417") && first.contains("connection: close"), "{first}");
    let mut rest = Vec::new();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(proxy.logged(1).await[0].status, Some(417));
}

#[tokio::test]
async fn an_endpoint_that_knows_no_expectations_gets_the_body_after_a_while() {
    let server = Server::tcp(|mut stream| async move {
        let mut got = Vec::new();
        let mut buffer = [0; 1024];
        while !got.ends_with(b"body") {
            let n = stream.read(&mut buffer).await.unwrap();
            got.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let (mut stream, first, took) = expecting(&proxy).await;
    assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(took >= Duration::from_millis(900), "{took:?}");
    stream.write_all(b"body").await.unwrap();
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).await.unwrap();
    assert!(answer[..n].ends_with(b"ok"));
}

/// A server that switches protocols and then echoes in capitals.
async fn shouter() -> Server {
    Server::http(Http1, |mut request| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut buffer = [0; 1024];
            while let Ok(n) = io.read(&mut buffer).await {
                if n == 0 {
                    break;
                }
                io.write_all(buffer[..n].to_ascii_uppercase().as_slice()).await.unwrap();
            }
            let _ = io.write_all(b"bye").await;
            let _ = io.shutdown().await;
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", request.headers()["upgrade"].clone());
        response
    })
    .await
}

fn websocket() -> Request<Body> {
    Request::get("/chat").header("connection", "Upgrade").header("upgrade", "websocket").body(empty()).unwrap()
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_until_both_sides_close() {
    let server = shouter().await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut client = proxy.connect1().await;
    let response = client.send(websocket()).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"websocket".parse().unwrap())
    );
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut buffer = [0; 5];
    for _ in 0..3 {
        io.write_all(b"hello").await.unwrap();
        io.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"HELLO");
    }
    let gauges = proxy.gauges.snapshot();
    assert_eq!((gauges.upgraded_connections, gauges.requests), (1, 1), "under way until its end");
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye", "a half-closed side still reads");
    let log = proxy.logged(1).await;
    assert_eq!((log[0].status, log[0].reason, log[0].bytes), (Some(101), None, (15, 18)));
    eventually("it to be counted no more", async || proxy.gauges.snapshot().upgraded_connections == 0).await;
}

#[tokio::test]
async fn an_upgraded_connection_on_which_nothing_moves_is_closed() {
    let server = shouter().await;
    let mut config = config(Http1, &[server.address]);
    cluster(&mut config).timeouts.idle = Timespan(Duration::from_millis(100));
    let proxy = TestProxy::start(&config);
    let response = proxy.connect1().await.send(websocket()).await.unwrap();
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(15), io.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::IdleTimeout));
}

#[tokio::test]
async fn an_upgrade_that_the_endpoint_declines_is_an_answer() {
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut client = proxy.connect1().await;
    let answer = read(client.send(websocket()).await.unwrap()).await;
    assert!(answer.status == StatusCode::OK && text(&answer).contains("upgrade: websocket"), "{answer:?}");
    assert_eq!(client.get("/").await.status, StatusCode::OK, "the connection goes on");
}

#[tokio::test]
async fn what_cannot_be_passed_on_is_refused_and_reaches_nobody() {
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    for (request, status) in [
        ("CONNECT shop:443 HTTP/1.1\r\nhost: shop:443\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET / HTTP/3.7\r\nhost: a\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET http://a@b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET http://shop/ HTTP/1.1\r\n\r\n", 400),
    ] {
        let answer = proxy.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{request:?}: {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{request:?}: one answer, then the end: {answer:?}");
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(proxy.unrouted().failures[Reason::BadRequest.index()], 18);
    // Both lengths: the coding counts, the length does not go on, and the connection closes (RFC 9112, section 6.1).
    let both = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = proxy.raw(both).await;
    assert!(
        answer.contains("connection: close") && !answer.contains("smuggled") && !answer.contains("content-length: 30"),
        "{answer}"
    );
    // A chunk that is none breaks the request off.
    let bad =
        proxy.raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n").await;
    assert!(!bad.starts_with("HTTP/1.1 200"), "{bad}");
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused() {
    let server = Server::echo(Http1).await;
    let mut config = config(Http1, &[server.address]);
    config.listeners.max_header_bytes = crate::config::ByteSize(16 * 1024);
    config.listeners.max_headers = 20;
    let proxy = TestProxy::start(&config);
    let head = |n: usize, size: usize| {
        let lines: String = (0..n).map(|i| format!("x-{i}: {}\r\n", "y".repeat(size))).collect();
        format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n")
    };
    assert!(proxy.raw(&head(19, 10)).await.starts_with("HTTP/1.1 200"));
    assert!(proxy.raw(&head(20, 10)).await.starts_with("HTTP/1.1 431"));
    assert!(proxy.raw(&head(10, 1500)).await.starts_with("HTTP/1.1 200"));
    assert!(proxy.raw(&head(12, 1500)).await.starts_with("HTTP/1.1 431"));
    assert!(proxy.raw(&head(1, 200_000)).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn http_1_0_clients_are_served() {
    let server = Server::http(Http1, |_| async move {
        let (frames, body) = super::bodies::stream(2);
        let _ = frames.send(Ok(Frame::data("abc".into()))).await;
        Response::new(body)
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let answer = proxy.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\nabc") && !answer.contains("chunked"),
        "{answer}"
    );
}

#[tokio::test]
async fn nobody_to_serve_it_has_a_reason_each() {
    let mut elsewhere = config(Http1, &[]);
    elsewhere.workloads.get_mut("w").unwrap().source = Some("10.0.0.0/8".parse().unwrap());
    let unknown = TestProxy::start(&elsewhere);
    let mut routeless = config(Http1, &[]);
    routeless.routes[0].matches.path = Some("/only".into());
    let routeless = TestProxy::start(&routeless);
    for (proxy, path, reason) in [
        (&unknown, "/", Reason::UnknownSource),
        (&routeless, "/", Reason::NoRoute),
        (&routeless, "/only", Reason::NoEndpoints),
    ] {
        let answer = proxy.connect1().await.get(path).await;
        assert_eq!(answer.status, reason.status());
        assert!(
            text(&answer).starts_with(&format!("{}: ", reason.code())) && answer.headers.contains_key("proxy-status"),
            "{answer:?}"
        );
    }
    assert_eq!(routeless.traffic().failures[Reason::NoEndpoints.index()], 1);
    assert_eq!(unknown.unrouted().failures[Reason::UnknownSource.index()], 1);
}

#[tokio::test]
async fn a_refused_head_request_has_no_body() {
    let proxy = TestProxy::start(&config(Http1, &[refused()]));
    for client in [Http1, Http2] {
        let request = Request::head("http://shop/").header("host", "shop").body(empty()).unwrap();
        let answer = read(proxy.send(client, request).await).await;
        let length: usize = answer.headers["content-length"].to_str().unwrap().parse().unwrap();
        assert!(answer.status.is_server_error() && answer.body.is_empty() && length > 20, "{client:?} {answer:?}");
    }
}
