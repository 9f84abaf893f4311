//! What `/metrics` says of the house above `observe`: generations, the tick and its guards, candidates, stores, the
//! configuration.
//!
//! Labels are bounded by the configuration and by discovery: workload, cluster, endpoint (candidates of the generation
//! in force only, so an endpoint that is gone takes its series along), and the fixed words of rungs, causes, guards
//! and states. What is unknown has no sample. `metrics.golden` holds every name, type, unit, help and label.

use super::admission;
use super::canary;
use super::discovery;
use super::gateway;
use super::state::AdminState;
use crate::balance::{Candidate, Cause, Fault, Generation, Health, Rung, Table};
use crate::links::Time;
use crate::observe::metrics::{self, Family, Kind, Labels, Measure, Registry, Server, Value};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const CAUSES: [Cause; 7] =
    [Cause::Start, Cause::Interval, Cause::Reload, Cause::Endpoints, Cause::Health, Cause::Latency, Cause::Errors];
const HEALTH: [Health; 5] = [Health::Healthy, Health::Ejected, Health::Probation, Health::Unhealthy, Health::Drained];

/// The registry of everything that this port shows.
pub fn registry(state: &Arc<AdminState>) -> Registry {
    let mut registry = Registry::default();
    let asked = state.clone();
    registry.register(move || {
        let generation = asked.published.load();
        let server_of = |name: &str| {
            let cluster = generation.clusters.iter().find(|cluster| &*cluster.name == name);
            // One that the generation in force does not have goes by its own name until it is forgotten.
            cluster.map_or_else(
                || Server { address: name.into(), port: 80, secure: false },
                |c| Server { address: c.service.clone(), port: c.port, secure: c.secure },
            )
        };
        metrics::traffic(&asked.traffic, |route| generation.routes.counts(route), server_of)
    });
    let asked = state.clone();
    registry.register(move || {
        let now = (asked.clock)();
        let generation = asked.published.load();
        let mut all = process(&asked);
        all.extend(generation_families(&generation, now));
        all.extend(candidate_families(&generation, now));
        all.extend(admission::families(&generation));
        all.extend(canary::families(&asked.control, &asked.traffic, &generation));
        all.extend(discovery::families(&(asked.discovery)()));
        all.extend(gateway::families((asked.gateway)().as_ref()));
        all.extend(tick_families(&asked));
        all.extend((asked.scorer)().metrics);
        all.extend((asked.gauges)());
        all
    });
    registry
}

pub(super) fn gauge(name: &'static str, measure: Measure, help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, measure, help)
}

pub(super) fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Counter, Measure::Number, help)
}

/// One sample for each word, by its label.
pub(super) fn by_word(
    family: Family,
    label: &'static str,
    samples: impl IntoIterator<Item = (&'static str, u64)>,
) -> Family {
    samples.into_iter().fold(family, |f, (word, count)| f.with(vec![(label, word.to_owned())], Value::Count(count)))
}

fn flag(is: bool) -> u64 {
    u64::from(is)
}

fn process(state: &AdminState) -> Vec<Family> {
    let config = state.config.load();
    let (links, nodes) = state.links.len();
    let since = |at: SystemTime| SystemTime::now().duration_since(at).ok().map(|d| d.as_secs_f64());
    let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs_f64());
    vec![
        Family::new("build", Kind::Info, Measure::Number, "This program's version.")
            .with(vec![("version", state.version.to_owned())], Value::Count(1)),
        gauge("uptime", Measure::Seconds, "Time since the process started.").number(since(state.started_at)),
        gauge("links", Measure::Number, "Links whose statistics are kept.").count(links as u64),
        gauge("nodes", Measure::Number, "Instances whose statistics are kept.").count(nodes as u64),
        by_word(
            counter("config_reloads", "Configurations read, the first included, by whether they took effect."),
            "result",
            [("ok", config.reloads_ok), ("failed", config.reloads_failed)],
        ),
        gauge(
            "config_last_reload_failed",
            Measure::Number,
            "1 while the last configuration read was refused and an older one is in force.",
        )
        .count(flag(config.last_error.is_some())),
        gauge(
            "config_loaded_timestamp",
            Measure::Seconds,
            "When the configuration in force took effect, since the Unix epoch.",
        )
        .number(config.loaded_at.and_then(unix)),
    ]
}

fn generation_families(generation: &Generation, now: Time) -> Vec<Family> {
    let published = generation.id > 0;
    let age = published.then(|| now.since(generation.made_at).as_secs_f64());
    let expired = published && generation.expired(now);
    let rungs = Rung::ALL.map(|r| (r.as_str(), flag(published && generation.rung == r)));
    vec![
        gauge("generation_id", Measure::Number, "The number of the generation in force; 0 before the first.")
            .count(generation.id),
        gauge("generation_age", Measure::Seconds, "Time since the generation in force was made.").number(age),
        gauge(
            "generation_expired",
            Measure::Number,
            "1 while the generation in force is too old for its weights to steer.",
        )
        .count(flag(expired)),
        by_word(
            gauge("generation_rung", Measure::Number, "1 at the step of the ladder that made the weights in force."),
            "rung",
            rungs,
        ),
    ]
}

fn tick_families(state: &AdminState) -> Vec<Family> {
    use std::sync::atomic::Ordering::Relaxed;
    let control = &state.control;
    let last_tick = control.ticks().iter().any(|n| *n > 0).then(|| control.last_tick_us() as f64 * 1e-6);
    vec![
        by_word(
            counter("generations", "Generations made, by the step of the ladder."),
            "rung",
            Rung::ALL.map(Rung::as_str).into_iter().zip(control.rungs()),
        ),
        by_word(
            counter("ticks", "Turns of the slow loop, by what made them happen."),
            "cause",
            CAUSES.map(cause).into_iter().zip(control.ticks()),
        ),
        gauge("last_tick_duration", Measure::Seconds, "How long the last turn of the slow loop took.")
            .number(last_tick),
        by_word(
            counter("guard_interventions", "Weights that a guard changed, by the guard."),
            "guard",
            control.guards.snapshot(),
        ),
        by_word(
            counter("ejections", "Times that an endpoint was left alone, by what was found."),
            "fault",
            Fault::KINDS.into_iter().zip(control.ejections()),
        ),
        gauge("model_error", Measure::Ratio, "Mean relative error of predicted against observed latency.")
            .number(control.model_error()),
        counter(
            "model_refused_ticks",
            "Ticks in which the model's error was over its limit, so that it did not steer.",
        )
        .count(control.model_refused.load(Relaxed)),
        counter("too_large_graphs", "Graphs that were too large to be scored.").count(control.too_large.load(Relaxed)),
    ]
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "start",
        Cause::Interval => "interval",
        Cause::Reload => "reload",
        Cause::Endpoints => "endpoints",
        Cause::Health => "health",
        Cause::Latency => "latency",
        Cause::Errors => "errors",
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Ejected => "ejected",
        Health::Probation => "probation",
        Health::Unhealthy => "unhealthy",
        Health::Drained => "drained",
    }
}

fn candidate_families(generation: &Generation, now: Time) -> Vec<Family> {
    let mut weight = gauge(
        "endpoint_weight",
        Measure::Ratio,
        "The share of a workload's requests that the generation in force gives an endpoint, before the moment's load is looked at.",
    );
    let mut intrinsic = gauge(
        "endpoint_predicted_intrinsic_latency",
        Measure::Seconds,
        "The latency that the model predicts for an endpoint at its fair share of load.",
    );
    let mut mean = gauge(
        "endpoint_predicted_mean_latency",
        Measure::Seconds,
        "The mean latency that the model predicts to be seen in the next window.",
    );
    let mut p99 = gauge(
        "endpoint_predicted_p99_latency",
        Measure::Seconds,
        "The 99th percentile of latency that the model predicts to be seen in the next window.",
    );
    let mut estimate = gauge(
        "endpoint_estimated_latency",
        Measure::Seconds,
        "This proxy's own estimate of an endpoint's latency, from what it saw.",
    );
    let mut in_flight =
        gauge("endpoint_in_flight", Measure::Number, "Requests under way from a workload to an endpoint.");
    let mut state = gauge("endpoint_health", Measure::Number, "1 at the state that an endpoint is in.");
    let mut panic = gauge(
        "panic",
        Measure::Number,
        "1 while so few of a cluster's endpoints are healthy that health does not count.",
    );
    let mut tries = counter(
        "retry_budget",
        "Tries of requests that may have reached an endpoint, by whether the cluster's budget allowed them.",
    );
    let mut hedged = gauge(
        "hedge_delay",
        Measure::Seconds,
        "After how long without an answer a second endpoint is asked as well, where that is on and known.",
    );
    for cluster in &generation.clusters {
        if let Some(after) = cluster.hedging.as_ref().and_then(|hedging| hedging.after) {
            let labels = vec![("cluster", cluster.name.to_string())];
            hedged.samples.push((labels, Value::Number(after.as_secs_f64())));
        }
        let (granted, refused) = cluster.retrying.budget.counts();
        for (word, count) in [("granted", granted), ("refused", refused)] {
            let labels = vec![("cluster", cluster.name.to_string()), ("result", word.to_owned())];
            tries.samples.push((labels, Value::Count(count)));
        }
        for (workload, table) in generation.routes.workloads().iter().zip(&cluster.tables) {
            let pair = || vec![("workload", workload.name.to_string()), ("cluster", cluster.name.to_string())];
            panic.samples.push((pair(), Value::Count(flag(table.panic))));
            for (i, c) in distinct(table) {
                let labels = || -> Labels {
                    let mut labels = pair();
                    labels.push(("endpoint", endpoint(c)));
                    labels
                };
                let share = if i < table.eligible().len() { c.weight } else { 0.0 };
                weight.samples.push((labels(), Value::Number(f64::from(share))));
                if let Some(predicted) = c.predicted {
                    push(&mut intrinsic, labels(), predicted.intrinsic_s);
                    push(&mut mean, labels(), predicted.mean_s);
                    push(&mut p99, labels(), predicted.p99_s);
                }
                if c.link.estimate.last(now).is_some() {
                    let (prior_s, tau_s) = table.decay_of(c);
                    push(&mut estimate, labels(), c.link.estimate.at(now, prior_s, tau_s));
                }
                in_flight.samples.push((labels(), Value::Count(c.link.in_flight())));
            }
        }
        // Health is the endpoint's, whoever calls: the first workload's table stands for all.
        for c in cluster.tables.first().into_iter().flat_map(|t| distinct(t)).map(|(_, c)| c) {
            for word in HEALTH {
                let labels = vec![
                    ("cluster", cluster.name.to_string()),
                    ("endpoint", endpoint(c)),
                    ("state", health(word).to_owned()),
                ];
                state.samples.push((labels, Value::Count(flag(word == c.health))));
            }
        }
    }
    vec![weight, intrinsic, mean, p99, estimate, in_flight, state, panic, tries, hedged]
}

/// The candidates with their positions, the first of each endpoint: one series twice would cost Prometheus the scrape.
fn distinct(table: &Table) -> impl Iterator<Item = (usize, &Candidate)> {
    let mut seen = HashSet::new();
    table.candidates().iter().enumerate().filter(move |(_, c)| seen.insert(&c.endpoint.key))
}

fn endpoint(c: &Candidate) -> String {
    c.endpoint.key.0.to_string()
}

fn push(family: &mut Family, labels: Labels, value: f32) {
    if value.is_finite() {
        family.samples.push((labels, Value::Number(f64::from(value))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::super::state::ScorerStatus;
    use super::*;
    use crate::observe::metrics::Format;
    use crate::observe::{DurationKind, Reason, Side};
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write;

    /// Names with their types, units, help texts and label names: what dashboards and alerts are written against.
    fn shape(text: &str) -> String {
        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            // An exemplar has labels of its own.
            let (line, _) = line.split_once(" # ").unwrap_or((line, ""));
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            let names = rest.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0));
            labels.entry(name).or_default().extend(names);
        }
        let mut out = String::new();
        for line in text.lines().filter(|l| l.starts_with('#') && *l != "# EOF") {
            let _ = writeln!(out, "{line}");
            if let Some(family) = line.strip_prefix("# TYPE ").and_then(|l| l.split(' ').next()) {
                for (name, labels) in labels.iter().filter(|(name, _)| {
                    ["", "_total", "_bucket", "_info"].iter().any(|end| name.strip_prefix(family) == Some(end))
                }) {
                    let _ = writeln!(out, "{name}{{{}}}", labels.iter().copied().collect::<Vec<_>>().join(","));
                }
            }
        }
        out
    }

    #[test]
    fn names_types_units_help_texts_and_labels_are_as_agreed() {
        let text = registry(&Arc::new(fixture::whole())).encode(Format::OpenMetrics);
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/metrics.golden");
        let shape = shape(&text);
        if std::env::var_os("PATHLOOM_BLESS").is_some() {
            std::fs::write(golden, &shape).unwrap();
        }
        let agreed = std::fs::read_to_string(golden).unwrap();
        assert!(shape == agreed, "run with PATHLOOM_BLESS=1 if this is meant:\n{shape}");
    }

    /// The families of the golden file, each with its label names by its samples' names.
    fn agreed() -> BTreeMap<&'static str, BTreeMap<&'static str, BTreeSet<&'static str>>> {
        let mut families = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
        let mut family = "";
        for line in include_str!("metrics.golden").lines() {
            match line.strip_prefix("# TYPE ") {
                Some(named) => {
                    family = named.split(' ').next().unwrap();
                    families.insert(family, BTreeMap::new());
                }
                None if line.starts_with('#') => {}
                None => {
                    let (name, labels) = line.strip_suffix('}').unwrap().split_once('{').unwrap();
                    let labels = labels.split(',').filter(|label| !label.is_empty()).collect();
                    families.get_mut(family).unwrap().insert(name, labels);
                }
            }
        }
        families
    }

    #[test]
    fn the_golden_file_has_a_sample_of_each_family_and_every_label_that_can_be_written() {
        let families = agreed();
        let bare: Vec<_> = families.iter().filter(|(_, samples)| samples.is_empty()).map(|(name, _)| name).collect();
        assert!(bare.is_empty(), "the fixture has nothing for {bare:?}");
        // Of the conventions' families samples have different labels; all of them must have been seen.
        let failed = Some(Reason::ResponseTimeout);
        let (request, call) =
            (DurationKind::new(&http::Method::GET, 503, failed), DurationKind::call(Some(14), failed));
        for (name, kind, side, further) in [
            ("http_server_request_duration_seconds", request, Side::Server, &["http_route"][..]),
            (
                "http_client_request_duration_seconds",
                request,
                Side::Client,
                &["server_address", "server_port", "url_scheme"],
            ),
            ("rpc_server_call_duration_seconds", call, Side::Server, &["http_route"]),
            ("rpc_client_call_duration_seconds", call, Side::Client, &["server_address", "server_port"]),
        ] {
            let written = kind.labels(side).into_iter().map(|(name, _)| name);
            let labels: BTreeSet<_> =
                written.chain(further.iter().copied()).chain(["workload", "cluster", "le"]).collect();
            assert_eq!(families[name].values().next().unwrap(), &labels, "{name}");
        }
        // Of all others each sample has the same ones.
        let text = registry(&Arc::new(fixture::whole())).encode(Format::OpenMetrics);
        let mut seen = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("pathloom_")) {
            let series = line.split_once(" # ").map_or(line, |(line, _)| line).rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels: Vec<_> = labels.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            assert_eq!(seen.entry(name).or_insert_with(|| labels.clone()), &labels, "{line}");
        }
    }

    #[test]
    fn no_name_is_there_twice_and_every_help_text_is_a_sentence_of_its_own() {
        let text = registry(&Arc::new(fixture::whole())).encode(Format::OpenMetrics);
        let (mut names, mut helps) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines().filter_map(|l| l.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap();
            let ours = name.starts_with("pathloom_");
            let of_conventions = [
                "http_server_request_duration_seconds",
                "http_client_request_duration_seconds",
                "rpc_server_call_duration_seconds",
                "rpc_client_call_duration_seconds",
            ]
            .contains(&name);
            assert!((ours || of_conventions) && help.ends_with('.'), "{line}");
            assert!(names.insert(name) && helps.insert(help), "{line}");
        }
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (line, _) = line.split_once(" # ").unwrap_or((line, ""));
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line}");
        }
    }

    #[test]
    fn values_are_those_of_the_generation_in_force() {
        let mut state = fixture::published();
        state.scorer = Box::new(|| ScorerStatus {
            metrics: vec![counter("scorer_runs", "What another room adds.").count(3)],
            ..ScorerStatus::default()
        });
        let text = registry(&Arc::new(state)).encode(Format::OpenMetrics);
        let of =
            |workload, endpoint| format!("{{workload=\"{workload}\",cluster=\"catalog\",endpoint=\"{endpoint}\"}}");
        for line in [
            "pathloom_generation_id 41\n".to_owned(),
            "pathloom_generation_age_seconds 0.5\n".to_owned(),
            "pathloom_generation_rung{rung=\"model\"} 1\n".to_owned(),
            "pathloom_generation_rung{rung=\"peak_ewma\"} 0\n".to_owned(),
            format!("pathloom_endpoint_weight_ratio{} 0.75\n", of("frontend", "10.0.0.1:80")),
            format!("pathloom_endpoint_weight_ratio{} 0.0\n", of("batch", "10.0.0.3:80")),
            format!("pathloom_endpoint_in_flight{} 1\n", of("frontend", "10.0.0.1:80")),
            "pathloom_endpoint_health{cluster=\"catalog\",endpoint=\"10.0.0.3:80\",state=\"ejected\"} 1\n".to_owned(),
            "pathloom_ticks_total{cause=\"interval\"} 0\n".to_owned(),
            "pathloom_scorer_runs_total 3\n".to_owned(),
            "pathloom_downstream_connections 2\n".to_owned(),
            "pathloom_build_info{version=\"0.0.0\"} 1\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        // The model's error and an estimate of what was never used are unknown: no sample, and no zero.
        assert!(!text.contains("\npathloom_model_error_ratio "));
        assert!(!text.contains(&format!("pathloom_endpoint_estimated_latency_seconds{}", of("batch", "10.0.0.1:80"))));
    }

    #[test]
    fn before_the_first_generation_it_still_answers() {
        let text = registry(&Arc::new(fixture::state())).encode(Format::OpenMetrics);
        assert!(
            text.contains("pathloom_generation_id 0\n")
                && text.contains("pathloom_generation_rung{rung=\"least_request\"} 0\n")
        );
        assert!(!text.contains("\npathloom_generation_age_seconds "));
    }
}
