//! What the model's sidecar says of itself, read from its admin port: `/routing` and `/graph`.
//!
//! The JSON is read leniently: what is missing or null is unknown, and shown as such. A sidecar that answers late or
//! not at all leaves the last view standing.

use super::client::Client;
use serde_json::Value;
use std::time::Duration;

/// How often the sidecar is asked.
pub const EVERY: Duration = Duration::from_millis(250);
/// An answer that takes longer is given up: the next question is better.
const PATIENCE: Duration = Duration::from_secs(2);

/// What it said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The generation's number.
    pub generation: u64,
    /// What made it.
    pub cause: String,
    /// The ladder's step.
    pub rung: String,
    /// Why it is that one.
    pub rung_reason: String,
    /// The model's name.
    pub model: String,
    /// What runs the model.
    pub engine: String,
    /// The mean relative error of predicted against observed latency.
    pub model_error: Option<f64>,
    /// Every candidate of every workload's tables.
    pub candidates: Vec<CandidateView>,
    /// What the graph says of each instance.
    pub nodes: Vec<NodeView>,
}

/// A candidate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CandidateView {
    /// The workload that calls.
    pub workload: String,
    /// The endpoint's address.
    pub address: String,
    /// Its weight's share among those that may get requests.
    pub weight: Option<f64>,
    /// The path's predicted latency when nothing queues, in ms.
    pub predicted_ms: Option<f64>,
    /// The link's latency lately, in ms.
    pub seen_ms: Option<f64>,
    /// Its health.
    pub health: String,
    /// What shaped its weight.
    pub reason: String,
}

/// An instance in the graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    /// Its address, or its workload's name.
    pub key: String,
    /// What it reports of its CPU.
    pub cpu: Option<f64>,
    /// Calls a second, all callers together.
    pub calls_per_second: Option<f64>,
    /// The time it takes to respond, in ms.
    pub response_ms: Option<f64>,
}

impl View {
    /// Reads what `/routing` and `/graph` answered.
    #[must_use]
    pub fn of(routing: &Value, graph: &Value) -> Self {
        let generation = routing.get("generation").unwrap_or(&Value::Null);
        let model = generation.get("model").unwrap_or(&Value::Null);
        let scorer = routing.get("scorer").unwrap_or(&Value::Null);
        let engine = text(model, "engine");
        let candidates = list(routing, "tables").flat_map(|table| {
            let workload = text(table, "workload");
            list(table, "candidates").map(move |c| CandidateView { workload: workload.clone(), ..candidate(c) })
        });
        Self {
            generation: generation.get("id").and_then(Value::as_u64).unwrap_or_default(),
            cause: text(generation, "cause"),
            rung: text(generation, "rung"),
            rung_reason: text(generation, "rung_reason"),
            model: text(model, "name"),
            engine: if engine.is_empty() { text(scorer, "engine") } else { engine },
            model_error: routing.get("model_error").and_then(Value::as_f64),
            candidates: candidates.collect(),
            nodes: list(graph, "nodes").map(node).collect(),
        }
    }

    /// The candidates at an address: one for each workload.
    pub fn at<'a>(&'a self, address: &'a str) -> impl Iterator<Item = &'a CandidateView> {
        self.candidates.iter().filter(move |c| c.address == address)
    }

    /// The instance at an address.
    #[must_use]
    pub fn node(&self, address: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|n| n.key == address)
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

fn candidate(c: &Value) -> CandidateView {
    CandidateView {
        workload: String::new(),
        address: text(c, "address"),
        weight: number(c, "/share"),
        predicted_ms: number(c, "/predicted/intrinsic_ms"),
        seen_ms: number(c, "/observed/latency_ewma_ms"),
        health: text(c, "health"),
        reason: text(c, "reason"),
    }
}

fn node(n: &Value) -> NodeView {
    NodeView {
        key: text(n, "key"),
        cpu: number(n, "/cpu_utilization"),
        calls_per_second: number(n, "/calls_per_second"),
        response_ms: number(n, "/response_mean_ms"),
    }
}

/// Asks the admin port; none when it does not answer as it should.
pub async fn ask(admin: &Client) -> Option<View> {
    let routing = json(admin, "/routing").await?;
    let graph = json(admin, "/graph").await.unwrap_or_default();
    Some(View::of(&routing, &graph))
}

async fn json(admin: &Client, path: &str) -> Option<Value> {
    let answer = tokio::time::timeout(PATIENCE, admin.get("localhost", path)).await.ok()?.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_view_holds_what_the_admin_port_says() {
        let routing = json!({
            "generation": { "id": 7, "cause": "latency", "rung": "model", "rung_reason": "the model's scores",
                            "model": { "name": "edge", "digest": "0", "engine": "embedded 0.27 (cpu)" } },
            "model_error": 0.25,
            "tables": [{ "workload": "frontend", "candidates": [
                { "address": "127.0.0.1:1", "share": 0.5, "health": "healthy", "reason": "score",
                  "predicted": { "intrinsic_ms": 16.0 }, "observed": { "latency_ewma_ms": 17.5 } },
                { "address": "127.0.0.1:2", "share": null, "predicted": null, "observed": null } ] }],
        });
        let graph = json!({ "nodes": [{ "key": "127.0.0.1:1", "cpu_utilization": 0.1, "calls_per_second": 30 }] });
        let view = View::of(&routing, &graph);
        assert_eq!((view.generation, view.rung.as_str(), view.engine.as_str()), (7, "model", "embedded 0.27 (cpu)"));
        assert_eq!(view.model_error, Some(0.25));
        let seen: Vec<_> = view.at("127.0.0.1:1").map(|c| (c.workload.as_str(), c.weight, c.seen_ms)).collect();
        assert_eq!(seen, [("frontend", Some(0.5), Some(17.5))]);
        assert_eq!(view.candidates[1].predicted_ms, None);
        assert_eq!(view.node("127.0.0.1:1").unwrap().calls_per_second, Some(30.0));
        assert_eq!(view.node("127.0.0.1:1").unwrap().response_ms, None);
    }

    #[test]
    fn before_the_first_generation_all_is_unknown() {
        let view = View::of(&json!({ "generation": null, "scorer": { "engine": "embedded" } }), &Value::Null);
        assert_eq!((view.generation, view.engine.as_str(), view.candidates.len()), (0, "embedded", 0));
        assert_eq!(View::of(&Value::Null, &Value::Null), View::default());
    }
}
