//! Listeners that come and go, generations that change, and the drain.

use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::config::{Config, Timespan, Workload};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

async fn slow() -> Server {
    Server::http(Http1, |request| async move {
        let wait = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Response::new(full("done"))
    })
    .await
}

fn free() -> SocketAddr {
    refused()
}

fn with_listener(mut config: Config, name: &str, address: SocketAddr) -> Config {
    config.workloads.insert(name.to_owned(), Workload { listen: Some(address), ..Workload::default() });
    config
}

#[tokio::test]
async fn listeners_follow_the_configuration_and_their_connections_leave() {
    let server = Server::echo(Http1).await;
    let plain = config(Http1, &[server.address]);
    let proxy = TestProxy::start_with(&plain, 2, |_| {});
    let second = free();
    proxy.publish(2, &with_listener(plain.clone(), "v", second));
    eventually("the new listener", async || TcpStream::connect(second).await.is_ok()).await;
    let stream = TcpStream::connect(second).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = || Request::get("/").header("host", "a").body(empty()).unwrap();
    assert_eq!(sender.send_request(ask()).await.unwrap().status(), StatusCode::OK);
    proxy.publish(3, &plain);
    eventually("the listener closes", async || TcpStream::connect(second).await.is_err()).await;
    eventually("its idle connections close", async || sender.is_closed()).await;
    assert_eq!(proxy.connect1().await.get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_address_in_use_is_named_at_start_and_reported_on_reload() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let plain = config(Http1, &[]);
    let proxy = TestProxy::start(&plain);
    let conflicting = with_listener(plain.clone(), "v", taken);
    proxy.publish(2, &conflicting);
    eventually("the report", async || !proxy.bind_errors.lock().unwrap().is_empty()).await;
    assert!(proxy.bind_errors.lock().unwrap()[0].starts_with(&format!("cannot listen on {taken}: ")));
    assert_eq!(proxy.connect1().await.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE, "the rest works");
    drop(holder);
    eventually("it is bound once it is free", async || TcpStream::connect(taken).await.is_ok()).await;
    assert_eq!(proxy.bind_errors.lock().unwrap().len(), 1, "reported once");
}

#[tokio::test]
async fn a_new_generation_takes_effect_at_once_and_requests_keep_theirs() {
    let (old, new) = (slow().await, Server::echo(Http1).await);
    let proxy = TestProxy::start(&config(Http1, &[old.address]));
    let (mut one, mut two) = (proxy.connect1().await, proxy.connect1().await);
    let before = tokio::spawn(async move { one.get("/200").await });
    proxy.under_way(1).await;
    proxy.publish(2, &config(Http1, &[new.address]));
    assert!(text(&two.get("/x").await).starts_with("GET /x"));
    assert_eq!(text(&before.await.unwrap()), "done");
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_ends_with_the_last() {
    for client in [Http1, Http2] {
        let server = slow().await;
        let config = config(Http1, &[server.address]);
        let proxy = TestProxy::start_with(&config, 2, |_| {});
        let mut requests = Vec::new();
        for _ in 0..10 {
            let request = Request::get("http://shop/300").header("host", "shop").body(empty()).unwrap();
            requests.push(match client {
                Http1 => {
                    let mut c = proxy.connect1().await;
                    tokio::spawn(async move {
                        c.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
                    })
                }
                _ => {
                    let mut c = proxy.connect2().await;
                    tokio::spawn(async move {
                        c.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
                    })
                }
            });
        }
        let _idle = proxy.connect1().await;
        proxy.under_way(10).await;
        let started = Instant::now();
        proxy.drain.begin();
        for request in requests {
            assert_eq!(&request.await.unwrap()[..], b"done", "{client:?}");
        }
        proxy.drain.finished().await;
        let took = started.elapsed();
        assert!(took < config.process.drain.0 / 2, "{took:?}: nobody waits for the whole drain time");
        assert!(TcpStream::connect(proxy.address).await.is_err(), "{client:?}");
    }
}

#[tokio::test]
async fn a_request_that_comes_during_a_drain_on_an_open_connection_is_served() {
    let server = slow().await;
    // It is served for a tenth of a second only, which a busy machine may take for something else.
    for _ in 0..20 {
        let proxy = TestProxy::start(&config(Http1, &[server.address]));
        let mut idle = proxy.connect1().await;
        assert_eq!(idle.get("/0").await.status, StatusCode::OK);
        proxy.drain.begin();
        eventually("the listener closes", async || TcpStream::connect(proxy.address).await.is_err()).await;
        let Ok(answer) = idle.send(Request::get("/100").body(empty()).unwrap()).await else { continue };
        assert_eq!((answer.status(), answer.headers()["connection"].to_str().unwrap()), (StatusCode::OK, "close"));
        drop(answer);
        proxy.drain.finished().await;
        return;
    }
    panic!("no request was served");
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_over() {
    let server = slow().await;
    let mut config = config(Http1, &[server.address]);
    config.process.drain = Timespan(Duration::from_millis(200));
    let proxy = TestProxy::start(&config);
    let mut client = proxy.connect1().await;
    let request =
        tokio::spawn(async move { client.send(Request::get("/20000").body(empty()).unwrap()).await.is_err() });
    proxy.under_way(1).await;
    let started = Instant::now();
    proxy.drain.begin();
    tokio::time::timeout(Duration::from_secs(15), proxy.drain.finished()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(190));
    assert!(request.await.unwrap());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let server = slow().await;
    let mut config = config(Http1, &[server.address]);
    config.listeners.max_connections = 2;
    let proxy = TestProxy::start(&config);
    let (mut a, b) = (proxy.connect1().await, proxy.connect1().await);
    assert_eq!(a.get("/0").await.status, StatusCode::OK);
    let mut c = proxy.connect1().await;
    let waiting = tokio::spawn(async move { c.get("/0").await.status });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    assert_eq!(proxy.gauges.snapshot().downstream_connections, 2);
    drop(b);
    assert_eq!(tokio::time::timeout(Duration::from_secs(15), waiting).await.unwrap().unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn pooled_connections_grow_old_and_dead_ones_are_replaced() {
    let server = Server::echo(Http1).await;
    let mut config = config(Http1, &[server.address]);
    cluster(&mut config).timeouts.pooled = Timespan(Duration::from_millis(500));
    let proxy = TestProxy::start(&config);
    let mut client = proxy.connect1().await;
    client.get("/").await;
    assert_eq!(proxy.gauges.snapshot().pooled_connections, 1);
    eventually("it is closed", async || proxy.gauges.snapshot().upstream_connections == 0).await;
    assert_eq!(proxy.gauges.snapshot().pooled_connections, 0);
    client.get("/").await;
    assert_eq!(server.connections(), 2);

    // An endpoint that closes after each answer without saying so.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let closing = Server::tcp(|mut stream| async move {
        let mut head = [0; 2048];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = TestProxy::start(&super::support::config(Http1, &[closing.address]));
    let mut client = proxy.connect1().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
        // A request that meets its end on the way is another matter.
        eventually("the end to be seen", async || proxy.gauges.snapshot().upstream_connections == 0).await;
    }
    assert_eq!((closing.connections(), proxy.traffic().retries), (20, 0));
}

#[tokio::test]
async fn http2_endpoints_are_shared_up_to_their_streams_and_replaced_after_goaway() {
    // Those of its connections leave that came before it was told so.
    let (tell, told) = tokio::sync::watch::channel(false);
    let server = Server::tcp(move |stream| {
        let mut told = told.clone();
        let stays = *told.borrow();
        async move {
            let service = hyper::service::service_fn(|_| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, std::convert::Infallible>(Response::new(full("x")))
            });
            let mut builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            builder.max_concurrent_streams(4);
            let connection = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = told.wait_for(|told| *told), if !stays => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    })
    .await;
    let proxy = TestProxy::start(&config(Http2, &[server.address]));
    let client = proxy.connect2().await;
    let burst = |n: usize| {
        let sends: Vec<_> = (0..n)
            .map(|_| {
                let mut client = Client2(client.0.clone());
                tokio::spawn(async move { client.get("/").await.status })
            })
            .collect();
        sends
    };
    for send in burst(1) {
        assert_eq!(send.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(server.connections(), 1);
    for send in burst(8) {
        assert_eq!(send.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(server.connections(), 2, "four streams on each");
    tell.send(true).unwrap();
    eventually("both to have left", async || proxy.gauges.snapshot().upstream_connections == 0).await;
    for send in burst(2) {
        assert_eq!(send.await.unwrap(), StatusCode::OK, "after GOAWAY");
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_pingora_server_carries_it_and_ends_with_the_drain() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let server = runtime.block_on(slow());
    let (proxy, parts) = TestProxy::unstarted(&config(Http1, &[server.address]), 2, |_| {});
    let address = parts.address;
    let drain = proxy.drain();
    let mut chassis = crate::proxy::chassis();
    chassis.add_service(proxy);
    let running = {
        let drain = drain.clone();
        std::thread::spawn(move || crate::proxy::run(chassis, &drain, false))
    };
    runtime.block_on(async {
        eventually("it serves", async || TcpStream::connect(address).await.is_ok()).await;
        let request = tokio::spawn({
            let mut client = parts.connect1().await;
            async move { client.get("/200").await.status }
        });
        parts.under_way(1).await;
        drain.begin();
        assert_eq!(request.await.unwrap(), StatusCode::OK);
        eventually("the server ends", async || running.is_finished()).await;
    });
    running.join().unwrap();
}

#[tokio::test]
async fn a_drain_serves_all_that_the_kernel_had_queued() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = slow().await;
    let mut config = config(Http1, &[server.address]);
    config.listeners.max_connections = 1;
    let proxy = TestProxy::start(&config);
    let mut first = proxy.connect1().await;
    assert_eq!(first.get("/0").await.status, StatusCode::OK);
    let mut queued = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"GET /0 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        queued.push(stream);
    }
    proxy.drain.begin();
    for (i, mut stream) in queued.into_iter().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{i}: {answer}");
    }
}

#[tokio::test]
async fn a_drain_lets_slow_readers_have_all_of_their_answers() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::http(Http1, |request| async move {
        let size = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        Response::new(full(vec![b'x'; size]))
    })
    .await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    // What the kernel takes is unknown: with one of these sizes, only the end of the answer waits in the proxy.
    let mut readers = Vec::new();
    for size in (1..80).map(|i| i * 40_000) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(proxy.address).await.unwrap();
        stream.write_all(format!("GET /{size} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        readers.push((size, stream));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let done = proxy.log.0.lock().unwrap().len();
    assert!(done > 0 && done < readers.len(), "{done}: else this shows nothing");
    proxy.drain.begin();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let readers = readers.into_iter().map(|(size, mut stream)| {
        tokio::spawn(async move {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            (size, answer.len() - head)
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        let (size, got) = reader.await.unwrap();
        assert_eq!(got, size);
    }
    tokio::time::timeout(Duration::from_secs(15), proxy.drain.finished()).await.expect("it ends with the last");
}

#[tokio::test]
async fn an_http2_client_that_acknowledges_nothing_does_not_hold_the_drain() {
    use tokio::io::AsyncWriteExt;
    let server = slow().await;
    let proxy = TestProxy::start(&config(Http1, &[server.address]));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.drain.begin();
    tokio::time::timeout(Duration::from_secs(15), proxy.drain.finished()).await.expect("not its whole time");
}

#[tokio::test]
async fn an_upload_that_stalls_after_its_answer_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::tcp(|mut stream| async move {
        let mut head = [0; 2048];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        while stream.read(&mut head).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let mut config = config(Http1, &[server.address]);
    cluster(&mut config).timeouts.idle = Timespan(Duration::from_millis(200));
    let proxy = TestProxy::start(&config);
    let (frames, body) = super::bodies::stream(1);
    let mut client = proxy.connect2().await;
    let answer = read(client.send(Request::post("http://shop/").body(body).unwrap()).await.unwrap()).await;
    assert_eq!((answer.status, text(&answer)), (StatusCode::OK, "ok"));
    assert_eq!(proxy.gauges.snapshot().upstream_connections, 1, "it may go on for a while");
    eventually("the upload ends", async || proxy.gauges.snapshot().upstream_connections == 0).await;
    drop(frames);
}

/// An HTTP/2 endpoint whose first connection does nothing with its requests.
async fn declining(refuse: bool) -> Server {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    Server::tcp(move |mut stream| {
        let first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            if first {
                let _ = stream.write_all(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00").await;
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                let mut head = [0; 9];
                while stream.read_exact(&mut head).await.is_ok() {
                    let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
                    stream.read_exact(&mut payload).await.unwrap();
                    if head[3] != 1 {
                        continue;
                    }
                    let frame = if refuse {
                        [&b"\x00\x00\x04\x03\x00"[..], &head[5..], b"\x00\x00\x00\x07"].concat()
                    } else {
                        b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec()
                    };
                    let _ = stream.write_all(&frame).await;
                }
                return;
            }
            let service =
                hyper::service::service_fn(|_| async { Ok::<_, std::convert::Infallible>(Response::new(full("x"))) });
            let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

#[tokio::test]
async fn what_an_http2_endpoint_did_not_look_at_goes_elsewhere_and_is_not_its_failure() {
    for (refuse, with_body, status, connections) in
        [(true, false, 200, 1), (false, false, 200, 2), (true, true, 200, 1), (false, true, 200, 2)]
    {
        let (server, other) = (declining(refuse).await, Server::echo(Http2).await);
        let addresses = [server.address, other.address];
        let proxy = TestProxy::start(&config(Http2, if refuse { &addresses } else { &addresses[..1] }));
        let mut client = proxy.connect2().await;
        for _ in 0..if refuse { 2 } else { 1 } {
            let body = if with_body { full("body") } else { empty() };
            let answer = read(client.send(Request::post("http://shop/").body(body).unwrap()).await.unwrap()).await;
            assert_eq!(answer.status, status, "{refuse} {with_body} {answer:?}");
            if refuse {
                assert_eq!(text(&answer).ends_with("\n\nbody"), with_body, "all of it, and once: {answer:?}");
            }
        }
        assert_eq!(server.connections(), connections, "{refuse} {with_body}");
        let node = proxy.links.node(&crate::links::NodeKey::new(&server.address.to_string()), crate::links::Time(0));
        assert_eq!((node.failures_in_a_row(), node.in_flight()), (0, 0), "{refuse} {with_body}");
    }
}
