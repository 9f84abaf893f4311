//! Rows of what steers: what each generation changed, both arms of the model's trial, the ladder and the model.
//!
//! All of it is in `/routing?history=N`. What a generation changed is told as a sentence, the most telling part first, because
//! on a narrow screen its end is cut.

use super::sheet::{Cell, Row, at, list, text};
use crate::balance::Rung;
use serde_json::Value;

/// How many moved weights are told of one generation.
const MOVES: usize = 2;

/// The generations, the newest first.
pub fn timeline(routing: &Value) -> Vec<Row> {
    let row = |change: &Value| {
        vec![
            Cell::number(at(change, "/generation"), 0),
            // The day is known: those of the last few minutes are remembered.
            Cell::word(text(change, "made_at").get(11..23).unwrap_or_default()),
            Cell::word(text(change, "cause")),
            Cell::word(text(change, "rung")).bad_if(text(change, "rung") != Rung::Model.as_str()),
            Cell::number(at(change, "/took_ms"), 1),
            Cell::word(&changed(change)),
        ]
    };
    list(routing, "history").iter().rev().map(row).collect()
}

fn changed(change: &Value) -> String {
    let mut said: Vec<String> = Vec::new();
    let ms = |value: &Value, key: &str| at(value, key).map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    let percent =
        |value: &Value, key: &str| at(value, key).map_or_else(|| "-".to_owned(), |v| format!("{:.1}%", v * 100.0));
    for t in list(change, "triggers") {
        let link = format!("{} -> {}", text(t, "source"), text(t, "destination"));
        said.push(match text(t, "what") {
            "errors" => format!("{link} fails {} of its calls", percent(t, "/error_rate")),
            _ => format!("{link} took {} ms where {} ms were predicted", ms(t, "/observed_ms"), ms(t, "/predicted_ms")),
        });
    }
    for h in list(change, "health") {
        said.push(format!("{}: {} -> {}", text(h, "endpoint"), text(h, "from"), text(h, "to")));
    }
    for (key, what) in [("appeared", "appeared"), ("disappeared", "is gone")] {
        said.extend(list(change, key).iter().map(|e| format!("{} {what}", text(e, "endpoint"))));
    }
    for m in list(change, "moved").iter().take(MOVES) {
        said.push(format!(
            "{}: {} -> {}, {}",
            text(m, "endpoint"),
            percent(m, "/from"),
            percent(m, "/to"),
            text(m, "reason")
        ));
    }
    if text(change, "rung") != Rung::Model.as_str() {
        said.push(text(change, "rung_reason").to_owned());
    }
    said.join("; ")
}

/// Both arms of each pair on trial, one below the other.
pub fn arms(routing: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in list(routing, "tables") {
        for name in ["model", "against"] {
            let Some(arm) = table.pointer(&format!("/canary/{name}")).filter(|arm| arm.is_object()) else { continue };
            let failures = at(arm, "/failures");
            rows.push(vec![
                Cell::word(text(table, "workload")),
                Cell::word(text(table, "cluster")),
                Cell::word(name),
                Cell::number(at(arm, "/requests"), 0),
                Cell::percent(at(arm, "/share")),
                Cell::number(at(arm, "/mean_ms"), 1),
                Cell::number(at(arm, "/p50_ms"), 1),
                Cell::number(at(arm, "/p99_ms"), 1),
                Cell::number(failures, 0),
                Cell::percent(at(arm, "/failure_rate")),
                Cell::word(text(arm, "policy")),
            ]);
        }
    }
    rows
}

/// By what a step of the ladder steers.
fn goes_by(rung: Rung) -> &'static str {
    match rung {
        Rung::Model => "the model's scores of the tick",
        Rung::LastGood => "its last good scores, until they expire (`model.guards.expire_after`)",
        Rung::Against => "on trial: the policy that the model is compared with, where it has lost or has no scores",
        Rung::PeakEwma => "the latencies that this proxy has measured itself",
        Rung::LeastRequest => "requests under way alone: no scores, and no fresh latencies",
    }
}

/// The ladder with the step that steers, the model and its engine, and the trial's terms.
pub fn model(routing: &Value) -> Vec<Row> {
    let generation = routing.get("generation").unwrap_or(&Value::Null);
    let scorer = routing.get("scorer").unwrap_or(&Value::Null);
    let engine = scorer.get("engine").unwrap_or(&Value::Null);
    let model = generation.get("model").unwrap_or(&Value::Null);
    let row = |what: &str, is: &str| vec![Cell::word(what), Cell::word(is)];
    let mut rows: Vec<Row> = Vec::new();
    for rung in Rung::ALL {
        let steers = rung.as_str() == text(generation, "rung");
        let is = if steers { format!("STEERS: {}", text(generation, "rung_reason")) } else { goes_by(rung).to_owned() };
        let step = row(&format!("ladder: {}", rung.as_str()), &is);
        rows.push(step.into_iter().map(|cell| cell.bad_if(steers && rung != Rung::Model)).collect());
    }
    let digest: String = text(model, "digest").chars().take(12).collect();
    let error = at(routing, "/model_error").map_or_else(String::new, |e| format!("{:.0}% off on average", e * 100.0));
    rows.extend([
        row("mode", text(routing, "mode")),
        row("model", text(model, "name")),
        row("model digest", &digest),
        row("model error", &error),
        row("engine", &format!("{} {} on {}", text(engine, "engine"), text(engine, "version"), text(engine, "device"))),
        row("why this engine", text(engine, "reason")),
        row("scorer", text(scorer, "state")),
    ]);
    for c in routing.pointer("/canary/comparisons").and_then(Value::as_array).into_iter().flatten() {
        let between = |key: &str| {
            let [mean, low, high] =
                ["mean", "low", "high"].map(|part| at(c, &format!("/{key}/{part}")).map(|v| v * 100.0));
            match (mean, low, high) {
                (Some(mean), Some(low), Some(high)) => format!("{mean:.1}% ({low:.1}% to {high:.1}%)"),
                _ => "not known yet".to_owned(),
            }
        };
        let is = format!("latency longer by {}; more failures by {}", between("longer"), between("more_failures"));
        rows.push(row(&format!("trial: {}", text(c, "cluster")), &is));
    }
    rows
}
