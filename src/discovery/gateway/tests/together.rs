//! All routes together: which rule is first, what stays and what has room, what is written into their status.

use super::*;

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
        rule(path("RegularExpression", "/a/b/[0-9]"), 13),
        rule(path("RegularExpression", "/.*/[0-9]+/x"), 14),
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
    assert_eq!(routes.iter().map(share).collect::<Vec<_>>(), [8, 14, 13, 7, 6, 5, 4, 2, 12, 11, 3, 9, 10, 1]);
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
    assert_eq!((found("/a/7/x", "", Method::PUT, 0), found("/a/b/7", "", Method::PUT, 0)), (1, 2), "the whole path");
    assert_eq!(found("/a/b/c", "", Method::GET, 2), 3, "the longer prefix");
    assert_eq!(found("/a/c", "q=1", Method::GET, 2), 4, "the method");
    assert_eq!(found("/a/c", "q=1", Method::PUT, 2), 5, "more headers");
    assert_eq!(found("/a/c", "q=1", Method::PUT, 1), 6);
    assert_eq!(found("/a/c", "q=1", Method::PUT, 0), 7, "the query");
    assert_eq!(found("/a/c", "", Method::PUT, 0), 8, "the oldest");
    assert_eq!(found("/x", "", Method::PUT, 0), 13);
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
    for (generation, nonsense) in
        [(2, json!("many")), (3, json!([{ "sessionPersistence": {}, "backendRefs": to("catalog") }]))]
    {
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
fn regular_expressions_are_bounded_over_all_routes_and_the_same_one_counts_once() {
    let mut bench = bench();
    (bench.config.gateway_api.most_rules, bench.config.gateway_api.most_clusters) = (10_000, 9);
    let route = |name: &str, created: &str, patterns: std::ops::Range<u32>| {
        let path = |n| json!({ "path": { "type": "RegularExpression", "value": format!("/[a-z]+/{n}") } });
        let rules: Vec<Value> = patterns
            .collect::<Vec<_>>()
            .chunks(8)
            .map(|some| json!({ "matches": some.iter().map(path).collect::<Vec<_>>(), "backendRefs": to("next") }))
            .collect();
        let mut route = http(name, json!(rules));
        route["metadata"]["creationTimestamp"] = json!(created);
        route
    };
    bench.put(&route("old", "2026-11-01T00:00:00Z", 0..400));
    bench.put(&route("same", "2026-11-02T00:00:00Z", 200..400));
    bench.put(&route("more", "2026-11-03T00:00:00Z", 350..501));
    bench.put(&route("last", "2026-11-04T00:00:00Z", 400..500));
    let made = bench.translation();
    let refused: Vec<_> = made.outcomes.iter().filter(|o| o.parents[0].1.reason == "TooMany").collect();
    assert_eq!(refused.iter().map(|o| o.key.name.as_str()).collect::<Vec<_>>(), ["more"]);
    assert!(refused[0].parents[0].1.message.contains("regular expressions"), "{:?}", refused[0].parents);
    assert_eq!(made.routes.len(), 3 * (400 + 200 + 100), "for each of the Service's names");
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
    assert!(hub.translation(&config).is_none(), "a grant may still be told of");
    hub.works(&ALL[3]);
    assert!(hub.translation(&config).is_some(), "without GRPCRoutes, whose definition may not be installed");
}

#[test]
fn grants_that_cannot_be_asked_for_are_none_and_hold_up_no_route() {
    let listed = || {
        let hub = Hub::new(Arc::default());
        hub.expect(&ALL);
        hub.replace(&ALL[0], &[http("a", json!([{ "backendRefs": to("next") }]))]);
        ALL.iter().take(3).for_each(|watch| hub.works(watch));
        hub
    };
    let config = config(GatewayApi::default());
    let grants = |hub: &Hub| hub.watches().into_iter().find(|((what, _), _)| *what == Resource::Grants).unwrap().1;
    // The kind is not installed, as in a cluster that has routes alone: that is no failure.
    let hub = listed();
    hub.fails(&ALL[3], Fault::NoSuchName, "404".to_owned());
    assert!(hub.translation(&config).is_some());
    let watched = grants(&hub);
    assert!(watched.absent && watched.listed && watched.trouble.is_none() && watched.failures == 0, "{watched:?}");
    // It is installed, and removed again, with all grants.
    let allows = grant(
        "shop",
        json!({ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop" }),
        json!({ "group": "", "kind": "Service" }),
    );
    hub.replace(
        &ALL[2],
        &[service("other", "stock", json!([{ "port": 80 }])), service("shop", "catalog", json!([{ "port": 80 }]))],
    );
    hub.set(
        Resource::Routes(Kind::Http),
        &http("a", json!([{ "backendRefs": [{ "name": "stock", "namespace": "other", "port": 80 }] }])),
    );
    hub.replace(&ALL[3], &[allows]);
    hub.works(&ALL[3]);
    let word = |hub: &Hub| hub.translation(&config).unwrap().outcomes[0].word();
    assert_eq!((word(&hub), grants(&hub).absent), ("accepted", false));
    hub.fails(&ALL[3], Fault::Denied, "403".to_owned());
    assert_eq!(word(&hub), "accepted", "what was told last counts");
    hub.fails(&ALL[3], Fault::NoSuchName, "404".to_owned());
    assert_eq!(word(&hub), "unresolved");
    // They may not be read, and never were.
    let hub = listed();
    hub.fails(&ALL[3], Fault::Denied, "403".to_owned());
    assert!(hub.translation(&config).is_some() && grants(&hub).failures == 1);
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
