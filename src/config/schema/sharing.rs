//! The keys of sharing link statistics between nodes.

use crate::config::secret::Secret;
use crate::config::units::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Sharing link statistics with other nodes, so that the model sees the whole mesh and not this node's links alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// The UDP address on which this node hears others (`0.0.0.0:7946`), by gossip; without it, and without `nats`, nothing is shared.
    pub listen: Option<SocketAddr>,
    /// The address under which others reach this node; when it is not said, `listen`, or where that is every address the one by which the first seed is reached.
    pub advertise: Option<SocketAddr>,
    /// A few nodes to begin with, each an address or a DNS name with a port (`pathloom.mesh.svc:7946`); the others are learnt from them.
    pub seeds: Vec<String>,
    /// The file with the key that all nodes of the mesh share, made by `head -c 32 /dev/urandom | base64`; of several, one a line, the first seals and all open, and the file is read again when it changes.
    pub key: Option<PathBuf>,
    /// The most bytes that this node sends to others in a second; the most changed and most used links are told first.
    pub budget: ByteSize,
    /// How many calls away from its own workloads this node wants to hear of links: one more than the model has layers is all that it can use; 0 is of all there are.
    pub hops: usize,
    /// NATS servers in place of gossip, for fleets of hundreds of nodes and more: each report is sent once, and the servers pass it on to those who want to hear of its services.
    pub nats: Nats,
}

/// NATS servers through which links are shared, and who this node is to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nats {
    /// The servers (`nats://nats.mesh.svc:4222`, with `tls://` by TLS alone), of which any one will do; without one NATS is not used.
    pub servers: Vec<String>,
    /// What the mesh's subjects begin with: `pathloom` makes `pathloom.v1.ZONE.CALLER.CALLED`. Meshes that share servers differ in it.
    pub prefix: String,
    /// The zones that this node wants to hear of, by the names that nodes have in `node.zone`; empty is all of them.
    pub zones: Vec<String>,
    /// The most bytes a second that this node wants to hear; where more comes in it hears of what is fewer than `hops` calls away.
    pub hear: ByteSize,
    /// The user as whom this node connects, with `password`.
    pub user: Option<String>,
    /// The user's password, best from the environment (`"${NATS_PASSWORD}"`).
    pub password: Option<Secret>,
    /// A token, in place of a user.
    pub token: Option<Secret>,
    /// The file with the seed of this node's nkey (`SU...`), in place of a user; it is read again at each connection.
    pub nkey: Option<PathBuf>,
    /// The file with a user's JWT and seed (`.creds`), in place of a user; it is read again at each connection.
    pub credentials: Option<PathBuf>,
    /// How TLS is spoken with the servers; they are spoken to by TLS alone where any of it is said.
    pub tls: NatsTls,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            prefix: "pathloom".to_owned(),
            zones: Vec::new(),
            hear: ByteSize(1 << 20),
            user: None,
            password: None,
            token: None,
            nkey: None,
            credentials: None,
            tls: NatsTls::default(),
        }
    }
}

/// TLS towards NATS servers; the files are read again at each connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// The PEM file with the authorities that the servers' certificates are checked against; the system's when it is not said.
    pub authorities: Option<PathBuf>,
    /// The PEM file with the certificate that this node shows, for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// The PEM file with that certificate's private key.
    pub key: Option<PathBuf>,
}

impl Mesh {
    /// Whether links are shared at all, by whatever way.
    #[must_use]
    pub fn shares(&self) -> bool {
        self.listen.is_some() || !self.nats.servers.is_empty()
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: None,
            seeds: Vec::new(),
            key: None,
            budget: ByteSize(64 << 10),
            hops: 5,
            nats: Nats::default(),
        }
    }
}
