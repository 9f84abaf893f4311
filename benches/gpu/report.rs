//! What was measured, as `results.json` and `RESULTS.md` hold it.

use super::Error;
use pathloom_benches::host::{Machine, commit, first_line, machine};
use serde::Serialize;
use std::fmt::{self, Write};
use std::path::Path;

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
    /// The commit that was measured, with `+` when its sources differed from it.
    commit: String,
    machine: Machine,
    /// None when the driver's tool is not there.
    gpu: Option<String>,
    engines: Vec<String>,
    rows: Vec<Row>,
}

impl Results {
    pub fn new(engines: Vec<String>, rows: Vec<Row>) -> Self {
        let gpu = first_line("nvidia-smi", &["--query-gpu=name,driver_version", "--format=csv,noheader"]);
        Self { commit: commit(), machine: machine(), gpu: Some(gpu).filter(|g| !g.is_empty()), engines, rows }
    }

    /// Writes both files.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(folder.join("RESULTS.md"), self.page()?)?;
        Ok(())
    }

    fn page(&self) -> Result<String, fmt::Error> {
        let (Machine { processor, cores, .. }, gpu) = (&self.machine, &self.gpu);
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
