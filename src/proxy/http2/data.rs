//! DATA frames that came: their pieces go on as they come, and are not kept until a frame is whole. Flow control has
//! bounded them already, when their frame began.

use super::super::wire1::Scratch;
use super::super::wire2::{Code, FrameHead, flags, put_window_update};
use super::STREAM_WINDOW;
use super::incoming::{Broken, Reading, Step};
use super::session::Engine;
use bytes::{Buf, Bytes};

/// A DATA frame that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    id: u32,
    /// So much of it is still to come, and so much of that is padding.
    pub left: usize,
    padding: usize,
    /// How much padding there is comes first.
    padded: bool,
    end: bool,
}

impl Engine {
    pub fn data_begins(&mut self, head: FrameHead, scratch: &Scratch) -> Result<(), Broken> {
        if head.stream == 0 || self.idle(head.stream) {
            return Err(Broken(Code::PROTOCOL_ERROR, "DATA on no stream"));
        }
        let length = head.len as i64;
        self.hold(head.len, scratch);
        if self.receive_window < 0 {
            return Err(Broken(Code::FLOW_CONTROL_ERROR, "the connection's window was overrun"));
        }
        let (padded, end) = (head.flags & flags::PADDED != 0, head.flags & flags::END_STREAM != 0);
        if padded && head.len == 0 {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "no room for padding"));
        }
        if head.len == 0 && !end {
            self.said_nothing()?;
        }
        match self.streams.find(head.stream) {
            None => self.tolerate(head.stream)?,
            Some(slot) => {
                if let Some(stream) = self.streams.get(slot) {
                    stream.receive_window -= length;
                    let refusal = if !stream.receiving {
                        Some(Code::STREAM_CLOSED)
                    } else if stream.receive_window < 0 {
                        Some(Code::FLOW_CONTROL_ERROR)
                    } else if stream.awaiting {
                        Some(Code::PROTOCOL_ERROR)
                    } else {
                        None
                    };
                    if let Some(code) = refusal {
                        self.mistaken(slot, code, scratch)?;
                    }
                }
            }
        }
        self.reading = Reading::Data(Data { id: head.stream, left: head.len, padding: 0, padded, end });
        Ok(())
    }

    pub fn data_goes_on(&mut self, mut data: Data, scratch: &Scratch) -> Result<Step, Broken> {
        if self.input.is_empty() && data.left > 0 {
            self.input = Bytes::new();
            return Ok(Step::Wait);
        }
        if data.padded {
            data.padded = false;
            data.padding = usize::from(self.input.get_u8());
            data.left -= 1;
            if data.padding > data.left {
                return Err(Broken(Code::PROTOCOL_ERROR, "more padding than DATA"));
            }
            self.unasked(data.id, 1, scratch);
        }
        let wanted = data.left - data.padding;
        if wanted > 0 {
            let piece =
                if wanted >= self.input.len() { std::mem::take(&mut self.input) } else { self.input.split_to(wanted) };
            data.left -= piece.len();
            let last = data.left == 0 && data.end;
            self.arrives(data.id, piece, last, scratch)?;
            data.end &= !last;
        } else if data.padding > 0 {
            let part = data.padding.min(self.input.len());
            self.input.advance(part);
            (data.padding, data.left) = (data.padding - part, data.left - part);
            self.unasked(data.id, part, scratch);
        }
        if data.left > 0 {
            self.reading = Reading::Data(data);
        } else {
            if data.end {
                self.arrives(data.id, Bytes::new(), true, scratch)?;
            }
            self.reading = Reading::Frame;
        }
        Ok(Step::On)
    }

    /// A piece of a body came.
    fn arrives(&mut self, id: u32, piece: Bytes, last: bool, scratch: &Scratch) -> Result<(), Broken> {
        let length = piece.len();
        let found = self.streams.find(id);
        let Some((slot, stream)) = found.and_then(|slot| Some((slot, self.streams.get(slot)?))) else {
            // It was reset meanwhile.
            self.give_back(length, scratch);
            return Ok(());
        };
        if let Some(left) = &mut stream.left {
            match left.checked_sub(length as u64) {
                Some(rest) if rest == 0 || !last => *left = rest,
                _ => {
                    self.give_back(length, scratch);
                    return self.mistaken(slot, Code::PROTOCOL_ERROR, scratch);
                }
            }
        }
        if stream.unwanted {
            self.give_back(length, scratch);
        } else if length > 0 {
            stream.arrived.push(piece);
        }
        if last {
            self.received_whole(slot);
        } else if let Some(stream) = self.streams.look(slot) {
            stream.wake_reader();
        }
        Ok(())
    }

    /// The peer's message came to its end.
    pub fn received_whole(&mut self, slot: u32) {
        let Some(stream) = self.streams.get(slot) else { return };
        (stream.receiving, stream.whole) = (false, true);
        stream.wake_reader();
        if !stream.sending {
            self.floods.completed();
            self.close(slot);
        }
    }

    /// What nobody takes counts against the windows, too (padding).
    fn unasked(&mut self, id: u32, length: usize, scratch: &Scratch) {
        self.give_back(length, scratch);
        if let Some(slot) = self.streams.find(id) {
            self.taken_of(slot, length, scratch);
        }
    }

    /// So much was taken of a stream: when it is much, the peer may send it again.
    pub fn taken_of(&mut self, slot: u32, length: usize, scratch: &Scratch) {
        let Some(stream) = self.streams.get(slot).filter(|stream| stream.receiving) else { return };
        stream.taken += u32::try_from(length).unwrap_or(0);
        if stream.taken >= STREAM_WINDOW / 2 {
            let (id, more) = (stream.id, std::mem::take(&mut stream.taken));
            stream.receive_window += i64::from(more);
            put_window_update(self.out.buffer(scratch), id, more);
            self.rouse();
        }
    }
}
