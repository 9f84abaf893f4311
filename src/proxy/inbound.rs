//! A client's body, as its connection gives it.

use super::http2::Received;
use super::server1;
use super::wire1::Incomplete;
use super::wire2::Code;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll};

/// A client's body.
pub(super) enum Inbound {
    Http1(server1::Body),
    Http2(Received),
}

impl Inbound {
    /// The next frame; an error is what HTTP/2 would reset a stream with.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx).map(|f| f.map(|f| f.map_err(|Incomplete| Code::CANCEL))),
            Self::Http2(body) => body.poll_frame(cx),
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
