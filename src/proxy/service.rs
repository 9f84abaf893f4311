//! The data path as a Pingora service: threads, listeners that follow the configuration, and the drain.
//!
//! `Proxy::bind` takes all addresses before anything else starts. Started, one control thread owns the cores: it binds
//! and closes listeners when a generation brings other routes, and drains. It is a thread of its own because Pingora
//! drops a service's task when it shuts down, and a drain must outlive that.
//!
//! ```text
//! serving --begin()--> draining --last connection, or `drain` passed--> done
//!    |                     |
//!    +------stop()---------+------------------------------------------> done
//! ```
//!
//! Pingora sleeps its whole grace period on SIGTERM, idle or not. So its grace is zero and `DrainOnSignal` drains
//! before it tells Pingora that the signal came.

use super::Alarm;
use super::clock::Clock;
use super::core::{self, Command};
use super::gauges::ProxyGauges;
use super::handover::Sockets;
use super::sockets::{self, BindError, Bound, Listening};
use crate::balance::Published;
use crate::config::{ListenerDefaults, Propagator};
use crate::identity::Identities;
use crate::observe::{AccessSink, Traffic};
use crate::route::RouteTable;
use async_trait::async_trait;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How often the control thread looks for other routes.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// What the data path needs.
pub struct ProxyOptions {
    /// The generations that steer it.
    pub published: Published,
    /// The process's clock, which the generations' times are read from too.
    pub clock: Clock,
    /// How many serving threads: as many as `Links` and `Traffic` were made for.
    pub cores: usize,
    /// What holds for every listener; read once.
    pub limits: ListenerDefaults,
    /// How long a drain may take.
    pub drain: Duration,
    /// The share of requests without a trace that start one, 0 to 1.
    pub sample: f64,
    /// Which headers carry traces, in the order in which they are asked.
    pub propagators: Vec<Propagator>,
    /// Takes finished requests.
    pub sink: Arc<dyn AccessSink>,
    /// Is told of failing endpoints.
    pub alarm: Arc<dyn Alarm>,
    /// Counts requests that reached no cluster.
    pub unrouted: Arc<Traffic>,
    /// Who this node is, and whom it believes.
    pub identities: Arc<Identities>,
    /// Sockets of the process before, which are taken instead of binding. Those that no listener wants are closed.
    pub inherited: Mutex<Sockets>,
    /// Is told of listeners that a reload brought and that cannot be bound. The rest works on, and they are tried again.
    pub on_bind_error: Box<dyn Fn(&BindError) + Send + Sync>,
    /// Is called once when all listeners are served.
    pub on_ready: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyOptions").field("cores", &self.cores).field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Stopping,
    Done,
}

/// Tells the data path to leave, and waits for it.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Leaving>);

#[derive(Debug)]
struct Leaving {
    phase: watch::Sender<Phase>,
    control: Mutex<Option<JoinHandle<()>>>,
}

impl Drain {
    fn new() -> Self {
        Self(Arc::new(Leaving { phase: watch::Sender::new(Phase::Serving), control: Mutex::new(None) }))
    }

    fn advance(&self, to: Phase) {
        self.0.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    async fn reached(&self, phase: Phase) {
        // The sender is in `self`, so waiting cannot fail.
        let _ = self.0.phase.subscribe().wait_for(|p| *p >= phase).await;
    }

    /// Accept nothing new, let everything under way finish.
    pub fn begin(&self) {
        self.advance(Phase::Draining);
    }

    /// Leave at once.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.phase.borrow() >= Phase::Draining
    }

    /// Waits until the last connection is done, or the time allowed has passed.
    pub async fn finished(&self) {
        self.reached(Phase::Done).await;
    }

    /// As `finished`, for a thread.
    pub fn join(&self) {
        let control = self.0.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(control) = control
            && control.join().is_err()
        {
            tracing::error!("the data path's control thread panicked");
        }
    }
}

/// The data path, bound and ready to be added to a Pingora server.
#[derive(Debug)]
pub struct Proxy {
    options: Arc<ProxyOptions>,
    gauges: Arc<ProxyGauges>,
    drain: Drain,
    bound: BTreeMap<SocketAddr, Bound>,
    listening: Listening,
}

impl Proxy {
    /// Binds every listener of the current generation, or takes its sockets over.
    ///
    /// # Errors
    /// When an address cannot be listened on; the error names it.
    pub fn bind(options: ProxyOptions) -> Result<Self, BindError> {
        let (mut bound, listening, cores) = (BTreeMap::new(), Listening::default(), options.cores.max(1));
        let mut inherited = std::mem::take(&mut *options.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        for address in options.published.load().routes.listeners() {
            let sockets = match sockets::adopt(&mut inherited, address, cores)? {
                Some(sockets) => sockets,
                None => sockets::bind(address, cores)?,
            };
            listening.enter(address, &sockets);
            if options.published.load().routes.connections().is_transparent(address) {
                listening.make_transparent(address)?;
            }
            bound.insert(address, sockets);
        }
        let gauges = Arc::new(ProxyGauges::new(options.cores));
        Ok(Self { options: Arc::new(options), gauges, drain: Drain::new(), bound, listening })
    }

    /// The sockets that are listened on, for a next process.
    #[must_use]
    pub fn listening(&self) -> Listening {
        self.listening.clone()
    }

    /// What the data path holds at the moment.
    #[must_use]
    pub fn gauges(&self) -> Arc<ProxyGauges> {
        self.gauges.clone()
    }

    /// Tells the data path to leave.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// The address that a configured listener is bound to in fact, which differs where that has port 0.
    #[must_use]
    pub fn local_address(&self, configured: SocketAddr) -> Option<SocketAddr> {
        self.bound.get(&configured).map(|b| b.actual)
    }

    /// Starts the control thread and the cores.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub(super) fn start(&mut self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut control = Control {
            options: self.options.clone(),
            cores: Vec::new(),
            threads: Vec::new(),
            routes: self.options.published.load().routes.clone(),
            admission: Arc::default(),
            gauges: self.gauges.clone(),
            serving: BTreeSet::new(),
            refused: BTreeSet::new(),
            listening: self.listening.clone(),
        };
        control.launch(&self.gauges)?;
        for (address, bound) in std::mem::take(&mut self.bound) {
            control.listen(address, bound);
        }
        // Whoever is served from the start is served within the limits.
        control.adjust();
        (self.options.on_ready)();
        let drain = self.drain.clone();
        let thread = std::thread::Builder::new().name("proxy-control".into()).spawn(move || {
            runtime.block_on(control.run(&drain));
            drain.advance(Phase::Done);
        })?;
        *self.drain.0.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }
}

#[async_trait]
impl Service for Proxy {
    async fn start_service(&mut self, _fds: Option<ListenFds>, mut shutdown: ShutdownWatch, _per_fd: usize) {
        if let Err(error) = self.start() {
            tracing::error!(%error, "the data path cannot start");
            self.drain.advance(Phase::Done);
            return;
        }
        tokio::select! {
            () = self.drain.finished() => return,
            changed = shutdown.wait_for(|s| *s) => drop(changed),
        }
        self.drain.begin();
        self.drain.finished().await;
    }

    fn name(&self) -> &'static str {
        "proxy"
    }

    fn threads(&self) -> Option<usize> {
        // It only waits: the cores are threads of their own.
        Some(1)
    }
}

/// What the control thread holds.
struct Control {
    options: Arc<ProxyOptions>,
    cores: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    routes: Arc<RouteTable>,
    /// Whose limits of connections are in force.
    admission: Arc<crate::admission::Table>,
    gauges: Arc<ProxyGauges>,
    serving: BTreeSet<SocketAddr>,
    /// Reported and not bound yet.
    refused: BTreeSet<SocketAddr>,
    listening: Listening,
}

impl Control {
    fn launch(&mut self, gauges: &Arc<ProxyGauges>) -> std::io::Result<()> {
        for index in 0..self.options.cores.max(1) {
            let (sender, commands) = mpsc::unbounded_channel();
            let (options, gauges) = (self.options.clone(), gauges.clone());
            let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
                if let Err(error) = core::run(index, &options, gauges, commands) {
                    tracing::error!(%error, core = index, "a serving thread cannot start");
                }
            })?;
            self.cores.push(sender);
            self.threads.push(thread);
        }
        Ok(())
    }

    fn listen(&mut self, address: SocketAddr, bound: Bound) {
        // Of a process with more cores there are more sockets than cores.
        for (core, socket) in self.cores.iter().cycle().zip(bound.sockets) {
            // A core that is gone was reported when it went.
            let _ = core.send(Command::Listen(address, socket));
        }
        self.serving.insert(address);
        self.refused.remove(&address);
    }

    async fn run(mut self, drain: &Drain) {
        let mut follow = tokio::time::interval(FOLLOW_EVERY);
        loop {
            tokio::select! {
                () = drain.reached(Phase::Draining) => break,
                _ = follow.tick() => {
                    self.follow();
                    self.adjust();
                }
            }
        }
        self.listening.forget_all();
        self.tell(|| Command::Drain);
        let held = self.gauges.snapshot();
        tracing::info!(
            requests = held.requests,
            connections = held.downstream_connections,
            within = ?self.options.drain,
            "leaving: nothing new is accepted, and what is under way may finish"
        );
        let mut last_look = tokio::time::interval(Duration::from_millis(5));
        let all_left = async {
            while !self.threads.iter().all(JoinHandle::is_finished) {
                last_look.tick().await;
            }
        };
        let cut_short = tokio::select! {
            left = tokio::time::timeout(self.options.drain, all_left) => left.err().map(|_| "the drain's time is over"),
            () = drain.reached(Phase::Stopping) => Some("told to leave at once, by a further signal or SIGINT"),
        };
        if let Some(why) = cut_short {
            let requests = self.gauges.snapshot().requests;
            tracing::warn!(requests, "{why}: connections that are still open are closed");
            self.tell(|| Command::Stop);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for core in &self.cores {
            let _ = core.send(command());
        }
    }

    /// Moves the clusters' limits on, and tells the pools how many connections each endpoint may have.
    fn adjust(&mut self) {
        let generation = self.options.published.load();
        let now = self.options.clock.now();
        generation.admission.gates().for_each(|gate| gate.adjust(now));
        if !Arc::ptr_eq(&generation.admission, &self.admission) {
            self.admission = generation.admission.clone();
            self.gauges.limit_connections(&generation);
        }
    }

    /// Opens and closes listeners as the current routes want it.
    fn follow(&mut self) {
        let routes = self.options.published.load().routes.clone();
        if Arc::ptr_eq(&routes, &self.routes) && self.refused.is_empty() {
            return;
        }
        let wanted: BTreeSet<SocketAddr> = routes.listeners().collect();
        let before = std::mem::replace(&mut self.routes, routes);
        if !self.routes.takes_as(&before) {
            self.tell(|| Command::Judge);
        }
        let gone: Vec<SocketAddr> = self.serving.difference(&wanted).copied().collect();
        for address in gone {
            self.listening.forget(address);
            self.tell(|| Command::Close(address));
            self.serving.remove(&address);
        }
        self.refused.retain(|a| wanted.contains(a));
        let new: Vec<SocketAddr> = wanted.difference(&self.serving).copied().collect();
        for address in new {
            match sockets::bind(address, self.options.cores.max(1)) {
                Ok(bound) => {
                    if self.refused.contains(&address) {
                        tracing::info!(%address, "a listener that could not be opened is served now");
                    }
                    self.listening.enter(address, &bound);
                    self.listen(address, bound);
                }
                Err(error) => {
                    if self.refused.insert(address) {
                        (self.options.on_bind_error)(&error);
                    }
                }
            }
        }
        self.gauges.unserved.store(self.refused.len() as u64, Relaxed);
        let transparent = |address: &SocketAddr| self.routes.connections().is_transparent(*address);
        let was =
            |address: &SocketAddr| self.serving.contains(address) && before.connections().is_transparent(*address);
        for address in wanted.iter().filter(|address| transparent(address) && !was(address)) {
            if let Err(error) = self.listening.make_transparent(*address) {
                (self.options.on_bind_error)(&error);
            }
        }
    }
}

/// Signals: SIGTERM or SIGQUIT drains and then ends the process, a second one or SIGINT ends it at once.
///
/// A process whose place another one took drains without a signal; then the first one is no second, and ends nothing.
#[derive(Debug)]
pub struct DrainOnSignal {
    /// What is told.
    pub drain: Drain,
    /// Whether a process whose place another one took stays until a signal, with nothing to do: for supervisors that
    /// would start again what ends by itself.
    pub linger: bool,
}

#[async_trait]
impl ShutdownSignalWatch for DrainOnSignal {
    async fn recv(&self) -> ShutdownSignal {
        let drain = &self.drain;
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()));
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) = signals else {
            tracing::error!("signals cannot be watched; the process ends only by force");
            drain.finished().await;
            return ShutdownSignal::GracefulTerminate;
        };
        tokio::select! {
            _ = terminate.recv() => drain.begin(),
            _ = interrupt.recv() => {
                drain.stop();
                return ShutdownSignal::FastShutdown;
            }
            _ = quit.recv() => drain.begin(),
            () = drain.reached(Phase::Draining) => tokio::select! {
                () = drain.finished(), if !self.linger => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {
                    drain.stop();
                    return ShutdownSignal::FastShutdown;
                }
                _ = quit.recv() => {}
            },
        }
        tokio::select! {
            () = drain.finished() => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => {
                drain.stop();
                ShutdownSignal::FastShutdown
            }
            _ = terminate.recv() => {
                drain.stop();
                ShutdownSignal::FastShutdown
            }
        }
    }
}

/// A Pingora server whose own grace periods are zero.
#[must_use]
pub fn chassis() -> Server {
    let conf = ServerConf {
        threads: 1,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt::default(), conf);
    server.bootstrap();
    server
}

/// Runs a server until a signal, and the data path to its end; [`DrainOnSignal`] says what `linger` is.
pub fn run(server: Server, drain: &Drain, linger: bool) {
    server.run(RunArgs { shutdown_signal: Box::new(DrainOnSignal { drain: drain.clone(), linger }) });
    drain.begin();
    drain.join();
}
