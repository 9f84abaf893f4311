//! HTTP/1.1 connections to endpoints.
//!
//! A connection lives in the request that uses it: no task, no channel. A request costs one write and one read, and
//! nothing is asked of the kernel that the runtime's readiness does not promise.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | a connection: its stream, what was read too far, whether it may be used again |
//! | `exchange` | one request and the head of its answer, full duplex |
//! | `send` | a request's bytes |
//! | `answer` | an answer's head |
//!
//! What both directions have in common is in `wire1`: bodies, headers that come again, buffers.
//!
//! ```text
//!            exchange: write, and read at once         body, polled by the client's side
//! pool --> [ head ... request's body ...    ]
//!          [            answer's head       ] -------> length | chunks | until close --> pool, or closed
//!                       \-- came before the request's body ended: a task of its own sends the rest
//! ```
//!
//! **Used again** is a connection whose request and answer both came to their end, which the endpoint leaves open, and
//! on which nothing came beyond the answer. Whoever takes one from the pool first asks the runtime whether something
//! is to be read: then the endpoint closed it, or said something that nobody asked for, and it is dropped. Between that
//! look and the request's arrival the endpoint may still close it, which is the race of RFC 9112, section 9.3.1; who
//! sends decides whether the request may be sent once more.

mod answer;
mod exchange;
mod send;

pub(super) use answer::Head;
#[cfg(any(test, fuzzing))]
pub(super) use answer::{Parsed, parse as parse_answer};
pub(super) use exchange::{Ended, Exchange};
pub(super) use send::Sending;

use super::dialing::Open;
use super::transport::{Joint, Transport};
use super::wire1::{Decoder, Incomplete, Malformed, Piece, READ, Raw, Scratch};
use crate::balance::EndpointId;
use crate::links::Time;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::AbortHandle;

/// A connection to an endpoint.
pub(super) struct Connection {
    stream: Stream,
    /// Read, and not used yet.
    buf: Bytes,
    /// The body of the answer that is being read.
    body: Decoder,
    /// Nothing stands against using it again.
    keep: bool,
    /// The last read took all that it could.
    long: bool,
    /// The body broke off, which is said in the turn after what came before.
    breaking: bool,
    pub endpoint: EndpointId,
    /// What it was secured under; 0 is plain text.
    pub epoch: u64,
    /// When it was last used, and how long it may then wait for the next request.
    pub used: Time,
    pub idle: Duration,
    open: Rc<Open>,
}

enum Stream {
    Whole(Transport),
    /// The request's body is still being sent, by a task of its own.
    Half(Joint, Rest),
    Gone,
}

/// The rest of a request's body, whose answer has begun.
struct Rest {
    /// All was sent.
    sent: Rc<Cell<bool>>,
    task: AbortHandle,
}

impl Connection {
    pub(super) fn new(
        (stream, epoch): (Transport, u64),
        endpoint: EndpointId,
        idle: Duration,
        open: Open,
    ) -> Box<Self> {
        let (stream, body) = (Stream::Whole(stream), Decoder::Done);
        Box::new(Self {
            stream,
            buf: Bytes::new(),
            body,
            keep: true,
            long: false,
            breaking: false,
            endpoint,
            epoch,
            used: Time(0),
            idle,
            open: Rc::new(open),
        })
    }

    /// Whether something came that nobody asked for, or the endpoint closed: it may not be used then. Costs no system
    /// call unless there is something to be read.
    pub(super) fn stale(&mut self) -> bool {
        match &mut self.stream {
            Stream::Whole(stream) => stream.stale(),
            Stream::Half(..) | Stream::Gone => true,
        }
    }

    /// The connection for another request, if it may carry one: everything of this one came to its end.
    pub(super) fn reusable(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.keep || !self.body.done() || !self.buf.is_empty() {
            return None;
        }
        self.stream = match std::mem::replace(&mut self.stream, Stream::Gone) {
            Stream::Half(stream, rest) if rest.sent.get() => Stream::Whole(stream.alone()?),
            Stream::Half(..) => return None,
            stream => stream,
        };
        Some(self)
    }

    /// The bare stream of a connection that switched to another protocol, and what came after the answer.
    pub(super) fn take_raw(&mut self) -> Option<Raw<Rc<Open>>> {
        let read = std::mem::take(&mut self.buf);
        match std::mem::replace(&mut self.stream, Stream::Gone) {
            Stream::Whole(stream) => Some(Raw::new(stream, read, self.open.clone())),
            Stream::Half(..) | Stream::Gone => None,
        }
    }

    /// Reads once. What came is in `buf`, which must be empty; so much of it, and 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<io::Result<usize>> {
        let long = self.long || self.body.left().is_some_and(|left| left > READ as u64);
        let read = match &mut self.stream {
            Stream::Whole(stream) => scratch.poll_read(cx, stream, long),
            Stream::Half(stream, _) => stream.with(|stream| scratch.poll_read(cx, stream, long)),
            Stream::Gone => return Poll::Ready(Ok(0)),
        };
        (self.buf, self.long) = ready!(read)?;
        Poll::Ready(Ok(self.buf.len()))
    }

    /// Asks for the body where the head came without any of it.
    fn hurry(&self) {
        if self.buf.is_empty()
            && !self.body.done()
            && let Stream::Whole(stream) = &self.stream
        {
            stream.acknowledge();
        }
    }

    /// The next frame of the answer's body. `Err` when it breaks off, or is none.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let frame = loop {
            match self.body.next(&mut self.buf) {
                Ok(Piece::Data(data)) => break Some(Ok(Frame::data(data))),
                Ok(Piece::Trailers(trailers)) => break Some(Ok(Frame::trailers(trailers))),
                Ok(Piece::End) => break None,
                Ok(Piece::Partial) => match ready!(self.poll_fill(cx, scratch)) {
                    Ok(0) if self.body.end().is_ok() => break None,
                    Ok(0) | Err(_) => break Some(Err(Incomplete)),
                    Ok(_) => {}
                },
                Err(Malformed) => break Some(Err(Incomplete)),
            }
        };
        if matches!(frame, Some(Err(Incomplete))) {
            self.keep = false;
            if !std::mem::replace(&mut self.breaking, true) {
                // An HTTP/2 stream that is reset forgets what it holds for the client, the head too.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(frame)
    }

    /// Whether the answer's body came to its end.
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.done()
    }

    /// Whether all that is left of the answer's body was read.
    pub(super) fn is_here(&self) -> bool {
        self.body.left().is_some_and(|left| left <= self.buf.len() as u64)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Lets a task of its own send what is left of the request: whoever reads the answer may be held up by its client,
    /// which may want to be rid of its body first.
    pub(super) fn detach(&mut self, mut sending: Sending) {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Gone) {
            Stream::Whole(stream) => {
                let stream = stream.joint();
                let sent = Rc::new(Cell::new(false));
                let (mut writer, over, open) = (stream.clone(), sent.clone(), self.open.clone());
                let task = tokio::task::spawn_local(async move {
                    let _open = open;
                    if std::future::poll_fn(|cx| sending.writer.poll(cx, &mut writer)).await.is_ok() {
                        drop(writer);
                        over.set(true);
                    }
                });
                Stream::Half(stream, Rest { sent, task: task.abort_handle() })
            }
            stream => stream,
        };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Where the answer came to its end, the endpoint may still want the rest of the request.
        if let Stream::Half(_, rest) = &self.stream
            && !self.body.done()
        {
            rest.task.abort();
        }
    }
}
