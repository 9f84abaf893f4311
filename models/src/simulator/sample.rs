//! From a scenario to samples: plays a mesh, and every few seconds takes what the sidecar sees and what it should conclude.
//!
//! A run warms up, then a sample is taken every few seconds: features as the sidecar's tick makes them, the truth of that
//! moment (`truth`), and, once it has passed, what the next window brought. With forks, some samples' windows are played
//! again with other draws: the means over them are what was to be expected, and how far the window that came is from them
//! is the noise that no predictor can beat. A scenario gives the same samples each time, to the byte.

use super::engine::{Engine, Observer, SECOND};
use super::faults::Fault;
use super::load::Load;
use super::mesh::Mesh;
use super::simple::{self, Policy};
use super::telemetry::{Seen, Telemetry, View};
use super::truth::Truth;
use super::windows::{self, Answers};
use crate::data::{Candidate, Sample};
use crate::simulator::draw::Draw;
use crate::simulator::truth::Trouble;
use crate::{Error, Result, WINDOW_S};
use pathloom::links::orca::Report;
use pathloom::links::{Outcome, Time};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keeps the engine's draws apart from those that made the scenario.
const ENGINE_DRAWS: u64 = 0x9e37_79b9_7f4a_7c15;
/// And the forks' from the engine's.
const FORK_DRAWS: u64 = 0xd1b5_4a32_d192_ed03;

/// Which policies the mesh's proxies run.
#[derive(Debug, Clone, PartialEq)]
pub enum Policies {
    /// For each calling and called service another, drawn.
    Mixed,
    /// The same everywhere.
    Same(Policy),
}

/// All that a run follows from.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The run's seed.
    pub seed: u64,
    /// What is simulated.
    pub mesh: Mesh,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How much enters.
    pub load: Load,
    /// Who sees what.
    pub view: View,
    /// Who picks.
    pub policies: Policies,
    /// After so many seconds proxies stop to pick a crashed instance; never without.
    pub ejects_after_s: Option<u64>,
    /// The first sample is taken after this many seconds.
    pub warm_up_s: u64,
    /// How long it is played, in seconds.
    pub duration_s: u64,
    /// The seconds from one sample to the next, from and to.
    pub between_s: (usize, usize),
    /// How often a sample's window is played again; 0 for never.
    pub forks: usize,
    /// Which samples' windows: each so many.
    pub fork_every: usize,
}

/// A sample whose window has not passed.
#[derive(Debug)]
struct Pending {
    second: u64,
    seen: Seen,
    intrinsic_s: Vec<f32>,
    trouble: Vec<Trouble>,
    /// Expected mean and jitter of each candidate.
    expected: Option<Vec<(f32, f32)>>,
}

/// Telemetry and answers, both.
struct Watch<'m> {
    telemetry: Telemetry<'m>,
    answers: Answers,
}

impl Observer for Watch<'_> {
    fn begin(&mut self, pair: usize, now: Time) {
        self.telemetry.begin(pair, now);
    }

    fn end(&mut self, pair: usize, now: Time, latency_s: f32, outcome: Outcome) {
        self.telemetry.end(pair, now, latency_s, outcome);
        self.answers.end(pair, now, latency_s, outcome);
    }

    fn reported(&mut self, pair: usize, now: Time, report: &Report) {
        self.telemetry.reported(pair, now, report);
    }
}

/// Plays a scenario and returns its samples.
///
/// # Errors
/// When the graph would be too large.
pub fn play(scenario: &Scenario) -> Result<Vec<Sample>> {
    let Scenario { seed, mesh, .. } = scenario;
    let mut draw = Draw::new(*seed);
    let balancers = match &scenario.policies {
        Policies::Mixed => simple::random(mesh, &mut draw),
        Policies::Same(policy) => simple::everywhere(mesh, policy),
    };
    let mut engine = Engine::new(mesh, &scenario.faults, &scenario.load, balancers, Draw::new(seed ^ ENGINE_DRAWS));
    let telemetry = Telemetry::new(mesh, scenario.view.clone());
    let mut watch = Watch { telemetry, answers: Answers::default() };
    let truth = Truth::new(mesh);
    let window = u64::from(WINDOW_S);
    let mut ejector = Ejector::new(mesh, scenario.ejects_after_s);
    let mut arrived: Vec<Vec<u32>> = Vec::new();
    let mut pending: Vec<Pending> = Vec::new();
    let mut next = scenario.warm_up_s + draw.whole(0, 2) as u64;
    for second in 1..=scenario.duration_s {
        let now = Time(second * SECOND);
        engine.run(now, &mut watch);
        watch.answers.second();
        watch.telemetry.second(engine.active());
        ejector.second(&mut engine);
        arrived.push((0..mesh.instances.len()).map(|i| engine.take_counters(i).arrived).collect());
        if second < scenario.view.since_s {
            continue;
        }
        let observation = watch.telemetry.observe(now);
        if second < next || second <= scenario.view.since_s || second + window > scenario.duration_s {
            continue;
        }
        let seen = watch.telemetry.features(&observation, engine.active())?;
        if seen.pairs.is_empty() {
            // Nothing to choose yet: so where hardly anything is called.
            continue;
        }
        let intrinsic = truth.intrinsic(engine.active(), engine.picks());
        let trouble = truth.trouble(engine.active(), engine.picks());
        let again = scenario.forks > 0 && pending.len().is_multiple_of(scenario.fork_every.max(1));
        pending.push(Pending {
            second,
            intrinsic_s: seen.pairs.iter().map(|p| intrinsic[*p] as f32).collect(),
            trouble: seen.pairs.iter().map(|p| trouble[*p]).collect(),
            expected: again.then(|| expected(&engine, scenario, second, &seen.pairs)),
            seen,
        });
        next = second + draw.whole(scenario.between_s.0, scenario.between_s.1) as u64;
    }
    let called = called(mesh);
    Ok(pending.into_iter().map(|p| whole(p, scenario, &watch.answers, &arrived, &called)).collect())
}

/// A sample with its window's labels.
fn whole(pending: Pending, scenario: &Scenario, answers: &Answers, arrived: &[Vec<u32>], called: &[bool]) -> Sample {
    let Pending { second, seen, intrinsic_s, trouble, expected } = pending;
    let until = second + u64::from(WINDOW_S);
    let next = answers.of(&seen.pairs, second, until);
    let past = answers.past(&scenario.mesh, &seen.pairs, second, scenario.view.since_s);
    let mut candidates = Vec::with_capacity(seen.pairs.len());
    for (i, (latencies, past)) in next.iter().zip(past).enumerate() {
        let label = windows::window(latencies);
        let (expected_mean_s, expected_jitter_s) = expected.as_ref().map_or((f32::NAN, f32::NAN), |e| e[i]);
        candidates.push(Candidate {
            group: seen.groups[i],
            trouble: trouble[i],
            intrinsic_s: intrinsic_s[i],
            mean_s: label.mean_s,
            p99_s: label.p99_s,
            jitter_s: label.jitter_s,
            answers: label.answers,
            expected_mean_s,
            expected_jitter_s,
            past,
        });
    }
    let load = |i: &usize| {
        if !called.get(*i).copied().unwrap_or(false) {
            return f32::NAN;
        }
        let seconds = arrived[second as usize..until as usize].iter();
        seconds.map(|a| a[*i]).sum::<u32>() as f32 / WINDOW_S as f32
    };
    let node_load = seen.instances.iter().map(load).collect();
    Sample { run: scenario.seed, tick: second, features: seen.features, candidates, node_load }
}

/// For each instance, whether anybody calls it.
fn called(mesh: &Mesh) -> Vec<bool> {
    let mut called = vec![false; mesh.instances.len()];
    mesh.pairs.iter().for_each(|p| called[p.destination] = true);
    called
}

/// The means over other fates of the next window: mean latency and jitter of each pair.
fn expected(engine: &Engine<'_>, scenario: &Scenario, second: u64, pairs: &[usize]) -> Vec<(f32, f32)> {
    let mut sums = vec![[(0.0f64, 0u32); 2]; pairs.len()];
    for fork in 0..scenario.forks as u64 {
        let seed = scenario.seed.wrapping_mul(FORK_DRAWS).wrapping_add(second * 1_000 + fork);
        let mut other = engine.fork(seed);
        let mut answers = Answers::from_second(second);
        for passed in 1..=u64::from(WINDOW_S) {
            other.run(Time((second + passed) * SECOND), &mut answers);
            answers.second();
        }
        for (sums, latencies) in sums.iter_mut().zip(answers.of(pairs, second, second + u64::from(WINDOW_S))) {
            let seen = windows::window(&latencies);
            for (sum, value) in sums.iter_mut().zip([seen.mean_s, seen.jitter_s]) {
                if value.is_finite() {
                    *sum = (sum.0 + f64::from(value), sum.1 + 1);
                }
            }
        }
    }
    let mean = |(sum, count): (f64, u32)| if count > 0 { (sum / f64::from(count)) as f32 } else { f32::NAN };
    sums.into_iter().map(|[m, j]| (mean(m), mean(j))).collect()
}

/// Takes crashed instances out of the proxies' choice after a while, as health checks would.
#[derive(Debug)]
struct Ejector {
    after_s: Option<u64>,
    /// For each instance, for how many seconds it has been gone.
    gone_s: Vec<u64>,
}

impl Ejector {
    fn new(mesh: &Mesh, after_s: Option<u64>) -> Self {
        Self { after_s, gone_s: vec![0; mesh.instances.len()] }
    }

    fn second(&mut self, engine: &mut Engine<'_>) {
        let Some(after_s) = self.after_s else { return };
        for i in 0..self.gone_s.len() {
            if engine.active().crashed[i] {
                self.gone_s[i] += 1;
                if self.gone_s[i] == after_s.max(1) {
                    engine.set_usable(i, false);
                }
            } else if std::mem::take(&mut self.gone_s[i]) >= after_s.max(1) {
                engine.set_usable(i, true);
            }
        }
    }
}

/// Plays many scenarios on as many threads as there are processors, at most `MOST_THREADS`; the samples come in the order
/// of the seeds, whatever thread was faster. `played` is called after each run.
///
/// # Errors
/// The first seed's whose scenario cannot be made or played.
pub fn play_all(
    seeds: std::ops::Range<u64>,
    scenario: impl Fn(u64) -> Result<Scenario> + Sync,
    played: impl Fn() + Sync,
) -> Result<Vec<Sample>> {
    let count = seeds.end.saturating_sub(seeds.start) as usize;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(count.max(1));
    let next = AtomicUsize::new(0);
    let runs: Mutex<Vec<Option<Result<Vec<Sample>>>>> = Mutex::new((0..count).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= count {
                        break;
                    }
                    let samples = scenario(seeds.start + run as u64).and_then(|s| play(&s));
                    let mut runs = runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    runs[run] = Some(samples);
                    drop(runs);
                    played();
                }
            });
        }
    });
    let mut samples = Vec::new();
    for run in runs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        samples.extend(run.unwrap_or_else(|| Err(Error::Check("a run was not played".into())))?);
    }
    Ok(samples)
}

/// More threads than this bring nothing on the machines that this is made for.
const MOST_THREADS: usize = 8;
