//! A connection's state, which its task and its streams share: one thread's, without locks.
//!
//! | file | what of it |
//! | --- | --- |
//! | `session` | the state itself, settings, its beginning and its end |
//! | `incoming` | frames that came |
//! | `heads`, `data` | header blocks that came, and bodies |
//! | `streams` | streams, and which ids are whose |
//! | `ending` | how streams end |
//! | `output` | frames that go |
//! | `sending` | who may send how much, and when |
//! | `handle` | a stream, as who serves it or asks for it sees it |
//! | `floods` | what is too much |
//!
//! The task gives it what was read (`feed`), asks for what there is to do (`next`), and writes (`poll_flush`). Who has
//! something to say outside of the task's turn wakes it (`rouse`), once.
//!
//! **What a connection holds** is bounded: what was read and not taken by the flow-control windows that we give; what
//! waits to be written by `MAX_WAITING` of bodies, and by not reading on (`may_read`) while more than `MAX_ANSWERS` of
//! everything else waits: a peer that reads nothing is not listened to. Bodies do not count there: two peers that both
//! wait for the other to read would wait for ever.
//!
//! **Leaving in good order** (RFC 9113, section 6.8): GOAWAY with the highest number there is and a ping; when that
//! comes back the peer knows, so that GOAWAY with the last stream follows, and the end with the last stream's.

use super::super::transport::Transport;
use super::super::wire1::Scratch;
use super::super::wire2::{
    Code, Deflate, HEAD, Inflate, Settings, put_goaway, put_ping, put_settings_ack, put_window_update,
};
use super::floods::Floods;
use super::heads::Block;
use super::incoming::Reading;
use super::output::Output;
use super::streams::{Ended, Streams};
use super::{CONNECTION_WINDOW, MAX_HELD, STREAM_WINDOW};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// What of bodies waits to be written, a connection, in bytes.
pub(super) const MAX_WAITING: usize = 64 * 1024;
/// While more than this waits beside bodies, nothing is read, in bytes.
const MAX_ANSWERS: usize = 256 * 1024;
/// The largest window (RFC 9113, section 6.9.1), and the largest id.
pub(super) const MAX_31: u32 = 0x7fff_ffff;
/// Before a peer says otherwise (RFC 9113, section 6.5.2).
const FIRST_WINDOW: u32 = 65_535;
const FIRST_FRAME: usize = 16_384;
const FIRST_TABLE: usize = 4_096;
/// How many requests may be under way before the endpoint has said how many it takes: the least that the standard
/// recommends to allow.
const FIRST_STREAMS: usize = 100;
/// What our pings hold: one asks whether the peer is there, the other whether it knows that we leave.
const ASK: [u8; 8] = *b"pathloom";
const LEAVE: [u8; 8] = *b"leaving!";

/// What came in the place of requests, as counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Refused {
    /// Heads that are too large.
    pub large: u32,
    /// What is not HTTP/2, or no request: its stream was reset, or the connection ended.
    pub malformed: u32,
}

/// Which side of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Role {
    Server,
    Client,
}

/// What a peer is told, and held to.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Limits {
    pub streams: u32,
    /// What the headers of a message may take: 32 bytes each beside name and value (RFC 9113, section 6.5.2).
    pub head: usize,
}

/// What a peer takes.
#[derive(Debug)]
pub(super) struct Peer {
    pub window: u32,
    pub frame: usize,
    pub streams: usize,
    /// Its settings came.
    pub known: bool,
}

/// How far we are with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told, and may not know yet.
    Told,
    /// It knows: no stream above this one is served.
    Known(u32),
}

/// A connection, as all who use it share it.
#[derive(Debug)]
pub(in crate::proxy) struct Session {
    pub(super) scratch: Rc<Scratch>,
    pub(super) engine: RefCell<Engine>,
}

/// A connection's state.
#[derive(Debug)]
pub(super) struct Engine {
    pub role: Role,
    pub limits: Limits,
    pub streams: Streams,
    /// Read, and not looked at.
    pub input: Bytes,
    pub reading: Reading,
    /// The part of a frame that came.
    pub partial: BytesMut,
    /// A header block that is continued.
    pub block: Option<Box<Block>>,
    pub inflate: Inflate,
    pub deflate: Deflate,
    pub out: Output,
    pub peer: Peer,
    /// What we may send.
    pub send_window: i64,
    /// What the peer may send, and what it sent that nobody took.
    pub receive_window: i64,
    pub held: i64,
    /// Who waits for room to send, in order.
    pub line: VecDeque<u32>,
    /// Who waits for another stream, in order.
    pub openers: VecDeque<(u64, Waker)>,
    pub ticket: u64,
    pub floods: Floods,
    /// Requests that were refused since this was last asked.
    pub refused: Refused,
    /// How much of what may take only so long came to its end, where that had to be waited for.
    pub ended: u32,
    leaving: Leaving,
    /// The peer leaves: the last of our streams that it looks at.
    pub left_by: Option<u32>,
    /// Nobody opens streams any more: the connection ends with the last.
    pub forsaken: bool,
    /// It was given up.
    pub failed: bool,
    /// The connection's task, and whether it is at work, or about to be.
    pub task: Option<Waker>,
    pub roused: bool,
    /// Something came since this was last asked.
    heard: bool,
    /// The last read took all that it could.
    long: bool,
    /// Nothing is read until what waits is written.
    held_up: bool,
}

impl Session {
    /// A connection that begins: what is said first waits to be written.
    pub(in crate::proxy) fn new(role: Role, limits: Limits, scratch: Rc<Scratch>) -> Rc<Self> {
        let mut engine = Engine {
            role,
            limits,
            // Clients' connections are many and idle, those to endpoints few and busy.
            streams: Streams::keeping(if role == Role::Server { 1 } else { 64 }),
            input: Bytes::new(),
            reading: Reading::preface(role),
            partial: BytesMut::new(),
            block: None,
            inflate: Inflate::new(FIRST_TABLE),
            deflate: Deflate::new(),
            out: Output::default(),
            peer: Peer { window: FIRST_WINDOW, frame: FIRST_FRAME, streams: FIRST_STREAMS, known: false },
            send_window: i64::from(FIRST_WINDOW),
            receive_window: i64::from(CONNECTION_WINDOW),
            held: 0,
            line: VecDeque::new(),
            openers: VecDeque::new(),
            ticket: 0,
            floods: Floods::default(),
            refused: Refused::default(),
            ended: 0,
            leaving: Leaving::No,
            left_by: None,
            forsaken: false,
            failed: false,
            task: None,
            roused: true,
            heard: false,
            long: false,
            held_up: false,
        };
        engine.greet(&scratch);
        Rc::new(Self { scratch, engine: RefCell::new(engine) })
    }

    /// The task begins a turn.
    pub(in crate::proxy) fn begin(&self, task: &Waker) {
        let mut engine = self.engine.borrow_mut();
        engine.roused = true;
        if !engine.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            let before = engine.task.replace(task.clone());
            drop(engine);
            drop(before);
        }
    }

    /// The task ends a turn: from here on it is woken.
    pub(in crate::proxy) fn end(&self) {
        self.engine.borrow_mut().roused = false;
    }

    /// Reads once. `Ok(false)` is the end of what the peer says, or of our patience.
    pub(in crate::proxy) fn poll_read(&self, cx: &mut Context<'_>, from: &mut Transport) -> Poll<io::Result<bool>> {
        let mut engine = self.engine.borrow_mut();
        if engine.out.buffered() > MAX_ANSWERS {
            engine.held_up = true;
            return Poll::Pending;
        }
        let (read, long) = match self.scratch.poll_read(cx, from, engine.long) {
            Poll::Ready(read) => read?,
            Poll::Pending => return Poll::Pending,
        };
        engine.long = long;
        let some = !read.is_empty();
        engine.heard |= some;
        engine.input = read;
        Poll::Ready(Ok(some))
    }

    /// Takes what was read elsewhere.
    pub(in crate::proxy) fn feed(&self, read: Bytes) {
        let mut engine = self.engine.borrow_mut();
        engine.heard = true;
        engine.input = read;
    }

    /// Writes what there is. Ready when that is all; `Err` when the connection is gone.
    pub(in crate::proxy) fn poll_flush<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        let mut engine = self.engine.borrow_mut();
        if engine.out.waiting() == 0 {
            return Poll::Ready(Ok(()));
        }
        let flushed = engine.out.poll_flush(cx, to, &self.scratch);
        if engine.held_up && engine.out.buffered() <= MAX_ANSWERS {
            engine.held_up = false;
            cx.waker().wake_by_ref();
        }
        engine.stir();
        flushed
    }

    /// Whether it is over, so that it is to be closed once all was written.
    pub(in crate::proxy) fn over(&self) -> bool {
        self.engine.borrow().over()
    }

    /// Whether it was given up because of what the peer did, so that the peer should hear of it.
    pub(in crate::proxy) fn failed(&self) -> bool {
        self.engine.borrow().failed
    }

    /// Whether no stream of ours can be opened any more.
    pub(in crate::proxy) fn closed(&self) -> bool {
        self.engine.borrow().closed()
    }

    /// How many streams the peer allows at once.
    pub(in crate::proxy) fn most_streams(&self) -> usize {
        self.engine.borrow().peer.streams
    }

    /// What the peer has begun and must say in one go, if anything: its first words, a frame that is kept until it is
    /// whole, a header block. Another number is another one.
    pub(in crate::proxy) fn unfinished(&self) -> Option<u32> {
        let engine = self.engine.borrow();
        (engine.block.is_some() || engine.partial.len() >= HEAD || !engine.peer.known).then_some(engine.ended)
    }

    /// What was refused since this was last asked.
    pub(in crate::proxy) fn refused(&self) -> Refused {
        std::mem::take(&mut self.engine.borrow_mut().refused)
    }

    /// Gives the connection up, and says why.
    pub(in crate::proxy) fn give_up(&self, code: Code, why: &'static str) {
        self.engine.borrow_mut().fail(code, why, &self.scratch);
    }

    /// Begins to leave in good order.
    pub(in crate::proxy) fn leave(&self) {
        self.engine.borrow_mut().leave(&self.scratch);
    }

    /// Nobody asks for streams any more: it ends with those that there are.
    pub(in crate::proxy) fn forsake(&self) {
        let mut engine = self.engine.borrow_mut();
        engine.forsaken = true;
        engine.rouse();
    }

    /// The connection broke, or its time is up: all streams of it end.
    pub(in crate::proxy) fn broke(&self) {
        let mut engine = self.engine.borrow_mut();
        engine.failed = true;
        engine.end_all(Ended::Gone);
    }

    /// Asks whether the peer is there.
    pub(in crate::proxy) fn ping(&self) {
        let mut engine = self.engine.borrow_mut();
        put_ping(engine.out.buffer(&self.scratch), false, ASK);
        engine.rouse();
    }

    /// Whether something came since this was last asked. What a peer did too often is forgotten with it.
    pub(in crate::proxy) fn heard(&self) -> bool {
        let mut engine = self.engine.borrow_mut();
        engine.floods.forget();
        std::mem::take(&mut engine.heard)
    }

    /// Whether something was written since this was last asked.
    pub(in crate::proxy) fn wrote(&self) -> bool {
        std::mem::take(&mut self.engine.borrow_mut().out.wrote)
    }
}

impl Engine {
    fn greet(&mut self, scratch: &Scratch) {
        let out = self.out.buffer(scratch);
        let head = Some(u32::try_from(self.limits.head).unwrap_or(u32::MAX));
        let mut settings =
            Settings { initial_window_size: Some(STREAM_WINDOW), max_header_list_size: head, ..Settings::default() };
        match self.role {
            Role::Server => settings.max_concurrent_streams = Some(self.limits.streams),
            Role::Client => {
                out.extend_from_slice(super::super::wire2::PREFACE);
                settings.enable_push = Some(false);
            }
        }
        settings.put(out);
        put_window_update(out, 0, CONNECTION_WINDOW - FIRST_WINDOW);
    }

    /// Wakes the task, unless it is at work or was woken.
    pub fn rouse(&mut self) {
        if !std::mem::replace(&mut self.roused, true)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    pub fn over(&self) -> bool {
        let alone = self.streams.open() == 0;
        let leaves = match self.role {
            Role::Server => matches!(self.leaving, Leaving::Known(_)) || self.left_by.is_some(),
            Role::Client => self.forsaken || self.left_by.is_some(),
        };
        self.failed || alone && leaves
    }

    /// Whether no new stream of the peer is served any more.
    pub fn deaf(&self) -> bool {
        matches!(self.leaving, Leaving::Known(_))
    }

    /// Gives the connection up because of what the peer did.
    pub fn fail(&mut self, code: Code, why: &'static str, scratch: &Scratch) {
        let last = if self.role == Role::Server { self.streams.highest } else { 0 };
        put_goaway(self.out.buffer(scratch), last, code, why.as_bytes());
        self.failed = true;
        self.input = Bytes::new();
        self.end_all(Ended::Local(code));
    }

    fn end_all(&mut self, ended: Ended) {
        self.rouse();
        for slot in self.streams.above(0) {
            self.end_stream(slot, ended);
        }
        self.openers.drain(..).for_each(|(_, waker)| waker.wake());
    }

    fn leave(&mut self, scratch: &Scratch) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told;
            let out = self.out.buffer(scratch);
            put_goaway(out, MAX_31, Code::NO_ERROR, b"");
            put_ping(out, false, LEAVE);
            self.rouse();
        }
    }

    /// A ping came, or came back.
    pub fn pinged(&mut self, ack: bool, data: [u8; 8], scratch: &Scratch) {
        if !ack {
            put_ping(self.out.buffer(scratch), true, data);
        } else if data == LEAVE && self.leaving == Leaving::Told {
            self.leaving = Leaving::Known(self.streams.highest);
            put_goaway(self.out.buffer(scratch), self.streams.highest, Code::NO_ERROR, b"");
        }
    }

    /// The peer leaves, and looks at none of our streams above `last`.
    pub fn told(&mut self, last: u32, code: Code) -> Result<(), &'static str> {
        if self.left_by.is_some_and(|before| last > before) {
            return Err("GOAWAY's last stream rose");
        }
        self.left_by = Some(last);
        if self.role == Role::Client {
            for slot in self.streams.above(last) {
                self.end_stream(slot, Ended::Left(code));
            }
            self.openers.drain(..).for_each(|(_, waker)| waker.wake());
        }
        Ok(())
    }

    /// The peer's settings came.
    pub fn settle(&mut self, settings: Settings, scratch: &Scratch) -> Result<(), (Code, &'static str)> {
        let known = std::mem::replace(&mut self.peer.known, true);
        self.ended = self.ended.wrapping_add(1);
        if self.role == Role::Client && settings.enable_push == Some(true) {
            return Err((Code::PROTOCOL_ERROR, "a server cannot be pushed to"));
        }
        if let Some(size) = settings.header_table_size {
            self.deflate.set_peer_limit(size);
        }
        if let Some(size) = settings.max_frame_size {
            self.peer.frame = size as usize;
        }
        if let Some(window) = settings.initial_window_size {
            let change = i64::from(window) - i64::from(self.peer.window);
            self.peer.window = window;
            for stream in self.streams.each().filter(|stream| stream.sending) {
                stream.send_window += change;
                if stream.send_window > i64::from(MAX_31) {
                    return Err((Code::FLOW_CONTROL_ERROR, "a stream's window is too large"));
                }
                if change > 0 {
                    stream.wake_writer();
                }
            }
        }
        if self.role == Role::Client {
            // Where the first settings name no limit, there is none.
            let named = settings.max_concurrent_streams.map(|streams| streams as usize);
            self.peer.streams = named.unwrap_or(if known { self.peer.streams } else { usize::MAX });
            self.admit();
        }
        put_settings_ack(self.out.buffer(scratch));
        Ok(())
    }

    /// So much came, and waits to be taken.
    pub fn hold(&mut self, length: usize, scratch: &Scratch) {
        self.receive_window -= length as i64;
        self.held += length as i64;
        self.top_up(scratch);
    }

    /// So much of what came was taken.
    pub fn give_back(&mut self, taken: usize, scratch: &Scratch) {
        self.held -= taken as i64;
        self.top_up(scratch);
    }

    /// Lets the peer send more when it may send little, as far as there is room for it.
    fn top_up(&mut self, scratch: &Scratch) {
        let window = i64::from(CONNECTION_WINDOW);
        let missing = window - self.receive_window;
        if missing < window / 2 || self.receive_window < 0 || self.failed {
            return;
        }
        let more = missing.min(i64::from(MAX_HELD) - self.held - self.receive_window);
        // Not a little at a time.
        if let Some(more) = u32::try_from(more).ok().filter(|more| *more >= CONNECTION_WINDOW / 4) {
            self.receive_window += i64::from(more);
            put_window_update(self.out.buffer(scratch), 0, more);
            self.rouse();
        }
    }
}
