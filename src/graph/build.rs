//! From observations and known instances to a graph.

use super::{Graph, Link, Node};
use crate::links::{LinkKey, NodeKey, NodeStats, Observation};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The most nodes a graph may have: beyond it a tick could not keep its time.
pub const MAX_NODES: usize = 100_000;
/// The most links a graph may have.
pub const MAX_LINKS: usize = 1_000_000;

/// An instance that discovery or the configuration knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name: the address that it serves at, else its workload's name.
    pub key: NodeKey,
    /// The service that it is an instance of.
    pub service: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
}

/// Why no graph could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Beyond `MAX_NODES` or `MAX_LINKS`.
    #[error("the mesh has {nodes} nodes and {links} links; at most {MAX_NODES} and {MAX_LINKS} can be scored")]
    TooLarge {
        /// How many nodes there would be.
        nodes: usize,
        /// How many links there would be.
        links: usize,
    },
}

/// Collects instances, observations and candidate paths, and builds the graph of them.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    instances: BTreeMap<NodeKey, Instance>,
    paths: Vec<Vec<LinkKey>>,
}

impl GraphBuilder {
    /// Makes an instance known. The first word on an instance stands.
    pub fn instance(&mut self, instance: Instance) {
        self.instances.entry(instance.key.clone()).or_insert(instance);
    }

    /// Asks for a candidate path: its links in order. Returns its index among the graph's candidates.
    pub fn candidate(&mut self, path: Vec<LinkKey>) -> usize {
        self.paths.push(path);
        self.paths.len() - 1
    }

    /// Builds the graph: the known instances, what was observed, and whatever else the candidates need.
    ///
    /// # Errors
    /// When it would be larger than can be scored.
    pub fn build(self, observation: &Observation) -> Result<Graph, GraphError> {
        let observed: HashMap<&LinkKey, _> = observation.links.iter().map(|l| (&l.key, l.stats)).collect();
        let keys: BTreeSet<&LinkKey> = observed.keys().copied().chain(self.paths.iter().flatten()).collect();
        let node_stats: HashMap<&NodeKey, NodeStats> = observation.nodes.iter().map(|n| (&n.key, n.stats)).collect();
        let node_keys: BTreeSet<&NodeKey> =
            self.instances.keys().chain(keys.iter().flat_map(|k| [&k.source, &k.destination])).collect();
        if node_keys.len() > MAX_NODES || keys.len() > MAX_LINKS {
            return Err(GraphError::TooLarge { nodes: node_keys.len(), links: keys.len() });
        }

        let empty: Arc<str> = "".into();
        let mut nodes: Vec<Node> = node_keys
            .iter()
            .map(|key| {
                let known = self.instances.get(*key);
                Node {
                    key: (*key).clone(),
                    service: known.map_or_else(|| empty.clone(), |i| i.service.clone()),
                    zone: known.map_or_else(|| empty.clone(), |i| i.zone.clone()),
                    stats: node_stats.get(*key).copied().unwrap_or_default(),
                    replicas: 1,
                }
            })
            .collect();
        let mut replicas: HashMap<Arc<str>, u32> = HashMap::new();
        nodes.iter().for_each(|n| *replicas.entry(n.service.clone()).or_default() += 1);
        for node in nodes.iter_mut().filter(|n| !n.service.is_empty()) {
            node.replicas = replicas.get(&node.service).copied().unwrap_or(1);
        }

        let node_index: HashMap<&NodeKey, u32> = node_keys.iter().zip(0u32..).map(|(k, i)| (*k, i)).collect();
        let index_of = |key: &NodeKey| node_index.get(key).copied().unwrap_or_default();
        // Sorted keys give links sorted by source, then destination, as the contract wants its edges.
        let links = keys
            .iter()
            .map(|key| Link {
                source: index_of(&key.source),
                destination: index_of(&key.destination),
                stats: observed.get(*key).copied().unwrap_or_default(),
            })
            .collect();
        let link_index: HashMap<&LinkKey, u32> = keys.iter().zip(0u32..).map(|(k, i)| (*k, i)).collect();
        let mut path_offsets = vec![0u32];
        let mut path_links = Vec::new();
        for path in &self.paths {
            path_links.extend(path.iter().filter_map(|key| link_index.get(key).copied()));
            path_offsets.push(path_links.len() as u32);
        }
        Ok(Graph { nodes, links, path_offsets, path_links })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Features;
    use super::super::features::{EDGE_FEATURES, NODE_FEATURES};
    use super::*;
    use crate::links::{LinkObservation, LinkStats, NodeObservation};

    fn key(source: &str, destination: &str) -> LinkKey {
        LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
    }

    fn instance(name: &str, service: &str, zone: &str) -> Instance {
        Instance { key: NodeKey::new(name), service: service.into(), zone: zone.into() }
    }

    #[test]
    fn links_that_nobody_used_are_there_and_unknown() {
        let mut builder = GraphBuilder::default();
        for (name, service, zone) in [("f", "frontend", "a"), ("c1", "catalog", "a"), ("c2", "catalog", "b")] {
            builder.instance(instance(name, service, zone));
        }
        let used = LinkStats { latency_mean_s: Some(0.02), in_flight: 1.0, ..LinkStats::default() };
        builder.candidate(vec![key("f", "c1")]);
        builder.candidate(vec![key("f", "c2")]);
        let observation = Observation {
            links: vec![LinkObservation { key: key("f", "c1"), stats: used }],
            nodes: vec![NodeObservation { key: NodeKey::new("c1"), stats: NodeStats::default() }],
        };
        let graph = builder.build(&observation).unwrap();
        assert_eq!((graph.nodes.len(), graph.links.len(), graph.candidates()), (3, 2, 2));
        assert_eq!(graph.nodes[0].replicas, 2, "sorted by key: c1 first");

        let mut features = Features::default();
        features.fill(&graph);
        features.fill(&graph);
        assert_eq!((features.node_count(), features.edge_count(), features.candidate_count()), (3, 2, 2));
        assert_eq!(features.edges, [0, 1, 2, 2], "called nodes c1 and c2, then the caller f");
        let rows: Vec<_> = features.edge_features.chunks(EDGE_FEATURES.len()).collect();
        assert_eq!((rows[0][0], rows[0][8], rows[0][11]), (0.02, 1.0, 1.0));
        assert!(rows[1][0].is_nan() && rows[1][11] == 0.0);
        assert_eq!(features.nodes.len() % NODE_FEATURES.len(), 0);
    }

    #[test]
    fn edges_are_sorted_by_the_node_that_receives_the_message() {
        let mut builder = GraphBuilder::default();
        for path in [key("z", "a"), key("a", "z"), key("m", "a"), key("a", "m")] {
            builder.candidate(vec![path]);
        }
        let graph = builder.build(&Observation::default()).unwrap();
        assert!(graph.links.is_sorted_by_key(|l| (l.source, l.destination)));
        assert_eq!(graph.path_offsets, [0, 1, 2, 3, 4]);
        let first = &graph.links[graph.path_links[0] as usize];
        assert_eq!(graph.link_key(first), Some(key("z", "a")));
    }
}
