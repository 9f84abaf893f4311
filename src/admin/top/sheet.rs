//! From the admin port's answers to rows: each cell with its text, and with what it is sorted by.

use crate::admin::client::printable;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Instant;

/// One look at a proxy.
#[derive(Debug)]
pub struct Snapshot {
    /// `/routing`.
    pub routing: Value,
    /// Rows of `/graph`.
    pub links: Vec<Row>,
    /// Failures since the process began, by workload, cluster and reason; without a cluster where none was reached.
    pub failures: BTreeMap<(String, String, String), f64>,
    /// Requests since the process began.
    pub requests: f64,
    /// When.
    pub at: Instant,
}

impl Snapshot {
    /// Of three answers.
    pub fn new(routing: Value, graph: &Value, metrics: &str, at: Instant) -> Self {
        let mut failures = BTreeMap::new();
        let mut requests = 0.0;
        for line in metrics.lines() {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let of = |wanted: &str| {
                let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
                pairs.clone().find(|(key, _)| *key == wanted).map(|(_, v)| printable(v.trim_end_matches('"')))
            };
            let key = || (of("workload").unwrap_or_default(), of("cluster").unwrap_or_default(), of("reason"));
            match name {
                "pathloom_requests_total" => requests += value,
                "pathloom_request_failures_total" | "pathloom_unrouted_requests_total" if value > 0.0 => {
                    let (workload, cluster, reason) = key();
                    failures.insert((workload, cluster, reason.unwrap_or_default()), value);
                }
                _ => {}
            }
        }
        let links = list(graph, "links").iter().map(link).collect();
        Self { routing, links, failures, requests, at }
    }

    /// Rows of endpoints: one for each workload, cluster and candidate.
    pub fn endpoints(&self) -> Vec<Row> {
        let tables = list(&self.routing, "tables");
        tables.iter().flat_map(|table| list(table, "candidates").iter().map(|c| endpoint(table, c))).collect()
    }

    /// Rows of failures: since the last look in a second, and altogether.
    pub fn failing(&self, before: Option<&Snapshot>) -> Vec<Row> {
        let passed_s = before.map(|b| self.at.saturating_duration_since(b.at).as_secs_f64()).filter(|s| *s > 0.0);
        let row = |(key, total): (&(String, String, String), &f64)| {
            let last = before.map(|b| b.failures.get(key).copied().unwrap_or_default());
            // A process that was started anew counts from zero.
            let rate = last.zip(passed_s).map(|(last, s)| (total - last).max(0.0) / s);
            let (workload, cluster, reason) = key;
            vec![
                Cell::word(workload),
                Cell::word(cluster),
                Cell::number(rate, 1),
                Cell::number(Some(*total), 0),
                Cell::word(reason),
            ]
        };
        self.failures.iter().map(row).collect()
    }

    /// Requests a second since the last look.
    pub fn rate(&self, before: Option<&Snapshot>) -> Option<f64> {
        let before = before?;
        let passed_s = self.at.saturating_duration_since(before.at).as_secs_f64();
        (passed_s > 0.0).then(|| (self.requests - before.requests).max(0.0) / passed_s)
    }
}

/// What stands in a row.
pub type Row = Vec<Cell>;

/// What a cell says, how loudly, and where it stands among others.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The text.
    pub text: String,
    /// What it is sorted by, where that is a number.
    number: Option<f64>,
    /// Whether it is trouble.
    pub bad: bool,
}

impl Cell {
    pub(super) fn word(text: &str) -> Self {
        Self { text: if text.is_empty() { "-".to_owned() } else { printable(text) }, number: None, bad: false }
    }

    pub(super) fn number(value: Option<f64>, digits: usize) -> Self {
        let text = value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        Self { text, number: Some(value.unwrap_or(f64::NEG_INFINITY)), bad: false }
    }

    pub(super) fn percent(value: Option<f64>) -> Self {
        let text = value.map_or_else(|| "-".to_owned(), |v| format!("{:.1}%", v * 100.0));
        Self { text, number: Some(value.unwrap_or(f64::NEG_INFINITY)), bad: false }
    }

    pub(super) fn bad_if(self, bad: bool) -> Self {
        Self { bad, ..self }
    }

    /// Numbers by size, words by the alphabet.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => self.text.cmp(&other.text),
        }
    }
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn at(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

/// Errors from here on stand out.
const BAD_ERRORS: f64 = 0.05;

fn endpoint(table: &Value, c: &Value) -> Row {
    let share = at(c, "/observed/share");
    let calls = at(table, "/calls_per_second").zip(share).map(|(all, share)| all * share);
    let errors = at(c, "/observed/error_rate");
    vec![
        Cell::word(text(table, "workload")),
        Cell::word(text(table, "cluster")),
        Cell::word(text(c, "endpoint")),
        Cell::percent(at(c, "/share")),
        Cell::percent(share),
        Cell::number(calls, 1),
        Cell::number(at(c, "/predicted/mean_ms"), 1),
        Cell::number(at(c, "/observed/latency_mean_ms"), 1),
        Cell::number(at(c, "/observed/latency_p99_ms"), 1),
        Cell::percent(errors).bad_if(errors.is_some_and(|e| e >= BAD_ERRORS)),
        Cell::number(at(c, "/in_flight"), 0),
        Cell::word(text(c, "health")).bad_if(text(c, "health") != "healthy"),
        Cell::word(text(c, "reason")),
    ]
}

fn link(link: &Value) -> Row {
    let errors = at(link, "/statistics/error_rate");
    vec![
        Cell::word(text(link, "source")),
        Cell::word(text(link, "destination")),
        Cell::number(at(link, "/statistics/calls_per_second"), 1),
        Cell::number(at(link, "/statistics/latency_mean_ms"), 1),
        Cell::number(at(link, "/statistics/latency_p99_ms"), 1),
        Cell::number(at(link, "/statistics/jitter_ms"), 1),
        Cell::percent(errors).bad_if(errors.is_some_and(|e| e >= BAD_ERRORS)),
        Cell::number(at(link, "/statistics/in_flight"), 1),
        Cell::percent(at(link, "/attention")),
        Cell::number(at(link, "/statistics/age_s"), 1),
    ]
}
