//! A small discrete-event simulation of a mesh, to make a model's training data.
//!
//! A run draws a mesh (`mesh`), what goes wrong in it (`faults`), how its load changes and who sees what
//! (`telemetry::View`), plays it for a minute (`engine`) and takes a sample every few seconds: the features that a
//! sidecar would have at that moment, made by the sidecar's own `links` and `graph`, and the labels that only a
//! simulator knows (`truth`). A seed gives the same samples, to the byte.
//!
//! What is left out, so that a figure from here is not taken for more than it is: retries, connection pools, processor
//! sharing, garbage collection, correlated requests, caches, clocks that differ, and a mesh that shares statistics late.

pub mod draw;
pub mod engine;
pub mod faults;
pub mod mesh;
pub mod telemetry;
pub mod truth;

use crate::data::{Candidate, Sample};
use crate::{Result, WINDOW_S};
use draw::Draw;
use engine::{Engine, SECOND};
use faults::{Active, Fault};
use mesh::Mesh;
use telemetry::{Telemetry, View};

/// How many seconds a run plays.
const TICKS: u64 = 60;
/// The first tick with a sample: young statistics are part of life, but not the very first second.
const FIRST: u64 = 3;
/// The fade of a pair's recent picks, a tick.
const PICKS_KEEP: f64 = 0.8;

/// A sample whose window has not ended.
#[derive(Debug)]
struct Pending {
    tick: u64,
    sample: Sample,
    pairs: Vec<usize>,
    nodes: Vec<usize>,
}

/// Plays one run and returns its samples.
///
/// # Errors
/// When the graph would be too large.
pub fn simulate(seed: u64) -> Result<Vec<Sample>> {
    let mut draw = Draw::new(seed);
    let mesh = Mesh::random(&mut draw);
    let view = View::random(&mesh, &mut draw);
    let faults = faults::random(&mesh, TICKS, &mut draw);
    let mut loads = vec![(0, draw.uniform(0.4, 1.1))];
    for _ in 0..draw.whole(0, 3) {
        loads.push((draw.whole(1, TICKS as usize) as u64, draw.uniform(0.3, 1.5)));
    }
    play(seed, &mesh, &view, &faults, &loads, draw)
}

fn play(
    seed: u64,
    mesh: &Mesh,
    view: &View,
    faults: &[Fault],
    loads: &[(u64, f64)],
    mut draw: Draw,
) -> Result<Vec<Sample>> {
    let mut engine = Engine::new(mesh, Draw::new(seed ^ 0x9e37_79b9_7f4a_7c15));
    let mut telemetry = Telemetry::new(mesh, view);
    let window = u64::from(WINDOW_S);
    let (mut pending, mut samples): (Vec<Pending>, Vec<Sample>) = (Vec::new(), Vec::new());
    let mut answered: Vec<Vec<(u32, f32)>> = Vec::new();
    let mut arrived: Vec<Vec<u32>> = Vec::new();
    let mut next = FIRST + draw.whole(0, 2) as u64;
    for tick in 1..=TICKS {
        engine.active = Active::at(mesh, faults, tick - 1);
        let load = loads.iter().filter(|(from, _)| *from < tick).max_by_key(|(from, _)| *from);
        engine.load = load.map_or(1.0, |(_, load)| *load);
        engine.picks.iter_mut().for_each(|p| *p *= PICKS_KEEP);
        let now = tick * SECOND;
        engine.run(now, &mut telemetry);
        telemetry.report(mesh, &engine.servers, now, &mut draw);
        answered.push(std::mem::take(&mut engine.answered));
        arrived.push(engine.servers.iter().map(|s| s.arrived).collect());
        for server in &mut engine.servers {
            (server.arrived, server.failed, server.worked) = (0, 0, 0);
        }

        let observation = telemetry.observe(now);
        if tick == next && tick + window <= TICKS {
            // What holds from now on: a fault that begins at this tick is in the labels and in no statistic yet.
            let active = Active::at(mesh, faults, tick);
            let (features, pairs, nodes) = telemetry.features(mesh, view, &observation)?;
            let now_s = truth::intrinsic(mesh, &active, &engine.picks);
            let trouble = truth::trouble(mesh, &active, &engine.picks, &now_s);
            let candidates = pairs.iter().map(|pair| candidate(mesh, &active, *pair, now_s[*pair], trouble[*pair]));
            let sample = Sample { run: seed, tick, candidates: candidates.collect(), node_load: Vec::new(), features };
            pending.push(Pending { tick, sample, pairs, nodes });
            next += draw.whole(2, 4) as u64;
        }
        let (ended, open) = pending.into_iter().partition::<Vec<_>, _>(|p| p.tick + window == tick);
        pending = open;
        for Pending { tick, mut sample, pairs, nodes } in ended {
            let ticks = tick as usize..(tick + window) as usize;
            let mut latencies: Vec<Vec<f32>> = vec![Vec::new(); mesh.pairs.len()];
            for (pair, latency) in answered.iter().take(ticks.end).skip(ticks.start).flatten() {
                latencies[*pair as usize].push(*latency);
            }
            for (candidate, pair) in sample.candidates.iter_mut().zip(&pairs) {
                let seen = truth::window(&latencies[*pair]);
                (candidate.mean_s, candidate.p99_s, candidate.jitter_s) = (seen.mean_s, seen.p99_s, seen.jitter_s);
            }
            let load = |i: &usize| -> f32 {
                if mesh.instances.get(*i).is_none_or(|n| n.service == 0) {
                    return f32::NAN;
                }
                let sum: u32 = arrived.iter().take(ticks.end).skip(ticks.start).filter_map(|a| a.get(*i)).sum();
                sum as f32 / WINDOW_S as f32
            };
            sample.node_load = nodes.iter().map(load).collect();
            samples.push(sample);
        }
    }
    Ok(samples)
}

fn candidate(mesh: &Mesh, active: &Active, pair: usize, intrinsic_s: f64, trouble: truth::Trouble) -> Candidate {
    let of = mesh.pairs[pair];
    let intrinsic_s = if active.crashed[of.destination] { f32::NAN } else { intrinsic_s as f32 };
    let group = (of.source as u32) << 8 | mesh.instances[of.destination].service as u32;
    Candidate { trouble, intrinsic_s, ..Candidate::unknown(group) }
}

#[cfg(test)]
mod tests;
