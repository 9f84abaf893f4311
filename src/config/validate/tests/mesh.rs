//! Workloads, routes and clusters.

use super::*;
use crate::config::units::Share;
use crate::config::validate::{mesh, syntax};

#[test]
fn an_empty_mesh_is_two_warnings() {
    assert_eq!(
        yaml("node: { name: a }"),
        [
            "1:1 there are no workloads, so no request can come in",
            "1:1 there are no routes, so every request is answered with 404"
        ]
    );
}

#[test]
fn workloads_listen_and_are_told_apart() {
    error("workloads.shop!: the workload `shop` has no `listen`", |c| {
        c.workloads.get_mut("shop").unwrap().listen = None
    });
    let two = |one: &str, other: &str| {
        yaml(&format!(
            "workloads: {{ a: {{ {one} }}, b: {{ {other} }} }}\nroutes: [{{ cluster: c }}]\nclusters: {{ c: {{ endpoints: [{{ address: 10.0.0.1:80 }}] }} }}"
        ))
    };
    let none: [&str; 0] = [];
    assert_eq!(two("listen: 127.0.0.1:1", "listen: 127.0.0.1:2"), none);
    assert_eq!(two("listen: 127.0.0.1:0", "listen: 127.0.0.1:0"), none);
    assert_eq!(two("listen: 127.0.0.1:1, source: 10.0.0.0/8", "listen: 127.0.0.1:1"), none);
    assert_eq!(two("listen: 127.0.0.1:1, source: 10.0.0.0/8", "listen: 127.0.0.1:1, source: 10.1.0.0/16"), none);
    assert_eq!(
        two("listen: 127.0.0.1:1", "listen: 127.0.0.1:1"),
        ["1:55 `a` listens on 127.0.0.1:1 too, and nothing tells the two apart"]
    );
    assert_eq!(
        two("listen: 127.0.0.1:1, source: 10.0.0.1", "listen: 127.0.0.1:1, source: 10.0.0.1/32"),
        ["1:94 `a` has the source 10.0.0.1 on 127.0.0.1:1 too"]
    );
    assert_eq!(two("listen: 127.0.0.1:1, serves: 10.0.0.1:80", "listen: 127.0.0.1:2, serves: 10.0.0.1:81"), none);
    assert_eq!(
        two("listen: 127.0.0.1:1, serves: 10.0.0.1:80", "listen: 127.0.0.1:2, serves: 10.0.0.1:80"),
        ["1:97 `a` serves 10.0.0.1:80 already"]
    );
    assert_eq!(
        two("listen: 127.0.0.1:1, serves: 10.0.0.1:0", "listen: 127.0.0.1:2"),
        ["1:48 10.0.0.1:0 has the port 0, to which nobody can connect"]
    );
    assert_eq!(
        two("listen: 127.0.0.1:1, serves: 127.0.0.1:2", "listen: 127.0.0.1:2"),
        ["1:48 127.0.0.1:2 is where this proxy listens, not where the workload is reached"]
    );
    assert_eq!(two("listen: 127.0.0.1:9900", "listen: 127.0.0.1:2"), ["1:27 127.0.0.1:9900 is the admin port"]);
    assert_eq!(
        two("listen: 0.0.0.0:9900", "listen: 127.0.0.1:2"),
        ["1:27 0.0.0.0:9900 and the admin port 127.0.0.1:9900 share a port"]
    );
    assert_eq!(two("listen: 127.0.0.2:9900", "listen: 127.0.0.1:2"), none);
    assert_eq!(
        two("listen: 10.0.0.1:80", "listen: 127.0.0.1:2"),
        ["3:41 the proxy listens on 10.0.0.1:80 itself, so a request would go round for ever"]
    );
}

#[test]
fn names() {
    for name in ["a", "9", "a-b_c.d", &"a".repeat(253)] {
        assert_eq!(syntax::name(name), Ok(()), "{name}");
    }
    for name in ["", "A", "-a", ".a", "a b", "a/b", "é", &"a".repeat(254)] {
        assert!(syntax::name(name).is_err(), "{name}");
    }
    assert!(syntax::name("My Shop").unwrap_err().remedy.ends_with("such as `my-shop`"));
    error("workloads.Shop!: `Shop` is not a name", |c| {
        let shop = c.workloads.remove("shop").unwrap();
        c.workloads.insert("Shop".into(), shop);
    });
    error("workloads.shop.service: ", |c| c.workloads.get_mut("shop").unwrap().service = "My Shop".into());
    error("clusters.catalog.service: ", |c| c.clusters.get_mut("catalog").unwrap().service = "My Shop".into());
}

#[test]
fn routes_lead_somewhere() {
    error("routes[0]: the route leads nowhere", |c| {
        c.clusters.clear();
        c.routes[0].cluster = None;
    });
    error("routes[0].split!: the route has both", |c| c.routes[0].split = [("catalog".to_owned(), Share(1.0))].into());
    let to = |name: &str| {
        let name = name.to_owned();
        after(move |c| {
            c.routes.insert(
                0,
                crate::config::Route {
                    cluster: Some(name),
                    matches: crate::config::RouteMatch { host: Some("a".into()), ..Default::default() },
                    ..Default::default()
                },
            )
        })
    };
    assert!(to("catalog").is_empty());
    assert!(to("catalgo")[0].1.ends_with("routes[0].cluster: there is no cluster `catalgo` / did you mean `catalog`?"));
    assert!(to("payments")[0].1.ends_with("there is no cluster `payments` / add `payments` to `clusters`"));
}

#[test]
fn splits_are_the_whole() {
    let split = |shares: &[f64]| {
        let shares = shares.to_vec();
        after(move |c| {
            c.routes[0].cluster = None;
            for (i, share) in shares.into_iter().enumerate() {
                let name = if i == 0 { "catalog".to_owned() } else { format!("c{i}") };
                let cluster = c.clusters["catalog"].clone();
                c.clusters.insert(name.clone(), cluster);
                c.routes[0].split.insert(name, Share(share));
            }
        })
    };
    for shares in [&[1.0][..], &[0.9, 0.1], &[0.333, 0.333, 0.334], &[0.1; 10], &[0.0, 1.0]] {
        assert_eq!(split(shares), [], "{shares:?}");
    }
    for (shares, total) in [
        (&[0.5, 0.499][..], "99.9%"),
        (&[0.5, 0.501], "100.1%"),
        (&[0.9], "90%"),
        (&[0.0], "0%"),
        (&[f64::NAN], "NaN%"),
        (&[1.5, -0.5], "100%"),
    ] {
        let found = split(shares);
        assert!(found.len() == 1 && found[0].1.contains(&format!("the shares add up to {total} /")), "{found:?}");
    }
    let unknown = yaml(
        "workloads: { a: { listen: 127.0.0.1:1 } }\nroutes: [{ split: { a: 50%, b: 50% } }]\nclusters: { a: { endpoints: [{ address: 10.0.0.1:80 }] } }",
    );
    assert_eq!(unknown, ["2:29 there is no cluster `b`"]);
}

#[test]
fn routes_that_no_request_reaches() {
    let routes = |routes: &str| {
        yaml(&format!(
            "workloads: {{ a: {{ listen: 127.0.0.1:1 }} }}\nclusters: {{ a: {{ endpoints: [{{ address: 10.0.0.1:80 }}] }} }}\nroutes:\n{routes}"
        ))
    };
    let none: [&str; 0] = [];
    assert_eq!(routes("- { match: { host: x }, cluster: a }\n- { cluster: a }\n"), none);
    assert_eq!(
        routes("- { cluster: a }\n- { match: { host: x }, cluster: a }\n"),
        ["5:3 no request gets here: `routes[0]` matches every one before"]
    );
    assert_eq!(
        routes("- { match: { host: x }, cluster: a }\n- { match: { host: x }, cluster: a }\n"),
        ["5:3 no request gets here: `routes[0]` has the same conditions"]
    );
}

#[test]
fn hosts() {
    for host in [
        "a",
        "catalog.shop",
        "*.shop",
        "A-b.c_d",
        "10.1.2.3",
        "[::1]",
        &"a".repeat(63),
        &format!("{}a", "a.".repeat(126)),
    ] {
        assert_eq!(syntax::host(host), Ok(()), "{host}");
    }
    for (host, remedy) in [
        ("", "remove the key"),
        ("*", "remove the key"),
        ("a:80", "write `a`"),
        ("http://a/b", "write `a`"),
        ("a.", "write `a`"),
        ("::1", "write `[::1]`"),
        ("[::1]:80", "without a port"),
        ("[a]", "`[::1]`"),
        ("a.*", "`*.shop`"),
        ("*a", "`*.shop`"),
        ("*.", "`*.shop`"),
        ("a..b", "`*.shop`"),
        (".a", "`*.shop`"),
        ("-a", "`*.shop`"),
        ("a-", "`*.shop`"),
        ("a b", "`*.shop`"),
        ("a/b", "`*.shop`"),
        ("é", "`*.shop`"),
        (&"a".repeat(64), "`*.shop`"),
        (&format!("{}aa", "a.".repeat(126)), "at most 253"),
    ] {
        let wrong = syntax::host(host).unwrap_err();
        assert!(wrong.remedy.contains(remedy), "{host}: {wrong:?}");
    }
    error("routes[0].match.host: ", |c| c.routes[0].matches.host = Some("a:80".into()));
}

#[test]
fn paths_headers_and_methods() {
    for path in ["/", "/v2", "/a%20b", "/a/"] {
        assert_eq!(syntax::path(path), Ok(()), "{path}");
    }
    for (path, remedy) in [
        ("", "write `/`"),
        ("v2", "write `/v2`"),
        ("/a?b=c", "write `/a`"),
        ("/a#b", "write `/a`"),
        ("/a b", "%20"),
        ("/é", "%20"),
        ("/\u{7f}", "%20"),
    ] {
        let wrong = syntax::path(path).unwrap_err();
        assert!(wrong.remedy.contains(remedy), "{path}: {wrong:?}");
    }
    error("routes[0].match.path: ", |c| c.routes[0].matches.path = Some("a".into()));
    error("routes[0].match.path_prefix: ", |c| c.routes[0].matches.path_prefix = Some("a".into()));
    error("routes[0].match.path_prefix!: the route has both", |c| {
        c.routes[0].matches.path = Some("/a".into());
        c.routes[0].matches.path_prefix = Some("/a".into());
    });
    let header = |name: &str, value: &str| {
        let pair = (name.to_owned(), value.to_owned());
        after(move |c| c.routes[0].matches.headers = [pair].into())
    };
    for (name, value) in [("x-beta", "1"), ("X", ""), ("a!#$%&'*+-.^_`|~1", "a b\tc"), ("x", "é")] {
        assert_eq!(header(name, value), [], "{name}");
    }
    for (name, value, expected) in [
        ("", "1", "is not the name of a header"),
        ("x beta", "1", "is not the name of a header"),
        ("x:", "1", "is not the name of a header"),
        ("é", "1", "is not the name of a header"),
        (":path", "1", "match the method with `method`"),
        ("x", " 1", "headers.x: a header's value never arrives with white space"),
        ("x", "1\n2", "holds no control characters"),
    ] {
        let found = header(name, value);
        assert!(found.len() == 1 && found[0].1.contains(expected), "{name}: {found:?}");
    }
    error("`x-a` and `X-A` are the same header", |c| {
        c.routes[0].matches.headers = [("X-A".into(), "1".into()), ("x-a".into(), "1".into())].into()
    });
    for method in ["GET", "PATCH", "CONNECT"] {
        fine(|c| c.routes[0].matches.method = Some(method.into()));
    }
    warning("did you mean `GET`?", |c| c.routes[0].matches.method = Some("GTE".into()));
    warning("leave it if your clients do send it", |c| c.routes[0].matches.method = Some("PROPFIND".into()));
    error("write `GET`", |c| c.routes[0].matches.method = Some("get".into()));
    for method in ["", "G T", "GET/"] {
        error("is not a method", |c| c.routes[0].matches.method = Some(method.into()));
    }
    fine(|c| c.routes[0].timeout = Some(ms(0)));
}

#[test]
fn clusters_and_endpoints() {
    warning("clusters.catalog!: `catalog` has no endpoints, so its requests are answered with 503", |c| {
        c.clusters.get_mut("catalog").unwrap().endpoints.clear()
    });
    warning("clusters.spare!: no route leads to `spare`", |c| {
        let cluster = c.clusters["catalog"].clone();
        c.clusters.insert("spare".into(), cluster);
    });
    let endpoint = |change: fn(&mut crate::config::Endpoint)| {
        move |c: &mut Config| {
            let endpoints = &mut c.clusters.get_mut("catalog").unwrap().endpoints;
            let mut next = endpoints[0].clone();
            next.address.set_port(81);
            change(&mut next);
            endpoints.push(next);
        }
    };
    fine(endpoint(|_| {}));
    error(
        "clusters.catalog.endpoints[1].address: 10.0.0.1:80 is endpoint 1 of `catalog` already",
        endpoint(|e| e.address.set_port(80)),
    );
    error("endpoints[1].address: 10.0.0.1:0 has the port 0", endpoint(|e| e.address.set_port(0)));
    error(
        "endpoints[1].address: 0.0.0.0 is not an address of one machine",
        endpoint(|e| e.address.set_ip([0, 0, 0, 0].into())),
    );
    error("endpoints[1].address: 224.0.0.1 is not", endpoint(|e| e.address.set_ip([224, 0, 0, 1].into())));
    fine(endpoint(|e| e.weight = 0));
    fine(endpoint(|e| e.weight = mesh::MAX_WEIGHT));
    error("endpoints[1].weight: ", endpoint(|e| e.weight = mesh::MAX_WEIGHT + 1));
    warning("clusters.catalog.endpoints!: every endpoint", |c| {
        c.clusters.get_mut("catalog").unwrap().endpoints[0].weight = 0
    });
    error("endpoints[1].zone: ", endpoint(|e| e.zone = "z".repeat(254)));
    fine(endpoint(|e| e.metadata = (0..mesh::MAX_METADATA).map(|i| (format!("k{i}"), String::new())).collect()));
    error(
        "endpoints[1].metadata!: 65 facts",
        endpoint(|e| e.metadata = (0..=mesh::MAX_METADATA).map(|i| (format!("k{i}"), String::new())).collect()),
    );
    fine(endpoint(|e| {
        e.metadata = [("k".repeat(mesh::MAX_METADATA_KEY), "v".repeat(mesh::MAX_METADATA_VALUE))].into()
    }));
    error(
        "!: 129 bytes are too many",
        endpoint(|e| e.metadata = [("k".repeat(mesh::MAX_METADATA_KEY + 1), String::new())].into()),
    );
    error(
        "metadata.k: 1025 bytes are too many",
        endpoint(|e| e.metadata = [("k".into(), "v".repeat(mesh::MAX_METADATA_VALUE + 1))].into()),
    );
    error("a fact needs a key", endpoint(|e| e.metadata = [(String::new(), String::new())].into()));
}

#[test]
fn timeouts_and_ejection() {
    let cluster =
        |change: fn(&mut crate::config::Cluster)| move |c: &mut Config| change(c.clusters.get_mut("catalog").unwrap());
    error("clusters.catalog.timeouts.connect: ", cluster(|c| c.timeouts.connect = ms(0)));
    error("clusters.catalog.timeouts.response_headers: ", cluster(|c| c.timeouts.response_headers = ms(0)));
    error("clusters.catalog.timeouts.idle: ", cluster(|c| c.timeouts.idle = ms(0)));
    fine(cluster(|c| (c.timeouts.connect, c.timeouts.response_headers, c.timeouts.idle) = (ns(1), ns(1), ns(1))));
    fine(cluster(|c| (c.timeouts.request, c.timeouts.pooled) = (ms(0), ms(0))));
    error("clusters.catalog.ejection.first: ", cluster(|c| c.ejection.first = ms(0)));
    fine(cluster(|c| c.ejection.longest = c.ejection.first));
    error("clusters.catalog.ejection.longest: ", cluster(|c| c.ejection.longest = ms(4_999)));
    fine(cluster(|c| c.ejection.consecutive_failures = 0));
    for share in [0.0, 1.0] {
        let mut config = sound();
        config.clusters.get_mut("catalog").unwrap().ejection.panic_below = Share(share);
        assert_eq!(validate(&config), []);
    }
    error("clusters.catalog.ejection.panic_below: ", cluster(|c| c.ejection.panic_below = Share(f64::NAN)));
}

#[test]
fn cookies_and_parameters_can_arrive() {
    let none: [&str; 0] = [];
    let with = |conditions: &str| {
        yaml(&format!(
            "workloads: {{ a: {{ listen: 127.0.0.1:1 }} }}\nroutes: [{{ match: {{ {conditions} }}, cluster: c }}]\nclusters: {{ c: {{ endpoints: [{{ address: 10.0.0.1:80 }}] }} }}"
        ))
    };
    assert_eq!(with("cookies: { beta: \"1\" }, query: { v: \"2\", \"a b\": é, q: \"\" }"), none);
    assert_eq!(with("cookies: { \"a b\": \"1\" }"), ["2:32 `a b` is not the name of a cookie"]);
    for value in ["a b", "a;b", "é"] {
        let found = with(&format!("cookies: {{ beta: \"{value}\" }}"));
        assert!(found.len() == 1 && found[0].starts_with("2:38 a cookie's value holds"), "{value}: {found:?}");
    }
    assert_eq!(with("query: { \"\": x }"), ["2:30 a parameter of the query needs a name"]);
}
