//! HTTP/2 connections to endpoints, which requests share.
//!
//! Each runs in a task of its own, so that what many requests have to say leaves in one write. A request whose endpoint
//! says that it did nothing with it (REFUSED_STREAM, or GOAWAY with an earlier stream) may be sent again where no more
//! was taken of its body than one frame, or than is kept for `attempts`. Until the answer's head is there, what is kept
//! stays with whoever sends (`Outgoing::Spent`), also when nobody waits for the answer any more.
//!
//! Where an answer's head comes before the request's end, a task of its own sends the rest: whoever reads the answer may
//! be held up by its client, which may want to be rid of its body first.

use super::attempts::suspect;
use super::client1::Head;
use super::core::Core;
use super::dialing::{Open, connect};
use super::early::Early;
use super::failure::Failure;
use super::http2::{Asking, Ended, Limits, Opening, Patience, Pipe, Received, Role, Session, Silence};
use super::transport::{self, Transport};
use super::upload::Upload;
use super::upstream::{Lease, Outgoing, Sent, twin2, unsent};
use super::wire2::Code;
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::links::Time;
use crate::observe::Reason;
use http::Request;
use http_body::Body;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// An endpoint with requests on its connection is pinged after 15 seconds without a byte of it, and gone after 10 more.
const PATIENCE: Patience = Patience { time: Duration::from_secs(5), ask_after: 3, give_up_after: 5 };
/// What an answer's headers may take together, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// An HTTP/2 connection that requests share.
pub(super) struct Shared {
    session: Rc<Session>,
    /// What it was secured under; 0 is plain text.
    pub(super) epoch: u64,
    /// The endpoint refused our certificate, or what it spoke was no TLS.
    rejected: Cell<bool>,
    pub(super) streams: Cell<usize>,
    pub(super) used: Cell<Time>,
}

impl Shared {
    /// It takes no more requests.
    pub(super) fn closed(&self) -> bool {
        self.session.closed()
    }

    /// Whether the endpoint allows no more streams; it may change its mind at any time.
    pub(super) fn full(&self) -> bool {
        self.streams.get() >= self.session.most_streams()
    }

    /// Why a request on it was lost, of which the endpoint said nothing.
    fn lost_by(&self) -> Reason {
        if self.rejected.get() { Reason::UpstreamTls } else { Reason::UpstreamReset }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.session.forsake();
    }
}

/// What waits for a shared connection that somebody else opens.
#[derive(Default)]
pub(super) struct Attempted {
    over: Notify,
    failed: Cell<Option<Reason>>,
}

/// Counts one stream of a shared connection.
struct StreamGuard(Rc<Shared>);

impl StreamGuard {
    fn new(shared: Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self(shared)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// An answer that comes over a shared connection.
pub(super) struct Lease2 {
    pub(super) body: Received,
    /// Sends the rest of the request.
    rest: Option<AbortHandle>,
    _guard: StreamGuard,
}

impl Lease2 {
    /// Lets a task of its own send what is left of the request, which is then not to be had again.
    pub(super) fn send_rest(&mut self, outgoing: &mut Outgoing) {
        if let Outgoing::Spent(_, pipe) = outgoing
            && let Some(mut pipe) = pipe.take_if(|pipe| !pipe.is_over())
        {
            *outgoing = Outgoing::Gone;
            let sending = async move {
                let _ = std::future::poll_fn(|cx| pipe.poll(cx)).await;
            };
            self.rest = Some(tokio::task::spawn_local(sending).abort_handle());
        }
    }
}

impl Drop for Lease2 {
    fn drop(&mut self) {
        // Where the answer came to its end, the endpoint may still want the rest of the request.
        if let Some(rest) = self.rest.take()
            && !self.body.is_end_stream()
        {
            rest.abort();
        }
    }
}

/// Sends a request over HTTP/2 and waits for the answer's head, which is put at `place`.
pub(super) async fn send2(
    core: &Rc<Core>,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    outgoing: &mut Outgoing,
    (upload, early): (Option<&Rc<Upload>>, Early<'_>),
    place: &mut Option<Head>,
    now: Time,
) -> Sent {
    let Outgoing::Http2(request) = std::mem::replace(outgoing, Outgoing::Gone) else {
        return Sent::Lost(Reason::Internal.into());
    };
    let (mut parts, mut body) = request.into_parts();
    let (mut fresh, mut again) = (false, false);
    loop {
        let shared = match core.pool.take_shared(endpoint, now) {
            Some(shared) => shared,
            None => match Box::pin(
                early.offering(open_shared(core, endpoint, timeouts, now), || twin2(&parts, Some(&body))),
            )
            .await
            {
                Ok(Some(shared)) => {
                    fresh = true;
                    shared
                }
                // Somebody else opened one meanwhile, or tried to.
                Ok(None) => continue,
                Err(reason) => {
                    // No further connection may be opened: it waits for a stream of one that there is.
                    let full = reason == Reason::EndpointConnections;
                    match if full { core.pool.least_busy(endpoint, now) } else { None } {
                        Some(shared) => shared,
                        None => {
                            *outgoing = Outgoing::Http2(Request::from_parts(parts, body));
                            return Sent::Unsent(reason);
                        }
                    }
                }
            },
        };
        let guard = StreamGuard::new(shared);
        let mut opening = Opening::new(&guard.0.session);
        let opened = std::future::poll_fn(|cx| {
            early.offer(|| twin2(&parts, Some(&body)));
            opening.poll(cx, &parts, body.is_end_stream())
        });
        let Some(asking) = opened.await else {
            if fresh {
                *outgoing = Outgoing::Http2(Request::from_parts(parts, body));
                return Sent::Unsent(guard.0.lost_by());
            }
            continue;
        };
        drop(opening);
        let pipe = if body.is_end_stream() { None } else { Some(Pipe::new(asking.sender(), body)) };
        *outgoing = Outgoing::Spent(parts, pipe);
        let ended = match exchange(&asking, outgoing, early).await {
            Ok(head) => {
                let mut lease = Lease2 { body: asking.into_body(), rest: None, _guard: guard };
                if !suspect(&head) {
                    lease.send_rest(outgoing);
                }
                *place = Some(head);
                return Sent::Answered(Lease::Http2(lease));
            }
            Err(ended) => ended,
        };
        let Some(declined) = declined(ended) else { return Sent::Lost(classify(ended, upload, &guard.0)) };
        let whole = match std::mem::replace(outgoing, Outgoing::Gone) {
            Outgoing::Spent(parts, pipe) => unsent(pipe).map(|body| (parts, body)),
            _ => None,
        };
        match (declined, whole) {
            // The connection is leaving, not the endpoint.
            (Declined::Leaving, Some(whole)) if !again => {
                again = true;
                (parts, body) = whole;
            }
            (Declined::Leaving | Declined::Refused, whole) => {
                let whole = whole.map(|(parts, body)| Outgoing::Http2(Request::from_parts(parts, body)));
                *outgoing = whole.unwrap_or(Outgoing::Gone);
                return Sent::Declined;
            }
            (Declined::Failing, Some((parts, body))) => {
                *outgoing = Outgoing::Http2(Request::from_parts(parts, body));
                return Sent::Unsent(Reason::UpstreamReset);
            }
            (Declined::Failing, None) => return Sent::Lost(classify(ended, upload, &guard.0)),
        }
    }
}

/// Sends the request's body and waits for the answer's head, both at once.
async fn exchange(asking: &Asking, outgoing: &mut Outgoing, early: Early<'_>) -> Result<Head, Ended> {
    std::future::poll_fn(|cx| {
        early.offer(|| outgoing.twin());
        if let Outgoing::Spent(_, Some(pipe)) = outgoing
            && !pipe.is_over()
        {
            // However it ends, the answer tells of it: a reset is what it then is.
            let _ = pipe.poll(cx);
        }
        if let Some(hints) = early.hints {
            asking.hints().into_iter().for_each(|hint| hints.give(hint));
        }
        asking.poll_head(cx)
    })
    .await
}

/// How an HTTP/2 endpoint says that it did nothing with a request (RFC 9113, section 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declined {
    /// It takes no more at the moment.
    Refused,
    /// Its connection is being closed in good order.
    Leaving,
    /// Its connection is being closed because of an error.
    Failing,
}

fn declined(ended: Ended) -> Option<Declined> {
    match ended {
        Ended::Reset(Code::REFUSED_STREAM) => Some(Declined::Refused),
        Ended::Left(Code::NO_ERROR) => Some(Declined::Leaving),
        Ended::Left(_) => Some(Declined::Failing),
        Ended::Reset(_) | Ended::Local(_) | Ended::Gone => None,
    }
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
    let opening = Attempt::begin(core, endpoint.id, timeouts.pooled.0);
    let ((stream, epoch), open) = match connect(core, endpoint, timeouts, None).await {
        Ok(opened) => opened,
        Err(reason) => {
            opening.attempted.failed.set(Some(reason));
            return Err(reason);
        }
    };
    let session = Session::new(Role::Client, Limits { streams: 0, head: MAX_HEAD }, core.scratch.clone());
    let shared = Rc::new(Shared {
        session: session.clone(),
        epoch,
        rejected: Cell::new(false),
        streams: Cell::new(0),
        used: Cell::new(now),
    });
    if let Some(pooled) = core.pool.endpoints.borrow_mut().get_mut(&endpoint.id) {
        pooled.shared.push(shared.clone());
    }
    drop(opening);
    let connection = Connection {
        stream,
        session,
        silence: Silence::new(PATIENCE, core.clock, &core.deadlines),
        asked: Rc::downgrade(&shared),
        _open: open,
    };
    tokio::task::spawn_local(connection.run());
    Ok(Some(shared))
}

/// The task's part of a shared connection.
struct Connection {
    stream: Transport,
    session: Rc<Session>,
    silence: Silence,
    asked: Weak<Shared>,
    _open: Open,
}

impl Connection {
    /// Reads and writes until it is over. What went wrong is told to the requests on it.
    async fn run(mut self) {
        std::future::poll_fn(|cx| {
            self.session.begin(cx.waker());
            let over = self.turn(cx);
            self.session.end();
            over
        })
        .await;
        self.session.broke();
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (session, asked) = (&self.session, &self.asked);
        let matters = || asked.upgrade().is_some_and(|shared| shared.streams.get() > 0);
        if self.silence.broken(cx, || session.heard(), matters, || session.ping()) {
            return Poll::Ready(());
        }
        while let Poll::Ready(read) = session.poll_read(cx, &mut self.stream) {
            if let Err(error) = &read
                && transport::rejected(error)
                && let Some(shared) = asked.upgrade()
            {
                shared.rejected.set(true);
            }
            if !matches!(read, Ok(true)) {
                return Poll::Ready(());
            }
            // Requests are nothing that an endpoint sends.
            while session.next().is_some() {}
        }
        match session.poll_flush(cx, &mut self.stream) {
            // Who gave it up need not read on; what it was told last is out as far as it goes at once.
            Poll::Pending if session.failed() => Poll::Ready(()),
            Poll::Ready(Ok(())) if session.over() => Poll::Ready(()),
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// Marks that a shared connection is being opened; wakes who waits for it however that ends.
struct Attempt {
    core: Rc<Core>,
    id: EndpointId,
    attempted: Rc<Attempted>,
}

impl Attempt {
    fn begin(core: &Rc<Core>, id: EndpointId, keep: Duration) -> Self {
        let attempted = Rc::new(Attempted::default());
        let mut endpoints = core.pool.endpoints.borrow_mut();
        let pooled = endpoints.entry(id).or_default();
        (pooled.opening, pooled.keep) = (Some(attempted.clone()), keep);
        drop(endpoints);
        Self { core: core.clone(), id, attempted }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(pooled) = self.core.pool.endpoints.borrow_mut().get_mut(&self.id) {
            pooled.opening = None;
        }
        self.attempted.over.notify_waiters();
    }
}

/// Why a request that was written got no answer.
fn classify(ended: Ended, upload: Option<&Rc<Upload>>, shared: &Shared) -> Failure {
    if let Some(broken) = upload.and_then(|upload| upload.progress.get().broken()) {
        return broken.into();
    }
    match ended.code() {
        Some(Code::PROTOCOL_ERROR | Code::FRAME_SIZE_ERROR | Code::COMPRESSION_ERROR | Code::FLOW_CONTROL_ERROR) => {
            Reason::UpstreamProtocol.into()
        }
        _ => shared.lost_by().into(),
    }
}
