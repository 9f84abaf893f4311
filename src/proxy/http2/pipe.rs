//! A body that goes over HTTP/2.
//!
//! A frame is taken from the body only when the one before it has gone, so that a stream holds one frame whatever the
//! peer's window.

use super::super::body::BodyError;
use super::handle::Sender;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The stream is over before the body: the peer reset it, its connection broke, or the body did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Stopped;

/// A body on its way to a peer.
pub(in crate::proxy) struct Pipe<B> {
    stream: Sender,
    body: B,
    /// Waits for room; and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    over: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    pub(in crate::proxy) fn new(stream: Sender, body: B) -> Self {
        Self { stream, body, waiting: None, over: false }
    }

    /// Sends what can be sent; ready when all is sent, or nothing more can be.
    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let polled = self.poll_parts(cx);
        self.over = polled.is_ready();
        polled
    }

    /// Whether it came to its end, whatever that was.
    pub(in crate::proxy) fn is_over(&self) -> bool {
        self.over
    }

    pub(in crate::proxy) fn body(&self) -> &B {
        &self.body
    }

    pub(in crate::proxy) fn into_body(self) -> B {
        self.body
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if let Some((data, last)) = &mut self.waiting {
                let last = *last;
                ready!(self.stream.poll_data(cx, data, last)).map_err(|_| Stopped)?;
                self.waiting = None;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    self.stream.reset(error.code());
                    return Poll::Ready(Err(Stopped));
                }
                Poll::Ready(None) => {
                    self.waiting = Some((Bytes::new(), true));
                    continue;
                }
                // The peer may reset the stream, while there is nothing else to do.
                Poll::Pending => return self.stream.poll_reset(cx).map(|_| Err(Stopped)),
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => self.waiting = Some((data, self.body.is_end_stream())),
                Err(Ok(trailers)) => {
                    return Poll::Ready(if self.stream.trailers(trailers) { Ok(()) } else { Err(Stopped) });
                }
                // There are no other frames.
                Err(Err(_)) => {}
            }
        }
    }
}
