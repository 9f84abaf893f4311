//! A socket below TLS, read ahead of what TLS asks for.
//!
//! rustls asks for 4 KiB at a time as long as it holds no part of a record, and for what a record still lacks otherwise: a long
//! body takes a system call for every few kilobytes. Here, where a read filled all that was asked for, there is more: so the next
//! one goes into a block of the core's, and what TLS did not ask for waits for its next turn. A short message never gets
//! that far, and is read to where it belongs, as before. What waits is at most a block; while a connection's reader is slow,
//! its socket fills as any does, since nobody asks.

use super::wire1::Scratch;
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is read ahead.
#[derive(Debug)]
pub(super) struct Ahead<S> {
    stream: S,
    /// What was read and not asked for yet.
    read: Bytes,
    /// The last read left something behind, as it seems.
    more: bool,
    scratch: Rc<Scratch>,
}

impl<S> Ahead<S> {
    /// `read` came from it already.
    pub(super) fn new(stream: S, read: Bytes, scratch: Rc<Scratch>) -> Self {
        Self { stream, read, more: false, scratch }
    }

    /// What is read from and written to.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            if !this.more {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                this.more = buf.remaining() == 0 && buf.filled().len() > before;
                return Poll::Ready(Ok(()));
            }
            let (read, filled) = ready!(this.scratch.poll_ahead(cx, &mut this.stream))?;
            (this.read, this.more) = (read, filled);
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tokio::io::AsyncReadExt;

    /// A socket with so many bytes in it, which counts how often it is asked.
    #[derive(Debug, Default)]
    struct Socket {
        holds: VecDeque<u8>,
        asked: usize,
    }

    impl AsyncRead for Socket {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.asked += 1;
            if self.holds.is_empty() {
                return Poll::Pending;
            }
            let first = buf.remaining().min(self.holds.len());
            self.holds.drain(..first).for_each(|byte| buf.put_slice(&[byte]));
            Poll::Ready(Ok(()))
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n % 251) as u8).collect()
    }

    /// Reads 4 KiB at a time, as rustls does.
    async fn read(ahead: &mut Ahead<Socket>, count: usize) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), vec![0; 4096]);
        while all.len() < count {
            let read = ahead.read(&mut part).await.unwrap();
            all.extend_from_slice(&part[..read]);
        }
        all
    }

    fn ahead(holds: &[u8], came: &'static [u8]) -> Ahead<Socket> {
        let socket = Socket { holds: holds.iter().copied().collect(), asked: 0 };
        Ahead::new(socket, Bytes::from_static(came), Rc::default())
    }

    #[tokio::test]
    async fn a_long_message_is_read_in_few_calls_and_every_byte_of_it_arrives() {
        let long = bytes(66_000);
        let mut ahead = ahead(&long, b"");
        assert!(read(&mut ahead, long.len()).await == long);
        assert!(ahead.stream().asked <= 3, "{}", ahead.stream().asked);
    }

    #[tokio::test]
    async fn a_short_message_is_read_in_one_call_behind_what_came_before() {
        let mut ahead = ahead(b" and more", b"first");
        assert_eq!(read(&mut ahead, 14).await, b"first and more");
        assert_eq!((ahead.stream().asked, ahead.read.len(), ahead.more), (1, 0, false));
    }

    #[tokio::test]
    async fn what_is_read_ahead_of_two_connections_is_not_mixed_up_and_its_block_is_given_back() {
        let scratch = Rc::<Scratch>::default();
        let (one, other) = (bytes(30_000), vec![7; 30_000]);
        let socket = |holds: &[u8]| Socket { holds: holds.iter().copied().collect(), asked: 0 };
        let mut a = Ahead::new(socket(&one), Bytes::new(), scratch.clone());
        let mut b = Ahead::new(socket(&other), Bytes::new(), scratch);
        let (mut from_a, mut from_b) = (read(&mut a, 12_000).await, read(&mut b, 12_000).await);
        from_a.extend(read(&mut a, 30_000 - from_a.len()).await);
        from_b.extend(read(&mut b, 30_000 - from_b.len()).await);
        assert!(from_a == one && from_b == other);
        assert!(a.read.is_empty() && b.read.is_empty());
    }
}
