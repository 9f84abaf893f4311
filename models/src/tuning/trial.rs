//! The model's trial: how soon one that is slower is found out.

use super::{Plot, quantile, seconds};
use crate::plot::{Axis, Series};
use crate::simulator::draw::Draw;
use pathloom::config::{Canary, Mode, Model, Share};
use pathloom::control::{Counted, Trial};
use pathloom::observe::{Arm, Came, Traffic};
use std::sync::Arc;

/// Requests a second to the cluster, and their mean latency in seconds.
const PER_SECOND: u32 = 50;
const MEAN_S: f64 = 0.02;

/// The room's plots.
pub(super) fn plots() -> Vec<Plot> {
    vec![
        Plot::lines(
            "canary",
            "model.canary.share: a model that is slower, 50 requests a second, tolerance 5%",
            Axis::linear("the model's requests take so much longer, %"),
            Axis::logarithmic("seconds until it retreats, median"),
            by_share(),
        ),
        Plot::lines(
            "canary-interval",
            "model.canary.tolerance: share 20%, and the model's requests take 15% longer",
            Axis::linear("time, s"),
            Axis::linear("longer by, %"),
            over_time(),
        ),
    ]
}

/// A trial under way.
struct Played {
    trial: Trial,
    model: Model,
    traffic: Traffic,
    draw: Draw,
    /// How many times as long the model's requests take.
    longer: f64,
    second: u32,
}

impl Played {
    fn new(share: f64, longer: f64, seed: u64) -> Self {
        let canary = Canary { share: Share(share), ..Canary::default() };
        Self {
            trial: Trial::default(),
            model: Model { mode: Mode::Canary, canary, ..Model::default() },
            traffic: Traffic::new(1),
            draw: Draw::new(seed),
            longer,
            second: 0,
        }
    }

    /// A second of requests, and the tick after it; whether the model has lost.
    fn second(&mut self) -> bool {
        for _ in 0..PER_SECOND {
            let model = self.draw.chance(self.model.canary.share.0);
            let (arm, mean_s) = if model { (Arm::Model, MEAN_S * self.longer) } else { (Arm::Against, MEAN_S) };
            self.traffic.steered(0, arm, Came::Within(mean_s * self.draw.exponential()));
        }
        self.second += 1;
        let (workload, cluster) = (Arc::from("w"), Arc::from("c"));
        let counted = Counted { workload: &workload, cluster: &cluster, traffic: &self.traffic };
        let now = seconds(f64::from(self.second));
        self.trial.tick(&self.model, Some("a"), now, std::iter::once(counted)).is_some()
    }
}

fn by_share() -> Vec<Series> {
    const LONGEST: u32 = 900;
    const RUNS: u64 = 5;
    let of = |share: f64| {
        let until = |percent: u32| {
            let longer = 1.0 + f64::from(percent) / 100.0;
            let one = |seed| {
                let mut played = Played::new(share, longer, seed);
                (0..LONGEST).find(|_| played.second()).map_or(f64::INFINITY, |s| f64::from(s + 1))
            };
            let mut all: Vec<f64> = (0..RUNS).map(|run| one(70 + run)).collect();
            (f64::from(percent), quantile(&mut all, 0.5))
        };
        let percents = [10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100];
        Series::new(format!("share {:.0}%", share * 100.0), percents.map(until).into())
    };
    [0.05, 0.2, 0.5].map(of).into()
}

/// What the trial knows of by how much longer the model's requests take.
fn over_time() -> Vec<Series> {
    let mut played = Played::new(0.2, 1.15, 77);
    let mut all = ["at most", "mean", "at least"].map(|name| Series::new(name, Vec::new()));
    // Once the model has lost nothing is compared any more.
    for second in 1..=900u32 {
        let lost = played.second();
        let longer = played.trial.view().and_then(|view| view.comparisons.first()?.latency());
        for (series, value) in all.iter_mut().zip(longer.iter().flat_map(|l| [l.high, l.mean, l.low])) {
            series.points.push((f64::from(second), value * 100.0));
        }
        if lost {
            break;
        }
    }
    let tolerance = played.model.canary.tolerance.0 * 100.0;
    let end = all.first().and_then(|s| s.points.last()).map_or(1.0, |p| p.0);
    let line = Series::new("tolerance", vec![(0.0, tolerance), (end, tolerance)]);
    all.into_iter().chain([line]).collect()
}
