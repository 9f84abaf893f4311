//! A client's body, as its connection gives it.

use super::http2::Received;
use super::server1;
use super::wire1::Incomplete;
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll};

/// A client's body.
pub(super) enum Inbound {
    Http1(server1::Body),
    Http2(Received),
}

impl Inbound {
    /// The next frame; an error is what HTTP/2 would call the reason.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx).map(|f| f.map(|f| f.map_err(|Incomplete| Reason::CANCEL))),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    /// Takes note of the length that its head announces, where that was not done yet.
    pub(super) fn announced(&mut self, headers: &HeaderMap) {
        if let Self::Http2(body) = self {
            body.announced(headers);
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
