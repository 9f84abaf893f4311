//! What goes out, however little the other side takes.

use super::super::super::added::Usual;
use super::super::super::seen::Seen;
use super::super::super::wire1::{Out, Unwritten};
use super::*;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version};
use http_body::{Body, Frame};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// Takes at most `most` bytes at once, and nothing every other time.
struct Slow {
    got: Vec<u8>,
    most: usize,
    rests: bool,
    /// Fails once it has so many.
    breaks_after: usize,
}

impl Slow {
    fn new(most: usize) -> Self {
        Self { got: Vec::new(), most, rests: true, breaks_after: usize::MAX }
    }

    fn take(&mut self, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
        if self.got.len() >= self.breaks_after {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.rests = !self.rests;
        if self.rests {
            return Poll::Pending;
        }
        let all = parts.concat();
        let taken = &all[..all.len().min(self.most)];
        self.got.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.take(&[data])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let parts: Vec<&[u8]> = parts.iter().map(|p| &p[..]).collect();
        self.take(&parts)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Out for Slow {
    fn write_now(&mut self, data: &[u8]) -> Option<io::Result<usize>> {
        // The next time it rests, for which somebody must wait.
        if !self.rests {
            return None;
        }
        match self.take(&[data]) {
            Poll::Ready(written) => Some(written),
            Poll::Pending => None,
        }
    }
}

/// Frames; `None` is a pause. Counts those that it gave.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Option<Result<Frame<Bytes>, ()>>>,
    given: usize,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = ();

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        match self.frames.pop_front() {
            Some(None) => Poll::Pending,
            Some(frame) => {
                self.given += 1;
                Poll::Ready(frame)
            }
            None => Poll::Ready(None),
        }
    }
}

fn data(text: &'static str) -> Option<Result<Frame<Bytes>, ()>> {
    Some(Ok(Frame::data(text.into())))
}

fn frames(frames: impl IntoIterator<Item = Option<Result<Frame<Bytes>, ()>>>) -> Frames {
    Frames { frames: frames.into_iter().collect(), given: 0 }
}

fn parts(method: Method, lines: &[(&'static str, &'static str)]) -> Parts {
    let mut request = Request::builder().method(method).uri("/a?b=c").body(()).unwrap();
    for (name, value) in lines {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request.into_parts().0
}

/// A request with nothing on top but where it stands in a trace.
fn sending(parts: Parts, body: Option<Frames>, scratch: &Scratch) -> Sending<Frames> {
    let seen = Seen { forwarded_for: true, forwarded_host: true, forwarded_proto: true, ..Seen::default() };
    let (client, host) = (HeaderValue::from_static("c"), HeaderValue::from_static("h"));
    let added = Added {
        client: &client,
        host: &host,
        seen: &seen,
        version: Version::HTTP_11,
        request_id: None,
        trace: Carried::w3c(b"00-1-2-00"),
        client_cert: None,
        secure: false,
        usual: &Usual::default(),
    };
    Sending::new(&mut { parts }, None, &added, body, scratch)
}

const ADDED: &str = "via: 1.1 pathloom\r\ntraceparent: 00-1-2-00\r\n";

/// Everything that is written to somebody who takes `most` bytes at once, without what every request gets.
fn written(parts: &Parts, body: Option<Frames>, most: usize) -> Result<String, Unwritten> {
    let mut to = Slow::new(most);
    let mut sending = sending(parts.clone(), body, &Scratch::default());
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        assert!(!sending.writer.done());
        if let Poll::Ready(over) = sending.writer.poll(&mut cx, &mut to) {
            return over.map(|()| {
                assert!(sending.writer.done() && sending.writer.begun);
                let text = String::from_utf8(to.got).unwrap();
                assert_eq!(text.matches(ADDED).count(), 1);
                text.replace(ADDED, "")
            });
        }
    }
    panic!("it never ends");
}

fn check(parts: &Parts, body: impl Fn() -> Option<Frames>, expected: &str) {
    for most in [1, 2, 3, 7, 100, usize::MAX] {
        assert_eq!(written(parts, body(), most).as_deref(), Ok(expected), "{most} bytes at once");
    }
}

#[test]
fn a_head_is_written_as_it_is() {
    let get = parts(Method::GET, &[("host", "shop"), ("x", "1"), ("x", "2")]);
    check(&get, || None, "GET /a?b=c HTTP/1.1\r\nhost: shop\r\nx: 1\r\nx: 2\r\n\r\n");
    let mut bare = parts(Method::OPTIONS, &[]);
    bare.uri = "*".parse().unwrap();
    check(&bare, || None, "OPTIONS * HTTP/1.1\r\n\r\n");
}

#[test]
fn a_body_of_a_length_is_written_behind_it() {
    let post = parts(Method::POST, &[("content-length", "6")]);
    let expected = "POST /a?b=c HTTP/1.1\r\ncontent-length: 6\r\n\r\nabcdef";
    check(&post, || Some(frames([data("abc"), None, data(""), data("def")])), expected);
    let large: &'static str = "x".repeat(10_000).leak();
    let post = parts(Method::POST, &[("content-length", "10000")]);
    let expected = format!("POST /a?b=c HTTP/1.1\r\ncontent-length: 10000\r\n\r\n{large}");
    check(&post, || Some(frames([data(large)])), &expected);
}

#[test]
fn a_chunked_body_takes_only_the_trailers_that_were_announced() {
    let large: &'static str = "x".repeat(5_000).leak();
    let mut trailers = HeaderMap::new();
    for name in ["x-sum", "x-other", "content-length", "authorization"] {
        trailers.append(name, HeaderValue::from_static("1"));
    }
    let with = |lines: &[(&'static str, &'static str)]| {
        parts(Method::POST, &[&[("transfer-encoding", "chunked")], lines].concat())
    };
    let head = "POST /a?b=c HTTP/1.1\r\ntransfer-encoding: chunked\r\n";
    let all = |trailers: &HeaderMap| {
        Some(frames([data("abc"), None, data(""), data(large), Some(Ok(Frame::trailers(trailers.clone())))]))
    };
    let body = format!("\r\n3\r\nabc\r\n1388\r\n{large}\r\n0\r\n");
    check(&with(&[]), || all(&trailers), &format!("{head}{body}\r\n"));
    let announced = with(&[("trailer", "X-Sum, content-length"), ("trailer", "authorization")]);
    let head = format!("{head}trailer: X-Sum, content-length\r\ntrailer: authorization\r\n");
    check(&announced, || all(&trailers), &format!("{head}{body}x-sum: 1\r\n\r\n"));
    check(&announced, || Some(frames([])), &format!("{head}\r\n0\r\n\r\n"));
    check(&announced, || Some(frames([data("abc")])), &format!("{head}\r\n3\r\nabc\r\n0\r\n\r\n"));
}

#[test]
fn a_body_that_is_not_what_was_announced_breaks_the_request() {
    let post = parts(Method::POST, &[("content-length", "6")]);
    for body in [vec![data("abc")], vec![], vec![data("abcdefg")], vec![data("abc"), Some(Err(()))]] {
        assert_eq!(written(&post, Some(frames(body)), 100), Err(Unwritten::Broken));
    }
}

#[test]
fn a_frame_is_asked_for_when_the_one_before_is_written() {
    let post = parts(Method::POST, &[("transfer-encoding", "chunked")]);
    let mut to = Slow::new(10);
    let body = frames((0..50).map(|_| data("0123456789")));
    let mut sending = sending(post, Some(body), &Scratch::default());
    let mut cx = Context::from_waker(Waker::noop());
    while sending.writer.poll(&mut cx, &mut to).is_pending() {
        let (head, chunk) = (52 + ADDED.len(), 15);
        let due = to.got.len().saturating_sub(head) / chunk + 1;
        let given = sending.writer.body.given;
        assert!(given <= due, "{given} of the frames were taken after {} bytes", to.got.len());
    }
}

#[test]
fn a_connection_that_breaks_is_told_from_one_that_never_was() {
    for (breaks_after, begun) in [(0, false), (1, true)] {
        let post = parts(Method::PUT, &[("content-length", "3")]);
        let mut to = Slow { breaks_after, ..Slow::new(5) };
        let mut sending = sending(post, Some(frames([data("abc")])), &Scratch::default());
        let mut cx = Context::from_waker(Waker::noop());
        let over = loop {
            if let Poll::Ready(over) = sending.writer.poll(&mut cx, &mut to) {
                break over;
            }
        };
        assert_eq!((over, sending.writer.begun, sending.repeatable()), (Err(Unwritten::Closed), begun, false));
        if !begun {
            // Nothing is lost: the same goes to another connection.
            let mut to = Slow::new(1000);
            while sending.writer.poll(&mut cx, &mut to).is_pending() {}
            assert!(to.got.ends_with(b"\r\n\r\nabc"));
        }
    }
}

#[test]
fn only_a_whole_request_of_an_idempotent_method_is_repeated() {
    for (method, repeatable) in [(Method::GET, true), (Method::PUT, true), (Method::POST, false)] {
        let mut sending = sending(parts(method, &[]), None, &Scratch::default());
        let (mut first, mut second) = (Slow::new(7), Slow::new(1000));
        let mut cx = Context::from_waker(Waker::noop());
        while sending.writer.poll(&mut cx, &mut first).is_pending() {}
        assert_eq!(sending.repeatable(), repeatable);
        sending.rewind();
        while sending.writer.poll(&mut cx, &mut second).is_pending() {}
        assert_eq!(first.got, second.got);
    }
}

#[test]
fn what_is_kept_is_written_again_wherever_it_broke() {
    let large: &'static str = "x".repeat(5_000).leak();
    let body = || Some(frames([data("abc"), data(large), None, data("d"), data(large), data(large), data("ef")]));
    let length = large.len() * 3 + 6;
    let chunked = parts(Method::PUT, &[("transfer-encoding", "chunked")]);
    let sized = parts(Method::PUT, &[("content-length", length.to_string().leak())]);
    let mut cx = Context::from_waker(Waker::noop());
    for parts in [chunked, sized] {
        let expected = written(&parts, body(), usize::MAX).unwrap();
        for breaks_after in (0..expected.len() + 100).step_by(97) {
            let mut sending = sending(parts.clone(), body(), &Scratch::default());
            sending.writer.keep(length);
            for breaks_after in [breaks_after, breaks_after / 2] {
                let mut to = Slow { breaks_after, ..Slow::new(1_000) };
                for _ in 0..200 {
                    let _ = sending.writer.poll(&mut cx, &mut to);
                }
                assert!(sending.writer.whole());
                sending.rewind();
            }
            let mut to = Slow::new(1_000);
            while sending.writer.poll(&mut cx, &mut to).is_pending() {}
            let text = String::from_utf8(to.got).unwrap().replace(ADDED, "");
            assert!(text == expected, "after {breaks_after} bytes");
        }
    }
}

#[test]
fn a_body_beyond_what_is_kept_is_written_all_the_same_and_not_to_be_had_again() {
    let body = || Some(frames([data("abc"), None, data("def")]));
    let post = parts(Method::PUT, &[("transfer-encoding", "chunked")]);
    let expected = written(&post, body(), usize::MAX).unwrap();
    for (keep, whole) in [(6, true), (5, false), (0, false)] {
        let mut sending = sending(post.clone(), body(), &Scratch::default());
        sending.writer.keep(keep);
        let (mut to, mut cx) = (Slow::new(7), Context::from_waker(Waker::noop()));
        while sending.writer.poll(&mut cx, &mut to).is_pending() {}
        assert_eq!(String::from_utf8(to.got).unwrap().replace(ADDED, ""), expected);
        assert_eq!(sending.writer.whole(), whole, "{keep}");
    }
}

#[test]
fn a_request_whose_buffer_serves_the_answer_can_be_had_again() {
    let get = parts(Method::GET, &[("host", "shop")]);
    let mut sending = sending(get, None, &Scratch::default());
    sending.writer.keep(0);
    sending.lines = Some(Lines::default());
    let (mut first, mut second) = (Slow::new(1_000), Slow::new(1_000));
    let mut cx = Context::from_waker(Waker::noop());
    while sending.writer.poll(&mut cx, &mut first).is_pending() {}
    let (buffer, lines) = (sending.writer.spent().unwrap(), sending.lines.as_mut().unwrap());
    lines.lend(buffer, true);
    lines.push_text(b"\r\nserver: ", b"x");
    assert_eq!(lines.text(), b"\r\nserver: x", "the request does not show");
    sending.rewind();
    while sending.writer.poll(&mut cx, &mut second).is_pending() {}
    assert_eq!(first.got, second.got);
    assert_eq!(sending.lines.unwrap().text(), b"");
}

#[test]
fn a_twin_is_the_same_request_from_its_beginning_once_all_of_it_is_here() {
    let large: &'static str = "x".repeat(5_000).leak();
    let body = || Some(frames([data("abc"), None, data(large), None, data("d"), data(large)]));
    let (length, mut cx) = (large.len() * 2 + 4, Context::from_waker(Waker::noop()));
    let chunked = parts(Method::PUT, &[("transfer-encoding", "chunked")]);
    let sized = parts(Method::PUT, &[("content-length", length.to_string().leak())]);
    for parts in [chunked, sized] {
        let expected = written(&parts, body(), usize::MAX).unwrap();
        let mut sending = sending(parts.clone(), body(), &Scratch::default());
        sending.writer.keep(length);
        sending.lines = Some(Lines::default());
        let (mut to, mut twins, mut none) = (Slow::new(700), 0, 0);
        let mut check = |sending: &Sending<Frames>| match sending.twin(&Scratch::default()) {
            Some(mut twin) => {
                let mut to = Slow::new(900);
                while twin.writer.poll(&mut Context::from_waker(Waker::noop()), &mut to).is_pending() {}
                assert_eq!(String::from_utf8(to.got).unwrap().replace(ADDED, ""), expected);
                assert!(twin.writer.whole() && twin.lines.is_some());
                twins += 1;
            }
            None => none += 1,
        };
        check(&sending);
        while sending.writer.poll(&mut cx, &mut to).is_pending() {
            check(&sending);
        }
        // An answer has begun, which has its buffer.
        let buffer = sending.writer.spent().unwrap();
        sending.lines.as_mut().unwrap().lend(buffer, true);
        check(&sending);
        assert!(twins > 1 && none > 2, "{twins} {none}");
        sending.writer = Default::default();
        assert!(sending.twin(&Scratch::default()).is_none(), "it is not kept");
    }
}
