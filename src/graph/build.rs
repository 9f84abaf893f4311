//! From observations and known instances to a graph.

use super::plausible::plausible;
use super::{Graph, Link, Neighbours, Node};
use crate::links::{LinkKey, LinkStats, NodeKey, NodeStats, Observation};
use std::collections::{BTreeMap, HashMap};
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
        Ok(self.topology(observation)?.graph(observation))
    }

    /// The graph's shape, for as long as the instances, the candidates and the keys of what is observed stay the same.
    ///
    /// # Errors
    /// When it would be larger than can be scored.
    pub fn topology(self, observation: &Observation) -> Result<Topology, GraphError> {
        let mut keys: Vec<&LinkKey> =
            observation.links.iter().map(|l| &l.key).chain(self.paths.iter().flatten()).collect();
        keys.sort_unstable();
        keys.dedup();
        let ends = keys.iter().flat_map(|k| [&k.source, &k.destination]);
        let mut node_keys: Vec<&NodeKey> = self.instances.keys().chain(ends).collect();
        node_keys.sort_unstable();
        node_keys.dedup();
        if node_keys.len() > MAX_NODES || keys.len() > MAX_LINKS {
            return Err(GraphError::TooLarge { nodes: node_keys.len(), links: keys.len() });
        }

        let empty: Arc<str> = "".into();
        let (mut hosts, mut places) = (HashMap::<&str, u32>::new(), Vec::with_capacity(node_keys.len()));
        let mut replicas: HashMap<Arc<str>, u32> = HashMap::new();
        for key in &node_keys {
            let known = self.instances.get(*key);
            let service = known.map_or(&empty, |i| &i.service);
            if !service.is_empty() {
                *replicas.entry(service.clone()).or_default() += 1;
            }
            let host = known.map(|i| &*i.host).filter(|h| !h.is_empty()).map(|host| {
                let next = hosts.len() as u32;
                *hosts.entry(host).or_insert(next)
            });
            let node = Node {
                key: (*key).clone(),
                service: service.clone(),
                zone: known.map_or_else(|| empty.clone(), |i| i.zone.clone()),
                stats: NodeStats::default(),
                replicas: 1,
                neighbours: Neighbours::default(),
            };
            places.push(Place { node, host });
        }
        for node in places.iter_mut().map(|p| &mut p.node) {
            node.replicas = replicas.get(&node.service).copied().unwrap_or(1);
        }

        let node_index: HashMap<&NodeKey, u32> = node_keys.iter().zip(0u32..).map(|(k, i)| (*k, i)).collect();
        let index_of = |key: &NodeKey| node_index.get(key).copied().unwrap_or_default();
        // Sorted keys give links sorted by source, then destination, as the contract wants its edges.
        let links = keys.iter().map(|key| (index_of(&key.source), index_of(&key.destination))).collect();
        let link_index: HashMap<&LinkKey, u32> = keys.iter().zip(0u32..).map(|(k, i)| (*k, i)).collect();
        let (mut path_offsets, mut path_links) = (vec![0u32], Vec::new());
        for path in &self.paths {
            path_links.extend(path.iter().filter_map(|key| link_index.get(key).copied()));
            path_offsets.push(path_links.len() as u32);
        }
        let seen_link = |key: &LinkKey| (key.clone(), link_index.get(key).copied().unwrap_or_default());
        let seen_node = |key: &NodeKey| (key.clone(), node_index.get(key).copied());
        Ok(Topology {
            seen_links: observation.links.iter().map(|l| seen_link(&l.key)).collect(),
            seen_nodes: observation.nodes.iter().map(|n| seen_node(&n.key)).collect(),
            hosts: hosts.len(),
            places,
            links,
            path_offsets,
            path_links,
        })
    }
}

/// Everything in a graph but what was observed. Sorting names and finding links by them costs more than all the rest
/// of a graph, and changes only with the mesh.
#[derive(Debug)]
pub struct Topology {
    places: Vec<Place>,
    hosts: usize,
    /// Source and destination of each link.
    links: Vec<(u32, u32)>,
    path_offsets: Vec<u32>,
    path_links: Vec<u32>,
    /// The links of the observation that it was made for, and which of the graph's links each is.
    seen_links: Vec<(LinkKey, u32)>,
    /// Likewise the nodes; one that nothing leads to or from is none of the graph's.
    seen_nodes: Vec<(NodeKey, Option<u32>)>,
}

/// A node that nothing was seen of yet, and which of the hosts it is on; none when unknown.
#[derive(Debug)]
struct Place {
    node: Node,
    host: Option<u32>,
}

impl Topology {
    /// Whether an observation is of the same links and nodes as the one that this was made for.
    #[must_use]
    pub fn fits(&self, observation: &Observation) -> bool {
        self.seen_links.iter().map(|(key, _)| key).eq(observation.links.iter().map(|l| &l.key))
            && self.seen_nodes.iter().map(|(key, _)| key).eq(observation.nodes.iter().map(|n| &n.key))
    }

    /// The graph of an observation that this fits.
    #[must_use]
    pub fn graph(&self, observation: &Observation) -> Graph {
        let unseen = |(source, destination): &(u32, u32)| Link {
            source: *source,
            destination: *destination,
            stats: LinkStats::default(),
        };
        let mut graph = Graph {
            nodes: self.places.iter().map(|p| p.node.clone()).collect(),
            links: self.links.iter().map(unseen).collect(),
            path_offsets: self.path_offsets.clone(),
            path_links: self.path_links.clone(),
            implausible: 0,
        };
        self.renew(observation, &mut graph);
        graph
    }

    /// Writes an observation that this fits over the one in a graph that this has made: nothing else changes.
    pub fn renew(&self, observation: &Observation, graph: &mut Graph) {
        for (seen, (_, index)) in observation.nodes.iter().zip(&self.seen_nodes) {
            if let Some(node) = index.and_then(|i| graph.nodes.get_mut(i as usize)) {
                node.stats = seen.stats;
            }
        }
        self.neighbours(&mut graph.nodes);
        graph.implausible = 0;
        for (seen, (_, index)) in observation.links.iter().zip(&self.seen_links) {
            let believed = plausible(&seen.stats);
            graph.implausible += usize::from(!believed);
            if let Some(link) = graph.links.get_mut(*index as usize) {
                link.stats = if believed { seen.stats } else { LinkStats::default() };
            }
        }
    }

    /// Fills in what is known of each node's neighbours: its host's sums less its own part.
    fn neighbours(&self, nodes: &mut [Node]) {
        let ln_slowdown = |s: &NodeStats| {
            let (mean, baseline) = (s.response_mean_s?, s.response_baseline_s?);
            (mean > 0.0 && baseline > 0.0).then(|| (mean / baseline).ln())
        };
        let mut hosts = vec![Host::default(); self.hosts];
        let slowdowns: Vec<Option<f32>> = nodes.iter().map(|n| ln_slowdown(&n.stats)).collect();
        for ((node, place), slowdown) in nodes.iter().zip(&self.places).zip(&slowdowns) {
            let Some(host) = place.host.and_then(|h| hosts.get_mut(h as usize)) else { continue };
            host.count += 1;
            for (sum, value) in [(&mut host.cpu, node.stats.cpu_utilization), (&mut host.ln_slowdown, *slowdown)] {
                *sum = value.map_or(*sum, |v| (sum.0 + v, sum.1 + 1));
            }
        }
        for ((node, place), slowdown) in nodes.iter_mut().zip(&self.places).zip(slowdowns) {
            let Some(host) = place.host.and_then(|h| hosts.get(h as usize)) else { continue };
            let others = |sum: (f32, u32), own: Option<f32>| {
                let (sum, count) = own.map_or(sum, |v| (sum.0 - v, sum.1 - 1));
                (count > 0).then(|| sum / count as f32)
            };
            node.neighbours = Neighbours {
                count: Some(host.count - 1),
                cpu_utilization: others(host.cpu, node.stats.cpu_utilization).map(|v| v.max(0.0)),
                slowdown: others(host.ln_slowdown, slowdown).map(f32::exp),
            };
        }
    }
}

/// A host's instances, summed up.
#[derive(Debug, Default, Clone, Copy)]
struct Host {
    count: u32,
    cpu: (f32, u32),
    ln_slowdown: (f32, u32),
}

#[cfg(test)]
mod tests {
    use super::super::Features;
    use super::super::features::{EDGE_FEATURES, NODE_FEATURES};
    use super::*;
    use crate::links::{LinkObservation, NodeObservation};

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
    fn a_link_told_with_absurdities_is_one_that_nobody_used() {
        let told = |of: &str, mean_s| LinkObservation {
            key: key("f", of),
            stats: LinkStats { latency_mean_s: Some(mean_s), calls_per_second: Some(5.0), ..LinkStats::default() },
        };
        let observation = Observation { links: vec![told("a", 0.02), told("b", 1e6)], nodes: vec![] };
        let graph = GraphBuilder::default().build(&observation).unwrap();
        assert_eq!(graph.implausible, 1);
        assert_eq!(graph.links[0].stats, observation.links[0].stats);
        assert_eq!(graph.links[1].stats, LinkStats::default());

        let topology = GraphBuilder::default().topology(&observation).unwrap();
        let mut renewed = topology.graph(&observation);
        for (b, implausible) in [(0.5, 0), (1e6, 1)] {
            let observation = Observation { links: vec![told("a", 0.03), told("b", b)], nodes: vec![] };
            topology.renew(&observation, &mut renewed);
            assert_eq!((&renewed, renewed.implausible), (&topology.graph(&observation), implausible));
        }
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
