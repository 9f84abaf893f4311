//! One (workload, cluster): its candidates, and the pick among them.

use super::affine::Affine;
use super::drawn::{DRAWN, Drawn};
use super::shortlist::{MIN_SUCCESS, Shortlist, below};
use super::turns::turns;
use super::{Alias, Candidate, Health, Maglev, OwnZone, Trial, Zones};
use crate::config::{Compare, Policy};
use crate::links::{Fading, Time};
use crate::observe::{Arm, Traffic};
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Up to so many candidates are all compared; beyond, `DRAWN` of them. In the laboratory (`closed-loop`, 64 proxies x 50
/// replicas) comparing all made the 99th percentile 8 to 17% shorter than drawing three; `shortlist` makes it cheap.
pub const COMPARE_ALL_UP_TO: usize = 64;
/// Peak EWMA's time constant, and its estimate for an endpoint whose first sample is under way (Linkerd's defaults).
pub const PEAK_EWMA_DECAY_S: f32 = 10.0;
/// See `PEAK_EWMA_DECAY_S`.
pub const PEAK_EWMA_DEFAULT_S: f32 = 0.030;
/// A candidate with this part of an equal share is about as fast as the others, as far as the model knows. (In the laboratory,
/// `closed-loop` over ten seeds, the 99th percentile stays as it was in eight scenarios; at 0.5 the 99.9th was longer where
/// trouble is two hops away, 213 ms instead of 183 with intervals that overlap, at 0.7 it is 200.)
const LIKELY: f32 = 0.7;

/// How a table chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableOptions {
    /// The policy in force: the cluster's own, or the ladder's.
    pub policy: Policy,
    /// How many candidates are compared under `Policy::Model`.
    pub compare: Compare,
    /// The time constant of the local estimate's decay, in seconds.
    pub tau_s: f32,
    /// The share of requests with which candidates that were not measured for `tau_s` are measured again: the floor.
    pub explore: f32,
}

/// The candidates of one (workload, cluster), and how to choose among them.
#[derive(Debug)]
pub struct Table {
    /// Those that may get requests first, then the others (kept to be shown).
    candidates: Box<[Candidate]>,
    eligible: usize,
    /// What a request compares of those that are eligible, under `Policy::Model`.
    compared: Compared,
    /// The candidates on probation: one request at a time may go to each.
    probation: Box<[u32]>,
    /// Fewer than the panic threshold were healthy, so all get requests.
    pub panic: bool,
    /// How it chooses.
    pub options: TableOptions,
    /// Where its requests are counted.
    pub traffic: Arc<Traffic>,
    /// The weights; empty where nobody is drawn by them.
    alias: Alias,
    /// The configured weights alone, for when the others have expired.
    configured: Alias,
    turns: Box<[u32]>,
    turn: AtomicU32,
    /// Who stays with whom; mostly nobody.
    affine: Option<Affine>,
    /// What comes before the policy; mostly nothing.
    apart: Option<Box<Apart>>,
}

/// What parts requests before the policy chooses for them.
#[derive(Debug, Default)]
struct Apart {
    /// The model's trial, where it is on one.
    trial: Option<Trial>,
    /// The candidates apart by zone, where the own one comes first.
    zones: Option<Zones>,
}

/// What is compared under `Policy::Model`.
#[derive(Debug)]
enum Compared {
    All(Shortlist),
    Three(Drawn),
    /// So many drawn by weight.
    Few(u16),
}

/// What a pick chose, and by which estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The candidate's index in the table.
    pub index: usize,
    /// The latency that it was expected to have, in seconds; NaN where the policy looks at none.
    pub estimate_s: f32,
}

impl Table {
    /// A table of these candidates. Where `panic`, health does not count, only a configured weight of zero does.
    #[must_use]
    pub fn new(mut candidates: Vec<Candidate>, panic: bool, options: TableOptions, traffic: Arc<Traffic>) -> Self {
        let takes =
            |c: &Candidate| (panic && c.health != Health::Drained || c.health.takes_requests()) && c.weight > 0.0;
        let first = candidates.iter().take_while(|c| takes(c)).count();
        if candidates.iter().skip(first).any(takes) {
            // Stable, so that the order of the configuration shows in `/routing`.
            candidates.sort_by_key(|c| !takes(c));
        }
        let eligible = first + candidates.iter().skip(first).take_while(|c| takes(c)).count();
        // Where all are compared nobody is drawn by weight, and the alias table is most of what a table takes to make.
        let draws = options.policy != Policy::Model || drawn(options.compare, eligible).is_some();
        let weights: Vec<f32> = candidates.iter().take(eligible).filter(|_| draws).map(|c| c.weight).collect();
        let configured = || candidates.iter().take(eligible).map(|c| c.endpoint.weight.max(1));
        let alike = configured().next().is_none_or(|first| configured().all(|w| w == first));
        let by_configured = match alike {
            true => Alias::equal(eligible),
            false => Alias::new(&configured().map(|w| w as f32).collect::<Vec<_>>()),
        };
        let on_probation = |c: &Candidate| !panic && c.health == Health::Probation;
        let probation = candidates.iter().zip(0u32..).filter(|(c, _)| on_probation(c)).map(|(_, i)| i).collect();
        let alias = Alias::new(&weights);
        let compared = match drawn(options.compare, eligible) {
            _ if options.policy != Policy::Model => Compared::Few(0),
            None => Compared::All(Shortlist::new(candidates.iter().take(eligible), traffic.cores())),
            Some(DRAWN) => Compared::Three(Drawn::new(candidates.iter().take(eligible), &alias)),
            Some(n) => Compared::Few(n),
        };
        let mut table = Self {
            candidates: candidates.into(),
            eligible,
            compared,
            probation,
            panic,
            options,
            traffic,
            alias,
            configured: by_configured,
            turns: Box::default(),
            turn: AtomicU32::new(0),
            affine: None,
            apart: None,
        };
        if options.policy == Policy::RoundRobin {
            (table.turns, table.turn) = table.round();
        }
        table
    }

    /// The order of taking turns, and where it begins: proxies that start together must not all begin with the same
    /// endpoint.
    fn round(&self) -> (Box<[u32]>, AtomicU32) {
        let weights: Vec<u32> = self.eligible().iter().map(|c| c.endpoint.weight.max(1)).collect();
        (turns(&weights), AtomicU32::new(rand::random()))
    }

    /// The same, whose requests stay with endpoints as this says.
    #[must_use]
    pub fn with_affinity(mut self, maglev: Option<Arc<Maglev>>) -> Self {
        self.affine = maglev.map(|maglev| Affine::new(maglev, &self.candidates));
        self
    }

    /// The same, steered by the model for a share of the requests only, and by another policy for the rest.
    #[must_use]
    pub fn on_trial(mut self, share: f64, against: Policy) -> Self {
        if against == Policy::RoundRobin {
            (self.turns, self.turn) = self.round();
        }
        let trial = Trial::new(share, against, self.eligible());
        self.apart.get_or_insert_default().trial = Some(trial);
        self
    }

    /// The same, whose requests stay in a zone for a share of them. Comes after `on_trial`.
    #[must_use]
    pub fn with_own_zone(mut self, own: OwnZone) -> Self {
        let name = own.name.clone();
        let make = |candidates| {
            let table = Self::new(candidates, false, self.options, self.traffic.clone());
            match self.trial() {
                Some(trial) => table.on_trial(trial.share, trial.against),
                None => table,
            }
        };
        if let Some(zones) = Zones::new(own, self.eligible(), |c| c.endpoint.zone == name, make) {
            self.apart.get_or_insert_default().zones = Some(zones);
        }
        self
    }

    /// The model's trial, where it is on one.
    #[inline]
    #[must_use]
    pub fn trial(&self) -> Option<&Trial> {
        self.apart.as_ref()?.trial.as_ref()
    }

    /// What stays in the own zone, where that comes first and has a part to give away.
    #[must_use]
    pub fn own_zone(&self) -> Option<&OwnZone> {
        self.apart.as_ref()?.zones.as_ref().map(|zones| &zones.own)
    }

    /// Who steers the next request, where the model is on trial.
    #[inline]
    pub fn arm(&self, rng: &mut impl Rng) -> Option<Arm> {
        self.trial().map(|trial| trial.draw(rng))
    }

    /// The policy that chooses for a request of this arm.
    #[must_use]
    pub fn policy(&self, arm: Option<Arm>) -> Policy {
        match self.trial() {
            Some(trial) if arm != Some(Arm::Model) => trial.against,
            _ => self.options.policy,
        }
    }

    /// What part of the requests that stay with somebody stays with this candidate; none where nobody stays.
    #[must_use]
    pub fn affine_share(&self, index: usize) -> Option<f32> {
        self.affine.as_ref().map(|affine| affine.share(index))
    }

    /// All candidates, those that may get requests first.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Those that may get requests.
    #[must_use]
    pub fn eligible(&self) -> &[Candidate] {
        self.candidates.get(..self.eligible).unwrap_or_default()
    }

    /// Whether there is a candidate that may get requests beside these.
    #[must_use]
    pub fn has_beside(&self, tried: &[usize]) -> bool {
        (0..self.eligible).any(|i| !tried.contains(&i))
    }

    /// Chooses a candidate for a request; none when no endpoint may get requests, or all that may are in `tried`.
    ///
    /// `expired` says that the generation no longer steers: peak EWMA then stands in for the model.
    pub fn pick(&self, now: Time, expired: bool, rng: &mut impl Rng, tried: &[usize]) -> Option<Choice> {
        if let Some(apart) = &self.apart {
            let arm = apart.trial.as_ref().map(|trial| trial.draw(rng));
            return self.pick_by((arm, true), (now, expired), rng, tried);
        }
        self.pick_alike(true, (now, expired), rng, tried)
    }

    /// The same where all requests are alike, but that one is `safe` to repeat or is not.
    #[inline(always)]
    fn pick_alike(&self, safe: bool, when: (Time, bool), rng: &mut impl Rng, tried: &[usize]) -> Option<Choice> {
        let (now, expired) = when;
        if let Some(probe) = self.probe(safe, tried) {
            return Some(probe);
        }
        if self.eligible == 0 {
            return None;
        }
        let policy = match self.options.policy {
            Policy::Model if expired => Policy::PeakEwma,
            policy => policy,
        };
        // Weights that have expired draw nobody.
        let drawn_by = if policy == self.options.policy { &self.alias } else { &self.configured };
        self.choose((policy, drawn_by), now, rng, tried)
    }

    /// The same where requests are parted before the policy chooses: for one of this arm, where the model is on trial,
    /// which is `safe` to repeat or is not.
    ///
    /// Apart from `pick`, which most requests take and which is to stay as small as it is.
    #[inline(never)]
    pub(super) fn pick_by(
        &self,
        (arm, safe): (Option<Arm>, bool),
        (now, expired): (Time, bool),
        rng: &mut impl Rng,
        tried: &[usize],
    ) -> Option<Choice> {
        if let Some(probe) = self.probe(safe, tried) {
            return Some(probe);
        }
        if self.eligible == 0 {
            return None;
        }
        if let Some(zones) = self.apart.as_ref().and_then(|apart| apart.zones.as_ref()) {
            return zones.pick((arm, safe), (now, expired), rng, tried);
        }
        let by = match (self.trial(), self.options.policy) {
            (Some(trial), _) if expired || arm != Some(Arm::Model) => (trial.against, &trial.alias),
            (None, Policy::Model) if expired => (Policy::PeakEwma, &self.configured),
            (_, policy) => (policy, &self.alias),
        };
        self.choose(by, now, rng, tried)
    }

    /// A candidate on probation that may be tried out, with a request that is `safe` to repeat or is not. One that failed
    /// elsewhere is not one to do that with.
    #[inline(always)]
    fn probe(&self, safe: bool, tried: &[usize]) -> Option<Choice> {
        let probes = if tried.is_empty() { &*self.probation } else { &[] };
        let mut probes = probes.iter().map(|i| *i as usize);
        let index = probes.find(|index| self.candidates.get(*index).is_some_and(|c| c.node.take_probe(safe)))?;
        Some(Choice { index, estimate_s: f32::NAN })
    }

    /// Chooses by a policy, which draws by these weights where it draws. A part of both picks, and not called by them: a
    /// call of it costs a pick 14 instructions.
    #[inline(always)]
    fn choose(
        &self,
        (policy, drawn_by): (Policy, &Alias),
        now: Time,
        rng: &mut impl Rng,
        tried: &[usize],
    ) -> Option<Choice> {
        let choice = match policy {
            Policy::Model => self.pick_by_model(now, rng, tried),
            Policy::PeakEwma => self.pick_of_drawn(
                || drawn_by.draw(rng.next_u64()),
                2,
                tried,
                |c| {
                    let in_flight = c.node.in_flight();
                    let estimate_s = match c.link.estimate.last(now) {
                        Some(_) => c.link.estimate.at(now, 0.0, PEAK_EWMA_DECAY_S),
                        // Never measured: one request finds out, and the next ones wait for its word.
                        None if in_flight == 0 => 0.0,
                        None => PEAK_EWMA_DEFAULT_S,
                    };
                    (estimate_s * (in_flight + 1) as f32 / c.success.max(MIN_SUCCESS), estimate_s)
                },
            ),
            Policy::LeastRequest => self.pick_of_drawn(
                || drawn_by.draw(rng.next_u64()),
                2,
                tried,
                |c| (c.node.in_flight() as f32, f32::NAN),
            ),
            Policy::RoundRobin => self.in_turn(tried),
            Policy::Random => self.pick_of_drawn(|| drawn_by.draw(rng.next_u64()), 1, tried, |_| (0.0, f32::NAN)),
        };
        // The draws may all have hit candidates that were tried: then whichever was not.
        choice.or_else(|| {
            (0..self.eligible).find(|i| !tried.contains(i)).map(|index| Choice { index, estimate_s: f32::NAN })
        })
    }

    /// The same for a request that stays with its endpoint, by its number (`route::Affinity`), or whose arm is drawn; and
    /// that is safe to repeat or is not.
    #[inline]
    pub fn pick_for(
        &self,
        (number, arm, safe): (Option<u64>, Option<Arm>, bool),
        now: Time,
        expired: bool,
        rng: &mut impl Rng,
        tried: &[usize],
    ) -> Option<Choice> {
        if let (Some(number), Some(affine)) = (number, &self.affine) {
            let takes = |index: usize| {
                let probed = || {
                    let probation = self.probation.iter().any(|i| *i as usize == index);
                    probation && self.candidates.get(index).is_some_and(|c| c.node.take_probe(safe))
                };
                !tried.contains(&index) && (index < self.eligible || probed())
            };
            if let Some(index) = affine.find(number, takes) {
                return Some(Choice { index, estimate_s: f32::NAN });
            }
        }
        match &self.apart {
            Some(_) => self.pick_by((arm, safe), (now, expired), rng, tried),
            None => self.pick_alike(safe, (now, expired), rng, tried),
        }
    }

    /// A candidate for a request from which nothing is learnt: by the configured weights alone.
    pub fn draw_apart(&self, rng: &mut impl Rng) -> Option<usize> {
        self.configured.draw(rng.next_u64())
    }

    fn pick_by_model(&self, now: Time, rng: &mut impl Rng, tried: &[usize]) -> Option<Choice> {
        let random = rng.next_u64();
        // Sampling by weight alone explores by itself, and its shares are promised to be the weights.
        if self.options.compare != Compare::Draw(1)
            && let Some(index) = self.stale(now, random as u32, rng)
            && !tried.contains(&index)
        {
            return Some(Choice { index, estimate_s: f32::NAN });
        }
        let tau_s = self.options.tau_s;
        // The draw by weight holds the bias already.
        let cost = |fading: Fading| {
            move |c: &Candidate| {
                let estimate_s = c.link.estimate.faded(&fading, c.prior_s);
                (estimate_s * (c.node.in_flight() + 1) as f32 / c.success.max(MIN_SUCCESS), estimate_s)
            }
        };
        match &self.compared {
            // Begin anywhere, so that equal costs (an idle fleet) do not all go to the first.
            Compared::All(shortlist) => shortlist.cheapest(now, tau_s, (random >> 32) as u32, tried),
            Compared::Three(three) => {
                let drawn = three.draw([random, rng.next_u64(), rng.next_u64()])?;
                let [a, b, c] = drawn;
                if a != b && b != c && a != c && tried.is_empty() {
                    return three.cheapest(now, tau_s, drawn);
                }
                let mut first = drawn.into_iter();
                let draw = || first.next().or_else(|| self.alias.draw(rng.next_u64()));
                self.pick_of_drawn(draw, DRAWN, tried, cost(Fading::new(now, tau_s)))
            }
            Compared::Few(n) => {
                self.pick_of_drawn(|| self.alias.draw(rng.next_u64()), *n, tried, cost(Fading::new(now, tau_s)))
            }
        }
    }

    /// Now and then, a candidate that was not measured lately. The lowest cost alone would never choose one whose
    /// prior is high, and so never learn that it has healed. One that has a fresh sample is left out, so a slow
    /// endpoint costs at most about one request in `tau_s`. Others' samples are believed where they say that it is slow;
    /// where it is `LIKELY`, a request of our own is worth more than their word.
    fn stale(&self, now: Time, random: u32, rng: &mut impl Rng) -> Option<usize> {
        let coin = (random >> 8) as f32 / (1u32 << 24) as f32;
        if coin >= self.options.explore {
            return None;
        }
        let index = below(rng.next_u32(), self.eligible);
        let candidate = self.candidates.get(index)?;
        let old = |age_s: f32| age_s > self.options.tau_s;
        let unknown_here = candidate.link.estimate.last(now).is_none_or(|e| old(e.age_s));
        let unknown_there = || candidate.measured_at.is_none_or(|at| old(now.seconds_since(at)));
        let likely = candidate.weight * self.eligible as f32 >= LIKELY;
        (unknown_here && (likely || unknown_there())).then_some(index)
    }

    /// The cheapest of `n` draws by weight.
    fn pick_of_drawn(
        &self,
        mut draw: impl FnMut() -> Option<usize>,
        n: u16,
        tried: &[usize],
        cost: impl Fn(&Candidate) -> (f32, f32),
    ) -> Option<Choice> {
        // Draws without replacement up to a few attempts: with two endpoints, two choices mean both.
        let mut drawn = [usize::MAX; 8];
        let n = usize::from(n).min(self.eligible).min(drawn.len());
        let mut count = 0;
        for _ in 0..n * 3 {
            if count == n {
                break;
            }
            if let Some(index) = draw()
                && !tried.contains(&index)
                && !drawn.iter().take(count).any(|d| *d == index)
                && let Some(slot) = drawn.get_mut(count)
            {
                *slot = index;
                count += 1;
            }
        }
        lowest(drawn.iter().take(count).copied(), |i| self.candidates.get(i).map(&cost))
    }

    fn in_turn(&self, tried: &[usize]) -> Option<Choice> {
        let index = self.turns.get(self.turn.fetch_add(1, Relaxed) as usize % self.turns.len().max(1))?;
        let index = *index as usize;
        (!tried.contains(&index)).then_some(Choice { index, estimate_s: f32::NAN })
    }

    /// The prior and the time constant with which a latency on this candidate's link is taken in.
    #[must_use]
    pub fn decay_of(&self, candidate: &Candidate) -> (f32, f32) {
        match self.options.policy {
            Policy::Model => (candidate.prior_s, self.options.tau_s),
            _ => (0.0, PEAK_EWMA_DECAY_S),
        }
    }
}

/// How many of the eligible candidates are drawn by weight and compared; none where all are.
#[inline]
fn drawn(compare: Compare, eligible: usize) -> Option<u16> {
    match compare {
        Compare::All => None,
        Compare::Auto if eligible <= COMPARE_ALL_UP_TO => None,
        Compare::Auto => Some(DRAWN),
        Compare::Draw(n) => Some(n),
    }
}

fn lowest(indices: impl Iterator<Item = usize>, cost: impl Fn(usize) -> Option<(f32, f32)>) -> Option<Choice> {
    let mut best: Option<(f32, Choice)> = None;
    for index in indices {
        let Some((cost, estimate_s)) = cost(index) else { continue };
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, Choice { index, estimate_s }));
        }
    }
    best.map(|(_, choice)| choice)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
