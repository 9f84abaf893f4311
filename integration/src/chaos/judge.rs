//! What came of a run: each failure with its reason, availability beside a perfect balancer's, memory and descriptors; and
//! the verdicts.

use crate::load::{Outcome, Record, name};
use crate::mesh::SIDECARS;
use crate::oracle::Oracle;
use crate::samples::{Life, Sample};
use crate::script::Window;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// By how much a process may grow while it serves: a quarter, and so many bytes.
const GROWTH: (f64, f64) = (1.25, 8e6);
/// How many descriptors more than at first a process may have when all is over.
pub const MORE_DESCRIPTORS: u64 = 12;
/// A life that is shorter says nothing about leaks.
const LONG: Duration = Duration::from_secs(180);

/// A failed request, and why it failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The request.
    pub record: Record,
    /// Why, in a word; by the sidecar's own code where it said one.
    pub why: String,
    /// Whether anybody says why.
    pub explained: bool,
    /// Whether a perfect balancer would have had it served.
    pub could: bool,
    /// What the access logs say of it, by sidecar.
    pub lines: Vec<(usize, String)>,
}

/// What came of the requests of a window, or of all.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Requests.
    pub asked: u64,
    /// That could have succeeded.
    pub could: u64,
    /// That could have, and did.
    pub right: u64,
    /// That the clients themselves sent again.
    pub again: u64,
    /// That failed although they could have succeeded, by why.
    pub lost: BTreeMap<String, u64>,
    /// That failed, and nobody could have served, by why.
    pub excused: BTreeMap<String, u64>,
    /// How long the right answers took, in order.
    pub took: Vec<Duration>,
}

impl Sum {
    /// The share of what a perfect balancer would have had that was served.
    #[must_use]
    pub fn availability(&self) -> f64 {
        if self.could == 0 { 1.0 } else { self.right as f64 / self.could as f64 }
    }

    fn add(&mut self, record: &Record, could: bool, why: Option<&str>) {
        self.asked += 1;
        self.could += u64::from(could);
        self.again += u64::from(record.again);
        match why {
            None => {
                self.right += u64::from(could);
                self.took.push(record.took);
            }
            Some(why) => {
                *(if could { &mut self.lost } else { &mut self.excused }).entry(why.to_owned()).or_default() += 1
            }
        }
    }
}

/// A verdict: what had to hold, whether it did, and what was seen.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its name, for programs.
    pub name: String,
    /// What had to hold.
    pub what: String,
    /// Whether it did.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

/// All of it.
#[derive(Debug)]
pub struct Judgement {
    /// By window.
    pub windows: Vec<Sum>,
    /// Of all requests.
    pub all: Sum,
    /// All that failed.
    pub failures: Vec<Failure>,
    /// The verdicts.
    pub verdicts: Vec<Verdict>,
}

/// What is judged.
pub struct Evidence<'a> {
    /// What came of each request.
    pub records: Vec<Record>,
    /// Who was ill when.
    pub oracle: &'a Oracle,
    /// The timetable as it was kept.
    pub windows: &'a [Window],
    /// The sidecars' access logs and logs.
    pub logs: &'a [(usize, String, String)],
    /// What their processes needed.
    pub lives: &'a [Life],
    /// What should not have happened.
    pub wrongs: &'a [String],
    /// The least availability.
    pub least: f64,
}

/// Judges.
#[must_use]
pub fn judge(evidence: Evidence<'_>) -> Judgement {
    let lines = lines(evidence.logs);
    let mut windows = vec![Sum::default(); evidence.windows.len()];
    let (mut all, mut failures) = (Sum::default(), Vec::new());
    for record in evidence.records {
        let could = evidence.oracle.could(record.cluster, record.at);
        let said = lines.get(name(record.id).as_str()).map(Vec::as_slice).unwrap_or_default();
        let why = why(&record.outcome, said);
        let window = evidence.windows.iter().position(|w| record.at >= w.from && record.at < w.to);
        let word = why.as_ref().map(|(why, _)| why.as_str());
        all.add(&record, could, word);
        if let Some(sum) = window.and_then(|w| windows.get_mut(w)) {
            sum.add(&record, could, word);
        }
        if let Some((why, explained)) = why {
            let lines = said.iter().map(|(sidecar, line)| (*sidecar, (*line).to_owned())).collect();
            failures.push(Failure { record, why, explained, could, lines });
        }
    }
    windows.iter_mut().chain([&mut all]).for_each(|sum| sum.took.sort());
    let mut verdicts = vec![availability(&all, evidence.least)];
    verdicts.extend(requests(&failures));
    verdicts.push(nothing_wrong(evidence.wrongs, evidence.logs));
    verdicts.extend(SIDECARS.iter().flat_map(|name| flat(name, evidence.lives)));
    Judgement { windows, all, failures, verdicts }
}

/// The access logs' lines of requests of the load, by their ids.
fn lines(logs: &[(usize, String, String)]) -> HashMap<String, Vec<(usize, &str)>> {
    let mut all: HashMap<String, Vec<(usize, &str)>> = HashMap::new();
    for (sidecar, access, _) in logs {
        for line in access.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(id) = value["request_id"].as_str() {
                all.entry(id.to_owned()).or_default().push((*sidecar, line));
            }
        }
    }
    all
}

/// Why a request failed, and whether anybody says so.
fn why(outcome: &Outcome, lines: &[(usize, &str)]) -> Option<(String, bool)> {
    let near = lines.iter().find(|(sidecar, _)| *sidecar == 0);
    let value = near.and_then(|(_, line)| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
    let logged = value["reason"].as_str().map(str::to_owned);
    let by_log = |what: &str, reason: Option<String>| match reason {
        Some(reason) => (format!("{what}: {reason}"), true),
        None => (format!("{what}, unexplained"), false),
    };
    Some(match outcome {
        Outcome::Right => return None,
        Outcome::Refused(reason) => (reason.clone(), true),
        Outcome::Endpoint(status) => (format!("endpoint's {status}"), true),
        Outcome::Broken => by_log("broken off", logged),
        Outcome::Reset(_) => by_log("reset", logged),
        Outcome::Unconnected(_) => by_log("not connected", None),
        // That the client has gone explains nothing: it had to.
        Outcome::Late => by_log("late", logged.filter(|reason| reason != "client_gone")),
        Outcome::Wrong(_) => ("wrong answer".to_owned(), false),
    })
}

fn availability(all: &Sum, least: f64) -> Verdict {
    Verdict {
        name: "availability".to_owned(),
        what: format!("Of what a perfect balancer would have had served, at least {:.2}% was", least * 100.0),
        held: all.could > 0 && all.availability() >= least,
        seen: format!("{:.4}%: {} of {}", all.availability() * 100.0, all.right, all.could),
    }
}

fn requests(failures: &[Failure]) -> [Verdict; 2] {
    let unexplained: Vec<_> = failures.iter().filter(|f| !f.explained).collect();
    let wrong = failures.iter().filter(|f| matches!(f.record.outcome, Outcome::Wrong(_))).count();
    let examples: Vec<_> =
        unexplained.iter().take(5).map(|f| format!("{}: {:?}", name(f.record.id), f.record.outcome)).collect();
    [
        Verdict {
            name: "reasons".to_owned(),
            what: "Every request that failed has a reason code".to_owned(),
            held: unexplained.is_empty(),
            seen: match unexplained.len() {
                0 => format!("all {}", failures.len()),
                n => format!("{n} of {} have none, as {}", failures.len(), examples.join("; ")),
            },
        },
        Verdict {
            name: "answers".to_owned(),
            what: "No request got another one's answer, or a wrong one".to_owned(),
            held: wrong == 0,
            seen: format!("{wrong} did"),
        },
    ]
}

fn nothing_wrong(wrongs: &[String], logs: &[(usize, String, String)]) -> Verdict {
    let panics: usize = logs.iter().map(|(_, _, log)| log.matches("panicked at").count()).sum();
    Verdict {
        name: "no_crash".to_owned(),
        what: "No sidecar crashed or panicked, and each trouble did what it should".to_owned(),
        held: wrongs.is_empty() && panics == 0,
        seen: if wrongs.is_empty() {
            format!("{panics} panics")
        } else {
            format!("{panics} panics; {}", wrongs.join("; "))
        },
    }
}

/// Whether the last process of this name leaked.
fn flat(name: &'static str, lives: &[Life]) -> Vec<Verdict> {
    let mut of_this = lives.iter().filter(|l| l.name == name && !l.samples.is_empty());
    let Some(first) = of_this.next() else { return Vec::new() };
    let last = of_this.next_back().unwrap_or(first);
    let (Some(at_first), Some(at_last)) = (first.samples.first(), last.samples.last()) else {
        return Vec::new();
    };
    let mut verdicts = vec![Verdict {
        name: format!("descriptors_{name}"),
        what: format!("{name}: as many descriptors at the end as at first (at most {MORE_DESCRIPTORS} more)"),
        held: at_last.descriptors <= at_first.descriptors + MORE_DESCRIPTORS,
        seen: format!("{} at first, {} at the end", at_first.descriptors, at_last.descriptors),
    }];
    let span = |l: &Life| l.samples.first().zip(l.samples.last()).map_or(Duration::ZERO, |(a, b)| b.at - a.at);
    let longest = lives.iter().filter(|l| l.name == name).max_by_key(|l| span(l)).filter(|l| span(l) >= LONG);
    if let Some((life, (born, ended))) = longest.and_then(|l| Some((l, l.samples.first().zip(l.samples.last())?))) {
        let minute = Duration::from_secs(60);
        let warm = mean(&life.samples, born.at + minute, born.at + minute * 2);
        let end = mean(&life.samples, ended.at.saturating_sub(minute), Duration::MAX);
        verdicts.push(Verdict {
            name: format!("memory_{name}"),
            what: format!("{name}: memory is flat (of its longest process, the last minute beside the second)"),
            held: end <= warm * GROWTH.0 + GROWTH.1,
            seen: format!("{:.1} MB, then {:.1} MB", warm / 1e6, end / 1e6),
        });
    }
    verdicts
}

/// The mean memory from one moment to another, in bytes.
#[must_use]
pub fn mean(samples: &[Sample], from: Duration, to: Duration) -> f64 {
    let within: Vec<_> = samples.iter().filter(|s| s.at >= from && s.at < to).map(|s| s.memory as f64).collect();
    within.iter().sum::<f64>() / within.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use pathloom_integration::client::Version;
    use std::time::Instant;

    fn record(id: u64, at_s: u64, outcome: Outcome) -> Record {
        let (at, took) = (Duration::from_secs(at_s), Duration::from_millis(3));
        Record { id, at, cluster: 0, version: Version::Http1, once: false, took, again: false, outcome }
    }

    fn life(memory: impl Fn(u64) -> u64, descriptors: u64) -> Life {
        let sample = |s| Sample {
            at: Duration::from_secs(s),
            memory: memory(s),
            descriptors: if s == 0 { 50 } else { descriptors },
            threads: 9,
        };
        Life { name: "near", process: 1, ended: false, samples: (0..600).map(sample).collect() }
    }

    fn held(records: Vec<Record>, access: &str, log: &str, lives: &[Life]) -> Vec<bool> {
        let oracle = Oracle::new(Instant::now());
        let logs = [(0, access.to_owned(), log.to_owned())];
        let evidence =
            Evidence { records, oracle: &oracle, windows: &[], logs: &logs, lives, wrongs: &[], least: 0.999 };
        judge(evidence).verdicts.into_iter().map(|v| v.held).collect()
    }

    #[test]
    fn each_verdict_can_fail() {
        let good = || (0..2_000).map(|id| record(id, 1, Outcome::Right)).collect::<Vec<_>>();
        let with = |outcome| good().into_iter().chain([record(9_999, 1, outcome)]).collect::<Vec<_>>();
        let calm = [life(|_| 40_000_000, 55)];
        let line = "{\"request_id\":\"chaos-9999\",\"reason\":\"request_timeout\"}\n";
        assert_eq!(held(good(), "", "", &calm), [true; 6]);
        assert_eq!(held(with(Outcome::Late), line, "", &calm), [true; 6]);
        let unexplained = [true, false, true, true, true, true];
        assert_eq!(held(with(Outcome::Late), "", "", &calm), unexplained);
        assert_eq!(held(with(Outcome::Late), &line.replace("request_timeout", "client_gone"), "", &calm), unexplained);
        assert_eq!(held(with(Outcome::Wrong("x".into())), "", "", &calm), [true, false, false, true, true, true]);
        assert_eq!(held(good(), "", "thread 'x' panicked at", &calm), [true, true, true, false, true, true]);
        let failing = vec![record(1, 1, Outcome::Refused("no_endpoints".into())), record(2, 1, Outcome::Right)];
        assert_eq!(held(failing, "", "", &calm), [false, true, true, true, true, true]);
        let leaking = [life(|s| 40_000_000 + s * 100_000, 500)];
        assert_eq!(held(good(), "", "", &leaking), [true, true, true, true, false, false]);
    }
}
