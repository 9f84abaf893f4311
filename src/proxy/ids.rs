//! Who a request is: its `x-request-id`, and its place in a trace (`propagation` has the headers).
//!
//! A sane request id and a valid trace are kept; the parent id becomes a new span id of ours, so that what the endpoint
//! does hangs below this proxy's span: below the request's own, or where spans are exported below that of the try.
//! Anything else starts anew. `tracestate` is left alone, unless `propagation` could not read what it belongs to; so is
//! the `random` flag. (What begins here has random ids, too, and does not say so: older readers may take it amiss.)
//!
//! **Sampling** is the caller's decision where there is one. A trace that begins here is recorded where the last 56 bits
//! of its id are high enough: whoever else decides by that (OpenTelemetry's consistent probability sampling), with a ratio
//! as high or higher, decides alike, and a collector that keeps traces by their end (tail sampling) finds them whole.
//!
//! Ids are written into slices of one buffer a core, so that a request allocates nothing for them most of the time.

use super::propagation::{Caller, TRACEPARENT_LENGTH};
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use rand::Rng;

/// The longest request id of a caller's that is kept.
const MAX_REQUEST_ID: usize = 128;
/// How many bytes of ids are allocated at once.
const ARENA: usize = 4096;

/// A request's place in a trace.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    /// The `traceparent` to pass on: `00-<trace id>-<span id>-<flags>`, with the span that the endpoint's hangs below.
    pub header: [u8; TRACEPARENT_LENGTH],
    /// The request's own span.
    pub span: [u8; 16],
    /// The caller's span, where it named one.
    pub parent: Option<[u8; 16]>,
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// Its caller asked for that whatever anybody decides (B3).
    pub debug: bool,
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
        std::str::from_utf8(&self.span).unwrap_or_default()
    }

    /// Whether the caller said that the trace's id is random.
    pub(super) fn random(&self) -> bool {
        self.header.last().is_some_and(|flags| flags & 2 == 2)
    }

    /// The endpoint's span hangs below a span of the try's own from here on, whose id this is.
    pub(super) fn hang_below(&mut self, rng: &mut impl Rng) -> [u8; 16] {
        let span = hex(rng.next_u64().max(1));
        self.header[36..52].copy_from_slice(&span);
        span
    }

    /// The trace and the request's own span.
    pub(super) fn ids(&self) -> ([u8; 32], [u8; 16]) {
        let trace_id = self.header.get(3..35).and_then(|id| id.try_into().ok()).unwrap_or([b'0'; 32]);
        (trace_id, self.span)
    }

    /// The span that the endpoint's hangs below.
    pub(super) fn below(&self) -> [u8; 16] {
        *self.header.last_chunk::<19>().and_then(|end| end.first_chunk()).unwrap_or(&self.span)
    }

    /// The same, for what hangs below the request's own span.
    pub(super) fn beside(&self) -> Self {
        let mut beside = self.clone();
        beside.header[36..52].copy_from_slice(&self.span);
        beside
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

    /// The trace to pass on: the caller's with a span of ours, or a new one, recorded when `sample` says so of the last
    /// half of its id.
    pub(super) fn trace(&self, caller: Option<Caller>, rng: &mut impl Rng, sample: impl FnOnce(u64) -> bool) -> Trace {
        let mut header = *b"00-00000000000000000000000000000000-0000000000000000-00";
        // Random, but not all zero, which Trace Context forbids.
        let span = hex(rng.next_u64().max(1));
        let Caller { ids, sampled, debug, random, w3c: _ } = caller.unwrap_or_default();
        let (parent, low) = match ids {
            Some((trace_id, span_id)) => {
                header[3..35].copy_from_slice(&trace_id);
                (Some(span_id), None)
            }
            None => {
                let low = rng.next_u64();
                header[3..19].copy_from_slice(&hex(rng.next_u64().max(1)));
                header[19..35].copy_from_slice(&hex(low));
                (None, Some(low))
            }
        };
        let sampled = match (sampled, low) {
            (Some(decided), _) => decided,
            (None, Some(low)) => sample(low),
            (None, None) => sample(
                std::str::from_utf8(&header[19..35]).ok().and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0),
            ),
        };
        header[36..52].copy_from_slice(&span);
        header[54] = b'0' + u8::from(sampled) + 2 * u8::from(random);
        Trace { header, span, parent, sampled, debug }
    }
}

/// Whether a trace that begins here is recorded, by the last half of its id: `share` of 2^32 are.
pub(super) fn sampled(low: u64, share: u64) -> bool {
    // The last 56 bits count; the first 32 of them are as fine as a share needs.
    (low >> 24 & 0xFFFF_FFFF) + share >= 1 << 32
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

    const TRACE: [u8; 32] = *b"4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: [u8; 16] = *b"00f067aa0ba902b7";

    #[test]
    fn a_trace_goes_on_with_a_new_span() {
        let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
        let caller = Caller { ids: Some((TRACE, SPAN)), sampled: Some(true), debug: false, ..Caller::default() };
        let mut trace = ids.trace(Some(caller), &mut rng, |_| false);
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((trace.parent_id(), trace.sampled), (Some("00f067aa0ba902b7"), true));
        assert_ne!(trace.span_id(), "00f067aa0ba902b7");
        let text = |trace: &Trace| std::str::from_utf8(&trace.header).unwrap().to_owned();
        let own = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", trace.span_id());
        assert_eq!(text(&trace), own);
        let below = trace.hang_below(&mut rng);
        assert_ne!(below, trace.span);
        assert_eq!(text(&trace), own.replace(trace.span_id(), std::str::from_utf8(&below).unwrap()));
        assert_eq!(text(&trace.beside()), own);
    }

    #[test]
    fn who_decides_nothing_leaves_it_to_this_proxy() {
        let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
        let undecided = Caller { ids: Some((TRACE, SPAN)), sampled: None, debug: false, ..Caller::default() };
        let trace = ids.trace(Some(undecided), &mut rng, |low| low == 0xa3ce_929d_0e0e_4736);
        assert!(trace.sampled && trace.header.ends_with(b"-01"));
        let alone = Caller { ids: None, sampled: Some(false), debug: false, ..Caller::default() };
        let trace = ids.trace(Some(alone), &mut rng, |_| true);
        assert!(!trace.sampled && trace.parent.is_none() && trace.header.ends_with(b"-00"));
        assert!(ids.trace(None, &mut rng, |_| true).sampled);
    }

    #[test]
    fn a_share_of_new_traces_is_recorded_by_their_ids() {
        assert!(!sampled(u64::MAX, 0) && sampled(0, 1 << 32));
        let half = 1 << 31;
        assert!(sampled(0x0080_0000_0000_0000, half) && !sampled(0xFF7F_FFFF_FFFF_FFFF, half), "56 bits count");
        let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(7));
        let tenth = (0.1 * 2f64.powi(32)) as u64;
        let count = (0..10_000).filter(|_| ids.trace(None, &mut rng, |low| sampled(low, tenth)).sampled).count();
        assert!((900..1_100).contains(&count), "{count}");
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
