//! Compares the endpoints of each cluster with each other, once in `ejection.interval`, and leaves outliers alone
//! (`health::outliers`).
//!
//! What an endpoint did is the sum over all workloads' links to it, between two looks at their counters. After a pause
//! that is much longer than the interval (the machine slept, or nothing ticked) the look only begins a new interval.

use super::tick::State;
use crate::balance::Health;
use crate::health::{Span, outliers};
use crate::links::{NodeKey, Time, Totals};
use std::collections::HashMap;

/// After so many intervals without a look nothing is compared.
const TOO_LONG: u32 = 3;

/// What a cluster's endpoints had done at the last look.
#[derive(Debug)]
pub struct Compared {
    at: Time,
    totals: HashMap<NodeKey, Totals>,
}

impl State {
    /// Looks at those clusters whose interval is over.
    pub fn compare(&mut self, now: Time) {
        let names: Vec<_> = self.desired.clusters.iter().map(|c| c.name.clone()).collect();
        self.spans.retain(|name, _| names.contains(name));
        for (index, name) in names.into_iter().enumerate() {
            let Some(cluster) = self.desired.clusters.get(index) else { continue };
            let rules = &cluster.config.ejection;
            let wanted = rules.success_rate > 0.0 || rules.latency > 0.0;
            let passed = self.spans.get(&name).map(|c| now.since(c.at));
            if !wanted {
                self.spans.remove(&name);
            } else if passed.is_none_or(|passed| passed >= rules.interval.0) {
                let fresh = Compared { at: now, totals: self.totals(index) };
                let before = self.spans.insert(name, fresh);
                if passed.is_some_and(|passed| passed < rules.interval.0.saturating_mul(TOO_LONG)) {
                    before.into_iter().for_each(|before| self.eject_outliers(index, &before, now));
                }
            }
        }
    }

    /// What was done at each endpoint of a cluster, by all workloads, since the beginning.
    fn totals(&self, cluster: usize) -> HashMap<NodeKey, Totals> {
        let mut all: HashMap<NodeKey, Totals> = HashMap::new();
        for slot in self.roster.groups.iter().filter(|g| g.cluster == cluster).flat_map(|g| &g.slots) {
            let (sum, one) = (all.entry(slot.link.key.destination.clone()).or_default(), slot.link.totals());
            sum.ended += one.ended;
            sum.errors += one.errors;
            sum.samples += one.samples;
            sum.latency_sum_s += one.latency_sum_s;
        }
        all
    }

    fn eject_outliers(&mut self, index: usize, before: &Compared, now: Time) {
        let Some(cluster) = self.desired.clusters.get(index) else { return };
        let (rules, keys) = (&cluster.config.ejection, cluster.endpoints.iter().map(|e| &e.key));
        let Some(after) = self.spans.get(&cluster.name) else { return };
        let span = |key: &NodeKey| Span::between(before.totals.get(key)?, after.totals.get(key)?, rules.volume);
        let spans: Vec<_> = keys.clone().map(span).collect();
        let known = |key: &NodeKey| self.roster.endpoints.iter().find(|known| known.node.key == *key);
        let well = |key: &NodeKey| known(key).and_then(|k| k.verdict).is_none_or(|v| v.health == Health::Healthy);
        let mut out = keys.clone().filter(|key| !well(key)).count();
        let most = ((rules.most.0 * spans.len() as f64) as usize).max(1);
        for (place, fault) in outliers(&spans, rules) {
            let Some(known) = cluster.endpoints.get(place).and_then(|e| known(&e.key)) else { continue };
            if out < most && well(&known.node.key) {
                self.ejector.eject(&known.node, fault, rules, now);
                out += 1;
            }
        }
    }
}
