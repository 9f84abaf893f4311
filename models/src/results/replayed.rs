//! The sections of `replay`: real telemetry, Nezha's windows first.

use super::evaluated::{differences, figures};
use super::{Found, Page, entries, number};
use crate::Result;
use crate::evaluate::Figure;
use serde_json::Value;

/// How much less relative error than persistence is asked.
const LEAST_GAIN: f64 = 0.20;

pub(super) fn sections(page: &mut Page<'_>, found: &[&Found]) -> Result<()> {
    page.say("## Recorded telemetry");
    if found.is_empty() {
        page.say(
            "Not measured: `pathloom-models replay --data ../shared/data --json > models/results/replay-nezha.json`.",
        );
    }
    for f in found {
        let of = f.value.get("recording").and_then(|r| r.get("name")).and_then(Value::as_str);
        page.say(&format!("### {}", of.unwrap_or("Nezha's windows")));
        page.made_by(f);
        if let Some(before) = f.value.get("before") {
            adapted(page, &f.value, before);
        }
        page.say(
            "No window that is scored was trained on. Decisions are judged by what the next window showed, so they hold the \
             sampling's noise.",
        );
        let apps = entries(&f.value, "apps");
        if apps.is_empty() {
            one(page, of.unwrap_or("all"), &f.value);
        }
        for (name, value) in apps {
            one(page, name, value);
        }
    }
    Ok(())
}

/// What `fine-tune` changed.
fn adapted(page: &mut Page<'_>, value: &Value, before: &Value) {
    let windows = |part: &str| number(value, &["windows", part]);
    let error = |of: &Value| number(of, &[Figure::MeanRelativeError.key()]);
    page.say(&format!(
        "Adapted by `fine-tune` on the first {} windows, stopped by the next {}, measured on the last {}: relative error {:.3} before, \
         {:.3} after.",
        windows("trained"),
        windows("stopped_by"),
        windows("held_back"),
        error(before),
        value.get("model").map_or(f64::NAN, error)
    ));
}

fn one(page: &mut Page<'_>, name: &str, value: &Value) {
    let figure = Figure::MeanRelativeError.key();
    let (ours, theirs) = (number(value, &["model", figure]), number(value, &["rivals", "persistence", figure]));
    let gain = 1.0 - ours / theirs;
    let judged = match () {
        () if !gain.is_finite() => "Persistence or the model has no figure here.".to_string(),
        () => format!(
            "Relative error {ours:.3} against persistence's {theirs:.3}: {:.1}% {} (at least {:.0}% less asked): **{}**.",
            gain.abs() * 100.0,
            if gain >= 0.0 { "less" } else { "more" },
            LEAST_GAIN * 100.0,
            if gain >= LEAST_GAIN { "met" } else { "not met" }
        ),
    };
    page.say(&format!(
        "**{name}**: {} candidates, {} decisions. {judged}",
        number(value, &["candidates"]),
        number(value, &["decisions"])
    ));
    if number(value, &["decisions"]) == 0.0 {
        page.say("No service had two nodes to choose from, so nothing is said of decisions.");
    }
    page.table(&figures(value, false));
    let rivals: Vec<String> = entries(value, "rivals").into_iter().map(|(n, _)| n.to_string()).collect();
    page.say("The model less each rival, on the same blocks of windows:");
    page.table(&differences(value, &rivals));
}
