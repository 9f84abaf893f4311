//! One arm's services, and the configuration of the sidecar between them.
//!
//! ```text
//! load -> frontend -> sidecar -> catalog-1, catalog-2 -> sidecar -> storage-1, storage-2   (storage-east)
//!                             -> catalog-3, catalog-4 -> sidecar -> storage-3              (storage-west)
//! ```
//!
//! Two of the catalog replicas have a single storage replica behind them. When that one turns slow, their sidecar has
//! no other to choose: the only cure is two hops up, where the frontend's requests choose a catalog replica.
//!
//! The sizes are chosen so that a healthy fleet is nearly idle (a catalog replica at 6% of its workers, `storage-3` at
//! 8%) and the machine too, and so that trouble hurts without collapse under any policy: at ten times its service time
//! `storage-3` works off 80 requests a second, and round robin sends it 60. What is measured is then the policies and not a
//! queue that grows for as long as the demo lasts.

use super::client::Client;
use super::service::{Downstream, Replica, Spec, bind};
use super::story::{CRASHING_CATALOG, Event, SLOW_CATALOG, SLOW_STORAGE, SLOWDOWN};
use crate::config::Policy;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Requests a second that each arm gets. Three arms together load two cores to a small part.
pub const REQUESTS_PER_SECOND: f64 = 120.0;
/// A healthy catalog replica's mean service time, without the call to storage.
const CATALOG_WORK: Duration = Duration::from_millis(6);
/// A healthy storage replica's mean service time.
const STORAGE_WORK: Duration = Duration::from_millis(10);
/// How many requests a replica works on at once.
const WORKERS: usize = 8;
/// The frontend only passes on: it never makes a request wait.
const UNLIMITED: usize = 100_000;
/// The host of each cluster's route. A catalog replica calls the storage that it has, by its place in this list.
const CATALOG_HOST: &str = "catalog.demo";
const STORAGE_HOSTS: [&str; 4] = ["storage-east.demo", "storage-east.demo", "storage-west.demo", "storage-west.demo"];
/// A story's crash lasts seconds, not minutes: with the usual times a replica that is back would still be left alone when the
/// story ends.
const EJECTION: &str = "{ first: 500ms, longest: 2s }";
/// How many storage replicas there are.
const STORAGES: usize = 3;
/// Listeners are looked for here: below the range from which the kernel takes ports for outgoing connections, so that
/// nobody's connection takes the port of a listener that is about to open, or to come back.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// How many ports are tried before none is thought to be free.
const PORT_TRIES: u32 = 200;

/// The three policies side by side: ours first.
pub const POLICIES: [Policy; 3] = [Policy::Model, Policy::LeastRequest, Policy::RoundRobin];

/// A policy's name in the configuration and in the summary.
#[must_use]
pub fn policy_key(policy: Policy) -> &'static str {
    match policy {
        Policy::Model => "model",
        Policy::PeakEwma => "peak_ewma",
        Policy::LeastRequest => "least_request",
        Policy::RoundRobin => "round_robin",
        Policy::Random => "random",
    }
}

/// The addresses at which a sidecar listens.
#[derive(Debug, Clone)]
pub struct SidecarAddresses {
    /// The admin port.
    pub admin: SocketAddr,
    /// Where the frontend's requests come in.
    pub frontend: SocketAddr,
    /// Where each catalog replica's requests come in.
    pub catalogs: Vec<SocketAddr>,
}

/// The services of one arm.
#[derive(Debug)]
pub struct Fleet {
    /// Which policy its sidecar follows.
    pub policy: Policy,
    /// Where the sidecar is to listen.
    pub sidecar: SidecarAddresses,
    /// Where the load goes.
    pub frontend: Arc<Replica>,
    /// The catalog replicas.
    pub catalogs: Vec<Arc<Replica>>,
    /// The storage replicas.
    pub storages: Vec<Arc<Replica>>,
}

impl Fleet {
    /// Starts the services; the sidecar is still to come.
    ///
    /// The seed decides the service times: all arms get the same, so that replicas do not differ between them.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(policy: Policy, seed: u64) -> io::Result<Self> {
        // Held until all are chosen, so that no port is chosen twice.
        let held: Vec<TcpListener> = (0..2 + STORAGE_HOSTS.len()).map(|_| free_port()).collect::<io::Result<_>>()?;
        let addresses: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let (admin, frontend, catalogs) = match addresses.as_slice() {
            [admin, frontend, catalogs @ ..] => (*admin, *frontend, catalogs.to_vec()),
            _ => return Err(io::Error::other("no port is free")),
        };
        let sidecar = SidecarAddresses { admin, frontend, catalogs };

        let spec = |name: String, work, salt: u64| Spec { name, work, workers: WORKERS, seed: seed.wrapping_add(salt) };
        let storages = (0..STORAGES)
            .map(|i| {
                Replica::start(spec(format!("storage-{}", i + 1), STORAGE_WORK, 200 + i as u64), free_port()?, None)
            })
            .collect::<io::Result<_>>()?;
        let catalogs = (0u64..)
            .zip(sidecar.catalogs.iter().zip(STORAGE_HOSTS))
            .map(|(i, (outgoing, host))| {
                let downstream = Downstream { client: Client::new(*outgoing), host, transparent: false };
                let spec = spec(format!("catalog-{}", i + 1), CATALOG_WORK, 100 + i);
                Replica::start(spec, free_port()?, Some(downstream))
            })
            .collect::<io::Result<_>>()?;
        let passes_on = Downstream { client: Client::new(sidecar.frontend), host: CATALOG_HOST, transparent: true };
        let spec = Spec { name: "frontend".into(), work: Duration::ZERO, workers: UNLIMITED, seed };
        let frontend = Replica::start(spec, free_port()?, Some(passes_on))?;
        Ok(Self { policy, sidecar, frontend, catalogs, storages })
    }

    /// What the sidecar is told.
    #[must_use]
    pub fn sidecar_config(&self) -> String {
        let SidecarAddresses { admin, frontend, catalogs } = &self.sidecar;
        let mut workloads = format!("  frontend: {{ listen: {frontend} }}\n");
        for (listen, replica) in catalogs.iter().zip(&self.catalogs) {
            let (name, serves) = (&replica.spec.name, replica.address);
            workloads.push_str(&format!("  {name}: {{ listen: {listen}, service: catalog, serves: {serves} }}\n"));
        }
        let mut clusters = String::new();
        let storages = |of: std::ops::Range<usize>| self.storages.get(of).unwrap_or_default();
        // storage-west: the one that turns slow. storage-east: those before it.
        let (east, west) = (storages(0..SLOW_STORAGE), storages(SLOW_STORAGE..STORAGES));
        for (name, service, endpoints) in [
            ("catalog", "catalog", self.catalogs.as_slice()),
            ("storage-east", "storage", east),
            ("storage-west", "storage", west),
        ] {
            let policy = policy_key(self.policy);
            let list: String = endpoints.iter().map(|e| format!("      - address: {}\n", e.address)).collect();
            clusters.push_str(&format!(
                "  {name}:\n    service: {service}\n    policy: {policy}\n    ejection: {EJECTION}\n    endpoints:\n{list}"
            ));
        }
        let [.., west_host] = STORAGE_HOSTS;
        let [east_host, ..] = STORAGE_HOSTS;
        format!(
            "node: {{ name: demo-{policy} }}\n\
             admin: {{ listen: {admin} }}\n\
             process: {{ threads: 1, drain: 1s }}\n\
             workloads:\n{workloads}\
             routes:\n\
             \x20 - match: {{ host: {CATALOG_HOST} }}\n    cluster: catalog\n\
             \x20 - match: {{ host: {east_host} }}\n    cluster: storage-east\n\
             \x20 - match: {{ host: {west_host} }}\n    cluster: storage-west\n\
             clusters:\n{clusters}\
             telemetry:\n  access_log: {{ to: \"off\" }}\n",
            policy = policy_key(self.policy),
        )
    }

    /// Lets a chapter's event happen. Returns how many requests a crash caught.
    ///
    /// # Errors
    /// When a crashed replica cannot have its address back.
    pub async fn happen(&self, event: Event) -> io::Result<Option<usize>> {
        match event {
            Event::Nothing => {}
            Event::SlowCatalog => self.catalogs.get(SLOW_CATALOG).iter().for_each(|r| r.slow_down(SLOWDOWN)),
            Event::SlowStorage => self.storages.get(SLOW_STORAGE).iter().for_each(|r| r.slow_down(SLOWDOWN)),
            Event::Heal => self.catalogs.iter().chain(&self.storages).for_each(|r| r.slow_down(1)),
            Event::Crash => {
                if let Some(replica) = self.catalogs.get(CRASHING_CATALOG) {
                    return Ok(Some(replica.crash().await));
                }
            }
            Event::Return => {
                if let Some(replica) = self.catalogs.get(CRASHING_CATALOG) {
                    replica.resume().await?;
                }
            }
        }
        Ok(None)
    }

    /// Which catalog replica has this name, counted from zero.
    #[must_use]
    pub fn catalog_named(&self, name: &[u8]) -> Option<usize> {
        self.catalogs.iter().position(|r| r.spec.name.as_bytes() == name)
    }
}

/// A listener on a port of loopback that nobody else has.
fn free_port() -> io::Result<TcpListener> {
    let mut rng: SmallRng = rand::make_rng();
    let mut last = io::Error::other("no port was tried");
    for _ in 0..PORT_TRIES {
        let port = PORTS.start + (rng.next_u32() % u32::from(PORTS.end - PORTS.start)) as u16;
        match bind((Ipv4Addr::LOCALHOST, port).into()) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// When the requests of an arm are due, counted from the story's start: a Poisson process, the same for every arm.
#[must_use]
pub fn arrivals(length: Duration, per_second: f64, seed: u64) -> Vec<Duration> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut due_s = 0.0;
    let next = std::iter::from_fn(move || {
        due_s -= super::service::uniform(&mut rng).ln() / per_second;
        Some(due_s)
    });
    next.take_while(|due| *due < length.as_secs_f64()).map(Duration::from_secs_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn the_sidecars_configuration_is_valid_and_says_what_the_fleet_is() {
        let fleet = Fleet::start(Policy::LeastRequest, 1).unwrap();
        let text = fleet.sidecar_config();
        let config = config::load_str(&text, "demo.yaml").unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(config.clusters.values().all(|c| c.policy == Policy::LeastRequest));
        let sizes: Vec<_> = config.clusters.iter().map(|(n, c)| (n.as_str(), c.endpoints.len())).collect();
        assert_eq!(sizes, [("catalog", 4), ("storage-east", 2), ("storage-west", 1)]);
        assert_eq!(config.workloads["catalog-4"].serves, Some(fleet.catalogs[3].address));
        assert_eq!((config.workloads.len(), config.routes.len()), (5, 3));
        assert_eq!(config.telemetry.access_log.to, "off");
        let mut all: Vec<SocketAddr> = fleet.catalogs.iter().chain(&fleet.storages).map(|r| r.address).collect();
        all.extend(config.workloads.values().filter_map(|w| w.listen));
        all.push(fleet.sidecar.admin);
        assert_eq!(config.admin.listen, config::AdminAddress::Tcp(fleet.sidecar.admin));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4 + 3 + 5 + 1, "nobody shares an address");
    }

    #[tokio::test]
    async fn only_the_far_catalogs_call_the_storage_that_turns_slow() {
        let fleet = Fleet::start(Policy::Model, 1).unwrap();
        let config = config::load_str(&fleet.sidecar_config(), "demo.yaml").unwrap();
        assert_eq!(config.clusters["storage-west"].endpoints[0].address, fleet.storages[SLOW_STORAGE].address);
        for (i, host) in STORAGE_HOSTS.into_iter().enumerate() {
            let cluster = config.routes.iter().find(|r| r.matches.host.as_deref() == Some(host)).unwrap();
            let far = super::super::story::FAR_CATALOGS.contains(&i);
            assert_eq!(cluster.cluster.as_deref() == Some("storage-west"), far, "{host}");
        }
    }

    #[test]
    fn arrivals_have_their_rate_and_are_the_same_for_the_same_seed() {
        let due = arrivals(Duration::from_secs(100), 120.0, 3);
        assert!((11_500..12_500).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted() && due.last().unwrap() < &Duration::from_secs(100));
        assert_eq!(due, arrivals(Duration::from_secs(100), 120.0, 3));
        assert_ne!(due, arrivals(Duration::from_secs(100), 120.0, 4));
    }
}
