//! The other side of the sidecar: endpoints that do what a test says.
//!
//! - [`Endpoint`] speaks HTTP/1.1 and HTTP/2 (it sees which) and does what the request's path asks for (`script`); it
//!   can be slowed, made to fail, stopped, and started again on the same address.
//! - [`raw::RawEndpoint`] is a socket and a closure, for what no HTTP server would do.
//! - [`counting::CountingEndpoint`] answers as fast as it can and only counts.
//!
//! Every request that carries `x-test-id` is written into the fleet's [`Journal`] the moment its head arrives.

pub mod counting;
pub mod grpc;
pub mod raw;
mod script;

use crate::ports;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Which endpoints saw which request, in order of arrival: its id and the endpoint's number.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Vec<(u64, usize)>>);

impl Journal {
    fn saw(&self, id: u64, endpoint: usize) {
        self.0.lock().unwrap().push((id, endpoint));
    }

    /// Which endpoints saw this request.
    #[must_use]
    pub fn of(&self, id: u64) -> Vec<usize> {
        self.0.lock().unwrap().iter().filter(|(seen, _)| *seen == id).map(|(_, endpoint)| *endpoint).collect()
    }

    /// By id, the endpoints that saw it.
    #[must_use]
    pub fn all(&self) -> BTreeMap<u64, Vec<usize>> {
        let mut all: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        self.0.lock().unwrap().iter().for_each(|(id, endpoint)| all.entry(*id).or_default().push(*endpoint));
        all
    }

    /// The ids in the order in which they arrived.
    #[must_use]
    pub fn in_order(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

/// What a test can turn on an endpoint while it runs, and what it counts.
#[derive(Debug)]
pub struct State {
    /// Its number in its fleet.
    pub number: usize,
    /// How long it lets each request wait, in microseconds.
    pub delay_us: AtomicU64,
    /// The status of every answer; 0 is what the script says.
    pub status: AtomicU16,
    /// What it says of itself as `grpc.health.v1.Health`.
    pub serving: AtomicBool,
    /// Whether each request's body is echoed without the ORCA header (`false`) or with it.
    pub orca: AtomicBool,
    /// Connections that it accepted.
    pub connections: AtomicUsize,
    /// Connections that are open.
    pub open: AtomicUsize,
    /// Requests whose head arrived.
    pub requests: AtomicU64,
    /// Requests that came on HTTP/2.
    pub http2: AtomicU64,
    /// Requests that are being answered.
    pub active: AtomicUsize,
    /// Requests that wait at the gate.
    pub holding: AtomicUsize,
    /// Requests that were given up before they were answered: the sidecar went away, or cancelled them.
    pub cancelled: AtomicU64,
    /// Bytes of bodies that `/sink` and `/slow-reader` took.
    pub taken: AtomicU64,
    /// How many requests it works on at a time, for `/work`.
    workers: Mutex<Arc<Semaphore>>,
    /// `/hold`, `/gate` and `/slow-reader` wait until this is true.
    gate: watch::Sender<bool>,
    journal: Arc<Journal>,
}

impl State {
    /// Requests whose head arrived so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// Lets each request wait so long.
    pub fn slow(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, SeqCst);
    }

    /// Works on so many requests at a time from now on, where `/work` is asked for.
    pub fn workers(&self, count: usize) {
        *self.workers.lock().unwrap() = Arc::new(Semaphore::new(count));
    }

    /// Opens the gate for those who wait, and all who come.
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Closes the gate again.
    pub fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    async fn gate(&self) {
        let _holding = Counted::one(&self.holding);
        let _ = self.gate.subscribe().wait_for(|open| *open).await;
    }
}

/// One instance of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens, also while it is stopped.
    pub address: SocketAddr,
    /// Its knobs and counters.
    pub state: Arc<State>,
    serving: Option<JoinHandle<()>>,
}

impl Endpoint {
    async fn start(number: usize, journal: Arc<Journal>) -> Self {
        let listener = TcpListener::bind((ports::own_ip(1), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(State {
            number,
            delay_us: AtomicU64::new(0),
            status: AtomicU16::new(0),
            serving: AtomicBool::new(true),
            orca: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            http2: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            holding: AtomicUsize::new(0),
            cancelled: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            workers: Mutex::new(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))),
            gate: watch::Sender::new(false),
            journal,
        });
        let serving = Some(tokio::spawn(serve(listener, state.clone())));
        Self { address, state, serving }
    }

    /// Closes the listener and all connections, in the middle of whatever they are at.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        // Connections are aborted with their set; their descriptors close when the runtime has dropped them.
        let state = self.state.clone();
        crate::wait::until("the endpoint's connections to close", || state.open.load(SeqCst) == 0).await;
    }

    /// Listens again where it did before.
    ///
    /// # Panics
    /// When somebody else took the port, or it was not stopped.
    pub async fn start_again(&mut self) {
        assert!(self.serving.is_none(), "it runs");
        let listener = TcpListener::bind(self.address).await.expect("its own port again");
        self.serving = Some(tokio::spawn(serve(listener, self.state.clone())));
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Counts something for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        state.connections.fetch_add(1, SeqCst);
        let state = state.clone();
        connections.spawn(async move {
            let _open = Counted::one(&state.open);
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
            let asked = state.clone();
            let service = service_fn(move |request| script::answer(asked.clone(), request));
            // How a connection ends is the business of whoever counts requests.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Some endpoints and their journal.
#[derive(Debug)]
pub struct Fleet {
    /// The endpoints, by their numbers.
    pub endpoints: Vec<Endpoint>,
    /// What they saw.
    pub journal: Arc<Journal>,
}

impl Fleet {
    /// So many endpoints.
    pub async fn start(size: usize) -> Self {
        let journal = Arc::new(Journal::default());
        let mut endpoints = Vec::with_capacity(size);
        for number in 0..size {
            endpoints.push(Endpoint::start(number, journal.clone()).await);
        }
        Self { endpoints, journal }
    }

    /// The endpoints as a configuration lists them.
    #[must_use]
    pub fn yaml(&self) -> String {
        list(self.endpoints.iter().map(|e| e.address))
    }

    /// All requests that any of them saw.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.endpoints.iter().map(|e| e.state.requests()).sum()
    }

    /// Requests that wait at a gate, of all endpoints.
    #[must_use]
    pub fn holding(&self) -> usize {
        self.endpoints.iter().map(|e| e.state.holding.load(SeqCst)).sum()
    }

    /// Opens all gates.
    pub fn open_gates(&self) {
        self.endpoints.iter().for_each(|e| e.state.open_gate());
    }

    /// All connections that any of them accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.endpoints.iter().map(|e| e.state.connections.load(SeqCst)).sum()
    }
}

/// Addresses as a configuration lists endpoints.
#[must_use]
pub fn list(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let all: Vec<String> = addresses.into_iter().map(|a| format!("{{ address: '{a}' }}")).collect();
    format!("[{}]", all.join(", "))
}
