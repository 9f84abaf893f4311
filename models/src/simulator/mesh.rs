//! What is simulated: services, their replicas on hosts in zones, who calls whom, and the network between them.
//!
//! A `Mesh` is data without behaviour: topologies make it (`topology`), the engine plays it. Indices are positions in
//! the mesh's own lists.

use pathloom::links::NodeKey;
use std::sync::Arc;

/// How long a handler works on a request at speed 1, alone on its host: a mixture of log-normals.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The parts; their shares sum to 1.
    pub parts: Vec<WorkPart>,
}

/// One part of a mixture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkPart {
    /// How much of the requests it makes up.
    pub share: f64,
    /// Its mean in seconds.
    pub mean_s: f64,
    /// The shape of its times.
    pub shape: Shape,
}

/// The shape of a distribution of times with a given mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Log-normal with this standard deviation of the logarithm.
    LogNormal(f64),
    /// Exponential: for queueing theory.
    Exponential,
    /// Always the mean: for queueing theory.
    Constant,
}

/// A call that a handler makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Which of the service's dependencies it goes to: an index of `Service::called`.
    pub dependency: usize,
    /// The handler of the called service.
    pub handler: usize,
    /// How often, on average, a request makes it: the whole part surely, the rest with that probability.
    pub times: f64,
}

/// What a service does for one kind of request: work, then its calls, stage after stage; the calls of a stage run side
/// by side and are joined before the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    /// Its own work.
    pub work: Work,
    /// Its calls.
    pub stages: Vec<Vec<Call>>,
    /// The bytes of a request and its answer together, for the network's part.
    pub bytes: f64,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Its replicas, as indices of `Mesh::instances`; those that join later too.
    pub replicas: Vec<usize>,
    /// The services that it calls, as indices of `Mesh::services`.
    pub called: Vec<usize>,
    /// What it does for each kind of request.
    pub handlers: Vec<Handler>,
    /// How many requests a replica works on at once.
    pub workers: usize,
    /// How many more may wait; beyond, it refuses.
    pub queue: usize,
    /// Whether a worker stays busy while its request waits for calls (threads) or not (asynchronous).
    pub holds_worker: bool,
    /// Whether its replicas report their load (ORCA).
    pub reports: bool,
}

/// A replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its name in the graph.
    pub key: NodeKey,
    /// Its service.
    pub service: usize,
    /// Its host.
    pub host: usize,
    /// Its work takes this many times as long as at speed 1.
    pub slowness: f64,
    /// When it joins and leaves, in seconds; forever without.
    pub alive_s: Option<(f64, f64)>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: Arc<str>,
    /// Its zone.
    pub zone: usize,
    /// How many requests its processors work on at full speed; beyond, all share them equally.
    pub cores: f64,
}

/// A possible link: an instance and a replica of a service that it calls.
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
    /// Its links as indices of `Mesh::pairs`, in the order of the called service's replicas: its candidates.
    pub pairs: Vec<usize>,
}

/// What enters from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name, such as `read-home-timeline`.
    pub name: Arc<str>,
    /// The service where it enters; each of its replicas gets an equal part.
    pub service: usize,
    /// The handler that takes it.
    pub handler: usize,
    /// Requests a second at load 1.
    pub rate: f64,
}

/// The network.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Mean round trips between zones in seconds, `[from][to]`.
    pub rtt_s: Vec<Vec<f64>>,
    /// The mean round trip on one host in seconds.
    pub local_s: f64,
    /// The deviation of a way's logarithm.
    pub sigma: f64,
    /// How often a way takes much longer, and how many times as long on average: the heavy tail.
    pub tail: (f64, f64),
    /// How often a packet is lost on the way.
    pub loss: f64,
    /// What a loss costs in seconds: the sender's retransmission timeout.
    pub retransmit_s: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// What a proxy adds to a way, in seconds.
    pub overhead_s: f64,
}

/// A mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// Where it comes from, such as `social-network`.
    pub name: Arc<str>,
    /// Services.
    pub services: Vec<Service>,
    /// Instances of all services.
    pub instances: Vec<Instance>,
    /// Machines.
    pub hosts: Vec<Host>,
    /// All possible links.
    pub pairs: Vec<Pair>,
    /// For each instance, a route for each of its service's `called`.
    pub routes: Vec<Vec<Route>>,
    /// What enters.
    pub entries: Vec<Entry>,
    /// The network.
    pub network: Network,
}
