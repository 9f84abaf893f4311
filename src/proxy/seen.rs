//! Which of the headers that a proxy looks at a message has: noted once, while it is read, so that nobody looks for one that
//! is not there.

use crate::links::orca;
#[cfg(test)]
use http::HeaderMap;
use http::{HeaderName, HeaderValue};

/// Which headers one pass found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub hosts: u32,
    pub lengths: u32,
    pub codings: u32,
    pub cookies: u32,
    pub connection: bool,
    pub te: bool,
    pub upgrade: bool,
    pub expect: bool,
    pub via: bool,
    pub hop: bool,
    pub forwarded_for: bool,
    pub forwarded_host: bool,
    pub forwarded_proto: bool,
    pub request_id: bool,
    pub traceparent: bool,
    /// `b3`, or one of `x-b3-*`.
    pub b3: bool,
    pub load_metrics: bool,
    pub grpc_status: bool,
    pub grpc: bool,
    pub grpc_timeout: bool,
    pub retry_after: bool,
    pub date: bool,
    pub class: bool,
    pub depth: bool,
    pub client_cert: bool,
}

impl Seen {
    #[cfg(test)]
    pub(super) fn in_headers(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        headers.iter().for_each(|(name, value)| seen.note(name, value));
        seen
    }

    /// Takes note of one more.
    pub(super) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        let name = name.as_str();
        // By length first: a chain of string comparisons costs more than the rest of the request's routing.
        match name.len() {
            2 if name == "te" => self.te = true,
            2 => self.b3 |= name == "b3",
            3 => self.via |= name == "via",
            4 if name == "host" => self.hosts += 1,
            4 => self.date |= name == "date",
            6 if name == "cookie" => self.cookies += 1,
            6 => self.expect |= name == "expect",
            7 => self.upgrade |= name == "upgrade",
            10 if name == "connection" => self.connection = true,
            10 if name == "keep-alive" => self.hop = true,
            10 => self.b3 |= name == "x-b3-flags",
            11 if name == "traceparent" => self.traceparent = true,
            11 if name == "grpc-status" => self.grpc_status = true,
            11 if name == "retry-after" => self.retry_after = true,
            11 => self.b3 |= name == "x-b3-spanid",
            12 if name == "content-type" => self.grpc = is_grpc(value),
            12 if name == "grpc-timeout" => self.grpc_timeout = true,
            12 if name == "x-request-id" => self.request_id = true,
            12 => self.b3 |= name == "x-b3-traceid" || name == "x-b3-sampled",
            14 if name == "content-length" => self.lengths += 1,
            14 => self.hop |= name == "http2-settings",
            15 => self.forwarded_for |= name == "x-forwarded-for",
            16 if name == "x-forwarded-host" => self.forwarded_host = true,
            16 if name == "x-pathloom-class" => self.class = true,
            16 if name == "x-pathloom-depth" => self.depth = true,
            16 => self.hop |= name == "proxy-connection",
            17 if name == "transfer-encoding" => self.codings += 1,
            17 if name == "x-forwarded-proto" => self.forwarded_proto = true,
            17 => self.b3 |= name == "x-b3-parentspanid",
            22 => self.retry_after |= name == "grpc-retry-pushback-ms",
            23 => self.client_cert |= name == "x-forwarded-client-cert",
            21 | 25 => self.load_metrics |= name == orca::HEADER || name == orca::HEADER_BIN,
            _ => {}
        }
    }
}

/// `application/grpc`, with or without `+proto` and the like; `application/grpc-web` is another protocol.
fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_grpc_web() {
        let grpc = |text: &'static str| is_grpc(&HeaderValue::from_static(text));
        assert!(grpc("application/grpc") && grpc("application/grpc+proto") && grpc("application/grpc;x=1"));
        assert!(!grpc("application/grpc-web") && !grpc("application/json"));
    }
}
