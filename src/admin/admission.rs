//! Limits, thresholds and refusals, for `/metrics` and `/routing`.
//!
//! Labels are bounded by the configuration: clusters with a limit, routes and workloads with a rate, classes.

use super::json::{ms, share};
use super::metrics::{counter, gauge};
use crate::admission::{GateView, Refusal, Table};
use crate::balance::Generation;
use crate::observe::Reason;
use crate::observe::metrics::{Family, Labels, Measure, Value};
use serde_json::{Map, Value as Json, json};

/// The reason's code of a refusal, as requests' failures have it.
fn code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Shed => Reason::Shed.code(),
        Refusal::Full => Reason::Overloaded.code(),
        Refusal::Waited => Reason::QueueTimeout.code(),
    }
}

/// What `/metrics` says.
pub fn families(generation: &Generation) -> Vec<Family> {
    let mut limit =
        gauge("admission_limit", Measure::Number, "How many requests a cluster takes at once, where it is limited.");
    let mut in_flight =
        gauge("admission_in_flight", Measure::Number, "Requests under way in a cluster that is limited.");
    let mut pending = gauge("admission_pending", Measure::Number, "Requests that wait for a place in their cluster.");
    let mut threshold = gauge(
        "admission_threshold",
        Measure::Ratio,
        "The priority below which a cluster's requests are refused; 0 refuses none.",
    );
    let mut minimum = gauge(
        "admission_minimum_latency",
        Measure::Seconds,
        "The latency without a queue that a limit is learnt from.",
    );
    let mut recent =
        gauge("admission_recent_latency", Measure::Seconds, "The latency of late that it is compared with.");
    let mut admitted = counter("admission_admitted", "Requests that a cluster's limit let in, by class.");
    let mut refused =
        counter("admission_refused", "Requests that a cluster's limit kept out, by class and by the reason's code.");
    for gate in generation.admission.gates() {
        let view = gate.view();
        let labels = || -> Labels { vec![("cluster", gate.cluster.to_string())] };
        limit.samples.push((labels(), Value::Count(view.limit.into())));
        in_flight.samples.push((labels(), Value::Count(view.in_flight.into())));
        pending.samples.push((labels(), Value::Count(view.pending.into())));
        threshold.samples.push((labels(), Value::Number(view.threshold)));
        minimum.samples.extend(view.minimum_s.map(|s| (labels(), Value::Number(s))));
        recent.samples.extend(view.recent_s.map(|s| (labels(), Value::Number(s))));
        for (class, (let_in, kept_out)) in &view.classes {
            let of_class = || [labels(), vec![("class", class.to_string())]].concat();
            admitted.samples.push((of_class(), Value::Count(*let_in)));
            for (refusal, count) in Refusal::ALL.into_iter().zip(kept_out) {
                let labels = [of_class(), vec![("reason", code(refusal).to_owned())]].concat();
                refused.samples.push((labels, Value::Count(*count)));
            }
        }
    }
    let mut limited = counter("rate_limited", "Requests beyond the rate of their route or workload, by class.");
    for (scope, name, class, count) in rates(&generation.admission) {
        let labels = vec![("scope", scope.to_owned()), ("name", name), ("class", class)];
        limited.samples.push((labels, Value::Count(count)));
    }
    vec![limit, in_flight, pending, threshold, minimum, recent, admitted, refused, limited]
}

/// Refusals by rate limits: the scope, whose, the class, how many.
fn rates(table: &Table) -> impl Iterator<Item = (&'static str, String, String, u64)> + '_ {
    let routes = table.route_limits().map(|l| ("route", l));
    let workloads = table.workload_limits().map(|l| ("workload", l));
    routes.chain(workloads).flat_map(move |(scope, limited)| {
        let classes = table.classes.names().zip(limited.bucket.refused());
        classes
            .map(move |(class, count)| (scope, limited.name.to_string(), class.to_string(), count))
            .collect::<Vec<_>>()
    })
}

/// What `/routing` says of the clusters that are limited: those asked for, or all.
pub fn clusters(generation: &Generation, cluster: Option<&str>) -> Vec<Json> {
    let gates = generation.admission.gates().filter(|g| cluster.is_none_or(|name| *g.cluster == *name));
    gates.map(|gate| one(&gate.cluster, &gate.view())).collect()
}

fn one(cluster: &str, view: &GateView) -> Json {
    let classes = view.classes.iter().map(|(class, (admitted, kept_out))| {
        let mut said = Map::new();
        said.insert("admitted".to_owned(), json!(admitted));
        for (refusal, count) in Refusal::ALL.into_iter().zip(kept_out) {
            said.insert(code(refusal).to_owned(), json!(count));
        }
        (class.to_string(), Json::Object(said))
    });
    json!({
        "cluster": cluster,
        "concurrency": if view.auto { "auto" } else { "fixed" },
        "limit": view.limit,
        "in_flight": view.in_flight,
        "pending": view.pending,
        "threshold": share(view.threshold as f32),
        "minimum_ms": view.minimum_s.map(|s| ms(s as f32)),
        "recent_ms": view.recent_s.map(|s| ms(s as f32)),
        "classes": classes.collect::<Map<String, Json>>(),
    })
}

/// What `/routing` says of rate limits: how many requests each refused.
pub fn rate_limits(generation: &Generation) -> Vec<Json> {
    rates(&generation.admission)
        .map(|(scope, name, class, count)| json!({ "scope": scope, "name": name, "class": class, "refused": count }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn limits_show_what_they_are_and_whom_they_refused() {
        let generation = fixture::published().published.load();
        let shown = clusters(&generation, Some("catalog"));
        assert_eq!(shown.len(), 1);
        let one = &shown[0];
        assert_eq!((&one["concurrency"], &one["limit"], &one["in_flight"]), (&json!("fixed"), &json!(2), &json!(2)));
        assert_eq!((&one["pending"], &one["threshold"], &one["minimum_ms"]), (&json!(1), &json!(0.0), &Json::Null));
        let normal = json!({ "admitted": 2, "shed": 0, "overloaded": 0, "queue_timeout": 0 });
        assert_eq!(one["classes"]["normal"], normal);
        assert_eq!(clusters(&generation, Some("empty")).len(), 0, "it has no limit");
        assert_eq!(clusters(&generation, None).len(), 1);
        let refused =
            |class: &str, count: u64| json!({ "scope": "workload", "name": "batch", "class": class, "refused": count });
        let all = [refused("background", 0), refused("critical", 0), refused("normal", 1)];
        assert_eq!(rate_limits(&generation), all);
    }

    #[test]
    fn every_class_and_reason_has_its_series() {
        let generation = fixture::published().published.load();
        let all = families(&generation);
        let samples = |name: &str| all.iter().find(|f| f.name == name).map(|f| f.samples.len());
        assert_eq!((samples("admission_refused"), samples("admission_admitted")), (Some(9), Some(3)));
        assert_eq!((samples("rate_limited"), samples("admission_minimum_latency")), (Some(3), Some(0)));
    }
}
