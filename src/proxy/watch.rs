//! The one deadline of a task that serves requests: a downstream HTTP/1.1 connection, or one HTTP/2 stream.
//!
//! Whoever is polled in the task asks whether the deadline was reached, finds out what is due, and sets the next one:
//! the request while it waits for a head, the body while it waits for bytes. When nobody took it although the task was
//! polled, nothing asked for bytes: the client does not read. Then the task itself gives up, and leaves its verdict
//! for the request that is dropped with it.

use super::deadlines::{Deadline, Deadlines};
use super::early::Hints;
use crate::links::Time;
use crate::observe::Reason;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

pub(super) struct Watch {
    pub deadline: Deadline,
    /// Bytes moved since somebody last looked.
    pub moved: Cell<bool>,
    /// How long nothing may move.
    pub idle: Cell<Duration>,
    /// When the whole request must be over.
    pub limit: Cell<Option<Time>>,
    /// When another endpoint may be tried in the place of one that has not answered.
    pub patience: Cell<Option<Time>>,
    /// What the endpoint says before it answers, for the task to pass on.
    pub hints: Hints,
    /// Why the task gave up.
    pub verdict: Cell<Option<Reason>>,
}

impl Watch {
    pub(super) fn new(deadlines: &Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Self {
            deadline: Deadline::new(deadlines),
            moved: Cell::new(false),
            idle: Cell::new(Duration::MAX),
            limit: Cell::new(None),
            patience: Cell::new(None),
            hints: Hints::default(),
            verdict: Cell::new(None),
        })
    }

    /// Makes it as new, for another request.
    pub(super) fn reset(&mut self) {
        self.deadline.clear();
        self.hints = Hints::default();
        self.moved.set(false);
        self.idle.set(Duration::MAX);
        self.limit.set(None);
        self.patience.set(None);
        self.verdict.set(None);
    }

    /// Sets the deadline, or the request's own limit where that is sooner, or the end of patience.
    pub(super) fn set(&self, at: Time) {
        let at = self.patience.get().map_or(at, |end| at.min(end));
        self.deadline.set(self.limit.get().map_or(at, |limit| at.min(limit)));
    }

    /// The deadline was reached. The reason, when the request's own limit has passed, or what is `due` is; else the
    /// deadline is set to that.
    pub(super) fn overdue(&self, now: Time, due: Time, reason: Reason) -> Option<Reason> {
        if self.limit.get().is_some_and(|limit| now >= limit) {
            return Some(Reason::RequestTimeout);
        }
        if now >= due {
            return Some(reason);
        }
        self.set(due);
        None
    }

    /// The deadline was reached and nobody in the task took it. Says whether the task must end.
    pub(super) fn stalled(&self, now: Time, moved: bool) -> bool {
        let moved = self.moved.replace(false) || moved;
        let verdict = match self.limit.get() {
            Some(limit) if now >= limit => Reason::RequestTimeout,
            _ if moved => {
                self.set(now + self.idle.get());
                return false;
            }
            _ => Reason::IdleTimeout,
        };
        self.verdict.set(Some(verdict));
        true
    }
}
