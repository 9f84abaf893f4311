//! A connection that speaks another protocol from here on, with what was read of that already.

use super::super::transport::Transport;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that speaks another protocol now.
#[derive(Debug)]
pub(in crate::proxy) struct Raw<G, S = Transport> {
    stream: S,
    /// What was read with the last message.
    read: Bytes,
    /// Held as long as the stream.
    _guard: G,
}

impl<G, S> Raw<G, S> {
    pub(in crate::proxy) fn new(stream: S, read: Bytes, guard: G) -> Self {
        Self { stream, read, _guard: guard }
    }
}

impl<G: Unpin, S: AsyncRead + Unpin> AsyncRead for Raw<G, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let first = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(first));
        if self.read.is_empty() {
            // The block that it was read into is wanted elsewhere.
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<G: Unpin, S: AsyncWrite + Unpin> AsyncWrite for Raw<G, S> {
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
