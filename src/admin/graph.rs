//! `/graph`: the mesh as the last tick saw it, with the model's word on it, and of links that other nodes told of who told
//! it, and how long ago. Milliseconds, rates a second; null is unknown.

use super::json::{ms, number, share};
use super::routing::link_stats;
use crate::control::GraphView;
use crate::graph::{Graph, Link, Node};
use crate::links::{Time, Told};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The whole answer. Links name their nodes by key, so that nobody needs to count. With `busiest` it holds only so many
/// links, those with the most calls, and the nodes at their ends: a picture of a large mesh needs no more.
pub fn graph(view: Option<&GraphView>, told: Option<(&Told, Time)>, busiest: Option<usize>) -> Value {
    let Some(view) = view else {
        return json!({ "generation": null, "total": { "nodes": 0, "links": 0, "implausible": 0 }, "nodes": [], "links": [] });
    };
    let graph = &view.graph;
    let mut shown: Vec<(usize, &Link)> = graph.links.iter().enumerate().collect();
    let mut wanted: Option<HashSet<u32>> = None;
    if let Some(busiest) = busiest.filter(|n| *n < shown.len()) {
        let calls = |(_, link): &(usize, &Link)| link.stats.calls_per_second.unwrap_or(-1.0);
        shown.sort_by(|a, b| calls(b).total_cmp(&calls(a)));
        shown.truncate(busiest);
        shown.sort_by_key(|(i, _)| *i);
        wanted = Some(shown.iter().flat_map(|(_, link)| [link.source, link.destination]).collect());
    }
    let wanted = |i: usize| wanted.as_ref().is_none_or(|w| u32::try_from(i).is_ok_and(|i| w.contains(&i)));
    let load = |i: usize| view.node_load.get(i).copied();
    let nodes = graph.nodes.iter().enumerate().filter(|(i, _)| wanted(*i));
    let nodes: Vec<Value> = nodes.map(|(i, n)| node(n, load(i))).collect();
    let links: Vec<Value> = shown.iter().map(|(i, l)| link(graph, l, view.attention.get(*i).copied(), told)).collect();
    json!({
        "generation": view.generation,
        "total": { "nodes": graph.nodes.len(), "links": graph.links.len(), "implausible": graph.implausible },
        "nodes": nodes,
        "links": links,
    })
}

fn link(graph: &Graph, link: &Link, attention: Option<f32>, told: Option<(&Told, Time)>) -> Value {
    let key = graph.link_key(link);
    let told = told.zip(key.as_ref()).and_then(|((told, now), key)| Some((told.link(key)?, now)));
    let told = told.map(|(link, now)| json!({ "by": &*link.by, "age_s": number(Some(now.seconds_since(link.at))) }));
    json!({
        "source": key.as_ref().map(|k| &*k.source.0),
        "destination": key.as_ref().map(|k| &*k.destination.0),
        "attention": share(attention),
        "told": told,
        "statistics": link_stats(&link.stats),
    })
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
        let value = graph(Some(&fixture::view(&state)), None, None);
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
    fn a_link_that_others_told_of_says_who_and_how_long_ago() {
        let view = fixture::view(&fixture::published());
        let key = view.graph.link_key(&view.graph.links[0]).unwrap();
        let link = crate::links::ToldLink::new(key, "node-b".into(), Time(7_500_000_000), Default::default());
        let told = Told { shape: 1, links: vec![std::sync::Arc::new(link)], nodes: Vec::new() };
        let value = graph(Some(&view), Some((&told, Time(9_000_000_000))), None);
        assert_eq!(value["links"][0]["told"], json!({ "by": "node-b", "age_s": 1.5 }));
        assert_eq!(value["links"][1]["told"], Value::Null);
    }

    #[test]
    fn before_the_first_tick_it_is_empty() {
        let empty = graph(None, None, Some(3));
        assert_eq!((&empty["generation"], &empty["nodes"], &empty["links"]), (&Value::Null, &json!([]), &json!([])));
    }

    #[test]
    fn the_busiest_links_stand_for_a_large_mesh() {
        let state = fixture::published();
        let view = fixture::view(&state);
        let value = graph(Some(&view), None, Some(1));
        assert_eq!((value["links"].as_array().unwrap().len(), &value["links"][0]["source"]), (1, &json!("frontend")));
        assert_eq!(
            (value["nodes"].as_array().unwrap().len(), &value["total"]["links"]),
            (2, &json!(view.graph.links.len()))
        );
        assert_eq!(graph(Some(&view), None, Some(1_000))["links"], graph(Some(&view), None, None)["links"]);
    }
}
