//! The pick among 2 to 1,000 endpoints by each policy, and the record of an outcome: what every request pays.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::balance::{Candidate, Endpoint, EndpointId, Health, Table, TableOptions};
use pathloom::config::{Compare, Policy};
use pathloom::links::{LinkKey, Links, NodeKey, Outcome, Time};
use pathloom::observe::Traffic;
use rand::{SeedableRng, rngs::SmallRng};
use std::hint::black_box;
use std::sync::Arc;

fn table(links: &Links, endpoints: u32, policy: Policy) -> Table {
    let source = NodeKey::new("frontend@local");
    let candidates = (0..endpoints).map(|i| {
        let key = NodeKey::new(&format!("10.0.{}.{}:80", i / 256, i % 256));
        let link = links.link(&LinkKey::new(&source, &key), Time(0));
        link.record(0, Time(0), 0.010, Outcome::Success, 0.010, 3.0);
        Candidate {
            link,
            node: links.node(&key, Time(0)),
            endpoint: Arc::new(Endpoint {
                id: EndpointId(u64::from(i)),
                key,
                address: ([10, 0, (i / 256) as u8, (i % 256) as u8], 80).into(),
                zone: "".into(),
                weight: 1,
                metadata: Default::default(),
            }),
            weight: 1.0 / endpoints as f32,
            prior_s: 0.010,
            measured_at: None,
            success: 1.0,
            bias: 1.0,
            health: Health::Healthy,
            score: None,
            predicted: None,
            reason: String::new(),
        }
    });
    let options = TableOptions { policy, compare: Compare::Auto, tau_s: 3.0, explore: 0.02 };
    Table::new(candidates.collect(), false, options, Arc::new(Traffic::new(1)))
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for policy in [Policy::Model, Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        for endpoints in [2, 10, 100, 1000] {
            let (links, mut rng) = (Links::new(1), SmallRng::seed_from_u64(1));
            let table = table(&links, endpoints, policy);
            group.bench_with_input(BenchmarkId::new(format!("{policy:?}"), endpoints), &table, |b, table| {
                b.iter(|| table.pick(black_box(Time(1_000_000)), false, &mut rng, &[]));
            });
        }
    }
}

fn record(c: &mut Criterion) {
    let links = Links::new(1);
    let link = links.link(&LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")), Time(0));
    let mut now = 0;
    c.bench_function("record an outcome", |b| {
        b.iter(|| {
            now += 50_000;
            link.begin(0, Time(now));
            link.record(0, Time(now), black_box(0.012), Outcome::Success, 0.010, 3.0);
            link.end(0, Time(now));
        });
    });
}

criterion_group!(benches, pick, record);
criterion_main!(benches);
