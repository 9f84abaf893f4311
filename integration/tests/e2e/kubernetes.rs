//! Endpoints of a Kubernetes service, from an API server that does what a test says: every state of an instance, slices
//! that change one after another, versions that are past, watches that break off, a server that is gone. Requests go to the
//! right endpoints all the while, and none of them fails.

use crate::discovery::{discovery, only, serving, state, with};
use crate::sidecar;
use pathloom_integration::client::Version;
use pathloom_integration::dns::{Data, DnsServer, Reply};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::kube_api::{KubeApi, pod, slice};
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

const READY: (bool, bool, bool) = (true, true, false);
const TERMINATING: (bool, bool, bool) = (false, true, true);
const GONE: (bool, bool, bool) = (false, false, true);
const STARTING: (bool, bool, bool) = (false, false, false);

/// A fleet of pods, the server that tells of them, and a sidecar that asks it.
struct Bench {
    fleet: Fleet,
    api: KubeApi,
    sidecar: Sidecar,
    /// Where the sidecar reads which server to ask.
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// With these slices at the beginning; `source` is what the configuration says of the service.
    async fn start(pods: u8, source: &str, slices: impl FnOnce(&Fleet) -> Vec<Value>) -> Self {
        let fleet = Fleet::on_one_port(pods).await;
        let api = KubeApi::start().await;
        api.put(slices(&fleet));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        std::fs::write(&file, api.kubeconfig()).unwrap();
        let yaml = with(&format!("discover: [{{ {source} }}]"));
        let sidecar = sidecar(yaml).variable("KUBECONFIG", file.display().to_string()).start().await;
        Self { fleet, api, sidecar, file, _directory: directory }
    }

    async fn load(&self) -> Load {
        Load::start(Version::Http1, self.sidecar.address("in"), 8, "/").await
    }

    async fn only(&self, load: &Load, wanted: &[usize]) {
        only(&self.sidecar, &self.fleet, load, wanted).await;
    }
}

/// A slice of `shop/catalog` with these pods of the fleet.
fn of(fleet: &Fleet, name: &str, pods: &[(usize, (bool, bool, bool))]) -> Value {
    let port = fleet.endpoints[0].address.port();
    let one = |(n, (ready, serving, terminating)): &(usize, (bool, bool, bool))| {
        pod(fleet.endpoints[*n].address.ip(), *ready, *serving, *terminating)
    };
    slice("shop", "catalog", name, port, pods.iter().map(one).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_of_a_pod_means_what_kubernetes_means() {
    let bench = Bench::start(6, "kubernetes: shop/catalog, port: http", |fleet| {
        vec![
            of(fleet, "catalog-a", &[(0, READY), (1, TERMINATING), (2, STARTING)]),
            of(fleet, "catalog-b", &[(3, READY), (4, GONE)]),
            slice("shop", "storage", "storage-a", 1, vec![pod("10.9.9.9".parse().unwrap(), true, true, false)]),
            slice("other", "catalog", "catalog-c", 1, vec![pod("10.9.9.8".parse().unwrap(), true, true, false)]),
        ]
    })
    .await;
    let (fleet, api, sidecar) = (&bench.fleet, &bench.api, &bench.sidecar);
    let load = bench.load().await;
    bench.only(&load, &[0, 3]).await;
    let candidates = sidecar.candidates("catalog").await;
    let leaving = &candidates[&fleet.endpoints[1].address];
    assert_eq!((&leaving["health"], candidates.len()), (&json!("drained"), 3), "{leaving}");
    let ready = &candidates[&fleet.endpoints[0].address];
    assert_eq!(
        (&ready["zone"], &ready["metadata"]["pod"]),
        (&json!("eu-1a"), &json!(format!("pod-{}", fleet.endpoints[0].address.ip())))
    );
    let seen = discovery(sidecar).await;
    assert_eq!(seen["endpoints"], json!({ "ready": 2, "terminating": 1, "not_ready": 2 }), "{seen}");
    // One starts, one leaves; slices change one after another, and a pod moves from one to the other.
    api.put([of(fleet, "catalog-a", &[(0, TERMINATING), (2, READY), (3, READY)])]);
    bench.only(&load, &[2, 3]).await;
    api.put([of(fleet, "catalog-b", &[(5, READY)])]);
    bench.only(&load, &[2, 3, 5]).await;
    // All are leaving at once: those that serve go on serving, as nobody else does.
    api.put([of(fleet, "catalog-a", &[(2, TERMINATING), (3, GONE)]), of(fleet, "catalog-b", &[(5, TERMINATING)])]);
    bench.only(&load, &[2, 5]).await;
    api.put([of(fleet, "catalog-b", &[(1, READY)])]);
    bench.only(&load, &[1]).await;
    api.delete("shop", "catalog-a");
    bench.only(&load, &[1]).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    // Nobody is ready: that is believed, and is a clear answer.
    api.put([of(fleet, "catalog-b", &[(1, STARTING)])]);
    wait::eventually("no endpoints", async || {
        let mut client = Version::Http1.connect(sidecar.address("in")).await.map_err(|e| e.to_string())?;
        let answer = client.get("/").await.map_err(|e| e.to_string())?;
        if answer.status() == 503 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    api.delete("shop", "catalog-b");
    state(sidecar, Some("no_such_name")).await;
    api.put([of(fleet, "catalog-b", &[(1, READY)])]);
    state(sidecar, None).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_watch_the_right_pods_get_the_requests() {
    let mut bench = Bench::start(4, "kubernetes: catalog", |fleet| {
        vec![of(fleet, "catalog-a", &[(0, READY)]), of(fleet, "catalog-b", &[(1, READY)]), of(fleet, "catalog-c", &[])]
    })
    .await;
    let load = bench.load().await;
    bench.only(&load, &[0, 1]).await;
    // A watch that breaks off goes on where it was: what happened meanwhile is not missed, and nothing is listed anew.
    let (lists, watches) = bench.api.asked();
    bench.api.bookmark();
    bench.api.break_watches();
    bench.api.put([of(&bench.fleet, "catalog-b", &[(2, READY)])]);
    bench.only(&load, &[0, 2]).await;
    wait::eventually("another watch", async || {
        let now = bench.api.asked();
        if now.1 > watches { Ok(()) } else { Err(format!("{now:?} after {watches} watches")) }
    })
    .await;
    assert_eq!(bench.api.asked().0, lists, "nothing was listed anew");
    // Its version is past: the list is made anew, in parts, while the old one holds.
    bench.api.pages_of(1);
    bench.api.delete("shop", "catalog-a");
    bench.api.put([of(&bench.fleet, "catalog-b", &[(2, READY), (3, READY)])]);
    bench.api.compact();
    bench.api.break_watches();
    bench.only(&load, &[2, 3]).await;
    wait::eventually("another list", async || {
        let (now, _) = bench.api.asked();
        if now > lists { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    // Refused: what was told stays.
    bench.api.refuse(Some(403));
    bench.api.break_watches();
    let failing = state(&bench.sidecar, Some("denied")).await;
    assert_eq!(failing["endpoints"]["ready"], 2, "{failing}");
    bench.only(&load, &[2, 3]).await;
    bench.api.refuse(Some(500));
    state(&bench.sidecar, Some("server_failure")).await;
    bench.api.refuse(None);
    state(&bench.sidecar, None).await;
    // Gone altogether, and back with another truth.
    bench.api.stop().await;
    state(&bench.sidecar, Some("unreachable")).await;
    bench.only(&load, &[2, 3]).await;
    bench.api.put([of(&bench.fleet, "catalog-b", &[(0, READY), (3, READY)])]);
    bench.api.start_again().await;
    bench.only(&load, &[0, 3]).await;
    state(&bench.sidecar, None).await;
    // Another server in its place, where the credentials say.
    let next = KubeApi::start().await;
    next.put([of(&bench.fleet, "catalog-d", &[(1, READY)])]);
    std::fs::write(&bench.file, next.kubeconfig()).unwrap();
    bench.api.stop().await;
    bench.only(&load, &[1]).await;
    load.stop().await.assert_each_right_and_once(&bench.fleet.journal);
    let log = bench.sidecar.stderr();
    assert!(log.contains("discovery fails") && log.contains("discovery works again"), "{log}");
    assert!(!log.contains("kube_client"), "each try of kube's: {log}");
    bench.sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_mixed_and_one_that_is_down_takes_nothing_from_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("catalog.yaml");
    let write = |text: &str| {
        let next = directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    let mut dns = DnsServer::start().await;
    let name = "_http._tcp.catalog.test";
    let sources = format!(
        "file: '{}' }}, {{ dns: {name}, nameservers: ['{}'] }}, {{ kubernetes: catalog",
        file.display(),
        dns.address
    );
    let mut bench = Bench::start(4, &sources, |fleet| {
        let by_name = fleet.endpoints[1].address;
        dns.has("pods.test", [by_name.ip()], 1);
        dns.says(name, Reply::Records(vec![Data::Srv(1, 1, by_name.port(), "pods.test".to_owned())], 1));
        write(&format!("endpoints: [{{ address: '{}' }}]", fleet.endpoints[2].address));
        vec![of(fleet, "catalog-a", &[(0, READY)])]
    })
    .await;
    let load = bench.load().await;
    bench.only(&load, &[0, 1, 2]).await;
    // Each is down while the others change.
    dns.stop().await;
    bench.api.put([of(&bench.fleet, "catalog-a", &[(3, READY)])]);
    bench.only(&load, &[1, 2, 3]).await;
    bench.api.stop().await;
    // What one no longer has, another one may: the pod that Kubernetes gave up above is the file's now.
    write(&format!("endpoints: [{{ address: '{}' }}]", bench.fleet.endpoints[0].address));
    bench.only(&load, &[0, 1, 3]).await;
    // All are down at once.
    write("endpoints: 7");
    state(&bench.sidecar, Some("invalid")).await;
    bench.only(&load, &[0, 1, 3]).await;
    load.stop().await.assert_each_right_and_once(&bench.fleet.journal);
    bench.sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_a_slice_is_named_and_takes_nothing_else_along() {
    let bench = Bench::start(3, "kubernetes: shop/catalog", |fleet| vec![of(fleet, "catalog-a", &[(0, READY)])]).await;
    let (fleet, api, sidecar) = (&bench.fleet, &bench.api, &bench.sidecar);
    let load = bench.load().await;
    bench.only(&load, &[0]).await;
    let mut partly = of(fleet, "catalog-b", &[(1, READY)]);
    let entries = [
        json!(7),
        json!({ "addresses": "many" }),
        json!({ "addresses": ["catalog.shop"] }),
        json!({ "addresses": ["0.0.0.0"] }),
    ];
    partly["endpoints"].as_array_mut().unwrap().extend(entries);
    api.put([partly]);
    bench.only(&load, &[0, 1]).await;
    let seen = discovery(sidecar).await;
    assert_eq!(seen["ignored"], json!({ "unreadable": 2, "bad_address": 2 }), "{seen}");
    assert!(sidecar.stderr().contains("slice catalog-b: "), "{}", sidecar.stderr());
    // A slice that is nonsense as a whole stays as it was, and the next one is heard.
    let mut broken = of(fleet, "catalog-a", &[]);
    broken["endpoints"] = json!("none of your business");
    api.put([broken]);
    api.put([of(fleet, "catalog-b", &[(2, READY)])]);
    bench.only(&load, &[0, 2]).await;
    // An event that is none: the watch begins anew.
    api.event(json!({ "type": "SURPRISE", "object": 5 }));
    api.put([of(fleet, "catalog-a", &[(1, READY)])]);
    bench.only(&load, &[1, 2]).await;
    state(sidecar, None).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    assert_eq!(serving(sidecar, fleet).await, BTreeSet::from([1, 2]));
    sidecar.assert_no_panic();
}
