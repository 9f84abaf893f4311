//! The sections of `evaluate`: Social Network beside what was published, ablations, how far the model carries.

use super::table::Table;
use super::{Found, Page, entries, number};
use crate::Result;
use crate::evaluate::Figure;
use crate::evaluate::targets::{FIGURES, PUBLISHED};
use crate::plot::{self, Axis, Bar, Bars};
use serde_json::Value;

/// The family and the faults that the targets are about.
const YARDSTICK: (&str, &str) = ("social-network", "seen");
/// The same where nothing changes.
const CALM: (&str, &str) = ("social-network", "calm");
/// How the families are called that differ by out-degree alone.
const DEGREE: &str = "degree-";
/// How much accuracy may be lost where the model was never trained.
const MOST_LOST: f64 = 0.05;
/// In the published column: whose figures stand beside which predictor.
const COUNTERPARTS: [(&str, &str); 2] = [("model", "the routing paper"), ("ospf", "OSPF")];

pub(super) fn sections(page: &mut Page<'_>, found: &[&Found]) -> Result<()> {
    let of = |what| found.iter().copied().find(|f| (f.text("family"), f.text("faults")) == what);
    let (yardstick, calm) = (of(YARDSTICK), of(CALM));
    page.say("## Social Network: unseen seeds and loads");
    match yardstick {
        Some(found) => {
            page.made_by(found);
            social_network(page, found)?;
        }
        None => page.say("Not measured: `pathloom-models evaluate --out models/results/evaluate-social-network.json`."),
    }
    if let Some(found) = calm {
        page.say("## Social Network where nothing changes");
        page.made_by(found);
        page.say(
            "Without faults and at a constant load: what is left of the error cannot be blamed on a window in which something \
             begins or ends that nobody could foresee.",
        );
        page.say(&sizes(found));
        page.say(&judged(&found.value));
        page.table(&figures(&found.value, true));
    }
    page.say("## Ablations");
    match yardstick.filter(|f| !entries(&f.value, "ablations").is_empty()) {
        Some(found) => ablations(page, found)?,
        None => page.say("Not measured: `evaluate --ablations DIR` with the folder of the trained variants."),
    }
    let (by_degree, rest): (Vec<&Found>, Vec<&Found>) = found
        .iter()
        .copied()
        .filter(|f| f.text("faults") != CALM.1)
        .partition(|f| f.text("family").starts_with(DEGREE));
    if !by_degree.is_empty() {
        page.say("Generated meshes of 10 to 40 services by their average out-degree:");
        let titles = Figure::MAIN.map(|f| f.title().to_string());
        let mut table = Table::of(["out-degree", "decisions"].map(String::from).into_iter().chain(titles));
        for f in by_degree {
            let first = [f.text("family").replace(DEGREE, ""), number(&f.value, &["decisions"]).to_string()];
            table.row(first.into_iter().chain(Figure::MAIN.map(|figure| with_spread(&f.value, "model", figure))));
        }
        page.table(&table);
    }
    page.say("## Topologies and faults that training never saw");
    carried(page, &rest, yardstick)
}

fn social_network(page: &mut Page<'_>, found: &Found) -> Result<()> {
    let value = &found.value;
    page.say(&sizes(found));
    page.say(&judged(value));
    page.table(&figures(value, true));
    page.say(
        "The last column is **as published, on other data**: the routing paper's data set is not public, so its figures \
         and those of the systems in its table are no measurement of ours and say nothing about who is better.",
    );
    let names: Vec<String> = names(value);
    for (figure, axis) in [
        (Figure::MeanRelativeError, "mean relative error of the next window's mean latency"),
        (Figure::DecisionAccuracy, "share of decisions that were right (within 2% of the best)"),
    ] {
        let bars = Bars { name: figure.title().into(), bars: names.iter().map(|n| bar(value, n, figure)).collect() };
        page.plot(&format!("{}-{}", found.stem, figure.key()), axis, |path| {
            plot::bars(path, "Social Network, mean and 95% interval over seeds", Axis::linear(axis), &names, &[bars])
        })?;
    }
    page.shown(&format!("{}-errors", found.stem), "distribution of relative errors");
    page.shown(&format!("{}-points", found.stem), "predicted against observed");
    page.say("### The model less each rival, on the same runs");
    page.table(&differences(value, &rivals(value)));
    page.say("### By what is known of the link, and by trouble");
    for figure in [Figure::MeanRelativeError, Figure::IntrinsicRelativeError, Figure::DecisionAccuracy] {
        page.say(&format!("{}:", about(figure)));
        page.table(&slices(value, figure));
    }
    page.say("### Further figures");
    let all = Figure::ALL.iter().filter(|f| !Figure::MAIN.contains(f));
    let mut table = Table::of(["".to_string()].into_iter().chain(all.clone().map(|f| f.title().to_string())));
    for name in &names {
        let of = |f: &Figure| f.text(number(value, &["further", name, f.key()]));
        table.row([name.clone()].into_iter().chain(all.clone().map(of)));
    }
    page.table(&table);
    Ok(())
}

/// What a figure is, at the head of a table.
fn about(figure: Figure) -> &'static str {
    match figure {
        Figure::MeanRelativeError => "Relative error of the next window's mean latency",
        Figure::IntrinsicRelativeError => "Relative error of the intrinsic latency",
        Figure::DecisionAccuracy => "Right choices, by the troubles that one of the group's candidates has",
        other => other.title(),
    }
}

fn sizes(found: &Found) -> String {
    let value = &found.value;
    let whole = |key: &str| number(value, &[key]);
    let seeds = value.get("seeds").and_then(Value::as_array).map_or(0, Vec::len);
    format!(
        "{} samples of {} runs in {seeds} seeds; {} candidates whose next window had at least {} answers, {} decisions.",
        whole("samples"),
        whole("runs"),
        whole("candidates"),
        whole("least_answers"),
        whole("decisions")
    )
}

/// Whether the targets are met, by the numbers.
fn judged(value: &Value) -> String {
    let mut lines = Vec::new();
    let [ours, ..] = PUBLISHED;
    for (figure, target) in FIGURES.into_iter().zip(ours.values) {
        let measured = number(value, &["model", figure.key()]);
        let met = match () {
            () if !measured.is_finite() => "**not measured**",
            () if figure.more_is_better() && measured >= target => "**met**",
            () if !figure.more_is_better() && measured <= target => "**met**",
            () => "**not met**",
        };
        let limit = if figure.more_is_better() { "at least" } else { "at most" };
        let lost: Vec<String> = rivals(value)
            .into_iter()
            .filter(|r| number(value, &["rivals", r, figure.key()]).is_finite() && !flag(value, r, figure, "better"))
            .collect();
        let beaten = if lost.is_empty() {
            "better than every rival, each interval excludes zero".to_string()
        } else {
            format!("not shown to be better than {}", lost.join(", "))
        };
        let floor = number(value, &["noise_floor", figure.key()]);
        let floor = match figure {
            Figure::DecisionAccuracy => String::new(),
            _ if floor.is_finite() => format!("; noise floor {}", figure.text(floor)),
            _ => "; noise floor not measured".into(),
        };
        lines.push(format!(
            "- {}: {} ({limit} {} asked): {met}; {beaten}{floor}.",
            figure.title(),
            figure.text(measured),
            figure.text(target)
        ));
    }
    lines.join("\n")
}

fn flag(value: &Value, rival: &str, figure: Figure, key: &str) -> bool {
    let path = ["differences", rival, figure.key(), key];
    path.iter().try_fold(value, |v, k| v.get(k)).and_then(Value::as_bool).unwrap_or(false)
}

fn rivals(value: &Value) -> Vec<String> {
    entries(value, "rivals").into_iter().map(|(name, _)| name.to_string()).collect()
}

fn names(value: &Value) -> Vec<String> {
    std::iter::once("model".to_string()).chain(rivals(value)).collect()
}

/// A predictor's main figures, wherever it stands in the file.
fn main(value: &Value, name: &str, figure: Figure) -> f64 {
    let of = |path: &[&str]| number(value, path);
    [of(&[name, figure.key()]), of(&["rivals", name, figure.key()]), of(&["ablations", name, figure.key()])]
        .into_iter()
        .find(|v| v.is_finite())
        .unwrap_or(f64::NAN)
}

/// A figure with half the width of its interval.
pub(super) fn with_spread(value: &Value, name: &str, figure: Figure) -> String {
    let measured = main(value, name, figure);
    let of = |key: &str| match name {
        "noise_floor" => number(value, &["noise_floor", "intervals", figure.key(), key]),
        _ => number(value, &["intervals", name, figure.key(), key]),
    };
    let half = (of("high") - of("low")) / 2.0;
    let text = figure.text(measured);
    if half.is_finite() && measured.is_finite() {
        format!("{text} ±{}", figure.text(half).trim_end_matches('%'))
    } else {
        text
    }
}

fn bar(value: &Value, name: &str, figure: Figure) -> Bar {
    let of = |key: &str| number(value, &["intervals", name, figure.key(), key]);
    Bar { value: main(value, name, figure), interval: Some((of("low"), of("high"))).filter(|(l, h)| l <= h) }
}

/// The main figures of all predictors, with what was published beside them.
pub(super) fn figures(value: &Value, published: bool) -> Table {
    let last = published.then(|| "as published, on other data".to_string());
    let head = ["".to_string()].into_iter().chain(Figure::MAIN.map(|f| f.title().to_string())).chain(last);
    let mut table = Table::of(head);
    let row = |name: &str, label: &str| {
        // An oracle's choices are right by definition: its row is about the labels' noise.
        let none = |f: Figure| name == "noise_floor" && !f.is_of_labels();
        let cells = Figure::MAIN.map(|f| if none(f) { "-".to_string() } else { with_spread(value, name, f) });
        let of = COUNTERPARTS.iter().find(|(ours, _)| *ours == name).map(|(_, theirs)| *theirs);
        let theirs = published.then(|| of.map_or("-".into(), said));
        [label.to_string()].into_iter().chain(cells).chain(theirs)
    };
    table.row(row("model", "**model**"));
    rivals(value).iter().for_each(|name| table.row(row(name, name)));
    for p in PUBLISHED.iter().filter(|p| published && !COUNTERPARTS.iter().any(|(_, theirs)| *theirs == p.name)) {
        let none = Figure::MAIN.map(|_| "-".to_string());
        table.row([format!("{} (not rebuilt)", p.name)].into_iter().chain(none).chain([said(p.name)]));
    }
    table.row(row("noise_floor", "noise floor"));
    table
}

/// Published figures in a cell.
fn said(name: &str) -> String {
    let Some(of) = PUBLISHED.iter().find(|p| p.name == name) else { return "-".into() };
    let texts: Vec<String> = FIGURES.iter().zip(of.values).map(|(f, v)| f.text(v)).collect();
    format!("{} ({name})", texts.join(" / "))
}

/// The model's differences from others.
pub(super) fn differences(value: &Value, others: &[String]) -> Table {
    let mut table = Table::of(["".to_string()].into_iter().chain(Figure::MAIN.map(|f| f.title().to_string())));
    for name in others {
        let cells = Figure::MAIN.map(|f| {
            let of = |key: &str| number(value, &["differences", name, f.key(), key]);
            if !of("low").is_finite() {
                return "-".to_string();
            }
            let sign = match () {
                () if flag(value, name, f, "better") => "+",
                () if flag(value, name, f, "worse") => "-",
                () => "=",
            };
            format!("**{sign}** {} [{}, {}]", f.text(of("difference")), f.text(of("low")), f.text(of("high")))
        });
        table.row([name.clone()].into_iter().chain(cells));
    }
    table
}

fn slices(value: &Value, figure: Figure) -> Table {
    let all = entries(value, "slices");
    let names = names(value);
    let head = ["slice", "how many", "noise floor"].map(String::from);
    let mut table = Table::of(head.into_iter().chain(names.iter().cloned()));
    for (slice, of) in all {
        let count = number(of, &[if figure == Figure::DecisionAccuracy { "decisions" } else { "candidates" }]);
        let floor = figure.text(number(of, &["noise_floor", figure.key()]));
        let cells: Vec<String> = names.iter().map(|n| figure.text(number(of, &["figures", n, figure.key()]))).collect();
        if cells.iter().any(|c| c != "-") {
            table.row([slice.to_string(), count.to_string(), floor].into_iter().chain(cells));
        }
    }
    table
}

fn ablations(page: &mut Page<'_>, found: &Found) -> Result<()> {
    let value = &found.value;
    page.made_by(found);
    let names: Vec<String> = entries(value, "ablations").into_iter().map(|(n, _)| n.to_string()).collect();
    page.say(
        "Each variant was trained by itself, alike, with a part left out. `full`, where it is there, is the whole network trained \
         as they were; the first row is the committed model.",
    );
    let mut table = Table::of(["".to_string()].into_iter().chain(Figure::MAIN.map(|f| f.title().to_string())));
    for name in std::iter::once("model").chain(names.iter().map(String::as_str)) {
        let label = if name == "model" { "**model**".to_string() } else { name.to_string() };
        table.row([label].into_iter().chain(Figure::MAIN.map(|f| with_spread(value, name, f))));
    }
    page.table(&table);
    let all: Vec<String> = std::iter::once("model".to_string()).chain(names.iter().cloned()).collect();
    let bars =
        Bars { name: "variants".into(), bars: all.iter().map(|n| bar(value, n, Figure::MeanRelativeError)).collect() };
    page.plot(&format!("{}-ablations", found.stem), "ablations: mean relative error", |path| {
        let axis = Axis::linear("mean relative error of the next window's mean latency");
        plot::bars(path, "Ablations, mean and 95% interval over seeds", axis, &all, &[bars])
    })?;
    page.say("The model less each variant, on the same runs:");
    page.table(&differences(value, &names));
    Ok(())
}

fn carried(page: &mut Page<'_>, found: &[&Found], yardstick: Option<&Found>) -> Result<()> {
    let others: Vec<&Found> =
        found.iter().copied().filter(|f| yardstick.is_none_or(|y| !std::ptr::eq(*f, y))).collect();
    if others.is_empty() {
        page.say("Not measured: `evaluate --family hotel` and the others of `make results`.");
        return Ok(());
    }
    let accuracy = |f: &Found| number(&f.value, &["model", Figure::DecisionAccuracy.key()]);
    let home = yardstick.map_or(f64::NAN, accuracy);
    let head = ["what", "faults", "decisions"].map(String::from);
    let titles = Figure::MAIN.map(|f| f.title().to_string());
    let last = ["points of accuracy lost".to_string(), "best rival by choice".to_string()];
    let mut table = Table::of(head.into_iter().chain(titles).chain(last));
    let mut lines = Vec::new();
    for f in yardstick.into_iter().chain(others.iter().copied()) {
        let lost = home - accuracy(f);
        let judged = match () {
            () if !lost.is_finite() => "-".to_string(),
            () if yardstick.is_some_and(|y| std::ptr::eq(f, y)) => "-".to_string(),
            () => {
                let met = if lost <= MOST_LOST { "met" } else { "not met" };
                lines.push(format!(
                    "- {}, faults {}: {:.1} points lost (at most {:.0} asked): **{met}**.",
                    f.text("family"),
                    f.text("faults"),
                    lost * 100.0,
                    MOST_LOST * 100.0
                ));
                format!("{:.1}", lost * 100.0)
            }
        };
        let figures = Figure::MAIN.map(|figure| with_spread(&f.value, "model", figure));
        let decisions = number(&f.value, &["decisions"]).to_string();
        let first = [f.text("family").to_string(), f.text("faults").to_string(), decisions];
        table.row(first.into_iter().chain(figures).chain([judged, best(&f.value)]));
    }
    page.table(&table);
    if !lines.is_empty() {
        page.say(&lines.join("\n"));
    }
    for f in others {
        page.say(&format!("### {}, faults {}", f.text("family"), f.text("faults")));
        page.made_by(f);
        page.say(&sizes(f));
        page.table(&figures(&f.value, false));
    }
    Ok(())
}

/// The rival that chose right most often, and how the model compares.
fn best(value: &Value) -> String {
    let figure = Figure::DecisionAccuracy;
    let of = |name: &String| main(value, name, figure);
    let best = rivals(value).into_iter().filter(|n| of(n).is_finite()).max_by(|a, b| of(a).total_cmp(&of(b)));
    let Some(best) = best else { return "-".into() };
    let sign = match () {
        () if flag(value, &best, figure, "better") => "model better",
        () if flag(value, &best, figure, "worse") => "model worse",
        () => "undecided",
    };
    format!("{best} {} ({sign})", figure.text(of(&best)))
}
