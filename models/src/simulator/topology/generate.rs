//! Random applications of a given size: layers of services, each calling some of the layers below.
//!
//! Services of a layer call services of the layers below it, more often popular ones (popularity falls with a power of a
//! service's rank, as it does in published call graphs), so there are no cycles and a few services are called by many. The
//! out-degree is the mean over all services, stores included, who call nobody. A visit makes about one to two calls whatever
//! its out-degree is, so that a request's tree stays bounded while rarely used links come by themselves.

use super::{Edge, Endpoint, Kind, Node, Topology};
use crate::simulator::draw::Draw;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// How many services an application may have.
pub const SERVICES: RangeInclusive<usize> = 10..=10_000;
/// How many calls lead out of a service, on average.
pub const OUT_DEGREE: RangeInclusive<f64> = 1.5..=4.5;

/// Calls that fewer requests than this make are left out.
const RAREST: f64 = 3e-5;

/// A random application.
///
/// # Errors
/// When the size or the out-degree is outside `SERVICES` or `OUT_DEGREE`.
pub fn generate(services: usize, mean_out_degree: f64, draw: &mut Draw) -> Result<Topology> {
    if !SERVICES.contains(&services) || !OUT_DEGREE.contains(&mean_out_degree) {
        return Err(Error::Format(format!(
            "the generator makes {} to {} services with {} to {} calls out of each on average, not {services} with {mean_out_degree}",
            SERVICES.start(),
            SERVICES.end(),
            OUT_DEGREE.start(),
            OUT_DEGREE.end()
        )));
    }
    layered(services, mean_out_degree, draw)
}

/// A small application: a front end and one or a few services behind it.
///
/// # Errors
/// Never: its calls have no cycle.
pub fn tiny(services: usize, draw: &mut Draw) -> Result<Topology> {
    layered(services.clamp(2, 9), 1.0, draw)
}

fn layered(services: usize, mean_out_degree: f64, draw: &mut Draw) -> Result<Topology> {
    let layers = Layers::new(services, draw);
    let out = layers.edges(mean_out_degree, draw);
    let nodes = (0..services).map(|i| node(i, &layers, draw)).collect();
    // Each front end has one to three endpoints, which use its dependencies in different measure.
    let (mut endpoints, mut edges) = (Vec::new(), BTreeMap::<(usize, usize), Edge>::new());
    for front in 0..layers.ends[0] {
        let most = if services > 200 { 1 } else { 3 };
        for kind in 0..draw.whole(1, most) {
            let endpoint = endpoints.len();
            endpoints.push(Endpoint { name: format!("e{front}-{kind}").into(), mix: draw.log_uniform(0.1, 1.0) });
            walk(endpoint, front, &out, &mut edges, draw);
        }
    }
    let name = format!("generated-{services}");
    Topology::new(&name, nodes, endpoints, edges.into_values().collect())
        .map_err(|problems| Error::Format(problems.join("\n")))
}

/// Services in layers, by rising number; the first layer is the front ends, the last the stores.
#[derive(Debug)]
struct Layers {
    /// Where each layer ends.
    ends: Vec<usize>,
    /// How likely a service is called, in any unit.
    popularity: Vec<f64>,
}

impl Layers {
    fn new(services: usize, draw: &mut Draw) -> Self {
        let fronts = (services / 100).clamp(1, 20);
        let rest = services - fronts;
        let inner = match services {
            0..=3 => 1,
            4..=9 => draw.whole(1, 2),
            _ => draw.whole(2, 3 + services.ilog10() as usize),
        }
        .min(rest);
        // Layers of unequal size, none empty.
        let sizes: Vec<f64> = (0..inner).map(|_| draw.uniform(0.5, 1.5)).collect();
        let total: f64 = sizes.iter().sum();
        let mut ends = vec![fronts];
        let mut sum = 0.0;
        for (i, size) in sizes.iter().enumerate() {
            sum += size;
            let least = ends[i] + 1;
            let most = services - (inner - 1 - i);
            ends.push((fronts + (rest as f64 * sum / total).round() as usize).clamp(least, most));
        }
        let mut popularity = vec![0.0; services];
        let exponent = draw.uniform(0.5, 1.0);
        for layer in ends.windows(2) {
            let all: Vec<usize> = (layer[0]..layer[1]).collect();
            for (rank, service) in draw.some(&all, all.len()).into_iter().enumerate() {
                popularity[service] = (rank as f64 + 1.0).powf(-exponent);
            }
        }
        Self { ends, popularity }
    }

    fn layer(&self, service: usize) -> usize {
        self.ends.partition_point(|end| *end <= service)
    }

    fn is_store(&self, service: usize) -> bool {
        self.ends.len() > 2 && self.layer(service) + 1 == self.ends.len()
    }

    /// For each service whom it calls.
    fn edges(&self, mean_out_degree: f64, draw: &mut Draw) -> Vec<BTreeSet<usize>> {
        let services = self.popularity.len();
        let last = self.ends.len() - 1;
        let mut out = vec![BTreeSet::new(); services];
        let mut count = 0;
        // Everybody is called by somebody of the layer above.
        for layer in 1..=last {
            let from = if layer == 1 { 0 } else { self.ends[layer - 2] };
            for service in self.ends[layer - 1]..self.ends[layer] {
                let caller = draw.whole(from, self.ends[layer - 1] - 1);
                count += usize::from(out[caller].insert(service));
            }
        }
        let callers = self.ends[last - 1];
        let below: Vec<Cumulative> =
            (0..last).map(|layer| Cumulative::new(self.ends[layer], &self.popularity)).collect();
        let wanted = (services as f64 * mean_out_degree).round() as usize;
        let mut tries = 20 * wanted;
        while count < wanted && tries > 0 {
            tries -= 1;
            let caller = draw.whole(0, callers - 1);
            count += usize::from(out[caller].insert(below[self.layer(caller)].draw(draw)));
        }
        out
    }
}

/// Draws services from a layer's end on by their popularity.
#[derive(Debug)]
struct Cumulative {
    first: usize,
    sums: Vec<f64>,
}

impl Cumulative {
    fn new(first: usize, popularity: &[f64]) -> Self {
        let add = |sum: &mut f64, p: &f64| {
            *sum += p;
            Some(*sum)
        };
        Self { first, sums: popularity[first..].iter().scan(0.0, add).collect() }
    }

    fn draw(&self, draw: &mut Draw) -> usize {
        let at = draw.uniform(0.0, self.sums.last().copied().unwrap_or_default());
        self.first + self.sums.partition_point(|sum| *sum < at).min(self.sums.len() - 1)
    }
}

fn node(i: usize, layers: &Layers, draw: &mut Draw) -> Node {
    let kind = match layers.layer(i) {
        0 => Kind::Frontend,
        _ if !layers.is_store(i) => Kind::Service,
        _ if draw.chance(0.5) => Kind::Cache,
        _ => Kind::Database,
    };
    let prefix = match kind {
        Kind::Frontend => "front",
        Kind::Cache => "cache",
        Kind::Database => "database",
        Kind::Service | Kind::Aside => "service",
    };
    Node { name: format!("{prefix}-{i}").into(), kind, work_ms: None, sigma: None }
}

/// Adds an endpoint's calls: from its front end down, layer by layer, each visited service makes about one to two calls.
fn walk(
    endpoint: usize,
    front: usize,
    out: &[BTreeSet<usize>],
    edges: &mut BTreeMap<(usize, usize), Edge>,
    draw: &mut Draw,
) {
    let mut visits = BTreeMap::from([(front, 1.0)]);
    // Services are numbered by layer, so the least open one has all its callers behind it.
    while let Some((service, visited)) = visits.pop_first() {
        let called = &out[service];
        if called.is_empty() {
            continue;
        }
        // Deep applications must branch less for a request to stay small.
        let budget = if service == front { draw.uniform(1.5, 3.0) } else { draw.uniform(0.7, 1.7) };
        let weights: Vec<f64> = called.iter().map(|_| draw.log_uniform(0.05, 1.0)).collect();
        let total: f64 = weights.iter().sum();
        let side_by_side = draw.chance(0.4);
        for (i, (callee, weight)) in called.iter().zip(&weights).enumerate() {
            let per_visit = (weight / total * budget).min(1.0);
            // Most services surely make their main calls; the rest of the time a call depends on the request.
            let per_visit = if per_visit > 0.6 { 1.0 } else { per_visit };
            let calls = per_visit * visited;
            if calls < RAREST {
                continue;
            }
            *visits.entry(*callee).or_insert(0.0) += calls;
            let edge = edges.entry((service, *callee)).or_insert_with(|| Edge {
                caller: service,
                callee: *callee,
                stage: if side_by_side { 1 } else { i as u64 + 1 },
                group: side_by_side.then(|| "all".into()),
                calls: BTreeMap::new(),
            });
            edge.calls.insert(endpoint, calls);
        }
    }
}
