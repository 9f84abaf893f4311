//! A client's HTTP/2 connection: one task for it and for all its streams.
//!
//! Each stream has a deadline of its own; without a stream the connection's idle limit runs. What is left of an idle
//! connection is `h2`'s state and one empty place for a stream.
//!
//! A turn is bounded: what comes up while it writes is left to the next one, so that no client keeps the others of its
//! core waiting.

use super::super::body::ResponseBody;
use super::super::conn::Conn;
use super::super::deadlines::Deadlines;
use super::super::inbound::Inbound;
use super::super::io::{Io, Marks};
use super::super::upstream::poll_now;
use super::super::watch::Watch;
use super::wakes::{StreamWake, Wakes};
use super::{Patience, Pipe, Received, Silence};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use http::{Request, Response};
use http_body::Body;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// A client is pinged after 30 seconds without a byte of it, and gone after 20 more.
const PATIENCE: Patience = Patience { time: Duration::from_secs(10), ask_after: 3, give_up_after: 5 };
/// How long a client may take to close after it was asked to.
pub(in crate::proxy) const FAREWELL: Duration = Duration::from_secs(5);
/// How many empty places for streams a connection keeps.
const MAX_SPARE: usize = 1;

/// Serves a connection to its end; `ask` begins to serve a request.
pub(in crate::proxy) async fn serve<F, A>(conn: &Rc<Conn>, io: Io, ask: A)
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
    A: Fn(&Rc<Watch>, Request<Inbound>) -> F,
{
    // Boxed, both: what a connection's future holds, it holds as long as the connection lives.
    if let Some(connection) = Box::pin(connect(conn, io)).await {
        let mut serving = Box::new(Serving::new(conn, ask, connection));
        std::future::poll_fn(|cx| serving.poll(cx)).await;
    }
}

/// Waits until the settings are out.
async fn connect(conn: &Rc<Conn>, io: Io) -> Option<Connection<Io, Bytes>> {
    let core = &conn.core;
    conn.watch.deadline.set(core.clock.now() + core.limits.idle.0);
    let mut handshake = pin!(core.http2.builder.handshake(io));
    std::future::poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        match poll_now(handshake.as_mut(), cx) {
            Some(connected) => Poll::Ready(connected.ok()),
            None if conn.watch.deadline.reached() => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}

struct Serving<'a, F, A> {
    conn: &'a Rc<Conn>,
    ask: A,
    connection: Connection<Io, Bytes>,
    /// The connection's own.
    waker: Waker,
    wakes: Arc<Wakes>,
    streams: Streams<F>,
    silence: Silence,
}

impl<'a, F, A> Serving<'a, F, A>
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
    A: Fn(&Rc<Watch>, Request<Inbound>) -> F,
{
    fn new(conn: &'a Rc<Conn>, ask: A, mut connection: Connection<Io, Bytes>) -> Self {
        let core = &conn.core;
        let wakes = Arc::new(Wakes::default());
        let silence = Silence::new(PATIENCE, core.clock, &core.deadlines, connection.ping_pong());
        let waker = Waker::from(wakes.clone());
        // The first turn looks at everything.
        waker.wake_by_ref();
        let streams =
            Streams { wakes: wakes.clone(), slots: Vec::new(), free: Vec::new(), woken: Vec::new(), watch: None };
        Self { conn, ask, connection, waker, wakes, streams, silence }
    }

    /// One turn. Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wakes.begin(cx.waker());
        self.conn.watch.deadline.register(cx.waker());
        let over = self.turn(cx);
        if self.wakes.end() {
            cx.waker().wake_by_ref();
        }
        over
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (conn, core) = (self.conn, &self.conn.core);
        if self.silence.broken(cx, || Marks::take(&conn.marks.read), || true) || self.converse().is_ready() {
            return Poll::Ready(());
        }
        self.streams.poll(conn);
        if self.converse().is_ready() {
            return Poll::Ready(());
        }
        let idle_over = conn.requests.get() == 0 && conn.watch.deadline.reached();
        if (conn.told_to_leave() || idle_over) && !conn.leaving.replace(true) {
            self.connection.graceful_shutdown();
            if conn.requests.get() == 0 {
                conn.watch.deadline.set(core.clock.now() + FAREWELL);
            }
            // GOAWAY goes out with this.
            self.waker.wake_by_ref();
            if self.converse().is_ready() {
                return Poll::Ready(());
            }
            Marks::take(&conn.marks.wrote);
        } else if idle_over {
            if !Marks::take(&conn.marks.wrote) {
                return Poll::Ready(());
            }
            // The end of the last answer is still on its way to a slow reader.
            conn.watch.deadline.set(core.clock.now() + FAREWELL);
        }
        Poll::Pending
    }

    /// Reads and writes where something happened to the connection. Ready when it is over.
    fn converse(&mut self) -> Poll<()> {
        if !self.wakes.take_connection() {
            return Poll::Pending;
        }
        let mut cx = Context::from_waker(&self.waker);
        // An error of the connection is the client's, and leaves nobody to tell.
        while let Some(Ok((request, respond))) = ready!(self.connection.poll_accept(&mut cx)) {
            let (parts, stream) = request.into_parts();
            let body = Inbound::Http2(Received::new(stream));
            let watch = self.streams.watch(&self.conn.core.deadlines);
            let asking = Box::pin((self.ask)(&watch, Request::from_parts(parts, body)));
            self.streams.begin(Stream { state: State::Asking(asking), respond, watch });
        }
        Poll::Ready(())
    }
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
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
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
        self.wakes.take_streams(&mut self.woken);
        for index in self.woken.drain(..) {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            slot.wake.taken();
            let Some(stream) = &mut slot.stream else { continue };
            if stream.poll(&mut Context::from_waker(&slot.waker), conn).is_ready() {
                self.free.push(index);
                if let Some(Stream { state, respond, mut watch }) = slot.stream.take() {
                    drop((state, respond));
                    // Unless an upload that outlives its answer holds it.
                    if let Some(free) = Rc::get_mut(&mut watch) {
                        free.reset();
                        self.watch = Some(watch);
                    }
                }
            }
        }
        if self.slots.len() > MAX_SPARE && self.free.len() == self.slots.len() {
            // What a burst of streams took is given back. Who still holds a waker of theirs wakes nobody.
            self.slots.truncate(MAX_SPARE);
            self.slots.shrink_to_fit();
            self.free = (0..MAX_SPARE).collect();
            self.woken = Vec::new();
        }
    }
}

/// A request under way.
struct Stream<F> {
    state: State<F>,
    respond: SendResponse<Bytes>,
    watch: Rc<Watch>,
}

enum State<F> {
    /// There is no answer yet.
    Asking(Pin<Box<F>>),
    Answering(Pipe<ResponseBody>),
}

impl<F> Stream<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
{
    /// Ready when it is over, whatever its end. Where that is too early, its end resets the stream.
    fn poll(&mut self, cx: &mut Context<'_>, conn: &Conn) -> Poll<()> {
        self.watch.deadline.register(cx.waker());
        if self.poll_parts(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.watch.deadline.reached() && self.watch.stalled(conn.core.clock.now(), false) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Asking(asking) => match asking.as_mut().poll(cx) {
                    Poll::Ready(Ok(response)) => match self.answer(response) {
                        Some(pipe) => self.state = State::Answering(pipe),
                        None => return Poll::Ready(()),
                    },
                    Poll::Pending => {
                        self.pass_hints();
                        // The client may want no answer any more.
                        return self.respond.poll_reset(cx).map(drop);
                    }
                },
                State::Answering(pipe) => return pipe.poll(cx).map(drop),
            }
        }
    }

    /// Sends what the endpoint said before its answer.
    fn pass_hints(&mut self) {
        for hint in self.watch.hints.take() {
            // Where it cannot be sent it is left out: the client is gone, or the answer is what matters.
            let _ = self.respond.send_informational(hint);
        }
    }

    /// Sends the answer's head; its body, where it has one, comes back to be sent.
    fn answer(&mut self, response: Response<ResponseBody>) -> Option<Pipe<ResponseBody>> {
        self.pass_hints();
        let (parts, body) = response.into_parts();
        let empty = body.is_end_stream();
        match self.respond.send_response(Response::from_parts(parts, ()), empty) {
            Ok(stream) => (!empty).then(|| Pipe::new(stream, body)),
            Err(_) => {
                // The client is gone, or the head is none that may be sent, which an endpoint over HTTP/1.1 can bring
                // about; no answer can be sent in its place.
                self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
                None
            }
        }
    }
}
