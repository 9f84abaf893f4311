//! When requests are hedged, as the slow loop publishes it.

use super::*;
use crate::balance::Hedging;
use crate::config::HedgeAfter;

fn hedged(after: HedgeAfter) -> Config {
    let mut config = config(&[1, 2]);
    config.clusters.get_mut("c").unwrap().hedging.after = after;
    config
}

fn published(bench: &Bench) -> Option<Hedging> {
    bench.generation().clusters[0].hedging.clone()
}

fn after_ms(bench: &Bench) -> Option<f64> {
    published(bench)?.after.map(|after| after.as_secs_f64() * 1e3)
}

#[test]
fn hedging_is_off_unless_asked_for_and_a_reload_turns_it_on_and_off() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    assert!(published(&bench).is_none());
    let fixed = HedgeAfter::Set(Timespan(Duration::from_millis(70)));
    bench.state.reconfigure(Arc::new(hedged(fixed)));
    bench.state.publish_at_once(Cause::Reload);
    let hedging = published(&bench).unwrap();
    assert_eq!((hedging.after, hedging.share), (Some(Duration::from_millis(70)), Share(0.05)));
    let mut wider = hedged(fixed);
    wider.clusters.get_mut("c").unwrap().hedging.share = Share(0.5);
    bench.state.reconfigure(Arc::new(wider));
    bench.state.publish_at_once(Cause::Reload);
    let renewed = published(&bench).unwrap();
    assert_eq!(renewed.share, Share(0.5));
    assert!(Arc::ptr_eq(&renewed.budget, &hedging.budget), "what was spent is not forgotten");
    bench.state.reconfigure(Arc::new(config(&[1, 2])));
    bench.state.publish_at_once(Cause::Reload);
    assert!(published(&bench).is_none());
}

#[test]
fn by_default_a_hedge_is_due_after_what_95_of_100_tries_took_of_late() {
    let mut bench = Bench::new(hedged(HedgeAfter::Auto));
    bench.tick(Ok(&[0.010, 0.010]));
    assert_eq!(after_ms(&bench), None, "nobody knows yet");
    // Of both endpoints together: neither has 5 of 100 by itself.
    for i in 0..200 {
        bench.call(i % 2, if i % 25 == 0 { 0.400 } else { 0.010 }, Outcome::Success);
    }
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010]));
    let fast = after_ms(&bench).unwrap();
    assert!((9.5..10.5).contains(&fast), "{fast}: 4 of 100 are slow");
    (0..20).for_each(|i| bench.call(i % 2, 0.400, Outcome::Success));
    bench.state.publish_at_once(Cause::Health);
    assert_eq!(after_ms(&bench), Some(fast), "between two ticks nothing is looked at");
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010]));
    let slow = after_ms(&bench).unwrap();
    assert!((380.0..420.0).contains(&slow), "{slow}: 13 of 100 are slow");
    // What is long ago is not known any more.
    for _ in 0..20 {
        bench.pass(10.0);
        bench.tick(Ok(&[0.010, 0.010]));
    }
    assert_eq!(after_ms(&bench), None);
}

#[test]
fn tries_that_their_hedges_outran_count_as_slow() {
    let mut bench = Bench::new(hedged(HedgeAfter::Auto));
    bench.tick(Ok(&[0.010, 0.010]));
    let traffic = bench.generation().clusters[0].tables[0].traffic.clone();
    for i in 0..100 {
        bench.call(i % 2, if i < 95 { 0.010 } else { 0.050 }, Outcome::Success);
    }
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010]));
    let before = after_ms(&bench).unwrap();
    assert!((9.5..10.5).contains(&before), "{before}");
    (0..3).for_each(|_| traffic.hedged(0, crate::observe::Hedged::Won));
    bench.pass(0.1);
    bench.tick(Ok(&[0.010, 0.010]));
    let after = after_ms(&bench).unwrap();
    assert!((47.0..53.0).contains(&after), "{after}");
}
