//! Tests of the trial: it is lost for a reason, and not by chance.

use super::*;
use crate::config::{Share, Timespan};
use crate::observe::{Arm, Came};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

const SECOND: u64 = 1_000_000_000;

/// One workload and so many clusters, a second at a time.
struct Bench {
    trial: Trial,
    model: Model,
    digest: &'static str,
    workload: Arc<str>,
    clusters: Vec<(Arc<str>, Traffic)>,
    rng: SmallRng,
    second: u64,
}

impl Bench {
    fn new(clusters: usize) -> Self {
        let named = |i| (Arc::from(format!("c{i}").as_str()), Traffic::new(2));
        let mut bench = Self {
            trial: Trial::default(),
            model: Model::default(),
            digest: "one",
            workload: "w".into(),
            clusters: (0..clusters).map(named).collect(),
            rng: SmallRng::seed_from_u64(3),
            second: 0,
        };
        bench.tick();
        bench
    }

    fn tick(&mut self) -> Option<Lost> {
        self.second += 1;
        let counted =
            self.clusters.iter().map(|(cluster, traffic)| Counted { workload: &self.workload, cluster, traffic });
        self.trial.tick(&self.model, Some(self.digest), Time(self.second * SECOND), counted)
    }

    /// So many requests of an arm to a cluster, with exponential latencies of this mean in seconds, of which so many fail.
    fn serve(&mut self, cluster: usize, arm: Arm, requests: usize, mean_s: f64, failing: f64) {
        for i in 0..requests {
            let came = if self.rng.random_range(0.0..1.0) < failing {
                Came::Failed
            } else {
                Came::Within(-self.rng.random_range(f64::MIN_POSITIVE..1.0).ln() * mean_s)
            };
            self.clusters[cluster].1.steered(i % 2, arm, came);
        }
    }

    /// Until it is lost, at most so many seconds, with 30 requests a second of the model's and 270 others.
    fn run(&mut self, seconds: usize, model: (f64, f64), against: (f64, f64)) -> Option<(usize, Lost)> {
        (1..=seconds).find_map(|second| {
            self.serve(0, Arm::Model, 30, model.0, model.1);
            self.serve(0, Arm::Against, 270, against.0, against.1);
            Some((second, self.tick()?))
        })
    }
}

#[test]
fn a_model_that_is_slower_loses_within_a_minute_and_says_by_how_much() {
    let mut bench = Bench::new(1);
    let (seconds, lost) = bench.run(60, (0.020, 0.0), (0.010, 0.0)).expect("a retreat");
    assert_eq!(lost, Lost::CanaryLatency);
    assert!(seconds >= 10, "{seconds}: not by a few samples");
    let view = bench.trial.view().unwrap();
    let longer = view.comparisons[0].latency().unwrap();
    assert!(longer.low > 0.05 && longer.low < 1.0 && longer.high > 1.0, "{longer:?} holds 1");
    let retreat = view.retreat.unwrap();
    assert_eq!(retreat.until, Some(retreat.at + Duration::from_secs(600)));
    assert!(retreat.words.contains("`c0`") && retreat.words.contains("% longer ("), "{}", retreat.words);
    let arms = &view.arms[&("w".into(), "c0".into())];
    assert_eq!((arms[0].requests, arms[1].requests), (30 * seconds as u64, 270 * seconds as u64));
    assert!((arms[0].latencies.mean().unwrap() / 0.020 - 1.0).abs() < 0.2);
}

#[test]
fn a_model_whose_requests_fail_more_often_loses_although_it_is_faster() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.run(60, (0.005, 0.10), (0.010, 0.01)).map(|(_, lost)| lost), Some(Lost::CanaryFailures));
}

#[test]
fn a_model_that_is_as_good_or_better_never_loses() {
    for (model, against) in [
        ((0.010, 0.0), (0.010, 0.0)),
        ((0.007, 0.0), (0.010, 0.0)),
        ((0.010, 0.02), (0.010, 0.02)),
        // Slower by less than the tolerance.
        ((0.0102, 0.0), (0.010, 0.0)),
    ] {
        let mut bench = Bench::new(1);
        assert_eq!(bench.run(2_000, model, against), None, "{model:?} {against:?}");
        assert_eq!(bench.trial.view().unwrap().comparisons[0].batches, BATCHES);
    }
}

#[test]
fn a_slow_hour_that_both_arms_have_is_nobodys_fault() {
    let mut bench = Bench::new(1);
    for second in 0..400u32 {
        let mean_s = if second / 50 % 2 == 0 { 0.010 } else { 0.100 };
        bench.serve(0, Arm::Model, 30, mean_s, 0.0);
        bench.serve(0, Arm::Against, 270, mean_s, 0.0);
        assert_eq!(bench.tick(), None, "{second}");
    }
}

#[test]
fn one_cluster_of_many_that_suffers_is_enough() {
    let mut bench = Bench::new(20);
    let lost = (0..120).find_map(|_| {
        for cluster in 0..20 {
            let mean_s = if cluster == 13 { 0.030 } else { 0.010 };
            bench.serve(cluster, Arm::Model, 30, mean_s, 0.0);
            bench.serve(cluster, Arm::Against, 90, 0.010, 0.0);
        }
        bench.tick()
    });
    assert_eq!(lost, Some(Lost::CanaryLatency));
    assert_eq!(&*bench.trial.retreat().unwrap().cluster, "c13");
}

#[test]
fn few_requests_make_batches_that_take_their_time() {
    let mut bench = Bench::new(1);
    for _ in 0..100 {
        bench.serve(0, Arm::Model, 1, 0.010, 0.0);
        bench.serve(0, Arm::Against, 9, 0.010, 0.0);
        bench.tick();
    }
    assert_eq!(bench.trial.view().unwrap().comparisons[0].batches, 5);
}

#[test]
fn an_arm_that_hangs_looks_worse_for_it_although_its_callers_leave() {
    let mut bench = Bench::new(1);
    let lost = (0..60).find_map(|_| {
        (0..30).for_each(|_| bench.clusters[0].1.steered(0, Arm::Model, Came::NotWithin(0.5)));
        bench.serve(0, Arm::Against, 270, 0.010, 0.0);
        bench.tick()
    });
    assert_eq!(lost, Some(Lost::CanaryLatency));
}

#[test]
fn a_retreat_ends_with_its_time_another_model_or_another_section() {
    let lost = |again: u64| {
        let mut bench = Bench::new(1);
        bench.model.canary.again = Timespan(Duration::from_secs(again));
        bench.tick();
        assert!(bench.run(60, (0.020, 0.0), (0.010, 0.0)).is_some());
        assert!(bench.trial.retreat().is_some());
        bench
    };
    let mut bench = lost(100);
    bench.second += 98;
    bench.tick();
    assert!(bench.trial.retreat().is_some(), "its time is not over");
    bench.second += 1;
    bench.tick();
    assert!(bench.trial.retreat().is_none());
    let view = bench.trial.view().unwrap();
    assert!(view.comparisons.is_empty() && view.arms.values().all(|arms| arms[0].requests == 0), "it begins anew");

    let mut bench = lost(0);
    bench.second += 1_000_000;
    bench.tick();
    assert!(bench.trial.retreat().is_some(), "never by itself");
    bench.digest = "two";
    bench.tick();
    assert!(bench.trial.retreat().is_none(), "another model");

    let mut bench = lost(0);
    bench.model.canary.share = Share(0.2);
    bench.tick();
    assert!(bench.trial.retreat().is_none(), "another section");
    assert!(bench.run(60, (0.020, 0.0), (0.010, 0.0)).is_some(), "and it can be lost again");
    bench.trial.stop();
    assert!(bench.trial.view().is_none() && bench.trial.retreat().is_none());
}

#[test]
fn what_was_counted_before_the_trial_is_not_its_own() {
    let mut bench = Bench::new(1);
    bench.serve(0, Arm::Model, 1_000, 5.0, 0.5);
    bench.trial.stop();
    bench.tick();
    assert_eq!(bench.run(300, (0.010, 0.0), (0.010, 0.0)), None);
}
