//! How busy the own zone is, and what load leaves it of the requests (`locality`, `balance::zones`).
//!
//! ```text
//! load = max(requests under way an endpoint / busy_at, reported utilisation / 80%)
//! kept = kept x (1 / load)^(dt / 2 s), at most 15% less and 5% more in a second, within 0..1
//! ```
//! Requests under way are calls a second times mean latency (Little's law) over all workloads of this proxy, as the last
//! seconds saw them: the count at one moment would be chance. Spilling makes the zone less busy, which the next ticks
//! see: so it settles where the zone is just as busy as it may be. It gives away faster than it takes back, and both
//! slower than what it looks at changes, so that it does not swing.

use super::tick::State;
use crate::balance::Capacity;
use crate::links::{NodeKey, NodeStats, Time};
use std::collections::HashMap;
use std::sync::Arc;

/// An endpoint that reports more than this is busy (HPA's and Envoy's examples use the same).
const BUSY_UTILISATION: f32 = 0.8;
/// How old a report may be, in seconds.
const REPORT_COUNTS_S: f32 = 10.0;
/// Half of what load asks for is followed in so many seconds.
const FOLLOWED_IN_S: f32 = 2.0;
/// A second's change, at most.
const LESS: f32 = 0.85;
const MORE: f32 = 1.05;

/// What is remembered of a cluster's own zone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// The share of requests that load leaves it.
    pub share: f32,
    /// How busy its endpoints are, 1 being as busy as they may; unknown before anything was seen.
    pub load: Option<f32>,
    at: Time,
}

impl Kept {
    fn new(now: Time) -> Self {
        Self { share: 1.0, load: None, at: now }
    }

    /// The same a moment later, under this load; `least` is what the zone would have without preference.
    fn moved(self, load: Option<f32>, least: f32, now: Time) -> Self {
        let elapsed_s = now.seconds_since(self.at).clamp(0.0, 1.0);
        let wanted = load.map_or(MORE, |load| (1.0 / load.max(1e-3)).powf(1.0 / FOLLOWED_IN_S));
        let share = self.share * wanted.clamp(LESS, MORE).powf(elapsed_s);
        Self { share: share.clamp(least.clamp(0.0, 1.0), 1.0), load, at: now }
    }
}

/// By cluster, where the own zone comes first.
pub type Spills = HashMap<Arc<str>, Kept>;

impl State {
    /// Looks how busy the own zone's endpoints are.
    pub fn spill(&mut self, now: Time) {
        let zone = &self.desired.config.node.zone;
        if zone.is_empty() || !self.desired.clusters.iter().any(|c| c.config.locality.own_zone_first) {
            self.spills.clear();
            return;
        }
        let mut last = std::mem::take(&mut self.spills);
        let reported: HashMap<&NodeKey, &NodeStats> =
            self.observation.nodes.iter().map(|node| (&node.key, &node.stats)).collect();
        let workloads = self.desired.sources.len();
        for (index, cluster) in self.desired.clusters.iter().enumerate() {
            if !cluster.config.locality.own_zone_first {
                continue;
            }
            let groups = self.roster.groups.get(index * workloads..(index + 1) * workloads).unwrap_or_default();
            let (mut capacity, mut under_way, mut well) = (Capacity::default(), 0.0f32, 0u32);
            let (mut utilisation, mut reports) = (0.0f32, 0u32);
            for (place, endpoint) in cluster.endpoints.iter().enumerate() {
                let slots = || groups.iter().filter_map(|group| group.slots.get(place));
                let known = slots().next().and_then(|slot| self.roster.known(slot));
                let takes = known.and_then(|k| k.verdict.as_ref()).is_none_or(|v| v.health.takes_requests());
                let weight = if takes { endpoint.weight as f32 } else { 0.0 };
                if *endpoint.zone != **zone {
                    capacity.others_well += weight;
                    continue;
                }
                capacity.own_well += weight;
                if weight == 0.0 {
                    continue;
                }
                well += 1;
                under_way += slots()
                    .filter_map(|slot| slot.stats(&self.observation))
                    .filter_map(|s| Some(s.calls_per_second? * s.latency_mean_s?))
                    .sum::<f32>();
                if let Some(busy) = reported.get(&endpoint.key).and_then(|stats| in_use(stats)) {
                    utilisation += busy;
                    reports += 1;
                }
            }
            let counted = (well > 0).then(|| under_way / (well * cluster.config.locality.busy_at.max(1)) as f32);
            let told = (reports > 0).then(|| utilisation / reports as f32 / BUSY_UTILISATION);
            let load = counted.into_iter().chain(told).filter(|l| l.is_finite()).reduce(f32::max);
            let before = last.remove(&cluster.name).unwrap_or_else(|| Kept::new(now));
            self.spills.insert(cluster.name.clone(), before.moved(load, capacity.fair(), now));
        }
    }
}

/// How much of itself an endpoint says is in use.
fn in_use(stats: &NodeStats) -> Option<f32> {
    let fresh = stats.report_age_s.is_some_and(|age| age <= REPORT_COUNTS_S);
    stats.application_utilization.or(stats.cpu_utilization).filter(|_| fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mut kept: Kept, seconds: u64, load: impl Fn(f32) -> f32) -> Kept {
        for _ in 0..seconds {
            let now = Time(kept.at.0 + 1_000_000_000);
            kept = kept.moved(Some(load(kept.share)), 0.25, now);
        }
        kept
    }

    #[test]
    fn it_settles_where_the_zone_is_as_busy_as_it_may_be() {
        // Twice as much as it can take: half of it stays.
        let settled = after(Kept::new(Time(0)), 60, |share| 2.0 * share);
        assert!((settled.share - 0.5).abs() < 0.02, "{settled:?}");
        // Four times as much and more: what it would get without preference stays.
        let busy = after(settled, 60, |share| 20.0 * share);
        assert_eq!(busy.share, 0.25);
        // It is quiet again.
        assert_eq!(after(busy, 60, |share| 0.5 * share).share, 1.0);
    }

    #[test]
    fn it_moves_slowly_whatever_it_is_told() {
        let start = Kept::new(Time(0));
        for (load, least, most) in [(1e30, 0.84, 0.86), (f32::NAN, 0.84, 1.0), (0.0, 1.0, 1.0)] {
            let kept = after(start, 1, |_| load);
            assert!(kept.share >= least && kept.share <= most, "{load}: {kept:?}");
        }
        assert_eq!(start.moved(Some(9.0), 0.0, Time(0)).share, 1.0, "no time has passed");
        let long = start.moved(Some(9.0), 0.0, Time(1 << 60)).share;
        assert!(long >= LESS - 1e-3, "a pause is one second: {long}");
    }
}
