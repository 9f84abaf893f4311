//! Writes the network as an ONNX file, with the contract in its metadata.
//!
//! `writer` appends a node for each of the network's operations, so the file holds the very formulas that were
//! trained. Only operations that both ONNX Runtime and rten carry out are used (opset 17). The sums over edges are
//! ScatterND with `reduction = add`, which **races on ONNX Runtime's CPU provider with two or more intra-op threads**
//! (upstream issues 18048 and 23396): run it with one. The file says so itself, under `pathloom.intra_threads`.

pub mod proto;
mod writer;

use crate::net::{FE, FN};
use crate::variant::{Kind, Variant};
use crate::weights::Weights;
use crate::{Error, Result};
use pathloom::graph::features::{CONTRACT_VERSION, EDGE_FEATURES, NODE_FEATURES};
use prost::Message;
use proto::{
    Dimension, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TypeProto,
    TypeProtoTensor, ValueInfoProto, data_type,
};
use sha2::{Digest, Sha256};
use writer::Writer;

/// The version of ONNX's operations.
const OPSET: i64 = 17;
/// The version of the file format that came with it.
const IR: i64 = 8;
/// A larger file is not written: each sidecar loads it, and a repository keeps it.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// An input or output of the contract: name, element type, shape, unit.
pub type Port = (&'static str, i32, &'static [Side], &'static str);

/// A dimension of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Fixed.
    Exactly(usize),
    /// Any, by name.
    Any(&'static str),
}
use Side::{Any, Exactly};

/// What the model reads.
pub const INPUTS: [Port; 5] = [
    ("node_features", data_type::FLOAT, &[Any("N"), Exactly(FN)], "see pathloom.node_features, NaN is unknown"),
    ("edges", data_type::INT64, &[Exactly(2), Any("E")], "row 0 called node, row 1 calling node, sorted by row 1"),
    ("edge_features", data_type::FLOAT, &[Any("E"), Exactly(FE)], "see pathloom.edge_features, NaN is unknown"),
    ("path_offsets", data_type::INT64, &[Any("C + 1")], "where each path begins in path_links, and the end"),
    ("path_links", data_type::INT64, &[Any("L")], "columns of edges"),
];

/// What the model says.
pub const OUTPUTS: [Port; 6] = [
    ("score", data_type::FLOAT, &[Any("C")], "-ln(intrinsic latency in s)"),
    ("latency_mean_s", data_type::FLOAT, &[Any("C")], "s, next window"),
    ("latency_p99_s", data_type::FLOAT, &[Any("C")], "s, next window"),
    ("jitter_s", data_type::FLOAT, &[Any("C")], "s, next window"),
    ("node_load", data_type::FLOAT, &[Any("N")], "requests/s, next window"),
    ("attention", data_type::FLOAT, &[Any("E")], "share of the caller's attention, last layer"),
];

/// What a file says of itself, beyond the contract.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of the training data, in hexadecimal, or what else it is.
    pub trained_on: String,
    /// The command that made it.
    pub created_by: String,
    /// The commit that the command ran at.
    pub commit: String,
    /// The length of the next window, in seconds.
    pub window_s: u32,
}

impl About {
    /// What a file says of itself.
    ///
    /// # Errors
    /// When the bytes are not an ONNX file.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let said = crate::check::metadata(bytes)?;
        let of = |key: &str| {
            said.iter()
                .find(|(k, _)| k.strip_prefix("pathloom.") == Some(key))
                .map(|(_, v)| v.clone())
                .unwrap_or_default()
        };
        Ok(Self {
            name: of("name"),
            version: of("version"),
            trained_on: of("trained_on"),
            created_by: of("created_by"),
            commit: of("commit"),
            window_s: of("window_s").parse().unwrap_or(crate::WINDOW_S),
        })
    }
}

/// The file's bytes.
///
/// # Errors
/// When a weight is missing, or the file would be larger than `MAX_BYTES`.
pub fn bytes(weights: &Weights, about: &About) -> Result<Vec<u8>> {
    let bytes = model(weights, about)?.encode_to_vec();
    if bytes.len() > MAX_BYTES {
        return Err(Error::Format(format!("the model would have {} bytes, more than {MAX_BYTES}", bytes.len())));
    }
    Ok(bytes)
}

/// The weights in a file that this writer wrote.
///
/// # Errors
/// When the bytes are not an ONNX file, or hold other weights.
pub fn weights(bytes: &[u8]) -> Result<Weights> {
    let model = ModelProto::decode(bytes).map_err(|e| Error::Format(format!("not an ONNX file: {e}")))?;
    let named = model.metadata_props.iter().find(|p| p.key.as_deref() == Some("pathloom.kind"));
    let kind = match named.and_then(|p| p.value.as_deref()) {
        Some(name) => name.parse()?,
        None => Kind::Network(Variant::FULL),
    };
    let initializers = model.graph.unwrap_or_default().initializer;
    Weights::from_rows(kind, |name| {
        let tensor = initializers.iter().find(|t| t.name.as_deref() == Some(name))?;
        let raw = tensor.raw_data.as_deref()?;
        Some(raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    })
}

/// The file as a message.
///
/// # Errors
/// When a weight is missing.
pub fn model(weights: &Weights, about: &About) -> Result<ModelProto> {
    let writer = Writer::new(weights);
    let inputs = writer.inputs();
    let kind = weights.kind();
    if let Kind::Network(Variant { memory: false, .. } | Variant { sharing: false, .. }) = kind {
        return Err(Error::Format(format!("{kind} leaves out features, which a file cannot do")));
    }
    let out = kind.forward(&writer, &inputs)?;
    for (port, value) in OUTPUTS.iter().zip([
        &out.score,
        &out.latency_mean_s,
        &out.latency_p99_s,
        &out.jitter_s,
        &out.node_load,
        &out.attention,
    ]) {
        writer.output(port.0, value);
    }
    let (node, initializer) = writer.finish();
    let graph = GraphProto {
        node,
        name: Some("pathloom".into()),
        initializer,
        input: INPUTS.iter().map(value_info).collect(),
        output: OUTPUTS.iter().map(value_info).collect(),
    };
    Ok(ModelProto {
        ir_version: Some(IR),
        producer_name: Some("pathloom-models".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        metadata_props: metadata(about, kind, &graph),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
    })
}

fn metadata(about: &About, kind: Kind, graph: &GraphProto) -> Vec<StringStringEntryProto> {
    let ports = |ports: &[Port]| {
        let lines = ports.iter().map(|(name, _, shape, unit)| format!("{name} {} {unit}", shape_text(shape)));
        lines.collect::<Vec<_>>().join("; ")
    };
    [
        ("contract", CONTRACT_VERSION.to_string()),
        ("node_features", NODE_FEATURES.join(",")),
        ("edge_features", EDGE_FEATURES.join(",")),
        ("inputs", ports(&INPUTS)),
        ("outputs", ports(&OUTPUTS)),
        ("window_s", about.window_s.to_string()),
        ("intra_threads", "1".into()),
        ("kind", kind.to_string()),
        ("name", about.name.clone()),
        ("version", about.version.clone()),
        ("trained_on", about.trained_on.clone()),
        ("created_by", about.created_by.clone()),
        ("commit", about.commit.clone()),
        // So that a flipped bit in the weights is found when the file is loaded, not when it steers.
        ("graph_sha256", Sha256::digest(graph.encode_to_vec()).iter().map(|b| format!("{b:02x}")).collect()),
    ]
    .into_iter()
    .map(|(key, value)| StringStringEntryProto { key: Some(format!("pathloom.{key}")), value: Some(value) })
    .collect()
}

fn shape_text(shape: &[Side]) -> String {
    let sides = shape.iter().map(|side| match side {
        Exactly(n) => n.to_string(),
        Any(name) => (*name).to_string(),
    });
    format!("[{}]", sides.collect::<Vec<_>>().join(", "))
}

fn value_info((name, elem_type, shape, unit): &Port) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|side| match side {
            Exactly(n) => Dimension { dim_value: i64::try_from(*n).ok(), dim_param: None },
            Any(name) => Dimension { dim_value: None, dim_param: Some((*name).into()) },
        })
        .collect();
    ValueInfoProto {
        name: Some((*name).into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor { elem_type: Some(*elem_type), shape: Some(TensorShapeProto { dim }) }),
        }),
        doc_string: Some((*unit).into()),
    }
}
