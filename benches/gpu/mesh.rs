//! Meshes of any size, made at once: no slow loop stands behind them.

use pathloom::graph::Features;
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// A mesh in which each node calls as many others, and each link is a candidate. A tenth of all numbers is unknown.
pub fn mesh(nodes: usize, links: usize, shape: u64) -> Features {
    let mut rng = SmallRng::seed_from_u64(shape);
    let degree = links / nodes;
    let mut called = Vec::with_capacity(links);
    let mut caller = Vec::with_capacity(links);
    for node in 0..nodes {
        // Steps that no two of which meet, sorted as the contract wants its edges.
        let mut others: Vec<i64> = (1..=degree).map(|step| ((node + step * step * 7) % nodes) as i64).collect();
        others.sort_unstable();
        caller.extend(std::iter::repeat_n(node as i64, others.len()));
        called.extend(others);
    }
    let count = called.len();
    let mut row = |width: usize, rows: usize| -> Vec<f32> {
        let value = |_| if rng.random_bool(0.1) { f32::NAN } else { rng.random_range(0.001..0.2) };
        (0..width * rows).map(value).collect()
    };
    Features {
        nodes: row(NODE_FEATURES.len(), nodes),
        edge_features: row(EDGE_FEATURES.len(), count),
        edges: [called, caller].concat(),
        path_offsets: (0..=count as i64).collect(),
        path_links: (0..count as i64).collect(),
        shape,
    }
}
