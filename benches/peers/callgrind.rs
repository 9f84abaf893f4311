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
use pathloom_benches::host::first_line;
use std::collections::{BTreeMap, HashMap, HashSet};
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

/// What callgrind says of one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Thread {
    instructions: u64,
    allocations: u64,
    knows_allocator: bool,
}

/// What is known of a program's allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allocator {
    /// Its functions have names.
    Named,
    /// Some have, and this one, by its address.
    At(&'static str),
    /// Most of it has no names.
    Unknown,
}

impl Allocator {
    fn allocates(self, name: &str) -> bool {
        allocates(name) || matches!(self, Self::At(address) if address == name)
    }
}

/// Reads callgrind's format ("Callgrind Format Specification", valgrind's manual): names are given once with a number
/// and by number from then on; `calls=` follows the name of the function that is called.
fn parse(text: &str, allocator: Allocator) -> Thread {
    let mut thread = Thread { knows_allocator: allocator != Allocator::Unknown, ..Thread::default() };
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut allocators: HashSet<&str> = HashSet::new();
    let (mut within, mut called) = ("", "");
    for line in text.lines() {
        let (key, value) = match line.split_once('=') {
            Some(split) => split,
            None => {
                if let Some(totals) = line.strip_prefix("totals:") {
                    thread.instructions = totals.trim().parse().unwrap_or(0);
                }
                continue;
            }
        };
        if matches!(key, "fn" | "cfn") {
            let (number, name) = value.split_once(' ').unwrap_or((value, ""));
            if !name.is_empty() {
                names.insert(number, name);
                if allocator.allocates(name) {
                    allocators.insert(number);
                }
            }
            if key == "fn" {
                within = number;
            } else {
                called = number;
            }
        } else if key == "calls" && allocators.contains(called) {
            let inside = names.get(within).is_some_and(|name| belongs_to_allocator(name));
            if !inside {
                thread.allocations += value.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    thread
}

/// Whether a function gives memory to whoever calls it.
fn allocates(name: &str) -> bool {
    // callgrind marks recursion with a quote and a number, and versions of symbols with an at sign.
    let name = name.split(['\'', '@']).next().unwrap_or_default();
    let glibc = ["malloc", "calloc", "realloc", "memalign", "posix_memalign", "aligned_alloc", "valloc"];
    let glibc_inside = ["__libc_malloc", "__libc_calloc", "__libc_realloc", "__libc_memalign", "_mid_memalign"];
    glibc.contains(&name)
        || glibc_inside.contains(&name)
        || name.starts_with("operator new")
        || name.starts_with("_Znwm")
        || name.starts_with("_Znam")
        || (name.starts_with("mi_") && ["alloc", "zalloc", "new"].iter().any(|part| name.contains(part)))
}

/// Whether a function is the allocator's own, so that what it asks for is no further allocation.
fn belongs_to_allocator(name: &str) -> bool {
    allocates(name) || name.starts_with("_mi_") || name.starts_with("mi_") || name.starts_with("_int_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_calls_from_outside_of_the_allocator() {
        let text = "events: Ir\n\nfn=(1) serve\n12 100\ncfn=(2) malloc\ncalls=3 20\n13 600\ncfn=(3) memcpy\ncalls=9 1\n\
                    14 90\n\nfn=(4) mi_malloc_aligned\ncfn=(5) mi_malloc\ncalls=7 20\n13 600\n\nfn=(6) route\n\
                    cfn=(2)\ncalls=2 20\n1 1\ncfn=(4)\ncalls=5 20\n1 1\n\ntotals: 1234\n";
        assert_eq!(
            parse(text, Allocator::Named),
            Thread { instructions: 1234, allocations: 3 + 2 + 5, knows_allocator: true }
        );
    }

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
