//! What everybody in a demo shares: the story's clock, the records, what the model's sidecar said last, and the log.

use super::fleet::{Fleet, POLICIES, policy_key};
use super::record::{Figures, Record};
use super::report::{Crash, millis};
use super::story::{Span, Story};
use super::watch::View;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// How many lines of the log are kept for the screen.
const LOG_LINES: usize = 100;

/// An instance of the model's arm, as the screen shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its address, by which the sidecar knows it.
    pub address: String,
}

/// What everybody shares.
#[derive(Debug)]
pub struct Stage {
    /// The story.
    pub story: Story,
    /// When it begins.
    pub start: Instant,
    /// Each arm's record, in the order of `POLICIES`.
    pub records: Vec<Arc<Record>>,
    /// The catalog replicas of the model's arm.
    pub catalogs: Vec<Shown>,
    /// The storage replicas of the model's arm.
    pub storages: Vec<Shown>,
    /// The admin port of the model's sidecar.
    pub admin: SocketAddr,
    /// Whether the log goes to the standard error too: there is no screen.
    headless: bool,
    inner: Mutex<Inner>,
    looks: AtomicUsize,
    steered: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    view: Option<Arc<View>>,
    log: Vec<(f64, String)>,
    crashes: [Option<Crash>; POLICIES.len()],
}

impl Stage {
    /// A stage for the arm whose sidecar is shown.
    #[must_use]
    pub fn new(story: Story, start: Instant, shown: &Fleet, headless: bool) -> Self {
        let names = |replicas: &[Arc<super::service::Replica>]| {
            replicas.iter().map(|r| Shown { name: r.spec.name.clone(), address: r.address.to_string() }).collect()
        };
        Self {
            story,
            start,
            records: POLICIES.iter().map(|_| Arc::default()).collect(),
            catalogs: names(&shown.catalogs),
            storages: names(&shown.storages),
            admin: shown.sidecar.admin,
            headless,
            inner: Mutex::default(),
            looks: AtomicUsize::new(0),
            steered: AtomicUsize::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the story's start.
    #[must_use]
    pub fn now_s(&self) -> f64 {
        Instant::now().saturating_duration_since(self.start).as_secs_f64()
    }

    /// Adds a line to the log.
    pub fn log(&self, line: String) {
        let now_s = self.now_s();
        if self.headless {
            // Where nobody reads it any more the story goes on.
            drop(writeln!(std::io::stderr(), "[{now_s:6.1} s] {line}"));
        }
        let mut inner = self.inner();
        inner.log.push((now_s, line));
        if inner.log.len() > LOG_LINES {
            inner.log.remove(0);
        }
    }

    /// The log's last lines, each with its time in seconds.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<(f64, String)> {
        let inner = self.inner();
        inner.log.iter().skip(inner.log.len().saturating_sub(count)).cloned().collect()
    }

    /// What the model's sidecar said last.
    #[must_use]
    pub fn view(&self) -> Option<Arc<View>> {
        self.inner().view.clone()
    }

    /// Takes in what the model's sidecar says, and logs what has changed.
    pub fn look(&self, view: View) {
        self.looks.fetch_add(1, Relaxed);
        if view.rung == "model" {
            self.steered.fetch_add(1, Relaxed);
        }
        let last = self.inner().view.replace(Arc::new(view.clone()));
        if last.as_ref().is_none_or(|l| l.rung != view.rung) && !view.rung.is_empty() {
            self.log(format!("requests are steered by {} ({})", view.rung.replace('_', " "), view.rung_reason));
        }
        for shown in self.catalogs.iter().chain(&self.storages) {
            let health = |v: &View| v.at(&shown.address).next().map(|c| c.health.clone());
            if let (Some(before), Some(now)) = (last.as_deref().and_then(health), health(&view))
                && before != now
            {
                self.log(format!("{} was {before} and is {now}", shown.name));
            }
        }
    }

    /// The share of the looks in which the model's own scores steered.
    #[must_use]
    pub fn steered(&self) -> Option<f64> {
        let looks = self.looks.load(Relaxed);
        (looks > 0).then(|| self.steered.load(Relaxed) as f64 / looks as f64)
    }

    /// Notes an arm's crash.
    pub fn crashed(&self, arm: usize, in_flight: usize) {
        let at_s = self.now_s();
        if let Some(crash) = self.inner().crashes.get_mut(arm) {
            *crash = Some(Crash { at_s, in_flight });
        }
    }

    /// Each arm's crash, in the order of `POLICIES`.
    #[must_use]
    pub fn crashes(&self) -> [Option<Crash>; POLICIES.len()] {
        self.inner().crashes
    }

    /// Logs what a chapter that has just ended was like.
    pub fn chapter_ended(&self, span: Span) {
        let arms: Vec<String> = POLICIES
            .iter()
            .zip(&self.records)
            .map(|(policy, record)| {
                let figures = Figures::of(&record.between(span.from_s, span.to_s));
                format!("{} {}", policy_key(*policy).replace('_', " "), millis(figures.p99_ms))
            })
            .collect();
        self.log(format!("p99 meanwhile: {}", arms.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::demo::watch::CandidateView;
    use std::time::Duration;

    #[tokio::test]
    async fn what_changes_at_the_sidecar_is_logged_once() {
        let fleet = Fleet::start(Policy::Model, 1).unwrap();
        let story = Story::new(Duration::from_secs(60)).unwrap();
        let stage = Stage::new(story, Instant::now(), &fleet, false);
        let view = |rung: &str, health: &str| View {
            rung: rung.into(),
            candidates: vec![CandidateView {
                address: stage.catalogs[0].address.clone(),
                health: health.into(),
                ..CandidateView::default()
            }],
            ..View::default()
        };
        for (rung, health) in
            [("model", "healthy"), ("model", "healthy"), ("model", "ejected"), ("last_good", "ejected")]
        {
            stage.look(view(rung, health));
        }
        let lines: Vec<String> = stage.last_lines(10).into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("catalog-1 was healthy and is ejected") && lines[2].contains("last good"));
        assert_eq!((stage.steered(), stage.last_lines(1).len()), (Some(0.75), 1));
    }
}
