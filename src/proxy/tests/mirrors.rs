//! Copies of requests: the mirror gets them, and nobody else notices.

use super::shapes::{ask, shaped};
use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::links::{LinkKey, NodeKey, Time};
use crate::observe::Copied;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What copies became of, by `Copied`.
fn copies(proxy: &TestProxy) -> [u64; 4] {
    proxy.traffic.of(&"w".into(), &"m".into()).snapshot().copies
}

/// Waits for so many copies to come to this.
async fn came_to(proxy: &TestProxy, what: Copied, count: u64) {
    eventually("the copies", async || copies(proxy)[what as usize] >= count).await;
}

type Heard = Arc<Mutex<Vec<(http::request::Parts, String)>>>;

/// A server that keeps what it hears.
async fn hearing(protocol: crate::config::Protocol) -> (Server, Heard) {
    let heard = Heard::default();
    let keep = heard.clone();
    let server = Server::http(protocol, move |request| {
        let keep = keep.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
            keep.lock().unwrap().push((parts, body.unwrap_or("broken".into())));
            let mut response = Response::new(full("the mirror's"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    })
    .await;
    (server, heard)
}

fn mirrored(
    endpoint: crate::config::Protocol,
    real: SocketAddr,
    mirror: SocketAddr,
    more: &str,
) -> crate::config::Config {
    let routes = format!(
        "[{{ match: {{ path_prefix: / }}, rewrite: {{ path_prefix: /r }}, \
         headers: {{ request: {{ set: {{ x-set: \"1\" }} }} }}, mirror: {{ cluster: m{more} }}, cluster: c }}]"
    );
    shaped(&routes, &[("c", Http1, "", &[real]), ("m", endpoint, "", &[mirror])])
}

#[tokio::test]
async fn the_mirror_gets_what_the_endpoint_gets_marked_and_nothing_is_learnt_from_it() {
    for (client, endpoint) in PAIRS {
        let real = Server::echo(Http1).await;
        let (mirror, heard) = hearing(endpoint).await;
        let proxy = TestProxy::start(&mirrored(endpoint, real.address, mirror.address, ""));
        for body in ["", "a body"] {
            let answer = ask(&proxy, client, "/a?b=c", &[("x-own", "1")], body).await;
            let case = format!("{client:?} to {endpoint:?} {body}: {answer:?}");
            assert!(answer.status == StatusCode::OK && text(&answer).ends_with(&format!("\n\n{body}")), "{case}");
            assert!(!text(&answer).contains("x-mirrored"), "{case}");
        }
        came_to(&proxy, Copied::Answered, 2).await;
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2);
        for (parts, body) in heard.iter() {
            let case = format!("{client:?} to {endpoint:?}: {parts:?}");
            assert_eq!(body, if parts.method == "POST" { "a body" } else { "" }, "{case}");
            assert_eq!(parts.uri.path_and_query().unwrap(), "/r/a?b=c", "{case}");
            for (name, value) in
                [("x-mirrored", "pathloom"), ("x-own", "1"), ("x-set", "1"), ("x-forwarded-host", "shop")]
            {
                let all: Vec<_> = parts.headers.get_all(name).iter().collect();
                assert_eq!(all, [value], "{name}, {case}");
            }
            let host = parts.uri.authority().map_or_else(|| parts.headers["host"].to_str().unwrap(), |a| a.as_str());
            assert_eq!(host, "shop", "{case}");
        }
        let key = NodeKey::new(&mirror.address.to_string());
        let link = proxy.links.link(&LinkKey::new(&NodeKey::new("w"), &key), Time(0));
        assert!(link.estimate.last(Time(0)).is_none(), "nothing is learnt");
        assert_eq!((link.in_flight(), proxy.links.node(&key, Time(0)).failures_in_a_row()), (0, 0));
        assert_eq!((proxy.traffic().statuses[2], proxy.alarms.0.lock().unwrap().len()), (2, 0));
    }
}

#[tokio::test]
async fn long_bodies_are_not_copied_and_pass_whole() {
    let real = Server::echo(Http1).await;
    let (mirror, heard) = hearing(Http1).await;
    let proxy = TestProxy::start(&mirrored(Http1, real.address, mirror.address, ", max_body: 16B"));
    let (at_most, too_long) = ("x".repeat(16), "x".repeat(17));
    assert!(text(&ask(&proxy, Http1, "/", &[], &at_most).await).ends_with(&format!("\n\n{at_most}")));
    came_to(&proxy, Copied::Answered, 1).await;
    assert!(text(&ask(&proxy, Http1, "/", &[], &too_long).await).ends_with(&format!("\n\n{too_long}")));
    came_to(&proxy, Copied::TooLarge, 1).await;
    // One whose length nobody has announced.
    let chunked = "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                   9\r\nxxxxxxxxx\r\n9\r\nxxxxxxxxx\r\n0\r\n\r\n";
    assert!(proxy.raw(chunked).await.contains("xxxxxxxxxxxxxxxxxx"));
    came_to(&proxy, Copied::TooLarge, 2).await;
    assert_eq!(heard.lock().unwrap().iter().map(|(_, body)| body.len()).collect::<Vec<_>>(), [16]);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_sent_to_the_mirror() {
    let real = Server::echo(Http1).await;
    let (mirror, heard) = hearing(Http1).await;
    let proxy = TestProxy::start(&mirrored(Http1, real.address, mirror.address, ""));
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    stream.shutdown().await.unwrap();
    proxy.logged(1).await;
    ask(&proxy, Http1, "/", &[], "whole").await;
    came_to(&proxy, Copied::Answered, 1).await;
    assert_eq!(heard.lock().unwrap().iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(), ["whole"]);
}

#[tokio::test]
async fn whatever_the_mirror_does_the_request_is_answered() {
    let real = Server::echo(Http1).await;
    let mute = Server::tcp(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let rude = Server::tcp(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        let _ = stream.write_all(b"no http\r\n\r\n").await;
    })
    .await;
    for mirror in [refused(), mute.address, rude.address] {
        let mut config = mirrored(Http1, real.address, mirror, "");
        config.clusters.get_mut("m").unwrap().timeouts.response_headers =
            crate::config::Timespan(Duration::from_millis(50));
        let proxy = TestProxy::start(&config);
        for client in [Http1, Http2] {
            for body in ["", "a body"] {
                assert_eq!(ask(&proxy, client, "/", &[], body).await.status, StatusCode::OK);
            }
        }
        came_to(&proxy, Copied::Failed, 4).await;
        assert!(proxy.logged(4).await.iter().all(|l| (l.status, l.reason, l.attempts) == (Some(200), None, 1)));
        assert_eq!(proxy.alarms.0.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn copies_under_way_are_bounded() {
    let real = Server::echo(Http1).await;
    let mute = Server::tcp(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = TestProxy::start(&mirrored(Http1, real.address, mute.address, ""));
    let mut client = proxy.connect1().await;
    for _ in 0..140 {
        let request = Request::get("/").body(empty()).unwrap();
        assert_eq!(read(client.send(request).await.unwrap()).await.status, StatusCode::OK);
    }
    assert_eq!(copies(&proxy)[Copied::Busy as usize], 12, "128 are under way");
}

#[tokio::test]
async fn a_request_that_is_tried_twice_is_copied_once_and_a_copy_that_fails_is_not_tried_again() {
    for (client, endpoint) in PAIRS {
        // The first of both to be asked refuses; what it was sent is kept, and sent to the other.
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serve = {
            let asked = asked.clone();
            move |request: Request<hyper::body::Incoming>| {
                let asked = asked.clone();
                async move {
                    let body = request.into_body().collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
                    let mut asked = asked.lock().unwrap();
                    asked.push(body);
                    let status = if asked.len() == 1 { 503 } else { 200 };
                    Response::builder().status(status).body(full("right")).unwrap()
                }
            }
        };
        let real = [Server::http(endpoint, serve.clone()).await, Server::http(endpoint, serve).await];
        let (mirror, heard) = hearing(endpoint).await;
        let config = shaped(
            "[{ mirror: { cluster: m }, idempotent: true, cluster: c }]",
            &[
                ("c", endpoint, "", &[real[0].address, real[1].address]),
                ("m", endpoint, "", &[mirror.address, refused()]),
            ],
        );
        let proxy = TestProxy::start(&config);
        let body = "x".repeat(20_000);
        let answer = ask(&proxy, client, "/a", &[], &body).await;
        let case = format!("{client:?} to {endpoint:?}");
        assert_eq!((answer.status, asked.lock().unwrap().clone()), (StatusCode::OK, vec![20_000; 2]), "{case}");
        // Where the copy went to the mirror's other endpoint, which refuses, that is its end.
        eventually("the copy", async || copies(&proxy).iter().sum::<u64>() == 1).await;
        let (came, heard) = (copies(&proxy), heard.lock().unwrap().len() as u64);
        assert_eq!((came.iter().sum::<u64>(), came[Copied::Answered as usize]), (1, heard), "{case}: {came:?}");
        let generation = proxy.published.load();
        let budgets: Vec<_> = generation.clusters.iter().map(|c| c.retrying.budget.counts()).collect();
        assert_eq!(budgets, [(1, 0), (0, 0)], "{case}: the mirror's budget is untouched");
        assert_eq!(proxy.traffic.of(&"w".into(), &"m".into()).snapshot().retries, 0, "{case}");
    }
}
