//! Requests and answers in all four combinations of protocols.

use super::support::*;
use crate::config::Protocol::{Http1, Http2};
use crate::links::NodeKey;
use http::{Request, StatusCode};

#[tokio::test]
async fn a_request_passes_in_every_combination_of_protocols() {
    for client in [Http1, Http2] {
        for endpoint in [Http1, Http2] {
            let server = Server::echo(endpoint).await;
            let proxy = TestProxy::start(&config(endpoint, &[server.address]));
            let answer = proxy.get(client, "/a/b?c=d").await;
            let case = format!("{client:?} to {endpoint:?}: {answer:?}");
            assert_eq!(answer.status, StatusCode::OK, "{case}");
            let target =
                if endpoint == Http2 { "GET http://shop/a/b?c=d HTTP/2.0\n" } else { "GET /a/b?c=d HTTP/1.1\n" };
            let body = text(&answer);
            assert!(body.starts_with(target), "{case}");
            assert_eq!(body.contains("\nhost: shop\n"), endpoint == Http1, "{case}");
            assert!(
                body.contains("x-forwarded-for: 127.0.0.1\n") && body.contains("x-forwarded-host: shop\n"),
                "{case}"
            );
            let via = if client == Http2 { "via: 2 pathloom\n" } else { "via: 1.1 pathloom\n" };
            assert!(body.contains(via) && body.contains("traceparent: 00-"), "{case}");
            assert_eq!(answer.headers["x-request-id"].len(), 32, "{case}");
            let log = proxy.logged(1).await;
            assert_eq!((log[0].status, log[0].attempts, log[0].path.as_str()), (Some(200), 1, "/a/b?c=d"), "{case}");
            assert_eq!(log[0].bytes.1, answer.body.len() as u64, "{case}");
            assert_eq!(proxy.traffic().statuses[2], 1, "{case}");
            proxy.under_way(0).await;
            let node = proxy.links.node(&NodeKey::new(&server.address.to_string()), crate::links::Time(0));
            assert_eq!(node.in_flight(), 0, "{case}");
        }
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    for (client, endpoint) in PAIRS {
        let server = Server::echo(endpoint).await;
        let proxy = TestProxy::start(&config(endpoint, &[server.address]));
        let (mut one, mut two) = (proxy.connect1().await, proxy.connect2().await);
        for _ in 0..20 {
            let answer = match client {
                Http1 => one.get("/").await,
                _ => two.get("/").await,
            };
            assert_eq!(answer.status, StatusCode::OK);
        }
        assert_eq!(server.connections(), 1, "{client:?} to {endpoint:?}");
        assert_eq!(proxy.gauges.snapshot().accepted_total, 2);
    }
}

#[tokio::test]
async fn a_refused_connection_is_retried_elsewhere_and_rings_the_alarm() {
    let server = Server::echo(Http1).await;
    let dead = refused();
    let mut config = config(Http1, &[dead, server.address]);
    cluster(&mut config).ejection.consecutive_failures = 1;
    let proxy = TestProxy::start(&config);
    let mut client = proxy.connect1().await;
    for _ in 0..4 {
        let request = Request::post("/").body(full("body")).unwrap();
        let answer = read(client.send(request).await.unwrap()).await;
        assert_eq!((answer.status, text(&answer).ends_with("\n\nbody")), (StatusCode::OK, true));
    }
    let attempts: u32 = proxy.logged(4).await.iter().map(|l| l.attempts).sum();
    let retries = proxy.traffic().retries;
    assert!(retries > 0 && u64::from(attempts) == 4 + retries, "{attempts} {retries}");
    let alarms = proxy.alarms.0.lock().unwrap().clone();
    assert_eq!(alarms.len() as u64, retries);
    assert_eq!((&alarms[0].0, alarms[0].2), (&dead.to_string(), crate::observe::Reason::ConnectRefused));
}
