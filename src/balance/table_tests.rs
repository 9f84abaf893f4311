//! Tests of the pick.

use super::*;
use crate::balance::Maglev;
use crate::balance::{Endpoint, EndpointId};
use crate::links::{LinkKey, Links, NodeKey, Outcome};
use crate::route::scattered;
use rand::{SeedableRng, rngs::SmallRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const TAU_S: f32 = 3.0;

fn candidates(weights: &[f32]) -> (Links, Vec<Candidate>) {
    let links = Links::new(1);
    let source = NodeKey::new("source");
    let made = weights
        .iter()
        .zip(0u64..)
        .map(|(weight, i)| {
            let key = NodeKey::new(&format!("10.0.0.{i}:80"));
            Candidate {
                link: links.link(&LinkKey::new(&source, &key), Time(0)),
                node: links.node(&key, Time(0)),
                endpoint: Arc::new(Endpoint {
                    id: EndpointId(i),
                    key,
                    address: SocketAddr::from(([10, 0, 0, i as u8], 80)),
                    zone: "".into(),
                    host: "".into(),
                    weight: 1,
                    metadata: BTreeMap::new(),
                    tls: None,
                }),
                weight: *weight,
                prior_s: 0.01 / weight,
                measured_at: None,
                success: 1.0,
                bias: 1.0,
                health: Health::Healthy,
                score: None,
                predicted: None,
                reason: Default::default(),
            }
        })
        .collect();
    (links, made)
}

fn options(policy: Policy, compare: Compare) -> TableOptions {
    TableOptions { policy, compare, tau_s: TAU_S, explore: 0.0 }
}

fn traffic() -> Arc<Traffic> {
    Arc::new(Traffic::new(1))
}

fn shares(table: &Table, draws: usize) -> Vec<f64> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut counts = vec![0usize; table.candidates().len()];
    for _ in 0..draws {
        counts[table.pick(Time(0), false, &mut rng, &[]).unwrap().index] += 1;
    }
    counts.iter().map(|c| *c as f64 / draws as f64).collect()
}

#[test]
fn without_samples_weights_and_in_flight_decide() {
    let (_links, made) = candidates(&[0.5, 0.25, 0.25]);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    assert_eq!(table.pick(Time(0), false, &mut rng, &[]).unwrap().index, 0);
    table.candidates()[0].node.begin();
    table.candidates()[0].node.begin();
    assert_ne!(table.pick(Time(0), false, &mut rng, &[]).unwrap().index, 0, "0.02 x 3 against 0.04 x 1");
}

#[test]
fn fresh_samples_rule_and_the_prior_returns() {
    let (_links, made) = candidates(&[0.5, 0.5]);
    made[0].link.record(0, Time(0), 1.0, Outcome::Success, 0.02, TAU_S);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..50 {
        assert_eq!(table.pick(Time(0), false, &mut rng, &[]).unwrap().index, 1);
    }
    table.candidates()[1].node.begin();
    let later = Time(0) + Duration::from_secs(60);
    assert_eq!(table.pick(later, false, &mut rng, &[]).unwrap().index, 0, "the slow sample is long ago");
}

#[test]
fn a_burst_within_a_millisecond_spreads_over_all() {
    let (_links, made) = candidates(&[0.05; 20]);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    for round in 1..4 {
        for _ in 0..20 {
            table.candidates()[table.pick(Time(0), false, &mut rng, &[]).unwrap().index].node.begin();
        }
        assert!(table.candidates().iter().all(|c| c.node.in_flight() == round), "round {round}");
    }
}

#[test]
fn a_peak_is_seen_in_the_next_millisecond_and_requests_in_flight_at_once() {
    let (_links, made) = candidates(&[0.1; 10]);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let mut pick = |at: u64| table.pick(Time(at), false, &mut rng, &[]).unwrap().index;
    let first = pick(0);
    table.candidates()[first].node.begin();
    assert!((0..200).all(|_| pick(0) != first));
    table.candidates()[first].node.end();
    table.candidates()[first].link.record(0, Time(0), 5.0, Outcome::Success, 0.1, TAU_S);
    assert!((0..200).all(|_| pick(1_000_000) != first));
}

#[test]
fn the_cheapest_of_many_is_found_whatever_was_kept() {
    let (_links, made) = candidates(&[1.0 / 64.0; 64]);
    for (i, candidate) in made.iter().enumerate() {
        candidate.link.record(0, Time(0), 0.010 + 0.001 * ((i * 29) % 64) as f32, Outcome::Success, 0.01, TAU_S);
    }
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let cost = |i: usize| {
        let c = &table.candidates()[i];
        c.link.estimate.at(Time(0), c.prior_s, TAU_S) * (c.node.in_flight() + 1) as f32
    };
    for _ in 0..500 {
        let index = table.pick(Time(0), false, &mut rng, &[]).unwrap().index;
        let least = (0..64).map(cost).fold(f32::INFINITY, f32::min);
        assert!(cost(index) <= least * 1.0001, "{index}: {} instead of {least}", cost(index));
        table.candidates()[index].node.begin();
    }
}

#[test]
fn of_three_that_are_drawn_the_cheapest_is_taken() {
    let (_links, made) = candidates(&[0.01; 100]);
    for (i, candidate) in made.iter().enumerate() {
        candidate.link.record(0, Time(0), 0.010 + 0.001 * ((i * 29) % 100) as f32, Outcome::Success, 0.01, TAU_S);
        (0..i % 3).for_each(|_| candidate.node.begin());
    }
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let Compared::Three(three) = &table.compared else { panic!("{:?}", table.compared) };
    let mut rng = SmallRng::seed_from_u64(1);
    for round in 0..1000 {
        let now = Time(0) + Duration::from_millis(round);
        let drawn = three.draw(std::array::from_fn(|_| rng.next_u64())).unwrap();
        let cost = |i: &usize| {
            let c = &table.candidates()[*i];
            c.link.estimate.at(now, c.prior_s, TAU_S) * (c.node.in_flight() + 1) as f32
        };
        let choice = three.cheapest(now, TAU_S, drawn).unwrap();
        let least = drawn.iter().map(cost).fold(f32::INFINITY, f32::min);
        assert_eq!(cost(&choice.index), least, "{drawn:?}");
        let candidate = &table.candidates()[choice.index];
        assert_eq!(choice.estimate_s, candidate.link.estimate.at(now, candidate.prior_s, TAU_S));
    }
}

#[test]
fn three_are_drawn_by_weight_within_a_chi_square_bound() {
    let weights: Vec<f32> = (0..100).map(|i| (i % 10 + 1) as f32 / 550.0).collect();
    let (_links, made) = candidates(&weights);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let Compared::Three(three) = &table.compared else { panic!("{:?}", table.compared) };
    let (mut rng, rounds) = (SmallRng::seed_from_u64(1), 200_000);
    let mut counts = vec![[0usize; 3]; weights.len()];
    for _ in 0..rounds {
        let drawn = three.draw(std::array::from_fn(|_| rng.next_u64())).unwrap();
        drawn.iter().enumerate().for_each(|(which, place)| counts[*place][which] += 1);
    }
    for which in 0..3 {
        let off = |(count, w): (&[usize; 3], &f32)| {
            let expected = f64::from(*w) * rounds as f64;
            (count[which] as f64 - expected).powi(2) / expected
        };
        let chi_square: f64 = counts.iter().zip(&weights).map(off).sum();
        assert!(chi_square < 148.2, "{chi_square}: beyond the 99.9% bound of 99 degrees of freedom");
    }
}

#[test]
fn draws_that_agree_are_made_good_for() {
    // Three draws nearly always hit the heavy one twice.
    let mut weights = vec![1e-4; 100];
    weights[7] = 1.0;
    let (_links, made) = candidates(&weights);
    made.iter().for_each(|c| c.link.record(0, Time(0), 0.01, Outcome::Success, 0.01, TAU_S));
    made[7].node.begin();
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let others = (0..10_000).filter(|_| table.pick(Time(0), false, &mut rng, &[]).unwrap().index != 7).count();
    // Nine attempts find another than the heavy one in 1 - 0.99^9 of the cases, and such a one is always cheaper.
    assert!((700..1_000).contains(&others), "{others}");
}

#[test]
fn one_choice_is_softmax_sampling_within_a_chi_square_bound() {
    let weights = [0.4f32, 0.3, 0.2, 0.1];
    let (_links, made) = candidates(&weights);
    let table = Table::new(made, false, options(Policy::Model, Compare::Draw(1)), traffic());
    let draws = 100_000;
    let chi_square: f64 = shares(&table, draws)
        .iter()
        .zip(weights)
        .map(|(share, w)| (share - f64::from(w)).powi(2) / f64::from(w) * draws as f64)
        .sum();
    assert!(chi_square < 16.27, "{chi_square}: beyond the 99.9% bound of three degrees of freedom");
}

/// As `proxy::tcp` picks: without a number where the cluster has no affinity, and as safe as can be. Endpoints that are idle
/// and were not measured are equal but for their weights, whatever a policy compares.
#[test]
fn the_shares_of_connections_are_the_weights_by_every_policy_within_a_chi_square_bound() {
    let (weights, draws) = ([0.4f32, 0.3, 0.2, 0.1], 100_000);
    for (policy, compare) in [
        (Policy::Model, Compare::Draw(1)),
        (Policy::PeakEwma, Compare::Auto),
        (Policy::LeastRequest, Compare::Auto),
        (Policy::RoundRobin, Compare::Auto),
        (Policy::Random, Compare::Auto),
    ] {
        let (_links, mut made) = candidates(&weights);
        for (candidate, configured) in made.iter_mut().zip([4, 3, 2, 1]) {
            Arc::get_mut(&mut candidate.endpoint).unwrap().weight = configured;
        }
        let table = Table::new(made, false, options(policy, compare), traffic());
        let (mut rng, mut counts) = (SmallRng::seed_from_u64(1), [0u32; 4]);
        for _ in 0..draws {
            counts[table.pick_for((None, None, true), Time(0), false, &mut rng, &[]).unwrap().index] += 1;
        }
        let expected = weights.map(|weight| f64::from(weight) * f64::from(draws));
        let apart = counts.iter().zip(expected).map(|(got, wanted)| (f64::from(*got) - wanted).powi(2) / wanted);
        let chi_square: f64 = apart.sum();
        assert!(chi_square < 16.27, "{policy:?}: {counts:?}, {chi_square}: beyond 99.9% of three degrees of freedom");
    }
}

#[test]
fn what_was_tried_is_not_tried_again() {
    for policy in [Policy::Model, Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        let (_links, made) = candidates(&[0.9, 0.05, 0.05]);
        let table = Table::new(made, false, options(policy, Compare::Auto), traffic());
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..200 {
            assert_eq!(table.pick(Time(0), false, &mut rng, &[0, 2]).unwrap().index, 1, "{policy:?}");
            assert_eq!(table.pick(Time(0), false, &mut rng, &[0, 1, 2]), None);
        }
    }
}

#[test]
fn ejected_and_zero_weight_endpoints_get_nothing_and_panic_ignores_health() {
    let (_links, mut made) = candidates(&[0.5, 0.5, 1.0, 0.0]);
    made[0].health = Health::Ejected;
    made[2].health = Health::Drained;
    for policy in [Policy::Model, Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        let table = Table::new(made.clone(), false, options(policy, Compare::Auto), traffic());
        assert_eq!(table.eligible().len(), 1, "{policy:?}");
        assert_eq!(shares(&table, 100)[0], 1.0);
        let panicking = Table::new(made.clone(), true, options(policy, Compare::Auto), traffic());
        assert_eq!(panicking.eligible().len(), 2, "{policy:?}");
    }
}

#[test]
fn an_empty_table_picks_nothing() {
    for policy in [Policy::Model, Policy::RoundRobin, Policy::PeakEwma] {
        let table = Table::new(Vec::new(), true, options(policy, Compare::Draw(3)), traffic());
        assert_eq!(table.pick(Time(0), true, &mut SmallRng::seed_from_u64(1), &[]), None);
    }
}

#[test]
fn an_expired_generation_steers_by_peak_ewma() {
    let (_links, made) = candidates(&[0.999, 0.001]);
    made[0].link.record(0, Time(0), 0.5, Outcome::Success, 0.0, PEAK_EWMA_DECAY_S);
    made[1].link.record(0, Time(0), 0.01, Outcome::Success, 0.0, PEAK_EWMA_DECAY_S);
    let table = Table::new(made, false, options(Policy::Model, Compare::Draw(1)), traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let fast = (0..1000).filter(|_| table.pick(Time(0), true, &mut rng, &[]).unwrap().index == 1).count();
    let by_weight = (0..1000).filter(|_| table.pick(Time(0), false, &mut rng, &[]).unwrap().index == 1).count();
    assert!(by_weight < 20 && fast > 900, "{fast} {by_weight}");
}

#[test]
fn round_robin_goes_in_turn_by_weight() {
    assert_eq!(*turns(&[1, 1, 1]), [0, 1, 2]);
    assert_eq!(*turns(&[4, 2, 2]), [0, 1, 2, 0]);
    assert_eq!(turns(&[u32::MAX, 1, u32::MAX]).len().max(2048), 2048);
    let (_links, made) = candidates(&[0.2; 5]);
    let table = Table::new(made, false, options(Policy::RoundRobin, Compare::Auto), traffic());
    assert!(shares(&table, 1000).iter().all(|s| *s == 0.2));
}

#[test]
fn a_candidate_that_was_not_measured_lately_is_measured_again() {
    let (_links, made) = candidates(&[0.999, 0.001]);
    let explore = TableOptions { explore: 0.1, ..options(Policy::Model, Compare::Auto) };
    made[1].link.record(0, Time(0), 5.0, Outcome::Success, 0.0, TAU_S);
    let table = Table::new(made, false, explore, traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let mut slow_picks = |now| (0..1000).filter(|_| table.pick(now, false, &mut rng, &[]).unwrap().index == 1).count();
    assert_eq!(slow_picks(Time(0)), 0, "its sample is fresh");
    let later = slow_picks(Time(0) + Duration::from_secs(4));
    assert!((30..80).contains(&later), "{later}");
}

#[test]
fn a_candidate_that_somebody_else_measured_lately_is_not_measured_for_its_own_sake() {
    let (_links, mut made) = candidates(&[0.999, 0.001]);
    let now = Time(0) + Duration::from_secs(100);
    made[1].measured_at = Some(Time(0) + Duration::from_secs(98));
    let explore = TableOptions { explore: 0.1, ..options(Policy::Model, Compare::Auto) };
    let table = Table::new(made, false, explore, traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let mut slow_picks = |now| (0..1000).filter(|_| table.pick(now, false, &mut rng, &[]).unwrap().index == 1).count();
    assert_eq!(slow_picks(now), 0);
    assert!(slow_picks(now + Duration::from_secs(10)) > 20, "that was long ago");
}

#[test]
fn a_candidate_that_is_likely_as_fast_is_measured_whoever_did_so() {
    let (_links, mut made) = candidates(&[0.6, 0.4]);
    let now = Time(0) + Duration::from_secs(100);
    // Nothing is ever in flight here, so the lowest cost is always the first one's.
    made[1].measured_at = Some(now);
    let explore = TableOptions { explore: 0.1, ..options(Policy::Model, Compare::Auto) };
    let link = made[1].link.clone();
    let table = Table::new(made, false, explore, traffic());
    let mut rng = SmallRng::seed_from_u64(1);
    let mut picks = |now| (0..1000).filter(|_| table.pick(now, false, &mut rng, &[]).unwrap().index == 1).count();
    let asked = picks(now);
    assert!((30..80).contains(&asked), "{asked}");
    link.record(0, now, 5.0, Outcome::Success, 0.0, TAU_S);
    assert_eq!(picks(now), 0, "now it is known to be slow");
}

#[test]
fn an_endpoint_on_probation_gets_the_one_probe() {
    let (_links, mut made) = candidates(&[0.5, 0.5]);
    (made[0].health, made[0].weight) = (Health::Probation, 0.0);
    let node = made[0].node.clone();
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let probed = table.candidates().iter().position(|c| c.health == Health::Probation).unwrap();
    assert_eq!(shares(&table, 100)[probed], 0.0);
    node.offer_probe();
    let again = table.pick(Time(1), false, &mut SmallRng::seed_from_u64(1), &[1 - probed]);
    assert_eq!(again, None, "what failed elsewhere is no probe");
    let unsafe_one = || table.pick_for((None, None, false), Time(1), false, &mut SmallRng::seed_from_u64(1), &[]);
    assert_ne!(unsafe_one().unwrap().index, probed, "nor is what could not be repeated");
    assert_eq!(shares(&table, 100)[probed], 0.01);
}

/// Where each of these numbers leads, with these endpoints away.
fn homes(numbers: &[u64], health: &[(usize, Health)]) -> Vec<usize> {
    let (_links, mut made) = candidates(&[0.1; 10]);
    let endpoints: Vec<_> = made.iter().map(|c| c.endpoint.clone()).collect();
    for (index, health) in health {
        made[*index].health = *health;
        made[*index].node.offer_probe();
    }
    let table = Table::new(made, false, options(Policy::Random, Compare::Auto), traffic());
    let table = table.with_affinity(Some(Maglev::of(&endpoints, None)));
    let mut rng = SmallRng::seed_from_u64(1);
    let home = |number: &u64| {
        let choice = table.pick_for((Some(*number), None, true), Time(0), false, &mut rng, &[]).unwrap();
        table.candidates()[choice.index].endpoint.id.0 as usize
    };
    numbers.iter().map(home).collect()
}

#[test]
fn while_an_endpoint_is_away_its_own_requests_move_to_all_others_and_nobody_elses_do() {
    let numbers: Vec<u64> = (0..10_000).map(scattered).collect();
    let whole = homes(&numbers, &[]);
    assert_eq!(whole, homes(&numbers, &[]), "the same in each generation");
    for away in 0..10 {
        let less = homes(&numbers, &[(away, Health::Ejected)]);
        let mut moved = [0usize; 10];
        for (before, after) in whole.iter().zip(&less) {
            assert_ne!(*after, away);
            assert!(before == after || *before == away, "{before} -> {after} while {away} is away");
            moved[*after] += usize::from(before != after);
        }
        let all: usize = moved.iter().sum();
        assert!((850..1150).contains(&all), "one in ten: {all}");
        let alike = |(index, count): (usize, &usize)| index == away || (60..180).contains(count);
        assert!(moved.iter().enumerate().all(alike), "{moved:?}");
    }
}

#[test]
fn an_endpoint_on_probation_is_probed_by_its_own_requests() {
    let numbers: Vec<u64> = (0..1000).map(scattered).collect();
    let whole = homes(&numbers, &[]);
    let probed = homes(&numbers, &[(3, Health::Probation)]);
    let first = whole.iter().position(|home| *home == 3).unwrap();
    assert_eq!(probed[first], 3, "the first of its own");
    assert_eq!(probed.iter().filter(|home| **home == 3).count(), 1, "one at a time");
    let others = |(before, after): &(&usize, &usize)| **before != 3 && before != after;
    assert_eq!(whole.iter().zip(&probed).filter(others).count(), 0);
}

#[test]
fn a_request_that_stays_goes_on_to_another_where_its_own_was_tried_and_by_the_policy_without_a_number() {
    let (_links, made) = candidates(&[0.5, 0.5]);
    let endpoints: Vec<_> = made.iter().map(|c| c.endpoint.clone()).collect();
    let table = Table::new(made, false, options(Policy::RoundRobin, Compare::Auto), traffic());
    let table = table.with_affinity(Some(Maglev::of(&endpoints, None)));
    let mut rng = SmallRng::seed_from_u64(1);
    let mut pick = |number, tried: &[usize]| {
        table.pick_for((number, None, true), Time(0), false, &mut rng, tried).map(|c| c.index)
    };
    let home = pick(Some(7), &[]).unwrap();
    assert_eq!((pick(Some(7), &[home]), pick(Some(7), &[0, 1])), (Some(1 - home), None));
    let (one, other) = (pick(None, &[]), pick(None, &[]));
    assert_ne!(one, other, "in turn");
    let share = |index| table.affine_share(index).unwrap();
    assert!((share(0) + share(1) - 1.0).abs() < 1e-6 && (share(0) - 0.5).abs() < 0.01);
}

#[test]
fn on_trial_each_arm_chooses_by_its_own_policy() {
    let (_links, mut made) = candidates(&[0.9, 0.1]);
    // Slow start holds the first back for the other policy, too.
    (made[0].bias, made[1].bias) = (0.5, 1.5);
    let table = Table::new(made, false, options(Policy::Model, Compare::Draw(1)), traffic());
    let table = table.on_trial(0.3, Policy::Random);
    let mut rng = SmallRng::seed_from_u64(1);
    let arms: Vec<Arm> = (0..20_000).map(|_| table.arm(&mut rng).unwrap()).collect();
    let model = arms.iter().filter(|a| **a == Arm::Model).count() as f64 / 20_000.0;
    assert!((model - 0.3).abs() < 0.01, "{model}");
    let mut first = |arm, expired| {
        let pick = |_| table.pick_for((None, arm, true), Time(0), expired, &mut rng, &[]).unwrap().index;
        (0..20_000).map(pick).filter(|index| *index == 0).count() as f64 / 20_000.0
    };
    assert!((first(Some(Arm::Model), false) - 0.9).abs() < 0.01);
    assert!((first(Some(Arm::Against), false) - 0.25).abs() < 0.015);
    assert!((first(None, false) - 0.25).abs() < 0.015, "whom nobody steers is not the model's");
    assert!((first(Some(Arm::Model), true) - 0.25).abs() < 0.015, "weights that have expired steer nobody");
    let apart = shares(&table, 20_000)[0];
    assert!((apart - (0.3 * 0.9 + 0.7 * 0.25)).abs() < 0.015, "whoever does not say an arm gets one: {apart}");
}

#[test]
fn on_trial_turns_are_taken_where_the_other_policy_takes_turns() {
    let (_links, made) = candidates(&[0.98, 0.01, 0.01]);
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic());
    let table = table.on_trial(0.1, Policy::RoundRobin);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut counts = [0; 3];
    for _ in 0..300 {
        counts[table.pick_for((None, Some(Arm::Against), true), Time(0), false, &mut rng, &[]).unwrap().index] += 1;
    }
    assert_eq!(counts, [100; 3]);
}

#[test]
fn whoever_stays_with_an_endpoint_stays_whatever_the_trial_and_the_zone() {
    let (_links, mut made) = candidates(&[0.25; 4]);
    made.iter_mut().zip(["a", "a", "b", "b"]).for_each(|(c, zone)| {
        let mut endpoint = Endpoint::clone(&c.endpoint);
        endpoint.zone = zone.into();
        c.endpoint = Arc::new(endpoint);
    });
    let endpoints: Vec<_> = made.iter().map(|c| c.endpoint.clone()).collect();
    let table = Table::new(made, false, options(Policy::Model, Compare::Auto), traffic())
        .on_trial(0.5, Policy::Random)
        .with_own_zone(OwnZone { name: "a".into(), share: 1.0, well: 1.0, load: None })
        .with_affinity(Some(Maglev::of(&endpoints, None)));
    let mut rng = SmallRng::seed_from_u64(1);
    let mut homes = std::collections::BTreeSet::new();
    for number in 0..200 {
        let mut home =
            || table.pick_for((Some(scattered(number)), None, true), Time(0), false, &mut rng, &[]).unwrap().index;
        let first = home();
        assert!((0..5).all(|_| home() == first));
        homes.insert(first);
    }
    assert_eq!(homes.len(), 4, "in all zones");
    let free: std::collections::BTreeSet<_> =
        (0..200).map(|_| table.pick_for((None, None, true), Time(0), false, &mut rng, &[]).unwrap().index).collect();
    assert!(free.iter().all(|index| *index < 2), "{free:?}");
}
