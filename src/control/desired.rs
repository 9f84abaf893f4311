//! What the configuration asks for: routes, clusters with their endpoints, and the workloads' places in the graph.

use crate::admission;
use crate::balance::{Endpoint, EndpointId, Maglev};
use crate::config::{self, Affinity, ClusterTls, Config, Port, Protocol};
use crate::graph::Instance;
use crate::identity::Identities;
use crate::links::{Described, NodeKey};
use crate::route::RouteTable;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Endpoints' identities for the life of the process. An endpoint that leaves and returns is a new one, so that
/// connections kept for the old one are never taken for it.
#[derive(Debug, Default)]
pub struct EndpointIds {
    next: u64,
    /// By address, protocol, and what it must prove (0 is nothing).
    known: HashMap<(SocketAddr, Protocol, u32), EndpointId>,
    /// The last tables of clusters with an affinity, which mostly stay as they are.
    maglevs: HashMap<Arc<str>, Arc<Maglev>>,
    /// How connections are secured.
    identities: Arc<Identities>,
}

impl EndpointIds {
    /// None known yet.
    pub fn new(identities: Arc<Identities>) -> Self {
        Self { identities, ..Self::default() }
    }

    fn of(&mut self, address: SocketAddr, protocol: Protocol, dial: u32) -> EndpointId {
        *self.known.entry((address, protocol, dial)).or_insert_with(|| {
            self.next += 1;
            EndpointId(self.next)
        })
    }
}

/// A cluster, as it should be.
#[derive(Debug)]
pub struct DesiredCluster {
    /// Its name.
    pub name: Arc<str>,
    /// The service that its endpoints offer.
    pub service: Arc<str>,
    /// The port of that service, whichever endpoint a request goes to.
    pub port: u16,
    /// Its configuration.
    pub config: crate::config::Cluster,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// With whom its requests stay, where they do.
    pub maglev: Option<Arc<Maglev>>,
}

/// What the next generation should hold.
#[derive(Debug)]
pub struct Desired {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// Its routes.
    pub routes: Arc<RouteTable>,
    /// Its limits and priorities.
    pub admission: Arc<admission::Table>,
    /// Its clusters, by `ClusterId`.
    pub clusters: Vec<DesiredCluster>,
    /// Its workloads' places in the graph, by `WorkloadId`.
    pub sources: Vec<NodeKey>,
}

impl Desired {
    /// What a valid configuration asks for, with so many serving threads; `before` is what was asked for until now.
    #[must_use]
    pub fn of(config: Arc<Config>, ids: &mut EndpointIds, cores: usize, before: Option<&Desired>) -> Self {
        let admission = Arc::new(admission::Table::compile(&config, cores, before.map(|b| &*b.admission)));
        let routes = Arc::new(RouteTable::compile(&config));
        let clusters: Vec<DesiredCluster> = config
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let service = if cluster.service.is_empty() { name } else { &cluster.service };
                let name: Arc<str> = name.as_str().into();
                let tls = ids.identities.dial(&cluster.tls, cluster.protocol);
                let dial = tls.as_ref().map_or(0, |dial| dial.serial);
                let endpoints: Vec<Arc<Endpoint>> = cluster
                    .endpoints
                    .iter()
                    .map(|endpoint| {
                        Arc::new(Endpoint {
                            id: ids.of(endpoint.address, cluster.protocol, dial),
                            key: NodeKey::new(&endpoint.address.to_string()),
                            address: endpoint.address,
                            zone: endpoint.zone.as_str().into(),
                            host: endpoint.host.as_str().into(),
                            weight: endpoint.weight,
                            metadata: endpoint.metadata.clone(),
                            tls: tls.clone(),
                        })
                    })
                    .collect();
                let stays = cluster.affinity != Affinity::default();
                let maglev = stays.then(|| Maglev::of(&endpoints, ids.maglevs.get(&name)));
                let (service, port) = (service.as_str().into(), port(cluster));
                DesiredCluster { name, service, port, config: cluster.clone(), endpoints, maglev }
            })
            .collect();
        let used: HashSet<EndpointId> = clusters.iter().flat_map(|c| &c.endpoints).map(|e| e.id).collect();
        ids.known.retain(|_, id| used.contains(id));
        let kept = clusters.iter().filter_map(|c| Some((c.name.clone(), c.maglev.clone()?)));
        ids.maglevs = kept.collect();
        let sources = routes
            .workloads()
            .iter()
            .map(|w| match w.serves {
                Some(address) => NodeKey::new(&address.to_string()),
                None => NodeKey::new(&format!("{}@{}", w.name, config.node.name)),
            })
            .collect();
        Self { config, routes, admission, clusters, sources }
    }

    /// Cluster and workload of each group of the roster, in its order.
    pub fn group_names(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let workloads = self.routes.workloads();
        self.clusters.iter().flat_map(move |c| workloads.iter().map(move |w| (&c.name, &w.name)))
    }

    /// Every instance that the configuration names. An endpoint's own words come before a workload's.
    pub fn instances(&self) -> impl Iterator<Item = Instance> + '_ {
        let zone: Arc<str> = self.config.node.zone.as_str().into();
        let host: Arc<str> = self.config.node.name.as_str().into();
        let endpoints = self.clusters.iter().flat_map(|c| {
            c.endpoints.iter().map(|e| Instance {
                key: e.key.clone(),
                service: c.service.clone(),
                zone: e.zone.clone(),
                host: e.host.clone(),
            })
        });
        let workloads = self.routes.workloads().iter().zip(&self.sources).map(move |(w, key)| Instance {
            key: key.clone(),
            service: w.service.clone(),
            zone: zone.clone(),
            host: host.clone(),
        });
        endpoints.chain(workloads)
    }

    /// What is said of each of them. The first word on an instance stands, as it does in the graph.
    pub fn described(&self) -> HashMap<NodeKey, Described> {
        let mut all = HashMap::new();
        for Instance { key, service, zone, host } in self.instances() {
            all.entry(key).or_insert(Described { service, zone, host });
        }
        all
    }
}

/// The port that a cluster's sources and endpoints agree on, so that it stays while endpoints come and go; where they
/// do not, or there are none, the one that its scheme stands for.
fn port(cluster: &config::Cluster) -> u16 {
    let told = cluster.discover.iter().filter_map(|source| match source.port {
        Some(Port::Number(port)) => Some(port),
        _ => None,
    });
    let mut ports = told.chain(cluster.endpoints.iter().map(|endpoint| endpoint.address.port()));
    let scheme = if cluster.tls == ClusterTls::default() { 80 } else { 443 };
    ports.next().filter(|first| ports.all(|port| port == *first)).unwrap_or(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Discover;

    #[test]
    fn a_clusters_port_is_the_one_that_all_agree_on_and_stays_without_endpoints() {
        let cluster = |ports: &[u16], sources: &[Option<Port>], secure: bool| {
            let endpoint = |port: &u16| config::Endpoint {
                address: ([10, 0, 0, 1], *port).into(),
                zone: String::new(),
                host: String::new(),
                weight: 1,
                metadata: std::collections::BTreeMap::new(),
            };
            let discover = sources.iter().map(|port| Discover { port: port.clone(), ..Discover::default() });
            let mut cluster = config::Cluster {
                endpoints: ports.iter().map(endpoint).collect(),
                discover: discover.collect(),
                ..config::Cluster::default()
            };
            if secure {
                cluster.tls.name = Some("catalog.shop".into());
            }
            port(&cluster)
        };
        let number = |port| Some(Port::Number(port));
        assert_eq!(cluster(&[8080, 8080], &[], false), 8080);
        assert_eq!(cluster(&[8080, 8081], &[], false), 80, "they differ");
        assert_eq!(cluster(&[8080, 8081], &[], true), 443, "they differ");
        assert_eq!(cluster(&[], &[number(9000)], false), 9000, "its endpoints are away");
        assert_eq!(cluster(&[9000], &[number(9000), None], true), 9000);
        assert_eq!(cluster(&[8080], &[number(9000)], false), 80);
        assert_eq!(cluster(&[8080], &[Some(Port::Name("http".into()))], false), 8080, "a name says no number");
        assert_eq!(cluster(&[], &[], true), 443);
    }
}
