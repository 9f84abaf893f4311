//! What is kept of generations that are over: rows that say what the table said, of tables that chose, within bounds.

use super::*;
use crate::balance::{Candidate, Cause, Endpoint, EndpointId, Health, Predicted, TableOptions, Why};
use crate::config::{Compare, Config, Policy, Workload};
use crate::control::GraphView;
use crate::control::history::Change;
use crate::control::past::{PastCandidate, Place, ROW_BYTES};
use crate::graph::{GraphBuilder, Instance};
use crate::links::{LinkKey, Links, NodeKey, Outcome};
use crate::observe::Traffic;
use crate::route::RouteTable;
use std::time::SystemTime;

const SECOND: u64 = 1_000_000_000;

/// A mesh of `w` and `idle`, which call `c`, and a keeper of what is published in it.
struct Bench {
    status: Arc<Status>,
    keeper: Keeper,
    links: Links,
    generation: u64,
    endpoints: Vec<Arc<Endpoint>>,
}

fn endpoint(port: u16, weight: u32) -> Arc<Endpoint> {
    let address = ([10, 0, 0, 1], port).into();
    Arc::new(Endpoint {
        id: EndpointId(u64::from(port)),
        key: NodeKey::new(&format!("10.0.0.1:{port}")),
        address,
        zone: "eu".into(),
        host: "".into(),
        weight,
        metadata: Default::default(),
        tls: None,
    })
}

impl Bench {
    fn new(endpoints: u16) -> Self {
        let status = Arc::new(Status::default());
        let keeper = Keeper::new(status.clone());
        let endpoints = (1..=endpoints).map(|port| endpoint(port, 1)).collect();
        // Its cells are as old as a pair that nobody has used for long.
        Self { status, keeper, links: Links::new(1), generation: 0, endpoints }
    }

    fn now(&self) -> Time {
        Time((1_000 + self.generation) * SECOND)
    }

    fn table(&self, workload: &str, scored: f32) -> Table {
        let candidate = |e: &Arc<Endpoint>| Candidate {
            endpoint: e.clone(),
            link: self.links.link(&LinkKey::new(&NodeKey::new(workload), &e.key), Time(0)),
            node: self.links.node(&e.key, Time(0)),
            weight: 1.0 / self.endpoints.len() as f32,
            prior_s: 0.010,
            measured_at: None,
            success: 0.99,
            bias: 1.0,
            health: if e.weight == 0 { Health::Drained } else { Health::Healthy },
            score: Some(scored),
            predicted: Some(Predicted { intrinsic_s: (-scored).exp(), mean_s: 0.013, p99_s: 0.040, jitter_s: 0.002 }),
            reason: match e.weight {
                0 => Why::Said("its configured weight is 0"),
                _ => Why::Predicted { intrinsic_s: (-scored).exp(), guard: (e.weight == 2).then_some("by a guard") },
            },
        };
        let options = TableOptions { policy: Policy::Model, compare: Compare::Auto, tau_s: 3.0, explore: 0.0 };
        Table::new(self.endpoints.iter().map(candidate).collect(), false, options, Arc::new(Traffic::new(1)))
    }

    /// Publishes a generation in which everything has this score; `used` says by whom requests came after that.
    fn publish(&mut self, scored: f32, used: &[&str]) -> u64 {
        self.publish_because(scored, used, Cause::Interval)
    }

    fn publish_because(&mut self, scored: f32, used: &[&str], cause: Cause) -> u64 {
        self.generation += 1;
        let workloads = ["idle", "w"].map(|w| (w.to_owned(), Workload::default()));
        let config = Config {
            workloads: workloads.into(),
            clusters: [("c".to_owned(), crate::config::Cluster::default())].into(),
            ..Config::default()
        };
        let routes = Arc::new(RouteTable::compile(&config));
        let tables = routes.workloads().iter().map(|w| Arc::new(self.table(&w.name, scored))).collect();
        let cluster = Cluster::of("c", tables);
        let now = self.now();
        let made = Generation {
            id: self.generation,
            made_at: now,
            routes,
            clusters: [Arc::new(cluster)].into(),
            ..Generation::empty()
        };
        self.status.history.hand(&Arc::new(made));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + self.generation);
        self.status.history.add(Change { at, ..Change::quiet(self.generation, cause) });
        self.keeper.keep();
        for workload in used {
            if let Some(first) = self.endpoints.first() {
                let link = self.links.link(&LinkKey::new(&NodeKey::new(workload), &first.key), Time(0));
                link.begin(0, Time(now.0 + SECOND / 2));
                link.record(0, Time(now.0 + SECOND / 2), 0.012, Outcome::Success, 0.010, 3.0);
            }
        }
        self.generation
    }

    /// Shows the graph as a tick would, with an attention of 0.25 on each link.
    fn show(&self) {
        let mut builder = GraphBuilder::default();
        let (zone, host) = ("eu".into(), "".into());
        builder.instance(Instance { key: NodeKey::new("w"), service: "w".into(), zone, host });
        let graph = builder.build(&self.links.observe(self.now())).unwrap();
        let (attention, node_load) = (vec![0.25; graph.links.len()], vec![0.0; graph.nodes.len()]);
        self.status.show(GraphView { generation: self.generation, graph, attention, node_load });
    }

    fn past(&self, generation: u64) -> Vec<Arc<PastTable>> {
        self.status.history.tables(generation).unwrap_or_default()
    }

    fn workloads(&self, generation: u64) -> Vec<String> {
        self.past(generation).iter().map(|t| t.workload.to_string()).collect()
    }
}

#[test]
fn a_row_says_of_a_candidate_what_its_table_said() {
    let mut bench = Bench::new(3);
    bench.endpoints[1] = endpoint(2, 2);
    bench.endpoints[2] = endpoint(3, 0);
    bench.publish(4.0, &["w"]);
    bench.show();
    let then = bench.publish(4.5, &["w"]);
    // The endpoints are others now, and so is all that is known of them.
    bench.endpoints = vec![endpoint(9, 1)];
    bench.publish(1.0, &["w"]);
    let tables = bench.past(then);
    let [table] = &tables[..] else { panic!("{tables:?}") };
    assert_eq!(
        (&*table.workload, &*table.cluster, table.panic, table.options.policy),
        ("w", "c", false, Policy::Model)
    );
    let rows: Vec<PastCandidate> = table.candidates().collect();
    assert_eq!(rows.iter().map(|c| c.place.address.port()).collect::<Vec<_>>(), [1, 2, 3]);
    let first = &rows[0];
    assert_eq!((first.score, first.weight, first.success, first.health), (Some(4.5), 1.0 / 3.0, 0.99, Health::Healthy));
    assert_eq!((first.predicted.unwrap().mean_s, first.predicted.unwrap().jitter_s), (0.013, 0.002));
    assert_eq!((first.seen.mean_s, first.attention), (Some(0.012), Some(0.25)));
    assert!(first.eligible && first.place.configured == 1 && &*first.place.zone == "eu", "{first:?}");
    assert_eq!(first.reason, Why::Predicted { intrinsic_s: (-4.5f32).exp(), guard: None });
    assert_eq!(rows[1].reason, Why::Predicted { intrinsic_s: (-4.5f32).exp(), guard: Some("by a guard") });
    assert_eq!((rows[1].seen.mean_s, rows[1].place.configured), (None, 2), "nobody called it");
    assert_eq!((rows[2].eligible, rows[2].reason), (false, Why::Said("its configured weight is 0")));
}

#[test]
fn tables_that_chose_for_nobody_are_let_go_with_the_next_generation() {
    let mut bench = Bench::new(2);
    // The first generation is remembered for good.
    bench.publish(4.0, &[]);
    let [one, two, three] = [["w"].as_slice(), &[], &["idle"]].map(|used| bench.publish(4.0, used));
    bench.publish(4.0, &[]);
    assert_eq!(bench.workloads(one), ["w"]);
    assert_eq!(bench.workloads(two), [""; 0]);
    // It was used for the first time in a long time, and nobody had written it down.
    assert_eq!(bench.workloads(three), ["idle"]);
    let before = bench.status.history.table_bytes();
    (0..1_000).for_each(|_| _ = bench.publish(4.0, &[]));
    assert!(before > 0 && bench.status.history.table_bytes() == 0, "{}", bench.status.history.table_bytes());
}

#[test]
fn one_that_could_choose_nobody_is_kept() {
    let mut bench = Bench::new(1);
    bench.endpoints = vec![endpoint(1, 0)];
    let mut nobody = bench.table("w", 4.0).candidates().to_vec();
    nobody[0].weight = 0.0;
    let options = TableOptions { policy: Policy::Model, compare: Compare::Auto, tau_s: 3.0, explore: 0.0 };
    let table = Table::new(nobody, false, options, Arc::new(Traffic::new(1)));
    assert!(used(&table, Time(u64::MAX)), "requests to it are answered with 503, and somebody asks why");
    assert!(!used(&Bench::new(1).table("w", 4.0), Time(1)));
}

#[test]
fn a_table_in_which_nothing_changed_is_kept_once() {
    let mut bench = Bench::new(100);
    bench.show();
    // One that nobody has used for long is written down without what was seen.
    bench.publish(4.0, &["w"]);
    let one = bench.publish(4.0, &["w"]);
    let first = bench.status.history.table_bytes();
    let [two, three] = [4.0, 4.1].map(|score| bench.publish(score, &["w"]));
    let table = |generation| bench.past(generation).into_iter().find(|t| &*t.workload == "w").unwrap();
    assert!(Arc::ptr_eq(&table(one), &table(two)));
    assert!(!Arc::ptr_eq(&table(two), &table(three)) && Arc::ptr_eq(&table(two).places, &table(three).places));
    assert!(first > 100 * (ROW_BYTES + size_of::<Place>()), "{first}");
    assert_eq!(ROW_BYTES, 52, "the head of this module and the README say so");
}

#[test]
fn however_many_endpoints_are_used_the_bytes_are_bounded_and_the_youngest_stay() {
    let mut bench = Bench::new(1_000);
    let mut most = 0;
    for i in 0..300u16 {
        bench.publish(f32::from(i), &["w"]);
        most = most.max(bench.status.history.table_bytes());
    }
    assert!(most <= MAX_BYTES && most > MAX_BYTES / 2, "{most} bytes of {MAX_BYTES}");
    let kept: Vec<u64> = (1..=300).filter(|g| bench.status.history.tables(*g).is_some()).collect();
    let ends = (kept.first().copied(), kept.last().copied(), kept.len());
    assert!(ends.1 == Some(300) && ends.0.is_some_and(|first| 300 - first + 1 == ends.2 as u64), "{ends:?}");
    assert!(ends.2 >= 70, "{} generations of 1,000 endpoints", ends.2);
    // What the process would hold without them.
    drop(bench.keeper);
    bench.status.history.archive.trim(|_| false);
    assert_eq!(bench.status.history.table_bytes(), 0, "all that is counted is given back");
}

#[test]
fn one_generation_takes_no_more_than_its_part() {
    let mut bench = Bench::new(8_000);
    let one = bench.publish(4.0, &["w", "idle"]);
    bench.publish(4.0, &[]);
    assert!(bench.past(one).len() == 1, "{:?}", bench.workloads(one));
    // A table is whole or not there, so the last one may go beyond.
    assert!(bench.status.history.table_bytes() > MAX_GENERATION_BYTES);
}

#[test]
fn tables_go_with_the_generations_that_are_remembered() {
    let mut bench = Bench::new(1);
    let notable = bench.publish_because(4.0, &["w"], Cause::Health);
    let quiet: Vec<u64> = (0..500u16).map(|i| bench.publish(f32::from(i), &["w"])).collect();
    assert!(bench.status.history.tables(notable).is_some(), "an hour of quiet ticks does not push it out");
    assert!(bench.status.history.tables(quiet[0]).is_none());
    let kept = quiet.iter().filter(|g| bench.status.history.tables(**g).is_some()).count();
    assert_eq!(kept, 128);
}

#[test]
fn nothing_waits_where_nobody_keeps_and_little_where_somebody_is_late() {
    let archive = Archive::default();
    let generation = || Arc::new(Generation::empty());
    archive.hand(&generation());
    assert!(locked(&archive.handed).is_none());
    *locked(&archive.handed) = Some(VecDeque::new());
    (0..100).for_each(|_| archive.hand(&generation()));
    assert_eq!(locked(&archive.handed).as_ref().map(VecDeque::len), Some(MAX_HANDED));
}

#[tokio::test]
async fn a_keeper_keeps_what_is_published_while_it_runs() {
    let Bench { status, keeper, .. } = Bench::new(1);
    let running = tokio::spawn(keeper.run());
    let mut bench = Bench::new(1);
    bench.status = status.clone();
    let one = bench.publish(4.0, &["w"]);
    while status.history.tables(one).is_none() {
        tokio::task::yield_now().await;
    }
    bench.publish(4.0, &["w"]);
    while status.history.tables(2).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.workloads(one), ["w"]);
    running.abort();
}
