//! Copies of requests for another cluster: sent and forgotten.
//!
//! ```text
//! rule --chance--> copy of the head --body's frames copied as they go by--> body whole? --> a task of its own:
//!                     |                   |                                               pick, send, drop the answer
//!                     | too many          | longer than `max_body`, or broken off
//!                     v                   v
//!                   counted, dropped    counted, dropped
//! ```
//! **The real request** never waits for any of it: its body's frames are copied when they have gone by anyway, the copy
//! is sent once they all have, and whatever becomes of it is a counter.
//!
//! **Bounds.** `MAX_UNDER_WAY` copies a core, each with at most `mirror.max_body` bytes and as long as the cluster lets a
//! connection and a head take; of an answer `MAX_ANSWER` bytes are read, so that its connection can be used again.
//!
//! **What is learnt** is nothing: no link and no node hears of a copy, so that what routing knows stays what callers
//! felt, also where both clusters have an endpoint in common. The endpoint is therefore drawn by its configured weight
//! among those that are well, and not by the policy. No try follows one that fails.
//!
//! **The mark** is the header `x-mirrored: pathloom`. Envoy adds `-shadow` to the host instead; a service that tells its
//! sites apart by their host would then answer every copy with 404.

use super::added::Added;
use super::client1::{Head, Sending};
use super::core::{Core, Held};
use super::early::Early;
use super::flight::Flight;
use super::headers::{Hop, to_upstream};
use super::names::X_MIRRORED;
use super::seen::Seen;
use super::shaping::Shape;
use super::shared::send2;
use super::upload::RequestBody;
use super::upstream::{Lease, Outgoing, Sent, send1};
use crate::config::Protocol;
use crate::observe::Copied;
use crate::route::{ClusterId, Mirror, WorkloadId};
use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderValue, Request};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, ready};

/// How many copies a core has under way, those included whose body is not whole yet.
const MAX_UNDER_WAY: usize = 128;
/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

const MARK: HeaderValue = HeaderValue::from_static("pathloom");

/// What was copied of a body.
pub(super) type Gathered = Rc<RefCell<BytesMut>>;

/// A place among the copies that are under way.
struct UnderWay(Rc<Core>);

impl UnderWay {
    fn of(core: &Rc<Core>) -> Option<Self> {
        let count = core.copies.get();
        (count < MAX_UNDER_WAY).then(|| {
            core.copies.set(count + 1);
            Self(core.clone())
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get().saturating_sub(1));
    }
}

/// A copy that waits for the request's body.
pub(super) struct Twin {
    outgoing: Outgoing,
    held: Rc<Held>,
    cluster: ClusterId,
    workload: WorkloadId,
    body: Gathered,
    max_body: usize,
    place: UnderWay,
}

/// What a request is copied from.
pub(super) struct Original<'a> {
    /// Rewritten, and not yet made fit for its endpoint. All of its headers are there.
    pub parts: Parts,
    pub seen: &'a Seen,
    /// The host that the endpoint is asked for.
    pub host: &'a HeaderValue,
    pub added: Added<'a>,
    /// The least that its body will have, in bytes; none where there is no body.
    pub body: Option<u64>,
}

impl Twin {
    /// Begins a copy. None where there is none to be: what became of it is counted.
    pub(super) fn begin(flight: &Flight, shape: &Shape, mirror: &Mirror, original: Original<'_>) -> Option<Self> {
        let (core, workload) = (&flight.core, flight.workload?);
        let cluster = flight.held.generation.cluster(mirror.cluster)?;
        let count = |what| count(core, &flight.held, (mirror.cluster, workload), what);
        let Original { mut parts, seen, host, added, body } = original;
        if body.is_some_and(|least| least > mirror.max_body as u64) {
            count(Copied::TooLarge);
            return None;
        }
        let Some(place) = UnderWay::of(core) else {
            count(Copied::Busy);
            return None;
        };
        let hop = Hop { client: added.client, host, empty: body.is_none(), secure: cluster.secure };
        // Who wants another protocol wants to talk, which cannot be copied.
        let asks = to_upstream(&mut parts, seen, cluster.protocol, &hop).ok().filter(|asks| !asks.upgrade)?;
        if asks.expect {
            parts.headers.remove(EXPECT);
        }
        shape.after(&mut parts.headers, cluster.protocol);
        parts.headers.insert(X_MIRRORED, MARK);
        let gathered = Gathered::default();
        let copied = body.map(|_| RequestBody::Copied(gathered.clone()));
        let outgoing = match cluster.protocol {
            // Requests cannot go there: such a configuration is refused.
            Protocol::Tcp => return None,
            Protocol::Http1 => Outgoing::Http1(Sending::new(&mut parts, None, &added, copied, &core.scratch)),
            Protocol::Http2 => {
                added.insert(&mut parts.headers, &mut core.ids.borrow_mut());
                Outgoing::Http2(Request::from_parts(parts, copied.unwrap_or_default()))
            }
        };
        let (held, max_body) = (flight.held.clone(), mirror.max_body);
        Some(Self { outgoing, held, cluster: mirror.cluster, workload, body: gathered, max_body, place })
    }

    /// Copies a part of the body that has gone by. `false` where that is more than may be copied.
    pub(super) fn take_in(&mut self, data: &[u8]) -> bool {
        let mut body = self.body.borrow_mut();
        if data.len() > self.max_body.saturating_sub(body.len()) {
            count(&self.place.0, &self.held, (self.cluster, self.workload), Copied::TooLarge);
            return false;
        }
        body.extend_from_slice(data);
        true
    }

    /// Sends it: all of the body is there.
    pub(super) fn send(self) {
        tokio::task::spawn_local(async move {
            let Self { mut outgoing, held, cluster, workload, place, .. } = self;
            let sent = sent(&mut outgoing, &place.0, &held, (cluster, workload)).await;
            let what = if sent.is_some() { Copied::Answered } else { Copied::Failed };
            count(&place.0, &held, (cluster, workload), what);
        });
    }
}

fn count(core: &Core, held: &Held, (cluster, workload): (ClusterId, WorkloadId), what: Copied) {
    if let Some(table) = held.generation.table(cluster, workload) {
        table.traffic.copied(core.index, what);
    }
}

/// Sends a copy and drops its answer. None where there was no answer in time.
async fn sent(
    outgoing: &mut Outgoing,
    core: &Rc<Core>,
    held: &Held,
    (cluster, workload): (ClusterId, WorkloadId),
) -> Option<()> {
    let timeouts = &held.generation.cluster(cluster)?.timeouts;
    let table = held.generation.table(cluster, workload)?;
    let index = table.draw_apart(&mut *core.rng.borrow_mut())?;
    let endpoint = &table.candidates().get(index)?.endpoint;
    let within = timeouts.connect.0.saturating_add(timeouts.response_headers.0);
    let mut head: Option<Head> = None;
    let exchange = async {
        let now = core.clock.now();
        let early = Early::default();
        let sent = match outgoing {
            Outgoing::Http1(sending) => send1(core, endpoint, timeouts, sending, early, &mut head, now).await,
            outgoing => send2(core, endpoint, timeouts, outgoing, (None, early), &mut head, now).await,
        };
        match sent {
            Sent::Answered(lease) => Some(lease),
            Sent::Unsent(_) | Sent::Declined | Sent::Lost(_) => None,
        }
    };
    let lease = tokio::time::timeout(within, exchange).await.ok()??;
    // An endless answer is dropped with its connection.
    let _ = tokio::time::timeout(within, dropped(lease, core)).await;
    Some(())
}

/// Reads an answer's body and gives its connection back.
async fn dropped(mut lease: Lease, core: &Rc<Core>) {
    let mut read = 0;
    let whole = std::future::poll_fn(|cx| {
        while !lease.is_end_stream() && read <= MAX_ANSWER {
            match ready!(lease.poll_frame(cx, &core.scratch)) {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
        }
        Poll::Ready(read <= MAX_ANSWER)
    })
    .await;
    if whole {
        core.pool.give_back(core, lease, core.clock.now());
    }
}
