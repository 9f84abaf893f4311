//! A connection as `h2` gets it: with the bytes that were read to know the protocol, and with marks of what moved on it.

use super::transport::Transport;
use super::wire1::Raw;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection with prior knowledge starts with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Marks that the connection's task reads: one thread writes and the same one reads.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Something was read since the mark was taken.
    pub read: AtomicBool,
    /// Something was written since the mark was taken.
    pub wrote: AtomicBool,
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

/// What a client speaks that begins with these bytes; `None` when more are needed to know.
pub(super) fn spoken(first: &[u8]) -> Option<Spoken> {
    let known = first.len().min(PREFACE.len());
    if first.get(..known) != PREFACE.get(..known) {
        return Some(Spoken::Http1);
    }
    (known == PREFACE.len()).then_some(Spoken::Http2)
}

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Io {
    stream: Raw<()>,
    marks: Arc<Marks>,
}

impl Io {
    /// A connection on which `read` came already.
    pub(super) fn new(stream: Transport, read: Bytes) -> Self {
        Self { stream: Raw::new(stream, read, ()), marks: Arc::default() }
    }

    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            self.marks.wrote.store(true, Relaxed);
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.marks.read.store(true, Relaxed);
        }
        read
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
