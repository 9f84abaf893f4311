//! Where endpoints come from, for `/metrics` and `/routing`.
//!
//! Labels are bounded by the configuration: a cluster's sources, and fixed words.

use super::explain::{cell, string};
use super::json::number;
use crate::discovery::{SourceState, SourceView};
use crate::observe::metrics::{Family, Kind, Labels, Measure, Value};
use serde_json::{Map, Value as Json, json};
use std::fmt::Write;

/// What `/metrics` says.
pub fn families(sources: &[SourceView]) -> Vec<Family> {
    let gauge = |name, measure, help| Family::new(name, Kind::Gauge, measure, help);
    let counter = |name, help| Family::new(name, Kind::Counter, Measure::Number, help);
    let mut endpoints =
        gauge("discovery_endpoints", Measure::Number, "Endpoints that a source told of, by their state.");
    let mut ignored = gauge(
        "discovery_ignored",
        Measure::Number,
        "What a source told of that is no endpoint or not all of one, and was left out, by the reason.",
    );
    let mut failing = gauge(
        "discovery_failing",
        Measure::Number,
        "1 while a source fails and its last good endpoints are kept, 0 otherwise.",
    );
    let mut age = gauge(
        "discovery_age",
        Measure::Seconds,
        "Time since a source last said what its endpoints are; of one that is watched, since the watch broke.",
    );
    let mut answers = counter("discovery_answers", "Good answers of a source, by whether they changed anything.");
    let mut failures = counter("discovery_failures", "Answers that a source failed to give, by the reason's code.");
    for source in sources {
        let labels = || -> Labels { vec![("cluster", source.cluster.clone()), ("source", source.source.clone())] };
        let and = |name: &'static str, word: &str| [labels(), vec![(name, word.to_owned())]].concat();
        for (readiness, count) in source.endpoints {
            endpoints.samples.push((and("state", readiness.word()), Value::Count(count as u64)));
        }
        for (reason, count) in source.ignored {
            ignored.samples.push((and("reason", reason.code()), Value::Count(count as u64)));
        }
        failing.samples.push((labels(), Value::Count(u64::from(source.state == SourceState::Failing))));
        age.samples.extend(source.age.map(|age| (labels(), Value::Number(age.as_secs_f64()))));
        for (result, count) in [("changed", source.answers.0), ("same", source.answers.1)] {
            answers.samples.push((and("result", result), Value::Count(count)));
        }
        for (fault, count) in source.failures {
            failures.samples.push((and("reason", fault.code()), Value::Count(count)));
        }
    }
    vec![endpoints, ignored, failing, age, answers, failures]
}

/// What `/routing` says of the sources of the clusters that are asked for, or of all.
pub fn sources(sources: &[SourceView], cluster: Option<&str>) -> Vec<Json> {
    sources.iter().filter(|source| cluster.is_none_or(|name| source.cluster == name)).map(one).collect()
}

fn one(source: &SourceView) -> Json {
    let seconds = |time: std::time::Duration| number(Some(time.as_secs_f32()));
    let count = |(word, count): (&str, usize)| (word.to_owned(), json!(count));
    let endpoints: Map<String, Json> = source.endpoints.iter().map(|(r, n)| count((r.word(), *n))).collect();
    let ignored = source.ignored.iter().filter(|(_, n)| *n > 0);
    let ignored: Map<String, Json> = ignored.map(|(reason, n)| count((reason.code(), *n))).collect();
    let trouble = source.trouble.as_ref();
    json!({
        "cluster": source.cluster,
        "source": source.source,
        "state": source.state.word(),
        "reason": trouble.map(|(fault, text, _)| format!("{}: {text}", fault.code())),
        "failing_for_s": trouble.map(|(_, _, time)| seconds(*time)),
        "age_s": source.age.map(seconds),
        "endpoints": endpoints,
        "ignored": ignored,
    })
}

/// What `pathloom explain` says of sources that fail or have not answered yet.
pub fn explain(routing: &Json, out: &mut String) {
    for source in routing.get("discovery").and_then(Json::as_array).into_iter().flatten() {
        let (cluster, name) = (string(source, "cluster"), string(source, "source"));
        // Writing to a String cannot fail.
        let _ = match source.get("state").and_then(Json::as_str) {
            Some("failing") => writeln!(
                out,
                "DISCOVERY   {cluster}: {name} fails for {} s ({}); endpoints of {} s ago are kept",
                cell(source, "failing_for_s", 0),
                string(source, "reason"),
                cell(source, "age_s", 0)
            ),
            Some("waiting") => writeln!(out, "DISCOVERY   {cluster}: {name} has not answered yet"),
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_source_that_fails_shows_what_is_kept_why_and_since_when() {
        let all = fixture::sources();
        assert_eq!(sources(&all, Some("empty")), Vec::<Json>::new());
        let shown = sources(&all, None);
        assert_eq!(
            (&shown[0]["state"], &shown[0]["reason"], &shown[0]["age_s"]),
            (&json!("working"), &Json::Null, &json!(4.0))
        );
        assert_eq!(shown[0]["endpoints"], json!({ "ready": 3, "terminating": 1, "not_ready": 2 }));
        let failing = &shown[1];
        assert_eq!((&failing["state"], &failing["failing_for_s"]), (&json!("failing"), &json!(60.0)));
        assert_eq!(failing["reason"], json!("timeout: nobody answers"));
        assert_eq!((&failing["ignored"], &failing["age_s"]), (&json!({ "bad_address": 1 }), &json!(61.0)));
    }

    #[test]
    fn every_reason_has_its_series() {
        let all = families(&fixture::sources());
        let samples = |name: &str| all.iter().find(|f| f.name == name).map(|f| f.samples.len());
        assert_eq!((samples("discovery_endpoints"), samples("discovery_failing")), (Some(6), Some(2)));
        assert_eq!((samples("discovery_failures"), samples("discovery_ignored")), (Some(16), Some(12)));
    }
}
