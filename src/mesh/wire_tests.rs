//! Tests of what travels: it comes out as it went in, and whatever else comes is refused.

use super::*;
use crate::links::Sketch;
use proptest::prelude::*;

fn head() -> Head {
    Head { node: "node-b".into(), zone: "eu-1".into(), incarnation: 7, sequence: 9, made_ms: 1_000_000 }
}

fn key(n: usize) -> LinkKey {
    LinkKey::new(&NodeKey::new("10.0.0.1:80"), &NodeKey::new(&format!("10.0.{}.{}:8080", n / 250, n % 250)))
}

fn account(latencies_s: &[f64]) -> Account {
    let mut sketch = Sketch::default();
    latencies_s.iter().for_each(|s| sketch.record(*s));
    Account {
        latency: sketch.counts(),
        mean_s: sketch.mean().map(|m| m as f32),
        ewma_s: Some(0.021),
        baseline_s: Some(0.019),
        baseline_samples: 1234.5,
        jitter_s: Some(0.0),
        calls_per_second: 12.5,
        error_rate: Some(0.25),
        in_flight: 3.0,
        age_s: Some(0.5),
    }
}

fn written(links: &[(LinkKey, Account)], known: &dyn Fn(&NodeKey) -> Option<NodeAccount>) -> Vec<u8> {
    let mut writer = Writer::new(&head(), MAX_BYTES);
    assert!(links.iter().all(|(key, account)| writer.link(key, account, &mut |key| known(key))));
    writer.finish()
}

fn wire() -> WireReport {
    let bytes = written(&[(key(1), account(&[0.01, 0.02]))], &|_| None);
    WireReport::decode(bytes.as_slice()).unwrap()
}

/// What becomes of a report that was changed.
fn changed(change: impl Fn(&mut WireReport)) -> Result<Report, Refused> {
    let mut wire = wire();
    change(&mut wire);
    Report::read(&wire.encode_to_vec())
}

#[test]
fn a_report_says_what_was_written() {
    let report = orca::Report { cpu_utilization: Some(0.5), errors_per_second: Some(0.0), ..Default::default() };
    let described = Described { service: "catalog".into(), zone: "eu-1".into(), host: "".into() };
    let known = |key: &NodeKey| {
        key.0.ends_with(":8080").then(|| NodeAccount { described: described.clone(), report: Some((report, 1.5)) })
    };
    let links = [(key(1), account(&[0.01, 0.02, 0.02, 0.3])), (key(2), Account::default())];
    let read = Report::read(&written(&links, &known)).unwrap();
    assert_eq!((&read.head, read.links.len()), (&head(), 2));
    for ((key, account), (key_read, account_read)) in links.iter().zip(&read.links) {
        assert_eq!(key, key_read);
        let (told, stats) = (account_read.stats(), account.stats());
        let near = |a: Option<f32>, b: Option<f32>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= b.abs() * 1e-3 + 1e-6,
            (a, b) => a == b,
        };
        assert!(near(told.latency_mean_s, stats.latency_mean_s) && near(told.latency_p99_s, stats.latency_p99_s));
        assert!(near(told.jitter_s, stats.jitter_s) && near(told.error_rate, stats.error_rate));
        assert!(near(told.calls_per_second, stats.calls_per_second) && near(told.age_s, stats.age_s));
        assert!(near(Some(told.samples), Some(stats.samples)) && told.in_flight == stats.in_flight);
        assert!(near(Some(account_read.baseline_samples), Some(account.baseline_samples)));
    }
    let nodes: Vec<_> = read.nodes.iter().map(|(key, node)| (&*key.0, node.report)).collect();
    assert_eq!(nodes, [("10.0.0.1:8080", Some((report, 1.5))), ("10.0.0.2:8080", Some((report, 1.5)))]);
    assert_eq!(read.nodes[0].1.described, described);
}

#[test]
fn a_full_report_takes_no_more_and_is_as_good_as_before() {
    let mut writer = Writer::new(&head(), 1_150);
    let described = NodeAccount { described: Described { service: "s".into(), ..Default::default() }, report: None };
    let fitted = (0..200).take_while(|n| writer.link(&key(*n), &account(&[0.01]), &mut |_| Some(described.clone())));
    let fitted = fitted.count();
    assert!((8..100).contains(&fitted), "{fitted}");
    let bytes = writer.finish();
    assert!(bytes.len() <= 1_150, "{}", bytes.len());
    let read = Report::read(&bytes).unwrap();
    assert_eq!((read.links.len(), read.nodes.len()), (fitted, fitted + 1));
}

#[test]
fn an_instance_is_named_with_each_report_in_which_its_links_are() {
    let mut asked = 0;
    let mut known = |_: &NodeKey| {
        asked += 1;
        None
    };
    let mut writer = Writer::new(&head(), 400);
    let mut reports = 0;
    for n in 0..20 {
        if !writer.link(&key(n), &account(&[0.01]), &mut known) {
            let full = std::mem::replace(&mut writer, Writer::new(&head(), 400));
            assert!(!Report::read(&full.finish()).unwrap().links.is_empty());
            reports += 1;
            assert!(writer.link(&key(n), &account(&[0.01]), &mut known), "an empty one has room");
        }
    }
    assert!(reports > 2 && asked >= 40, "{reports} {asked}");
}

#[test]
fn what_cannot_be_refuses_the_whole_report_and_says_why() {
    assert!(changed(|_| {}).is_ok());
    type Change = fn(&mut WireReport);
    let absurd: [(&str, Change); 14] = [
        ("a place that is none", |w| w.links[0].destination = 99),
        ("no latency", |w| w.links[0].mean_us = Some(0)),
        ("more than an hour", |w| w.links[0].ewma_us = Some(u32::MAX)),
        ("beyond the sketch", |w| w.links[0].low = 346),
        ("far beyond the sketch", |w| w.links[0].low = u32::MAX),
        ("more buckets than there are", |w| w.links[0].counts = vec![1; 347]),
        ("samples of nothing", |w| w.links[0].counts.clear()),
        ("1e16 samples", |w| w.links[0].samples_milli = u64::MAX),
        ("1e16 calls", |w| w.links[0].calls_milli = u64::MAX),
        ("more errors than calls", |w| w.links[0].errors_ppm = Some(1_000_001)),
        ("an age of years", |w| w.links[0].age_ms = Some(u32::MAX)),
        ("a name without end", |w| w.names[0] = "x".repeat(257)),
        ("a name with a line's end", |w| w.names[0] = "a\nb".into()),
        ("nobody's", |w| w.node.clear()),
    ];
    for (what, change) in absurd {
        assert_eq!(changed(change).err(), Some(Refused::Absurd), "{what}");
    }
    for bad in [f32::NAN, f32::INFINITY, -1.0, 2.0] {
        let node = WireNode { name: 1, memory: Some(bad), age_ms: Some(1), ..WireNode::default() };
        assert_eq!(changed(|w| w.nodes.push(node.clone())).err(), Some(Refused::Absurd), "{bad}");
    }
    assert_eq!(changed(|w| w.nodes.push(WireNode::default())).err(), Some(Refused::Absurd), "an instance of no name");
    assert_eq!(changed(|w| w.links = vec![WireLink::default(); 513]).err(), Some(Refused::Absurd));
    assert_eq!(changed(|w| w.zone = "z".repeat(MAX_BYTES)).err(), Some(Refused::TooLarge));
    assert_eq!(Report::read(&[0xff; 40]).err(), Some(Refused::Malformed));
}

#[test]
fn a_later_version_may_add_fields_and_may_not_change_their_meaning() {
    let mut bytes = wire().encode_to_vec();
    // Field 100, a text, and field 101, a number: nobody knows them yet.
    bytes.extend([0xa2, 0x06, 3, b'n', b'e', b'w', 0xa8, 0x06, 42]);
    assert_eq!(Report::read(&bytes), changed(|_| {}));
    for version in [0, 2, u32::MAX] {
        assert_eq!(changed(|w| w.version = version).err(), Some(Refused::Version));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        let _ = Report::read(&bytes);
        let mut nearly = wire().encode_to_vec();
        for (at, value) in flips {
            let at = at.index(nearly.len());
            nearly[at] = value;
        }
        if let Ok(report) = Report::read(&nearly) {
            for (_, account) in report.links {
                let stats = account.stats();
                let values = [stats.latency_mean_s, stats.latency_p99_s, stats.jitter_s, stats.calls_per_second, stats.age_s];
                prop_assert!(values.iter().flatten().all(|v| v.is_finite() && *v >= 0.0), "{:?}", stats);
            }
        }
    }

    #[test]
    fn percentiles_survive_the_journey(latencies in prop::collection::vec(2e-5f64..10.0, 1..200), q in 0.01f64..0.99) {
        let before = account(&latencies);
        let read = Report::read(&written(&[(key(1), before.clone())], &|_| None)).unwrap();
        let after = read.links[0].1.latency.sketch();
        // Of 4,096 parts each bucket may gain or lose a half: a percentile moves by no more than the buckets together.
        let moved = before.latency.counts.iter().filter(|c| **c > 0.0).count() as f64 * 0.5 / 4_096.0 + 1e-6;
        let sketch = before.latency.sketch();
        let (low, high) = (sketch.quantile((q - moved).max(0.0)).unwrap(), sketch.quantile((q + moved).min(1.0)).unwrap());
        let found = after.quantile(q).unwrap();
        prop_assert!(found >= low * 0.999 && found <= high * 1.001, "{} not within {} to {}", found, low, high);
    }
}
