//! The YAML's keys of overload: a cluster's limits, priorities, rate limits.

use super::units::{Rate, Share, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many requests a cluster takes at once, and what happens to the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// How many requests may be under way, from all workloads together: `auto` (learnt from their latency), `off`, or a number. Beyond it those of the lowest priority are refused with 503.
    pub concurrency: Concurrency,
    /// How many requests may wait for a place while there is none; 0 lets none wait.
    pub pending: u32,
    /// How long a request may wait for a place.
    pub wait: Timespan,
    /// How many connections each endpoint may have, from all serving threads together: `off`, or a number. A thread that has none may open one all the same.
    pub connections: OffOr,
}

/// How many requests a cluster takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Concurrency {
    /// As many as come.
    ///
    /// The default, because a limit that is learnt can only guess what is too slow: where no deadline is known a slow
    /// answer is worth more than none, and a proxy must never make things worse.
    #[default]
    Off,
    /// Learnt from their latency.
    Auto,
    /// So many.
    Limit(u32),
}

/// A number, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffOr {
    /// No limit.
    #[default]
    Off,
    /// So many.
    Set(u32),
}

/// How important a request is while its cluster is overloaded: `P = resources R + urgency T + depth D`, each by its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Priority {
    /// How much each of the three counts; only the relation does.
    pub weights: PriorityWeights,
    /// The classes of requests, by name; writing any replaces the built-in `critical`, `normal` and `background`. A route names its requests' class, and a trusted workload each request's in the header `x-pathloom-class`.
    pub classes: BTreeMap<String, PriorityClass>,
    /// The class of requests that nobody gave one.
    pub default: String,
}

/// How much each part of a priority counts. A negative weight turns its part round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PriorityWeights {
    /// Of what requests need (alpha): above 0 the costly ones come first, because refusing them wastes most; below 0 last.
    pub resources: f64,
    /// Of how soon they must be answered (beta).
    pub urgency: f64,
    /// Of how deep in a chain of calls they are (gamma): refusing a deep one wastes what was done before it.
    pub depth: f64,
}

/// What the requests of a class are like, each as a share of the most there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PriorityClass {
    /// What they need of the service (R).
    pub resources: Share,
    /// How soon they must be answered (T).
    pub urgency: Share,
    /// How deep in a chain of calls they are (D), where a request does not say so itself: in the header `x-pathloom-depth`, which is counted up here and which services pass on; 8 hops are 100%.
    pub depth: Share,
}

/// How many requests may come in, and how many at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The rate that lasts: `100/s`, `600/m` or `1000/h`. Beyond it requests are refused with 429.
    pub requests: Rate,
    /// How many may come at once after a pause; what comes in a second when nothing is said.
    #[serde(default)]
    pub burst: Option<u32>,
}

impl Default for Admission {
    fn default() -> Self {
        let wait = Timespan(std::time::Duration::from_millis(20));
        Self { concurrency: Concurrency::Off, pending: 100, wait, connections: OffOr::Off }
    }
}

impl Default for Priority {
    fn default() -> Self {
        let class = |name: &str, urgency| {
            (name.to_owned(), PriorityClass { urgency: Share(urgency), ..PriorityClass::default() })
        };
        Self {
            weights: PriorityWeights::default(),
            classes: BTreeMap::from([class("critical", 1.0), class("normal", 0.5), class("background", 0.0)]),
            default: "normal".into(),
        }
    }
}

impl Default for PriorityWeights {
    fn default() -> Self {
        Self { resources: 0.2, urgency: 0.6, depth: 0.2 }
    }
}

impl Default for PriorityClass {
    fn default() -> Self {
        Self { resources: Share(0.5), urgency: Share(0.5), depth: Share(0.0) }
    }
}
