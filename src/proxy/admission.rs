//! A request at its cluster's gate: what it is told, and its wait for a place.
//!
//! Asked as soon as the cluster is known, before anything else is done for the request, so that a refusal is cheap. A
//! request waits on its core, behind those of a higher rank. A place that becomes free on the same core is handed to
//! the first of them; one that becomes free on another core is found by looking every few milliseconds.

use super::attempts::held_up;
use super::core::Core;
use super::failure::Failure;
use super::flight::Flight;
use super::names::{X_PATHLOOM_CLASS, X_PATHLOOM_DEPTH};
use super::seen::Seen;
use crate::admission::{ClassId, Entry, Gate, Rank, Refusal, Served, Table};
use crate::links::Time;
use crate::observe::Reason;
use crate::route::{ClusterId, WorkloadId};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often a request that waits looks for a place that became free on another core.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const SECOND_NS: u64 = 1_000_000_000;

/// Where a request stands with its cluster's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no gate, or it is past it.
    Outside,
    /// It waits for a place.
    Waiting(Rank, ClassId),
    /// It has a place, as one of so many.
    Inside(u32),
}

/// Asks for a token and a place. Whoever must wait for a place is let through to `wait`.
pub(super) fn ask(flight: &mut Flight, parts: &mut Parts, seen: &Seen, route: Option<u32>) -> Result<(), Failure> {
    let held = flight.held.clone();
    let table = &held.generation.admission;
    let (Some(workload), Some(cluster)) = (flight.workload, flight.cluster) else { return Ok(()) };
    let trusted = table.trusts(workload);
    let said = said(&mut parts.headers, seen, trusted, table);
    let given = said.class.or_else(|| table.route_class(route?));
    let class = given.unwrap_or(table.classes.usual);
    enter(flight, table, (workload, cluster), route, (class, said.depth))?;
    if table.priorities {
        // Somebody must begin to count: whose callers say nothing of their depth is the first.
        let class = given.map(|class| table.classes.name(class));
        pass_on(&mut parts.headers, class, said.depth.unwrap_or(0).saturating_add(1));
    }
    Ok(())
}

/// Asks for a connection, which says nothing of itself; `route` is the one that it goes by, if any.
pub(super) fn ask_for_connection(flight: &mut Flight, route: Option<u32>) -> Result<(), Failure> {
    let held = flight.held.clone();
    let table = &held.generation.admission;
    let (Some(workload), Some(cluster)) = (flight.workload, flight.cluster) else { return Ok(()) };
    let class = route.and_then(|route| table.route_class(route)).unwrap_or(table.classes.usual);
    enter(flight, table, (workload, cluster), route, (class, None))
}

fn enter(
    flight: &mut Flight,
    table: &Table,
    (workload, cluster): (WorkloadId, ClusterId),
    route: Option<u32>,
    (class, depth): (ClassId, Option<u8>),
) -> Result<(), Failure> {
    flight.class = Some(class);
    let now = flight.started;
    let limits = [table.workload_limit(workload), route.and_then(|route| table.route_limit(route))];
    for limited in limits.into_iter().flatten() {
        if let Err(wait_ns) = limited.bucket.take(flight.core.index, now) {
            limited.bucket.refuse(usize::from(class.0));
            return Err(Failure::from(Reason::RateLimited).retry_after(wait_ns.div_ceil(SECOND_NS).max(1)));
        }
    }
    if let Some(gate) = table.gate(cluster) {
        let trace_id = flight.trace.as_ref().map_or("", |t| t.trace_id());
        let rank = Rank::new(table.classes.level(class, depth), trace_id.as_bytes());
        flight.standing = match gate.arrive(flight.core.index, rank, class) {
            Entry::Inside(one_of) => Standing::Inside(one_of),
            Entry::Wait => Standing::Waiting(rank, class),
            Entry::Refused(refusal) => return Err(refused(refusal)),
        };
    }
    Ok(())
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    class: Option<ClassId>,
    depth: Option<u8>,
}

/// What a request says of itself, where it is believed; else it does not say it further on either.
fn said(headers: &mut HeaderMap, seen: &Seen, trusted: bool, table: &Table) -> Said {
    if !seen.class && !seen.depth {
        return Said::default();
    }
    if !trusted {
        headers.remove(X_PATHLOOM_CLASS);
        headers.remove(X_PATHLOOM_DEPTH);
        return Said::default();
    }
    let class = headers.get(X_PATHLOOM_CLASS).and_then(|v| table.classes.named(v.as_bytes()));
    let depth = headers.get(X_PATHLOOM_DEPTH).and_then(|v| v.to_str().ok()?.parse().ok());
    Said { class, depth }
}

/// Says further on what is known of a request.
fn pass_on(headers: &mut HeaderMap, class: Option<&str>, depth: u8) {
    if let Some(class) = class.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(X_PATHLOOM_CLASS, class);
    }
    // All that make a difference are at hand (`admission::MAX_DEPTH`).
    const AT_HAND: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let known = AT_HAND.get(usize::from(depth)).map(|depth| HeaderValue::from_static(depth));
    headers.insert(X_PATHLOOM_DEPTH, known.unwrap_or_else(|| HeaderValue::from(u16::from(depth))));
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Shed => Reason::Shed,
        Refusal::Full => Reason::Overloaded,
        Refusal::Waited => Reason::QueueTimeout,
    }
    .into()
}

/// A request that waits on this core.
struct Waiter {
    gate: Arc<Gate>,
    rank: Rank,
    /// It has been given the place of one that left.
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The requests that wait on a core.
#[derive(Default)]
pub(super) struct Waiting(RefCell<Vec<Rc<Waiter>>>);

impl Waiting {
    /// Gives a place that became free to the first who waits for one; whether there was somebody.
    fn hand_over(&self, gate: &Arc<Gate>) -> bool {
        let mut all = self.0.borrow_mut();
        let waiting = all.iter().enumerate().filter(|(_, w)| Arc::ptr_eq(&w.gate, gate));
        // Of equals the first that came.
        let Some((at, rank)) = waiting.map(|(i, w)| (i, w.rank)).max_by_key(|(i, rank)| (*rank, Reverse(*i))) else {
            return false;
        };
        if !gate.may_take_over(rank) {
            return false;
        }
        let waiter = all.remove(at);
        drop(all);
        waiter.granted.set(true);
        if let Some(waker) = waiter.waker.take() {
            waker.wake();
        }
        true
    }
}

/// Takes a waiter out of the queue, however its wait ends.
struct Queued<'a> {
    core: &'a Core,
    waiter: Rc<Waiter>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.waiter.gate.stop_waiting();
        self.core.waiting.0.borrow_mut().retain(|w| !Rc::ptr_eq(w, &self.waiter));
        // Given a place that it did not take: its client went away at this very moment.
        if self.waiter.granted.get() {
            self.waiter.gate.leave(self.core.index, 0, Served::Unknown);
        }
    }
}

/// Waits for a place.
pub(super) async fn wait(flight: &mut Flight) -> Result<(), Failure> {
    let Standing::Waiting(rank, class) = flight.standing else { return Ok(()) };
    flight.standing = Standing::Outside;
    let (core, held) = (flight.core.clone(), flight.held.clone());
    let gate = flight.cluster.and_then(|id| held.generation.admission.gate(id)).ok_or(Reason::Internal)?;
    let until = flight.started + gate.wait();
    let waiter = Rc::new(Waiter { gate: gate.clone(), rank, granted: Cell::new(false), waker: RefCell::default() });
    core.waiting.0.borrow_mut().push(waiter.clone());
    let queued = Queued { core: &core, waiter };
    let watch = &flight.watch;
    let look_at = |now: Time| watch.set(until.min(now + LOOK_EVERY));
    look_at(core.clock.now());
    let inside: Result<u32, Failure> = std::future::poll_fn(|cx| {
        if queued.waiter.granted.take() {
            return Poll::Ready(Ok(gate.took_over(core.index, class)));
        }
        if watch.deadline.reached() {
            let now = core.clock.now();
            if watch.limit.get().is_some_and(|limit| now >= limit) {
                return Poll::Ready(Err(Reason::RequestTimeout.into()));
            }
            if let Some(one_of) = gate.ask_again(core.index, rank, class) {
                return Poll::Ready(Ok(one_of));
            }
            if now >= until {
                gate.refuse(core.index, class, Refusal::Waited);
                return Poll::Ready(Err(refused(Refusal::Waited)));
            }
            look_at(now);
        }
        *queued.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
    drop(queued);
    watch.deadline.clear();
    (flight.standing, flight.ready) = (Standing::Inside(inside?), core.clock.now());
    held_up(flight);
    Ok(())
}

/// A second place, for a request that has one and is asked of another endpoint as well.
pub(super) struct Beside {
    core: Rc<Core>,
    gate: Arc<Gate>,
}

impl Beside {
    /// One that nobody else wants.
    pub(super) fn enter(core: &Rc<Core>, gate: &Arc<Gate>) -> Option<Self> {
        gate.enter_beside().then(|| Self { core: core.clone(), gate: gate.clone() })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.core.waiting.hand_over(&self.gate) {
            self.gate.leave_beside();
        }
    }
}

/// A request ends that was to wait and never came to it.
pub(super) fn gave_up(flight: &Flight) {
    if let Some(gate) = flight.cluster.and_then(|id| flight.held.generation.admission.gate(id)) {
        gate.stop_waiting();
    }
}

/// A request with a place is over.
pub(super) fn leave(flight: &Flight, one_of: u32, served: Served) {
    let gate = flight.cluster.and_then(|id| flight.held.generation.admission.gate(id));
    let Some(gate) = gate else { return };
    if flight.core.waiting.hand_over(gate) {
        gate.hand_on(flight.core.index, one_of, served);
    } else {
        gate.leave(flight.core.index, one_of, served);
    }
}
