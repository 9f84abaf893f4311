//! A whole HTTP/1.1 request through `pathloom run`: one client connection, one request after another, four endpoints, an
//! answer of 1 KB. Upstream and client are threads of this process, the sidecar alone runs under valgrind.

use super::counted::{between_marks, missing, valgrind};
use super::{Error, mark::guard_mark};
use pathloom_benches::STILL;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Its name among the figures.
pub const NAME: &str = "request, HTTP/1.1";

const WARM_UP: usize = 300;
const REQUESTS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);
const ENDPOINTS: usize = 4;
const BODY: usize = 1024;
const REQUEST: &[u8] =
    b"GET /items/7 HTTP/1.1\r\nhost: catalog.shop\r\nuser-agent: guard/1\r\naccept: */*\r\naccept-encoding: gzip\r\n\r\n";

/// The sidecar, which marks at each line on its standard input. Never returns while that is open.
pub fn sidecar() -> ExitCode {
    std::thread::spawn(|| {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            guard_mark();
            println!("marked");
        }
    });
    pathloom::app::main()
}

/// User instructions of one request.
pub fn count() -> Result<u64, Error> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("guard.yaml");
    let listen = free_address()?;
    std::fs::write(&config, configuration(listen, free_address()?)?)?;
    let mut sidecar = Sidecar::start(folder.path(), &config)?;
    let mut client = Client::connect(listen, &mut sidecar.0)?;
    client.requests(WARM_UP)?;
    // What a mark itself takes is between the first two, and taken off.
    sidecar.mark()?;
    sidecar.mark()?;
    client.requests(REQUESTS)?;
    sidecar.mark()?;
    drop(sidecar);
    match between_marks(folder.path())?.as_slice() {
        [_, mark, requests, ..] => Ok(requests.saturating_sub(*mark) / REQUESTS as u64),
        counts => Err(format!("the sidecar marked {} times, not 3", counts.len()).into()),
    }
}

fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Everything that a request passes through is on; what runs beside it comes once an hour.
fn configuration(listen: SocketAddr, admin: SocketAddr) -> Result<String, Error> {
    let mut endpoints = String::new();
    for _ in 0..ENDPOINTS {
        endpoints += &format!("      - address: {}\n", upstream()?);
    }
    Ok(format!(
        "process: {{ threads: 1 }}
admin: {{ listen: {admin} }}
workloads:
  frontend: {{ listen: {listen} }}
routes:
  - match: {{ host: catalog.shop }}
    cluster: catalog
clusters:
  catalog:
    endpoints:
{endpoints}
{STILL}"
    ))
}

/// An endpoint that answers each request on a connection with the same bytes.
fn upstream() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answers(&stream));
        }
    });
    Ok(address)
}

fn answers(mut stream: &TcpStream) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n");
    let answer = [head.into_bytes(), vec![b'x'; BODY]].concat();
    let (_, mut lines) = (stream.set_nodelay(true), BufReader::new(stream).lines());
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() && stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// The sidecar under valgrind; killed when dropped, since what it counted is already written.
struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sidecar {
    fn start(folder: &Path, config: &Path) -> Result<Self, Error> {
        let mut command = valgrind(folder)?;
        command.arg("run").arg("--config").arg(config).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self(command.spawn().map_err(missing)?))
    }

    fn mark(&mut self) -> Result<(), Error> {
        let (Some(stdin), Some(stdout)) = (&mut self.0.stdin, &mut self.0.stdout) else {
            return Err("the sidecar has no standard input or output".into());
        };
        stdin.write_all(b"\n")?;
        let mut said = [0; "marked\n".len()];
        Ok(stdout.read_exact(&mut said)?)
    }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects as soon as the sidecar accepts, which takes seconds under valgrind.
    fn connect(address: SocketAddr, sidecar: &mut Child) -> Result<Self, Error> {
        let started = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(Self { stream, buffer: vec![0; 64 * 1024] });
            }
            if let Some(status) = sidecar.try_wait()? {
                return Err(format!("the sidecar ended: {status}").into());
            }
            if started.elapsed() > PATIENCE {
                return Err("the sidecar did not listen in time".into());
            }
            let _ = sidecar_pause(Duration::from_millis(50));
        }
    }

    fn requests(&mut self, count: usize) -> Result<(), Error> {
        (0..count).try_for_each(|_| self.request())
    }

    fn request(&mut self) -> Result<(), Error> {
        self.stream.write_all(REQUEST)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(self.buffer.get_mut(filled..).unwrap_or_default())?;
            filled += read;
            let text = self.buffer.get(..filled).unwrap_or_default();
            let head = text.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            if read == 0 || (head.is_some() && !text.starts_with(b"HTTP/1.1 200 ")) {
                return Err(format!("the sidecar answered: {}", String::from_utf8_lossy(text)).into());
            }
            if head.is_some_and(|head| filled >= head + BODY) {
                return Ok(());
            }
        }
    }
}

/// Waits without the thread's sleep, which the house bans: a channel that nobody writes to.
fn sidecar_pause(time: Duration) -> Result<(), std::sync::mpsc::RecvTimeoutError> {
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    receiver.recv_timeout(time)
}
