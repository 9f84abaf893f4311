//! Who steers a request: the model's trial, and the own zone.

use super::*;
use crate::config::schema::{Cluster, Policy};
use crate::config::units::Share;

#[test]
fn a_trial_has_two_arms_and_a_tolerance() {
    for share in [0.001, 0.5, 0.999] {
        fine(|c| c.model.canary.share = Share(share));
    }
    for share in [0.0, 1.0, -0.1, 1.1, f64::NAN] {
        error("model.canary.share: with a share of", |c| c.model.canary.share = Share(share));
    }
    for policy in [Policy::PeakEwma, Policy::LeastRequest, Policy::RoundRobin, Policy::Random] {
        fine(|c| c.model.canary.against = policy);
    }
    error("model.canary.against: the model cannot be compared with itself", |c| {
        c.model.canary.against = Policy::Model;
    });
    fine(|c| c.model.canary.tolerance = Share(0.0));
    for tolerance in [-0.01, f64::INFINITY, f64::NAN] {
        error("model.canary.tolerance:", |c| c.model.canary.tolerance = Share(tolerance));
    }
    fine(|c| c.model.canary.again = ms(0));
}

#[test]
fn an_own_zone_is_known_and_has_endpoints() {
    fn catalog(c: &mut Config) -> &mut Cluster {
        c.clusters.get_mut("catalog").unwrap()
    }
    error("clusters.catalog.locality.busy_at: an idle zone cannot count as busy", |c| {
        catalog(c).locality.busy_at = 0;
    });
    warning("own_zone_first: the node's own zone is not known", |c| catalog(c).locality.own_zone_first = true);
    warning("own_zone_first: no endpoint of the cluster is in the node's zone `a`", |c| {
        c.node.zone = "a".into();
        catalog(c).locality.own_zone_first = true;
    });
    fine(|c| {
        c.node.zone = "a".into();
        catalog(c).locality.own_zone_first = true;
        catalog(c).endpoints[0].zone = "a".into();
    });
}
