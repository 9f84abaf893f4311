//! What a balancer would have done that knows the script: whether a request could have succeeded at all.
//!
//! It could where some endpoint of its cluster was well, and could be reached, when it was sent and for [`SERVED_WITHIN`]
//! after: whoever knows what comes picks one that lives long enough. For a request to `shop` there must be a far sidecar,
//! and an endpoint which that one can reach. The near sidecar itself is no excuse: a perfect one is always there.

use crate::script::{FAR, PLACES};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long an endpoint takes at most to serve a request when it is well, by what the load asks for.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

/// What may be ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An endpoint, by its service and its place.
    Endpoint(usize, usize),
    /// A far sidecar.
    Far(usize),
    /// A host's link to the others.
    Link(&'static str),
}

/// From when to when.
type Span = (Duration, Duration);

/// Notes who is ill, and when.
#[derive(Debug)]
pub struct Oracle {
    begun: Instant,
    spans: Mutex<BTreeMap<Part, Vec<Span>>>,
}

impl Oracle {
    /// All is well; moments count from `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Self {
        Self { begun, spans: Mutex::default() }
    }

    /// From now on this part is ill.
    pub fn ill(&self, part: Part) {
        let now = self.begun.elapsed();
        self.spans.lock().unwrap().entry(part).or_default().push((now, Duration::MAX));
    }

    /// From now on it is well again.
    pub fn well(&self, part: Part) {
        let now = self.begun.elapsed();
        if let Some(span) = self.spans.lock().unwrap().get_mut(&part).and_then(|spans| spans.last_mut()) {
            span.1 = now;
        }
    }

    fn is_well(&self, part: Part, at: Duration) -> bool {
        let spans = self.spans.lock().unwrap();
        spans.get(&part).is_none_or(|spans| spans.iter().all(|(from, to)| at + SERVED_WITHIN < *from || at >= *to))
    }

    /// Whether a request to this cluster (`web`, `feed`, `shop`, by number) could have succeeded.
    #[must_use]
    pub fn could(&self, cluster: usize, at: Duration) -> bool {
        let well = |part| self.is_well(part, at);
        let serves = |place: usize| well(Part::Endpoint(cluster, place));
        let linked = |host: &'static str| well(Part::Link(host));
        if cluster < 2 {
            return PLACES.iter().enumerate().any(|(place, host)| serves(place) && linked(host));
        }
        FAR.iter().enumerate().any(|(far, here)| {
            let reached = |host: &'static str| host == *here || linked(host);
            let served = PLACES.iter().enumerate().any(|(place, host)| serves(place) && reached(host));
            well(Part::Far(far)) && linked(here) && served
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ill(oracle: &Oracle, part: Part, from_s: u64, to_s: u64) {
        let span = (Duration::from_secs(from_s), Duration::from_secs(to_s));
        oracle.spans.lock().unwrap().entry(part).or_default().push(span);
    }

    #[test]
    fn a_request_could_have_succeeded_where_anybody_was_well_and_in_reach() {
        let oracle = Oracle::new(Instant::now());
        let could = |cluster, ms| oracle.could(cluster, Duration::from_millis(ms));
        (0..3).for_each(|place| ill(&oracle, Part::Endpoint(0, place), 10, 20));
        assert!(could(0, 15_000), "one is left");
        ill(&oracle, Part::Link("d"), 12, 14);
        assert!(could(0, 11_000) && !could(0, 13_000) && could(0, 14_000));
        assert!(!could(0, 11_950), "the last one is cut off before it could have answered");
        assert!(could(1, 13_000) && could(2, 13_000));
    }

    #[test]
    fn through_a_far_sidecar_both_hops_must_be_there() {
        let oracle = Oracle::new(Instant::now());
        let could = |s| oracle.could(2, Duration::from_secs(s));
        ill(&oracle, Part::Far(0), 0, 100);
        ill(&oracle, Part::Link("d"), 0, 100);
        assert!(could(1));
        ill(&oracle, Part::Endpoint(2, 1), 10, 20);
        assert!(could(15), "the far sidecar on c reaches the endpoint on b");
        ill(&oracle, Part::Link("b"), 12, 20);
        assert!(!could(15));
        ill(&oracle, Part::Link("c"), 30, 40);
        assert!(!could(35), "nobody reaches the far sidecar, well as it is");
    }
}
