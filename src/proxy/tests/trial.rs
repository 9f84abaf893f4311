//! The model on trial: whose a request is, and what its arm is held to.

use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{Affinity, Config, Mode, Policy, Share};
use crate::observe::{Arm, ArmSeen};
use http::{Request, Response, StatusCode};
use std::time::Duration;

/// All requests to these endpoints are steered by the model, or by the other policy.
fn on_trial(protocol: Protocol, endpoints: &[std::net::SocketAddr], share: f64) -> Config {
    let mut config = config(protocol, endpoints);
    cluster(&mut config).policy = Policy::Model;
    config.model.mode = Mode::Canary;
    config.model.canary.share = Share(share);
    config.model.canary.against = Policy::RoundRobin;
    config
}

fn seen(proxy: &TestProxy) -> [ArmSeen; 2] {
    proxy.traffic.of(&"w".into(), &"c".into()).arms().unwrap_or_default()
}

/// Waits until so many requests are counted, of both arms together.
async fn counted(proxy: &TestProxy, requests: u64) -> [ArmSeen; 2] {
    eventually("the count", async || seen(proxy).iter().map(|arm| arm.requests).sum::<u64>() >= requests).await;
    seen(proxy)
}

/// Answers by the path: `/STATUS`, or after 50 ms.
async fn server(protocol: Protocol) -> Server {
    Server::http(protocol, |request: Request<hyper::body::Incoming>| async move {
        let status = request.uri().path().trim_start_matches('/').parse::<StatusCode>();
        match status {
            Ok(status) => Response::builder().status(status).body(full("said")).unwrap(),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Response::new(full("late"))
            }
        }
    })
    .await
}

async fn get(proxy: &TestProxy, client: Protocol, path: &str) -> StatusCode {
    proxy.get(client, path).await.status
}

#[tokio::test]
async fn an_answer_has_a_latency_a_failure_has_none_and_the_policy_says_whose_it_was() {
    for (client, endpoint) in PAIRS {
        for (share, arm) in [(1.0, Arm::Model), (0.0, Arm::Against)] {
            let endpoint_server = server(endpoint).await;
            let proxy = TestProxy::start(&on_trial(endpoint, &[endpoint_server.address], share));
            assert_eq!(get(&proxy, client, "/late").await, 200);
            assert_eq!(get(&proxy, client, "/404").await, 404);
            assert_eq!(get(&proxy, client, "/500").await, 500);
            let both = counted(&proxy, 3).await;
            let case = format!("{client:?} {endpoint:?} {arm:?}");
            let mine = &both[arm as usize];
            assert_eq!((mine.requests, mine.failures, mine.latencies), (3, 1, 2), "{case}");
            assert!(mine.latency_sum_s >= 0.050, "{case}: {}", mine.latency_sum_s);
            assert_eq!(both[1 - arm as usize].requests, 0, "{case}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_tried_twice_counts_once_and_with_all_of_its_time() {
    let slow_to_refuse = Server::http(Http1, |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::builder().status(503).body(empty()).unwrap()
    })
    .await;
    let other = server(Http1).await;
    let proxy = TestProxy::start(&on_trial(Http1, &[slow_to_refuse.address, other.address], 0.0));
    // In turn, and a further try takes a turn, too: all begin at the one that refuses, the first perhaps excepted.
    for _ in 0..4 {
        assert_eq!(get(&proxy, Http1, "/200").await, 200);
    }
    let arms = counted(&proxy, 4).await;
    let [_, against] = &arms;
    assert_eq!((against.requests, against.failures, against.latencies), (4, 0, 4));
    let retries = proxy.traffic().retries;
    assert!(retries >= 3 && against.latency_sum_s >= 0.050 * retries as f64, "{retries}: {}", against.latency_sum_s);
}

#[tokio::test]
async fn who_cannot_wait_counts_with_as_long_as_they_did() {
    let silent = Server::tcp(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    for client in [Http1, Http2] {
        let proxy = TestProxy::start(&on_trial(Http1, &[silent.address], 1.0));
        // A client that leaves: all of its connection goes.
        tokio::select! {
            status = get(&proxy, client, "/never") => panic!("{status}"),
            () = proxy.under_way(1) => {}
        }
        let [model, _] = counted(&proxy, 1).await;
        assert_eq!((model.requests, model.failures, model.latencies), (1, 0, 1), "{client:?}");
        assert!(model.latency_sum_s > 0.0, "{client:?}");
    }
}

#[tokio::test]
async fn whoever_stays_with_an_endpoint_is_steered_by_nobody() {
    let endpoint = server(Http1).await;
    let mut config = on_trial(Http1, &[endpoint.address], 1.0);
    cluster(&mut config).affinity = Affinity { source: true, ..Affinity::default() };
    let proxy = TestProxy::start(&config);
    assert_eq!(get(&proxy, Http1, "/200").await, 200);
    assert!(proxy.logged(1).await[0].affine);
    assert!(seen(&proxy).iter().all(|arm| arm.requests == 0));
}
