//! The network's weights by name: their shapes, their start, their checkpoint file (safetensors).

use crate::net::{ALIKE, ANSWERS, EDGE, EDGE_EXTRA, FE, FN, HIDDEN, LAYERS, LOAD, READ, READ2};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How a weight starts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    /// Uniform within the bound of He et al. (2015), times a gain.
    Random(f32),
    /// One value everywhere.
    Constant(f32),
    /// A layer's bias: zero, but for the column of ones that sums up the softmax's denominator.
    LayerBias,
}

/// One weight.
#[derive(Debug, Clone, PartialEq)]
struct Spec {
    name: String,
    shape: (usize, usize),
    start: Start,
    trained: bool,
}

/// The columns of a layer's product: `[W1 | W2 | 1 | k | q]`.
const LAYER: usize = 2 * HIDDEN + 3;
/// The column among those that is always one.
const ONES: usize = 2 * HIDDEN;

fn specs() -> Vec<Spec> {
    let mut specs = Vec::new();
    let mut add = |name: &str, shape, start, trained| specs.push(Spec { name: name.into(), shape, start, trained });
    for (kind, width) in [("node", FN), ("edge", FE)] {
        add(&format!("{kind}.centre"), (1, width), Start::Constant(0.0), false);
        add(&format!("{kind}.scale"), (1, width), Start::Constant(1.0), false);
    }
    // ln(20 ms): the prior where nothing at all is known; p99 about three times and jitter about half of that.
    add("prior", (1, 1), Start::Constant(-3.9), true);
    add("p99.shift", (1, 1), Start::Constant(1.1), true);
    add("jitter.shift", (1, 1), Start::Constant(-0.7), true);
    add("node.in.w", (2 * FN, HIDDEN), Start::Random(1.0), true);
    add("node.in.b", (1, HIDDEN), Start::Constant(0.0), true);
    add("edge.ends", (HIDDEN, 2 * EDGE + ALIKE), Start::Random(0.5), true);
    add("alike.sum", (ALIKE, 1), Start::Constant(1.0), false);
    add("edge.in.w", (2 * FE + EDGE_EXTRA, EDGE), Start::Random(1.0), true);
    add("edge.in.b", (1, EDGE), Start::Constant(0.0), true);
    add("edge.attention", (EDGE, LAYERS), Start::Random(0.3), true);
    for layer in 0..LAYERS {
        add(&format!("layer{layer}.nodes.w"), (HIDDEN, LAYER), Start::Random(0.3), true);
        add(&format!("layer{layer}.nodes.b"), (1, LAYER), Start::LayerBias, true);
        add(&format!("layer{layer}.edges"), (EDGE, HIDDEN), Start::Random(0.3), true);
    }
    add("read.nodes.w", (HIDDEN, 2 * READ + LOAD), Start::Random(0.7), true);
    add("read.nodes.b", (1, 2 * READ + LOAD), Start::Constant(0.0), true);
    add("read.edges", (EDGE, READ), Start::Random(0.7), true);
    add("read.hidden.w", (READ, READ2), Start::Random(1.0), true);
    add("read.hidden.b", (1, READ2), Start::Constant(0.0), true);
    // Corrections start near zero: an untrained network predicts what was observed.
    add("read.out.w", (READ2, ANSWERS), Start::Random(0.02), true);
    add("read.out.b", (1, ANSWERS), Start::Constant(0.0), true);
    add("load.out.w", (LOAD, 1), Start::Random(0.02), true);
    add("load.out.b", (1, 1), Start::Constant(0.0), true);
    specs
}

/// All weights, on the CPU.
#[derive(Debug, Clone)]
pub struct Weights {
    vars: BTreeMap<String, Var>,
}

impl Weights {
    /// Random weights, the same for the same seed.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn random(seed: u64) -> Result<Self> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut vars = BTreeMap::new();
        for spec in specs() {
            let (rows, columns) = spec.shape;
            let values: Vec<f32> = match spec.start {
                Start::Constant(value) => vec![value; rows * columns],
                Start::LayerBias => (0..columns).map(|c| f32::from(u8::from(c == ONES))).collect(),
                Start::Random(gain) => {
                    let bound = gain * (6.0 / rows as f32).sqrt();
                    (0..rows * columns).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
                }
            };
            let tensor = Tensor::from_vec(values, spec.shape, &Device::Cpu)?;
            vars.insert(spec.name, Var::from_tensor(&tensor)?);
        }
        let weights = Self { vars };
        weights.keep_ones()?;
        Ok(weights)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// When the file cannot be read, or a weight is missing or of another shape.
    pub fn load(path: &Path) -> Result<Self> {
        let mut found: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?;
        let mut vars = BTreeMap::new();
        for Spec { name, shape, .. } in specs() {
            let tensor = found
                .remove(&name)
                .filter(|t| t.dims() == [shape.0, shape.1])
                .ok_or_else(|| Error::Format(format!("{}: weight {name} {shape:?} is not there", path.display())))?;
            vars.insert(name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?);
        }
        Ok(Self { vars })
    }

    /// Makes weights of what `find` knows of each by name, row by row.
    ///
    /// # Errors
    /// When a weight is missing or of another size.
    pub fn from_rows(find: impl Fn(&str) -> Option<Vec<f32>>) -> Result<Self> {
        let mut vars = BTreeMap::new();
        for Spec { name, shape, .. } in specs() {
            let values = find(&name)
                .filter(|v| v.len() == shape.0 * shape.1)
                .ok_or_else(|| Error::Format(format!("weight {name} {shape:?} is not there")))?;
            vars.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?);
        }
        Ok(Self { vars })
    }

    /// Writes a checkpoint.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> =
            self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }

    /// A weight by name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let var = self.vars.get(name).ok_or_else(|| Error::Format(format!("no weight is named {name}")))?;
        Ok(var.as_tensor())
    }

    /// Sets a weight that is not trained: the normalisation of features.
    ///
    /// # Errors
    /// When there is none of this name, or its shape is another.
    pub fn set_row(&self, name: &str, row: &[f32]) -> Result<()> {
        let var = self.vars.get(name).ok_or_else(|| Error::Format(format!("no weight is named {name}")))?;
        Ok(var.set(&Tensor::from_slice(row, (1, row.len()), &Device::Cpu)?)?)
    }

    /// The weights that training moves.
    #[must_use]
    pub fn trained(&self) -> Vec<Var> {
        specs().iter().filter(|s| s.trained).filter_map(|s| self.vars.get(&s.name).cloned()).collect()
    }

    /// How many numbers training moves.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trained().iter().map(|v| v.elem_count()).sum()
    }

    /// Makes the column of ones exact again: it counts the softmax's denominator and is no weight to be learned.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn keep_ones(&self) -> Result<()> {
        for layer in 0..LAYERS {
            for (part, value) in [("w", 0.0f32), ("b", 1.0)] {
                let Some(var) = self.vars.get(&format!("layer{layer}.nodes.{part}")) else {
                    continue;
                };
                let (rows, columns) = var.dims2()?;
                let mut values = var.flatten_all()?.to_vec1::<f32>()?;
                values.iter_mut().skip(ONES).step_by(columns).for_each(|v| *v = value);
                var.set(&Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)?;
            }
        }
        Ok(())
    }
}
