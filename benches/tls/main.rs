//! What TLS costs: `make bench-tls`. Counted, not timed, so a busy machine changes nothing: user instructions and allocations by
//! callgrind, system calls by strace, of a sidecar and of HAProxy and nginx beside it.
//!
//! ```text
//! client (this process) --plain or mTLS--> proxy (alone, below valgrind or strace) --plain or mTLS--> endpoints (this process)
//! ```
//! | file | what it holds |
//! | --- | --- |
//! | `parties` | the client and the endpoints, blocking, on rustls |
//! | `proxies` | the proxies, their configurations, and the certificates that all use |
//! | `count` | counts of a load, as the difference of two of different length |
//!
//! **The same for all.** One serving thread; HTTP/1.1; TLS 1.3 alone, `TLS_AES_256_GCM_SHA384` over X25519 (what two sidecars
//! agree on), certificates of ECDSA P-256 in both directions, checked in both directions. The proxies' TLS is as it comes: nginx
//! and HAProxy hand tickets out, Pathloom does not. HAProxy and nginx are Debian's, optimised by their makers;
//! Pathloom is whatever binary is named, by `make` a build without link-time optimisation, so it is at a disadvantage.
//!
//! **Below valgrind** a processor has AES and carry-less multiplication, but no AVX-512 and no SHA extensions: ring's and OpenSSL's
//! slower paths for those are what is counted. Long copies are kept from `rep movsb`, which would count a byte as an
//! instruction (`proxies::COPIES`). Costs in the kernel are not counted at all.

// A tool that waits for other programs, on a thread that serves nobody.
#![allow(clippy::disallowed_methods, reason = "sleeping stops nobody here")]

mod count;
mod parties;
#[path = "../peers/process.rs"]
#[allow(dead_code, reason = "the comparison with peers uses the rest")]
mod process;
#[path = "../peers/profile.rs"]
#[allow(dead_code, reason = "the comparison with peers uses the rest")]
mod profile;
mod proxies;

use clap::Parser;
use count::{Cost, Counted};
use parties::{Client, Endpoints, Load};
use pathloom_benches::host::{commit, first_line, machine};
use proxies::{Certificates, Kind, Side};
use std::path::PathBuf;
use std::process::ExitCode;

/// What can fail here ends the measurement with a message; nobody acts on the kind.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Counts what TLS costs.
#[derive(Debug, Parser)]
pub struct Options {
    /// The sidecar's binary.
    #[arg(long)]
    pathloom: PathBuf,
    /// HAProxy's.
    #[arg(long, default_value = "haproxy")]
    haproxy: String,
    /// nginx's.
    #[arg(long, default_value = "nginx")]
    nginx: String,
    /// Counts only proxies that have this in their name.
    #[arg(long, default_value = "")]
    only: String,
    /// Counts only what has this in its name.
    #[arg(long, default_value = "")]
    load: String,
    /// How often each figure is counted: the median is shown, with the least and the most.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Requests until a proxy has done what it does at first only.
const SETTLES: usize = 2_000;

/// A line of the table.
struct Row {
    what: &'static str,
    sides: Side,
    load: Load,
}

/// What is counted, in the order of the table.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what, sides: &[Side], load| rows.extend(sides.iter().map(|sides| Row { what, sides: *sides, load }));
    add("a request, 1 KB, kept connections", &Side::ALL, Load::Kept);
    add("with a new connection of the client's", &[Side::NONE, Side::CLIENT], Load::New);
    add("with one that the client asks to resume", &[Side::CLIENT], Load::Resumed);
    add("with a new connection to the endpoint", &[Side::NONE, Side::ENDPOINT], Load::NewEndpoint);
    add("an answer of 64 KiB", &Side::ALL, Load::Down);
    add("a request's body of 64 KiB", &Side::ALL, Load::Up);
    rows
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Fallible<()> {
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::issue(folder.path())?;
    let endpoints = Endpoints::start(&certificates)?;
    let machine = machine();
    println!(
        "At commit {} on {} cores of {}, Linux {}; {}; {}; median of {} counts, in brackets the least and the most.\n",
        commit(),
        machine.cores,
        machine.processor,
        machine.kernel,
        first_line(&options.haproxy, &["-v"]),
        first_line(&options.nginx, &["-v"]),
        options.rounds,
    );
    println!("| | TLS | proxy | instructions | allocations | system calls | handshakes |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for kind in Kind::ALL.into_iter().filter(|kind| kind.name().contains(&options.only)) {
        let proxy = proxies::Proxy::new(kind, options, &folder.path().join(kind.name()), &certificates, &endpoints)?;
        let mut counts: Vec<(Row, Counted)> = Vec::new();
        let wanted: Vec<Row> = rows().into_iter().filter(|row| row.what.contains(&options.load)).collect();
        let mut profiled = count::Profiled::start(&proxy)?;
        // What a start still does is none of the first row's.
        Client::new(&certificates, proxy.target(Side::NONE), Load::Kept)?.ask(SETTLES)?;
        for row in wanted {
            let mut client = Client::new(&certificates, proxy.target(row.sides), row.load)?;
            let cost = profiled.cost(&mut client, options.rounds)?;
            counts.push((row, Counted { cost, calls: Vec::new(), handshakes: client.handshakes() }));
        }
        drop(profiled);
        let traced = count::Traced::start(&proxy)?;
        for (row, counted) in &mut counts {
            let mut client = Client::new(&certificates, proxy.target(row.sides), row.load)?;
            counted.calls = traced.calls(&mut client, options.rounds)?;
        }
        for (row, counted) in &counts {
            let instructions = counted.cost.iter().map(|cost| cost.instructions);
            let allocations = counted.cost.iter().map(|cost: &Cost| cost.allocations);
            println!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.what,
                row.sides.words(),
                kind.name(),
                spread(instructions, 0),
                spread(allocations, 1),
                spread(counted.calls.iter().copied(), 2),
                counted.handshakes,
            );
        }
    }
    Ok(())
}

/// The median, and in brackets the least and the most where they are others.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let show = |value: Option<&f64>| value.map_or_else(String::new, |value| grouped(*value, digits));
    let (least, median, most) = (show(values.first()), show(values.get(values.len() / 2)), show(values.last()));
    if least == most { median } else { format!("{median} ({least} to {most})") }
}

/// A number with commas between its thousands.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut out = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_what_they_vary_in() {
        assert_eq!(spread([3.0, 1_234_567.0, 2_000.0].into_iter(), 0), "2,000 (3 to 1,234,567)");
        assert_eq!(spread([2.04, 2.04, 2.04].into_iter(), 1), "2.0");
        assert_eq!(grouped(-1234.5, 1), "-1,234.5");
    }

    #[test]
    fn every_row_is_of_a_kind_of_its_own() {
        let all: std::collections::BTreeSet<_> = rows().iter().map(|row| (row.what, row.sides.words())).collect();
        assert_eq!(all.len(), rows().len());
    }
}
