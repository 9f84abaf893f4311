//! A whole tick, from the links' counters to a published generation: without a model (everything but the inference), and
//! with the built-in one on each engine. 1,000 endpoints are called by five workloads: 5,000 links.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::config::Engine;
use pathloom_benches::mesh::{Mesh, no_model, runtime, scorer};
use std::time::{Duration, Instant};

fn tick(c: &mut Criterion) {
    let Ok(runtime) = runtime() else { return eprintln!("tick: skipped: the system refuses a runtime") };
    let mut group = c.benchmark_group("tick");
    group.sample_size(10);
    let cases = [
        ("without a model", None),
        ("onnxruntime", Some(Engine::OnnxRuntime)),
        ("embedded engine", Some(Engine::Embedded)),
    ];
    for (name, engine) in cases {
        for nodes in [100, 1_000] {
            let scorer = engine.map_or_else(no_model, scorer);
            if let Err(error) = runtime.block_on(scorer.ready()) {
                eprintln!("tick, {name}: skipped: {error}");
                continue;
            }
            if let (Some(Engine::OnnxRuntime), Some(running)) = (engine, scorer.status().engine)
                && running.engine != name
            {
                eprintln!("tick, {name}: skipped: {}", running.reason);
                continue;
            }
            let mut mesh = Mesh::new(nodes, scorer);
            group.bench_function(BenchmarkId::new(name, nodes), |b| {
                b.iter_custom(|times| {
                    (0..times).fold(Duration::ZERO, |all, _| {
                        mesh.second();
                        let started = Instant::now();
                        runtime.block_on(mesh.tick());
                        all + started.elapsed()
                    })
                });
            });
        }
    }
}

criterion_group!(benches, tick);
criterion_main!(benches);
