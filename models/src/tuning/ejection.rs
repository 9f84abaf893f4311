//! Which endpoints are left alone, for how long, and what becomes of the others.

use super::bench::{Bench, cluster, fail, key, node, number};
use super::{Plot, logarithmic, seconds, spread};
use crate::Result;
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::balance::{Cause, Health};
use pathloom::config::{Ejection, Timespan};
use pathloom::health::{Ejector, Span, outliers};
use pathloom::links::{Time, Totals};
use std::time::Duration;

/// The room's plots.
pub(super) fn plots() -> Result<Vec<Plot>> {
    let [load, lost] = by_panic()?;
    let well = || Axis::linear("endpoints that are healthy, %");
    Ok(vec![
        Plot::lines(
            "ejection-row",
            "ejection.consecutive_failures: an endpoint that fails by chance",
            Axis::logarithmic("requests that fail, %"),
            Axis::logarithmic("requests until it is left alone, mean"),
            by_row(),
        ),
        Plot::lines(
            "ejection",
            "ejection.first and longest: an endpoint that fails each probe",
            Axis::linear("time, s"),
            Axis::linear("probes that failed"),
            by_ejection(),
        ),
        Plot::lines(
            "success-rate",
            "ejection.success_rate: how many failures eject one, where the others fail 1%",
            Axis::logarithmic("requests that it had in the interval"),
            Axis::linear("requests that fail, %"),
            by_success_rate(),
        ),
        Plot::lines(
            "ejection-latency",
            "ejection.latency: one of four is slower, 100 requests each, latencies that scatter",
            Axis::logarithmic("times as slow as the others"),
            Axis::linear("intervals in which it is ejected, %"),
            by_latency(),
        ),
        Plot::lines(
            "panic-load",
            "ejection.panic_below: what those that are left carry, of ten endpoints",
            well(),
            Axis::linear("requests to each, times the usual"),
            load,
        ),
        Plot::lines(
            "panic-lost",
            "ejection.panic_below: what goes to endpoints that fail, of ten endpoints",
            well(),
            Axis::linear("requests to those that fail, %"),
            lost,
        ),
    ])
}

/// How many requests an endpoint gets, of which a share fails by chance, until a row of failures ejects it.
fn by_row() -> Vec<Series> {
    const RUNS: usize = 60;
    const MOST: u32 = 20_000;
    let of = |row: u32| {
        let rules = Ejection { consecutive_failures: row, ..Ejection::default() };
        let mut draw = Draw::new(11 + u64::from(row));
        let mut until = |share: f64| {
            let (node, mut ejector) = (node(), Ejector::default());
            (1..=MOST).find(|_| {
                if draw.chance(share) {
                    _ = node.failed()
                } else {
                    node.succeeded()
                }
                ejector.check(&node, &rules, None, Time(1)).health == Health::Ejected
            })
        };
        let mut mean = |percent: f64| {
            let runs: Option<Vec<u32>> = (0..RUNS).map(|_| until(percent / 100.0)).collect();
            let mean = runs.map_or(f64::NAN, |r| r.iter().copied().map(f64::from).sum::<f64>() / RUNS as f64);
            (percent, mean)
        };
        let name = if row == 1 { "1 failure".into() } else { format!("{row} in a row") };
        Series::new(name, spread(1.0, 100.0, 16).map(&mut mean).collect())
    };
    [1, 2, 3, 5].map(of).into()
}

/// In how many intervals an endpoint is found to be slower than the others by more than a factor. Latencies are log-normal
/// and scatter as much as their mean.
fn by_latency() -> Vec<Series> {
    const LOOKS: usize = 300;
    const REQUESTS: u32 = 100;
    let mut draw = Draw::new(5);
    let mut sum = || (0..REQUESTS).map(|_| 0.02 * draw.spread(0.83)).sum::<f64>();
    let looks: Vec<[f64; 4]> = (0..LOOKS).map(|_| std::array::from_fn(|_| sum())).collect();
    let span = |latency_sum_s: f64| {
        let requests = u64::from(REQUESTS);
        let totals = Totals { ended: requests, samples: requests, latency_sum_s, ..Totals::default() };
        Span::between(&Totals::default(), &totals, REQUESTS)
    };
    let of = |latency: f64| {
        let rules = Ejection { latency, ..Ejection::default() };
        let share = |times: f64| {
            let ejected = |[a, b, c, odd]: &[f64; 4]| {
                let all = [span(*a), span(*b), span(*c), span(odd * times)];
                outliers(&all, &rules).iter().any(|(place, _)| *place == 3)
            };
            (times, looks.iter().filter(|look| ejected(look)).count() as f64 / LOOKS as f64 * 100.0)
        };
        Series::new(format!("factor {latency}"), spread(1.0, 20.0, 60).map(share).collect())
    };
    [1.5, 2.0, 5.0, 10.0].map(of).into()
}

/// Of ten endpoints more and more fail: what those that are left carry, and what goes to those that fail.
fn by_panic() -> Result<[Vec<Series>; 2]> {
    const ENDPOINTS: usize = 10;
    const PICKS: usize = 4_000;
    let (mut load, mut lost) = (Vec::new(), Vec::new());
    for below in [0, 20, 50, 90] {
        let yaml = cluster(ENDPOINTS, &format!(", ejection: {{ panic_below: {below}% }}"));
        let (mut bench, mut draw) = (Bench::new(&yaml)?, Draw::new(3));
        let (mut carried, mut failed) = (Vec::new(), Vec::new());
        for out in 0..ENDPOINTS {
            let well = (ENDPOINTS - out) as f64 / ENDPOINTS as f64 * 100.0;
            let table = bench.table()?;
            let mut counts = [0.0; ENDPOINTS];
            for _ in 0..PICKS {
                if let Some(choice) = table.pick(bench.now(), false, draw.rng(), &[]) {
                    counts[number(&table, choice.index) - 1] += 1.0;
                }
            }
            // The first ones are those that fail.
            let lost: f64 = counts.iter().take(out).sum::<f64>() / PICKS as f64;
            carried.push((well, (1.0 - lost) * ENDPOINTS as f64 / (ENDPOINTS - out) as f64));
            failed.push((well, lost * 100.0));
            let node = bench.links().node(&key(out + 1), bench.now());
            fail(&node, 3);
            bench.tick(Cause::Health);
        }
        load.push(Series::new(format!("panic below {below}%"), carried));
        lost.push(Series::new(format!("panic below {below}%"), failed));
    }
    Ok([load, lost])
}

fn by_ejection() -> Vec<Series> {
    let of = |(first_s, longest_s): (u64, u64)| {
        let span = |s| Timespan(Duration::from_secs(s));
        let rules = Ejection { first: span(first_s), longest: span(longest_s), ..Ejection::default() };
        let node = node();
        (0..rules.consecutive_failures).for_each(|_| _ = node.failed());
        let mut ejector = Ejector::default();
        let (mut probes, mut points) = (0u32, Vec::new());
        for tenth in 0..=6_000u32 {
            let now = seconds(10.0 + f64::from(tenth) * 0.1);
            let state = ejector.check(&node, &rules, None, now).health;
            // Whoever gets the one probe sees it fail.
            if state == Health::Probation && node.take_probe(true) {
                node.failed();
                probes += 1;
            }
            points.push((f64::from(tenth) * 0.1, f64::from(probes)));
        }
        Series::new(format!("first {first_s} s, longest {longest_s} s"), points)
    };
    [(5, 60), (1, 60), (5, 300), (30, 30)].map(of).into()
}

fn by_success_rate() -> Vec<Series> {
    let span = |requests: u64, errors: u64| {
        let totals = Totals { ended: requests, errors, ..Totals::default() };
        Span::between(&Totals::default(), &totals, 1)
    };
    let of = |success_rate: f64| {
        let rules = Ejection { success_rate, ..Ejection::default() };
        let least = |requests: f64| {
            let requests = requests as u64;
            let ejects = |errors: &u64| {
                let others = (0..3).map(|_| span(10_000, 100));
                let all: Vec<Option<Span>> = others.chain([span(requests, *errors)]).collect();
                outliers(&all, &rules).iter().any(|(place, _)| *place == 3)
            };
            let errors = (0..=requests).find(ejects);
            (requests as f64, errors.map_or(f64::NAN, |e| e as f64 / requests as f64 * 100.0))
        };
        Series::new(format!("{success_rate} deviations"), logarithmic(10.0, 2_000.0).map(least).collect())
    };
    [1.0, 1.9, 3.0, 6.0].map(of).into()
}
