//! Listeners' protocols, TCP routes, PROXY headers, capture.

use super::*;
use crate::config::admission::Concurrency;
use crate::config::schema::{CaptureMode, CapturedPods, ListenerProtocol, Protocol, RouteMatch};
use std::collections::BTreeMap;

fn tcp(c: &mut Config) {
    c.workloads.get_mut("shop").unwrap().protocol = ListenerProtocol::Tcp;
    c.clusters.get_mut("catalog").unwrap().protocol = Protocol::Tcp;
}

#[test]
fn a_tcp_listener_wants_a_route_to_a_tcp_cluster() {
    fine(tcp);
    warning("workloads.shop.protocol: no route leads to a cluster with `protocol: tcp`", |c| {
        tcp(c);
        c.clusters.get_mut("catalog").unwrap().protocol = Protocol::Http1;
    });
}

#[test]
fn a_route_is_for_connections_or_for_requests() {
    let matching = |matches: RouteMatch| move |c: &mut Config| c.routes[0].matches = matches;
    let both = |matches: RouteMatch| {
        move |c: &mut Config| {
            tcp(c);
            c.routes[0].matches = matches;
        }
    };
    let port = || RouteMatch { port: Some(5432), ..RouteMatch::default() };
    fine(both(port()));
    error("routes[0].match.port!: requests are not matched by `port`", matching(port()));
    error("routes[0].match.port: nobody connects to the port 0", both(RouteMatch { port: Some(0), ..port() }));
    let path = RouteMatch { path: Some("/a".into()), ..RouteMatch::default() };
    error("routes[0].match.path!: a TCP connection has no `path`", both(path));
    let one = || [("a".to_owned(), "b".to_owned())].into();
    for (key, matches) in [
        ("path_regex", RouteMatch { path_regex: Some("/a".into()), ..RouteMatch::default() }),
        ("headers_regex", RouteMatch { headers_regex: one(), ..RouteMatch::default() }),
        ("query_regex", RouteMatch { query_regex: one(), ..RouteMatch::default() }),
    ] {
        error(&format!("routes[0].match.{key}!: a TCP connection has no `{key}`"), both(matches));
    }
    let method = RouteMatch { method: Some("GET".into()), ..RouteMatch::default() };
    error("routes[0].match.method!: a TCP connection has no `method`", both(method));
    error("routes[0].idempotent!: a TCP connection is never repeated", |c| {
        tcp(c);
        c.routes[0].idempotent = Some(true);
    });
    error("routes[0].max_body!: a TCP connection is passed on as it is", |c| {
        tcp(c);
        c.routes[0].max_body = Some(crate::config::ByteSize(1));
    });
    error("routes[0].split!: one part goes to clusters with `protocol: tcp`", |c| {
        let web = c.clusters["catalog"].clone();
        tcp(c);
        c.clusters.insert("web".into(), web);
        c.routes[0].cluster = None;
        c.routes[0].split = BTreeMap::from(
            [("catalog".into(), 0.5), ("web".into(), 0.5)]
                .map(|(n, s): (String, f64)| (n, crate::config::units::Share(s))),
        );
    });
    fine(|c| {
        let web = c.clusters["catalog"].clone();
        tcp(c);
        c.workloads.get_mut("shop").unwrap().protocol = ListenerProtocol::Detect;
        c.clusters.insert("web".into(), web);
        let mut requests = c.routes[0].clone();
        requests.cluster = Some("web".into());
        c.routes.push(requests);
    });
}

#[test]
fn what_tcp_cannot_have_is_refused() {
    error("clusters.catalog.admission.concurrency: a limit is learnt", |c| {
        tcp(c);
        c.clusters.get_mut("catalog").unwrap().admission.concurrency = Concurrency::Auto;
    });
    error("clusters.catalog.proxy_protocol: a connection for requests carries", |c| {
        c.clusters.get_mut("catalog").unwrap().proxy_protocol = true;
    });
    fine(|c| {
        tcp(c);
        c.clusters.get_mut("catalog").unwrap().proxy_protocol = true;
    });
}

#[test]
fn the_workloads_of_a_listener_say_the_same_of_it() {
    for (key, change) in [
        ("protocol", (|w| w.protocol = ListenerProtocol::Detect) as fn(&mut crate::config::Workload)),
        ("capture", |w| w.capture = CaptureMode::Outbound),
        ("proxy_from", |w| w.proxy_from = vec!["10.0.0.0/8".parse().unwrap()]),
    ] {
        error(&format!("workloads.shop.{key}: `other` says `{key}:"), |c| {
            let mut other = c.workloads["shop"].clone();
            other.source = Some("10.0.0.0/8".parse().unwrap());
            change(c.workloads.get_mut("shop").unwrap());
            c.workloads.insert("other".into(), other);
        });
    }
}

#[test]
fn capture_has_one_listener_a_way_and_a_way_to_know_its_own() {
    let capture = |c: &mut Config, mode| c.workloads.get_mut("shop").unwrap().capture = mode;
    fine(|c| capture(c, CaptureMode::Outbound));
    warning("workloads.shop.listen: connections from other machines never reach 127.0.0.1:15001", |c| {
        capture(c, CaptureMode::Inbound);
    });
    error("workloads.shop.capture: `more` gets outbound connections already, on 127.0.0.1:15009", |c| {
        capture(c, CaptureMode::Outbound);
        let mut more = c.workloads["shop"].clone();
        more.listen = Some("127.0.0.1:15009".parse().unwrap());
        c.workloads.insert("more".into(), more);
    });
    // A build that cannot ask Kubernetes warns of that, too.
    if cfg!(feature = "kubernetes") {
        warning("capture.pods: no workload takes what pods open", |c| {
            capture(c, CaptureMode::Outbound);
            c.capture.pods = CapturedPods::Annotated;
        });
        fine(|c| {
            capture(c, CaptureMode::Tproxy);
            c.workloads.get_mut("shop").unwrap().listen = Some("[::]:15006".parse().unwrap());
            c.capture.pods = CapturedPods::Annotated;
        });
    }
    error("capture.mark: without a mark or a user", |c| c.capture.mark = 0);
    fine(|c| (c.capture.mark, c.capture.user) = (0, Some(7)));
    error("capture.ports[1]: nobody connects to the port 0", |c| c.capture.ports = vec![80, 0]);
    error("clusters.catalog.addresses[0]: 10.96.0.1:0 has the port 0", |c| {
        capture(c, CaptureMode::Outbound);
        c.clusters.get_mut("catalog").unwrap().addresses = vec!["10.96.0.1:0".parse().unwrap()];
    });
    warning("clusters.catalog.addresses!: no listener captures connections", |c| {
        c.clusters.get_mut("catalog").unwrap().addresses = vec!["10.96.0.1:80".parse().unwrap()];
    });
}
