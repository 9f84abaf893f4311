//! Identity: files that belong together or a Workload API, TLS that has an identity to prove, rules that can hold.

use super::syntax;
use super::{Findings, Path};
use crate::config::schema::{Allow, Cluster, ClusterTls, Config, TlsMode, Workload};
use crate::config::spiffe::{ExpectedPeer, SpiffePattern};
use std::collections::HashMap;
use std::net::SocketAddr;

pub fn check(config: &Config, findings: &mut Findings) {
    match config.identity.workload_api {
        Some(_) => workload_api(config, findings),
        None => files(config, findings),
    }
    listeners(config, findings);
    for (name, workload) in &config.workloads {
        rules(config, workload, &Path::of(&["workloads", name, "allow"]), findings);
    }
    for (name, cluster) in &config.clusters {
        cluster_tls(config, cluster, &Path::of(&["clusters", name, "tls"]), findings);
    }
}

/// No file beside it, and other trust domains that are others.
fn workload_api(config: &Config, findings: &mut Findings) {
    let (identity, path) = (&config.identity, Path::of(&["identity"]));
    if identity.certificate.is_some() || identity.key.is_some() || identity.bundle.is_some() {
        let message = "the identity comes from files or from a Workload API, not from both";
        let remedy = "keep `workload_api`, or `certificate`, `key` and `bundle`";
        findings.error(path.key("workload_api").name(), message, remedy);
    }
    if identity.hint.as_ref().is_some_and(String::is_empty) {
        findings.error(path.key("hint"), "`hint` is empty", "write the certificate's hint, or remove the key");
    }
    for (i, domain) in identity.federated.iter().enumerate() {
        if identity.trust_domain.as_ref() == Some(domain) || identity.federated.iter().take(i).any(|d| d == domain) {
            let message = format!("`{domain}` is believed already");
            findings.error(path.key("federated").index(i), message, "remove it");
        }
    }
}

/// All three files, or none.
fn files(config: &Config, findings: &mut Findings) {
    let (identity, path) = (&config.identity, Path::of(&["identity"]));
    let all = [("certificate", &identity.certificate), ("key", &identity.key), ("bundle", &identity.bundle)];
    let named = all.iter().filter(|(_, file)| file.is_some()).count();
    for (key, file) in all {
        match file {
            Some(file) if file.as_os_str().is_empty() => {
                findings.error(path.key(key), format!("`{key}` names no file"), "write the file's path");
            }
            None if named > 0 || identity.trust_domain.is_some() => {
                let message = format!("the identity has no `{key}`");
                findings.error(
                    path.key(key).name(),
                    message,
                    "write `certificate`, `key` and `bundle`, or `workload_api` in place of them, or nothing of it",
                );
            }
            _ => {}
        }
    }
    for (key, said) in [("hint", identity.hint.is_some()), ("federated", !identity.federated.is_empty())] {
        if said {
            let message = format!("`{key}` says something of a Workload API, and there is none");
            findings.error(path.key(key).name(), message, "add `workload_api`, or remove it");
        }
    }
}

fn has_identity(config: &Config) -> bool {
    config.identity.certificate.is_some() || config.identity.workload_api.is_some()
}

fn needs_identity(what: &str, path: Path, findings: &mut Findings) {
    let remedy = "add `identity: { certificate: …, key: …, bundle: … }`, or `identity: { workload_api: unix:///… }`; `pathloom \
                  ca` makes such files to try it out";
    findings.error(path, format!("{what} without an identity of this node"), remedy);
    findings.resting_on(Path::of(&["identity"]));
}

fn listeners(config: &Config, findings: &mut Findings) {
    let mut modes: HashMap<SocketAddr, (&str, TlsMode)> = HashMap::new();
    for (name, workload) in &config.workloads {
        let path = Path::of(&["workloads", name, "tls"]);
        if workload.tls != TlsMode::Disabled && !has_identity(config) {
            needs_identity("the listener cannot speak mTLS", path.clone(), findings);
        }
        let Some(listen) = workload.listen.filter(|listen| listen.port() != 0) else { continue };
        let (first, mode) = modes.entry(listen).or_insert((name, workload.tls));
        if *mode != workload.tls {
            let message = format!("`{first}` says otherwise of the same listener {listen}");
            findings.error(path, message, "say the same of all workloads of a listener");
            findings.resting_on(Path::of(&["workloads", first]));
        }
    }
}

fn rules(config: &Config, workload: &Workload, path: &Path, findings: &mut Findings) {
    for (i, rule) in workload.allow.iter().enumerate() {
        let path = path.index(i);
        for (j, from) in rule.from.iter().enumerate() {
            foreign(config, from, path.key("from").index(j), findings);
        }
        if !rule.from.is_empty() && workload.tls == TlsMode::Disabled {
            let message = "nobody can prove an identity to a listener without TLS, so this allows nothing";
            findings.warning(path.key("from").name(), message, "write `tls: strict`, or remove `from`");
        }
        conditions(rule, &path, findings);
    }
}

fn foreign(config: &Config, from: &SpiffePattern, path: Path, findings: &mut Findings) {
    let federated = || config.identity.federated.iter().any(|domain| from.trust_domain() == domain.to_string());
    if let Some(domain) = &config.identity.trust_domain
        && from.trust_domain() != domain.to_string()
        && !federated()
    {
        let message = format!("`{from}` is not of the trust domain `{domain}`, so nobody who gets in has such an id");
        findings.warning(path, message, format!("write `spiffe://{domain}/…`"));
    }
}

fn conditions(rule: &Allow, path: &Path, findings: &mut Findings) {
    for (i, method) in rule.methods.iter().enumerate() {
        let path = path.key("methods").index(i);
        match syntax::method(method) {
            Ok(None) => {}
            Ok(Some(doubt)) => findings.warning(path, doubt.message, doubt.remedy),
            Err(wrong) => findings.error(path, wrong.message, wrong.remedy),
        }
    }
    if rule.path.is_some() && rule.path_prefix.is_some() {
        findings.error(path.key("path").name(), "the rule has both `path` and `path_prefix`", "keep one of them");
    }
    for (key, text) in [("path", &rule.path), ("path_prefix", &rule.path_prefix)] {
        let Some(text) = text else { continue };
        findings.check(path.key(key), syntax::path(text));
        if !crate::config::plain_path(text) {
            let message = format!("`{text}` could be read as another path, and such paths are never allowed");
            findings.error(
                path.key(key),
                message,
                "write it without `//`, `/.`, `\\` and percent-encoded slashes and dots",
            );
        }
    }
}

fn cluster_tls(config: &Config, cluster: &Cluster, path: &Path, findings: &mut Findings) {
    let ClusterTls { identity, name, authorities } = &cluster.tls;
    if *identity != ExpectedPeer::Off && !has_identity(config) {
        needs_identity("the endpoints cannot be reached by mTLS", path.clone(), findings);
    }
    if let (ExpectedPeer::One(id), Some(domain)) = (identity, &config.identity.trust_domain)
        && !id.is_of(domain)
        && !config.identity.federated.iter().any(|domain| id.is_of(domain))
    {
        let message = format!("`{id}` is not of the trust domain `{domain}`, so no endpoint is ever taken for it");
        findings.error(path.clone(), message, format!("write `spiffe://{domain}/…`"));
    }
    match name {
        Some(name) if *identity != ExpectedPeer::Off => {
            let message = format!("endpoints prove an identity of the mesh or the name `{name}`, not both");
            findings.error(path.key("name").name(), message, "keep one of them");
        }
        Some(name) if name.starts_with('*') => {
            findings.error(path.key("name"), "a name to connect to has no `*`", "write it in full: `api.example.com`");
        }
        // Names in certificates are checked against addresses without brackets.
        Some(name) if name.parse::<std::net::IpAddr>().is_err() => {
            findings.check(path.key("name"), syntax::host(name));
        }
        Some(_) => {}
        None if authorities.is_some() => {
            let message = "`authorities` are those of a `name`; the mesh has its own in `identity.bundle`";
            findings.error(path.key("authorities").name(), message, "add `name`, or remove `authorities`");
        }
        None => {}
    }
    if authorities.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
        findings.error(path.key("authorities"), "`authorities` names no file", "write it, or remove the key");
    }
}
