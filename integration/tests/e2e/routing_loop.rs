//! Requests flow, what happened to them is seen, and the weights follow what is seen.

use crate::{QUICK, catalog, model_steers, pathloom, sidecar};
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::wait;
use serde_json::Value;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_flow_and_routing_shows_shares_and_observations() {
    for version in VERSIONS {
        let fleet = Fleet::start(3).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        let candidates = wait::eventually("every endpoint to be observed", || async {
            let candidates = sidecar.candidates("catalog").await;
            // What was observed shows first, what the model makes of it a tick later.
            let known = |c: &Value| c["observed"]["latency_mean_ms"].is_f64() && c["predicted"].is_object();
            let seen = candidates.values().all(known);
            if seen && candidates.len() == 3 { Ok(candidates) } else { Err(format!("{candidates:#?}")) }
        })
        .await;
        let sum = |key: &str| candidates.values().filter_map(|c| c[key].as_f64()).sum::<f64>();
        assert!((sum("weight") - 1.0).abs() < 1e-3 && (sum("share") - 1.0).abs() < 1e-3, "{candidates:#?}");
        for candidate in candidates.values() {
            assert_eq!((&candidate["health"], &candidate["eligible"]), (&"healthy".into(), &true.into()));
            assert!(candidate["predicted"]["intrinsic_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{candidate:#}");
        }
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        model_steers(&sidecar).await;
        let labels = [("workload", "frontend"), ("cluster", "catalog"), ("status_class", "2xx")];
        sidecar.counted(|m| m.sum("pathloom_requests_total", &labels), fleet.requests() as f64).await;
        let failures = sidecar.metrics().await.all_failures();
        assert_eq!(failures.len(), 0, "{failures:?}");
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_becomes_slow_loses_its_weight_and_gets_it_back_and_explain_says_so() {
    let fleet = Fleet::start(3).await;
    // Small steps and a long way down would only make the test longer.
    let model = "model: { engine: embedded, tick: 100ms, decay: 1s, guards: { slow_start: 0s } }\n";
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + model).start().await;
    for endpoint in &fleet.endpoints {
        endpoint.state.slow(Duration::from_millis(2));
    }
    let load = Load::start(Version::Http1, sidecar.address("in"), 8, "/").await;
    let slow = &fleet.endpoints[1];
    let share = || async {
        let candidates = sidecar.candidates("catalog").await;
        candidates[&slow.address]["share"].as_f64().unwrap_or(f64::NAN)
    };
    wait::eventually("a fair share", || async {
        let share = share().await;
        if share > 0.2 { Ok(()) } else { Err(share) }
    })
    .await;
    slow.state.slow(Duration::from_millis(80));
    wait::eventually("the slow replica to lose its share", || async {
        let share = share().await;
        if share < 0.15 { Ok(()) } else { Err(share) }
    })
    .await;
    let admin = sidecar.address("admin").to_string();
    let explain = async |arguments: &[&str]| pathloom(&[&["explain", "--admin", &admin][..], arguments].concat()).await;
    let (code, text, errors) = explain(&["--cluster", "catalog"]).await;
    assert_eq!(code, 0, "{text}{errors}");
    for word in ["catalog", "frontend", &slow.address.to_string()] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let (code, text, _) = explain(&["--json"]).await;
    assert!(code == 0 && serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    let (code, _, errors) = explain(&["--cluster", "catalogue"]).await;
    assert!(code != 0 && errors.contains("catalog"), "{code} {errors}");

    slow.state.slow(Duration::from_millis(2));
    wait::eventually("the healed replica to get its share back", || async {
        let share = share().await;
        if share > 0.2 { Ok(()) } else { Err(share) }
    })
    .await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_reports_of_endpoints_reach_the_graph() {
    let fleet = Fleet::start(2).await;
    fleet.endpoints[0].state.orca.store(true, std::sync::atomic::Ordering::SeqCst);
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    wait::eventually("the report in /graph", || async {
        let (_, graph) = sidecar.get("/graph").await;
        if graph.contains("0.5") { Ok(()) } else { Err(graph) }
    })
    .await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_a_thousand_endpoints_is_routed_from_the_start() {
    let fleet = Fleet::start(50).await;
    let address = |cluster: usize, n: usize| match cluster {
        0 => fleet.endpoints[n].address,
        _ => ([127, 15, cluster as u8, n as u8 + 1], 9).into(),
    };
    let clusters: Vec<_> =
        (0..20).map(|c| format!("  c{c}: {{ endpoints: {} }}\n", list((0..50).map(|n| address(c, n))))).collect();
    let yaml = format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: c0 }}]\nclusters:\n{}\
         model: {{ engine: embedded, tick: 500ms }}\n",
        clusters.concat()
    );
    let sidecar = sidecar(yaml).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 8, "/").await;
    wait::eventually("a few generations", || async {
        let generation = sidecar.generation().await;
        if generation > 5 { Ok(()) } else { Err(generation) }
    })
    .await;
    load.further(500).await;
    // On a busy machine some look so slow that chance alone sends them anything.
    wait::eventually("most endpoints to be used", || async {
        let used = fleet.endpoints.iter().filter(|e| e.state.requests() > 0).count();
        if used > 40 { Ok(()) } else { Err(used) }
    })
    .await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    assert_eq!(sidecar.get("/graph").await.0, 200);
    eprintln!("{:#}", sidecar.routing().await["generation"]);
    sidecar.assert_no_panic();
}
