//! Connections: what a listener's workloads say of it alike, routes that are for TCP or for requests, capture.

use super::{Findings, Path};
use crate::config::admission::Concurrency;
use crate::config::schema::{
    CaptureMode, CapturedPods, Cluster, ClusterTls, Config, ListenerProtocol, Protocol, Route, RouteMatch, Workload,
};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

pub fn check(config: &Config, findings: &mut Findings) {
    listeners(config, findings);
    for (i, route) in config.routes.iter().enumerate() {
        self::route(config, route, &Path::of(&["routes"]).index(i), findings);
    }
    for (name, cluster) in &config.clusters {
        self::cluster(cluster, &Path::of(&["clusters", name]), findings);
    }
    capture(config, findings);
}

/// What of a workload is its listener's.
fn of_listener(workload: &Workload) -> [(&'static str, String); 3] {
    let mut nets: Vec<String> = workload.proxy_from.iter().map(ToString::to_string).collect();
    nets.sort();
    [
        ("protocol", format!("{:?}", workload.protocol).to_lowercase()),
        ("capture", format!("{:?}", workload.capture).to_lowercase()),
        ("proxy_from", format!("[{}]", nets.join(", "))),
    ]
}

fn listeners(config: &Config, findings: &mut Findings) {
    let mut first: HashMap<SocketAddr, (&str, &Workload)> = HashMap::new();
    for (name, workload) in &config.workloads {
        let path = Path::of(&["workloads", name]);
        let Some(listen) = workload.listen else { continue };
        if listen.port() != 0 {
            let (other, alike) = first.entry(listen).or_insert((name, workload));
            for ((key, own), (_, others)) in of_listener(workload).into_iter().zip(of_listener(alike)) {
                if own != others {
                    let message = format!("`{other}` says `{key}: {others}` of the same listener {listen}");
                    findings.error(path.key(key), message, "say the same of all workloads of a listener");
                    findings.resting_on(Path::of(&["workloads", other]));
                }
            }
        }
        if workload.protocol == ListenerProtocol::Tcp
            && !workload.capture.captures()
            && !config.routes.iter().any(|route| leads_to(config, route).0)
        {
            let message = "no route leads to a cluster with `protocol: tcp`, so every connection is closed";
            let remedy = "add `protocol: tcp` to the cluster, and a route to it";
            findings.warning(path.key("protocol"), message, remedy);
            findings.resting_on(Path::of(&["routes"]));
        }
    }
}

/// Whether a route leads to clusters for TCP, and to others.
fn leads_to(config: &Config, route: &Route) -> (bool, bool) {
    let names = route.cluster.iter().chain(route.split.keys());
    let known = names.filter_map(|name| config.clusters.get(name));
    known.fold((false, false), |(tcp, http), cluster| {
        let here = cluster.protocol == Protocol::Tcp;
        (tcp || here, http || !here)
    })
}

/// Whether all of a route's clusters are for TCP, so that it matches connections and no requests.
pub(super) fn is_for_tcp(config: &Config, route: &Route) -> bool {
    leads_to(config, route) == (true, false)
}

fn route(config: &Config, route: &Route, path: &Path, findings: &mut Findings) {
    let matches = path.key("match");
    match leads_to(config, route) {
        (true, true) => {
            let message = "one part goes to clusters with `protocol: tcp`, the other to clusters for HTTP";
            findings.error(
                path.key("split").name(),
                message,
                "make it two routes, or say the same of all its clusters",
            );
            findings.resting_on(Path::of(&["clusters"]));
        }
        (true, false) => {
            let RouteMatch {
                host: _,
                path: exact,
                path_prefix,
                path_regex,
                headers,
                headers_regex,
                cookies,
                query,
                query_regex,
                method,
                port: _,
            } = &route.matches;
            let given = [
                ("path", exact.is_some()),
                ("path_prefix", path_prefix.is_some()),
                ("path_regex", path_regex.is_some()),
                ("headers", !headers.is_empty()),
                ("headers_regex", !headers_regex.is_empty()),
                ("cookies", !cookies.is_empty()),
                ("query", !query.is_empty()),
                ("query_regex", !query_regex.is_empty()),
                ("method", method.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!("a TCP connection has no `{key}`, so that nothing would match");
                findings.error(
                    matches.key(key).name(),
                    message,
                    "match by `port` or `host`, the name that TLS asks for",
                );
            }
            if route.idempotent.is_some() {
                let message = "a TCP connection is never repeated once it is there";
                findings.error(path.key("idempotent").name(), message, "remove it");
            }
            let usual = Route::default();
            let shaped = [
                ("rewrite", route.rewrite != usual.rewrite),
                ("headers", route.headers != usual.headers),
                ("fault", route.fault != usual.fault),
                ("mirror", route.mirror != usual.mirror),
                ("max_body", route.max_body != usual.max_body),
            ];
            for (key, _) in shaped.into_iter().filter(|(_, shaped)| *shaped) {
                let message = format!("a TCP connection is passed on as it is: `{key}` would do nothing");
                findings.error(path.key(key).name(), message, "remove it");
            }
        }
        (false, _) => {
            if route.matches.port.is_some() {
                let message = "requests are not matched by `port`";
                let remedy = "match by `host`, or lead to a cluster with `protocol: tcp`";
                findings.error(matches.key("port").name(), message, remedy);
            }
        }
    }
    let mirror = route.mirror.cluster.as_ref().and_then(|name| config.clusters.get(name));
    if mirror.is_some_and(|cluster| cluster.protocol == Protocol::Tcp) {
        let message = "copies of requests cannot go to a cluster with `protocol: tcp`";
        findings.error(path.key("mirror").key("cluster"), message, "name a cluster for HTTP");
    }
    if route.matches.port == Some(0) {
        findings.error(matches.key("port"), "nobody connects to the port 0", "write a port from 1 to 65535");
    }
}

fn cluster(cluster: &Cluster, path: &Path, findings: &mut Findings) {
    if cluster.protocol != Protocol::Tcp && cluster.proxy_protocol {
        let message = "a connection for requests carries those of many clients, and a PROXY header names one";
        let remedy = "remove it: endpoints learn of HTTP clients by `x-forwarded-for`; or write `protocol: tcp`";
        findings.error(path.key("proxy_protocol"), message, remedy);
    }
    if cluster.proxy_protocol && cluster.tls != ClusterTls::default() {
        let message = "a PROXY header comes before TLS, and with `tls` on top it would come inside";
        findings.error(path.key("proxy_protocol"), message, "keep one of them: over mTLS, identities say who calls");
    }
    if cluster.protocol == Protocol::Tcp && cluster.admission.concurrency == Concurrency::Auto {
        let message = "a limit is learnt from how fast requests are answered, which nobody can see in TCP connections";
        findings.error(path.key("admission").key("concurrency"), message, "write a number of connections, or `off`");
    }
    for (i, address) in cluster.addresses.iter().enumerate() {
        super::mesh::connectable(&path.key("addresses").index(i), *address, findings);
    }
}

fn capture(config: &Config, findings: &mut Findings) {
    let path = Path::of(&["capture"]);
    let captures = || config.workloads.iter().filter(|(_, workload)| workload.capture.captures());
    let mut ways: BTreeMap<&str, (&str, SocketAddr)> = BTreeMap::new();
    for (name, workload) in captures() {
        let way = if workload.capture == CaptureMode::Outbound { "outbound" } else { "inbound" };
        let Some(listen) = workload.listen else { continue };
        let (other, first) = ways.entry(way).or_insert((name, listen));
        if *first != listen {
            let message = format!("`{other}` gets {way} connections already, on {first}");
            let remedy = "let one listener have them, and tell its workloads apart by `source`";
            findings.error(Path::of(&["workloads", name, "capture"]), message, remedy);
            findings.resting_on(Path::of(&["workloads", other]));
        }
        if listen.ip().is_loopback() && way == "inbound" {
            let message = format!("connections from other machines never reach {listen}");
            let remedy = format!("listen on all addresses: `0.0.0.0:{}`, or `[::]:{0}` for IPv6 too", listen.port());
            findings.warning(Path::of(&["workloads", name, "listen"]), message, remedy);
        }
    }
    if captures().next().is_none()
        && let Some((name, _)) = config.clusters.iter().find(|(_, cluster)| !cluster.addresses.is_empty())
    {
        let message = "no listener captures connections, so that these addresses mean nothing";
        let remedy = "add `capture: outbound` to a workload, or remove them";
        findings.warning(Path::of(&["clusters", name, "addresses"]).name(), message, remedy);
    }
    if config.capture.mark == 0 && config.capture.user.is_none() {
        let message = "without a mark or a user the proxy's own connections would be captured again";
        findings.error(path.key("mark"), message, "write a number above 0 that nobody else uses, such as `20556`");
    }
    if config.capture.pods == CapturedPods::Annotated {
        let takes_pods = |workload: &Workload| matches!(workload.capture, CaptureMode::Inbound | CaptureMode::Tproxy);
        if !config.workloads.values().any(takes_pods) {
            let message = "no workload takes what pods open, so that no pod is captured";
            let remedy = "add `capture: tproxy` to a workload with a listener on all addresses, or remove it";
            findings.warning(path.key("pods"), message, remedy);
        }
        if !cfg!(feature = "kubernetes") {
            let message = "this build cannot ask Kubernetes, so that no pod is captured";
            findings.warning(path.key("pods"), message, "build it with `--features kubernetes`");
        }
    }
    for (key, ports) in [("ports", &config.capture.ports), ("except_ports", &config.capture.except_ports)] {
        if let Some(i) = ports.iter().position(|port| *port == 0) {
            findings.error(path.key(key).index(i), "nobody connects to the port 0", "write ports from 1 to 65535");
        }
    }
}
