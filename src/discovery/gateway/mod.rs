//! Routes from Kubernetes' Gateway API: HTTPRoutes and GRPCRoutes, and the Services that they name.
//!
//! ```text
//! watches (`kubernetes::objects`) --objects--> Hub --translate--> Translation: rules, clusters, what became of each route
//!                                               ^                       |
//!            status (`kubernetes::status`) -----+                       v
//!                                                     the file's configuration + these, and on as a reload does
//! ```
//! | file | what it holds |
//! | --- | --- |
//! | `types` | the API's objects, as far as they are used |
//! | `rules` | one rule: matches, filters, times |
//! | `backend` | a Service and its port, as a cluster |
//! | `translate` | parents, backends, order, what is refused and why |
//! | `grants` | ReferenceGrants: who may lead to a Service of another namespace |
//! | `hub` | what is known |
//! | `merge` | what is made of all of it together |
//! | `following` | what is in force, and what is to be |
//! | `conditions` | what is written into a route's status |
//! | `view` | what operators see of it |
//!
//! **When something is wrong.** A watch that fails keeps what it told last. A route that cannot be followed is refused alone,
//! with the reason; where an earlier version of it was followed, that one's rules stay until there is a good one, and it says
//! so. Nothing is made before the Services were listed once, and nothing is taken away because one kind cannot be asked.
//!
//! What it deliberately does not do: read Gateways or policies; know who calls (a route for the callers of
//! one namespace); watch more than it needs.

#![cfg_attr(not(feature = "kubernetes"), allow(dead_code, reason = "nobody tells of any route then"))]

mod backend;
mod conditions;
mod following;
mod grants;
mod hub;
mod merge;
mod rules;
#[cfg(test)]
mod tests;
mod translate;
mod types;
mod view;

#[cfg(feature = "kubernetes")]
pub(super) use conditions::patch;
pub(super) use following::Following;
pub(super) use hub::Hub;
#[cfg(any(test, feature = "kubernetes"))]
pub(super) use hub::Resource;
pub(super) use merge::Translation;
pub use translate::ROUTE_REASONS;
#[cfg(feature = "kubernetes")]
pub(super) use types::Key;
#[cfg(any(test, feature = "kubernetes"))]
pub(super) use types::Kind;
pub use view::{ConditionView, GatewayView, RouteView, WatchView};

use crate::config::Config;
use std::sync::Arc;

/// The configuration with the routes of a translation behind its own. A cluster of the file goes before one of the same name.
pub(super) fn with(config: &Arc<Config>, translation: &Translation) -> Arc<Config> {
    if translation.routes.is_empty() && translation.clusters.is_empty() {
        return config.clone();
    }
    let mut whole = Config::clone(config);
    whole.routes.extend(translation.routes.iter().cloned());
    for (name, cluster) in &translation.clusters {
        whole.clusters.entry(name.clone()).or_insert_with(|| cluster.clone());
    }
    Arc::new(whole)
}
