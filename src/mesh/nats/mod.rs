//! NATS: reports travel through servers that are there already, for fleets beyond what gossip can hold together.
//!
//! ```text
//! teller -> report of a pair of services -> sealed -> PUB pathloom.v1.ZONE.CALLER.CALLED -> the servers
//! ledger <- report <- opened <- SUB pathloom.v1.*.SERVICE.* and .*.*.SERVICE, for each service near by <- the servers
//! ```
//! **A report is sent once**, however many hear it, and the servers pass it on to those alone who want to hear of one of its two
//! services (`subjects`): a node's bytes do not grow with the mesh. Who is there is said by each from time to time,
//! the less often the more there are (`hello`).
//!
//! **The servers are believed nothing.** Reports are sealed with the mesh's key as datagrams are (`seal`): a server, or whoever else
//! may publish there, can hold them back, repeat or lose them, but not read, change or make one. A report says itself
//! whose it is and of what; the subject is for the servers.
//!
//! **Without a server** this node goes by what it sees itself. It is connected again whenever that is possible (`link`). What is told
//! meanwhile is lost and not kept: statistics are worth something for a few seconds. Nothing is sent while what was sent
//! last is still under way to a server that is slow to take it, so what is held here is half a second's budget at most.
//!
//! **What is heard is bounded** by `mesh.nats.hear`: where more comes in the node asks for what is nearer (`narrow`), and what is
//! over until then is dropped unopened and counted, as is what comes faster than it is read.

mod hello;
mod link;
mod narrow;
mod proof;
mod subjects;

pub use proof::check;

use super::counters::Counters;
use super::exchange::{Exchange, Hearers, Room, To};
use super::interest::Interest;
use super::keyring::{Keyring, Opening, lock};
use super::meter::Meter;
use super::refused::Refused;
use super::seal::{Kind, OVERHEAD};
use super::{config, wire};
use arc_swap::ArcSwap;
use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use hello::Peers;
use link::Link;
use narrow::Narrow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use subjects::{Because, Subjects};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The largest report, in bytes: no frame has to hold it, but who hears one wants little that it did not ask for.
pub const REPORT_BYTES: usize = 4 * 1024;
/// What NATS puts around a message besides its subject, in bytes: `PUB`, its length, line ends.
const PUBLISH: usize = 14;
/// What IP, TCP and TLS put before it, where it goes alone.
const HEADERS: usize = 96;
/// How many reports may wait to be taken in.
const WAITING: usize = 512;
/// How long the client may take to take something over.
const PATIENCE: Duration = Duration::from_millis(100);

/// How to take part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name.
    pub node: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// When this process started, in milliseconds since 1970.
    pub incarnation: u64,
    /// The mesh's keys.
    pub keyring: Arc<Keyring>,
    /// How many bytes a second may be sent.
    pub budget: u64,
    /// The servers, and who this node is to them.
    pub nats: config::Nats,
}

/// What all that send and receive share.
struct Shared {
    keyring: Arc<Keyring>,
    opening: Mutex<Opening>,
    meter: Mutex<Meter>,
    /// What may be opened, and what has come in.
    heard: Mutex<Meter>,
    came: AtomicU64,
    peers: Mutex<Peers>,
    counters: Arc<Counters>,
    reports: mpsc::Sender<Vec<u8>>,
    /// What the servers were last told that this node wants.
    wants: ArcSwap<Interest>,
}

impl Shared {
    /// Takes in what came under a subject.
    fn take(&self, subject: &str, payload: &[u8], because: Because) {
        let size = payload.len() + subject.len() + PUBLISH + HEADERS;
        self.came.fetch_add(size as u64, Relaxed);
        // What this node hears of for its caller as well comes twice, and counts the first time.
        let caller = || subjects::caller(subject).is_some_and(|caller| self.wants.load().holds(caller));
        if because == Because::Called && caller() {
            return;
        }
        let small = payload.len() <= wire::MAX_BYTES + OVERHEAD;
        if small && !lock(&self.heard).take(size, Instant::now()) {
            return self.counters.unheard();
        }
        let opened = if small { self.open(payload, size, because) } else { Err((Refused::TooLarge, None)) };
        if let Err((refused, node)) = opened {
            // Who published it the servers do not say.
            let under = || format!("the subject {subject}");
            self.counters.refused(refused, || node.map_or_else(under, |node| format!("node {node}")));
        }
    }

    /// Takes in what is sealed, or says why not; and whose it is, where that can be read.
    fn open(&self, payload: &[u8], size: usize, because: Because) -> Result<(), (Refused, Option<String>)> {
        let mut sealed = payload.to_vec();
        let mut opening = lock(&self.opening);
        match (opening.open(&mut sealed).map_err(|refused| (refused, None))?, because) {
            ((Kind::Gossip, hello), Because::Alive) => {
                self.counters.received(Kind::Gossip, size);
                let heard = lock(&self.peers).hear(hello, Instant::now());
                heard.map_err(|refused| (refused, hello::node_of(hello)))
            }
            ((Kind::Report, report), Because::Caller | Because::Called) => {
                self.counters.received(Kind::Report, size);
                if self.reports.try_send(report.to_vec()).is_err() {
                    self.counters.unheard();
                }
                Ok(())
            }
            _ => Err((Refused::Malformed, None)),
        }
    }

    /// Takes in what comes of a subscription, for as long as it is there.
    async fn hear(self: Arc<Self>, mut subscriber: Subscriber, because: Because) {
        while let Some(message) = subscriber.next().await {
            self.take(&message.subject, &message.payload, because);
        }
    }
}

/// What a report costs besides its own bytes.
fn around(subjects: &Subjects) -> usize {
    OVERHEAD + subjects.longest() + PUBLISH + HEADERS
}

/// What a report of a node in this zone costs besides its own bytes, where subjects have this prefix.
#[must_use]
pub fn overhead(prefix: &str, zone: &str) -> usize {
    around(&Subjects::new(prefix, zone, &[]))
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// NATS, under way.
pub struct Nats {
    shared: Arc<Shared>,
    subjects: Subjects,
    _connecting: Task,
    /// The client, once it has been connected.
    connected: oneshot::Receiver<Client>,
    client: Option<Client>,
    reports: mpsc::Receiver<Vec<u8>>,
    subscriptions: BTreeMap<(String, Because), Task>,
    /// What this node wants to hear of.
    wants: Option<Interest>,
    /// Whether something was sent that may not have left yet, and who waits for that.
    sent: bool,
    leaving: Option<Task>,
    /// When to say that this node is there.
    hello: Instant,
    narrow: Narrow,
}

impl Nats {
    /// Takes part; needs a runtime. It need not be connected yet.
    #[must_use]
    pub fn start(settings: Settings, counters: Arc<Counters>) -> Self {
        let Settings { node, zone, incarnation, keyring, budget, nats } = settings;
        let (to_reports, reports) = mpsc::channel(WAITING);
        let (connect, connected) = oneshot::channel();
        let subjects = Subjects::new(&nats.prefix, &zone, &nats.zones);
        let link = Link::new(&nats, counters.clone());
        let narrow = Narrow::new(nats.hear.0);
        let shared = Arc::new(Shared {
            opening: Mutex::new(Opening::new(keyring.clone())),
            keyring,
            meter: Mutex::new(Meter::new(budget)),
            heard: Mutex::new(Meter::new(nats.hear.0)),
            came: AtomicU64::new(0),
            peers: Mutex::new(Peers::new(node.clone(), incarnation)),
            counters,
            reports: to_reports,
            wants: ArcSwap::from_pointee(Interest::in_services([])),
        });
        Self {
            shared,
            subjects,
            _connecting: Task(tokio::spawn(link::connect(nats, node, link, connect))),
            connected,
            client: None,
            reports,
            subscriptions: BTreeMap::new(),
            wants: None,
            sent: false,
            leaving: None,
            hello: Instant::now(),
            narrow,
        }
    }

    /// The client, where it is connected.
    fn client(&mut self) -> Option<Client> {
        if self.client.is_none() {
            self.client = self.connected.try_recv().ok();
        }
        self.client.clone().filter(|client| client.connection_state() == State::Connected)
    }

    /// Whether all that was sent has left.
    async fn has_left(&mut self, client: &Client) -> bool {
        if self.leaving.is_none() && std::mem::take(&mut self.sent) {
            let client = client.clone();
            let leaving = async move {
                let _ = client.flush().await;
            };
            self.leaving = Some(Task(tokio::spawn(leaving)));
        }
        let Some(leaving) = &mut self.leaving else { return true };
        let left = timeout(PATIENCE, &mut leaving.0).await.is_ok();
        if left {
            self.leaving = None;
        }
        left
    }

    /// Asks the servers for what this node wants to hear of, and no longer for what it does not.
    async fn subscribe(&mut self, client: &Client) {
        let Some(wants) = &self.wants else { return };
        let wanted = self.subjects.wanted(wants);
        for (subject, because) in &wanted {
            let key = (subject.clone(), *because);
            // One that has ended is asked for anew.
            if self.subscriptions.get(&key).is_some_and(|task| !task.0.is_finished()) {
                continue;
            }
            // What the client does not take now is asked for the next time.
            let Ok(Ok(subscriber)) = timeout(PATIENCE, client.subscribe(subject.clone())).await else { return };
            let task = Task(tokio::spawn(self.shared.clone().hear(subscriber, *because)));
            self.subscriptions.insert(key, task);
        }
        self.subscriptions.retain(|key, _| wanted.contains(key));
        if **self.shared.wants.load() != *wants {
            self.shared.wants.store(Arc::new(wants.clone()));
        }
    }

    /// Says that this node is there, where it is time to.
    async fn greet(&mut self, client: &Client) {
        let now = Instant::now();
        let (hello, pause) = {
            let mut peers = lock(&self.shared.peers);
            peers.forget(now);
            (peers.hello(), peers.pause())
        };
        if now >= self.hello {
            self.hello = now + pause;
            self.publish(client, Kind::Gossip, self.subjects.alive(), &hello).await;
        }
    }

    /// Sends a message once, sealed, where there is room for it.
    async fn publish(&mut self, client: &Client, kind: Kind, subject: String, message: &[u8]) {
        let size = message.len() + OVERHEAD + subject.len() + PUBLISH + HEADERS;
        let room = {
            let (mut meter, now) = (lock(&self.shared.meter), Instant::now());
            if kind == Kind::Gossip { meter.take_for_gossip(size, now) } else { meter.take(size, now) }
        };
        let sealed = self.shared.keyring.seal(kind, message).filter(|_| room);
        let Some(sealed) = sealed else { return self.shared.counters.unsent() };
        self.sent = true;
        match timeout(PATIENCE, client.publish(subject, sealed.into())).await {
            Ok(Ok(())) => self.shared.counters.sent(kind, size),
            _ => self.shared.counters.unsent(),
        }
    }
}

#[async_trait]
impl Exchange for Nats {
    async fn room(&mut self) -> Room {
        let Some(client) = self.client() else {
            lock(&self.shared.peers).forget(Instant::now());
            return Room::default();
        };
        if !self.has_left(&client).await {
            return Room::default();
        }
        self.subscribe(&client).await;
        self.greet(&client).await;
        let budget = lock(&self.shared.meter).left(Instant::now());
        let overhead = around(&self.subjects);
        Room { budget, limit: REPORT_BYTES, overhead, hearers: Hearers::Services }
    }

    async fn send(&mut self, to: To, report: &[u8]) {
        let To::Services { caller, called } = to else { return };
        let Some(client) = self.client() else { return self.shared.counters.unsent() };
        self.publish(&client, Kind::Report, self.subjects.report(caller, called), report).await;
    }

    async fn want(&mut self, interest: &Interest) {
        if self.wants.as_ref() != Some(interest) {
            self.wants = Some(interest.clone());
        }
        if let Some(client) = self.client() {
            self.subscribe(&client).await;
        }
    }

    async fn receive(&mut self) -> Vec<u8> {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    fn reach(&mut self, hops: usize) -> usize {
        // Where everything is wanted there is nothing nearer to go by.
        let nearer = self.narrow.look(self.shared.came.load(Relaxed), hops.saturating_sub(1), Instant::now());
        self.shared.counters.set_hops(hops - nearer);
        hops - nearer
    }

    fn peers(&self) -> usize {
        lock(&self.shared.peers).count()
    }
}

#[cfg(test)]
mod tests;
