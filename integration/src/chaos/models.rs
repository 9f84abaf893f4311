//! Models to replace the running one with: another one, and one that passes for good until it meets a real mesh.
//!
//! An ONNX file is a protobuf message; what is not changed is copied byte by byte.

use prost::encoding::{decode_varint, encode_varint};

/// The committed model.
pub const GOOD: &[u8] = include_bytes!("../../../models/pathloom.onnx");

/// Field numbers of `onnx.proto`.
const MODEL_GRAPH: u64 = 7;
const MODEL_METADATA: u64 = 14;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const NODE_INPUT: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_OPERATION: u64 = 4;
/// How many links the paths have together in the graphs that a model is tried with before it is taken.
const TRIED_WITH: i64 = 4;

/// The same model as another file.
#[must_use]
pub fn another() -> Vec<u8> {
    let mut model = GOOD.to_vec();
    let mut entry = Vec::new();
    put(&mut entry, 1, b"chaos");
    put(&mut entry, 2, b"another file");
    put(&mut model, MODEL_METADATA, &entry);
    model
}

/// A model that works for paths of [`TRIED_WITH`] links together, and fails for any other number.
///
/// # Panics
/// When the committed model counts its paths' links otherwise than it did.
#[must_use]
pub fn failing() -> Vec<u8> {
    let mut model = Vec::new();
    for (number, value, whole) in fields(GOOD) {
        match value {
            Some(graph) if number == MODEL_GRAPH => put(&mut model, MODEL_GRAPH, &miscounting(graph)),
            _ => model.extend_from_slice(whole),
        }
    }
    // It would be found out by its checksum.
    let key = b"pathloom.graph_sha256";
    if let Some(at) = model.windows(key.len()).position(|w| w == key) {
        model[at + key.len() - 1] = b'x';
    }
    model
}

/// The graph, where the number of the paths' links is a constant in the one place where it is added to.
fn miscounting(graph: &[u8]) -> Vec<u8> {
    let texts = |node: &[u8], field: u64| -> Vec<Vec<u8>> {
        fields(node).into_iter().filter(|f| f.0 == field).filter_map(|f| f.1).map(<[u8]>::to_vec).collect()
    };
    let is = |node: &[u8], operation: &[u8]| texts(node, NODE_OPERATION) == [operation.to_vec()];
    let nodes = || fields(graph).into_iter().filter(|f| f.0 == GRAPH_NODE).filter_map(|f| f.1);
    let count = nodes()
        .find(|node| is(node, b"Shape") && texts(node, NODE_INPUT) == [b"path_links".to_vec()])
        .map(|node| texts(node, NODE_OUTPUT)[0].clone())
        .expect("the model asks how many links the paths have");
    let (mut changed, mut replaced) = (Vec::new(), 0);
    for (number, value, whole) in fields(graph) {
        match value {
            Some(node) if number == GRAPH_NODE && is(node, b"Add") && texts(node, NODE_INPUT).contains(&count) => {
                let mut other = Vec::new();
                for (number, value, whole) in fields(node) {
                    match value {
                        Some(name) if number == NODE_INPUT && name == count => put(&mut other, NODE_INPUT, b"chaos"),
                        _ => other.extend_from_slice(whole),
                    }
                }
                put(&mut changed, GRAPH_NODE, &other);
                replaced += 1;
            }
            _ => changed.extend_from_slice(whole),
        }
    }
    assert_eq!(replaced, 1, "the model adds to the number of the paths' links once");
    // A tensor of one 64-bit integer: its dimension, type, name and bytes.
    let mut tensor = vec![0x08, 1, 0x10, 7];
    put(&mut tensor, 8, b"chaos");
    put(&mut tensor, 9, &TRIED_WITH.to_le_bytes());
    put(&mut changed, GRAPH_INITIALIZER, &tensor);
    changed
}

/// Appends a field of bytes.
fn put(to: &mut Vec<u8>, number: u64, value: &[u8]) {
    encode_varint(number << 3 | 2, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

/// A field of a message: its number, its bytes where it is one of bytes, and all of it as it stands.
type Field<'m> = (u64, Option<&'m [u8]>, &'m [u8]);

/// The fields of a message.
fn fields(mut rest: &[u8]) -> Vec<Field<'_>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let whole = rest;
        let key = decode_varint(&mut rest).expect("a field");
        let mut value = None;
        let length = match key & 7 {
            0 => {
                decode_varint(&mut rest).expect("a number");
                0
            }
            1 => 8,
            2 => {
                let length = decode_varint(&mut rest).expect("a length") as usize;
                value = Some(&rest[..length]);
                length
            }
            _ => 4,
        };
        rest = &rest[length..];
        all.push((key >> 3, value, &whole[..whole.len() - rest.len()]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_is_copied() {
        let copied: Vec<u8> = fields(GOOD).into_iter().flat_map(|(_, _, whole)| whole.to_vec()).collect();
        assert_eq!(copied, GOOD);
        assert!(another().starts_with(GOOD) && another() != GOOD);
        let failing = failing();
        assert!(failing != GOOD && failing.len().abs_diff(GOOD.len()) < 100);
    }
}
