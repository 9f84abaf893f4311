//! What rules do to requests beyond choosing a cluster; who stays with which endpoint.

use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{Config, load_str};
use crate::links::{LinkKey, NodeKey, Time};
use crate::observe::Reason;
use http::{Request, Response, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// These routes, and clusters by their names: what is spoken, other keys, and where the endpoints are.
pub fn shaped(routes: &str, clusters: &[(&str, Protocol, &str, &[SocketAddr])]) -> Config {
    let mut text = format!("workloads: {{ w: {{ listen: 127.0.0.1:0 }} }}\nroutes: {routes}\nclusters:\n");
    for (name, protocol, more, addresses) in clusters {
        let protocol = if *protocol == Http2 { "http2" } else { "http1" };
        let endpoints: Vec<_> = addresses.iter().map(|a| format!("{{ address: '{a}' }}")).collect();
        text += &format!(
            "  {name}: {{ policy: round_robin, protocol: {protocol}, endpoints: [{}]{more} }}\n",
            endpoints.join(", ")
        );
    }
    load_str(&text, "test.yaml").unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// One request on a connection of its own.
pub async fn ask(proxy: &TestProxy, client: Protocol, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let uri = if client == Http2 { format!("http://shop{path}") } else { path.to_owned() };
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(if body.is_empty() { empty() } else { full(body.to_owned()) }).unwrap();
    read(proxy.send(client, request).await).await
}

/// A server that says this.
async fn saying(text: &'static str) -> Server {
    Server::http(Http1, move |_| async move { Response::new(full(text)) }).await
}

/// The lines of an echoed request that have this name.
fn lines<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let head = text(answer).split("\n\n").next().unwrap();
    head.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[tokio::test]
async fn cookies_and_parameters_choose_the_route() {
    let (old, new) = (saying("old").await, saying("new").await);
    let routes = "[{ match: { cookies: { beta: \"1\" } }, cluster: new }, { match: { query: { v: \"2\" } }, cluster: new }, { cluster: old }]";
    let proxy =
        TestProxy::start(&shaped(routes, &[("old", Http1, "", &[old.address]), ("new", Http1, "", &[new.address])]));
    for client in [Http1, Http2] {
        for (path, cookie, wanted) in [
            ("/", "beta=1", "new"),
            ("/", "a=b; beta=1; c=d", "new"),
            ("/", "beta=2", "old"),
            ("/", "alphabeta=1", "old"),
            ("/?v=2", "", "new"),
            ("/?a=b&v=%32", "", "new"),
            ("/?v=1", "", "old"),
            ("/v=2", "", "old"),
        ] {
            let cookies: Vec<_> = [("cookie", cookie)].into_iter().filter(|_| !cookie.is_empty()).collect();
            let answer = ask(&proxy, client, path, &cookies, "").await;
            assert_eq!(text(&answer), wanted, "{client:?} {path} {cookie}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_is_asked_for_what_the_rule_says_and_told_what_the_client_said() {
    for (client, endpoint) in PAIRS {
        let server = Server::echo(endpoint).await;
        let routes = "[{ match: { path_prefix: /v1 }, rewrite: { path_prefix: /v2, host: \"other:81\" }, cluster: c }]";
        let proxy = TestProxy::start(&shaped(routes, &[("c", endpoint, "", &[server.address])]));
        let answer = ask(&proxy, client, "/v1/a?b=/v1", &[("x-plain", "1")], "body").await;
        let case = format!("{client:?} to {endpoint:?}: {answer:?}");
        if endpoint == Http1 {
            assert!(text(&answer).starts_with("POST /v2/a?b=/v1 HTTP/1.1\n"), "{case}");
            assert_eq!(lines(&answer, "host"), ["other:81"], "{case}");
        } else {
            assert!(text(&answer).starts_with("POST http://other:81/v2/a?b=/v1 HTTP/2.0\n"), "{case}");
        }
        assert_eq!(
            (lines(&answer, "x-forwarded-host"), lines(&answer, "x-plain")),
            (vec!["shop"], vec!["1"]),
            "{case}"
        );
        assert!(text(&answer).ends_with("\n\nbody"), "{case}");
        assert_eq!(proxy.logged(1).await[0].path, "/v1/a?b=/v1", "the log says what the client asked for");
    }
}

#[tokio::test]
async fn a_rule_by_regular_expressions_asks_for_another_path_and_the_query_stays() {
    for (client, endpoint) in PAIRS {
        let server = Server::echo(endpoint).await;
        let routes = "[{ match: { path_regex: \"/v[0-9]+/items\", headers_regex: { X-Plain: \"[12]\" } }, \
                      rewrite: { path: /all }, cluster: c }]";
        let proxy = TestProxy::start(&shaped(routes, &[("c", endpoint, "", &[server.address])]));
        for (path, plain, wanted) in [
            ("/v1/items", "1", Some("/all")),
            ("/v22/items?a=/v1", "2", Some("/all?a=/v1")),
            ("/v1/items", "12", None),
            ("/v1/items/", "1", None),
        ] {
            let answer = ask(&proxy, client, path, &[("x-plain", plain)], "").await;
            let case = format!("{client:?} to {endpoint:?}: {path}: {answer:?}");
            match wanted {
                Some(target) => assert!(text(&answer).contains(&format!("{target} HTTP/")), "{case}"),
                None => assert_eq!(answer.status, 404, "{case}"),
            }
        }
        assert_eq!(proxy.logged(2).await[0].path, "/v1/items", "the log says what the client asked for");
    }
}

#[tokio::test]
async fn headers_are_changed_in_both_directions() {
    for (client, endpoint) in PAIRS {
        let server = Server::http(endpoint, |request| async move {
            let mut seen = String::new();
            for (name, value) in request.headers() {
                seen.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            let mut response = Response::new(full(seen));
            for (name, value) in [("server", "s"), ("x-out", "1"), ("x-out", "2"), ("x-more", "a"), ("x-left", "y")] {
                response.headers_mut().append(name, value.parse().unwrap());
            }
            response
        })
        .await;
        let routes = "[{ headers: { request: { set: { x-a: new, x-forwarded-proto: https }, add: { x-b: more }, remove: [X-C] }, \
                      response: { set: { x-out: \"3\" }, add: { x-more: b }, remove: [server] } }, cluster: c }]";
        let proxy = TestProxy::start(&shaped(routes, &[("c", endpoint, "", &[server.address])]));
        let sent =
            [("x-a", "old"), ("x-a", "older"), ("x-b", "b"), ("x-c", "c"), ("x-d", "d"), ("x-forwarded-proto", "http")];
        let answer = ask(&proxy, client, "/", &sent, "").await;
        let case = format!("{client:?} to {endpoint:?}: {answer:?}");
        let got = |name| lines(&answer, name);
        assert_eq!((got("x-a"), got("x-b"), got("x-c")), (vec!["new"], vec!["b", "more"], vec![]), "{case}");
        assert_eq!((got("x-d"), got("x-forwarded-proto")), (vec!["d"], vec!["https"]), "{case}");
        assert_eq!(
            (got("x-forwarded-host"), got("via").len(), got("traceparent").len()),
            (vec!["shop"], 1, 1),
            "{case}"
        );
        let back = |name: &str| answer.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((back("server"), back("x-out"), back("x-more")), (vec![], vec!["3"], vec!["a", "b"]), "{case}");
        assert_eq!((back("x-left"), back("via").len(), back("date").len()), (vec!["y"], 1, 1), "{case}");
        assert_eq!(back("x-request-id").len(), 1, "{case}");
    }
}

#[tokio::test]
async fn a_client_cannot_have_a_header_removed_that_the_rule_sets() {
    let server = Server::echo(Http1).await;
    let routes = "[{ headers: { request: { set: { x-role: guest } } }, cluster: c }]";
    let proxy = TestProxy::start(&shaped(routes, &[("c", Http1, "", &[server.address])]));
    let answer = proxy.raw("GET / HTTP/1.1\r\nhost: shop\r\nx-role: admin\r\nconnection: close, x-role\r\n\r\n").await;
    assert!(answer.contains("\nx-role: guest\n") && !answer.contains("admin"), "{answer}");
    assert_eq!(answer.matches("\nhost: shop\n").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_redirect_is_answered_here_and_leads_nowhere_else() {
    let routes = "[{ match: { path: /old }, redirect: { path: /new, status: 301 } }, { redirect: { scheme: https, status: 308 } }]";
    let proxy = TestProxy::start(&shaped(routes, &[("c", Http1, "", &[refused()])]));
    for client in [Http1, Http2] {
        let answer = ask(&proxy, client, "/old?a=b", &[], "").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["location"]),
            (301, &"/new?a=b".parse().unwrap()),
            "{answer:?}"
        );
        assert!(answer.headers["proxy-status"].to_str().unwrap().contains("redirected"), "{answer:?}");
    }
    for (target, wanted) in [("//evil.com/%0d%0ax:y", "https://shop//evil.com/%0d%0ax:y"), ("/a", "https://shop/a")] {
        let answer = proxy.raw(&format!("GET {target} HTTP/1.1\r\nhost: shop:80\r\nconnection: close\r\n\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 308 ") && answer.contains(&format!("\r\nlocation: {wanted}\r\n")),
            "{answer}"
        );
    }
    let split = proxy.raw("GET /a\rx: y HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert!(split.starts_with("HTTP/1.1 400 "), "{split}");
    let log = proxy.logged(4).await;
    assert!(log.iter().all(|l| (l.reason, l.attempts) == (Some(Reason::Redirected), 0)), "{log:?}");
    assert_eq!(proxy.unrouted().failures[Reason::Redirected.index()], 4);
    assert_eq!(proxy.alarms.0.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn an_injected_failure_reaches_no_endpoint_and_blames_none() {
    let server = Server::echo(Http1).await;
    let routes = "[{ fault: { abort: { status: 429, share: 100% } }, cluster: c }]";
    let proxy = TestProxy::start(&shaped(routes, &[("c", Http1, "", &[server.address])]));
    for client in [Http1, Http2] {
        let answer = ask(&proxy, client, "/", &[], "a body").await;
        assert_eq!(answer.status.as_u16(), 429, "{answer:?}");
        assert!(answer.headers["proxy-status"].to_str().unwrap().contains("fault_abort"), "{answer:?}");
        let answer = ask(&proxy, client, "/", &[("content-type", "application/grpc")], "a body").await;
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    }
    let log = proxy.logged(4).await;
    assert!(log.iter().all(|l| (l.reason, l.attempts, l.injected) == (Some(Reason::FaultAbort), 0, Some("abort"))));
    assert_eq!((server.connections(), proxy.alarms.0.lock().unwrap().len()), (0, 0));
    assert_eq!(proxy.traffic().failures[Reason::FaultAbort.index()], 4);
}

#[tokio::test]
async fn an_injected_delay_comes_before_the_attempt_and_is_not_the_endpoints() {
    let server = Server::echo(Http1).await;
    let time = Duration::from_millis(80);
    let routes = "[{ match: { path: /late }, timeout: 20ms, fault: { delay: { time: 1h, share: 100% } }, cluster: c }, \
                  { fault: { delay: { time: 80ms, share: 100% } }, cluster: c }]";
    let more = ", ejection: { consecutive_failures: 1 }";
    let proxy = TestProxy::start(&shaped(routes, &[("c", Http1, more, &[server.address])]));
    for client in [Http1, Http2] {
        assert!(text(&ask(&proxy, client, "/", &[], "body").await).ends_with("\n\nbody"));
    }
    let log = proxy.logged(2).await;
    for line in &log {
        assert_eq!((line.status, line.injected, line.reason), (Some(200), Some("delay"), None));
        assert!(line.duration >= time + line.upstream.unwrap(), "{line:?}");
    }
    let key = LinkKey::new(&NodeKey::new("w"), &NodeKey::new(&server.address.to_string()));
    let learnt = proxy.links.link(&key, Time(0)).estimate.last(Time(0)).unwrap().latency_s;
    let attempts: Vec<f32> = log.iter().map(|l| l.upstream.unwrap().as_secs_f32()).collect();
    assert!(learnt <= attempts.iter().sum(), "{learnt} of {attempts:?}");
    for client in [Http1, Http2] {
        assert_eq!(ask(&proxy, client, "/late", &[], "").await.status, StatusCode::GATEWAY_TIMEOUT);
    }
    let late = &proxy.logged(4).await[2..];
    assert!(late.iter().all(|l| (l.reason, l.attempts) == (Some(Reason::RequestTimeout), 0)), "{late:?}");
    assert_eq!((proxy.traffic().delays, proxy.alarms.0.lock().unwrap().len()), (4, 0));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_made_to_wait_is_counted_as_gone() {
    let server = Server::echo(Http1).await;
    let routes = "[{ fault: { delay: { time: 1h, share: 100% } }, cluster: c }]";
    let proxy = TestProxy::start(&shaped(routes, &[("c", Http1, "", &[server.address])]));
    tokio::select! {
        answer = ask(&proxy, Http1, "/", &[], "") => panic!("{answer:?}"),
        () = proxy.under_way(1) => {}
    }
    let log = proxy.logged(1).await;
    assert_eq!((log[0].reason, log[0].attempts, log[0].injected), (Some(Reason::ClientGone), 0, Some("delay")));
}

#[tokio::test]
async fn requests_that_belong_together_stay_with_an_endpoint() {
    let servers = [saying("0").await, saying("1").await, saying("2").await];
    let addresses: Vec<_> = servers.iter().map(|s| s.address).collect();
    for (affinity, name, value) in [("header: X-User", "x-user", ""), ("cookie: session", "cookie", "a=b; session=")] {
        let more = format!(", affinity: {{ {affinity} }}");
        let proxy = TestProxy::start(&shaped("[{ cluster: c }]", &[("c", Http1, &more, &addresses)]));
        let mut homes: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for round in 0..120 {
            let (user, client) = (round % 40, if round < 40 { Http1 } else { Http2 });
            let answer = ask(&proxy, client, "/", &[(name, &format!("{value}{user}"))], "").await;
            homes.entry(user).or_default().insert(text(&answer).to_owned());
        }
        assert!(homes.values().all(|h| h.len() == 1), "{affinity}: {homes:?}");
        assert_eq!(homes.values().flatten().collect::<BTreeSet<_>>().len(), 3, "{affinity}: they spread: {homes:?}");
        assert!(proxy.logged(120).await.iter().all(|l| l.affine));
        let others: BTreeSet<_> = {
            let mut seen = BTreeSet::new();
            for _ in 0..3 {
                seen.insert(text(&ask(&proxy, Http1, "/", &[], "").await).to_owned());
            }
            seen
        };
        assert_eq!(others.len(), 3, "{affinity}: who brings nothing goes in turn");
        assert!(proxy.logged(123).await[120..].iter().all(|l| !l.affine));
    }
    let proxy =
        TestProxy::start(&shaped("[{ cluster: c }]", &[("c", Http1, ", affinity: { source: true }", &addresses)]));
    let mut homes = BTreeSet::new();
    for _ in 0..6 {
        homes.insert(text(&ask(&proxy, Http1, "/", &[], "").await).to_owned());
    }
    assert_eq!(homes.len(), 1, "all come from one address");
}

#[tokio::test]
async fn who_stays_with_an_endpoint_that_refuses_goes_to_one_other() {
    let (one, two, dead) = (saying("1").await, saying("2").await, refused());
    let addresses = [one.address, two.address, dead];
    let more = ", affinity: { header: x-user }, ejection: { consecutive_failures: 0 }";
    let proxy = TestProxy::start(&shaped("[{ cluster: c }]", &[("c", Http1, more, &addresses)]));
    let mut homes: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for round in 0..120 {
        let user = round % 40;
        let answer = ask(&proxy, Http1, "/", &[("x-user", &user.to_string())], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        homes.entry(user).or_default().insert(text(&answer).to_owned());
    }
    assert!(homes.values().all(|h| h.len() == 1), "the same other each time: {homes:?}");
    assert!(proxy.logged(120).await.iter().any(|l| l.attempts == 2), "some stay with the one that refuses");
}
