//! One serving thread: its state, its listeners, and its life.
//!
//! A core owns a runtime, a pool, a generator of random numbers and everything else that a request touches; nothing
//! of it is shared with another thread but counters and the generation. It takes commands from the service: listen
//! here too, listen there no more, drain. When it drains, it accepts what the kernel had already queued, closes its
//! listeners, tells every client to leave, and ends with the last connection.

use super::admission::Waiting;
use super::clock::{Clock, Date};
use super::conn;
use super::deadlines::Deadlines;
use super::gauges::{CoreGauges, ProxyGauges};
use super::http2;
use super::ids::Ids;
use super::places::Places;
use super::propagation::Propagators;
use super::sockets;
use super::upstream::Pool;
use super::wire1::Scratch;
use super::{Alarm, ProxyOptions};
use crate::balance::Generation;
use crate::config::ListenerDefaults;
use crate::identity::{Identities, TlsMode};
use crate::observe::{AccessSink, Traffic};
use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use rand::rngs::SmallRng;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long accepting rests when the process has few file descriptors left, or none.
const REST: Duration = Duration::from_millis(50);

/// What a core is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve this socket, too; the address is the configured one.
    Listen(SocketAddr, std::net::TcpListener),
    /// Close the sockets of this configured address.
    Close(SocketAddr),
    /// Look anew at which connections the listeners take.
    Judge,
    /// Leave.
    Drain,
    /// Leave at once.
    Stop,
}

/// A generation, counted on this core alone: requests would otherwise all write to the same counter.
pub(super) struct Held {
    pub generation: Arc<Generation>,
    /// Rises whenever routes were replaced.
    pub routes_epoch: u64,
}

/// A listener of this core, as its connections see it.
pub(super) struct Listener {
    /// As configured.
    pub address: SocketAddr,
    /// As it is bound: where the configuration has port 0, that is another.
    pub actual: SocketAddr,
    /// Its name, for clients that name no host.
    pub name: HeaderValue,
    /// It is served no more: its connections leave.
    pub closed: Cell<bool>,
    /// It takes no plain text: connections from before that speak it leave.
    pub strict: Cell<bool>,
    /// Rises whenever other connections are taken than before.
    pub judged: Cell<u32>,
}

impl Listener {
    pub(super) fn new(address: SocketAddr, actual: SocketAddr) -> Self {
        let name = HeaderValue::from_str(&actual.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""));
        let (closed, strict, judged) = Default::default();
        Self { address, actual, name, closed, strict, judged }
    }

    /// Looks anew at which connections it takes.
    fn judge(&self, core: &Core) {
        self.strict.set(core.generation().generation.routes.tls(self.address) == TlsMode::Strict);
        self.judged.set(self.judged.get().wrapping_add(1));
    }
}

/// A listener, what tells it to close, and the task that accepts.
type Accepting = (Rc<Listener>, Rc<Notify>, tokio::task::JoinHandle<()>);

/// One serving thread's state.
pub(super) struct Core {
    pub index: usize,
    pub clock: Clock,
    pub rng: RefCell<SmallRng>,
    pub ids: RefCell<Ids>,
    pub pool: Pool,
    /// Requests that wait for a place in their cluster.
    pub waiting: Waiting,
    pub deadlines: Rc<Deadlines>,
    /// What HTTP/2 clients are held to.
    pub http2: http2::Limits,
    /// What connections share.
    pub scratch: Rc<Scratch>,
    /// What requests under way live in.
    pub places: Places,
    pub date: Date,
    pub servers: conn::ServerBuilders,
    pub limits: ListenerDefaults,
    /// Of 2^32 requests that bring no trace, so many are recorded.
    pub sample: u64,
    /// Which headers carry traces.
    pub propagators: Propagators,
    pub sink: Arc<dyn AccessSink>,
    pub alarm: Arc<dyn Alarm>,
    pub unrouted: Arc<Traffic>,
    pub identities: Arc<Identities>,
    pub draining: Cell<bool>,
    /// What is still under way is cut off.
    pub stopping: Cell<bool>,
    /// How long who must leave may take.
    pub drain: Duration,
    pub connections: Cell<usize>,
    /// Copies of requests under way (`mirror`).
    pub copies: Cell<usize>,
    /// A connection ended.
    pub freed: Notify,
    reader: RefCell<Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>>,
    held: RefCell<Rc<Held>>,
    pub gauges: Arc<ProxyGauges>,
}

impl Core {
    pub(super) fn new(index: usize, options: &ProxyOptions, gauges: Arc<ProxyGauges>) -> Rc<Self> {
        let mut reader = options.published.reader();
        let held = Rc::new(Held { generation: reader.load().clone(), routes_epoch: 0 });
        let scratch = Scratch::default();
        scratch.names.borrow_mut().route_by(held.generation.routes.headers());
        Rc::new(Self {
            index,
            clock: options.clock,
            rng: RefCell::new(rand::make_rng()),
            ids: RefCell::default(),
            pool: Pool::default(),
            waiting: Waiting::default(),
            deadlines: Deadlines::new(options.clock),
            http2: http2::Limits {
                streams: options.limits.max_streams,
                head: usize::try_from(options.limits.max_header_bytes.0).unwrap_or(usize::MAX),
            },
            scratch: Rc::new(scratch),
            places: Places::default(),
            date: Date::default(),
            servers: conn::ServerBuilders::new(&options.limits),
            limits: options.limits.clone(),
            sample: (options.sample.clamp(0.0, 1.0) * 2f64.powi(32)) as u64,
            propagators: Propagators::new(&options.propagators),
            sink: options.sink.clone(),
            alarm: options.alarm.clone(),
            unrouted: options.unrouted.clone(),
            identities: options.identities.clone(),
            draining: Cell::new(false),
            stopping: Cell::new(false),
            drain: options.drain,
            connections: Cell::new(0),
            copies: Cell::new(0),
            freed: Notify::new(),
            reader: RefCell::new(reader),
            held: RefCell::new(held),
            gauges,
        })
    }

    pub(super) fn gauge(&self, change: impl FnOnce(&CoreGauges)) {
        if let Some(gauges) = self.gauges.core(self.index) {
            change(gauges);
        }
    }

    /// File descriptors are scarce: connections that nobody uses give way, those of this core at once.
    pub(super) fn make_room(&self) {
        let now = self.clock.now();
        if self.gauges.room.scarce(now) {
            let held = self.gauges.snapshot();
            tracing::warn!(
                clients = held.downstream_connections,
                endpoints = held.upstream_connections,
                "few file descriptors are left, so idle clients are disconnected: raise the limit of open files"
            );
        }
        self.deadlines.wake_all();
    }

    /// The current generation, for a request to hold to its end. An HTTP/1.1 request asks for it before its head is read,
    /// because what its routes look at decides which headers are put among the others.
    pub(super) fn generation(&self) -> Rc<Held> {
        let mut reader = self.reader.borrow_mut();
        let latest = reader.load();
        let mut held = self.held.borrow_mut();
        if !Arc::ptr_eq(&held.generation, latest) {
            let same_routes = Arc::ptr_eq(&held.generation.routes, &latest.routes);
            let routes_epoch = held.routes_epoch + u64::from(!same_routes);
            if !same_routes {
                self.scratch.names.borrow_mut().route_by(latest.routes.headers());
            }
            *held = Rc::new(Held { generation: latest.clone(), routes_epoch });
        }
        held.clone()
    }
}

/// A connection of this core, counted while it lives.
pub(super) struct Counted(Rc<Core>);

impl Counted {
    pub(super) fn new(core: &Rc<Core>) -> Self {
        core.connections.set(core.connections.get() + 1);
        core.gauge(|g| g.downstream.add(1));
        Self(core.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get().saturating_sub(1));
        self.0.gauge(|g| g.downstream.sub(1));
        self.0.freed.notify_waiters();
    }
}

/// Runs a core until it is told to leave and its last connection is done.
pub(super) fn run(
    index: usize,
    options: &ProxyOptions,
    gauges: Arc<ProxyGauges>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let core = Core::new(index, options, gauges);
        serve(core, commands).await;
    });
    Ok(())
}

async fn serve(core: Rc<Core>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let driver = tokio::task::spawn_local(core.deadlines.clone().drive());
    let mut accepting: Vec<Accepting> = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(address, socket)) => {
                    let close = Rc::new(Notify::new());
                    match TcpListener::from_std(socket) {
                        Ok(socket) => {
                            let actual = socket.local_addr().unwrap_or(address);
                            let listener = Rc::new(Listener::new(address, actual));
                            listener.judge(&core);
                            let accepts = accept(core.clone(), socket, listener.clone(), close.clone());
                            accepting.push((listener, close, tokio::task::spawn_local(accepts)));
                        }
                        Err(error) => tracing::error!(%address, %error, core = core.index, "cannot serve a listener"),
                    }
                }
                Some(Command::Close(address)) => {
                    for (listener, close, _) in accepting.extract_if(.., |(listener, ..)| listener.address == address) {
                        close.notify_one();
                        listener.closed.set(true);
                    }
                    core.deadlines.wake_all();
                }
                Some(Command::Judge) => {
                    accepting.iter().for_each(|(listener, ..)| listener.judge(&core));
                    core.deadlines.wake_all();
                }
                Some(Command::Drain) => break,
                Some(Command::Stop) | None => return,
            },
            _ = sweep.tick() => {
                core.pool.sweep(&core, core.clock.now());
                if core.gauges.room.is_scarce(core.clock) {
                    core.deadlines.wake_all();
                }
            }
        }
    }
    for (_, close, task) in accepting {
        close.notify_one();
        // Only a panic could end it otherwise, and then there is nothing left to close.
        let _ = task.await;
    }
    core.draining.set(true);
    core.pool.close_idle(&core);
    core.deadlines.wake_all();
    loop {
        let freed = core.freed.notified();
        if core.connections.get() == 0 {
            break;
        }
        tokio::select! {
            () = freed => {}
            command = commands.recv() => if matches!(command, Some(Command::Stop) | None) {
                core.stopping.set(true);
                break;
            },
        }
    }
    driver.abort();
}

/// Accepts connections until told to close, and then those that the kernel had already queued.
async fn accept(core: Rc<Core>, socket: TcpListener, listener: Rc<Listener>, close: Rc<Notify>) {
    loop {
        let full = core.connections.get() >= core.limits.max_connections;
        tokio::select! {
            biased;
            () = close.notified() => break,
            // Whoever comes while all places are taken waits in the kernel's queue.
            () = core.freed.notified(), if full => {}
            accepted = socket.accept(), if !full => match accepted {
                Ok((stream, peer)) => {
                    let last = core.gauges.room.is_last(stream.as_raw_fd());
                    begin(&core, stream, peer, &listener);
                    if last {
                        core.make_room();
                        tokio::time::sleep(REST).await;
                    }
                }
                Err(error) if rests(&error) => {
                    tracing::debug!(address = %listener.address, %error, core = core.index, "cannot accept connections for the moment");
                    core.make_room();
                    tokio::time::sleep(REST).await;
                }
                // The client was gone before it was accepted.
                Err(_) => {}
            },
        }
    }
    // Asked of the kernel itself: the runtime says that nothing waits when its budget or its last news says so.
    let Ok(socket) = socket.into_std() else { return };
    // No more than were queued: another process may listen on, and new ones are for it.
    for _ in 0..sockets::BACKLOG {
        match socket.accept() {
            Ok((stream, peer)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    begin(&core, stream, peer, &listener);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock || rests(&error) => break,
            Err(_) => {}
        }
    }
}

/// Whether accepting again at once would fail again: no descriptor or memory left.
fn rests(error: &std::io::Error) -> bool {
    !matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::Interrupted
    )
}

fn begin(core: &Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: &Rc<Listener>) {
    core.gauge(|g| g.accepted.add(1));
    // A small answer must not wait for an acknowledgement; without it, it is slow, not wrong.
    let _ = stream.set_nodelay(true);
    let counted = Counted::new(core);
    let (core, listener) = (core.clone(), listener.clone());
    tokio::task::spawn_local(async move {
        conn::serve(core, stream, peer, listener).await;
        drop(counted);
    });
}
