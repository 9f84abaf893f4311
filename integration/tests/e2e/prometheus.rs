//! `/metrics` before Prometheus' own judges: `promtool`, and a server that scrapes it. Both are Debian's `prometheus`;
//! without them these tests say that they are skipped, and fail in CI, which has them.

use crate::{QUICK, catalog, sidecar};
use http::{Request, Response};
use pathloom_integration::body;
use pathloom_integration::client::{Version, text};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::process::{self, Process};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Whether there is such a program.
fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        process::skip(&format!("there is no {program} (apt-get install prometheus)"));
    }
    there
}

async fn get(address: SocketAddr, path: &str, accept: Option<&str>) -> Response<bytes::Bytes> {
    let mut request = Request::get(format!("http://{address}{path}"));
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    let mut connection = Version::Http1.connect(address).await.unwrap();
    connection.exchange(request.body(body::empty()).unwrap()).await.unwrap()
}

/// Answers of several kinds, one of them recorded.
async fn asked(sidecar: &Sidecar) {
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for path in ["/", "/", "/status/404", "/status/500"] {
        client.get(path).await.unwrap();
    }
    let recorded = Request::get("http://catalog.shop/").header("traceparent", SAMPLED).body(body::empty()).unwrap();
    assert_eq!(client.exchange(recorded).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraper_gets_the_format_that_it_asks_for_and_both_say_the_same() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    asked(&sidecar).await;
    let counted = |metrics: &Metrics| {
        let server = "http_server_request_duration_seconds_count";
        let of =
            |code: &str| metrics.sum(server, &[("http_response_status_code", code), ("http_request_method", "GET")]);
        (of("200"), of("404"), of("500"), metrics.sum("http_client_request_duration_seconds_count", &[]))
    };
    for (accept, kind, open) in [
        (None, "application/openmetrics-text; version=1.0.0; charset=utf-8", true),
        (Some("text/plain;version=0.0.4"), "text/plain; version=0.0.4; charset=utf-8", false),
    ] {
        // A request is counted a moment after its answer is there.
        wait::eventually("the requests to be counted", || async {
            let answer = get(sidecar.address("admin"), "/metrics", accept).await;
            assert_eq!(text(&answer, "content-type"), kind);
            let shown = String::from_utf8(answer.body().to_vec()).unwrap();
            assert_eq!((shown.contains("# EOF"), shown.contains(TRACE)), (open, open), "{accept:?}");
            let metrics = Metrics::parse(&if open { shown } else { shown + "# EOF\n" });
            let counted = counted(&metrics);
            if counted == (3.0, 1.0, 1.0, 5.0) { Ok(()) } else { Err(format!("{counted:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !is_there("promtool") {
        return;
    }
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    asked(&sidecar).await;
    let shown = get(sidecar.address("admin"), "/metrics", Some("text/plain")).await.into_body();
    let judged = |shown: bytes::Bytes| async move {
        let judge = move || {
            let mut promtool = Command::new("promtool");
            promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = promtool.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&shown).unwrap();
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        };
        tokio::task::spawn_blocking(judge).await.unwrap()
    };
    let (well, said) = judged(shown.clone()).await;
    assert!(well, "{said}\n{}", String::from_utf8_lossy(&shown));
    // It does look: a counter without its ending is found.
    let broken = String::from_utf8_lossy(&shown).replace("pathloom_retries_total", "pathloom_retries");
    assert!(!judged(broken.into()).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_it_and_answers_questions_with_exemplars() {
    if !is_there("prometheus") {
        return;
    }
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    asked(&sidecar).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yaml");
    let scrape = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: pathloom, static_configs: [{{ targets: ['{}'] }}] }}]\n",
        sidecar.address("admin")
    );
    std::fs::write(&file, scrape).unwrap();
    let address = ports::free(ports::own_ip(2));
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    command.args(["--enable-feature=exemplar-storage", "--log.level=warn"]);
    let prometheus = Process::start(command);
    wait::eventually("Prometheus to listen", || async {
        Version::Http1.connect(address).await.map(drop).map_err(|e| format!("{e}: {}", prometheus.stderr.text()))
    })
    .await;
    // While it starts it answers with words alone.
    let ask = async |path: &str| -> Value {
        serde_json::from_slice(get(address, path, None).await.body()).unwrap_or_default()
    };
    let sums = async |name: &str, label: &str| {
        let answer = ask(&format!("/api/v1/query?query={name}")).await;
        let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let mut sums = std::collections::BTreeMap::<String, f64>::new();
        for result in &results {
            let value: f64 = result["value"][1].as_str().unwrap().parse().unwrap();
            *sums.entry(result["metric"][label].as_str().unwrap_or_default().to_owned()).or_default() += value;
        }
        sums
    };
    wait::eventually("the requests in Prometheus", || async {
        let by_status = sums("http_server_request_duration_seconds_count", "http_response_status_code").await;
        let expected = [("200", 3.0), ("404", 1.0), ("500", 1.0)].map(|(status, n)| (status.to_owned(), n));
        if by_status == expected.into() { Ok(()) } else { Err(format!("{by_status:?} {}", prometheus.stderr.text())) }
    })
    .await;
    let by_class = sums("pathloom_requests_total", "status_class").await;
    assert_eq!((by_class.get("2xx"), by_class.get("5xx")), (Some(&3.0), Some(&1.0)), "{by_class:?}");
    assert_eq!(sums("up", "job").await.get("pathloom"), Some(&1.0));
    for name in ["http_server_request_duration_seconds_bucket", "http_client_request_duration_seconds_bucket"] {
        wait::eventually("the exemplar", || async {
            let path = format!("/api/v1/query_exemplars?query={name}&start=0&end=9999999999");
            let answer = ask(&path).await;
            let all: Vec<Value> = answer["data"].as_array().cloned().unwrap_or_default();
            let traces: Vec<_> = all
                .iter()
                .flat_map(|series| series["exemplars"].as_array().cloned().unwrap_or_default())
                .map(|exemplar| exemplar["labels"]["trace_id"].as_str().unwrap_or_default().to_owned())
                .collect();
            if traces.iter().any(|trace| trace == TRACE) { Ok(()) } else { Err(format!("{answer}")) }
        })
        .await;
    }
}
