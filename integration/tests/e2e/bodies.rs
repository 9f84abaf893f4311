//! Bodies: large ones in constant memory, slow ones, and ones that break off.

use crate::{catalog, protocol, sidecar};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use pathloom_integration::body::{self, drain};
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, list, raw::RawEndpoint};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What a body may cost the sidecar beyond what it has anyway: buffers and windows, not the body.
const CONSTANT: u64 = 64 * MIB;

/// The size of a large body in MiB. On a slow machine `PATHLOOM_TEST_BODY_MIB` makes it smaller.
fn large() -> u64 {
    std::env::var("PATHLOOM_TEST_BODY_MIB").ok().map_or(1024, |n| n.parse().expect("a number of MiB")) * MIB
}

/// A large body takes its time, so these may wait longer than others.
async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(180), future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn large_bodies(version: Version) {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
    let mut client = version.connect(sidecar.address("in")).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    let before = sidecar.process.resident();
    let length = large();

    let upload = Request::post("/sink").body(body::patterned(length)).unwrap();
    let answer = patiently("the upload", client.exchange(upload)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(answer.body()), format!("{length} ok"));
    let uploaded = sidecar.process.peak_resident();
    assert!(uploaded < before + CONSTANT, "uploading took {} MiB", (uploaded - before) / MIB);

    let download = Request::get(format!("/bytes/{length}")).body(body::empty()).unwrap();
    let answer = client.send(download).await.unwrap();
    let (checked, _, error) = patiently("the download", drain(answer.into_body())).await;
    assert_eq!((checked.length, checked.wrong_at, error.map(|e| e.to_string())), (length, None, None));
    let downloaded = sidecar.process.peak_resident();
    assert!(downloaded < before + CONSTANT, "downloading took {} MiB", (downloaded - before) / MIB);
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("pathloom_request_body_bytes_total", &[]), length as f64);
    assert!(metrics.sum("pathloom_response_body_bytes_total", &[]) >= length as f64);
    assert_eq!(metrics.all_failures().len(), 0, "{:?}", metrics.all_failures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_passes_in_constant_memory_over_http1() {
    large_bodies(Version::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_passes_in_constant_memory_over_http2() {
    large_bodies(Version::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_the_sender_and_not_the_memory() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
        let address = sidecar.address("in");
        let before = sidecar.process.resident();
        let length = 96 * MIB;
        // Clients that ask for much and read nothing: the sidecar must stop reading from the endpoint.
        let mut idle = Vec::new();
        for _ in 0..12 {
            let mut client = version.connect(address).await.unwrap();
            let request = Request::get(format!("/bytes/{length}")).body(body::empty()).unwrap();
            idle.push((client.send(request).await.unwrap(), client));
        }
        // An endpoint that reads nothing while its client sends: the sidecar must stop reading from the client.
        let mut client = version.connect(address).await.unwrap();
        let upload = Request::post("/slow-reader").body(body::patterned(length)).unwrap();
        let answer = client.send(upload).await.unwrap();
        // Others are served meanwhile.
        let mut other = version.connect(address).await.unwrap();
        for _ in 0..200 {
            assert_eq!(wait::soon("another request", other.get("/")).await.unwrap().status(), 200);
        }
        let held = sidecar.process.peak_resident();
        assert!(held < before + CONSTANT, "stalled bodies took {} MiB", (held - before) / MIB);
        fleet.endpoints[0].state.open_gate();
        let verdict = patiently("the upload", answer.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&verdict), format!("{length} None None"));
        let (stalled, _client) = idle.pop().unwrap();
        let (checked, ..) = patiently("the download", drain(stalled.into_body())).await;
        assert_eq!((checked.length, checked.wrong_at), (length, None));
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_on_both_protocols() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let request = Request::get("/trailers/100000").header("te", "trailers").body(body::empty()).unwrap();
        let answer = client.send(request).await.unwrap();
        let (checked, trailers, error) = wait::soon("the body", drain(answer.into_body())).await;
        assert!(checked.length == 100_000 && error.is_none(), "{error:?}");
        let trailers = trailers.unwrap_or_else(|| panic!("{version:?}: no trailers came"));
        assert_eq!((&trailers["x-check"], &trailers["x-end"]), (&"100000".parse().unwrap(), &"yes".parse().unwrap()));
    }
}

/// Waits until one of these reasons was counted.
async fn counted(sidecar: &Sidecar, reasons: &[&str]) {
    wait::eventually(&format!("{reasons:?}"), || async {
        let metrics = sidecar.metrics().await;
        if reasons.iter().any(|reason| metrics.failures(reason) > 0.0) {
            Ok(())
        } else {
            Err(format!("{:?}", metrics.all_failures()))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_reaches_the_client_as_broken() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
        for path in ["/break/100000", "/break/100000?chunked"] {
            let mut client = version.connect(sidecar.address("in")).await.unwrap();
            let answer = client.send(Request::get(path).body(body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            let (checked, _, error) = wait::soon("the broken body", drain(answer.into_body())).await;
            assert!(error.is_some(), "{version:?} {path}: {} bytes came, and then a proper end", checked.length);
            assert!(checked.length <= 100_000 && checked.wrong_at.is_none());
            // The sidecar goes on.
            let mut next = version.connect(sidecar.address("in")).await.unwrap();
            assert_eq!(next.get("/").await.unwrap().status(), 200);
        }
        counted(&sidecar, &["response_incomplete"]).await;
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_middle_of_an_answer_reaches_the_client_as_broken() {
    let resets = RawEndpoint::resetting_after(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this").await;
    let sidecar = sidecar(catalog(&list([resets.address]), "")).start().await;
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let answer = client.send(Request::get("/").body(body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let end = wait::soon("the broken body", answer.into_body().collect()).await;
        assert!(end.is_err(), "{version:?}: a proper end");
    }
    counted(&sidecar, &["response_incomplete"]).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_is_no_proper_request_to_the_endpoint() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let request = Request::post("/sink").body(body::broken_after(10_000)).unwrap();
        let answer = wait::soon("the end of the upload", client.exchange(request)).await;
        assert!(answer.is_err() || answer.is_ok_and(|a| a.status() == 400), "{version:?}");
        // On HTTP/1.1 the connection is all that a client can break off.
        counted(&sidecar, &["request_incomplete", "client_gone"]).await;
        let state = &fleet.endpoints[0].state;
        // It may have broken off before the endpoint saw anything of it, or before it did so now.
        let broke = || state.active.load(SeqCst) == 0 && state.cancelled.load(SeqCst) == state.requests();
        wait::until("the endpoint to see it break off, and not to take half a body for a whole one", broke).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_request_along() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(version))).start().await;
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let state = &fleet.endpoints[0].state;
        let asking = tokio::spawn(async move { client.get("/hold").await.map(|_| ()) });
        wait::until("the request to arrive", || state.holding.load(SeqCst) == 1).await;
        asking.abort();
        wait::until("the endpoint to be told", || state.holding.load(SeqCst) == 0).await;
        counted(&sidecar, &["client_gone"]).await;
        wait::eventually("nothing in flight", || async {
            let in_flight = sidecar.metrics().await.sum("pathloom_endpoint_in_flight", &[]);
            if in_flight == 0.0 { Ok(()) } else { Err(in_flight) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_between_protocols_unchanged() {
    // HTTP/1.1 in and HTTP/2 out, and the other way round: lengths, chunks and frames are not the same thing.
    for (inside, outside) in [(Version::Http1, Version::Http2), (Version::Http2, Version::Http1)] {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol(outside))).start().await;
        let mut client = inside.connect(sidecar.address("in")).await.unwrap();
        for length in [0u64, 1, 16_384, 16_385, 65_535, 65_536, 3_000_000] {
            let sent = Request::post("/echo").header("x-test-id", length).body(body::patterned(length)).unwrap();
            let answer = wait::soon("the echo", client.exchange(sent)).await.unwrap();
            let mut checked = body::Checked::default();
            checked.take(answer.body());
            assert_eq!((checked.length, checked.wrong_at), (length, None), "{inside:?} to {outside:?}");
            assert_eq!(text(&answer, "x-test-id"), length.to_string());
            let sized = body::full(Bytes::from(vec![7; length as usize]));
            let answer = wait::soon("the echo", client.exchange(Request::post("/echo").body(sized).unwrap())).await;
            assert_eq!(answer.unwrap().body().len() as u64, length);
        }
        let http2 = fleet.endpoints[0].state.http2.load(SeqCst);
        assert_eq!(http2, if outside == Version::Http2 { fleet.requests() } else { 0 });
        for path in ["/bytes/70000", "/bytes/70000?length", "/bytes/0", "/bytes/0?length", "/status/204", "/status/304"]
        {
            let answer = wait::soon(path, client.get(path)).await.unwrap();
            let expected = if path.contains("7000") { 70_000 } else { 0 };
            assert_eq!(answer.body().len(), expected, "{path}");
        }
    }
}
