//! `Expect: 100-continue`: the client's body is not asked for until the endpoint wants it.
//!
//! Polling a request's body makes hyper's server send `100 Continue`, so the body waits behind a gate. It opens when
//! the endpoint says 100, or after `PATIENCE`, because an endpoint may know nothing of expectations (RFC 9110, section
//! 10.1.1). When the final answer comes first the gate stays shut: the client gets that answer and no 100, and both
//! connections close afterwards, since nobody can know whether the body is still coming.
//!
//! The endpoint's side is told through a callback that hyper wants `Send`; hence the atomics, on requests with this
//! header only.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Sleep;

/// How long the endpoint may think before the client is told to go on.
const PATIENCE: Duration = Duration::from_secs(1);

const SHUT: u8 = 0;
const OPEN: u8 = 1;
const REFUSED: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Opens or refuses; held by the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Latch(Arc<Shared>);

/// What the body waits at.
#[derive(Debug)]
pub(super) struct Gate {
    shared: Arc<Shared>,
    patience: Pin<Box<Sleep>>,
}

impl Latch {
    pub(super) fn gate(&self) -> Gate {
        Gate { shared: self.0.clone(), patience: Box::pin(tokio::time::sleep(PATIENCE)) }
    }

    /// The endpoint wants the body.
    pub(super) fn open(&self) {
        self.turn(OPEN);
    }

    /// Nobody wants the body any more. Says whether it was never asked for.
    pub(super) fn refuse(&self) -> bool {
        self.turn(REFUSED)
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.state.load(Relaxed) == SHUT
    }

    fn turn(&self, to: u8) -> bool {
        let turned = self.0.state.compare_exchange(SHUT, to, Relaxed, Relaxed).is_ok();
        if turned && let Some(waker) = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
        turned
    }
}

impl Gate {
    /// Ready when the body may be sent (`true`) or never will be.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        match self.shared.state.load(Relaxed) {
            OPEN => Poll::Ready(true),
            REFUSED => Poll::Ready(false),
            _ if self.patience.as_mut().poll(cx).is_ready() => {
                self.shared.state.store(OPEN, Relaxed);
                Poll::Ready(true)
            }
            _ => Poll::Pending,
        }
    }
}
