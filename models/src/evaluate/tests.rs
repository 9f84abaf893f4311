use super::figures::{decide, spearman};
use super::stats::paired;
use super::*;
use crate::data::Candidate;
use crate::predict::Prediction;
use crate::simulator::draw::Draw;
use pathloom::graph::Features;
use std::collections::BTreeMap;

/// Says the same cost, mean and jitter for each candidate of each sample.
struct Says(Vec<(f32, f32, f32)>);

impl Predictor for Says {
    fn name(&self) -> &str {
        "says"
    }
    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        let candidates: Vec<Prediction> = self
            .0
            .iter()
            .map(|(cost, mean_s, jitter_s)| Prediction {
                cost: *cost,
                mean_s: *mean_s,
                p99_s: f32::NAN,
                jitter_s: *jitter_s,
            })
            .collect();
        Ok(samples.iter().map(|_| Predictions { candidates: candidates.clone(), node_load: vec![] }).collect())
    }
}

/// A sample with one link a candidate: (group, intrinsic, mean, jitter, answers).
fn sample(run: u64, rows: &[(u32, f32, f32, f32, u32)]) -> Sample {
    let candidates: Vec<Candidate> = rows
        .iter()
        .map(|(group, intrinsic_s, mean_s, jitter_s, answers)| Candidate {
            intrinsic_s: *intrinsic_s,
            mean_s: *mean_s,
            jitter_s: *jitter_s,
            answers: *answers,
            ..Candidate::unknown(*group)
        })
        .collect();
    let features = Features { path_offsets: (0..=rows.len() as i64).collect(), ..Features::default() };
    Sample { run, tick: 0, features, candidates, node_load: vec![] }
}

fn measured(says: &[(f32, f32, f32)], samples: &[Sample], options: &Options) -> Measured {
    let mut predictors: [Box<dyn Predictor>; 1] = [Box::new(Says(says.to_vec()))];
    measure(&mut predictors, samples, options).unwrap().predictors.remove(0)
}

fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{found} instead of {wanted}");
}

const SIMULATED: Options = Options { truth: Truth::Intrinsic, least_answers: 10 };

#[test]
fn errors_are_means_over_candidates_that_have_labels_on_enough_answers() {
    let unknown = f32::NAN;
    let samples = [sample(
        1,
        &[
            (1, 0.010, 0.020, 0.004, 10),
            (1, 0.010, 0.040, unknown, 10),
            (1, 0.010, 0.020, 0.004, 9),
            (1, 0.010, unknown, unknown, 99),
        ],
    )];
    let found = measured(
        &[(0.011, 0.022, 0.005), (0.012, 0.030, 0.0), (0.01, 9.0, 9.0), (0.01, 1.0, 1.0)],
        &samples,
        &SIMULATED,
    );
    let tally = found.pooled();
    close(tally.value(Figure::MeanRelativeError), (0.1 + 0.25) / 2.0);
    assert_eq!(tally.count(Figure::MeanRelativeError), 2);
    close(tally.value(Figure::JitterErrorMs), 1.0);
    close(tally.value(Figure::IntrinsicRelativeError), (0.1 + 0.2) / 4.0);
    assert!(tally.value(Figure::P99RelativeError).is_nan());
}

#[test]
fn a_choice_within_two_percent_of_the_best_is_right_and_its_regret_counts() {
    let right = decide(&[(0.1019, 1.0), (0.100, 2.0)]).unwrap();
    close(right.value(Figure::DecisionAccuracy), 1.0);
    close(right.value(Figure::RegretMs), 1.9);
    let wrong = decide(&[(0.1021, 1.0), (0.100, 2.0)]).unwrap();
    close(wrong.value(Figure::DecisionAccuracy), 0.0);
    close(wrong.value(Figure::RegretPercent), 2.1);
}

#[test]
fn equal_costs_are_chosen_equally_often() {
    let tie = decide(&[(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 2.0)]).unwrap();
    close(tie.value(Figure::DecisionAccuracy), 1.0 / 3.0);
    close(tie.value(Figure::RegretMs), 100.0);
}

#[test]
fn no_word_is_chosen_last_and_all_without_a_word_at_random() {
    close(decide(&[(0.1, f64::NAN), (0.2, 5.0)]).unwrap().value(Figure::DecisionAccuracy), 0.0);
    close(decide(&[(0.1, f64::NAN), (0.2, f64::NAN)]).unwrap().value(Figure::DecisionAccuracy), 0.5);
}

#[test]
fn a_group_with_one_known_truth_is_no_decision() {
    let samples = [sample(1, &[(1, 0.01, 0.01, 0.0, 99), (1, f32::NAN, 0.01, 0.0, 99), (2, 0.01, 0.01, 0.0, 99)])];
    let says = [(1.0, 1.0, 1.0); 3];
    assert_eq!(measured(&says, &samples, &SIMULATED).pooled().count(Figure::DecisionAccuracy), 0);
}

#[test]
fn neighbouring_groups_are_judged_apart() {
    let samples =
        [sample(1, &[(1, 0.1, 0.1, 0.0, 99), (1, 0.2, 0.2, 0.0, 99), (2, 0.4, 0.4, 0.0, 99), (2, 0.3, 0.3, 0.0, 99)])];
    let found =
        measured(&[(0.1, 0.1, 0.0), (0.2, 0.2, 0.0), (0.3, 0.3, 0.0), (0.4, 0.4, 0.0)], &samples, &SIMULATED).pooled();
    assert_eq!(found.count(Figure::DecisionAccuracy), 2);
    close(found.value(Figure::DecisionAccuracy), 0.5);
    close(found.value(Figure::RankCorrelation), 0.0);
}

#[test]
fn decisions_on_recordings_are_judged_by_the_observed_mean_and_need_its_answers() {
    let samples = [sample(1, &[(1, 0.1, 0.4, 0.0, 99), (1, 0.2, 0.3, 0.0, 99), (1, 0.3, 0.1, 0.0, 2)])];
    let says = [(0.1, 0.1, 0.0), (0.2, 0.1, 0.0), (0.3, 0.1, 0.0)];
    let observed = Options { truth: Truth::Observed, least_answers: 10 };
    close(measured(&says, &samples, &SIMULATED).pooled().value(Figure::DecisionAccuracy), 1.0);
    close(measured(&says, &samples, &observed).pooled().value(Figure::RegretMs), 100.0);
}

#[test]
fn rank_correlation_is_spearmans_with_shared_ranks() {
    close(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]), 1.0);
    close(spearman(&[3.0, 2.0, 1.0], &[10.0, 20.0, 90.0]), -1.0);
    // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 x 5).
    close(spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]), 4.5 / (4.5f64 * 5.0).sqrt());
    close(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    assert!(spearman(&[1.0, 2.0], &[1.0, 1.0]).is_nan());
}

#[test]
fn the_noise_floor_is_the_error_of_who_knows_the_expected_value() {
    let mut sample = sample(1, &[(1, 0.1, 0.2, 0.010, 99), (1, 0.1, 0.2, 0.010, 99)]);
    sample.candidates[0].expected_mean_s = 0.18;
    sample.candidates[0].expected_jitter_s = 0.012;
    let mut predictors: [Box<dyn Predictor>; 1] = [Box::new(Says(vec![(0.1, 0.3, 0.010), (0.1, 9.0, 0.010)]))];
    let report = measure(&mut predictors, &[sample], &SIMULATED).unwrap();
    close(report.floor.pooled().value(Figure::MeanRelativeError), 0.1);
    close(report.floor.pooled().value(Figure::JitterErrorMs), 2.0);
    let same = report.predictors[0].slices[&Slice::FloorKnown];
    close(same.value(Figure::MeanRelativeError), 0.5);
}

#[test]
fn a_recording_without_expectations_has_no_floor() {
    let samples = [sample(1, &[(1, f32::NAN, 0.2, 0.010, 99), (1, f32::NAN, 0.3, 0.010, 99)])];
    let mut predictors: [Box<dyn Predictor>; 1] = [Box::new(Says(vec![(0.1, 0.3, 0.0), (0.2, 0.3, 0.0)]))];
    let report = measure(&mut predictors, &samples, &Options::new(Truth::Observed)).unwrap();
    assert_eq!(report.floor.pooled().count(Figure::DecisionAccuracy), 0);
    assert_eq!(report.predictors[0].pooled().count(Figure::DecisionAccuracy), 1);
}

#[test]
fn a_predictor_that_forgets_a_candidate_is_an_error() {
    let mut predictors: [Box<dyn Predictor>; 1] = [Box::new(Says(vec![(0.1, 0.3, 0.0)]))];
    let samples = [sample(1, &[(1, 0.1, 0.2, 0.0, 99), (1, 0.1, 0.2, 0.0, 99)])];
    assert!(measure(&mut predictors, &samples, &SIMULATED).is_err());
}

#[test]
fn the_interval_over_five_seeds_is_students() {
    let found = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
    close(found.mean, 3.0);
    close(found.high - found.mean, 2.776 * (2.5f64 / 5.0).sqrt());
    assert!(Interval::of(&[1.0]).low.is_nan());
    assert_eq!(Interval::of(&[1.0, f64::NAN, 3.0]).seeds, 2);
}

/// Two predictors whose regret differs by `apart` in each run, up to noise, over runs that differ far more.
fn two(apart: f64, runs: u64, seed: u64) -> [BTreeMap<(u64, u64), Tally>; 2] {
    let mut draw = Draw::new(seed);
    let mut both = [BTreeMap::new(), BTreeMap::new()];
    for run in 0..runs {
        let level = draw.uniform(5.0, 50.0);
        for (i, tallies) in both.iter_mut().enumerate() {
            let mut tally = Tally::default();
            for _ in 0..20 {
                tally.add(Figure::RegretMs, level + i as f64 * apart + draw.normal());
            }
            tallies.insert((0, run), tally);
        }
    }
    both
}

#[test]
fn the_paired_bootstrap_covers_a_known_difference_and_sees_it_through_the_runs_spread() {
    let covered = (0..40).filter(|seed| {
        let [ours, theirs] = two(1.0, 24, *seed);
        let found = paired(&ours, &theirs, Figure::RegretMs, 7).unwrap();
        assert!(found.better, "{found:?}");
        (found.low..found.high).contains(&-1.0)
    });
    assert!(covered.count() >= 34);
}

#[test]
fn the_paired_bootstrap_rarely_finds_a_difference_where_there_is_none() {
    let found = (0..40).filter(|seed| {
        let [ours, theirs] = two(0.0, 24, *seed);
        let found = paired(&ours, &theirs, Figure::RegretMs, 7).unwrap();
        found.better || found.worse
    });
    assert!(found.count() <= 6);
}

#[test]
fn json_has_the_promised_keys_and_null_for_what_is_unknown() {
    let samples = [sample(1, &[(1, 0.1, 0.2, 0.01, 99), (1, 0.2, 0.3, 0.01, 99)])];
    let mut predictors: [Box<dyn Predictor>; 2] = [
        Box::new(Says(vec![(0.1, 0.2, 0.01), (0.2, 0.3, 0.01)])),
        Box::new(Says(vec![(f32::NAN, f32::NAN, f32::NAN); 2])),
    ];
    let report = measure(&mut predictors, &samples, &SIMULATED).unwrap();
    let found = Summary::of(&[(3, report.clone()), (4, report)], 1).unwrap().json();
    for figure in Figure::MAIN {
        assert!(found["model"][figure.key()].is_number(), "{figure:?}");
        assert!(found["rivals"]["says"].get(figure.key()).is_some());
    }
    assert!(found["rivals"]["says"]["mean_relative_error"].is_null());
    assert_eq!(found["decisions"], 2);
    assert_eq!(found["seeds"], serde_json::json!([3, 4]));
    assert_eq!(found["differences"]["says"]["decision_accuracy"]["better"], true);
}

/// Says of each candidate the seed of its run, in seconds.
fn by_seed(seed: u64) -> Result<Vec<Sample>> {
    let mean = 0.001 * (seed % 1_000 + 1) as f32;
    Ok(vec![sample(seed, &[(1, mean, mean, 0.0, 99), (1, 2.0 * mean, 2.0 * mean, 0.0, 99)])])
}

#[test]
fn reports_are_the_same_whoever_finishes_first_and_each_seed_has_its_own_runs() {
    let slow = |seed: u64| {
        // Every other run takes much longer, so that threads finish in another order.
        (0..2_000_000 * (seed % 2)).for_each(|i| assert!(std::hint::black_box(i) < u64::MAX));
        by_seed(seed)
    };
    let all = |samples: &(dyn Fn(u64) -> Result<Vec<Sample>> + Sync)| {
        let predictors =
            || -> Result<play::Predictors<'static>> { Ok(vec![Box::new(Says(vec![(0.001, 0.001, 0.0); 2]))]) };
        play::reports(2_000_000, 2, 4, &SIMULATED, samples, predictors, || {}).unwrap()
    };
    let (once, again) = (all(&slow), all(&by_seed));
    assert_eq!(once.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [2_000_000, 2_100_000]);
    for ((_, a), (_, b)) in once.iter().zip(&again) {
        assert_eq!(a.predictors[0].runs, b.predictors[0].runs);
        assert_eq!(a.predictors[0].points, b.predictors[0].points);
        assert_eq!(a.predictors[0].runs.len(), 4);
    }
}

#[test]
fn a_run_that_cannot_be_played_is_an_error() {
    let broken = |seed: u64| if seed == 1 { Err(crate::Error::Check("no".into())) } else { by_seed(seed) };
    let predictors = || -> Result<play::Predictors<'static>> { Ok(vec![Box::new(Says(vec![(1.0, 1.0, 0.0); 2]))]) };
    assert!(play::reports(0, 1, 3, &SIMULATED, broken, predictors, || {}).is_err());
}

#[test]
fn a_target_is_met_by_the_mean_over_seeds_and_rivals_without_the_figure_do_not_count() {
    let samples = [
        sample(1, &[(1, 0.1, 0.1, 0.01, 99), (1, 0.2, 0.2, 0.01, 99)]),
        sample(2, &[(1, 0.1, 0.1, 0.01, 99), (1, 0.2, 0.2, 0.01, 99)]),
    ];
    let mut predictors: [Box<dyn Predictor>; 2] = [
        Box::new(Says(vec![(0.1, 0.105, 0.011), (0.2, 0.21, 0.011)])),
        Box::new(Says(vec![(0.2, f32::NAN, 0.05), (0.1, f32::NAN, 0.05)])),
    ];
    let report = measure(&mut predictors, &samples, &SIMULATED).unwrap();
    let found = targets::targets(&Summary::of(&[(1, report)], 1).unwrap(), &[]);
    let error = found["mean_relative_error"];
    assert!(error.met && error.beats_every_rival && (error.value - 0.05).abs() < 1e-6, "{error:?}");
    assert!(found["decision_accuracy"].met && found["decision_accuracy"].beats_every_rival);
    let mut worse: [Box<dyn Predictor>; 1] = [Box::new(Says(vec![(0.2, 0.3, 0.02), (0.1, 0.3, 0.02)]))];
    let report = measure(&mut worse, &samples, &SIMULATED).unwrap();
    let found = targets::targets(&Summary::of(&[(1, report)], 1).unwrap(), &[]);
    assert!(!found["mean_relative_error"].met && !found["decision_accuracy"].met);
}
