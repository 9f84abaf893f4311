//! A child process whose output is collected, whose memory can be asked for, and which does not outlive its owner.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Lines that a process wrote.
#[derive(Debug, Clone, Default)]
pub struct Output(Arc<Mutex<String>>);

impl Output {
    /// All of it so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn collect(&self, from: impl Read + Send + 'static, keep: fn(&str) -> bool) -> std::thread::JoinHandle<()> {
        let text = self.0.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(from);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let written = String::from_utf8_lossy(&line);
                if keep(&written) {
                    text.lock().unwrap().push_str(&written);
                }
                line.clear();
            }
        })
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    readers: Vec<std::thread::JoinHandle<()>>,
    /// What it wrote to its standard output.
    pub stdout: Output,
    /// What it wrote to its standard error.
    pub stderr: Output,
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: Command) -> Self {
        Self::start_keeping(command, |_| true)
    }

    /// Starts it, and keeps of its standard output only some lines: what it says in hours may be too much.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_keeping(mut command: Command, keep: fn(&str) -> bool) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (stdout, stderr) = (Output::default(), Output::default());
        let readers = vec![
            stdout.collect(child.stdout.take().expect("piped"), keep),
            stderr.collect(child.stderr.take().expect("piped"), |_| true),
        ];
        Self { child, readers, stdout, stderr }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process can be signalled");
    }

    /// How it ended, if it did; then all of its output has been collected.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("the process can be asked")?;
        self.readers.drain(..).for_each(|r| r.join().expect("the output is collected"));
        Some(status)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended after `limit`.
    pub async fn end(&mut self, limit: Duration) -> ExitStatus {
        crate::wait::within(limit, "the process to end", || {
            let ended = self.ended().ok_or("it runs");
            async move { ended }
        })
        .await
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn peak_resident(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Its soft limit of open files.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn open_files_limit(&self) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.id())).expect("its limits");
        let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("the limit of open files");
        line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).expect("a number")
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("its descriptors").count()
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("its status");
        let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {status}"));
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.readers.drain(..).for_each(|r| drop(r.join()));
    }
}

/// Runs a command to its end and gives its exit code, standard output and standard error. Call it where blocking is fine.
///
/// # Panics
/// When it cannot be started, or a signal ended it.
#[must_use]
pub fn run(mut command: Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status));
    (code, text(output.stdout), text(output.stderr))
}

/// This machine's processor, in words.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    format!("{}, {cores} cores", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// Raises this process's limit of open files; gives what it is then.
///
/// # Panics
/// When the system refuses to say.
pub fn raise_open_files(wanted: u64) -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    if soft < wanted {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
    getrlimit(Resource::RLIMIT_NOFILE).expect("the limit").0
}

/// The path of a tool that tests need but this repository does not bring. Where it is missing, a test on a developer's
/// machine is skipped, loudly; in CI it fails.
///
/// # Panics
/// In CI, when the tool is missing.
#[must_use]
pub fn tool(name: &str, package: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("`{name}` is missing: apt-get install {package}"));
    }
    found
}

/// Says that a test is skipped, and why.
///
/// # Panics
/// In CI, where nothing may be skipped.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "in CI nothing is skipped: {why}");
    eprintln!("SKIPPED: {why}");
}
