//! The network of contract 1: edge-aware attention over the mesh, and answers as corrections of what was seen.
//!
//! **Anchor and correction.** Nothing is predicted from nothing. Each link has an anchor, the logarithm of the latency
//! that is known of it: its own, else that of the called node over all its callers, else that of the caller's other
//! links, those to alike nodes foremost, else a learned constant. The network only adds a bounded correction, so weights that
//! learned nothing still predict what was observed, and a strange input can be wrong by a bounded factor at most.
//!
//! **Layers.** h is `[N, HIDDEN]`, e is `[E, EDGE]` (made once from an edge's features and both its ends). For the edge
//! from caller i to called node j, in each of `LAYERS` layers:
//! ```text
//! w_ij  = exp(clip(leaky_relu(q_i + k_j + a . e_ij), -CLAMP, CLAMP))         q, k, a: learned; one number each
//! agg_i = sum_j w_ij (W2 h_j | e_ij) / sum_j w_ij                            zero for a node that calls nobody
//! h_i'  = h_i + relu(W1 h_i + b + agg_i[..HIDDEN] + U agg_i[HIDDEN..])
//! ```
//! This is attention with `a` split over the concatenation, so that `[W1 | W2 | 1 | k | q]` is one matrix product per
//! layer and the softmax's denominator is one more column of the same sum. The logits are clamped instead of having
//! their maximum subtracted: exp(CLAMP) is far from overflow, and one pass over the edges is saved.
//! U acts on the sum because it is linear: that moves a product from E rows to N rows.
//!
//! **Alike.** A link that nobody knows is most like the caller's links to other replicas of the same service, and the
//! inputs do not name services. So each called node has `ALIKE` positive numbers phi, learned from its features (how
//! many replicas its service has, what it reports), and another link j of the same caller counts with weight
//! `phi_d . phi_j`. That is linear attention (Katharopoulos et al., 2020): the sums over j are made once for each caller.
//!
//! **Paths.** Latencies of a path's links add: intrinsic and mean as they are, the distances of p99 from the mean and
//! the jitters as independent spreads do, by the root of the sum of squares. A link into a relay counts its own
//! leg only. These sums are fixed, not learned, so paths need no training data of their own.
//!
//! Unknown (NaN) is a value of its own: each column comes with a column that says whether it is known. All
//! normalisation is here. Outputs are finite for every input, infinities included: all inputs are clipped.

use crate::Result;
use crate::ops::{Inputs, Ops};
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};

/// The width of a node's state.
pub const HIDDEN: usize = 64;
/// The width of an edge's embedding.
pub const EDGE: usize = 24;
/// How many layers: a node hears of trouble that many calls downstream.
pub const LAYERS: usize = 4;
/// How many numbers say which nodes are alike.
pub const ALIKE: usize = 8;
/// The hidden width of the answers.
pub const READ: usize = 64;
/// The second hidden width of the answers.
pub const READ2: usize = 32;
/// The hidden width of the load's answer.
pub const LOAD: usize = 16;
/// Columns that an edge has beyond its features and their being known.
pub const EDGE_EXTRA: usize = 3;
/// The corrections: intrinsic, mean, p99, jitter.
pub const ANSWERS: usize = 4;

/// How many features a node has.
pub const FN: usize = NODE_FEATURES.len();
/// How many features an edge has.
pub const FE: usize = EDGE_FEATURES.len();

/// Attention logits lie within this.
const CLAMP: f32 = 10.0;
/// The logarithms of the numbers that say which nodes are alike lie within this.
const ALIKE_CLAMP: f32 = 4.0;
/// The slope of the leaky relu in attention logits, as in the graph attention paper (Velickovic et al., 2018).
const SLOPE: f32 = 0.2;
/// The farthest that a correction goes: e^4, a factor of 55.
const REACH: f32 = 4.0;
/// The farthest that the load's correction goes.
const LOAD_REACH: f32 = 8.0;
/// No input counts beyond this.
const LARGEST: f32 = 1e9;
/// Latencies in seconds stay within these, as logarithms: about 1 us and 1,100 s.
const LN_LATENCY: (f32, f32) = (-14.0, 7.0);

/// Added to each node column before its logarithm: about the smallest difference that matters.
pub(crate) const NODE_EPS: [f32; FN] =
    [0.1, 1.0, 0.1, 0.1, 0.01, 0.1, 0.5, 0.1, 1e-5, 1e-5, 0.01, 1.0, 1e-5, 1.0, 0.1, 0.1];
/// The same for edges.
pub(crate) const EDGE_EPS: [f32; FE] = [1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-6, 0.1, 0.01, 0.5, 0.5, 0.1, 1.0, 1e-5, 1e-5];

/// Columns by their place in the contract.
mod column {
    pub const NODE_REPORTED_RPS: usize = 3;
    pub const NODE_CALLS: usize = 7;
    pub const NODE_MEAN: usize = 8;
    pub const MEAN: usize = 0;
    pub const P50: usize = 1;
    pub const P99: usize = 3;
    pub const EWMA: usize = 4;
    pub const JITTER: usize = 5;
}

/// What the network says; the names are the contract's.
#[derive(Debug, Clone)]
pub struct Outputs<V> {
    /// `[C, 1]`, minus the logarithm of the path's intrinsic latency in seconds.
    pub score: V,
    /// `[C, 1]`, seconds.
    pub latency_mean_s: V,
    /// `[C, 1]`, seconds.
    pub latency_p99_s: V,
    /// `[C, 1]`, seconds.
    pub jitter_s: V,
    /// `[N, 1]`, requests a second.
    pub node_load: V,
    /// `[E, 1]`, of the last layer.
    pub attention: V,
}

/// What is known of a matrix of features.
struct Known<V> {
    /// 1 or 0.
    mask: V,
    /// Logarithms, 0 where unknown.
    logs: V,
    /// Normalised logarithms, 0 where unknown.
    normal: V,
    /// The values, 0 where unknown.
    raw: V,
}

/// Runs the network.
///
/// # Errors
/// When an operation fails, such as a weight that is missing or of the wrong shape.
pub fn forward<O: Ops>(o: &O, inputs: &Inputs<O>) -> Result<Outputs<O::Value>> {
    let nodes = known(o, &inputs.nodes, &NODE_EPS, "node")?;
    let edges = known(o, &inputs.edges, &EDGE_EPS, "edge")?;
    let start = o.relu(&o.linear(&o.concat(&[nodes.normal.clone(), nodes.mask.clone()])?, "node.in")?)?;
    let ends = o.split(&o.matmul(&start, "edge.ends")?, &[EDGE, EDGE, ALIKE])?;
    let [of_called, of_caller, alike] = triple(ends)?;
    let alike = o.exp(&o.clip(&alike, -ALIKE_CLAMP, ALIKE_CLAMP)?)?;
    let anchors = anchors(o, inputs, &nodes, &edges, &alike)?;
    let own = o.linear(&o.concat(&[edges.normal.clone(), edges.mask.clone(), anchors.extra.clone()])?, "edge.in")?;
    let own = o.add(&own, &o.gather(&of_called, &inputs.called)?)?;
    let e = o.relu(&o.add(&own, &o.gather(&of_caller, &inputs.caller)?)?)?;
    let edge_logits = o.split(&o.matmul(&e, "edge.attention")?, &[1; LAYERS])?;

    let mut h = start;
    let mut attention = None;
    for (layer, edge_logit) in edge_logits.iter().enumerate() {
        let parts = o.split(&o.linear(&h, &format!("layer{layer}.nodes"))?, &[HIDDEN, HIDDEN + 1, 1, 1])?;
        let [own, message, key, query] = quad(parts)?;
        let ends = o.add(&o.gather(&query, &inputs.caller)?, &o.gather(&key, &inputs.called)?)?;
        let logit = o.leaky_relu(&o.add(&ends, edge_logit)?, SLOPE)?;
        let weight = o.exp(&o.clip(&logit, -CLAMP, CLAMP)?)?;
        let sent = o.concat(&[o.gather(&message, &inputs.called)?, e.clone()])?;
        let sum = o.scatter_sum(&o.mul(&sent, &weight)?, HIDDEN + 1 + EDGE, &inputs.caller)?;
        let [from_nodes, total, from_edges] = triple(o.split(&sum, &[HIDDEN, 1, EDGE])?)?;
        // Any real total is at least exp(-CLAMP) = 4.5e-5, so this only keeps nodes without calls from dividing by 0.
        let total = o.clip(&total, 1e-6, f32::MAX)?;
        let from_edges = o.matmul(&o.div(&from_edges, &total)?, &format!("layer{layer}.edges"))?;
        let heard = o.add(&o.div(&from_nodes, &total)?, &from_edges)?;
        h = o.add(&h, &o.relu(&o.add(&own, &heard)?)?)?;
        if layer + 1 == LAYERS {
            attention = Some(o.div(&weight, &o.gather(&total, &inputs.caller)?)?);
        }
    }
    let attention = attention.ok_or_else(|| crate::Error::Format("a network without layers".into()))?;

    let parts = o.split(&o.linear(&h, "read.nodes")?, &[READ, READ, LOAD])?;
    let [read_called, read_caller, read_load] = triple(parts)?;
    let node_load = load(o, &nodes, &read_load)?;

    let called = o.gather_index(&inputs.called, &inputs.path_links)?;
    let caller = o.gather_index(&inputs.caller, &inputs.path_links)?;
    let of_edge = o.matmul(&o.gather(&e, &inputs.path_links)?, "read.edges")?;
    let of_ends = o.add(&o.gather(&read_called, &called)?, &o.gather(&read_caller, &caller)?)?;
    let read = o.relu(&o.linear(&o.relu(&o.add(&of_edge, &of_ends)?)?, "read.hidden")?)?;
    let correction = bounded(o, &o.linear(&read, "read.out")?, REACH)?;
    let logs = o.add(&o.gather(&anchors.answers, &inputs.path_links)?, &correction)?;
    let seconds = o.exp(&o.clip(&logs, LN_LATENCY.0, LN_LATENCY.1)?)?;
    let [intrinsic, mean, p99, jitter] = quad(o.split(&seconds, &[1; ANSWERS])?)?;
    let beyond = o.relu(&o.sub(&p99, &mean)?)?;
    let terms = o.concat(&[intrinsic, mean, o.mul(&beyond, &beyond)?, o.mul(&jitter, &jitter)?])?;
    let sums = o.scatter_sum(&terms, ANSWERS, &inputs.path_of_link)?;
    // A tenth of a microsecond, squared: keeps the root's slope finite where a spread is zero.
    let sums = o.clip(&sums, 1e-14, f32::MAX)?;
    let [intrinsic, mean, beyond, jitter] = quad(o.split(&sums, &[1; ANSWERS])?)?;
    Ok(Outputs {
        score: o.mul(&o.ln(&intrinsic)?, &o.constant(&[-1.0])?)?,
        latency_p99_s: o.add(&mean, &o.sqrt(&beyond)?)?,
        latency_mean_s: mean,
        jitter_s: o.sqrt(&jitter)?,
        node_load,
        attention,
    })
}

/// Normalises features: `(ln(x + eps) - mean) / deviation` where known, 0 where not.
fn known<O: Ops>(o: &O, x: &O::Value, eps: &[f32], name: &str) -> Result<Known<O::Value>> {
    let mask = o.known(x)?;
    let raw = o.clip(&o.or_zero(x)?, 0.0, LARGEST)?;
    let logs = o.mul(&o.ln(&o.add(&raw, &o.constant(eps)?)?)?, &mask)?;
    let centre = o.mul(&mask, &o.weight(&format!("{name}.centre"))?)?;
    let normal = o.mul(&o.sub(&logs, &centre)?, &o.weight(&format!("{name}.scale"))?)?;
    Ok(Known { mask, logs, normal, raw })
}

/// What the corrections are added to.
struct Anchors<V> {
    /// `[E, ANSWERS]`, logarithms of seconds.
    answers: V,
    /// `[E, EDGE_EXTRA]`, for the network to see: the anchor, what the caller's other links say, and whose it is.
    extra: V,
}

fn anchors<O: Ops>(
    o: &O,
    inputs: &Inputs<O>,
    nodes: &Known<O::Value>,
    edges: &Known<O::Value>,
    alike: &O::Value,
) -> Result<Anchors<O::Value>> {
    let (log, has) = (o.split(&edges.logs, &[1; FE])?, o.split(&edges.mask, &[1; FE])?);
    let (node_log, node_has) = (o.split(&nodes.logs, &[1; FN])?, o.split(&nodes.mask, &[1; FN])?);
    // `first or else second`, for logarithms that are 0 where unknown.
    let or_else = |first: &O::Value, has: &O::Value, second: &O::Value| o.add(first, &missing(o, has, second)?);

    let (own_has, own) = (
        or_else(at(&has, column::P50)?, at(&has, column::P50)?, at(&has, column::MEAN)?)?,
        or_else(at(&log, column::P50)?, at(&has, column::P50)?, at(&log, column::MEAN)?)?,
    );
    let of_node = o.concat(&[at(&node_log, column::NODE_MEAN)?.clone(), at(&node_has, column::NODE_MEAN)?.clone()])?;
    let [node, node_has] = pair(o.split(&o.gather(&of_node, &inputs.called)?, &[1, 1])?)?;
    let (direct_has, direct) = (or_else(&own_has, &own_has, &node_has)?, or_else(&own, &own_has, &node)?);

    // direct is 0 where it is unknown, so those links add to neither sum.
    let alike = o.gather(alike, &inputs.called)?;
    let sums = o.concat(&[o.mul(&alike, &direct)?, o.mul(&alike, &direct_has)?])?;
    let sums = o.scatter_sum(&sums, 2 * ALIKE, &inputs.caller)?;
    let [sum, count] = pair(o.split(&o.gather(&sums, &inputs.caller)?, &[ALIKE, ALIKE])?)?;
    let sum = o.matmul(&o.mul(&alike, &sum)?, "alike.sum")?;
    let count = o.matmul(&o.mul(&alike, &count)?, "alike.sum")?;
    // One known link counts at least ALIKE x exp(-2 ALIKE_CLAMP) = 0.0027.
    let others = o.div(&sum, &o.clip(&count, 1e-6, f32::MAX)?)?;
    let others_has = o.clip(&o.mul(&count, &o.constant(&[1e6])?)?, 0.0, 1.0)?;
    let prior = o.weight("prior")?;
    let others = or_else(&others, &others_has, &prior)?;
    let anchor = or_else(&direct, &direct_has, &others)?;

    let beyond = |shift: &str| -> Result<O::Value> { o.add(&anchor, &o.weight(shift)?) };
    let mean = or_else(at(&log, column::EWMA)?, at(&has, column::EWMA)?, &anchor)?;
    let p99 = or_else(at(&log, column::P99)?, at(&has, column::P99)?, &beyond("p99.shift")?)?;
    let jitter = or_else(at(&log, column::JITTER)?, at(&has, column::JITTER)?, &beyond("jitter.shift")?)?;
    let extra = o.concat(&[o.sub(&anchor, &prior)?, o.sub(&others, &anchor)?, direct_has])?;
    Ok(Anchors { answers: o.concat(&[anchor, mean, p99, jitter])?, extra })
}

/// The load in the next window: what the node reports, else what was seen, times a correction.
fn load<O: Ops>(o: &O, nodes: &Known<O::Value>, read: &O::Value) -> Result<O::Value> {
    let (raw, has) = (o.split(&nodes.raw, &[1; FN])?, o.split(&nodes.mask, &[1; FN])?);
    let seen = missing(o, at(&has, column::NODE_REPORTED_RPS)?, at(&raw, column::NODE_CALLS)?)?;
    let base = o.add(at(&raw, column::NODE_REPORTED_RPS)?, &seen)?;
    let one = o.constant(&[1.0])?;
    let factor = o.exp(&bounded(o, &o.linear(&o.relu(read)?, "load.out")?, LOAD_REACH)?)?;
    o.relu(&o.sub(&o.mul(&o.add(&base, &one)?, &factor)?, &one)?)
}

/// `second` where `has` is 0, else 0.
fn missing<O: Ops>(o: &O, has: &O::Value, second: &O::Value) -> Result<O::Value> {
    o.mul(&o.sub(&o.constant(&[1.0])?, has)?, second)
}

/// Smoothly within `-reach..reach`, and the identity for small values.
fn bounded<O: Ops>(o: &O, x: &O::Value, reach: f32) -> Result<O::Value> {
    o.mul(&o.tanh(&o.mul(x, &o.constant(&[1.0 / reach])?)?)?, &o.constant(&[reach])?)
}

fn at<V>(columns: &[V], i: usize) -> Result<&V> {
    columns.get(i).ok_or_else(|| crate::Error::Format(format!("no column {i}")))
}

fn parts<V, const K: usize>(values: Vec<V>) -> Result<[V; K]> {
    values.try_into().map_err(|v: Vec<V>| crate::Error::Format(format!("{} parts instead of {K}", v.len())))
}

fn pair<V>(values: Vec<V>) -> Result<[V; 2]> {
    parts(values)
}

fn triple<V>(values: Vec<V>) -> Result<[V; 3]> {
    parts(values)
}

fn quad<V>(values: Vec<V>) -> Result<[V; 4]> {
    parts(values)
}
