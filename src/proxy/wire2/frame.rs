//! Frames (RFC 9113, sections 4 and 6): their heads, what a frame may hold, and the short ones written whole.

use super::Code;
use bytes::{Buf, Bytes};

/// What a client says first.
pub(in crate::proxy) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a frame's head takes, in bytes.
pub(in crate::proxy) const HEAD: usize = 9;

/// The kinds of frames.
pub(in crate::proxy) mod kind {
    pub(in crate::proxy) const DATA: u8 = 0x0;
    pub(in crate::proxy) const HEADERS: u8 = 0x1;
    pub(in crate::proxy) const PRIORITY: u8 = 0x2;
    pub(in crate::proxy) const RST_STREAM: u8 = 0x3;
    pub(in crate::proxy) const SETTINGS: u8 = 0x4;
    pub(in crate::proxy) const PUSH_PROMISE: u8 = 0x5;
    pub(in crate::proxy) const PING: u8 = 0x6;
    pub(in crate::proxy) const GOAWAY: u8 = 0x7;
    pub(in crate::proxy) const WINDOW_UPDATE: u8 = 0x8;
    pub(in crate::proxy) const CONTINUATION: u8 = 0x9;
}

/// What a frame's flags say, by its kind.
pub(in crate::proxy) mod flags {
    pub(in crate::proxy) const END_STREAM: u8 = 0x1;
    pub(in crate::proxy) const ACK: u8 = 0x1;
    pub(in crate::proxy) const END_HEADERS: u8 = 0x4;
    pub(in crate::proxy) const PADDED: u8 = 0x8;
    pub(in crate::proxy) const PRIORITY: u8 = 0x20;
}

/// What a HEADERS frame holds of priorities, in bytes.
const PRIORITY: usize = 5;
/// The largest window, and the largest number of a stream.
const MAX_31: u32 = 0x7fff_ffff;
/// The least and the most that a peer may take as its largest frame, in bytes.
const MIN_FRAME_SIZE: u32 = 0x4000;
const MAX_FRAME_SIZE: u32 = 0xff_ffff;

/// How a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct FrameHead {
    /// How many bytes follow.
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHead {
    /// Reads one. `None` where its bytes are not all there.
    pub(in crate::proxy) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        // The first bit means nothing.
        Some(Self { len, kind, flags, stream: u32::from_be_bytes(stream) & MAX_31 })
    }

    /// As it is on the wire: to fill in what was kept free for it.
    pub(in crate::proxy) fn bytes(self) -> [u8; HEAD] {
        let [_, _, _, _, _, a, b, c] = (self.len as u64).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(in crate::proxy) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }
}

/// What a DATA or HEADERS frame holds, without its padding and its priority. `Err`: the connection's error.
pub(in crate::proxy) fn unpadded(head: FrameHead, mut payload: Bytes) -> Result<Bytes, Code> {
    if head.flags & flags::PADDED != 0 {
        let padding = usize::from(*payload.first().ok_or(Code::FRAME_SIZE_ERROR)?);
        payload.advance(1);
        // Padding may take all that is left but no more.
        let left = payload.len().checked_sub(padding).ok_or(Code::PROTOCOL_ERROR)?;
        payload.truncate(left);
    }
    if head.kind == kind::HEADERS && head.flags & flags::PRIORITY != 0 {
        let on = payload.first_chunk::<4>().filter(|_| payload.len() >= PRIORITY).ok_or(Code::FRAME_SIZE_ERROR)?;
        if u32::from_be_bytes(*on) & MAX_31 == head.stream {
            return Err(Code::PROTOCOL_ERROR);
        }
        payload.advance(PRIORITY);
    }
    Ok(payload)
}

/// What a peer says of itself (RFC 9113, section 6.5.2; RFC 8441).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Settings {
    pub header_table_size: Option<u32>,
    pub enable_push: Option<bool>,
    pub max_concurrent_streams: Option<u32>,
    pub initial_window_size: Option<u32>,
    pub max_frame_size: Option<u32>,
    pub max_header_list_size: Option<u32>,
    pub enable_connect_protocol: Option<bool>,
}

impl Settings {
    /// Reads what a frame holds that is no acknowledgement. `Err`: the connection's error.
    pub(in crate::proxy) fn read(payload: &[u8]) -> Result<Self, Code> {
        let mut settings = Self::default();
        let (pairs, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        for &[a, b, c, d, e, f] in pairs {
            let value = u32::from_be_bytes([c, d, e, f]);
            match u16::from_be_bytes([a, b]) {
                0x1 => settings.header_table_size = Some(value),
                0x2 => settings.enable_push = Some(switch(value)?),
                0x3 => settings.max_concurrent_streams = Some(value),
                0x4 if value > MAX_31 => return Err(Code::FLOW_CONTROL_ERROR),
                0x4 => settings.initial_window_size = Some(value),
                0x5 if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&value) => return Err(Code::PROTOCOL_ERROR),
                0x5 => settings.max_frame_size = Some(value),
                0x6 => settings.max_header_list_size = Some(value),
                0x8 => settings.enable_connect_protocol = Some(switch(value)?),
                // What is not known means nothing.
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Writes the whole frame.
    pub(in crate::proxy) fn put(&self, out: &mut Vec<u8>) {
        let all = [
            (0x1u16, self.header_table_size),
            (0x2, self.enable_push.map(u32::from)),
            (0x3, self.max_concurrent_streams),
            (0x4, self.initial_window_size),
            (0x5, self.max_frame_size),
            (0x6, self.max_header_list_size),
            (0x8, self.enable_connect_protocol.map(u32::from)),
        ];
        let len = 6 * all.iter().filter(|(_, value)| value.is_some()).count();
        FrameHead { len, kind: kind::SETTINGS, flags: 0, stream: 0 }.put(out);
        for (id, value) in all {
            if let Some(value) = value {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
    }
}

fn switch(value: u32) -> Result<bool, Code> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Code::PROTOCOL_ERROR),
    }
}

/// Acknowledges the peer's settings.
pub(in crate::proxy) fn put_settings_ack(out: &mut Vec<u8>) {
    FrameHead { len: 0, kind: kind::SETTINGS, flags: flags::ACK, stream: 0 }.put(out);
}

/// Ends a stream at once.
pub(in crate::proxy) fn put_rst(out: &mut Vec<u8>, stream: u32, code: Code) {
    FrameHead { len: 4, kind: kind::RST_STREAM, flags: 0, stream }.put(out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Says that no stream beyond `last` is served.
pub(in crate::proxy) fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code, why: &[u8]) {
    FrameHead { len: 8 + why.len(), kind: kind::GOAWAY, flags: 0, stream: 0 }.put(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(why);
}

/// Asks whether the peer is there, or says that one is.
pub(in crate::proxy) fn put_ping(out: &mut Vec<u8>, ack: bool, data: [u8; 8]) {
    FrameHead { len: 8, kind: kind::PING, flags: if ack { flags::ACK } else { 0 }, stream: 0 }.put(out);
    out.extend_from_slice(&data);
}

/// Allows the peer so many bytes more, on a stream or (0) on the connection.
pub(in crate::proxy) fn put_window_update(out: &mut Vec<u8>, stream: u32, more: u32) {
    FrameHead { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.put(out);
    out.extend_from_slice(&(more & MAX_31).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: u8, flags: u8, len: usize) -> FrameHead {
        FrameHead { len, kind, flags, stream: 5 }
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for len in [0, 1, 0x01_0203, 0xff_ffff] {
            let written = FrameHead { len, kind: kind::CONTINUATION, flags: 0xa5, stream: 0x7fff_fffe };
            let mut out = Vec::new();
            written.put(&mut out);
            assert_eq!((out.len(), FrameHead::read(&out)), (HEAD, Some(written)));
            assert_eq!(FrameHead::read(&out[..8]), None);
            out[5] |= 0x80;
            assert_eq!(FrameHead::read(&out), Some(written), "the reserved bit means nothing");
        }
    }

    #[test]
    fn padding_and_priority_go_and_nothing_else() {
        let strip =
            |kind, flags, bytes: &'static [u8]| unpadded(head(kind, flags, bytes.len()), Bytes::from_static(bytes));
        let (data, headers) = (kind::DATA, kind::HEADERS);
        assert_eq!(strip(data, 0, b"\x01ab").as_deref(), Ok(&b"\x01ab"[..]));
        assert_eq!(strip(data, flags::PADDED, b"\x01ab").as_deref(), Ok(&b"a"[..]));
        assert_eq!(strip(data, flags::PADDED, b"\x02ab").as_deref(), Ok(&b""[..]));
        assert_eq!(strip(data, flags::PADDED, b"\x03ab"), Err(Code::PROTOCOL_ERROR));
        assert_eq!(strip(data, flags::PADDED, b""), Err(Code::FRAME_SIZE_ERROR));
        assert_eq!(strip(data, flags::PRIORITY, b"abcdef").as_deref(), Ok(&b"abcdef"[..]), "DATA has none");
        assert_eq!(strip(headers, flags::PRIORITY, b"\x80\0\0\x01\x10x").as_deref(), Ok(&b"x"[..]));
        assert_eq!(strip(headers, flags::PRIORITY, b"\x80\0\0\x05\x10x"), Err(Code::PROTOCOL_ERROR), "on itself");
        assert_eq!(strip(headers, flags::PRIORITY, b"\0\0\0\x01"), Err(Code::FRAME_SIZE_ERROR));
        let both = flags::PRIORITY | flags::PADDED;
        assert_eq!(strip(headers, both, b"\x02\0\0\0\x01\x10x--").as_deref(), Ok(&b"x"[..]));
        assert_eq!(strip(headers, both, b"\x05\0\0\0\x01\x10xy--"), Err(Code::FRAME_SIZE_ERROR));
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let all = Settings {
            header_table_size: Some(0),
            enable_push: Some(false),
            max_concurrent_streams: Some(7),
            initial_window_size: Some(MAX_31),
            max_frame_size: Some(16_384),
            max_header_list_size: Some(u32::MAX),
            enable_connect_protocol: Some(true),
        };
        for settings in [all, Settings::default(), Settings { max_frame_size: Some(MAX_FRAME_SIZE), ..all }] {
            let mut out = Vec::new();
            settings.put(&mut out);
            let head = FrameHead::read(&out).unwrap();
            assert_eq!((head.len, head.kind, head.stream), (out.len() - HEAD, kind::SETTINGS, 0));
            assert_eq!(Settings::read(&out[HEAD..]), Ok(settings));
        }
    }

    #[test]
    fn settings_beyond_their_limits_are_refused_and_unknown_ones_are_not() {
        let read = |id: u16, value: u32| Settings::read(&[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        assert_eq!(read(2, 2), Err(Code::PROTOCOL_ERROR));
        assert_eq!(read(8, 2), Err(Code::PROTOCOL_ERROR));
        assert_eq!(read(4, 0x8000_0000), Err(Code::FLOW_CONTROL_ERROR));
        assert_eq!(read(5, 16_383), Err(Code::PROTOCOL_ERROR));
        assert_eq!(read(5, 0x100_0000), Err(Code::PROTOCOL_ERROR));
        assert_eq!(read(0x99, 1), Ok(Settings::default()));
        assert_eq!(Settings::read(&[0; 7]), Err(Code::FRAME_SIZE_ERROR));
    }

    #[test]
    fn short_frames_are_what_the_standard_says() {
        let mut out = Vec::new();
        put_settings_ack(&mut out);
        assert_eq!(out, [0, 0, 0, 4, 1, 0, 0, 0, 0]);
        out.clear();
        put_rst(&mut out, 3, Code::CANCEL);
        assert_eq!(out, [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8]);
        out.clear();
        put_goaway(&mut out, 9, Code::ENHANCE_YOUR_CALM, b"why");
        assert_eq!(out, [&[0, 0, 11, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 11][..], b"why"].concat());
        out.clear();
        put_ping(&mut out, true, *b"12345678");
        assert_eq!(out, [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], b"12345678"].concat());
        out.clear();
        put_window_update(&mut out, 1, 65_535);
        assert_eq!(out, [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 255, 255]);
    }
}
