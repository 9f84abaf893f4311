//! The fleet without a sidecar: it does what its scripts say, so that a failure elsewhere is the sidecar's.

use http::Request;
use pathloom_integration::body::{self, drain};
use pathloom_integration::client::foreign;
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::{Fleet, counting::CountingEndpoint};
use pathloom_integration::load::{Load, flood};
use pathloom_integration::wait;
use std::sync::atomic::Ordering::SeqCst;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_do_what_they_say_on_both_protocols() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let address = fleet.endpoints[0].address;
        let mut client = version.connect(address).await.unwrap();
        let sent = Request::post("/sink").body(body::patterned(3_000_000)).unwrap();
        assert_eq!(client.exchange(sent).await.unwrap().body().as_ref(), b"3000000 ok");
        let sent = Request::post("/echo").header("x-test-id", 7).body(body::full("hello")).unwrap();
        let answer = client.exchange(sent).await.unwrap();
        assert_eq!(
            (answer.body().as_ref(), text(&answer, "x-test-id"), text(&answer, "x-endpoint")),
            (&b"hello"[..], "7", "0")
        );
        assert_eq!(fleet.journal.of(7), [0]);
        let request = Request::get("/trailers/10").header("te", "trailers").body(body::empty()).unwrap();
        let (_, trailers, _) = drain(client.send(request).await.unwrap().into_body()).await;
        assert_eq!(trailers.unwrap()["x-check"], "10");
        assert_eq!(client.get("/status/418").await.unwrap().status(), 418);
        assert_eq!(client.get("/bytes/123?length").await.unwrap().body().len(), 123);
        let broken = client.send(Request::get("/break/1000").body(body::empty()).unwrap()).await.unwrap();
        assert!(drain(broken.into_body()).await.2.is_some());
        let http2 = fleet.endpoints[0].state.http2.load(SeqCst);
        assert_eq!(http2 > 0, version == Version::Http2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_can_be_stopped_and_started_again() {
    let mut fleet = Fleet::start(1).await;
    let address = fleet.endpoints[0].address;
    let mut client = Version::Http1.connect(address).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    let held = tokio::spawn(async move { client.get("/hold").await.map(|_| ()) });
    wait::until("the request to be held", || fleet.holding() == 1).await;
    fleet.endpoints[0].stop().await;
    assert!(wait::soon("the held request", held).await.unwrap().is_err());
    assert!(Version::Http1.connect(address).await.is_err());
    fleet.endpoints[0].start_again().await;
    assert_eq!(Version::Http1.connect(address).await.unwrap().get("/").await.unwrap().status(), 200);
    assert_eq!(fleet.endpoints[0].state.cancelled.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_a_load_is_accounted_for() {
    for version in VERSIONS {
        let fleet = Fleet::start(1).await;
        let load = Load::start(version, fleet.endpoints[0].address, 8, "/").await;
        load.further(500).await;
        load.pass().await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
    }
    let counting = CountingEndpoint::start().await;
    assert_eq!(flood(Version::Http1, counting.address(), 8, 1_003).await, 1_003);
    assert_eq!(counting.requests(), 1_003);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_and_upgrades_work_without_a_sidecar() {
    let fleet = Fleet::start(1).await;
    let address = fleet.endpoints[0].address;
    crate::grpc::every_kind_of_call(address).await;
    crate::grpc::a_deadline(address).await;
    crate::upgrades::websocket(address).await;
    crate::upgrades::another_protocol(address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_is_content_without_a_sidecar() {
    let Some(curl) = foreign::curl() else { return };
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("upload");
    std::fs::write(&file, body::piece(0, 1 << 20)).unwrap();
    crate::foreign_clients::curl_is_content(&curl, fleet.endpoints[0].address, &file).await;
}
