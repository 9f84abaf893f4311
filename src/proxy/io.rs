//! A downstream TCP connection with the bytes that sniffing took, and with marks of what moved on it.
//!
//! hyper's own wrapper (`TokioIo`) turns this into its traits; this room has no unsafe code to do that itself.
//!
//! **Lingering close.** When an answer goes out before the request's body was read, closing at once would make the
//! kernel reset the connection, and the client might never see the answer (RFC 9112, section 9.6). So where unread
//! bytes are likely, `poll_shutdown` closes the sending side and then reads and discards for a while.

use bytes::{Buf, Bytes, BytesMut};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// What every HTTP/2 connection with prior knowledge starts with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What sniffing reads at most; it is served from here and then given back.
const SNIFFED: usize = 4096;
/// What a lingering close discards at most, in bytes, and how long it waits for the client to close.
const MAX_LINGER: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// Marks that the connection's task reads. Atomic only because an upgraded connection must be `Send`: one thread
/// writes and the same one reads.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Something was read since the mark was taken.
    pub read: AtomicBool,
    /// Something was written since the mark was taken.
    pub wrote: AtomicBool,
    /// The last bytes given to the socket did not all fit.
    pub blocked: AtomicBool,
    /// Close by lingering.
    pub linger: AtomicBool,
}

impl Marks {
    pub(super) fn take(mark: &AtomicBool) -> bool {
        let was = mark.load(Relaxed);
        mark.store(false, Relaxed);
        was
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// A downstream connection.
#[derive(Debug)]
pub(super) struct Io {
    stream: TcpStream,
    prefix: Bytes,
    marks: Arc<Marks>,
    /// The sending side is closed.
    closed: bool,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    discarded: usize,
    until: Pin<Box<Sleep>>,
}

/// Reads the first bytes until they tell the protocol; `None` when the client closed before. Says in `begun` when the
/// first one is there.
pub(super) async fn sniff(mut stream: TcpStream, begun: &Cell<bool>) -> io::Result<Option<(Io, Spoken)>> {
    let mut first = BytesMut::with_capacity(SNIFFED);
    let spoken = loop {
        if stream.read_buf(&mut first).await? == 0 {
            if first.is_empty() {
                return Ok(None);
            }
            // Half a preface and no more: hyper says what is wrong with it.
            break Spoken::Http1;
        }
        begun.set(true);
        let known = first.len().min(PREFACE.len());
        if first.get(..known) != PREFACE.get(..known) {
            break Spoken::Http1;
        }
        if known == PREFACE.len() {
            break Spoken::Http2;
        }
    };
    let io = Io { stream, prefix: first.freeze(), marks: Arc::default(), closed: false, lingering: None };
    Ok(Some((io, spoken)))
}

impl Io {
    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        self.marks.blocked.store(written.is_pending(), Relaxed);
        if written.is_ready() {
            self.marks.wrote.store(true, Relaxed);
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self
            .lingering
            .get_or_insert_with(|| Lingering { discarded: 0, until: Box::pin(tokio::time::sleep(LINGER)) });
        let mut discarded = [0u8; 4096];
        while lingering.discarded < MAX_LINGER {
            let mut buf = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => lingering.discarded += buf.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => return lingering.until.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let n = self.prefix.len().min(buf.remaining());
            let part = self.prefix.split_to(n);
            buf.put_slice(&part);
            if self.prefix.is_empty() {
                self.prefix = Bytes::new();
            }
            self.marks.read.store(true, Relaxed);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.marks.read.store(true, Relaxed);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closed = true;
        }
        if self.marks.linger.load(Relaxed) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
