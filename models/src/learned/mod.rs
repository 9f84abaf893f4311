//! Learned rivals: what others would train in the network's place, with the same features, labels, loss and steps.
//!
//! They predict logarithms of latencies directly, as their papers have it, without anchors and gates; their inputs are
//! normalised like the network's, with the same columns that say what is known, so that none of them loses by its
//! inputs. `gcn` and `gat` know nodes only: what is seen on links enters as the mean over a node's outgoing and incoming
//! links. `mlp` sees a link's own features and those of both its ends, and no other part of the mesh.

pub mod gat;
pub mod gcn;
pub mod mlp;
pub mod network;

pub use network::{Network, predict};

use crate::Result;
use crate::net::{
    ANSWERS, EDGE_EPS, FE, FN, LN_LATENCY, NODE_EPS, Outputs, answers, bounded, features_specs, known, normal,
};
use crate::ops::{Inputs, Ops};
use crate::weights::{Spec, Start};

/// The width of a node's state.
const HIDDEN: usize = 64;
/// The width of a node's inputs: its features, its outgoing and its incoming links', and what of all that is known.
const INPUTS: usize = 2 * FN + 4 * FE;

/// Where the four answers start: 20 ms, three times that, half of that.
const START_LN_S: [f32; ANSWERS] = [-3.9, -3.9, -2.8, -4.6];

/// The weights that turn `width` columns of a link into its answers, and a node's state into its load.
fn head_specs(width: usize) -> Vec<Spec> {
    let mut specs = features_specs();
    let mut add = |name: &str, shape, start| specs.push(Spec::new(name, shape, start, true));
    add("head.in.w", (width, HIDDEN), Start::Random(1.0));
    add("head.in.b", (1, HIDDEN), Start::Constant(0.0));
    add("head.out.w", (HIDDEN, ANSWERS), Start::Random(0.1));
    add("head.out.b", (1, ANSWERS), Start::Values(START_LN_S.to_vec()));
    add("load.w", (HIDDEN, 1), Start::Random(0.1));
    add("load.b", (1, 1), Start::Constant(1.0));
    specs
}

/// `[N, INPUTS]`: all that is known of each node, its links' features as means.
fn node_inputs<O: Ops>(o: &O, inputs: &Inputs<O>) -> Result<O::Value> {
    let nodes = known(o, &inputs.nodes, &NODE_EPS)?;
    let edges = known(o, &inputs.edges, &EDGE_EPS)?;
    let one = o.constant(&[1.0])?;
    let none = o.mul(&o.columns(&edges.mask, 0, 1)?, &o.constant(&[0.0])?)?;
    let of_edge = o.concat(&[normal(o, &edges, "edge")?, edges.mask, o.add(&none, &one)?])?;
    let mut all = vec![normal(o, &nodes, "node")?, nodes.mask];
    for index in [&inputs.caller, &inputs.called] {
        let sum = o.scatter_sum(&of_edge, 2 * FE + 1, index)?;
        let count = o.clip(&o.columns(&sum, 2 * FE, 1)?, 1.0, f32::MAX)?;
        all.push(o.div(&o.columns(&sum, 0, 2 * FE)?, &count)?);
    }
    o.concat(&all)
}

/// Answers of what is known of each link of a path, and of each node's state.
fn head<O: Ops>(o: &O, inputs: &Inputs<O>, of_link: &O::Value, h: &O::Value, share: f32) -> Result<Outputs<O::Value>> {
    let hidden = o.dropout(&o.relu(&o.linear(of_link, "head.in")?)?, share)?;
    let logs = o.clip(&o.linear(&hidden, "head.out")?, LN_LATENCY.0, LN_LATENCY.1)?;
    let load = o.exp(&bounded(o, &o.linear(h, "load")?, 14.0)?)?;
    let node_load = o.relu(&o.sub(&load, &o.constant(&[1.0])?)?)?;
    let attention = o.mul(&o.columns(&o.known(&inputs.edges)?, 0, 1)?, &o.constant(&[0.0])?)?;
    answers(o, inputs, &o.exp(&logs)?, node_load, attention)
}

/// `[L, 2 * width]`: the states of both ends of each link of a path.
fn ends<O: Ops>(o: &O, inputs: &Inputs<O>, h: &O::Value) -> Result<O::Value> {
    let called = o.gather_index(&inputs.called, &inputs.path_links)?;
    let caller = o.gather_index(&inputs.caller, &inputs.path_links)?;
    o.concat(&[o.gather(h, &called)?, o.gather(h, &caller)?])
}
