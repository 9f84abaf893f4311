//! Further tries: what is safe, what is kept for them, what they cost, and what they never do.

use super::super::names::GRPC_STATUS;
use super::support::*;
use crate::balance::MIN_PER_SECOND;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{ByteSize, Config, RetryOn, Share, Timespan};
use crate::observe::Reason;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

const BOTH: [Protocol; 2] = [Http1, Http2];

/// What an endpoint saw: the method, the body, and the deadline it was told.
type Seen = Arc<Mutex<Vec<(Method, Bytes, Option<String>)>>>;

/// Two endpoints, one after the other asked: each answers the first request that any of them gets by `first`, and all
/// others with 200.
async fn pair(
    protocol: Protocol,
    first: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Vec<Server>, Seen) {
    let (seen, mut servers) = (Seen::default(), Vec::new());
    for _ in 0..2 {
        let (seen, first) = (seen.clone(), first.clone());
        let serve = move |request: Request<hyper::body::Incoming>| {
            let (seen, first) = (seen.clone(), first.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let timeout = parts.headers.get("grpc-timeout").map(|v| v.to_str().unwrap().to_owned());
                let mut seen = seen.lock().unwrap();
                seen.push((parts.method, body, timeout));
                if seen.len() == 1 { first() } else { Response::new(full("right")) }
            }
        };
        servers.push(Server::http(protocol, serve).await);
    }
    (servers, seen)
}

fn addresses(servers: &[Server]) -> Vec<std::net::SocketAddr> {
    servers.iter().map(|s| s.address).collect()
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).header("x-from", "the first").body(full("wrong")).unwrap()
}

async fn ask(proxy: &TestProxy, client: Protocol, request: Request<Body>) -> Answer {
    read(proxy.send(client, request).await).await
}

fn request(method: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri("http://shop/a").header("host", "shop").body(body).unwrap()
}

#[tokio::test]
async fn an_idempotent_request_that_is_answered_with_503_goes_elsewhere_with_all_of_its_body() {
    for (client, endpoint) in PAIRS {
        for (size, code) in [(0, 503), (100, 502), (10_000, 504), (60_000, 503)] {
            let case = format!("{client:?} {endpoint:?} {size}");
            let (servers, seen) = pair(endpoint, move || status(code)).await;
            let proxy = TestProxy::start(&config(endpoint, &addresses(&servers)));
            let body = Bytes::from_iter((0..size).map(|i| (i % 251) as u8));
            let answer = ask(&proxy, client, request("PUT", full(body.clone()))).await;
            assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"right"[..]), "{case}");
            assert!(!answer.headers.contains_key("x-from"), "{case}: nothing is left of the first answer");
            let expected = (Method::PUT, body, None);
            assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected], "{case}");
            let log = proxy.logged(1).await;
            assert_eq!((log[0].attempts, log[0].reason, log[0].bytes.0), (2, None, size), "{case}");
            assert_eq!(proxy.traffic().retries, 1, "{case}");
            proxy.under_way(0).await;
            let failures: u32 = addresses(&servers)
                .iter()
                .map(|a| proxy.links.node(&crate::links::NodeKey::new(&a.to_string()), crate::links::Time(0)))
                .map(|n| n.failures_in_a_row() + n.in_flight())
                .sum();
            assert_eq!(failures, 1, "{case}: the first endpoint's failure is known");
        }
    }
}

#[tokio::test]
async fn a_streamed_body_is_kept_too_and_one_above_the_limit_is_not_sent_again() {
    for (client, endpoint) in PAIRS {
        for (pieces, again) in [(4usize, true), (40, false)] {
            let case = format!("{client:?} {endpoint:?} {pieces}");
            let (servers, seen) = pair(endpoint, || status(503)).await;
            let mut config = config(endpoint, &addresses(&servers));
            cluster(&mut config).retries.body = ByteSize(30_000);
            let proxy = TestProxy::start(&config);
            let (frames, body) = super::bodies::stream(1);
            let sending = tokio::spawn(async move {
                for i in 0..pieces {
                    // Small and large ones by turns: they are kept in different ways.
                    let size = if i % 2 == 0 { 1_000 } else { 6_000 };
                    frames.send(Ok(http_body::Frame::data(vec![i as u8; size].into()))).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            let answer = ask(&proxy, client, request("PUT", body)).await;
            sending.await.unwrap();
            let expected = if again { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            assert_eq!(answer.status, expected, "{case}");
            let seen = seen.lock().unwrap();
            assert_eq!(seen.len(), 1 + usize::from(again), "{case}");
            assert!(seen.iter().all(|(_, body, _)| *body == seen[0].1 && body.len() == pieces * 3_500), "{case}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_ends_is_tried_again_with_what_is_still_to_come() {
    for (client, endpoint) in PAIRS {
        for (method, again) in [("PUT", true), ("POST", false)] {
            let case = format!("{client:?} {endpoint:?} {method}");
            let hasty = Server::http(endpoint, |request: Request<hyper::body::Incoming>| async move {
                // It takes the rest in its own time.
                tokio::spawn(request.into_body().collect());
                status(503)
            })
            .await;
            let echo = Server::echo(endpoint).await;
            let mut config = config(endpoint, &[hasty.address, echo.address]);
            cluster(&mut config).retries.budget = Share(1.0);
            let proxy = TestProxy::start(&config);
            let mut right = 0;
            for _ in 0..4 {
                let (frames, body) = super::bodies::stream(1);
                let sending = tokio::spawn(async move {
                    for part in ["one ", "two ", "three"] {
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        let _ = frames.send(Ok(http_body::Frame::data(part.into()))).await;
                    }
                });
                let answer = ask(&proxy, client, request(method, body)).await;
                sending.await.unwrap();
                let whole = answer.status == 200 && answer.body.ends_with(b"\n\none two three");
                assert!(whole || !again && answer.status == 503, "{case}: {answer:?}");
                right += usize::from(whole);
            }
            assert!(if again { right == 4 } else { right < 4 }, "{case}");
            assert_eq!(proxy.traffic().retries > 0, again, "{case}");
        }
    }
}

#[tokio::test]
async fn what_is_not_safe_is_not_tried_again() {
    let off = |config: &mut Config| cluster(config).retries.attempts = 0;
    let only_reset = |config: &mut Config| cluster(config).retries.on = vec![RetryOn::Reset];
    let no = |config: &mut Config| config.routes[0].idempotent = Some(false);
    let yes = |config: &mut Config| config.routes[0].idempotent = Some(true);
    let nothing = |_: &mut Config| {};
    type Change = dyn Fn(&mut Config);
    let cases: [(&str, u16, &Change, bool); 8] = [
        ("GET", 503, &nothing, true),
        ("POST", 503, &nothing, false),
        ("POST", 503, &yes, true),
        ("GET", 503, &no, false),
        ("GET", 503, &off, false),
        ("GET", 503, &only_reset, false),
        ("GET", 500, &nothing, false),
        ("GET", 429, &nothing, false),
    ];
    for endpoint in BOTH {
        for (method, code, change, again) in cases {
            let (servers, seen) = pair(endpoint, move || status(code)).await;
            let mut config = config(endpoint, &addresses(&servers));
            change(&mut config);
            let proxy = TestProxy::start(&config);
            let answer = ask(&proxy, Http1, request(method, empty())).await;
            let expected = if again { 200 } else { code };
            assert_eq!(answer.status, expected, "{endpoint:?} {method} {code}");
            assert_eq!(answer.headers.contains_key("x-from"), !again, "an answer that stands is passed on whole");
            assert_eq!(seen.lock().unwrap().len(), 1 + usize::from(again), "{endpoint:?} {method} {code}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_no_end() {
    for client in BOTH {
        for method in ["PUT", "POST"] {
            let resets = Server::tcp(|mut stream| async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
            })
            .await;
            let echo = Server::echo(Http1).await;
            let mut config = config(Http1, &[resets.address, echo.address]);
            cluster(&mut config).retries.budget = Share(1.0);
            let proxy = TestProxy::start(&config);
            let mut right = 0;
            for _ in 0..4 {
                let answer = ask(&proxy, client, request(method, full("body"))).await;
                right += usize::from(answer.status == 200 && answer.body.ends_with(b"\n\nbody"));
            }
            assert_eq!(right == 4, method == "PUT", "{client:?} {method}: {right}");
            assert_eq!(proxy.traffic().retries > 0, method == "PUT", "{client:?} {method}");
        }
    }
}

#[tokio::test]
async fn unavailable_alone_is_tried_again_where_the_route_says_so() {
    for (alone, safe) in [(true, true), (true, false), (false, true)] {
        let (servers, seen) = pair(Http2, move || {
            let body = if alone { empty() } else { full("some of it") };
            Response::builder().header(GRPC_STATUS, "14").header("content-type", "application/grpc").body(body).unwrap()
        })
        .await;
        let mut config = config(Http2, &addresses(&servers));
        config.routes[0].idempotent = Some(safe);
        let proxy = TestProxy::start(&config);
        let mut call = request("POST", full("message"));
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let answer = ask(&proxy, Http2, call).await;
        let again = alone && safe;
        assert_eq!(answer.headers.contains_key(GRPC_STATUS), !again, "{alone} {safe}");
        assert_eq!(seen.lock().unwrap().len(), 1 + usize::from(again), "{alone} {safe}");
        assert_eq!(proxy.logged(1).await[0].grpc_status, (!again).then_some(14), "{alone} {safe}");
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_to_be_left_alone_is_waited_for_or_its_answer_stands() {
    for (after, again) in [("1", true), ("30", false)] {
        let (servers, seen) = pair(Http1, move || {
            Response::builder().status(503).header("retry-after", after).body(full("later")).unwrap()
        })
        .await;
        let proxy = TestProxy::start(&config(Http1, &addresses(&servers)));
        let begun = Instant::now();
        let answer = ask(&proxy, Http1, request("GET", empty())).await;
        assert_eq!((answer.status == 200, seen.lock().unwrap().len()), (again, 1 + usize::from(again)), "{after}");
        assert!(!again || begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(answer.headers.get("retry-after").is_some(), !again);
    }
}

#[tokio::test]
async fn a_storm_is_cut_at_the_budget_and_the_last_word_is_the_clients() {
    const REQUESTS: u64 = 300;
    for endpoint in BOTH {
        let reached = Arc::new(AtomicUsize::new(0));
        let mut servers = Vec::new();
        for _ in 0..3 {
            let reached = reached.clone();
            let serve = move |_: Request<hyper::body::Incoming>| {
                reached.fetch_add(1, SeqCst);
                async { status(503) }
            };
            servers.push(Server::http(endpoint, serve).await);
        }
        let proxy = TestProxy::start(&config(endpoint, &addresses(&servers)));
        let begun = Instant::now();
        let mut client = proxy.connect2().await;
        for _ in 0..REQUESTS {
            let answer = client.get("/").await;
            assert_eq!(
                (answer.status, answer.headers["x-from"].as_bytes()),
                (StatusCode::SERVICE_UNAVAILABLE, &b"the first"[..])
            );
        }
        let seconds = begun.elapsed().as_secs() + 2;
        let reached = reached.load(SeqCst) as u64;
        assert!(reached > REQUESTS + REQUESTS / 6, "{reached}: there is a budget");
        assert!(reached <= REQUESTS + REQUESTS / 5 + seconds * MIN_PER_SECOND, "{reached} in {seconds} s");
        assert_eq!(proxy.traffic().retries, reached - REQUESTS);
    }
}

#[tokio::test]
async fn a_slow_endpoint_is_given_up_only_where_another_can_be_tried() {
    for endpoint in BOTH {
        let slow = || {
            Server::http(endpoint, |request: Request<hyper::body::Incoming>| async move {
                let _ = request.into_body().collect().await;
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                Response::new(full("slow"))
            })
        };
        let (first, second, fast) = (slow().await, slow().await, Server::echo(endpoint).await);
        let patient = |endpoints: &[std::net::SocketAddr]| {
            let mut config = config(endpoint, endpoints);
            cluster(&mut config).retries.per_try = Timespan(Duration::from_millis(500));
            config
        };
        let proxy = TestProxy::start(&patient(&[first.address, fast.address]));
        for _ in 0..2 {
            let answer = ask(&proxy, Http1, request("PUT", full("body"))).await;
            assert!(answer.body.ends_with(b"\n\nbody"), "{endpoint:?} {answer:?}");
        }
        assert!(proxy.traffic().retries > 0, "{endpoint:?}: one of the two began at the slow one");
        // Both are slow: the second one is waited for, because there is no third.
        let proxy = TestProxy::start(&patient(&[first.address, second.address]));
        let answer = ask(&proxy, Http1, request("PUT", full("body"))).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"slow"[..]), "{endpoint:?}");
        assert_eq!(proxy.logged(1).await[0].attempts, 2, "{endpoint:?}");
        // Nobody is given up on where nothing is left to spend, or nothing may be repeated.
        let mut config = patient(&[first.address, fast.address]);
        cluster(&mut config).retries.budget = Share(0.0);
        let proxy = TestProxy::start(&config);
        for _ in 0..2 {
            assert_eq!(ask(&proxy, Http1, request("POST", full("body"))).await.status, StatusCode::OK);
        }
        assert_eq!(proxy.traffic().retries, 0, "{endpoint:?}");
    }
}

#[tokio::test]
async fn the_limit_of_the_whole_request_holds_over_all_tries() {
    let hang = || Server::http(Http1, |_: Request<hyper::body::Incoming>| std::future::pending::<Response<Body>>());
    let (one, two) = (hang().await, hang().await);
    let mut config = config(Http1, &[one.address, two.address]);
    cluster(&mut config).retries.per_try = Timespan(Duration::from_millis(200));
    cluster(&mut config).timeouts.request = Timespan(Duration::from_millis(1_500));
    let proxy = TestProxy::start(&config);
    let begun = Instant::now();
    let answer = ask(&proxy, Http1, request("GET", empty())).await;
    let log = proxy.logged(1).await;
    assert_eq!(
        (answer.status, log[0].reason, log[0].attempts),
        (StatusCode::GATEWAY_TIMEOUT, Some(Reason::RequestTimeout), 2)
    );
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
}

/// What an endpoint was told, in milliseconds.
fn deadline_ms(told: &Option<String>) -> f64 {
    let (value, unit) = told.as_ref().unwrap().split_at(told.as_ref().unwrap().len() - 1);
    let unit_ms = match unit {
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "S" => 1e3,
        other => panic!("{other}"),
    };
    value.parse::<f64>().unwrap() * unit_ms
}

#[tokio::test]
async fn a_grpc_deadline_is_kept_and_what_is_left_of_it_is_passed_on() {
    // The caller's is shorter, the route's is, the caller has none.
    for (asked, expected_ms) in [(Some("2S"), 2_000.0), (Some("1H"), 4_000.0), (None, 4_000.0)] {
        let (servers, seen) =
            pair(Http2, || Response::builder().status(503).header("retry-after", "1").body(empty()).unwrap()).await;
        let mut config = config(Http2, &addresses(&servers));
        config.routes[0].idempotent = Some(true);
        config.routes[0].timeout = Some(Timespan(Duration::from_secs(4)));
        let proxy = TestProxy::start(&config);
        let mut call = request("POST", full("message"));
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        asked.map(|a| call.headers_mut().insert("grpc-timeout", a.parse().unwrap()));
        let answer = ask(&proxy, Http2, call).await;
        assert_eq!(answer.body, "right");
        let seen = seen.lock().unwrap();
        match asked {
            Some("2S") => assert_eq!(seen[0].2.as_deref(), asked, "as the caller said it"),
            _ => assert!((deadline_ms(&seen[0].2) - expected_ms).abs() < 1e-3, "{asked:?} {seen:?}"),
        }
        let left = deadline_ms(&seen[1].2);
        assert!(left <= expected_ms - 1_000.0 && left > 0.0, "{asked:?} {left}");
    }
}

#[tokio::test]
async fn what_a_call_waited_here_before_its_first_try_is_taken_off_its_deadline() {
    let call = |path: &str, timeout: &str| {
        let call = Request::post(format!("http://shop{path}")).header("content-type", "application/grpc");
        call.header("grpc-timeout", timeout).body(full("message")).unwrap()
    };
    let (held, holding) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (open, began) = (held.clone(), holding.clone());
    let server = Server::http(Http2, move |request: Request<hyper::body::Incoming>| {
        let (held, holding) = (held.clone(), holding.clone());
        async move {
            if request.uri().path() == "/hold" {
                holding.notify_one();
                held.notified().await;
            }
            let told = request.headers().get("grpc-timeout").map(|told| told.to_str().unwrap().to_owned());
            Response::new(full(told.unwrap_or_default()))
        }
    })
    .await;
    // A fault's delay.
    let mut delayed = config(Http2, &[server.address]);
    delayed.routes[0].fault.delay =
        crate::config::Delay { time: Timespan(Duration::from_millis(300)), share: Share(1.0) };
    let proxy = TestProxy::start(&delayed);
    let told = text(&ask(&proxy, Http2, call("/", "30S")).await).to_owned();
    let left = deadline_ms(&Some(told));
    assert!(left > 0.0 && left <= 29_700.0, "{left}");
    // The wait for a place.
    let mut narrow = config(Http2, &[server.address]);
    cluster(&mut narrow).admission.concurrency = crate::config::Concurrency::Limit(1);
    cluster(&mut narrow).admission.wait = Timespan(Duration::from_secs(20));
    let proxy = TestProxy::start(&narrow);
    let mut client = proxy.connect2().await;
    let (mut first, mut second) = (Client2(client.0.clone()), Client2(client.0.clone()));
    let holds = tokio::spawn(async move { read(first.send(call("/hold", "30S")).await.unwrap()).await });
    began.notified().await;
    let waits = tokio::spawn(async move { read(second.send(call("/", "30S")).await.unwrap()).await });
    proxy.under_way(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    open.notify_one();
    assert_eq!(text(&holds.await.unwrap()), "30S", "it did not wait: as the caller said it");
    let left = deadline_ms(&Some(text(&waits.await.unwrap()).to_owned()));
    assert!(left > 0.0 && left <= 29_700.0, "{left}");
    assert_eq!(text(&read(client.send(call("/", "30S")).await.unwrap()).await), "30S");
}

#[tokio::test]
async fn a_grpc_deadline_that_passes_is_its_callers_doing() {
    let hang = Server::http(Http2, |_: Request<hyper::body::Incoming>| std::future::pending::<Response<Body>>()).await;
    let proxy = TestProxy::start(&config(Http2, &[hang.address]));
    for _ in 0..4 {
        let mut call = request("POST", full("message"));
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
        let answer = ask(&proxy, Http2, call).await;
        assert_eq!((answer.status, answer.headers[GRPC_STATUS].as_bytes()), (StatusCode::OK, &b"4"[..]));
    }
    assert_eq!(proxy.logged(4).await[3].reason, Some(Reason::RequestTimeout));
    assert_eq!(proxy.alarms.0.lock().unwrap().len(), 0, "a caller cannot have an endpoint ejected");
}

#[tokio::test]
async fn answers_that_are_let_go_leak_no_window_and_no_connection() {
    const SIZE: usize = 40_000;
    for endpoint in BOTH {
        let answering = |code: u16| {
            Server::http(endpoint, move |_: Request<hyper::body::Incoming>| async move {
                Response::builder().status(code).body(full(vec![b'x'; SIZE])).unwrap()
            })
        };
        let (sick, well) = (answering(503).await, answering(200).await);
        let mut config = config(endpoint, &[sick.address, well.address]);
        cluster(&mut config).retries.budget = Share(1.0);
        let proxy = TestProxy::start(&config);
        let mut client = proxy.connect2().await;
        for _ in 0..150 {
            let answer = tokio::time::timeout(Duration::from_secs(10), client.get("/")).await.expect("a window");
            assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, SIZE), "{endpoint:?}");
        }
        let retries = proxy.traffic().retries;
        assert!(retries > 30, "{endpoint:?} {retries}");
        if endpoint == Http2 {
            assert_eq!((sick.connections(), well.connections()), (1, 1));
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_for_another_try_is_counted() {
    let (servers, seen) =
        pair(Http1, || Response::builder().status(503).header("retry-after", "1").body(full("later")).unwrap()).await;
    let proxy = TestProxy::start(&config(Http1, &addresses(&servers)));
    let mut client = proxy.connect1().await;
    let node = |address: &std::net::SocketAddr| {
        proxy.links.node(&crate::links::NodeKey::new(&address.to_string()), crate::links::Time(0))
    };
    let refused = async || addresses(&servers).iter().any(|address| node(address).failures_in_a_row() == 1);
    tokio::select! {
        _ = client.send(request("GET", empty())) => panic!("it is to wait for a second"),
        () = eventually("the first answer", refused) => {}
    }
    drop(client);
    let log = proxy.logged(1).await;
    assert_eq!((log[0].reason, log[0].attempts, log[0].status), (Some(Reason::ClientGone), 1, None));
    assert_eq!(seen.lock().unwrap().len(), 1);
}
