//! A slow loop over a mesh with traffic on every link, under a clock that the caller moves.

use pathloom::balance::{Cause, Published};
use pathloom::config::{Cluster, Config, Device, Endpoint, Engine as Choice, Model, Workload};
use pathloom::control::{Bell, Control, Parts, Status};
use pathloom::graph::Features;
use pathloom::links::{LinkKey, Links, NodeKey, Outcome, Time};
use pathloom::scorer::{Engine, ModelError, Options, ScoreError, Scorer, Scores};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::watch;

/// The callers: with each of them calling each endpoint there are five links a node.
pub const WORKLOADS: usize = 5;
/// Endpoints of one cluster.
const REPLICAS: usize = 20;
/// Answers on each link between two ticks.
const CALLS: usize = 4;

/// A slow loop, and what it works with.
pub struct Mesh {
    /// The loop.
    pub control: Control,
    /// Rings it.
    pub bell: Bell,
    /// Where its generations go.
    pub published: Published,
    /// What requests saw.
    pub links: Arc<Links>,
    /// What it shows of itself.
    pub status: Arc<Status>,
    /// Whoever changes the configuration: the loop ends when it is gone.
    pub reload: watch::Sender<Arc<Config>>,
    now: Arc<AtomicU64>,
    calls: Vec<(LinkKey, f32)>,
    rng: SmallRng,
}

/// `WORKLOADS` callers, and so many endpoints in clusters of `REPLICAS`.
#[must_use]
pub fn config(endpoints: usize) -> Config {
    let workload = |i: usize| {
        let listen = Some(([127, 0, 0, 1], 15_000 + i as u16).into());
        (format!("w{i}"), Workload { listen, ..Workload::default() })
    };
    let endpoint = |i: usize| {
        let [_, b, c, d] = (i as u32).to_be_bytes();
        Endpoint {
            address: ([10, b, c, d], 80).into(),
            zone: format!("zone-{}", i % 3),
            host: format!("host-{}", i % 50),
            weight: 1,
            metadata: Default::default(),
        }
    };
    let mut clusters = std::collections::BTreeMap::<String, Cluster>::new();
    for i in 0..endpoints {
        clusters.entry(format!("c{}", i / REPLICAS)).or_default().endpoints.push(endpoint(i));
    }
    // The latency is what is measured here; a deadline would cut it off.
    let model = Model { deadline: pathloom::config::Timespan(Duration::from_secs(60)), ..Model::default() };
    Config { workloads: (0..WORKLOADS).map(workload).collect(), clusters, model, ..Config::default() }
}

impl Mesh {
    /// A mesh with so many endpoints and `WORKLOADS` links to each, all of them measured.
    #[must_use]
    pub fn new(endpoints: usize, scorer: Scorer) -> Self {
        let config = Arc::new(config(endpoints));
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let read = now.clone();
        let parts = Parts::alone(scorer, Arc::new(move || Time(read.load(SeqCst))));
        let (links, published, status) = (parts.links.clone(), parts.published.clone(), parts.status.clone());
        let (sender, receiver) = watch::channel(config.clone());
        let bell = Bell::default();
        let mut control = Control::new(parts, receiver, bell.clone());
        control.publish_first();

        let mut rng = SmallRng::seed_from_u64(7);
        let addresses = config.clusters.values().flat_map(|c| &c.endpoints).map(|e| e.address.to_string());
        let endpoints: Vec<NodeKey> = addresses.map(|a| NodeKey::new(&a)).collect();
        let calls = (0..WORKLOADS)
            .flat_map(|w| {
                let source = NodeKey::new(&format!("w{w}@{}", config.node.name));
                endpoints.iter().map(move |e| LinkKey::new(&source, e))
            })
            .map(|key| (key, 0.002 * 20f32.powf(rng.random())))
            .collect();
        let mut mesh = Self { control, bell, published, links, status, now, reload: sender, calls, rng };
        mesh.second();
        mesh
    }

    /// A second passes, in which each link answers a few calls.
    pub fn second(&mut self) {
        let start = self.now.load(SeqCst);
        for (key, latency_s) in &self.calls {
            let link = self.links.link(key, Time(start));
            for call in 0..CALLS {
                let at = Time(start + 1_000_000_000 / CALLS as u64 * call as u64);
                link.begin(0, at);
                link.record(0, at, latency_s * self.rng.random_range(0.8..1.6), Outcome::Success, *latency_s, 10.0);
                link.end(0, at);
            }
        }
        self.pass(Duration::from_secs(1));
    }

    /// Time passes, and nothing happens.
    pub fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_nanos() as u64, SeqCst);
    }

    /// Moves the time from another thread.
    #[must_use]
    pub fn clock(&self) -> Arc<AtomicU64> {
        self.now.clone()
    }

    /// One tick, as the interval asks for it.
    pub async fn tick(&mut self) {
        self.control.tick(Cause::Interval).await;
    }

    /// The model's inputs as the last tick saw the mesh.
    #[must_use]
    pub fn features(&self) -> Features {
        let mut features = Features::default();
        if let Some(view) = self.status.view() {
            features.fill(&view.graph);
        }
        features
    }
}

/// A runtime for one thread.
///
/// # Errors
/// When the system refuses it.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A scorer with the built-in model on one engine, on the CPU. Ask its status whether it is that engine.
#[must_use]
pub fn scorer(engine: Choice) -> Scorer {
    Scorer::start(Options { file: "builtin".into(), engine, device: Device::Cpu, onnxruntime: None })
}

/// A scorer that answers at once: what is left of a tick is not the model.
#[must_use]
pub fn no_model() -> Scorer {
    Scorer::with_engine(|| Ok(Box::new(Nothing) as Box<dyn Engine>) as Result<_, ModelError>)
}

/// The same, each time after so long: what happens meanwhile happens during an inference.
#[must_use]
pub fn slow_model(takes: Duration) -> Scorer {
    Scorer::with_engine(move || Ok(Box::new(Slow(takes)) as Box<dyn Engine>) as Result<_, ModelError>)
}

struct Slow(Duration);

impl Engine for Slow {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
        let until = std::time::Instant::now() + self.0;
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            std::thread::park_timeout(left);
        }
        Nothing.run(features, scores)
    }
}

struct Nothing;

impl Engine for Nothing {
    fn run(&mut self, features: &Features, scores: &mut Scores) -> Result<(), ScoreError> {
        let fill = |slot: &mut Vec<f32>, len: usize, value: f32| {
            slot.clear();
            slot.resize(len, value);
        };
        let candidates = features.candidate_count();
        scores.score.clear();
        scores.score.extend((0..candidates).map(|i| 4.0 + (i % 17) as f32 * 0.05));
        fill(&mut scores.latency_mean_s, candidates, 0.010);
        fill(&mut scores.latency_p99_s, candidates, 0.030);
        fill(&mut scores.jitter_s, candidates, 0.002);
        fill(&mut scores.node_load, features.node_count(), 1.0);
        fill(&mut scores.attention, features.edge_count(), 0.2);
        Ok(())
    }
}
