//! The second half of a tick: from what is known of each candidate to a published generation.

use super::desired::DesiredCluster;
use super::tick::{Remembered, State};
use super::weights::{
    EXPLORED, Guard, Guarded, LEAST_GROWN, Limits, UNKNOWN_PRIOR_S, Wanted, biases, expected_success, guarded, leaning,
    priors,
};
use crate::balance::{Candidate, Cause, Cluster, Endpoint, Generation, Health, Rung, Table, TableOptions};
use crate::config::{Mode, Policy};
use crate::links::{LinkCell, LinkKey, Time};
use crate::scorer::Scored;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// Candidates that no tick knew of for this long are forgotten.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// How much of a turn stands behind a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Only who may get requests has changed.
    Early,
    /// Everything was looked at.
    Whole,
}

/// A turn that a trigger asked for moves weights by at least this part of a whole step: it was asked for a reason.
const MIN_STEP_PART: f32 = 0.25;

impl State {
    /// Publishes with the scores of the last tick: who may get requests has changed, nothing else.
    pub fn publish_at_once(&mut self, cause: Cause) {
        let started = std::time::Instant::now();
        if self.verdicts.is_empty() || cause != Cause::Health {
            self.health_changed();
        }
        self.publish(cause, Turn::Early, started.elapsed());
    }

    /// Publishes although nothing could be scored: an empty mesh, or one that is too large.
    pub fn publish_unscored(&mut self, cause: Cause, took: Duration) {
        let now = self.now();
        self.step_down("nothing to score".into(), now);
        self.publish(cause, Turn::Whole, took);
    }

    /// Publishes what the scorer said, or what the ladder makes of its silence.
    pub fn publish_scored(&mut self, cause: Cause, scored: Scored, took: Duration) {
        let now = self.now();
        self.take_scores(scored, now);
        self.publish(cause, Turn::Whole, took);
    }

    fn publish(&mut self, cause: Cause, turn: Turn, took: Duration) {
        let now = self.now();
        let max_step = self.step_allowed(turn, now);
        let guards = &self.desired.config.model.guards;
        let limits = Limits {
            temperature: self.desired.config.model.temperature as f32,
            floor: guards.floor.0 as f32,
            max_step,
            dead_band: guards.dead_band.0 as f32,
        };
        // While the last good scores steer, they expire when they would have.
        let expires_at = match (self.rung, self.good_until) {
            (Rung::LastGood, Some(until)) => until,
            _ => now + guards.expire_after.0,
        };
        let routes = self.desired.routes.clone();
        let mut clusters = Vec::with_capacity(self.desired.clusters.len());
        for index in 0..self.desired.clusters.len() {
            let tables = (0..routes.workloads().len()).filter_map(|w| self.table(index, w, &limits, now)).collect();
            let Some(cluster) = self.desired.clusters.get(index) else { continue };
            clusters.push(Arc::new(Cluster {
                name: cluster.name.clone(),
                service: cluster.service.clone(),
                protocol: cluster.config.protocol,
                timeouts: cluster.config.timeouts.clone(),
                ejection: cluster.config.ejection.clone(),
                tables,
            }));
        }
        self.memory.retain(|_, m| now.since(m.seen) < REMEMBERED_FOR);
        let configured = &self.desired.config;
        self.parts.traffic.retain(|w, c| configured.workloads.contains_key(w) && configured.clusters.contains_key(c));
        self.first = false;
        self.generation += 1;
        self.parts.published.publish(Generation {
            id: self.generation,
            made_at: now,
            made_at_wall: SystemTime::now(),
            expires_at,
            cause,
            rung: self.rung,
            rung_reason: self.rung_reason.clone(),
            model: self.model.clone().filter(|_| matches!(self.rung, Rung::Model | Rung::LastGood)),
            routes,
            clusters: clusters.into(),
        });
        if turn == Turn::Whole {
            self.status().ticked(cause, self.rung, took);
        }
    }

    /// The largest step of a weight now. It is the configured one a tick: turns that triggers add between two ticks
    /// share it, or a storm of them would undo it.
    fn step_allowed(&mut self, turn: Turn, now: Time) -> f32 {
        if turn == Turn::Early {
            return 0.0;
        }
        let model = &self.desired.config.model;
        let tick_s = model.tick.0.as_secs_f32().max(1e-3);
        let part = self.stepped_at.map_or(1.0, |last| (now.seconds_since(last) / tick_s).clamp(MIN_STEP_PART, 1.0));
        self.stepped_at = Some(now);
        model.guards.max_step.0 as f32 * part
    }

    fn table(&mut self, cluster: usize, workload: usize, limits: &Limits, now: Time) -> Option<Arc<Table>> {
        let source = self.desired.sources.get(workload)?.clone();
        let workload = self.desired.routes.workloads().get(workload)?.name.clone();
        let cluster = self.desired.clusters.get(cluster)?;
        let policy = self.policy_in_force(cluster);
        let model = &self.desired.config.model;
        let steered = policy == Policy::Model;
        let slow_start = model.guards.slow_start.0;

        let wanted: Vec<(Wanted, Remembered, Health)> = cluster
            .endpoints
            .iter()
            .map(|endpoint| {
                let key = (workload.clone(), cluster.name.clone(), endpoint.key.clone());
                let remembered = self.memory.entry(key).or_insert(Remembered::fresh(self.first, now));
                remembered.seen = now;
                let health = match self.verdicts.get(&endpoint.key) {
                    _ if endpoint.weight == 0 => Health::Drained,
                    Some(verdict) => verdict.health,
                    None => Health::Healthy,
                };
                match health {
                    Health::Ejected | Health::Probation => remembered.was_out = true,
                    Health::Healthy if std::mem::take(&mut remembered.was_out) => remembered.first_seen = now,
                    Health::Healthy | Health::Drained => {}
                }
                let age = now.since(remembered.first_seen);
                let new = remembered.first_seen != Time(0) && age < slow_start;
                let grown = if new { (age.as_secs_f32() / slow_start.as_secs_f32()).max(LEAST_GROWN) } else { 1.0 };
                let wanted = Wanted {
                    score: remembered.score.filter(|_| steered),
                    takes_requests: health.takes_requests(),
                    configured: endpoint.weight,
                    grown,
                    last: remembered.weight.filter(|_| steered),
                };
                (wanted, *remembered, health)
            })
            .collect();

        let usable = wanted.iter().filter(|(_, _, h)| *h != Health::Drained).count();
        let healthy = wanted.iter().filter(|(_, _, h)| h.takes_requests()).count();
        let least = cluster.config.ejection.panic_below.0 * usable as f64;
        let panic = usable > 0 && (healthy == 0 || (healthy as f64) < least);
        let mut inputs: Vec<Wanted> = wanted.iter().map(|(w, _, _)| *w).collect();
        if panic {
            inputs.iter_mut().for_each(|w| w.takes_requests = w.configured > 0);
        }
        // Every configured weight is zero: better equal shares than no answer.
        let all_zero = !inputs.is_empty() && inputs.iter().all(|w| w.configured == 0);
        if all_zero {
            inputs.iter_mut().for_each(|w| (w.configured, w.takes_requests) = (1, true));
        }
        let guarded = guarded(&inputs, limits);
        let weights: Vec<f32> = guarded.iter().map(|g| g.weight).collect();
        let intrinsic: Vec<Option<f32>> = wanted.iter().map(|(_, m, _)| m.predicted.map(|p| p.intrinsic_s)).collect();
        let biases = biases(&inputs);
        let mut priors = priors(&weights, &biases, &intrinsic, UNKNOWN_PRIOR_S);
        let links: Vec<Arc<LinkCell>> =
            cluster.endpoints.iter().map(|e| self.parts.links.link(&LinkKey::new(&source, &e.key), now)).collect();
        let tau_s = model.decay.0.as_secs_f32();
        let measured = links.iter().zip(&priors).map(|(link, prior)| {
            let mean_s = self.observed.get(&link.key)?.latency_mean_s?;
            let fresh = link.estimate.last(now)?.age_s <= tau_s;
            fresh.then(|| (link.estimate.at(now, *prior, tau_s), mean_s))
        });
        let leaning = leaning(measured);
        priors.iter_mut().for_each(|p| *p *= leaning);

        let rows = cluster.endpoints.iter().zip(links).zip(&wanted).zip(guarded.iter().zip(priors).zip(biases));
        let candidates = rows
            .map(|(((endpoint, link), (_, remembered, health)), ((guarded, prior_s), bias))| {
                let health = if all_zero { Health::Healthy } else { *health };
                let key = LinkKey::new(&source, &endpoint.key);
                Candidate {
                    endpoint: endpoint.clone(),
                    link,
                    node: self.parts.links.node(&endpoint.key, now),
                    weight: guarded.weight,
                    prior_s,
                    measured_at: self.measured.get(&endpoint.key).copied(),
                    success: self.observed.get(&key).map_or(1.0, expected_success),
                    bias,
                    health,
                    score: remembered.score,
                    predicted: remembered.predicted,
                    reason: self.reason(endpoint, health, guarded, remembered, policy),
                }
            })
            .collect();
        for (endpoint, guarded) in cluster.endpoints.iter().zip(&guarded) {
            let key = (workload.clone(), cluster.name.clone(), endpoint.key.clone());
            if let Some(remembered) = self.memory.get_mut(&key) {
                remembered.weight = (steered && guarded.weight > 0.0).then_some(guarded.weight);
            }
            if limits.max_step > 0.0 {
                self.count(guarded);
            }
        }
        let options = TableOptions { policy, compare: model.compare, tau_s, explore: limits.floor * EXPLORED };
        let traffic = self.parts.traffic.of(&workload, &cluster.name);
        Some(Arc::new(Table::new(candidates, panic, options, traffic)))
    }

    /// The cluster's own policy; for the model's, the ladder's while the model does not steer.
    fn policy_in_force(&self, cluster: &DesiredCluster) -> Policy {
        match (cluster.config.policy, self.desired.config.model.mode, self.rung) {
            (Policy::Model, Mode::Shadow, _) | (Policy::Model, _, Rung::PeakEwma) => Policy::PeakEwma,
            (Policy::Model, _, Rung::LeastRequest) => Policy::LeastRequest,
            (policy, _, _) => policy,
        }
    }

    fn reason(
        &self,
        endpoint: &Endpoint,
        health: Health,
        guarded: &Guarded,
        remembered: &Remembered,
        policy: Policy,
    ) -> String {
        let verdict = self.verdicts.get(&endpoint.key);
        let failures = verdict.map_or(0, |v| v.failures);
        match health {
            Health::Drained => return "its configured weight is 0".into(),
            Health::Ejected => {
                let left = verdict.map_or(0.0, |v| v.remaining.as_secs_f32());
                return format!("left alone for {left:.1} s after {failures} failures in a row");
            }
            Health::Probation => {
                return format!("on probation after {failures} failures in a row: one request at a time");
            }
            Health::Healthy => {}
        }
        let predicted =
            remembered.predicted.map(|p| format!("predicted {:.1} ms at its fair share", p.intrinsic_s * 1e3));
        match (policy, guarded.by, predicted) {
            (Policy::Model, None, Some(predicted)) => predicted,
            (Policy::Model, Some(guard), Some(predicted)) => format!("{predicted}; {}", guard.in_words()),
            (Policy::Model, Some(guard), None) => guard.in_words().into(),
            (Policy::Model, None, None) => "not scored yet: as the others".into(),
            (_, _, Some(predicted)) if self.desired.config.model.mode == Mode::Shadow => format!("shadow: {predicted}"),
            _ => "by its configured weight".into(),
        }
    }

    fn count(&self, guarded: &Guarded) {
        let guards = &self.status().guards;
        let counter = match guarded.by {
            None => return,
            Some(Guard::NotFinite) => &guards.not_finite,
            Some(Guard::Floor) => &guards.floor,
            Some(Guard::Step) => &guards.step,
            Some(Guard::DeadBand) => &guards.dead_band,
            Some(Guard::SlowStart) => &guards.slow_start,
        };
        counter.fetch_add(1, Relaxed);
    }
}
