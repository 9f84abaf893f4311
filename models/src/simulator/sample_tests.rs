use super::family::{Family, HELD_BACK, trained_faults};
use super::faults::{Fault, Kind};
use super::load::Load;
use super::mesh::Mesh;
use super::sample::{Policies, Scenario, play, play_all};
use super::simple::Policy;
use super::telemetry::{Telemetry, View};
use super::topology::Topology;
use super::topology::deploy::{Plan, deploy};
use crate::data::Sample;
use crate::net::{FE, FN};
use crate::simulator::draw::Draw;
use crate::simulator::engine::{Engine, SECOND};
use crate::simulator::simple::everywhere;
use crate::simulator::truth::Trouble;
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use pathloom::links::Time;

fn shop(rate: f64) -> Mesh {
    deploy(&Topology::e_commerce().unwrap(), &Plan::plain(rate), &mut Draw::new(1))
}

fn quiet(mesh: Mesh, duration_s: u64) -> Scenario {
    Scenario {
        seed: 1,
        view: View::whole(&mesh),
        mesh,
        faults: Vec::new(),
        load: Load::Constant(0.7),
        policies: Policies::Same(Policy::RoundRobin),
        ejects_after_s: None,
        warm_up_s: 15,
        duration_s,
        between_s: (4, 8),
        forks: 0,
        fork_every: 1,
    }
}

/// A node's or edge's feature by its name.
fn column(names: &[&str], name: &str) -> usize {
    names.iter().position(|n| *n == name).unwrap()
}

/// Plays some seconds and returns the features at the end.
fn seen(mesh: &Mesh, view: View, faults: &[Fault], seconds: u64) -> super::telemetry::Seen {
    let balancers = everywhere(mesh, &Policy::RoundRobin);
    let mut engine = Engine::new(mesh, faults, &Load::Constant(1.0), balancers, Draw::new(3));
    let mut telemetry = Telemetry::new(mesh, view);
    let mut observation = telemetry.observe(Time(0));
    for second in 1..=seconds {
        engine.run(Time(second * SECOND), &mut telemetry);
        telemetry.second(engine.active());
        observation = telemetry.observe(Time(second * SECOND));
    }
    telemetry.features(&observation, engine.active()).unwrap()
}

fn bytes(samples: &[Sample]) -> Vec<u8> {
    let mut bytes = Vec::new();
    samples.iter().for_each(|s| s.write(&mut bytes).unwrap());
    bytes
}

#[test]
fn a_seed_gives_the_same_samples_to_the_byte_on_any_number_of_threads() {
    let one_by_one: Vec<Sample> =
        (3..6).flat_map(|seed| play(&Scenario::training(seed).unwrap().with_forks(1)).unwrap()).collect();
    let together = play_all(3..6, |seed| Ok(Scenario::training(seed)?.with_forks(1)), || ()).unwrap();
    assert!(bytes(&one_by_one).len() > 1_000);
    assert!(bytes(&one_by_one) == bytes(&together), "the same seeds, other bytes");
    let others = play_all(4..7, |seed| Ok(Scenario::training(seed)?.with_forks(1)), || ()).unwrap();
    assert!(bytes(&others) != bytes(&together), "other seeds, the same bytes");
}

#[test]
fn samples_are_whole() {
    for seed in 0..8 {
        for sample in play(&Scenario::training(seed).unwrap()).unwrap() {
            let f = &sample.features;
            assert_eq!(f.candidate_count(), sample.candidates.len());
            assert_eq!(f.node_count(), sample.node_load.len());
            assert_eq!(f.path_links.len(), sample.candidates.len(), "one link a path");
            assert!(f.edge_count() >= 1);
            assert!(sample.candidates.is_sorted_by_key(|c| c.group), "a route's candidates are together");
            for c in &sample.candidates {
                assert!(c.intrinsic_s.is_nan() || c.intrinsic_s > 0.0);
                assert!(c.past.communication_s > 0.0);
                assert_eq!(c.mean_s.is_finite(), c.answers >= 3);
                assert_eq!(c.p99_s.is_finite() && c.jitter_s.is_finite(), c.answers >= 20);
            }
        }
    }
}

#[test]
fn the_next_window_of_a_quiet_mesh_is_as_long_as_is_intrinsic() {
    // Little load and no skew: what is seen is what a call takes. Queueing still adds a little.
    let mut scenario = quiet(shop(600.0), 80);
    scenario.load = Load::Constant(0.15);
    let samples = play(&scenario).unwrap();
    let mut ratios: Vec<f32> = samples
        .iter()
        .flat_map(|s| &s.candidates)
        .filter(|c| c.answers >= 100)
        .map(|c| c.mean_s / c.intrinsic_s)
        .collect();
    ratios.sort_by(f32::total_cmp);
    let median = ratios[ratios.len() / 2];
    assert!((0.95..1.1).contains(&median), "{median} over {}", ratios.len());
    assert!(samples.iter().flat_map(|s| &s.candidates).all(|c| c.trouble == Trouble::None));
}

#[test]
fn forks_say_what_was_to_be_expected() {
    let mut scenario = quiet(shop(400.0), 40);
    (scenario.forks, scenario.fork_every) = (6, 2);
    let samples = play(&scenario).unwrap();
    let known = |s: &Sample| s.candidates.iter().any(|c| c.expected_mean_s.is_finite());
    let forked: Vec<bool> = samples.iter().map(known).collect();
    assert_eq!(forked, (0..samples.len()).map(|i| i % 2 == 0).collect::<Vec<_>>(), "each second sample");
    let mut off: Vec<f32> = samples
        .iter()
        .flat_map(|s| &s.candidates)
        .filter(|c| c.answers >= 100 && c.expected_mean_s.is_finite())
        .map(|c| (c.mean_s / c.expected_mean_s - 1.0).abs())
        .collect();
    off.sort_by(f32::total_cmp);
    assert!(off[off.len() / 2] < 0.1 && off[off.len() - 1] > 0.0, "near the expected, and not it");
}

#[test]
fn past_windows_are_those_before_and_labels_the_one_after() {
    // The inventory slows down tenfold at 40 s: the labels of a sample from then on show it, and its past does not.
    let mesh = shop(300.0);
    let inventory = mesh.services.iter().position(|s| &*s.name == "inventory").unwrap();
    let slow = Kind::SlowDependency { service: inventory, factor: 4.0 };
    let mut scenario = quiet(mesh, 60);
    scenario.load = Load::Constant(0.2);
    scenario.faults = vec![Fault { kind: slow, from_s: 40.0, until_s: 99.0 }];
    (scenario.warm_up_s, scenario.between_s) = (38, (1, 1));
    let samples = play(&scenario).unwrap();
    let sample = samples.iter().find(|s| s.tick == 40).unwrap();
    let hit: Vec<_> = sample.candidates.iter().filter(|c| c.trouble == Trouble::Gray && c.answers > 20).collect();
    assert!(!hit.is_empty());
    for c in hit {
        assert!(c.mean_s > 1.7 * c.past.mean_s[0], "{} after {}", c.mean_s, c.past.mean_s[0]);
        assert!((c.past.mean_s[0] / c.past.mean_s[2] - 1.0).abs() < 0.5, "{:?}", c.past);
        assert!(c.past.mean_s[4].is_nan(), "nothing was played fifty seconds ago");
    }
}

#[test]
fn what_others_share_comes_late_and_says_so() {
    let mesh = shop(300.0);
    let front = mesh.services[mesh.entries[0].service].replicas[0];
    let (now, late) = (View::of(&mesh, vec![front], 0), View::of(&mesh, vec![front], 3));
    // Ten seconds in, the authentication becomes much slower; two seconds later nobody who hears three seconds late knows.
    let service = mesh.services.iter().position(|s| &*s.name == "session-cache").unwrap();
    let slow = Fault { kind: Kind::SlowDependency { service, factor: 20.0 }, from_s: 10.0, until_s: 99.0 };
    let age = column(&EDGE_FEATURES, "age_s");
    let mean = column(&EDGE_FEATURES, "latency_ewma_s");
    let of = |view: &View, seconds| {
        let seen = seen(&mesh, view.clone(), &[slow], seconds);
        let mut found = Vec::new();
        for (edge, row) in seen.features.edge_features.chunks(FE).enumerate() {
            let called = seen.instances[seen.features.edges[edge] as usize];
            if mesh.instances[called].service == service {
                found.push((row[age], row[mean]));
            }
        }
        found
    };
    let (fresh, stale) = (of(&now, 12), of(&late, 12));
    assert_eq!(fresh.len(), stale.len());
    for ((fresh_age, fresh_mean), (stale_age, stale_mean)) in fresh.iter().zip(&stale) {
        assert_eq!((*fresh_age, *stale_age), (0.0, 3.0));
        assert!(*fresh_mean > 2.0 * stale_mean, "{fresh_mean} and {stale_mean}");
    }
    for ((_, fresh_mean), (_, later_mean)) in fresh.iter().zip(of(&late, 15)) {
        assert_eq!(*fresh_mean, later_mean, "three seconds later the same is known");
    }
}

#[test]
fn who_never_shares_is_unknown_and_so_is_a_silent_host() {
    let mesh = shop(300.0);
    let front = mesh.services[mesh.entries[0].service].replicas[0];
    let alone = View { shared: Default::default(), ..View::of(&mesh, vec![front], 0) };
    let found = seen(&mesh, alone.clone(), &[], 20);
    let own_links: usize = mesh.routes[front].iter().map(|r| r.pairs.len()).sum();
    assert_eq!(found.features.edge_count(), own_links, "nobody else's links");
    let response = column(&NODE_FEATURES, "response_mean_s");
    for (node, row) in found.features.nodes.chunks(FN).enumerate() {
        let called = mesh.routes[front]
            .iter()
            .flat_map(|r| &r.pairs)
            .any(|p| mesh.pairs[*p].destination == found.instances[node]);
        assert_eq!(row[response].is_finite(), called, "unknown stays unknown, not zero");
    }
    // A host that is silent from the start hides its callers' links from others, not from itself.
    let host = mesh.instances[front].host;
    let silent = [Fault { kind: Kind::Silent { host }, from_s: 0.0, until_s: 99.0 }];
    let own = seen(&mesh, View::of(&mesh, vec![front], 0), &silent, 20);
    assert!(own.features.edge_features.chunks(FE).any(|row| row[0].is_finite()));
    let other = (0..mesh.instances.len()).find(|i| mesh.instances[*i].host != host && !mesh.routes[*i].is_empty());
    let others = seen(&mesh, View::of(&mesh, vec![other.unwrap()], 0), &silent, 20);
    let age = column(&EDGE_FEATURES, "age_s");
    let edges = others.features.edge_count();
    for (edge, row) in others.features.edge_features.chunks(FE).enumerate() {
        let caller = others.instances[others.features.edges[edges + edge] as usize];
        if mesh.instances[caller].host == host {
            assert!(row[age].is_nan() || row[age] > 15.0, "heard {} s ago", row[age]);
        }
    }
}

#[test]
fn hosts_zones_and_reports_reach_the_features_where_they_are_known() {
    let mesh = shop(300.0);
    let column_of = |seen: &super::telemetry::Seen, name: &str| -> Vec<f32> {
        seen.features.nodes.chunks(FN).map(|row| row[column(&NODE_FEATURES, name)]).collect()
    };
    let known = seen(&mesh, View::whole(&mesh), &[], 20);
    let neighbours = column_of(&known, "neighbours");
    for (node, instance) in known.instances.iter().enumerate() {
        let host = mesh.instances[*instance].host;
        let others = mesh.instances.iter().filter(|i| i.host == host).count() - 1;
        assert_eq!(neighbours[node], others as f32);
    }
    assert!(column_of(&known, "neighbour_cpu_utilization").iter().any(|v| v.is_finite()));
    let cpu = column_of(&known, "cpu_utilization");
    assert!(cpu.iter().filter(|v| v.is_finite()).count() > mesh.instances.len() / 2);
    assert!(cpu.iter().all(|v| v.is_nan() || (0.0..=1.0).contains(v)));

    let blind = View { knows_hosts: false, knows_zones: false, ..View::whole(&mesh) };
    let unknown = seen(&mesh, blind, &[], 20);
    assert!(column_of(&unknown, "neighbours").iter().all(|v| v.is_nan()));
    let zone = column(&EDGE_FEATURES, "same_zone");
    assert!(unknown.features.edge_features.chunks(FE).all(|row| row[zone].is_nan()));
    assert!(known.features.edge_features.chunks(FE).all(|row| row[zone] == 1.0), "one zone");
}

#[test]
fn instances_that_have_not_joined_are_no_candidates() {
    let mut mesh = shop(300.0);
    let inventory = mesh.services.iter().position(|s| &*s.name == "inventory").unwrap();
    let late = mesh.services[inventory].replicas[1];
    mesh.instances[late].alive_s = Some((15.0, f64::INFINITY));
    let candidates = |seconds| {
        let seen = seen(&mesh, View::whole(&mesh), &[], seconds);
        seen.pairs.iter().filter(|p| mesh.pairs[**p].destination == late).count()
    };
    assert_eq!(candidates(10), 0);
    assert!(candidates(17) > 0);
}

#[test]
fn training_holds_kinds_of_faults_and_applications_back() {
    assert!(HELD_BACK.iter().all(|kind| !trained_faults().contains(kind)));
    let mut families: Vec<Family> = Vec::new();
    for seed in 0..400 {
        families.push(Family::training(seed));
        let scenario = Scenario::training(seed).unwrap();
        assert!(scenario.faults.iter().all(|f| !HELD_BACK.contains(&f.kind.name())));
    }
    let share = |f: Family| families.iter().filter(|g| **g == f).count() as f64 / 400.0;
    assert!((0.38..0.52).contains(&share(Family::SocialNetwork)));
    assert!((0.1..0.2).contains(&share(Family::ECommerce)));
    assert!(share(Family::Random) > 0.15 && share(Family::Tiny) > 0.1);
    assert_eq!(share(Family::Hotel), 0.0);
}
