//! What was measured, as `results.json`, `RESULTS.md` and two plots hold it.

use crate::members::Membership;
use crate::reports::{Cost, Way};
use pathloom_benches::host::{Machine, commit, machine};
use pathloom_models::plot::{Axis, Series, lines};
use serde::Serialize;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;

/// A figure over the nodes that were looked at.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    fn of(costs: &[Cost], figure: impl Fn(&Cost) -> f64) -> Self {
        let mut all: Vec<f64> = costs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        let at = |place: usize| all.get(place).copied().unwrap_or(f64::NAN);
        Self { median: at(all.len() / 2), least: at(0), most: at(all.len().saturating_sub(1)) }
    }

    fn text(self, scale: f64, digits: usize) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(|v| format!("{:.digits$}", v * scale));
        format!("{median} ({least} to {most})")
    }
}

/// A mesh of some size.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    nodes: usize,
    way: Way,
    /// How many calls away a node wants to hear of; 0 is everything.
    hops: usize,
    /// How many it does hear of.
    hops_heard: Figure,
    nodes_looked_at: usize,
    links: Figure,
    hearers: Figure,
    bytes_per_second: Figure,
    heard_bytes_per_second: Figure,
    /// The most bytes in any second of any node.
    most_bytes_in_a_second: usize,
    telling_cpu_ms_per_second: Figure,
    hearing_cpu_ms_per_second: Figure,
    told_within_7_s: Figure,
}

impl Row {
    pub fn new(nodes: usize, way: Way, hops: usize, costs: &[Cost]) -> Self {
        Self {
            nodes,
            way,
            hops,
            hops_heard: Figure::of(costs, |c| c.hops as f64),
            nodes_looked_at: costs.len(),
            links: Figure::of(costs, |c| c.links as f64),
            hearers: Figure::of(costs, |c| c.hearers as f64),
            bytes_per_second: Figure::of(costs, |c| c.bytes_per_second),
            heard_bytes_per_second: Figure::of(costs, |c| c.heard_per_second),
            most_bytes_in_a_second: costs.iter().map(|c| c.most_bytes).max().unwrap_or(0),
            telling_cpu_ms_per_second: Figure::of(costs, |c| c.telling_ms),
            hearing_cpu_ms_per_second: Figure::of(costs, |c| c.hearing_ms),
            told_within_7_s: Figure::of(costs, |c| c.told),
        }
    }

    fn markdown(&self) -> String {
        let hops = if self.hops == 0 { "all".to_owned() } else { format!("{:.0}", self.hops_heard.median) };
        format!(
            "| {} | {} | {hops} | {:.0} | {:.0} | {} | {:.1} | {:.0} | {} | {} | {} |",
            self.nodes,
            if self.way == Way::Gossip { "gossip" } else { "NATS" },
            self.links.median,
            self.hearers.median,
            self.bytes_per_second.text(1.0 / 1024.0, 1),
            self.most_bytes_in_a_second as f64 / 1024.0,
            self.heard_bytes_per_second.median / 1024.0,
            self.telling_cpu_ms_per_second.text(1.0, 1),
            self.hearing_cpu_ms_per_second.text(1.0, 1),
            self.told_within_7_s.text(100.0, 0),
        )
    }
}

/// Who is there, in a mesh of some size.
#[derive(Debug, Clone, Serialize)]
pub struct Members {
    nodes: usize,
    /// None where they do not find each other within the budget.
    found: Option<Found>,
}

#[derive(Debug, Clone, Serialize)]
struct Found {
    bytes_per_second: f64,
    least: f64,
    most: f64,
    cpu_ms_per_second: f64,
}

impl Members {
    pub fn new(nodes: usize, found: Option<Membership>) -> Self {
        let found = found.map(|m| Found {
            bytes_per_second: m.bytes_per_second,
            least: m.spread.0,
            most: m.spread.1,
            cpu_ms_per_second: m.cpu_ms,
        });
        Self { nodes, found }
    }

    fn markdown(&self) -> String {
        match &self.found {
            Some(f) => format!(
                "| {} | {:.1} ({:.1} to {:.1}) | {:.1} |",
                self.nodes,
                f.bytes_per_second / 1024.0,
                f.least / 1024.0,
                f.most / 1024.0,
                f.cpu_ms_per_second
            ),
            None => format!("| {} | they do not all find each other within the budget | |", self.nodes),
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Results {
    /// What wrote this.
    command: &'static str,
    /// The commit that was measured, with `+` when its sources differed from it.
    commit: String,
    machine: Machine,
    budget_bytes_per_second: u64,
    seconds: u64,
    reports: Vec<Row>,
    members: Vec<Members>,
}

impl Results {
    pub fn new(budget: u64, reports: Vec<Row>, members: Vec<Members>) -> Self {
        Self {
            command: "make bench-sharing",
            commit: commit(),
            machine: machine(),
            budget_bytes_per_second: budget,
            seconds: crate::reports::SECONDS - crate::reports::WARM_UP,
            reports,
            members,
        }
    }

    /// Writes all files.
    pub fn write(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(folder.join("RESULTS.md"), self.page()?)?;
        let axis = || Axis::logarithmic("nodes in the mesh");
        let of = |near: bool, nats: bool, value: &dyn Fn(&Row) -> f64| -> Vec<(f64, f64)> {
            let rows = self.reports.iter().filter(|row| (row.hops > 0) == near && (row.way != Way::Gossip) == nats);
            rows.map(|row| (row.nodes as f64, value(row))).collect()
        };
        let sent = |row: &Row| row.bytes_per_second.median / 1024.0;
        let heard = |row: &Row| row.heard_bytes_per_second.median / 1024.0;
        let cpu = |row: &Row| row.telling_cpu_ms_per_second.median + row.hearing_cpu_ms_per_second.median;
        let ends = [10.0, 10_000.0].map(|nodes| (nodes, self.budget_bytes_per_second as f64 / 1024.0));
        let members = self.members.iter();
        let members = members.filter_map(|m| Some((m.nodes as f64, m.found.as_ref()?.bytes_per_second / 1024.0)));
        lines(
            &folder.join("sharing.svg"),
            "What a node sends and hears",
            axis(),
            Axis::logarithmic("KiB a second, one node"),
            &[
                Series::new("gossip: 5 calls away", of(true, false, &sent)),
                Series::new("gossip: everything", of(false, false, &sent)),
                Series::new("gossip: who is there", members.collect()),
                Series::new("NATS: sent", of(true, true, &sent)),
                Series::new("NATS: heard", of(true, true, &heard)),
                Series::new("the budget to send", ends.to_vec()),
            ],
        )?;
        lines(
            &folder.join("sharing-cpu.svg"),
            "What telling and hearing takes",
            axis(),
            Axis::logarithmic("processor time, ms a second, one node"),
            &[
                Series::new("gossip: 5 calls away", of(true, false, &cpu)),
                Series::new("gossip: everything", of(false, false, &cpu)),
                Series::new("NATS", of(true, true, &cpu)),
            ],
        )?;
        Ok(())
    }

    fn page(&self) -> Result<String, std::fmt::Error> {
        let Machine { processor, cores, .. } = &self.machine;
        let mut page = String::from("# What sharing links costs a node\n\n");
        writeln!(
            page,
            "Written by `make bench-sharing` at commit `{}` on {processor}, {cores} cores. The median of the nodes that were looked at, least \
             and most in brackets; {} s of each after {} s of beginning. A node runs three instances that call nine services of six instances, \
             each link a few times a second, with latencies that change all the time: there is always something to tell. The budget is {} KiB a second.\n",
            self.commit,
            self.seconds,
            crate::reports::WARM_UP,
            self.budget_bytes_per_second / 1024
        )?;
        writeln!(page, "## Reports\n")?;
        writeln!(
            page,
            "In one process, over the sidecar's own teller, encoder, seal and meter. *Hops* is how many calls away a node hears (5 are asked for); *hearers* are \
             the other nodes that want to hear of some of the links, at 5; *most* is the most that any node sends in any second; *told* is the share of all \
             that others want which they were told in the last 7 s, after which it would be forgotten. Processor time of one core, to tell, and to hear. By \
             gossip each report goes to each who wants it, and a node hears on the average as much as it sends; by NATS it goes once to a server, \
             and what a node hears is the sum over all pairs of services near to it, bounded by `mesh.nats.hear`: where there is more, the node hears of what is nearer.\n"
        )?;
        writeln!(
            page,
            "| nodes | way | hops | links | hearers | KiB/s sent | most, KiB | KiB/s heard | telling, ms/s | hearing, ms/s | told, % |"
        )?;
        writeln!(page, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for row in &self.reports {
            writeln!(page, "{}", row.markdown())?;
        }
        writeln!(
            page,
            "\n![What a node sends and hears](sharing.svg)\n\n![What telling and hearing takes](sharing-cpu.svg)\n"
        )?;
        writeln!(page, "## Who is there\n")?;
        writeln!(
            page,
            "Gossip alone, as many members as there are, on loopback in one process. It sends all members' digest to three of them each second, so it \
             grows with their number, up to half of the budget.\n"
        )?;
        writeln!(page, "| nodes | KiB/s sent | processor time, ms/s |\n| --- | --- | --- |")?;
        for row in &self.members {
            writeln!(page, "{}", row.markdown())?;
        }
        Ok(page)
    }
}
