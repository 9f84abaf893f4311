//! What a rule does to a request beyond choosing its cluster: sends its client elsewhere, rewrites it, changes headers,
//! makes it wait or fail on purpose, copies it.
//!
//! Requests of other rules have no `Shape`, and cost a look at an empty pointer here and there. Those that have one take
//! a slower way where their headers change: all of them are put into the map, and none is carried as text.
//!
//! **Order.** A request's headers are changed after those of its connection are gone (`to_upstream`): a client that
//! names a header in `Connection` cannot have one removed that the operator sets. What the proxy itself adds comes last,
//! and validation keeps a rule from touching that, but for `x-forwarded-host` and `-proto`, which are not added where the
//! rule sets them.
//!
//! **Faults** come before an endpoint is chosen, and the first attempt begins after them: no link and no node hears of
//! them, the access log (`injected`) and a counter do. A request that waits has passed its cluster's gate, and takes a
//! place there; how long it waits is not taken for the cluster's slowness (`Flight::ready`). It is held to its own limit in time all the
//! same, and its client may leave meanwhile.

use super::attempts::held_up;
use super::core::Core;
use super::failure::Failure;
use super::flight::Flight;
use super::names::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::seen::Seen;
use super::wire1::{Lines, Malformed};
use crate::config::Protocol;
use crate::observe::Reason;
use crate::route::{Actions, Mirror};
use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use rand::Rng;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// A request whose rule does more than to choose a cluster.
pub(super) struct Shape {
    actions: Arc<Actions>,
    /// Where the client is sent.
    location: Option<HeaderValue>,
    delay: Option<Duration>,
    abort: Option<StatusCode>,
    copied: bool,
}

/// What the endpoint is told otherwise than the client said.
pub(super) struct Reshaped {
    /// What is among the headers, or will be.
    pub seen: Seen,
    /// The host that the endpoint is asked for.
    pub host: HeaderValue,
}

impl Shape {
    /// What the rule does to this request; what it does to a share of them is decided here.
    pub(super) fn new(actions: &Arc<Actions>, rng: &mut impl Rng) -> Self {
        let Actions { fault, mirror, .. } = &**actions;
        let delay = fault.delayed.hits(rng.next_u32()).then_some(fault.delay);
        let abort = fault.aborted.hits(rng.next_u32()).then_some(fault.status);
        let copied = mirror.as_ref().is_some_and(|m| abort.is_none() && m.copied.hits(rng.next_u32()));
        Self { actions: actions.clone(), location: None, delay, abort, copied }
    }

    /// Sends the client elsewhere, where the rule says so.
    pub(super) fn redirect(&mut self, target: &Uri, host: &HeaderValue) -> Result<(), Failure> {
        let Some(redirect) = &self.actions.redirect else { return Ok(()) };
        let location = redirect.location(target, host.to_str().unwrap_or_default());
        self.location = Some(location.ok_or(Reason::Internal)?);
        Err(Failure::from(Reason::Redirected).with_status(redirect.status))
    }

    /// Rewrites the target, and gathers the headers where they will be changed. `host` is what the client asked for.
    pub(super) fn before(
        &self,
        parts: &mut Parts,
        lines: &mut Option<Lines>,
        seen: &Seen,
        host: &HeaderValue,
        core: &Core,
    ) -> Result<Reshaped, Failure> {
        let Actions { rewrite, request, .. } = &*self.actions;
        if let Some(target) = rewrite.target(&parts.uri) {
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.path_and_query = Some(target);
            parts.uri = Uri::from_parts(uri).map_err(|_| Reason::Internal)?;
        }
        if (rewrite.host.is_some() || !request.is_empty() || self.copied)
            && let Some(lines) = lines.take()
        {
            let hosted = lines.host().is_some();
            lines.put_into(&mut parts.headers).map_err(|Malformed| Reason::Internal)?;
            core.scratch.recycle(lines.into_text());
            if hosted {
                parts.headers.insert(HOST, host.clone());
            }
        }
        let seen = Seen {
            forwarded_host: seen.forwarded_host || request.sets(&X_FORWARDED_HOST),
            forwarded_proto: seen.forwarded_proto || request.sets(&X_FORWARDED_PROTO),
            ..*seen
        };
        Ok(Reshaped { seen, host: rewrite.host.as_ref().unwrap_or(host).clone() })
    }

    /// Changes the headers of a request that is fit for its endpoint otherwise.
    pub(super) fn after(&self, headers: &mut HeaderMap, protocol: Protocol) {
        let Actions { rewrite, request, .. } = &*self.actions;
        if let Some(host) = rewrite.host.as_ref().filter(|_| protocol == Protocol::Http1) {
            headers.insert(HOST, host.clone());
        }
        request.apply(headers);
    }

    /// How many bytes of a body there may be, where the rule says so; a body that says itself that it has more is refused.
    pub(super) fn bound(&self, announced: u64) -> Result<Option<u64>, Failure> {
        match self.actions.max_body {
            Some(most) if announced > most => Err(Reason::BodyTooLarge.into()),
            most => Ok(most),
        }
    }

    /// Who gets a copy of this request.
    pub(super) fn mirror(&self) -> Option<&Mirror> {
        self.actions.mirror.as_ref().filter(|_| self.copied)
    }

    /// Whether an answer's headers must all be among the others.
    pub(super) fn wants_all(&self) -> bool {
        !self.actions.response.is_empty()
    }

    /// Changes the headers of an endpoint's answer.
    pub(super) fn answer(&self, headers: &mut HeaderMap) {
        self.actions.response.apply(headers);
    }

    /// Says in an answer of the proxy's own where the client is sent.
    pub(super) fn refusal<B>(&self, response: &mut Response<B>) {
        if let Some(location) = &self.location {
            response.headers_mut().insert(LOCATION, location.clone());
        }
    }

    /// Fails a request that does not wait before that: before it takes anybody's place at the cluster's gate.
    pub(super) fn abort_at_once(&self) -> Result<(), Failure> {
        match self.abort.filter(|_| self.delay.is_none()) {
            Some(status) => Err(Failure::from(Reason::FaultAbort).with_status(status)),
            None => Ok(()),
        }
    }

    /// Whether something goes wrong on purpose.
    pub(super) fn is_faulty(&self) -> bool {
        self.delay.is_some() || self.abort.is_some()
    }

    /// What goes wrong on purpose, for the log.
    pub(super) fn injected(&self) -> Option<&'static str> {
        match (self.delay, self.abort) {
            (Some(_), Some(_)) => Some("delay, abort"),
            (Some(_), None) => Some("delay"),
            (None, Some(_)) => Some("abort"),
            (None, None) => None,
        }
    }
}

/// Makes a request wait, or fail, as its rule says.
pub(super) async fn harm(flight: &mut Flight) -> Result<(), Failure> {
    let (delay, abort) = flight.shape.as_ref().map_or((None, None), |shape| (shape.delay, shape.abort));
    if let Some(delay) = delay {
        if let Some(table) = flight.table() {
            table.traffic.delayed(flight.core.index);
        }
        let (clock, watch) = (flight.core.clock, &flight.watch);
        let until = clock.now() + delay;
        watch.set(until);
        poll_fn(|cx| {
            watch.deadline.register(cx.waker());
            if !watch.deadline.reached() {
                return Poll::Pending;
            }
            match watch.overdue(clock.now(), until, Reason::FaultAbort) {
                None => Poll::Pending,
                Some(Reason::FaultAbort) => Poll::Ready(Ok(())),
                Some(late) => Poll::Ready(Err(late)),
            }
        })
        .await?;
        flight.ready = clock.now();
        held_up(flight);
    }
    match abort {
        Some(status) => Err(Failure::from(Reason::FaultAbort).with_status(status)),
        None => Ok(()),
    }
}
