//! The model's trial, for `/routing`, `/metrics` and `pathloom explain`: both arms side by side, and the verdict on them.
//!
//! `/routing` has `canary` at its top (the terms, each cluster's comparison with its intervals, the retreat) and in each
//! table (both arms of that workload and cluster). An interval is one that may be looked at at any time
//! (`control::sequence`). Null is unknown.

use super::explain::{cell, percent, string};
use super::json::{ms, number, share};
use super::metrics::{by_word, counter, gauge};
use crate::balance::{Generation, OwnZone, Table};
use crate::control::{ArmView, CanaryView, Comparison, Interval, Lost, Status};
use crate::links::Time;
use crate::observe::metrics::{Family, Kind, Labels, Measure, Value};
use crate::observe::{Arm, TrafficRegistry};
use serde_json::{Value as Json, json};
use std::fmt::Write;
use std::sync::Arc;

/// The trial, at the top of `/routing`; null where there is none.
pub fn trial(view: Option<&CanaryView>, now: Time) -> Json {
    let Some(view) = view else { return Json::Null };
    let retreat = view.retreat.as_ref().map(|r| {
        json!({
            "code": r.lost.code(),
            "cluster": &*r.cluster,
            "reason": r.words,
            "since_s": number(now.seconds_since(r.at)),
            "again_in_s": r.until.map(|until| number(until.seconds_since(now))),
        })
    });
    json!({
        "share": share(view.terms.share.0 as f32),
        "against": view.terms.against,
        "tolerance": share(view.terms.tolerance.0 as f32),
        "comparisons": view.comparisons.iter().map(comparison).collect::<Vec<_>>(),
        "retreat": retreat,
    })
}

fn comparison(c: &Comparison) -> Json {
    json!({
        "cluster": &*c.cluster,
        "batches": c.batches,
        "longer": c.latency().map(interval),
        "more_failures": c.failures.map(interval),
    })
}

fn interval(i: Interval) -> Json {
    json!({ "mean": share(i.mean as f32), "low": share(i.low as f32), "high": share(i.high as f32) })
}

/// Both arms of one table; null where the model is on no trial.
pub fn arms(view: Option<&CanaryView>, pair: &(Arc<str>, Arc<str>), table: &Table) -> Json {
    let Some((view, both)) = view.and_then(|view| Some((view, view.arms.get(pair)?))) else { return Json::Null };
    let all: u64 = both.iter().map(|arm| arm.requests).sum();
    let steering = table.trial().is_some();
    let [model, against] = Arm::ALL.map(|arm| {
        let policy = if arm == Arm::Model { crate::config::Policy::Model } else { view.terms.against };
        both.get(arm as usize).map(|seen| one(seen, policy, all))
    });
    json!({ "steering": steering, "model": model, "against": against })
}

fn one(seen: &ArmView, policy: crate::config::Policy, all: u64) -> Json {
    let part = |count: u64, of: u64| share((of > 0).then(|| count as f32 / of as f32));
    let [p50, p99] = seen.latencies.quantiles([0.5, 0.99]).map_or([None; 2], |qs| qs.map(|s| Some(s as f32)));
    json!({
        "policy": policy,
        "requests": seen.requests,
        "share": part(seen.requests, all),
        "failures": seen.failures,
        "failure_rate": part(seen.failures, seen.requests),
        "mean_ms": ms(seen.latencies.mean().map(|s| s as f32)),
        "p50_ms": ms(p50),
        "p99_ms": ms(p99),
    })
}

/// What `/metrics` says of the trial and of own zones.
pub fn families(status: &Status, traffic: &TrafficRegistry, generation: &Generation) -> Vec<Family> {
    let mut requests = counter("canary_requests", "Requests that are over, by the arm of the trial that steered them.");
    let mut failures = counter("canary_failures", "Requests that failed, by the arm of the trial that steered them.");
    let mut latency = Family::new(
        "canary_latency",
        Kind::Counter,
        Measure::Seconds,
        "The latencies of a trial's requests together; by those with a latency, the mean.",
    );
    let mut latencies =
        counter("canary_latencies", "Requests with a latency, by the arm of the trial that steered them.");
    for ((workload, cluster), both) in traffic.arms() {
        for (arm, seen) in Arm::ALL.iter().zip(both) {
            let labels = || -> Labels {
                let names = [("workload", workload.to_string()), ("cluster", cluster.to_string())];
                names.into_iter().chain([("arm", arm.as_str().to_owned())]).collect()
            };
            requests.samples.push((labels(), Value::Count(seen.requests)));
            failures.samples.push((labels(), Value::Count(seen.failures)));
            latency.samples.push((labels(), Value::Number(seen.latency_sum_s)));
            latencies.samples.push((labels(), Value::Count(seen.latencies)));
        }
    }
    let mut longer = gauge(
        "canary_latency_difference",
        Measure::Ratio,
        "By how much longer the model's requests take than the others, and between what that certainly is.",
    );
    let mut more = gauge(
        "canary_failure_difference",
        Measure::Ratio,
        "How many more of the model's requests fail, as a share of all, and between what that certainly is.",
    );
    let view = status.canary();
    for comparison in view.iter().flat_map(|v| &v.comparisons) {
        for (family, interval) in [(&mut longer, comparison.latency()), (&mut more, comparison.failures)] {
            let Some(Interval { mean, low, high }) = interval else { continue };
            for (bound, value) in [("mean", mean), ("low", low), ("high", high)] {
                let labels = vec![("cluster", comparison.cluster.to_string()), ("bound", bound.to_owned())];
                family.samples.push((labels, Value::Number(value)));
            }
        }
    }
    let retreated = view.as_ref().map(|v| u64::from(v.retreat.is_some()));
    let gone =
        gauge("canary_retreated", Measure::Number, "1 while the model stays away because it has lost its trial.");
    let lost = by_word(
        counter("canary_retreats", "Trials that the model has lost, by the reason's code."),
        "reason",
        Lost::ALL.map(Lost::code).into_iter().zip(status.losses()),
    );
    let mut own = gauge(
        "own_zone_share",
        Measure::Ratio,
        "The share of requests that stays in the node's own zone, where that comes first and there are others.",
    );
    for cluster in &generation.clusters {
        for (workload, table) in generation.routes.workloads().iter().zip(&cluster.tables) {
            if let Some(zone) = table.own_zone() {
                let labels = vec![("workload", workload.name.to_string()), ("cluster", cluster.name.to_string())];
                own.samples.push((labels, Value::Number(f64::from(zone.share))));
            }
        }
    }
    let gone = retreated.map_or(gone.clone(), |is| gone.count(is));
    vec![requests, failures, latency, latencies, longer, more, gone, lost, own]
}

/// What stays in the own zone, in a table of `/routing`; null where nothing is preferred.
pub fn own_zone(own: Option<&OwnZone>) -> Json {
    own.map_or(Json::Null, |own| {
        json!({ "zone": &*own.name, "share": share(own.share), "well": share(own.well), "load": number(own.load) })
    })
}

/// The trial's lines at the head of `pathloom explain`.
pub fn explain_trial(routing: &Json, out: &mut String) {
    let Some(trial) = routing.get("canary").filter(|c| c.is_object()) else { return };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "canary      the model steers {}, {} the rest",
        percent(trial.get("share")),
        string(trial, "against")
    );
    for c in trial.get("comparisons").and_then(Json::as_array).into_iter().flatten() {
        let _ = writeln!(
            out,
            "            {}: {}, {}; {} batches",
            string(c, "cluster"),
            between(c.get("longer"), "latency"),
            between(c.get("more_failures"), "failures"),
            cell(c, "batches", 0)
        );
    }
    if let Some(retreat) = trial.get("retreat").filter(|r| r.is_object()) {
        let again = match retreat.get("again_in_s").and_then(Json::as_f64) {
            Some(seconds) => format!("another trial in {seconds:.0} s"),
            None => "no other trial with this model".to_owned(),
        };
        let _ = writeln!(
            out,
            "RETREAT     {}: {}, {} s ago; {again}",
            string(retreat, "code"),
            string(retreat, "reason"),
            cell(retreat, "since_s", 0)
        );
    }
}

/// By how much the model's requests are worse, with the interval's bounds; less than nothing is better.
fn between(interval: Option<&Json>, what: &str) -> String {
    match interval.filter(|i| i.is_object()) {
        Some(i) => {
            let [mean, low, high] = ["mean", "low", "high"].map(|key| {
                i.get(key).and_then(Json::as_f64).map_or_else(|| "-".to_owned(), |v| format!("{:+.1}%", v * 100.0))
            });
            format!("{what} {mean} ({low} to {high}) beside the rest")
        }
        None => format!("{what} not known yet"),
    }
}

/// Both arms and the own zone in a table of `pathloom explain`.
pub fn explain_table(table: &Json, out: &mut String) {
    if let Some(own) = table.get("own_zone").filter(|z| z.is_object()) {
        let _ = writeln!(
            out,
            "  zone {}: {} of the requests stay in it; {} of it well, load {}",
            string(own, "zone"),
            percent(own.get("share")),
            percent(own.get("well")),
            cell(own, "load", 2)
        );
    }
    let Some(both) = table.get("canary").filter(|c| c.is_object()) else { return };
    for name in Arm::ALL.map(Arm::as_str) {
        let Some(arm) = both.get(name).filter(|a| a.is_object()) else { continue };
        let _ = writeln!(
            out,
            "  {:<8} {} requests ({}) by {}: mean {} ms, p50 {} ms, p99 {} ms; {} failed ({})",
            name,
            cell(arm, "requests", 0),
            percent(arm.get("share")),
            string(arm, "policy"),
            cell(arm, "mean_ms", 1),
            cell(arm, "p50_ms", 1),
            cell(arm, "p99_ms", 1),
            cell(arm, "failures", 0),
            percent(arm.get("failure_rate"))
        );
    }
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
