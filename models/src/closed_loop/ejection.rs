//! Failures in a row eject a replica, for every policy alike: the product's own rule, so that only the choice differs.
//!
//! The product's `health::Ejector` with its default limits stands before each policy: who is ejected is not shown to it, on
//! probation a replica gets single requests that the policy is not asked for, and where fewer than half are healthy
//! all are shown (panic).

use crate::simulator::balancer::{Balancer, Probe, Scored};
use crate::simulator::draw::Draw;
use pathloom::balance::Health;
use pathloom::config::Ejection;
use pathloom::health::Ejector;
use pathloom::links::orca::Report;
use pathloom::links::{Links, NodeCell, NodeKey, Outcome, Time};
use std::sync::Arc;

/// A policy behind the ejector.
#[derive(Debug)]
pub struct Ejecting {
    inner: Box<dyn Balancer>,
    nodes: Vec<Arc<NodeCell>>,
    ejector: Ejector,
    rules: Ejection,
    /// Whether a failure or a probe's success may have changed somebody's state.
    rung: bool,
    /// What discovery said at the last pick, and of those who is healthy and who is on probation.
    usable: Vec<usize>,
    pub(super) healthy: Vec<usize>,
    probation: Vec<usize>,
    out: Vec<bool>,
}

fn cells(keys: &[NodeKey]) -> Vec<Arc<NodeCell>> {
    let links = Links::new(1);
    keys.iter().map(|key| links.node(key, Time(0))).collect()
}

impl Ejecting {
    /// Stands before a policy among these replicas.
    #[must_use]
    pub fn new(inner: Box<dyn Balancer>, destinations: &[NodeKey]) -> Self {
        Self {
            inner,
            nodes: cells(destinations),
            ejector: Ejector::default(),
            rules: Ejection::default(),
            rung: true,
            usable: Vec::new(),
            healthy: Vec::new(),
            probation: Vec::new(),
            out: vec![false; destinations.len()],
        }
    }

    fn look(&mut self, now: Time, usable: &[usize]) {
        let due = self.ejector.next_change().is_some_and(|at| at <= now);
        if !self.rung && !due && self.usable == usable {
            return;
        }
        self.rung = false;
        self.usable.clear();
        self.usable.extend_from_slice(usable);
        self.healthy.clear();
        self.probation.clear();
        for position in usable {
            let health = self.ejector.check(&self.nodes[*position], &self.rules, None, now).health;
            self.out[*position] = !health.takes_requests();
            match health {
                Health::Healthy => self.healthy.push(*position),
                Health::Probation => self.probation.push(*position),
                Health::Ejected | Health::Unhealthy | Health::Drained => {}
            }
        }
        if self.healthy.is_empty() || (self.healthy.len() as f64) < self.rules.panic_below.0 * usable.len() as f64 {
            self.healthy.clear();
            self.healthy.extend_from_slice(usable);
            self.probation.clear();
        }
    }
}

impl Balancer for Ejecting {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        self.look(now, usable);
        let probe = self.probation.iter().find(|p| !tried.contains(p) && self.nodes[**p].take_probe(true));
        match probe {
            Some(position) => *position,
            None => self.inner.pick(now, draw, &self.healthy, tried),
        }
    }

    fn began(&mut self, position: usize, now: Time) {
        self.nodes[position].begin();
        self.inner.began(position, now);
    }

    fn ended(&mut self, position: usize, now: Time, latency_s: f32, outcome: Outcome, report: Option<&Report>) {
        let node = &self.nodes[position];
        node.end();
        match outcome {
            Outcome::Success => {
                node.succeeded();
                self.rung |= self.out[position];
            }
            Outcome::Failure => self.rung |= node.failed() >= self.rules.consecutive_failures,
            Outcome::Cancelled => {}
        }
        if self.rung {
            // At once, as the product's bell rings: the time of an ejection runs from the failure.
            let usable = std::mem::take(&mut self.usable);
            self.look(now, &usable);
        }
        self.inner.ended(position, now, latency_s, outcome, report);
    }

    fn probes(&mut self, draw: &mut Draw, into: &mut Vec<usize>) {
        self.inner.probes(draw, into);
    }

    fn probed(&mut self, position: usize, now: Time, probe: Probe) {
        self.inner.probed(position, now, probe);
    }

    fn tick(&mut self, now: Time, scored: Option<&[Option<Scored>]>) {
        self.inner.tick(now, scored);
    }

    fn weights(&self) -> Option<Vec<f32>> {
        self.inner.weights()
    }

    fn fork(&self) -> Box<dyn Balancer> {
        let keys: Vec<NodeKey> = self.nodes.iter().map(|n| n.key.clone()).collect();
        let nodes = cells(&keys);
        for (from, to) in self.nodes.iter().zip(&nodes) {
            (0..from.failures_in_a_row()).for_each(|_| {
                to.failed();
            });
            (0..from.in_flight()).for_each(|_| to.begin());
            // An offered probe can only be looked at by taking it.
            if from.take_probe(true) {
                from.offer_probe();
                to.offer_probe();
            }
        }
        Box::new(Self {
            inner: self.inner.fork(),
            nodes,
            ejector: self.ejector.clone(),
            rules: self.rules.clone(),
            rung: true,
            usable: self.usable.clone(),
            healthy: self.healthy.clone(),
            probation: self.probation.clone(),
            out: self.out.clone(),
        })
    }
}
