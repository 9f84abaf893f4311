//! What operators see of routes from the Gateway API.

use super::hub::{Hub, Watched, name};
use super::merge::Translation;
use super::translate::{Condition, Outcome};
use crate::discovery::Fault;
use std::time::Duration;
use tokio::time::Instant;

/// Routes from the Gateway API.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayView {
    /// How each watch is.
    pub watches: Vec<WatchView>,
    /// What became of each route, the oldest first.
    pub routes: Vec<RouteView>,
    /// Rules of the table that come from there.
    pub rules: usize,
    /// Clusters that were made for it.
    pub clusters: usize,
    /// Objects that had no room.
    pub beyond: usize,
    /// Writes of a status, and those that failed.
    pub writes: (u64, u64),
}

/// A watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchView {
    /// What is watched: `httproutes`.
    pub resource: &'static str,
    /// It and where, in words.
    pub source: String,
    /// Whether it told of all that there is, once.
    pub listed: bool,
    /// Whether the API server does not know the kind, and can do without it.
    pub absent: bool,
    /// Why it fails: the reason's code and words, and for how long.
    pub trouble: Option<(Fault, String, Duration)>,
    /// Failures so far.
    pub failures: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteView {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: &'static str,
    /// `namespace/name`
    pub name: String,
    /// Which version was judged.
    pub generation: i64,
    /// `accepted`, `unresolved` (a backend cannot be found) or `refused`.
    pub state: &'static str,
    /// Of each parent what it is, and its conditions.
    pub parents: Vec<(String, ConditionView, ConditionView)>,
    /// Rules of the table that come from it.
    pub rules: usize,
    /// The older version whose rules stay.
    pub kept: Option<i64>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionView {
    /// Whether it holds.
    pub holds: bool,
    /// Why, in the API's word.
    pub reason: &'static str,
    /// Why, in words; empty where it holds.
    pub message: String,
}

impl From<&Condition> for ConditionView {
    fn from(condition: &Condition) -> Self {
        Self { holds: condition.holds, reason: condition.reason, message: condition.message.clone() }
    }
}

impl From<&Outcome> for RouteView {
    fn from(outcome: &Outcome) -> Self {
        let parents = outcome.parents.iter().map(|(parent, accepted, resolved)| {
            let namespace = parent.namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
            (format!("{} {namespace}{}", parent.kind(), parent.name), accepted.into(), resolved.into())
        });
        Self {
            kind: outcome.key.kind.name(),
            name: format!("{}/{}", outcome.key.namespace, outcome.key.name),
            generation: outcome.generation,
            state: outcome.word(),
            parents: parents.collect(),
            rules: outcome.rules,
            kept: outcome.kept,
        }
    }
}

impl GatewayView {
    pub(in crate::discovery) fn of(hub: &Hub, in_force: &Translation, outcomes: &[Outcome]) -> Self {
        let now = Instant::now();
        let watch = |(watch, watched): (super::hub::Watch, Watched)| WatchView {
            resource: watch.0.plural(),
            source: name(&watch),
            listed: watched.listed,
            absent: watched.absent,
            trouble: watched.trouble.map(|t| (t.fault, t.text, now.saturating_duration_since(t.since))),
            failures: watched.failures,
        };
        Self {
            watches: hub.watches().into_iter().map(watch).collect(),
            routes: outcomes.iter().map(RouteView::from).collect(),
            rules: in_force.routes.len(),
            clusters: in_force.clusters.len(),
            beyond: hub.beyond(),
            writes: hub.writes(),
        }
    }
}
