//! Tests of whole nodes, on a network in memory that can be cut.

use super::super::exchange::{Audience, Hearers};
use super::super::refusals::tests::logged;
use super::super::wire::Writer;
use super::*;
use crate::links::{Described, LinkKey, Links, Outcome, Time};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const SECOND: u64 = 1_000_000_000;

/// Who gets what was sent, by name; and which pairs hear nothing of each other.
#[derive(Debug, Default)]
struct Network {
    boxes: Mutex<BTreeMap<&'static str, Vec<Vec<u8>>>>,
    wants: Mutex<BTreeMap<&'static str, Interest>>,
    cut: Mutex<BTreeSet<(&'static str, &'static str)>>,
}

struct Wire {
    name: &'static str,
    network: Arc<Network>,
    others: Vec<&'static str>,
    budget: usize,
    sent: usize,
}

#[async_trait]
impl Exchange for Wire {
    async fn room(&mut self) -> Room {
        let wants = self.network.wants.lock().unwrap();
        let others = self.network.boxes.lock().unwrap().keys().copied().filter(|name| *name != self.name).collect();
        self.others = others;
        let audience = |name| Audience { interest: wants.get(name).cloned().unwrap_or_default() };
        let hearers = Hearers::Members(self.others.iter().map(audience).collect());
        Room { budget: self.budget, limit: 1_200, overhead: 100, hearers }
    }

    async fn send(&mut self, to: To, report: &[u8]) {
        self.sent += report.len() + 100;
        let To::Member(place) = to else { panic!("{to:?} is no member") };
        let to = self.others[place];
        if !self.network.cut.lock().unwrap().contains(&(self.name, to)) {
            self.network.boxes.lock().unwrap().get_mut(to).unwrap().push(report.to_vec());
        }
    }

    async fn want(&mut self, interest: &Interest) {
        self.network.wants.lock().unwrap().insert(self.name, interest.clone());
    }

    async fn receive(&mut self) -> Vec<u8> {
        std::future::pending().await
    }

    fn peers(&self) -> usize {
        self.network.boxes.lock().unwrap().len() - 1
    }
}

/// A node with links of its own, and the time of all.
struct Bench {
    node: Node,
    wire: Wire,
    links: Arc<Links>,
    now: Arc<AtomicU64>,
}

impl Bench {
    fn new(name: &'static str, network: &Arc<Network>, now: &Arc<AtomicU64>) -> Self {
        network.boxes.lock().unwrap().insert(name, Vec::new());
        let links = Arc::new(Links::new(1));
        let clock = now.clone();
        let described = |key: &NodeKey| {
            let service = if key.0.starts_with('y') { "why" } else { return None };
            Some(Described { service: service.into(), zone: "eu-1".into(), host: "".into() })
        };
        let parts = Parts {
            links: links.clone(),
            clock: Arc::new(move || Time(clock.load(SeqCst))),
            described: Arc::new(described),
        };
        let identity = Identity { name: name.into(), zone: "".into(), incarnation: wall_ms(), hops: 3 };
        let node = Node::new(Arc::new(parts), Arc::default(), identity);
        let wire = Wire { name, network: network.clone(), others: Vec::new(), budget: 16 * 1024, sent: 0 };
        Self { node, wire, links, now: now.clone() }
    }

    fn time(&self) -> Time {
        Time(self.now.load(SeqCst))
    }

    fn call(&self, key: &LinkKey, latency_s: f32) {
        let (link, now) = (self.links.link(key, self.time()), self.time());
        link.begin(0, now);
        link.record(0, now, latency_s, Outcome::Success, latency_s, 3.0);
        link.end(0, now);
    }

    /// What a tick would see of a link.
    fn sees(&self, key: &LinkKey) -> Option<f32> {
        let seen = self.links.observe(self.time());
        seen.links.iter().find(|l| l.key == *key)?.stats.latency_mean_s
    }
}

fn key(source: &str, destination: &str) -> LinkKey {
    LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
}

/// Half a second passes for all.
async fn pass(network: &Network, nodes: &mut [&mut Bench]) {
    for bench in nodes.iter_mut() {
        bench.now.fetch_add(SECOND / 2 / 3, SeqCst);
        let _ = bench.links.observe(bench.time());
        bench.node.tell(&mut bench.wire).await;
    }
    for bench in nodes.iter_mut() {
        let inbox = network.boxes.lock().unwrap().get_mut(bench.wire.name).map(std::mem::take).unwrap_or_default();
        inbox.iter().for_each(|report| bench.node.hear(report));
        bench.node.show(0);
        bench.wire.want(&bench.node.interest()).await;
    }
}

#[tokio::test]
async fn nodes_learn_what_others_saw_and_forget_it_when_they_are_cut_off() {
    let (network, now) = (Arc::new(Network::default()), Arc::new(AtomicU64::new(SECOND)));
    let mut a = Bench::new("a", &network, &now);
    let mut b = Bench::new("b", &network, &now);
    let mut c = Bench::new("c", &network, &now);
    let (slow, own) = (key("x1", "y1"), key("a", "x1"));
    let rounds = async |a: &mut Bench, b: &mut Bench, c: &mut Bench, count: usize| {
        for _ in 0..count {
            a.call(&own, 0.001);
            c.call(&key("c", "x1"), 0.001);
            (0..20).for_each(|_| b.call(&slow, 0.5));
            pass(&network, &mut [a, b, c]).await;
        }
    };
    rounds(&mut a, &mut b, &mut c, 2).await;
    for bench in [&a, &c] {
        assert!((bench.sees(&slow).unwrap() - 0.5).abs() < 0.01);
        let told = bench.links.told().unwrap();
        assert_eq!(
            (&*told.link(&slow).unwrap().by, &*told.node(&slow.destination).unwrap().described.service),
            ("b", "why")
        );
    }
    assert_eq!(b.links.told().unwrap().link(&slow), None, "nobody tells a node of its own links");

    network.cut.lock().unwrap().extend([("b", "a"), ("a", "b")]);
    rounds(&mut a, &mut b, &mut c, 23).await;
    assert_eq!((a.sees(&slow), a.links.told().unwrap().links.len()), (None, 1), "its own are left, and what c tells");
    assert!(a.sees(&own).is_some() && c.sees(&slow).is_some(), "others still hear of it");

    network.cut.lock().unwrap().clear();
    rounds(&mut a, &mut b, &mut c, 2).await;
    assert!(a.sees(&slow).is_some(), "the partition has healed");
}

#[tokio::test]
async fn a_small_budget_is_kept_and_goes_round() {
    let (network, now) = (Arc::new(Network::default()), Arc::new(AtomicU64::new(SECOND)));
    let mut a = Bench::new("a", &network, &now);
    let mut b = Bench::new("b", &network, &now);
    b.wire.budget = 2_000;
    let keys: Vec<LinkKey> = (0..60).map(|n| key("b", &format!("y{n}"))).collect();
    for round in 1..=16 {
        keys.iter().for_each(|key| b.call(key, 0.010));
        a.call(&key("a", "b"), 0.010);
        pass(&network, &mut [&mut a, &mut b]).await;
        assert!(b.wire.sent <= round * 2_000, "{} in {round}", b.wire.sent);
    }
    let told = a.links.told().unwrap();
    assert_eq!(told.links.len(), keys.len(), "each had its turn");
}

#[tokio::test]
async fn a_node_hears_what_is_near_to_it_and_more_as_it_learns_what_lies_behind() {
    let (network, now) = (Arc::new(Network::default()), Arc::new(AtomicU64::new(SECOND)));
    let mut a = Bench::new("a", &network, &now);
    let mut b = Bench::new("b", &network, &now);
    let (near, far, elsewhere) = (key("x1", "y1"), key("y1", "z1"), key("p", "q"));
    for _ in 0..3 {
        a.call(&key("a", "x1"), 0.010);
        [&near, &far, &elsewhere].into_iter().for_each(|key| b.call(key, 0.010));
        pass(&network, &mut [&mut a, &mut b]).await;
    }
    // Before it had said what it wants, it was told everything once; that is forgotten, as nobody repeats it.
    for _ in 0..36 {
        [&near, &far, &elsewhere].into_iter().for_each(|key| b.call(key, 0.010));
        pass(&network, &mut [&mut a, &mut b]).await;
    }
    assert_eq!(a.node.ledger.links(), 2);
    assert!(a.sees(&near).is_some() && a.sees(&far).is_some() && a.sees(&elsewhere).is_none());
}

#[tokio::test]
async fn a_node_shares_until_it_is_stopped_and_then_knows_nothing_of_others() {
    let (network, now) = (Arc::new(Network::default()), Arc::new(AtomicU64::new(SECOND)));
    let mut a = Bench::new("a", &network, &now);
    let mut b = Bench::new("b", &network, &now);
    a.call(&key("a", "x1"), 0.5);
    b.call(&key("x1", "y1"), 0.5);
    pass(&network, &mut [&mut a, &mut b]).await;
    assert!(a.links.told().is_some_and(|told| told.links.len() == 1));
    let (stop, stopped) = oneshot::channel::<()>();
    drop(stop);
    a.node.share(a.wire, stopped).await;
    assert_eq!(a.links.told(), None);
}

#[test]
fn a_member_whose_report_is_refused_is_named_in_the_log() {
    let (network, now) = (Arc::new(Network::default()), Arc::new(AtomicU64::new(SECOND)));
    let mut a = Bench::new("a", &network, &now);
    let of = |node: &str| {
        let head = Head { node: node.into(), zone: "".into(), incarnation: 1, sequence: 1, made_ms: wall_ms() };
        Writer::new(&head, 1_000).finish()
    };
    let twin = of("a");
    let lines = logged(|| {
        a.node.hear(&of("b"));
        a.node.hear(&twin);
        a.node.hear(b"\xff\xff");
    });
    let [own_name, unreadable] = &lines[..] else { panic!("{lines:?}") };
    assert!(own_name.contains("WARN") && own_name.contains("node a") && own_name.contains("own_name"), "{own_name}");
    assert!(unreadable.contains("a member whose name cannot be read"), "{unreadable}");
}
