//! `make chaos` itself: a short run of it, which must come to its report with nothing unexplained in it. What it measures is
//! not asked for here: this machine may be busy.

use crate::BINARY;
use pathloom_integration::process::run;
use serde_json::Value;
use std::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_run_of_make_chaos_ends_with_a_report_in_which_each_failure_has_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.md");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.args(["--pathloom", BINARY, "--rate", "40", "--minutes", "0.5", "--window", "3.3", "--least", "0"]);
    command.args(["--only", "die,cut,reset,outage,rotate,reload,scorer-dies", "--out"]).arg(&report);
    let (_, out, errors) = tokio::task::spawn_blocking(|| run(command)).await.unwrap();
    let text = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report: {e}\n{out}\n{errors}"));
    for section in ["## By trouble", "## What is expected", "## Memory and descriptors", "| outage |"] {
        assert!(text.contains(section), "{section} is not in the report:\n{text}");
    }
    let json = std::fs::read(report.with_extension("json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let verdicts = json["verdicts"].as_array().unwrap();
    for name in ["reasons", "answers", "no_crash"] {
        let verdict = verdicts.iter().find(|v| v["name"] == name).unwrap();
        assert_eq!(verdict["held"], true, "{verdict:#}\n{out}\n{errors}");
    }
    let kinds: Vec<_> =
        json["windows"].as_array().unwrap().iter().flat_map(|w| w["troubles"].as_array().unwrap()).collect();
    assert!(kinds.len() >= 7, "{kinds:?}");
    assert!(json["all"]["requests"].as_u64().unwrap() > 500, "{}", json["all"]);
    assert!(json["all"]["excused"].as_object().unwrap().values().all(Value::is_u64));
}
