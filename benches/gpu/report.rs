//! What was measured, as `results.json` and `RESULTS.md` hold it.

use super::Error;
use serde::Serialize;
use std::fmt::{self, Write};
use std::path::Path;
use std::process::Command;

/// One mesh on one device.
#[derive(Debug, Serialize)]
pub struct Row {
    pub device: String,
    pub nodes: usize,
    pub links: usize,
    /// The first inference of the mesh, which takes edges and paths to the device, too.
    pub first_ms: f64,
    pub median_ms: f64,
    pub least_ms: f64,
    pub most_ms: f64,
    pub inferences: usize,
}

impl Row {
    /// Of an inference's times in milliseconds, the first one's first.
    pub fn new(device: &str, (nodes, links): (usize, usize), times_ms: Vec<f64>) -> Self {
        let mut times = times_ms.into_iter();
        let first_ms = times.next().unwrap_or(f64::NAN);
        let mut rest: Vec<f64> = times.collect();
        rest.sort_by(f64::total_cmp);
        let at = |place: usize| rest.get(place).copied().unwrap_or(f64::NAN);
        Self {
            device: device.into(),
            nodes,
            links,
            first_ms,
            median_ms: at(rest.len() / 2),
            least_ms: at(0),
            most_ms: at(rest.len().saturating_sub(1)),
            inferences: rest.len(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, nodes, links, first_ms, median_ms, least_ms, most_ms, inferences } = self;
        write!(
            f,
            "{nodes} nodes, {links} links on {device}: {median_ms:.2} ms ({least_ms:.2} to {most_ms:.2} of {inferences}), the first {first_ms:.2} ms"
        )
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The commit that was measured, with `+` when the working tree differed from it.
    commit: String,
    machine: Machine,
    engines: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    /// None when the driver's tool is not there.
    gpu: Option<String>,
}

impl Results {
    pub fn new(engines: Vec<String>, rows: Vec<Row>) -> Self {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
        let differs = said("git", &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let machine = Machine {
            processor: processor.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            gpu: said("nvidia-smi", &["--query-gpu=name,driver_version", "--format=csv,noheader"]),
        };
        Self { commit: commit + if differs { "+" } else { "" }, machine, engines, rows }
    }

    /// Writes both files.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(folder.join("RESULTS.md"), self.page()?)?;
        Ok(())
    }

    fn page(&self) -> Result<String, fmt::Error> {
        let Machine { processor, cores, gpu } = &self.machine;
        let mut page = String::from("# Inference on a GPU and on the CPU\n\nWritten by `make bench-gpu`");
        writeln!(
            page,
            " at commit `{}` on {processor}, {cores} cores, {}.",
            self.commit,
            gpu.as_deref().unwrap_or("no GPU")
        )?;
        writeln!(
            page,
            "{}. The CPU with one thread. Transfers are included: features to the device, answers back.\n",
            self.engines.join("; ")
        )?;
        writeln!(
            page,
            "| device | nodes | links | median, ms | least to most, ms | inferences | the first of a mesh, ms |"
        )?;
        writeln!(page, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for r in &self.rows {
            writeln!(
                page,
                "| {} | {} | {} | {:.2} | {:.2} to {:.2} | {} | {:.2} |",
                r.device, r.nodes, r.links, r.median_ms, r.least_ms, r.most_ms, r.inferences, r.first_ms
            )?;
        }
        if gpu.is_none() {
            page += "\nNo GPU was at hand: its half is missing.\n";
        }
        Ok(page)
    }
}
