//! Where requests go: weights, protocols, what cannot be found or may not be used.

use super::*;

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
    assert_eq!(nobody.cluster.as_deref(), Some("kube.unresolved"), "a clear 500");
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
fn a_backend_that_cannot_be_found_keeps_its_share_and_is_named() {
    for (wanted, reason, words) in [
        (
            json!({ "name": "nobody", "port": 80 }),
            "BackendNotFound",
            "rules[0].backendRefs[1]: there is no Service `shop/nobody`",
        ),
        (json!({ "name": "next", "port": 81 }), "BackendNotFound", "no such port: 81"),
        (json!({ "name": "next" }), "BackendNotFound", "not said"),
        (
            json!({ "name": "stock", "namespace": "other", "port": 80 }),
            "RefNotPermitted",
            "no ReferenceGrant of `other`",
        ),
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
    let whole = super::super::with(&Arc::new(bench.config.clone()), &made);
    assert_eq!((whole.clusters["kube.shop.next.80"].service.as_str(), whole.routes.len()), ("mine", 4));
    assert_eq!(whole.routes[0], Route::default(), "the file's own rules are the first");
}

/// A route to `next` and, with as much weight, to `stock` of the namespace `other`.
fn abroad(kind: Kind) -> Value {
    let refs = json!([{ "name": "next", "port": 80 }, { "name": "stock", "namespace": "other", "port": 80 }]);
    let make = if kind == Kind::Http { http } else { grpc };
    make("a", json!([{ "backendRefs": refs }]))
}

#[test]
fn a_grant_lets_routes_lead_to_another_namespace_for_as_long_as_it_is_there() {
    let bench = bench();
    bench.put(&abroad(Kind::Http));
    let seen = || {
        let made = bench.translation();
        let resolved = &made.outcomes[0].parents[0].2;
        let shares = made.routes[0].split.clone();
        (shares.into_keys().collect::<Vec<_>>(), resolved.reason, made.clusters.keys().cloned().collect::<Vec<_>>())
    };
    let refused = (
        vec!["kube.shop.next.80".to_owned(), "kube.unresolved".to_owned()],
        "RefNotPermitted",
        vec!["kube.shop.next.80".to_owned(), "kube.unresolved".to_owned()],
    );
    assert_eq!(seen(), refused, "its share goes nowhere");
    let allows = grant(
        "shop",
        json!({ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop" }),
        json!({ "group": "", "kind": "Service" }),
    );
    bench.hub.set(Resource::Grants, &allows);
    let both = vec!["kube.other.stock.80".to_owned(), "kube.shop.next.80".to_owned()];
    assert_eq!(seen(), (both.clone(), "ResolvedRefs", both));
    let cluster = &bench.translation().clusters["kube.other.stock.80"];
    assert_eq!(cluster.discover[0].to_string(), "kubernetes other/stock:http");
    bench.hub.remove(Resource::Grants, &allows);
    assert_eq!(seen(), refused);
    // A list anew, with it and without.
    bench.hub.replace(&ALL[3], std::slice::from_ref(&allows));
    assert_eq!(seen().1, "ResolvedRefs");
    bench.hub.replace(&ALL[3], &[]);
    assert_eq!(seen(), refused);
}

#[test]
fn a_grant_is_for_one_kind_from_one_namespace_to_one_service_or_all() {
    let from = |kind: &str, namespace: &str| json!({ "group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace });
    let service = |name: &str| json!({ "group": "", "kind": "Service", "name": name });
    let all = json!({ "group": "", "kind": "Service" });
    let permitted = |grant: &Value, kind: Kind| {
        let bench = bench();
        bench.hub.set(Resource::Grants, grant);
        bench.put(&abroad(kind));
        bench.translation().outcomes[0].word() == "accepted"
    };
    for (from, to, which) in [
        (from("HTTPRoute", "shop"), all.clone(), [true, false]),
        (from("GRPCRoute", "shop"), all.clone(), [false, true]),
        (from("HTTPRoute", "shop"), service("stock"), [true, false]),
        (from("HTTPRoute", "shop"), service(""), [true, false]),
        (from("HTTPRoute", "shop"), service("depot"), [false, false]),
        (from("HTTPRoute", "other"), all.clone(), [false, false]),
        (json!({ "group": "", "kind": "HTTPRoute", "namespace": "shop" }), all.clone(), [false, false]),
        (from("HTTPRoute", "shop"), json!({ "group": "", "kind": "Secret" }), [false, false]),
        (from("HTTPRoute", "shop"), json!({ "group": "x.test", "kind": "Service" }), [false, false]),
        (json!("everybody"), all.clone(), [false, false]),
    ] {
        let grant = grant("a", from, to);
        assert_eq!([Kind::Http, Kind::Grpc].map(|kind| permitted(&grant, kind)), which, "{grant}");
    }
    // In its own namespace alone, whatever it says.
    let mut elsewhere = grant("a", from("HTTPRoute", "shop"), all);
    elsewhere["metadata"]["namespace"] = json!("shop");
    assert!(!permitted(&elsewhere, Kind::Http));
}

#[test]
fn a_mirror_needs_a_grant_too_and_a_namespace_that_does_not_count_is_named() {
    let mut bench = bench();
    let mirror = json!({ "backendRef": { "name": "stock", "namespace": "other", "port": 80 } });
    let filter = json!({ "type": "RequestMirror", "requestMirror": mirror });
    bench.put(&http("a", json!([{ "filters": [filter], "backendRefs": to("next") }])));
    let made = bench.translation();
    assert_eq!((made.outcomes[0].parents[0].2.reason, &made.routes[0].mirror.cluster), ("RefNotPermitted", &None));
    bench.config.gateway_api.namespaces = vec!["shop".into()];
    let message = bench.translation().outcomes[0].parents[0].2.message.clone();
    assert!(message.contains("`gateway_api.namespaces` does not name"), "{message}");
}
