//! The committed plots are what the code draws, and what the guide says of them is in them.
//!
//! A test for each room, so that no plot is made twice.

use super::*;
use crate::closed_loop::arms::{arms, vary};
use crate::closed_loop::scenarios::scenario;
use std::path::PathBuf;

/// How far a point may lie from where it was drawn, in pixels: another machine's logarithm differs in its last digit.
const NEAR: f64 = 3.0;

struct Room(Vec<Plot>);

/// A room whose plots are those in the repository.
fn held(plots: Vec<Plot>) -> Room {
    let folder = tempfile::tempdir().unwrap();
    let committed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-config/tuning"));
    for plot in &plots {
        plot.draw(folder.path()).unwrap();
        let file = format!("{}.svg", plot.name);
        let [fresh, old] = [folder.path(), &committed].map(|f| std::fs::read_to_string(f.join(&file)));
        let old =
            old.unwrap_or_else(|e| panic!("proxy-config/tuning/{file}: {e}; `make tuning ARGS=--quick` draws it"));
        if let Some(why) = differ(&fresh.unwrap(), &old) {
            panic!(
                "proxy-config/tuning/{file} is not what the code draws ({why}); `make tuning ARGS=--quick` draws it"
            );
        }
    }
    Room(plots)
}

/// A drawing's numbers, and what stands between them.
fn parts(svg: &str) -> (Vec<f64>, Vec<&str>) {
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let numbers = svg.split(|c| !digit(c)).filter_map(|n| n.parse().ok()).collect();
    (numbers, svg.split(digit).filter(|words| !words.is_empty()).collect())
}

fn differ(a: &str, b: &str) -> Option<String> {
    let ((numbers, words), (other_numbers, other_words)) = (parts(a), parts(b));
    if let Some((x, y)) = words.iter().zip(&other_words).find(|(x, y)| x != y) {
        return Some(format!("{x:?} is not {y:?}"));
    }
    if numbers.len() != other_numbers.len() || words.len() != other_words.len() {
        return Some(format!("{} numbers are not {}", numbers.len(), other_numbers.len()));
    }
    let far = numbers.iter().zip(&other_numbers).find(|(x, y)| (*x - *y).abs() > NEAR);
    far.map(|(x, y)| format!("{x} is not {y}"))
}

impl Room {
    fn plot(&self, name: &str) -> &Plot {
        self.0.iter().find(|plot| plot.name == name).unwrap_or_else(|| panic!("there is no plot {name}"))
    }

    /// The value of a line at the point that is nearest to x.
    fn at(&self, name: &str, line: usize, x: f64) -> f64 {
        let series = &self.plot(name).series()[line];
        series.points.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs())).unwrap().1
    }
}

#[test]
fn a_drawing_that_moved_differs() {
    let svg = r#"<text x="10" y="20">1.5</text>"#;
    assert_eq!(differ(svg, svg), None);
    assert_eq!(differ(svg, &svg.replace("20", "22")), None);
    for other in [svg.replace("20", "24"), svg.replace("text", "tex"), svg.replace("1.5", "")] {
        assert!(differ(svg, &other).is_some(), "{other}");
    }
}

#[test]
fn weights() {
    let room = held(super::weights::plots());
    let at = |name, line, x| room.at(name, line, x);
    assert!(at("temperature", 0, 0.1) > 0.95 && at("temperature", 0, 10.0) < 0.3, "cold concentrates, hot evens out");
    assert!((at("floor", 1, 1_000.0) - 0.005).abs() < 1e-4, "2% of an equal share of a quarter");
    assert!(at("floor", 0, 1_000.0) < 0.001);
    assert!(at("max-step", 3, 5.0) < 0.05 && at("max-step", 0, 5.0) > 0.2, "all at once, or two hundredths");
    let moved =
        |line: usize| room.plot("dead-band").series()[line].points.windows(2).filter(|w| w[0].1 != w[1].1).count();
    assert!(moved(0) > 30 && moved(2) < 5, "{} {}", moved(0), moved(2));
    assert!(at("slow-start", 0, 0.0) > 0.19 && at("slow-start", 2, 0.0) < 0.05 && at("slow-start", 2, 60.0) > 0.2);
    assert!(at("decay", 0, 20.0) < 21.0 && at("decay", 3, 20.0) > 140.0);
}

#[test]
fn varied_keys_and_scenarios_are_known() {
    for varied in VARIED {
        vary(arms(), varied.values).unwrap();
        varied.scenarios.iter().for_each(|name| _ = scenario(name, 1).unwrap());
    }
}

#[test]
fn ejection() {
    let room = held(super::ejection::plots().unwrap());
    let at = |name, line, x| room.at(name, line, x);
    let [one, two, three] = [0, 1, 2].map(|line| at("ejection-row", line, 10.0));
    assert!((7.0..14.0).contains(&one) && (80.0..150.0).contains(&two) && (800.0..1_500.0).contains(&three));
    assert!(at("ejection-row", 2, 1.0).is_nan(), "hardly ever");
    assert!(at("ejection", 0, 600.0) < at("ejection", 3, 600.0), "doubling probes less often than half a minute");
    let rate = |line| at("success-rate", line, 100.0);
    assert!((rate(1) - 6.0).abs() < 2.0 && rate(3) > rate(0));
    assert!(at("ejection-latency", 2, 3.0) < 0.1 && at("ejection-latency", 2, 8.0) > 99.0);
    assert!(at("ejection-latency", 0, 1.35) > 5.0, "a low factor ejects by chance");
    let load = |line, well| at("panic-load", line, well);
    assert!((load(0, 20.0) - 5.0).abs() < 0.01 && load(2, 50.0) < 2.01 && load(2, 40.0) < 1.1);
    assert!((at("panic-lost", 2, 40.0) - 60.0).abs() < 3.0 && at("panic-lost", 2, 50.0) == 0.0);
    assert!(at("panic-lost", 3, 90.0) == 0.0 && at("panic-lost", 3, 80.0) > 15.0);
}

#[test]
fn retries() {
    let room = held(super::retries::plots().unwrap());
    let at = |name, line, x| room.at(name, line, x);
    assert!((at("retries", 2, 100.0) - 200.0).abs() < 20.0 && at("retries", 0, 100.0) < 5.0);
    let [none, one, two] = [0, 1, 2].map(|line| at("retries-attempts", line, 10.0));
    assert!((none - 10.0).abs() < 1.0 && (0.5..1.5).contains(&one) && two < 0.3, "{none} {one} {two}");
    let [one, five] = [1, 3].map(|line| at("retries-attempts", line, 46.4));
    assert!((one - five).abs() < 0.5 && one > 30.0, "the budget is what counts");
    assert!(at("per-try", 2, 108.0) < 140.0 && at("per-try", 2, 2_000.0) > 990.0 && at("per-try", 0, 108.0) > 900.0);
    assert!(at("per-try-cost", 2, 108.0) < 3.0 && at("per-try-cost", 2, 17.0) > 20.0);
}

#[test]
fn hedging() {
    let room = held(super::hedging::plots().unwrap());
    let (p99, cost) = (room.plot("hedging"), room.plot("hedging-cost"));
    assert!(p99.bar("off", "share 5%") > 900.0 && p99.bar("auto", "share 5%") < 80.0);
    assert!(p99.bar("auto", "share 1%") > 900.0 && p99.bar("10 ms", "share 5%") > 900.0);
    assert!((4.0..5.2).contains(&cost.bar("auto", "share 5%")) && cost.bar("off", "share 5%") == 0.0);
}

#[test]
fn admission() {
    let room = held(super::admission::plots());
    let at = |name, line, x| room.at(name, line, x);
    let [off, fits, _, auto] = [0, 1, 2, 3].map(|line| at("admission", line, 150.0));
    assert!(off < 1.0 && fits > 80.0 && auto > 95.0, "{off} {fits} {auto}");
    assert!(at("admission-latency", 0, 150.0) > 2_000.0 && at("admission-latency", 1, 150.0) < 30.0);
    assert!(at("admission-wait", 3, 20.0) < at("admission-wait", 0, 20.0) && at("admission-wait", 3, 112.5) < 1.0);
    let [critical, normal, background] = [0, 1, 2].map(|line| at("priority", line, 140.0));
    assert!(critical > 99.0 && normal > 80.0 && background < 15.0, "{critical} {normal} {background}");
    let p = |line, depth| at("priority-depth", line, depth);
    assert!(p(1, 8.0) < p(0, 0.0) && p(4, 8.0) > p(3, 0.0), "with 0.8 depth outweighs urgency");
}

#[test]
fn health() {
    let room = held(super::health::plots());
    let at = |name, line, x| room.at(name, line, x);
    assert!(at("health-requests", 0, 0.01) > 200.0 && at("health-requests", 1, 0.01) < 15.0);
    assert!((at("health-requests", 0, 1.0) - at("health-requests", 1, 1.0)).abs() < 0.5, "requests are sooner");
    let [without, with] = [1, 3].map(|line| at("health-every", line, 5.0));
    assert!((without - 12.5).abs() < 1.0 && (2.0..4.0).contains(&(with - without)), "{without} {with}");
    let out = |line| at("health-lost", line, 15.0);
    assert!(out(1) > 20.0 && out(2) < 2.0 && out(3) < 0.1);
}

#[test]
fn ladder() {
    let room = held(super::ladder::plots().unwrap());
    let at = |name, line, x| room.at(name, line, x);
    assert!(at("tick", 2, 9.5) > 0.24 && at("tick", 2, 10.5) < 0.06 && at("tick", 3, 14.5) > 0.24);
    assert!(at("triggers", 2, 100.0) < 0.5 && at("triggers", 3, 100.0) > 4.0, "ten seconds apart");
    assert!((at("triggers", 0, 3.0) - at("triggers", 1, 3.0)).abs() < 0.15, "nothing on a link of few calls");
    assert!(at("triggers-latency", 1, 4.0).is_nan() && at("triggers-latency", 3, 4.0) > 2.0);
    assert!(at("triggers-errors", 0, 20.0).is_nan() && at("triggers-errors", 2, 20.0) > 10.0);
    let expired = |line, second| at("expire-after", line, second) < 0.26;
    assert!(!expired(1, 38.0) && expired(1, 42.0) && !expired(2, 42.0) && expired(0, 22.0));
    let until = |line, factor| at("max-error", line, factor);
    assert!(until(0, 3.0) < until(1, 3.0) && until(2, 3.0).is_nan() && until(2, 3.3) > 10.0);
}

#[test]
fn trial() {
    let room = held(super::trial::plots());
    let at = |line, percent| room.at("canary", line, percent);
    assert!(at(2, 100.0) < at(1, 100.0) && at(1, 100.0) < at(0, 100.0), "a larger share decides sooner");
    assert!(at(1, 15.0) > 2.0 * at(1, 100.0), "and a larger difference");
    let [high, _, low, tolerance] = room.plot("canary-interval").series() else { panic!("four lines") };
    let last = |series: &Series| series.points.last().unwrap().1;
    assert!(last(low) > last(tolerance) && low.points.len() > 20, "it ends when the whole interval is beyond");
    assert!(low.points.iter().rev().skip(1).all(|p| p.1 <= last(tolerance)) && last(high) < high.points[0].1);
}

#[test]
fn mesh() {
    let room = held(super::mesh::plots());
    let at = |name, line, x| room.at(name, line, x);
    assert!(at("mesh-budget", 0, 64.0) > 99.0 && at("mesh-budget", 2, 64.0) < 50.0, "gossip tells each apart");
    assert!(at("mesh-hops", 0, 3.0) > 99.0 && (5.0..12.0).contains(&at("mesh-hops", 2, 2.0)));
    assert!(at("mesh-hear", 0, 5.0) < 300.0 && at("mesh-hear", 2, 5.0) < 1_024.0 && at("mesh-hear", 2, 6.0) > 1_024.0);
}

#[test]
fn endpoints() {
    let room = held(super::endpoints::plots().unwrap());
    let at = |name, line, x| room.at(name, line, x);
    let share = |line| at("endpoint-weight", line, 4.0);
    assert!((share(0) - 40.0).abs() < 3.0 && (share(3) - 40.0).abs() < 1.0 && share(1) < 32.0 && share(2) < 32.0);
    assert!((0..4).all(|line| at("endpoint-weight", line, 0.0) == 0.0), "drained");
    assert!(at("split", 0, 100.0) > 13.0 && at("split", 2, 100.0) < 7.0 && at("split", 0, 1e4) < 11.0);
    assert!(at("affinity", 0, 10.0) < 15.0 && at("affinity", 1, 10.0) > 80.0);
    let zone = |line, x| at("locality", line, x);
    assert!(zone(0, 80.0) > 98.0 && zone(0, 40.0) < 60.0 && zone(3, 40.0) < zone(0, 40.0));
    assert_eq!([0, 1, 2, 3].map(|line| at("idle-links", line, 6.0)), [100.0, 200.0, 500.0, 2_500.0]);
}

#[test]
fn what_other_commands_measured_becomes_plots() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let folder = tempfile::tempdir().unwrap();
    let [closed_loop, sharing] =
        ["models/results/closed-loop.json", "benches/sharing/results.json"].map(|f| root.join(f));
    of_results(&closed_loop, &sharing, folder.path()).unwrap();
    for (name, bars) in [("policy-p99", 20), ("mesh-p99", 12), ("mesh-ways", 8)] {
        let svg = std::fs::read_to_string(folder.path().join(format!("{name}.svg"))).unwrap();
        // Each has its value beside it, the legend its colours, and the ground is one, too.
        assert!(svg.matches("<rect").count() > bars, "{name} has no bar for some of what is there");
        assert!(root.join(format!("proxy-config/tuning/{name}.svg")).exists());
    }
}
