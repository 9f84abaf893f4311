//! The whole comparison.

use crate::Fallible;
use crate::bench::{Bench, Case, Programs, Proxy};
use crate::results::{Results, first_line, machine};
use crate::rounds::Samples;
use crate::{counted, report};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Pathloom's release build.
    #[arg(long, default_value = "target/release/pathloom")]
    pathloom: PathBuf,
    #[arg(long, env = "ORT_DYLIB_PATH", default_value = "target/onnxruntime/libonnxruntime.so")]
    onnxruntime: PathBuf,
    #[arg(long, default_value = "target/peers/envoy/envoy/_bin/envoy")]
    envoy: PathBuf,
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
    /// Where configurations, logs and profiles go.
    #[arg(long, default_value = "target/peers")]
    work: PathBuf,
    /// Where results.json and RESULTS.md go: benches/peers for the whole comparison, else the folder of --work.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only what is counted (instructions, allocations, system calls, memory), nothing timed.
    #[arg(long)]
    quick: bool,
    /// Only these proxies, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these cases: h1, h2c-h1, h2c-h2c.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Timed rounds, each of which measures every proxy once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each timed load is measured, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only what is timed.
    #[arg(long, conflicts_with = "quick")]
    timed: bool,
}

/// Measures, and writes what came out.
///
/// # Errors
/// When something that all figures need is missing.
pub fn run(options: &Options) -> Fallible<()> {
    let proxies = chosen(&options.only, Proxy::all(), |p| p.name)?;
    let cases = chosen(&options.cases, &Case::ALL, |c| c.name())?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None if options.quick || proxies.len() < Proxy::all().len() || cases.len() < 3 => options.work.clone(),
        None => PathBuf::from("benches/peers"),
    };
    let programs = Programs {
        pathloom: present(&options.pathloom)?,
        onnxruntime: present(&options.onnxruntime)?,
        envoy: present(&options.envoy)?,
        nginx: present(&options.nginx)?,
        haproxy: present(&options.haproxy)?,
    };
    let mut results = Results {
        commit: commit(),
        machine: machine(),
        date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        ..Results::default()
    };
    for (name, path) in [("nginx", &programs.nginx), ("haproxy", &programs.haproxy)] {
        results.versions.insert(name.into(), first_line(&path.to_string_lossy(), &["-v"]));
    }
    for (name, path) in [("envoy", &programs.envoy), ("pathloom", &programs.pathloom)] {
        results.versions.insert(name.into(), first_line(&path.to_string_lossy(), &["--version"]));
    }
    results.versions.insert("valgrind".into(), first_line("valgrind", &["--version"]));
    let bench = Bench::start(programs, &options.work)?;
    let write = |results: &Results| -> Fallible<()> {
        std::fs::create_dir_all(&out)?;
        std::fs::write(out.join("RESULTS.md"), report::markdown(results))?;
        results.write(&out.join("results.json"))
    };
    for proxy in proxies.iter().copied().filter(|_| !options.timed) {
        eprintln!("peers: counting {}", proxy.name);
        if !proxy.for_memory_only() {
            counted::instructions(&bench, proxy, &cases, &mut results);
            counted::system_calls(&bench, proxy, &cases, &mut results);
        }
        counted::memory(&bench, proxy, &cases, &mut results);
        write(&results)?;
    }
    let timed: Vec<Proxy> = proxies.into_iter().filter(|proxy| !proxy.for_memory_only()).collect();
    let mut samples = Samples::new(options.seconds);
    for round in 0..if options.quick { 0 } else { options.rounds } {
        eprintln!("peers: round {} of {}", round + 1, options.rounds);
        samples.round(&bench, &timed, &cases, round, &mut results);
        results.rounds = round + 1;
        results.busy.clone_from(&samples.busy);
        samples.fill(&mut results);
        write(&results)?;
    }
    eprintln!("peers: {} and RESULTS.md beside it", out.join("results.json").display());
    Ok(())
}

fn chosen<T: Copy>(names: &[String], all: &[T], name: impl Fn(&T) -> &'static str) -> Fallible<Vec<T>> {
    if let Some(unknown) = names.iter().find(|wanted| !all.iter().any(|one| name(one) == wanted.as_str())) {
        let known = all.iter().map(&name).collect::<Vec<_>>().join(", ");
        return Err(format!("there is no {unknown}; there are {known}").into());
    }
    let wanted = |one: &&T| names.is_empty() || names.iter().any(|wanted| wanted == name(one));
    Ok(all.iter().filter(wanted).copied().collect())
}

fn present(path: &Path) -> Fallible<PathBuf> {
    match path.exists() {
        true => Ok(std::path::absolute(path)?),
        false => Err(format!("{} is missing; `make bench-peers` brings or builds it", path.display()).into()),
    }
}

fn commit() -> String {
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_empty() { commit } else { format!("{commit}+") }
}
