//! From observations and known instances to a graph.

use super::{Graph, Link, Neighbours, Node};
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
    /// The machine that it runs on; empty when unknown.
    pub host: Arc<str>,
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
                    neighbours: Neighbours::default(),
                }
            })
            .collect();
        let mut replicas: HashMap<Arc<str>, u32> = HashMap::new();
        nodes.iter().for_each(|n| *replicas.entry(n.service.clone()).or_default() += 1);
        for node in nodes.iter_mut().filter(|n| !n.service.is_empty()) {
            node.replicas = replicas.get(&node.service).copied().unwrap_or(1);
        }

        neighbours(&mut nodes, &self.instances);

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

/// A host's instances, summed up.
#[derive(Debug, Default, Clone, Copy)]
struct Host {
    count: u32,
    cpu: (f32, u32),
    ln_slowdown: (f32, u32),
}

/// Fills in what is known of each node's neighbours: its host's sums less its own part.
fn neighbours(nodes: &mut [Node], instances: &BTreeMap<NodeKey, Instance>) {
    let host_of = |node: &Node| instances.get(&node.key).map(|i| i.host.clone()).filter(|h| !h.is_empty());
    let ln_slowdown = |s: &NodeStats| {
        let (mean, baseline) = (s.response_mean_s?, s.response_baseline_s?);
        (mean > 0.0 && baseline > 0.0).then(|| (mean / baseline).ln())
    };
    let mut hosts: HashMap<Arc<str>, Host> = HashMap::new();
    for node in nodes.iter() {
        let Some(host) = host_of(node) else { continue };
        let host = hosts.entry(host).or_default();
        host.count += 1;
        for (sum, value) in
            [(&mut host.cpu, node.stats.cpu_utilization), (&mut host.ln_slowdown, ln_slowdown(&node.stats))]
        {
            *sum = value.map_or(*sum, |v| (sum.0 + v, sum.1 + 1));
        }
    }
    for node in nodes {
        let Some(host) = host_of(node).and_then(|h| hosts.get(&h)) else { continue };
        let others = |sum: (f32, u32), own: Option<f32>| {
            let (sum, count) = own.map_or(sum, |v| (sum.0 - v, sum.1 - 1));
            (count > 0).then(|| sum / count as f32)
        };
        node.neighbours = Neighbours {
            count: Some(host.count - 1),
            cpu_utilization: others(host.cpu, node.stats.cpu_utilization).map(|v| v.max(0.0)),
            slowdown: others(host.ln_slowdown, ln_slowdown(&node.stats)).map(f32::exp),
        };
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
        Instance { key: NodeKey::new(name), service: service.into(), zone: zone.into(), host: "".into() }
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
    fn neighbours_are_the_others_on_a_known_host() {
        let mut builder = GraphBuilder::default();
        for (name, host) in [("a", "h1"), ("b", "h1"), ("c", "h1"), ("d", "h2"), ("e", "")] {
            builder.instance(Instance { host: host.into(), ..instance(name, name, "z") });
        }
        let stats = |cpu, slow: Option<f32>| NodeStats {
            cpu_utilization: cpu,
            response_mean_s: slow.map(|s| 0.010 * s),
            response_baseline_s: slow.map(|_| 0.010),
            ..NodeStats::default()
        };
        let node = |name: &str, stats| NodeObservation { key: NodeKey::new(name), stats };
        let observation = Observation {
            links: vec![],
            nodes: vec![
                node("a", stats(Some(0.2), Some(4.0))),
                node("b", stats(Some(0.6), Some(1.0))),
                node("c", stats(None, None)),
            ],
        };
        let graph = builder.build(&observation).unwrap();
        let [a, b, c, d, e] = graph.nodes.iter().map(|n| n.neighbours).collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!((a.count, b.count, d.count, e.count), (Some(2), Some(2), Some(0), None));
        assert!((a.cpu_utilization.unwrap() - 0.6).abs() < 1e-6 && (a.slowdown.unwrap() - 1.0).abs() < 1e-5);
        assert!((b.slowdown.unwrap() - 4.0).abs() < 1e-4);
        assert!((c.slowdown.unwrap() - 2.0).abs() < 1e-4, "the geometric mean of 4 and 1");
        assert_eq!((d.cpu_utilization, d.slowdown, e), (None, None, Neighbours::default()));
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
