//! What is taken in of what comes from a server, whoever wrote it, and what is done without one. With servers: the tests end to end.

use super::super::refusals::tests::logged;
use super::super::wire::{Head, Writer};
use super::super::{Keys, hash, wall_ms};
use super::*;
use crate::config::ByteSize;

const KEY: &str = "a key of at least 16 characters";
/// How much is opened in a second.
const HEAR: u64 = 8 << 20;

/// A member whose server is nowhere.
fn member() -> Nats {
    let settings = Settings {
        node: "a".into(),
        zone: "eu-1a".into(),
        incarnation: 1,
        keyring: keyring(KEY),
        budget: 1 << 16,
        nats: config::Nats { servers: vec!["nats://127.0.0.1:1".into()], hear: ByteSize(HEAR), ..Default::default() },
    };
    Nats::start(settings, Arc::default())
}

fn keyring(key: &str) -> Arc<Keyring> {
    Arc::new(Keyring::new(Keys::read(key).unwrap()).unwrap())
}

fn sealed(key: &str, kind: Kind, message: &[u8]) -> Vec<u8> {
    keyring(key).seal(kind, message).unwrap()
}

fn report() -> Vec<u8> {
    Writer::new(&Head { node: "b".into(), zone: "".into(), incarnation: 1, sequence: 1, made_ms: wall_ms() }, 1_000)
        .finish()
}

fn subject(caller: &str, called: &str) -> String {
    Subjects::new("pathloom", "eu-1b", &[]).report(hash(caller), hash(called))
}

#[tokio::test]
async fn what_is_not_sealed_with_the_meshs_key_or_is_not_what_its_subject_says_is_refused_and_nothing_of_it_kept() {
    let mut member = member();
    let shared = member.shared.clone();
    let take = |message: &[u8], because| {
        let size = message.len();
        shared.open(message, size, because).map_err(|(refused, _)| refused)
    };
    let peers = || lock(&shared.peers).count();
    let hello = Peers::new("b".into(), 1).hello();
    for (message, because, refused) in [
        (sealed("another key of that length", Kind::Report, &report()), Because::Caller, Refused::Forged),
        (sealed("another key of that length", Kind::Gossip, &hello), Because::Alive, Refused::Forged),
        (sealed(KEY, Kind::Gossip, &hello), Because::Caller, Refused::Malformed),
        (sealed(KEY, Kind::Report, &report()), Because::Alive, Refused::Malformed),
        (report(), Because::Called, Refused::Malformed),
    ] {
        assert_eq!(take(&message, because), Err(refused));
        assert!(member.reports.try_recv().is_err() && peers() == 0);
    }
    let report = report();
    let good = sealed(KEY, Kind::Report, &report);
    assert_eq!(take(&good, Because::Caller), Ok(()));
    assert_eq!(take(&good, Because::Caller), Err(Refused::Replayed), "a server may send anything twice");
    assert_eq!(member.reports.try_recv().unwrap(), report);
    assert_eq!(take(&sealed(KEY, Kind::Gossip, &hello), Because::Alive), Ok(()));
    assert_eq!((peers(), member.peers()), (1, 1));
}

#[tokio::test]
async fn a_report_that_comes_for_both_of_its_services_is_taken_in_once() {
    let mut member = member();
    member.shared.wants.store(Arc::new(Interest::in_services(["catalog", "storage"])));
    for (caller, called, because, times) in [
        ("catalog", "storage", &[Because::Caller, Because::Called][..], 1),
        ("frontend", "catalog", &[Because::Called], 1),
        ("storage", "payment", &[Because::Caller], 1),
    ] {
        let message = sealed(KEY, Kind::Report, &report());
        for because in because {
            member.shared.take(&subject(caller, called), &message, *because);
        }
        let mut taken = 0;
        while member.reports.try_recv().is_ok() {
            taken += 1;
        }
        assert_eq!(taken, times, "{caller} {called}");
    }
    let refused = member.shared.counters.refusals();
    assert_eq!(refused, 0, "the second one is no replay");
}

#[tokio::test]
async fn what_comes_faster_than_it_is_read_is_dropped_and_counted() {
    let mut member = member();
    let (ring, report) = (keyring(KEY), report());
    for _ in 0..WAITING + 3 {
        let message = ring.seal(Kind::Report, &report).unwrap();
        member.shared.take(&subject("a", "b"), &message, Because::Caller);
    }
    assert_eq!((member.shared.counters.unheards(), member.receive().await), (3, report));
    // And more than is opened in a second, however well it is read; what is too large is not even looked at.
    let (large, most, begun) = (vec![0; wire::MAX_BYTES], HEAR / wire::MAX_BYTES as u64, Instant::now());
    for _ in 0..2 * most {
        member.shared.take(&subject("a", "b"), &large, Because::Caller);
    }
    let (looked_at, dropped) = (member.shared.counters.refusals(), member.shared.counters.unheards() - 3);
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(looked_at <= most * seconds && looked_at + dropped == 2 * most, "{looked_at} and {dropped} in {seconds} s");
    member.shared.take(&subject("a", "b"), &vec![0; wire::MAX_BYTES + OVERHEAD + 1], Because::Caller);
    assert_eq!((member.shared.counters.refusals(), member.shared.counters.unheards() - 3), (looked_at + 1, dropped));
}

#[tokio::test]
async fn without_a_server_nothing_is_sent_and_nothing_held() {
    let mut member = member();
    member.want(&Interest::in_services(["catalog"])).await;
    assert!(member.room().await.is_empty());
    member.send(To::Services { caller: 1, called: 2 }, &report()).await;
    assert_eq!((member.peers(), member.subscriptions.len(), member.sent), (0, 0, false));
    assert_eq!(member.shared.counters.sent_bytes(Kind::Report), 0);
}

#[tokio::test]
async fn who_is_refused_is_named_in_the_log_by_its_subject_or_where_it_can_be_read_by_its_node() {
    let member = member();
    let stranger = sealed("another key of that length", Kind::Report, &report());
    let twin = sealed(KEY, Kind::Gossip, &Peers::new("a".into(), 1).hello());
    let (from, alive) = (subject("a", "b"), Subjects::new("pathloom", "eu-1b", &[]).alive());
    let lines = logged(|| {
        for _ in 0..3 {
            member.shared.take(&from, &stranger, Because::Caller);
        }
        member.shared.take(&alive, &twin, Because::Alive);
    });
    let lines: Vec<_> = lines.iter().filter(|line| line.contains("refused")).collect();
    let [forged, own_name] = &lines[..] else { panic!("{lines:?}") };
    assert!(forged.contains("WARN") && forged.contains("forged") && forged.contains(&from), "{forged}");
    assert!(own_name.contains("WARN") && own_name.contains("own_name") && own_name.contains("node a"), "{own_name}");
}
