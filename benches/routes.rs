//! Finding the route of a request, among routes for a host each and among path prefixes of one host. The last route is
//! asked for: the first match wins, so it is the dearest.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom_benches::fast::{Asked, Rules, routes};
use std::hint::black_box;

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for rules in [Rules::Hosts, Rules::Prefixes] {
        for count in [1, 100, 10_000] {
            let (table, asked) = (routes(count, rules), Asked::new(count - 1, rules));
            group.bench_function(BenchmarkId::new(format!("{rules:?}"), count), |b| {
                b.iter(|| table.find(black_box(&asked.head())).map(|rule| rule.index));
            });
        }
    }
}

criterion_group!(benches, find);
criterion_main!(benches);
