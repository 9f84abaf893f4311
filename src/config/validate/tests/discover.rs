//! Sources of endpoints.

use super::*;
use crate::config::schema::{Discover, Port};

fn source(change: impl FnOnce(&mut Discover)) -> impl FnOnce(&mut Config) {
    move |config| {
        let mut discover = Discover::default();
        change(&mut discover);
        config.clusters.get_mut("catalog").unwrap().discover.push(discover);
    }
}

fn dns(name: &str, port: Option<Port>) -> impl FnOnce(&mut Config) {
    let name = name.to_owned();
    source(move |discover| (discover.dns, discover.port) = (Some(name), port))
}

#[test]
fn a_source_is_one_of_three() {
    fine(source(|d| d.file = Some("/etc/catalog.yaml".into())));
    fine(dns("catalog.shop", Some(Port::Number(8080))));
    error("clusters.catalog.discover[0]: the source says nothing", source(|_| ()));
    error(
        "a source is one of",
        source(|d| (d.file, d.dns, d.port) = (Some("a".into()), Some("a.b".into()), None)).also(|c| {
            // Only that is said, not that the name needs a port as well.
            c.clusters.get_mut("catalog").unwrap().discover[0].dns = Some("_http._tcp.b".into());
        }),
    );
    error("the file has no name", source(|d| d.file = Some("".into())));
    error(
        "endpoints of a file bring their ports",
        source(|d| (d.file, d.port) = (Some("a".into()), Some(Port::Number(1)))),
    );
}

/// One change after another.
trait Also {
    fn also(self, then: impl FnOnce(&mut Config)) -> impl FnOnce(&mut Config);
}

impl<F: FnOnce(&mut Config)> Also for F {
    fn also(self, then: impl FnOnce(&mut Config)) -> impl FnOnce(&mut Config) {
        move |config| {
            self(config);
            then(config);
        }
    }
}

#[test]
fn addresses_need_a_port_and_srv_records_have_their_own() {
    fine(dns("_http._tcp.catalog.shop", None));
    error("the addresses of `catalog.shop` have no port", dns("catalog.shop", None));
    error("`_http._tcp.catalog.shop`", dns("catalog.shop", None));
    error("SRV records bring their ports", dns("_http._tcp.catalog.shop", Some(Port::Number(1))));
    error("know no port `http`", dns("catalog.shop", Some(Port::Name("http".into()))));
}

#[test]
fn names_are_names() {
    for good in ["catalog", "catalog.shop.", &format!("{}.b", "a".repeat(63))] {
        fine(dns(good, Some(Port::Number(1))));
    }
    for bad in ["", ".", "a..b", "a b", "é.shop", &"a".repeat(64), &["a"; 128].join(".")] {
        error("is not a DNS name", dns(bad, Some(Port::Number(1))));
    }
    error("is an address", dns("10.0.0.1", Some(Port::Number(1))));
    let service = |name: &str| {
        let name = name.to_owned();
        source(move |d| d.kubernetes = Some(name))
    };
    for bad in ["", "a/b/c", "/a", "Catalog", "shop/"] {
        let found = after(service(bad));
        assert!(found.iter().any(|(_, text)| text.contains("is not a Kubernetes service")), "{bad}: {found:?}");
    }
    let found = after(service("shop/catalog"));
    assert!(found.iter().all(|(severity, _)| *severity == Severity::Warning), "{found:?}");
}

#[test]
fn the_most_endpoints_are_some_and_not_too_many() {
    let most = |most: usize| {
        dns("a.b", Some(Port::Number(1))).also(move |c| c.clusters.get_mut("catalog").unwrap().discover[0].most = most)
    };
    fine(most(1));
    fine(most(100_000));
    error("clusters.catalog.discover[0].most: 0 endpoints", most(0));
    error("100001 endpoints", most(100_001));
}

#[test]
fn servers_are_asked_for_dns_only_and_can_be_connected_to() {
    let servers = |server: &str| {
        let server = server.parse().unwrap();
        dns("a.b", Some(Port::Number(1)))
            .also(move |c| c.clusters.get_mut("catalog").unwrap().discover[0].nameservers.push(server))
    };
    fine(servers("127.0.0.1:53"));
    error("nameservers[0]: 127.0.0.1:0 has the port 0", servers("127.0.0.1:0"));
    error(
        "for `dns` only",
        source(|d| (d.file, d.nameservers) = (Some("a".into()), vec!["127.0.0.1:53".parse().unwrap()])),
    );
}

#[test]
fn a_cluster_that_discovers_needs_no_list_and_names_no_source_twice() {
    let empty = |config: &mut Config| config.clusters.get_mut("catalog").unwrap().endpoints.clear();
    fine(dns("a.b", Some(Port::Number(1))).also(empty));
    warning("has no endpoints", empty);
    error(
        "discover[1]: `dns a.b:1` is a source of the cluster already",
        dns("a.b", Some(Port::Number(1))).also(dns("a.b", Some(Port::Number(1)))),
    );
    let many = |config: &mut Config| (0..17).for_each(|i| dns(&format!("a{i}.b"), Some(Port::Number(1)))(config));
    error("17 sources of endpoints are too many", many);
}

#[test]
fn ports_are_written_as_numbers_or_names() {
    let port = |port: &str| yaml(&format!("clusters: {{ a: {{ discover: [{{ kubernetes: x, port: {port} }}] }} }}"));
    let refused = |written: &str| port(written).iter().any(|found| found.contains("is not a port"));
    for good in ["1", "65535", "http", "\"8080\"", "h2c-web"] {
        assert!(!refused(good), "{good}: {:?}", port(good));
    }
    for bad in ["0", "65536", "-1", "1.5", "Http", "\"---\"", "a-name-that-is-too-long"] {
        assert!(refused(bad), "{bad}: {:?}", port(bad));
    }
}
