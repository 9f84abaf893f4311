//! One inference of the built-in model on each engine: the engine's own time, without the way to its thread and back.
//!
//! ONNX Runtime is looked for where the sidecar looks (`make` sets `ORT_DYLIB_PATH`); where it is not found the reason
//! is printed, and only the embedded engine is measured.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::config::Engine;
use pathloom_benches::mesh::{Mesh, no_model, runtime, scorer};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn inference(c: &mut Criterion) {
    let Ok(runtime) = runtime() else { return eprintln!("inference: skipped: the system refuses a runtime") };
    let mut group = c.benchmark_group("inference");
    group.sample_size(10);
    for engine in [Engine::Embedded, Engine::OnnxRuntime] {
        let scorer = scorer(engine);
        if let Err(error) = runtime.block_on(scorer.ready()) {
            eprintln!("inference on {engine:?}: skipped: {error}");
            continue;
        }
        let Some(running) = scorer.status().engine else { continue };
        if engine == Engine::OnnxRuntime && running.engine != "onnxruntime" {
            eprintln!("inference on {engine:?}: skipped: {}", running.reason);
            continue;
        }
        for nodes in [10, 100, 1_000, 10_000] {
            let mut mesh = Mesh::new(nodes, no_model());
            runtime.block_on(mesh.tick());
            let mut features = mesh.features();
            group.bench_function(BenchmarkId::new(running.engine, nodes), |b| {
                b.iter_custom(|times| {
                    (0..times).fold(Duration::ZERO, |all, _| {
                        let scored = runtime.block_on(scorer.score(std::mem::take(&mut features), PATIENCE));
                        features = scored.features;
                        all + scored.took
                    })
                });
            });
        }
    }
}

criterion_group!(benches, inference);
criterion_main!(benches);
