//! Which endpoints: configured weights and splits, what stays where, and how long a link is remembered.

use super::bench::{Bench, key};
use super::{DEFAULT, Plot, quantile, seconds, spread};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use crate::{Error, Result};
use pathloom::balance::{Capacity, Endpoint, EndpointId, Maglev};
use pathloom::links::{LinkKey, Links, NodeKey, Outcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The room's plots.
pub(super) fn plots() -> Result<Vec<Plot>> {
    Ok(vec![
        Plot::lines(
            "endpoint-weight",
            "endpoints[].weight: one of four equal endpoints, the others have weight 2",
            Axis::linear("its weight"),
            Axis::linear("its share of the requests, %"),
            by_weight()?,
        ),
        Plot::lines(
            "split",
            "routes[].split: what comes of 10% in 90 of 100 deployments",
            Axis::logarithmic("requests"),
            Axis::linear("share that the cluster of 10% got, %"),
            by_requests()?,
        ),
        Plot::lines(
            "affinity",
            "affinity: who moves when one endpoint is added",
            Axis::linear("endpoints before"),
            Axis::linear("values that move, %"),
            by_affinity(),
        ),
        Plot::lines(
            "locality",
            "locality.own_zone_first: requests that stay, of two zones of equal size",
            Axis::linear("part of the own zone that is well, %"),
            Axis::linear("share that stays, %"),
            by_zone(),
        ),
        Plot::lines(
            "idle-links",
            "telemetry.idle_links: 5 callers of 20 endpoints, all replaced every 15 minutes",
            Axis::linear("time, hours"),
            Axis::logarithmic("links that are kept"),
            by_idleness(),
        ),
    ])
}

/// The share of one of four endpoints by its configured weight, under 400 requests a second of some 20 ms each.
fn by_weight() -> Result<Vec<Series>> {
    const A_SECOND: f64 = 400.0;
    const SECONDS: f64 = 20.0;
    let share = |policy: &str, weight: u32| -> Result<f64> {
        let rest: Vec<String> = (2..=4).map(|i| format!("{{ address: {}, weight: 2 }}", key(i))).collect();
        let first = format!("{{ address: {}, weight: {weight} }}", key(1));
        let endpoints = format!("{first}, {}", rest.join(", "));
        let yaml =
            format!("routes: [{{ cluster: c }}]\nclusters: {{ c: {{ policy: {policy}, endpoints: [{endpoints}] }} }}");
        let mut bench = Bench::new(&yaml)?;
        bench.predict(&[0.02]);
        bench.tick(pathloom::balance::Cause::Interval);
        let (table, mut draw) = (bench.table()?, Draw::new(81));
        let (mut under_way, mut at_s, mut counts) = (Vec::<(f64, f64, usize)>::new(), 0.0, [0u32; 5]);
        while at_s < SECONDS {
            at_s += draw.exponential() / A_SECOND;
            let now = seconds(2.0 + at_s);
            for (_, took_s, index) in under_way.extract_if(.., |(until_s, ..)| *until_s <= at_s) {
                let candidate = &table.candidates()[index];
                let (prior_s, tau_s) = table.decay_of(candidate);
                candidate.link.record(0, now, took_s as f32, Outcome::Success, prior_s, tau_s);
                candidate.node.end();
            }
            let Some(choice) = table.pick(now, false, draw.rng(), &[]) else { continue };
            let candidate = &table.candidates()[choice.index];
            candidate.node.begin();
            counts[usize::from(candidate.endpoint.address.port())] += 1;
            let takes_s = 0.02 * draw.spread(0.3);
            under_way.push((at_s + takes_s, takes_s, choice.index));
        }
        Ok(f64::from(counts[1]) / f64::from(counts.iter().sum::<u32>()) * 100.0)
    };
    let mut all = Vec::new();
    for policy in ["model", "peak_ewma", "least_request", "round_robin"] {
        let points: Result<Vec<(f64, f64)>> = (0..=8).map(|w| Ok((f64::from(w), share(policy, w)?))).collect();
        all.push(Series::new(policy, points?));
    }
    Ok(all)
}

/// The share of a split after so many requests: between what it is in 90 of 100 deployments.
fn by_requests() -> Result<Vec<Series>> {
    const RUNS: u64 = 100;
    let yaml = "routes: [{ split: { a: 90%, b: 10% } }]\n\
                clusters: { a: { endpoints: [{ address: 10.0.0.1:1 }] }, b: { endpoints: [{ address: 10.0.0.1:2 }] } }";
    let generation = Bench::new(yaml)?.generation();
    let rule = generation.routes.rule(0).ok_or_else(|| Error::Format("a made-up route is none".into()))?;
    let counts: Vec<usize> = spread(10.0, 10_000.0, 24).map(|n| n.round() as usize).collect();
    let run = |run: u64| {
        let (mut draw, mut hits, mut so_far) = (Draw::new(90 + run), 0u32, Vec::new());
        for n in 1..=10_000usize {
            hits += u32::from(rule.cluster(rand::Rng::next_u32(draw.rng())).is_some_and(|c| c.0 == 1));
            if counts.contains(&n) {
                so_far.push(f64::from(hits) / n as f64 * 100.0);
            }
        }
        so_far
    };
    let runs: Vec<Vec<f64>> = (0..RUNS).map(run).collect();
    let at = |q: f64| {
        let point = |(i, n): (usize, &usize)| {
            let mut all: Vec<f64> = runs.iter().map(|run| run[i]).collect();
            (*n as f64, quantile(&mut all, q))
        };
        counts.iter().enumerate().map(point).collect()
    };
    Ok(vec![
        Series::new("95 of 100 below", at(0.95)),
        Series::new("median", at(0.5)),
        Series::new("5 of 100 below", at(0.05)),
    ])
}

/// How many links are kept where endpoints come and go.
fn by_idleness() -> Vec<Series> {
    let of = |(name, minutes): (&str, u64)| {
        let (links, idle) = (Links::new(1), Duration::from_secs(minutes * 60));
        let mut points = Vec::new();
        for minute in 0..=360u32 {
            let now = seconds(1.0 + f64::from(minute) * 60.0);
            for (caller, endpoint) in (0..5).flat_map(|caller| (0..20).map(move |endpoint| (caller, endpoint))) {
                let source = NodeKey::new(&format!("w{caller}"));
                let destination = NodeKey::new(&format!("10.0.{}.{endpoint}:80", minute / 15));
                let link = links.link(&LinkKey::new(&source, &destination), now);
                link.begin(0, now);
                link.end(0, now);
            }
            links.evict(now, idle);
            points.push((f64::from(minute) / 60.0, links.len().0 as f64));
        }
        Series::new(name, points)
    };
    [("1 minute", 1), ("10 minutes", 10), ("1 hour", 60), ("1 day", 24 * 60)].map(of).into()
}

fn by_affinity() -> Vec<Series> {
    const VALUES: u64 = 20_000;
    let endpoint = |i: u16| {
        let key = NodeKey::new(&format!("10.0.0.1:{i}"));
        let address = ([10, 0, 0, 1], i).into();
        let (zone, host, metadata) = ("".into(), "".into(), BTreeMap::new());
        Arc::new(Endpoint { id: EndpointId(i.into()), key, address, zone, host, weight: 1, metadata, tls: None })
    };
    // Far apart, as hashes are.
    let number = |value: u64| value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let moved = |n: u16| {
        let of = |count: u16| {
            let all: Vec<_> = (1..=count).map(endpoint).collect();
            let table = Maglev::of(&all, None);
            let members: Vec<_> = table.members().collect();
            (0..VALUES).map(|value| table.at(number(value)).and_then(|at| members.get(at).copied())).collect::<Vec<_>>()
        };
        let count = of(n).iter().zip(of(n + 1)).filter(|(before, after)| *before != after).count();
        (f64::from(n), count as f64 / VALUES as f64 * 100.0)
    };
    let modulo = |n: u16| {
        let (before, after) = (u64::from(n), u64::from(n + 1));
        let moved = (0..VALUES).filter(|v| (number(*v) >> 20) % before != (number(*v) >> 20) % after).count();
        (f64::from(n), moved as f64 / VALUES as f64 * 100.0)
    };
    let least = |n: u16| (f64::from(n), 100.0 / (f64::from(n) + 1.0));
    let sizes = || (2..=30u16).step_by(2);
    vec![
        Series::new("affinity (Maglev)", sizes().map(moved).collect()),
        Series::new("hash modulo count", sizes().map(modulo).collect()),
        Series::new("the least possible", sizes().map(least).collect()),
    ]
}

fn by_zone() -> Vec<Series> {
    let of = |(name, unloaded): (&str, f32)| {
        let at = |percent: u8| {
            let well = f32::from(percent) / 100.0;
            let capacity = Capacity { own_well: well * 10.0, own: 10.0, others_well: 10.0 };
            let share = capacity.share(unloaded, DEFAULT.floor).unwrap_or(f32::NAN);
            (f64::from(percent), f64::from(share) * 100.0)
        };
        Series::new(name, (1..=100).map(at).collect())
    };
    let mut all: Vec<Series> =
        [("not busy", 1.0), ("busy: load leaves it 80%", 0.8), ("busy: load leaves it 60%", 0.6)].map(of).into();
    let fair = |percent: u32| (f64::from(percent), f64::from(percent) / (f64::from(percent) + 100.0) * 100.0);
    all.push(Series::new("without preference", (1..=100).map(fair).collect()));
    all
}
