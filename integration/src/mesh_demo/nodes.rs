//! The nodes: what runs on each, how it is asked and told.

use nix::sys::signal::Signal;
use pathloom_integration::client::{Connection, ENDPOINT, Version, text};
use pathloom_integration::fleet::list;
use pathloom_integration::hosts::Hosts;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::nats;
use pathloom_integration::process::Process;
use pathloom_integration::sidecar::get;
use pathloom_integration::wait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The hosts.
pub const HOSTS: [&str; 3] = ["node-a", "node-b", "node-c"];
/// The first node.
pub const A: usize = 0;
/// The node that has trouble.
pub const B: usize = 1;
/// The node that has none.
pub const C: usize = 2;
/// The sidecars, with the hosts that they are on: the last one shares nothing.
const SIDECARS: [usize; 4] = [A, B, C, A];
/// The sidecar that shares nothing.
pub const ALONE: usize = 3;

const GOSSIP: u16 = 7946;
const NATS: u16 = 4222;
const CATALOG: u16 = 8080;
const STORAGE: u16 = 9000;
/// What the batch asks for.
const BATCH: &str = "/batch";
/// How far apart the requests are that somebody else sends to both catalogs in turn, all the time. Few: of many that wait for
/// a slow storage the model believes that they are why it is slow, and predicts that with a fair share it would not be.
const OTHERS_PAUSE: Duration = Duration::from_millis(200);
/// What a request may take. Of a node that is cut off nothing is heard, so each request to it takes all of that, and as long
/// as those that did are remembered, its links look slow to everybody.
const TIMEOUTS: &str = "timeouts: { connect: 300ms, request: 1s }";
/// From here on an answer is slow: nothing takes so long while all is well.
const SLOW: Duration = Duration::from_millis(200);
/// How long a request may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(10);

/// All of it.
pub struct Nodes {
    /// The machines.
    pub hosts: Hosts,
    pathloom: PathBuf,
    directory: TempDir,
    services: BTreeMap<&'static str, Child>,
    sidecars: [Option<Process>; 4],
    stop: Arc<AtomicBool>,
    /// The NATS server, where they share by one.
    nats: Option<Process>,
}

/// What came of some requests.
#[derive(Debug, Default)]
pub struct Answers {
    /// By who answered.
    pub by: BTreeMap<String, usize>,
    /// Those that were not answered with 200.
    pub failed: usize,
    /// The slowest one.
    pub slowest: Duration,
    /// How many took longer than [`SLOW`].
    pub slow: usize,
}

impl Answers {
    fn note(&mut self, answered: Option<String>, took: Duration) {
        match answered {
            Some(name) => *self.by.entry(name).or_default() += 1,
            None => self.failed += 1,
        }
        self.slowest = self.slowest.max(took);
        self.slow += usize::from(took > SLOW);
    }

    /// How many this service answered.
    pub fn of(&self, name: &str) -> usize {
        self.by.get(name).copied().unwrap_or(0)
    }
}

impl Nodes {
    /// Starts everything; with this NATS server where they share by one.
    ///
    /// # Panics
    /// When something cannot be started.
    pub async fn start(hosts: Hosts, pathloom: &Path, nats: Option<PathBuf>) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let key: String = (0..4)
            .map(|_| format!("{:x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)))
            .collect();
        std::fs::write(directory.path().join("mesh.key"), key).expect("a file");
        let stop = Arc::new(AtomicBool::new(false));
        let pathloom = std::fs::canonicalize(pathloom).unwrap_or_else(|e| panic!("{}: {e}", pathloom.display()));
        let mut nodes = Self {
            hosts,
            pathloom,
            directory,
            services: BTreeMap::new(),
            sidecars: Default::default(),
            stop,
            nats: None,
        };
        nodes.nats = nats.map(|program| nodes.start_nats(&program));
        let local = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        for (host, catalog, storage) in [(B, "catalog-b", "storage-b"), (C, "catalog-c", "storage-c")] {
            nodes.start_service(host, storage, STORAGE, None);
            nodes.start_service(host, catalog, CATALOG, Some(local(15_001)));
        }
        for sidecar in 0..SIDECARS.len() {
            nodes.start_sidecar(sidecar).await;
        }
        tokio::spawn(others(nodes.batch(), nodes.stop.clone()));
        nodes
    }

    /// Starts a NATS server on node-c, whose node is never cut off; all nodes have one nkey.
    fn start_nats(&self, program: &Path) -> Process {
        let (key, file) = (nkeys::KeyPair::new_user(), self.directory.path().join("nats.conf"));
        std::fs::write(self.nkey(), key.seed().expect("a seed")).expect("a file");
        let users = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key());
        let text = nats::configuration(SocketAddr::new(self.hosts.mesh(C), NATS), &users);
        std::fs::write(&file, text).expect("a file");
        let mut command = self.hosts.command(C, program);
        command.arg("--config").arg(file);
        Process::start(command)
    }

    fn nkey(&self) -> PathBuf {
        self.directory.path().join("nkey")
    }

    /// By what they share, in words.
    #[must_use]
    pub fn way(&self) -> &'static str {
        if self.nats.is_some() { "NATS, whose server is on node-c" } else { "gossip" }
    }

    /// How a sidecar shares.
    fn sharing(&self, host: usize) -> String {
        let key = self.directory.path().join("mesh.key");
        let way = match self.nats {
            Some(_) => {
                let (server, nkey) = (self.hosts.mesh(C), self.nkey());
                format!("nats: {{ servers: ['nats://{server}:{NATS}'], nkey: '{}' }}", nkey.display())
            }
            None => {
                let seeds: Vec<_> =
                    (0..HOSTS.len()).map(|seed| format!("'{}:{GOSSIP}'", self.hosts.mesh(seed))).collect();
                format!("listen: '{}:{GOSSIP}', seeds: [{}]", self.hosts.mesh(host), seeds.join(", "))
            }
        };
        format!("mesh: {{ key: '{}', {way} }}\n", key.display())
    }

    fn start_service(&mut self, host: usize, name: &'static str, port: u16, calls: Option<SocketAddr>) {
        let program = std::env::current_exe().expect("this program's file");
        let mut command = self.hosts.command(host, program);
        command.args(["service", "--listen", &format!("0.0.0.0:{port}"), "--name", name]);
        command.args(calls.map(|address| format!("--calls={address}")));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a service");
        self.services.insert(name, child);
    }

    /// Lets every answer of a service take so much longer.
    ///
    /// # Panics
    /// When it is gone.
    pub fn slow(&mut self, service: &str, by: Duration) {
        let input = self.services.get_mut(service).and_then(|child| child.stdin.as_mut()).expect("a service");
        writeln!(input, "slow {}", by.as_millis()).expect("a service that listens");
    }

    /// A catalog's address, as everybody knows it.
    #[must_use]
    pub fn catalog(&self, host: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.mesh(host), CATALOG)
    }

    /// A storage's address.
    #[must_use]
    pub fn storage(&self, host: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.mesh(host), STORAGE)
    }

    fn configuration(&self, sidecar: usize) -> String {
        let host = SIDECARS[sidecar];
        let mesh = self.sharing(host);
        let (name, mesh) = if sidecar == ALONE { ("alone", "") } else { (HOSTS[host], mesh.as_str()) };
        let common = format!(
            "node: {{ name: {name} }}\nadmin: {{ listen: '{}' }}\n{mesh}telemetry: {{ access_log: {{ to: 'off' }} }}\n\
             model: {{ engine: embedded, guards: {{ slow_start: 0s }} }}\n",
            self.admin(sidecar)
        );
        let catalogs = list([self.catalog(B), self.catalog(C)]);
        if host == A {
            return format!(
                "{common}workloads: {{ frontend: {{ listen: '{}' }} }}\nroutes: [{{ cluster: catalog }}]\n\
                 clusters: {{ catalog: {{ {TIMEOUTS}, endpoints: {catalogs} }} }}\n",
                self.front(sidecar)
            );
        }
        // On node-c somebody else calls both catalogs, in turn whatever they are like.
        let batch = if host == C { format!(", batch: {{ listen: '{}' }}", self.batch()) } else { String::new() };
        format!(
            "{common}workloads: {{ catalog: {{ listen: 127.0.0.1:15001, serves: '{}' }}{batch} }}\n\
             routes: [{{ match: {{ path: {BATCH} }}, cluster: catalog }}, {{ cluster: storage }}]\n\
             clusters:\n  storage: {{ endpoints: {} }}\n  catalog: {{ policy: round_robin, {TIMEOUTS}, endpoints: {catalogs} }}\n",
            self.catalog(host),
            list([self.storage(host)])
        )
    }

    fn admin(&self, sidecar: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.control(SIDECARS[sidecar]), 9_901 + u16::from(sidecar == ALONE))
    }

    fn batch(&self) -> SocketAddr {
        SocketAddr::new(self.hosts.control(C), 15_003)
    }

    fn front(&self, sidecar: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.control(A), 15_001 + u16::from(sidecar == ALONE))
    }

    /// Starts a sidecar and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_sidecar(&mut self, sidecar: usize) {
        let file = self.directory.path().join(format!("sidecar-{sidecar}.yaml"));
        std::fs::write(&file, self.configuration(sidecar)).expect("a file");
        let mut command = self.hosts.command(SIDECARS[sidecar], &self.pathloom);
        command.args(["run", "--config"]).arg(file).env("RUST_BACKTRACE", "1");
        let process = Process::start(command);
        let (admin, log) = (self.admin(sidecar), process.stderr.clone());
        self.sidecars[sidecar] = Some(process);
        wait::eventually("the sidecar to be ready", || {
            let log = log.text();
            async move {
                match get(admin, "/ready").await {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{other:?}\n{log}")),
                }
            }
        })
        .await;
    }

    /// Kills a sidecar.
    pub async fn kill_sidecar(&mut self, sidecar: usize) {
        if let Some(mut process) = self.sidecars[sidecar].take() {
            process.signal(Signal::SIGKILL);
            process.end(LIMIT).await;
        }
    }

    async fn json(&self, sidecar: usize, path: &str) -> Value {
        match tokio::time::timeout(LIMIT, get(self.admin(sidecar), path)).await {
            Ok(Ok((200, body))) => serde_json::from_str(&body).unwrap_or_default(),
            _ => Value::Null,
        }
    }

    /// A sidecar's metrics.
    ///
    /// # Panics
    /// When it says nothing.
    pub async fn metrics(&self, sidecar: usize) -> Metrics {
        let (status, text) = wait::soon("/metrics", get(self.admin(sidecar), "/metrics")).await.expect("metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// The generation in force at a sidecar, and the weights of both catalogs in it.
    pub async fn weights(&self, sidecar: usize) -> (u64, [f64; 2]) {
        let routing = self.json(sidecar, "/routing?cluster=catalog").await;
        let candidates = routing["tables"][0]["candidates"].as_array().cloned().unwrap_or_default();
        let weight = |host: usize| {
            let address = self.catalog(host).to_string();
            let found = candidates.iter().find(|c| c["address"] == address.as_str());
            found.and_then(|c| c["weight"].as_f64()).unwrap_or(f64::NAN)
        };
        (routing["generation"]["id"].as_u64().unwrap_or(0), [weight(B), weight(C)])
    }

    /// What a sidecar was told of the link from a catalog to its storage: by whom, and the latency in milliseconds.
    pub async fn told(&self, sidecar: usize, host: usize) -> Option<(String, f64)> {
        let graph = self.json(sidecar, "/graph").await;
        let (source, destination) = (self.catalog(host).to_string(), self.storage(host).to_string());
        let link = graph["links"]
            .as_array()?
            .iter()
            .find(|link| link["source"] == source.as_str() && link["destination"] == destination.as_str())?
            .clone();
        let by = link["told"]["by"].as_str()?.to_owned();
        Some((by, link["statistics"]["latency_ewma_ms"].as_f64().unwrap_or(f64::NAN)))
    }

    /// Sends so many requests of the frontend through a sidecar, one after another.
    pub async fn requests(&self, sidecar: usize, count: usize) -> Answers {
        let (mut answers, mut open) = (Answers::default(), None);
        for _ in 0..count {
            let begun = Instant::now();
            let answered = tokio::time::timeout(LIMIT, ask(&mut open, self.front(sidecar), "/")).await.ok().flatten();
            answers.note(answered, begun.elapsed());
        }
        answers
    }

    /// Sends so many requests a second for a while, whatever the ones before are waiting for.
    pub async fn paced(&self, sidecar: usize, a_second: u32, time: Duration) -> Answers {
        let (mut answers, mut under_way) = (Answers::default(), JoinSet::new());
        let (mut beat, front) = (tokio::time::interval(Duration::from_secs(1) / a_second), self.front(sidecar));
        for _ in 0..(time.as_secs() * u64::from(a_second)) {
            beat.tick().await;
            under_way.spawn(async move {
                let begun = Instant::now();
                let answered = tokio::time::timeout(LIMIT, ask(&mut None, front, "/")).await.ok().flatten();
                (answered, begun.elapsed())
            });
        }
        while let Some(ended) = under_way.join_next().await {
            let (answered, took) = ended.expect("it does not panic");
            answers.note(answered, took);
        }
        answers
    }

    /// Fails where a sidecar that runs has panicked.
    ///
    /// # Panics
    /// Then.
    pub fn assert_no_panic(&self) {
        for process in self.sidecars.iter().flatten() {
            let log = process.stderr.text();
            assert!(!log.contains("panicked at"), "a sidecar panicked:\n{log}");
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for child in self.services.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A request on a connection that may be open; gives who answered it with 200.
async fn ask(open: &mut Option<Connection>, address: SocketAddr, path: &str) -> Option<String> {
    let mut connection = match open.take().filter(Connection::usable) {
        Some(connection) => connection,
        None => Version::Http1.connect(address).await.ok()?,
    };
    let response = connection.get(path).await.ok()?;
    *open = Some(connection);
    (response.status() == 200).then(|| text(&response, ENDPOINT).to_owned())
}

/// Somebody else who calls both catalogs, all the time, whatever comes of it.
async fn others(sidecar: SocketAddr, stop: Arc<AtomicBool>) {
    while !stop.load(Relaxed) {
        // Each by itself, so that slow ones do not make them fewer.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LIMIT, ask(&mut None, sidecar, BATCH)).await;
        });
        tokio::time::sleep(OTHERS_PAUSE).await;
    }
}
