//! Processes: their limits, their life, and what the kernel says about them.

use crate::Fallible;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to serve. Under callgrind everything is fifty times slower.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long a program may take to end.
const END_WITHIN: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long strace may take to attach.
const TRACED_WITHIN: Duration = Duration::from_secs(20);

/// Raises the limit of open files to what the system allows; children inherit it. Where it cannot be raised, whoever
/// needs more says so.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// A command that runs on one core and ends with us, however we end.
pub fn on_core(core: usize, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string(), program]);
    command
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program whose words go into `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Fallible<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all ports accept connections.
    ///
    /// # Errors
    /// When the program ends, or takes too long.
    pub fn ready(&mut self, ports: &[u16]) -> Fallible<()> {
        let begun = Instant::now();
        for port in ports {
            while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], *port))).is_err() {
                if let Some(status) = self.child.try_wait()? {
                    return Err(format!("it ended ({status}): {}", self.last_words()).into());
                }
                if begun.elapsed() > READY_WITHIN {
                    return Err(format!("port {port} is not served: {}", self.last_words()).into());
                }
                std::thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }

    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Lets strace count the system calls of all its threads and processes into `file`, until it is interrupted.
    ///
    /// # Errors
    /// When strace is not there, or does not attach.
    pub fn trace(&self, file: &Path) -> Fallible<Child> {
        let family = self.family();
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-q", "-U", "name,calls", "-o"]).arg(file);
        for pid in &family {
            command.arg("-p").arg(pid.to_string());
        }
        let mut strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let begun = Instant::now();
        let traced = |pid: &u32| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            threads.into_iter().all(|thread| {
                let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            })
        };
        while !family.iter().all(traced) {
            if let Some(status) = strace.try_wait()? {
                return Err(format!("strace ended: {status}").into());
            }
            if begun.elapsed() > TRACED_WITHIN {
                let _ = strace.kill();
                return Err("strace does not attach".into());
            }
            std::thread::sleep(ASK_EVERY);
        }
        Ok(strace)
    }

    /// The process and all below it.
    pub fn family(&self) -> Vec<u32> {
        family(self.pid())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        signal(self.pid(), "TERM");
        let begun = Instant::now();
        while begun.elapsed() < END_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(ASK_EVERY);
        }
        // It does not want to; its children end with it or have nobody to serve.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if name == "INT" { Signal::INT } else { Signal::TERM };
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // Whoever is gone needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// A process and all below it, from `/proc`.
pub fn family(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok())
        {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![root];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// The fields of `/proc/PID/stat` after the name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Processor time of a family in nanoseconds: of its threads by the scheduler's own account, which has no ticks.
pub fn cpu_ns(family: &[u32]) -> u64 {
    let mut sum = 0;
    for pid in family {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

/// Resident memory of a family in kibibytes: summed by process, and with shared pages shared out.
pub fn memory_kib(family: &[u32]) -> (u64, u64) {
    let mut sum = (0, 0);
    for pid in family {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        sum = (sum.0 + field("Rss:"), sum.1 + field("Pss:"));
    }
    sum
}

/// All processors' busy and total time since the start, in ticks. Busy is what programs took, and what the host took
/// from this machine; interrupts are left out, since nobody can say whose they were.
pub fn busy_ticks() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen.
    let busy = [0, 1, 2, 7].iter().filter_map(|at| fields.get(*at)).sum();
    (busy, fields.iter().sum())
}

/// What this process took, with its children that have ended and the family that runs, in ticks.
pub fn own_ticks(running: &[u32]) -> u64 {
    const NS_A_TICK: u64 = 10_000_000;
    let fields = stat(std::process::id()).unwrap_or_default();
    // utime, stime, cutime, cstime: the 14th to 17th, counted from the name's 2nd.
    let own: u64 = fields.iter().skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum();
    own + cpu_ns(running) / NS_A_TICK
}

/// The body of `GET path` from a port on this machine.
///
/// # Errors
/// When there is no answer, or another than 200.
pub fn get(port: u16, path: &str) -> Fallible<String> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("not HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()).into());
    }
    Ok(body.to_owned())
}

/// The share of all processors that was busy since `busy_ticks` gave `before`.
pub fn busy_since(before: (u64, u64)) -> f64 {
    busy_since_but(before, 0)
}

/// The same, less these ticks.
pub fn busy_since_but(before: (u64, u64), own: u64) -> f64 {
    let now = busy_ticks();
    (now.0 - before.0).saturating_sub(own) as f64 / (now.1 - before.1).max(1) as f64
}

/// Reads strace's table of names and calls ([`Running::trace`]), without its total.
pub fn system_calls(text: &str) -> BTreeMap<String, f64> {
    let rows = text.lines().filter_map(|line| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        Some((name.to_owned(), calls.trim().parse::<f64>().ok()?))
    });
    rows.filter(|(name, _)| name != "total").collect()
}
