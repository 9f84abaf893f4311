//! What one rule becomes: matches, filters, times; and what of it is refused.

use super::*;

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
    // Regular expressions, of which those that are the same name count as any others do.
    let regex = json!({ "path": { "type": "RegularExpression", "value": "/v[0-9]+/.*" } });
    assert_eq!(matches(regex).path_regex.as_deref(), Some("/v[0-9]+/.*"));
    let wanted = |name: &str, how: &str, value: &str| json!({ "type": how, "name": name, "value": value });
    let headers = json!({ "headers": [
        wanted("X-A", "RegularExpression", "a.*"), wanted("x-a", "Exact", "b"), wanted("x-b", "Exact", "c"),
        wanted("x-b", "RegularExpression", "d"),
    ] });
    let made = matches(headers);
    assert_eq!(made.headers_regex, [("x-a".to_owned(), "a.*".to_owned())].into());
    assert_eq!(made.headers, [("x-b".to_owned(), "c".to_owned())].into());
    let query = json!({ "queryParams": [wanted("V", "RegularExpression", "[12]"), wanted("v", "Exact", "3")] });
    let made = matches(query);
    assert_eq!((made.query_regex["V"].as_str(), made.query["v"].as_str()), ("[12]", "3"));
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
    let prefix = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2" });
    let whole = json!({ "type": "RequestRedirect", "requestRedirect": { "path": prefix } });
    let made = one(json!({ "filters": [whole], "matches": [{ "path": { "value": "/v1" } }] }));
    assert_eq!((made.redirect.path_prefix.as_deref(), made.redirect.path), (Some("/v2"), None));
    let whole = json!({ "type": "RequestRedirect", "requestRedirect": { "path": prefix } });
    assert_eq!(one(json!({ "filters": [whole] })).matches.path_prefix.as_deref(), Some("/"), "every path's prefix");
    let port = |to: Value| (redirect(to.clone()).host, redirect(to).port);
    assert_eq!(port(json!({ "port": 8443 })), (None, Some(8443)));
    assert_eq!(port(json!({ "scheme": "https", "port": 443 })), (None, None), "it goes without saying");
    assert_eq!(port(json!({ "scheme": "http", "hostname": "a.b", "port": 443 })), (Some("a.b:443".into()), None));
    let whole = json!({ "type": "ReplaceFullPath", "replaceFullPath": "/new" });
    let made = with(json!({ "type": "URLRewrite", "urlRewrite": { "path": whole } })).rewrite;
    assert_eq!((made.path.as_deref(), made.path_prefix), (Some("/new"), None));
}

#[test]
fn tries_are_the_clusters_and_only_as_far_as_they_can_be() {
    let retried = |retry: Value| {
        let bench = bench();
        bench.put(&http("a", json!([{ "retry": retry, "backendRefs": to("next") }])));
        let made = bench.translation();
        assert_eq!(made.outcomes[0].word(), "accepted", "{:?}", made.outcomes);
        let (name, cluster) = made.clusters.into_iter().next().unwrap();
        assert_eq!(made.routes[0].cluster.as_deref(), Some(name.as_str()));
        (name, cluster.retries)
    };
    let usual = Retries::default();
    assert_eq!(retried(json!({})), ("kube.shop.next.80".to_owned(), usual.clone()));
    let three = Retries { attempts: 3, ..usual.clone() };
    assert_eq!(retried(json!({ "attempts": 3 })), ("kube.shop.next.80.3-retries".to_owned(), three.clone()));
    assert_eq!(retried(json!({ "attempts": 0 })).1.attempts, 0);
    let codes = json!({ "attempts": 3, "codes": [504, 502, 503] });
    assert_eq!(retried(codes), ("kube.shop.next.80.3-retries.gateway-errors".to_owned(), three));
    // The template's own word stays for the rest.
    let mut bench = bench();
    bench.config.gateway_api.template = Some("settings".into());
    let mut template = Cluster::default();
    template.retries.on = vec![RetryOn::Unavailable];
    bench.config.clusters.insert("settings".into(), template);
    bench.put(&http("a", json!([{ "retry": { "codes": [502, 503, 504] }, "backendRefs": to("next") }])));
    let made = bench.translation().clusters["kube.shop.next.80.gateway-errors"].retries.clone();
    assert_eq!(made.on, [RetryOn::Unavailable, RetryOn::Connect, RetryOn::Gateway]);
    assert_eq!(made.attempts, usual.attempts);
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
}

#[test]
fn a_grpc_method_alone_and_regular_expressions_are_paths_by_a_regular_expression() {
    let rules = |method: Value| json!([{ "matches": [{ "method": method }], "backendRefs": to("next") }]);
    for (method, path, others) in [
        (json!({ "method": "List" }), "/shop.Catalog/List", ["/shop.Catalog/Lists", "/shop.Catalog/x/List"]),
        (json!({ "method": "A.b" }), "/shop.Catalog/A.b", ["/shop.Catalog/Axb", "/A.b"]),
        (
            json!({ "type": "RegularExpression", "service": "shop\\.[A-Z]\\w+" }),
            "/shop.Catalog/List",
            ["/shop.catalog/List", "/shop.Catalog"],
        ),
        (
            json!({ "type": "RegularExpression", "service": "a|b", "method": "Get.*|List" }),
            "/b/GetAll",
            ["/b/All", "/a"],
        ),
        (json!({ "type": "RegularExpression", "method": "Get|List" }), "/any.Service/List", ["/List", "/a/b/List"]),
    ] {
        let (routes, _) = Bench::of(&[grpc("g", rules(method.clone()))]);
        let regex = Pattern::new(routes[0].matches.path_regex.as_deref().unwrap()).unwrap();
        assert!(regex.matches(path.as_bytes()), "{method}");
        others.iter().for_each(|other| assert!(!regex.matches(other.as_bytes()), "{method} {other}"));
    }
    for (method, words) in [
        (json!({ "type": "RegularExpression", "service": "a)|(b" }), "`a)|(b` is not a regular expression"),
        (json!({ "type": "Prefix", "service": "a" }), "a method of the type `Prefix`"),
    ] {
        let (reason, message) = refusal(&grpc("g", rules(method)));
        assert!(reason == "UnsupportedValue" && message.contains(words), "{reason}: {message}");
    }
}

#[test]
fn what_is_not_supported_is_refused_with_its_place_and_leads_nowhere() {
    let matched = |wanted: Value| json!([{ "matches": [{}, wanted], "backendRefs": to("next") }]);
    let filtered =
        |filter: Value| json!([{ "backendRefs": to("next") }, { "filters": [filter], "backendRefs": to("next") }]);
    for (rules, reason, words) in [
        (
            matched(json!({ "path": { "type": "RegularExpression", "value": "/[a" } })),
            "UnsupportedValue",
            "rules[0].matches[1]: `/[a` is not a regular expression: unclosed character class",
        ),
        (
            matched(json!({ "headers": [{ "type": "RegularExpression", "name": "a", "value": "(?:[a-z]{99}){99}" }] })),
            "UnsupportedValue",
            "rules[0].matches[1]: the regular expression `(?:[a-z]{99}){99}` is too large",
        ),
        (
            matched(json!({ "queryParams": [{ "type": "RegularExpression", "name": "a", "value": "a)|(b" }] })),
            "UnsupportedValue",
            "is not a regular expression: unopened group",
        ),
        (
            matched(json!({ "path": { "type": "Suffix", "value": "/a" } })),
            "UnsupportedValue",
            "rules[0].matches[1]: a path of the type `Suffix`",
        ),
        (
            matched(json!({ "headers": [{ "type": "Suffix", "name": "a", "value": "b" }] })),
            "UnsupportedValue",
            "a header of the type `Suffix`",
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
            filtered(json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceFullPath" } } })),
            "UnsupportedValue",
            "`ReplaceFullPath` does not say with what",
        ),
        (
            filtered(json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "Append", "append": "/a" } } })),
            "UnsupportedValue",
            "a path of the type `Append`",
        ),
        (
            json!([{
                "matches": [{ "path": { "type": "Exact", "value": "/a" } }],
                "filters": [{ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } }],
                "backendRefs": to("next"),
            }]),
            "UnsupportedValue",
            "the route matches no prefix that could be replaced",
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
            json!([{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "port": 0 } }] }]),
            "UnsupportedValue",
            "0 is no port",
        ),
        (
            json!([{ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https" } }, { "type": "URLRewrite", "urlRewrite": { "hostname": "a" } }] }]),
            "IncompatibleFilters",
            "cannot both be",
        ),
        (
            json!([{ "retry": { "backoff": "100ms" }, "backendRefs": to("next") }]),
            "UnsupportedValue",
            "rules[0]: `retry.backoff`",
        ),
        (json!([{ "retry": { "codes": [500] }, "backendRefs": to("next") }]), "UnsupportedValue", "`retry.codes`"),
        (
            json!([{ "retry": { "attempts": 99 }, "backendRefs": to("next") }]),
            "UnsupportedValue",
            "99 `retry.attempts`",
        ),
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
