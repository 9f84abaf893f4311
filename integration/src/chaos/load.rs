//! The load: an open loop, which asks at its own rate whatever comes back, on a thread of its own, and what came of each
//! request.
//!
//! Half of the requests come over HTTP/1.1, on connections that are used in turn, and half over HTTP/2. Of five one is a POST
//! with a body, which nobody may repeat. A client does what any does: a request that was never sent, or that may be repeated
//! and whose connection was closed before a byte of the answer came, goes out once more on a fresh connection; that is
//! counted. After [`DEADLINE`] it has gone.

use crate::script::{PLACES, SERVICES};
use http::{Request, Response};
use hyper::body::Incoming;
use pathloom_integration::BoxError;
use pathloom_integration::body;
use pathloom_integration::client::{Connection, ENDPOINT, TEST_ID, Version, text};
use pathloom_integration::load::chain;
use pathloom_integration::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The clusters that are asked, as their requests' hosts begin.
pub const CLUSTERS: [&str; 3] = ["web", "feed", "shop"];
/// After so long a caller has gone. Far beyond what the sidecar lets a request take.
pub const DEADLINE: Duration = Duration::from_secs(6);
/// Connections over HTTP/1.1 that are kept.
const KEPT: usize = 32;
/// Connections over HTTP/2.
const SHARED: usize = 4;

/// How many requests each endpoint answered, by service and place.
#[derive(Debug, Default)]
pub struct Answered([[AtomicU64; PLACES.len()]; SERVICES.len()]);

impl Answered {
    fn by(&self, endpoint: &str) {
        let found = endpoint.split_once('-').and_then(|(service, place)| {
            let service = SERVICES.iter().position(|s| *s == service)?;
            self.0[service].get(place.parse::<usize>().ok()?)
        });
        if let Some(count) = found {
            count.fetch_add(1, SeqCst);
        }
    }

    /// The counts of a service.
    #[must_use]
    pub fn of(&self, service: usize) -> [u64; PLACES.len()] {
        std::array::from_fn(|place| self.0[service][place].load(SeqCst))
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
struct Ask {
    id: u64,
    cluster: usize,
    version: Version,
    /// The size of a POST's body; none of a GET.
    post: Option<u64>,
    /// The size of the answer.
    size: u64,
    /// How long the endpoint works on it, in milliseconds.
    ms: u64,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The right answer.
    Right,
    /// The sidecar said that it failed, and why: the reason's code.
    Refused(String),
    /// An endpoint's answer that is a failure.
    Endpoint(u16),
    /// The answer broke off in the middle.
    Broken,
    /// The connection ended before the answer.
    Reset(String),
    /// No connection could be opened.
    Unconnected(String),
    /// No answer came before the caller had gone.
    Late,
    /// An answer to something else.
    Wrong(String),
}

/// A request and what came of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id, which the access logs have as `chaos-ID`.
    pub id: u64,
    /// When it was sent, from the load's beginning.
    pub at: Duration,
    /// Its cluster among [`CLUSTERS`].
    pub cluster: usize,
    /// The protocol.
    pub version: Version,
    /// Whether nobody may repeat it.
    pub once: bool,
    /// How long its answer took.
    pub took: Duration,
    /// Whether the client itself sent it again.
    pub again: bool,
    /// What came.
    pub outcome: Outcome,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Record>>,
}

impl Load {
    /// Starts it: so many requests a second to this address.
    ///
    /// # Panics
    /// When there is no thread for it.
    #[must_use]
    pub fn start(address: SocketAddr, rate: f64, seed: u64, begun: Instant, answered: Arc<Answered>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let shared = std::array::from_fn(|_| Cell::default());
                let lines = Rc::new(Lines { address, answered, kept: RefCell::default(), shared });
                run(lines, rate, seed, begun, told).await
            })
        });
        Self { stop, thread: thread.expect("a thread") }
    }

    /// Waits for what is under way, and gives what came of all.
    ///
    /// # Panics
    /// When a caller panicked.
    pub async fn stop(self) -> Vec<Record> {
        self.stop.store(true, SeqCst);
        tokio::task::spawn_blocking(|| self.thread.join()).await.expect("it ran").expect("callers do not panic")
    }
}

async fn run(lines: Rc<Lines>, rate: f64, seed: u64, begun: Instant, stop: Arc<AtomicBool>) -> Vec<Record> {
    let records: Rc<RefCell<Vec<Record>>> = Rc::default();
    let mut calls = tokio::task::JoinSet::new();
    let mut random = Random::new(seed);
    let mut due = begun.elapsed();
    for id in 1.. {
        due += Duration::from_secs_f64(random.gap_s(rate));
        if stop.load(SeqCst) {
            break;
        }
        tokio::time::sleep_until((begun + due).into()).await;
        let large = random.below(20) == 0;
        let ask = Ask {
            id,
            cluster: random.below(CLUSTERS.len()),
            version: if random.below(2) == 0 { Version::Http1 } else { Version::Http2 },
            post: (random.below(5) == 0).then_some(if large { 50_000 } else { 1_000 }),
            size: if large { 60_000 } else { 800 },
            ms: random.below(6) as u64,
        };
        let (lines, records) = (lines.clone(), records.clone());
        calls.spawn_local(async move {
            let at = begun.elapsed();
            let again = Cell::new(false);
            let outcome = tokio::time::timeout(DEADLINE, call(&lines, &ask, &again)).await.unwrap_or(Outcome::Late);
            records.borrow_mut().push(Record {
                id,
                at,
                cluster: ask.cluster,
                version: ask.version,
                once: ask.post.is_some(),
                took: begun.elapsed().saturating_sub(at),
                again: again.get(),
                outcome,
            });
        });
        while let Some(ended) = calls.try_join_next() {
            ended.expect("a caller does not panic");
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended.expect("a caller does not panic");
    }
    records.take()
}

/// The connections.
struct Lines {
    address: SocketAddr,
    answered: Arc<Answered>,
    /// HTTP/1.1: the one that rested longest comes first.
    kept: RefCell<VecDeque<Connection>>,
    shared: [Cell<Option<Connection>>; SHARED],
}

impl Lines {
    /// A connection for a request, and whether it was used before.
    async fn take(&self, ask: &Ask, fresh: bool) -> Result<(Connection, bool), BoxError> {
        match ask.version {
            Version::Http1 => {
                let kept = || {
                    let mut kept = self.kept.borrow_mut();
                    // As long as there are few, another one is opened.
                    if kept.len() < KEPT / 2 {
                        return None;
                    }
                    std::iter::from_fn(|| kept.pop_front()).find(Connection::usable)
                };
                match if fresh { None } else { kept() } {
                    Some(connection) => Ok((connection, true)),
                    None => Ok((Version::Http1.connect(self.address).await?, false)),
                }
            }
            Version::Http2 => {
                let slot = &self.shared[(ask.id % SHARED as u64) as usize];
                let current = slot.take().filter(Connection::usable);
                let handle = current.as_ref().and_then(Connection::share);
                slot.set(current);
                if let Some(handle) = handle {
                    return Ok((handle, true));
                }
                let opened = Version::Http2.connect(self.address).await?;
                let handle = opened.share().expect("HTTP/2");
                slot.set(Some(opened));
                Ok((handle, false))
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        let mut kept = self.kept.borrow_mut();
        if matches!(connection, Connection::Http1(_)) && kept.len() < KEPT {
            kept.push_back(connection);
        }
    }
}

async fn call(lines: &Lines, ask: &Ask, again: &Cell<bool>) -> Outcome {
    loop {
        let (mut connection, used) = match lines.take(ask, again.get()).await {
            Ok(taken) => taken,
            Err(error) => return Outcome::Unconnected(chain(&*error)),
        };
        match connection.send(ask.request()).await {
            Ok(response) => {
                lines.answered.by(text(&response, ENDPOINT));
                let outcome = ask.judge(response).await;
                if outcome != Outcome::Broken {
                    lines.give_back(connection);
                }
                return outcome;
            }
            Err(error) => {
                let safe = never_sent(&*error) || (ask.post.is_none() && used);
                if again.replace(true) || !safe {
                    return Outcome::Reset(chain(&*error));
                }
            }
        }
    }
}

impl Ask {
    fn request(&self) -> Request<body::Body> {
        let uri = format!("http://{}.mesh/item?size={}&ms={}", CLUSTERS[self.cluster], self.size, self.ms);
        let builder = Request::builder().uri(uri).header(TEST_ID, self.id).header("x-request-id", name(self.id));
        match self.post {
            None => builder.body(body::empty()),
            Some(length) => builder.method("POST").body(body::full(body::piece(0, length))),
        }
        .expect("a proper request")
    }

    async fn judge(&self, response: Response<Incoming>) -> Outcome {
        let status = response.status().as_u16();
        let reason = text(&response, "proxy-status").split("details=").nth(1).map(|d| d.trim_matches('"').to_owned());
        let id = text(&response, TEST_ID).parse::<u64>().ok();
        let taken = text(&response, "x-taken").parse::<u64>().ok();
        let (checked, _, broken) = body::drain(response.into_body()).await;
        match (reason, broken) {
            (Some(reason), _) => Outcome::Refused(reason),
            (None, Some(_)) => Outcome::Broken,
            (None, None) if status >= 500 => Outcome::Endpoint(status),
            (None, None) => {
                let right = (200, Some(self.id), Some(self.post.unwrap_or(0)), self.size, None);
                let came = (status, id, taken, checked.length, checked.wrong_at);
                if came == right { Outcome::Right } else { Outcome::Wrong(format!("{came:?} and not {right:?}")) }
            }
        }
    }
}

/// A request's name in the access logs.
#[must_use]
pub fn name(id: u64) -> String {
    format!("chaos-{id}")
}

/// Whether an error says that the server did nothing with the request.
fn never_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            return cause.reason() == Some(h2::Reason::REFUSED_STREAM) || (cause.is_go_away() && cause.is_remote());
        }
        next = cause.source();
    }
    false
}
