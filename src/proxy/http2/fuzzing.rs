//! A connection against any bytes, for `crate::fuzzing`.

use super::super::wire2::PREFACE;
use super::handle::{Asking, Handle, Opening, Sender};
use super::session::{Limits, Role, Session};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use std::task::{Context, Poll, Waker};

const LIMITS: Limits = Limits { streams: 8, head: 16 * 1024 };
/// Requests that are under way towards an endpoint that sends the bytes.
const ASKED: usize = 3;
/// What a turn may leave to be written, in bytes: answers to so many frames as came, not more.
const MAX_OUT: usize = 1024 * 1024;

/// Feeds a connection in pieces whose length the first byte says. Requests are answered, and bodies taken.
pub(in crate::proxy) fn run(role: Role, bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let session = Session::new(role, LIMITS, std::rc::Rc::default());
    let mut cx = Context::from_waker(Waker::noop());
    let (mut senders, mut asked): (Vec<Sender>, Vec<Asking>) = (Vec::new(), Vec::new());
    if role == Role::Server {
        session.feed(Bytes::from_static(PREFACE));
        assert!(session.next().is_none());
    }
    let parts = Request::post("http://shop/").body(()).unwrap_or_default().into_parts().0;
    while role == Role::Client && asked.len() < ASKED {
        let Poll::Ready(Some(asking)) = Opening::new(&session).poll(&cx, &parts, asked.len() % 2 == 0) else { break };
        asked.push(asking);
    }
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        session.feed(Bytes::copy_from_slice(piece));
        while let Some(request) = session.next() {
            let sender = Sender::new(Handle::first(&session, request.slot));
            let (mut receiver, whole) = (sender.receiver(), request.parts.method == http::Method::GET);
            sender.head(StatusCode::OK, &HeaderMap::new(), whole);
            while let Poll::Ready(Some(Ok(_))) = receiver.poll_frame(&mut cx) {}
            senders.push(sender);
        }
        asked.retain(|asking| !matches!(asking.poll_head(&cx), Poll::Ready(Err(_))));
        for sender in &senders {
            let _ = sender.poll_data(&mut cx, &mut Bytes::from_static(b"fine"), false);
        }
        let mut out = Vec::new();
        let _ = session.poll_flush(&mut cx, &mut out);
        assert!(out.len() <= MAX_OUT, "{} bytes said to {}", out.len(), piece.len());
        if senders.len() > 4 {
            senders.clear();
        }
    }
    drop((senders, asked));
    let engine = session.engine.borrow();
    assert!(engine.streams.held() == 0, "a stream is left that nobody holds");
}
