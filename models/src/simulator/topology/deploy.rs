//! From an application to a mesh: how many replicas, on which machines, how far apart, how busy.
//!
//! A `Plan` says how; `deploy` draws the rest. Sizes follow from the load: a replica of a service with arrival rate `r`, mean
//! work `w` and `c` workers is to be busy a share `u = r w / c` of the time at load 1, and `u` is drawn for each service.
//! Where even one worker would have too little to do, the service's work grows within bounds, as it does where containers
//! are given parts of a processor. Workers that wait for calls (threads) are as many as their requests' whole stay needs.
//!
//! Round trips are those that public clouds publish: 95 us within a zone, 1.39 ms between zones of a region, 13 ms and up
//! between regions (Frankfurt to London 13, Dallas to Toronto 34, Madrid to London 27).

use super::{Kind, Node, Topology};
use crate::simulator::draw::Draw;
use crate::simulator::mesh::{
    Call, Entry, Handler, Host, Instance, Mesh, Network, Pair, Route, Service, Shape, Work, WorkPart,
};
use pathloom::links::NodeKey;
use std::collections::{BTreeMap, BTreeSet};

/// The round trip within a zone and between two of a region, in seconds.
pub const RTT_WITHIN_S: f64 = 95e-6;
/// The round trip between two zones of a region, in seconds.
pub const RTT_BETWEEN_S: f64 = 1.39e-3;
/// Round trips to a neighbouring region, in seconds.
const RTT_REGIONS_S: [f64; 4] = [13e-3, 27e-3, 29e-3, 34e-3];
/// At most so many instances are on a host, on average.
const INSTANCES_PER_HOST: usize = 10;

/// How alike a fleet's machines are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Machines {
    /// Within a percent.
    Equal,
    /// Half of the hosts are of an older generation, which takes this many times as long.
    Generations(f64),
    /// Each instance its own, with this deviation of the logarithm.
    Spread(f64),
}

/// How an application is deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Requests a second that enter at load 1.
    pub rate: f64,
    /// Replicas of front ends, from and to.
    pub front_ends: (usize, usize),
    /// Replicas of services, from and to.
    pub services: (usize, usize),
    /// Replicas of caches and databases, from and to.
    pub stores: (usize, usize),
    /// How many zones.
    pub zones: usize,
    /// The round trip to the last zone in seconds, where that is in another region.
    pub far_s: Option<f64>,
    /// The machines.
    pub machines: Machines,
    /// How busy a service's workers are at load 1, from and to.
    pub utilisation: (f64, f64),
    /// How busy the hosts' processors are at load 1.
    pub crowding: f64,
    /// How much each service's work differs from what the topology says: the deviation of the logarithm.
    pub work_sigma: f64,
    /// The share of services with a rare, slow part in their work.
    pub slow_parts: f64,
    /// The share of services whose workers stay busy while they wait for calls.
    pub holding: f64,
    /// The share of services that report their load.
    pub reporting: f64,
}

impl Plan {
    /// The same everywhere: three replicas of everything on equal machines in one zone, 40% busy; for tests and examples.
    #[must_use]
    pub fn plain(rate: f64) -> Self {
        Self {
            rate,
            front_ends: (3, 3),
            services: (3, 3),
            stores: (3, 3),
            zones: 1,
            far_s: None,
            machines: Machines::Equal,
            utilisation: (0.4, 0.4),
            crowding: 0.4,
            work_sigma: 0.0,
            slow_parts: 0.0,
            holding: 0.0,
            reporting: 1.0,
        }
    }

    /// A random deployment with this many requests a second.
    pub fn random(rate: f64, draw: &mut Draw) -> Self {
        let zones = draw.one(&[1, 2, 2, 3, 3]).unwrap_or(1);
        let far_s = if zones > 1 && draw.chance(0.1) { draw.one(&RTT_REGIONS_S) } else { None };
        let machines = match draw.uniform(0.0, 1.0) {
            u if u < 0.4 => Machines::Equal,
            u if u < 0.65 => Machines::Generations(draw.log_uniform(1.3, 4.0)),
            _ => Machines::Spread(draw.uniform(0.05, 0.8)),
        };
        let services = draw.one(&[(1, 3), (2, 4), (2, 6), (2, 8)]).unwrap_or((2, 4));
        Self {
            rate,
            front_ends: (1, 3),
            services,
            stores: (1, draw.whole(1, 3)),
            zones,
            far_s,
            machines,
            utilisation: (0.1, 0.7),
            crowding: draw.uniform(0.15, 0.6),
            work_sigma: draw.uniform(0.0, 0.5),
            slow_parts: draw.one(&[0.0, 0.2, 0.5]).unwrap_or(0.2),
            holding: draw.one(&[0.0, 0.1, 0.3]).unwrap_or(0.1),
            reporting: draw.one(&[0.0, 0.0, 0.5, 0.8, 1.0]).unwrap_or(0.8),
        }
    }

    /// A random deployment of the Social Network: enough requests that most links are used often in ten seconds.
    pub fn social_network(draw: &mut Draw) -> Self {
        let rate = draw.log_uniform(700.0, 1_800.0);
        let services = draw.one(&[(2, 3), (2, 3), (2, 4)]).unwrap_or((2, 3));
        Self { front_ends: (1, 2), services, stores: (1, 2), ..Self::random(rate, draw) }
    }

    fn replicas(&self, kind: Kind, draw: &mut Draw) -> usize {
        let (least, most) = match kind {
            Kind::Frontend => self.front_ends,
            Kind::Service | Kind::Aside => self.services,
            Kind::Cache | Kind::Database => self.stores,
        };
        draw.whole(least, most).max(1)
    }
}

/// Deploys an application.
#[must_use]
pub fn deploy(topology: &Topology, plan: &Plan, draw: &mut Draw) -> Mesh {
    let mut services = Services::of(topology, plan, draw);
    services.size(plan, draw);
    let hosts = hosts(plan, &services, draw);
    let (instances, replicas) = place(&services, plan, &hosts, draw);
    let mut list = Vec::with_capacity(services.sized.len());
    for (sized, replicas) in services.sized.into_iter().zip(replicas) {
        list.push(Service { replicas, ..sized.service });
    }
    let (pairs, routes) = routes(&list, &instances);
    let network = network(plan, draw);
    Mesh {
        name: topology.name.clone(),
        services: list,
        instances,
        hosts,
        pairs,
        routes,
        entries: services.entries,
        network,
    }
}

/// A service with what its sizes follow from.
#[derive(Debug)]
struct Sized {
    service: Service,
    kind: Kind,
    /// For each handler, arrivals a second at load 1, over all replicas.
    rates: Vec<f64>,
    count: usize,
}

impl Sized {
    /// Arrivals a second at one replica.
    fn rate(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.count as f64
    }

    /// The mean work of a request.
    fn work_s(&self) -> f64 {
        let total: f64 = self.rates.iter().sum();
        let busy: f64 = self.rates.iter().zip(&self.service.handlers).map(|(r, h)| r * mean_s(&h.work)).sum();
        if total > 0.0 { busy / total } else { 0.0 }
    }
}

/// The mean of a mixture in seconds.
fn mean_s(work: &Work) -> f64 {
    work.parts.iter().map(|p| p.share * p.mean_s).sum()
}

#[derive(Debug)]
struct Services {
    sized: Vec<Sized>,
    entries: Vec<Entry>,
    /// For each handler, in the order callers before called: service and handler.
    order: Vec<(usize, usize)>,
}

impl Services {
    /// The services that requests visit, with handlers for what they are visited by, and unsized.
    fn of(topology: &Topology, plan: &Plan, draw: &mut Draw) -> Self {
        let load = topology.shares();
        // For each node, the endpoints that visit it.
        let mut visitors: Vec<BTreeMap<usize, (f64, usize)>> = vec![BTreeMap::new(); topology.nodes.len()];
        for (endpoint, share) in &load {
            for (node, visits) in topology.visits(*endpoint).into_iter().enumerate().filter(|(_, v)| *v > 0.0) {
                let handler = visitors[node].len();
                visitors[node].insert(*endpoint, (plan.rate * share * visits, handler));
            }
        }
        let mut number = vec![None; topology.nodes.len()];
        let visited = (0..topology.nodes.len()).filter(|n| !visitors[*n].is_empty());
        visited.enumerate().for_each(|(service, node)| number[node] = Some(service));
        let mut called: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); topology.nodes.len()];
        for edge in &topology.edges {
            if load.iter().any(|(endpoint, _)| edge.calls.contains_key(endpoint)) {
                called[edge.caller].extend(number[edge.callee]);
            }
        }
        let mut sized: Vec<Sized> = Vec::new();
        for (node, visitors) in topology.nodes.iter().zip(&visitors).filter(|(_, v)| !v.is_empty()) {
            let base = base_work(node, plan, draw);
            let one = visitors.len() == 1;
            let handlers = visitors.iter().map(|_| {
                let factor = if one || plan.work_sigma == 0.0 { 1.0 } else { draw.log_uniform(0.7, 1.4) };
                let parts = base.parts.iter().map(|p| WorkPart { mean_s: p.mean_s * factor, ..*p }).collect();
                Handler { work: Work { parts }, stages: Vec::new(), bytes: bytes(node.kind, draw) }
            });
            let handlers = handlers.collect();
            let service = Service {
                name: node.name.clone(),
                replicas: Vec::new(),
                called: Vec::new(),
                handlers,
                workers: 1,
                queue: draw.one(&[64, 128, 256, 512]).unwrap_or(128),
                holds_worker: node.kind == Kind::Service && draw.chance(plan.holding),
                reports: draw.chance(plan.reporting),
            };
            let rates = visitors.values().map(|(rate, _)| *rate).collect();
            let count = plan.replicas(node.kind, draw);
            sized.push(Sized { service, kind: node.kind, rates, count });
        }
        for (node, called) in called.into_iter().enumerate() {
            if let Some(service) = number[node] {
                sized[service].service.called = called.into_iter().collect();
            }
        }
        let (mut entries, mut order) = (Vec::new(), Vec::new());
        for (endpoint, share) in &load {
            for (node, stages) in topology.stages(*endpoint).into_iter().enumerate() {
                let (Some(service), Some((_, handler))) = (number[node], visitors[node].get(endpoint)) else {
                    continue;
                };
                let called = sized[service].service.called.clone();
                let call = |(callee, times): (usize, f64)| {
                    let dependency = called.binary_search(&number[callee]?).ok()?;
                    Some(Call { dependency, handler: visitors[callee].get(endpoint)?.1, times })
                };
                let stages = stages.into_iter().map(|stage| stage.into_iter().filter_map(call).collect()).collect();
                sized[service].service.handlers[*handler].stages = stages;
            }
            for node in topology.order(*endpoint) {
                if let (Some(service), Some((_, handler))) = (number[node], visitors[node].get(endpoint)) {
                    order.push((service, *handler));
                }
            }
            if let Some((service, node)) = topology.entry(*endpoint).and_then(|node| Some((number[node]?, node)))
                && let Some((_, handler)) = visitors[node].get(endpoint)
            {
                let name = topology.endpoints[*endpoint].name.clone();
                entries.push(Entry { name, service, handler: *handler, rate: plan.rate * share });
            }
        }
        Self { sized, entries, order }
    }

    /// Sizes work and workers for the load.
    fn size(&mut self, plan: &Plan, draw: &mut Draw) {
        for sized in &mut self.sized {
            let utilisation = draw.uniform(plan.utilisation.0, plan.utilisation.1);
            let wanted = sized.rate() * sized.work_s() / utilisation;
            let (workers, growth) = if wanted >= 1.0 {
                // Enough workers, or few whose work is shorter: both are found.
                (wanted.round().max(1.0), 1.0)
            } else {
                let most = match sized.kind {
                    Kind::Frontend => 1.5,
                    Kind::Cache => 2.0,
                    _ => 4.0,
                };
                (1.0, (1.0 / wanted).min(most))
            };
            // Two half as fast are as good as one, and wait less.
            let split = if sized.kind == Kind::Frontend { 4.0 } else { draw.one(&[1.0, 1.0, 2.0, 4.0]).unwrap_or(1.0) };
            sized.service.workers = (workers * split) as usize;
            let work = sized.service.handlers.iter_mut().flat_map(|h| h.work.parts.iter_mut());
            work.for_each(|part| part.mean_s *= growth);
        }
        self.size_holders(plan);
    }

    /// Workers that wait for calls must be enough for their requests' whole stay.
    fn size_holders(&mut self, plan: &Plan) {
        let mut stay: Vec<Vec<f64>> = self.sized.iter().map(|s| vec![0.0; s.rates.len()]).collect();
        for (service, handler) in self.order.iter().rev().copied() {
            let of = &self.sized[service].service;
            let called = |call: &Call| {
                let time = RTT_BETWEEN_S + stay[of.called[call.dependency]][call.handler];
                call.times.min(1.0) * time
            };
            let stage = |stage: &Vec<Call>| stage.iter().map(called).fold(0.0, f64::max);
            let handlers = &of.handlers[handler];
            stay[service][handler] = mean_s(&handlers.work) + handlers.stages.iter().map(stage).sum::<f64>();
        }
        for (sized, stay) in self.sized.iter_mut().zip(&stay).filter(|(s, _)| s.service.holds_worker) {
            let present: f64 = sized.rates.iter().zip(stay).map(|(r, s)| r * s).sum::<f64>() / sized.count as f64;
            let wanted = (present / plan.utilisation.1.min(0.5)).ceil() as usize;
            sized.service.workers = sized.service.workers.max(wanted);
        }
    }
}

/// How long a node works, where need be by its kind: a log-normal body, and sometimes a rare, slow part.
fn base_work(node: &Node, plan: &Plan, draw: &mut Draw) -> Work {
    let mean_ms = node.work_ms.unwrap_or_else(|| match node.kind {
        Kind::Frontend => draw.log_uniform(0.5, 1.5),
        Kind::Service | Kind::Aside => draw.log_uniform(0.6, 8.0),
        Kind::Cache => draw.log_uniform(0.3, 1.0),
        Kind::Database => draw.log_uniform(1.0, 15.0),
    });
    let sigma = node.sigma.unwrap_or_else(|| match node.kind {
        Kind::Frontend | Kind::Cache => draw.uniform(0.3, 0.5),
        _ => draw.uniform(0.3, 0.9),
    });
    let spread = if plan.work_sigma > 0.0 { draw.spread(plan.work_sigma) } else { 1.0 };
    let mean_s = mean_ms * 1e-3 * spread;
    if !draw.chance(plan.slow_parts) {
        return Work { parts: vec![WorkPart { share: 1.0, mean_s, shape: Shape::LogNormal(sigma) }] };
    }
    let (rare, times) = (draw.log_uniform(0.002, 0.015), draw.uniform(5.0, 15.0));
    let body_s = mean_s / (1.0 - rare + rare * times);
    Work {
        parts: vec![
            WorkPart { share: 1.0 - rare, mean_s: body_s, shape: Shape::LogNormal(sigma) },
            WorkPart { share: rare, mean_s: body_s * times, shape: Shape::LogNormal(0.5) },
        ],
    }
}

/// Request and answer together, in bytes.
fn bytes(kind: Kind, draw: &mut Draw) -> f64 {
    match kind {
        Kind::Cache => draw.log_uniform(200.0, 5_000.0),
        _ => draw.log_uniform(500.0, 30_000.0),
    }
}

/// Hosts with enough processors for all, in zones by turns.
fn hosts(plan: &Plan, services: &Services, draw: &mut Draw) -> Vec<Host> {
    let zones = plan.zones.max(1);
    let demand: f64 = services.sized.iter().map(|s| s.rate() * s.work_s() * s.count as f64).sum();
    let instances: usize = services.sized.iter().map(|s| s.count).sum();
    let least = instances.div_ceil(INSTANCES_PER_HOST).max(zones);
    let (mut hosts, mut cores) = (Vec::new(), 0.0);
    while hosts.len() < least || cores * plan.crowding < demand {
        let of = draw.one(&[4.0, 8.0, 8.0, 16.0]).unwrap_or(8.0);
        cores += of;
        let zone = hosts.len() % zones;
        hosts.push(Host { name: format!("host-{}", hosts.len()).into(), zone, cores: of });
    }
    hosts
}

/// Instances on hosts: each on the less busy of some hosts, apart from its service's others where that can be.
fn place(services: &Services, plan: &Plan, hosts: &[Host], draw: &mut Draw) -> (Vec<Instance>, Vec<Vec<usize>>) {
    let generation: Vec<f64> = hosts
        .iter()
        .map(|_| match plan.machines {
            Machines::Generations(older) if draw.chance(0.5) => older,
            _ => 1.0,
        })
        .collect();
    let mut demand = vec![0.0; hosts.len()];
    let (mut instances, mut replicas) = (Vec::new(), Vec::new());
    for (service, sized) in services.sized.iter().enumerate() {
        let (first, each) = (instances.len(), sized.rate() * sized.work_s());
        let mut own: Vec<usize> = Vec::new();
        for i in 0..sized.count {
            let tried = (0..4).map(|_| draw.whole(0, hosts.len() - 1));
            let crowded = |h: &usize| {
                let with = own.iter().filter(|o| *o == h).count() as f64;
                demand[*h] / hosts[*h].cores + 10.0 * with
            };
            let host = tried.min_by(|a, b| crowded(a).total_cmp(&crowded(b))).unwrap_or_default();
            demand[host] += each;
            own.push(host);
            let slowness = match plan.machines {
                Machines::Spread(sigma) => draw.spread(sigma),
                _ => generation[host] * draw.uniform(0.99, 1.01),
            };
            let key = NodeKey::new(&format!("{}-{i}", sized.service.name));
            instances.push(Instance { key, service, host, slowness, alive_s: None });
        }
        replicas.push((first..instances.len()).collect());
    }
    (instances, replicas)
}

/// All possible links, and for each instance its routes.
fn routes(services: &[Service], instances: &[Instance]) -> (Vec<Pair>, Vec<Vec<Route>>) {
    let mut pairs = Vec::new();
    let mut routes = Vec::with_capacity(instances.len());
    for (source, instance) in instances.iter().enumerate() {
        let mut own = Vec::new();
        for called in &services[instance.service].called {
            let first = pairs.len();
            pairs.extend(services[*called].replicas.iter().map(|d| Pair { source, destination: *d }));
            own.push(Route { pairs: (first..pairs.len()).collect() });
        }
        routes.push(own);
    }
    (pairs, routes)
}

fn network(plan: &Plan, draw: &mut Draw) -> Network {
    let zones = plan.zones.max(1);
    let mut rtt_s = vec![vec![0.0; zones]; zones];
    for (a, b) in (0..zones).flat_map(|a| (a..zones).map(move |b| (a, b))) {
        let rtt = match plan.far_s {
            _ if a == b => RTT_WITHIN_S * draw.uniform(0.8, 1.3),
            Some(far_s) if b == zones - 1 => far_s * draw.uniform(0.95, 1.05),
            _ => RTT_BETWEEN_S * draw.uniform(0.4, 1.8),
        };
        (rtt_s[a][b], rtt_s[b][a]) = (rtt, rtt);
    }
    Network {
        rtt_s,
        local_s: draw.uniform(20e-6, 40e-6),
        sigma: draw.uniform(0.1, 0.35),
        tail: (draw.log_uniform(0.0005, 0.005), draw.uniform(5.0, 20.0)),
        loss: draw.log_uniform(1e-7, 1e-5),
        retransmit_s: 0.2,
        bandwidth: draw.one(&[125e6, 312e6, 1.25e9]).unwrap_or(125e6),
        overhead_s: draw.log_uniform(50e-6, 400e-6),
    }
}
