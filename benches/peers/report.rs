//! `RESULTS.md`: the figures as tables, their ratios, and each target judged by them.

use crate::bench::{Case, Proxy};
use crate::results::{MemoryRow, Results, Row};
use std::fmt::Write;

/// A figure of a row.
type Figure = fn(&Row) -> Option<f64>;

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
    writeln!(page, "- Commit {}, {}; `peers {}`", results.commit, results.date, results.command)?;
    let (cores, memory) = (machine.cores, machine.memory_gb);
    writeln!(page, "- {cores} cores of {}, {memory} GB, Linux {}", machine.processor, machine.kernel)?;
    let busy = results.busy.iter().map(|b| format!("{:.0}%", b * 100.0)).collect::<Vec<_>>().join(", ");
    let before = machine.busy_before * 100.0;
    writeln!(
        page,
        "- Both cores were {before:.0}% busy before the start; in the {} timed rounds: {busy}",
        results.rounds
    )?;
    for (program, version) in &results.versions {
        writeln!(page, "- {program}: {version}")?;
    }
    if machine.busy_before > 0.1 {
        writeln!(
            page,
            "\n**The machine was busy with other work.** What is counted (instructions, system calls, allocations, memory) does \
             not mind; what is timed (CPU, throughput, latency) is not to be judged by."
        )?;
    }
    writeln!(page)
}

/// One of what the issue asks for.
struct Target {
    what: &'static str,
    got: Option<f64>,
    limit: Option<f64>,
    /// Whether more is better.
    at_least: bool,
    unit: &'static str,
    digits: usize,
}

fn targets(page: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        page,
        "## Targets\n\nOf a rival's two configurations, as shipped and tuned, the better figure is the one to beat.\n\n\
         | target | Pathloom | to reach | |\n| --- | --- | --- | --- |"
    )?;
    for target in judged(results) {
        let show = |value: Option<f64>| match value {
            Some(value) => format!("{} {}", number(Some(value), target.digits), target.unit).trim().to_owned(),
            None => "not measured".to_owned(),
        };
        let verdict = match (target.got, target.limit) {
            (Some(got), Some(limit)) if (got <= limit) != target.at_least || got == limit => "met",
            (Some(_), Some(_)) => "**not met**",
            _ => "open",
        };
        let sign = if target.at_least { "at least" } else { "at most" };
        writeln!(page, "| {} | {} | {sign} {} | {verdict} |", target.what, show(target.got), show(target.limit))?;
    }
    writeln!(page)
}

fn judged(results: &Results) -> Vec<Target> {
    let row = |proxy: &str, case: &str| results.rows.iter().find(|r| r.proxy == proxy && r.case == case);
    let ours = |case: &str, figure: Figure| row("pathloom", case).and_then(figure);
    // The better of a rival's two.
    let best = |rival: &str, case: &str, figure: Figure, more_is_better: bool| {
        let both = [rival.to_owned(), format!("{rival}-tuned")];
        let values = both.iter().filter_map(|name| row(name, case).and_then(figure));
        values.reduce(if more_is_better { f64::max } else { f64::min })
    };
    let times = |value: Option<f64>, factor: f64| value.map(|v| v * factor);
    let memory = |proxy: &str| results.memory.iter().find(|m| is_thousand(m, proxy)).and_then(|m| m.rss_mb);
    let envoy_memory = [memory("envoy"), memory("envoy-tuned")].into_iter().flatten().reduce(f64::min);
    let (instructions, cpu): (Figure, Figure) = (|r| r.instructions, |r| r.cpu_us);
    let at_most = |what, got, limit, unit, digits| Target { what, got, limit, at_least: false, unit, digits };
    let at_least = |what, got, limit, unit, digits| Target { what, got, limit, at_least: true, unit, digits };
    let haproxy = |figure: Figure| best("haproxy", "h1", figure, false);
    vec![
        at_most("h1: instructions, 1.0 of HAProxy's", ours("h1", instructions), haproxy(instructions), "", 0),
        at_most(
            "h1: instructions, 0.25 of Envoy's",
            ours("h1", instructions),
            times(best("envoy", "h1", instructions, false), 0.25),
            "",
            0,
        ),
        at_most(
            "h1: instructions, below nginx's",
            ours("h1", instructions),
            best("nginx", "h1", instructions, false),
            "",
            0,
        ),
        at_most("h1: system calls", ours("h1", |r| r.syscalls), Some(4.5), "", 2),
        at_least(
            "h1: throughput, 1.0 of HAProxy's",
            ours("h1", |r| r.rps),
            best("haproxy", "h1", |r| r.rps, true),
            "/s",
            0,
        ),
        at_least(
            "h1: throughput, 3.5 of Envoy's",
            ours("h1", |r| r.rps),
            times(best("envoy", "h1", |r| r.rps, true), 3.5),
            "/s",
            0,
        ),
        at_most(
            "h1: added p50 at one connection, HAProxy's and 5 us",
            ours("h1", |r| r.added_p50_us),
            haproxy(|r| r.added_p50_us).map(|us| us + 5.0),
            "us",
            1,
        ),
        at_most(
            "h1: p99 at 64 connections and half load, HAProxy's",
            ours("h1", |r| r.p99_us),
            haproxy(|r| r.p99_us),
            "us",
            0,
        ),
        at_most("h2c-h1: CPU, below nginx's", ours("h2c-h1", cpu), best("nginx", "h2c-h1", cpu, false), "us", 1),
        at_most(
            "h2c-h1: CPU, 0.35 of Envoy's",
            ours("h2c-h1", cpu),
            times(best("envoy", "h2c-h1", cpu, false), 0.35),
            "us",
            1,
        ),
        at_most(
            "h2c-h2c: CPU, 0.4 of Envoy's",
            ours("h2c-h2c", cpu),
            times(best("envoy", "h2c-h2c", cpu, false), 0.4),
            "us",
            1,
        ),
        at_most("memory, 1,000 idle connections, embedded engine", memory("pathloom-embedded"), Some(30.0), "MB", 1),
        at_most("memory, 1,000 idle connections, ONNX Runtime", memory("pathloom"), Some(70.0), "MB", 1),
        at_most(
            "memory, 1,000 idle connections, embedded: Envoy's",
            memory("pathloom-embedded"),
            envoy_memory,
            "MB",
            1,
        ),
        at_most("memory, 1,000 idle connections, ONNX Runtime: Envoy's", memory("pathloom"), envoy_memory, "MB", 1),
    ]
}

fn is_thousand(row: &MemoryRow, proxy: &str) -> bool {
    row.proxy == proxy && row.case == "h1" && row.connections == 1000
}

/// The columns of a case's table.
const COLUMNS: [(&str, Figure, usize); 12] = [
    ("instructions", |r| r.instructions, 0),
    ("with 1 connection", |r| r.instructions_one, 0),
    ("with 8 x 8 streams", |r| r.instructions_8x8, 0),
    ("system calls", |r| r.syscalls, 2),
    ("allocations", |r| r.allocations, 1),
    ("CPU us", |r| r.cpu_us, 1),
    ("requests/s", |r| r.rps, 0),
    ("added p50 us, 1 connection", |r| r.added_p50_us, 1),
    ("p99 us, half load", |r| r.p99_us, 0),
    ("added p99 us", |r| r.added_p99_us, 0),
    ("p99 us, same rate", |r| r.p99_same_rate_us, 0),
    ("MB, 1,000 connections", |r| r.rss_mb, 1),
];

fn table(page: &mut String, results: &Results, case: Case) -> std::fmt::Result {
    let rows = ordered(results.rows.iter().filter(|r| r.case == case.name()).collect());
    if rows.is_empty() {
        return Ok(());
    }
    let title = match case {
        Case::Http1 => "HTTP/1.1 on both sides, 1 KB (`h1`)",
        Case::Http2ToHttp1 => "HTTP/2 without TLS, HTTP/1.1 upstream, 1 KB (`h2c-h1`)",
        Case::Http2 => "HTTP/2 without TLS on both sides, calls like gRPC's of 64 bytes (`h2c-h2c`)",
    };
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
    for row in rows.iter().filter(|r| !["pathloom", "direct", "floor"].contains(&r.proxy.as_str())) {
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
    writeln!(
        page,
        "## Bodies of other sizes (`h1`)\n\n| proxy | body | instructions | system calls | requests/s | CPU us |"
    )?;
    writeln!(page, "| --- | --- | --- | --- | --- | --- |")?;
    for row in &results.bodies {
        let (instructions, syscalls) = (number(row.instructions, 0), number(row.syscalls, 2));
        let (rps, cpu) = (number(row.rps, 0), number(row.cpu_us, 1));
        writeln!(page, "| {} | {} | {instructions} | {syscalls} | {rps} | {cpu} |", row.proxy, row.body)?;
    }
    writeln!(page)
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
        let cell = |case: &str, connections: usize| {
            let row =
                results.memory.iter().find(|m| m.proxy == proxy.name && m.case == case && m.connections == connections);
            match row.and_then(|m| m.rss_mb.zip(m.pss_mb)) {
                Some((rss, pss)) => format!("{} ({})", number(Some(rss), 1), number(Some(pss), 1)),
                None => String::new(),
            }
        };
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
         - **Instructions, allocations**: callgrind, the difference of two loads of 1,000 and 4,000 requests over 64 connections; the serving \
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

/// As the proxies stand in the list, the load without one first.
fn ordered(mut rows: Vec<&Row>) -> Vec<&Row> {
    rows.sort_by_key(|row| Proxy::all().iter().position(|p| p.name == row.proxy).map_or(0, |at| at + 1));
    rows
}

/// A number with commas between thousands, or nothing.
fn number(value: Option<f64>, digits: usize) -> String {
    let Some(value) = value else { return String::new() };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| format!("{sign}{grouped}"), |fraction| format!("{sign}{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(proxy: &str, instructions: f64, rps: f64) -> Row {
        Row {
            proxy: proxy.into(),
            case: "h1".into(),
            instructions: Some(instructions),
            rps: Some(rps),
            ..Row::default()
        }
    }

    #[test]
    fn a_target_is_judged_against_the_better_of_a_rivals_configurations() {
        let rows = vec![row("haproxy", 30e3, 30e3), row("haproxy-tuned", 25e3, 28e3), row("pathloom", 27e3, 29e3)];
        let page = markdown(&Results { rows, ..Results::default() });
        let line = |start: &str| page.lines().find(|l| l.starts_with(start)).unwrap_or_default().to_owned();
        assert_eq!(
            line("| h1: instructions, 1.0"),
            "| h1: instructions, 1.0 of HAProxy's | 27,000 | at most 25,000 | **not met** |"
        );
        assert_eq!(
            line("| h1: throughput, 1.0"),
            "| h1: throughput, 1.0 of HAProxy's | 29,000 /s | at least 30,000 /s | **not met** |"
        );
        assert!(line("| h1: throughput, 3.5").ends_with("| open |"), "what was not measured is neither won nor lost");
    }

    #[test]
    fn a_reached_limit_is_met_in_either_direction() {
        let rows = vec![row("haproxy", 30e3, 30e3), row("pathloom", 30e3, 31e3)];
        let page = markdown(&Results { rows, ..Results::default() });
        let met = page.lines().filter(|l| l.starts_with("| h1:") && l.ends_with("| met |")).count();
        assert_eq!(met, 2);
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!(number(Some(1_234_567.0), 0), "1,234,567");
        assert_eq!(number(Some(-1234.56), 1), "-1,234.6");
        assert_eq!(number(Some(0.5), 2), "0.50");
    }
}
