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

impl Added<'_> {
    /// Names them one by one.
    pub(super) fn each(&self, mut give: impl FnMut(&HeaderName, &[u8])) {
        if !self.seen.forwarded_for {
            give(&X_FORWARDED_FOR, self.client.as_bytes());
        }
        if !self.seen.forwarded_host {
            give(&X_FORWARDED_HOST, self.host.as_bytes());
        }
        if !self.seen.forwarded_proto {
            give(&X_FORWARDED_PROTO, HTTP.as_bytes());
        }
        give(&VIA, via(self.version).as_bytes());
        if let Some(id) = self.request_id {
            give(&X_REQUEST_ID, id.as_bytes());
        }
        give(&TRACEPARENT, self.traceparent);
    }

    /// Puts them among the others.
    pub(super) fn insert(&self, headers: &mut HeaderMap) {
        self.each(|name, value| {
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
