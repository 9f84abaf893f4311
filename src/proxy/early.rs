//! What an endpoint says before its answer: informational answers other than 100 and 101 (RFC 9110, section 15.2), such
//! as 103, with which a client may fetch what it will need.
//!
//! They are passed on to clients, but for those of HTTP/1.0. They may be left out at any time, and are where there are more than
//! `MAX_HINTS` of them: nothing holds them back while a client reads slowly.

use super::client1::Head;
use super::expect::Latch;
use super::headers;
use http::{Response, StatusCode};
use std::cell::{Cell, RefCell};

/// How many informational answers a request may get.
pub(super) const MAX_HINTS: u8 = 8;

/// Informational answers on their way to a client.
#[derive(Debug, Default)]
pub(super) struct Hints {
    waiting: RefCell<Vec<Response<()>>>,
    given: Cell<u8>,
}

impl Hints {
    pub(super) fn give(&self, mut head: Head) {
        // 100 answers an expectation, which is not for the client to see from here.
        if self.given.get() < MAX_HINTS && head.parts.status != StatusCode::CONTINUE {
            self.given.set(self.given.get() + 1);
            headers::informational(&mut head.parts.headers, &head.seen);
            self.waiting.borrow_mut().push(Response::from_parts(head.parts, ()));
        }
    }

    /// A connection's next request begins.
    pub(super) fn clear(&self) {
        self.given.set(0);
        self.waiting.borrow_mut().clear();
    }

    /// Those that came since it was last called.
    pub(super) fn take(&self) -> Vec<Response<()>> {
        self.waiting.take()
    }
}

/// What may happen to a request before its answer comes.
#[derive(Clone, Copy, Default)]
pub(super) struct Early<'a> {
    /// Opened by 100.
    pub latch: Option<&'a Latch>,
    /// Where the client takes them.
    pub hints: Option<&'a Hints>,
}
