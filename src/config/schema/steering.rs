//! Who steers a request: the model's trial against another policy, and the node's own zone.

use super::{Policy, secs};
use crate::config::units::{Share, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model's trial in `mode: canary`: it steers a share of the requests, another policy the rest, and both are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    /// The share of requests that the model steers.
    pub share: Share,
    /// The policy that steers the others; not `model`.
    pub against: Policy,
    /// How much longer the model's requests may take on average, as a share of what the others take; certainly more than this ends the trial.
    pub tolerance: Share,
    /// How long after a lost trial the model gets another; `0s` waits for another model, or a change of the `model` section.
    pub again: Timespan,
}

/// Whether endpoints of the node's own zone (`node.zone`) come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// Requests stay in the own zone while its endpoints are well and not busy; what they cannot take goes to the others.
    pub own_zone_first: bool,
    /// How many requests from this proxy are under way at an endpoint of the own zone, on average, when the zone counts as busy; so does a zone whose endpoints report more than 80% utilisation.
    pub busy_at: u32,
}

impl Default for Canary {
    fn default() -> Self {
        Self { share: Share(0.1), against: Policy::PeakEwma, tolerance: Share(0.05), again: secs(600) }
    }
}

impl Default for Locality {
    fn default() -> Self {
        Self { own_zone_first: false, busy_at: 8 }
    }
}
