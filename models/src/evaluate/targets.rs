//! What the routing paper (edge-aware attention on DeathStarBench's Social Network) and its rivals reached, on a data set that
//! is not public: what is aimed at here, on other data.

use super::summary::Summary;
use super::tally::Figure;
use serde::Serialize;
use std::collections::BTreeMap;

/// A system's published figures: mean relative error, jitter error in milliseconds, decision accuracy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Its name.
    pub name: &'static str,
    /// In the order of `FIGURES`.
    pub values: [f64; 3],
}

/// What was published.
pub const FIGURES: [Figure; 3] = [Figure::MeanRelativeError, Figure::JitterErrorMs, Figure::DecisionAccuracy];

/// The routing paper's own figures first, which are the targets; then its table's.
pub const PUBLISHED: [Published; 4] = [
    Published { name: "the routing paper", values: [0.072, 5.92, 0.914] },
    Published { name: "GNN-DRL", values: [0.103, 7.85, 0.871] },
    Published { name: "RouteNet-Fermi", values: [0.128, 9.47, 0.823] },
    Published { name: "OSPF", values: [0.153, 11.36, 0.756] },
];

/// A target and whether it was met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Target {
    /// What was asked.
    pub target: f64,
    /// What was measured: the mean over seeds.
    pub value: f64,
    /// Whether that is at least as good.
    pub met: bool,
    /// Whether the model is better than every rival that has this figure, with a paired interval that excludes zero.
    pub beats_every_rival: bool,
}

/// The targets against a summary. `ablations` are no rivals.
#[must_use]
pub fn targets(summary: &Summary, ablations: &[String]) -> BTreeMap<&'static str, Target> {
    let [ours, ..] = PUBLISHED;
    let of = |(figure, target): (Figure, f64)| {
        let value = summary.model.value(figure);
        let met = if figure.more_is_better() { value >= target } else { value <= target };
        let mut rivals = summary.rivals.iter().filter(|l| !ablations.contains(&l.name));
        let has = |l: &&super::Line| l.pooled.count(figure) > 0;
        let beaten = |l: &super::Line| l.differences.get(&figure).is_some_and(|d| d.better);
        let beats_every_rival = rivals.by_ref().filter(has).all(beaten) && value.is_finite();
        (figure.key(), Target { target, value, met, beats_every_rival })
    };
    FIGURES.into_iter().zip(ours.values).map(of).collect()
}
