//! Topologies as JSON files.
//!
//! ```json
//! {
//!   "app": "shop",
//!   "nodes": [ { "name": "web", "kind": "frontend", "work_ms": 0.9, "sigma": 0.4 }, { "name": "stock", "kind": "service" } ],
//!   "endpoints": [ { "name": "browse", "mix": 1.0 } ],
//!   "edges": [ { "caller": "web", "callee": "stock", "stage": 1, "calls_per_request": { "browse": 1 } } ]
//! }
//! ```
//! `kind` is `frontend`, `service`, `cache` or `database`; `observability` and `discovery` stand aside. `work_ms` and
//! `sigma` (the deviation of the work's logarithm) may be left out, and so may an edge's `parallel_group`. Other keys are
//! somebody else's and are passed over; what is missing or wrong is an error that names the element and what to do, and all
//! of a file's errors come together.

use super::{Edge, Endpoint, Kind, Node, Topology};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Reads a topology; `file` is its name in errors.
///
/// # Errors
/// When the text is no JSON or no topology.
pub fn parse(file: &str, text: &str) -> Result<Topology> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::Format(format!("{file}: not JSON: {e}")))?;
    let mut reader = Reader::default();
    let found = reader.topology(file, &value);
    let problems = match found {
        Some(parts) if reader.problems.is_empty() => match Topology::new(&parts.0, parts.1, parts.2, parts.3) {
            Ok(topology) => return Ok(topology),
            Err(problems) => problems,
        },
        _ => reader.problems,
    };
    let lines: Vec<String> = problems.iter().map(|problem| format!("{file}: {problem}")).collect();
    Err(Error::Format(lines.join("\n")))
}

/// A file's name for itself, nodes, endpoints and edges.
type Parts = (String, Vec<Node>, Vec<Endpoint>, Vec<Edge>);

/// Collects what is wrong.
#[derive(Debug, Default)]
struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn wrong(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn topology(&mut self, file: &str, value: &Value) -> Option<Parts> {
        let Some(all) = value.as_object() else {
            self.wrong("must be an object with `nodes`, `endpoints` and `edges`".into());
            return None;
        };
        let stem = std::path::Path::new(file).file_stem().and_then(|s| s.to_str()).unwrap_or(file);
        let name = all.get("app").and_then(Value::as_str).unwrap_or(stem).to_string();
        let nodes = self.list(all, "nodes").into_iter().filter_map(|(i, v)| self.node(i, v)).collect::<Vec<_>>();
        let endpoints =
            self.list(all, "endpoints").into_iter().filter_map(|(i, v)| self.endpoint(i, v)).collect::<Vec<_>>();
        self.unique("nodes", nodes.iter().map(|n| &n.name));
        self.unique("endpoints", endpoints.iter().map(|e| &e.name));
        let index = |names: Vec<Arc<str>>| -> BTreeMap<Arc<str>, usize> {
            names.into_iter().enumerate().map(|(i, n)| (n, i)).collect()
        };
        let node_index = index(nodes.iter().map(|n| n.name.clone()).collect());
        let endpoint_index = index(endpoints.iter().map(|e| e.name.clone()).collect());
        let edges = self
            .list(all, "edges")
            .into_iter()
            .filter_map(|(i, v)| self.edge(i, v, &node_index, &endpoint_index))
            .collect();
        Some((name, nodes, endpoints, edges))
    }

    fn list<'v>(&mut self, of: &'v Map<String, Value>, key: &str) -> Vec<(usize, &'v Value)> {
        match of.get(key).and_then(Value::as_array) {
            Some(list) if !list.is_empty() => list.iter().enumerate().collect(),
            Some(_) => {
                self.wrong(format!("`{key}` is empty; list at least one"));
                Vec::new()
            }
            None => {
                self.wrong(format!("`{key}` is missing or no list; add `\"{key}\": [ ... ]`"));
                Vec::new()
            }
        }
    }

    fn unique<'n>(&mut self, list: &str, names: impl Iterator<Item = &'n Arc<str>>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                self.wrong(format!("{list}: `{name}` is there twice; names must differ"));
            }
        }
    }

    fn text(&mut self, at: &str, of: &Value, key: &str) -> Option<Arc<str>> {
        let found = of.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        if found.is_none() {
            self.wrong(format!("{at}: `{key}` is missing or no text; add `\"{key}\": \"...\"`"));
        }
        found.map(Into::into)
    }

    /// A number that may be left out, of which `fits` must hold.
    fn number(&mut self, at: &str, of: &Value, key: &str, must: &str, fits: fn(f64) -> bool) -> Option<f64> {
        let value = of.get(key).filter(|v| !v.is_null())?;
        let found = value.as_f64().filter(|v| v.is_finite() && fits(*v));
        if found.is_none() {
            self.wrong(format!("{at}: `{key}` is {value}; it must be {must}"));
        }
        found
    }

    fn node(&mut self, i: usize, value: &Value) -> Option<Node> {
        let name = self.text(&format!("nodes[{i}]"), value, "name")?;
        let at = format!("nodes[{i}] `{name}`");
        let kind = self.text(&at, value, "kind")?;
        let kind = match &*kind {
            "frontend" => Kind::Frontend,
            "service" => Kind::Service,
            "cache" => Kind::Cache,
            "database" => Kind::Database,
            "observability" | "discovery" => Kind::Aside,
            _ => {
                self.wrong(format!(
                    "{at}: kind `{kind}` is unknown; use frontend, service, cache, database, observability or discovery"
                ));
                return None;
            }
        };
        let work_ms =
            self.number(&at, value, "work_ms", "milliseconds above 0, at most 60000", |v| v > 0.0 && v <= 60_000.0);
        let sigma = self.number(&at, value, "sigma", "from 0 to 3", |v| (0.0..=3.0).contains(&v));
        Some(Node { name, kind, work_ms, sigma })
    }

    fn endpoint(&mut self, i: usize, value: &Value) -> Option<Endpoint> {
        let name = self.text(&format!("endpoints[{i}]"), value, "name")?;
        let at = format!("endpoints[{i}] `{name}`");
        if value.get("mix").is_none_or(Value::is_null) {
            self.wrong(format!("{at}: `mix` is missing; give its share of the load, such as 0.3, or 0 for none"));
            return None;
        }
        let mix = self.number(&at, value, "mix", "a share of the load, 0 or above", |v| v >= 0.0)?;
        Some(Endpoint { name, mix })
    }

    fn edge(
        &mut self,
        i: usize,
        value: &Value,
        nodes: &BTreeMap<Arc<str>, usize>,
        endpoints: &BTreeMap<Arc<str>, usize>,
    ) -> Option<Edge> {
        let names = [("caller", "calls"), ("callee", "is called")]
            .map(|(key, _)| self.text(&format!("edges[{i}]"), value, key));
        let [Some(caller), Some(callee)] = names else { return None };
        let at = format!("edges[{i}] {caller} -> {callee}");
        let found = [&caller, &callee].map(|name| {
            let found = nodes.get(name).copied();
            if found.is_none() {
                self.wrong(format!("{at}: there is no node `{name}`; add it to `nodes` or correct the name"));
            }
            found
        });
        let stage = value.get("stage").and_then(Value::as_u64);
        if stage.is_none() {
            self.wrong(format!(
                "{at}: `stage` is missing or no whole number; calls are made in rising order of it, from 1"
            ));
        }
        let group = value.get("parallel_group").and_then(Value::as_str).map(Into::into);
        let Some(calls) = value.get("calls_per_request").and_then(Value::as_object) else {
            self.wrong(format!(
                "{at}: `calls_per_request` is missing or no object; give for each endpoint how often a request makes the call"
            ));
            return None;
        };
        let mut known = BTreeMap::new();
        for (name, times) in calls {
            let Some(endpoint) = endpoints.get(name.as_str()) else {
                self.wrong(format!("{at}: there is no endpoint `{name}`; add it to `endpoints` or correct the name"));
                continue;
            };
            match times.as_f64() {
                Some(times) if (0.0..=10_000.0).contains(&times) => {
                    if times > 0.0 {
                        known.insert(*endpoint, times);
                    }
                }
                _ => self
                    .wrong(format!("{at}: {times} calls per request of `{name}`; it must be a number from 0 to 10000")),
            }
        }
        let [Some(caller), Some(callee)] = found else { return None };
        Some(Edge { caller, callee, stage: stage?, group, calls: known })
    }
}
