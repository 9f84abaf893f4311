//! Sources of endpoints, each one and whole; and endpoints in a file of their own.

use super::{Finding, Findings, Path, mesh, syntax};
use crate::config::schema::{Cluster, Discover, Endpoint, Port};

/// The most sources that a cluster has.
const MAX_SOURCES: usize = 16;
/// The most endpoints that a source may be allowed: what a tick still scores, with room for other clusters.
const MAX_MOST: usize = 100_000;

/// A cluster's sources.
pub fn sources(cluster: &Cluster, path: &Path, findings: &mut Findings) {
    let path = path.key("discover");
    if cluster.discover.len() > MAX_SOURCES {
        let message = format!("{} sources of endpoints are too many for a cluster", cluster.discover.len());
        findings.error(path.name(), message, format!("name at most {MAX_SOURCES}"));
    }
    for (i, discover) in cluster.discover.iter().enumerate() {
        let path = path.index(i);
        source(discover, &path, findings);
        if cluster.discover.iter().take(i).any(|other| other == discover) {
            findings.error(path, format!("`{discover}` is a source of the cluster already"), "name it once");
        }
    }
}

fn source(discover: &Discover, path: &Path, findings: &mut Findings) {
    let kinds = [discover.file.is_some(), discover.dns.is_some(), discover.kubernetes.is_some()];
    match kinds.iter().filter(|said| **said).count() {
        1 => {}
        0 => {
            let remedy = "add one of `file`, `dns` and `kubernetes`: `{ dns: catalog.shop, port: 8080 }`";
            findings.error(path.clone(), "the source says nothing of where endpoints come from", remedy);
        }
        _ => {
            let remedy = "write each as a source of its own: `discover: [{ file: ... }, { dns: ... }]`";
            findings.error(path.clone(), "a source is one of `file`, `dns` and `kubernetes`", remedy);
        }
    }
    if discover.file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
        findings.error(path.key("file"), "the file has no name", "write its path");
    }
    if let Some(name) = &discover.dns {
        dns(name, discover, path, findings);
    } else if !discover.nameservers.is_empty() {
        let remedy = "remove it, or add `dns`";
        findings.error(path.key("nameservers").name(), "`nameservers` are asked for `dns` only", remedy);
    }
    if let Some(service) = &discover.kubernetes {
        findings.check(path.key("kubernetes"), syntax::kubernetes_service(service));
    }
    if discover.kubernetes.is_some() && !cfg!(feature = "kubernetes") {
        let message = "this build cannot ask Kubernetes, so the source gives no endpoints";
        findings.warning(path.key("kubernetes").name(), message, "build it with `--features kubernetes`");
    }
    if discover.file.is_some() && discover.port.is_some() {
        findings.error(path.key("port").name(), "endpoints of a file bring their ports", "remove `port`");
    }
    for (i, server) in discover.nameservers.iter().enumerate() {
        mesh::connectable(&path.key("nameservers").index(i), *server, findings);
    }
    if !(1..=MAX_MOST).contains(&discover.most) {
        let message = format!("{} endpoints cannot be the most", discover.most);
        findings.error(path.key("most"), message, format!("write 1 to {MAX_MOST}"));
    }
}

fn dns(name: &str, discover: &Discover, path: &Path, findings: &mut Findings) {
    findings.check(path.key("dns"), syntax::dns_name(name));
    match (&discover.port, discover.is_srv()) {
        (None, true) | (Some(Port::Number(_)), false) => {}
        (Some(_), true) => {
            findings.error(path.key("port").name(), "SRV records bring their ports", "remove `port`");
        }
        (None, false) => {
            let remedy =
                format!("add the port (`port: 8080`), or ask for SRV records by their name (`_http._tcp.{name}`)");
            findings.error(path.key("dns"), format!("the addresses of `{name}` have no port"), remedy);
        }
        (Some(Port::Name(port)), false) => {
            let message = format!("A and AAAA records know no port `{port}`");
            findings.error(path.key("port"), message, "write its number");
        }
    }
}

/// Whether a text can be shown as a fact about an endpoint.
#[must_use]
pub fn is_fact(text: &str) -> bool {
    syntax::text(text, mesh::MAX_METADATA_VALUE).is_ok()
}

/// Everything that stands against endpoints in a file of their own.
#[must_use]
pub fn endpoints(endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = Findings::default();
    mesh::each_endpoint("the file", endpoints, &Path::default(), &mut findings);
    findings.0
}
