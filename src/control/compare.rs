//! Compares the endpoints of each cluster with each other, once in `ejection.interval`, and leaves outliers alone
//! (`health::outliers`).
//!
//! What an endpoint did is the sum over all workloads' links to it, between two looks at their counters. After a pause
//! that is much longer than the interval (the machine slept, or nothing ticked) the look only begins a new interval.

use super::tick::State;
use crate::balance::{EndpointId, Health};
use crate::health::{Span, outliers};
use crate::links::{Time, Totals};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// After so many intervals without a look nothing is compared.
const TOO_LONG: u32 = 3;

/// What is compared.
#[derive(Debug, Default)]
pub struct Compared {
    clusters: HashMap<Arc<str>, Look>,
    /// Nothing is due before.
    due: Time,
}

impl Compared {
    /// Clusters or their rules may have changed.
    pub fn look_again(&mut self) {
        self.due = Time(0);
    }
}

/// What a cluster's endpoints had done at the last look, in their order.
#[derive(Debug)]
struct Look {
    at: Time,
    totals: Vec<(EndpointId, Totals)>,
}

impl State {
    /// Looks at those clusters whose interval is over.
    pub fn compare(&mut self, now: Time) {
        if now < self.compared_endpoints.due {
            return;
        }
        let mut compared = std::mem::take(&mut self.compared_endpoints);
        let names: HashSet<&Arc<str>> = self.desired.clusters.iter().map(|c| &c.name).collect();
        compared.clusters.retain(|name, _| names.contains(name));
        compared.due = Time(u64::MAX);
        for index in 0..self.desired.clusters.len() {
            let Some(cluster) = self.desired.clusters.get(index) else { continue };
            let (name, rules) = (cluster.name.clone(), &cluster.config.ejection);
            if rules.success_rate <= 0.0 && rules.latency <= 0.0 {
                compared.clusters.remove(&name);
                continue;
            }
            let interval = rules.interval.0;
            let due = compared.clusters.get(&name).map(|look| look.at + interval).filter(|due| now < *due);
            compared.due = compared.due.min(due.unwrap_or(now + interval));
            if due.is_none() {
                let look = Look { at: now, totals: self.totals(index) };
                let before = compared.clusters.get(&name);
                if let Some(before) = before.filter(|b| now.since(b.at) < interval.saturating_mul(TOO_LONG)) {
                    self.eject_outliers(index, &before.totals, &look.totals, now);
                }
                compared.clusters.insert(name, look);
            }
        }
        self.compared_endpoints = compared;
    }

    /// What was done at each endpoint of a cluster, by all workloads, since the beginning.
    fn totals(&self, index: usize) -> Vec<(EndpointId, Totals)> {
        let Some(cluster) = self.desired.clusters.get(index) else { return Vec::new() };
        let mut all: Vec<_> = cluster.endpoints.iter().map(|e| (e.id, Totals::default())).collect();
        let workloads = self.desired.sources.len();
        let groups = self.roster.groups.get(index * workloads..(index + 1) * workloads).unwrap_or_default();
        for group in groups {
            for ((_, sum), slot) in all.iter_mut().zip(&group.slots) {
                let one = slot.link.totals();
                sum.ended += one.ended;
                sum.errors += one.errors;
                sum.samples += one.samples;
                sum.latency_sum_s += one.latency_sum_s;
            }
        }
        all
    }

    fn eject_outliers(
        &mut self,
        index: usize,
        before: &[(EndpointId, Totals)],
        after: &[(EndpointId, Totals)],
        now: Time,
    ) {
        let Some(cluster) = self.desired.clusters.get(index) else { return };
        let Some(group) = self.roster.groups.get(index * self.desired.sources.len()) else { return };
        let rules = &cluster.config.ejection;
        let span = |(then, now): (&(EndpointId, Totals), &(EndpointId, Totals))| {
            (then.0 == now.0).then(|| Span::between(&then.1, &now.1, rules.volume)).flatten()
        };
        let spans: Vec<_> = before.iter().zip(after).map(span).collect();
        let known = |place: usize| self.roster.known(group.slots.get(place)?);
        let well =
            |place: usize| known(place).and_then(|k| k.verdict.as_ref()).is_none_or(|v| v.health == Health::Healthy);
        let endpoints = cluster.endpoints.len();
        let mut out = (0..endpoints).filter(|place| !well(*place)).count();
        let most = ((rules.most.0 * endpoints as f64) as usize).max(1);
        for (place, fault) in outliers(&spans, rules) {
            let Some(known) = known(place).filter(|_| out < most && well(place)) else { continue };
            self.ejector.eject(&known.node, fault, rules, now);
            out += 1;
        }
    }
}
