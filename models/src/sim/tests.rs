use super::faults::Kind;
use super::mesh::{Policy, Work};
use super::*;

fn answers(mesh: &Mesh, faults: &[Fault], seconds: u64, seed: u64) -> Vec<f32> {
    let view = View { own: vec![0], seen: vec![0], watches_unused: true, knows_all: true, knows_zones: true };
    let mut telemetry = Telemetry::new(mesh, &view);
    let mut engine = Engine::new(mesh, Draw::new(seed));
    engine.active = Active::at(mesh, faults, 0);
    engine.run(seconds * SECOND, &mut telemetry);
    engine.answered.iter().map(|(_, latency)| *latency).collect()
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
}

#[test]
fn one_exponential_server_waits_as_the_formula_says() {
    // M/M/1: mean time in the system is 1 / (mu - lambda).
    let mesh = Mesh::single(Work::Exponential { mean_s: 0.010 }, 1, 60.0);
    let seen = mean(&answers(&mesh, &[], 400, 1));
    assert!((seen / 0.025 - 1.0).abs() < 0.06, "{seen}");
}

#[test]
fn four_exponential_servers_wait_as_erlang_c_says() {
    // M/M/4 at 80% load: the wait is C(4, 3.2) / (4 mu - lambda) with Erlang's C = 0.5964.
    let mesh = Mesh::single(Work::Exponential { mean_s: 0.010 }, 4, 320.0);
    let seen = mean(&answers(&mesh, &[], 150, 2));
    let expected = 0.010 + 0.5964 / (400.0 - 320.0);
    assert!((seen / expected - 1.0).abs() < 0.08, "{seen} instead of {expected}");
}

#[test]
fn a_gray_server_takes_as_many_times_as_long() {
    let mesh = Mesh::single(Work::LogNormal { mean_s: 0.010, sigma: 0.5 }, 64, 20.0);
    let fault = Fault { kind: Kind::Slow { instance: 1, factor: 5.0 }, from: 0, until: 1 };
    let seen = mean(&answers(&mesh, &[fault], 60, 3));
    assert!((seen / 0.050 - 1.0).abs() < 0.08, "{seen}");
}

#[test]
fn a_crashed_server_gives_failures_and_no_latency() {
    let mesh = Mesh::single(Work::LogNormal { mean_s: 0.010, sigma: 0.5 }, 4, 20.0);
    let fault = Fault { kind: Kind::Crash { instance: 1 }, from: 0, until: 1 };
    assert!(answers(&mesh, &[fault], 10, 4).is_empty());
}

#[test]
fn the_intrinsic_latency_is_what_an_idle_mesh_takes() {
    // One request a second at a random mesh: nobody waits, so what is observed is the intrinsic latency.
    let mut mesh = Mesh::random(&mut Draw::new(11));
    let total: f64 = mesh.entry_rates.iter().sum();
    mesh.entry_rates.iter_mut().for_each(|r| *r *= 3.0 / total);
    for service in mesh.services.iter_mut().skip(1) {
        service.workers = 1_000;
    }
    mesh.routes.iter_mut().flatten().for_each(|r| r.policy = Policy::RoundRobin);
    let view = View { own: vec![], seen: vec![], watches_unused: false, knows_all: true, knows_zones: true };
    let mut telemetry = Telemetry::new(&mesh, &view);
    let mut engine = Engine::new(&mesh, Draw::new(5));
    engine.run(4_000 * SECOND, &mut telemetry);
    let expected = truth::intrinsic(&mesh, &engine.active, &engine.picks);
    let mut seen: Vec<Vec<f32>> = vec![Vec::new(); mesh.pairs.len()];
    engine.answered.iter().for_each(|(pair, latency)| seen[*pair as usize].push(*latency));
    let mut compared = 0;
    for (pair, latencies) in seen.iter().enumerate().filter(|(_, l)| l.len() > 500) {
        let ratio = mean(latencies) / expected[pair];
        assert!((0.85..1.15).contains(&ratio), "pair {pair}: {ratio}");
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn a_seed_gives_the_same_samples_to_the_byte() {
    let bytes = |seed: u64| {
        let mut file = Vec::new();
        for sample in simulate(seed).unwrap() {
            sample.write(&mut file).unwrap();
        }
        file
    };
    let first = bytes(3);
    assert!(first.len() > 1_000);
    assert!(first == bytes(3), "the same seed, other bytes");
    assert!(first != bytes(4), "another seed, the same bytes");
}

#[test]
fn samples_are_whole() {
    for seed in 0..6 {
        for sample in simulate(seed).unwrap() {
            let f = &sample.features;
            assert_eq!(f.candidate_count(), sample.candidates.len());
            assert_eq!(f.node_count(), sample.node_load.len());
            assert_eq!(f.path_links.len(), sample.candidates.len(), "one link a path");
            assert!(f.edge_count() >= 1);
            assert!(sample.candidates.iter().all(|c| c.intrinsic_s.is_nan() || c.intrinsic_s > 0.0));
            assert!(sample.candidates.iter().any(|c| c.mean_s.is_finite()), "seed {seed} tick {}", sample.tick);
        }
    }
}
