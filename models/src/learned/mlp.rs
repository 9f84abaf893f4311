//! A perceptron on a link's own features and those of both its ends: what is left without the mesh.

use super::{HIDDEN, head, head_specs};
use crate::Result;
use crate::net::{EDGE_EPS, FE, FN, NODE_EPS, Outputs, known, normal};
use crate::ops::{Inputs, Ops};
use crate::weights::{Spec, Start};

pub(crate) fn specs() -> Vec<Spec> {
    let mut specs = head_specs(HIDDEN);
    let mut add = |name: &str, width: usize| {
        specs.push(Spec::new(&format!("{name}.w"), (width, HIDDEN), Start::Random(1.0), true));
        specs.push(Spec::new(&format!("{name}.b"), (1, HIDDEN), Start::Constant(0.0), true));
    };
    add("mlp.link", 4 * FN + 2 * FE);
    add("mlp.hidden", HIDDEN);
    add("mlp.node", 2 * FN);
    specs
}

/// Runs it.
///
/// # Errors
/// When an operation fails.
pub fn forward<O: Ops>(o: &O, inputs: &Inputs<O>) -> Result<Outputs<O::Value>> {
    let nodes = known(o, &inputs.nodes, &NODE_EPS)?;
    let edges = known(o, &inputs.edges, &EDGE_EPS)?;
    let of_node = o.concat(&[normal(o, &nodes, "node")?, nodes.mask])?;
    let of_edge = o.concat(&[normal(o, &edges, "edge")?, edges.mask])?;
    let link = o.concat(&[super::ends(o, inputs, &of_node)?, o.gather(&of_edge, &inputs.path_links)?])?;
    let link = o.relu(&o.linear(&o.relu(&o.linear(&link, "mlp.link")?)?, "mlp.hidden")?)?;
    let h = o.relu(&o.linear(&of_node, "mlp.node")?)?;
    head(o, inputs, &link, &h, 0.0)
}
