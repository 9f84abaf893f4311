//! Bodies on their way: counted, watched for stalls, never collected. A request's is in `upload`, an answer's here.
//!
//! A body is polled only when the other side has room, so back-pressure reaches from socket to socket, and what is
//! held in between is bounded by buffers and windows.

use super::dialing::Open;
use super::flight::Flight;
use super::headers::clean_trailers;
use super::upstream::Lease;
use super::wire1::{Incomplete, Lines, Raw, Scratch};
use super::wire2::Code;
use crate::observe::Reason;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How many frames of an answer that nobody wants are read, so that its connection can be used again.
const MAX_DRAINED: usize = 8;

/// Why a body broke off, and how HTTP/2 says so to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyError {
    pub reason: Reason,
    code: Code,
}

impl BodyError {
    pub(super) fn broken(reason: Reason, code: Code) -> Self {
        Self { reason, code }
    }

    pub(super) fn cut(reason: Reason) -> Self {
        Self { reason, code: Code::CANCEL }
    }

    /// What an HTTP/2 stream is reset with.
    pub(super) fn code(self) -> Code {
        self.code
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.code())
    }
}

impl std::error::Error for BodyError {}

/// A response's body.
pub(super) struct ResponseBody {
    kind: Kind,
    /// What goes out behind the answer's headers.
    lines: Option<Lines>,
}

enum Kind {
    Empty,
    Full(Bytes),
    /// It comes from what the flight holds.
    Proxied(Box<Flight>),
    /// There is none: the connection speaks another protocol from here on.
    Switched(Box<Switched>),
}

/// A request that made its connection switch to another protocol, and the endpoint's side of it.
pub(super) struct Switched {
    pub flight: Box<Flight>,
    pub upstream: Raw<Rc<Open>>,
}

impl Lease {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incomplete = Reason::ResponseIncomplete;
        match self {
            Self::Http1(connection) => connection
                .poll_frame(cx, scratch)
                .map(|f| f.map(|f| f.map_err(|Incomplete| BodyError::broken(incomplete, Code::INTERNAL_ERROR)))),
            Self::Http2(lease) => {
                lease.body.poll_frame(cx).map(|f| f.map(|f| f.map_err(|code| BodyError::broken(incomplete, code))))
            }
        }
    }

    /// Reads an answer that nobody wants to its end, where that has come already. Whether it has.
    pub(super) fn drain(&mut self, scratch: &Scratch) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..MAX_DRAINED {
            if self.is_end_stream() {
                return true;
            }
            match self.poll_frame(&mut cx, scratch) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => return true,
                Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
            }
        }
        false
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_end_stream(),
            Self::Http2(lease) => lease.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.size_hint(),
            Self::Http2(lease) => lease.body.size_hint(),
        }
    }
}

impl ResponseBody {
    fn of(kind: Kind) -> Self {
        Self { kind, lines: None }
    }

    /// The same, whose answer's head has these lines, too.
    pub(super) fn with(mut self, lines: Option<Lines>) -> Self {
        self.lines = lines;
        self
    }

    pub(super) fn take_lines(&mut self) -> Option<Lines> {
        self.lines.take()
    }

    pub(super) fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    pub(super) fn full(bytes: Bytes) -> Self {
        Self::of(Kind::Full(bytes))
    }

    /// None, and another protocol after the answer's head.
    pub(super) fn switching(flight: Box<Flight>, upstream: Raw<Rc<Open>>) -> Self {
        Self::of(Kind::Switched(Box::new(Switched { flight, upstream })))
    }

    /// What the connection carries from here on, where it switched.
    pub(super) fn switched(self) -> Option<Switched> {
        match self.kind {
            Kind::Switched(switched) => Some(*switched),
            _ => None,
        }
    }

    /// An endpoint's body; the request is over when it is.
    pub(super) fn proxied(flight: Box<Flight>) -> Self {
        Self::of(Kind::Proxied(flight))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let kind = &mut self.get_mut().kind;
        match kind {
            Kind::Empty | Kind::Switched(_) => Poll::Ready(None),
            Kind::Full(_) => match std::mem::replace(kind, Kind::Empty) {
                Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Kind::Proxied(flight) => {
                let Flight { lease: Some(lease), core, .. } = &mut **flight else { return Poll::Ready(None) };
                let polled = lease.poll_frame(cx, &core.scratch);
                let (over, polled) = match polled {
                    Poll::Ready(Some(Ok(mut frame))) => {
                        let mut over = lease.is_end_stream();
                        // Where a length was announced, an HTTP/1.1 client's encoder drops the body once it has that
                        // much, though an HTTP/2 endpoint may end the stream with a frame of its own, or trailers.
                        let complete = lease.size_hint().exact() == Some(0);
                        let http1 = matches!(lease, Lease::Http1(_));
                        if let Some(data) = frame.data_ref() {
                            flight.received(data.len());
                        } else if let Some(trailers) = frame.trailers_mut() {
                            // HTTP/2 has checked them.
                            if http1 {
                                clean_trailers(trailers);
                            }
                            flight.trailers(trailers);
                            over = true;
                        }
                        if over || complete {
                            flight.complete();
                        }
                        (over, Poll::Ready(Some(Ok(frame))))
                    }
                    Poll::Ready(Some(Err(error))) => {
                        flight.broken(error.reason);
                        (true, Poll::Ready(Some(Err(error))))
                    }
                    Poll::Ready(None) => {
                        flight.complete();
                        (true, Poll::Ready(None))
                    }
                    Poll::Pending => match flight.body_waits() {
                        Some(reason) => {
                            flight.broken(reason);
                            (true, Poll::Ready(Some(Err(BodyError::cut(reason)))))
                        }
                        None => (false, Poll::Pending),
                    },
                };
                if over {
                    *kind = Kind::Empty;
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Switched(_) => true,
            Kind::Full(_) => false,
            Kind::Proxied(flight) => flight.lease.as_ref().is_none_or(Lease::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty | Kind::Switched(_) => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Proxied(flight) => flight.lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint),
        }
    }
}
