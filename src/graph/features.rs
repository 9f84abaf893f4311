//! The model's inputs: raw physical units, flat arrays, NaN for what is unknown.
//!
//! Normalisation lives inside the ONNX graph, so no constant of training is here. The names below are the contract's:
//! a model file lists them in its metadata, and `scorer` refuses a file whose lists differ. A change of any of them is
//! a new `CONTRACT_VERSION`.
//!
//! Messages flow from the called to the caller (a node learns how its dependencies fare), so row 0 of `edges` holds
//! the called node, row 1 the caller, and edges are sorted by row 1, then row 0. Edge `i` is link `i` of the graph.

use super::{Graph, Neighbours};
use crate::links::{LinkStats, NodeStats};

/// The version of inputs, outputs and their meaning.
pub const CONTRACT_VERSION: u32 = 2;

/// The columns of `node_features`, `[N, 16]`.
pub const NODE_FEATURES: [&str; 16] = [
    "cpu_utilization",
    "memory_utilization",
    "application_utilization",
    "reported_requests_per_second",
    "reported_errors_per_second",
    "report_age_s",
    "in_flight",
    "calls_per_second",
    "response_mean_s",
    "response_p99_s",
    "error_rate",
    "replicas",
    "response_baseline_s",
    "neighbours",
    "neighbour_cpu_utilization",
    "neighbour_slowdown",
];

/// The columns of `edge_features`, `[E, 14]`.
pub const EDGE_FEATURES: [&str; 14] = [
    "latency_mean_s",
    "latency_p50_s",
    "latency_p90_s",
    "latency_p99_s",
    "latency_ewma_s",
    "jitter_s",
    "calls_per_second",
    "error_rate",
    "in_flight",
    "samples",
    "age_s",
    "same_zone",
    "latency_p10_s",
    "latency_baseline_s",
];

/// The inputs of one inference.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// `[N, 16]`, row by row.
    pub nodes: Vec<f32>,
    /// `[2, E]`: the called node of each edge, then the caller of each.
    pub edges: Vec<i64>,
    /// `[E, 14]`, row by row.
    pub edge_features: Vec<f32>,
    /// `[C + 1]`: where each candidate path's links begin in `path_links`, and the end.
    pub path_offsets: Vec<i64>,
    /// `[L]`: the links of all candidate paths, as indices of edges.
    pub path_links: Vec<i64>,
    /// Features of one number have the same `edges`, `path_offsets` and `path_links`, so that an engine can keep those;
    /// 0 where nobody can tell. No input of the model.
    pub shape: u64,
}

impl Features {
    /// N.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len() / NODE_FEATURES.len()
    }

    /// E.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.edges.len() / 2
    }

    /// C.
    #[must_use]
    pub fn candidate_count(&self) -> usize {
        self.path_offsets.len().saturating_sub(1)
    }

    /// Fills this with a graph's features, keeping the memory of the last time.
    pub fn fill(&mut self, graph: &Graph) {
        self.shape = 0;
        self.nodes.clear();
        for node in &graph.nodes {
            self.nodes.extend_from_slice(&node_row(&node.stats, node.replicas, &node.neighbours));
        }
        self.edges.clear();
        self.edges.extend(graph.links.iter().map(|l| i64::from(l.destination)));
        self.edges.extend(graph.links.iter().map(|l| i64::from(l.source)));
        self.edge_features.clear();
        for link in &graph.links {
            let zone = |i: u32| graph.nodes.get(i as usize).map(|n| &n.zone).filter(|z| !z.is_empty());
            let same_zone = zone(link.source).zip(zone(link.destination)).map(|(a, b)| f32::from(u8::from(a == b)));
            self.edge_features.extend_from_slice(&edge_row(&link.stats, same_zone));
        }
        self.path_offsets.clear();
        self.path_offsets.extend(graph.path_offsets.iter().map(|o| i64::from(*o)));
        self.path_links.clear();
        self.path_links.extend(graph.path_links.iter().map(|l| i64::from(*l)));
    }
}

impl Features {
    /// Writes what was seen in a graph over what this was filled with, from a graph of the same shape: zones, edges and
    /// paths are left as they are. Says whether it could; where it could not, nothing was written.
    pub fn renew(&mut self, graph: &Graph) -> bool {
        let counts = (self.node_count(), self.edge_count(), self.candidate_count());
        if counts != (graph.nodes.len(), graph.links.len(), graph.candidates()) {
            return false;
        }
        let (rows, _) = self.nodes.as_chunks_mut::<{ NODE_FEATURES.len() }>();
        for (row, node) in rows.iter_mut().zip(&graph.nodes) {
            *row = node_row(&node.stats, node.replicas, &node.neighbours);
        }
        let (rows, _) = self.edge_features.as_chunks_mut::<{ EDGE_FEATURES.len() }>();
        for (row, link) in rows.iter_mut().zip(&graph.links) {
            let [.., same_zone, _, _] = *row;
            *row = edge_row(&link.stats, Some(same_zone));
        }
        true
    }
}

const UNKNOWN: f32 = f32::NAN;

fn node_row(s: &NodeStats, replicas: u32, around: &Neighbours) -> [f32; NODE_FEATURES.len()] {
    [
        s.cpu_utilization.unwrap_or(UNKNOWN),
        s.memory_utilization.unwrap_or(UNKNOWN),
        s.application_utilization.unwrap_or(UNKNOWN),
        s.reported_requests_per_second.unwrap_or(UNKNOWN),
        s.reported_errors_per_second.unwrap_or(UNKNOWN),
        s.report_age_s.unwrap_or(UNKNOWN),
        s.in_flight,
        s.calls_per_second.unwrap_or(UNKNOWN),
        s.response_mean_s.unwrap_or(UNKNOWN),
        s.response_p99_s.unwrap_or(UNKNOWN),
        s.error_rate.unwrap_or(UNKNOWN),
        replicas as f32,
        s.response_baseline_s.unwrap_or(UNKNOWN),
        around.count.map_or(UNKNOWN, |n| n as f32),
        around.cpu_utilization.unwrap_or(UNKNOWN),
        around.slowdown.unwrap_or(UNKNOWN),
    ]
}

fn edge_row(s: &LinkStats, same_zone: Option<f32>) -> [f32; EDGE_FEATURES.len()] {
    [
        s.latency_mean_s.unwrap_or(UNKNOWN),
        s.latency_p50_s.unwrap_or(UNKNOWN),
        s.latency_p90_s.unwrap_or(UNKNOWN),
        s.latency_p99_s.unwrap_or(UNKNOWN),
        s.latency_ewma_s.unwrap_or(UNKNOWN),
        s.jitter_s.unwrap_or(UNKNOWN),
        s.calls_per_second.unwrap_or(UNKNOWN),
        s.error_rate.unwrap_or(UNKNOWN),
        s.in_flight,
        s.samples,
        s.age_s.unwrap_or(UNKNOWN),
        same_zone.unwrap_or(UNKNOWN),
        s.latency_p10_s.unwrap_or(UNKNOWN),
        s.latency_baseline_s.unwrap_or(UNKNOWN),
    ]
}
