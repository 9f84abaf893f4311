use super::*;
use crate::recording::read;
use pathloom::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use pathloom::record::{LinkRow, Meta, NodeRow, Writer};

/// Two front nodes and three cart nodes; `front-1` calls two of the carts, `front-2` the third one.
fn recording(folder: &std::path::Path, windows: &[f64]) -> Recording {
    let mut writer = Writer::create(folder, &Meta { name: "t".into(), window_seconds: 10.0 }).unwrap();
    for (i, start) in windows.iter().enumerate() {
        let node = |node: &'static str, service: &'static str| NodeRow {
            node,
            service,
            zone: "z",
            cpu_utilization: Some(0.5),
            ..NodeRow::default()
        };
        let nodes = [
            node("front-1", "front"),
            node("front-2", "front"),
            node("cart-1", "cart"),
            node("cart-2", "cart"),
            node("cart-3", "cart"),
        ];
        let link = |source: &'static str, destination: &'static str, ms: f64| LinkRow {
            source,
            destination,
            calls: 100,
            errors: 10,
            latency_mean_ms: Some(ms),
            latency_p50_ms: Some(ms * 0.9),
            latency_p90_ms: Some(ms * 2.0),
            latency_p99_ms: Some(ms * 3.0),
            jitter_ms: Some(ms / 4.0),
        };
        let ms = 10.0 * (i + 1) as f64;
        let links = [link("front-1", "cart-1", ms), link("front-1", "cart-2", 20.0), link("front-2", "cart-3", 30.0)];
        writer.window(*start, &nodes, &links).unwrap();
    }
    writer.finish().unwrap();
    read(folder).unwrap()
}

fn samples(windows: &[f64], options: Options<'_>) -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    let recording = recording(folder.path(), windows);
    Stream::new(&recording, 0..windows.len(), options).collect::<Result<_>>().unwrap()
}

fn all() -> Options<'static> {
    Options { run: 7, least_calls_now: 0.0, scored: None }
}

#[test]
fn candidates_are_what_a_source_or_its_service_calls_and_labels_are_the_next_window() {
    let samples = samples(&[0.0, 10.0, 20.0], all());
    assert_eq!(samples.len(), 2, "the last window has no next one");
    let first = &samples[0];
    assert_eq!((first.run, first.features.node_count()), (7, 5));
    let groups: Vec<u32> = first.candidates.iter().map(|c| c.group).collect();
    assert_eq!(groups, [0, 0, 0, 1, 1, 1], "each front node may go to each cart");
    let means: Vec<f32> = first.candidates.iter().map(|c| (c.mean_s * 1e3).round()).collect();
    assert!(means[0] == 20.0 && means[1] == 20.0 && means[2].is_nan(), "{means:?}");
    assert!(means[3].is_nan() && means[4].is_nan() && means[5] == 30.0, "{means:?}");
    assert_eq!((first.candidates[0].answers, first.candidates[2].answers), (90, 0));
    assert!((first.candidates[0].p99_s - 0.060).abs() < 1e-6 && (first.candidates[0].jitter_s - 0.005).abs() < 1e-6);
    let load: Vec<f32> = first.node_load.clone();
    assert!(load[0] == 10.0 && load[3].is_nan(), "carts get ten calls a second, nobody calls the fronts: {load:?}");
}

#[test]
fn statistics_fade_as_the_sidecars_do_and_know_nothing_of_what_comes() {
    let samples = samples(&[0.0, 10.0, 20.0], all());
    let edge = |sample: &Sample, column: &str| -> f32 {
        let at = EDGE_FEATURES.iter().position(|c| *c == column).unwrap();
        sample.features.edge_features[at]
    };
    let (first, second) = (&samples[0], &samples[1]);
    assert!((edge(first, "latency_mean_s") - 0.010).abs() < 1e-6);
    // Ten calls a second for one window: 10 x 10 s x (1 - 1/e) = 63.2 calls, 9 of 10 of them answered.
    assert!((edge(first, "samples") - 0.9 * 63.2).abs() < 0.1);
    assert!((edge(first, "calls_per_second") - 10.0).abs() < 1e-3);
    assert!((edge(first, "error_rate") - 0.1).abs() < 1e-4);
    assert!((edge(first, "in_flight") - 0.1).abs() < 1e-3, "Little: 10 a second of 10 ms");
    // 1 / (1 + 1/e) of the memory is the last window's.
    let new = 1.0 / (1.0 + (-1.0f32).exp());
    assert!((edge(second, "latency_mean_s") - (0.020 * new + 0.010 * (1.0 - new))).abs() < 1e-5);
    assert!((edge(second, "latency_ewma_s") - 0.020).abs() < 0.001);
    assert!(edge(second, "latency_baseline_s") < edge(second, "latency_mean_s"));
    assert!(edge(second, "latency_p10_s").is_nan());
    let past = second.candidates[0].past;
    assert!((past.mean_s[0] - 0.020).abs() < 1e-6 && (past.mean_s[1] - 0.010).abs() < 1e-6 && past.mean_s[2].is_nan());
    assert!((past.communication_s - 0.009).abs() < 1e-6, "the least so far, a median");
    let cpu = NODE_FEATURES.iter().position(|c| *c == "cpu_utilization").unwrap();
    assert_eq!(second.features.nodes[cpu], 0.5);
}

#[test]
fn windows_apart_are_not_joined() {
    let samples = samples(&[0.0, 10.0, 40.0, 50.0], all());
    assert_eq!(samples.iter().map(|s| s.tick).collect::<Vec<_>>(), [0, 2]);
    let past = samples[1].candidates[0].past;
    assert!(!past.mean_s[0].is_nan() && past.mean_s[1].is_nan() && past.mean_s[2].is_nan() && !past.mean_s[3].is_nan());
}

#[test]
fn what_is_not_scored_is_no_candidate_and_too_few_calls_are_no_label() {
    let scored: Scored<'_> = Box::new(|_, to| to == "cart-3");
    let few = samples(&[0.0, 10.0], Options { scored: Some(scored), ..all() });
    assert_eq!(few[0].candidates.len(), 2);
    let none = samples(&[0.0, 10.0], Options { least_calls_now: 101.0, ..all() });
    assert!(none.is_empty(), "nothing to score");
}
