//! The guard against getting slower: user instructions of what every request and every tick does, counted by callgrind
//! and compared with the committed figures in `benches/guard.json`.
//!
//! ```text
//! make guard                      compares; fails where a figure is beyond its margin
//! make guard ARGS=--bless         writes the figures anew: look at the difference before it is committed
//! make guard ARGS='--only tick'   some of them
//! ```
//! The program runs itself under valgrind. The one counted calls `mark::guard_mark` before and after what is to be
//! counted, callgrind writes a count at each mark and begins anew (`--dump-before`), and the difference between two
//! marks is the figure: no start-up, no set-up, no warm-up. All threads are counted, since what a tick does on the
//! scorer's thread is its cost too.
//!
//! - `micro` counts the pick, the outcome, the route, the tick's two halves and the embedded engine in process;
//! - `request` counts a whole HTTP/1.1 request through `pathloom run`, with an upstream and a client in another process.
//!
//! A count depends on the compiler, on the processor's architecture, and a little on the C library. The file names the
//! compiler and the architecture that it was counted with; with others there is nothing to compare, and the guard says
//! so and leaves. It is built as `make guard` says: the tests' dependencies (opt-level 2) with Pathloom's own code at
//! opt-level 3 and without link-time optimisation, which costs a minute instead of ten. So these are not the release's
//! figures (`benches/peers` has those); what makes them grow makes the release's grow, too.
//!
//! gungraun (formerly iai-callgrind) was looked at: it keeps its figures in `target/` instead of a committed file, and
//! wants a runner of exactly its version installed.

mod counted;
mod figures;
mod mark;
mod micro;
mod request;

use clap::{Parser, Subcommand};
use figures::Figures;
use std::path::PathBuf;
use std::process::ExitCode;

// As in the product: an allocation is part of what is counted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts instructions and compares them with the committed figures.
#[derive(Debug, Parser)]
struct Cli {
    /// Writes the committed figures anew.
    #[arg(long)]
    bless: bool,
    /// Counts only what has this in its name.
    #[arg(long, default_value = "")]
    only: String,
    /// The committed figures.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/guard.json"))]
    file: PathBuf,
    #[command(subcommand)]
    inside: Option<Inside>,
}

/// What runs under valgrind.
#[derive(Debug, Subcommand)]
enum Inside {
    /// Does what `micro` counts, and prints the names in the order of the marks.
    #[command(hide = true)]
    Micro,
    /// The sidecar, which marks whenever a line comes on its standard input.
    #[command(hide = true)]
    Run {
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.inside {
        Some(Inside::Micro) => micro::run(&cli.only),
        // The sidecar reads the same arguments by itself.
        Some(Inside::Run { config: _ }) => return request::sidecar(),
        None => guard(&cli),
    };
    done.unwrap_or_else(|error| {
        eprintln!("guard: {error}");
        ExitCode::FAILURE
    })
}

/// Why nothing can be said.
type Error = Box<dyn std::error::Error>;

fn guard(cli: &Cli) -> Result<ExitCode, Error> {
    let committed = Figures::read(&cli.file)?;
    if let (false, Some(difference)) = (cli.bless, committed.as_ref().and_then(Figures::counted_elsewhere)) {
        println!("guard: SKIPPED, nothing was compared: {difference}");
        println!("guard: `make guard ARGS=--bless` counts anew with what is here");
        return Ok(ExitCode::SUCCESS);
    }
    let mut counted = micro::count(&cli.only)?;
    if request::NAME.contains(&cli.only) {
        let mut least = request::count()?;
        // Where a busy machine lets a request wait, timers go on, and their work is counted with it: so the least of three
        // is the request's own.
        for _ in 0..2 {
            if committed.as_ref().is_some_and(|figures| figures.is_within(request::NAME, least)) {
                break;
            }
            least = least.min(request::count()?);
        }
        counted.push((request::NAME.into(), least));
    }
    if cli.bless {
        let figures = Figures::of(committed, counted)?;
        figures.write(&cli.file)?;
        println!("guard: {} was written", cli.file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(committed) = committed else {
        return Err(format!("{} is missing: `make guard ARGS=--bless` writes it", cli.file.display()).into());
    };
    let (report, within) = committed.judge(&counted);
    print!("{report}");
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
