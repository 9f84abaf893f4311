//! `pathloom demo`: a whole little mesh on this machine, with a story, and what three policies make of it.
//!
//! Three arms live through the same story at the same time, so that the machine's noise is the same for all: one whose
//! sidecar follows the model, one with least request, one with round robin. Each has its own services (real HTTP servers
//! on loopback, in this process) and its own sidecar: this same program, run as `pathloom run` with a configuration of its
//! own. Nothing knows the story but the services that it happens to; the sidecars see requests and answers only.
//!
//! - `story`: the chapters; `stage`: what everybody shares; `watch`: what the model's sidecar says of itself;
//! - `service`, `client`, `fleet`, `load`: the services, and the requests that they get;
//! - `sidecar`: the child processes;
//! - `record`, `report`, `plot`: every request's latency, the summary, the picture;
//! - `screen`, `view`: the terminal.
//!
//! The load, the services and the watch share one thread: they mostly sleep, and a second thread would take a core from the
//! sidecars. All latencies are measured there, so what that thread is late by is in every arm's figures alike.

mod client;
mod fleet;
mod load;
mod plot;
mod record;
mod report;
mod screen;
mod service;
mod sidecar;
mod stage;
mod story;
mod view;
mod watch;

use crate::config::Timespan;
use client::Client;
use fleet::{Fleet, POLICIES, REQUESTS_PER_SECOND};
use report::Summary;
use screen::Screen;
use sidecar::{Directory, Sidecar, SidecarError};
use stage::Stage;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use story::Story;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How long after the last sidecar is ready the story begins.
const LEAD: Duration = Duration::from_millis(300);
/// How often the ports of an arm are chosen anew when somebody else was faster.
const PORT_ATTEMPTS: u32 = 3;
/// How long requests under way may take once somebody has left.
const LEAVING: Duration = Duration::from_secs(1);
/// Where the randomness of the load and the services starts: the same story each time.
const SEED: u64 = 20_260_101;

/// What `demo` is told.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  pathloom demo                           a minute on the screen, then a summary and a plot
  pathloom demo --for 20s --headless      the same, shorter, without a screen
  pathloom demo --headless --json         one JSON object on the standard output")]
pub struct DemoArgs {
    /// How long the story takes, from 10s to 1h.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = story)]
    story: Story,
    /// Shows no screen, but a line for each thing that happens (as it does when there is no terminal).
    #[arg(long)]
    headless: bool,
    /// Prints the summary as one JSON object.
    #[arg(long)]
    json: bool,
    /// Where the plot goes, an SVG; target/demo/ or the temporary files when not given.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn story(text: &str) -> Result<Story, String> {
    let length: Timespan = text.parse().map_err(|e: crate::config::units::UnitError| e.to_string())?;
    Story::new(length.0)
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("{0}")]
    Sidecar(#[from] SidecarError),
    #[error("a service or a file could not be had: {0}")]
    Io(#[from] io::Error),
    #[error("signal {0} came before the story began")]
    Signal(u8),
}

/// How a story came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Told,
    Left,
    Signal(u8),
}

/// Runs the demo and says how it went.
#[must_use]
pub fn run(args: DemoArgs) -> ExitCode {
    let performed = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DemoError::from)
        .and_then(|runtime| runtime.block_on(perform(&args)));
    let (summary, ending) = match performed {
        Ok(performed) => performed,
        Err(error) => {
            say(&format!("pathloom demo: {error}"));
            return ExitCode::from(if let DemoError::Signal(number) = error { 128 + number } else { 1 });
        }
    };
    let text = if args.json { format!("{}\n", summary.json()) } else { format!("\n{summary}") };
    // A reader that has gone away did not want more.
    let written = io::stdout().write_all(text.as_bytes());
    match ending {
        _ if written.is_err() => ExitCode::FAILURE,
        Ending::Told | Ending::Left => ExitCode::SUCCESS,
        Ending::Signal(number) => ExitCode::from(128 + number),
    }
}

/// How to look at the model's sidecar while the story is told.
fn look_inside(admin: std::net::SocketAddr) -> String {
    format!(
        "look inside the model's sidecar while it runs:\n  http://{admin}/\n  pathloom top --admin {admin}\n  \
         pathloom explain --admin {admin}"
    )
}

fn say(line: &str) {
    // Nobody to tell is no reason to stop.
    drop(writeln!(io::stderr(), "{line}"));
}

async fn perform(args: &DemoArgs) -> Result<(Summary, Ending), DemoError> {
    let mut signals = Signals::new()?;
    let directory = Directory::new()?;
    let program = std::env::current_exe()?;
    say("starting three sidecars and their services on loopback...");
    let arms = tokio::select! {
        arms = start_arms(&program, directory.path()) => arms?,
        number = signals.next() => return Err(DemoError::Signal(number)),
    };
    let (fleets, mut sidecars): (Vec<Arc<Fleet>>, Vec<Sidecar>) = arms.into_iter().unzip();

    let headless = args.headless || !io::stdout().is_terminal();
    let start = Instant::now() + LEAD;
    let shown = fleets.first().ok_or_else(|| io::Error::other("there is no arm"))?;
    let stage = Arc::new(Stage::new(args.story, start, shown, headless));
    if headless {
        say(&look_inside(stage.admin));
    }
    let mut screen = if headless { None } else { Some(Screen::open(stage.clone())?) };

    let (stop, stopped) = channel::channel(false);
    let mut loads = start_loads(&stage, &fleets, &stopped);
    let admin = shown.sidecar.admin;
    let watching = tokio::spawn(look_on(stage.clone(), admin, stopped));
    let ending = tokio::select! {
        told = tell(&stage, &fleets, &mut loads) => told.map(|()| Ending::Told).map_err(DemoError::from),
        error = first_to_end(&mut sidecars) => Err(error.into()),
        number = signals.next() => Ok(Ending::Signal(number)),
        () = left(&mut screen) => Ok(Ending::Left),
    };
    let reached_s = stage.now_s().min(args.story.length.as_secs_f64());
    stop.send_replace(true);
    // What is still under way when somebody leaves is given up.
    drop(tokio::time::timeout(LEAVING, async { while loads.join_next().await.is_some() {} }).await);
    drop(watching.await);
    if let Some(screen) = screen {
        screen.close()?;
    }
    let ending = ending?;
    if let Ending::Signal(number) = ending {
        say(&format!("signal {number} ended the story"));
    }
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    let view = stage.view();
    let mut summary = Summary::of(args.story, reached_s, &stage.records, &stage.crashes(), view.as_deref());
    summary.steered = stage.steered();
    let path = args.plot.clone().unwrap_or_else(plot::default_path);
    match plot::write(&path, args.story, &stage.records) {
        Ok(()) => summary.plot = Some(path),
        Err(error) => say(&format!("no plot: {}: {error}", path.display())),
    }
    Ok((summary, ending))
}

/// Starts every arm's services and sidecar, and waits until all are ready.
async fn start_arms(program: &Path, directory: &Path) -> Result<Vec<(Arc<Fleet>, Sidecar)>, DemoError> {
    let mut arms = Vec::new();
    for policy in POLICIES {
        let mut attempts = 1;
        let arm = loop {
            // Ports are chosen before the sidecar has them, so another process may be faster: then others.
            let fleet = Fleet::start(policy, SEED)?;
            let mut sidecar = Sidecar::start(&fleet, program, directory)?;
            match sidecar.ready().await {
                Ok(()) => break (Arc::new(fleet), sidecar),
                Err(error) if error.port_was_taken() && attempts < PORT_ATTEMPTS => attempts += 1,
                Err(error) => return Err(error.into()),
            }
        };
        arms.push(arm);
    }
    if let Some((_, model)) = arms.first() {
        model.steers().await;
    }
    Ok(arms)
}

fn start_loads(stage: &Stage, fleets: &[Arc<Fleet>], stopped: &channel::Receiver<bool>) -> JoinSet<()> {
    let arrivals: Arc<[Duration]> = fleet::arrivals(stage.story.length, REQUESTS_PER_SECOND, SEED).into();
    let mut loads = JoinSet::new();
    for (fleet, record) in fleets.iter().zip(&stage.records) {
        loads.spawn(load::send(fleet.clone(), record.clone(), arrivals.clone(), stage.start, stopped.clone()));
    }
    loads
}

/// Lets the chapters happen, each at its time, and waits for the last answers.
async fn tell(stage: &Stage, fleets: &[Arc<Fleet>], loads: &mut JoinSet<()>) -> io::Result<()> {
    let mut last = None;
    for (chapter, span) in stage.story.chapters() {
        sleep_until(stage.start + Duration::from_secs_f64(span.from_s)).await;
        for (arm, fleet) in fleets.iter().enumerate() {
            if let Some(in_flight) = fleet.happen(chapter.event).await? {
                stage.crashed(arm, in_flight);
            }
        }
        if let Some(ended) = last.replace(span) {
            stage.chapter_ended(ended);
        }
        stage.log(chapter.title.to_owned());
    }
    while loads.join_next().await.is_some() {}
    if let Some(ended) = last {
        stage.chapter_ended(ended);
    }
    Ok(())
}

/// Asks the model's sidecar how it sees things, until the end, and then once more.
async fn look_on(stage: Arc<Stage>, admin: std::net::SocketAddr, mut stopped: channel::Receiver<bool>) {
    let admin = Client::new(admin);
    let mut every = interval(watch::EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut going = true;
    while going {
        tokio::select! {
            _ = every.tick() => {}
            () = service::told(&mut stopped) => going = false,
        }
        if let Some(view) = watch::ask(&admin).await {
            stage.look(view);
        }
    }
}

/// Waits for the end of any sidecar, which none should have before the story has.
async fn first_to_end(sidecars: &mut [Sidecar]) -> SidecarError {
    match sidecars {
        [a, b, c] => tokio::select! {
            error = a.watch() => error,
            error = b.watch() => error,
            error = c.watch() => error,
        },
        _ => std::future::pending().await,
    }
}

/// Waits until somebody leaves the screen; forever where there is none.
async fn left(screen: &mut Option<Screen>) {
    match screen {
        Some(screen) => screen.left().await,
        None => std::future::pending().await,
    }
}

/// The signals that end a demo. Without being caught they would end it without its children.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next; returns its number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hang_up.recv() => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        demo: DemoArgs,
    }

    #[test]
    fn it_says_how_to_look_inside() {
        let text = look_inside("127.0.0.1:9900".parse().unwrap());
        for way in ["http://127.0.0.1:9900/", "pathloom top --admin 127.0.0.1:9900", "explain --admin 127.0.0.1:9900"] {
            assert!(text.contains(way), "{way} is not in {text}");
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let parse = |args: &[&str]| Line::try_parse_from([&["demo"], args].concat()).map(|line| line.demo);
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.story.length, plain.headless, plain.json), (Duration::from_secs(60), false, false));
        let all = parse(&["--for", "2m", "--headless", "--json", "--plot", "x.svg"]).unwrap();
        assert_eq!((all.story.length, all.headless, all.json), (Duration::from_secs(120), true, true));
        for (wrong, hint) in
            [("60", "without its unit"), ("9s", "from 10 seconds"), ("2h", "60 minutes"), ("x", "not a length")]
        {
            let error = parse(&["--for", wrong]).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
