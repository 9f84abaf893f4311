//! What came of a run: each failure with its reason, availability beside a perfect balancer's, memory and descriptors; and
//! the verdicts.

use crate::leaks;
use crate::load::{Outcome, Record, name};
use crate::mesh::SIDECARS;
use crate::oracle::Oracle;
use crate::samples::Life;
use crate::script::Window;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

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
    /// The stretch at the end in which nothing but the load went on; none where there was none.
    pub steady: Option<Range<Duration>>,
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
    // What comes after the troubles is not theirs.
    let until = evidence.windows.last().map_or(Duration::MAX, |w| w.to);
    let leaks = SIDECARS.iter().flat_map(|name| leaks::verdicts(name, evidence.lives, until, evidence.steady.as_ref()));
    verdicts.extend(leaks);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Sample;
    use pathloom_integration::client::Version;
    use std::time::Instant;

    fn record(id: u64, at_s: u64, outcome: Outcome) -> Record {
        let (at, took) = (Duration::from_secs(at_s), Duration::from_millis(3));
        Record { id, at, cluster: 0, version: Version::Http1, once: false, took, again: false, outcome }
    }

    fn life(memory: impl Fn(u64) -> u64) -> Life {
        let sample = |s| Sample { at: Duration::from_secs(s), memory: memory(s), descriptors: 50, threads: 9 };
        Life { name: "near", process: 1, ended: false, samples: (0..600).map(sample).collect() }
    }

    fn held(records: Vec<Record>, access: &str, log: &str, lives: &[Life]) -> Vec<(String, bool)> {
        let oracle = Oracle::new(Instant::now());
        let logs = [(0, access.to_owned(), log.to_owned())];
        let steady = Some(Duration::from_secs(480)..Duration::from_secs(600));
        let evidence =
            Evidence { records, oracle: &oracle, windows: &[], logs: &logs, lives, steady, wrongs: &[], least: 0.999 };
        judge(evidence).verdicts.into_iter().map(|v| (v.name, v.held)).collect()
    }

    #[test]
    fn each_verdict_can_fail() {
        let good = || (0..2_000).map(|id| record(id, 1, Outcome::Right)).collect::<Vec<_>>();
        let with = |outcome| good().into_iter().chain([record(9_999, 1, outcome)]).collect::<Vec<_>>();
        let calm = [life(|_| 40_000_000)];
        let line = "{\"request_id\":\"chaos-9999\",\"reason\":\"request_timeout\"}\n";
        let all_but = |failed: &[&str]| -> Vec<(String, bool)> {
            let names = [
                "availability",
                "reasons",
                "answers",
                "no_crash",
                "descriptors_near",
                "troubles_near",
                "memory_near",
                "descriptors_steady_near",
            ];
            names.iter().map(|name| ((*name).to_owned(), !failed.contains(name))).collect()
        };
        assert_eq!(held(good(), "", "", &calm), all_but(&[]));
        assert_eq!(held(with(Outcome::Late), line, "", &calm), all_but(&[]));
        assert_eq!(held(with(Outcome::Late), "", "", &calm), all_but(&["reasons"]));
        let gone = line.replace("request_timeout", "client_gone");
        assert_eq!(held(with(Outcome::Late), &gone, "", &calm), all_but(&["reasons"]));
        assert_eq!(held(with(Outcome::Wrong("x".into())), "", "", &calm), all_but(&["reasons", "answers"]));
        assert_eq!(held(good(), "", "thread 'x' panicked at", &calm), all_but(&["no_crash"]));
        let failing = vec![record(1, 1, Outcome::Refused("no_endpoints".into())), record(2, 1, Outcome::Right)];
        assert_eq!(held(failing, "", "", &calm), all_but(&["availability"]));
        let leaking = [life(|s| 40_000_000 + s * 20_000)];
        assert_eq!(held(good(), "", "", &leaking), all_but(&["memory_near"]));
    }
}
