//! What is measured, as `results.json` holds it.
//!
//! A run may measure a part only. What it measured takes the place of what an earlier run at the same commit found; all
//! else of that run stays, and `runs` says who contributed. Of another commit nothing is kept.

use crate::Fallible;
use crate::bench::{Case, Measured, Proxy};
use pathloom_benches::host::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The most that other work may take of all cores while something is timed.
pub const QUIET: f64 = 0.05;

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The commit that was measured, with `+` when the working tree differed from it.
    pub commit: String,
    pub machine: Machine,
    /// How many rounds the timed figures are medians of.
    pub rounds: usize,
    /// The runs that contributed, the first one first.
    pub runs: Vec<Run>,
    /// What each program says of its version.
    pub versions: BTreeMap<String, String>,
    pub rows: Vec<Row>,
    /// What bodies of other sizes cost, HTTP/1.1 on both sides.
    pub bodies: Vec<BodyRow>,
    pub memory: Vec<MemoryRow>,
    /// What could not be measured, or went wrong while it was.
    pub failures: Vec<Failure>,
}

/// One run of the command.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub command: String,
    pub seconds: f64,
    /// Timed rounds that it went through.
    pub rounds: usize,
    /// Share of all cores that was busy just before it began.
    pub busy_before: f64,
    /// Share of all cores that neither the proxies nor the load nor the upstreams took, in each timed round.
    pub busy_with_others: Vec<f64>,
    /// The same of rounds that do not count, since it was too much: a later run measured them again.
    #[serde(default)]
    pub measured_again: Vec<f64>,
}

impl Run {
    /// Whether what it timed is worth something.
    pub fn was_quiet(&self) -> bool {
        self.busy_with_others.iter().all(|busy| *busy <= QUIET)
    }

    /// Takes out the rounds that are to be measured again.
    pub fn without_busy_rounds(&mut self) {
        let (quiet, busy) = std::mem::take(&mut self.busy_with_others).into_iter().partition(|busy| *busy <= QUIET);
        self.busy_with_others = quiet;
        self.measured_again.extend::<Vec<f64>>(busy);
    }
}

/// One proxy in one case. A figure that is missing stands among the failures with its reason.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    pub proxy: String,
    pub case: String,
    /// User instructions a request of the serving thread, 64 requests in flight.
    pub instructions: Option<f64>,
    /// System calls a request, 64 requests in flight.
    pub syscalls: Option<f64>,
    /// Calls into the allocator a request, 64 requests in flight.
    pub allocations: Option<f64>,
    /// Processor time a request in microseconds, user's and kernel's, saturated.
    pub cpu_us: Option<f64>,
    /// Requests a second, saturated.
    pub rps: Option<f64>,
    /// Median latency at one connection and a low rate, less the same without a proxy.
    pub added_p50_us: Option<f64>,
    /// Latency at 64 connections and half of what this proxy can do.
    pub p99_us: Option<f64>,
    /// Resident memory with 1,000 idle connections, in MB of a million bytes.
    pub rss_mb: Option<f64>,
    /// Least and most over the rounds, by figure.
    pub spread: BTreeMap<String, [f64; 2]>,
    /// The same as `instructions`, one request in flight.
    pub instructions_one: Option<f64>,
    /// The same as `instructions`, 8 connections with 8 streams each.
    pub instructions_8x8: Option<f64>,
    /// All threads; the others work by the clock, which is slow below callgrind.
    pub instructions_all_threads: Option<f64>,
    /// System calls a request, one request in flight.
    pub syscalls_one: Option<f64>,
    /// System calls a request by name.
    pub syscall_names: BTreeMap<String, f64>,
    /// Latency at 64 connections and the same rate for all proxies.
    pub p99_same_rate_us: Option<f64>,
    /// That rate, in requests a second.
    pub same_rate: Option<f64>,
    /// Median latency at one connection and a low rate.
    pub p50_us: Option<f64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BodyRow {
    pub proxy: String,
    pub body: String,
    pub bytes: usize,
    pub instructions: Option<f64>,
    pub syscalls: Option<f64>,
    pub rps: Option<f64>,
    pub cpu_us: Option<f64>,
    pub spread: BTreeMap<String, [f64; 2]>,
}

/// Resident memory in MB of a million bytes; `pss` shares out what processes share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MemoryRow {
    pub proxy: String,
    pub case: String,
    pub connections: usize,
    pub rss_mb: Option<f64>,
    pub pss_mb: Option<f64>,
    /// How many connections it takes at most, where those are too many for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Failure {
    pub proxy: String,
    pub case: String,
    pub figure: String,
    pub reason: String,
}

impl Results {
    /// Reads a file; nothing where there is none, or one of another shape.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Takes memory's figure in the place of an earlier one.
    pub fn memory(&mut self, row: MemoryRow) {
        let is_same = |m: &MemoryRow| (&m.proxy, &m.case, m.connections) == (&row.proxy, &row.case, row.connections);
        self.memory.retain(|m| !is_same(m));
        self.memory.push(row);
    }

    /// Forgets what failed before among the figures that are measured anew: the timed ones, or the counted ones.
    pub fn anew(&mut self, proxy: &str, cases: &[Case], is_timed: bool) {
        const COUNTED: [&str; 4] = ["instructions", "allocations", "syscalls", "memory"];
        let is_chosen = |f: &Failure| f.case == "all" || cases.iter().any(|case| case.name() == f.case);
        let was_timed = |f: &Failure| !COUNTED.iter().any(|figure| f.figure.starts_with(figure));
        self.failures.retain(|f| f.proxy != proxy || !is_chosen(f) || was_timed(f) != is_timed);
    }

    /// Enters the body of 1 KB among the bodies: its figures are those of the case itself.
    fn repeat_small_bodies(&mut self) {
        let has_bodies = |row: &Row| Proxy::all().iter().any(|p| p.name == row.proxy && p.measured() == Measured::All);
        for row in self.rows.clone().into_iter().filter(|row| row.case == "h1" && has_bodies(row)) {
            let (instructions, syscalls, rps, cpu_us) = (row.instructions, row.syscalls, row.rps, row.cpu_us);
            let spread = row.spread.into_iter().filter(|(figure, _)| ["rps", "cpu_us"].contains(&figure.as_str()));
            let spread = spread.collect();
            if let Some(body) = self.body(&row.proxy, crate::bench::SMALL_BODY) {
                *body = BodyRow { instructions, syscalls, rps, cpu_us, spread, ..body.clone() };
            }
        }
    }

    /// Puts all rows where they belong: as the cases and the proxies stand in their lists.
    fn sort(&mut self) {
        let proxy = |name: &str| Proxy::all().iter().position(|p| p.name == name).map_or(0, |at| at + 1);
        let case = |name: &str| Case::ALL.iter().position(|c| c.name() == name);
        self.rows.sort_by_key(|r| (case(&r.case), proxy(&r.proxy)));
        self.bodies.sort_by_key(|r| (r.bytes, proxy(&r.proxy)));
        self.memory.sort_by_key(|r| (proxy(&r.proxy), case(&r.case), r.connections));
        self.failures.sort_by_key(|r| (proxy(&r.proxy), case(&r.case), r.figure.clone()));
    }

    pub fn row(&mut self, proxy: &str, case: &str) -> Option<&mut Row> {
        if !self.rows.iter().any(|r| r.proxy == proxy && r.case == case) {
            self.rows.push(Row { proxy: proxy.into(), case: case.into(), ..Row::default() });
        }
        self.rows.iter_mut().find(|r| r.proxy == proxy && r.case == case)
    }

    pub fn body(&mut self, proxy: &str, (body, bytes): (&str, usize)) -> Option<&mut BodyRow> {
        if !self.bodies.iter().any(|r| r.proxy == proxy && r.body == body) {
            self.bodies.push(BodyRow { proxy: proxy.into(), body: body.into(), bytes, ..BodyRow::default() });
        }
        self.bodies.iter_mut().find(|r| r.proxy == proxy && r.body == body)
    }

    /// Takes a figure, or says why there is none.
    pub fn take<T>(&mut self, (proxy, case, figure): (&str, &str, &str), got: Fallible<T>) -> Option<T> {
        match got {
            Ok(value) => Some(value),
            Err(error) => {
                let reason = error.to_string();
                eprintln!("peers: {proxy} {case} {figure}: {reason}");
                let (proxy, case, figure) = (proxy.to_owned(), case.to_owned(), figure.to_owned());
                // A round's failure comes again in the next one: the first says enough.
                if !self.failures.iter().any(|f| f.proxy == proxy && f.case == case && f.figure == figure) {
                    self.failures.push(Failure { proxy, case, figure, reason });
                }
                None
            }
        }
    }

    /// Writes `results.json`, rows by case and then as the proxies stand in the list.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, file: &Path) -> Fallible<()> {
        self.repeat_small_bodies();
        self.sort();
        let mut text = serde_json::to_string_pretty(&rounded(serde_json::to_value(&*self)?))?;
        text.push('\n');
        Ok(std::fs::write(file, text)?)
    }
}

/// The value with its fractions cut to what they are worth.
fn rounded(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().unwrap_or_default();
            let digits = if exact.abs() >= 1000.0 { 1.0 } else { 1000.0 };
            let short = (exact * digits).round() / digits;
            if short.fract() == 0.0 { Value::from(short as i64) } else { Value::from(short) }
        }
        Value::Array(values) => Value::Array(values.into_iter().map(rounded).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, rounded(v))).collect()),
        other => other,
    }
}

/// The share of all cores that is busy now, watched for two seconds.
pub fn busy_now() -> f64 {
    let before = crate::process::busy_ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    crate::process::busy_since(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_anew_replaces_what_was_found_and_leaves_the_rest() {
        let mut results = Results::default();
        let memory = |connections, rss_mb| MemoryRow {
            proxy: "nginx".into(),
            case: "h1".into(),
            connections,
            rss_mb: Some(rss_mb),
            ..MemoryRow::default()
        };
        [memory(0, 1.0), memory(1000, 2.0), memory(1000, 3.0)].into_iter().for_each(|row| results.memory(row));
        assert_eq!(results.memory.iter().map(|m| m.rss_mb).collect::<Vec<_>>(), [Some(1.0), Some(3.0)]);

        for (case, figure) in [("h1", "syscalls"), ("h1", "timed"), ("h2c-h1", "syscalls"), ("all", "instructions")] {
            results.take(("nginx", case, figure), Err::<(), _>("no".into()));
        }
        results.anew("nginx", &[Case::Http1], false);
        let left: Vec<_> = results.failures.iter().map(|f| (f.case.as_str(), f.figure.as_str())).collect();
        assert_eq!(left, [("h1", "timed"), ("h2c-h1", "syscalls")]);
    }

    #[test]
    fn the_file_that_is_written_is_the_file_that_is_read() {
        let folder = std::env::temp_dir().join(format!("peers-results-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("results.json");
        let mut results = Results { commit: "abc".into(), ..Results::default() };
        results.row("nginx", "h1").unwrap().instructions = Some(20_000.0);
        results.runs.push(Run { busy_with_others: vec![0.01], ..Run::default() });
        results.write(&file).unwrap();
        let read = Results::read(&file).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read.rows.first().and_then(|row| row.instructions), Some(20_000.0));
        assert_eq!(read.bodies.first().map(|body| body.body.as_str()), Some("1k"));
        assert!(read.runs.iter().all(Run::was_quiet));
    }
}
