//! The mesh: three sidecars, and three services of four endpoints each, on four hosts.
//!
//! ```text
//!  the load -> near ---- HTTP/1.1 ---> web-0 on b, web-1 on c, web-2 and web-3 on d
//!                   ---- HTTP/2 -----> feed-0 ... feed-3, likewise
//!                   ==== mTLS, HTTP/2 => far-b, far-c ---- HTTP/1.1 ---> stock-0 ... stock-3, likewise
//! ```
//! What the near sidecar may have of memory and descriptors is limited, where that is allowed.

mod configuration;
mod identities;

use crate::cgroup::Memory;
use crate::endpoint::Mode;
use crate::load::Answered;
use crate::models;
use crate::oracle::{Oracle, Part};
use crate::samples::Samples;
use crate::script::{FAR, PLACES, SERVICES};
use configuration::Near;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pathloom_integration::hosts::Hosts;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::process::Process;
use pathloom_integration::sidecar::get;
use pathloom_integration::wait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// The hosts.
pub const HOSTS: [&str; 4] = ["near", "b", "c", "d"];
/// The names of the sidecars; the far ones follow in the order of `FAR`.
pub const SIDECARS: [&str; 3] = ["near", "far-b", "far-c"];
/// How many file descriptors the near sidecar may have.
pub const DESCRIPTORS: u64 = 400;
/// How much memory the near sidecar may have, in a release build.
pub const MEMORY: u64 = 192 << 20;

/// All of it.
pub struct Mesh {
    /// The machines.
    pub hosts: Hosts,
    /// Who is ill.
    pub oracle: Oracle,
    /// What processes need.
    pub samples: Samples,
    /// What endpoints answer.
    pub answered: Arc<Answered>,
    /// Why the near sidecar's memory is not limited.
    pub unlimited: Option<String>,
    memory: Option<Memory>,
    directory: TempDir,
    pathloom: PathBuf,
    endpoints: Mutex<BTreeMap<(usize, usize), Child>>,
    sidecars: [tokio::sync::Mutex<Option<Process>>; 3],
    /// What happened that should not have.
    pub wrongs: Mutex<Vec<String>>,
    /// The access logs' lines of requests that failed, and the sidecars' own logs, of processes that have ended.
    past: Mutex<Vec<(usize, String, String)>>,
    /// How many binaries, authorities and certificates there were.
    made: Mutex<u32>,
    near: Mutex<Near>,
}

impl Mesh {
    /// Starts everything.
    ///
    /// # Panics
    /// When something cannot be started.
    pub async fn start(hosts: Hosts, pathloom: &Path, memory: u64, begun: std::time::Instant) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let at = directory.path();
        std::fs::write(at.join("model.onnx"), models::GOOD).expect("a file");
        std::fs::write(at.join("another.onnx"), models::another()).expect("a file");
        std::fs::write(at.join("failing.onnx"), models::failing()).expect("a file");
        std::fs::copy(pathloom, at.join("pathloom-0")).expect("the binary can be copied");
        let (memory, unlimited) = match Memory::limit("near", memory) {
            Ok(memory) => (Some(memory), None),
            Err(why) => (None, Some(why)),
        };
        let mesh = Self {
            hosts,
            oracle: Oracle::new(begun),
            samples: Samples::new(begun),
            answered: Arc::default(),
            unlimited,
            memory,
            pathloom: at.join("pathloom-0"),
            directory,
            endpoints: Mutex::default(),
            sidecars: Default::default(),
            wrongs: Mutex::default(),
            past: Mutex::default(),
            made: Mutex::default(),
            near: Mutex::default(),
        };
        mesh.authority("ca");
        SIDECARS.iter().for_each(|name| mesh.issue("ca", name));
        for service in 0..SERVICES.len() {
            for place in 0..PLACES.len() {
                mesh.start_endpoint(service, place).await;
            }
        }
        for index in [1, 2, 0] {
            mesh.write(index, &mesh.configuration(index));
            mesh.start_sidecar(index, &mesh.pathloom).await;
        }
        mesh
    }

    /// A file of this run.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A number that was not given yet.
    pub fn next(&self) -> u32 {
        let mut made = self.made.lock().unwrap();
        *made += 1;
        *made
    }

    /// Notes what should not have happened.
    pub fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("chaos: {what}");
        self.wrongs.lock().unwrap().push(what);
    }

    // Endpoints.

    /// Where an endpoint listens.
    #[must_use]
    pub fn endpoint(&self, service: usize, place: usize) -> SocketAddr {
        let host = self.hosts.index(PLACES[place]);
        SocketAddr::new(self.hosts.mesh(host), 7_000 + (service * 10 + place) as u16)
    }

    /// Starts an endpoint and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_endpoint(&self, service: usize, place: usize) {
        let host = self.hosts.index(PLACES[place]);
        let address = self.endpoint(service, place);
        let program = std::env::current_exe().expect("this program's file");
        let mut command = self.hosts.command(host, program);
        command.args([
            "endpoint",
            "--listen",
            &address.to_string(),
            "--name",
            &format!("{}-{place}", SERVICES[service]),
        ]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("an endpoint");
        if let Some(mut before) = self.endpoints.lock().unwrap().insert((service, place), child) {
            let _ = before.kill();
            let _ = before.wait();
        }
        wait::eventually("the endpoint to listen", || tokio::net::TcpStream::connect(address)).await;
    }

    /// The place of a service's endpoint that answers most at the moment.
    pub async fn busiest(&self, service: usize) -> usize {
        let before = self.answered.of(service);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = self.answered.of(service);
        (0..PLACES.len()).max_by_key(|place| now[*place] - before[*place]).unwrap_or(0)
    }

    /// Tells an endpoint how to behave.
    pub fn tell(&self, service: usize, place: usize, mode: Mode) {
        let mut endpoints = self.endpoints.lock().unwrap();
        let input = endpoints.get_mut(&(service, place)).and_then(|child| child.stdin.as_mut());
        if input.is_none_or(|input| writeln!(input, "{}", mode.line()).is_err()) {
            drop(endpoints);
            self.wrong(format!("{}-{place} cannot be told anything", SERVICES[service]));
        }
    }

    /// Sends an endpoint's process a signal.
    pub fn signal(&self, service: usize, place: usize, signal: Signal) {
        if let Some(child) = self.endpoints.lock().unwrap().get_mut(&(service, place)) {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
            if signal == Signal::SIGKILL {
                let _ = child.wait();
            }
        }
    }

    /// Waits until an endpoint that was told to leave has left.
    pub async fn gone(&self, service: usize, place: usize) {
        wait::until("the endpoint to leave", || {
            let mut endpoints = self.endpoints.lock().unwrap();
            endpoints.get_mut(&(service, place)).is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_some()))
        })
        .await;
    }

    /// Everything that runs on a host but for the endpoints of the caller's choice: for a cut where there are no namespaces.
    pub fn signal_host(&self, name: &str, signal: Signal) {
        for service in 0..SERVICES.len() {
            for place in (0..PLACES.len()).filter(|place| PLACES[*place] == name) {
                self.signal(service, place, signal);
            }
        }
    }

    // Sidecars.

    fn host_of(&self, sidecar: usize) -> usize {
        if sidecar == 0 { 0 } else { self.hosts.index(FAR[sidecar - 1]) }
    }

    /// A sidecar's admin port.
    #[must_use]
    pub fn admin(&self, sidecar: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.control(self.host_of(sidecar)), 9_901)
    }

    /// Where the near sidecar takes requests.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        SocketAddr::new(self.hosts.control(0), 15_001)
    }

    fn far(&self, far: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.mesh(self.hosts.index(FAR[far])), 15_443)
    }

    /// What an admin port says.
    pub async fn json(&self, sidecar: usize, path: &str) -> Value {
        match tokio::time::timeout(Duration::from_secs(5), get(self.admin(sidecar), path)).await {
            Ok(Ok((200, body))) => serde_json::from_str(&body).unwrap_or_default(),
            _ => Value::Null,
        }
    }

    /// A sidecar's metrics; none where it says nothing.
    pub async fn metrics(&self, sidecar: usize) -> Option<Metrics> {
        match tokio::time::timeout(Duration::from_secs(5), get(self.admin(sidecar), "/metrics")).await {
            Ok(Ok((200, body))) => Some(Metrics::parse(&body)),
            _ => None,
        }
    }

    /// Starts a sidecar, in the place of the one that runs, if one does; waits until it is ready and the other one gone.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_sidecar(&self, sidecar: usize, binary: &Path) {
        let mut slot = self.sidecars[sidecar].lock().await;
        let mut command = self.hosts.command(self.host_of(sidecar), "prlimit");
        if sidecar == 0 {
            command.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"));
        } else {
            command.arg("--core=0");
        }
        command.arg(binary).args(["run", "--config"]).arg(self.file(&format!("{}.yaml", SIDECARS[sidecar])));
        command.env("RUST_BACKTRACE", "1");
        let mut process =
            Process::start_keeping(command, |line| line.contains("\"reason\":\"") || line.contains("\"status\":5"));
        if let (0, Some(memory)) = (sidecar, &self.memory)
            && let Err(why) = memory.add(process.id())
        {
            self.wrong(why);
        }
        // The one before has left its place when it ends; without one, the admin port says when it is ready.
        if let Some(mut before) = slot.take() {
            match tokio::time::timeout(Duration::from_secs(30), before.end(Duration::from_secs(60))).await {
                Ok(status) => self.ended(sidecar, before, Some(status)),
                Err(_) => self.ended(sidecar, before, None),
            }
        }
        self.samples.begins(SIDECARS[sidecar], process.id());
        let admin = self.admin(sidecar);
        wait::eventually("the sidecar to be ready", || {
            let ended = process.ended();
            let log = if ended.is_some() { process.stderr.text() } else { String::new() };
            async move {
                assert!(ended.is_none(), "a sidecar ended at once: {ended:?}\n{log}");
                match get(admin, "/ready").await {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            }
        })
        .await;
        *slot = Some(process);
    }

    /// Replaces a sidecar's binary under load.
    pub async fn upgrade(&self, sidecar: usize) {
        let next = self.file(&format!("pathloom-{}", self.next()));
        std::fs::copy(&self.pathloom, &next).expect("the binary can be copied");
        self.start_sidecar(sidecar, &next).await;
        let _ = std::fs::remove_file(next);
    }

    /// Kills a sidecar.
    pub async fn kill_sidecar(&self, sidecar: usize) {
        if let Some(mut process) = self.sidecars[sidecar].lock().await.take() {
            process.signal(Signal::SIGKILL);
            process.end(Duration::from_secs(10)).await;
            self.samples.ends(process.id());
            self.keep(sidecar, &process);
        }
    }

    /// Starts a sidecar anew that was killed.
    pub async fn start_again(&self, sidecar: usize) {
        self.start_sidecar(sidecar, &self.pathloom).await;
    }

    /// The id of a sidecar's process.
    pub async fn process(&self, sidecar: usize) -> u32 {
        self.sidecars[sidecar].lock().await.as_ref().map_or(0, Process::id)
    }

    fn ended(&self, sidecar: usize, process: Process, status: Option<ExitStatus>) {
        self.samples.ends(process.id());
        let name = SIDECARS[sidecar];
        match status {
            Some(status) if status.code() == Some(0) => {}
            Some(status) => self.wrong(format!("{name} ended: {status}\n{}", tail(&process.stderr.text()))),
            None => self.wrong(format!("{name} did not leave when another one had taken its place")),
        }
        self.keep(sidecar, &process);
    }

    fn keep(&self, sidecar: usize, process: &Process) {
        self.past.lock().unwrap().push((sidecar, process.stdout.text(), process.stderr.text()));
    }

    /// Whether a sidecar runs; what is wrong is noted.
    pub async fn watch(&self, sidecar: usize) -> bool {
        // Whoever replaces it looks after it.
        let Ok(mut slot) = self.sidecars[sidecar].try_lock() else { return true };
        let Some(process) = slot.as_mut() else { return true };
        match process.ended() {
            None => true,
            Some(status) => {
                let process = slot.take().expect("it was there");
                self.wrong(format!("{} crashed: {status}\n{}", SIDECARS[sidecar], tail(&process.stderr.text())));
                self.samples.ends(process.id());
                self.keep(sidecar, &process);
                false
            }
        }
    }

    /// What the sidecars wrote: each one's lines of requests that failed, and its own log.
    pub async fn logs(&self) -> Vec<(usize, String, String)> {
        let mut all = self.past.lock().unwrap().clone();
        for (index, slot) in self.sidecars.iter().enumerate() {
            if let Some(process) = slot.lock().await.as_ref() {
                all.push((index, process.stdout.text(), process.stderr.text()));
            }
        }
        all
    }

    /// The most memory that the near sidecar ever had, its next one beside it included, in bytes.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        self.memory.as_ref().and_then(Memory::peak)
    }

    /// Lets everybody leave.
    pub async fn stop(&self) {
        for (index, slot) in self.sidecars.iter().enumerate() {
            if let Some(mut process) = slot.lock().await.take() {
                process.signal(Signal::SIGTERM);
                let ended = tokio::time::timeout(Duration::from_secs(30), process.end(Duration::from_secs(60))).await;
                self.ended(index, process, ended.ok());
            }
        }
    }

    /// Notes that a part is ill, or well.
    pub fn mark(&self, parts: &[Part], ill: bool) {
        parts.iter().for_each(|part| if ill { self.oracle.ill(*part) } else { self.oracle.well(*part) });
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for child in self.endpoints.lock().unwrap().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A log's last lines.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
