//! Limits, priorities and rates.

use super::syntax;
use super::{Findings, Path};
use crate::config::admission::{Concurrency, OffOr, RateLimit};
use crate::config::schema::Config;
use crate::config::suggest::nearest;
use crate::config::units::Timespan;
use std::time::Duration;

/// Counters are kept for each class, and a request looks its own up by name.
pub const MAX_CLASSES: usize = 16;
/// A faster rate than this cannot be told from none: an interval is a whole number of nanoseconds.
pub const MAX_RATE_PER_SECOND: f64 = 10_000_000.0;
/// Who waits for longer is not helped by an answer, and whoever comes meanwhile is kept waiting too.
pub const MAX_WAIT: Timespan = Timespan(Duration::from_secs(10));

pub fn check(config: &Config, findings: &mut Findings) {
    priority(config, findings);
    for (name, workload) in &config.workloads {
        rate(&workload.rate, &Path::of(&["workloads", name, "rate"]), findings);
    }
    for (i, route) in config.routes.iter().enumerate() {
        let path = Path::of(&["routes"]).index(i);
        rate(&route.rate, &path.key("rate"), findings);
        if let Some(class) = &route.class {
            known(class, config, path.key("class"), findings);
        }
    }
    for (name, cluster) in &config.clusters {
        let (path, admission) = (Path::of(&["clusters", name, "admission"]), &cluster.admission);
        if admission.concurrency == Concurrency::Limit(0) {
            let message = "no request may be under way, so every one would be refused";
            findings.error(path.key("concurrency"), message, "write `auto`, `off`, or a number above 0");
        }
        if admission.connections == OffOr::Set(0) {
            let message = "an endpoint without a connection cannot be reached";
            findings.error(path.key("connections"), message, "write `off`, or a number above 0");
        }
        if admission.wait > MAX_WAIT {
            let message = format!("a request would wait {} for a place", admission.wait);
            findings.error(path.key("wait"), message, format!("write at most `{MAX_WAIT}`"));
        }
    }
}

fn priority(config: &Config, findings: &mut Findings) {
    let (path, priority) = (Path::of(&["priority"]), &config.priority);
    let weights = [
        ("resources", priority.weights.resources),
        ("urgency", priority.weights.urgency),
        ("depth", priority.weights.depth),
    ];
    for (key, weight) in weights.into_iter().filter(|(_, weight)| !weight.is_finite()) {
        findings.error(
            path.key("weights").key(key),
            format!("{weight} is not a weight"),
            "write a number such as `0.5`",
        );
    }
    if weights.iter().all(|(_, weight)| *weight == 0.0) {
        let remedy = "give one of them a weight other than 0";
        findings.error(path.key("weights").name(), "all weights are 0, so nothing has a priority", remedy);
    }
    let classes = path.key("classes");
    if !(1..=MAX_CLASSES).contains(&priority.classes.len()) {
        let message = format!("{} classes cannot be told apart", priority.classes.len());
        findings.error(classes.name(), message, format!("write 1 to {MAX_CLASSES} classes"));
    }
    for name in priority.classes.keys() {
        findings.check(classes.key(name).name(), syntax::name(name));
    }
    known(&priority.default, config, path.key("default"), findings);
}

fn known(class: &str, config: &Config, path: Path, findings: &mut Findings) {
    let classes = &config.priority.classes;
    if classes.contains_key(class) {
        return;
    }
    let remedy = match nearest(class, classes.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add `{class}` to `priority.classes`, or write one of those there"),
    };
    findings.error(path, format!("there is no class `{class}`"), remedy);
}

fn rate(rate: &Option<RateLimit>, path: &Path, findings: &mut Findings) {
    let Some(rate) = rate else { return };
    if rate.requests.per_second() > MAX_RATE_PER_SECOND {
        let message = format!("{} is more than can be counted", rate.requests);
        findings.error(path.key("requests"), message, format!("write at most `{MAX_RATE_PER_SECOND}/s`, or no rate"));
    }
    if rate.burst == Some(0) {
        findings.error(path.key("burst"), "a burst of 0 lets nothing through", "write a number above 0");
    }
}
