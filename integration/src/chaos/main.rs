//! `make chaos`: an hour's worth of trouble in ten minutes, under an open-loop load, and a report of what came of it. The machines
//! are network namespaces with links that can be cut (`pathloom_integration::hosts`).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `script` | what goes wrong, and when: a timetable that follows from a seed |
//! | `mesh` | sidecars, services, certificates on them |
//! | `endpoint` | an instance of a service, a process that behaves as it is told |
//! | `perform` | making trouble |
//! | `models`, `cgroup` | models that fail; limits, frozen threads |
//! | `load` | who asks, and what came of each request |
//! | `oracle` | what a perfect balancer would have had served |
//! | `samples`, `leaks` | memory and descriptors, and whether they grow |
//! | `judge`, `report` | what came of all, the verdicts, and the report |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool: a surprise must end it where it happens"
)]

mod cgroup;
mod endpoint;
mod judge;
mod leaks;
mod load;
mod mesh;
mod models;
mod oracle;
mod perform;
mod report;
mod samples;
mod script;

use clap::{Args, Parser, Subcommand};
use futures_util::future::join_all;
use judge::{Evidence, judge};
use load::Load;
use mesh::Mesh;
use pathloom_integration::hosts::{self, Hosts};
use pathloom_integration::process::machine;
use report::Setting;
use script::{Kind, Window, timetable};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};

#[derive(Debug, Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  make chaos                                         ten minutes of trouble and two without, the report in target/chaos/report.md
  make chaos ARGS='--minutes 2 --seed 7'             another script
  make chaos ARGS='--minutes 1 --only die,cut'       some troubles alone
  make chaos ARGS=--list                             all troubles"
)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Makes scripted trouble for three sidecars under load, and reports what came of it.
#[derive(Debug, Args)]
struct Run {
    /// The sidecar's binary.
    #[arg(long, default_value = "target/release/pathloom")]
    pathloom: PathBuf,
    /// How long, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Requests a second.
    #[arg(long, default_value_t = 400.0)]
    rate: f64,
    /// What the script and the load follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long a window with a trouble is, in seconds.
    #[arg(long, default_value_t = 10.0)]
    window: f64,
    /// How long nothing but the load goes on afterwards, in seconds, to see whether anything leaks: 0, or 60 and more.
    #[arg(long, default_value_t = 120.0, value_parser = steady)]
    steady: f64,
    /// Some kinds of trouble alone, by their names, with commas between.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    only: Vec<Kind>,
    /// The least availability, in percent of a perfect balancer's, that passes.
    #[arg(long, default_value_t = 99.9)]
    least: f64,
    /// How much memory the near sidecar may have, in MiB.
    #[arg(long, default_value_t = mesh::MEMORY >> 20)]
    memory: u64,
    /// Makes no network namespaces: links are then cut by stopping processes.
    #[arg(long)]
    loopback: bool,
    /// Where the report goes; beside it, as .json, what programs read.
    #[arg(long, default_value = "target/chaos/report.md")]
    out: PathBuf,
    /// Lists all kinds of trouble.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// An endpoint, which the command starts itself.
    #[command(hide = true)]
    Endpoint {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
    },
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::ALL.iter().copied().find(|k| k.name() == name).ok_or_else(|| "no such trouble: --list names them".to_owned())
}

fn steady(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let enough = seconds == 0.0 || (leaks::SHORTEST.as_secs_f64()..=86_400.0).contains(&seconds);
    if enough {
        Ok(seconds)
    } else {
        Err("it must be 0, or at least 60 s: a shorter one says nothing of leaks".to_owned())
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Part::Endpoint { listen, name }) = cli.part {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, endpoint::serve(listen, &name));
        // The thread that reads standard input may still wait for a line.
        std::process::exit(0);
    }
    if cli.run.list {
        Kind::ALL.iter().for_each(|k| println!("{:16} {} {}", k.name(), k.does(), k.expected()));
        return ExitCode::SUCCESS;
    }
    let why_not = if cli.run.loopback { Some("not asked for".to_owned()) } else { hosts::enter() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if runtime.block_on(run(&cli.run, why_not)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The whole run; whether all verdicts held. Interrupted, it leaves without a report.
async fn run(args: &Run, why_not: Option<String>) -> bool {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::select! {
        held = play(args, why_not) => held,
        _ = tokio::signal::ctrl_c() => false,
        _ = terminate.recv() => false,
    }
}

async fn play(args: &Run, why_not: Option<String>) -> bool {
    pathloom_integration::process::raise_open_files(4_096);
    let began = Instant::now();
    let hosts = Hosts::build(&mesh::HOSTS, why_not);
    let mesh = Mesh::start(hosts, &args.pathloom, args.memory << 20, began).await;
    mesh.samples.take();
    let kinds = if args.only.is_empty() { Kind::ALL } else { &args.only };
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    // From here on moments count from when the processes began to start.
    let begun = began.elapsed();
    let windows = later(timetable(args.seed, length, Duration::from_secs_f64(args.window), kinds), begun);
    let end = windows.last().map_or(begun, |w| w.to);
    let load = Load::start(mesh.front(), args.rate, args.seed, began, mesh.answered.clone());
    let watching = async {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            beat.tick().await;
            mesh.samples.take();
            for sidecar in 0..mesh::SIDECARS.len() {
                mesh.watch(sidecar).await;
            }
        }
    };
    let playing = async {
        let mut seen = Vec::new();
        for window in &windows {
            sleep_until((began + window.from).into()).await;
            seen.push(trouble(&mesh, window, began).await);
        }
        sleep_until((began + end).into()).await;
        (seen, steadily(&mesh, args.steady, began).await)
    };
    let (seen, steady) = tokio::select! {
        done = playing => done,
        () = watching => (Vec::new(), None),
    };
    let records = load.stop().await;
    settle(&mesh).await;
    let setting = Setting { lines: setting(args, &mesh), begun };
    mesh.stop().await;
    let (logs, lives) = (mesh.logs().await, mesh.samples.all());
    let wrongs = mesh.wrongs.lock().unwrap().clone();
    let judgement = judge(Evidence {
        records,
        oracle: &mesh.oracle,
        windows: &windows,
        logs: &logs,
        lives: &lives,
        steady,
        wrongs: &wrongs,
        least: args.least / 100.0,
    });
    let folder = args.out.parent().filter(|f| !f.as_os_str().is_empty()).map_or(".".into(), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the report's folder");
    let text = report::markdown(&setting, &windows, &seen, &judgement, &lives);
    std::fs::write(&args.out, text).expect("the report is written");
    let value = report::json(&setting, &windows, &seen, &judgement, &lives);
    std::fs::write(args.out.with_extension("json"), format!("{value:#}\n")).expect("the report is written");
    for (sidecar, _, log) in &logs {
        let file = folder.join(format!("{}.log", mesh::SIDECARS[*sidecar]));
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::write(file, before + log);
    }
    for verdict in &judgement.verdicts {
        println!("{} {} ({})", if verdict.held { "held:  " } else { "FAILED:" }, verdict.what, verdict.seen);
    }
    println!("{} The report: {}", report::verdict(&judgement), args.out.display());
    judgement.verdicts.iter().all(|v| v.held)
}

fn later(mut windows: Vec<Window>, by: Duration) -> Vec<Window> {
    for window in &mut windows {
        window.from += by;
        window.to += by;
        window.troubles.iter_mut().for_each(|t| t.at += by);
    }
    windows
}

/// Plays a window's troubles, side by side.
async fn trouble(mesh: &Mesh, window: &Window, began: Instant) -> String {
    let all = window.troubles.iter().map(|trouble| async move {
        sleep_until((began + trouble.at).into()).await;
        println!("{:7.1} s  {}: {}", began.elapsed().as_secs_f64(), trouble.kind.name(), trouble.target);
        perform::play(mesh, trouble).await
    });
    let seen: Vec<_> = join_all(all).await.into_iter().filter(|seen| !seen.is_empty()).collect();
    if began.elapsed() > window.to {
        println!("           it took {:.1} s longer than its window", (began.elapsed() - window.to).as_secs_f64());
    }
    seen.join("; ")
}

/// Lets nothing but the load go on for so long; gives from when to when.
async fn steadily(mesh: &Mesh, seconds: f64, began: Instant) -> Option<Range<Duration>> {
    if seconds == 0.0 {
        return None;
    }
    println!("{:7.1} s  the access logs' last lines are filled", began.elapsed().as_secs_f64());
    if let Err(why) = leaks::fill(mesh).await {
        mesh.wrong(why);
    }
    let from = began.elapsed();
    println!("{:7.1} s  {seconds} s of nothing but the load", from.as_secs_f64());
    sleep(Duration::from_secs_f64(seconds)).await;
    Some(from..began.elapsed())
}

/// Waits until what the load had open is closed, or should be.
async fn settle(mesh: &Mesh) {
    for _ in 0..30 {
        sleep(Duration::from_secs(1)).await;
        mesh.samples.take();
        let closed = |name: &str| {
            let lives = mesh.samples.all();
            let of_this = || lives.iter().filter(|l| l.name == name).flat_map(|l| &l.samples);
            let (first, last) = (of_this().next(), of_this().next_back());
            first.zip(last).is_some_and(|(f, l)| l.descriptors <= f.descriptors + leaks::MORE_DESCRIPTORS / 2)
        };
        if mesh::SIDECARS.into_iter().all(closed) {
            break;
        }
    }
}

fn setting(args: &Run, mesh: &Mesh) -> Vec<(String, String)> {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok();
        output.filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let commit =
        said("git", &["describe", "--always", "--dirty", "--abbrev=12"]).unwrap_or_else(|| "unknown".to_owned());
    let only: Vec<_> = args.only.iter().map(|k| k.name()).collect();
    let only = if only.is_empty() { String::new() } else { format!(" --only {}", only.join(",")) };
    vec![
        ("commit".to_owned(), commit),
        ("machine".to_owned(), format!("{}, Linux {}", machine(), said("uname", &["-r"]).unwrap_or_default())),
        (
            "command".to_owned(),
            format!(
                "`chaos --minutes {} --rate {} --seed {} --window {} --steady {}{only}`, {}",
                args.minutes,
                args.rate,
                args.seed,
                args.window,
                args.steady,
                args.pathloom.display()
            ),
        ),
        (
            "links".to_owned(),
            match &mesh.hosts.why_not {
                None => "network namespaces; a cut link takes packets and says nothing".to_owned(),
                Some(why) => {
                    format!("all on loopback; instead of cutting a host's link its endpoints are stopped ({why})")
                }
            },
        ),
        (
            "limits of the near sidecar".to_owned(),
            match &mesh.unlimited {
                None => format!(
                    "{} descriptors, {} MiB of memory (at most {:.1} MB were charged, pages of files included)",
                    mesh::DESCRIPTORS,
                    args.memory,
                    mesh.peak().unwrap_or(0) as f64 / 1e6
                ),
                Some(why) => format!("{} descriptors; memory is not limited here ({why})", mesh::DESCRIPTORS),
            },
        ),
    ]
}
