//! Parts of `/routing` and `/graph`, for whoever draws them: the whole of a large mesh is megabytes, once a second.

use crate::balance::{Generation, Health};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Leaves the candidates out of `/routing`'s tables, and says how many there are, and how many may get requests.
pub fn brief(routing: &mut Value) {
    for table in routing.get_mut("tables").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(table) = table.as_object_mut() else { continue };
        let candidates = table.remove("candidates");
        let candidates = candidates.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let eligible = candidates.iter().filter(|c| c.get("eligible") == Some(&Value::Bool(true))).count();
        table.insert("candidate_count".to_owned(), candidates.len().into());
        table.insert("eligible_count".to_owned(), eligible.into());
    }
}

/// Keeps of `/graph` what is around a service, or around one node: itself, the links at it, and the nodes at their ends.
pub fn around(graph: &mut Value, name: &str) {
    let Some(graph) = graph.as_object_mut() else { return };
    let is = |node: &Value, key: &str| node.get(key).and_then(Value::as_str) == Some(name);
    let key = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let those = graph.get("nodes").and_then(Value::as_array);
    let mut wanted: HashSet<String> = those
        .into_iter()
        .flatten()
        .filter(|n| is(n, "key") || is(n, "service"))
        .filter_map(|n| key(n, "key"))
        .collect();
    let middle = wanted.clone();
    if let Some(links) = graph.get_mut("links").and_then(Value::as_array_mut) {
        links.retain(|link| {
            let ends = [key(link, "source"), key(link, "destination")];
            let kept = ends.iter().flatten().any(|end| middle.contains(end));
            wanted.extend(ends.into_iter().flatten().filter(|_| kept));
            kept
        });
    }
    if let Some(nodes) = graph.get_mut("nodes").and_then(Value::as_array_mut) {
        nodes.retain(|node| key(node, "key").is_some_and(|key| wanted.contains(&key)));
    }
}

/// Adds to `/graph` what the generation in force makes of it: each link that a request may take gets its shares (of what its
/// source sends to a cluster, so much), each endpoint its health. Null is what the generation does not know.
pub fn with_generation(graph: &mut Value, generation: &Generation) {
    let mut shares: HashMap<(&str, &str), Map<String, Value>> = HashMap::new();
    let mut healths: HashMap<&str, Health> = HashMap::new();
    for cluster in &generation.clusters {
        for table in &cluster.tables {
            let all: f32 = table.eligible().iter().map(|c| c.weight).sum();
            for (i, c) in table.candidates().iter().enumerate() {
                let fair = if i < table.eligible().len() { c.weight / all } else { 0.0 };
                let (source, destination) = (&*c.link.key.source.0, &*c.link.key.destination.0);
                healths.insert(destination, c.health);
                let of = shares.entry((source, destination)).or_default();
                of.insert(cluster.name.to_string(), super::json::share(fair));
            }
        }
    }
    for link in graph.get_mut("links").and_then(Value::as_array_mut).into_iter().flatten() {
        let end = |name: &str| link.get(name).and_then(Value::as_str).unwrap_or_default();
        let of = shares.get(&(end("source"), end("destination"))).cloned();
        if let Some(link) = link.as_object_mut() {
            link.insert("shares".to_owned(), of.map_or(Value::Null, Value::Object));
        }
    }
    for node in graph.get_mut("nodes").and_then(Value::as_array_mut).into_iter().flatten() {
        let health = node.get("key").and_then(Value::as_str).and_then(|key| healths.get(key));
        let health = health.map_or(Value::Null, |health| serde_json::json!(health));
        if let Some(node) = node.as_object_mut() {
            node.insert("health".to_owned(), health);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, graph, routing};
    use super::*;
    use serde_json::json;

    #[test]
    fn brief_tables_have_counts_in_place_of_candidates() {
        let state = fixture::published();
        let mut value = routing::routing(&state, routing::Filter::default()).unwrap();
        brief(&mut value);
        let tables = value["tables"].as_array().unwrap();
        let catalog = tables.iter().find(|t| t["cluster"] == "catalog").unwrap();
        assert_eq!((&catalog["candidate_count"], &catalog["eligible_count"]), (&json!(3), &json!(2)));
        assert!(tables.iter().all(|t| t.get("candidates").is_none()));
    }

    #[test]
    fn around_a_service_are_its_links_and_their_ends() {
        let state = fixture::published();
        let view = fixture::view(&state);
        let all = graph::graph(Some(&view), None, None);
        let mut one = all.clone();
        around(&mut one, "10.0.0.1:80");
        let links = one["links"].as_array().unwrap();
        assert!(!links.is_empty() && links.len() < all["links"].as_array().unwrap().len());
        assert!(links.iter().all(|l| l["destination"] == "10.0.0.1:80" || l["source"] == "10.0.0.1:80"));
        let mut service = all.clone();
        around(&mut service, "frontend");
        assert!(service["nodes"].as_array().unwrap().iter().any(|n| n["key"] == "10.0.0.2:80"), "{service}");
        let mut nobody = all.clone();
        around(&mut nobody, "no such service");
        assert_eq!((&nobody["nodes"], &nobody["links"]), (&json!([]), &json!([])));
        assert_eq!(nobody["total"], all["total"]);
    }

    #[test]
    fn links_that_a_request_may_take_have_their_shares_by_cluster_and_endpoints_their_health() {
        let state = fixture::published();
        let mut value = graph::graph(Some(&fixture::view(&state)), None, None);
        with_generation(&mut value, &state.published.load());
        let links = value["links"].as_array().unwrap();
        let used = links.iter().find(|l| l["source"] == "frontend" && l["destination"] == "10.0.0.1:80").unwrap();
        assert_eq!(used["shares"], json!({ "catalog": 0.75 }));
        let health = |key: &str| {
            let node = value["nodes"].as_array().unwrap().iter().find(|n| n["key"] == key).unwrap();
            node["health"].clone()
        };
        assert_eq!((health("10.0.0.3:80"), health("frontend")), (json!("ejected"), Value::Null));
        with_generation(&mut value, &Generation::empty());
        assert_eq!(value["links"][0]["shares"], Value::Null);
    }
}
