//! Connections to endpoints, pooled a core and an endpoint apart.
//!
//! HTTP/1.1 (`client1`): a stack of idle connections, the last used on top, so that few stay warm and the rest grow old
//! and are closed. HTTP/2 (`shared`): a few shared connections, the least busy first, another one opened when all are
//! full; one that its endpoint closes or asks to leave (GOAWAY) is found closed and forgotten. Everything belongs to one
//! thread: no locks.
//!
//! **What is sent twice** to the same endpoint (`attempts` says what goes to another). What was not written at all: a
//! pooled connection that had died costs a fresh connection, and a fresh one that refuses is reported to the caller, who
//! may try another endpoint. What was written goes out once more only in the race that nobody can avoid (RFC 9112,
//! section 9.3.1): on a connection from the pool, which its endpoint closed before anything of an answer came, a request
//! without a body (or none of it sent) that is idempotent; once, on a fresh connection. Where that cannot be opened the
//! request is lost to this endpoint, which may have acted on it before it went away. HTTP/2 endpoints say what they did
//! nothing with.

use super::client1::{Connection, Ended, Exchange, Head, Sending};
use super::core::Core;
use super::dialing::connect;
use super::early::Early;
use super::failure::Failure;
use super::http2::Pipe;
use super::ids::Ids;
use super::propagation::Carried;
use super::shared::{Attempted, Lease2, Shared};
use super::upload::RequestBody;
use super::wire1::Scratch;
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::links::Time;
use crate::observe::Reason;
use http::{Request, request};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::Duration;

/// How many idle HTTP/1.1 connections an endpoint may have a core.
const MAX_IDLE: usize = 512;
/// How many shared HTTP/2 connections an endpoint may have a core; beyond, requests wait for a stream.
const MAX_SHARED: usize = 8;

/// A request on its way to an endpoint.
pub(super) enum Outgoing {
    Http1(Sending),
    Http2(Request<RequestBody>),
    /// It is being sent over HTTP/2, or was: what could be sent again.
    Spent(request::Parts, Option<Pipe<RequestBody>>),
    Gone,
}

impl Outgoing {
    /// Makes it as it was before it was sent, if that is still to be had.
    pub(super) fn rewind(&mut self) -> bool {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Http1(mut sending) => {
                let whole = sending.writer.whole();
                if whole {
                    sending.rewind();
                }
                *self = Self::Http1(sending);
                return whole;
            }
            Self::Spent(parts, pipe) => match unsent(pipe) {
                Some(body) => Self::Http2(Request::from_parts(parts, body)),
                None => return false,
            },
            other => other,
        };
        !matches!(self, Self::Gone)
    }

    /// Tells another span of its trace; for what begins anew.
    pub(super) fn retrace(&mut self, trace: &Carried<'_>, ids: &mut Ids) {
        match self {
            Self::Http1(sending) => sending.retrace(trace),
            Self::Http2(request) => trace.insert(request.headers_mut(), ids),
            Self::Spent(..) | Self::Gone => {}
        }
    }

    /// It is not sent again: what it kept for that goes back.
    pub(super) fn recycle(&mut self, scratch: &Scratch) {
        match self {
            Self::Http1(sending) => scratch.recycle(std::mem::take(&mut sending.writer.out)),
            Self::Spent(parts, _) => {
                scratch.recycle_map(std::mem::take(&mut parts.headers));
                *self = Self::Gone;
            }
            Self::Http2(_) | Self::Gone => {}
        }
    }

    /// The same request, to be sent as well; none where not all of it is here.
    pub(super) fn twin(&self) -> Option<Self> {
        match self {
            Self::Spent(parts, pipe) => twin2(parts, pipe.as_ref().map(Pipe::body)),
            _ => None,
        }
    }

    /// Whether all of it was sent: a connection that has a part of a request only carries no other.
    pub(super) fn is_sent(&self) -> bool {
        !matches!(self, Self::Http1(sending) if !sending.writer.done())
    }

    /// Whether `rewind` would succeed.
    pub(super) fn whole(&self) -> bool {
        match self {
            Self::Http1(sending) => sending.writer.whole(),
            Self::Http2(_) => true,
            Self::Spent(_, pipe) => pipe.as_ref().is_none_or(|pipe| pipe.body().whole()),
            Self::Gone => false,
        }
    }
}

/// The same request over HTTP/2, to be sent as well; none where not all of it is here.
pub(super) fn twin2(parts: &request::Parts, body: Option<&RequestBody>) -> Option<Outgoing> {
    let body = body.map_or(Some(RequestBody::Empty), RequestBody::twin)?;
    Some(Outgoing::Http2(Request::from_parts(parts.clone(), body)))
}

/// A body from its beginning, of which a part was sent.
pub(super) fn unsent(pipe: Option<Pipe<RequestBody>>) -> Option<RequestBody> {
    pipe.map_or(Some(RequestBody::Empty), |pipe| pipe.into_body().rewound())
}

/// What an answer's body comes from.
pub(super) enum Lease {
    Http1(Box<Connection>),
    Http2(Lease2),
}

/// How sending went.
pub(super) enum Sent {
    /// The answer's head is where it was asked for; its body comes from here.
    Answered(Lease),
    /// The endpoint never saw the request, which is whole.
    Unsent(Reason),
    /// The endpoint says that it did nothing with the request: it has too many already, or is leaving. The request is
    /// whole where at most one frame was taken of its body, else gone.
    Declined,
    /// It may have.
    Lost(Failure),
}

#[derive(Default)]
pub(super) struct Pooled {
    #[expect(clippy::vec_box, reason = "they go in and out once a request, by their pointer")]
    idle: Vec<Box<Connection>>,
    pub shared: Vec<Rc<Shared>>,
    /// Set while a shared connection is being opened, so that a burst opens one and not a hundred.
    pub opening: Option<Rc<Attempted>>,
    /// How long a shared connection that nobody uses is kept.
    pub keep: Duration,
}

/// Endpoint ids are counted up, so they are their own hash; the multiplication spreads them over the table.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// One core's connections to endpoints.
#[derive(Default)]
pub(super) struct Pool {
    pub endpoints: RefCell<HashMap<EndpointId, Pooled, BuildHasherDefault<IdHasher>>>,
}

impl Pool {
    /// The idle connection that was used last, unless the endpoint closed it or it waited for too long.
    fn take_idle(&self, core: &Core, endpoint: &Endpoint, now: Time) -> Option<Box<Connection>> {
        let epoch = epoch(endpoint);
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.get_mut(&endpoint.id)?;
        while let Some(mut connection) = pooled.idle.pop() {
            core.gauge(|g| g.pooled.sub(1));
            if connection.epoch == epoch && !connection.stale() && now.since(connection.used) < connection.idle {
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection back after a request that came to its end.
    pub(super) fn give_back(&self, core: &Core, lease: Lease, now: Time) {
        let Lease::Http1(connection) = lease else { return };
        let Some(mut connection) = connection.reusable().filter(|_| !core.draining.get()) else { return };
        connection.used = now;
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.entry(connection.endpoint).or_default();
        if pooled.idle.len() < MAX_IDLE {
            pooled.idle.push(connection);
            core.gauge(|g| g.pooled.add(1));
        }
    }

    /// Closes what nobody used for too long and forgets what is closed.
    pub(super) fn sweep(&self, core: &Core, now: Time) {
        let mut closed = 0;
        self.endpoints.borrow_mut().retain(|id, pooled| {
            let before = pooled.idle.len();
            let keep = pooled.keep;
            if core.gauges.wants_connection(*id) {
                pooled.idle.clear();
            }
            pooled.idle.retain_mut(|c| !c.stale() && now.since(c.used) < c.idle);
            closed += before - pooled.idle.len();
            pooled.shared.retain(|s| !s.closed() && (s.streams.get() > 0 || now.since(s.used.get()) < keep));
            // An endpoint that nobody used for a while, gone or not, leaves nothing behind.
            !pooled.idle.is_empty() || !pooled.shared.is_empty() || pooled.opening.is_some()
        });
        core.gauge(|g| g.pooled.sub(closed as u64));
    }

    /// Closes all idle connections.
    pub(super) fn close_idle(&self, core: &Core) {
        let mut closed = 0;
        for pooled in self.endpoints.borrow_mut().values_mut() {
            closed += pooled.idle.drain(..).count();
            pooled.shared.retain(|s| s.streams.get() > 0);
        }
        core.gauge(|g| g.pooled.sub(closed as u64));
    }

    /// The least busy shared connection with room for a stream; any, when no more may be opened.
    pub(super) fn take_shared(&self, endpoint: &Endpoint, now: Time) -> Option<Rc<Shared>> {
        self.shared(endpoint, now, |shared, open| open >= MAX_SHARED || !shared.full())
    }

    /// The least busy shared connection, whether it has room or not.
    pub(super) fn least_busy(&self, endpoint: &Endpoint, now: Time) -> Option<Rc<Shared>> {
        self.shared(endpoint, now, |_, _| true)
    }

    /// The least busy shared connection, where it will do; it is asked with how many are open.
    fn shared(&self, endpoint: &Endpoint, now: Time, will_do: impl Fn(&Shared, usize) -> bool) -> Option<Rc<Shared>> {
        let epoch = epoch(endpoint);
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.get_mut(&endpoint.id)?;
        // One of an older identity ends with what is under way on it.
        pooled.shared.retain(|s| !s.closed() && (s.epoch == epoch || s.streams.get() > 0));
        let current = || pooled.shared.iter().filter(|s| s.epoch == epoch);
        let least = current().min_by_key(|s| s.streams.get())?;
        will_do(least, current().count()).then(|| {
            least.used.set(now);
            least.clone()
        })
    }
}

/// Sends a request over HTTP/1.1 and waits for the answer's head, which is put at `place`.
pub(super) async fn send1(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    sending: &mut Sending,
    early: Early<'_>,
    place: &mut Option<Head>,
    now: Time,
) -> Sent {
    let mut written = false;
    if let Some(connection) = core.pool.take_idle(core, endpoint, now) {
        match exchange(core, connection, sending, early, place).await {
            Ok(lease) => return Sent::Answered(lease),
            Err(Ended::Unused) => {}
            Err(Ended::Silent) if sending.repeatable() => {
                sending.rewind();
                written = true;
            }
            Err(ended) => return Sent::Lost(ended.reason().into()),
        }
    }
    // Boxed: the rare way must not make every request's future as large as itself.
    match Box::pin(send1_afresh(core, endpoint, timeouts, sending, early, place)).await {
        Sent::Unsent(_) if written => Sent::Lost(Reason::UpstreamReset.into()),
        sent => sent,
    }
}

async fn send1_afresh(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    sending: &mut Sending,
    early: Early<'_>,
    place: &mut Option<Head>,
) -> Sent {
    let connecting = connect(core, endpoint, timeouts, None);
    let twin = || sending.twin(&core.scratch).map(Outgoing::Http1);
    let (stream, open) = match early.offering(connecting, twin).await {
        Ok(connected) => connected,
        Err(reason) => return Sent::Unsent(reason),
    };
    // With TLS 1.3 an endpoint judges our certificate when we are done: whoever closes then did not like it.
    let closed = if stream.1 == 0 { Ended::Unused.reason() } else { Reason::UpstreamTls };
    let mut connection = Connection::new(stream, endpoint.id, timeouts.pooled.0, open);
    if connection.stale() {
        // It closed at once, or speaks first: whatever it speaks, it is not HTTP.
        return Sent::Unsent(closed);
    }
    match exchange(core, connection, sending, early, place).await {
        Ok(lease) => Sent::Answered(lease),
        Err(Ended::Unused) => Sent::Unsent(closed),
        Err(ended) => Sent::Lost(ended.reason().into()),
    }
}

async fn exchange(
    core: &Core,
    connection: Box<Connection>,
    sending: &mut Sending,
    early: Early<'_>,
    place: &mut Option<Head>,
) -> Result<Lease, Ended> {
    let mut exchange = Exchange::new(connection);
    std::future::poll_fn(|cx| {
        early.offer(|| sending.twin(&core.scratch).map(Outgoing::Http1));
        exchange.poll(cx, &core.scratch, sending, early, place)
    })
    .await?;
    Ok(Lease::Http1(exchange.into_connection()))
}

/// What connections to an endpoint are secured under at the moment; 0 is plain text.
fn epoch(endpoint: &Endpoint) -> u64 {
    endpoint.tls.as_ref().map_or(0, |dial| dial.epoch())
}
