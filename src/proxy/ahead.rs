//! A socket below TLS, read ahead of what TLS asks for.
//!
//! rustls asks for 4 KiB at a time as long as it holds no part of a record, and for what a record still lacks otherwise: a long
//! body takes a system call for every few kilobytes. Here, where a read filled all that was asked for, there is more: so the next
//! one goes into a block of the core's, and what TLS did not ask for waits for its next turn. A short message never gets
//! that far, and is read to where it belongs, as before. What waits is at most a block; while a connection's reader is slow,
//! its socket fills as any does, since nobody asks.

use super::wire1::{Beside, Raw, Scratch};
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Reads a stream ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The last read left something behind, as it seems.
    more: bool,
    scratch: Rc<Scratch>,
}

/// A stream that is read ahead; `read` came from it already.
pub(super) fn ahead<S>(stream: S, read: Bytes, scratch: Rc<Scratch>) -> Raw<Ahead, S> {
    Raw::new(stream, read, Ahead { more: false, scratch })
}

impl Beside for Ahead {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        buf: &mut ReadBuf<'_>,
        read: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        if self.more {
            (*read, self.more) = ready!(self.scratch.poll_ahead(cx, stream))?;
        } else {
            let before = buf.filled().len();
            ready!(Pin::new(stream).poll_read(cx, buf))?;
            self.more = buf.remaining() == 0 && buf.filled().len() > before;
        }
        Poll::Ready(Ok(()))
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
    async fn read(ahead: &mut Raw<Ahead, Socket>, count: usize) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), vec![0; 4096]);
        while all.len() < count {
            let read = ahead.read(&mut part).await.unwrap();
            all.extend_from_slice(&part[..read]);
        }
        all
    }

    fn socket(holds: &[u8], came: &'static [u8]) -> Raw<Ahead, Socket> {
        let socket = Socket { holds: holds.iter().copied().collect(), asked: 0 };
        ahead(socket, Bytes::from_static(came), Rc::default())
    }

    #[tokio::test]
    async fn a_long_message_is_read_in_few_calls_and_every_byte_of_it_arrives() {
        let long = bytes(66_000);
        let mut ahead = socket(&long, b"");
        assert!(read(&mut ahead, long.len()).await == long);
        assert!(ahead.stream().asked <= 3, "{}", ahead.stream().asked);
    }

    #[tokio::test]
    async fn a_short_message_is_read_in_one_call_behind_what_came_before() {
        let mut ahead = socket(b" and more", b"first");
        assert_eq!(read(&mut ahead, 14).await, b"first and more");
        let (beside, rest) = ahead.beside();
        assert_eq!((ahead.stream().asked, rest.len(), beside.more), (1, 0, false));
    }

    #[tokio::test]
    async fn what_is_read_ahead_of_two_connections_is_not_mixed_up_and_its_block_is_given_back() {
        let scratch = Rc::<Scratch>::default();
        let (one, other) = (bytes(30_000), vec![7; 30_000]);
        let socket = |holds: &[u8]| Socket { holds: holds.iter().copied().collect(), asked: 0 };
        let mut a = ahead(socket(&one), Bytes::new(), scratch.clone());
        let mut b = ahead(socket(&other), Bytes::new(), scratch);
        let (mut from_a, mut from_b) = (read(&mut a, 12_000).await, read(&mut b, 12_000).await);
        from_a.extend(read(&mut a, 30_000 - from_a.len()).await);
        from_b.extend(read(&mut b, 30_000 - from_b.len()).await);
        assert!(from_a == one && from_b == other);
        assert!(a.beside().1.is_empty() && b.beside().1.is_empty());
    }
}
