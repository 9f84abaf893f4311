//! Tests of the slow loop: removal and ejection, hostile telemetry, and the loop itself on its runtime.

use super::tick::State;
use super::*;
use crate::balance::{Candidate, Health, Rung};
use crate::config::{Cluster, Endpoint, Mode, Policy, Share, Timespan, Workload};
use crate::links::{LinkCell, Outcome, Time};
use crate::scorer::{ScoreError, Scored, Scores};
use rand::{SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[path = "trial_tests.rs"]
mod trial;

#[path = "hedging_tests.rs"]
mod hedging;

#[path = "health_tests.rs"]
mod health;
#[path = "invariants_tests.rs"]
mod invariants;
#[path = "ladder_tests.rs"]
mod ladder;
#[path = "history_tests.rs"]
mod told;

const SECOND: u64 = 1_000_000_000;

struct Bench {
    state: State,
    now: Arc<AtomicU64>,
    rng: SmallRng,
}

fn endpoint(port: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, 1], port).into(),
        zone: String::new(),
        host: String::new(),
        weight,
        metadata: Default::default(),
    }
}

fn config(ports: &[u16]) -> Config {
    let cluster = Cluster { endpoints: ports.iter().map(|p| endpoint(*p, 1)).collect(), ..Cluster::default() };
    let workload = Workload { listen: Some(([127, 0, 0, 1], 1).into()), ..Workload::default() };
    Config {
        workloads: [("w".to_owned(), workload)].into(),
        clusters: [("c".to_owned(), cluster)].into(),
        ..Config::default()
    }
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Arc::new(AtomicU64::new(SECOND));
        let clock = {
            let now = now.clone();
            Arc::new(move || Time(now.load(SeqCst)))
        };
        let scorer = Scorer::with_engine(|| Err(crate::scorer::ModelError::Stopped));
        Self { state: State::new(Parts::alone(scorer, clock), Arc::new(config)), now, rng: SmallRng::seed_from_u64(1) }
    }

    fn pass(&self, seconds: f64) {
        self.now.fetch_add((seconds * SECOND as f64) as u64, SeqCst);
    }

    /// A tick in which the scorer predicts these latencies in seconds, or fails.
    fn tick(&mut self, predicted_s: Result<&[f32], ScoreError>) {
        let (features, _) = self.state.prepare().expect("something to score");
        let result = predicted_s.map(|latencies| Scores {
            score: latencies.iter().map(|l| -l.ln()).collect(),
            latency_mean_s: latencies.to_vec(),
            latency_p99_s: latencies.to_vec(),
            jitter_s: latencies.to_vec(),
            node_load: vec![0.0; features.node_count()],
            attention: vec![0.0; features.edge_count()],
        });
        let scored = Scored { features, result, model: None, took: Duration::ZERO };
        self.state.publish_scored(Cause::Interval, scored, Duration::ZERO);
    }

    fn generation(&self) -> Arc<crate::balance::Generation> {
        self.state.published().load()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let generation = self.generation();
        let table = &generation.clusters[0].tables[0];
        let mut candidates = table.candidates().to_vec();
        candidates.sort_by_key(|c| c.endpoint.address);
        candidates
    }

    fn weights(&self) -> Vec<f32> {
        self.candidates().iter().map(|c| c.weight).collect()
    }

    fn picks(&mut self, times: usize) -> Vec<u16> {
        let (generation, now) = (self.generation(), self.state.now());
        let table = &generation.clusters[0].tables[0];
        let pick = |_| table.pick(now, generation.expired(now), &mut self.rng, &[]);
        (0..times).filter_map(pick).map(|c| table.candidates()[c.index].endpoint.address.port()).collect()
    }

    fn call(&self, candidate: usize, latency_s: f32, outcome: Outcome) {
        let (candidate, now) = (&self.candidates()[candidate], self.state.now());
        call(&candidate.link, now, latency_s, outcome, candidate.prior_s);
        match outcome {
            Outcome::Failure => {
                candidate.node.failed();
            }
            _ => candidate.node.succeeded(),
        }
    }
}

fn call(link: &LinkCell, now: Time, latency_s: f32, outcome: Outcome, prior_s: f32) {
    link.begin(0, now);
    link.record(0, now, latency_s, outcome, prior_s, 3.0);
    link.end(0, now);
}

fn too_slow() -> ScoreError {
    ScoreError::TooSlow { deadline: Duration::from_millis(500) }
}

#[test]
fn an_endpoint_that_fails_fast_never_looks_fast_under_any_policy() {
    for policy in [Policy::Model, Policy::PeakEwma] {
        let mut failing = config(&[1, 2, 3]);
        failing.clusters.get_mut("c").unwrap().policy = policy;
        let mut bench = Bench::new(failing);
        let mut first_share = 0;
        for tick in 0..20 {
            bench.tick(Ok(&[0.010, 0.010, 0.010]));
            let picks = bench.picks(60);
            for port in &picks {
                bench.pass(0.001);
                // A 500 in a millisecond: no row of failures, so nothing is ejected.
                let (candidate, now) = (&bench.candidates()[usize::from(*port) - 1], bench.state.now());
                let (latency_s, outcome) =
                    if *port == 1 { (0.001, Outcome::Failure) } else { (0.020, Outcome::Success) };
                call(&candidate.link, now, latency_s, outcome, candidate.prior_s);
            }
            bench.pass(0.9);
            if tick >= 10 {
                first_share += picks.iter().filter(|p| **p == 1).count();
            }
        }
        assert!(first_share < 600 / 10, "{policy:?}: {first_share} of 600");
    }
}

#[test]
fn an_endpoint_removed_before_the_scores_come_is_never_picked() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    let (features, _) = bench.state.prepare().unwrap();
    assert_eq!(bench.state.reconfigure(Arc::new(config(&[1, 3]))), Cause::Endpoints);
    let ones = |n| vec![1.0; n];
    let scores = Scores {
        score: ones(3),
        latency_mean_s: ones(3),
        latency_p99_s: ones(3),
        jitter_s: ones(3),
        node_load: ones(features.node_count()),
        attention: ones(features.edge_count()),
    };
    let scored = Scored { features, result: Ok(scores), model: None, took: Duration::ZERO };
    bench.state.publish_scored(Cause::Interval, scored, Duration::ZERO);
    let picks = bench.picks(500);
    assert!(picks.len() == 500 && !picks.contains(&2), "removed");
}

#[test]
fn an_endpoint_added_has_its_floor_within_a_tick_and_grows() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    bench.state.reconfigure(Arc::new(config(&[1, 2, 3])));
    bench.state.publish_at_once(Cause::Endpoints);
    let first = bench.weights()[2];
    assert!((0.02 / 3.0 - 1e-6..0.1).contains(&first), "{first}");
    for _ in 0..11 {
        bench.pass(1.0);
        bench.tick(Ok(&[0.010, 0.010, 0.010]));
    }
    assert!((bench.weights()[2] - 1.0 / 3.0).abs() < 0.02, "{:?}", bench.weights());
}

#[test]
fn a_failed_endpoint_is_left_alone_probed_and_taken_back() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    (0..3).for_each(|_| bench.call(0, 0.0, Outcome::Failure));
    assert!(bench.state.health_changed());
    bench.state.publish_at_once(Cause::Health);
    assert!(!bench.picks(300).contains(&1));
    assert!((bench.weights().iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert_eq!(bench.state.next_health_change(), Some(Duration::from_secs(5)));

    bench.pass(5.0);
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    assert_eq!(bench.picks(300).iter().filter(|p| **p == 1).count(), 1, "one probe");
    bench.call(0, 0.010, Outcome::Success);
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    assert_eq!(bench.candidates()[0].health, Health::Healthy);
    let share = |bench: &mut Bench| {
        // One request in flight on each of the others: who has none is the cheapest, were it not for its errors.
        bench.candidates().iter().skip(1).for_each(|c| c.node.begin());
        let share = bench.picks(300).iter().filter(|p| **p == 1).count();
        bench.candidates().iter().skip(1).for_each(|c| c.node.end());
        share
    };
    assert!(share(&mut bench) < 50, "a return is a slow start");
    for _ in 0..10 {
        bench.pass(1.0);
        bench.tick(Ok(&[0.010, 0.010, 0.010]));
    }
    assert!(share(&mut bench) > 250, "a probe's latency must not spoil its estimate");
}

#[test]
fn a_failure_makes_only_the_tables_with_that_endpoint_anew() {
    let mut config = config(&[1, 2, 3]);
    config
        .clusters
        .insert("d".into(), Cluster { endpoints: vec![endpoint(8, 1), endpoint(9, 1)], ..Cluster::default() });
    let mut bench = Bench::new(config);
    bench.tick(Ok(&[0.010; 5]));
    let before = bench.generation();
    (0..3).for_each(|_| bench.call(0, 0.010, Outcome::Failure));
    assert!(bench.state.health_changed());
    bench.state.publish_at_once(Cause::Health);
    let after = bench.generation();
    let kept = |cluster: usize| Arc::ptr_eq(&before.clusters[cluster].tables[0], &after.clusters[cluster].tables[0]);
    assert_eq!((kept(0), kept(1), bench.candidates()[0].health), (false, true, Health::Ejected));
    bench.tick(Ok(&[0.010; 5]));
    assert!(!Arc::ptr_eq(&after.clusters[1].tables[0], &bench.generation().clusters[1].tables[0]));
}

#[test]
fn memory_that_is_kept_from_tick_to_tick_never_shows() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    bench.state.publish_at_once(Cause::Start);
    for step in 0..12u16 {
        let candidates = bench.candidates().len();
        (0..candidates).for_each(|i| bench.call(i, 0.001 * f32::from(step + 1), Outcome::Success));
        bench.pass(1.0);
        if step % 4 == 3 {
            let ports: Vec<u16> = (1..=3 + step).collect();
            bench.state.reconfigure(Arc::new(config(&ports)));
        }
        let (features, _) = bench.state.prepare().unwrap();
        let mut builder = crate::graph::GraphBuilder::default();
        bench.state.desired.instances().for_each(|i| builder.instance(i));
        for slot in &bench.state.roster.groups[0].slots {
            builder.candidate(vec![slot.link.key.clone()]);
        }
        let (graph, mut anew) = (builder.build(&bench.state.observation).unwrap(), crate::graph::Features::default());
        anew.fill(&graph);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&features.nodes), bits(&anew.nodes), "step {step}");
        assert_eq!(bits(&features.edge_features), bits(&anew.edge_features), "step {step}");
        assert_eq!((&features.edges, &features.path_links), (&anew.edges, &anew.path_links));
        let scored = Scored { features, result: Err(too_slow()), model: None, took: Duration::ZERO };
        bench.state.publish_scored(Cause::Interval, scored, Duration::ZERO);
        // Whoever looks at a graph keeps it whatever the next ticks do.
        assert_eq!(bench.state.status().view().unwrap().graph, graph);
    }
}

#[test]
fn every_endpoint_ejected_is_a_panic_in_which_all_get_requests() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    for endpoint in 0..3 {
        (0..3).for_each(|_| bench.call(endpoint, 0.0, Outcome::Failure));
    }
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    let candidates = bench.candidates();
    assert!(candidates.iter().all(|c| c.health == Health::Ejected && c.weight > 0.3));
    assert!(bench.generation().clusters[0].tables[0].panic);
    let picks = bench.picks(300);
    assert!([1, 2, 3].iter().all(|p| picks.contains(p)));
}

#[test]
fn zero_weights_mean_no_requests_and_all_zero_means_equal_ones() {
    let mut one_zero = config(&[1, 2]);
    one_zero.clusters.get_mut("c").unwrap().endpoints[0].weight = 0;
    let mut bench = Bench::new(one_zero.clone());
    bench.tick(Ok(&[0.010, 0.010]));
    assert!(!bench.picks(300).contains(&1));
    one_zero.clusters.get_mut("c").unwrap().endpoints[1].weight = 0;
    let mut bench = Bench::new(one_zero);
    bench.tick(Ok(&[0.010, 0.010]));
    let picks = bench.picks(300);
    assert!(picks.contains(&1) && picks.contains(&2));
}

#[test]
fn shadow_scores_and_does_not_steer() {
    let mut shadow = config(&[1, 2]);
    shadow.model.mode = Mode::Shadow;
    let mut bench = Bench::new(shadow);
    bench.tick(Ok(&[0.010, 1.0]));
    assert_eq!(bench.generation().clusters[0].tables[0].options.policy, Policy::PeakEwma);
    assert_eq!(bench.weights(), [0.5, 0.5]);
    assert!(bench.candidates().iter().all(|c| c.predicted.is_some()));
}

#[test]
fn hostile_telemetry_has_a_bounded_influence_and_ages_out() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    for latency in [1e30, f32::INFINITY, f32::NAN, -5.0] {
        bench.call(0, latency, Outcome::Success);
    }
    let (features, _) = bench.state.prepare().unwrap();
    assert!(features.edge_features.iter().all(|f| f.is_nan() || f.abs() <= 1e6), "{:?}", features.edge_features);
    bench.pass(120.0);
    let (features, _) = bench.state.prepare().unwrap();
    assert!(features.edge_features[0].is_nan(), "forgotten");
    bench.tick(Ok(&[0.010, 0.010]));
    assert!(bench.picks(300).contains(&1), "and the endpoint is back");
}

#[test]
fn what_other_nodes_tell_is_in_the_graph_with_its_age_and_goes_with_its_teller() {
    use crate::links::{Account, Described, LinkKey, NodeKey, Sketch, Told, ToldLink, ToldNode};
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    let key = LinkKey::new(&NodeKey::new("10.0.0.1:1"), &NodeKey::new("10.9.9.9:80"));
    let mut sketch = Sketch::default();
    (0..50).for_each(|_| sketch.record(0.5));
    let account = Account { latency: sketch.counts(), mean_s: Some(0.5), age_s: Some(1.0), ..Account::default() };
    let told = |shape, service: &str| {
        let described = Described { service: service.into(), ..Described::default() };
        let node = ToldNode { key: key.destination.clone(), described, report: None };
        let link = ToldLink::new(key.clone(), "node-b".into(), Time(SECOND), account.clone());
        Some(Arc::new(Told { shape, links: vec![Arc::new(link)], nodes: vec![Arc::new(node)] }))
    };
    let seen = |bench: &mut Bench| {
        bench.tick(Ok(&[0.010, 0.010]));
        let view = bench.state.status().view().unwrap();
        let link = view.graph.links.iter().find(|l| view.graph.link_key(l).as_ref() == Some(&key)).cloned();
        let node = view.graph.nodes.iter().find(|n| n.key == key.destination).map(|n| n.service.to_string());
        (link.map(|l| (l.stats.latency_mean_s, l.stats.age_s)), node)
    };
    bench.state.parts.links.tell(told(1, "storage"));
    assert_eq!(seen(&mut bench), (Some((Some(0.5), Some(1.0))), Some("storage".into())));
    // Another description of the same links, and a second later.
    bench.state.parts.links.tell(told(2, "database"));
    bench.pass(1.0);
    assert_eq!(seen(&mut bench), (Some((Some(0.5), Some(2.0))), Some("database".into())));
    // Nobody repeats it, and nobody clears it away either: it is not known any more all the same.
    bench.pass(9.5);
    assert_eq!(seen(&mut bench).0, Some((None, None)));
    bench.state.parts.links.tell(None);
    assert_eq!(seen(&mut bench), (None, None));
}

#[test]
fn a_clock_that_jumps_wedges_nothing() {
    let mut bench = Bench::new(config(&[1, 2]));
    for now in [SECOND, 10_000_000 * SECOND, 0, u64::MAX, 5 * SECOND, 6 * SECOND] {
        bench.now.store(now, SeqCst);
        bench.tick(Ok(&[0.010, 0.020]));
        (0..2).for_each(|i| bench.call(i, 0.010, Outcome::Success));
        let weights = bench.weights();
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{weights:?}");
        assert_eq!(bench.picks(50).len(), 50);
    }
}

#[test]
fn a_mesh_without_endpoints_is_published_empty() {
    let mut bench = Bench::new(config(&[]));
    assert!(bench.state.prepare().is_none());
    bench.state.publish_unscored(Cause::Start, Duration::ZERO);
    assert_eq!(bench.generation().id, 1);
    assert!(bench.picks(3).is_empty());
}

#[tokio::test]
async fn the_loop_hears_failures_reloads_and_a_scorer_that_hangs() {
    let scorer = Scorer::with_engine(|| Err(crate::scorer::ModelError::Stopped));
    let start = std::time::Instant::now();
    let clock: Clock = Arc::new(move || Time(SECOND + start.elapsed().as_nanos() as u64));
    let parts = Parts::alone(scorer, clock.clone());
    let (published, links, bell) = (parts.published.clone(), parts.links.clone(), Bell::default());
    let mut calm = config(&[1, 2, 3]);
    // Nothing but the bell and the reload may tick here.
    calm.model.tick = Timespan(Duration::from_secs(3600));
    calm.model.triggers.error_rate = Share(1.0);
    let (sender, receiver) = watch::channel(Arc::new(calm.clone()));
    let running = tokio::spawn(Control::new(parts, receiver, bell.clone()).run());
    let until = async |wanted: &dyn Fn(&crate::balance::Generation) -> bool| {
        tokio::time::timeout(Duration::from_secs(10), async {
            while !wanted(&published.load()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("published in time");
    };
    until(&|g| g.clusters.len() == 1 && g.clusters[0].tables[0].eligible().len() == 3).await;
    let key = published.load().clusters[0].tables[0].candidates()[0].endpoint.key.clone();
    (0..3).for_each(|_| {
        links.node(&key, Time(0)).failed();
    });
    bell.ring();
    until(&|g| g.clusters[0].tables[0].eligible().len() == 2).await;
    let mut two = calm;
    two.clusters.get_mut("c").unwrap().endpoints.remove(0);
    sender.send(Arc::new(two)).unwrap();
    until(&|g| g.clusters[0].tables[0].candidates().len() == 2).await;
    drop(sender);
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("ends with its configuration").unwrap();
}
