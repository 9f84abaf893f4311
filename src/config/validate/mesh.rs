//! What can only be judged together: workloads, routes and clusters, their names and their addresses.

use super::connections::is_for_tcp;
use super::syntax::{self, MAX_NAME};
use super::{Findings, Path, steering, traffic};
use super::{discover, resilience};
use crate::config::diagnostic::MAX_FINDINGS;
use crate::config::schema::{AdminAddress, Cluster, Config, Endpoint, Route, RouteMatch};
use crate::config::suggest::nearest;
use crate::config::units::SourceNet;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

/// Facts about an endpoint are shown, not stored in bulk.
pub const MAX_METADATA: usize = 64;
/// The longest key of a fact, in bytes.
pub const MAX_METADATA_KEY: usize = 128;
/// The longest value of a fact, in bytes.
pub const MAX_METADATA_VALUE: usize = 1_024;
/// Weights are relative: a million steps are fine enough, and their sum stays far from overflow.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// How far from 100% a split's shares may add up: what decimal shares lose as binary numbers.
const SPLIT_TOLERANCE: f64 = 1e-9;

pub fn check(config: &Config, findings: &mut Findings) {
    workloads(config, findings);
    routes(config, findings);
    clusters(config, findings);
}

fn workloads(config: &Config, findings: &mut Findings) {
    let section = Path::of(&["workloads"]);
    if config.workloads.is_empty() {
        let remedy = "add one: `workloads: { frontend: { listen: 127.0.0.1:15001 } }`";
        findings.warning(section.name(), "there are no workloads, so no request can come in", remedy);
    }
    let mut sources: HashMap<(SocketAddr, Option<SourceNet>), &str> = HashMap::new();
    let mut serving: HashMap<SocketAddr, &str> = HashMap::new();
    for (name, workload) in &config.workloads {
        let path = section.key(name);
        findings.check(path.name(), syntax::name(name));
        if !workload.service.is_empty() {
            findings.check(path.key("service"), syntax::name(&workload.service));
        }
        match workload.listen {
            None => {
                let remedy = "add the address on which its requests come in: `listen: 127.0.0.1:15001`";
                findings.error(path.name(), format!("the workload `{name}` has no `listen`"), remedy);
            }
            Some(listen) => {
                if let AdminAddress::Tcp(admin) = config.admin.listen {
                    beside_admin(&path.key("listen"), listen, admin, "listen", findings);
                }
                if let Some(metrics) = config.admin.metrics {
                    beside_admin(&path.key("listen"), listen, metrics, "metrics", findings);
                }
                if let Some(other) = sources.insert((listen, workload.source), name) {
                    told_apart(&path, listen, workload.source, other, findings);
                }
            }
        }
        if let Some(serves) = workload.serves {
            connectable(&path.key("serves"), serves, findings);
            if let Some(other) = serving.insert(serves, name) {
                let message = format!("`{other}` serves {serves} already");
                let remedy = "give each workload the address at which it alone can be reached";
                findings.error(path.key("serves"), message, remedy);
            }
        }
    }
    never_to_itself(config, findings);
}

/// A listener belongs to one workload, or its workloads differ by where requests come from.
fn told_apart(path: &Path, listen: SocketAddr, source: Option<SourceNet>, other: &str, findings: &mut Findings) {
    // Port 0 is a port of its own for each who asks.
    if listen.port() == 0 {
        return;
    }
    match source {
        None => {
            let message = format!("`{other}` listens on {listen} too, and nothing tells the two apart");
            findings.error(path.key("listen"), message, "give each a `source`, or a listener of its own");
        }
        Some(source) => {
            let message = format!("`{other}` has the source {source} on {listen} too");
            let remedy = "give each workload its own source addresses, or a listener of its own";
            findings.error(path.key("source"), message, remedy);
        }
    }
}

/// An address on which the proxy listens is nobody's endpoint: what was sent there would come back for ever.
fn never_to_itself(config: &Config, findings: &mut Findings) {
    let listening: HashSet<SocketAddr> = config.workloads.values().filter_map(|workload| workload.listen).collect();
    let own = |address: SocketAddr| address.port() != 0 && listening.contains(&address);
    for (name, workload) in &config.workloads {
        if let Some(serves) = workload.serves.filter(|serves| own(*serves)) {
            let message = format!("{serves} is where this proxy listens, not where the workload is reached");
            findings.error(Path::of(&["workloads", name, "serves"]), message, "write the workload's own address");
        }
    }
    for (name, cluster) in &config.clusters {
        for (i, endpoint) in cluster.endpoints.iter().enumerate().filter(|(_, endpoint)| own(endpoint.address)) {
            let path = Path::of(&["clusters", name, "endpoints"]).index(i).key("address");
            let address = endpoint.address;
            let message = format!("the proxy listens on {address} itself, so a request would go round for ever");
            findings.error(path, message, "write the address of the service behind it");
        }
    }
}

/// The operators' ports, named by their keys, are nobody's listener.
fn beside_admin(path: &Path, listen: SocketAddr, admin: SocketAddr, key: &str, findings: &mut Findings) {
    if listen.port() == 0 || listen.port() != admin.port() {
        return;
    }
    if listen == admin {
        let (message, remedy) =
            (format!("{listen} is the admin port"), format!("listen elsewhere, or move `admin.{key}`"));
        findings.error(path.clone(), message, remedy);
        findings.resting_on(Path::of(&["admin"]));
    } else if listen.ip().is_unspecified() || admin.ip().is_unspecified() {
        findings.warning(path.clone(), format!("{listen} and the admin port {admin} share a port"), "use two ports");
    }
}

fn routes(config: &Config, findings: &mut Findings) {
    let section = Path::of(&["routes"]);
    if config.routes.is_empty() && !config.captures() && !config.gateway_api.enabled {
        let remedy = "add one: `routes: [{ cluster: catalog }]`";
        findings.warning(section.name(), "there are no routes, so every request is answered with 404", remedy);
    }
    // Routes for connections and routes for requests are in nobody's way but their own kind's.
    let (mut all_requests, mut all_connections) = (None, None);
    let mut conditioned: HashMap<(bool, &RouteMatch), usize> = HashMap::new();
    for (i, route) in config.routes.iter().enumerate() {
        let path = section.index(i);
        destination(route, config, &path, findings);
        conditions(&route.matches, &path.key("match"), findings);
        traffic::route(route, &path, findings);
        if let Some(cluster) = &route.mirror.cluster {
            known(cluster, config, path.key("mirror").key("cluster"), findings);
        }
        let tcp = is_for_tcp(config, route);
        let catch_all = if tcp { &mut all_connections } else { &mut all_requests };
        if let Some(first) = *catch_all {
            let message = format!("no request gets here: `routes[{first}]` matches every one before");
            findings.warning(path, message, "move the route that matches everything to the end");
            findings.resting_on(section.index(first));
        } else if let Some(same) = conditioned.get(&(tcp, &route.matches)) {
            let message = format!("no request gets here: `routes[{same}]` has the same conditions");
            findings.warning(path, message, "remove one of them");
            findings.resting_on(section.index(*same));
        } else if route.matches == RouteMatch::default() {
            *catch_all = Some(i);
        }
        conditioned.entry((tcp, &route.matches)).or_insert(i);
    }
}

/// Exactly one of `cluster` and `split`, each name known, the shares the whole.
fn destination(route: &Route, config: &Config, path: &Path, findings: &mut Findings) {
    match (&route.cluster, route.split.is_empty()) {
        (None, true) if route.redirect.is_set() => {}
        (None, true) => findings.error(
            path.clone(),
            "the route leads nowhere",
            "add `cluster: name`, or `split: { one: 90%, other: 10% }`",
        ),
        (Some(_), false) => {
            findings.error(path.key("split").name(), "the route has both `cluster` and `split`", "keep one of them")
        }
        (Some(cluster), true) => known(cluster, config, path.key("cluster"), findings),
        (None, false) => {
            for cluster in route.split.keys() {
                known(cluster, config, path.key("split").key(cluster).name(), findings);
            }
            let total: f64 = route.split.values().map(|share| share.0).sum();
            let shares = route.split.values().all(|share| (0.0..=1.0).contains(&share.0));
            if !shares || (total - 1.0).abs() > SPLIT_TOLERANCE {
                // Six decimals of a percent are more than anybody wrote, and hide what binary numbers lose.
                let total = format!("{:.6}", total * 100.0);
                let total = total.trim_end_matches('0').trim_end_matches('.');
                findings.error(
                    path.key("split").name(),
                    format!("the shares add up to {total}%"),
                    "make them add up to 100%",
                );
            }
        }
    }
}

pub(super) fn known(name: &str, config: &Config, path: Path, findings: &mut Findings) {
    if config.clusters.contains_key(name) {
        return;
    }
    // Comparing with every name takes time, and nobody reads a thousandth suggestion.
    let near =
        if findings.0.len() < MAX_FINDINGS { nearest(name, config.clusters.keys().map(String::as_str)) } else { None };
    let remedy = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add `{name}` to `clusters`"),
    };
    findings.error(path, format!("there is no cluster `{name}`"), remedy);
    findings.resting_on(Path::of(&["clusters", name]));
}

fn conditions(matches: &RouteMatch, path: &Path, findings: &mut Findings) {
    if let Some(host) = &matches.host {
        findings.check(path.key("host"), syntax::host(host));
    }
    if let Some(exact) = &matches.path {
        findings.check(path.key("path"), syntax::path(exact));
    }
    if let Some(prefix) = &matches.path_prefix {
        findings.check(path.key("path_prefix"), syntax::path(prefix));
        if matches.path.is_some() {
            findings.error(
                path.key("path_prefix").name(),
                "the route has both `path` and `path_prefix`",
                "keep one of them",
            );
        }
    }
    if let Some(regex) = &matches.path_regex {
        findings.check(path.key("path_regex"), syntax::pattern(regex));
        let other = matches.path.as_ref().map(|_| "path").or(matches.path_prefix.as_ref().map(|_| "path_prefix"));
        if let Some(other) = other {
            let message = format!("the route has both `{other}` and `path_regex`");
            findings.error(path.key("path_regex").name(), message, "keep one of them");
        }
    }
    match matches.method.as_deref().map(syntax::method) {
        None | Some(Ok(None)) => {}
        Some(Ok(Some(doubt))) => findings.warning(path.key("method"), doubt.message, doubt.remedy),
        Some(Err(wrong)) => findings.error(path.key("method"), wrong.message, wrong.remedy),
    }
    for (name, value) in &matches.cookies {
        findings.check(path.key("cookies").key(name).name(), syntax::cookie_name(name));
        findings.check(path.key("cookies").key(name), syntax::cookie_value(value));
    }
    for (key, parameters) in [("query", &matches.query), ("query_regex", &matches.query_regex)] {
        for name in parameters.keys().filter(|name| name.is_empty()) {
            findings.error(path.key(key).key(name).name(), "a parameter of the query needs a name", "name it");
        }
    }
    for (name, regex) in &matches.query_regex {
        findings.check(path.key("query_regex").key(name), syntax::pattern(regex));
    }
    headers(&matches.headers, &path.key("headers"), syntax::header_value, findings);
    headers(&matches.headers_regex, &path.key("headers_regex"), syntax::pattern, findings);
}

/// Headers, each of them once, and what each must be.
fn headers(
    wanted: &BTreeMap<String, String>,
    path: &Path,
    check: impl Fn(&str) -> Result<(), syntax::Wrong>,
    findings: &mut Findings,
) {
    let mut folded: HashMap<String, &str> = HashMap::new();
    for (name, value) in wanted {
        let header = path.key(name);
        findings.check(header.name(), syntax::header_name(name));
        findings.check(header.clone(), check(value));
        if let Some(other) = folded.insert(name.to_ascii_lowercase(), name) {
            findings.error(header.name(), format!("`{name}` and `{other}` are the same header"), "keep one of them");
        }
    }
}

fn clusters(config: &Config, findings: &mut Findings) {
    let single = config.routes.iter().filter_map(|route| route.cluster.as_deref());
    let split = config.routes.iter().flat_map(|route| route.split.keys().map(String::as_str));
    let mirrored = config.routes.iter().filter_map(|route| route.mirror.cluster.as_deref());
    let routed: HashSet<&str> = single.chain(split).chain(mirrored).collect();
    for (name, cluster) in &config.clusters {
        let path = Path::of(&["clusters", name]);
        findings.check(path.name(), syntax::name(name));
        if !cluster.service.is_empty() {
            findings.check(path.key("service"), syntax::name(&cluster.service));
        }
        if is_template(config, name) {
            // Its endpoints, if it has any, are nobody's business.
        } else if !config.routes.is_empty() && !config.captures() && !routed.contains(name.as_str()) {
            findings.warning(path.name(), format!("no route leads to `{name}`"), "add a route, or remove the cluster");
            findings.resting_on(Path::of(&["routes"]));
        }
        endpoints(name, cluster, is_template(config, name), &path, findings);
        discover::sources(cluster, &path, findings);
        resilience::check(cluster, &path, findings);
        traffic::affinity(cluster, &path, findings);
        steering::locality(cluster, config, &path, findings);
    }
}

/// Whether a cluster is there for others to take its settings.
fn is_template(config: &Config, name: &str) -> bool {
    config.gateway_api.enabled && config.gateway_api.template.as_deref() == Some(name)
}

fn endpoints(name: &str, cluster: &Cluster, template: bool, path: &Path, findings: &mut Findings) {
    // What is discovered is not known here, and a template needs none.
    if cluster.discover.is_empty() && !template {
        if cluster.endpoints.is_empty() {
            let message = format!("`{name}` has no endpoints, so its requests are answered with 503");
            let remedy = "add `endpoints: [{ address: 10.1.2.3:8080 }]`, or where to find them: `discover`";
            findings.warning(path.name(), message, remedy);
        } else if cluster.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            let message = format!("every endpoint of `{name}` has the weight 0, so its requests are answered with 503");
            findings.warning(path.key("endpoints").name(), message, "give one of them a weight above 0");
        }
    }
    each_endpoint(&format!("`{name}`"), &cluster.endpoints, path, findings);
}

/// Endpoints one by one, those of a cluster or of a file.
pub(super) fn each_endpoint(home: &str, endpoints: &[Endpoint], path: &Path, findings: &mut Findings) {
    let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.key("endpoints").index(i);
        connectable(&path.key("address"), endpoint.address, findings);
        if let Some(first) = seen.insert(endpoint.address, i) {
            let message = format!("{} is endpoint {} of {home} already", endpoint.address, first + 1);
            findings.error(path.key("address"), message, "list it once; give it more `weight` if it should get more");
        }
        facts(endpoint, &path, findings);
    }
}

fn facts(endpoint: &Endpoint, path: &Path, findings: &mut Findings) {
    findings.check(path.key("zone"), syntax::text(&endpoint.zone, MAX_NAME));
    findings.check(path.key("host"), syntax::text(&endpoint.host, MAX_NAME));
    if endpoint.weight > MAX_WEIGHT {
        findings.error(
            path.key("weight"),
            format!("the weight {} is too large", endpoint.weight),
            format!("write 0 to {MAX_WEIGHT}; only the relation counts"),
        );
    }
    let metadata = path.key("metadata");
    if endpoint.metadata.len() > MAX_METADATA {
        findings.error(
            metadata.name(),
            format!("{} facts about an endpoint are too many", endpoint.metadata.len()),
            format!("keep at most {MAX_METADATA}"),
        );
    }
    labels(&endpoint.metadata, &metadata, findings);
}

fn labels(labels: &BTreeMap<String, String>, path: &Path, findings: &mut Findings) {
    for (key, value) in labels {
        if key.is_empty() {
            findings.error(path.key(key).name(), "a fact needs a key", "name it");
        }
        findings.check(path.key(key).name(), syntax::text(key, MAX_METADATA_KEY));
        findings.check(path.key(key), syntax::text(value, MAX_METADATA_VALUE));
    }
}

/// An address to which a connection can be opened.
pub(super) fn connectable(path: &Path, address: SocketAddr, findings: &mut Findings) {
    if address.port() == 0 {
        findings.error(
            path.clone(),
            format!("{address} has the port 0, to which nobody can connect"),
            "write the port that the service listens on",
        );
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        findings.error(
            path.clone(),
            format!("{} is not an address of one machine", address.ip()),
            "write the address at which the service is reached",
        );
    }
}
