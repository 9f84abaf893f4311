//! The model contract: which files are accepted, and what exactly differs in one that is not.
//!
//! A file is judged by its own metadata and by the names, types and widths of its inputs and outputs, before an engine
//! sees it. The columns must be those of `graph::features`, in that order: a model trained on other columns would give
//! numbers that look like latencies and are none.
//!
//! | key of the ONNX metadata | holds |
//! | --- | --- |
//! | `pathloom.contract` | the contract's version, `2` |
//! | `pathloom.node_features`, `pathloom.edge_features` | the columns, separated by commas |
//! | `pathloom.name`, `pathloom.version` | what the model calls itself |
//! | `pathloom.trained_on`, `pathloom.created_by` | where it came from |
//! | `pathloom.graph_sha256` | the checksum of the graph's bytes, weights included, in hexadecimal; optional |
//!
//! All but the last are required. They are the last thing in a file, so one that is cut short at whatever byte lacks one of them, or
//! nothing that anybody reads.
//!
//! Further outputs are allowed (a later model may give more), further inputs are not (nothing could feed them).
//! Nothing here panics, whatever the bytes: a property test holds that. Damaged weights show in the checksum. A file without
//! one has only the warm-up in `engine`, which finds little: rectifiers and limits hide even NaN among the weights.

use super::onnx::{FLOAT, INT64, Malformed, ModelProto, ValueInfoProto, graph_bytes};
use crate::graph::features::{CONTRACT_VERSION, EDGE_FEATURES, NODE_FEATURES};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The model that every binary carries; `file: builtin` names it.
pub const BUILTIN: &str = "builtin";

/// The largest file that is read. The shipped models are below 1 MiB; more than this is not one of ours.
pub const MAX_MODEL_BYTES: u64 = 64 * 1024 * 1024;

static BUILTIN_BYTES: &[u8] = include_bytes!("../../models/pathloom.onnx");

/// The inputs, their element types and the widths that are fixed (`None` varies).
const INPUTS: [(&str, i32, &[Option<usize>]); 5] = [
    ("node_features", FLOAT, &[None, Some(NODE_FEATURES.len())]),
    ("edges", INT64, &[Some(2), None]),
    ("edge_features", FLOAT, &[None, Some(EDGE_FEATURES.len())]),
    ("path_offsets", INT64, &[None]),
    ("path_links", INT64, &[None]),
];

/// The outputs, each one `f32` a candidate, a node or an edge.
pub(super) const OUTPUTS: [&str; 6] =
    ["score", "latency_mean_s", "latency_p99_s", "jitter_s", "node_load", "attention"];

/// What a model file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The contract that it follows.
    pub contract: u32,
    /// The digest or the description of its training data.
    pub trained_on: String,
    /// The program that made it.
    pub created_by: String,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// The file's size.
    pub bytes_len: u64,
}

/// Why a model is not used. The text says what differs and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is no such file.
    #[error("there is no model file {file}: give `model.file` the path of an .onnx file, or `builtin`")]
    Missing {
        /// The path.
        file: String,
    },
    /// The file cannot be read.
    #[error("the model file {file} cannot be read ({reason}): check that it is a file and that this user may read it")]
    Unreadable {
        /// The path.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// The file is larger than `MAX_MODEL_BYTES`.
    #[error("the model has more than {limit} bytes: this is not a model of Pathloom's; export one with `models/`")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The file ends too early.
    #[error(
        "the model file is cut short after {bytes} bytes: copy it again, and replace files by renaming a whole one"
    )]
    Truncated {
        /// Its size.
        bytes: u64,
    },
    /// The file is something else.
    #[error("this is not a whole ONNX file ({reason}): give `model.file` the path of one, or `builtin`")]
    NotOnnx {
        /// What it seems to be.
        reason: String,
    },
    /// The graph's bytes are not those that were written.
    #[error("the model file is damaged (its graph has not the checksum that it states): copy it again")]
    Damaged,
    /// An ONNX file, but none of ours.
    #[error(
        "the ONNX file has no metadata `{key}`, so it was not made for Pathloom or is cut short: \
         export one with `models/`, or copy it again"
    )]
    NoContract {
        /// The key that is missing.
        key: &'static str,
    },
    /// Made for another version of the contract.
    #[error(
        "the model follows contract {found}, this binary needs {expected}: use a model and a binary of the same release"
    )]
    OtherContract {
        /// The file's.
        found: String,
        /// This binary's.
        expected: u32,
    },
    /// A column that this binary gives is not in the model's list.
    #[error("the model does not know column `{column}` of `{input}`: train it again with this release's features")]
    MissingColumn {
        /// The input.
        input: &'static str,
        /// The column.
        column: String,
    },
    /// The model wants a column that this binary does not give.
    #[error("the model wants column `{column}` of `{input}`, which this release does not give: train it again")]
    UnknownColumn {
        /// The input.
        input: &'static str,
        /// The column.
        column: String,
    },
    /// The same columns in another order, or one twice.
    #[error(
        "column {at} of `{input}` is `{found}` in the model and `{expected}` here: train it again with this release"
    )]
    ColumnOrder {
        /// The input.
        input: &'static str,
        /// Which column, from 0.
        at: usize,
        /// This binary's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// An input of the contract is not in the graph.
    #[error("the model has no input `{input}`: export it with `models/`")]
    MissingInput {
        /// The input.
        input: &'static str,
    },
    /// The graph has an input that nothing can feed.
    #[error(
        "the model has an input `{input}` that contract {CONTRACT_VERSION} does not know: export it with `models/`"
    )]
    UnknownInput {
        /// The input.
        input: String,
    },
    /// An output of the contract is not in the graph.
    #[error("the model has no output `{output}`: export it with `models/`")]
    MissingOutput {
        /// The output.
        output: &'static str,
    },
    /// An input or output has another type or shape.
    #[error("`{value}` of the model is {found}, the contract wants {expected}: export it with `models/`")]
    OtherType {
        /// The input or output.
        value: &'static str,
        /// The contract's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// No engine can run it.
    #[error("no engine can run the model ({reason}): export it with the operators that `models/` uses")]
    Engine {
        /// What each engine said.
        reason: String,
    },
    /// It ran on the test graph and gave nonsense.
    #[error("the model fails on the test graph ({reason}): its weights may be damaged; copy or train it again")]
    WarmUp {
        /// What was wrong.
        reason: String,
    },
    /// Loading it panicked.
    #[error("loading the model crashed ({reason}): please report it with the model's digest")]
    Crashed {
        /// The panic's message.
        reason: String,
    },
    /// Loading it takes too long.
    #[error("loading the model took longer than {} s: try the CPU (`device: cpu`) or a smaller model", limit.as_secs_f64())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// A later reload was asked for while this one was loading.
    #[error("a later reload took this one's place: nothing to do")]
    Superseded,
    /// The scorer was stopped.
    #[error("the scorer is stopped: nothing to do")]
    Stopped,
}

impl ModelError {
    /// A stable short code, for metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
            Self::Truncated { .. } => "truncated",
            Self::NotOnnx { .. } => "not_onnx",
            Self::Damaged => "damaged",
            Self::NoContract { .. } => "no_contract",
            Self::OtherContract { .. } => "other_contract",
            Self::MissingColumn { .. } => "missing_column",
            Self::UnknownColumn { .. } => "unknown_column",
            Self::ColumnOrder { .. } => "column_order",
            Self::MissingInput { .. } => "missing_input",
            Self::UnknownInput { .. } => "unknown_input",
            Self::MissingOutput { .. } => "missing_output",
            Self::OtherType { .. } => "other_type",
            Self::Engine { .. } => "engine",
            Self::WarmUp { .. } => "warm_up",
            Self::Crashed { .. } => "crashed",
            Self::TooSlow { .. } => "too_slow",
            Self::Superseded => "superseded",
            Self::Stopped => "stopped",
        }
    }
}

/// A file's bytes that follow the contract.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it says of itself.
    pub info: ModelInfo,
    /// The whole file.
    pub bytes: Cow<'static, [u8]>,
}

impl Model {
    /// Reads and verifies `builtin` or a file.
    pub fn read(file: &str) -> Result<Self, ModelError> {
        let bytes: Cow<'static, [u8]> =
            if file == BUILTIN { BUILTIN_BYTES.into() } else { read_file(Path::new(file))?.into() };
        Ok(Self { info: verify(&bytes)?, bytes })
    }
}

/// Verifies a file's bytes. Takes milliseconds for a model of 1 MiB, most of them for the digest.
pub fn verify(bytes: &[u8]) -> Result<ModelInfo, ModelError> {
    let size = bytes.len() as u64;
    if size > MAX_MODEL_BYTES {
        return Err(ModelError::TooLarge { limit: MAX_MODEL_BYTES });
    }
    let not_onnx = |reason: &str| Err(ModelError::NotOnnx { reason: reason.into() });
    if bytes.is_empty() {
        return not_onnx("it is empty");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return not_onnx("it is the pointer of git-lfs; run `git lfs pull`");
    }
    let model = match ModelProto::read(bytes) {
        Ok(model) => model,
        Err(Malformed::CutShort) => return Err(ModelError::Truncated { bytes: size }),
        Err(Malformed::Other(reason)) => return not_onnx(&reason),
    };
    let required = |key: &'static str| model.metadata(key).ok_or(ModelError::NoContract { key });
    let contract = required("pathloom.contract")?;
    if contract.trim().parse() != Ok(CONTRACT_VERSION) {
        return Err(ModelError::OtherContract { found: shown(contract), expected: CONTRACT_VERSION });
    }
    columns("node_features", &NODE_FEATURES, required("pathloom.node_features")?)?;
    columns("edge_features", &EDGE_FEATURES, required("pathloom.edge_features")?)?;
    if let Some(stated) = model.metadata("pathloom.graph_sha256") {
        let actual = graph_bytes(bytes).map(|graph| hex(&Sha256::digest(graph)));
        if actual.as_deref() != Some(stated) {
            return Err(ModelError::Damaged);
        }
    }
    let graph = model.graph.as_ref();
    values(graph.map_or(&[], |g| &g.input), graph.map_or(&[], |g| &g.output))?;
    Ok(ModelInfo {
        name: required("pathloom.name").map(shown)?,
        version: required("pathloom.version").map(shown)?,
        contract: CONTRACT_VERSION,
        trained_on: required("pathloom.trained_on").map(shown)?,
        created_by: required("pathloom.created_by").map(shown)?,
        digest: hex(&Sha256::digest(bytes)),
        bytes_len: size,
    })
}

/// Reads a regular file up to the limit. A pipe or a device is refused rather than waited for.
fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ModelError::Missing { file: file.clone() },
        _ => ModelError::Unreadable { file: file.clone(), reason: error.to_string() },
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ModelError::Unreadable { file: file.clone(), reason: "it is not a regular file".into() });
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(failed)?;
    // The size may change between the question and the answer, so the limit holds for what is read.
    opened.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn columns(input: &'static str, expected: &[&str], listed: &str) -> Result<(), ModelError> {
    let found: Vec<&str> = listed.split(',').map(str::trim).collect();
    if let Some(column) = expected.iter().find(|column| !found.contains(column)) {
        return Err(ModelError::MissingColumn { input, column: (*column).into() });
    }
    if let Some(column) = found.iter().find(|column| !expected.contains(column)) {
        return Err(ModelError::UnknownColumn { input, column: shown(column) });
    }
    let differs = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at));
    match differs {
        None => Ok(()),
        Some(at) => {
            let name = |list: &[&str]| list.get(at).map_or_else(|| "nothing".into(), |column| shown(column));
            Err(ModelError::ColumnOrder { input, at, expected: name(expected), found: name(&found) })
        }
    }
}

fn values(inputs: &[ValueInfoProto], outputs: &[ValueInfoProto]) -> Result<(), ModelError> {
    for (name, element, dimensions) in INPUTS {
        let value = inputs.iter().find(|v| v.name == name).ok_or(ModelError::MissingInput { input: name })?;
        check_type(name, value, element, dimensions)?;
    }
    if let Some(value) = inputs.iter().find(|v| INPUTS.iter().all(|(name, ..)| v.name != *name)) {
        return Err(ModelError::UnknownInput { input: shown(&value.name) });
    }
    for name in OUTPUTS {
        let value = outputs.iter().find(|v| v.name == name).ok_or(ModelError::MissingOutput { output: name })?;
        check_type(name, value, FLOAT, &[None])?;
    }
    Ok(())
}

/// Compares what the file declares. A shape that it leaves out is judged when the model runs.
fn check_type(
    name: &'static str,
    value: &ValueInfoProto,
    element: i32,
    dimensions: &[Option<usize>],
) -> Result<(), ModelError> {
    let Some(tensor) = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(ModelError::OtherType {
            value: name,
            expected: described(element, dimensions.iter().copied()),
            found: "no tensor".into(),
        });
    };
    let declared: Option<Vec<Option<usize>>> = tensor.shape.as_ref().map(|shape| {
        shape.dim.iter().map(|d| d.dim_value.map(|size| usize::try_from(size).unwrap_or(usize::MAX))).collect()
    });
    let fits = declared.as_ref().is_none_or(|declared| {
        declared.len() == dimensions.len()
            && declared.iter().zip(dimensions).all(|(found, wanted)| match (found, wanted) {
                (Some(found), Some(wanted)) => found == wanted,
                // A number where the mesh's size belongs: the model was exported for one mesh only.
                (Some(_), None) => false,
                (None, _) => true,
            })
    });
    if tensor.elem_type == element && fits {
        return Ok(());
    }
    Err(ModelError::OtherType {
        value: name,
        expected: described(element, dimensions.iter().copied()),
        found: described(tensor.elem_type, declared.unwrap_or_default().into_iter()),
    })
}

fn described(element: i32, dimensions: impl Iterator<Item = Option<usize>>) -> String {
    let element = match element {
        FLOAT => "f32".into(),
        INT64 => "i64".into(),
        other => format!("ONNX type {other}"),
    };
    let dimensions: Vec<String> = dimensions.map(|d| d.map_or_else(|| "any".into(), |d| d.to_string())).collect();
    format!("{element} [{}]", dimensions.join(", "))
}

/// Text from a file, bounded and without control characters, since it goes into logs.
fn shown(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(200).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
