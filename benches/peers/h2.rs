//! As much of HTTP/2's framing (RFC 9113, section 4) as the load and the upstreams need, and no more.
//!
//! Neither decodes what it is sent: the load looks at the first byte of a response's headers, where every encoder puts
//! `:status: 200` as the static table's entry, and the upstreams answer every request alike. What they send is encoded
//! as a usual client does it: the first block of a connection enters its fields into the dynamic table, and each later
//! one refers to them, a byte a field. So a proxy's decoder works as with real clients, and ours costs next to nothing.
//! Who allows no table (nginx, of its upstreams) gets every field in full each time.

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Every flow-control window's size until somebody says otherwise.
pub const DEFAULT_WINDOW: i64 = 65_535;
/// The window that we give each stream and, by and by, each connection, so that it never slows a proxy down.
const GIVEN_WINDOW: u32 = 1 << 24;
/// The dynamic table's size by default; we enter fewer bytes than this.
const DEFAULT_TABLE: u32 = 4096;

/// A frame as it arrived.
#[derive(Debug)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame in `input`, and what follows it; nothing while it is not complete.
    pub fn split(input: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = input.split_first_chunk::<9>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let (payload, rest) = rest.split_at_checked(u32::from_be_bytes([0, l0, l1, l2]) as usize)?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Some((Self { kind, flags, stream, payload }, rest))
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The number that a WINDOW_UPDATE consists of, and a GOAWAY begins with.
    pub fn number(&self) -> u32 {
        self.payload.first_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n) & 0x7fff_ffff)
    }

    /// Whether response headers say 200. A change of the table's size may come before.
    pub fn says_200(&self) -> bool {
        let padded = self.flags & 0x8 != 0;
        let prioritised = self.flags & 0x20 != 0;
        let skip = usize::from(padded) + if prioritised { 5 } else { 0 };
        let block = self.payload.get(skip..).unwrap_or_default();
        block.iter().find(|byte| *byte & 0xe0 != 0x20).is_some_and(|byte| *byte == 0x88)
    }
}

/// What the other side has told about itself.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub max_streams: u32,
    /// How much may be sent on a new stream, in bytes.
    pub stream_window: i64,
    /// How much may be sent on the connection, in bytes.
    pub window: i64,
    /// Whether it keeps a table of header fields for us.
    pub has_table: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self { max_streams: 100, stream_window: DEFAULT_WINDOW, window: DEFAULT_WINDOW, has_table: true }
    }
}

impl Peer {
    /// Takes SETTINGS in.
    pub fn settings(&mut self, payload: &[u8]) {
        for entry in payload.as_chunks::<6>().0 {
            let [k0, k1, v0, v1, v2, v3] = *entry;
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([k0, k1]) {
                HEADER_TABLE_SIZE => self.has_table = value >= DEFAULT_TABLE,
                MAX_CONCURRENT_STREAMS => self.max_streams = value,
                INITIAL_WINDOW_SIZE => self.stream_window = i64::from(value),
                _ => {}
            }
        }
    }
}

/// Writes a frame.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Writes HEADERS in one frame.
pub fn headers(out: &mut Vec<u8>, stream: u32, block: &[u8], ends: bool) {
    frame(out, HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, block);
}

/// Writes our SETTINGS, and the connection's window.
pub fn greet(out: &mut Vec<u8>, client: bool) {
    let mut payload = Vec::new();
    let mut set = |key: u16, value: u32| {
        payload.extend_from_slice(&key.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    };
    set(INITIAL_WINDOW_SIZE, GIVEN_WINDOW);
    if client {
        set(ENABLE_PUSH, 0);
    } else {
        set(MAX_CONCURRENT_STREAMS, 1000);
    }
    frame(out, SETTINGS, 0, 0, &payload);
    frame(out, WINDOW_UPDATE, 0, 0, &GIVEN_WINDOW.to_be_bytes());
}

/// Counts what was received, and gives the connection's window back by halves.
#[derive(Debug, Default)]
pub struct Received(u32);

impl Received {
    pub fn data(&mut self, out: &mut Vec<u8>, bytes: usize) {
        self.0 += bytes as u32;
        if self.0 >= GIVEN_WINDOW / 2 {
            frame(out, WINDOW_UPDATE, 0, 0, &self.0.to_be_bytes());
            self.0 = 0;
        }
    }
}

/// A header block in its forms.
#[derive(Debug, Clone)]
pub struct Block {
    /// The connection's first: enters the fields into the dynamic table.
    first: Vec<u8>,
    /// Every later one: refers to them.
    later: Vec<u8>,
    /// Without a table. It says that the table is empty now, which is due once and allowed always.
    plain: Vec<u8>,
}

impl Block {
    /// The form for a peer to whom this block was sent before, or not.
    pub fn form(&self, peer: &Peer, was_sent: bool) -> &[u8] {
        match (peer.has_table, was_sent) {
            (false, _) => &self.plain,
            (true, false) => &self.first,
            (true, true) => &self.later,
        }
    }
}

/// Encodes header blocks (RFC 7541) that one connection sends again and again.
#[derive(Debug, Default)]
pub struct Encoder {
    entered: usize,
}

impl Encoder {
    /// How many fields of all blocks will be in the table, once each block was sent once, in order.
    pub fn new(entered: usize) -> Self {
        Self { entered }
    }

    /// A block of static entries, by number, and of fields with names of their own.
    pub fn block(&mut self, fixed: &[u8], fields: &[(&str, &str)]) -> Block {
        let mut first: Vec<u8> = fixed.iter().map(|index| 0x80 | index).collect();
        let mut later = first.clone();
        // A change of the table's size, to nothing.
        let mut plain = vec![0x20];
        plain.extend_from_slice(&first);
        for (name, value) in fields {
            // A literal with a new name and no Huffman code: to be entered, or not.
            for (out, kind) in [(&mut first, 0x40), (&mut plain, 0x00)] {
                out.push(kind);
                for text in [name, value] {
                    out.push(text.len() as u8);
                    out.extend_from_slice(text.as_bytes());
                }
            }
            // The dynamic table's newest entry is number 62; this one has `entered - 1` newer ones in the end.
            later.push(0x80 | (61 + self.entered) as u8);
            self.entered -= 1;
        }
        Block { first, later, plain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_written_once_it_is_complete() {
        let mut wire = Vec::new();
        frame(&mut wire, DATA, END_STREAM, 5, b"hello");
        frame(&mut wire, PING, 0, 0, &[0; 8]);
        assert!(Frame::split(&wire[..13]).is_none());
        let (first, rest) = Frame::split(&wire).unwrap();
        assert_eq!((first.kind, first.stream, first.payload), (DATA, 5, &b"hello"[..]));
        assert!(first.ends_stream());
        assert_eq!(Frame::split(rest).unwrap().0.kind, PING);
    }

    #[test]
    fn only_200_is_taken_for_200() {
        let says = |payload: &[u8]| Frame { kind: HEADERS, flags: 4, stream: 1, payload }.says_200();
        assert!(says(&[0x88]));
        assert!(says(&[0x20, 0x88, 0x5f]), "after a change of the table's size");
        assert!(!says(&[0x8d]), "404");
        assert!(!says(&[0x08, 0x03, b'5', b'0', b'3']));
        assert!(!says(&[]));
    }

    #[test]
    fn later_blocks_refer_to_what_the_first_ones_entered() {
        let mut encoder = Encoder::new(3);
        let head = encoder.block(&[8], &[("a", "1"), ("b", "2")]);
        let trailers = encoder.block(&[], &[("c", "3")]);
        assert_eq!(head.first, [0x88, 0x40, 1, b'a', 1, b'1', 0x40, 1, b'b', 1, b'2']);
        // Newest first: c is 62, b is 63, a is 64.
        assert_eq!(head.later, [0x88, 0x80 | 64, 0x80 | 63]);
        assert_eq!(trailers.later, [0x80 | 62]);
    }

    #[test]
    fn who_keeps_no_table_gets_every_field_in_full_each_time() {
        let block = Encoder::new(1).block(&[8], &[("a", "1")]);
        let mut peer = Peer::default();
        assert_eq!(block.form(&peer, true), block.later);
        peer.settings(&[0, 1, 0, 0, 0, 0]);
        assert_eq!(block.form(&peer, true), [0x20, 0x88, 0x00, 1, b'a', 1, b'1']);
    }
}
