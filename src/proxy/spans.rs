//! The spans of a request's tries, where its trace is recorded and somebody takes spans; else a request has none of this.
//!
//! Each try at an endpoint, hedges included, is a span of its own below the request's: the endpoint is told its id, and
//! with each further try another one is written over it. Copies for a mirror hang below the request's own span: nobody
//! waits for them.
//!
//! A request tries no candidate twice, so a try is known by its candidate's place in the table.

use super::flight::Flight;
use super::propagation::Carried;
use crate::balance::Choice;
use crate::links::Time;
use crate::observe::{AttemptRecord, Reason};
use http::StatusCode;
use std::cell::RefCell;
use std::time::SystemTime;

#[derive(Debug)]
struct Try {
    index: usize,
    span: [u8; 16],
    estimate_s: f32,
    begun: Time,
    ended: Option<Time>,
    status: Option<StatusCode>,
    grpc_status: Option<u16>,
    reason: Option<Reason>,
    hedge: bool,
}

/// The tries of one request so far.
#[derive(Debug, Default)]
pub(super) struct Spans {
    tries: RefCell<Vec<Try>>,
    /// The trace's `tracestate`, where its caller gave one.
    pub state: Option<Box<str>>,
}

impl Spans {
    /// None yet, of a trace with this `tracestate`.
    pub(super) fn new(state: Option<Box<str>>) -> Self {
        Self { tries: RefCell::default(), state }
    }

    /// A try begins, whose endpoint was told this span.
    pub(super) fn begin(&self, span: [u8; 16], choice: Choice, now: Time, hedge: bool) {
        let Choice { index, estimate_s } = choice;
        let (ended, status, grpc_status, reason) = (None, None, None, None);
        self.tries.borrow_mut().push(Try {
            index,
            span,
            estimate_s,
            begun: now,
            ended,
            status,
            grpc_status,
            reason,
            hedge,
        });
    }

    fn with(&self, index: usize, act: impl FnOnce(&mut Try)) {
        self.tries.borrow_mut().iter_mut().rev().find(|t| t.index == index).map(act);
    }

    /// Its endpoint answered.
    pub(super) fn answered(&self, index: usize, status: StatusCode, grpc_status: Option<u16>) {
        self.with(index, |t| (t.status, t.grpc_status) = (Some(status), grpc_status));
    }

    /// It failed.
    pub(super) fn failed(&self, index: usize, reason: Reason) {
        self.with(index, |t| t.reason = Some(reason));
    }

    /// It is over.
    pub(super) fn ended(&self, index: usize, now: Time) {
        self.with(index, |t| t.ended = t.ended.or(Some(now)));
    }
}

impl Flight {
    /// Gives the request, which is sent again, another span to be told of.
    #[cold]
    pub(super) fn retrace(&mut self) {
        let core = &self.core;
        if let Some(trace) = &mut self.trace {
            trace.hang_below(&mut *core.rng.borrow_mut());
            let carried = Carried::new(trace, core.propagators);
            self.outgoing.retrace(&carried, &mut core.ids.borrow_mut());
        }
    }

    /// What is told of the tries, of which the last one may be under way until now.
    pub(super) fn attempt_records(&self, spans: &Spans, now: Time, wall: SystemTime) -> Vec<AttemptRecord<'_>> {
        let Some(table) = self.table() else { return Vec::new() };
        let record = |t: &Try| {
            let candidate = table.candidates().get(t.index)?;
            let open = t.ended.is_none();
            let ended = t.ended.unwrap_or(now);
            Some(AttemptRecord {
                span_id: t.span,
                started: wall.checked_sub(now.since(t.begun)).unwrap_or(wall),
                duration: ended.since(t.begun),
                endpoint: candidate.endpoint.address,
                candidate: &candidate.endpoint.key.0,
                status: t.status,
                grpc_status: if open { self.grpc_status } else { t.grpc_status },
                reason: t.reason.or(self.reason.filter(|_| open)),
                hedge: t.hedge,
                share: candidate.weight,
                score: candidate.score,
                predicted_s: candidate.predicted.map(|p| p.mean_s),
                expected_s: t.estimate_s,
                why: candidate.reason.to_string(),
            })
        };
        spans.tries.borrow().iter().filter_map(record).collect()
    }
}
