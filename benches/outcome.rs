//! What one request writes: link statistics, in-flight counts and metrics.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use pathloom_benches::fast::Written;
use std::hint::black_box;

fn outcome(c: &mut Criterion) {
    let mut written = Written::default();
    c.bench_function("outcome", |b| b.iter(|| written.request(black_box(0.012))));
}

criterion_group!(benches, outcome);
criterion_main!(benches);
