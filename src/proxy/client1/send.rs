//! A request's bytes: the head from its parts, with what every request gets.
//!
//! Which framing the body has was decided with its headers (`headers::to_upstream`): a length, or chunks, said in so
//! many words.

use super::super::added::Added;
use super::super::headers::digits;
use super::super::propagation::Carried;
use super::super::upload::RequestBody;
use super::super::wire1::{Lines, Rest, Scratch, USUAL_HEAD, Writer, announced, line};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};

/// A request on its way out. It goes from connection to connection until one takes it.
#[derive(Default)]
pub(in crate::proxy) struct Sending<B = RequestBody> {
    pub(in crate::proxy) writer: Writer<B>,
    pub(super) method: Method,
    /// The request's map, empty, for the answer's headers.
    pub(in crate::proxy) spare: HeaderMap,
    /// Takes the answer's plain headers, where the client speaks HTTP/1.1.
    pub(in crate::proxy) lines: Option<Lines>,
    /// It may be sent twice.
    pub(in crate::proxy) idempotent: bool,
    /// Where its trace begins in its head.
    trace_at: usize,
}

impl<B> Sending<B> {
    /// Encodes a head, and takes the map that its headers were in. `plain` are those that were not put there.
    pub(in crate::proxy) fn new(
        parts: &mut Parts,
        plain: Option<Lines>,
        added: &Added<'_>,
        body: Option<B>,
        scratch: &Scratch,
    ) -> Self
    where
        B: Default,
    {
        let mut out = scratch.buffer();
        let trace_at = head(parts, plain.as_ref().map_or(&[], Lines::text), added, &mut out);
        if let Some(lines) = plain {
            scratch.recycle(lines.into_text());
        }
        let (method, mut headers) = (parts.method.clone(), std::mem::take(&mut parts.headers));
        let idempotent = method.is_idempotent();
        let rest = match &body {
            None => Rest::Nothing,
            Some(_) if headers.contains_key(TRANSFER_ENCODING) => Rest::Chunked(announced(&headers)),
            Some(_) => {
                // There is one, or it was refused.
                let length = headers.get(CONTENT_LENGTH).and_then(|v| digits(v.as_bytes()));
                length.filter(|l| *l > 0).map_or(Rest::Nothing, Rest::Length)
            }
        };
        // Now, because the headers hold the block that they were read into, which could not be used again.
        headers.clear();
        let writer = Writer::new(out, rest, body.unwrap_or_default());
        Self { writer, method, spare: headers, lines: None, idempotent, trace_at }
    }

    /// Whether it may be sent again although it was written: its method is idempotent, and nothing of a body is gone.
    pub(in crate::proxy) fn repeatable(&self) -> bool {
        !self.writer.pulled && self.idempotent
    }

    /// The same request, to be sent as well; none where not all of it is here.
    pub(in crate::proxy) fn twin(&self, scratch: &Scratch) -> Option<Self>
    where
        B: Default,
    {
        let lent = self.lines.as_ref().map_or(&[][..], Lines::lent);
        let writer = self.writer.twin(lent, scratch.buffer())?;
        let lines = self.lines.as_ref().map(|_| Lines::default());
        let (idempotent, trace_at) = (self.idempotent, self.trace_at);
        Some(Self { writer, method: self.method.clone(), spare: scratch.map(), lines, idempotent, trace_at })
    }

    /// Writes another span over the one that its head names; for what begins anew.
    pub(in crate::proxy) fn retrace(&mut self, trace: &Carried<'_>) {
        let mut lines = Vec::new();
        trace.write(&mut lines);
        if let Some(old) = self.writer.out.get_mut(self.trace_at..).and_then(|out| out.get_mut(..lines.len())) {
            old.copy_from_slice(&lines);
        }
    }

    /// Begins anew; for what is `repeatable`, or whole.
    pub(in crate::proxy) fn rewind(&mut self) {
        if let Some(lines) = &mut self.lines {
            if self.writer.out.is_empty() {
                self.writer.out = lines.reclaim();
            }
            lines.clear();
        }
        self.writer.rewind();
    }
}

/// Encodes a request's head, and says where its trace begins.
fn head(request: &Parts, plain: &[u8], added: &Added<'_>, out: &mut Vec<u8>) -> usize {
    out.reserve(USUAL_HEAD);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri.path_and_query().map_or("/", |p| p.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1");
    for (name, value) in &request.headers {
        line(out, name, value);
    }
    out.extend_from_slice(plain);
    let trace_at = added.write(out);
    out.extend_from_slice(b"\r\n\r\n");
    trace_at
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
