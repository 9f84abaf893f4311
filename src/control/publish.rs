//! The second half of a tick: from what is known of each candidate to a published generation.

use super::desired::DesiredCluster;
use super::history::{Change, Moved, Moves};
use super::roster::{Remembered, Slot};
use super::tick::State;
use super::weights::{
    EXPLORED, Guard, Guarded, Guards, LEAST_GROWN, Limits, UNKNOWN_PRIOR_S, Wanted, biases_into, expected_success,
    leaning_with, priors_into,
};
use crate::balance::{
    Candidate, Capacity, Cause, Cluster, Generation, Health, OwnZone, Retrying, Rung, Table, TableOptions, Unwell, Why,
};
use crate::config::{ClusterTls, Mode, Policy};
use crate::health::Verdict;
use crate::links::{Fading, Time};
use crate::scorer::Scored;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// How much of a turn stands behind a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Only who may get requests has changed.
    Early,
    /// Everything was looked at.
    Whole,
}

/// The memory that making a table needs, kept from table to table. One row for each candidate.
#[derive(Debug, Default)]
pub(super) struct Work {
    wanted: Vec<Wanted>,
    healths: Vec<Health>,
    guards: Guards,
    weights: Vec<f32>,
    intrinsic_s: Vec<Option<f32>>,
    biases: Vec<f32>,
    priors: Vec<f32>,
    ratios: Vec<f32>,
    /// What moved most, in all tables of a generation.
    moves: Moves,
}

/// A turn that a trigger asked for moves weights by at least this part of a whole step: it was asked for a reason.
const MIN_STEP_PART: f32 = 0.25;

impl State {
    /// Publishes with the scores of the last tick: who may get requests has changed, nothing else.
    pub fn publish_at_once(&mut self, cause: Cause) {
        let started = std::time::Instant::now();
        if cause != Cause::Health || self.roster.endpoints.iter().any(|known| known.verdict.is_none()) {
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
        self.roster.renew(&self.parts.links, now);
        // Between two ticks only endpoints' states change, and with them the tables of those that have them.
        let renewed = turn == Turn::Whole || cause != Cause::Health;
        let workloads = routes.workloads().len();
        for index in 0..self.desired.clusters.len() {
            let mut tables = Vec::with_capacity(workloads);
            for group in index * workloads..(index + 1) * workloads {
                let kept = if renewed { None } else { self.kept_table(group) };
                tables.extend(kept.or_else(|| self.table(group, &limits, now)));
            }
            let Some(cluster) = self.desired.clusters.get(index) else { continue };
            if turn == Turn::Whole {
                let groups = self.roster.groups.get(index * workloads..(index + 1) * workloads).unwrap_or_default();
                self.hedges.look(cluster, groups, &self.parts.links, now);
            }
            clusters.push(Arc::new(Cluster {
                name: cluster.name.clone(),
                service: cluster.service.clone(),
                port: cluster.port,
                protocol: cluster.config.protocol,
                secure: cluster.config.tls != ClusterTls::default(),
                proxy_protocol: cluster.config.proxy_protocol,
                timeouts: cluster.config.timeouts.clone(),
                retrying: Retrying::new(&cluster.config.retries, self.budgets.of(cluster, now)),
                hedging: self.hedges.of(cluster, now),
                ejection: cluster.config.ejection.clone(),
                tables: tables.into(),
            }));
        }
        self.roster.forget(now);
        let configured = &self.desired.config;
        self.parts.traffic.retain(|w, c| configured.workloads.contains_key(w) && configured.clusters.contains_key(c));
        self.budgets.retain(|c| configured.clusters.contains_key(c));
        self.hedges.retain(|c| configured.clusters.contains_key(c));
        self.first = false;
        self.generation += 1;
        let at = SystemTime::now();
        let made = Arc::new(Generation {
            id: self.generation,
            made_at: now,
            made_at_wall: at,
            expires_at,
            cause,
            rung: self.rung,
            rung_reason: self.rung_reason.clone(),
            model: self.model.clone().filter(|_| matches!(self.rung, Rung::Model | Rung::LastGood)),
            routes,
            admission: self.desired.admission.clone(),
            clusters: clusters.into(),
        });
        self.parts.published.publish_shared(made.clone());
        self.status().history.hand(&made);
        self.status().took_effect(&self.desired.config);
        if turn == Turn::Whole {
            self.status().ticked(cause, self.rung, took);
        }
        self.tell(cause, turn, at, took);
    }

    /// Notes for people who look what the generation changed.
    fn tell(&mut self, cause: Cause, turn: Turn, at: SystemTime, took: Duration) {
        let (moved, noted) = (self.work.moves.take(), self.noted.take(turn == Turn::Whole));
        self.status().history.add(Change {
            generation: self.generation,
            at,
            cause,
            early: turn == Turn::Early,
            rung: self.rung,
            rung_reason: self.rung_reason.clone(),
            model: self.model.clone().filter(|_| matches!(self.rung, Rung::Model | Rung::LastGood)),
            took,
            broken: noted.broken,
            appeared: noted.appeared,
            disappeared: noted.disappeared,
            turned: noted.turned,
            moved,
        });
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

    /// The last table of a group that still says what is known.
    fn kept_table(&self, group: usize) -> Option<Arc<Table>> {
        self.roster.groups.get(group)?.unchanged(&self.roster.endpoints)
    }

    fn table(&mut self, group: usize, limits: &Limits, now: Time) -> Option<Arc<Table>> {
        // Taken out and put back, so that all the rest can be looked at while what is remembered changes.
        let mut taken = std::mem::take(&mut self.roster.groups.get_mut(group)?.slots);
        let mut work = std::mem::take(&mut self.work);
        let table = self.table_of(group, &mut taken, &mut work, limits, now);
        self.work = work;
        let group = self.roster.groups.get_mut(group)?;
        group.slots = taken;
        group.table.clone_from(&table);
        table
    }

    fn table_of(
        &self,
        group: usize,
        slots: &mut [Slot],
        work: &mut Work,
        limits: &Limits,
        now: Time,
    ) -> Option<Arc<Table>> {
        let place = group;
        let group = self.roster.groups.get(place)?;
        let cluster = self.desired.clusters.get(group.cluster)?;
        let policy = self.policy_in_force(cluster);
        let model = &self.desired.config.model;
        let steered = policy == Policy::Model;
        self.look(slots, cluster, steered, work, now);

        let Work { wanted, healths, guards, weights, intrinsic_s, biases, priors, ratios, moves } = work;
        let usable = healths.iter().filter(|health| **health != Health::Drained).count();
        let healthy = healths.iter().filter(|health| health.takes_requests()).count();
        let least = cluster.config.ejection.panic_below.0 * usable as f64;
        let panic = usable > 0 && (healthy == 0 || (healthy as f64) < least);
        if panic {
            wanted.iter_mut().for_each(|w| w.takes_requests = w.configured > 0);
        }
        // Every configured weight is zero: better equal shares than no answer.
        let all_zero = !wanted.is_empty() && wanted.iter().all(|w| w.configured == 0);
        if all_zero {
            wanted.iter_mut().for_each(|w| (w.configured, w.takes_requests) = (1, true));
            healths.fill(Health::Healthy);
        }
        guards.guard(wanted, limits);
        weights.clear();
        weights.extend(guards.guarded.iter().map(|g| g.weight));
        biases_into(wanted, biases);
        priors_into(weights, biases, intrinsic_s, UNKNOWN_PRIOR_S, priors);
        let tau_s = model.decay.0.as_secs_f32();
        let fading = Fading::new(now, tau_s);
        let measured = slots.iter().zip(priors.iter()).map(|(slot, prior)| {
            let mean_s = slot.stats(&self.observation)?.latency_mean_s?;
            let estimate = &slot.link.estimate;
            let fresh = estimate.last(now)?.age_s <= tau_s;
            fresh.then(|| (estimate.faded(&fading, *prior), mean_s))
        });
        let leaning = leaning_with(measured, ratios);

        let numbers = guards.guarded.iter().zip(priors.iter()).zip(biases.iter()).zip(healths.iter());
        let mut candidates = Vec::with_capacity(slots.len());
        for ((slot, endpoint), (((guarded, prior_s), bias), health)) in
            slots.iter_mut().zip(&cluster.endpoints).zip(numbers)
        {
            let (Some(known), Some(remembered)) = (self.roster.known(slot), &slot.remembered) else { continue };
            let reason = self.why(known.verdict.as_ref(), *health, guarded, remembered, policy);
            let last = remembered.weight.filter(|_| steered);
            moves.see(last, guarded.weight, remembered.informed, || {
                let workloads = self.desired.routes.workloads();
                let workload = workloads.get(place % workloads.len().max(1))?.name.clone();
                let (cluster, endpoint, from) = (cluster.name.clone(), endpoint.key.clone(), last.unwrap_or_default());
                Some(Moved { workload, cluster, endpoint, from, to: guarded.weight, why: reason })
            });
            candidates.push(Candidate {
                endpoint: endpoint.clone(),
                link: slot.link.clone(),
                node: known.node.clone(),
                weight: guarded.weight,
                prior_s: prior_s * leaning,
                measured_at: known.measured,
                success: slot.stats(&self.observation).map_or(1.0, expected_success),
                bias: *bias,
                health: *health,
                score: remembered.score,
                predicted: remembered.predicted,
                reason,
            });
            slot.shown = Some(*health);
            if let Some(remembered) = &mut slot.remembered {
                remembered.weight = (steered && guarded.weight > 0.0).then_some(guarded.weight);
            }
        }
        if limits.max_step > 0.0 {
            guards.guarded.iter().for_each(|g| self.count(g));
        }
        let options = TableOptions { policy, compare: model.compare, tau_s, explore: limits.floor * EXPLORED };
        let own = self.own_zone(cluster, &mut candidates, panic || all_zero, limits.floor);
        let mut table = Table::new(candidates, panic, options, group.traffic.clone());
        if steered && model.mode == Mode::Canary {
            table = table.on_trial(model.canary.share.0, model.canary.against);
        }
        if let Some(own) = own {
            table = table.with_own_zone(own);
        }
        Some(Arc::new(table.with_affinity(cluster.maglev.clone())))
    }

    /// What is wanted of each candidate, and its endpoint's state.
    fn look(&self, slots: &mut [Slot], cluster: &DesiredCluster, steered: bool, work: &mut Work, now: Time) {
        let slow_start = self.desired.config.model.guards.slow_start.0;
        work.wanted.clear();
        work.healths.clear();
        work.intrinsic_s.clear();
        for (slot, endpoint) in slots.iter_mut().zip(&cluster.endpoints) {
            let verdict = self.roster.known(slot).and_then(|known| known.verdict.as_ref());
            let remembered = slot.remembered.get_or_insert(Remembered::fresh(self.first, now));
            remembered.seen = now;
            let health =
                if endpoint.weight == 0 { Health::Drained } else { verdict.map_or(Health::Healthy, |v| v.health) };
            match health {
                Health::Ejected | Health::Probation | Health::Unhealthy => remembered.was_out = true,
                Health::Healthy if std::mem::take(&mut remembered.was_out) => remembered.first_seen = now,
                Health::Healthy | Health::Drained => {}
            }
            let age = || now.since(remembered.first_seen);
            let new = remembered.first_seen != Time(0) && age() < slow_start;
            let grown = if new { (age().as_secs_f32() / slow_start.as_secs_f32()).max(LEAST_GROWN) } else { 1.0 };
            work.wanted.push(Wanted {
                score: remembered.score.filter(|_| steered),
                takes_requests: health.takes_requests(),
                configured: endpoint.weight,
                grown,
                last: remembered.weight.filter(|_| steered),
            });
            work.healths.push(health);
            work.intrinsic_s.push(remembered.predicted.map(|p| p.intrinsic_s));
        }
    }

    /// What stays in the own zone, where that comes first; the candidates' weights then say so.
    fn own_zone(
        &self,
        cluster: &DesiredCluster,
        candidates: &mut [Candidate],
        panic: bool,
        floor: f32,
    ) -> Option<OwnZone> {
        let name = &self.desired.config.node.zone;
        if panic || name.is_empty() || !cluster.config.locality.own_zone_first {
            return None;
        }
        let is_own = |c: &Candidate| *c.endpoint.zone == **name;
        let mut capacity = Capacity::default();
        let mut weights = [0.0f32; 2];
        for c in candidates.iter() {
            let configured = c.endpoint.weight as f32;
            let well = if c.weight > 0.0 { configured } else { 0.0 };
            if is_own(c) {
                capacity.own += configured;
                capacity.own_well += well;
                weights[0] += c.weight;
            } else {
                capacity.others_well += well;
                weights[1] += c.weight;
            }
        }
        let kept = self.spills.get(&cluster.name);
        let share = capacity.share(kept.map_or(1.0, |k| k.share), floor)?;
        let [own, others] = [share / weights[0], (1.0 - share) / weights[1]];
        candidates.iter_mut().for_each(|c| c.weight *= if is_own(c) { own } else { others });
        let load = kept.and_then(|k| k.load);
        Some(OwnZone { name: name.as_str().into(), share, well: capacity.well(), load })
    }

    /// The cluster's own policy; for the model's, the ladder's while the model does not steer.
    fn policy_in_force(&self, cluster: &DesiredCluster) -> Policy {
        let model = &self.desired.config.model;
        let steers = self.trial.retreat().is_none() && matches!(self.rung, Rung::Model | Rung::LastGood);
        match (cluster.config.policy, model.mode, self.rung) {
            (Policy::Model, Mode::Canary, _) if !steers => model.canary.against,
            (Policy::Model, _, Rung::Against) => Policy::PeakEwma,
            (Policy::Model, Mode::Shadow, _) | (Policy::Model, _, Rung::PeakEwma) => Policy::PeakEwma,
            (Policy::Model, _, Rung::LeastRequest) => Policy::LeastRequest,
            (policy, _, _) => policy,
        }
    }

    fn why(
        &self,
        verdict: Option<&Verdict>,
        health: Health,
        guarded: &Guarded,
        remembered: &Remembered,
        policy: Policy,
    ) -> Why {
        match health {
            Health::Drained => return Why::Said("its configured weight is 0"),
            Health::Healthy => {}
            _ => return verdict.map_or(Why::Unhealthy(Unwell::Unchecked), Verdict::why),
        }
        let guard = guarded.by.map(Guard::in_words);
        let intrinsic_s = remembered.predicted.map(|p| p.intrinsic_s);
        match (policy, intrinsic_s, guard) {
            (Policy::Model, Some(intrinsic_s), guard) => Why::Predicted { intrinsic_s, guard },
            (Policy::Model, None, Some(guard)) => Why::Said(guard),
            (Policy::Model, None, None) => Why::Said("not scored yet: as the others"),
            (_, Some(intrinsic_s), _) if self.desired.config.model.mode == Mode::Shadow => Why::Shadow { intrinsic_s },
            _ => Why::Said("by its configured weight"),
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
