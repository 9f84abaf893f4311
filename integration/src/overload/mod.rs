//! More requests than can be served: an open loop, which asks at its own rate whatever comes back, in classes, each
//! request with a deadline after which its caller has gone.

use crate::client::{Connection, Version};
use crate::random::Random;
use crate::{BoxError, body};
use http::{Request, StatusCode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections that the requests are spread over.
const CONNECTIONS: usize = 8;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests a second, all classes together.
    pub per_second: f64,
    /// The classes and their shares of the requests, together 1.
    pub classes: Vec<(&'static str, f64)>,
    /// After so long the caller has gone.
    pub deadline: Duration,
    /// For how long requests are sent before they count.
    pub warm_up: Duration,
    /// For how long they count.
    pub lasts: Duration,
    /// What is asked for.
    pub path: String,
}

/// What came of a class's requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Came {
    /// How many were sent.
    pub asked: u64,
    /// Answered with 200 within the deadline: how long each took, in order.
    pub right: Vec<Duration>,
    /// Answered with 503 or 429.
    pub refused: u64,
    /// How long the refusals took, in order.
    pub refused_after: Vec<Duration>,
    /// Not answered within the deadline.
    pub late: u64,
    /// Anything else.
    pub failed: u64,
}

impl Came {
    /// The share of the requests that were answered rightly in time.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.right.len() as f64 / self.asked.max(1) as f64
    }

    /// A percentile of the right answers' times, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        percentile_ms(&self.right, percent)
    }
}

/// A percentile of times in order, in milliseconds; 0 of none.
#[must_use]
pub fn percentile_ms(times: &[Duration], percent: f64) -> f64 {
    let last = times.len().saturating_sub(1) as f64;
    times.get((last * percent / 100.0).round() as usize).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}

/// A connection that requests share; another takes its place when it breaks, as when too many of its requests were given
/// up.
struct Line {
    address: SocketAddr,
    /// How many there were before it, and the connection.
    now: tokio::sync::Mutex<(u64, Connection)>,
}

impl Line {
    async fn open(address: SocketAddr) -> Result<Arc<Self>, BoxError> {
        let connection = Version::Http2.connect(address).await?;
        Ok(Arc::new(Self { address, now: tokio::sync::Mutex::new((0, connection)) }))
    }

    async fn handle(&self) -> Option<(u64, Connection)> {
        let now = self.now.lock().await;
        Some((now.0, now.1.share()?))
    }

    /// This one broke.
    async fn broke(&self, number: u64) {
        let mut now = self.now.lock().await;
        if now.0 == number
            && let Ok(another) = Version::Http2.connect(self.address).await
        {
            *now = (number + 1, another);
        }
    }
}

enum Answer {
    Right(Duration),
    Refused(Duration),
    Late,
    Failed,
}

/// Sends what is planned and says what came of each class.
///
/// # Panics
/// When nobody listens.
pub async fn open_loop(address: SocketAddr, plan: &Plan) -> BTreeMap<&'static str, Came> {
    let mut lines = Vec::new();
    for _ in 0..CONNECTIONS {
        lines.push(Line::open(address).await.expect("the sidecar listens"));
    }
    let all: Arc<Mutex<BTreeMap<&'static str, Came>>> = Arc::default();
    let mut calls = JoinSet::new();
    let (started, mut random) = (Instant::now(), Random::new(1));
    let mut due = Duration::ZERO;
    for n in 0_usize.. {
        due += Duration::from_secs_f64(random.gap_s(plan.per_second));
        if due > plan.warm_up + plan.lasts {
            break;
        }
        tokio::time::sleep_until(started + due).await;
        let class = class(&plan.classes, random.share());
        let counts = due > plan.warm_up;
        let line = lines[n % CONNECTIONS].clone();
        let (all, path, deadline) = (all.clone(), plan.path.clone(), plan.deadline);
        calls.spawn(async move {
            let answer = call(&line, &path, class, deadline).await;
            if counts {
                let mut all = all.lock().unwrap();
                let came = all.entry(class).or_default();
                came.asked += 1;
                match answer {
                    Answer::Right(after) => came.right.push(after),
                    Answer::Refused(after) => {
                        came.refused += 1;
                        came.refused_after.push(after);
                    }
                    Answer::Late => came.late += 1,
                    Answer::Failed => came.failed += 1,
                }
            }
        });
        while calls.try_join_next().is_some() {}
    }
    while let Some(ended) = calls.join_next().await {
        ended.expect("a caller does not panic");
    }
    let mut all = std::mem::take(&mut *all.lock().unwrap());
    all.values_mut().for_each(|came| {
        came.right.sort();
        came.refused_after.sort();
    });
    all
}

async fn call(line: &Line, path: &str, class: &str, deadline: Duration) -> Answer {
    let begun = Instant::now();
    let Some((number, connection)) = line.handle().await else { return Answer::Failed };
    match tokio::time::timeout(deadline, exchange(connection, path, class)).await {
        Err(_) => Answer::Late,
        Ok(Ok(StatusCode::OK)) => Answer::Right(begun.elapsed()),
        Ok(Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => Answer::Refused(begun.elapsed()),
        Ok(Ok(_)) => Answer::Failed,
        Ok(Err(_)) => {
            line.broke(number).await;
            Answer::Failed
        }
    }
}

async fn exchange(mut connection: Connection, path: &str, class: &str) -> Result<StatusCode, BoxError> {
    let request = Request::get(path).header("x-pathloom-class", class).body(body::empty())?;
    Ok(connection.exchange(request).await?.status())
}

fn class(classes: &[(&'static str, f64)], point: f64) -> &'static str {
    let mut end = 0.0;
    let found = classes.iter().find(|(_, share)| {
        end += share;
        point < end
    });
    found.or(classes.last()).map_or("", |(name, _)| name)
}
