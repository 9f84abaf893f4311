//! The tick's own maths: what was seen on the links, the graph and its features, and from scores to weights.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::balance::Generation;
use pathloom::control::weights::{self, Limits, Wanted};
use pathloom::graph::{Features, Graph, GraphBuilder, Instance};
use pathloom::links::{Observation, Time};
use pathloom_benches::mesh::{Mesh, no_model};
use std::hint::black_box;

const NODES: [usize; 4] = [10, 100, 1_000, 10_000];

fn build(generation: &Generation, observation: &Observation) -> Option<Graph> {
    let mut builder = GraphBuilder::default();
    for cluster in &generation.clusters {
        for candidate in cluster.tables.iter().flat_map(|t| t.candidates()) {
            let endpoint = &candidate.endpoint;
            let (service, zone, host) = (cluster.service.clone(), endpoint.zone.clone(), endpoint.host.clone());
            builder.instance(Instance { key: endpoint.key.clone(), service, zone, host });
            builder.candidate(vec![candidate.link.key.clone()]);
        }
    }
    builder.build(observation).ok()
}

fn features(c: &mut Criterion) {
    let mut group = c.benchmark_group("features");
    group.sample_size(10);
    for nodes in NODES {
        let mut mesh = Mesh::new(nodes, no_model());
        let (links, generation, mut now) = (mesh.links.clone(), mesh.published.load(), 2_000_000_000);
        let mut observe = || {
            now += 1_000_000_000;
            links.observe(Time(now))
        };
        group.bench_function(BenchmarkId::new("observe", nodes), |b| {
            b.iter_batched(|| mesh.second(), |()| observe(), BatchSize::PerIteration);
        });
        let observation = observe();
        group.bench_function(BenchmarkId::new("graph", nodes), |b| b.iter(|| build(&generation, &observation)));
        let (graph, mut features) = (build(&generation, &observation).unwrap_or_default(), Features::default());
        group.bench_function(BenchmarkId::new("fill", nodes), |b| b.iter(|| features.fill(black_box(&graph))));
    }
}

fn softmax(c: &mut Criterion) {
    let mut group = c.benchmark_group("softmax");
    let limits = Limits { temperature: 1.0, floor: 0.02, max_step: 0.2, dead_band: 0.02 };
    for nodes in NODES {
        let wanted = |i: usize| Wanted {
            score: Some(4.0 + (i % 17) as f32 * 0.1),
            takes_requests: true,
            configured: 1,
            grown: 1.0,
            last: Some(1.0 / nodes as f32),
        };
        let candidates: Vec<Wanted> = (0..nodes).map(wanted).collect();
        let intrinsic: Vec<Option<f32>> = candidates.iter().map(|c| c.score.map(|s| (-s).exp())).collect();
        group.bench_function(BenchmarkId::from_parameter(nodes), |b| {
            b.iter(|| {
                let guarded = weights::guarded(black_box(&candidates), &limits);
                let weights: Vec<f32> = guarded.iter().map(|g| g.weight).collect();
                weights::priors(&weights, &weights::biases(&candidates), &intrinsic, weights::UNKNOWN_PRIOR_S)
            });
        });
    }
}

criterion_group!(benches, features, softmax);
criterion_main!(benches);
