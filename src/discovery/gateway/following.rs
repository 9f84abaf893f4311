//! Routes that are in force, and those that are to be.
//!
//! A route takes effect when somebody has said where its backends are, or that it cannot be said: until then all routes stay
//! as they were, so that none leads to a cluster whose endpoints are only about to be found.

use super::translate::Outcome;
use super::view::GatewayView;
use super::{Hub, Translation};
use crate::config::{Config, Discover};
use std::sync::Arc;

/// What is followed.
pub struct Following {
    hub: Arc<Hub>,
    /// What is watched.
    namespaces: Vec<String>,
    status: bool,
    in_force: Arc<Translation>,
    coming: Option<Arc<Translation>>,
    /// What became of each route, as of the last look.
    outcomes: Vec<Outcome>,
}

impl Following {
    /// Begins, with what was in force before.
    pub fn new(hub: Arc<Hub>, config: &Config, before: Option<&Self>) -> Self {
        let section = &config.gateway_api;
        Self {
            hub,
            namespaces: section.namespaces.clone(),
            status: section.status,
            in_force: before.map(|before| before.in_force.clone()).unwrap_or_default(),
            coming: None,
            outcomes: before.map(|before| before.outcomes.clone()).unwrap_or_default(),
        }
    }

    /// Whether this configuration asks for the same watches.
    pub fn is_for(&self, config: &Config) -> bool {
        let section = &config.gateway_api;
        section.enabled && section.namespaces == self.namespaces && section.status == self.status
    }

    /// What the watches tell.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Looks at what is known by now.
    pub fn look(&mut self, config: &Config) {
        let Some(next) = self.hub.translation(config) else { return };
        if self.outcomes != next.outcomes {
            for outcome in next.outcomes.iter().filter(|outcome| !self.outcomes.contains(outcome)) {
                log(outcome);
            }
            self.outcomes.clone_from(&next.outcomes);
        }
        if self.status {
            self.hub.tell(next.outcomes.clone());
        }
        self.coming = (!next.leads_as(&self.in_force)).then(|| Arc::new(next));
    }

    /// Where endpoints of what is to be in force come from.
    pub fn sources(&self) -> impl Iterator<Item = &Discover> {
        self.coming.iter().flat_map(|coming| coming.clusters.values()).flat_map(|cluster| &cluster.discover)
    }

    /// Puts in force what is to be, where of each source something is known.
    pub fn advance(&mut self, is_known: impl Fn(&Discover) -> bool) {
        let all_known = self.sources().all(is_known);
        if all_known && let Some(coming) = self.coming.take() {
            let (rules, clusters) = (coming.routes.len(), coming.clusters.len());
            tracing::info!(rules, clusters, "routes of the Gateway API changed");
            self.in_force = coming;
        }
    }

    /// What is in force.
    pub fn in_force(&self) -> &Translation {
        &self.in_force
    }

    /// What operators see of it.
    pub fn view(&self) -> GatewayView {
        GatewayView::of(&self.hub, &self.in_force, &self.outcomes)
    }
}

/// Says of a route what became of it.
fn log(outcome: &Outcome) {
    let (route, generation) = (outcome.key.to_string(), outcome.generation);
    let wrong = outcome.parents.iter().flat_map(|(_, accepted, resolved)| [accepted, resolved]).find(|c| !c.holds);
    match wrong {
        Some(why) => {
            tracing::warn!(
                route,
                generation,
                reason = why.reason,
                "the route is not followed as it is: {}",
                why.message
            );
        }
        None => tracing::debug!(route, generation, rules = outcome.rules, "the route is followed"),
    }
}
