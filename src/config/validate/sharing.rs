//! Sharing: an address that others reach or servers that are there, a key that all have, a name that nobody else has.

use super::{Findings, Path, nats};
use crate::config::schema::{Config, Nats, Node};
use crate::config::units::ByteSize;

/// Less has no room for who is there and a report a second.
pub const MIN_BUDGET: ByteSize = ByteSize(4 << 10);
/// More than any network card carries.
pub const MAX_BUDGET: ByteSize = ByteSize(1 << 30);
/// Trouble further away reaches nobody.
const MAX_HOPS: usize = 64;
/// The most seeds: all but a few nodes are learnt.
const MAX_SEEDS: usize = 64;

pub fn check(config: &Config, findings: &mut Findings) {
    let (mesh, path) = (&config.mesh, Path::of(&["mesh"]));
    if !(MIN_BUDGET..=MAX_BUDGET).contains(&mesh.budget) {
        let message = format!("`{}` a second is no budget for sharing links", mesh.budget);
        findings.error(path.key("budget"), message, format!("write `{MIN_BUDGET}` to `{MAX_BUDGET}`"));
    }
    for (i, seed) in mesh.seeds.iter().enumerate() {
        let port = seed.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) || seed.contains(char::is_whitespace) {
            let message = format!("`{seed}` is not an address or a name with a port");
            findings.error(path.key("seeds").index(i), message, "write one, as in `10.0.0.7:7946`");
        }
    }
    if mesh.seeds.len() > MAX_SEEDS {
        let message = format!("{} seeds are more than anybody needs", mesh.seeds.len());
        findings.error(
            path.key("seeds"),
            message,
            format!("name at most {MAX_SEEDS}; the others are learnt from them"),
        );
    }
    if mesh.hops > MAX_HOPS {
        let message = format!("{} hops are more than any model looks at", mesh.hops);
        findings.error(path.key("hops"), message, format!("write at most {MAX_HOPS}, or 0 for all of the mesh"));
    }
    if let Some(advertise) = mesh.advertise
        && (advertise.ip().is_unspecified() || advertise.port() == 0)
    {
        let message = format!("nobody can be reached at {advertise}");
        findings.error(path.key("advertise"), message, "write this node's own address and port");
    }
    nats::check(config, findings);
    if !mesh.shares() {
        let nats = mesh.nats != Nats::default();
        if mesh.key.is_some() || !mesh.seeds.is_empty() || mesh.advertise.is_some() || nats {
            let message = "nothing is shared without `listen` or `nats.servers`";
            let remedy = "add `listen: 0.0.0.0:7946`, or servers under `nats`, or remove the section";
            findings.warning(path.name(), message, remedy);
        }
        return;
    }
    match &mesh.key {
        Some(key) if !key.as_os_str().is_empty() => {}
        key => {
            let way = if mesh.listen.is_some() { path.key("listen") } else { path.key("nats").name() };
            let place = if key.is_some() { path.key("key") } else { way };
            let remedy = "add `key: FILE`, made by `head -c 32 /dev/urandom | base64 > FILE` and the same on all nodes";
            findings.error(place, "without a key anybody could tell this node anything", remedy);
        }
    }
    if let (Some(listen), Some(advertise)) = (mesh.listen, mesh.advertise)
        && advertise.is_ipv4() != listen.is_ipv4()
        && !listen.ip().is_unspecified()
    {
        let message = format!("{advertise} is of another kind than {listen}, where this node listens");
        findings.error(path.key("advertise"), message, "write both as IPv4, or both as IPv6");
    }
    if config.node.name == Node::default().name && !config.node.name.is_empty() {
        let message = format!("`{}` is every node's name that is not said otherwise", config.node.name);
        findings.warning(
            Path::of(&["node", "name"]),
            message,
            "name the node: `\"${NODE_NAME}\"`; two of one name are not told apart",
        );
        findings.resting_on(path);
    }
}
