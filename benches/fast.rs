//! What every request touches: a table to pick from, routes to match, an outcome to record.

use http::{HeaderMap, Method};
use pathloom::balance::{Candidate, Endpoint, EndpointId, Health, Table, TableOptions};
use pathloom::config::{Cluster, Compare, Config, Policy, Route, RouteMatch};
use pathloom::links::{LinkCell, LinkKey, Links, NodeCell, NodeKey, Outcome, Time};
use pathloom::observe::{DurationKind, RouteLabel, Traffic};
use pathloom::route::{RequestHead, RouteTable};
use std::sync::Arc;

/// The endpoint of this number.
#[must_use]
pub fn endpoint(number: u32) -> Arc<Endpoint> {
    let [_, b, c, d] = number.to_be_bytes();
    Arc::new(Endpoint {
        id: EndpointId(u64::from(number)),
        key: NodeKey::new(&format!("10.{b}.{c}.{d}:80")),
        address: ([10, b, c, d], 80).into(),
        zone: "".into(),
        host: "".into(),
        weight: 1,
        metadata: Default::default(),
        tls: None,
    })
}

/// A table of so many endpoints, each measured once, none alike.
#[must_use]
pub fn table(links: &Links, endpoints: u32, policy: Policy) -> Table {
    let source = NodeKey::new("frontend@local");
    let candidates = (0..endpoints).map(|i| {
        let endpoint = endpoint(i);
        let link = links.link(&LinkKey::new(&source, &endpoint.key), Time(0));
        // From 8 to 12 ms: near enough for each to be chosen now and then.
        let latency_s = 0.008 + 0.004 * (i * 7 % 10) as f32 / 10.0;
        link.record(0, Time(0), latency_s, Outcome::Success, 0.010, 3.0);
        Candidate {
            link,
            node: links.node(&endpoint.key, Time(0)),
            endpoint,
            weight: 1.0 / endpoints as f32,
            prior_s: 0.010,
            measured_at: None,
            success: 1.0,
            bias: 1.0,
            health: Health::Healthy,
            score: None,
            predicted: None,
            reason: Default::default(),
        }
    });
    let options = TableOptions { policy, compare: Compare::Auto, tau_s: 3.0, explore: 0.005 };
    Table::new(candidates.collect(), false, options, Arc::new(Traffic::new(1)))
}

/// What one request writes: its link, its endpoint, its counters.
pub struct Written {
    link: Arc<LinkCell>,
    node: Arc<NodeCell>,
    traffic: Traffic,
    route: RouteLabel,
    now: u64,
}

impl Default for Written {
    fn default() -> Self {
        let (links, key) = (Links::new(1), LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")));
        let (link, node) = (links.link(&key, Time(0)), links.node(&key.destination, Time(0)));
        Self { link, node, traffic: Traffic::new(1), route: RouteLabel::new("shop/*".into()), now: 0 }
    }
}

impl Written {
    /// All that is written for one request: begun, answered after `latency_s` seconds, over.
    pub fn request(&mut self, latency_s: f32) {
        self.now += 50_000;
        let now = Time(self.now);
        self.node.begin();
        self.link.begin(0, now);
        self.link.record(0, now, latency_s, Outcome::Success, 0.010, 3.0);
        self.node.succeeded();
        self.node.end();
        self.link.end(0, now);
        let (took_ns, kind) = ((latency_s * 1e9) as u64, DurationKind::new(&Method::GET, 200, None));
        self.traffic.tried(0, kind, took_ns, None::<fn() -> _>);
        self.traffic.finished(0, Some(&self.route), (kind, None), took_ns, (0, 1024), None::<fn() -> _>);
    }
}

/// Which rules a table of routes has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Each has a host of its own.
    Hosts,
    /// All are for one host, and each has a path prefix of its own.
    Prefixes,
}

/// So many routes to one cluster.
#[must_use]
pub fn routes(count: usize, rules: Rules) -> RouteTable {
    let route = |i: usize| {
        let matches = match rules {
            Rules::Hosts => RouteMatch { host: Some(format!("service-{i}.shop")), ..RouteMatch::default() },
            Rules::Prefixes => RouteMatch {
                host: Some("shop".into()),
                path_prefix: Some(format!("/api/service-{i}")),
                ..RouteMatch::default()
            },
        };
        Route { matches, cluster: Some("c".into()), ..Route::default() }
    };
    let config = Config {
        clusters: [("c".to_owned(), Cluster::default())].into(),
        routes: (0..count).map(route).collect(),
        ..Config::default()
    };
    RouteTable::compile(&config)
}

/// A request that the route of this number matches.
pub struct Asked {
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Asked {
    /// The request.
    #[must_use]
    pub fn new(number: usize, rules: Rules) -> Self {
        let host = match rules {
            Rules::Hosts => format!("service-{number}.shop:8080"),
            Rules::Prefixes => "shop:8080".into(),
        };
        let headers = [("user-agent", "curl/8"), ("accept", "*/*"), ("x-request-id", "1")];
        let headers = headers.into_iter().filter_map(|(n, v)| Some((n.parse().ok()?, v.parse().ok()?))).collect();
        Self { host, path: format!("/api/service-{number}/items/7"), headers }
    }

    /// As matching sees it.
    #[must_use]
    pub fn head(&self) -> RequestHead<'_> {
        RequestHead { host: &self.host, path: &self.path, query: "", method: &Method::GET, headers: &self.headers }
    }
}
