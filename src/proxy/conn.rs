//! A client's connection: HTTP/1.1 (`server1`) or HTTP/2 by its first bytes, its limits in time, and its farewell.
//!
//! One deadline a connection. Without a request it is the idle limit, or, once a part of a head is there, the limit
//! for the rest of it (which starts with the first byte, so that dripping bytes does not help). With a request under
//! way, the request owns the deadline. HTTP/2 streams have a deadline each.
//!
//! A drain lets an HTTP/1.1 client finish its request, which is answered with `Connection: close`, and lets an idle
//! one go after a short while, because a request may be on its way; HTTP/2 clients get GOAWAY. What was answered is
//! still written to a client that reads slowly. The connections of a listener that is closed leave likewise, and those in
//! plain text of one that has become strict: what is under way on them is finished, what begins is refused. Of rules each
//! request asks anew. A connection that carries no requests (TCP, or upgraded) may go on for as long as a drain may take
//! (`Notice`).
//!
//! What is not HTTP is answered with 400, or 431 for a head too large, and counted as `bad_request`; a head that takes too
//! long with 408, `headers_timeout`. HTTP/2 says the same by 431, by resetting a stream, or by GOAWAY. A client that
//! closes its sending side is taken to be gone, as most proxies do; half-closed clients of plain HTTP do not exist in
//! practice, and an abandoned request would otherwise run to its end.

use super::added::Usual;
use super::core::{Core, Held, Listener};
use super::door;
use super::forward;
use super::http2::{self, FAREWELL};
use super::io::{Spoken, spoken};
use super::room::SPARED;
use super::server1::{self, Downstream};
use super::transport::{self, FIRST_BYTE, Transport};
use super::watch::Watch;
use crate::config::ListenerDefaults;
use crate::identity::{Handshake, Peer, Side, SpiffeId, TlsMode};
use crate::links::Time;
use crate::observe::{DurationKind, Reason};
use crate::route::{ClusterId, WorkloadId};
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a drain leaves an idle HTTP/1.1 connection open for a request that is on its way.
pub(super) const DRAIN_IDLE: Duration = Duration::from_millis(100);

/// The servers' settings, made once a core.
pub(super) struct ServerBuilders {
    pub http1: server1::Limits,
}

impl ServerBuilders {
    pub(super) fn new(limits: &ListenerDefaults) -> Self {
        let head = usize::try_from(limits.max_header_bytes.0).unwrap_or(usize::MAX);
        Self { http1: server1::Limits { head, headers: limits.max_headers } }
    }
}

/// A client's address, who it has proven to be, and where its connection was going, where it was captured.
pub(super) type Who = (IpAddr, Option<Box<Proven>>, Option<Box<SocketAddr>>);

/// A client's connection.
pub(super) struct Conn {
    pub core: Rc<Core>,
    /// The listener that it came in on.
    pub listener: Rc<Listener>,
    pub peer: IpAddr,
    pub peer_value: HeaderValue,
    pub http2: bool,
    /// The deadline of the connection, and of an HTTP/1.1 connection's requests.
    pub watch: Rc<Watch>,
    workload: RefCell<Option<(u64, Option<WorkloadId>)>>,
    /// The authority that its last request asked for.
    pub host: RefCell<HeaderValue>,
    /// Who the client has proven to be, where it was asked. Boxed: most connections pay its place alone.
    proven: Option<Box<Proven>>,
    /// Where it was going, where it was captured.
    meant: Option<Box<SocketAddr>>,
    /// What its requests get alike.
    pub usual: Usual,
    pub requests: Cell<usize>,
    /// When the last request ended.
    idle_since: Cell<Time>,
    /// The idle limit runs.
    idle_armed: Cell<bool>,
    /// An HTTP/2 client was asked to close.
    pub leaving: Cell<bool>,
}

impl Conn {
    pub(super) fn new(
        core: Rc<Core>,
        listener: Rc<Listener>,
        (peer, proven, meant): Who,
        http2: bool,
        watch: Rc<Watch>,
    ) -> Rc<Self> {
        let peer_value =
            HeaderValue::from_str(&peer.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Rc::new(Self {
            listener,
            peer,
            peer_value,
            http2,
            watch,
            workload: RefCell::default(),
            host: RefCell::new(HeaderValue::from_static("")),
            proven,
            meant,
            usual: Usual::default(),
            requests: Cell::new(0),
            idle_since: Cell::new(core.clock.now()),
            idle_armed: Cell::new(false),
            leaving: Cell::new(false),
            core,
        })
    }

    /// Who the client has proven to be.
    pub(super) fn client_id(&self) -> Option<&SpiffeId> {
        self.proven.as_ref()?.peer.as_ref().map(|peer| &peer.id)
    }

    /// The same as `X-Forwarded-Client-Cert` says it.
    pub(super) fn client_cert(&self) -> Option<&HeaderValue> {
        self.proven.as_ref()?.client_cert.as_ref()
    }

    /// Whether it came over TLS.
    pub(super) fn secure(&self) -> bool {
        self.proven.as_ref().is_some_and(|proven| proven.secure)
    }

    /// Whether it came in plain text where that is refused, by now if not when it came.
    pub(super) fn plain_text(&self) -> bool {
        self.proven.as_ref().map_or(self.listener.strict.get(), |proven| !proven.secure)
    }

    /// Why its listener would not take it now, if it carries no requests.
    fn unwelcome(&self) -> Option<Reason> {
        if self.plain_text() {
            return Some(Reason::TlsRequired);
        }
        let held = self.core.generation();
        let workload = self.workload(&held).and_then(|id| held.generation.routes.workload(id));
        let Some(workload) = workload else { return Some(Reason::UnknownSource) };
        let refused = workload.allow.as_ref().is_some_and(|rules| !rules.allow_connection(self.client_id()));
        refused.then_some(Reason::NotAllowed)
    }

    /// The cluster that it was going to, where it was captured.
    pub(super) fn destination(&self, held: &Held) -> Option<ClusterId> {
        held.generation.routes.connections().destination(*self.meant.as_deref()?)
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

    /// Counts what came in the place of a request, and was refused with this status; 0 is none.
    pub(super) fn refused(&self, status: u16, reason: Reason) {
        let (core, reason) = (&self.core, Some(reason));
        // Its method may be anything.
        let kind = DurationKind::unreadable(status, reason).over_tls(self.secure());
        core.unrouted.finished(core.index, None, (kind, reason), 0, (0, 0), None::<fn() -> _>);
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

    /// Whether it has been idle for a while and others need its descriptor.
    pub(super) fn in_the_way(&self) -> bool {
        self.core.gauges.room.is_scarce(self.core.clock)
            && !self.busy()
            && self.core.clock.now().since(self.idle_since()) >= SPARED
    }

    /// Whether this connection should end with what it has under way.
    pub(super) fn told_to_leave(&self) -> bool {
        // Who has proven nothing came when nothing had to be proven.
        told_to_leave(&self.core, &self.listener) || self.listener.strict.get() && self.proven.is_none()
    }
}

/// Until when a connection that carries no requests may go on, and why, once its listener would take it no more.
pub(super) struct Notice {
    /// What was last known of the listener.
    judged: Option<u32>,
    until: Option<(Time, Reason)>,
}

impl Notice {
    /// One that was not looked at yet.
    pub(super) fn none() -> Self {
        Self { judged: None, until: None }
    }

    /// Looks at the listener, where that takes other connections than when it was last looked at. Whether it did.
    /// `rules` says whether the workload's rules are asked, too.
    pub(super) fn look(&mut self, conn: &Conn, rules: bool) -> bool {
        let judged = Some(conn.listener.judged.get());
        if self.judged == judged {
            return false;
        }
        self.judged = judged;
        let reason = conn.unwelcome().filter(|reason| rules || *reason == Reason::TlsRequired);
        let at = || self.until.map_or_else(|| conn.core.clock.now() + conn.core.drain, |(at, _)| at);
        self.until = reason.map(|reason| (at(), reason));
        true
    }

    /// The earlier of this and another moment, and why.
    pub(super) fn or(&self, due: Time, reason: Reason) -> (Time, Reason) {
        self.until.filter(|(at, _)| *at < due).unwrap_or((due, reason))
    }
}

fn told_to_leave(core: &Core, listener: &Listener) -> bool {
    core.draining.get() || listener.closed.get()
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Rc<Listener>) {
    let door = core.generation().generation.routes.connections().door(listener.address).cloned();
    if let Some(door) = door {
        // Boxed: a connection's future is as large as plain HTTP needs.
        return Box::pin(door::serve(core, stream, peer, listener, &door)).await;
    }
    let watch = Watch::new(&core.deadlines);
    serve_http(core, Transport::Plain(stream), BytesMut::new(), (peer.ip().to_canonical(), None), listener, watch)
        .await;
}

/// Serves a connection on which HTTP is spoken, and `read` came already.
pub(super) async fn serve_http(
    core: Rc<Core>,
    stream: Transport,
    read: BytesMut,
    (peer, meant): (IpAddr, Option<Box<SocketAddr>>),
    listener: Rc<Listener>,
    watch: Rc<Watch>,
) {
    let Some(first) = first_bytes(&core, &listener, &watch, stream, read).await else { return };
    let (proven, first) = match core.generation().generation.routes.tls(listener.address) {
        TlsMode::Disabled => (None, first),
        // Boxed: a connection's future is as large as plain text needs.
        mode => match Box::pin(prove(&core, &listener, &watch, mode, first)).await {
            Some(proven) => proven,
            None => return,
        },
    };
    speak(core, listener, watch, (peer, proven, meant), first).await;
}

/// Speaks HTTP with a client.
pub(super) async fn speak(
    core: Rc<Core>,
    listener: Rc<Listener>,
    watch: Rc<Watch>,
    who: Who,
    (stream, read, spoken): First,
) {
    match spoken {
        Spoken::Http1 => {
            let downstream = Downstream::new(core.clone(), stream, read);
            let conn = Conn::new(core, listener, who, false, watch);
            server1::serve(&conn, &downstream).await;
        }
        Spoken::Http2 => {
            let conn = Conn::new(core, listener, who, true, watch);
            let ask = |watch: &_, parts: &mut _, seen: &_, body| forward::serve(&conn, watch, parts, seen, body);
            // Boxed: a connection's future is as large as HTTP/1.1 needs.
            Box::pin(http2::serve(&conn, stream, read, ask)).await;
        }
    }
}

/// A connection, what was read of it, and what that is.
pub(super) type First = (Transport, Bytes, Spoken);

/// Who a client has proven to be.
pub(super) struct Proven {
    /// By TLS; else it came in plain text where that is refused.
    secure: bool,
    peer: Option<Peer>,
    client_cert: Option<HeaderValue>,
}

/// Finds out who a client is, on a listener that asks. None where there is nobody to answer.
async fn prove(
    core: &Rc<Core>,
    listener: &Listener,
    watch: &Rc<Watch>,
    mode: TlsMode,
    (stream, read, spoken): First,
) -> Option<(Option<Box<Proven>>, First)> {
    let plain = match stream {
        Transport::Plain(plain) if read.first() == Some(&FIRST_BYTE) => plain,
        // Answered in the client's own words, and with nothing else: each request is refused.
        stream => return Some((plain_text(core, mode), (stream, read, spoken))),
    };
    let (proven, stream) = secure(core, listener, watch, plain, read).await?;
    Some((Some(proven), first_bytes(core, listener, watch, stream, BytesMut::new()).await?))
}

/// What is known of a client that spoke plain text: where that is refused, that it did.
pub(super) fn plain_text(core: &Core, mode: TlsMode) -> Option<Box<Proven>> {
    (mode == TlsMode::Strict).then(|| {
        core.identities.handshakes.count(Side::Downstream, Handshake::PlainText);
        Box::new(Proven { secure: false, peer: None, client_cert: None })
    })
}

/// Secures a client's connection, on which `read` came already. None where that fails.
pub(super) async fn secure(
    core: &Rc<Core>,
    listener: &Listener,
    watch: &Rc<Watch>,
    plain: TcpStream,
    read: Bytes,
) -> Option<(Box<Proven>, Transport)> {
    let handshakes = &core.identities.handshakes;
    let Some(identity) = core.identities.current() else {
        handshakes.count(Side::Downstream, Handshake::NoIdentity);
        return None;
    };
    watch.deadline.set(core.clock.now() + core.limits.request_headers.0);
    let mut accepting = pin!(transport::accept(identity.server.clone(), plain, read, &core.scratch));
    let accepted = std::future::poll_fn(|cx| {
        watch.deadline.register(cx.waker());
        match accepting.as_mut().poll(cx) {
            Poll::Pending if watch.deadline.reached() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            accepted => accepted,
        }
    })
    .await;
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            let outcome = Handshake::failed(&error);
            tracing::debug!(listener = %listener.address, %error, outcome = outcome.code(), "a client's handshake failed");
            handshakes.count(Side::Downstream, outcome);
            return None;
        }
    };
    handshakes.count(Side::Downstream, Handshake::Done);
    let peer = stream.peer();
    let said = peer.as_ref().map(|peer| format!("By={};Hash={};URI={}", identity.id(), peer.digest, peer.id));
    let client_cert = said.and_then(|said| HeaderValue::try_from(said).ok());
    Some((Box::new(Proven { secure: true, peer, client_cert }), stream))
}

/// Waits for the first bytes, for as long as an idle connection may; once there is one, as long as a head may take.
/// `part` came already, and says too little: a part of what HTTP/2 begins with.
pub(super) async fn first_bytes(
    core: &Rc<Core>,
    listener: &Listener,
    watch: &Rc<Watch>,
    mut stream: Transport,
    mut part: BytesMut,
) -> Option<First> {
    if !part.is_empty()
        && let Some(spoken) = spoken(&part)
    {
        return Some((stream, part.freeze(), spoken));
    }
    let accepted = core.clock.now();
    watch.deadline.set(accepted + core.limits.idle.0);
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
        let in_the_way = || core.gauges.room.is_scarce(core.clock) && core.clock.now().since(accepted) >= SPARED;
        if !leaving && (told_to_leave(core, listener) || in_the_way()) {
            leaving = true;
            watch.deadline.set(core.clock.now() + DRAIN_IDLE);
            if !told_to_leave(core, listener) {
                core.gauge(|g| g.evicted.add(1));
            }
        }
        if !watch.deadline.reached() {
            return Poll::Pending;
        }
        // Half a preface and too slow: that is said as HTTP/1.1, too, which may wait as long once more.
        let half = !leaving && !part.is_empty();
        Poll::Ready(half.then(|| (std::mem::take(&mut part).freeze(), Spoken::Http1)))
    })
    .await;
    known.map(|(read, spoken)| (stream, read, spoken))
}
