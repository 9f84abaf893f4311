//! HTTP/2: many streams on one connection, what they do to each other, and what ends them.

use super::bodies::stream;
use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::observe::Reason;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn post(body: Body) -> Request<Body> {
    Request::post("http://shop/").body(body).unwrap()
}

/// A body of so many bytes in frames of 10,000, whose bytes tell their place.
fn numbered(bytes: usize) -> Vec<Bytes> {
    let all: Bytes = (0..bytes).map(|i| (i / 7) as u8).collect::<Vec<_>>().into();
    (0..bytes).step_by(10_000).map(|at| all.slice(at..(at + 10_000).min(bytes))).collect()
}

fn sending(bytes: usize) -> Body {
    let (frames, body) = stream(1);
    tokio::spawn(async move {
        for part in numbered(bytes) {
            if frames.send(Ok(Frame::data(part))).await.is_err() {
                return;
            }
        }
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), bytes.into())]);
        let _ = frames.send(Ok(Frame::trailers(trailers))).await;
    });
    body
}

#[tokio::test]
async fn a_thousand_streams_of_one_connection_get_an_answer_each_and_leave_nothing_behind() {
    for endpoint in [Http1, Http2] {
        let server = Server::http(endpoint, |request| async move {
            let path = request.uri().path().to_owned();
            tokio::time::sleep(Duration::from_millis(path.len() as u64)).await;
            Response::new(full(path))
        })
        .await;
        let mut config = config(endpoint, &[server.address]);
        config.listeners.max_streams = 1_000;
        let proxy = TestProxy::start(&config);
        let client = proxy.connect2().await;
        for round in 0..3 {
            let asks = (0..1_000).map(|i| {
                let mut client = Client2(client.0.clone());
                async move {
                    let path = format!("/{round}/{i}");
                    let answer = client.get(&path).await;
                    assert_eq!((answer.status, text(&answer)), (StatusCode::OK, path.as_str()));
                }
            });
            asks.collect::<tokio::task::JoinSet<()>>().join_all().await;
        }
        let lines = proxy.logged(3_000).await;
        assert!(lines.iter().all(|l| l.status == Some(200) && l.reason.is_none()));
        proxy.under_way(0).await;
    }
}

#[tokio::test]
async fn long_bodies_of_many_streams_pass_both_ways_at_once_and_whole() {
    for endpoint in [Http1, Http2] {
        let server = Server::http(endpoint, |request| async move {
            // Each frame goes back as soon as it is there.
            let (frames, body) = stream(1);
            let mut incoming = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = incoming.frame().await {
                    if frames.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
            });
            let mut response = Response::new(body);
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            response
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let client = proxy.connect2().await;
        let asks = (1..=12usize).map(|i| {
            let mut client = Client2(client.0.clone());
            async move {
                let bytes = i * 100_001;
                let mut request = post(sending(bytes));
                request.headers_mut().insert("te", "trailers".parse().unwrap());
                request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
                let answer = read(client.send(request).await.unwrap()).await;
                assert_eq!(answer.body.len(), bytes);
                assert!(answer.body == numbered(bytes).concat(), "{bytes} bytes came changed");
                assert_eq!(answer.trailers.unwrap()["x-sum"], bytes.to_string());
            }
        });
        asks.collect::<tokio::task::JoinSet<()>>().join_all().await;
        let total: u64 = (1..=12).map(|i| i * 100_001).sum();
        let lines = proxy.logged(12).await;
        let bytes = lines.iter().fold((0, 0), |sum, l| (sum.0 + l.bytes.0, sum.1 + l.bytes.1));
        assert_eq!(bytes, (total, total));
        assert!(lines.iter().all(|l| l.reason.is_none()), "{lines:?}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_its_sender_and_no_other_stream() {
    for endpoint in [Http1, Http2] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let server = Server::http(endpoint, move |request| {
            let counter = counter.clone();
            async move {
                if request.uri().path() == "/small" {
                    return Response::new(full("small"));
                }
                let (frames, body) = stream(1);
                tokio::spawn(async move {
                    while frames.send(Ok(Frame::data(Bytes::from_static(&[0; 10_000])))).await.is_ok() {
                        counter.fetch_add(10_000, SeqCst);
                    }
                });
                Response::new(body)
            }
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        // A stream's window of 64 KB, which is what the client takes without reading, and room for others beside it.
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut client = Client2(sender);
        let unread = client.send(Request::get("http://shop/endless").body(empty()).unwrap()).await.unwrap();
        let (mut before, mut small) = (usize::MAX, 0);
        while before != sent.load(SeqCst) {
            (before, small) = (sent.load(SeqCst), small + 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(text(&client.get("/small").await), "small");
        }
        // Windows, sockets' buffers and what is between them; an endless body would be far beyond it by now.
        assert!(before < 12_000_000, "{endpoint:?}: {before} bytes were sent that nobody reads");
        drop(unread);
        let lines = proxy.logged(small + 1).await;
        assert!(lines.iter().any(|l| l.path == "/endless" && l.reason == Some(Reason::ClientGone)), "{lines:?}");
        assert_eq!(text(&client.get("/small").await), "small");
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_holds_up_its_client_and_no_other_stream() {
    for endpoint in [Http1, Http2] {
        let server = Server::http(endpoint, |request| async move {
            if request.method() == "POST" {
                // The body is held, and never read.
                std::future::pending::<()>().await;
                drop(request);
            }
            Response::new(full("small"))
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let mut client = proxy.connect2().await;
        let (frames, body) = stream(1);
        let mut sender = Client2(client.0.clone());
        let waiting = tokio::spawn(async move { sender.send(post(body)).await.map(drop) });
        let mut sent = 0;
        let frame = || Frame::data(Bytes::from_static(&[0; 10_000]));
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(400), frames.send(Ok(frame()))).await {
            sent += 10_000;
            assert!(sent < 20_000_000, "{endpoint:?}: it goes on for ever");
        }
        assert_eq!(text(&client.get("/small").await), "small", "{endpoint:?}");
        waiting.abort();
        drop(frames);
        let lines = proxy.logged(2).await;
        let upload = lines.iter().find(|l| l.path == "/").unwrap();
        assert!(matches!(upload.reason, Some(Reason::ClientGone | Reason::RequestIncomplete)), "{lines:?}");
    }
}

#[tokio::test]
async fn streams_that_their_client_resets_are_counted_and_end_at_the_endpoint_too() {
    for endpoint in [Http1, Http2] {
        let (held, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        struct Ends(Arc<AtomicUsize>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let counters = (held.clone(), ended.clone());
        let server = Server::http(endpoint, move |_| {
            let (held, ended) = counters.clone();
            async move {
                held.fetch_add(1, SeqCst);
                let _ends = Ends(ended);
                std::future::pending::<Response<Body>>().await
            }
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let client = proxy.connect2().await;
        let asks: Vec<_> = (0..40)
            .map(|_| {
                let mut client = Client2(client.0.clone());
                let get = Request::get("http://shop/").body(empty()).unwrap();
                tokio::spawn(async move { client.send(get).await.map(drop) })
            })
            .collect();
        eventually("forty are held", async || held.load(SeqCst) == 40).await;
        assert_eq!(proxy.gauges.snapshot().requests, 40);
        asks.iter().for_each(tokio::task::JoinHandle::abort);
        let lines = proxy.logged(40).await;
        assert!(lines.iter().all(|l| l.status.is_none() && l.reason == Some(Reason::ClientGone)), "{lines:?}");
        eventually("the endpoint is told of each", async || ended.load(SeqCst) == 40).await;
        proxy.under_way(0).await;
        let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
        assert_eq!((node.failures_in_a_row(), node.in_flight()), (0, 0));
        assert_eq!(proxy.traffic().failures.iter().sum::<u64>(), 40);
    }
}

#[tokio::test]
async fn a_stream_finishes_on_a_connection_that_its_endpoint_leaves_and_the_next_one_goes_elsewhere() {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let begun = AtomicBool::new(false);
    let server = Server::tcp(move |stream| {
        let mut leave = receiver.clone();
        // It leaves its first connection only.
        let mut told = begun.swap(true, SeqCst);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            loop {
                let accepted = tokio::select! {
                    accepted = connection.accept() => accepted,
                    _ = leave.wait_for(|l| *l), if !told => {
                        told = true;
                        connection.graceful_shutdown();
                        continue;
                    }
                };
                let Some(Ok((request, mut respond))) = accepted else { return };
                let mut leave = leave.clone();
                tokio::spawn(async move {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"first "), false).unwrap();
                    if request.uri().path() == "/long" {
                        leave.wait_for(|l| *l).await.unwrap();
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    body.send_data(Bytes::from_static(b"last"), true).unwrap();
                });
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&config(Http2, &[server.address]));
    let mut client = proxy.connect2().await;
    let long = client.send(Request::get("http://shop/long").body(empty()).unwrap()).await.unwrap();
    sender.send(true).unwrap();
    eventually("another connection", async || {
        assert_eq!(text(&client.get("/short").await), "first last");
        server.connections() == 2
    })
    .await;
    assert_eq!(text(&read(long).await), "first last");
    let lines = proxy.logged(2).await;
    assert!(lines.iter().all(|l| l.reason.is_none()), "{lines:?}");
}

/// An HTTP/2 endpoint that reads so many DATA frames of its first request before it refuses it, and answers the rest.
async fn refusing_after(frames: usize) -> Server {
    let first = Arc::new(AtomicUsize::new(0));
    Server::tcp(move |mut stream| {
        let first = first.fetch_add(1, SeqCst) == 0;
        async move {
            if !first {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut got = Vec::new();
                        while let Some(Ok(data)) = request.body_mut().data().await {
                            got.extend_from_slice(&data);
                        }
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data(got.into(), true).unwrap();
                    });
                }
                return;
            }
            stream.write_all(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            let (mut head, mut seen) = ([0; 9], 0);
            while stream.read_exact(&mut head).await.is_ok() {
                let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
                stream.read_exact(&mut payload).await.unwrap();
                seen += usize::from(head[3] == 0);
                if seen >= frames && (head[3] == 0 || head[3] == 1) {
                    // GOAWAY: no stream of this connection was looked at.
                    let goaway = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
                    stream.write_all(goaway).await.unwrap();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_declined_request_is_sent_again_whole_as_long_as_one_frame_of_it_was_taken() {
    for (frames, parts, status) in [(0, 0, 200), (0, 3, 200), (1, 1, 200), (1, 3, 200), (2, 3, 502)] {
        let server = refusing_after(frames).await;
        let proxy = TestProxy::start(&config(Http2, &[server.address]));
        let mut client = proxy.connect2().await;
        let (sender, body) = stream(1);
        let asking = tokio::spawn(async move { read(client.send(post(body)).await.unwrap()).await });
        for part in 0..parts {
            if part >= frames.max(1) {
                // What the endpoint is to refuse before it comes: the request is sent again, or lost.
                eventually("the refusal", async || server.connections() == 2 || asking.is_finished()).await;
            }
            let _ = sender.send(Ok(Frame::data(Bytes::from(format!("part {part};"))))).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(sender);
        let answer = asking.await.unwrap();
        let case = format!("refused after {frames} of {parts}: {answer:?}");
        assert_eq!(answer.status, status, "{case}");
        if status == 200 {
            let whole: String = (0..parts).map(|part| format!("part {part};")).collect();
            assert_eq!(text(&answer), whole, "{case}");
        }
        assert_eq!(proxy.logged(1).await.len(), 1, "{case}");
    }
}

#[tokio::test]
async fn an_answer_without_a_date_gets_one() {
    for endpoint in [Http1, Http2] {
        let server = Server::tcp(move |mut stream| async move {
            if endpoint == Http1 {
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                return;
            }
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let answer = proxy.connect2().await.get("/").await;
        let date = answer.headers["date"].to_str().unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{answer:?}");
    }
}

#[tokio::test]
async fn early_hints_reach_http2_clients_without_what_is_for_one_hop_and_in_bounded_number() {
    for endpoint in [Http1, Http2] {
        for together in [false, true] {
            let server = Server::tcp(move |mut stream| async move {
                let hint = |i: usize| format!("HTTP/1.1 103 Early Hints\r\nlink: </{i}>\r\nkeep-alive: x\r\n\r\n");
                if endpoint == Http1 {
                    let mut head = [0; 2048];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                    let hints: String = (0..10).map(hint).collect();
                    let _ = stream.write_all(hints.as_bytes()).await;
                    if !together {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    return;
                }
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        for i in 0..10 {
                            let hint = Response::builder().status(103).header("link", format!("</{i}>"));
                            respond.send_informational(hint.body(()).unwrap()).unwrap();
                        }
                        if !together {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            })
            .await;
            let proxy = TestProxy::start(&config(endpoint, &[server.address]));
            let stream = TcpStream::connect(proxy.address).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get("http://shop/").body(()).unwrap();
            let (mut response, _) = sender.send_request(request, true).unwrap();
            let mut links = Vec::new();
            while let Some(hint) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
                let hint = hint.unwrap();
                assert_eq!((hint.status().as_u16(), hint.headers().len()), (103, 1), "{hint:?}");
                links.push(hint.headers()["link"].to_str().unwrap().to_owned());
            }
            let expected: Vec<_> = (0..8).map(|i| format!("</{i}>")).collect();
            assert_eq!(links, expected, "{endpoint:?} {together}");
            assert_eq!(response.await.unwrap().status(), 200);
            assert_eq!(proxy.connect1().await.get("/").await.status, 200, "who speaks HTTP/1.1 gets the answer alone");
            assert!(proxy.logged(2).await.iter().all(|l| l.status == Some(200) && l.reason.is_none()));
        }
    }
}

#[tokio::test]
async fn what_is_no_request_is_counted_as_it_is_over_http1() {
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    // A block without `:path`, which resets its stream; DATA on no stream, which ends the connection.
    let pathless = b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\x82\x86";
    let stray = b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x";
    for (bytes, count) in [(&pathless[..], 1), (stray, 2)] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&[opening, bytes].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let counted = || proxy.unrouted().failures[Reason::BadRequest.index()];
        eventually("it to be counted", async || counted() >= count).await;
        assert_eq!(counted(), count, "{bytes:?}");
    }
    // More headers than are taken, of which each is short.
    let mut request = Request::get("http://shop/").body(empty()).unwrap();
    (0..3_000).for_each(|i| {
        drop(request.headers_mut().insert(http::HeaderName::try_from(format!("x-{i}")).unwrap(), "y".parse().unwrap()))
    });
    let answer = proxy.connect2().await.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    eventually("it to be counted", async || proxy.unrouted().failures[Reason::BadRequest.index()] == 3).await;
}
