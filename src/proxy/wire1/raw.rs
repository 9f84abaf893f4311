//! A stream of which something was read already: by whoever spoke another protocol on it before, or ahead of who reads it.

use super::super::transport::Transport;
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What goes with a stream as long as it is there; it may read in another way than straight to where it is asked for.
pub(in crate::proxy) trait Beside {
    /// Reads once, to `buf`, or to `read`, which is empty, where more comes than was asked for.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        buf: &mut ReadBuf<'_>,
        _read: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_read(cx, buf)
    }
}

impl Beside for () {}
impl<T> Beside for std::rc::Rc<T> {}

/// A stream with what was read of it.
#[derive(Debug)]
pub(in crate::proxy) struct Raw<B, S = Transport> {
    stream: S,
    /// What was read and not asked for yet.
    read: Bytes,
    beside: B,
}

impl<B, S> Raw<B, S> {
    pub(in crate::proxy) fn new(stream: S, read: Bytes, beside: B) -> Self {
        Self { stream, read, beside }
    }

    /// What is read from and written to.
    pub(in crate::proxy) fn stream(&self) -> &S {
        &self.stream
    }

    /// What goes with it, and what was read and not asked for yet.
    #[cfg(test)]
    pub(in crate::proxy) fn beside(&self) -> (&B, &Bytes) {
        (&self.beside, &self.read)
    }
}

impl<B: Beside + Unpin, S: AsyncRead + Unpin> AsyncRead for Raw<B, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            ready!(this.beside.poll_read(cx, &mut this.stream, buf, &mut this.read))?;
            if this.read.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        let first = this.read.len().min(buf.remaining());
        buf.put_slice(this.read.get(..first).unwrap_or_default());
        this.read.advance(first);
        if this.read.is_empty() {
            // The block that it was read into is wanted elsewhere.
            this.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<B: Unpin, S: AsyncWrite + Unpin> AsyncWrite for Raw<B, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
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
