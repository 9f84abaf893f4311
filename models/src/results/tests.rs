use super::*;
use serde_json::json;

fn figures(error: f64, jitter: f64, accuracy: f64) -> Value {
    json!({ "mean_relative_error": error, "jitter_error_ms": jitter, "decision_accuracy": accuracy, "regret_ms": 1.0,
            "rank_correlation": 0.9 })
}

fn difference(better: bool) -> Value {
    json!({ "difference": -0.1, "low": -0.2, "high": if better { -0.05 } else { 0.05 }, "better": better, "worse": false })
}

fn evaluated(family: &str, error: f64, accuracy: f64, better: bool) -> Value {
    json!({
        "command": "pathloom-models evaluate", "commit": "0123456789abcdef", "date": "2026-01-02", "machine": "2 x test",
        "family": family, "faults": "seen", "least_answers": 20,
        "model": figures(error, 5.0, accuracy),
        "rivals": { "ewma": figures(0.3, 9.0, 0.7), "ospf": figures(0.4, 9.0, 0.6),
                    "random": { "mean_relative_error": null, "decision_accuracy": 0.3 } },
        "ablations": { "no-graph": figures(0.2, 6.0, 0.8) },
        "noise_floor": { "mean_relative_error": 0.031, "jitter_error_ms": 2.5, "intervals": {} },
        "intervals": { "model": { "mean_relative_error": { "mean": error, "low": error - 0.002, "high": error + 0.002, "seeds": 5 } } },
        "differences": {
            "ewma": { "mean_relative_error": difference(true), "jitter_error_ms": difference(true), "decision_accuracy": difference(true) },
            "ospf": { "mean_relative_error": difference(better), "jitter_error_ms": difference(true), "decision_accuracy": difference(true) },
            "random": { "decision_accuracy": difference(true) },
            "no-graph": { "mean_relative_error": difference(true) },
        },
        "slices": { "link never used": { "candidates": 7, "decisions": 3,
                    "figures": { "model": figures(0.1, 1.0, 0.9), "ewma": figures(0.8, 1.0, 0.4) } } },
        "further": {}, "decisions": 1234, "seeds": [1, 2, 3, 4, 5], "candidates": 999, "runs": 120, "samples": 1500,
    })
}

fn closed_loop(mean: f64) -> Value {
    let policy = |p99: f64, against: f64| {
        json!({ "p50_ms": 10.0, "p99_ms": p99, "p999_ms": 200.0, "errors": 0.01, "goodput": 99.0,
                "intervals": { "p99_ms": { "mean": p99, "low": p99 - 1.0, "high": p99 + 1.0 } },
                "p99_vs_best_classical": { "mean": against, "low": against - 0.01, "high": against + 0.01 },
                "p99_vs_least_request": { "mean": against, "low": against - 0.01, "high": against + 0.01 } })
    };
    json!({
        "command": "pathloom-models closed-loop", "seeds": [1, 2, 3],
        "scenarios": { "rare-gray": { "about": "a gray replica on rarely used links", "asks": "out_of_sight", "best_classical": "peak-ewma",
            "policies": { "pathloom": policy(70.0, mean), "peak-ewma": policy(120.0, 0.0) } } },
    })
}

/// The page of these files.
fn page_of(files: &[(&str, Value)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    for (name, value) in files {
        crate::cli::write(&results.join(format!("{name}.json")), value.to_string().as_bytes()).unwrap();
    }
    let out = folder.path().join("RESULTS.md");
    assert_eq!(write(&results, &out).unwrap(), files.len());
    let text = std::fs::read_to_string(&out).unwrap();
    for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
        assert!(folder.path().join(link).is_file(), "{link}");
    }
    text
}

#[test]
fn targets_are_judged_by_the_numbers() {
    let met = page_of(&[("evaluate-social-network", evaluated("social-network", 0.070, 0.92, true))]);
    assert!(met.contains("- mean rel. error: 0.070 (at most 0.072 asked): **met**; better than every rival"), "{met}");
    assert!(met.contains("- right choice: 92.0% (at least 91.4% asked): **met**"));
    let missed = page_of(&[("evaluate-social-network", evaluated("social-network", 0.080, 0.90, false))]);
    assert!(missed.contains("0.080 (at most 0.072 asked): **not met**; not shown to be better than ospf"), "{missed}");
    assert!(missed.contains("90.0% (at least 91.4% asked): **not met**"));
}

#[test]
fn published_figures_stand_in_a_column_that_says_what_they_are() {
    let page = page_of(&[("evaluate-social-network", evaluated("social-network", 0.070, 0.92, true))]);
    assert!(page.contains("as published, on other data |"));
    let row = |start: &str| page.lines().find(|l| l.starts_with(start)).unwrap().to_string();
    assert!(row("| **model** |").ends_with("| 0.072 / 5.92 / 91.4% (the routing paper) |"));
    assert!(row("| **model** |").contains("0.070 ±0.002"));
    assert!(row("| ospf |").ends_with("| 0.153 / 11.36 / 75.6% (OSPF) |"));
    assert!(row("| RouteNet-Fermi (not rebuilt) |").contains("| - | - | - | - | - | 0.128 / 9.47 / 82.3%"));
    assert!(row("| noise floor |").contains("0.031"));
}

#[test]
fn accuracy_lost_elsewhere_is_counted_from_the_social_network() {
    let home = ("a", evaluated("social-network", 0.070, 0.92, true));
    let page = page_of(&[home.clone(), ("b", evaluated("hotel-reservation", 0.1, 0.88, true))]);
    assert!(page.contains("- hotel-reservation, faults seen: 4.0 points lost (at most 5 asked): **met**."), "{page}");
    let page = page_of(&[home, ("b", evaluated("hotel-reservation", 0.1, 0.86, true))]);
    assert!(page.contains("6.0 points lost (at most 5 asked): **not met**."));
}

#[test]
fn wins_and_losses_of_the_closed_loop_are_said_plainly() {
    let page = page_of(&[("closed-loop", closed_loop(-0.4))]);
    assert!(page.contains("win: **met**") && page.contains("Wins (the interval is below zero): rare-gray."), "{page}");
    let page = page_of(&[("closed-loop", closed_loop(0.1))]);
    assert!(page.contains("loss: **not met**") && page.contains("Losses (above zero): rare-gray."), "{page}");
    assert!(page.contains("**70.0 [69.0, 71.0]**"));
}

#[test]
fn a_replay_is_judged_beside_persistence() {
    let app = |ours: f64| {
        json!({ "model": figures(ours, 1.0, 0.5), "rivals": { "persistence": figures(0.2, 1.0, 0.5) },
                                  "noise_floor": {}, "decisions": 0, "candidates": 50, "differences": {} })
    };
    let page =
        page_of(&[("replay-nezha", json!({ "apps": { "OnlineBoutique": app(0.15), "TrainTicket": app(0.19) } }))]);
    assert!(
        page.contains("0.150 against persistence's 0.200: 25.0% less (at least 20% less asked): **met**"),
        "{page}"
    );
    assert!(page.contains("5.0% less (at least 20% less asked): **not met**"));
}

#[test]
fn engines_are_judged_by_their_limits() {
    let check = json!({ "bytes": 260_000, "agreements": [{ "engines": "candle and rten", "largest": [1e-6, 2e-6] }],
                        "times_ms": [["onnxruntime", 50, 200, 0.38], ["onnxruntime", 1000, 5000, 9.5], ["rten", 50, 200, 1.2]] });
    let page = page_of(&[("check", check)]);
    assert!(page.contains("| onnxruntime | 50 | 200 | 0.380 | 0.4: **met** |"), "{page}");
    assert!(page.contains("| onnxruntime | 1000 | 5000 | 9.500 | 8: **not met** |"));
    assert!(page.contains("| rten | 50 | 200 | 1.200 | - |") && page.contains("2.0e-6"));
}

#[test]
fn what_is_missing_is_said_to_be_missing() {
    let page = page_of(&[("check", json!({ "agreements": [] }))]);
    assert_eq!(page.matches("Not measured").count(), 5, "{page}");
    assert!(page.contains("| `check.json` | `not recorded` |"));
}

#[test]
fn a_folder_without_results_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(folder.path(), &folder.path().join("RESULTS.md")).unwrap_err().to_string();
    assert!(error.contains("make results"), "{error}");
}

#[test]
fn the_stamp_keeps_what_the_figures_say_and_dates_are_the_calendars() {
    let value = stamped(json!({ "commit": "mine", "x": 1 }));
    assert_eq!((value["commit"].as_str(), value["x"].as_u64()), (Some("mine"), Some(1)));
    assert!(value["machine"].as_str().is_some_and(|m| m.contains(" x ")));
    assert_eq!(stamp::civil(0), (1970, 1, 1));
    assert_eq!(stamp::civil(19_782), (2024, 2, 29));
    assert_eq!(stamp::civil(20_455), (2026, 1, 2));
}
