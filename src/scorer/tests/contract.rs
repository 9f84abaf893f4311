//! Every way in which a file can differ, one by one, and any bytes at all.

use super::*;
use crate::scorer::onnx::{
    Dimension, FLOAT, GraphProto, INT64, ModelProto, StringStringEntryProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use proptest::prelude::*;
use prost::Message;

fn value(name: &str, elem_type: i32, dimensions: &[Option<i64>]) -> ValueInfoProto {
    let dim = |d: &Option<i64>| Dimension { dim_value: *d, dim_param: d.is_none().then(|| "any".into()) };
    let shape = TensorShapeProto { dim: dimensions.iter().map(dim).collect() };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape: Some(shape) }) }),
    }
}

/// A file that follows the contract and has no nodes.
fn good() -> ModelProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    let outputs = ["score", "latency_mean_s", "latency_p99_s", "jitter_s", "node_load", "attention"];
    ModelProto {
        ir_version: 9,
        producer_name: "test".into(),
        graph: Some(GraphProto {
            input: vec![
                value("node_features", FLOAT, &[None, Some(16)]),
                value("edges", INT64, &[Some(2), None]),
                value("edge_features", FLOAT, &[None, Some(14)]),
                value("path_offsets", INT64, &[None]),
                value("path_links", INT64, &[None]),
            ],
            output: outputs.iter().map(|name| value(name, FLOAT, &[None])).collect(),
        }),
        metadata_props: vec![
            entry("pathloom.contract", "2".into()),
            entry("pathloom.node_features", NODE_FEATURES.join(",")),
            entry("pathloom.edge_features", EDGE_FEATURES.join(",")),
            entry("pathloom.name", "weaver".into()),
            entry("pathloom.version", "3".into()),
            entry("pathloom.trained_on", "sha256:abc".into()),
            entry("pathloom.created_by", "models 0.1".into()),
        ],
    }
}

fn refused(change: impl FnOnce(&mut ModelProto)) -> ModelError {
    let mut model = good();
    change(&mut model);
    verify(&model.encode_to_vec()).unwrap_err()
}

fn set(model: &mut ModelProto, key: &str, value: &str) {
    model.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap().value = value.into();
}

#[test]
fn a_file_that_follows_the_contract_tells_what_it_is() {
    let bytes = good().encode_to_vec();
    let info = verify(&bytes).unwrap();
    assert_eq!((info.name.as_str(), info.version.as_str(), info.contract), ("weaver", "3", CONTRACT_VERSION));
    assert_eq!((info.trained_on.as_str(), info.created_by.as_str()), ("sha256:abc", "models 0.1"));
    assert_eq!((info.digest.len(), info.bytes_len), (64, bytes.len() as u64));
}

#[test]
fn the_builtin_model_follows_the_contract() {
    let model = Model::read(BUILTIN).unwrap();
    assert!(!model.info.name.is_empty());
    assert_eq!(model.info.contract, CONTRACT_VERSION);
}

#[test]
fn sha256_is_written_as_everybody_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, good().encode_to_vec()).unwrap();
    let Ok(output) = std::process::Command::new("sha256sum").arg(&path).output() else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(Model::read(path.to_str().unwrap()).unwrap().info.digest, text.split(' ').next().unwrap());
}

#[test]
fn a_missing_file_is_named() {
    let error = Model::read("/nowhere/model.onnx").unwrap_err();
    assert_eq!(error.code(), "missing");
    assert!(error.to_string().contains("/nowhere/model.onnx") && error.to_string().contains("builtin"));
}

#[test]
fn a_folder_and_a_device_are_no_files() {
    for file in ["/tmp", "/dev/zero"] {
        assert_eq!(Model::read(file).unwrap_err().code(), "unreadable", "{file}");
    }
}

#[test]
fn a_file_over_the_limit_is_refused_and_one_at_the_limit_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.onnx");
    let file = std::fs::File::create(&path).unwrap();
    for (size, code) in [(MAX_MODEL_BYTES, "not_onnx"), (MAX_MODEL_BYTES + 1, "too_large")] {
        file.set_len(size).unwrap();
        assert_eq!(Model::read(path.to_str().unwrap()).unwrap_err().code(), code);
    }
}

#[test]
fn what_is_no_onnx_file_is_called_so() {
    for bytes in
        [&b""[..], b"model: builtin\n", b"\x7fELF\x02\x01\x01", b"version https://git-lfs.github.com/spec/v1\n"]
    {
        assert_eq!(verify(bytes).unwrap_err().code(), "not_onnx", "{bytes:?}");
    }
    assert!(verify(b"version https://git-lfs.github.com/spec/v1\n").unwrap_err().to_string().contains("git lfs pull"));
}

#[test]
fn the_builtin_model_cut_short_anywhere_is_refused() {
    let Model { bytes, info: whole } = Model::read(BUILTIN).unwrap();
    let step = (bytes.len() / 200).max(1);
    for end in (1..bytes.len()).step_by(step).chain(bytes.len() - 300..bytes.len()) {
        let error = match verify(&bytes[..end]) {
            Err(error) => error,
            // Cut between two entries of the metadata, after everything that is read.
            Ok(info) => {
                let whole = ModelInfo { digest: info.digest.clone(), bytes_len: info.bytes_len, ..whole.clone() };
                assert_eq!(info, whole);
                continue;
            }
        };
        let expected = ["truncated", "no_contract", "missing_column"];
        assert!(expected.contains(&error.code()), "cut at {end} of {}: {error}", bytes.len());
    }
}

#[test]
fn a_graph_that_is_not_what_was_written_is_damaged() {
    let mut model = good();
    let graph = model.graph.as_ref().unwrap().encode_to_vec();
    let stated = <sha2::Sha256 as sha2::Digest>::digest(&graph).iter().map(|b| format!("{b:02x}")).collect();
    model.metadata_props.push(StringStringEntryProto { key: "pathloom.graph_sha256".into(), value: stated });
    let mut bytes = model.encode_to_vec();
    verify(&bytes).unwrap();
    // A letter in the name of a dimension: nothing else would notice.
    let at = bytes.windows(3).position(|w| w == b"any").unwrap();
    bytes[at] = b'A';
    assert_eq!(verify(&bytes).unwrap_err(), ModelError::Damaged);
}

#[test]
fn an_onnx_file_of_somebody_else_has_no_contract() {
    assert_eq!(refused(|m| m.metadata_props.clear()), ModelError::NoContract { key: "pathloom.contract" });
    let no_columns = refused(|m| m.metadata_props.retain(|entry| entry.key != "pathloom.edge_features"));
    assert_eq!(no_columns, ModelError::NoContract { key: "pathloom.edge_features" });
}

#[test]
fn another_contract_is_named_with_both_versions() {
    for other in ["1", "0", "1.0", "one", ""] {
        let error = refused(|m| set(m, "pathloom.contract", other));
        assert_eq!(error, ModelError::OtherContract { found: other.into(), expected: CONTRACT_VERSION });
    }
}

#[test]
fn a_missing_and_an_unknown_column_are_named() {
    let fewer = NODE_FEATURES[1..].join(",");
    let error = refused(|m| set(m, "pathloom.node_features", &fewer));
    assert_eq!(error, ModelError::MissingColumn { input: "node_features", column: "cpu_utilization".into() });
    let more = format!("{},temperature", EDGE_FEATURES.join(","));
    let error = refused(|m| set(m, "pathloom.edge_features", &more));
    assert_eq!(error, ModelError::UnknownColumn { input: "edge_features", column: "temperature".into() });
}

#[test]
fn columns_in_another_order_or_twice_are_refused() {
    let mut swapped = EDGE_FEATURES;
    swapped.swap(2, 3);
    let error = refused(|m| set(m, "pathloom.edge_features", &swapped.join(",")));
    let expected = ModelError::ColumnOrder {
        input: "edge_features",
        at: 2,
        expected: "latency_p90_s".into(),
        found: "latency_p99_s".into(),
    };
    assert_eq!(error, expected);
    let twice = format!("{},replicas", NODE_FEATURES.join(","));
    let error = refused(|m| set(m, "pathloom.node_features", &twice));
    assert!(matches!(error, ModelError::ColumnOrder { at: 16, .. }), "{error:?}");
}

#[test]
fn spaces_in_the_list_of_columns_are_no_difference() {
    let mut model = good();
    set(&mut model, "pathloom.node_features", &NODE_FEATURES.join(", "));
    assert!(verify(&model.encode_to_vec()).is_ok());
}

#[test]
fn missing_inputs_and_outputs_are_named_and_unknown_inputs_too() {
    let error = refused(|m| m.graph.as_mut().unwrap().input.retain(|v| v.name != "edges"));
    assert_eq!(error, ModelError::MissingInput { input: "edges" });
    let error = refused(|m| m.graph.as_mut().unwrap().output.retain(|v| v.name != "jitter_s"));
    assert_eq!(error, ModelError::MissingOutput { output: "jitter_s" });
    let error = refused(|m| m.graph.as_mut().unwrap().input.push(value("state", FLOAT, &[None, Some(64)])));
    assert_eq!(error, ModelError::UnknownInput { input: "state".into() });
}

#[test]
fn a_further_output_is_welcome() {
    let mut model = good();
    model.graph.as_mut().unwrap().output.push(value("state", FLOAT, &[None, Some(64)]));
    assert!(verify(&model.encode_to_vec()).is_ok());
}

#[test]
fn another_type_width_or_rank_is_described() {
    let with = |at: usize, v: ValueInfoProto| refused(|m| m.graph.as_mut().unwrap().input[at] = v);
    for (at, wrong, found) in [
        (0, value("node_features", FLOAT, &[None, Some(14)]), "f32 [any, 14]"),
        (0, value("node_features", 11, &[None, Some(16)]), "ONNX type 11 [any, 16]"),
        (1, value("edges", INT64, &[None]), "i64 [any]"),
        (2, value("edge_features", FLOAT, &[Some(200), Some(14)]), "f32 [200, 14]"),
        (3, value("path_offsets", FLOAT, &[None]), "f32 [any]"),
        (4, ValueInfoProto { name: "path_links".into(), r#type: None }, "no tensor"),
    ] {
        match with(at, wrong) {
            ModelError::OtherType { found: described, .. } => assert_eq!(described, found),
            other => panic!("{other}"),
        }
    }
    let error = refused(|m| m.graph.as_mut().unwrap().output[0] = value("score", FLOAT, &[None, Some(1)]));
    assert_eq!(error.code(), "other_type");
}

#[test]
fn a_hostile_name_does_not_reach_the_log_as_it_is() {
    let mut model = good();
    set(&mut model, "pathloom.name", &format!("a\nERROR forged\u{1b}[31m{}", "x".repeat(10_000)));
    let info = verify(&model.encode_to_vec()).unwrap();
    assert!(info.name.len() <= 200 && !info.name.contains(['\n', '\u{1b}']));
}

#[test]
fn every_model_error_has_a_code_of_its_own_and_says_what_to_do() {
    let errors = [
        refused(|m| m.metadata_props.clear()),
        refused(|m| set(m, "pathloom.contract", "9")),
        ModelError::Missing { file: "f".into() },
        ModelError::Truncated { bytes: 3 },
        ModelError::WarmUp { reason: "`score` is not finite".into() },
    ];
    for error in &errors {
        assert!(error.to_string().contains(": "), "{error}");
    }
    let mut codes: Vec<_> = errors.iter().map(ModelError::code).collect();
    codes.dedup();
    assert_eq!(codes.len(), errors.len());
}

proptest! {
    #[test]
    fn any_bytes_give_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(verify(&bytes).is_err());
    }

    #[test]
    fn a_good_file_with_damage_anywhere_never_panics(at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..16)) {
        let mut file = good().encode_to_vec();
        let at = at.index(file.len());
        for (to, from) in file[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        let _ = verify(&file);
    }

    #[test]
    fn the_builtin_model_with_damage_anywhere_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut file = Model::read(BUILTIN).unwrap().bytes.into_owned();
        let at = at.index(file.len());
        file[at] = byte;
        let _ = verify(&file);
    }
}
