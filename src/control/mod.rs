//! The slow loop: features, scores, softmax, guards, triggers, publishing.
//!
//! ```text
//! wait (interval, reload, an endpoint's failure, a threshold) -> observe -> health -> graph -> features
//!     -> scorer (off this thread, with a deadline) -> softmax and guards -> ladder -> publish
//! ```
//! What changes who may get requests (an endpoint fails, returns, appears or disappears) is published at once with the
//! scores of the last tick, and then scored: a failed endpoint never waits for an inference. The bell is heard while
//! an inference runs, too.
//!
//! A tick of a large mesh takes milliseconds, so what it needs is kept from tick to tick (`tick`, `publish`, `roster`) and
//! only what changed is written: statistics, not names; and after a failure the tables with that endpoint, no others.
//!
//! The ladder: the model's scores; the last good ones until they expire; peak EWMA while there are fresh latencies;
//! least request. Each step is counted, logged when it changes, and undone by the next good scores. A model whose
//! predictions are wrong beyond `guards.max_error` steps down as if it had failed. On trial (`canary`) the policy that it
//! is compared with stands in for the lower steps, and a model that has lost steps down to it.
//!
//! Failures here never reach a request: the last generation stays until it expires, and then steers by peak EWMA.

pub mod archive;
mod budgets;
mod canary;
mod compare;
mod desired;
mod hedges;
pub mod history;
pub mod past;
mod publish;
mod roster;
mod sequence;
mod spill;
mod status;
mod tick;
mod triggers;
pub mod weights;

pub use archive::Keeper;
pub use canary::{ArmView, CanaryView, Comparison, Lost, Retreat};
// For `models/` alone, which draws what the configuration's keys do to them.
#[doc(hidden)]
pub use canary::{Counted, Trial};
pub use sequence::Interval;
pub use status::{GraphView, GuardCounters, Status};
pub use tick::Clock;
#[doc(hidden)]
pub use triggers::Watch;

use crate::balance::{Cause, Published};
use crate::config::Config;
use crate::health::Checks;
use crate::identity::Identities;
use crate::links::Links;
use crate::observe::TrafficRegistry;
use crate::scorer::Scorer;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What the slow loop works with.
pub struct Parts {
    /// Where generations go.
    pub published: Published,
    /// What requests saw.
    pub links: Arc<Links>,
    /// Where requests are counted.
    pub traffic: Arc<TrafficRegistry>,
    /// What scores candidates.
    pub scorer: Scorer,
    /// How connections to endpoints are secured.
    pub identities: Arc<Identities>,
    /// What it shows of itself.
    pub status: Arc<Status>,
    /// What health checks say.
    pub checks: Checks,
    /// The time.
    pub clock: Clock,
}

impl Parts {
    /// With nothing seen, nothing published and nobody else at its side: for benches, plots and tests.
    #[doc(hidden)]
    #[must_use]
    pub fn alone(scorer: Scorer, clock: Clock) -> Self {
        Self {
            published: Published::default(),
            links: Arc::new(Links::new(1)),
            traffic: Arc::new(TrafficRegistry::new(1)),
            scorer,
            identities: Arc::default(),
            status: Arc::default(),
            checks: Checks::default(),
            clock,
        }
    }
}

/// Tells the slow loop that an endpoint failed. Cheap, and never blocks.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Rings. Several rings before the loop listens are one.
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

/// The slow loop.
pub struct Control {
    state: tick::State,
    config: watch::Receiver<Arc<Config>>,
    bell: Bell,
    watch: Watch,
}

impl Control {
    /// A loop for this configuration and all that follow it in the channel.
    #[must_use]
    pub fn new(parts: Parts, config: watch::Receiver<Arc<Config>>, bell: Bell) -> Self {
        let first = config.borrow().clone();
        Self { state: tick::State::new(parts, first), config, bell, watch: Watch::default() }
    }

    /// Publishes a generation without scores, so that there is one before anything serves.
    pub fn publish_first(&mut self) {
        self.state.publish_at_once(Cause::Start);
    }

    /// Ticks until the configuration's sender is gone.
    pub async fn run(mut self) {
        self.tick(Cause::Start).await;
        let mut due = self.next_due();
        while let Some(cause) = self.wait(due).await {
            self.tick(cause).await;
            // A reload may have shortened the interval.
            let next = self.next_due();
            due = if cause == Cause::Interval || due <= Instant::now() { next } else { due.min(next) };
        }
    }

    /// Proxies that started together drift apart: many that refresh in step would move together (`pick.md`).
    fn next_due(&self) -> Instant {
        let tick = self.config.borrow().model.tick.0;
        Instant::now() + tick.mul_f64(rand::rng().random_range(0.9..1.1))
    }

    /// Waits until a tick is due, and says why; none when the process ends.
    async fn wait(&mut self, due: Instant) -> Option<Cause> {
        let triggers = self.config.borrow().model.triggers.clone();
        // The last tick may have taken the time of the next look.
        let mut look_at = Instant::now() + triggers.min_interval.0;
        loop {
            let health_in = self.state.next_health_change();
            let health_due = async {
                match health_in {
                    Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.config.changed() => {
                    changed.ok()?;
                    let config = self.config.borrow_and_update().clone();
                    return Some(self.state.reconfigure(config));
                }
                () = self.bell.0.notified() => if self.state.health_changed() { return Some(Cause::Health) },
                () = health_due => return Some(Cause::Health),
                () = tokio::time::sleep_until(due) => return Some(Cause::Interval),
                () = tokio::time::sleep_until(look_at) => {
                    let generation = self.state.published().load();
                    if let Some(cause) = self.watch.look(&generation, &triggers) {
                        self.state.noted.broken = self.watch.take_broken();
                        return Some(cause);
                    }
                    look_at = Instant::now() + triggers.min_interval.0;
                }
            }
        }
    }

    /// One tick. While the model thinks, endpoints that fail and configurations that change are published at once;
    /// a changed configuration makes the scores under way worthless, so the tick starts over.
    ///
    /// Public for `benches/` and `models/` alone, which want one tick and not the waiting between ticks.
    #[doc(hidden)]
    pub async fn tick(&mut self, mut cause: Cause) {
        'again: loop {
            let started = Instant::now();
            if matches!(cause, Cause::Start | Cause::Reload | Cause::Endpoints | Cause::Health) {
                self.state.publish_at_once(cause);
            }
            let Some((features, deadline)) = self.state.prepare() else {
                self.state.publish_unscored(cause, started.elapsed());
                return;
            };
            let scorer = self.state.scorer();
            let mut scoring = std::pin::pin!(scorer.score(features, deadline));
            let scored = loop {
                tokio::select! {
                    scored = &mut scoring => break scored,
                    () = self.bell.0.notified() => if self.state.health_changed() {
                        self.state.publish_at_once(Cause::Health);
                    },
                    Ok(()) = self.config.changed() => {
                        let config = self.config.borrow_and_update().clone();
                        cause = self.state.reconfigure(config);
                        continue 'again;
                    }
                }
            };
            self.state.publish_scored(cause, scored, started.elapsed());
            return;
        }
    }
}

#[cfg(test)]
mod tests;
