//! What is a client's alone: answers, and how many requests there may be.

use super::*;
use http::Method;

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).uri("http://shop/").body(()).unwrap()
}

fn length(bytes: u64) -> HeaderMap {
    HeaderMap::from_iter([(http::header::CONTENT_LENGTH, bytes.into())])
}

#[test]
fn an_answer_comes_after_what_is_said_before_it() {
    let mut peer = Peer::server();
    let asking = peer.asked(true);
    let (count, waker) = Count::new();
    assert!(asking.poll_head(&Context::from_waker(&waker)).is_pending());
    let early = [peer.response(1, false, 100, &HeaderMap::new()), peer.response(1, false, 103, &HeaderMap::new())];
    peer.say(&early.concat());
    assert!(count.take() > 0 && asking.poll_head(&Context::from_waker(&waker)).is_pending());
    let statuses: Vec<u16> = asking.hints().iter().map(|hint| hint.parts.status.as_u16()).collect();
    assert_eq!(statuses, [100, 103]);
    let answer = [peer.response(1, false, 200, &length(2)), data(1, true, b"ok")].concat();
    peer.say(&answer);
    assert!(count.take() > 0);
    let Poll::Ready(Ok(head)) = asking.poll_head(&cx()) else { panic!("no answer") };
    assert_eq!((head.parts.status.as_u16(), head.seen.lengths), (200, 1));
    let mut body = asking.into_body();
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(matches!(body.poll_frame(&mut cx()), Poll::Ready(Some(Ok(frame))) if frame.data_ref().unwrap() == "ok"));
    assert!(body.is_end_stream());
    drop(body);
    peer.assert_balanced();
}

#[test]
fn what_is_no_answer_resets_its_stream() {
    let none = HeaderMap::new();
    type Say<'a> = Box<dyn Fn(&mut Peer) -> Vec<u8> + 'a>;
    let cases: [Say<'_>; 8] = [
        Box::new(|p| p.response(1, true, 103, &none)),
        Box::new(|p| p.response(1, false, 101, &none)),
        Box::new(|p| (0..101).flat_map(|_| p.response(1, false, 100, &none)).collect()),
        Box::new(|_| data(1, false, b"a body without a head")),
        Box::new(|p| p.response(1, true, 200, &length(5))),
        Box::new(|p| [p.response(1, false, 200, &none), p.trailers(1, false)].concat()),
        Box::new(|p| [p.response(1, false, 200, &length(1)), p.trailers(1, true)].concat()),
        Box::new(|p| [p.response(1, false, 204, &none), data(1, true, b"x")].concat()),
    ];
    for (at, say) in cases.iter().enumerate() {
        let mut peer = Peer::server();
        let asking = peer.asked(true);
        let bytes = say(&mut peer);
        peer.say(&bytes);
        let heard = peer.hear();
        assert!(
            heard.iter().any(|f| f.kind == kind::RST_STREAM && Code(f.number(0)) == Code::PROTOCOL_ERROR),
            "{at}: {heard:?}"
        );
        assert!(!peer.session.over());
        drop(asking);
        peer.assert_balanced();
    }
}

#[test]
fn an_answer_without_a_body_may_name_a_length() {
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 304)] {
        for end in [true, false] {
            let mut peer = Peer::server();
            let Poll::Ready(Some(asking)) = peer.open(request(method.clone()), true) else { panic!("not opened") };
            peer.hear();
            let mut answer = peer.response(1, end, status, &length(1_000));
            if !end {
                answer.extend(data(1, true, b""));
            }
            peer.say(&answer);
            assert!(peer.hear().is_empty());
            assert!(matches!(asking.poll_head(&cx()), Poll::Ready(Ok(_))));
            assert!(asking.into_body().is_end_stream() || !end);
        }
    }
}

#[test]
fn a_whole_answer_stands_though_the_rest_of_the_request_is_refused() {
    let mut peer = Peer::server();
    let asking = peer.asked(false);
    let sender = asking.sender();
    let answer = [peer.response(1, false, 413, &HeaderMap::new()), data(1, true, b"no"), rst(1, Code::NO_ERROR)];
    peer.say(&answer.concat());
    assert!(sender.poll_reset(&cx()).is_ready());
    assert!(matches!(asking.poll_head(&cx()), Poll::Ready(Ok(_))));
    let mut body = asking.into_body();
    assert!(matches!(body.poll_frame(&mut cx()), Poll::Ready(Some(Ok(_)))));
    assert!(body.is_end_stream());
}

#[test]
fn requests_beyond_what_the_endpoint_allows_wait_in_order() {
    let streams = |n| Settings { max_concurrent_streams: Some(n), ..Settings::default() };
    let mut peer = Peer::with(Role::Client, &streams(2));
    let (first, second) = (peer.asked(true), peer.asked(true));
    assert_eq!(peer.session.most_streams(), 2);
    let session = peer.session.clone();
    let parts = request(Method::GET).into_parts().0;
    let (counts, wakers): (Vec<_>, Vec<_>) = (0..3).map(|_| Count::new()).unzip();
    let mut waiting: Vec<_> = (0..3).map(|_| Opening::new(&session)).collect();
    for (opening, waker) in waiting.iter_mut().zip(&wakers) {
        assert!(opening.poll(&Context::from_waker(waker), &parts, true).is_pending());
    }
    drop(first);
    assert_eq!(counts.iter().map(|c| c.take()).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(waiting[2].poll(&Context::from_waker(&wakers[2]), &parts, true).is_pending(), "it is not its turn");
    // The first one does not want it any more.
    drop(waiting.remove(0));
    assert_eq!(counts.iter().map(|c| c.take()).collect::<Vec<_>>(), [0, 1, 0]);
    let opened = waiting[0].poll(&Context::from_waker(&wakers[1]), &parts, true);
    assert!(matches!(opened, Poll::Ready(Some(_))));
    assert_eq!(counts[2].take(), 0);
    // The endpoint allows more.
    peer.say(&settings(streams(3)));
    assert_eq!(counts[2].take(), 1);
    assert!(waiting[1].poll(&Context::from_waker(&wakers[2]), &parts, true).is_ready());
    // And then none: who waits is told.
    peer.say(&settings(streams(0)));
    let mut last = Opening::new(&session);
    assert!(last.poll(&Context::from_waker(&wakers[0]), &parts, true).is_pending());
    peer.say(&goaway(99, Code::NO_ERROR));
    assert_eq!(counts[0].take(), 1);
    assert!(matches!(last.poll(&cx(), &parts, true), Poll::Ready(None)));
    drop(second);
}

#[test]
fn an_endpoint_that_names_no_limit_has_none_and_only_its_first_word_says_so() {
    let peer = Peer::fresh(Role::Client);
    assert_eq!(peer.session.most_streams(), 100, "before it said anything");
    assert_eq!(Peer::server().session.most_streams(), usize::MAX);
    let mut peer = Peer::with(Role::Client, &Settings { max_concurrent_streams: Some(7), ..Settings::default() });
    peer.say(&settings(Settings { initial_window_size: Some(1), ..Settings::default() }));
    assert_eq!(peer.session.most_streams(), 7);
}

#[test]
fn an_endpoint_may_open_no_stream() {
    for bytes in [
        frame(kind::HEADERS, 4, 2, &[0x88]),
        frame(kind::HEADERS, 4, 1, &[0x88]),
        frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]),
        settings(Settings { enable_push: Some(true), ..Settings::default() }),
    ] {
        let mut peer = Peer::server();
        peer.say(&bytes);
        let last = peer.hear().pop().unwrap();
        assert_eq!((last.kind, Code(last.number(4))), (kind::GOAWAY, Code::PROTOCOL_ERROR), "{bytes:?}");
    }
}
