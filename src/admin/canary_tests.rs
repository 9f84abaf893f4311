//! Tests of what is shown of a trial.

use super::super::explain::render;
use super::super::fixture;
use super::super::routing::{Filter, answer};
use super::*;

#[test]
fn both_arms_stand_side_by_side_in_routing() {
    let state = fixture::on_trial(false);
    let all = answer(&state, None, Filter { cluster: Some("catalog"), workload: Some("frontend") }).unwrap();
    let trial = &all["canary"];
    assert_eq!(
        (&trial["share"], &trial["against"], &trial["retreat"]),
        (&json!(0.1), &json!("peak_ewma"), &Json::Null)
    );
    assert_eq!(trial["comparisons"][0]["longer"], json!({ "mean": -0.1, "low": -0.2, "high": 0.0 }));
    let arms = &all["tables"][0]["canary"];
    assert_eq!((&arms["model"]["requests"], &arms["against"]["requests"]), (&json!(100), &json!(300)));
    assert_eq!((&arms["model"]["share"], &arms["model"]["failure_rate"]), (&json!(0.25), &json!(0.02)));
    assert_eq!((&arms["model"]["policy"], &arms["against"]["policy"]), (&json!("model"), &json!("peak_ewma")));
    let p99 = arms["against"]["p99_ms"].as_f64().unwrap();
    assert!((p99 / 20.0 - 1.0).abs() < 0.03, "{p99}");
    assert_eq!(answer(&fixture::published(), None, Filter::default()).unwrap()["canary"], Json::Null);
}

#[test]
fn explain_says_who_is_better_by_how_much_and_when_it_was_given_up() {
    let explained = |retreated| render(&answer(&fixture::on_trial(retreated), None, Filter::default()).unwrap(), 120);
    let text = explained(false);
    for said in [
        "canary      the model steers 10.0%, peak_ewma the rest\n",
        "catalog: latency -10.0% (-20.0% to +0.0%) beside the rest, failures not known yet; 12 batches\n",
        "  model    100 requests (25.0%) by model: mean 10.0 ms,",
        "  against  300 requests (75.0%) by peak_ewma: mean 20.0 ms,",
        " 2 failed (2.0%)\n",
    ] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    assert!(!text.contains("RETREAT"));
    let text = explained(true);
    assert!(
        text.contains("RETREAT     canary_latency: its requests took long, 5 s ago; another trial in 595 s\n"),
        "{text}"
    );
}

#[test]
fn an_own_zone_is_explained() {
    let text = render(
        &json!({ "tables": [{
        "workload": "w", "cluster": "c", "own_zone": { "zone": "eu-1a", "share": 0.7, "well": 0.5, "load": 0.25 },
    }] }),
        120,
    );
    assert!(text.contains("zone eu-1a: 70.0% of the requests stay in it; 50.0% of it well, load 0.25\n"), "{text}");
}

#[test]
fn metrics_have_a_series_for_each_arm_and_bound() {
    let state = fixture::on_trial(true);
    let generation = state.published.load();
    let all = families(&state.control, &state.traffic, &generation);
    let samples = |name: &str| all.iter().find(|f| f.name == name).map(|f| f.samples.clone()).unwrap_or_default();
    let requests = samples("canary_requests");
    assert!(
        requests
            .iter()
            .any(|(labels, value)| { labels.contains(&("arm", "against".to_owned())) && *value == Value::Count(300) }),
        "{requests:?}"
    );
    assert_eq!((samples("canary_latency_difference").len(), samples("canary_failure_difference").len()), (3, 0));
    assert_eq!(samples("canary_retreated")[0].1, Value::Count(1));
    assert_eq!(samples("canary_retreats").len(), 2);
    let quiet = fixture::published();
    let none = families(&quiet.control, &quiet.traffic, &quiet.published.load());
    let shown: usize = none.iter().filter(|f| f.name != "canary_retreats").map(|f| f.samples.len()).sum();
    assert_eq!(shown, 0, "without a trial");
}
