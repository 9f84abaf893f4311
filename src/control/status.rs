//! What the slow loop shows of itself: the last graph with what the model said of it, and counters.

use super::canary::{CanaryView, Lost};
use super::history::History;
use crate::balance::{Cause, Fault, Rung};
use crate::config::Config;
use crate::graph::Graph;
use crate::links::{Described, NodeKey};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::watch;

/// The graph that the last tick saw, with the model's word on it.
#[derive(Debug, Clone, Default)]
pub struct GraphView {
    /// The generation that was made from it.
    pub generation: u64,
    /// The mesh.
    pub graph: Graph,
    /// The attention that each link got, by link; empty without a model's scores.
    pub attention: Vec<f32>,
    /// The requests a second that the model expects at each node, by node; empty without a model's scores.
    pub node_load: Vec<f32>,
}

/// How often a guard changed a weight.
#[derive(Debug, Default)]
pub struct GuardCounters {
    /// A score that was not finite.
    pub not_finite: AtomicU64,
    /// A weight raised to the floor.
    pub floor: AtomicU64,
    /// A change cut to the largest step.
    pub step: AtomicU64,
    /// A change too small to be made.
    pub dead_band: AtomicU64,
    /// A weight held back while its endpoint was new.
    pub slow_start: AtomicU64,
}

impl GuardCounters {
    /// Each guard's name and count.
    #[must_use]
    pub fn snapshot(&self) -> [(&'static str, u64); 5] {
        [
            ("not_finite", self.not_finite.load(Relaxed)),
            ("floor", self.floor.load(Relaxed)),
            ("step", self.step.load(Relaxed)),
            ("dead_band", self.dead_band.load(Relaxed)),
            ("slow_start", self.slow_start.load(Relaxed)),
        ]
    }
}

/// What the slow loop shows of itself. Written by the tick, read by the admin port.
#[derive(Debug, Default)]
pub struct Status {
    /// The configuration that the newest generation is of; none before the first.
    in_force: watch::Sender<Option<Arc<Config>>>,
    view: ArcSwapOption<GraphView>,
    canary: ArcSwapOption<CanaryView>,
    /// What changed from generation to generation.
    pub history: History,
    /// The instances that the configuration names.
    named: ArcSwap<HashMap<NodeKey, Described>>,
    /// Trials that the model has lost, by `Lost`.
    lost: [AtomicU64; Lost::ALL.len()],
    ticks: [AtomicU64; 7],
    rungs: [AtomicU64; Rung::ALL.len()],
    last_tick_us: AtomicU64,
    /// Ticks in which the model's error was over its limit.
    pub model_refused: AtomicU64,
    /// The model's mean relative error of predicted against observed latency, as bits; NaN before the first.
    model_error: AtomicU64,
    /// What the guards did.
    pub guards: GuardCounters,
    /// Ejections, by `Fault::KINDS`.
    ejections: [AtomicU64; Fault::KINDS.len()],
    /// Graphs that were too large to score.
    pub too_large: AtomicU64,
}

impl Status {
    /// The graph of the last tick.
    #[must_use]
    pub fn view(&self) -> Option<Arc<GraphView>> {
        self.view.load_full()
    }

    /// Shows a view; gives back the one before it where nobody looks at it any more.
    pub(crate) fn show(&self, view: GraphView) -> Option<GraphView> {
        Arc::into_inner(self.view.swap(Some(Arc::new(view)))?)
    }

    /// What the configuration says of the instances that it names.
    #[must_use]
    pub fn named(&self) -> Arc<HashMap<NodeKey, Described>> {
        self.named.load_full()
    }

    pub(super) fn name(&self, named: HashMap<NodeKey, Described>) {
        self.named.store(Arc::new(named));
    }

    /// The model's trial; none while there is none.
    #[must_use]
    pub fn canary(&self) -> Option<Arc<CanaryView>> {
        self.canary.load_full()
    }

    pub(crate) fn show_canary(&self, view: Option<CanaryView>) {
        self.canary.store(view.map(Arc::new));
    }

    /// A generation of this configuration was published.
    pub(super) fn took_effect(&self, config: &Arc<Config>) {
        self.in_force.send_if_modified(|known| {
            let new = !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, config));
            if new {
                *known = Some(config.clone());
            }
            new
        });
    }

    /// Waits until a generation of such a configuration steers.
    pub async fn in_force(&self, is_it: impl Fn(&Arc<Config>) -> bool) {
        // The sender is in `self`, so waiting cannot fail.
        let _ = self.in_force.subscribe().wait_for(|known| known.as_ref().is_some_and(&is_it)).await;
    }

    pub(super) fn lost(&self, why: Lost) {
        if let Some(counter) = self.lost.get(why as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How often the model has lost a trial, by `Lost`.
    #[must_use]
    pub fn losses(&self) -> [u64; Lost::ALL.len()] {
        self.lost.each_ref().map(|c| c.load(Relaxed))
    }

    pub(crate) fn ticked(&self, cause: Cause, rung: Rung, took: std::time::Duration) {
        if let Some(counter) = self.ticks.get(cause as usize) {
            counter.fetch_add(1, Relaxed);
        }
        if let Some(counter) = self.rungs.get(rung as usize) {
            counter.fetch_add(1, Relaxed);
        }
        self.last_tick_us.store(took.as_micros() as u64, Relaxed);
    }

    pub(super) fn set_ejections(&self, counts: [u64; Fault::KINDS.len()]) {
        self.ejections.iter().zip(counts).for_each(|(counter, count)| counter.store(count, Relaxed));
    }

    /// How often an endpoint was left alone, by `Fault::KINDS`.
    #[must_use]
    pub fn ejections(&self) -> [u64; Fault::KINDS.len()] {
        self.ejections.each_ref().map(|c| c.load(Relaxed))
    }

    pub(crate) fn set_model_error(&self, error: Option<f64>) {
        self.model_error.store(error.unwrap_or(f64::NAN).to_bits() ^ NAN_BITS, Relaxed);
    }

    /// The model's mean relative error of predicted against observed latency; unknown before there was one.
    #[must_use]
    pub fn model_error(&self) -> Option<f64> {
        Some(f64::from_bits(self.model_error.load(Relaxed) ^ NAN_BITS)).filter(|e| e.is_finite())
    }

    /// How many ticks each cause made happen, by `Cause as usize`.
    #[must_use]
    pub fn ticks(&self) -> [u64; 7] {
        self.ticks.each_ref().map(|c| c.load(Relaxed))
    }

    /// How many generations each rung of the ladder made, by `Rung as usize`.
    #[must_use]
    pub fn rungs(&self) -> [u64; Rung::ALL.len()] {
        self.rungs.each_ref().map(|c| c.load(Relaxed))
    }

    /// How long the last tick took, in microseconds.
    #[must_use]
    pub fn last_tick_us(&self) -> u64 {
        self.last_tick_us.load(Relaxed)
    }
}

/// Zero bits mean 'unknown', so that `Default` does.
const NAN_BITS: u64 = f64::NAN.to_bits();

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    #[test]
    fn a_configuration_is_in_force_once_a_generation_is_of_it() {
        let status = Status::default();
        let [old, new] = [0, 1].map(|_| Arc::new(Config::default()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = std::pin::pin!(status.in_force(|config| Arc::ptr_eq(config, &new)));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        status.took_effect(&old);
        assert!(waiting.as_mut().poll(&mut cx).is_pending(), "it was another one's");
        status.took_effect(&new);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }
}
