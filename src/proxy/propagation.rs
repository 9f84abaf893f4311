//! A trace in headers: W3C Trace Context (level 2, version 00) and B3, in one header or in several.
//!
//! `telemetry.traces.propagators` says which are read, the first valid one of them wins, and which are written: all of
//! them. Those that are not configured mean nothing here and go on as they came. What is malformed is as good as
//! absent, and counted; the next one is asked then. A `tracestate` belongs to its `traceparent`: it goes on as it came, but
//! not beside one that was malformed (W3C Trace Context, section 4.3), and spans that are exported tell it. So do they the
//! `random` flag, which says that the trace's id is random; it is passed on.
//!
//! **B3.** Trace ids of 64 bits are filled up with zeros. A decision without ids (`b3: 0`) holds for the trace that
//! begins here; ids without a decision leave it to this proxy. `debug` is a decision to record that goes on as such. The
//! caller's own parent (`x-b3-parentspanid`) is not passed on, as OpenTelemetry's specification of propagators has it.
//!
//! A request that is sent again has another span: what was written of a trace is as long each time, so that it can be
//! written over.

use super::ids::{Ids, Trace};
use super::names::{
    B3, TRACEPARENT, TRACESTATE, X_B3_FLAGS, X_B3_PARENT_SPAN_ID, X_B3_SAMPLED, X_B3_SPAN_ID, X_B3_TRACE_ID,
};
use super::seen::Seen;
use super::wire1::Lines;
use crate::config::Propagator;
use http::{HeaderMap, HeaderName, HeaderValue};

/// How long a `traceparent` is.
pub(super) const TRACEPARENT_LENGTH: usize = 55;

/// Which headers carry traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagators {
    /// In the order in which they are asked.
    order: [Option<Propagator>; Propagator::ALL.len()],
    w3c: bool,
    b3: bool,
    b3_multi: bool,
}

impl Propagators {
    pub(super) fn new(configured: &[Propagator]) -> Self {
        let mut order = [None; Propagator::ALL.len()];
        order.iter_mut().zip(configured).for_each(|(slot, p)| *slot = Some(*p));
        let has = |p| configured.contains(&p);
        Self { order, w3c: has(Propagator::TraceContext), b3: has(Propagator::B3), b3_multi: has(Propagator::B3Multi) }
    }

    /// Takes the caller's place in a trace out of the headers, of which none that is written here is left; `malformed` is
    /// called for each that could not be read.
    pub(super) fn take(&self, headers: &mut HeaderMap, seen: &Seen, malformed: impl Fn(Propagator)) -> Option<Caller> {
        let mut found = None;
        for propagator in self.order.into_iter().flatten() {
            let read = match propagator {
                Propagator::TraceContext if seen.traceparent => one(headers, &TRACEPARENT).map(traceparent),
                Propagator::B3 if seen.b3 => one(headers, &B3).map(single),
                Propagator::B3Multi if seen.b3 => several(headers),
                _ => None,
            };
            match read {
                Some(None) => malformed(propagator),
                Some(caller) => found = found.or(caller),
                None => {}
            }
        }
        if seen.traceparent && self.w3c {
            headers.remove(TRACEPARENT);
        }
        if seen.b3 && (self.b3 || self.b3_multi) {
            for name in [B3, X_B3_TRACE_ID, X_B3_SPAN_ID, X_B3_PARENT_SPAN_ID, X_B3_SAMPLED, X_B3_FLAGS] {
                headers.remove(name);
            }
        }
        found
    }
}

/// Removes the `tracestate` of a `traceparent` that could not be read, wherever it stands.
#[cold]
pub(super) fn forget_state(headers: &mut HeaderMap, lines: Option<&mut Lines>) {
    headers.remove(TRACESTATE);
    if let Some(lines) = lines {
        lines.remove(TRACESTATE.as_str());
    }
}

impl Default for Propagators {
    fn default() -> Self {
        Self::new(&[Propagator::TraceContext])
    }
}

/// What a caller says of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// The trace and the caller's span, in hexadecimal digits.
    pub ids: Option<([u8; 32], [u8; 16])>,
    /// Whether it is recorded; none leaves it to this proxy.
    pub sampled: Option<bool>,
    /// It is recorded whatever anybody decides.
    pub debug: bool,
    /// The trace's id is random.
    pub random: bool,
    /// It came in `traceparent`, so that `tracestate` belongs to it.
    pub w3c: bool,
}

/// How much of a `tracestate` is told on spans, in bytes: what every member of a trace should pass on at least.
const MAX_STATE: usize = 512;

/// The `tracestate` of a request, wherever it stands, for its spans; of one that is too long the first members.
#[cold]
pub(super) fn state(headers: &HeaderMap, lines: Option<&Lines>) -> Option<Box<str>> {
    let text = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes);
    let name = TRACESTATE;
    let lines = lines.into_iter().flat_map(|lines| lines.values(name.as_str()));
    let mut state = String::new();
    for members in text.chain(lines).filter_map(|value| std::str::from_utf8(value).ok()).flat_map(|v| v.split(',')) {
        let member = members.trim_matches([' ', '\t']);
        if state.len() + 1 + member.len() > MAX_STATE {
            break;
        }
        if !member.is_empty() {
            state.extend([if state.is_empty() { "" } else { "," }, member]);
        }
    }
    Some(state).filter(|state| !state.is_empty()).map(String::into_boxed_str)
}

/// The value of a header that may stand once; none where there is none, and nothing readable where there are more.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    Some(if all.next().is_some() { b"" } else { first.as_bytes() })
}

/// Reads `version-traceid-parentid-flags`. A version above 00 may have more after the flags, 00 may not; ff is none.
fn traceparent(value: &[u8]) -> Option<Caller> {
    let (version, rest) = (value.get(..2)?, value.get(TRACEPARENT_LENGTH..)?);
    let dashes = [2, 35, 52].iter().all(|i| value.get(*i) == Some(&b'-'));
    let ends = rest.is_empty() || (version != b"00" && rest.first() == Some(&b'-'));
    let (trace_id, span_id) = (value.get(3..)?.first_chunk::<32>()?, value.get(36..)?.first_chunk::<16>()?);
    let flags = value.get(53..55)?;
    let valid = dashes && ends && version != b"ff" && digits(version) && digits(flags);
    let flags = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()?;
    let ids = ids(trace_id, span_id).filter(|_| valid)?;
    // Flags beyond `sampled` and `random` are unknown to version 00 and may not be passed on.
    let (sampled, random) = (Some(flags & 1 == 1), flags & 2 == 2);
    Some(Caller { ids: Some(ids), sampled, debug: false, random, w3c: true })
}

/// Reads `traceid-spanid`, with `-decision` or `-decision-parentspanid` behind it; or a decision alone.
fn single(value: &[u8]) -> Option<Caller> {
    let mut parts = value.split(|b| *b == b'-');
    let first = parts.next()?;
    let (ids, decision) = match parts.next() {
        None => (None, Some(first)),
        Some(span) => (Some(ids(first, span)?), parts.next()),
    };
    let parent = parts.next();
    if parts.next().is_some() || parent.is_some_and(|p| p.len() != 16 || !digits(p)) {
        return None;
    }
    let (sampled, debug) = match decision {
        None => (None, false),
        Some(b"1") => (Some(true), false),
        Some(b"0") => (Some(false), false),
        Some(b"d") => (Some(true), true),
        Some(_) => return None,
    };
    Some(Caller { ids, sampled, debug, ..Caller::default() })
}

/// Reads `x-b3-*`. None where there are none of them.
fn several(headers: &HeaderMap) -> Option<Option<Caller>> {
    let [trace_id, span_id, sampled, flags] =
        [X_B3_TRACE_ID, X_B3_SPAN_ID, X_B3_SAMPLED, X_B3_FLAGS].map(|name| one(headers, &name));
    if [trace_id, span_id, sampled, flags].iter().all(Option::is_none) {
        return None;
    }
    let read = || {
        let ids = match (trace_id, span_id) {
            (None, None) => None,
            (trace_id, span_id) => Some(ids(trace_id?, span_id?)?),
        };
        let debug = match flags {
            None | Some(b"0") => false,
            Some(b"1") => true,
            Some(_) => return None,
        };
        let sampled = match sampled {
            None => None,
            // As older libraries write it.
            Some(b"1" | b"true") => Some(true),
            Some(b"0" | b"false") => Some(false),
            Some(_) => return None,
        };
        let sampled = if debug { Some(true) } else { sampled };
        Some(Caller { ids, sampled, debug, ..Caller::default() })
    };
    Some(read())
}

/// A trace's id of 32 or 16 digits, and a span's of 16; none of them zero.
fn ids(trace: &[u8], span: &[u8]) -> Option<([u8; 32], [u8; 16])> {
    let mut trace_id = [b'0'; 32];
    match trace.len() {
        32 => trace_id.copy_from_slice(trace),
        16 => trace_id.last_chunk_mut::<16>()?.copy_from_slice(trace),
        _ => return None,
    }
    let span_id = *span.first_chunk::<16>().filter(|_| span.len() == 16)?;
    let given = |id: &[u8]| digits(id) && id.iter().any(|d| *d != b'0');
    (given(&trace_id) && given(&span_id)).then_some((trace_id, span_id))
}

fn digits(text: &[u8]) -> bool {
    text.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a request says of its trace to an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carried<'a> {
    traceparent: &'a [u8],
    debug: bool,
    by: Propagators,
}

/// How the lines begin behind another.
const LINE_TRACEPARENT: &[u8] = b"\r\ntraceparent: ";
const LINE_B3: &[u8] = b"\r\nb3: ";
const LINE_TRACE_ID: &[u8] = b"\r\nx-b3-traceid: ";
const LINE_SPAN_ID: &[u8] = b"\r\nx-b3-spanid: ";
const LINE_SAMPLED: &[u8] = b"\r\nx-b3-sampled: ";
const LINE_FLAGS: &[u8] = b"\r\nx-b3-flags: ";

impl<'a> Carried<'a> {
    pub(super) fn new(trace: &'a Trace, by: Propagators) -> Self {
        Self { traceparent: &trace.header, debug: trace.debug, by }
    }

    /// As `traceparent` alone.
    #[cfg(test)]
    pub(super) fn w3c(traceparent: &'a [u8]) -> Self {
        Self { traceparent, debug: false, by: Propagators::default() }
    }

    /// Writes it as lines that begin with the end of the line before. They are as long for each span.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if self.by.w3c {
            out.extend_from_slice(LINE_TRACEPARENT);
            out.extend_from_slice(self.traceparent);
        }
        if self.by.b3 || self.by.b3_multi {
            self.write_b3(out);
        }
    }

    #[inline(never)]
    fn write_b3(&self, out: &mut Vec<u8>) {
        let mut line = |begin, value: &[u8]| {
            out.extend_from_slice(begin);
            out.extend_from_slice(value);
        };
        if self.by.b3 {
            line(LINE_B3, &self.single());
        }
        if self.by.b3_multi {
            line(LINE_TRACE_ID, self.trace_id());
            line(LINE_SPAN_ID, self.span_id());
            match self.decision() {
                b'd' => line(LINE_FLAGS, b"1"),
                decision => line(LINE_SAMPLED, &[decision]),
            }
        }
    }

    /// Puts it among a request's headers, in the place of what is there of it.
    pub(super) fn insert(&self, headers: &mut HeaderMap, ids: &mut Ids) {
        if self.by.w3c {
            headers.insert(TRACEPARENT, ids.value(self.traceparent));
        }
        if self.by.b3 {
            headers.insert(B3, ids.value(&self.single()));
        }
        if self.by.b3_multi {
            headers.insert(X_B3_TRACE_ID, ids.value(self.trace_id()));
            headers.insert(X_B3_SPAN_ID, ids.value(self.span_id()));
            match self.decision() {
                b'd' => headers.insert(X_B3_FLAGS, ids.value(b"1")),
                decision => headers.insert(X_B3_SAMPLED, ids.value(&[decision])),
            };
        }
    }

    fn trace_id(&self) -> &[u8] {
        self.traceparent.get(3..35).unwrap_or_default()
    }

    fn span_id(&self) -> &[u8] {
        self.traceparent.get(36..52).unwrap_or_default()
    }

    fn decision(&self) -> u8 {
        let sampled = self.traceparent.last().is_some_and(|flags| flags & 1 == 1);
        match (self.debug, sampled) {
            (true, _) => b'd',
            (false, true) => b'1',
            (false, false) => b'0',
        }
    }

    fn single(&self) -> Vec<u8> {
        [self.trace_id(), b"-", self.span_id(), b"-", &[self.decision()]].concat()
    }
}

#[cfg(test)]
#[path = "propagation_tests.rs"]
mod tests;
