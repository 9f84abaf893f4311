//! A model's weights by name: their shapes, their start, their file (safetensors).
//!
//! The file says in its metadata which model they are of (`pathloom.kind`), so that an ablation or a rival is never
//! taken for the network.

use crate::net::{FE, FN};
use crate::variant::Kind;
use crate::{Error, Result, learned, net};
use candle_core::{Device, Tensor, Var};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Tensors by name, row by row.
pub(crate) type Rows = BTreeMap<String, Vec<f32>>;

/// How a weight starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    /// Uniform within the bound of He et al. (2015), times a gain.
    Random(f32),
    /// One value everywhere.
    Constant(f32),
    /// These, row by row.
    Values(Vec<f32>),
}

/// One weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub name: String,
    pub shape: (usize, usize),
    pub start: Start,
    pub trained: bool,
}

impl Spec {
    pub fn new(name: &str, shape: (usize, usize), start: Start, trained: bool) -> Self {
        Self { name: name.into(), shape, start, trained }
    }
}

/// Where a file says which model it is of.
const KIND: &str = "pathloom.kind";

fn specs(kind: Kind) -> Vec<Spec> {
    match kind {
        Kind::Network(variant) => net::specs(variant),
        Kind::Gcn => learned::gcn::specs(),
        Kind::Gat => learned::gat::specs(),
        Kind::Mlp => learned::mlp::specs(),
    }
}

/// All weights, on the CPU.
#[derive(Debug, Clone)]
pub struct Weights {
    kind: Kind,
    vars: BTreeMap<String, Var>,
}

impl Weights {
    /// Random weights, the same for the same seed.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn random(kind: Kind, seed: u64) -> Result<Self> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self::build(kind, |spec| {
            let (rows, columns) = spec.shape;
            Ok(match &spec.start {
                Start::Constant(value) => vec![*value; rows * columns],
                Start::Values(values) => values.clone(),
                Start::Random(gain) => {
                    let bound = gain * (6.0 / rows as f32).sqrt();
                    (0..rows * columns).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
                }
            })
        })
    }

    fn build(kind: Kind, mut values: impl FnMut(&Spec) -> Result<Vec<f32>>) -> Result<Self> {
        let mut vars = BTreeMap::new();
        for spec in specs(kind) {
            let tensor = Tensor::from_vec(values(&spec)?, spec.shape, &Device::Cpu)?;
            vars.insert(spec.name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { kind, vars })
    }

    /// Makes weights of what `find` knows of each by name, row by row.
    ///
    /// # Errors
    /// When a weight is missing or of another size.
    pub fn from_rows(kind: Kind, find: impl Fn(&str) -> Option<Vec<f32>>) -> Result<Self> {
        Self::build(kind, |spec| {
            find(&spec.name)
                .filter(|v| v.len() == spec.shape.0 * spec.shape.1)
                .ok_or_else(|| Error::Format(format!("weight {} {:?} is not there", spec.name, spec.shape)))
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read, or a weight is missing or of another shape.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::at(path))?;
        let (metadata, tensors) =
            read_tensors(&bytes).map_err(|e| Error::Format(format!("{}: {e}", path.display())))?;
        let kind = metadata
            .get(KIND)
            .ok_or_else(|| Error::Format(format!("{}: no word of {KIND}: not of this version", path.display())))?
            .parse()?;
        Self::from_rows(kind, |name| tensors.get(name).cloned())
            .map_err(|e| Error::Format(format!("{}: {e}", path.display())))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let metadata = HashMap::from([(KIND.to_string(), self.kind.to_string())]);
        let tensors = self.rows("")?;
        write_whole(path, &tensor_bytes(&tensors, metadata)?)
    }

    /// Which model they are of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A weight by name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let var = self.vars.get(name).ok_or_else(|| Error::Format(format!("no weight is named {name}")))?;
        Ok(var.as_tensor())
    }

    /// Sets a weight of one row, such as the normalisation of features.
    ///
    /// # Errors
    /// When there is none of this name, or its shape is another.
    pub fn set_row(&self, name: &str, row: &[f32]) -> Result<()> {
        let var = self.vars.get(name).ok_or_else(|| Error::Format(format!("no weight is named {name}")))?;
        Ok(var.set(&Tensor::from_slice(row, (1, row.len()), &Device::Cpu)?)?)
    }

    /// All weights by name, each name after `prefix`, row by row.
    pub(crate) fn rows(&self, prefix: &str) -> Result<Rows> {
        let rows = |var: &Var| -> Result<Vec<f32>> { Ok(var.flatten_all()?.to_vec1::<f32>()?) };
        self.vars.iter().map(|(name, var)| Ok((format!("{prefix}{name}"), rows(var)?))).collect()
    }

    /// The weights that training moves, in the order of their names.
    #[must_use]
    pub fn trained(&self) -> Vec<(String, Var)> {
        let mut trained: Vec<String> = specs(self.kind).into_iter().filter(|s| s.trained).map(|s| s.name).collect();
        trained.sort_unstable();
        trained.into_iter().filter_map(|name| self.vars.get(&name).cloned().map(|var| (name, var))).collect()
    }

    /// Weights of their own with the same values.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn copy(&self) -> Result<Self> {
        let rows = self.rows("")?;
        Self::from_rows(self.kind, |name| rows.get(name).cloned())
    }

    /// How many numbers training moves.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trained().iter().map(|(_, v)| v.elem_count()).sum()
    }

    /// How many features nodes and edges have: what samples must have too.
    #[must_use]
    pub fn widths() -> (usize, usize) {
        (FN, FE)
    }
}

/// The metadata and the tensors of a safetensors file, all as rows of f32.
pub(crate) fn read_tensors(bytes: &[u8]) -> Result<(HashMap<String, String>, Rows)> {
    let refused = |e: safetensors::SafeTensorError| Error::Format(format!("no safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(refused)?;
    let file = SafeTensors::deserialize(bytes).map_err(refused)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(Error::Format(format!("{name} is {:?}, not F32", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensors.insert(name, values);
    }
    Ok((header.metadata().clone().unwrap_or_default(), tensors))
}

/// A safetensors file of rows of f32.
pub(crate) fn tensor_bytes(tensors: &Rows, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let refused = |e: safetensors::SafeTensorError| Error::Format(format!("no safetensors file: {e}"));
    let bytes: Vec<(&String, usize, Vec<u8>)> =
        tensors.iter().map(|(n, v)| (n, v.len(), v.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, count, data) in &bytes {
        views.push((name.as_str(), TensorView::new(Dtype::F32, vec![*count], data).map_err(refused)?));
    }
    safetensors::serialize(views, Some(metadata)).map_err(refused)
}

/// Writes a file beside its place first, so that a kill leaves the old one or the new one, never half of one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    crate::cli::write(Path::new(&beside), bytes)?;
    std::fs::rename(&beside, path).map_err(Error::at(path))
}
