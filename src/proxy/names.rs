//! Names and values of headers that are not in `http`'s own list, made once.

use http::{HeaderName, HeaderValue};

macro_rules! names {
    ($($constant:ident = $name:literal;)+) => { $(pub(super) const $constant: HeaderName = HeaderName::from_static($name);)+ };
}

names! {
    KEEP_ALIVE = "keep-alive";
    PROXY_CONNECTION = "proxy-connection";
    HTTP2_SETTINGS = "http2-settings";
    X_FORWARDED_FOR = "x-forwarded-for";
    X_FORWARDED_HOST = "x-forwarded-host";
    X_FORWARDED_PROTO = "x-forwarded-proto";
    X_REQUEST_ID = "x-request-id";
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert";
    X_MIRRORED = "x-mirrored";
    TRACEPARENT = "traceparent";
    TRACESTATE = "tracestate";
    B3 = "b3";
    X_B3_TRACE_ID = "x-b3-traceid";
    X_B3_SPAN_ID = "x-b3-spanid";
    X_B3_PARENT_SPAN_ID = "x-b3-parentspanid";
    X_B3_SAMPLED = "x-b3-sampled";
    X_B3_FLAGS = "x-b3-flags";
    ENDPOINT_LOAD_METRICS = "endpoint-load-metrics";
    ENDPOINT_LOAD_METRICS_BIN = "endpoint-load-metrics-bin";
    GRPC_STATUS = "grpc-status";
    GRPC_TIMEOUT = "grpc-timeout";
    GRPC_PUSHBACK = "grpc-retry-pushback-ms";
    X_PATHLOOM_CLASS = "x-pathloom-class";
    X_PATHLOOM_DEPTH = "x-pathloom-depth";
}

pub(super) const HTTP: HeaderValue = HeaderValue::from_static("http");
pub(super) const HTTPS: HeaderValue = HeaderValue::from_static("https");
pub(super) const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
pub(super) const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
pub(super) const ZERO: HeaderValue = HeaderValue::from_static("0");
pub(super) const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");
pub(super) const TE_OPTION: HeaderValue = HeaderValue::from_static("te");
pub(super) const VIA_10: HeaderValue = HeaderValue::from_static("1.0 pathloom");
pub(super) const VIA_11: HeaderValue = HeaderValue::from_static("1.1 pathloom");
pub(super) const VIA_20: HeaderValue = HeaderValue::from_static("2 pathloom");
