//! A request under way: what it holds, what it measured, and how its end is counted.
//!
//! Everything that must happen at the end happens in `Drop`, so that a request which the client abandoned, or whose
//! connection broke, is counted and logged like any other: in-flight counts return, the link gets its outcome, the
//! connection to the endpoint goes back to the pool or is closed.
//!
//! What its tries leave behind with links and nodes is told in `attempt`, how long an answer's head may take in `wait`.

mod attempt;
mod wait;

pub(super) use attempt::{At, Attempt};
pub(super) use wait::HeadWait;

use attempt::GRPC_UNAVAILABLE;

use super::admission::{self, Standing};
use super::client1::Head;
use super::conn::Conn;
use super::core::{Core, Held};
use super::expect::Latch;
use super::ids::Trace;
use super::names::{ENDPOINT_LOAD_METRICS, ENDPOINT_LOAD_METRICS_BIN, GRPC_STATUS};
use super::shaping::Shape;
use super::spans::Spans;
use super::trial;
use super::upload::{Progress, Upload};
use super::upstream::{Lease, Outgoing};
use super::watch::Watch;
use crate::admission::{ClassId, Served};
use crate::balance::Table;
use crate::config::Timeouts;
use crate::identity::SpiffeId;
use crate::links::{Outcome, Time};
use crate::observe::{AccessRecord, Arm, DurationKind, Hedged, Reason};
use crate::route::{ClusterId, Rule, WorkloadId};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// gRPC statuses with which the server, not the caller, is at fault: deadline exceeded, resource exhausted, internal,
/// unavailable, data loss.
pub(super) const GRPC_FAILURES: [u16; 5] = [4, 8, 13, 14, 15];
/// So little of an answer fits into what lies between an endpoint and a client, however slowly that one reads.
const TRICKLE: u64 = 64 * 1024;

pub(super) struct Flight {
    pub core: Rc<Core>,
    pub conn: Rc<Conn>,
    pub watch: Rc<Watch>,
    pub held: Rc<Held>,
    pub started: Time,
    /// When it was let through to an endpoint: later than its start where it had to wait for a place, or on purpose.
    pub ready: Time,
    pub version: Version,
    pub method: Method,
    /// What the log will say, where there is one: the target and the authority.
    pub target: Option<Box<(Uri, HeaderValue)>>,
    pub request_id: HeaderValue,
    pub trace: Option<Trace>,
    /// Its tries' spans, where somebody takes them.
    pub spans: Option<Rc<Spans>>,
    pub workload: Option<WorkloadId>,
    /// The place of its rule in its generation's table of routes.
    pub rule: Option<u32>,
    /// Of a connection, its rule's label.
    pub route: Option<Arc<str>>,
    pub cluster: Option<ClusterId>,
    /// What its rule does beyond choosing the cluster; mostly nothing.
    pub shape: Option<Box<Shape>>,
    /// Requests with the same number stay with one endpoint.
    pub number: Option<u64>,
    /// Who steers it, where the model is on trial.
    pub arm: Option<Arm>,
    /// It may be repeated.
    pub idempotent: bool,
    /// It may be asked of a second endpoint before the first one has failed.
    pub hedges: bool,
    /// It was, and who won.
    pub hedged: Option<Hedged>,
    /// It is a gRPC call.
    pub grpc: bool,
    /// It is no request but a TCP connection.
    pub opaque: bool,
    /// Where it was passed on to as it is, where no cluster has that address.
    pub passed: Option<SocketAddr>,
    /// Its caller set the limit of its time.
    pub impatient: bool,
    pub class: Option<ClassId>,
    pub standing: Standing,
    pub attempts: u32,
    pub attempt: Option<Attempt>,
    pub upload: Option<Rc<Upload>>,
    pub latch: Option<Latch>,
    /// The request, until it was sent.
    pub outgoing: Outgoing,
    /// The answer's head, until it is passed on.
    pub head: Option<Head>,
    /// What the answer's body comes from.
    pub lease: Option<Lease>,
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u16>,
    pub reason: Option<Reason>,
    bytes_out: u64,
    complete: bool,
    moved: bool,
    moved_at: Time,
    ended: Option<Time>,
    /// The request's time was up while so little of its answer had come that only its endpoint can have been slow.
    trickled: bool,
}

impl Flight {
    pub(super) fn start(
        conn: &Rc<Conn>,
        watch: &Rc<Watch>,
        held: Rc<Held>,
        started: Time,
        parts: &http::request::Parts,
    ) -> Self {
        conn.begin();
        Self {
            core: conn.core.clone(),
            conn: conn.clone(),
            watch: watch.clone(),
            held,
            started,
            ready: started,
            version: parts.version,
            method: parts.method.clone(),
            target: None,
            request_id: HeaderValue::from_static(""),
            trace: None,
            spans: None,
            workload: None,
            rule: None,
            route: None,
            cluster: None,
            shape: None,
            number: None,
            arm: None,
            idempotent: false,
            hedges: false,
            hedged: None,
            grpc: false,
            opaque: false,
            passed: None,
            impatient: false,
            class: None,
            standing: Standing::Outside,
            attempts: 0,
            attempt: None,
            upload: None,
            latch: None,
            outgoing: Outgoing::Gone,
            head: None,
            lease: None,
            status: None,
            grpc_status: None,
            reason: None,
            bytes_out: 0,
            complete: false,
            moved: false,
            moved_at: started,
            ended: None,
            trickled: false,
        }
    }

    /// One that stands for a TCP connection: its caller is to be told nothing but its end.
    pub(super) fn of_connection(conn: &Rc<Conn>, held: Rc<Held>, started: Time) -> Self {
        let (parts, ()) = http::Request::new(()).into_parts();
        let mut flight = Self::start(conn, &conn.watch, held, started, &parts);
        flight.opaque = true;
        let upload = Upload::new(flight.core.clock, &flight.watch, started, None);
        upload.progress.set(Progress::Done);
        flight.upload = Some(upload);
        // Whatever ends it early but the connections themselves is the end of this process.
        flight.watch.verdict.set(Some(Reason::Shutdown));
        flight
    }

    /// The endpoint took the connection.
    pub(super) fn connected(&mut self, now: Time) {
        self.record(Outcome::Success, now);
        if let Some(attempt) = &mut self.attempt {
            attempt.latency_s = Some(now.seconds_since(attempt.begun));
        }
    }

    /// The endpoint said something on a connection: somebody is there.
    pub(super) fn spoke(&self) {
        if let Some((_, _, candidate)) = self.tried() {
            candidate.node.succeeded();
        }
    }

    /// So many bytes of a connection went to the endpoint.
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(upload) = &self.upload {
            upload.bytes.set(upload.bytes.get() + bytes as u64);
        }
    }

    fn rule(&self) -> Option<&Rule> {
        self.held.generation.routes.rule(self.rule?)
    }

    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        self.held.generation.table(self.cluster?, self.workload?)
    }

    /// Bytes of the answer's body came.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
        self.moved = true;
        self.watch.moved.set(true);
    }

    /// The answer's trailers came.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = trailers.get(GRPC_STATUS).and_then(code) {
            self.grpc_status = Some(status);
            if GRPC_FAILURES.contains(&status) {
                if let Some((_, _, candidate)) = self.tried() {
                    candidate.link.record_late_failure(self.core.index);
                }
                if status == GRPC_UNAVAILABLE {
                    self.node_failed(Reason::UpstreamReset);
                }
            }
        }
        if trailers.contains_key(ENDPOINT_LOAD_METRICS) || trailers.contains_key(ENDPOINT_LOAD_METRICS_BIN) {
            self.load_report(trailers, self.core.clock.now());
        }
    }

    /// The answer's last byte came.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.watch.moved.set(true);
    }

    /// All of the answer came with its head, at `now`: unless something goes wrong that is its end.
    pub(super) fn ends_with_head(&mut self, now: Time) {
        self.ended = Some(now);
    }

    /// The answer had no body: it is over at `now`.
    pub(super) fn complete_at(&mut self, now: Time) {
        self.complete = true;
        self.ended = Some(now);
    }

    /// An upgraded connection is over: so many bytes went up and down.
    pub(super) fn copied(&mut self, up: u64, down: u64) {
        let upload = Upload::new(self.core.clock, &self.watch, self.started, None);
        upload.progress.set(Progress::Done);
        upload.bytes.set(up);
        self.upload = Some(upload);
        self.bytes_out = down;
    }

    /// The answer broke off.
    pub(super) fn broken(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    fn timeouts(&self) -> Option<&Timeouts> {
        self.cluster.and_then(|id| self.held.generation.cluster(id)).map(|c| &c.timeouts)
    }

    /// The answer's body waits for bytes. The reason, when it waited too long.
    pub(super) fn body_waits(&mut self) -> Option<Reason> {
        let idle = self.watch.idle.get();
        if self.moved {
            self.moved = false;
            self.moved_at = self.core.clock.now();
            self.watch.set(self.moved_at + idle);
            return None;
        }
        if !self.watch.deadline.reached() {
            return None;
        }
        let now = self.core.clock.now();
        // A body that is still being sent up keeps the exchange alive.
        let sent = self.upload.as_ref().map_or(Time(0), |u| u.last_moved(now));
        let reason = self.watch.overdue(now, self.moved_at.max(sent) + idle, Reason::IdleTimeout);
        self.trickled = reason == Some(Reason::RequestTimeout)
            && !self.impatient
            && self.bytes_out < TRICKLE
            && self.upload.as_ref().is_none_or(|u| u.progress.get() == Progress::Done);
        reason
    }

    /// The answer is of our own making; the request is over when it was sent.
    pub(super) fn failed(&mut self, reason: Reason, status: StatusCode) {
        self.reason = Some(reason);
        self.status = Some(status);
        self.complete = true;
    }

    /// How fast its cluster was, as far as this request tells: nothing where the answer was a failure, which may come at
    /// once.
    fn served(&self, now: Time) -> Served {
        let Some(attempt) = self.attempt else { return Served::Unknown };
        match (attempt.latency_s, self.reason) {
            // How fast connections are taken says nothing of what goes on in them.
            _ if self.opaque => Served::Unknown,
            (Some(_), _) if attempt.failed || self.status.is_some_and(|s| s.is_server_error()) => Served::Unknown,
            (Some(latency_s), _) => Served::Within(Duration::from_secs_f32(latency_s)),
            (None, Some(Reason::ResponseTimeout | Reason::RequestTimeout | Reason::ClientGone)) => {
                Served::NotWithin(attempt.took(now).saturating_sub(self.waits_for_client(now)))
            }
            (None, _) => Served::Unknown,
        }
    }

    fn log(&self, now: Time, uploaded: u64) {
        let generation = &self.held.generation;
        let cluster = self.cluster.and_then(|id| generation.cluster(id));
        let (tried, target) = (self.tried(), self.target.as_deref());
        let path = target.filter(|_| !self.opaque).and_then(|(uri, _)| uri.path_and_query());
        let duration = now.since(self.started);
        let wall = SystemTime::now();
        let tries = self.spans.as_ref().map_or(Vec::new(), |spans| self.attempt_records(spans, now, wall));
        self.core.sink.log(
            self.core.index,
            &AccessRecord {
                time: wall.checked_sub(duration).unwrap_or(wall),
                request_id: self.request_id.to_str().unwrap_or_default(),
                trace_id: self.trace.as_ref().map_or("", Trace::trace_id),
                span_id: self.trace.as_ref().map_or("", Trace::span_id),
                parent_span_id: self.trace.as_ref().and_then(Trace::parent_id),
                sampled: self.trace.as_ref().is_some_and(|t| t.sampled),
                random: self.trace.as_ref().is_some_and(Trace::random),
                trace_state: self.spans.as_ref().and_then(|spans| spans.state.as_deref()).unwrap_or_default(),
                client: self.conn.peer,
                peer: self.conn.client_id().map_or("", SpiffeId::as_str),
                listener: self.conn.listener.address,
                workload: self.workload.and_then(|id| generation.routes.workload(id)).map(|w| &w.name),
                route: self.rule().map(|rule| &rule.label).or(self.route.as_ref()),
                cluster: cluster.map(|c| &c.name),
                endpoint: tried.map(|(_, _, c)| c.endpoint.address).or(self.passed),
                method: &self.method,
                host: target.and_then(|(_, host)| host.to_str().ok()).unwrap_or_default(),
                path: path.map_or("", |p| p.as_str()),
                protocol: (!self.opaque).then_some(self.version),
                secure: self.conn.secure(),
                grpc: self.grpc,
                upstream: cluster.map(|c| (c.protocol, c.secure)),
                tries: &tries,
                status: self.status,
                grpc_status: self.grpc_status,
                reason: self.reason,
                injected: self.shape.as_ref().and_then(|shape| shape.injected()),
                hedge: self.hedged,
                attempts: self.attempts,
                request_bytes: uploaded,
                response_bytes: self.bytes_out,
                duration,
                upstream_latency: self.attempt.and_then(|a| a.latency_s).map(Duration::from_secs_f32),
                expected_s: self.attempt.map(|a| a.estimate_s),
                generation: generation.id,
                policy: tried.map(|(_, table, _)| table.policy(self.arm)),
                affine: self.number.is_some(),
                class: self.class.map(|class| generation.admission.classes.name(class)),
            },
        );
    }
}

/// The gRPC status that headers tell.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS).and_then(code)
}

fn code(value: &HeaderValue) -> Option<u16> {
    value.to_str().ok()?.parse().ok()
}

impl Drop for Flight {
    fn drop(&mut self) {
        let now = self.ended.filter(|_| self.complete).unwrap_or_else(|| self.core.clock.now());
        if self.reason.is_none() && !self.complete {
            let verdict = self.watch.verdict.take();
            let broken = self.upload.as_ref().and_then(|upload| upload.progress.get().broken());
            let cut_off = if self.core.stopping.get() { Reason::Shutdown } else { Reason::ClientGone };
            self.reason = Some(verdict.or(broken).unwrap_or(cut_off));
        }
        match self.reason {
            None => {
                if let Some((attempt, _, candidate)) = self.tried()
                    && !attempt.failed
                {
                    candidate.node.succeeded();
                }
            }
            Some(reason) if self.attempt.is_some_and(|a| a.latency_s.is_some()) => {
                if reason.blames_endpoint() {
                    if let Some((_, _, candidate)) = self.tried() {
                        candidate.link.record_late_failure(self.core.index);
                    }
                    self.node_failed(reason);
                } else if self.trickled
                    && let Some((attempt, table, candidate)) = self.tried()
                {
                    let (prior_s, tau_s) = table.decay_of(candidate);
                    candidate.link.record(
                        self.core.index,
                        now,
                        attempt.took_s(now),
                        Outcome::Cancelled,
                        prior_s,
                        tau_s,
                    );
                    candidate.link.record_late_failure(self.core.index);
                }
            }
            Some(_) => self.record(Outcome::Cancelled, now),
        }
        if let Some(latch) = &self.latch {
            latch.refuse();
        }
        if let Some(upload) = &self.upload {
            upload.leave(self.watch.idle.get());
        }
        match self.lease.take() {
            Some(lease) if self.complete => self.core.pool.give_back(&self.core, lease, now),
            dropped => drop(dropped),
        }
        let uploaded = self.upload.as_ref().map_or(0, |u| u.bytes.get());
        let traffic = self.table().map_or(&self.core.unrouted, |t| &t.traffic);
        let status = self.status.map_or(0, |s| s.as_u16());
        let latency_ns = now.0.saturating_sub(self.started.0);
        let kind = match self.opaque {
            false => DurationKind::new(&self.method, status, self.reason).over_tls(self.conn.secure()),
            true => DurationKind::connection(self.reason),
        };
        let exemplar = self.trace.as_ref().filter(|trace| trace.sampled).map(|trace| move || trace.ids());
        let (core, route) = (self.core.index, self.rule().map(|rule| &rule.counted));
        traffic.finished(core, route, (kind, self.reason), latency_ns, (uploaded, self.bytes_out), exemplar);
        if self.grpc {
            traffic.called(core, route, DurationKind::call(self.grpc_status, self.reason), latency_ns, exemplar);
        }
        if let Some(arm) = self.arm
            && let Some(came) = trial::came(self, now)
        {
            traffic.steered(self.core.index, arm, came);
        }
        if let Some(hedged) = self.hedged {
            traffic.hedged(self.core.index, hedged);
        }
        if self.core.sink.enabled() {
            self.log(now, uploaded);
        }
        match self.standing {
            Standing::Outside => {}
            Standing::Inside(one_of) => admission::leave(self, one_of, self.served(now)),
            Standing::Waiting(..) => admission::gave_up(self),
        }
        if let Some(attempt) = &mut self.attempt {
            // What its answer came to after its head.
            attempt.reason = attempt.reason.or(self.reason);
            attempt.grpc_status = self.grpc_status;
        }
        self.end_attempt(now);
        self.conn.end(now);
    }
}
