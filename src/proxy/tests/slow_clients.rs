//! Clients that take their time over a body: the endpoint is not slow for it.

use super::bodies::stream;
use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PAUSE: Duration = Duration::from_millis(300);
/// A busy machine may delay one request, and not all of them.
const TIMES: usize = 10;

/// Reads all of a request after a pause of so many milliseconds, and answers.
async fn reading(protocol: Protocol, after: u64) -> Server {
    Server::http(protocol, move |request| async move {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let body = request.into_body().collect().await.map(|all| all.to_bytes().len());
        Response::new(full(format!("{body:?}")))
    })
    .await
}

fn target(client: Protocol) -> &'static str {
    if client == Http2 { "http://a/" } else { "/" }
}

/// The last line of the log: how long the request took, and how much of it the endpoint.
async fn shares(proxy: &TestProxy, lines: usize) -> (Duration, Duration) {
    let log = proxy.logged(lines).await;
    let line = &log[lines - 1];
    (line.duration, line.upstream.expect("an answer"))
}

#[tokio::test]
async fn pauses_in_a_body_are_the_clients() {
    for (client, endpoint) in [(Http1, Http1), (Http2, Http2), (Http1, Http2), (Http2, Http1)] {
        let server = reading(endpoint, 0).await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let mut seen = Vec::new();
        for lines in 1..=TIMES {
            let (frames, body) = stream(1);
            let feed = async move {
                for _ in 0..3 {
                    tokio::time::sleep(PAUSE).await;
                    frames.send(Ok(Frame::data("piece".into()))).await.unwrap();
                }
            };
            let (_, answer) = tokio::join!(feed, proxy.send(client, Request::post(target(client)).body(body).unwrap()));
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "Ok(15)");
            let (all, its) = shares(&proxy, lines).await;
            seen.push((all, its));
            // A request that set out late had a part of its pauses behind it.
            if all >= 3 * PAUSE && its < PAUSE {
                break;
            }
        }
        let (all, its) = seen[seen.len() - 1];
        assert!(all >= 3 * PAUSE && its < PAUSE, "{client:?} {endpoint:?}: {seen:?}");
    }
}

#[tokio::test]
async fn the_wait_for_who_knows_nothing_of_expectations_is_nobodys() {
    // Nobody says 100 here, and the client sends the body when it is told to at last.
    let server = Server::tcp(|mut stream| async move {
        let mut got = Vec::new();
        while !got.ends_with(b"body") {
            let mut some = [0; 1024];
            let n = stream.read(&mut some).await.unwrap();
            got.extend_from_slice(&some[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut seen = Vec::new();
    for lines in 1..=TIMES {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut said = [0; 1024];
        let n = stream.read(&mut said).await.unwrap();
        assert_eq!(&said[..n], b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"body").await.unwrap();
        let n = stream.read(&mut said).await.unwrap();
        assert!(said[..n].ends_with(b"ok"));
        seen.push(shares(&proxy, lines).await);
        if seen[lines - 1].1 < PAUSE {
            break;
        }
    }
    let (all, its) = seen[seen.len() - 1];
    assert!(all >= Duration::from_secs(1) && its < PAUSE, "{seen:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_slow_to_take_a_body_is_slow() {
    const MUCH: usize = 32 << 20;
    for endpoint in [Http1, Http2] {
        let server = reading(endpoint, 600).await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let mut seen = Vec::new();
        for lines in 1..=TIMES {
            let request = Request::post("/").body(full(Bytes::from(vec![0; MUCH]))).unwrap();
            let answer = proxy.send(Http1, request).await;
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("Ok({MUCH})"));
            seen.push(shares(&proxy, lines).await);
            // What a busy machine's client was slow to send at first is the client's.
            if seen[lines - 1].1 >= Duration::from_millis(500) {
                break;
            }
        }
        let (_, its) = seen[seen.len() - 1];
        assert!(its >= Duration::from_millis(500), "{endpoint:?}: {seen:?}");
    }
}

#[tokio::test]
async fn an_answer_that_its_client_waits_for_with_an_open_body_is_as_late_as_it_is() {
    let server = Server::http(Http2, |request| async move {
        tokio::time::sleep(PAUSE).await;
        Response::new(request.into_body().map_err(Into::into).boxed())
    })
    .await;
    let proxy = TestProxy::start(&config(Http2, &[server.address]));
    let mut seen = Vec::new();
    for lines in 1..=TIMES {
        let (frames, body) = stream(1);
        frames.send(Ok(Frame::data("first".into()))).await.unwrap();
        let mut client = proxy.connect2().await;
        let answer = client.send(Request::post(target(Http2)).body(body).unwrap()).await.unwrap();
        tokio::time::sleep(PAUSE).await;
        frames.send(Ok(Frame::data(" and last".into()))).await.unwrap();
        drop(frames);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "first and last");
        let (all, its) = shares(&proxy, lines).await;
        assert!(all >= 2 * PAUSE, "{all:?}");
        seen.push(its);
        // A first piece that came late was waited for.
        if its >= PAUSE - Duration::from_millis(20) {
            return;
        }
    }
    panic!("{seen:?}");
}

#[tokio::test]
async fn what_a_link_learns_of_a_client_that_never_sends_its_body_is_nothing_slow() {
    let server = reading(Http1, 0).await;
    let config = config(Http1, &[server.address]);
    let key = crate::links::LinkKey::new(
        &crate::links::NodeKey::new("w"),
        &crate::links::NodeKey::new(&server.address.to_string()),
    );
    let mut seen = Vec::new();
    for _ in 0..TIMES {
        let proxy = TestProxy::start(&config);
        let (frames, body) = stream(1);
        frames.send(Ok(Frame::data("piece".into()))).await.unwrap();
        let request = proxy.send(Http2, Request::post(target(Http2)).body(body).unwrap());
        assert!(tokio::time::timeout(2 * PAUSE, request).await.is_err(), "no answer without its body");
        proxy.logged(1).await;
        let learnt = proxy.links.link(&key, crate::links::Time(0)).estimate.last(crate::links::Time(0));
        seen.push(learnt.map_or(0.0, |e| e.latency_s));
        if seen[seen.len() - 1] < PAUSE.as_secs_f32() {
            return;
        }
    }
    panic!("{seen:?}");
}
