//! Sharing links through NATS.

use super::*;
use crate::config::Nats;
use crate::config::units::ByteSize;

fn shared(c: &mut Config) {
    c.node.name = "node-a".into();
    c.mesh.key = Some("/m/key".into());
    c.mesh.nats.servers = vec!["nats://nats.mesh.svc:4222".into()];
}

fn with(change: impl Fn(&mut Nats) + 'static) -> impl FnOnce(&mut Config) {
    move |c: &mut Config| {
        shared(c);
        change(&mut c.mesh.nats);
    }
}

#[test]
fn nats_is_chosen_by_its_servers_and_needs_a_key_and_a_name_as_gossip_does() {
    fine(shared);
    error("mesh.nats!: without a key anybody could tell this node anything", |c| {
        shared(c);
        c.mesh.key = None;
    });
    warning("node.name: `local` is every node's name", |c| {
        shared(c);
        c.node.name = "local".into();
    });
    error("mesh.nats!: links are shared by gossip or by NATS, not by both / remove `mesh.listen`", |c| {
        shared(c);
        c.mesh.listen = Some("0.0.0.0:7946".parse().unwrap());
    });
    warning("mesh.seeds!: `seeds` is for gossip", |c| {
        shared(c);
        c.mesh.seeds = vec!["10.0.0.1:7946".into()];
    });
    warning("mesh.advertise!: `advertise` is for gossip", |c| {
        shared(c);
        c.mesh.advertise = "10.0.0.1:7946".parse().ok();
    });
    warning("mesh!: nothing is shared without `listen` or `nats.servers`", |c| {
        shared(c);
        c.mesh.key = None;
        c.mesh.nats.servers.clear();
        c.mesh.nats.zones = vec!["eu-1a".into()];
    });
}

#[test]
fn servers_are_urls_of_hosts_without_a_user() {
    let server = |url: &str| {
        let url = url.to_owned();
        with(move |nats| nats.servers.push(url.clone()))
    };
    for url in ["nats://10.0.0.1", "tls://nats.mesh.svc:4222", "nats://[::1]:4222", "nats://a_b-c:1"] {
        fine(server(url));
    }
    for url in ["10.0.0.1:4222", "http://a:1", "nats://", "nats://a:0", "nats://a:x", "nats://a/b", "nats://a b", ""] {
        error("mesh.nats.servers[1]: ", server(url));
    }
    error("a user does not belong into a server's URL / write `user` and `password`", server("nats://me:pw@a:4222"));
    error("mesh.nats.servers: 65 servers", with(|nats| nats.servers = vec!["nats://a".into(); 65]));
}

#[test]
fn a_node_proves_once_who_it_is_and_wholly() {
    fine(with(|nats| (nats.user, nats.password) = (Some("a".into()), Some("b".into()))).then_by_tls());
    fine(with(|nats| nats.nkey = Some("/m/nkey".into())));
    fine(with(|nats| nats.credentials = Some("/m/a.creds".into())));
    error("mesh.nats.user!: `user` alone proves nothing / add `password`", with(|nats| nats.user = Some("a".into())));
    error(
        "mesh.nats.password!: `password` alone proves nothing / add `user`",
        with(|nats| nats.password = Some("a".into())).then_by_tls(),
    );
    error("mesh.nats.nkey!: a server is told once who this node is, and here stand `token` and `nkey`", {
        let both = |nats: &mut Nats| (nats.token, nats.nkey) = (Some("a".into()), Some("/m/nkey".into()));
        with(both).then_by_tls()
    });
    error("mesh.nats.token: `token` is empty", with(|nats| nats.token = Some("".into())).then_by_tls());
    error("mesh.nats.token: a control character", with(|nats| nats.token = Some("a\n".into())).then_by_tls());
    error("mesh.nats.nkey: `nkey` names no file", with(|nats| nats.nkey = Some("".into())));
    warning("mesh.nats.servers[0]: whoever is on the way to `nats.mesh.svc` can read the password or the token", {
        with(|nats| nats.token = Some("a".into()))
    });
    fine(with(|nats| {
        nats.token = Some("a".into());
        nats.servers = vec!["nats://127.0.0.1:4222".into(), "nats://localhost".into(), "nats://[::1]".into()];
    }));
}

/// By TLS, so that nobody on the way reads anything.
trait ByTls {
    fn then_by_tls(self) -> impl FnOnce(&mut Config);
}

impl<F: FnOnce(&mut Config)> ByTls for F {
    fn then_by_tls(self) -> impl FnOnce(&mut Config) {
        move |c: &mut Config| {
            self(c);
            c.mesh.nats.servers = vec!["tls://nats.mesh.svc".into()];
        }
    }
}

#[test]
fn tls_has_a_certificate_with_its_key() {
    fine(with(|nats| nats.tls.authorities = Some("/m/ca.pem".into())));
    fine(with(|nats| (nats.tls.certificate, nats.tls.key) = (Some("/m/a.pem".into()), Some("/m/a-key.pem".into()))));
    let certificate = with(|nats| nats.tls.certificate = Some("/m/a.pem".into()));
    error("mesh.nats.tls.certificate!: `certificate` is of no use without `key`", certificate);
    error("mesh.nats.tls.key!: `key` is of no use without", with(|nats| nats.tls.key = Some("/m/a-key.pem".into())));
    error(
        "mesh.nats.tls.authorities: `authorities` names no file",
        with(|nats| nats.tls.authorities = Some("".into())),
    );
}

#[test]
fn subjects_have_no_parts_with_a_meaning_of_their_own() {
    let prefix = |prefix: &str| {
        let prefix = prefix.to_owned();
        with(move |nats| nats.prefix.clone_from(&prefix))
    };
    for name in ["pathloom", "shop.pathloom", "a_b-C9", &"a".repeat(64)] {
        fine(prefix(name));
    }
    for name in ["", "a.", ".a", "a..b", "*", ">", "a b", "$SYS", "_INBOX", "é", &"a".repeat(65)] {
        error("mesh.nats.prefix: ", prefix(name));
    }
    fine(with(|nats| nats.zones = vec!["eu-1a".into(), "any name at all".into()]));
    error("mesh.nats.zones[1]: a zone without a name", with(|nats| nats.zones = vec!["a".into(), String::new()]));
    error("mesh.nats.zones[0]: a control character", with(|nats| nats.zones = vec!["a\n".into()]));
    error("mesh.nats.zones: 65 zones", with(|nats| nats.zones = vec!["a".into(); 65]));
}

#[test]
fn what_is_heard_has_bounds() {
    let hear = |bytes: u64| with(move |nats| nats.hear = ByteSize(bytes));
    fine(hear(64 << 10));
    fine(hear(1 << 30));
    error("mesh.nats.hear: ", hear((64 << 10) - 1));
    error("mesh.nats.hear: ", hear((1 << 30) + 1));
}
