//! Writes a request: the head from its parts, the body as it comes.
//!
//! What there is of the body when the head is ready goes out in the same write. A frame is asked for only when all
//! before it was written, so back-pressure reaches from socket to socket.
//!
//! Which framing the body has was decided with its headers (`headers::to_upstream`): a length, or chunks, said in so
//! many words. Trailers go on where the request is chunked and announced them (RFC 9110, section 6.6.2), but for fields
//! that may not stand there.

use super::super::added::Added;
use super::super::body::RequestBody;
use super::super::headers::digits;
use super::Scratch;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body, Frame};
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces of a body up to this size are copied behind what is there, in bytes; a write of several parts costs more.
const COPIED: usize = 4 * 1024;
/// What a head takes that has not many headers, in bytes.
const USUAL_HEAD: usize = 1024;

/// What may not stand in trailers (RFC 9110, section 6.5.1).
const FORBIDDEN: [HeaderName; 12] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// Why a request could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// The connection is gone.
    Closed,
    /// Its own body broke off.
    Broken,
}

/// What of the body is to come.
#[derive(Debug, Default)]
enum Rest {
    #[default]
    Nothing,
    Length(u64),
    /// With the trailers that were announced.
    Chunked(Vec<HeaderName>),
}

/// A request on its way out. It goes from connection to connection until one takes it.
#[derive(Default)]
pub(in crate::proxy) struct Sending<B = RequestBody> {
    /// Encoded, and written up to `at`.
    pub(super) out: Vec<u8>,
    at: usize,
    /// Goes after `out`.
    data: Bytes,
    /// Goes after `data`.
    tail: &'static [u8],
    rest: Rest,
    body: B,
    pub(super) method: Method,
    /// The request's map, empty, for the answer's headers.
    pub(super) spare: HeaderMap,
    /// Something was written.
    pub(super) begun: bool,
    /// Something of the body was asked for, so that the request cannot begin anew.
    pulled: bool,
}

impl<B> Sending<B> {
    /// Encodes a head, and takes the map that its headers were in.
    pub(in crate::proxy) fn new(parts: &mut Parts, added: &Added<'_>, body: Option<B>, scratch: &Scratch) -> Self
    where
        B: Default,
    {
        let mut out = scratch.buffer();
        head(parts, added, &mut out);
        let (method, mut headers) = (parts.method.clone(), std::mem::take(&mut parts.headers));
        let rest = match &body {
            None => Rest::Nothing,
            Some(_) if headers.contains_key(TRANSFER_ENCODING) => Rest::Chunked(announced(&headers)),
            Some(_) => {
                // There is one, or it was refused.
                let length = headers.get(CONTENT_LENGTH).and_then(|v| digits(v.as_bytes()));
                length.filter(|l| *l > 0).map_or(Rest::Nothing, Rest::Length)
            }
        };
        // Now, because the headers hold the block that they were read into, which hyper then could not use again.
        headers.clear();
        let (data, tail, body, spare) = (Bytes::new(), &b""[..], body.unwrap_or_default(), headers);
        Self { out, at: 0, data, tail, rest, body, method, spare, begun: false, pulled: false }
    }

    /// Whether all of it was written.
    pub(super) fn done(&self) -> bool {
        self.flushed() && matches!(self.rest, Rest::Nothing)
    }

    fn flushed(&self) -> bool {
        self.at == self.out.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether it may be sent again although it was written: its method is idempotent, and nothing of a body is gone.
    pub(in crate::proxy) fn repeatable(&self) -> bool {
        !self.pulled && self.method.is_idempotent()
    }

    /// Begins anew; for what is `repeatable`.
    pub(in crate::proxy) fn rewind(&mut self) {
        (self.at, self.begun) = (0, false);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    /// Writes as much as there is. Ready when all of the request was written.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), Unwritten>> {
        loop {
            let waits = self.poll_pull(cx)?.is_pending();
            while !self.flushed() {
                ready!(self.poll_write(cx, to)).map_err(|_| Unwritten::Closed)?;
            }
            if matches!(self.rest, Rest::Nothing) {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Asks for the next frame of the body once the one before is written; for the first one at once, so that it goes
    /// with the head.
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        if matches!(self.rest, Rest::Nothing) || (self.pulled && !self.flushed()) {
            return Poll::Ready(Ok(()));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.pulled = true;
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
        }
        let last = self.body.is_end_stream();
        match frame {
            Some(Ok(frame)) => self.take(frame, last)?,
            Some(Err(_)) => return Poll::Ready(Err(Unwritten::Broken)),
            None => self.finish(None)?,
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, frame: Frame<Bytes>, last: bool) -> Result<(), Unwritten> {
        match frame.into_data() {
            Ok(data) => {
                self.put(data)?;
                if last { self.finish(None) } else { Ok(()) }
            }
            Err(frame) => self.finish(frame.into_trailers().ok().as_ref()),
        }
    }

    fn put(&mut self, data: Bytes) -> Result<(), Unwritten> {
        if data.is_empty() {
            // Would be the end where the body is chunked.
            return Ok(());
        }
        match &mut self.rest {
            // More than was announced.
            Rest::Nothing => return Err(Unwritten::Broken),
            Rest::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unwritten::Broken)?;
                if *left == 0 {
                    self.rest = Rest::Nothing;
                }
            }
            Rest::Chunked(_) => {
                // Writing to memory does not fail.
                let _ = write!(self.out, "{:X}\r\n", data.len());
                self.tail = b"\r\n";
            }
        }
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            self.data = data;
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unwritten> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing => Ok(()),
            // Less than was announced.
            Rest::Length(_) => Err(Unwritten::Broken),
            Rest::Chunked(_) if !self.data.is_empty() => {
                self.tail = b"\r\n0\r\n\r\n";
                Ok(())
            }
            Rest::Chunked(announced) => {
                self.out.push(b'0');
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) && !FORBIDDEN.contains(name) {
                        line(&mut self.out, name, value);
                    }
                }
                self.out.extend_from_slice(b"\r\n\r\n");
                Ok(())
            }
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        let head = self.out.get(self.at..).unwrap_or_default();
        let written = if self.data.is_empty() && self.tail.is_empty() {
            ready!(Pin::new(to).poll_write(cx, head))?
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(&self.data), IoSlice::new(self.tail)];
            ready!(Pin::new(to).poll_write_vectored(cx, &parts))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.begun = true;
        self.wrote(written);
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, written: usize) {
        let of_out = written.min(self.out.len().saturating_sub(self.at));
        self.at += of_out;
        let of_data = (written - of_out).min(self.data.len());
        if of_data == self.data.len() {
            self.data = Bytes::new();
        } else {
            bytes::Buf::advance(&mut self.data, of_data);
        }
        self.tail = self.tail.get(written - of_out - of_data..).unwrap_or_default();
    }
}

/// Encodes a request's head.
fn head(request: &Parts, added: &Added<'_>, out: &mut Vec<u8>) {
    out.reserve(USUAL_HEAD);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri.path_and_query().map_or("/", |p| p.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1");
    for (name, value) in &request.headers {
        line(out, name, value);
    }
    added.write(out);
    out.extend_from_slice(b"\r\n\r\n");
}

/// A header as a line that begins with the end of the line before.
fn line(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
}

/// The fields that `Trailer` names.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(TRAILER).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
