//! Scores as weights, and the ladder: gone down step by step where scores are late, wrong or none, and up again.

use super::*;

#[test]
fn weights_follow_the_scores_in_steps() {
    let mut bench = Bench::new(config(&[1, 2, 3, 4]));
    bench.tick(Ok(&[0.010, 0.010, 0.010, 0.010]));
    assert_eq!(bench.weights(), [0.25; 4]);
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010, 0.010, 0.100]));
    let weights = bench.weights();
    assert!(weights[3] < 0.25 && weights[3] >= 0.05 - 1e-5, "{weights:?}");
    for _ in 0..3 {
        bench.pass(1.0);
        bench.tick(Ok(&[0.010, 0.010, 0.010, 0.100]));
    }
    let weights = bench.weights();
    assert!((weights[3] - 1.0 / 31.0).abs() < 2e-3 && (weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{weights:?}");
    assert_eq!((bench.generation().rung, bench.generation().id), (Rung::Model, 5));
}

#[test]
fn the_ladder_goes_down_step_by_step_and_up_again() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.020]));
    bench.tick(Err(too_slow()));
    assert_eq!(bench.generation().rung, Rung::LastGood);
    assert!(bench.weights()[0] > 0.6, "the last good weights steer: {:?}", bench.weights());
    let expiry = bench.generation().expires_at;
    bench.pass(20.0);
    bench.tick(Err(too_slow()));
    assert_eq!(bench.generation().expires_at, expiry, "failures do not prolong the last good scores");

    bench.call(0, 0.010, Outcome::Success);
    bench.pass(11.0);
    bench.tick(Err(too_slow()));
    assert_eq!((bench.generation().rung, bench.weights()), (Rung::PeakEwma, vec![0.5, 0.5]));
    bench.pass(200.0);
    bench.tick(Err(too_slow()));
    assert_eq!(bench.generation().rung, Rung::LeastRequest);
    assert_eq!(bench.generation().clusters[0].tables[0].options.policy, Policy::LeastRequest);

    bench.tick(Ok(&[0.010, 0.010]));
    assert_eq!(bench.generation().rung, Rung::Model);
    assert_eq!(bench.state.status().rungs(), [2, 2, 0, 1, 1]);
}

#[test]
fn a_generation_that_nobody_replaces_expires() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.020]));
    let generation = bench.generation();
    assert!(!generation.expired(bench.state.now()));
    bench.pass(30.5);
    assert!(generation.expired(bench.state.now()));
    assert_eq!(bench.picks(10).len(), 10);
}

#[test]
fn a_model_that_is_wrong_does_not_steer_until_it_is_right() {
    let mut bench = Bench::new(config(&[1, 2]));
    let mut run = |predicted: [f32; 2], ticks: usize| {
        for _ in 0..ticks {
            bench.tick(Ok(&predicted));
            bench.pass(1.0);
            (0..40).for_each(|i| bench.call(i % 2, 0.010, Outcome::Success));
        }
        bench.generation().rung
    };
    assert_eq!(run([0.010, 0.010], 3), Rung::Model);
    assert_eq!(run([0.200, 0.010], 10), Rung::PeakEwma);
    assert_eq!(run([0.010, 0.010], 60), Rung::Model);
}

#[test]
fn scores_that_are_no_numbers_steer_nobody_wrong() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        bench.tick(Ok(&[bad, 0.010, 0.010]));
        let weights = bench.weights();
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5 && weights.iter().all(|w| *w > 0.3), "{weights:?}");
    }
}

#[test]
fn scores_that_are_no_numbers_at_all_are_no_scores() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.020]));
    let before = bench.weights();
    bench.tick(Ok(&[f32::NAN, f32::NAN]));
    assert_eq!((bench.generation().rung, bench.weights()), (Rung::LastGood, before));
    bench.pass(31.0);
    bench.tick(Ok(&[f32::NAN, f32::NAN]));
    assert_eq!(bench.generation().rung, Rung::LeastRequest);
}

#[test]
fn a_model_that_predicts_far_too_little_is_wrong_too() {
    let mut bench = Bench::new(config(&[1, 2]));
    for _ in 0..10 {
        bench.tick(Ok(&[0.000_010, 0.000_010]));
        bench.pass(1.0);
        (0..40).for_each(|i| bench.call(i % 2, 0.010, Outcome::Success));
    }
    assert_eq!(bench.generation().rung, Rung::PeakEwma);
}

#[test]
fn triggers_between_two_ticks_share_the_largest_step() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    for _ in 0..3 {
        bench.pass(0.1);
        bench.tick(Ok(&[0.010, 1.000]));
    }
    let moved = bench.weights()[0] - 0.5;
    assert!((0.14..0.16).contains(&moved), "{moved}: three quarter steps of 20%");
}
