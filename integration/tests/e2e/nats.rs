//! Sidecars that tell each other what they see through NATS servers: Debian's `nats-server`, killed, started anew, and believed
//! nothing.

use crate::identity::Authority;
use crate::mesh::{AGEING, KEY, Mesh, graph, number, refused, report, serving, until_link, wall_ms, weight};
use crate::sidecar;
use nkeys::KeyPair;
use pathloom::mesh::{Keys, Kind, Sealer, hash};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::nats::{Server, program, publish};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// What proves to the server of most tests who a node is.
const USERS: &str = "authorization { users = [ { user: node, password: \"a password\" } ] }";
const USER: &str = "user: node, password: 'a password'";

/// The example of sharing as it is by NATS: gossip's address and seeds give way to these keys of `mesh.nats`.
fn by_nats(yaml: &str, nats: &str) -> String {
    let kept = yaml.lines().filter(|line| !line.starts_with("  listen: '@mesh@'") && !line.starts_with("  seeds: "));
    let mut out = String::new();
    for line in kept {
        out.extend([line, "\n"]);
        if line.starts_with("mesh:") {
            out.push_str(&format!("  nats: {{ {nats} }}\n"));
        }
    }
    assert!(out.contains("  nats: {") && out.lines().count() + 1 == yaml.lines().count(), "{out}");
    out
}

fn server(address: SocketAddr) -> String {
    format!("servers: ['nats://{address}'], {USER}")
}

async fn connected(sidecar: &Sidecar, expected: f64) {
    wait::within(AGEING, "the connection to come or go", async || {
        let seen = sidecar.metrics().await.get("pathloom_mesh_connected", &[]);
        if seen == Some(expected) { Ok(()) } else { Err(format!("{seen:?}\n{}", sidecar.stderr())) }
    })
    .await;
}

async fn peers(sidecar: &Sidecar, expected: f64) {
    wait::within(AGEING, "the others to be known", async || {
        let seen = sidecar.metrics().await.get("pathloom_mesh_peers", &[]);
        if seen == Some(expected) { Ok(()) } else { Err(format!("{seen:?}\n{}", sidecar.stderr())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_by_nats_go_on_alone_without_it_and_find_each_other_again() {
    let Some(program) = program() else { return };
    let mesh = Mesh::new();
    let (catalog, storage) = (Fleet::start(2).await, Fleet::start(2).await);
    let [x1, x2] = [0, 1].map(|i| catalog.endpoints[i].address);
    let [y1, y2] = [0, 1].map(|i| storage.endpoints[i].address);
    storage.endpoints.iter().for_each(|y| y.state.slow(Duration::from_millis(2)));
    // At first somebody is there who takes connections and never says a word.
    let address = ports::free(ports::own_ip(2));
    let hung = TcpListener::bind(address).unwrap();
    let nats = server(address);
    let a = sidecar(by_nats(&mesh.caller("node-a", &catalog.yaml()), &nats)).start().await;
    let key = mesh.file("key");
    let behind = |name: &str, x: SocketAddr, y: SocketAddr| {
        by_nats(&mesh.node(name, &key, &serving(x), "storage", &list([y])), &nats)
    };
    let b = sidecar(behind("node-b", x1, y1)).start().await;
    let c = sidecar(behind("node-c", x2, y2)).start().await;
    let load_b = Load::start(Version::Http1, b.address("in"), 2, "/").await;
    let load_c = Load::start(Version::Http1, c.address("in"), 2, "/").await;
    a.logged("no NATS server is connected: timed out; this node goes by what it sees itself").await;
    assert_eq!(a.metrics().await.get("pathloom_mesh_connected", &[]), Some(0.0));
    load_b.further(20).await;
    drop(hung);

    let one = Server::start(&program, address, USERS).await;
    for (x, y, by) in [(x1, y1, "node-b"), (x2, y2, "node-c")] {
        let told = |l: &Value| l["told"]["by"] == by && number(&l["statistics"]["samples"]) > 50.0;
        until_link(&a, (&x.to_string(), y), "what others told", told).await;
    }
    connected(&a, 1.0).await;
    peers(&a, 2.0).await;
    let fair = wait::within(AGEING, "fair shares", async || {
        let weights = [weight(&a, x1).await, weight(&a, x2).await];
        if weights.iter().all(|w| *w > 0.35) { Ok(weights) } else { Err(format!("{weights:?}")) }
    })
    .await;
    storage.endpoints[0].state.slow(Duration::from_millis(400));
    wait::within(AGEING, "traffic to move away", async || {
        let weight = weight(&a, x1).await;
        if weight < fair[0] - 0.1 { Ok(()) } else { Err(format!("{weight} of {fair:?}")) }
    })
    .await;
    assert_eq!(catalog.requests(), 0, "it never called either");
    let metrics = a.metrics().await;
    // A server may be asked for a service twice while what a node wants changes.
    for reason in ["forged", "malformed", "version", "absurd", "own_name", "future", "stale"] {
        assert_eq!(metrics.sum("pathloom_mesh_refused_total", &[("reason", reason)]), 0.0, "{reason}");
    }
    for holds in ["gossip", "report"] {
        let sent = b.metrics().await.sum("pathloom_mesh_sent_bytes_total", &[("holds", holds)]);
        assert!(sent > 0.0, "{holds}");
    }

    one.kill().await;
    connected(&a, 0.0).await;
    until_link(&a, (&x1.to_string(), y1), "the link to be forgotten", Value::is_null).await;
    peers(&a, 0.0).await;
    let served = load_b.finished();
    load_b.further(20).await;
    assert!(load_b.finished() >= served + 20, "requests go on by what is known here");

    let _another = Server::start(&program, address, USERS).await;
    let told = |l: &Value| l["told"]["by"] == "node-b";
    until_link(&a, (&x1.to_string(), y1), "what node-b told again", told).await;
    connected(&a, 1.0).await;
    peers(&a, 2.0).await;
    load_b.stop().await;
    load_c.stop().await;
    [a, b, c].iter().for_each(Sidecar::assert_no_panic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_publish_who_have_not_the_key_is_refused_by_its_reason_and_changes_nothing() {
    let Some(program) = program() else { return };
    let mesh = Mesh::new();
    let catalog = Fleet::start(2).await;
    let nats = Server::start(&program, ports::free(ports::own_ip(2)), "").await;
    let yaml = by_nats(&mesh.caller("node-a", &catalog.yaml()), &format!("servers: ['nats://{}']", nats.address));
    let a = sidecar(yaml.replace("mesh:\n", "mesh:\n  hops: 0\n")).start().await;
    connected(&a, 1.0).await;
    let subject = format!("pathloom.v1.eu-1a.{:08x}.{:08x}", hash("forged"), hash("10.9.9.9:1"));
    let sealed = |key: &str, report: &[u8]| {
        Sealer::new(&Keys::read(key).unwrap()).unwrap().seal(Kind::Report, report, wall_ms()).unwrap()
    };
    let before = graph(&a).await["links"].as_array().map(Vec::len);
    let mut enormous = sealed(KEY, &report(wall_ms(), 1));
    enormous.resize(60_000, 0);
    let bad = [
        ("forged", sealed("a key that nobody of this mesh has", &report(wall_ms(), 1))),
        ("too_large", enormous),
        ("malformed", b"some message of somebody else".to_vec()),
        ("stale", sealed(KEY, &report(wall_ms() - 3_600_000, 1))),
    ];
    // It is heard once the server knows that it wants to.
    wait::eventually("the first message to be heard", async || {
        publish(nats.address, &subject, b"is anybody there?").await;
        let heard = refused(&a, "malformed").await;
        if heard > 0.0 { Ok(()) } else { Err(heard) }
    })
    .await;
    for (reason, message) in bad {
        let count = refused(&a, reason).await;
        publish(nats.address, &subject, &message).await;
        wait::eventually(reason, async || {
            let now = refused(&a, reason).await;
            if now > count { Ok(()) } else { Err(format!("{now} after {count}")) }
        })
        .await;
        let metrics = a.metrics().await;
        assert_eq!(metrics.get("pathloom_mesh_links", &[]), Some(0.0), "{reason}");
        assert_eq!(metrics.get("pathloom_mesh_reports_total", &[]), Some(0.0), "{reason}");
    }
    assert_eq!(graph(&a).await["links"].as_array().map(Vec::len), before);
    // The same with nothing wrong about it is taken in, once.
    let good = sealed(KEY, &report(wall_ms(), 2));
    for _ in 0..2 {
        publish(nats.address, &subject, &good).await;
    }
    wait::eventually("what was told", async || {
        let metrics = a.metrics().await;
        let replayed = metrics.sum("pathloom_mesh_refused_total", &[("reason", "replayed")]);
        let seen = (metrics.get("pathloom_mesh_links", &[]), metrics.get("pathloom_mesh_reports_total", &[]), replayed);
        if seen == (Some(1.0), Some(1.0), 1.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    a.assert_no_panic();
}

/// A token as `nsc` would make it: claims, signed by whoever issues it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": "one", "iat": wall_ms() / 1_000, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": nats
    });
    let signed = format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    format!("{signed}.{}", encode(&issuer.sign(signed.as_bytes()).unwrap()))
}

/// A server's configuration that knows an account, and a file of credentials for a user of it.
fn credentials(file: &Path) -> String {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 });
    let for_account = jwt(&operator, &account, json!({ "limits": limits, "type": "account", "version": 2 }));
    let may = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let for_user = jwt(&account, &user, may);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{for_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(file, text).unwrap();
    let for_operator = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    format!(
        "operator: {for_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {for_account} }}",
        account.public_key()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_let_in_says_why_and_serves_and_is_let_in_with_each_kind_of_proof() {
    let Some(program) = program() else { return };
    let mesh = Mesh::new();
    let catalog = Fleet::start(1).await;
    let file = |name: &str| mesh.file(name).display().to_string();
    let key = KeyPair::new_user();
    std::fs::write(mesh.file("nkey"), key.seed().unwrap()).unwrap();
    std::fs::write(mesh.file("another-nkey"), KeyPair::new_user().seed().unwrap()).unwrap();
    credentials(&mesh.file("another.creds"));
    let with_jwt = credentials(&mesh.file("creds"));
    let authority = Authority::new("mesh.local");
    let address = ports::free(ports::own_ip(2));
    let ip = address.ip().to_string();
    authority.issue("server", "spiffe://mesh.local/nats", &["--dns", &ip]);
    authority.issue("node", "spiffe://mesh.local/node", &[]);
    let pem = |folder: &str, name: &str| authority.file(folder, name).display().to_string();
    let (ca, of_server) = (authority.ca().join("ca.pem"), [pem("server", "cert.pem"), pem("server", "key.pem")]);
    let other = Authority::new("other.local");
    let tls = |ca: &Path| {
        let [certificate, key] = [pem("node", "cert.pem"), pem("node", "key.pem")];
        format!("tls: {{ authorities: '{}', certificate: '{certificate}', key: '{key}' }}", ca.display())
    };
    let not_let_in = "the server does not let this node in (";
    let mut sidecar_a: Option<Sidecar> = None;
    for (known, scheme, wrong, said, right) in [
        (USERS.to_owned(), "nats", "user: node, password: 'a wrong password'".to_owned(), not_let_in, USER.to_owned()),
        (
            "authorization { token: \"some token\" }".to_owned(),
            "nats",
            "token: another".to_owned(),
            not_let_in,
            "token: some token".to_owned(),
        ),
        (
            format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key()),
            "nats",
            format!("nkey: '{}'", file("another-nkey")),
            not_let_in,
            format!("nkey: '{}'", file("nkey")),
        ),
        (
            with_jwt,
            "nats",
            format!("credentials: '{}'", file("another.creds")),
            not_let_in,
            format!("credentials: '{}'", file("creds")),
        ),
        (
            format!(
                "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
                of_server[0],
                of_server[1],
                ca.display()
            ),
            "tls",
            tls(&other.ca().join("ca.pem")),
            "no NATS server is connected: IO error: invalid peer certificate",
            tls(&ca),
        ),
    ] {
        let nats = Server::start(&program, address, &known).await;
        let yaml = |proof: &str| {
            by_nats(&mesh.caller("node-a", &catalog.yaml()), &format!("servers: ['{scheme}://{address}'], {proof}"))
        };
        let mut a = match sidecar_a.take() {
            Some(mut a) => {
                a.reload_and_wait(&yaml(&wrong)).await;
                a
            }
            None => sidecar(yaml(&wrong)).start().await,
        };
        wait::within(AGEING, "it to say why", async || {
            let log = a.stderr();
            if log.rsplit("links are shared by NATS").next().is_some_and(|log| log.contains(said)) {
                Ok(())
            } else {
                Err(format!("{wrong}: no {said:?} in\n{log}"))
            }
        })
        .await;
        let metrics = a.metrics().await;
        assert_eq!(metrics.get("pathloom_mesh_connected", &[]), Some(0.0), "{wrong}");
        let load = Load::start(Version::Http1, a.address("in"), 1, "/").await;
        load.further(5).await;
        load.stop().await;
        a.reload_and_wait(&yaml(&right)).await;
        connected(&a, 1.0).await;
        let log = a.stderr();
        for secret in ["password'", "a password", "a wrong password", "some token", &key.seed().unwrap()] {
            assert!(!log.contains(secret), "{secret:?} is in\n{log}");
        }
        assert!(!a.get("/config").await.1.contains("a password"));
        nats.kill().await;
        connected(&a, 0.0).await;
        sidecar_a = Some(a);
    }
    sidecar_a.iter().for_each(Sidecar::assert_no_panic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_leads_from_gossip_to_nats_and_away_from_it() {
    let Some(program) = program() else { return };
    let mesh = Mesh::new();
    let (catalog, storage) = (Fleet::start(1).await, Fleet::start(1).await);
    let (x, y) = (catalog.endpoints[0].address, storage.endpoints[0].address);
    let nats = Server::start(&program, ports::free(ports::own_ip(2)), USERS).await;
    let gossip = mesh.caller("node-a", &catalog.yaml());
    let by_server = by_nats(&gossip, &server(nats.address));
    let b = by_nats(
        &mesh.node("node-b", &mesh.file("key"), &serving(x), "storage", &storage.yaml()),
        &server(nats.address),
    );
    let mut a = sidecar(gossip.clone()).address("mesh", mesh.seed).start().await;
    let b = sidecar(b).start().await;
    let load = Load::start(Version::Http1, b.address("in"), 1, "/").await;
    assert_eq!(a.metrics().await.get("pathloom_mesh_connected", &[]), None, "gossip has no server");
    let told = |l: &Value| l["told"]["by"] == "node-b";
    for _ in 0..2 {
        a.reload_and_wait(&by_server).await;
        until_link(&a, (&x.to_string(), y), "what node-b told", told).await;
        wait::until("gossip's address to be free", || UdpSocket::bind(mesh.seed).is_ok()).await;
        a.reload_and_wait(&gossip).await;
        until_link(&a, (&x.to_string(), y), "the link to be gone", Value::is_null).await;
        assert_eq!(a.metrics().await.get("pathloom_mesh_connected", &[]), None);
    }
    // Both at once are refused, and what was in force stays so.
    let (ok, failed) = a.reloads().await;
    a.reload(&by_server.replace("mesh:\n", "mesh:\n  listen: '@mesh@'\n"));
    wait::eventually("the refusal", async || {
        let seen = a.reloads().await;
        if seen == (ok, failed + 1) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let text = a.config().await["last_error"]["text"].to_string();
    assert!(text.contains("by gossip or by NATS, not by both"), "{text}");
    load.stop().await;
    [a, b].iter().for_each(Sidecar::assert_no_panic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_no_use_ends_the_start_and_is_named() {
    let mesh = Mesh::new();
    std::fs::write(mesh.file("seed"), "no seed").unwrap();
    let seed = mesh.file("seed").display().to_string();
    let yaml = mesh.node("node-a", &mesh.file("key"), "{ frontend: { listen: '@in@' } }", "catalog", "[]");
    let a = sidecar(by_nats(&yaml, &format!("servers: ['nats://127.0.0.1:4222'], nkey: '{seed}'"))).spawn();
    a.logged(&format!("mesh.nats.nkey: {seed} holds no seed of an nkey")).await;
    assert!(!a.stderr().contains("no seed\n"));
}
