//! Who a request is: its `x-request-id`, and its place in a trace by W3C Trace Context (level 1, version 00).
//!
//! A sane request id and a valid `traceparent` are kept; the parent id becomes a new span id of ours, so that what the
//! endpoint does hangs below this proxy's span. Anything else starts anew. `tracestate` is left alone.
//!
//! Ids are written into slices of one buffer a core, so that a request allocates nothing for them most of the time.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use rand::Rng;

/// The longest request id of a caller's that is kept.
const MAX_REQUEST_ID: usize = 128;
/// How many bytes of ids are allocated at once.
const ARENA: usize = 4096;
const TRACEPARENT: usize = 55;

/// A request's place in a trace.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    /// The `traceparent` to pass on: `00-<trace id>-<our span id>-<flags>`.
    pub header: [u8; TRACEPARENT],
    /// The caller's span, where it named one.
    pub parent: Option<[u8; 16]>,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl Trace {
    fn part(&self, range: std::ops::Range<usize>) -> &str {
        self.header.get(range).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    /// 32 hexadecimal digits.
    pub(super) fn trace_id(&self) -> &str {
        self.part(3..35)
    }

    /// 16 hexadecimal digits.
    pub(super) fn span_id(&self) -> &str {
        self.part(36..52)
    }

    /// The caller's span: 16 hexadecimal digits.
    pub(super) fn parent_id(&self) -> Option<&str> {
        self.parent.as_ref().and_then(|p| std::str::from_utf8(p).ok())
    }
}

/// One core's maker of ids.
#[derive(Debug, Default)]
pub(super) struct Ids {
    arena: BytesMut,
}

impl Ids {
    /// A header's value of these bytes, which are visible ones. It is marked as one that HTTP/2 keeps out of its table of
    /// values that come again: it never does, and the table is searched from end to end for it.
    pub(super) fn value(&mut self, bytes: &[u8]) -> HeaderValue {
        if self.arena.capacity() < bytes.len() {
            self.arena = BytesMut::with_capacity(ARENA);
        }
        self.arena.extend_from_slice(bytes);
        let bytes: Bytes = self.arena.split().freeze();
        // Hexadecimal digits and dashes are always a value.
        let mut value = HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static("0"));
        value.set_sensitive(true);
        value
    }

    /// The caller's request id when it is sane, else a new one; and whether it is new. The caller's is copied: a part of
    /// the block that the request was read into would keep the core from using that again.
    pub(super) fn request_id(&mut self, given: Option<&HeaderValue>, rng: &mut impl Rng) -> (HeaderValue, bool) {
        let sane = |id: &&HeaderValue| {
            (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        match given.filter(sane) {
            Some(id) => (self.value(id.as_bytes()), false),
            None => {
                let mut id = [0; 32];
                id[..16].copy_from_slice(&hex(rng.next_u64()));
                id[16..].copy_from_slice(&hex(rng.next_u64()));
                (self.value(&id), true)
            }
        }
    }

    /// The trace to pass on: the caller's with a span of ours, or a new one, recorded when `sample` says so.
    pub(super) fn trace(
        &self,
        given: Option<&HeaderValue>,
        rng: &mut impl Rng,
        sample: impl FnOnce(u32) -> bool,
    ) -> Trace {
        let mut header = *b"00-00000000000000000000000000000000-0000000000000000-00";
        // Random, but not all zero, which Trace Context forbids.
        let span = rng.next_u64().max(1);
        let (parent, sampled) = match given.and_then(|v| parse(v.as_bytes())) {
            Some(Caller { trace_id, span_id, flags }) => {
                header[3..35].copy_from_slice(trace_id);
                // Flags beyond `sampled` are unknown to version 00 and may not be passed on.
                (Some(*span_id), flags & 1 == 1)
            }
            None => {
                header[3..19].copy_from_slice(&hex(rng.next_u64().max(1)));
                header[19..35].copy_from_slice(&hex(rng.next_u64()));
                (None, sample(rng.next_u32()))
            }
        };
        header[36..52].copy_from_slice(&hex(span));
        header[54] = if sampled { b'1' } else { b'0' };
        Trace { header, parent, sampled }
    }
}

struct Caller<'a> {
    trace_id: &'a [u8; 32],
    span_id: &'a [u8; 16],
    flags: u8,
}

/// Reads `version-traceid-parentid-flags`. A version above 00 may have more after the flags, 00 may not; ff is none.
fn parse(value: &[u8]) -> Option<Caller<'_>> {
    let (version, rest) = (value.get(..2)?, value.get(TRACEPARENT..)?);
    let dashes = [2, 35, 52].iter().all(|i| value.get(*i) == Some(&b'-'));
    let ends = rest.is_empty() || (version != b"00" && rest.first() == Some(&b'-'));
    let (trace_id, span_id) = (value.get(3..)?.first_chunk::<32>()?, value.get(36..)?.first_chunk::<16>()?);
    let flags = value.get(53..55)?;
    let digits = |b: &[u8]| b.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |b: &[u8]| b.iter().all(|c| *c == b'0');
    let valid = dashes
        && ends
        && version != b"ff"
        && [version, trace_id, span_id, flags].iter().all(|b| digits(b))
        && !zero(trace_id)
        && !zero(span_id);
    let flags = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()?;
    valid.then_some(Caller { trace_id, span_id, flags })
}

/// Lower-case digits, four bytes at once: each half byte is spread to a byte of its own, and gets the letters' distance
/// where it is above nine.
#[inline]
fn hex(word: u64) -> [u8; 16] {
    let half = |word: u64| {
        let spread = (word | (word << 16)) & 0x0000_FFFF_0000_FFFF;
        let spread = (spread | (spread << 8)) & 0x00FF_00FF_00FF_00FF;
        let spread = (spread | (spread << 4)) & 0x0F0F_0F0F_0F0F_0F0F;
        let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        spread + 0x3030_3030_3030_3030 + letters * 0x27
    };
    (u128::from(half(word >> 32)) << 64 | u128::from(half(word & 0xFFFF_FFFF))).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    fn value(text: &str) -> HeaderValue {
        text.parse().unwrap()
    }

    #[test]
    fn a_valid_trace_goes_on_with_a_new_span() {
        let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
        let given = value("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let trace = ids.trace(Some(&given), &mut rng, |_| false);
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((trace.parent_id(), trace.sampled), (Some("00f067aa0ba902b7"), true));
        assert_ne!(trace.span_id(), "00f067aa0ba902b7");
        let text = std::str::from_utf8(&trace.header).unwrap();
        assert!(parse(text.as_bytes()).is_some() && text.len() == TRACEPARENT && text.ends_with("-01"), "{text}");
    }

    #[test]
    fn an_invalid_trace_starts_anew() {
        let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let trace = ids.trace(Some(&value(bad)), &mut rng, |_| false);
            assert_ne!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736", "{bad}");
            assert_eq!((trace.parent_id(), trace.sampled), (None, false), "{bad}");
        }
        let later = value("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more");
        let trace = ids.trace(Some(&later), &mut rng, |_| false);
        assert!(trace.header.starts_with(b"00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(trace.header.ends_with(b"-01"), "unknown flags are dropped");
        assert!(ids.trace(None, &mut rng, |_| true).sampled);
    }

    #[test]
    fn digits_are_written_for_every_byte() {
        for byte in 0..=255u8 {
            let word = u64::from_be_bytes([byte, 0x09, 0xaf, 255 - byte, 0, byte, 0x1f, 0xe0]);
            assert_eq!(std::str::from_utf8(&hex(word)).unwrap(), format!("{word:016x}"));
        }
    }

    #[test]
    fn sane_request_ids_stay_and_others_are_replaced() {
        let (mut ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
        assert_eq!(ids.request_id(Some(&value("abc-1")), &mut rng), (value("abc-1"), false));
        let long = "x".repeat(129);
        for bad in ["", "with space", &long] {
            let (id, new) = ids.request_id(Some(&value(bad)), &mut rng);
            assert!(new && id.len() == 32 && id.as_bytes().iter().all(u8::is_ascii_hexdigit));
        }
        let all: std::collections::BTreeSet<_> =
            (0..1000).map(|_| ids.request_id(None, &mut rng).0.to_str().unwrap().to_owned()).collect();
        assert_eq!(all.len(), 1000);
    }
}
