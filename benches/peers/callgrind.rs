//! User instructions and allocations, counted by callgrind as the difference of two loads.
//!
//! A proxy runs below `valgrind --tool=callgrind` with its instructions counted only while a load runs. Each load is
//! run twice with different numbers of requests; what was counted on top for the requests on top is what a request
//! costs. Opening the connections is in both and falls out. Threads are counted apart: the one on top is the serving
//! thread, and the figure is its own. The others (a model's tick, a flush of statistics) work by the clock, which runs
//! fifty times too fast here, so per request they would be overrated; the sum over all threads is given beside.
//!
//! **Allocations** are calls into the allocator from outside of it, by the names of its functions. A program that keeps
//! a pool of its own for everything (HAProxy, nginx) is counted where its pool asks for more. Envoy's release is stripped
//! and allocates by `operator new`, which has no name in it; for the one build that the wheel brings, its address is known.

use crate::Fallible;
use crate::bench::{Amount, Bench, Load, Proxy};
use crate::process::Running;
use crate::profile::{Allocator, Thread, parse};
use pathloom_benches::host::first_line;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Envoy's build, as `--version` names it, and callgrind's name of the function that is its `operator new`: the address
/// in the file, 0x6185840, where valgrind loads it. It is told by what it does: it takes a size, looks it up in the same
/// table of size classes as the exported `malloc`, and pops the thread's free list; and it is called as often as the two
/// forms of `operator delete` after it together.
const ENVOY: (&str, &str) = ("9e5580933739775e8bce696a57a2e1bc99368f23", "0x000000000628d840");

/// What a request costs.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// User instructions of the serving thread.
    pub instructions: f64,
    /// User instructions of all threads, by callgrind's clock.
    pub all_threads: f64,
    /// Calls for memory by the serving thread; none where the allocator's functions have no names.
    pub allocations: Option<f64>,
}

/// A proxy below callgrind.
pub struct Profiled<'a> {
    bench: &'a Bench,
    proxy: Proxy,
    running: Running,
    folder: PathBuf,
    dumps: usize,
    allocator: Allocator,
}

impl<'a> Profiled<'a> {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub fn start(bench: &'a Bench, proxy: Proxy) -> Fallible<Self> {
        let folder = bench.work.join(proxy.name).join("callgrind");
        // Profiles of another run would be taken for this one's.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let mut wrapper: Vec<String> =
            ["valgrind", "--tool=callgrind", "--trace-children=yes", "--separate-threads=yes", "--instr-atstart=no"]
                .map(str::to_owned)
                .into();
        wrapper.push(format!("--callgrind-out-file={}/out.%p", folder.display()));
        let running = bench.proxy(proxy, &wrapper)?;
        let allocator = match proxy.is_envoy() {
            false => Allocator::Named,
            true if first_line(&bench.programs.envoy.to_string_lossy(), &["--version"]).contains(ENVOY.0) => {
                Allocator::At(ENVOY.1)
            }
            true => Allocator::Unknown,
        };
        let profiled = Self { bench, proxy, running, folder, dumps: 0, allocator };
        profiled.command("instrumentation on")?;
        Ok(profiled)
    }

    /// What a request of this load costs: it is run with the lower, then with the higher number of requests.
    ///
    /// # Errors
    /// When requests fail or nothing was counted.
    pub fn cost(&mut self, load: &Load, lower: u64, higher: u64) -> Fallible<Cost> {
        let mut counted = Vec::new();
        // The first brings what is done once only: memory, connections, code that was never run.
        for requests in [lower, lower, higher] {
            self.bench.exactly(self.proxy, &Load { amount: Amount::Requests(requests), ..*load })?;
            counted.push(self.dump()?);
        }
        self.bench.steering(self.proxy)?;
        let [_, first, second] = counted.as_slice() else { return Err("nothing was counted".into()) };
        Ok(difference(first, second, (higher - lower) as f64))
    }

    /// Tells every process of the proxy something.
    fn command(&self, words: &str) -> Fallible<()> {
        for pid in self.running.family() {
            let mut command = Command::new("timeout");
            command.args(["60", "vgdb", &format!("--pid={pid}")]).args(words.split(' '));
            let output = command.stdin(Stdio::null()).output()?;
            if !output.status.success() {
                return Err(format!("vgdb {words}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
        }
        Ok(())
    }

    /// What was counted since the last dump, by process and thread.
    fn dump(&mut self) -> Fallible<BTreeMap<String, Thread>> {
        self.command("dump")?;
        self.dumps += 1;
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // out.PID.DUMP-THREAD
            let mut parts = name.trim_start_matches("out.").splitn(2, '.');
            if let (Some(pid), Some((dump, thread))) =
                (parts.next(), parts.next().and_then(|rest| rest.split_once('-')))
                && dump.parse() == Ok(self.dumps)
            {
                let text = std::fs::read(entry.path())?;
                let text = String::from_utf8_lossy(&text);
                threads.insert(format!("{pid}-{thread}"), parse(&text, self.allocator));
            }
        }
        Ok(threads)
    }
}

fn difference(first: &BTreeMap<String, Thread>, second: &BTreeMap<String, Thread>, requests: f64) -> Cost {
    let mut serving = Cost::default();
    let mut all = 0.0;
    for (name, after) in second {
        let before = first.get(name).cloned().unwrap_or_default();
        let instructions = (after.instructions as f64 - before.instructions as f64) / requests;
        all += instructions;
        if instructions > serving.instructions {
            serving.instructions = instructions;
            serving.allocations =
                after.knows_allocator.then(|| (after.allocations as f64 - before.allocations as f64) / requests);
        }
    }
    Cost { all_threads: all, ..serving }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_loads_did_once_falls_out() {
        let threads = |serving: u64, ticking: u64| {
            let thread =
                |instructions| Thread { instructions, allocations: instructions / 1000, knows_allocator: true };
            BTreeMap::from([("7-01".to_owned(), thread(serving)), ("7-02".to_owned(), thread(ticking))])
        };
        let cost = difference(&threads(1_000_000, 50_000), &threads(3_000_000, 150_000), 100.0);
        assert_eq!((cost.instructions, cost.all_threads), (20_000.0, 21_000.0));
        assert_eq!(cost.allocations, Some(20.0));
    }
}
