//! System calls a request, counted by strace as the difference of two loads, over all threads and processes.

use crate::Fallible;
use crate::bench::{Amount, Bench, Load, Proxy};
use crate::process;
use std::collections::BTreeMap;

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
        let mut strace = running.trace(&file)?;
        let done = bench.exactly(proxy, &Load { amount: Amount::Requests(requests), ..*load });
        process::signal(strace.id(), "INT");
        strace.wait()?;
        done?;
        counted.push(process::system_calls(&std::fs::read_to_string(&file)?));
    }
    let [first, second] = counted.as_slice() else { return Err("nothing was counted".into()) };
    let per_request = second.iter().map(|(name, calls)| {
        let more = calls - first.get(name).unwrap_or(&0.0);
        (name.clone(), more / (higher - lower) as f64)
    });
    Ok(per_request.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_without_its_total() {
        let text = "syscall              calls\n---------------- ---------\nrecvfrom              2000\nepoll_wait              40\n\
                    ---------------- ---------\ntotal                 2040\n";
        assert_eq!(
            process::system_calls(text),
            BTreeMap::from([("recvfrom".into(), 2000.0), ("epoll_wait".into(), 40.0)])
        );
    }
}
