//! `RESULTS.md`: the figures as tables, their ratios, and each target judged by them.

use crate::Fallible;
use crate::bench::{Case, Proxy};
use crate::results::{BodyRow, Results, Row};
use crate::table::{Figure, held, is_rival, number, rows, title};
use std::fmt::Write;
use std::path::Path;

/// Writes the page beside `results.json`, from what is there.
///
/// # Errors
/// When there are no results of this shape, or the page cannot be written.
pub fn write(folder: &Path) -> Fallible<()> {
    let results = folder.join("results.json");
    let read = Results::read(&results).ok_or_else(|| format!("{} holds no results", results.display()))?;
    Ok(std::fs::write(folder.join("RESULTS.md"), markdown(&read))?)
}

/// The whole page.
pub fn markdown(results: &Results) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = head(&mut page, results)
        .and_then(|()| targets(&mut page, results))
        .and_then(|()| Case::ALL.iter().try_for_each(|case| table(&mut page, results, *case)))
        .and_then(|()| bodies(&mut page, results))
        .and_then(|()| memory(&mut page, results))
        .and_then(|()| failures(&mut page, results))
        .and_then(|()| method(&mut page));
    page
}

fn head(page: &mut String, results: &Results) -> std::fmt::Result {
    let machine = &results.machine;
    writeln!(
        page,
        "# Pathloom beside its peers\n\nWritten by `make bench-peers`; the figures are those of `results.json`.\n"
    )?;
    writeln!(page, "- Commit {}", results.commit)?;
    let (cores, memory) = (machine.cores, machine.memory_gb);
    writeln!(page, "- {cores} cores of {}, {memory} GB, Linux {}", machine.processor, machine.kernel)?;
    for (program, version) in &results.versions {
        writeln!(page, "- {program}: {version}")?;
    }
    writeln!(
        page,
        "\n| run | took | timed rounds | others took, before | in each round |\n| --- | --- | --- | --- | --- |"
    )?;
    for run in &results.runs {
        let percent = |share: f64| format!("{:.0}%", share * 100.0);
        let percents = |shares: &[f64]| shares.iter().map(|busy| percent(*busy)).collect::<Vec<_>>().join(", ");
        let mut rounds = percents(&run.busy_with_others);
        if !run.measured_again.is_empty() {
            rounds += &format!("; measured again, since it was {}", percents(&run.measured_again));
        }
        let (date, command, before) = (&run.date, &run.command, percent(run.busy_before));
        let minutes = number(Some(run.seconds / 60.0), 0);
        writeln!(page, "| {date}, `peers {command}` | {minutes} min | {} | {before} | {rounds} |", run.rounds)?;
    }
    if results.runs.iter().any(|run| run.rounds > 0 && !run.was_quiet()) {
        writeln!(
            page,
            "\n**The machine was busy with other work.** What is counted (instructions, system calls, allocations, memory) does \
             not mind; what is timed (CPU, throughput, latency) is not to be judged by."
        )?;
    }
    writeln!(page)
}

fn targets(page: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        page,
        "## Targets\n\nOf a rival's two configurations, as shipped and tuned, the better figure is the one to beat.\n"
    )?;
    crate::targets::table(page, results, None)
}

/// The columns of a case's table.
const COLUMNS: [(&str, Figure, usize); 11] = [
    ("instructions", |r| r.instructions, 0),
    ("with 1 connection", |r| r.instructions_one, 0),
    ("with 8 x 8 streams", |r| r.instructions_8x8, 0),
    ("system calls", |r| r.syscalls, 2),
    ("allocations", |r| r.allocations, 1),
    ("CPU us", |r| r.cpu_us, 1),
    ("requests/s", |r| r.rps, 0),
    ("added p50 us, 1 connection", |r| r.added_p50_us, 1),
    ("p99 us, half load", |r| r.p99_us, 0),
    ("p99 us, same rate", |r| r.p99_same_rate_us, 0),
    ("MB, 1,000 connections", |r| r.rss_mb, 1),
];

fn table(page: &mut String, results: &Results, case: Case) -> std::fmt::Result {
    let (rows, title) = (rows(results, case), title(case));
    if rows.is_empty() {
        return Ok(());
    }
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, figure, _)| rows.iter().any(|r| figure(r).is_some())).collect();
    let names = columns.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" | ");
    writeln!(page, "## {title}\n\n| proxy | {names} |\n| --- |{}", " --- |".repeat(columns.len()))?;
    for row in &rows {
        let figures = columns.iter().map(|(_, figure, digits)| number(figure(row), *digits)).collect::<Vec<_>>();
        writeln!(page, "| {} | {} |", row.proxy, figures.join(" | "))?;
    }
    if let Some(rate) = rows.iter().find_map(|r| r.same_rate) {
        writeln!(page, "\nThe same rate is {} requests a second.", number(Some(rate), 0))?;
    }
    let Some(ours) = rows.iter().find(|r| r.proxy == "pathloom") else { return writeln!(page) };
    writeln!(
        page,
        "\nPathloom's figures divided by theirs:\n\n| rival | instructions | system calls | CPU | requests/s | p99, same rate | memory |"
    )?;
    writeln!(page, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for row in rows.iter().filter(|r| is_rival(&r.proxy)) {
        let ratio = |figure: Figure| number(figure(ours).zip(figure(row)).map(|(ours, theirs)| ours / theirs), 2);
        let (instructions, syscalls, cpu) = (ratio(|r| r.instructions), ratio(|r| r.syscalls), ratio(|r| r.cpu_us));
        let (rps, p99, memory) = (ratio(|r| r.rps), ratio(|r| r.p99_same_rate_us), ratio(|r| r.rss_mb));
        writeln!(page, "| {} | {instructions} | {syscalls} | {cpu} | {rps} | {p99} | {memory} |", row.proxy)?;
    }
    spreads(page, &rows)?;
    writeln!(page)
}

/// Least and most over the rounds.
fn spreads(page: &mut String, rows: &[&Row]) -> std::fmt::Result {
    const FIGURES: [(&str, usize); 4] = [("cpu_us", 1), ("rps", 0), ("added_p50_us", 1), ("p99_us", 0)];
    if rows.iter().all(|r| r.spread.is_empty()) {
        return Ok(());
    }
    writeln!(page, "\nLeast to most over the rounds:\n\n| proxy | CPU us | requests/s | added p50 us | p99 us |")?;
    writeln!(page, "| --- | --- | --- | --- | --- |")?;
    for row in rows {
        let cells = FIGURES.iter().map(|(figure, digits)| match row.spread.get(*figure) {
            Some([least, most]) => format!("{} to {}", number(Some(*least), *digits), number(Some(*most), *digits)),
            None => String::new(),
        });
        writeln!(page, "| {} | {} |", row.proxy, cells.collect::<Vec<_>>().join(" | "))?;
    }
    Ok(())
}

fn bodies(page: &mut String, results: &Results) -> std::fmt::Result {
    if results.bodies.is_empty() {
        return Ok(());
    }
    writeln!(page, "## Bodies (`h1`)\n\n| proxy | body | instructions | system calls | requests/s | CPU us |")?;
    writeln!(page, "| --- | --- | --- | --- | --- | --- |")?;
    for row in &results.bodies {
        let (instructions, syscalls) = (number(row.instructions, 0), number(row.syscalls, 2));
        let (rps, cpu) = (spread_of(row, "rps", row.rps, 0), spread_of(row, "cpu_us", row.cpu_us, 1));
        writeln!(page, "| {} | {} | {instructions} | {syscalls} | {rps} | {cpu} |", row.proxy, row.body)?;
    }
    writeln!(page)
}

fn spread_of(row: &BodyRow, figure: &str, middle: Option<f64>, digits: usize) -> String {
    let least_to_most =
        |[least, most]: &[f64; 2]| format!(" ({} to {})", number(Some(*least), digits), number(Some(*most), digits));
    number(middle, digits) + &row.spread.get(figure).map(least_to_most).unwrap_or_default()
}

fn memory(page: &mut String, results: &Results) -> std::fmt::Result {
    if results.memory.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "## Memory\n\nResident, in MB of a million bytes, summed over a program's processes; in brackets with shared pages shared \
         out. Each idle connection has had one request.\n\n| proxy | just started | 1,000 (h1) | 10,000 (h1) | 1,000 (h2c-h1) | 1,000 (h2c-h2c) |"
    )?;
    writeln!(page, "| --- | --- | --- | --- | --- | --- |")?;
    for proxy in Proxy::all() {
        let cell = |case: &str, connections: usize| held(results, proxy.name, case, connections);
        if results.memory.iter().any(|m| m.proxy == proxy.name) {
            let cells = [("h1", 0), ("h1", 1000), ("h1", 10_000), ("h2c-h1", 1000), ("h2c-h2c", 1000)];
            let cells = cells.map(|(case, connections)| cell(case, connections)).join(" | ");
            writeln!(page, "| {} | {cells} |", proxy.name)?;
        }
    }
    writeln!(page)
}

fn failures(page: &mut String, results: &Results) -> std::fmt::Result {
    if results.failures.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "## What could not be measured, or failed\n\n| proxy | case | figure | why |\n| --- | --- | --- | --- |"
    )?;
    for failure in &results.failures {
        let reason = failure.reason.replace('|', "/");
        writeln!(page, "| {} | {} | {} | {reason} |", failure.proxy, failure.case, failure.figure)?;
    }
    writeln!(page)
}

fn method(page: &mut String) -> std::fmt::Result {
    write!(
        page,
        "## How it is measured\n\n\
         Four upstream endpoints and the load run on core 1, the proxy alone on core 0 with one serving thread; keep-alive on both \
         sides; access logs off for everybody. Pathloom chooses among five routes, keeps link statistics and metrics, starts traces, and \
         its model ticks and steers. The rivals have one route, count what their configuration counts, and run as shipped and as their \
         makers recommend tuning them (`proxies/`, with sources).\n\n\
         - **Instructions, allocations**: callgrind, the difference of two loads of 500 and 2,500 requests over 64 connections; the serving \
         thread's. Allocations are calls into the allocator by the names of its functions.\n\
         - **System calls**: `strace -f -c`, the difference of two loads of 2,000 and 12,000 requests; all threads.\n\
         - **CPU**: the kernel's account of all threads' run time over a saturated load.\n\
         - **Throughput**: 64 connections, each with one request in flight (closed loop).\n\
         - **Latency**: open loop at a constant rate, counted from when a request was meant to be sent. *Added* is less the same load \
         straight to the upstreams in the same round (for HTTP/2 to HTTP/1.1: the upstreams over HTTP/1.1). *Half load* is half of the proxy's own throughput in that round; *the same rate* is \
         half of the slowest proxy's.\n\
         - Timed figures are medians over rounds that measure every proxy once, in turn.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_results_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let results = Results::read(&folder.join("results.json")).unwrap();
        let page = std::fs::read_to_string(folder.join("RESULTS.md")).unwrap();
        assert!(page == markdown(&results), "RESULTS.md is not what results.json gives: `peers pages` writes it");
    }
}
