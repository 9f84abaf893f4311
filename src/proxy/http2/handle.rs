//! A stream, as those see it who serve it or asked for it.
//!
//! Whoever lets go of the last handle of a stream that is not over resets it: with CANCEL, or NO_ERROR where a whole
//! answer is out and the rest of the request is not wanted.

use super::super::client1::Head;
use super::super::wire2::Code;
use super::session::{Engine, Session};
use super::streams::{Ended, Stream};
use super::{Received, STREAM_WINDOW};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Holds a stream.
#[derive(Debug)]
pub(super) struct Handle {
    session: Rc<Session>,
    slot: u32,
}

impl Handle {
    /// Holds a stream that nobody else does.
    pub fn first(session: &Rc<Session>, slot: u32) -> Self {
        Self { session: session.clone(), slot }
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Engine, u32, &Session) -> T) -> T {
        act(&mut self.session.engine.borrow_mut(), self.slot, &self.session)
    }

    pub fn stream<T>(&self, look: impl FnOnce(&Stream) -> T) -> Option<T> {
        self.session.engine.borrow().streams.look(self.slot).map(look)
    }

    /// Notes who waits for something to come.
    pub fn register(&self, cx: &Context<'_>) {
        let before = self.with(|engine, slot, _| match engine.streams.get(slot) {
            Some(stream) if !known(&stream.reader, cx) => stream.reader.replace(cx.waker().clone()),
            _ => None,
        });
        drop(before);
    }
}

fn known(place: &Option<Waker>, cx: &Context<'_>) -> bool {
    place.as_ref().is_some_and(|known| known.will_wake(cx.waker()))
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.with(|engine, slot, _| {
            if let Some(stream) = engine.streams.get(slot) {
                stream.handles += 1;
            }
        });
        Self { session: self.session.clone(), slot: self.slot }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let gone = self.with(|engine, slot, session| engine.let_go(slot, &session.scratch));
        // Only now that nothing is borrowed: with its wakers go whatever they held.
        drop(gone);
    }
}

/// The side of a stream that sends.
#[derive(Debug)]
pub(in crate::proxy) struct Sender(Handle);

impl Sender {
    pub(super) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// What comes on the same stream.
    pub(super) fn receiver(&self) -> Received {
        Received::new(self.0.clone())
    }

    /// Sends an answer's head. `false` where the stream is over.
    pub(super) fn head(&self, status: StatusCode, headers: &HeaderMap, end: bool) -> bool {
        self.0.with(|engine, slot, session| {
            let Some(stream) = engine.streams.look(slot).filter(|stream| stream.sending) else { return false };
            let Engine { out, deflate, peer, .. } = engine;
            out.block(&session.scratch, (stream.id, end), peer.frame, |out| deflate.response(out, status, headers));
            if end {
                engine.sent_whole(slot);
            }
            engine.rouse();
            true
        })
    }

    /// Sends a piece of a body; see `Engine::poll_data`.
    pub(super) fn poll_data(&self, cx: &mut Context<'_>, data: &mut Bytes, last: bool) -> Poll<Result<(), Ended>> {
        self.0.with(|engine, slot, session| engine.poll_data(cx, slot, (data, last), &session.scratch))
    }

    /// Sends trailers, with which the message ends. `false` where the stream is over.
    pub(super) fn trailers(&self, trailers: HeaderMap) -> bool {
        self.0.with(|engine, slot, session| {
            let Some(stream) = engine.streams.look(slot).filter(|stream| stream.sending) else { return false };
            let Engine { out, deflate, peer, .. } = engine;
            out.block(&session.scratch, (stream.id, true), peer.frame, |out| deflate.trailers(out, &trailers));
            session.scratch.recycle_map(trailers);
            engine.sent_whole(slot);
            engine.rouse();
            true
        })
    }

    pub(super) fn reset(&self, code: Code) {
        self.0.with(|engine, slot, session| engine.reset(slot, code, &session.scratch));
    }

    /// Waits until the stream is over before its time.
    pub(super) fn poll_reset(&self, cx: &Context<'_>) -> Poll<Ended> {
        let (polled, before) = self.0.with(|engine, slot, _| {
            let Some(stream) = engine.streams.get(slot) else { return (Poll::Ready(Ended::Gone), None) };
            match stream.ended {
                Some(ended) => (Poll::Ready(ended), None),
                None if known(&stream.writer, cx) => (Poll::Pending, None),
                None => (Poll::Pending, stream.writer.replace(cx.waker().clone())),
            }
        });
        drop(before);
        polled
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Who sends no more keeps nobody waiting.
        self.0.with(|engine, slot, _| engine.leave_line(slot));
    }
}

/// A request of ours that is to be opened, or waits for that.
#[derive(Debug)]
pub(in crate::proxy) struct Opening<'a> {
    session: &'a Rc<Session>,
    ticket: Option<u64>,
}

impl<'a> Opening<'a> {
    pub(in crate::proxy) fn new(session: &'a Rc<Session>) -> Self {
        Self { session, ticket: None }
    }

    /// Opens a stream for a request when the peer allows another one; in the order in which they were asked for. `None`
    /// where the connection takes none any more.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &Context<'_>,
        parts: &request::Parts,
        end: bool,
    ) -> Poll<Option<Asking>> {
        let mut engine = self.session.engine.borrow_mut();
        let engine = &mut *engine;
        if engine.closed() || engine.forsaken {
            return Poll::Ready(None);
        }
        let first = engine.openers.front().is_none_or(|(ticket, _)| Some(*ticket) == self.ticket);
        if !first || !engine.admits() {
            let ticket = *self.ticket.get_or_insert_with(|| {
                engine.ticket += 1;
                engine.ticket
            });
            match engine.openers.iter_mut().find(|(known, _)| *known == ticket) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => engine.openers.push_back((ticket, cx.waker().clone())),
            }
            return Poll::Pending;
        }
        let id = if engine.streams.highest == 0 { 1 } else { engine.streams.highest + 2 };
        let window = i64::from(engine.peer.window);
        let slot = engine.streams.insert(id, |stream| {
            (stream.receiving, stream.sending, stream.awaiting) = (true, !end, true);
            stream.head_only = parts.method == Method::HEAD;
            (stream.receive_window, stream.send_window) = (i64::from(STREAM_WINDOW), window);
        });
        let Engine { out, deflate, peer, .. } = engine;
        out.block(&self.session.scratch, (id, end), peer.frame, |out| deflate.request(out, parts));
        if self.ticket.take().is_some() {
            engine.openers.pop_front();
            engine.admit();
        }
        engine.rouse();
        Poll::Ready(Some(Asking(Handle::first(self.session, slot))))
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut engine = self.session.engine.borrow_mut();
        let first = engine.openers.front().is_some_and(|(known, _)| *known == ticket);
        engine.openers.retain(|(known, _)| *known != ticket);
        if first {
            engine.admit();
        }
    }
}

/// A request of ours whose answer is awaited.
#[derive(Debug)]
pub(in crate::proxy) struct Asking(Handle);

impl Asking {
    pub(in crate::proxy) fn sender(&self) -> Sender {
        Sender(self.0.clone())
    }

    /// The answer's head.
    pub(in crate::proxy) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<Head, Ended>> {
        let polled = self.0.with(|engine, slot, _| {
            let Some(stream) = engine.streams.get(slot) else { return Poll::Ready(Err(Ended::Gone)) };
            match (stream.head.take(), stream.ended) {
                (Some(head), _) => Poll::Ready(Ok(head)),
                (None, Some(ended)) => Poll::Ready(Err(ended)),
                (None, None) => Poll::Pending,
            }
        });
        if polled.is_pending() {
            self.0.register(cx);
        }
        polled
    }

    /// What came before it.
    pub(in crate::proxy) fn hints(&self) -> Vec<Head> {
        self.0
            .with(|engine, slot, _| engine.streams.get(slot).map(|s| std::mem::take(&mut s.hints)).unwrap_or_default())
    }

    /// The answer's body.
    pub(in crate::proxy) fn into_body(self) -> Received {
        Received::new(self.0)
    }
}
