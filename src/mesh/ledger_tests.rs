//! Tests of what is kept of reports: the later word, of one process, for a while.

use super::*;
use crate::links::{Account, Sketch, orca};
use std::time::Duration;

const NOW_MS: u64 = 1_700_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn key(source: &str, destination: &str) -> LinkKey {
    LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
}

fn account(latency_s: f64) -> Account {
    let mut sketch = Sketch::default();
    (0..10).for_each(|_| sketch.record(latency_s));
    Account {
        latency: sketch.counts(),
        mean_s: Some(latency_s as f32),
        calls_per_second: 5.0,
        age_s: Some(0.5),
        ..Account::default()
    }
}

fn report(node: &str, incarnation: u64, sequence: u64, links: &[(&LinkKey, f64)]) -> Report {
    Report {
        head: Head { node: node.into(), zone: "z".into(), incarnation, sequence, made_ms: NOW_MS },
        links: links.iter().map(|(key, latency_s)| ((*key).clone(), account(*latency_s))).collect(),
        nodes: Vec::new(),
    }
}

fn ledger() -> Ledger {
    Ledger::new("me".into())
}

fn take(ledger: &mut Ledger, report: Report, at: Time) -> Result<Taken, Refused> {
    ledger.take(report, at, NOW_MS, |key| &*key.source.0 == "mine")
}

fn mean(told: &Told, key: &LinkKey, now: Time) -> Option<f32> {
    told.link(key)?.stats(now)?.latency_mean_s
}

#[test]
fn the_later_word_holds_whatever_order_reports_come_in() {
    let (mut ledger, link, other, now) = (ledger(), key("b", "c"), key("b", "d"), Time(SECOND));
    let taken = |links| Ok(Taken { links, ..Taken::default() });
    assert_eq!(take(&mut ledger, report("b", 1, 5, &[(&link, 0.05)]), now), taken(1));
    assert_eq!(take(&mut ledger, report("b", 1, 4, &[(&link, 0.04), (&other, 0.04)]), now), taken(1));
    assert_eq!(take(&mut ledger, report("b", 1, 5, &[(&link, 0.06)]), now), taken(0), "seen before");
    let told = ledger.told(&[], 0).unwrap();
    assert_eq!((mean(&told, &link, now), mean(&told, &other, now)), (Some(0.05), Some(0.04)));
    assert_eq!((ledger.told(&[], 0), ledger.links()), (None, 2), "nothing new since");
    take(&mut ledger, report("b", 1, 6, &[(&link, 0.01)]), now).unwrap();
    let next = ledger.told(&[], 0).unwrap();
    assert_eq!((mean(&next, &link, now), next.shape), (Some(0.01), told.shape));
}

#[test]
fn a_process_that_was_started_anew_has_forgotten_and_one_that_is_gone_says_nothing_more() {
    let (mut ledger, old, new, now) = (ledger(), key("b", "old"), key("b", "new"), Time(SECOND));
    take(&mut ledger, report("b", 1, 900, &[(&old, 9.0)]), now).unwrap();
    let before = ledger.told(&[], 0).unwrap().shape;
    take(&mut ledger, report("b", 2, 1, &[(&new, 0.01)]), now).unwrap();
    let told = ledger.told(&[], 0).unwrap();
    assert_eq!((mean(&told, &old, now), mean(&told, &new, now), ledger.links()), (None, Some(0.01), 1));
    assert!(told.shape > before);
    assert_eq!(take(&mut ledger, report("b", 1, 901, &[(&old, 9.0)]), now), Err(Refused::Superseded));
    assert_eq!(ledger.told(&[], 0), None, "nothing of it was taken");
}

#[test]
fn what_nobody_repeats_is_forgotten_and_so_is_who_told_it() {
    let (mut ledger, link, start) = (ledger(), key("b", "c"), Time(SECOND));
    take(&mut ledger, report("b", 1, 1, &[(&link, 9.0)]), start).unwrap();
    take(&mut ledger, report("d", 1, 1, &[(&key("d", "c"), 0.01)]), start + (TOLD_FOR - Duration::from_secs(1)))
        .unwrap();
    ledger.told(&[], 0);
    ledger.forget(start + TOLD_FOR);
    assert_eq!((ledger.told(&[], 0), ledger.links()), (None, 2));
    ledger.forget(start + TOLD_FOR + Duration::from_millis(1));
    let told = ledger.told(&[], 0).unwrap();
    assert_eq!((told.links.len(), ledger.peers().count(), ledger.links()), (1, 1, 1));
    // Even what was not forgotten in time is not shown.
    assert_eq!(mean(&told, &key("d", "c"), start + Duration::from_secs(20)), None);
}

#[test]
fn several_callers_words_on_one_link_become_one() {
    let (mut ledger, link, now) = (ledger(), key("shared", "c"), Time(SECOND));
    for (node, latency_s) in [("b", 0.010), ("d", 0.030)] {
        take(&mut ledger, report(node, 1, 1, &[(&link, latency_s)]), now).unwrap();
    }
    let told = ledger.told(&[], 0).unwrap();
    let (one, stats) = (told.link(&link).unwrap(), told.link(&link).unwrap().stats(now).unwrap());
    assert_eq!((told.links.len(), &*one.by, stats.samples, stats.calls_per_second), (1, "b, d", 20.0, Some(10.0)));
    assert!((stats.latency_mean_s.unwrap() - 0.020).abs() < 1e-4);
    assert!(stats.latency_p99_s.unwrap() > 0.029 && stats.latency_p10_s.unwrap() < 0.011);
}

#[test]
fn nobody_speaks_for_this_node_or_of_its_links() {
    let (mut ledger, own, now) = (ledger(), key("mine", "c"), Time(SECOND));
    assert_eq!(take(&mut ledger, report("me", 1, 1, &[(&key("b", "c"), 0.01)]), now), Err(Refused::OwnName));
    let taken = take(&mut ledger, report("b", 1, 1, &[(&own, 9.0), (&key("b", "c"), 0.01)]), now);
    assert_eq!(taken, Ok(Taken { links: 1, own: 1, left_out: 0 }));
    assert_eq!(ledger.told(&[], 0).unwrap().link(&own), None);
}

#[test]
fn reports_that_are_not_timely_change_nothing() {
    let (mut ledger, link) = (ledger(), key("b", "c"));
    for (made_ms, refused) in
        [(NOW_MS + 60_000, Refused::Future), (NOW_MS - 60_000, Refused::Stale), (0, Refused::Stale)]
    {
        let mut late = report("b", u64::MAX, 1, &[(&link, 0.01)]);
        late.head.made_ms = made_ms;
        assert_eq!(take(&mut ledger, late, Time(SECOND)), Err(refused));
    }
    let far = report("b", NOW_MS + 100_000_000, 1, &[(&link, 0.01)]);
    assert_eq!(take(&mut ledger, far, Time(SECOND)), Err(Refused::Absurd), "nobody could follow it");
    assert_eq!((ledger.told(&[], 0), ledger.peers().count()), (None, 0));
    // And its incarnation does not stand in the way of an honest one.
    assert!(take(&mut ledger, report("b", 1, 1, &[(&link, 0.01)]), Time(SECOND)).is_ok());
}

#[test]
fn what_was_on_its_way_is_older_by_that() {
    let (mut ledger, link, now) = (ledger(), key("b", "c"), Time(20 * SECOND));
    let mut late = report("b", 1, 1, &[(&link, 0.01)]);
    late.head.made_ms = NOW_MS - 3_000;
    let load = orca::Report { cpu_utilization: Some(0.5), ..Default::default() };
    late.nodes.push((link.destination.clone(), NodeAccount { report: Some((load, 1.0)), ..Default::default() }));
    take(&mut ledger, late, now).unwrap();
    let told = ledger.told(&[], 0).unwrap();
    assert_eq!(told.link(&link).unwrap().stats(now).unwrap().age_s, Some(3.5));
    assert_eq!(told.node(&link.destination).unwrap().report, Some((load, Time(16 * SECOND))));
}

#[test]
fn descriptions_grow_together_and_are_kept_only_for_the_ends_of_links() {
    let (mut ledger, link, now) = (ledger(), key("b", "c"), Time(SECOND));
    let said = |service: &str, zone: &str| NodeAccount {
        described: Described { service: service.into(), zone: zone.into(), host: "".into() },
        report: None,
    };
    let mut first = report("b", 1, 1, &[(&link, 0.01)]);
    first.nodes = vec![(link.destination.clone(), said("catalog", "")), (NodeKey::new("nowhere"), said("ghost", ""))];
    let mut second = report("b", 1, 2, &[(&link, 0.01)]);
    second.nodes = vec![(link.destination.clone(), said("", "eu-1"))];
    take(&mut ledger, first, now).unwrap();
    take(&mut ledger, second, now).unwrap();
    let told = ledger.told(&[], 0).unwrap();
    assert_eq!(told.nodes.len(), 1);
    assert_eq!(told.nodes[0].described, Described { service: "catalog".into(), zone: "eu-1".into(), host: "".into() });
}

#[test]
fn who_tells_too_much_is_heard_in_part() {
    let (mut ledger, now) = (ledger(), Time(SECOND));
    for part in 0..9u64 {
        let keys: Vec<LinkKey> = (0..500).map(|n| key("b", &format!("{part}-{n}"))).collect();
        let links: Vec<_> = keys.iter().map(|key| (key, 0.01)).collect();
        let taken = take(&mut ledger, report("b", 1, part, &links), now).unwrap();
        assert_eq!(taken.left_out > 0, part == 8, "{taken:?}");
    }
    assert_eq!(ledger.links(), MAX_LINKS_A_NODE);
    // What is known already still gets news.
    let again = take(&mut ledger, report("b", 1, 99, &[(&key("b", "0-0"), 0.5)]), now);
    assert_eq!(again, Ok(Taken { links: 1, ..Taken::default() }));
}

#[test]
fn of_a_large_mesh_only_what_is_near_is_shown_and_asked_for() {
    let (mut ledger, now) = (ledger(), Time(SECOND));
    let own = [key("mine", "x1")];
    let far = key("far", "away");
    let links = [key("x1", "y1"), key("y1", "z1"), key("other", "x1"), far.clone()];
    let mut told = report("b", 1, 1, &links.each_ref().map(|key| (key, 0.01)));
    let described = Described { service: "storage".into(), ..Described::default() };
    told.nodes.push((NodeKey::new("y1"), NodeAccount { described, report: None }));
    take(&mut ledger, told, now).unwrap();
    let mut shown = |hops| {
        ledger.news = true;
        let told = ledger.told(&own, hops).unwrap();
        told.links.iter().map(|l| format!("{}-{}", l.key.source, l.key.destination)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(1), "");
    assert_eq!(shown(2), "other-x1 x1-y1");
    assert_eq!(shown(3), "other-x1 x1-y1 y1-z1");
    assert_eq!(shown(0), "far-away other-x1 x1-y1 y1-z1");
    let service = |node: &NodeKey| (&*node.0 == "x1").then(|| Arc::from("catalog"));
    assert_eq!(ledger.interest(&own, 2, &service), Interest::in_services(["mine", "catalog"]));
    assert_eq!(ledger.interest(&own, 3, &service), Interest::in_services(["mine", "catalog", "storage"]));
    assert_eq!(ledger.interest(&own, 0, &service), Interest::default());
}
