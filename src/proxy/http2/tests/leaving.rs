//! The end of a connection, from either side, and of its streams.

use super::super::streams::Ended;
use super::*;

#[test]
fn leaving_takes_a_round_trip_and_lets_streams_finish() {
    let mut peer = Peer::client();
    let first = peer.posted(1);
    peer.session.leave();
    peer.session.leave();
    let heard = peer.hear();
    assert_eq!(heard.iter().map(|f| f.kind).collect::<Vec<_>>(), [kind::GOAWAY, kind::PING]);
    assert_eq!((heard[0].number(0), Code(heard[0].number(4))), (0x7fff_ffff, Code::NO_ERROR));
    // What was under way before the client knew is served.
    let second = peer.posted(3);
    peer.say(&frame(kind::PING, flags::ACK, 0, b"not this"));
    assert!(peer.hear().is_empty());
    peer.say(&frame(kind::PING, flags::ACK, 0, &heard[1].payload));
    let last = peer.hear_one();
    assert_eq!((last.kind, last.number(0)), (kind::GOAWAY, 3));
    // What comes after that is not, and does no harm.
    let more = [peer.post(5), data(5, true, b"x"), rst(5, Code::CANCEL)].concat();
    assert!(peer.say(&more).is_empty() && peer.hear().is_empty());
    drop(first);
    assert!(!peer.session.over());
    second.head(StatusCode::OK, &HeaderMap::new(), true);
    peer.say(&data(3, true, b""));
    assert!(peer.session.over() && !peer.session.failed());
}

#[test]
fn a_client_that_leaves_is_served_to_its_last_stream() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    peer.say(&[goaway(0, Code::NO_ERROR), data(1, true, b"")].concat());
    assert!(!peer.session.over());
    assert!(sender.head(StatusCode::OK, &HeaderMap::new(), true));
    assert!(peer.session.over());
}

#[test]
fn an_endpoint_that_leaves_says_which_streams_it_did_nothing_with() {
    for code in [Code::NO_ERROR, Code::ENHANCE_YOUR_CALM] {
        let mut peer = Peer::server();
        let (first, second) = (peer.asked(true), peer.asked(true));
        peer.say(&goaway(1, code));
        assert!(first.poll_head(&cx()).is_pending());
        assert!(matches!(second.poll_head(&cx()), Poll::Ready(Err(Ended::Left(why))) if why == code));
        assert!(peer.session.closed() && !peer.session.over(), "it takes no more, and is not over");
        let answer = peer.response(1, true, 200, &HeaderMap::new());
        peer.say(&answer);
        assert!(first.poll_head(&cx()).is_ready() && peer.session.over());
    }
}

#[test]
fn a_connection_that_breaks_ends_all_that_is_on_it() {
    let mut peer = Peer::server();
    let (first, second) = (peer.asked(true), peer.asked(false));
    let answer = peer.response(3, false, 200, &HeaderMap::new());
    peer.say(&answer);
    assert!(second.poll_head(&cx()).is_ready());
    let mut body = second.into_body();
    peer.session.broke();
    assert!(matches!(first.poll_head(&cx()), Poll::Ready(Err(Ended::Gone))));
    assert!(matches!(body.poll_frame(&mut cx()), Poll::Ready(Some(Err(Code::INTERNAL_ERROR)))));
    assert!(matches!(body.poll_frame(&mut cx()), Poll::Ready(None)));
}

#[test]
fn a_connection_that_nobody_wants_ends_with_its_last_stream() {
    let mut peer = Peer::server();
    let asking = peer.asked(true);
    peer.session.forsake();
    assert!(!peer.session.over());
    drop(asking);
    let reset = peer.hear_one();
    assert_eq!((reset.kind, Code(reset.number(0))), (kind::RST_STREAM, Code::CANCEL));
    assert!(peer.session.over());
}

#[test]
fn a_stream_that_is_let_go_early_is_reset_and_politely_where_its_answer_is_whole() {
    let mut peer = Peer::client();
    drop(peer.posted(1));
    assert_eq!(Code(peer.hear_one().number(0)), Code::CANCEL);
    let sender = peer.posted(3);
    sender.head(StatusCode::OK, &HeaderMap::new(), true);
    assert_eq!(peer.hear_one().flags, flags::END_HEADERS | flags::END_STREAM);
    drop(sender);
    assert_eq!(Code(peer.hear_one().number(0)), Code::NO_ERROR);
    let get = peer.get(5);
    let asked = peer.say(&get).remove(0);
    let sender = peer.serve(&asked);
    sender.head(StatusCode::OK, &HeaderMap::new(), false);
    assert!(sender.trailers(HeaderMap::new()));
    peer.hear();
    drop(sender);
    assert!(peer.hear().is_empty(), "it was over");
    peer.assert_balanced();
}

#[test]
fn the_task_is_woken_once_when_somebody_else_has_something_to_say() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    let (count, waker) = Count::new();
    peer.session.begin(&waker);
    sender.head(StatusCode::OK, &HeaderMap::new(), false);
    assert_eq!(count.take(), 0, "it is at work");
    peer.session.end();
    let mut data = Bytes::from_static(b"some");
    assert!(sender.poll_data(&mut cx(), &mut data, false).is_ready());
    drop(sender);
    assert_eq!(count.take(), 1);
    peer.session.begin(&waker);
    assert_eq!(peer.hear().len(), 3);
}
