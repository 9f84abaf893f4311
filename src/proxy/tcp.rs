//! Connections that are passed on as they are, whatever is spoken on them.
//!
//! ```text
//! route (port, name, destination) -> place in the cluster -> pick, connect, elsewhere where that fails -> bytes both ways
//! ```
//! A connection counts as one request from its beginning to its end: in flight, in its link's statistics, in the cluster's
//! limits and in the log. What its link learns as latency is how long connecting took; bytes and duration are counted when
//! it is over. The endpoint is called as soon as the connection is there, so that servers may speak first.
//!
//! **Bytes** go straight from one side to the other: a core's block is read into and written from, nothing is copied, and a
//! connection on which nothing happens holds no memory for bytes. What cannot be written at once waits (one block each
//! way, 64 KiB at most), and its side is not read before that is gone.
//!
//! **Ends.** A side that ends its sending is passed on as such, and the other direction goes on. A side that breaks breaks
//! the other: who reads it must be able to tell. An endpoint that breaks before it ever said something has failed; later, a
//! reset is how many servers say goodbye. A drain waits for connections, up to its deadline: nobody can tell the clients of
//! an unknown protocol to leave. One that its listener would not take any more, in plain text where that is refused by now or
//! against new rules, is cut when it has gone on for as long as a drain may take.
//!
//! **Circles.** Nothing in a stream of bytes says where it has been. Where proxies introduce their clients to each other (PROXY
//! headers) they count themselves there; what this proxy opened itself it knows when it comes back (`own`). One that goes in
//! a circle is cut by either count (`door`). Any other, by several nodes that say nothing, grows by a connection a round, as
//! far as `admission.concurrency`, `listeners.max_connections` and descriptors let it, and is gone with its client.

use super::admission::{self, Standing};
use super::attempts::{Tried, pick};
use super::conn::{Conn, Notice};
use super::core::Core;
use super::dialing::{Open, connect, connect_to};
use super::flight::Flight;
use super::proxy_header;
use super::transport::Transport;
use super::trial;
use crate::balance::{Cluster, Table};
use crate::config::Timeouts;
use crate::observe::Reason;
use crate::route::ClusterId;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Uri};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To<'a> {
    /// Where its route says: by the port that it was made to, and by the name that TLS asked for.
    Route(u16, Option<&'a str>),
    /// To this cluster.
    Cluster(ClusterId),
    /// There, as it is: no cluster has that address.
    Address(SocketAddr),
}

/// Who connects to whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// By how many of us it came, as the PROXY headers before it say, and as we know where it came from ourselves.
    pub hops: u8,
}

/// Passes a connection on, of which `read` came already, to its end.
pub(super) async fn serve(conn: &Rc<Conn>, client: Transport, read: Bytes, to: To<'_>, ends: Ends) {
    let core = conn.core.clone();
    std::future::poll_fn(|cx| {
        // Whoever waits in this task is woken by its one deadline.
        conn.watch.deadline.register(cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut flight = Box::new(Flight::of_connection(conn, core.generation(), core.clock.now()));
    match Box::pin(reach(&mut flight, to, ends)).await {
        Ok((endpoint, open)) => {
            client.keep_alive();
            endpoint.keep_alive();
            let pair = Pair::new(client, endpoint, read);
            carry(flight, pair, open).await;
        }
        Err(reason) => {
            client.reset();
            flight.broken(reason);
        }
    }
}

/// Closes a connection that goes nowhere, and says why.
pub(super) fn refuse(conn: &Rc<Conn>, client: Transport, reason: Reason) {
    let core = conn.core.clone();
    let held = core.generation();
    let workload = conn.workload(&held);
    let mut flight = Flight::of_connection(conn, held, core.clock.now());
    flight.workload = workload;
    flight.broken(reason);
    client.reset();
}

/// Finds out where it goes, and opens that connection.
async fn reach(flight: &mut Flight, to: To<'_>, ends: Ends) -> Result<(Transport, Open), Reason> {
    let held = flight.held.clone();
    let generation = &held.generation;
    let workload = flight.conn.workload(&held).ok_or(Reason::UnknownSource)?;
    flight.workload = Some(workload);
    if flight.conn.plain_text() {
        return Err(Reason::TlsRequired);
    }
    let rules = generation.routes.workload(workload).and_then(|workload| workload.allow.as_ref());
    if rules.is_some_and(|rules| !rules.allow_connection(flight.conn.client_id())) {
        return Err(Reason::NotAllowed);
    }
    let (id, rule) = match to {
        To::Address(address) => return pass(flight, address, ends).await,
        To::Cluster(id) => (id, None),
        To::Route(port, name) => {
            if let Some(name) = name.filter(|_| flight.core.sink.enabled()) {
                let name = HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static(""));
                flight.target = Some(Box::new((Uri::default(), name)));
            }
            let rule = generation.routes.connections().find(port, name).ok_or(Reason::NoRoute)?;
            let random = rand::Rng::next_u32(&mut *flight.core.rng.borrow_mut());
            (rule.cluster(random).ok_or(Reason::NoRoute)?, Some(rule))
        }
    };
    flight.cluster = Some(id);
    let cluster = generation.cluster(id).ok_or(Reason::Internal)?;
    let table = generation.table(id, workload).ok_or(Reason::Internal)?;
    if let Some(rule) = rule {
        flight.route = Some(rule.label.clone());
        flight.watch.limit.set(rule.timeout.map(|limit| flight.started + limit));
    }
    flight.watch.idle.set(cluster.timeouts.tcp_idle.0);
    // Of all that tells clients apart a connection has its address alone.
    flight.number = generation.routes.affinity(id).and_then(|a| a.number(&HeaderMap::new(), flight.conn.peer));
    if generation.admission.active {
        admission::ask_for_connection(flight, rule.map(|rule| rule.index)).map_err(|failure| failure.reason)?;
        if matches!(flight.standing, Standing::Waiting(..)) {
            admission::wait(flight).await.map_err(|failure| failure.reason)?;
        }
    }
    call(flight, cluster, table, ends).await
}

/// Opens a connection to where a captured one was going.
async fn pass(flight: &mut Flight, address: SocketAddr, ends: Ends) -> Result<(Transport, Open), Reason> {
    let (core, timeouts) = (flight.core.clone(), Timeouts::default());
    flight.passed = Some(address);
    flight.watch.idle.set(timeouts.tcp_idle.0);
    core.gauge(|g| g.passed.add(1));
    connect_to(&core, address, &timeouts, ends.hops).await
}

/// Opens a connection to an endpoint, to another where that fails.
async fn call(flight: &mut Flight, cluster: &Cluster, table: &Table, ends: Ends) -> Result<(Transport, Open), Reason> {
    let core = flight.core.clone();
    let mut tried = Tried::nowhere();
    let mut now = flight.ready;
    flight.arm = trial::arm(flight, table, now);
    let mut choice = pick(flight, table, &tried, now).ok_or_else(|| cluster.nobody())?;
    loop {
        let candidate = table.candidates().get(choice.index).ok_or(Reason::Internal)?;
        tried.add(choice.index);
        flight.begin_attempt(choice, now);
        let mut connected = connect(&core, &candidate.endpoint, &cluster.timeouts, Some(ends.hops)).await;
        if cluster.proxy_protocol
            && let Ok(((endpoint, _), _)) = &mut connected
            && introduce(endpoint, ends).await.is_err()
        {
            connected = Err(Reason::UpstreamReset);
        }
        now = core.clock.now();
        let reason = match connected {
            Ok(((endpoint, _), open)) => {
                flight.connected(now);
                return Ok((endpoint, open));
            }
            Err(reason) => reason,
        };
        flight.fail_attempt(reason, now);
        let retrying = &cluster.retrying;
        let again = retrying.connect && tried.leaves(retrying, table);
        choice = Some(()).filter(|()| again).and_then(|()| pick(flight, table, &tried, now)).ok_or(reason)?;
        flight.end_attempt(now);
        table.traffic.retried(core.index);
    }
}

/// Tells an endpoint who the client is, by a PROXY header.
async fn introduce(endpoint: &mut Transport, ends: Ends) -> io::Result<()> {
    let header = proxy_header::write(ends.client, ends.server, ends.hops).ok_or(io::ErrorKind::InvalidInput)?;
    endpoint.write_all(&header).await
}

/// Both sides of a connection.
struct Pair {
    client: Transport,
    endpoint: Transport,
    up: Way,
    down: Way,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and is not written yet.
    waiting: Bytes,
    /// The last read filled its block.
    long: bool,
    /// Its side has nothing more to say.
    over: bool,
    /// The other side knows that.
    told: bool,
    /// How many bytes were written.
    bytes: u64,
}

/// Which side broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broke {
    /// The one that is read.
    Source,
    /// The one that is written to.
    Sink,
}

impl Way {
    /// Moves what can be moved at once; ready at the end of the direction.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        core: &Core,
        from: &mut Transport,
        to: &mut Transport,
    ) -> Poll<Result<(), Broke>> {
        loop {
            while !self.waiting.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting)) {
                    Ok(written) if written > 0 => {
                        self.waiting.advance(written);
                        self.bytes += written as u64;
                    }
                    _ => return Poll::Ready(Err(Broke::Sink)),
                }
            }
            if self.over {
                if !self.told {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Broke::Sink)?;
                    self.told = true;
                }
                return Poll::Ready(Ok(()));
            }
            // What was written keeps its part of a block no longer.
            self.waiting = Bytes::new();
            let (read, filled) = ready!(core.scratch.poll_read(cx, from, self.long)).map_err(|_| Broke::Source)?;
            self.long = filled;
            self.over = read.is_empty();
            self.waiting = read;
        }
    }
}

/// How a connection ended.
enum End {
    /// Both sides said all that they had to say.
    Over,
    ClientBroke,
    EndpointBroke,
    Late(Reason),
}

impl Pair {
    fn new(client: Transport, endpoint: Transport, read: Bytes) -> Self {
        let up = Way { waiting: read, ..Way::default() };
        Self { client, endpoint, up, down: Way::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, core: &Core) -> Poll<End> {
        let Self { client, endpoint, up, down } = self;
        let upwards = match up.poll(cx, core, client, endpoint) {
            Poll::Ready(Err(Broke::Source)) => return Poll::Ready(End::ClientBroke),
            Poll::Ready(Err(Broke::Sink)) => return Poll::Ready(End::EndpointBroke),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        match down.poll(cx, core, endpoint, client) {
            Poll::Ready(Err(Broke::Source)) => Poll::Ready(End::EndpointBroke),
            Poll::Ready(Err(Broke::Sink)) => Poll::Ready(End::ClientBroke),
            Poll::Ready(Ok(())) if upwards => Poll::Ready(End::Over),
            _ => Poll::Pending,
        }
    }
}

/// Carries bytes both ways until the connection is over.
async fn carry(mut flight: Box<Flight>, mut pair: Pair, _open: Open) {
    let core = flight.core.clone();
    let watch = flight.watch.clone();
    let idle = watch.idle.get();
    let _counted = Carried::new(&core);
    let (mut moved_at, mut notice) = (core.clock.now(), Notice::none());
    watch.set(moved_at + idle);
    let end = std::future::poll_fn(|cx| {
        watch.deadline.register(cx.waker());
        let before = (pair.up.bytes, pair.down.bytes);
        let end = pair.poll(cx, &core);
        let (up, down) = (pair.up.bytes - before.0, pair.down.bytes - before.1);
        if up + down > 0 {
            moved_at = core.clock.now();
            flight.sent(up as usize);
            if down > 0 {
                if before.1 == 0 {
                    flight.spoke();
                }
                flight.received(down as usize);
            }
        }
        if notice.look(&flight.conn, true) {
            watch.set(notice.or(moved_at + idle, Reason::IdleTimeout).0);
        }
        if end.is_pending() && watch.deadline.reached() {
            let (due, reason) = notice.or(moved_at + idle, Reason::IdleTimeout);
            let late = watch.overdue(core.clock.now(), due, reason);
            return late.map_or(Poll::Pending, |reason| Poll::Ready(End::Late(reason)));
        }
        end
    })
    .await;
    let Pair { client, endpoint, down, .. } = pair;
    match end {
        End::Over => return flight.complete(),
        End::ClientBroke => flight.broken(Reason::ClientGone),
        End::EndpointBroke if down.bytes == 0 => flight.broken(Reason::UpstreamReset),
        // What it had to say it may well have said.
        End::EndpointBroke => flight.complete(),
        End::Late(reason) => flight.broken(reason),
    }
    client.reset();
    endpoint.reset();
}

/// Counts a connection that is passed on while it lives.
struct Carried(Rc<Core>);

impl Carried {
    fn new(core: &Rc<Core>) -> Self {
        core.gauge(|g| g.tcp.add(1));
        Self(core.clone())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.gauge(|g| g.tcp.sub(1));
    }
}
