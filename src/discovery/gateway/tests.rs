//! Objects as an API server tells them, and what becomes of them.

use super::conditions::patch;
use super::hub::{Hub, Resource, Translation};
use super::translate::Outcome;
use super::types::Kind;
use crate::config::{Cluster, Config, GatewayApi, Protocol, Route, Scheme, Share, Timespan};
use crate::route::{RequestHead, RouteTable};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ALL: [(Resource, Option<String>); 3] =
    [(Resource::Routes(Kind::Http), None), (Resource::Routes(Kind::Grpc), None), (Resource::Services, None)];

/// What is known, and a configuration by which it is looked at.
struct Bench {
    hub: Hub,
    config: Config,
}

fn config(section: GatewayApi) -> Config {
    Config { gateway_api: GatewayApi { enabled: true, ..section }, ..Config::default() }
}

/// The Services `catalog` and `next` of the namespace `shop` with the port 80, and `depot` with two.
fn bench() -> Bench {
    let hub = Hub::new(Arc::default());
    hub.expect(&ALL);
    let port = |name: &str, number: u16| json!({ "name": name, "port": number, "protocol": "TCP", "targetPort": 8080 });
    let services = [
        service("shop", "catalog", json!([port("", 80)])),
        service("shop", "next", json!([port("http", 80)])),
        service("shop", "depot", json!([port("http", 80), port("admin", 81)])),
        service("other", "stock", json!([port("http", 80)])),
    ];
    for watch in &ALL {
        hub.replace(watch, if watch.0 == Resource::Services { &services } else { &[] });
        hub.works(watch);
    }
    Bench { hub, config: config(GatewayApi::default()) }
}

fn service(namespace: &str, name: &str, ports: Value) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": { "type": "ClusterIP", "ports": ports } })
}

fn object(kind: Kind, name: &str, created: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind.name(),
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": 1,
            "creationTimestamp": created, "resourceVersion": "7",
        },
        "spec": spec,
    })
}

/// A route for the Service `catalog` with these rules.
fn http(name: &str, rules: Value) -> Value {
    object(
        Kind::Http,
        name,
        "2026-11-01T00:00:00Z",
        json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "catalog", "port": 80 }], "rules": rules }),
    )
}

fn grpc(name: &str, rules: Value) -> Value {
    object(
        Kind::Grpc,
        name,
        "2026-11-01T00:00:00Z",
        json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "catalog" }], "rules": rules }),
    )
}

fn to(name: &str) -> Value {
    json!([{ "name": name, "port": 80 }])
}

impl Bench {
    fn put(&self, object: &Value) {
        let kind = if object["kind"] == "GRPCRoute" { Kind::Grpc } else { Kind::Http };
        self.hub.set(Resource::Routes(kind), object);
    }

    fn translation(&self) -> Translation {
        self.hub.translation(&self.config).unwrap()
    }

    /// The rules of these routes for the first host, and how each was taken.
    fn of(objects: &[Value]) -> (Vec<Route>, Vec<Outcome>) {
        let bench = bench();
        objects.iter().for_each(|object| bench.put(object));
        let Translation { routes, outcomes, .. } = bench.translation();
        let host = "catalog.shop.svc.cluster.local";
        (routes.into_iter().filter(|route| route.matches.host.as_deref() == Some(host)).collect(), outcomes)
    }
}

/// The only rule that an HTTPRoute with this rule becomes.
fn one(rule: Value) -> Route {
    let (routes, outcomes) = Bench::of(&[http("a", json!([rule]))]);
    assert_eq!(outcomes[0].word(), "accepted", "{outcomes:?}");
    assert_eq!(routes.len(), 1);
    routes.into_iter().next().unwrap()
}

/// Why a route is not accepted, after it was seen that it leads nowhere.
fn refusal(object: &Value) -> (&'static str, String) {
    let (routes, outcomes) = Bench::of(std::slice::from_ref(object));
    assert_eq!((routes.len(), outcomes.len()), (0, 1), "{outcomes:?}");
    let accepted = &outcomes[0].parents[0].1;
    assert!(!accepted.holds, "{object}");
    (accepted.reason, accepted.message.clone())
}

#[test]
fn a_route_for_a_service_is_for_requests_to_each_of_its_names() {
    let mut bench = bench();
    bench.put(&http("a", json!([{ "backendRefs": to("next") }])));
    let hosts = |bench: &Bench| -> Vec<String> {
        bench.translation().routes.iter().map(|r| r.matches.host.clone().unwrap()).collect()
    };
    assert_eq!(hosts(&bench), ["catalog.shop.svc.cluster.local", "catalog.shop.svc", "catalog.shop"]);
    let made = bench.translation();
    let cluster = &made.clusters["kube.shop.next.80"];
    assert_eq!(cluster.discover[0].to_string(), "kubernetes shop/next:http", "by the port's name, as slices have it");
    assert_eq!((cluster.service.as_str(), cluster.protocol), ("next.shop", Protocol::Http1));
    assert_eq!(made.clusters.len(), 1);
    bench.config.gateway_api.domain = "mesh.test".into();
    bench.config.gateway_api.namespaces = vec!["shop".into()];
    assert_eq!(
        hosts(&bench),
        ["catalog.shop.svc.mesh.test", "catalog.shop.svc", "catalog.shop", "catalog"],
        "where one namespace alone counts, by its short name, too"
    );
}

#[test]
fn every_kind_of_match_becomes_a_condition() {
    let matches = |wanted: Value| one(json!({ "matches": [wanted], "backendRefs": to("next") })).matches;
    assert_eq!(matches(json!({ "path": { "type": "Exact", "value": "/a" } })).path.as_deref(), Some("/a"));
    assert_eq!(matches(json!({ "path": { "value": "/a" } })).path_prefix.as_deref(), Some("/a"), "PathPrefix is meant");
    assert_eq!(
        matches(json!({ "path": { "type": "PathPrefix", "value": "/" } })).path_prefix,
        None,
        "that is everything"
    );
    assert_eq!(matches(json!({ "method": "PUT" })).method.as_deref(), Some("PUT"));
    let headers = json!({ "headers": [{ "name": "X-Beta", "value": "1" }, { "name": "x-beta", "value": "2" }] });
    assert_eq!(matches(headers).headers, [("x-beta".to_owned(), "1".to_owned())].into(), "the first one counts");
    let query = json!({ "queryParams": [{ "type": "Exact", "name": "v", "value": "2" }] });
    assert_eq!(matches(query).query, [("v".to_owned(), "2".to_owned())].into());
    // Several matches are several rules, and none is one that matches everything.
    let two = json!([{ "matches": [{ "method": "GET" }, { "method": "PUT" }], "backendRefs": to("next") }]);
    assert_eq!(Bench::of(&[http("a", two)]).0.len(), 2);
    assert_eq!(one(json!({ "backendRefs": to("next") })).matches.path_prefix, None);
}

#[test]
fn every_filter_that_is_supported_does_what_it_says() {
    let with = |filter: Value| one(json!({ "filters": [filter], "backendRefs": to("next") }));
    let edits = json!({ "set": [{ "name": "x-a", "value": "1" }], "add": [{ "name": "x-b", "value": "2" }], "remove": ["x-c"] });
    let request = with(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": edits })).headers.request;
    let response = with(json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": edits })).headers.response;
    assert_eq!(request, response);
    assert_eq!(
        (request.set["x-a"].as_str(), request.add["x-b"].as_str(), request.remove[0].as_str()),
        ("1", "2", "x-c")
    );
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": {
        "hostname": "next.shop", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2" },
    } });
    let rewritten = with(rewrite);
    assert_eq!(rewritten.rewrite.path_prefix.as_deref(), Some("/v2"));
    assert_eq!(
        (rewritten.rewrite.host.as_deref(), rewritten.matches.path_prefix.as_deref()),
        (Some("next.shop"), Some("/"))
    );
    let mirror = |share: Value| {
        let mut mirror = json!({ "backendRef": { "name": "catalog", "port": 80 } });
        mirror.as_object_mut().unwrap().extend(share.as_object().unwrap().clone());
        let made = with(json!({ "type": "RequestMirror", "requestMirror": mirror })).mirror;
        assert_eq!(made.cluster.as_deref(), Some("kube.shop.catalog.80"));
        made.share
    };
    assert_eq!(mirror(json!({})), Share(1.0));
    assert_eq!(mirror(json!({ "percent": 5 })), Share(0.05));
    assert_eq!(mirror(json!({ "fraction": { "numerator": 1, "denominator": 1000 } })), Share(0.001));
    let redirect =
        |to: Value| one(json!({ "filters": [{ "type": "RequestRedirect", "requestRedirect": to }] })).redirect;
    let made = redirect(json!({ "scheme": "https", "hostname": "other.shop", "port": 8443, "statusCode": 301 }));
    assert_eq!((made.status, made.scheme, made.host.as_deref()), (301, Some(Scheme::Https), Some("other.shop:8443")));
    let path = redirect(json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/new" } }));
    assert_eq!((path.status, path.path.as_deref()), (302, Some("/new")));
}

#[test]
fn times_are_the_routes_and_the_clusters() {
    let times = json!({ "timeouts": { "request": "2s", "backendRequest": "500ms" }, "backendRefs": to("next") });
    let bench = bench();
    bench.put(&http("a", json!([times])));
    let made = bench.translation();
    assert_eq!(made.routes[0].timeout, Some(Timespan(Duration::from_secs(2))));
    assert_eq!(made.routes[0].cluster.as_deref(), Some("kube.shop.next.80.500ms"));
    let cluster = &made.clusters["kube.shop.next.80.500ms"];
    assert_eq!(cluster.timeouts.response_headers, Timespan(Duration::from_millis(500)));
    assert_eq!(one(json!({ "timeouts": { "request": "0s" }, "backendRefs": to("next") })).timeout, None);
}

#[test]
fn weights_are_shares_and_a_backend_without_weight_gets_nothing() {
    let backends = |refs: Value| one(json!({ "backendRefs": refs }));
    let split = backends(json!([{ "name": "catalog", "port": 80, "weight": 9 }, { "name": "next", "port": 80 }])).split;
    assert_eq!(split["kube.shop.catalog.80"], Share(0.9));
    assert!((split["kube.shop.next.80"].0 - 0.1).abs() < 1e-12);
    let alone = backends(json!([{ "name": "catalog", "port": 80 }, { "name": "next", "port": 80, "weight": 0 }]));
    assert_eq!((alone.cluster.as_deref(), alone.split.len()), (Some("kube.shop.catalog.80"), 0));
    let twice = backends(json!([{ "name": "next", "port": 80 }, { "name": "next", "port": 80 }]));
    assert_eq!(twice.cluster.as_deref(), Some("kube.shop.next.80"));
    let nobody = backends(json!([{ "name": "next", "port": 80, "weight": 0 }]));
    assert_eq!(nobody.cluster.as_deref(), Some("kube.unresolved"), "a clear 503");
}

#[test]
fn grpc_routes_match_services_and_methods_over_http2_and_go_before_http_routes() {
    let matches = json!([
        { "method": { "service": "shop.Catalog", "method": "List" } },
        { "method": { "service": "shop.Catalog" }, "headers": [{ "name": "x-beta", "value": "1" }] },
        {},
    ]);
    let route = grpc("g", json!([{ "matches": matches, "backendRefs": to("next") }]));
    let (routes, outcomes) = Bench::of(&[route, http("h", json!([{ "backendRefs": to("next") }]))]);
    assert_eq!(routes.len(), 3, "{routes:?}");
    assert_eq!(routes[0].matches.path.as_deref(), Some("/shop.Catalog/List"));
    assert_eq!(routes[1].matches.path_prefix.as_deref(), Some("/shop.Catalog"));
    assert_eq!((routes[1].matches.headers["x-beta"].as_str(), &routes[2].matches.path_prefix), ("1", &None));
    assert_eq!(routes[0].cluster.as_deref(), Some("kube.shop.next.80.h2"));
    let conflicted = outcomes.iter().find(|o| o.key.kind == Kind::Http).unwrap();
    assert_eq!((conflicted.parents[0].1.reason, conflicted.rules), ("Conflicted", 0));
    for (method, words) in [
        (json!({ "method": "List" }), "without its `service`"),
        (json!({ "type": "RegularExpression", "service": "shop.*" }), "RegularExpression"),
    ] {
        let rules = json!([{ "matches": [{ "method": method }], "backendRefs": to("next") }]);
        let (reason, message) = refusal(&grpc("g", rules));
        assert!(reason == "UnsupportedValue" && message.contains(words), "{reason}: {message}");
    }
}

#[test]
fn a_service_that_says_that_it_speaks_http2_is_spoken_to_so() {
    let bench = bench();
    let port = json!([{ "port": 80, "appProtocol": "kubernetes.io/h2c" }]);
    bench.hub.set(Resource::Services, &service("shop", "next", port));
    bench.put(&http("a", json!([{ "backendRefs": to("next") }])));
    assert_eq!(bench.translation().clusters["kube.shop.next.80.h2"].protocol, Protocol::Http2);
}

#[test]
fn what_is_not_supported_is_refused_with_its_place_and_leads_nowhere() {
    let matched = |wanted: Value| json!([{ "matches": [{}, wanted], "backendRefs": to("next") }]);
    let filtered =
        |filter: Value| json!([{ "backendRefs": to("next") }, { "filters": [filter], "backendRefs": to("next") }]);
    for (rules, reason, words) in [
        (
            matched(json!({ "path": { "type": "RegularExpression", "value": "/a.*" } })),
            "UnsupportedValue",
            "rules[0].matches[1]: a path of the type `RegularExpression`",
        ),
        (
            matched(json!({ "headers": [{ "type": "RegularExpression", "name": "a", "value": ".*" }] })),
            "UnsupportedValue",
            "a header of the type",
        ),
        (
            matched(json!({ "queryParams": [{ "type": "RegularExpression", "name": "a", "value": ".*" }] })),
            "UnsupportedValue",
            "a query parameter of the type",
        ),
        (
            matched(json!({ "path": { "type": "Exact", "value": "a" } })),
            "UnsupportedValue",
            "rules[0].matches[1]: the path `a` does not begin with `/`",
        ),
        (
            matched(json!({ "headers": [{ "name": "a b", "value": "1" }] })),
            "UnsupportedValue",
            "`a b` is not the name of a header",
        ),
        (filtered(json!({ "type": "CORS", "cors": {} })), "UnsupportedValue", "rules[1].filters[0]: the filter `CORS`"),
        (filtered(json!({ "type": "ExtensionRef", "extensionRef": {} })), "UnsupportedValue", "`ExtensionRef`"),
        (
            filtered(
                json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceFullPath", "replaceFullPath": "/a" } } }),
            ),
            "UnsupportedValue",
            "`ReplaceFullPath`",
        ),
        (
            filtered(
                json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "Host", "value": "a" }] } }),
            ),
            "UnsupportedValue",
            "`host` cannot be changed here",
        ),
        (filtered(json!({ "type": "RequestHeaderModifier" })), "UnsupportedValue", "says nothing"),
        (
            filtered(json!({ "type": "RequestRedirect", "requestRedirect": { "scheme": "https" } })),
            "UnsupportedValue",
            "cannot both be",
        ),
        (
            json!([{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } }] }]),
            "UnsupportedValue",
            "`ReplacePrefixMatch`",
        ),
        (
            json!([{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https" } }, { "type": "URLRewrite", "urlRewrite": { "hostname": "a" } }] }]),
            "IncompatibleFilters",
            "cannot both be",
        ),
        (json!([{ "retry": { "attempts": 1 }, "backendRefs": to("next") }]), "UnsupportedValue", "rules[0]: `retry`"),
        (json!([{ "sessionPersistence": {}, "backendRefs": to("next") }]), "UnsupportedValue", "`sessionPersistence`"),
        (
            json!([{ "timeouts": { "request": "soon" }, "backendRefs": to("next") }]),
            "UnsupportedValue",
            "`soon` is not a length of time",
        ),
        (
            json!([{ "backendRefs": [{ "name": "next", "port": 80, "filters": [{ "type": "URLRewrite" }] }] }]),
            "UnsupportedValue",
            "rules[0].backendRefs[0]: filters of one backend",
        ),
        (
            json!([{ "filters": [
            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "next", "port": 80 } } },
            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "catalog", "port": 80 } } },
        ], "backendRefs": to("next") }]),
            "UnsupportedValue",
            "a second `RequestMirror`",
        ),
        (json!("many"), "UnsupportedValue", "cannot be read"),
        (json!([{ "backendRefs": 7 }]), "UnsupportedValue", "cannot be read"),
    ] {
        let (found, message) = refusal(&http("a", rules.clone()));
        assert!(found == reason && message.contains(words), "{rules}: {found}: {message}");
    }
}

#[test]
fn a_parent_that_cannot_be_one_is_refused_and_others_are_not_this_proxys_business() {
    let parent =
        |parent: Value| object(Kind::Http, "a", "2026-11-01T00:00:00Z", json!({ "parentRefs": [parent], "rules": [] }));
    for (wanted, reason, words) in [
        (json!({ "group": "", "kind": "Service", "name": "nobody" }), "NoMatchingParent", "no Service `shop/nobody`"),
        (json!({ "group": "", "kind": "Service", "name": "catalog", "port": 81 }), "NoMatchingParent", "no such port"),
        (
            json!({ "group": "", "kind": "Service", "name": "depot", "port": 81 }),
            "UnsupportedValue",
            "one of several ports",
        ),
        (
            json!({ "group": "", "kind": "Service", "name": "stock", "namespace": "other" }),
            "UnsupportedValue",
            "another namespace",
        ),
    ] {
        let (found, message) = refusal(&parent(wanted.clone()));
        assert!(found == reason && message.contains(words), "{wanted}: {found}: {message}");
    }
    for wanted in [json!({ "name": "mesh" }), json!({ "group": "x.test", "kind": "Service", "name": "catalog" })] {
        assert_eq!(Bench::of(&[parent(wanted)]), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_gateway_that_is_named_stands_for_the_hosts_of_its_routes() {
    let mut bench = bench();
    bench.config.gateway_api.gateways = vec!["shop/mesh".into(), "infra/mesh".into()];
    let spec = |hosts: Value, namespace: &str| json!({ "parentRefs": [{ "name": "mesh", "namespace": namespace }], "hostnames": hosts, "rules": [{ "backendRefs": to("next") }] });
    let put = |name: &str, spec: Value| bench.put(&object(Kind::Http, name, "2026-11-01T00:00:00Z", spec));
    put("a", spec(json!(["*.shop.test", "catalog.shop.test", "*.test"]), "shop"));
    put("b", json!({ "parentRefs": [{ "name": "mesh" }], "rules": [{ "backendRefs": to("next") }] }));
    put("c", spec(json!(["a:80"]), "shop"));
    put("d", spec(json!(["stolen.test"]), "infra"));
    let made = bench.translation();
    let hosts: Vec<Option<&str>> = made.routes.iter().map(|r| r.matches.host.as_deref()).collect();
    assert_eq!(hosts, [Some("catalog.shop.test"), Some("*.shop.test"), Some("*.test"), None], "the most exact first");
    let why = |name: &str| {
        let outcome = made.outcomes.iter().find(|o| o.key.name == name).unwrap();
        (outcome.parents[0].1.reason, outcome.parents[0].1.message.clone())
    };
    let (reason, message) = why("c");
    assert!(reason == "UnsupportedValue" && message.starts_with("hostnames: "), "{message}");
    assert_eq!(why("d").0, "NotAllowedByListeners");
}

#[test]
fn the_order_is_the_apis_own_and_requests_meet_it() {
    let path = |how: &str, value: &str| json!({ "path": { "type": how, "value": value } });
    let rule = |matches: Value, to: u32| json!({ "matches": [matches], "backendRefs": to_(to) });
    // Each leads to a share of its own, by which it is known again.
    fn to_(weight: u32) -> Value {
        json!([{ "name": "catalog", "port": 80, "weight": weight }, { "name": "next", "port": 80, "weight": 100 - weight }])
    }
    let header = |n: usize| (0..n).map(|i| json!({ "name": format!("h{i}"), "value": "1" })).collect::<Vec<_>>();
    let mut with_method = path("PathPrefix", "/a");
    with_method["method"] = json!("GET");
    let mut with_headers = path("PathPrefix", "/a");
    with_headers["headers"] = json!(header(2));
    let mut with_query = path("PathPrefix", "/a");
    with_query["queryParams"] = json!([{ "name": "q", "value": "1" }]);
    let mut with_header = path("PathPrefix", "/a");
    with_header["headers"] = json!(header(1));
    let rules = json!([
        rule(path("PathPrefix", "/"), 1),
        rule(with_query, 2),
        rule(path("PathPrefix", "/a"), 3),
        rule(with_header, 4),
        rule(with_headers, 5),
        rule(with_method, 6),
        rule(path("PathPrefix", "/a/b"), 7),
        rule(path("Exact", "/a"), 8),
        rule(path("PathPrefix", "/a"), 9),
    ]);
    let parents = json!([{ "group": "", "kind": "Service", "name": "catalog" }]);
    let route = |name: &str, created: &str, rules: Value| {
        object(Kind::Http, name, created, json!({ "parentRefs": parents, "rules": rules }))
    };
    let (routes, _) = Bench::of(&[
        route("b", "2026-11-02T00:00:00Z", rules),
        // Younger, then as old and earlier by its name, then older.
        route("a", "2026-11-03T00:00:00Z", json!([rule(path("PathPrefix", "/a"), 10)])),
        route("a2", "2026-11-02T00:00:00Z", json!([rule(path("PathPrefix", "/a"), 11)])),
        route("z", "2026-11-01T00:00:00Z", json!([rule(path("PathPrefix", "/a"), 12)])),
    ]);
    let share = |route: &Route| (route.split["kube.shop.catalog.80"].0 * 100.0).round() as u32;
    assert_eq!(routes.iter().map(share).collect::<Vec<_>>(), [8, 7, 6, 5, 4, 2, 12, 11, 3, 9, 10, 1]);
    // The table finds them in this order.
    let clusters = ["kube.shop.catalog.80", "kube.shop.next.80"].map(|name| (name.to_owned(), Cluster::default()));
    let table = RouteTable::compile(&Config { routes, clusters: clusters.into(), ..Config::default() });
    let found = |path: &str, query: &str, method: Method, headers: usize| {
        let headers: HeaderMap = (0..headers)
            .map(|i| (HeaderName::from_bytes(format!("h{i}").as_bytes()).unwrap(), HeaderValue::from_static("1")))
            .collect();
        let host = "catalog.shop.svc.cluster.local:80";
        table.find(&RequestHead { host, path, query, method: &method, headers: &headers }).unwrap().index
    };
    assert_eq!(found("/a", "", Method::PUT, 0), 0, "the exact path");
    assert_eq!(found("/a/b/c", "", Method::GET, 2), 1, "the longer prefix");
    assert_eq!(found("/a/c", "q=1", Method::GET, 2), 2, "the method");
    assert_eq!(found("/a/c", "q=1", Method::PUT, 2), 3, "more headers");
    assert_eq!(found("/a/c", "q=1", Method::PUT, 1), 4);
    assert_eq!(found("/a/c", "q=1", Method::PUT, 0), 5, "the query");
    assert_eq!(found("/a/c", "", Method::PUT, 0), 6, "the oldest");
    assert_eq!(found("/x", "", Method::PUT, 0), 11);
}

#[test]
fn a_backend_that_cannot_be_found_keeps_its_share_and_is_named() {
    for (wanted, reason, words) in [
        (
            json!({ "name": "nobody", "port": 80 }),
            "BackendNotFound",
            "rules[0].backendRefs[1]: there is no Service `shop/nobody`",
        ),
        (json!({ "name": "next", "port": 81 }), "BackendNotFound", "no such port: 81"),
        (json!({ "name": "next" }), "BackendNotFound", "not said"),
        (json!({ "name": "stock", "namespace": "other", "port": 80 }), "RefNotPermitted", "ReferenceGrants"),
        (json!({ "name": "x", "kind": "Bucket", "group": "store.test" }), "InvalidKind", "`Bucket`"),
    ] {
        let refs = json!([{ "name": "catalog", "port": 80 }, wanted]);
        let (routes, outcomes) = Bench::of(&[http("a", json!([{ "backendRefs": refs }]))]);
        assert_eq!(routes[0].split["kube.unresolved"], Share(0.5));
        let (_, accepted, resolved) = &outcomes[0].parents[0];
        assert!(accepted.holds && !resolved.holds && outcomes[0].word() == "unresolved");
        assert!(resolved.reason == reason && resolved.message.contains(words), "{resolved:?}");
    }
    // It comes, and is used; it leaves, and is missed.
    let bench = bench();
    bench.put(&http("a", json!([{ "backendRefs": to("late") }])));
    assert!(bench.translation().clusters.contains_key("kube.unresolved"));
    let late = service("shop", "late", json!([{ "port": 80 }]));
    bench.hub.set(Resource::Services, &late);
    assert_eq!(bench.translation().clusters.keys().collect::<Vec<_>>(), ["kube.shop.late.80"]);
    bench.hub.remove(Resource::Services, &late);
    assert_eq!(bench.translation().outcomes[0].word(), "unresolved");
}

#[test]
fn a_version_that_is_refused_leaves_the_last_good_one_in_force_and_takes_no_other_route_along() {
    let bench = bench();
    let of = |name: &str, generation: i64, rules: Value| {
        let mut route = http(name, rules);
        route["metadata"]["generation"] = json!(generation);
        route
    };
    bench.put(&of("a", 1, json!([{ "matches": [{ "path": { "value": "/a" } }], "backendRefs": to("next") }])));
    bench.put(&of("b", 1, json!([{ "matches": [{ "path": { "value": "/b" } }], "backendRefs": to("next") }])));
    let before = bench.translation();
    for (generation, nonsense) in [(2, json!("many")), (3, json!([{ "retry": {}, "backendRefs": to("catalog") }]))] {
        bench.put(&of("a", generation, nonsense));
        let after = bench.translation();
        assert!(after.leads_as(&before));
        let outcome = &after.outcomes[0];
        assert_eq!((outcome.word(), outcome.kept, outcome.generation), ("refused", Some(1), generation));
        assert!(outcome.parents[0].1.message.ends_with("the rules of generation 1 stay"), "{outcome:?}");
        assert_eq!(after.outcomes[1].word(), "accepted");
    }
    // Another one of its name is another one.
    let mut other = of("a", 1, json!("many"));
    other["metadata"]["uid"] = json!("another");
    bench.put(&other);
    assert_eq!(bench.translation().routes.len(), 3);
    bench.put(&of("a", 4, json!([{ "backendRefs": to("catalog") }])));
    assert_eq!((bench.translation().routes.len(), bench.translation().outcomes[0].word()), (6, "accepted"));
    bench.hub.remove(Resource::Routes(Kind::Http), &of("a", 4, json!([])));
    assert_eq!(bench.translation().routes.len(), 3);
}

#[test]
fn there_is_room_for_so_many_and_the_oldest_have_it() {
    let mut bench = bench();
    let route = |name: &str, created: &str, to_: &str| {
        let mut route = http(name, json!([{ "backendRefs": to(to_) }]));
        route["metadata"]["creationTimestamp"] = json!(created);
        route
    };
    bench.put(&route("young", "2026-11-03T00:00:00Z", "next"));
    bench.put(&route("old", "2026-11-01T00:00:00Z", "catalog"));
    for (rules, clusters, key) in [(5, 9, "most_rules"), (99, 1, "most_clusters")] {
        (bench.config.gateway_api.most_rules, bench.config.gateway_api.most_clusters) = (rules, clusters);
        let made = bench.translation();
        assert_eq!((made.routes.len(), made.clusters.len()), (3, 1));
        let young = made.outcomes.iter().find(|o| o.key.name == "young").unwrap();
        let (_, accepted, _) = &young.parents[0];
        assert!(accepted.reason == "TooMany" && accepted.message.contains(key), "{accepted:?}");
    }
    bench.config.gateway_api.most_rules = 2;
    assert!(bench.translation().outcomes.iter().all(|o| o.parents[0].1.reason == "TooMany"));
}

#[test]
fn clusters_take_their_settings_from_the_template_and_those_of_the_file_go_first() {
    let mut bench = bench();
    bench.config.gateway_api.template = Some("settings".into());
    let mut template = Cluster::default();
    (template.timeouts.connect, template.protocol) = (Timespan(Duration::from_millis(77)), Protocol::Http2);
    bench.config.clusters.insert("settings".into(), template);
    bench.put(&http("a", json!([{ "backendRefs": to("next") }])));
    let made = bench.translation();
    let cluster = &made.clusters["kube.shop.next.80"];
    assert_eq!((cluster.timeouts.connect, cluster.protocol), (Timespan(Duration::from_millis(77)), Protocol::Http2));
    assert_eq!(cluster.discover.len(), 1);
    let own = Cluster { service: "mine".into(), ..Cluster::default() };
    bench.config.clusters.insert("kube.shop.next.80".into(), own);
    bench.config.routes.push(Route::default());
    let whole = super::with(&Arc::new(bench.config.clone()), &made);
    assert_eq!((whole.clusters["kube.shop.next.80"].service.as_str(), whole.routes.len()), ("mine", 4));
    assert_eq!(whole.routes[0], Route::default(), "the file's own rules are the first");
}

#[test]
fn nothing_is_made_before_the_services_are_known() {
    let hub = Hub::new(Arc::default());
    hub.expect(&ALL);
    hub.replace(&ALL[0], &[http("a", json!([{ "backendRefs": to("next") }]))]);
    hub.works(&ALL[0]);
    let config = config(GatewayApi::default());
    assert!(hub.translation(&config).is_none());
    hub.works(&ALL[2]);
    assert!(hub.translation(&config).is_some(), "without GRPCRoutes, whose definition may not be installed");
}

/// The conditions that a patch writes for an entry of ours, by type: status, reason, time.
fn written(patch: &Value, entry: usize) -> Vec<(String, String, String, String)> {
    let conditions = patch["status"]["parents"][entry]["conditions"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    conditions
        .iter()
        .map(|c| (text(&c["type"]), text(&c["status"]), text(&c["reason"]), text(&c["lastTransitionTime"])))
        .collect()
}

#[test]
fn a_status_is_written_once_and_others_words_stay() {
    let bench = bench();
    let theirs = json!({ "parentRef": { "name": "edge" }, "controllerName": "other.test/x", "conditions": [] });
    let mut route = http("a", json!([{ "backendRefs": to("nobody") }]));
    route["status"] = json!({ "parents": [theirs] });
    bench.put(&route);
    let look = |time: &str| {
        bench.hub.tell(bench.translation().outcomes);
        let (outcome, meta, parents) = bench.hub.each().into_iter().next().unwrap();
        patch(&outcome, &meta, &parents, time)
    };
    let first = look("2026-11-20T00:00:01Z").unwrap();
    assert_eq!(first["metadata"]["resourceVersion"], "7");
    assert_eq!(first["status"]["parents"][0], theirs);
    let ours = &first["status"]["parents"][1];
    assert_eq!(ours["controllerName"], "pathloom.dev/sidecar");
    assert_eq!(ours["parentRef"], json!({ "group": "", "kind": "Service", "name": "catalog", "port": 80 }));
    assert_eq!(ours["conditions"][0]["observedGeneration"], 1);
    let time = "2026-11-20T00:00:01Z".to_owned();
    let condition =
        |kind: &str, status: &str, reason: &str| (kind.to_owned(), status.to_owned(), reason.to_owned(), time.clone());
    assert_eq!(
        written(&first, 1),
        [condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", "False", "BackendNotFound")]
    );
    // It stands there: nothing more is to be written, at any time.
    route["status"] = first["status"].clone();
    bench.put(&route);
    assert_eq!(look("2026-11-20T00:00:02Z"), None);
    // What changes has a new time, and the rest its old one.
    bench.hub.set(Resource::Services, &service("shop", "nobody", json!([{ "port": 80 }])));
    let next = look("2026-11-20T00:00:03Z").unwrap();
    let times: Vec<String> = written(&next, 1).into_iter().map(|c| c.3).collect();
    assert_eq!(times, ["2026-11-20T00:00:01Z", "2026-11-20T00:00:03Z"]);
    // A version of which nothing is known yet gets no word.
    route["metadata"]["generation"] = json!(2);
    bench.put(&route);
    assert!(bench.hub.each().is_empty());
    // A route that leaves is no business any more, and what was said of it goes.
    route["spec"]["parentRefs"] = json!([{ "name": "edge" }]);
    bench.put(&route);
    assert_eq!(look("2026-11-20T00:00:04Z").unwrap()["status"]["parents"], json!([theirs]));
}
