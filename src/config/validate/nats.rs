//! NATS: servers that can be connected to, one proof of who this node is, subjects that mean what they should.

use super::{Findings, Path, files, syntax};
use crate::config::Secret;
use crate::config::schema::{Config, Nats};
use crate::config::units::ByteSize;
use std::net::IpAddr;

/// The most servers that are worth naming.
const MAX_SERVERS: usize = 64;
/// The most zones to hear of.
const MAX_ZONES: usize = 64;
/// The longest prefix of the subjects, in bytes.
const MAX_PREFIX: usize = 64;
/// Less is no neighbourhood, and more no node can read.
const MIN_HEAR: ByteSize = ByteSize(64 << 10);
const MAX_HEAR: ByteSize = ByteSize(1 << 30);
/// The longest name of a user, password or token.
const MAX_SECRET: usize = 4_096;

pub fn check(config: &Config, findings: &mut Findings) {
    let (mesh, nats, path) = (&config.mesh, &config.mesh.nats, Path::of(&["mesh", "nats"]));
    servers(nats, &path, findings);
    if !(MIN_HEAR..=MAX_HEAR).contains(&nats.hear) {
        let message = format!("`{}` a second is nothing to hear with", nats.hear);
        findings.error(path.key("hear"), message, format!("write `{MIN_HEAR}` to `{MAX_HEAR}`"));
    }
    subjects(nats, &path, findings);
    proof(nats, &path, findings);
    let tls = &nats.tls;
    files::tls([&tls.authorities, &tls.certificate, &tls.key], &path.key("tls"), findings);
    if nats.servers.is_empty() {
        return;
    }
    if mesh.listen.is_some() {
        let message = "links are shared by gossip or by NATS, not by both";
        findings.error(path.name(), message, "remove `mesh.listen`, or `mesh.nats`");
        findings.resting_on(Path::of(&["mesh", "listen"]));
    } else if !mesh.seeds.is_empty() || mesh.advertise.is_some() {
        let key = if mesh.seeds.is_empty() { "advertise" } else { "seeds" };
        let message = format!("`{key}` is for gossip, and links are shared by NATS");
        findings.warning(Path::of(&["mesh", key]).name(), message, "remove it");
    }
}

/// The host of a server's URL; what is wrong with it otherwise.
fn host(server: &str) -> Result<&str, syntax::Wrong> {
    let wrong = |message: String, remedy: &str| Err(syntax::Wrong { message, remedy: remedy.to_owned() });
    let rest = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://"));
    let Some(rest) = rest else {
        return wrong(
            format!("`{server}` is not a NATS server's URL"),
            "write it as `nats://10.0.0.7:4222` or `tls://nats.mesh.svc:4222`",
        );
    };
    if rest.contains('@') {
        return wrong(
            "a user does not belong into a server's URL".to_owned(),
            "write `user` and `password`, or `token`, beside `servers`",
        );
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let port = port.is_empty() || matches!(port.strip_prefix(':').map(str::parse::<u16>), Some(Ok(1..)));
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let known = host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.chars().all(named));
    if port && known {
        return Ok(host);
    }
    wrong(
        format!("`{server}` names no host, or no port that there is"),
        "write it as `nats://10.0.0.7:4222`, without a path",
    )
}

fn servers(nats: &Nats, path: &Path, findings: &mut Findings) {
    let path = path.key("servers");
    if nats.servers.len() > MAX_SERVERS {
        let message = format!("{} servers are more than anybody needs", nats.servers.len());
        findings.error(
            path.clone(),
            message,
            format!("name at most {MAX_SERVERS}, or a DNS name that leads to all of them"),
        );
    }
    for (i, server) in nats.servers.iter().enumerate() {
        match host(server) {
            Err(wrong) => findings.check(path.index(i), Err(wrong)),
            Ok(host) => {
                let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
                let open = server.starts_with("nats://") && nats.tls == Default::default();
                if open && !here && (nats.password.is_some() || nats.token.is_some()) {
                    let message = format!("whoever is on the way to `{host}` can read the password or the token");
                    findings.warning(
                        path.index(i),
                        message,
                        "write `tls://`, or prove who this node is by `nkey` or `credentials`",
                    );
                }
            }
        }
    }
}

fn subjects(nats: &Nats, path: &Path, findings: &mut Findings) {
    let plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let prefix = &nats.prefix;
    if prefix.len() > MAX_PREFIX || !prefix.split('.').all(plain) || prefix.starts_with('_') {
        let message = format!("`{prefix}` cannot stand at the beginning of a subject");
        let remedy = format!(
            "write letters, digits, `-` and `_`, with dots between them, {MAX_PREFIX} at most: `pathloom` or `shop.pathloom`"
        );
        findings.error(path.key("prefix"), message, remedy);
    }
    for (i, zone) in nats.zones.iter().enumerate() {
        if zone.is_empty() {
            findings.error(path.key("zones").index(i), "a zone without a name", "write the zone's name, or remove it");
        }
        findings.check(path.key("zones").index(i), syntax::text(zone, syntax::MAX_NAME));
    }
    if nats.zones.len() > MAX_ZONES {
        let message = format!("{} zones are too many to be named one by one", nats.zones.len());
        findings.error(path.key("zones"), message, format!("name at most {MAX_ZONES}, or none for all of them"));
    }
}

/// One proof at most, and a whole one.
fn proof(nats: &Nats, path: &Path, findings: &mut Findings) {
    let file = |file: &Option<std::path::PathBuf>| file.is_some();
    let all = [
        ("user", nats.user.is_some()),
        ("token", nats.token.is_some()),
        ("nkey", file(&nats.nkey)),
        ("credentials", file(&nats.credentials)),
    ];
    let said: Vec<&str> = all.iter().filter(|(_, said)| *said).map(|(key, _)| *key).collect();
    if let [first, second, ..] = said.as_slice() {
        let message = format!("a server is told once who this node is, and here stand `{first}` and `{second}`");
        findings.error(path.key(second).name(), message, format!("keep `{first}`, or `{second}`"));
    }
    if nats.user.is_some() != nats.password.is_some() {
        let (there, missing) = if nats.user.is_some() { ("user", "password") } else { ("password", "user") };
        let message = format!("`{there}` alone proves nothing");
        findings.error(path.key(there).name(), message, format!("add `{missing}`, or remove it"));
    }
    for (key, value) in [
        ("user", nats.user.as_deref()),
        ("password", nats.password.as_ref().map(Secret::reveal)),
        ("token", nats.token.as_ref().map(Secret::reveal)),
    ] {
        let Some(value) = value else { continue };
        if value.is_empty() {
            findings.error(path.key(key), format!("`{key}` is empty"), "write it, or remove the key");
        }
        findings.check(path.key(key), syntax::text(value, MAX_SECRET));
    }
    for (key, file) in [("nkey", &nats.nkey), ("credentials", &nats.credentials)] {
        files::named(file, path.key(key), key, findings);
    }
}
