//! `Expect: 100-continue`: the client's body is not asked for until the endpoint wants it.
//!
//! Polling a request's body makes the server (`server1`) send `100 Continue`, so the body waits behind a gate. It opens when
//! the endpoint says 100, or after `PATIENCE`, because an endpoint may know nothing of expectations (RFC 9110, section
//! 10.1.1). When the final answer comes first the gate stays shut: the client gets that answer and no 100, and both
//! connections close afterwards, since nobody can know whether the body is still coming.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Sleep;

/// How long the endpoint may think before the client is told to go on.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Shut,
    Open,
    Refused,
}

#[derive(Debug, Default)]
struct Shared {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

/// Opens or refuses; held by the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Latch(Rc<Shared>);

/// What the body waits at.
#[derive(Debug)]
pub(super) struct Gate {
    shared: Rc<Shared>,
    patience: Pin<Box<Sleep>>,
    in_vain: bool,
}

impl Latch {
    pub(super) fn gate(&self) -> Gate {
        Gate { shared: self.0.clone(), patience: Box::pin(tokio::time::sleep(PATIENCE)), in_vain: false }
    }

    /// The endpoint wants the body.
    pub(super) fn open(&self) {
        self.turn(State::Open);
    }

    /// Nobody wants the body any more.
    pub(super) fn refuse(&self) {
        self.turn(State::Refused);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.state.get() == State::Shut
    }

    fn turn(&self, to: State) {
        if self.is_shut() {
            self.0.state.set(to);
            let waker = self.0.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Gate {
    /// How long an endpoint was waited for that knows nothing of expectations.
    pub(super) fn in_vain(&self) -> Duration {
        if self.in_vain { PATIENCE } else { Duration::ZERO }
    }

    /// Ready when the body may be sent (`true`) or never will be.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let before = self.shared.waker.replace(Some(cx.waker().clone()));
        drop(before);
        match self.shared.state.get() {
            State::Open => Poll::Ready(true),
            State::Refused => Poll::Ready(false),
            State::Shut if self.patience.as_mut().poll(cx).is_ready() => {
                self.shared.state.set(State::Open);
                self.in_vain = true;
                Poll::Ready(true)
            }
            State::Shut => Poll::Pending,
        }
    }
}
