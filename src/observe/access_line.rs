//! How an access log line is written: one JSON object, or words for people.
//!
//! Host, path, method and ids come from clients. Whatever bytes they hold, a JSON line is one valid JSON object on one
//! line, and a text line stays one line of printable words. Nothing here allocates beyond the buffer's growth.

use super::{AccessRecord, Hedged, Reason, stamp};
use crate::config::{Policy, without_secrets};
use http::Version;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const HEX: &[u8; 16] = b"0123456789abcdef";
const NULL: &[u8] = b"null";

/// One JSON object and a line's end. What is unknown is null, but for the peer and the hedge, which are there where they are known.
pub fn json(out: &mut Vec<u8>, r: &AccessRecord<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(&stamp(r.time));
    out.push(b'"');
    for (key, text) in [
        ("request_id", r.request_id),
        ("trace_id", r.trace_id),
        ("span_id", r.span_id),
        ("workload", of(r.workload)),
        ("route", of(r.route)),
        ("cluster", of(r.cluster)),
    ] {
        string_field(out, key, text);
    }
    displayed(out, "client", Some(r.client));
    if !r.peer.is_empty() {
        string_field(out, "peer", r.peer);
    }
    displayed(out, "endpoint", r.endpoint);
    for (key, text) in [
        ("method", method(r)),
        ("host", r.host),
        ("path", &without_secrets(r.path)),
        ("protocol", protocol(r.protocol)),
    ] {
        string_field(out, key, text);
    }
    optional_integer(out, "status", r.status.map(|s| s.as_u16()));
    optional_integer(out, "grpc_status", r.grpc_status);
    string_field(out, "reason", r.reason.map_or("", Reason::code));
    string_field(out, "injected", r.injected.unwrap_or_default());
    if let Some(hedge) = r.hedge {
        string_field(out, "hedge", hedge.as_str());
    }
    for (key, value) in
        [("attempts", u64::from(r.attempts)), ("request_bytes", r.request_bytes), ("response_bytes", r.response_bytes)]
    {
        name(out, key);
        integer(out, value);
    }
    for (key, span) in
        [("duration_ms", Some(r.duration)), ("upstream_ms", r.upstream_latency), ("expected_ms", span(r.expected_s))]
    {
        name(out, key);
        match span {
            Some(span) => milliseconds(out, span),
            None => out.extend_from_slice(NULL),
        }
    }
    name(out, "generation");
    integer(out, r.generation);
    string_field(out, "policy", chosen_by(r));
    string_field(out, "class", r.class.unwrap_or_default());
    out.extend_from_slice(b"}\n");
}

/// Words: when, who, what, where to, how it ended, how long it took.
pub fn text(out: &mut Vec<u8>, r: &AccessRecord<'_>) {
    out.extend_from_slice(&stamp(r.time));
    labelled(out, "", of(r.workload));
    labelled(out, "", method(r));
    labelled(out, "", r.host);
    printable(out, &without_secrets(r.path));
    labelled(out, "", protocol(r.protocol));
    labelled(out, "-> ", of(r.cluster));
    out.push(b' ');
    match r.endpoint {
        Some(address) => {
            let _ = write!(out, "{address}");
        }
        None => out.push(b'-'),
    }
    out.push(b' ');
    match r.status {
        Some(status) => integer(out, u64::from(status.as_u16())),
        None => out.push(b'-'),
    }
    r.reason.into_iter().for_each(|reason| labelled(out, "", reason.code()));
    for (label, span) in
        [(" ", Some(r.duration)), (" upstream=", r.upstream_latency), (" expected=", span(r.expected_s))]
    {
        if let Some(span) = span {
            out.extend_from_slice(label.as_bytes());
            milliseconds(out, span);
            out.extend_from_slice(b"ms");
        }
    }
    for (label, count) in [
        (" attempts=", u64::from(r.attempts)),
        (" in=", r.request_bytes),
        (" out=", r.response_bytes),
        (" generation=", r.generation),
    ] {
        out.extend_from_slice(label.as_bytes());
        integer(out, count);
    }
    if let Some(status) = r.grpc_status {
        out.extend_from_slice(b" grpc=");
        integer(out, u64::from(status));
    }
    for (label, word) in [
        ("injected=", r.injected.unwrap_or_default()),
        ("hedge=", r.hedge.map_or("", Hedged::as_str)),
        ("policy=", chosen_by(r)),
        ("class=", r.class.unwrap_or_default()),
        ("route=", of(r.route)),
        ("peer=", r.peer),
        ("id=", r.request_id),
        ("trace=", r.trace_id),
        // Of a trace that is none it would say nothing.
        ("span=", if r.trace_id.is_empty() { "" } else { r.span_id }),
    ] {
        if !word.is_empty() {
            labelled(out, label, word);
        }
    }
    out.push(b'\n');
}

/// What chose the endpoint, where one was chosen.
fn chosen_by(r: &AccessRecord<'_>) -> &'static str {
    match r.policy {
        Some(_) if r.affine => "affinity",
        Some(of) => policy(of),
        None => "",
    }
}

fn of(name: Option<&Arc<str>>) -> &str {
    name.map_or("", |n| n)
}

/// The method; a connection has none.
fn method<'a>(r: &AccessRecord<'a>) -> &'a str {
    r.protocol.map_or("", |_| r.method.as_str())
}

/// The protocol as clients and RFC 9110 write it.
pub fn protocol(version: Option<Version>) -> &'static str {
    let Some(version) = version else { return "TCP" };
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "",
    }
}

/// The policy as the configuration writes it.
pub fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Model => "model",
        Policy::PeakEwma => "peak_ewma",
        Policy::LeastRequest => "least_request",
        Policy::RoundRobin => "round_robin",
        Policy::Random => "random",
    }
}

/// The seconds as a span; `None` where they are unknown.
fn span(seconds: Option<f32>) -> Option<Duration> {
    Duration::try_from_secs_f32(seconds?).ok()
}

fn name(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn displayed(out: &mut Vec<u8>, key: &str, address: Option<impl std::fmt::Display>) {
    name(out, key);
    match address {
        Some(address) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "\"{address}\"");
        }
        None => out.extend_from_slice(NULL),
    }
}

fn optional_integer(out: &mut Vec<u8>, key: &str, value: Option<u16>) {
    name(out, key);
    match value {
        Some(value) => integer(out, u64::from(value)),
        None => out.extend_from_slice(NULL),
    }
}

/// A string, or null where it is empty: no field here is known to be empty.
fn string_field(out: &mut Vec<u8>, key: &str, text: &str) {
    name(out, key);
    if text.is_empty() {
        return out.extend_from_slice(NULL);
    }
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 | 0x7f => {
                out.extend_from_slice(b"\\u00");
                hex(out, byte);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn labelled(out: &mut Vec<u8>, label: &str, word: &str) {
    out.push(b' ');
    out.extend_from_slice(label.as_bytes());
    printable(out, if word.is_empty() { "-" } else { word });
}

/// The word with everything escaped that could end it, its line, or the sense of a terminal.
fn printable(out: &mut Vec<u8>, word: &str) {
    for byte in word.bytes() {
        match byte {
            b'!'..=b'[' | b']'..=b'~' => out.push(byte),
            _ => {
                out.extend_from_slice(b"\\x");
                hex(out, byte);
            }
        }
    }
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| HEX.get(usize::from(*digit))));
}

fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three digits behind the point.
fn milliseconds(out: &mut Vec<u8>, span: Duration) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    integer(out, micros / 1_000);
    let rest = micros % 1_000;
    out.extend([b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8]);
}

#[cfg(test)]
#[path = "access_line_tests.rs"]
pub mod tests;
