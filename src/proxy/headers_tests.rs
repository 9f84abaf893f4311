//! Header rules, table by table.

use super::super::added::{Added, Usual};
use super::super::ids::Ids;
use super::super::propagation::Carried;
use super::*;
use http::{Request, Response};

const CLIENT: HeaderValue = HeaderValue::from_static("10.0.0.7");

fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn request(version: Version, method: Method, target: &str, lines: &[(&'static str, &str)]) -> request::Parts {
    let mut request = Request::builder().version(version).method(method).uri(target).body(()).unwrap();
    *request.headers_mut() = map(lines);
    request.into_parts().0
}

/// What reaches the endpoint of a GET over HTTP/1.1 with these headers: all but what every request gets.
fn sent(protocol: Protocol, lines: &[(&'static str, &str)]) -> (Vec<String>, Asks) {
    let mut parts = request(Version::HTTP_11, Method::GET, "/", lines);
    let seen = Seen::in_headers(&parts.headers);
    let host = HeaderValue::from_static("shop");
    let asks =
        to_upstream(&mut parts, &seen, protocol, &Hop { client: &CLIENT, host: &host, empty: true, secure: false })
            .unwrap();
    (listed(&parts.headers, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via"]), asks)
}

fn listed(headers: &HeaderMap, without: &[&str]) -> Vec<String> {
    let mut list: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    list.sort();
    list
}

#[test]
fn the_authority_is_what_the_client_asked_for_or_refused() {
    // One connection's: what it asked for before changes no verdict.
    let known = std::cell::RefCell::new(HeaderValue::from_static(""));
    let listener = HeaderValue::from_static("127.0.0.1:15001");
    let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let ask = |version, method: Method, target: &str, lines: &[(&'static str, &str)]| {
        let parts = request(version, method, target, lines);
        let seen = Seen::in_headers(&parts.headers);
        authority(&parts, &seen, None, &listener, &known)
            .map(|h| h.to_str().unwrap().to_owned())
            .map_err(|f| f.status().as_u16())
    };
    let get = |version, target: &str, lines: &[(&'static str, &str)]| ask(version, Method::GET, target, lines);
    let ok = |text: &str| Ok(text.to_owned());
    assert_eq!(get(h11, "/", &[("host", "shop:80")]), ok("shop:80"));
    assert_eq!(get(h11, "http://real/x", &[("host", "other")]), ok("real"), "an absolute target overrides Host");
    assert_eq!(get(h11, "ftp://real/x", &[("host", "real")]), Err(400));
    assert_eq!(get(h11, "/", &[]), Err(400), "HTTP/1.1 needs a Host");
    assert_eq!(get(h11, "http://real/x", &[]), Err(400), "beside an absolute target, too (RFC 9112, section 3.2)");
    assert_eq!(get(h10, "http://real/x", &[]), ok("real"), "HTTP/1.0 does not");
    assert_eq!(get(h2, "http://real/x", &[]), ok("real"), "nor HTTP/2");
    assert_eq!(get(h10, "/", &[]), ok("127.0.0.1:15001"), "HTTP/1.0 does not");
    assert_eq!(get(h11, "/", &[("host", "a"), ("host", "a")]), Err(400));
    for bad in ["a b", "user@a", "a/b", "a,b", "a\\b", "a#b", "a?b"] {
        assert_eq!(get(h11, "/", &[("host", bad)]), Err(400), "{bad}");
    }
    assert_eq!(get(h11, "/", &[("host", "[::1]:80")]), ok("[::1]:80"));
    assert_eq!(get(h11, "/", &[("host", "")]), ok(""));
    assert_eq!(get(h2, "http://shop/", &[]), ok("shop"));
    assert_eq!(get(h2, "http://shop/", &[("host", "SHOP")]), ok("SHOP"));
    assert_eq!(get(h2, "http://shop/", &[("host", "other")]), Err(400));
    assert_eq!(ask(h11, Method::OPTIONS, "*", &[("host", "a")]), ok("a"));
    assert_eq!(get(h11, "*", &[("host", "a")]), Err(400));
    assert_eq!(ask(h11, Method::CONNECT, "shop:443", &[("host", "shop:443")]), Err(501));
    assert_eq!(get(h11, "shop:443", &[("host", "shop:443")]), Err(400), "authority-form is for CONNECT");
}

#[test]
fn lengths_must_agree() {
    let check = |lines: &[(&'static str, &str)], empty| {
        let mut headers = map(lines);
        let seen = Seen::in_headers(&headers);
        check_lengths(&mut headers, &seen, empty).map(|()| listed(&headers, &[])).map_err(|f| f.status().as_u16())
    };
    let one = || Ok(vec!["content-length: 5".to_owned()]);
    assert_eq!(check(&[("content-length", "5")], false), one());
    assert_eq!(check(&[("content-length", "5"), ("content-length", "5")], false), one());
    assert_eq!(check(&[("content-length", "5, 5")], false), one());
    for bad in ["5, 6", "+5", "-1", "0x5", "", "5;", "99999999999999999999", "5,,5"] {
        assert_eq!(check(&[("content-length", bad)], false), Err(400), "{bad}");
    }
    assert_eq!(check(&[("content-length", "5"), ("content-length", "6")], false), Err(400));
    assert_eq!(check(&[("content-length", "5")], true), Err(400), "a length without a body");
    assert!(check(&[("content-length", "0")], true).is_ok());
    assert!(check(&[("transfer-encoding", "chunked")], false).is_ok());
    assert_eq!(check(&[("transfer-encoding", "chunked"), ("content-length", "5")], false), Err(400));
    for coding in ["gzip, chunked", "identity", "chunked, chunked", "xchunked"] {
        assert_eq!(check(&[("transfer-encoding", coding)], false), Err(501), "{coding}");
    }
}

#[test]
fn headers_of_one_hop_stay_here() {
    let upgrade = Asks { upgrade: true, expect: false };
    for (lines, http1, asks) in [
        (
            &[("connection", "keep-alive, x-mine"), ("x-mine", "1"), ("x-other", "2"), ("keep-alive", "5")][..],
            &["x-other: 2"][..],
            Asks::default(),
        ),
        (&[("connection", "close"), ("connection", "X-Mine"), ("x-mine", "1")], &[], Asks::default()),
        (&[("proxy-connection", "keep-alive"), ("te", "gzip")], &[], Asks::default()),
        (&[("te", "gzip;q=1, Trailers")], &["connection: te", "te: trailers"], Asks::default()),
        (&[("connection", "te"), ("te", "trailers")], &["connection: te", "te: trailers"], Asks::default()),
        (
            &[("connection", "authorization, cookie"), ("authorization", "a"), ("cookie", "c=1")],
            &["authorization: a", "cookie: c=1"],
            Asks::default(),
        ),
        (
            &[("connection", "Upgrade"), ("upgrade", "websocket")],
            &["connection: upgrade", "upgrade: websocket"],
            upgrade,
        ),
        (&[("connection", "close"), ("upgrade", "websocket")], &[], Asks::default()),
        (
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
            &[],
            Asks::default(),
        ),
        (&[("connection", "upgrade"), ("upgrade", "websocket, H2C")], &[], Asks::default()),
        (
            &[("tracestate", "a=1"), ("proxy-authorization", "x")],
            &["proxy-authorization: x", "tracestate: a=1"],
            Asks::default(),
        ),
        (&[("expect", "100-continue")], &[], Asks::default()),
    ] {
        let (mut with_host, expected): (Vec<_>, Vec<_>) =
            (lines.to_vec(), http1.iter().map(|s| (*s).to_owned()).collect());
        with_host.push(("host", "shop"));
        let (mut got, asked) = sent(Protocol::Http1, &with_host);
        got.retain(|l| l != "host: shop");
        assert_eq!((got, asked), (expected, asks), "{lines:?}");
    }
    let (got, asks) = sent(
        Protocol::Http2,
        &[("host", "shop"), ("connection", "upgrade"), ("upgrade", "websocket"), ("te", "trailers")],
    );
    assert_eq!(
        (got, asks),
        (vec!["te: trailers".to_owned()], Asks::default()),
        "HTTP/2 has no upgrades and no Connection"
    );
}

/// What every request gets on top, put among the others.
fn add(parts: &mut request::Parts, seen: &Seen) {
    let (host, version) = (HeaderValue::from_static("shop"), Version::HTTP_11);
    let added = Added {
        client: &CLIENT,
        host: &host,
        seen,
        version,
        request_id: None,
        trace: Carried::w3c(b"00-1-2-00"),
        client_cert: None,
        secure: false,
        usual: &Usual::default(),
    };
    added.insert(&mut parts.headers, &mut Ids::default());
}

#[test]
fn nobody_but_this_proxy_says_whose_certificate_a_client_showed() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let lies = [("x-forwarded-client-cert", "URI=spiffe://mesh/admin"), ("x-forwarded-client-cert", "Hash=0")];
        let (left, _) = sent(protocol, &lies);
        assert!(!left.iter().any(|line| line.contains("client-cert")), "{left:?}");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static("URI=spiffe://mesh/admin"));
    clean_trailers(&mut trailers);
    assert!(trailers.is_empty());
}

#[test]
fn the_scheme_towards_http2_endpoints_is_that_of_the_connection_to_them() {
    let host = HeaderValue::from_static("shop");
    for (asked, secure, scheme) in
        [("http", false, "http"), ("http", true, "https"), ("https", false, "http"), ("https", true, "https")]
    {
        let mut parts = request(Version::HTTP_2, Method::GET, &format!("{asked}://shop/a?b"), &[]);
        let seen = Seen::in_headers(&parts.headers);
        let hop = Hop { client: &CLIENT, host: &host, empty: true, secure };
        to_upstream(&mut parts, &seen, Protocol::Http2, &hop).unwrap();
        assert_eq!(parts.uri.to_string(), format!("{scheme}://shop/a?b"));
    }
}

#[test]
fn a_request_gets_what_it_lacks() {
    let mut parts = request(Version::HTTP_11, Method::GET, "/", &[("host", "shop")]);
    let seen = Seen::in_headers(&parts.headers);
    add(&mut parts, &seen);
    assert_eq!(
        listed(&parts.headers, &["host"]),
        [
            "traceparent: 00-1-2-00",
            "via: 1.1 pathloom",
            "x-forwarded-for: 10.0.0.7",
            "x-forwarded-host: shop",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn who_passed_it_on_is_told() {
    let mut parts = request(
        Version::HTTP_11,
        Method::GET,
        "/",
        &[
            ("host", "shop"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outside"),
            ("via", "1.1 edge"),
        ],
    );
    let seen = Seen::in_headers(&parts.headers);
    let host = HeaderValue::from_static("shop");
    to_upstream(&mut parts, &seen, Protocol::Http1, &Hop { client: &CLIENT, host: &host, empty: true, secure: false })
        .unwrap();
    add(&mut parts, &seen);
    assert_eq!(
        listed(&parts.headers, &["host"]),
        [
            "traceparent: 00-1-2-00",
            "via: 1.1 edge",
            "via: 1.1 pathloom",
            "x-forwarded-for: 1.2.3.4, 5.6.7.8, 10.0.0.7",
            "x-forwarded-host: outside",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn a_loop_is_cut() {
    let mut parts = request(Version::HTTP_11, Method::GET, "/", &[("host", "shop")]);
    for _ in 0..MAX_HOPS {
        let seen = Seen::in_headers(&parts.headers);
        let host = HeaderValue::from_static("shop");
        to_upstream(
            &mut parts,
            &seen,
            Protocol::Http1,
            &Hop { client: &CLIENT, host: &host, empty: true, secure: false },
        )
        .unwrap();
        add(&mut parts, &seen);
        parts.headers.remove("x-forwarded-for");
    }
    let seen = Seen::in_headers(&parts.headers);
    let host = HeaderValue::from_static("shop");
    let failure = to_upstream(
        &mut parts,
        &seen,
        Protocol::Http1,
        &Hop { client: &CLIENT, host: &host, empty: true, secure: false },
    )
    .unwrap_err();
    assert_eq!((failure.reason, failure.status().as_u16()), (Reason::Loop, 508));
    // Somebody on the way joined the lines.
    for (count, looped) in [(MAX_HOPS - 1, false), (MAX_HOPS, true)] {
        let via = vec!["1.1 other, 1.1 pathloom"; count].join(",");
        let mut parts = request(Version::HTTP_11, Method::GET, "/", &[("host", "shop"), ("via", &via)]);
        let seen = Seen::in_headers(&parts.headers);
        let hop = Hop { client: &CLIENT, host: &host, empty: true, secure: false };
        assert_eq!(to_upstream(&mut parts, &seen, Protocol::Http1, &hop).is_err(), looped, "{count}");
    }
}

#[test]
fn targets_and_cookies_take_the_form_of_the_endpoints_protocol() {
    let turn = |version, target: &str, protocol, lines: &[(&'static str, &str)]| {
        let mut parts = request(version, Method::GET, target, lines);
        let seen = Seen::in_headers(&parts.headers);
        let host = HeaderValue::from_static("shop");
        to_upstream(&mut parts, &seen, protocol, &Hop { client: &CLIENT, host: &host, empty: true, secure: false })
            .unwrap();
        (
            parts.uri.to_string(),
            listed(&parts.headers, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via"]),
        )
    };
    let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let (h11, h2) = (Version::HTTP_11, Version::HTTP_2);
    assert_eq!(turn(h11, "/a?b", Protocol::Http1, &[("host", "shop")]), ("/a?b".into(), lines(&["host: shop"])));
    assert_eq!(
        turn(h11, "http://shop/a?b", Protocol::Http1, &[("host", "x")]),
        ("/a?b".into(), lines(&["host: shop"]))
    );
    assert_eq!(turn(h11, "/a?b", Protocol::Http2, &[("host", "shop")]), ("http://shop/a?b".into(), lines(&[])));
    assert_eq!(
        turn(h2, "http://shop/a", Protocol::Http1, &[("cookie", "a=1"), ("cookie", "b=2")]),
        ("/a".into(), lines(&["cookie: a=1; b=2", "host: shop"]))
    );
    assert_eq!(
        turn(h2, "http://shop/a", Protocol::Http2, &[("cookie", "a=1"), ("cookie", "b=2")]),
        ("http://shop/a".into(), lines(&["cookie: a=1", "cookie: b=2"]))
    );
    assert_eq!(turn(Version::HTTP_10, "/a", Protocol::Http1, &[]), ("/a".into(), lines(&["host: shop"])));
}

#[test]
fn a_body_without_a_length_is_said_to_be_chunked() {
    let frame = |method: Method, protocol, lines: &[(&'static str, &str)], empty| {
        let mut parts = request(Version::HTTP_2, method, "http://shop/", lines);
        let seen = Seen::in_headers(&parts.headers);
        let host = HeaderValue::from_static("shop");
        to_upstream(&mut parts, &seen, protocol, &Hop { client: &CLIENT, host: &host, empty, secure: false }).unwrap();
        listed(&parts.headers, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "host"])
    };
    assert_eq!(frame(Method::GET, Protocol::Http1, &[], false), ["transfer-encoding: chunked"]);
    assert_eq!(frame(Method::POST, Protocol::Http1, &[("content-length", "3")], false), ["content-length: 3"]);
    assert_eq!(frame(Method::POST, Protocol::Http1, &[], true), ["content-length: 0"]);
    assert!(frame(Method::GET, Protocol::Http1, &[], true).is_empty());
    assert!(frame(Method::POST, Protocol::Http2, &[("transfer-encoding", "chunked")], false).is_empty());
}

#[test]
fn responses_are_cleaned_and_checked() {
    let turn = |status: u16, method: Method, lines: &[(&'static str, &str)], empty| {
        let mut response = Response::builder().status(status).body(()).unwrap();
        *response.headers_mut() = map(lines);
        let mut parts = response.into_parts().0;
        let seen = Seen::in_headers(&parts.headers);
        to_downstream(&mut parts, &seen, &Answered { method: &method, upgrade: false, empty, lines: false })
            .map(|()| listed(&parts.headers, &["via"]))
            .map_err(|f| f.reason)
    };
    let get = |status, lines: &[(&'static str, &str)]| turn(status, Method::GET, lines, false);
    let lines = |l: &[&str]| Ok(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        get(200, &[("connection", "close, x-a"), ("x-a", "1"), ("keep-alive", "5"), ("upgrade", "h2c")]),
        lines(&[])
    );
    assert_eq!(get(200, &[("transfer-encoding", "chunked")]), lines(&[]));
    assert_eq!(
        get(200, &[("transfer-encoding", "chunked"), ("content-length", "9")]),
        Err(Reason::UpstreamProtocol),
        "two ways to read it"
    );
    assert_eq!(get(200, &[("transfer-encoding", "gzip, chunked")]), Err(Reason::UpstreamProtocol));
    assert_eq!(get(200, &[("content-length", "5"), ("content-length", "5")]), lines(&["content-length: 5"]));
    assert_eq!(get(200, &[("content-length", "5"), ("content-length", "6")]), Err(Reason::UpstreamProtocol));
    assert_eq!(turn(200, Method::GET, &[("content-length", "5")], true), Err(Reason::ResponseIncomplete));
    assert_eq!(turn(200, Method::HEAD, &[("content-length", "5")], true), lines(&["content-length: 5"]));
    assert_eq!(turn(304, Method::GET, &[("content-length", "5")], true), lines(&["content-length: 5"]));
    assert_eq!(turn(204, Method::GET, &[("content-length", "0")], true), lines(&[]));
    assert_eq!(
        get(101, &[("connection", "upgrade"), ("upgrade", "websocket")]),
        Err(Reason::UpgradeFailed),
        "nobody asked"
    );
}
