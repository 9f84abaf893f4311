//! What of the own links is told now: deltas within a budget of bytes, the most changed and most used links first.
//!
//! ```text
//! urgency = (change + (seconds since told / 4)^2) x (1 + ln(1 + calls a second))
//! change  = |ln(latency / told)| + 4 |errors - told| + |ln((1 + under way) / (1 + told))| / 2 and 2 where never told
//! ```
//! A link on which nothing happened since it was told is left alone: it fades at the others as it does here. After
//! [`AGAIN`] it is told again all the same, because a datagram may be lost and what nobody repeats is forgotten. So each link
//! that is used at all is told at least so often as the budget has room for; and where it has not, the squares see to it
//! that none starves.

use super::exchange::{Room, To};
use super::interest::hash;
use super::places::Places;
use super::wire::{Head, Writer};
use crate::links::{Account, Brief, LinkKey, NodeAccount, NodeKey, TOLD_FOR, Time};
use std::collections::HashMap;
use std::time::Duration;

/// What was told is told again after this long, changed or not: before others forget it, with one loss in between.
const AGAIN: Duration = Duration::from_secs(3);
/// A link whose latency moved by less than this, as a logarithm, is told no more often than once in [`CALM`].
const MOVED: f32 = 0.1;
/// How often a link that is used and stays as it is is told.
const CALM: Duration = Duration::from_millis(900);
/// What a link that nobody was told of counts as, beside one that has changed.
const NEWS: f32 = 2.0;
/// The time constant of urgency, in seconds.
const PATIENCE_S: f32 = 4.0;

/// What was last told of a link, or since when it waits to be told at all.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: Time,
    brief: Option<Brief>,
}

/// Chooses what to tell.
#[derive(Debug, Default)]
pub struct Teller {
    said: HashMap<LinkKey, Said>,
    /// Which audience comes first.
    first: usize,
}

/// How much a link has changed since it was told.
fn change(brief: &Brief, said: &Brief) -> f32 {
    let ratio = |a: f32, b: f32| if a > 0.0 && b > 0.0 { (a / b).ln().abs() } else { 1.0 };
    let latency = match (brief.ewma_s, said.ewma_s) {
        (Some(now), Some(then)) => ratio(now, then),
        (None, None) => 0.0,
        _ => 1.0,
    };
    let errors = (brief.error_rate.unwrap_or(0.0) - said.error_rate.unwrap_or(0.0)).abs();
    let waiting = ((1.0 + brief.in_flight) / (1.0 + said.in_flight)).ln().abs();
    latency + 4.0 * errors + 0.5 * waiting
}

impl Teller {
    /// How urgently others should hear of a link now; none where they need not.
    pub fn urgency(&self, key: &LinkKey, brief: &Brief, now: Time) -> Option<f32> {
        if brief.ended == 0 && brief.in_flight == 0.0 {
            return None;
        }
        let used = 1.0 + brief.calls_per_second.max(0.0).ln_1p();
        let Some(said) = self.said.get(key) else { return Some(NEWS * used) };
        let since = now.since(said.at);
        let moved = said.brief.map_or(NEWS, |said| change(brief, &said));
        let same = said.brief.is_some_and(|said| brief.ended == said.ended) && moved < MOVED;
        if since < AGAIN && (same || (moved < MOVED && since < CALM)) {
            return None;
        }
        let waited = since.as_secs_f32() / PATIENCE_S;
        Some((moved + waited * waited) * used)
    }

    /// Writes reports of so many of the links as there is room for, the most urgent first: each for those who want to hear of
    /// it. `head` makes a report's head; `known` says what is known of an instance.
    pub fn write(
        &mut self,
        mut links: Vec<(f32, LinkKey, Brief, Account)>,
        now: Time,
        room: &Room,
        head: &mut dyn FnMut() -> Head,
        known: &mut dyn FnMut(&NodeKey) -> Option<NodeAccount>,
    ) -> Vec<(To, Vec<u8>)> {
        links.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        for (_, key, ..) in &links {
            if !self.said.contains_key(key) {
                self.said.insert(key.clone(), Said { at: now, brief: None });
            }
        }
        // Where there is not even room for one link to all, somebody else comes first each time.
        self.first = self.first.wrapping_add(1);
        let mut places = Places::new(room, self.first);
        let mut writers: Vec<Option<Writer>> = Vec::new();
        let (mut reports, mut left, mut hearing) = (Vec::new(), room.budget, Vec::new());
        'links: for (_, key, brief, account) in links {
            let [caller, called] = [&key.source, &key.destination].map(|end| {
                let service = known(end).map(|account| account.described.service).filter(|name| !name.is_empty());
                hash(&service.unwrap_or_else(|| end.0.clone()))
            });
            places.of(caller, called, &mut hearing);
            writers.resize_with(places.count(), || None);
            let mut told = false;
            for place in &hearing {
                let Some(writer) = writers.get_mut(*place) else { continue };
                let begun = writer.is_some();
                match add(writer, (&key, &account), room, &mut left, head, known) {
                    Added::Yes => told = true,
                    // What is full is sent, and a report of its own has room, or nothing has.
                    Added::Full if begun => {
                        reports.extend(writer.take().map(|full| (places.to(*place), full.finish())));
                        told |= matches!(add(writer, (&key, &account), room, &mut left, head, known), Added::Yes);
                    }
                    Added::Full => *writer = None,
                    Added::Spent => {
                        self.note(told, key, brief, now);
                        break 'links;
                    }
                }
            }
            // What nobody wants is as good as told.
            self.note(told || hearing.is_empty(), key, brief, now);
        }
        let rest = writers.into_iter().enumerate().filter_map(|(place, writer)| Some((places.to(place), writer?)));
        reports.extend(rest.filter(|(_, writer)| !writer.is_empty()).map(|(to, writer)| (to, writer.finish())));
        reports
    }

    /// Takes note of a link that was told.
    fn note(&mut self, told: bool, key: LinkKey, brief: Brief, now: Time) {
        if told {
            self.said.insert(key, Said { at: now, brief: Some(brief) });
        }
    }

    /// Forgets links that were not told for long: they are gone, or nobody uses them.
    pub fn forget(&mut self, now: Time) {
        self.said.retain(|_, said| now.since(said.at) <= 6 * TOLD_FOR);
    }
}

/// What became of a link that was to be added to a report.
enum Added {
    Yes,
    /// The report has no room for it.
    Full,
    /// The budget has none.
    Spent,
}

/// Adds a link to a report, which is begun where there is none. What it takes is taken from the bytes that are left.
fn add(
    writer: &mut Option<Writer>,
    (key, account): (&LinkKey, &Account),
    room: &Room,
    left: &mut usize,
    head: &mut dyn FnMut() -> Head,
    known: &mut dyn FnMut(&NodeKey) -> Option<NodeAccount>,
) -> Added {
    let mut report = match writer.take() {
        Some(report) => report,
        None => {
            let report = Writer::new(&head(), room.limit);
            let Some(rest) = left.checked_sub(report.bytes() + room.overhead) else { return Added::Spent };
            *left = rest;
            report
        }
    };
    let before = report.bytes();
    let within_budget = report.bound(room.limit.min(before + *left)) == room.limit;
    if report.link(key, account, known) {
        *left = left.saturating_sub(report.bytes() - before);
        *writer = Some(report);
        return Added::Yes;
    }
    *writer = Some(report);
    if within_budget { Added::Full } else { Added::Spent }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Audience, Hearers};
    use super::super::interest::Interest;
    use super::super::wire::Report;
    use super::*;
    use crate::links::Sketch;

    const SECOND: u64 = 1_000_000_000;

    fn key(n: usize) -> LinkKey {
        LinkKey::new(&NodeKey::new("a"), &NodeKey::new(&format!("10.0.0.{n}:80")))
    }

    fn brief(ended: u64, ewma_s: f32, calls_per_second: f32) -> Brief {
        Brief { ended, ewma_s: Some(ewma_s), calls_per_second, ..Brief::default() }
    }

    fn account() -> Account {
        let mut sketch = Sketch::default();
        (0..100).for_each(|n| sketch.record(0.01 + f64::from(n) * 1e-4));
        Account { latency: sketch.counts(), mean_s: Some(0.015), ..Account::default() }
    }

    fn head() -> impl FnMut() -> Head {
        let mut sequence = 0;
        move || {
            sequence += 1;
            Head { node: "n".into(), zone: "".into(), incarnation: 1, sequence, made_ms: 1 }
        }
    }

    /// Tells what is urgent of these links; says which were told, in their order.
    fn told(teller: &mut Teller, links: &[(usize, Brief)], now: Time, budget: usize) -> Vec<String> {
        let urgent = links
            .iter()
            .filter_map(|(n, brief)| Some((teller.urgency(&key(*n), brief, now)?, key(*n), *brief, account())));
        let urgent = urgent.collect();
        let mut all = to(teller, urgent, now, budget, vec![Audience::default()]);
        all.remove(0)
    }

    /// What is written within a budget, which holds.
    fn written(
        teller: &mut Teller,
        urgent: Vec<(f32, LinkKey, Brief, Account)>,
        now: Time,
        budget: usize,
        hearers: Hearers,
    ) -> Vec<(To, Vec<u8>)> {
        let room = Room { budget, limit: 1_100, overhead: 80, hearers };
        let reports = teller.write(urgent, now, &room, &mut head(), &mut |_| None);
        let bytes: usize = reports.iter().map(|(_, r)| r.len() + 80).sum();
        assert!(bytes <= budget && reports.iter().all(|(_, r)| r.len() <= 1_100), "{bytes} of {budget}");
        reports
    }

    /// What each of several audiences is told.
    fn to(
        teller: &mut Teller,
        urgent: Vec<(f32, LinkKey, Brief, Account)>,
        now: Time,
        budget: usize,
        audiences: Vec<Audience>,
    ) -> Vec<Vec<String>> {
        let mut all = vec![Vec::new(); audiences.len()];
        for (whom, report) in written(teller, urgent, now, budget, Hearers::Members(audiences)) {
            let links = Report::read(&report).unwrap().links;
            let To::Member(place) = whom else { panic!("{whom:?} is no member") };
            all[place].extend(links.into_iter().map(|(key, _)| key.destination.to_string()));
        }
        all
    }

    #[test]
    fn the_most_changed_and_most_used_links_come_first_and_the_budget_holds() {
        let mut teller = Teller::default();
        let all: Vec<_> = (0..40).map(|n| (n, brief(10, 0.010, n as f32))).collect();
        let first = told(&mut teller, &all, Time(SECOND), 1_200);
        assert!((3..20).contains(&first.len()) && first[0] == "10.0.0.39:80", "{first:?}");
        // With room for all, the others follow, and none of those that were told.
        let second = told(&mut teller, &all, Time(SECOND + SECOND / 2), 1 << 20);
        assert_eq!((second.len(), second.iter().any(|n| first.contains(n))), (40 - first.len(), false));
        // Of all that are used as before, the one that became slow comes first.
        let mut slow: Vec<_> = all.iter().map(|(n, b)| (*n, Brief { ended: 20, ..*b })).collect();
        slow[3].1.ewma_s = Some(0.100);
        assert_eq!(told(&mut teller, &slow, Time(3 * SECOND), 1_200)[0], "10.0.0.3:80");
    }

    #[test]
    fn what_did_not_change_is_told_again_only_so_that_nobody_forgets_it() {
        let mut teller = Teller::default();
        let link = [(1, brief(10, 0.010, 0.0))];
        assert_eq!(told(&mut teller, &link, Time(0), 4_096).len(), 1);
        for second in 1..3 {
            assert_eq!(told(&mut teller, &link, Time(second * SECOND), 4_096).len(), 0, "{second}");
        }
        assert_eq!(told(&mut teller, &link, Time(3 * SECOND), 4_096).len(), 1);
        assert_eq!(teller.urgency(&key(2), &Brief::default(), Time(0)), None, "nobody ever used it");
    }

    #[test]
    fn no_link_starves_however_busy_the_others_are() {
        let mut teller = Teller::default();
        let mut last = vec![0; 60];
        for second in 0..60u64 {
            let all: Vec<_> =
                (0..60).map(|n| (n, brief(second + 1, 0.010, if n == 7 { 0.1 } else { 1_000.0 }))).collect();
            for name in told(&mut teller, &all, Time(second * SECOND), 1_200) {
                let n: usize = name.trim_start_matches("10.0.0.").trim_end_matches(":80").parse().unwrap();
                last[n] = second;
            }
        }
        assert!(last.iter().all(|second| *second > 20), "{last:?}");
    }

    #[test]
    fn each_is_told_what_it_wants_and_all_together_keep_to_the_budget() {
        let urgent = || (0..30).map(|n| (1.0, key(n), brief(1, 0.01, 1.0), account())).collect::<Vec<_>>();
        let wants = |names: &[&str]| Audience { interest: Interest::in_services(names.iter().copied()) };
        let audiences = vec![wants(&["10.0.0.3:80", "10.0.0.4:80"]), wants(&[]), Audience::default()];
        let mut teller = Teller::default();
        let all = to(&mut teller, urgent(), Time(0), 1 << 20, audiences);
        assert_eq!((all[0].len(), all[1].len(), all[2].len()), (2, 0, 30), "{all:?}");
        assert_eq!(teller.urgency(&key(3), &brief(1, 0.01, 1.0), Time(SECOND)), None);

        // Nine would hear all of it, and there is room for a few datagrams: each time others come first.
        let mut teller = Teller::default();
        let mut heard = [0; 9];
        for _ in 0..40 {
            let all = to(&mut teller, urgent(), Time(0), 2_000, vec![Audience::default(); 9]);
            heard.iter_mut().zip(all).for_each(|(sum, told)| *sum += told.len());
        }
        assert!(heard.iter().all(|n| *n >= 20), "{heard:?}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_there_is_to_tell_and_whoever_wants_it_the_budget_holds(
            links in 1usize..60, audiences in 1usize..8, budget in 0usize..12_000, rounds in 1u64..5,
        ) {
            let mut teller = Teller::default();
            for round in 0..rounds {
                let all = (0..links).map(|n| (1.0, key(n), brief(round + 1, 0.01, n as f32), account()));
                // `to` asserts it.
                to(&mut teller, all.collect(), Time(round * SECOND), budget, vec![Audience::default(); audiences]);
            }
        }
    }

    #[test]
    fn where_a_server_sends_it_on_each_pair_of_services_has_reports_of_its_own_and_the_budget_holds() {
        let urgent = || (0..12).map(|n| (1.0 + n as f32, key(n % 3), brief(1, 0.01, 1.0), account()));
        let mut teller = Teller::default();
        let reports = written(&mut teller, urgent().collect(), Time(0), 1 << 20, Hearers::Services);
        let mut pairs: Vec<_> = reports.iter().map(|(to, _)| *to).collect();
        pairs.sort_unstable_by_key(|to| format!("{to:?}"));
        pairs.dedup();
        assert_eq!(pairs.len(), 3, "of instances that nobody describes each is a service");
        for (to, report) in &reports {
            for (link, _) in Report::read(report).unwrap().links {
                let [caller, called] = [&link.source, &link.destination].map(|end| hash(&end.0));
                assert_eq!(*to, To::Services { caller, called });
            }
        }
        let links = |reports: &[(To, Vec<u8>)]| {
            reports.iter().map(|(_, report)| Report::read(report).unwrap().links.len()).sum::<usize>()
        };
        assert_eq!(links(&reports), 12);
        let few = written(&mut Teller::default(), urgent().collect(), Time(0), 500, Hearers::Services);
        assert!((1..12).contains(&links(&few)), "{few:?}");
    }

    #[test]
    fn a_budget_too_small_for_anything_sends_nothing() {
        let mut teller = Teller::default();
        assert_eq!(told(&mut teller, &[(1, brief(10, 0.010, 1.0))], Time(0), 90), Vec::<String>::new());
        assert_eq!(told(&mut teller, &[(1, brief(10, 0.010, 1.0))], Time(0), 4_096).len(), 1, "and forgets nothing");
    }
}
