//! A client's connection: HTTP/1.1 or HTTP/2 by its first bytes, its limits in time, and its farewell.
//!
//! One deadline a connection. Without a request it is the idle limit, or, once a part of a head is there, the limit
//! for the rest of it (which starts with the first byte, so that dripping bytes does not help; a part that came in one
//! piece with the request before is not seen and counts as idle). With a request under way, the request owns the
//! deadline. HTTP/2 streams have a deadline each.
//!
//! A drain lets an HTTP/1.1 client finish its request, which is answered with `Connection: close`, and lets an idle
//! one go after a short while (`DRAIN_IDLE`), because a request may be on its way; HTTP/2 clients get GOAWAY. What was
//! answered is still written to a client that reads slowly. The connections of a listener that is closed leave likewise.
//!
//! What is not HTTP is answered by hyper (400, or 431 for a head too large) and counted here as `bad_request`.
//! 1xx answers of an endpoint other than 100 and 101 end here: hyper's server cannot send them. A client that closes
//! its sending side is taken to be gone, as most proxies do; half-closed clients of plain HTTP do not exist in
//! practice, and an abandoned request would otherwise run to its end.

use super::core::{Core, Held, Listener};
use super::forward;
use super::io::{Io, Marks, Spoken, sniff};
use super::upstream::poll_now;
use super::watch::Watch;
use crate::config::ListenerDefaults;
use crate::links::Time;
use crate::observe::Reason;
use crate::route::WorkloadId;
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a drain leaves an idle HTTP/1.1 connection open for a request that is on its way.
const DRAIN_IDLE: Duration = Duration::from_millis(100);
/// How long an HTTP/2 client may take to close after it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// hyper's own default for the number of headers, which it parses without an allocation.
const PLAIN_MAX_HEADERS: usize = 100;
/// What a connection holds of a client's bytes, or for a client that reads slowly, in bytes.
const MIN_BUFFER: usize = 64 * 1024;
/// HTTP/2 flow control: what a client may send unread, a stream and a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often an HTTP/2 client is checked to be alive, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// hyper's server settings, made once a core.
pub(super) struct ServerBuilders {
    http1: http1::Builder,
    limits: ListenerDefaults,
}

impl ServerBuilders {
    pub(super) fn new(limits: &ListenerDefaults) -> Self {
        let mut http1 = http1::Builder::new();
        let head = usize::try_from(limits.max_header_bytes.0).unwrap_or(usize::MAX);
        // Timeouts are this room's own: hyper's would count idle time as reading a head.
        http1.header_read_timeout(None).max_header_size(head).max_buf_size(head.clamp(MIN_BUFFER, 1 << 30));
        if limits.max_headers != PLAIN_MAX_HEADERS {
            http1.max_headers(limits.max_headers);
        }
        Self { http1, limits: limits.clone() }
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

/// A client's connection.
pub(super) struct Conn {
    pub core: Rc<Core>,
    /// The listener that it came in on.
    pub listener: Rc<Listener>,
    pub peer: IpAddr,
    pub peer_value: HeaderValue,
    pub http2: bool,
    pub marks: Arc<Marks>,
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
        } else {
            // hyper reads the next head only when the body before it was read.
            self.marks.linger.store(false, Relaxed);
        }
    }

    pub(super) fn end(&self, now: Time) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.core.gauge(|g| g.requests.sub(1));
        self.idle_since.set(now);
        self.idle_armed.set(false);
        Marks::take(&self.marks.read);
        if self.http2 && self.requests.get() == 0 {
            self.idle_armed.set(true);
            let within = if self.leaving.get() { FAREWELL } else { self.core.limits.idle.0 };
            self.watch.deadline.set(now + within);
        }
    }

    /// Whether this connection should end with what it has under way.
    fn told_to_leave(&self) -> bool {
        told_to_leave(&self.core, &self.listener)
    }
}

fn told_to_leave(core: &Core, listener: &Listener) -> bool {
    core.draining.get() || listener.closed.get()
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Rc<Listener>) {
    let watch = Watch::new(&core.deadlines);
    let Some((io, spoken)) = first_bytes(&core, &listener, &watch, stream).await else { return };
    let peer = peer.ip().to_canonical();
    let peer_value = HeaderValue::from_str(&peer.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    let conn = Rc::new(Conn {
        listener,
        peer,
        peer_value,
        http2: spoken == Spoken::Http2,
        marks: io.marks().clone(),
        watch,
        workload: RefCell::default(),
        requests: Cell::new(0),
        idle_since: Cell::new(core.clock.now()),
        idle_armed: Cell::new(false),
        leaving: Cell::new(false),
        core,
    });
    let result = match spoken {
        Spoken::Http1 => serve1(&conn, io).await,
        Spoken::Http2 => serve2(&conn, io).await,
    };
    if let Err(error) = result
        && error.is_parse()
    {
        let status = if error.is_parse_too_large() { 431 } else { 400 };
        conn.core.unrouted.finished(conn.core.index, status, Some(Reason::BadRequest), 0, (0, 0));
    }
}

/// Waits for the first bytes, for as long as an idle connection may; once there is one, as long as a head may take.
async fn first_bytes(
    core: &Rc<Core>,
    listener: &Listener,
    watch: &Rc<Watch>,
    stream: TcpStream,
) -> Option<(Io, Spoken)> {
    watch.deadline.set(core.clock.now() + core.limits.idle.0);
    let begun = Cell::new(false);
    let mut sniffing = pin!(sniff(stream, &begun));
    let (mut leaving, mut part_of_head) = (false, false);
    std::future::poll_fn(|cx| {
        watch.deadline.register(cx.waker());
        if let Some(first) = poll_now(sniffing.as_mut(), cx) {
            return Poll::Ready(first.ok().flatten());
        }
        if told_to_leave(core, listener) && !leaving {
            leaving = true;
            watch.deadline.set(core.clock.now() + DRAIN_IDLE);
        } else if begun.get() && !part_of_head && !leaving {
            part_of_head = true;
            watch.deadline.set(core.clock.now() + core.limits.request_headers.0);
        }
        if watch.deadline.reached() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

async fn serve1(conn: &Rc<Conn>, io: Io) -> hyper::Result<()> {
    let service = {
        let conn = conn.clone();
        service_fn(move |request| forward::serve(&conn, &conn.watch, request))
    };
    let mut serving = pin!(conn.core.servers.http1.serve_connection(TokioIo::new(io), service).with_upgrades());
    let (mut leaving, mut parting, mut part_of_head) = (false, false, false);
    std::future::poll_fn(|cx| {
        conn.watch.deadline.register(cx.waker());
        if let Some(over) = poll_now(serving.as_mut(), cx) {
            return Poll::Ready(over);
        }
        let (core, deadline) = (&conn.core, &conn.watch.deadline);
        if conn.requests.get() > 0 {
            (parting, part_of_head) = (false, false);
            if conn.told_to_leave() && !leaving {
                leaving = true;
                serving.as_mut().graceful_shutdown();
            }
            let stuck = deadline.reached() && conn.watch.stalled(core.clock.now(), Marks::take(&conn.marks.wrote));
            return if stuck { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if !conn.idle_armed.replace(true) {
            part_of_head = false;
            Marks::take(&conn.marks.wrote);
            deadline.set(conn.idle_since.get() + core.limits.idle.0);
        }
        if conn.told_to_leave() {
            if !parting {
                parting = true;
                // Where hyper was already asked to close, it does so once the last answer is out.
                deadline.set(core.clock.now() + if leaving { core.limits.idle.0 } else { DRAIN_IDLE });
            }
        } else if Marks::take(&conn.marks.read) && !part_of_head {
            part_of_head = true;
            deadline.set(core.clock.now() + core.limits.request_headers.0);
        }
        if !deadline.reached() {
            return Poll::Pending;
        }
        if parting && !leaving {
            leaving = true;
            serving.as_mut().graceful_shutdown();
            if let Some(over) = poll_now(serving.as_mut(), cx) {
                return Poll::Ready(over);
            }
            if conn.requests.get() > 0 {
                return Poll::Pending;
            }
            // hyper closes when the last answer is out and the lingering is done, or else waits for a part of a head.
            if !conn.marks.blocked.load(Relaxed) && !conn.marks.linger.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
            deadline.set(core.clock.now() + core.limits.idle.0);
            return Poll::Pending;
        }
        if (leaving || !part_of_head) && Marks::take(&conn.marks.wrote) {
            // The end of the last answer is still on its way to a slow reader.
            deadline.set(core.clock.now() + core.limits.idle.0);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    })
    .await
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
