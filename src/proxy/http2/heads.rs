//! Header blocks that came: requests, answers, trailers.
//!
//! Every block is decoded, also that of a stream which is not served: both sides' tables must say the same.

use super::super::client1::Head;
use super::super::headers::digits;
use super::super::seen::Seen;
use super::super::wire1::Scratch;
use super::super::wire2::{Code, FrameHead, Refused, flags, kind, put_rst, unpadded};
use super::incoming::{Asked, Broken};
use super::session::{Engine, Role};
use super::{MAX_HINTS, STREAM_WINDOW};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

/// What a header block may be larger than its headers may be together, in bytes, so that it is still decoded and its
/// stream alone refused: an encoder may do badly, and a table's entries are said in one byte.
const ROOM: usize = 64 * 1024;
/// How many frames a header block may have (CVE-2024-27316 and its like); of the size that everybody takes they hold
/// 1 MiB.
const MAX_FRAMES: u32 = 64;
/// How many informational answers may come before the final one.
const MAX_INFORMATIONAL: u8 = 100;

/// A header block that is continued.
#[derive(Debug)]
pub(super) struct Block {
    pub stream: u32,
    end: bool,
    bytes: BytesMut,
    frames: u32,
}

impl Engine {
    pub fn headers(
        &mut self,
        head: FrameHead,
        payload: Bytes,
        scratch: &Scratch,
        place: &mut Option<Asked>,
    ) -> Result<(), Broken> {
        if head.stream == 0 {
            return Err(Broken(Code::PROTOCOL_ERROR, "HEADERS on no stream"));
        }
        let end = head.flags & flags::END_STREAM != 0;
        let block = if head.flags & (flags::PADDED | flags::PRIORITY) == 0 {
            payload
        } else {
            unpadded(FrameHead { kind: kind::HEADERS, ..head }, payload).map_err(|code| Broken(code, "HEADERS"))?
        };
        if head.flags & flags::END_HEADERS != 0 {
            return self.block((head.stream, end), &block, scratch, place);
        }
        let block = Block { stream: head.stream, end, bytes: BytesMut::from(&block[..]), frames: 1 };
        self.block = Some(Box::new(block));
        Ok(())
    }

    pub fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        scratch: &Scratch,
        place: &mut Option<Asked>,
    ) -> Result<(), Broken> {
        let most = self.limits.head + ROOM;
        let Some(block) = &mut self.block else { return Ok(()) };
        block.frames += 1;
        if block.frames > MAX_FRAMES || block.bytes.len() + payload.len() > most {
            return Err(Broken(Code::ENHANCE_YOUR_CALM, "a header block is too long"));
        }
        block.bytes.extend_from_slice(payload);
        if head.flags & flags::END_HEADERS == 0 {
            return Ok(());
        }
        let Some(block) = self.block.take() else { return Ok(()) };
        self.ended = self.ended.wrapping_add(1);
        self.block((block.stream, block.end), &block.bytes, scratch, place)
    }

    fn block(
        &mut self,
        (id, end): (u32, bool),
        block: &[u8],
        scratch: &Scratch,
        place: &mut Option<Asked>,
    ) -> Result<(), Broken> {
        let Some(slot) = self.streams.find(id) else {
            if self.role == Role::Server && self.idle(id) && id % 2 == 1 {
                return self.request((id, end), block, scratch, place);
            }
            if self.idle(id) {
                return Err(Broken(Code::PROTOCOL_ERROR, "HEADERS on no stream"));
            }
            self.skip(block)?;
            return self.tolerate(id);
        };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        if !stream.receiving {
            self.skip(block)?;
            self.mistaken(slot, Code::STREAM_CLOSED, scratch)
        } else if stream.awaiting {
            self.response(slot, end, block, scratch)
        } else {
            self.trailers(slot, end, block, scratch)
        }
    }

    fn skip(&mut self, block: &[u8]) -> Result<(), Broken> {
        self.inflate.skip(block).map_err(undecodable)
    }

    /// A new stream.
    fn request(
        &mut self,
        (id, end): (u32, bool),
        block: &[u8],
        scratch: &Scratch,
        place: &mut Option<Asked>,
    ) -> Result<(), Broken> {
        self.streams.highest = id;
        if self.deaf() {
            // GOAWAY said so.
            return self.skip(block);
        }
        // Those count that were reset, until they are gone: else a client might have any number of them.
        if self.streams.held() >= self.limits.streams as usize {
            self.skip(block)?;
            return self.refuse(id, Code::REFUSED_STREAM, scratch);
        }
        let (parts, seen) = match self.inflate.request(block, self.limits.head, scratch) {
            Ok(request) => request,
            Err(Refused::Connection(code)) => return Err(undecodable(code)),
            Err(Refused::Stream(code)) => return self.malformed(id, code, scratch),
            Err(Refused::TooLarge) => return self.too_large(id, end, scratch),
        };
        let left = match length(&parts.headers, &seen) {
            Ok(Some(left)) if end && left > 0 => return self.malformed(id, Code::PROTOCOL_ERROR, scratch),
            Ok(left) => left,
            Err(code) => return self.malformed(id, code, scratch),
        };
        let window = i64::from(self.peer.window);
        let slot = self.streams.insert(id, |stream| {
            (stream.receiving, stream.sending, stream.whole, stream.left) = (!end, true, end, left);
            (stream.receive_window, stream.send_window) = (i64::from(STREAM_WINDOW), window);
        });
        *place = Some(Asked { slot, parts, seen, whole: end });
        Ok(())
    }

    /// Resets the stream of what is no request.
    fn malformed(&mut self, id: u32, code: Code, scratch: &Scratch) -> Result<(), Broken> {
        self.refused.malformed += 1;
        self.refuse(id, code, scratch)
    }

    /// Answers a request whose headers are too many.
    fn too_large(&mut self, id: u32, end: bool, scratch: &Scratch) -> Result<(), Broken> {
        self.refused.large += 1;
        let (deflate, status) = (&mut self.deflate, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let encode = |out: &mut Vec<u8>| deflate.response(out, status, &HeaderMap::new());
        self.out.block(scratch, (id, true), self.peer.frame, encode);
        if !end {
            self.streams.resets.note(id);
            put_rst(self.out.buffer(scratch), id, Code::NO_ERROR);
        }
        Ok(())
    }

    /// An answer's head, or what is said before it.
    fn response(&mut self, slot: u32, end: bool, block: &[u8], scratch: &Scratch) -> Result<(), Broken> {
        let (parts, seen) = match self.inflate.response(block, self.limits.head, scratch) {
            Ok(response) => response,
            Err(Refused::Connection(code)) => return Err(undecodable(code)),
            Err(Refused::Stream(code)) => return self.mistaken(slot, code, scratch),
            Err(Refused::TooLarge) => return self.mistaken(slot, Code::PROTOCOL_ERROR, scratch),
        };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        let status = parts.status;
        if status.is_informational() {
            stream.informational += 1;
            // HTTP/2 has no 101, and what is informational is not the last.
            if end || status == StatusCode::SWITCHING_PROTOCOLS || stream.informational > MAX_INFORMATIONAL {
                return self.mistaken(slot, Code::PROTOCOL_ERROR, scratch);
            }
            if stream.hints.len() < usize::from(MAX_HINTS) {
                stream.hints.push(Head { parts, seen, lines: None });
                stream.wake_reader();
            }
            return Ok(());
        }
        let bodiless = stream.head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let left = match length(&parts.headers, &seen) {
            Ok(Some(left)) if end && left > 0 && !bodiless => Err(Code::PROTOCOL_ERROR),
            Ok(_) if bodiless => Ok(Some(0)),
            left => left,
        };
        match left {
            Ok(left) => stream.left = left,
            Err(code) => return self.mistaken(slot, code, scratch),
        }
        stream.awaiting = false;
        stream.head = Some(Head { parts, seen, lines: None });
        if end {
            self.received_whole(slot);
        } else {
            stream.wake_reader();
        }
        Ok(())
    }

    fn trailers(&mut self, slot: u32, end: bool, block: &[u8], scratch: &Scratch) -> Result<(), Broken> {
        let trailers = match self.inflate.trailers(block, self.limits.head, scratch) {
            Ok(trailers) => trailers,
            Err(Refused::Connection(code)) => return Err(undecodable(code)),
            Err(Refused::Stream(code)) => return self.mistaken(slot, code, scratch),
            Err(Refused::TooLarge) => return self.mistaken(slot, Code::PROTOCOL_ERROR, scratch),
        };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        if !end || stream.left.is_some_and(|left| left > 0) {
            return self.mistaken(slot, Code::PROTOCOL_ERROR, scratch);
        }
        stream.trailers = Some(trailers);
        self.received_whole(slot);
        Ok(())
    }
}

fn undecodable(code: Code) -> Broken {
    Broken(code, "a header block cannot be decoded")
}

/// The length that a head names.
fn length(headers: &HeaderMap, seen: &Seen) -> Result<Option<u64>, Code> {
    if seen.lengths == 0 {
        return Ok(None);
    }
    let named = headers.get(CONTENT_LENGTH).and_then(|length| digits(length.as_bytes()));
    named.map(Some).ok_or(Code::PROTOCOL_ERROR)
}
