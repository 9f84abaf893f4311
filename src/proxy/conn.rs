//! A client's connection: HTTP/1.1 (`server1`) or HTTP/2 by its first bytes, its limits in time, and its farewell.
//!
//! One deadline a connection. Without a request it is the idle limit, or, once a part of a head is there, the limit
//! for the rest of it (which starts with the first byte, so that dripping bytes does not help). With a request under
//! way, the request owns the deadline. HTTP/2 streams have a deadline each.
//!
//! A drain lets an HTTP/1.1 client finish its request, which is answered with `Connection: close`, and lets an idle
//! one go after a short while, because a request may be on its way; HTTP/2 clients get GOAWAY. What was answered is
//! still written to a client that reads slowly. The connections of a listener that is closed leave likewise.
//!
//! What is not HTTP is answered with 400, or 431 for a head too large, and counted as `bad_request`. A client that
//! closes its sending side is taken to be gone, as most proxies do; half-closed clients of plain HTTP do not exist in
//! practice, and an abandoned request would otherwise run to its end.

use super::core::{Core, Held, Listener};
use super::forward;
use super::io::{Io, Marks, Spoken, spoken};
use super::server1::{self, Inbound};
use super::upstream::poll_now;
use super::watch::Watch;
use crate::config::ListenerDefaults;
use crate::links::Time;
use crate::observe::Reason;
use crate::route::WorkloadId;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a drain leaves an idle HTTP/1.1 connection open for a request that is on its way.
pub(super) const DRAIN_IDLE: Duration = Duration::from_millis(100);
/// How long an HTTP/2 client may take to close after it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// What an HTTP/2 stream holds for a client that reads slowly, in bytes.
const MIN_BUFFER: usize = 64 * 1024;
/// HTTP/2 flow control: what a client may send unread, a stream and a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often an HTTP/2 client is checked to be alive, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// The servers' settings, made once a core.
pub(super) struct ServerBuilders {
    pub http1: server1::Limits,
    limits: ListenerDefaults,
}

impl ServerBuilders {
    pub(super) fn new(limits: &ListenerDefaults) -> Self {
        let head = usize::try_from(limits.max_header_bytes.0).unwrap_or(usize::MAX);
        Self { http1: server1::Limits { head, headers: limits.max_headers }, limits: limits.clone() }
    }

    fn http2(&self, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
        let mut http2 = http2::Builder::new(executor);
        http2
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(self.limits.max_streams)
            .max_header_list_size(u32::try_from(self.limits.max_header_bytes.0).unwrap_or(u32::MAX))
            .max_send_buf_size(MIN_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        http2
    }
}

/// What a client speaks, and what its connection's task looks at.
enum Client {
    Http1(Rc<Inbound>),
    Http2(Arc<Marks>),
}

/// A client's connection.
pub(super) struct Conn {
    pub core: Rc<Core>,
    /// The listener that it came in on.
    pub listener: Rc<Listener>,
    pub peer: IpAddr,
    pub peer_value: HeaderValue,
    pub http2: bool,
    /// The client's side, where it speaks HTTP/1.1.
    pub http1: Option<Rc<Inbound>>,
    marks: Arc<Marks>,
    /// The deadline of the connection, and of an HTTP/1.1 connection's requests.
    pub watch: Rc<Watch>,
    workload: RefCell<Option<(u64, Option<WorkloadId>)>>,
    requests: Cell<usize>,
    /// When the last request ended.
    idle_since: Cell<Time>,
    /// The idle limit runs.
    idle_armed: Cell<bool>,
    /// An HTTP/2 client was asked to close.
    leaving: Cell<bool>,
}

impl Conn {
    fn new(core: Rc<Core>, listener: Rc<Listener>, peer: IpAddr, client: Client, watch: Rc<Watch>) -> Rc<Self> {
        let peer_value =
            HeaderValue::from_str(&peer.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let (http1, marks) = match client {
            Client::Http1(inbound) => (Some(inbound), Arc::default()),
            Client::Http2(marks) => (None, marks),
        };
        Rc::new(Self {
            listener,
            peer,
            peer_value,
            http2: http1.is_none(),
            http1,
            marks,
            watch,
            workload: RefCell::default(),
            requests: Cell::new(0),
            idle_since: Cell::new(core.clock.now()),
            idle_armed: Cell::new(false),
            leaving: Cell::new(false),
            core,
        })
    }

    /// An HTTP/1.1 connection.
    pub(super) fn http1(inbound: &Rc<Inbound>, listener: Rc<Listener>, peer: IpAddr, watch: Rc<Watch>) -> Rc<Self> {
        Self::new(inbound.core().clone(), listener, peer, Client::Http1(inbound.clone()), watch)
    }

    /// Whose connection this is; found once, and again when routes were replaced.
    pub(super) fn workload(&self, held: &Held) -> Option<WorkloadId> {
        let mut known = self.workload.borrow_mut();
        match *known {
            Some((epoch, workload)) if epoch == held.routes_epoch => workload,
            _ => {
                let workload = held.generation.routes.workload_of(self.listener.address, self.peer);
                *known = Some((held.routes_epoch, workload));
                workload
            }
        }
    }

    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.core.gauge(|g| g.requests.add(1));
        if self.http2 {
            self.watch.deadline.clear();
        }
    }

    pub(super) fn end(&self, now: Time) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.core.gauge(|g| g.requests.sub(1));
        self.idle_since.set(now);
        self.idle_armed.set(false);
        if self.http2 && self.requests.get() == 0 {
            self.idle_armed.set(true);
            let within = if self.leaving.get() { FAREWELL } else { self.core.limits.idle.0 };
            self.watch.deadline.set(now + within);
        }
    }

    /// Whether a request is under way.
    pub(super) fn busy(&self) -> bool {
        self.requests.get() > 0
    }

    /// When the last request ended.
    pub(super) fn idle_since(&self) -> Time {
        self.idle_since.get()
    }

    /// Whether the idle limit does not run yet; it does from then on.
    pub(super) fn begins_idle(&self) -> bool {
        !self.idle_armed.replace(true)
    }

    /// Whether this connection should end with what it has under way.
    pub(super) fn told_to_leave(&self) -> bool {
        told_to_leave(&self.core, &self.listener)
    }
}

fn told_to_leave(core: &Core, listener: &Listener) -> bool {
    core.draining.get() || listener.closed.get()
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Rc<Listener>) {
    let watch = Watch::new(&core.deadlines);
    let Some((stream, read, spoken)) = first_bytes(&core, &listener, &watch, stream).await else { return };
    let peer = peer.ip().to_canonical();
    match spoken {
        Spoken::Http1 => {
            let inbound = Inbound::new(core, stream, read);
            let conn = Conn::http1(&inbound, listener, peer, watch);
            server1::serve(&conn, &inbound).await;
        }
        Spoken::Http2 => {
            let io = Io::new(stream, read);
            let conn = Conn::new(core, listener, peer, Client::Http2(io.marks().clone()), watch);
            // Boxed: an HTTP/1.1 connection's task must not be as large as this.
            let result = Box::pin(serve2(&conn, io)).await;
            if let Err(error) = result
                && error.is_parse()
            {
                conn.core.unrouted.finished(conn.core.index, 400, Some(Reason::BadRequest), 0, (0, 0));
            }
        }
    }
}

/// Waits for the first bytes, for as long as an idle connection may; once there is one, as long as a head may take.
async fn first_bytes(
    core: &Rc<Core>,
    listener: &Listener,
    watch: &Rc<Watch>,
    mut stream: TcpStream,
) -> Option<(TcpStream, Bytes, Spoken)> {
    watch.deadline.set(core.clock.now() + core.limits.idle.0);
    // A part of what HTTP/2 begins with.
    let mut part = BytesMut::new();
    let mut leaving = false;
    let known = std::future::poll_fn(|cx| {
        watch.deadline.register(cx.waker());
        while let Poll::Ready(read) = core.scratch.poll_read(cx, &mut stream, false) {
            let Ok((mut read, _)) = read else { return Poll::Ready(None) };
            if read.is_empty() {
                // Half a preface and no more: what is wrong with it is said as HTTP/1.1.
                let known = (!part.is_empty()).then(|| (std::mem::take(&mut part).freeze(), Spoken::Http1));
                return Poll::Ready(known);
            }
            let begun = !part.is_empty();
            if begun {
                part.extend_from_slice(&read);
                read = part.clone().freeze();
            }
            if let Some(spoken) = spoken(&read) {
                return Poll::Ready(Some((read, spoken)));
            }
            if !begun {
                part.extend_from_slice(&read);
                if !leaving {
                    watch.deadline.set(core.clock.now() + core.limits.request_headers.0);
                }
            }
        }
        if told_to_leave(core, listener) && !leaving {
            leaving = true;
            watch.deadline.set(core.clock.now() + DRAIN_IDLE);
        }
        if watch.deadline.reached() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    known.map(|(read, spoken)| (stream, read, spoken))
}

async fn serve2(conn: &Rc<Conn>, io: Io) -> hyper::Result<()> {
    let executor = StreamExecutor::default();
    let service = {
        let (conn, next) = (conn.clone(), executor.next.clone());
        service_fn(move |request| {
            let watch = Watch::new(&conn.core.deadlines);
            *next.borrow_mut() = Some((conn.core.clone(), watch.clone()));
            forward::serve(&conn, &watch, request)
        })
    };
    let mut serving = pin!(conn.core.servers.http2(executor).serve_connection(TokioIo::new(io), service));
    conn.watch.deadline.set(conn.core.clock.now() + conn.core.limits.idle.0);
    std::future::poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        if let Some(over) = poll_now(serving.as_mut(), cx) {
            return Poll::Ready(over);
        }
        let core = &conn.core;
        let idle_over = conn.requests.get() == 0 && conn.watch.deadline.reached();
        if (conn.told_to_leave() || idle_over) && !conn.leaving.replace(true) {
            serving.as_mut().graceful_shutdown();
            if conn.requests.get() == 0 {
                conn.watch.deadline.set(core.clock.now() + FAREWELL);
            }
            // GOAWAY goes out with this poll.
            if let Some(over) = poll_now(serving.as_mut(), cx) {
                return Poll::Ready(over);
            }
            Marks::take(&conn.marks.wrote);
        } else if idle_over {
            if !Marks::take(&conn.marks.wrote) {
                return Poll::Ready(Ok(()));
            }
            // The end of the last answer is still on its way to a slow reader.
            conn.watch.deadline.set(core.clock.now() + FAREWELL);
        }
        Poll::Pending
    })
    .await
}

type Watched = (Rc<Core>, Rc<Watch>);

/// Runs the streams of an HTTP/2 connection, each under its own watch.
#[derive(Clone, Default)]
struct StreamExecutor {
    /// The watch of the request that hyper is about to spawn: it calls the service and then the executor.
    next: Rc<RefCell<Option<Watched>>>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        match self.next.take() {
            Some((core, watch)) => drop(tokio::task::spawn_local(Stream { future: Box::pin(future), core, watch })),
            None => drop(tokio::task::spawn_local(future)),
        }
    }
}

struct Stream<F> {
    future: Pin<Box<F>>,
    core: Rc<Core>,
    watch: Rc<Watch>,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.deadline.register(cx.waker());
        if self.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.watch.deadline.reached() && self.watch.stalled(self.core.clock.now(), false) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
