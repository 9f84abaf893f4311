//! The sections of `closed-loop`: policies against each other in the simulator.

use super::table::Table;
use super::{Found, Page, entries, number};
use crate::Result;
use crate::plot::{self, Axis, Bar, Bars};
use serde_json::Value;

/// The product's own pick with the model, among the policies.
const OURS: &str = "pathloom";
/// What is asked against the best classical rival where the trouble is out of its sight, and where it is not.
const OUT_OF_SIGHT: f64 = -0.20;
const IN_SIGHT: f64 = 0.03;
/// What is asked against least request where nothing can be won: no worse. An interval that holds zero is no worse.
const NULL: f64 = 0.0;

pub(super) fn sections(page: &mut Page<'_>, found: &[&Found]) -> Result<()> {
    page.say("## Closed loop");
    if found.is_empty() {
        page.say("Not measured: `pathloom-models closed-loop --out models/results/closed-loop.json`.");
    }
    for f in found {
        page.made_by(f);
        let seeds = f.value.get("seeds").and_then(Value::as_array).map_or(0, Vec::len);
        page.say(&format!(
            "{seeds} seeds; every policy meets the same arrivals and the same faults. Latency is end to end, from when a \
             request was due. `{OURS}` is the product's pick with the model."
        ));
        one(page, f)?;
    }
    Ok(())
}

fn one(page: &mut Page<'_>, f: &Found) -> Result<()> {
    let scenarios = entries(&f.value, "scenarios");
    let mut policies: Vec<&str> = scenarios.iter().flat_map(|(_, s)| entries(s, "policies")).map(|(n, _)| n).collect();
    policies.sort_unstable();
    policies.dedup();
    // The product's first, then the others by name.
    policies.sort_by_key(|p| (*p != OURS, !p.starts_with(OURS)));

    page.say("### Wins and losses");
    let judged: Vec<Judged> = scenarios.iter().flat_map(|(name, s)| judge(name, s)).collect();
    page.say(&count(&judged));
    let mut table = Table::new(&["scenario", "what", "asked", "against", "p99 difference", "95% interval", "judged"]);
    for j in &judged {
        table.row(j.cells());
    }
    page.table(&table);

    for (key, title) in [("p99_ms", "p99"), ("p50_ms", "p50"), ("p999_ms", "p99.9")] {
        page.say(&format!("### {title} in ms, mean and 95% interval"));
        let head = ["scenario".to_string()].into_iter().chain(policies.iter().map(|p| p.to_string()));
        let mut table = Table::of(head);
        for (name, scenario) in &scenarios {
            let least = policies.iter().map(|p| number(scenario, &["policies", p, key])).fold(f64::NAN, f64::min);
            let cells = policies.iter().map(|p| cell(scenario, p, key, least));
            table.row([name.to_string()].into_iter().chain(cells));
        }
        page.table(&table);
    }
    page.say("### Errors in percent / requests a second answered within the deadline");
    let mut table = Table::of(["scenario".to_string()].into_iter().chain(policies.iter().map(|p| p.to_string())));
    for (name, scenario) in &scenarios {
        let cells = policies.iter().map(|p| {
            let of = |key: &str| number(scenario, &["policies", p, key]);
            if of("goodput").is_finite() {
                format!("{:.2} / {:.0}", of("errors") * 100.0, of("goodput"))
            } else {
                "-".into()
            }
        });
        table.row([name.to_string()].into_iter().chain(cells));
    }
    page.table(&table);

    let names: Vec<String> = judged.iter().map(|j| format!("{} ({})", j.scenario, j.against)).collect();
    let bars = judged.iter().map(|j| Bar { value: j.mean * 100.0, interval: Some((j.low * 100.0, j.high * 100.0)) });
    let bars = Bars { name: OURS.into(), bars: bars.collect() };
    page.plot(
        &format!("{}-differences", f.stem),
        "p99 of the product's pick against the rival that it is judged by",
        |path| {
            let axis = Axis::linear("p99 against the rival named in the table, % (less is better)");
            plot::bars(path, "Closed loop: p99 difference, 95% interval", axis, &names, &[bars])
        },
    )
}

/// A mean with its interval; the least of a row in bold.
fn cell(scenario: &Value, policy: &str, key: &str, least: f64) -> String {
    let of = |path: &[&str]| number(scenario, &[&["policies", policy], path].concat());
    let mean = of(&[key]);
    if !mean.is_finite() {
        return "-".into();
    }
    let digits = usize::from(mean < 100.0);
    let text = match (of(&["intervals", key, "low"]), of(&["intervals", key, "high"])) {
        (low, high) if low.is_finite() && high.is_finite() => {
            format!("{mean:.digits$} [{low:.digits$}, {high:.digits$}]")
        }
        _ => format!("{mean:.digits$}"),
    };
    if mean <= least { format!("**{text}**") } else { text }
}

/// How the product's pick did in a scenario against whom it is judged by.
struct Judged {
    scenario: String,
    about: String,
    asked: String,
    against: String,
    mean: f64,
    low: f64,
    high: f64,
    /// Whether what is asked is met by the mean.
    met: bool,
}

impl Judged {
    fn cells(&self) -> [String; 7] {
        [
            self.scenario.clone(),
            self.about.clone(),
            self.asked.clone(),
            self.against.clone(),
            format!("{:+.1}%", self.mean * 100.0),
            format!("[{:+.1}%, {:+.1}%]", self.low * 100.0, self.high * 100.0),
            format!("{}: **{}**", self.word(), if self.met { "met" } else { "not met" }),
        ]
    }

    /// Who wins, by the interval.
    fn word(&self) -> &'static str {
        match () {
            () if self.high < 0.0 => "win",
            () if self.low > 0.0 => "loss",
            () => "undecided",
        }
    }
}

/// Where the trouble is out of a single proxy's sight, the pick is judged twice: against the best rival that goes by its own
/// calls alone, and as everywhere against the best of all (Prequal's probes and gRPC's load reports show a rival trouble that
/// it has not met).
fn judge(name: &str, scenario: &Value) -> Vec<Judged> {
    let text = |key: &str| scenario.get(key).and_then(Value::as_str).unwrap_or("-").to_string();
    let one = |key: &str, against: String, asked: String, most: Option<f64>| {
        let of = |end: &str| number(scenario, &["policies", OURS, key, end]);
        let (mean, low, high) = (of("mean"), of("low"), of("high"));
        let met = most.map_or(mean <= NULL || low <= NULL, |most| mean <= most);
        let found = Judged { scenario: name.into(), about: text("about"), asked, against, mean, low, high, met };
        mean.is_finite().then_some(found)
    };
    let in_sight = || {
        let asked = format!("at most {:.0}% more", IN_SIGHT * 100.0);
        one("p99_vs_best_classical", text("best_classical"), asked, Some(IN_SIGHT))
    };
    match scenario.get("asks").and_then(Value::as_str) {
        Some("null") => {
            one("p99_vs_least_request", "least-request".into(), "no worse".into(), None).into_iter().collect()
        }
        Some("out_of_sight") if scenario.get("best_blind").is_some_and(Value::is_string) => {
            let asked = format!("at least {:.0}% less", -OUT_OF_SIGHT * 100.0);
            let blind = one("p99_vs_best_blind", text("best_blind"), asked, Some(OUT_OF_SIGHT));
            let same = text("best_blind") == text("best_classical");
            blind.into_iter().chain(in_sight().filter(|_| !same)).collect()
        }
        Some("out_of_sight") => {
            let asked = format!("at least {:.0}% less", -OUT_OF_SIGHT * 100.0);
            one("p99_vs_best_classical", text("best_classical"), asked, Some(OUT_OF_SIGHT)).into_iter().collect()
        }
        _ => in_sight().into_iter().collect(),
    }
}

fn count(judged: &[Judged]) -> String {
    let of = |word: &str| judged.iter().filter(|j| j.word() == word).map(|j| j.scenario.as_str()).collect::<Vec<_>>();
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let unmet: Vec<&str> = judged.iter().filter(|j| !j.met).map(|j| j.scenario.as_str()).collect();
    format!(
        "Of {} judgements the product's pick meets what is asked in {}; not in: {}. Wins (the interval is below zero): {}. \
         Losses (above zero): {}. Undecided: {}.",
        judged.len(),
        judged.len() - unmet.len(),
        list(unmet),
        list(of("win")),
        list(of("loss")),
        list(of("undecided"))
    )
}
