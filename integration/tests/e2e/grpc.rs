//! A real gRPC client and server with the sidecar between them: the bodies, which `fleet_itself` holds against the
//! fleet alone.

use crate::{catalog, sidecar};
use futures_util::stream;
use pathloom_integration::client::grpc::Client;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::fleet::grpc::Number;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::wait;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Request};

/// All four kinds of call, and how each may fail.
pub async fn every_kind_of_call(address: SocketAddr) {
    let mut client = Client::connect(address).await.unwrap();

    let mut request = Request::new(Number { value: 21, note: "ünïcode".into() });
    request.metadata_mut().insert("x-tag", "seen".parse().unwrap());
    let response = wait::soon("a unary call", client.unary("/test.Numbers/Double", request)).await.unwrap();
    assert_eq!(response.metadata().get("x-tag").map(|v| v.as_bytes()), Some(&b"seen"[..]));
    assert_eq!(response.into_inner(), Number { value: 42, note: "ünïcode".into() });

    let zero = client.unary("/test.Numbers/Double", Request::new(Number::of(0)));
    let status = wait::soon("a failing call", zero).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message(), status.details()),
        (Code::InvalidArgument, "zero: ünd %", &[1, 2, 3][..])
    );
    assert_eq!(status.metadata().get("x-why").map(|v| v.as_bytes()), Some(&b"because"[..]));
    let unknown = client.unary("/test.Numbers/Nothing", Request::new(Number::of(1)));
    assert_eq!(wait::soon("an unknown call", unknown).await.unwrap_err().code(), Code::Unimplemented);

    let (numbers, end) = wait::soon("a stream", client.count_to(Number::of(5_000))).await.unwrap();
    assert!(numbers.iter().copied().eq(1..=5_000) && end.is_none(), "{end:?}");
    let broken = Number { value: 10, note: "break".into() };
    let (numbers, end) = wait::soon("a stream that fails", client.count_to(broken)).await.unwrap();
    assert!(numbers.iter().copied().eq(1..=5), "{numbers:?}");
    assert_eq!(end.map(|s| (s.code(), s.message().to_owned())), Some((Code::Aborted, "half way".to_owned())));

    let sum = wait::soon("an upload", client.sum(stream::iter((1..=5_000).map(Number::of)))).await.unwrap();
    assert_eq!(sum, 5_000 * 5_001 / 2);

    // Each number comes back before the next is sent: nobody on the way waits for more.
    let (sender, receiver) = mpsc::channel(1);
    let sent = stream::unfold(receiver, |mut r| async { r.recv().await.map(|n| (n, r)) });
    let mut echo = wait::soon("a conversation", client.echo(sent)).await.unwrap();
    for n in 1..=100 {
        sender.send(Number::of(n)).await.unwrap();
        let back = wait::soon("an echo", echo.message()).await.unwrap();
        assert_eq!(back.map(|b| b.value), Some(n));
    }
    drop(sender);
    assert!(wait::soon("the end", echo.message()).await.unwrap().is_none());
}

/// A call that takes longer than its caller wants to wait.
pub async fn a_deadline(address: SocketAddr) {
    let mut client = Client::connect(address).await.unwrap();
    let mut request = Request::new(Number::of(1));
    request.set_timeout(Duration::from_millis(200));
    let status = wait::soon("the deadline", client.unary("/test.Numbers/Never", request)).await.unwrap_err();
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()), "{status:?}");
}

fn grpc_catalog(endpoints: &str) -> String {
    catalog(endpoints, "protocol: http2")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_grpc_call_works_and_fails_as_without_the_sidecar() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(grpc_catalog(&fleet.yaml())).start().await;
    every_kind_of_call(sidecar.address("in")).await;
    // What each came to, as calls beside the requests that they are.
    for (status, server_error, client_error, calls) in [
        ("OK", None, None, 4.0),
        ("INVALID_ARGUMENT", None, Some("INVALID_ARGUMENT"), 1.0),
        ("UNIMPLEMENTED", Some("UNIMPLEMENTED"), Some("UNIMPLEMENTED"), 1.0),
        ("ABORTED", None, Some("ABORTED"), 1.0),
    ] {
        for (name, error, route) in [
            ("rpc_server_call_duration_seconds_count", server_error, Some("*")),
            ("rpc_client_call_duration_seconds_count", client_error, None),
        ] {
            let labels = [("cluster", "catalog"), ("rpc_system_name", "grpc"), ("rpc_response_status_code", status)];
            let counted = |metrics: &Metrics| metrics.sum(name, &labels);
            sidecar.counted(counted, calls).await;
            let metrics = sidecar.metrics().await;
            let all = metrics.0.iter().filter(|s| s.name == name && s.labels["rpc_response_status_code"] == status);
            for labels in all.map(|sample| &sample.labels) {
                assert_eq!(labels.get("error_type").map(String::as_str), error, "{labels:?}");
                assert_eq!(labels.get("http_route").map(String::as_str), route, "{labels:?}");
                assert!(!labels.contains_key("rpc_method"), "a client can make it up: {labels:?}");
            }
        }
    }
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_deadline_ends_the_call_on_both_sides() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(grpc_catalog(&fleet.yaml())).start().await;
    a_deadline(sidecar.address("in")).await;
    let state = &fleet.endpoints[0].state;
    wait::until("the server to be told", || state.cancelled.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_clients_get_a_grpc_status_when_the_sidecar_answers_itself() {
    let sidecar = sidecar(grpc_catalog("[]")).start().await;
    let mut client = Client::connect(sidecar.address("in")).await.unwrap();
    let call = client.unary("/test.Numbers/Double", Request::new(Number::of(1)));
    let status = wait::soon("an answer", call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("no_endpoints"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_in_flight_finish_while_endpoints_change() {
    let fleet = Fleet::start(2).await;
    let mut sidecar = sidecar(grpc_catalog(&fleet.yaml())).start().await;
    let mut client = Client::connect(sidecar.address("in")).await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let sent = stream::unfold(receiver, |mut r| async { r.recv().await.map(|n| (n, r)) });
    let mut echo = wait::soon("a conversation", client.echo(sent)).await.unwrap();
    sender.send(Number::of(1)).await.unwrap();
    assert_eq!(wait::soon("an echo", echo.message()).await.unwrap().map(|n| n.value), Some(1));
    let serving = fleet.endpoints.iter().position(|e| e.state.requests() == 1).unwrap();
    let other = pathloom_integration::fleet::list([fleet.endpoints[1 - serving].address]);
    sidecar.reload_and_wait(&grpc_catalog(&other)).await;
    wait::eventually("the endpoint to be out of the table", || async {
        let now = sidecar.candidates("catalog").await;
        if now.len() == 1 { Ok(()) } else { Err(now.len()) }
    })
    .await;
    for n in 2..50 {
        sender.send(Number::of(n)).await.unwrap();
        assert_eq!(wait::soon("an echo", echo.message()).await.unwrap().map(|m| m.value), Some(n));
    }
    drop(sender);
    assert!(wait::soon("the end", echo.message()).await.unwrap().is_none());
    let double = client.unary("/test.Numbers/Double", Request::new(Number::of(4)));
    assert_eq!(wait::soon("a call", double).await.unwrap().into_inner().value, 8);
    assert_eq!(fleet.endpoints[1 - serving].state.requests(), 1, "the new call goes to the endpoint that is left");
}
