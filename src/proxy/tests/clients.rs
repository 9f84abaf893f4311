//! HTTP/1.1 clients of every kind: what they may send, in what pieces, and what they get.

use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::observe::Reason;
use http::Request;
use http_body::Frame;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads to the end of the connection.
async fn to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut all)).await;
    read.expect("the connection ends").unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

async fn sent(proxy: &TestProxy, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// An endpoint that echoes, and the proxy in front of it.
async fn echoing() -> (Server, TestProxy) {
    let server = Server::echo(Http1).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    (server, proxy)
}

#[tokio::test]
async fn what_is_no_request_gets_one_answer_and_the_end() {
    let (server, proxy) = echoing().await;
    let shapes = [
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 0\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("GET / HTTP/1.1\nhost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\rx: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\n x: b\r\n\r\n", 400),
        ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /#a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\nGET /tunnelled HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 400),
    ];
    for (request, status) in shapes {
        // What would be smuggled, were it read as another request.
        let smuggled = format!("{request}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = to_end(&mut sent(&proxy, smuggled.as_bytes()).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        assert!(answer.contains("\r\nconnection: close\r\n") && answer.contains("proxy-status: "), "{answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{request:?}: {answer:?}");
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(proxy.unrouted().failures[Reason::BadRequest.index()], shapes.len() as u64);
}

#[tokio::test]
async fn a_refused_client_reads_its_answer_although_it_sends_on() {
    let (_, proxy) = echoing().await;
    let mut config = config(Http1, &[]);
    config.listeners.max_header_bytes = crate::config::ByteSize(4 * 1024);
    let strict = TestProxy::start(&config);
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(100_000));
    assert!(to_end(&mut sent(&strict, long.as_bytes()).await).await.starts_with("HTTP/1.1 431 "));
    let long = format!("nonsense\r\n\r\n{}", "y".repeat(100_000));
    assert!(to_end(&mut sent(&proxy, long.as_bytes()).await).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (_, proxy) = echoing().await;
    let requests = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody\
                    HEAD /3 HTTP/1.1\r\nhost: a\r\n\r\nPOST /4 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                    2\r\nab\r\n0\r\n\r\n\r\nGET /5 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = to_end(&mut sent(&proxy, requests.as_bytes()).await).await;
    let order: Vec<_> = ["GET /1 ", "POST /2 ", "\n\nbody", "POST /4 ", "\n\nab", "GET /5 "]
        .map(|part| answer.find(part).unwrap_or_else(|| panic!("no {part:?} in {answer}")))
        .to_vec();
    assert!(order.is_sorted(), "{order:?} {answer}");
    assert_eq!((answer.matches("HTTP/1.1 200 OK").count(), answer.contains("HEAD /3")), (5, false));
    let paths: Vec<_> = proxy.logged(5).await.into_iter().map(|l| l.path).collect();
    assert_eq!(paths, ["/1", "/2", "/3", "/4", "/5"]);
}

#[tokio::test]
async fn a_request_reads_the_same_wherever_it_is_cut() {
    let (_, proxy) = echoing().await;
    let request = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n\
                   3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 9\r\n\r\n";
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    for cut in (1..request.len()).step_by(3).chain([head.len() + 1, head.len() + 2, head.len() + 3]) {
        let mut stream = sent(&proxy, &request.as_bytes()[..cut]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        stream.write_all(&request.as_bytes()[cut..]).await.unwrap();
        stream.write_all(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let answer = to_end(&mut stream).await;
        assert!(answer.contains("trailer x-sum: 9\n\nabcdefg") && answer.contains("GET /last"), "{cut}: {answer}");
    }
    // One byte at a time.
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in request.bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = to_end(&mut stream).await;
    assert!(answer.contains("trailer x-sum: 9\n\nabcdefg") && answer.contains("GET /last"), "{answer}");
}

#[tokio::test]
async fn a_body_of_a_length_streams_whole_in_both_directions() {
    const SIZE: usize = 3_000_000;
    for endpoint in [Http1, Http2] {
        let server = Server::mirror(endpoint).await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n");
        let (mut read, mut write) = TcpStream::connect(proxy.address).await.unwrap().into_split();
        let writing = tokio::spawn(async move {
            write.write_all(head.as_bytes()).await.unwrap();
            let bytes: Vec<u8> = (0..SIZE).map(|i| (i / 1000 % 251) as u8).collect();
            write.write_all(&bytes).await.unwrap();
            (write, bytes)
        });
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        let (_write, bytes) = writing.await.unwrap();
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&answer[..body]).into_owned();
        if head.contains("content-length") {
            assert!(answer[body..] == bytes, "{endpoint:?} {head}");
        } else {
            assert!(head.contains("transfer-encoding: chunked") && answer.ends_with(b"\r\n0\r\n\r\n"), "{head}");
            assert_eq!(proxy.logged(1).await[0].bytes, (SIZE as u64, SIZE as u64));
        }
    }
}

#[tokio::test]
async fn a_client_that_resets_in_mid_body_is_its_own_failure() {
    let (server, proxy) = echoing().await;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
    ] {
        let before = proxy.log.0.lock().unwrap().len();
        let stream = sent(&proxy, request.as_bytes()).await;
        // A reset takes what was not read yet along.
        proxy.under_way(1).await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let log = proxy.logged(before + 1).await;
        proxy.under_way(0).await;
        let reason = log.last().unwrap().reason;
        assert!(matches!(reason, Some(Reason::RequestIncomplete | Reason::ClientGone)), "{log:?}");
    }
    let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
    assert_eq!(node.failures_in_a_row(), 0);
}

#[tokio::test]
async fn a_chunk_that_is_none_breaks_the_request_off() {
    let (_, proxy) = echoing().await;
    let endless = format!("1;{}\r\n", "e".repeat(20_000));
    let digits = "00000000000000001\r\nx\r\n0\r\n\r\n";
    for chunks in ["zz\r\nbody\r\n", "-1\r\n", "4\nbody\r\n", "4\r\nbodyX\r\n", "1;\x01\r\nx\r\n", digits, &endless] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        let answer = to_end(&mut sent(&proxy, request.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.").count() == 1, "{chunks:?}: {answer}");
    }
    assert!(proxy.logged(7).await.iter().all(|l| l.reason == Some(Reason::RequestIncomplete)));
}

#[tokio::test]
async fn a_body_longer_than_its_route_lets_through_is_refused_whether_its_length_was_said_or_not() {
    const MOST: usize = 1000;
    for endpoint in [Http1, Http2] {
        let server = Server::echo(endpoint).await;
        let mut config = config(endpoint, &[server.address]);
        config.routes[0].max_body = Some(crate::config::ByteSize(MOST as u64));
        let proxy = TestProxy::start(&config);
        let mut refused = 0;
        for (said, length) in [(true, MOST), (false, MOST), (true, MOST + 1), (false, MOST + 1), (false, 60_000)] {
            let case = format!("{length} bytes, said: {said}, to {endpoint:?}");
            let (head, body) = ("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n", "x".repeat(length));
            let request = match said {
                true => format!("{head}content-length: {length}\r\n\r\n{body}"),
                false => format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
            };
            let answer = to_end(&mut sent(&proxy, request.as_bytes()).await).await;
            let (frames, body) = super::bodies::stream(4);
            let mut request = Request::post("http://a/");
            if said {
                request = request.header("content-length", length);
            }
            let sending = tokio::spawn(async move {
                for left in (0..length).step_by(500) {
                    let frame = Frame::data(vec![b'x'; 500.min(length - left)].into());
                    if frames.send(Ok(frame)).await.is_err() {
                        break;
                    }
                }
            });
            let answer2 = read(proxy.connect2().await.send(request.body(body).unwrap()).await.unwrap()).await;
            sending.await.unwrap();
            if length <= MOST {
                assert!(answer.starts_with("HTTP/1.1 200 "), "{case}: {answer}");
                assert!(answer2.status == 200 && answer2.body.len() > MOST, "{case}: {answer2:?}");
            } else {
                refused += 2;
                assert!(
                    answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"body_too_large\""),
                    "{case}: {answer}"
                );
                assert_eq!(answer2.status, 413, "{case}: {answer2:?}");
            }
        }
        let log = proxy.logged(10).await;
        assert_eq!(log.iter().filter(|l| l.reason == Some(Reason::BodyTooLarge)).count(), refused, "{log:?}");
        // Nobody is to blame, and who said its length first was passed on to nobody.
        assert!(proxy.alarms.0.lock().unwrap().is_empty());
        assert!(log.iter().all(|line| line.attempts <= 1), "{log:?}");
        assert_eq!(log.iter().filter(|line| line.attempts == 0).count(), 2, "{log:?}");
    }
}

#[tokio::test]
async fn http_1_0_connections_are_kept_where_the_client_asks() {
    let (_, proxy) = echoing().await;
    let kept = "GET /1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nhost: a\r\n\r\n";
    let answer = to_end(&mut sent(&proxy, kept.as_bytes()).await).await;
    assert_eq!(answer.matches("HTTP/1.0 200 OK").count(), 2, "{answer}");
    assert_eq!((answer.matches("connection: keep-alive").count(), answer.matches("connection: close").count()), (1, 1));
    assert!(answer.contains("via: 1.0 pathloom"), "{answer}");
}

#[tokio::test]
async fn targets_reach_the_endpoint_in_their_usual_form() {
    let (_, proxy) = echoing().await;
    for (request, first, host) in [
        ("GET http://shop:80/a?b HTTP/1.1\r\nhost: other\r\n", "GET /a?b HTTP/1.1", "host: shop:80\n"),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n", "OPTIONS * HTTP/1.1", "host: a\n"),
    ] {
        let answer = to_end(&mut sent(&proxy, format!("{request}connection: close\r\n\r\n").as_bytes()).await).await;
        assert!(answer.contains(first) && answer.contains(host), "{answer}");
    }
}

/// An endpoint that says this to each request once its head is there, and then leaves or not.
async fn saying(words: &'static str, leaves: bool) -> Server {
    Server::tcp(move |mut stream| async move {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            got.extend_from_slice(&buffer[..n]);
            if let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") {
                got.drain(..end + 4);
                stream.write_all(words.as_bytes()).await.unwrap();
                if leaves {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn informational_answers_come_before_the_answer() {
    let words = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n\
                 HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nlink: </b.js>\r\nlink: </c.js>\r\n\r\n\
                 HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let server = saying(words, false).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let answer = to_end(&mut sent(&proxy, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await).await;
    let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                    HTTP/1.1 103 Early Hints\r\nlink: </b.js>\r\nlink: </c.js>\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(answer.starts_with(expected) && answer.ends_with("\r\n\r\nok"), "{answer}");
    let old = to_end(&mut sent(&proxy, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await).await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "it knows none: {old}");
    assert_eq!(proxy.connect1().await.get("/").await.status, 200);
    assert_eq!(proxy.connect2().await.get("/").await.status, 200);
}

#[tokio::test]
async fn early_hints_come_early() {
    let server = Server::tcp(|mut stream| async move {
        let mut got = [0; 4096];
        let _ = stream.read(&mut got).await;
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.unwrap();
        // Until the client has them.
        let _ = stream.read(&mut got).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
    let mut stream = sent(&proxy, head).await;
    let mut hints = vec![0; "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".len()];
    stream.read_exact(&mut hints).await.unwrap();
    assert!(hints.ends_with(b"link: </a>\r\n\r\n"));
    stream.write_all(b"now").await.unwrap();
    assert!(to_end(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn what_came_with_the_upgrade_belongs_to_the_new_protocol() {
    let server = Server::tcp(|mut stream| async move {
        let mut got = Vec::new();
        while !got.ends_with(b"first") {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            if got.is_empty() {
                let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
                stream.write_all(switch.as_bytes()).await.unwrap();
            }
            got.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(b"second").await.unwrap();
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nfirst";
    let mut stream = sent(&proxy, request).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"second") {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    drop(stream);
    let log = proxy.logged(1).await;
    assert_eq!((log[0].status, log[0].bytes), (Some(101), (5, 6)));
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_read_when_it_is_short() {
    let server = saying("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno", true).await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    for (size, kept) in [(1_000, true), (60_000, true), (1_000_000, false)] {
        let head = format!("POST /{size} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
        let mut stream = sent(&proxy, head.as_bytes()).await;
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer[..n]));
        let mut rest = vec![b'x'; size];
        rest.extend_from_slice(b"GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let written = stream.write_all(&rest).await;
        let mut next = Vec::new();
        let _ = stream.read_to_end(&mut next).await;
        let next = String::from_utf8_lossy(&next).into_owned();
        assert_eq!(next.contains("HTTP/1.1 413 "), kept, "{size}: {written:?} {next}");
    }
    let paths: Vec<_> = proxy.log.0.lock().unwrap().iter().map(|l| l.path.clone()).collect();
    assert_eq!(paths, ["/1000", "/next", "/60000", "/next", "/1000000"]);
}

#[tokio::test]
async fn a_client_that_is_refused_early_reads_why_while_it_sends() {
    let proxy = TestProxy::start(&config(Http1, &[refused()]));
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 150000\r\n\r\n";
    let mut stream = sent(&proxy, head).await;
    stream.write_all(&vec![b'x'; 150_000]).await.unwrap();
    let answer = to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("connect_refused"), "{answer}");
}
