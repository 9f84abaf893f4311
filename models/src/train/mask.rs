//! What is made unknown in training, so that a model knows how to do without it.
//!
//! Production lacks features in patterns, not at random: a link that nobody used; a node that does not report; a mesh
//! without zones, hosts or reports at all; and windows instead of moments, as a recording has them (no tenth
//! percentile, nothing in flight, ages of half a window or more).

use crate::data::Sample;
use crate::net::{FE, FN};
use crate::simulator::draw::Draw;

/// Columns by their place in the contract.
mod edge {
    pub const P50: usize = 1;
    pub const P90: usize = 2;
    pub const EWMA: usize = 4;
    pub const CALLS: usize = 6;
    pub const IN_FLIGHT: usize = 8;
    pub const SAMPLES: usize = 9;
    pub const AGE: usize = 10;
    pub const SAME_ZONE: usize = 11;
    pub const P10: usize = 12;
    pub const BASELINE: usize = 13;
}

/// The node columns that instances report, those that callers see, and those of the host's other instances.
const REPORTED: std::ops::Range<usize> = 0..6;
const SEEN: [usize; 6] = [6, 7, 8, 9, 10, 12];
const HOST: std::ops::Range<usize> = 13..16;

/// A copy of a sample in which more is unknown.
#[must_use]
pub fn masked(sample: &Sample, draw: &mut Draw) -> Sample {
    let mut sample = sample.clone();
    let f = &mut sample.features;
    if draw.chance(0.3) {
        let share = draw.uniform(0.1, 0.7);
        let watched = draw.chance(0.7);
        for row in f.edge_features.chunks_exact_mut(FE) {
            if draw.chance(share) {
                unused(row, watched);
            }
        }
    }
    if draw.chance(0.15) {
        recorded(&mut f.edge_features, &mut f.nodes, draw);
    }
    if draw.chance(0.12) {
        let share = draw.uniform(0.1, 1.0);
        for row in f.nodes.chunks_exact_mut(FN) {
            if draw.chance(share) {
                forget(row, SEEN.into_iter());
            }
        }
    }
    for columns in [REPORTED, HOST] {
        if draw.chance(0.1) {
            f.nodes.chunks_exact_mut(FN).for_each(|row| forget(row, columns.clone()));
        }
    }
    if draw.chance(0.04) {
        f.nodes.fill(f32::NAN);
    }
    if draw.chance(0.1) {
        let column = draw.whole(0, FE - 1);
        f.edge_features.chunks_exact_mut(FE).for_each(|row| forget(row, [column].into_iter()));
    }
    if draw.chance(0.1) {
        let column = draw.whole(0, FN - 1);
        f.nodes.chunks_exact_mut(FN).for_each(|row| forget(row, [column].into_iter()));
    }
    sample
}

/// As a recording of windows has it.
fn recorded(edges: &mut [f32], nodes: &mut [f32], draw: &mut Draw) {
    let no_median = draw.chance(0.2);
    let no_zone = draw.chance(0.5);
    let no_history = draw.chance(0.2);
    let age = draw.uniform(0.0, 10.0) as f32;
    for row in edges.chunks_exact_mut(FE) {
        forget(row, [edge::P10, edge::IN_FLIGHT].into_iter());
        if no_median {
            forget(row, [edge::P50, edge::P90].into_iter());
        }
        if no_zone {
            forget(row, [edge::SAME_ZONE].into_iter());
        }
        if no_history {
            forget(row, [edge::EWMA, edge::BASELINE].into_iter());
        }
        if let Some(slot) = row.get_mut(edge::AGE).filter(|v| !v.is_nan()) {
            *slot = slot.max(age);
        }
    }
    for row in nodes.chunks_exact_mut(FN) {
        forget(row, HOST.chain([2, 3, 4, 5]));
    }
}

fn forget(row: &mut [f32], columns: impl Iterator<Item = usize>) {
    for column in columns {
        if let Some(slot) = row.get_mut(column) {
            *slot = f32::NAN;
        }
    }
}

/// Makes an edge's features those of a link that nobody used; `watched` if it is known that nobody did.
pub fn unused(row: &mut [f32], watched: bool) {
    let same_zone = row.get(edge::SAME_ZONE).copied().unwrap_or(f32::NAN);
    row.fill(f32::NAN);
    let calls = if watched { 0.0 } else { f32::NAN };
    let left = [(edge::CALLS, calls), (edge::IN_FLIGHT, 0.0), (edge::SAMPLES, 0.0), (edge::SAME_ZONE, same_zone)];
    for (column, value) in left {
        if let Some(slot) = row.get_mut(column) {
            *slot = value;
        }
    }
}
