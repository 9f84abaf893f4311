//! A body that comes over HTTP/2. The peer may send on what was taken from here: it is taken only when the other side
//! has room, which is how back-pressure reaches the peer.

use super::super::headers::digits;
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll, ready};

/// A body that comes.
pub(in crate::proxy) struct Received {
    stream: RecvStream,
    /// How many bytes are still to come, where that was announced. `h2` has checked the announcement, and checks that
    /// it is kept.
    left: Option<u64>,
    /// All of the data was taken; trailers may follow.
    taken: bool,
    /// Nothing more comes.
    ended: bool,
}

impl Received {
    pub(in crate::proxy) fn new(stream: RecvStream) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, left: ended.then_some(0), taken: false, ended }
    }

    /// Takes note of the length that its head announces.
    pub(in crate::proxy) fn announced(&mut self, headers: &HeaderMap) {
        if !self.ended {
            self.left = headers.get(CONTENT_LENGTH).and_then(|length| digits(length.as_bytes()));
        }
    }

    /// The next frame. An error is the reason with which the stream was reset, or `INTERNAL_ERROR` where its connection
    /// broke.
    pub(in crate::proxy) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        if !self.taken {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Only more than was taken could be refused.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.ended = self.stream.is_end_stream();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(broken(&error).map(Err)),
                None => self.taken = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|t| Ok(Frame::trailers(t))),
            Err(error) => broken(&error).map(Err),
        })
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Why a body broke off. `NO_ERROR` says that the peer wants or has no more of it, which is an end (RFC 9113, section
/// 8.1).
fn broken(error: &h2::Error) -> Option<Reason> {
    match error.reason() {
        Some(Reason::NO_ERROR) => None,
        reason => Some(reason.unwrap_or(Reason::INTERNAL_ERROR)),
    }
}
