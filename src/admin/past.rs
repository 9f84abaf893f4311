//! `/routing?generation=N`: the tables that chose, of a generation that is over.
//!
//! The answer has `/routing`'s form, with `past` at its top, so that whoever draws one draws the other. What was true of a
//! moment and not of a generation (what was under way, the local estimate) is null; `attention` is the share of the caller's
//! attention that a candidate's link got. `began` asks whether the generation can have steered a request that began then:
//! an access log may be of another process, whose generations have the same numbers.

use super::canary;
use super::json::{ms, number, share};
use super::routing::{self, Filter};
use super::state::AdminState;
use crate::balance::{Predicted, Why};
use crate::control::archive::MAX_BYTES;
use crate::control::history::Change;
use crate::control::past::{PastCandidate, PastTable};
use crate::observe::rfc3339;
use serde_json::{Value, json};

/// Which generation is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its number.
    pub generation: u64,
    /// When the request began that it steered, as the access log has it.
    pub began: Option<&'a str>,
}

/// The tables of a generation; those that choose now, where it is in force.
///
/// # Errors
/// Why they are not there, in words.
pub fn routing(state: &AdminState, wanted: Wanted<'_>, filter: Filter<'_>) -> Result<Value, String> {
    let Wanted { generation, began } = wanted;
    let current = state.published.load().id;
    let history = &state.control.history;
    let known = history.steered(generation, None);
    let change = history.steered(generation, began);
    if known.is_some() && change.is_none() {
        return Err(format!(
            "generation {generation} of this process was not in force at {}: that was another process, or another proxy",
            began.unwrap_or_default()
        ));
    }
    if generation == current {
        return routing::routing(state, filter).map_err(|unknown| unknown.to_string());
    }
    let (Some(change), Some(tables)) = (change, history.tables(generation)) else {
        return Err(match generation > current {
            true => format!("generation {generation} is not of this process, which is at {current}"),
            false => format!(
                "the tables of generation {generation} are not kept: only those that chose for requests are, while their generation is remembered and {} MiB hold them",
                MAX_BYTES >> 20
            ),
        });
    };
    let is = |name: &str, wanted: Option<&str>| wanted.is_none_or(|w| w == name);
    let wanted = |t: &&std::sync::Arc<PastTable>| is(&t.cluster, filter.cluster) && is(&t.workload, filter.workload);
    let those: Vec<Value> = tables.iter().filter(wanted).map(|t| table(t)).collect();
    if those.is_empty() {
        let any = |name: Option<&str>| name.map_or_else(|| "anybody".to_owned(), |n| format!("`{n}`"));
        return Err(format!(
            "in generation {generation} no request of {} to {} was chosen for here",
            any(filter.workload),
            any(filter.cluster)
        ));
    }
    Ok(json!({
        "node": state.node,
        "version": state.version,
        "past": true,
        "generations_since": current.saturating_sub(generation),
        "generation": head(&change),
        "tables": those,
    }))
}

fn head(change: &Change) -> Value {
    json!({
        "id": change.generation,
        "made_at": rfc3339(change.at),
        "cause": change.cause,
        "rung": change.rung,
        "rung_reason": change.rung_reason,
        "model": change.model.as_deref(),
    })
}

fn table(table: &PastTable) -> Value {
    let weights: f32 = table.candidates().filter(|c| c.eligible).map(|c| c.weight).sum();
    let known = table.candidates().filter_map(|c| c.seen.calls_per_second);
    // Of no calls at all nobody has a share.
    let calls = known.fold(None, |all: Option<f32>, calls| Some(all.unwrap_or_default() + calls));
    let candidates = table.candidates().map(|c| candidate(&c, weights, calls));
    json!({
        "cluster": &*table.cluster,
        "service": &*table.service,
        "source": table.source.as_ref().map(|key| &*key.0),
        "protocol": table.protocol,
        "workload": &*table.workload,
        "policy": table.options.policy,
        "compare": table.options.compare,
        "panic": table.panic,
        "own_zone": canary::own_zone(table.own_zone.as_ref()),
        "trial": table.trial.map(|(part, against)| json!({ "share": share(part as f32), "against": against })),
        "calls_per_second": number(calls),
        "candidates": candidates.collect::<Vec<_>>(),
    })
}

fn candidate(c: &PastCandidate, weights: f32, calls: Option<f32>) -> Value {
    let predicted = c.predicted.map(|Predicted { intrinsic_s, mean_s, p99_s, jitter_s }| {
        json!({ "intrinsic_ms": ms(intrinsic_s), "mean_ms": ms(mean_s), "p99_ms": ms(p99_s), "jitter_ms": ms(jitter_s) })
    });
    let seen = &c.seen;
    let part = seen.calls_per_second.zip(calls.filter(|all| *all > 0.0)).map(|(calls, all)| calls / all);
    let observed = seen.calls_per_second.or(seen.mean_s).map(|_| {
        json!({
            "latency_mean_ms": ms(seen.mean_s),
            "latency_p99_ms": ms(seen.p99_s),
            "jitter_ms": ms(seen.jitter_s),
            "calls_per_second": number(seen.calls_per_second),
            "share": share(part),
        })
    });
    json!({
        "endpoint": &*c.place.key.0,
        "address": c.place.address,
        "zone": Some(&*c.place.zone).filter(|z| !z.is_empty()),
        "configured_weight": c.place.configured,
        "eligible": c.eligible,
        "weight": share(c.weight),
        "share": share(if c.eligible { c.weight / weights } else { 0.0 }),
        "score": number(c.score),
        "predicted": predicted,
        "observed": observed,
        "estimate": null,
        "in_flight": null,
        "attention": share(c.attention),
        "health": c.health,
        "expected_success": share(c.success),
        "last_sample_age_s": null,
        "guard": match c.reason {
            Why::Predicted { guard, .. } => guard,
            _ => None,
        },
        "reason": c.reason.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn asked(state: &AdminState, generation: u64, began: Option<&str>, workload: &str) -> Result<Value, String> {
        let filter = Filter { cluster: Some("catalog"), workload: Some(workload) };
        routing(state, Wanted { generation, began }, filter)
    }

    #[test]
    fn a_generation_that_is_over_shows_its_candidates_in_the_form_of_those_in_force() {
        let state = fixture::replaced();
        let then = asked(&state, 41, None, "frontend").unwrap();
        assert_eq!(
            (&then["past"], &then["generation"]["id"], &then["generations_since"]),
            (&json!(true), &json!(41), &json!(1))
        );
        assert_eq!((&then["generation"]["cause"], &then["generation"]["rung"]), (&json!("latency"), &json!("model")));
        let live = asked(&state, 42, None, "frontend").unwrap();
        assert_eq!((&live["past"], live["tables"][0]["candidates"].as_array().map(Vec::len)), (&Value::Null, Some(1)));
        let table = &then["tables"][0];
        let first = &table["candidates"][0];
        assert_eq!((table["candidates"].as_array().unwrap().len(), &table["policy"]), (3, &json!("model")));
        assert_eq!(
            (&first["endpoint"], &first["share"], &first["score"]),
            (&json!("10.0.0.1:80"), &json!(0.75), &json!(4.5))
        );
        assert_eq!(
            (&first["predicted"]["mean_ms"], &first["predicted"]["jitter_ms"], &first["observed"]["latency_mean_ms"]),
            (&json!(13.0), &json!(2.0), &json!(12.0))
        );
        assert_eq!(
            (&first["attention"], &first["estimate"], &first["zone"]),
            (&json!(0.5), &Value::Null, &json!("eu-1a"))
        );
        let third = &table["candidates"][2];
        assert_eq!(
            (&third["eligible"], &third["share"], &third["health"]),
            (&json!(false), &json!(0.0), &json!("ejected"))
        );
        assert_eq!((&third["predicted"], &third["observed"]["latency_mean_ms"]), (&Value::Null, &Value::Null));
        // Every key of a live candidate that tells of a generation is there.
        let keys =
            |of: &Value| -> std::collections::BTreeSet<String> { of.as_object().unwrap().keys().cloned().collect() };
        let missing: Vec<String> =
            keys(&live["tables"][0]["candidates"][0]).difference(&keys(first)).cloned().collect();
        assert_eq!(missing, ["affinity_share", "endpoint_in_flight", "failures_in_a_row", "metadata", "prior_ms"]);
    }

    #[test]
    fn what_is_not_kept_or_of_another_process_says_so() {
        let state = fixture::replaced();
        let why = |generation, began: Option<&str>, workload| asked(&state, generation, began, workload).unwrap_err();
        assert!(why(7, None, "frontend").contains("generation 7 are not kept"), "{}", why(7, None, "frontend"));
        assert!(why(900, None, "frontend").contains("not of this process, which is at 42"));
        assert!(why(41, None, "batch").contains("no request of `batch` to `catalog`"), "{}", why(41, None, "batch"));
        let then = rfc3339(fixture::at(99));
        assert!(asked(&state, 41, Some(&then), "frontend").is_ok());
        for other in [rfc3339(fixture::at(90)), rfc3339(fixture::at(200))] {
            let text = why(41, Some(&other), "frontend");
            assert!(text.contains("another process") && text.contains(&other), "{text}");
        }
    }
}
