//! The streams of a connection: their state, and where the one with an id is.
//!
//! A stream is in a slot from its first frame until nobody holds it any more; in the list of ids, only while one of the
//! sides may still send (RFC 9113, section 5.1). Ids rise, so the list is sorted as it grows, and is searched by halves.
//!
//! ```text
//!                       receiving  sending
//!   open                    x         x
//!   half-closed (remote)              x      the peer said END_STREAM
//!   half-closed (local)     x                we did
//!   closed                                   both, or a reset by either: out of the list
//! ```
//!
//! Idle are the ids above the highest. Of those below that are not in the list, the ones that we reset are remembered
//! (`Resets`): the peer may have sent more before it knew, which is ignored; anywhere else it is an error.

use super::super::client1::Head;
use super::super::wire2::Code;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::collections::VecDeque;
use std::task::Waker;

/// How many streams are remembered that we reset. Of older ones nobody knows; what comes on them is ignored, too.
const MAX_RESETS: usize = 64;
/// Beyond so many pieces of a body that nobody has taken yet, small ones are copied together: each would hold the whole
/// block that it was read into.
const MAX_PIECES: usize = 8;
/// Pieces up to this size are small, in bytes.
const SMALL: usize = 4 * 1024;

/// Why a stream is over before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Ended {
    /// The peer reset it.
    Reset(Code),
    /// The peer leaves the connection and did nothing with the stream.
    Left(Code),
    /// We reset it, or gave the connection up, because of what the peer did.
    Local(Code),
    /// The connection broke.
    Gone,
}

impl Ended {
    pub(in crate::proxy) fn code(self) -> Option<Code> {
        match self {
            Self::Reset(code) | Self::Left(code) | Self::Local(code) => Some(code),
            Self::Gone => None,
        }
    }
}

/// What came of a body and was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    first: Bytes,
    more: VecDeque<Bytes>,
    small: BytesMut,
    /// All of it, in bytes.
    pub length: usize,
}

impl Arrived {
    pub fn push(&mut self, data: Bytes) {
        if self.length == 0 {
            self.length = data.len();
            self.first = data;
            return;
        }
        self.length += data.len();
        if !self.small.is_empty() || self.more.len() >= MAX_PIECES && data.len() <= SMALL {
            self.small.extend_from_slice(&data);
            if self.small.len() > SMALL {
                self.more.push_back(self.small.split().freeze());
            }
        } else {
            self.more.push_back(data);
        }
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        if self.length == 0 {
            return None;
        }
        let next = self.more.pop_front().unwrap_or_else(|| self.small.split().freeze());
        let data = std::mem::replace(&mut self.first, next);
        self.length -= data.len();
        Some(data)
    }

    /// Drops it all; how much it was.
    pub fn clear(&mut self) -> usize {
        std::mem::take(self).length
    }
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub id: u32,
    /// How many hold it.
    pub handles: u8,
    /// The peer may send, and so may we.
    pub receiving: bool,
    pub sending: bool,
    /// The peer's message came to its end.
    pub whole: bool,
    /// Nobody wants the rest of the peer's message.
    pub unwanted: bool,
    /// An answer's head is awaited.
    pub awaiting: bool,
    /// The answer has no body whatever length it names: HEAD asked for it.
    pub head_only: bool,
    /// It waits in the connection's line for room to send.
    pub in_line: bool,
    /// How many informational answers came.
    pub informational: u8,
    pub head: Option<Head>,
    pub hints: Vec<Head>,
    pub arrived: Arrived,
    pub trailers: Option<HeaderMap>,
    /// What is still to come of the length that the head named.
    pub left: Option<u64>,
    /// Flow control: what the peer may send, what of it was taken and may be sent again, what we may send.
    pub receive_window: i64,
    pub taken: u32,
    pub send_window: i64,
    pub ended: Option<Ended>,
    /// Who waits for something to come, and who for room, or for the end.
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

impl Stream {
    /// Makes it as new, but for its wakers, which are dropped where nothing is borrowed.
    fn vacate(&mut self) -> Wakers {
        let Self { receiving, sending, whole, unwanted, awaiting, head_only, in_line, .. } = self;
        for flag in [receiving, sending, whole, unwanted, awaiting, head_only, in_line] {
            *flag = false;
        }
        (self.id, self.handles, self.informational, self.taken) = (0, 0, 0, 0);
        (self.receive_window, self.send_window) = (0, 0);
        (self.head, self.trailers, self.left, self.ended) = (None, None, None, None);
        self.hints = Vec::new();
        self.arrived.clear();
        (self.reader.take(), self.writer.take())
    }

    pub fn closed(&self) -> bool {
        !self.receiving && !self.sending
    }

    pub fn wake_reader(&self) {
        if let Some(waker) = &self.reader {
            waker.wake_by_ref();
        }
    }

    pub fn wake_writer(&self) {
        if let Some(waker) = &self.writer {
            waker.wake_by_ref();
        }
    }
}

/// Those who waited for a stream.
pub(super) type Wakers = (Option<Waker>, Option<Waker>);

/// All of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The free ones have no id.
    slots: Vec<Stream>,
    free: Vec<u32>,
    /// The id and the slot of those that are not closed, by id.
    open: Vec<(u32, u32)>,
    /// How many places are kept when all are free.
    keep: usize,
    /// The highest id so far.
    pub highest: u32,
    pub resets: Resets,
}

impl Streams {
    pub fn keeping(keep: usize) -> Self {
        Self { keep, ..Self::default() }
    }

    /// How many are not closed.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// How many somebody holds, closed or not.
    pub fn held(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn get(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize).filter(|stream| stream.id != 0)
    }

    pub fn look(&self, slot: u32) -> Option<&Stream> {
        self.slots.get(slot as usize).filter(|stream| stream.id != 0)
    }

    /// The slot of a stream that is not closed.
    pub fn find(&self, id: u32) -> Option<u32> {
        match self.open.last() {
            Some((last, slot)) if *last == id => return Some(*slot),
            Some((last, _)) if *last > id => {}
            _ => return None,
        }
        let at = self.open.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.open.get(at).map(|(_, slot)| *slot)
    }

    /// Takes in a stream whose id is the highest.
    pub fn insert(&mut self, id: u32, fill: impl FnOnce(&mut Stream)) -> u32 {
        self.highest = id;
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots.is_empty() {
                self.slots.reserve_exact(1);
                self.open.reserve_exact(1);
                self.free.reserve_exact(1);
            }
            self.slots.push(Stream::default());
            (self.slots.len() - 1) as u32
        });
        self.open.push((id, slot));
        if let Some(place) = self.slots.get_mut(slot as usize) {
            (place.id, place.handles) = (id, 1);
            fill(place);
        }
        slot
    }

    /// A stream is closed: nothing more comes on it, and nothing goes.
    pub fn close(&mut self, slot: u32) {
        let Some(stream) = self.slots.get_mut(slot as usize) else { return };
        (stream.receiving, stream.sending) = (false, false);
        if let Ok(at) = self.open.binary_search_by_key(&stream.id, |(id, _)| *id) {
            self.open.remove(at);
        }
    }

    /// Empties a slot.
    pub fn remove(&mut self, slot: u32) -> Option<Wakers> {
        let wakers = self.get(slot)?.vacate();
        self.free.push(slot);
        if self.free.len() == self.slots.len() && self.slots.len() > self.keep {
            // What a burst of streams took is given back.
            (self.slots, self.free, self.open) = (Vec::new(), Vec::new(), Vec::new());
        }
        Some(wakers)
    }

    pub fn each(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().filter(|stream| stream.id != 0)
    }

    /// The slots of those that are not closed and whose ids are higher.
    pub fn above(&self, id: u32) -> Vec<u32> {
        self.open.iter().filter(|(open, _)| *open > id).map(|(_, slot)| *slot).collect()
    }
}

/// The streams that we reset while the peer could still send.
#[derive(Debug, Default)]
pub(super) struct Resets {
    last: VecDeque<u32>,
    /// The highest that was forgotten.
    forgotten: u32,
}

impl Resets {
    pub fn note(&mut self, id: u32) {
        if self.last.len() >= MAX_RESETS
            && let Some(first) = self.last.pop_front()
        {
            self.forgotten = self.forgotten.max(first);
        }
        self.last.push_back(id);
    }

    /// Whether what comes on a closed stream may have been sent before its sender knew.
    pub fn tolerates(&self, id: u32) -> bool {
        id <= self.forgotten || self.last.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(streams: &mut Streams, id: u32) -> u32 {
        streams.insert(id, |stream| (stream.receiving, stream.sending) = (true, true))
    }

    #[test]
    fn a_stream_is_found_by_its_id_until_it_is_closed_and_holds_its_slot_until_it_is_let_go() {
        let mut streams = Streams::keeping(1);
        let slots: Vec<u32> = [1, 3, 9, 11].into_iter().map(|id| insert(&mut streams, id)).collect();
        for (id, slot) in [(1, Some(0)), (2, None), (3, Some(1)), (9, Some(2)), (11, Some(3)), (13, None)] {
            assert_eq!(streams.find(id), slot, "{id}");
        }
        streams.close(slots[1]);
        assert_eq!((streams.find(3), streams.open(), streams.held()), (None, 3, 4));
        assert!(streams.look(slots[1]).is_some_and(Stream::closed));
        assert!(streams.remove(slots[1]).is_some() && streams.remove(slots[1]).is_none());
        assert_eq!((insert(&mut streams, 13), streams.find(13)), (1, Some(1)), "its slot is used again");
        assert_eq!(streams.above(9), [3, 1]);
        for slot in slots {
            streams.close(slot);
            streams.remove(slot);
        }
        assert_eq!((streams.held(), streams.slots.capacity()), (0, 0), "nothing is left of a burst");
    }

    #[test]
    fn only_what_we_reset_is_tolerated_and_what_was_forgotten() {
        let mut resets = Resets::default();
        resets.note(5);
        assert!(resets.tolerates(5) && !resets.tolerates(3) && !resets.tolerates(7));
        (1..=MAX_RESETS as u32).for_each(|n| resets.note(100 + n));
        assert!(resets.tolerates(5) && resets.tolerates(3) && !resets.tolerates(7));
        assert!(resets.last.len() == MAX_RESETS);
    }

    #[test]
    fn many_small_pieces_are_copied_together_and_come_out_in_order() {
        let mut arrived = Arrived::default();
        let all: Vec<u8> = (0..60_000u32).map(|i| (i / 3) as u8).collect();
        let mut rest = Bytes::from(all.clone());
        let mut sizes = [1, 7, 5_000, 3, 100, 9_000].into_iter().cycle();
        while !rest.is_empty() {
            arrived.push(rest.split_to(sizes.next().unwrap().min(rest.len())));
        }
        assert_eq!(arrived.length, all.len());
        let mut tiny = Arrived::default();
        (0..10_000).for_each(|_| tiny.push(Bytes::from_static(b"x")));
        assert!(tiny.more.len() < MAX_PIECES + 4, "{} pieces", tiny.more.len());
        let out: Vec<u8> = std::iter::from_fn(|| arrived.pop()).flatten().collect();
        assert!(out == all && arrived.length == 0);
        assert_eq!(std::iter::from_fn(|| tiny.pop()).flatten().count(), 10_000);
    }
}
