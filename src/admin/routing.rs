//! `/routing`: why requests go where they go.
//!
//! For each cluster and workload the candidates of the generation in force, each with what the model said of it, what
//! was seen of it (as the last tick saw it: reading the store here would drain it under the tick), and what this
//! proxy's own estimate is at this moment. Where requests stay with endpoints, `affinity` says by what, and each
//! candidate's `affinity_share` how many of them are its own. `hedging` says when a second endpoint is asked, and what became
//! of that so far, where it is on. `own_zone` says what stays in the node's zone, where that comes first, and `canary` how the
//! arms of the model's trial compare (`canary`). `discovery` says where endpoints come from, and what is kept because it
//! cannot be asked; `gateway_api` which routes of Kubernetes are followed, and which are not and why. Latencies are in milliseconds, ages in seconds; null is unknown.

use super::admission;
use super::canary;
use super::config;
use super::discovery;
use super::gateway;
use super::json::{ms, number, share};
use super::state::AdminState;
use crate::balance::{Candidate, Cluster, Generation, Health, Table, Why};
use crate::config::without_secret_facts;
use crate::control::{CanaryView, GraphView};
use crate::links::{LinkStats, NodeKey, Time};
use crate::observe::{Hedged, rfc3339};
use crate::route::{Affinity, ClusterId};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Which tables are asked for; `None` is all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// The cluster's name.
    pub cluster: Option<&'a str>,
    /// The workload's name.
    pub workload: Option<&'a str>,
}

/// A filter that names what does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} `{name}`; there are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
pub struct Unknown {
    /// `cluster` or `workload`.
    pub what: &'static str,
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<String>,
}

/// Statistics by caller and called.
type Seen<'a> = HashMap<(&'a NodeKey, &'a NodeKey), &'a LinkStats>;

/// The whole answer.
///
/// # Errors
/// When the filter names a cluster or a workload that the generation does not have.
pub fn routing(state: &AdminState, filter: Filter<'_>) -> Result<Value, Unknown> {
    answer(state, state.control.view().as_deref(), filter)
}

/// The answer to this view of the graph.
pub fn answer(state: &AdminState, view: Option<&GraphView>, filter: Filter<'_>) -> Result<Value, Unknown> {
    let generation = state.published.load();
    check("cluster", filter.cluster, generation.clusters.iter().map(|c| &*c.name))?;
    check("workload", filter.workload, generation.routes.workloads().iter().map(|w| &*w.name))?;
    let now = (state.clock)();
    let trial = state.control.canary();
    Ok(json!({
        "node": state.node,
        "version": state.version,
        "mode": state.config.load().mode,
        "generation": head(&generation, now),
        "identity": (state.identity)(),
        "scorer": (state.scorer)().json,
        "model_error": state.control.model_error(),
        "reload_refused": config::refused(&state.config.load()),
        "canary": canary::trial(trial.as_deref(), now),
        "discovery": discovery::sources(&(state.discovery)(), filter.cluster),
        "gateway_api": gateway::routes((state.gateway)().as_ref()),
        "admission": admission::clusters(&generation, filter.cluster),
        "rate_limits": admission::rate_limits(&generation),
        "tables": tables(&generation, (view, trial.as_deref()), now, filter),
    }))
}

fn check<'a>(what: &'static str, wanted: Option<&str>, known: impl Iterator<Item = &'a str>) -> Result<(), Unknown> {
    let known: Vec<String> = known.map(str::to_owned).collect();
    match wanted {
        Some(name) if !known.iter().any(|k| k == name) => Err(Unknown { what, name: name.to_owned(), known }),
        _ => Ok(()),
    }
}

/// The generation without its tables; null before the first.
fn head(generation: &Generation, now: Time) -> Value {
    if generation.id == 0 {
        return Value::Null;
    }
    json!({
        "id": generation.id,
        "made_at": rfc3339(generation.made_at_wall),
        "age_s": number(now.seconds_since(generation.made_at)),
        "expires_in_s": number(generation.expires_at.seconds_since(now)),
        "expired": generation.expired(now),
        "cause": generation.cause,
        "rung": generation.rung,
        "rung_reason": generation.rung_reason,
        "model": generation.model.as_deref(),
    })
}

/// The tables: those with most calls first, the others by cluster and workload in the configuration's order.
fn tables(
    generation: &Generation,
    (view, trial): (Option<&GraphView>, Option<&CanaryView>),
    now: Time,
    filter: Filter<'_>,
) -> Vec<Value> {
    let seen = seen(view);
    let mut out = Vec::new();
    let named = |c: &Cluster| filter.cluster.is_none_or(|name| *c.name == *name);
    for (cluster, id) in generation.clusters.iter().zip((0..).map(ClusterId)).filter(|(c, _)| named(c)) {
        for (workload, table) in generation.routes.workloads().iter().zip(&cluster.tables) {
            if filter.workload.is_none_or(|name| *workload.name == *name) {
                let affinity = generation.routes.affinity(id);
                let mut value = table_of(cluster, &workload.name, table, affinity, &seen, now);
                if let Value::Object(map) = &mut value {
                    let pair = (workload.name.clone(), cluster.name.clone());
                    map.insert("own_zone".to_owned(), canary::own_zone(table.own_zone()));
                    map.insert("canary".to_owned(), canary::arms(trial, &pair, table));
                }
                out.push(value);
            }
        }
    }
    let calls = |table: &Value| table.get("calls_per_second").and_then(Value::as_f64).unwrap_or(0.0);
    out.sort_by(|a, b| calls(b).total_cmp(&calls(a)));
    out
}

fn seen(view: Option<&GraphView>) -> Seen<'_> {
    let graph = view.map(|v| &v.graph);
    let key = |node: u32| graph.and_then(|g| g.nodes.get(node as usize)).map(|n| &n.key);
    let links = graph.map(|g| g.links.as_slice()).unwrap_or_default();
    links.iter().filter_map(|l| Some(((key(l.source)?, key(l.destination)?), &l.stats))).collect()
}

fn table_of(
    cluster: &Cluster,
    workload: &str,
    table: &Table,
    affinity: Option<&Affinity>,
    seen: &Seen<'_>,
    now: Time,
) -> Value {
    let eligible = table.eligible().len();
    let weights: f32 = table.eligible().iter().map(|c| c.weight).sum();
    let stats = |c: &Candidate| seen.get(&(&c.link.key.source, &c.link.key.destination)).copied();
    // Of no calls at all nobody has a share.
    let calls: f32 = table.candidates().iter().filter_map(|c| stats(c)?.calls_per_second).sum();
    let candidates: Vec<Value> = table
        .candidates()
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let eligible = i < eligible;
            let fair = if eligible { c.weight / weights } else { 0.0 };
            let mut value = candidate(c, table, stats(c), (eligible, fair, calls), now);
            if let Value::Object(map) = &mut value {
                map.insert("affinity_share".to_owned(), share(table.affine_share(i)));
            }
            value
        })
        .collect();
    json!({
        "cluster": &*cluster.name,
        "service": &*cluster.service,
        "source": table.candidates().first().map(|c| &*c.link.key.source.0),
        "protocol": cluster.protocol,
        "workload": workload,
        "policy": table.options.policy,
        "compare": table.options.compare,
        "affinity": affinity.map(by),
        "hedging": cluster.hedging.as_ref().map(|hedging| {
            let counts = Hedged::ALL.iter().zip(table.traffic.hedges()).map(|(what, n)| (what.as_str().to_owned(), n.into()));
            json!({
                "after_ms": ms(hedging.after.map(|after| after.as_secs_f32())),
                "share": share(hedging.share.0 as f32),
                "outcomes": serde_json::Map::from_iter(counts),
            })
        }),
        "panic": table.panic,
        "calls_per_second": number(Some(calls).filter(|_| table.candidates().iter().any(|c| stats(c).is_some()))),
        "candidates": candidates,
    })
}

/// By what requests stay with an endpoint, as the configuration says it.
fn by(affinity: &Affinity) -> Value {
    match affinity {
        Affinity::Header(name) => json!({ "header": name.as_str() }),
        Affinity::Cookie(name) => json!({ "cookie": name }),
        Affinity::Source => json!({ "source": true }),
    }
}

fn candidate(
    c: &Candidate,
    table: &Table,
    stats: Option<&LinkStats>,
    (eligible, fair, calls): (bool, f32, f32),
    now: Time,
) -> Value {
    let (prior_s, tau_s) = table.decay_of(c);
    let last = c.link.estimate.last(now);
    // Before any sample the estimate is the prior alone, which is a guess and not an estimate of anything seen.
    let estimate = last.map(|e| {
        json!({
            "now_ms": ms(c.link.estimate.at(now, prior_s, tau_s)),
            "last_ms": ms(e.latency_s),
            "age_s": number(e.age_s),
        })
    });
    let predicted = c.predicted.map(|p| {
        json!({
            "intrinsic_ms": ms(p.intrinsic_s),
            "mean_ms": ms(p.mean_s),
            "p99_ms": ms(p.p99_s),
            "jitter_ms": ms(p.jitter_s),
        })
    });
    let age_s = last.map(|e| e.age_s).or_else(|| stats.and_then(|s| s.age_s));
    json!({
        "endpoint": c.endpoint.key.0.as_ref(),
        "address": c.endpoint.address,
        "zone": Some(&*c.endpoint.zone).filter(|z| !z.is_empty()),
        "metadata": without_secret_facts(&c.endpoint.metadata),
        "configured_weight": c.endpoint.weight,
        "eligible": eligible,
        "weight": share(c.weight),
        "share": share(fair),
        "score": number(c.score),
        "predicted": predicted,
        "observed": stats.map(|s| observed(s, calls)),
        "estimate": estimate,
        "prior_ms": ms(c.prior_s),
        "in_flight": c.link.in_flight(),
        "endpoint_in_flight": c.node.in_flight(),
        "failures_in_a_row": c.node.failures_in_a_row(),
        "health": c.health,
        "expected_success": share(c.success),
        "last_sample_age_s": number(age_s),
        "guard": match c.reason {
            Why::Predicted { guard, .. } => guard,
            _ => None,
        },
        "reason": reason(c),
    })
}

/// Why a candidate has the weight that it has; what goes wrong with it by now and has no consequence yet is said, too.
fn reason(c: &Candidate) -> String {
    match c.node.failures_in_a_row() {
        1 if c.health == Health::Healthy => format!("{}; its last request failed", c.reason),
        row @ 2.. if c.health == Health::Healthy => format!("{}; its last {row} requests failed", c.reason),
        _ => c.reason.to_string(),
    }
}

fn observed(s: &LinkStats, calls: f32) -> Value {
    let mut value = link_stats(s);
    if let Value::Object(map) = &mut value {
        let part = s.calls_per_second.filter(|_| calls > 0.0).map(|c| c / calls);
        map.insert("share".to_owned(), share(part));
    }
    value
}

/// A link's statistics, as `/routing` and `/graph` show them.
pub fn link_stats(s: &LinkStats) -> Value {
    json!({
        "latency_ewma_ms": ms(s.latency_ewma_s),
        "latency_mean_ms": ms(s.latency_mean_s),
        "latency_p50_ms": ms(s.latency_p50_s),
        "latency_p90_ms": ms(s.latency_p90_s),
        "latency_p99_ms": ms(s.latency_p99_s),
        "jitter_ms": ms(s.jitter_s),
        "calls_per_second": number(s.calls_per_second),
        "error_rate": share(s.error_rate),
        "in_flight": number(s.in_flight),
        "samples": number(s.samples),
        "age_s": number(s.age_s),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_candidate_shows_what_is_known_and_null_for_the_rest() {
        let state = fixture::published();
        let view = fixture::view(&state);
        let filter = Filter { cluster: Some("catalog"), workload: Some("frontend") };
        let tables = tables(&state.published.load(), (Some(&view), None), fixture::NOW, filter);
        let of = |i: usize| &tables[0]["candidates"][i];
        assert_eq!((tables.len(), &tables[0]["policy"], &tables[0]["panic"]), (1, &json!("model"), &json!(false)));
        assert_eq!((&of(0)["share"], &of(0)["score"], &of(0)["zone"]), (&json!(0.75), &json!(4.5), &json!("eu-1a")));
        assert_eq!(
            (&of(0)["predicted"]["intrinsic_ms"], &of(0)["observed"]["latency_mean_ms"]),
            (&json!(11.0), &json!(12.0))
        );
        assert_eq!((&of(0)["in_flight"], &of(0)["last_sample_age_s"]), (&json!(1), &json!(2.0)));
        let estimate = of(0)["estimate"]["now_ms"].as_f64().unwrap();
        assert!(estimate > 10.9 && estimate < 11.1, "10 + 2 x exp(-2/3) = 11.03: {estimate}");
        // The last was never used, and the model said nothing of it.
        for unknown in ["score", "predicted", "estimate", "zone", "last_sample_age_s"] {
            assert_eq!(of(2)[unknown], Value::Null, "{unknown}");
        }
        assert_eq!(of(2)["observed"]["latency_mean_ms"], Value::Null);
        assert_eq!(
            (&of(2)["eligible"], &of(2)["share"], &of(2)["health"]),
            (&json!(false), &json!(0.0), &json!("ejected"))
        );
    }

    #[test]
    fn who_fails_and_is_not_left_alone_yet_is_told_of() {
        let state = fixture::published();
        let reasons = || -> Vec<String> {
            let tables = tables(&state.published.load(), (None, None), fixture::NOW, Filter::default());
            let all = tables[0]["candidates"].as_array().unwrap();
            all.iter().map(|c| c["reason"].as_str().unwrap().to_owned()).collect()
        };
        let before = reasons();
        let held = state.published.load();
        let candidates = held.clusters[0].tables[0].candidates();
        for text in ["; its last request failed", "; its last 2 requests failed"] {
            candidates[0].node.failed();
            assert_eq!(reasons()[0], format!("{}{text}", before[0]));
        }
        candidates[2].node.failed();
        assert_eq!(reasons()[2], before[2], "who is left alone has the reason for that");
    }

    #[test]
    fn without_a_tick_nothing_was_observed() {
        let state = fixture::published();
        let all = routing(&state, Filter::default()).unwrap();
        assert_eq!(all["tables"].as_array().unwrap().len(), 4, "two workloads, two clusters");
        assert_eq!(all["tables"][0]["candidates"][0]["observed"], Value::Null);
        assert_eq!((&all["tables"][0]["calls_per_second"], &all["model_error"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&all["generation"]["id"], &all["generation"]["age_s"], &all["generation"]["rung"]),
            (&json!(41), &json!(0.5), &json!("model"))
        );
        assert_eq!((&all["mode"], &all["scorer"]["engine"]["engine"]), (&json!("active"), &json!("embedded")));
    }
}
