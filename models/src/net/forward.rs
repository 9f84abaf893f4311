//! The network's forward pass.
//!
//! It is written for what engines are slow at: moving `[E, k]` matrices about. On one thread a copy beside another matrix
//! or a product with a column costs as much as a matrix product (ONNX Runtime 1.31: `Concat` of 32 and 33 columns 145 us
//! at 5,000 edges, a row added to each row of 14 columns 80 us, `Gemm` from 14 to 32 columns 60 us). So
//! - what follows the logarithms of features linearly (their normalisation, which anchor is which column, the fixed order of
//!   trust) is part of a matrix that is made of the weights, once, when an engine loads the file;
//! - matrices are not put side by side to be multiplied: each has a product of its own, added to the one before (`gemm`);
//! - a column is inserted, repeated or subtracted by a product with a row of ones and zeros.
//!
//! The weights keep the shapes that they were trained in, so a file's weights can be read and trained further.

use super::*;
use crate::Result;
use crate::ops::{Inputs, Ops};

/// What an unknown anchor's gate loses, as a logarithm: a known one counts at least e^40 times as much.
const UNKNOWN: f32 = 60.0;
/// Messages and edges are weighed by the same numbers.
const _: () = assert!(MESSAGE == EDGE);

/// What is known of a matrix of features.
pub(crate) struct Known<V> {
    /// 1 or 0.
    pub mask: V,
    /// Logarithms, 0 where unknown.
    pub logs: V,
    /// The values, 0 where unknown.
    pub raw: V,
}

/// Runs the network.
///
/// # Errors
/// When an operation fails, such as a weight that is missing or of the wrong shape.
pub fn forward<O: Ops>(o: &O, inputs: &Inputs<O>, variant: Variant) -> Result<Outputs<O::Value>> {
    let nodes = known(o, &inputs.nodes, &NODE_EPS)?;
    let edges = known(o, &inputs.edges, &EDGE_EPS)?;
    let (of_logs, of_mask) = folded(o, &o.weight("node.in.w")?, FN, "node")?;
    let start = o.gemm(&nodes.logs, &of_logs, &o.weight("node.in.b")?)?;
    let start = o.relu(&o.gemm(&nodes.mask, &of_mask, &start)?)?;
    let anchors = anchors(o, inputs, &nodes, &edges, variant.alike.then_some(&start))?;
    let e = edge_state(o, inputs, &start, &edges, &anchors)?;

    let (mut h, mut attention) = (start, o.add(&o.mul(&anchors.has, &o.constant(&[0.0])?)?, &o.constant(&[1.0])?)?);
    let logits = if variant.edges && variant.layers > 0 {
        o.split(&o.product(&e, &o.weight("edge.attention")?)?, &vec![1; variant.layers])?
    } else {
        Vec::new()
    };
    // 1 for a node that calls somebody, or 0.
    let mut calls = None;
    for layer in 0..variant.layers {
        let (w, b) = (o.weight(&format!("layer{layer}.nodes.w"))?, o.weight(&format!("layer{layer}.nodes.b"))?);
        let part = |from, width| o.gemm(&h, &o.columns(&w, from, width)?, &o.columns(&b, from, width)?);
        let (own, message) = (part(0, HIDDEN)?, part(HIDDEN, MESSAGE)?);
        let [key, query] = parts(o.split(&part(HIDDEN + MESSAGE, 2)?, &[1, 1])?)?;
        let mut logit = o.add(&o.gather_column(&query, &inputs.caller)?, &o.gather_column(&key, &inputs.called)?)?;
        if let Some(of_edge) = logits.get(layer) {
            logit = o.add(&logit, of_edge)?;
        }
        let weight = o.exp(&o.clip(&o.leaky_relu(&logit, SLOPE)?, -CLAMP, CLAMP)?)?;

        // Any real total is at least exp(-CLAMP) = 4.5e-5, so this only keeps nodes without calls from dividing by 0.
        let total = o.clip(&o.scatter_sum(&weight, 1, &inputs.caller)?, 1e-6, f32::MAX)?;
        attention = o.div(&weight, &o.gather_column(&total, &inputs.caller)?)?;
        let calls = match &calls {
            Some(calls) => calls,
            None => {
                calls.insert(o.clip(&o.add(&o.mul(&total, &o.constant(&[1e6])?)?, &o.constant(&[-1.0])?)?, 0.0, 1.0)?)
            }
        };

        let heard = o.weight(&format!("layer{layer}.heard"))?;
        let wide = o.product(&attention, &o.table("repeated", EDGE, &[1.0; EDGE])?)?;
        let said = |x: &O::Value| o.scatter_sum(&o.mul(x, &wide)?, EDGE, &inputs.caller);
        let mut sum = o.gemm(calls, &o.rows(&heard, MESSAGE, 1)?, &own)?;
        if variant.edges {
            sum = o.gemm(&said(&e)?, &o.rows(&heard, MESSAGE + 1, EDGE)?, &sum)?;
        }
        let sum = o.gemm(&said(&o.gather(&message, &inputs.called)?)?, &o.rows(&heard, 0, MESSAGE)?, &sum)?;
        h = o.add(&h, &o.relu(&sum)?)?;
    }

    let (w, b) = (o.weight("read.nodes.w")?, o.weight("read.nodes.b")?);
    let part = |from, width| o.gemm(&h, &o.columns(&w, from, width)?, &o.columns(&b, from, width)?);
    let (of_called, of_caller) = (part(0, READ)?, part(READ, READ)?);
    let node_load = load(o, &nodes, &part(2 * READ, LOAD)?)?;

    let called = o.gather_index(&inputs.called, &inputs.path_links)?;
    let caller = o.gather_index(&inputs.caller, &inputs.path_links)?;
    let mut read = o.add(&o.gather(&of_called, &called)?, &o.gather(&of_caller, &caller)?)?;
    if variant.edges {
        read = o.gemm(&o.gather(&e, &inputs.path_links)?, &o.weight("read.edges")?, &read)?;
    }
    let read = o.relu(&o.linear(&o.relu(&read)?, "read.hidden")?)?;
    let correction = bounded(o, &o.linear(&read, "read.out")?, REACH)?;
    let gate = if variant.gate { o.linear(&read, "gate")? } else { o.weight("gate.b")? };
    let logs = o.add(&mixture(o, inputs, &anchors, &gate)?, &correction)?;
    let seconds = o.exp(&o.clip(&logs, LN_LATENCY.0, LN_LATENCY.1)?)?;
    answers(o, inputs, &seconds, node_load, attention)
}

/// From each link's four latencies in seconds to the candidates' answers.
pub(crate) fn answers<O: Ops>(
    o: &O,
    inputs: &Inputs<O>,
    seconds: &O::Value,
    node_load: O::Value,
    attention: O::Value,
) -> Result<Outputs<O::Value>> {
    let [intrinsic, mean, p99, jitter] = parts(o.split(seconds, &[1; ANSWERS])?)?;
    let beyond = o.relu(&o.sub(&p99, &mean)?)?;
    let terms = o.concat(&[intrinsic, mean, o.mul(&beyond, &beyond)?, o.mul(&jitter, &jitter)?])?;
    let sums = o.scatter_sum(&terms, ANSWERS, &inputs.path_of_link)?;
    // A tenth of a microsecond, squared: keeps the root's slope finite where a spread is zero.
    let sums = o.clip(&sums, 1e-14, f32::MAX)?;
    let [intrinsic, mean, beyond, jitter] = parts(o.split(&sums, &[1; ANSWERS])?)?;
    Ok(Outputs {
        score: o.mul(&o.ln(&intrinsic)?, &o.constant(&[-1.0])?)?,
        latency_p99_s: o.add(&mean, &o.sqrt(&beyond)?)?,
        latency_mean_s: mean,
        jitter_s: o.sqrt(&jitter)?,
        node_load,
        attention,
    })
}

/// What is known of features, and their logarithms.
pub(crate) fn known<O: Ops>(o: &O, x: &O::Value, eps: &[f32]) -> Result<Known<O::Value>> {
    let mask = o.known(x)?;
    let raw = o.clip(&o.or_zero(x)?, 0.0, LARGEST)?;
    let logs = o.mul(&o.ln(&o.add_row(&raw, eps)?)?, &mask)?;
    Ok(Known { mask, logs, raw })
}

/// Features as they are normalised: `(ln(x + eps) - centre) scale` where known, 0 where not.
pub(crate) fn normal<O: Ops>(o: &O, known: &Known<O::Value>, name: &str) -> Result<O::Value> {
    let centre = o.mul(&known.mask, &o.weight(&format!("{name}.centre"))?)?;
    o.mul(&o.sub(&known.logs, &centre)?, &o.weight(&format!("{name}.scale"))?)
}

/// The first rows of `w`, which multiply normalised features and then what is known of them, as two matrices that
/// multiply logarithms and what is known.
fn folded<O: Ops>(o: &O, w: &O::Value, width: usize, name: &str) -> Result<(O::Value, O::Value)> {
    let column = |part: &str| o.transpose(&o.weight(&format!("{name}.{part}"))?);
    let of_logs = o.mul(&o.rows(w, 0, width)?, &column("scale")?)?;
    let of_mask = o.sub(&o.rows(w, width, width)?, &o.mul(&of_logs, &column("centre")?)?)?;
    Ok((of_logs, of_mask))
}

/// `[E, EDGE]`: the edges' embedding.
fn edge_state<O: Ops>(
    o: &O,
    inputs: &Inputs<O>,
    start: &O::Value,
    edges: &Known<O::Value>,
    anchors: &Anchors<O::Value>,
) -> Result<O::Value> {
    let (ends, w) = (o.weight("ends")?, o.weight("edge.in.w")?);
    let of_called = o.product(start, &o.columns(&ends, 0, EDGE)?)?;
    let of_caller = o.gemm(start, &o.columns(&ends, EDGE, EDGE)?, &o.weight("edge.in.b")?)?;
    let (of_logs, of_mask) = folded(o, &w, FE, "edge")?;
    let e = o.gemm(&edges.logs, &of_logs, &o.gather(&of_called, &inputs.called)?)?;
    let e = o.add(&o.gemm(&edges.mask, &of_mask, &e)?, &o.gather(&of_caller, &inputs.caller)?)?;
    o.relu(&o.gemm(&anchors.away, &o.rows(&w, 2 * FE, EXTRA)?, &e)?)
}

/// What the answers are mixed of. The column after the anchors' is for `has`.
struct Anchors<V> {
    /// `[E, EXTRA]`: logarithms of seconds, 0 where unknown, and 1.
    logs: V,
    /// `[E, EXTRA]`: whether they are known, and `has`.
    mask: V,
    /// `[E, EXTRA]`, for the network to see: how far each is from the first in the fixed order, and `has`.
    away: V,
    /// `[E, 1]`: whether anything is known of this link.
    has: V,
}

fn anchors<O: Ops>(
    o: &O,
    inputs: &Inputs<O>,
    nodes: &Known<O::Value>,
    edges: &Known<O::Value>,
    alike: Option<&O::Value>,
) -> Result<Anchors<O::Value>> {
    let row = |name: &str, value: fn(usize) -> f32| {
        o.table(&format!("anchors.{name}"), EXTRA, &(0..EXTRA).map(value).collect::<Vec<f32>>())
    };
    let prior = o.weight("prior")?;
    let of_edge = o.table("anchors.edge", EXTRA, &picks(|f| if let From::Edge(c) = f { Some(c) } else { None }, FE))?;
    let of_node =
        o.table("anchors.called", EXTRA, &picks(|f| if let From::Called(c) = f { Some(c) } else { None }, FN))?;
    let is_prior = row("prior", |i| f32::from(u8::from(i == ANCHORS - 1)))?;
    let is_has = row("has", |i| f32::from(u8::from(i == ANCHORS)))?;
    let direct = |of_nodes: &O::Value, of_edges: &O::Value, always: &O::Value| {
        let called = o.gemm(of_nodes, &of_node, always)?;
        o.gemm(of_edges, &of_edge, &o.gather(&called, &inputs.called)?)
    };
    let mut logs = direct(&nodes.logs, &edges.logs, &o.add(&o.mul(&is_prior, &prior)?, &is_has)?)?;
    let mut mask = direct(&nodes.mask, &edges.mask, &is_prior)?;

    // The first known in the fixed order: 0 and not known where nothing is.
    let order: Vec<f32> = LIST.iter().map(|a| a.order).chain([0.0]).collect();
    let order = o.table("anchors.order", 1, &order)?;
    let total = o.product(&mask, &order)?;
    let first = o.div(&o.product(&logs, &order)?, &o.clip(&total, 1e-3, f32::MAX)?)?;
    let has = o.clip(&o.mul(&total, &o.constant(&[10.0])?)?, 0.0, 1.0)?;

    let anchor = if let Some(start) = alike {
        let (others, others_has) = others(o, inputs, start, &first, &has)?;
        let is_others = row("others", |i| f32::from(u8::from(i == ANCHORS - 2)))?;
        logs = o.gemm(&others, &is_others, &logs)?;
        let both = o.concat(&[others_has.clone(), has.clone()])?;
        mask = o.gemm(&both, &o.stack(&[is_others, is_has])?, &mask)?;
        let second = o.add(&others, &missing(o, &others_has, &prior)?)?;
        o.add(&first, &missing(o, &has, &second)?)?
    } else {
        mask = o.gemm(&has, &is_has, &mask)?;
        o.add(&first, &missing(o, &has, &prior)?)?
    };
    let less = row("less", |i| if i < ANCHORS { -1.0 } else { 0.0 })?;
    let away = o.mul(&o.gemm(&anchor, &less, &logs)?, &mask)?;
    Ok(Anchors { logs, mask, away, has })
}

/// `[width, EXTRA]`: a one where an anchor is a column.
fn picks(column: fn(From) -> Option<usize>, width: usize) -> Vec<f32> {
    (0..width)
        .flat_map(|row| LIST.iter().map(move |a| f32::from(u8::from(column(a.from) == Some(row)))).chain([0.0]))
        .collect()
}

/// What the caller's links to alike nodes say, and whether they say anything.
fn others<O: Ops>(
    o: &O,
    inputs: &Inputs<O>,
    start: &O::Value,
    first: &O::Value,
    has: &O::Value,
) -> Result<(O::Value, O::Value)> {
    // Twice: for the sum and for the count. `first` is 0 where it is unknown, so those links add to neither.
    let w = o.columns(&o.weight("ends")?, 2 * EDGE, ALIKE)?;
    let alike = o.product(start, &o.concat(&[w.clone(), w])?)?;
    let alike = o.gather(&o.exp(&o.clip(&alike, -ALIKE_CLAMP, ALIKE_CLAMP)?)?, &inputs.called)?;
    let halves = (0..2 * 2 * ALIKE).map(|i| f32::from(u8::from(i / (2 * ALIKE) == i % (2 * ALIKE) / ALIKE)));
    let halves = o.table("alike.halves", 2 * ALIKE, &halves.collect::<Vec<f32>>())?;
    let terms = o.mul(&alike, &o.product(&o.concat(&[first.clone(), has.clone()])?, &halves)?)?;
    let sums = o.gather(&o.scatter_sum(&terms, 2 * ALIKE, &inputs.caller)?, &inputs.caller)?;
    let sums = o.product(&o.mul(&alike, &sums)?, &o.transpose(&halves)?)?;
    let [sum, count] = parts(o.split(&sums, &[1, 1])?)?;
    // One known link counts at least ALIKE x exp(-2 ALIKE_CLAMP) = 0.0027.
    let others = o.div(&sum, &o.clip(&count, 1e-6, f32::MAX)?)?;
    Ok((others, o.clip(&o.mul(&count, &o.constant(&[1e6])?)?, 0.0, 1.0)?))
}

/// `[L, ANSWERS]`: each answer's anchors, those that are known, by the gate's weights.
fn mixture<O: Ops>(o: &O, inputs: &Inputs<O>, anchors: &Anchors<O::Value>, gate: &O::Value) -> Result<O::Value> {
    let columns = ANSWERS * ANCHORS;
    let each = |value: f32| -> Vec<f32> {
        (0..EXTRA).flat_map(|row| (0..columns).map(move |c| if c % ANCHORS == row { value } else { 0.0 })).collect()
    };
    let logs = o.gather(&anchors.logs, &inputs.path_links)?;
    let unknown = o.gather(&o.sub(&anchors.mask, &o.constant(&[1.0])?)?, &inputs.path_links)?;
    let gate =
        o.gemm(&unknown, &o.table("anchors.unknown", columns, &each(UNKNOWN))?, &o.clip(gate, -CLAMP, CLAMP)?)?;
    let shifted = o.gemm(&logs, &o.table("anchors.each", columns, &each(1.0))?, &o.weight("shift")?)?;
    let weight = o.exp(&gate)?;
    let sum: Vec<f32> = (0..columns)
        .flat_map(|row| (0..ANSWERS).map(move |column| f32::from(u8::from(row / ANCHORS == column))))
        .collect();
    let sum = o.table("answers.sum", ANSWERS, &sum)?;
    // The prior is always known, so the total is at least exp(-CLAMP).
    o.div(&o.product(&o.mul(&weight, &shifted)?, &sum)?, &o.product(&weight, &sum)?)
}

/// The load in the next window: what the node reports, else what was seen, times a correction.
fn load<O: Ops>(o: &O, nodes: &Known<O::Value>, read: &O::Value) -> Result<O::Value> {
    let of = |x: &O::Value, column: usize| o.columns(x, column, 1);
    let reported_has = of(&nodes.mask, column::NODE_REPORTED_RPS)?;
    let seen = missing(o, &reported_has, &of(&nodes.raw, column::NODE_CALLS)?)?;
    let base = o.add(&of(&nodes.raw, column::NODE_REPORTED_RPS)?, &seen)?;
    let one = o.constant(&[1.0])?;
    let factor = o.exp(&bounded(o, &o.linear(&o.relu(read)?, "load.out")?, LOAD_REACH)?)?;
    o.relu(&o.sub(&o.mul(&o.add(&base, &one)?, &factor)?, &one)?)
}

/// `second` where `has` is 0, else 0.
fn missing<O: Ops>(o: &O, has: &O::Value, second: &O::Value) -> Result<O::Value> {
    o.mul(&o.sub(&o.constant(&[1.0])?, has)?, second)
}

/// Smoothly within `-reach..reach`, and the identity for small values.
pub(crate) fn bounded<O: Ops>(o: &O, x: &O::Value, reach: f32) -> Result<O::Value> {
    o.mul(&o.tanh(&o.mul(x, &o.constant(&[1.0 / reach])?)?)?, &o.constant(&[reach])?)
}

pub(crate) fn parts<V, const K: usize>(values: Vec<V>) -> Result<[V; K]> {
    values.try_into().map_err(|v: Vec<V>| crate::Error::Format(format!("{} parts instead of {K}", v.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Candle;
    use crate::variant::Kind;
    use crate::weights::Weights;
    use candle_core::{Device, Tensor};

    #[test]
    fn folded_weights_do_to_logarithms_what_the_weights_do_to_normalised_features() {
        let weights = Weights::random(Kind::Network(Variant::FULL), 3).unwrap();
        weights.set_row("edge.centre", &std::array::from_fn::<f32, FE, _>(|i| i as f32 - 7.0)).unwrap();
        weights.set_row("edge.scale", &std::array::from_fn::<f32, FE, _>(|i| 0.2 + i as f32 * 0.1)).unwrap();
        let o = Candle::new(&weights);
        let value = |i: usize| if i.is_multiple_of(3) { f32::NAN } else { 10f32.powf(i as f32 / 7.0 - 4.0) };
        let x: Vec<f32> = (0..4 * FE).map(value).collect();
        let features = known(&o, &Tensor::from_vec(x, (4, FE), &Device::Cpu).unwrap(), &EDGE_EPS).unwrap();

        let w = o.rows(&o.weight("edge.in.w").unwrap(), 0, 2 * FE).unwrap();
        let normal = normal(&o, &features, "edge").unwrap();
        let plain = o.product(&o.concat(&[normal, features.mask.clone()]).unwrap(), &w).unwrap();
        let (of_logs, of_mask) = folded(&o, &w, FE, "edge").unwrap();
        let part = o.product(&features.logs, &of_logs).unwrap();
        let folded = o.gemm(&features.mask, &of_mask, &part).unwrap();
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in numbers(&plain).iter().zip(numbers(&folded)) {
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} {b}");
        }
    }
}
