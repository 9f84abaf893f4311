//! System calls a request, counted by strace as the difference of two loads, over all threads and processes.

use crate::Fallible;
use crate::bench::{Amount, Bench, Load, Proxy};
use crate::process::{self, Running};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long strace may take to attach.
const ATTACHED_WITHIN: Duration = Duration::from_secs(20);

/// System calls a request, by name.
///
/// # Errors
/// When strace cannot attach, or requests fail.
pub fn count(bench: &Bench, proxy: Proxy, load: &Load, lower: u64, higher: u64) -> Fallible<BTreeMap<String, f64>> {
    let running = bench.proxy(proxy, &[])?;
    bench.exactly(proxy, &Load { amount: Amount::Requests(lower), ..*load })?;
    let mut counted = Vec::new();
    for requests in [lower, higher] {
        let file = bench.work.join(proxy.name).join("strace");
        let mut strace = attach(&running, &file)?;
        let done = bench.exactly(proxy, &Load { amount: Amount::Requests(requests), ..*load });
        process::signal(strace.id(), "INT");
        strace.wait()?;
        done?;
        counted.push(parse(&std::fs::read_to_string(&file)?));
    }
    let [first, second] = counted.as_slice() else { return Err("nothing was counted".into()) };
    let per_request = second.iter().map(|(name, calls)| {
        let more = calls - first.get(name).unwrap_or(&0.0);
        (name.clone(), more / (higher - lower) as f64)
    });
    Ok(per_request.collect())
}

fn attach(running: &Running, file: &Path) -> Fallible<std::process::Child> {
    let family = running.family();
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-q", "-U", "name,calls", "-o"]).arg(file);
    for pid in &family {
        command.arg("-p").arg(pid.to_string());
    }
    let mut strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = Instant::now();
    let traced = |pid: &u32| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.into_iter().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    };
    while !family.iter().all(traced) {
        if let Some(status) = strace.try_wait()? {
            return Err(format!("strace ended: {status}").into());
        }
        if begun.elapsed() > ATTACHED_WITHIN {
            let _ = strace.kill();
            return Err("strace does not attach".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(strace)
}

/// Reads a table of names and calls.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let rows = text.lines().filter_map(|line| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        Some((name.to_owned(), calls.trim().parse::<f64>().ok()?))
    });
    rows.filter(|(name, _)| name != "total").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_without_its_total() {
        let text = "syscall              calls\n---------------- ---------\nrecvfrom              2000\nepoll_wait              40\n\
                    ---------------- ---------\ntotal                 2040\n";
        assert_eq!(parse(text), BTreeMap::from([("recvfrom".into(), 2000.0), ("epoll_wait".into(), 40.0)]));
    }
}
