//! Counts of a load, as the difference of two of different length: what is done once falls out.
//!
//! **Instructions and allocations** are those of all of the proxy's threads: nothing works by the clock here, and whoever
//! handed its cryptography to another thread would pay for it all the same.

use crate::Fallible;
use crate::parties::Client;
use crate::process::{self, Running};
use crate::profile::{Allocator, parse};
use crate::proxies::Proxy;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What one of a load costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// User instructions.
    pub instructions: f64,
    /// Calls for memory.
    pub allocations: f64,
}

/// All that was counted of a load.
pub struct Counted {
    /// By round.
    pub cost: Vec<Cost>,
    /// System calls, by round.
    pub calls: Vec<f64>,
    /// How the client's handshakes went.
    pub handshakes: String,
}

/// Counts the lower and the higher number of requests in each round; gives the differences, for one request.
fn rounds(
    client: &mut Client,
    rounds: usize,
    mut counted: impl FnMut(&mut Client, usize) -> Fallible<Cost>,
) -> Fallible<Vec<Cost>> {
    let (lower, more) = client.load().amount();
    // The first brings what is done once only: memory, connections, code that was never run.
    client.ask(lower)?;
    let mut all = Vec::new();
    for _ in 0..rounds {
        let (first, second) = (counted(client, lower)?, counted(client, lower + more)?);
        all.push(Cost {
            instructions: (second.instructions - first.instructions) / more as f64,
            allocations: (second.allocations - first.allocations) / more as f64,
        });
    }
    Ok(all)
}

/// A proxy below callgrind.
pub struct Profiled {
    running: Running,
    folder: PathBuf,
    dumps: usize,
}

impl Profiled {
    /// Starts it.
    pub fn start(proxy: &Proxy) -> Fallible<Self> {
        let folder = proxy.folder().join("callgrind");
        std::fs::create_dir_all(&folder)?;
        let mut wrapper: Vec<String> =
            ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no"].map(str::to_owned).into();
        wrapper.push(format!("--callgrind-out-file={}/out", folder.display()));
        let running = proxy.start(&wrapper)?;
        let profiled = Self { running, folder, dumps: 0 };
        profiled.tell("instrumentation on")?;
        Ok(profiled)
    }

    /// What one of this client's requests costs, by round.
    pub fn cost(&mut self, client: &mut Client, times: usize) -> Fallible<Vec<Cost>> {
        rounds(client, times, |client, requests| {
            self.dump()?;
            client.ask(requests)?;
            self.dump()
        })
    }

    fn tell(&self, words: &str) -> Fallible<()> {
        let mut command = Command::new("timeout");
        command.args(["60", "vgdb", &format!("--pid={}", self.running.pid())]).args(words.split(' '));
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(format!("vgdb {words}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }

    /// What was counted since the last dump.
    fn dump(&mut self) -> Fallible<Cost> {
        self.tell("dump")?;
        self.dumps += 1;
        let mut cost = Cost::default();
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // out.DUMP-THREAD
            if name
                .strip_prefix("out.")
                .and_then(|rest| rest.split_once('-'))
                .is_some_and(|(n, _)| n.parse() == Ok(self.dumps))
            {
                let text = std::fs::read(entry.path())?;
                let thread = parse(&String::from_utf8_lossy(&text), Allocator::Named);
                cost.instructions += thread.instructions as f64;
                cost.allocations += thread.allocations as f64;
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(cost)
    }
}

/// A proxy whose system calls are counted.
pub struct Traced {
    running: Running,
    file: PathBuf,
}

impl Traced {
    /// Starts it.
    pub fn start(proxy: &Proxy) -> Fallible<Self> {
        Ok(Self { running: proxy.start(&[])?, file: proxy.folder().join("strace") })
    }

    /// System calls of one of this client's requests, by round.
    pub fn calls(&self, client: &mut Client, times: usize) -> Fallible<Vec<f64>> {
        let counted = rounds(client, times, |client, requests| {
            let mut strace = self.running.trace(&self.file)?;
            let done = client.ask(requests);
            process::signal(strace.id(), "INT");
            strace.wait()?;
            done?;
            let calls = process::system_calls(&std::fs::read_to_string(&self.file)?).values().sum();
            Ok(Cost { instructions: calls, allocations: 0.0 })
        })?;
        Ok(counted.into_iter().map(|cost| cost.instructions).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_added_up_without_its_total() {
        let text = "syscall              calls\n---------------- ---------\nrecvfrom              2000\nepoll_wait              40\n\
                    ---------------- ---------\ntotal                 2040\n";
        assert_eq!(process::system_calls(text).values().sum::<f64>(), 2040.0);
    }
}
