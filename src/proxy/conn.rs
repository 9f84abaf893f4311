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
//! 1xx answers of an endpoint other than 100 and 101 end here where the client speaks HTTP/1.1: hyper's server cannot send
//! them (`early` passes them on over HTTP/2). A client that closes
//! its sending side is taken to be gone, as most proxies do; half-closed clients of plain HTTP do not exist in
//! practice, and an abandoned request would otherwise run to its end.

use super::core::{Core, Held, Listener};
use super::forward;
use super::http2::{self, FAREWELL};
use super::inbound::Inbound;
use super::io::{Io, Marks, Spoken, sniff};
use super::upstream::poll_now;
use super::watch::Watch;
use crate::config::ListenerDefaults;
use crate::links::Time;
use crate::observe::Reason;
use crate::route::WorkloadId;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a drain leaves an idle HTTP/1.1 connection open for a request that is on its way.
const DRAIN_IDLE: Duration = Duration::from_millis(100);
/// hyper's own default for the number of headers, which it parses without an allocation.
const PLAIN_MAX_HEADERS: usize = 100;
/// What a connection holds of a client's bytes, or for a client that reads slowly, in bytes.
const MIN_BUFFER: usize = 64 * 1024;

/// hyper's server settings, made once a core.
pub(super) struct ServerBuilders {
    http1: http1::Builder,
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
        Self { http1 }
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
    /// The authority that its last request asked for.
    pub host: RefCell<HeaderValue>,
    pub requests: Cell<usize>,
    /// When the last request ended.
    idle_since: Cell<Time>,
    /// The idle limit runs.
    idle_armed: Cell<bool>,
    /// An HTTP/2 client was asked to close.
    pub leaving: Cell<bool>,
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
        if !self.http2 {
            Marks::take(&self.marks.read);
        } else if self.requests.get() == 0 {
            self.idle_armed.set(true);
            let within = if self.leaving.get() { FAREWELL } else { self.core.limits.idle.0 };
            self.watch.deadline.set(now + within);
        }
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
        host: RefCell::new(HeaderValue::from_static("")),
        requests: Cell::new(0),
        idle_since: Cell::new(core.clock.now()),
        idle_armed: Cell::new(false),
        leaving: Cell::new(false),
        core,
    });
    let result = match spoken {
        Spoken::Http1 => serve1(&conn, io).await,
        Spoken::Http2 => {
            // Boxed: a connection's future is as large as HTTP/1.1 needs.
            Box::pin(http2::serve(&conn, io, |watch, request| forward::serve(&conn, watch, request))).await;
            return;
        }
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
        service_fn(move |request: Request<Incoming>| forward::serve(&conn, &conn.watch, request.map(Inbound::Http1)))
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
