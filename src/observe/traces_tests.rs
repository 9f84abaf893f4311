//! Tests against an OTLP/HTTP receiver, a dead one and a hung one; OTLP over gRPC is spoken to a whole receiver end to end.

use super::super::access_line::tests::record;
use super::super::{AttemptRecord, Reason};
use super::*;
use crate::config::Otlp;
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
use std::time::SystemTime;

const SOON: Duration = Duration::from_secs(10);

fn config(endpoint: &str) -> config::Traces {
    config::Traces { otlp: endpoint.into(), ..config::Traces::default() }
}

fn over_grpc(endpoint: &str) -> config::Traces {
    config::Traces { protocol: Otlp::Grpc, ..config(endpoint) }
}

fn attempt() -> AttemptRecord<'static> {
    AttemptRecord {
        span_id: *b"00000000000000aa",
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_124),
        duration: Duration::from_millis(11),
        endpoint: ([10, 0, 0, 1], 80).into(),
        candidate: "10.0.0.1:80",
        status: Some(http::StatusCode::OK),
        grpc_status: None,
        reason: None,
        hedge: false,
        share: 0.75,
        score: Some(4.6),
        predicted_s: Some(0.0105),
        expected_s: 0.011,
        why: "predicted 10.0 ms at its fair share".into(),
    }
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
fn a_request_and_its_tries_arrive_at_the_collector_as_spans_below_each_other() {
    let (url, requests) = receiver();
    let traces = Traces::start(&config(&url), "node-7").unwrap();
    let refused = AttemptRecord {
        span_id: *b"00000000000000ab",
        endpoint: ([10, 0, 0, 2], 81).into(),
        candidate: "10.0.0.2:81",
        status: None,
        reason: Some(Reason::ConnectRefused),
        score: None,
        predicted_s: None,
        expected_s: f32::NAN,
        ..attempt()
    };
    traces.log(0, &AccessRecord { tries: &[refused, attempt()], attempts: 2, ..record() });
    traces.log(0, &AccessRecord { sampled: false, tries: &[attempt()], ..record() });
    assert!(traces.close(SOON));
    assert_eq!((traces.exported(), traces.dropped()), (3, 0));
    let request = requests.recv_timeout(SOON).unwrap();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    let named = |key: &str| resource.attributes.iter().find(|a| a.key == key).map(|a| text(a.value.clone()));
    assert_eq!(
        (named("service.name").unwrap(), named("service.instance.id").unwrap()),
        ("pathloom".into(), "node-7".into())
    );
    let [server, refused, answered] = &request.resource_spans[0].scope_spans[0].spans[..] else {
        panic!("{request:?}")
    };
    assert_eq!((server.name.as_str(), server.kind), ("GET catalog.shop/v2/*", 2), "2 is SERVER");
    assert_eq!(
        (&server.span_id, &server.parent_span_id),
        (&0xb7ad6b7169203331u64.to_be_bytes().to_vec(), &0x00f067aa0ba902b7u64.to_be_bytes().to_vec())
    );
    assert_eq!(
        (server.start_time_unix_nano, server.end_time_unix_nano - server.start_time_unix_nano),
        (1_700_000_000_123_000_000, 12_345_000)
    );
    assert_eq!(
        (answered.start_time_unix_nano, answered.end_time_unix_nano - answered.start_time_unix_nano),
        (1_700_000_000_124_000_000, 11_000_000)
    );
    for (span, id) in [(refused, 0xab_u64), (answered, 0xaa)] {
        assert_eq!((span.kind, &span.name, &span.trace_id), (3, &server.name, &server.trace_id), "3 is CLIENT");
        assert_eq!((&span.span_id[..], &span.parent_span_id), (&id.to_be_bytes()[..], &server.span_id));
    }
    assert_eq!(server.trace_id, 0x0af7651916cd43dd8448eb211c80319cu128.to_be_bytes());
    for (span, told) in [
        (
            server,
            &[
                ("http.request.method", "GET"),
                ("http.route", "catalog.shop/v2/*"),
                ("url.scheme", "http"),
                ("url.path", "/v2/things"),
                ("server.address", "catalog.shop"),
                ("http.response.status_code", "200"),
                ("network.protocol.version", "1.1"),
                ("client.address", "10.1.2.3"),
                ("pathloom.workload", "frontend"),
                ("pathloom.cluster", "catalog"),
                ("pathloom.generation", "41"),
                ("pathloom.policy", "model"),
                ("pathloom.attempts", "2"),
            ][..],
        ),
        (
            refused,
            &[
                ("error.type", "connect_refused"),
                ("network.peer.address", "10.0.0.2"),
                ("network.peer.port", "81"),
                ("pathloom.candidate", "10.0.0.2:81"),
                ("pathloom.outcome", "failed"),
            ],
        ),
        (
            answered,
            &[
                ("http.request.method", "GET"),
                ("url.full", "http://catalog.shop/v2/things"),
                ("http.response.status_code", "200"),
                ("http.request.resend_count", "1"),
                ("network.peer.address", "10.0.0.1"),
                ("pathloom.outcome", "answered"),
                ("pathloom.share", "0.7500"),
                ("pathloom.score", "4.6000"),
                ("pathloom.predicted_latency_s", "0.0105"),
                ("pathloom.expected_latency_s", "0.0110"),
                ("pathloom.generation", "41"),
                ("pathloom.reason", "predicted 10.0 ms at its fair share"),
            ],
        ),
    ] {
        for (key, value) in told {
            assert_eq!(attribute(span, key).as_deref(), Some(*value), "{key} of {}", span.kind);
        }
    }
    for (span, absent) in [
        (server, &["error.type", "rpc.system.name", "http.request.method_original", "url.query", "pathloom.share"][..]),
        (refused, &["http.request.resend_count", "pathloom.score", "pathloom.expected_latency_s"]),
        (answered, &["error.type", "pathloom.hedge"]),
    ] {
        for key in absent {
            assert_eq!(attribute(span, key), None, "{key} of {}", span.kind);
        }
    }
    let failed = |span: &Span| span.status.clone().unwrap_or_default().code == StatusCode::Error as i32;
    assert_eq!([server, refused, answered].map(failed), [false, true, false]);
}

#[test]
fn an_error_is_whose_it_is() {
    let spans = |record: &AccessRecord<'_>| {
        let scope = InstrumentationScope::builder("t").build();
        let all = FinishedSpan::all_of(record).into_iter().map(|span| {
            let dressed = dress(span, &scope);
            let kind = dressed.attributes.iter().find(|a| a.key.as_str() == "error.type").map(|a| a.value.to_string());
            (matches!(dressed.status, opentelemetry::trace::Status::Error { .. }), kind)
        });
        all.collect::<Vec<_>>()
    };
    let of = |status: u16, grpc_status: Option<u16>, reason: Option<Reason>| {
        let status = http::StatusCode::from_u16(status).ok();
        let tries = [AttemptRecord { status, grpc_status, ..attempt() }];
        spans(&AccessRecord { status, grpc_status, reason, grpc: grpc_status.is_some(), tries: &tries, ..record() })
    };
    let error = |kind: &str| (true, Some(kind.to_owned()));
    assert_eq!(of(404, None, None), [(false, None), error("404")], "the caller's fault");
    assert_eq!(of(500, None, None), [error("500"), error("500")]);
    assert_eq!(of(200, Some(5), None), [(false, None), error("NOT_FOUND")], "the caller's fault");
    assert_eq!(of(200, Some(14), None), [error("UNAVAILABLE"), error("UNAVAILABLE")]);
    assert_eq!(of(200, Some(0), None), [(false, None), (false, None)]);
    let refused = spans(&AccessRecord { status: None, reason: Some(Reason::NoRoute), ..record() });
    assert_eq!(refused, [error("no_route")]);
    let tries = [AttemptRecord { status: None, hedge: true, ..attempt() }];
    assert_eq!(spans(&AccessRecord { tries: &tries, ..record() }), [(false, None), (false, None)], "it was cancelled");
}

#[test]
fn what_a_queue_that_nobody_empties_cannot_hold_is_dropped_and_counted_one_by_one() {
    // No exporter at all: whoever waited for room here would wait for ever.
    let (spans, queue) = sync_channel(MAX_QUEUED);
    let traces = Traces { shared: Arc::default(), exporter: Some(spans) };
    let (done, over) = channel();
    std::thread::spawn(move || {
        for _ in 0..3 * MAX_QUEUED {
            traces.log(0, &record());
        }
        let counts = (traces.shared.queued.load(Relaxed), traces.dropped(), traces.exported());
        // Its drop would wait for an exporter's last words.
        std::mem::forget(traces);
        done.send(counts).unwrap();
    });
    let counts = over.recv_timeout(Duration::from_secs(60)).expect("a request waits for room in the queue");
    assert_eq!(counts, (MAX_QUEUED, 2 * MAX_QUEUED as u64, 0));
    assert_eq!(queue.try_iter().count(), MAX_QUEUED, "what came first is kept");
}

#[test]
fn a_dead_collector_costs_spans_and_nothing_else() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for config in [config(&format!("http://{dead}/v1/traces")), over_grpc(&format!("http://{dead}"))] {
        let traces = Traces::start(&config, "n").unwrap();
        for _ in 0..1_000 {
            traces.log(0, &record());
        }
        assert!(traces.close(SOON * 3));
        assert_eq!((traces.exported(), traces.dropped()), (0, 1_000), "{config:?}");
    }
}

#[test]
fn a_hung_collector_fills_the_queue_and_never_blocks_a_request() {
    // Connections wait in the kernel's queue, and nobody ever answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hung = format!("http://{}", hung.local_addr().unwrap());
    for config in [config(&format!("{hung}/v1/traces")), over_grpc(&hung)] {
        let traces = Traces::start(&config, "n").unwrap();
        traces.log(0, &record());
        traces.shared.wake.notify_one();
        while traces.shared.queued.load(Relaxed) > 0 {
            std::thread::yield_now();
        }
        for _ in 0..3 * MAX_QUEUED {
            traces.log(0, &record());
        }
        assert!(traces.dropped() >= MAX_QUEUED as u64, "{}", traces.dropped());
        assert!(!traces.close(Duration::from_millis(50)), "the collector holds the last batch");
    }
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
        [("ftp://c:4318/v1/traces", "neither with `http://`"), ("c:4318", "neither with `http://`"), ("http://[", "")]
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
    let span = FinishedSpan::all_of(&AccessRecord { method: &method, route: None, ..record() }).remove(0);
    let dressed = dress(span, &InstrumentationScope::builder("t").build());
    let original = dressed.attributes.iter().find(|a| a.key.as_str() == "http.request.method_original").unwrap();
    assert_eq!((dressed.name.as_ref(), original.value.as_str().as_ref()), ("HTTP", "FROB"));
    let no_ids = AccessRecord { trace_id: "00000000000000000000000000000000", ..record() };
    assert_eq!(FinishedSpan::all_of(&no_ids), []);
}
