//! What the slow loop remembers from tick to tick, and the first half of a tick: from observations to features.

use super::budgets::Budgets;
use super::canary::{Counted, Trial};
use super::compare::Compared;
use super::desired::{Desired, EndpointIds};
use super::hedges::Hedges;
use super::history::{Listed, Noted, Turned};
use super::publish::Work;
use super::roster::{Group, Remembered, Roster};
use super::spill::Spills;
use super::{GraphView, Parts, Status};
use crate::balance::{Cause, Health, ModelIdentity, Predicted, Published, Rung};
use crate::config::{Check, Config, Mode, Policy};
use crate::graph::{Features, Graph, GraphBuilder, Instance, Topology};
use crate::health::Ejector;
use crate::links::{Described, LinkStats, NodeKey, Observation, Time};
use crate::scorer::{ModelInfo, Scored, Scorer, Scores};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The time, for the slow loop and the admin port.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Where there are more candidates than this, pairs of workload and cluster that nobody uses are not scored.
const SCORE_ALL_UP_TO: usize = 8192;
/// How much of the model's error is remembered from tick to tick.
const ERROR_MEMORY: f64 = 0.9;
/// A refused model steers again once its error is below this share of the limit.
const ERROR_FORGIVEN: f64 = 0.8;
/// A single prediction counts as off by no more than this factor, so that one link cannot condemn a model.
const MAX_SINGLE_FACTOR: f64 = 11.0;
/// So many ticks must have compared predictions with what was seen before a model is refused.
const MIN_COMPARED: u32 = 5;
/// Fewer latencies than this say nothing about a prediction.
const MIN_SAMPLES: f32 = 5.0;

/// A graph's shape, and the groups that it was made for.
struct Shape {
    /// Each shape has another one, from 1 on.
    id: u64,
    /// As of so many changes of what others told.
    told: u64,
    topology: Topology,
    groups: Vec<usize>,
}

/// What is kept from tick to tick, so that only what was seen is written anew: for each the shape that it is of.
#[derive(Default)]
struct Kept {
    shapes: u64,
    graph: u64,
    /// The graph before the one that is shown, when nobody looks at it.
    spare: (u64, Graph),
    shown: u64,
    features: u64,
}

/// The slow loop's memory.
pub(super) struct State {
    pub parts: Parts,
    pub ids: EndpointIds,
    pub desired: Desired,
    pub ejector: Ejector,
    pub budgets: Budgets,
    pub hedges: Hedges,
    pub compared_endpoints: Compared,
    /// What load leaves the own zone.
    pub spills: Spills,
    /// The model's trial, in `mode: canary`.
    pub trial: Trial,
    /// What is at hand of each endpoint and candidate of `desired`.
    pub roster: Roster,
    /// What the last tick saw on the links, and when.
    pub observation: Observation,
    observed_at: Time,
    /// As of so many changes of the links the observation's keys are theirs.
    observed: Option<u64>,
    /// The shape of the graph, while the mesh stays the same.
    shape: Option<Shape>,
    /// The graph under way, and the groups whose candidates its paths are, one after another.
    graph: Graph,
    scored: Vec<usize>,
    features: Features,
    kept: Kept,
    pub work: Work,
    /// What happened since the last generation, for people who look.
    pub noted: Noted,
    pub generation: u64,
    /// Until when the last good scores may steer.
    pub good_until: Option<Time>,
    pub model: Option<Arc<ModelIdentity>>,
    /// What the scorer said of that model.
    model_info: Option<Arc<ModelInfo>>,
    pub rung: Rung,
    pub rung_reason: String,
    error: Option<f64>,
    /// How many ticks have compared predictions with what was seen.
    compared: u32,
    pub refused: bool,
    /// When weights were last moved.
    pub stepped_at: Option<Time>,
    /// Whether no generation was published yet.
    pub first: bool,
}

impl State {
    pub fn new(parts: Parts, config: Arc<Config>) -> Self {
        let mut ids = EndpointIds::new(parts.identities.clone());
        let desired = Desired::of(config, &mut ids, parts.traffic.cores(), None);
        let now = (parts.clock)();
        parts.status.name(desired.described());
        Self {
            roster: Roster::new(&desired, Roster::default(), None, &parts.links, &parts.traffic, now),
            budgets: Budgets::new(parts.traffic.cores()),
            hedges: Hedges::new(parts.traffic.cores()),
            compared_endpoints: Compared::default(),
            spills: Spills::new(),
            trial: Trial::default(),
            parts,
            ids,
            desired,
            ejector: Ejector::default(),
            observation: Observation::default(),
            observed_at: now,
            observed: None,
            shape: None,
            graph: Graph::default(),
            scored: Vec::new(),
            features: Features::default(),
            kept: Kept::default(),
            work: Work::default(),
            noted: Noted::default(),
            generation: 0,
            good_until: None,
            model: None,
            model_info: None,
            rung: Rung::LeastRequest,
            rung_reason: "no scores yet".into(),
            error: None,
            compared: 0,
            refused: false,
            stepped_at: None,
            first: true,
        }
    }

    pub fn now(&self) -> Time {
        (self.parts.clock)()
    }

    pub fn published(&self) -> &Published {
        &self.parts.published
    }

    pub fn scorer(&self) -> Scorer {
        self.parts.scorer.clone()
    }

    pub fn status(&self) -> &Status {
        &self.parts.status
    }

    /// Takes over a new configuration; says whether its endpoints are others than before.
    pub fn reconfigure(&mut self, config: Arc<Config>) -> Cause {
        let endpoints = |d: &Desired| -> Vec<Listed> {
            d.clusters.iter().flat_map(|c| c.endpoints.iter().map(|e| (c.name.clone(), e.key.clone()))).collect()
        };
        let cores = self.parts.traffic.cores();
        let next = Desired::of(config, &mut self.ids, cores, Some(&self.desired));
        let (before, listed) = (endpoints(&self.desired), endpoints(&next));
        let same = before == listed;
        self.noted.list(&before, &listed);
        let (last, now) = (std::mem::take(&mut self.roster), self.now());
        let Parts { links, traffic, .. } = &self.parts;
        self.roster = Roster::new(&next, last, Some(&self.desired), links, traffic, now);
        self.desired = next;
        self.parts.status.name(self.desired.described());
        self.roster.place(&self.observation);
        self.roster.measure(&self.observation, self.observed_at);
        let keys: HashSet<&NodeKey> = self.roster.endpoints.iter().map(|known| &known.node.key).collect();
        self.ejector.retain(|key| keys.contains(key));
        self.compared_endpoints.look_again();
        // What is being scored was asked of the configuration before.
        (self.shape, self.scored) = (None, Vec::new());
        if same { Cause::Reload } else { Cause::Endpoints }
    }

    /// Moves the endpoints' health on; whether any of them may now get requests that could not, or the reverse.
    pub fn health_changed(&mut self) -> bool {
        let now = self.now();
        self.roster.renew(&self.parts.links, now);
        let mut changed = false;
        for known in &mut self.roster.endpoints {
            known.node.want(now);
            let Some(cluster) = self.desired.clusters.get(known.cluster) else { continue };
            let checked = cluster.config.health.check != Check::Off;
            let checked = checked.then(|| self.parts.checks.of(&known.node.key));
            let verdict = self.ejector.check(&known.node, &cluster.config.ejection, checked, now);
            let before = known.verdict.map_or(Health::Healthy, |v| v.health);
            if before != verdict.health {
                changed = true;
                // What a new configuration still has to find out has not changed.
                if known.verdict.is_some() {
                    let (cluster, endpoint) = (cluster.name.clone(), known.node.key.clone());
                    self.noted.turn(Turned { cluster, endpoint, from: before, to: verdict.health });
                }
                let health = verdict.health;
                tracing::info!(endpoint = %known.node.key, ?health, "health changed: {}", verdict.why());
            }
            known.verdict = Some(verdict);
        }
        self.status().set_ejections(self.ejector.counts());
        changed
    }

    /// How long until an endpoint's state changes by itself.
    pub fn next_health_change(&self) -> Option<Duration> {
        self.ejector.next_change().map(|at| at.since(self.now()))
    }

    /// The first half of a tick. None when the mesh is too large to be scored, or nothing is there to score.
    pub fn prepare(&mut self) -> Option<(Features, Duration)> {
        let now = self.now();
        self.compare(now);
        // Whoever is found to have failed just now does not wait for the model's answer either.
        if self.health_changed() {
            self.publish_at_once(Cause::Health);
        }
        let same = self.parts.links.observe_into(now, &mut self.observation, &mut self.observed);
        self.observed_at = now;
        self.parts.links.evict(now, self.desired.config.telemetry.idle_links.0);
        let told = self.parts.links.told().map_or(0, |told| told.shape);
        let kept = self.shape.as_ref().filter(|shape| shape.told == told);
        let fits = kept.is_some_and(|s| same || s.topology.fits(&self.observation));
        if !fits {
            self.roster.place(&self.observation);
        }
        self.roster.measure(&self.observation, now);
        self.spill(now);
        self.try_model(now);
        self.measure_error();
        self.scored = self.to_score();
        if !fits || self.shape.as_ref().is_none_or(|s| s.groups != self.scored) {
            self.shape = self.shaped();
        }
        self.fill_graph();
        if self.graph.candidates() == 0 {
            return None;
        }
        Some((self.filled(), self.desired.config.model.deadline.0))
    }

    /// Makes the graph of the last observation, in the memory of one that nobody looks at any more.
    fn fill_graph(&mut self) {
        let (of, mut spare) = std::mem::take(&mut self.kept.spare);
        let Some(shape) = &self.shape else {
            (self.graph, self.kept.graph) = (Graph::default(), 0);
            return;
        };
        if of == shape.id {
            shape.topology.renew(&self.observation, &mut spare);
            self.graph = spare;
        } else {
            self.graph = shape.topology.graph(&self.observation);
        }
        self.kept.graph = shape.id;
    }

    /// The graph's features, in the memory of the last ones.
    fn filled(&mut self) -> Features {
        let mut features = std::mem::take(&mut self.features);
        if self.kept.features != self.kept.graph || !features.renew(&self.graph) {
            features.fill(&self.graph);
        }
        (self.kept.features, features.shape) = (self.kept.graph, self.kept.graph);
        features
    }

    /// Shows the graph with the model's word on it, and keeps the memory of the one before.
    fn show(&mut self, attention: Vec<f32>, node_load: Vec<f32>) {
        let graph = std::mem::take(&mut self.graph);
        let view = GraphView { generation: self.generation + 1, graph, attention, node_load };
        let last = self.status().show(view);
        self.kept.spare = last.map(|view| (self.kept.shown, view.graph)).unwrap_or_default();
        self.kept.shown = self.kept.graph;
    }

    /// The groups whose candidates are scored, by workload, then by cluster.
    fn to_score(&self) -> Vec<usize> {
        let (clusters, workloads) = (self.desired.clusters.len(), self.desired.sources.len());
        let busy = |s: &LinkStats| s.samples > 0.0 || s.in_flight > 0.0;
        let used = |group: &Group| group.slots.iter().any(|s| s.stats(&self.observation).is_some_and(busy));
        let candidates: usize = self.roster.groups.iter().map(|g| g.slots.len()).sum();
        (0..workloads)
            .flat_map(|workload| (0..clusters).map(move |cluster| cluster * workloads + workload))
            .filter(|g| candidates <= SCORE_ALL_UP_TO || self.roster.groups.get(*g).is_some_and(used))
            .collect()
    }

    /// The shape of the graph that is to be scored; none when it is too large.
    fn shaped(&mut self) -> Option<Shape> {
        let mut builder = GraphBuilder::default();
        self.desired.instances().for_each(|i| builder.instance(i));
        // The configuration's words come first; of what it does not name, others may know.
        let told = self.parts.links.told().unwrap_or_default();
        for node in &told.nodes {
            let Described { service, zone, host } = node.described.clone();
            builder.instance(Instance { key: node.key.clone(), service, zone, host });
        }
        let slots = self.scored.iter().filter_map(|g| self.roster.groups.get(*g)).flat_map(|g| &g.slots);
        slots.for_each(|slot| {
            builder.candidate(vec![slot.link.key.clone()]);
        });
        match builder.topology(&self.observation) {
            Ok(topology) => {
                self.kept.shapes += 1;
                Some(Shape { id: self.kept.shapes, told: told.shape, topology, groups: self.scored.clone() })
            }
            Err(error) => {
                self.status().too_large.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tracing::error!(%error, "the mesh cannot be scored");
                None
            }
        }
    }

    /// Compares what the last scores predicted with what was seen since: the geometric mean of the factors by which
    /// they differ, less 1.
    fn measure_error(&mut self) {
        let (mut sum, mut product, mut count) = (0.0, 1.0f64, 0u32);
        for slot in self.roster.groups.iter().flat_map(|g| &g.slots) {
            let (Some(remembered), Some(stats)) = (&slot.remembered, slot.stats(&self.observation)) else { continue };
            let recent = remembered.informed && stats.age_s == Some(0.0);
            if let (true, Some(predicted), Some(seen)) = (recent, &remembered.predicted, stats.latency_ewma_s) {
                // By factors, so that a thousandth is as wrong as a thousandfold.
                let (predicted, seen) = (f64::from(predicted.mean_s.max(1e-6)), f64::from(seen.max(1e-6)));
                let off = if predicted > seen { predicted / seen } else { seen / predicted };
                product *= if off.is_finite() { off.min(MAX_SINGLE_FACTOR) } else { MAX_SINGLE_FACTOR };
                count += 1;
                // One logarithm for many factors, while their product is a number.
                if product > 1e250 {
                    sum += product.ln();
                    product = 1.0;
                }
            }
        }
        sum += product.ln();
        if count > 0 {
            let error = (sum / f64::from(count)).exp() - 1.0;
            self.compared += 1;
            self.error = Some(self.error.map_or(error, |last| last * ERROR_MEMORY + error * (1.0 - ERROR_MEMORY)));
        }
        self.status().set_model_error(self.error);
    }

    /// Whether the model is too wrong to steer.
    fn model_refused(&mut self) -> Option<f64> {
        let limit = self.desired.config.model.guards.max_error * if self.refused { ERROR_FORGIVEN } else { 1.0 };
        let refused = self.error.filter(|e| *e > limit && self.compared >= MIN_COMPARED);
        self.refused = refused.is_some();
        refused
    }

    /// Takes in what the scorer said and decides the ladder's rung.
    pub fn take_scores(&mut self, scored: Scored, now: Time) {
        self.features = scored.features;
        let scores = match scored.result {
            // Half of the candidates without a number is a model that is broken, not a candidate that is odd.
            Ok(scores) if scores.score.iter().filter(|s| s.is_finite()).count() * 2 < scores.score.len() => {
                Err("the model's scores are not numbers".to_owned())
            }
            result => result.map_err(|error| error.to_string()),
        };
        match scores {
            Ok(scores) => {
                if self.model.as_ref().map(|m| &m.digest) != scored.model.as_ref().map(|m| &m.digest) {
                    // Another model is not to be judged by the errors of the one before.
                    (self.error, self.compared, self.refused) = (None, 0, false);
                }
                self.remember(&scores, now);
                self.take_model(scored.model);
                self.good_until = Some(now + self.desired.config.model.guards.expire_after.0);
                self.show(scores.attention, scores.node_load);
                match self.model_refused() {
                    None if self.trial.retreat().is_some() => self.step_back(),
                    None => self.step_to(Rung::Model, "the model's scores".into()),
                    Some(error) => {
                        self.status().model_refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let reason = format!("the model's predictions are off by {:.0}% on average", error * 100.0);
                        self.step_to(self.without_scores(), reason);
                    }
                }
            }
            Err(reason) => {
                self.show(Vec::new(), Vec::new());
                self.step_down(reason, now);
            }
        }
    }

    /// Notes which model gave the scores. A model that was loaded is one thing for as long as it runs.
    fn take_model(&mut self, info: Option<Arc<ModelInfo>>) {
        let same = |a: &Arc<ModelInfo>, b: &Arc<ModelInfo>| Arc::ptr_eq(a, b);
        if self.model.is_some() && self.model_info.as_ref().zip(info.as_ref()).is_some_and(|(a, b)| same(a, b)) {
            return;
        }
        self.model = info.as_ref().map(|info| {
            let engine = self.parts.scorer.status().engine;
            let engine = engine.map_or_else(String::new, |e| format!("{} {} ({})", e.engine, e.version, e.device));
            Arc::new(ModelIdentity { name: info.name.clone(), digest: info.digest.clone(), engine })
        });
        self.model_info = info;
    }

    /// No scores this time: the last good ones while they last, then without.
    pub fn step_down(&mut self, reason: String, now: Time) {
        match self.good_until {
            Some(_) if self.trial.retreat().is_some() => self.step_back(),
            Some(until) if now <= until && !self.refused => self.step_to(Rung::LastGood, reason),
            _ => {
                self.roster.remembered_mut().for_each(|m| (m.score, m.predicted) = (None, None));
                self.good_until = None;
                self.step_to(self.without_scores(), reason);
            }
        }
    }

    /// Compares the arms, where the model is on trial.
    fn try_model(&mut self, now: Time) {
        let model = &self.desired.config.model;
        if model.mode != Mode::Canary {
            self.trial.stop();
        } else {
            let clusters = self.desired.clusters.iter().filter(|c| c.config.policy == Policy::Model);
            let names: HashSet<&Arc<str>> = clusters.map(|c| &c.name).collect();
            let groups = self.roster.groups.iter().zip(self.desired.group_names());
            let counted = groups
                .filter(|(_, (cluster, _))| names.contains(cluster))
                .map(|(group, (cluster, workload))| Counted { workload, cluster, traffic: &group.traffic });
            let digest = self.model.as_ref().map(|m| m.digest.as_str());
            if let Some(lost) = self.trial.tick(model, digest, now, counted) {
                self.parts.status.lost(lost);
            }
        }
        self.parts.status.show_canary(self.trial.view());
    }

    /// The model has lost its trial.
    fn step_back(&mut self) {
        let Some(retreat) = self.trial.retreat() else { return };
        let reason = format!("{}: the model has lost its trial, {}", retreat.lost.code(), retreat.words);
        self.step_to(Rung::Against, reason);
    }

    fn without_scores(&self) -> Rung {
        if self.desired.config.model.mode == Mode::Canary {
            return Rung::Against;
        }
        let fresh = self.observation.links.iter().any(|l| l.stats.latency_ewma_s.is_some());
        if fresh { Rung::PeakEwma } else { Rung::LeastRequest }
    }

    fn step_to(&mut self, rung: Rung, reason: String) {
        if rung != self.rung {
            let (from, to) = (self.rung.as_str(), rung.as_str());
            if rung == Rung::Model {
                tracing::info!(from, "the model steers");
            } else if rung < self.rung {
                // As when the first latencies are known, while the model is still loading.
                tracing::info!(from, to, %reason, "a step up the ladder");
            } else {
                tracing::warn!(from, to, %reason, "a step down the ladder");
            }
        }
        (self.rung, self.rung_reason) = (rung, reason);
    }

    fn remember(&mut self, scores: &Scores, now: Time) {
        let rows = scores.score.iter().zip(&scores.latency_mean_s).zip(&scores.latency_p99_s).zip(&scores.jitter_s);
        let mut rows = rows.into_iter();
        for group in &self.scored {
            let Some(group) = self.roster.groups.get_mut(*group) else { continue };
            for (slot, (((score, mean_s), p99_s), jitter_s)) in group.slots.iter_mut().zip(&mut rows) {
                let predicted =
                    Predicted { intrinsic_s: (-score).exp(), mean_s: *mean_s, p99_s: *p99_s, jitter_s: *jitter_s };
                let finite = [predicted.intrinsic_s, *mean_s, *p99_s, *jitter_s].iter().all(|v| v.is_finite());
                let samples = slot.stats(&self.observation).map_or(0.0, |s| s.samples);
                let remembered = slot.remembered.get_or_insert(Remembered::fresh(self.first, now));
                remembered.score = Some(*score);
                remembered.predicted = finite.then_some(predicted);
                remembered.informed = samples >= MIN_SAMPLES;
            }
        }
    }
}
