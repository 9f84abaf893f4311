//! What a connection holds while nothing is under way on it, and when what came is acknowledged.

use super::super::core::{Core, Listener};
use super::super::gauges::ProxyGauges;
use super::super::transport::Transport;
use super::super::watch::Watch;
use super::super::wire1::Framing;
use super::super::{Alarm, Clock, ProxyOptions, conn};
use super::*;
use crate::balance::Published;
use crate::config::Config;
use crate::links::NodeCell;
use crate::observe::{AccessRecord, AccessSink, TrafficRegistry};
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Nobody;

impl AccessSink for Nobody {
    fn log(&self, _: usize, _: &AccessRecord<'_>) {}

    fn enabled(&self) -> bool {
        false
    }
}

impl Alarm for Nobody {
    fn endpoint_failed(&self, _: &Arc<NodeCell>, _: u32, _: Reason) {}
}

/// A core that routes nothing: every request is refused.
pub(in crate::proxy) fn core() -> Rc<Core> {
    let options = ProxyOptions {
        published: Published::default(),
        clock: Clock::start(),
        cores: 1,
        limits: Config::default().listeners,
        drain: Duration::ZERO,
        sample: 0.0,
        propagators: Vec::new(),
        sink: Arc::new(Nobody),
        alarm: Arc::new(Nobody),
        unrouted: TrafficRegistry::new(1).unrouted().clone(),
        identities: Arc::default(),
        inherited: Mutex::default(),
        on_bind_error: Box::new(|_| {}),
        on_ready: Box::new(|| {}),
    };
    Core::new(0, &options, Arc::new(ProxyGauges::new(1)))
}

/// A client, and the connection that serves it.
async fn connected() -> (TcpStream, Rc<Downstream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let core = core();
    let watch = Watch::new(&core.deadlines);
    let downstream = Downstream::new(core, Transport::Plain(stream), Bytes::new());
    let listener = Listener::new(address, address);
    let peer = (peer.ip(), None, None);
    let conn = Conn::new(downstream.core().clone(), Rc::new(listener), peer, false, watch);
    let served = downstream.clone();
    tokio::task::spawn_local(async move { serve(&conn, &served).await });
    (client, downstream)
}

/// Reads until an answer of so many is there.
async fn answers(client: &mut TcpStream, count: usize) -> String {
    let mut got = String::new();
    let mut buffer = [0; 4096];
    while got.matches("\nrequest ").count() < count || !got.ends_with('\n') {
        let n = client.read(&mut buffer).await.unwrap();
        assert!(n > 0, "{got}");
        got.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    got
}

#[tokio::test(flavor = "local")]
async fn an_idle_connection_holds_no_bytes() {
    let (mut client, downstream) = connected().await;
    assert_eq!(downstream.held_bytes(), 0);
    for requests in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(3),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(9_000)),
    ] {
        client.write_all(requests.as_bytes()).await.unwrap();
        answers(&mut client, requests.matches("HTTP/1.1").count()).await;
        tokio::task::yield_now().await;
        assert_eq!(downstream.held_bytes(), 0, "{}", requests.len());
    }
    // Of the bytes between two requests only a part of a head is kept, and nothing of what it came in.
    client.write_all(b"GET / HT").await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(downstream.held_bytes(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_head_whose_body_waits_for_that_is_acknowledged_at_once() {
    for (framing, read, expects, at_once) in [
        (Framing::Length(5), "", false, true),
        (Framing::Chunked, "", false, true),
        (Framing::Length(5), "a", false, false),
        (Framing::Length(5), "", true, false),
        (Framing::Length(0), "", false, false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Transport::Plain(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        stream.delay();
        let downstream = Downstream::new(core(), stream, read.into());
        let _body = downstream.begin(framing, expects);
        let acknowledges = downstream.write(|stream| stream.acknowledges());
        assert_eq!(acknowledges, Some(at_once), "{framing:?} {read:?} {expects}");
    }
}

fn size_of_future<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_takes_little_memory() {
    let counts = 2 * size_of::<usize>();
    let task = size_of_future(conn::serve);
    let shared = size_of::<Conn>() + size_of::<Downstream>() + size_of::<Watch>() + 3 * counts;
    assert!(task <= 1024 && shared <= 1024, "{task} and {shared} bytes");
}
