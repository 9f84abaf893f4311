//! A graph convolutional network with ReLU and dropout 0.3, as GNN-MSOrchest uses it:
//! ```text
//! H' = relu(D^-1/2 (A + I) D^-1/2 H W),   A: who calls whom, in both directions, D: the degrees of A + I
//! ```
//! (Kipf and Welling, 2017, equation 2.)

use super::{HIDDEN, INPUTS, ends, head, head_specs, node_inputs};
use crate::Result;
use crate::net::Outputs;
use crate::ops::{Inputs, Ops};
use crate::weights::{Spec, Start};

/// Rounds: as far as trouble two hops away is heard of at the caller.
const LAYERS: usize = 3;
/// The share of values that training drops.
const DROPOUT: f32 = 0.3;

pub(crate) fn specs() -> Vec<Spec> {
    let mut specs = head_specs(2 * HIDDEN);
    for layer in 0..LAYERS {
        let width = if layer == 0 { INPUTS } else { HIDDEN };
        specs.push(Spec::new(&format!("gcn{layer}.w"), (width, HIDDEN), Start::Random(1.0), true));
        specs.push(Spec::new(&format!("gcn{layer}.b"), (1, HIDDEN), Start::Constant(0.0), true));
    }
    specs
}

/// Runs it.
///
/// # Errors
/// When an operation fails.
pub fn forward<O: Ops>(o: &O, inputs: &Inputs<O>) -> Result<Outputs<O::Value>> {
    let mut h = node_inputs(o, inputs)?;
    let one = o.constant(&[1.0])?;
    let ones = o.add(&o.mul(&o.columns(&o.known(&inputs.edges)?, 0, 1)?, &o.constant(&[0.0])?)?, &one)?;
    let links = o.add(&o.scatter_sum(&ones, 1, &inputs.caller)?, &o.scatter_sum(&ones, 1, &inputs.called)?)?;
    let root = o.sqrt(&o.add(&links, &one)?)?;
    for layer in 0..LAYERS {
        let x = o.div(&o.linear(&h, &format!("gcn{layer}"))?, &root)?;
        let to_caller = o.scatter_sum(&o.gather(&x, &inputs.called)?, HIDDEN, &inputs.caller)?;
        let to_called = o.scatter_sum(&o.gather(&x, &inputs.caller)?, HIDDEN, &inputs.called)?;
        let sum = o.add(&x, &o.add(&to_caller, &to_called)?)?;
        h = o.dropout(&o.relu(&o.div(&sum, &root)?)?, DROPOUT)?;
    }
    head(o, inputs, &ends(o, inputs, &h)?, &h, DROPOUT)
}
