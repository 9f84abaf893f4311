//! Building and publishing a generation while 16 threads pick, and what one of them pays meanwhile.
//!
//! With fewer cores than threads a figure holds the waiting for a core, too: compare `quiet` with `publishing`.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use pathloom::balance::Published;
use pathloom::links::Time;
use pathloom::route::{ClusterId, WorkloadId};
use pathloom_benches::mesh::{Mesh, no_model};
use rand::{SeedableRng, rngs::SmallRng};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Scope, scope};

const READERS: u64 = 16;
const ENDPOINTS: usize = 1_000;

/// A request's view of the table: the current generation, then a pick.
fn reader(published: &Published, seed: u64) -> impl FnMut() -> Option<usize> + use<> {
    let (mut cached, mut rng) = (published.reader(), SmallRng::seed_from_u64(seed));
    move || {
        let table = cached.load().table(ClusterId(0), WorkloadId(0))?;
        table.pick(Time(2_000_000_000), false, &mut rng, &[]).map(|choice| choice.index)
    }
}

fn readers<'s>(scope: &'s Scope<'s, '_>, published: &Published, stop: &'s AtomicBool, count: u64) {
    for seed in 0..count {
        let mut pick = reader(published, seed);
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                std::hint::black_box(pick());
            }
        });
    }
}

fn publish(c: &mut Criterion) {
    let mut mesh = Mesh::new(ENDPOINTS, no_model());
    let mut group = c.benchmark_group("publish");
    group.sample_size(10);
    group.bench_function("alone", |b| b.iter(|| mesh.control.publish_first()));
    let (published, stop) = (mesh.published.clone(), AtomicBool::new(false));
    scope(|scope| {
        readers(scope, &published, &stop, READERS);
        group.bench_function("while 16 pick", |b| b.iter(|| mesh.control.publish_first()));
        stop.store(true, Relaxed);
    });
    group.finish();

    let mut group = c.benchmark_group("pick of 16 at once");
    for (name, publishing) in [("quiet", false), ("publishing", true)] {
        let stop = AtomicBool::new(false);
        let (mesh, published) = (&mut mesh, &published);
        scope(|scope| {
            readers(scope, published, &stop, READERS - 1);
            if publishing {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        mesh.control.publish_first();
                    }
                });
            }
            let mut pick = reader(published, READERS);
            group.bench_function(name, |b| b.iter(&mut pick));
            stop.store(true, Relaxed);
        });
    }
}

criterion_group!(benches, publish);
criterion_main!(benches);
