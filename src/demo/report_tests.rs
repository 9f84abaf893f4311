use super::*;
use crate::demo::record::Sample;
use std::time::Duration;

/// A hundred requests a second for the whole story, each as the arm's `latency` says.
fn record(seconds: u32, latency: impl Fn(f64) -> (f64, Option<usize>)) -> Arc<Record> {
    let record = Record::default();
    for i in 0..seconds * 100 {
        let due_s = f64::from(i) / 100.0;
        let (latency_ms, replica) = latency(due_s);
        record.add(Sample { due_s, late_ms: 0.0, latency_ms, replica });
    }
    Arc::new(record)
}

fn summary() -> Summary {
    let story = Story::new(Duration::from_secs(100)).unwrap();
    // Two-hop trouble from 40 s to 65 s; the crash at 77 s, with three requests under way.
    let crash = Crash { at_s: 77.0, in_flight: 3 };
    let lost = |due: f64| (76.98..77.0).contains(&due);
    let of = |slow: f64, far: f64| {
        record(100, move |due| match due {
            due if lost(due) => (30.0, None),
            due if (40.0..65.0).contains(&due) => (slow, Some(if due.fract() < far { 3 } else { 0 })),
            due if (12.0..30.0).contains(&due) => (20.0, Some(if due.fract() < 0.25 { 1 } else { 0 })),
            _ => (20.0, Some(0)),
        })
    };
    let records = [of(40.0, 0.0), of(40.5, 0.25), of(200.0, 0.5)];
    let view = View { generation: 123, engine: "embedded 0.27 (cpu)".into(), ..View::default() };
    let mut summary = Summary::of(story, 100.0, &records, &[Some(crash); 3], Some(&view));
    summary.steered = Some(1.0);
    summary
}

#[test]
fn the_json_has_the_promised_shape() {
    let json = summary().json();
    assert_eq!((&json["requests"], &json["failed"], &json["in_flight_at_crash"]), (&json!(30_000), &json!(6), &json!(9)));
    assert_eq!((&json["failed_outside_crash"], &json["complete"]), (&json!(0), &json!(true)));
    assert_eq!((&json["generations"], &json["engine"]), (&json!(123), &json!("embedded 0.27 (cpu)")));
    let policies: Vec<_> = json["policies"].as_object().unwrap().keys().collect();
    assert_eq!(policies.len(), 3);
    for policy in ["model", "least_request", "round_robin"] {
        for key in ["p50_ms", "p99_ms", "two_hop_p99_ms", "slow_share"] {
            assert!(json["policies"][policy][key].is_f64(), "{policy} {key}: {json}");
        }
        assert_eq!(json["policies"][policy]["chapters"].as_array().unwrap().len(), 7);
    }
    let rr = &json["policies"]["round_robin"];
    assert_eq!((&rr["p50_ms"], &rr["p99_ms"], &rr["two_hop_p99_ms"]), (&json!(20.0), &json!(200.0), &json!(200.0)));
    assert_eq!((&rr["slow_share"], &rr["two_hop_slow_share"]), (&json!(0.25), &json!(0.5)));
    assert_eq!(rr["chapters"][3]["chapter"], "two_hop");
}

#[test]
fn sentences_say_what_the_figures_say() {
    let text = summary().verdicts().join("\n");
    assert!(text.contains("the model's p99 was 40 ms: least request's about the same (40 ms), round robin's was 5.0 times as long (200 ms)."), "{text}");
    assert!(text.contains("caught 9 requests in the three arms, of which 6 were lost. No other request failed."), "{text}");
    let mut worse = summary();
    worse.policies.swap(0, 2);
    (worse.policies[0].policy, worse.policies[2].policy) = (Policy::Model, Policy::RoundRobin);
    assert!(worse.verdicts()[1].contains("round robin did better (40 ms, 5.0 times shorter)"), "{:?}", worse.verdicts());
}

#[test]
fn a_machine_that_was_too_busy_to_judge_by_is_said_to_be() {
    let story = Story::new(Duration::from_secs(10)).unwrap();
    let busy = Record::default();
    let sample = |late_ms| Sample { due_s: 1.0, late_ms, latency_ms: 50.0, replica: Some(0) };
    (0..100).for_each(|_| busy.add(sample(1.0)));
    let summary = |record: &Arc<Record>| Summary::of(story, 10.0, std::slice::from_ref(record), &[None], None);
    let busy = Arc::new(busy);
    assert!(!summary(&busy).to_string().contains("busy"));
    (0..10).for_each(|_| busy.add(sample(30.0)));
    assert!(summary(&busy).to_string().contains("sent 30 ms late or more"));
    assert_eq!(summary(&busy).json()["sent_late_p99_ms"], json!(30.0));
}

#[test]
fn a_failure_that_was_sent_after_the_crash_is_not_the_crashs() {
    let story = Story::new(Duration::from_secs(10)).unwrap();
    let record = record(10, |due| (5.0, (due != 9.0).then_some(0)));
    let crash = Some(Crash { at_s: 7.7, in_flight: 2 });
    let summary = Summary::of(story, 10.0, &[record], &[crash], None);
    assert_eq!((summary.failed(), summary.failed_outside_crash()), (1, 1));
    assert!(summary.verdicts().iter().any(|v| v.contains("One other request failed")));
}

#[test]
fn a_story_that_was_left_early_has_no_figures_of_what_it_did_not_reach() {
    let story = Story::new(Duration::from_secs(60)).unwrap();
    let summary = Summary::of(story, 5.0, &[record(5, |_| (10.0, Some(0)))], &[None], None);
    let model = &summary.json()["policies"]["model"];
    assert_eq!((&model["two_hop_p99_ms"], &model["slow_share"], &model["p99_ms"]), (&Value::Null, &Value::Null, &json!(10.0)));
    assert_eq!((&summary.json()["in_flight_at_crash"], &summary.json()["complete"]), (&Value::Null, &json!(false)));
    let text = summary.to_string();
    assert!(text.contains("left after 5.0 s of 60 s") && text.contains("No request failed."), "{text}");
}

#[test]
fn the_table_has_a_line_for_each_policy() {
    let text = summary().to_string();
    assert!(text.contains("model              10000"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("round robin") && l.contains("200 ms") && l.ends_with("50.0%")), "{text}");
}
