//! The network's operations with candle: computed at once, and differentiable.

use crate::Result;
use crate::ops::{Inputs, Ops};
use crate::simulator::draw::Draw;
use crate::weights::Weights;
use candle_core::{D, Device, Tensor};
use pathloom::graph::Features;
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use std::cell::RefCell;

/// Runs the network's operations with these weights.
#[derive(Debug)]
pub struct Candle<'a> {
    weights: &'a Weights,
    /// Where dropout's draws come from, in training.
    draw: Option<RefCell<Draw>>,
}

impl<'a> Candle<'a> {
    /// With weights as they are served: no dropout.
    #[must_use]
    pub fn new(weights: &'a Weights) -> Self {
        Self { weights, draw: None }
    }

    /// In training, with dropout drawn from here.
    #[must_use]
    pub fn training(weights: &'a Weights, draw: Draw) -> Self {
        Self { weights, draw: Some(RefCell::new(draw)) }
    }
}

/// Row numbers and how many rows there are.
#[derive(Debug, Clone)]
pub struct Rows {
    ids: Tensor,
    of: usize,
}

impl Rows {
    /// These row numbers of a matrix with `of` rows.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(ids: Vec<u32>, of: usize) -> Result<Self> {
        let count = ids.len();
        Ok(Self { ids: Tensor::from_vec(ids, count, &Device::Cpu)?, of })
    }

    /// Sums the rows of `x` that have the same number.
    ///
    /// # Errors
    /// When there are not as many rows as numbers.
    pub fn sum(&self, x: &Tensor) -> Result<Tensor> {
        let zeros = Tensor::zeros((self.of, x.dim(1)?), x.dtype(), x.device())?;
        Ok(zeros.index_add(&self.ids, &x.contiguous()?, 0)?)
    }

    /// The rows of `x` that these numbers name.
    ///
    /// # Errors
    /// When a number is beyond the rows.
    pub fn gather(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.index_select(&self.ids, 0)?)
    }
}

/// A graph's features as the network's inputs.
///
/// # Errors
/// When a tensor cannot be made.
pub fn inputs<'a>(features: &Features) -> Result<Inputs<Candle<'a>>> {
    let (n, e) = (features.node_count(), features.edge_count());
    let ids = |values: &[i64]| values.iter().map(|v| *v as u32).collect::<Vec<u32>>();
    let (called, caller) = features.edges.split_at(e);
    let mut path_of_link = Vec::with_capacity(features.path_links.len());
    for (path, ends) in features.path_offsets.windows(2).enumerate() {
        let links = ends.last().copied().unwrap_or_default() - ends.first().copied().unwrap_or_default();
        path_of_link.extend((0..links).map(|_| path as u32));
    }
    Ok(Inputs {
        nodes: Tensor::from_slice(&features.nodes, (n, NODE_FEATURES.len()), &Device::Cpu)?,
        edges: Tensor::from_slice(&features.edge_features, (e, EDGE_FEATURES.len()), &Device::Cpu)?,
        called: Rows::new(ids(called), n)?,
        caller: Rows::new(ids(caller), n)?,
        path_links: Rows::new(ids(&features.path_links), e)?,
        path_of_link: Rows::new(path_of_link, features.candidate_count())?,
    })
}

impl Ops for Candle<'_> {
    type Value = Tensor;
    type Index = Rows;

    fn weight(&self, name: &str) -> Result<Tensor> {
        Ok(self.weights.get(name)?.clone())
    }
    fn constant(&self, row: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(row, (1, row.len()), &Device::Cpu)?)
    }
    fn table(&self, _name: &str, width: usize, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, (values.len() / width.max(1), width), &Device::Cpu)?)
    }
    fn product(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(w)?)
    }
    fn gemm(&self, x: &Tensor, w: &Tensor, c: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(w)?.broadcast_add(c)?)
    }
    fn known(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.eq(x)?.to_dtype(x.dtype())?)
    }
    fn or_zero(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.eq(x)?.where_cond(x, &x.zeros_like()?)?)
    }
    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(a.broadcast_add(b)?)
    }
    fn add_row(&self, x: &Tensor, row: &[f32]) -> Result<Tensor> {
        self.add(x, &self.constant(row)?)
    }
    fn sub(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(a.broadcast_sub(b)?)
    }
    fn mul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(a.broadcast_mul(b)?)
    }
    fn div(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(a.broadcast_div(b)?)
    }
    fn clip(&self, x: &Tensor, low: f32, high: f32) -> Result<Tensor> {
        Ok(x.clamp(low, high)?)
    }
    fn ln(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.log()?)
    }
    fn exp(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.exp()?)
    }
    fn sqrt(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.sqrt()?)
    }
    fn tanh(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.tanh()?)
    }
    fn relu(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.relu()?)
    }
    fn leaky_relu(&self, x: &Tensor, slope: f32) -> Result<Tensor> {
        // max(x, slope x), which holds for slopes below 1.
        Ok(x.maximum(&(x * f64::from(slope))?)?)
    }
    fn concat(&self, parts: &[Tensor]) -> Result<Tensor> {
        Ok(Tensor::cat(parts, D::Minus1)?)
    }
    fn split(&self, x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
        let mut start = 0;
        let mut parts = Vec::with_capacity(widths.len());
        for width in widths {
            parts.push(x.narrow(1, start, *width)?.contiguous()?);
            start += width;
        }
        Ok(parts)
    }
    fn columns(&self, x: &Tensor, from: usize, width: usize) -> Result<Tensor> {
        Ok(x.narrow(1, from, width)?.contiguous()?)
    }
    fn stack(&self, parts: &[Tensor]) -> Result<Tensor> {
        Ok(Tensor::cat(parts, 0)?)
    }
    fn rows(&self, x: &Tensor, from: usize, count: usize) -> Result<Tensor> {
        Ok(x.narrow(0, from, count)?)
    }
    fn transpose(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.t()?.contiguous()?)
    }
    fn dropout(&self, x: &Tensor, share: f32) -> Result<Tensor> {
        let Some(draw) = &self.draw else { return Ok(x.clone()) };
        let mut draw = draw.borrow_mut();
        let kept = 1.0 / (1.0 - share);
        let mask = (0..x.elem_count()).map(|_| if draw.chance(f64::from(share)) { 0.0 } else { kept });
        Ok((x * Tensor::from_vec(mask.collect::<Vec<f32>>(), x.dims(), x.device())?)?)
    }
    fn gather(&self, x: &Tensor, index: &Rows) -> Result<Tensor> {
        index.gather(x)
    }
    fn scatter_sum(&self, x: &Tensor, _columns: usize, index: &Rows) -> Result<Tensor> {
        index.sum(x)
    }
    fn gather_index(&self, index: &Rows, by: &Rows) -> Result<Rows> {
        Ok(Rows { ids: index.ids.index_select(&by.ids, 0)?, of: index.of })
    }
}
