//! The load: so many connections, and either as fast as they go (closed loop) or at a constant rate (open loop).
//!
//! **Open loop.** Request `i` is meant to be sent at `start + i / rate`. When no connection is free then, it waits, and
//! its latency counts from the intended moment all the same; so a proxy that stalls is charged for every request that
//! the stall delayed, not only for those that a waiting client had sent (Tene's "coordinated omission"). What was meant
//! to be sent and never was is counted as unanswered, with the latency it had reached.
//!
//! **Closed loop.** Every connection sends its next request when it has the answer to the last. With a number of
//! requests instead of a time, exactly so many are sent: that is what counting instructions and system calls needs.
//!
//! One thread, edge-triggered, one read and one write a request where the kernel allows it.

use crate::Fallible;
use crate::client::{Asked, Client, Incoming};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const READ_AT_ONCE: usize = 256 * 1024;
const TIMER: Token = Token(usize::MAX);
/// How long to wait for answers after the last request, and for any answer at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what is late may still be sent after the end of an open loop, in nanoseconds.
const GRACE_NS: u64 = 1_000_000_000;
/// How many failures end the run: it would measure nothing.
const MAX_FAILURES: u64 = 10_000;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Where to send to; several get the connections by turns.
    #[arg(long, required = true)]
    target: Vec<SocketAddr>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight on each connection; more than one needs HTTP/2.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Requests in flight on all connections together.
    #[arg(long)]
    in_flight: Option<usize>,
    #[arg(long, default_value = "catalog.shop")]
    host: String,
    #[arg(long, default_value = "/1k")]
    path: String,
    /// How long every answer's body must be, in bytes.
    #[arg(long, default_value_t = 1024)]
    body: u64,
    #[arg(long)]
    http2: bool,
    /// Calls as gRPC makes them, with a message and trailers.
    #[arg(long, requires = "http2")]
    grpc: bool,
    /// Requests a second, at constant distances (open loop); without it, as fast as answers come (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// How long, in seconds, after the warm-up.
    #[arg(long, conflicts_with = "requests")]
    seconds: Option<f64>,
    /// How long to send before anything is counted, in seconds.
    #[arg(long, default_value_t = 0.0)]
    warm_up: f64,
    /// How many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// When done, keep the connections open until the standard input ends.
    #[arg(long)]
    hold: bool,
}

/// What a run gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests that were answered as they should be, within the counted time.
    pub answered: u64,
    pub failures: BTreeMap<String, u64>,
    /// Connections that the other side closed between requests, and that were opened again.
    pub reopened: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Runs, prints the report as one line of JSON, and holds if asked to.
///
/// # Errors
/// When it cannot connect.
pub fn run(options: &Options) -> Fallible<()> {
    crate::process::raise_open_files();
    let mut driver = Driver::new(options)?;
    driver.drive()?;
    println!("{}", serde_json::to_string(&driver.report()?)?);
    if options.hold {
        std::io::stdout().flush()?;
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    }
    Ok(())
}

struct Connection {
    socket: TcpStream,
    target: SocketAddr,
    client: Client,
    out: Vec<u8>,
    queued: bool,
}

struct Driver<'a> {
    options: &'a Options,
    asked: Asked,
    poll: Poll,
    timer: Option<rustix::fd::OwnedFd>,
    connections: Vec<Connection>,
    /// Connections with room, the one that waited longest first.
    free: VecDeque<usize>,
    /// Requests to be sent again: their intended times.
    again: Vec<u64>,
    start: Instant,
    sent: u64,
    in_flight: usize,
    answered: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    reopened: u64,
    latencies: Histogram<u64>,
    last_answer: u64,
}

impl<'a> Driver<'a> {
    fn new(options: &'a Options) -> Fallible<Self> {
        let asked = Asked {
            host: options.host.clone(),
            path: options.path.clone(),
            body: options.body,
            http2: options.http2,
            grpc: options.grpc,
        };
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for (index, target) in options.target.iter().cycle().take(options.connections).enumerate() {
            let socket = connect(*target, &poll, index)?;
            let client = Client::new(&asked, options.streams);
            connections.push(Connection { socket, target: *target, client, out: Vec::new(), queued: true });
        }
        let timer = match options.rate {
            None => None,
            Some(_) => Some(rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?),
        };
        if let Some(timer) = &timer {
            poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        }
        Ok(Self {
            options,
            asked,
            poll,
            timer,
            free: (0..connections.len()).collect(),
            connections,
            again: Vec::new(),
            start: Instant::now(),
            sent: 0,
            in_flight: 0,
            answered: 0,
            failed: 0,
            failures: BTreeMap::new(),
            reopened: 0,
            latencies: Histogram::new_with_bounds(1, 120_000_000_000, 3)?,
            last_answer: 0,
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// When counting begins, and when sending ends, in nanoseconds from the start.
    fn span(&self) -> (u64, u64) {
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        let begin = nanos(self.options.warm_up);
        (begin, self.options.seconds.map_or(u64::MAX, |seconds| begin + nanos(seconds)))
    }

    fn drive(&mut self) -> Fallible<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_AT_ONCE];
        self.start = Instant::now();
        if let (Some(timer), Some(rate)) = (&self.timer, self.options.rate) {
            // It rings at every intended moment.
            let interval = Duration::from_secs_f64(1.0 / rate);
            let interval = Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: i64::from(interval.subsec_nanos()) };
            let times = Itimerspec { it_interval: interval, it_value: interval };
            rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &times)?;
        }
        loop {
            self.dispatch()?;
            let over = self.over();
            // A proxy that closes what was just opened is done with, too.
            let is_hopeless = self.failed > MAX_FAILURES || self.reopened > MAX_FAILURES + self.answered;
            if (over && self.in_flight == 0) || is_hopeless {
                return Ok(());
            }
            if self.now().saturating_sub(self.last_answer) > PATIENCE.as_nanos() as u64 {
                self.give_up();
                return Ok(());
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(500))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() != TIMER {
                    self.serve(event.token().0, &mut buffer)?;
                } else if let Some(timer) = &self.timer {
                    // A timer that was not read rings no more; how often it rang does not matter.
                    let _ = rustix::io::read(timer, &mut [0; 8]);
                }
            }
        }
    }

    /// Whether nothing is left to be sent.
    fn over(&self) -> bool {
        let end = self.span().1;
        let is_over = match (self.options.requests, self.options.rate) {
            (Some(requests), _) => self.sent >= requests,
            // What was due in time is sent even when it is late, but not for ever.
            (None, Some(_)) => self.intended() >= end || self.now() >= end.saturating_add(GRACE_NS),
            (None, None) => self.now() >= end,
        };
        is_over && self.again.is_empty()
    }

    /// When the next new request is meant to be sent.
    fn intended(&self) -> u64 {
        self.options.rate.map_or_else(|| self.now(), |rate| (self.sent as f64 / rate * 1e9) as u64)
    }

    /// The intended time of the next request, if it is due.
    fn due(&self) -> Option<u64> {
        if let Some(tag) = self.again.last() {
            return Some(*tag);
        }
        let intended = self.intended();
        (!self.over() && intended <= self.now()).then_some(intended)
    }

    fn dispatch(&mut self) -> Fallible<()> {
        let most = self.options.in_flight.unwrap_or(usize::MAX);
        let mut written_to = Vec::new();
        while self.in_flight < most
            && !self.free.is_empty()
            && let Some(tag) = self.due()
        {
            let Some(index) = self.free.pop_front() else { break };
            if self.again.pop().is_none() {
                self.sent += 1;
            }
            let Some(connection) = self.connections.get_mut(index) else { break };
            connection.queued = false;
            connection.client.send(tag, &mut connection.out);
            self.in_flight += 1;
            self.requeue(index);
            written_to.push(index);
        }
        // Streams of one connection that are due together go out in one write, as clients do it.
        written_to.into_iter().try_for_each(|index| self.write(index))
    }

    /// Enters a connection among those with room, if it has any.
    fn requeue(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && !connection.queued
            && connection.client.room() > 0
        {
            connection.queued = true;
            self.free.push_back(index);
        }
    }

    fn write(&mut self, index: usize) -> Fallible<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        while !connection.out.is_empty() {
            match connection.socket.write(&connection.out) {
                Ok(written) => drop(connection.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.reopen(index, "the connection broke"),
            }
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, buffer: &mut [u8]) -> Fallible<()> {
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
            let read = match connection.socket.read(buffer) {
                Ok(0) => return self.reopen(index, "closed without an answer"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.reopen(index, "the connection broke"),
            };
            let mut incoming = Incoming::default();
            let bytes = buffer.get(..read).unwrap_or_default();
            let taken = connection.client.take(bytes, &mut connection.out, &mut incoming);
            self.in_flight -= incoming.done.len() + incoming.refused.len();
            self.again.append(&mut incoming.refused);
            let now = self.now();
            for tag in incoming.done {
                self.answered(tag, now);
            }
            if let Err(failure) = taken {
                return self.reopen(index, failure);
            }
            if incoming.closing && self.connections.get(index).is_some_and(|c| c.client.in_flight() == 0) {
                return self.reopen(index, "");
            }
            if read < buffer.len() {
                break;
            }
        }
        self.requeue(index);
        self.write(index)
    }

    fn answered(&mut self, tag: u64, now: u64) {
        let (begin, end) = self.span();
        self.last_answer = now;
        // Open loop: whatever was meant to be sent in the counted time. Closed loop: what was answered within it.
        let moment = if self.options.rate.is_some() { tag } else { now };
        if (begin..=end).contains(&moment) {
            self.answered += 1;
            self.latencies.saturating_record(now.saturating_sub(tag));
        }
    }

    fn fail(&mut self, failure: &str, count: u64) {
        if count > 0 {
            self.failed += count;
            *self.failures.entry(failure.to_owned()).or_default() += count;
        }
    }

    /// Opens a connection anew; what was in flight on it has failed.
    fn reopen(&mut self, index: usize, failure: &str) -> Fallible<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        let lost = connection.client.abandon().len();
        self.poll.registry().deregister(&mut connection.socket)?;
        connection.socket = connect(connection.target, &self.poll, index)?;
        connection.client = Client::new(&self.asked, self.options.streams);
        connection.out.clear();
        self.in_flight -= lost;
        self.reopened += 1;
        self.fail(failure, lost as u64);
        self.requeue(index);
        Ok(())
    }

    fn give_up(&mut self) {
        for index in 0..self.connections.len() {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            for tag in connection.client.abandon() {
                self.latencies.saturating_record(self.start.elapsed().as_nanos() as u64 - tag);
                self.fail("unanswered", 1);
            }
        }
    }

    fn report(&mut self) -> Fallible<Report> {
        let (begin, end) = self.span();
        if let (Some(rate), true) = (self.options.rate, end < u64::MAX) {
            // What was due and was never sent.
            let due = (end as f64 * rate / 1e9) as u64;
            for i in self.sent..due {
                self.latencies.saturating_record(end + GRACE_NS - (i as f64 / rate * 1e9) as u64);
                self.fail("unsent", 1);
            }
        }
        let end = if end == u64::MAX { self.last_answer } else { end };
        let seconds = end.saturating_sub(begin) as f64 / 1e9;
        let at = |quantile: f64| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Report {
            answered: self.answered,
            failures: self.failures.clone(),
            reopened: self.reopened,
            seconds,
            per_second: if seconds > 0.0 { self.answered as f64 / seconds } else { 0.0 },
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies.max() as f64 / 1e3,
        })
    }
}

fn connect(target: SocketAddr, poll: &Poll, index: usize) -> Fallible<TcpStream> {
    let socket = std::net::TcpStream::connect(target).map_err(|error| format!("connecting to {target}: {error}"))?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    poll.registry().register(&mut socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
    Ok(socket)
}
