//! The model is missing, damaged, or of another contract; ONNX Runtime is not there, or is something else. Requests
//! flow in every case, and the reason can be seen.

use crate::{catalog, model_steers, sidecar};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{process, wait};
use std::path::{Path, PathBuf};

const MODEL: &[u8] = include_bytes!("../../../models/pathloom.onnx");

fn model(file: &Path) -> String {
    format!("model: {{ file: '{}', engine: embedded, tick: 100ms }}\n", file.display())
}

/// The model, but for the version of its contract.
fn of_another_contract() -> Vec<u8> {
    let key = b"pathloom.contract";
    let at = MODEL.windows(key.len()).position(|w| w == key).expect("the contract is in the file") + key.len();
    let mut other = MODEL.to_vec();
    // Field 2 of the pair: a tag, a length of one, and the version.
    assert_eq!(&other[at..at + 2], [0x12, 1]);
    other[at + 2] = b'9';
    other
}

async fn serves(sidecar: &Sidecar, fleet: &Fleet) {
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    load.further(100).await;
    let report = load.stop().await;
    assert!(report.outcomes.values().all(|o| matches!(o, pathloom_integration::load::Outcome::Right(_))));
    assert_eq!(sidecar.get("/ready").await.0, 200);
    assert!(fleet.requests() >= 100);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_loaded_costs_no_request_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut damaged = MODEL.to_vec();
    // Weights that are no numbers.
    damaged[MODEL.len() / 3..MODEL.len() / 2].fill(0xff);
    let cases = [
        ("missing", folder.path().join("missing.onnx"), "missing.onnx"),
        ("empty", file("empty.onnx", b""), "empty.onnx"),
        ("garbage", file("garbage.onnx", b"this is no model, whatever its name says"), "garbage.onnx"),
        ("truncated", file("truncated.onnx", &MODEL[..MODEL.len() / 2]), "truncated.onnx"),
        ("damaged", file("damaged.onnx", &damaged), "damaged.onnx"),
        ("of another contract", file("contract.onnx", &of_another_contract()), "contract"),
    ];
    for (what, path, word) in cases {
        let fleet = Fleet::start(2).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), "") + &model(&path)).start().await;
        let scorer = wait::eventually("the reason to show", || async {
            let scorer = sidecar.routing().await["scorer"].clone();
            if scorer["model_error"].is_object() { Ok(scorer) } else { Err(format!("{what}: {scorer:#}")) }
        })
        .await;
        let message = scorer["model_error"]["message"].as_str().unwrap_or_default();
        let file = scorer["file"].as_str().unwrap_or_default();
        assert!(message.contains(word) || file.contains(word), "{what}: {message} ({file})");
        serves(&sidecar, &fleet).await;
        let routing = sidecar.routing().await;
        assert!(routing["generation"]["rung"] != "model", "{what}: {routing:#}");
        sidecar.logged(word).await;
        // Each step of the ladder is logged once, however many generations stay on it.
        let generation = sidecar.generation().await;
        wait::eventually("ten more generations", || async {
            let now = sidecar.generation().await;
            if now >= generation + 10 { Ok(()) } else { Err(now) }
        })
        .await;
        let steps = sidecar.stderr().matches(" the ladder").count();
        assert!(steps <= 1, "{what}: {steps} steps logged\n{}", sidecar.stderr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_model_on_reload_leaves_the_running_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.onnx"), folder.path().join("bad.onnx"));
    std::fs::write(&good, MODEL).unwrap();
    std::fs::write(&bad, of_another_contract()).unwrap();
    let fleet = Fleet::start(2).await;
    let of = |file: &Path| catalog(&fleet.yaml(), "") + &model(file);
    let mut sidecar = sidecar(of(&good)).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    model_steers(&sidecar).await;
    let identity = sidecar.routing().await["generation"]["model"].clone();
    sidecar.reload(&of(&bad));
    wait::eventually("the refusal", || async {
        let metrics = sidecar.metrics().await;
        let refused = metrics.get("pathloom_model_reloads_refused_total", &[]).unwrap_or(0.0);
        if refused >= 1.0 { Ok(()) } else { Err(sidecar.stderr()) }
    })
    .await;
    let routing = sidecar.routing().await;
    let message = routing["scorer"]["model_error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("contract"), "{routing:#}");
    assert_eq!(sidecar.get("/ready").await.0, 200);
    let generation = sidecar.generation().await;
    wait::eventually("further generations by the running model", || async {
        let now = sidecar.generation().await;
        if now > generation + 3 { Ok(()) } else { Err(now) }
    })
    .await;
    model_steers(&sidecar).await;
    assert_eq!(sidecar.routing().await["generation"]["model"], identity);
    // Put right in place, and asked again: it is taken.
    std::fs::write(&bad, MODEL).unwrap();
    sidecar.sighup();
    wait::eventually("the model to be taken", || async {
        let scorer = sidecar.routing().await["scorer"].clone();
        if scorer["model_error"].is_null() { Ok(()) } else { Err(format!("{scorer:#}")) }
    })
    .await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_file_overwritten_with_garbage_and_read_again_leaves_the_running_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, MODEL).unwrap();
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + &model(&file)).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    model_steers(&sidecar).await;
    std::fs::write(&file, "garbage").unwrap();
    sidecar.sighup();
    wait::eventually("the reason to show", || async {
        let scorer = sidecar.routing().await["scorer"].clone();
        if scorer["model_error"].is_object() { Ok(()) } else { Err(format!("{scorer:#}")) }
    })
    .await;
    assert_eq!(sidecar.get("/ready").await.0, 200);
    model_steers(&sidecar).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

/// The engine that runs, as `/routing` shows it.
async fn engine(sidecar: &Sidecar) -> serde_json::Value {
    wait::eventually("an engine", || async {
        let scorer = sidecar.routing().await["scorer"].clone();
        if scorer["engine"].is_object() { Ok(scorer["engine"].clone()) } else { Err(format!("{scorer:#}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_engine_can_be_chosen_and_shows() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + "model: { engine: embedded }\n").start().await;
    let engine = engine(&sidecar).await;
    assert!(engine.to_string().contains("embedded"), "{engine:#}");
    serves(&sidecar, &fleet).await;
}

/// ONNX Runtime's library, where `make setup` or the environment put it.
fn onnx_runtime() -> Option<PathBuf> {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let beside = Path::new(crate::BINARY).ancestors().map(|dir| dir.join("onnxruntime/libonnxruntime.so"));
    let found = named.into_iter().chain(beside).find(|file| file.is_file());
    if found.is_none() {
        process::skip("ONNX Runtime's library is missing: make setup");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onnx_runtime_can_be_chosen_and_shows() {
    let Some(library) = onnx_runtime() else { return };
    let fleet = Fleet::start(2).await;
    let chosen = format!("model: {{ engine: onnxruntime, device: cpu, onnxruntime: '{}' }}\n", library.display());
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + &chosen).start().await;
    let engine = engine(&sidecar).await.to_string().to_lowercase();
    assert!(engine.contains("onnx") && !engine.contains("\"embedded\""), "{engine}");
    model_steers(&sidecar).await;
    serves(&sidecar, &fleet).await;
}

/// A library that is none of ONNX Runtime's: the C library of this very process.
fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = |l: &str| l.split_whitespace().last().map(PathBuf::from);
    maps.lines().filter(|l| l.contains("/libc.so") || l.contains("/libc-")).find_map(path).expect("a C library")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_that_is_not_onnx_runtime_is_said_to_be_none_and_the_embedded_engine_runs() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("libonnxruntime.so");
    std::fs::write(&garbage, b"\x7fELF and nothing more").unwrap();
    for library in [libc(), garbage, PathBuf::from("/nonexistent/libonnxruntime.so")] {
        let fleet = Fleet::start(2).await;
        let chosen = format!("model: {{ engine: onnxruntime, onnxruntime: '{}' }}\n", library.display());
        let sidecar = sidecar(catalog(&fleet.yaml(), "") + &chosen).start().await;
        let engine = engine(&sidecar).await.to_string();
        assert!(engine.contains("embedded"), "{engine}");
        sidecar.logged(&library.display().to_string()).await;
        serves(&sidecar, &fleet).await;
    }
}
