//! Shared averages with empirical-Bayes shrinkage: the strongest simple rival.
//!
//! The mean latency of the link from i to replica j of service s, in units of the service's mean m_s, is taken as
//! ```text
//! y_ij / m_s = 1 + service_s + replica_j + zone x [i and j in different zones] + link_ij + error_ij
//! ```
//! with `replica_j ~ (0, R)`, `link_ij ~ (0, L)` and `error_ij ~ (0, v_ij)`. All variances are estimated from the one
//! sample itself, by the method of moments, none by hand:
//! - `v_ij = (jitter / 1.128)^2 / n` (successive independent normal values differ by 1.128 deviations on average); where
//!   no jitter is known the deviation is taken to be the mean. No link is more certain than one with ten thousand answers.
//! - `zone`: over replicas with callers in both kinds of zones, the weighted mean of the contrasts between them.
//! - `L` and then `R`: DerSimonian and Laird's estimator (Controlled Clinical Trials 7, 1986) pooled over all replicas,
//!   and over all services: `(Q - degrees) / (sum w - sum w^2 / sum w)`, not below 0.
//!
//! The estimate of a link is then the weighted mean of its own figure (weight `1/v`) and its replica's (`1/L`), where the
//! replica's is that of its links and its service's (`1/R`): many samples give the link's own mean, none the replica's, and a
//! replica that nobody called its service's. Which nodes are of one service is known from the groups of candidates.

use super::column;
use crate::net::FE;
use pathloom::graph::Features;
use std::collections::BTreeMap;

/// The mean difference of two independent normal values, in deviations.
const STEP: f64 = 1.128;
/// No link is more certain than one with so many answers whose deviation is its mean.
const MOST_ANSWERS: f64 = 1e4;

/// A link with a known mean.
#[derive(Debug, Clone, Copy)]
struct Known {
    called: usize,
    mean: f64,
    variance: f64,
    /// Whether its ends are in different zones.
    far: Option<bool>,
}

/// For each node, the mean of a column over the links to it; NaN where none is known.
#[must_use]
pub fn of_called(features: &Features, column: usize) -> Vec<f32> {
    let mut sums = vec![(0.0f64, 0.0f64); features.node_count()];
    for (row, called) in features.edge_features.chunks_exact(FE).zip(&features.edges) {
        let (value, sum) = (row.get(column).copied().unwrap_or(f32::NAN), sums.get_mut(*called as usize));
        if let Some(sum) = sum.filter(|_| value.is_finite()) {
            *sum = (sum.0 + f64::from(value), sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(sum, count)| (sum / count) as f32).collect()
}

/// For each candidate the shrunk mean latency of its path's first link, in seconds; NaN where its whole service is
/// unknown. `groups` has each candidate's group: those of one group are replicas of one service.
#[must_use]
pub fn shrunk(features: &Features, groups: &[u32]) -> Vec<f32> {
    let links: Vec<Option<usize>> = features
        .path_offsets
        .iter()
        .take(groups.len())
        .map(|o| features.path_links.get(*o as usize).map(|l| *l as usize))
        .collect();
    let called = |link: usize| features.edges.get(link).map(|n| *n as usize);
    let services =
        services(features.node_count(), links.iter().zip(groups).filter_map(|(l, g)| Some((called((*l)?)?, *g))));
    let known: Vec<(usize, Known)> = features
        .edge_features
        .chunks_exact(FE)
        .enumerate()
        .filter_map(|(link, row)| Some((link, known(row, called(link)?)?)))
        .collect();
    let scale = scales(&services, &known);
    // Each link in units of its service's mean.
    let mut units: BTreeMap<usize, Known> = known
        .into_iter()
        .filter_map(|(link, k)| {
            let m = *scale.get(services.get(k.called)?.as_ref()?)?;
            Some((link, Known { mean: k.mean / m, variance: k.variance / (m * m), ..k }))
        })
        .collect();
    let zone = zone(&units);
    units.values_mut().filter(|k| k.far == Some(true)).for_each(|k| k.mean -= zone);

    let mut of_replica: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for k in units.values() {
        of_replica.entry(k.called).or_default().push((k.mean, k.variance));
    }
    let between_links = between(of_replica.values());
    let mut of_service: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    let mut replicas: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (replica, links) in &of_replica {
        let found = pooled(links, between_links);
        replicas.insert(*replica, found);
        if let Some(Some(service)) = services.get(*replica) {
            of_service.entry(*service).or_default().push(found);
        }
    }
    let between_replicas = between(of_service.values());
    let of_services: BTreeMap<usize, f64> =
        of_service.iter().map(|(service, replicas)| (*service, pooled(replicas, between_replicas).0)).collect();

    let estimate = |link: usize| -> Option<f32> {
        let node = called(link)?;
        let service = (*services.get(node)?)?;
        let prior = *of_services.get(&service)?;
        let replica = replicas.get(&node).map_or(prior, |of| shrink(*of, (prior, between_replicas)));
        let own = units.get(&link).map_or(replica, |k| shrink((k.mean, k.variance), (replica, between_links)));
        let far = features.edge_features.get(link * FE + column::SAME_ZONE).is_some_and(|same| *same == 0.0);
        let units = own + if far { zone } else { 0.0 };
        let seconds = units.max(0.0) * scale.get(&service)?;
        Some(seconds as f32)
    };
    links.into_iter().map(|link| link.and_then(estimate).unwrap_or(f32::NAN)).collect()
}

fn known(row: &[f32], called: usize) -> Option<Known> {
    let at = |column: usize| row.get(column).map(|v| f64::from(*v)).filter(|v| v.is_finite());
    let mean = at(column::MEAN).filter(|m| *m > 0.0)?;
    let n = at(column::SAMPLES).unwrap_or(0.0).max(1.0);
    let deviation = at(column::JITTER).map_or(mean, |j| j / STEP);
    let variance = (deviation.powi(2) / n).max(mean.powi(2) / MOST_ANSWERS);
    Some(Known { called, mean, variance, far: at(column::SAME_ZONE).map(|same| same == 0.0) })
}

/// For each node its service's number, where a group has it.
fn services(nodes: usize, of: impl Iterator<Item = (usize, u32)>) -> Vec<Option<usize>> {
    let mut services: Vec<Option<usize>> = vec![None; nodes];
    let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (node, group) in of {
        groups.entry(group).or_default().push(node);
    }
    for (number, members) in groups.into_values().enumerate() {
        // Callers of one service share its replicas, so a group either meets a service that is known or is a new one.
        let before: Vec<usize> = members.iter().filter_map(|n| services.get(*n).copied().flatten()).collect();
        let service = before.iter().copied().min().unwrap_or(number);
        if before.iter().any(|b| *b != service) {
            services.iter_mut().flatten().filter(|s| before.contains(s)).for_each(|s| *s = service);
        }
        for node in members {
            if let Some(slot) = services.get_mut(node) {
                *slot = Some(service);
            }
        }
    }
    services
}

/// Each service's plain mean over its links.
fn scales(services: &[Option<usize>], known: &[(usize, Known)]) -> BTreeMap<usize, f64> {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (_, k) in known {
        if let Some(Some(service)) = services.get(k.called) {
            let sum = sums.entry(*service).or_default();
            *sum = (sum.0 + k.mean, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(service, (sum, count))| (service, sum / count)).collect()
}

/// How much longer calls to another zone take: the weighted mean over replicas that have callers in both kinds.
fn zone(units: &BTreeMap<usize, Known>) -> f64 {
    let mut of: BTreeMap<usize, [Vec<(f64, f64)>; 2]> = BTreeMap::new();
    for k in units.values() {
        let [near, far] = of.entry(k.called).or_default();
        match k.far {
            Some(true) => far.push((k.mean, k.variance)),
            Some(false) => near.push((k.mean, k.variance)),
            None => {}
        }
    }
    let contrasts = of.values().filter(|[near, far]| !near.is_empty() && !far.is_empty()).map(|[near, far]| {
        let (near, far) = (pooled(near, 0.0), pooled(far, 0.0));
        (far.0 - near.0, far.1 + near.1)
    });
    let contrasts: Vec<(f64, f64)> = contrasts.collect();
    if contrasts.is_empty() { 0.0 } else { pooled(&contrasts, between(std::iter::once(&contrasts))).0 }
}

/// The variance between the true values of the members of a family, pooled over families of (value, its variance).
fn between<'a>(families: impl Iterator<Item = &'a Vec<(f64, f64)>>) -> f64 {
    let (mut excess, mut scale) = (0.0, 0.0);
    for family in families.filter(|f| f.len() > 1) {
        let (mean, _) = pooled(family, 0.0);
        let weights = family.iter().map(|(_, v)| 1.0 / v);
        let (sum, squares) = weights.fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
        excess += family.iter().map(|(x, v)| (x - mean).powi(2) / v).sum::<f64>() - (family.len() as f64 - 1.0);
        scale += sum - squares / sum;
    }
    if scale > 0.0 { (excess / scale).max(0.0) } else { 0.0 }
}

/// The weighted mean of (value, its variance), whose true values vary by `between`; and that mean's variance.
fn pooled(of: &[(f64, f64)], between: f64) -> (f64, f64) {
    let weights = of.iter().map(|(x, v)| (x, 1.0 / (v + between)));
    let (sum, total) = weights.fold((0.0, 0.0), |(s, t), (x, w)| (s + x * w, t + w));
    (sum / total, 1.0 / total)
}

/// Between what was seen (value, variance) and what is expected (value, variance): no variance of the latter is certainty.
fn shrink(seen: (f64, f64), prior: (f64, f64)) -> f64 {
    let own = prior.1 / (prior.1 + seen.1).max(f64::MIN_POSITIVE);
    own * seen.0 + (1.0 - own) * prior.0
}
