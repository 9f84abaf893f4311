//! One instance of a service: a real HTTP server with a few workers, which may turn slow, crash and return.
//!
//! A request waits for a worker (first come, first served), keeps it for the service time, and for as long as the
//! instance waits for the service that it calls in turn, as a pool of threads would. So an overload queues. The service
//! time is drawn from a log-normal distribution, the usual shape of service times, and slept through: what is measured
//! is the sidecars' choices, not this machine's arithmetic.
//!
//! Every answer says who made it (`x-replica`) and how busy it was (ORCA's `endpoint-load-metrics`): the share of its
//! workers that were at work lately, which is what a CPU utilisation would say, and not those that merely waited for
//! somebody else.
//!
//! A crash is a crash: the listener closes, and every connection is reset (`SO_LINGER` 0) with whatever request was on
//! it. Until the return the kernel refuses connections. How many requests were on it at that instant is what a crash
//! may cost at most; a sidecar that loses more has done something wrong. So they are counted where they are lost, one by
//! one: those being answered, those that had arrived and were not yet read, and connections not yet accepted.

use super::client::Client;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use socket2::SockRef;
use std::convert::Infallible;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The header that says which instance answered.
pub const REPLICA: HeaderName = HeaderName::from_static("x-replica");
const LOAD: HeaderName = HeaderName::from_static(crate::links::orca::HEADER);
/// The shape of the log-normal service times: their 99th percentile is 2.3 times their mean, a healthy service's spread.
const SIGMA: f64 = 0.4;
/// How much of its past a reported load remembers.
const LOAD_MEMORY_S: f64 = 1.0;
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long to wait before an address that is taken is tried again.
const BIND_AGAIN: Duration = Duration::from_millis(20);
/// How often.
const BIND_TRIES: u32 = 50;

/// What an instance is like.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its mean service time when healthy; none for one that only passes requests on.
    pub work: Duration,
    /// How many requests it works on at once.
    pub workers: usize,
    /// Where its randomness starts.
    pub seed: u64,
}

/// The service that an instance calls for each request.
#[derive(Debug)]
pub struct Downstream {
    /// Connections to the sidecar.
    pub client: Client,
    /// The host that the sidecar routes by.
    pub host: &'static str,
    /// Whether the answer carries the called instance's name instead of its own.
    pub transparent: bool,
}

/// An instance.
#[derive(Debug)]
pub struct Replica {
    /// What it is like.
    pub spec: Spec,
    /// Where it listens.
    pub address: SocketAddr,
    downstream: Option<Downstream>,
    workers: Semaphore,
    slowness: AtomicU32,
    in_flight: AtomicUsize,
    /// Requests that ended without an answer; a crash counts from zero.
    lost: AtomicUsize,
    rng: Mutex<SmallRng>,
    load: Mutex<Load>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Replica {
    /// Starts an instance on a listener.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(spec: Spec, listener: TcpListener, downstream: Option<Downstream>) -> io::Result<Arc<Self>> {
        let replica = Arc::new(Self {
            address: listener.local_addr()?,
            downstream,
            workers: Semaphore::new(spec.workers),
            slowness: AtomicU32::new(1),
            in_flight: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            rng: Mutex::new(SmallRng::seed_from_u64(spec.seed)),
            load: Mutex::default(),
            running: Mutex::default(),
            spec,
        });
        replica.listen(listener);
        Ok(replica)
    }

    /// Makes it this many times slower than when healthy.
    pub fn slow_down(&self, times: u32) {
        self.slowness.store(times, Relaxed);
    }

    /// How many requests are on it, those that wait for a worker included.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Crashes it. Returns how many requests were on it.
    pub async fn crash(&self) -> usize {
        self.lost.store(0, Relaxed);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            running.stop.send_replace(true);
            // Its listener is closed once the task has ended, however it did; and so is each connection.
            drop(running.accepting.await);
            running.stop.closed().await;
        }
        if let Some(downstream) = &self.downstream {
            downstream.client.forget();
        }
        self.lost.load(Relaxed)
    }

    /// Brings it back on its address.
    ///
    /// # Errors
    /// When the address is taken and stays so.
    pub async fn resume(self: &Arc<Self>) -> io::Result<()> {
        for _ in 1..BIND_TRIES {
            if let Ok(listener) = bind(self.address) {
                self.listen(listener);
                return Ok(());
            }
            tokio::time::sleep(BIND_AGAIN).await;
        }
        self.listen(bind(self.address)?);
        Ok(())
    }

    fn listen(self: &Arc<Self>, listener: TcpListener) {
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(self.clone().accept(listener, stopped));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { stop, accepting });
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = told(&mut stopped) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(self.clone().serve(stream, stopped.clone()))),
                    Err(_) => tokio::time::sleep(BIND_AGAIN).await,
                },
            }
        }
        let waiting = listener.into_std().into_iter().flat_map(|l| std::iter::from_fn(move || l.accept().ok()));
        self.lost.fetch_add(waiting.count(), Relaxed);
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, mut stopped: watch::Receiver<bool>) {
        // Without it small answers may wait for an acknowledgement: where it fails they are only later.
        drop(stream.set_nodelay(true));
        let replica = self.clone();
        let service = service_fn(move |_| {
            let replica = replica.clone();
            async move { Ok::<_, Infallible>(replica.answer().await) }
        });
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // How a client leaves is its own affair.
            _ = &mut connection => {}
            () = told(&mut stopped) => {
                let parts = connection.into_parts();
                let stream = parts.io.into_inner();
                // The socket itself is asked: tokio does not know yet of what came a moment ago.
                let socket = SockRef::from(&stream);
                let unread = !parts.read_buf.is_empty() || (&*socket).read(&mut [0]).is_ok_and(|n| n > 0);
                self.lost.fetch_add(usize::from(unread), Relaxed);
                drop(stream.set_zero_linger());
            }
        }
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let mut on_it = Counted::new(self);
        let worker = self.workers.acquire().await;
        let work_s = self.service_time_s();
        if work_s > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(work_s)).await;
        }
        let called = match &self.downstream {
            Some(downstream) => Some((downstream, downstream.client.get(downstream.host, "/").await)),
            None => None,
        };
        drop(worker);

        let mut name = HeaderValue::from_str(&self.spec.name).ok();
        let status = match called {
            None => StatusCode::OK,
            Some((downstream, Ok(answer))) if answer.status.is_success() => {
                if downstream.transparent {
                    name = answer.headers.get(REPLICA).cloned();
                }
                StatusCode::OK
            }
            Some(_) => StatusCode::BAD_GATEWAY,
        };
        let mut response = Response::new(Full::new(Bytes::from_static(b"{\"items\":[]}\n")));
        *response.status_mut() = status;
        let load = self.report(work_s, status != StatusCode::OK);
        response.headers_mut().extend(load.map(|load| (LOAD, load)));
        response.headers_mut().extend(name.map(|name| (REPLICA, name)));
        on_it.answered = true;
        response
    }

    fn service_time_s(&self) -> f64 {
        let mean_s = self.spec.work.as_secs_f64() * f64::from(self.slowness.load(Relaxed));
        mean_s * log_normal(&mut *self.rng.lock().unwrap_or_else(PoisonError::into_inner), SIGMA)
    }

    /// Counts a finished request and says how things are; nothing for one without work of its own.
    fn report(&self, work_s: f64, failed: bool) -> Option<HeaderValue> {
        if self.spec.work.is_zero() {
            return None;
        }
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.add(Instant::now(), work_s, failed);
        let busy = (load.work / self.spec.workers as f64).min(1.0);
        let text = format!("TEXT cpu_utilization={busy:.4},rps_fractional={:.3},eps={:.3}", load.requests, load.errors);
        HeaderValue::from_str(&text).ok()
    }
}

/// Work, requests and errors a second, each an average that forgets.
#[derive(Debug, Default)]
struct Load {
    at: Option<Instant>,
    work: f64,
    requests: f64,
    errors: f64,
}

impl Load {
    fn add(&mut self, now: Instant, work_s: f64, failed: bool) {
        let age_s = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let kept = (-age_s / LOAD_MEMORY_S).exp();
        let add = |rate: f64, amount: f64| rate * kept + amount / LOAD_MEMORY_S;
        self.work = add(self.work, work_s);
        self.requests = add(self.requests, 1.0);
        self.errors = add(self.errors, f64::from(u8::from(failed)));
        self.at = Some(now);
    }
}

/// A request that is on a replica for as long as this lives, however it ends.
struct Counted<'a> {
    replica: &'a Replica,
    answered: bool,
}

impl<'a> Counted<'a> {
    fn new(replica: &'a Replica) -> Self {
        replica.in_flight.fetch_add(1, Relaxed);
        Self { replica, answered: false }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Relaxed);
        self.replica.lost.fetch_add(usize::from(!self.answered), Relaxed);
    }
}

/// Binds a listener, also where connections of a former one linger.
///
/// # Errors
/// When the address is taken.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Waits until somebody says stop, or nobody can any more.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Uniform in (0, 1].
pub fn uniform(rng: &mut impl Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// A log-normal value whose mean is 1 (Box and Muller's normal, exponentiated).
fn log_normal(rng: &mut impl Rng, sigma: f64) -> f64 {
    let normal = (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
