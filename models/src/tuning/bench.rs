//! The sidecar's slow loop under a clock of the plot's, with a model that predicts what the plot says.

use crate::{Error, Result};
use pathloom::balance::{Cause, Generation, Published, Table};
use pathloom::config::{Config, Timespan, load_str};
use pathloom::control::{Bell, Control, Parts};
use pathloom::graph::Features;
use pathloom::links::{LinkCell, Links, NodeCell, NodeKey, Outcome, Time};
use pathloom::scorer::{Engine, ScoreError, Scorer, Scores};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A slow loop of one workload.
pub(super) struct Bench {
    control: Control,
    runtime: Runtime,
    published: Published,
    links: Arc<Links>,
    now: Arc<AtomicU64>,
    predicted: Predicted,
    config: watch::Sender<Arc<Config>>,
}

/// What the model predicts for each candidate, in seconds; NaN is no number.
type Predicted = Arc<Mutex<Vec<f32>>>;

struct Says(Predicted);

impl Engine for Says {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> std::result::Result<(), ScoreError> {
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = latencies.last().copied().unwrap_or(0.02);
        latencies.resize(features.candidate_count(), last);
        *scores = Scores {
            score: latencies.iter().map(|s| -s.ln()).collect(),
            latency_mean_s: latencies.clone(),
            latency_p99_s: latencies.clone(),
            jitter_s: latencies,
            node_load: vec![0.0; features.node_count()],
            attention: vec![0.0; features.edge_count()],
        };
        Ok(())
    }
}

impl Bench {
    /// A loop with this configuration's clusters and models, called by one workload; it has ticked once.
    pub fn new(yaml: &str) -> Result<Self> {
        let text = format!("workloads: {{ w: {{ listen: 127.0.0.1:1 }} }}\n{yaml}");
        let mut config = load_str(&text, "tuning").map_err(|e| Error::Format(e.to_string()))?;
        // Time is made up, but for the inference's: a busy machine must not change a plot.
        config.model.deadline = Timespan(Duration::from_secs(600));
        let predicted = Predicted::default();
        let says = predicted.clone();
        let scorer = Scorer::with_engine(move || Ok(Box::new(Says(says.clone()))));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|e| Error::Format(format!("no runtime: {e}")))?;
        runtime.block_on(scorer.ready()).map_err(|e| Error::Format(format!("no scorer: {e}")))?;
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let clock = now.clone();
        let parts = Parts::alone(scorer, Arc::new(move || Time(clock.load(SeqCst))));
        let (links, published) = (parts.links.clone(), parts.published.clone());
        let (sender, receiver) = watch::channel(Arc::new(config));
        let control = Control::new(parts, receiver, Bell::default());
        let mut bench = Self { control, runtime, published, links, now, predicted, config: sender };
        bench.tick(Cause::Start);
        Ok(bench)
    }

    /// From now on the model predicts this for the candidates, in seconds; the last one for all that follow.
    pub fn predict(&self, latencies_s: &[f32]) {
        *self.predicted.lock().unwrap_or_else(PoisonError::into_inner) = latencies_s.to_vec();
    }

    pub fn tick(&mut self, cause: Cause) {
        self.runtime.block_on(self.control.tick(cause));
    }

    pub fn now(&self) -> Time {
        Time(self.now.load(SeqCst))
    }

    pub fn pass(&self, seconds: f64) {
        self.now.fetch_add((seconds * 1e9).round() as u64, SeqCst);
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    pub fn generation(&self) -> Arc<Generation> {
        self.published.load()
    }

    /// The first cluster's table.
    pub fn table(&self) -> Result<Arc<Table>> {
        let generation = self.generation();
        let table = generation.clusters.first().and_then(|c| c.tables.first()).cloned();
        table.ok_or_else(|| Error::Format("a made-up configuration has no cluster".into()))
    }
}

/// A cluster `c` of so many endpoints, with these further keys, and the route to it.
pub(super) fn cluster(endpoints: usize, keys: &str) -> String {
    let each: Vec<String> = (1..=endpoints).map(|i| format!("{{ address: {} }}", key(i))).collect();
    format!("routes: [{{ cluster: c }}]\nclusters: {{ c: {{ endpoints: [{}]{keys} }} }}\n", each.join(", "))
}

/// An endpoint of such a cluster, from 1 on.
pub(super) fn key(number: usize) -> NodeKey {
    NodeKey::new(&format!("10.0.0.1:{number}"))
}

/// Which endpoint a candidate is.
pub(super) fn number(table: &Table, index: usize) -> usize {
    usize::from(table.candidates()[index].endpoint.address.port())
}

/// A call that ended after so long, at once.
pub(super) fn call(link: &LinkCell, now: Time, latency_s: f32, outcome: Outcome, (prior_s, tau_s): (f32, f32)) {
    link.begin(0, now);
    link.record(0, now, latency_s, outcome, prior_s, tau_s);
    link.end(0, now);
}

/// An endpoint that nothing is known of.
pub(super) fn node() -> Arc<NodeCell> {
    Links::new(1).node(&NodeKey::new("10.0.0.1:80"), Time(0))
}

/// An endpoint fails until it is left alone.
pub(super) fn fail(node: &NodeCell, times: u32) {
    (0..times).for_each(|_| _ = node.failed());
}
