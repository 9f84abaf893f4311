//! What a connection has to say: frames in one buffer, long pieces of bodies beside it, all of it in one write.

use super::super::wire1::Scratch;
use super::super::wire2::{FrameHead, HEAD, flags, kind};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces of a body up to this size are copied, in bytes; a write of several parts costs more.
const COPIED: usize = 4 * 1024;
/// How many parts one write has at most.
const MAX_PARTS: usize = 16;
/// What was written is cut off the buffer's front when it is at least this much, in bytes: with a peer that reads slowly
/// but always, the buffer would grow otherwise.
const CUT: usize = 16 * 1024;

/// Frames on their way.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Written up to `at`.
    bytes: Vec<u8>,
    at: usize,
    /// Each goes out before the byte of `bytes` that it names.
    slices: VecDeque<(usize, Bytes)>,
    /// All of them, in bytes.
    sliced: usize,
    /// Something was written since this was last asked.
    pub wrote: bool,
}

impl Output {
    /// How much waits, in bytes.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.at + self.sliced
    }

    /// How much of it is not pieces of bodies beside the buffer.
    pub fn buffered(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What it holds, in bytes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.bytes.capacity() + self.slices.capacity()
    }

    /// Where frames are written.
    pub fn buffer(&mut self, scratch: &Scratch) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = scratch.buffer();
        }
        &mut self.bytes
    }

    /// Puts a DATA frame.
    pub fn data(&mut self, scratch: &Scratch, stream: u32, data: Bytes, end: bool) {
        let flags = if end { flags::END_STREAM } else { 0 };
        let out = self.buffer(scratch);
        FrameHead { len: data.len(), kind: kind::DATA, flags, stream }.put(out);
        if data.len() <= COPIED {
            out.extend_from_slice(&data);
        } else {
            self.sliced += data.len();
            self.slices.push_back((self.bytes.len(), data));
        }
    }

    /// Puts a header block that `encode` writes, in frames of at most `max` bytes.
    pub fn block(
        &mut self,
        scratch: &Scratch,
        (stream, end): (u32, bool),
        max: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let out = self.buffer(scratch);
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        encode(out);
        let len = out.len() - start - HEAD;
        let ends = if end { flags::END_STREAM } else { 0 };
        if len <= max {
            let head = FrameHead { len, kind: kind::HEADERS, flags: ends | flags::END_HEADERS, stream };
            if let Some(place) = out.get_mut(start..start + HEAD) {
                place.copy_from_slice(&head.bytes());
            }
            return;
        }
        // What is rare may cost a copy.
        let block = out.split_off(start + HEAD);
        out.truncate(start);
        let last = block.len().div_ceil(max) - 1;
        for (at, part) in block.chunks(max).enumerate() {
            let (kind, first) = if at == 0 { (kind::HEADERS, ends) } else { (kind::CONTINUATION, 0) };
            let flags = first | if at == last { flags::END_HEADERS } else { 0 };
            FrameHead { len: part.len(), kind, flags, stream }.put(out);
            out.extend_from_slice(part);
        }
    }

    /// Writes what there is. Ready when all is written; the buffer goes back then.
    pub fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        scratch: &Scratch,
    ) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let written = match self.poll_write(cx, to) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    self.cut();
                    return Poll::Pending;
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote = true;
            self.advance(written);
        }
        if self.bytes.capacity() > 0 {
            scratch.recycle(std::mem::take(&mut self.bytes));
            self.at = 0;
            self.slices = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(&self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<usize>> {
        if self.slices.is_empty() {
            return Pin::new(to).poll_write(cx, self.bytes.get(self.at..).unwrap_or_default());
        }
        let mut parts = [IoSlice::new(&[]); MAX_PARTS];
        let mut places = parts.iter_mut();
        let mut from = self.at;
        let mut put = |part| places.next().map(|place| *place = IoSlice::new(part)).is_some();
        for (before, slice) in &self.slices {
            let text = self.bytes.get(from..*before).unwrap_or_default();
            if !(text.is_empty() || put(text)) || !put(slice) {
                break;
            }
            from = *before;
        }
        put(self.bytes.get(from..).unwrap_or_default());
        let written = ready!(Pin::new(to).poll_write_vectored(cx, &parts))?;
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let until = self.slices.front().map_or(self.bytes.len(), |(before, _)| *before);
            let text = written.min(until - self.at);
            self.at += text;
            written -= text;
            let Some((_, slice)) = self.slices.front_mut().filter(|_| written > 0) else { return };
            let part = written.min(slice.len());
            slice.advance(part);
            self.sliced -= part;
            written -= part;
            if slice.is_empty() {
                self.slices.pop_front();
            }
        }
    }

    fn cut(&mut self) {
        if self.at >= CUT {
            drop(self.bytes.drain(..self.at));
            self.slices.iter_mut().for_each(|(before, _)| *before -= self.at);
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes a write, and every third time none.
    struct Slow(Vec<u8>, usize, u32);

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.2 += 1;
            if self.2.is_multiple_of(3) {
                return Poll::Pending;
            }
            let part = data.len().min(self.1);
            self.0.extend_from_slice(&data[..part]);
            Poll::Ready(Ok(part))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = data.iter().flat_map(|part| part.iter().copied()).take(self.1).collect();
            self.as_mut().poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_put_comes_out_in_order_however_little_is_taken_at_once() {
        for most in [7, 100, 1_000, 100_000] {
            let (scratch, mut out, mut wanted) = (Scratch::default(), Output::default(), Vec::new());
            let (mut to, mut cx) = (Slow(Vec::new(), most, 0), Context::from_waker(std::task::Waker::noop()));
            for round in 0..30u32 {
                let data = Bytes::from(vec![round as u8; [3, 5_000, 20_000][round as usize % 3]]);
                FrameHead { len: data.len(), kind: kind::DATA, flags: round as u8 & 1, stream: round }.put(&mut wanted);
                wanted.extend_from_slice(&data);
                out.data(&scratch, round, data, round & 1 == 1);
                let _ = out.poll_flush(&mut cx, &mut to, &scratch);
            }
            while out.poll_flush(&mut cx, &mut to, &scratch).is_pending() {}
            assert!(to.0 == wanted, "{most}");
            assert_eq!((out.waiting(), out.bytes.capacity(), out.slices.capacity()), (0, 0, 0), "nothing is kept");
        }
    }

    #[test]
    fn what_a_slow_reader_took_is_not_kept() {
        let (scratch, mut out) = (Scratch::default(), Output::default());
        let (mut to, mut cx) = (Slow(Vec::new(), 4_000, 0), Context::from_waker(std::task::Waker::noop()));
        for _ in 0..10_000 {
            out.data(&scratch, 1, Bytes::from_static(&[7; 2_000]), false);
            let _ = out.poll_flush(&mut cx, &mut to, &scratch);
        }
        assert!(out.bytes.capacity() < 200_000, "{}", out.bytes.capacity());
    }

    #[test]
    fn a_block_longer_than_a_frame_is_continued() {
        for (length, frames) in [(10, 1), (100, 1), (101, 2), (300, 3), (301, 4)] {
            let (scratch, mut out) = (Scratch::default(), Output::default());
            out.block(&scratch, (5, true), 100, |out| out.extend((0..length).map(|i| i as u8)));
            let (mut rest, mut block, mut seen) = (out.bytes.as_slice(), Vec::new(), 0);
            while let Some(head) = FrameHead::read(rest) {
                seen += 1;
                let end = if seen == frames { flags::END_HEADERS } else { 0 };
                let (kind, flags) =
                    if seen == 1 { (kind::HEADERS, end | flags::END_STREAM) } else { (kind::CONTINUATION, end) };
                assert_eq!((head.kind, head.flags, head.stream), (kind, flags, 5), "{length}");
                block.extend_from_slice(&rest[HEAD..HEAD + head.len]);
                rest = &rest[HEAD + head.len..];
            }
            assert_eq!((seen, block), (frames, (0..length).map(|i| i as u8).collect()), "{length}");
        }
    }
}
