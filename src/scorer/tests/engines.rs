//! Both engines on the committed model, the choice between them, and libraries that are none.
//!
//! Tests that need ONNX Runtime take its library from `ORT_DYLIB_PATH`, which `make test` sets. Without it they are
//! skipped aloud on a developer's machine and fail where `CI` is set.

use super::*;
use crate::config::{Device, Engine as Choice};
use crate::scorer::engine::{select, warm_up};
use crate::scorer::onnx_runtime::resolve;
use std::path::{Path, PathBuf};

fn library() -> Option<PathBuf> {
    let path = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).filter(|path| path.exists());
    if path.is_none() {
        assert!(std::env::var_os("CI").is_none(), "ORT_DYLIB_PATH names no library, and in CI nothing is skipped");
        eprintln!("SKIPPED: set ORT_DYLIB_PATH to libonnxruntime.so to compare the engines");
    }
    path
}

fn options(engine: Choice, library: Option<&Path>) -> Options {
    Options { file: BUILTIN.into(), engine, device: Device::Cpu, onnxruntime: library.map(Path::to_path_buf) }
}

fn open(options: &Options) -> (Box<dyn Engine>, EngineInfo) {
    select(options, &Model::read(BUILTIN).unwrap()).unwrap()
}

fn run(engine: &mut dyn Engine, features: &Features) -> Scores {
    let mut scores = Scores::default();
    engine.run(features, &mut scores).unwrap();
    scores.check(features).unwrap();
    scores
}

fn largest_difference(a: &Scores, b: &Scores) -> f32 {
    let of = |s: &Scores| {
        [&s.score, &s.latency_mean_s, &s.latency_p99_s, &s.jitter_s, &s.node_load, &s.attention]
            .into_iter()
            .flatten()
            .copied()
            .collect::<Vec<f32>>()
    };
    let (a, b) = (of(a), of(b));
    assert_eq!(a.len(), b.len());
    // Relative for what is large: a load or a latency may be far above 1.
    a.iter().zip(&b).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, |most, d| {
        assert!(d.is_finite(), "a value is not finite");
        most.max(d)
    })
}

#[test]
fn both_engines_agree_on_every_output() {
    let Some(library) = library() else { return };
    let (mut embedded, _) = open(&options(Choice::Embedded, None));
    let (mut onnx, info) = open(&options(Choice::OnnxRuntime, Some(&library)));
    assert_eq!((info.engine, info.device, info.degraded), ("onnxruntime", "cpu", false), "{info:?}");
    for (nodes, degree, unknown) in [(3, 1, 0.0), (5, 2, 0.5), (50, 4, 0.2), (300, 5, 0.2), (50, 4, 1.0), (64, 63, 0.1)]
    {
        let features = mesh(nodes, degree, unknown);
        let most = largest_difference(&run(embedded.as_mut(), &features), &run(onnx.as_mut(), &features));
        println!("{nodes} nodes, {} links, {unknown} unknown: largest difference {most:e}", features.edge_count());
        assert!(most < 1e-4, "{nodes} nodes: {most}");
    }
}

#[test]
fn an_engine_gives_the_same_again() {
    let (mut engine, _) = open(&options(Choice::Embedded, None));
    let (small, large) = (mesh(3, 1, 0.0), mesh(120, 6, 0.3));
    let first = run(engine.as_mut(), &small);
    run(engine.as_mut(), &large);
    assert_eq!(first, run(engine.as_mut(), &small));
    if let Some(library) = library() {
        let (mut engine, _) = open(&options(Choice::OnnxRuntime, Some(&library)));
        let first = run(engine.as_mut(), &large);
        run(engine.as_mut(), &small);
        assert_eq!(first, run(engine.as_mut(), &large), "sums are lost: are there more intra-op threads than one?");
    }
}

#[test]
fn inputs_that_stay_on_the_device_are_those_of_the_mesh_at_hand() {
    let Some(library) = library() else { return };
    let library = resolve(&library).unwrap();
    let mut bound = crate::scorer::onnx_runtime::for_tests::bound(&library, &Model::read(BUILTIN).unwrap());
    let (mut plain, _) = open(&options(Choice::OnnxRuntime, Some(&library)));
    let shaped = |shape: u64, nodes: usize, unknown: f32| Features { shape, ..mesh(nodes, 3, unknown) };
    // The same shape with other numbers, others, one without a number, and one of the same size.
    let other = Features { path_links: mesh(40, 3, 0.0).path_links.into_iter().rev().collect(), ..shaped(3, 40, 0.1) };
    for features in [
        shaped(1, 40, 0.0),
        shaped(1, 40, 0.3),
        shaped(2, 25, 0.1),
        shaped(0, 25, 0.2),
        shaped(0, 30, 0.2),
        shaped(1, 40, 0.1),
        other,
        Features { nodes: mesh(2, 1, 0.0).nodes, path_offsets: vec![0, 0], ..Features::default() },
    ] {
        assert_eq!(run(bound.as_mut(), &features), run(plain.as_mut(), &features));
    }
}

#[test]
fn a_mesh_without_links_to_some_nodes_and_paths_that_share_links_are_fine() {
    let lonely = Features {
        nodes: mesh(6, 1, 0.0).nodes,
        edges: vec![1, 2, 0, 1],
        edge_features: vec![0.1; 28],
        path_offsets: vec![0, 1, 3, 3, 4],
        path_links: vec![0, 0, 1, 1],
        shape: 0,
    };
    let unlinked = Features { nodes: mesh(2, 1, 0.0).nodes, path_offsets: vec![0, 0], ..Features::default() };
    for features in [lonely, unlinked] {
        check_features(&features).unwrap();
        let (mut engine, _) = open(&options(Choice::Embedded, None));
        let embedded = run(engine.as_mut(), &features);
        if let Some(library) = library() {
            let (mut engine, _) = open(&options(Choice::OnnxRuntime, Some(&library)));
            let onnx = run(engine.as_mut(), &features);
            assert!(largest_difference(&embedded, &onnx) < 1e-4);
        }
    }
}

#[test]
fn extreme_numbers_do_not_panic() {
    let engines = [Some(options(Choice::Embedded, None)), library().map(|l| options(Choice::OnnxRuntime, Some(&l)))];
    for options in engines.into_iter().flatten() {
        let (mut engine, _) = open(&options);
        for value in [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, -1.0, 0.0] {
            let mut features = mesh(10, 2, 0.0);
            features.nodes.fill(value);
            features.edge_features.fill(value);
            run(engine.as_mut(), &features);
        }
    }
}

#[test]
fn without_a_library_the_embedded_engine_runs_and_tells_how_to_get_the_other() {
    let nowhere = Path::new("/nowhere/libonnxruntime.so");
    let (_, info) = open(&options(Choice::OnnxRuntime, Some(nowhere)));
    assert_eq!((info.engine, info.degraded), ("embedded", true));
    assert!(info.reason.contains("`model.onnxruntime` names /nowhere/libonnxruntime.so"), "{info:?}");
    assert!(info.remedy.unwrap().contains("ORT_DYLIB_PATH"));
    let (_, info) = open(&options(Choice::Auto, Some(nowhere)));
    assert_eq!((info.engine, info.degraded), ("embedded", false));
}

#[test]
fn a_library_of_somebody_else_and_a_file_that_is_none_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libonnxruntime.so");
    std::fs::write(&text, "not a library").unwrap();
    let (_, info) = open(&options(Choice::Auto, Some(&text)));
    assert!(info.engine == "embedded" && info.reason.contains("it cannot be loaded"), "{info:?}");
    // The C library exports no `OrtGetApiBase`; its bare name is found by the system's loader.
    let (_, info) = open(&options(Choice::Auto, Some(Path::new("libc.so.6"))));
    assert!(info.engine == "embedded" && info.reason.contains("it is not ONNX Runtime"), "{info:?}");
}

#[test]
fn an_old_library_and_one_that_lies_about_itself_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let compile = |name: &str, source: &str| {
        let (code, library) = (dir.path().join(format!("{name}.c")), dir.path().join(format!("{name}.so")));
        std::fs::write(&code, source).unwrap();
        let done = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status();
        assert!(done.is_ok_and(|status| status.success()), "these tests need a C compiler, as the build does");
        library
    };
    let with = |version: &str| {
        format!(
            "static const void *api(unsigned v) {{ return 0; }}\n\
             static const char *version(void) {{ return {version}; }}\n\
             static const struct {{ const void *(*a)(unsigned); const char *(*v)(void); }} base = {{ api, version }};\n\
             const void *OrtGetApiBase(void) {{ return &base; }}\n"
        )
    };
    for (name, source, said) in [
        ("old", with("\"1.16.3\""), "it is ONNX Runtime 1.16.3, 1.22 or later is needed"),
        // The version is new enough; there are no functions behind it.
        ("liar", with("\"1.99.0\""), "it is ONNX Runtime 1.99.0, 1.22 or later is needed"),
        ("nameless", with("0"), "it is not ONNX Runtime"),
        ("null", "const void *OrtGetApiBase(void) { return 0; }\n".into(), "it is not ONNX Runtime"),
    ] {
        let (_, info) = open(&options(Choice::Auto, Some(&compile(name, &source))));
        assert!(info.engine == "embedded" && info.reason.contains(said), "{name}: {info:?}");
    }
    // None of them was taken, so the right one still can be.
    if let Some(library) = library() {
        let (_, info) = open(&options(Choice::Auto, Some(&library)));
        assert_eq!(info.engine, "onnxruntime", "{info:?}");
    }
}

#[test]
fn in_a_folder_the_plain_name_wins_and_then_the_highest_version() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    assert_eq!(resolve(&folder), None);
    let best = |name: &str| {
        std::fs::write(folder.join(name), "").unwrap();
        resolve(&folder).map(|path| path.file_name().unwrap().to_str().unwrap().to_string())
    };
    assert_eq!(best("libonnxruntime_providers_shared.so"), None);
    assert_eq!(best("libonnxruntime.so.1.9.0").as_deref(), Some("libonnxruntime.so.1.9.0"));
    assert_eq!(best("libonnxruntime.so.1.31.1").as_deref(), Some("libonnxruntime.so.1.31.1"));
    assert_eq!(best("libonnxruntime.so.1.4").as_deref(), Some("libonnxruntime.so.1.31.1"));
    assert_eq!(best("libonnxruntime.so").as_deref(), Some("libonnxruntime.so"));
    assert_eq!(resolve(&folder.join("missing/libonnxruntime.so")), None);
    assert_eq!(resolve(Path::new("libonnxruntime.so.9")), Some("libonnxruntime.so.9".into()));
}

#[test]
fn a_second_library_takes_effect_after_a_restart() {
    let Some(library) = library() else { return };
    let (_, info) = open(&options(Choice::Auto, Some(&library)));
    assert_eq!(info.engine, "onnxruntime", "{info:?}");
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("libonnxruntime.so");
    std::fs::copy(library, &copy).unwrap();
    let (_, info) = open(&options(Choice::Auto, Some(&copy)));
    assert!(info.engine == "onnxruntime" && info.reason.contains("takes effect after a restart"), "{info:?}");
}

#[test]
fn asking_for_cuda_without_one_runs_on_the_cpu_and_says_why() {
    let Some(library) = library() else { return };
    let mut options = options(Choice::Auto, Some(&library));
    for (device, degraded) in [(Device::Cuda, true), (Device::Auto, false)] {
        options.device = device;
        let (mut engine, info) = open(&options);
        if info.device == "cuda" {
            eprintln!("SKIPPED: this machine has CUDA");
            return;
        }
        assert_eq!((info.engine, info.degraded), ("onnxruntime", degraded));
        assert!(info.reason.contains("not on CUDA") && info.remedy.is_some(), "{info:?}");
        run(engine.as_mut(), &mesh(5, 2, 0.1));
    }
}

#[tokio::test]
async fn onnx_runtime_serves_on_the_scoring_thread_and_tells_its_version() {
    let Some(library) = library() else { return };
    let scorer = Scorer::start(options(Choice::OnnxRuntime, Some(&library)));
    scorer.ready().await.unwrap();
    let scored = scorer.score(mesh(50, 4, 0.2), Duration::from_secs(20)).await;
    assert!(scored.result.unwrap().score.iter().all(|score| score.is_finite()));
    let engine = scorer.status().engine.unwrap();
    assert!(engine.engine == "onnxruntime" && engine.version.starts_with("1."), "{engine:?}");
}

#[test]
fn onnx_runtime_can_be_interrupted() {
    let Some(library) = library() else { return };
    let (mut engine, _) = open(&options(Choice::OnnxRuntime, Some(&library)));
    let features = mesh(20, 3, 0.0);
    run(engine.as_mut(), &features);
    engine.interrupt().unwrap()();
    let error = engine.run(&features, &mut Scores::default()).unwrap_err();
    assert!(error.code() == "engine" && error.to_string().contains("terminate"), "{error}");
}

#[test]
fn a_model_that_gives_nan_on_the_test_graph_is_found_out() {
    struct Nan(&'static str);
    impl Engine for Nan {
        fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
            for ((name, slot), length) in scores.outputs_mut().into_iter().zip(Scores::lengths(features)) {
                *slot = vec![if name == self.0 { f32::NAN } else { 1.0 }; length];
            }
            Ok(())
        }
    }
    assert_eq!(warm_up(&mut Nan("jitter_s")), Err("`jitter_s` is not finite".into()));
    assert_eq!(warm_up(&mut Nan("attention")), Err("`attention` is not finite".into()));
    assert_eq!(warm_up(&mut Nan("")), Ok(()));
}

#[test]
fn features_that_contradict_each_other_are_refused_before_any_engine_sees_them() {
    let good = mesh(6, 2, 0.0);
    check_features(&good).unwrap();
    let links = good.edge_count() as i64;
    type Change = Box<dyn Fn(&mut Features)>;
    let changes: [(&str, Change); 11] = [
        ("no nodes", Box::new(|f| f.nodes.clear())),
        ("no candidates", Box::new(|f| f.path_offsets.truncate(1))),
        ("half a row", Box::new(|f| f.nodes.truncate(71))),
        ("half a link", Box::new(|f| f.edges.truncate(3))),
        ("fewer link features", Box::new(|f| f.edge_features.truncate(14))),
        ("a node that is not there", Box::new(|f| f.edges[0] = 6)),
        ("a negative node", Box::new(|f| f.edges[0] = -1)),
        ("a link that is not there", Box::new(move |f| f.path_links[0] = links)),
        ("offsets that fall", Box::new(|f| f.path_offsets[1] = 5)),
        ("offsets that begin late", Box::new(|f| f.path_offsets[0] = 1)),
        ("offsets that end early", Box::new(|f| f.path_links.push(0))),
    ];
    for (what, change) in changes {
        let mut features = good.clone();
        change(&mut features);
        assert_eq!(check_features(&features).unwrap_err().code(), "features", "{what}");
    }
}
