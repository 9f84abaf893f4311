//! Frames that came, and what RFC 9113 says to each.
//!
//! A frame is looked at where it was read. What is not whole is kept until it is, but for DATA (`data`).
//!
//! What a peer may not do ends its stream, or the connection where the standard says so, or where the state that both
//! sides share is in doubt.

use super::super::seen::Seen;
use super::super::wire1::Scratch;
use super::super::wire2::{Code, FrameHead, HEAD, PREFACE, Settings, flags, kind, put_rst};
use super::data::Data;
use super::session::{Engine, MAX_31, Role, Session};
use super::streams::Ended;
use bytes::{Buf, Bytes, BytesMut};
use http::request;

/// The largest frame that we take (RFC 9113, section 6.5.2: the least that is allowed, and what everybody sends).
const MAX_FRAME: usize = 16_384;

/// What the peer did ends the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broken(pub Code, pub &'static str);

/// A request that came.
#[derive(Debug)]
pub(in crate::proxy) struct Asked {
    pub(super) slot: u32,
    pub parts: request::Parts,
    pub seen: Seen,
    /// It has no body.
    pub whole: bool,
}

/// What of a frame is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// What a client begins with.
    Preface,
    /// The first frame, which must be the settings.
    First,
    Frame,
    Data(Data),
}

impl Reading {
    pub fn preface(role: Role) -> Self {
        if role == Role::Server { Self::Preface } else { Self::First }
    }

    /// How much of a DATA frame is still to come, which the windows know already.
    #[cfg(test)]
    pub fn under_way(self) -> usize {
        if let Self::Data(data) = self { data.left } else { 0 }
    }
}

/// Works off what was read, up to a request that is to be served.
impl Session {
    pub(in crate::proxy) fn next(&self) -> Option<Asked> {
        let (mut engine, mut asked) = (self.engine.borrow_mut(), None);
        while asked.is_none() {
            if engine.failed {
                engine.input = Bytes::new();
                return None;
            }
            match engine.step(&self.scratch, &mut asked) {
                Ok(Step::On) => {}
                Ok(Step::Wait) => return None,
                Err(Broken(code, why)) => {
                    engine.refused.malformed += 1;
                    engine.fail(code, why, &self.scratch);
                }
            }
        }
        asked
    }
}

pub(super) enum Step {
    On,
    /// More must be read.
    Wait,
}

impl Engine {
    /// Works off a frame, or what there is of it. A request is put at `place`.
    fn step(&mut self, scratch: &Scratch, place: &mut Option<Asked>) -> Result<Step, Broken> {
        match self.reading {
            Reading::Frame | Reading::First => {}
            Reading::Preface => return self.preface(),
            Reading::Data(data) => return self.data_goes_on(data, scratch),
        }
        let Some(head) = self.head()? else { return Ok(Step::Wait) };
        if head.kind == kind::DATA {
            if self.partial.is_empty() {
                self.input.advance(HEAD);
            }
            self.partial = BytesMut::new();
            return self.data_begins(head, scratch).map(|()| Step::On);
        }
        let Some(payload) = self.payload(head) else { return Ok(Step::Wait) };
        self.frame(head, payload, scratch, place).map(|()| Step::On)
    }

    fn preface(&mut self) -> Result<Step, Broken> {
        let known = self.partial.len();
        let wanted = PREFACE.get(known..).unwrap_or_default();
        let part = wanted.len().min(self.input.len());
        if self.input.get(..part) != wanted.get(..part) {
            return Err(Broken(Code::PROTOCOL_ERROR, "no preface"));
        }
        let came = self.input.split_to(part);
        if part < wanted.len() {
            self.partial.extend_from_slice(&came);
            return Ok(Step::Wait);
        }
        self.partial = BytesMut::new();
        self.reading = Reading::First;
        Ok(Step::On)
    }

    /// How the next frame begins, once that is there.
    fn head(&mut self) -> Result<Option<FrameHead>, Broken> {
        let kept = self.partial.len();
        let head = if kept == 0 {
            FrameHead::read(&self.input)
        } else {
            if kept < HEAD {
                let more = self.input.split_to(self.input.len().min(HEAD - kept));
                self.partial.extend_from_slice(&more);
            }
            FrameHead::read(&self.partial)
        };
        let Some(head) = head else {
            self.keep();
            return Ok(None);
        };
        if kept < HEAD {
            self.may_come(head)?;
        }
        Ok(Some(head))
    }

    /// Whether a frame may begin so, which must be known before all of it is kept.
    fn may_come(&mut self, head: FrameHead) -> Result<(), Broken> {
        if head.len > MAX_FRAME {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "a frame is too long"));
        }
        if matches!(self.reading, Reading::First) {
            if head.kind != kind::SETTINGS || head.flags & flags::ACK != 0 {
                return Err(Broken(Code::PROTOCOL_ERROR, "the first frame is none of settings"));
            }
            self.reading = Reading::Frame;
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                Err(Broken(Code::PROTOCOL_ERROR, "a header block was not continued"))
            }
            None if head.kind == kind::CONTINUATION => {
                Err(Broken(Code::PROTOCOL_ERROR, "a CONTINUATION continues nothing"))
            }
            _ => Ok(()),
        }
    }

    /// What follows a frame's head, once that is there; both are taken off what was read.
    fn payload(&mut self, head: FrameHead) -> Option<Bytes> {
        let length = head.len;
        if self.partial.is_empty() {
            if self.input.len() >= HEAD + length {
                self.input.advance(HEAD);
                return Some(self.input.split_to(length));
            }
            self.keep();
            return None;
        }
        let more = (HEAD + length).saturating_sub(self.partial.len()).min(self.input.len());
        let more = self.input.split_to(more);
        self.partial.extend_from_slice(&more);
        if self.partial.len() < HEAD + length {
            self.input = Bytes::new();
            return None;
        }
        let mut whole = std::mem::take(&mut self.partial).freeze();
        // A block goes on beyond its frames (`continuation`).
        let begins_block = head.kind == kind::HEADERS && head.flags & flags::END_HEADERS == 0;
        if !begins_block && head.kind != kind::CONTINUATION {
            self.ended = self.ended.wrapping_add(1);
        }
        whole.advance(HEAD);
        Some(whole)
    }

    fn keep(&mut self) {
        self.partial.extend_from_slice(&self.input);
        self.input = Bytes::new();
    }

    /// A frame other than DATA, all of it.
    fn frame(
        &mut self,
        head: FrameHead,
        payload: Bytes,
        scratch: &Scratch,
        place: &mut Option<Asked>,
    ) -> Result<(), Broken> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, scratch, place)?,
            kind::CONTINUATION => self.continuation(head, &payload, scratch, place)?,
            kind::RST_STREAM => self.rst_stream(head, &payload)?,
            kind::WINDOW_UPDATE => self.window_update(head, &payload, scratch)?,
            kind::SETTINGS => self.settings(head, &payload, scratch)?,
            kind::PING => {
                on_connection(head)?;
                let data = payload.as_ref().try_into().map_err(|_| Broken(Code::FRAME_SIZE_ERROR, "PING"))?;
                self.said_nothing()?;
                self.pinged(head.flags & flags::ACK != 0, data, scratch);
            }
            kind::GOAWAY => {
                on_connection(head)?;
                let (Some(last), Some(code)) = (number(&payload, 0), number(&payload, 4)) else {
                    return Err(Broken(Code::FRAME_SIZE_ERROR, "GOAWAY"));
                };
                self.told(last & MAX_31, Code(code)).map_err(|why| Broken(Code::PROTOCOL_ERROR, why))?;
            }
            kind::PUSH_PROMISE => return Err(Broken(Code::PROTOCOL_ERROR, "push was refused")),
            kind::PRIORITY => {
                self.said_nothing()?;
                if head.stream == 0 {
                    return Err(Broken(Code::PROTOCOL_ERROR, "PRIORITY on no stream"));
                }
                if payload.len() != 5 {
                    match self.streams.find(head.stream) {
                        Some(slot) => self.mistaken(slot, Code::FRAME_SIZE_ERROR, scratch)?,
                        None => return Err(Broken(Code::FRAME_SIZE_ERROR, "PRIORITY")),
                    }
                }
            }
            // What is not known means nothing (RFC 9113, section 5.5).
            _ => self.said_nothing()?,
        }
        Ok(())
    }

    fn rst_stream(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        let code = number(payload, 0).filter(|_| payload.len() == 4);
        let code = code.ok_or(Broken(Code::FRAME_SIZE_ERROR, "RST_STREAM"))?;
        if head.stream == 0 || self.idle(head.stream) {
            return Err(Broken(Code::PROTOCOL_ERROR, "RST_STREAM on no stream"));
        }
        if let Some(slot) = self.streams.find(head.stream) {
            self.end_stream(slot, Ended::Reset(Code(code)));
            if self.role == Role::Server && self.floods.reset() {
                return Err(Broken(Code::ENHANCE_YOUR_CALM, "too many streams were reset"));
            }
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8], scratch: &Scratch) -> Result<(), Broken> {
        let more = number(payload, 0).filter(|_| payload.len() == 4);
        let more = i64::from(more.ok_or(Broken(Code::FRAME_SIZE_ERROR, "WINDOW_UPDATE"))? & MAX_31);
        if head.stream == 0 {
            self.send_window += more;
            if more == 0 {
                return Err(Broken(Code::PROTOCOL_ERROR, "WINDOW_UPDATE of nothing"));
            }
            if self.send_window > i64::from(MAX_31) {
                return Err(Broken(Code::FLOW_CONTROL_ERROR, "the connection's window is too large"));
            }
            self.stir();
            return Ok(());
        }
        if self.idle(head.stream) {
            return Err(Broken(Code::PROTOCOL_ERROR, "WINDOW_UPDATE on no stream"));
        }
        // On a closed one it may have been under way.
        let Some(slot) = self.streams.find(head.stream) else { return Ok(()) };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        stream.send_window += more;
        if more == 0 {
            self.mistaken(slot, Code::PROTOCOL_ERROR, scratch)
        } else if stream.send_window > i64::from(MAX_31) {
            self.mistaken(slot, Code::FLOW_CONTROL_ERROR, scratch)
        } else {
            stream.wake_writer();
            Ok(())
        }
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8], scratch: &Scratch) -> Result<(), Broken> {
        on_connection(head)?;
        if head.flags & flags::ACK != 0 {
            if !payload.is_empty() {
                return Err(Broken(Code::FRAME_SIZE_ERROR, "settings in an acknowledgement"));
            }
            // What we announced is only ever more than what holds without it.
            return Ok(());
        }
        self.said_nothing()?;
        let settings = Settings::read(payload).map_err(|code| Broken(code, "settings"))?;
        self.settle(settings, scratch).map_err(|(code, why)| Broken(code, why))
    }

    /// Whether a stream was never opened.
    pub fn idle(&self, id: u32) -> bool {
        let theirs = id % 2 == 1 && self.role == Role::Server;
        let ours = id % 2 == 1 && self.role == Role::Client;
        !(theirs || ours) || id > self.streams.highest
    }

    /// Something came on a closed stream that may be ignored, or not.
    pub fn tolerate(&self, id: u32) -> Result<(), Broken> {
        if self.streams.resets.tolerates(id) || self.deaf() {
            return Ok(());
        }
        Err(Broken(Code::STREAM_CLOSED, "a frame on a closed stream"))
    }

    /// The peer's mistake ends a stream.
    pub fn mistaken(&mut self, slot: u32, code: Code, scratch: &Scratch) -> Result<(), Broken> {
        // Who sends after the end of its message may go on with that.
        if let Some(stream) = self.streams.look(slot).filter(|stream| !stream.receiving) {
            let id = stream.id;
            self.streams.resets.note(id);
        }
        self.reset(slot, code, scratch);
        self.count_mistake()
    }

    /// The same for one that was not taken in.
    pub fn refuse(&mut self, id: u32, code: Code, scratch: &Scratch) -> Result<(), Broken> {
        self.streams.resets.note(id);
        put_rst(self.out.buffer(scratch), id, code);
        self.count_mistake()
    }

    fn count_mistake(&mut self) -> Result<(), Broken> {
        if self.floods.mistake() {
            return Err(Broken(Code::ENHANCE_YOUR_CALM, "too many streams had to be reset"));
        }
        Ok(())
    }

    pub fn said_nothing(&mut self) -> Result<(), Broken> {
        if self.floods.idle() {
            return Err(Broken(Code::ENHANCE_YOUR_CALM, "too many frames that say nothing"));
        }
        Ok(())
    }
}

fn on_connection(head: FrameHead) -> Result<(), Broken> {
    if head.stream == 0 { Ok(()) } else { Err(Broken(Code::PROTOCOL_ERROR, "a stream's frame is the connection's")) }
}

/// The number that begins there.
fn number(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
