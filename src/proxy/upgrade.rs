//! Connections that stopped speaking HTTP: WebSocket and whatever else HTTP/1.1's `Upgrade` switches to.
//!
//! Bytes are copied both ways by the client's connection's task; when one side closes its sending half, the other is told, and
//! the rest still flows. The request counts as under way until both directions are over, or nothing moved for the
//! cluster's idle limit, or the whole-request limit passed, or its listener takes no plain text any more (`Notice`).

use super::body::Switched;
use super::clock::Clock;
use super::conn::Notice;
use super::flight::Flight;
use super::wire1::Raw;
use crate::links::Time;
use crate::observe::Reason;
use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

/// What each direction holds at most, in bytes.
const BUFFER: usize = 16 * 1024;

/// Joins both sides, until both are over.
pub(super) async fn carry(switched: Switched, client: Raw<()>) {
    let Switched { mut flight, upstream } = switched;
    let core = flight.core.clone();
    let _open = Open::new(&flight);
    let moved_at = Rc::new(Cell::new(core.clock.now()));
    let mut client = Side { inner: client, clock: core.clock, moved_at: moved_at.clone() };
    let mut endpoint = Side { inner: upstream, clock: core.clock, moved_at: moved_at.clone() };
    let mut copying = pin!(copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER));
    let idle = flight.watch.idle.get();
    let limit = flight.watch.limit.get();
    let mut notice = Notice::none();
    let over = loop {
        let due = notice.or(moved_at.get() + idle, Reason::IdleTimeout).0;
        let due = limit.map_or(due, |l| l.min(due));
        let judged = std::future::poll_fn(|cx| {
            flight.watch.deadline.register(cx.waker());
            if notice.look(&flight.conn, false) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            copied = &mut copying => break copied,
            () = judged => {}
            () = tokio::time::sleep_until(core.clock.instant(due)) => {
                let now = core.clock.now();
                if limit.is_some_and(|l| now >= l) {
                    return flight.broken(Reason::RequestTimeout);
                }
                let (due, reason) = notice.or(moved_at.get() + idle, Reason::IdleTimeout);
                if now >= due {
                    return flight.broken(reason);
                }
            }
        }
    };
    // A reset is how many peers end such a connection; there is no answer left to break.
    if let Ok((up, down)) = over {
        flight.copied(up, down);
    }
    flight.complete();
}

/// Counts an upgraded connection while it lives.
struct Open(Rc<super::core::Core>);

impl Open {
    fn new(flight: &Flight) -> Self {
        flight.core.gauge(|g| g.upgraded.add(1));
        Self(flight.core.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.gauge(|g| g.upgraded.sub(1));
    }
}

/// One side, which notes when bytes moved.
struct Side<T> {
    inner: T,
    clock: Clock,
    moved_at: Rc<Cell<Time>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        self.moved_at.set(self.clock.now());
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, data));
        self.moved_at.set(self.clock.now());
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
