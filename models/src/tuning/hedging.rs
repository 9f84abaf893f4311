//! Asking a second endpoint before the first one has answered: after how long, and for how many requests.

use super::bench::{Bench, call, cluster};
use super::{Plot, tries};
use crate::Result;
use crate::plot::{Axis, Bar, Bars};
use crate::simulator::draw::Draw;
use pathloom::balance::Cause;
use pathloom::links::{LinkKey, NodeKey, Outcome};
use std::time::Duration;

/// The room's plots.
pub(super) fn plots() -> Result<Vec<Plot>> {
    const SHARES: [u32; 3] = [1, 5, 20];
    let auto = auto()?;
    let mut categories = vec!["off".to_owned()];
    let moments = [("10 ms", 10.0), ("25 ms", 25.0), ("auto", auto.as_secs_f64() * 1e3), ("100 ms", 100.0)];
    let moments = moments.into_iter().chain([("300 ms", 300.0)]);
    let moments: Vec<(String, f64)> = moments
        .map(|(name, ms)| (if name == "auto" { format!("auto: {ms:.0} ms") } else { name.to_owned() }, ms))
        .collect();
    categories.extend(moments.iter().map(|(name, _)| name.clone()));
    let [mut latency, mut on_top] = [Vec::new(), Vec::new()];
    for share in SHARES {
        let off = tries::play(&Bench::new(&cluster(8, ""))?, None, 41)?;
        let mut came = vec![off];
        for (_, ms) in &moments {
            let keys = format!(", hedging: {{ after: {}us, share: {share}% }}", (ms * 1e3) as u64);
            came.push(tries::play(&Bench::new(&cluster(8, &keys))?, None, 41)?);
        }
        let bars = |value: &dyn Fn(&tries::Came) -> f64| {
            let bars = came.iter().map(|came| Bar { value: value(came), interval: None }).collect();
            Bars { name: format!("share {share}%"), bars }
        };
        latency.push(bars(&|came| came.p99_ms));
        on_top.push(bars(&|came| came.on_top * 100.0));
    }
    Ok(vec![
        Plot::bars(
            "hedging",
            "hedging.after and share: 49 of 50 tries take some 20 ms, one takes a second",
            Axis::logarithmic("p99, ms"),
            categories.clone(),
            latency,
        ),
        Plot::bars(
            "hedging-cost",
            "hedging.after and share: what it costs the endpoints",
            Axis::linear("second requests, % of all"),
            categories,
            on_top,
        ),
    ])
}

/// What `auto` makes of the latencies that the other plots draw from.
fn auto() -> Result<Duration> {
    let mut bench = Bench::new(&cluster(8, ", hedging: { after: auto }"))?;
    let mut draw = Draw::new(43);
    for _ in 0..5 {
        let table = bench.table()?;
        for i in 0..400usize {
            let key = &table.candidates()[i % 8].endpoint.key;
            let link = bench.links().link(&LinkKey::new(&NodeKey::new("w@local"), key), bench.now());
            call(&link, bench.now(), tries::takes(&mut draw) as f32, Outcome::Success, (0.02, 20.0));
        }
        bench.pass(1.0);
        bench.tick(Cause::Interval);
    }
    let generation = bench.generation();
    let after = generation.clusters.first().and_then(|c| c.hedging.as_ref()?.after);
    after.ok_or_else(|| crate::Error::Format("nobody measured anything".into()))
}
