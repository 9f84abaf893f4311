//! A proxy on a port of its own, and what it says; whom it speaks with is in `peers`.

pub use super::peers::*;

use super::super::{Alarm, Clock, Drain, Proxy, ProxyGauges, ProxyOptions};
use crate::admission;
use crate::balance::{
    Budget, Candidate, Cluster, Endpoint, EndpointId, Generation, Health, Hedging, MIN_PER_SECOND, Maglev, Published,
    Retrying, Table, TableOptions,
};
use crate::config::{self, Compare, Config, ListenerDefaults, Policy, Protocol};
use crate::links::{LinkKey, Links, NodeCell, NodeKey, Time};
use crate::observe::{AccessRecord, AccessSink, Reason, Traffic, TrafficRegistry, TrafficSnapshot};
use crate::route::RouteTable;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;

pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub const LISTENER: &str = "127.0.0.1:0";

/// What a client speaks, and what its endpoint does.
pub const PAIRS: [(Protocol, Protocol); 4] = [
    (Protocol::Http1, Protocol::Http1),
    (Protocol::Http2, Protocol::Http1),
    (Protocol::Http1, Protocol::Http2),
    (Protocol::Http2, Protocol::Http2),
];

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|e| match e {}).boxed()
}

pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|e| match e {}).boxed()
}

/// What a finished request left in the log.
#[derive(Debug, Clone)]
pub struct Logged {
    pub status: Option<u16>,
    pub reason: Option<Reason>,
    pub attempts: u32,
    pub bytes: (u64, u64),
    pub path: String,
    pub grpc_status: Option<u16>,
    pub injected: Option<&'static str>,
    pub hedge: Option<&'static str>,
    pub affine: bool,
    pub duration: Duration,
    pub upstream: Option<Duration>,
    pub trace: String,
    pub span: String,
    pub parent: Option<String>,
    pub random: bool,
    pub state: String,
    pub tries: Vec<LoggedTry>,
}

/// A try, as it was told of.
#[derive(Debug, Clone)]
pub struct LoggedTry {
    pub span: String,
    pub endpoint: SocketAddr,
    pub status: Option<u16>,
    pub reason: Option<Reason>,
    pub hedge: bool,
    pub share: f32,
    pub duration: Duration,
}

#[derive(Default)]
pub struct Log(pub Mutex<Vec<Logged>>);

impl AccessSink for Log {
    fn log(&self, _: usize, r: &AccessRecord<'_>) {
        self.0.lock().unwrap().push(Logged {
            status: r.status.map(|s| s.as_u16()),
            reason: r.reason,
            attempts: r.attempts,
            bytes: (r.request_bytes, r.response_bytes),
            path: r.path.to_owned(),
            grpc_status: r.grpc_status,
            injected: r.injected,
            hedge: r.hedge.map(|hedge| hedge.as_str()),
            affine: r.affine,
            duration: r.duration,
            upstream: r.upstream_latency,
            trace: r.trace_id.to_owned(),
            span: r.span_id.to_owned(),
            parent: r.parent_span_id.map(str::to_owned),
            random: r.random,
            state: r.trace_state.to_owned(),
            tries: r
                .tries
                .iter()
                .map(|t| LoggedTry {
                    span: String::from_utf8(t.span_id.to_vec()).unwrap(),
                    endpoint: t.endpoint,
                    status: t.status.map(|s| s.as_u16()),
                    reason: t.reason,
                    hedge: t.hedge,
                    share: t.share,
                    duration: t.duration,
                })
                .collect(),
        });
    }

    fn enabled(&self) -> bool {
        true
    }

    fn takes_spans(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub struct Alarms(pub Mutex<Vec<(String, u32, Reason)>>);

impl Alarm for Alarms {
    fn endpoint_failed(&self, node: &Arc<NodeCell>, failures: u32, reason: Reason) {
        self.0.lock().unwrap().push((node.key.to_string(), failures, reason));
    }
}

/// A generation of a configuration, all endpoints alike.
pub fn generation(id: u64, config: &Config, links: &Links, traffic: &TrafficRegistry) -> Generation {
    let routes = Arc::new(RouteTable::compile(config));
    let clusters = config.clusters.iter().map(|(name, cluster)| {
        let tables = routes.workloads().iter().map(|workload| {
            let share = 1.0 / cluster.endpoints.len().max(1) as f32;
            let candidates = cluster.endpoints.iter().map(|endpoint| {
                let key = NodeKey::new(&endpoint.address.to_string());
                Candidate {
                    link: links.link(&LinkKey::new(&NodeKey::new(&workload.name), &key), Time(0)),
                    node: links.node(&key, Time(0)),
                    endpoint: Arc::new(Endpoint {
                        id: EndpointId(u64::from(endpoint.address.port())),
                        key,
                        address: endpoint.address,
                        zone: "".into(),
                        host: "".into(),
                        weight: 1,
                        metadata: BTreeMap::new(),
                        tls: None,
                    }),
                    weight: share,
                    prior_s: 0.01,
                    measured_at: None,
                    success: 1.0,
                    bias: 1.0,
                    health: Health::Healthy,
                    score: None,
                    predicted: None,
                    reason: Default::default(),
                }
            });
            let options = TableOptions { policy: cluster.policy, compare: Compare::Auto, tau_s: 3.0, explore: 0.0 };
            let candidates: Vec<Candidate> = candidates.collect();
            let endpoints: Vec<_> = candidates.iter().map(|c| c.endpoint.clone()).collect();
            let stays = cluster.affinity != config::Affinity::default();
            let mut table = Table::new(candidates, false, options, traffic.of(&workload.name, &name.as_str().into()));
            if config.model.mode == config::Mode::Canary {
                table.traffic.count_arms();
                table = table.on_trial(config.model.canary.share.0, config.model.canary.against);
            }
            Arc::new(table.with_affinity(stays.then(|| Maglev::of(&endpoints, None))))
        });
        Arc::new(Cluster {
            name: name.as_str().into(),
            service: name.as_str().into(),
            port: 80,
            protocol: cluster.protocol,
            secure: false,
            proxy_protocol: cluster.proxy_protocol,
            timeouts: cluster.timeouts.clone(),
            retrying: Retrying::new(
                &cluster.retries,
                Arc::new(Budget::new(traffic.cores(), cluster.retries.budget, MIN_PER_SECOND, Time(0))),
            ),
            hedging: hedging(&cluster.hedging, traffic.cores()),
            ejection: cluster.ejection.clone(),
            tables: tables.collect(),
        })
    });
    Generation {
        id,
        made_at_wall: SystemTime::now(),
        clusters: clusters.collect(),
        routes: routes.clone(),
        admission: Arc::new(admission::Table::compile(config, traffic.cores(), None)),
        ..Generation::empty()
    }
}

fn hedging(config: &config::Hedging, cores: usize) -> Option<Hedging> {
    let config::HedgeAfter::Set(after) = config.after else { return None };
    let budget = Arc::new(Budget::new(cores, config.share, 0, Time(0)));
    Some(Hedging { after: Some(after.0), share: config.share, budget })
}

/// One listener, one cluster of these endpoints, every request goes there.
pub fn config(protocol: Protocol, endpoints: &[SocketAddr]) -> Config {
    let endpoints = endpoints
        .iter()
        .map(|a| config::Endpoint {
            address: *a,
            zone: String::new(),
            host: String::new(),
            weight: 1,
            metadata: BTreeMap::new(),
        })
        .collect();
    let cluster = config::Cluster { policy: Policy::RoundRobin, protocol, endpoints, ..config::Cluster::default() };
    let workload = config::Workload { listen: Some(LISTENER.parse().unwrap()), ..config::Workload::default() };
    Config {
        workloads: BTreeMap::from([("w".to_owned(), workload)]),
        routes: vec![config::Route { cluster: Some("c".into()), ..config::Route::default() }],
        clusters: BTreeMap::from([("c".to_owned(), cluster)]),
        ..Config::default()
    }
}

pub fn cluster(config: &mut Config) -> &mut config::Cluster {
    config.clusters.get_mut("c").unwrap()
}

pub struct TestProxy {
    pub address: SocketAddr,
    pub log: Arc<Log>,
    pub alarms: Arc<Alarms>,
    pub links: Arc<Links>,
    pub traffic: Arc<TrafficRegistry>,
    pub published: Published,
    pub gauges: Arc<ProxyGauges>,
    pub drain: Drain,
    pub bind_errors: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    pub fn start(config: &Config) -> Self {
        Self::start_with(config, 1, |_| {})
    }

    pub fn start_with(config: &Config, cores: usize, change: impl FnOnce(&mut ProxyOptions)) -> Self {
        let (mut proxy, test) = Self::unstarted(config, cores, change);
        proxy.start().unwrap();
        test
    }

    pub fn unstarted(config: &Config, cores: usize, change: impl FnOnce(&mut ProxyOptions)) -> (Proxy, Self) {
        let (links, traffic) = (Arc::new(Links::new(cores)), Arc::new(TrafficRegistry::new(cores)));
        let published = Published::default();
        published.publish(generation(1, config, &links, &traffic));
        let (log, alarms, bind_errors) =
            (Arc::new(Log::default()), Arc::new(Alarms::default()), Arc::new(Mutex::default()));
        let mut options = ProxyOptions {
            published: published.clone(),
            clock: Clock::start(),
            cores,
            limits: ListenerDefaults { ..config.listeners.clone() },
            drain: config.process.drain.0,
            sample: 0.0,
            propagators: config.telemetry.traces.propagators.clone(),
            sink: log.clone(),
            alarm: alarms.clone(),
            unrouted: traffic.unrouted().clone(),
            identities: Arc::default(),
            inherited: Mutex::default(),
            on_bind_error: {
                let errors: Arc<Mutex<Vec<String>>> = bind_errors.clone();
                Box::new(move |e| errors.lock().unwrap().push(e.to_string()))
            },
            on_ready: Box::new(|| {}),
        };
        change(&mut options);
        let proxy = Proxy::bind(options).unwrap();
        let address = proxy.local_address(LISTENER.parse().unwrap()).unwrap();
        let (gauges, drain) = (proxy.gauges(), proxy.drain());
        (proxy, Self { address, log, alarms, links, traffic, published, gauges, drain, bind_errors })
    }

    pub fn publish(&self, id: u64, config: &Config) {
        self.published.publish(generation(id, config, &self.links, &self.traffic));
    }

    pub async fn connect1(&self) -> Client1 {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Client1(sender)
    }

    pub async fn connect2(&self) -> Client2 {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client2(sender)
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, client: Protocol, request: Request<Body>) -> Response<Incoming> {
        let response = match client {
            Protocol::Http2 => self.connect2().await.send(request).await,
            _ => self.connect1().await.send(request).await,
        };
        response.unwrap()
    }

    /// What a GET on a connection of its own is answered with.
    pub async fn get(&self, client: Protocol, path: &str) -> Answer {
        match client {
            Protocol::Http2 => self.connect2().await.get(path).await,
            _ => self.connect1().await.get(path).await,
        }
    }

    /// Writes bytes and reads until the proxy closes, or says nothing for a while.
    pub async fn raw(&self, request: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
            if n == 0 {
                break;
            }
            answer.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The log, once it has so many lines.
    pub async fn logged(&self, count: usize) -> Vec<Logged> {
        let lines = || self.log.0.lock().unwrap().clone();
        eventually(&format!("{count} lines in the log"), async || lines().len() >= count).await;
        lines()
    }

    /// Waits until so many requests are under way. What is over is logged a moment before it is counted no more.
    pub async fn under_way(&self, count: u64) {
        eventually(&format!("{count} requests under way"), async || self.gauges.snapshot().requests == count).await;
    }

    pub fn traffic(&self) -> TrafficSnapshot {
        self.traffic.of(&"w".into(), &"c".into()).snapshot()
    }

    pub fn unrouted(&self) -> TrafficSnapshot {
        let unrouted: &Arc<Traffic> = self.traffic.unrouted();
        unrouted.snapshot()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.drain.stop();
        self.drain.join();
        let left = self.gauges.snapshot();
        if !std::thread::panicking() {
            assert_eq!((left.downstream_connections, left.requests, left.pooled_connections), (0, 0, 0), "{left:?}");
        }
    }
}

/// Waits until this holds: far longer than it ever should take, on a busy machine too.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// An address that refuses connections.
pub fn refused() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}
