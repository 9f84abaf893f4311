//! Tests of this room: files that are refused, engines that agree, and engines that misbehave.

mod contract;
mod engines;
mod worker;

use super::*;
use crate::graph::features::{EDGE_FEATURES, NODE_FEATURES};

/// A mesh of `n` nodes with about `degree` links each and a path for every link, all from a fixed sequence.
fn mesh(n: usize, degree: usize, unknown: f32) -> Features {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut links = Vec::new();
    for caller in 0..n {
        for step in 1..=degree {
            let called = (caller * 7 + step * 13 + 1) % n;
            if called != caller {
                links.push((caller as i64, called as i64));
            }
        }
    }
    links.sort_unstable();
    links.dedup();
    let mut row = |width: usize| -> Vec<f32> {
        (0..width).map(|_| if next() < unknown { f32::NAN } else { next() * 0.2 }).collect()
    };
    Features {
        nodes: (0..n).flat_map(|_| row(NODE_FEATURES.len())).collect(),
        edge_features: (0..links.len()).flat_map(|_| row(EDGE_FEATURES.len())).collect(),
        edges: links.iter().map(|l| l.1).chain(links.iter().map(|l| l.0)).collect(),
        path_offsets: (0..=links.len() as i64).collect(),
        path_links: (0..links.len() as i64).collect(),
        shape: 0,
    }
}
