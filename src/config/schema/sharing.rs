//! The keys of sharing link statistics between nodes.

use crate::config::units::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Sharing link statistics with other nodes, so that the model sees the whole mesh and not this node's links alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// The UDP address on which this node hears others (`0.0.0.0:7946`); without it nothing is shared.
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
}

impl Default for Mesh {
    fn default() -> Self {
        Self { listen: None, advertise: None, seeds: Vec::new(), key: None, budget: ByteSize(64 << 10), hops: 5 }
    }
}
