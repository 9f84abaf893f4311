//! The command line.

use crate::{README, catalog, pathloom, sidecar};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::sidecar::get;
use pathloom_integration::{process, wait};
use std::process::Command;

#[tokio::test]
async fn check_says_yes_with_0_and_no_with_64_and_lists_every_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.yaml");
    let path = file.display().to_string();
    std::fs::write(&file, include_str!("../../../proxy-config/quickstart.yaml")).unwrap();
    let (code, _, said) = pathloom(&["check", &path]).await;
    assert_eq!(code, 0, "{said}");
    let (code, effective, _) = pathloom(&["check", "--effective", &path]).await;
    assert!(code == 0 && effective.contains("slow_start"), "{effective}");
    std::fs::write(&file, &effective).unwrap();
    let (code, again, said) = pathloom(&["check", "--effective", &path]).await;
    assert!(code == 0 && again == effective, "the effective configuration is a configuration: {said}");

    std::fs::write(&file, "nod: { name: x }\nadmin: { listen: nowhere }\nprocess: { drain: 5 }\nroutes: [{}]\n")
        .unwrap();
    let (code, _, said) = pathloom(&["check", &path]).await;
    assert_eq!(code, 64, "{said}");
    for word in ["nod", "node", "nowhere", "drain", "leads nowhere", ":1:", ":2:", ":3:", ":4:"] {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
    let (code, _, said) = pathloom(&["check", "/nonexistent.yaml"]).await;
    assert!(code == 64 && said.contains("/nonexistent.yaml"), "{code} {said}");
}

#[tokio::test]
async fn every_example_configuration_is_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-config");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Prometheus' rules are YAML, too.
        if path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("alerts.yaml") {
            let (code, _, said) = pathloom(&["check", &path.display().to_string()]).await;
            assert_eq!(code, 0, "{}: {said}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 2, "{checked} examples");
}

#[tokio::test]
async fn help_version_and_schema_are_there_and_a_wrong_word_is_an_error() {
    for (arguments, word) in [(["--help"], "explain"), (["--version"], "pathloom"), (["schema"], "$schema")] {
        let (code, out, errors) = pathloom(&arguments).await;
        assert!(code == 0 && out.contains(word), "{arguments:?}: {out}{errors}");
    }
    let (code, _, errors) = pathloom(&["rnu"]).await;
    assert!(code != 0 && code != 101 && errors.contains("rnu"), "{code} {errors}");
    let (code, _, errors) = pathloom(&["explain", "--admin", "127.0.0.1:1"]).await;
    assert!(code != 0 && code != 101 && errors.contains("127.0.0.1:1"), "{code} {errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_says_what_the_sidecar_is() {
    let fleet = Fleet::start(1).await;
    let admin = "admin: { listen: '@admin@', metrics: '@metrics@' }\n";
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + admin + "process: { drain: 5m }\n").start().await;
    for address in [sidecar.address("admin"), sidecar.address("metrics")] {
        let address = address.to_string();
        assert_eq!(pathloom(&["probe", "live", "--admin", &address]).await, (0, "live\n".into(), String::new()));
        assert_eq!(pathloom(&["probe", "ready", "--admin", &address]).await, (0, "ready\n".into(), String::new()));
    }
    let metrics = sidecar.address("metrics");
    let (status, text) = get(metrics, "/metrics").await.unwrap();
    assert!(status == 200 && text.contains("pathloom_"), "{status} {text}");
    for hidden in ["/", "/routing", "/graph", "/config"] {
        assert_eq!(get(metrics, hidden).await.unwrap().0, 404, "{hidden}");
    }
    // A request in flight keeps it from leaving.
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let held = tokio::spawn(async move { client.get("/hold").await.map(|answer| answer.status().as_u16()) });
    wait::until("it to be in flight", || fleet.holding() == 1).await;
    sidecar.sigterm();
    let address = metrics.to_string();
    let said = wait::eventually("readiness to fall", || async {
        match pathloom(&["probe", "ready", "--admin", &address]).await {
            (1, _, said) => Ok(said),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(said, "pathloom: not ready:\n- the process is leaving\n");
    fleet.open_gates();
    assert_eq!(held.await.unwrap().unwrap(), 200);
    let (code, out, said) = pathloom(&["probe", "live", "--admin", "127.0.0.1:1"]).await;
    assert!(code == 1 && out.is_empty() && said.contains("nobody listens at 127.0.0.1:1"), "{code} {out} {said}");
}

#[tokio::test]
async fn every_command_of_the_laboratory_that_the_readme_names_is_there() {
    let table = README.split("| command | does |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(named.len() >= 8, "{named:?}");
    for command in named {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_pathloom-models-under-test"));
        asked.args([command, "--help"]);
        let (code, out, errors) = tokio::task::spawn_blocking(move || process::run(asked)).await.unwrap();
        assert!(code == 0 && out.contains("Usage"), "{command}: {errors}");
    }
}
