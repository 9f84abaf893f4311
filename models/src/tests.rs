//! The committed model and the network keep what the contract and the module heads promise.

use crate::check::{self, TOLERANCE, random_features};
use crate::data::{self, Batch, Sample};
use crate::engines::{OnnxRuntime, Rten, candle};
use crate::net::{FE, FN};
use crate::onnx::proto::ModelProto;
use crate::onnx::{self, About, INPUTS, MAX_BYTES, OUTPUTS};
use crate::simulator::sample::{Scenario, play};
use crate::tensors::Candle;
use crate::variant::{Kind, Variant};
use crate::weights::Weights;
use pathloom::graph::Features;
use pathloom::graph::features::{CONTRACT_VERSION, EDGE_FEATURES, NODE_FEATURES};
use prost::Message;

const FULL: Kind = Kind::Network(Variant::FULL);

fn committed() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/pathloom.onnx")).unwrap()
}

/// A caller (node 0) of two replicas, and a node (3) without any link; everything unknown.
fn unknown() -> Features {
    Features {
        nodes: vec![f32::NAN; 4 * FN],
        edges: vec![1, 2, 0, 0],
        edge_features: vec![f32::NAN; 2 * FE],
        path_offsets: vec![0, 1, 2],
        path_links: vec![0, 1],
        shape: 0,
    }
}

#[test]
fn the_committed_model_says_that_it_keeps_the_contract() {
    let bytes = committed();
    assert!(bytes.len() <= MAX_BYTES, "{}", bytes.len());
    check::contract(&bytes).unwrap();
    let metadata = check::metadata(&bytes).unwrap();
    let of = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
    assert_eq!(of("pathloom.contract"), CONTRACT_VERSION.to_string());
    assert_eq!(of("pathloom.node_features").split(',').collect::<Vec<_>>(), NODE_FEATURES);
    assert_eq!(of("pathloom.edge_features").split(',').collect::<Vec<_>>(), EDGE_FEATURES);
    for key in ["inputs", "outputs", "name", "version", "trained_on", "created_by", "commit", "window_s"] {
        assert!(!of(&format!("pathloom.{key}")).is_empty(), "{key}");
    }
    let graph = ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap();
    let names = |ports: &[onnx::proto::ValueInfoProto]| ports.iter().filter_map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&graph.input), INPUTS.map(|p| p.0));
    assert_eq!(names(&graph.output), OUTPUTS.map(|p| p.0));
}

#[test]
fn another_contract_is_refused_with_a_reason() {
    let mut model = ModelProto::decode(committed().as_slice()).unwrap();
    model.metadata_props[0].value = Some("1".into());
    let refused = check::contract(&model.encode_to_vec()).unwrap_err().to_string();
    assert!(refused.contains("pathloom.contract"), "{refused}");
    assert!(check::contract(b"no model").is_err());
}

#[test]
fn a_file_holds_the_weights_that_it_was_made_of() {
    let weights = Weights::random(FULL, 5).unwrap();
    let read = onnx::weights(&onnx::bytes(&weights, &About::default()).unwrap()).unwrap();
    for name in ["prior", "layer3.nodes.w", "read.out.w"] {
        let values = |w: &Weights| w.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&weights), values(&read), "{name}");
    }
}

#[test]
fn the_committed_model_is_in_the_form_that_this_build_writes() {
    let bytes = committed();
    let again = onnx::bytes(&onnx::weights(&bytes).unwrap(), &About::of(&bytes).unwrap()).unwrap();
    assert!(again == bytes, "pathloom-models export --model models/pathloom.onnx writes another file");
}

#[test]
fn candle_and_rten_agree_on_the_committed_model() {
    let bytes = committed();
    let weights = onnx::weights(&bytes).unwrap();
    for agreement in check::agreement(&bytes, Some(&weights), None, 10, 1).unwrap() {
        assert!(agreement.largest.iter().all(|off| *off <= TOLERANCE), "{agreement:?}");
    }
}

#[test]
fn onnx_runtime_agrees_too() {
    let bytes = committed();
    let Some(library) = OnnxRuntime::find(None) else {
        assert!(std::env::var_os("CI").is_none(), "no ONNX Runtime: set ORT_DYLIB_PATH");
        eprintln!("SKIPPED: no ONNX Runtime (set ORT_DYLIB_PATH); it was not compared");
        return;
    };
    let mut runtime = OnnxRuntime::new(&library, &bytes).unwrap();
    for agreement in check::agreement(&bytes, None, Some(&mut runtime), 10, 2).unwrap() {
        assert!(agreement.largest.iter().all(|off| *off <= TOLERANCE), "{agreement:?}");
    }
}

#[test]
fn all_unknown_gives_finite_answers_and_equals_for_equals() {
    let answers = Rten::new(committed()).unwrap().run(&unknown()).unwrap();
    assert!(answers.iter().flatten().all(|v| v.is_finite()), "{answers:?}");
    let [score, .., attention] = answers;
    assert_eq!(score[0], score[1]);
    assert!((attention.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{attention:?}");
}

#[test]
fn absurd_values_give_finite_answers() {
    let rten = Rten::new(committed()).unwrap();
    for value in [0.0, -1.0, 1e-30, 1e30, f32::INFINITY, f32::NEG_INFINITY] {
        let mut features = unknown();
        features.nodes.fill(value);
        features.edge_features.fill(value);
        let answers = rten.run(&features).unwrap();
        assert!(answers.iter().flatten().all(|v| v.is_finite()), "{value}: {answers:?}");
    }
}

#[test]
fn attention_sums_to_one_over_each_callers_links() {
    let features = random_features(3, 30, 90);
    let weights = Weights::random(FULL, 1).unwrap();
    let answers = candle(&weights, &features).unwrap();
    let callers = &features.edges[features.edge_count()..];
    let mut sums = vec![0.0f32; features.node_count()];
    callers.iter().zip(&answers[5]).for_each(|(caller, share)| sums[*caller as usize] += share);
    for caller in callers {
        assert!((sums[*caller as usize] - 1.0).abs() < 1e-5);
    }
}

#[test]
fn an_untrained_network_predicts_what_was_observed() {
    let mut features = unknown();
    features.edge_features[1] = 0.080; // the first link's median
    let answers = candle(&Weights::random(FULL, 1).unwrap(), &features).unwrap();
    let predicted_s: Vec<f32> = answers[0].iter().map(|s| (-s).exp()).collect();
    assert!((predicted_s[0] / 0.080 - 1.0).abs() < 0.15, "{predicted_s:?}");
    assert!(
        (predicted_s[1] / 0.080 - 1.0).abs() < 0.15,
        "the other replica is unknown: its sibling's; {predicted_s:?}"
    );
}

#[test]
fn a_path_of_two_links_takes_as_long_as_both() {
    let weights = onnx::weights(&committed()).unwrap();
    let mut features = random_features(8, 6, 12);
    (features.path_offsets, features.path_links) = (vec![0, 1, 2, 4], vec![0, 1, 0, 1]);
    let seconds: Vec<f32> = candle(&weights, &features).unwrap()[0].iter().map(|s| (-s).exp()).collect();
    assert!((seconds[0] + seconds[1] - seconds[2]).abs() < 1e-4 * seconds[2], "{seconds:?}");
}

#[test]
fn samples_survive_their_file() {
    let samples = play(&Scenario::training(1).unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let digest = data::save(&samples, file.path()).unwrap();
    let read = data::load(file.path()).unwrap();
    assert_eq!((samples.len(), &digest), (read.len(), &data::digest(&read).unwrap()));
    std::fs::write(file.path(), b"something else").unwrap();
    assert!(data::load(file.path()).is_err());
}

#[test]
fn a_batch_says_what_its_graphs_say_one_by_one() {
    let weights = Weights::random(FULL, 2).unwrap();
    let samples: Vec<Sample> =
        (1..4).filter_map(|seed| play(&Scenario::training(seed).unwrap()).unwrap().into_iter().next()).collect();
    let merged = Batch::new(&samples, FULL).unwrap();
    let out = FULL.forward(&Candle::new(&weights), &merged.inputs).unwrap();
    let together = out.score.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let apart: Vec<f32> = samples.iter().flat_map(|s| candle(&weights, &s.features).unwrap()[0].clone()).collect();
    assert_eq!(together.len(), apart.len());
    assert!(together.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-4));
}

/// A caller (node 0) of replicas whose links have these medians in seconds, at 20 calls a second; NaN: never used.
fn replicas(medians_s: &[f32]) -> Features {
    let count = medians_s.len();
    let mut features = Features {
        nodes: vec![f32::NAN; 7],
        edges: (1..=count as i64).chain(std::iter::repeat_n(0, count)).collect(),
        path_offsets: (0..=count as i64).collect(),
        path_links: (0..count as i64).collect(),
        shape: 0,
        ..Features::default()
    };
    features.nodes[6] = 0.0;
    features.nodes.extend([f32::NAN, f32::NAN, f32::NAN, f32::NAN, 1.0]);
    features.nodes.extend([f32::NAN; 4]);
    for s in medians_s {
        let (known, rate) = (!s.is_nan(), if s.is_nan() { 0.0 } else { 20.0 });
        let error_rate = if known { 0.0 } else { f32::NAN };
        features.nodes.extend([f32::NAN; 6]);
        features.nodes.extend([rate * s.max(0.0), rate, s * 1.1, s * 3.0, error_rate, count as f32]);
        // The memory of a hundred seconds agrees with that of ten; nothing is known of hosts.
        features.nodes.extend([s * 1.1, f32::NAN, f32::NAN, f32::NAN]);
        let age = if known { 0.05 } else { f32::NAN };
        features.edge_features.extend([s * 1.1, *s, s * 1.8, s * 3.0, s * 1.1, s * 0.4]);
        features.edge_features.extend([rate, error_rate, rate * s.max(0.0), rate * 9.0, age, 1.0, s * 0.6, s * 1.1]);
    }
    features
}

fn intrinsic_s(features: &Features) -> Vec<f32> {
    let answers = Rten::new(committed()).unwrap().run(features).unwrap();
    answers[0].iter().map(|s| (-s).exp()).collect()
}

#[test]
fn a_gray_replica_is_predicted_slow_and_the_others_are_not() {
    let s = intrinsic_s(&replicas(&[0.020, 0.021, 0.150, 0.019]));
    assert!(s[2] > 3.0 * s[0], "{s:?}");
    assert!(s.iter().zip([0, 1, 3]).all(|(_, i)| (0.010..0.040).contains(&s[i])), "{s:?}");
}

#[test]
fn a_link_that_nobody_used_is_predicted_near_its_siblings() {
    for typical in [0.002, 0.020, 0.100] {
        let s = intrinsic_s(&replicas(&[typical, typical * 1.1, f32::NAN, typical * 0.9]));
        assert!((0.4..2.5).contains(&(s[2] / typical)), "{typical}: {s:?}");
    }
}
