//! A simulated run as a recording: each window's links as their proxies saw them, each node as it reports itself.

use super::engine::{Engine, Observer, SECOND};
use super::mesh::Mesh;
use super::windows;
use crate::{Error, Result};
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};
use pathloom::record::{LinkRow, NodeRow, Writer};

/// What a window has of one pair.
#[derive(Debug, Clone, Default)]
struct Link {
    latencies_s: Vec<f32>,
    errors: u64,
    /// Whether it was ever used.
    known: bool,
}

/// Watches a run and writes its windows.
#[derive(Debug)]
pub struct Recorder<'m> {
    mesh: &'m Mesh,
    links: Vec<Link>,
    /// For each instance, the memory that it said to have in use.
    memory: Vec<Option<f64>>,
    zones: Vec<String>,
    /// Requests that entered and were answered, and that failed.
    pub finished: (u64, u64),
}

impl<'m> Recorder<'m> {
    /// A recorder that has seen nothing.
    #[must_use]
    pub fn new(mesh: &'m Mesh) -> Self {
        Self {
            mesh,
            links: vec![Link::default(); mesh.pairs.len()],
            memory: vec![None; mesh.instances.len()],
            zones: (0..mesh.network.rtt_s.len()).map(|z| format!("zone-{z}")).collect(),
            finished: (0, 0),
        }
    }

    /// Writes the window from `from_s` on, of `window_s` seconds, that has just passed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn window(&mut self, engine: &mut Engine<'_>, writer: &mut Writer, from_s: u64, window_s: u64) -> Result<()> {
        let mesh = self.mesh;
        let mut nodes = Vec::with_capacity(mesh.instances.len());
        for (i, instance) in mesh.instances.iter().enumerate() {
            let counters = engine.take_counters(i);
            if !engine.active().alive[i] {
                continue;
            }
            let service = &mesh.services[instance.service];
            let host = &mesh.hosts[instance.host];
            let cores = host.cores.min(service.workers as f64);
            let busy = counters.busy_s / window_s as f64 / cores;
            nodes.push(NodeRow {
                node: &instance.key.0,
                service: &service.name,
                zone: &self.zones[host.zone],
                cpu_utilization: service.reports.then_some(busy.clamp(0.0, 1.0)),
                memory_utilization: self.memory[i],
                requests_per_second: service.reports.then_some(f64::from(counters.arrived) / window_s as f64),
                in_flight: Some(f64::from(counters.in_flight)),
            });
        }
        let mut links = Vec::new();
        for (pair, link) in mesh.pairs.iter().zip(&mut self.links).filter(|(_, l)| l.known) {
            links.push(row(&mesh.instances[pair.source].key.0, &mesh.instances[pair.destination].key.0, link));
        }
        writer.window(from_s as f64, &nodes, &links).map_err(|e| Error::Format(e.to_string()))
    }
}

/// A link's row; what it holds is taken out of it.
fn row<'a>(source: &'a str, destination: &'a str, link: &mut Link) -> LinkRow<'a> {
    let latencies = std::mem::take(&mut link.latencies_s);
    let errors = std::mem::take(&mut link.errors);
    let jitter_s = windows::jitter(&latencies);
    let mut sorted = latencies;
    sorted.sort_by(f32::total_cmp);
    let ms = |seconds: f32| Some(f64::from(seconds) * 1e3).filter(|v| v.is_finite());
    let quantile = |q: f64| {
        let rank = (sorted.len() as f64 * q).ceil() as usize;
        ms(rank.checked_sub(1).and_then(|at| sorted.get(at)).copied().unwrap_or(f32::NAN))
    };
    LinkRow {
        source,
        destination,
        calls: sorted.len() as u64 + errors,
        errors,
        latency_mean_ms: ms(windows::mean(&sorted)),
        latency_p50_ms: quantile(0.5),
        latency_p90_ms: quantile(0.9),
        latency_p99_ms: quantile(0.99),
        jitter_ms: ms(jitter_s),
    }
}

impl Observer for Recorder<'_> {
    fn begin(&mut self, pair: usize, _now: Time) {
        self.links[pair].known = true;
    }

    fn end(&mut self, pair: usize, _now: Time, latency_s: f32, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.links[pair].latencies_s.push(latency_s),
            Outcome::Failure => self.links[pair].errors += 1,
            Outcome::Cancelled => {}
        }
    }

    fn reported(&mut self, pair: usize, _now: Time, report: &Report) {
        self.memory[self.mesh.pairs[pair].destination] = report.mem_utilization;
    }

    fn finished(&mut self, _entry: usize, _began: Time, _now: Time, ok: bool) {
        let (answered, failed) = &mut self.finished;
        *if ok { answered } else { failed } += 1;
    }
}

/// Plays a run of so many whole windows and writes each; `passed` is called after each simulated second.
///
/// # Errors
/// When a window cannot be written.
pub fn record<'m>(
    engine: &mut Engine<'m>,
    writer: &mut Writer,
    windows: u64,
    window_s: u64,
    passed: impl Fn(),
) -> Result<Recorder<'m>> {
    let mut recorder = Recorder::new(engine.mesh());
    for window in 0..windows {
        for second in 1..=window_s {
            engine.run(Time((window * window_s + second) * SECOND), &mut recorder);
            passed();
        }
        recorder.window(engine, writer, window * window_s, window_s)?;
    }
    Ok(recorder)
}
