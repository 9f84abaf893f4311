//! How long an answer's head may take: from the request's end, and as long as something of its body moves.

use super::Flight;
use crate::links::Time;
use crate::observe::Reason;
use crate::proxy::clock::Clock;
use crate::proxy::upload::{Progress, Upload};
use crate::proxy::watch::Watch;
use std::rc::Rc;
use std::time::Duration;

/// The wait for an answer's head.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct HeadWait {
    begun: Time,
    /// How long the head may take from the request's end.
    within: Duration,
    /// How long nothing of the request's body may move.
    idle: Duration,
}

impl HeadWait {
    /// The same wait for another try, which begins now.
    pub(in crate::proxy) fn anew(&self, now: Time) -> Self {
        Self { begun: now, ..*self }
    }

    /// The reason, when its deadline was reached and something is overdue.
    pub(in crate::proxy) fn overdue(&self, watch: &Watch, upload: Option<&Rc<Upload>>, clock: Clock) -> Option<Reason> {
        if !watch.deadline.reached() {
            return None;
        }
        let now = clock.now();
        let (due, reason) = self.due(upload, now);
        watch.overdue(now, due, reason)
    }

    /// When it has lasted too long, and the reason then.
    pub(in crate::proxy) fn due(&self, upload: Option<&Rc<Upload>>, now: Time) -> (Time, Reason) {
        match upload {
            Some(upload) if upload.progress.get() == Progress::Open => {
                (upload.last_moved(now) + self.idle, Reason::IdleTimeout)
            }
            Some(upload) => (upload.last_moved(now).max(self.begun) + self.within, Reason::ResponseTimeout),
            None => (self.begun + self.within, Reason::ResponseTimeout),
        }
    }
}

impl Flight {
    /// Begins the wait for a head: sets its first deadline.
    pub(in crate::proxy) fn await_head(&self, now: Time) -> HeadWait {
        let (within, idle) =
            self.timeouts().map_or((Duration::MAX, Duration::MAX), |t| (t.response_headers.0, t.idle.0));
        match self.upload.as_ref().filter(|u| u.progress.get() == Progress::Open) {
            Some(upload) => {
                upload.head_within.set(Some(within));
                self.watch.set(now + idle);
            }
            None => self.watch.set(now + within),
        }
        HeadWait { begun: now, within, idle }
    }
}
