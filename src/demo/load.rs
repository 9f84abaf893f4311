//! The load: open-loop, each request sent when it is due, whether or not those before it were answered.

use super::client::Client;
use super::fleet::Fleet;
use super::record::{Record, Sample};
use super::service::{REPLICA, told};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// A request that has no answer this long after it was sent has failed. Longer than any queue of the story grows. (Not
/// after it was due: where the whole machine stood still for a while, nobody failed.)
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Sends an arm its requests and waits until each is answered or has failed. Once `stop` says so, none is sent any
/// more, and those under way are still waited for.
pub async fn send(
    fleet: Arc<Fleet>,
    record: Arc<Record>,
    arrivals: Arc<[Duration]>,
    start: Instant,
    mut stop: watch::Receiver<bool>,
) {
    let client = Arc::new(Client::new(fleet.frontend.address));
    let mut under_way = JoinSet::new();
    for after in arrivals.iter() {
        let due = start + *after;
        tokio::select! {
            () = sleep_until(due) => {}
            () = told(&mut stop) => break,
        }
        let (client, fleet, record) = (client.clone(), fleet.clone(), record.clone());
        let due_s = after.as_secs_f64();
        under_way.spawn(async move {
            let late_ms = since(due);
            let replica = match timeout(PATIENCE, client.get("frontend.demo", "/")).await {
                Ok(Ok(answer)) if answer.status.is_success() => {
                    answer.headers.get(REPLICA).and_then(|name| fleet.catalog_named(name.as_bytes()))
                }
                _ => None,
            };
            record.add(Sample { due_s, late_ms, latency_ms: since(due), replica });
        });
        // Those that are done leave at once: a long demo must not collect them.
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

fn since(due: Instant) -> f64 {
    Instant::now().saturating_duration_since(due).as_secs_f64() * 1e3
}
