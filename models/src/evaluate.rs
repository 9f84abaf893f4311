//! How good a model is on samples that it never saw, beside persistence.
//!
//! **Decision accuracy**: of the groups with a choice, how often the candidate that a predictor ranks first has the
//! least intrinsic latency, or is within 2% of it. **Regret**: how much longer the chosen one takes than the best.
//! **Relative error**: the mean over candidates of |predicted - true| / true.
//!
//! Persistence predicts what was seen: the link's latency EWMA, else what the called node's other callers saw, else the
//! mean of the group's known links, else 20 ms. `median` is the same with the link's median in the first place: that is
//! the network's own anchor, what it would say with nothing learned.

use crate::Result;
use crate::data::{Batch, Candidate, Sample};
use crate::net::{FE, FN};
use crate::sim::truth::Trouble;
use crate::tensors::Candle;
use crate::weights::Weights;
use serde::Serialize;
use std::collections::BTreeMap;

/// A choice within this share of the best counts as right.
const GOOD_ENOUGH: f32 = 1.02;
/// What persistence says of a group that nothing is known of, in seconds.
const NOTHING_KNOWN_S: f32 = 0.020;

/// How well one predictor did.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Score {
    /// Candidates with a true intrinsic latency.
    pub candidates: u64,
    /// Mean relative error of the intrinsic latency.
    pub relative_error: f64,
    /// The median of the relative error: half of the candidates are closer.
    pub median_relative_error: f64,
    /// Mean absolute error of its logarithm.
    pub log_error: f64,
    /// Groups with a choice.
    pub choices: u64,
    /// Share of them in which the best was chosen, within 2%.
    pub accuracy: f64,
    /// Mean regret as a share of the best.
    pub regret: f64,
    /// Mean regret in milliseconds.
    pub regret_ms: f64,
}

/// Errors of the next window's figures.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Window {
    /// Mean relative error of the mean latency.
    pub mean_relative: f64,
    /// Mean relative error of the 99th percentile.
    pub p99_relative: f64,
    /// Mean absolute error of the jitter in milliseconds.
    pub jitter_ms: f64,
    /// Mean relative error of a node's load, plus one request a second.
    pub load_relative: f64,
}

/// All figures of one model on one set of samples.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// How many samples, of how many runs.
    pub samples: (usize, usize),
    /// Each predictor: model, persistence, median.
    pub intrinsic: BTreeMap<&'static str, Score>,
    /// By slice of candidates: relative error of each predictor, and how many.
    pub slices: BTreeMap<String, (u64, BTreeMap<&'static str, f64>)>,
    /// The next window: model and persistence.
    pub window: BTreeMap<&'static str, Window>,
}

impl Figures {
    /// What training makes small: the model's error in the logarithm and its wrong choices.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.intrinsic.get("model").map_or(f64::INFINITY, |m| m.log_error + 0.5 * m.regret)
    }

    /// The most important figures in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let of = |name: &str| self.intrinsic.get(name).copied().unwrap_or_default();
        let (model, persistence) = (of("model"), of("persistence"));
        format!(
            "relative error {:.3} (persistence {:.3}), right choice {:.1}% ({:.1}%), regret {:.1}% ({:.1}%)",
            model.relative_error,
            persistence.relative_error,
            model.accuracy * 100.0,
            persistence.accuracy * 100.0,
            model.regret * 100.0,
            persistence.regret * 100.0
        )
    }
}

/// A mean that grows.
#[derive(Debug, Clone, Copy, Default)]
struct Mean(f64, u64);

impl Mean {
    fn add(&mut self, value: f32) {
        if value.is_finite() {
            *self = Mean(self.0 + f64::from(value), self.1 + 1);
        }
    }
    fn value(self) -> f64 {
        self.0 / self.1.max(1) as f64
    }
}

#[derive(Debug, Default)]
struct Tally {
    all: Vec<f32>,
    relative: Mean,
    log: Mean,
    right: Mean,
    regret: Mean,
    regret_ms: Mean,
}

/// Measures a model.
///
/// # Errors
/// When a tensor operation fails.
pub fn figures(weights: &Weights, samples: &[Sample]) -> Result<Figures> {
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut slices: BTreeMap<String, (u64, BTreeMap<&'static str, Mean>)> = BTreeMap::new();
    let mut windows: BTreeMap<&'static str, [Mean; 4]> = BTreeMap::new();
    for chunk in samples.chunks(32) {
        let batch = Batch::new(chunk, weights.kind())?;
        let out = weights.kind().forward(&Candle::new(weights), &batch.inputs)?;
        let flat = |t: &candle_core::Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        let model_s: Vec<f32> = flat(&out.score)?.iter().map(|s| (-s).exp()).collect();
        let seen: Vec<Seen> = chunk.iter().flat_map(Seen::of).collect();
        let (ewma, median) = (persistence(&seen, &batch, |s| s.ewma), persistence(&seen, &batch, |s| s.median));
        for (name, predicted) in [("model", &model_s), ("persistence", &ewma), ("median", &median)] {
            let tally = tallies.entry(name).or_default();
            for ((candidate, predicted), seen) in batch.candidates.iter().zip(predicted).zip(&seen) {
                let off = (predicted - candidate.intrinsic_s).abs() / candidate.intrinsic_s;
                tally.relative.add(off);
                tally.all.extend(Some(off).filter(|o| o.is_finite()));
                tally.log.add((predicted / candidate.intrinsic_s).ln().abs());
                for slice in seen.slices(candidate) {
                    let entry = slices.entry(slice).or_default();
                    entry.0 += u64::from(name == "model" && off.is_finite());
                    entry.1.entry(name).or_default().add(off);
                }
            }
            choose(tally, &batch, predicted);
        }
        let (mean, p99, jitter) = (flat(&out.latency_mean_s)?, flat(&out.latency_p99_s)?, flat(&out.jitter_s)?);
        for (i, (candidate, seen)) in batch.candidates.iter().zip(&seen).enumerate() {
            let at = |values: &[f32]| values.get(i).copied().unwrap_or(f32::NAN);
            let or = |a: f32, b: f32| if a.is_nan() { b } else { a };
            let persisted = [at(&ewma), or(seen.p99, 3.0 * at(&ewma)), or(seen.jitter, at(&ewma))];
            for (name, [m, p, j]) in [("model", [at(&mean), at(&p99), at(&jitter)]), ("persistence", persisted)] {
                let [to_mean, to_p99, to_jitter, _] = windows.entry(name).or_default();
                to_mean.add((m - candidate.mean_s).abs() / candidate.mean_s);
                to_p99.add((p - candidate.p99_s).abs() / candidate.p99_s);
                to_jitter.add((j - candidate.jitter_s).abs() * 1e3);
            }
        }
        let known_load = chunk.iter().flat_map(|s| s.features.nodes.chunks_exact(FN)).map(|row| match row {
            [_, _, _, reported, _, _, _, seen, ..] => {
                [reported, seen].into_iter().find(|v| !v.is_nan()).map_or(0.0, |v| *v)
            }
            _ => 0.0,
        });
        for ((truth, predicted), known) in batch.node_load.iter().zip(flat(&out.node_load)?).zip(known_load) {
            for (name, value) in [("model", predicted), ("persistence", known)] {
                let [.., load] = windows.entry(name).or_default();
                load.add((value - truth).abs() / (truth + 1.0));
            }
        }
    }
    let runs: std::collections::BTreeSet<u64> = samples.iter().map(|s| s.run).collect();
    Ok(Figures {
        samples: (samples.len(), runs.len()),
        intrinsic: tallies.into_iter().map(|(name, t)| (name, t.score())).collect(),
        slices: slices
            .into_iter()
            .map(|(slice, (n, by))| (slice, (n, by.into_iter().map(|(name, m)| (name, m.value())).collect())))
            .collect(),
        window: windows
            .into_iter()
            .map(|(name, [mean, p99, jitter, load])| {
                let window = Window {
                    mean_relative: mean.value(),
                    p99_relative: p99.value(),
                    jitter_ms: jitter.value(),
                    load_relative: load.value(),
                };
                (name, window)
            })
            .collect(),
    })
}

impl Tally {
    fn score(mut self) -> Score {
        self.all.sort_by(f32::total_cmp);
        Score {
            candidates: self.relative.1,
            relative_error: self.relative.value(),
            median_relative_error: self.all.get(self.all.len() / 2).copied().map_or(f64::NAN, f64::from),
            log_error: self.log.value(),
            choices: self.right.1,
            accuracy: self.right.value(),
            regret: self.regret.value(),
            regret_ms: self.regret_ms.value(),
        }
    }
}

/// What was seen of a candidate's link and its called node.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ewma: f32,
    median: f32,
    p99: f32,
    jitter: f32,
    node_mean: f32,
    samples: f32,
}

impl Seen {
    fn of(sample: &Sample) -> Vec<Seen> {
        let f = &sample.features;
        let row = |link: &i64| {
            let edge = f.edge_features.chunks_exact(FE).nth(*link as usize)?;
            let node = f.edges.get(*link as usize).and_then(|n| f.nodes.chunks_exact(FN).nth(*n as usize))?;
            Some((edge, node))
        };
        let at = |row: &[f32], i: usize| row.get(i).copied().unwrap_or(f32::NAN);
        let unknown = [f32::NAN; FE];
        f.path_links
            .iter()
            .map(|link| {
                let (edge, node) = row(link).unwrap_or((&unknown, &unknown));
                Seen {
                    ewma: at(edge, 4),
                    median: at(edge, 1),
                    p99: at(edge, 3),
                    jitter: at(edge, 5),
                    node_mean: at(node, 8),
                    samples: at(edge, 9),
                }
            })
            .collect()
    }

    fn slices(&self, candidate: &Candidate) -> [String; 2] {
        let known = match self.samples {
            _ if self.ewma.is_nan() && self.node_mean.is_nan() => "link and node never seen",
            _ if self.ewma.is_nan() => "link never used",
            n if n < 5.0 => "link rarely used",
            _ => "link in use",
        };
        let trouble = match candidate.trouble {
            Trouble::None => "no trouble",
            Trouble::Link => "slow link",
            Trouble::Gray => "gray instance",
            Trouble::Downstream => "slow downstream",
        };
        [known.into(), trouble.into()]
    }
}

fn persistence(seen: &[Seen], batch: &Batch<'_>, first: fn(&Seen) -> f32) -> Vec<f32> {
    let direct = |s: &Seen| [first(s), s.node_mean].into_iter().find(|v| !v.is_nan());
    let mut groups = vec![Mean::default(); batch.group_count];
    for (seen, group) in seen.iter().zip(&batch.groups) {
        if let (Some(value), Some(mean)) = (direct(seen), groups.get_mut(*group as usize)) {
            mean.add(value);
        }
    }
    let of_group = |group: &u32| {
        let mean = groups.get(*group as usize).copied().unwrap_or_default();
        if mean.1 > 0 { mean.value() as f32 } else { NOTHING_KNOWN_S }
    };
    seen.iter().zip(&batch.groups).map(|(s, group)| direct(s).unwrap_or_else(|| of_group(group))).collect()
}

/// Counts right choices and regret, group by group.
fn choose(tally: &mut Tally, batch: &Batch<'_>, predicted: &[f32]) {
    let mut rows: Vec<(f32, f32)> = Vec::new();
    let all = batch.candidates.iter().zip(predicted).zip(&batch.groups).map(|((c, p), g)| (*g, c.intrinsic_s, *p));
    let mut group = u32::MAX;
    for (of, truth, predicted) in all.chain([(u32::MAX, f32::NAN, f32::NAN)]) {
        if of != group {
            if rows.len() > 1 {
                let best = rows.iter().map(|r| r.0).fold(f32::INFINITY, f32::min);
                let chosen = rows.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(f32::NAN, |r| r.0);
                tally.right.add(f32::from(u8::from(chosen <= best * GOOD_ENOUGH)));
                tally.regret.add(chosen / best - 1.0);
                tally.regret_ms.add((chosen - best) * 1e3);
            }
            rows.clear();
            group = of;
        }
        if truth.is_finite() {
            rows.push((truth, predicted));
        }
    }
}
