//! Routes from Kubernetes' Gateway API.

use super::*;
use crate::config::schema::{GatewayApi, Protocol, RouteMatch};

fn section(change: impl FnOnce(&mut GatewayApi)) -> impl FnOnce(&mut Config) {
    |config| change(&mut config.gateway_api)
}

/// Switched on, where the file's own route leaves room.
fn on(change: impl FnOnce(&mut Config)) -> impl FnOnce(&mut Config) {
    |config| {
        config.gateway_api.enabled = true;
        config.routes[0].matches = RouteMatch { host: Some("catalog.shop".into()), ..RouteMatch::default() };
        change(config);
    }
}

/// What is found of it, whatever this build can ask.
fn of(change: impl FnOnce(&mut Config)) -> Vec<(Severity, String)> {
    let mut all = after(change);
    all.retain(|(_, text)| !text.contains("this build cannot ask Kubernetes"));
    all
}

#[test]
fn names_are_those_of_kubernetes() {
    fine(section(|s| s.namespaces = vec!["shop".into(), "depot-2".into()]));
    error(
        "gateway_api.namespaces[0]: `Shop` is not a name in Kubernetes",
        section(|s| s.namespaces = vec!["Shop".into()]),
    );
    error("`shop` is named already", section(|s| s.namespaces = vec!["shop".into(), "shop".into()]));
    fine(section(|s| s.gateways = vec!["infra/mesh".into(), "infra/mesh.v2".into()]));
    for wrong in ["mesh", "infra/", "/mesh", "infra/Mesh", "a/b/c"] {
        error("is not a Gateway", section(|s| s.gateways = vec![wrong.into()]));
    }
    fine(section(|s| s.domain = "mesh.example".into()));
    error("gateway_api.domain: ", section(|s| s.domain = "mesh example".into()));
}

#[test]
fn there_is_room_for_some_and_not_for_any_number() {
    fine(section(|s| (s.most_rules, s.most_clusters) = (1, 1)));
    fine(section(|s| (s.most_rules, s.most_clusters) = (20_000, 2_000)));
    error("gateway_api.most_rules: 0 cannot be the most", section(|s| s.most_rules = 0));
    error("gateway_api.most_rules: 20001", section(|s| s.most_rules = 20_001));
    error("gateway_api.most_clusters: 0 ", section(|s| s.most_clusters = 0));
    error("gateway_api.most_clusters: 2001", section(|s| s.most_clusters = 2_001));
}

#[test]
fn a_template_is_a_cluster_for_requests_and_needs_neither_routes_nor_endpoints() {
    let template = |name: &str, protocol| {
        let name = name.to_owned();
        on(move |config| {
            config.gateway_api.template = Some(name);
            let mut cluster = config.clusters["catalog"].clone();
            cluster.endpoints.clear();
            cluster.protocol = protocol;
            config.clusters.insert("settings".into(), cluster);
        })
    };
    assert_eq!(of(template("settings", Protocol::Http2)), []);
    let wrong = of(template("settings", Protocol::Tcp));
    assert!(wrong.len() == 1 && wrong[0].1.contains("`settings` is for connections"), "{wrong:?}");
    let unknown = of(template("setings", Protocol::Http1));
    assert!(unknown.iter().any(|(_, text)| text.contains("there is no cluster `setings` / did you mean `settings`?")));
}

#[test]
fn what_hides_every_route_is_said() {
    assert_eq!(of(on(|_| {})), []);
    let hidden = of(on(|config| config.routes[0].matches = RouteMatch::default()));
    assert!(
        hidden.len() == 1 && hidden[0].1.contains("no route of Kubernetes gets a request: `routes[0]`"),
        "{hidden:?}"
    );
    assert_eq!(
        of(on(|config| (config.routes, config.clusters) = Default::default())),
        [],
        "those of Kubernetes are enough"
    );
    warning("gateway_api.status!: no route is followed", section(|s| s.status = true));
}
