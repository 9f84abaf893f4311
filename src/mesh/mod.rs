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
//! its reason (`refused`), the first of each reason is named in the log (`refusals`), and nothing else changes.
//!
//! `exchange` is the seam to what carries reports; `gossip` is the way that needs no server, `nats` the one for large fleets.

mod counters;
mod exchange;
mod gossip;
mod interest;
mod keyring;
mod ledger;
mod meter;
mod nats;
mod node;
mod places;
mod reach;
mod refusals;
mod refused;
mod seal;
mod teller;
pub mod wire;

pub use counters::Counters;
pub use exchange::{Audience, Exchange, Hearers, Room, To};
pub use gossip::{DATAGRAM_OVERHEAD, Gossip, REPORT_BYTES, Settings};
pub use interest::{Interest, hash};
pub use keyring::Keyring;
pub use ledger::{Ledger, Peer, Taken};
pub use meter::Meter;
pub use nats::{REPORT_BYTES as MESSAGE_REPORT_BYTES, overhead as message_overhead};
pub use node::{Identity, Node};
pub use refused::Refused;
pub use seal::{Keys, Kind, NoKeys, Opener, Sealer};
pub use teller::Teller;

use crate::config::touch::{FileMark, mark_of};
use crate::config::{self, Config};
use crate::links::{Described, Links, NodeKey, Time};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

/// How often the key file is looked at, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// How long its thread may take to end.
const ENDING: Duration = Duration::from_secs(1);
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
    /// A file that a connection to NATS needs.
    #[error("mesh.nats.{key}: {} {reason}", path.display())]
    Nats {
        /// Its key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No random numbers.
    #[error("mesh: the system gives no random numbers")]
    Random,
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
                        None if self.config.shares() => self.try_again(),
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
        self.counters.set_by_server(false);
        self.parts.links.tell(None);
    }

    fn begin(&mut self) -> Result<(), MeshError> {
        let Some(key) = self.config.key.clone().filter(|_| self.config.shares()) else { return Ok(()) };
        let (keys, mark) = (read_keys(&key)?, mark_of(&key));
        let keyring = Arc::new(Keyring::new(keys).ok_or(MeshError::Random)?);
        let (name, zone, incarnation, hops) = (self.node.clone(), self.zone.clone(), wall_ms(), self.config.hops);
        let identity = Identity { name: name.clone(), zone: zone.clone(), incarnation, hops };
        let node = Node::new(self.parts.clone(), self.counters.clone(), identity);
        let (config, counters) = (self.config.clone(), self.counters.clone());
        let (stop, stopped) = oneshot::channel();
        let (ring, budget) = (keyring.clone(), config.budget.0);
        let thread = match config.listen {
            Some(listen) => {
                let (socket, address) = bind(listen)?;
                in_a_thread(async move {
                    let advertise = match config.advertise {
                        Some(address) => address,
                        None => reach::reachable(address, &config.seeds).await,
                    };
                    let seeds = config.seeds;
                    let settings = Settings { node: name, incarnation, advertise, seeds, keyring: ring, budget };
                    gossip(node, socket, settings, counters, stopped).await;
                })?
            }
            None => {
                nats::check(&config.nats)?;
                self.counters.set_by_server(true);
                let settings =
                    nats::Settings { node: name, zone, incarnation, keyring: ring, budget, nats: config.nats };
                in_a_thread(async move { node.share(nats::Nats::start(settings, counters), stopped).await })?
            }
        };
        self.counters.set_on(true);
        self.running = Some(Running { stop, thread, keyring, key, mark });
        Ok(())
    }
}

/// Shares by gossip until `stopped`.
async fn gossip(
    node: Node,
    socket: UdpSocket,
    settings: Settings,
    counters: Arc<Counters>,
    mut stopped: oneshot::Receiver<()>,
) {
    let advertise = settings.advertise;
    let started = tokio::select! {
        started = Gossip::start(socket, settings, counters) => started,
        _ = &mut stopped => return,
    };
    match started {
        Ok(gossip) => {
            tracing::info!(%advertise, "links are shared with other nodes");
            node.share(gossip, stopped).await;
        }
        Err(error) => tracing::error!("links are not shared: {error}"),
    }
}

fn bind(listen: SocketAddr) -> Result<(UdpSocket, SocketAddr), MeshError> {
    let bound = UdpSocket::bind(listen).and_then(|socket| {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    });
    bound.map_err(|source| MeshError::Bind { address: listen, source })
}

fn in_a_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<JoinHandle<()>, MeshError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MeshError::Thread)?;
    let thread = std::thread::Builder::new().name("mesh".into()).spawn(move || runtime.block_on(work));
    thread.map_err(MeshError::Thread)
}

fn read_keys(path: &Path) -> Result<Keys, MeshError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| MeshError::Unreadable { path: path.to_owned(), source })?;
    Keys::read(&text).map_err(|source| MeshError::Key { path: path.to_owned(), source })
}

/// The thread that shares.
struct Running {
    /// It ends when this is gone.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    keyring: Arc<Keyring>,
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
        self.mark = mark;
        match read_keys(&self.key) {
            Ok(keys) => {
                self.keyring.rekey(keys);
                tracing::info!("the mesh's keys were read anew");
            }
            Err(error) => tracing::error!("the mesh's last keys stay: {error}"),
        }
    }
}
