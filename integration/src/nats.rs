//! A NATS server: Debian's, as a process, on an address that stays the same when it is killed and started anew.

use crate::process::{self, Process};
use crate::wait;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long its end may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The server's program. Where it is missing a test on a developer's machine is skipped, loudly; in CI it fails.
///
/// # Panics
/// In CI, when it is missing.
#[must_use]
pub fn program() -> Option<PathBuf> {
    process::tool("nats-server", "nats-server")
}

/// The configuration of a server that listens there; `more` stands beside that.
#[must_use]
pub fn configuration(listen: SocketAddr, more: &str) -> String {
    format!("listen: \"{listen}\"\n{more}\n")
}

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    _folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts one, and waits until it answers; `more` stands in its configuration beside the address.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(program: &Path, address: SocketAddr, more: &str) -> Self {
        let folder = TempDir::new().expect("a temporary directory");
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, configuration(address, more)).expect("its configuration is written");
        let mut command = Command::new(program);
        command.arg("--config").arg(file);
        let server = Self { process: Process::start(command), _folder: folder, address };
        wait::eventually("the NATS server to answer", async || match greeting(address).await {
            Some(_) => Ok(()),
            None => Err(server.process.stderr.text()),
        })
        .await;
        server
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.end(LIMIT).await;
    }
}

/// What a server says first; none where nobody does.
async fn greeting(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut info = [0; 5];
    tokio::time::timeout(Duration::from_secs(1), stream.read_exact(&mut info)).await.ok()?.ok()?;
    (&info == b"INFO ").then_some(stream)
}

/// Publishes a message as anybody can who is let in, and waits until the server has taken it.
///
/// # Panics
/// When it is not let in.
pub async fn publish(address: SocketAddr, subject: &str, payload: &[u8]) {
    let mut stream = greeting(address).await.expect("a server");
    let mut text = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec();
    text.extend(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
    text.extend(payload);
    text.extend(b"\r\nPING\r\n");
    stream.write_all(&text).await.expect("a server that reads");
    let mut said = Vec::new();
    wait::soon("the server's answer", async {
        while !said.windows(6).any(|part| part == b"PONG\r\n") {
            let mut part = [0; 512];
            let read = stream.read(&mut part).await.expect("a server that answers");
            assert!(read > 0, "it has closed: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..read]);
        }
    })
    .await;
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("-ERR"), "{said}");
}
