//! The pick among 2 to 1,000 endpoints by each policy: what every request pays.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::config::Policy;
use pathloom::links::{Links, Time};
use pathloom_benches::fast;
use rand::{SeedableRng, rngs::SmallRng};
use std::hint::black_box;

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for policy in [Policy::Model, Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        for endpoints in [2, 10, 64, 100, 1000] {
            let (links, mut rng) = (Links::new(1), SmallRng::seed_from_u64(1));
            let table = fast::table(&links, endpoints, policy);
            group.bench_with_input(BenchmarkId::new(format!("{policy:?}"), endpoints), &table, |b, table| {
                b.iter(|| table.pick(black_box(Time(1_000_000)), false, &mut rng, &[]));
            });
        }
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
