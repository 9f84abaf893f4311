//! Requests' 99th percentile while the model runs ten times a second, beside the one without a model.
//!
//! Two sidecars with the same mesh, 1,000 endpoints called by five workloads: 5,000 links. One scores them with the
//! built-in model ten times a second, the other steers by peak EWMA and computes nothing. Requests come at a constant rate on
//! a few connections, to endpoints that answer at once; a latency counts from the moment at which its request was meant to be
//! sent. Rounds take turns, so that what else the machine does meets both alike. What counts is the ratio; it is
//! printed with its spread and never judged here, since it takes a quiet machine.
//!
//! ```text
//! make bench ARGS='--bench steady'
//! ```
//! The sidecars are this very program, started with `run --config FILE`.

#![allow(missing_docs, reason = "a benchmark")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 8;
/// Requests a second on each connection.
const RATE: u32 = 100;
const WORKLOADS: usize = 5;
const ENDPOINTS: usize = 1_000;
/// Of them, so many are there and get requests.
const REAL: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET /items/7 HTTP/1.1\r\nhost: catalog.shop\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nfine";

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return pathloom::app::main();
    }
    compare().map_or_else(
        |error| {
            eprintln!("steady: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn compare() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let upstreams = (0..REAL).map(|_| upstream()).collect::<Result<Vec<_>, Error>>()?;
    let start = |name: &str, model: bool| -> Result<Sidecar, Error> {
        let (file, listen) = (folder.path().join(name), free_address()?);
        std::fs::write(&file, configuration(listen, &upstreams, model)?)?;
        Sidecar::start(&file, listen)
    };
    let (with, without) = (start("with.yaml", true)?, start("without.yaml", false)?);
    [&with, &without].into_iter().try_for_each(|sidecar| load(sidecar.listen, ROUND).map(|_| ()))?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        let (mut with_us, mut without_us) = (f64::NAN, f64::NAN);
        for model in order {
            let (sidecar, p99) = if model { (&with, &mut with_us) } else { (&without, &mut without_us) };
            *p99 = percentile(load(sidecar.listen, ROUND)?, 0.99);
        }
        let ratio = with_us / without_us;
        println!("round {round}: p99 {with_us:.0} us with the model, {without_us:.0} us without: {ratio:.2}");
        rounds.push((with_us, without_us));
    }
    let column = |of: fn(&(f64, f64)) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let ratios = column(|(with, without)| with / without);
    println!(
        "steady: p99 with ten inferences a second {:.0} us, without a model {:.0} us, ratio {:.2} ({:.2} to {:.2} over {ROUNDS} rounds)",
        percentile(column(|r| r.0), 0.5),
        percentile(column(|r| r.1), 0.5),
        percentile(ratios.clone(), 0.5),
        percentile(ratios.clone(), 0.0),
        percentile(ratios, 1.0),
    );
    Ok(())
}

fn percentile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((q * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The same mesh for both; what is not there is in a cluster that nobody calls.
fn configuration(listen: SocketAddr, upstreams: &[SocketAddr], model: bool) -> Result<String, Error> {
    let (mut workloads, mut real, mut others) =
        (format!("  w0: {{ listen: {listen} }}\n"), String::new(), String::new());
    for workload in 1..WORKLOADS {
        workloads += &format!("  w{workload}: {{ listen: {} }}\n", free_address()?);
    }
    upstreams.iter().for_each(|address| real += &format!("      - address: {address}\n"));
    for i in upstreams.len()..ENDPOINTS {
        others += &format!("      - address: 10.1.{}.{}:80\n", i / 250, 1 + i % 250);
    }
    let (policy, tick, expire) = if model { ("model", "100ms", "5s") } else { ("peak_ewma", "1h", "2h") };
    Ok(format!(
        "process: {{ threads: 2 }}
admin: {{ listen: {} }}
workloads:
{workloads}routes:
  - match: {{ host: catalog.shop }}
    cluster: catalog
clusters:
  catalog:
    policy: {policy}
    endpoints:
{real}  others:
    policy: {policy}
    endpoints:
{others}model:
  tick: {tick}
  deadline: 100ms
  guards: {{ expire_after: {expire} }}
telemetry:
  access_log: {{ to: 'off' }}
  log: warn
",
        free_address()?
    ))
}

fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// An endpoint that answers at once.
fn upstream() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut writer = &stream;
                let _ = stream.set_nodelay(true);
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if line.is_empty() && writer.write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Killed when dropped.
struct Sidecar {
    child: Child,
    listen: SocketAddr,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sidecar {
    /// Starts it and waits until it accepts.
    fn start(config: &std::path::Path, listen: SocketAddr) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).spawn()?;
        let mut sidecar = Self { child, listen };
        let started = Instant::now();
        while TcpStream::connect(listen).is_err() {
            if let Some(status) = sidecar.child.try_wait()? {
                return Err(format!("the sidecar ended: {status}").into());
            }
            if started.elapsed() > PATIENCE {
                return Err("the sidecar did not listen in time".into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(sidecar)
    }
}

/// The latencies in microseconds of a load at a constant rate.
fn load(target: SocketAddr, time: Duration) -> Result<Vec<f64>, Error> {
    let start = Instant::now() + Duration::from_millis(50);
    let turn = Duration::from_secs(1) / RATE;
    let client = |connection: usize| {
        // The connections take turns, too.
        let first = start + turn.mul_f64(connection as f64 / CONNECTIONS as f64);
        std::thread::spawn(move || requests(target, first, turn, start + time))
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(client).collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.join().map_err(|_| "a client crashed")??);
    }
    Ok(all)
}

fn requests(target: SocketAddr, first: Instant, turn: Duration, end: Instant) -> Result<Vec<f64>, Error> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut latencies, mut due, mut buffer) = (Vec::new(), first, [0; 4096]);
    while due < end {
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        stream.write_all(REQUEST)?;
        let mut filled = 0;
        while !buffer.get(..filled).unwrap_or_default().ends_with(b"\r\n\r\nfine") {
            let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
            if read == 0 {
                return Err(String::from_utf8_lossy(buffer.get(..filled).unwrap_or_default()).into());
            }
            filled += read;
        }
        latencies.push(due.elapsed().as_secs_f64() * 1e6);
        due += turn;
    }
    Ok(latencies)
}
