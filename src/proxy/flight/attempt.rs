//! One try at one endpoint: what it holds there, and what its link and its node learn of it.
//!
//! **What a link learns.** Latency runs from the attempt's start to the answer's head, without the time in which the
//! client was waited for to send more of its body (`Upload::waited`): a slow client makes no endpoint slow. A failure is an error and no
//! latency. Where the client gave up, or a limit of the client's own passed, the time so far is a lower bound
//! (`Cancelled`). What fails after the head (a body that breaks off, a gRPC status in the trailers) is a late failure. So is
//! an answer that trickles until the request's time is up, and all of that time is a lower bound, or an endpoint whose heads
//! come at once would look fast whatever follows them.
//!
//! **What a node learns.** Its row of failures grows where the endpoint gave no answer of its own (`Reason`s that
//! blame it; 502, 503 and 504, which a sidecar or a gateway says in the place of a dead one; gRPC's UNAVAILABLE), and
//! ends with any other answer that came to its end. A 500 is an error of the link, but somebody answered.

use super::{Flight, GRPC_FAILURES, code};
use crate::balance::{Candidate, Choice, Generation, Table};
use crate::links::orca::Report;
use crate::links::{Outcome, Time};
use crate::observe::{DurationKind, Reason};
use crate::proxy::core::Core;
use crate::proxy::ids::Trace;
use crate::proxy::names::{ENDPOINT_LOAD_METRICS, ENDPOINT_LOAD_METRICS_BIN, GRPC_STATUS};
use crate::proxy::spans::Spans;
use crate::proxy::upload::Progress;
use crate::route::ClusterId;
use http::{HeaderMap, Method, StatusCode};
use std::time::Duration;

/// gRPC's UNAVAILABLE.
pub(super) const GRPC_UNAVAILABLE: u16 = 14;

/// One try at one endpoint.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Attempt {
    index: u32,
    pub estimate_s: f32,
    pub begun: Time,
    /// How long its client was waited for.
    pub waited: Duration,
    pub latency_s: Option<f32>,
    /// The link and the node know how it went.
    recorded: bool,
    /// The head said that the endpoint failed.
    pub failed: bool,
    /// The status that it answered with; 0 is none.
    status: u16,
    /// The gRPC status that it answered with.
    pub grpc_status: Option<u16>,
    /// Why it failed.
    pub reason: Option<Reason>,
}

impl Attempt {
    /// It begins: its node and its link count it.
    pub(in crate::proxy) fn begin(choice: Choice, table: &Table, core: &Core, now: Time) -> Self {
        let Choice { index, estimate_s } = choice;
        if let Some(candidate) = table.candidates().get(index) {
            candidate.node.begin();
            candidate.link.begin(core.index, now);
        }
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let (latency_s, status, grpc_status, reason) = (None, 0, None, None);
        let (waited, recorded, failed) = (Duration::ZERO, false, false);
        Self { index, estimate_s, begun: now, waited, latency_s, recorded, failed, status, grpc_status, reason }
    }

    /// How long the endpoint has taken.
    pub(in crate::proxy) fn took(&self, now: Time) -> Duration {
        now.since(self.begun).saturating_sub(self.waited)
    }

    /// The same, in seconds.
    pub(in crate::proxy) fn took_s(&self, now: Time) -> f32 {
        let asked = Time(self.begun.0.saturating_add(self.waited.as_nanos() as u64));
        now.seconds_since(asked)
    }

    /// Its candidate's place in the table.
    pub(in crate::proxy) fn index(&self) -> usize {
        self.index as usize
    }

    /// The endpoint answered with this.
    pub(in crate::proxy) fn answered(&mut self, at: &At<'_>, status: StatusCode, grpc_status: Option<u16>) {
        (self.status, self.grpc_status) = (status.as_u16(), grpc_status);
        if let Some(spans) = at.spans {
            spans.answered(self.index(), status, grpc_status);
        }
    }

    /// Where it is.
    pub(in crate::proxy) fn candidate<'t>(&self, table: &'t Table) -> Option<&'t Candidate> {
        table.candidates().get(self.index())
    }

    /// It is over, whatever follows.
    pub(in crate::proxy) fn end(&self, at: &At<'_>, now: Time) {
        if let Some(candidate) = self.candidate(at.table) {
            candidate.node.end();
            candidate.link.end(at.core.index, now);
        }
        if let Some(method) = at.method {
            let kind = match (self.status, self.reason) {
                (0, None) => DurationKind::cancelled(method),
                (status, reason) => DurationKind::new(method, status, reason),
            };
            let exemplar = at.trace.filter(|trace| trace.sampled).map(|trace| move || trace.ids());
            let took_ns = now.0.saturating_sub(self.begun.0);
            at.table.traffic.tried(at.core.index, kind, took_ns, exemplar);
            if at.grpc {
                let kind = match (self.status, self.reason) {
                    (0, None) => DurationKind::cancelled_call(),
                    (_, reason) => DurationKind::call(self.grpc_status, reason),
                };
                at.table.traffic.tried_call(at.core.index, kind, took_ns, exemplar);
            }
        }
        if let Some(spans) = at.spans {
            spans.ended(self.index(), now);
        }
    }

    /// Tells the link how it went, once.
    pub(in crate::proxy) fn record(&mut self, table: &Table, core: &Core, outcome: Outcome, now: Time) {
        if let Some(candidate) = self.candidate(table)
            && !self.recorded
        {
            let (prior_s, tau_s) = table.decay_of(candidate);
            candidate.link.record(core.index, now, self.took_s(now), outcome, prior_s, tau_s);
        }
        self.recorded = true;
    }

    /// It failed before an answer.
    pub(in crate::proxy) fn fail(&mut self, at: &At<'_>, (reason, blamed): (Reason, bool), now: Time) {
        self.record(at.table, at.core, if blamed { Outcome::Failure } else { Outcome::Cancelled }, now);
        self.reason = Some(reason);
        if let Some(spans) = at.spans {
            spans.failed(self.index(), reason);
        }
        if blamed {
            self.node_failed(at, reason);
        }
    }

    /// The node gave no answer of its own.
    pub(in crate::proxy) fn node_failed(&mut self, at: &At<'_>, reason: Reason) {
        if let Some(candidate) = self.candidate(at.table) {
            let failures = candidate.node.failed();
            let limit = at.generation.cluster(at.cluster).map_or(0, |c| c.ejection.consecutive_failures);
            if limit > 0 && failures >= limit {
                at.core.alarm.endpoint_failed(&candidate.node, failures, reason);
            }
        }
        self.failed = true;
    }
}

/// Where tries are made.
pub(in crate::proxy) struct At<'a> {
    pub core: &'a Core,
    pub generation: &'a Generation,
    pub cluster: ClusterId,
    pub table: &'a Table,
    /// Where the trace is recorded.
    pub spans: Option<&'a Spans>,
    /// The request's trace, where it is known.
    pub trace: Option<&'a Trace>,
    /// The request's method; a connection has none.
    pub method: Option<&'a Method>,
    /// It is a gRPC call.
    pub grpc: bool,
}

impl Flight {
    pub(super) fn tried(&self) -> Option<(Attempt, &Table, &Candidate)> {
        let attempt = self.attempt?;
        let table = self.table()?;
        Some((attempt, table, attempt.candidate(table)?))
    }

    fn with_attempt(&mut self, act: impl FnOnce(&mut Attempt, &At<'_>)) {
        let (Some(attempt), Some(cluster), Some(workload)) = (&mut self.attempt, self.cluster, self.workload) else {
            return;
        };
        let generation = &*self.held.generation;
        if let Some(upload) = &self.upload {
            attempt.waited = upload.waited();
        }
        if let Some(table) = generation.table(cluster, workload) {
            let (spans, trace) = (self.spans.as_deref(), self.trace.as_ref());
            let (method, grpc) = ((!self.opaque).then_some(&self.method), self.grpc);
            act(attempt, &At { core: &self.core, generation, cluster, table, spans, trace, method, grpc });
        }
    }

    pub(in crate::proxy) fn begin_attempt(&mut self, choice: Choice, now: Time) {
        self.attempts += 1;
        if let (Some(spans), Some(trace)) = (&self.spans, &self.trace) {
            spans.begin(trace.below(), choice, now, false);
        }
        if let Some(upload) = &self.upload {
            upload.begin_try(now);
        }
        self.attempt = self.table().map(|table| Attempt::begin(choice, table, &self.core, now));
    }

    /// Takes over a try that began when all of the body was there; the other one keeps what it knows.
    pub(in crate::proxy) fn swap_attempt(&mut self, other: &mut Option<Attempt>, now: Time) {
        self.with_attempt(|_, _| ());
        std::mem::swap(&mut self.attempt, other);
        if let Some(upload) = &self.upload {
            upload.begin_try(now);
        }
    }

    /// How long the client is being waited for, where the endpoint has not got all of the body.
    pub(super) fn waits_for_client(&self, now: Time) -> Duration {
        self.upload.as_ref().map_or(Duration::ZERO, |upload| upload.waiting(now))
    }

    /// The attempt failed before an answer.
    pub(in crate::proxy) fn fail_attempt(&mut self, reason: Reason, now: Time) {
        // The whole request's time is up and the endpoint, which has all of it, has not begun to answer: it is the
        // endpoint that failed, unless the caller has set the limit, who could have any endpoint ejected then.
        let sent = self.upload.as_ref().is_none_or(|u| u.progress.get() == Progress::Done);
        let blamed = reason.blames_endpoint() || (reason == Reason::RequestTimeout && sent && !self.impatient);
        let waiting = self.waits_for_client(now);
        self.with_attempt(|attempt, at| {
            attempt.waited += waiting;
            attempt.fail(at, (reason, blamed), now);
        });
    }

    /// The endpoint says that it did nothing with the request, which is no failure of its own.
    pub(in crate::proxy) fn decline_attempt(&mut self, now: Time) {
        self.with_attempt(|attempt, at| attempt.fail(at, (Reason::UpstreamReset, false), now));
    }

    /// The attempt is over, whatever follows.
    pub(in crate::proxy) fn end_attempt(&mut self, now: Time) {
        self.with_attempt(|attempt, at| attempt.end(at, now));
        self.attempt = None;
    }

    pub(super) fn record(&mut self, outcome: Outcome, now: Time) {
        // An answer came without what its client had not sent yet.
        let waiting = if outcome == Outcome::Cancelled { self.waits_for_client(now) } else { Duration::ZERO };
        self.with_attempt(|attempt, at| {
            attempt.waited += waiting;
            attempt.record(at.table, at.core, outcome, now);
        });
    }

    pub(super) fn node_failed(&mut self, reason: Reason) {
        self.with_attempt(|attempt, at| attempt.node_failed(at, reason));
    }

    /// The answer's head came.
    pub(in crate::proxy) fn answered(
        &mut self,
        now: Time,
        status: StatusCode,
        headers: &HeaderMap,
        load_metrics: bool,
        grpc_status: bool,
    ) {
        self.moved_at = now;
        if grpc_status {
            self.grpc_status = headers.get(GRPC_STATUS).and_then(code);
        }
        let grpc_failed = self.grpc_status.is_some_and(|s| GRPC_FAILURES.contains(&s));
        let failed = status.is_server_error() || grpc_failed;
        self.record(if failed { Outcome::Failure } else { Outcome::Success }, now);
        if let Some(attempt) = &mut self.attempt {
            attempt.latency_s = Some(attempt.took_s(now));
        }
        let grpc_status = self.grpc_status;
        self.with_attempt(|attempt, at| attempt.answered(at, status, grpc_status));
        let gateway =
            matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        if gateway || self.grpc_status == Some(GRPC_UNAVAILABLE) {
            self.node_failed(Reason::UpstreamReset);
        }
        if load_metrics {
            self.load_report(headers, now);
        }
    }

    pub(super) fn load_report(&self, headers: &HeaderMap, now: Time) {
        let report = match headers.get(ENDPOINT_LOAD_METRICS) {
            Some(text) => Report::parse(text.as_bytes()).ok(),
            None => headers.get(ENDPOINT_LOAD_METRICS_BIN).and_then(|v| Report::parse_binary(v.as_bytes()).ok()),
        };
        if let (Some(report), Some((_, _, candidate))) = (report, self.tried()) {
            candidate.node.report(now, &report);
        }
    }
}
