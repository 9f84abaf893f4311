//! Who may send how much, and when.
//!
//! A stream may send what its own window, the connection's window and `MAX_WAITING` leave. Where the stream's own is
//! used up it waits for that alone. Where what all share is used up, it stands in line: only the first in line may take
//! of it, one piece of its body, and goes to the end of the line with the next. Only the first is woken, whenever there
//! is room; when it took its share, or has gone, the next one is.

use super::super::wire1::Scratch;
use super::session::{Engine, MAX_WAITING, Role};
use super::streams::{Ended, Stream};
use bytes::Bytes;
use std::task::{Context, Poll};

impl Engine {
    /// What all streams together may send now, in bytes.
    fn room(&self) -> usize {
        let waiting = MAX_WAITING.saturating_sub(self.out.waiting());
        usize::try_from(self.send_window).unwrap_or(0).min(waiting)
    }

    /// There may be room: the first in line is told.
    pub fn stir(&mut self) {
        if let Some(first) = self.line.front()
            && self.room() > 0
            && let Some(stream) = self.streams.look(*first)
        {
            stream.wake_writer();
        }
    }

    /// A stream does not stand in line any more.
    pub fn leave_line(&mut self, slot: u32) {
        let Some(stream) = self.streams.get(slot).filter(|stream| stream.in_line) else { return };
        stream.in_line = false;
        let first = self.line.front() == Some(&slot);
        self.line.retain(|waiting| *waiting != slot);
        if self.line.is_empty() {
            self.line = std::collections::VecDeque::new();
        }
        if first {
            self.stir();
        }
    }

    /// Sends a piece of a body, all of it when this is ready: as much as there is room for, the rest when it is called
    /// again. An empty piece is sent where it is the last.
    pub fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        slot: u32,
        (data, last): (&mut Bytes, bool),
        scratch: &Scratch,
    ) -> Poll<Result<(), Ended>> {
        while !data.is_empty() {
            let room = self.room();
            let frame = self.peer.frame;
            let turn = self.line.front().is_none_or(|first| *first == slot);
            let Some(stream) = self.streams.get(slot) else { return Poll::Ready(Err(Ended::Gone)) };
            if !stream.sending {
                return Poll::Ready(Err(stream.ended.unwrap_or(Ended::Gone)));
            }
            let window = usize::try_from(stream.send_window).unwrap_or(0);
            if window == 0 {
                wait(stream, cx);
                self.leave_line(slot);
                return Poll::Pending;
            }
            if !turn || room == 0 {
                wait(stream, cx);
                if !std::mem::replace(&mut stream.in_line, true) {
                    self.line.push_back(slot);
                }
                return Poll::Pending;
            }
            let length = data.len().min(window).min(room).min(frame);
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            let (id, all) = (stream.id, length == data.len());
            let part = if all { std::mem::take(data) } else { data.split_to(length) };
            self.out.data(scratch, id, part, all && last);
            if all {
                self.leave_line(slot);
                if last {
                    self.sent_whole(slot);
                }
                self.rouse();
                return Poll::Ready(Ok(()));
            }
            self.rouse();
        }
        let Some(stream) = self.streams.get(slot) else { return Poll::Ready(Err(Ended::Gone)) };
        if !stream.sending {
            return Poll::Ready(Err(stream.ended.unwrap_or(Ended::Gone)));
        }
        if last {
            self.out.data(scratch, stream.id, Bytes::new(), true);
            self.sent_whole(slot);
            self.rouse();
        }
        Poll::Ready(Ok(()))
    }

    /// Our message came to its end.
    pub fn sent_whole(&mut self, slot: u32) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.sending = false;
        if !stream.receiving {
            self.floods.completed();
            self.close(slot);
        }
    }

    /// Whether another stream may be opened.
    pub fn admits(&self) -> bool {
        self.streams.open() < self.peer.streams && !self.closed()
    }

    /// Whether no stream will be opened any more.
    pub fn closed(&self) -> bool {
        self.failed || self.left_by.is_some() || self.streams.highest >= super::session::MAX_31 - 1
    }

    /// There may be room for another stream: the first that waits for one is told.
    pub fn admit(&mut self) {
        if self.role == Role::Client
            && self.admits()
            && let Some((_, first)) = self.openers.front()
        {
            first.wake_by_ref();
        }
    }
}

fn wait(stream: &mut Stream, cx: &Context<'_>) {
    if !stream.writer.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        stream.writer = Some(cx.waker().clone());
    }
}
