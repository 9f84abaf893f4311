//! Reads a request's head, as strictly as RFC 9112 lets a proxy be.
//!
//! httparse takes the lines apart; it refuses folded lines, bytes that may not stand in a field, and spaces before a
//! colon. What it leaves open is decided here, and whatever could make two readers disagree on where a request ends is
//! refused: a line that does not end in CR LF, more than one `Content-Length`, one that is no number, a coding that
//! does not end in `chunked`, a coding in an HTTP/1.0 request (sections 2.2 and 6.1 to 6.3). Both a coding and a length,
//! and codings beyond `chunked`, are refused with the rest of the headers (`headers::check_lengths`), so that such a
//! request has an id and a line in the log. Empty lines before a request are skipped, as section 2.2 asks.

use super::super::failure::Failure;
use super::super::headers::{digits, members};
use super::super::seen::Seen;
use super::super::wire1::{Framing, Header, Kind, LineStart, Lines, Names, Options};
use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, Version, request};
use std::mem::MaybeUninit;

/// So many headers are taken apart without an allocation.
const USUAL_HEADERS: usize = 100;

/// What a request's head may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Limits {
    /// In bytes, the empty line included.
    pub head: usize,
    pub headers: usize,
}

/// The head of a request.
#[derive(Debug)]
pub(in crate::proxy) struct Head {
    /// Its headers are without what is for this connection alone and was understood here.
    pub parts: request::Parts,
    /// What is among the headers.
    pub seen: Seen,
    /// Those that nobody needs to look at, which are not among the others then.
    pub lines: Option<Lines>,
    /// Where its body ends.
    pub framing: Framing,
    /// The client leaves the connection open.
    pub keep: bool,
    /// The client waits for 100 before it sends the body.
    pub expects: bool,
    /// The client takes trailers.
    pub trailers: bool,
}

fn too_large(detail: &'static str) -> Failure {
    Failure::bad_request(detail).with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

/// The head is larger than it may be.
pub(super) fn too_long() -> Failure {
    too_large("The request's head is too large.")
}

/// Takes one head off the front of `bytes` and puts it at `place`; none when more are needed. `empty` gives what its headers
/// are put into: a map, and lines for those that nobody needs to look at, unless all are to be among the others.
pub(in crate::proxy) fn parse(
    bytes: &mut Bytes,
    limits: Limits,
    empty: impl FnOnce() -> (HeaderMap, Option<Lines>),
    names: &mut Names,
    place: &mut Option<Head>,
) -> Result<(), Failure> {
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    match bytes.as_ref() {
        [] | [b'\r'] => return Ok(()),
        [b'\r' | b'\n', ..] => return Err(Failure::bad_request("An empty line before the request is malformed.")),
        _ => {}
    }
    let taken = if limits.headers <= USUAL_HEADERS {
        let mut lines = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        take(bytes, lines.get_mut(..limits.headers).unwrap_or_default(), empty, names, place)?
    } else {
        take(bytes, &mut vec![MaybeUninit::uninit(); limits.headers], empty, names, place)?
    };
    match taken {
        Some(length) if length > limits.head => {
            *place = None;
            Err(too_long())
        }
        Some(length) => {
            bytes.advance(length);
            Ok(())
        }
        None if bytes.len() > limits.head => Err(too_long()),
        None => Ok(()),
    }
}

/// Reads the head that the block begins with; says how long it is.
fn take<'b>(
    block: &'b Bytes,
    lines: &mut [MaybeUninit<httparse::Header<'b>>],
    empty: impl FnOnce() -> (HeaderMap, Option<Lines>),
    names: &mut Names,
    place: &mut Option<Head>,
) -> Result<Option<usize>, Failure> {
    let mut head = httparse::Request::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut head, block, lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(refusal(error)),
    };
    if !lines_end_well(block.get(..length).unwrap_or_default(), head.headers) {
        return Err(Failure::bad_request("A line of the request's head does not end in CR LF."));
    }
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else { return Ok(None) };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| refusal(httparse::Error::Token))?;
    let version = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let (headers, mut plain) = empty();
    let mut building = Building::new(headers);
    building.read(block, head.headers, names, plain.as_mut())?;
    let usual = building.seen.hosts == 1 && version == Version::HTTP_11 && target.starts_with('/');
    if (building.seen.connection || !usual)
        && let Some(mut lines) = plain.take()
    {
        // `Connection` may name any of them; and `Host` is looked at, or written, among the others.
        lines.clear();
        building.headers.clear();
        building = Building::new(building.headers);
        building.read(block, head.headers, names, None)?;
    }
    let framing = building.framing(version)?;
    let Building { headers, seen, options, .. } = building;
    let both = seen.codings > 0 && seen.lengths > 0;
    let keep = !options.close
        && (version == Version::HTTP_11 || options.keep_alive)
        && !both
        // What follows is for whoever the client wanted to reach.
        && method != Method::CONNECT;
    let expects = seen.expect
        && version == Version::HTTP_11
        && framing != Framing::Length(0)
        && headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let trailers = seen.te && members(&headers, &TE).any(|o| o.eq_ignore_ascii_case(b"trailers"));
    let uri = uri(block, target)?;
    let parts = Request::new(()).into_parts().0;
    let head = place.insert(Head { parts, seen, lines: plain, framing, keep, expects, trailers });
    (head.parts.method, head.parts.uri, head.parts.version, head.parts.headers) = (method, uri, version, headers);
    Ok(Some(length))
}

fn refusal(error: httparse::Error) -> Failure {
    match error {
        httparse::Error::TooManyHeaders => too_large("The request has too many headers."),
        httparse::Error::HeaderName => Failure::bad_request("The name of a header is malformed."),
        httparse::Error::HeaderValue => Failure::bad_request("The value of a header is malformed."),
        httparse::Error::Version => Failure::bad_request("The request's HTTP version is not spoken here."),
        _ => Failure::bad_request("The request's first line is malformed."),
    }
}

/// Whether every line ends in CR LF. httparse takes a bare LF too; a bare CR it refuses itself.
fn lines_end_well(head: &[u8], headers: &[httparse::Header<'_>]) -> bool {
    let begin = head.as_ptr().addr();
    let ended_before = |name: &str| {
        let at = name.as_ptr().addr().wrapping_sub(begin);
        at.checked_sub(2).and_then(|end| head.get(end)) == Some(&b'\r')
    };
    head.ends_with(b"\r\n\r\n") && headers.iter().all(|header| ended_before(header.name))
}

/// The target, which may not have a fragment: `http` would drop that without a word.
fn uri(block: &Bytes, target: &str) -> Result<Uri, Failure> {
    let malformed = || Failure::bad_request("The request's target is malformed.");
    if target.as_bytes().contains(&b'#') {
        return Err(malformed());
    }
    Uri::from_maybe_shared(block.slice_ref(target.as_bytes())).map_err(|_| malformed())
}

struct Building {
    headers: HeaderMap,
    seen: Seen,
    length: Option<u64>,
    options: Options,
}

impl Building {
    fn new(headers: HeaderMap) -> Self {
        Self { headers, seen: Seen::default(), length: None, options: Options::default() }
    }

    /// Reads all headers; those that nobody needs to look at go to `plain`.
    fn read(
        &mut self,
        block: &Bytes,
        lines: &[httparse::Header<'_>],
        names: &mut Names,
        mut plain: Option<&mut Lines>,
    ) -> Result<(), Failure> {
        for line in lines {
            match (&mut plain, names.known(line.name)) {
                // httparse has looked at the value.
                (Some(plain), Some((Kind::Plain, start))) => plain.push(start, line.value),
                (Some(plain), Some((Kind::Host, start))) if self.seen.hosts == 0 => {
                    self.seen.hosts = 1;
                    plain.push_host(start, line.value);
                }
                (plain, _) => self.add(block, line, names, plain.as_deref_mut())?,
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        block: &Bytes,
        line: &httparse::Header<'_>,
        names: &mut Names,
        aside: Option<&mut Lines>,
    ) -> Result<(), Failure> {
        let read = names.read(block, line);
        let Header { name, value, plain } = read.map_err(|_| refusal(httparse::Error::HeaderName))?;
        if let Some(aside) = aside.filter(|_| plain) {
            // All of a name go the same way, so that they keep their order.
            aside.push(&LineStart::of(&name), value.as_bytes());
            return Ok(());
        }
        if !plain {
            if !self.understand(&name, line.value)? {
                return Ok(());
            }
            self.seen.note(&name, &value);
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// Reads what is said of the connection and of the body. Whether others must read it too.
    fn understand(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Failure> {
        if *name == CONNECTION {
            return Ok(!self.options.read(value));
        }
        if *name == CONTENT_LENGTH {
            let length = digits(value).ok_or(Failure::bad_request("The request's length is no number."))?;
            if self.length.replace(length).is_some() {
                return Err(Failure::bad_request("The request has more than one length."));
            }
        }
        Ok(true)
    }

    /// RFC 9112, section 6.3.
    fn framing(&self, version: Version) -> Result<Framing, Failure> {
        if self.seen.codings == 0 {
            return Ok(Framing::Length(self.length.unwrap_or(0)));
        }
        if version == Version::HTTP_10 {
            return Err(Failure::bad_request("The request's version knows no transfer codings."));
        }
        let last = members(&self.headers, &TRANSFER_ENCODING).last();
        if last.is_some_and(|l| l.eq_ignore_ascii_case(b"chunked")) {
            return Ok(Framing::Chunked);
        }
        Err(Failure::bad_request("The request's last transfer coding is not chunked."))
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
