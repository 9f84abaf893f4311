//! What is counted in process. Everything is seeded; the standard library's hash seeds are not, so maps differ a
//! little from run to run, which is far below the margins.

use super::counted::{between_marks, missing, valgrind};
use super::{Error, mark::guard_mark};
use pathloom::config::{Engine, Policy};
use pathloom::links::{Links, Time};
use pathloom_benches::fast::{Asked, Rules, Written, routes, table};
use pathloom_benches::mesh::{Mesh, no_model, runtime, scorer};
use rand::{SeedableRng, rngs::SmallRng};
use std::hint::black_box;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

/// How often the small things are done between two marks.
const TIMES: u32 = 10_000;
/// How many endpoints the tick's mesh has: 5,000 links.
const ENDPOINTS: usize = 1_000;
/// How many ticks are counted together.
const TICKS: usize = 3;

/// Counts it all: names and instructions of one turn each.
pub fn count(only: &str) -> Result<Vec<(String, u64)>, Error> {
    let folder = tempfile::tempdir()?;
    let output = valgrind(folder.path())?
        .args(["--only", only, "micro"])
        // Inherited, so that an allocator's or a library's word on a failure is seen.
        .stderr(Stdio::inherit())
        .output()
        .map_err(missing)?;
    if !output.status.success() {
        return Err(format!("the program under valgrind failed: {}", output.status).into());
    }
    let counts = between_marks(folder.path())?;
    let mut all: Vec<(String, u64, u64)> = Vec::new();
    // Each name stands for two marks: what is before the first is set-up.
    for (line, pair) in String::from_utf8(output.stdout)?.lines().zip(counts.chunks(2)) {
        let (Some((times, name)), [_, count]) = (line.split_once(' '), pair) else {
            return Err(format!("the marks do not fit the names at `{line}`").into());
        };
        let times: u64 = times.parse()?;
        // A name that comes again adds to what was counted under it.
        match all.iter_mut().find(|(known, ..)| known == name) {
            Some((_, sum, turns)) => (*sum, *turns) = (*sum + count, *turns + times),
            None => all.push((name.to_owned(), *count, times)),
        }
    }
    Ok(all.into_iter().map(|(name, count, times)| (name, count / times.max(1))).collect())
}

struct Counting<'a> {
    only: &'a str,
}

impl Counting<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// Counts `times` turns, after a tenth as many that warm up.
    fn count(&self, name: &str, times: u32, mut turn: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        (0..times.div_ceil(10)).for_each(|_| turn());
        guard_mark();
        (0..times).for_each(|_| turn());
        guard_mark();
        println!("{times} {name}");
    }
}

/// Does it all: what runs under valgrind.
pub fn run(only: &str) -> Result<ExitCode, Error> {
    let counting = Counting { only };
    for endpoints in [2, 10, 64, 1_000] {
        let (links, mut rng) = (Links::new(1), SmallRng::seed_from_u64(1));
        let table = table(&links, endpoints, Policy::Model);
        counting.count(&format!("pick among {endpoints}"), TIMES, || {
            black_box(table.pick(black_box(Time(1_000_000)), false, &mut rng, &[]));
        });
    }
    let mut written = Written::default();
    counting.count("outcome", TIMES, || written.request(black_box(0.012)));
    for (name, rules, number) in [
        ("route of 1", Rules::Hosts, 1),
        ("route of 100 hosts", Rules::Hosts, 100),
        ("route of 10000 hosts", Rules::Hosts, 10_000),
        ("route of 100 prefixes", Rules::Prefixes, 100),
    ] {
        let (table, asked) = (routes(number, rules), Asked::new(number - 1, rules));
        counting.count(name, TIMES, || {
            black_box(table.find(black_box(&asked.head())));
        });
    }
    slow_loop(&counting)?;
    Ok(ExitCode::SUCCESS)
}

fn slow_loop(counting: &Counting<'_>) -> Result<(), Error> {
    let names = ["publish", "tick without a model", "inference, embedded engine"];
    let [publish, tick, inference] = names;
    if !names.iter().any(|n| counting.wants(n)) {
        return Ok(());
    }
    let runtime = runtime()?;
    let model = no_model();
    runtime.block_on(model.ready())?;
    let mut mesh = Mesh::new(ENDPOINTS, model);
    runtime.block_on(mesh.tick());
    counting.count(publish, 1, || mesh.control.publish_first());
    if counting.wants(tick) {
        // The calls between the ticks are not theirs: each tick is counted by itself.
        for _ in 0..TICKS {
            mesh.second();
            guard_mark();
            runtime.block_on(mesh.tick());
            guard_mark();
            println!("1 {tick}");
        }
    }
    if counting.wants(inference) {
        let scorer = scorer(Engine::Embedded);
        runtime.block_on(scorer.ready())?;
        let mut features = mesh.features();
        counting.count(inference, 1, || {
            let scored = runtime.block_on(scorer.score(std::mem::take(&mut features), Duration::from_secs(600)));
            features = scored.features;
            assert!(scored.result.is_ok(), "{:?}", scored.result.err());
        });
    }
    Ok(())
}
