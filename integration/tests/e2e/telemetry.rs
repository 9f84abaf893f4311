//! What operators see of each request, and that nothing is left of what is gone.

use crate::{catalog, sidecar};
use pathloom_integration::client::raw::find;
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint, raw::read_head};
use pathloom_integration::load::Load;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::wait;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TO_STDOUT: &str = "telemetry: { access_log: { to: stdout, format: json } }\n";

fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_one_line_in_the_access_log() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), "") + TO_STDOUT).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let mut ids = BTreeSet::new();
        for n in 0..100 {
            let path = ["/", "/status/500", "/status/404", "/bytes/1000?length"][n % 4];
            ids.insert(text(&client.get(path).await.unwrap(), "x-request-id").to_owned());
        }
        assert_eq!(ids.len(), 100, "ids are unique");
        let log = wait::eventually("a hundred lines", || async {
            let log = sidecar.process.stdout.text();
            if log.lines().count() >= 100 && log.ends_with('\n') { Ok(log) } else { Err(log) }
        })
        .await;
        let lines = lines(&log);
        assert_eq!(lines.len(), 100);
        let logged: BTreeSet<_> = lines.iter().map(|l| l["request_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(logged, ids);
        let with = |status: u64| lines.iter().filter(|l| l["status"] == status).count();
        assert_eq!((with(200), with(500), with(404)), (50, 25, 25));
        for line in &lines {
            let wanted = ["frontend", "catalog", "GET", "catalog.shop"];
            let seen =
                ["workload", "cluster", "method", "host"].map(|k| line[k].as_str().unwrap_or_default().to_owned());
            assert_eq!(seen, wanted, "{line:#}");
            assert!(line["endpoint"].as_str().is_some_and(|e| e.starts_with("127.")), "{line:#}");
            assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_request_says_why_in_answer_log_and_metric_by_the_same_word() {
    let sidecar = sidecar(catalog("[]", "") + TO_STDOUT).start().await;
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let answer = client.get("/secret?token=1").await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(text(&answer, "proxy-status").contains("no_endpoints"), "{answer:?}");
    let log = wait::eventually("the line", || async {
        let log = sidecar.process.stdout.text();
        if log.ends_with('\n') { Ok(log) } else { Err(log) }
    })
    .await;
    assert_eq!(lines(&log)[0]["reason"], "no_endpoints", "{log}");
    assert_eq!(sidecar.metrics().await.failures("no_endpoints"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_access_log_goes_on_in_a_new_file_and_loses_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let fleet = Fleet::start(1).await;
    let yaml = catalog(&fleet.yaml(), "") + &format!("telemetry: {{ access_log: {{ to: '{}' }} }}\n", file.display());
    let sidecar = sidecar(yaml).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    wait::until("lines in the file", || std::fs::read(&file).is_ok_and(|log| !log.is_empty())).await;
    std::fs::rename(&file, &moved).unwrap();
    sidecar.sighup();
    wait::until("the new file", || file.exists()).await;
    load.further(100).await;
    let sent = load.stop().await.outcomes.len();
    let count = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let log = wait::eventually("every line", || async {
        let all = count(&moved) + &count(&file);
        if all.lines().count() == sent && all.ends_with('\n') {
            Ok(all)
        } else {
            Err(format!("{} of {sent}", all.lines().count()))
        }
    })
    .await;
    assert_eq!(lines(&log).len(), sent);
    assert!(count(&file).lines().count() > 0 && count(&moved).lines().count() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_requests_become_spans_and_a_dead_collector_costs_nothing() {
    let got = Arc::new(Mutex::new(Vec::new()));
    let taken = got.clone();
    let collector = RawEndpoint::start(move |mut stream| {
        let taken = taken.clone();
        async move {
            loop {
                let mut request = read_head(&mut stream).await;
                let Some(end) = find(&request, b"\r\n\r\n") else { return };
                let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
                let length =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
                let mut rest = vec![0; end + 4 + length.unwrap_or(0) - request.len()];
                if stream.read_exact(&mut rest).await.is_err() {
                    return;
                }
                request.extend_from_slice(&rest);
                taken.lock().unwrap().extend_from_slice(&request);
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    for address in [collector.address, pathloom_integration::ports::free(pathloom_integration::ports::own_ip(2))] {
        let fleet = Fleet::start(1).await;
        let traces = format!("traces: {{ otlp: 'http://{address}/v1/traces', sample: 100% }}");
        let yaml = catalog(&fleet.yaml(), "") + &format!("telemetry: {{ access_log: {{ to: 'off' }}, {traces} }}\n");
        let sidecar = sidecar(yaml).start().await;
        let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/traced").await;
        load.further(100).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        if address == collector.address {
            wait::until("the spans", || find(&got.lock().unwrap(), b"/traced").is_some()).await;
        }
        sidecar.assert_no_panic();
    }
    // Strings stand as they are in protobuf.
    let got = got.lock().unwrap().clone();
    for word in ["POST /v1/traces", "http.request.method", "pathloom."] {
        assert!(find(&got, word.as_bytes()).is_some(), "{word} is in no span");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_are_told_by_route_for_as_long_as_there_is_that_route() {
    let fleet = Fleet::start(1).await;
    let yaml = |routes: &str| {
        format!(
            "workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{routes}]\n\
             clusters: {{ catalog: {{ endpoints: {} }} }}\n",
            fleet.yaml()
        )
    };
    let (items, users) =
        ("{ match: { path_prefix: /items }, cluster: catalog }", "{ match: { path: /users }, cluster: catalog }");
    let mut sidecar = sidecar(yaml(&[items, users].join(", "))).start().await;
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for path in ["/items/1", "/items/2", "/users", "/nowhere"] {
        client.get(path).await.unwrap();
    }
    let by_route = |route: &'static str| {
        move |metrics: &Metrics| metrics.sum("http_server_request_duration_seconds_count", &[("http_route", route)])
    };
    sidecar.counted(by_route("*/items/*"), 2.0).await;
    sidecar.counted(by_route("*/users"), 1.0).await;
    let all = |metrics: &Metrics| metrics.sum("http_server_request_duration_seconds_count", &[]);
    sidecar.counted(all, 4.0).await;
    // One route goes, another one comes before the one that stays: its place is another one, and its counts go on.
    let others = "{ match: { path: /others }, cluster: catalog }";
    sidecar.reload_and_wait(&yaml(&[others, items].join(", "))).await;
    for path in ["/items/3", "/others", "/others"] {
        client.get(path).await.unwrap();
    }
    for (route, count) in [("*/items/*", 3.0), ("*/others", 2.0), ("*/users", 0.0)] {
        sidecar.counted(by_route(route), count).await;
    }
    let answered = |metrics: &Metrics| metrics.sum("pathloom_requests_total", &[("cluster", "catalog")]);
    sidecar.counted(answered, 6.0).await;
    // It comes back, and goes on from where it was.
    sidecar.reload_and_wait(&yaml(&[users, items].join(", "))).await;
    sidecar.counted(by_route("*/users"), 1.0).await;
    assert_eq!(sidecar.metrics().await.sum("rpc_server_call_duration_seconds_count", &[]), 0.0);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_endpoints_that_are_gone() {
    let model = "model: { engine: embedded, tick: 50ms }\n\
                 telemetry: { access_log: { to: 'off' }, idle_links: 500ms }\n";
    let stays = Fleet::start(1).await;
    let of = |more: Option<&Fleet>| {
        let all = stays.endpoints.iter().chain(more.iter().flat_map(|f| &f.endpoints)).map(|e| e.address);
        catalog(&list(all), "policy: round_robin") + model
    };
    let mut sidecar = sidecar(of(None)).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    load.further(50).await;
    let mut gone = Vec::new();
    for _ in 0..5 {
        let fleet = Fleet::start(4).await;
        sidecar.reload_and_wait(&of(Some(&fleet))).await;
        wait::until("all of them to be used", || fleet.endpoints.iter().all(|e| e.state.requests() > 0)).await;
        gone.extend(fleet.endpoints.iter().map(|e| e.address.to_string()));
        sidecar.reload_and_wait(&of(None)).await;
        load.pass().await;
    }
    wait::eventually("their statistics to be forgotten", || async {
        let links = sidecar.metrics().await.get("pathloom_links", &[]).unwrap_or(f64::NAN);
        if links <= 1.0 { Ok(()) } else { Err(links) }
    })
    .await;
    wait::eventually("no trace of them", || async {
        let (_, metrics) = sidecar.get("/metrics").await;
        let (_, graph) = sidecar.get("/graph").await;
        let traces = |text: &str| gone.iter().filter(|a| text.contains(a.as_str())).count();
        let left = (traces(&metrics), traces(&graph));
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?} of {} in /metrics and /graph", gone.len())) }
    })
    .await;
    wait::eventually("their connections to be closed", || async {
        let open = sidecar.metrics().await.sum("pathloom_upstream_connections", &[]);
        if open <= 8.0 { Ok(()) } else { Err(open) }
    })
    .await;
    load.stop().await;
    sidecar.assert_no_panic();
}
