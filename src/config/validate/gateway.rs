//! Routes from Kubernetes' Gateway API: names that can be such, a template that can be one, bounds.

use super::{Findings, Path, syntax};
use crate::config::schema::{Config, Protocol, RouteMatch};

/// The most rules that may be allowed: what a reload still compiles in no time.
const MAX_RULES: usize = 20_000;
/// The most clusters: each is a watch, from each node.
const MAX_CLUSTERS: usize = 2_000;

pub fn check(config: &Config, findings: &mut Findings) {
    let (section, path) = (&config.gateway_api, Path::of(&["gateway_api"]));
    for (i, namespace) in section.namespaces.iter().enumerate() {
        let path = path.key("namespaces").index(i);
        findings.check(path.clone(), syntax::kubernetes_name(namespace));
        if section.namespaces.iter().take(i).any(|other| other == namespace) {
            findings.error(path, format!("`{namespace}` is named already"), "name it once");
        }
    }
    for (i, gateway) in section.gateways.iter().enumerate() {
        let whole = gateway.split_once('/').ok_or(());
        let good = whole.is_ok_and(|(namespace, name)| {
            syntax::kubernetes_name(namespace).is_ok()
                && name.split('.').all(|part| syntax::kubernetes_name(part).is_ok())
        });
        if !good {
            let message = format!("`{gateway}` is not a Gateway");
            findings.error(path.key("gateways").index(i), message, "write `namespace/name`, such as `infra/mesh`");
        }
    }
    findings.check(path.key("domain"), syntax::dns_name(&section.domain));
    for (key, most, bound) in
        [("most_rules", section.most_rules, MAX_RULES), ("most_clusters", section.most_clusters, MAX_CLUSTERS)]
    {
        if !(1..=bound).contains(&most) {
            findings.error(path.key(key), format!("{most} cannot be the most"), format!("write 1 to {bound}"));
        }
    }
    template(config, &path, findings);
    if !section.enabled {
        if section.status {
            let remedy = "add `enabled: true`, or remove it";
            findings.warning(path.key("status").name(), "no route is followed, so no status is written", remedy);
        }
        return;
    }
    if !cfg!(feature = "kubernetes") {
        let message = "this build cannot ask Kubernetes, so there are no routes from it";
        findings.warning(path.name(), message, "build it with `--features kubernetes`");
    }
    let hides = |matches: &RouteMatch| *matches == RouteMatch::default();
    if let Some(i) = config.routes.iter().position(|route| hides(&route.matches)) {
        let message = format!("no route of Kubernetes gets a request: `routes[{i}]` matches every one before");
        findings.warning(path.name(), message, "give that route a host, or remove it");
        findings.resting_on(Path::of(&["routes"]).index(i));
    }
}

fn template(config: &Config, path: &Path, findings: &mut Findings) {
    let Some(name) = &config.gateway_api.template else { return };
    let path = path.key("template");
    match config.clusters.get(name) {
        None => super::mesh::known(name, config, path, findings),
        Some(cluster) if cluster.protocol == Protocol::Tcp => {
            findings.error(path, format!("`{name}` is for connections, and routes are for requests"), "name another");
        }
        Some(_) => {}
    }
}
