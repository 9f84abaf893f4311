//! Invariant 13: observed shares of 100,000 requests match the weights, within a chi-square bound.
//!
//! The generation must stay the same for the whole count, so the tick is made as rare as a configuration allows after
//! the weights have become unequal, and nothing may trigger another.

use crate::{catalog, sidecar};
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::{counting::CountingEndpoint, list};
use pathloom_integration::load::flood;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::cell::Cell;
use std::time::Duration;

const REQUESTS: usize = 100_000;
const CONNECTIONS: usize = 32;
/// With three degrees of freedom a larger sum comes up once in a hundred million runs.
const BOUND: f64 = 40.0;

fn weighted(endpoints: &[CountingEndpoint], weights: &[u32]) -> String {
    let list: Vec<_> =
        endpoints.iter().zip(weights).map(|(e, w)| format!("{{ address: '{}', weight: {w} }}", e.address())).collect();
    format!("[{}]", list.join(", "))
}

const FROZEN: &str = "model: { engine: embedded, tick: 1h, compare: 1, guards: { slow_start: 0s, expire_after: 3h }, \
                      triggers: { latency_factor: 1000000, error_rate: 100% } }\n";

/// A flood opens hundreds of connections at once. Where an endpoint, on a busy machine, accepts them too late, the kernel
/// lets some wait for a second and more, which is neither a failure here nor a reason to try elsewhere or to eject.
const PATIENT: &str = "timeouts: { connect: 1m }, ejection: { consecutive_failures: 0, success_rate: 0 }";

async fn weights(sidecar: &Sidecar, endpoints: &[CountingEndpoint]) -> Vec<f64> {
    let candidates = sidecar.candidates("catalog").await;
    endpoints.iter().map(|e| candidates[&e.address()]["weight"].as_f64().expect("a weight")).collect()
}

/// Counts what each endpoint gets of so many requests under one generation, and gives its weights, too.
async fn count(version: Version, sidecar: &Sidecar, endpoints: &[CountingEndpoint]) -> (Vec<f64>, Vec<f64>) {
    // On a busy machine the last of the ticks before the tick became rare may still come.
    for _ in 0..3 {
        let generation = sidecar.generation().await;
        let weights = weights(sidecar, endpoints).await;
        let before: Vec<u64> = endpoints.iter().map(CountingEndpoint::requests).collect();
        let sending = flood(version, sidecar.address("in"), CONNECTIONS, REQUESTS);
        let right = tokio::time::timeout(Duration::from_secs(120), sending).await.expect("the requests are answered");
        assert_eq!(right, REQUESTS);
        if sidecar.generation().await == generation {
            return (weights, endpoints.iter().zip(before).map(|(e, b)| (e.requests() - b) as f64).collect());
        }
    }
    panic!("the weights change under each count");
}

/// Compares what each endpoint gets with the weights of the generation in force.
async fn compare(what: &str, version: Version, sidecar: &Sidecar, endpoints: &[CountingEndpoint]) {
    let (weights, got) = count(version, sidecar, endpoints).await;
    assert_eq!(got.iter().sum::<f64>(), REQUESTS as f64, "{what}: each request went to one endpoint");
    let chi_square: f64 = got
        .iter()
        .zip(&weights)
        .map(|(got, weight)| {
            let expected = weight * REQUESTS as f64;
            (got - expected).powi(2) / expected
        })
        .sum();
    eprintln!("{what}, {version:?}: weights {weights:.3?}, got {got:?}, chi-square {chi_square:.1}");
    assert!(chi_square < BOUND, "{what}, {version:?}: weights {weights:?}, got {got:?}, chi-square {chi_square}");
}

async fn fleet() -> Vec<CountingEndpoint> {
    let mut endpoints = Vec::new();
    for _ in 0..4 {
        endpoints.push(CountingEndpoint::start().await);
    }
    endpoints
}

async fn classical(policy: &str) {
    let endpoints = fleet().await;
    let yaml = catalog(&weighted(&endpoints, &[1, 2, 3, 4]), &format!("policy: {policy}, {PATIENT}")) + FROZEN;
    let sidecar = sidecar(yaml).start().await;
    let now = weights(&sidecar, &endpoints).await;
    assert!(now.iter().zip([0.1, 0.2, 0.3, 0.4]).all(|(a, b)| (a - b).abs() < 1e-3), "{policy}: {now:?}");
    for version in VERSIONS {
        compare(policy, version, &sidecar, &endpoints).await;
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_shares_match_the_weights() {
    classical("random").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_shares_match_the_weights() {
    classical("round_robin").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_by_the_models_weights_match_them() {
    let endpoints = fleet().await;
    let patient = format!("policy: model, {PATIENT}");
    let of = |model: &str| catalog(&list(endpoints.iter().map(CountingEndpoint::address)), &patient) + model;
    let quick = FROZEN.replace("tick: 1h", "tick: 100ms").replace("expire_after: 3h", "expire_after: 30s");
    let mut sidecar = sidecar(of(&quick)).start().await;
    // So far apart that what a busy machine adds to each does not level them.
    for (endpoint, ms) in endpoints.iter().zip([2, 8, 32, 64]) {
        endpoint.slow(Duration::from_millis(ms));
    }
    wait::eventually("unequal weights", || async {
        flood(Version::Http1, sidecar.address("in"), 8, 400).await;
        let weights = weights(&sidecar, &endpoints).await;
        let (low, high) = (weights.iter().copied().fold(1.0, f64::min), weights.iter().copied().fold(0.0, f64::max));
        if high > 2.0 * low { Ok(()) } else { Err(format!("{weights:?}")) }
    })
    .await;
    let before = sidecar.generation().await;
    sidecar.reload_and_wait(&of(FROZEN)).await;
    // The reload makes a generation of its own; the quick ticks before it may still make one or two.
    let last = Cell::new(before);
    wait::eventually("the weights to stand still", || async {
        // Several of the quick ticks: none of them may be left.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = sidecar.generation().await;
        if last.replace(now) == now && now > before { Ok(()) } else { Err(now) }
    })
    .await;
    endpoints.iter().for_each(|e| e.slow(Duration::ZERO));
    for version in VERSIONS {
        compare("model", version, &sidecar, &endpoints).await;
    }
    sidecar.assert_no_panic();
}
