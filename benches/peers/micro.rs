//! The microbenchmarks' figures: from where criterion left them to `benches/results.json`.
//!
//! `make bench` may run some of the benchmarks only; theirs take the place of what was known at the same commit. Where the
//! file is of another commit, a part is printed and not written: one file holds the figures of one commit.

use crate::Fallible;
use crate::table::number;
use pathloom_benches::host::{Machine, commit, first_line, machine};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Where criterion writes.
    #[arg(long, default_value = "target/criterion")]
    criterion: PathBuf,
    /// Only what was measured after this file was written.
    #[arg(long)]
    since: Option<PathBuf>,
    /// All benchmarks were run: nothing of before is kept.
    #[arg(long)]
    whole: bool,
    #[arg(long, default_value = "benches/results.json")]
    out: PathBuf,
    /// The page whose section on performance is written, too.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Micro {
    pub commit: String,
    pub machine: Machine,
    pub date: String,
    pub rows: Vec<MicroRow>,
}

/// One benchmark: criterion's estimate of the median, with its confidence interval of 95%.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MicroRow {
    pub group: String,
    pub function: Option<String>,
    /// Endpoints, nodes or routes, mostly.
    pub size: Option<String>,
    pub median_ns: f64,
    pub low_ns: f64,
    pub high_ns: f64,
}

impl Micro {
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    pub fn median_ns(&self, group: &str, function: Option<&str>, size: Option<&str>) -> Option<f64> {
        let is_it =
            |r: &&MicroRow| (r.group.as_str(), r.function.as_deref(), r.size.as_deref()) == (group, function, size);
        self.rows.iter().find(is_it).map(|row| row.median_ns)
    }

    /// Puts new figures in the place of old ones.
    fn take(&mut self, rows: Vec<MicroRow>) {
        let key = |r: &MicroRow| (r.group.clone(), r.function.clone(), r.size.clone());
        self.rows.retain(|old| rows.iter().all(|new| key(new) != key(old)));
        self.rows.extend(rows);
        let size = |r: &MicroRow| r.size.as_ref().and_then(|size| size.parse::<u64>().ok());
        self.rows.sort_by(|a, b| (&a.group, &a.function, size(a)).cmp(&(&b.group, &b.function, size(b))));
    }

    /// A table with a line for each benchmark, its sizes beside each other.
    pub fn table(&self) -> String {
        let mut table = "| benchmark | median (95% of its estimates), by size |\n| --- | --- |\n".to_owned();
        for lines in self.rows.chunk_by(|a, b| (&a.group, &a.function) == (&b.group, &b.function)) {
            let Some(first) = lines.first() else { continue };
            let cells = lines.iter().map(|row| {
                let size = row.size.as_ref().and_then(|size| size.parse::<f64>().ok());
                let size = size.map(|size| format!("{}: ", number(Some(size), 0))).unwrap_or_default();
                format!("{size}{} ({} to {})", time(row.median_ns), time(row.low_ns), time(row.high_ns))
            });
            let name = match &first.function {
                Some(function) => format!("{}, {function}", first.group),
                None => first.group.clone(),
            };
            let cells = cells.collect::<Vec<_>>().join("; ");
            // Writing into a string cannot fail.
            let _ = writeln!(table, "| {name} | {cells} |");
        }
        table
    }
}

/// Reads what criterion measured and writes it.
///
/// # Errors
/// When there is nothing to read, or a file cannot be written.
pub fn run(options: &Options) -> Fallible<()> {
    let since = options.since.as_ref().map(|file| std::fs::metadata(file)?.modified()).transpose()?;
    let mut rows = Vec::new();
    collect(&options.criterion, since, &mut rows)?;
    if rows.is_empty() {
        return Err(format!("{} holds no new figures: was a benchmark run?", options.criterion.display()).into());
    }
    let date = first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let mut micro = Micro { commit: commit(), machine: machine(), date, rows: Vec::new() };
    let before = Micro::read(&options.out);
    let is_ours = before.as_ref().is_none_or(|before| before.commit == micro.commit);
    if let Some(before) = before.filter(|_| is_ours && !options.whole) {
        micro.rows = before.rows;
    }
    micro.take(rows);
    print!("{}", micro.table());
    if !is_ours && !options.whole {
        let out = options.out.display();
        eprintln!("peers: {out} is of another commit and stays; `make bench` without ARGS writes it anew");
        return Ok(());
    }
    std::fs::write(&options.out, serde_json::to_string_pretty(&micro)? + "\n")?;
    crate::readme::write(&options.readme)
}

/// The parts of criterion's files that matter (`new/benchmark.json` and `new/estimates.json`).
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

fn collect(folder: &Path, since: Option<SystemTime>, rows: &mut Vec<MicroRow>) -> Fallible<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let file = path.join("estimates.json");
        if path.file_name().is_none_or(|name| name != "new") {
            collect(&path, since, rows)?;
            continue;
        }
        let Ok(written) = std::fs::metadata(&file).and_then(|file| file.modified()) else { continue };
        if since.is_some_and(|since| written < since) {
            continue;
        }
        let benchmark: Benchmark = serde_json::from_slice(&std::fs::read(path.join("benchmark.json"))?)?;
        let Estimates { median } = serde_json::from_slice(&std::fs::read(file)?)?;
        let round = |ns: f64| (ns * 100.0).round() / 100.0;
        rows.push(MicroRow {
            group: benchmark.group_id,
            function: benchmark.function_id,
            size: benchmark.value_str,
            median_ns: round(median.point_estimate),
            low_ns: round(median.confidence_interval.lower_bound),
            high_ns: round(median.confidence_interval.upper_bound),
        });
    }
    Ok(())
}

/// A time with three digits.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        0.0..1e3 => (ns, "ns"),
        1e3..1e6 => (ns / 1e3, "us"),
        _ => (ns / 1e6, "ms"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{} {unit}", number(Some(value), digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, size: &str, median_ns: f64) -> MicroRow {
        MicroRow { group: group.into(), size: Some(size.into()), median_ns, ..MicroRow::default() }
    }

    #[test]
    fn what_criterion_measured_is_read_wherever_it_lies() {
        let folder = std::env::temp_dir().join(format!("peers-micro-{}", std::process::id()));
        let new = folder.join("pick/Model/1000/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(new.join("benchmark.json"), r#"{"group_id":"pick","function_id":"Model","value_str":"1000"}"#)
            .unwrap();
        let estimates = r#"{"mean":{},"median":{"confidence_interval":{"confidence_level":0.95,"lower_bound":39.0,
            "upper_bound":43.0},"point_estimate":41.237,"standard_error":0.1}}"#;
        std::fs::write(new.join("estimates.json"), estimates).unwrap();
        let (mut rows, mut later) = (Vec::new(), Vec::new());
        collect(&folder, None, &mut rows).unwrap();
        let next_hour = SystemTime::now() + std::time::Duration::from_secs(3600);
        collect(&folder, Some(next_hour), &mut later).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let micro = Micro { rows, ..Micro::default() };
        assert_eq!(micro.median_ns("pick", Some("Model"), Some("1000")), Some(41.24));
        assert!(later.is_empty(), "what was there before this run is not of this run");
        assert!(
            micro.table().ends_with("| pick, Model | 1,000: 41.2 ns (39.0 ns to 43.0 ns) |\n"),
            "{}",
            micro.table()
        );
    }

    #[test]
    fn a_part_that_was_measured_anew_replaces_only_itself() {
        let mut micro = Micro { rows: vec![row("pick", "2", 30.0), row("tick", "100", 1e6)], ..Micro::default() };
        micro.take(vec![row("pick", "1000", 50.0), row("pick", "2", 35.0)]);
        let medians: Vec<f64> = micro.rows.iter().map(|row| row.median_ns).collect();
        assert_eq!(medians, [35.0, 50.0, 1e6]);
    }
}
