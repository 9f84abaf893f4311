//! From an endpoint's failure to a published generation without it: the bell, the slow loop's wake-up, the new tables.
//!
//! The loop runs on a thread of its own, as in the sidecar. 1,000 endpoints are called by five workloads: 5,000
//! candidates. Nothing waits for a tick or an inference: failures are heard between ticks (`10`, `1000`) and while the model
//! is at work (`1000, during inferences`, which take a second each and begin at each change).

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pathloom::balance::{Generation, Health, Published};
use pathloom::links::{NodeKey, Time};
use pathloom::route::{ClusterId, WorkloadId};
use pathloom::scorer::Scorer;
use pathloom_benches::mesh::{Mesh, no_model, runtime, slow_model};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn health(generation: &Generation, endpoint: &NodeKey) -> Option<Health> {
    let table = generation.table(ClusterId(0), WorkloadId(0))?;
    table.candidates().iter().find(|c| c.endpoint.key == *endpoint).map(|c| c.health)
}

/// Waits until the current generation shows the endpoint in this state.
fn until(published: &Published, endpoint: &NodeKey, wanted: Health) {
    let mut reader = published.reader();
    let mut seen: Option<Arc<Generation>> = None;
    loop {
        let current = reader.load();
        if seen.as_ref().is_none_or(|last| last.id != current.id) {
            if health(current, endpoint) == Some(wanted) {
                return;
            }
            seen = Some(current.clone());
        }
        std::thread::yield_now();
    }
}

fn recovery(c: &mut Criterion) {
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10);
    let cases = [
        ("10", 10, no_model as fn() -> Scorer),
        ("1000", 1_000, no_model),
        ("1000, during inferences", 1_000, || slow_model(Duration::from_secs(1))),
    ];
    for (name, endpoints, scorer) in cases {
        let mut mesh = Mesh::new(endpoints, scorer());
        mesh.second();
        let (clock, bell, published, links) =
            (mesh.clock(), mesh.bell.clone(), mesh.published.clone(), mesh.links.clone());
        let Some(endpoint) = published.load().clusters.first().and_then(|c| {
            let table = c.tables.first()?;
            Some(table.candidates().first()?.endpoint.key.clone())
        }) else {
            continue;
        };
        let node = links.node(&endpoint, Time(0));
        let (quit, asked) = tokio::sync::oneshot::channel::<()>();
        let running = std::thread::spawn(move || {
            let Ok(runtime) = runtime() else { return };
            let Mesh { control, reload: _reload, .. } = mesh;
            runtime.block_on(async {
                tokio::select! { () = control.run() => (), _ = asked => () }
            });
        });
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_custom(|times| {
                (0..times).fold(Duration::ZERO, |all, _| {
                    let started = Instant::now();
                    (0..3).for_each(|_| {
                        node.failed();
                    });
                    bell.ring();
                    until(&published, &endpoint, Health::Ejected);
                    let took = started.elapsed();
                    // Its ejection passes, and a probe of it succeeds.
                    for state in [Health::Probation, Health::Healthy] {
                        clock.fetch_add(400_000_000_000, SeqCst);
                        bell.ring();
                        until(&published, &endpoint, state);
                        node.succeeded();
                    }
                    all + took
                })
            });
        });
        drop(quit);
        if running.join().is_err() {
            eprintln!("recovery: the slow loop crashed");
        }
    }
}

criterion_group!(benches, recovery);
criterion_main!(benches);
