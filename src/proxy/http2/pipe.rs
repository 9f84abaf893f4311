//! A body that goes over HTTP/2.
//!
//! A frame is taken from the body only when the one before it has left, so that a stream holds one frame, and `h2`'s
//! buffer for it, whatever the peer's window. The first one is given to `h2` at once: it would be held here otherwise.

use super::super::body::BodyError;
use bytes::Bytes;
use h2::SendStream;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The stream is over before the body: the peer reset it, its connection broke, or the body did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Stopped;

/// A body on its way to a peer.
pub(in crate::proxy) struct Pipe<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Waits for room; and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    begun: bool,
    over: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    pub(in crate::proxy) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, waiting: None, begun: false, over: false }
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
            if let Some((data, last)) = self.waiting.take() {
                match self.poll_room(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(Stopped)) => return Poll::Ready(Err(Stopped)),
                    Poll::Pending => {
                        self.waiting = Some((data, last));
                        return self.poll_reset(cx);
                    }
                }
                self.send(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(error.code());
                    return Poll::Ready(Err(Stopped));
                }
                Poll::Ready(None) => return Poll::Ready(self.send(Bytes::new(), true)),
                Poll::Pending => return self.poll_reset(cx),
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => {
                    let last = self.body.is_end_stream();
                    if data.is_empty() && !last {
                        continue;
                    }
                    if self.begun && !data.is_empty() {
                        // The least claim on the connection's window: more of it could keep other streams waiting.
                        self.stream.reserve_capacity(1);
                        self.waiting = Some((data, last));
                        continue;
                    }
                    self.begun = true;
                    self.send(data, last)?;
                    if last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(Ok(trailers)) => {
                    // No more data: what was claimed for it goes back to the connection.
                    self.stream.reserve_capacity(0);
                    return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Stopped));
                }
                // There are no other frames.
                Err(Err(_)) => {}
            }
        }
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), Stopped> {
        self.stream.send_data(data, last).map_err(|_| Stopped)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Stopped)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the peer to reset the stream, while there is nothing else to do.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.stream.poll_reset(cx).map(|_| Err(Stopped))
    }
}
