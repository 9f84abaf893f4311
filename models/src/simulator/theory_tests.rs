//! The engine against queueing theory: each mean lies in its own 99% interval, by batch means.

use super::bench::{Seen, agrees, play, random_engine, servers};
use super::engine::SECOND;
use super::mesh::{Shape, Work, WorkPart};
use pathloom::links::Time;

#[test]
fn one_exponential_worker_responds_as_m_m_1_says() {
    // 1 / (mu - lambda).
    let mesh = servers(Work::one(0.010, Shape::Exponential), 1, 1.0, 1, 70.0);
    agrees("M/M/1", &play(&mesh, &[], 1_500, 1), 1.0 / 30.0);
}

#[test]
fn four_exponential_workers_respond_as_m_m_c_says() {
    // At 80% load the wait is C(4, 3.2) / (4 mu - lambda) with Erlang's C = 0.5964.
    let mesh = servers(Work::one(0.010, Shape::Exponential), 4, 4.0, 1, 320.0);
    agrees("M/M/4", &play(&mesh, &[], 1_000, 2), 0.010 + 0.5964 / 80.0);
}

#[test]
fn first_in_first_out_waits_as_pollaczek_and_khinchine_say() {
    // The wait is lambda E[S^2] / 2 (1 - rho).
    let mixed = Work {
        parts: vec![
            WorkPart { share: 0.9, mean_s: 0.004, shape: Shape::LogNormal(0.5) },
            WorkPart { share: 0.1, mean_s: 0.030, shape: Shape::LogNormal(0.3) },
        ],
    };
    let works = [
        ("log-normal", Work::log_normal(0.006, 0.8)),
        ("constant", Work::one(0.006, Shape::Constant)),
        ("mixed", mixed),
    ];
    for (name, work) in works {
        let (mean, square) = (work.mean_s(), work.square_s2());
        let mesh = servers(work, 1, 1.0, 1, 100.0);
        agrees(name, &play(&mesh, &[], 1_200, 3), mean + 100.0 * square / (2.0 * (1.0 - 100.0 * mean)));
    }
}

#[test]
fn shared_processors_respond_alike_whatever_the_distribution() {
    // M/G/1 processor sharing: E[S] / (1 - rho), insensitive to the rest.
    for (shape, seed) in [(Shape::Constant, 4), (Shape::Exponential, 5), (Shape::LogNormal(1.3), 6)] {
        let mesh = servers(Work::one(0.010, shape), usize::MAX, 1.0, 1, 60.0);
        agrees("M/G/1-PS", &play(&mesh, &[], 2_000, seed), 0.010 / 0.4);
    }
}

#[test]
fn several_shared_cores_respond_as_m_m_c_says_whatever_the_distribution() {
    // As many in the system as in M/M/3 at 80%: C(3, 2.4) = 0.6472.
    let mesh = servers(Work::log_normal(0.010, 1.0), usize::MAX, 3.0, 1, 240.0);
    agrees("M/G/3-PS", &play(&mesh, &[], 1_500, 7), 0.010 + 0.6472 / 60.0);
}

#[test]
fn as_many_are_inside_as_little_says() {
    let mesh = servers(Work::log_normal(0.010, 0.7), usize::MAX, 2.0, 1, 150.0);
    let mut seen = Seen::default();
    let mut engine = random_engine(&mesh, &[], 1.0, 8);
    engine.run(Time(600 * SECOND), &mut seen);
    let counters = engine.take_counters(1);
    let (inside, rate) = (counters.occupied_s / 600.0, f64::from(counters.arrived) / 600.0);
    let response = seen.ended.iter().map(|e| f64::from(e.2)).sum::<f64>() / seen.ended.len() as f64;
    assert!((inside / (rate * response) - 1.0).abs() < 1e-3, "{inside} inside, {rate}/s x {response} s");
    assert!((counters.busy_s / 600.0 / 1.5 - 1.0).abs() < 0.02, "work done: {}", counters.busy_s / 600.0);
}
