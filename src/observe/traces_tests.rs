//! Tests against a real OTLP receiver, a dead one and a hung one.

use super::super::access_line::tests::record;
use super::*;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message;
use std::convert::Infallible;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn config(endpoint: &str) -> config::Traces {
    config::Traces { otlp: endpoint.into(), ..config::Traces::default() }
}

/// An OTLP/HTTP receiver on a thread of its own: its URL, and what arrives.
fn receiver() -> (String, Receiver<ExportTraceServiceRequest>) {
    let (arrived, requests) = channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let arrived = arrived.clone();
                let service = service_fn(move |request| receive(request, arrived.clone()));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(served.await) });
            }
        });
    });
    (url, requests)
}

async fn receive(
    request: Request<Incoming>,
    arrived: Sender<ExportTraceServiceRequest>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(
        (request.uri().path(), &request.headers()["content-type"]),
        ("/v1/traces", &"application/x-protobuf".parse().unwrap())
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let _ = arrived.send(ExportTraceServiceRequest::decode(body).unwrap());
    Ok(Response::new(Full::default()))
}

fn text(value: Option<AnyValue>) -> String {
    match value.unwrap().value.unwrap() {
        any_value::Value::StringValue(s) => s,
        any_value::Value::IntValue(i) => i.to_string(),
        any_value::Value::DoubleValue(d) => format!("{d:.4}"),
        other => format!("{other:?}"),
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    span.attributes.iter().find(|a| a.key == key).map(|a| text(a.value.clone()))
}

#[test]
fn spans_arrive_at_the_collector_with_their_attributes() {
    let (url, requests) = receiver();
    let traces = Traces::start(&config(&url), "node-7").unwrap();
    traces.log(0, &record());
    let failed =
        AccessRecord { status: None, reason: Some(super::super::Reason::ConnectTimeout), attempts: 3, ..record() };
    traces.log(0, &failed);
    traces.log(0, &AccessRecord { sampled: false, ..record() });
    assert!(traces.close(SOON));
    assert_eq!((traces.exported(), traces.dropped()), (2, 0));
    let request = requests.recv_timeout(SOON).unwrap();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    let named = |key: &str| resource.attributes.iter().find(|a| a.key == key).map(|a| text(a.value.clone()));
    assert_eq!(
        (named("service.name").unwrap(), named("service.instance.id").unwrap()),
        ("pathloom".into(), "node-7".into())
    );
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), 2);
    let span = &spans[0];
    assert_eq!((span.name.as_str(), span.kind), ("GET catalog.shop/v2/*", 3), "3 is CLIENT");
    assert_eq!(span.trace_id, 0x0af7651916cd43dd8448eb211c80319cu128.to_be_bytes());
    assert_eq!(
        (&span.span_id, &span.parent_span_id),
        (&0xb7ad6b7169203331u64.to_be_bytes().to_vec(), &0x00f067aa0ba902b7u64.to_be_bytes().to_vec())
    );
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano - span.start_time_unix_nano),
        (1_700_000_000_123_000_000, 12_345_000)
    );
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.full", "http://catalog.shop/v2/things"),
        ("server.address", "catalog.shop"),
        ("http.response.status_code", "200"),
        ("network.peer.address", "10.0.0.1"),
        ("network.peer.port", "80"),
        ("network.protocol.version", "1.1"),
        ("client.address", "10.1.2.3"),
        ("pathloom.cluster", "catalog"),
        ("pathloom.generation", "41"),
        ("pathloom.expected_latency_s", "0.0105"),
        ("pathloom.upstream_latency_s", "0.0110"),
        ("pathloom.policy", "model"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(value), "{key}");
    }
    for absent in ["error.type", "http.request.resend_count", "rpc.grpc.status_code", "http.request.method_original"] {
        assert_eq!(attribute(span, absent), None, "{absent}");
    }
    assert_ne!(span.status.clone().unwrap_or_default().code, StatusCode::Error as i32);
    let span = &spans[1];
    assert_eq!(attribute(span, "error.type").as_deref(), Some("connect_timeout"));
    assert_eq!(attribute(span, "http.request.resend_count").as_deref(), Some("2"));
    assert_eq!(span.status.as_ref().unwrap().code, StatusCode::Error as i32);
}

#[test]
fn a_dead_collector_costs_spans_and_no_time() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let traces = Traces::start(&config(&format!("http://{dead}/v1/traces")), "n").unwrap();
    let begun = Instant::now();
    for _ in 0..1_000 {
        traces.log(0, &record());
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(traces.close(SOON * 3));
    assert_eq!((traces.exported(), traces.dropped()), (0, 1_000));
}

#[test]
fn a_hung_collector_fills_the_queue_and_never_blocks_a_request() {
    // Connections wait in the kernel's queue, and nobody ever answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/traces", hung.local_addr().unwrap());
    let traces = Traces::start(&config(&url), "n").unwrap();
    traces.log(0, &record());
    traces.exporter.as_ref().unwrap().1.thread().unpark();
    while traces.shared.queued.load(Relaxed) > 0 {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    for _ in 0..3 * MAX_QUEUED {
        traces.log(0, &record());
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(traces.dropped() >= MAX_QUEUED as u64, "{}", traces.dropped());
    let begun = Instant::now();
    assert!(!traces.close(Duration::from_millis(50)), "the collector holds the last batch");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn without_a_collector_there_is_no_thread() {
    let traces = Traces::start(&config(" "), "n").unwrap();
    assert!(!traces.enabled());
    traces.log(0, &record());
    assert!(traces.close(Duration::ZERO));
    assert_eq!((traces.exported(), traces.dropped()), (0, 0));
}

#[test]
fn an_address_that_cannot_be_used_is_named() {
    for (endpoint, reason) in
        [("https://c:4318/v1/traces", "only `http://`"), ("c:4318", "only `http://`"), ("http://[", "")]
    {
        let error = Traces::start(&config(endpoint), "n").unwrap_err().to_string();
        assert!(
            error.contains(endpoint) && error.contains("telemetry.traces.otlp") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn a_method_that_a_client_made_up_names_no_span() {
    let method = http::Method::from_bytes(b"FROB").unwrap();
    let span = FinishedSpan::of(&AccessRecord { method: &method, route: None, ..record() }).unwrap();
    let dressed = dress(span, &InstrumentationScope::builder("t").build());
    let original = dressed.attributes.iter().find(|a| a.key.as_str() == "http.request.method_original").unwrap();
    assert_eq!((dressed.name.as_ref(), original.value.as_str().as_ref()), ("HTTP", "FROB"));
    let no_ids = AccessRecord { trace_id: "00000000000000000000000000000000", ..record() };
    assert_eq!(FinishedSpan::of(&no_ids), None);
}
