//! What is measured, as `results.json` holds it.

use crate::Fallible;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The commit that was measured, with `+` when the working tree differed from it.
    pub commit: String,
    pub machine: Machine,
    pub date: String,
    pub command: String,
    pub rounds: usize,
    /// Share of both cores that was busy in each round, the comparison's own part included.
    pub busy: Vec<f64>,
    /// What each program says of its version.
    pub versions: BTreeMap<String, String>,
    pub rows: Vec<Row>,
    /// What bodies of other sizes cost, HTTP/1.1 on both sides.
    pub bodies: Vec<BodyRow>,
    pub memory: Vec<MemoryRow>,
    /// What could not be measured, or went wrong while it was.
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub kernel: String,
    /// Share of both cores that was busy just before the measurement began.
    pub busy_before: f64,
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
    /// `p99_us` less the same without a proxy.
    pub added_p99_us: Option<f64>,
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
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Failure {
    pub proxy: String,
    pub case: String,
    pub figure: String,
    pub reason: String,
}

impl Results {
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
    pub fn write(&self, file: &Path) -> Fallible<()> {
        let mut text = serde_json::to_string_pretty(&rounded(serde_json::to_value(self)?))?;
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

/// The first line that a command prints, or nothing.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// The machine as it stands.
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    let before = crate::process::busy_ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gb: (kib * 1024.0 / 1e9).round(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        busy_before: crate::process::busy_since(before),
    }
}
