//! `telemetry.record`: what a real sidecar records under load can be read by the laboratory, whatever happens to it.

use crate::{QUICK, catalog, sidecar};
use nix::sys::signal::Signal;
use pathloom_integration::client::Version;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::process::run;
use pathloom_integration::wait;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The laboratory's binary.
const LABORATORY: &str = env!("CARGO_BIN_EXE_pathloom-models-under-test");
/// The model that the product has built in.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/pathloom.onnx");

fn recording(folder: &Path, more: &str) -> String {
    format!("telemetry: {{ record: {{ to: '{}', window: 1s{more} }} }}\n", folder.display())
}

fn replay(folder: &Path) -> (i32, String, String) {
    let mut command = Command::new(LABORATORY);
    command.args(["replay", "--json", "--min-calls", "5", "--model", MODEL, "--recording"]).arg(folder);
    run(command)
}

fn parts(folder: &Path, table: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with(table))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_survives_a_kill_goes_on_after_a_restart_and_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("recording");
    let fleet = Fleet::start(3).await;
    let yaml = catalog(&fleet.yaml(), "policy: round_robin") + QUICK + &recording(&to, ", rotate: 1KiB, keep: 1MiB");
    let mut requests = 0;
    for _run in 0..2 {
        let mut sidecar = sidecar(yaml.clone()).start().await;
        let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
        let before = parts(&to, "links");
        // Each window is about 300 bytes; a file of 1 KiB holds a few.
        wait::within(Duration::from_secs(60), "two rotations", async || {
            let now = parts(&to, "links");
            if now >= before + 3 { Ok(()) } else { Err(format!("{now} parts")) }
        })
        .await;
        let metrics = sidecar.metrics().await;
        let written = metrics.sum("pathloom_recording_windows_written_total", &[]);
        // On a busy machine a disk may be later than a tick of 100 ms now and then.
        let lost = metrics.sum("pathloom_recording_windows_lost_total", &[]);
        assert!(written >= 4.0 && lost <= written / 4.0, "{written} written, {lost} lost");
        requests += load.stop().await.outcomes.len();
        sidecar.process.signal(Signal::SIGKILL);
        sidecar.process.end(wait::LIMIT).await;
    }
    let (code, out, err) = replay(&to);
    assert_eq!(code, 0, "{err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert!(value["candidates"].as_u64().is_some_and(|n| n >= 6), "{out}");
    assert!(value["decisions"].as_u64().is_some_and(|n| n >= 2), "three endpoints to choose from: {out}");
    for rival in ["persistence", "mean of five", "ewma", "lowest cpu", "random"] {
        assert!(value["rivals"][rival].is_object(), "{rival}: {out}");
    }
    for key in ["mean_relative_error", "jitter_error_ms", "decision_accuracy", "regret_ms", "rank_correlation"] {
        assert!(value["model"][key].is_f64(), "{key}: {out}");
    }
    assert!(requests > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_is_told_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let fleet = Fleet::start(1).await;
    let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + &recording(&file.join("below"), "")).spawn();
    let status = sidecar.process.end(wait::LIMIT).await;
    assert!(!status.success());
    let told = sidecar.stderr() + &sidecar.process.stdout.text();
    assert!(told.contains("telemetry.record.to") && told.contains("file/below"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_goes_away_costs_windows_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("recording");
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + &recording(&to, "")).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 2, "/").await;
    wait::until("a window", || parts(&to, "links") > 0).await;
    std::fs::rename(&to, folder.path().join("gone")).unwrap();
    std::fs::write(&to, "").unwrap();
    wait::within(Duration::from_secs(30), "a lost window", async || {
        let lost = sidecar.metrics().await.sum("pathloom_recording_windows_lost_total", &[]);
        if lost > 0.0 { Ok(()) } else { Err("none") }
    })
    .await;
    load.further(100).await;
    let report = load.stop().await;
    let wrong = report.outcomes.values().find(|o| !matches!(o, Outcome::Right(_)));
    assert_eq!(wrong, None, "no request is lost to it");
}
