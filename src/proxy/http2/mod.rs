//! HTTP/2 (RFC 9113): connections, on top of what `wire2` knows of frames and header blocks, and the side towards
//! clients. (`shared` is the other one.)
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | windows, and who finds out that a peer is gone |
//! | `session` | a connection's state, whichever side we are; its head lists the files that are part of it |
//! | `server` | a client's connection and its streams, all in one task |
//! | `wakes` | which of them something happened to |
//! | `receive` | a body that comes |
//! | `pipe` | a body that goes |
//!
//! A connection and its streams live in one task, so that a request costs no task of its own, and what several streams
//! have to say leaves in one write. A turn of that task reads what came, then polls the streams that something happened
//! to, then writes:
//!
//! ```text
//!            +-- frames --> new streams --+
//! socket --> session                      +--> streams that were woken --> session --> socket
//!            +-- wakes streams -----------+
//! ```
//!
//! **Silence.** A peer from which nothing came for a while is pinged, and given up when it stays silent. Anything that
//! it sends proves it alive, not only the ping's answer. The clock is a `Deadline` of the core, not a timer each.
//!
//! What it deliberately does not do: push (refused), priorities (read and ignored), extended CONNECT, and the upgrade from
//! HTTP/1.1 (`h2c`), which nobody uses and RFC 9113 has dropped.

mod data;
mod ending;
mod floods;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod handle;
mod heads;
mod incoming;
mod output;
mod pipe;
mod receive;
mod sending;
mod server;
mod session;
#[cfg(test)]
#[path = "tests/mod.rs"]
mod session_tests;
mod streams;
mod wakes;

pub(super) use handle::{Asking, Opening};
pub(super) use pipe::Pipe;
pub(super) use receive::Received;
pub(super) use server::{FAREWELL, serve};
pub(super) use session::{Limits, Role, Session};
pub(super) use streams::Ended;

use super::clock::Clock;
use super::deadlines::{Deadline, Deadlines};
use super::early::MAX_HINTS;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

/// Flow control: what a peer may send unread on a stream, in bytes.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// What a peer may send on a connection at once, in bytes. What came is no longer counted, so that streams that nobody
/// reads hold up no others.
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Unless it is as much: what a connection's streams may hold unread together, in bytes, with what may still come.
pub(super) const MAX_HELD: u32 = 16 * CONNECTION_WINDOW;

/// How long a peer may say nothing: after `ask_after` such times it is pinged, after `give_up_after` it is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub time: Duration,
    pub ask_after: u32,
    pub give_up_after: u32,
}

/// Finds out that a peer is gone.
pub(super) struct Silence {
    patience: Patience,
    clock: Clock,
    deadline: Deadline,
    /// How many times in a row nothing came.
    silent: u32,
}

impl Silence {
    pub(super) fn new(patience: Patience, clock: Clock, deadlines: &Rc<Deadlines>) -> Self {
        let deadline = Deadline::new(deadlines);
        deadline.set(clock.now() + patience.time);
        Self { patience, clock, deadline, silent: 0 }
    }

    /// Whether the peer is gone. `heard` says whether something came since it was last called; `matters`, whether
    /// anybody waits for the peer; `ask` pings it.
    pub(super) fn broken(
        &mut self,
        cx: &mut Context<'_>,
        heard: impl FnOnce() -> bool,
        matters: impl FnOnce() -> bool,
        ask: impl FnOnce(),
    ) -> bool {
        self.deadline.register(cx.waker());
        if !self.deadline.reached() {
            return false;
        }
        self.deadline.set(self.clock.now() + self.patience.time);
        if heard() || !matters() {
            self.silent = 0;
            return false;
        }
        self.silent += 1;
        if self.silent == self.patience.ask_after {
            ask();
        }
        self.silent >= self.patience.give_up_after
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::Transport;
    use super::*;
    use std::cell::Cell;
    use std::task::Poll;

    const QUICK: Patience = Patience { time: Duration::from_millis(10), ask_after: 2, give_up_after: 4 };

    /// Looks until the peer is taken to be gone, or so many times; how often it was listened for.
    async fn listen(heard: impl Fn(u32) -> bool, matters: bool, looks: u32) -> (bool, u32) {
        let clock = Clock::start();
        let all = Deadlines::new(clock);
        tokio::task::spawn_local(all.clone().drive());
        let mut silence = Silence::new(QUICK, clock, &all);
        let looked = Cell::new(0);
        let hear = || {
            looked.set(looked.get() + 1);
            heard(looked.get())
        };
        std::future::poll_fn(|cx| {
            let gone = silence.broken(cx, hear, || matters, || {});
            if gone || looked.get() >= looks { Poll::Ready((gone, looked.get())) } else { Poll::Pending }
        })
        .await
    }

    #[tokio::test(flavor = "local")]
    async fn who_says_nothing_for_long_is_gone_and_who_says_anything_or_need_not_is_not() {
        assert_eq!(listen(|_| false, true, 20).await, (true, 4));
        assert_eq!(listen(|look| look == 3, true, 20).await, (true, 7), "its silence begins anew");
        assert_eq!(listen(|look| look % 3 == 0, true, 20).await, (false, 20));
        assert_eq!(listen(|_| false, false, 20).await, (false, 20));
    }

    #[tokio::test(flavor = "local")]
    async fn a_peer_is_pinged_before_it_is_given_up() {
        for answers in [true, false] {
            let (near, far) = session_tests::pair().await;
            let mut near = Transport::Plain(near);
            let peer = tokio::task::spawn_local(async move {
                let (_sender, connection) = h2::client::handshake(far).await.unwrap();
                if answers {
                    let _ = connection.await;
                } else {
                    std::future::pending::<()>().await;
                }
            });
            let clock = Clock::start();
            let all = Deadlines::new(clock);
            let driver = tokio::task::spawn_local(all.clone().drive());
            let session = Session::new(Role::Server, Limits { streams: 1, head: 1024 }, Rc::default());
            let mut silence = Silence::new(QUICK, clock, &all);
            let (looks, came) = (Cell::new(0), Cell::new(0));
            let gone = std::future::poll_fn(|cx| {
                while let Poll::Ready(Ok(true)) = session.poll_read(cx, &mut near) {
                    while session.next().is_some() {}
                    came.set(looks.get());
                }
                let heard = || {
                    looks.set(looks.get() + 1);
                    false
                };
                let gone = silence.broken(cx, heard, || true, || session.ping());
                let _ = session.poll_flush(cx, &mut near);
                if gone { Poll::Ready(true) } else { Poll::Pending }
            });
            assert!(gone.await && looks.get() == 4, "nobody told it that something was heard");
            assert_eq!(came.get() >= 2, answers, "it was pinged after the second look: {}", came.get());
            peer.abort();
            driver.abort();
        }
    }
}
