//! Applications: which services call which, how often, and in which order, before anybody decides on machines.
//!
//! A topology is what a file describes (`file`) or the generator draws (`generate`); `deploy` gives it replicas, hosts and a
//! network, and so makes a `Mesh`. What a service does depends on the endpoint that a request entered by: there is one
//! handler for each (service, endpoint). With `calls(e)` an edge's calls per request of that endpoint,
//! ```text
//! visits(s)        = 1 for the endpoint's entry, else the sum of calls(e) over the edges e into s
//! calls per visit  = calls(e) / visits(caller of e)
//! ```
//! so each endpoint's calls must be free of cycles; two endpoints may call in opposite directions.
//!
//! Left out: calls that are not awaited run as if they were; what a cache holds is a mean, not a state.

pub mod deploy;
pub mod file;
pub mod generate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a node is, which says how long it works and how it is deployed where a file says nothing of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Takes requests from outside.
    Frontend,
    /// Computes and calls others.
    Service,
    /// Answers from memory.
    Cache,
    /// Answers from disk.
    Database,
    /// Is on no request's path: tracing, discovery.
    Aside,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: Kind,
    /// Its mean work on a request in milliseconds, where that is known.
    pub work_ms: Option<f64>,
    /// The standard deviation of its work's logarithm, where that is known.
    pub sigma: Option<f64>,
}

/// A kind of request from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its name.
    pub name: Arc<str>,
    /// Its part of the load, in any unit; endpoints without one are never called.
    pub mix: f64,
}

/// A kind of call.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// The calling node.
    pub caller: usize,
    /// The called node.
    pub callee: usize,
    /// Calls of a handler are made in rising order of this.
    pub stage: u64,
    /// Calls of one stage and group run side by side, those without a group one after another.
    pub group: Option<Arc<str>>,
    /// For each endpoint that makes it, how often a request does; never zero.
    pub calls: BTreeMap<usize, f64>,
}

/// An application.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Its name.
    pub name: Arc<str>,
    /// Its services.
    pub nodes: Vec<Node>,
    /// Its kinds of requests.
    pub endpoints: Vec<Endpoint>,
    /// Its calls.
    pub edges: Vec<Edge>,
    /// For each endpoint, where it enters; none for one that calls nothing.
    entries: Vec<Option<usize>>,
}

/// A call as a handler makes it: the called node and how often a visit makes it.
pub type Step = (usize, f64);

/// A handler's calls by stage, group and, without a group, edge.
type Ordered<'a> = BTreeMap<(u64, Option<&'a str>, usize), Vec<Step>>;

/// The longest run of single calls that a repeated one is taken apart into.
const LONGEST_RUN: usize = 16;

impl Topology {
    /// The Social Network of DeathStarBench.
    ///
    /// # Errors
    /// Never, but for a build whose own file is broken.
    pub fn social_network() -> crate::Result<Self> {
        file::parse("social-network.json", include_str!("../../../topologies/social-network.json"))
    }

    /// The hotel application of DeathStarBench.
    ///
    /// # Errors
    /// Never, but for a build whose own file is broken.
    pub fn hotel_reservation() -> crate::Result<Self> {
        file::parse("hotel-reservation.json", include_str!("../../../topologies/hotel-reservation.json"))
    }

    /// A shop of four services.
    ///
    /// # Errors
    /// Never, but for a build whose own file is broken.
    pub fn e_commerce() -> crate::Result<Self> {
        file::parse("e-commerce.json", include_str!("../../../topologies/e-commerce.json"))
    }

    /// Reads a topology from a JSON file.
    ///
    /// # Errors
    /// When it cannot be read, or says what no topology can be: all of it, each with what to do about it.
    pub fn load(path: &std::path::Path) -> crate::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(crate::Error::at(path))?;
        file::parse(&path.display().to_string(), &text)
    }

    /// An application of these parts.
    ///
    /// # Errors
    /// What no application can be, in words: a cycle, two entries, a caller that nobody calls.
    pub fn new(
        name: &str,
        nodes: Vec<Node>,
        endpoints: Vec<Endpoint>,
        edges: Vec<Edge>,
    ) -> std::result::Result<Self, Vec<String>> {
        let mut topology = Self { name: name.into(), nodes, endpoints, edges, entries: Vec::new() };
        let mut problems = Vec::new();
        for endpoint in 0..topology.endpoints.len() {
            match topology.entry_of(endpoint) {
                Ok(entry) => topology.entries.push(entry),
                Err(problem) => problems.push(format!("endpoint `{}`: {problem}", topology.endpoints[endpoint].name)),
            }
        }
        if topology.endpoints.iter().all(|e| e.mix <= 0.0) {
            problems.push("endpoints: none has a `mix` above 0; give at least one its share of the load".into());
        }
        if problems.is_empty() { Ok(topology) } else { Err(problems) }
    }

    /// Where an endpoint's requests enter.
    #[must_use]
    pub fn entry(&self, endpoint: usize) -> Option<usize> {
        self.entries.get(endpoint).copied().flatten()
    }

    /// The endpoints with a share of the load, and that share; the shares sum to 1.
    #[must_use]
    pub fn shares(&self) -> Vec<(usize, f64)> {
        let total: f64 = self.endpoints.iter().map(|e| e.mix).sum();
        let used = self.endpoints.iter().enumerate().filter(|(i, e)| e.mix > 0.0 && self.entry(*i).is_some());
        used.map(|(i, e)| (i, e.mix / total)).collect()
    }

    /// How often a request of an endpoint visits each node.
    #[must_use]
    pub fn visits(&self, endpoint: usize) -> Vec<f64> {
        let mut visits = vec![0.0; self.nodes.len()];
        if let Some(entry) = self.entry(endpoint) {
            visits[entry] = 1.0;
        }
        for edge in &self.edges {
            visits[edge.callee] += edge.calls.get(&endpoint).copied().unwrap_or_default();
        }
        visits
    }

    /// What each node calls for an endpoint: stage after stage, the calls of a stage side by side.
    #[must_use]
    pub fn stages(&self, endpoint: usize) -> Vec<Vec<Vec<Step>>> {
        let visits = self.visits(endpoint);
        // For each node: (stage, group) and its calls, those without a group apart.
        let mut ordered: Vec<Ordered<'_>> = vec![Ordered::new(); self.nodes.len()];
        for (i, edge) in self.edges.iter().enumerate() {
            let Some(calls) = edge.calls.get(&endpoint) else { continue };
            let single = if edge.group.is_some() { 0 } else { i };
            let key = (edge.stage, edge.group.as_deref(), single);
            ordered[edge.caller].entry(key).or_default().push((edge.callee, calls / visits[edge.caller]));
        }
        let taken_apart = |((_, group, _), steps): ((u64, Option<&str>, usize), Vec<Step>)| match steps[..] {
            // A call that is repeated outside of a group is made time after time.
            [(callee, times)] if group.is_none() && times > 1.0 => {
                let runs = (times.ceil() as usize).min(LONGEST_RUN);
                vec![vec![(callee, times / runs as f64)]; runs]
            }
            _ => vec![steps],
        };
        ordered.into_iter().map(|stages| stages.into_iter().flat_map(taken_apart).collect()).collect()
    }

    /// The nodes of an endpoint, callers before whom they call.
    #[must_use]
    pub fn order(&self, endpoint: usize) -> Vec<usize> {
        self.sorted(endpoint).0
    }

    /// The nodes of an endpoint in calling order, and those that a cycle keeps from having a place in it.
    fn sorted(&self, endpoint: usize) -> (Vec<usize>, BTreeSet<usize>) {
        let mut callers = vec![0usize; self.nodes.len()];
        let mut called: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        let mut open = BTreeSet::new();
        for edge in self.edges.iter().filter(|e| e.calls.contains_key(&endpoint)) {
            callers[edge.callee] += 1;
            called[edge.caller].push(edge.callee);
            open.extend([edge.caller, edge.callee]);
        }
        let mut order: Vec<usize> = open.iter().copied().filter(|n| callers[*n] == 0).collect();
        let mut done = 0;
        while let Some(node) = order.get(done).copied() {
            done += 1;
            open.remove(&node);
            for callee in &called[node] {
                callers[*callee] -= 1;
                if callers[*callee] == 0 {
                    order.push(*callee);
                }
            }
        }
        (order, open)
    }

    /// Where an endpoint enters; none when it calls nothing.
    fn entry_of(&self, endpoint: usize) -> std::result::Result<Option<usize>, String> {
        let (order, stuck) = self.sorted(endpoint);
        if let Some(first) = stuck.first() {
            return Err(format!(
                "its calls run in a cycle, {}; remove one of them",
                self.cycle(endpoint, *first, &stuck)
            ));
        }
        let called: BTreeSet<usize> =
            self.edges.iter().filter(|e| e.calls.contains_key(&endpoint)).map(|e| e.callee).collect();
        let roots: Vec<usize> = order.into_iter().filter(|n| !called.contains(n)).collect();
        match roots[..] {
            [] => Ok(None),
            [entry] => Ok(Some(entry)),
            _ => {
                let names: Vec<&str> = roots.iter().map(|n| &*self.nodes[*n].name).collect();
                Err(format!(
                    "nobody calls {}, but only the entry may stand uncalled; add the calls to the others, or remove theirs",
                    names.join(" and ")
                ))
            }
        }
    }

    /// A cycle's names, found by following callees that are stuck from one that is.
    fn cycle(&self, endpoint: usize, from: usize, stuck: &BTreeSet<usize>) -> String {
        // Backwards, because behind a cycle there may be nodes that are stuck and lead nowhere; ahead of each is a caller.
        let mut path = vec![from];
        loop {
            let last = path[path.len() - 1];
            let caller = self
                .edges
                .iter()
                .find(|e| e.callee == last && e.calls.contains_key(&endpoint) && stuck.contains(&e.caller));
            let Some(edge) = caller else { break };
            if let Some(at) = path.iter().position(|n| *n == edge.caller) {
                path.drain(..at);
                path.push(edge.caller);
                break;
            }
            path.push(edge.caller);
        }
        path.reverse();
        path.iter().map(|n| &*self.nodes[*n].name).collect::<Vec<_>>().join(" -> ")
    }
}

#[cfg(test)]
mod tests;
