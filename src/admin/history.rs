//! What each generation changed, and why, as JSON: in `/routing?history=N` as a list, the oldest first, and in `/events` one by
//! one. Of each kind it holds the most (`control::history::MAX_NOTED`); `/routing` says of everything how it is now.

use super::json::{ms, share};
use crate::control::history::{Broken, Change, History, Listed, Trouble};
use crate::observe::rfc3339;
use serde_json::{Value, json};

/// The last generations that are remembered.
pub fn last(history: &History, count: usize) -> Value {
    history.last(count).iter().map(|change| json(change)).collect()
}

/// One of them.
pub fn json(change: &Change) -> Value {
    let moved = change.moved.iter().map(|m| {
        json!({
            "workload": &*m.workload,
            "cluster": &*m.cluster,
            "endpoint": &*m.endpoint.0,
            "from": share(m.from),
            "to": share(m.to),
            "reason": m.why.to_string(),
        })
    });
    let turned = change
        .turned
        .iter()
        .map(|t| json!({ "cluster": &*t.cluster, "endpoint": &*t.endpoint.0, "from": t.from, "to": t.to }));
    json!({
        "generation": change.generation,
        "made_at": rfc3339(change.at),
        "took_ms": ms(change.took.as_secs_f32()),
        "cause": change.cause,
        "early": change.early,
        "rung": change.rung,
        "rung_reason": change.rung_reason,
        "model": change.model.as_deref(),
        "triggers": change.broken.iter().map(trigger).collect::<Vec<_>>(),
        "appeared": listed(&change.appeared),
        "disappeared": listed(&change.disappeared),
        "health": turned.collect::<Vec<_>>(),
        "moved": moved.collect::<Vec<_>>(),
    })
}

fn trigger(broken: &Broken) -> Value {
    let (source, destination) = (&*broken.link.source.0, &*broken.link.destination.0);
    match broken.what {
        Trouble::Errors(rate) => {
            json!({ "source": source, "destination": destination, "what": "errors", "error_rate": share(rate as f32) })
        }
        Trouble::Latency { mean_s, predicted_s } => json!({
            "source": source,
            "destination": destination,
            "what": "latency",
            "observed_ms": ms(mean_s as f32),
            "predicted_ms": ms(predicted_s as f32),
        }),
    }
}

fn listed(those: &[Listed]) -> Value {
    those.iter().map(|(cluster, endpoint)| json!({ "cluster": &**cluster, "endpoint": &*endpoint.0 })).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_change_says_what_made_it_and_what_it_did() {
        let history = History::default();
        history.add(fixture::change(41));
        let all = last(&history, 10);
        let change = &all[0];
        assert_eq!(
            (&change["generation"], &change["cause"], &change["rung"]),
            (&json!(41), &json!("latency"), &json!("model"))
        );
        assert_eq!(
            change["triggers"],
            json!([{
                "source": "frontend", "destination": "10.0.0.1:80", "what": "latency", "observed_ms": 120.0, "predicted_ms": 12.0,
            }])
        );
        assert_eq!(
            change["health"],
            json!([{ "cluster": "catalog", "endpoint": "10.0.0.3:80", "from": "healthy", "to": "ejected" }])
        );
        assert_eq!((&change["moved"][0]["from"], &change["moved"][0]["to"]), (&json!(0.9), &json!(0.75)));
        assert_eq!(change["moved"][0]["reason"], "predicted 11.0 ms at its fair share");
        assert_eq!(change["appeared"], json!([{ "cluster": "catalog", "endpoint": "10.0.0.2:80" }]));
    }
}
