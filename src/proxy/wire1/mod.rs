//! HTTP/1.1 on the wire, as both sides of the proxy need it: `server1` towards clients, `client1` towards endpoints.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what a core's connections share: blocks to read into, spare buffers and maps |
//! | `names` | headers as they are written again and again |
//! | `decode` | takes a body apart |
//! | `write` | writes a message: its head from its parts, its body as it comes |
//! | `raw` | a connection that speaks another protocol now |
//!
//! **Buffers.** A core reads into one block and cuts what came off its front. When it is passed on before the block is
//! full, which is the rule, the block is its own again and nothing is allocated; a slow reader keeps its part of a
//! block, and the core goes on with a new one. Connections on which nothing is under way hold no memory for bytes.

mod decode;
mod names;
mod raw;
mod write;

pub(super) use decode::{Decoder, Piece};
pub(super) use names::{Header, Kind, LineStart, Names};
pub(super) use raw::{Beside, Raw};
pub(super) use write::{Lines, Out, Rest, Unwritten, Writer, announced, line};

use super::transport::Transport;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};

/// What a head takes that has not many headers, in bytes.
pub(super) const USUAL_HEAD: usize = 1024;
/// What is read at once of a head, or of a short body, in bytes.
pub(super) const READ: usize = 16 * 1024;
/// What a block must have left to be read into once more, in bytes.
const READ_LEAST: usize = 4 * 1024;
/// What is read at once of a long body, in bytes.
const READ_BULK: usize = 64 * 1024;

/// How many buffers, and how many maps, a core keeps for messages to come.
const MAX_SPARE: usize = 64;
/// A map that grew beyond this many headers is not kept.
const MAX_SPARE_HEADERS: usize = 128;

/// The bytes are no HTTP that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A body ended too early, or was malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incomplete;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// What the connections of a core share.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    read: RefCell<BytesMut>,
    bulk: RefCell<BytesMut>,
    /// What is read from a socket on behalf of TLS, which goes on into one of the others.
    ahead: RefCell<BytesMut>,
    pub names: RefCell<Names>,
    /// Empty buffers for messages.
    write: RefCell<Vec<Vec<u8>>>,
    /// Empty maps for headers.
    maps: RefCell<Vec<HeaderMap>>,
}

impl Scratch {
    /// Reads once; what came, none at the end. Says whether it was all that could be read at once.
    ///
    /// What has come since the last look is asked of the runtime first: half of all looks find nothing, and each would go
    /// through the whole of a read to say so.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        long: bool,
    ) -> Poll<io::Result<(Bytes, bool)>> {
        let from = match from {
            Transport::Plain(stream) => stream,
            Transport::Tls(tls) => {
                let mut block = self.block(long);
                let room = block.capacity();
                let read = ready!(tls.poll_read_into(cx, &mut block))?;
                return Poll::Ready(Ok((block.split().freeze(), read >= room)));
            }
        };
        loop {
            ready!(from.poll_read_ready(cx))?;
            let mut block = self.block(long);
            let room = block.capacity();
            match from.try_read_buf(&mut *block) {
                Ok(read) => {
                    if (1..room).contains(&read) {
                        // There is no more, and the kernel will say when there is: as tokio's own reads do, which would
                        // ask for readiness once more.
                        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = from.try_io(Interest::READABLE, nothing);
                    }
                    return Poll::Ready(Ok((block.split().freeze(), read >= room)));
                }
                // It was said to be readable and is not: wait for the next word.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads once into a block of its own: what came, and whether it was all that could be read at once.
    pub(super) fn poll_ahead<S: AsyncRead + Unpin>(
        &self,
        cx: &mut Context<'_>,
        from: &mut S,
    ) -> Poll<io::Result<(Bytes, bool)>> {
        let mut block = self.ahead.borrow_mut();
        if block.capacity() < READ_BULK {
            block.reserve(READ_BULK);
        }
        let room = block.capacity();
        let read = ready!(pin!(from.read_buf(&mut *block)).poll(cx))?;
        Poll::Ready(Ok((block.split().freeze(), read >= room)))
    }

    /// A block with room to be read into.
    fn block(&self, long: bool) -> RefMut<'_, BytesMut> {
        let (block, least, room) =
            if long { (&self.bulk, READ_BULK, READ_BULK) } else { (&self.read, READ_LEAST, READ) };
        let mut block = block.borrow_mut();
        if block.capacity() < least {
            block.reserve(room);
        }
        block
    }

    /// An empty buffer.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.write.borrow_mut().pop().unwrap_or_default()
    }

    /// An empty buffer for lines.
    pub(super) fn lines(&self) -> Lines {
        let mut lines = Lines::default();
        lines.lend(self.buffer(), false);
        lines
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.write.borrow_mut();
        if buffers.len() < MAX_SPARE && buffer.capacity() <= READ && buffer.capacity() > 0 {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// An empty map.
    pub(super) fn map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back, with nothing in it.
    pub(super) fn recycle_map(&self, mut map: HeaderMap) {
        map.clear();
        let mut maps = self.maps.borrow_mut();
        if maps.len() < MAX_SPARE && (1..=MAX_SPARE_HEADERS).contains(&map.capacity()) {
            maps.push(map);
        }
    }
}

/// Whether the end of a head may stand in these bytes, `seen` of which were looked at before. A head that comes in
/// many pieces would otherwise be parsed from its start for each.
pub(super) fn may_end(bytes: &[u8], seen: usize) -> bool {
    let new = bytes.get(seen.saturating_sub(2)..).unwrap_or_default();
    new.windows(2).any(|w| w == b"\n\n") || new.windows(3).any(|w| w == b"\n\r\n")
}

/// What `Connection` says of the connection itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub close: bool,
    pub keep_alive: bool,
}

impl Options {
    /// Reads a line of it. `false` when it says more, which others must read.
    pub(super) fn read(&mut self, options: &[u8]) -> bool {
        let mut understood = true;
        for option in options.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                understood = false;
            }
        }
        understood
    }
}
