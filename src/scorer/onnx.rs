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

/// The graph's bytes as they stand in the file, for a checksum; `None` in a file that is not whole.
pub(super) fn graph_bytes(bytes: &[u8]) -> Option<&[u8]> {
    const GRAPH: u64 = 7 << 3 | 2;
    Fields(bytes).map_while(Result::ok).find(|(key, _)| *key == GRAPH).map(|(_, value)| value)
}

/// Whether bytes begin like a `ModelProto` and end in the middle of a field.
fn is_cut_short(bytes: &[u8]) -> bool {
    // Every exporter writes the version first, as field 1, a varint.
    bytes.first() == Some(&0x08) && Fields(bytes).any(|field| field == Err(Malformed::CutShort))
}

/// The fields of a message, each with its key and its bytes (those of a number are left out); ends after an error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next_field(&mut self) -> Result<(u64, &'a [u8]), Malformed> {
        let key = self.varint()?;
        let length = match key & 7 {
            0 => {
                self.varint()?;
                0
            }
            1 => 8,
            2 => self.varint()?,
            5 => 4,
            _ => return Err(Malformed::Other("it has a field of an unknown kind".into())),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (value, rest) = self.0.split_at_checked(length).ok_or(Malformed::CutShort)?;
        self.0 = rest;
        Ok((key, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // The longest varint has ten bytes: with fewer left, the end is what is wrong.
        let ends = self.0.len() < 10;
        prost::encoding::decode_varint(&mut self.0).map_err(|error| match ends {
            true => Malformed::CutShort,
            false => Malformed::Other(error.to_string()),
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}
