//! What an endpoint says before its answer: informational answers other than 100 and 101 (RFC 9110, section 15.2), such
//! as 103, with which a client may fetch what it will need.
//!
//! And what may be asked of a request before its answer: a copy of itself (`Tap`), from wherever it waits at that moment.
//!
//! They are passed on to clients, but for those of HTTP/1.0. They may be left out at any time, and are where there are more than
//! `MAX_HINTS` of them: nothing holds them back while a client reads slowly.

use super::client1::Head;
use super::expect::Latch;
use super::headers;
use super::upstream::Outgoing;
use http::{Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;

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

/// Where a request that is under way leaves a copy of itself, once that is asked for.
#[derive(Default)]
pub(super) struct Tap {
    asked: Cell<bool>,
    copy: Cell<Option<Box<Outgoing>>>,
}

impl Tap {
    /// Asks for a copy: it is there when the request was polled, if all of it is.
    pub(super) fn ask(&self) {
        self.asked.set(true);
    }

    pub(super) fn take(&self) -> Option<Box<Outgoing>> {
        self.asked.set(false);
        self.copy.take()
    }
}

/// What may happen to a request before its answer comes.
#[derive(Clone, Copy, Default)]
pub(super) struct Early<'a> {
    /// Opened by 100.
    pub latch: Option<&'a Latch>,
    /// Where the client takes them.
    pub hints: Option<&'a Hints>,
    /// Where it may be asked of another endpoint as well.
    pub tap: Option<&'a Tap>,
}

impl Early<'_> {
    /// Leaves a copy, where one is asked for.
    #[inline]
    pub(super) fn offer(&self, copy: impl FnOnce() -> Option<Outgoing>) {
        if let Some(tap) = self.tap
            && tap.asked.take()
        {
            tap.copy.set(copy().map(Box::new));
        }
    }

    /// Waits for something, and offers a copy meanwhile.
    pub(super) async fn offering<F: Future>(&self, waiting: F, copy: impl Fn() -> Option<Outgoing>) -> F::Output {
        let mut waiting = pin!(waiting);
        std::future::poll_fn(|cx| {
            self.offer(&copy);
            waiting.as_mut().poll(cx)
        })
        .await
    }
}
