//! Hedges: a request that was not answered for long is asked of a second endpoint as well; the first answer is the client's.
//!
//! ```text
//! pick -> send -> no answer after `hedging.after` -> wait on -----------------------------> answer -> passed on
//!                    |                                                                         \--> the other is cancelled
//!                    v
//!       all of the body here, another endpoint that is well, share, a place, budget?  (no: counted, and that was it)
//!                    |
//!                    +--> a copy of the request, to the other one ------------------------> answer -> passed on
//!                                                                                              \--> the first is cancelled
//! ```
//! - **What may be hedged** is what may be tried again: idempotent, with no body or one that is kept and all here (`attempts`).
//!   An upgrade is not, nor what expects a 100, nor what stays with its endpoint.
//! - **At most one hedge a request**, of its first try alone. It counts as one of its further tries.
//! - **What it may cost** is bounded twice: by `hedging.share` of the requests that could be hedged, so that a cluster that
//!   became slow as a whole does not get twice the load, and by the budget that tries after failures have.
//! - **Overload**: a hedge needs a place of its own at the cluster's gate, and takes one only that nobody else wants.
//! - **The copy** is made when the hedge is due, where the request waits at that moment (`early::Tap`): what is answered in
//!   time pays nothing for it.
//! - **The one that lost** is cancelled, as one whose client left is: its HTTP/2 stream is reset, its HTTP/1.1 connection
//!   closed; its link learns that it took longer than that, and its node nothing at all.
//! - **One that fails** leaves the other to go on alone, and is counted as any try that failed. An answer that a further try
//!   would follow (503, say) counts as that. When both have failed, the last one's failure is the request's.
//! - **Each try** is held to its own time from its own beginning (`response_headers`, `per_try`), the request to its whole.
//!
//! A hedge is due so long after its try began, or after all of the request's body was here, whichever is later; and up to
//! 5 ms late, as all deadlines are (`deadlines`).

use super::admission::Beside;
use super::attempts::{Late, Tried, better_elsewhere, in_time, late, let_go, renew};
use super::client1::Head;
use super::core::{Core, Held};
use super::early::{Early, Tap};
use super::flight::{At, Attempt, Flight, HeadWait, grpc_status};
use super::ids::Trace;
use super::propagation::Carried;
use super::shared::send2;
use super::spans::Spans;
use super::upload::{Progress, Upload};
use super::upstream::{Outgoing, Sent, send1};
use super::watch::Watch;
use crate::balance::{Choice, Cluster, Health, Retrying, Table};
use crate::links::{Outcome, Time};
use crate::observe::{Arm, Hedged, Reason};
use crate::route::{ClusterId, WorkloadId};
use http::Method;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// When a request's first try is hedged, at the soonest, and how long after all of the request is here; counts it among those
/// that could be.
pub(super) fn due(cluster: &Cluster, core: &Core, now: Time) -> Option<(Time, Duration)> {
    let hedging = cluster.hedging.as_ref()?;
    hedging.budget.earn(core.index);
    hedging.after.map(|after| (now + after, after))
}

/// What a second try came to.
struct Came {
    sent: Sent,
    outgoing: Outgoing,
    head: Option<Head>,
}

/// A second try. Let go of before it is over, it is cancelled.
pub(super) struct Rival {
    core: Rc<Core>,
    held: Rc<Held>,
    ids: (ClusterId, WorkloadId),
    /// None once its request has it.
    attempt: Option<Attempt>,
    wait: HeadWait,
    /// When it is given up although the first one has not answered either.
    patience: Option<Time>,
    sending: Pin<Box<dyn Future<Output = Came>>>,
    came: Option<Came>,
    spans: Option<Rc<Spans>>,
    method: Method,
    /// It is a gRPC call.
    grpc: bool,
    _place: Option<Beside>,
}

impl Rival {
    fn with(&mut self, act: impl FnOnce(&mut Attempt, &At<'_>)) {
        let (cluster, workload) = self.ids;
        let generation = &*self.held.generation;
        if let (Some(attempt), Some(table)) = (&mut self.attempt, generation.table(cluster, workload)) {
            let (spans, method, grpc) = (self.spans.as_deref(), Some(&self.method), self.grpc);
            act(attempt, &At { core: &self.core, generation, cluster, table, spans, trace: None, method, grpc });
        }
    }

    fn fail(&mut self, reason: Reason, now: Time) {
        self.with(|attempt, at| attempt.fail(at, (reason, reason.blames_endpoint()), now));
    }

    /// It is over. Whether its answer can be passed on; else its failure is counted.
    fn is_answered(&mut self, came: Came, retrying: &Retrying) -> bool {
        let now = self.core.clock.now();
        match came.sent {
            Sent::Answered(mut lease) => {
                let better = came.head.as_ref().is_some_and(|head| better_elsewhere(retrying, head, &lease));
                if !better {
                    self.came = Some(Came { sent: Sent::Answered(lease), ..came });
                    return true;
                }
                let head = came.head.as_ref().map(|head| (head.parts.status, grpc_status(&head.parts.headers)));
                self.with(|attempt, at| {
                    if let Some((status, grpc_status)) = head {
                        attempt.answered(at, status, grpc_status);
                    }
                    attempt.record(at.table, at.core, Outcome::Failure, now);
                    attempt.node_failed(at, Reason::UpstreamReset);
                });
                if came.outgoing.is_sent() && lease.drain(&self.core.scratch) {
                    self.core.pool.give_back(&self.core, lease, now);
                }
            }
            Sent::Unsent(reason) => self.fail(reason, now),
            Sent::Declined => self.with(|attempt, at| attempt.record(at.table, at.core, Outcome::Cancelled, now)),
            Sent::Lost(failure) => self.fail(failure.reason, now),
        }
        false
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let now = self.core.clock.now();
        self.with(|attempt, at| {
            attempt.record(at.table, at.core, Outcome::Cancelled, now);
            attempt.end(at, now);
        });
    }
}

/// A first try that was not answered for long.
pub(super) struct Race<'a> {
    pub core: &'a Rc<Core>,
    pub held: &'a Rc<Held>,
    pub ids: (ClusterId, WorkloadId),
    pub cluster: &'a Cluster,
    pub table: &'a Table,
    pub watch: &'a Watch,
    pub wait: &'a HeadWait,
    /// When it is given up where another endpoint could be tried.
    pub patience: Option<Time>,
    pub upload: Option<&'a Rc<Upload>>,
    pub tap: &'a Tap,
    pub tried: &'a mut Tried,
    pub arm: Option<Arm>,
    pub grpc: bool,
    pub attempts: &'a mut u32,
    pub hedged: &'a mut Option<Hedged>,
    /// The spans and the trace, where that is recorded.
    pub spans: Option<(&'a Rc<Spans>, &'a Trace)>,
    pub method: &'a Method,
}

impl Race<'_> {
    /// Asks another endpoint as well, where it may, and waits until one of them answers or the first one is over:
    /// `Late::Outrun` where the other one's answer is at `rival`. Where the first one is over, the other one may be
    /// under way there.
    pub(super) async fn run(
        mut self,
        mut first: Pin<&mut (dyn Future<Output = Sent> + '_)>,
        rival: &mut Option<Box<Rival>>,
    ) -> Result<Sent, Late> {
        let now = self.core.clock.now();
        match self.allowed(now) {
            Ok((choice, place)) => {
                self.tap.ask();
                // Whoever sends it leaves the copy when it is looked at.
                let over = std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
                let copy = self.tap.take();
                if let Poll::Ready(sent) = over {
                    return Ok(sent);
                }
                match copy {
                    Some(copy) => *rival = Some(self.begin(choice, place, *copy, now)),
                    None => self.table.traffic.hedged(self.core.index, Hedged::Body),
                }
            }
            Err(why) => self.table.traffic.hedged(self.core.index, why),
        }
        match rival {
            Some(rival) => self.watch_both(rival, now),
            None => self.watch_first(now),
        }
        std::future::poll_fn(|cx| self.turn(cx, first.as_mut(), rival)).await
    }

    /// The other endpoint, and a second place at the cluster's gate, where there is one; or why there is to be no hedge.
    fn allowed(&self, now: Time) -> Result<(Choice, Option<Beside>), Hedged> {
        let (cluster, table, core) = (self.cluster, self.table, self.core);
        let most = cluster.retrying.body as u64;
        let here = |u: &Rc<Upload>| u.progress.get() == Progress::Done && u.bytes.get() <= most;
        if !self.upload.is_none_or(here) {
            return Err(Hedged::Body);
        }
        let expired = self.held.generation.expired(now);
        let who = (None, self.arm, true);
        let choice = table.pick_for(who, now, expired, &mut *core.rng.borrow_mut(), self.tried.so_far());
        let well = |choice: &Choice| {
            let candidate = table.candidates().get(choice.index);
            !table.panic && candidate.is_some_and(|c| c.health == Health::Healthy)
        };
        let choice = choice.filter(well).ok_or(Hedged::NoEndpoint)?;
        if !cluster.hedging.as_ref().is_some_and(|hedging| hedging.budget.take(now)) {
            return Err(Hedged::Share);
        }
        let place = match self.held.generation.admission.gate(self.ids.0) {
            Some(gate) => Some(Beside::enter(core, gate).ok_or(Hedged::Overload)?),
            None => None,
        };
        if cluster.retrying.budget.take(now) { Ok((choice, place)) } else { Err(Hedged::Budget) }
    }

    fn begin(&mut self, choice: Choice, place: Option<Beside>, copy: Outgoing, now: Time) -> Box<Rival> {
        self.tried.add(choice.index);
        *self.attempts += 1;
        // Until it has won.
        *self.hedged = Some(Hedged::Lost);
        let mut outgoing = copy;
        renew(&mut outgoing, self.grpc, self.watch.limit.get(), now);
        if let Some((spans, trace)) = self.spans {
            let mut trace = trace.clone();
            let span = trace.hang_below(&mut *self.core.rng.borrow_mut());
            outgoing.retrace(&Carried::new(&trace, self.core.propagators), &mut self.core.ids.borrow_mut());
            spans.begin(span, choice, now, true);
        }
        let (core, held, ids) = (self.core.clone(), self.held.clone(), self.ids);
        let sending = async move {
            let mut head = None;
            let sent = send((&core, &held), ids, choice.index, &mut outgoing, &mut head, now).await;
            Came { sent: sent.unwrap_or(Sent::Lost(Reason::Internal.into())), outgoing, head }
        };
        Box::new(Rival {
            core: self.core.clone(),
            held: self.held.clone(),
            ids,
            attempt: Some(Attempt::begin(choice, self.table, self.core, now)),
            wait: self.wait.anew(now),
            patience: self.cluster.retrying.per_try.map(|t| now + t),
            sending: Box::pin(sending),
            came: None,
            spans: self.spans.map(|(spans, _)| spans.clone()),
            method: self.method.clone(),
            grpc: self.grpc,
            _place: place,
        })
    }

    /// The deadline that comes first while both are under way.
    fn watch_both(&self, rival: &Rival, now: Time) {
        let dues = [self.wait.due(self.upload, now).0, rival.wait.due(self.upload, now).0];
        let soonest = dues.into_iter().chain(self.patience).chain(rival.patience).min();
        self.watch.patience.set(None);
        soonest.into_iter().for_each(|at| self.watch.set(at));
    }

    fn watch_first(&self, now: Time) {
        let patience = self.patience.filter(|_| self.tried.leaves(&self.cluster.retrying, self.table));
        self.watch.patience.set(patience);
        self.watch.set(self.wait.due(self.upload, now).0);
    }

    fn turn(
        &self,
        cx: &mut Context<'_>,
        first: Pin<&mut (dyn Future<Output = Sent> + '_)>,
        rival: &mut Option<Box<Rival>>,
    ) -> Poll<Result<Sent, Late>> {
        if let Poll::Ready(sent) = first.poll(cx) {
            return Poll::Ready(Ok(sent));
        }
        let (retrying, clock) = (&self.cluster.retrying, self.core.clock);
        let Some(other) = rival else {
            let late = late(self.watch, self.wait, self.upload, clock, (retrying, None));
            return late.map_or(Poll::Pending, |late| Poll::Ready(Err(late)));
        };
        if let Poll::Ready(came) = other.sending.as_mut().poll(cx) {
            if other.is_answered(came, retrying) {
                return Poll::Ready(Err(Late::Outrun));
            }
        } else if self.watch.deadline.reached() {
            let now = clock.now();
            if self.watch.limit.get().is_some_and(|limit| now >= limit) {
                return Poll::Ready(Err(Late::Overdue(Reason::RequestTimeout)));
            }
            let overdue = |wait: &HeadWait, patience: Option<Time>| {
                let (due, reason) = wait.due(self.upload, now);
                let overdue = (now >= due).then_some(Late::Overdue(reason));
                overdue.or_else(|| patience.is_some_and(|at| now >= at).then_some(Late::Slow))
            };
            if let Some(late) = overdue(self.wait, self.patience) {
                return Poll::Ready(Err(late));
            }
            if overdue(&other.wait, other.patience).is_none() {
                self.watch_both(other, now);
                return Poll::Pending;
            }
            other.fail(Reason::ResponseTimeout, now);
        } else {
            return Poll::Pending;
        }
        // The other one has failed, and is counted: the first one goes on alone.
        *rival = None;
        self.watch_first(clock.now());
        Poll::Pending
    }
}

/// Sends a second try. None where what it needs is not there.
async fn send(
    (core, held): (&Rc<Core>, &Held),
    (cluster, workload): (ClusterId, WorkloadId),
    index: usize,
    outgoing: &mut Outgoing,
    head: &mut Option<Head>,
    now: Time,
) -> Option<Sent> {
    let timeouts = &held.generation.cluster(cluster)?.timeouts;
    let endpoint = &held.generation.table(cluster, workload)?.candidates().get(index)?.endpoint;
    // What comes before an answer is passed on from the first one alone.
    let early = Early::default();
    Some(match outgoing {
        Outgoing::Http1(sending) => send1(core, endpoint, timeouts, sending, early, head, now).await,
        outgoing => send2(core, endpoint, timeouts, outgoing, (None, early), head, now).await,
    })
}

/// What a request's first try comes to that was hedged: `first`, or what its `rival` says in its place. The request then
/// holds the one whose word that is, and the other one is cancelled, or was counted as it failed.
pub(super) async fn settle(
    flight: &mut Flight,
    mut rival: Box<Rival>,
    first: Result<Sent, Late>,
    (cluster, table): (&Cluster, &Table),
    tried: &Tried,
) -> Result<Sent, Late> {
    let core = flight.core.clone();
    if let Some(Came { sent, outgoing, head }) = rival.came.take() {
        // Now the first one is the one to be cancelled.
        flight.swap_attempt(&mut rival.attempt, core.clock.now());
        (flight.outgoing, flight.head, flight.hedged) = (outgoing, head, Some(Hedged::Won));
        return Ok(sent);
    }
    let retrying = &cluster.retrying;
    let now = core.clock.now();
    match first {
        Ok(Sent::Answered(lease)) => {
            if !flight.head.as_ref().is_some_and(|head| better_elsewhere(retrying, head, &lease)) {
                return Ok(Sent::Answered(lease));
            }
            flight.lease = Some(lease);
            let_go(flight, now);
        }
        Err(Late::Overdue(Reason::RequestTimeout)) => return first,
        Ok(Sent::Declined) => flight.decline_attempt(now),
        Ok(Sent::Unsent(reason)) | Err(Late::Overdue(reason)) => flight.fail_attempt(reason, now),
        Ok(Sent::Lost(failure)) => flight.fail_attempt(failure.reason, now),
        Err(Late::Slow | Late::Due | Late::Outrun) => flight.fail_attempt(Reason::ResponseTimeout, now),
    }
    flight.end_attempt(now);
    // Nothing of it stays under way, and it may be sent again should the other one fail, too.
    if !flight.outgoing.rewind() {
        flight.outgoing = Outgoing::Gone;
    }
    flight.swap_attempt(&mut rival.attempt, now);
    let (watch, upload, wait) = (flight.watch.clone(), flight.upload.clone(), rival.wait);
    watch.patience.set(rival.patience.filter(|_| tried.leaves(retrying, table)));
    watch.set(wait.due(upload.as_ref(), now).0);
    let late = || late(&watch, &wait, upload.as_ref(), core.clock, (retrying, None));
    let came = std::future::poll_fn(|cx| in_time(rival.sending.as_mut(), late, cx)).await;
    watch.patience.set(None);
    let Came { sent, outgoing, head } = came?;
    if matches!(sent, Sent::Answered(_)) {
        flight.hedged = Some(Hedged::Won);
    }
    (flight.outgoing, flight.head) = (outgoing, head);
    Ok(sent)
}
