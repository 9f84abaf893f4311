//! What stands behind the proxies: endpoints that answer at once, as cheaply as can be.
//!
//! One thread serves all of them, HTTP/1.1 and HTTP/2 with prior knowledge on the same ports. Over HTTP/1.1 the path
//! names the body: `/0`, `/1k`, `/100k`, `/10m`. Over HTTP/2 every request gets what a small gRPC call gets: headers, a
//! message of 64 bytes, and trailers; the request is read to its end and not looked at.

use crate::Fallible;
use crate::h2::{self, Block, Encoder, Frame, Peer, Received};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

/// The bodies by path, in bytes.
pub const BODIES: [(&str, usize); 4] = [("0", 0), ("1k", 1024), ("100k", 100 * 1024), ("10m", 10 * 1024 * 1024)];
/// The message of a call over HTTP/2, in bytes, without gRPC's prefix of five.
pub const MESSAGE: usize = 64;

const MAX_HEADERS: usize = 64;
const READ_AT_ONCE: usize = 256 * 1024;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// An address to listen on; several are several endpoints.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

/// Serves until it is killed.
///
/// # Errors
/// When it cannot listen.
pub fn run(options: &Options) -> Fallible<()> {
    crate::process::raise_open_files();
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for (index, address) in options.listen.iter().enumerate() {
        let mut listener = TcpListener::bind(*address)?;
        poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
        listeners.push(listener);
    }
    let answers = Answers::new();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0; READ_AT_ONCE];
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let token = event.token().0;
            if let Some(listener) = listeners.get(token) {
                while let Ok((mut socket, _)) = listener.accept() {
                    let _ = socket.set_nodelay(true);
                    let index = free.pop().unwrap_or(connections.len());
                    let token = Token(listeners.len() + index);
                    poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
                    let connection = Some(Connection::new(socket));
                    match connections.get_mut(index) {
                        Some(place) => *place = connection,
                        None => connections.push(connection),
                    }
                }
                continue;
            }
            let index = token - listeners.len();
            let Some(place) = connections.get_mut(index) else { continue };
            let lives = place.as_mut().is_some_and(|c| c.serve(&answers, &mut buffer).unwrap_or(false));
            if !lives && place.take().is_some() {
                free.push(index);
            }
        }
    }
}

/// Every answer, ready to be written.
struct Answers {
    http1: Vec<(&'static str, &'static [u8])>,
    unknown: &'static [u8],
    head: Block,
    trailers: Block,
    message: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let http1 = |status: &str, length: usize| -> &'static [u8] {
            let mut answer = format!(
                "HTTP/1.1 {status}\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\nserver: upstream\r\n\
                 content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
            )
            .into_bytes();
            answer.resize(answer.len() + length, b'x');
            // It lives as long as the process.
            Vec::leak(answer)
        };
        let mut encoder = Encoder::new(3);
        Self {
            http1: BODIES.iter().map(|(name, length)| (*name, http1("200 OK", *length))).collect(),
            unknown: http1("404 Not Found", 0),
            head: encoder.block(&[8], &[("content-type", "application/grpc"), ("server", "upstream")]),
            trailers: encoder.block(&[], &[("grpc-status", "0")]),
            message: message(),
        }
    }
}

/// A gRPC message: not compressed, its length, its bytes.
pub fn message() -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&(MESSAGE as u32).to_be_bytes());
    message.resize(5 + MESSAGE, b'x');
    message
}

struct Connection {
    socket: TcpStream,
    /// What was read and not yet understood.
    input: Vec<u8>,
    /// What is left to be written of an HTTP/1.1 answer.
    answer: &'static [u8],
    /// HTTP/2's state, once the client has said its preface.
    http2: Option<Http2>,
}

impl Connection {
    fn new(socket: TcpStream) -> Self {
        Self { socket, input: Vec::new(), answer: &[], http2: None }
    }

    /// Reads and answers what there is; false when the connection is over.
    fn serve(&mut self, answers: &Answers, buffer: &mut [u8]) -> Fallible<bool> {
        self.flush()?;
        loop {
            let read = match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            if self.input.is_empty() {
                let used = self.take(answers, bytes)?;
                self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
            } else {
                let mut input = std::mem::take(&mut self.input);
                input.extend_from_slice(bytes);
                let used = self.take(answers, &input)?;
                input.drain(..used);
                self.input = input;
            }
            self.flush()?;
            if read < buffer.len() {
                return Ok(true);
            }
        }
    }

    /// Understands what it can, and says how many bytes that was.
    fn take(&mut self, answers: &Answers, bytes: &[u8]) -> Fallible<usize> {
        let mut rest = bytes;
        if self.http2.is_none() && rest.starts_with(h2::PREFACE) {
            rest = rest.get(h2::PREFACE.len()..).unwrap_or_default();
            self.http2 = Some(Http2::new());
        }
        if let Some(http2) = &mut self.http2 {
            while let Some((frame, after)) = Frame::split(rest) {
                http2.take(answers, &frame);
                rest = after;
            }
            return Ok(bytes.len() - rest.len());
        }
        // A client that sends its next request early waits: nobody here does.
        while self.answer.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            let httparse::Status::Complete(length) = request.parse(rest)? else { break };
            let name = request.path.unwrap_or_default().trim_start_matches('/');
            self.answer = answers.http1.iter().find(|(n, _)| *n == name).map_or(answers.unknown, |(_, answer)| answer);
            rest = rest.get(length..).unwrap_or_default();
            self.flush()?;
        }
        Ok(bytes.len() - rest.len())
    }

    fn flush(&mut self) -> Fallible<()> {
        loop {
            let pending = match &self.http2 {
                Some(http2) => http2.out.as_slice(),
                None => self.answer,
            };
            if pending.is_empty() {
                return Ok(());
            }
            match self.socket.write(pending) {
                Ok(written) => match &mut self.http2 {
                    Some(http2) => drop(http2.out.drain(..written)),
                    None => self.answer = self.answer.get(written..).unwrap_or_default(),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Http2 {
    peer: Peer,
    received: Received,
    out: Vec<u8>,
    answered: bool,
    /// Requests that wait for the connection's window.
    waiting: VecDeque<u32>,
}

impl Http2 {
    fn new() -> Self {
        let mut out = Vec::new();
        h2::greet(&mut out, false);
        let peer = Peer::default();
        Self { peer, received: Received::default(), out, answered: false, waiting: VecDeque::new() }
    }

    fn take(&mut self, answers: &Answers, frame: &Frame<'_>) {
        match frame.kind {
            h2::SETTINGS if frame.flags & h2::ACK == 0 => {
                self.peer.settings(frame.payload);
                h2::frame(&mut self.out, h2::SETTINGS, h2::ACK, 0, &[]);
            }
            h2::PING if frame.flags & h2::ACK == 0 => h2::frame(&mut self.out, h2::PING, h2::ACK, 0, frame.payload),
            h2::WINDOW_UPDATE if frame.stream == 0 => self.peer.window += i64::from(frame.number()),
            h2::DATA => self.received.data(&mut self.out, frame.payload.len()),
            _ => {}
        }
        if frame.ends_stream() {
            self.waiting.push_back(frame.stream);
        }
        while self.peer.window >= answers.message.len() as i64
            && let Some(stream) = self.waiting.pop_front()
        {
            self.answer(answers, stream);
        }
    }

    fn answer(&mut self, answers: &Answers, stream: u32) {
        h2::headers(&mut self.out, stream, answers.head.form(&self.peer, self.answered), false);
        h2::frame(&mut self.out, h2::DATA, 0, stream, &answers.message);
        h2::headers(&mut self.out, stream, answers.trailers.form(&self.peer, self.answered), true);
        self.peer.window -= answers.message.len() as i64;
        self.answered = true;
    }
}
