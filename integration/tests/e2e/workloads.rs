//! Who is calling: by the listener a connection came in on, and by its source address.

use crate::sidecar;
use pathloom_integration::client::{VERSIONS, text};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::net::SocketAddr;

async fn requests_of(sidecar: &Sidecar, workload: &str) -> f64 {
    sidecar.metrics().await.sum("pathloom_requests_total", &[("workload", workload)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_belongs_to_the_workload_of_its_listener_or_its_source() {
    let fleet = Fleet::start(2).await;
    let endpoints = fleet.yaml();
    let yaml = format!(
        "workloads:\n\
         \x20 frontend: {{ listen: '@in@' }}\n\
         \x20 checkout: {{ source: 127.0.0.2, listen: '@shared@' }}\n\
         \x20 payment: {{ source: 127.0.0.64/30, listen: '@shared@' }}\n\
         routes: [{{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ endpoints: {endpoints} }} }}\n"
    );
    let sidecar = sidecar(yaml).start().await;
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let (own, shared) = (sidecar.address("in"), sidecar.address("shared"));
        for (source, address, workload) in [
            ("127.0.0.1:0", own, "frontend"),
            ("127.0.0.2:0", own, "frontend"),
            ("127.0.0.2:0", shared, "checkout"),
            ("127.0.0.64:0", shared, "payment"),
            ("127.0.0.67:0", shared, "payment"),
        ] {
            let before = requests_of(&sidecar, workload).await;
            let source: SocketAddr = source.parse().unwrap();
            let mut client = version.connect_from(source, address).await.unwrap();
            for _ in 0..5 {
                let answer = wait::soon("an answer", client.get("/")).await.unwrap();
                assert_eq!(answer.status(), 200, "{source} on {address}: {answer:?}");
            }
            wait::eventually("the requests in the workload's counter", || async {
                let now = requests_of(&sidecar, workload).await;
                if now == before + 5.0 { Ok(()) } else { Err(format!("{workload}: {before} and then {now}")) }
            })
            .await;
        }
        // Nobody's address on the shared listener.
        for stranger in ["127.0.0.3:0", "127.0.0.68:0", "127.0.0.1:0"] {
            let mut client = version.connect_from(stranger.parse().unwrap(), shared).await.unwrap();
            let answer = wait::soon("an answer", client.get("/")).await.unwrap();
            assert_eq!(answer.status(), 403, "{stranger}: {answer:?}");
            assert!(text(&answer, "proxy-status").contains("unknown_source"));
        }
        let strangers = sidecar.metrics().await.failures("unknown_source");
        assert_eq!(strangers, 3.0 * (round as f64 + 1.0));
    }
    let routing = sidecar.routing().await;
    let tables = routing["tables"].as_array().unwrap();
    let mut named: Vec<_> = tables.iter().map(|t| t["workload"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["checkout", "frontend", "payment"]);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_workload_has_links_of_its_own() {
    let fleet = Fleet::start(2).await;
    let endpoints = fleet.yaml();
    let yaml = format!(
        "workloads: {{ near: {{ listen: '@near@' }}, far: {{ listen: '@far@' }} }}\n\
         routes: [{{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ endpoints: {endpoints} }} }}\n\
         model: {{ engine: embedded, tick: 100ms }}\n"
    );
    let sidecar = sidecar(yaml).start().await;
    let mut client = VERSIONS[0].connect(sidecar.address("near")).await.unwrap();
    wait::eventually("observations of the one that calls, and none of the other", async || {
        for _ in 0..20 {
            client.get("/").await.map_err(|e| e.to_string())?;
        }
        let routing = sidecar.routing().await;
        let seen = |workload: &str| {
            let table = routing["tables"].as_array()?.iter().find(|t| t["workload"] == workload)?;
            let candidates = table["candidates"].as_array()?;
            Some(candidates.iter().filter(|c| c["observed"]["latency_mean_ms"].is_f64()).count())
        };
        if seen("near") == Some(2) && seen("far") == Some(0) { Ok(()) } else { Err(format!("{routing:#}")) }
    })
    .await;
}
