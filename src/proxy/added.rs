//! What every request gets on top of what it brought: who asked, for whom, over what, and its place in a trace.
//!
//! Kept beside the request's headers and not put among them: towards HTTP/1.1 endpoints it is written behind them,
//! which costs a fifth of what a map asks for.

use super::headers::Seen;
use super::names::{
    HTTP, TRACEPARENT, VIA_10, VIA_11, VIA_20, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

/// The headers that a request gets. Of those that may stand once, the request has none any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added<'a> {
    /// The client's address.
    pub client: &'a HeaderValue,
    /// The authority that it asked for.
    pub host: &'a HeaderValue,
    /// What it said itself.
    pub seen: &'a Seen,
    /// How it said it.
    pub version: Version,
    /// The request's id, where the request does not bring it.
    pub request_id: Option<&'a HeaderValue>,
    pub traceparent: &'a [u8],
}

/// A header that is added: its name, and how it begins on the wire behind another line.
struct Line(HeaderName, &'static [u8]);

const FORWARDED_FOR: Line = Line(X_FORWARDED_FOR, b"\r\nx-forwarded-for: ");
const FORWARDED_HOST: Line = Line(X_FORWARDED_HOST, b"\r\nx-forwarded-host: ");
const FORWARDED_PROTO: Line = Line(X_FORWARDED_PROTO, b"\r\nx-forwarded-proto: ");
const BY_WAY_OF: Line = Line(VIA, b"\r\nvia: ");
const REQUEST_ID: Line = Line(X_REQUEST_ID, b"\r\nx-request-id: ");
const TRACE: Line = Line(TRACEPARENT, b"\r\ntraceparent: ");

impl Added<'_> {
    fn each(&self, mut give: impl FnMut(&Line, &[u8])) {
        if !self.seen.forwarded_for {
            give(&FORWARDED_FOR, self.client.as_bytes());
        }
        if !self.seen.forwarded_host {
            give(&FORWARDED_HOST, self.host.as_bytes());
        }
        if !self.seen.forwarded_proto {
            give(&FORWARDED_PROTO, HTTP.as_bytes());
        }
        give(&BY_WAY_OF, via(self.version).as_bytes());
        if let Some(id) = self.request_id {
            give(&REQUEST_ID, id.as_bytes());
        }
        give(&TRACE, self.traceparent);
    }

    /// Writes them as lines that begin with the end of the line before.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.each(|Line(_, begin), value| {
            out.extend_from_slice(begin);
            out.extend_from_slice(value);
        });
    }

    /// Puts them among the others.
    pub(super) fn insert(&self, headers: &mut HeaderMap) {
        self.each(|Line(name, _), value| {
            // All of them were values before, or are made of letters and digits.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name, value);
            }
        });
    }
}

/// How a message came here.
pub(super) fn via(received: Version) -> HeaderValue {
    match received {
        Version::HTTP_2 => VIA_20,
        Version::HTTP_10 => VIA_10,
        _ => VIA_11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_is_named() {
        for Line(name, begin) in [FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, BY_WAY_OF, REQUEST_ID, TRACE] {
            assert_eq!(begin, format!("\r\n{name}: ").as_bytes());
        }
    }
}
