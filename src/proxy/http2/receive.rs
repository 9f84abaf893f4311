//! A body that comes over HTTP/2. The peer may send on what was taken from here: it is taken only when the other side
//! has room, which is how back-pressure reaches the peer.

use super::super::wire2::Code;
use super::handle::Handle;
use super::streams::Ended;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::task::{Context, Poll};

/// A body that comes.
#[derive(Debug)]
pub(in crate::proxy) struct Received {
    stream: Handle,
    /// How many bytes are still to be taken, where that was announced. That the announcement is kept is checked where
    /// they come in.
    left: Option<u64>,
    /// Nothing more comes.
    ended: bool,
}

impl Received {
    pub(super) fn new(stream: Handle) -> Self {
        let known = stream.stream(|stream| {
            let waits = stream.arrived.length as u64;
            let left = stream.left.map(|left| left + waits);
            (left, stream.whole && waits == 0 && stream.trailers.is_none())
        });
        let (left, ended) = known.unwrap_or_default();
        Self { stream, left: if ended { Some(0) } else { left }, ended }
    }

    /// The next frame. An error is the code with which the stream was reset, or `INTERNAL_ERROR` where its connection
    /// broke.
    pub(in crate::proxy) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let (frame, over) = self.stream.with(|engine, slot, session| {
            let Some(stream) = engine.streams.get(slot) else { return (Poll::Ready(None), true) };
            if let Some(data) = stream.arrived.pop() {
                let over = stream.whole && stream.arrived.length == 0 && stream.trailers.is_none();
                let length = data.len();
                engine.give_back(length, &session.scratch);
                engine.taken_of(slot, length, &session.scratch);
                return (Poll::Ready(Some(Ok(Frame::data(data)))), over);
            }
            if let Some(trailers) = stream.trailers.take() {
                return (Poll::Ready(Some(Ok(Frame::trailers(trailers)))), true);
            }
            match stream.ended {
                _ if stream.whole => (Poll::Ready(None), true),
                Some(ended) => (Poll::Ready(broken(ended).map(Err)), true),
                None => (Poll::Pending, false),
            }
        });
        if frame.is_pending() {
            self.stream.register(cx);
            return Poll::Pending;
        }
        self.ended = over;
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let (Some(data), Some(left)) = (frame.data_ref(), &mut self.left)
        {
            *left = left.saturating_sub(data.len() as u64);
        }
        frame
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.stream.with(|engine, slot, session| {
            let Some(stream) = engine.streams.get(slot) else { return };
            stream.unwanted = true;
            let dropped = stream.arrived.clear();
            engine.give_back(dropped, &session.scratch);
        });
    }
}

/// Why a body broke off. `NO_ERROR` says that the peer wants or has no more of it, which is an end (RFC 9113, section
/// 8.1).
fn broken(ended: Ended) -> Option<Code> {
    match ended.code() {
        Some(Code::NO_ERROR) => None,
        code => Some(code.unwrap_or(Code::INTERNAL_ERROR)),
    }
}
