//! The whole comparison, or a part of it.
//!
//! What is done is written at once: after each proxy that was counted and after each round. A part that fails is named
//! among the failures and the rest goes on; it can be measured again alone (`--only`, `--cases`, `--quick`, `--timed`),
//! which completes the results of the same commit. A run that was broken off goes on with `--resume`.

use crate::Fallible;
use crate::bench::{Bench, Case, Measured, Programs, Proxy};
use crate::progress::Progress;
use crate::results::{QUIET, Results, Run, busy_now};
use crate::rounds::Samples;
use crate::{counted, report};
use pathloom_benches::host::{commit, first_line, machine};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Pathloom as it ships.
    #[arg(long, default_value = "target/dist/pathloom")]
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
    /// Where results.json and RESULTS.md go. Without it: benches/peers for the whole comparison, and for a part of it where
    /// the results there are of this commit, so that they are completed; else the folder of --work.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The page whose section on performance is written when results go to benches/peers.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
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
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only what is timed.
    #[arg(long, conflicts_with = "quick")]
    timed: bool,
    /// Goes on where the last run of this commit was broken off, instead of from the beginning, and measures those rounds
    /// again in which the machine was busy with something else.
    #[arg(long)]
    resume: bool,
}

/// What of a run is done, kept in the working folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    commit: String,
    /// Proxies whose figures are counted.
    counted: Vec<String>,
    samples: Samples,
}

/// Measures, and writes what came out.
///
/// # Errors
/// When something that all figures need is missing.
pub fn run(options: &Options) -> Fallible<()> {
    let proxies = chosen(&options.only, Proxy::all(), |p| p.name)?;
    let cases = chosen(&options.cases, &Case::ALL, |c| c.name())?;
    let is_whole =
        proxies.len() == Proxy::all().len() && cases.len() == Case::ALL.len() && !options.quick && !options.timed;
    let (commit, ours) = (commit(), PathBuf::from("benches/peers"));
    let of_this_commit = |folder: &Path| Results::read(&folder.join("results.json")).filter(|r| r.commit == commit);
    let out = match &options.out {
        Some(out) => out.clone(),
        None if is_whole || of_this_commit(&ours).is_some() => ours.clone(),
        None => options.work.clone(),
    };
    let programs = Programs {
        pathloom: present(&options.pathloom)?,
        onnxruntime: present(&options.onnxruntime)?,
        envoy: present(&options.envoy)?,
        nginx: present(&options.nginx)?,
        haproxy: present(&options.haproxy)?,
    };
    let mut results = of_this_commit(&out).unwrap_or_default();
    (results.commit, results.machine) = (commit.clone(), machine());
    for (name, path) in [("nginx", &programs.nginx), ("haproxy", &programs.haproxy)] {
        results.versions.insert(name.into(), first_line(&path.to_string_lossy(), &["-v"]));
    }
    for (name, path) in [("envoy", &programs.envoy), ("pathloom", &programs.pathloom)] {
        let version = first_line(&path.to_string_lossy(), &["--version"]);
        // Envoy says where it lies, too.
        let version = version.rsplit_once("version: ").map_or(version.as_str(), |(_, version)| version).to_owned();
        results.versions.insert(name.into(), version);
    }
    results.versions.insert("valgrind".into(), first_line("valgrind", &["--version"]));
    let mut run = Run {
        date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        command: arguments(),
        busy_before: busy_now(),
        ..Run::default()
    };
    if run.busy_before > QUIET {
        let busy = run.busy_before * 100.0;
        eprintln!("peers: this machine is {busy:.0}% busy with other work: what is timed will not be worth much");
    }
    std::fs::create_dir_all(&options.work)?;
    std::fs::create_dir_all(&out)?;
    let kept = options.work.join("done.json");
    let before = std::fs::read(&kept).ok().and_then(|text| serde_json::from_slice::<Done>(&text).ok());
    let mut done = before.filter(|done| options.resume && done.commit == commit).unwrap_or_default();
    done.commit = commit;
    if options.resume {
        done.samples.forget_busier_than(QUIET);
        results.runs.iter_mut().for_each(Run::without_busy_rounds);
    }
    if done.samples.rounds() == 0 {
        done.samples = Samples::new(options.seconds);
    }
    let is_counted = |p: &Proxy| options.timed || done.counted.iter().any(|name| name == p.name);
    let to_count: Vec<Proxy> =
        proxies.iter().copied().filter(|p| p.measured() != Measured::Time && !is_counted(p)).collect();
    let to_time: Vec<Proxy> = proxies.into_iter().filter(|p| p.measured() != Measured::Memory).collect();
    let rounds = done.samples.rounds()..if options.quick { 0 } else { options.rounds };

    let counting = |proxy: &Proxy| counted::expected(*proxy, &cases);
    let timing = |turn: usize| done.samples.expected(&to_time, &cases, turn);
    let foreseen = to_count.iter().map(counting).sum::<f64>() + rounds.clone().map(timing).sum::<f64>();
    let mut progress = Progress::new(foreseen);
    let bench = Bench::start(programs, &options.work)?;
    results.runs.push(run.clone());
    let write = |results: &mut Results, run: &mut Run, done: &Done, progress: &Progress| -> Fallible<()> {
        run.seconds = progress.seconds().round();
        if let Some(last) = results.runs.last_mut() {
            last.clone_from(run);
        }
        std::fs::write(&kept, serde_json::to_vec(done)?)?;
        results.write(&out.join("results.json"))?;
        report::write(&out)?;
        if out == ours {
            crate::readme::write(&options.readme)?;
        }
        Ok(())
    };
    for proxy in to_count {
        progress.says(&format!("counting {}", proxy.name));
        results.anew(proxy.name, &cases, false);
        if proxy.measured() == Measured::All {
            counted::instructions(&bench, proxy, &cases, &mut results);
            counted::system_calls(&bench, proxy, &cases, &mut results);
        }
        counted::memory(&bench, proxy, &cases, &mut results);
        done.counted.push(proxy.name.to_owned());
        progress.done(counted::expected(proxy, &cases));
        write(&mut results, &mut run, &done, &progress)?;
    }
    if rounds.start == 0 && rounds.end > 0 {
        results.anew("direct", &cases, true);
        to_time.iter().for_each(|proxy| results.anew(proxy.name, &cases, true));
    }
    for turn in rounds.clone() {
        progress.says(&format!("round {} of {}", turn + 1, rounds.end));
        done.samples.round(&bench, &to_time, &cases, &mut results);
        run.rounds += 1;
        results.rounds = done.samples.rounds();
        run.busy_with_others = done.samples.busy_with_others.iter().skip(rounds.start).copied().collect();
        done.samples.fill(&mut results);
        progress.done(done.samples.expected(&to_time, &cases, turn));
        write(&mut results, &mut run, &done, &progress)?;
    }
    if !run.was_quiet() && run.rounds > 0 {
        eprintln!("peers: the machine was not quiet; RESULTS.md says so, and what was timed is not to be judged by");
    }
    progress.says(&format!("done; {} and RESULTS.md beside it", out.join("results.json").display()));
    Ok(())
}

/// The command's own arguments, less the paths, which are this machine's business.
fn arguments() -> String {
    let mut words = Vec::new();
    let mut all = std::env::args().skip(1);
    while let Some(word) = all.next() {
        if ["--pathloom", "--onnxruntime", "--envoy", "--nginx", "--haproxy", "--work", "--out", "--readme"]
            .contains(&word.as_str())
        {
            all.next();
        } else {
            words.push(word);
        }
    }
    words.join(" ")
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
