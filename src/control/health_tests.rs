//! Endpoints' states: one state and one reason each, from health checks, rows of failures and comparison.

use super::*;
use crate::balance::Unwell;
use crate::config::{Check, Ejection, HealthCheck};

fn slow_loop(ports: &[u16], change: impl FnOnce(&mut Cluster)) -> Bench {
    let mut config = config(ports);
    change(config.clusters.get_mut("c").unwrap());
    let mut bench = Bench::new(config);
    bench.state.publish_at_once(Cause::Start);
    bench
}

fn healths(bench: &Bench) -> Vec<Health> {
    bench.candidates().iter().map(|c| c.health).collect()
}

/// 200 calls to each, of which these shares fail, never three in a row.
fn calls(bench: &Bench, failing: &[f64]) {
    for (candidate, share) in failing.iter().enumerate() {
        let mut owed = 0.0;
        for _ in 0..200 {
            owed += share;
            let outcome = if owed >= 1.0 { Outcome::Failure } else { Outcome::Success };
            owed -= if owed >= 1.0 { 1.0 } else { 0.0 };
            bench.call(candidate, 0.01, outcome);
        }
    }
}

fn tick(bench: &mut Bench, seconds: f64) {
    bench.pass(seconds);
    bench.tick(Err(too_slow()));
}

#[test]
fn an_endpoint_that_fails_more_than_the_others_is_left_alone_and_says_why() {
    let mut bench = slow_loop(&[1, 2, 3, 4], |_| {});
    tick(&mut bench, 1.0);
    calls(&bench, &[0.0, 0.4, 0.01, 0.0]);
    tick(&mut bench, 10.0);
    let expected = [Health::Healthy, Health::Ejected, Health::Healthy, Health::Healthy];
    assert_eq!(healths(&bench), expected);
    let reason = bench.candidates()[1].reason.to_string();
    assert!(reason.contains("60.0% of its requests succeeded, of the others' 99."), "{reason}");
    assert_eq!(bench.state.status().ejections(), [0, 1, 0]);
    assert!(bench.picks(200).iter().all(|port| *port != 2));
}

#[test]
fn comparing_leaves_no_more_out_than_it_may() {
    let failing = [0.0, 0.0, 0.0, 0.0, 0.4, 0.45];
    for (most, out) in [(0.5, 2), (0.3, 1), (0.0, 1)] {
        let mut bench = slow_loop(&[1, 2, 3, 4, 5, 6], |c| {
            c.ejection = Ejection { most: Share(most), success_rate: 1.0, ..Ejection::default() };
        });
        tick(&mut bench, 1.0);
        calls(&bench, &failing);
        tick(&mut bench, 10.0);
        let ejected = healths(&bench).iter().filter(|h| **h == Health::Ejected).count();
        assert_eq!((ejected, healths(&bench)[5]), (out, Health::Ejected), "{most}: the worst one first");
    }
}

#[test]
fn after_a_long_pause_a_new_interval_begins_and_nobody_is_judged() {
    let mut bench = slow_loop(&[1, 2, 3], |_| {});
    tick(&mut bench, 1.0);
    calls(&bench, &[0.4, 0.0, 0.0]);
    tick(&mut bench, 100.0);
    assert_eq!(healths(&bench), [Health::Healthy; 3]);
    calls(&bench, &[0.4, 0.0, 0.0]);
    tick(&mut bench, 10.0);
    assert_eq!(healths(&bench)[0], Health::Ejected);
}

#[test]
fn who_was_not_checked_or_is_not_well_gets_nothing_short_of_panic() {
    let rules = HealthCheck { check: Check::Tcp, ..HealthCheck::default() };
    let mut bench = slow_loop(&[1, 2, 3], |c| c.health = rules.clone());
    assert_eq!(healths(&bench), [Health::Unhealthy; 3]);
    assert!(bench.generation().clusters[0].tables[0].panic && bench.picks(300).contains(&3), "all are asked");
    let key = |bench: &Bench, i: usize| bench.candidates()[i].node.key.clone();
    for i in [0, 1] {
        bench.state.parts.checks.told(&key(&bench, i), Ok(()), &rules);
    }
    assert!(bench.state.health_changed());
    tick(&mut bench, 1.0);
    assert_eq!(healths(&bench), [Health::Healthy, Health::Healthy, Health::Unhealthy]);
    assert!(bench.picks(300).iter().all(|port| *port != 3), "its first check is not done");
    bench.state.parts.checks.told(&key(&bench, 2), Err(Unwell::Status(503)), &rules);
    tick(&mut bench, 1.0);
    assert_eq!(bench.candidates()[2].reason.to_string(), "its health check was answered with 503");
    for _ in 0..rules.rise {
        bench.state.parts.checks.told(&key(&bench, 2), Ok(()), &rules);
    }
    tick(&mut bench, 1.0);
    let back = &bench.candidates()[2];
    assert!(back.health == Health::Healthy && back.weight < 1.0 / 3.0, "it grows back slowly: {}", back.weight);
    // What requests see of it counts beside what its check says.
    (0..3).for_each(|_| bench.call(0, 0.01, Outcome::Failure));
    tick(&mut bench, 1.0);
    assert_eq!(healths(&bench)[0], Health::Ejected);
}

#[test]
fn what_a_tick_finds_failed_is_left_alone_before_the_model_has_answered() {
    let rows_of_failures = |bench: &Bench| (0..3).for_each(|_| bench.call(1, 0.01, Outcome::Failure));
    let compared_with_others = |bench: &Bench| calls(bench, &[0.0, 0.4, 0.0, 0.0]);
    for fail in [&rows_of_failures as &dyn Fn(&Bench), &compared_with_others] {
        let mut bench = slow_loop(&[1, 2, 3, 4], |_| {});
        tick(&mut bench, 1.0);
        fail(&bench);
        bench.pass(10.0);
        let before = bench.generation().id;
        assert!(bench.state.prepare().is_some(), "there is something to score");
        let generation = bench.generation();
        assert_eq!((generation.id, generation.cause), (before + 1, Cause::Health));
        assert_eq!(healths(&bench)[1], Health::Ejected);
        assert!(bench.picks(200).iter().all(|port| *port != 2));
        // Nothing new, nothing published.
        assert!(bench.state.prepare().is_some());
        assert_eq!(bench.generation().id, before + 1);
    }
}
