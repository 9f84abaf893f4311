//! Tests of softmax and guards: invariant 2, and the shape of each guard.

use super::*;
use proptest::prelude::*;

const FREE: Limits = Limits { temperature: 1.0, floor: 0.0, max_step: 1.0, dead_band: 0.0 };

fn wanted(latency_s: f32) -> Wanted {
    Wanted { score: Some(-latency_s.ln()), takes_requests: true, configured: 1, grown: 1.0, last: None }
}

fn weights(guarded: &[Guarded]) -> Vec<f32> {
    guarded.iter().map(|g| g.weight).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn at_temperature_one_a_weight_is_the_fair_share_by_speed() {
    let w = weights(&guarded(&[wanted(0.010), wanted(0.020), wanted(0.020)], &FREE));
    assert!(close(&w, &[0.5, 0.25, 0.25]), "{w:?}");
    assert!(close(&priors(&w, &[1.0; 3], &[Some(0.010), Some(0.020), Some(0.020)], 1.0), &[0.010, 0.020, 0.020]));
}

#[test]
fn temperature_concentrates_or_levels() {
    let fleet = [wanted(0.010), wanted(0.020)];
    let at = |temperature| weights(&guarded(&fleet, &Limits { temperature, ..FREE }));
    assert!(close(&at(f32::MIN_POSITIVE), &[1.0, 0.0]));
    assert!(close(&at(f32::INFINITY), &[0.5, 0.5]));
    assert!(close(&at(0.5), &[0.8, 0.2]));
    assert!(close(&at(f32::NAN), &at(1.0)));
}

#[test]
fn a_score_that_is_no_number_gets_the_median() {
    let mut fleet = [wanted(0.010), wanted(0.010), wanted(0.010)];
    fleet[1].score = Some(f32::NAN);
    let guarded = guarded(&fleet, &FREE);
    assert!(close(&weights(&guarded), &[1.0 / 3.0; 3]));
    assert_eq!((guarded[0].by, guarded[1].by), (None, Some(Guard::NotFinite)));
}

#[test]
fn configured_weights_multiply_and_zero_is_zero() {
    let mut fleet = [wanted(0.010), wanted(0.010), wanted(0.010)];
    (fleet[0].configured, fleet[2].configured) = (3, 0);
    assert!(close(&weights(&guarded(&fleet, &Limits { floor: 0.5, ..FREE })), &[0.75, 0.25, 0.0]));
}

#[test]
fn configured_weights_and_growth_are_biases_and_leave_priors_to_speed() {
    let mut fleet = [wanted(0.010), wanted(0.010)];
    fleet[0].configured = 9;
    let biases = biases(&fleet);
    assert!(close(&biases, &[1.8, 0.2]), "{biases:?}");
    let w = weights(&guarded(&fleet, &FREE));
    assert!(close(&priors(&w, &biases, &[Some(0.010), Some(0.010)], 1.0), &[0.010, 0.010]));
}

#[test]
fn who_may_not_take_requests_has_no_weight_and_nobody_is_no_weights() {
    let mut fleet = [wanted(0.010), wanted(0.010)];
    fleet[0].takes_requests = false;
    assert!(close(&weights(&guarded(&fleet, &FREE)), &[0.0, 1.0]));
    fleet[1].takes_requests = false;
    assert!(close(&weights(&guarded(&fleet, &FREE)), &[0.0, 0.0]));
    assert!(guarded(&[], &FREE).is_empty());
}

#[test]
fn the_floor_keeps_a_slow_one_measured() {
    let guarded = guarded(&[wanted(0.001), wanted(1.0)], &Limits { floor: 0.1, ..FREE });
    assert!(close(&weights(&guarded), &[0.95, 0.05]));
    assert_eq!(guarded[1].by, Some(Guard::Floor));
}

#[test]
fn a_change_goes_by_the_largest_step_and_arrives() {
    let limits = Limits { max_step: 0.2, floor: 0.02, ..FREE };
    let mut fleet = [wanted(0.010), wanted(0.100)];
    (fleet[0].last, fleet[1].last) = (Some(0.5), Some(0.5));
    let first = guarded(&fleet, &limits);
    assert!(close(&weights(&first), &[0.7, 0.3]), "{first:?}");
    assert_eq!(first[0].by, Some(Guard::Step));
    for _ in 0..3 {
        let next = guarded(&fleet, &limits);
        fleet.iter_mut().zip(&next).for_each(|(c, g)| c.last = Some(g.weight));
    }
    assert!((fleet[0].last.unwrap() - 10.0 / 11.0).abs() < 1e-3);
}

/// After so many ticks a link that was as bad as can be is within the dead band of its fair share.
#[test]
fn a_healed_link_has_its_fair_share_again_within_a_stated_number_of_ticks() {
    for count in [2, 3, 10, 40] {
        let limits = Limits { temperature: 1.0, floor: 0.02, max_step: 0.2, dead_band: 0.02 };
        let fair = 1.0 / count as f32;
        let mut fleet = vec![wanted(0.010); count];
        fleet.iter_mut().for_each(|link| link.last = Some(fair));
        let tick = |fleet: &mut Vec<Wanted>| {
            let next = guarded(fleet, &limits);
            fleet.iter_mut().zip(&next).for_each(|(link, guarded)| link.last = Some(guarded.weight));
        };
        fleet[0].score = Some(-100f32.ln());
        (0..50).for_each(|_| tick(&mut fleet));
        let least = fleet[0].last.unwrap();
        assert!(least < 0.1 * fair, "{least}");
        fleet[0].score = Some(-0.010f32.ln());
        let within = ((fair - least) / limits.max_step).ceil() as usize;
        (0..within).for_each(|_| tick(&mut fleet));
        let now = fleet[0].last.unwrap();
        assert!((now - fair).abs() <= fair * 1.5 * limits.dead_band, "{count}: {now} after {within} ticks");
    }
}

/// The worst there is: every proxy sees the same latencies, all of which the proxies made themselves, a tick ago.
#[test]
fn proxies_that_act_on_the_same_snapshot_do_not_swing_by_more_than_a_step() {
    for (count, load) in [(2, 100.0), (2, 1.0), (4, 30.0), (10, 1000.0)] {
        let limits = Limits { temperature: 1.0, floor: 0.02, max_step: 0.2, dead_band: 0.02 };
        let mut fleet = vec![wanted(0.010); count];
        // It begins in disorder.
        fleet
            .iter_mut()
            .enumerate()
            .for_each(|(n, link)| link.last = Some(if n == 0 { 0.9 } else { 0.1 / (count - 1) as f32 }));
        let mut seen: Vec<Vec<f32>> = Vec::new();
        for _ in 0..200 {
            let shares: Vec<f32> = fleet.iter().map(|link| link.last.unwrap()).collect();
            // Latency grows with the share of all proxies' requests that an endpoint gets.
            fleet.iter_mut().zip(&shares).for_each(|(link, w)| link.score = Some(-(0.010 * (1.0 + load * w)).ln()));
            let next = guarded(&fleet, &limits);
            for (link, guarded) in fleet.iter_mut().zip(&next) {
                assert!((guarded.weight - link.last.unwrap()).abs() <= limits.max_step + 1e-5);
                link.last = Some(guarded.weight);
            }
            seen.push(shares);
        }
        for endpoint in 0..count {
            let late = || seen[150..].iter().map(|shares| shares[endpoint]);
            let amplitude = late().fold(0.0, f32::max) - late().fold(1.0, f32::min);
            assert!(amplitude <= limits.max_step + 1e-5, "{count} endpoints, load {load}: they swing by {amplitude}");
        }
    }
}

#[test]
fn small_changes_stay_within_the_dead_band() {
    let mut fleet = [wanted(0.0100), wanted(0.0101)];
    (fleet[0].last, fleet[1].last) = (Some(0.5), Some(0.5));
    let guarded = guarded(&fleet, &Limits { dead_band: 0.02, ..FREE });
    assert_eq!(weights(&guarded), [0.5, 0.5]);
    assert_eq!(guarded[0].by, Some(Guard::DeadBand));
}

#[test]
fn a_new_endpoint_starts_at_the_floor_and_grows() {
    let limits = Limits { floor: 0.02, max_step: 0.2, ..FREE };
    let mut fleet = [wanted(0.010), wanted(0.010)];
    (fleet[0].last, fleet[1].grown) = (Some(1.0), 0.0);
    let first = guarded(&fleet, &limits);
    assert!(close(&weights(&first), &[0.99, 0.01]), "{first:?}");
    assert_eq!(first[1].by, Some(Guard::SlowStart));
}

#[test]
fn priors_follow_guarded_weights() {
    // The floor raised the slow one's weight, so its prior is shorter than its prediction: it will be tried.
    let priors = priors(&[0.95, 0.05], &[1.0; 2], &[Some(0.001), Some(1.0)], 1.0);
    assert!(priors[1] < 1.0 && priors[0] < priors[1], "{priors:?}");
    let unknown = super::priors(&[0.5, 0.5, 0.0, 0.0], &[1.0; 4], &[None, None, None, Some(0.02)], 0.03);
    assert!(close(&unknown, &[0.03, 0.03, 0.03, 0.02]), "{unknown:?}");
}

#[test]
fn priors_lean_as_the_measured_estimates_do_and_no_further_than_the_limit() {
    let at = |ratios: &[f32]| leaning(ratios.iter().map(|r| Some((0.02 * r, 0.02))).chain([None]));
    assert_eq!(at(&[]), 1.0, "nothing is measured");
    assert!((at(&[1.5, 2.0, 9.0]) - 2.0).abs() < 1e-6, "the median: one gray replica does not count");
    assert_eq!((at(&[0.5]), at(&[100.0]), at(&[f32::NAN])), (1.0, MAX_LEANING, 1.0));
}

fn any_score() -> impl Strategy<Value = Option<f32>> {
    prop_oneof![
        Just(None),
        any::<f32>().prop_map(Some),
        (-10f32..10.0).prop_map(Some),
        Just(Some(f32::MAX)),
        Just(Some(f32::MIN)),
        Just(Some(f32::NEG_INFINITY)),
    ]
}

fn any_candidate() -> impl Strategy<Value = Wanted> {
    let last = prop_oneof![Just(None), (0f32..1.0).prop_map(Some), any::<f32>().prop_map(Some)];
    (any_score(), any::<bool>(), prop_oneof![0u32..4, any::<u32>()], 0f32..1.5, last).prop_map(
        |(score, takes_requests, configured, grown, last)| Wanted { score, takes_requests, configured, grown, last },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn weights_are_a_distribution_with_a_floor_whatever_comes(
        candidates in prop::collection::vec(any_candidate(), 0..40),
        temperature in prop_oneof![any::<f32>(), 1e-9f32..1e9],
        floor in 0f32..0.99,
        max_step in 0f32..1.0,
        dead_band in 0f32..1.0,
    ) {
        let limits = Limits { temperature, floor, max_step, dead_band };
        let out = guarded(&candidates, &limits);
        let taking = candidates.iter().filter(|c| c.takes_requests && c.configured > 0).count();
        let sum: f64 = out.iter().map(|g| f64::from(g.weight)).sum();
        prop_assert!(taking == 0 && sum == 0.0 || (sum - 1.0).abs() < 1e-6, "sum {sum}");
        for (candidate, guarded) in candidates.iter().zip(&out) {
            let takes = candidate.takes_requests && candidate.configured > 0;
            prop_assert!(guarded.weight.is_finite() && guarded.weight >= 0.0);
            prop_assert!(takes || guarded.weight == 0.0);
            let least = floor / taking.max(1) as f32;
            prop_assert!(!takes || guarded.weight >= least * (1.0 - 1e-4), "{} below {least}", guarded.weight);
        }
        let flat: Vec<f32> = out.iter().map(|g| g.weight).collect();
        let latencies: Vec<Option<f32>> = candidates.iter().map(|c| c.score.map(|s| (-s).exp())).collect();
        prop_assert!(priors(&flat, &biases(&candidates), &latencies, 0.03).iter().all(|p| (1e-6..=MAX_PRIOR_S).contains(p)));
    }

    #[test]
    fn no_weight_moves_by_more_than_the_largest_step(
        latencies in prop::collection::vec(1e-4f32..10.0, 2..20),
        max_step in 0.01f32..0.5,
    ) {
        let limits = Limits { temperature: 1.0, floor: 0.02, max_step, dead_band: 0.02 };
        let equal = 1.0 / latencies.len() as f32;
        let fleet: Vec<Wanted> = latencies.iter().map(|l| Wanted { last: Some(equal), ..wanted(*l) }).collect();
        for guarded in guarded(&fleet, &limits) {
            prop_assert!((guarded.weight - equal).abs() <= max_step + 1e-5);
        }
    }
}
