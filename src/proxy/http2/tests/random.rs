//! Thousands of frames, right and wrong, in any order and in any pieces.
//!
//! Whatever comes: no panic, no more memory than the bounds say, and when all is over nothing is left of any window.

use super::super::session::MAX_WAITING;
use super::super::{CONNECTION_WINDOW, MAX_HELD, Received};
use super::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What serves, or asks, on the connection's side.
#[derive(Default)]
struct Ours {
    senders: Vec<Sender>,
    bodies: Vec<Received>,
    asking: Vec<Asking>,
}

/// A frame: one that may come where `wild` is not set, else any.
fn any_frame(peer: &mut Peer, rng: &mut SmallRng, next: &mut u32, wild: bool) -> Vec<u8> {
    let (role, open) = {
        let engine = peer.session.engine.borrow();
        let open = (0..400).filter_map(|slot| engine.streams.look(slot));
        (engine.role, open.filter(|s| s.receiving).map(|s| (s.id, s.awaiting, s.receive_window)).collect::<Vec<_>>())
    };
    let (mut stream, mut awaiting, mut room) = (0, rng.random(), 3_000);
    if wild {
        stream =
            if rng.random() { rng.random_range(0..50) } else { (*next).saturating_sub(2 * rng.random_range(1..5)) };
    } else if !open.is_empty() {
        (stream, awaiting, room) = open[rng.random_range(0..open.len())];
        room = room.min(peer.session.engine.borrow().receive_window);
    }
    let end = rng.random_bool(0.2);
    let on_stream = wild || stream != 0;
    match rng.random_range(0..100) {
        0..25 if wild || role == Role::Server => {
            *next += 2;
            if rng.random() { peer.get(*next - 2) } else { peer.post(*next - 2) }
        }
        25..55 if wild || on_stream && !awaiting => {
            data(stream, end, &vec![0; rng.random_range(0..3_000).min(room.max(0)) as usize])
        }
        55..60 if wild || on_stream && !awaiting && room > 300 => {
            frame(kind::DATA, flags::PADDED, stream, &vec![rng.random_range(0..40); rng.random_range(40..300)])
        }
        60..73 if wild || on_stream && awaiting => {
            let status = [103, 200, 200][rng.random_range(0..3)];
            peer.response(stream, end && status == 200, status, &HeaderMap::new())
        }
        73..76 if wild || on_stream && !awaiting => peer.trailers(stream, true),
        76..80 if on_stream => rst(stream, Code(rng.random_range(0..14))),
        80..85 if on_stream => window(stream, rng.random_range(1..7_000)),
        85..90 => window(0, rng.random_range(1..7_000)),
        90..93 => settings(Settings { initial_window_size: Some(rng.random_range(0..100_000)), ..Settings::default() }),
        93..95 => frame(kind::PING, rng.random_range(0..2), 0, &[7; 8]),
        95 if on_stream => frame(kind::PRIORITY, 0, stream, &[0; 5]),
        96 => frame(0x33, 0xff, stream, &[1; 30]),
        97 if rng.random_bool(0.1) => goaway(rng.random_range(0..1_000), Code::NO_ERROR),
        98 if wild => (0..rng.random_range(1..60)).map(|_| rng.random()).collect(),
        _ => Vec::new(),
    }
}

/// Does something on the connection's side; how many answers came.
fn act(peer: &mut Peer, rng: &mut SmallRng, ours: &mut Ours) -> usize {
    match rng.random_range(0..12) {
        0..3 if !ours.senders.is_empty() => {
            let sender = &ours.senders[rng.random_range(0..ours.senders.len())];
            let mut data = Bytes::from(vec![1; rng.random_range(0..20_000)]);
            let _ = sender.poll_data(&mut cx(), &mut data, rng.random_bool(0.3));
        }
        3 if !ours.senders.is_empty() => {
            let sender = &ours.senders[rng.random_range(0..ours.senders.len())];
            sender.head(StatusCode::OK, &HeaderMap::new(), rng.random_bool(0.5));
        }
        4 if !ours.senders.is_empty() => drop(ours.senders.swap_remove(rng.random_range(0..ours.senders.len()))),
        5..8 if !ours.bodies.is_empty() => {
            let at = rng.random_range(0..ours.bodies.len());
            let _ = ours.bodies[at].poll_frame(&mut cx());
        }
        8 if !ours.bodies.is_empty() => drop(ours.bodies.swap_remove(rng.random_range(0..ours.bodies.len()))),
        9 if peer.session.engine.borrow().role == Role::Client => {
            let request = Request::post("http://shop/").body(()).unwrap();
            if let Poll::Ready(Some(asking)) = peer.open(request, rng.random()) {
                ours.senders.push(asking.sender());
                ours.asking.push(asking);
            }
        }
        10 if !ours.asking.is_empty() => {
            let asking = ours.asking.swap_remove(rng.random_range(0..ours.asking.len()));
            match asking.poll_head(&cx()) {
                Poll::Ready(Ok(_)) => {
                    ours.bodies.push(asking.into_body());
                    return 1;
                }
                Poll::Pending if rng.random_bool(0.9) => ours.asking.push(asking),
                _ => {}
            }
        }
        11 if rng.random_bool(0.01) => peer.session.leave(),
        _ => drop(peer.hear()),
    }
    0
}

#[test]
fn whatever_comes_leaves_nothing_behind() {
    let seed = rand::random();
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut survived, mut served, mut answered) = (0, 0, 0);
    for round in 0..400 {
        let role = if round % 2 == 0 { Role::Server } else { Role::Client };
        let wildness = [0.0, 0.01, 0.2][round % 3];
        let mut peer = Peer::with(role, &Settings::default());
        let (mut ours, mut next, mut waiting) = (Ours::default(), 1, Vec::new());
        for _ in 0..300 {
            let wild = rng.random_bool(wildness);
            waiting.extend(any_frame(&mut peer, &mut rng, &mut next, wild));
            let until = if wild || wildness > 0.1 { rng.random_range(0..=waiting.len()) } else { waiting.len() };
            let piece: Vec<u8> = waiting.drain(..until).collect();
            for asked in peer.say(&piece) {
                served += 1;
                let sender = peer.serve(&asked);
                ours.bodies.extend((!asked.whole).then(|| sender.receiver()));
                ours.senders.push(sender);
            }
            answered += act(&mut peer, &mut rng, &mut ours);
            let engine = peer.session.engine.borrow();
            let held: usize = (0..400).filter_map(|slot| engine.streams.look(slot)).map(|s| s.arrived.length).sum();
            let under_way = engine.reading.under_way();
            let (said, may) = (engine.held, engine.receive_window);
            assert!(engine.failed || said == (held + under_way) as i64, "seed {seed}, round {round}: {said}");
            assert!(engine.failed || said + may <= i64::from(MAX_HELD), "seed {seed}, round {round}: {said} {may}");
            assert!(engine.failed || may > i64::from(CONNECTION_WINDOW / 4), "seed {seed}, round {round}: {may}");
            assert!(engine.out.waiting() <= MAX_WAITING + 300 * 200, "seed {seed}: {}", engine.out.waiting());
            assert!(engine.partial.len() < 16_384 + HEAD && engine.streams.held() <= 310, "seed {seed}");
        }
        survived += usize::from(!peer.session.failed());
        drop(ours);
        peer.hear();
        let engine = peer.session.engine.borrow();
        assert_eq!((engine.streams.held(), engine.streams.open()), (0, 0), "seed {seed}, round {round}");
        assert_eq!((engine.line.len(), engine.openers.len()), (0, 0), "seed {seed}, round {round}");
    }
    let deep = (survived, served, answered);
    assert!(survived > 100 && served > 1_000 && answered > 200, "{deep:?}: else this shows nothing");
}
