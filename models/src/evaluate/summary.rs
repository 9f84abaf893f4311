//! What is said of several seeds' reports: means with intervals, differences from the model, slices; as JSON (and as text: `text`).

use super::figures::{Errors, Measured, Report};
use super::slices::Slice;
use super::stats::{Difference, Interval, paired};
use super::tally::{Figure, Tally};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Each run's tally by its seed and its number.
pub type Runs = BTreeMap<(u64, u64), Tally>;

/// One predictor over all seeds.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Pooled over all runs of all seeds.
    pub pooled: Tally,
    /// For each figure, over seeds.
    pub intervals: BTreeMap<Figure, Interval>,
    /// The model less this, for each figure that both have.
    pub differences: BTreeMap<Figure, Difference>,
    /// For each slice, pooled.
    pub slices: BTreeMap<Slice, Tally>,
    /// The distribution of relative errors.
    pub errors: Errors,
    /// Observed and predicted means, in seconds.
    pub points: Vec<(f32, f32)>,
}

/// All predictors over all seeds.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The first that was measured.
    pub model: Line,
    /// The others, in order.
    pub rivals: Vec<Line>,
    /// The oracle.
    pub floor: Line,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// How many runs and samples.
    pub runs: usize,
    /// Likewise.
    pub samples: usize,
}

impl Summary {
    /// Sums up one report a seed. `seed` is the bootstrap's own. None without a predictor.
    #[must_use]
    pub fn of(reports: &[(u64, Report)], seed: u64) -> Option<Self> {
        let first = &reports.first()?.1;
        let names: Vec<&str> = first.predictors.iter().map(|m| m.name.as_str()).collect();
        let lines = (0..names.len()).map(|i| {
            let of: Vec<(u64, &Measured)> =
                reports.iter().filter_map(|(s, r)| r.predictors.get(i).map(|m| (*s, m))).collect();
            (line(&of), by_run(&of))
        });
        let mut lines: Vec<(Line, Runs)> = lines.collect();
        if lines.is_empty() {
            return None;
        }
        let (model, of_model) = lines.remove(0);
        let rivals = lines.into_iter().map(|(mut line, of_line)| {
            let found = Figure::ALL.iter().filter_map(|f| Some((*f, paired(&of_model, &of_line, *f, seed)?)));
            line.differences = found.collect();
            line
        });
        let floor: Vec<(u64, &Measured)> = reports.iter().map(|(s, r)| (*s, &r.floor)).collect();
        Some(Self {
            rivals: rivals.collect(),
            floor: line(&floor),
            seeds: reports.iter().map(|(s, _)| *s).collect(),
            runs: of_model.len(),
            samples: reports.iter().map(|(_, r)| r.samples).sum(),
            model,
        })
    }

    /// How many decisions were judged.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.model.pooled.count(Figure::DecisionAccuracy)
    }

    /// All lines, the model's first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.model).chain(&self.rivals)
    }

    /// The figures as JSON: the keys that were promised, and beside them `further`, `intervals`, `differences`,
    /// `slices`, `candidates`, `runs` and `samples`. What is unknown is null.
    #[must_use]
    pub fn json(&self) -> Value {
        let main = |line: &Line| keyed(Figure::MAIN.iter().map(|f| (f.key(), json!(line.value(*f)))));
        let by_name = |of: &dyn Fn(&Line) -> Value| keyed(self.lines().map(|l| (l.name.as_str(), of(l))));
        let further = |l: &Line| {
            let figures = Figure::ALL.iter().filter(|f| !Figure::MAIN.contains(f));
            let mut all = keyed(figures.map(|f| (f.key(), json!(l.value(*f)))));
            if let Value::Object(all) = &mut all {
                all.insert("median_relative_error".into(), json!(l.errors.median()));
            }
            all
        };
        let intervals = |l: &Line| keyed(l.intervals.iter().map(|(f, i)| (f.key(), json!(i))));
        let differences = |l: &Line| keyed(l.differences.iter().map(|(f, d)| (f.key(), json!(d))));
        let mut floor = main(&self.floor);
        if let Value::Object(floor) = &mut floor {
            floor.insert("candidates".into(), json!(self.floor.pooled.count(Figure::MeanRelativeError)));
            floor.insert("intervals".into(), intervals(&self.floor));
        }
        let slices = self.slices().into_iter().map(|slice| {
            let of = |l: &Line| {
                let tally = l.slices.get(&slice).copied().unwrap_or_default();
                keyed(
                    Figure::ALL.iter().filter(|f| **f != Figure::LoadError).map(|f| (f.key(), json!(tally.value(*f)))),
                )
            };
            let model = self.model.slices.get(&slice).copied().unwrap_or_default();
            let value = json!({
                "candidates": model.count(Figure::MeanRelativeError),
                "decisions": model.count(Figure::DecisionAccuracy),
                "figures": by_name(&of),
            });
            let value = with(value, "noise_floor", slice.is_of_label().then(|| of(&self.floor)));
            (slice.name(), value)
        });
        json!({
            "model": main(&self.model),
            "rivals": keyed(self.rivals.iter().map(|l| (l.name.as_str(), main(l)))),
            "noise_floor": floor,
            "decisions": self.decisions(),
            "seeds": self.seeds,
            "further": by_name(&further),
            "intervals": by_name(&intervals),
            "differences": keyed(self.rivals.iter().map(|l| (l.name.as_str(), differences(l)))),
            "slices": slices.collect::<Map<String, Value>>(),
            "candidates": self.model.pooled.count(Figure::MeanRelativeError),
            "runs": self.runs,
            "samples": self.samples,
        })
    }

    /// All slices that occur.
    pub(super) fn slices(&self) -> BTreeSet<Slice> {
        self.lines().flat_map(|l| l.slices.keys().copied()).collect()
    }
}

impl Line {
    /// A figure: the mean over seeds where there are several, else the pooled one.
    #[must_use]
    pub fn value(&self, figure: Figure) -> f64 {
        self.intervals.get(&figure).filter(|i| i.seeds > 1).map_or_else(|| self.pooled.value(figure), |i| i.mean)
    }
}

/// An object with one more entry, if there is one.
fn with(mut value: Value, key: &str, more: Option<Value>) -> Value {
    if let (Value::Object(all), Some(more)) = (&mut value, more) {
        all.insert(key.into(), more);
    }
    value
}

fn keyed<'a>(values: impl Iterator<Item = (&'a str, Value)>) -> Value {
    Value::Object(values.map(|(name, value)| (name.to_string(), value)).collect())
}

/// Each run by its seed and its number: runs of two seeds never meet.
fn by_run(of: &[(u64, &Measured)]) -> Runs {
    of.iter().flat_map(|(seed, m)| m.runs.iter().map(|(run, tally)| ((*seed, *run), *tally))).collect()
}

fn line(of: &[(u64, &Measured)]) -> Line {
    let pooled: Vec<Tally> = of.iter().map(|(_, m)| m.pooled()).collect();
    let interval = |f: &Figure| (*f, Interval::of(&pooled.iter().map(|t| t.value(*f)).collect::<Vec<_>>()));
    let mut slices: BTreeMap<Slice, Tally> = BTreeMap::new();
    let mut errors = Errors::default();
    for (_, measured) in of {
        measured.slices.iter().for_each(|(slice, tally)| slices.entry(*slice).or_default().merge(tally));
        errors.merge(&measured.errors);
    }
    Line {
        name: of.first().map(|(_, m)| m.name.clone()).unwrap_or_default(),
        pooled: Tally::of(&pooled),
        intervals: Figure::ALL.iter().map(interval).collect(),
        differences: BTreeMap::new(),
        slices,
        errors,
        points: of.iter().flat_map(|(_, m)| m.points.iter().copied()).collect(),
    }
}
