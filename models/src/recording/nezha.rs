//! Recordings of the windows that were computed from Nezha's traces (IntelligentDDS/Nezha; `data/README.md`).
//!
//! One recording for each application and day, with the data's own times: between two trace files that do not follow each
//! other windows are missing, so nothing is joined that was apart, while a window that two files share is put together
//! again (means and percentiles by their counts). Nodes are pods, databases are nodes of their own, `USER` is the users.
//! Calls and latencies are those of the caller's side. The data has a 95th percentile and no 90th: that is interpolated as
//! a log-normal's, `p50 (p95 / p50)^(1.2816 / 1.6449)`. Failures are not in
//! the data and are written as none. Each minute's CPU, memory and workload of a
//! pod is known from its time stamp on.

use crate::{Error, Result};
use flate2::read::GzDecoder;
use pathloom::record::{LinkRow, Meta, NodeRow, Writer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// The windows that the data has, in seconds.
pub const WINDOWS_S: [u32; 2] = [10, 60];
/// The normal distribution's 90% and 95% quantiles, one by the other.
const P90_BY_P95: f64 = 1.281_55 / 1.644_85;

/// An application of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum App {
    /// OnlineBoutique.
    #[value(name = "OB")]
    OnlineBoutique,
    /// TrainTicket.
    #[value(name = "TT")]
    TrainTicket,
}

impl App {
    /// All of them.
    pub const ALL: [App; 2] = [App::OnlineBoutique, App::TrainTicket];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            App::OnlineBoutique => "OnlineBoutique",
            App::TrainTicket => "TrainTicket",
        }
    }

    fn short(self) -> &'static str {
        match self {
            App::OnlineBoutique => "OB",
            App::TrainTicket => "TT",
        }
    }
}

/// A recording that was written, and its links that are calls from service to service.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its folder.
    pub folder: PathBuf,
    /// The links that are remote calls: not into databases, not the users'.
    pub remote: BTreeSet<(String, String)>,
}

#[derive(Debug, Clone, Deserialize)]
struct Edge {
    edge: u32,
    app: String,
    day: String,
    caller: String,
    caller_pod: String,
    callee: String,
    callee_pod: String,
    kind: String,
}

#[derive(Debug, Deserialize)]
struct EdgeWindow {
    edge: u32,
    win_start_ts: i64,
    n: u64,
    lat_mean: Option<f64>,
    lat_p50: Option<f64>,
    lat_p95: Option<f64>,
    lat_p99: Option<f64>,
    jitter_mad: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Metric {
    app: String,
    day: String,
    #[serde(rename = "TimeStamp")]
    at: i64,
    #[serde(rename = "PodName")]
    pod: String,
    #[serde(rename = "CpuUsageRate_pct")]
    cpu: Option<f64>,
    #[serde(rename = "MemoryUsageRate_pct")]
    memory: Option<f64>,
    #[serde(rename = "PodWorkload_Ops")]
    rate: Option<f64>,
}

/// A figure that is a mean by counts; unknown parts do not count.
#[derive(Debug, Clone, Copy, Default)]
struct Mean(f64, f64);

impl Mean {
    fn add(&mut self, value: Option<f64>, count: u64) {
        if let Some(value) = value.filter(|v| v.is_finite() && *v >= 0.0) {
            *self = Mean(self.0 + value * count as f64, self.1 + count as f64);
        }
    }

    fn value(self) -> Option<f64> {
        (self.1 > 0.0).then(|| self.0 / self.1)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    calls: u64,
    mean: Mean,
    p50: Mean,
    p95: Mean,
    p99: Mean,
    jitter: Mean,
}

/// Writes one application's recordings into folders below `out`; returns them in the order of their days.
///
/// # Errors
/// When the data is not there or is something else, or a recording cannot be written.
pub fn import(data: &Path, app: App, window_s: u32, out: &Path) -> Result<Vec<Imported>> {
    if !WINDOWS_S.contains(&window_s) {
        return Err(Error::Format(format!("the data has windows of 10 and 60 seconds, not of {window_s}")));
    }
    let folder = data.join("nezha");
    if !folder.is_dir() {
        let message = "is not there; give the folder of the public data with `--data` (`nezha/` is a part of it)";
        return Err(Error::Format(format!("{}: {message}", folder.display())));
    }
    let edges: Vec<Edge> = rows(&folder.join("edges.csv"))?;
    let edges: BTreeMap<u32, Edge> = edges.into_iter().filter(|e| e.app == app.short()).map(|e| (e.edge, e)).collect();
    let windows: Vec<EdgeWindow> = rows(&folder.join(format!("edge_windows_{window_s}s.csv.gz")))?;
    let metrics: Vec<Metric> = rows(&folder.join("instance_metrics_60s.csv.gz"))?;
    let days: BTreeSet<&str> = edges.values().map(|e| e.day.as_str()).collect();
    let mut imported = Vec::new();
    for day in days {
        let of_day: BTreeMap<u32, &Edge> = edges.iter().filter(|(_, e)| e.day == day).map(|(i, e)| (*i, e)).collect();
        let name = format!("nezha-{}-{day}-{window_s}s", app.short().to_lowercase());
        let folder = out.join(&name);
        let mut writer = Writer::create(&folder, &Meta { name, window_seconds: f64::from(window_s) })?;
        let mut sums: BTreeMap<i64, BTreeMap<(&str, &str), Sums>> = BTreeMap::new();
        for row in &windows {
            let Some(edge) = of_day.get(&row.edge) else { continue };
            let sum = sums.entry(row.win_start_ts).or_default().entry((&edge.caller_pod, called(edge))).or_default();
            sum.calls += row.n;
            sum.mean.add(row.lat_mean, row.n);
            sum.p50.add(row.lat_p50, row.n);
            sum.p95.add(row.lat_p95, row.n);
            sum.p99.add(row.lat_p99, row.n);
            sum.jitter.add(row.jitter_mad, row.n);
        }
        let mut services: BTreeMap<&str, &str> = BTreeMap::new();
        for edge in of_day.values() {
            services.entry(&edge.caller_pod).or_insert(&edge.caller);
            services.entry(called(edge)).or_insert(&edge.callee);
        }
        let length = i64::from(window_s);
        let mut reports: BTreeMap<(i64, &str), &Metric> = BTreeMap::new();
        for metric in metrics.iter().filter(|m| m.app == app.short() && m.day == day) {
            reports.insert((metric.at.div_euclid(length) * length, &metric.pod), metric);
        }
        for (start, links) in &sums {
            write(&mut writer, *start, links, &services, &reports)?;
        }
        writer.finish()?;
        let remote = of_day.values().filter(|e| e.kind == "rpc");
        let remote = remote.map(|e| (e.caller_pod.clone(), called(e).to_owned())).collect();
        imported.push(Imported { folder, remote });
    }
    Ok(imported)
}

fn write(
    writer: &mut Writer,
    start: i64,
    links: &BTreeMap<(&str, &str), Sums>,
    services: &BTreeMap<&str, &str>,
    reports: &BTreeMap<(i64, &str), &Metric>,
) -> Result<()> {
    let named: BTreeSet<&str> = links.keys().flat_map(|(a, b)| [*a, *b]).collect();
    let share = |percent: Option<f64>| percent.map(|p| (p / 100.0).clamp(0.0, 1.0));
    let mut node_rows: Vec<NodeRow<'_>> = Vec::new();
    for node in named {
        let report = reports.get(&(start, node));
        node_rows.push(NodeRow {
            node,
            service: services.get(node).copied().unwrap_or_default(),
            zone: "",
            cpu_utilization: share(report.and_then(|r| r.cpu)),
            memory_utilization: share(report.and_then(|r| r.memory)),
            requests_per_second: report.and_then(|r| r.rate).filter(|r| *r >= 0.0),
            in_flight: None,
        });
    }
    let link_rows: Vec<LinkRow<'_>> = links
        .iter()
        .map(|((source, destination), s)| {
            let (p50, p95) = (s.p50.value(), s.p95.value());
            let p90 = p50.zip(p95).filter(|(p50, _)| *p50 > 0.0).map(|(p50, p95)| p50 * (p95 / p50).powf(P90_BY_P95));
            LinkRow {
                source,
                destination,
                calls: s.calls,
                errors: 0,
                latency_mean_ms: s.mean.value(),
                latency_p50_ms: p50,
                latency_p90_ms: p90,
                latency_p99_ms: s.p99.value(),
                jitter_ms: s.jitter.value(),
            }
        })
        .collect();
    Ok(writer.window(start as f64, &node_rows, &link_rows)?)
}

/// The called node: databases have no pod of their own in the data.
fn called(edge: &Edge) -> &str {
    if edge.callee_pod == "DB" { &edge.callee } else { &edge.callee_pod }
}

fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = BufReader::new(File::open(path).map_err(Error::at(path))?);
    let input: Box<dyn Read> =
        if path.extension().is_some_and(|e| e == "gz") { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let wrong =
        |e: csv::Error| Error::Format(format!("{}: {e}; is this the data of `data/README.md`?", path.display()));
    csv::Reader::from_reader(input).deserialize().collect::<std::result::Result<_, _>>().map_err(wrong)
}
