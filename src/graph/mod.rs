//! The mesh as a graph at one instant: nodes, links, candidate paths, and their features in physical units.
//!
//! Made anew each tick from what `links` observed and from the instances that discovery knows; its shape (`Topology`) is
//! kept for as long as the mesh stays the same. A link exists here when
//! somebody used it lately or when a candidate path needs it; then it may be all unknown (NaN in every statistic).
//! The same code makes features in the simulator and in production. This room knows neither sockets nor models.

mod build;
pub mod features;
mod plausible;

pub use build::{GraphBuilder, GraphError, Instance, Topology};
pub use features::Features;

use crate::links::{LinkKey, LinkStats, NodeKey, NodeStats};
use std::sync::Arc;

/// A service instance in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub key: NodeKey,
    /// The service that it is an instance of; empty when unknown.
    pub service: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// What was seen of it.
    pub stats: NodeStats,
    /// How many instances its service has in this graph, itself included.
    pub replicas: u32,
    /// What is known of the other instances on its host.
    pub neighbours: Neighbours,
}

/// The other instances on one host: who shares its processors, and how they fare. `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Neighbours {
    /// How many there are.
    pub count: Option<u32>,
    /// The mean of the CPU utilisation that they report.
    pub cpu_utilization: Option<f32>,
    /// How many times as long as usual their answers take at present: the geometric mean of response mean over
    /// baseline.
    pub slowdown: Option<f32>,
}

/// A link in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The calling node's index.
    pub source: u32,
    /// The called node's index.
    pub destination: u32,
    /// What was seen on it.
    pub stats: LinkStats,
}

/// The mesh at one instant. Links are sorted by their source, then their destination.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// All instances, sorted by key.
    pub nodes: Vec<Node>,
    /// All links.
    pub links: Vec<Link>,
    /// The candidate paths in the order in which they were asked for: for each, where its links end in `path_links`
    /// (CSR offsets, `[C + 1]`).
    pub path_offsets: Vec<u32>,
    /// The links of all candidate paths, as indices into `links`.
    pub path_links: Vec<u32>,
    /// How many links were told with statistics that nobody can have measured, and count as unknown.
    pub implausible: usize,
}

impl Graph {
    /// How many candidate paths there are.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.path_offsets.len().saturating_sub(1)
    }

    /// The key of a link.
    #[must_use]
    pub fn link_key(&self, link: &Link) -> Option<LinkKey> {
        Some(LinkKey::new(&self.nodes.get(link.source as usize)?.key, &self.nodes.get(link.destination as usize)?.key))
    }
}
