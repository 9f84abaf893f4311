//! What is wrong is said clearly, and nothing else changes.

use crate::{QUICK, catalog, pathloom, sidecar};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint};
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::time::Duration;

/// Starts what must not start; gives its exit code and what it said.
async fn refused(yaml: impl Into<String>) -> (i32, String, Sidecar) {
    let mut sidecar = sidecar(yaml).spawn();
    let status = sidecar.process.end(Duration::from_secs(60)).await;
    let said = sidecar.stderr() + &sidecar.process.stdout.text();
    assert!(!said.contains("panicked at"), "{said}");
    (status.code().unwrap_or_else(|| panic!("a signal ended it: {status}")), said, sidecar)
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_refused_with_every_error_and_its_place() {
    let wrong = "workloads: { frontend: { listen: '@in@', serivce: x } }\n\
                 routes: [{ cluster: nowhere }]\n\
                 clusters: { catalog: { policy: modle, endpoints: [{ address: '127.0.0.1:1', weight: heavy }] } }\n\
                 model: { tick: 5 }\n";
    let (code, said, sidecar) = refused(wrong).await;
    assert_eq!(code, 64, "{said}");
    assert_says(
        &said,
        &["serivce", "service", "modle", "model", "heavy", "tick", "pathloom.yaml:1:", "pathloom.yaml:3:"],
    );

    let (code, _, listed) = pathloom(&["check", &sidecar.file().display().to_string()]).await;
    assert_eq!(code, 64, "{listed}");
    assert_says(&listed, &["serivce", "modle", "heavy", "tick"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_broken_file_is_refused() {
    for (text, word) in
        [("workloads: [", "pathloom.yaml"), ("- just\n- a list\n", "pathloom.yaml"), ("node: 3\n", "node")]
    {
        let (code, said, _) = refused(text).await;
        assert_eq!(code, 64, "{said}");
        assert_says(&said, &[word]);
    }
    let (code, _, said) = pathloom(&["run", "--config", "/nonexistent/pathloom.yaml"]).await;
    assert_eq!(code, 64, "{said}");
    assert_says(&said, &["/nonexistent/pathloom.yaml"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_in_use_fails_the_start_and_names_the_address() {
    let taken = std::net::TcpListener::bind((pathloom_integration::ports::own_ip(2), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = catalog("[{ address: '127.0.0.1:1' }]", "").replace("@in@", &address.to_string());
    let (code, said, _) = refused(yaml).await;
    assert!(code != 0 && code != 101, "{code} {said}");
    assert_says(&said, &[&address.to_string(), "another process has the address", "`listen`"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_of_a_reload_that_is_in_use_is_counted_until_it_is_served() {
    let taken = std::net::TcpListener::bind((pathloom_integration::ports::own_ip(2), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let fleet = Fleet::start(1).await;
    let yaml = catalog(&fleet.yaml(), "");
    let mut sidecar = sidecar(yaml.clone()).start().await;
    assert_eq!(sidecar.metrics().await.get("pathloom_unserved_listeners", &[]), Some(0.0));
    sidecar.reload(&yaml.replacen("workloads: {", &format!("workloads: {{ late: {{ listen: '{address}' }},"), 1));
    sidecar.counted(|m| m.get("pathloom_unserved_listeners", &[]).unwrap_or_default(), 1.0).await;
    sidecar.logged("another process has the address").await;
    drop(taken);
    sidecar.counted(|m| m.get("pathloom_unserved_listeners", &[]).unwrap_or_default(), 0.0).await;
    sidecar.logged("is served now").await;
    assert_eq!(Version::Http1.connect(address).await.unwrap().get("/").await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_port_in_use_fails_the_start_and_names_the_address() {
    let taken = std::net::TcpListener::bind((pathloom_integration::ports::own_ip(2), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = catalog("[{ address: '127.0.0.1:1' }]", "") + &format!("admin: {{ listen: '{address}' }}\n");
    let (code, said, _) = refused(yaml).await;
    assert!(code != 0 && code != 101, "{code} {said}");
    assert_says(&said, &[&address.to_string(), "admin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_run_side_by_side_and_a_third_on_the_same_ports_fails_clearly() {
    let fleet = Fleet::start(2).await;
    let first = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let second = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let third = sidecar(catalog(&fleet.yaml(), "")).address("in", first.address("in"));
    let mut third = third.spawn();
    let status = third.process.end(Duration::from_secs(60)).await;
    assert!(!status.success(), "{status}");
    assert_says(&third.stderr(), &[&first.address("in").to_string()]);
    for sidecar in [&first, &second] {
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..20 {
            assert_eq!(client.get("/").await.unwrap().status(), 200);
        }
        sidecar.assert_no_panic();
    }
    third.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_changes_nothing_and_config_log_and_metrics_say_so() {
    let fleet = Fleet::start(2).await;
    let good = catalog(&fleet.yaml(), "") + QUICK;
    let mut sidecar = sidecar(good.clone()).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    let before = sidecar.config().await["config"].clone();
    let bad = [
        (good.replace("tick: 100ms", "tick: 100"), "tick"),
        (good.replace("cluster: catalog", "clutser: catalog"), "clutser"),
        ("workloads: {{{".to_owned(), "yaml"),
        (good.replace("listen: '@in@'", "listen: 'here'"), "here"),
    ];
    for (n, (text, word)) in bad.iter().enumerate() {
        sidecar.reload(text);
        wait::eventually("the refusal", || async {
            let seen = sidecar.reloads().await;
            if seen == (1, n as u64 + 1) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        let config = sidecar.config().await;
        let error = config["last_error"]["text"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(word), "{word}: {error}");
        assert!(config["last_error"]["diagnostics"][0]["line"].is_u64() || !error.is_empty(), "{config:#}");
        assert_eq!(config["config"], before, "the running configuration stays");
        let metrics = sidecar.metrics().await;
        assert_eq!(metrics.get("pathloom_config_last_reload_failed", &[]), Some(1.0));
        assert_eq!(metrics.get("pathloom_config_reloads_total", &[("result", "failed")]), Some(n as f64 + 1.0));
        sidecar.logged(word).await;
        let (_, yaml) = sidecar.get("/config").await;
        assert!(yaml.contains("REFUSED"), "{yaml}");
        assert_eq!(sidecar.get("/ready").await.0, 200, "a bad file is no reason to leave the mesh");
    }
    // Asked twice for the same bad file, it says so twice and still serves.
    sidecar.sighup();
    wait::eventually("the refusal again", || async {
        let seen = sidecar.reloads().await;
        if seen.1 == bad.len() as u64 + 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    sidecar.reload(&good);
    sidecar.reloaded(2, bad.len() as u64 + 1).await;
    assert_eq!(sidecar.metrics().await.get("pathloom_config_last_reload_failed", &[]), Some(0.0));
    assert!(sidecar.config().await["last_error"].is_null());
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_speaks_garbage_is_a_502_with_its_reason() {
    let garbage: [&'static [u8]; 4] = [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nbad header\x00: x\r\n\r\n",
    ];
    for bytes in garbage {
        let endpoint = RawEndpoint::saying(bytes).await;
        let sidecar = sidecar(catalog(&list([endpoint.address]), "")).start().await;
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        let answer = wait::soon("an answer", client.get("/")).await.unwrap();
        let text = String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(answer.status(), 502, "{text}: {answer:?}");
        let status = pathloom_integration::client::text(&answer, "proxy-status").to_owned();
        assert!(status.contains("upstream_protocol"), "{text}: {status}");
        let metrics = sidecar.metrics().await;
        assert!(metrics.failures("upstream_protocol") > 0.0, "{text}: {:?}", metrics.all_failures());
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_closes_without_an_answer_is_a_502_with_its_reason() {
    let closes = RawEndpoint::saying(b"").await;
    let resets = RawEndpoint::resetting_after(b"").await;
    for endpoint in [&closes, &resets] {
        let sidecar = sidecar(catalog(&list([endpoint.address]), "")).start().await;
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        let answer = wait::soon("an answer", client.get("/")).await.unwrap();
        assert_eq!(answer.status(), 502, "{answer:?}");
        assert!(sidecar.metrics().await.failures("upstream_reset") > 0.0);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_never_answers_is_a_504_with_its_reason() {
    let silent = RawEndpoint::silent().await;
    let fleet = Fleet::start(1).await;
    let cases = [
        (list([silent.address]), "protocol: http1", "/"),
        (list([silent.address]), "protocol: http2", "/"),
        (fleet.yaml(), "protocol: http1", "/never"),
        (fleet.yaml(), "protocol: http2", "/never"),
    ];
    for (endpoints, protocol, path) in cases {
        let more = format!("{protocol}, timeouts: {{ response_headers: 300ms }}");
        let sidecar = sidecar(catalog(&endpoints, &more)).start().await;
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        let answer = wait::soon("an answer", client.get(path)).await.unwrap();
        assert_eq!(answer.status(), 504, "{protocol}{path}: {answer:?}");
        let metrics = sidecar.metrics().await;
        assert!(metrics.failures("response_timeout") > 0.0, "{protocol}{path}: {:?}", metrics.all_failures());
        sidecar.assert_no_panic();
    }
}
