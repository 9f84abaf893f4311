//! Generations, and how a request chooses an endpoint.
//!
//! A **generation** is one immutable routing table: routes, clusters, and for each (workload, cluster) a `Table` of
//! candidates with weights, predictions and health. Control publishes it through one `ArcSwap`; a request loads it
//! once and holds it to its end, so it can never see two generations, nor half of one.
//!
//! The pick (`pick.md`): among all candidates where they are few, or three drawn by weight, the lowest
//! `estimate x (in-flight + 1) / expected success`, where the estimate is this proxy's own and decays towards the
//! prior that the guarded weights give. A generation that has expired no longer steers: then the same candidates are
//! chosen by peak EWMA, without anybody having to publish that.
//!
//! On trial (`trial`), the model steers a share of the requests, and another policy the rest. Where the own zone comes
//! first (`zones`), each pick first takes a zone by chance, and then chooses within it.
//!
//! Where a cluster has an affinity, requests that belong together go to one endpoint (`maglev`) as long as that may get
//! any; the policy chooses for the others.
//!
//! The plan had `balance` know `links` alone; it also holds the `RouteTable`, so that routes and endpoints are
//! swapped by the same pointer.

mod affine;
mod alias;
mod budget;
mod candidate;
mod drawn;
mod generation;
mod maglev;
mod shortlist;
mod table;
mod trial;
mod trouble;
mod turns;
mod zones;

pub use alias::Alias;
pub use budget::{Budget, MIN_PER_SECOND};
pub use candidate::{Candidate, Endpoint, EndpointId, Health, Predicted, Why};
pub use drawn::DRAWN;
pub use generation::{Cause, Cluster, Generation, Hedging, ModelIdentity, Published, Retrying, Rung};
pub use maglev::Maglev;
pub use table::{COMPARE_ALL_UP_TO, Choice, PEAK_EWMA_DECAY_S, PEAK_EWMA_DEFAULT_S, Table, TableOptions};
pub use trial::Trial;
pub use trouble::{Fault, Unwell};
pub use zones::{Capacity, MAX_TRIES, OVERPROVISIONED, OwnZone, Zones};

#[cfg(test)]
mod swap_tests;
