//! The section of `check`: whether the engines agree, and how long an inference takes.

use super::table::Table;
use super::{Found, Page, number};
use crate::check::TOLERANCE;
use serde_json::Value;

/// The largest size of a model file, in bytes.
const LARGEST: f64 = 2.0 * 1024.0 * 1024.0;
/// What an inference may take on ONNX Runtime with one thread: nodes, links, milliseconds.
const LIMITS: [(u64, u64, f64); 2] = [(50, 200, 0.4), (1_000, 5_000, 8.0)];

pub(super) fn sections(page: &mut Page<'_>, found: &[&Found]) {
    page.say("## Engines");
    if found.is_empty() {
        page.say("Not measured: `pathloom-models check --json > models/results/check.json`.");
    }
    for f in found {
        page.made_by(f);
        let bytes = number(&f.value, &["bytes"]);
        let fits = if bytes <= LARGEST { "met" } else { "not met" };
        page.say(&format!("The file has {bytes} bytes (at most 2 MiB asked): **{fits}**."));
        let list = |key: &str| f.value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut table = Table::new(&["engines", "largest difference", "allowed"]);
        for agreement in list("agreements") {
            let engines = agreement.get("engines").and_then(Value::as_str).unwrap_or("-").to_string();
            let all = agreement.get("largest").and_then(Value::as_array).cloned().unwrap_or_default();
            let largest = all.iter().map(|v| v.as_f64().unwrap_or(f64::INFINITY)).fold(0.0, f64::max);
            table.row([engines, format!("{largest:.1e}"), format!("{TOLERANCE:.0e}")]);
        }
        page.table(&table);
        let mut table =
            Table::new(&["engine, one thread", "nodes", "links", "median, ms", "asked of ONNX Runtime, ms"]);
        for time in list("times_ms") {
            let at = |i: usize| time.get(i).cloned().unwrap_or(Value::Null);
            let (engine, n, e) = (at(0), at(1).as_u64().unwrap_or(0), at(2).as_u64().unwrap_or(0));
            let (engine, ms) = (engine.as_str().unwrap_or("-").to_string(), at(3).as_f64().unwrap_or(f64::NAN));
            let limit = LIMITS.iter().find(|(nodes, links, _)| engine == "onnxruntime" && (*nodes, *links) == (n, e));
            let asked = limit.map_or("-".to_string(), |(.., limit)| {
                format!("{limit}: **{}**", if ms <= *limit { "met" } else { "not met" })
            });
            table.row([engine, n.to_string(), e.to_string(), format!("{ms:.3}"), asked]);
        }
        page.table(&table);
    }
}
