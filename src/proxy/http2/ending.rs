//! How streams end, one at a time: by their own end, by a reset, with their connection, or because nobody holds them.

use super::super::wire1::Scratch;
use super::super::wire2::{Code, put_rst};
use super::session::{Engine, Role};
use super::streams::{Ended, Wakers};

impl Engine {
    /// A stream is over before its time, by no frame of ours.
    pub fn end_stream(&mut self, slot: u32, ended: Ended) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.ended = Some(ended);
        stream.wake_reader();
        stream.wake_writer();
        self.close(slot);
    }

    /// Resets a stream, whose other end may not know yet.
    pub fn reset(&mut self, slot: u32, code: Code, scratch: &Scratch) {
        let Some(stream) = self.streams.get(slot).filter(|stream| !stream.closed()) else { return };
        let (id, receiving) = (stream.id, stream.receiving);
        if receiving {
            // Nobody gets what came of a message that is none.
            let dropped = stream.arrived.clear();
            self.streams.resets.note(id);
            self.give_back(dropped, scratch);
        }
        put_rst(self.out.buffer(scratch), id, code);
        self.end_stream(slot, Ended::Local(code));
        self.rouse();
    }

    /// A stream is closed: another one may be opened, and the next in line may send.
    pub fn close(&mut self, slot: u32) {
        self.streams.close(slot);
        self.leave_line(slot);
        self.admit();
        if self.streams.open() == 0 && self.role == Role::Client && self.over() {
            self.rouse();
        }
    }

    /// Lets a stream go that nobody holds any more.
    pub fn let_go(&mut self, slot: u32, scratch: &Scratch) -> Option<Wakers> {
        let stream = self.streams.get(slot)?;
        stream.handles = stream.handles.saturating_sub(1);
        if stream.handles > 0 {
            return None;
        }
        let left = stream.arrived.clear();
        if !stream.closed() {
            // A whole answer is out: the rest of the request is not wanted (RFC 9113, section 8.1).
            let answered = self.role == Role::Server && !stream.sending;
            self.reset(slot, if answered { Code::NO_ERROR } else { Code::CANCEL }, scratch);
        }
        if left > 0 {
            self.give_back(left, scratch);
        }
        self.streams.remove(slot)
    }
}
