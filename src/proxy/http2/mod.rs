//! HTTP/2, on the `h2` crate: what both sides share, and the side towards clients. (`shared` is the other one.)
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | settings, and who finds out that a peer is gone |
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
//! socket --> h2                           +--> streams that were woken --> h2 --> socket
//!            +-- wakes streams -----------+
//! ```
//!
//! **Silence.** A peer from which nothing came for a while is pinged, and given up when it stays silent. Anything that
//! it sends proves it alive, not only the ping's answer. The clock is a `Deadline` of the core, not a timer each.
//!
//! What it leaves to `h2`: framing, header compression, flow control, and the limits that stand against floods (resets,
//! CONTINUATION, small frames, SETTINGS, PING). What it deliberately does not do: push, priorities, extended CONNECT.

mod pipe;
mod receive;
mod server;
mod wakes;

pub(super) use pipe::Pipe;
pub(super) use receive::Received;
pub(super) use server::{FAREWELL, serve};

use super::clock::Clock;
use super::deadlines::{Deadline, Deadlines};
use crate::config::ListenerDefaults;
use h2::{Ping, PingPong};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

/// What a stream holds for a peer that reads slowly before it takes no more, in bytes.
pub(super) const MAX_BUFFER: usize = 64 * 1024;
/// Flow control: what a peer may send unread, a stream and a connection, in bytes.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What clients' connections share, once a core.
pub(super) struct Settings {
    builder: h2::server::Builder,
}

impl Settings {
    pub(super) fn new(limits: &ListenerDefaults) -> Self {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes.0).unwrap_or(u32::MAX))
            .max_send_buffer_size(MAX_BUFFER);
        Self { builder }
    }
}

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
    ping: Option<PingPong>,
    /// How many times in a row nothing came.
    silent: u32,
}

impl Silence {
    pub(super) fn new(patience: Patience, clock: Clock, deadlines: &Rc<Deadlines>, ping: Option<PingPong>) -> Self {
        let deadline = Deadline::new(deadlines);
        deadline.set(clock.now() + patience.time);
        Self { patience, clock, deadline, ping, silent: 0 }
    }

    /// Whether the peer is gone. `heard` says whether something came since it was last called; `matters`, whether
    /// anybody waits for the peer.
    pub(super) fn broken(
        &mut self,
        cx: &mut Context<'_>,
        heard: impl FnOnce() -> bool,
        matters: impl FnOnce() -> bool,
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
        if self.silent == self.patience.ask_after
            && let Some(ping) = &mut self.ping
        {
            // Takes note of the answer to the ping before, without which there may not be another one.
            let _ = ping.poll_pong(cx);
            // A connection that is over finds that out itself.
            let _ = ping.send_ping(Ping::opaque());
        }
        self.silent >= self.patience.give_up_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::Poll;

    const QUICK: Patience = Patience { time: Duration::from_millis(10), ask_after: 2, give_up_after: 4 };

    /// Looks until the peer is taken to be gone, or so many times; how often it was listened for.
    async fn listen(heard: impl Fn(u32) -> bool, matters: bool, looks: u32) -> (bool, u32) {
        let clock = Clock::start();
        let all = Deadlines::new(clock);
        tokio::task::spawn_local(all.clone().drive());
        let mut silence = Silence::new(QUICK, clock, &all, None);
        let looked = Cell::new(0);
        let hear = || {
            looked.set(looked.get() + 1);
            heard(looked.get())
        };
        std::future::poll_fn(|cx| {
            let gone = silence.broken(cx, hear, || matters);
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
            let (near, far) = tokio::io::duplex(1024);
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
            let mut connection = h2::server::handshake(near).await.unwrap();
            let pings = connection.ping_pong();
            let mut silence = Silence::new(QUICK, clock, &all, pings);
            let looks = Cell::new(0);
            let gone = std::future::poll_fn(|cx| {
                let _ = connection.poll_accept(cx);
                let heard = || {
                    looks.set(looks.get() + 1);
                    false
                };
                let gone = silence.broken(cx, heard, || true);
                if gone { Poll::Ready(true) } else { Poll::Pending }
            });
            assert!(gone.await && looks.get() == 4, "nobody told it that something was heard");
            assert_eq!(silence.ping.as_mut().is_some_and(|p| matches!(pong(p), Poll::Ready(Ok(_)))), answers);
            peer.abort();
            driver.abort();
        }
    }

    fn pong(ping: &mut PingPong) -> Poll<Result<h2::Pong, h2::Error>> {
        ping.poll_pong(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
