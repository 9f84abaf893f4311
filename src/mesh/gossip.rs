//! Gossip: who is there by chitchat, what they saw by datagrams of our own; all sealed (`seal`), on one UDP socket.
//!
//! **Why reports are no values of chitchat's.** Its state is replicated to everybody by everybody, three peers a round: a
//! report would pass through several hands, a second each, and what has been superseded on its way is carried all the
//! same. Statistics want the opposite: each is worth something for a few seconds, a lost one is made good by the
//! next, and of two the later holds. So a node sends its reports straight to each member that chitchat holds for alive: one
//! hop, no fragments (a datagram fits into an Ethernet frame), and the sender alone keeps to its budget of bytes.
//! The price is that a node's bytes rise with the number of members that want to hear it, which is why each says what it
//! wants (`interest`, as a value of chitchat's: it is small, and seldom changes). Nodes that see each other through a third
//! only hear nothing of each other, as requests between them would not get through either.
//!
//! **What chitchat costs.** Each round sends the digest of all members, about 50 bytes each, to three of them. It gets at most
//! half of the budget (`meter`); what is over is dropped and counted, which gossip takes for loss. So it is for a hundred members or
//! so; from some 600 on one digest is larger than that half, and nobody is found any more. Their number is then better left to a server
//! (`nats`).
//!
//! A datagram that cannot be sent or read is lost, whatever the reason: nothing here ends because of one.

use super::counters::Counters;
use super::exchange::{Audience, Exchange, Hearers, Room, To};
use super::interest::Interest;
use super::keyring::{Keyring, Opening, lock};
use super::meter::Meter;
use super::refused::Refused;
use super::seal::{Kind, OVERHEAD};
use super::wire;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig, Serializable,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often who is there is told.
const ROUND: Duration = Duration::from_secs(1);
/// Who is dead for this long is no member any more.
const BURIED_AFTER: Duration = Duration::from_secs(600);
/// The mesh's name: others on the same port are told apart by their key, not by it.
const MESH: &str = "pathloom";
/// Under this key a member says what it wants to hear of.
const WANTS: &str = "wants";
/// The largest report, so that its datagram with all headers fits into an Ethernet frame.
pub const REPORT_BYTES: usize = 1_200;
/// What IPv6 and UDP put before each datagram.
const HEADERS: usize = 48;
/// What a report costs besides its own bytes.
pub const DATAGRAM_OVERHEAD: usize = OVERHEAD + HEADERS;
/// The largest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_507;
/// How many datagrams may wait to be taken in.
const WAITING: usize = 512;
/// A pause after the socket failed: what fails again and again must not spin.
const PAUSE: Duration = Duration::from_millis(20);

/// What all that send and receive share.
struct Shared {
    socket: UdpSocket,
    keyring: Arc<Keyring>,
    meter: Mutex<Meter>,
    counters: Arc<Counters>,
}

impl Shared {
    async fn send(&self, kind: Kind, datagram: &[u8], to: SocketAddr) {
        match self.socket.send_to(datagram, to).await {
            Ok(bytes) => self.counters.sent(kind, bytes + HEADERS),
            Err(error) => {
                self.counters.unsent();
                tracing::debug!(%error, %to, "a datagram could not be sent");
            }
        }
    }
}

/// How to take part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name.
    pub node: Arc<str>,
    /// When this process started, in milliseconds since 1970.
    pub incarnation: u64,
    /// Where others reach this node.
    pub advertise: SocketAddr,
    /// Members to begin with, as addresses or names with a port.
    pub seeds: Vec<String>,
    /// The mesh's keys.
    pub keyring: Arc<Keyring>,
    /// How many bytes a second may be sent.
    pub budget: u64,
}

/// Gossip, under way.
pub struct Gossip {
    shared: Arc<Shared>,
    chitchat: ChitchatHandle,
    reading: JoinHandle<()>,
    reports: mpsc::Receiver<Vec<u8>>,
    alive: Vec<SocketAddr>,
    /// What the others were last told that this node wants.
    wants: Option<Interest>,
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.reading.abort();
        self.chitchat.abort();
    }
}

impl Gossip {
    /// Takes part on a socket; needs a runtime.
    ///
    /// # Errors
    /// When chitchat does not start.
    pub async fn start(
        socket: std::net::UdpSocket,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let listen_addr = socket.local_addr()?;
        let shared = Arc::new(Shared {
            socket: UdpSocket::from_std(socket)?,
            keyring: settings.keyring,
            meter: Mutex::new(Meter::new(settings.budget)),
            counters,
        });
        let (to_gossip, gossip) = mpsc::channel(WAITING);
        let (to_reports, reports) = mpsc::channel(WAITING);
        let reading = tokio::spawn(read(shared.clone(), to_gossip, to_reports));
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(settings.node.to_string(), settings.incarnation, settings.advertise),
            cluster_id: MESH.to_owned(),
            gossip_interval: ROUND,
            listen_addr,
            seed_nodes: settings.seeds,
            failure_detector_config: FailureDetectorConfig {
                initial_interval: ROUND,
                dead_node_grace_period: BURIED_AFTER,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: BURIED_AFTER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = Sealed { shared: shared.clone(), incoming: Mutex::new(Some(gossip)) };
        let chitchat = chitchat::spawn_chitchat(config, Vec::new(), &transport).await?;
        Ok(Self { shared, chitchat, reading, reports, alive: Vec::new(), wants: None })
    }
}

#[async_trait]
impl Exchange for Gossip {
    async fn room(&mut self) -> Room {
        let own = self.chitchat.chitchat_id().clone();
        let chitchat = self.chitchat.chitchat();
        let chitchat = chitchat.lock().await;
        let others = chitchat.live_nodes().filter(|id| **id != own);
        let (alive, audiences) = others
            .map(|id| {
                let wants = chitchat.node_state(id).and_then(|state| state.get(WANTS));
                let interest = wants.map_or_else(Interest::default, Interest::of_text);
                (id.gossip_advertise_addr, Audience { interest })
            })
            .unzip();
        drop(chitchat);
        self.alive = alive;
        let budget = lock(&self.shared.meter).left(Instant::now());
        Room { budget, limit: REPORT_BYTES, overhead: DATAGRAM_OVERHEAD, hearers: Hearers::Members(audiences) }
    }

    async fn send(&mut self, to: To, report: &[u8]) {
        let To::Member(place) = to else { return };
        let Some(to) = self.alive.get(place) else { return };
        let room = lock(&self.shared.meter).take(report.len() + DATAGRAM_OVERHEAD, Instant::now());
        match self.shared.keyring.seal(Kind::Report, report).filter(|_| room) {
            Some(datagram) => self.shared.send(Kind::Report, &datagram, *to).await,
            None => self.shared.counters.unsent(),
        }
    }

    async fn want(&mut self, interest: &Interest) {
        if self.wants.as_ref() != Some(interest) {
            let chitchat = self.chitchat.chitchat();
            chitchat.lock().await.self_node_state().set(WANTS, interest.to_text());
            self.wants = Some(interest.clone());
        }
    }

    async fn receive(&mut self) -> Vec<u8> {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    fn peers(&self) -> usize {
        self.alive.len()
    }
}

/// Reads the socket for as long as it is there.
async fn read(
    shared: Arc<Shared>,
    gossip: mpsc::Sender<(SocketAddr, ChitchatMessage)>,
    reports: mpsc::Sender<Vec<u8>>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut opening = Opening::new(shared.keyring.clone());
    loop {
        let (length, from) = match shared.socket.recv_from(&mut buffer).await {
            Ok(came) => came,
            // What the kernel says of a datagram that was sent before: nobody listens there.
            Err(error) => {
                tracing::debug!(%error, "the mesh's socket");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(datagram) = buffer.get_mut(..length) else { continue };
        match open(&mut opening, datagram) {
            Ok(Opened::Gossip(message)) => {
                shared.counters.received(Kind::Gossip, length + HEADERS);
                if gossip.try_send((from, message)).is_err() {
                    shared.counters.unheard();
                }
            }
            Ok(Opened::Report(report)) => {
                shared.counters.received(Kind::Report, length + HEADERS);
                if reports.try_send(report).is_err() {
                    shared.counters.unheard();
                }
            }
            Err(refused) => shared.counters.refused(refused, || from.to_string()),
        }
    }
}

/// What a datagram held.
enum Opened {
    Gossip(ChitchatMessage),
    Report(Vec<u8>),
}

fn open(opening: &mut Opening, datagram: &mut [u8]) -> Result<Opened, Refused> {
    // Only gossip may be large, and what is too large is not worth the opening.
    if datagram.len() > wire::MAX_BYTES + OVERHEAD && datagram.get(3) != Some(&(Kind::Gossip as u8)) {
        return Err(Refused::TooLarge);
    }
    match opening.open(datagram)? {
        (Kind::Report, report) => Ok(Opened::Report(report.to_vec())),
        (Kind::Gossip, mut message) => {
            ChitchatMessage::deserialize(&mut message).map(Opened::Gossip).map_err(|_| Refused::Malformed)
        }
    }
}

/// chitchat's way to the socket.
struct Sealed {
    shared: Arc<Shared>,
    incoming: Mutex<Option<mpsc::Receiver<(SocketAddr, ChitchatMessage)>>>,
}

#[async_trait]
impl Transport for Sealed {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let incoming = lock(&self.incoming).take().ok_or_else(|| anyhow::anyhow!("opened twice"))?;
        Ok(Box::new(Door { shared: self.shared.clone(), incoming }))
    }
}

struct Door {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
}

#[async_trait]
impl Socket for Door {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        message.serialize(&mut bytes);
        let length = bytes.len() + OVERHEAD;
        let room = length <= MAX_DATAGRAM && lock(&self.shared.meter).take_for_gossip(length + HEADERS, Instant::now());
        match self.shared.keyring.seal(Kind::Gossip, &bytes).filter(|_| room) {
            Some(datagram) => self.shared.send(Kind::Gossip, &datagram, to).await,
            None => self.shared.counters.unsent(),
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.incoming.recv().await.ok_or_else(|| anyhow::anyhow!("the mesh's socket is closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusals::tests::logged;
    use super::super::{Keys, wall_ms};
    use super::*;

    const KEY: &str = "a key of at least 16 characters";

    async fn member(node: &str, seeds: Vec<String>, key: &str) -> Gossip {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let settings = Settings {
            node: node.into(),
            incarnation: wall_ms(),
            advertise: socket.local_addr().unwrap(),
            seeds,
            keyring: Arc::new(Keyring::new(Keys::read(key).unwrap()).unwrap()),
            budget: 1 << 20,
        };
        Gossip::start(socket, settings, Arc::default()).await.unwrap()
    }

    /// Waits until a condition on a member's view holds.
    async fn until(gossip: &mut Gossip, what: &str, holds: impl Fn(&Room) -> bool) -> Room {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let room = gossip.room().await;
            if holds(&room) {
                return room;
            }
            assert!(Instant::now() < end, "{what}: {room:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn members_find_each_other_say_what_they_want_and_hear_what_is_sent() {
        let mut a = member("a", Vec::new(), KEY).await;
        let seed = a.shared.socket.local_addr().unwrap().to_string();
        let mut b = member("b", vec![seed.clone()], KEY).await;
        let mut c = member("c", vec![seed.clone()], KEY).await;
        let mut stranger = member("d", vec![seed], "another key of that length").await;
        b.want(&Interest::in_services(["catalog"])).await;
        let wants = |room: &Room| {
            let some = Interest::in_services(["catalog"]);
            let Hearers::Members(members) = &room.hearers else { return false };
            members.len() == 2 && members.iter().filter(|a| a.interest == some).count() == 1
        };
        until(&mut a, "two others, one of which wants little", wants).await;
        until(&mut c, "what was learnt through the seed", wants).await;
        assert_eq!(a.peers(), 2);
        for to in 0..2 {
            a.send(To::Member(to), b"a report").await;
        }
        for other in [&mut b, &mut c] {
            let heard = tokio::time::timeout(Duration::from_secs(30), other.receive()).await;
            assert_eq!(heard.unwrap(), b"a report");
        }
        assert!(stranger.room().await.is_empty());
        let counters = a.shared.counters.families();
        assert!(counters.is_empty(), "nothing is shown of what is not on");
    }

    #[test]
    fn a_stranger_is_named_in_the_log_by_its_address_and_a_flood_of_it_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut stranger = String::new();
        let lines = logged(|| {
            runtime.block_on(async {
                let a = member("a", Vec::new(), KEY).await;
                let to = a.shared.socket.local_addr().unwrap();
                let ring = Keyring::new(Keys::read("another key of that length").unwrap()).unwrap();
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                stranger = socket.local_addr().unwrap().to_string();
                let end = Instant::now() + Duration::from_secs(60);
                while a.shared.counters.refusals() < 5 {
                    assert!(Instant::now() < end, "{} refused", a.shared.counters.refusals());
                    socket.send_to(&ring.seal(Kind::Report, b"x").unwrap(), to).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        let warned: Vec<_> = lines.iter().filter(|line| line.contains("refused")).collect();
        let [line] = &warned[..] else { panic!("{lines:?}") };
        assert!(line.contains("WARN") && line.contains(&stranger) && line.contains("forged"), "{line}");
    }
}
