//! Identity.

use super::*;
use crate::config::schema::{Allow, ClusterTls, TlsMode};

fn identified(c: &mut Config) {
    let file = |name: &str| Some(name.into());
    c.identity.certificate = file("/i/cert.pem");
    c.identity.key = file("/i/key.pem");
    c.identity.bundle = file("/i/bundle.pem");
}

fn shop(c: &mut Config) -> &mut crate::config::Workload {
    c.workloads.get_mut("shop").unwrap()
}

fn tls(c: &mut Config, tls: ClusterTls) {
    c.clusters.get_mut("catalog").unwrap().tls = tls;
}

#[test]
fn an_identity_has_all_its_files() {
    fine(identified);
    error("identity.key!: the identity has no `key`", |c| {
        identified(c);
        c.identity.key = None;
    });
    error("identity.bundle: `bundle` names no file", |c| {
        identified(c);
        c.identity.bundle = Some("".into());
    });
    assert_eq!(after(|c| c.identity.trust_domain = Some("mesh".parse().unwrap())).len(), 3);
}

fn from_agent(c: &mut Config) {
    c.identity.workload_api = Some("unix:///run/spire/agent.sock".parse().unwrap());
}

#[test]
fn an_identity_comes_from_files_or_from_a_workload_api() {
    fine(|c| {
        from_agent(c);
        c.identity.hint = Some("internal".into());
        c.identity.trust_domain = Some("mesh".parse().unwrap());
        c.identity.federated = vec!["other".parse().unwrap()];
        shop(c).tls = TlsMode::Strict;
        shop(c).allow = vec![Allow { from: vec!["spiffe://other/*".parse().unwrap()], ..Allow::default() }];
        tls(c, ClusterTls { identity: "spiffe://other/a".parse().unwrap(), ..ClusterTls::default() });
    });
    error("identity.workload_api!: the identity comes from files or from a Workload API, not from both", |c| {
        identified(c);
        from_agent(c);
    });
    error("identity.hint: `hint` is empty", |c| {
        from_agent(c);
        c.identity.hint = Some(String::new());
    });
    error("identity.hint!: `hint` says something of a Workload API", |c| {
        identified(c);
        c.identity.hint = Some("internal".into());
    });
    error("identity.federated!: `federated` says something of a Workload API", |c| {
        identified(c);
        c.identity.federated = vec!["other".parse().unwrap()];
    });
    error("identity.federated[1]: `mesh` is believed already", |c| {
        from_agent(c);
        c.identity.trust_domain = Some("mesh".parse().unwrap());
        c.identity.federated = ["other", "mesh"].map(|d| d.parse().unwrap()).into();
    });
}

#[test]
fn tls_needs_an_identity_and_one_mode_a_listener() {
    error("workloads.shop.tls: the listener cannot speak mTLS without an identity", |c| shop(c).tls = TlsMode::Strict);
    error("clusters.catalog.tls: the endpoints cannot be reached by mTLS without an identity", |c| {
        tls(c, ClusterTls { identity: "mesh".parse().unwrap(), ..ClusterTls::default() });
    });
    fine(|c| {
        identified(c);
        shop(c).tls = TlsMode::Permissive;
        tls(c, ClusterTls { identity: "mesh".parse().unwrap(), ..ClusterTls::default() });
    });
    error("workloads.shop.tls: `batch` says otherwise of the same listener", |c| {
        identified(c);
        shop(c).tls = TlsMode::Strict;
        let mut batch = shop(c).clone();
        (batch.source, batch.tls) = (Some("10.0.0.0/8".parse().unwrap()), TlsMode::Permissive);
        c.workloads.insert("batch".into(), batch);
    });
}

#[test]
fn endpoints_prove_an_identity_or_a_name() {
    let name = |name: &str| ClusterTls { name: Some(name.into()), ..ClusterTls::default() };
    fine(|c| tls(c, name("api.example.com")));
    fine(|c| tls(c, name("10.0.0.1")));
    error("clusters.catalog.tls.name: a name to connect to has no `*`", |c| tls(c, name("*.example.com")));
    error("clusters.catalog.tls.name: ", |c| tls(c, name("https://example.com")));
    error("clusters.catalog.tls.name!: endpoints prove an identity of the mesh or the name", |c| {
        identified(c);
        tls(c, ClusterTls { identity: "mesh".parse().unwrap(), ..name("a") });
    });
    error("clusters.catalog.tls.authorities!: ", |c| {
        tls(c, ClusterTls { authorities: Some("/ca.pem".into()), ..ClusterTls::default() });
    });
    error("is not of the trust domain `mesh`", |c| {
        identified(c);
        c.identity.trust_domain = Some("mesh".parse().unwrap());
        tls(c, ClusterTls { identity: "spiffe://other/a".parse().unwrap(), ..ClusterTls::default() });
    });
}

#[test]
fn rules_can_hold() {
    let with = |rule: Allow| {
        move |c: &mut Config| {
            identified(c);
            c.identity.trust_domain = Some("mesh".parse().unwrap());
            (shop(c).tls, shop(c).allow) = (TlsMode::Strict, vec![rule]);
        }
    };
    let from = |id: &str| Allow { from: vec![id.parse().unwrap()], ..Allow::default() };
    fine(with(from("spiffe://mesh/*")));
    warning(
        "workloads.shop.allow[0].from[0]: `spiffe://other/*` is not of the trust domain",
        with(from("spiffe://other/*")),
    );
    warning("workloads.shop.allow[0].from!: nobody can prove an identity", |c| {
        shop(c).allow = vec![from("spiffe://mesh/*")];
    });
    error("workloads.shop.allow[0].methods[0]: ", with(Allow { methods: vec!["get".into()], ..Allow::default() }));
    error(
        "workloads.shop.allow[0].path!: ",
        with(Allow { path: Some("/a".into()), path_prefix: Some("/b".into()), ..Allow::default() }),
    );
    for path in ["/a/../b", "/a//b", "/%2e%2e/b", "/a%2Fb", "/./", "/a\\b"] {
        error("allow[0].path: ", with(Allow { path: Some(path.into()), ..Allow::default() }));
    }
    fine(with(Allow { path_prefix: Some("/".into()), methods: vec!["GET".into()], ..Allow::default() }));
}

#[test]
fn a_word_stands_for_the_section() {
    let mesh = |tls: &str| {
        format!(
            "identity: {{ certificate: c, key: k, bundle: b }}\nworkloads: {{ a: {{ listen: 127.0.0.1:1, tls: strict }} }}\n\
             routes: [{{ cluster: c }}]\nclusters: {{ c: {{ tls: {tls}, endpoints: [{{ address: 10.0.0.1:80 }}] }} }}"
        )
    };
    let none: [&str; 0] = [];
    for right in ["mesh", "off", "spiffe://mesh/a", "{ name: api.example.com }", "{ identity: mesh }"] {
        assert_eq!(yaml(&mesh(right)), none, "{right}");
    }
    for wrong in ["meshed", "spiffe://mesh", "{ nam: a }"] {
        assert_eq!(yaml(&mesh(wrong)).len(), 1, "{wrong}");
    }
}
