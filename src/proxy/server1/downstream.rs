//! A client's connection as it is read: ahead of a request, its body, and what comes while nobody waits for it.
//!
//! The connection's task and the body of the request under way share it; the body may be with a task of its own, which
//! sends the rest of it to an endpoint that answered early. Only one of them reads at a time: the task leaves the
//! reading to whoever holds a body that is not over.

use super::super::core::Core;
use super::super::transport::Transport;
use super::super::wire1::{Decoder, Framing, Incomplete, Piece, READ, Raw, line};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;

/// What informational answers may wait for a client that does not read, in bytes; beyond, they are dropped.
const MAX_INTERIM: usize = 64 * 1024;

/// A client's connection.
pub(in crate::proxy) struct Downstream {
    core: Rc<Core>,
    /// None once it is closed, or speaks another protocol.
    stream: RefCell<Option<Transport>>,
    /// Read, and not used yet.
    buf: RefCell<Bytes>,
    /// The body of the request that was read last.
    decoder: RefCell<Decoder>,
    /// Somebody reads that body, and it is not over.
    held: Cell<bool>,
    /// The client waits for 100.
    expects: Cell<bool>,
    /// The last read took all that it could.
    long: Cell<bool>,
    /// Informational answers on their way.
    interim: RefCell<Vec<u8>>,
    /// Who reads the body, and who waits for its end.
    reader: RefCell<Option<Waker>>,
    waiter: RefCell<Option<Waker>>,
}

/// What became of the rest of a body that nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// It was read.
    Whole,
    /// It is too long, or broken.
    Left,
}

impl Downstream {
    /// A connection on which `read` came already.
    pub(in crate::proxy) fn new(core: Rc<Core>, stream: Transport, read: Bytes) -> Rc<Self> {
        Rc::new(Self {
            core,
            stream: RefCell::new(Some(stream)),
            buf: RefCell::new(read),
            decoder: RefCell::new(Decoder::Done),
            held: Cell::new(false),
            expects: Cell::new(false),
            long: Cell::new(false),
            interim: RefCell::default(),
            reader: RefCell::default(),
            waiter: RefCell::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// What was read and not used; taken out to be looked at, and put back.
    pub(super) fn buf(&self) -> std::cell::RefMut<'_, Bytes> {
        self.buf.borrow_mut()
    }

    /// Reads once. What came is in `buf`, which must be empty; so much of it, and 0 is the end.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else { return Poll::Ready(Ok(0)) };
        let long = self.long.get() || self.decoder.borrow().left().is_some_and(|left| left > READ as u64);
        let (read, long) = ready!(self.core.scratch.poll_read(cx, stream, long))?;
        self.long.set(long);
        let length = read.len();
        *self.buf.borrow_mut() = read;
        Poll::Ready(Ok(length))
    }

    /// Whether the client is gone, while a request of it is under way whose body was read. What it sends meanwhile is
    /// kept for later, so much of it as is read at once.
    pub(super) fn gone(&self, cx: &mut Context<'_>) -> bool {
        if self.wait_for_reader(cx) || !self.decoder.borrow().done() || !self.buf.borrow().is_empty() {
            return false;
        }
        matches!(self.poll_fill(cx), Poll::Ready(Ok(0) | Err(_)))
    }

    /// Begins a request's body, for somebody to read; `None` where there is none.
    pub(super) fn begin(self: &Rc<Self>, framing: Framing, expects: bool) -> Option<Body> {
        let decoder = Decoder::new(framing);
        if decoder.done() {
            return None;
        }
        if !expects && self.buf.borrow().is_empty() {
            // The head came without any of the body.
            self.stream.borrow().as_ref().inspect(|stream| stream.acknowledge());
        }
        *self.decoder.borrow_mut() = decoder;
        self.held.set(true);
        self.expects.set(expects);
        Some(Body { downstream: self.clone(), over: false })
    }

    /// Whether all of the body was read.
    pub(super) fn body_over(&self) -> bool {
        self.decoder.borrow().done()
    }

    /// Whether the client was never told to send its body. It is told no more.
    pub(super) fn never_told(&self) -> bool {
        self.expects.replace(false)
    }

    /// Waits until the body that somebody holds is over; what nobody wants of it is read and dropped, `most` bytes
    /// of it.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>, most: &mut usize) -> Poll<Drained> {
        loop {
            if self.body_over() {
                return Poll::Ready(Drained::Whole);
            }
            if self.wait_for_reader(cx) {
                return Poll::Pending;
            }
            let piece = self.decoder.borrow_mut().next(&mut self.buf.borrow_mut());
            match piece {
                Ok(Piece::Data(data)) => match most.checked_sub(data.len()) {
                    Some(left) => *most = left,
                    None => return Poll::Ready(Drained::Left),
                },
                Ok(Piece::Trailers(_) | Piece::End) => {}
                Ok(Piece::Partial) => match ready!(self.poll_fill(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(Drained::Left),
                    Ok(_) => {}
                },
                Err(_) => return Poll::Ready(Drained::Left),
            }
        }
    }

    /// Whether somebody reads the body; whoever asks is woken when that ends.
    pub(super) fn wait_for_reader(&self, cx: &mut Context<'_>) -> bool {
        if self.held.get() {
            self.waiter.replace(Some(cx.waker().clone()));
        }
        self.held.get()
    }

    /// Tells the client something before its answer.
    pub(in crate::proxy) fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        let mut interim = self.interim.borrow_mut();
        let before = interim.len();
        interim.extend_from_slice(b"HTTP/1.1 ");
        interim.extend_from_slice(status.as_str().as_bytes());
        interim.push(b' ');
        interim.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        headers.iter().for_each(|(name, value)| line(&mut interim, name, value));
        interim.extend_from_slice(b"\r\n\r\n");
        if interim.len() > MAX_INTERIM {
            interim.truncate(before);
        }
        drop(interim);
        let mut stream = self.stream.borrow_mut();
        if let Some(written) = stream.as_mut().and_then(|s| s.try_write(&self.interim.borrow()).ok()) {
            self.interim.borrow_mut().drain(..written);
        }
        if !self.interim.borrow().is_empty() {
            wake(&self.waiter);
        }
    }

    /// Writes what did not fit when the client was informed.
    pub(super) fn poll_interim(&self, cx: &mut Context<'_>) {
        let mut interim = self.interim.borrow_mut();
        if interim.is_empty() {
            return;
        }
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else { return };
        while !interim.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &interim) {
                Poll::Ready(Ok(written)) if written > 0 => drop(interim.drain(..written)),
                _ => return,
            }
        }
    }

    /// What of it still waits, to be written before the answer.
    pub(super) fn take_interim(&self) -> Option<Vec<u8>> {
        let mut interim = self.interim.borrow_mut();
        // Taken with its memory: an idle connection holds none.
        (interim.capacity() > 0).then(|| std::mem::take(&mut *interim)).filter(|i| !i.is_empty())
    }

    /// Writes to the client.
    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Transport) -> T) -> Option<T> {
        self.stream.borrow_mut().as_mut().map(write)
    }

    /// The bare stream, and what came after the last request.
    pub(super) fn take_raw(&self) -> Option<Raw<()>> {
        let stream = self.stream.take()?;
        Some(Raw::new(stream, self.buf.take(), ()))
    }

    /// Closes the connection. Who still reads a body is told so.
    pub(super) fn close(&self) {
        drop(self.stream.take());
        wake(&self.reader);
    }

    /// What this connection holds beside itself, in bytes.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.buf.borrow().len() + self.interim.borrow().capacity()
    }
}

fn wake(place: &RefCell<Option<Waker>>) {
    let waker = place.take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A request's body, as it comes from the client.
pub(in crate::proxy) struct Body {
    downstream: Rc<Downstream>,
    /// It was read to its end, or broke off: what comes now is no part of it.
    over: bool,
}

impl Body {
    /// The next frame. `Err` when the body breaks off, or is none.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let downstream = &self.downstream;
        let frame = loop {
            let piece = downstream.decoder.borrow_mut().next(&mut downstream.buf.borrow_mut());
            match piece {
                Ok(Piece::Data(data)) => break Some(Ok(Frame::data(data))),
                Ok(Piece::Trailers(trailers)) => break Some(Ok(Frame::trailers(trailers))),
                Ok(Piece::End) => break None,
                Err(_) => break Some(Err(Incomplete)),
                Ok(Piece::Partial) => {}
            }
            if downstream.expects.replace(false) {
                downstream.inform(StatusCode::CONTINUE, &HeaderMap::new());
            }
            match downstream.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => break Some(Err(Incomplete)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    downstream.reader.replace(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
            }
        };
        if downstream.decoder.borrow().done() {
            self.finish();
        } else if matches!(frame, Some(Err(_))) {
            *downstream.decoder.borrow_mut() = Decoder::Refused;
            self.finish();
        }
        Poll::Ready(frame)
    }

    fn finish(&mut self) {
        self.over = true;
        self.downstream.held.set(false);
        drop(self.downstream.reader.take());
        wake(&self.downstream.waiter);
    }

    /// Whether all of it was read.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.over
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        match self.downstream.decoder.borrow().left() {
            _ if self.over => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.over {
            self.finish();
        }
    }
}
