//! AdamW (Loshchilov and Hutter, 2019, algorithm 2), with its moments at hand so that a checkpoint can hold them.
//! Gradients beyond a norm are scaled down, and a fading average of the weights is kept beside them.

use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

const BETA1: f32 = 0.9;
/// Shorter than the usual 0.999: a run has some ten thousand steps, and graphs differ.
const BETA2: f32 = 0.99;
const EPS: f32 = 1e-8;
/// Gradients are scaled down to this norm.
const LARGEST_NORM: f32 = 2.0;
/// How much of the average a step keeps.
const AVERAGE_KEEP: f32 = 0.998;

/// One weight and what the optimiser knows of it.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    values: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    average: Vec<f32>,
}

/// The optimiser.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    decay: f32,
    step: u32,
}

impl AdamW {
    /// An optimiser of these weights' trained part.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn new(weights: &Weights, decay: f32) -> Result<Self> {
        let slot = |(name, var): (String, Var)| -> Result<Slot> {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            let zeros = vec![0.0; values.len()];
            Ok(Slot { name, var, mean: zeros.clone(), square: zeros, average: values.clone(), values })
        };
        Ok(Self { slots: weights.trained().into_iter().map(slot).collect::<Result<_>>()?, decay, step: 0 })
    }

    /// The weights that it moves, in its order.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.slots.iter().map(|s| &s.var)
    }

    /// One step down the gradients, which are in the order of `vars`; returns their norm.
    ///
    /// # Errors
    /// When gradients are not finite, or a tensor cannot be made.
    pub fn step(&mut self, gradients: &[Vec<f32>], rate: f32) -> Result<f32> {
        let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
        if !norm.is_finite() {
            return Err(Error::Check("a gradient is not finite".into()));
        }
        let scale = (LARGEST_NORM / norm.max(1e-12)).min(1.0);
        self.step += 1;
        let (first, second) = (1.0 - BETA1.powi(self.step as i32), 1.0 - BETA2.powi(self.step as i32));
        // The average follows quickly at first, so that it does not remember the random start.
        let keep = AVERAGE_KEEP.min((1.0 + self.step as f32) / (10.0 + self.step as f32));
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            // Rows of one are biases and shifts: they are not decayed.
            let decay = if slot.var.dim(0)? > 1 { self.decay * rate } else { 0.0 };
            let moments = slot.mean.iter_mut().zip(&mut slot.square);
            let values = slot.values.iter_mut().zip(&mut slot.average);
            for (((mean, square), (value, average)), g) in moments.zip(values).zip(gradient) {
                let g = g * scale;
                *mean = BETA1 * *mean + (1.0 - BETA1) * g;
                *square = BETA2 * *square + (1.0 - BETA2) * g * g;
                let update = (*mean / first) / ((*square / second).sqrt() + EPS);
                *value -= rate * update + decay * *value;
                *average = keep * *average + (1.0 - keep) * *value;
            }
            set(&slot.var, &slot.values)?;
        }
        Ok(norm)
    }

    /// Weights with the averages in place of what the last step left.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn averaged(&self, weights: &Weights) -> Result<Weights> {
        let mut rows = weights.rows("")?;
        for slot in &self.slots {
            rows.insert(slot.name.clone(), slot.average.clone());
        }
        Weights::from_rows(weights.kind(), |name| rows.get(name).cloned())
    }

    /// Writes all that it knows into named rows.
    pub fn save(&self, into: &mut BTreeMap<String, Vec<f32>>) {
        for slot in &self.slots {
            let parts = [("m", &slot.mean), ("v", &slot.square), ("a", &slot.average)];
            into.extend(parts.map(|(part, rows)| (format!("{part}/{}", slot.name), rows.clone())));
        }
    }

    /// Takes back what `save` wrote at this step; the weights hold their values already.
    ///
    /// # Errors
    /// When something is missing or of another size.
    pub fn restore(&mut self, from: &BTreeMap<String, Vec<f32>>, step: u32) -> Result<()> {
        self.step = step;
        for slot in &mut self.slots {
            let size = slot.values.len();
            for (part, rows) in [("m", &mut slot.mean), ("v", &mut slot.square), ("a", &mut slot.average)] {
                let name = format!("{part}/{}", slot.name);
                let found = from.get(&name).filter(|r| r.len() == size);
                *rows = found.ok_or_else(|| Error::Format(format!("{name} is not there")))?.clone();
            }
        }
        Ok(())
    }
}

fn set(var: &Var, values: &[f32]) -> Result<()> {
    Ok(var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu)?)?)
}
