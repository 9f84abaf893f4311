//! What HTTP/1.1 endpoints say before the request's end, and in the place of HTTP: early answers, refusals, other protocols.

use super::endpoints::{proxied, request, saying};
use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::observe::Reason;
use http::{Request, StatusCode};
use http_body::Frame;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn an_answer_may_come_before_the_request_ends() {
    for client in [Http1, Http2] {
        let server = Server::tcp(|mut stream| async move {
            let mut read = Vec::new();
            let mut buffer = [0; 1024];
            while !read.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                read.extend_from_slice(&buffer[..n]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nearly").await.unwrap();
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                body.extend_from_slice(&buffer[..n]);
            }
            assert!(body.starts_with(b"4\r\nlate\r\n"));
            stream.write_all(b" late").await.unwrap();
            // This request is answered.
            read.clear();
            while request(&mut stream, &mut read).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain").await.unwrap();
            }
        })
        .await;
        let proxy = TestProxy::start(&config(Http1, &[server.address]));
        let (frames, body) = super::bodies::stream(1);
        let post = Request::post("http://shop/").header("host", "shop").body(body).unwrap();
        let (mut one, mut two) = (proxy.connect1().await, proxy.connect2().await);
        let response = match client {
            Http1 => one.send(post).await.unwrap(),
            _ => two.send(post).await.unwrap(),
        };
        assert_eq!(response.status(), StatusCode::OK);
        frames.send(Ok(Frame::data("late".into()))).await.unwrap();
        drop(frames);
        assert_eq!(read(response).await.body, "early late");
        assert_eq!(proxy.logged(1).await[0].bytes, (4, 10));
        let answer = match client {
            Http1 => one.get("/").await,
            _ => two.get("/").await,
        };
        assert_eq!((&answer.body[..], server.connections()), (&b"again"[..], 1), "{client:?}: both came to their end");
    }
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_its_answer() {
    // A client that reads only when all is sent, and an endpoint whose answer is larger than all buffers together.
    const SIZE: usize = 40_000_000;
    let server = Server::tcp(|stream| async move {
        let (mut reader, mut writer) = stream.into_split();
        let mut buffer = vec![0; 65_536];
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = reader.read(&mut buffer).await.unwrap();
            head.extend_from_slice(&buffer[..n]);
        }
        let answer = tokio::spawn(async move {
            writer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
            writer.write_all(&vec![b'x'; SIZE]).await.unwrap();
            writer
        });
        while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        drop(answer);
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::timeout(Duration::from_secs(20), stream.write_all(&vec![b'y'; SIZE]))
        .await
        .expect("it goes on")
        .unwrap();
    let mut answer = vec![0; 65_536];
    let mut got = 0;
    while got < SIZE {
        got += tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_a_body_and_closes_is_heard() {
    const SIZE: usize = 30_000_000;
    let server = Server::tcp(|mut stream| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!").await;
        // The kernel resets the connection: what was sent is not read.
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    for _ in 0..5 {
        let post = Request::post("http://shop/").body(full(vec![0u8; SIZE])).unwrap();
        let answer = read(proxy.connect2().await.send(post).await.unwrap()).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (413, &b"no!"[..]));
    }
}

#[tokio::test]
async fn what_came_with_the_switch_belongs_to_the_new_protocol() {
    let server = Server::tcp(|mut stream| async move {
        let mut read = Vec::new();
        request(&mut stream, &mut read).await.unwrap();
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let mut buffer = [0; 1024];
        let n = stream.read(&mut buffer).await.unwrap();
        stream.write_all(&buffer[..n]).await.unwrap();
    })
    .await;
    let (proxy, mut client) = proxied(&server).await;
    let ask = Request::get("/").header("connection", "upgrade").header("upgrade", "chat").body(empty()).unwrap();
    let response = client.send(ask).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut hello = [0; 5];
    io.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    io.write_all(b"there").await.unwrap();
    io.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"there");
    drop(io);
    assert_eq!(proxy.logged(1).await[0].bytes, (5, 10));
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_refused() {
    let server = saying("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    let (proxy, mut client) = proxied(&server).await;
    assert_eq!(client.get("/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::UpgradeFailed));
}
