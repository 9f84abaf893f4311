//! A connection's state against frames written by hand.

mod flow;
mod frames;
mod leaving;
mod random;
mod roles;

use super::super::transport::Transport;
use super::super::wire2::{Code, Deflate, FrameHead, HEAD, Inflate, PREFACE, Settings, flags, kind};
use super::handle::{Asking, Handle, Opening, Sender};
use super::incoming::Asked;
use super::session::{Limits, Role, Session};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use tokio::net::{TcpListener, TcpStream};

const LIMITS: Limits = Limits { streams: 8, head: 16 * 1024 };

/// A frame that came from the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The far end of a connection.
struct Peer {
    session: Rc<Session>,
    deflate: Deflate,
    inflate: Inflate,
}

/// Both ends of a connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, far)
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Peer {
    /// One that did nothing yet.
    fn fresh(role: Role) -> Self {
        let session = Session::new(role, LIMITS, Rc::default());
        Self { session, deflate: Deflate::new(), inflate: Inflate::new(4096) }
    }

    /// One that exchanged settings with the connection.
    fn with(role: Role, settings: &Settings) -> Self {
        let mut peer = Self::fresh(role);
        let mut out = if role == Role::Server { PREFACE.to_vec() } else { Vec::new() };
        settings.put(&mut out);
        out.extend(frame(kind::SETTINGS, flags::ACK, 0, &[]));
        assert!(peer.say(&out).is_empty());
        let heard = peer.hear();
        assert_eq!((heard[0].kind, heard.last().unwrap().flags), (kind::SETTINGS, flags::ACK));
        peer
    }

    /// A client, of which the connection is the server.
    fn client() -> Self {
        Self::with(Role::Server, &Settings::default())
    }

    /// The server of a connection that is a client.
    fn server() -> Self {
        Self::with(Role::Client, &Settings::default())
    }

    /// Says something; the requests in it.
    fn say(&mut self, bytes: &[u8]) -> Vec<Asked> {
        self.session.feed(Bytes::copy_from_slice(bytes));
        std::iter::from_fn(|| self.session.next()).collect()
    }

    /// What the connection has to say.
    fn hear(&mut self) -> Vec<Frame> {
        let mut bytes = Vec::new();
        assert!(self.session.poll_flush(&mut cx(), &mut bytes).is_ready());
        let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(&bytes);
        let mut frames = Vec::new();
        while let Some(FrameHead { len, kind, flags, stream }) = FrameHead::read(rest) {
            frames.push(Frame { kind, flags, stream, payload: rest[HEAD..HEAD + len].to_vec() });
            rest = &rest[HEAD + len..];
        }
        assert!(rest.is_empty());
        frames
    }

    /// The same, of which nothing but one frame is expected.
    fn hear_one(&mut self) -> Frame {
        let mut frames = self.hear();
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    fn request(&mut self, stream: u32, end: bool, request: Request<()>) -> Vec<u8> {
        let mut block = Vec::new();
        self.deflate.request(&mut block, &request.into_parts().0);
        frame(kind::HEADERS, flags::END_HEADERS | u8::from(end), stream, &block)
    }

    fn get(&mut self, stream: u32) -> Vec<u8> {
        self.request(stream, true, Request::get("http://shop/").body(()).unwrap())
    }

    fn post(&mut self, stream: u32) -> Vec<u8> {
        self.request(stream, false, Request::post("http://shop/").body(()).unwrap())
    }

    fn response(&mut self, stream: u32, end: bool, status: u16, headers: &HeaderMap) -> Vec<u8> {
        let mut block = Vec::new();
        self.deflate.response(&mut block, StatusCode::from_u16(status).unwrap(), headers);
        frame(kind::HEADERS, flags::END_HEADERS | u8::from(end), stream, &block)
    }

    fn trailers(&mut self, stream: u32, end: bool) -> Vec<u8> {
        let mut block = Vec::new();
        self.deflate.trailers(&mut block, &HeaderMap::from_iter([("x-sum".parse().unwrap(), 7.into())]));
        frame(kind::HEADERS, flags::END_HEADERS | u8::from(end), stream, &block)
    }

    /// A request with a body that is under way.
    fn posted(&mut self, stream: u32) -> Sender {
        let post = self.post(stream);
        let asked = self.say(&post).remove(0);
        self.serve(&asked)
    }

    fn serve(&self, asked: &Asked) -> Sender {
        Sender::new(Handle::first(&self.session, asked.slot))
    }

    fn open(&self, request: Request<()>, end: bool) -> Poll<Option<Asking>> {
        Opening::new(&self.session).poll(&cx(), &request.into_parts().0, end)
    }

    /// A request of the connection's that is under way.
    fn asked(&mut self, end: bool) -> Asking {
        let request = Request::post("http://shop/").body(()).unwrap();
        match self.open(request, end) {
            Poll::Ready(Some(asking)) => {
                self.hear();
                asking
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that nothing is held any more, and that the peer may send.
    fn assert_balanced(&self) {
        let engine = self.session.engine.borrow();
        assert_eq!(engine.held, 0);
        assert!(engine.receive_window > i64::from(super::CONNECTION_WINDOW / 2), "{}", engine.receive_window);
        assert_eq!((engine.streams.held(), engine.streams.open(), engine.line.len()), (0, 0, 0));
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHead { len: payload.len(), kind, flags, stream }.put(&mut out);
    out.extend_from_slice(payload);
    out
}

fn data(stream: u32, end: bool, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, payload)
}

fn rst(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn goaway(last: u32, code: Code) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

fn settings(settings: Settings) -> Vec<u8> {
    let mut out = Vec::new();
    settings.put(&mut out);
    out
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (count.clone(), count.into())
    }

    fn take(&self) -> usize {
        self.0.swap(0, SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}
