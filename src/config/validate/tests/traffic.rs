//! What routes do beyond choosing a cluster, and who stays with which endpoint.

use super::*;

/// What is found of a route with these keys, after its place; and of a cluster with those.
#[track_caller]
fn with(route: &str, cluster: &str) -> Vec<String> {
    yaml(&format!(
        "workloads: {{ a: {{ listen: 127.0.0.1:1 }} }}\nroutes: [{{ {route} }}]\n\
         clusters: {{ c: {{ endpoints: [{{ address: 10.0.0.1:80 }}]{cluster} }}, d: {{ endpoints: [{{ address: 10.0.0.2:80 }}] }} }}"
    ))
    .into_iter()
    .filter(|found| !found.contains("no route leads to"))
    .collect()
}

#[track_caller]
fn route(keys: &str) -> Vec<String> {
    with(keys, "")
}

const NONE: [&str; 0] = [];

#[test]
fn a_rewrite_replaces_what_was_matched() {
    assert_eq!(
        route("match: { path_prefix: /v1 }, rewrite: { path_prefix: /, host: \"o.shop:80\" }, cluster: c"),
        NONE
    );
    assert_eq!(
        route("rewrite: { path_prefix: /v2 }, cluster: c"),
        ["2:23 the route matches no prefix that could be replaced"]
    );
    assert_eq!(
        route("match: { path_prefix: /v1 }, rewrite: { path_prefix: v2 }, cluster: c"),
        ["2:65 the path `v2` does not begin with `/`"]
    );
    assert_eq!(route("rewrite: { path: /new, host: o.shop }, cluster: c"), NONE);
    assert_eq!(
        route("match: { path_prefix: /v1 }, rewrite: { path: /new, path_prefix: /v2 }, cluster: c"),
        ["2:52 the path is replaced whole, and its prefix, too"]
    );
    for path in ["new", "/new?a=b", "/ne w", "/<new>"] {
        assert_eq!(route(&format!("rewrite: {{ path: \"{path}\" }}, cluster: c")).len(), 1, "{path}");
    }
    for host in ["*.shop", "a b", "o.shop:0", "o.shop:99999", "o.shop/x", "u@o.shop", "http://o.shop"] {
        assert_eq!(route(&format!("rewrite: {{ host: \"{host}\" }}, cluster: c")).len(), 1, "{host}");
    }
}

#[test]
fn a_redirect_leads_to_one_place_with_a_status_that_redirects() {
    for fine in
        ["path: /new", "path: \"/new?a=b\"", "host: \"a.b:8443\"", "scheme: https, status: 301", "host: \"[::1]:80\""]
    {
        assert_eq!(route(&format!("redirect: {{ {fine} }}")), NONE, "{fine}");
    }
    assert_eq!(route("match: { path_prefix: /v1 }, redirect: { path_prefix: /v2, port: 8443 }"), NONE);
    assert_eq!(route("redirect: { path_prefix: /v2 }"), ["2:24 the route matches no prefix that could be replaced"]);
    assert_eq!(
        route("match: { path_prefix: /v1 }, redirect: { path: /new, path_prefix: /v2 }"),
        ["2:53 the path is replaced whole, and its prefix, too"]
    );
    for prefix in ["//evil.com", "new", "/new?a=b"] {
        let keys = format!("match: {{ path_prefix: /v1 }}, redirect: {{ path_prefix: \"{prefix}\" }}");
        assert_eq!(route(&keys).len(), 1, "{prefix}");
    }
    assert_eq!(route("redirect: { port: 0 }"), ["2:30 0 is no port"]);
    assert_eq!(route("redirect: { host: a.b, port: 80 }"), ["2:35 the port of another host is said with it"]);
    assert_eq!(route("redirect: { status: 301 }, cluster: c"), ["2:12 the redirect leads nowhere"]);
    assert_eq!(
        route("redirect: { path: /new }, cluster: c"),
        ["2:12 the route has both `redirect` and endpoints to send requests to"]
    );
    assert_eq!(route("redirect: { path: /new, status: 300 }"), ["2:44 300 is no status that redirects"]);
    assert_eq!(route("redirect: { path: //evil.com }"), ["2:30 `//evil.com` would be read as a host"]);
    for wrong in [
        "path: new",
        "path: \"/a\\r\\nset-cookie: x\"",
        "path: \"/a?b\\nc\"",
        "path: \"/\\\\evil\"",
        "path: \"/a#b\"",
        "host: \"*.b\"",
    ] {
        assert_eq!(route(&format!("redirect: {{ {wrong} }}")).len(), 1, "{wrong}");
    }
    assert_eq!(route("redirect: { scheme: ftp }").len(), 1);
    let idle = route("redirect: { path: /new }, rewrite: { host: a.b }");
    assert!(idle.len() == 1 && idle[0].contains("do nothing"), "{idle:?}");
}

#[test]
fn headers_that_the_proxy_needs_are_left_to_it() {
    let fine = "headers: { request: { set: { x-a: \"1\", x-forwarded-proto: https }, add: { x-b: \"2\" }, remove: [x-c, cookie] }, \
                response: { set: { cache-control: no-store }, add: { vary: x }, remove: [server] } }, cluster: c";
    assert_eq!(route(fine), NONE);
    let refused = |way: &str, what: &str, name: &str| {
        let edit = if what == "remove" { format!("[{name}]") } else { format!("{{ {name}: x }}") };
        let found = route(&format!("headers: {{ {way}: {{ {what}: {edit} }} }}, cluster: c"));
        found.len() == 1 && found[0].contains("cannot be changed here")
    };
    for what in ["set", "add", "remove"] {
        for name in
            ["Connection", "content-length", "transfer-encoding", "te", "upgrade", "trailer", "keep-alive", "via"]
        {
            assert!(refused("request", what, name) && refused("response", what, name), "{what} {name}");
        }
        for name in [
            "host",
            "traceparent",
            "x-request-id",
            "X-Forwarded-For",
            "x-forwarded-client-cert",
            "x-pathloom-class",
            "grpc-timeout",
        ] {
            assert!(refused("request", what, name), "{what} {name}");
        }
        for name in ["x-request-id", "grpc-status", "proxy-status"] {
            assert!(refused("response", what, name), "{what} {name}");
        }
        assert_eq!(refused("request", what, "x-forwarded-proto"), what != "set");
    }
    for wrong in ["set: { \"a b\": x }", "set: { x: \"a\\r\\nb\" }", "add: { x: \" a\" }", "remove: [\":path\"]"] {
        assert_eq!(route(&format!("headers: {{ request: {{ {wrong} }} }}, cluster: c")).len(), 1, "{wrong}");
    }
    for twice in ["set: { x: a }, add: { x: b }", "set: { x: a, X: b }", "set: { x: a }, remove: [X]"] {
        assert_eq!(route(&format!("headers: {{ request: {{ {twice} }} }}, cluster: c")).len(), 1, "{twice}");
    }
}

#[test]
fn faults_say_what_how_long_and_how_often() {
    assert_eq!(
        route("fault: { delay: { time: 100ms, share: 10% }, abort: { status: 400, share: 1% } }, cluster: c"),
        NONE
    );
    assert_eq!(route("fault: { abort: { status: 599, share: 100% } }, cluster: c"), NONE);
    assert_eq!(route("fault: { delay: { share: 10% } }, cluster: c"), ["2:21 the delay has no time"]);
    assert_eq!(route("fault: { delay: { time: 1s } }, cluster: c"), ["2:21 nobody is delayed: the share is 0%"]);
    for status in [200, 399, 600] {
        let found = route(&format!("fault: {{ abort: {{ status: {status}, share: 1% }} }}, cluster: c"));
        assert!(found.len() == 1 && found[0].contains("not the status of a failure"), "{found:?}");
    }
}

#[test]
fn a_mirror_is_a_cluster() {
    assert_eq!(route("mirror: { cluster: d, share: 5%, max_body: 1KiB }, cluster: c"), NONE);
    assert_eq!(route("mirror: { share: 5% }, cluster: c"), ["2:12 the mirror has no cluster"]);
    assert_eq!(route("mirror: { cluster: e }, cluster: c"), ["2:31 there is no cluster `e`"]);
    let mirrored = yaml(
        "workloads: { a: { listen: 127.0.0.1:1 } }\nroutes: [{ mirror: { cluster: d }, cluster: c }]\n\
         clusters: { c: { endpoints: [{ address: 10.0.0.1:80 }] }, d: { endpoints: [{ address: 10.0.0.2:80 }] } }",
    );
    assert_eq!(mirrored, NONE, "copies lead to `d`");
}

#[test]
fn requests_stay_by_one_thing() {
    for fine in ["header: x-user", "cookie: session", "source: true", "source: false", ""] {
        assert_eq!(with("cluster: c", &format!(", affinity: {{ {fine} }}")), NONE, "{fine}");
    }
    let both = with("cluster: c", ", affinity: { header: x-user, source: true }");
    assert!(both.len() == 1 && both[0].contains("by one thing only"), "{both:?}");
    for wrong in ["header: \"a b\"", "cookie: \"a;b\""] {
        assert_eq!(with("cluster: c", &format!(", affinity: {{ {wrong} }}")).len(), 1, "{wrong}");
    }
}

#[test]
fn regular_expressions_can_be_read_and_are_not_too_large() {
    let matched = |keys: &str| route(&format!("match: {{ {keys} }}, cluster: c"));
    assert_eq!(matched("path_regex: \"/v[0-9]+\", headers_regex: { x-a: a|b }, query_regex: { v: \"[12]\" }"), NONE);
    assert_eq!(matched("path_regex: \"/[a\""), ["2:33 `/[a` is not a regular expression: unclosed character class"]);
    assert_eq!(matched("path_regex: \"\""), ["2:33 the regular expression is empty"]);
    assert_eq!(matched("headers_regex: { x-a: (a }"), ["2:43 `(a` is not a regular expression: unclosed group"]);
    assert_eq!(matched("query_regex: { v: \"(?:[a-z]{99}){99}\" }").len(), 1);
    assert_eq!(
        matched(&format!("path_regex: /{}", "a".repeat(4_096))),
        ["2:33 a regular expression of 4097 bytes is too long"]
    );
    for both in ["path: /a, path_regex: /b", "path_prefix: /a, path_regex: /b"] {
        let found = matched(both);
        assert!(found.len() == 1 && found[0].contains("and `path_regex`"), "{found:?}");
    }
    for wrong in ["headers_regex: { \"a b\": x }", "headers_regex: { X-A: x, x-a: y }", "query_regex: { \"\": x }"] {
        assert_eq!(matched(wrong).len(), 1, "{wrong}");
    }
}
