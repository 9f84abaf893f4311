//! HTTP/2 connections to endpoints, which requests share.
//!
//! hyper runs each in a task of its own. A request whose endpoint says that it did nothing with it (REFUSED_STREAM, or
//! GOAWAY with an earlier stream) may be sent again where it has no body, of which a part would be gone.

use super::body::{Progress, RequestBody, Upload};
use super::client1::Head;
use super::core::Core;
use super::failure::Failure;
use super::headers::Seen;
use super::upstream::{Lease, LocalExecutor, Open, Outgoing, Sent, connect};
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::links::Time;
use crate::observe::Reason;
use http::Request;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// What a connection holds of a request before it stops taking more, and how large a head may be, in bytes.
const MAX_BUFFER: usize = 64 * 1024;
/// HTTP/2 flow control: what an endpoint may send unread, a stream and a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How often an HTTP/2 connection with requests on it is checked to be alive, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(10);

type Sender = http2::SendRequest<RequestBody>;
type Connection = http2::Connection<TokioIo<TcpStream>, RequestBody, LocalExecutor>;

/// An HTTP/2 connection that requests share.
pub(super) struct Shared {
    sender: Sender,
    pub(super) streams: Cell<usize>,
    /// hyper's side of it, until it is over.
    connection: Rc<RefCell<Option<Connection>>>,
    pub(super) used: Cell<Time>,
}

impl Shared {
    pub(super) fn closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the endpoint allows no more streams; it may change its mind at any time.
    pub(super) fn full(&self) -> bool {
        let connection = self.connection.borrow();
        connection.as_ref().is_some_and(|c| self.streams.get() >= c.current_max_send_streams())
    }
}

/// What waits for a shared connection that somebody else opens.
#[derive(Default)]
pub(super) struct Attempted {
    over: Notify,
    failed: Cell<Option<Reason>>,
}

/// Counts one stream of a shared connection.
pub(super) struct StreamGuard(Rc<Shared>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// Sends a request over HTTP/2 and waits for the answer's head, which is put at `place`.
pub(super) async fn send2(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    outgoing: &mut Outgoing,
    upload: Option<&Rc<Upload>>,
    place: &mut Option<Head>,
    now: Time,
) -> Sent {
    let Outgoing::Http2(mut request) = std::mem::replace(outgoing, Outgoing::Gone) else {
        return Sent::Lost(Reason::Internal.into());
    };
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
                Err(reason) => {
                    *outgoing = Outgoing::Http2(request);
                    return Sent::Unsent(reason);
                }
            },
        };
        let mut sender = shared.sender.clone();
        shared.streams.set(shared.streams.get() + 1);
        let guard = StreamGuard(shared);
        let spare = spare(&request);
        match sender.try_send_request(request).await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let seen = Seen::in_headers(&parts.headers);
                *place = Some(Head { parts, seen });
                return Sent::Answered(Lease::Http2(body, guard));
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if fresh => {
                    *outgoing = Outgoing::Http2(unsent);
                    return Sent::Unsent(Reason::UpstreamReset);
                }
                Some(unsent) => request = unsent,
                None => match (declined(error.error()), spare) {
                    // The connection is leaving, not the endpoint.
                    (Some(Declined::Leaving), Some(spare)) if !again => {
                        again = true;
                        request = spare;
                    }
                    (Some(Declined::Leaving | Declined::Refused), spare) => {
                        *outgoing = spare.map_or(Outgoing::Gone, Outgoing::Http2);
                        return Sent::Declined;
                    }
                    (Some(Declined::Failing), Some(spare)) => {
                        *outgoing = Outgoing::Http2(spare);
                        return Sent::Unsent(Reason::UpstreamReset);
                    }
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
        core.client2.0.handshake(TokioIo::new(stream)).await.map_err(|_| Reason::ConnectFailed)
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
pub(super) struct Builder(http2::Builder<LocalExecutor>);

impl Builder {
    pub(super) fn new() -> Self {
        let mut client = http2::Builder::new(LocalExecutor);
        client
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_BUFFER as u32)
            .max_send_buf_size(MAX_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        Self(client)
    }
}
