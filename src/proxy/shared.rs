//! HTTP/2 connections to endpoints, which requests share.
//!
//! Each runs in a task of its own, so that what many requests have to say leaves in one write. A request whose endpoint
//! says that it did nothing with it (REFUSED_STREAM, or GOAWAY with an earlier stream) may be sent again where no more
//! was taken of its body than one frame, which is kept for that until the answer's head is there.
//!
//! Where an answer's head comes before the request's end, a task of its own sends the rest: whoever reads the answer may
//! be held up by its client, which may want to be rid of its body first.

use super::body::{Progress, RequestBody, Upload};
use super::client1::Head;
use super::core::Core;
use super::early::{Early, Hints};
use super::failure::Failure;
use super::headers::Seen;
use super::http2::{CONNECTION_WINDOW, MAX_BUFFER, Patience, Pipe, Received, STREAM_WINDOW, Silence};
use super::io::{Io, Marks};
use super::upstream::{Lease, Open, Outgoing, Sent, connect};
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::links::Time;
use crate::observe::Reason;
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version, request};
use http_body::Body;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// An endpoint with requests on its connection is pinged after 15 seconds without a byte of it, and gone after 10 more.
const PATIENCE: Patience = Patience { time: Duration::from_secs(5), ask_after: 3, give_up_after: 5 };
/// How many requests may be under way before the endpoint has said how many it takes: the least that the standard
/// recommends to allow.
const FIRST_STREAMS: usize = 100;

/// An HTTP/2 connection that requests share.
pub(super) struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    /// What it was secured under; 0 is plain text.
    pub(super) epoch: u64,
    pub(super) streams: Cell<usize>,
    /// It takes no more requests.
    over: Rc<Cell<bool>>,
    pub(super) used: Cell<Time>,
}

impl Shared {
    pub(super) fn closed(&self) -> bool {
        self.over.get()
    }

    /// Whether the endpoint allows no more streams; it may change its mind at any time.
    pub(super) fn full(&self) -> bool {
        self.streams.get() >= self.sender.borrow().current_max_send_streams()
    }

    /// Whether it takes another request. That it does not is noted.
    fn takes(&self) -> bool {
        let mut sender = self.sender.borrow_mut();
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            // The request before waits for a stream. `h2` lets a handle queue one alone; a new one may queue the next.
            Poll::Pending => {
                let fresh = sender.clone();
                *sender = fresh;
            }
            Poll::Ready(Err(_)) => self.over.set(true),
        }
        !self.over.get()
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
    let Outgoing::Http2(mut request) = std::mem::replace(outgoing, Outgoing::Gone) else {
        return Sent::Lost(Reason::Internal.into());
    };
    let (mut fresh, mut again) = (false, false);
    loop {
        let shared = match core.pool.take_shared(endpoint, now) {
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
        if !shared.takes() {
            if fresh {
                *outgoing = Outgoing::Http2(request);
                return Sent::Unsent(Reason::UpstreamReset);
            }
            continue;
        }
        let guard = StreamGuard::new(shared);
        let (head, body) = request.into_parts();
        let spare = Spare::of(&head, core.scratch.buffer());
        let sent = guard.0.sender.borrow_mut().send_request(Request::from_parts(head, ()), body.is_end_stream());
        let Ok((response, stream)) = sent else {
            // The connection takes requests, as was asked just now: it is the request that it does not take.
            return Sent::Lost(Reason::Internal.into());
        };
        let mut pipe = if body.is_end_stream() { None } else { Some(Pipe::new(stream, body)) };
        let error = match exchange(response, &mut pipe, early.hints).await {
            Ok(response) => {
                core.scratch.recycle(spare.headers);
                let (parts, body) = response.into_parts();
                let (mut body, seen) = (Received::new(body), Seen::in_headers(&parts.headers));
                if seen.lengths > 0 {
                    body.announced(&parts.headers);
                }
                *place = Some(Head { parts, seen, lines: None });
                let rest = pipe.filter(|p| !p.is_over()).map(|mut pipe| {
                    let sending = async move {
                        let _ = std::future::poll_fn(|cx| pipe.poll(cx)).await;
                    };
                    tokio::task::spawn_local(sending).abort_handle()
                });
                return Sent::Answered(Lease::Http2(Lease2 { body, rest, _guard: guard }));
            }
            Err(error) => error,
        };
        let declined = declined(&error);
        if matches!(declined, Some(Declined::Leaving | Declined::Failing)) {
            guard.0.over.set(true);
        }
        let body = pipe.map_or(Some(RequestBody::Empty), |pipe| pipe.into_body().rewound());
        let whole = declined.is_some().then_some(body).flatten().and_then(|body| spare.request(body));
        match (declined, whole) {
            // The connection is leaving, not the endpoint.
            (Some(Declined::Leaving), Some(whole)) if !again => {
                again = true;
                request = whole;
            }
            (Some(Declined::Leaving | Declined::Refused), whole) => {
                *outgoing = whole.map_or(Outgoing::Gone, Outgoing::Http2);
                return Sent::Declined;
            }
            (Some(Declined::Failing), Some(whole)) => {
                *outgoing = Outgoing::Http2(whole);
                return Sent::Unsent(Reason::UpstreamReset);
            }
            _ => return Sent::Lost(classify(&error, upload)),
        }
    }
}

/// Sends the request's body and waits for the answer's head, both at once.
async fn exchange(
    mut response: ResponseFuture,
    pipe: &mut Option<Pipe<RequestBody>>,
    hints: Option<&Hints>,
) -> Result<Response<h2::RecvStream>, h2::Error> {
    std::future::poll_fn(|cx| {
        if let Some(pipe) = pipe.as_mut().filter(|p| !p.is_over()) {
            // However it ends, the answer tells of it: a reset is what it then is.
            let _ = pipe.poll(cx);
        }
        if let Some(hints) = hints {
            while let Poll::Ready(Some(Ok(hint))) = response.poll_informational(cx) {
                let parts = hint.into_parts().0;
                let seen = Seen::in_headers(&parts.headers);
                hints.give(Head { parts, seen, lines: None });
            }
        }
        Pin::new(&mut response).poll(cx)
    })
    .await
}

/// A request's head once more. Its headers are written into one buffer, which costs a third of what a second map asks
/// for; they are hardly ever read again.
struct Spare {
    method: Method,
    uri: Uri,
    /// The lengths of a name and of its value, and then both of them; and again.
    headers: Vec<u8>,
}

impl Spare {
    fn of(head: &request::Parts, mut headers: Vec<u8>) -> Self {
        for (name, value) in &head.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            let lengths = (name.len() as u64) << 32 | value.len() as u64;
            headers.extend_from_slice(&lengths.to_ne_bytes());
            headers.extend_from_slice(name);
            headers.extend_from_slice(value);
        }
        Self { method: head.method.clone(), uri: head.uri.clone(), headers }
    }

    fn request(&self, body: RequestBody) -> Option<Request<RequestBody>> {
        let mut request = Request::new(body);
        let mut rest = self.headers.as_slice();
        while !rest.is_empty() {
            let lengths = u64::from_ne_bytes(rest.split_off(..size_of::<u64>())?.try_into().ok()?);
            let (name, value) = ((lengths >> 32) as usize, lengths as u32 as usize);
            let (name, value) = (rest.split_off(..name)?, rest.split_off(..value)?);
            let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
            request.headers_mut().append(name, value);
        }
        (*request.method_mut(), *request.uri_mut()) = (self.method.clone(), self.uri.clone());
        *request.version_mut() = Version::HTTP_2;
        Some(request)
    }
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

fn declined(error: &h2::Error) -> Option<Declined> {
    if !error.is_remote() {
        return None;
    }
    // A stream only gets the GOAWAY for an error when it is above the last that the endpoint looked at.
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Some(Declined::Refused),
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Some(Declined::Leaving),
        _ if error.is_go_away() => Some(Declined::Failing),
        _ => None,
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
    let opening = Opening::begin(core, endpoint.id, timeouts.pooled.0);
    let opened = async {
        let (stream, epoch) = connect(core, endpoint, timeouts).await?;
        let io = Io::new(stream, Bytes::new());
        let marks = io.marks().clone();
        let (sender, connection) = core.client2.handshake(io).await.map_err(|_| Reason::ConnectFailed)?;
        Ok((sender, connection, marks, epoch))
    };
    let (sender, mut connection, marks, epoch) = match opened.await {
        Ok(opened) => opened,
        Err(reason) => {
            opening.attempted.failed.set(Some(reason));
            return Err(reason);
        }
    };
    let over = Rc::new(Cell::new(false));
    let shared = Rc::new(Shared {
        sender: RefCell::new(sender),
        epoch,
        streams: Cell::new(0),
        over: over.clone(),
        used: Cell::new(now),
    });
    if let Some(pooled) = core.pool.endpoints.borrow_mut().get_mut(&endpoint.id) {
        pooled.shared.push(shared.clone());
    }
    drop(opening);
    let open = Open::new(core);
    let mut silence = Silence::new(PATIENCE, core.clock, &core.deadlines, connection.ping_pong());
    let asked = Rc::downgrade(&shared);
    tokio::task::spawn_local(async move {
        // What went wrong is told to the requests on it.
        std::future::poll_fn(|cx| {
            let matters = || asked.upgrade().is_some_and(|s| s.streams.get() > 0);
            if silence.broken(cx, || Marks::take(&marks.read), matters) {
                return Poll::Ready(());
            }
            Pin::new(&mut connection).poll(cx).map(drop)
        })
        .await;
        over.set(true);
        drop((connection, open));
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
fn classify(error: &h2::Error, upload: Option<&Rc<Upload>>) -> Failure {
    if upload.is_some_and(|u| u.progress.get() == Progress::Broken) {
        return Reason::RequestIncomplete.into();
    }
    match error.reason() {
        Some(
            h2::Reason::PROTOCOL_ERROR
            | h2::Reason::FRAME_SIZE_ERROR
            | h2::Reason::COMPRESSION_ERROR
            | h2::Reason::FLOW_CONTROL_ERROR,
        ) => Reason::UpstreamProtocol.into(),
        _ => Reason::UpstreamReset.into(),
    }
}

/// Settings for endpoints, made once a core.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_max_send_streams(FIRST_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_BUFFER as u32)
        .max_send_buffer_size(MAX_BUFFER)
        .enable_push(false);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_head_is_the_head() {
        let request = Request::post("http://shop/a?b")
            .version(Version::HTTP_2)
            .header("x-long", "y".repeat(300))
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\x80").unwrap())
            .header("accept", "")
            .header("cookie", "a")
            .header("cookie", "b");
        let head = request.body(()).unwrap().into_parts().0;
        let spare = Spare::of(&head, Vec::new()).request(RequestBody::Empty).unwrap();
        assert_eq!((spare.method(), spare.uri(), spare.version()), (&head.method, &head.uri, head.version));
        assert_eq!(spare.headers(), &head.headers);
        let cut = Spare { headers: vec![1; 17], method: Method::GET, uri: Uri::default() };
        assert!(cut.request(RequestBody::Empty).is_none());
    }
}
