//! Who steers a request: the model's trial, and the own zone.

use super::{Findings, Path};
use crate::config::schema::{Canary, Cluster, Config, Policy};

/// Two arms, each of which gets something.
pub fn canary(canary: &Canary, path: &Path, findings: &mut Findings) {
    if !(canary.share.0 > 0.0 && canary.share.0 < 1.0) {
        let message = format!("with a share of {} there is nobody to compare with", canary.share);
        findings.error(path.key("share"), message, "write more than `0%` and less than `100%`");
    }
    if canary.against == Policy::Model {
        let remedy = "name another policy: `peak_ewma`, `least_request`, `round_robin` or `random`";
        findings.error(path.key("against"), "the model cannot be compared with itself", remedy);
    }
    if !(canary.tolerance.0.is_finite() && canary.tolerance.0 >= 0.0) {
        let message = format!("{} is no tolerance", canary.tolerance);
        findings.error(path.key("tolerance"), message, "write `0%` or more; `5%` lets latencies be that much longer");
    }
}

/// A zone that is known, and has endpoints.
pub fn locality(cluster: &Cluster, config: &Config, path: &Path, findings: &mut Findings) {
    let path = path.key("locality");
    if cluster.locality.busy_at == 0 {
        findings.error(path.key("busy_at"), "an idle zone cannot count as busy", "write a number from 1");
    }
    if !cluster.locality.own_zone_first || (cluster.endpoints.is_empty() && cluster.discover.is_empty()) {
        return;
    }
    let zone = &config.node.zone;
    if zone.is_empty() {
        let remedy = "name it: `node: { zone: \"${ZONE}\" }`";
        findings.warning(path.key("own_zone_first"), "the node's own zone is not known", remedy);
    } else if cluster.discover.is_empty() && !cluster.endpoints.iter().any(|e| e.zone == *zone) {
        let message = format!("no endpoint of the cluster is in the node's zone `{zone}`");
        findings.warning(path.key("own_zone_first"), message, "check the endpoints' `zone`, and `node.zone`");
        findings.resting_on(Path::of(&["node", "zone"]));
    }
}
