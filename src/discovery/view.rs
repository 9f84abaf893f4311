//! What operators see of a source.

use super::finds::{Fault, Report};
use super::listing::{Ignored, Readiness};
use crate::config::Discover;
use std::time::Duration;
use tokio::time::Instant;

/// How a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// It has not answered yet.
    Waiting,
    /// What it told last is so.
    Working,
    /// It fails; what it told last, if anything, is kept.
    Failing,
}

impl SourceState {
    /// Its word in `/routing`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Failing => "failing",
        }
    }
}

/// A source of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceView {
    /// The cluster.
    pub cluster: String,
    /// The source, in words: `dns catalog.shop:8080`.
    pub source: String,
    /// How it is.
    pub state: SourceState,
    /// Why it fails: the reason's code and words, and for how long.
    pub trouble: Option<(Fault, String, Duration)>,
    /// How old what is used of it is.
    pub age: Option<Duration>,
    /// How many endpoints are in each state.
    pub endpoints: [(Readiness, usize); Readiness::ALL.len()],
    /// How many of what it told were left out, by the reason.
    pub ignored: [(Ignored, usize); Ignored::ALL.len()],
    /// Good answers that changed something, and that changed nothing.
    pub answers: (u64, u64),
    /// Failures by their fault.
    pub failures: [(Fault, u64); Fault::ALL.len()],
}

impl SourceView {
    pub(super) fn of(
        cluster: &str,
        discover: &Discover,
        report: &Report,
        watched: bool,
        own_listeners: usize,
        now: Instant,
    ) -> Self {
        let listing = report.listing.as_deref();
        let state = match (&report.trouble, listing) {
            (Some(_), _) => SourceState::Failing,
            (None, Some(_)) => SourceState::Working,
            (None, None) => SourceState::Waiting,
        };
        let ignored = |reason: Ignored| match reason {
            Ignored::OwnListener => own_listeners,
            _ => listing.map_or(0, |listing| listing.left_out().count(reason)),
        };
        let failures =
            |fault: Fault| Fault::ALL.iter().zip(report.failures).find(|(f, _)| **f == fault).map_or(0, |f| f.1);
        Self {
            cluster: cluster.to_owned(),
            source: discover.to_string(),
            state,
            trouble: report.trouble.as_ref().map(|t| (t.fault, t.text.clone(), now.saturating_duration_since(t.since))),
            age: report.age(watched, now),
            endpoints: Readiness::ALL.map(|readiness| (readiness, listing.map_or(0, |l| l.count(readiness)))),
            ignored: Ignored::ALL.map(|reason| (reason, ignored(reason))),
            answers: (report.changed, report.same),
            failures: Fault::ALL.map(|fault| (fault, failures(fault))),
        }
    }
}
