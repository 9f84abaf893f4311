//! What a peer may say, what it may not, and what that ends.

use super::*;
use http_body::Frame as Part;

/// What the connection says when it gives up.
fn failure(peer: &mut Peer) -> Option<Code> {
    let frames = peer.hear();
    let last = frames.iter().find(|frame| frame.kind == kind::GOAWAY)?;
    assert!(peer.session.over() && peer.session.failed());
    Some(Code(last.number(4)))
}

#[test]
fn a_connection_begins_with_settings_and_what_comes_first_must_be_that() {
    for role in [Role::Server, Role::Client] {
        let mut peer = Peer::fresh(role);
        let heard = peer.hear();
        assert_eq!(heard.iter().map(|f| f.kind).collect::<Vec<_>>(), [kind::SETTINGS, kind::WINDOW_UPDATE]);
        let said = Settings::read(&heard[0].payload).unwrap();
        assert_eq!(said.initial_window_size, Some(super::super::STREAM_WINDOW));
        assert_eq!((said.max_header_list_size, said.max_frame_size), (Some(16 * 1024), None));
        assert_eq!(said.max_concurrent_streams, Some(8).filter(|_| role == Role::Server));
        assert_eq!(said.enable_push, Some(false).filter(|_| role == Role::Client));
        assert_eq!(heard[1].number(0) + 65_535, super::super::CONNECTION_WINDOW);
    }
    let begin = |first: Vec<u8>| [PREFACE.to_vec(), first].concat();
    for (bytes, right) in [
        (begin(settings(Settings::default())), true),
        (begin(frame(kind::PING, 0, 0, &[0; 8])), false),
        (begin(frame(kind::SETTINGS, flags::ACK, 0, &[])), false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx".to_vec(), false),
    ] {
        let mut peer = Peer::fresh(Role::Server);
        peer.say(&bytes);
        assert_eq!(failure(&mut peer), (!right).then_some(Code::PROTOCOL_ERROR), "{bytes:?}");
    }
}

#[test]
fn what_ends_a_connection() {
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("DATA on no stream", data(0, false, b"x"), Code::PROTOCOL_ERROR),
        ("DATA on an idle one", data(9, false, b"x"), Code::PROTOCOL_ERROR),
        ("DATA on one of ours", data(2, false, b"x"), Code::PROTOCOL_ERROR),
        ("HEADERS on no stream", frame(kind::HEADERS, 4, 0, &[0x82]), Code::PROTOCOL_ERROR),
        ("HEADERS on an even one", frame(kind::HEADERS, 4, 2, &[0x82]), Code::PROTOCOL_ERROR),
        ("a block that cannot be decoded", frame(kind::HEADERS, 4, 9, &[0xff, 0xff, 0xff]), Code::COMPRESSION_ERROR),
        ("RST_STREAM on an idle one", rst(9, Code::CANCEL), Code::PROTOCOL_ERROR),
        ("RST_STREAM on no stream", rst(0, Code::CANCEL), Code::PROTOCOL_ERROR),
        ("RST_STREAM too short", frame(kind::RST_STREAM, 0, 1, &[0; 3]), Code::FRAME_SIZE_ERROR),
        ("WINDOW_UPDATE of nothing", window(0, 0), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of too much", window(0, 0x7fff_ffff), Code::FLOW_CONTROL_ERROR),
        ("WINDOW_UPDATE on an idle one", window(9, 1), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE too long", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), Code::PROTOCOL_ERROR),
        ("SETTINGS of half a setting", frame(kind::SETTINGS, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR),
        ("SETTINGS in an ACK", frame(kind::SETTINGS, flags::ACK, 0, &[0; 6]), Code::FRAME_SIZE_ERROR),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("PING too short", frame(kind::PING, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR),
        ("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("GOAWAY too short", frame(kind::GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR),
        ("GOAWAY that rises", [goaway(1, Code::NO_ERROR), goaway(3, Code::NO_ERROR)].concat(), Code::PROTOCOL_ERROR),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]), Code::PROTOCOL_ERROR),
        ("PRIORITY on no stream", frame(kind::PRIORITY, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR),
        ("a CONTINUATION of nothing", frame(kind::CONTINUATION, 4, 1, &[]), Code::PROTOCOL_ERROR),
        ("a block of two streams", [frame(1, 0, 9, &[0x82]), frame(9, 4, 11, &[])].concat(), Code::PROTOCOL_ERROR),
        ("a block that pauses", [frame(1, 0, 9, &[0x82]), frame(6, 0, 0, &[0; 8])].concat(), Code::PROTOCOL_ERROR),
        ("a frame that is too long", frame(0x42, 0, 0, &vec![0; 16_385]), Code::FRAME_SIZE_ERROR),
        ("padding without room", frame(kind::DATA, flags::PADDED, 1, &[]), Code::FRAME_SIZE_ERROR),
        ("more padding than DATA", frame(kind::DATA, flags::PADDED, 1, &[4, 0, 0, 0]), Code::PROTOCOL_ERROR),
    ];
    for (what, bytes, code) in cases {
        let mut peer = Peer::client();
        let sender = peer.posted(1);
        let body = sender.receiver();
        peer.say(&bytes);
        assert_eq!(failure(&mut peer), Some(code), "{what}");
        assert!(sender.poll_reset(&cx()).is_ready(), "{what}: its streams are over");
        drop((sender, body));
        // Of what comes then nothing is looked at.
        let more = peer.get(3);
        assert!(peer.say(&more).is_empty() && peer.hear().is_empty(), "{what}");
    }
}

#[test]
fn what_must_be_said_in_one_go_is_known_while_it_is_unfinished_and_told_apart() {
    let mut peer = Peer::fresh(Role::Server);
    let unfinished = |peer: &Peer| peer.session.unfinished();
    let first = unfinished(&peer);
    assert!(first.is_some());
    let opening = [PREFACE, &settings(Settings::default())[..]].concat();
    for (at, byte) in opening.iter().enumerate() {
        assert_eq!(unfinished(&peer), first, "byte {at} of the preface and the settings");
        peer.say(&[*byte]);
    }
    assert_eq!(unfinished(&peer), None);
    // Part of a frame's head may begin anything; what is known of a body is its own matter.
    let sender = peer.posted(1);
    let body = sender.receiver();
    peer.say(&data(1, false, b"some bytes of a body")[..3]);
    assert_eq!(unfinished(&peer), None);
    peer.say(&data(1, false, b"some bytes of a body")[3..15]);
    assert_eq!(unfinished(&peer), None);
    peer.say(&data(1, false, b"some bytes of a body")[15..]);
    // A block is one from its first byte to its last, in however many pieces.
    let block = [frame(1, 1, 3, &[0x82, 0x86]), frame(9, 0, 3, &[0x84]), frame(9, 4, 3, b"\x41\x01a")].concat();
    peer.say(&block[..HEAD]);
    let begun = unfinished(&peer);
    assert!(begun.is_some() && begun != first);
    for byte in &block[HEAD..block.len() - 1] {
        assert!(peer.say(&[*byte]).is_empty());
        assert_eq!(unfinished(&peer), begun);
    }
    // The next one begins with the same read: it is another.
    let next = frame(1, 1, 5, &[0x82, 0x86]);
    assert_eq!(peer.say(&[&block[block.len() - 1..], &next].concat()).len(), 1);
    let another = unfinished(&peer);
    assert!(another.is_some() && another != begun);
    assert_eq!(peer.say(&frame(9, 4, 5, b"\x84\x41\x01a")).len(), 1);
    assert_eq!(unfinished(&peer), None);
    // And so it is with frames that are no headers.
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    peer.say(&ping[..12]);
    let one = unfinished(&peer);
    peer.say(&[&ping[12..], &ping[..12]].concat());
    assert!(one.is_some() && unfinished(&peer).is_some() && unfinished(&peer) != one);
    peer.say(&ping[12..]);
    assert_eq!(unfinished(&peer), None);
    drop((sender, body));
}

#[test]
fn what_ends_a_stream_alone() {
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("WINDOW_UPDATE of nothing", window(1, 0), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of too much", window(1, 0x7fff_ffff), Code::FLOW_CONTROL_ERROR),
        ("PRIORITY too short", frame(kind::PRIORITY, 0, 1, &[0; 4]), Code::FRAME_SIZE_ERROR),
        ("trailers that do not end it", frame(kind::HEADERS, 4, 1, &[0x00, 1, b'a', 1, b'b']), Code::PROTOCOL_ERROR),
        ("DATA after its end", [data(1, true, b""), data(1, false, b"x")].concat(), Code::STREAM_CLOSED),
        ("HEADERS after its end", [data(1, true, b""), frame(1, 5, 1, &[0x82])].concat(), Code::STREAM_CLOSED),
    ];
    for (what, bytes, code) in cases {
        let mut peer = Peer::client();
        let sender = peer.posted(1);
        peer.say(&bytes);
        let heard = peer.hear_one();
        assert_eq!((heard.kind, heard.stream, Code(heard.number(0))), (kind::RST_STREAM, 1, code), "{what}");
        // What was under way when it was reset is ignored, and other streams are served.
        let more = [data(1, false, b"late"), rst(1, Code::CANCEL), window(1, 5), peer.get(3)].concat();
        assert_eq!(peer.say(&more).len(), 1, "{what}");
        assert!(peer.hear().is_empty() && !peer.session.over(), "{what}");
        drop(sender);
    }
}

#[test]
fn malformed_requests_are_reset_and_the_tables_stay_right() {
    for end in [false, true] {
        let mut peer = Peer::client();
        let long = |length: &str| Request::post("http://shop/").header("content-length", length).body(()).unwrap();
        for (stream, request) in [(1, long("x")), (3, long("5, 5"))] {
            let bytes = peer.request(stream, end, request);
            assert!(peer.say(&bytes).is_empty());
            assert_eq!(Code(peer.hear_one().number(0)), Code::PROTOCOL_ERROR);
        }
        let bytes = peer.request(5, true, long("7"));
        assert!(peer.say(&bytes).is_empty(), "a length and no body");
        peer.hear();
        // The table knows what the refused ones said.
        let request = Request::get("http://shop/x").header("x-new", "value").body(()).unwrap();
        let bytes = peer.request(7, true, request.clone());
        assert_eq!(peer.say(&bytes)[0].parts.headers, *request.headers());
    }
}

#[test]
fn a_body_is_as_long_as_its_head_says_or_its_stream_is_reset() {
    let pieces = |bytes: &[&[u8]]| bytes.iter().map(|b| data(1, false, b)).collect::<Vec<_>>().concat();
    for (bytes, right) in [
        ([pieces(&[b"ab", b"c"]), data(1, true, b"de")].concat(), true),
        ([pieces(&[b"abcde"]), data(1, true, b"")].concat(), true),
        ([pieces(&[b"abcd"]), data(1, true, b"")].concat(), false),
        (data(1, true, b"abcd"), false),
        (pieces(&[b"abcd", b"ef"]), false),
    ] {
        let mut peer = Peer::client();
        let request = Request::post("http://shop/").header("content-length", "5").body(()).unwrap();
        let head = peer.request(1, false, request);
        let asked = peer.say(&head).remove(0);
        let sender = peer.serve(&asked);
        let mut body = sender.receiver();
        assert_eq!(body.size_hint().exact(), Some(5));
        peer.say(&bytes);
        let mut got = Vec::new();
        let mut end = None;
        while let Poll::Ready(Some(frame)) = body.poll_frame(&mut cx()) {
            match frame.map(Part::into_data) {
                Ok(part) => got.extend_from_slice(&part.unwrap()),
                Err(code) => end = Some(code),
            }
        }
        assert_eq!((got == b"abcde", end), (right, (!right).then_some(Code::PROTOCOL_ERROR)), "{bytes:?}");
        assert_eq!(peer.hear().iter().any(|f| f.kind == kind::RST_STREAM), !right);
        drop((sender, body));
        peer.assert_balanced();
    }
}

#[test]
fn trailers_end_a_body_and_come_after_it() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    let mut body = sender.receiver();
    let bytes = [data(1, false, b"body"), peer.trailers(1, true)].concat();
    peer.say(&bytes);
    let mut next = || match body.poll_frame(&mut cx()) {
        Poll::Ready(next) => next.map(Result::unwrap),
        Poll::Pending => panic!("more is awaited"),
    };
    assert_eq!(next().and_then(|f| f.into_data().ok()).as_deref(), Some(&b"body"[..]));
    assert_eq!(next().and_then(|f| f.into_trailers().ok()).unwrap()["x-sum"], "7");
    assert!(next().is_none() && body.is_end_stream());
}

#[test]
fn a_connection_says_the_same_whatever_pieces_come() {
    let padded = frame(kind::DATA, flags::PADDED | flags::END_STREAM, 3, &[&[3][..], b"padded", &[0; 3]].concat());
    let mut talk = Peer::client();
    let script = [
        settings(Settings::default()),
        talk.post(1),
        data(1, false, b"some"),
        talk.request(3, false, Request::post("http://shop/y").header("x-long", "z".repeat(500)).body(()).unwrap()),
        frame(kind::PING, 0, 0, b"12345678"),
        data(1, true, b"more"),
        padded,
        frame(0x77, 1, 5, b"unknown"),
        talk.get(5),
        rst(5, Code::CANCEL),
    ]
    .concat();
    let mut outcomes = Vec::new();
    for most in [1, 2, 3, 8, 9, 10, 17, 100, 10_000] {
        let mut peer = Peer::client();
        let (mut senders, mut bodies) = (Vec::new(), Vec::new());
        for piece in script.chunks(most) {
            for asked in peer.say(piece) {
                let sender = peer.serve(&asked);
                bodies.extend((!asked.whole).then(|| sender.receiver()));
                senders.push((asked.parts.uri.to_string(), sender));
            }
        }
        let read = bodies.iter_mut().map(|body| {
            let next = |body: &mut super::super::Received| match body.poll_frame(&mut cx()) {
                Poll::Ready(Some(frame)) => Some(frame.unwrap().into_data().unwrap()),
                _ => None,
            };
            std::iter::from_fn(|| next(body)).flatten().collect::<Vec<u8>>()
        });
        let read: Vec<Vec<u8>> = read.collect();
        let over: Vec<_> = senders.iter().map(|(uri, s)| (uri.clone(), s.poll_reset(&cx()).is_ready())).collect();
        assert!(peer.session.engine.borrow().partial.capacity() == 0, "nothing is kept of what was whole");
        outcomes.push((peer.hear(), read, over));
        drop((senders, bodies));
        peer.assert_balanced();
    }
    assert_eq!(outcomes[0].1, [b"somemore".to_vec(), b"padded".to_vec()]);
    assert_eq!(outcomes[0].2.iter().map(|(_, over)| *over).collect::<Vec<_>>(), [false, false, true]);
    assert!(outcomes.iter().all(|o| *o == outcomes[0]), "{outcomes:?}");
}

#[test]
fn no_more_streams_are_served_than_allowed_though_their_client_resets_them() {
    let mut peer = Peer::client();
    let mut bytes = Vec::new();
    for stream in 0..20 {
        bytes.extend(peer.get(2 * stream + 1));
        bytes.extend(rst(2 * stream + 1, Code::CANCEL));
    }
    let asked = peer.say(&bytes);
    assert_eq!(asked.len(), 8, "those that are still held count");
    let heard = peer.hear();
    assert!(heard.iter().all(|f| f.kind == kind::RST_STREAM && Code(f.number(0)) == Code::REFUSED_STREAM));
    assert_eq!(heard.len(), 12);
    asked.iter().for_each(|asked| drop(peer.serve(asked)));
    let more = peer.get(51);
    let asked = peer.say(&more);
    assert_eq!(asked.len(), 1);
    drop(peer.serve(&asked[0]));
    peer.assert_balanced();
}

#[test]
fn a_request_with_too_many_headers_is_answered_with_431() {
    for (bytes, end) in [(20_000, true), (20_000, false), (40_000, true)] {
        let mut peer = Peer::client();
        let mut block = Vec::new();
        let request = Request::get("http://shop/").header("x", "y".repeat(bytes)).body(()).unwrap();
        peer.deflate.request(&mut block, &request.into_parts().0);
        let mut said = Vec::new();
        let last = block.len().div_ceil(16_000) - 1;
        for (at, part) in block.chunks(16_000).enumerate() {
            let (kind, first) = if at == 0 { (kind::HEADERS, u8::from(end)) } else { (kind::CONTINUATION, 0) };
            said.extend(frame(kind, first | if at == last { flags::END_HEADERS } else { 0 }, 1, part));
        }
        assert!(peer.say(&said).is_empty());
        let heard = peer.hear();
        assert_eq!((heard[0].kind, heard[0].flags, heard[0].stream), (kind::HEADERS, 5, 1));
        let answer = peer.inflate.response(&heard[0].payload, 1_000, &Default::default()).unwrap().0;
        assert_eq!(answer.status, 431);
        assert_eq!(heard.len(), if end { 1 } else { 2 }, "the rest is not wanted: {heard:?}");
        let more = peer.get(3);
        assert_eq!(peer.say(&more).len(), 1, "the connection goes on");
    }
}

#[test]
fn floods_are_cut_off() {
    let calm = Some(Code::ENHANCE_YOUR_CALM);
    // Streams that their client resets at once.
    let mut peer = Peer::client();
    let cut = (0..5_000).position(|i| {
        let bytes = [peer.get(2 * i + 1), rst(2 * i + 1, Code::CANCEL)].concat();
        peer.say(&bytes).iter().for_each(|asked| drop(peer.serve(asked)));
        peer.session.failed()
    });
    assert_eq!((cut, failure(&mut peer)), (Some(1_000), calm));
    // The same, with as many that are answered, goes on.
    let mut peer = Peer::client();
    for i in 0..5_000 {
        let bytes = [peer.get(4 * i + 1), rst(4 * i + 1, Code::CANCEL), peer.get(4 * i + 3)].concat();
        for asked in peer.say(&bytes) {
            peer.serve(&asked).head(StatusCode::OK, &HeaderMap::new(), true);
        }
        peer.hear();
    }
    assert!(!peer.session.failed());
    // Streams that we reset for what comes on them.
    let mut peer = Peer::client();
    let cut = (0..5_000).position(|i| {
        let bytes = [peer.post(2 * i + 1), window(2 * i + 1, 0)].concat();
        peer.say(&bytes).iter().for_each(|asked| drop(peer.serve(asked)));
        peer.session.failed()
    });
    assert_eq!((cut, failure(&mut peer)), (Some(1_000), calm));
    // Frames that say nothing.
    for nothing in [
        data(1, false, b""),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::SETTINGS, 0, 0, &[]),
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        frame(0x42, 0, 1, &[]),
    ] {
        let mut peer = Peer::client();
        let sender = peer.posted(1);
        peer.say(&nothing.repeat(9_000));
        assert!(!peer.session.failed());
        peer.session.heard();
        peer.say(&nothing.repeat(9_000));
        assert!(!peer.session.failed(), "time went by in between");
        peer.say(&nothing.repeat(2_000));
        assert_eq!(failure(&mut peer), calm, "{nothing:?}");
        drop(sender);
    }
    // Header blocks without end.
    for part in [&[][..], &[0; 100], &[0; 16_000]] {
        let mut peer = Peer::client();
        peer.say(&frame(kind::HEADERS, 0, 1, &[0x82]));
        let cut = (0..100).position(|_| {
            peer.say(&frame(kind::CONTINUATION, 0, 1, part));
            peer.session.failed()
        });
        assert!(cut.is_some_and(|frames| frames <= 64), "{cut:?}");
        assert_eq!(failure(&mut peer), calm);
    }
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_does_not_read_is_not_listened_to_until_it_does() {
    let (near, mut far) = pair().await;
    tokio::io::AsyncWriteExt::write_all(&mut far, &frame(kind::PING, 0, 0, &[0; 8])).await.unwrap();
    near.readable().await.unwrap();
    let mut near = Transport::Plain(near);
    let mut peer = Peer::client();
    let pings = frame(kind::PING, 0, 0, &[0; 8]).repeat(9_000);
    for _ in 0..2 {
        peer.session.heard();
        peer.say(&pings);
    }
    let (count, waker) = Count::new();
    let mut cx = Context::from_waker(&waker);
    assert!(peer.session.poll_read(&mut cx, &mut near).is_pending(), "306,000 bytes wait for it");
    let mut gone = tokio::io::sink();
    assert!(peer.session.poll_flush(&mut cx, &mut gone).is_ready());
    assert_eq!(count.take(), 1, "the task is to look again");
    assert!(matches!(peer.session.poll_read(&mut cx, &mut near), Poll::Ready(Ok(true))), "it is listened to again");
}

#[test]
fn an_idle_connection_takes_little_memory() {
    let engine = size_of::<super::super::session::Engine>();
    let stream = size_of::<super::super::streams::Stream>();
    assert!(engine <= 1_536 && stream <= 640, "{engine} and {stream} bytes");
    // What it wrote and read is given back.
    let mut peer = Peer::client();
    for stream in 0..5 {
        let get = peer.get(2 * stream + 1);
        let asked = peer.say(&get).remove(0);
        peer.serve(&asked).head(StatusCode::OK, &HeaderMap::new(), true);
        peer.hear();
    }
    let engine = peer.session.engine.borrow();
    assert!(engine.input.is_empty() && engine.partial.capacity() == 0 && engine.out.held() == 0);
}
