//! Connections that are passed on as they are.

use super::support::*;
use crate::config::{Config, ListenerProtocol, Protocol, Timespan};
use crate::observe::Reason;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A listener for TCP, and a cluster of these endpoints.
fn tcp(endpoints: &[SocketAddr]) -> Config {
    let mut config = config(Protocol::Tcp, endpoints);
    config.workloads.get_mut("w").unwrap().protocol = ListenerProtocol::Tcp;
    config
}

async fn connect(proxy: &TestProxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.unwrap()
}

/// Opens a connection that is refused: a reset, which may well come before the client knows that it was accepted.
async fn refused_there(proxy: &TestProxy) {
    let connected = TcpStream::connect(proxy.address).await;
    let ended = match connected {
        Ok(mut stream) => stream.read(&mut [0]).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert_eq!(ended.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

/// Says all that it was told, once the other side has said all.
async fn parrot() -> Server {
    Server::tcp(|mut stream| async move {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    })
    .await
}

/// Greets, then says each byte again as it comes.
async fn greeter() -> Server {
    Server::tcp(|mut stream| async move {
        stream.write_all(b"hello").await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

async fn greeted(stream: &mut TcpStream) {
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
}

/// Says something and hears it again.
async fn said_again(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_side_ends_for_itself() {
    let server = parrot().await;
    let proxy = TestProxy::start(&tcp(&[server.address]));
    let mut stream = connect(&proxy).await;
    let said: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    stream.write_all(&said).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert!(heard == said, "{} of {} bytes, or others", heard.len(), said.len());
    let logged = &proxy.logged(1).await[0];
    assert_eq!((logged.bytes, logged.reason, logged.attempts), ((3_000_000, 3_000_000), None, 1));
    assert_eq!((logged.status, logged.path.as_str()), (None, ""));
    let counted = proxy.traffic();
    assert_eq!((counted.statuses[0], counted.request_bytes, counted.response_bytes), (1, 3_000_000, 3_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first_and_connecting_is_what_its_link_learns() {
    let server = greeter().await;
    let proxy = TestProxy::start(&tcp(&[server.address]));
    let mut stream = connect(&proxy).await;
    greeted(&mut stream).await;
    said_again(&mut stream, b"and back").await;
    let held = proxy.gauges.snapshot();
    assert_eq!((held.tcp_connections, held.requests), (1, 1));
    let link = &proxy.published.load().clusters[0].tables[0].candidates()[0].link.clone();
    assert_eq!((link.in_flight(), link.totals().samples), (1, 1));
    drop(stream);
    proxy.logged(1).await;
    proxy.under_way(0).await;
    assert_eq!((link.in_flight(), link.totals().errors), (0, 0));
    assert!(link.totals().latency_sum_s < 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_passed_over() {
    let server = greeter().await;
    let proxy = TestProxy::start(&tcp(&[refused(), server.address]));
    for _ in 0..4 {
        greeted(&mut connect(&proxy).await).await;
    }
    let logged = proxy.logged(4).await;
    assert!(logged.iter().all(|l| l.reason.is_none()), "{logged:?}");
    assert!(proxy.traffic().retries >= 1);
    let nobody = TestProxy::start(&tcp(&[refused(), refused()]));
    refused_there(&nobody).await;
    let logged = &nobody.logged(1).await[0];
    assert_eq!((logged.reason, logged.attempts), (Some(Reason::ConnectRefused), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let server = greeter().await;
    let mut config = tcp(&[server.address]);
    cluster(&mut config).timeouts.tcp_idle = Timespan(Duration::from_secs(1));
    let proxy = TestProxy::start(&config);
    let mut stream = connect(&proxy).await;
    greeted(&mut stream).await;
    // What moves keeps it open for longer than that, together.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        said_again(&mut stream, b"x").await;
    }
    assert!(stream.read(&mut [0]).await.is_err(), "reset: this is no end");
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::IdleTimeout));
    assert!(proxy.alarms.0.lock().unwrap().is_empty(), "which is nobody's failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_before_it_spoke_has_failed_and_one_that_spoke_has_not() {
    for spoke in [false, true] {
        let server = Server::tcp(move |mut stream| async move {
            if spoke {
                stream.write_all(b"hello").await.unwrap();
            }
            stream.read_exact(&mut [0]).await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let proxy = TestProxy::start(&tcp(&[server.address]));
        for _ in 0..3 {
            let mut stream = connect(&proxy).await;
            if spoke {
                greeted(&mut stream).await;
            }
            stream.write_all(b"x").await.unwrap();
            assert!(stream.read(&mut [0]).await.is_err(), "a reset comes through as one");
        }
        let logged = proxy.logged(3).await;
        let expected = (!spoke).then_some(Reason::UpstreamReset);
        assert!(logged.iter().all(|l| l.reason == expected), "{logged:?}");
        assert_eq!(proxy.alarms.0.lock().unwrap().is_empty(), spoke);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_is_gone_and_the_endpoint_is_told() {
    let (told, mut broke) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            told.send(stream.read(&mut [0]).await.is_err()).unwrap();
        }
    })
    .await;
    let proxy = TestProxy::start(&tcp(&[server.address]));
    let mut stream = connect(&proxy).await;
    greeted(&mut stream).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert!(broke.recv().await.unwrap());
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::ClientGone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_takes_no_more_connections_than_it_may() {
    let server = greeter().await;
    let mut config = tcp(&[server.address]);
    cluster(&mut config).admission.concurrency = crate::config::Concurrency::Limit(1);
    cluster(&mut config).admission.wait = Timespan(Duration::ZERO);
    let proxy = TestProxy::start(&config);
    let mut first = connect(&proxy).await;
    greeted(&mut first).await;
    refused_there(&proxy).await;
    let logged = proxy.logged(1).await;
    assert_eq!(logged[0].reason, Some(Reason::QueueTimeout), "{logged:?}");
    assert_eq!(server.connections(), 1);
    drop(first);
    proxy.logged(2).await;
    greeted(&mut connect(&proxy).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_connections_and_its_end_is_theirs() {
    let server = greeter().await;
    let proxy = TestProxy::start(&tcp(&[server.address]));
    let (mut done, mut left) = (connect(&proxy).await, connect(&proxy).await);
    greeted(&mut done).await;
    greeted(&mut left).await;
    proxy.drain.begin();
    eventually("the listener closes", async || TcpStream::connect(proxy.address).await.is_err()).await;
    said_again(&mut done, b"still here").await;
    drop(done);
    // Those that came while the listener was being closed are over soon, too.
    eventually("they are over", async || proxy.gauges.snapshot().tcp_connections <= 1).await;
    said_again(&mut left, b"still here").await;
    proxy.drain.stop();
    proxy.drain.finished().await;
    let cut_off = proxy.logged(2).await.iter().filter(|l| l.reason == Some(Reason::Shutdown)).count();
    assert_eq!(cut_off, 1);
    assert!(!matches!(left.read(&mut [0]).await, Ok(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_its_server_and_not_memory() {
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = written.clone();
    let server = Server::tcp(move |mut stream| {
        let count = count.clone();
        async move {
            while let Ok(n) = stream.write(&[7; 64 * 1024]).await {
                count.fetch_add(n, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&tcp(&[server.address]));
    let mut stream = connect(&proxy).await;
    let look = || written.load(std::sync::atomic::Ordering::SeqCst);
    let mut before = usize::MAX;
    while before != look() {
        before = look();
        assert!(before < 256 << 20, "the server is never held up");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut heard = vec![0; 1 << 20];
    let mut all = 0;
    while all <= before {
        all += stream.read(&mut heard).await.unwrap();
    }
    assert!(look() > before, "it goes on when it is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_route_or_a_workload_is_refused_with_its_reason() {
    let server = greeter().await;
    let mut config = tcp(&[server.address]);
    config.routes[0].matches.port = Some(1);
    let proxy = TestProxy::start(&config);
    refused_there(&proxy).await;
    assert_eq!(proxy.logged(1).await[0].reason, Some(Reason::NoRoute));
    config.workloads.get_mut("w").unwrap().source = Some("10.0.0.0/8".parse().unwrap());
    proxy.publish(2, &config);
    refused_there(&proxy).await;
    assert_eq!(proxy.logged(2).await[1].reason, Some(Reason::UnknownSource));
    assert_eq!(proxy.unrouted().failures.iter().sum::<u64>(), 2);
}
