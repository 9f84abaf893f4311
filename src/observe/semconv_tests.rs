//! What spans say of gRPC calls and of whom was asked, attribute by attribute.

use super::super::access_line::tests::record;
use super::super::{AccessRecord, AttemptRecord, Reason};
use super::*;
use http::StatusCode;
use std::time::{Duration, SystemTime};

const RPC: [&str; 4] = ["rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type"];
const SERVER: [&str; 4] = ["server.address", "server.port", "network.peer.address", "network.peer.port"];

fn attempt() -> AttemptRecord<'static> {
    AttemptRecord {
        span_id: *b"00000000000000aa",
        started: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(11),
        endpoint: ([10, 0, 0, 1], 8080).into(),
        candidate: "10.0.0.1:8080",
        status: Some(StatusCode::OK),
        grpc_status: None,
        reason: None,
        hedge: false,
        share: 1.0,
        score: None,
        predicted_s: None,
        expected_s: 0.011,
        why: "".into(),
    }
}

/// The spans of a request, dressed.
fn dressed(record: &AccessRecord<'_>) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder("t").build();
    FinishedSpan::all_of(record).into_iter().map(|span| dress(span, &scope)).collect()
}

fn of(span: &SpanData, keys: [&str; 4]) -> [Option<String>; 4] {
    keys.map(|key| {
        let mut told = span.attributes.iter().filter(|a| a.key.as_str() == key).map(|a| a.value.to_string());
        let first = told.next();
        assert_eq!(told.next(), None, "{key} is told twice");
        first
    })
}

fn words(words: [&str; 4]) -> [Option<String>; 4] {
    words.map(|word| Some(word.to_owned()).filter(|word| !word.is_empty()))
}

/// Both spans of a call with this gRPC status, and the attributes by which they are told.
fn call(grpc_status: Option<u16>, reason: Option<Reason>) -> [[Option<String>; 4]; 2] {
    let tries = [AttemptRecord { grpc_status, reason, ..attempt() }];
    let (path, status) = ("/shop.Catalog/List?page=2", Some(StatusCode::OK));
    let spans = dressed(&AccessRecord { path, grpc: true, status, grpc_status, reason, tries: &tries, ..record() });
    let [server, client] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&server.span_kind, &client.span_kind), (&SpanKind::Server, &SpanKind::Client));
    assert_eq!((server.name.as_ref(), client.name.as_ref()), ("shop.Catalog/List", "shop.Catalog/List"));
    [of(server, RPC), of(client, RPC)]
}

#[test]
fn a_call_that_ends_well_is_told_by_system_method_and_status_on_both_spans() {
    let well = words(["grpc", "shop.Catalog/List", "OK", ""]);
    assert_eq!(call(Some(0), None), [well.clone(), well]);
}

#[test]
fn a_call_that_fails_is_told_by_its_status_on_both_spans_and_is_an_error_of_whose_it_is() {
    let told = |status: &str, error: &str| words(["grpc", "shop.Catalog/List", status, error]);
    assert_eq!(call(Some(14), None), [told("UNAVAILABLE", "UNAVAILABLE"), told("UNAVAILABLE", "UNAVAILABLE")]);
    assert_eq!(call(Some(5), None), [told("NOT_FOUND", ""), told("NOT_FOUND", "NOT_FOUND")], "the caller's fault");
    let late = told("DEADLINE_EXCEEDED", "response_timeout");
    assert_eq!(call(Some(4), Some(Reason::ResponseTimeout)), [late.clone(), late], "a reason says more");
    assert_eq!(call(Some(99), None), [told("99", ""), told("99", "99")], "a status that gRPC does not have");
    let without = call(None, Some(Reason::UpstreamReset));
    let broken = told("", "upstream_reset");
    assert_eq!(without, [broken.clone(), broken], "no status came");
}

#[test]
fn what_is_no_call_has_no_attribute_of_one() {
    let spans = dressed(&AccessRecord { tries: &[attempt()], ..record() });
    assert_eq!(spans.len(), 2);
    for span in spans {
        assert_eq!(of(&span, RPC), [None, None, None, None]);
    }
}

#[test]
fn whom_a_request_asks_for_has_a_port_and_the_endpoint_its_own() {
    let told = |host: &str, secure: bool, upstream: bool| {
        let upstream = Some((Protocol::Http1, upstream));
        let spans = dressed(&AccessRecord { host, secure, upstream, tries: &[attempt()], ..record() });
        let [server, client] = &spans[..] else { panic!("{spans:?}") };
        [of(server, SERVER), of(client, SERVER)]
    };
    let server = |address, port| words([address, port, "", ""]);
    let client = |address, port| words([address, port, "10.0.0.1", "8080"]);
    let plain = told("catalog.shop", false, false);
    assert_eq!(plain, [server("catalog.shop", "80"), client("catalog.shop", "80")]);
    let by_tls = told("catalog.shop", false, true);
    assert_eq!(by_tls, [server("catalog.shop", "80"), client("catalog.shop", "443")], "each by its own scheme");
    assert_eq!(told("catalog.shop", true, false)[0], server("catalog.shop", "443"));
    let named = told("catalog.shop:9000", true, true);
    assert_eq!(named, [server("catalog.shop", "9000"), client("catalog.shop", "9000")]);
    assert_eq!(told("[2001:db8::1]:81", false, false)[1], client("2001:db8::1", "81"));
    assert_eq!(told("[2001:db8::1]", false, false)[1], client("2001:db8::1", "80"));
    let nobody = told("", false, false);
    assert_eq!(nobody, [server("", ""), client("10.0.0.1", "8080")], "a client always says whom it asked");
}

#[test]
fn spans_have_the_tracestate_and_the_flags_of_their_trace() {
    let told = |trace_state: &'static str, random: bool| {
        let spans = dressed(&AccessRecord { trace_state, random, tries: &[attempt()], ..record() });
        assert_eq!(spans.len(), 2);
        let of = |span: &SpanData| (span.span_context.trace_state().header(), span.span_context.trace_flags().to_u8());
        assert_eq!(of(&spans[0]), of(&spans[1]));
        of(&spans[0])
    };
    assert_eq!(told("ot=th:8,vendor=a b", true), ("ot=th:8,vendor=a b".to_owned(), 3));
    assert_eq!(told("", false), (String::new(), 1));
    assert_eq!(told("no state", false), (String::new(), 1), "what is none is told nowhere");
}
