//! Tests of what headers say of a trace.

use super::*;
use rand::{SeedableRng, rngs::SmallRng};
use std::cell::Cell;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

/// What is read, how much of it was malformed, and what is left.
fn taken(by: &[Propagator], lines: &[(&'static str, &str)]) -> (Option<Caller>, u32, HeaderMap) {
    let (mut headers, malformed) = (map(lines), Cell::new(0));
    let seen = Seen::in_headers(&headers);
    let caller = Propagators::new(by).take(&mut headers, &seen, |_| malformed.set(malformed.get() + 1));
    (caller, malformed.get(), headers)
}

fn caller(trace: &str, sampled: Option<bool>, debug: bool) -> Option<Caller> {
    let ids = Some((trace.as_bytes().try_into().unwrap(), SPAN.as_bytes().try_into().unwrap()));
    Some(Caller { ids, sampled, debug, ..Caller::default() })
}

use Propagator::{B3 as Single, B3Multi, TraceContext};

#[test]
fn a_traceparent_is_read_or_malformed() {
    let by_w3c = |sampled, random| caller(TRACE, Some(sampled), false).map(|c| Caller { random, w3c: true, ..c });
    for (flags, sampled, random) in [("00", false, false), ("01", true, false), ("02", false, true), ("ff", true, true)]
    {
        let good = format!("00-{TRACE}-{SPAN}-{flags}");
        assert_eq!(taken(&[TraceContext], &[("traceparent", &good)]), (by_w3c(sampled, random), 0, map(&[])));
    }
    let later = format!("01-{TRACE}-{SPAN}-02-more");
    assert_eq!(taken(&[TraceContext], &[("traceparent", &later)]).0, by_w3c(false, true));
    for bad in [
        "".to_owned(),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-x"),
        format!("00-{TRACE}-{SPAN}-0x"),
        format!("00_{TRACE}-{SPAN}-01"),
    ] {
        assert_eq!(taken(&[TraceContext], &[("traceparent", &bad)]), (None, 1, map(&[])), "{bad}");
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    let twice = taken(&[TraceContext], &[("traceparent", &good), ("traceparent", &good)]);
    assert_eq!(twice, (None, 1, map(&[])), "nobody knows which of two is meant");
}

#[test]
fn b3_in_one_header_is_read_or_malformed() {
    let ids = format!("{TRACE}-{SPAN}");
    let short = format!("{}{}", "0".repeat(16), &TRACE[16..]);
    for (value, expected) in [
        (format!("{ids}-1"), caller(TRACE, Some(true), false)),
        (format!("{ids}-0-{SPAN}"), caller(TRACE, Some(false), false)),
        (format!("{ids}-d"), caller(TRACE, Some(true), true)),
        (ids.clone(), caller(TRACE, None, false)),
        (format!("{}-{SPAN}-1", &TRACE[16..]), caller(&short, Some(true), false)),
        ("0".to_owned(), Some(Caller { ids: None, sampled: Some(false), debug: false, ..Caller::default() })),
        ("d".to_owned(), Some(Caller { ids: None, sampled: Some(true), debug: true, ..Caller::default() })),
    ] {
        assert_eq!(taken(&[Single], &[("b3", &value)]), (expected, 0, map(&[])), "{value}");
    }
    for bad in [
        String::new(),
        "2".to_owned(),
        TRACE.to_owned(),
        format!("{ids}-x"),
        format!("{ids}-1-{SPAN}-1"),
        format!("{ids}-1-short"),
        format!("{TRACE}-{}-1", &SPAN[1..]),
        format!("{}-{SPAN}-1", &TRACE[1..]),
        format!("{}-{SPAN}-1", "0".repeat(32)),
        format!("{}-{SPAN}-1", TRACE.to_uppercase()),
    ] {
        assert_eq!(taken(&[Single], &[("b3", &bad)]), (None, 1, map(&[])), "{bad}");
    }
}

#[test]
fn b3_in_several_headers_is_read_or_malformed() {
    let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-parentspanid", SPAN)];
    let with = |more: &[(&'static str, &'static str)]| taken(&[B3Multi], &[&ids[..], more].concat());
    for (more, expected) in [
        (&[("x-b3-sampled", "1")][..], caller(TRACE, Some(true), false)),
        (&[("x-b3-sampled", "false")], caller(TRACE, Some(false), false)),
        (&[("x-b3-flags", "1")], caller(TRACE, Some(true), true)),
        (&[("x-b3-flags", "0")], caller(TRACE, None, false)),
        (&[], caller(TRACE, None, false)),
    ] {
        assert_eq!(with(more), (expected, 0, map(&[])), "{more:?}");
    }
    let denied = taken(&[B3Multi], &[("x-b3-sampled", "0")]);
    assert_eq!(denied.0, Some(Caller { ids: None, sampled: Some(false), debug: false, ..Caller::default() }));
    for bad in [("x-b3-sampled", "yes"), ("x-b3-flags", "2"), ("x-b3-spanid", SPAN)] {
        assert_eq!(with(&[bad]), (None, 1, map(&[])), "{bad:?}");
    }
    assert_eq!(taken(&[B3Multi], &[("x-b3-traceid", TRACE)]), (None, 1, map(&[])), "half of it");
    assert_eq!(taken(&[B3Multi], &[("x-b3-parentspanid", SPAN)]), (None, 0, map(&[])));
}

#[test]
fn the_first_that_can_be_read_counts_and_what_is_not_configured_goes_on_as_it_came() {
    let (w3c, b3) = (format!("00-{TRACE}-{SPAN}-01"), format!("{}-{SPAN}-0", TRACE.replace('4', "5")));
    let both = [("traceparent", w3c.as_str()), ("b3", b3.as_str())];
    let of = |by: &[Propagator], lines| taken(by, lines).0.and_then(|c| c.sampled);
    assert_eq!((of(&[TraceContext, Single], &both), of(&[Single, TraceContext], &both)), (Some(true), Some(false)));
    let broken = [("traceparent", "00-x"), ("b3", b3.as_str())];
    let (caller, malformed, left) = taken(&[TraceContext, Single], &broken);
    assert_eq!((caller.unwrap().sampled, malformed, left), (Some(false), 1, map(&[])));
    assert_eq!(taken(&[TraceContext], &both).2, map(&both[1..]));
    assert_eq!(taken(&[Single], &both).2, map(&both[..1]));
}

#[test]
fn what_is_written_is_read_as_it_was_and_written_over_by_another_span() {
    let (mut ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
    for by in [&[TraceContext][..], &[Single], &[B3Multi], &[TraceContext, Single, B3Multi]] {
        for (sampled, debug) in [(true, false), (false, false), (true, true)] {
            let given = Caller { ids: None, sampled: Some(sampled), debug, ..Caller::default() };
            let mut trace = ids.trace(Some(given), &mut rng, |_| panic!("it was decided"));
            let propagators = Propagators::new(by);
            let lines = |trace: &Trace| {
                let mut out = Vec::new();
                Carried::new(trace, propagators).write(&mut out);
                String::from_utf8(out).unwrap()
            };
            let first = lines(&trace);
            let span = trace.hang_below(&mut rng);
            let second = lines(&trace);
            assert_eq!(first.len(), second.len());
            assert_eq!(second, first.replace(trace.span_id(), std::str::from_utf8(&span).unwrap()));
            let mut headers = HeaderMap::new();
            Carried::new(&trace, propagators).insert(&mut headers, &mut ids);
            let mut inserted = String::new();
            headers.iter().for_each(|(n, v)| inserted += &format!("\r\n{n}: {}", v.to_str().unwrap()));
            assert_eq!(inserted, second, "the same, whichever way it goes");
            let seen = Seen::in_headers(&headers);
            for one in by {
                let read =
                    Propagators::new(&[*one]).take(&mut headers.clone(), &seen, |_| panic!("{headers:?}")).unwrap();
                let expected = (trace.trace_id().as_bytes().try_into().unwrap(), span);
                assert_eq!((read.ids, read.sampled), (Some(expected), Some(sampled)));
                assert_eq!(read.debug, debug && *one != TraceContext);
            }
        }
    }
}

#[test]
fn the_random_flag_goes_on_and_means_nothing_to_b3() {
    let (ids, mut rng) = (Ids::default(), SmallRng::seed_from_u64(1));
    for (flags, decision) in [("02", b'0'), ("03", b'1'), ("fe", b'0')] {
        let given = format!("00-{TRACE}-{SPAN}-{flags}");
        let caller = taken(&[TraceContext], &[("traceparent", &given)]).0;
        let trace = ids.trace(caller, &mut rng, |_| panic!("it was decided"));
        let expected = [b'0', if decision == b'1' { b'3' } else { b'2' }];
        assert!(trace.random() && trace.header.ends_with(&expected), "{flags}");
        let b3 = Carried::new(&trace, Propagators::new(&[Single])).single();
        assert_eq!(b3.last(), Some(&decision), "{flags}");
    }
}

#[test]
fn a_tracestate_is_put_together_from_all_its_headers_and_has_an_end() {
    let of = |values: &[&str]| {
        let lines: Vec<_> = values.iter().map(|value| ("tracestate", *value)).collect();
        state(&map(&lines), None)
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&["", " ,"]), None);
    assert_eq!(of(&["a=1, b=2", "c=3"]).as_deref(), Some("a=1,b=2,c=3"));
    let long = format!("a=1,b={},c=3", "x".repeat(MAX_STATE));
    assert_eq!(of(&[&long]).as_deref(), Some("a=1"), "members are whole");
}
