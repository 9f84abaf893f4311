//! What is written into a route's status (`status.parents`, one entry for each controller and parent).
//!
//! A route's status belongs to all controllers that follow it: the entries of others are written back as they were, and the
//! object's version goes along, so that nothing that was written meanwhile is lost (409, and it is looked at again). What
//! stands there already is not written: of several proxies with one configuration the first one writes, and the others see
//! that it is so. A condition keeps the time at which it last changed.

use super::translate::{Condition, Outcome};
use super::types::Meta;
use serde_json::{Value, json};

/// Who says it.
const CONTROLLER: &str = "pathloom.dev/sidecar";

/// What has to be sent so that the status says what became of the route. None where it says so already.
pub fn patch(outcome: &Outcome, meta: &Meta, parents: &[Value], now: &str) -> Option<Value> {
    let ours = |entry: &&Value| entry.get("controllerName").is_some_and(|name| name == CONTROLLER);
    let before: Vec<&Value> = parents.iter().filter(ours).collect();
    let entries: Vec<Value> = outcome
        .parents
        .iter()
        .map(|(parent, accepted, resolved)| {
            let parent = parent.json();
            let before = before.iter().find(|entry| entry.get("parentRef") == Some(&parent));
            let condition = |kind: &str, condition: &Condition| {
                written(kind, condition, outcome.generation, before.and_then(|entry| entry.get("conditions")), now)
            };
            json!({
                "parentRef": parent,
                "controllerName": CONTROLLER,
                "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", resolved)],
            })
        })
        .collect();
    if entries.iter().eq(before) {
        return None;
    }
    let others = parents.iter().filter(|entry| !ours(entry)).cloned();
    let all: Vec<Value> = others.chain(entries).collect();
    Some(json!({ "metadata": { "resourceVersion": meta.resource_version }, "status": { "parents": all } }))
}

fn written(kind: &str, condition: &Condition, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let status = if condition.holds { "True" } else { "False" };
    let before = before
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|entry| entry.get("type").is_some_and(|t| t == kind));
    let since = before.filter(|entry| entry.get("status").is_some_and(|s| s == status));
    let since = since.and_then(|entry| entry.get("lastTransitionTime")).and_then(Value::as_str).unwrap_or(now);
    json!({
        "type": kind,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}
