//! The report: for people, and as JSON for programs.

use crate::judge::{Judgement, Sum};
use crate::leaks::mean;
use crate::samples::Life;
use crate::script::Window;
use pathloom_integration::overload::percentile_ms;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// How a run was made.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What is said about it, a line each: machine, commit, command.
    pub lines: Vec<(String, String)>,
    /// When the load began, by the clock that all moments have.
    pub begun: Duration,
}

/// The report for people.
#[must_use]
pub fn markdown(
    setting: &Setting,
    windows: &[Window],
    seen: &[String],
    judgement: &Judgement,
    lives: &[Life],
) -> String {
    let mut out = String::from("# What `make chaos` found\n\n");
    let _ = writeln!(out, "Written by the command. {}\n", verdict(judgement));
    for (what, text) in &setting.lines {
        let _ = writeln!(out, "- {what}: {text}");
    }
    out.push_str("\n| verdict | | seen |\n| --- | --- | --- |\n");
    for v in &judgement.verdicts {
        let _ = writeln!(out, "| {} | {} | {} |", v.what, if v.held { "held" } else { "**failed**" }, cell(&v.seen));
    }
    let all = &judgement.all;
    let _ = writeln!(
        out,
        "\n{} requests, of which {} could have succeeded and {} did; p50 {:.1} ms, p99 {:.1} ms. Failed although they could have succeeded: {}. \
         Failed, and nobody could have served them: {}. {} were sent once more by the clients themselves.\n",
        all.asked,
        all.could,
        all.right,
        percentile_ms(&all.took, 50.0),
        percentile_ms(&all.took, 99.0),
        counts(&all.lost),
        counts(&all.excused),
        all.again,
    );
    out.push_str(
        "## By trouble\n\nEach window has its load; what a trouble is expected to do stands below. *Lost* are requests that failed although an endpoint \
         of their cluster was well and in reach, *excused* those that nobody could have served.\n\n\
         | from | trouble | for | requests | lost | excused | availability | p50 ms | p99 ms | what was seen |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for ((window, sum), seen) in windows.iter().zip(&judgement.windows).zip(seen) {
        let troubles: Vec<_> = window.troubles.iter().map(|t| format!("{}: {}", t.kind.name(), t.target)).collect();
        let lasts = window.troubles.first().map_or(String::new(), |t| format!("{:.1} s", t.lasts.as_secs_f64()));
        let _ = writeln!(
            out,
            "| {} | {} | {lasts} | {} | {} | {} | {} | {:.1} | {:.1} | {} |",
            clock(window.from.saturating_sub(setting.begun)),
            if troubles.is_empty() { "none".to_owned() } else { troubles.join("; ") },
            sum.asked,
            counts(&sum.lost),
            counts(&sum.excused),
            share(sum),
            percentile_ms(&sum.took, 50.0),
            percentile_ms(&sum.took, 99.0),
            cell(seen),
        );
    }
    expected(&mut out, windows);
    processes(&mut out, setting, lives);
    examples(&mut out, setting, judgement);
    out
}

/// The report for programs.
#[must_use]
pub fn json(setting: &Setting, windows: &[Window], seen: &[String], judgement: &Judgement, lives: &[Life]) -> Value {
    let sum = |s: &Sum| {
        json!({
            "requests": s.asked, "could_have_succeeded": s.could, "succeeded": s.right, "availability": s.availability(),
            "lost": s.lost, "excused": s.excused, "sent_again_by_clients": s.again,
            "p50_ms": percentile_ms(&s.took, 50.0), "p99_ms": percentile_ms(&s.took, 99.0),
        })
    };
    let troubles = |w: &Window| -> Vec<Value> {
        w.troubles
            .iter()
            .map(|t| json!({ "kind": t.kind.name(), "target": t.target.to_string(), "at_s": t.at.saturating_sub(setting.begun).as_secs_f64(), "lasts_s": t.lasts.as_secs_f64(), "expected": t.kind.expected() }))
            .collect()
    };
    json!({
        "setting": setting.lines.iter().cloned().collect::<BTreeMap<_, _>>(),
        "verdicts": judgement.verdicts.iter().map(|v| json!({ "name": v.name, "what": v.what, "held": v.held, "seen": v.seen })).collect::<Vec<_>>(),
        "all": sum(&judgement.all),
        "windows": windows.iter().zip(&judgement.windows).zip(seen).map(|((w, s), seen)| json!({
            "from_s": w.from.saturating_sub(setting.begun).as_secs_f64(), "troubles": troubles(w), "seen": seen, "load": sum(s),
        })).collect::<Vec<_>>(),
        "failures": judgement.failures.iter().filter(|f| f.could || !f.explained).map(|f| json!({
            "id": f.record.id, "at_s": f.record.at.saturating_sub(setting.begun).as_secs_f64(), "cluster": crate::load::CLUSTERS[f.record.cluster],
            "version": format!("{:?}", f.record.version), "once": f.record.once, "took_ms": f.record.took.as_secs_f64() * 1e3,
            "why": f.why, "explained": f.explained, "outcome": format!("{:?}", f.record.outcome), "lines": f.lines.iter().map(|(s, l)| json!({ "sidecar": s, "line": l })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "processes": lives.iter().map(|l| json!({
            "name": l.name, "process": l.process,
            "samples": l.samples.iter().map(|s| json!([s.at.as_secs_f64(), s.memory, s.descriptors, s.threads])).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

/// All verdicts in a sentence.
#[must_use]
pub fn verdict(judgement: &Judgement) -> String {
    match judgement.verdicts.iter().filter(|v| !v.held).count() {
        0 => "All verdicts held.".to_owned(),
        failed => format!("**{failed} of {} verdicts failed.**", judgement.verdicts.len()),
    }
}

fn expected(out: &mut String, windows: &[Window]) {
    let kinds: std::collections::BTreeSet<_> = windows.iter().flat_map(|w| &w.troubles).map(|t| t.kind).collect();
    out.push_str("\n## What is expected\n\n| trouble | what happens | expected |\n| --- | --- | --- |\n");
    for kind in kinds {
        let _ = writeln!(out, "| {} | {} | {} |", kind.name(), kind.does(), kind.expected());
    }
}

fn processes(out: &mut String, setting: &Setting, lives: &[Life]) {
    out.push_str("\n## Memory and descriptors\n\nA line for each process: anonymous resident memory in MB, in brackets descriptors; at first, in the middle of each minute of the load, and when all was over.\n\n");
    let last = lives.iter().flat_map(|l| &l.samples).map(|s| s.at).max().unwrap_or_default();
    let minutes = last.saturating_sub(setting.begun).as_secs().div_ceil(60);
    let _ = writeln!(
        out,
        "| process | at first |{} at the end |",
        (0..minutes).map(|m| format!(" {}:30 |", m)).collect::<String>()
    );
    let _ = writeln!(out, "| --- |{}", " --- |".repeat(minutes as usize + 2));
    for life in lives.iter().filter(|l| !l.samples.is_empty()) {
        let show = |s: &crate::samples::Sample| format!("{:.1} ({})", s.memory as f64 / 1e6, s.descriptors);
        let first = life.samples.first().map(show).unwrap_or_default();
        let end = life.samples.last().map(show).unwrap_or_default();
        let mut cells = String::new();
        for minute in 0..minutes {
            let from = setting.begun + Duration::from_secs(minute * 60);
            let to = from + Duration::from_secs(60);
            let within: Vec<_> = life.samples.iter().filter(|s| s.at >= from && s.at < to).collect();
            let most = within.iter().map(|s| s.descriptors).max();
            match most {
                Some(most) => drop(write!(cells, " {:.1} ({most}) |", mean(&life.samples, from, to) / 1e6)),
                None => cells.push_str(" |"),
            }
        }
        let _ = writeln!(out, "| {} {} | {first} |{cells} {end} |", life.name, life.process);
    }
}

fn examples(out: &mut String, setting: &Setting, judgement: &Judgement) {
    let lost: Vec<_> = judgement.failures.iter().filter(|f| f.could).collect();
    if lost.is_empty() {
        return;
    }
    out.push_str("\n## Lost requests\n\nBy cluster and kind; the JSON beside this file has each with its lines of the access logs.\n\n| cluster | over | may be repeated | why | how many | first at |\n| --- | --- | --- | --- | --- | --- |\n");
    let mut groups: BTreeMap<(usize, String, bool, &str), Vec<Duration>> = BTreeMap::new();
    for f in &lost {
        let key = (f.record.cluster, format!("{:?}", f.record.version), !f.record.once, f.why.as_str());
        groups.entry(key).or_default().push(f.record.at);
    }
    for ((cluster, version, repeatable, why), at) in groups {
        let first = at.iter().min().copied().unwrap_or_default().saturating_sub(setting.begun);
        let _ = writeln!(
            out,
            "| {} | {version} | {} | {why} | {} | {} |",
            crate::load::CLUSTERS[cluster],
            if repeatable { "yes" } else { "no" },
            at.len(),
            clock(first)
        );
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "0".to_owned();
    }
    let all: Vec<_> = counts.iter().map(|(why, n)| format!("{n} {why}")).collect();
    all.join(", ")
}

fn share(sum: &Sum) -> String {
    format!("{:.3}%", sum.availability() * 100.0)
}

fn clock(at: Duration) -> String {
    let s = at.as_secs();
    format!("{}:{:02}", s / 60, s % 60)
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', "<br>")
}
