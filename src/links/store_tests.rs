//! What is told of links and nodes: what was seen, what fades, what others told, what is kept from tick to tick.

use super::super::Outcome;
use super::*;

const SECOND: u64 = 1_000_000_000;

fn key(source: &str, destination: &str) -> LinkKey {
    LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
}

fn call(links: &Links, key: &LinkKey, at: Time, latency_s: f32, outcome: Outcome) {
    let cell = links.link(key, at);
    cell.begin(0, at);
    cell.record(0, at, latency_s, outcome, 0.0, 3.0);
    cell.end(0, at);
}

#[test]
fn what_was_never_measured_is_unknown_not_zero() {
    let links = Links::new(2);
    let _ = links.link(&key("a", "b"), Time(0));
    let observation = links.observe(Time(SECOND));
    let stats = observation.links[0].stats;
    assert_eq!((stats.latency_mean_s, stats.jitter_s, stats.error_rate, stats.age_s), (None, None, None, None));
    assert_eq!(stats.calls_per_second, Some(0.0), "no calls in a second that was watched is a fact");
}

#[test]
fn statistics_follow_the_calls() {
    let (links, key) = (Links::new(1), key("a", "b"));
    let _ = (links.link(&key, Time(0)), links.node(&key.destination, Time(0)));
    for i in 0..100u64 {
        let outcome = if i % 10 == 0 { Outcome::Failure } else { Outcome::Success };
        call(&links, &key, Time(i * SECOND / 100), 0.020, outcome);
    }
    let observation = links.observe(Time(SECOND));
    let stats = observation.links[0].stats;
    assert!((stats.latency_mean_s.unwrap() - 0.020).abs() < 1e-6);
    assert!((stats.latency_p99_s.unwrap() - 0.020).abs() < 0.001);
    assert!((stats.error_rate.unwrap() - 0.1).abs() < 1e-6);
    assert!((stats.calls_per_second.unwrap() - 100.0).abs() < 6.0, "{:?}", stats.calls_per_second);
    assert_eq!(observation.nodes[0].stats.response_mean_s, stats.latency_mean_s);
}

#[test]
fn latencies_of_several_links_are_added_up_and_of_others_are_not() {
    let (links, keys) = (Links::new(1), [key("a", "b"), key("a", "c"), key("z", "b")]);
    for (key, (calls, latency_s)) in keys.iter().zip([(95, 0.010), (5, 0.500), (100, 3.0)]) {
        (0..calls).for_each(|_| call(&links, key, Time(1), latency_s, Outcome::Success));
    }
    let mut sketch = Sketch::default();
    links.latencies(keys.iter(), &mut sketch);
    assert_eq!(sketch.count(), 0.0, "nobody has looked yet");
    let _ = links.observe(Time(1));
    for _ in 0..2 {
        links.latencies([&keys[0], &keys[1], &key("not", "there")].into_iter(), &mut sketch);
        let near = |q, expected: f64| (sketch.quantile(q).unwrap() / expected - 1.0).abs() < 0.04;
        assert!((sketch.count() - 100.0).abs() < 0.1 && near(0.94, 0.010) && near(0.97, 0.500), "{sketch:?}");
    }
}

#[test]
fn old_samples_fade_into_the_unknown() {
    let (links, key) = (Links::new(1), key("a", "b"));
    call(&links, &key, Time(0), 0.020, Outcome::Success);
    let mut known = 0;
    for tick in 1..200u64 {
        known += usize::from(links.observe(Time(tick * SECOND)).links[0].stats.latency_ewma_s.is_some());
    }
    assert!((50..90).contains(&known), "{known}");
}

#[test]
fn idle_links_are_evicted_and_busy_ones_are_not() {
    let (links, busy, idle) = (Links::new(1), key("a", "busy"), key("a", "idle"));
    links.link(&busy, Time(0)).begin(0, Time(0));
    call(&links, &idle, Time(0), 0.1, Outcome::Success);
    let _ = links.node(&idle.destination, Time(0));
    links.evict(Time(700 * SECOND), Duration::from_secs(600));
    let left: Vec<_> = links.observe(Time(700 * SECOND)).links.into_iter().map(|l| l.key).collect();
    assert_eq!((left, links.len()), (vec![busy], (1, 0)));
}

#[test]
fn an_observation_that_is_kept_says_what_one_that_is_made_anew_says() {
    let (fresh, kept, keys) = (Links::new(1), Links::new(1), [key("a", "b"), key("c", "b"), key("a", "d")]);
    let (mut observation, mut as_of) = (Observation::default(), None);
    let mut same = Vec::new();
    for tick in 1..60u64 {
        let now = Time(tick * SECOND);
        for links in [&fresh, &kept] {
            // The third link comes late, the second goes after a while and comes back.
            for (key, _) in keys.iter().zip([true, !(10..40).contains(&tick), tick > 5]).filter(|(_, there)| *there) {
                let _ = links.node(&key.destination, now);
                call(links, key, now, 0.010 * (1 + tick % 7) as f32, Outcome::Success);
            }
        }
        same.push(kept.observe_into(now, &mut observation, &mut as_of));
        assert_eq!(fresh.observe(now), observation, "tick {tick}");
        [&fresh, &kept].into_iter().for_each(|links| links.evict(now, Duration::from_secs(20)));
    }
    let changed: Vec<usize> = (1..60).filter(|tick| !same[tick - 1]).collect();
    assert_eq!(changed, [1, 6, 30, 40], "made, one more, one evicted at 29, back");
}

fn told(shape: u64, at: Time, links: &[(&LinkKey, f64)]) -> Arc<Told> {
    let link = |(key, latency_s): &(&LinkKey, f64)| {
        let mut sketch = Sketch::default();
        (0..100).for_each(|_| sketch.record(*latency_s));
        let account = Account {
            latency: sketch.counts(),
            mean_s: sketch.mean().map(|m| m as f32),
            calls_per_second: 10.0,
            in_flight: 2.0,
            age_s: Some(1.0),
            ..Account::default()
        };
        Arc::new(ToldLink::new((*key).clone(), "other".into(), at, account))
    };
    Arc::new(Told { shape, links: links.iter().map(link).collect(), nodes: Vec::new() })
}

#[test]
fn what_others_told_stands_beside_what_was_seen_and_never_over_it() {
    let (links, own, other) = (Links::new(1), key("m", "b"), key("a", "b"));
    let _ = links.node(&own.destination, Time(0));
    (0..100).for_each(|_| call(&links, &own, Time(0), 0.010, Outcome::Success));
    let alone = links.observe(Time(SECOND));
    links.tell(Some(told(1, Time(SECOND), &[(&other, 0.030), (&own, 9.0)])));
    let seen = links.observe(Time(SECOND));
    let found: Vec<_> = seen.links.iter().map(|l| (&l.key, l.stats.latency_mean_s.unwrap())).collect();
    assert_eq!(found[0].0, &other);
    assert!((found[0].1 - 0.030).abs() < 1e-6 && (found[1].1 - 0.010).abs() < 1e-6, "{found:?}");
    let node = &seen.nodes[0].stats;
    assert!((node.response_mean_s.unwrap() - 0.020).abs() < 1e-4, "of both: {node:?}");
    assert!((node.response_p99_s.unwrap() - 0.030).abs() < 0.002 && node.in_flight == 2.0, "{node:?}");

    // Nobody repeats it: the link is unknown, and then the own ones are alone again.
    let late = links.observe(Time(12 * SECOND));
    assert_eq!((late.links.len(), late.links[0].stats), (2, LinkStats::default()));
    assert!((late.nodes[0].stats.response_mean_s.unwrap() - 0.010).abs() < 1e-4);
    links.tell(None);
    assert_eq!(links.observe(Time(SECOND)).links.len(), alone.links.len());
}

#[test]
fn an_observation_that_is_kept_follows_what_others_told() {
    let (links, own) = (Links::new(1), key("m", "b"));
    call(&links, &own, Time(0), 0.010, Outcome::Success);
    let (mut kept, mut as_of, mut same) = (Observation::default(), None, Vec::new());
    let steps = [
        None,
        Some(told(1, Time(0), &[(&key("a", "b"), 0.02)])),
        Some(told(1, Time(0), &[(&key("a", "b"), 0.03)])),
        Some(told(2, Time(0), &[(&key("a", "b"), 0.03), (&key("z", "y"), 0.04)])),
        None,
    ];
    for told in steps {
        links.tell(told);
        same.push(links.observe_into(Time(SECOND), &mut kept, &mut as_of));
        assert_eq!(kept, links.observe(Time(SECOND)));
    }
    assert_eq!(same, [false, false, true, false, false]);
}

#[test]
fn a_report_that_others_heard_holds_where_it_is_the_younger_one() {
    let (links, node) = (Links::new(1), NodeKey::new("b"));
    let report = |cpu| Report { cpu_utilization: Some(cpu), ..Report::default() };
    links.node(&node, Time(0)).report(Time(2 * SECOND), &report(0.2));
    let cpu = |told_at: u64| {
        let told =
            ToldNode { key: node.clone(), described: Default::default(), report: Some((report(0.9), Time(told_at))) };
        links.tell(Some(Arc::new(Told { shape: told_at, links: Vec::new(), nodes: vec![Arc::new(told)] })));
        links.observe(Time(4 * SECOND)).nodes[0].stats.cpu_utilization
    };
    assert_eq!((cpu(SECOND), cpu(3 * SECOND)), (Some(0.2), Some(0.9)));
}

#[test]
fn only_what_is_asked_for_is_told_and_as_it_was_seen() {
    let (links, one, two) = (Links::new(1), key("a", "b"), key("a", "c"));
    for key in [&one, &two] {
        (0..50).for_each(|_| call(&links, key, Time(SECOND), 0.020, Outcome::Success));
    }
    let seen = links.observe(Time(2 * SECOND));
    let accounts = links.accounts(Time(3 * SECOND), |key, brief| *key == two && brief.ended == 50);
    assert_eq!(accounts.len(), 1);
    let (told, seen) = (accounts[0].1.stats(), seen.links[1].stats);
    assert_eq!(LinkStats { age_s: seen.age_s, ..told }, seen);
    assert_eq!(told.age_s, Some(1.0));
}

#[test]
fn a_clock_that_stands_still_or_jumps_wedges_nothing() {
    let (links, key) = (Links::new(1), key("a", "b"));
    for at in [5 * SECOND, 5 * SECOND, SECOND, 0, 100 * SECOND, u64::MAX, 3 * SECOND] {
        call(&links, &key, Time(at), 0.010, Outcome::Success);
        let stats = links.observe(Time(at)).links[0].stats;
        for value in [stats.latency_mean_s, stats.latency_ewma_s, stats.calls_per_second, stats.age_s] {
            assert!(value.is_none_or(|v| v.is_finite() && v >= 0.0), "{at}: {stats:?}");
        }
    }
    links.evict(Time(0), Duration::ZERO);
}
