//! Connections to endpoints, pooled a core and an endpoint apart.
//!
//! HTTP/1.1: a stack of idle connections, the last used on top, so that few stay warm and the rest grow old and are
//! closed. HTTP/2: a few shared connections, the least busy first, another one opened when all are full; one that its
//! endpoint closes or asks to leave (GOAWAY) is found closed and forgotten. Everything belongs to one thread: no locks.
//!
//! **What is sent twice.** Nothing, unless hyper hands the request back unsent: a pooled connection that had died
//! costs a fresh connection, and a fresh one that refuses is reported to the caller, who may try another endpoint.
//! A request that was written is never repeated here, not even an idempotent one, because nobody but the caller knows
//! what its repetition would do; unless an HTTP/2 endpoint says that it did nothing with it (REFUSED_STREAM, or GOAWAY
//! with an earlier stream), and it has no body, of which a part would be gone.

use super::body::{Progress, RequestBody, Upload};
use super::core::Core;
use super::failure::Failure;
use super::gauges::Gauge;
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::links::Time;
use crate::observe::Reason;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// How many idle HTTP/1.1 connections an endpoint may have a core.
const MAX_IDLE: usize = 512;
/// How many shared HTTP/2 connections an endpoint may have a core; beyond, requests wait for a stream.
const MAX_SHARED: usize = 8;
/// What a connection holds of a response at most before it stops reading, in bytes.
const MAX_BUFFER: usize = 64 * 1024;
/// HTTP/2 flow control: what an endpoint may send unread, a stream and a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often an HTTP/2 connection with requests on it is checked to be alive, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(10);

type Sender1 = http1::SendRequest<RequestBody>;
type Sender2 = http2::SendRequest<RequestBody>;
type Connection2 = http2::Connection<TokioIo<TcpStream>, RequestBody, LocalExecutor>;

/// A connection in use by one request.
pub(super) enum Lease {
    Http1 { sender: Sender1, id: EndpointId, keep: Duration },
    Http2(#[expect(dead_code, reason = "held for its drop")] StreamGuard),
}

/// Counts one stream of a shared connection.
pub(super) struct StreamGuard(Rc<Shared>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// How sending went.
pub(super) enum Sent {
    Answered(Response<Incoming>, Lease),
    /// The endpoint never saw the request.
    Unsent(Request<RequestBody>, Reason),
    /// The endpoint says that it did nothing with the request: it has too many already, or is leaving. The request is
    /// whole where it had no body.
    Declined(Option<Request<RequestBody>>),
    /// It may have.
    Lost(Failure),
}

struct Idle {
    sender: Sender1,
    since: Time,
}

/// An HTTP/2 connection that requests share.
struct Shared {
    sender: Sender2,
    streams: Cell<usize>,
    /// hyper's side of it, until it is over.
    connection: Rc<RefCell<Option<Connection2>>>,
    used: Cell<Time>,
}

impl Shared {
    /// Whether the endpoint allows no more streams; it may change its mind at any time.
    fn full(&self) -> bool {
        let connection = self.connection.borrow();
        connection.as_ref().is_some_and(|c| self.streams.get() >= c.current_max_send_streams())
    }
}

/// What waits for a shared connection that somebody else opens.
#[derive(Default)]
struct Attempted {
    over: Notify,
    failed: Cell<Option<Reason>>,
}

#[derive(Default)]
struct Pooled {
    idle: Vec<Idle>,
    shared: Vec<Rc<Shared>>,
    /// Set while a shared connection is being opened, so that a burst opens one and not a hundred.
    opening: Option<Rc<Attempted>>,
    /// How long an idle connection is kept.
    keep: Duration,
}

/// Endpoint ids are counted up, so they are their own hash; the multiplication spreads them over the table.
#[derive(Default)]
struct IdHasher(u64);

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
    endpoints: RefCell<HashMap<EndpointId, Pooled, BuildHasherDefault<IdHasher>>>,
}

impl Pool {
    fn take_idle(&self, core: &Core, id: EndpointId, now: Time) -> Option<Sender1> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.get_mut(&id)?;
        while let Some(idle) = pooled.idle.pop() {
            core.gauge(|g| g.pooled.sub(1));
            if idle.sender.is_ready() && now.since(idle.since) < pooled.keep {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Takes a connection back after a request that came to its end.
    pub(super) fn give_back(&self, core: &Core, lease: Lease, now: Time) {
        let Lease::Http1 { sender, id, keep } = lease else { return };
        // Not ready: the request's body is still being sent, or the connection is closing.
        if !sender.is_ready() || core.draining.get() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.entry(id).or_default();
        pooled.keep = keep;
        if pooled.idle.len() < MAX_IDLE {
            pooled.idle.push(Idle { sender, since: now });
            core.gauge(|g| g.pooled.add(1));
        }
    }

    /// Closes what nobody used for too long and forgets what is closed.
    pub(super) fn sweep(&self, core: &Core, now: Time) {
        let mut closed = 0;
        self.endpoints.borrow_mut().retain(|_, pooled| {
            let before = pooled.idle.len();
            let keep = pooled.keep;
            pooled.idle.retain(|i| !i.sender.is_closed() && now.since(i.since) < keep);
            closed += before - pooled.idle.len();
            pooled.shared.retain(|s| !s.sender.is_closed() && (s.streams.get() > 0 || now.since(s.used.get()) < keep));
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
    fn take_shared(&self, id: EndpointId, now: Time) -> Option<Rc<Shared>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pooled = endpoints.get_mut(&id)?;
        pooled.shared.retain(|s| !s.sender.is_closed());
        let least = pooled.shared.iter().min_by_key(|s| s.streams.get())?;
        if pooled.shared.len() < MAX_SHARED && least.full() {
            return None;
        }
        least.used.set(now);
        Some(least.clone())
    }
}

/// Sends a request over HTTP/1.1 and waits for the answer's head.
pub(super) async fn send1(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
    now: Time,
) -> Sent {
    let (id, keep) = (endpoint.id, timeouts.pooled.0);
    let Some(mut sender) = core.pool.take_idle(core, id, now) else {
        // Boxed: the rare way must not make every request's future as large as itself.
        return Box::pin(send1_afresh(core, endpoint, timeouts, request, upload)).await;
    };
    match sender.try_send_request(request).await {
        Ok(response) => Sent::Answered(response, Lease::Http1 { sender, id, keep }),
        Err(mut error) => match error.take_message() {
            Some(unsent) => Box::pin(send1_afresh(core, endpoint, timeouts, unsent, upload)).await,
            None => Sent::Lost(classify(&error, upload)),
        },
    }
}

async fn send1_afresh(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
) -> Sent {
    let stream = match connect(endpoint, timeouts).await {
        Ok(stream) => stream,
        Err(reason) => return Sent::Unsent(request, reason),
    };
    let Ok((mut sender, connection)) = core.builders.client1.handshake(TokioIo::new(stream)).await else {
        return Sent::Unsent(request, Reason::ConnectFailed);
    };
    let open = Open::new(core);
    tokio::task::spawn_local(async move {
        // What went wrong is told to the request, if there was one.
        let _ = connection.with_upgrades().await;
        drop(open);
    });
    match sender.try_send_request(request).await {
        Ok(response) => Sent::Answered(response, Lease::Http1 { sender, id: endpoint.id, keep: timeouts.pooled.0 }),
        Err(mut error) => match error.take_message() {
            Some(unsent) => Sent::Unsent(unsent, Reason::UpstreamReset),
            None => Sent::Lost(classify(&error, upload)),
        },
    }
}

/// Sends a request over HTTP/2 and waits for the answer's head.
pub(super) async fn send2(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    mut request: Request<RequestBody>,
    upload: Option<&Rc<Upload>>,
    now: Time,
) -> Sent {
    let (mut fresh, mut again) = (false, false);
    loop {
        let shared = match core.pool.take_shared(endpoint.id, now) {
            Some(shared) => shared,
            None => match Box::pin(open_shared(core, endpoint, timeouts, now)).await {
                Ok(Some(shared)) => {
                    fresh = true;
                    shared
                }
                // Somebody else opened one meanwhile, or tried to.
                Ok(None) => continue,
                Err(reason) => return Sent::Unsent(request, reason),
            },
        };
        let mut sender = shared.sender.clone();
        shared.streams.set(shared.streams.get() + 1);
        let guard = StreamGuard(shared);
        let spare = spare(&request);
        match sender.try_send_request(request).await {
            Ok(response) => return Sent::Answered(response, Lease::Http2(guard)),
            Err(mut error) => match error.take_message() {
                Some(unsent) if fresh => return Sent::Unsent(unsent, Reason::UpstreamReset),
                Some(unsent) => request = unsent,
                None => match (declined(error.error()), spare) {
                    // The connection is leaving, not the endpoint.
                    (Some(Declined::Leaving), Some(spare)) if !again => {
                        again = true;
                        request = spare;
                    }
                    (Some(Declined::Leaving | Declined::Refused), spare) => return Sent::Declined(spare),
                    (Some(Declined::Failing), Some(spare)) => return Sent::Unsent(spare, Reason::UpstreamReset),
                    _ => return Sent::Lost(classify(&error, upload)),
                },
            },
        }
    }
}

/// The same request once more, where it has no body.
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let RequestBody::Empty = request.body() else { return None };
    let mut spare = Request::new(RequestBody::Empty);
    request.method().clone_into(spare.method_mut());
    request.uri().clone_into(spare.uri_mut());
    request.headers().clone_into(spare.headers_mut());
    *spare.version_mut() = request.version();
    Some(spare)
}

/// How an HTTP/2 endpoint says that it did nothing with a request (RFC 9113, section 8.7).
enum Declined {
    /// It takes no more at the moment.
    Refused,
    /// Its connection is being closed in good order.
    Leaving,
    /// Its connection is being closed because of an error.
    Failing,
}

fn declined(error: &hyper::Error) -> Option<Declined> {
    let h2 = h2_error(error).filter(|e| e.is_remote())?;
    // A stream only gets the GOAWAY for an error when it is above the last that the endpoint looked at.
    match h2.reason() {
        Some(h2::Reason::REFUSED_STREAM) if h2.is_reset() => Some(Declined::Refused),
        Some(h2::Reason::NO_ERROR) if h2.is_go_away() => Some(Declined::Leaving),
        _ if h2.is_go_away() => Some(Declined::Failing),
        _ => None,
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::iter::successors(std::error::Error::source(error), |e| e.source()).find_map(|e| e.downcast_ref())
}

/// Opens a shared connection. `None` when another request was opening one, which is then over. Where that failed, it
/// failed for all who waited: one after the other they would each wait for the same limit.
async fn open_shared(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    now: Time,
) -> Result<Option<Rc<Shared>>, Reason> {
    let waiting = core.pool.endpoints.borrow().get(&endpoint.id).and_then(|p| p.opening.clone());
    if let Some(opening) = waiting {
        opening.over.notified().await;
        return opening.failed.get().map_or(Ok(None), Err);
    }
    let opening = Opening::begin(core, endpoint.id, timeouts.pooled.0);
    let opened = async {
        let stream = connect(endpoint, timeouts).await?;
        core.builders.client2.handshake(TokioIo::new(stream)).await.map_err(|_| Reason::ConnectFailed)
    };
    let (sender, connection) = match opened.await {
        Ok(opened) => opened,
        Err(reason) => {
            opening.attempted.failed.set(Some(reason));
            return Err(reason);
        }
    };
    let connection = Rc::new(RefCell::new(Some(connection)));
    let shared =
        Rc::new(Shared { sender, streams: Cell::new(0), connection: connection.clone(), used: Cell::new(now) });
    if let Some(pooled) = core.pool.endpoints.borrow_mut().get_mut(&endpoint.id) {
        pooled.shared.push(shared.clone());
    }
    drop(opening);
    let open = Open::new(core);
    tokio::task::spawn_local(async move {
        // What went wrong is told to the requests on it: those not sent yet get their message back when it is dropped.
        std::future::poll_fn(|cx| match connection.borrow_mut().as_mut() {
            Some(running) => Pin::new(running).poll(cx).map(drop),
            None => Poll::Ready(()),
        })
        .await;
        let over = connection.take();
        drop((over, open));
    });
    Ok(Some(shared))
}

/// Marks that a shared connection is being opened; wakes who waits for it however that ends.
struct Opening {
    core: Rc<Core>,
    id: EndpointId,
    attempted: Rc<Attempted>,
}

impl Opening {
    fn begin(core: &Rc<Core>, id: EndpointId, keep: Duration) -> Self {
        let attempted = Rc::new(Attempted::default());
        let mut endpoints = core.pool.endpoints.borrow_mut();
        let pooled = endpoints.entry(id).or_default();
        (pooled.opening, pooled.keep) = (Some(attempted.clone()), keep);
        drop(endpoints);
        Self { core: core.clone(), id, attempted }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(pooled) = self.core.pool.endpoints.borrow_mut().get_mut(&self.id) {
            pooled.opening = None;
        }
        self.attempted.over.notify_waiters();
    }
}

/// Counts an open connection to an endpoint.
struct Open(Rc<Core>);

impl Open {
    fn new(core: &Rc<Core>) -> Self {
        core.gauge(|g| {
            g.upstream.add(1);
            g.connected.add(1);
        });
        Self(core.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.gauge(|g| Gauge::sub(&g.upstream, 1));
    }
}

async fn connect(endpoint: &Endpoint, timeouts: &Timeouts) -> Result<TcpStream, Reason> {
    let connecting = TcpStream::connect(endpoint.address);
    let stream = tokio::time::timeout(timeouts.connect.0, connecting)
        .await
        .map_err(|_| Reason::ConnectTimeout)?
        .map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::ConnectRefused,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            _ => Reason::ConnectFailed,
        })?;
    // A small answer must not wait for the acknowledgement of the one before; without it, it is slow, not wrong.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Why a request that was written got no answer.
fn classify(error: &TrySendError<Request<RequestBody>>, upload: Option<&Rc<Upload>>) -> Failure {
    if upload.is_some_and(|u| u.progress.get() == Progress::Broken) {
        return Reason::RequestIncomplete.into();
    }
    let error = error.error();
    if error.is_parse() {
        return Reason::UpstreamProtocol.into();
    }
    match h2_error(error).and_then(h2::Error::reason) {
        Some(
            h2::Reason::PROTOCOL_ERROR
            | h2::Reason::FRAME_SIZE_ERROR
            | h2::Reason::COMPRESSION_ERROR
            | h2::Reason::FLOW_CONTROL_ERROR,
        ) => Reason::UpstreamProtocol.into(),
        _ => Reason::UpstreamReset.into(),
    }
}

/// hyper's client settings, made once a core.
pub(super) struct ClientBuilders {
    client1: http1::Builder,
    client2: http2::Builder<LocalExecutor>,
}

impl ClientBuilders {
    pub(super) fn new() -> Self {
        let mut client1 = http1::Builder::new();
        // The number of headers stays at hyper's 100: any other makes it allocate tables for each answer.
        client1.max_buf_size(MAX_BUFFER);
        let mut client2 = http2::Builder::new(LocalExecutor);
        client2
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_BUFFER as u32)
            .max_send_buf_size(MAX_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        Self { client1, client2 }
    }
}

/// Runs hyper's tasks on the thread that they belong to.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Polls a future and says whether it is over; for waiting on something else beside it.
pub(super) fn poll_now<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Option<F::Output> {
    match future.poll(cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
