//! Sidecars that tell each other what they see: what one learns from others, and what it does not believe.

use crate::sidecar;
use pathloom::mesh::wire::{Head, Writer};
use pathloom::mesh::{Keys, Kind, Sealer};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const README: &str = include_str!("../../../README.md");
pub const KEY: &str = "a key that all nodes of this test have";
/// What is told is forgotten after seven seconds, failures are found as slowly, and the machine may be busy.
pub const AGEING: Duration = Duration::from_secs(90);
const MODEL: &str = "model: { engine: embedded, tick: 500ms, guards: { slow_start: 0s } }\n";

/// What all nodes of a test have in common.
pub struct Mesh {
    folder: tempfile::TempDir,
    pub seed: SocketAddr,
}

impl Mesh {
    pub fn new() -> Self {
        let mesh = Self { folder: tempfile::tempdir().unwrap(), seed: ports::free(ports::own_ip(2)) };
        mesh.write_key("key", KEY);
        mesh
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_key(&self, name: &str, key: &str) {
        std::fs::write(self.file(name), format!("{key}\n")).unwrap();
    }

    /// The README's example as a node of this name, with these workloads, its one cluster and that one's endpoints.
    pub fn node(&self, name: &str, key: &Path, workload: &str, cluster: &str, endpoints: &str) -> String {
        let section = README.split("### Share what is seen\n").nth(1).expect("the section");
        let example = section.split("```yaml\n").nth(1).and_then(|s| s.split("```").next()).expect("the example");
        let places = [
            ("${NODE_NAME:-node-a}".to_owned(), name.to_owned()),
            ("0.0.0.0:7946".to_owned(), "'@mesh@'".to_owned()),
            ("[10.1.2.3:7946, 10.1.2.4:7946]".to_owned(), format!("['{}']", self.seed)),
            ("/etc/pathloom/mesh.key".to_owned(), format!("'{}'", key.display())),
            ("{ catalog: { listen: 127.0.0.1:15001, serves: 10.1.2.3:8080 } }".to_owned(), workload.to_owned()),
            ("cluster: storage".to_owned(), format!("cluster: {cluster}")),
            ("storage: {".to_owned(), format!("{cluster}: {{")),
            ("[{ address: 10.1.2.9:9000 }]".to_owned(), endpoints.to_owned()),
        ];
        let yaml = places.iter().fold(example.to_owned(), |yaml, (shown, real)| {
            assert!(yaml.contains(shown.as_str()), "{shown} is not in the example");
            yaml.replace(shown.as_str(), real)
        });
        yaml + MODEL
    }

    /// A node whose one workload, `frontend`, calls the endpoints of `catalog`.
    pub fn caller(&self, name: &str, endpoints: &str) -> String {
        self.node(name, &self.file("key"), "{ frontend: { listen: '@in@' } }", "catalog", endpoints)
    }
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

pub async fn graph(sidecar: &Sidecar) -> Value {
    serde_json::from_str(&sidecar.get("/graph").await.1).unwrap()
}

/// A link of the graph.
async fn link(sidecar: &Sidecar, source: &str, destination: SocketAddr) -> Value {
    let (graph, destination) = (graph(sidecar).await, destination.to_string());
    let links = graph["links"].as_array().cloned().unwrap_or_default();
    let found = links.into_iter().find(|l| l["source"] == source && l["destination"] == destination.as_str());
    found.unwrap_or(Value::Null)
}

/// Waits until a link is as it should be; gives it, and the number of the generation that was there before.
pub async fn until_link(
    sidecar: &Sidecar,
    (source, destination): (&str, SocketAddr),
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> (Value, u64) {
    wait::within(AGEING, what, async || {
        let generation = sidecar.generation().await;
        let link = link(sidecar, source, destination).await;
        if is(&link) { Ok((link, generation)) } else { Err(link.to_string()) }
    })
    .await
}

pub async fn refused(sidecar: &Sidecar, reason: &str) -> f64 {
    sidecar.metrics().await.sum("pathloom_mesh_refused_total", &[("reason", reason)])
}

pub async fn weight(sidecar: &Sidecar, endpoint: SocketAddr) -> f64 {
    number(&sidecar.candidates("catalog").await[&endpoint]["weight"])
}

pub fn serving(endpoint: SocketAddr) -> String {
    format!("{{ catalog: {{ listen: '@in@', serves: '{endpoint}' }} }}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_moves_its_traffic_away_from_what_others_saw_and_it_never_called() {
    let mesh = Mesh::new();
    // Two instances of the catalog, each with a storage of its own behind it.
    let (catalog, storage) = (Fleet::start(2).await, Fleet::start(2).await);
    let [x1, x2] = [0, 1].map(|i| catalog.endpoints[i].address);
    let [y1, y2] = [0, 1].map(|i| storage.endpoints[i].address);
    storage.endpoints.iter().for_each(|y| y.state.slow(Duration::from_millis(2)));

    let a = sidecar(mesh.caller("node-a", &catalog.yaml())).address("mesh", mesh.seed).start().await;
    let key = mesh.file("key");
    let behind = |name: &str, x: SocketAddr, y: SocketAddr| mesh.node(name, &key, &serving(x), "storage", &list([y]));
    let b = sidecar(behind("node-b", x1, y1)).start().await;
    let c = sidecar(behind("node-c", x2, y2)).start().await;
    let load_b = Load::start(Version::Http1, b.address("in"), 2, "/").await;
    let load_c = Load::start(Version::Http1, c.address("in"), 2, "/").await;

    for (x, y, by) in [(x1, y1, "node-b"), (x2, y2, "node-c")] {
        let told = |l: &Value| l["told"]["by"] == by && number(&l["statistics"]["samples"]) > 50.0;
        let (link, _) = until_link(&a, (&x.to_string(), y), "what others told", told).await;
        assert!(number(&link["told"]["age_s"]) < 11.0, "{link}");
    }
    // Instances that no configuration of its own names have their service and their zone from others.
    let nodes = graph(&a).await["nodes"].as_array().cloned().unwrap();
    let described = nodes.iter().find(|n| n["key"] == y1.to_string()).unwrap();
    assert_eq!(described["service"], "storage", "{described}");
    let fair = wait::within(AGEING, "fair shares", async || {
        let weights = [weight(&a, x1).await, weight(&a, x2).await];
        if weights.iter().all(|w| *w > 0.35) { Ok(weights) } else { Err(format!("{weights:?}")) }
    })
    .await;

    storage.endpoints[0].state.slow(Duration::from_millis(400));
    let slow = |l: &Value| number(&l["statistics"]["latency_ewma_ms"]) > 200.0 && l["told"]["by"] == "node-b";
    let (_, told_in) = until_link(&a, (&x1.to_string(), y1), "word of the slow storage", slow).await;
    let (after, generation) = wait::within(AGEING, "three ticks", async || {
        let generation = a.generation().await;
        if generation >= told_in + 3 { Ok((weight(&a, x1).await, generation)) } else { Err(generation) }
    })
    .await;
    assert!(after < fair[0] - 0.1, "{after} in generation {generation}, told in {told_in}, before {fair:?}");
    assert_eq!(catalog.requests(), 0, "it never called either");

    let metrics = a.metrics().await;
    assert_eq!(metrics.get("pathloom_mesh_peers", &[]), Some(2.0));
    assert!(metrics.get("pathloom_mesh_links", &[]) >= Some(2.0));
    assert_eq!(metrics.sum("pathloom_mesh_refused_total", &[]), 0.0, "nothing of honest nodes is refused");
    assert!(metrics.sum("pathloom_mesh_sent_bytes_total", &[("holds", "gossip")]) > 0.0);
    load_b.stop().await;
    load_c.stop().await;
    [a, b, c].iter().for_each(Sidecar::assert_no_panic);
}

pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A report of a node that is none.
pub fn report(made_ms: u64, sequence: u64) -> Vec<u8> {
    use pathloom::links::{Account, LinkKey, NodeKey};
    let head = Head { node: "forger".into(), zone: "".into(), incarnation: 1, sequence, made_ms };
    let mut writer = Writer::new(&head, 1_200);
    let key = LinkKey::new(&NodeKey::new("forged"), &NodeKey::new("10.9.9.9:1"));
    let account = Account { calls_per_second: 5.0, ..Account::default() };
    assert!(writer.link(&key, &account, &mut |_| None));
    writer.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_late_early_strange_or_enormous_is_refused_by_its_reason_and_changes_nothing() {
    let mesh = Mesh::new();
    let catalog = Fleet::start(2).await;
    let a = sidecar(mesh.caller("node-a", &catalog.yaml())).address("mesh", mesh.seed).start().await;
    let socket = UdpSocket::bind((ports::own_ip(3), 0)).unwrap();
    let ours = || Sealer::new(&Keys::read(KEY).unwrap()).unwrap();
    let foreign = || Sealer::new(&Keys::read("a key that nobody of this mesh has").unwrap()).unwrap();
    let sealed = |mut by: Sealer, report: &[u8]| by.seal(Kind::Report, report, wall_ms()).unwrap();
    let before = graph(&a).await["links"].as_array().map(Vec::len);

    const HOUR_MS: u64 = 3_600_000;
    let mut version = report(wall_ms(), 1);
    assert_eq!(version[..2], [0x08, 1], "the first field is the version");
    version[1] = 2;
    let mut enormous = sealed(ours(), &report(wall_ms(), 1));
    enormous.resize(60_000, 0);
    let mut flipped = sealed(ours(), &report(wall_ms(), 1));
    flipped[60] ^= 1;
    let bad = [
        ("forged", sealed(foreign(), &report(wall_ms(), 1))),
        ("forged", flipped),
        ("future", sealed(ours(), &report(wall_ms() + HOUR_MS, 1))),
        ("future", ours().seal(Kind::Report, &report(wall_ms(), 1), wall_ms() + HOUR_MS).unwrap()),
        ("stale", sealed(ours(), &report(wall_ms() - HOUR_MS, 1))),
        ("version", sealed(ours(), &version)),
        ("too_large", enormous),
        ("malformed", sealed(ours(), &[0xff; 100])),
        ("malformed", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("own_name", {
            let head = Head { node: "node-a".into(), zone: "".into(), incarnation: 1, sequence: 1, made_ms: wall_ms() };
            sealed(ours(), &Writer::new(&head, 1_200).finish())
        }),
    ];
    for (reason, datagram) in bad {
        let count = refused(&a, reason).await;
        socket.send_to(&datagram, a.address("mesh")).unwrap();
        wait::eventually(reason, async || {
            let now = refused(&a, reason).await;
            if now == count + 1.0 { Ok(()) } else { Err(format!("{now} after {count}")) }
        })
        .await;
        let metrics = a.metrics().await;
        assert_eq!(metrics.get("pathloom_mesh_links", &[]), Some(0.0), "{reason}");
        assert_eq!(metrics.get("pathloom_mesh_reports_total", &[]), Some(0.0), "{reason}");
    }
    assert_eq!(graph(&a).await["links"].as_array().map(Vec::len), before);

    // The same with nothing wrong about it is taken in, so it was the reason that counted; and once only.
    let good = sealed(ours(), &report(wall_ms(), 2));
    for _ in 0..2 {
        socket.send_to(&good, a.address("mesh")).unwrap();
    }
    wait::eventually("the second one to be known", async || {
        let again = refused(&a, "replayed").await;
        if again == 1.0 { Ok(()) } else { Err(again) }
    })
    .await;
    wait::eventually("what was told", async || {
        let metrics = a.metrics().await;
        let seen = (metrics.get("pathloom_mesh_links", &[]), metrics.get("pathloom_mesh_reports_total", &[]));
        if seen == (Some(1.0), Some(1.0)) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    a.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_is_forgotten_and_one_that_comes_back_is_heard() {
    let mesh = Mesh::new();
    let (catalog, storage) = (Fleet::start(2).await, Fleet::start(1).await);
    let (x, y) = (catalog.endpoints[0].address, storage.endpoints[0].address);
    let a = sidecar(mesh.caller("node-a", &catalog.yaml())).address("mesh", mesh.seed).start().await;
    let yaml = mesh.node("node-b", &mesh.file("key"), &serving(x), "storage", &storage.yaml());
    let told = |l: &Value| l["told"]["by"] == "node-b";
    for _ in 0..2 {
        let b = sidecar(yaml.clone()).start().await;
        let load = Load::start(Version::Http1, b.address("in"), 1, "/").await;
        until_link(&a, (&x.to_string(), y), "what node-b told", told).await;
        load.stop().await;
        drop(b);
        until_link(&a, (&x.to_string(), y), "the link to be forgotten", Value::is_null).await;
        assert_eq!(a.metrics().await.get("pathloom_mesh_links", &[]), Some(0.0));
    }
    wait::within(AGEING, "the dead not to be counted", async || {
        let peers = a.metrics().await.get("pathloom_mesh_peers", &[]);
        if peers == Some(0.0) { Ok(()) } else { Err(format!("{peers:?}")) }
    })
    .await;
    a.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_lost_each_other_go_on_alone_and_find_each_other_again() {
    let mesh = Mesh::new();
    let (catalog, storage) = (Fleet::start(1).await, Fleet::start(1).await);
    let (x, y) = (catalog.endpoints[0].address, storage.endpoints[0].address);
    let a = sidecar(mesh.caller("node-a", &catalog.yaml())).address("mesh", mesh.seed).start().await;
    mesh.write_key("key-b", KEY);
    let b = sidecar(mesh.node("node-b", &mesh.file("key-b"), &serving(x), "storage", &storage.yaml())).start().await;
    let load = Load::start(Version::Http1, b.address("in"), 1, "/").await;
    let told = |l: &Value| l["told"]["by"] == "node-b";
    until_link(&a, (&x.to_string(), y), "what node-b told", told).await;

    // Whoever has another key might as well be cut off.
    mesh.write_key("key-b", "another key, which nobody else has");
    until_link(&a, (&x.to_string(), y), "the link to be forgotten", Value::is_null).await;
    assert!(refused(&a, "forged").await > 0.0);
    let served = load.finished();
    load.further(20).await;
    assert!(load.finished() >= served + 20, "requests go on by what is known here");

    // The new key opens, the old one seals: a rotation half way through.
    mesh.write_key("key-b", &format!("{KEY}\nanother key, which nobody else has"));
    until_link(&a, (&x.to_string(), y), "what node-b told again", told).await;
    load.stop().await;
    [a, b].iter().for_each(Sidecar::assert_no_panic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sharing_begins_and_ends_with_a_reload_and_costs_nothing_before() {
    let mesh = Mesh::new();
    let (catalog, storage) = (Fleet::start(1).await, Fleet::start(1).await);
    let (x, y) = (catalog.endpoints[0].address, storage.endpoints[0].address);
    let on = mesh.caller("node-a", &catalog.yaml());
    let off = {
        let (before, rest) = on.split_once("mesh:\n").unwrap();
        let after = rest.split_once("workloads:").unwrap().1;
        format!("{before}workloads:{after}")
    };
    let mut a = sidecar(off.clone()).address("mesh", mesh.seed).start().await;
    assert_eq!(a.metrics().await.get("pathloom_mesh_peers", &[]), None);
    assert!(UdpSocket::bind(mesh.seed).is_ok(), "nobody listens");
    let b = sidecar(mesh.node("node-b", &mesh.file("key"), &serving(x), "storage", &storage.yaml())).start().await;
    let load = Load::start(Version::Http1, b.address("in"), 1, "/").await;
    a.reload_and_wait(&on).await;
    let told = |l: &Value| l["told"]["by"] == "node-b";
    until_link(&a, (&x.to_string(), y), "what node-b told", told).await;
    a.reload_and_wait(&off).await;
    until_link(&a, (&x.to_string(), y), "the link to be gone", Value::is_null).await;
    wait::until("the address to be free", || UdpSocket::bind(mesh.seed).is_ok()).await;
    load.stop().await;
    [a, b].iter().for_each(Sidecar::assert_no_panic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_or_a_key_of_no_use_ends_the_start_and_is_named() {
    let mesh = Mesh::new();
    let taken = UdpSocket::bind((ports::own_ip(2), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    for (key, said) in [
        ("key", format!("mesh.listen: cannot listen on {address}/udp")),
        ("none", format!("mesh.key: {} cannot be read", mesh.file("none").display())),
        ("short", "line 1 is shorter than 16 characters".to_owned()),
    ] {
        mesh.write_key("short", "secret");
        let yaml = mesh.node("node-a", &mesh.file(key), "{ frontend: { listen: '@in@' } }", "catalog", "[]");
        let a = sidecar(yaml).address("mesh", address).spawn();
        wait::eventually("it to say so", async || {
            let log = a.stderr();
            if log.contains(&said) { Ok(()) } else { Err(log) }
        })
        .await;
        assert!(!a.stderr().contains("secret"));
    }
}
