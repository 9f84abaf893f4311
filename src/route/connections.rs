//! Connections that are no HTTP, or come another way than most: what their listener does, and where they go.
//!
//! **TCP routes** are the rules whose clusters have `protocol: tcp`. They match connections and never requests, by the
//! port that the client connected to and by the name that TLS asked for; the first that matches wins, as with requests.
//!
//! **Captured connections** go by the address that they were meant for: that of an endpoint, or one that stands for a
//! cluster (`addresses`). Where several clusters have the same, the first by name gets it.

use super::matcher::HostMatch;
use super::{ClusterId, Rule};
use crate::config::{CaptureMode, Config, ListenerProtocol, Protocol, Route, SourceNet, Unknown, Workload};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a listener does that most do not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Door {
    /// What clients speak.
    pub protocol: ListenerProtocol,
    /// How connections come.
    pub capture: CaptureMode,
    /// Who puts a PROXY header before each connection.
    pub proxies: Box<[SourceNet]>,
}

impl Door {
    fn of(workload: &Workload) -> Self {
        let Workload { protocol, capture, proxy_from, .. } = workload;
        Self { protocol: *protocol, capture: *capture, proxies: proxy_from.as_slice().into() }
    }

    /// Whether a connection from there must begin with a PROXY header.
    #[must_use]
    pub fn expects_header(&self, from: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(from))
    }
}

/// A TCP route.
#[derive(Debug, PartialEq)]
struct TcpRule {
    port: Option<u16>,
    host: HostMatch,
    rule: Rule,
}

/// What a table knows of connections.
#[derive(Debug, Default, PartialEq)]
pub struct Connections {
    /// Listeners that do what most do not.
    doors: BTreeMap<SocketAddr, Arc<Door>>,
    rules: Box<[TcpRule]>,
    /// The clusters that captured connections go to, by the address that they were meant for. Empty where none are captured.
    destinations: HashMap<SocketAddr, ClusterId>,
    /// Whether any listener captures connections.
    pub captures: bool,
    /// What becomes of captured connections to other addresses.
    pub unknown: Unknown,
    /// The mark that connections of this process carry, where any are captured and marks tell them apart.
    pub mark: Option<u32>,
}

impl Connections {
    pub(super) fn compile(config: &Config, tcp_rules: Vec<(&Route, Rule)>) -> Self {
        let mut doors = BTreeMap::new();
        for workload in config.workloads.values() {
            let door = Door::of(workload);
            if let Some(listen) = workload.listen.filter(|_| door != Door::default()) {
                doors.insert(listen, Arc::new(door));
            }
        }
        let captures = config.captures();
        let mut destinations = HashMap::new();
        for (cluster, id) in config.clusters.values().zip(0u32..).filter(|_| captures) {
            let own = cluster.endpoints.iter().map(|endpoint| endpoint.address);
            for address in own.chain(cluster.addresses.iter().copied()) {
                destinations.entry(address).or_insert(ClusterId(id));
            }
        }
        let rule = |(route, rule): (&Route, Rule)| {
            let host = HostMatch::compile(route.matches.host.as_deref());
            TcpRule { port: route.matches.port, host, rule }
        };
        Self {
            doors,
            rules: tcp_rules.into_iter().map(rule).collect(),
            destinations,
            captures,
            unknown: config.capture.unknown,
            mark: config.own_mark(),
        }
    }

    /// What a listener does that most do not.
    #[must_use]
    pub fn door(&self, listen: SocketAddr) -> Option<&Arc<Door>> {
        self.doors.get(&listen)
    }

    /// Whether a listener takes connections that were meant for other addresses.
    #[must_use]
    pub fn is_transparent(&self, listen: SocketAddr) -> bool {
        self.door(listen).is_some_and(|door| door.capture == CaptureMode::Tproxy)
    }

    /// The first TCP route that a connection matches, by its port and the name that TLS asked for.
    #[must_use]
    pub fn find(&self, port: u16, name: Option<&str>) -> Option<&Rule> {
        let matches = |r: &&TcpRule| r.port.is_none_or(|wanted| wanted == port) && r.host.matches(name);
        self.rules.iter().find(matches).map(|r| &r.rule)
    }

    /// The cluster that an address belongs to.
    #[must_use]
    pub fn destination(&self, address: SocketAddr) -> Option<ClusterId> {
        self.destinations.get(&address).copied()
    }
}

/// Whether a route is one for connections: all of its clusters are.
pub(super) fn is_tcp(route: &Route, config: &Config) -> bool {
    let tcp = |name: &str| config.clusters.get(name).is_some_and(|cluster| cluster.protocol == Protocol::Tcp);
    match &route.cluster {
        Some(cluster) => tcp(cluster),
        None => !route.split.is_empty() && route.split.keys().all(|cluster| tcp(cluster)),
    }
}

#[cfg(test)]
mod tests {
    use crate::route::RouteTable;
    use std::net::SocketAddr;

    fn table(yaml: &str) -> RouteTable {
        RouteTable::compile(&crate::config::load_str(yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}")))
    }

    const CLUSTERS: &str = "clusters:\n  db: { protocol: tcp, endpoints: [{ address: 10.0.0.1:5432 }] }\n  \
         mail: { protocol: tcp, endpoints: [{ address: 10.0.0.2:25 }] }\n  web: { endpoints: [{ address: 10.0.0.3:80 }] }\n";

    #[test]
    fn the_first_route_that_matches_wins() {
        let table = table(&format!(
            "workloads: {{ w: {{ listen: 127.0.0.1:1, protocol: tcp }} }}\nroutes:\n  \
             - {{ match: {{ port: 5432 }}, cluster: db }}\n  - {{ match: {{ host: '*.shop' }}, cluster: mail }}\n  \
             - {{ match: {{ host: Mail.example }}, cluster: db }}\n  - {{ cluster: web }}\n  - {{ cluster: mail }}\n{CLUSTERS}"
        ));
        let found = |port, name| table.connections().find(port, name).map(|r| r.index);
        assert_eq!(found(5432, Some("a.shop")), Some(0));
        assert_eq!(found(1, Some("A.Shop")), Some(1));
        assert_eq!(found(1, Some("mail.example")), Some(2));
        assert_eq!((found(1, Some("shop")), found(1, None)), (Some(4), Some(4)), "never the one for requests");
    }

    #[test]
    fn captured_connections_go_by_the_address_that_they_were_meant_for() {
        let captured = format!(
            "workloads: {{ w: {{ listen: 127.0.0.1:1, capture: outbound }} }}\nroutes: [{{ cluster: web }}]\n{CLUSTERS}"
        );
        let with_address = captured.replace("web: {", "web: { addresses: ['10.96.0.1:80'],");
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let known = table(&with_address);
        let name = |to: &str| known.connections().destination(address(to)).map(|id| &*known.clusters()[id.0 as usize]);
        assert_eq!((name("10.0.0.1:5432"), name("10.96.0.1:80")), (Some("db"), Some("web")));
        assert_eq!((name("10.0.0.1:80"), known.connections().mark), (None, Some(0x504c)));
        let open = table(&captured.replace("capture: outbound", "protocol: tcp"));
        assert_eq!(open.connections().destination(address("10.0.0.1:5432")), None, "where none are captured");
        assert_eq!(open.connections().mark, None);
    }
}
