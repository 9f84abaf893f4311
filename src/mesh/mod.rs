//! Sharing link statistics between nodes: what this proxy saw on its links, told to others, and what they tell, taken in.
//!
//! ```text
//! links.accounts -> teller (changed and used first, a budget of bytes) -> wire -> Exchange ... the other nodes
//! links.tell     <- ledger (the later word of each, for 7 s)           <- wire <- Exchange ... the other nodes
//! ```
//! All of it is on a thread of its own. A tick reads what was heard up to a tenth of a second ago, by one pointer;
//! a request notices nothing at all. Where nothing is shared there is no thread and no pointer.
//!
//! Every statistic carries its age, and the model gets it as a feature. Nothing that is told outlives its teller by more
//! than seven seconds, whoever died: the teller, the network, or this thread. Own links are never shown as others tell of
//! them. What is forged, stale, from the future, of another version or larger than anything of ours is refused and counted by
//! its reason (`refused`), and nothing else changes.
//!
//! `exchange` is the seam to what carries reports; `gossip` is the one way that needs no server.

mod counters;
mod exchange;
mod gossip;
mod interest;
mod ledger;
mod meter;
mod node;
mod refused;
mod seal;
mod teller;
pub mod wire;

pub use counters::Counters;
pub use exchange::{Audience, Exchange, Room};
pub use gossip::{DATAGRAM_OVERHEAD, Gossip, REPORT_BYTES, Settings};
pub use interest::Interest;
pub use ledger::{Ledger, Peer, Taken};
pub use meter::Meter;
pub use node::{Identity, Node};
pub use refused::Refused;
pub use seal::{Keys, Kind, NoKeys, Opener, Sealer};
pub use teller::Teller;

use crate::config::touch::{FileMark, mark_of};
use crate::config::{self, Config};
use crate::links::{Described, Links, NodeKey, Time};
use gossip::Shared;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

/// How often the key file is looked at, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// How long its thread may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// Where packets go that leave this machine; none is sent (RFC 5737 keeps the address for documentation).
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// What sharing works with.
pub struct Parts {
    /// What requests saw, and where others' words go.
    pub links: Arc<Links>,
    /// The time.
    pub clock: Arc<dyn Fn() -> Time + Send + Sync>,
    /// What is known of an instance from elsewhere.
    pub described: Describes,
}

/// Says what is known of an instance.
pub type Describes = Arc<dyn Fn(&NodeKey) -> Option<Described> + Send + Sync>;

/// Why links are not shared.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// Nobody can listen there.
    #[error("mesh.listen: cannot listen on {address}/udp: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("mesh.key: {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No key in the file.
    #[error("mesh.key: {}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: NoKeys,
    },
    /// No thread.
    #[error("mesh: {0}")]
    Thread(io::Error),
}

/// Now, in milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Sharing, as the configuration asks for it at present.
pub struct Mesh {
    parts: Arc<Parts>,
    counters: Arc<Counters>,
    node: Arc<str>,
    zone: Arc<str>,
    config: config::Mesh,
    running: Option<Running>,
    /// Why it could not begin, the last time.
    failed: Option<String>,
}

impl Mesh {
    /// Sharing as a configuration asks for it. With `patient` an address that somebody else still has is tried again later:
    /// the process before this one may be leaving.
    ///
    /// # Errors
    /// When the address or the key file is of no use.
    pub fn start(parts: Parts, config: &Config, patient: bool) -> Result<Self, MeshError> {
        let mut mesh = Self {
            parts: Arc::new(parts),
            counters: Arc::default(),
            node: config.node.name.as_str().into(),
            zone: config.node.zone.as_str().into(),
            config: config.mesh.clone(),
            running: None,
            failed: None,
        };
        match mesh.begin() {
            Err(MeshError::Bind { .. }) if patient => {}
            begun => begun?,
        }
        Ok(mesh)
    }

    /// What it shows of itself.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Follows the configuration and the key file for as long as it is asked to.
    pub async fn follow(mut self, mut configs: watch::Receiver<Arc<Config>>) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                changed = configs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = configs.borrow_and_update().mesh.clone();
                    if next != self.config {
                        self.end().await;
                        self.config = next;
                        self.try_again();
                    }
                }
                _ = look.tick() => {
                    if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
                        tracing::error!("sharing links ended by itself; it starts anew");
                        self.end().await;
                    }
                    match &mut self.running {
                        Some(running) => running.look_at_key(),
                        None if self.config.listen.is_some() => self.try_again(),
                        None => {}
                    }
                }
            }
        }
    }

    fn try_again(&mut self) {
        let failed = self.begin().err().map(|error| error.to_string());
        // Told once, however often it is tried.
        if let Some(error) = failed.as_ref().filter(|_| failed != self.failed) {
            tracing::error!("links are not shared: {error}");
        }
        self.failed = failed;
    }

    async fn end(&mut self) {
        if let Some(Running { stop, thread, .. }) = self.running.take() {
            drop(stop);
            // Its socket should be free before another one is bound; if it is not, that is tried again.
            let ended = tokio::time::timeout(ENDING, tokio::task::spawn_blocking(move || thread.join())).await;
            if !matches!(ended, Ok(Ok(Ok(())))) {
                tracing::error!("the thread that shared links did not end as it should");
            }
        }
        self.counters.set_on(false);
        self.parts.links.tell(None);
    }

    fn begin(&mut self) -> Result<(), MeshError> {
        let (Some(listen), Some(key)) = (self.config.listen, &self.config.key) else { return Ok(()) };
        let (keys, mark) = (read_keys(key)?, mark_of(key));
        let bound = UdpSocket::bind(listen).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok((socket.local_addr()?, socket))
        });
        let (address, socket) = bound.map_err(|source| MeshError::Bind { address: listen, source })?;
        let (stop, mut stopped) = oneshot::channel();
        let shared = Arc::new(OnceLock::new());
        let incarnation = wall_ms();
        let identity =
            Identity { name: self.node.clone(), zone: self.zone.clone(), incarnation, hops: self.config.hops };
        let node = Node::new(self.parts.clone(), self.counters.clone(), identity);
        let (name, config, counters) = (self.node.clone(), self.config.clone(), self.counters.clone());
        let begun = shared.clone();
        let run = async move {
            let advertise = match config.advertise {
                Some(address) => address,
                None => reachable(address, &config.seeds).await,
            };
            let settings =
                Settings { node: name, incarnation, advertise, seeds: config.seeds, keys, budget: config.budget.0 };
            let started = tokio::select! {
                started = Gossip::start(socket, settings, counters) => started,
                _ = &mut stopped => return,
            };
            match started {
                Ok(gossip) => {
                    tracing::info!(listen = %address, %advertise, "links are shared with other nodes");
                    let _ = begun.set(gossip.shared());
                    node.share(gossip, stopped).await;
                }
                Err(error) => tracing::error!("links are not shared: {error}"),
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MeshError::Thread)?;
        let thread = std::thread::Builder::new().name("mesh".into()).spawn(move || runtime.block_on(run));
        let thread = thread.map_err(MeshError::Thread)?;
        self.counters.set_on(true);
        self.running = Some(Running { stop, thread, shared, key: key.clone(), mark });
        Ok(())
    }
}

fn read_keys(path: &Path) -> Result<Keys, MeshError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| MeshError::Unreadable { path: path.to_owned(), source })?;
    Keys::read(&text).map_err(|source| MeshError::Key { path: path.to_owned(), source })
}

/// The address by which others reach what listens here: where it listens on every address, the one that packets to the
/// first seed leave by.
async fn reachable(listen: SocketAddr, seeds: &[String]) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let mut seed = ELSEWHERE;
    for name in seeds {
        if let Some(found) = tokio::net::lookup_host(name).await.ok().and_then(|mut all| all.next()) {
            seed = found;
            break;
        }
    }
    let any: IpAddr = if seed.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(seed)?;
        socket.local_addr()
    });
    let ip = own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |own| own.ip());
    SocketAddr::new(ip, listen.port())
}

/// The thread that shares.
struct Running {
    /// It ends when this is gone.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    shared: Arc<OnceLock<Arc<Shared>>>,
    key: PathBuf,
    mark: FileMark,
}

impl Running {
    /// Takes over keys that were changed. Where they are of no use the last ones stay.
    fn look_at_key(&mut self) {
        let mark = mark_of(&self.key);
        if mark == self.mark {
            return;
        }
        let Some(shared) = self.shared.get() else { return };
        self.mark = mark;
        match read_keys(&self.key) {
            Ok(keys) => {
                shared.rekey(keys);
                tracing::info!("the mesh's keys were read anew");
            }
            Err(error) => tracing::error!("the mesh's last keys stay: {error}"),
        }
    }
}
