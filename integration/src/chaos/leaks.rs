//! Whether processes leak, from what they had once a second.
//!
//! Troubles leave marks that are no leaks: the allocator keeps what a hundred long answers took, a new model is another size,
//! and the last lines of the access log fill up to 4 MiB (`observe::recent`), which takes a far sidecar two minutes. Among
//! those a small leak cannot be seen. So the run ends with a stretch in which nothing but the load goes on, once every sidecar's
//! lines are full ([`fill`]), and what is judged is the **slope** there, after [`WARM`]. What is remembered of the last 256
//! generations still fills then where a process is young: some 2 kB each, so a few kB a second that become less and less.
//!
//! The slope is Theil's and Sen's: the median of the slopes of all pairs of samples. Half a connection more or less, or a table
//! that doubles once, moves it little; what grows with time moves it whole. What is slower than [`MEMORY`] and [`DESCRIPTORS`]
//! passes: over a day that is 0.9 GB, so a run that passes does not say that nothing leaks, but that nothing leaks fast. A
//! longer stretch (`--steady`) does not sharpen the limits; it only makes steps count less.
//!
//! Under troubles themselves there is a coarser look: what a long life has at its end beside its second minute, and
//! descriptors when all is over beside those at first.

use crate::judge::Verdict;
use crate::mesh::{Mesh, SIDECARS};
use crate::samples::{Life, Sample};
use futures_util::future::join_all;
use std::ops::Range;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How fast a process's memory may grow in the steady stretch, in bytes a second.
pub const MEMORY: f64 = 10_000.0;
/// How fast its descriptors may, a second: one in twenty seconds.
pub const DESCRIPTORS: f64 = 0.05;
/// How long the steady stretch's beginning does not count: connections that troubles opened are closed in that time.
pub const WARM: Duration = Duration::from_secs(15);
/// A steady stretch that is shorter says nothing.
pub const SHORTEST: Duration = Duration::from_secs(60);
/// By how much a process may grow under troubles: a quarter, and so many bytes.
const GROWTH: (f64, f64) = (1.25, 8e6);
/// How many descriptors more than at first a process may have when all is over.
pub const MORE_DESCRIPTORS: u64 = 12;
/// A life that is shorter says nothing about what troubles leave behind.
const LONG: Duration = Duration::from_secs(180);
/// How long filling may take.
const FILLED_WITHIN: Duration = Duration::from_secs(300);
/// How many connections ask for that. One is bound by how long an answer takes, which is long on a busy machine.
const FILLING: usize = 4;
/// How long a path is that fills the access logs' last lines.
const PATH: usize = 3_000;

/// Asks until the last lines of every sidecar's access log are full, which shows when the oldest of them are given up.
/// Gives why they are not.
pub async fn fill(mesh: &Mesh) -> Result<(), String> {
    let path = "x".repeat(PATH);
    let ask = format!("GET /item?size=1&fill={path} HTTP/1.1\r\nhost: shop.mesh\r\nx-request-id: aside\r\n\r\n");
    let front = mesh.front();
    let one = || async {
        loop {
            // A connection that ends is followed by another one.
            if let Ok(mut stream) = TcpStream::connect(front).await {
                while stream.write_all(ask.as_bytes()).await.is_ok() && answer(&mut stream).await {}
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let looking = async {
        let (mut last, mut full) = ([0; SIDECARS.len()], [false; SIDECARS.len()]);
        while full.contains(&false) {
            for sidecar in 0..SIDECARS.len() {
                let kept = mesh.json(sidecar, "/requests?last=1").await["kept"].as_u64().unwrap_or(0);
                full[sidecar] |= kept < last[sidecar];
                last[sidecar] = kept;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = join_all((0..FILLING).map(|_| one())) => Ok(()),
        () = sleep(FILLED_WITHIN) => Err(format!("the access logs' last lines were not full after {FILLED_WITHIN:?}")),
        () = looking => Ok(()),
    }
}

/// Reads an answer of one byte; whether the connection is good for another one.
async fn answer(stream: &mut TcpStream) -> bool {
    let mut all = Vec::with_capacity(1_024);
    loop {
        let head = all.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if head.is_some_and(|head| all.len() > head) {
            return true;
        }
        match timeout(Duration::from_secs(5), stream.read_buf(&mut all)).await {
            Ok(Ok(1..)) => {}
            _ => return false,
        }
    }
}

/// Whether the processes of this name leaked: under troubles, which ended at `until`, and in the steady stretch.
pub fn verdicts(name: &'static str, lives: &[Life], until: Duration, steady: Option<&Range<Duration>>) -> Vec<Verdict> {
    let of_this: Vec<_> = lives.iter().filter(|l| l.name == name && !l.samples.is_empty()).collect();
    let mut verdicts = Vec::new();
    let Some((first, last)) = of_this.first().zip(of_this.last()) else { return verdicts };
    if let Some((at_first, at_last)) = first.samples.first().zip(last.samples.last()) {
        verdicts.push(Verdict {
            name: format!("descriptors_{name}"),
            what: format!("{name}: as many descriptors at the end as at first (at most {MORE_DESCRIPTORS} more)"),
            held: at_last.descriptors <= at_first.descriptors + MORE_DESCRIPTORS,
            seen: format!("{} at first, {} at the end", at_first.descriptors, at_last.descriptors),
        });
    }
    verdicts.extend(after_troubles(name, &of_this, until));
    verdicts.extend(steady.map(|steady| flat(name, last, steady)).into_iter().flatten());
    verdicts
}

/// What troubles left behind in the longest life.
fn after_troubles(name: &str, lives: &[&Life], until: Duration) -> Option<Verdict> {
    let last = |l: &Life| l.samples.iter().rfind(|s| s.at <= until).copied();
    let ends = |l: &Life| l.samples.first().zip(last(l)).map(|(a, b)| (a.at, b.at));
    let span = |l: &Life| ends(l).map_or(Duration::ZERO, |(a, b)| b - a);
    let life = lives.iter().max_by_key(|l| span(l)).filter(|l| span(l) >= LONG)?;
    let (born, ended) = ends(life)?;
    let minute = Duration::from_secs(60);
    let warm = mean(&life.samples, born + minute, born + minute * 2);
    let end = mean(&life.samples, ended.saturating_sub(minute), ended);
    Some(Verdict {
        name: format!("troubles_{name}"),
        what: format!(
            "{name}: troubles leave no more than a quarter and 8 MB behind (of its longest process, the last minute beside the second)"
        ),
        held: end <= warm * GROWTH.0 + GROWTH.1,
        seen: format!("{:.1} MB, then {:.1} MB", warm / 1e6, end / 1e6),
    })
}

/// Whether memory and descriptors of the last process are flat in the steady stretch.
fn flat(name: &str, life: &Life, steady: &Range<Duration>) -> [Verdict; 2] {
    let from = steady.start + WARM;
    let within: Vec<_> = life.samples.iter().filter(|s| s.at >= from && s.at < steady.end).copied().collect();
    // Who was not there all the time, or not looked at, was not judged: that is no pass.
    let seen_for = within.first().zip(within.last()).map_or(Duration::ZERO, |(a, b)| b.at - a.at);
    let enough = seen_for >= (steady.end - from).mul_f64(0.9);
    let of = |what: &str, unit: &str, name: String, limit: f64, scale: f64, value: &dyn Fn(&Sample) -> f64| {
        let points: Vec<_> = within.iter().map(|s| (s.at.as_secs_f64(), value(s))).collect();
        let slope = slope(&points).filter(|_| enough);
        Verdict {
            name,
            what: format!("{what} (at most {} {unit} a second under steady load)", limit / scale),
            held: slope.is_some_and(|slope| slope <= limit),
            seen: match slope {
                Some(slope) => format!("{:+.2} {unit}/s over {:.0} s", slope / scale, seen_for.as_secs_f64()),
                None => "it was not there all the time".to_owned(),
            },
        }
    };
    let memory: &dyn Fn(&Sample) -> f64 = &|s| s.memory as f64;
    let descriptors: &dyn Fn(&Sample) -> f64 = &|s| s.descriptors as f64;
    [
        of(&format!("{name}: memory is flat"), "kB", format!("memory_{name}"), MEMORY, 1e3, memory),
        of(
            &format!("{name}: descriptors are flat"),
            "descriptors",
            format!("descriptors_steady_{name}"),
            DESCRIPTORS,
            1.0,
            descriptors,
        ),
    ]
}

/// The median of the slopes between all pairs of points (Theil 1950, Sen 1968); none of fewer than two moments.
#[must_use]
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (n, (t, y)) in points.iter().enumerate() {
        slopes.extend(points.iter().skip(n + 1).filter(|(u, _)| u != t).map(|(u, z)| (z - y) / (u - t)));
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied()
}

/// The mean memory from one moment to another, in bytes.
#[must_use]
pub fn mean(samples: &[Sample], from: Duration, to: Duration) -> f64 {
    let within: Vec<_> = samples.iter().filter(|s| s.at >= from && s.at < to).map(|s| s.memory as f64).collect();
    within.iter().sum::<f64>() / within.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use pathloom_integration::random::Random;

    /// Two minutes of trouble and two steady ones, with memory as pages come and go: up to half a megabyte from one second to
    /// the next, and a table that grows by 600 KB once.
    fn life(seed: u64, leaks: f64, descriptors: impl Fn(u64) -> u64) -> Life {
        let mut random = Random::new(seed);
        let sample = |s: u64| {
            let noise = (random.below(500_000) / 4_096 * 4_096) as f64;
            let trouble = if s < 120 { 400_000.0 * s as f64 } else { 0.0 };
            let step = if s > 190 { 600_000.0 } else { 0.0 };
            Sample {
                at: Duration::from_secs(s),
                memory: (30e6 + noise + trouble + step + leaks * s as f64) as u64,
                descriptors: descriptors(s) + random.below(9) as u64,
                threads: 9,
            }
        };
        Life { name: "near", process: 1, ended: false, samples: (0..240).map(sample).collect() }
    }

    fn steady() -> Range<Duration> {
        Duration::from_secs(120)..Duration::from_secs(240)
    }

    fn held(life: Life) -> Vec<(String, bool)> {
        let all = verdicts("near", &[life], Duration::MAX, Some(&steady()));
        all.into_iter().map(|v| (v.name, v.held)).filter(|(name, _)| name != "troubles_near").collect()
    }

    fn fails(life: Life) -> Vec<String> {
        held(life).into_iter().filter(|(_, held)| !held).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_leak_of_twenty_kilobytes_a_second_is_caught_and_noise_is_not() {
        for seed in 1..=50 {
            assert_eq!(fails(life(seed, 0.0, |_| 50)), [""; 0], "seed {seed}");
            assert_eq!(fails(life(seed, 20_000.0, |_| 50)), ["memory_near"], "seed {seed}");
        }
    }

    #[test]
    fn a_descriptor_lost_every_ten_seconds_is_caught_even_if_all_are_closed_at_the_end() {
        let leaks = |s: u64| if s < 239 { 50 + s / 10 } else { 50 };
        for seed in 1..=50 {
            assert_eq!(fails(life(seed, 0.0, leaks)), ["descriptors_steady_near"], "seed {seed}");
        }
    }

    #[test]
    fn descriptors_left_over_from_troubles_are_caught() {
        assert_eq!(fails(life(1, 0.0, |s| if s < 60 { 50 } else { 80 })), ["descriptors_near"]);
    }

    #[test]
    fn what_troubles_leave_behind_has_a_bound_and_what_came_after_them_is_not_theirs() {
        let long = |after: u64, until: u64| {
            let memory = |s| if s < 140 { 30_000_000 } else { after };
            let sample = |s| Sample { at: Duration::from_secs(s), memory: memory(s), descriptors: 50, threads: 9 };
            let life = Life { name: "near", process: 1, ended: true, samples: (0..500).map(sample).collect() };
            let all = verdicts("near", &[life], Duration::from_secs(until), None);
            all.into_iter().find(|v| v.name == "troubles_near").map(|v| v.held)
        };
        assert_eq!((long(45_000_000, 200), long(46_000_000, 200)), (Some(true), Some(false)));
        // In the last minute of trouble all was as before; and less than three minutes say nothing.
        let mut later = life(1, 0.0, |_| 50);
        later.samples = (0..500)
            .map(|s| Sample {
                at: Duration::from_secs(s),
                memory: if s < 200 { 30_000_000 } else { 90_000_000 },
                descriptors: 50,
                threads: 9,
            })
            .collect();
        let verdict = |until| {
            verdicts("near", std::slice::from_ref(&later), Duration::from_secs(until), None)
                .into_iter()
                .find(|v| v.name == "troubles_near")
                .map(|v| v.held)
        };
        assert_eq!((verdict(200), verdict(400), verdict(170)), (Some(true), Some(false), None));
    }

    #[test]
    fn a_process_that_came_in_the_middle_of_the_steady_stretch_is_not_passed() {
        let mut young = life(1, 0.0, |_| 50);
        young.samples.retain(|s| s.at >= Duration::from_secs(170));
        assert_eq!(fails(young), ["memory_near", "descriptors_steady_near"]);
    }

    #[test]
    fn the_slope_is_that_of_the_line_whatever_one_point_says() {
        let mut points: Vec<_> = (0..20).map(|t| (f64::from(t), 5.0 + 3.0 * f64::from(t))).collect();
        points[7].1 = 1e9;
        assert_eq!(slope(&points), Some(3.0));
        assert_eq!(slope(&points[..1]), None);
    }
}
