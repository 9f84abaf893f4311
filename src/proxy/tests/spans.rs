//! Traces over real connections: what endpoints are told, in which headers, and which tries are recorded.

use super::super::propagation::Propagators;
use super::shapes::{ask, shaped};
use super::support::*;
use crate::config::Protocol::{self, Http1, Http2};
use crate::config::{Config, HedgeAfter, Propagator, Share, Timespan};
use crate::observe::Reason;
use http::{HeaderMap, Response, StatusCode};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

type Told = Arc<Mutex<Vec<HeaderMap>>>;

/// So many endpoints; the request that comes as number so and so, to whomever, is answered with a status, or never.
async fn endpoints(protocol: Protocol, statuses: &'static [Option<u16>]) -> (Vec<SocketAddr>, Told) {
    let (told, mut addresses) = (Told::default(), Vec::new());
    for _ in statuses {
        let told = told.clone();
        let server = Server::http(protocol, move |request| {
            let told = told.clone();
            async move {
                let number = {
                    let mut told = told.lock().unwrap();
                    told.push(request.headers().clone());
                    told.len() - 1
                };
                let Some(status) = statuses.get(number).copied().flatten() else { return std::future::pending().await };
                Response::builder().status(status).body(full("an answer")).unwrap()
            }
        })
        .await;
        addresses.push(server.address);
    }
    (addresses, told)
}

fn traced(config: &Config, propagators: &[Propagator]) -> TestProxy {
    TestProxy::start_with(config, 1, |options| options.propagators = propagators.to_vec())
}

/// The parent's id in each propagator's own header; all must agree.
fn parent(headers: &HeaderMap, by: &[Propagator]) -> String {
    let get = |name: &str| {
        let all: Vec<_> = headers.get_all(name).iter().collect();
        assert!(all.len() < 2, "{name}: {headers:?}");
        all.first().map(|v| v.to_str().unwrap().to_owned())
    };
    let mut parents = by.iter().map(|propagator| match propagator {
        Propagator::TraceContext => get("traceparent").unwrap()[36..52].to_owned(),
        Propagator::B3 => get("b3").unwrap()[33..49].to_owned(),
        Propagator::B3Multi => {
            assert_eq!((get("x-b3-traceid").as_deref(), get("x-b3-sampled").as_deref()), (Some(TRACE), Some("1")));
            assert_eq!(get("x-b3-parentspanid"), None);
            get("x-b3-spanid").unwrap()
        }
    });
    let first = parents.next().unwrap();
    parents.for_each(|other| assert_eq!(other, first, "{headers:?}"));
    first
}

#[tokio::test]
async fn each_try_is_a_span_of_its_own_and_its_endpoint_is_told_that_one() {
    let ways = [&[Propagator::TraceContext][..], &[Propagator::B3], &Propagator::ALL];
    for ((client, endpoint), by) in PAIRS.into_iter().zip(ways.into_iter().cycle()) {
        let case = format!("{client:?} {endpoint:?} {by:?}");
        let (addresses, told) = endpoints(endpoint, &[Some(503), Some(200)]).await;
        let proxy = traced(&config(endpoint, &addresses), by);
        let given: &[(&str, &str)] = match by {
            [Propagator::B3] => &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")],
            _ => &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")],
        };
        assert_eq!(ask(&proxy, client, "/a", given, "").await.status, StatusCode::OK, "{case}");
        let logged = proxy.logged(1).await.remove(0);
        let told: Vec<String> = told.lock().unwrap().iter().map(|headers| parent(headers, by)).collect();
        let spans: Vec<String> = logged.tries.iter().map(|t| t.span.clone()).collect();
        assert_eq!((told.len(), &told), (2, &spans), "{case}");
        assert_eq!((logged.trace.as_str(), logged.parent.as_deref()), (TRACE, Some(SPAN)), "{case}");
        let all: std::collections::BTreeSet<_> = spans.iter().chain([&logged.span]).collect();
        assert_eq!(all.len(), 3, "{case}: {all:?}");
        let came: Vec<_> = logged.tries.iter().map(|t| (t.status, t.reason, t.hedge)).collect();
        assert_eq!(came, [(Some(503), None, false), (Some(200), None, false)], "{case}");
        assert!(logged.tries[0].endpoint != logged.tries[1].endpoint, "{case}");
        assert!(logged.tries.iter().all(|t| t.share == 0.5 && t.duration <= logged.duration), "{case}");
    }
}

#[tokio::test]
async fn a_hedge_is_a_span_of_its_own_and_the_one_that_lost_is_cancelled() {
    for endpoint in [Http1, Http2] {
        let (addresses, told) = endpoints(endpoint, &[None, Some(200)]).await;
        let mut config = config(endpoint, &addresses);
        cluster(&mut config).hedging.after = HedgeAfter::Set(Timespan(Duration::from_millis(20)));
        cluster(&mut config).hedging.share = Share(1.0);
        let proxy = traced(&config, &Propagator::ALL);
        let given = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
        assert_eq!(ask(&proxy, Http1, "/a", &given, "").await.status, StatusCode::OK);
        let logged = proxy.logged(1).await.remove(0);
        assert_eq!(logged.hedge, Some("won"));
        let told: Vec<_> = told.lock().unwrap().iter().map(|headers| parent(headers, &Propagator::ALL)).collect();
        let tries: Vec<_> = logged.tries.iter().map(|t| (t.span.clone(), t.status, t.reason, t.hedge)).collect();
        let expected = [(told[0].clone(), None, None, false), (told[1].clone(), Some(200), None, true)];
        assert_eq!((told.len(), &tries[..]), (2, &expected[..]), "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_try_that_fails_says_why_and_the_request_goes_on() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (addresses, told) = endpoints(Http1, &[Some(200)]).await;
    let mut config = config(Http1, &[dead, addresses[0]]);
    cluster(&mut config).policy = crate::config::Policy::RoundRobin;
    let proxy = traced(&config, &[Propagator::TraceContext]);
    let given = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
    for number in 0.. {
        told.lock().unwrap().clear();
        assert_eq!(ask(&proxy, Http1, "/a", &given, "").await.status, StatusCode::OK);
        let logged = proxy.logged(number + 1).await.remove(number);
        let last = logged.tries.last().unwrap();
        assert_eq!((last.status, last.reason), (Some(200), None));
        assert_eq!(parent(&told.lock().unwrap()[0], &[Propagator::TraceContext]), last.span);
        if let [first, _] = &logged.tries[..] {
            assert_eq!((first.endpoint, first.reason), (dead, Some(Reason::ConnectRefused)));
            return;
        }
        assert!(number < 10, "the dead one is never tried first");
    }
}

#[tokio::test]
async fn what_is_not_recorded_has_no_tries_and_endpoints_are_told_the_requests_own_span() {
    for endpoint in [Http1, Http2] {
        let (addresses, told) = endpoints(endpoint, &[Some(200)]).await;
        let proxy = traced(&config(endpoint, &addresses), &[Propagator::TraceContext]);
        let given = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")];
        ask(&proxy, Http1, "/a", &given, "").await;
        let logged = proxy.logged(1).await.remove(0);
        assert_eq!((logged.tries.len(), logged.trace.as_str(), logged.parent.as_deref()), (0, TRACE, Some(SPAN)));
        assert_eq!(parent(&told.lock().unwrap()[0], &[Propagator::TraceContext]), logged.span);
    }
}

#[tokio::test]
async fn headers_that_cannot_be_read_are_counted_and_replaced() {
    let (addresses, told) = endpoints(Http1, &[Some(200), Some(200), Some(200)]).await;
    let proxy = traced(&config(Http1, &addresses[..1]), &Propagator::ALL);
    ask(&proxy, Http1, "/a", &[("traceparent", "00-zz"), ("b3", "?"), ("x-b3-sampled", "perhaps")], "").await;
    ask(&proxy, Http2, "/a", &[("x-b3-flags", "7")], "").await;
    ask(&proxy, Http1, "/a", &[], "").await;
    assert_eq!(proxy.gauges.snapshot().malformed_traces_total, 4);
    for headers in told.lock().unwrap().iter() {
        for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"] {
            assert_eq!(headers.get_all(name).iter().count(), 1, "{name} {headers:?}");
        }
        let seen = super::super::seen::Seen::in_headers(headers);
        let read = Propagators::new(&Propagator::ALL).take(&mut headers.clone(), &seen, |_| panic!("{headers:?}"));
        assert!(read.is_some_and(|caller| caller.ids.is_some()), "{headers:?}");
    }
    let logged = proxy.logged(3).await;
    assert!(logged.iter().all(|l| l.parent.is_none()), "{logged:?}");
}

#[tokio::test]
async fn a_copy_for_a_mirror_hangs_below_the_request_and_is_no_try() {
    for endpoint in [Http1, Http2] {
        let (real, _) = endpoints(Http1, &[Some(200)]).await;
        let (mirror, told) = endpoints(endpoint, &[Some(200)]).await;
        let routes = "[{ match: { path_prefix: / }, mirror: { cluster: m }, cluster: c }]";
        let config = shaped(routes, &[("c", Http1, "", &real), ("m", endpoint, "", &mirror)]);
        let proxy = traced(&config, &[Propagator::TraceContext]);
        let given = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
        assert_eq!(ask(&proxy, Http1, "/a", &given, "").await.status, StatusCode::OK);
        eventually("the copy", async || told.lock().unwrap().len() == 1).await;
        let logged = proxy.logged(1).await.remove(0);
        assert_eq!(parent(&told.lock().unwrap()[0], &[Propagator::TraceContext]), logged.span, "{endpoint:?}");
        assert_eq!(logged.tries.len(), 1);
    }
}

#[tokio::test]
async fn a_tracestate_is_passed_on_with_its_traceparent_and_not_beside_one_that_cannot_be_read() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (client, endpoint) in [(Http1, Http1), (Http1, Http2), (Http2, Http1), (Http2, Http2)] {
        let (addresses, told) = endpoints(endpoint, &[Some(200); 5]).await;
        let proxy = traced(&config(endpoint, &addresses[..1]), &[Propagator::TraceContext, Propagator::B3]);
        let b3 = ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1");
        let state = ("tracestate", "vendor=1");
        let other = ("tracestate", "other=2");
        for (given, expected) in [
            (&[("x-a", "1"), state, ("traceparent", good), other, ("x-z", "2")][..], 2),
            (&[("x-a", "1"), state, ("traceparent", "00-zz"), other, ("x-z", "2")], 0),
            (&[("x-a", "1"), ("traceparent", "00-zz"), ("x-z", "2"), state, b3], 0),
            (&[("x-a", "1"), ("traceparent", good), ("traceparent", good), state, ("x-z", "2")], 0),
            (&[("x-a", "1"), ("traceparent", "00-zz"), ("x-z", "2")], 0),
        ] {
            told.lock().unwrap().clear();
            assert_eq!(ask(&proxy, client, "/a", given, "").await.status, StatusCode::OK);
            let headers = told.lock().unwrap().remove(0);
            let states = headers.get_all("tracestate").iter().flat_map(|v| v.to_str().unwrap().split(',')).count();
            let case = format!("{client:?} {endpoint:?} {given:?} {headers:?}");
            assert_eq!(states, expected, "{case}");
            assert_eq!([&headers["x-a"], &headers["x-z"]], ["1", "2"], "{case}");
            assert!(endpoint == Http2 || headers["host"].to_str().unwrap().len() > 2, "{case}");
        }
    }
    // Spans tell it, too, and the flag that says that the id is random goes on, over each way in.
    for (client, endpoint) in [(Http1, Http1), (Http1, Http2), (Http2, Http1), (Http2, Http2)] {
        let (addresses, told) = endpoints(endpoint, &[Some(200); 3]).await;
        let proxy = traced(&config(endpoint, &addresses[..1]), &[Propagator::TraceContext, Propagator::B3]);
        let (random, b3) = (good.replace("-01", "-03"), ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"));
        let states = [("tracestate", "vendor=1"), ("tracestate", "other=2")];
        ask(&proxy, client, "/a", &[states[0], ("traceparent", &random), states[1]], "").await;
        ask(&proxy, client, "/a", &[("traceparent", good), ("x-a", "1")], "").await;
        ask(&proxy, client, "/a", &[b3, states[0]], "").await;
        let logged = proxy.logged(3).await;
        let states: Vec<_> = logged.iter().map(|logged| (logged.state.as_str(), logged.random)).collect();
        assert_eq!(states, [("vendor=1,other=2", true), ("", false), ("", false)], "{client:?} {endpoint:?}");
        let flags = |headers: &HeaderMap| headers["traceparent"].to_str().unwrap()[52..].to_owned();
        let flags: Vec<_> = told.lock().unwrap().iter().map(flags).collect();
        assert_eq!(flags, ["-03", "-01", "-01"], "{client:?} {endpoint:?}");
    }
    // What it does not read itself is none of its business.
    let (addresses, told) = endpoints(Http1, &[Some(200)]).await;
    let proxy = traced(&config(Http1, &addresses), &[Propagator::B3]);
    ask(&proxy, Http1, "/a", &[("traceparent", "00-zz"), ("tracestate", "vendor=1")], "").await;
    assert_eq!(told.lock().unwrap()[0]["tracestate"], "vendor=1");
}
