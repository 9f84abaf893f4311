//! Tries: a request goes to another endpoint where that is safe, and where there is a budget for it.
//!
//! ```text
//! pick -> send -> answer's head -----------------------------------------------------> passed on
//!                    |  502, 503, 504, UNAVAILABLE   |  reset, noise, or  |  refused, declined
//!                    |                               |  slow              |
//!                    v                               v                    v
//!            idempotent, whole, another endpoint left, time left, budget?  (no: as it is)
//!                    |
//!                    +--> wait a little (full jitter, `Retry-After`) --> pick, without those that were tried
//! ```
//! - **What was never written** goes to another endpoint at once, whatever its method, and costs nothing of the budget:
//!   nobody has to serve it twice. What an endpoint says that it did nothing with is as safe, but may be a sign of load,
//!   and costs.
//! - **What may have reached an endpoint** is repeated only where the request is idempotent (its method is, or its route
//!   says so) and whole: its head is kept, and its body up to `retries.body`.
//! - **The budget** (`balance::Budget`) is the cluster's, for all threads and workloads.
//! - **`per_try`** gives up on an endpoint only where another one can be tried in its place: a request that nobody else
//!   could take waits on.
//! - **An answer that is tried again** is let go only when it is certain that there is another try. The last try's word is
//!   the client's.
//!
//! A first try that is not answered for long may be joined by one at another endpoint (`hedge`).
//!
//! It deliberately knows no retries after a head was passed on, and none at the same endpoint but for the one race that
//! `upstream` tells of.

use super::client1::Head;
use super::clock::Clock;
use super::deadline;
use super::early::{Early, Tap};
use super::failure::Failure;
use super::flight::{Flight, HeadWait};
use super::hedge::{self, Race};
use super::names::{GRPC_PUSHBACK, GRPC_STATUS};
use super::shared::send2;
use super::trial;
use super::upload::{Progress, Upload};
use super::upstream::{Lease, Outgoing, Sent, send1};
use super::watch::Watch;
use crate::balance::{Choice, Cluster, MAX_TRIES, Retrying, Table};
use crate::links::Time;
use crate::observe::Reason;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode, Version};
use rand::RngExt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

/// The longest wait before a second try; before each further one it may be twice as long, up to `LONGEST_BACKOFF`.
const BACKOFF: Duration = Duration::from_millis(25);
/// See `BACKOFF`.
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);
/// An endpoint that wants to be left alone for longer than this is taken at its word: its answer is passed on.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(1);
/// gRPC's UNAVAILABLE.
const UNAVAILABLE: &[u8] = b"14";

/// Where a request was tried.
pub(super) struct Tried {
    indices: [usize; MAX_TRIES],
    count: usize,
}

impl Tried {
    /// Nowhere yet.
    pub(super) fn nowhere() -> Self {
        Self { indices: [usize::MAX; MAX_TRIES], count: 0 }
    }

    pub(super) fn so_far(&self) -> &[usize] {
        self.indices.get(..self.count).unwrap_or_default()
    }

    pub(super) fn add(&mut self, index: usize) {
        if let Some(slot) = self.indices.get_mut(self.count) {
            *slot = index;
            self.count += 1;
        }
    }

    /// Whether the rules and the candidates leave another try.
    pub(super) fn leaves(&self, retrying: &Retrying, table: &Table) -> bool {
        self.count <= retrying.attempts && self.count < MAX_TRIES && table.has_beside(self.so_far())
    }
}

/// How a try failed.
enum Failed {
    /// It was answered, and the answer could be better.
    Answered,
    /// The endpoint never saw the request.
    Unsent(Reason),
    /// The endpoint says that it did nothing with it.
    Declined,
    /// It may have reached the endpoint.
    Lost(Failure),
    /// Another endpoint may be faster; that was paid for.
    Slow,
    /// Its time is up.
    Late(Reason),
}

impl Failed {
    fn failure(&self) -> Failure {
        match self {
            Self::Answered | Self::Declined => Reason::UpstreamReset.into(),
            Self::Slow => Reason::ResponseTimeout.into(),
            Self::Unsent(reason) | Self::Late(reason) => (*reason).into(),
            Self::Lost(failure) => *failure,
        }
    }
}

/// Why a try is given up.
pub(super) enum Late {
    /// It is not: it has taken so long that another endpoint may be asked as well.
    Due,
    /// An endpoint that was asked as well has answered.
    Outrun,
    /// Another endpoint may be faster.
    Slow,
    /// Something is overdue.
    Overdue(Reason),
}

/// Tries candidates until one answers, or the request may not go to another.
pub(super) async fn attempts(flight: &mut Flight) -> Result<(), Failure> {
    let (core, held) = (flight.core.clone(), flight.held.clone());
    let (Some(id), Some(workload)) = (flight.cluster, flight.workload) else { return Err(Reason::Internal.into()) };
    let cluster = held.generation.cluster(id).ok_or(Reason::Internal)?;
    let table = held.generation.table(id, workload).ok_or(Reason::Internal)?;
    let retrying = &cluster.retrying;
    retrying.budget.earn(core.index);
    let mut now = flight.ready;
    let mut tried = Tried::nowhere();
    flight.arm = trial::arm(flight, table, now);
    let mut choice = pick(flight, table, &tried, now).ok_or_else(|| cluster.nobody())?;
    loop {
        let Some(candidate) = table.candidates().get(choice.index) else { return Err(Reason::Internal.into()) };
        tried.add(choice.index);
        flight.begin_attempt(choice, now);
        let patience = retrying.per_try.filter(|_| flight.idempotent && tried.leaves(retrying, table)).map(|t| now + t);
        let due = if flight.hedges && tried.count == 1 { hedge::due(cluster, &core, now) } else { None };
        flight.watch.patience.set(due.map_or(patience, |(due, _)| Some(patience.map_or(due, |end| end.min(due)))));
        let wait = flight.await_head(now);
        let (endpoint, timeouts) = (&candidate.endpoint, &cluster.timeouts);
        let Flight {
            outgoing,
            head,
            latch,
            upload,
            watch,
            conn,
            version,
            arm,
            grpc,
            attempts,
            hedged,
            trace,
            spans,
            method,
            ..
        } = flight;
        // HTTP/1.0 knows no answers before the answer.
        let hints = Some(&watch.hints).filter(|_| conn.http2 || *version == Version::HTTP_11);
        let (tap, mut rival) = (Tap::default(), None);
        let early = Early { latch: latch.as_ref(), hints, tap: due.map(|_| &tap) };
        let upload = upload.as_ref();
        let late = || late(watch, &wait, upload, core.clock, (retrying, due));
        // Made only where it is run: a request's future does not hold it.
        macro_rules! race {
            () => {
                Race {
                    core: &core,
                    held: &held,
                    ids: (id, workload),
                    cluster,
                    table,
                    watch,
                    wait: &wait,
                    patience,
                    upload,
                    tap: &tap,
                    tried: &mut tried,
                    arm: *arm,
                    grpc: *grpc,
                    attempts,
                    hedged,
                    spans: spans.as_ref().zip(trace.as_ref()),
                    method,
                }
            };
        }
        let mut sent = match outgoing {
            Outgoing::Http1(sending) => {
                let mut sent = pin!(send1(&core, endpoint, timeouts, sending, early, head, now));
                match std::future::poll_fn(|cx| in_time(sent.as_mut(), late, cx)).await {
                    Err(Late::Due) => Box::pin(race!().run(sent, &mut rival)).await,
                    sent => sent,
                }
            }
            outgoing => {
                // Boxed, so that a request's future is as large as HTTP/1.1 needs: futures are copied around.
                let mut sent = Box::pin(send2(&core, endpoint, timeouts, outgoing, (upload, early), head, now));
                match std::future::poll_fn(|cx| in_time(sent.as_mut(), late, cx)).await {
                    Err(Late::Due) => Box::pin(race!().run(sent.as_mut(), &mut rival)).await,
                    sent => sent,
                }
            }
        };
        if let Some(rival) = rival {
            sent = Box::pin(hedge::settle(flight, rival, sent, (cluster, table), &tried)).await;
        }
        flight.watch.patience.set(None);
        let failed = match sent {
            Ok(Sent::Answered(lease)) => {
                let suspect = flight.head.as_ref().is_some_and(suspect);
                flight.lease = Some(lease);
                if !suspect {
                    flight.outgoing.recycle(&core.scratch);
                    return Ok(());
                }
                Failed::Answered
            }
            Ok(Sent::Unsent(reason)) => Failed::Unsent(reason),
            Ok(Sent::Declined) => Failed::Declined,
            Ok(Sent::Lost(failure)) => Failed::Lost(of_the_body(flight, failure)),
            Err(Late::Slow | Late::Due | Late::Outrun) => Failed::Slow,
            Err(Late::Overdue(reason)) => Failed::Late(reason),
        };
        now = core.clock.now();
        let Some((next, pause)) = again(flight, (cluster, table), &tried, &failed, now)? else { return Ok(()) };
        if !pause.is_zero() {
            // Nothing else may end the request meanwhile; it ends in time for its own limit.
            flight.watch.deadline.clear();
            Box::pin(tokio::time::sleep(pause)).await;
            now = core.clock.now();
        }
        renew(&mut flight.outgoing, flight.grpc, flight.watch.limit.get(), now);
        if flight.spans.is_some() {
            flight.retrace();
        }
        choice = next;
    }
}

/// Towards HTTP/1.1 a body that broke off is one thing, whoever broke it off.
fn of_the_body(flight: &Flight, failure: Failure) -> Failure {
    let body = flight.upload.as_ref().and_then(|upload| upload.progress.get().broken());
    body.filter(|_| failure.reason == Reason::RequestIncomplete).map_or(failure, Failure::from)
}

pub(super) fn pick(flight: &Flight, table: &Table, tried: &Tried, now: Time) -> Option<Choice> {
    let expired = flight.held.generation.expired(now);
    // A connection that cannot be made is made elsewhere.
    let who = (flight.number, flight.arm, flight.idempotent || flight.opaque);
    table.pick_for(who, now, expired, &mut *flight.core.rng.borrow_mut(), tried.so_far())
}

/// Whether an answer may be one that is tried again.
pub(super) fn suspect(head: &Head) -> bool {
    is_gateway(head.parts.status) || head.seen.grpc_status
}

/// Whether an answer is one that a further try may follow.
pub(super) fn better_elsewhere(retrying: &Retrying, head: &Head, lease: &Lease) -> bool {
    let unavailable = || head.seen.grpc_status && unavailable(lease, &head.parts.headers);
    retrying.gateway && is_gateway(head.parts.status) || retrying.unavailable && unavailable()
}

fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What follows a try that failed: another one after a pause, none (the answer that there is stands), or the failure.
/// The request is then as it was before it was sent, and the failed try is counted.
#[inline(never)]
fn again(
    flight: &mut Flight,
    (cluster, table): (&Cluster, &Table),
    tried: &Tried,
    failed: &Failed,
    now: Time,
) -> Result<Option<(Choice, Duration)>, Failure> {
    let retrying = &cluster.retrying;
    let next = pause(flight, retrying, failed, now, tried.count)
        .filter(|_| tried.leaves(retrying, table))
        // What was never written is whole, kept or not.
        .filter(|_| matches!(failed, Failed::Unsent(_)) || flight.outgoing.whole())
        .filter(|_| matches!(failed, Failed::Unsent(_) | Failed::Slow) || retrying.budget.take(now))
        .and_then(|pause| Some((pick(flight, table, tried, now)?, pause)));
    if matches!(failed, Failed::Answered) {
        if next.is_none() {
            settle(flight);
            return Ok(None);
        }
        let_go(flight, now);
    } else {
        let failure = failed.failure();
        match failed {
            Failed::Declined => flight.decline_attempt(now),
            _ => flight.fail_attempt(failure.reason, now),
        }
        if next.is_none() {
            if matches!(flight.outgoing, Outgoing::Spent(..)) {
                // Its stream, if it is open yet, is reset now.
                flight.outgoing = Outgoing::Gone;
            }
            return Err(failure);
        }
    }
    let whole = matches!((failed, &flight.outgoing), (Failed::Unsent(_), Outgoing::Http1(_) | Outgoing::Http2(_)));
    if !whole && !flight.outgoing.rewind() {
        return Err(failed.failure());
    }
    flight.end_attempt(now);
    table.traffic.retried(flight.core.index);
    Ok(next)
}

/// How long to wait before another try; none when there may be none.
fn pause(flight: &Flight, retrying: &Retrying, failed: &Failed, now: Time, tries: usize) -> Option<Duration> {
    let mut least = Duration::ZERO;
    match failed {
        // It goes to somebody else, who was not asked yet.
        Failed::Unsent(_) | Failed::Declined => return retrying.connect.then_some(Duration::ZERO),
        Failed::Slow => return Some(Duration::ZERO),
        Failed::Late(_) => return None,
        Failed::Lost(failure) => {
            // What is no answer is no better than none.
            let lost = matches!(failure.reason, Reason::UpstreamReset | Reason::UpstreamProtocol);
            (flight.idempotent && retrying.reset && lost).then_some(())?;
        }
        Failed::Answered => {
            let head = flight.head.as_ref()?;
            (flight.idempotent && better_elsewhere(retrying, head, flight.lease.as_ref()?)).then_some(())?;
            if head.seen.retry_after {
                least = asked_for(&head.parts.headers, SystemTime::now())?;
            }
        }
    }
    let doubled = BACKOFF.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(LONGEST_BACKOFF);
    let jittered = doubled.mul_f64(flight.core.rng.borrow_mut().random_range(0.0..1.0));
    let pause = jittered.max(least);
    flight.watch.limit.get().is_none_or(|limit| now + pause < limit).then_some(pause)
}

/// Whether an answer is gRPC's UNAVAILABLE and nothing else.
fn unavailable(lease: &Lease, headers: &HeaderMap) -> bool {
    lease.is_end_stream() && headers.get(GRPC_STATUS).is_some_and(|v| v.as_bytes() == UNAVAILABLE)
}

/// How long the endpoint wants to be left alone. None when that is longer than a request is held here, or for ever.
fn asked_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asked = match (headers.get(GRPC_PUSHBACK), headers.get(RETRY_AFTER)) {
        (Some(pushback), _) => Duration::from_millis(pushback.to_str().ok()?.trim().parse().ok()?),
        (None, Some(after)) => {
            let after = after.to_str().ok()?.trim();
            match after.parse() {
                Ok(seconds) => Duration::from_secs(seconds),
                // A date that has passed asks for nothing.
                Err(_) => httpdate::parse_http_date(after).ok()?.duration_since(now).unwrap_or_default(),
            }
        }
        (None, None) => Duration::ZERO,
    };
    (asked <= LONGEST_RETRY_AFTER).then_some(asked)
}

/// The answer stands: what is left of the request is sent, if anything is.
fn settle(flight: &mut Flight) {
    match (&mut flight.outgoing, &mut flight.lease) {
        (Outgoing::Http1(sending), Some(Lease::Http1(connection))) if !sending.writer.done() => {
            connection.detach(std::mem::take(sending));
        }
        (outgoing, Some(Lease::Http2(lease))) => lease.send_rest(outgoing),
        _ => {}
    }
    flight.outgoing.recycle(&flight.core.scratch);
}

/// Lets an answer go that is not the client's, counted as what it was.
pub(super) fn let_go(flight: &mut Flight, now: Time) {
    let lease = flight.lease.take();
    let sent = flight.outgoing.is_sent();
    if let Some(Head { parts, seen, lines }) = flight.head.take() {
        flight.answered(now, parts.status, &parts.headers, seen.load_metrics, seen.grpc_status);
        flight.grpc_status = None;
        if let Outgoing::Http1(sending) = &mut flight.outgoing {
            (sending.spare, sending.lines) = (parts.headers, lines);
        }
    }
    if let Some(mut lease) = lease
        && sent
        && lease.drain(&flight.core.scratch)
    {
        flight.core.pool.give_back(&flight.core, lease, now);
    }
}

/// What a call that was held up here before its first try says of its time.
pub(super) fn held_up(flight: &mut Flight) {
    renew(&mut flight.outgoing, flight.grpc, flight.watch.limit.get(), flight.ready);
}

/// What must be said anew with each try of a call, which has a `limit` in time.
pub(super) fn renew(outgoing: &mut Outgoing, grpc: bool, limit: Option<Time>, now: Time) {
    if let (true, Some(limit), Outgoing::Http2(request)) = (grpc, limit, outgoing) {
        deadline::insert(request.headers_mut(), limit.since(now));
    }
}

/// Why a try is given up, when something is overdue; or that a hedge is `due`.
pub(super) fn late(
    watch: &Watch,
    wait: &HeadWait,
    upload: Option<&Rc<Upload>>,
    clock: Clock,
    (retrying, due): (&Retrying, Option<(Time, Duration)>),
) -> Option<Late> {
    if !watch.deadline.reached() {
        return None;
    }
    if let Some(at) = watch.patience.get() {
        let now = clock.now();
        if now >= at {
            if let Some((due, after)) = due
                && now >= due
            {
                // Whose body is not here yet waits for its client, and the endpoint's time begins when it is.
                let since = upload.map(|u| if u.progress.get() == Progress::Open { now } else { u.last_moved(now) });
                let due = since.map_or(due, |since| since + after);
                if now >= due {
                    return Some(Late::Due);
                }
                watch.patience.set(Some(due));
                return wait.overdue(watch, upload, clock).map(Late::Overdue);
            }
            // Whose body is not sent yet waits for its client, and not for the endpoint.
            let sent = upload.is_none_or(|u| u.progress.get() != Progress::Open);
            let whole = upload.is_none_or(|u| u.bytes.get() <= retrying.body as u64);
            let in_time = watch.limit.get().is_none_or(|limit| now < limit);
            // Whom the budget refuses asks it again after as long.
            watch.patience.set(retrying.per_try.filter(|_| whole && in_time).map(|t| now + t));
            if sent && whole && in_time && retrying.budget.take(now) {
                return Some(Late::Slow);
            }
        }
    }
    wait.overdue(watch, upload, clock).map(Late::Overdue)
}

/// Waits for the head, until something is overdue.
pub(super) fn in_time<F: Future + ?Sized>(
    sending: Pin<&mut F>,
    late: impl Fn() -> Option<Late>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, Late>> {
    match sending.poll(cx) {
        Poll::Ready(sent) => Poll::Ready(Ok(sent)),
        Poll::Pending => late().map_or(Poll::Pending, |late| Poll::Ready(Err(late))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_asks_for_is_honoured_up_to_a_second() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let asked = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            asked_for(&headers, now)
        };
        assert_eq!(asked("retry-after", "1"), Some(Duration::from_secs(1)));
        assert_eq!(
            (asked("retry-after", "2"), asked("retry-after", "-1"), asked("retry-after", "soon")),
            (None, None, None)
        );
        assert_eq!(asked("retry-after", "Sun, 09 Sep 2001 01:46:41 GMT"), Some(Duration::from_secs(1)));
        assert_eq!(asked("retry-after", "Sun, 09 Sep 2001 01:40:00 GMT"), Some(Duration::ZERO), "it has passed");
        assert_eq!(asked("retry-after", "Sun, 09 Sep 2001 02:00:00 GMT"), None);
        assert_eq!(asked("grpc-retry-pushback-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(asked("grpc-retry-pushback-ms", "-1"), None, "never");
        assert_eq!(asked("x", "y"), Some(Duration::ZERO));
    }
}
