//! Each policy's rule on cases made by hand.

use super::*;
use crate::closed_loop::ejection::Ejecting;
use crate::simulator::balancer::Scored;
use crate::simulator::draw::Draw;
use ::pathloom::config::Compare;
use ::pathloom::links::{Outcome, Time};

const ALL: [usize; 4] = [0, 1, 2, 3];

fn place(count: usize) -> Place {
    Place {
        source: NodeKey::new("caller"),
        destinations: (0..count).map(|i| NodeKey::new(&format!("replica-{i}"))).collect(),
        costs_s: (0..count).map(|i| 0.001 * (1 + i / 2) as f32).collect(),
    }
}

fn every() -> Vec<(&'static str, Policy)> {
    vec![
        ("round robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("least request", Policy::LeastRequest(2)),
        ("least request of all", Policy::LeastRequest(usize::MAX)),
        ("peak EWMA", Policy::PeakEwma { choices: 2, decay_s: 10.0 }),
        ("Prequal", Policy::Prequal(PrequalRules::default())),
        ("weighted round robin", Policy::WeightedRoundRobin(WeightedRoundRobinRules::default())),
        ("shortest path", Policy::ShortestPath),
        ("Pathloom", Policy::Pathloom(PathloomRules::default())),
    ]
}

fn at(seconds: f64) -> Time {
    Time((seconds * 1e9) as u64)
}

fn shares(balancer: &mut dyn Balancer, now: Time, usable: &[usize], picks: usize) -> Vec<f64> {
    let mut draw = Draw::new(7);
    let mut counts = [0usize; 4];
    for _ in 0..picks {
        counts[balancer.pick(now, &mut draw, usable, &[])] += 1;
    }
    counts.iter().map(|c| *c as f64 / picks as f64).collect()
}

fn call(balancer: &mut dyn Balancer, position: usize, now: Time, latency_s: f32, outcome: Outcome) {
    balancer.began(position, now);
    balancer.ended(position, now, latency_s, outcome, None);
}

#[test]
fn every_policy_keeps_to_those_that_are_usable_and_untried() {
    let mut draw = Draw::new(3);
    for (name, policy) in every() {
        let mut balancer = policy.at(&place(4));
        for i in 0..200 {
            let now = at(f64::from(i) * 0.01);
            let position = balancer.pick(now, &mut draw, &[0, 2, 3], &[2]);
            assert!([0, 3].contains(&position), "{name}");
            call(&mut *balancer, position, now, 0.01, Outcome::Success);
            assert_eq!(balancer.pick(now, &mut draw, &[1], &[1]), 1, "{name}: better again than not at all");
        }
    }
}

#[test]
fn a_fork_chooses_as_the_original_would_have() {
    for (name, policy) in every() {
        let mut balancer: Box<dyn Balancer> = Box::new(Ejecting::new(policy.at(&place(4)), &place(4).destinations));
        let mut draw = Draw::new(5);
        for i in 0..300 {
            let now = at(f64::from(i) * 0.01);
            let position = balancer.pick(now, &mut draw, &ALL, &[]);
            balancer.began(position, now);
            if i % 3 > 0 {
                balancer.ended(position, now, 0.01 + position as f32 * 0.01, Outcome::Success, None);
            }
            if i % 100 == 50 {
                let score = |p: usize| Some(Scored { score: p as f32, success: 1.0, measured_at: None });
                balancer.tick(now, Some(&ALL.map(score)));
            }
        }
        let mut copy = balancer.fork();
        let mut other = draw.clone();
        for i in 300..400 {
            let now = at(f64::from(i) * 0.01);
            let position = balancer.pick(now, &mut draw, &ALL, &[]);
            assert_eq!(position, copy.pick(now, &mut other, &ALL, &[]), "{name}");
            call(&mut *balancer, position, now, 0.02, Outcome::Success);
            call(&mut *copy, position, now, 0.02, Outcome::Success);
        }
    }
}

#[test]
fn round_robin_goes_in_turn_and_random_goes_anywhere() {
    assert_eq!(shares(&mut *Policy::RoundRobin.at(&place(4)), at(0.0), &ALL, 400), [0.25; 4]);
    assert!(shares(&mut *Policy::Random.at(&place(4)), at(0.0), &ALL, 4_000).iter().all(|s| (s - 0.25).abs() < 0.03));
}

#[test]
fn least_request_avoids_who_has_most_in_flight() {
    for (choices, of_the_busiest) in [(usize::MAX, 0.0), (2, 0.0), (1, 0.25)] {
        let mut balancer = Policy::LeastRequest(choices).at(&place(4));
        balancer.began(1, at(0.0));
        let share = shares(&mut *balancer, at(0.0), &ALL, 4_000)[1];
        assert!((share - of_the_busiest).abs() < 0.03, "{choices}: {share}");
    }
}

#[test]
fn peak_ewma_multiplies_its_estimate_by_what_is_pending() {
    let mut balancer = Policy::PeakEwma { choices: usize::MAX, decay_s: 10.0 }.at(&place(4));
    for (position, latency_s) in [(0, 0.035), (1, 0.050), (2, 0.2), (3, 0.2)] {
        call(&mut *balancer, position, at(1.0), latency_s, Outcome::Success);
    }
    assert_eq!(shares(&mut *balancer, at(1.0), &ALL, 50)[0], 1.0);
    balancer.began(0, at(1.0));
    assert_eq!(shares(&mut *balancer, at(1.0), &ALL, 50)[1], 1.0, "35 ms x 2 against 50 ms x 1");
    // The estimate of who is not asked decays, and a fast failure is no fast answer.
    for i in 0..4_000 {
        call(&mut *balancer, 1, at(1.0 + f64::from(i) * 0.01), 0.050, Outcome::Success);
    }
    assert_eq!(shares(&mut *balancer, at(41.0), &[1, 2], 50)[2], 1.0);
    call(&mut *balancer, 2, at(41.0), 0.2, Outcome::Success);
    call(&mut *balancer, 2, at(41.0), 0.001, Outcome::Failure);
    assert_eq!(shares(&mut *balancer, at(41.0), &[1, 2], 50)[1], 1.0);
}

#[test]
fn shortest_path_takes_the_cheapest_links_whatever_happens_on_them() {
    let mut balancer = Policy::ShortestPath.at(&place(4));
    call(&mut *balancer, 0, at(0.0), 10.0, Outcome::Success);
    let shares = shares(&mut *balancer, at(0.0), &ALL, 1_000);
    assert!((shares[0] - 0.5).abs() < 0.05 && (shares[1] - 0.5).abs() < 0.05, "{shares:?}");
}

#[test]
fn three_failures_in_a_row_eject_for_every_policy_alike_and_a_probe_brings_back() {
    for (name, policy) in every() {
        let place = place(4);
        let mut balancer = Ejecting::new(policy.at(&place), &place.destinations);
        let mut draw = Draw::new(9);
        let _ = balancer.pick(at(0.0), &mut draw, &ALL, &[]);
        for _ in 0..3 {
            call(&mut balancer, 0, at(0.0), 0.001, Outcome::Failure);
        }
        assert_eq!(shares(&mut balancer, at(1.0), &ALL, 100)[0], 0.0, "{name}");
        assert_eq!(shares(&mut balancer, at(5.1), &ALL, 100)[0], 0.01, "{name}: one probe");
        call(&mut balancer, 0, at(5.2), 0.001, Outcome::Success);
        balancer.pick(at(5.2), &mut draw, &ALL, &[]);
        assert!(balancer.healthy.contains(&0), "{name}");
    }
}

#[test]
fn where_most_are_ejected_all_are_used() {
    let place = place(4);
    let mut balancer = Ejecting::new(Policy::Random.at(&place), &place.destinations);
    for position in 0..3 {
        (0..3).for_each(|_| call(&mut balancer, position, at(0.0), 0.001, Outcome::Failure));
    }
    assert!(shares(&mut balancer, at(1.0), &ALL, 400).iter().all(|s| *s > 0.1));
}

fn scored(latencies_s: [f32; 4]) -> [Option<Scored>; 4] {
    latencies_s.map(|l| Some(Scored { score: -l.ln(), success: 1.0, measured_at: None }))
}

#[test]
fn the_products_pick_follows_scores_and_softmax_alone_draws_by_them() {
    let mut ours = Policy::Pathloom(PathloomRules::default()).at(&place(4));
    let softmax = PathloomRules { compare: Compare::Draw(1), ..PathloomRules::default() };
    let mut alone = Policy::Pathloom(softmax).at(&place(4));
    for balancer in [&mut ours, &mut alone] {
        let _ = shares(&mut **balancer, at(0.0), &ALL, 1);
        for second in 1..10 {
            balancer.tick(at(f64::from(second)), Some(&scored([0.01, 0.02, 0.02, 0.02])));
        }
    }
    assert!(shares(&mut *ours, at(9.0), &ALL, 1_000)[0] > 0.95);
    let share = shares(&mut *alone, at(9.0), &ALL, 10_000)[0];
    assert!((share - 0.4).abs() < 0.02, "{share}");
}

#[test]
fn without_scores_the_last_good_ones_steer_until_they_expire_and_then_peak_ewma() {
    let mut ours = Policy::Pathloom(PathloomRules::default()).at(&place(4));
    let _ = shares(&mut *ours, at(0.0), &ALL, 1);
    ours.tick(at(1.0), Some(&scored([0.001, 0.1, 0.1, 0.1])));
    (1..5).for_each(|s| ours.tick(at(1.0 + f64::from(s)), Some(&scored([0.001, 0.1, 0.1, 0.1]))));
    ours.tick(at(20.0), None);
    assert!(shares(&mut *ours, at(20.0), &ALL, 1_000)[0] > 0.9);
    // Peak EWMA knows nothing of the scores: it goes by what was measured.
    call(&mut *ours, 0, at(35.0), 0.5, Outcome::Success);
    (1..4).for_each(|p| call(&mut *ours, p, at(35.0), 0.01, Outcome::Success));
    ours.tick(at(36.0), None);
    assert!(shares(&mut *ours, at(36.0), &ALL, 1_000)[0] < 0.05);
}

#[test]
fn a_replica_that_joins_grows_into_its_share() {
    let mut ours =
        Policy::Pathloom(PathloomRules { compare: Compare::Draw(1), ..PathloomRules::default() }).at(&place(4));
    let _ = shares(&mut *ours, at(0.0), &[0, 1, 2], 1);
    ours.tick(at(1.0), Some(&scored([0.01; 4])));
    assert!(shares(&mut *ours, at(2.0), &ALL, 1_000)[3] < 0.05);
    (3..20).for_each(|s| ours.tick(at(f64::from(s)), Some(&scored([0.01; 4]))));
    let share = shares(&mut *ours, at(20.0), &ALL, 10_000)[3];
    assert!((share - 0.25).abs() < 0.03, "{share}");
}
