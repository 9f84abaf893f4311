//! The connection to a NATS server: made again whenever it is lost, and what the log says of that.
//!
//! The client reconnects by itself once it has been connected. Until then it is tried here, because only so an operator hears
//! why it fails. What fails again and again is said once; a pause grows from a tenth of a second to
//! five, with a random part, so that a fleet does not come back all at once.

use super::super::config;
use super::super::counters::Counters;
use super::super::keyring::lock;
use super::proof;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use rand::RngExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked whether it is still there; after two of these without an answer it is not.
const PING: Duration = Duration::from_secs(5);
/// The first pause before another attempt, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many commands the client may hold: subscriptions and reports that a server is slow to take.
const COMMANDS: usize = 1_024;
/// How many messages of a subscription may wait.
const MESSAGES: usize = 1_024;
/// How often a server's complaint is repeated in the log.
const REPEAT: Duration = Duration::from_secs(60);

/// What is known of the connection.
pub struct Link {
    counters: Arc<Counters>,
    servers: String,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// Why there is none, as it was last said.
    down: Option<String>,
    /// What the server complained of, and when that was said.
    complaint: Option<(String, Instant)>,
}

impl Link {
    pub fn new(nats: &config::Nats, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { counters, servers: nats.servers.join(", "), said: Mutex::default() })
    }

    fn up(&self) {
        self.counters.set_connected(true);
        lock(&self.said).down = None;
        tracing::info!(servers = self.servers, "links are shared by NATS");
    }

    fn down(&self, why: String) {
        self.counters.set_connected(false);
        let mut said = lock(&self.said);
        // Told once, however often it is tried.
        if said.down.as_ref() != Some(&why) {
            tracing::error!(
                servers = self.servers,
                "links are not shared: no NATS server is connected: {why}; this node goes by what it sees itself"
            );
            said.down = Some(why);
        }
    }

    /// A server refuses something: a subject, mostly, which differs from one time to the next.
    fn complaint(&self, text: &str) {
        let kind = text.split('"').next().unwrap_or(text);
        let (mut said, now) = (lock(&self.said), Instant::now());
        let repeated = said.complaint.as_ref().is_some_and(|(last, at)| last == kind && now - *at < REPEAT);
        if !repeated {
            tracing::error!(servers = self.servers, "the NATS server refuses what this node asks for: {text}");
            said.complaint = Some((kind.to_owned(), now));
        }
    }

    fn event(&self, event: Event) {
        match event {
            Event::Connected => self.up(),
            Event::Disconnected => self.down("the connection has ended".to_owned()),
            Event::SlowConsumer(_) => self.counters.unheard(),
            Event::ServerError(ServerError::AuthorizationViolation) => self.down(refusal("authorization violation")),
            Event::ServerError(error) => self.complaint(&error.to_string()),
            Event::ClientError(ClientError::Other(text)) if refuses(&text) => self.down(refusal(&text)),
            Event::ClientError(error) => self.down(error.to_string()),
            Event::LameDuckMode | Event::Draining | Event::Closed => {}
        }
    }
}

/// Whether a connection failed because of who this node is; the client gives the kind of a later failure as text alone.
fn refuses(text: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| text.starts_with(&kind.to_string()))
}

fn refusal(text: &str) -> String {
    format!(
        "the server does not let this node in ({text}): look at `mesh.nats.user` and `password`, `token`, `nkey` or `credentials`, \
         and at the server's own users"
    )
}

/// The pause before the `attempt`th attempt in a row: twice as long each time, and up to half as long again by chance.
fn pause(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    pause.mul_f64(rand::rng().random_range(1.0..1.5))
}

fn options(nats: &config::Nats, node: &str, link: &Arc<Link>) -> ConnectOptions {
    let link = link.clone();
    let event = move |event| {
        link.event(event);
        std::future::ready(())
    };
    proof::options(nats)
        .name(format!("pathloom {node}"))
        .no_echo()
        // Those that a server names may be reached from elsewhere only.
        .ignore_discovered_servers()
        .connection_timeout(PATIENCE)
        .ping_interval(PING)
        .client_capacity(COMMANDS)
        .subscription_capacity(MESSAGES)
        .reconnect_delay_callback(pause)
        .event_callback(event)
}

/// Connects, however long that takes.
pub async fn connect(nats: config::Nats, node: Arc<str>, link: Arc<Link>, connected: oneshot::Sender<Client>) {
    for attempt in 1.. {
        tokio::time::sleep(pause(attempt)).await;
        match options(&nats, &node, &link).connect(&nats.servers).await {
            Ok(client) => {
                // It may have ended already; then nobody waits for it.
                let _ = connected.send(client);
                return;
            }
            Err(error) => {
                let text = error.to_string();
                link.down(if refuses(&text) { refusal(&text) } else { text });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ_from_node_to_node() {
        assert_eq!([pause(0), pause(1)], [Duration::ZERO; 2]);
        for (attempt, least) in [(2, 100), (3, 200), (6, 1_600), (8, 5_000), (1_000, 5_000), (usize::MAX, 5_000)] {
            let least = Duration::from_millis(least);
            let all: Vec<_> = (0..20).map(|_| pause(attempt)).collect();
            assert!(all.iter().all(|pause| (least..least * 3 / 2).contains(pause)), "{attempt}: {all:?}");
            assert!(all.iter().any(|pause| pause != &all[0]), "{all:?}");
        }
    }

    #[test]
    fn only_who_one_is_is_a_matter_of_credentials() {
        assert!(refuses(&ConnectErrorKind::AuthorizationViolation.to_string()));
        assert!(refuses("failed signing nonce: AuthError(/a cannot be read)"));
        assert!(!refuses(&ConnectErrorKind::Io.to_string()) && !refuses(&ConnectErrorKind::TimedOut.to_string()));
    }
}
