//! A graph attention network on nodes: in each layer and head
//! ```text
//! h_i' = relu(sum_j softmax_j(leaky_relu(q . W h_i + k . W h_j)) W h_j),   j: i itself and the nodes that it calls
//! ```
//! (Velickovic et al., 2018, equations 3 to 5, with relu.)

use super::{HIDDEN, INPUTS, ends, head, head_specs, node_inputs};
use crate::Result;
use crate::net::{Outputs, parts};
use crate::ops::{Inputs, Ops};
use crate::weights::{Spec, Start};

/// Rounds, as many as the network has.
const LAYERS: usize = 4;
/// Heads, side by side.
const HEADS: usize = 4;
/// Attention logits lie within this.
const CLAMP: f32 = 10.0;

pub(crate) fn specs() -> Vec<Spec> {
    let mut specs = head_specs(2 * HIDDEN);
    for layer in 0..LAYERS {
        let width = if layer == 0 { INPUTS } else { HIDDEN };
        specs.push(Spec::new(&format!("gat{layer}.w"), (width, HIDDEN), Start::Random(1.0), true));
        specs.push(Spec::new(&format!("gat{layer}.b"), (1, HIDDEN), Start::Constant(0.0), true));
        specs.push(Spec::new(&format!("gat{layer}.logits"), (HIDDEN, 2 * HEADS), Start::Random(0.3), true));
    }
    // Repeats each head's weight over its columns.
    let wide = HIDDEN / HEADS;
    let repeat = (0..HEADS).flat_map(|row| (0..HIDDEN).map(move |c| f32::from(u8::from(c / wide == row)))).collect();
    specs.push(Spec::new("gat.repeat", (HEADS, HIDDEN), Start::Values(repeat), false));
    specs
}

/// Runs it.
///
/// # Errors
/// When an operation fails.
pub fn forward<O: Ops>(o: &O, inputs: &Inputs<O>) -> Result<Outputs<O::Value>> {
    let mut h = node_inputs(o, inputs)?;
    let weight = |logit: &O::Value| o.exp(&o.clip(&o.leaky_relu(logit, 0.2)?, -CLAMP, CLAMP)?);
    for layer in 0..LAYERS {
        let x = o.linear(&h, &format!("gat{layer}"))?;
        let [query, key] =
            parts(o.split(&o.product(&x, &o.weight(&format!("gat{layer}.logits"))?)?, &[HEADS, HEADS])?)?;
        let own = weight(&o.add(&query, &key)?)?;
        let logit = o.add(&o.gather(&query, &inputs.caller)?, &o.gather(&key, &inputs.called)?)?;
        let sent = weight(&logit)?;
        let message = o.mul(&o.gather(&x, &inputs.called)?, &o.product(&sent, &o.weight("gat.repeat")?)?)?;
        let sum = o.scatter_sum(&o.concat(&[message, sent])?, HIDDEN + HEADS, &inputs.caller)?;
        let [sum, total] = parts(o.split(&sum, &[HIDDEN, HEADS])?)?;
        let sum = o.add(&sum, &o.mul(&x, &o.product(&own, &o.weight("gat.repeat")?)?)?)?;
        let total = o.product(&o.add(&total, &own)?, &o.weight("gat.repeat")?)?;
        h = o.relu(&o.div(&sum, &total)?)?;
    }
    head(o, inputs, &ends(o, inputs, &h)?, &h, 0.0)
}
