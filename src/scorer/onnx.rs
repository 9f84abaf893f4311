//! The few fields of an ONNX file that the contract needs, so that a file is judged before any engine sees it.
//!
//! Field numbers are those of `onnx.proto` (ONNX IR version 3 and later). Everything else, the graph's nodes and weights
//! included, is skipped without a copy. The same messages write the synthetic files of the tests.

use prost::Message;

/// A whole file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// A pair of the file's metadata.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The graph, without its nodes and weights.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// A named input or output.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A value's type; of its kinds only tensors matter here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// A tensor's element type and shape.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A tensor's dimensions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// One dimension: a number, or a name for one that varies.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

/// ONNX's number for 32-bit floats.
pub(super) const FLOAT: i32 = 1;
/// ONNX's number for 64-bit integers.
pub(super) const INT64: i32 = 7;

/// Why bytes are not a whole ONNX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It begins as one and ends in the middle of a field.
    CutShort,
    /// It is something else.
    Other(String),
}

impl ModelProto {
    /// Reads a file's fields.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        match Self::decode(bytes) {
            Ok(model) if model.ir_version > 0 && model.graph.is_some() => Ok(model),
            Ok(model) if model.ir_version > 0 => Err(Malformed::CutShort),
            Ok(_) => Err(Malformed::Other("it has neither an ONNX version nor a graph".into())),
            Err(_) if is_cut_short(bytes) => Err(Malformed::CutShort),
            Err(error) => Err(Malformed::Other(error.to_string())),
        }
    }

    /// A value of the metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Whether bytes begin like a `ModelProto` and a length in them passes their end.
fn is_cut_short(mut bytes: &[u8]) -> bool {
    // Every exporter writes the version first, as field 1, a varint.
    if bytes.first() != Some(&0x08) {
        return false;
    }
    while !bytes.is_empty() {
        let Ok(key) = prost::encoding::decode_varint(&mut bytes) else { return bytes.len() < 10 };
        let skip = match key & 7 {
            0 => match prost::encoding::decode_varint(&mut bytes) {
                Ok(_) => 0,
                Err(_) => return bytes.len() < 10,
            },
            1 => 8,
            2 => match prost::encoding::decode_varint(&mut bytes) {
                Ok(length) => length,
                Err(_) => return bytes.len() < 10,
            },
            5 => 4,
            _ => return false,
        };
        match usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)) {
            Some(rest) => bytes = rest,
            None => return true,
        }
    }
    false
}
