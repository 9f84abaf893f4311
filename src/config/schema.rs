//! The YAML's shape: one plain struct a section, one documented field a key.
//!
//! These types are what the rest of the house reads. Each field's doc comment is the key's one sentence of
//! documentation: it becomes the JSON schema, `proxy-config/reference.yaml` and the README's table. Every key has a
//! default, except the few without which nothing could be meant (an endpoint's address, a split's clusters).
//! Nothing here opens a file or a socket, and nothing here judges: `validate` does.

mod connections;
mod discover;
mod gateway;
mod identity;
mod model;
mod operate;
mod resilience;
mod sharing;
mod steering;
mod telemetry;
mod traffic;

pub use connections::{Capture, CaptureMode, CapturedPods, ListenerProtocol, Unknown};
pub use discover::{Discover, Port};
pub use gateway::GatewayApi;
pub use identity::{Allow, ClusterTls, Identity, TlsMode};
pub use model::{Compare, Device, Engine, Guards, Mode, Model, Triggers};
pub use operate::{Admin, AdminAddress, FileMode, Privileges, Process};
pub use resilience::{Check, Ejection, HealthCheck, HedgeAfter, Hedging, MAX_RETRIES, Retries, RetryOn};
pub use sharing::{Mesh, Nats, NatsTls};
pub use steering::{Canary, Locality};
pub use telemetry::{AccessLog, CollectorTls, LogFormat, Otlp, Propagator, Record, Telemetry, Traces};
pub use traffic::{Abort, Affinity, Delay, Fault, HeaderChanges, HeaderEdits, Mirror, Redirect, Rewrite, Scheme};

use super::admission::{Admission, Priority, RateLimit};
use super::units::{ByteSize, Share, SourceNet, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this proxy is.
    pub node: Node,
    /// The operators' port: health, metrics, explanations.
    pub admin: Admin,
    /// The process: its threads and how it leaves. Read once, at start.
    pub process: Process,
    /// What holds for every listener.
    pub listeners: ListenerDefaults,
    /// This node's identity in the mesh, by which TLS connections prove who they are.
    pub identity: Identity,
    /// Sharing link statistics with other nodes, so that the model sees the whole mesh and not this node's links alone.
    pub mesh: Mesh,
    /// Who is calling. The graph's links start here. Keyed by the workload's name.
    pub workloads: BTreeMap<String, Workload>,
    /// Where requests go. The first match wins.
    pub routes: Vec<Route>,
    /// What they can reach. Keyed by the cluster's name.
    pub clusters: BTreeMap<String, Cluster>,
    /// Routes from Kubernetes' Gateway API: HTTPRoutes and GRPCRoutes whose parents are Services, or Gateways that are named here.
    pub gateway_api: GatewayApi,
    /// Connections that the kernel redirects here, on listeners with `capture`.
    pub capture: Capture,
    /// Which requests go first where a cluster is overloaded.
    pub priority: Priority,
    /// How paths are scored.
    pub model: Model,
    /// What is reported, and where to.
    pub telemetry: Telemetry,
}

/// Who this proxy is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The node's name, unique in the mesh.
    pub name: String,
    /// The zone that the node is in; empty when unknown.
    pub zone: String,
}

/// What holds for every listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerDefaults {
    /// A client connection without a request in flight is closed after this long.
    pub idle: Timespan,
    /// How long a client may take to send a request's headers; over HTTP/2 also what it begins with, and any other frame but DATA.
    pub request_headers: Timespan,
    /// The largest request head, in bytes.
    pub max_header_bytes: ByteSize,
    /// How many headers a request may have.
    pub max_headers: usize,
    /// How long a listener with `protocol: detect` waits for a client's first bytes, where the connection could also be passed on as TCP.
    pub detect: Timespan,
    /// How many connections each serving thread accepts at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How many HTTP/2 streams a connection may have open.
    pub max_streams: u32,
}

/// Which source a connection belongs to: by the listener it came in on, and by its source address.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// The address on which this workload's outgoing requests come in; several workloads may share one and differ by `source`.
    pub listen: Option<SocketAddr>,
    /// The addresses this workload calls from (`10.1.2.16/28`); without it, everybody on the listener.
    pub source: Option<SourceNet>,
    /// What clients speak on the listener; all workloads of a listener say the same, as they do of `capture` and `proxy_from`.
    pub protocol: ListenerProtocol,
    /// How connections come to the listener: from clients, or from the kernel, which redirects what was meant for others.
    pub capture: CaptureMode,
    /// Who puts a PROXY header (v1 or v2) before each connection, and is believed that it comes from whom that names; nobody when empty.
    pub proxy_from: Vec<SourceNet>,
    /// The service that this workload is an instance of; its own name when empty.
    pub service: String,
    /// The address at which this workload is itself an endpoint of a cluster, which joins its outgoing links to its incoming ones.
    pub serves: Option<SocketAddr>,
    /// Whether its word on a request's class and depth (`x-pathloom-class`, `x-pathloom-depth`) is believed; from others these headers are removed where priorities are in use.
    pub trusted: bool,
    /// How many requests it may send.
    pub rate: Option<RateLimit>,
    /// Whether clients on the listener must prove who they are; all workloads of a listener say the same.
    pub tls: TlsMode,
    /// Who may send what; without a rule everybody may everything, with rules nothing is allowed but what they name.
    pub allow: Vec<Allow>,
}

/// One rule of the routing table. The first match wins.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// What a request must look like; empty matches everything.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// The cluster that gets the requests; either this or `split`.
    pub cluster: Option<String>,
    /// Shares of the requests by cluster, together 100%; either this or `cluster`.
    pub split: BTreeMap<String, Share>,
    /// How long a whole request may take; overrides the cluster's `timeouts.request`.
    pub timeout: Option<Timespan>,
    /// The longest body that a request may have; one with a longer body is refused with 413. Bodies are passed on as they come, so that the proxy itself needs no limit.
    pub max_body: Option<ByteSize>,
    /// What the endpoint is asked for in place of what the client asked for. `x-forwarded-host` keeps the client's word.
    pub rewrite: Rewrite,
    /// The proxy answers by itself and sends the client elsewhere, in place of `cluster` and `split`.
    pub redirect: Redirect,
    /// What happens to headers on their way.
    pub headers: HeaderChanges,
    /// What goes wrong on purpose, to see how callers take it; nothing of it counts against an endpoint.
    pub fault: Fault,
    /// Copies of requests that another cluster gets as well. Its answers are dropped, and nothing is learnt from them.
    pub mirror: Mirror,
    /// Whether a request may safely be repeated, whatever its method says; without it, what HTTP says of the method.
    pub idempotent: Option<bool>,
    /// The class of its requests, one of `priority.classes`.
    pub class: Option<String>,
    /// How many requests it lets through.
    pub rate: Option<RateLimit>,
}

impl Route {
    /// A short name for logs and metrics: host and path as written, a regular expression behind a `~`, or `*`.
    #[must_use]
    pub fn label(&self) -> String {
        let m = &self.matches;
        let prefix = || m.path_prefix.as_ref().map(|p| format!("{}/*", p.trim_end_matches('/')));
        let path = m.path.clone().or_else(prefix).or_else(|| m.path_regex.as_ref().map(|regex| format!("~{regex}")));
        match (m.host.as_deref(), path) {
            (None, None) => "*".to_owned(),
            (host, path) => format!("{}{}", host.unwrap_or("*"), path.unwrap_or_default()),
        }
    }
}

/// What a request must look like: every named condition must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteMatch {
    /// The host without its port (`catalog.shop`), or a wildcard for its first labels (`*.shop`).
    pub host: Option<String>,
    /// The exact path.
    pub path: Option<String>,
    /// A prefix of the path, matched at `/` boundaries: `/v2` matches `/v2` and `/v2/x`, not `/v20`.
    pub path_prefix: Option<String>,
    /// A regular expression that matches the whole path (`/v[0-9]+/items`), in the syntax of Rust's `regex` with ASCII classes.
    pub path_regex: Option<String>,
    /// Headers and the exact value each must have.
    pub headers: BTreeMap<String, String>,
    /// Headers and the regular expression that matches a whole value of each.
    pub headers_regex: BTreeMap<String, String>,
    /// Cookies and the exact value each must have.
    pub cookies: BTreeMap<String, String>,
    /// Parameters of the query (`?v=2`) and the exact value each must have, written without percent-encoding.
    pub query: BTreeMap<String, String>,
    /// Parameters of the query and the regular expression that matches a whole value of each, once it is decoded.
    pub query_regex: BTreeMap<String, String>,
    /// The method.
    pub method: Option<String>,
    /// The port that a TCP connection was made to; only where the route leads to clusters with `protocol: tcp`, whose other condition is `host`: the name that TLS asks for.
    pub port: Option<u16>,
}

impl RouteMatch {
    /// All regular expressions in it.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        let among = self.headers_regex.values().chain(self.query_regex.values());
        self.path_regex.iter().chain(among).map(String::as_str)
    }
}

/// A group of endpoints that offer the same service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// The service that the endpoints offer, as the graph names it; the cluster's own name when empty.
    pub service: String,
    /// How a request chooses an endpoint.
    pub policy: Policy,
    /// What is spoken with the endpoints.
    pub protocol: Protocol,
    /// Who stays with which endpoint: by one of header, cookie and source address. Requests without it go by the policy.
    pub affinity: Affinity,
    /// Whether endpoints of the node's own zone come first.
    pub locality: Locality,
    /// How connections to the endpoints are secured; plain text when it is not said.
    pub tls: ClusterTls,
    /// Whether each connection to an endpoint begins with a PROXY protocol v2 header that says who the client is; only with `protocol: tcp`, where a connection has one client.
    pub proxy_protocol: bool,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Where more endpoints come from, beside those that are listed; a source that is down keeps those that it gave last.
    pub discover: Vec<Discover>,
    /// Further addresses that stand for all of the endpoints (`10.96.0.10:80`): captured connections to them go to this cluster, as those to an endpoint's own address do.
    pub addresses: Vec<SocketAddr>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When a request that failed is tried at another endpoint.
    pub retries: Retries,
    /// When a second endpoint is asked as well because the first one has not answered yet; only what may safely be repeated is (idempotent methods, or a route that says so), with its whole body at hand.
    pub hedging: Hedging,
    /// How endpoints are asked whether they are well, beside what requests see of them; over the cluster's `tls`, as its requests go.
    pub health: HealthCheck,
    /// When an endpoint that fails is left alone.
    pub ejection: Ejection,
    /// How many requests it takes at once, and what happens to the others.
    pub admission: Admission,
}

/// The cluster that discovery makes for routes whose backend does not exist or may not be used.
pub const UNRESOLVED: &str = "kube.unresolved";

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// The zone that it is in; empty when unknown.
    #[serde(default)]
    pub zone: String,
    /// The machine that it runs on; empty when unknown. Instances on one machine share its processors, so trouble of
    /// one is a sign for the others.
    #[serde(default)]
    pub host: String,
    /// Its share relative to the others, before the model or the policy has its say; 0 sends it nothing.
    #[serde(default = "one")]
    pub weight: u32,
    /// Free-form facts, shown where the endpoint is shown.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

/// How a request chooses an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// By the model's weights and the local estimate that decays towards them.
    #[default]
    Model,
    /// By the lower of two peak EWMA latencies times requests in flight.
    PeakEwma,
    /// By the fewer requests in flight of two.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By weight alone.
    Random,
}

/// What is spoken with the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, a pool of connections.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, many requests on one connection.
    Http2,
    /// Anything: the bytes of one client's connection, passed on as they are.
    Tcp,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Opening a connection to an endpoint.
    pub connect: Timespan,
    /// From the request's end to the response's head.
    pub response_headers: Timespan,
    /// A body, or an upgraded connection, on which nothing moves.
    pub idle: Timespan,
    /// The whole request, its response's last byte included; `0s` is without limit.
    pub request: Timespan,
    /// A pooled connection that nobody uses is closed after this long.
    pub pooled: Timespan,
    /// A TCP connection on which nothing moves, in either direction, is closed after this long.
    pub tcp_idle: Timespan,
}

/// `auto`, or a value of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auto<T> {
    /// Chosen by the program.
    #[default]
    Auto,
    /// Chosen by the operator.
    Set(T),
}

const fn secs(s: u64) -> Timespan {
    Timespan(std::time::Duration::from_secs(s))
}

const fn millis(ms: u64) -> Timespan {
    Timespan(std::time::Duration::from_millis(ms))
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "local".into(), zone: String::new() }
    }
}

impl Default for ListenerDefaults {
    fn default() -> Self {
        Self {
            idle: secs(300),
            request_headers: secs(10),
            max_header_bytes: ByteSize(64 * 1024),
            max_headers: 100,
            detect: secs(1),
            max_connections: 16_384,
            max_streams: 256,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: secs(1),
            response_headers: secs(15),
            idle: secs(60),
            request: secs(0),
            pooled: secs(60),
            tcp_idle: secs(3600),
        }
    }
}
