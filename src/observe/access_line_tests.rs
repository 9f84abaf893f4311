//! Tests of access log lines.

use super::*;
use http::{Method, StatusCode};
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

static NAMES: LazyLock<[Arc<str>; 3]> =
    LazyLock::new(|| ["frontend".into(), "catalog.shop/v2/*".into(), "catalog".into()]);

pub fn record() -> AccessRecord<'static> {
    let [workload, route, cluster] = &*NAMES;
    AccessRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        request_id: "r-1",
        trace_id: "0af7651916cd43dd8448eb211c80319c",
        span_id: "b7ad6b7169203331",
        parent_span_id: Some("00f067aa0ba902b7"),
        sampled: true,
        random: false,
        trace_state: "",
        client: [10, 1, 2, 3].into(),
        peer: "",
        listener: ([127, 0, 0, 1], 15001).into(),
        workload: Some(workload),
        route: Some(route),
        cluster: Some(cluster),
        endpoint: Some(([10, 0, 0, 1], 80).into()),
        method: &Method::GET,
        host: "catalog.shop",
        path: "/v2/things?q=1",
        protocol: Some(Version::HTTP_11),
        secure: false,
        grpc: false,
        upstream: Some((crate::config::Protocol::Http1, false)),
        tries: &[],
        status: Some(StatusCode::OK),
        grpc_status: None,
        reason: None,
        injected: None,
        attempts: 1,
        request_bytes: 0,
        response_bytes: 1234,
        duration: Duration::from_micros(12_345),
        upstream_latency: Some(Duration::from_micros(11_007)),
        expected_s: Some(0.0105),
        generation: 41,
        policy: Some(Policy::Model),
        affine: false,
        hedge: None,
        class: Some("critical"),
    }
}

fn line(write: fn(&mut Vec<u8>, &AccessRecord<'_>), record: &AccessRecord<'_>) -> String {
    let mut out = Vec::new();
    write(&mut out, record);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_client_that_has_proven_who_it_is_is_named() {
    let known = AccessRecord { peer: "spiffe://mesh/shop/a", ..record() };
    assert!(line(json, &known).contains(",\"peer\":\"spiffe://mesh/shop/a\","));
    assert!(line(text, &known).contains(" peer=spiffe://mesh/shop/a "));
    assert!(!line(json, &record()).contains("peer") && !line(text, &record()).contains("peer"));
}

#[test]
fn a_json_line_holds_every_field() {
    assert_eq!(
        line(json, &record()),
        "{\"time\":\"2023-11-14T22:13:20.123Z\",\"request_id\":\"r-1\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\"span_id\":\"b7ad6b7169203331\",\
         \"workload\":\"frontend\",\"route\":\"catalog.shop/v2/*\",\"cluster\":\"catalog\",\"client\":\"10.1.2.3\",\
         \"endpoint\":\"10.0.0.1:80\",\"method\":\"GET\",\"host\":\"catalog.shop\",\"path\":\"/v2/things?q=1\",\
         \"protocol\":\"HTTP/1.1\",\"status\":200,\"grpc_status\":null,\"reason\":null,\"injected\":null,\"attempts\":1,\"request_bytes\":0,\
         \"response_bytes\":1234,\"duration_ms\":12.345,\"upstream_ms\":11.007,\"expected_ms\":10.500,\"generation\":41,\
         \"policy\":\"model\",\"class\":\"critical\"}\n"
    );
}

#[test]
fn who_won_is_said_where_two_endpoints_were_asked() {
    let hedged = AccessRecord { hedge: Some(super::super::Hedged::Won), ..record() };
    assert!(line(json, &hedged).contains("\"injected\":null,\"hedge\":\"won\",\"attempts\""));
    assert!(line(text, &hedged).contains(" hedge=won policy="));
    assert!(!line(json, &record()).contains("hedge") && !line(text, &record()).contains("hedge"));
}

#[test]
fn what_was_done_on_purpose_and_who_chose_the_endpoint_is_said() {
    let delayed = AccessRecord { injected: Some("delay"), affine: true, ..record() };
    let shown = line(json, &delayed);
    assert!(shown.contains("\"injected\":\"delay\",") && shown.contains("\"policy\":\"affinity\""), "{shown}");
    let shown = line(text, &delayed);
    assert!(shown.contains(" injected=delay policy=affinity "), "{shown}");
    let nowhere = line(json, &AccessRecord { policy: None, ..delayed });
    assert!(nowhere.contains("\"policy\":null"), "{nowhere}");
}

#[test]
fn a_text_line_reads_from_left_to_right() {
    let failed = AccessRecord {
        trace_id: "",
        endpoint: None,
        cluster: None,
        status: None,
        grpc_status: Some(14),
        reason: Some(Reason::ClientGone),
        upstream_latency: None,
        expected_s: Some(f32::NAN),
        path: "/a b\n\u{1b}[31m",
        ..record()
    };
    assert_eq!(
        line(text, &failed),
        "2023-11-14T22:13:20.123Z frontend GET catalog.shop/a\\x20b\\x0a\\x1b[31m HTTP/1.1 -> - - - client_gone 12.345ms \
         attempts=1 in=0 out=1234 generation=41 grpc=14 policy=model class=critical route=catalog.shop/v2/* id=r-1\n"
    );
}

#[test]
fn a_text_line_ends_with_where_the_request_stands_in_its_trace() {
    let shown = line(text, &record());
    assert!(shown.ends_with(" id=r-1 trace=0af7651916cd43dd8448eb211c80319c span=b7ad6b7169203331\n"), "{shown}");
}

#[test]
fn policies_are_written_as_in_the_configuration() {
    for p in [Policy::Model, Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        assert_eq!(serde_json::to_value(p).unwrap(), policy(p));
    }
}

proptest! {
    #[test]
    fn whatever_clients_send_a_line_stays_one_valid_line(
        host in "\\PC*|[\\x00-\\x7f]*", path in any::<Vec<u8>>(), expected_s: f32, micros: u64
    ) {
        let path = String::from_utf8_lossy(&path);
        let hostile = AccessRecord {
            host: &host, path: &path, request_id: &path, trace_id: &host, expected_s: Some(expected_s), status: None,
            endpoint: None, duration: Duration::from_micros(micros), ..record()
        };
        let written = line(json, &hostile);
        prop_assert_eq!(written.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&written).unwrap();
        let back = |key: &str| value[key].as_str().unwrap_or("").to_owned();
        prop_assert_eq!((back("host"), back("path")), (host.clone(), path.to_string()));
        prop_assert!(value["status"].is_null() && value["endpoint"].is_null());
        let words = line(text, &hostile);
        prop_assert!(words.trim_end_matches('\n').bytes().all(|b| (b' '..=b'~').contains(&b)), "{}", words);
    }
}
