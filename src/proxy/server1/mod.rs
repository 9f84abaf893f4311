//! HTTP/1.1 connections of clients.
//!
//! A connection is one task that goes in a circle: a head, the request, its answer, the next head. A request costs one
//! read and one write; its head is parsed where it was read, and the answer's head goes out with what there is of its
//! body.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | the circle, its limits in time, its end |
//! | `request` | a request's head |
//! | `downstream` | the socket, the request's body, informational answers |
//! | `answer` | an answer's head |
//!
//! What both directions have in common is in `wire1`: bodies, headers that come again, buffers.
//!
//! ```text
//!        +-------------------------------- both ended, and both sides keep it -----------------------------+
//!        v                                                                                                  |
//!   head awaited --> request under way --> answer written, its body polled --> the rest of the request read +
//!        |                 |                            |                               |
//!        | no HTTP, slow   | client gone, too late      | broken                        | too long
//!        v                 v                            v                               v
//!   400, 431, 408 -----> closed, or closed for sending and listened to until the client has read it (RFC 9112, 9.6)
//! ```
//!
//! **One request at a time.** A pipelined request waits in what was read until the answer before it is written. While
//! a request is under way the client is listened to, so that its leaving is noticed; what it sends meanwhile is kept,
//! one read of it.
//!
//! **Idle** connections hold no buffers: what is read goes into a block of the core, what is written comes from a spare
//! buffer of the core, and a request's own state lives in a box while it is under way. A part of a head is the only
//! thing that a waiting connection keeps.
//!
//! **Rests of bodies.** Where an answer is written before the request's body was read, a task of its own may still send
//! it to the endpoint (`client1`); the connection waits for that. Where nobody wants it any more, a short rest is read
//! and dropped, else the connection is closed.

mod answer;
mod downstream;
mod request;

pub(super) use downstream::{Body, Downstream};
pub(super) use request::Limits;
#[cfg(any(test, fuzzing))]
pub(super) use request::{Head as RequestHead, parse as parse_request};

use super::body::{ResponseBody, Switched};
use super::conn::{Conn, DRAIN_IDLE};
use super::core::Held;
use super::failure::Failure;
use super::forward;
use super::places::Running;
use super::transport::Transport;
use super::upgrade;
use super::wire1::{Out, Unwritten, Writer, may_end};
use crate::observe::Reason;
use answer::Asked;
use bytes::{Bytes, BytesMut};
use downstream::Drained;
use http::{Method, Response, StatusCode, Version};
use request::Head;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// What is read of a body that nobody wants, so that the connection can be used again, in bytes.
const MAX_REST: usize = 64 * 1024;
/// What a lingering close discards at most, in bytes, and how long it waits for the client to close.
const MAX_LINGER: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// What a connection does when a request is over.
enum After {
    /// Waits for the next one.
    Next,
    Close,
    /// Closes for sending, and reads until the client closes too: it may still be sending, and closing at once would
    /// make the kernel reset the connection before the client has read its answer.
    Linger,
    /// Speaks another protocol.
    Switch(Switched),
}

/// What came instead of a request, or it.
enum Next<F: Future + 'static> {
    Request(Running<F>),
    Refused(Failure),
    Linger,
    Over,
}

/// Serves a connection to its end.
pub(super) async fn serve(conn: &Rc<Conn>, downstream: &Rc<Downstream>) {
    let mut waiting = Waiting::default();
    loop {
        let next = poll_fn(|cx| waiting.poll(conn, downstream, cx)).await;
        let after = match next {
            Next::Request(request) => request.await,
            Next::Refused(failure) => Box::pin(refuse(conn, downstream, failure)).await,
            Next::Linger => After::Linger,
            Next::Over => After::Close,
        };
        match after {
            After::Next => waiting.rest = MAX_REST,
            After::Close => break,
            After::Linger => {
                linger(conn, downstream).await;
                break;
            }
            After::Switch(switched) => {
                conn.watch.deadline.clear();
                if let Some(client) = downstream.take_raw() {
                    Box::pin(upgrade::carry(switched, client)).await;
                }
                break;
            }
        }
    }
    downstream.close();
}

/// A connection without a request.
#[derive(Default)]
struct Waiting {
    /// A part of a head.
    partial: BytesMut,
    /// The limit for the rest of a head runs.
    part: bool,
    /// The connection was told to leave.
    parting: bool,
    /// So much of a body that nobody wants may still be read.
    rest: usize,
}

impl Waiting {
    fn poll(
        &mut self,
        conn: &Rc<Conn>,
        downstream: &Rc<Downstream>,
        cx: &mut Context<'_>,
    ) -> Poll<Next<impl Future<Output = After> + use<>>> {
        conn.watch.deadline.register(cx.waker());
        match downstream.poll_over(cx, &mut self.rest) {
            Poll::Ready(Drained::Whole) => {}
            Poll::Ready(Drained::Left) => return Poll::Ready(Next::Linger),
            Poll::Pending => return self.limits(conn, conn.core.limits.idle.0),
        }
        loop {
            if !downstream.buf().is_empty() {
                // What its routes ask for decides how a head is read.
                let held = conn.core.generation();
                let mut head = None;
                if let Err(failure) = self.take(conn, downstream, &mut head) {
                    return Poll::Ready(Next::Refused(failure));
                }
                if let Some(head) = &mut head {
                    self.part = false;
                    return Poll::Ready(Next::Request(conn.core.places.put(one(conn, downstream, held, head))));
                }
            }
            match downstream.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Over),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.limits(conn, DRAIN_IDLE),
            }
        }
    }

    /// Looks for a head in what was read, and puts it at `place`.
    fn take(&mut self, conn: &Conn, downstream: &Downstream, place: &mut Option<Head>) -> Result<(), Failure> {
        let core = &conn.core;
        let limits = core.servers.http1;
        let mut buf = downstream.buf();
        if !self.partial.is_empty() {
            let seen = self.partial.len();
            self.partial.extend_from_slice(&buf);
            *buf = Bytes::new();
            if !may_end(&self.partial, seen) {
                return if self.partial.len() > limits.head { Err(request::too_long()) } else { Ok(()) };
            }
            *buf = std::mem::take(&mut self.partial).freeze();
        }
        let empty = || (core.scratch.map(), Some(core.scratch.lines()));
        request::parse(&mut buf, limits, empty, &mut core.scratch.names.borrow_mut(), place)?;
        if place.is_none() {
            self.partial.extend_from_slice(&buf);
        }
        if place.is_none() || buf.is_empty() {
            *buf = Bytes::new();
        }
        Ok(())
    }

    /// Looks at the clock: `leave` is what a connection that was told to leave still gets. Ready when its time is over:
    /// whoever began a head is told so.
    fn limits<F: Future + 'static>(&mut self, conn: &Conn, leave: Duration) -> Poll<Next<F>> {
        let (core, deadline) = (&conn.core, &conn.watch.deadline);
        if conn.begins_idle() {
            (self.part, self.parting) = (false, false);
            deadline.set(conn.idle_since() + core.limits.idle.0);
        }
        if conn.told_to_leave() {
            if !std::mem::replace(&mut self.parting, true) {
                deadline.set(core.clock.now() + leave);
            }
        } else if conn.in_the_way() {
            if !std::mem::replace(&mut self.parting, true) {
                core.gauge(|g| g.evicted.add(1));
                deadline.set(core.clock.now() + leave);
            }
        } else if !self.partial.is_empty() && !self.part {
            self.part = true;
            deadline.set(core.clock.now() + core.limits.request_headers.0);
        }
        if !deadline.reached() {
            Poll::Pending
        } else if self.part && !self.parting {
            Poll::Ready(Next::Refused(Reason::HeadersTimeout.into()))
        } else {
            Poll::Ready(Next::Over)
        }
    }
}

/// Serves one request. What needs no waiting happens at once, so that the future holds only what the waiting needs.
fn one(
    conn: &Rc<Conn>,
    downstream: &Rc<Downstream>,
    held: Rc<Held>,
    head: &mut Head,
) -> impl Future<Output = After> + use<> {
    let Head { parts, seen, lines, framing, keep, expects, trailers } = head;
    let asked = Asked::new(&parts.method, parts.version, *keep, *trailers);
    let body = downstream.begin(*framing, *expects);
    let ready = forward::ready1(conn, held, parts, lines.take(), body, seen);
    under_way(conn.clone(), downstream.clone(), ready, asked)
}

/// Waits for a request's answer, and writes it.
async fn under_way(conn: Rc<Conn>, downstream: Rc<Downstream>, ready: forward::Ready, asked: Asked) -> After {
    let (conn, downstream) = (&*conn, &*downstream);
    let response = {
        let mut serving = pin!(forward::exchange(ready));
        poll_fn(|cx| {
            conn.watch.deadline.register(cx.waker());
            if let Poll::Ready(response) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            conn.watch.hints.take().iter().for_each(|hint| downstream.inform(hint.status(), hint.headers()));
            downstream.poll_interim(cx);
            let late = || conn.watch.deadline.reached() && conn.watch.stalled(conn.core.clock.now(), false);
            if downstream.gone(cx) || late() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    };
    conn.watch.hints.take().iter().for_each(|hint| downstream.inform(hint.status(), hint.headers()));
    match response {
        Some(response) => answer(conn, downstream, response, asked).await,
        None => After::Close,
    }
}

/// Writes an answer.
async fn answer(conn: &Conn, downstream: &Downstream, response: Response<ResponseBody>, mut asked: Asked) -> After {
    let core = &conn.core;
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // Nobody can know whether a body is still coming that was not asked for.
    asked.keep &= !downstream.never_told() && !conn.told_to_leave() && !switches;
    let out = downstream.take_interim().unwrap_or_else(|| core.scratch.buffer());
    let (mut writer, keep) = answer::begin(response, &asked, core, out);
    let mut broken = false;
    let written = poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        match downstream.write(|stream| write(&mut writer, &mut broken, cx, stream)) {
            Some(Poll::Ready(written)) => return Poll::Ready(written.is_ok()),
            Some(Poll::Pending) => {}
            None => return Poll::Ready(false),
        }
        if downstream.gone(cx) || late(conn, std::mem::take(&mut writer.begun)) {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await;
    let Writer { out, body, .. } = writer;
    core.scratch.recycle(out);
    if !written || broken {
        downstream.write(Transport::cut);
        return After::Close;
    }
    if let Some(switched) = body.switched() {
        return After::Switch(switched);
    }
    if keep {
        After::Next
    } else if downstream.body_over() && downstream.buf().is_empty() {
        After::Close
    } else {
        After::Linger
    }
}

/// Writes as much of an answer as there is. What came before its body broke off is written, too.
fn write<W: Out>(
    writer: &mut Writer<ResponseBody>,
    broken: &mut bool,
    cx: &mut Context<'_>,
    to: &mut W,
) -> Poll<Result<(), Unwritten>> {
    if !*broken {
        match ready!(writer.poll(cx, to)) {
            Err(Unwritten::Broken) => *broken = true,
            over => return Poll::Ready(over),
        }
    }
    writer.poll_flush(cx, to)
}

/// Whether an answer that is being written takes too long; `moved` says whether the client took some of it.
fn late(conn: &Conn, moved: bool) -> bool {
    let (core, deadline) = (&conn.core, &conn.watch.deadline);
    if conn.busy() {
        return deadline.reached() && conn.watch.stalled(core.clock.now(), moved);
    }
    // The request is over; its end is on its way to a slow reader.
    if conn.begins_idle() {
        deadline.set(conn.idle_since() + core.limits.idle.0);
    } else if deadline.reached() {
        if !moved {
            return true;
        }
        deadline.set(core.clock.now() + core.limits.idle.0);
    }
    false
}

/// Answers what is no request.
async fn refuse(conn: &Conn, downstream: &Downstream, failure: Failure) -> After {
    let core = &conn.core;
    conn.refused(failure.status().as_u16(), failure.reason);
    let id = core.ids.borrow_mut().request_id(None, &mut *core.rng.borrow_mut()).0;
    let asked = Asked::new(&Method::GET, Version::HTTP_11, false, false);
    match answer(conn, downstream, failure.response(&id, false, true), asked).await {
        After::Close if downstream.write(|_| ()).is_some() => After::Linger,
        after => after,
    }
}

/// Closes the sending side, and lets the client read. Who still reads the request's body may go on.
async fn linger(conn: &Conn, downstream: &Downstream) {
    let core = &conn.core;
    conn.watch.deadline.set(core.clock.now() + core.limits.idle.0);
    let (mut closed, mut alone, mut discarded) = (false, false, 0);
    poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        if !std::mem::replace(&mut closed, true) {
            // A socket's sending side is closed at once, or is already.
            let _ = downstream.write(|stream| Pin::new(stream).poll_shutdown(cx));
        }
        if !downstream.wait_for_reader(cx) {
            if !std::mem::replace(&mut alone, true) {
                conn.watch.deadline.set(core.clock.now() + LINGER);
            }
            while discarded < MAX_LINGER {
                *downstream.buf() = Bytes::new();
                match downstream.poll_fill(cx) {
                    Poll::Ready(Ok(read)) if read > 0 => discarded += read,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
        }
        if discarded >= MAX_LINGER || conn.watch.deadline.reached() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
pub(super) mod tests;
