//! Many callers at once, each request accounted for.
//!
//! [`Load`] is for tests of what is right: every request carries an id, and what came back is compared with it and with
//! the fleet's journal. [`flood`] is for tests of numbers: it only counts.

use crate::client::raw::Answer;
use crate::client::{Connection, TEST_ID, Version};
use crate::fleet::Journal;
use crate::{BoxError, body, wait};
use http::Request;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What came of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The right answer, by this endpoint.
    Right(usize),
    /// Another answer.
    Wrong(String),
    /// No answer.
    Failed(String),
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    /// For each caller, how many requests it has finished.
    finished: Mutex<Vec<u64>>,
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
}

/// Callers in a closed loop, until they are told to stop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

/// What a load came to.
#[derive(Debug)]
pub struct Report {
    /// What came of each request, by its id.
    pub outcomes: BTreeMap<u64, Outcome>,
}

impl Load {
    /// So many callers of `path`; on HTTP/1.1 each with a connection, on HTTP/2 eight on one.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn start(version: Version, address: SocketAddr, callers: usize, path: &str) -> Self {
        let shared = Arc::new(Shared::default());
        shared.finished.lock().unwrap().resize(callers, 0);
        let mut set = JoinSet::new();
        let mut current: Option<Connection> = None;
        for caller in 0..callers {
            let shareable = if caller % 8 == 0 { None } else { current.as_ref().and_then(Connection::share) };
            let connection = match shareable {
                Some(shared) => shared,
                None => version.connect(address).await.expect("the sidecar listens"),
            };
            current = connection.share();
            set.spawn(call(shared.clone(), caller, connection, (version, address), path.to_owned()));
        }
        Self { shared, callers: set }
    }

    /// Requests finished so far.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.shared.finished.lock().unwrap().iter().sum()
    }

    /// Waits until every request that is under way now is over, and one more of each caller.
    pub async fn pass(&self) {
        let before = self.shared.finished.lock().unwrap().clone();
        wait::until("every caller to finish two requests", || {
            self.shared.finished.lock().unwrap().iter().zip(&before).all(|(now, then)| *now >= then + 2)
        })
        .await;
    }

    /// Waits for so many further requests.
    pub async fn further(&self, requests: u64) {
        let wanted = self.finished() + requests;
        wait::until("further requests", || self.finished() >= wanted).await;
    }

    /// Lets every caller finish what it is at, and gives what came of all.
    ///
    /// # Panics
    /// When a caller panicked, or a request hangs.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, SeqCst);
        let all = async {
            while let Some(ended) = self.callers.join_next().await {
                ended.expect("a caller does not panic");
            }
        };
        wait::soon("the last requests", all).await;
        let outcomes = std::mem::take(&mut *self.shared.outcomes.lock().unwrap());
        assert_eq!(outcomes.len() as u64, self.shared.next.load(SeqCst), "each request sent has an outcome");
        Report { outcomes }
    }
}

async fn call(
    shared: Arc<Shared>,
    caller: usize,
    mut connection: Connection,
    (version, address): (Version, SocketAddr),
    path: String,
) {
    while !shared.stop.load(SeqCst) {
        let id = shared.next.fetch_add(1, SeqCst);
        let outcome = match one(&mut connection, &path, id).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if let Ok(again) = version.connect(address).await {
                    connection = again;
                }
                Outcome::Failed(chain(&*error))
            }
        };
        shared.outcomes.lock().unwrap().insert(id, outcome);
        shared.finished.lock().unwrap()[caller] += 1;
    }
}

/// An error with what it came of.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn one(connection: &mut Connection, path: &str, id: u64) -> Result<Outcome, BoxError> {
    let request = Request::get(path).header(TEST_ID, id).body(body::empty())?;
    let response = connection.exchange(request).await?;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    // `endpoint 3 saw 17`: the head and the body must agree, and both with what was asked.
    let mut words = text.split_whitespace().skip(1).step_by(2);
    let endpoint = words.next().and_then(|n| n.parse().ok());
    let seen = words.next().and_then(|n| n.parse::<u64>().ok());
    let header = |name: &str| crate::client::text(&response, name).parse::<u64>().ok();
    Ok(match endpoint {
        Some(endpoint)
            if response.status() == 200
                && seen == Some(id)
                && header(TEST_ID) == Some(id)
                && header(crate::client::ENDPOINT) == Some(endpoint as u64) =>
        {
            Outcome::Right(endpoint)
        }
        _ => Outcome::Wrong(format!("{} {:?} {text}", response.status(), response.headers())),
    })
}

impl Report {
    /// Fails unless every request got its right answer, from the one endpoint that saw it, which saw it once; and the
    /// fleet saw no request that nobody sent.
    ///
    /// # Panics
    /// Then.
    pub fn assert_each_right_and_once(&self, journal: &Journal) {
        let bad: Vec<_> = self.outcomes.iter().filter(|(_, o)| !matches!(o, Outcome::Right(_))).take(10).collect();
        assert!(bad.is_empty(), "of {} requests some were not right: {bad:#?}", self.outcomes.len());
        let seen = journal.all();
        let unaccounted: Vec<_> = self
            .outcomes
            .iter()
            .filter(|(id, outcome)| {
                let by = seen.get(id).map(Vec::as_slice).unwrap_or_default();
                !matches!(outcome, Outcome::Right(endpoint) if by == [*endpoint])
            })
            .map(|(id, outcome)| (id, outcome, seen.get(id)))
            .take(10)
            .collect();
        assert!(unaccounted.is_empty(), "not seen exactly once by the endpoint that answered: {unaccounted:#?}");
        assert_eq!(seen.len(), self.outcomes.len(), "the fleet saw requests that nobody sent");
    }
}

/// How many requests a flood sends on a connection before it waits for their answers.
const BATCH: usize = 16;

/// Sends so many GETs over so many connections, as fast as they are answered; gives how many were answered with 200.
///
/// # Panics
/// When a connection breaks.
pub async fn flood(version: Version, address: SocketAddr, connections: usize, requests: usize) -> usize {
    let mut set = JoinSet::new();
    for n in 0..connections {
        let share = requests / connections + usize::from(n < requests % connections);
        match version {
            Version::Http1 => set.spawn(pipeline(address, share)),
            Version::Http2 => set.spawn(multiplex(address, share)),
        };
    }
    let mut right = 0;
    while let Some(ended) = set.join_next().await {
        right += ended.expect("a caller does not panic").expect("a connection that holds");
    }
    right
}

async fn pipeline(address: SocketAddr, requests: usize) -> Result<usize, BoxError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = "GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n";
    let (mut unread, mut buffer, mut right) = (Vec::new(), vec![0; 64 * 1024], 0);
    let mut left = requests;
    while left > 0 {
        let batch = left.min(BATCH);
        stream.write_all(request.repeat(batch).as_bytes()).await?;
        let mut awaited = batch;
        while awaited > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err("the sidecar closed the connection".into());
            }
            unread.extend_from_slice(&buffer[..read]);
            while let Some(answer) = Answer::parse(&unread) {
                right += usize::from(answer.status == 200);
                awaited -= 1;
                unread.drain(..answer.length);
            }
        }
        left -= batch;
    }
    Ok(right)
}

async fn multiplex(address: SocketAddr, requests: usize) -> Result<usize, BoxError> {
    let connection = Version::Http2.connect(address).await?;
    let left = Arc::new(AtomicU64::new(requests as u64));
    let mut set = JoinSet::new();
    for _ in 0..BATCH {
        let (left, mut handle) = (left.clone(), connection.share().expect("HTTP/2"));
        set.spawn(async move {
            let mut right = 0;
            while left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                right += usize::from(handle.get("/").await?.status() == 200);
            }
            Ok::<_, BoxError>(right)
        });
    }
    let mut right = 0;
    while let Some(ended) = set.join_next().await {
        right += ended??;
    }
    Ok(right)
}
