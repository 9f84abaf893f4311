//! Durations apart by route (`http.route`), for one workload, cluster and core.
//!
//! A routing table gives each of its labels a [`RouteLabel`] when it is compiled: the label and a mark, which is the same
//! in the next table that has the same label. A request holds its rule's place in the table of its generation and brings
//! the rule's label from there. Here it is found by comparing marks, mostly with the first: nothing is hashed, and a label
//! has a place of its own from its first request on.
//!
//! **Bounded twice**: a configuration tells [`MAX_LABELS`] labels apart, and a workload and a cluster [`SLOTS`] of them,
//! the first that had requests since this process began to count the two. What is beyond is `other`.
//!
//! **A route that went away** keeps its place, and its requests stay in the sums, which only rise; it is shown by itself no
//! longer (`metrics`), and goes on from there when it comes back.

use super::durations::{self, Durations, DurationsSeen};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// How many labels a configuration tells apart, in its order.
pub const MAX_LABELS: usize = 100;
/// How many of them a workload's requests to a cluster do.
const SLOTS: usize = 32;
/// What stands for the others.
const OTHER: &str = "other";
/// The mark of what stands for the others.
const OTHER_MARK: u64 = u64::MAX;

/// A route, as metrics tell it from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteLabel {
    label: Arc<str>,
    /// The beginning of the label's SHA-256; neither 0 nor `OTHER_MARK`.
    mark: u64,
}

impl RouteLabel {
    /// The one with this label.
    #[must_use]
    pub fn new(label: Arc<str>) -> Self {
        let digest = Sha256::digest(label.as_bytes());
        let mark = digest.first_chunk().map_or(1, |first| u64::from_be_bytes(*first));
        Self { label, mark: mark.clamp(1, OTHER_MARK - 1) }
    }

    /// What stands for those that are not told apart.
    #[must_use]
    pub fn other() -> Self {
        Self { label: OTHER.into(), mark: OTHER_MARK }
    }

    /// Whether it stands for others.
    #[must_use]
    pub fn is_other(&self) -> bool {
        self.mark == OTHER_MARK
    }

    /// The label's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.label
    }
}

/// The labels of one configuration.
#[derive(Debug, Default)]
pub struct RouteLabels(BTreeMap<Arc<str>, RouteLabel>);

impl RouteLabels {
    /// The one with this label, for as long as there is room.
    pub fn of(&mut self, label: &Arc<str>) -> RouteLabel {
        if let Some(known) = self.0.get(label) {
            return known.clone();
        }
        if self.0.len() >= MAX_LABELS {
            return RouteLabel::other();
        }
        self.0.entry(label.clone()).or_insert_with(|| RouteLabel::new(label.clone())).clone()
    }

    /// All of them, sorted.
    #[must_use]
    pub fn sorted(self) -> Box<[RouteLabel]> {
        self.0.into_values().collect()
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// Its route's mark, once it has one.
    mark: AtomicU64,
    routed: OnceLock<Box<Routed>>,
}

#[derive(Debug)]
struct Routed {
    label: RouteLabel,
    durations: Durations,
}

/// One core's durations by route. It has one writer.
#[derive(Debug)]
pub struct ByRoute {
    slots: [Slot; SLOTS],
    other: OnceLock<Box<Durations>>,
    /// Of requests without a route.
    none: OnceLock<Box<Durations>>,
}

impl Default for ByRoute {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()), other: OnceLock::new(), none: OnceLock::new() }
    }
}

impl ByRoute {
    /// The durations of a route's requests.
    #[inline]
    pub fn of(&self, route: Option<&RouteLabel>) -> &Durations {
        let Some(route) = route else { return self.none.get_or_init(Box::default) };
        for slot in &self.slots {
            match slot.mark.load(Relaxed) {
                mark if mark == route.mark => {
                    if let Some(routed) = slot.routed.get() {
                        return &routed.durations;
                    }
                }
                0 if !route.is_other() => return slot.take(route),
                _ => {}
            }
        }
        self.other.get_or_init(Box::default)
    }

    /// Adds them to what others saw.
    pub fn add_to(&self, seen: &mut RoutesSeen) {
        for routed in self.slots.iter().filter_map(|slot| slot.routed.get()) {
            durations::add(seen.entry(Some(routed.label.clone())).or_default(), &routed.durations);
        }
        if let Some(other) = self.other.get() {
            durations::add(seen.entry(Some(RouteLabel::other())).or_default(), other);
        }
        if let Some(none) = self.none.get() {
            durations::add(seen.entry(None).or_default(), none);
        }
    }
}

impl Slot {
    #[cold]
    fn take(&self, route: &RouteLabel) -> &Durations {
        let make = || Box::new(Routed { label: route.clone(), durations: Durations::default() });
        let routed = self.routed.get_or_init(make);
        self.mark.store(routed.label.mark, Relaxed);
        &routed.durations
    }
}

/// What was seen by route; at `None` of requests without one.
pub type RoutesSeen = BTreeMap<Option<RouteLabel>, DurationsSeen>;

#[cfg(test)]
mod tests {
    use super::super::DurationKind;
    use super::*;

    fn record(by_route: &ByRoute, route: Option<&RouteLabel>) {
        let kind = DurationKind::new(&http::Method::GET, 200, None);
        by_route.of(route).record(kind, 1, None::<fn() -> _>);
    }

    fn counts(by_route: &ByRoute) -> Vec<(String, u64)> {
        let mut seen = RoutesSeen::default();
        by_route.add_to(&mut seen);
        let count = |seen: &DurationsSeen| seen.values().flat_map(|one| one.buckets).sum::<u64>();
        let name = |label: &Option<RouteLabel>| label.as_ref().map_or("none", RouteLabel::as_str).to_owned();
        seen.iter().map(|(label, seen)| (name(label), count(seen))).collect()
    }

    #[test]
    fn a_route_is_the_same_in_the_next_table_that_has_its_label() {
        let by_route = ByRoute::default();
        for _ in 0..2 {
            let mut labels = RouteLabels::default();
            let [a, b] = ["a/*", "b"].map(|label| labels.of(&label.into()));
            assert_eq!(labels.of(&"a/*".into()), a);
            record(&by_route, Some(&b));
            record(&by_route, Some(&a));
            record(&by_route, Some(&b));
            record(&by_route, None);
        }
        assert_eq!(counts(&by_route), [("none".into(), 2), ("a/*".into(), 2), ("b".into(), 4)]);
    }

    #[test]
    fn routes_have_an_end_and_none_is_lost() {
        let mut labels = RouteLabels::default();
        let all: Vec<_> = (0..MAX_LABELS + 5).map(|n| labels.of(&format!("{n:03}").into())).collect();
        assert_eq!(all.iter().filter(|label| label.is_other()).count(), 5);
        assert_eq!(labels.of(&"099".into()).as_str(), "099", "who has a label keeps it");
        let by_route = ByRoute::default();
        all.iter().rev().for_each(|label| record(&by_route, Some(label)));
        let counts = counts(&by_route);
        assert_eq!(counts.len(), SLOTS + 1);
        assert_eq!(counts.iter().find(|(label, _)| label == "other").unwrap().1, (MAX_LABELS + 5 - SLOTS) as u64);
        assert_eq!(counts[0].0, format!("{:03}", MAX_LABELS - SLOTS), "the first that had requests");
    }
}
