//! Sources that are scripts, a configuration that changes, and what comes of both.

use super::listing::bare;
use super::*;
use crate::config::{Cluster, Endpoint};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Sources by their DNS name, in the hands of a test.
#[derive(Clone, Default)]
struct Hands {
    open: Arc<Mutex<BTreeMap<String, Finds>>>,
    opened: Arc<AtomicUsize>,
    /// Where watches of routes tell, once there are any.
    routes: Arc<Mutex<Option<Arc<Hub>>>>,
}

/// Hands its `Finds` over for as long as it runs.
struct Scripted(String, Hands);

impl Drop for Scripted {
    fn drop(&mut self) {
        self.1.open.lock().unwrap().remove(&self.0);
    }
}

#[async_trait]
impl Source for Scripted {
    async fn run(self: Box<Self>, finds: Finds) {
        self.1.open.lock().unwrap().insert(self.0.clone(), finds);
        self.1.opened.fetch_add(1, SeqCst);
        std::future::pending::<()>().await;
    }

    fn is_watched(&self) -> bool {
        false
    }
}

impl Hands {
    fn discovery(&self) -> Discovery {
        let hands = self.clone();
        let open = move |discover: &Discover| -> Box<dyn Source> {
            let name = discover.dns.clone().or_else(|| discover.kubernetes.clone());
            Box::new(Scripted(name.unwrap_or_default(), hands.clone()))
        };
        let routes = self.routes.clone();
        let watch = move |_: &GatewayApi, hub: &Arc<Hub>| {
            *routes.lock().unwrap() = Some(hub.clone());
            Vec::new()
        };
        Discovery::with(Box::new(open), Box::new(watch))
    }

    async fn until_open(&self, names: &[&str]) {
        while !self.open.lock().unwrap().keys().eq(names) {
            tokio::task::yield_now().await;
        }
    }

    fn tell(&self, name: &str, ports: &[u16]) {
        let mut gathering = Gathering::default();
        ports.iter().for_each(|port| gathering.add(endpoint(*port), Readiness::Ready));
        self.open.lock().unwrap()[name].good(gathering.finish(100));
    }

    fn fail(&self, name: &str) {
        self.open.lock().unwrap()[name].failed(Fault::Timeout, "as scripted");
    }
}

fn endpoint(port: u16) -> Endpoint {
    bare(([10, 0, 0, 1], port).into())
}

fn config(clusters: &[(&str, &[u16], &[&str])]) -> Arc<Config> {
    let cluster = |listed: &[u16], sources: &[&str]| Cluster {
        endpoints: listed.iter().map(|port| endpoint(*port)).collect(),
        discover: sources.iter().map(|s| Discover { dns: Some((*s).to_owned()), ..Discover::default() }).collect(),
        ..Cluster::default()
    };
    let clusters = clusters.iter().map(|(name, listed, sources)| ((*name).to_owned(), cluster(listed, sources)));
    Arc::new(Config { clusters: clusters.collect(), ..Config::default() })
}

fn ports(config: &Config, cluster: &str) -> Vec<u16> {
    config.clusters[cluster].endpoints.iter().map(|e| e.address.port()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_sources_find_takes_effect_as_a_configuration_with_all_endpoints() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    let mut merged = discovery.merged();
    discovery.configure(config(&[("catalog", &[1], &["a", "b"]), ("other", &[9], &[])]));
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    hands.until_open(&["a", "b"]).await;
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [1]);
    hands.tell("a", &[2, 3]);
    merged.changed().await.unwrap();
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [1, 2, 3]);
    hands.tell("b", &[3, 4]);
    merged.changed().await.unwrap();
    let now = merged.borrow_and_update().clone();
    assert_eq!((ports(&now, "catalog"), ports(&now, "other")), (vec![1, 2, 3, 4], vec![9]));
    // One that fails changes nothing, and neither does one that says the same again.
    hands.fail("a");
    hands.tell("b", &[4, 3]);
    tokio::time::sleep(SETTLE * 3).await;
    assert!(!merged.has_changed().unwrap());
    hands.tell("a", &[]);
    merged.changed().await.unwrap();
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [1, 3, 4], "that there is nobody is an answer, too");
}

#[tokio::test(start_paused = true)]
async fn a_changed_source_keeps_what_there_was_until_it_has_answered() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    discovery.configure(config(&[("catalog", &[1], &[])]));
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    let mut merged = discovery.merged();
    assert_eq!(ports(&merged.borrow(), "catalog"), [1]);
    // From a list to a source; then to another one, which takes its time.
    discovery.configure(config(&[("catalog", &[], &["a"])]));
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [1]);
    hands.until_open(&["a"]).await;
    hands.fail("a");
    tokio::time::sleep(SETTLE * 3).await;
    assert_eq!(ports(&merged.borrow(), "catalog"), [1], "it was no answer");
    hands.tell("a", &[2]);
    merged.changed().await.unwrap();
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [2]);
    discovery.configure(config(&[("catalog", &[], &["b"])]));
    hands.until_open(&["b"]).await;
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [2]);
    // Any number of reloads meanwhile.
    discovery.configure(config(&[("catalog", &[], &["b"]), ("more", &[7], &[])]));
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [2]);
    hands.tell("b", &[3]);
    merged.changed().await.unwrap();
    assert_eq!(ports(&merged.borrow(), "catalog"), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_sources_alone_that_it_does_not_change_and_ends_those_that_are_gone() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    discovery.configure(config(&[("catalog", &[], &["a", "b"]), ("same", &[], &["a"])]));
    hands.until_open(&["a", "b"]).await;
    hands.tell("a", &[1]);
    hands.tell("b", &[2]);
    discovery.configure(config(&[("catalog", &[5], &["a"])]));
    assert_eq!(ports(&discovery.merged().borrow(), "catalog"), [5, 1], "at once, without another answer");
    hands.until_open(&["a"]).await;
    assert_eq!(hands.opened.load(SeqCst), 2, "one task for all clusters that name a source");
    assert_eq!(discovery.configured().clusters["catalog"].endpoints.len(), 1, "what the file says is kept apart");
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_known_in_what_was_made_of_it_whatever_endpoints_were_found_meanwhile() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    let mut merged = discovery.merged();
    discovery.configure(config(&[("catalog", &[1], &["a"])]));
    let old = merged.borrow_and_update().clone();
    discovery.configure(config(&[("catalog", &[2], &["a"])]));
    let first = merged.borrow_and_update().clone();
    hands.until_open(&["a"]).await;
    hands.tell("a", &[3]);
    merged.changed().await.unwrap();
    let second = merged.borrow_and_update().clone();
    assert_ne!(first, second);
    let of_the_file = [&old, &first, &second].map(|merged| discovery.is_of_the_file(merged));
    assert_eq!(of_the_file, [false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn serving_waits_for_the_first_word_of_each_source_and_not_for_ever() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    discovery.configure(config(&[("catalog", &[], &["a", "b"])]));
    let since = tokio::time::Instant::now();
    discovery.first(Duration::from_secs(5)).await;
    assert_eq!(since.elapsed(), Duration::from_secs(5));
    hands.until_open(&["a", "b"]).await;
    hands.tell("a", &[1]);
    hands.fail("b");
    let since = tokio::time::Instant::now();
    discovery.first(Duration::from_secs(5)).await;
    assert!(since.elapsed() < Duration::from_secs(1), "a failure is a word");
    assert_eq!(ports(&discovery.merged().borrow(), "catalog"), [1]);
}

#[tokio::test(start_paused = true)]
async fn operators_see_each_source_of_each_cluster() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    discovery.configure(config(&[("catalog", &[], &["a", "b"]), ("other", &[], &["a"])]));
    assert!(discovery.view().iter().all(|view| view.state == SourceState::Waiting));
    hands.until_open(&["a", "b"]).await;
    hands.tell("a", &[1, 2]);
    tokio::time::sleep(Duration::from_secs(7)).await;
    hands.fail("b");
    let view = discovery.view();
    let shown: Vec<_> = view.iter().map(|v| (v.cluster.as_str(), v.source.as_str(), v.state)).collect();
    let expected = [
        ("catalog", "dns a", SourceState::Working),
        ("catalog", "dns b", SourceState::Failing),
        ("other", "dns a", SourceState::Working),
    ];
    assert_eq!(shown, expected);
    assert_eq!((view[0].age, view[0].endpoints[0].1), (Some(Duration::from_secs(7)), 2));
    let trouble = view[1].trouble.as_ref().unwrap();
    assert_eq!((trouble.0, trouble.1.as_str(), view[1].age), (Fault::Timeout, "as scripted", None));
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.yaml");
    let write = |text: &str| {
        let next = directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    write("endpoints: [{ address: 10.0.0.1:1 }]");
    let discovery = Discovery::default();
    let mut of_file = (*config(&[("catalog", &[], &[])])).clone();
    let discover = Discover { file: Some(path.clone()), ..Discover::default() };
    of_file.clusters.get_mut("catalog").unwrap().discover.push(discover);
    discovery.configure(Arc::new(of_file));
    discovery.first(Duration::from_secs(60)).await;
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    let mut merged = discovery.merged();
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [1]);
    let state = async |wanted: SourceState| {
        let seen = async {
            while discovery.view()[0].state != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap();
        discovery.view().remove(0)
    };
    write("endpoints: [{ address: 10.0.0.1:2 }, { address: 10.0.0.1 }]");
    let (fault, text, _) = state(SourceState::Failing).await.trouble.unwrap();
    assert_eq!(fault, Fault::Invalid);
    assert!(text.contains("catalog.yaml:1:49: `10.0.0.1` is not an IP address and a port"), "{text}");
    assert_eq!(ports(&merged.borrow(), "catalog"), [1]);
    write("endpoints: [{ address: 10.0.0.1:2 }, { address: 10.0.0.1:3, weight: 5 }]");
    merged.changed().await.unwrap();
    assert_eq!(ports(&merged.borrow_and_update(), "catalog"), [2, 3]);
    assert_eq!(merged.borrow().clusters["catalog"].endpoints[1].weight, 5);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(state(SourceState::Failing).await.trouble.unwrap().0, Fault::Unavailable);
    write("endpoints: [{ address: 10.0.0.1:2 }, { address: 10.0.0.1:3, weight: 5 }]");
    assert_eq!(state(SourceState::Working).await.endpoints[0].1, 2);
    assert_eq!(ports(&merged.borrow(), "catalog"), [2, 3]);
}

/// A configuration that follows routes, beside a cluster of its own.
fn following(enabled: bool) -> Arc<Config> {
    let mut config = (*config(&[("own", &[9], &[])])).clone();
    config.gateway_api.enabled = enabled;
    Arc::new(config)
}

fn tell_routes(hub: &Hub, backends: &[(&str, u32)]) {
    use serde_json::json;
    let watches = [gateway::Resource::Routes(gateway::Kind::Http), gateway::Resource::Services].map(|r| (r, None));
    let service = |name: &str| json!({ "metadata": { "namespace": "shop", "name": name }, "spec": { "ports": [{ "port": 80 }] } });
    let refs: Vec<_> =
        backends.iter().map(|(name, weight)| json!({ "name": name, "port": 80, "weight": weight })).collect();
    let route = json!({
        "metadata": { "namespace": "shop", "name": "base", "uid": "1", "generation": 1 },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "catalog" }],
            "rules": if refs.is_empty() { json!([]) } else { json!([{ "backendRefs": refs }]) },
        },
    });
    hub.replace(&watches[0], &[route]);
    hub.replace(&watches[1], &[service("catalog"), service("next")]);
    watches.iter().for_each(|watch| hub.works(watch));
}

#[tokio::test(start_paused = true)]
async fn routes_take_effect_when_it_is_known_where_their_backends_are_and_stay_until_then() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    let mut merged = discovery.merged();
    discovery.configure(following(true));
    let running = discovery.clone();
    tokio::spawn(async move { running.run().await });
    let hub = hands.routes.lock().unwrap().clone().unwrap();
    hub.expect(&[(gateway::Resource::Routes(gateway::Kind::Http), None), (gateway::Resource::Services, None)]);
    tell_routes(&hub, &[("catalog", 1)]);
    tokio::time::sleep(SETTLE * 3).await;
    hands.until_open(&["shop/catalog"]).await;
    assert_eq!(merged.borrow_and_update().routes.len(), 0, "nobody knows yet where its backends are");
    hands.tell("shop/catalog", &[1]);
    merged.changed().await.unwrap();
    let first = merged.borrow_and_update().clone();
    assert_eq!(
        (first.routes.len(), ports(&first, "kube.shop.catalog.80"), ports(&first, "own")),
        (3, vec![1], vec![9])
    );
    assert_eq!(discovery.view()[0].cluster, "kube.shop.catalog.80");
    // Another backend: all stays as it was until something is known of it, be it that nothing can be known.
    tell_routes(&hub, &[("catalog", 1), ("next", 1)]);
    tokio::time::sleep(SETTLE * 3).await;
    hands.until_open(&["shop/catalog", "shop/next"]).await;
    assert!(!merged.has_changed().unwrap());
    hands.fail("shop/next");
    merged.changed().await.unwrap();
    assert_eq!(merged.borrow_and_update().routes[0].split.len(), 2);
    // A reload in between keeps them; what is no longer wanted ends.
    discovery.configure(following(true));
    assert_eq!(merged.borrow_and_update().routes.len(), 3);
    tell_routes(&hub, &[("next", 1)]);
    merged.changed().await.unwrap();
    hands.until_open(&["shop/next"]).await;
    assert!(!merged.borrow_and_update().clusters.contains_key("kube.shop.catalog.80"));
    assert_eq!(discovery.routes().unwrap().routes[0].state, "accepted");
    discovery.configure(following(false));
    assert_eq!((merged.borrow_and_update().routes.len(), discovery.routes()), (0, None));
    hands.until_open(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn serving_waits_for_routes_and_for_their_endpoints() {
    let hands = Hands::default();
    let discovery = hands.discovery();
    discovery.configure(following(true));
    let hub = hands.routes.lock().unwrap().clone().unwrap();
    hub.expect(&[(gateway::Resource::Routes(gateway::Kind::Http), None), (gateway::Resource::Services, None)]);
    let telling = hands.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tell_routes(&hub, &[("catalog", 1)]);
        telling.until_open(&["shop/catalog"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        telling.tell("shop/catalog", &[1]);
    });
    let since = tokio::time::Instant::now();
    discovery.first(Duration::from_secs(60)).await;
    assert!(since.elapsed() >= Duration::from_secs(2) && since.elapsed() < Duration::from_secs(60));
    assert_eq!(ports(&discovery.merged().borrow(), "kube.shop.catalog.80"), [1]);
    assert_eq!(discovery.merged().borrow().routes.len(), 3);
}
