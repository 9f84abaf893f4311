//! The buckets' bound, the threshold's order, and the limiter against a service that queues.

mod service;

use super::bucket::Bucket;
use super::gate::{Entry, Gate, Refusal, Served};
use super::limiter::{Limiter, MAX_LIMIT, MIN_LIMIT, Seen};
use super::priority::{ClassId, Classes, LEVELS, RANKS, Rank};
use super::shedder::Shedder;
use super::table::Table;
use crate::config::{Admission, Concurrency, Config, Priority, Timespan, load_str};
use crate::links::Time;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn gate(concurrency: Concurrency, pending: u32) -> Arc<Gate> {
    let settings = Admission { concurrency, pending, ..Admission::default() };
    Gate::of(&"c".into(), &settings, &Classes::compile(&Priority::default()), (2, 1), None).unwrap()
}

fn inside_now(entry: Entry) -> bool {
    matches!(entry, Entry::Inside(_))
}

proptest! {
    #[test]
    fn a_bucket_never_gives_more_than_rate_times_time_and_a_burst(
        per_second in prop_oneof![0.01f64..10.0, 10.0f64..1e4, 1e4f64..5e6],
        burst in 1u32..5_000,
        cores in 1usize..5,
        steps in prop::collection::vec((0usize..5, -3_000_000_000i64..3_000_000_000, 1usize..200), 1..60),
    ) {
        let bucket = Bucket::new(per_second, burst, cores, 1);
        let (mut now, mut forward) = (10_000_000_000u64, 0u64);
        let mut given = 0u64;
        for (core, jump, tries) in steps {
            now = now.saturating_add_signed(jump);
            forward += jump.max(0) as u64;
            for _ in 0..tries {
                given += u64::from(bucket.take(core % cores, Time(now)).is_ok());
            }
            // Only time that passed can have brought tokens; what the clock took back it gives again.
            let most = per_second * forward as f64 * 1e-9 + f64::from(burst) + 1e-6;
            prop_assert!(given as f64 <= most, "{given} > {most}");
        }
    }

    #[test]
    fn a_bucket_fills_again_whatever_the_clock_did(
        per_second in 0.5f64..1e5, burst in 1u32..100, jump in -100_000_000_000i64..100_000_000_000,
    ) {
        let bucket = Bucket::new(per_second, burst, 1, 1);
        let start = Time(200_000_000_000);
        while bucket.take(0, start).is_ok() {}
        let after = Time(start.0.saturating_add_signed(jump));
        let _ = bucket.take(0, after);
        let whole = f64::from(burst + 1) / per_second;
        prop_assert!(bucket.take(0, after + Duration::from_secs_f64(whole + 1e-3)).is_ok());
        if let Err(wait_ns) = bucket.take(0, after) {
            prop_assert!(wait_ns as f64 <= (whole + 1e-3) * 1e9, "{wait_ns}");
        }
    }

    #[test]
    fn the_error_of_a_shared_rate_is_a_quarter_of_the_burst_at_most(
        per_second in 10f64..1e6, burst in 4u32..10_000, cores in 1usize..5, ms in 50u64..1_000,
    ) {
        // Somebody asks each millisecond: a smaller bucket would overflow between two of them.
        let burst = burst.max((per_second * 3e-3) as u32);
        let bucket = Bucket::new(per_second, burst, cores, 1);
        let mut given = 0u64;
        for step in 0..=ms {
            for core in 0..cores {
                while bucket.take(core, Time(step * MS)).is_ok() {
                    given += 1;
                }
            }
        }
        let wanted = per_second * ms as f64 * 1e-3 + f64::from(burst);
        let least = wanted * 0.998 - f64::from(burst) / 4.0 - cores as f64 - 1.0 - per_second * 1e-3;
        prop_assert!(given as f64 >= least, "{given} < {least} of {wanted}");
    }

    #[test]
    fn a_higher_rank_is_never_refused_where_a_lower_one_is_let_in(
        arrivals in prop::collection::vec((0u16..RANKS as u16, 0u8..3), 1..600),
        limit in 1u32..60,
        probes in prop::collection::vec((0u16..RANKS as u16, 0u16..RANKS as u16), 20),
    ) {
        let gate = gate(Concurrency::Limit(limit), 0);
        let mut now = Time(0);
        let mut inside = 0;
        for (i, (rank, leaves)) in arrivals.iter().enumerate() {
            inside += u32::from(inside_now(gate.arrive(i % 2, Rank(*rank), ClassId(0))));
            for _ in 0..(*leaves).min(inside as u8) {
                gate.leave(0, 1, Served::Within(Duration::from_millis(20)));
                inside -= 1;
            }
            if i % 40 == 39 {
                now = now + Duration::from_millis(100);
                gate.adjust(now);
            }
            // At this moment, with this many inside.
            if i % 97 == 0 {
                for (a, b) in &probes {
                    let (low, high) = (Rank(*a.min(b)), Rank(*a.max(b)));
                    let asks = |rank| {
                        let entry = gate.arrive(1, rank, ClassId(0));
                        if inside_now(entry) {
                            gate.leave(1, 1, Served::Unknown);
                        }
                        inside_now(entry)
                    };
                    prop_assert!(asks(high) || !asks(low), "{high:?} is refused and {low:?} is let in");
                }
            }
        }
    }

    #[test]
    fn a_threshold_admits_about_what_comes_to_an_end_and_its_order_is_that_of_p(
        by_level in prop::collection::vec((0..LEVELS, 1u32..50), 1..40),
        finished in 0u64..2_000, under_way in 0u32..200, limit in 1u32..200, steps in 1usize..30,
    ) {
        let mut arrived = vec![0; LEVELS];
        by_level.iter().for_each(|(level, count)| arrived[*level] += count);
        let total: u32 = arrived.iter().sum();
        let mut shedder = Shedder::default();
        for _ in 0..steps {
            shedder.adjust(&arrived, finished, 1, under_way, limit);
        }
        let threshold = usize::from(shedder.threshold().0);
        let share = |level: usize| ((level + 1) * 256).saturating_sub(threshold).min(256) as f64 / 256.0;
        let let_in: f64 = arrived.iter().enumerate().map(|(level, count)| f64::from(*count) * share(level)).sum();
        // Of few requests a step says little, so less of it is taken in.
        let fresh = (f64::from(total) / 150.0).clamp(0.03, 0.3);
        let smoothed = 1.0 - (1.0 - fresh).powi(steps as i32);
        let free = f64::from(limit) - f64::from(under_way) * smoothed;
        let room = (free / f64::from(limit)).clamp(-0.1, 1.0);
        let wanted = (finished as f64 * smoothed * (1.05 + room)).max(0.3 * free).max(1.0) / smoothed;
        let cut = f64::from(arrived[threshold / 256]) / 256.0;
        let exact = wanted - 1e-6..=wanted + cut + 1e-6;
        prop_assert!(threshold == 0 || exact.contains(&let_in), "{let_in} of {total} is not {wanted}");
        prop_assert!(threshold > 0 || f64::from(total) <= wanted + cut + 1e-6, "{total} > {wanted}");
    }

    #[test]
    fn a_limit_is_bounded_whatever_is_seen(
        endpoints in 0usize..3_000,
        seen in prop::collection::vec(
            (prop_oneof![Just(0u64), 1u64..10_000], any::<f64>(), 0u64..1_000_000, 0u64..100,
             prop_oneof![-5_000i64..5_000, Just(1_000_000_000)]), 1..100),
    ) {
        let mut limiter = Limiter::new(Time(5_000 * MS), endpoints);
        let mut now = 5_000 * MS;
        for (samples, log2_sum, under_way_sum, full, ms) in seen {
            now = now.saturating_add_signed(ms.saturating_mul(MS as i64));
            limiter.observe(Time(now), Seen { samples, log2_sum, under_way_sum, full });
            let limit = f64::from(limiter.limit());
            prop_assert!((MIN_LIMIT.max(endpoints as f64)..=MAX_LIMIT).contains(&limit), "{limit}");
            prop_assert!(limiter.minimum_s().is_none_or(f64::is_finite));
        }
    }
}

#[test]
fn a_bucket_says_when_there_will_be_a_token() {
    let bucket = Bucket::new(10.0, 2, 1, 1);
    assert!(bucket.take(0, Time(0)).is_ok() && bucket.take(0, Time(0)).is_ok());
    assert_eq!(bucket.take(0, Time(0)), Err(100 * MS));
    assert_eq!(bucket.take(0, Time(40 * MS)), Err(60 * MS));
    assert_eq!(bucket.take(0, Time(100 * MS)), Ok(()));
}

#[test]
fn cores_together_keep_the_rate_exactly_where_it_is_low() {
    let bucket = Bucket::new(100.0, 10, 4, 1);
    let given = (0..1_000u64).filter(|ms| bucket.take((ms % 4) as usize, Time(ms * MS)).is_ok()).count();
    assert_eq!(given, 10 + 99, "the burst, and one each 10 ms");
}

#[test]
fn cores_that_meet_take_no_token_and_no_place_twice() {
    let (bucket, gate) = (Bucket::new(1e-3, 5_000, 4, 1), gate(Concurrency::Limit(7), 0));
    let taken = std::thread::scope(|scope| {
        let cores = [0, 1, 2, 3].map(|core| {
            let (bucket, gate) = (&bucket, &gate);
            scope.spawn(move || {
                (0..20_000).for_each(|_| {
                    if let Entry::Inside(one_of) = gate.arrive(core % 2, Rank(9), ClassId(0)) {
                        assert!(one_of <= 7 && gate.in_flight() <= 7);
                        gate.leave(core % 2, one_of, Served::Unknown);
                    }
                });
                (0..5_000).filter(|_| bucket.take(core, Time(0)).is_ok()).count()
            })
        });
        cores.into_iter().map(|c| c.join().unwrap()).sum::<usize>()
    });
    assert_eq!((taken, gate.in_flight()), (5_000, 0));
}

#[test]
fn p_is_the_weighted_sum() {
    let yaml = "priority:\n  weights: { resources: 1, urgency: 2, depth: 1 }\n  default: a\n  classes:\n    a: { resources: 100%, urgency: 50%, depth: 0% }\n    b: { resources: 0%, urgency: 0%, depth: 100% }\n";
    let classes = Classes::compile(&load_str(yaml, "x").unwrap().priority);
    let (a, b) = (classes.named(b"a").unwrap(), classes.named(b"b").unwrap());
    let of = |p: f64| (p * 127.0).round() as u8;
    assert_eq!(classes.usual, a);
    assert_eq!(classes.level(a, None), of((1.0 + 2.0 * 0.5) / 4.0));
    assert_eq!(classes.level(a, Some(4)), of((1.0 + 1.0 + 0.5) / 4.0), "four of eight hops");
    assert_eq!((classes.level(b, None), classes.level(b, Some(0))), (of(0.25), 0), "a request's own depth goes first");
    assert_eq!(classes.level(b, Some(200)), of(0.25));
    assert_eq!(classes.named(b"c"), None);
}

#[test]
fn requests_of_one_trace_rank_alike_and_a_level_goes_before_a_digit() {
    assert_eq!(Rank::new(5, b"12c"), Rank::new(5, b"32c"));
    assert!(Rank::new(5, b"f0") > Rank::new(5, b"0f") && Rank::new(6, b"00") > Rank::new(5, b"ff"));
    assert_eq!(Rank::new(255, b"ff").0 as usize, RANKS - 1);
    assert_eq!((Rank::new(77, b"3c").level(), Rank::new(77, b"")), (77, Rank::new(77, b"00")));
}

/// A tenth of a second in which requests of this latency were measured, with so many under way: the limit, where nothing
/// is said.
fn step(limiter: &mut Limiter, now: &mut Time, ms: f64, under_way: Option<u64>, full: u64) {
    let under_way = under_way.unwrap_or(u64::from(limiter.limit()));
    *now = *now + Duration::from_millis(100);
    let samples = 60;
    let log2_sum = (ms * 1e6).log2() * samples as f64;
    limiter.observe(*now, Seen { samples, log2_sum, under_way_sum: under_way * samples, full });
}

#[test]
fn a_limit_falls_only_while_it_is_reached() {
    let (mut now, mut limiter) = (Time(0), Limiter::new(Time(0), 1));
    (0..30).for_each(|_| step(&mut limiter, &mut now, 10.0, None, 1));
    let risen = limiter.limit();
    assert!(risen > 200, "{risen}");
    (0..30).for_each(|_| step(&mut limiter, &mut now, 80.0, Some(100), 0));
    assert_eq!(limiter.limit(), risen, "slower, and nobody finds it reached");
    (0..12).for_each(|_| step(&mut limiter, &mut now, 160.0, None, 1));
    assert!(limiter.limit() < risen, "{} {risen}", limiter.limit());
}

#[test]
fn what_was_learnt_before_a_pause_is_forgotten() {
    let (mut now, mut limiter) = (Time(0), Limiter::new(Time(0), 1));
    (0..30).for_each(|_| step(&mut limiter, &mut now, 10.0, Some(15), 0));
    assert!((limiter.minimum_s().unwrap() - 0.01).abs() < 1e-4);
    now = now + Duration::from_secs(10);
    (0..3).for_each(|_| step(&mut limiter, &mut now, 50.0, Some(15), 1));
    assert!(limiter.minimum_s().unwrap() < 0.02, "ten seconds are no pause");
    now = now + Duration::from_secs(20);
    (0..30).for_each(|_| step(&mut limiter, &mut now, 50.0, Some(15), 1));
    assert!((limiter.minimum_s().unwrap() - 0.05).abs() < 1e-3, "{:?}", limiter.minimum_s());
}

#[test]
fn of_the_level_that_is_cut_some_are_always_let_in() {
    let mut arrived = vec![0; LEVELS];
    arrived[50] = 1_000_000;
    let mut shedder = Shedder::default();
    (0..50).for_each(|_| shedder.adjust(&arrived, 3, 1, 20, 20));
    assert_eq!(shedder.threshold(), Rank::new(50, b"ff"), "rounded down, none were, and it stayed so");
    assert_eq!(shedder.marginal(), 50);
}

#[test]
fn a_gate_lets_in_as_many_as_it_may_and_the_next_wait_or_go() {
    let gate = gate(Concurrency::Limit(3), 2);
    let ask = || gate.arrive(0, Rank(100), ClassId(1));
    assert_eq!([ask(), ask(), ask()], [1, 2, 3].map(Entry::Inside));
    assert_eq!([ask(), ask(), ask()], [Entry::Wait, Entry::Wait, Entry::Refused(Refusal::Full)]);
    assert_eq!(gate.ask_again(0, Rank(100), ClassId(1)), None);
    gate.leave(0, 1, Served::Within(Duration::from_millis(1)));
    assert_eq!(gate.ask_again(0, Rank(100), ClassId(1)), Some(3));
    gate.stop_waiting();
    let view = gate.view();
    assert_eq!((view.limit, view.in_flight, view.pending), (3, 3, 1));
    assert_eq!(view.classes["critical"], (4, [0, 1, 0]), "classes are in the order of their names");
}

#[test]
fn a_second_place_is_for_nobody_while_others_want_one() {
    let gate = gate(Concurrency::Limit(3), 1);
    let ask = || gate.arrive(0, Rank(100), ClassId(1));
    assert_eq!(ask(), Entry::Inside(1));
    assert!(gate.enter_beside() && gate.enter_beside() && !gate.enter_beside(), "two of three were left");
    assert_eq!((gate.in_flight(), ask()), (3, Entry::Wait));
    gate.leave_beside();
    assert!(!gate.enter_beside(), "somebody waits");
    gate.stop_waiting();
    assert!(gate.enter_beside());
    assert_eq!(gate.view().classes["critical"], (1, [0, 0, 0]), "it is no request of its own");
}

#[test]
fn the_least_important_go_first_and_come_back_when_there_is_room() {
    let gate = gate(Concurrency::Limit(10), 0);
    let (low, high) = (Rank::new(20, b"80"), Rank::new(90, b"80"));
    let mut now = Time(0);
    let mut step = |lows: usize, highs: usize| {
        let mut inside = [0usize; 2];
        for i in 0..lows.max(highs) {
            for (at, (rank, count)) in [(low, lows), (high, highs)].into_iter().enumerate() {
                if i < count {
                    inside[at] += usize::from(inside_now(gate.arrive(0, rank, ClassId(0))));
                }
            }
            // One is served in the time in which two come.
            if gate.in_flight() >= 10 {
                gate.leave(0, 1, Served::Within(Duration::from_millis(10)));
            }
        }
        let left = if lows > 10 { 8 } else { 0 };
        while gate.in_flight() > left {
            gate.leave(0, 1, Served::Within(Duration::from_millis(10)));
        }
        now = now + Duration::from_millis(100);
        gate.adjust(now);
        inside
    };
    (0..20).for_each(|_| _ = step(50, 50));
    let overloaded = step(50, 50);
    assert!(overloaded[1] >= 45 && overloaded[0] <= 15, "{overloaded:?}");
    assert!(gate.view().threshold > 0.1);
    (0..30).for_each(|_| _ = step(1, 1));
    assert_eq!((step(1, 1), gate.view().threshold), ([1, 1], 0.0));
}

#[test]
fn a_limit_that_was_set_holds_for_the_most_important_too() {
    let gate = gate(Concurrency::Limit(10), 0);
    let ask = |level| gate.arrive(0, Rank::new(level, b"80"), ClassId(0));
    let mut now = Time(0);
    for _ in 0..30 {
        // Nothing ends: the threshold rises above those of the lower class.
        (0..50).for_each(|_| _ = (ask(20), ask(90)));
        assert_eq!(gate.in_flight(), 10);
        now = now + Duration::from_millis(100);
        gate.adjust(now);
    }
    assert!(gate.view().threshold > 0.1);
}

#[test]
fn an_unchanged_gate_and_bucket_outlive_a_reload() {
    let yaml = |limit: u32| -> Config {
        load_str(
            &format!(
                "workloads: {{ w: {{ listen: 127.0.0.1:1, rate: {{ requests: 1/h, burst: 1 }} }} }}\nroutes: [{{ cluster: a, rate: {{ requests: 5/m }} }}]\n\
                 clusters: {{ a: {{ admission: {{ concurrency: {limit} }} }}, b: {{ admission: {{ concurrency: auto }} }}, c: {{}} }}"
            ),
            "x",
        )
        .unwrap()
    };
    let first = Table::compile(&yaml(5), 2, None);
    let [a, b] = [0, 1].map(|i| first.gate(crate::route::ClusterId(i)).unwrap());
    assert!(first.gate(crate::route::ClusterId(2)).is_none() && first.active);
    let workload = first.workload_limit(crate::route::WorkloadId(0)).unwrap();
    assert!(workload.bucket.take(0, Time(0)).is_ok() && workload.bucket.take(0, Time(0)).is_err());
    let same = Table::compile(&yaml(5), 2, Some(&first));
    assert!(Arc::ptr_eq(a, same.gate(crate::route::ClusterId(0)).unwrap()));
    assert!(same.workload_limit(crate::route::WorkloadId(0)).unwrap().bucket.take(0, Time(0)).is_err());
    assert!(Arc::ptr_eq(&first.route_limit(0).unwrap().bucket, &same.route_limit(0).unwrap().bucket));
    let other = Table::compile(&yaml(6), 2, Some(&first));
    assert_eq!(other.gate(crate::route::ClusterId(0)).unwrap().view().limit, 6);
    assert!(Arc::ptr_eq(b, other.gate(crate::route::ClusterId(1)).unwrap()));
    assert!(!Table::compile(&Config::default(), 2, Some(&first)).active);
}

#[test]
fn the_wait_is_what_was_configured() {
    let settings =
        Admission { concurrency: Concurrency::Auto, wait: Timespan(Duration::from_millis(7)), ..Admission::default() };
    let gate = Gate::of(&"c".into(), &settings, &Classes::compile(&Priority::default()), (1, 1), None).unwrap();
    assert_eq!(gate.wait(), Duration::from_millis(7));
}
