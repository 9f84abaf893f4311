//! The figures, and the sums that they are made of.
//!
//! Every figure is a mean, so its sum and count are enough: tallies of runs, threads and seeds add up, and a bootstrap
//! draws whole runs. What is not a number (no label, no word) counts nowhere.

use serde::Serialize;

/// A figure of merit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// |predicted - observed| / observed of the next window's mean latency, over candidates.
    MeanRelativeError,
    /// |predicted - observed| of the next window's jitter in milliseconds, over candidates.
    JitterErrorMs,
    /// Share of the groups in which the best candidate was chosen, or one within 2% of it.
    DecisionAccuracy,
    /// How much longer the chosen candidate takes than the best one, in milliseconds, over groups.
    RegretMs,
    /// Spearman's rank correlation of cost and truth within a group, over groups.
    RankCorrelation,
    /// |predicted - true| / true of the intrinsic latency, over candidates.
    IntrinsicRelativeError,
    /// |ln(predicted / true)| of the intrinsic latency, over candidates.
    IntrinsicLogError,
    /// |predicted - observed| / observed of the next window's 99th percentile, over candidates.
    P99RelativeError,
    /// The regret as percent of the best candidate's latency, over groups.
    RegretPercent,
    /// |predicted - observed| / (observed + 1) of a node's requests a second, over nodes.
    LoadError,
}

impl Figure {
    /// How many there are.
    pub const COUNT: usize = 10;
    /// All, in the order of tables.
    pub const ALL: [Figure; Self::COUNT] = [
        Figure::MeanRelativeError,
        Figure::JitterErrorMs,
        Figure::DecisionAccuracy,
        Figure::RegretMs,
        Figure::RankCorrelation,
        Figure::IntrinsicRelativeError,
        Figure::IntrinsicLogError,
        Figure::P99RelativeError,
        Figure::RegretPercent,
        Figure::LoadError,
    ];
    /// Those that every report of ours has.
    pub const MAIN: [Figure; 5] = [
        Figure::MeanRelativeError,
        Figure::JitterErrorMs,
        Figure::DecisionAccuracy,
        Figure::RegretMs,
        Figure::RankCorrelation,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Figure::MeanRelativeError => "mean_relative_error",
            Figure::JitterErrorMs => "jitter_error_ms",
            Figure::DecisionAccuracy => "decision_accuracy",
            Figure::RegretMs => "regret_ms",
            Figure::RankCorrelation => "rank_correlation",
            Figure::IntrinsicRelativeError => "intrinsic_relative_error",
            Figure::IntrinsicLogError => "intrinsic_log_error",
            Figure::P99RelativeError => "p99_relative_error",
            Figure::RegretPercent => "regret_percent",
            Figure::LoadError => "load_error",
        }
    }

    /// Its name at the head of a column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Figure::MeanRelativeError => "mean rel. error",
            Figure::JitterErrorMs => "jitter error, ms",
            Figure::DecisionAccuracy => "right choice",
            Figure::RegretMs => "regret, ms",
            Figure::RankCorrelation => "rank corr.",
            Figure::IntrinsicRelativeError => "intrinsic rel. error",
            Figure::IntrinsicLogError => "intrinsic log error",
            Figure::P99RelativeError => "p99 rel. error",
            Figure::RegretPercent => "regret, %",
            Figure::LoadError => "load error",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        matches!(self, Figure::DecisionAccuracy | Figure::RankCorrelation)
    }

    /// Whether it is an error of a prediction of the next window, so that the sampling's noise is a floor of it.
    #[must_use]
    pub fn is_of_labels(self) -> bool {
        matches!(self, Figure::MeanRelativeError | Figure::JitterErrorMs | Figure::P99RelativeError)
    }

    /// A value in words of a table: three digits, shares of choices in percent, a dash where there is none.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "-".into(),
            Figure::DecisionAccuracy => format!("{:.1}%", value * 100.0),
            Figure::JitterErrorMs | Figure::RegretMs | Figure::RegretPercent => format!("{value:.2}"),
            _ => format!("{value:.3}"),
        }
    }
}

/// A mean that grows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mean {
    /// Of what was counted.
    pub sum: f64,
    /// How many were counted.
    pub count: u64,
}

impl Mean {
    /// Counts a value; not a number counts nowhere.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            *self = Self { sum: self.sum + value, count: self.count + 1 };
        }
    }

    /// The mean; NaN of nothing.
    #[must_use]
    pub fn value(self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / self.count as f64 }
    }
}

/// All figures' sums.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally([Mean; Figure::COUNT]);

impl Tally {
    /// Counts a value of a figure.
    pub fn add(&mut self, figure: Figure, value: f64) {
        if let Some(mean) = self.0.get_mut(figure as usize) {
            mean.add(value);
        }
    }

    /// Counts all that another counted.
    pub fn merge(&mut self, other: &Tally) {
        for (mean, more) in self.0.iter_mut().zip(&other.0) {
            *mean = Mean { sum: mean.sum + more.sum, count: mean.count + more.count };
        }
    }

    /// A figure; NaN where nothing was counted.
    #[must_use]
    pub fn value(&self, figure: Figure) -> f64 {
        self.mean(figure).value()
    }

    /// How many values a figure stands on.
    #[must_use]
    pub fn count(&self, figure: Figure) -> u64 {
        self.mean(figure).count
    }

    /// A figure's sum and count.
    #[must_use]
    pub fn mean(&self, figure: Figure) -> Mean {
        self.0.get(figure as usize).copied().unwrap_or_default()
    }

    /// The sum of many.
    #[must_use]
    pub fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Tally {
        tallies.into_iter().fold(Tally::default(), |mut all, tally| {
            all.merge(tally);
            all
        })
    }
}
