//! Bodies: lengths, trailers, streaming, what breaks off.

use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::observe::Reason;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

pub type Frames = mpsc::Sender<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>;

/// A body that a test fills frame by frame.
pub fn stream(room: usize) -> (Frames, Body) {
    let (sender, receiver) = mpsc::channel(room);
    (sender, Filled(receiver).boxed())
}

struct Filled(mpsc::Receiver<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>);

impl http_body::Body for Filled {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_head() {
    for endpoint in [Http1, Http2] {
        let server = Server::http(endpoint, |request| async move {
            let status: u16 = request.uri().path().trim_start_matches('/').parse().unwrap();
            let mut response = Response::new(if status == 200 { full("hello") } else { empty() });
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("etag", "\"1\"".parse().unwrap());
            response
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let mut client = proxy.connect1().await;
        for (method, path, length) in
            [("HEAD", "/200", Some("5")), ("GET", "/204", None), ("GET", "/304", None), ("GET", "/200", Some("5"))]
        {
            let request = Request::builder().method(method).uri(path).body(empty()).unwrap();
            let answer = read(client.send(request).await.unwrap()).await;
            let case = format!("{endpoint:?} {method} {path} {answer:?}");
            assert_eq!(answer.status.as_str(), &path[1..], "{case}");
            assert_eq!(answer.headers.get("content-length").map(|v| v.to_str().unwrap()), length, "{case}");
            assert_eq!(
                (answer.body.is_empty(), answer.headers["etag"].to_str().unwrap()),
                (method == "HEAD" || path != "/200", "\"1\""),
                "{case}"
            );
        }
        assert!(proxy.logged(4).await.iter().all(|l| l.reason.is_none()));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for (client, endpoint) in [(Http1, Http1), (Http2, Http2), (Http2, Http1)] {
        let server = Server::http(endpoint, |request| async move {
            let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
            let (frames, body) = stream(4);
            let mut back = HeaderMap::new();
            back.insert("x-sum", trailers.get("x-sum").cloned().unwrap_or("none".parse().unwrap()));
            frames.send(Ok(Frame::data("part".into()))).await.unwrap();
            frames.send(Ok(Frame::trailers(back))).await.unwrap();
            let mut response = Response::new(body);
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            response
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let (frames, body) = stream(4);
        let request =
            Request::post("http://shop/").header("host", "shop").header("te", "trailers").header("trailer", "x-sum");
        let request = request.body(body).unwrap();
        let mut sum = HeaderMap::new();
        sum.insert("x-sum", "42".parse().unwrap());
        frames.send(Ok(Frame::data("up".into()))).await.unwrap();
        frames.send(Ok(Frame::trailers(sum))).await.unwrap();
        drop(frames);
        let response = proxy.send(client, request).await;
        let answer = read(response).await;
        assert_eq!(answer.trailers.unwrap()["x-sum"], "42", "{client:?} to {endpoint:?}");
        assert_eq!((&answer.body[..], proxy.logged(1).await[0].bytes), (&b"part"[..], (2, 4)));
    }
}

#[tokio::test]
async fn a_large_body_streams_both_ways_and_waits_for_slow_readers() {
    const SIZE: usize = 10_000_000;
    for (client, endpoint) in PAIRS {
        // A proxy which collected would never see the end.
        let server = Server::mirror(endpoint).await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let (frames, body) = stream(1);
        let request = Request::post("http://shop/").header("host", "shop").body(body).unwrap();
        let chunk = Bytes::from(vec![7u8; 50_000]);
        let writer = tokio::spawn(async move {
            for _ in 0..SIZE / 50_000 {
                frames.send(Ok(Frame::data(chunk.clone()))).await.unwrap();
            }
        });
        let response = proxy.send(client, request).await;
        // Nobody reads for a while: the writer must be held up by windows, not served from memory. Over HTTP/1.1 the
        // kernel's own buffers, which grow to tens of megabytes on loopback, may take it all.
        if (client, endpoint) == (Http2, Http2) {
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(!writer.is_finished(), "{client:?} to {endpoint:?}: the proxy took all of it");
        }
        let answer = read(response).await;
        assert_eq!(answer.body.len(), SIZE, "{client:?} to {endpoint:?}");
        assert_eq!(proxy.logged(1).await[0].bytes, (SIZE as u64, SIZE as u64));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    let server = Server::tcp(|mut stream| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let response = proxy.connect1().await.send(Request::get("/").body(empty()).unwrap()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let request = Request::get("http://shop/").body(empty()).unwrap();
    let response = proxy.connect2().await.send(request).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let log = proxy.logged(2).await;
    assert!(log.iter().all(|l| (l.status, l.reason) == (Some(200), Some(Reason::ResponseIncomplete))), "{log:?}");
    let alarms = proxy.alarms.0.lock().unwrap().len();
    let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
    assert_eq!((alarms, node.failures_in_a_row()), (0, 2), "two of the three that ring the alarm");
}

#[tokio::test]
async fn an_endpoint_that_closes_or_talks_nonsense_is_tried_again_elsewhere() {
    for (answer, reason) in [
        (&b""[..], Reason::UpstreamReset),
        (b"HTTP/1.1 2", Reason::UpstreamReset),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Reason::UpstreamProtocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Reason::UpstreamProtocol),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Reason::UpstreamProtocol),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Reason::UpstreamProtocol),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", Reason::UpstreamProtocol),
    ] {
        let server = Server::tcp(move |mut stream| async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer).await;
        })
        .await;
        let proxy = TestProxy::start(&config(Http1, &[server.address, server.address]));
        let got = proxy.connect1().await.get("/").await;
        assert_eq!(got.status, StatusCode::BAD_GATEWAY, "{answer:?}");
        assert_eq!(proxy.logged(1).await[0].reason, Some(reason), "{answer:?}");
        assert_eq!(server.connections(), 2, "{answer:?}");
        assert!(got.headers["proxy-status"].to_str().unwrap().contains(reason.code()));
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_its_request_is_dropped() {
    for client in [Http1, Http2] {
        let server = Server::http(Http1, |_| async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Response::new(empty())
        })
        .await;
        let proxy = TestProxy::start(&config(Http1, &[server.address]));
        match client {
            Http1 => {
                let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                proxy.under_way(1).await;
            }
            _ => {
                let mut sender = proxy.connect2().await;
                let request = Request::get("http://shop/").body(empty()).unwrap();
                tokio::select! {
                    _ = sender.send(request) => panic!("it is not answered"),
                    () = proxy.under_way(1) => {}
                }
            }
        }
        let log = proxy.logged(1).await;
        assert_eq!((log[0].status, log[0].reason), (None, Some(Reason::ClientGone)), "{client:?}");
        proxy.under_way(0).await;
        assert_eq!(proxy.traffic().statuses[0], 1);
        // An HTTP/1.1 endpoint is told by closing.
        eventually("the endpoint is told", async || proxy.gauges.snapshot().upstream_connections == 0).await;
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_does_not_blame_the_endpoint() {
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(stream);
    let log = proxy.logged(1).await;
    assert!(matches!(log[0].reason, Some(Reason::RequestIncomplete | Reason::ClientGone)), "{log:?}");
    let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
    assert_eq!(node.failures_in_a_row(), 0);
}

#[tokio::test]
async fn an_answer_is_complete_with_its_last_byte_even_where_the_stream_ends_later() {
    for trailers in [false, true] {
        let server = Server::http(Http2, move |_| async move {
            let (frames, body) = stream(4);
            tokio::spawn(async move {
                frames.send(Ok(Frame::data("part".into()))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                if trailers {
                    let _ = frames.send(Ok(Frame::trailers(HeaderMap::new()))).await;
                }
            });
            let mut response = Response::new(body);
            response.headers_mut().insert("content-length", "4".parse().unwrap());
            response
        })
        .await;
        let proxy = TestProxy::start(&config(Http2, &[server.address]));
        for client in [Http1, Http2] {
            let request = Request::get("http://shop/").header("host", "shop").body(empty()).unwrap();
            let response = proxy.send(client, request).await;
            assert_eq!(&read(response).await.body[..], b"part");
        }
        let log = proxy.logged(2).await;
        assert!(log.iter().all(|l| l.reason.is_none() && l.bytes.1 == 4), "{log:?}");
    }
}
