//! What is asked of Pathloom, and whether the figures show it.
//!
//! Of a rival's two configurations, as shipped and tuned, the better figure is the one to beat.

use crate::bench::{TEN_TICKS, WITHOUT_MODEL};
use crate::micro::Micro;
use crate::results::{MemoryRow, Results};
use crate::table::{Figure, number};
use std::fmt::Write;

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

/// A table of all targets.
pub fn table(page: &mut String, results: &Results, micro: Option<&Micro>) -> std::fmt::Result {
    writeln!(page, "| target | Pathloom | to reach | |\n| --- | --- | --- | --- |")?;
    let mut targets = judged(results);
    targets.extend(micro.into_iter().flat_map(judged_micro));
    for target in targets {
        let show = |value: Option<f64>| match value {
            Some(value) => format!("{} {}", number(Some(value), target.digits), target.unit).trim().to_owned(),
            None => "not measured".to_owned(),
        };
        let verdict = match (target.got, target.limit) {
            (Some(got), Some(limit)) if (got <= limit) != target.at_least || got == limit => "met",
            (Some(_), Some(_)) => "**not met**",
            _ => "open",
        };
        let sign = match target.limit {
            None => "",
            Some(_) if target.at_least => "at least ",
            Some(_) => "at most ",
        };
        writeln!(page, "| {} | {} | {sign}{} | {verdict} |", target.what, show(target.got), show(target.limit))?;
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
        at_most(
            "h1: p99 with ten ticks a second, no more than in the worst round without a model",
            row(TEN_TICKS, "h1").and_then(|r| r.p99_same_rate_us),
            row(WITHOUT_MODEL, "h1").and_then(|r| r.spread.get("p99_same_rate_us")).map(|[_, most]| *most),
            "us",
            0,
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

/// What is asked of the parts alone.
fn judged_micro(micro: &Micro) -> Vec<Target> {
    let at_most = |what, got: Option<f64>, limit: f64, unit: &'static str, digits| Target {
        what,
        got,
        limit: Some(limit),
        at_least: false,
        unit,
        digits,
    };
    // What stands for a whole row must hold for each of its sizes.
    let worst = |sizes: &[&str]| -> Option<f64> {
        let all: Option<Vec<f64>> =
            sizes.iter().map(|size| micro.median_ns("pick", Some("Model"), Some(size))).collect();
        all?.into_iter().reduce(f64::max)
    };
    let ms = |ns: Option<f64>| ns.map(|ns| ns / 1e6);
    // Of the engines, the one that a sidecar with ONNX Runtime runs, where it was measured.
    let engines = ["onnxruntime", "ONNX Runtime", "embedded engine"];
    let tick = engines.iter().find_map(|engine| micro.median_ns("tick", Some(engine), Some("1000")));
    vec![
        at_most(
            "a pick among 2 to 1,000 endpoints, the slowest",
            worst(&["2", "10", "64", "100", "1000"]),
            60.0,
            "ns",
            0,
        ),
        at_most("a tick at 1,000 nodes and 5,000 links, one thread", ms(tick), 10.0, "ms", 1),
        at_most(
            "from a failure to a generation without it",
            ms(micro.median_ns("recovery", None, Some("1000"))),
            25.0,
            "ms",
            1,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Row;

    fn page(results: &Results) -> String {
        let mut page = String::new();
        table(&mut page, results, None).unwrap();
        page
    }

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
        let page = page(&Results { rows, ..Results::default() });
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
        let page = page(&Results { rows, ..Results::default() });
        let met = page.lines().filter(|l| l.starts_with("| h1:") && l.ends_with("| met |")).count();
        assert_eq!(met, 2);
    }
}
