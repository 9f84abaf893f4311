//! The sidecar under test: the product's binary as a process of its own.
//!
//! A configuration is written as an operator would, except that `@name@` stands for an address with a free port, the
//! same wherever the name comes up again. `@admin@` is the admin port's. Where the text says nothing of `admin` or of
//! the access log, a test gets its admin port and no access log.

use crate::metrics::Metrics;
use crate::process::Process;
use crate::{ports, wait};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How often a start is tried again when somebody else took a port first.
const ATTEMPTS: usize = 5;

/// How to start one.
#[derive(Debug, Clone)]
pub struct Setup {
    binary: PathBuf,
    yaml: String,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    open_files: Option<(&'static str, u64)>,
    user: Option<u32>,
    addresses: BTreeMap<String, SocketAddr>,
}

/// A running sidecar. Dropping it kills it.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Process,
    directory: TempDir,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Setup {
    /// This binary with this configuration.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, yaml: impl Into<String>) -> Self {
        Self {
            binary: binary.into(),
            yaml: yaml.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            open_files: None,
            user: None,
            addresses: BTreeMap::new(),
        }
    }

    /// With this argument on top.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// With this soft limit of open files.
    #[must_use]
    pub fn open_files(mut self, soft: u64) -> Self {
        self.open_files = Some(("-S", soft));
        self
    }

    /// With this limit of open files, which it cannot raise.
    #[must_use]
    pub fn most_open_files(mut self, hard: u64) -> Self {
        self.open_files = Some(("", hard));
        self
    }

    /// As this user, who may read the configuration, too. Only root can ask for that.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// With this address for `@name@` instead of a free one.
    #[must_use]
    pub fn address(mut self, name: &str, address: SocketAddr) -> Self {
        self.addresses.insert(name.to_owned(), address);
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it ends, or is never ready.
    pub async fn start(self) -> Sidecar {
        for _ in 0..ATTEMPTS {
            let mut sidecar = self.spawn();
            match sidecar.ready().await {
                Ok(()) => return sidecar,
                Err(status) if sidecar.stderr().contains("cannot listen") => {
                    eprintln!("somebody took a port ({status}); again with others");
                }
                Err(status) => panic!("the sidecar ended at once: {status}\n{}", sidecar.stderr()),
            }
        }
        panic!("no free ports in {ATTEMPTS} attempts");
    }

    /// Starts it, and waits for nothing.
    #[must_use]
    pub fn spawn(&self) -> Sidecar {
        let directory = TempDir::new().expect("a temporary directory");
        let mut addresses = self.addresses.clone();
        let file = directory.path().join("pathloom.yaml");
        std::fs::write(&file, fill(&self.yaml, &mut addresses)).expect("the configuration is written");
        let mut command = match self.open_files {
            None => Command::new(&self.binary),
            Some((kind, limit)) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit {kind} -n {limit} && exec \"$0\" \"$@\"")]).arg(&self.binary);
                shell
            }
        };
        command.args(["run", "--config"]).arg(&file).args(&self.arguments).env("RUST_BACKTRACE", "1");
        command.envs(self.variables.iter().map(|(k, v)| (k, v)));
        if let Some(user) = self.user {
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
            command.uid(user).gid(user);
        }
        Sidecar { process: Process::start(command), directory, addresses }
    }
}

/// Puts addresses in the place of their names, and adds what a test needs and did not say.
fn fill(yaml: &str, addresses: &mut BTreeMap<String, SocketAddr>) -> String {
    let has = |section: &str| yaml.lines().any(|l| l.starts_with(section));
    let mut text = yaml.trim_end().to_owned() + "\n";
    if !has("admin:") {
        text.push_str("admin: { listen: '@admin@' }\n");
    }
    if !has("telemetry:") {
        text.push_str("telemetry: { access_log: { to: 'off' } }\n");
    }
    let mut out = String::new();
    let mut parts = text.split('@');
    while let Some(plain) = parts.next() {
        out.push_str(plain);
        let Some(name) = parts.next() else { break };
        let address = addresses.entry(name.to_owned()).or_insert_with(|| ports::free(ports::own_ip(0)));
        out.push_str(&address.to_string());
    }
    out
}

impl Sidecar {
    /// The address that stands for `@name@`.
    ///
    /// # Panics
    /// When the configuration has no such name.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        *self.addresses.get(name).unwrap_or_else(|| panic!("no @{name}@ in the configuration"))
    }

    /// Its configuration file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("pathloom.yaml")
    }

    /// A directory that lives as long as it does.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it logged.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    /// The log's warnings and errors, but for steps of the ladder: on a busy machine the model may be late.
    pub fn warnings(&self) -> Vec<String> {
        let log = self.stderr();
        let bad = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        log.lines().filter(bad).filter(|line| !line.contains(" the ladder ")).map(str::to_owned).collect()
    }

    /// Waits until it is ready, or says how it ended.
    async fn ready(&mut self) -> Result<(), ExitStatus> {
        let admin = self.address("admin");
        let stderr = self.process.stderr.clone();
        let process = &mut self.process;
        wait::eventually("the sidecar to be ready", || {
            let ended = process.ended();
            let log = stderr.text();
            async move {
                match (ended, get(admin, "/ready").await) {
                    (Some(status), _) => Ok(Err(status)),
                    (None, Ok((200, _))) => Ok(Ok(())),
                    (None, seen) => Err(format!("{seen:?}\n{log}")),
                }
            }
        })
        .await
    }

    /// Writes another configuration; the sidecar sees by itself that the file changed. `@name@` means what it meant.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn reload(&mut self, yaml: &str) {
        // Renamed into place, as editors and Kubernetes do: never half a file.
        let text = fill(yaml, &mut self.addresses);
        let next = self.directory.path().join("next.yaml");
        std::fs::write(&next, text).expect("the next configuration is written");
        std::fs::rename(&next, self.file()).expect("the configuration is replaced");
    }

    /// Asks it to read its file again.
    pub fn sighup(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Asks it to leave.
    pub fn sigterm(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Changes the configuration and waits until it is in force.
    ///
    /// # Panics
    /// When it is refused, or nothing comes of it.
    pub async fn reload_and_wait(&mut self, yaml: &str) {
        let (ok, failed) = self.reloads().await;
        self.reload(yaml);
        self.reloaded(ok + 1, failed).await;
    }

    /// Waits for so many configurations in force and so many refused since the start, the first one counted.
    ///
    /// # Panics
    /// When it does not come to that, or to more refusals.
    pub async fn reloaded(&self, ok: u64, failed: u64) {
        wait::eventually("the configuration to be in force", || async {
            let seen = self.reloads().await;
            if seen.1 > failed {
                panic!("the configuration was refused: {}", self.config().await["last_error"]["text"]);
            }
            if seen.0 >= ok && seen.1 == failed { Ok(()) } else { Err(format!("{seen:?}\n{}", self.stderr())) }
        })
        .await;
    }

    /// How many configurations took effect, and how many were refused.
    pub async fn reloads(&self) -> (u64, u64) {
        let config = self.config().await;
        let count = |key: &str| config["reloads"][key].as_u64().expect("a count");
        (count("ok"), count("failed"))
    }

    /// An answer of the admin port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let admin = self.address("admin");
        wait::soon(path, get(admin, path)).await.unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.stderr()))
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    /// `/routing`.
    pub async fn routing(&self) -> Value {
        self.json("/routing").await
    }

    /// `/config`, as JSON.
    pub async fn config(&self) -> Value {
        self.json("/config?format=json").await
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics").await;
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// The number of the generation in force.
    pub async fn generation(&self) -> u64 {
        self.metrics().await.get("pathloom_generation_id", &[]).expect("a generation") as u64
    }

    /// What `/routing` says of each endpoint of a cluster, for its first workload: by address.
    pub async fn candidates(&self, cluster: &str) -> BTreeMap<SocketAddr, Value> {
        let routing = self.json(&format!("/routing?cluster={cluster}")).await;
        let candidates = routing["tables"][0]["candidates"].as_array().cloned().unwrap_or_default();
        let address = |c: &Value| c["address"].as_str().and_then(|a| a.parse().ok()).expect("an address");
        candidates.into_iter().map(|c| (address(&c), c)).collect()
    }

    /// Waits until it has logged this: its lines are read by a thread of their own.
    pub async fn logged(&self, text: &str) {
        wait::eventually("a line in the log", || async {
            let log = self.stderr();
            if log.contains(text) { Ok(()) } else { Err(format!("{text:?} is not in\n{log}")) }
        })
        .await;
    }

    /// Waits until so many are counted: what is over may be counted a moment later than its client knows.
    pub async fn counted(&self, count: impl Fn(&Metrics) -> f64, expected: f64) {
        wait::eventually("the count", || async {
            let metrics = self.metrics().await;
            let counted = count(&metrics);
            let why = || format!("{counted}, not {expected}; failures: {:?}", metrics.all_failures());
            if counted == expected { Ok(()) } else { Err(why()) }
        })
        .await;
    }

    /// Fails when the sidecar panicked at some point.
    ///
    /// # Panics
    /// Then.
    pub fn assert_no_panic(&self) {
        let log = self.stderr();
        assert!(!log.contains("panicked at"), "the sidecar panicked:\n{log}");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.stderr();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the sidecar's log, its end ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// One GET on a connection of its own: status and body.
///
/// # Errors
/// When nobody listens or the answer breaks off.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), std::io::Error> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut raw = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut raw)).await??;
    let answer = crate::client::raw::Answer::parse(&raw).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_the_same_address_wherever_they_come_up() {
        let mut addresses = BTreeMap::new();
        let first = fill("workloads: { a: { listen: '@a@' }, b: { listen: '@b@' } }", &mut addresses);
        let second = fill("workloads: { a: { listen: '@a@' } }\nadmin: { listen: '@b@' }", &mut addresses);
        let (a, b) = (addresses["a"], addresses["b"]);
        assert!(a != b && first.contains(&format!("listen: '{a}'")) && first.contains("admin:"), "{first}");
        assert!(second.contains(&a.to_string()) && second.contains(&format!("admin: {{ listen: '{b}' }}")), "{second}");
    }
}
