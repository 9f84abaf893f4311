//! The command line.

use crate::{README, pathloom};
use pathloom_integration::process;
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
        if path.extension().is_some_and(|e| e == "yaml") {
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
