//! Reads an answer's head, as strictly as RFC 9112 lets a proxy be.
//!
//! httparse takes the lines apart; it refuses folded lines, bytes that may not stand in a field, and spaces before a
//! colon. What it leaves open is decided here, and whatever could make two readers disagree on where the answer ends
//! is refused: both `Transfer-Encoding` and `Content-Length`, lengths that differ, a coding other than `chunked`, a
//! coding in an HTTP/1.0 answer (sections 6.1 to 6.3).

use super::super::headers::{digits, one_length};
use super::super::seen::Seen;
use super::super::wire1::{Framing, Header, Kind, LineStart, Lines, Malformed, Names, Options};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;
use std::mem::MaybeUninit;

/// How many headers an answer may have.
const MAX_HEADERS: usize = 100;

/// How many this proxy adds, for which there is room then.
const ADDED: usize = 2;

/// The head of a final answer, or of 101.
#[derive(Debug)]
pub(in crate::proxy) struct Head {
    /// Its headers are without what is for this connection alone and was understood here.
    pub parts: response::Parts,
    /// What is among the headers. Lengths and codings are none any more: they were checked and agree.
    pub seen: Seen,
    /// Those that nobody needs to look at, which are not among the others then.
    pub lines: Option<Lines>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A 1xx other than 101; its head is where it was asked for.
    Informational(StatusCode),
    /// The head is where it was asked for.
    Final(Framing, Keep),
}

/// Whether the endpoint leaves the connection open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Keep(pub bool);

/// Takes one head off the front of `bytes` and puts it at `place`. `spare` is a map that nobody needs any more; `plain`
/// takes the headers of an answer that nobody needs to look at.
pub(in crate::proxy) fn parse(
    bytes: &mut Bytes,
    method: &Method,
    spare: &mut HeaderMap,
    plain: &mut Option<Lines>,
    names: &mut Names,
    place: &mut Option<Head>,
) -> Result<Parsed, Malformed> {
    // httparse skips empty lines before the status; no endpoint has a reason to send them.
    if bytes.first().is_some_and(|b| *b != b'H') {
        return Err(Malformed);
    }
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut []);
    let lines_parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes.as_ref(), &mut lines);
    let length = match lines_parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(_) => return Err(Malformed),
    };
    let status = head.code.and_then(|c| StatusCode::from_u16(c).ok()).ok_or(Malformed)?;
    let informational = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = if informational { HeaderMap::new() } else { std::mem::take(spare) };
    headers.clear();
    headers.reserve(head.headers.len() + ADDED);
    let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut building = Building::new(headers);
    let mut aside = plain.as_mut().filter(|_| !informational);
    building.read(bytes, head.headers, names, aside.as_deref_mut())?;
    let lined = aside.as_ref().is_some_and(|lines| lines.length.is_some());
    let Seen { connection, lengths, codings, .. } = building.seen;
    if (connection || lined && (lengths > 0 || codings > 0 || status == StatusCode::NO_CONTENT))
        && let Some(lines) = aside
    {
        // `Connection` may name any of them, and lengths are to be judged together.
        lines.clear();
        building.headers.clear();
        building = Building::new(building.headers);
        building.read(bytes, head.headers, names, None)?;
    }
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.version) = (status, version);
    if informational {
        parts.headers = building.headers;
        *place = Some(Head { parts, seen: building.seen, lines: None });
        bytes::Buf::advance(bytes, length);
        return Ok(Parsed::Informational(status));
    }
    let framing = building.framing(version, status, method)?;
    let Building { headers, seen, options, .. } = building;
    let keep = !options.close
        && (version == Version::HTTP_11 || options.keep_alive)
        && framing != Framing::Close
        && status != StatusCode::SWITCHING_PROTOCOLS;
    parts.headers = headers;
    if let Some(phrase) = head.reason.filter(|r| status.canonical_reason() != Some(r)) {
        // Passed on to an HTTP/1.1 client as it is.
        parts.extensions.insert(ReasonPhrase::try_from(phrase.as_bytes()).map_err(|_| Malformed)?);
    }
    *place = Some(Head { parts, seen, lines: plain.take() });
    bytes::Buf::advance(bytes, length);
    Ok(Parsed::Final(framing, Keep(keep)))
}

struct Building {
    headers: HeaderMap,
    seen: Seen,
    /// What the lengths so far agree on.
    length: Option<u64>,
    /// A length is none that is only digits: a list, or nonsense.
    listed: bool,
    options: Options,
}

impl Building {
    fn new(headers: HeaderMap) -> Self {
        Self { headers, seen: Seen::default(), length: None, listed: false, options: Options::default() }
    }

    /// Reads all headers; those that nobody needs to look at go to `plain`.
    fn read(
        &mut self,
        bytes: &Bytes,
        lines: &[httparse::Header<'_>],
        names: &mut Names,
        mut plain: Option<&mut Lines>,
    ) -> Result<(), Malformed> {
        for line in lines {
            match (&mut plain, names.known(line.name)) {
                // httparse has looked at the value.
                (Some(plain), Some((Kind::Plain | Kind::Type, start))) => plain.push(start, line.value),
                (Some(plain), Some((Kind::Length, start)))
                    if self.length.is_none()
                        && let Some(length) = digits(line.value) =>
                {
                    (self.length, plain.length) = (Some(length), Some(length));
                    plain.push(start, line.value);
                }
                (plain, _) => self.add(bytes, line, names, plain.as_deref_mut())?,
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        bytes: &Bytes,
        line: &httparse::Header<'_>,
        names: &mut Names,
        aside: Option<&mut Lines>,
    ) -> Result<(), Malformed> {
        let Header { name, value, plain } = names.read(bytes, line)?;
        if let Some(aside) = aside.filter(|_| plain) {
            // All of a name go the same way, so that they keep their order.
            aside.push(&LineStart::of(&name), value.as_bytes());
            return Ok(());
        }
        if plain {
            self.seen.date |= name == DATE;
        } else {
            if !self.understand(&name, line.value)? {
                return Ok(());
            }
            self.seen.note(&name, &value);
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// Reads what is said of the connection and of the body. Whether the header is passed on.
    fn understand(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Malformed> {
        if *name == CONNECTION {
            return Ok(!self.options.read(value));
        }
        if *name == TRANSFER_ENCODING {
            self.seen.codings += 1;
            return if value.eq_ignore_ascii_case(b"chunked") { Ok(false) } else { Err(Malformed) };
        }
        if *name == CONTENT_LENGTH {
            match digits(value) {
                Some(length) if self.length.is_none_or(|l| l == length) => self.length = Some(length),
                Some(_) => return Err(Malformed),
                None => self.listed = true,
            }
        }
        Ok(true)
    }

    /// RFC 9112, section 6.3.
    fn framing(&mut self, version: Version, status: StatusCode, method: &Method) -> Result<Framing, Malformed> {
        let Seen { codings, lengths, .. } = self.seen;
        if lengths > 1 || self.listed {
            self.length = Some(one_length(&mut self.headers, lengths).ok_or(Malformed)?);
        }
        if codings > 1 || (codings == 1 && (lengths > 0 || version == Version::HTTP_10)) {
            return Err(Malformed);
        }
        if lengths > 0 && status == StatusCode::NO_CONTENT {
            self.headers.remove(CONTENT_LENGTH);
        }
        (self.seen.codings, self.seen.lengths) = (0, 0);
        let bodiless = *method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
        Ok(match self.length {
            _ if bodiless => Framing::Length(0),
            _ if codings > 0 => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        })
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
