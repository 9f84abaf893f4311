//! Plots of a comparison: for each scenario the p99 of each policy, and the share over time of those in trouble.

use super::compare::Compared;
use super::scenarios::TROUBLE;
use crate::Result;
use crate::plot::{self, Axis, Bar, Bars, Series};
use std::collections::BTreeMap;
use std::path::Path;

/// Draws all plots into a folder.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(scenarios: &BTreeMap<&'static str, Compared>, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(crate::Error::at(folder))?;
    for (name, compared) in scenarios {
        let policies: Vec<String> = compared.policies.keys().cloned().collect();
        let bar = |policy: &String| {
            let p99 = compared.policies.get(policy).and_then(|s| s.intervals.get("p99_ms"));
            Bar { value: p99.map_or(f64::NAN, |i| i.mean), interval: p99.map(|i| (i.low, i.high)) }
        };
        let bars = Bars { name: "p99".into(), bars: policies.iter().map(bar).collect() };
        let title = format!("{name}: p99, mean and 95% interval");
        let path = folder.join(format!("closed-loop-{name}-p99.svg"));
        plot::bars(&path, &title, Axis::logarithmic("p99 of the end-to-end latency, ms"), &policies, &[bars])?;

        let series: Vec<Series> = compared
            .policies
            .iter()
            .filter(|(_, s)| !s.shares.is_empty())
            .map(|(policy, s)| {
                let points = s.shares.iter().enumerate().map(|(second, share)| (second as f64, *share));
                Series::new(policy.clone(), points.collect())
            })
            .collect();
        if !series.is_empty() {
            let title = format!("{name}: share of those in trouble ({} to {} s)", TROUBLE.0, TROUBLE.1);
            let path = folder.join(format!("closed-loop-{name}-share.svg"));
            let share = Axis::linear("share of calls, 1 = equal");
            plot::lines(&path, &title, Axis::linear("time, s"), share, &series)?;
        }
    }
    Ok(())
}
