//! A request's way: who sent it, where it goes, which endpoint, and back.
//!
//! Each step either narrows the request down or ends it with a `Reason`. The generation that it began with is held to
//! its end, so endpoints, weights and routes always belong together.
//!
//! `attempts` sends it, to another endpoint where the first one fails.

use super::added::{Added, BY_WAY_OF, REQUEST_ID, via};
use super::admission::{self, Standing};
use super::attempts::attempts;
use super::body::ResponseBody;
use super::client1::{Head, Sending};
use super::conn::Conn;
use super::core::Held;
use super::deadline;
use super::expect::Latch;
use super::failure::Failure;
use super::flight::Flight;
use super::headers::{Answered, Asks, Hop, authority, check_lengths, to_downstream, to_upstream};
use super::ids;
use super::inbound::Inbound;
use super::mirror::{Original, Twin};
use super::names::X_REQUEST_ID;
use super::propagation::{self, Carried};
use super::seen::Seen;
use super::server1;
use super::shaping::{self, Shape};
use super::spans::Spans;
use super::taken::Taken;
use super::upload::{Progress, RequestBody, Upload};
use super::upstream::{Lease, Outgoing};
use super::watch::Watch;
use super::wire1::{Lines, Malformed};
use crate::config::{Propagator, Protocol};
use crate::observe::Reason;
use crate::route::RequestHead;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use rand::Rng;
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// A request that knows where it goes, or why it goes nowhere.
pub(super) struct Ready {
    flight: Box<Flight>,
    refused: Option<Failure>,
    /// An upgrade was asked for.
    upgrade: bool,
    grpc: bool,
    empty: bool,
}

/// Serves one request of an HTTP/2 client. What needs no waiting happens at once, so that the future, which is
/// copied around, holds only what the waiting needs.
pub(super) fn serve(
    conn: &Rc<Conn>,
    watch: &Rc<Watch>,
    parts: &mut Parts,
    seen: &Seen,
    body: Option<Inbound>,
) -> impl Future<Output = Response<ResponseBody>> + use<> {
    let arrived = Arrived { parts, lines: None, seen };
    exchange(ready(conn, watch, conn.core.generation(), arrived, body))
}

/// A request of an HTTP/1.1 client, whose head was read by what `held` routes by.
pub(super) fn ready1(
    conn: &Rc<Conn>,
    held: Rc<Held>,
    parts: &mut Parts,
    lines: Option<Lines>,
    body: Option<server1::Body>,
    seen: &Seen,
) -> Ready {
    ready(conn, &conn.watch, held, Arrived { parts, lines, seen }, body.map(Inbound::Http1))
}

/// A request's head.
struct Arrived<'a> {
    parts: &'a mut Parts,
    /// Headers that mean nothing to a proxy, where they are not among the others.
    lines: Option<Lines>,
    seen: &'a Seen,
}

fn ready(conn: &Rc<Conn>, watch: &Rc<Watch>, held: Rc<Held>, arrived: Arrived<'_>, body: Option<Inbound>) -> Ready {
    let now = conn.core.clock.now();
    watch.limit.set(None);
    watch.patience.set(None);
    watch.hints.clear();
    watch.verdict.set(None);
    let mut flight = Box::new(Flight::start(conn, watch, held, now, arrived.parts));
    let (empty, grpc) = (body.is_none(), arrived.seen.grpc);
    flight.grpc = grpc;
    let (refused, upgrade) = match route(&mut flight, arrived, body) {
        Ok(asks) => (None, asks.upgrade),
        Err(failure) => (Some(failure), false),
    };
    Ready { flight, refused, upgrade, grpc, empty }
}

/// Sends it where it goes, and waits for the answer.
pub(super) async fn exchange(mut ready: Ready) -> Response<ResponseBody> {
    if matches!(ready.flight.standing, Standing::Waiting(..)) && ready.refused.is_none() {
        // Boxed: the rare way must not make every request's future larger.
        ready.refused = Box::pin(admission::wait(&mut ready.flight)).await.err();
    }
    if ready.refused.is_none() && ready.flight.shape.as_ref().is_some_and(|shape| shape.is_faulty()) {
        ready.refused = Box::pin(shaping::harm(&mut ready.flight)).await.err();
    }
    let failure = match ready.refused {
        Some(failure) => failure,
        None => match attempts(&mut ready.flight).await {
            Ok(()) => match answer(ready.flight, ready.upgrade) {
                Ok(response) => return response,
                Err((flight, failure)) => return refuse(flight, failure, ready.grpc, ready.empty),
            },
            Err(failure) => failure,
        },
    };
    refuse(ready.flight, failure, ready.grpc, ready.empty)
}

/// Gives the request its id and its place in a trace, of which nothing old is left among its headers. Says whether
/// the id is new.
fn identify(flight: &mut Flight, headers: &mut HeaderMap, mut lines: Option<&mut Lines>, seen: &Seen) -> bool {
    let core = &flight.core;
    let (mut ids, mut rng) = (core.ids.borrow_mut(), core.rng.borrow_mut());
    let given = if seen.request_id { headers.get(X_REQUEST_ID) } else { None };
    let (id, new) = ids.request_id(given, &mut *rng);
    if new && seen.request_id {
        headers.remove(X_REQUEST_ID);
    }
    let caller = match seen.traceparent || seen.b3 {
        true => {
            let stale = Cell::new(false);
            let caller = core.propagators.take(headers, seen, |propagator| {
                core.gauge(|g| g.malformed_traces.add(1));
                stale.set(stale.get() || propagator == Propagator::TraceContext);
            });
            if stale.get() {
                propagation::forget_state(headers, lines.as_deref_mut());
            }
            caller
        }
        false => None,
    };
    let mut trace = ids.trace(caller, &mut *rng, |low| ids::sampled(low, core.sample));
    if trace.sampled && core.sink.takes_spans() {
        trace.hang_below(&mut *rng);
        let state = caller.filter(|caller| caller.w3c).and_then(|_| propagation::state(headers, lines.as_deref()));
        flight.spans = Some(Rc::new(Spans::new(state)));
    }
    flight.request_id = id;
    flight.trace = Some(trace);
    new
}

/// Finds the cluster, and makes the request fit for it.
fn route(flight: &mut Flight, arrived: Arrived<'_>, body: Option<Inbound>) -> Result<Asks, Failure> {
    let Arrived { parts, mut lines, seen } = arrived;
    let new_id = identify(flight, &mut parts.headers, lines.as_mut(), seen);
    let (core, held) = (flight.core.clone(), flight.held.clone());
    let logged = core.sink.enabled();
    if logged {
        flight.target = Some(Box::new((parts.uri.clone(), HeaderValue::from_static(""))));
    }
    let line = lines.as_ref().and_then(Lines::host);
    let host = authority(parts, seen, line, &flight.conn.listener.name, &flight.conn.host)?;
    if let Some(target) = &mut flight.target {
        target.1 = host.clone();
    }
    let empty = body.is_none();
    check_lengths(&mut parts.headers, seen, empty)?;
    let generation = &held.generation;
    let workload = flight.conn.workload(&held).ok_or(Reason::UnknownSource)?;
    flight.workload = Some(workload);
    allowed(flight, parts)?;
    let head = RequestHead {
        host: host.to_str().unwrap_or_default(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let rule = generation.routes.find(&head);
    flight.rule = rule.map(|rule| rule.place);
    if let Some(actions) = rule.and_then(|rule| rule.actions.as_ref()) {
        flight.shape.insert(Box::new(Shape::new(actions, &mut *core.rng.borrow_mut()))).redirect(&parts.uri, &host)?;
    }
    let id = match rule {
        Some(rule) => rule.cluster(core.rng.borrow_mut().next_u32()),
        // A captured connection goes where it was going.
        None => flight.conn.destination(&held),
    };
    let id = id.ok_or(Reason::NoRoute)?;
    let cluster = generation.cluster(id).ok_or(Reason::Internal)?;
    flight.cluster = Some(id);
    let mut longest = None;
    if let Some(shape) = &flight.shape {
        shape.abort_at_once()?;
        longest = shape.bound(body.as_ref().map_or(0, |body| body.size_hint().lower()))?;
    }
    if generation.admission.active {
        admission::ask(flight, parts, seen, rule.map(|rule| rule.index))?;
    }
    let mut limit = rule.and_then(|rule| rule.timeout).or(Some(cluster.timeouts.request.0).filter(|t| !t.is_zero()));
    flight.idempotent = rule.and_then(|rule| rule.idempotent).unwrap_or_else(|| parts.method.is_idempotent());
    if seen.grpc {
        limit = hurry(flight, parts, seen, limit);
    }
    flight.watch.limit.set(limit.map(|t| flight.started + t));
    flight.watch.idle.set(cluster.timeouts.idle.0);
    let reshaped = match &flight.shape {
        Some(shape) => Some(shape.before(parts, &mut lines, seen, &host, &core)?),
        None => None,
    };
    let (seen, asked) = reshaped.as_ref().map_or((seen, &host), |r| (&r.seen, &r.host));
    // Who it stays with is looked for where the client's own words are.
    flight.number = generation.routes.affinity(id).and_then(|a| a.number(&parts.headers, flight.conn.peer));
    let original = flight.shape.as_ref().and_then(|shape| shape.mirror()).map(|_| parts.clone());
    let hop = Hop { client: &flight.conn.peer_value, host: asked, empty, secure: cluster.secure };
    let asks = to_upstream(parts, seen, cluster.protocol, &hop)?;
    if let Some(shape) = &flight.shape {
        shape.after(&mut parts.headers, cluster.protocol);
    }
    let retrying = &cluster.retrying;
    flight.hedges =
        cluster.hedging.is_some() && flight.idempotent && flight.number.is_none() && !asks.upgrade && !asks.expect;
    let keep = (flight.idempotent && (retrying.after_sending() || flight.hedges)).then_some(retrying.body);
    let taken = (cluster.protocol == Protocol::Http2).then(|| Taken::up_to(keep.unwrap_or(0)));
    let mut body = body.map(|body| upload(flight, body, asks, taken, longest));
    let added = Added {
        client: &flight.conn.peer_value,
        host: &host,
        seen,
        version: flight.version,
        request_id: Some(&flight.request_id).filter(|_| new_id),
        trace: Carried::new(flight.trace.as_ref().ok_or(Reason::Internal)?, core.propagators),
        client_cert: flight.conn.client_cert(),
        secure: flight.conn.secure(),
        usual: &flight.conn.usual,
    };
    if let Some(parts) = original {
        let least = body.as_ref().map(|b| b.size_hint().lower());
        let beside = flight.trace.as_ref().ok_or(Reason::Internal)?.beside();
        let added = Added { trace: Carried::new(&beside, core.propagators), ..added };
        mirrored(flight, Original { parts, seen, host: asked, added, body: least }, body.as_mut());
    }
    flight.outgoing = match cluster.protocol {
        // No route for requests leads there.
        Protocol::Tcp => return Err(Reason::NoRoute.into()),
        Protocol::Http1 => {
            let mut sending = Sending::new(parts, lines, &added, body, &core.scratch);
            let gathered = flight.conn.http2 || flight.shape.as_ref().is_some_and(|shape| shape.wants_all());
            sending.lines = (!gathered).then(Lines::default);
            sending.idempotent = flight.idempotent;
            keep.into_iter().for_each(|body| sending.writer.keep(body));
            Outgoing::Http1(sending)
        }
        Protocol::Http2 => {
            if let Some(lines) = lines {
                lines.put_into(&mut parts.headers).map_err(|Malformed| Reason::Internal)?;
                core.scratch.recycle(lines.into_text());
            }
            added.insert(&mut parts.headers, &mut core.ids.borrow_mut());
            let empty = Request::new(()).into_parts().0;
            Outgoing::Http2(Request::from_parts(std::mem::replace(parts, empty), body.unwrap_or_default()))
        }
    };
    Ok(asks)
}

/// Sends a copy of the request to the mirror, now or when the body has gone by.
fn mirrored(flight: &Flight, original: Original<'_>, body: Option<&mut RequestBody>) {
    let Some(shape) = &flight.shape else { return };
    let begun = shape.mirror().and_then(|mirror| Twin::begin(flight, shape, mirror, original));
    match (begun, body) {
        (Some(begun), Some(RequestBody::Streaming { copy, .. })) => *copy = Some(Box::new(begun)),
        (Some(begun), _) => begun.send(),
        (None, _) => {}
    }
}

/// How long a gRPC call may take: what its caller says where that is shorter. The endpoint is told.
fn hurry(flight: &mut Flight, parts: &mut Parts, seen: &Seen, limit: Option<Duration>) -> Option<Duration> {
    let asked = if seen.grpc_timeout { deadline::asked(&parts.headers) } else { None };
    match (asked, limit) {
        (Some(asked), limit) if limit.is_none_or(|limit| asked <= limit) => {
            flight.impatient = true;
            Some(asked)
        }
        (_, Some(limit)) => {
            deadline::insert(&mut parts.headers, limit);
            Some(limit)
        }
        (_, None) => None,
    }
}

/// Whether the client may do what it asks for.
fn allowed(flight: &Flight, parts: &Parts) -> Result<(), Failure> {
    if flight.conn.plain_text() {
        return Err(Reason::TlsRequired.into());
    }
    let workload = flight.workload.and_then(|id| flight.held.generation.routes.workload(id));
    match workload.and_then(|workload| workload.allow.as_ref()) {
        Some(rules) if !rules.allow(flight.conn.client_id(), &parts.method, parts.uri.path()) => {
            Err(Reason::NotAllowed.into())
        }
        _ => Ok(()),
    }
}

/// The request's body as the endpoint will pull it.
fn upload(flight: &mut Flight, body: Inbound, asks: Asks, taken: Option<Taken>, longest: Option<u64>) -> RequestBody {
    let upload = Upload::new(flight.core.clock, &flight.watch, flight.started, longest);
    flight.upload = Some(upload.clone());
    let gate = asks.expect.then(|| flight.latch.insert(Latch::default()).gate());
    RequestBody::Streaming { inner: body, upload, gate, alone: None, taken, copy: None }
}

/// Passes an endpoint's answer on.
fn answer(mut flight: Box<Flight>, upgrade: bool) -> Result<Response<ResponseBody>, (Box<Flight>, Failure)> {
    let now = flight.core.clock.now();
    let Some(Head { mut parts, seen, mut lines }) = flight.head.take() else {
        return Err((flight, Reason::Internal.into()));
    };
    let empty = flight.lease.as_ref().is_none_or(Lease::is_end_stream);
    let answered = Answered { method: &flight.method, upgrade, empty, lines: lines.is_some() };
    let via = via(parts.version);
    if let Err(failure) = to_downstream(&mut parts, &seen, &answered) {
        flight.fail_attempt(failure.reason, now);
        return Err((flight, failure));
    }
    flight.answered(now, parts.status, &parts.headers, seen.load_metrics, seen.grpc_status);
    flight.status = Some(parts.status);
    match &mut lines {
        Some(lines) => {
            if seen.request_id {
                parts.headers.remove(X_REQUEST_ID);
            }
            lines.push_text(BY_WAY_OF, via.as_bytes());
            lines.push_text(REQUEST_ID, flight.request_id.as_bytes());
        }
        None => drop(parts.headers.insert(X_REQUEST_ID, flight.request_id.clone())),
    }
    if flight.conn.http2 && !seen.date {
        // Towards HTTP/1.1 the server sees to it.
        parts.headers.insert(DATE, flight.core.date.now());
    }
    if let Some(upload) = &flight.upload {
        upload.head_within.set(None);
    }
    if let Some(shape) = &flight.shape {
        shape.answer(&mut parts.headers);
    }
    unread(&flight, &mut parts.headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = match flight.lease.take() {
            Some(Lease::Http1(mut connection)) => connection.take_raw(),
            _ => None,
        };
        return match upstream {
            Some(upstream) => Ok(Response::from_parts(parts, ResponseBody::switching(flight, upstream).with(lines))),
            None => Err((flight, Reason::UpgradeFailed.into())),
        };
    }
    let bodiless =
        flight.method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if empty || bodiless {
        flight.complete_at(now);
        drop(flight);
        return Ok(Response::from_parts(parts, ResponseBody::empty().with(lines)));
    }
    if !flight.conn.http2 && matches!(&flight.lease, Some(Lease::Http1(connection)) if connection.is_here()) {
        // It goes out with its head: to ask for the time once more would tell nothing new.
        flight.ends_with_head(now);
    }
    flight.watch.set(now + flight.watch.idle.get());
    Ok(Response::from_parts(parts, ResponseBody::proxied(flight).with(lines)))
}

/// The answer goes out although the request's body was not read: an HTTP/1.1 connection cannot be used again.
fn unread(flight: &Flight, headers: &mut HeaderMap) {
    let open = flight.upload.as_ref().is_some_and(|u| u.progress.get() == Progress::Open);
    if open && !flight.conn.http2 && flight.latch.as_ref().is_some_and(Latch::is_shut) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Answers in the endpoint's place.
fn refuse(mut flight: Box<Flight>, failure: Failure, grpc: bool, empty: bool) -> Response<ResponseBody> {
    let done = empty || flight.upload.as_ref().is_some_and(|u| u.progress.get() == Progress::Done);
    let close = !done && !flight.conn.http2;
    let mut response = failure.response(&flight.request_id, grpc, close);
    if let Some(length) = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream()) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        if flight.method == Method::HEAD {
            // HTTP/2 would send the body.
            *response.body_mut() = ResponseBody::empty();
        }
    }
    if let Some(shape) = &flight.shape {
        shape.refusal(&mut response);
    }
    if flight.conn.http2 {
        response.headers_mut().insert(DATE, flight.core.date.now());
    }
    flight.failed(failure.reason, response.status());
    response
}
