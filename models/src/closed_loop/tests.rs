//! Runs: the same arrivals for all policies, the same figures for the same seed, the ladder, and what the arms are.

use super::arms::{arms, tuned, vary};
use super::compare::{play, summarise};
use super::policies::Policy;
use super::run::{run, watch};
use super::scenarios::{TROUBLE, about, names, scenario};
use super::scores::{Scorer, Source};
use std::collections::BTreeSet;

fn oracle() -> Scorer {
    Scorer::new(Source::Oracle, None)
}

fn arm(name: &str) -> Policy {
    arms().into_iter().find(|a| a.name == name).unwrap().policy
}

#[test]
fn every_policy_meets_the_same_arrivals() {
    let scenario = scenario("rare-gray", 7).unwrap();
    let arrivals = |policy: &Policy, scorer: Option<&Scorer>| watch(&scenario, policy, scorer, 7).unwrap().0.entered;
    let first = arrivals(&Policy::RoundRobin, None);
    assert!(first.len() > 1_000);
    for name in ["least-request", "prequal", "weighted-round-robin"] {
        assert!(arrivals(&arm(name), None) == first, "{name}");
    }
    assert!(arrivals(&arm("pathloom-oracle"), Some(&oracle())) == first);
}

#[test]
fn a_seed_gives_the_same_figures_and_another_seed_others() {
    let figures = |seed| run(&scenario("rare-gray", seed).unwrap(), &arm("pathloom"), Some(&oracle()), seed).unwrap();
    let (first, again, other) = (figures(1), figures(1), figures(2));
    assert_eq!(format!("{first:?}"), format!("{again:?}"));
    assert_ne!(first.p99_ms, other.p99_ms);
}

#[test]
fn how_many_runs_go_on_at_once_changes_no_figure() {
    let some: Vec<_> = arms()
        .into_iter()
        .filter(|a| ["random", "peak-ewma-all", "pathloom-oracle"].contains(&a.name.as_str()))
        .collect();
    let figures = |jobs| format!("{:?}", play("rare-gray", &some, None, &[3, 4], jobs, |_, _| ()).unwrap());
    assert_eq!(figures(1), figures(3));
}

#[test]
fn a_gray_replica_loses_its_share_and_gets_it_back() {
    let scenario = scenario("gray", 5).unwrap();
    let figures = run(&scenario, &arm("pathloom-oracle"), Some(&oracle()), 5).unwrap();
    assert!(figures.share < 0.2, "{figures:?}");
    assert!(figures.divert_s <= 3.0 && figures.recover_s <= 8.0, "{figures:?}");
    let random = run(&scenario, &Policy::Random, None, 5).unwrap();
    assert!(random.shares[..TROUBLE.0 as usize].iter().all(|s| (s - 1.0).abs() < 0.5));
    assert!(random.p99_ms > 5.0 * figures.p99_ms);
}

#[test]
fn a_summary_compares_with_the_best_rival_and_the_best_blind_one() {
    let names = ["random", "least-request", "prequal", "pathloom-oracle"];
    let some: Vec<_> = arms().into_iter().filter(|a| names.contains(&a.name.as_str())).collect();
    let runs = play("rare-mixed", &some, None, &[1, 2], 1, |_, _| ()).unwrap();
    let compared = summarise(&scenario("rare-mixed", 1).unwrap(), &some, &runs);
    assert_eq!(compared.best_classical.as_deref(), Some("prequal"));
    assert_eq!(compared.best_blind.as_deref(), Some("least-request"));
    assert!(compared.policies["prequal"].p99_vs_best_classical.is_none(), "not against itself");
    let ours = &compared.policies["pathloom-oracle"];
    assert!(ours.p99_vs_best_blind.unwrap().high < 0.0, "{ours:?}");
}

#[test]
fn scenarios_and_arms_have_names_of_their_own_and_every_scenario_can_be_made() {
    let unique = |names: Vec<String>| names.len() == names.iter().collect::<BTreeSet<_>>().len();
    assert!(unique(names().into_iter().map(String::from).collect()));
    assert!(unique(arms().into_iter().map(|a| a.name).collect()));
    assert!(unique(tuned().into_iter().map(|a| a.name).collect()));
    for name in names() {
        let made = scenario(name, 1).unwrap();
        assert!(about(name).is_some() && made.watched.iter().all(|i| *i < made.mesh.instances.len()), "{name}");
        for pair in &made.mesh.pairs {
            assert!(pair.source < made.mesh.instances.len() && pair.destination < made.mesh.instances.len(), "{name}");
        }
    }
    assert!(scenario("no-such-thing", 1).is_err());
}

#[test]
fn values_to_try_make_arms_of_the_products_pick_and_leave_rivals_alone() {
    let some: Vec<_> = arms().into_iter().filter(|a| ["random", "pathloom"].contains(&a.name.as_str())).collect();
    let varied = vary(some.clone(), "tau=1,30").unwrap();
    let names: Vec<&str> = varied.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["random", "pathloom tau=1", "pathloom tau=30"]);
    for wrong in ["tau", "speed=1", "tau=fast"] {
        assert!(vary(some.clone(), wrong).is_err(), "{wrong}");
    }
}
