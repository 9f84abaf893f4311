//! README's section on performance: written from the results, never by hand, and a test holds it to them.

use crate::Fallible;
use crate::bench::Case;
use crate::micro::Micro;
use crate::results::{Results, Row};
use crate::table::{Figure, held, is_rival, number, rows, title};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- performance: written by `make bench-peers` and `make bench` -->\n";
const END: &str = "<!-- end of performance -->";
/// The results, beside the page.
const PEERS: &str = "benches/peers/results.json";
const MICRO: &str = "benches/results.json";

#[derive(clap::Args, Debug)]
pub struct Options {
    /// The page; the results lie below its folder.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
}

/// Writes the section, and the comparison's own page.
///
/// # Errors
/// When a page cannot be read or written, or has no place for the section.
pub fn run(options: &Options) -> Fallible<()> {
    let peers = root(&options.readme).join(PEERS);
    if let Some(folder) = peers.parent().filter(|_| peers.exists()) {
        crate::report::write(folder)?;
    }
    write(&options.readme)
}

fn root(readme: &Path) -> &Path {
    readme.parent().unwrap_or(Path::new("."))
}

/// Writes the section of a page.
///
/// # Errors
/// When the page cannot be read or written, or has no place for the section.
pub fn write(readme: &Path) -> Fallible<()> {
    let page = std::fs::read_to_string(readme).map_err(|error| format!("{}: {error}", readme.display()))?;
    Ok(std::fs::write(readme, renewed(&page, &from_results(readme))?)?)
}

/// The section as the results beside a page give it.
fn from_results(readme: &Path) -> String {
    let root = root(readme);
    section(Results::read(&root.join(PEERS)).as_ref(), Micro::read(&root.join(MICRO)).as_ref())
}

/// The page with another section between its marks.
fn renewed(page: &str, section: &str) -> Fallible<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("README has no lines {} and {END}", BEGIN.trim()))?;
    Ok(format!("{before}{BEGIN}{section}{END}{after}"))
}

fn section(peers: Option<&Results>, micro: Option<&Micro>) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = match peers {
        Some(peers) => compared(&mut text, peers, micro),
        None => writeln!(text, "Nothing was compared yet: `make bench-peers`.\n"),
    }
    .and_then(|()| micro.map_or(Ok(()), |micro| parts(&mut text, micro)));
    text
}

fn compared(text: &mut String, results: &Results, micro: Option<&Micro>) -> std::fmt::Result {
    let machine = &results.machine;
    let (cores, gb, processor) = (machine.cores, machine.memory_gb, &machine.processor);
    let versions = ["haproxy", "nginx", "envoy"].map(|name| (name, version(results.versions.get(name))));
    let rivals = versions.map(|(name, version)| format!("{} {version}", styled(name))).join(", ");
    writeln!(
        text,
        "Beside {rivals}, at commit {} on {cores} cores of {processor} with {gb} GB, Linux {}: each proxy alone on one core with one \
         serving thread, four endpoints and the load on the other; routing, link statistics, metrics and tracing context on, the model \
         ticking and steering. *Tuned* is as the makers recommend, *floor* the least that a proxy can do. \
         [`benches/peers/RESULTS.md`](benches/peers/RESULTS.md) holds all figures and how they are measured.\n",
        results.commit, machine.kernel,
    )?;
    let rounds = results.rounds;
    if rounds > 0 {
        writeln!(
            text,
            "What is timed is the median over {rounds} interleaved rounds, with the least and the most in brackets.\n"
        )?;
    }
    if results.runs.iter().any(|run| run.rounds > 0 && !run.was_quiet()) {
        writeln!(
            text,
            "**The machine was busy with other work: CPU, throughput and latencies are not to be judged by.**\n"
        )?;
    }
    Case::ALL.iter().try_for_each(|case| table(text, results, *case))?;
    memory(text, results)?;
    writeln!(
        text,
        "What was aimed at, and whether it was reached (of a rival's two configurations the better one is to be beaten):\n"
    )?;
    crate::targets::table(text, results, micro)?;
    losses(text, results)
}

/// A figure's name, its value, its name among the spreads, its digits, and whether more of it is better.
type Column = (&'static str, Figure, &'static str, usize, bool);

const COLUMNS: [Column; 7] = [
    ("instructions", |r| r.instructions, "", 0, false),
    ("system calls", |r| r.syscalls, "", 2, false),
    ("allocations", |r| r.allocations, "", 1, false),
    ("CPU us", |r| r.cpu_us, "cpu_us", 1, false),
    ("requests/s", |r| r.rps, "rps", 0, true),
    ("added p50 us, 1 connection", |r| r.added_p50_us, "added_p50_us", 1, false),
    ("p99 us, 64 connections, half load", |r| r.p99_us, "p99_us", 0, false),
];

/// Our row, and each rival's with what ours is divided by it.
fn table(text: &mut String, results: &Results, case: Case) -> std::fmt::Result {
    let has_any = |row: &&Row| COLUMNS.iter().any(|(_, figure, ..)| figure(row).is_some());
    let rows: Vec<&Row> = rows(results, case).into_iter().filter(|row| row.proxy != "direct").filter(has_any).collect();
    let Some(ours) = rows.iter().find(|row| row.proxy == "pathloom") else { return Ok(()) };
    let columns: Vec<&Column> =
        COLUMNS.iter().filter(|(_, figure, ..)| rows.iter().any(|r| figure(r).is_some())).collect();
    let names = columns.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" | ");
    writeln!(text, "**{}**, a request:\n\n| | {names} |\n| --- |{}", title(case), " --- |".repeat(columns.len()))?;
    for row in std::iter::once(ours).chain(rows.iter().filter(|row| row.proxy != "pathloom")) {
        let cells = columns.iter().map(|(_, figure, spread, digits, _)| {
            let value = number(figure(row), *digits);
            match row.spread.get(*spread) {
                Some([least, most]) => {
                    format!("{value} ({} to {})", number(Some(*least), *digits), number(Some(*most), *digits))
                }
                None => value,
            }
        });
        writeln!(text, "| {} | {} |", styled(&row.proxy), cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(text, "\nPathloom's divided by theirs:\n\n| | {names} |\n| --- |{}", " --- |".repeat(columns.len()))?;
    for row in rows.iter().filter(|row| is_rival(&row.proxy)) {
        let cells = columns.iter().map(|(_, figure, ..)| number(ratio(ours, row, *figure), 2));
        writeln!(text, "| {} | {} |", styled(&row.proxy), cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(text)
}

fn memory(text: &mut String, results: &Results) -> std::fmt::Result {
    if results.memory.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "**Resident memory** in MB (in brackets with shared pages shared out), with idle connections:\n\n\
         | | just started | 1,000 (`h1`) | 10,000 (`h1`) | 1,000 (`h2c-h1`) | 1,000 (`h2c-h2c`) |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    let ours = ["pathloom", "pathloom-embedded"];
    let others = crate::bench::Proxy::all().iter().map(|proxy| proxy.name).filter(|name| !ours.contains(name));
    for proxy in ours.into_iter().chain(others) {
        let cells = [("h1", 0), ("h1", 1000), ("h1", 10_000), ("h2c-h1", 1000), ("h2c-h2c", 1000)];
        let cells = cells.map(|(case, connections)| held(results, proxy, case, connections));
        if cells.iter().any(|cell| !cell.is_empty()) {
            writeln!(text, "| {} | {} |", styled(proxy), cells.join(" | "))?;
        }
    }
    writeln!(text)
}

/// Wherever a rival does better, be it a target or not.
fn losses(text: &mut String, results: &Results) -> std::fmt::Result {
    let mut lost = Vec::new();
    for case in Case::ALL {
        let rows = rows(results, case);
        let Some(ours) = rows.iter().find(|row| row.proxy == "pathloom") else { continue };
        for (name, figure, _, _, more_is_better) in COLUMNS {
            for row in rows.iter().filter(|row| is_rival(&row.proxy)) {
                // What is added to a latency may come out below nothing; then there is no ratio, only more or less.
                let (Some(own), Some(theirs)) = (figure(ours), figure(row)) else { continue };
                if own != theirs && (own > theirs) != more_is_better {
                    let times = number(ratio(ours, row, figure), 2);
                    lost.push(format!("{} {name} beside {} ({times})", case.name(), styled(&row.proxy)));
                }
            }
        }
    }
    match lost.is_empty() {
        true => Ok(()),
        false => writeln!(text, "Where a rival does better, ours divided by its: {}.\n", lost.join("; ")),
    }
}

fn parts(text: &mut String, micro: &Micro) -> std::fmt::Result {
    let (machine, table) = (&micro.machine, micro.table());
    let (cores, processor, kernel) = (machine.cores, &machine.processor, &machine.kernel);
    writeln!(
        text,
        "<details><summary>The parts alone, by `make bench`</summary>\n\nAt commit {}, {}, on {cores} cores of {processor}, Linux {kernel}. Sizes are \
         endpoints, nodes (with five links each) or routes.\n\n{table}\n</details>\n",
        micro.commit, micro.date
    )
}

fn ratio(ours: &Row, theirs: &Row, figure: Figure) -> Option<f64> {
    figure(ours)
        .zip(figure(theirs))
        .filter(|(ours, theirs)| *ours > 0.0 && *theirs > 0.0)
        .map(|(ours, theirs)| ours / theirs)
}

/// A proxy's name as its makers write it.
fn styled(proxy: &str) -> String {
    let (name, more) = proxy.split_once('-').map_or((proxy, None), |(name, more)| (name, Some(more)));
    let name = match name {
        "haproxy" => "HAProxy",
        "envoy" => "Envoy",
        "pathloom" if more.is_none() => "**Pathloom**",
        "pathloom" => "Pathloom",
        other => other,
    };
    more.map_or_else(|| name.to_owned(), |more| format!("{name}, {}", more.replace('-', " ")))
}

/// The number in what a program says of its version.
fn version(words: Option<&String>) -> String {
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let mut parts = words.map(String::as_str).unwrap_or_default().split([' ', '/', '-']);
    parts.find(is_number).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(proxy: &str, instructions: f64, rps: f64) -> Row {
        let spread = [("rps".to_owned(), [rps - 100.0, rps + 100.0])].into();
        let (instructions, rps) = (Some(instructions), Some(rps));
        Row { proxy: proxy.into(), case: "h1".into(), instructions, rps, spread, ..Row::default() }
    }

    #[test]
    fn readme_says_what_the_results_say() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let page = std::fs::read_to_string(&readme).unwrap();
        let renewed = renewed(&page, &from_results(&readme)).unwrap();
        assert!(
            page == renewed,
            "README's section on performance is not what the results give: `peers pages` writes it"
        );
    }

    #[test]
    fn a_page_without_marks_is_left_alone() {
        assert!(renewed("# Title\n", "text\n").is_err());
        let page = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(renewed(&page, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}\nb\n"));
    }

    #[test]
    fn a_loss_is_said_wherever_a_rival_does_better() {
        let rows = vec![row("nginx", 20e3, 30e3), row("envoy", 160e3, 40e3), row("pathloom", 24e3, 35e3)];
        let text = section(Some(&Results { rows, ..Results::default() }), None);
        let losses = "ours divided by its: h1 instructions beside nginx (1.20); h1 requests/s beside Envoy (0.88).";
        assert!(text.contains(losses), "{text}");
        assert!(text.contains("| nginx | 20,000 | 30,000 (29,900 to 30,100) |"), "{text}");
        assert!(text.contains("| Envoy | 0.15 | 0.88 |"), "{text}");
    }

    #[test]
    fn a_version_is_the_number_in_what_a_program_says() {
        assert_eq!(version(Some(&"HAProxy version 2.6.12-1+deb12u4 2026/10/17".into())), "2.6.12");
        assert_eq!(version(Some(&"nginx version: nginx/1.22.1".into())), "1.22.1");
        assert_eq!(version(Some(&"9e5580933739775e8bce/1.40.0/Clean/RELEASE".into())), "1.40.0");
    }
}
