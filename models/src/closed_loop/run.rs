//! One run: mesh, faults, load and a policy make figures.
//!
//! Load is open: requests enter when they are meant to, whatever became of those before, and a latency counts from that
//! moment to the answer. Every proxy ticks once a second at its own tenth of it. Arrivals and faults are drawn from
//! generators that no policy touches, so under one seed all policies meet the same.

use super::ejection::Ejecting;
use super::eye::Eye;
use super::policies::{Place, Policy};
use super::scenarios::{DURATION_S, Scenario, Shared, TROUBLE, WARM_UP_S};
use super::scores::Scorer;
use super::stats::quantile;
use crate::Result;
use crate::simulator::balancer::{Balancer, Scored};
use crate::simulator::draw::Draw;
use crate::simulator::engine::{Engine, SECOND};
use crate::simulator::mesh::Mesh;
use pathloom::links::Time;
use serde::Serialize;

/// Into so many parts a second is divided; each proxy ticks in one of them.
const PHASES: usize = 10;
/// A share that fell to this part of what it was has been diverted; one that is back above it has recovered.
const DIVERTED: f64 = 0.5;

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Median end-to-end latency in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p999_ms: f64,
    /// The mean.
    pub mean_ms: f64,
    /// The share of requests that failed.
    pub errors: f64,
    /// Requests a second that were answered within the deadline.
    pub goodput: f64,
    /// The share of requests that were answered within the deadline.
    pub in_time: f64,
    /// Seconds from the trouble's begin until the share of those in it was halved; NaN where that never happened.
    pub divert_s: f64,
    /// Seconds from its end until the share was back; likewise.
    pub recover_s: f64,
    /// The mean share of those in trouble while it lasted, 1 being their equal part.
    pub share: f64,
    /// That share in each second.
    #[serde(skip)]
    pub shares: Vec<f64>,
    /// The sum of changes of weights a second, over a table's candidates, the mean of tables; NaN without weights.
    pub churn: f64,
    /// The largest change of a replica's share of its service's calls from a second to the next.
    pub swing: f64,
    /// How many events were played.
    #[serde(skip)]
    pub events: u64,
    /// How many requests were counted.
    #[serde(skip)]
    pub requests: u64,
}

/// The policies of all proxies, behind the ejector.
fn balancers(mesh: &Mesh, policy: &Policy) -> Vec<Vec<Box<dyn Balancer>>> {
    let at = |instance: usize, dependency: usize| -> Box<dyn Balancer> {
        let place = Place::of(mesh, instance, dependency);
        Box::new(Ejecting::new(policy.at(&place), &place.destinations))
    };
    let of = |(i, routes): (usize, &Vec<_>)| (0..routes.len()).map(|d| at(i, d)).collect();
    mesh.routes.iter().enumerate().map(of).collect()
}

/// Plays a scenario under a policy. `scorer` is who scores, where the policy wants scores.
///
/// # Errors
/// When the scorer fails.
pub fn run(scenario: &Scenario, policy: &Policy, scorer: Option<&Scorer>, seed: u64) -> Result<Figures> {
    let (eye, churn, events) = watch(scenario, policy, scorer, seed)?;
    Ok(figures(scenario, eye, &churn, events))
}

/// Plays a scenario: what was seen, how weights moved, how many events there were.
pub(super) fn watch(
    scenario: &Scenario,
    policy: &Policy,
    scorer: Option<&Scorer>,
    seed: u64,
) -> Result<(Eye, Churn, u64)> {
    let mesh = &scenario.mesh;
    let mut phases = Draw::new(seed ^ 0x9e37_79b9_7f4a_7c15);
    let phase: Vec<usize> = mesh.instances.iter().map(|_| phases.whole(0, PHASES - 1)).collect();
    let mut eye = Eye::new(scenario, scorer.is_some_and(Scorer::reads));
    let mut engine = Engine::new(mesh, &scenario.faults, &scenario.load, balancers(mesh, policy), Draw::new(seed));
    let mut churn = Churn::default();
    for second in 0..DURATION_S as u64 {
        discover(&mut engine);
        let now = Time(second * SECOND);
        let silent = engine.active().silent.clone();
        let scores = match scorer {
            None => None,
            Some(scorer) => {
                let seen = if scorer.reads() { eye.look(scenario, &silent, now) } else { None };
                scorer.score(&engine, seen)?
            }
        };
        let gone = matches!(scenario.shared, Shared::ModelGone(from_s) if second as f64 >= from_s);
        let scores = scores.filter(|_| !gone);
        for part in 0..PHASES {
            let at = Time(second * SECOND + part as u64 * SECOND / PHASES as u64);
            engine.run(at, &mut eye);
            if scorer.is_some() {
                tick(&mut engine, at, &phase, part, scores.as_deref(), &eye.measured);
            }
        }
        if second as f64 >= WARM_UP_S {
            churn.look(engine.balancers());
        }
    }
    engine.run(Time(DURATION_S as u64 * SECOND), &mut eye);
    Ok((eye, churn, engine.totals().events))
}

/// Discovery says who is there.
fn discover(engine: &mut Engine<'_>) {
    let alive = engine.active().alive.clone();
    alive.into_iter().enumerate().for_each(|(instance, alive)| engine.set_usable(instance, alive));
}

/// Those whose time has come get their scores.
fn tick(
    engine: &mut Engine<'_>,
    now: Time,
    phase: &[usize],
    part: usize,
    scores: Option<&[Option<f32>]>,
    measured: &[Option<Time>],
) {
    let mesh = engine.mesh();
    let mut scored = Vec::new();
    for (instance, balancers) in engine.balancers_mut().iter_mut().enumerate() {
        if phase[instance] != part {
            continue;
        }
        for (route, balancer) in mesh.routes[instance].iter().zip(balancers) {
            scored.clear();
            if let Some(scores) = scores {
                let of = |p: &usize| {
                    let measured_at = measured[mesh.pairs[*p].destination];
                    scores[*p].map(|score| Scored { score, success: 1.0, measured_at })
                };
                scored.extend(route.pairs.iter().map(of));
            }
            balancer.tick(now, scores.map(|_| scored.as_slice()));
        }
    }
}

/// How much weights move.
#[derive(Debug, Default)]
pub(super) struct Churn {
    last: Vec<Vec<f32>>,
    sum: f64,
    tables: f64,
}

impl Churn {
    fn look(&mut self, balancers: &[Vec<Box<dyn Balancer>>]) {
        let weights: Vec<Vec<f32>> = balancers.iter().flatten().map(|b| b.weights().unwrap_or_default()).collect();
        for (new, old) in weights.iter().zip(&self.last).filter(|(new, _)| new.len() > 1) {
            self.sum += new.iter().zip(old).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
            self.tables += 1.0;
        }
        self.last = weights;
    }
}

fn figures(scenario: &Scenario, mut eye: Eye, churn: &Churn, events: u64) -> Figures {
    eye.latencies_s.sort_unstable_by(f32::total_cmp);
    let ms = |q: f64| quantile(&eye.latencies_s, q) * 1e3;
    let count = eye.latencies_s.len().max(1) as f64;
    let mean_ms = eye.latencies_s.iter().map(|l| f64::from(*l)).sum::<f64>() / count * 1e3;
    let counted = eye.counted;
    let entered = counted.entered.max(1) as f64;
    // What was still under way at the end is no answer, but no failure either: a queue that never ends shows in `in_time`.
    let shares = shares(scenario, &eye.picks);
    let (divert_s, recover_s) = times(&shares);
    let during: Vec<f64> = within(&shares, TROUBLE).filter(|s| s.is_finite()).collect();
    Figures {
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        mean_ms,
        errors: counted.failed as f64 / entered,
        goodput: counted.in_time as f64 / (DURATION_S - WARM_UP_S),
        in_time: counted.in_time as f64 / entered,
        divert_s,
        recover_s,
        share: if during.is_empty() { f64::NAN } else { during.iter().sum::<f64>() / during.len() as f64 },
        shares,
        churn: if churn.tables > 0.0 { churn.sum / churn.tables } else { f64::NAN },
        swing: swing(&scenario.mesh, &eye.picks),
        events,
        requests: counted.entered,
    }
}

/// The values of the seconds between two moments.
fn within(shares: &[f64], (from_s, until_s): (f64, f64)) -> impl Iterator<Item = f64> {
    shares.iter().take(until_s as usize).skip(from_s as usize).copied()
}

/// In each second, the part of its service's calls that those in trouble get, their equal part being 1.
fn shares(scenario: &Scenario, picks: &[Vec<u32>]) -> Vec<f64> {
    let mesh = &scenario.mesh;
    if scenario.watched.is_empty() {
        return Vec::new();
    }
    let mut watched = vec![false; mesh.instances.len()];
    scenario.watched.iter().for_each(|i| watched[*i] = true);
    let mut service = vec![false; mesh.services.len()];
    scenario.watched.iter().for_each(|i| service[mesh.instances[*i].service] = true);
    let of = |i: usize| service[mesh.instances[i].service];
    let count = (0..mesh.instances.len()).filter(|i| of(*i)).count() as f64;
    let equal = scenario.watched.len() as f64 / count;
    let share = |second: &Vec<u32>| {
        let (mut theirs, mut all) = (0.0, 0.0);
        for (pair, picks) in mesh.pairs.iter().zip(second).filter(|(p, _)| of(p.destination)) {
            all += f64::from(*picks);
            theirs += if watched[pair.destination] { f64::from(*picks) } else { 0.0 };
        }
        if all > 0.0 { theirs / all / equal } else { f64::NAN }
    };
    picks.iter().take(DURATION_S as usize).map(share).collect()
}

/// How long it took to divert, and to recover: from when on the mean over three seconds keeps to its side.
fn times(shares: &[f64]) -> (f64, f64) {
    let before: Vec<f64> = within(shares, (WARM_UP_S - 5.0, TROUBLE.0)).filter(|s| s.is_finite()).collect();
    if before.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let half = DIVERTED * before.iter().sum::<f64>() / before.len() as f64;
    let smooth = |second: usize| {
        let of: Vec<f64> = shares.iter().skip(second).take(3).copied().filter(|s| s.is_finite()).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let (from, until) = (TROUBLE.0 as usize, TROUBLE.1 as usize);
    let divert = (from..until - 2).find(|s| smooth(*s) < half);
    let recover = (until..shares.len().saturating_sub(2)).find(|s| smooth(*s) > half);
    let seconds = |found: Option<usize>, since: usize| found.map_or(f64::NAN, |s| (s - since) as f64);
    (seconds(divert, from), seconds(recover.filter(|_| divert.is_some()), until))
}

/// The largest change of a replica's share of its service's calls from one second to the next.
fn swing(mesh: &Mesh, picks: &[Vec<u32>]) -> f64 {
    let by_instance = |second: &Vec<u32>| {
        let mut counts = vec![0.0; mesh.instances.len()];
        let mut services = vec![0.0; mesh.services.len()];
        for (pair, picks) in mesh.pairs.iter().zip(second) {
            counts[pair.destination] += f64::from(*picks);
            services[mesh.instances[pair.destination].service] += f64::from(*picks);
        }
        let share = |(i, count): (usize, &f64)| count / f64::max(services[mesh.instances[i].service], 1.0);
        counts.iter().enumerate().map(share).collect::<Vec<f64>>()
    };
    let counted: Vec<Vec<f64>> =
        picks.iter().take(DURATION_S as usize).skip(WARM_UP_S as usize).map(by_instance).collect();
    let change = |w: &[Vec<f64>]| w[0].iter().zip(&w[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    counted.windows(2).map(change).fold(0.0, f64::max)
}
