//! What is said at the end: the figures as one JSON object, and for people a table and sentences.
//!
//! The sentences are made from the figures and say what happened, whether it flatters or not: a policy that was slower
//! is called slower, and a difference below `SAME` is called none.

use super::fleet::{POLICIES, policy_key};
use super::record::{CATALOGS, Figures, Record};
use super::story::{Event, FAR_CATALOGS, SLOW_CATALOG, Story};
use super::watch::View;
use crate::config::Policy;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A difference below this share is within a run's noise, and not called one.
const SAME: f64 = 0.1;
/// A machine on which this program sends a hundredth of its requests later than this, in ms, is too busy to judge by.
const LATE_MS: f64 = 10.0;

/// A chapter's figures in one arm.
#[derive(Debug, Clone)]
pub struct ChapterFigures {
    /// The chapter's key.
    pub key: &'static str,
    /// When it began, in seconds.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
    /// What happened in it.
    pub figures: Figures,
}

/// One arm's figures.
#[derive(Debug, Clone)]
pub struct PolicyFigures {
    /// Its policy.
    pub policy: Policy,
    /// Of the whole story.
    pub whole: Figures,
    /// Of each chapter that was reached.
    pub chapters: Vec<ChapterFigures>,
    /// Requests on the crashed replica when it crashed; none when the story ended before.
    pub in_flight_at_crash: Option<usize>,
    /// Failed requests that were under way when the replica crashed.
    pub failed_in_crash: usize,
}

impl PolicyFigures {
    fn of(policy: Policy, record: &Record, story: Story, reached_s: f64, crash: Option<Crash>) -> Self {
        let all = record.all();
        let chapters = story
            .chapters()
            .filter(|(_, span)| span.from_s < reached_s)
            .map(|(chapter, span)| ChapterFigures {
                key: chapter.key,
                from_s: span.from_s,
                to_s: span.to_s.min(reached_s),
                figures: Figures::of(&record.between(span.from_s, span.to_s)),
            })
            .collect();
        let caught = |c: &Crash| all.iter().filter(|s| !s.answered() && s.due_s <= c.at_s && c.at_s <= s.done_s()).count();
        Self {
            policy,
            whole: Figures::of(&all),
            chapters,
            in_flight_at_crash: crash.map(|c| c.in_flight),
            failed_in_crash: crash.as_ref().map_or(0, caught),
        }
    }

    fn in_chapter(&self, story: Story, event: Event) -> Option<&Figures> {
        let (chapter, _) = story.of(event)?;
        self.chapters.iter().find(|c| c.key == chapter.key).map(|c| &c.figures)
    }
}

/// A crash, as it happened in one arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crash {
    /// When, in seconds since the story's start.
    pub at_s: f64,
    /// How many requests were on the replica.
    pub in_flight: usize,
}

/// The whole summary.
#[derive(Debug, Clone)]
pub struct Summary {
    story: Story,
    /// How far the story came, in seconds.
    pub reached_s: f64,
    /// How many generations the model's sidecar made.
    pub generations: u64,
    /// What ran the model.
    pub engine: String,
    /// The share of the looks at the model's sidecar in which the model's own scores steered; none when it never answered.
    pub steered: Option<f64>,
    /// Each arm's figures.
    pub policies: Vec<PolicyFigures>,
    /// Where the plot lies; none when it could not be written.
    pub plot: Option<PathBuf>,
}

impl Summary {
    /// Makes the figures of the records, which are in the order of `POLICIES`, as the crashes are.
    #[must_use]
    pub fn of(story: Story, reached_s: f64, records: &[Arc<Record>], crashes: &[Option<Crash>], view: Option<&View>) -> Self {
        let crash = |i: usize| crashes.get(i).copied().flatten();
        let arms = POLICIES.into_iter().zip(records).enumerate();
        Self {
            story,
            reached_s,
            generations: view.map_or(0, |v| v.generation),
            engine: view.map(|v| v.engine.clone()).unwrap_or_default(),
            steered: None,
            policies: arms.map(|(i, (p, record))| PolicyFigures::of(p, record, story, reached_s, crash(i))).collect(),
            plot: None,
        }
    }

    /// All arms' requests.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.policies.iter().map(|p| p.whole.requests).sum()
    }

    /// All arms' failed requests.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.policies.iter().map(|p| p.whole.failed).sum()
    }

    /// The failed requests that no crash caught under way.
    #[must_use]
    pub fn failed_outside_crash(&self) -> usize {
        self.policies.iter().map(|p| p.whole.failed - p.failed_in_crash).sum()
    }

    /// One object for programs. Latencies in ms, shares from 0 to 1; null is unknown.
    #[must_use]
    pub fn json(&self) -> Value {
        let policies: Map<String, Value> =
            self.policies.iter().map(|p| (policy_key(p.policy).to_owned(), self.policy_json(p))).collect();
        let crashed: Option<usize> = self.policies.iter().map(|p| p.in_flight_at_crash).sum();
        json!({
            "requests": self.requests(),
            "failed": self.failed(),
            "failed_outside_crash": self.failed_outside_crash(),
            "in_flight_at_crash": crashed,
            "generations": self.generations,
            "engine": self.engine,
            "model_steered_share": rounded(self.steered),
            "sent_late_p99_ms": rounded(self.late_p99_ms()),
            "seconds": self.reached_s,
            "complete": self.complete(),
            "policies": policies,
            "plot": self.plot,
        })
    }

    /// How late this program itself sent requests, in ms: the 99th percentile of the worst arm.
    #[must_use]
    pub fn late_p99_ms(&self) -> Option<f64> {
        self.policies.iter().filter_map(|p| p.whole.late_p99_ms).max_by(f64::total_cmp)
    }

    fn complete(&self) -> bool {
        self.reached_s >= self.story.length.as_secs_f64()
    }

    fn policy_json(&self, p: &PolicyFigures) -> Value {
        let two_hop = p.in_chapter(self.story, Event::SlowStorage);
        let slow = p.in_chapter(self.story, Event::SlowCatalog);
        let chapters: Vec<Value> = p
            .chapters
            .iter()
            .map(|c| {
                json!({
                    "chapter": c.key,
                    "from_s": c.from_s,
                    "to_s": c.to_s,
                    "requests": c.figures.requests,
                    "failed": c.figures.failed,
                    "p50_ms": rounded(c.figures.p50_ms),
                    "p99_ms": rounded(c.figures.p99_ms),
                    "catalog_shares": c.figures.shares.iter().map(|s| rounded(Some(*s))).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "requests": p.whole.requests,
            "failed": p.whole.failed,
            "in_flight_at_crash": p.in_flight_at_crash,
            "p50_ms": rounded(p.whole.p50_ms),
            "p99_ms": rounded(p.whole.p99_ms),
            "two_hop_p50_ms": rounded(two_hop.and_then(|f| f.p50_ms)),
            "two_hop_p99_ms": rounded(two_hop.and_then(|f| f.p99_ms)),
            "slow_share": rounded(slow.and_then(|f| f.share_of(&[SLOW_CATALOG]))),
            "two_hop_slow_share": rounded(two_hop.and_then(|f| f.share_of(&FAR_CATALOGS))),
            "chapters": chapters,
        })
    }

    /// Sentences about what the figures say.
    #[must_use]
    pub fn verdicts(&self) -> Vec<String> {
        let p99 = |policy: Policy, of: &dyn Fn(&PolicyFigures) -> Option<f64>| {
            self.policies.iter().find(|p| p.policy == policy).and_then(of)
        };
        let mut out = Vec::new();
        let whole: &dyn Fn(&PolicyFigures) -> Option<f64> = &|p| p.whole.p99_ms;
        let two_hop: &dyn Fn(&PolicyFigures) -> Option<f64> =
            &|p| p.in_chapter(self.story, Event::SlowStorage).and_then(|f| f.p99_ms);
        for (when, of) in [("Over the whole story", whole), ("While storage-3 was slow, two hops away", two_hop)] {
            let Some(model) = p99(Policy::Model, of) else { continue };
            let against: Vec<String> = [Policy::LeastRequest, Policy::RoundRobin]
                .into_iter()
                .filter_map(|rival| Some(compared(model, rival, p99(rival, of)?)))
                .collect();
            if !against.is_empty() {
                out.push(format!("{when}, the model's p99 was {}: {}.", millis(Some(model)), against.join(", ")));
            }
        }
        out.extend(self.crash_verdict());
        out.push(format!(
            "{} generations, made by {}.",
            self.generations,
            if self.engine.is_empty() { "no engine" } else { &self.engine }
        ));
        if let Some(late) = self.late_p99_ms().filter(|late| *late > LATE_MS) {
            let late = millis(Some(late));
            out.push(format!(
                "This machine was busy with something else: one request in a hundred was sent {late} late or more, which is in all figures."
            ));
        }
        out
    }

    fn crash_verdict(&self) -> Option<String> {
        let outside = match self.failed_outside_crash() {
            0 => "No other request failed".to_owned(),
            1 => "One other request failed".to_owned(),
            n => format!("{n} other requests failed"),
        };
        let caught: Option<usize> = self.policies.iter().map(|p| p.in_flight_at_crash).sum();
        let lost: usize = self.policies.iter().map(|p| p.failed_in_crash).sum();
        Some(match caught {
            Some(caught) => format!("The crash caught {caught} requests in the three arms, of which {lost} were lost. {outside}."),
            None if self.failed() == 0 => "No request failed.".to_owned(),
            None => format!("{} requests failed.", self.failed()),
        })
    }
}

fn compared(model: f64, rival: Policy, theirs: f64) -> String {
    let name = policy_key(rival).replace('_', " ");
    let (more, less) = (theirs / model, model / theirs);
    match () {
        () if more > 1.0 + SAME => format!("{name}'s was {more:.1} times as long ({})", millis(Some(theirs))),
        () if less > 1.0 + SAME => format!("{name} did better ({}, {less:.1} times shorter)", millis(Some(theirs))),
        () => format!("{name}'s about the same ({})", millis(Some(theirs))),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.complete() {
            let (reached, whole) = (self.reached_s, self.story.length.as_secs_f64());
            writeln!(f, "The story was left after {reached:.1} s of {whole:.0} s; the figures are of that part.\n")?;
        }
        let row = |f: &mut fmt::Formatter<'_>, cells: [&str; 8]| {
            let [policy, requests, failed, p50, p99, two_hop, slow, far] = cells;
            writeln!(f, "{policy:<15}{requests:>9}{failed:>8}{p50:>10}{p99:>10}{two_hop:>13}{slow:>17}{far:>22}")
        };
        row(f, ["", "", "", "", "", "two-hop", "to catalog-2", "to catalog-3 and -4"])?;
        row(f, ["policy", "requests", "failed", "p50", "p99", "p99", "while slow", "while storage-3 slow"])?;
        for p in &self.policies {
            let two_hop = p.in_chapter(self.story, Event::SlowStorage);
            let slow = p.in_chapter(self.story, Event::SlowCatalog);
            row(
                f,
                [
                    &policy_key(p.policy).replace('_', " "),
                    &p.whole.requests.to_string(),
                    &p.whole.failed.to_string(),
                    &millis(p.whole.p50_ms),
                    &millis(p.whole.p99_ms),
                    &millis(two_hop.and_then(|t| t.p99_ms)),
                    &percent(slow.and_then(|s| s.share_of(&[SLOW_CATALOG]))),
                    &percent(two_hop.and_then(|t| t.share_of(&FAR_CATALOGS))),
                ],
            )?;
        }
        writeln!(f)?;
        self.verdicts().iter().try_for_each(|v| writeln!(f, "{v}"))?;
        if let Some(plot) = &self.plot {
            writeln!(f, "Plot: {}", plot.display())?;
        }
        Ok(())
    }
}

/// Thousandths are finer than what is measured.
fn rounded(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite()).map(|v| (v * 1e3).round() / 1e3)
}

/// A latency for people.
#[must_use]
pub fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

/// A share for people.
#[must_use]
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{:.1}%", v * 100.0))
}

/// The names of the catalog replicas.
pub fn catalog_names() -> impl Iterator<Item = String> {
    (1..=CATALOGS).map(|i| format!("catalog-{i}"))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
