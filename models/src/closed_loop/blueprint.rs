//! Small meshes for scenarios: hosts, services, replicas, who calls whom.

use crate::simulator::mesh::{Call, Entry, Handler, Host, Instance, Mesh, Network, Pair, Route, Service, Work};
use pathloom::links::NodeKey;

/// The deviation of the logarithm of all work.
const SIGMA: f64 = 0.5;
/// How many requests a replica works on at once, and how many may wait.
const WORKERS: usize = 4;
/// See `WORKERS`.
const QUEUE: usize = 500;

/// A mesh under construction. The gateway is service 0.
#[derive(Debug)]
pub struct Blueprint {
    services: Vec<Service>,
    instances: Vec<Instance>,
    hosts: Vec<Host>,
    pinned: Vec<(usize, usize)>,
}

impl Default for Blueprint {
    fn default() -> Self {
        Self::new()
    }
}

impl Blueprint {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { services: Vec::new(), instances: Vec::new(), hosts: Vec::new(), pinned: Vec::new() }
    }

    /// A host in a zone with so many processors.
    pub fn host(&mut self, zone: usize, cores: f64) -> usize {
        self.hosts.push(Host { name: format!("host-{}", self.hosts.len()).into(), zone, cores });
        self.hosts.len() - 1
    }

    /// A service whose requests take so long on average, in seconds.
    pub fn service(&mut self, name: &str, work_s: f64) -> usize {
        let work = if work_s > 0.0 { Work::log_normal(work_s, SIGMA) } else { Work::none() };
        self.services.push(Service {
            name: name.into(),
            replicas: Vec::new(),
            called: Vec::new(),
            handlers: vec![Handler { work, stages: Vec::new(), bytes: 4096.0 }],
            workers: WORKERS,
            queue: QUEUE,
            holds_worker: false,
            reports: true,
        });
        self.services.len() - 1
    }

    /// The service where everything enters: so many instances, each on a host of its own, that do nothing but call.
    pub fn gateway(&mut self, proxies: usize) -> usize {
        let gateway = self.service("gateway", 0.0);
        self.services[gateway].workers = 1_000_000;
        self.services[gateway].reports = false;
        for _ in 0..proxies {
            let host = self.host(0, 64.0);
            self.replica(gateway, host, 1.0);
        }
        gateway
    }

    /// Puts a service's hosts into so many zones by turns.
    pub fn spread_over_zones(&mut self, service: usize, zones: usize) {
        for (i, replica) in self.services[service].replicas.iter().enumerate() {
            self.hosts[self.instances[*replica].host].zone = i % zones;
        }
    }

    /// A replica of a service on a host, whose work takes `slowness` times as long.
    pub fn replica(&mut self, service: usize, host: usize, slowness: f64) {
        let of = &mut self.services[service];
        let key = NodeKey::new(&format!("{}-{}", of.name, of.replicas.len()));
        of.replicas.push(self.instances.len());
        self.instances.push(Instance { key, service, host, slowness, alive_s: None });
    }

    /// A service calls another so often a request, after what it called already.
    pub fn calls(&mut self, service: usize, called: usize, times: f64) {
        let of = &mut self.services[service];
        of.called.push(called);
        let call = Call { dependency: of.called.len() - 1, handler: 0, times };
        of.handlers.iter_mut().for_each(|h| h.stages.push(vec![call]));
    }

    /// A service's replicas call only those of another that are in their zone.
    pub fn pin_to_zone(&mut self, service: usize, called: usize) {
        self.pinned.push((service, called));
    }

    /// How many requests a second a service's replicas can do together.
    #[must_use]
    pub fn capacity(&self, service: usize) -> f64 {
        let of = &self.services[service];
        let work_s = of.handlers.first().map_or(0.0, |h| h.work.mean_s());
        of.replicas.iter().map(|i| of.workers as f64 / (work_s * self.instances[*i].slowness)).sum()
    }

    /// The mesh, where `rate` requests a second enter at load 1.
    #[must_use]
    pub fn mesh(self, rate: f64) -> Mesh {
        let (mut pairs, mut routes) = (Vec::new(), Vec::new());
        let zone = |i: usize| self.hosts[self.instances[i].host].zone;
        for (source, instance) in self.instances.iter().enumerate() {
            let mut of = Vec::new();
            for called in &self.services[instance.service].called {
                let pinned = self.pinned.contains(&(instance.service, *called));
                let replicas = self.services[*called].replicas.iter().copied();
                let first = pairs.len();
                pairs.extend(
                    replicas
                        .filter(|d| !pinned || zone(*d) == zone(source))
                        .map(|destination| Pair { source, destination }),
                );
                of.push(Route { pairs: (first..pairs.len()).collect() });
            }
            routes.push(of);
        }
        let zones = self.hosts.iter().map(|h| h.zone).max().unwrap_or(0) + 1;
        let rtt_s = (0..zones).map(|a| (0..zones).map(|b| if a == b { 0.0005 } else { 0.0015 }).collect()).collect();
        let network = Network {
            rtt_s,
            local_s: 0.0001,
            sigma: 0.3,
            tail: (0.005, 5.0),
            loss: 0.0,
            retransmit_s: 0.2,
            bandwidth: 1e9,
            overhead_s: 0.0002,
        };
        Mesh {
            name: "scenario".into(),
            services: self.services,
            instances: self.instances,
            hosts: self.hosts,
            pairs,
            routes,
            entries: vec![Entry { name: "request".into(), service: 0, handler: 0, rate }],
            network,
        }
    }
}
