//! `simulate`: plays an application and writes a recording of it; or compares simulated work with real.

use crate::simulator::draw::Draw;
use crate::simulator::engine::Engine;
use crate::simulator::faults::{self, FaultKind};
use crate::simulator::load::Load;
use crate::simulator::mesh::Mesh;
use crate::simulator::topology::deploy::{Plan, deploy};
use crate::simulator::topology::{Topology, generate};
use crate::simulator::{nezha, recorder, simple};
use crate::{Error, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pathloom::config::Timespan;
use pathloom::record::{Meta, Writer};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Operations with fewer requests are not compared: their 99th percentile stands on a handful.
const LEAST_REQUESTS: u64 = 500;

/// What `simulate` is told.
#[derive(Debug, Args)]
pub struct Simulate {
    /// social-network, hotel-reservation, e-commerce, generated, or a JSON file.
    #[arg(long, default_value = "social-network")]
    topology: String,
    /// How many services are generated, 10 to 10000.
    #[arg(long, default_value_t = 30)]
    services: usize,
    /// How many calls lead out of a generated service on average, 1.5 to 4.5.
    #[arg(long, default_value_t = 2.5)]
    out_degree: f64,
    /// The seed of everything: deployment, faults, load, requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to simulate.
    #[arg(long, default_value = "300s")]
    duration: Timespan,
    /// The length of a window.
    #[arg(long, default_value = "10s")]
    window: Timespan,
    /// Requests a second at load 1; drawn without it.
    #[arg(long)]
    rate: Option<f64>,
    /// none, random, or kinds such as gray,link_latency,crash.
    #[arg(long, default_value = "random")]
    faults: String,
    /// random, diurnal, bursts, or a factor from 0.1 to 1.9.
    #[arg(long, default_value = "0.7")]
    load: String,
    /// Where to write the recording; without it, only the figures are printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Compare fitted work with Nezha's measured operations instead.
    #[arg(long)]
    check_nezha: bool,
    /// The folder with `nezha/`.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
}

/// What a simulation was like.
#[derive(Debug, serde::Serialize)]
struct Figures {
    topology: String,
    seed: u64,
    out: Option<PathBuf>,
    windows: u64,
    nodes: usize,
    links: usize,
    simulated_s: u64,
    wall_s: f64,
    events: u64,
    events_per_second: f64,
    requests: u64,
    calls: u64,
    retries: u64,
    errors: u64,
}

/// Runs `simulate`.
///
/// # Errors
/// When something that it was told cannot be, or nothing can be written.
pub fn run(args: &Simulate) -> Result<()> {
    if args.check_nezha {
        return check_nezha(args);
    }
    let window_s = whole_seconds("--window", args.window)?;
    let windows = whole_seconds("--duration", args.duration)? / window_s;
    if windows == 0 {
        return Err(Error::Format(format!("--duration {} holds no window of {}", args.duration, args.window)));
    }
    let duration_s = (windows * window_s) as f64;
    let mut draw = Draw::new(args.seed);
    let mesh = mesh(args, &mut draw)?;
    let faults = match args.faults.as_str() {
        "none" => Vec::new(),
        "random" => faults::random(&mesh, duration_s, &FaultKind::ALL, &mut draw),
        kinds => faults::random(&mesh, duration_s, &kinds.split(',').map(kind).collect::<Result<Vec<_>>>()?, &mut draw),
    };
    let load = load(&args.load, &mut draw)?;
    let balancers = simple::random(&mesh, &mut draw);
    // Without a folder to keep, the windows go where nobody looks.
    let unkept =
        if args.out.is_none() { Some(tempfile::tempdir().map_err(Error::at("temporary folder"))?) } else { None };
    let folder = args.out.as_deref().or(unkept.as_ref().map(tempfile::TempDir::path)).unwrap_or(Path::new("."));
    let meta = Meta { name: format!("{}, seed {}", mesh.name, args.seed), window_seconds: window_s as f64 };
    let failed = |e: pathloom::record::WriterError| Error::Format(e.to_string());
    let mut writer = Writer::create(folder, &meta).map_err(failed)?;
    let mut engine = Engine::new(&mesh, &faults, &load, balancers, draw);
    let bar = ProgressBar::new(windows * window_s);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} simulated seconds, {eta} left") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let watched = recorder::record(&mut engine, &mut writer, windows, window_s, || bar.inc(1))?;
    writer.finish().map_err(failed)?;
    bar.finish_and_clear();
    let (wall_s, totals) = (start.elapsed().as_secs_f64(), engine.totals());
    let figures = Figures {
        topology: mesh.name.to_string(),
        seed: args.seed,
        out: args.out.clone(),
        windows,
        nodes: mesh.instances.len(),
        links: mesh.pairs.len(),
        simulated_s: windows * window_s,
        wall_s,
        events: totals.events,
        events_per_second: totals.events as f64 / wall_s.max(1e-9),
        requests: totals.entered,
        calls: totals.calls,
        retries: totals.retries,
        errors: watched.finished.1,
    };
    show(&figures, args.json)
}

fn show(f: &Figures, json: bool) -> Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(f).map_err(|e| Error::Format(e.to_string()))?);
        return Ok(());
    }
    say!("{}: {} nodes, {} links, {} windows in {:.2} s", f.topology, f.nodes, f.links, f.windows, f.wall_s);
    say!("  {} events, {:.2} million a second", f.events, f.events_per_second / 1e6);
    say!("  {} requests, {} of them failed; {} calls, {} second tries", f.requests, f.errors, f.calls, f.retries);
    if let Some(out) = &f.out {
        say!("  {}", out.display());
    }
    Ok(())
}

fn mesh(args: &Simulate, draw: &mut Draw) -> Result<Mesh> {
    let mut social = false;
    let topology = match args.topology.as_str() {
        "social-network" => {
            social = true;
            Topology::social_network()?
        }
        "hotel-reservation" => Topology::hotel_reservation()?,
        "e-commerce" => Topology::e_commerce()?,
        "generated" => generate::generate(args.services, args.out_degree, draw)?,
        file => Topology::load(Path::new(file))?,
    };
    let mut plan = if social { Plan::social_network(draw) } else { Plan::random(draw.log_uniform(100.0, 500.0), draw) };
    match args.rate {
        Some(rate) if rate > 0.0 && rate.is_finite() => plan.rate = rate,
        Some(rate) => return Err(Error::Format(format!("--rate {rate} must be a number above 0"))),
        None => {}
    }
    Ok(deploy(&topology, &plan, draw))
}

fn kind(name: &str) -> Result<FaultKind> {
    let found = FaultKind::ALL.into_iter().find(|kind| kind.name() == name.trim());
    found.ok_or_else(|| {
        let known: Vec<&str> = FaultKind::ALL.into_iter().map(FaultKind::name).collect();
        Error::Format(format!("--faults: no kind is called `{name}`; there are none, random, {}", known.join(", ")))
    })
}

fn load(text: &str, draw: &mut Draw) -> Result<Load> {
    match text {
        "random" => Ok(Load::random(draw)),
        "diurnal" => Ok(Load::Diurnal { mean: 0.6, amplitude: 0.4, period_s: 300.0, phase_s: 0.0 }),
        "bursts" => Ok(Load::Bursts { base: 0.25, times: 6.0, every_s: 60.0, length_s: 8.0, first_s: 20.0 }),
        number => match number.parse::<f64>() {
            Ok(factor) if (0.01..=10.0).contains(&factor) => Ok(Load::Constant(factor)),
            _ => Err(Error::Format(format!("--load {text}: give random, diurnal, bursts, or a factor such as 0.7"))),
        },
    }
}

fn whole_seconds(name: &str, span: Timespan) -> Result<u64> {
    let seconds = span.0.as_secs();
    if seconds == 0 || span.0.subsec_nanos() != 0 {
        return Err(Error::Format(format!("{name} {span} must be whole seconds, at least one")));
    }
    Ok(seconds)
}

/// Compares fitted work with what was measured.
fn check_nezha(args: &Simulate) -> Result<()> {
    let operations = nezha::operations(&args.data, LEAST_REQUESTS)?;
    let mut draw = Draw::new(args.seed);
    let compared: Vec<nezha::Comparison> = operations.iter().map(|o| nezha::compare(o, &mut draw)).collect();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&compared).map_err(|e| Error::Format(e.to_string()))?);
        return Ok(());
    }
    say!(
        "{:64} {:>9} {:>20} {:>20} {:>22} {:>7}",
        "operation",
        "requests",
        "p50 ms (drawn)",
        "p90 ms (drawn)",
        "p99 ms (drawn)",
        "off"
    );
    let mut errors = Vec::new();
    for found in &compared {
        let [_, p50, p90, _, p99, _] = found.operation.times_ms;
        let [_, d50, d90, _, d99, _] = found.drawn_ms;
        let name: String = found.operation.name.chars().take(64).collect();
        errors.push(found.largest_error());
        say!(
            "{name:64} {:>9} {:>20} {:>20} {:>22} {:>6.1}%",
            found.operation.requests,
            format!("{p50:.2} ({d50:.2})"),
            format!("{p90:.2} ({d90:.2})"),
            format!("{p99:.2} ({d99:.2})"),
            found.largest_error() * 100.0
        );
    }
    errors.sort_by(f64::total_cmp);
    let at = |q: f64| errors.get((q * errors.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(f64::NAN);
    say!(
        "largest error of an operation's p50, p90 and p99: median {:.1}%, worst {:.1}%",
        at(0.5) * 100.0,
        at(1.0) * 100.0
    );
    Ok(())
}
