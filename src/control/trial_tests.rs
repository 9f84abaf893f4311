//! The slow loop with the model on trial, and with the own zone first: what it publishes.

use super::*;
use crate::config::Locality;
use crate::observe::{Arm, Came};

fn on_trial() -> Config {
    let mut config = config(&[1, 2]);
    config.model.mode = Mode::Canary;
    config.model.canary.against = Policy::LeastRequest;
    config.model.canary.share = Share(0.25);
    config
}

/// A second in which both arms serve requests of these latencies, and a tick.
fn second(bench: &mut Bench, model_s: f64, against_s: f64) {
    let traffic = bench.generation().clusters[0].tables[0].traffic.clone();
    for i in 0..50 {
        // Not all alike, and on average as said.
        let spread = if i % 2 == 0 { 0.5 } else { 1.5 };
        traffic.steered(0, Arm::Model, Came::Within(model_s * spread));
        traffic.steered(0, Arm::Against, Came::Within(against_s * spread));
    }
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010]));
}

#[test]
fn on_trial_the_model_steers_its_share_and_the_named_policy_the_rest() {
    let mut bench = Bench::new(on_trial());
    bench.tick(Ok(&[0.010, 0.030]));
    let generation = bench.generation();
    let table = &generation.clusters[0].tables[0];
    assert_eq!((generation.rung, table.options.policy), (Rung::Model, Policy::Model));
    assert_eq!(
        (table.policy(Some(Arm::Model)), table.policy(Some(Arm::Against))),
        (Policy::Model, Policy::LeastRequest)
    );
    let arms: Vec<_> = (0..10_000).filter_map(|_| table.arm(&mut bench.rng)).collect();
    let model = arms.iter().filter(|a| **a == Arm::Model).count();
    assert!(arms.len() == 10_000 && (2_300..2_700).contains(&model), "{model}");
    // Without scores the named policy steers all.
    bench.pass(60.0);
    bench.tick(Err(too_slow()));
    let generation = bench.generation();
    let table = &generation.clusters[0].tables[0];
    assert_eq!((generation.rung, table.options.policy), (Rung::Against, Policy::LeastRequest));
    assert!(table.arm(&mut bench.rng).is_none());
}

#[test]
fn a_model_that_loses_its_trial_steps_back_and_returns() {
    let mut bench = Bench::new(on_trial());
    bench.tick(Ok(&[0.010, 0.010]));
    bench.tick(Ok(&[0.010, 0.010]));
    for _ in 0..40 {
        second(&mut bench, 0.020, 0.010);
    }
    let generation = bench.generation();
    let table = &generation.clusters[0].tables[0];
    assert_eq!((generation.rung, table.options.policy), (Rung::Against, Policy::LeastRequest));
    assert!(generation.rung_reason.starts_with("canary_latency: "), "{}", generation.rung_reason);
    assert!(generation.model.is_none() && table.arm(&mut bench.rng).is_none());
    let status = bench.state.status();
    assert_eq!((status.losses(), status.canary().unwrap().retreat.is_some()), ([1, 0], true));
    // Its time is over: a new trial.
    bench.pass(600.0);
    bench.tick(Ok(&[0.010, 0.010]));
    bench.tick(Ok(&[0.010, 0.010]));
    assert_eq!(bench.generation().rung, Rung::Model);
    assert!(bench.generation().clusters[0].tables[0].arm(&mut bench.rng).is_some());
    assert_eq!(bench.state.status().rungs()[Rung::Against as usize], 20 + 1, "the ticks of the retreat");
}

#[test]
fn a_model_that_holds_its_own_stays_on_trial() {
    let mut bench = Bench::new(on_trial());
    bench.tick(Ok(&[0.010, 0.010]));
    for _ in 0..300 {
        second(&mut bench, 0.010, 0.010);
        assert_eq!(bench.generation().rung, Rung::Model);
    }
    let view = bench.state.status().canary().unwrap();
    assert!(view.retreat.is_none() && view.comparisons[0].batches > 200);
    assert_eq!(bench.state.status().losses(), [0, 0]);
    // Whoever ends the trial ends what is shown of it.
    let mut active = on_trial();
    active.model.mode = Mode::Active;
    bench.state.reconfigure(Arc::new(active));
    bench.tick(Ok(&[0.010, 0.010]));
    assert!(bench.state.status().canary().is_none());
    assert!(bench.generation().clusters[0].tables[0].arm(&mut bench.rng).is_none());
}

/// Endpoints 1 and 2 in the own zone, 3 to 6 in another.
fn zoned() -> Config {
    let mut config = config(&[1, 2, 3, 4, 5, 6]);
    config.node.zone = "a".into();
    let cluster = config.clusters.get_mut("c").unwrap();
    cluster.locality = Locality { own_zone_first: true, busy_at: 1 };
    cluster.endpoints.iter_mut().zip(0..).for_each(|(e, i)| e.zone = if i < 2 { "a" } else { "b" }.into());
    config
}

fn own_share(bench: &mut Bench) -> f64 {
    let picks = bench.picks(10_000);
    picks.iter().filter(|port| **port <= 2).count() as f64 / picks.len() as f64
}

#[test]
fn requests_stay_in_the_own_zone_while_it_is_well_and_leave_as_it_falls_ill() {
    let mut bench = Bench::new(zoned());
    bench.tick(Ok(&[0.010; 6]));
    let share = own_share(&mut bench);
    assert!(share > 0.98 && share < 1.0, "all but the others' floor: {share}");
    let weights = bench.weights();
    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6 && weights[2] > 0.0, "{weights:?}");
    assert!((f64::from(weights[0] + weights[1]) - share).abs() < 0.01, "{weights:?} say what is done");
    // One of two is ejected: 1.4 x 1/2 of the requests stay.
    (0..3).for_each(|_| bench.call(0, 0.010, Outcome::Failure));
    bench.tick(Ok(&[0.010; 6]));
    let share = own_share(&mut bench);
    assert!((share - 0.7).abs() < 0.02, "{share}");
    let generation = bench.generation();
    let own = generation.clusters[0].tables[0].own_zone().unwrap();
    assert!((own.share - 0.7).abs() < 1e-5 && own.well == 0.5 && &*own.name == "a", "{own:?}");
    // Nobody there is well: the others have it all.
    (0..3).for_each(|_| bench.call(1, 0.010, Outcome::Failure));
    bench.tick(Ok(&[0.010; 6]));
    assert_eq!(own_share(&mut bench), 0.0);
    assert!(bench.generation().clusters[0].tables[0].own_zone().is_none());
}

#[test]
fn a_busy_zone_gives_requests_away_and_takes_them_back() {
    let mut bench = Bench::new(zoned());
    bench.tick(Ok(&[0.010; 6]));
    let seconds = |bench: &mut Bench, count: usize, per_second: usize| {
        for _ in 0..count {
            (0..per_second).for_each(|i| bench.call(i % 2, 0.100, Outcome::Success));
            bench.pass(1.0);
            bench.tick(Ok(&[0.010; 6]));
        }
    };
    // 100 a second of 100 ms are 10 under way, 5 at each: five times as many as they may have.
    seconds(&mut bench, 20, 100);
    let busy = own_share(&mut bench);
    assert!((busy - 1.0 / 3.0).abs() < 0.02, "what it would have without preference: {busy}");
    let generation = bench.generation();
    let own = generation.clusters[0].tables[0].own_zone().unwrap();
    assert!(own.load.is_some_and(|load| load > 2.0), "{own:?}");
    seconds(&mut bench, 60, 2);
    assert!(own_share(&mut bench) > 0.98);
}

#[test]
fn without_a_zone_or_without_the_wish_nothing_is_preferred() {
    for change in [(|c: &mut Config| c.node.zone.clear()) as fn(&mut Config), |c| {
        c.clusters.get_mut("c").unwrap().locality.own_zone_first = false
    }] {
        let mut config = zoned();
        change(&mut config);
        let mut bench = Bench::new(config);
        bench.tick(Ok(&[0.010; 6]));
        let share = own_share(&mut bench);
        assert!((share - 1.0 / 3.0).abs() < 0.03, "{share}");
    }
}

#[test]
fn the_own_zone_comes_first_under_every_policy_and_on_trial() {
    for policy in [Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random, Policy::Model] {
        let mut config = zoned();
        config.model.mode = Mode::Canary;
        config.model.canary.against = Policy::RoundRobin;
        config.clusters.get_mut("c").unwrap().policy = policy;
        let mut bench = Bench::new(config);
        bench.tick(Ok(&[0.010; 6]));
        let generation = bench.generation();
        let table = &generation.clusters[0].tables[0];
        for arm in [None, Some(Arm::Model), Some(Arm::Against)] {
            let mut own = 0;
            for _ in 0..5_000 {
                let choice = table.pick_for((None, arm, true), Time(SECOND), false, &mut bench.rng, &[]).unwrap();
                own += usize::from(table.candidates()[choice.index].endpoint.address.port() <= 2);
            }
            assert!(own > 4_850, "{policy:?} {arm:?}: {own}");
            // Whose own zone was tried in full goes on in the other one.
            let tried: Vec<usize> = (0..6).filter(|i| table.candidates()[*i].endpoint.address.port() <= 2).collect();
            let choice = table.pick_for((None, arm, true), Time(SECOND), false, &mut bench.rng, &tried).unwrap();
            assert!(table.candidates()[choice.index].endpoint.address.port() > 2, "{policy:?} {arm:?}");
            let all: Vec<usize> = (0..6).collect();
            assert_eq!(table.pick_for((None, arm, true), Time(SECOND), false, &mut bench.rng, &all), None);
        }
    }
}
