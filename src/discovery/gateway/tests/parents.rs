//! Whose requests a route is for.

use super::*;

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
