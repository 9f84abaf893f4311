//! The SPIFFE Workload API: the stream over which an agent on this machine hands out this node's identity, and renews it.
//!
//! ```text
//! configuration --> follow --> attend: connect, ask, take each answer ------------> Identities::offer
//!                                ^        | refused, silent, broken off, garbled
//!                                |        v
//!                                +--- Identities::none_from (an alarm; the last good identity stays), a pause
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `wire` | what is said: one gRPC call (`FetchX509SVID`) whose answers come as a stream, over HTTP/2 and a Unix socket |
//! | `mod` | when it is said: the first answer, a pause after a failure, another agent after a reload |
//!
//! An agent answers at once and again whenever something is new, so nothing is asked for twice on one stream. What it
//! says is judged by `identity`, as files are. An agent that hangs is noticed where it never answers ([`Pace::answer`]), and
//! by a ping that comes back or does not ([`Pace::ping`]). Each failure makes the next attempt wait longer, by chance a
//! little more or less, so that a machine full of sidecars does not knock at the same moment.
//!
//! The standard lets a client drop an identity that the agent takes back. Here the last good one stays in force until it
//! expires, as it does with files: an agent that restarts, or an authority that is unwell, must not stop what works.
//!
//! What it deliberately does not do: ask for JWTs, validate by revocation lists, or speak over TCP, where an agent cannot
//! tell who asks.

mod wire;

use crate::config::Config;
use crate::identity::{Agent, Identities};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use wire::{Asked, Away};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// An agent's first answer, from the connection on.
    answer: Duration,
    /// How often a quiet agent is pinged. gRPC's servers in Go take more than one in five minutes for an attack.
    ping: Duration,
    /// How long a ping may take.
    pong: Duration,
    /// The pause after a first failure, and the longest one. Who answered for longer than that begins anew.
    pause: (Duration, Duration),
    /// How soon after one answer the next one is looked at: an agent that raves must not keep this thread busy.
    between: Duration,
}

const PACE: Pace = Pace {
    answer: Duration::from_secs(5),
    ping: Duration::from_secs(330),
    pong: Duration::from_secs(20),
    pause: (Duration::from_millis(100), Duration::from_secs(10)),
    between: Duration::from_millis(50),
};

/// Follows the agent that the configuration names, whichever that is, for as long as the runtime lives.
///
/// Returns once it is known whether there is an identity to be had from it: who listens afterwards meets its first client
/// with one.
pub async fn start(identities: Arc<Identities>, config: watch::Receiver<Arc<Config>>) {
    start_at(PACE, identities, config).await;
}

async fn start_at(pace: Pace, identities: Arc<Identities>, config: watch::Receiver<Arc<Config>>) {
    let (sender, known) = oneshot::channel();
    tokio::spawn(follow(pace, identities, config, Known(Some(sender))));
    // An attempt takes no longer; whether it was told of does not matter.
    let _ = timeout(pace.answer, known).await;
}

/// Told once that it is known whether there is an identity.
struct Known(Option<oneshot::Sender<()>>);

impl Known {
    fn now(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

async fn follow(pace: Pace, identities: Arc<Identities>, mut config: watch::Receiver<Arc<Config>>, mut known: Known) {
    loop {
        let agent = Agent::of(&config.borrow_and_update().identity);
        let another = async {
            while config.changed().await.is_ok() {
                if Agent::of(&config.borrow().identity) != agent {
                    return;
                }
            }
            // Nothing will change any more, and what there is goes on.
            std::future::pending::<()>().await;
        };
        match &agent {
            None => {
                known.now();
                another.await;
            }
            Some(agent) => tokio::select! {
                () = another => {}
                () = attend(pace, agent, &identities, &mut known) => {}
            },
        }
    }
}

/// Takes what an agent says, and asks anew whenever it is heard of no more. Ends never.
async fn attend(pace: Pace, agent: &Agent, identities: &Identities, known: &mut Known) {
    let mut pause = Pause::new(pace);
    loop {
        let began = Instant::now();
        let away = listen(pace, agent, identities, known).await;
        identities.none_from(agent, away.code(), format!("{agent}: {away}"));
        known.now();
        let chance = rand::rng().random();
        sleep(pause.after(began.elapsed(), chance)).await;
    }
}

/// How long to wait before the next attempt.
struct Pause {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Pause {
    fn new(pace: Pace) -> Self {
        let (shortest, longest) = pace.pause;
        Self { shortest, longest, next: shortest }
    }

    /// That after an attempt which lasted so long. `chance` is between 0 and 1.
    fn after(&mut self, lasted: Duration, chance: f64) -> Duration {
        if lasted >= self.longest {
            self.next = self.shortest;
        }
        let pause = self.next.mul_f64(0.5 + chance / 2.0);
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

/// One call, until it is over.
async fn listen(pace: Pace, agent: &Agent, identities: &Identities, known: &mut Known) -> Away {
    let first = async {
        let mut asked = Asked::ask(agent.api.socket(), pace.ping, pace.pong).await?;
        let offer = asked.next().await?;
        Ok((asked, offer))
    };
    let (mut asked, mut offer) = match timeout(pace.answer, first).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(away)) => return away,
        Err(_) => return Away::Silent(pace.answer),
    };
    loop {
        identities.offer(agent, &offer);
        known.now();
        sleep(pace.between).await;
        offer = match asked.next().await {
            Ok(offer) => offer,
            Err(away) => return away,
        };
    }
}

#[cfg(test)]
mod tests;
