//! A random mesh: services in tiers, their replicas in zones, who calls whom, and how each balances its calls.
//!
//! Service 0 is the gateways, where requests enter. Work is sized from the load: with `w` workers, a replica's arrival
//! rate `r` and a utilisation `u` drawn for its service, the mean service time is `u w / r`, so that queues are as they
//! may be anywhere and no run costs more events than its request rate says.

use super::draw::Draw;
use pathloom::links::NodeKey;

/// The round trip within a zone and between two, in seconds (medians of public cloud measurements).
const RTT_WITHIN_S: f64 = 95e-6;
const RTT_BETWEEN_S: f64 = 1.39e-3;

/// How long a service works on a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// Log-normal with this mean in seconds and this deviation of the logarithm.
    LogNormal {
        /// The mean in seconds.
        mean_s: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
    /// Exponential with this mean in seconds.
    Exponential {
        /// The mean in seconds.
        mean_s: f64,
    },
}

impl Work {
    /// The mean in seconds.
    #[must_use]
    pub fn mean_s(self) -> f64 {
        match self {
            Work::LogNormal { mean_s, .. } | Work::Exponential { mean_s } => mean_s,
        }
    }

    /// One draw in seconds.
    pub fn draw(self, draw: &mut Draw) -> f64 {
        match self {
            Work::LogNormal { mean_s, sigma } => mean_s * draw.spread(sigma),
            Work::Exponential { mean_s } => mean_s * draw.exponential(),
        }
    }
}

/// How a caller chooses among replicas.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// The one with fewer requests of this caller in flight, of two drawn.
    LeastRequest,
    /// By weights, which may leave links all but unused.
    Weighted(Vec<f64>),
    /// Nine of ten in its own zone.
    SameZone,
    /// The least estimate x (in flight + 1), the estimate being the sidecar's own.
    LeastCost,
}

/// A kind of call that a service makes for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// The called service.
    pub service: usize,
    /// How likely a request makes it.
    pub probability: f64,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its replicas, as indices of instances.
    pub replicas: Vec<usize>,
    /// The work on a request, at speed 1.
    pub work: Work,
    /// How many requests a replica works on at once.
    pub workers: usize,
    /// The calls for each request, one after another.
    pub calls: Vec<Call>,
    /// Whether a worker stays busy while its request waits for calls.
    pub holds_worker: bool,
    /// Whether its replicas report their load (ORCA).
    pub reports: bool,
}

/// A replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its name.
    pub key: NodeKey,
    /// Its service.
    pub service: usize,
    /// Its zone.
    pub zone: usize,
    /// Its work takes this many times as long.
    pub slowness: f64,
}

/// A possible link: a caller and a replica of a service that it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The calling instance.
    pub source: usize,
    /// The called instance.
    pub destination: usize,
}

/// How one instance reaches one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The first of its pairs in `Mesh::pairs`; they are in the order of the called service's replicas.
    pub first_pair: usize,
    /// Which replicas it uses at all, as positions.
    pub subset: Vec<usize>,
    /// How it chooses.
    pub policy: Policy,
}

/// A mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// Services; the first is the gateways.
    pub services: Vec<Service>,
    /// Instances of all services.
    pub instances: Vec<Instance>,
    /// All possible links.
    pub pairs: Vec<Pair>,
    /// For each instance, a route for each of its service's calls.
    pub routes: Vec<Vec<Route>>,
    /// Requests a second that enter at each gateway.
    pub entry_rates: Vec<f64>,
    /// Round trips between zones in seconds.
    pub rtt_s: Vec<Vec<f64>>,
    /// Deviation of a round trip's logarithm.
    pub rtt_sigma: f64,
}

impl Mesh {
    /// The mean round trip of a pair without faults, in seconds.
    #[must_use]
    pub fn rtt_s(&self, pair: Pair) -> f64 {
        let zone = |i: usize| self.instances.get(i).map_or(0, |n| n.zone);
        self.rtt_s
            .get(zone(pair.source))
            .and_then(|row| row.get(zone(pair.destination)))
            .copied()
            .unwrap_or(RTT_WITHIN_S)
    }

    /// A mesh of one gateway and one service: for tests of the queue itself.
    #[must_use]
    pub fn single(work: Work, workers: usize, rate: f64) -> Self {
        let service = |replica, calls, work, workers| Service {
            replicas: vec![replica],
            work,
            workers,
            calls,
            holds_worker: false,
            reports: true,
        };
        let idle = Work::LogNormal { mean_s: 0.0, sigma: 0.0 };
        let instance = |name: &str, service| Instance { key: NodeKey::new(name), service, zone: 0, slowness: 1.0 };
        let route = Route { first_pair: 0, subset: vec![0], policy: Policy::Random };
        Self {
            services: vec![
                service(0, vec![Call { service: 1, probability: 1.0 }], idle, usize::MAX),
                service(1, vec![], work, workers),
            ],
            instances: vec![instance("gateway-0", 0), instance("server-0", 1)],
            pairs: vec![Pair { source: 0, destination: 1 }],
            routes: vec![vec![route], vec![]],
            entry_rates: vec![rate],
            rtt_s: vec![vec![0.0]],
            rtt_sigma: 0.0,
        }
    }

    /// A random mesh.
    pub fn random(draw: &mut Draw) -> Self {
        let zones = draw.whole(1, 3);
        let rtt_s = round_trips(zones, draw);
        let calls = call_tree(draw);
        let (instances, replicas) = replicas(calls.len(), zones, draw);
        let total = draw.log_uniform(8.0, 1_000.0);
        let shares: Vec<f64> = replicas[0].iter().map(|_| draw.log_uniform(0.05, 1.0)).collect();
        let sum: f64 = shares.iter().sum();
        let services = sized(&calls, &replicas, total, draw);
        let (pairs, routes) = routes(&services, &instances, draw);
        let entry_rates = shares.iter().map(|s| total * s / sum).collect();
        Self { services, instances, pairs, routes, entry_rates, rtt_s, rtt_sigma: draw.uniform(0.05, 0.4) }
    }
}

/// Round trips between zones; the third zone may be a region far away.
fn round_trips(zones: usize, draw: &mut Draw) -> Vec<Vec<f64>> {
    let mut rtt_s = vec![vec![RTT_WITHIN_S * draw.log_uniform(0.3, 3.0); zones]; zones];
    let far = if draw.chance(0.15) { draw.log_uniform(5.0, 30.0) } else { 1.0 };
    for (a, b) in (0..zones).flat_map(|a| (a + 1..zones).map(move |b| (a, b))) {
        let rtt = RTT_BETWEEN_S * draw.spread(0.5) * if b == 2 { far } else { 1.0 };
        (rtt_s[a][b], rtt_s[b][a]) = (rtt, rtt);
    }
    rtt_s
}

/// For each service its calls: one to four tiers, each of which calls the next, and every service is called.
fn call_tree(draw: &mut Draw) -> Vec<Vec<Call>> {
    let tiers = draw.whole(1, 4);
    let mut tier_of = vec![0];
    for tier in 1..=tiers {
        let most = if tier == 1 { 2 } else { 3 };
        tier_of.extend(std::iter::repeat_n(tier, draw.whole(1, most)));
    }
    let at_tier = |tier: usize| (0..tier_of.len()).filter(|s| tier_of[*s] == tier).collect::<Vec<_>>();
    let mut calls: Vec<Vec<Call>> = vec![Vec::new(); tier_of.len()];
    for tier in 0..tiers {
        let (callers, called) = (at_tier(tier), at_tier(tier + 1));
        for caller in &callers {
            let count = if tier == 0 { called.len() } else { draw.whole(1, 2) };
            for service in draw.some(&called, count) {
                let probability = if draw.chance(0.5) { 1.0 } else { draw.uniform(0.25, 1.0) };
                calls[*caller].push(Call { service, probability });
            }
        }
        for service in called {
            if !callers.iter().any(|c| calls[*c].iter().any(|call| call.service == service)) {
                let caller = draw.one(&callers).unwrap_or(0);
                calls[caller].push(Call { service, probability: draw.uniform(0.25, 1.0) });
            }
        }
    }
    calls
}

/// Instances, and which of them are each service's. Replicas are equal, alike, or of two generations of machines.
fn replicas(services: usize, zones: usize, draw: &mut Draw) -> (Vec<Instance>, Vec<Vec<usize>>) {
    let (mut instances, mut replicas) = (Vec::new(), Vec::new());
    for service in 0..services {
        let count = match service {
            0 => draw.one(&[1, 1, 2, 3, 4, 5]).unwrap_or(1),
            _ if draw.chance(0.08) => draw.whole(9, 16),
            _ if draw.chance(0.1) => 1,
            _ => draw.whole(2, 8),
        };
        let sigma = match draw.uniform(0.0, 1.0) {
            u if u < 0.25 => Some(0.0),
            u if u < 0.8 => Some(draw.uniform(0.05, 0.5)),
            _ => None,
        };
        let first = instances.len();
        for i in 0..count {
            let slowness = match sigma {
                Some(sigma) => draw.spread(sigma),
                None if draw.chance(0.5) => 1.0,
                None => 2.0,
            };
            let key = NodeKey::new(&format!("s{service}-{i}"));
            instances.push(Instance { key, service, zone: draw.whole(0, zones - 1), slowness });
        }
        replicas.push((first..first + count).collect());
    }
    (instances, replicas)
}

/// Services whose work suits the rate at which calls come: `total` requests a second enter.
fn sized(calls: &[Vec<Call>], replicas: &[Vec<usize>], total: f64, draw: &mut Draw) -> Vec<Service> {
    let mut rate = vec![0.0; calls.len()];
    rate[0] = total;
    for (service, calls) in calls.iter().enumerate() {
        for call in calls {
            rate[call.service] += rate[service] * call.probability;
        }
    }
    let reporting = draw.chance(0.6);
    (0..calls.len())
        .map(|s| {
            let workers = if s == 0 { usize::MAX } else { draw.one(&[1, 2, 4, 4, 8, 16, 32]).unwrap_or(4) };
            let utilisation = draw.uniform(0.08, 0.85);
            let mean_s = utilisation * workers.min(64) as f64 * replicas[s].len() as f64 / rate[s].max(0.1);
            let mean_s = if s == 0 { 1e-4 } else { mean_s.clamp(0.0003, 0.12) };
            Service {
                replicas: replicas[s].clone(),
                work: Work::LogNormal { mean_s, sigma: draw.uniform(0.15, 0.9) },
                workers,
                calls: calls[s].clone(),
                holds_worker: s > 0 && draw.chance(0.25),
                reports: reporting && s > 0 && draw.chance(0.8),
            }
        })
        .collect()
}

fn routes(services: &[Service], instances: &[Instance], draw: &mut Draw) -> (Vec<Pair>, Vec<Vec<Route>>) {
    let mut pairs = Vec::new();
    let mut routes: Vec<Vec<Route>> = vec![Vec::new(); instances.len()];
    for service in services {
        for call in &service.calls {
            let called = &services[call.service].replicas;
            let kind = draw.whole(0, 6);
            let subsets = draw.chance(0.25);
            for source in &service.replicas {
                let all: Vec<usize> = (0..called.len()).collect();
                let subset = if subsets { draw.some(&all, draw_subset(called.len())) } else { all };
                let policy = match kind {
                    0 => Policy::RoundRobin,
                    1 => Policy::Random,
                    2 => Policy::LeastRequest,
                    3 => Policy::SameZone,
                    4 => Policy::LeastCost,
                    // Skewed: some links carry a hundredth of the traffic of others.
                    _ => Policy::Weighted(subset.iter().map(|_| draw.log_uniform(0.005, 1.0)).collect()),
                };
                routes[*source].push(Route { first_pair: pairs.len(), subset, policy });
                pairs.extend(called.iter().map(|destination| Pair { source: *source, destination: *destination }));
            }
        }
    }
    (pairs, routes)
}

/// How many replicas a caller uses that does not use all: about half.
fn draw_subset(replicas: usize) -> usize {
    replicas.div_ceil(2)
}
