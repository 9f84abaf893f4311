//! What is counted rather than timed: instructions, allocations, system calls, memory. It is the same on a busy machine.

use crate::Fallible;
use crate::bench::{Amount, Bench, Body, CONNECTIONS, Case, Load, Proxy, SMALL_BODY, Target};
use crate::callgrind::{Cost, Profiled};
use crate::process::memory_kib;
use crate::results::{MemoryRow, Results};
use crate::strace;
use crate::upstream::BODIES;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

/// Requests of the two loads, where many are in flight and where one is.
const MANY: (u64, u64) = (500, 2500);
const ONE: (u64, u64) = (200, 1200);
/// How long memory may take to settle.
const SETTLES: Duration = Duration::from_secs(2);

/// How long counting a proxy takes on a quiet machine, about, in seconds.
pub fn expected(proxy: Proxy, cases: &[Case]) -> f64 {
    let all = match proxy.name {
        "floor" => 20.0,
        "pathloom-embedded" => 20.0,
        name if name.starts_with("envoy") => 110.0,
        name if name.starts_with("pathloom") => 80.0,
        _ => 40.0,
    };
    all * cases.len() as f64 / Case::ALL.len() as f64
}

/// Instructions and allocations, in every case and with every body.
pub fn instructions(bench: &Bench, proxy: Proxy, cases: &[Case], results: &mut Results) {
    let started = Profiled::start(bench, proxy);
    let Some(mut profiled) = results.take((proxy.name, "all", "instructions"), started) else { return };
    let any = Amount::Requests(0);
    for case in cases.iter().copied().filter(|case| proxy.speaks(*case)) {
        let name = case.name();
        let many = profiled.cost(&Load::new(case, CONNECTIONS, any), MANY.0, MANY.1);
        let many = results.take((proxy.name, name, "instructions"), many);
        if many.as_ref().is_some_and(|cost| cost.allocations.is_none()) {
            let why = Err::<(), _>("the program's allocator has no named functions".into());
            results.take((proxy.name, name, "allocations"), why);
        }
        let one = profiled.cost(&Load::new(case, 1, any), ONE.0, ONE.1);
        let one = results.take((proxy.name, name, "instructions_one"), one);
        let grid = (case != Case::Http1)
            .then(|| profiled.cost(&Load { streams: 8, ..Load::new(case, 8, any) }, MANY.0, MANY.1));
        let grid = grid.and_then(|grid| results.take((proxy.name, name, "instructions_8x8"), grid));
        if let Some(row) = results.row(proxy.name, name) {
            row.instructions = many.as_ref().map(|cost| cost.instructions);
            row.instructions_all_threads = many.as_ref().map(|cost| cost.all_threads);
            row.allocations = many.and_then(|cost| cost.allocations);
            row.instructions_one = one.map(|cost| cost.instructions);
            row.instructions_8x8 = grid.map(|cost| cost.instructions);
        }
    }
    if !cases.contains(&Case::Http1) {
        return;
    }
    for body in BODIES.iter().copied().filter(|body| *body != SMALL_BODY) {
        let cost = with_body(body, |load, lower, higher| profiled.cost(load, lower, higher));
        let cost: Option<Cost> = results.take((proxy.name, "h1", &format!("instructions, body {}", body.0)), cost);
        if let Some(row) = results.body(proxy.name, body) {
            row.instructions = cost.map(|cost| cost.instructions);
        }
    }
}

/// Counts with so many connections and requests as a body of this size allows.
fn with_body<T>(body: Body, count: impl FnOnce(&Load, u64, u64) -> Fallible<T>) -> Fallible<T> {
    let (connections, lower, higher) = match body.1 {
        0..10_000 => (CONNECTIONS, MANY.0, MANY.1),
        10_000..1_000_000 => (16, 100, 400),
        _ => (4, 8, 24),
    };
    count(&Load::new(Case::Http1, connections, Amount::Requests(0)).body(body), lower, higher)
}

/// System calls, in every case and with every body.
pub fn system_calls(bench: &Bench, proxy: Proxy, cases: &[Case], results: &mut Results) {
    for case in cases.iter().copied().filter(|case| proxy.speaks(*case)) {
        let name = case.name();
        let many = strace::count(bench, proxy, &Load::new(case, CONNECTIONS, Amount::Requests(0)), 2000, 12_000);
        let many = results.take((proxy.name, name, "syscalls"), many);
        let one = strace::count(bench, proxy, &Load::new(case, 1, Amount::Requests(0)), 500, 3000);
        let one = results.take((proxy.name, name, "syscalls_one"), one);
        if let Some(row) = results.row(proxy.name, name) {
            row.syscalls = many.as_ref().map(|names| names.values().sum());
            // What is rarer than once in a hundred requests belongs to something else.
            row.syscall_names = many.unwrap_or_default().into_iter().filter(|(_, calls)| *calls >= 0.01).collect();
            row.syscalls_one = one.map(|names| names.values().sum());
        }
    }
    if !cases.contains(&Case::Http1) {
        return;
    }
    for body in BODIES.iter().copied().filter(|body| *body != SMALL_BODY) {
        let calls = with_body(body, |load, lower, higher| strace::count(bench, proxy, load, lower, higher));
        let calls = results.take((proxy.name, "h1", &format!("syscalls, body {}", body.0)), calls);
        if let Some(row) = results.body(proxy.name, body) {
            row.syscalls = calls.map(|names| names.values().sum());
        }
    }
}

/// Resident memory: just started, and with idle connections each of which had one request.
pub fn memory(bench: &Bench, proxy: Proxy, cases: &[Case], results: &mut Results) {
    for case in cases.iter().copied().filter(|case| proxy.speaks(*case)) {
        for connections in [0, 1000, 10_000] {
            if connections != 1000 && case != Case::Http1 {
                continue;
            }
            let figure = format!("memory, {connections} connections");
            // The floor opens a connection for each of its clients'.
            let got = match proxy.is_floor() && connections == 10_000 {
                true => Err("it needs twice as many open files as may be".into()),
                false => with_idle(bench, proxy, case, connections),
            };
            let got = results.take((proxy.name, case.name(), &figure), got);
            let (got, limit) = match got {
                Some(Held::All { rss_kib, pss_kib }) => (Some((rss_kib, pss_kib)), None),
                Some(Held::AtMost(limit)) => (None, Some(limit)),
                None => (None, None),
            };
            let mb = |kib: u64| (kib * 1024) as f64 / 1e6;
            results.memory(MemoryRow {
                proxy: proxy.name.into(),
                case: case.name().into(),
                connections,
                rss_mb: got.map(|(rss, _)| mb(rss)),
                pss_mb: got.map(|(_, pss)| mb(pss)),
                limit,
            });
            if connections == 1000
                && let Some(row) = results.row(proxy.name, case.name())
            {
                row.rss_mb = got.map(|(rss, _)| mb(rss));
            }
        }
    }
}

/// What came of idle connections.
enum Held {
    /// All of them were held, in so much memory.
    All { rss_kib: u64, pss_kib: u64 },
    /// Only so many were.
    AtMost(usize),
}

fn with_idle(bench: &Bench, proxy: Proxy, case: Case, connections: usize) -> Fallible<Held> {
    let running = bench.proxy(proxy, &[])?;
    let held = || {
        let (rss_kib, pss_kib) = memory_kib(&running.family());
        Held::All { rss_kib, pss_kib }
    };
    if connections == 0 {
        std::thread::sleep(SETTLES);
        return Ok(held());
    }
    let load = Load::new(case, connections, Amount::Requests(connections as u64));
    let mut command = bench.load_command(Target::Proxy(proxy), &load);
    command.args(["--in-flight", "16", "--hold"]);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = holder.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let got = if line.is_empty() {
        let mut words = String::new();
        if let Some(mut errors) = holder.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut words)?;
        }
        Err(words.trim().to_owned())
    } else {
        let report: crate::load::Report = serde_json::from_str(&line)?;
        std::thread::sleep(SETTLES);
        let unanswered = report.failures.get("unanswered").copied().unwrap_or(0) as usize;
        match proxy.connections_allowed() {
            _ if report.failures.is_empty() && report.reopened == 0 => Ok(held()),
            // It closes idle connections to make room, or refuses.
            Some(limit) if limit < connections => Ok(Held::AtMost(limit)),
            // It leaves in the kernel's queue what it does not take.
            None if report.failures.len() == 1 && report.reopened == 0 && (1..connections).contains(&unanswered) => {
                Ok(Held::AtMost(connections - unanswered))
            }
            _ => Err(format!("failures {:?}, {} connections closed", report.failures, report.reopened)),
        }
    };
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(got?)
}
