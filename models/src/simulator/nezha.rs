//! Work as it really is: mixtures of log-normals fitted to percentiles, and how far they are from them.
//!
//! Nezha's `self_time_distributions.csv` (IntelligentDDS/Nezha, MIT) has percentiles of operations' exclusive times. One
//! log-normal misses them, because most operations have a narrow body and a rare part that takes tens of times as long. A
//! body, a shoulder and a tail fit: `fit` seeks the eight numbers whose mixture comes closest to the percentiles in
//! logarithms, by a compass search (each number up and down by a step, which halves when nothing helps). `compare` then
//! draws from the very `Work` that the engine draws from, and says how far its percentiles are from the given ones.

use super::draw::Draw;
use super::mesh::{Shape, Work, WorkPart};
use crate::{Error, Result};
use std::path::Path;

/// The percentiles that a fit goes by.
pub const QUANTILES: [f64; 6] = [0.1, 0.5, 0.9, 0.95, 0.99, 0.999];
/// How much each counts: the last stands on few requests.
const WEIGHTS: [f64; 6] = [1.0, 2.0, 2.0, 1.0, 2.0, 0.3];
/// How many draws a comparison makes.
const DRAWS: usize = 100_000;

/// An operation's percentiles.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Operation {
    /// Application, service and operation.
    pub name: String,
    /// How many requests the percentiles stand on.
    pub requests: u64,
    /// The times in milliseconds at `QUANTILES`.
    pub times_ms: [f64; 6],
}

/// How a fitted mixture's draws compare.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// What was fitted.
    pub operation: Operation,
    /// What the draws have at `QUANTILES`, in milliseconds.
    pub drawn_ms: [f64; 6],
}

impl Comparison {
    /// The largest of |drawn - given| / given over the median, the 90th and the 99th percentile.
    #[must_use]
    pub fn largest_error(&self) -> f64 {
        let errors = self.drawn_ms.iter().zip(&self.operation.times_ms).map(|(d, g)| (d / g - 1.0).abs());
        errors.zip(QUANTILES).filter(|(_, q)| [0.5, 0.9, 0.99].contains(q)).map(|(e, _)| e).fold(0.0, f64::max)
    }
}

/// Body, shoulder and tail: the logarithms of median and deviation of each, and the logits of the last two's shares.
type Numbers = [f64; 8];

fn parts(numbers: &Numbers) -> [(f64, f64, f64); 3] {
    let [body, body_sigma, shoulder, shoulder_sigma, tail, tail_sigma, shoulder_share, tail_share] = *numbers;
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (shoulder_share, tail_share) = (0.5 * logistic(shoulder_share), 0.3 * logistic(tail_share));
    [
        (1.0 - shoulder_share - tail_share, body, body_sigma.exp()),
        (shoulder_share, shoulder, shoulder_sigma.exp()),
        (tail_share, tail, tail_sigma.exp()),
    ]
}

/// The logarithm of a mixture's time at a quantile, by bisection.
fn log_quantile(parts: &[(f64, f64, f64); 3], q: f64) -> f64 {
    let (mut low, mut high) = (-20.0, 20.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        let below: f64 = parts.iter().map(|(share, mu, sigma)| share * normal_cdf((middle - mu) / sigma)).sum();
        if below < q { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

fn distance(numbers: &Numbers, given: &[f64; 6]) -> f64 {
    let parts = parts(numbers);
    let off = |(q, given): (f64, &f64)| log_quantile(&parts, q) - given;
    let sum: f64 = QUANTILES.into_iter().zip(given).map(off).zip(WEIGHTS).map(|(d, w)| w * d * d).sum();
    // Deviations beyond reason are cheap ways to meet a percentile.
    let wild = |x: f64| (x - 0.7).max(0.0) + (-3.0 - x).max(0.0);
    sum + wild(numbers[1]) + wild(numbers[3]) + wild(numbers[5])
}

/// The mixture that comes closest to an operation's percentiles.
#[must_use]
pub fn fit(operation: &Operation) -> Work {
    let given = operation.times_ms.map(|ms| (ms * 1e-3).max(1e-9).ln());
    let body_sigma = ((given[1] - given[0]) / 1.2816).clamp(0.05, 1.5).ln();
    let mut best = [given[1], body_sigma, given[3], -0.7, given[5], -0.7, -1.5, -3.0];
    let mut least = distance(&best, &given);
    let mut step = 0.5;
    while step > 1e-3 {
        let before = least;
        for i in 0..best.len() {
            for by in [step, -step] {
                let mut tried = best;
                tried[i] += by;
                let found = distance(&tried, &given);
                if found < least {
                    (best, least) = (tried, found);
                }
            }
        }
        if before - least < 1e-4 * before {
            step *= 0.5;
        }
    }
    let part = |(share, mu, sigma): (f64, f64, f64)| WorkPart {
        share,
        mean_s: (mu + sigma * sigma / 2.0).exp(),
        shape: Shape::LogNormal(sigma),
    };
    Work { parts: parts(&best).map(part).to_vec() }
}

/// Fits an operation and draws from what was fitted.
#[must_use]
pub fn compare(operation: &Operation, draw: &mut Draw) -> Comparison {
    let work = fit(operation);
    let mut times: Vec<f64> = (0..DRAWS).map(|_| work.draw(draw) * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let drawn_ms = QUANTILES.map(|q| times[((q * DRAWS as f64) as usize).min(DRAWS - 1)]);
    Comparison { operation: operation.clone(), drawn_ms }
}

/// The operations of a data folder in normal condition, with at least this many requests.
///
/// # Errors
/// When the folder has no such file, or it is not what it should be.
pub fn operations(data: &Path, least: u64) -> Result<Vec<Operation>> {
    let path = data.join("nezha/self_time_distributions.csv");
    if !path.exists() {
        return Err(Error::Format(format!(
            "{}: there is no such file, so nothing was compared; give the folder that holds `nezha/` with --data",
            path.display()
        )));
    }
    let wrong = |e: &dyn std::fmt::Display| Error::Format(format!("{}: {e}", path.display()));
    let mut reader = csv::Reader::from_path(&path).map_err(|e| wrong(&e))?;
    let headers = reader.headers().map_err(|e| wrong(&e))?.clone();
    let column = |name: &str| {
        headers.iter().position(|h| h == name).ok_or_else(|| wrong(&format!("the column `{name}` is missing")))
    };
    let names = ["app", "service", "op"].map(column);
    let (condition, requests) = (column("condition")?, column("n")?);
    let times = ["p10", "p50", "p90", "p95", "p99", "p999"].map(column);
    let mut found = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|e| wrong(&e))?;
        if row.get(condition) != Some("normal") {
            continue;
        }
        let number = |at: usize| -> Result<f64> {
            let text = row.get(at).unwrap_or_default();
            let line = row.position().map_or(0, csv::Position::line);
            text.parse().map_err(|_| wrong(&format!("line {line}: `{text}` is no number")))
        };
        let mut times_ms = [0.0; 6];
        for (time, at) in times_ms.iter_mut().zip(&times) {
            *time = number(*at.as_ref().map_err(|e| wrong(e))?)?;
        }
        let requests = number(requests)? as u64;
        if requests < least {
            continue;
        }
        let mut name = String::new();
        for at in &names {
            let part = row.get(*at.as_ref().map_err(|e| wrong(e))?).unwrap_or_default();
            name = if name.is_empty() { part.into() } else { format!("{name} {part}") };
        }
        found.push(Operation { name, requests, times_ms });
    }
    found.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    Ok(found)
}

/// The normal distribution function (Abramowitz and Stegun 7.1.26, within 1e-7).
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let erfc = series.iter().fold(0.0, |sum, c| sum * t + c) * t * (-z * z).exp();
    if x >= 0.0 { 1.0 - 0.5 * erfc } else { 0.5 * erfc }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts from Nezha, normal condition: GetProduct, Convert and order/tickets.
    fn known() -> [Operation; 3] {
        let operation = |name: &str, requests, times_ms| Operation { name: name.into(), requests, times_ms };
        [
            operation("OB productcatalogservice GetProduct", 179_892, [2.103, 2.73, 8.503, 11.82, 58.3312, 100.5016]),
            operation("OB currencyservice Convert", 87_915, [0.579, 1.065, 1.915, 2.847, 83.362, 198.735]),
            operation("TT ts-order-service tickets", 7_320, [1.948, 2.8905, 14.7668, 23.9233, 226.2945, 515.8147]),
        ]
    }

    #[test]
    fn mixtures_reproduce_the_percentiles_of_real_operations() {
        for operation in known() {
            let found = compare(&operation, &mut Draw::new(1));
            assert!(found.largest_error() < 0.15, "{}: {:?}", operation.name, found.drawn_ms);
        }
    }

    #[test]
    fn a_single_log_normal_does_not() {
        // Why mixtures: with median and 90th percentile met, the 99th is far off.
        for operation in known() {
            let [_, p50, p90, _, p99, _] = operation.times_ms;
            let sigma = (p90 / p50).ln() / 1.2816;
            assert!((p50 * (2.3263 * sigma).exp() / p99 - 1.0).abs() > 0.4, "{}", operation.name);
        }
    }

    #[test]
    fn a_folder_without_the_data_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = operations(folder.path(), 0).unwrap_err().to_string();
        assert!(error.contains("self_time_distributions.csv") && error.contains("--data"), "{error}");
        std::fs::create_dir(folder.path().join("nezha")).unwrap();
        let file = folder.path().join("nezha/self_time_distributions.csv");
        std::fs::write(&file, "app,service,op,n,p10,p50,p90,p95,p99,p999\n").unwrap();
        assert!(operations(folder.path(), 0).unwrap_err().to_string().contains("`condition` is missing"));
        std::fs::write(&file, "app,service,op,condition,n,p10,p50,p90,p95,p99,p999\na,s,o,normal,x,1,1,1,1,1,1\n")
            .unwrap();
        assert!(operations(folder.path(), 0).unwrap_err().to_string().contains("line 2: `x` is no number"));
    }
}
