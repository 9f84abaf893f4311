//! The network of contract 2: edge-aware attention over the mesh, and answers as mixtures of what was seen.
//!
//! **Anchors, gate and correction.** Nothing is predicted from nothing. For each link there are `ANCHORS` estimates,
//! logarithms of seconds: the link's own (p10, median, mean, p99, EWMA, baseline, jitter), those of the called node over
//! all its callers (mean, p99, baseline), what the caller's links to alike nodes say, and a learned constant. Each of
//! the four answers (intrinsic, mean, p99, jitter) is a mixture of those that are known,
//! ```text
//! answer = sum_k w_k (anchor_k + shift_k) + correction,   w = softmax over known k of a learned gate
//! ```
//! so the network chooses how far to trust a link's own few samples and how far those of its neighbours, which is what
//! shrinkage does, and says 'this is queueing' by leaning on the tenth percentile. The correction is bounded: weights that
//! learned nothing still predict what was observed, and a strange input can be wrong by a bounded factor at most.
//!
//! **Layers.** h is `[N, HIDDEN]`, e is `[E, EDGE]` (made once from an edge's features, its anchors and both its ends).
//! For the edge from caller i to called node j, in each layer:
//! ```text
//! w_ij  = exp(clip(leaky_relu(q_i + k_j + a . e_ij), -CLAMP, CLAMP))         q, k, a: learned; one number each
//! agg_i = sum_j w_ij (W2 h_j | e_ij) / sum_j w_ij                            zero for a node that calls nobody
//! h_i'  = h_i + relu(W1 h_i + b + U agg_i)
//! ```
//! This is attention with `a` split over the concatenation, so that `W1 h`, `W2 h`, `k h` and `q h` are products of N rows. The
//! logits are clamped instead of having their maximum subtracted: exp(CLAMP) is far from overflow, and one pass over the
//! edges is saved. Messages are `MESSAGE` wide and U acts on the sum because it is linear: that moves a product from E
//! rows to N rows. The middle row of U acts on what every edge says, a one, so only a node that calls nobody does without it.
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

mod forward;

pub use forward::forward;
pub(crate) use forward::{answers, bounded, known, normal, parts};

use crate::variant::Variant;
use crate::weights::{Spec, Start};
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};

/// The width of a node's state.
pub const HIDDEN: usize = 64;
/// The width of a message.
pub const MESSAGE: usize = 32;
/// The width of an edge's embedding.
pub const EDGE: usize = 32;
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
/// The answers: intrinsic, mean, p99, jitter.
pub const ANSWERS: usize = 4;
/// The estimates that an answer is mixed of.
pub const ANCHORS: usize = 12;
/// Columns that an edge has beyond its features and their being known: its anchors, and whether anything is known.
const EXTRA: usize = ANCHORS + 1;

/// How many features a node has.
pub const FN: usize = NODE_FEATURES.len();
/// How many features an edge has.
pub const FE: usize = EDGE_FEATURES.len();

/// Attention and gate logits lie within this.
const CLAMP: f32 = 10.0;
/// The logarithms of the numbers that say which nodes are alike lie within this.
const ALIKE_CLAMP: f32 = 4.0;
/// The slope of the leaky relu in attention logits, as in the graph attention paper (Velickovic et al., 2018).
const SLOPE: f32 = 0.2;
/// The farthest that a correction goes: e^3, a factor of 20.
const REACH: f32 = 3.0;
/// The farthest that the load's correction goes.
const LOAD_REACH: f32 = 8.0;
/// No input counts beyond this.
const LARGEST: f32 = 1e9;
/// Latencies in seconds stay within these, as logarithms: about 1 us and 1,100 s.
pub(crate) const LN_LATENCY: (f32, f32) = (-14.0, 7.0);

/// Added to each node column before its logarithm: about the smallest difference that matters.
pub(crate) const NODE_EPS: [f32; FN] =
    [0.1, 1.0, 0.1, 0.1, 0.01, 0.1, 0.5, 0.1, 1e-5, 1e-5, 0.01, 1.0, 1e-5, 1.0, 0.1, 0.1];
/// The same for edges.
pub(crate) const EDGE_EPS: [f32; FE] = [1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-6, 0.1, 0.01, 0.5, 0.5, 0.1, 1.0, 1e-5, 1e-5];

/// Where an anchor comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    /// A column of the edge.
    Edge(usize),
    /// A column of the called node.
    Called(usize),
    /// The caller's links to alike nodes.
    Others,
    /// Nowhere: the learned constant.
    Prior,
}

/// An estimate that answers are mixed of.
struct Anchor {
    from: From,
    /// How much it counts as 'the latency of this link', on which the fixed order of trust rests. Each is a hundred
    /// times the next, so in effect the first that is known rules.
    order: f32,
    /// Where the gates' biases start, for each answer: how far it is trusted before anything was learned.
    trust: [f32; ANSWERS],
    /// Which kind of number it is, so that shifts between kinds start about right: 0 a typical latency, 1 a 99th
    /// percentile, 2 a jitter.
    kind: usize,
}

/// About how far kinds of numbers are apart, as logarithms: p99 three times, jitter half of a typical latency.
const KIND: [f32; 3] = [0.0, 1.1, -0.7];
/// The kind of each answer.
const ANSWER_KIND: [usize; ANSWERS] = [0, 0, 1, 2];

const fn anchor(from: From, order: f32, trust: [f32; ANSWERS], kind: usize) -> Anchor {
    Anchor { from, order, trust, kind }
}

/// The anchors, in the order of the gates' columns.
const LIST: [Anchor; ANCHORS] = [
    anchor(From::Edge(12), 0.0, [2.0, -2.0, -4.0, -4.0], 0),
    anchor(From::Edge(1), 1e9, [6.0, 3.0, 0.0, -1.0], 0),
    anchor(From::Edge(0), 1e7, [4.0, 5.0, 0.0, -1.0], 0),
    anchor(From::Edge(3), 0.0, [-4.0, -3.0, 6.0, -1.0], 1),
    anchor(From::Edge(4), 1e5, [4.0, 6.0, 0.0, -1.0], 0),
    anchor(From::Edge(13), 1e1, [3.0, 3.0, -1.0, -2.0], 0),
    anchor(From::Edge(5), 0.0, [-4.0, -4.0, -1.0, 6.0], 2),
    anchor(From::Called(8), 1e3, [2.0, 2.0, 0.0, -1.0], 0),
    anchor(From::Called(9), 0.0, [-4.0, -4.0, 2.0, -1.0], 1),
    anchor(From::Called(12), 1e-1, [1.0, 1.0, -2.0, -2.0], 0),
    anchor(From::Others, 0.0, [-1.0, -1.0, -1.0, -2.0], 0),
    anchor(From::Prior, 0.0, [-7.0, -7.0, -7.0, -7.0], 0),
];

/// Columns of nodes by their place in the contract, for the load.
mod column {
    pub const NODE_REPORTED_RPS: usize = 3;
    pub const NODE_CALLS: usize = 7;
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
    /// `[E, 1]`, of the last layer; uniform numbers without layers.
    pub attention: V,
}

/// The weights.
pub(crate) fn specs(variant: Variant) -> Vec<Spec> {
    let mut specs = features_specs();
    let mut add = |name: &str, shape, start, trained| specs.push(Spec::new(name, shape, start, trained));
    // ln(20 ms): the prior where nothing at all is known.
    add("prior", (1, 1), Start::Constant(-3.9), true);
    add("node.in.w", (2 * FN, HIDDEN), Start::Random(1.0), true);
    add("node.in.b", (1, HIDDEN), Start::Constant(0.0), true);
    add("ends", (HIDDEN, 2 * EDGE + ALIKE), Start::Random(0.5), true);
    add("edge.in.w", (2 * FE + EXTRA, EDGE), Start::Random(1.0), true);
    add("edge.in.b", (1, EDGE), Start::Constant(0.0), true);
    let sent = MESSAGE + 1 + if variant.edges { EDGE } else { 0 };
    if variant.edges && variant.layers > 0 {
        add("edge.attention", (EDGE, variant.layers), Start::Random(0.3), true);
    }
    for layer in 0..variant.layers {
        add(&format!("layer{layer}.nodes.w"), (HIDDEN, HIDDEN + MESSAGE + 2), Start::Random(0.3), true);
        add(&format!("layer{layer}.nodes.b"), (1, HIDDEN + MESSAGE + 2), Start::Constant(0.0), true);
        add(&format!("layer{layer}.heard"), (sent, HIDDEN), Start::Random(0.3), true);
    }
    add("read.nodes.w", (HIDDEN, 2 * READ + LOAD), Start::Random(0.7), true);
    add("read.nodes.b", (1, 2 * READ + LOAD), Start::Constant(0.0), true);
    if variant.edges {
        add("read.edges", (EDGE, READ), Start::Random(0.7), true);
    }
    add("read.hidden.w", (READ, READ2), Start::Random(1.0), true);
    add("read.hidden.b", (1, READ2), Start::Constant(0.0), true);
    // Gates and corrections start near zero: an untrained network predicts what was observed.
    add("read.out.w", (READ2, ANSWERS), Start::Random(0.02), true);
    add("read.out.b", (1, ANSWERS), Start::Constant(0.0), true);
    if variant.gate {
        add("gate.w", (READ2, ANSWERS * ANCHORS), Start::Random(0.02), true);
    }
    let per_answer = |value: fn(&Anchor, usize) -> f32| {
        (0..ANSWERS).flat_map(|answer| LIST.iter().map(move |a| value(a, answer))).collect::<Vec<f32>>()
    };
    let trust = per_answer(|a, answer| a.trust.get(answer).copied().unwrap_or_default());
    let shift = per_answer(|a, answer| {
        let of = |kind: Option<&usize>| kind.and_then(|k| KIND.get(*k)).copied().unwrap_or_default();
        of(ANSWER_KIND.get(answer)) - of(Some(&a.kind))
    });
    add("gate.b", (1, ANSWERS * ANCHORS), Start::Values(trust), variant.gate);
    add("shift", (1, ANSWERS * ANCHORS), Start::Values(shift), true);
    add("load.out.w", (LOAD, 1), Start::Random(0.02), true);
    add("load.out.b", (1, 1), Start::Constant(0.0), true);
    specs
}

/// The weights that normalise features: the same for all models.
pub(crate) fn features_specs() -> Vec<Spec> {
    let widths = [("node", FN), ("edge", FE)];
    widths
        .iter()
        .flat_map(|(kind, width)| {
            [("centre", 0.0), ("scale", 1.0)]
                .map(|(part, value)| Spec::new(&format!("{kind}.{part}"), (1, *width), Start::Constant(value), false))
        })
        .collect()
}
