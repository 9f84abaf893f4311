//! `/graph`: the mesh as the last tick saw it, with the model's word on it. Milliseconds, rates a second; null is unknown.

use super::json::{ms, number, share};
use super::routing::link_stats;
use crate::control::GraphView;
use crate::graph::Node;
use serde_json::{Value, json};

/// The whole answer. Links name their nodes by key, so that nobody needs to count.
pub fn graph(view: Option<&GraphView>) -> Value {
    let Some(view) = view else {
        return json!({ "generation": null, "nodes": [], "links": [] });
    };
    let load = |i: usize| view.node_load.get(i).copied();
    let nodes: Vec<Value> = view.graph.nodes.iter().enumerate().map(|(i, n)| node(n, load(i))).collect();
    let links: Vec<Value> = view
        .graph
        .links
        .iter()
        .enumerate()
        .map(|(i, link)| {
            let key = view.graph.link_key(link);
            json!({
                "source": key.as_ref().map(|k| &*k.source.0),
                "destination": key.as_ref().map(|k| &*k.destination.0),
                "attention": share(view.attention.get(i).copied()),
                "statistics": link_stats(&link.stats),
            })
        })
        .collect();
    json!({ "generation": view.generation, "nodes": nodes, "links": links })
}

fn node(n: &Node, load: Option<f32>) -> Value {
    let known = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    let s = &n.stats;
    json!({
        "key": &*n.key.0,
        "service": known(&n.service),
        "zone": known(&n.zone),
        "replicas": n.replicas,
        "node_load": number(load),
        "cpu_utilization": share(s.cpu_utilization),
        "memory_utilization": share(s.memory_utilization),
        "application_utilization": share(s.application_utilization),
        "reported_requests_per_second": number(s.reported_requests_per_second),
        "reported_errors_per_second": number(s.reported_errors_per_second),
        "report_age_s": number(s.report_age_s),
        "in_flight": number(s.in_flight),
        "calls_per_second": number(s.calls_per_second),
        "response_mean_ms": ms(s.response_mean_s),
        "response_p99_ms": ms(s.response_p99_s),
        "error_rate": share(s.error_rate),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn links_name_their_nodes_and_carry_the_models_word() {
        let state = fixture::published();
        let value = graph(Some(&fixture::view(&state)));
        let links = value["links"].as_array().unwrap();
        let used = links.iter().find(|l| l["source"] == "frontend" && l["destination"] == "10.0.0.1:80").unwrap();
        assert_eq!((&used["attention"], &used["statistics"]["latency_mean_ms"]), (&json!(0.5), &json!(12.0)));
        let nodes = value["nodes"].as_array().unwrap();
        let frontend = nodes.iter().find(|n| n["key"] == "frontend").unwrap();
        assert_eq!(
            (&frontend["service"], &frontend["node_load"], &frontend["cpu_utilization"]),
            (&json!("frontend"), &json!(12.0), &Value::Null)
        );
    }

    #[test]
    fn before_the_first_tick_it_is_empty() {
        assert_eq!(graph(None), json!({ "generation": null, "nodes": [], "links": [] }));
    }
}
