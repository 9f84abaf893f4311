//! Hedges: who is asked as well, whose answer counts, what becomes of the other, and what they may cost.

use super::super::names::GRPC_STATUS;
use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{ByteSize, Concurrency, Config, HedgeAfter, Share, Timespan};
use crate::links::{LinkKey, NodeKey, Time};
use crate::observe::{Hedged, Reason};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

const BOTH: [Protocol; 2] = [Http1, Http2];
const LIMIT: Duration = Duration::from_secs(20);

/// A request: at which endpoint, its method, its body, and the deadline that it told.
type Asked = (SocketAddr, Method, Bytes, Option<String>);

/// What a fleet of endpoints saw, in the order in which it came.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Asked>>,
    /// Requests that were given up before they were answered.
    cancelled: AtomicUsize,
}

struct Unanswered<'a>(&'a Seen, bool);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(usize::from(!self.1), SeqCst);
    }
}

/// Endpoints that answer the request which comes as number so and so by `answer`, which may wait for the gate.
struct Fleet {
    servers: Vec<Server>,
    seen: Arc<Seen>,
    gate: watch::Sender<u8>,
}

type Gate = watch::Receiver<u8>;

impl Fleet {
    async fn start<R: Future<Output = Response<Body>> + Send + 'static>(
        protocol: Protocol,
        count: usize,
        answer: impl Fn(usize, Gate) -> R + Clone + Send + Sync + 'static,
    ) -> Self {
        let (seen, gate, mut servers) = (Arc::new(Seen::default()), watch::Sender::new(0), Vec::new());
        for _ in 0..count {
            let address = Arc::new(Mutex::new(None));
            let (seen, gate, answer, own) = (seen.clone(), gate.clone(), answer.clone(), address.clone());
            let server = Server::http(protocol, move |request: Request<Incoming>| {
                let (seen, gate, answer, own) = (seen.clone(), gate.subscribe(), answer.clone(), own.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let mut unanswered = Unanswered(&seen, false);
                    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let timeout = parts.headers.get("grpc-timeout").map(|v| v.to_str().unwrap().to_owned());
                    let number = {
                        let mut all = seen.requests.lock().unwrap();
                        all.push((own.lock().unwrap().unwrap(), parts.method, body, timeout));
                        all.len() - 1
                    };
                    let response = answer(number, gate).await;
                    unanswered.1 = true;
                    drop(unanswered);
                    response
                }
            })
            .await;
            *address.lock().unwrap() = Some(server.address);
            servers.push(server);
        }
        Self { servers, seen, gate }
    }

    /// The first request hangs, the others are answered at once.
    async fn slow_at_first(protocol: Protocol) -> Self {
        Self::start(protocol, 2, |number, gate| async move {
            if number == 0 { open(gate, "late").await } else { Response::new(full("right")) }
        })
        .await
    }

    fn config(&self, protocol: Protocol) -> Config {
        let addresses: Vec<SocketAddr> = self.servers.iter().map(|s| s.address).collect();
        let mut config = config(protocol, &addresses);
        cluster(&mut config).hedging.after = HedgeAfter::Set(Timespan(Duration::from_millis(20)));
        cluster(&mut config).hedging.share = Share(1.0);
        config
    }

    fn requests(&self) -> usize {
        self.seen.requests.lock().unwrap().len()
    }

    async fn cancelled(&self, count: usize) {
        until("cancelled", || self.seen.cancelled.load(SeqCst) == count).await;
    }

    /// Failures in a row and requests in flight, of all endpoints together; and failed calls of all links.
    fn failures(&self, proxy: &TestProxy) -> (u32, u32, u64) {
        let mut all = (0, 0, 0);
        for server in &self.servers {
            let key = NodeKey::new(&server.address.to_string());
            let node = proxy.links.node(&key, Time(0));
            let link = proxy.links.link(&LinkKey::new(&NodeKey::new("w"), &key), Time(0));
            all = (all.0 + node.failures_in_a_row(), all.1 + node.in_flight(), all.2 + link.totals().errors);
        }
        all
    }
}

/// Answers once the gate is open.
async fn open(gate: Gate, text: &'static str) -> Response<Body> {
    open_by(gate, 1).await;
    Response::new(full(text))
}

/// Waits until the gate is open so far.
async fn open_by(mut gate: Gate, far: u8) {
    let _ = gate.wait_for(|open| *open >= far).await;
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(full("wrong")).unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn hedges(proxy: &TestProxy, what: Hedged) -> u64 {
    proxy.traffic().hedges[what as usize]
}

fn request(method: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::builder().method(method).uri("http://shop/a").header("host", "shop").body(full(body)).unwrap()
}

async fn ask(proxy: &TestProxy, client: Protocol, request: Request<Body>) -> Answer {
    let asked = async {
        match client {
            Http1 => read(proxy.connect1().await.send(request).await.unwrap()).await,
            _ => read(proxy.connect2().await.send(request).await.unwrap()).await,
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("an answer")
}

#[tokio::test]
async fn a_request_that_is_not_answered_for_long_is_answered_by_another_endpoint_and_the_first_is_cancelled() {
    for (client, endpoint) in BOTH.into_iter().flat_map(|c| BOTH.map(|e| (c, e))) {
        for (method, size) in [("GET", 0), ("PUT", 100), ("PUT", 60_000)] {
            let case = format!("{client:?} {endpoint:?} {method} {size}");
            let fleet = Fleet::slow_at_first(endpoint).await;
            let proxy = TestProxy::start(&fleet.config(endpoint));
            let body = Bytes::from_iter((0..size).map(|i| (i % 251) as u8));
            let answer = ask(&proxy, client, request(method, body.clone())).await;
            assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"right"[..]), "{case}");
            fleet.cancelled(1).await;
            let log = proxy.logged(1).await;
            let logged = (log[0].attempts, log[0].hedge, log[0].reason, log[0].bytes.0);
            assert_eq!(logged, (2, Some("won"), None, size), "{case}");
            {
                let seen = fleet.seen.requests.lock().unwrap();
                assert!(seen.len() == 2 && seen[0].0 != seen[1].0, "{case}: two endpoints");
                assert!(seen.iter().all(|s| s.1 == method && s.2 == body), "{case}: the same request");
            }
            assert_eq!((hedges(&proxy, Hedged::Won), proxy.traffic().retries), (1, 0), "{case}");
            assert_eq!(fleet.failures(&proxy), (0, 0, 0), "{case}: nobody failed, and nothing is left in flight");
            assert!(proxy.alarms.0.lock().unwrap().is_empty(), "{case}");
        }
    }
}

#[tokio::test]
async fn the_link_of_the_one_that_lost_knows_that_it_took_longer_than_that_and_has_no_latency() {
    for endpoint in BOTH {
        let fleet = Fleet::slow_at_first(endpoint).await;
        let proxy = TestProxy::start(&fleet.config(endpoint));
        let _ = ask(&proxy, Http1, request("GET", "")).await;
        let _ = proxy.logged(1).await;
        let first = fleet.seen.requests.lock().unwrap()[0].0;
        let key = NodeKey::new(&first.to_string());
        let link = proxy.links.link(&LinkKey::new(&NodeKey::new("w"), &key), Time(0));
        assert_eq!((link.totals().ended, link.totals().samples, link.in_flight()), (0, 0, 0), "{endpoint:?}");
        let estimate = link.estimate.last(Time(0)).map_or(0.0, |e| e.latency_s);
        assert!(estimate >= 0.020, "{endpoint:?}: {estimate}");
    }
}

#[tokio::test]
async fn what_may_not_be_repeated_is_asked_of_one_endpoint_however_long_it_takes() {
    for (client, endpoint) in BOTH.into_iter().flat_map(|c| BOTH.map(|e| (c, e))) {
        let case = format!("{client:?} {endpoint:?}");
        let fleet = Fleet::start(endpoint, 3, |number, gate| async move {
            // The POST, then the GET's first try.
            if number < 2 { open(gate, "late").await } else { Response::new(full("right")) }
        })
        .await;
        let proxy = Arc::new(TestProxy::start(&fleet.config(endpoint)));
        let post = {
            let proxy = proxy.clone();
            tokio::spawn(async move { ask(&proxy, client, request("POST", "body")).await })
        };
        until("the POST to arrive", || fleet.requests() == 1).await;
        // Whoever came later was hedged by now, and so would the POST have been.
        let answer = ask(&proxy, client, request("GET", "")).await;
        assert_eq!((&answer.body[..], fleet.requests()), (&b"right"[..], 3), "{case}");
        fleet.gate.send_replace(1);
        assert_eq!(post.await.unwrap().body, "late", "{case}");
        let posts = fleet.seen.requests.lock().unwrap().iter().filter(|s| s.1 == Method::POST).count();
        assert_eq!((posts, hedges(&proxy, Hedged::Won)), (1, 1), "{case}");
    }
}

#[tokio::test]
async fn a_hedge_that_is_not_faster_loses_and_is_cancelled() {
    for endpoint in BOTH {
        let fleet = Fleet::start(endpoint, 2, |number, gate| async move {
            if number == 0 { open(gate, "first").await } else { std::future::pending().await }
        })
        .await;
        let proxy = Arc::new(TestProxy::start(&fleet.config(endpoint)));
        let asking = {
            let proxy = proxy.clone();
            tokio::spawn(async move { ask(&proxy, Http2, request("GET", "")).await })
        };
        until("the hedge to arrive", || fleet.requests() == 2).await;
        fleet.gate.send_replace(1);
        assert_eq!(asking.await.unwrap().body, "first", "{endpoint:?}");
        fleet.cancelled(1).await;
        let log = proxy.logged(1).await;
        assert_eq!((log[0].hedge, log[0].attempts, hedges(&proxy, Hedged::Lost)), (Some("lost"), 2, 1), "{endpoint:?}");
        assert_eq!(fleet.failures(&proxy), (0, 0, 0), "{endpoint:?}");
    }
}

#[tokio::test]
async fn without_another_endpoint_a_share_a_place_or_all_of_its_body_it_waits_on() {
    type Change = dyn Fn(&mut Config);
    let alone = |config: &mut Config| drop(cluster(config).endpoints.pop());
    // One request earns a tenth of a hedge.
    let share = |config: &mut Config| cluster(config).hedging.share = Share(0.1);
    let place = |config: &mut Config| cluster(config).admission.concurrency = Concurrency::Limit(1);
    let body = |config: &mut Config| cluster(config).retries.body = ByteSize(3);
    let cases: [(&Change, &str, Hedged); 4] = [
        (&alone, "", Hedged::NoEndpoint),
        (&share, "", Hedged::Share),
        (&place, "", Hedged::Overload),
        (&body, "body", Hedged::Body),
    ];
    for endpoint in BOTH {
        for (change, body, why) in cases {
            let case = format!("{endpoint:?} {why:?}");
            let fleet = Fleet::start(endpoint, 2, |_, gate| open(gate, "late")).await;
            let mut config = fleet.config(endpoint);
            change(&mut config);
            let proxy = Arc::new(TestProxy::start(&config));
            let asking = {
                let proxy = proxy.clone();
                tokio::spawn(async move { ask(&proxy, Http2, request("PUT", body)).await })
            };
            until(&case, || hedges(&proxy, why) == 1).await;
            fleet.gate.send_replace(1);
            assert_eq!(asking.await.unwrap().body, "late", "{case}");
            assert_eq!((fleet.requests(), proxy.logged(1).await[0].hedge), (1, None), "{case}");
            assert_eq!(proxy.traffic().hedges.iter().sum::<u64>(), 1, "{case}: one word on one request");
        }
    }
}

#[tokio::test]
async fn hedges_end_with_the_budget_for_tries() {
    for endpoint in BOTH {
        // Every first try hangs, and every hedge is answered.
        let fleet = Fleet::start(endpoint, 2, |number, gate| async move {
            if number % 2 == 0 { open(gate, "late").await } else { Response::new(full("right")) }
        })
        .await;
        let mut config = fleet.config(endpoint);
        // Three a second are left.
        cluster(&mut config).retries.budget = Share(0.0);
        let proxy = Arc::new(TestProxy::start(&config));
        let mut won = 0;
        loop {
            let mut asking = {
                let proxy = proxy.clone();
                tokio::spawn(async move { ask(&proxy, Http1, request("GET", "")).await })
            };
            tokio::select! {
                answer = &mut asking => {
                    assert_eq!(answer.unwrap().body, "right", "{endpoint:?}");
                    won += 1;
                }
                () = until("the budget's end", || hedges(&proxy, Hedged::Budget) > 0) => {
                    fleet.gate.send_replace(1);
                    assert_eq!(asking.await.unwrap().body, "late", "{endpoint:?}");
                    break;
                }
            }
        }
        assert!(won >= 3 && hedges(&proxy, Hedged::Won) == won, "{endpoint:?}: {won}");
        assert_eq!(fleet.requests() as u64, 2 * won + 1, "{endpoint:?}");
    }
}

#[tokio::test]
async fn one_that_fails_leaves_the_other_to_answer_and_two_that_fail_are_the_clients() {
    for endpoint in BOTH {
        for (first, second, expected) in [(503, 503, 503), (200, 503, 200), (503, 200, 200)] {
            let case = format!("{endpoint:?} {first} {second}");
            let fleet = Fleet::start(endpoint, 2, move |number, gate| async move {
                // A hedge that fails does so at once, and one that does not comes last.
                let (far, code) = if number == 0 { (1, first) } else { (if second == 200 { 2 } else { 0 }, second) };
                open_by(gate, far).await;
                status(code)
            })
            .await;
            let mut config = fleet.config(endpoint);
            cluster(&mut config).retries.attempts = 1;
            let proxy = Arc::new(TestProxy::start(&config));
            let asking = {
                let proxy = proxy.clone();
                tokio::spawn(async move { ask(&proxy, Http1, request("GET", "")).await })
            };
            until(&case, || fleet.requests() == 2).await;
            fleet.gate.send_replace(u8::from(second == 200));
            until("the one that fails", || fleet.failures(&proxy).0 == 1).await;
            fleet.gate.send_replace(2);
            let answer = asking.await.unwrap();
            assert_eq!((answer.status.as_u16(), fleet.requests()), (expected, 2), "{case}");
            let log = proxy.logged(1).await;
            assert_eq!(log[0].hedge, Some(if second == 200 { "won" } else { "lost" }), "{case}");
            let failed = u64::from(first != 200) + u64::from(second != 200);
            let (failures, in_flight, errors) = fleet.failures(&proxy);
            assert_eq!((u64::from(failures), in_flight, errors), (failed, 0, failed), "{case}");
        }
    }
}

#[tokio::test]
async fn the_deadline_of_the_whole_request_ends_both() {
    for endpoint in BOTH {
        let fleet = Fleet::start(endpoint, 2, |_, _| std::future::pending::<Response<Body>>()).await;
        let mut config = fleet.config(endpoint);
        cluster(&mut config).timeouts.request = Timespan(Duration::from_millis(400));
        let proxy = TestProxy::start(&config);
        let answer = ask(&proxy, Http1, request("GET", "")).await;
        let log = proxy.logged(1).await;
        assert_eq!((answer.status, log[0].reason), (StatusCode::GATEWAY_TIMEOUT, Some(Reason::RequestTimeout)));
        assert_eq!((log[0].attempts, log[0].hedge, fleet.requests()), (2, Some("lost"), 2), "{endpoint:?}");
        fleet.cancelled(2).await;
        // The first one had all of the time, the other one had not.
        assert_eq!(fleet.failures(&proxy), (1, 0, 1), "{endpoint:?}");
    }
}

#[tokio::test]
async fn each_try_is_held_to_its_own_time() {
    for endpoint in BOTH {
        let fleet = Fleet::start(endpoint, 2, |_, _| std::future::pending::<Response<Body>>()).await;
        let mut config = fleet.config(endpoint);
        cluster(&mut config).retries.attempts = 1;
        cluster(&mut config).timeouts.response_headers = Timespan(Duration::from_millis(300));
        let proxy = TestProxy::start(&config);
        let answer = ask(&proxy, Http1, request("GET", "")).await;
        let log = proxy.logged(1).await;
        assert_eq!((answer.status, log[0].reason), (StatusCode::GATEWAY_TIMEOUT, Some(Reason::ResponseTimeout)));
        // The second one was waited for longer than the first, by as long as it began later.
        assert!(log[0].duration >= Duration::from_millis(320), "{:?}", log[0].duration);
        assert_eq!((fleet.failures(&proxy), fleet.requests()), ((2, 0, 2), 2), "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_both_along() {
    for endpoint in BOTH {
        let fleet = Fleet::start(endpoint, 2, |_, _| std::future::pending::<Response<Body>>()).await;
        let proxy = TestProxy::start(&fleet.config(endpoint));
        let mut client = proxy.connect1().await;
        {
            let mut asking = std::pin::pin!(client.send(request("GET", "")));
            tokio::select! {
                _ = &mut asking => panic!("nobody answers"),
                () = until("the hedge to arrive", || fleet.requests() == 2) => {}
            }
        }
        drop(client);
        let log = proxy.logged(1).await;
        assert_eq!((log[0].reason, log[0].hedge), (Some(Reason::ClientGone), Some("lost")), "{endpoint:?}");
        fleet.cancelled(2).await;
        assert_eq!((fleet.failures(&proxy), hedges(&proxy, Hedged::Lost)), ((0, 0, 0), 1), "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_grpc_call_is_hedged_where_its_route_says_so_and_told_what_is_left_of_its_deadline() {
    let fleet = Fleet::start(Http2, 2, |number, gate| async move {
        let right = Response::builder().header(GRPC_STATUS, "0").header("content-type", "application/grpc");
        if number == 0 { open(gate, "late").await } else { right.body(full("right")).unwrap() }
    })
    .await;
    let mut config = fleet.config(Http2);
    config.routes[0].idempotent = Some(true);
    let proxy = TestProxy::start(&config);
    let mut call = request("POST", "message");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    call.headers_mut().insert("grpc-timeout", "9S".parse().unwrap());
    let answer = ask(&proxy, Http2, call).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"right"[..]));
    let seen = fleet.seen.requests.lock().unwrap();
    assert_eq!((seen[0].3.as_deref(), &seen[1].2[..]), (Some("9S"), &b"message"[..]));
    let told = seen[1].3.as_deref().unwrap();
    let left_ms = told.strip_suffix('u').map(|us| us.parse::<f64>().unwrap() / 1e3);
    assert!(left_ms.is_some_and(|ms| ms > 0.0 && ms <= 8_980.0), "{told}");
}

#[tokio::test]
async fn requests_that_stay_with_an_endpoint_are_asked_of_no_other() {
    let fleet = Fleet::start(Http1, 2, |number, gate| async move {
        if number < 2 { open(gate, "late").await } else { Response::new(full("right")) }
    })
    .await;
    let mut config = fleet.config(Http1);
    cluster(&mut config).affinity.header = Some("x-user".into());
    let proxy = Arc::new(TestProxy::start(&config));
    let staying = {
        let proxy = proxy.clone();
        let mut staying = request("GET", "");
        staying.headers_mut().insert("x-user", "ann".parse().unwrap());
        tokio::spawn(async move { ask(&proxy, Http1, staying).await })
    };
    until("it to arrive", || fleet.requests() == 1).await;
    let answer = ask(&proxy, Http1, request("GET", "")).await;
    assert_eq!((&answer.body[..], fleet.requests()), (&b"right"[..], 3), "a later one was hedged");
    fleet.gate.send_replace(1);
    assert_eq!(staying.await.unwrap().body, "late");
    assert_eq!(fleet.requests(), 3);
}
