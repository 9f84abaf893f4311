//! Windows: what may be sent, what may be received, and that none of it is ever lost.

use super::super::session::MAX_WAITING;
use super::super::{CONNECTION_WINDOW, MAX_HELD, Received, STREAM_WINDOW};
use super::*;

fn take(body: &mut Received) -> usize {
    let mut all = 0;
    while let Poll::Ready(Some(Ok(frame))) = body.poll_frame(&mut cx()) {
        all += frame.into_data().unwrap().len();
    }
    all
}

/// Sends what can be sent of so many bytes; what is left.
fn send(sender: &Sender, bytes: usize) -> usize {
    let mut data = Bytes::from(vec![7; bytes]);
    let _ = sender.poll_data(&mut cx(), &mut data, false);
    data.len()
}

fn sent(frames: &[Frame], stream: u32) -> usize {
    let data = frames.iter().filter(|f| f.kind == kind::DATA && f.stream == stream);
    data.map(|f| f.payload.len()).sum()
}

fn with_windows(stream: u32) -> Peer {
    Peer::with(Role::Server, &Settings { initial_window_size: Some(stream), ..Settings::default() })
}

/// What a peer is allowed to send once more.
fn allowed(frames: &[Frame]) -> Vec<(u32, u32)> {
    frames.iter().filter(|f| f.kind == kind::WINDOW_UPDATE).map(|f| (f.stream, f.number(0))).collect()
}

#[test]
fn no_more_is_sent_than_the_windows_allow() {
    let mut peer = with_windows(1_000);
    let (first, second) = (peer.posted(1), peer.posted(3));
    assert_eq!(send(&first, 1_500), 500);
    assert_eq!(sent(&peer.hear(), 1), 1_000);
    peer.say(&window(1, 200));
    assert_eq!(send(&first, 500), 300);
    assert_eq!(sent(&peer.hear(), 1), 200);
    // The other's window is its own, but the connection's is all that there is for both.
    peer.say(&window(3, 100_000));
    let left = send(&second, 100_000);
    assert_eq!((sent(&peer.hear(), 3), left), (65_535 - 1_200, 100_000 - 65_535 + 1_200));
    peer.say(&window(0, 10));
    assert_eq!(send(&second, 5), 0);
}

#[test]
fn settings_change_the_windows_of_streams_under_way_below_nothing_too() {
    let mut peer = with_windows(1_000);
    let sender = peer.posted(1);
    assert_eq!(send(&sender, 700), 0);
    let small = |window| settings(Settings { initial_window_size: Some(window), ..Settings::default() });
    peer.say(&small(100));
    assert_eq!(send(&sender, 50), 50, "its window is 600 below nothing");
    peer.say(&window(1, 600));
    assert_eq!(send(&sender, 50), 50);
    let (count, waker) = Count::new();
    let mut data = Bytes::from_static(&[1; 50]);
    assert!(sender.poll_data(&mut Context::from_waker(&waker), &mut data, false).is_pending());
    peer.say(&small(120));
    assert!(count.take() > 0, "it is told that there is room");
    assert_eq!(send(&sender, 50), 30);
    // And one that would be too large ends the connection.
    peer.say(&window(1, 0x7fff_ffff));
    peer.say(&small(0x7fff_ffff));
    let last = peer.hear().pop().unwrap();
    assert_eq!((last.kind, Code(last.number(4))), (kind::GOAWAY, Code::FLOW_CONTROL_ERROR));
}

#[test]
fn who_waits_for_the_connections_window_is_served_in_turn() {
    let mut peer = with_windows(1 << 30);
    let mut senders: Vec<_> = (0..4).map(|i| peer.posted(2 * i + 1)).collect();
    // The first one uses up the window.
    assert_eq!((send(&senders[0], 60_000), peer.hear().len()), (0, 4));
    assert_eq!((send(&senders[0], 5_535), peer.hear().len()), (0, 1));
    let counts: Vec<_> = senders.iter().map(|_| Count::new()).collect();
    let mut rests: Vec<_> = senders.iter().map(|_| Bytes::from(vec![1; 3_000])).collect();
    let mut served = Vec::new();
    let poll = |at: usize, rests: &mut Vec<Bytes>, senders: &[Sender]| {
        senders[at].poll_data(&mut Context::from_waker(&counts[at].1), &mut rests[at], false)
    };
    (0..4).for_each(|at| assert!(poll(at, &mut rests, &senders).is_pending()));
    for _ in 0..8 {
        counts.iter().for_each(|(count, _)| _ = count.take());
        peer.say(&window(0, 3_000));
        let woken: Vec<usize> = (0..4).filter(|at| counts[*at].0.take() > 0).collect();
        assert_eq!(woken.len(), 1, "one is woken, and no more: {woken:?}");
        // Who is not the first gets nothing, though there is room.
        let other = (woken[0] + 2) % 4;
        assert!(poll(other, &mut rests, &senders).is_pending());
        assert!(poll(woken[0], &mut rests, &senders).is_ready());
        served.push(woken[0]);
        rests[woken[0]] = Bytes::from(vec![1; 3_000]);
        assert!(poll(woken[0], &mut rests, &senders).is_pending(), "it stands at the end of the line now");
    }
    assert_eq!(served, [0, 1, 2, 3, 0, 1, 2, 3]);
    // One that goes away lets the next one through.
    counts.iter().for_each(|(count, _)| _ = count.take());
    peer.say(&window(0, 100));
    assert_eq!(counts[0].0.take(), 1);
    drop(senders.remove(0));
    assert_eq!(counts[1].0.take(), 1);
    peer.say(&rst(3, Code::CANCEL));
    assert!(counts[2].0.take() > 0);
}

#[test]
fn what_waits_to_be_written_is_bounded_and_goes_on_when_it_was() {
    let mut peer = with_windows(1 << 30);
    peer.say(&window(0, 1 << 30));
    let sender = peer.posted(1);
    let (count, waker) = Count::new();
    let mut data = Bytes::from(vec![1; 1 << 20]);
    let mut all = 0;
    while !data.is_empty() {
        let _ = sender.poll_data(&mut Context::from_waker(&waker), &mut data, true);
        assert!(peer.session.engine.borrow().out.waiting() <= MAX_WAITING + 100);
        count.take();
        let heard = peer.hear();
        assert!(heard.iter().all(|f| f.payload.len() <= 16_384));
        all += sent(&heard, 1);
        assert_eq!(count.take(), usize::from(!data.is_empty()), "it is told when there is room");
    }
    assert_eq!(all, 1 << 20);
}

#[test]
fn a_peer_may_send_again_what_was_taken_and_small_bodies_cost_no_update() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    let mut body = sender.receiver();
    let part = data(1, false, &[0; 16_000]);
    for _ in 0..8 {
        peer.say(&part);
    }
    assert!(peer.hear().is_empty(), "what nobody took may not be sent again");
    assert_eq!(take(&mut body), 128_000);
    assert!(peer.hear().is_empty(), "and of less than half of the window nothing is said");
    peer.say(&part);
    assert_eq!(take(&mut body), 16_000);
    assert_eq!(allowed(&peer.hear()), [(1, 144_000)]);
    for _ in 0..32 {
        peer.say(&part);
        take(&mut body);
    }
    let all: u32 = allowed(&peer.hear()).iter().filter(|(stream, _)| *stream == 0).map(|(_, more)| more).sum();
    assert!(all >= CONNECTION_WINDOW / 2);
    drop((sender, body));
    peer.assert_balanced();
}

#[test]
fn more_than_a_window_ends_the_stream_or_the_connection() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    let part = data(1, false, &[0; 16_384]);
    for _ in 0..STREAM_WINDOW / 16_384 {
        peer.say(&part);
        assert!(peer.hear().is_empty());
    }
    peer.say(&data(1, false, b"x"));
    assert_eq!(Code(peer.hear()[0].number(0)), Code::FLOW_CONTROL_ERROR);
    drop(sender);
    peer.assert_balanced();
    // All streams together, which are more than a connection may hold.
    let mut peer = Peer::client();
    peer.session.engine.borrow_mut().limits.streams = 100;
    let streams = MAX_HELD / STREAM_WINDOW + 1;
    let senders: Vec<_> = (0..streams).map(|i| peer.posted(2 * i + 1)).collect();
    for i in 0..MAX_HELD / 16_384 {
        peer.say(&data(2 * (i % streams) + 1, false, &[0; 16_384]));
        assert!(!peer.session.failed(), "{i}");
    }
    let more: u32 = allowed(&peer.hear()).iter().filter(|(stream, _)| *stream == 0).map(|(_, more)| more).sum();
    assert_eq!(more + CONNECTION_WINDOW, MAX_HELD);
    peer.say(&data(1, false, b"x"));
    assert_eq!(Code(peer.hear().last().unwrap().number(4)), Code::FLOW_CONTROL_ERROR);
    drop(senders);
}

#[test]
fn streams_that_nobody_reads_hold_up_no_others() {
    let mut peer = Peer::client();
    peer.session.engine.borrow_mut().limits.streams = 100;
    let stalled: Vec<_> = (0..30).map(|i| peer.posted(2 * i + 1)).collect();
    let mut may = CONNECTION_WINDOW;
    for i in 0..30 {
        for _ in 0..STREAM_WINDOW / 16_384 {
            may = may.checked_sub(16_384).expect("the peer may send no more");
            peer.say(&data(2 * i + 1, false, &[0; 16_384]));
            may += allowed(&peer.hear()).iter().filter(|(stream, _)| *stream == 0).map(|(_, more)| more).sum::<u32>();
        }
    }
    let other = peer.posted(61);
    let mut body = other.receiver();
    peer.say(&data(61, false, &[0; 1_000]));
    assert_eq!(take(&mut body), 1_000);
    assert!(may > CONNECTION_WINDOW / 2, "{may}");
    drop((stalled, other, body));
    peer.assert_balanced();
}

#[test]
fn padding_counts_and_comes_back() {
    let mut peer = Peer::client();
    let sender = peer.posted(1);
    let mut body = sender.receiver();
    for _ in 0..1_000 {
        peer.say(&frame(kind::DATA, flags::PADDED, 1, &[&[255][..], &[0; 255]].concat()));
    }
    let heard = allowed(&peer.hear());
    assert_eq!(heard, [(1, 131_072)], "256,000 bytes came, with what says how many are padding");
    assert_eq!(take(&mut body), 0);
    drop((sender, body));
    peer.assert_balanced();
}

#[test]
fn a_stream_that_ends_in_any_way_gives_back_what_nobody_took() {
    let body = data(1, false, &[0; 10_000]);
    type End = fn(&mut Peer, Sender, Received);
    let ends: [(&str, End); 6] = [
        ("dropped", |_, sender, body| drop((sender, body))),
        ("its body dropped first", |peer, sender, body| {
            drop(body);
            peer.say(&data(1, true, &[0; 10_000]));
            drop(sender);
        }),
        ("reset by its client", |peer, sender, body| {
            peer.say(&rst(1, Code::CANCEL));
            drop((sender, body));
        }),
        ("reset here, and more comes", |peer, sender, body| {
            sender.reset(Code::CANCEL);
            peer.say(&data(1, true, &[0; 10_000]));
            drop((sender, body));
        }),
        ("answered", |peer, sender, body| {
            sender.head(StatusCode::OK, &HeaderMap::new(), true);
            drop((sender, body));
            peer.say(&data(1, true, &[0; 10_000]));
        }),
        ("half taken", |_, sender, mut body| {
            let _ = body.poll_frame(&mut cx());
            drop((body, sender));
        }),
    ];
    for (what, end) in ends {
        let mut peer = Peer::client();
        let sender = peer.posted(1);
        let receiver = sender.receiver();
        peer.say(&body);
        peer.say(&body);
        end(&mut peer, sender, receiver);
        assert!(!peer.session.failed(), "{what}");
        peer.assert_balanced();
    }
}
