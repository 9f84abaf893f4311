//! What must hold of the slow loop whatever happens (`integration/INVARIANTS.md`), where no other test says it.

use super::*;
use crate::observe::log::for_tests::Lines;
use proptest::prelude::*;

/// What is logged in this thread meanwhile.
fn logged(run: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, run);
    lines.text()
}

#[test]
fn each_step_of_the_ladder_is_logged_once_however_often_the_model_fails() {
    let said = logged(|| {
        let mut bench = Bench::new(config(&[1, 2]));
        bench.tick(Ok(&[0.010, 0.020]));
        for _ in 0..5 {
            bench.tick(Err(too_slow()));
        }
        bench.pass(31.0);
        (0..5).for_each(|_| bench.tick(Err(too_slow())));
        (0..5).for_each(|_| bench.tick(Ok(&[0.010, 0.010])));
    });
    assert_eq!(said.matches("a step down the ladder").count(), 2, "{said}");
    assert_eq!(said.matches("the model steers").count(), 2, "{said}");
    assert!(said.contains("to=\"last_good\"") && said.contains("reason="), "{said}");
}

#[test]
fn a_step_up_the_ladder_is_no_warning() {
    let said = logged(|| {
        let mut bench = Bench::new(config(&[1, 2]));
        bench.tick(Err(ScoreError::NotReady { reason: "the model is loading".into() }));
        bench.call(0, 0.010, Outcome::Success);
        bench.pass(1.0);
        bench.tick(Err(ScoreError::NotReady { reason: "the model is loading".into() }));
        assert_eq!(bench.generation().rung, Rung::PeakEwma);
    });
    assert!(
        said.contains("a step up the ladder from=\"least_request\" to=\"peak_ewma\"") && !said.contains("WARN"),
        "{said}"
    );
}

proptest! {
    /// What is late, doubled, disordered or from the future: each call at any time, in any order, with any latency.
    #[test]
    fn telemetry_of_any_time_and_size_is_bounded_and_ages_out(
        calls in prop::collection::vec((0..2usize, any::<u64>(), any::<f32>(), 1..3usize), 0..60),
        far in any::<bool>(),
    ) {
        let mut bench = Bench::new(config(&[1, 2]));
        bench.tick(Ok(&[0.010, 0.010]));
        for (candidate, at, latency_s, times) in calls {
            let candidate = &bench.candidates()[candidate];
            // Around now as often as anywhere.
            let at = if far && at % 2 == 0 { Time(at) } else { Time(SECOND + at % (20 * SECOND)) };
            (0..times).for_each(|_| call(&candidate.link, at, latency_s, Outcome::Success, candidate.prior_s));
        }
        let estimates = |bench: &Bench| -> Vec<(f32, f32)> {
            let now = bench.state.now();
            bench.candidates().iter().map(|c| (c.link.estimate.at(now, c.prior_s, 3.0), c.prior_s)).collect()
        };
        for _ in 0..3 {
            bench.pass(1.0);
            let (features, _) = bench.state.prepare().unwrap();
            let bounded = |all: &[f32]| all.iter().all(|f| f.is_nan() || f.abs() <= 1e6);
            prop_assert!(bounded(&features.edge_features));
            bench.tick(Ok(&[0.010, 0.010]));
            let weights = bench.weights();
            prop_assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{weights:?}");
            prop_assert_eq!(bench.picks(20).len(), 20);
            for (estimate, prior) in estimates(&bench) {
                prop_assert!((0.0..=1e3).contains(&estimate) && (0.0..=1e3).contains(&prior), "{estimate} {prior}");
            }
        }
        if !far {
            // Half a minute after the last of them, ten time constants, nothing is left of any.
            bench.now.store(51 * SECOND, SeqCst);
            bench.tick(Ok(&[0.010, 0.010]));
            for (estimate, prior) in estimates(&bench) {
                prop_assert!((estimate - prior).abs() <= 1e-3 * prior && prior < 0.1, "{estimate} {prior}");
            }
        }
        // As long after the last moment that anybody named as after any other.
        bench.now.store(u64::MAX - 10 * SECOND, SeqCst);
        let (features, _) = bench.state.prepare().unwrap();
        prop_assert!(features.edge_features.iter().all(|f| f.is_nan() || f.is_finite()));
        bench.tick(Ok(&[0.010, 0.010]));
        let picks = bench.picks(400);
        prop_assert!(picks.contains(&1) && picks.contains(&2), "one of them was forgotten for ever");
    }
}
