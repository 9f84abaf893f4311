//! Routes from Kubernetes' Gateway API, for `/metrics` and `/routing`.
//!
//! Labels are bounded: what is watched, and fixed words. Which route it is says `/routing`.

use super::explain::string;
use super::json::number;
use crate::discovery::{ConditionView, GatewayView, RouteView, WatchView};
use crate::observe::metrics::{Family, Kind, Measure, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What may become of a route.
const STATES: [&str; 3] = ["accepted", "unresolved", "refused"];

/// What `/metrics` says; nothing where routes are not followed.
pub fn families(view: Option<&GatewayView>) -> Vec<Family> {
    let gauge = |name, help| Family::new(name, Kind::Gauge, Measure::Number, help);
    let counter = |name, help| Family::new(name, Kind::Counter, Measure::Number, help);
    let mut routes = gauge(
        "gateway_routes",
        "Routes of the Gateway API that are this proxy's business, by what became of them: followed, followed with a backend that cannot be found, refused.",
    );
    let mut rules = gauge("gateway_rules", "Rules of the routing table that come from the Gateway API.");
    let mut clusters = gauge("gateway_clusters", "Clusters that were made for routes of the Gateway API.");
    let mut failing = gauge(
        "gateway_failing",
        "1 while routes, Services or ReferenceGrants cannot be watched and what they told last is kept, 0 otherwise.",
    );
    let mut failures = counter("gateway_failures", "Failures to watch routes, Services or ReferenceGrants.");
    let mut writes = counter("gateway_status_writes", "Writes of routes' status, by whether they succeeded.");
    if let Some(view) = view {
        for state in STATES {
            let count = view.routes.iter().filter(|route| route.state == state).count();
            routes.samples.push((vec![("state", state.to_owned())], Value::Count(count as u64)));
        }
        rules.samples.push((Vec::new(), Value::Count(view.rules as u64)));
        clusters.samples.push((Vec::new(), Value::Count(view.clusters as u64)));
        // One for each kind, in however many namespaces.
        let mut kinds: BTreeMap<&str, (bool, u64)> = BTreeMap::new();
        for watch in &view.watches {
            let kind = kinds.entry(watch.resource).or_default();
            (kind.0, kind.1) = (kind.0 || watch.trouble.is_some(), kind.1 + watch.failures);
        }
        for (resource, (fails, count)) in kinds {
            let labels = || vec![("resource", resource.to_owned())];
            failing.samples.push((labels(), Value::Count(u64::from(fails))));
            failures.samples.push((labels(), Value::Count(count)));
        }
        for (result, count) in [("ok", view.writes.0), ("failed", view.writes.1)] {
            writes.samples.push((vec![("result", result.to_owned())], Value::Count(count)));
        }
    }
    vec![routes, rules, clusters, failing, failures, writes]
}

/// What `/routing` says; null where routes are not followed.
pub fn routes(view: Option<&GatewayView>) -> Json {
    let Some(view) = view else { return Json::Null };
    json!({
        "watches": view.watches.iter().map(watch).collect::<Vec<_>>(),
        "routes": view.routes.iter().map(route).collect::<Vec<_>>(),
        "rules": view.rules,
        "clusters": view.clusters,
        "objects_left_out": view.beyond,
        "status_writes": { "ok": view.writes.0, "failed": view.writes.1 },
    })
}

fn watch(watch: &WatchView) -> Json {
    let trouble = watch.trouble.as_ref();
    let state = match (trouble, watch.listed) {
        (Some(_), _) => "failing",
        (None, _) if watch.absent => "absent",
        (None, true) => "working",
        (None, false) => "waiting",
    };
    json!({
        "source": watch.source,
        "state": state,
        "reason": trouble.map(|(fault, text, _)| format!("{}: {text}", fault.code())),
        "failing_for_s": trouble.map(|(_, _, time)| number(Some(time.as_secs_f32()))),
    })
}

fn route(route: &RouteView) -> Json {
    let condition = |c: &ConditionView| json!({ "status": c.holds, "reason": c.reason, "message": c.message });
    let parents = route.parents.iter().map(|(parent, accepted, resolved)| {
        json!({ "parent": parent, "accepted": condition(accepted), "resolved_refs": condition(resolved) })
    });
    json!({
        "kind": route.kind,
        "name": route.name,
        "generation": route.generation,
        "state": route.state,
        "rules": route.rules,
        "generation_in_force": route.kept.map_or_else(|| (route.rules > 0).then_some(route.generation), Some),
        "parents": parents.collect::<Vec<_>>(),
    })
}

/// What `pathloom explain` says of routes that are not followed as they are, and of watches that fail.
pub fn explain(routing: &Json, out: &mut String) {
    let list = |key: &str| routing.pointer(key).and_then(Json::as_array).into_iter().flatten();
    // Writing to a String cannot fail.
    for watch in list("/gateway_api/watches").filter(|w| w.get("reason").is_some_and(|reason| !reason.is_null())) {
        let _ = writeln!(
            out,
            "ROUTES      {} cannot be watched ({}); what they told last is kept",
            string(watch, "source"),
            string(watch, "reason")
        );
    }
    for route in list("/gateway_api/routes") {
        let parents = route.get("parents").and_then(Json::as_array).into_iter().flatten();
        let conditions = parents.flat_map(|parent| [parent.get("accepted"), parent.get("resolved_refs")]).flatten();
        if let Some(wrong) = conditions.into_iter().find(|c| c.get("status").is_some_and(|status| status == false)) {
            let _ = writeln!(
                out,
                "ROUTES      {} {}: {}: {}",
                string(route, "kind"),
                string(route, "name"),
                string(wrong, "reason"),
                string(wrong, "message")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_route_that_is_refused_is_named_with_its_reason() {
        let shown = json!({ "gateway_api": routes(Some(&fixture::gateway())) });
        let mut out = String::new();
        explain(&shown, &mut out);
        assert_eq!(
            out,
            "ROUTES      grpcroutes of all namespaces cannot be watched (denied: not allowed); what they told last is kept\n\
             ROUTES      HTTPRoute shop/checkout: UnsupportedValue: rules[0]: `retry` is not supported\n"
        );
        let one = &shown["gateway_api"]["routes"][1];
        assert_eq!(
            (&one["state"], &one["generation"], &one["generation_in_force"]),
            (&json!("refused"), &json!(3), &json!(2))
        );
        assert_eq!(one["parents"][0]["accepted"]["status"], json!(false));
        assert_eq!(routes(None), Json::Null);
    }

    #[test]
    fn a_kind_that_is_not_installed_and_need_not_be_is_no_failure() {
        let mut view = fixture::gateway();
        view.watches[0].absent = true;
        let states = routes(Some(&view));
        let state = |n: usize| states["watches"][n]["state"].clone();
        assert_eq!((state(0), state(1)), (json!("absent"), json!("failing")));
    }

    #[test]
    fn every_state_has_its_series_and_without_routes_there_are_none() {
        let samples = |view: Option<&GatewayView>| -> usize { families(view).iter().map(|f| f.samples.len()).sum() };
        assert_eq!((samples(None), samples(Some(&fixture::gateway()))), (0, 3 + 1 + 1 + 2 + 2 + 2));
    }
}
