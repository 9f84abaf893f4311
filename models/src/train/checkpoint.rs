//! Where training stands, in one file that is written whole or not at all: weights, the optimiser's moments, the best
//! weights so far, and the state below. What a step draws depends on the seed and the step's number alone, so no
//! generator's state is needed.

use super::adam::AdamW;
use super::figures::Figures;
use crate::weights::{Weights, read_tensors, tensor_bytes, write_whole};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Where the file keeps the state.
const STATE: &str = "pathloom.training";

/// A look at the validation figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// After how many steps.
    pub step: usize,
    /// The loss, fading mean.
    pub loss: f64,
    /// The learning rate.
    pub rate: f64,
    /// The figures of the averaged weights.
    pub validation: Figures,
    /// Whether they were the best so far.
    pub best: bool,
}

/// Where training stands, apart from tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What is trained how on what: another plan cannot go on from here.
    pub plan: String,
    /// How many steps were made.
    pub step: usize,
    /// Which pass over the samples it is, and how many of them this pass has used.
    pub pass: u64,
    /// See `pass`.
    pub used: usize,
    /// The loss, fading mean.
    pub loss: f64,
    /// Looks without a better one.
    pub worse: usize,
    /// All looks.
    pub history: Vec<Look>,
}

/// Writes a checkpoint.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, state: &State, weights: &Weights, best: Option<&Weights>, optimiser: &AdamW) -> Result<()> {
    let mut rows = weights.rows("w/")?;
    if let Some(best) = best {
        rows.extend(best.rows("best/")?);
    }
    optimiser.save(&mut rows);
    let state = serde_json::to_string(state).map_err(|e| Error::Format(e.to_string()))?;
    write_whole(path, &tensor_bytes(&rows, HashMap::from([(STATE.to_string(), state)]))?)
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where training stood.
    pub state: State,
    rows: BTreeMap<String, Vec<f32>>,
}

impl Checkpoint {
    /// Reads a checkpoint of this plan.
    ///
    /// # Errors
    /// When it cannot be read, is none, or is another plan's.
    pub fn read(path: &Path, plan: &str) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::at(path))?;
        let bad = |why: String| Error::Format(format!("{}: {why}; train without --resume", path.display()));
        let (metadata, rows) = read_tensors(&bytes).map_err(|e| bad(format!("not a checkpoint: {e}")))?;
        let text = metadata.get(STATE).ok_or_else(|| bad("not a checkpoint: it has no training state".into()))?;
        let state: State = serde_json::from_str(text).map_err(|e| bad(format!("not a checkpoint: {e}")))?;
        if state.plan != plan {
            return Err(bad(format!("a checkpoint of another training: it has {}, this is {plan}", state.plan)));
        }
        Ok(Self { state, rows })
    }

    /// Sets weights to those of the checkpoint and the optimiser to its moments; returns the best weights so far.
    ///
    /// # Errors
    /// When something is missing or of another shape.
    pub fn restore(&self, path: &Path, weights: &Weights) -> Result<(Weights, AdamW, Option<Weights>)> {
        let at = |e: Error| Error::Format(format!("{}: {e}; train without --resume", path.display()));
        let part =
            |prefix: &str| Weights::from_rows(weights.kind(), |n| self.rows.get(&format!("{prefix}{n}")).cloned());
        let weights = part("w/").map_err(at)?;
        let mut optimiser = AdamW::new(&weights, super::DECAY)?;
        optimiser.restore(&self.rows, self.state.step as u32).map_err(at)?;
        let best = self.rows.keys().any(|k| k.starts_with("best/")).then(|| part("best/").map_err(at)).transpose()?;
        Ok((weights, optimiser, best))
    }
}
