//! The product's own pick under simulated time: the sidecar's `balance::Table`, `links` cells and `control::weights`,
//! put together as `control::publish` does.
//!
//! What a real proxy has and this one does not: triggers that start a tick early, and the refusal of a model whose
//! predictions are wrong (`guards.max_error`). The ladder is here: without scores the last good ones steer until they
//! expire, then peak EWMA; before the first tick least request.

use super::Place;
use super::ewma::restore;
use crate::simulator::balancer::{Balancer, Scored};
use crate::simulator::draw::Draw;
use pathloom::balance::{Candidate, Endpoint, EndpointId, Health, Predicted, Table, TableOptions};
use pathloom::config::{Compare, Guards, Model, Policy};
use pathloom::control::weights::{
    EXPLORED, LEAST_GROWN, Limits, UNKNOWN_PRIOR_S, Wanted, biases, expected_success, guarded, leaning, priors,
};
use pathloom::links::orca::Report;
use pathloom::links::{LinkCell, LinkKey, LinkStats, Links, MEMORY_S, NodeCell, Outcome, Time};
use pathloom::observe::Traffic;
use std::sync::Arc;

/// Its parameters: those of the product's configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// `model.compare`.
    pub compare: Compare,
    /// `model.decay` in seconds.
    pub tau_s: f32,
    /// `model.temperature`.
    pub temperature: f32,
    /// `model.guards.floor`.
    pub floor: f32,
    /// `model.guards.max_step`.
    pub max_step: f32,
    /// `model.guards.dead_band`.
    pub dead_band: f32,
    /// `model.guards.slow_start` in seconds.
    pub slow_start_s: f32,
    /// `model.guards.expire_after` in seconds.
    pub expire_after_s: f32,
}

impl Default for Rules {
    fn default() -> Self {
        let Model { compare, decay, temperature, guards, .. } = Model::default();
        let Guards { floor, max_step, dead_band, slow_start, expire_after, .. } = guards;
        Self {
            compare,
            tau_s: decay.0.as_secs_f32(),
            temperature: temperature as f32,
            floor: floor.0 as f32,
            max_step: max_step.0 as f32,
            dead_band: dead_band.0 as f32,
            slow_start_s: slow_start.0.as_secs_f32(),
            expire_after_s: expire_after.0.as_secs_f32(),
        }
    }
}

/// What is remembered of a position.
#[derive(Debug, Clone, Copy, Default)]
struct Remembered {
    score: Option<f32>,
    measured_at: Option<Time>,
    weight: Option<f32>,
    /// Since when it grows; none for those that were there from the start.
    growing_since: Option<Time>,
    /// Calls and errors of this proxy, fading with the memory of the links.
    calls: f32,
    errors: f32,
    /// Latencies, their sum in seconds, fading likewise.
    samples: f32,
    latency_s: f32,
}

/// The pick.
#[derive(Debug)]
pub struct Pathloom {
    rules: Rules,
    place: Place,
    cells: Vec<(Arc<LinkCell>, Arc<NodeCell>)>,
    endpoints: Vec<Arc<Endpoint>>,
    remembered: Vec<Remembered>,
    traffic: Arc<Traffic>,
    /// The table in force, and of whom it was made.
    table: Option<Table>,
    usable: Vec<usize>,
    /// Which step of the ladder holds.
    policy: Policy,
    good_until: Option<Time>,
    ticked: Time,
    first: Time,
    last: Time,
}

fn cells(place: &Place) -> Vec<(Arc<LinkCell>, Arc<NodeCell>)> {
    let links = Links::new(1);
    let cell = |key| (links.link(&LinkKey::new(&place.source, key), Time(0)), links.node(key, Time(0)));
    place.destinations.iter().map(cell).collect()
}

impl Pathloom {
    /// The pick at a place.
    #[must_use]
    pub fn new(place: &Place, rules: Rules) -> Self {
        let endpoint = |(i, key): (usize, &pathloom::links::NodeKey)| {
            Arc::new(Endpoint {
                id: EndpointId(i as u64),
                key: key.clone(),
                address: ([127, 0, 0, 1], 1).into(),
                zone: "".into(),
                host: "".into(),
                weight: 1,
                metadata: Default::default(),
                tls: None,
            })
        };
        Self {
            rules,
            cells: cells(place),
            endpoints: place.destinations.iter().enumerate().map(endpoint).collect(),
            remembered: vec![Remembered::default(); place.len()],
            place: place.clone(),
            traffic: Arc::new(Traffic::new(1)),
            table: None,
            usable: Vec::new(),
            policy: Policy::LeastRequest,
            good_until: None,
            ticked: Time(0),
            first: Time(0),
            last: Time(0),
        }
    }

    /// Makes the table anew of what is known: as `control::publish` does.
    fn publish(&mut self, now: Time, max_step: f32) {
        let Rules { compare, tau_s, temperature, floor, dead_band, slow_start_s, .. } = self.rules;
        let steered = self.policy == Policy::Model;
        let limits = Limits { temperature, floor, max_step, dead_band };
        let wanted = |(position, memory): (usize, &Remembered)| Wanted {
            score: memory.score.filter(|_| steered),
            takes_requests: self.usable.binary_search(&position).is_ok(),
            configured: 1,
            grown: memory
                .growing_since
                .map_or(1.0, |at| (now.seconds_since(at) / slow_start_s).clamp(LEAST_GROWN, 1.0)),
            last: memory.weight.filter(|_| steered),
        };
        let inputs: Vec<Wanted> = self.remembered.iter().enumerate().map(wanted).collect();
        let guarded = guarded(&inputs, &limits);
        let weights: Vec<f32> = guarded.iter().map(|g| g.weight).collect();
        let intrinsic: Vec<Option<f32>> = self.remembered.iter().map(|m| m.score.map(|s| (-s).exp())).collect();
        let biases = biases(&inputs);
        let mut priors = priors(&weights, &biases, &intrinsic, UNKNOWN_PRIOR_S);
        let measured = self.cells.iter().zip(&priors).zip(&self.remembered).map(|((cells, prior), memory)| {
            let estimate = &cells.0.estimate;
            let fresh = estimate.last(now)?.age_s <= tau_s && memory.samples > 0.0;
            fresh.then(|| (estimate.at(now, *prior, tau_s), memory.latency_s / memory.samples))
        });
        let leaning = leaning(measured);
        priors.iter_mut().for_each(|p| *p *= leaning);
        let candidates = (0..self.endpoints.len()).map(|i| Candidate {
            endpoint: self.endpoints[i].clone(),
            link: self.cells[i].0.clone(),
            node: self.cells[i].1.clone(),
            weight: weights[i],
            prior_s: priors[i],
            measured_at: self.remembered[i].measured_at,
            success: success(&self.remembered[i]),
            bias: biases[i],
            health: if inputs[i].takes_requests { Health::Healthy } else { Health::Ejected },
            score: self.remembered[i].score,
            predicted: intrinsic[i].map(|intrinsic_s| Predicted {
                intrinsic_s,
                mean_s: intrinsic_s,
                p99_s: intrinsic_s,
                jitter_s: 0.0,
            }),
            reason: Default::default(),
        });
        let options = TableOptions { policy: self.policy, compare, tau_s, explore: floor * EXPLORED };
        self.table = Some(Table::new(candidates.collect(), false, options, self.traffic.clone()));
        for (memory, weight) in self.remembered.iter_mut().zip(weights) {
            memory.weight = (steered && weight > 0.0).then_some(weight);
        }
    }

    /// Who may be called has changed: published at once, with the scores of the last tick.
    fn see(&mut self, now: Time, usable: &[usize]) {
        if self.table.is_some() && self.usable == usable {
            return;
        }
        let first = self.table.is_none();
        if first {
            self.first = now;
        }
        for position in usable {
            // Who comes, or comes back, grows; those that were there from the start are not new.
            if !first && self.usable.binary_search(position).is_err() {
                self.remembered[*position].growing_since = Some(now);
            }
        }
        self.usable = usable.to_vec();
        self.publish(now, 0.0);
    }

    fn position(&self, index: usize) -> Option<usize> {
        self.table.as_ref()?.candidates().get(index).map(|c| c.endpoint.id.0 as usize)
    }
}

/// What the product makes of a link's faded counters.
fn success(memory: &Remembered) -> f32 {
    expected_success(&LinkStats {
        calls_per_second: Some(memory.calls / MEMORY_S),
        error_rate: (memory.calls > 0.01).then(|| memory.errors / memory.calls),
        ..LinkStats::default()
    })
}

impl Balancer for Pathloom {
    fn pick(&mut self, now: Time, draw: &mut Draw, usable: &[usize], tried: &[usize]) -> usize {
        self.see(now, usable);
        self.last = now;
        let Some(table) = &self.table else { return usable[0] };
        let mut indices = [usize::MAX; 8];
        let mut count = 0;
        for (index, candidate) in table.candidates().iter().enumerate().filter(|_| !tried.is_empty()) {
            if tried.contains(&(candidate.endpoint.id.0 as usize)) && count < indices.len() {
                indices[count] = index;
                count += 1;
            }
        }
        let expired = self.good_until.is_some_and(|until| now > until);
        let pick = |draw: &mut Draw, tried: &[usize]| table.pick(now, expired, draw.rng(), tried);
        let choice = pick(draw, &indices[..count]).or_else(|| pick(draw, &[]));
        choice.and_then(|c| self.position(c.index)).unwrap_or(usable[0])
    }

    fn began(&mut self, position: usize, now: Time) {
        self.last = now;
        let (link, node) = &self.cells[position];
        link.begin(0, now);
        node.begin();
    }

    fn ended(&mut self, position: usize, now: Time, latency_s: f32, outcome: Outcome, _report: Option<&Report>) {
        self.last = now;
        let (link, node) = &self.cells[position];
        let table = self.table.as_ref();
        let candidate = table.and_then(|t| t.candidates().iter().find(|c| c.endpoint.id.0 as usize == position));
        if let Some((prior_s, tau_s)) = table.zip(candidate).map(|(t, c)| t.decay_of(c)) {
            link.record(0, now, latency_s, outcome, prior_s, tau_s);
        }
        link.end(0, now);
        node.end();
        let memory = &mut self.remembered[position];
        if outcome == Outcome::Success {
            memory.samples += 1.0;
            memory.latency_s += latency_s;
        }
        if outcome != Outcome::Cancelled {
            memory.calls += 1.0;
            memory.errors += f32::from(u8::from(outcome == Outcome::Failure));
        }
    }

    fn tick(&mut self, now: Time, scored: Option<&[Option<Scored>]>) {
        let keep = (-now.seconds_since(self.ticked) / MEMORY_S).exp();
        self.ticked = now;
        for memory in &mut self.remembered {
            memory.calls *= keep;
            memory.errors *= keep;
            memory.samples *= keep;
            memory.latency_s *= keep;
        }
        match scored {
            Some(scores) => {
                for (memory, scored) in self.remembered.iter_mut().zip(scores) {
                    memory.score = scored.map(|s| s.score);
                    memory.measured_at = scored.and_then(|s| s.measured_at);
                }
                self.policy = Policy::Model;
                self.good_until = Some(now + std::time::Duration::from_secs_f32(self.rules.expire_after_s));
            }
            None if self.good_until.is_some_and(|until| now <= until) => {}
            None => {
                self.remembered.iter_mut().for_each(|m| m.score = None);
                self.good_until = None;
                let measured = self.cells.iter().any(|(link, _)| link.estimate.last(now).is_some());
                self.policy = if measured { Policy::PeakEwma } else { Policy::LeastRequest };
            }
        }
        self.publish(now, self.rules.max_step);
    }

    fn weights(&self) -> Option<Vec<f32>> {
        let mut weights = vec![0.0; self.endpoints.len()];
        for candidate in self.table.as_ref()?.candidates() {
            weights[candidate.endpoint.id.0 as usize] = candidate.weight;
        }
        Some(weights)
    }

    fn fork(&self) -> Box<dyn Balancer> {
        let cells = cells(&self.place);
        for ((link, node), (new_link, new_node)) in self.cells.iter().zip(&cells) {
            restore(&link.estimate, &new_link.estimate, self.last);
            (0..node.in_flight()).for_each(|_| new_node.begin());
        }
        let mut copy = Self {
            cells,
            endpoints: self.endpoints.clone(),
            remembered: self.remembered.clone(),
            place: self.place.clone(),
            traffic: self.traffic.clone(),
            table: None,
            usable: self.usable.clone(),
            ..*self
        };
        if self.table.is_some() {
            copy.publish(self.last, 0.0);
        }
        Box::new(copy)
    }
}
