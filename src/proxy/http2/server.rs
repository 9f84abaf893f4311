//! A client's HTTP/2 connection: one task for it and for all its streams.
//!
//! Each stream has a deadline of its own; without a stream the connection's idle limit runs. What a client must say in one
//! go (its preface and settings, a header block, any frame that is kept until it is whole) may take as long as a request's
//! headers, whatever else is under way: nothing else can be said meanwhile, and what came of it is held. What is left of an idle
//! connection is its state, both tables of header compression, and one empty place for a stream.
//!
//! A turn is bounded: what comes up while it writes is left to the next one, so that no client keeps the others of its
//! core waiting.

use super::super::body::ResponseBody;
use super::super::conn::Conn;
use super::super::deadlines::{Deadline, Deadlines};
use super::super::inbound::Inbound;
use super::super::seen::Seen;
use super::super::transport::Transport;
use super::super::watch::Watch;
use super::super::wire2::Code;
use super::handle::{Handle, Sender};
use super::incoming::Asked;
use super::session::{Refused, Role, Session};
use super::wakes::{StreamWake, Wakes};
use super::{Patience, Pipe, Silence};
use crate::observe::Reason;
use bytes::Bytes;
use http::{Response, request};
use http_body::Body;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// A client is pinged after 30 seconds without a byte of it, and gone after 20 more.
const PATIENCE: Patience = Patience { time: Duration::from_secs(10), ask_after: 3, give_up_after: 5 };
/// How long a client may take to close after it was asked to.
pub(in crate::proxy) const FAREWELL: Duration = Duration::from_secs(5);
/// How long a client may take to read why it is no longer served, and what of it is read meanwhile, in bytes: with
/// something unread the kernel would reset the connection and the client might never learn it.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER: usize = 256 * 1024;
/// How many empty places for streams a connection keeps.
const MAX_SPARE: usize = 1;

/// Serves a connection to its end, of which `read` came already; `ask` begins to serve a request.
pub(in crate::proxy) async fn serve<F, A>(conn: &Rc<Conn>, stream: Transport, read: Bytes, ask: A)
where
    F: Future<Output = Response<ResponseBody>>,
    A: Fn(&Rc<Watch>, &mut request::Parts, &Seen, Option<Inbound>) -> F,
{
    // Boxed: what a connection's future holds, it holds as long as the connection lives.
    let mut serving = Box::new(Serving::new(conn, ask, stream, read));
    if std::future::poll_fn(|cx| serving.poll(cx)).await == Close::Told {
        let stream = serving.into_stream();
        Box::pin(linger(conn, stream)).await;
    }
}

/// How a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Now,
    /// The client was told why, and may need time to read it.
    Told,
}

struct Serving<'a, F, A> {
    conn: &'a Rc<Conn>,
    ask: A,
    stream: Transport,
    session: Rc<Session>,
    /// The connection's own.
    waker: Waker,
    wakes: Arc<Wakes>,
    streams: Streams<F>,
    silence: Silence,
    /// What the client has begun to say in one go, and when that must be said.
    unfinished: Option<(u32, Deadline)>,
}

impl<'a, F, A> Serving<'a, F, A>
where
    F: Future<Output = Response<ResponseBody>>,
    A: Fn(&Rc<Watch>, &mut request::Parts, &Seen, Option<Inbound>) -> F,
{
    fn new(conn: &'a Rc<Conn>, ask: A, stream: Transport, read: Bytes) -> Self {
        let core = &conn.core;
        let session = Session::new(Role::Server, core.http2, core.scratch.clone());
        session.feed(read);
        conn.watch.deadline.set(core.clock.now() + core.limits.idle.0);
        let wakes = Arc::new(Wakes::default());
        let silence = Silence::new(PATIENCE, core.clock, &core.deadlines);
        let waker = Waker::from(wakes.clone());
        // The first turn looks at everything.
        waker.wake_by_ref();
        let streams =
            Streams { wakes: wakes.clone(), slots: Vec::new(), free: Vec::new(), woken: Vec::new(), watch: None };
        Self { conn, ask, stream, session, waker, wakes, streams, silence, unfinished: None }
    }

    fn into_stream(self) -> Transport {
        self.stream
    }

    /// One turn. Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        self.wakes.begin(cx.waker());
        self.session.begin(&self.waker);
        self.conn.watch.deadline.register(cx.waker());
        let over = self.turn(cx);
        self.session.end();
        if self.wakes.end() {
            cx.waker().wake_by_ref();
        }
        over
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let (conn, session) = (self.conn, &self.session);
        if self.silence.broken(cx, || session.heard(), || true, || session.ping()) {
            return Poll::Ready(Close::Now);
        }
        if self.wakes.take_connection() {
            let there = self.read();
            // Who leaves is counted, too.
            self.count_refused();
            if !there {
                return Poll::Ready(Close::Now);
            }
            self.look_at_unfinished();
        }
        if let Some((_, deadline)) = &self.unfinished {
            deadline.register(cx.waker());
            if deadline.reached() {
                self.too_slow();
            }
        }
        self.streams.poll(conn);
        let (mut parting, idle_over) = (false, conn.requests.get() == 0 && conn.watch.deadline.reached());
        let evicted = conn.in_the_way();
        if (conn.told_to_leave() || evicted || idle_over) && !conn.leaving.replace(true) {
            if evicted {
                conn.core.gauge(|g| g.evicted.add(1));
            }
            self.session.leave();
            self.say_farewell();
            parting = true;
        } else if idle_over {
            if !self.session.wrote() {
                return Poll::Ready(Close::Now);
            }
            // The end of the last answer is still on its way to a slow reader.
            self.say_farewell();
        }
        let written = self.session.poll_flush(&mut Context::from_waker(&self.waker), &mut self.stream);
        if parting {
            // What it was told is no answer of which it might still read the end.
            self.session.wrote();
        }
        match written {
            Poll::Ready(Ok(())) if self.session.over() => {
                Poll::Ready(if self.session.failed() { Close::Told } else { Close::Now })
            }
            Poll::Ready(Err(_)) => Poll::Ready(Close::Now),
            _ => Poll::Pending,
        }
    }

    fn say_farewell(&self) {
        if self.conn.requests.get() == 0 {
            self.conn.watch.deadline.set(self.conn.core.clock.now() + FAREWELL);
        }
    }

    /// Reads what there is, and begins to serve the requests in it. `false` when the client is gone.
    fn read(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            while let Some(Asked { slot, mut parts, seen, whole }) = self.session.next() {
                let sender = Sender::new(Handle::first(&self.session, slot));
                let body = (!whole).then(|| Inbound::Http2(sender.receiver()));
                let watch = self.streams.watch(&self.conn.core.deadlines);
                let asking = Box::pin((self.ask)(&watch, &mut parts, &seen, body));
                self.streams.begin(Stream { state: State::Asking(asking, sender), watch });
            }
            if self.session.failed() {
                self.part();
                return true;
            }
            match self.session.poll_read(&mut cx, &mut self.stream) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(_) => return false,
                Poll::Pending => return true,
            }
        }
    }

    /// The client was told that it is served no more.
    fn part(&self) {
        if !self.conn.leaving.replace(true) {
            self.say_farewell();
        }
    }

    /// Sets the time for what the client has begun to say in one go.
    fn look_at_unfinished(&mut self) {
        let (core, now_unfinished) = (&self.conn.core, self.session.unfinished().filter(|_| !self.session.failed()));
        match (now_unfinished, &self.unfinished) {
            (None, None) => {}
            (None, _) => self.unfinished = None,
            (Some(which), Some((known, _))) if which == *known => {}
            (Some(which), _) => {
                let deadline = Deadline::new(&core.deadlines);
                deadline.set(core.clock.now() + core.limits.request_headers.0);
                self.unfinished = Some((which, deadline));
            }
        }
    }

    /// Counts what came in the place of requests.
    fn count_refused(&self) {
        let Refused { large, malformed } = self.session.refused();
        (0..large).for_each(|_| self.conn.refused(431, Reason::BadRequest));
        (0..malformed).for_each(|_| self.conn.refused(0, Reason::BadRequest));
    }

    /// The client did not say in time what it had begun to say.
    fn too_slow(&mut self) {
        self.unfinished = None;
        self.conn.refused(0, Reason::HeadersTimeout);
        self.session.give_up(Code::ENHANCE_YOUR_CALM, Reason::HeadersTimeout.in_words());
        self.part();
    }
}

/// Closes the sending side, and reads on until the client closes, too.
async fn linger(conn: &Conn, mut stream: Transport) {
    let core = &conn.core;
    conn.watch.deadline.set(core.clock.now() + LINGER);
    let (mut closed, mut discarded) = (false, 0);
    std::future::poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        if !std::mem::replace(&mut closed, true) {
            // A socket's sending side is closed at once, or is already.
            let _ = Pin::new(&mut stream).poll_shutdown(cx);
        }
        while discarded < MAX_LINGER {
            match core.scratch.poll_read(cx, &mut stream, false) {
                Poll::Ready(Ok((read, _))) if !read.is_empty() => discarded += read.len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if discarded >= MAX_LINGER || conn.watch.deadline.reached() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The streams of a connection.
struct Streams<F> {
    wakes: Arc<Wakes>,
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    /// An empty list, to be exchanged for one that is not.
    woken: Vec<usize>,
    /// The watch of a stream that is over.
    watch: Option<Rc<Watch>>,
}

struct Slot<F> {
    stream: Option<Stream<F>>,
    wake: Arc<StreamWake>,
    waker: Waker,
}

impl<F> Streams<F>
where
    F: Future<Output = Response<ResponseBody>>,
{
    /// A watch for the next stream.
    fn watch(&mut self, deadlines: &Rc<Deadlines>) -> Rc<Watch> {
        self.watch.take().unwrap_or_else(|| Watch::new(deadlines))
    }

    /// Takes a stream in, which is then polled with those that were woken.
    fn begin(&mut self, stream: Stream<F>) {
        let index = self.free.pop().unwrap_or_else(|| {
            let wake = StreamWake::new(&self.wakes, self.slots.len());
            self.slots.push(Slot { stream: None, waker: Waker::from(wake.clone()), wake });
            self.slots.len() - 1
        });
        if let Some(slot) = self.slots.get_mut(index) {
            slot.stream = Some(stream);
            slot.waker.wake_by_ref();
        }
    }

    /// Polls those that something happened to.
    fn poll(&mut self, conn: &Conn) {
        let mut others = std::mem::take(&mut self.woken);
        let mut first = self.wakes.take_streams(&mut others);
        while first != 0 {
            self.poll_one(first.trailing_zeros() as usize, conn);
            first &= first - 1;
        }
        others.drain(..).for_each(|index| self.poll_one(index, conn));
        self.woken = others;
        if self.slots.len() > MAX_SPARE && self.free.len() == self.slots.len() {
            // What a burst of streams took is given back. Who still holds a waker of theirs wakes nobody.
            self.slots.truncate(MAX_SPARE);
            self.slots.shrink_to_fit();
            self.free = (0..MAX_SPARE).collect();
            self.woken = Vec::new();
        }
    }

    fn poll_one(&mut self, index: usize, conn: &Conn) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.wake.taken();
        let Some(stream) = &mut slot.stream else { return };
        if stream.poll(&mut Context::from_waker(&slot.waker), conn).is_pending() {
            return;
        }
        self.free.push(index);
        if let Some(Stream { state, mut watch }) = slot.stream.take() {
            drop(state);
            // Unless an upload that outlives its answer holds it.
            if let Some(free) = Rc::get_mut(&mut watch) {
                free.reset();
                self.watch = Some(watch);
            }
        }
    }
}

/// A request under way.
struct Stream<F> {
    state: State<F>,
    watch: Rc<Watch>,
}

enum State<F> {
    /// There is no answer yet.
    Asking(Pin<Box<F>>, Sender),
    Answering(Pipe<ResponseBody>),
    Over,
}

impl<F> Stream<F>
where
    F: Future<Output = Response<ResponseBody>>,
{
    /// Ready when it is over, whatever its end. Where that is too early, its end resets the stream.
    fn poll(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<()> {
        self.watch.deadline.register(cx.waker());
        if self.poll_parts(cx, conn).is_ready() {
            return Poll::Ready(());
        }
        if self.watch.deadline.reached() && self.watch.stalled(conn.core.clock.now(), false) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Asking(asking, sender) => match asking.as_mut().poll(cx) {
                    Poll::Ready(response) => {
                        pass_hints(&self.watch, sender);
                        let (parts, body) = response.into_parts();
                        let empty = body.is_end_stream();
                        let sent = sender.head(parts.status, &parts.headers, empty);
                        conn.core.scratch.recycle_map(parts.headers);
                        let state = std::mem::replace(&mut self.state, State::Over);
                        if let State::Asking(asking, sender) = state
                            && sent
                            && !empty
                        {
                            drop(asking);
                            self.state = State::Answering(Pipe::new(sender, body));
                        } else {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Pending => {
                        pass_hints(&self.watch, sender);
                        // The client may want no answer any more.
                        return sender.poll_reset(cx).map(drop);
                    }
                },
                State::Answering(pipe) => return pipe.poll(cx).map(drop),
                State::Over => return Poll::Ready(()),
            }
        }
    }
}

/// Sends what the endpoint said before its answer.
fn pass_hints(watch: &Watch, sender: &Sender) {
    for hint in watch.hints.take() {
        // Where it cannot be sent it is left out: the client is gone.
        sender.head(hint.status(), hint.headers(), false);
    }
}
