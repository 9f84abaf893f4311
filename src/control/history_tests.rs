//! What the slow loop notes of its generations, for people who look.

use super::*;
use crate::control::history::{self, Change};
use crate::links::NodeKey;

fn last(bench: &Bench) -> Arc<Change> {
    bench.state.status().history.last(1)[0].clone()
}

#[test]
fn weights_that_move_are_told_with_their_reasons() {
    let mut bench = Bench::new(config(&[1, 2, 3, 4]));
    bench.tick(Ok(&[0.010, 0.010, 0.010, 0.010]));
    assert!(last(&bench).moved.is_empty(), "they had none before");
    bench.pass(1.0);
    bench.tick(Ok(&[0.010, 0.010, 0.010, 0.100]));
    let change = last(&bench);
    let [moved, ..] = &change.moved[..] else { panic!("{change:?}") };
    let fourth = &bench.candidates()[3];
    assert_eq!((&moved.endpoint, moved.from, moved.to), (&fourth.endpoint.key, 0.25, fourth.weight));
    assert_eq!((&*moved.workload, &*moved.cluster), ("w", "c"));
    assert!(moved.why.to_string().contains("moved by the largest step"), "{}", moved.why);
    assert_eq!((change.generation, change.rung, change.cause), (bench.generation().id, Rung::Model, Cause::Interval));
    bench.pass(1.0);
    bench.tick(Err(too_slow()));
    let change = last(&bench);
    assert_eq!((change.rung, &change.rung_reason), (Rung::LastGood, &bench.generation().rung_reason));
}

#[test]
fn an_endpoint_that_fails_and_one_that_leaves_are_told_once_with_the_generation_that_knows() {
    let mut bench = Bench::new(config(&[1, 2, 3]));
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    (0..3).for_each(|_| bench.call(0, 0.0, Outcome::Failure));
    assert!(bench.state.health_changed());
    bench.state.publish_at_once(Cause::Health);
    let change = last(&bench);
    assert!(change.early && change.cause == Cause::Health, "{change:?}");
    let [turned] = &change.turned[..] else { panic!("{change:?}") };
    assert_eq!((&*turned.cluster, turned.from, turned.to), ("c", Health::Healthy, Health::Ejected));
    assert_eq!(turned.endpoint, bench.candidates()[0].endpoint.key);
    assert!(change.moved.iter().any(|m| m.endpoint == turned.endpoint && m.to == 0.0), "{change:?}");

    assert_eq!(bench.state.reconfigure(Arc::new(config(&[1, 3, 4]))), Cause::Endpoints);
    bench.state.publish_at_once(Cause::Endpoints);
    let change = last(&bench);
    let names = |those: &[(Arc<str>, NodeKey)]| those.iter().map(|(_, key)| key.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (names(&change.appeared), names(&change.disappeared)),
        (vec!["10.0.0.1:4".to_owned()], vec!["10.0.0.1:2".to_owned()])
    );
    assert!(change.turned.is_empty(), "told before");
    bench.tick(Ok(&[0.010, 0.010, 0.010]));
    assert!(last(&bench).appeared.is_empty());
}

#[test]
fn a_link_beyond_its_threshold_is_told_with_the_turn_that_it_made_happen() {
    let mut bench = Bench::new(config(&[1, 2]));
    bench.tick(Ok(&[0.010, 0.010]));
    let link = bench.candidates()[0].link.key.clone();
    let what = history::Trouble::Errors(0.5);
    bench.state.noted.broken = vec![history::Broken { link: link.clone(), what }];
    bench.state.publish_at_once(Cause::Health);
    assert!(last(&bench).broken.is_empty(), "what came between is not its doing");
    bench.tick(Ok(&[0.010, 0.010]));
    assert_eq!(last(&bench).broken.iter().map(|b| &b.link).collect::<Vec<_>>(), [&link]);
    bench.tick(Ok(&[0.010, 0.010]));
    assert!(last(&bench).broken.is_empty());
}
