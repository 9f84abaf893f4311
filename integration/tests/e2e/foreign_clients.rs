//! Clients that others wrote.

use crate::{catalog, protocol, sidecar};
use pathloom_integration::client::{VERSIONS, Version, foreign};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::{body, wait};
use std::net::SocketAddr;
use std::path::Path;

/// What curl is asked to do on both protocols; the file holds a MiB of the pattern.
pub async fn curl_is_content(curl: &foreign::Program, address: SocketAddr, file: &Path) {
    let base = format!("http://{address}");
    let (upload, sink, echo) = (file.display().to_string(), format!("{base}/sink"), format!("{base}/echo"));
    let (bytes, trailers) = (format!("{base}/bytes/100000"), format!("{base}/trailers/10"));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let run = async |arguments: &[&str]| {
            let mut all = vec!["-sS", "--fail", "--max-time", "30", version];
            all.extend_from_slice(arguments);
            let (code, out, errors) = curl.run(&all).await;
            assert_eq!(code, 0, "curl {all:?}: {errors}");
            out
        };
        assert!(run(&[&base]).await.starts_with("endpoint "));
        assert_eq!(run(&["-T", &upload, &sink]).await, "1048576 ok");
        assert_eq!(run(&["-T", &upload, "-H", "Expect: 100-continue", &sink]).await, "1048576 ok");
        assert_eq!(run(&["-X", "POST", "-d", "words", &echo]).await, "words");
        assert_eq!(run(&["-o", "/dev/null", "-w", "%{size_download}", &bytes]).await, "100000");
        // A HEAD's answer has no body, whatever length it names.
        let head = run(&["-I", &bytes]).await;
        assert!(head.starts_with("HTTP/") && head.contains(" 200"), "{head}");
        // Debian's curl 7.88 cannot use a connection again on HTTP/2 with prior knowledge, whoever serves.
        if version == "--http1.1" {
            let twice = ["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", &base, "-o", "/dev/null", &base];
            assert_eq!(run(&twice).await.lines().collect::<Vec<_>>(), ["200 1", "200 0"], "the connection is kept");
        }
        assert_eq!(run(&["-o", "/dev/null", "-w", "%{http_code}", &trailers]).await, "200");
    }
    let chunked = ["-sS", "--fail", "--http1.1", "-H", "Transfer-Encoding: chunked", "-T", &upload, &sink];
    let (code, out, errors) = curl.run(&chunked).await;
    assert_eq!((code, out.as_str()), (0, "1048576 ok"), "{errors}");
    let (code, out, errors) = curl.run(&["-sS", "--fail", "--http1.0", &base]).await;
    assert!(code == 0 && out.starts_with("endpoint "), "{errors}");
    // An upgrade to h2c that curl offers is declined, and the request answered.
    let (code, out, errors) = curl.run(&["-sS", "--fail", "--http2", &base]).await;
    assert!(code == 0 && out.starts_with("endpoint "), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_is_content_on_http1_and_http2() {
    let Some(curl) = foreign::curl() else { return };
    for upstream in VERSIONS {
        let fleet = Fleet::start(2).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(upstream))).start().await;
        let file = sidecar.directory().join("upload");
        std::fs::write(&file, body::piece(0, 1 << 20)).unwrap();
        curl_is_content(&curl, sidecar.address("in"), &file).await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_h2load_succeeds() {
    let Some(h2load) = foreign::h2load() else { return };
    for upstream in VERSIONS {
        h2load_succeeds(&h2load, upstream).await;
    }
}

async fn h2load_succeeds(h2load: &foreign::Program, upstream: Version) {
    let fleet = Fleet::start(3).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), protocol(upstream))).start().await;
    let base = format!("http://{}/", sidecar.address("in"));
    let echo = format!("{base}echo");
    let file = sidecar.directory().join("body");
    std::fs::write(&file, body::piece(0, 10_000)).unwrap();
    let data = file.display().to_string();
    let mut sent = 0;
    for (requests, more) in [
        (5_000, vec!["-c", "20", "-m", "10", base.as_str()]),
        (5_000, vec!["-c", "20", "--h1", base.as_str()]),
        (1_000, vec!["-c", "4", "-m", "32", "-d", data.as_str(), echo.as_str()]),
        (1_000, vec!["-c", "4", "--h1", "-d", data.as_str(), echo.as_str()]),
    ] {
        let count = requests.to_string();
        let arguments: Vec<&str> = ["-n", &count].into_iter().chain(more).collect();
        let (code, out, errors) = h2load.run(&arguments).await;
        let wanted = format!(
            "{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(code == 0 && out.contains(&wanted), "{arguments:?}: {out}{errors}");
        sent += requests;
    }
    assert_eq!(fleet.requests(), sent);
    wait::eventually("the counters", || async {
        let metrics = sidecar.metrics().await;
        let counted = metrics.sum("pathloom_requests_total", &[("status_class", "2xx")]);
        if counted == sent as f64 { Ok(()) } else { Err(format!("{counted} of {sent}: {:?}", metrics.all_failures())) }
    })
    .await;
    sidecar.assert_no_panic();
}
