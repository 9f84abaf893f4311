//! What HTTP/1.1 endpoints do: answers in pieces, too much of them, connections that close at the wrong time.

use super::support::*;
use crate::config::Protocol::Http1;
use crate::links::{NodeKey, Time};
use crate::observe::Reason;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads one request: its head, and as much of a body as it announces.
pub async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end + 4].to_vec()).unwrap();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if read.len() >= end + 4 + length {
                read.drain(..end + 4 + length);
                return Some(head);
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => read.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

/// The number that a request's path is.
fn number(head: &str) -> usize {
    head.split(['/', ' ']).nth(2).unwrap().parse().unwrap()
}

/// Answers each request on each connection with these bytes.
pub async fn saying(answer: impl Into<Bytes>) -> Server {
    let answer = answer.into();
    Server::tcp(move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut read = Vec::new();
            while request(&mut stream, &mut read).await.is_some() {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

pub async fn proxied(server: &Server) -> (TestProxy, Client1) {
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let client = proxy.connect1().await;
    (proxy, client)
}

#[tokio::test]
async fn an_answer_reads_the_same_wherever_it_is_cut() {
    let shapes: [(&str, &str, &str, bool); 7] = [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello", true),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "hello",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n",
            "hello",
            true,
        ),
        ("GET", "HTTP/1.1 200 OK\r\nx: y\r\n\r\nhello", "hello", false),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", "", true),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "hello",
            true,
        ),
    ];
    for (method, answer, body, keeps) in shapes {
        let server = Server::tcp(move |mut stream| async move {
            let mut read = Vec::new();
            while let Some(head) = request(&mut stream, &mut read).await {
                let (first, second) = answer.as_bytes().split_at(number(&head));
                stream.write_all(first).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                stream.write_all(second).await.unwrap();
                if !keeps {
                    return;
                }
            }
        })
        .await;
        let (proxy, mut client) = proxied(&server).await;
        for cut in 1..answer.len() {
            let request = Request::builder().method(method).uri(format!("/{cut}")).header("te", "trailers");
            let got = read(client.send(request.body(empty()).unwrap()).await.unwrap()).await;
            let case = format!("{answer:?} cut at {cut}: {got:?}");
            assert!(got.status.is_success() && got.body == body, "{case}");
            assert_eq!(got.trailers.is_some(), answer.contains("x-sum: 42"), "{case}");
        }
        let expected = if keeps { 1 } else { answer.len() - 1 };
        assert_eq!(server.connections(), expected, "{answer:?}");
        assert!(proxy.logged(answer.len() - 1).await.iter().all(|l| l.reason.is_none()), "{answer:?}");
    }
}

#[tokio::test]
async fn what_comes_beyond_an_answer_reaches_nobody() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n\r\n"),
    ] {
        let server = saying(answer).await;
        let (_proxy, mut client) = proxied(&server).await;
        for turn in 1..4 {
            let request = Request::builder().method(method).uri("/").body(empty()).unwrap();
            let got = read(client.send(request).await.unwrap()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {}", got.status.as_u16())), "{answer:?} {got:?}");
            assert!(got.body.is_empty() || got.body == "ok", "{answer:?} {got:?}");
            assert_eq!(server.connections(), turn, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn what_comes_on_an_idle_connection_reaches_nobody() {
    let server = Server::tcp(|mut stream| async move {
        let mut read = Vec::new();
        while request(&mut stream, &mut read).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
        }
    })
    .await;
    let (proxy, mut client) = proxied(&server).await;
    for turn in 1..4 {
        assert_eq!(client.get("/").await.body, "ok");
        // What meets the next request on its way cannot be told from its answer.
        eventually("it to be seen", async || proxy.gauges.snapshot().upstream_connections == 0).await;
        assert_eq!(server.connections(), turn);
    }
    assert_eq!(proxy.traffic().retries, 0);
}

#[tokio::test]
async fn only_a_connection_that_the_endpoint_leaves_open_is_used_again() {
    for (answer, keeps) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", true),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
    ] {
        let server = saying(answer).await;
        let (_proxy, mut client) = proxied(&server).await;
        for _ in 0..3 {
            let got = client.get("/").await;
            assert!(got.body == "ok" && !got.headers.contains_key("connection"), "{answer:?} {got:?}");
        }
        assert_eq!(server.connections(), if keeps { 1 } else { 3 }, "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_refused() {
    let many: String = (0..101).map(|i| format!("x-{i}: y\r\n")).collect();
    let informational = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(101);
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok".to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000)),
        format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)),
        format!("{informational}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ] {
        let case = &answer[..answer.len().min(100)];
        let server = saying(answer.clone()).await;
        let (proxy, mut client) = proxied(&server).await;
        assert_eq!(client.get("/").await.status, StatusCode::BAD_GATEWAY, "{case:?}");
        assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::UpstreamProtocol), "{case:?}");
        assert_eq!(server.connections(), 1, "{case:?}");
        let node = proxy.links.node(&NodeKey::new(&server.address.to_string()), Time(0));
        assert_eq!(node.failures_in_a_row(), 1, "{case:?}");
    }
}

#[tokio::test]
async fn a_chunked_answer_that_breaks_its_grammar_breaks_off() {
    for body in
        ["zz\r\nok\r\n0\r\n\r\n", "2\r\nokk\r\n0\r\n\r\n", "10000000000000000a\r\nok\r\n", "2\r\nok\r\n0\r\nx\r\n\r\n"]
    {
        let server = saying(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}")).await;
        let (proxy, mut client) = proxied(&server).await;
        let answer = client.send(Request::get("/").body(empty()).unwrap()).await.unwrap();
        assert!(answer.into_body().collect().await.is_err(), "{body:?}");
        assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::ResponseIncomplete), "{body:?}");
        assert_eq!(proxy.connect1().await.send(Request::get("/").body(empty()).unwrap()).await.unwrap().status(), 200);
        assert_eq!(server.connections(), 2, "{body:?}");
    }
}

/// Answers the first request of each connection, and closes at the second, without a word or with these.
async fn closing_at_the_second(words: &'static str) -> (Server, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = Server::tcp(move |mut stream| {
        let count = count.clone();
        async move {
            let mut read = Vec::new();
            if let Some(head) = request(&mut stream, &mut read).await {
                count.fetch_add(1, SeqCst);
                let body = if head.starts_with("HEAD") { "" } else { "ok" };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if request(&mut stream, &mut read).await.is_some() {
                    count.fetch_add(1, SeqCst);
                    let _ = stream.write_all(words.as_bytes()).await;
                }
            }
        }
    })
    .await;
    (server, requests)
}

#[tokio::test]
async fn an_idempotent_request_on_a_connection_that_just_closed_is_sent_once_more() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "POST", "PATCH"] {
        let (server, requests) = closing_at_the_second("").await;
        let (proxy, mut client) = proxied(&server).await;
        let ask = || Request::builder().method(method).uri("/").body(empty()).unwrap();
        assert_eq!(client.send(ask()).await.unwrap().status(), StatusCode::OK, "{method}");
        let second = client.send(ask()).await.unwrap().status();
        let repeated = !["POST", "PATCH"].contains(&method);
        assert_eq!(second, if repeated { StatusCode::OK } else { StatusCode::BAD_GATEWAY }, "{method}");
        let expected = if repeated { (2, 3) } else { (1, 2) };
        assert_eq!((server.connections(), requests.load(SeqCst)), expected, "{method}");
        let log = proxy.logged(2).await;
        assert_eq!((log[1].attempts, log[1].reason.is_none()), (1, repeated), "{method}");
        let node = proxy.links.node(&NodeKey::new(&server.address.to_string()), Time(0));
        assert_eq!((node.failures_in_a_row(), node.in_flight()), (u32::from(!repeated), 0), "{method}");
    }
}

#[tokio::test]
async fn a_request_whose_body_was_sent_is_not_sent_again() {
    let (server, requests) = closing_at_the_second("").await;
    let (proxy, mut client) = proxied(&server).await;
    assert_eq!(client.get("/").await.body, "ok");
    let put = Request::put("/").body(full("body")).unwrap();
    assert_eq!(client.send(put).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    assert_eq!((server.connections(), requests.load(SeqCst)), (1, 2));
    assert_eq!(proxy.logged(2).await[1].reason, Some(Reason::UpstreamReset));
}

#[tokio::test]
async fn a_request_whose_answer_began_is_not_sent_again() {
    for words in ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let (server, requests) = closing_at_the_second(words).await;
        let (_proxy, mut client) = proxied(&server).await;
        assert_eq!(client.get("/").await.body, "ok");
        assert_eq!(client.get("/").await.status, StatusCode::BAD_GATEWAY, "{words:?}");
        assert_eq!((server.connections(), requests.load(SeqCst)), (1, 2), "{words:?}");
    }
}

#[tokio::test]
async fn a_request_is_sent_once_more_and_no_oftener() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = Server::tcp(move |mut stream| {
        let count = count.clone();
        async move {
            let mut read = Vec::new();
            while request(&mut stream, &mut read).await.is_some() {
                if count.fetch_add(1, SeqCst) > 0 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let (proxy, mut client) = proxied(&server).await;
    assert_eq!(client.get("/").await.body, "ok");
    assert_eq!(client.get("/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!((server.connections(), requests.load(SeqCst)), (2, 3));
    let log = proxy.logged(2).await;
    assert_eq!((log[1].reason, log[1].attempts), (Some(Reason::UpstreamReset), 1));
}

#[tokio::test]
async fn a_request_that_was_written_goes_to_nobody_else_when_its_endpoint_is_gone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gone = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        request(&mut stream, &mut read).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        // The listener closes first, so that nobody can connect again.
        request(&mut stream, &mut read).await.unwrap();
        drop(listener);
        drop(stream);
    });
    let proxy = TestProxy::start(&config(Http1, &[address]));
    let mut client = proxy.connect1().await;
    assert_eq!(client.get("/").await.body, "ok");
    let other = saying("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother").await;
    assert_eq!(client.get("/").await.status, StatusCode::BAD_GATEWAY);
    gone.await.unwrap();
    assert_eq!((other.connections(), proxy.logged(2).await[1].reason), (0, Some(Reason::UpstreamReset)));
}

#[tokio::test]
async fn a_reason_phrase_of_the_endpoints_own_is_passed_on() {
    let server = saying("HTTP/1.1 200 Splendid\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let answer = proxy.raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 Splendid\r\n"), "{answer}");
}

#[tokio::test]
async fn long_answers_come_whole_in_every_shape() {
    const SIZE: usize = 3_000_000;
    let body: Vec<u8> = (0..SIZE).map(|i| (i / 7 % 251) as u8).collect();
    let mut chunked = Vec::new();
    for (i, part) in body.chunks(10_007).enumerate() {
        let part = &part[..part.len()];
        chunked.extend_from_slice(format!("{:x};n={i}\r\n", part.len()).as_bytes());
        chunked.extend_from_slice(part);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let shapes = [
        (format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"), body.clone(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), body.clone(), false),
    ];
    for (head, sent, keeps) in shapes {
        let bytes = Bytes::from([head.as_bytes(), &sent].concat());
        let server = Server::tcp(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let mut read = Vec::new();
                while request(&mut stream, &mut read).await.is_some() {
                    stream.write_all(&bytes).await.unwrap();
                    if !keeps {
                        return;
                    }
                }
            }
        })
        .await;
        let (proxy, mut client) = proxied(&server).await;
        for _ in 0..3 {
            let got = client.get("/").await;
            assert!(got.body == body, "{head:?}: {} bytes", got.body.len());
        }
        assert_eq!(server.connections(), if keeps { 1 } else { 3 }, "{head:?}");
        assert!(proxy.logged(3).await.iter().all(|l| l.bytes.1 == SIZE as u64 && l.reason.is_none()), "{head:?}");
    }
}
