//! Pathloom beside its peers: `make bench-peers`.
//!
//! | subcommand | what it is |
//! | --- | --- |
//! | `run` | the whole comparison: starts everything, measures by turns, writes `results.json`, `RESULTS.md` and README's section |
//! | `pages` | writes `RESULTS.md`, and README's section on performance, from the results that are there |
//! | `micro` | takes the microbenchmarks' figures from where criterion left them (`make bench`) |
//! | `upstream` | the endpoints behind the proxies |
//! | `load` | the client in front of them, open or closed loop |
//! | `floor` | the least that a proxy can do, to know what is left for anybody to gain |
//! | `train` | the loads that a build which counts its branches is to see (`make profile`) |

// A tool that waits for other programs, on a thread that serves nobody.
#![allow(clippy::disallowed_methods, reason = "sleeping stops nobody here")]

mod bench;
mod callgrind;
mod client;
mod counted;
mod floor;
mod h2;
mod load;
mod micro;
mod process;
mod profile;
mod progress;
mod readme;
mod report;
mod results;
mod rounds;
mod run;
mod strace;
mod table;
mod targets;
mod train;
mod upstream;

use clap::Parser;
use std::process::ExitCode;

/// What can fail here ends the measurement with a message; nobody acts on the kind.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser, Debug)]
#[command(name = "peers", about = "Pathloom beside its peers")]
enum Command {
    /// Measures everything by turns.
    Run(run::Options),
    /// Writes the pages from the results that are there.
    Pages(readme::Options),
    /// Takes the microbenchmarks' figures.
    Micro(micro::Options),
    /// Endpoints that answer at once.
    Upstream(upstream::Options),
    /// Sends requests, and reports as one line of JSON.
    Load(load::Options),
    /// The least that a proxy can do.
    Floor(floor::Options),
    /// Shows a build that counts its branches what requests are like.
    Train(train::Options),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(options) => run::run(&options),
        Command::Pages(options) => readme::run(&options),
        Command::Micro(options) => micro::run(&options),
        Command::Upstream(options) => upstream::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Floor(options) => floor::run(&options),
        Command::Train(options) => train::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
