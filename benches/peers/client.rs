//! The client's side of one connection: writes requests, understands answers, and says which requests are done.
//!
//! An answer counts only when it is whole and says 200: anything else is a failure with a name.

use crate::h2::{self, Block, Encoder, Frame, Peer, Received};
use crate::upstream::message;
use std::collections::VecDeque;

const MAX_HEADERS: usize = 64;

/// Why a request had no good answer. The names stand in the results.
pub type Failure = &'static str;

/// What is asked, over and over.
#[derive(Debug, Clone)]
pub struct Asked {
    pub host: String,
    pub path: String,
    /// How many bytes the body of an answer must have.
    pub body: u64,
    pub http2: bool,
    /// A call with a message and trailers, as gRPC has them.
    pub grpc: bool,
}

/// What came in.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The tags of requests that were answered.
    pub done: Vec<u64>,
    /// The tags of requests that the server did not touch and that may be sent again.
    pub refused: Vec<u64>,
    /// The connection is to be closed once nothing is in flight.
    pub closing: bool,
}

/// One connection's protocol.
#[derive(Debug)]
pub enum Client {
    Http1(Http1),
    Http2(Http2),
}

impl Client {
    pub fn new(asked: &Asked, streams: usize) -> Self {
        if asked.http2 { Self::Http2(Http2::new(asked, streams)) } else { Self::Http1(Http1::new(asked)) }
    }

    /// How many requests can be sent now.
    pub fn room(&self) -> usize {
        match self {
            Self::Http1(client) => usize::from(client.tag.is_none()),
            Self::Http2(client) => client.room(),
        }
    }

    pub fn in_flight(&self) -> usize {
        match self {
            Self::Http1(client) => usize::from(client.tag.is_some()),
            Self::Http2(client) => client.in_flight.len(),
        }
    }

    /// Writes a request into `out`.
    pub fn send(&mut self, tag: u64, out: &mut Vec<u8>) {
        match self {
            Self::Http1(client) => client.send(tag, out),
            Self::Http2(client) => client.send(tag, out),
        }
    }

    /// Takes in what was read.
    ///
    /// # Errors
    /// When the answer is not what it should be; the connection is of no use then.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>, incoming: &mut Incoming) -> Result<(), Failure> {
        match self {
            Self::Http1(client) => client.take(bytes, incoming),
            Self::Http2(client) => client.take(bytes, out, incoming),
        }
    }

    /// The requests that have no answer and will get none.
    pub fn abandon(&mut self) -> Vec<u64> {
        match self {
            Self::Http1(client) => client.tag.take().into_iter().collect(),
            Self::Http2(client) => client.in_flight.drain(..).map(|stream| stream.tag).collect(),
        }
    }
}

#[derive(Debug)]
pub struct Http1 {
    request: Vec<u8>,
    body: u64,
    tag: Option<u64>,
    /// The head as far as it has come.
    head: Vec<u8>,
    /// How much of the body is to come, once the head is there.
    remaining: Option<u64>,
    closing: bool,
}

impl Http1 {
    fn new(asked: &Asked) -> Self {
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: pathloom-peers\r\naccept: */*\r\n\r\n",
            asked.path, asked.host
        );
        let request = request.into_bytes();
        Self { request, body: asked.body, tag: None, head: Vec::new(), remaining: None, closing: false }
    }

    fn send(&mut self, tag: u64, out: &mut Vec<u8>) {
        self.tag = Some(tag);
        out.extend_from_slice(&self.request);
    }

    fn take(&mut self, bytes: &[u8], incoming: &mut Incoming) -> Result<(), Failure> {
        let mut rest = bytes;
        if self.remaining.is_none() {
            let kept = self.head.len();
            let whole;
            let head = if kept == 0 {
                rest
            } else {
                self.head.extend_from_slice(rest);
                whole = std::mem::take(&mut self.head);
                &whole
            };
            let Some((length, body)) = self.head(head)? else {
                self.head = head.to_vec();
                return Ok(());
            };
            if body != self.body {
                return Err("wrong length");
            }
            self.remaining = Some(body);
            rest = rest.get(length - kept..).unwrap_or_default();
        }
        let remaining = self.remaining.unwrap_or(0);
        let Some(left) = remaining.checked_sub(rest.len() as u64) else { return Err("too many bytes") };
        self.remaining = Some(left);
        if left == 0 {
            self.remaining = None;
            incoming.done.push(self.tag.take().ok_or("an answer without a request")?);
            incoming.closing = self.closing;
        }
        Ok(())
    }

    /// The head's length and its body's.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<(usize, u64)>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(bytes).map_err(|_| "not HTTP")? else {
            return Ok(None);
        };
        match response.code {
            Some(200) => {}
            Some(400..500) => return Err("status 4xx"),
            Some(502) => return Err("status 502"),
            Some(503) => return Err("status 503"),
            Some(504) => return Err("status 504"),
            _ => return Err("another status"),
        }
        let mut body = None;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                body = std::str::from_utf8(header.value).ok().and_then(|v| v.parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.closing = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some((length, body.ok_or("no content-length")?)))
    }
}

#[derive(Debug)]
pub struct Http2 {
    block: Block,
    /// What follows the headers: a message, or nothing.
    message: Vec<u8>,
    body: u64,
    streams: usize,
    /// Oldest first.
    in_flight: VecDeque<Stream>,
    next: u32,
    peer: Peer,
    received: Received,
    input: Vec<u8>,
    closing: bool,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    tag: u64,
    /// How much of the body has come.
    got: u64,
}

impl Http2 {
    fn new(asked: &Asked, streams: usize) -> Self {
        // Static entries: 2 is GET, 3 is POST, 6 is the scheme http.
        let mut fields = vec![(":authority", asked.host.as_str()), (":path", asked.path.as_str())];
        fields.push(("user-agent", "pathloom-peers"));
        if asked.grpc {
            fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
        } else {
            fields.push(("accept", "*/*"));
        }
        let method = if asked.grpc { 3 } else { 2 };
        Self {
            block: Encoder::new(fields.len()).block(&[method, 6], &fields),
            message: if asked.grpc { message() } else { Vec::new() },
            body: asked.body,
            streams,
            in_flight: VecDeque::new(),
            next: 1,
            peer: Peer::default(),
            received: Received::default(),
            input: Vec::new(),
            closing: false,
        }
    }

    fn room(&self) -> usize {
        if self.closing || self.peer.window < self.message.len() as i64 {
            return 0;
        }
        self.streams.min(self.peer.max_streams as usize).saturating_sub(self.in_flight.len())
    }

    fn send(&mut self, tag: u64, out: &mut Vec<u8>) {
        if self.next == 1 {
            out.extend_from_slice(h2::PREFACE);
            h2::greet(out, true);
        }
        let block = self.block.form(&self.peer, self.next > 1);
        h2::headers(out, self.next, block, self.message.is_empty());
        if !self.message.is_empty() {
            h2::frame(out, h2::DATA, h2::END_STREAM, self.next, &self.message);
            self.peer.window -= self.message.len() as i64;
        }
        self.in_flight.push_back(Stream { id: self.next, tag, got: 0 });
        self.next += 2;
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>, incoming: &mut Incoming) -> Result<(), Failure> {
        if self.input.is_empty() {
            let used = self.frames(bytes, out, incoming)?;
            self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let used = self.frames(&input, out, incoming)?;
            input.drain(..used);
            self.input = input;
        }
        incoming.closing = self.closing;
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8], out: &mut Vec<u8>, incoming: &mut Incoming) -> Result<usize, Failure> {
        let mut rest = bytes;
        while let Some((frame, after)) = Frame::split(rest) {
            rest = after;
            match frame.kind {
                h2::HEADERS | h2::DATA => self.answer(&frame, out, incoming)?,
                h2::SETTINGS if frame.flags & h2::ACK == 0 => {
                    self.peer.settings(frame.payload);
                    h2::frame(out, h2::SETTINGS, h2::ACK, 0, &[]);
                }
                h2::PING if frame.flags & h2::ACK == 0 => h2::frame(out, h2::PING, h2::ACK, 0, frame.payload),
                h2::WINDOW_UPDATE if frame.stream == 0 => self.peer.window += i64::from(frame.number()),
                h2::RST_STREAM => return Err("a stream was reset"),
                h2::GOAWAY => {
                    self.closing = true;
                    let last = frame.number();
                    while let Some(stream) = self.in_flight.pop_back_if(|stream| stream.id > last) {
                        incoming.refused.push(stream.tag);
                    }
                }
                _ => {}
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn answer(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>, incoming: &mut Incoming) -> Result<(), Failure> {
        let at = self.in_flight.iter().position(|stream| stream.id == frame.stream).ok_or("an unknown stream")?;
        let stream = self.in_flight.get_mut(at).ok_or("an unknown stream")?;
        if frame.kind == h2::DATA {
            stream.got += frame.payload.len() as u64;
            self.received.data(out, frame.payload.len());
        } else if stream.got == 0 && !frame.says_200() {
            return Err("another status");
        }
        if frame.ends_stream() {
            if stream.got != self.body {
                return Err("wrong length");
            }
            incoming.done.push(stream.tag);
            self.in_flight.remove(at);
        }
        Ok(())
    }
}
