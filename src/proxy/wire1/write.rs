//! Writes a message: a head that is there, and a body as it comes.
//!
//! What there is of the body when the head is ready goes out in the same write. A frame is asked for only when all
//! before it was written, so back-pressure reaches from socket to socket.
//!
//! A message that may have to be sent again keeps what was written (`keep`): `out` is not emptied, and pieces that were too
//! large to be copied there stand beside it. So it can begin anew (`rewind`) while no more of its body was taken than is
//! kept.
//!
//! Which framing the body has was decided with the head. Trailers go on where the body is chunked and announced them
//! (RFC 9110, section 6.6.2), but for fields that may not stand there.

use super::super::headers::members;
use super::{LineStart, Malformed};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Pieces of a body up to this size are copied behind what is there, in bytes; a write of several parts costs more.
const COPIED: usize = 4 * 1024;

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

/// Why a message could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Unwritten {
    /// The connection is gone.
    Closed,
    /// Its own body broke off.
    Broken,
}

/// What of the body is to come.
#[derive(Debug, Default)]
pub(in crate::proxy) enum Rest {
    #[default]
    Nothing,
    Length(u64),
    /// With the trailers that were announced.
    Chunked(Vec<HeaderName>),
    /// Until the connection is closed.
    Close,
}

/// What a message is written to.
pub(in crate::proxy) trait Out: AsyncWrite + Unpin {
    /// Writes at once; none when it would have to wait. A socket nearly always takes a message, and needs not be asked
    /// first whether it would.
    fn write_now(&mut self, data: &[u8]) -> Option<io::Result<usize>>;
}

impl Out for TcpStream {
    fn write_now(&mut self, data: &[u8]) -> Option<io::Result<usize>> {
        Some(self.try_write(data)).filter(|w| !w.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock))
    }
}

/// A message on its way out.
#[derive(Default)]
pub(in crate::proxy) struct Writer<B> {
    /// Encoded, and written up to `at`.
    pub out: Vec<u8>,
    at: usize,
    /// Goes after `out`.
    data: Bytes,
    /// Goes after `data`.
    tail: &'static [u8],
    rest: Rest,
    pub body: B,
    /// Something was written.
    pub begun: bool,
    /// Something of the body was asked for.
    pub pulled: bool,
    /// How much more of the body may be kept; none where nothing is kept, or no longer.
    keep: Option<u32>,
    /// What is kept beside `out`.
    large: Vec<Large>,
    /// The next of them to be written.
    next: usize,
}

/// A piece of a body that goes out behind the first `after` bytes of `out`.
#[derive(Clone)]
struct Large {
    after: usize,
    data: Bytes,
    tail: &'static [u8],
}

impl<B> Writer<B> {
    /// A message whose head is in `out`.
    pub(in crate::proxy) fn new(out: Vec<u8>, rest: Rest, body: B) -> Self {
        let (data, large) = (Bytes::new(), Vec::new());
        Self { out, at: 0, data, tail: b"", rest, body, begun: false, pulled: false, keep: None, large, next: 0 }
    }

    /// Keeps what is written, up to so much of the body, so that it can be written again.
    pub(in crate::proxy) fn keep(&mut self, body: usize) {
        self.keep = Some(u32::try_from(body).unwrap_or(u32::MAX));
    }

    /// Whether all that was taken of the message is still there.
    pub(in crate::proxy) fn whole(&self) -> bool {
        self.keep.is_some()
    }

    /// Whether all of it was written.
    pub(in crate::proxy) fn done(&self) -> bool {
        self.flushed() && matches!(self.rest, Rest::Nothing)
    }

    /// The buffer of what is written whole, once.
    pub(in crate::proxy) fn spent(&mut self) -> Option<Vec<u8>> {
        (self.done() && !self.out.is_empty()).then(|| {
            self.at = 0;
            std::mem::take(&mut self.out)
        })
    }

    fn flushed(&self) -> bool {
        self.at == self.out.len() && self.data.is_empty() && self.tail.is_empty() && self.next == self.large.len()
    }

    /// Begins anew; for what is `whole`, or nothing of the body was asked of.
    pub(in crate::proxy) fn rewind(&mut self) {
        (self.at, self.next, self.begun) = (0, 0, false);
        (self.data, self.tail) = (Bytes::new(), b"");
    }

    /// The same message from its beginning, written into `out`, where all of it is here; `lent` is what it was written from,
    /// where an answer has that buffer.
    pub(in crate::proxy) fn twin(&self, lent: &[u8], mut out: Vec<u8>) -> Option<Self>
    where
        B: Default,
    {
        let text = if self.out.is_empty() { lent } else { &self.out };
        if !self.whole() || !matches!(self.rest, Rest::Nothing) || text.is_empty() {
            return None;
        }
        out.extend_from_slice(text);
        let mut twin = Self::new(out, Rest::Nothing, B::default());
        (twin.large, twin.keep) = (self.large.clone(), Some(0));
        Some(twin)
    }

    /// Up to where `out` goes before `data`, or before the next large piece.
    fn bound(&self) -> usize {
        let loaded = !self.data.is_empty() || !self.tail.is_empty();
        let large = if loaded { self.large.get(self.next.wrapping_sub(1)) } else { self.large.get(self.next) };
        large.map_or(self.out.len(), |l| l.after)
    }

    /// Writes what there is, and asks for no more of the body.
    pub(in crate::proxy) fn poll_flush<W: Out>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), Unwritten>> {
        while !self.flushed() {
            ready!(self.poll_write(cx, to)).map_err(|_| Unwritten::Closed)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: Out>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if self.next < self.large.len()
            && self.data.is_empty()
            && self.tail.is_empty()
            && self.at == self.bound()
            && let Some(large) = self.large.get(self.next)
        {
            (self.data, self.tail) = (large.data.clone(), large.tail);
            self.next += 1;
        }
        let head = self.out.get(self.at..self.bound()).unwrap_or_default();
        let written = if self.data.is_empty() && self.tail.is_empty() {
            match to.write_now(head) {
                Some(written) => written?,
                None => ready!(Pin::new(to).poll_write(cx, head))?,
            }
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
        let of_out = written.min(self.bound().saturating_sub(self.at));
        self.at += of_out;
        let of_data = (written - of_out).min(self.data.len());
        if of_data == self.data.len() {
            self.data = Bytes::new();
        } else {
            bytes::Buf::advance(&mut self.data, of_data);
        }
        self.tail = self.tail.get(written - of_out - of_data..).unwrap_or_default();
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
            Rest::Close => {}
        }
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            if self.keep.is_some() {
                self.large.push(Large { after: self.out.len(), data: data.clone(), tail: self.tail });
                self.next = self.large.len();
            }
            self.data = data;
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unwritten> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing | Rest::Close => Ok(()),
            // Less than was announced.
            Rest::Length(_) => Err(Unwritten::Broken),
            Rest::Chunked(_) if !self.data.is_empty() => {
                self.tail = b"\r\n0\r\n\r\n";
                if let Some(large) = self.large.last_mut() {
                    large.tail = self.tail;
                }
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
}

impl<B: Body<Data = Bytes> + Unpin> Writer<B> {
    /// Writes as much as there is. Ready when all of the message was written.
    pub(in crate::proxy) fn poll<W: Out>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Unwritten>> {
        loop {
            let waits = self.poll_pull(cx)?.is_pending();
            ready!(self.poll_flush(cx, to))?;
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
        if let Some(left) = self.keep {
            let size = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
            self.keep = u32::try_from(size).ok().and_then(|size| left.checked_sub(size));
            if self.keep.is_none() {
                (self.large, self.next) = (Vec::new(), 0);
            }
        }
        if self.at == self.out.len() && self.keep.is_none() {
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
}

/// Headers that nobody needs to look at, as lines that begin with the end of the line before: they go from one
/// connection to the other without being put among the rest, which costs several times what it costs to copy them.
///
/// They may stand behind the request that they answer, in its buffer, until it is known that it is not sent again.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Lines {
    text: Vec<u8>,
    /// Where in `text` they begin.
    from: usize,
    /// `Date` is one of them.
    pub dated: bool,
    /// What `Content-Length` says, where that is one of them.
    pub length: Option<u64>,
    /// Where the value of `Host` stands, where that is one of them.
    host: Option<Range<usize>>,
}

impl Lines {
    /// Gives it a buffer, while it is empty. What that holds can be reclaimed where `keep` says so.
    pub(in crate::proxy) fn lend(&mut self, mut buffer: Vec<u8>, keep: bool) {
        if self.text.is_empty() {
            if !keep {
                buffer.clear();
            }
            self.from = buffer.len();
            self.text = buffer;
        }
    }

    /// The buffer that was lent, with what it held then.
    pub(in crate::proxy) fn reclaim(&mut self) -> Vec<u8> {
        self.clear();
        self.from = 0;
        std::mem::take(&mut self.text)
    }

    /// What the buffer held when it was lent.
    pub(in crate::proxy) fn lent(&self) -> &[u8] {
        self.text.get(..self.from).unwrap_or_default()
    }

    pub(in crate::proxy) fn push(&mut self, start: &LineStart, value: &[u8]) {
        self.dated |= start.date;
        self.push_text(&start.text, value);
    }

    /// The same for `Host`.
    pub(in crate::proxy) fn push_host(&mut self, start: &LineStart, value: &[u8]) {
        self.push(start, value);
        self.host = Some(self.text.len() - value.len()..self.text.len());
    }

    /// The value of `Host`.
    pub(in crate::proxy) fn host(&self) -> Option<&[u8]> {
        self.text.get(self.host.clone()?)
    }

    /// The same for a line of ours, which is no date.
    pub(in crate::proxy) fn push_text(&mut self, start: &[u8], value: &[u8]) {
        self.text.extend_from_slice(start);
        self.text.extend_from_slice(value);
    }

    /// The values of all lines of this name.
    pub(in crate::proxy) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.text().split(|b| *b == b'\n').filter_map(move |line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let end = line.iter().position(|b| *b == b':')?;
            let named = line.get(..end)?.eq_ignore_ascii_case(name.as_bytes());
            line.get(end + 1..).filter(|_| named).map(<[u8]>::trim_ascii)
        })
    }

    /// Removes all lines of this name.
    pub(in crate::proxy) fn remove(&mut self, name: &str) {
        let mut at = self.from;
        while let Some(rest) = self.text.get(at..).filter(|rest| !rest.is_empty()) {
            // Behind the end of the line before it.
            let line = rest.get(2..).unwrap_or_default();
            let line = line.windows(2).position(|end| end == b"\r\n").and_then(|end| line.get(..end)).unwrap_or(line);
            let length = 2 + line.len();
            let named = line.iter().position(|b| *b == b':').and_then(|end| line.get(..end));
            if !named.is_some_and(|named| named.eq_ignore_ascii_case(name.as_bytes())) {
                at += length;
                continue;
            }
            self.text.drain(at..self.text.len().min(at + length));
            if let Some(host) = self.host.as_mut().filter(|host| host.start > at) {
                *host = host.start - length..host.end - length;
            }
        }
    }

    /// Puts them among the others, for whoever has no use for text, but for `Host`. Each is a name and a value, as they
    /// were read.
    pub(in crate::proxy) fn put_into(&self, headers: &mut HeaderMap) -> Result<(), Malformed> {
        for line in self.text().strip_prefix(b"\r\n").into_iter().flat_map(|t| t.split(|b| *b == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let end = line.iter().position(|b| *b == b':').ok_or(Malformed)?;
            let (name, value) = (line.get(..end).unwrap_or_default(), line.get(end + 2..).unwrap_or_default());
            if self.host.is_some() && name == b"host" {
                continue;
            }
            let value = HeaderValue::from_bytes(value).map_err(|_| Malformed)?;
            headers.append(HeaderName::from_bytes(name).map_err(|_| Malformed)?, value);
        }
        Ok(())
    }

    pub(in crate::proxy) fn clear(&mut self) {
        self.text.truncate(self.from);
        (self.dated, self.length, self.host) = (false, None, None);
    }

    pub(in crate::proxy) fn text(&self) -> &[u8] {
        self.text.get(self.from..).unwrap_or_default()
    }

    /// The buffer, to be used again.
    pub(in crate::proxy) fn into_text(self) -> Vec<u8> {
        self.text
    }
}

/// A header as a line that begins with the end of the line before.
pub(in crate::proxy) fn line(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
}

/// The fields that `Trailer` names.
pub(in crate::proxy) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    members(headers, &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}
